//! What can't be carried to another server keeps the session on its own, until it is gone.

use crate::support::{Batch, Client, Stand, eventually};

fn two_servers() -> Stand {
    Stand::start(&["default_pool_size = 2", "server_round_robin = 1"])
}

/// Uses the other server for a moment, so that an unpinned client would hop.
fn disturb(other: &mut Client) {
    other.ok("SELECT 1");
}

fn assert_pinned(client: &mut Client, other: &mut Client, because: &str) {
    let backend = client.backend();
    for _ in 0..4 {
        disturb(other);
        assert_eq!(client.backend(), backend, "{because}");
    }
}

fn assert_unpinned(stand: &Stand, client: &mut Client, after: &str) {
    let mut other = stand.client();
    let mut seen = std::collections::HashSet::new();
    for round in 0..6 {
        seen.insert(client.backend());
        // Not every time: two clients in strict turn would meet the same two servers again and again.
        if round % 2 == 0 {
            disturb(&mut other);
        }
    }
    assert!(seen.len() > 1, "still pinned after {after}");
}

/// Opens both servers of the pool.
fn warm_up(stand: &Stand) -> (Client, Client) {
    let (mut one, mut two) = (stand.client(), stand.client());
    one.ok("BEGIN");
    two.ok("BEGIN");
    assert_ne!(one.backend(), two.backend());
    one.ok("COMMIT");
    two.ok("COMMIT");
    (one, two)
}

#[test]
fn what_pins_and_what_unpins() {
    let stand = two_servers();
    let (mut client, mut other) = warm_up(&stand);
    let cases = [
        ("CREATE TEMP TABLE mine (a int)", "DROP TABLE mine"),
        ("CREATE TEMP TABLE mine AS SELECT 1", "DISCARD TEMP"),
        ("DECLARE held CURSOR WITH HOLD FOR SELECT generate_series(1, 3)", "CLOSE held"),
        ("BEGIN; LISTEN news; COMMIT", "UNLISTEN news"),
        ("BEGIN; LISTEN news; COMMIT", "UNLISTEN *"),
        ("SELECT pg_advisory_lock(1)", "SELECT pg_advisory_unlock(1)"),
        ("SELECT pg_try_advisory_lock_shared(1)", "SELECT pg_advisory_unlock_all()"),
        (r"PREPARE mine AS SELECT E'\\'", "DEALLOCATE mine"),
        (r"PREPARE mine AS SELECT E'\\'", "DISCARD ALL"),
    ];
    for (pins, unpins) in cases {
        client.ok(pins);
        assert_pinned(&mut client, &mut other, pins);
        client.ok(unpins);
        assert_unpinned(&stand, &mut client, unpins);
    }
}

#[test]
fn a_pinned_session_keeps_working() {
    let stand = two_servers();
    let (mut client, mut other) = warm_up(&stand);
    client.ok("CREATE TEMP TABLE mine (a int)");
    disturb(&mut other);
    client.ok("BEGIN");
    client.ok("INSERT INTO mine VALUES (1)");
    client.ok("COMMIT");
    client.ok("BEGIN");
    client.ok("INSERT INTO mine VALUES (2)");
    client.ok("ROLLBACK");
    let batch = Batch::new().parse("q", "SELECT count(*) FROM mine").run_prepared("q", &[]).sync();
    assert_eq!(client.run(batch).column(), ["1"]);
    client.ok("SET work_mem = '9MB'");
    assert_eq!(client.value("SHOW work_mem"), "9MB");
    client.ok("DROP TABLE mine");
    assert_unpinned(&stand, &mut client, "DROP TABLE");
    assert_eq!(client.value("SHOW work_mem"), "9MB");
}

#[test]
fn a_temporary_table_of_a_rolled_back_transaction_does_not_pin_for_ever() {
    let stand = two_servers();
    let (mut client, _other) = warm_up(&stand);
    client.ok("BEGIN");
    client.ok("CREATE TEMP TABLE mine (a int)");
    client.ok("ROLLBACK");
    assert_unpinned(&stand, &mut client, "ROLLBACK");
    client.ok("BEGIN");
    client.ok("CREATE TEMP TABLE mine (a int) ON COMMIT DROP");
    client.ok("COMMIT");
    assert_unpinned(&stand, &mut client, "COMMIT");
}

#[test]
fn a_held_cursor_is_read_over_several_transactions() {
    let stand = two_servers();
    let (mut client, mut other) = warm_up(&stand);
    client.ok("BEGIN");
    client.ok("DECLARE held CURSOR WITH HOLD FOR SELECT generate_series(1, 4)");
    client.ok("COMMIT");
    assert_eq!(client.ok("FETCH 2 FROM held").column(), ["1", "2"]);
    disturb(&mut other);
    assert_eq!(client.ok("FETCH 2 FROM held").column(), ["3", "4"]);
}

#[test]
fn an_advisory_lock_is_released_when_its_client_dies() {
    let stand = two_servers();
    let (mut client, mut other) = warm_up(&stand);
    client.ok("SELECT pg_advisory_lock(77)");
    assert_eq!(other.value("SELECT pg_try_advisory_lock(77)"), "f");
    drop(client);
    eventually("the lock is free", || other.value("SELECT pg_try_advisory_lock(77)") == "t");
}

#[test]
fn a_pinned_server_that_dies_ends_its_session() {
    let stand = two_servers();
    let mut client = stand.client();
    client.ok("CREATE TEMP TABLE mine (a int)");
    let backend = client.backend();
    stand.direct(&format!("SELECT pg_terminate_backend({backend})"));
    let error = client.until_closed().error().expect("the reason");
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "57P01"));
    stand.assert_healthy();
}

#[test]
fn a_pinned_server_does_not_starve_the_others() {
    let stand = Stand::start(&["default_pool_size = 1", "query_wait_timeout = 1"]);
    let mut client = stand.client();
    client.ok("CREATE TEMP TABLE mine (a int)");
    let mut other = stand.client();
    other.send_query("SELECT 1");
    let error = other.until_closed().error().expect("the only server is pinned");
    assert_eq!((error.code.as_str(), error.message.as_str()), ("57014", "query_wait_timeout"));
    client.ok("DROP TABLE mine");
    stand.assert_healthy();
}

/// Neither is taken back with what else its message did.
#[test]
fn locks_and_prepared_statements_outlive_the_error_behind_them() {
    let stand = two_servers();
    for sql in [
        "SELECT pg_advisory_lock(1); SELECT 1/0",
        "SELECT pg_advisory_lock(1), 1/0",
        "PREPARE mine AS SELECT 1; SELECT 1/0",
        "BEGIN; SELECT pg_advisory_lock(1); SELECT 1/0",
    ] {
        let mut client = stand.client();
        client.error(sql);
        client.query("ROLLBACK");
        drop(client);
        eventually(sql, || {
            let left = "SELECT (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted)";
            stand.direct(left) == "0"
        });
        let mut other = stand.client();
        for _ in 0..4 {
            assert_eq!(other.value("SELECT count(*) FROM pg_prepared_statements WHERE from_sql"), "0", "{sql}");
        }
    }
    // What left nothing keeps nobody.
    let (mut client, _other) = warm_up(&stand);
    client.error("LISTEN news; SELECT 1/0");
    assert_unpinned(&stand, &mut client, "an error");
}
