//! Commands of the console that act on clients and servers.

use crate::support::{Client, Login, Stand, cancel, console, eventually};

#[test]
fn wait_close_waits_for_servers_that_are_in_use() {
    let stand = Stand::start(&[]);
    let (mut admin, mut waiting) = (console(&stand.sluice), console(&stand.sluice));
    let mut client = stand.client();
    client.ok("BEGIN");
    let old = client.backend();
    admin.ok("RECONNECT");
    waiting.send_query("WAIT_CLOSE");
    assert!(waiting.is_silent_for(std::time::Duration::from_millis(500)));
    client.ok("COMMIT");
    assert_eq!(waiting.answer().completed(), ["WAIT_CLOSE"]);
    assert_ne!(client.backend(), old);
}

#[test]
fn kill_drops_everybody_and_pauses() {
    let stand = Stand::start(&[]);
    let mut admin = console(&stand.sluice);
    let (mut idle, mut busy) = (stand.client(), stand.client());
    busy.send_query("SELECT pg_sleep(60)");
    stand.await_servers("query LIKE '%pg_sleep%'", 1);
    admin.ok("KILL postgres");
    for client in [&mut idle, &mut busy] {
        let told = client.until_closed().error().expect("the reason");
        assert_eq!((told.severity.as_str(), told.message.as_str()), ("FATAL", "database removed"));
    }
    stand.await_servers("true", 0);
    let mut late = Client::open(&stand.sluice.address());
    late.start(&Login::default());
    assert!(late.is_silent_for(std::time::Duration::from_millis(500)), "it is paused");
    admin.ok("RESUME postgres");
    late.finish_login(&Login::default()).expect("a login");
    late.ok("SELECT 1");
}

#[test]
fn one_client_can_be_told_to_go() {
    let stand = Stand::start(&[]);
    let mut admin = console(&stand.sluice);
    let (mut goes, mut stays) = (stand.client(), stand.client());
    let ids: Vec<u64> = {
        let rows = admin.ok("SHOW CLIENTS").rows();
        let clients = rows.iter().filter(|row| row[2].as_deref() == Some("postgres"));
        clients.filter_map(|row| row[20].as_deref()?.parse().ok()).collect()
    };
    admin.ok(&format!("KILL_CLIENT {}", ids.iter().min().expect("a client")));
    let told = goes.until_closed().error().expect("the reason");
    assert_eq!((told.severity.as_str(), told.message.as_str()), ("FATAL", "admin forced disconnect"));
    stays.ok("SELECT 1");
    let closed = "closing because: admin forced disconnect (age=";
    eventually("it is logged", || stand.sluice.log().contains(closed));
}

#[test]
fn a_cancel_request_ends_a_pause_that_waits() {
    let stand = Stand::start(&[]);
    let mut admin = console(&stand.sluice);
    let mut client = stand.client();
    client.ok("BEGIN; SELECT 1");
    admin.send_query("PAUSE");
    eventually("it pauses", || {
        let state = console(&stand.sluice).ok("SHOW STATE").rows();
        state.iter().any(|row| row[0].as_deref() == Some("paused") && row[1].as_deref() == Some("yes"))
    });
    cancel(&stand.sluice.address(), &admin.cancel_packet());
    assert!(admin.answer().error().is_some(), "PAUSE has not come to its end");
    client.ok("COMMIT");
    stand.assert_healthy();
}
