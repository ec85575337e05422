//! Finds prepared transactions, asks for their outcome, and finishes them.

use std::collections::BTreeMap;
use std::time::Duration;

use sluice_router::{ShardId, ShardMap};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;

use super::RecoveryReport;
use crate::error::CatalogError;
use crate::gid::{Gid, TransactionId};
use crate::pool::PooledClient;
use crate::shards::{ShardPools, on_every_shard};

/// A prepared transaction as it was found.
#[derive(Debug, Clone)]
pub(super) struct Prepared {
    pub shard: ShardId,
    pub gid: Gid,
    /// Older than the grace.
    pub overdue: bool,
}

/// A row of pg_prepared_xacts whose gid begins like ours.
#[derive(Debug, Clone)]
pub(super) struct PreparedRow {
    gid: Gid,
    overdue: bool,
}

impl PreparedRow {
    pub fn on(self, shard: ShardId) -> Prepared {
        Prepared { shard, gid: self.gid, overdue: self.overdue }
    }
}

/// Every shard's prepared transactions that are ours. Gids of another form are somebody else's, whatever they begin with.
pub(super) async fn prepared(
    map: &ShardMap,
    pools: &ShardPools,
    grace: Duration,
) -> Vec<(ShardId, Result<Vec<PreparedRow>, CatalogError>)> {
    on_every_shard(map, pools, "reading prepared transactions", move |client: PooledClient| async move {
        let sql =
            "SELECT gid, clock_timestamp() - prepared > $1 * interval '1 second' FROM pg_catalog.pg_prepared_xacts
            WHERE database = current_database() AND starts_with(gid, 'sluice:') ORDER BY prepared";
        let rows = client
            .query(sql, &[&grace.as_secs_f64()])
            .await
            .map_err(CatalogError::query("read prepared transactions"))?;
        let ours = rows.iter().filter_map(|row| {
            let gid = row.get::<_, &str>(0).parse().ok()?;
            Some(PreparedRow { gid, overdue: row.get(1) })
        });
        Ok(ours.collect())
    })
    .await
}

/// Finishes what is overdue, one distributed transaction after the other.
pub(super) async fn settle(map: &ShardMap, pools: &ShardPools, prepared: Vec<Prepared>, report: &mut RecoveryReport) {
    let mut transactions: BTreeMap<(TransactionId, u16), Vec<Prepared>> = BTreeMap::new();
    for part in prepared.into_iter().filter(|part| part.overdue) {
        transactions.entry((part.gid.transaction().clone(), part.gid.decision_shard())).or_default().push(part);
    }
    for ((transaction, decision_shard), parts) in transactions {
        match outcome(map, pools, &transaction, decision_shard, report).await {
            Ok(Some(outcome)) => finish_all(map, pools, outcome, parts, report).await,
            Ok(None) => {}
            Err(reason) => report.in_doubt.extend(parts.iter().map(|part| (part.gid.to_string(), reason.clone()))),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Commit,
    Abort,
}

/// Asks the decision shard, and makes it decide if it hasn't. None: somebody else has finished all parts, and forgotten the
/// decision just now. The error is a reason to try again later.
async fn outcome(
    map: &ShardMap,
    pools: &ShardPools,
    transaction: &TransactionId,
    decision_shard: u16,
    report: &RecoveryReport,
) -> Result<Option<Outcome>, String> {
    let shard = map
        .shard_ids()
        .nth(usize::from(decision_shard))
        .ok_or_else(|| format!("its decision shard {decision_shard} is not in the shard map"))?;
    if report.unreachable.iter().any(|(down, _)| *down == shard) {
        return Err(format!("its decision shard {shard} cannot be reached"));
    }
    let ask = async { decide(&pools.get(map.placement(shard)).await?, transaction, decision_shard).await };
    pools.deadlines().bound("asking for a decision", ask).await.map_err(|error| error.to_string())
}

async fn decide(
    client: &PooledClient,
    transaction: &TransactionId,
    decision_shard: u16,
) -> Result<Option<Outcome>, CatalogError> {
    // If the deciding transaction is just committing, this waits for it.
    let abort = "INSERT INTO sluice.decisions (transaction_id, decision_shard, outcome) VALUES ($1, $2, 'abort')
        ON CONFLICT (transaction_id, decision_shard) DO NOTHING";
    let key = (transaction.as_str(), i32::from(decision_shard));
    let inserted =
        client.execute(abort, &[&key.0, &key.1]).await.map_err(CatalogError::query("decide a transaction"))?;
    if inserted == 1 {
        return Ok(Some(Outcome::Abort));
    }
    let read = "SELECT outcome FROM sluice.decisions WHERE transaction_id = $1 AND decision_shard = $2";
    let row = client.query_opt(read, &[&key.0, &key.1]).await.map_err(CatalogError::query("read a decision"))?;
    let outcome = |row: Row| if row.get::<_, &str>(0) == "commit" { Outcome::Commit } else { Outcome::Abort };
    Ok(row.map(outcome))
}

async fn finish_all(
    map: &ShardMap,
    pools: &ShardPools,
    outcome: Outcome,
    parts: Vec<Prepared>,
    report: &mut RecoveryReport,
) {
    for part in parts {
        let work = async { finish(&pools.get(map.placement(part.shard)).await?, outcome, &part.gid).await };
        match pools.deadlines().bound("finishing a prepared transaction", work).await {
            Ok(true) if outcome == Outcome::Commit => report.committed += 1,
            Ok(true) => report.rolled_back += 1,
            Ok(false) => {}
            Err(error) => report.in_doubt.push((part.gid.to_string(), error.to_string())),
        }
    }
}

/// Returns whether this call finished it: false if somebody else has, or is just about to.
async fn finish(client: &PooledClient, outcome: Outcome, gid: &Gid) -> Result<bool, CatalogError> {
    let command = match outcome {
        Outcome::Commit => "COMMIT",
        Outcome::Abort => "ROLLBACK",
    };
    // A gid holds no quote: see TransactionId.
    match client.batch_execute(&format!("{command} PREPARED '{gid}'")).await {
        Ok(()) => Ok(true),
        Err(error) if is_elsewhere(error.code()) => Ok(false),
        Err(error) => Err(CatalogError::query("finish a prepared transaction")(error)),
    }
}

/// It no longer exists (42704), or another session holds it at this moment (55000).
fn is_elsewhere(code: Option<&SqlState>) -> bool {
    matches!(code, Some(&SqlState::UNDEFINED_OBJECT | &SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE))
}
