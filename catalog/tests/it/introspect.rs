//! Tables as a shard describes them.

use sluice_catalog::TableName;
use sluice_catalog::introspect::{columns, unfit_for_reference, unfit_for_sharding};
use sluice_router::KeyType;
use sluice_test_harness::Cluster;
use tokio_postgres::{Client, NoTls};

async fn shard(sql: &str) -> (Cluster, Client) {
    let cluster = Cluster::start();
    let (client, connection) = tokio_postgres::connect(&cluster.conninfo("postgres"), NoTls).await.expect("connect");
    tokio::spawn(connection);
    client.batch_execute(sql).await.expect("set up the tables");
    (cluster, client)
}

fn table(name: &str) -> TableName {
    TableName::new("public", name)
}

#[tokio::test]
async fn columns_come_in_the_tables_order_without_dropped_ones() {
    let (_cluster, client) = shard(
        "CREATE TABLE t (b int, \"A b\" text, gone int, c int GENERATED ALWAYS AS (b + 1) STORED);
         ALTER TABLE t DROP gone; ALTER TABLE t ADD d int; CREATE VIEW v AS SELECT 1 AS a;",
    )
    .await;
    assert_eq!(columns(&client, &table("t")).await.unwrap().unwrap(), ["b", "A b", "c", "d"]);
    assert_eq!(columns(&client, &table("v")).await.unwrap(), None);
    assert_eq!(columns(&client, &table("none")).await.unwrap(), None);
}

#[tokio::test]
async fn a_reference_table_may_not_fill_in_values_that_differ() {
    let (_cluster, client) = shard(
        "CREATE TABLE good (code text DEFAULT 'x', n int DEFAULT 1 + 2, s text DEFAULT upper('a'), k int GENERATED ALWAYS AS (n * 2) STORED);
         CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
         CREATE TABLE bad (a serial, b timestamptz DEFAULT now(), c date DEFAULT CURRENT_DATE, d uuid DEFAULT gen_random_uuid(),
            e int GENERATED ALWAYS AS IDENTITY, f text DEFAULT CURRENT_USER, g timestamptz DEFAULT ('1 May 2020'::text)::timestamptz,
            h int DEFAULT 1 + (random() * 9)::int, ok int DEFAULT 5);
         CREATE TRIGGER touch BEFORE INSERT ON bad FOR EACH ROW EXECUTE FUNCTION f();",
    )
    .await;
    assert_eq!(unfit_for_reference(&client, &table("good")).await.unwrap(), [""; 0]);
    let reasons = unfit_for_reference(&client, &table("bad")).await.unwrap();
    for column in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        let named = format!("column \"{column}\"");
        assert_eq!(reasons.iter().filter(|reason| reason.contains(&named)).count(), 1, "{column}: {reasons:?}");
    }
    assert!(reasons.iter().any(|reason| reason.contains("trigger \"touch\"")), "{reasons:?}");
    assert_eq!(reasons.len(), 9, "{reasons:?}");
    assert!(unfit_for_reference(&client, &table("none")).await.is_err());
}

#[tokio::test]
async fn a_sharded_table_needs_a_key_that_hashes_as_the_router_does() {
    let (_cluster, client) = shard(
        "CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         CREATE TABLE i2 (k smallint); CREATE TABLE i8 (k bigint); CREATE TABLE n (k numeric); CREATE TABLE u (k uuid);
         CREATE TABLE tx (k varchar(9)); CREATE TABLE ch (k char(9)); CREATE TABLE lo (k text COLLATE loose); CREATE TABLE o (x int);",
    )
    .await;
    let good = [("i2", KeyType::Int), ("i8", KeyType::Int), ("u", KeyType::Uuid), ("tx", KeyType::Text)];
    for (name, key_type) in good {
        assert_eq!(unfit_for_sharding(&client, &table(name), "k", key_type).await.unwrap(), [""; 0], "{name}");
    }
    let bad = [
        ("n", KeyType::Int, "of type numeric"),
        ("i8", KeyType::Text, "of type bigint"),
        ("ch", KeyType::Text, "of type character"),
        ("lo", KeyType::Text, "nondeterministic"),
        ("o", KeyType::Int, "no column \"k\""),
    ];
    for (name, key_type, expected) in bad {
        let reasons = unfit_for_sharding(&client, &table(name), "k", key_type).await.unwrap();
        assert!(reasons.len() == 1 && reasons[0].contains(expected), "{name}: {reasons:?}");
    }
}
