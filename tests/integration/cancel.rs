//! Cancel requests: they reach the query that is meant, and no other.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use sluice_test_harness::Cluster;

use crate::support::{Batch, Client, Login, Sluice, Stand, cancel, console, eventually, free_port};

fn await_sleep(stand: &Stand, count: usize) {
    stand.await_servers("query LIKE '%pg_sleep%' AND state = 'active'", count);
}

fn assert_cancelled(client: &mut Client) {
    let error = client.answer().error().expect("it was cancelled");
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("ERROR", "57014"));
    assert_eq!(error.message, "canceling statement due to user request");
    assert_eq!(client.value("SELECT 1"), "1");
}

#[test]
fn a_query_is_cancelled_over_tcp_and_over_the_unix_socket() {
    let stand = Stand::start(&["default_pool_size = 1"]);
    for address in [stand.sluice.address(), stand.sluice.unix_address()] {
        let mut client = Client::log_in(&address, &Login::default()).expect("a login");
        client.send_query("SELECT pg_sleep(600)");
        await_sleep(&stand, 1);
        cancel(&address, &client.cancel_packet());
        assert_cancelled(&mut client);
    }
}

#[test]
fn keys_of_protocol_3_2_are_long_and_compared_whole() {
    let stand = Stand::start(&[]);
    let mut client = stand.sluice.log_in(&Login { minor: 2, ..Login::default() });
    let key = client.key.clone().expect("a key");
    assert!(key.secret.len() > 4, "{} bytes", key.secret.len());
    client.send_query("SELECT pg_sleep(600)");
    await_sleep(&stand, 1);
    let mut wrong = client.cancel_packet();
    *wrong.last_mut().expect("a byte") ^= 1;
    cancel(&stand.sluice.address(), &wrong);
    let short = client.cancel_packet()[..16].to_vec();
    let short = [&16_u32.to_be_bytes()[..], &short[4..]].concat();
    cancel(&stand.sluice.address(), &short);
    assert!(client.is_silent_for(Duration::from_millis(300)), "a wrong key cancels nothing");
    cancel(&stand.sluice.address(), &client.cancel_packet());
    assert_cancelled(&mut client);
}

#[test]
fn a_query_in_a_transaction_is_cancelled_and_the_transaction_fails() {
    let stand = Stand::start(&["default_pool_size = 1"]);
    let mut client = stand.client();
    client.ok("BEGIN");
    client.run(Batch::new().run("SELECT 1", &[]).sync());
    client.send(&Batch::new().run("SELECT pg_sleep(600)", &[]).sync().0);
    await_sleep(&stand, 1);
    cancel(&stand.sluice.address(), &client.cancel_packet());
    let answer = client.answer();
    assert_eq!((answer.error().expect("cancelled").code.as_str(), answer.status()), ("57014", Some('E')));
    client.ok("ROLLBACK");
    stand.assert_healthy();
}

#[test]
fn cancelling_an_idle_client_does_nothing() {
    let stand = Stand::start(&["default_pool_size = 1"]);
    let (mut idle, mut other) = (stand.client(), stand.client());
    idle.ok("SELECT 1");
    other.send_query("SELECT pg_sleep(0.5), 8");
    await_sleep(&stand, 1);
    cancel(&stand.sluice.address(), &idle.cancel_packet());
    assert_eq!(other.answer().rows()[0][1].as_deref(), Some("8"));
}

/// Requests for one server are sent one after another, so that they take no more connections than there are servers; those
/// that wait find that it has been done.
#[test]
fn requests_for_one_query_go_one_by_one() {
    let port = free_port();
    let cluster = Cluster::start_with(&[("listen_addresses", "127.0.0.1"), ("port", &port.to_string())]);
    let relay = TcpListener::bind("127.0.0.1:0").expect("a port");
    let relay_port = relay.local_addr().expect("an address").port();
    let sluice = Sluice::start(
        &format!("postgres = host=127.0.0.1 port={relay_port}"),
        &["server_tls_sslmode = disable", "default_pool_size = 1"],
    );
    let listener = relay.try_clone().expect("a handle");
    let connect = move || TcpStream::connect(("127.0.0.1", port)).expect("PostgreSQL");
    let server = thread::spawn(move || {
        let (mut left, mut right) = (listener.accept().expect("a connection").0, connect());
        let (mut back, mut forth) = (right.try_clone().expect("a handle"), left.try_clone().expect("a handle"));
        thread::spawn(move || std::io::copy(&mut back, &mut forth));
        thread::spawn(move || std::io::copy(&mut left, &mut right));
    });
    let mut client = sluice.client();
    server.join().expect("a server connection");
    client.send_query("SELECT pg_sleep(600)");
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)' AND state = 'active'";
    eventually("it sleeps", || cluster.psql("postgres", sleeping) == "1");
    let (packet, address) = (client.cancel_packet(), sluice.address());
    let cancels: Vec<_> = (0..3)
        .map(|_| {
            let (packet, address) = (packet.clone(), address.clone());
            thread::spawn(move || cancel(&address, &packet))
        })
        .collect();
    let (mut held, _) = relay.accept().expect("the first request");
    let counts = || {
        let rows = console(&sluice).ok("SHOW POOLS").rows();
        let row = rows.into_iter().find(|row| row[0].as_deref() == Some("postgres")).expect("the pool");
        (row[4].clone().unwrap_or_default(), row[5].clone().unwrap_or_default())
    };
    eventually("two wait for it", || counts() == ("1".to_owned(), "2".to_owned()));
    let mut request = [0; 16];
    held.read_exact(&mut request).expect("a request");
    let mut postgresql = connect();
    postgresql.write_all(&request).expect("it is passed on");
    assert_eq!(client.answer().error().map(|error| error.code).as_deref(), Some("57014"));
    drop(held);
    cancels.into_iter().for_each(|cancel| cancel.join().expect("it ends"));
    assert_eq!(client.value("SELECT 1"), "1");
    relay.set_nonblocking(true).expect("an option");
    assert!(relay.accept().is_err(), "the others had nothing to send");
}

/// Clients that are cancelled all the time share their only server with clients that are not: these must never notice.
#[test]
fn a_storm_of_cancels_hits_nobody_else() {
    let stand = Stand::start(&["default_pool_size = 1"]);
    let address = stand.sluice.address();
    let victims: Vec<_> = (0..2)
        .map(|_| {
            let mut client = stand.client();
            thread::spawn(move || {
                for number in 0..150 {
                    let value = client.value(&format!("SELECT {number} FROM pg_sleep(0.002)"));
                    assert_eq!(value, number.to_string());
                }
            })
        })
        .collect();
    let stormy: Vec<_> = (0..2)
        .map(|_| {
            let mut client = stand.client();
            let (packet, address) = (client.cancel_packet(), address.clone());
            thread::spawn(move || {
                for _ in 0..60 {
                    client.send_query("SELECT pg_sleep(0.003)");
                    for _ in 0..3 {
                        cancel(&address, &packet);
                    }
                    let error = client.answer().error();
                    assert!(error.is_none_or(|error| error.code == "57014"));
                }
            })
        })
        .collect();
    for thread in victims.into_iter().chain(stormy) {
        thread.join().expect("nobody else is cancelled");
    }
    stand.assert_healthy();
}
