//! DDL through Sluice: on all shards or on none, and known to every instance afterwards.

use crate::support::client::Client;
use crate::support::fleet::{Fleet, Plan, shard_name};
use crate::support::wait_until;

const CREATE: &str =
    "CREATE TABLE loans (organization_id bigint, id bigint, amount numeric, PRIMARY KEY (organization_id, id))";

/// Which shards have the relation.
fn shards_with(fleet: &Fleet, relation: &str) -> Vec<usize> {
    let found = fleet.on_all(&format!("SELECT to_regclass('{relation}') IS NOT NULL"));
    (0..found.len()).filter(|&shard| found[shard] == "t").collect()
}

fn class(fleet: &Fleet, table: &str) -> String {
    fleet.on_catalog(&format!("SELECT class, columns FROM sluice.tables WHERE table_name = '{table}'"))
}

fn run(client: &mut Client, statements: &[&str]) {
    for sql in statements {
        client.query(sql).ok();
    }
}

#[test]
fn a_new_sharded_table_is_everywhere_and_can_be_used_at_once() {
    let fleet = Fleet::start().filled();
    let sluice = fleet.sluice();
    let other_instance = fleet.sluice();
    let mut client = sluice.connect("epfo");
    assert_eq!(client.query(CREATE).ok().tags, ["CREATE TABLE"]);
    assert_eq!(shards_with(&fleet, "loans"), [0, 1, 2, 3]);
    assert_eq!(class(&fleet, "loans"), "sharded|{organization_id,id,amount}");
    for organization in fleet.spread(4) {
        // Without a column list: the catalog knows the columns.
        client.query(&format!("INSERT INTO loans VALUES ({organization}, 1, 5)")).ok();
        assert_eq!(
            fleet.on_shard(fleet.shard_of(organization), "SELECT organization_id FROM loans"),
            organization.to_string()
        );
    }
    let [organization] = fleet.spread(1)[..] else { unreachable!() };
    let mut elsewhere = other_instance.connect("epfo");
    wait_until("another instance knows the table", || {
        elsewhere.query(&format!("SELECT amount FROM loans WHERE organization_id = {organization}")).rows == ["5"]
    });
}

#[test]
fn tables_change_on_all_shards() {
    let fleet = Fleet::start().filled();
    let sluice = fleet.sluice();
    let mut client = sluice.connect("epfo");
    let [organization] = fleet.spread(1)[..] else { unreachable!() };
    run(
        &mut client,
        &[
            CREATE,
            "CREATE INDEX loans_amount ON loans (amount)",
            "ALTER TABLE loans ADD COLUMN note text DEFAULT 'new'",
        ],
    );
    assert_eq!(shards_with(&fleet, "loans_amount"), [0, 1, 2, 3]);
    assert_eq!(class(&fleet, "loans"), "sharded|{organization_id,id,amount,note}");
    client.query(&format!("INSERT INTO loans VALUES ({organization}, 1, 5, 'mine')")).ok();
    run(&mut client, &["ALTER TABLE loans RENAME TO advances"]);
    assert_eq!(
        client.query(&format!("SELECT note FROM advances WHERE organization_id = {organization}")).value(),
        "mine"
    );
    assert_eq!(client.query(&format!("SELECT note FROM loans WHERE organization_id = {organization}")).code(), "42P01");
    run(&mut client, &["TRUNCATE advances", "DROP TABLE advances"]);
    assert!(shards_with(&fleet, "advances").is_empty());
    assert_eq!(class(&fleet, "advances"), "");
    assert_eq!(
        client.query(&format!("SELECT note FROM advances WHERE organization_id = {organization}")).code(),
        "42P01"
    );
}

#[test]
fn a_new_table_without_the_key_is_at_home_and_known() {
    let fleet = Fleet::start();
    let sluice = fleet.sluice();
    let mut client = sluice.connect("epfo");
    client.query("CREATE TABLE jobs (id bigserial PRIMARY KEY, what text)").ok();
    assert_eq!(shards_with(&fleet, "jobs"), [0]);
    assert_eq!(client.query("INSERT INTO jobs (what) VALUES ('a'), ('b') RETURNING id").ok().rows, ["1", "2"]);
    assert_eq!(class(&fleet, "jobs"), "home|{id,what}");
    client.query("ALTER TABLE jobs ADD COLUMN done bool").ok();
    assert_eq!(client.query("INSERT INTO jobs VALUES (3, 'c', true)").ok().tags, ["INSERT 0 1"]);
    assert_eq!(class(&fleet, "jobs"), "home|{id,what,done}");
    client.query("DROP TABLE jobs").ok();
    assert_eq!(class(&fleet, "jobs"), "");
    // Inside a transaction, and through the extended protocol.
    run(&mut client, &["BEGIN", "CREATE TABLE jobs (id bigint)", "INSERT INTO jobs (id) VALUES (1)", "COMMIT"]);
    assert_eq!(class(&fleet, "jobs"), "home|{id}");
    client.extended("CREATE TABLE jobs2 (id bigint)", &[], &[]).ok();
    assert_eq!(client.extended("SELECT count(*) FROM jobs2", &[], &[]).value(), "0");
    run(&mut client, &["BEGIN", "CREATE TABLE jobs3 (id bigint)", "ROLLBACK"]);
    assert_eq!(class(&fleet, "jobs3"), "");
}

#[test]
fn ddl_is_part_of_its_transaction() {
    let fleet = Fleet::start().filled();
    let sluice = fleet.sluice();
    let mut client = sluice.connect("epfo");
    let [a, b] = fleet.spread(2)[..] else { unreachable!() };
    let insert =
        |organization: i64| format!("INSERT INTO loans (organization_id, id, amount) VALUES ({organization}, 1, 5)");
    // Used before it is committed, and rolled back.
    run(&mut client, &["BEGIN", CREATE, &insert(a), &insert(b)]);
    assert_eq!(client.query(&format!("SELECT amount FROM loans WHERE organization_id = {b}")).value(), "5");
    run(&mut client, &["ROLLBACK"]);
    assert!(shards_with(&fleet, "loans").is_empty());
    assert_eq!(class(&fleet, "loans"), "");
    assert_eq!(client.query(&insert(a)).code(), "42P01");
    // With a savepoint: what it takes back is forgotten as well.
    run(&mut client, &["BEGIN", "SAVEPOINT s", CREATE, "ROLLBACK TO s"]);
    assert_eq!(client.query(&insert(a)).code(), "42P01");
    run(&mut client, &["ROLLBACK TO s", CREATE, &insert(a), &insert(b), "COMMIT"]);
    assert_eq!(class(&fleet, "loans"), "sharded|{organization_id,id,amount}");
    assert_eq!(client.query(&format!("SELECT amount FROM loans WHERE organization_id = {b}")).value(), "5");
    // A table that was dropped and came back.
    run(&mut client, &["BEGIN", "SAVEPOINT s", "DROP TABLE loans", "ROLLBACK TO s"]);
    assert_eq!(client.query(&format!("SELECT amount FROM loans WHERE organization_id = {b}")).value(), "5");
    run(&mut client, &["COMMIT"]);
    assert_eq!(client.query(&format!("SELECT amount FROM loans WHERE organization_id = {b}")).value(), "5");
    assert_eq!(fleet.prepared_transactions(), 0);
}

#[test]
fn a_failure_on_one_shard_leaves_nothing_anywhere() {
    let fleet = Fleet::start();
    let sluice = fleet.sluice();
    let mut client = sluice.connect("epfo");
    // Neither the first nor the last shard.
    fleet.on_shard(2, "CREATE TABLE loans (x int)");
    let answer = client.query(CREATE);
    assert_eq!((answer.code(), answer.status), ("42P07", 'I'));
    assert_eq!(shards_with(&fleet, "loans"), [2]);
    assert_eq!(class(&fleet, "loans"), "");
    fleet.on_shard(2, "DROP TABLE loans");
    client.extended(CREATE, &[], &[]).ok();
    assert_eq!(shards_with(&fleet, "loans"), [0, 1, 2, 3]);
}

#[test]
fn ddl_without_prepared_transactions_is_a_clear_error() {
    let fleet = Fleet::start_as(Plan { settings: &[("max_prepared_transactions", "0")], ..Plan::default() });
    let sluice = fleet.sluice();
    let mut client = sluice.connect("epfo");
    let answer = client.query(CREATE);
    let [error] = &answer.errors[..] else { panic!("{answer:?}") };
    assert_eq!(error.code, "55000", "{error:?}");
    assert!(error.hint.contains("max_prepared_transactions"), "{error:?}");
    assert!(shards_with(&fleet, "loans").is_empty());
    assert_eq!(client.query("SELECT 1").value(), "1", "the session goes on");
}

#[test]
fn a_statement_for_all_shards_is_cancelled_wherever_it_waits() {
    let fleet = Fleet::start().filled();
    let sluice = fleet.sluice();
    let mut client = sluice.connect("epfo");
    // The home shard runs it first, the others together.
    for shard in [0, 2] {
        let mut blocker = fleet.direct(&shard_name(shard));
        blocker.query("BEGIN; LOCK TABLE members").ok();
        client.send_query("ALTER TABLE members ADD COLUMN nickname text");
        let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'members'::regclass";
        wait_until("the statement waits for the lock", || fleet.on_shard(shard.into(), waits) == "1");
        client.cancel();
        assert_eq!(client.read_answer().code(), "57014", "shard {shard}");
        blocker.query("ROLLBACK").ok();
    }
    client.query("ALTER TABLE members ADD COLUMN nickname text").ok();
}
