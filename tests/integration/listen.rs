//! LISTEN and NOTIFY on servers that clients share.

use std::time::Duration;

use crate::support::{Batch, Client, Login, Stand, console, eventually};

fn one_server() -> Stand {
    Stand::start(&["default_pool_size = 1"])
}

/// The next message has to be this notification.
fn assert_hears(client: &mut Client, channel: &str, payload: &str) {
    let message = client.read();
    assert_eq!(message.tag, b'A', "{message:?}");
    assert_eq!(message.body[4..], *format!("{channel}\0{payload}\0").as_bytes(), "{message:?}");
}

fn assert_quiet(client: &mut Client) {
    assert!(client.is_silent_for(Duration::from_millis(300)));
}

/// Connections that PostgreSQL has from Sluice beside those of the pool.
fn listeners(stand: &Stand) -> usize {
    stand.servers("query LIKE 'LISTEN%' OR query LIKE 'UNLISTEN%'")
}

#[test]
fn clients_that_listen_keep_no_server() {
    let stand = one_server();
    let mut clients: Vec<_> = (0..5).map(|_| stand.client()).collect();
    for client in &mut clients {
        assert_eq!(client.ok("LISTEN news").completed(), ["LISTEN"]);
        client.ok("LISTEN \"Other News\"");
    }
    stand.direct("NOTIFY news, 'one'");
    stand.direct("NOTIFY \"Other News\"");
    for client in &mut clients {
        assert_hears(client, "news", "one");
        assert_hears(client, "Other News", "");
        assert_eq!(client.value("SELECT 5"), "5");
    }
    assert_eq!(listeners(&stand), 1);
    clients[0].ok("UNLISTEN news");
    clients[1].ok("UNLISTEN *");
    clients[2].ok("DISCARD ALL");
    stand.direct("NOTIFY news, 'two'; NOTIFY \"Other News\", 'three'");
    assert_hears(&mut clients[0], "Other News", "three");
    assert_quiet(&mut clients[1]);
    assert_quiet(&mut clients[2]);
    assert_hears(&mut clients[3], "news", "two");
    assert_hears(&mut clients[3], "Other News", "three");
}

#[test]
fn nothing_is_missed_once_listen_has_answered() {
    let stand = Stand::start(&["default_pool_size = 2", "worker_threads = 2"]);
    let mut sender = stand.client();
    for round in 0..30 {
        let mut client = stand.client();
        client.ok("LISTEN race");
        sender.ok(&format!("NOTIFY race, '{round}'"));
        assert_hears(&mut client, "race", &round.to_string());
    }
}

#[test]
fn notifications_come_in_the_order_of_their_commits() {
    let stand = one_server();
    let (mut client, mut sender) = (stand.client(), stand.client());
    client.ok("LISTEN numbers");
    for number in 0..500 {
        sender.ok(&format!("SELECT pg_notify('numbers', '{number}')"));
    }
    for number in 0..500 {
        assert_hears(&mut client, "numbers", &number.to_string());
    }
}

#[test]
fn one_hears_oneself() {
    let stand = one_server();
    let mut client = stand.client();
    client.ok("LISTEN echo");
    client.ok("NOTIFY echo, 'me'");
    assert_hears(&mut client, "echo", "me");
    // Not in the middle of a transaction.
    client.ok("BEGIN");
    client.ok("SELECT 1");
    stand.direct("NOTIFY echo, 'later'");
    assert_quiet(&mut client);
    client.ok("COMMIT");
    assert_hears(&mut client, "echo", "later");
}

#[test]
fn by_the_extended_protocol_as_well() {
    let stand = one_server();
    let mut client = stand.client();
    assert_eq!(client.run(Batch::new().run("LISTEN news", &[]).sync()).tags(), "12CZ");
    stand.direct("NOTIFY news, 'x'");
    assert_hears(&mut client, "news", "x");
    assert_eq!(client.run(Batch::new().run("UNLISTEN news", &[]).sync()).tags(), "12CZ");
    stand.direct("NOTIFY news, 'y'");
    assert_quiet(&mut client);
}

#[test]
fn inside_a_transaction_the_session_keeps_its_server() {
    let stand = Stand::start(&["default_pool_size = 2"]);
    let mut client = stand.client();
    client.ok("LISTEN news");
    client.ok("BEGIN");
    client.ok("LISTEN news");
    client.ok("LISTEN more");
    client.ok("COMMIT");
    stand.direct("NOTIFY news, 'once'");
    stand.direct("NOTIFY more, 'also once'");
    assert_hears(&mut client, "news", "once");
    assert_hears(&mut client, "more", "also once");
    assert_quiet(&mut client);
    client.ok("UNLISTEN *");
    // What is rolled back never was.
    client.ok("LISTEN news");
    client.ok("BEGIN");
    client.ok("UNLISTEN news");
    client.ok("ROLLBACK");
    client.ok("BEGIN");
    client.ok("SAVEPOINT s");
    client.ok("UNLISTEN *");
    client.ok("ROLLBACK TO s");
    client.ok("COMMIT");
    stand.direct("NOTIFY news, 'still'");
    assert_hears(&mut client, "news", "still");
    client.ok("BEGIN");
    client.ok("UNLISTEN news");
    client.ok("COMMIT");
    stand.direct("NOTIFY news, 'no more'");
    assert_quiet(&mut client);
}

#[test]
fn whoever_may_have_missed_something_is_told() {
    let stand = one_server();
    let (mut idle, mut busy, mut other) = (stand.client(), stand.client(), stand.client());
    idle.ok("LISTEN news");
    busy.ok("LISTEN news");
    busy.ok("BEGIN; SELECT 1");
    stand.direct("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'");
    let error = idle.until_closed().error().expect("the reason");
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "08006"), "{error}");
    assert!(error.message.contains("notifications may have been missed"), "{error}");
    // It finishes its transaction first.
    assert_eq!(busy.value("SELECT 7"), "7");
    busy.ok("COMMIT");
    assert_eq!(busy.until_closed().error().expect("the reason").code, "08006");
    assert_eq!(other.value("SELECT 1"), "1", "those who don't listen notice nothing");
    other.ok("LISTEN news");
    stand.direct("NOTIFY news, 'again'");
    assert_hears(&mut other, "news", "again");
}

#[test]
fn reconnect_replaces_the_listener_too() {
    let stand = one_server();
    let mut client = stand.client();
    client.ok("LISTEN news");
    console(&stand.sluice).ok("RECONNECT");
    let error = client.until_closed().error().expect("the reason");
    assert_eq!(error.code, "08006");
    eventually("the connection is closed", || listeners(&stand) == 0);
}

#[test]
fn the_connection_ends_when_nobody_listens() {
    let stand = one_server();
    let mut client = stand.client();
    client.ok("LISTEN news");
    assert_eq!(listeners(&stand), 1);
    drop(client);
    eventually("the connection is closed", || listeners(&stand) == 0);
    let mut client = stand.client();
    client.ok("LISTEN news");
    stand.direct("NOTIFY news, 'anew'");
    assert_hears(&mut client, "news", "anew");
}

#[test]
fn a_client_that_takes_nothing_is_told_to_go() {
    let stand = one_server();
    let (mut client, mut witness) = (stand.client(), stand.client());
    client.ok("LISTEN flood");
    client.ok("BEGIN; SELECT 1");
    witness.ok("LISTEN flood");
    for _ in 0..4 {
        stand.direct("SELECT count(pg_notify('flood', n || repeat('x', 7000))) FROM generate_series(1, 900) n");
        for _ in 0..900 {
            assert_eq!(witness.read().tag, b'A');
        }
    }
    let error = client.until_closed().error().expect("the reason");
    assert_eq!(error.code, "53000", "{error}");
    stand.assert_healthy();
}

#[test]
fn channels_that_a_server_does_not_know_are_not_listed() {
    let stand = one_server();
    let mut client = stand.client();
    assert_eq!(client.ok("SELECT pg_listening_channels()").column(), Vec::<String>::new());
    client.ok("LISTEN news");
    assert_eq!(client.query("SELECT pg_listening_channels()").error().expect("refused").code, "0A000");
}

#[test]
fn a_paused_pool_lets_nobody_listen_yet() {
    let stand = one_server();
    let (mut client, mut admin) = (stand.client(), console(&stand.sluice));
    admin.ok("PAUSE");
    client.send_query("LISTEN news");
    assert_quiet(&mut client);
    admin.ok("RESUME");
    assert_eq!(client.answer().completed(), ["LISTEN"]);
}

#[test]
fn whoever_comes_while_the_last_one_leaves_is_not_forgotten() {
    let stand = Stand::start(&["default_pool_size = 2", "worker_threads = 2"]);
    let (mut leaving, mut coming) = (stand.client(), stand.client());
    for round in 0..100 {
        leaving.ok("LISTEN news");
        coming.send_query("LISTEN news");
        leaving.send_query("UNLISTEN news");
        assert_eq!(coming.answer().completed(), ["LISTEN"]);
        assert_eq!(leaving.answer().completed(), ["UNLISTEN"]);
        stand.direct(&format!("NOTIFY news, '{round}'"));
        assert_hears(&mut coming, "news", &round.to_string());
        coming.ok("UNLISTEN news");
    }
}

#[test]
fn many_that_listen_at_once_open_one_connection() {
    let stand = Stand::with_entry("user=app", &["default_pool_size = 1", "worker_threads = 2"]);
    stand.direct("CREATE ROLE app LOGIN CONNECTION LIMIT 2");
    let mut clients: Vec<_> = (0..40).map(|_| stand.client()).collect();
    clients.iter_mut().for_each(|client| client.send_query("LISTEN news"));
    for client in &mut clients {
        assert_eq!(client.answer().completed(), ["LISTEN"]);
    }
    stand.direct("NOTIFY news, 'all'");
    for client in &mut clients {
        assert_hears(client, "news", "all");
    }
}

#[test]
fn what_is_heard_comes_in_the_clients_encoding() {
    let stand = one_server();
    let login = Login::default().with("client_encoding", "LATIN1");
    let mut client = stand.sluice.log_in(&login);
    client.ok("LISTEN news");
    stand.direct("SELECT pg_notify('news', U&'caf\\00e9')");
    assert_eq!(client.read().body[4..], *b"news\0caf\xe9\0");
}

#[test]
fn what_a_changed_encoding_would_garble_is_not_sent() {
    let stand = one_server();
    let mut client = stand.client();
    client.ok("LISTEN news");
    client.ok("SET client_encoding = 'LATIN1'");
    stand.direct("NOTIFY news, 'plain'");
    assert_hears(&mut client, "news", "plain");
    stand.direct("SELECT pg_notify('news', U&'caf\\00e9')");
    assert_eq!(client.until_closed().error().expect("the reason").code, "0A000");
}
