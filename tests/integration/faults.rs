//! What goes wrong in the field: broken clients, servers that die, ports that are taken. Whoever is concerned is told, with
//! the right SQLSTATE; nobody else notices; nothing hangs, and no dirty server is used again.

use std::fs;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{
    Batch, Client, DEADLINE, Login, NO_TLS, Sluice, Stand, binary, databases, eventually, fake, fake_server,
    first_request, server_that_answers,
};

fn one_server() -> Stand {
    Stand::start(&["default_pool_size = 1"])
}

/// The connection ends, with or without a FATAL; what was said is returned.
fn ends(client: &mut Client) -> String {
    let answer = client.until_closed();
    answer.error().map_or(String::new(), |error| {
        assert_eq!(error.severity, "FATAL", "{error}");
        format!("{}: {}", error.code, error.message)
    })
}

#[test]
fn nonsense_before_login_is_refused() {
    let mut stand = one_server();
    let packets: [&[u8]; 9] = [
        b"GET / HTTP/1.1\r\nHost: example\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        &[0, 0, 0, 0],
        &[0, 0, 0, 7, 0, 3, 0],
        &[0xff; 64],
        &[0, 0, 0, 8, 0, 2, 0, 0],
        &[0, 0, 0, 8, 0, 3, 0, 0],
        &[0, 0, 0, 9, 0, 3, 0, 0, 0],
        &[0, 0, 0, 14, 0, 3, 0, 0, b'u', b's', b'e', b'r', 0, b'x'],
    ];
    for packet in packets {
        let mut client = Client::open(&stand.sluice.address());
        client.send(packet);
        // What looks like the beginning of a longer packet is waited for: say that there is no more.
        client.shut_down_writing();
        ends(&mut client);
    }
    assert!(stand.sluice.is_alive());
    stand.assert_healthy();
}

#[test]
fn a_message_before_authentication_is_not_obeyed() {
    let cluster = sluice_test_harness::Cluster::start();
    let sluice = Sluice::start_with_users(&databases(&cluster, ""), &["auth_type = md5"], "\"postgres\" \"secret\"\n");
    cluster.psql("postgres", "CREATE TABLE t (a int)");
    let mut client = Client::open(&sluice.address());
    client.start(&Login::default());
    client.send_query("INSERT INTO t VALUES (1)");
    let answer = client.until_closed();
    assert_eq!(answer.error().expect("a refusal").code, "08P01");
    assert_eq!(cluster.psql("postgres", "SELECT count(*) FROM t"), "0");
}

#[test]
fn encryption_requests_are_declined_and_nothing_may_hide_behind_them() {
    let stand = one_server();
    let ssl = [0, 0, 0, 8, 4, 210, 22, 47];
    let mut client = Client::open(&stand.sluice.address());
    for request in [ssl, [0, 0, 0, 8, 4, 210, 22, 48]] {
        client.send(&request);
        assert_eq!(client.read_byte(), b'N');
    }
    client.start(&Login::default());
    client.finish_login(&Login::default()).expect("in clear text then");
    assert_eq!(client.value("SELECT 1"), "1");
    // Smuggled behind the request.
    let mut client = Client::open(&stand.sluice.address());
    client.send(&[&ssl[..], &ssl[..]].concat());
    assert!(ends(&mut client).starts_with("08P01: received unencrypted data after SSL request"));
}

#[test]
fn broken_messages_end_the_session_and_nothing_else() {
    let mut stand = one_server();
    stand.direct("CREATE TABLE t (a int)");
    let broken: Vec<(&str, Vec<u8>)> = vec![
        ("unknown type", vec![b'!', 0, 0, 0, 4]),
        ("a length below four", vec![b'Q', 0, 0, 0, 3]),
        ("a negative length", vec![b'Q', 0xff, 0xff, 0xff, 0xff]),
        ("a length of gigabytes", vec![b'Q', 0x7f, 0xff, 0xff, 0xff]),
        ("a sync of gigabytes", vec![b'S', 0x7f, 0xff, 0xff, 0xff]),
        ("a query without its end", vec![b'Q', 0, 0, 0, 5, b'x']),
        ("a parse without its end", Batch::new().raw(b'P', b"name").sync().0),
        ("a bind of nothing", Batch::new().raw(b'B', b"").sync().0),
        ("a describe of neither", Batch::new().raw(b'D', b"Xname\0").sync().0),
        ("an execute cut short", Batch::new().raw(b'E', b"\0\0").sync().0),
        ("a server's message", Batch::new().raw(b'Z', b"I").0),
        ("a password out of place", Batch::new().raw(b'p', b"secret\0").0),
    ];
    for (what, bytes) in broken {
        let mut client = stand.client();
        client.ok("BEGIN; INSERT INTO t VALUES (1)");
        client.send(&bytes);
        let said = ends(&mut client);
        assert!(said.starts_with("08P01: "), "{what}: {said}");
    }
    assert!(stand.sluice.is_alive());
    stand.assert_healthy();
    assert_eq!(stand.direct("SELECT count(*) FROM t"), "0");
}

#[test]
fn random_bytes_after_login_never_reach_another_client() {
    let mut stand = one_server();
    for seed in 0..40_u64 {
        let mut client = stand.client();
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let bytes: Vec<u8> = (0..200)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 32) as u8
            })
            .collect();
        let mut message = vec![b"QPBDESCHdcfFX"[seed as usize % 13], 0, 0, 0, 204];
        message.extend(bytes);
        client.send(&message);
        drop(client);
    }
    assert!(stand.sluice.is_alive());
    stand.assert_healthy();
}

#[test]
fn max_packet_size_is_kept() {
    let stand = Stand::start(&["max_packet_size = 10000"]);
    let mut client = stand.client();
    assert_eq!(client.value(&format!("SELECT length('{}')", "x".repeat(9_000))), "9000");
    client.send_query(&format!("SELECT length('{}')", "x".repeat(20_000)));
    assert!(ends(&mut client).starts_with("08P01: "));
    stand.assert_healthy();
}

#[test]
fn a_server_that_dies_while_idle_is_not_handed_out() {
    let stand = one_server();
    let mut client = stand.client();
    for _ in 0..5 {
        let backend = client.backend();
        stand.direct(&format!("SELECT pg_terminate_backend({backend}, 5000)"));
        assert_ne!(client.backend(), backend);
    }
}

#[test]
fn a_server_that_dies_in_a_query_a_transaction_or_a_copy_ends_its_client_only() {
    let stand = Stand::start(&["default_pool_size = 2"]);
    stand.direct("CREATE TABLE t (a int)");
    let begin: [&dyn Fn(&mut Client); 4] = [
        &|client| client.send_query("SELECT pg_sleep(600)"),
        &|client| {
            client.ok("BEGIN");
            client.ok("INSERT INTO t VALUES (1)");
        },
        &|client| {
            client.send_query("COPY t FROM STDIN");
            client.until(b'G');
        },
        &|client| client.send(&Batch::new().run("SELECT pg_sleep(600)", &[]).sync().0),
    ];
    let mut bystander = stand.client();
    for (number, begin) in begin.iter().enumerate() {
        let mut client = stand.client();
        begin(&mut client);
        stand.await_servers("state <> 'idle'", 1);
        stand.direct("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE state <> 'idle' AND pid <> pg_backend_pid()");
        let answer = client.until_closed();
        let errors: Vec<_> = answer.messages.iter().filter(|message| message.tag == b'E').collect();
        let first = answer.error().unwrap_or_else(|| panic!("case {number}: no error"));
        assert_eq!((first.severity.as_str(), first.code.as_str()), ("FATAL", "57P01"), "case {number}");
        assert!(!errors.is_empty());
        assert_eq!(bystander.value("SELECT 1"), "1", "case {number}");
        stand.assert_healthy();
    }
    assert_eq!(stand.direct("SELECT count(*) FROM t"), "0");
}

#[test]
fn postgresql_stopped_and_started_again() {
    let stand = Stand::start(&["default_pool_size = 2", "query_wait_timeout = 15"]);
    let (mut idle, mut busy) = (stand.client(), stand.client());
    idle.ok("SELECT 1");
    busy.ok("BEGIN");
    busy.ok("SELECT 1");
    stand.cluster.stop_immediate();
    busy.send_query("SELECT 2");
    assert!(!ends(&mut busy).is_empty());
    // While it is down a client is told so, or waits.
    let mut refused = Client::open(&stand.sluice.address());
    refused.start(&Login::default());
    let began = Instant::now();
    let outcome = refused.finish_login(&Login::default());
    assert!(began.elapsed() < DEADLINE);
    if let Err(error) = outcome {
        assert_eq!(error.severity, "FATAL");
    }
    stand.cluster.restart();
    eventually("new clients are served", || {
        Client::log_in(&stand.sluice.address(), &Login::default())
            .is_ok_and(|mut client| client.query("SELECT 1").error().is_none())
    });
    stand.assert_healthy();
}

#[test]
fn a_client_that_waits_while_postgresql_is_down_is_served_when_it_is_back() {
    let stand = Stand::start(&["default_pool_size = 1", "query_wait_timeout = 15"]);
    let mut client = stand.client();
    client.ok("SELECT 1");
    stand.cluster.stop_immediate();
    stand.cluster.restart();
    // Its server has died while nobody looked; it never learns.
    assert_eq!(client.value("SELECT 2"), "2");
}

#[test]
fn a_query_while_postgresql_is_down_fails_within_its_deadline() {
    let stand = Stand::start(&["default_pool_size = 1", "query_wait_timeout = 2"]);
    let mut client = stand.client();
    client.ok("SELECT 1");
    stand.cluster.stop_immediate();
    let began = Instant::now();
    client.send_query("SELECT 2");
    let said = ends(&mut client);
    assert!(
        said.starts_with("57014: query_wait_timeout") || said.starts_with("08006: server login has been failing"),
        "{said}"
    );
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_client_that_closes_one_direction_still_gets_no_one_elses_answer() {
    let stand = one_server();
    let mut half = stand.client();
    half.send_query("SELECT pg_sleep(0.2)");
    half.shut_down_writing();
    half.until_closed();
    stand.assert_healthy();
    let mut idle = stand.client();
    idle.shut_down_writing();
    assert!(idle.until_closed().messages.is_empty());
    stand.assert_healthy();
}

#[test]
fn a_client_that_does_not_read_costs_no_memory_and_disturbs_nobody() {
    let stand = Stand::start(&["default_pool_size = 2"]);
    let mut other = stand.client();
    other.ok("SELECT 1");
    let before = stand.sluice.memory();
    let mut lazy = stand.client();
    lazy.send_query("SELECT repeat('x', 1000) FROM generate_series(1, 300000)");
    for _ in 0..50 {
        other.ok("SELECT 1");
    }
    thread::sleep(Duration::from_millis(500));
    let grown = stand.sluice.memory().saturating_sub(before);
    assert!(grown < 16 << 20, "memory grew by {grown} bytes");
    assert_eq!(lazy.answer().column().len(), 300_000);
    stand.assert_healthy();
}

#[test]
fn a_server_that_does_not_read_costs_little_memory() {
    let stand = one_server();
    stand.direct("CREATE TABLE t (a text); CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.5); RETURN NEW; END'; CREATE TRIGGER slow BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION slow()");
    let mut client = stand.client();
    client.ok("SELECT 1");
    let before = stand.sluice.memory();
    client.send_query("COPY t FROM STDIN");
    client.until(b'G');
    let line = format!("{}\n", "x".repeat(1_000_000));
    let writer = thread::spawn(move || {
        let _ = (0..200).try_for_each(|_| client.try_send(&Batch::new().copy_data(line.as_bytes()).0));
    });
    thread::sleep(Duration::from_secs(2));
    let grown = stand.sluice.memory().saturating_sub(before);
    assert!(grown < 32 << 20, "memory grew by {grown} bytes");
    stand.direct("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'COPY%'");
    writer.join().expect("the writer ends");
    stand.assert_healthy();
}

#[test]
fn a_second_sluice_on_the_same_port_or_socket_says_so() {
    let mut stand = one_server();
    let ini = fs::read_to_string(stand.sluice.directory().join("sluice.ini")).expect("its settings");
    let directory = tempfile::tempdir().expect("a directory");
    let own = directory.path().display().to_string();
    let port = stand.sluice.port();
    let same_port = ini.replace(
        &format!("unix_socket_dir = {}", stand.sluice.directory().display()),
        &format!("unix_socket_dir = {own}"),
    );
    let said = starts_and_fails(&same_port);
    assert!(said.contains(&format!("cannot listen on any of listen_addr = 127.0.0.1, port {port}")), "{said}");
    let same_socket = ini.replace("listen_addr = 127.0.0.1", "listen_addr =");
    let said = starts_and_fails(&same_socket);
    assert!(said.contains(&format!(".s.PGSQL.{port} is in use, cannot continue")), "{said}");
    assert!(stand.sluice.is_alive());
    stand.sluice.log_in_by_unix_socket(&Login::default()).ok("SELECT 1");
    stand.assert_healthy();
}

/// Runs the program with these settings; it must end by itself, with status 1. Returns what it says.
fn starts_and_fails(ini: &str) -> String {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("sluice.ini");
    // The log of a running one must not be written to.
    let ini: String = ini.lines().filter(|line| !line.starts_with("logfile")).map(|line| format!("{line}\n")).collect();
    fs::write(&path, ini).expect("sluice.ini");
    let mut process =
        Command::new(binary()).arg(&path).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("sluice starts");
    let began = Instant::now();
    let status = loop {
        if let Some(status) = process.try_wait().expect("its state") {
            break status;
        }
        if began.elapsed() > Duration::from_secs(10) {
            process.kill().expect("a kill");
            panic!("it runs");
        }
        thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(status.code(), Some(1));
    let mut said = String::new();
    process.stderr.take().expect("stderr").read_to_string(&mut said).expect("text");
    said.replace(&path.display().to_string(), "sluice.ini")
}

#[test]
fn mistakes_in_the_settings_are_told_with_file_and_line() {
    for (ini, expected) in [
        ("[databases]\n* = host=/tmp\n[pgbouncer]\nlisten_port = many\n", "sluice.ini:4"),
        ("[databases]\n* = host=/tmp\n[pgbouncer]\n\nno_such_setting = 1\n", "sluice.ini:5"),
        ("[databases]\n* = host=/tmp nonsense=1\n[pgbouncer]\n", "sluice.ini:2"),
        ("[nonsense]\n", "sluice.ini:1"),
        ("listen_port = 1\n", "sluice.ini:1"),
        ("[databases]\nx\n", "sluice.ini:2"),
        ("[databases]\n* = host=/tmp\n[pgbouncer]\n%include missing.ini\n", "sluice.ini:4"),
        ("[databases]\n* = host=/tmp\n[pgbouncer]\npool_mode = sometimes\n", "sluice.ini:4"),
    ] {
        let said = starts_and_fails(ini);
        assert!(said.contains("FATAL cannot load config file") && said.contains(expected), "{ini}{said}");
    }
}

#[test]
fn garbage_from_a_server_during_login_reaches_the_client_as_an_error() {
    let answers: [&[u8]; 6] = [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"N",
        b"R\0\0\0\x03",
        b"R\xff\xff\xff\xff",
        b"Z\0\0\0\x05I",
        b"R\0\0\0\x08\0\0\0\x63",
    ];
    for answer in answers {
        let port = fake_server(answer);
        let settings = ["client_login_timeout = 3", "server_connect_timeout = 1", NO_TLS];
        let mut sluice = Sluice::start(&format!("* = host=127.0.0.1 port={port}"), &settings);
        let mut client = Client::open(&sluice.address());
        client.start(&Login::default());
        let error = client.finish_login(&Login::default()).expect_err("that is no server");
        assert_eq!(error.severity, "FATAL", "{answer:?}: {error}");
        assert!(sluice.is_alive());
    }
}

#[test]
fn a_servers_last_words_do_not_undo_what_it_answered_before() {
    // In one piece: the answer to SET, and that the connection is terminated.
    let answer = b"C\0\0\0\x08SET\0Z\0\0\0\x05IE\0\0\0\x1dSFATAL\0C57P01\0Mgoodbye!\0\0";
    let (requests, received) = std::sync::mpsc::sync_channel(2);
    let port = fake(move |mut stream| {
        let _ = requests.send(first_request(&mut stream));
        let _ = stream.write_all(answer);
    });
    let sluice = Sluice::start(&format!("* = host=127.0.0.1 port={port}"), &["pool_mode = transaction", NO_TLS]);
    let mut client = sluice.client();
    client.send_query("SET app.organization = '7'");
    assert_eq!(client.answer().completed(), ["SET"]);
    // Another server gets the setting before anything else.
    client.send_query("SELECT 1");
    let first = |_| received.recv_timeout(DEADLINE).expect("a server is asked");
    assert!((0..2).map(first).all(|request| request.contains("SET app.organization = '7'")));
}

#[test]
fn a_begin_that_fails_takes_the_statement_behind_it_along() {
    // BEGIN travels in one packet with the first statement. Should it fail, that statement has run without the block that
    // its client asked for: the client must not be told that all is well.
    let port =
        server_that_answers(b"E\0\0\0\x1dSERROR\0C25000\0Mno BEGIN\0\0Z\0\0\0\x05IC\0\0\0\x0fINSERT 0 1\0Z\0\0\0\x05I");
    let mut sluice = Sluice::start(&format!("* = host=127.0.0.1 port={port}"), &["pool_mode = transaction", NO_TLS]);
    let mut client = sluice.client();
    client.ok("BEGIN");
    client.send_query("INSERT INTO t VALUES (1)");
    let said = client.until_closed();
    assert_eq!(said.completed(), Vec::<String>::new());
    let error = said.error().expect("why the session ends");
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "08006"), "{error}");
    assert!(sluice.is_alive());
}

#[test]
fn garbage_from_a_server_after_login_ends_the_session() {
    let port = server_that_answers(b"C\0\0\0\x01what is this?");
    let mut sluice = Sluice::start(&format!("* = host=127.0.0.1 port={port}"), &[NO_TLS]);
    let mut client = sluice.client();
    client.send_query("SELECT 1");
    let said = ends(&mut client);
    assert!(said.starts_with("08006: ") || said.starts_with("08P01: "), "{said}");
    assert!(sluice.is_alive());
}

#[test]
fn a_storm_of_dying_clients_leaves_a_healthy_pool() {
    let stand = Stand::start(&["default_pool_size = 3"]);
    stand.direct("CREATE TABLE t (a int)");
    let threads: Vec<_> = (0..4)
        .map(|number| {
            let address = stand.sluice.address();
            thread::spawn(move || {
                for round in 0..25 {
                    let Ok(mut client) = Client::log_in(&address, &Login::default()) else { continue };
                    match (number + round) % 5 {
                        0 => client.send_query("SELECT pg_sleep(5)"),
                        1 => client.send(&Batch::new().run("SELECT generate_series(1, 100000)", &[]).flush().0),
                        2 => drop(client.query("BEGIN; INSERT INTO t VALUES (1)")),
                        3 => client.send(&Batch::new().parse("x", "SELECT 1").run_prepared("x", &[]).0),
                        _ => client.send_query("COPY t FROM STDIN"),
                    }
                }
            })
        })
        .collect();
    let mut steady = stand.client();
    for number in 0..50 {
        assert_eq!(steady.value(&format!("SELECT {number}")), number.to_string());
    }
    threads.into_iter().for_each(|thread| thread.join().expect("a storm"));
    stand.assert_healthy();
    assert_eq!(stand.direct("SELECT count(*) FROM t"), "0");
    assert!(stand.servers("true") <= 3);
}
