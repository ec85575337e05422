//! What is cleared away by itself: pools and entries that nobody uses, cancel requests that don't get through, and servers
//! that a session client would keep.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{Client, Login, Stand, cancel, eventually};

fn console(stand: &Stand) -> Client {
    stand.sluice.log_in_by_unix_socket(&Login { user: "pgbouncer".to_owned(), ..Login::to("pgbouncer") })
}

/// Whether a row of a SHOW command begins with `name`.
fn shows(stand: &Stand, command: &str, name: &str) -> bool {
    let rows = console(stand).ok(command).rows();
    rows.iter().any(|row| row[0].as_deref() == Some(name))
}

#[test]
fn a_pool_that_nobody_uses_is_forgotten_and_its_statistics_are_not() {
    let stand = Stand::start(&["pool_idle_timeout = 1", "server_idle_timeout = 1"]);
    let mut client = stand.client();
    for _ in 0..3 {
        client.ok("SELECT 1");
    }
    assert!(shows(&stand, "SHOW POOLS", "postgres"));
    // Without servers, but not without a client.
    stand.await_servers("true", 0);
    std::thread::sleep(Duration::from_millis(1700));
    assert!(shows(&stand, "SHOW POOLS", "postgres"));
    client.terminate();
    eventually("the pool is forgotten", || !shows(&stand, "SHOW POOLS", "postgres"));
    assert!(
        stand
            .sluice
            .log()
            .contains("cleaning up idle pool for user postgres on db postgres because: pool idle timeout")
    );
    let totals = console(&stand).ok("SHOW STATS_TOTALS").rows();
    let counted = totals.iter().find(|row| row[0].as_deref() == Some("postgres")).expect("its statistics");
    assert_eq!(counted[3].as_deref(), Some("3"), "{counted:?}");
    stand.assert_healthy();
}

#[test]
fn an_entry_made_from_the_star_is_forgotten() {
    let stand = Stand::start(&["autodb_idle_timeout = 1", "server_idle_timeout = 1"]);
    let client = stand.client();
    assert!(shows(&stand, "SHOW DATABASES", "postgres"));
    stand.await_servers("true", 0);
    std::thread::sleep(Duration::from_millis(1700));
    assert!(shows(&stand, "SHOW DATABASES", "postgres"));
    client.terminate();
    eventually("the entry is forgotten", || !shows(&stand, "SHOW DATABASES", "postgres"));
    assert!(
        stand
            .sluice
            .log()
            .contains("dropping database 'postgres' as it does not exist anymore or inactive auto-database")
    );
    stand.assert_healthy();
}

/// A stopped postmaster: connections to it hang. Continued when dropped, so that it can be shut down.
struct Stopped(String);

impl Stopped {
    fn postmaster(stand: &Stand) -> Self {
        let file = stand.cluster.socket_dir().join("data/postmaster.pid");
        let pid = fs::read_to_string(file).expect("postmaster.pid").lines().next().expect("a pid").to_owned();
        Self::signal(&pid, "-STOP");
        Self(pid)
    }

    fn signal(pid: &str, signal: &str) {
        assert!(Command::new("kill").args([signal, pid]).status().expect("kill").success());
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        Self::signal(&self.0, "-CONT");
    }
}

#[test]
fn cancel_wait_timeout() {
    let stand = Stand::start(&["cancel_wait_timeout = 1"]);
    let mut client = stand.client();
    client.send_query("SELECT pg_sleep(3)");
    stand.await_servers("query LIKE '%pg_sleep(3)%' AND state = 'active'", 1);
    let stopped = Stopped::postmaster(&stand);
    let began = Instant::now();
    cancel(&stand.sluice.address(), &client.cancel_packet());
    let waited = began.elapsed().as_millis();
    drop(stopped);
    assert!((900..2900).contains(&waited), "{waited} ms");
    assert!(stand.sluice.log().contains("given up: cancel_wait_timeout"));
    client.answer();
    stand.assert_healthy();
}

#[test]
fn server_fast_close_ends_sessions_between_transactions() {
    let stand = Stand::start(&["pool_mode = session", "server_fast_close = 1"]);
    let (mut idle, mut busy) = (stand.client(), stand.client());
    idle.ok("SELECT 1");
    busy.ok("BEGIN");
    busy.ok("SELECT 1");
    console(&stand).ok("RECONNECT");
    let told = idle.until_closed().error().expect("the reason");
    assert_eq!((&*told.severity, &*told.code, &*told.message), ("FATAL", "57P01", "database configuration changed"));
    busy.ok("SELECT 2");
    busy.ok("COMMIT");
    assert_eq!(busy.until_closed().error().expect("the reason").message, "database configuration changed");
    console(&stand).ok("WAIT_CLOSE");
    stand.assert_healthy();
}

#[test]
fn without_server_fast_close_a_session_keeps_its_server() {
    let stand = Stand::start(&["pool_mode = session"]);
    let mut client = stand.client();
    let backend = client.backend();
    console(&stand).ok("RECONNECT");
    std::thread::sleep(Duration::from_millis(1000));
    assert_eq!(client.backend(), backend);
}

#[test]
fn a_server_that_was_idle_for_long_is_asked_first() {
    let settings =
        ["server_check_delay = 0.3", "server_check_query = SELECT 'are you there?'", "default_pool_size = 1"];
    let stand = Stand::start(&settings);
    let mut client = stand.client();
    let server = client.backend();
    let used = |stand: &Stand| {
        let rows = console(stand).ok("SHOW POOLS").rows();
        rows.iter().any(|row| row[0].as_deref() == Some("postgres") && row[10].as_deref() == Some("1"))
    };
    eventually("it is used", || used(&stand));
    assert_eq!(stand.servers("query LIKE '%are you there%'"), 0);
    let began = Instant::now();
    assert_eq!(client.value("SELECT pg_backend_pid()"), server);
    assert!(began.elapsed() < Duration::from_secs(5));
    // One that does not answer as it should is not handed out.
    console(&stand).ok("SET server_check_query = 'SELECT 1/0'");
    eventually("it is used again", || used(&stand));
    assert_ne!(client.backend(), server);
    assert!(stand.sluice.log().contains("closing because: test query failed"), "{}", stand.sluice.log());
}
