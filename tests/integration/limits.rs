//! How many servers there are, and who gets them: sizes, limits across pools, the queue.

use std::thread;
use std::time::{Duration, Instant};

use sluice_test_harness::Cluster;

use crate::support::{Client, Login, Sluice, Stand, databases, eventually};

/// Waits until so many clients are in the pool's queue.
fn await_queue(stand: &Stand, count: usize) {
    let mut console = stand.sluice.log_in_by_unix_socket(&Login { user: "pgbouncer".into(), ..Login::to("pgbouncer") });
    eventually("clients wait", || {
        let pools = console.ok("SHOW POOLS").rows();
        let waiting = pools
            .iter()
            .filter(|row| row[0].as_deref() != Some("pgbouncer"))
            .map(|row| row[3].clone().unwrap_or_default());
        waiting.map(|count| count.parse::<usize>().unwrap_or_default()).sum::<usize>() == count
    });
}

/// A client that holds a server in a transaction.
fn holder(stand: &Stand) -> Client {
    let mut client = stand.client();
    client.ok("BEGIN");
    client.ok("SELECT 1");
    client
}

#[test]
fn waiters_are_served_in_the_order_in_which_they_came() {
    let stand = Stand::start(&["default_pool_size = 1"]);
    let mut holder = holder(&stand);
    stand.direct("CREATE TABLE came (number serial, who int)");
    let mut waiters = Vec::new();
    for who in 0..8 {
        let mut waiter = stand.client();
        waiter.send_query(&format!("INSERT INTO came (who) VALUES ({who})"));
        await_queue(&stand, who + 1);
        waiters.push(waiter);
    }
    holder.ok("COMMIT");
    for waiter in &mut waiters {
        assert_eq!(waiter.answer().completed(), ["INSERT 0 1"]);
    }
    assert_eq!(stand.direct("SELECT string_agg(who::text, '' ORDER BY number) FROM came"), "01234567");
}

#[test]
fn a_waiter_that_leaves_gives_up_its_place() {
    let stand = Stand::start(&["default_pool_size = 1"]);
    let mut holder = holder(&stand);
    let mut first = stand.client();
    first.send_query("CREATE TABLE never_made (a int)");
    await_queue(&stand, 1);
    let mut second = stand.client();
    second.send_query("SELECT 2");
    await_queue(&stand, 2);
    drop(first);
    await_queue(&stand, 1);
    holder.ok("COMMIT");
    assert_eq!(second.answer().column(), ["2"]);
    assert_eq!(stand.direct("SELECT to_regclass('never_made') IS NULL"), "t");
    stand.assert_healthy();
}

#[test]
fn the_pool_never_grows_beyond_its_size() {
    let stand = Stand::start(&["default_pool_size = 3"]);
    let clients: Vec<_> = (0..12)
        .map(|_| {
            let mut client = stand.client();
            thread::spawn(move || {
                for _ in 0..20 {
                    client.ok("BEGIN");
                    client.ok("SELECT pg_sleep(0.001)");
                    client.ok("COMMIT");
                }
            })
        })
        .collect();
    let mut most = 0;
    while clients.iter().any(|client| !client.is_finished()) {
        most = most.max(stand.servers("true"));
    }
    clients.into_iter().for_each(|client| client.join().expect("a client"));
    assert_eq!(most, 3);
}

#[test]
fn every_client_gets_its_turn() {
    let stand = Stand::start(&["default_pool_size = 2"]);
    let until = Instant::now() + Duration::from_secs(2);
    let clients: Vec<_> = (0..16)
        .map(|_| {
            let mut client = stand.client();
            thread::spawn(move || {
                let mut done = 0;
                while Instant::now() < until {
                    client.ok("SELECT 1");
                    done += 1;
                }
                done
            })
        })
        .collect();
    let done: Vec<i32> = clients.into_iter().map(|client| client.join().expect("a client")).collect();
    let (least, most) = (done.iter().min().expect("16"), done.iter().max().expect("16"));
    assert!(*least * 4 > *most, "somebody starves: {done:?}");
}

#[test]
fn the_minimum_is_opened_without_being_asked_for_and_kept() {
    let stand = Stand::start(&["default_pool_size = 5", "min_pool_size = 3", "server_idle_timeout = 1"]);
    let _client = stand.client();
    stand.await_servers("true", 3);
    stand.direct("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name <> 'psql' AND backend_type = 'client backend'");
    stand.await_servers("true", 3);
    thread::sleep(Duration::from_millis(1800));
    assert_eq!(stand.servers("true"), 3, "the idle timeout spares the minimum");
}

#[test]
fn the_reserve_is_opened_for_who_has_waited_long_enough() {
    let stand = Stand::start(&["default_pool_size = 1", "reserve_pool_size = 1", "reserve_pool_timeout = 1"]);
    let mut holder = holder(&stand);
    let mut second = stand.client();
    let began = Instant::now();
    assert_eq!(second.value("SELECT 2"), "2");
    assert!(began.elapsed() >= Duration::from_millis(900), "too early: {:?}", began.elapsed());
    assert_eq!(stand.servers("true"), 2);
    second.ok("BEGIN");
    second.ok("SELECT 1");
    let mut third = stand.client();
    third.send_query("SELECT 3");
    assert!(third.is_silent_for(Duration::from_millis(1700)), "the reserve is used up");
    holder.ok("COMMIT");
    assert_eq!(third.answer().column(), ["3"]);
}

#[test]
fn max_db_connections_evicts_the_longest_idle_server_of_another_user() {
    let stand = Stand::start(&["default_pool_size = 5", "max_db_connections = 2"]);
    stand.direct("CREATE ROLE other LOGIN");
    let users = "\"postgres\" \"\"\n\"other\" \"\"\n";
    let sluice = crate::support::Sluice::start_with_users(
        &crate::support::databases(&stand.cluster, ""),
        &["default_pool_size = 5", "max_db_connections = 2"],
        users,
    );
    let (mut one, mut two) = (sluice.client(), sluice.client());
    one.ok("BEGIN");
    two.ok("BEGIN");
    let mut backends = vec![one.backend(), two.backend()];
    one.ok("COMMIT");
    two.ok("COMMIT");
    let mut other = sluice.log_in(&Login::user("other"));
    assert_eq!(other.value("SELECT current_user"), "other");
    let left = stand.direct("SELECT pid FROM pg_stat_activity WHERE usename = 'postgres' AND application_name <> 'psql' AND backend_type = 'client backend'");
    assert_eq!(left.lines().count(), 1, "one was evicted for the other user: {left}");
    backends.retain(|backend| *backend == left);
    assert_eq!(backends.len(), 1);
    // Nothing idle is left to be evicted: one has to wait.
    other.ok("BEGIN");
    other.ok("SELECT 1");
    one.ok("BEGIN");
    one.ok("SELECT 1");
    two.send_query("SELECT 5");
    assert!(two.is_silent_for(Duration::from_millis(500)));
    other.ok("COMMIT");
    assert_eq!(two.answer().column(), ["5"]);
}

#[test]
fn max_user_connections_holds_over_all_databases() {
    let stand = Stand::start(&["default_pool_size = 5", "max_user_connections = 1"]);
    stand.cluster.create_database("other");
    let mut one = stand.client();
    let mut two = stand.sluice.log_in(&Login::to("other"));
    assert_eq!(two.value("SELECT current_database()"), "other");
    assert_eq!(stand.servers("true"), 1);
    one.ok("BEGIN");
    one.ok("SELECT 1");
    two.send_query("SELECT 2");
    assert!(two.is_silent_for(Duration::from_millis(500)), "the only connection is taken");
    one.ok("COMMIT");
    assert_eq!(two.answer().column(), ["2"]);
}

#[test]
fn a_pool_size_of_the_entry_beats_the_default() {
    let stand = Stand::with_entry("pool_size=2", &["default_pool_size = 1"]);
    let (_one, _two) = (holder(&stand), holder(&stand));
    assert_eq!(stand.servers("true"), 2);
    let mut third = stand.client();
    third.send_query("SELECT 3");
    assert!(third.is_silent_for(Duration::from_millis(300)));
}

#[test]
fn too_many_clients_are_told_so() {
    let stand = Stand::start(&["max_client_conn = 2"]);
    let (one, mut two) = (stand.client(), stand.client());
    let refused = Client::log_in(&stand.sluice.address(), &Login::default()).err().expect("a refusal");
    assert_eq!(
        (refused.severity.as_str(), refused.code.as_str(), refused.message.as_str()),
        ("FATAL", "53300", "no more connections allowed (max_client_conn)")
    );
    // The console is exempt.
    stand
        .sluice
        .log_in_by_unix_socket(&Login { user: "pgbouncer".into(), ..Login::to("pgbouncer") })
        .ok("SHOW VERSION");
    drop(one);
    eventually("a place is free", || Client::log_in(&stand.sluice.address(), &Login::default()).is_ok());
    two.ok("SELECT 1");
}

#[test]
fn too_many_clients_of_a_database_or_a_user_are_told_so() {
    for (setting, text) in [
        ("max_db_client_connections = 1", "client connections exceeded (max_db_client_connections)"),
        ("max_user_client_connections = 1", "client connections exceeded (max_user_client_connections)"),
    ] {
        let stand = Stand::start(&[setting]);
        let _one = stand.client();
        let refused = Client::log_in(&stand.sluice.address(), &Login::default()).err().expect("a refusal");
        assert_eq!((refused.code.as_str(), refused.message.as_str()), ("53300", text));
    }
}

/// They are asked first: who is refused for them has not been asked for a password.
#[test]
fn limits_for_clients_come_before_the_login() {
    for setting in ["max_client_conn = 1", "max_db_client_connections = 1", "max_user_client_connections = 1"] {
        let cluster = sluice_test_harness::Cluster::start();
        let settings = ["auth_type = scram-sha-256", setting];
        let sluice = Sluice::start_with_users(&databases(&cluster, ""), &settings, "\"postgres\" \"secret\"\n");
        let _one = sluice.log_in(&Login::default().with_password("secret"));
        let mut client = Client::open(&sluice.address());
        client.start(&Login::default());
        let answer = client.until_closed();
        assert_eq!(
            (answer.tags().as_str(), answer.error().expect("a refusal").code.as_str()),
            ("E", "53300"),
            "{setting}"
        );
    }
}

/// A server that comes back just when a client takes its place in the queue must not stay idle in front of it.
#[test]
fn nobody_is_left_in_the_queue_of_an_idle_server() {
    let stand = Stand::start(&["default_pool_size = 1", "worker_threads = 4", "query_wait_timeout = 5"]);
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let mut client = stand.client();
            thread::spawn(move || {
                for number in 0..1500 {
                    assert_eq!(client.value(&format!("SELECT {number}")), number.to_string());
                }
            })
        })
        .collect();
    for client in clients {
        client.join().expect("everybody is served");
    }
    stand.assert_healthy();
}

#[test]
fn a_client_that_waits_is_shown_with_how_long_it_has_waited() {
    let stand = Stand::start(&["default_pool_size = 1"]);
    let mut console = stand.sluice.log_in_by_unix_socket(&Login { user: "pgbouncer".into(), ..Login::to("pgbouncer") });
    let mut holder = holder(&stand);
    let mut waiter = stand.client();
    waiter.send_query("SELECT 1");
    // Columns of SHOW CLIENTS.
    let (state, wait) = (4, 11);
    eventually("it has waited for a second", || {
        let clients = console.ok("SHOW CLIENTS").rows();
        clients.iter().any(|row| row[state].as_deref() == Some("waiting") && row[wait].as_deref() == Some("1"))
    });
    holder.ok("COMMIT");
    assert_eq!(waiter.answer().column(), ["1"]);
}

#[test]
fn the_minimum_is_opened_for_a_forced_user_before_any_client_comes() {
    let cluster = Cluster::start();
    let host = cluster.socket_dir().display().to_string();
    let entries = format!(
        "forced = host={host} dbname=postgres user=postgres min_pool_size=2\nfree = host={host} min_pool_size=2"
    );
    let _sluice = Sluice::start(&entries, &[]);
    let servers =
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name <> 'psql'";
    eventually("two servers", || cluster.psql("postgres", servers) == "2");
    thread::sleep(Duration::from_millis(700));
    assert_eq!(cluster.psql("postgres", servers), "2");
}

#[test]
fn the_minimum_evicts_nobody() {
    let cluster = Cluster::start();
    cluster.psql("postgres", "CREATE ROLE bob LOGIN");
    let entry = format!("postgres = host={} max_db_connections=2 min_pool_size=2", cluster.socket_dir().display());
    let sluice = Sluice::start_with_users(&entry, &[], "\"postgres\" \"\"\n\"bob\" \"\"\n");
    let mut clients: Vec<Client> = ["postgres", "bob"].map(|user| sluice.log_in(&Login::user(user))).into();
    for _ in 0..2 {
        clients.iter_mut().for_each(|client| drop(client.ok("SELECT 1")));
        thread::sleep(Duration::from_millis(700));
    }
    // Bob's first server took the place of one; nobody asked for more.
    let evicted = sluice.log().matches("closing because: evicted").count();
    assert!(evicted <= 1, "{evicted} were evicted: {}", sluice.log());
}
