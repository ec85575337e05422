//! After the answer, and at the end: consequences, statistics, the server back to its pool; what becomes of servers when
//! something breaks.

use quanta::Instant;
use sluice_wire::message::{Report, Status};

use super::transaction::TransactionLog;
use super::{End, Link, Session, Transaction};
use crate::config::PoolMode;
use crate::executor::relay::RelayError;
use crate::executor::two_phase::Participant;
use crate::pool::{Lease, Pools};
use crate::registry::{ClientState, Eviction};
use crate::upstream::shard_of;

impl Session {
    /// The request is answered: consequences, statistics, and the server goes back if it may.
    pub(super) fn answered(&mut self) -> After {
        let status = self.server().map_or(Status::Idle, |server| server.status);
        self.count(status);
        self.end_edits();
        if let Some(server) = self.server_mut() {
            server.replay.disarm();
        }
        let mut after = After::Done;
        if let Some(pending) = self.pending.take() {
            after = self.conclude(*pending, status);
        }
        self.flow.outcome = None;
        self.client.request_ended(self.client.clock(), status != Status::Idle);
        if self.upstream.mode == PoolMode::Session {
            if status == Status::Idle
                && let Link::One(lease) = &mut self.link
            {
                lease.publish_counters();
            }
            return After::Done;
        }
        if matches!(after, After::Done) { self.settle(status) } else { after }
    }

    /// Gives the server back, or keeps it for the transaction.
    pub(super) fn settle(&mut self, status: Status) -> After {
        match std::mem::replace(&mut self.link, Link::None) {
            Link::One(lease) if status == Status::Idle && !self.pinned => self.release(lease),
            Link::One(mut lease) if status == Status::Idle => {
                lease.passes = None;
                self.client.link(0);
                self.client.set_state(ClientState::Idle);
                lease.publish_counters();
                self.link = Link::One(lease);
            }
            // However it began, by a statement that we know or inside a function.
            block if status != Status::Idle && self.upstream.mode == PoolMode::Statement => {
                self.link = block;
                let report = Report::fatal("08P01", "transaction blocks not allowed in statement pooling mode");
                self.close_servers(&report.message);
                self.say_last(&report);
                return After::End(End::Us(report.message));
            }
            Link::One(lease) => self.adopt(lease, "BEGIN"),
            Link::Transaction(transaction) if status == Status::Idle && transaction.participants.len() == 1 => {
                self.end_single(*transaction);
                if self.pinned {
                    // ON COMMIT DROP, or a rollback, may have taken away what kept it.
                    return After::Unpin;
                }
            }
            other => self.link = other,
        }
        After::Done
    }

    /// A transaction that began inside a request, by a statement that we know or not: its server is kept. No other one can
    /// join, because what stood before BEGIN can't be repeated.
    pub(super) fn adopt(&mut self, lease: Lease, begin: &str) {
        let shard = self.upstream.with_map(|map| shard_of(lease.pool(), map));
        let mut transaction = Transaction::new(TransactionLog::new(begin, self.vars.clone()));
        transaction.opaque = true;
        transaction.participants.push(Participant { shard, lease, wrote: true });
        self.link = Link::Transaction(Box::new(transaction));
    }

    /// The only participant's transaction is over.
    pub(super) fn end_single(&mut self, mut transaction: Transaction) {
        let Some(mut participant) = transaction.participants.pop() else { return };
        if self.pinned {
            participant.lease.passes = None;
            participant.lease.publish_counters();
            self.client.link(0);
            self.client.set_state(ClientState::Idle);
            self.link = Link::One(participant.lease);
        } else {
            self.release(participant.lease);
        }
    }

    pub(super) fn release(&mut self, mut lease: Lease) {
        self.client.link(0);
        self.client.set_state(ClientState::Idle);
        lease.last_client = self.client.id;
        lease.checkin();
    }

    pub(super) fn count(&mut self, status: Status) {
        if !std::mem::take(&mut self.is_timed) {
            return;
        }
        let (began, transaction_began) = (self.request_at, self.transaction_at);
        let micros = |at: Instant| at.elapsed().as_micros() as u64;
        let request = micros(began);
        let ended = status == Status::Idle;
        let in_transaction = self.is_transaction_timed;
        self.is_transaction_timed = in_transaction && !ended;
        let Some(server) = self.server_mut() else { return };
        server.counters.query_time += request;
        if ended {
            server.counters.xact_count += 1;
            // A transaction of one statement took as long as that.
            let longer = in_transaction && transaction_began != began;
            server.counters.xact_time += if longer { micros(transaction_began) } else { request };
        }
    }

    /// A transaction was ended by a request of ours: on several servers, or on none.
    pub(super) fn count_transaction(&mut self) {
        if !std::mem::take(&mut self.is_transaction_timed) {
            return;
        }
        let began = self.transaction_at;
        let Some(server) = self.server_mut() else { return };
        server.counters.xact_count += 1;
        server.counters.xact_time += began.elapsed().as_micros() as u64;
    }

    /// A request is on its way; the transaction that it belongs to may have begun before.
    #[inline]
    pub(super) fn begin_timing(&mut self, now: Instant) {
        self.request_at = now;
        self.is_timed = true;
        if !self.is_transaction_timed {
            self.transaction_at = now;
            self.is_transaction_timed = true;
        }
    }

    pub(super) async fn relay_failed(&mut self, error: RelayError) -> End {
        let RelayError::Client(error) = error else { return self.server_lost(&error) };
        if let Some(server) = self.server() {
            let entry = server.entry.clone();
            if server.pending > 0 {
                // What nobody waits for any more shouldn't go on. The lease is closed behind it.
                Pools::cancel(&entry).await;
            }
        }
        self.close_servers("client disconnect before everything was sent to the server");
        End::Client(format!("client unexpected eof: {error}"))
    }

    pub(super) fn server_lost(&mut self, error: &RelayError) -> End {
        let name = self.server().map_or(String::new(), |server| server.log_prefix());
        tracing::warn!("{name} the connection broke: {error}");
        let report = Report::fatal("08006", "server conn crashed?")
            .detail(format!("{error} ({name})"))
            .hint("reconnect; if a write was running, check whether it took effect before you run it again");
        self.say_last(&report);
        self.close_servers("server conn crashed?");
        End::Us("server conn crashed?".to_owned())
    }

    /// Whether a client that is between two requests goes now. One that is only asked to (because another process takes over)
    /// finishes its transaction, and so does one that has just sent something: nothing of it would run.
    #[cold]
    pub(super) fn goes_now(&self, eviction: Eviction) -> bool {
        let rests = || self.status() == Status::Idle && self.input.is_empty() && self.flow.unsent.is_empty();
        !eviction.waits() || (rests() && !self.io.has_unread())
    }

    pub(super) async fn evicted(&mut self, eviction: Eviction) -> End {
        let report = eviction_report(eviction);
        if let Some(server) = self.server()
            && server.pending > 0
        {
            let entry = server.entry.clone();
            Pools::cancel(&entry).await;
        }
        self.close_servers(&report.message);
        self.say_last(&report);
        End::Us(report.message)
    }

    pub(super) fn close_servers(&mut self, reason: &str) {
        self.client.link(0);
        match std::mem::replace(&mut self.link, Link::None) {
            Link::None => {}
            Link::One(lease) => lease.close(reason),
            Link::Transaction(transaction) => {
                for participant in transaction.participants {
                    participant.lease.close(reason);
                }
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.upstream.count_client(false);
        self.leave_mailbox();
        self.client.link(0);
        let Link::One(lease) = std::mem::replace(&mut self.link, Link::None) else { return };
        if self.upstream.mode == PoolMode::Session && lease.is_settled() && !self.pinned {
            lease.reset();
        } else {
            drop(lease);
        }
    }
}

impl Transaction {
    pub(super) fn new(log: TransactionLog) -> Self {
        Self { log, participants: Vec::new(), active: 0, failed: false, opaque: false, cursors: Vec::new() }
    }
}

/// What follows an answered request.
pub(super) enum After {
    Done,
    /// Ask the server whether what pinned it is gone.
    Unpin,
    /// A RESET in a transaction took what the client came with: these statements bring it back.
    Restore(String),
    End(End),
}

pub(super) fn eviction_report(eviction: Eviction) -> Report {
    let (text, sqlstate) = eviction.report();
    Report::fatal(sqlstate, text)
}
