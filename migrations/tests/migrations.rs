//! Migrations and the constraints they make, on a real PostgreSQL.

use sluice_migrations::{migrate_catalog, migrate_shard};
use sluice_test_harness::Cluster;
use tokio_postgres::{Client, NoTls};

async fn connect(cluster: &Cluster) -> Client {
    let (client, connection) = tokio_postgres::connect(&cluster.conninfo("postgres"), NoTls).await.expect("connect");
    tokio::spawn(connection);
    client
}

async fn catalog() -> Cluster {
    let cluster = Cluster::start();
    migrate_catalog(&mut connect(&cluster).await).await.expect("migrate");
    cluster
}

async fn shard() -> Cluster {
    let cluster = Cluster::start();
    migrate_shard(&mut connect(&cluster).await).await.expect("migrate");
    cluster
}

/// A database of two shards, in one transaction.
const TWO_SHARDS: &str = "
    INSERT INTO sluice.nodes VALUES ('n', '/tmp', 5432);
    INSERT INTO sluice.databases (name, key_column, key_type) VALUES ('epfo', 'organization_id', 'int');
    INSERT INTO sluice.shards VALUES ('epfo', 0, 'n', 's0'), ('epfo', 1, 'n', 's1');
    INSERT INTO sluice.slots SELECT 'epfo', i, i / 2048 FROM generate_series(0, 4095) AS i;";

/// Runs `sql`, which has to fail with a message that holds `expected`.
fn assert_refused(cluster: &Cluster, sql: &str, expected: &str) {
    match cluster.try_psql("postgres", sql) {
        Ok(_) => panic!("not refused: {sql}"),
        Err(error) => assert!(error.contains(expected), "{sql} was refused with another reason: {error}"),
    }
}

#[tokio::test]
async fn a_second_run_applies_nothing() {
    let cluster = Cluster::start();
    let mut client = connect(&cluster).await;
    assert_eq!(migrate_catalog(&mut client).await.expect("first"), ["V1__shard_map"]);
    assert_eq!(migrate_shard(&mut client).await.expect("first"), ["V1__slots_and_decisions"]);
    assert!(migrate_catalog(&mut client).await.expect("second").is_empty());
    assert!(migrate_shard(&mut client).await.expect("second").is_empty());
    let outside = "SELECT count(*) FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
        WHERE nspname NOT IN ('sluice', 'information_schema') AND nspname NOT LIKE 'pg\\_%'";
    assert_eq!(cluster.psql("postgres", outside), "0", "something was made outside the schema sluice");
}

#[tokio::test]
async fn what_cannot_be_applied_says_what_postgresql_said() {
    let cluster = Cluster::start();
    cluster.psql("postgres", "CREATE SCHEMA sluice; CREATE TABLE sluice.slots ()");
    let error = migrate_catalog(&mut connect(&cluster).await).await.expect_err("slots is there").to_string();
    assert!(error.contains("V1__shard_map") && error.contains("relation \"slots\" already exists"), "{error}");
    let left = "SELECT count(*) FROM pg_class WHERE relnamespace = 'sluice'::regnamespace AND relname = 'databases'";
    assert_eq!(cluster.psql("postgres", left), "0", "half a migration is left");

    cluster.psql("postgres", "CREATE ROLE weak LOGIN; DROP SCHEMA sluice CASCADE");
    let mut client = connect(&cluster).await;
    client.batch_execute("SET SESSION AUTHORIZATION weak").await.expect("become weak");
    let error = migrate_shard(&mut client).await.expect_err("weak may not").to_string();
    assert!(error.contains("permission denied") && error.contains("needs CREATE"), "{error}");
}

#[tokio::test]
async fn of_concurrent_runs_one_applies() {
    let cluster = Cluster::start();
    let mut runs = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let mut client = connect(&cluster).await;
        runs.spawn(async move { migrate_catalog(&mut client).await.expect("migrate").len() });
    }
    let applied: usize = runs.join_all().await.into_iter().sum();
    assert_eq!(applied, 1);
}

#[tokio::test]
async fn every_table_has_a_comment() {
    let cluster = catalog().await;
    let bare = "SELECT string_agg(relname, ' ') FROM pg_class WHERE relnamespace = 'sluice'::regnamespace
        AND relkind = 'r' AND relname <> 'catalog_migrations' AND obj_description(oid, 'pg_class') IS NULL";
    assert_eq!(cluster.psql("postgres", bare), "");
}

#[tokio::test]
async fn a_map_that_contradicts_itself_cannot_be_committed() {
    let cluster = catalog().await;
    assert_refused(
        &cluster,
        "INSERT INTO sluice.databases (name, key_column, key_type) VALUES ('empty', 'k', 'int')",
        "0 of 4096 slots of database \"empty\" have a shard",
    );
    cluster.psql("postgres", TWO_SHARDS);
    for (sql, expected) in [
        ("DELETE FROM sluice.slots WHERE slot = 7", "4095 of 4096 slots"),
        ("INSERT INTO sluice.slots VALUES ('epfo', 7, 1)", "slots_pkey"),
        ("INSERT INTO sluice.slots VALUES ('epfo', 4096, 1)", "slots_slot_check"),
        ("UPDATE sluice.slots SET shard = 2 WHERE slot = 7", "foreign key"),
        ("INSERT INTO sluice.overrides VALUES ('epfo', '1', 2)", "foreign key"),
        ("INSERT INTO sluice.overrides VALUES ('epfo', 'one', 1)", "22P02"),
        ("INSERT INTO sluice.shards VALUES ('epfo', 3, 'n', 's3')", "without gaps"),
        ("INSERT INTO sluice.shards VALUES ('epfo', 2, 'n', 's1')", "shards_node_dbname_key"),
        ("DELETE FROM sluice.shards WHERE shard = 1", "foreign key"),
        ("DELETE FROM sluice.nodes", "foreign key"),
        (
            "INSERT INTO sluice.tables VALUES ('epfo', 'public', 't', 'sharded', '{id}')",
            "has no column \"organization_id\"",
        ),
        ("INSERT INTO sluice.tables VALUES ('epfo', 'public', 't', 'home', '{id,id}')", "two columns"),
        ("INSERT INTO sluice.tables VALUES ('epfo', 'public', 't', 'local', '{id}')", "tables_class_check"),
        ("UPDATE sluice.databases SET map_version = 0", "cannot go back"),
        ("TRUNCATE sluice.slots", "cannot be truncated"),
    ] {
        assert_refused(&cluster, sql, expected);
    }
}

#[tokio::test]
async fn one_key_has_one_override_however_it_is_written() {
    let cluster = catalog().await;
    cluster.psql("postgres", TWO_SHARDS);
    cluster.psql("postgres", "INSERT INTO sluice.overrides VALUES ('epfo', ' 007', 1)");
    assert_eq!(cluster.psql("postgres", "SELECT key FROM sluice.overrides"), "7");
    assert_refused(&cluster, "INSERT INTO sluice.overrides VALUES ('epfo', '7', 0)", "overrides_pkey");
    assert_refused(&cluster, "UPDATE sluice.databases SET key_type = 'text'", "cannot change");
}

#[tokio::test]
async fn each_change_takes_a_new_version_of_its_kind() {
    let cluster = catalog().await;
    cluster.psql("postgres", TWO_SHARDS);
    let versions = || -> (i64, i64) {
        let row = cluster.psql("postgres", "SELECT map_version, schema_version FROM sluice.databases");
        let (map, schema) = row.split_once('|').expect("two columns");
        (map.parse().expect("a number"), schema.parse().expect("a number"))
    };
    let mut before = versions();
    for (sql, of_map) in [
        ("UPDATE sluice.slots SET shard = 1 WHERE slot = 7", true),
        ("INSERT INTO sluice.overrides VALUES ('epfo', '7', 1)", true),
        ("DELETE FROM sluice.overrides", true),
        ("UPDATE sluice.shards SET dbname = 'other' WHERE shard = 1", true),
        ("UPDATE sluice.nodes SET port = 5433", true),
        ("UPDATE sluice.nodes SET name = 'm'", true),
        ("INSERT INTO sluice.tables VALUES ('epfo', 'public', 't', 'home', '{id}')", false),
        ("UPDATE sluice.tables SET columns = '{id,name}'", false),
        ("DELETE FROM sluice.tables", false),
        ("INSERT INTO sluice.functions VALUES ('epfo', 'public', 'f', 'pure')", false),
    ] {
        cluster.psql("postgres", sql);
        let after = versions();
        let (changed, same) = if of_map { (after.0, after.1 == before.1) } else { (after.1, after.0 == before.0) };
        assert!(changed > before.0.max(before.1), "{sql} took no new version: {before:?} {after:?}");
        assert!(same, "{sql} changed the other version: {before:?} {after:?}");
        before = after;
    }
    cluster.psql("postgres", "SELECT sluice.advance_version(1000000)");
    assert!(versions().0.min(versions().1) > 1_000_000);
}

#[tokio::test]
async fn a_database_made_again_has_a_higher_version() {
    let cluster = catalog().await;
    cluster.psql("postgres", TWO_SHARDS);
    let version = "SELECT greatest(map_version, schema_version) FROM sluice.databases";
    let first: i64 = cluster.psql("postgres", version).parse().expect("a number");
    cluster.psql("postgres", "DELETE FROM sluice.databases; DELETE FROM sluice.nodes");
    cluster.psql("postgres", TWO_SHARDS);
    let second: i64 = cluster.psql("postgres", version).parse().expect("a number");
    assert!(second > first);
}

#[tokio::test]
async fn an_application_role_can_decide_but_not_touch_decisions() {
    let cluster = shard().await;
    cluster.psql("postgres", "CREATE ROLE app LOGIN");
    let as_app = |sql: &str| cluster.try_psql("postgres", &format!("SET ROLE app; {sql}"));
    as_app("SELECT sluice.decide('t1', 0)").expect("decide");
    assert_eq!(
        cluster.psql("postgres", "SELECT transaction_id, decision_shard, outcome FROM sluice.decisions"),
        "t1|0|commit"
    );
    for sql in ["SELECT * FROM sluice.decisions", "DELETE FROM sluice.decisions", "CREATE TABLE sluice.t (a int)"] {
        assert!(as_app(sql).is_err_and(|error| error.contains("42501")), "{sql}");
    }
    assert!(as_app("SELECT sluice.decide('t1', 0)").is_err_and(|error| error.contains("23505")));
}

#[tokio::test]
async fn a_decision_is_flushed_even_where_commits_are_not() {
    let cluster = shard().await;
    let sql = "SET synchronous_commit = off; BEGIN; SELECT sluice.decide('t', 0); SHOW synchronous_commit; COMMIT;
        SHOW synchronous_commit";
    assert_eq!(cluster.psql("postgres", sql).trim(), "on\noff");
}

#[tokio::test]
async fn slots_do_not_depend_on_the_callers_search_path() {
    let cluster = shard().await;
    cluster.psql(
        "postgres",
        "CREATE SCHEMA evil; CREATE FUNCTION evil.hashint8extended(bigint, bigint) RETURNS bigint LANGUAGE sql RETURN 1",
    );
    let slots = "SELECT sluice.slot(1), sluice.slot('a'), sluice.slot(gen_random_uuid()) BETWEEN 0 AND 4095";
    let plain = cluster.psql("postgres", slots);
    assert_eq!(cluster.psql("postgres", &format!("SET search_path = evil, pg_catalog; {slots}")), plain);
}
