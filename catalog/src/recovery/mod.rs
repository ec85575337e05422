//! What becomes of prepared transactions that nobody finished: their instance died, or lost a shard, half way through.
//!
//! The last of the shards that wrote doesn't prepare: it writes a row into its `sluice.decisions` and commits, and that
//! commit *is* the decision (see [`crate::gid`] for the order that the committing instance keeps to). So anybody can finish
//! a prepared transaction by asking its decision shard:
//! - the row says commit: COMMIT PREPARED;
//! - there is no row: write one that says abort, under the same key, so that a decision that comes late fails on it; then
//!   ROLLBACK PREPARED.
//!
//! Any number of instances may recover at once: the key of the row lets one outcome win, and a prepared transaction that
//! somebody else has finished meanwhile is just finished. `cleaning` tells when a decision can be forgotten.

mod cleaning;
mod settling;
mod task;

use std::time::Duration;

use sluice_router::{ShardId, ShardMap};

pub use self::task::{RecoveryOptions, RecoveryTask};
use crate::error::CatalogError;
use crate::shards::ShardPools;

/// What one round of recovery found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Prepared transactions that this round committed.
    pub committed: u64,
    /// Prepared transactions that this round rolled back.
    pub rolled_back: u64,
    /// Decisions that are no longer needed, and were removed.
    pub forgotten: u64,
    /// Prepared transactions that could not be finished yet, with the reason. Their locks stay.
    pub in_doubt: Vec<(String, String)>,
    /// Shards that could not be asked, with the reason.
    pub unreachable: Vec<(ShardId, String)>,
}

/// Finishes all prepared transactions of Sluice on the shards of `map` that are older than `grace`: those are not being
/// worked on any more. A problem with one of them, or with one shard, doesn't keep the others from being finished.
pub async fn recover_once(map: &ShardMap, pools: &ShardPools, grace: Duration) -> RecoveryReport {
    let mut report = RecoveryReport::default();
    // In this order: see `cleaning`.
    let decisions = reached(cleaning::decisions(map, pools).await, &mut report);
    let prepared = reached(settling::prepared(map, pools, grace).await, &mut report);
    let prepared: Vec<settling::Prepared> =
        prepared.into_iter().flat_map(|(shard, rows)| rows.into_iter().map(move |row| row.on(shard))).collect();
    if report.unreachable.is_empty() {
        cleaning::forget(map, pools, &decisions, &prepared, &mut report).await;
    }
    settling::settle(map, pools, prepared, &mut report).await;
    report
}

/// Splits answers from errors; a shard is reported once.
fn reached<T>(answers: Vec<(ShardId, Result<T, CatalogError>)>, report: &mut RecoveryReport) -> Vec<(ShardId, T)> {
    let mut good = Vec::with_capacity(answers.len());
    for (shard, answer) in answers {
        match answer {
            Ok(answer) => good.push((shard, answer)),
            Err(error) => report.unreached(shard, &error),
        }
    }
    good
}

impl RecoveryReport {
    fn unreached(&mut self, shard: ShardId, error: &CatalogError) {
        if !self.unreachable.iter().any(|(known, _)| *known == shard) {
            self.unreachable.push((shard, error.to_string()));
        }
    }
}
