//! An atomic commit on several servers, without a coordinator's disk (last-agent commit).
//!
//! Of the servers that wrote, all but one are prepared. The last one, the *decision shard*, records the decision in its own
//! transaction and commits plainly: that commit **is** the decision. The others then COMMIT PREPARED. Whoever finds a
//! prepared transaction later (see `sluice_catalog::recovery`) asks the decision shard and gets the same answer.

use std::io;

use sluice_catalog::gid::{Gid, TransactionId};
use sluice_router::ShardId;
use sluice_wire::message::Report;

use crate::pool::Done;
use crate::pool::Lease;

/// A server in a transaction.
pub struct Participant {
    pub shard: ShardId,
    pub lease: Lease,
    pub wrote: bool,
}

/// How a commit ended, if not well.
#[derive(Debug)]
pub enum CommitError {
    /// Nothing is committed anywhere. The server's own ErrorResponse, or ours.
    RolledBack(Vec<u8>),
    /// The decision may or may not have been made; the connection to the decision shard broke while it was.
    Unknown(String),
}

/// Commits everywhere or nowhere.
pub async fn commit(participants: &mut [Participant]) -> Result<(), CommitError> {
    let writers = participants.iter().filter(|participant| participant.wrote).count();
    if writers <= 1 {
        return commit_one_phase(participants).await;
    }
    let (writing, reading) = split(participants);
    let (decision, others) = writing.split_first_mut().expect("there are at least two");
    let transaction = TransactionId::from_random(rand::random());
    prepare(&transaction, decision, others).await?;
    decide(&transaction, decision, others).await?;
    finish_prepared(&transaction, decision.shard, others, "COMMIT PREPARED").await;
    for reader in reading {
        // It only read: how its transaction ends changes nothing.
        let _ = reader.lease.run("COMMIT").await;
    }
    Ok(())
}

/// Rolls back everywhere; a server that can't be reached rolls back by itself.
pub async fn rollback(participants: &mut [Participant]) {
    for participant in participants.iter_mut() {
        let _ = participant.lease.start("ROLLBACK");
    }
    for participant in participants {
        let _ = participant.lease.finish(false).await;
    }
}

/// Writers first, in shard order; then readers.
fn split(participants: &mut [Participant]) -> (&mut [Participant], &mut [Participant]) {
    participants.sort_by_key(|participant| (!participant.wrote, participant.shard));
    let writers = participants.iter().filter(|participant| participant.wrote).count();
    participants.split_at_mut(writers)
}

async fn commit_one_phase(participants: &mut [Participant]) -> Result<(), CommitError> {
    let (writing, reading) = split(participants);
    for writer in writing {
        match writer.lease.run("COMMIT").await {
            Ok(done) if done.error.is_none() && done.tag == "COMMIT" => {}
            Ok(done) => {
                rollback(reading).await;
                return Err(CommitError::RolledBack(error_of(done, "COMMIT")));
            }
            Err(error) => return Err(CommitError::Unknown(format!("shard {}: {error}", writer.shard))),
        }
    }
    for reader in reading {
        let _ = reader.lease.run("COMMIT").await;
    }
    Ok(())
}

fn gid(transaction: &TransactionId, decision: ShardId, own: ShardId) -> String {
    Gid::new(transaction.clone(), decision, own).to_string()
}

async fn prepare(
    transaction: &TransactionId,
    decision: &mut Participant,
    others: &mut [Participant],
) -> Result<(), CommitError> {
    for other in others.iter_mut() {
        let gid = gid(transaction, decision.shard, other.shard);
        let _ = other.lease.start(&format!("PREPARE TRANSACTION '{gid}'"));
    }
    let mut failure = None;
    for other in others.iter_mut() {
        let result = other.lease.finish(false).await;
        if let Err(error) = prepared(other.shard, result) {
            failure.get_or_insert(error);
        }
    }
    let Some(failure) = failure else { return Ok(()) };
    finish_prepared(transaction, decision.shard, others, "ROLLBACK PREPARED").await;
    rollback(std::slice::from_mut(decision)).await;
    Err(CommitError::RolledBack(failure))
}

fn prepared(shard: ShardId, result: io::Result<Done>) -> Result<(), Vec<u8>> {
    match result {
        Ok(done) if done.error.is_none() && done.tag == "PREPARE TRANSACTION" => Ok(()),
        Ok(done) => Err(error_of(done, "PREPARE TRANSACTION")),
        Err(error) => Err(encoded(
            &Report::error(
                "08006",
                format!("connection to shard {shard} was lost while it prepared to commit: {error}"),
            )
            .hint("nothing was committed; run the transaction again"),
        )),
    }
}

/// The point of no return is the COMMIT in here.
async fn decide(
    transaction: &TransactionId,
    decision: &mut Participant,
    others: &mut [Participant],
) -> Result<(), CommitError> {
    let shard = decision.shard;
    let record = format!("SELECT sluice.decide('{}', {shard})", transaction.as_str());
    let recorded = match decision.lease.run(&record).await {
        Ok(done) if done.error.is_none() => Ok(()),
        Ok(done) => Err(error_of(done, "SELECT")),
        Err(error) => Err(encoded(&Report::error("08006", format!("connection to shard {shard} was lost: {error}")))),
    };
    if let Err(error) = recorded {
        rollback(std::slice::from_mut(decision)).await;
        finish_prepared(transaction, shard, others, "ROLLBACK PREPARED").await;
        return Err(CommitError::RolledBack(error));
    }
    match decision.lease.run("COMMIT").await {
        Ok(done) if done.tag == "COMMIT" => Ok(()),
        Ok(done) => {
            finish_prepared(transaction, shard, others, "ROLLBACK PREPARED").await;
            Err(CommitError::RolledBack(error_of(done, "COMMIT")))
        }
        // The prepared ones stay: recovery asks the decision shard.
        Err(error) => Err(CommitError::Unknown(format!("shard {shard}: {error}"))),
    }
}

/// Ends what was prepared. One that can't be reached is left to recovery, which comes to the same decision.
async fn finish_prepared(transaction: &TransactionId, decision: ShardId, others: &mut [Participant], verb: &str) {
    for other in others.iter_mut() {
        let gid = gid(transaction, decision, other.shard);
        if other.lease.status == sluice_wire::message::Status::Idle {
            let _ = other.lease.start(&format!("{verb} '{gid}'"));
        } else {
            let _ = other.lease.start("ROLLBACK");
        }
    }
    for other in others {
        match other.lease.finish(false).await {
            Ok(done) if done.error.is_none() => {}
            // 42704: it was never prepared, or recovery was faster.
            Ok(done) if done.sqlstate().as_deref() == Some("42704") => {}
            Ok(done) => {
                tracing::warn!("{verb} on shard {} is left to recovery: {:?}", other.shard, done.error_field(b'M'))
            }
            Err(error) => tracing::warn!("{verb} on shard {} is left to recovery: {error}", other.shard),
        }
    }
}

fn error_of(done: Done, command: &str) -> Vec<u8> {
    done.error.unwrap_or_else(|| {
        encoded(&Report::error("25P02", format!("{command} ended as {}: the transaction had failed", done.tag)))
    })
}

fn encoded(report: &Report) -> Vec<u8> {
    let mut out = Vec::new();
    report.encode(&mut out);
    out
}
