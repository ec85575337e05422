//! Every wait ends: each timeout with its text and SQLSTATE, and with what happens to the server.

use std::time::{Duration, Instant};

use crate::support::{Batch, Client, Login, ServerError, Stand, eventually};

fn last_words(client: &mut Client) -> (String, String, String) {
    let ServerError { severity, code, message, .. } = client.until_closed().error().expect("the reason");
    (severity, code, message)
}

fn fatal(code: &str, message: &str) -> (String, String, String) {
    ("FATAL".to_owned(), code.to_owned(), message.to_owned())
}

#[test]
fn query_wait_timeout() {
    let stand = Stand::start(&["default_pool_size = 1", "query_wait_timeout = 1"]);
    let mut holder = stand.client();
    holder.ok("BEGIN");
    holder.ok("SELECT 1");
    let mut waiter = stand.client();
    let began = Instant::now();
    waiter.send_query("SELECT 1");
    assert_eq!(last_words(&mut waiter), fatal("57014", "query_wait_timeout"));
    assert!((900..3000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    holder.ok("COMMIT");
    stand.assert_healthy();
}

#[test]
fn a_client_that_waits_is_told_so() {
    let stand = Stand::start(&["default_pool_size = 1", "query_wait_notify = 1"]);
    let mut holder = stand.client();
    holder.ok("BEGIN");
    holder.ok("SELECT 1");
    let mut waiter = stand.client();
    waiter.send_query("SELECT 7");
    assert_eq!(waiter.read().tag, b'N');
    holder.ok("COMMIT");
    assert_eq!(waiter.answer().column(), ["7"]);
}

#[test]
fn query_timeout_ends_client_and_query() {
    let stand = Stand::start(&["default_pool_size = 1", "query_timeout = 1"]);
    let mut client = stand.client();
    client.ok("SELECT pg_sleep(0.1)");
    client.send_query("SELECT pg_sleep(600)");
    assert_eq!(last_words(&mut client), fatal("57014", "query timeout"));
    stand.await_servers("query LIKE '%pg_sleep(600)%' AND state = 'active'", 0);
    stand.assert_healthy();
}

#[test]
fn idle_transaction_timeout_ends_the_transaction() {
    let stand = Stand::start(&["default_pool_size = 1", "idle_transaction_timeout = 1"]);
    stand.direct("CREATE TABLE t (a int)");
    let mut client = stand.client();
    client.ok("BEGIN");
    client.ok("INSERT INTO t VALUES (1)");
    assert_eq!(last_words(&mut client), fatal("25P03", "idle transaction timeout"));
    stand.assert_healthy();
    assert_eq!(stand.direct("SELECT count(*) FROM t"), "0");
    // A busy transaction isn't idle.
    let mut busy = stand.client();
    busy.ok("BEGIN");
    for _ in 0..6 {
        busy.ok("SELECT pg_sleep(0.4)");
    }
    busy.ok("COMMIT");
}

#[test]
fn transaction_timeout_ends_even_a_busy_transaction() {
    let stand = Stand::start(&["default_pool_size = 1", "transaction_timeout = 1"]);
    let mut client = stand.client();
    client.ok("BEGIN");
    let began = Instant::now();
    let error = loop {
        let answer = client.query("SELECT pg_sleep(0.2)");
        if let Some(error) = answer.error() {
            break error;
        }
        assert!(began.elapsed() < Duration::from_secs(5), "the transaction goes on");
    };
    assert_eq!((error.severity, error.code, error.message), fatal("57014", "transaction timeout"));
    stand.assert_healthy();
}

#[test]
fn client_idle_timeout_spares_who_holds_a_server() {
    let stand = Stand::start(&["client_idle_timeout = 1"]);
    let mut idle = stand.client();
    let mut busy = stand.client();
    busy.ok("BEGIN");
    busy.ok("SELECT 1");
    assert_eq!(last_words(&mut idle), fatal("57P05", "client_idle_timeout"));
    busy.ok("COMMIT");
}

#[test]
fn server_idle_timeout_closes_idle_servers() {
    let stand = Stand::start(&["server_idle_timeout = 1"]);
    let mut client = stand.client();
    client.ok("SELECT 1");
    assert_eq!(stand.servers("true"), 1);
    stand.await_servers("true", 0);
    client.ok("SELECT 1");
}

#[test]
fn server_lifetime_replaces_servers_between_transactions() {
    let stand = Stand::start(&["default_pool_size = 1", "server_lifetime = 1"]);
    let mut client = stand.client();
    client.ok("BEGIN");
    let backend = client.backend();
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(client.backend(), backend, "not inside a transaction");
    client.ok("COMMIT");
    eventually("another server", || client.backend() != backend);
}

#[test]
fn a_lifetime_of_zero_uses_each_server_once() {
    let stand = Stand::start(&["default_pool_size = 1", "server_lifetime = 0"]);
    let mut client = stand.client();
    assert_ne!(client.backend(), client.backend());
}

#[test]
fn client_login_timeout_ends_a_start_up_packet_that_never_ends() {
    let stand = Stand::start(&["client_login_timeout = 1"]);
    let mut silent = Client::open(&stand.sluice.address());
    let mut slow = Client::open(&stand.sluice.address());
    slow.send(&[0, 0, 0, 100, 0, 3, 0, 0, b'u', b's']);
    for client in [&mut silent, &mut slow] {
        assert_eq!(last_words(client), fatal("08P01", "client_login_timeout"));
    }
    stand.assert_healthy();
}

#[test]
fn a_password_that_never_comes_is_a_login_that_never_ends() {
    let cluster = sluice_test_harness::Cluster::start();
    let settings = ["auth_type = md5", "client_login_timeout = 1"];
    let sluice = crate::support::Sluice::start_with_users(
        &crate::support::databases(&cluster, ""),
        &settings,
        "\"postgres\" \"secret\"\n",
    );
    let mut client = Client::open(&sluice.address());
    client.start(&Login::default());
    assert_eq!(client.read().tag, b'R');
    assert_eq!(last_words(&mut client), fatal("08P01", "client_login_timeout"));
}

#[test]
fn an_idle_pipeline_is_an_idle_transaction() {
    let stand = Stand::start(&["default_pool_size = 1", "idle_transaction_timeout = 1", "query_timeout = 2"]);
    let mut client = stand.client();
    client.send(&Batch::new().run("SELECT 1", &[]).flush().0);
    let ServerError { severity, .. } = client.until_closed().error().expect("the reason");
    assert_eq!(severity, "FATAL");
    stand.assert_healthy();
}

#[test]
fn a_server_that_never_answers_a_login_is_given_up() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let settings = ["server_connect_timeout = 1", "client_login_timeout = 3"];
    let sluice = crate::support::Sluice::start(&format!("* = host=127.0.0.1 port={port}"), &settings);
    let mut client = Client::open(&sluice.address());
    client.start(&Login::default());
    let error = client.finish_login(&Login::default()).expect_err("no server");
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "08006"));
    assert!(error.message.starts_with("client_login_timeout"), "{error}");
    assert!(sluice.log().contains("connect timeout"), "{}", sluice.log());
}

#[test]
fn query_timeout_counts_in_the_queue() {
    let stand = Stand::start(&["default_pool_size = 1", "query_timeout = 1"]);
    let mut holder = stand.client();
    holder.ok("BEGIN");
    holder.ok("SELECT 1");
    let mut waiter = stand.client();
    waiter.send_query("SELECT 1");
    assert_eq!(last_words(&mut waiter), fatal("57014", "query_timeout"));
    holder.ok("COMMIT");
    stand.assert_healthy();
}

/// A pool that was filled at one moment isn't emptied at another.
#[test]
fn servers_of_one_age_retire_one_by_one() {
    let stand = Stand::start(&["default_pool_size = 4", "server_lifetime = 8", "max_client_conn = 10"]);
    let mut clients: Vec<Client> = (0..4).map(|_| stand.client()).collect();
    clients.iter_mut().for_each(|client| drop(client.ok("BEGIN; SELECT 1")));
    clients.iter_mut().for_each(|client| drop(client.ok("COMMIT")));
    stand.await_servers("true", 4);
    let times = || -> Vec<String> {
        let log = stand.sluice.log();
        let old = log.lines().filter(|line| line.contains("closing because: server lifetime over"));
        old.filter_map(|line| line.split(' ').nth(1)).map(str::to_owned).collect()
    };
    eventually("two have gone", || times().len() >= 2);
    let millis = |time: &str| -> u64 {
        let parts: Vec<f64> = time.split(':').map(|part| part.parse().expect("a number")).collect();
        ((parts[0] * 60.0 + parts[1]) * 60_000.0 + parts[2] * 1000.0) as u64
    };
    let times = times();
    let apart = (millis(&times[1]) + 86_400_000 - millis(&times[0])) % 86_400_000;
    assert!(apart >= 1_990, "they went {apart} ms apart: {times:?}");
}
