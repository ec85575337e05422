//! What is down, and what goes on meanwhile: shards, the catalog; and changes of the shard map under running sessions.

use crate::support::client::Client;
use crate::support::fleet::{CATALOG, Fleet, Plan, shard_name};
use crate::support::wait_until;

fn count(client: &mut Client, organization: i64) -> crate::support::client::Answer {
    client.query(&format!("SELECT count(*) FROM members WHERE organization_id = {organization}"))
}

/// The organizations of a fleet on two nodes: one on the first node, one on the last shard, which is on the other.
fn on_both_nodes(fleet: &Fleet) -> (i64, i64) {
    let last = fleet.map.shards().len() - 1;
    let mut organizations = fleet.spread(4);
    organizations.sort_by_key(|&organization| fleet.shard_of(organization) == last);
    (organizations[1], organizations[3])
}

/// The catalog's database, not its server, is taken away.
fn stop_catalog(fleet: &Fleet) {
    fleet.cluster.psql("postgres", &format!("ALTER DATABASE {CATALOG} ALLOW_CONNECTIONS false"));
    fleet.cluster.psql(
        "postgres",
        &format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{CATALOG}'"),
    );
}

#[test]
fn a_shard_that_is_down_stops_only_its_own_organizations() {
    let fleet = Fleet::start_as(Plan { two_nodes: true, ..Plan::default() }).filled();
    let sluice = fleet.sluice_with("server_connect_timeout = 2\nquery_wait_timeout = 5\nserver_login_retry = 1");
    let (up, down) = on_both_nodes(&fleet);
    let other = fleet.other.as_ref().expect("two nodes");
    let mut client = sluice.connect("epfo");
    assert_eq!(count(&mut client, up).value(), "5");
    other.stop_immediate();
    for _ in 0..2 {
        let answer = count(&mut client, down);
        let [error] = &answer.errors[..] else { panic!("{answer:?}") };
        assert!(error.code.starts_with("08") || error.code.starts_with("57P"), "{error:?}");
        assert_eq!((&*error.severity, answer.status), ("ERROR", 'I'));
        assert!(error.message.contains("shard 3"), "{error:?}");
        assert_eq!(count(&mut client, up).value(), "5", "the session goes on with other shards");
    }
    // In a transaction it fails the block, and no more.
    client.query("BEGIN").ok();
    assert_eq!(count(&mut client, up).value(), "5");
    assert_eq!(count(&mut client, down).status, 'E');
    assert_eq!(client.query("ROLLBACK").ok().status, 'I');
    // DDL, which needs all shards, changes none.
    let answer = client.query("CREATE TABLE loans (organization_id bigint PRIMARY KEY)");
    assert!(!answer.errors.is_empty() && answer.status == 'I', "{answer:?}");
    assert_eq!(fleet.on_shard(0, "SELECT to_regclass('loans')"), "");
    assert_eq!(count(&mut sluice.connect("epfo"), up).value(), "5", "new sessions are let in");
    other.restart();
    wait_until("the shard is back", || count(&mut client, down).rows == ["5"]);
}

#[test]
fn the_home_shard_may_be_down_too() {
    let fleet = Fleet::start_as(Plan { two_nodes: true, ..Plan::default() }).filled();
    let sluice = fleet.sluice_with("server_connect_timeout = 2\nquery_wait_timeout = 5\nserver_login_retry = 1");
    let (down, up) = on_both_nodes(&fleet);
    let mut client = sluice.connect("epfo");
    assert_eq!(count(&mut client, up).value(), "5");
    fleet.cluster.stop_immediate();
    assert_eq!(count(&mut client, up).value(), "5");
    assert_eq!(count(&mut client, down).status, 'I');
    assert_eq!(count(&mut client, up).value(), "5");
    assert_eq!(count(&mut sluice.connect("epfo"), up).value(), "5", "new sessions are let in");
    fleet.cluster.restart();
    wait_until("the shards are back", || count(&mut client, down).rows == ["5"]);
}

#[test]
fn queries_do_not_depend_on_the_catalog() {
    let fleet = Fleet::start().filled();
    let mut sluice = fleet.sluice();
    let organizations = fleet.spread(4);
    let mut client = sluice.connect("epfo");
    stop_catalog(&fleet);
    for &organization in &organizations {
        assert_eq!(count(&mut client, organization).value(), "5");
    }
    // DDL says that it is committed on the shards, and what is missing.
    let answer = client.query("CREATE TABLE loans (organization_id bigint PRIMARY KEY)");
    assert_eq!((answer.code(), answer.status), ("58000", 'I'));
    // A start without the catalog takes the map from the disk.
    sluice.restart();
    let mut client = sluice.connect("epfo");
    for &organization in &organizations {
        assert_eq!(count(&mut client, organization).value(), "5");
    }
    fleet.cluster.psql("postgres", &format!("ALTER DATABASE {CATALOG} ALLOW_CONNECTIONS true"));
    fleet.on_catalog("INSERT INTO sluice.tables VALUES ('epfo', 'public', 'loans', 'sharded', '{organization_id}')");
    let insert = format!("INSERT INTO loans VALUES ({})", organizations[0]);
    wait_until("the catalog is read again", || client.query(&insert).errors.is_empty());
}

#[test]
fn an_organization_that_moves_is_followed() {
    let fleet = Fleet::start().filled();
    let sluice = fleet.sluice();
    let mut client = sluice.connect("epfo");
    let [a, b] = fleet.spread(2)[..] else { unreachable!() };
    let target = fleet.shard_of(b);
    fleet.on_shard(target, &format!("INSERT INTO members VALUES ({a}, 77, 'moved', 1)"));
    assert_eq!(count(&mut client, a).value(), "5");
    fleet.on_catalog(&format!("INSERT INTO sluice.overrides VALUES ('epfo', '{a}', {target})"));
    wait_until("the override is known", || count(&mut client, a).rows == ["1"]);
    let join = format!("SELECT count(*) FROM members WHERE organization_id IN ({a}, {b})");
    assert_eq!(client.query(&join).value(), "6", "both are on one shard now");
    fleet.on_catalog("DELETE FROM sluice.overrides");
    wait_until("the override is gone", || count(&mut client, a).rows == ["5"]);
}

#[test]
fn a_shard_that_moves_is_followed() {
    let fleet = Fleet::start().filled();
    let [a] = fleet.spread(1)[..] else { unreachable!() };
    let shard = fleet.shard_of(a);
    fleet.cluster.psql("postgres", &format!("CREATE DATABASE elsewhere TEMPLATE {}", shard_name(shard as u16)));
    fleet.cluster.psql("elsewhere", &format!("DELETE FROM members WHERE organization_id = {a} AND id > 2"));
    let sluice = fleet.sluice();
    let mut client = sluice.connect("epfo");
    assert_eq!(count(&mut client, a).value(), "5");
    fleet.on_catalog(&format!("UPDATE sluice.shards SET dbname = 'elsewhere' WHERE shard = {shard}"));
    wait_until("the placement is known", || count(&mut client, a).rows == ["2"]);
}
