//! Two-phase commits that were interrupted at each point, and their recovery.

use std::time::{Duration, Instant};

use sluice_catalog::gid::{Gid, TransactionId};
use sluice_catalog::probe_two_phase;
use sluice_catalog::recovery::{RecoveryOptions, RecoveryReport, RecoveryTask, recover_once};
use sluice_router::{ShardId, ShardMap};
use sluice_test_harness::Cluster;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::setup::Fleet;

const NO_GRACE: Duration = Duration::ZERO;

/// A committing instance under the test's control: one open transaction on each of three shards; shard 0 decides.
struct Writer {
    id: TransactionId,
    shards: Vec<ShardId>,
    clients: Vec<Client>,
}

impl Writer {
    /// Each shard gets a row in table t, not committed.
    async fn begin(fleet: &Fleet, map: &ShardMap, id: u128) -> Self {
        let shards: Vec<ShardId> = map.shard_ids().collect();
        let mut clients = Vec::new();
        for &shard in &shards {
            let client = fleet.connect(&map.placement(shard).dbname).await;
            client.batch_execute("CREATE TABLE IF NOT EXISTS t (a int)").await.expect("create t");
            client.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.expect("write");
            clients.push(client);
        }
        Self { id: TransactionId::from_random(id), shards, clients }
    }

    fn gid(&self, shard: usize) -> Gid {
        Gid::new(self.id.clone(), self.shards[0], self.shards[shard])
    }

    /// Prepares all shards but the deciding one.
    async fn prepare(&self) {
        for shard in 1..self.clients.len() {
            let sql = format!("PREPARE TRANSACTION '{}'", self.gid(shard));
            self.clients[shard].batch_execute(&sql).await.expect("prepare");
        }
    }

    async fn decide(&self) -> Result<(), tokio_postgres::Error> {
        self.clients[0].execute("SELECT sluice.decide($1, 0)", &[&self.id.as_str()]).await?;
        self.clients[0].batch_execute("COMMIT").await
    }
}

/// On each shard: rows in t, prepared transactions, decisions.
fn state(fleet: &Fleet, shards: usize) -> Vec<String> {
    let sql =
        "SELECT (SELECT count(*) FROM t), (SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()),
        (SELECT string_agg(outcome, ',') FROM sluice.decisions)";
    (0..shards).map(|shard| fleet.cluster.psql(&format!("epfo_{shard:02}"), sql)).collect()
}

fn counts(report: &RecoveryReport) -> (u64, u64, u64) {
    assert!(report.in_doubt.is_empty() && report.unreachable.is_empty(), "{report:?}");
    (report.committed, report.rolled_back, report.forgotten)
}

#[tokio::test]
async fn a_decision_that_was_made_is_carried_out() {
    let fleet = Fleet::with_shards(3).await;
    let map = fleet.map().await;
    let writer = Writer::begin(&fleet, &map, 1).await;
    writer.prepare().await;
    writer.decide().await.unwrap();
    assert_eq!(state(&fleet, 3), ["1|0|commit", "0|1|", "0|1|"]);
    // A crash of the whole fleet in between changes nothing.
    fleet.cluster.stop_immediate();
    fleet.cluster.restart();

    let pools = fleet.pools();
    assert_eq!(counts(&recover_once(&map, &pools, NO_GRACE).await), (2, 0, 0));
    assert_eq!(state(&fleet, 3), ["1|0|commit", "1|0|", "1|0|"]);
    assert_eq!(counts(&recover_once(&map, &pools, NO_GRACE).await), (0, 0, 1));
    assert_eq!(state(&fleet, 3), ["1|0|", "1|0|", "1|0|"]);
}

#[tokio::test]
async fn without_a_decision_all_is_rolled_back_and_a_late_decision_fails() {
    let fleet = Fleet::with_shards(3).await;
    let map = fleet.map().await;
    let pools = fleet.pools();
    let writer = Writer::begin(&fleet, &map, 2).await;
    writer.prepare().await;

    assert_eq!(counts(&recover_once(&map, &pools, NO_GRACE).await), (0, 2, 0));
    // The guard stays for as long as the transaction that might decide: its parts are gone, but it isn't.
    assert_eq!(counts(&recover_once(&map, &pools, NO_GRACE).await), (0, 0, 0));
    assert_eq!(state(&fleet, 3), ["0|0|abort", "0|0|", "0|0|"]);

    let late = writer.decide().await.unwrap_err();
    assert_eq!(late.code(), Some(&SqlState::UNIQUE_VIOLATION));
    writer.clients[0].batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(counts(&recover_once(&map, &pools, NO_GRACE).await), (0, 0, 1));
    assert_eq!(state(&fleet, 3), ["0|0|", "0|0|", "0|0|"]);
}

#[tokio::test]
async fn what_is_younger_than_the_grace_is_left_alone() {
    let fleet = Fleet::with_shards(3).await;
    let map = fleet.map().await;
    let writer = Writer::begin(&fleet, &map, 3).await;
    writer.prepare().await;
    let report = recover_once(&map, &fleet.pools(), Duration::from_secs(60)).await;
    assert_eq!(counts(&report), (0, 0, 0));
    writer.decide().await.expect("the decision is still free");
    // Young parts keep their decision, too.
    assert_eq!(counts(&recover_once(&map, &fleet.pools(), Duration::from_secs(60)).await), (0, 0, 0));
    assert_eq!(state(&fleet, 3), ["1|0|commit", "0|1|", "0|1|"]);
}

#[tokio::test]
async fn recovery_waits_for_a_decision_that_is_being_committed() {
    let fleet = Fleet::with_shards(3).await;
    let map = fleet.map().await;
    let writer = Writer::begin(&fleet, &map, 4).await;
    writer.prepare().await;
    writer.clients[0].execute("SELECT sluice.decide($1, 0)", &[&writer.id.as_str()]).await.unwrap();
    let (pools, watched) = (fleet.pools(), fleet.connect("epfo_00").await);
    let recovery = tokio::spawn(async move { recover_once(&map, &pools, NO_GRACE).await });
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'transactionid' AND query LIKE 'INSERT INTO sluice.decisions%'";
    while watched.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        assert!(!recovery.is_finished(), "recovery did not wait");
        tokio::task::yield_now().await;
    }
    writer.clients[0].batch_execute("COMMIT").await.unwrap();
    assert_eq!(counts(&recovery.await.unwrap()), (2, 0, 0));
    assert_eq!(state(&fleet, 3), ["1|0|commit", "1|0|", "1|0|"]);
}

#[tokio::test]
async fn recoverers_at_once_agree_and_finish_each_part_once() {
    let fleet = Fleet::with_shards(3).await;
    let map = fleet.map().await;
    let mut open = Vec::new();
    for id in 0..12 {
        let writer = Writer::begin(&fleet, &map, 100 + id).await;
        writer.prepare().await;
        if id % 2 == 0 {
            writer.decide().await.unwrap();
        }
        open.push(writer);
    }
    let mut recoverers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (map, pools) = (map.clone(), fleet.pools());
        recoverers.spawn(async move {
            let mut rounds = Vec::new();
            for _ in 0..3 {
                rounds.push(recover_once(&map, &pools, NO_GRACE).await);
            }
            rounds
        });
    }
    let reports: Vec<RecoveryReport> = recoverers.join_all().await.into_iter().flatten().collect();
    assert!(reports.iter().all(|report| report.in_doubt.is_empty() && report.unreachable.is_empty()), "{reports:?}");
    let total = |count: fn(&RecoveryReport) -> u64| reports.iter().map(count).sum::<u64>();
    assert_eq!((total(|report| report.committed), total(|report| report.rolled_back)), (12, 12), "{reports:?}");
    drop(open);
    // The deciding sessions end soon after their clients, and then no decision is needed any more.
    let (pools, start) = (fleet.pools(), Instant::now());
    while state(&fleet, 3) != ["6|0|", "6|0|", "6|0|"] {
        assert!(start.elapsed() < Duration::from_secs(10), "decisions are kept: {:?}", state(&fleet, 3));
        recover_once(&map, &pools, NO_GRACE).await;
    }
}

#[tokio::test]
async fn a_shard_that_is_down_keeps_only_its_own_transactions_in_doubt() {
    let fleet = Fleet::with_shards(3).await;
    let map = fleet.map().await;
    let pools = fleet.pools();
    let writer = Writer::begin(&fleet, &map, 5).await;
    writer.prepare().await;
    writer.decide().await.unwrap();
    fleet.cluster.psql("postgres", "ALTER DATABASE epfo_02 ALLOW_CONNECTIONS false");
    let report = recover_once(&map, &pools, NO_GRACE).await;
    assert_eq!((report.committed, report.rolled_back, report.forgotten), (1, 0, 0));
    assert_eq!(report.unreachable.iter().map(|(shard, _)| shard.index()).collect::<Vec<_>>(), [2]);
    // The decision has to stay: shard 2 holds a part that nobody can see.
    recover_once(&map, &pools, NO_GRACE).await;
    fleet.cluster.psql("postgres", "ALTER DATABASE epfo_02 ALLOW_CONNECTIONS true");
    assert_eq!(counts(&recover_once(&map, &pools, NO_GRACE).await), (1, 0, 0));
    assert_eq!(counts(&recover_once(&map, &pools, NO_GRACE).await), (0, 0, 1));
    assert_eq!(state(&fleet, 3), ["1|0|", "1|0|", "1|0|"]);
}

#[tokio::test]
async fn a_transaction_whose_decision_shard_is_gone_stays_in_doubt() {
    let fleet = Fleet::with_shards(2).await;
    let map = fleet.map().await;
    let client = fleet.connect("epfo_01").await;
    client.batch_execute("CREATE TABLE t (a int)").await.unwrap();
    client.batch_execute("BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'sluice:x:9:1'").await.unwrap();
    client.batch_execute("BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'sluice:not ours'").await.unwrap();
    let report = recover_once(&map, &fleet.pools(), NO_GRACE).await;
    let expected = ("sluice:x:9:1".to_owned(), "its decision shard 9 is not in the shard map".to_owned());
    assert_eq!(report, RecoveryReport { in_doubt: vec![expected], ..RecoveryReport::default() });
}

#[tokio::test]
async fn the_task_recovers_by_itself() {
    let fleet = Fleet::with_shards(3).await;
    let map = fleet.map().await;
    let writer = Writer::begin(&fleet, &map, 6).await;
    writer.prepare().await;
    writer.decide().await.unwrap();
    let (_maps, receiver) = tokio::sync::watch::channel(std::sync::Arc::new(map));
    let options = RecoveryOptions { interval: Duration::from_millis(20), grace: NO_GRACE };
    let task = RecoveryTask::start(receiver, fleet.pools(), options);
    let mut reports = task.reports();
    let forgotten = reports.wait_for(|report| report.forgotten == 1);
    tokio::time::timeout(Duration::from_secs(10), forgotten).await.expect("not forgotten in time").unwrap();
    assert_eq!(state(&fleet, 3), ["1|0|", "1|0|", "1|0|"]);
}

#[tokio::test]
async fn shards_without_two_phase_commit_are_found() {
    let fleet = Fleet::with_shards_on(Cluster::start_with(&[("max_prepared_transactions", "0")]), 2).await;
    let map = fleet.map().await;
    fleet.cluster.psql("postgres", "ALTER DATABASE epfo_01 ALLOW_CONNECTIONS false");
    let probed = probe_two_phase(&map, &fleet.pools()).await;
    let answers: Vec<Option<i32>> = probed.iter().map(|(_, answer)| answer.as_ref().ok().copied()).collect();
    assert_eq!(answers, [Some(0), None]);
}
