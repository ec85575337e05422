//! Tells which decisions are no longer needed, and removes them.
//!
//! A decision to **commit** is made after the last part was prepared. So if a decision was seen first, and then no shard
//! holds a part of its transaction, all parts are committed: the row can go. The order of the two looks matters, and all
//! shards have to be looked at.
//!
//! A decision to **abort** also guards against the instance that we took for dead: it may wake up and decide to commit. The
//! transaction in which it would do so began before the parts were prepared, so before the row was written. The row can go
//! when every transaction on the decision shard is younger than it.
//!
//! A recoverer that had seen a part before another one finished it may write an abort after the commit was forgotten. That
//! row decides nothing, because no part is left, and goes like any other.

use std::collections::HashSet;

use sluice_router::{ShardId, ShardMap};

use super::RecoveryReport;
use super::settling::Prepared;
use crate::error::CatalogError;
use crate::pool::PooledClient;
use crate::shards::{ShardPools, on_every_shard};

/// Decisions that one round looks at, on each shard. What is left over is for the next rounds.
const LIMIT: i64 = 10_000;

/// The key of a decision: transaction id and decision shard.
pub(super) type DecisionKey = (String, i32);

/// Every shard's decisions, the oldest first.
pub(super) async fn decisions(
    map: &ShardMap,
    pools: &ShardPools,
) -> Vec<(ShardId, Result<Vec<DecisionKey>, CatalogError>)> {
    on_every_shard(map, pools, "reading decisions", async |client: PooledClient| {
        let sql = "SELECT transaction_id, decision_shard FROM sluice.decisions ORDER BY decided_at LIMIT $1";
        let rows = client.query(sql, &[&LIMIT]).await.map_err(CatalogError::query("read decisions"))?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    })
    .await
}

/// Removes those of `decisions` that nobody needs. `prepared` was read after them, from all shards.
pub(super) async fn forget(
    map: &ShardMap,
    pools: &ShardPools,
    decisions: &[(ShardId, Vec<DecisionKey>)],
    prepared: &[Prepared],
    report: &mut RecoveryReport,
) {
    let needed: HashSet<(&str, i32)> =
        prepared.iter().map(|part| (part.gid.transaction().as_str(), i32::from(part.gid.decision_shard()))).collect();
    for (shard, keys) in decisions {
        let (ids, shards): (Vec<&str>, Vec<i32>) = keys
            .iter()
            .map(|(id, decision_shard)| (id.as_str(), *decision_shard))
            .filter(|key| !needed.contains(key))
            .unzip();
        if ids.is_empty() {
            continue;
        }
        let work = async { delete(&pools.get(map.placement(*shard)).await?, &ids, &shards).await };
        match pools.deadlines().bound("forgetting decisions", work).await {
            Ok(count) => report.forgotten += count,
            Err(error) => report.unreached(*shard, &error),
        }
    }
}

async fn delete(client: &PooledClient, ids: &[&str], shards: &[i32]) -> Result<u64, CatalogError> {
    // A session whose state we may not see, or that doesn't track it, may be in a transaction of any age.
    let sql = "WITH sessions AS MATERIALIZED (
            SELECT bool_or(state IS NULL OR state = 'disabled') AS unknown, min(xact_start) AS oldest
            FROM pg_catalog.pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid())
        DELETE FROM sluice.decisions USING sessions, unnest($1::text[], $2::integer[]) AS done (id, shard)
        WHERE transaction_id = id AND decision_shard = shard
          AND (outcome = 'commit'
            OR unknown IS NOT TRUE AND coalesce(oldest > decided_at, true))";
    client.execute(sql, &[&ids, &shards]).await.map_err(CatalogError::query("forget decisions"))
}
