//! The whole demo, small: with real servers, and a pooler that only waits for its shutdown.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::*;
use crate::config::{Config, PoolMode};

fn args(keep: Option<&Path>) -> DemoArgs {
    DemoArgs { keep: keep.map(Path::to_owned), port: 6432, scale: 0.02, no_replica: true }
}

/// Prepares a demo, and returns it with what it said it would be.
async fn prepared(args: &DemoArgs) -> Demo {
    prepare(args, &Progress::start()).await.unwrap()
}

async fn count(demo: &Demo, database: &str, table: &str) -> i64 {
    let client = demo.fleet.connect(database).await.unwrap();
    client.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await.unwrap().get(0)
}

async fn members_in_all_shards(demo: &Demo) -> u64 {
    let mut members = 0;
    for shard in 0..load::SHARDS {
        members += count(demo, &load::shard_database(shard), "members").await as u64;
    }
    members
}

/// Process ids of the servers of a demo.
fn servers(directory: &Path) -> Vec<PathBuf> {
    let pids = ["primary", "replica"].into_iter().filter_map(|name| {
        let pid_file = std::fs::read_to_string(directory.join(name).join("postmaster.pid")).ok()?;
        Some(Path::new("/proc").join(pid_file.lines().next()?))
    });
    pids.collect()
}

/// A server's last act is to remove its pid file, which is all that `pg_ctl stop` waits for.
fn wait_for_end(process: &Path) {
    let deadline = Instant::now() + Duration::from_secs(10);
    // The command line of what has ended, but has not been waited for, is empty.
    while std::fs::read(process.join("cmdline")).is_ok_and(|line| !line.is_empty()) {
        assert!(Instant::now() < deadline, "{} still runs", process.display());
        std::thread::yield_now();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn temporary_demo_holds_the_data_and_leaves_nothing_behind() {
    let demo = prepared(&args(None)).await;
    assert_eq!(members_in_all_shards(&demo).await, 400);
    assert_eq!(count(&demo, &load::shard_database(7), "states").await, 36);
    let directory = demo.directory.path().to_owned();
    let servers = servers(&directory);
    assert_eq!(servers.len(), 1);
    drop(demo);
    assert!(!directory.exists());
    wait_for_end(&servers[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn replica_streams_what_the_primary_has() {
    let demo = prepared(&DemoArgs { no_replica: false, ..args(None) }).await;
    let primary = demo.fleet.connect("postgres").await.unwrap();
    // A replica that has just started may still be catching up, or be about to connect.
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let states = primary.query("SELECT state FROM pg_stat_replication", &[]).await.unwrap();
        let states: Vec<String> = states.iter().map(|row| row.get(0)).collect();
        if states == ["streaming"] {
            break;
        }
        assert!(Instant::now() < deadline, "the replica does not stream: {states:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(demo.replica_port.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_demo_goes_on_with_its_data() {
    let parent = tempfile::tempdir().unwrap();
    std::fs::set_permissions(parent.path(), PermissionsExt::from_mode(0o711)).unwrap();
    let keep = parent.path().join("kept");
    let demo = prepared(&args(Some(&keep))).await;
    let shard = demo.fleet.connect(&load::shard_database(3)).await.unwrap();
    shard.batch_execute("CREATE TABLE remembered ()").await.unwrap();
    let fsync = shard.query_one("SHOW fsync", &[]).await.unwrap();
    assert_eq!(fsync.get::<_, String>(0), "on", "kept data survives a power cut");
    let first_ini = std::fs::read_to_string(&demo.ini).unwrap();
    drop((shard, demo));
    assert!(servers(&keep).is_empty(), "stopped");

    let demo = prepared(&args(Some(&keep))).await;
    assert_eq!(count(&demo, &load::shard_database(3), "remembered").await, 0);
    assert_eq!(members_in_all_shards(&demo).await, 400);
    let node =
        demo.fleet.connect(load::CATALOG).await.unwrap().query_one("SELECT port FROM sluice.nodes", &[]).await.unwrap();
    assert_eq!(node.get::<_, i32>(0), i32::from(demo.fleet.port()), "the catalog knows the new port");
    let password = |ini: &str| ini.split("sluice_admin:").nth(1).unwrap()[..24].to_owned();
    assert_eq!(password(&std::fs::read_to_string(&demo.ini).unwrap()), password(&first_ini));
}

#[tokio::test(flavor = "multi_thread")]
async fn application_role_owns_its_tables_and_needs_its_password() {
    let demo = prepared(&args(None)).await;
    let connect = |password: &str| {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(demo.fleet.port()).user(load::APP).password(password).dbname("epfo_00");
        async move { config.connect(tokio_postgres::NoTls).await }
    };
    let (client, connection) = connect(&demo.directory.state().app_password).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute("CREATE TABLE made_by_app (); DROP TABLE claims").await.unwrap();
    assert!(connect("wrong").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_load_as_the_pooler_reads_them() {
    let demo = prepared(&args(None)).await;
    let mode = std::fs::metadata(&demo.ini).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let config = Config::load(&demo.ini).unwrap();
    assert_eq!(config.settings.listen_port, demo.endpoints.port);
    assert_eq!(config.settings.pool_mode, PoolMode::Transaction);
    assert_eq!(config.secrets.len(), 2);
    assert_eq!(config.databases["epfo"].catalog.as_deref(), Some(&*demo.fleet.admin_url(load::CATALOG)));
    let plain = &config.databases["plain"];
    assert_eq!(plain.port, demo.fleet.port());
    assert_eq!(plain.host.as_deref(), demo.fleet.sockets().to_str());
}

#[tokio::test]
async fn scale_out_of_range_is_refused_before_anything_is_made() {
    let error = prepare(&DemoArgs { scale: 0.0, ..args(None) }, &Progress::start()).await.unwrap_err();
    assert_eq!(error.to_string(), "--scale must be between 0.01 and 100, not 0");
}

#[tokio::test(flavor = "multi_thread")]
async fn pooler_that_fails_to_start_ends_the_demo() {
    let error = run(args(None), async |_, _| Err("cannot listen".into())).await.unwrap_err();
    assert_eq!(error.to_string(), "the pooler ended: cannot listen");
}
