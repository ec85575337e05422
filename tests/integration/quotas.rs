//! How many transactions a user or a database may begin in a second, whichever thread serves the client.

use std::time::{Duration, Instant};

use crate::support::{Stand, console, eventually};

/// How long `clients` take, at the same time, to run `count` transactions each.
fn time(stand: &Stand, clients: usize, count: usize) -> Duration {
    let mut clients: Vec<_> = (0..clients).map(|_| stand.client()).collect();
    let began = Instant::now();
    std::thread::scope(|scope| {
        for client in &mut clients {
            scope.spawn(move || (0..count).for_each(|_| drop(client.ok("SELECT 1"))));
        }
    });
    began.elapsed()
}

#[test]
fn a_users_transactions_begin_at_its_rate() {
    let settings = ["default_pool_size = 4", "worker_threads = 2", "max_user_transaction_rate = 20"];
    let stand = Stand::start(&settings);
    // A second's worth at once, then 40 more, at 20 a second.
    let took = time(&stand, 4, 15);
    assert!(took >= Duration::from_millis(1900), "60 transactions took {took:?}");
    let mut client = stand.client();
    assert_eq!(client.ok("SELECT 1; SELECT 2").column(), ["1", "2"], "one transaction, however many statements");
}

#[test]
fn a_transaction_counts_once() {
    let stand = Stand::start(&["max_db_transaction_rate = 5"]);
    let mut client = stand.client();
    let began = Instant::now();
    client.ok("BEGIN");
    for _ in 0..30 {
        client.ok("SELECT 1");
    }
    client.ok("COMMIT");
    assert!(began.elapsed() < Duration::from_secs(4), "30 transactions would take 5 seconds");
}

#[test]
fn reload_changes_the_rate_for_those_who_wait() {
    let stand = Stand::start(&["max_db_transaction_rate = 1"]);
    let (mut first, mut second) = (stand.client(), stand.client());
    first.ok("SELECT 1");
    let mut admin = console(&stand.sluice);
    admin.ok("SET max_db_transaction_rate = 1000");
    second.ok("SELECT 1");
    let took = time(&stand, 1, 50);
    assert!(took < Duration::from_secs(20), "{took:?}");
    admin.ok("SET max_db_transaction_rate = 0");
    first.ok("SELECT 1");
}

#[test]
fn who_waits_too_long_is_told_why() {
    let stand = Stand::start(&["max_user_transaction_rate = 1", "query_wait_timeout = 0.4"]);
    let mut clients: Vec<_> = (0..6).map(|_| stand.client()).collect();
    for client in &mut clients {
        client.send_query("SELECT 1");
    }
    let errors: Vec<_> = clients.iter_mut().filter_map(|client| client.answer().error()).collect();
    assert!(errors.len() >= 3, "{errors:?}");
    for error in errors {
        assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "57014"));
        assert!(error.detail.contains("max_user_transaction_rate"), "{error:?}");
    }
    // Their places in the queue are free.
    let mut client = stand.client();
    eventually("the user may go on", || {
        client.send_query("SELECT 1");
        let answer = client.answer();
        if answer.error().is_some() {
            client = stand.client();
        }
        answer.column() == ["1"]
    });
}
