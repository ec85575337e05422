//! The watch: fresh within a second, never older, and never without a map that was seen once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sluice_catalog::disk::DiskCopy;
use sluice_catalog::watch::Source;
use sluice_catalog::{CatalogError, Change, TableName, WatchOptions, WatchStatus, Watcher};
use sluice_router::ShardMap;
use sluice_router::map::TableClass;

use crate::setup::{DATABASE, Fleet};

const MOVE_SLOT: &str = "UPDATE sluice.slots SET shard = 1 - shard WHERE slot = 7";

/// Polling so rarely that only notifications can explain a quick answer.
fn notified_only() -> WatchOptions {
    WatchOptions { poll_interval: Duration::from_secs(3600), ..WatchOptions::new(DATABASE) }
}

fn with_state(directory: &tempfile::TempDir) -> WatchOptions {
    WatchOptions { state_dir: Some(directory.path().to_owned()), ..notified_only() }
}

/// Waits for a map that `wanted` likes, and fails after `limit`.
async fn await_map(watcher: &Watcher, limit: Duration, wanted: impl Fn(&ShardMap) -> bool) -> Arc<ShardMap> {
    let mut maps = watcher.subscribe();
    let map = tokio::time::timeout(limit, maps.wait_for(|map| wanted(map))).await.expect("no such map in time");
    map.expect("the watcher is gone").clone()
}

/// Polls the status, which nothing announces.
async fn await_status(watcher: &Watcher, wanted: impl Fn(&WatchStatus) -> bool) -> WatchStatus {
    let start = Instant::now();
    loop {
        let status = watcher.status();
        if wanted(&status) {
            return status;
        }
        assert!(start.elapsed() < Duration::from_secs(10), "no such status in time: {status:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_notified_change_is_there_within_a_second() {
    let fleet = Fleet::of(2).await;
    let watcher = Watcher::start(fleet.store.clone(), notified_only()).await.unwrap();
    for round in 0..5 {
        let before = watcher.map();
        fleet.sql(MOVE_SLOT);
        let map = await_map(&watcher, Duration::from_secs(1), |map| map.version() > before.version()).await;
        assert_ne!(map.slots()[7], before.slots()[7], "round {round}");
    }
    let status = watcher.status();
    assert_eq!((status.source, status.catalog_error), (Source::Catalog, None));
}

#[tokio::test]
async fn polling_finds_what_was_not_notified() {
    let fleet = Fleet::of(2).await;
    fleet.sql("ALTER TABLE sluice.databases DISABLE TRIGGER notify");
    let options = WatchOptions { poll_interval: Duration::from_millis(50), ..WatchOptions::new(DATABASE) };
    let watcher = Watcher::start(fleet.store.clone(), options).await.unwrap();
    let before = watcher.map().version();
    fleet.sql(MOVE_SLOT);
    await_map(&watcher, Duration::from_secs(2), |map| map.version() > before).await;
}

#[tokio::test]
async fn refresh_has_what_was_committed_before_it() {
    let fleet = Fleet::of(2).await;
    fleet.sql("ALTER TABLE sluice.databases DISABLE TRIGGER notify");
    let watcher = Watcher::start(fleet.store.clone(), notified_only()).await.unwrap();
    for number in 0..20 {
        let table = TableName::new("public", format!("t{number}"));
        let change = Change::CreateTable { table, class: TableClass::Home, columns: vec!["id".into()] };
        let version = fleet.store.apply(DATABASE, &[change]).await.unwrap();
        assert_eq!(watcher.refresh().await.unwrap().version(), version);
    }
}

#[tokio::test]
async fn a_start_without_the_catalog_uses_the_disk_copy_until_the_catalog_is_back() {
    let fleet = Fleet::of(2).await;
    let state = tempfile::tempdir().unwrap();
    let seen = Watcher::start(fleet.store.clone(), with_state(&state)).await.unwrap().map();

    fleet.cluster.stop_immediate();
    let watcher = Watcher::start(fleet.store.clone(), with_state(&state)).await.unwrap();
    assert_eq!((watcher.map().version(), watcher.map().slots()), (seen.version(), seen.slots()));
    let status = watcher.status();
    assert_eq!((status.source, status.confirmed_at), (Source::Disk, None));
    assert!(status.catalog_error.is_some());
    assert!(watcher.refresh().await.is_err());

    fleet.cluster.restart();
    fleet.sql(MOVE_SLOT);
    await_map(&watcher, Duration::from_secs(10), |map| map.version() > seen.version()).await;
    let status = await_status(&watcher, |status| status.catalog_error.is_none()).await;
    assert_eq!(status.source, Source::Catalog);
}

#[tokio::test]
async fn a_catalog_that_goes_away_leaves_the_map_and_comes_back_by_itself() {
    let fleet = Fleet::of(2).await;
    let watcher = Watcher::start(fleet.store.clone(), notified_only()).await.unwrap();
    let before = watcher.map();
    fleet.cluster.stop_immediate();
    await_status(&watcher, |status| status.catalog_error.is_some()).await;
    assert_eq!(watcher.map().version(), before.version());
    fleet.cluster.restart();
    fleet.sql(MOVE_SLOT);
    await_map(&watcher, Duration::from_secs(10), |map| map.version() > before.version()).await;
}

#[tokio::test]
async fn each_new_map_is_copied_to_disk() {
    let fleet = Fleet::of(2).await;
    let state = tempfile::tempdir().unwrap();
    let watcher = Watcher::start(fleet.store.clone(), with_state(&state)).await.unwrap();
    fleet.sql(MOVE_SLOT);
    let map = watcher.refresh().await.unwrap();
    let copy = DiskCopy::new(state.path(), DATABASE).load(DATABASE).unwrap().to_map().unwrap();
    assert_eq!((copy.version(), copy.slots()), (map.version(), map.slots()));
}

#[tokio::test]
async fn a_damaged_disk_copy_is_reported_and_not_used() {
    let fleet = Fleet::of(2).await;
    let state = tempfile::tempdir().unwrap();
    drop(Watcher::start(fleet.store.clone(), with_state(&state)).await.unwrap());
    let path = DiskCopy::new(state.path(), DATABASE).path().to_owned();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("epfo_01", "epfo_00")).unwrap();

    fleet.cluster.stop_immediate();
    let error = Watcher::start(fleet.store.clone(), with_state(&state)).await.unwrap_err();
    assert!(matches!(error, CatalogError::NoMap { .. }));
    let text = error.to_string();
    assert!(text.contains("the checksum is wrong") && text.contains("cannot connect"), "{text}");

    fleet.cluster.restart();
    drop(Watcher::start(fleet.store.clone(), with_state(&state)).await.expect("the catalog has a map"));
    DiskCopy::new(state.path(), DATABASE).load(DATABASE).expect("the copy was made again");
}

#[tokio::test]
async fn a_disk_that_cannot_be_written_is_reported_and_stops_nothing() {
    let fleet = Fleet::of(2).await;
    let options = WatchOptions { state_dir: Some("/proc/none".into()), ..notified_only() };
    let watcher = Watcher::start(fleet.store.clone(), options).await.unwrap();
    assert!(watcher.status().disk_error.is_some_and(|error| error.contains("/proc/none/epfo.map.json")));
}

#[tokio::test]
async fn a_restored_catalog_is_not_followed_until_somebody_says_so() {
    let fleet = Fleet::of(2).await;
    let state = tempfile::tempdir().unwrap();
    let watcher = Watcher::start(fleet.store.clone(), with_state(&state)).await.unwrap();
    fleet.sql(MOVE_SLOT);
    let newest = watcher.refresh().await.unwrap();

    // What a restore to an earlier time leaves: lower versions, also of the counter.
    fleet.sql(
        "BEGIN; SET LOCAL session_replication_role = replica; UPDATE sluice.slots SET shard = 1 - shard WHERE slot = 7;
         UPDATE sluice.databases SET map_version = 1, schema_version = 2; SELECT setval('sluice.version', 2); COMMIT",
    );
    let error = watcher.refresh().await.unwrap_err().to_string();
    assert!(error.contains(&format!("SELECT sluice.advance_version({})", newest.version())), "{error}");
    assert_eq!(watcher.map().slots()[7], newest.slots()[7]);
    // Neither by an instance that is started again.
    drop(watcher);
    let watcher = Watcher::start(fleet.store.clone(), with_state(&state)).await.unwrap();
    assert_eq!((watcher.map().version(), watcher.status().source), (newest.version(), Source::Disk));
    assert!(watcher.status().catalog_error.is_some_and(|error| error.contains("advance_version")));

    fleet.sql(&format!("SELECT sluice.advance_version({})", newest.version()));
    let map = watcher.refresh().await.unwrap();
    assert!(map.version() > newest.version());
    assert_ne!(map.slots()[7], newest.slots()[7]);
}
