//! SUSPEND: everything stops where it is, and goes on as if nothing had been.

use std::time::{Duration, Instant};

use crate::support::{Batch, Client, Login, Stand, eventually};

const QUIET: Duration = Duration::from_millis(500);

fn console(stand: &Stand) -> Client {
    stand.sluice.log_in_by_unix_socket(&Login { user: "pgbouncer".to_owned(), ..Login::to("pgbouncer") })
}

fn state(console: &mut Client) -> Vec<String> {
    console.ok("SHOW STATE").rows().into_iter().filter_map(|row| row[1].clone()).collect()
}

#[test]
fn everything_waits_for_resume_and_nothing_is_lost() {
    let stand = Stand::start(&[]);
    let mut console = console(&stand);
    let (mut idle, mut in_transaction, mut running) = (stand.client(), stand.client(), stand.client());
    in_transaction.ok("BEGIN");
    let backend = in_transaction.backend();
    running.send_query("SELECT pg_sleep(1)");
    stand.await_servers("query LIKE '%pg_sleep(1)%' AND state = 'active'", 1);
    let began = Instant::now();
    console.ok("SUSPEND");
    assert!(began.elapsed() < Duration::from_millis(900), "it waits for no query: {:?}", began.elapsed());
    assert_eq!(state(&mut console), ["no", "no", "yes"]);
    let mut new = Client::open(&stand.sluice.address());
    new.start(&Login::default());
    idle.send_query("SELECT 41 + 1");
    assert!(idle.is_silent_for(QUIET));
    assert!(in_transaction.is_silent_for(QUIET));
    assert!(running.is_silent_for(QUIET));
    assert!(new.is_silent_for(QUIET));
    console.ok("RESUME");
    assert_eq!(idle.answer().column(), ["42"]);
    assert_eq!(in_transaction.backend(), backend);
    in_transaction.ok("COMMIT");
    assert_eq!(running.answer().column(), [""]);
    new.finish_login(&Login::default()).expect("a login");
    assert_eq!(state(&mut console), ["yes", "no", "no"]);
    stand.assert_healthy();
}

#[test]
fn it_is_refused_where_pgbouncer_refuses_it() {
    let stand = Stand::start(&["admin_users = postgres"]);
    let mut console = console(&stand);
    console.ok("PAUSE postgres");
    assert_eq!(console.error("SUSPEND").message, "cannot suspend with paused databases");
    console.ok("RESUME postgres");
    console.ok("PAUSE");
    assert_eq!(console.error("SUSPEND").message, "already suspended/paused");
    console.ok("RESUME");
    console.ok("SUSPEND");
    for again in ["SUSPEND", "PAUSE", "KILL"] {
        assert_eq!(console.error(again).message, "already suspended/paused", "{again}");
    }
    console.ok("RESUME");
    assert_eq!(console.error("RESUME").message, "pooler is not paused/suspended");
    stand.assert_healthy();
}

#[test]
fn it_ends_with_the_connection_that_asked_for_it() {
    let stand = Stand::start(&[]);
    let mut client = stand.client();
    let mut console = console(&stand);
    console.ok("SUSPEND");
    client.send_query("SELECT 7");
    assert!(client.is_silent_for(QUIET));
    console.terminate();
    assert_eq!(client.answer().column(), ["7"]);
    stand.assert_healthy();
}

#[test]
fn suspend_timeout_drops_those_who_do_not_read() {
    let stand = Stand::start(&["suspend_timeout = 1"]);
    // On TCP, the kernel goes on to carry bytes to the other end, and makes room.
    let mut deaf = stand.sluice.log_in_by_unix_socket(&Login::default());
    deaf.send(&Batch::new().query("SELECT repeat('x', 50000000)").0);
    let mut console = console(&stand);
    // PostgreSQL waits for a moment whenever it is faster; here it waits for good.
    let mut stuck = 0;
    eventually("all buffers are full", || {
        stuck = if stand.servers("wait_event = 'ClientWrite'") == 1 { stuck + 1 } else { 0 };
        stuck == 10
    });
    let began = Instant::now();
    console.ok("SUSPEND");
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    console.ok("RESUME");
    eventually("it is dropped", || stand.sluice.log().contains("closing because: suspend_timeout"));
    stand.assert_healthy();
}

#[test]
fn a_shutdown_does_not_wait_for_what_is_suspended() {
    let mut stand = Stand::start(&[]);
    let mut client = stand.client();
    client.ok("SELECT 1");
    let mut admin = console(&stand);
    admin.ok("SUSPEND");
    let sent = std::process::Command::new("kill").args(["-TERM", &stand.sluice.pid().to_string()]).status();
    assert!(sent.expect("kill").success());
    eventually("it ends, although a client is there", || !stand.sluice.is_alive());
}
