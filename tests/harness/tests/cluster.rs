//! The harness against itself: what other tests rely on.

use sluice_test_harness::Cluster;

#[test]
fn a_cluster_runs_sql_survives_a_crash_and_leaves_nothing_behind() {
    let cluster = Cluster::start();
    let directory = cluster.socket_dir().to_owned();
    cluster.create_database("shard");
    cluster.psql("shard", "CREATE TABLE t (a int, b text); INSERT INTO t VALUES (1, 'x'), (2, 'y')");
    assert_eq!(cluster.psql("shard", "SELECT a, b FROM t ORDER BY a"), "1|x\n2|y");
    assert!(cluster.try_psql("shard", "SELECT 1/0").is_err_and(|error| error.contains("22012")));

    cluster.stop_immediate();
    assert!(cluster.try_psql("shard", "SELECT 1").is_err());
    cluster.restart();
    assert_eq!(cluster.psql("shard", "SELECT count(*) FROM t"), "2");

    drop(cluster);
    assert!(!directory.exists(), "{} is left behind", directory.display());
}

#[test]
fn a_replica_follows_its_primary() {
    let primary = Cluster::start();
    primary.psql("postgres", "CREATE TABLE t AS SELECT 7 AS a");
    let replica = primary.replica();
    assert_eq!(replica.psql("postgres", "SELECT a, pg_is_in_recovery() FROM t"), "7|t");
}

#[test]
fn settings_of_the_test_beat_those_of_the_harness() {
    let cluster = Cluster::start_with(&[("max_prepared_transactions", "0")]);
    assert_eq!(cluster.psql("postgres", "SHOW max_prepared_transactions"), "0");
}
