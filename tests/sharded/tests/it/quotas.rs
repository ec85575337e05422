//! How much one tenant may do.

use std::time::{Duration, Instant};

use crate::support::client::{INT8, Value};
use crate::support::fleet::Fleet;
use crate::support::wait_until;

fn names(organization: i64) -> String {
    format!("SELECT count(*) FROM members WHERE organization_id = {organization}")
}

#[test]
fn a_tenant_that_has_enough_under_way_waits_and_nobody_else_does() {
    let fleet = Fleet::start().filled();
    let sluice = fleet.sluice_with("max_tenant_transactions = 1\ndefault_pool_size = 5");
    let (busy, neighbour) = fleet.neighbours();
    let [mut first, mut second, mut other, mut admin] =
        ["epfo", "epfo", "epfo", "pgbouncer"].map(|name| sluice.connect(name));
    first.query("BEGIN").ok();
    first.query(&names(busy)).ok();
    second.send_query(&names(busy));
    wait_until("the tenant's second transaction waits", || {
        admin.query("SHOW CLIENTS").ok().rows.iter().any(|row| row.contains("waiting"))
    });
    other.query(&names(neighbour)).ok();
    other
        .extended("SELECT id FROM members WHERE organization_id = $1", &[INT8], &[Value::from(&*neighbour.to_string())])
        .ok();
    first.query(&names(busy)).ok();
    first.query("COMMIT").ok();
    assert_eq!(second.read_answer().ok().rows.len(), 1);
    // A failure and a disconnect make room as well.
    first.query("BEGIN").ok();
    first.query(&format!("{} AND 1/0 = 1", names(busy)));
    first.query("ROLLBACK").ok();
    second.query("BEGIN").ok();
    second.query(&names(busy)).ok();
    drop(second);
    first.query(&names(busy)).ok();
}

#[test]
fn a_tenant_has_its_own_rate() {
    let fleet = Fleet::start().filled();
    let sluice = fleet.sluice_with("max_tenant_transaction_rate = 5");
    let (busy, neighbour) = fleet.neighbours();
    let mut client = sluice.connect("epfo");
    let began = Instant::now();
    for _ in 0..12 {
        client.query(&names(busy)).ok();
    }
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(1300), "7 transactions beyond the first 5 took {took:?}");
    let began = Instant::now();
    for _ in 0..4 {
        client.query(&names(neighbour)).ok();
    }
    assert!(began.elapsed() < took);
}

#[test]
fn a_transaction_of_two_tenants_does_not_wait_for_itself() {
    let fleet = Fleet::start().filled();
    let sluice = fleet.sluice_with("max_tenant_transactions = 1\ndefault_pool_size = 5\nquery_wait_timeout = 3");
    let organizations = fleet.spread(2);
    let mut client = sluice.connect("epfo");
    for _ in 0..2 {
        client.query("BEGIN").ok();
        for organization in [0, 1, 0, 1] {
            client.query(&names(organizations[organization])).ok();
        }
        client.query("COMMIT").ok();
    }
}
