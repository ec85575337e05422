//! Recovers again and again, for as long as an instance runs.

use std::sync::Arc;
use std::time::Duration;

use sluice_router::ShardMap;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::{RecoveryReport, recover_once};
use crate::shards::ShardPools;

/// When to recover what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecoveryOptions {
    pub interval: Duration,
    /// Younger prepared transactions are left to the instance that is committing them.
    pub grace: Duration,
}

impl Default for RecoveryOptions {
    fn default() -> Self {
        Self { interval: Duration::from_secs(5), grace: Duration::from_secs(10) }
    }
}

/// Recovers at once and then at each interval. Dropping it ends the task.
#[derive(Debug)]
pub struct RecoveryTask {
    reports: watch::Receiver<RecoveryReport>,
    _tasks: JoinSet<()>,
}

impl RecoveryTask {
    pub fn start(maps: watch::Receiver<Arc<ShardMap>>, pools: ShardPools, options: RecoveryOptions) -> Self {
        let (sender, reports) = watch::channel(RecoveryReport::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(run(maps, pools, options, sender));
        Self { reports, _tasks: tasks }
    }

    /// What the last round did, for SHOW and metrics. The receiver sees each round's report.
    pub fn reports(&self) -> watch::Receiver<RecoveryReport> {
        self.reports.clone()
    }
}

async fn run(
    maps: watch::Receiver<Arc<ShardMap>>,
    pools: ShardPools,
    options: RecoveryOptions,
    reports: watch::Sender<RecoveryReport>,
) {
    let mut ticks = tokio::time::interval(options.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let map = maps.borrow().clone();
        pools.keep_only(map.shards()).await;
        let report = recover_once(&map, &pools, options.grace).await;
        log(&report);
        reports.send_replace(report);
    }
}

fn log(report: &RecoveryReport) {
    if report.committed + report.rolled_back > 0 {
        tracing::warn!(report.committed, report.rolled_back, "finished prepared transactions that were left behind");
    }
    for (gid, reason) in &report.in_doubt {
        tracing::error!(gid, reason, "a prepared transaction is in doubt; its locks stay");
    }
    for (shard, reason) in &report.unreachable {
        tracing::warn!(%shard, reason, "recovery cannot reach a shard");
    }
}
