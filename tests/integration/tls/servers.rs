//! Servers that are reached over TLS.

use std::fs;

use sluice_test_harness::Cluster;

use super::{psql, start, tls_cluster};
use crate::support::{Certificates, Client, Login, Request, Sluice, eventually, free_port};

const IS_TLS: &str = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";

fn modes(certificates: &Certificates, mode: &str) -> Vec<String> {
    vec![format!("server_tls_sslmode = {mode}"), format!("server_tls_ca_file = {}", certificates.file("ca.crt"))]
}

/// The client is not told why; it is in the log. Waiting is cut short for the test.
fn assert_unreachable(entry: &str, settings: &[String], reason: &str) {
    let mut settings = settings.to_vec();
    settings.push("query_wait_timeout = 1".to_owned());
    let sluice = start(entry, &settings);
    let mut client = Client::open(&sluice.address());
    client.start(&Login::default());
    eventually(&format!("{reason} in the log"), || sluice.log().contains(reason));
}

#[test]
fn every_mode_but_disable_brings_tls() {
    let certificates = Certificates::new();
    let (_cluster, port) = tls_cluster(&certificates);
    let entry = format!("postgres = host=127.0.0.1 port={port}");
    for (mode, tls) in
        [("disable", "f"), ("allow", "t"), ("prefer", "t"), ("require", "t"), ("verify-ca", "t"), ("verify-full", "t")]
    {
        let sluice = start(&entry, &modes(&certificates, mode));
        assert_eq!(psql(&sluice, "", IS_TLS), Ok(tls.to_owned()), "{mode}\n{}", sluice.log());
        assert_eq!(sluice.log().contains("SSL established: TLSv1.3/TLS_AES_256_GCM_SHA384"), tls == "t", "{mode}");
    }
}

#[test]
fn a_server_without_tls_serves_only_those_who_do_not_insist() {
    let port = free_port();
    let _cluster = Cluster::start_with(&[("listen_addresses", "127.0.0.1"), ("port", &port.to_string())]);
    let certificates = Certificates::new();
    let entry = format!("postgres = host=127.0.0.1 port={port}");
    for mode in ["allow", "prefer"] {
        let sluice = start(&entry, &modes(&certificates, mode));
        assert_eq!(psql(&sluice, "", IS_TLS), Ok("f".to_owned()), "{mode}");
    }
    for mode in ["require", "verify-ca", "verify-full"] {
        assert_unreachable(&entry, &modes(&certificates, mode), "server refused SSL");
    }
}

#[test]
fn unix_sockets_need_no_tls() {
    let cluster = Cluster::start();
    let certificates = Certificates::new();
    let sluice = start(&crate::support::databases(&cluster, ""), &modes(&certificates, "verify-full"));
    assert_eq!(psql(&sluice, "", IS_TLS), Ok("f".to_owned()));
}

#[test]
fn only_certificates_of_the_authority_in_time_and_of_the_right_host_are_accepted() {
    const REFUSED: &str = "TLS handshake error: certificate verify failed";
    let certificates = Certificates::new();
    let by_name = Request { common_name: "localhost", ..Request::default() };
    certificates.issue("server", &by_name);
    let (cluster, port) = tls_cluster(&certificates);
    let host = |host: &str| format!("postgres = host={host} port={port}");
    // The wrong authority.
    let others = Certificates::new();
    for mode in ["verify-ca", "verify-full"] {
        assert_unreachable(&host("localhost"), &modes(&others, mode), REFUSED);
    }
    let require = start(&host("127.0.0.1"), &modes(&others, "require"));
    assert_eq!(psql(&require, "", IS_TLS), Ok("t".to_owned()), "not verified");
    // The wrong host: this certificate names localhost, and only by its CN.
    assert_unreachable(&host("127.0.0.1"), &modes(&certificates, "verify-full"), REFUSED);
    for (entry, mode) in [(host("localhost"), "verify-full"), (host("127.0.0.1"), "verify-ca")] {
        let sluice = start(&entry, &modes(&certificates, mode));
        assert_eq!(psql(&sluice, "", IS_TLS), Ok("t".to_owned()), "{mode} {}", sluice.log());
    }
    // An expired one.
    certificates.issue("server", &Request { expired: true, ..Request::local() });
    certificates.for_postgresql();
    cluster.restart();
    assert_unreachable(&host("127.0.0.1"), &modes(&certificates, "verify-ca"), REFUSED);
    // One that vouches for itself, listed as an authority.
    certificates.issue_self_signed("server", &Request::local());
    certificates.for_postgresql();
    cluster.restart();
    assert_unreachable(&host("127.0.0.1"), &modes(&certificates, "verify-ca"), REFUSED);
    let mut listed = modes(&certificates, "verify-full");
    listed.push(format!("server_tls_ca_file = {}", certificates.file("server.crt")));
    let sluice = start(&host("127.0.0.1"), &listed);
    assert_eq!(psql(&sluice, "", IS_TLS), Ok("t".to_owned()), "{}", sluice.log());
}

#[test]
fn postgresql_may_ask_for_our_certificate() {
    let certificates = Certificates::new();
    certificates.issue("pooler", &Request::user("postgres"));
    let (cluster, port) = tls_cluster(&certificates);
    let hba = "local all all trust\nhostssl all all 127.0.0.1/32 cert\n";
    fs::write(cluster.socket_dir().join("data/pg_hba.conf"), hba).expect("pg_hba.conf");
    cluster.psql("postgres", "SELECT pg_reload_conf()");
    let entry = format!("postgres = host=127.0.0.1 port={port}");
    let mut settings = modes(&certificates, "verify-full");
    settings.push(format!("server_tls_cert_file = {}", certificates.file("pooler.crt")));
    settings.push(format!("server_tls_key_file = {}", certificates.file("pooler.key")));
    let sluice = start(&entry, &settings);
    let shown = psql(&sluice, "", "SELECT client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()");
    assert_eq!(shown, Ok("/CN=postgres".to_owned()), "{}", sluice.log());
    let without = start(&entry, &modes(&certificates, "verify-full"));
    assert!(psql(&without, "", "SELECT 1").expect_err("a refusal").contains("valid client certificate"));
}

/// Both sides at once: what is decrypted on one is encrypted on the other.
#[test]
fn megabytes_pass_from_tls_to_tls() {
    let certificates = Certificates::new();
    let (_cluster, port) = tls_cluster(&certificates);
    let mut settings = certificates.for_clients("require");
    settings.extend(modes(&certificates, "verify-full"));
    let sluice = start(&format!("postgres = host=127.0.0.1 port={port}"), &settings);
    let log_in = || {
        let config = certificates.client_config(None, None);
        Client::log_in_by_tls(&sluice.address(), config, &Login::default()).expect("a login")
    };
    let mut client = log_in();
    let rows = client.ok("SELECT i, repeat('x', i % 900) FROM generate_series(1, 50000) i").rows();
    assert_eq!(rows.len(), 50_000);
    assert!(rows.iter().all(|row| {
        let (number, text) = (row[0].as_deref().expect("a number"), row[1].as_deref().expect("a text"));
        text.len() == number.parse::<usize>().expect("a number") % 900
    }));
    let long = "y".repeat(9_000_000);
    assert_eq!(client.value(&format!("SELECT md5('{long}') = md5(repeat('y', 9000000))")), "t");
    // Slow reader and several clients at once.
    let mut others: Vec<Client> = (0..4).map(|_| log_in()).collect();
    for other in &mut others {
        other.send_query("SELECT repeat('z', 2000) FROM generate_series(1, 5000)");
    }
    for other in &mut others {
        assert_eq!(other.answer().rows().len(), 5000);
    }
}

#[test]
fn a_query_is_cancelled_over_tls() {
    let certificates = Certificates::new();
    let (cluster, port) = tls_cluster(&certificates);
    let sluice = start(&format!("postgres = host=127.0.0.1 port={port}"), &modes(&certificates, "verify-full"));
    let mut client = sluice.client();
    client.send_query("SELECT pg_sleep(600)");
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)' AND state = 'active'";
    eventually("it sleeps", || cluster.psql("postgres", sleeping) == "1");
    crate::support::cancel(&sluice.address(), &client.cancel_packet());
    assert_eq!(client.answer().error().expect("cancelled").code, "57014");
    assert_eq!(client.value("SELECT 1"), "1");
}

#[test]
fn what_stands_behind_the_servers_answer_in_the_clear_is_not_taken_for_its_own() {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let sluice = start(&format!("postgres = host=127.0.0.1 port={port}"), &["server_tls_sslmode = require".to_owned()]);
    let mut client = Client::open(&sluice.address());
    client.start(&Login::default());
    let (mut stream, _) = listener.accept().expect("a connection");
    stream.read_exact(&mut [0; 8]).expect("an SSL request");
    stream.write_all(b"SR\0\0\0\x08\0\0\0\0").expect("an answer");
    eventually("it is noticed", || sluice.log().contains("received unencrypted data after SSL response"));
}

#[test]
fn what_does_not_answer_an_ssl_request_is_no_server() {
    use std::io::{Read, Write};
    for (answer, reason) in
        [(&b"HTTP/1.1 400 Bad Request"[..], "does not understand an SSL request"), (b"", "unexpected end of file")]
    {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let sluice = start(&format!("postgres = host=127.0.0.1 port={port}"), &[]);
        let mut client = Client::open(&sluice.address());
        client.start(&Login::default());
        let (mut stream, _) = listener.accept().expect("a connection");
        stream.read_exact(&mut [0; 8]).expect("an SSL request");
        stream.write_all(answer).expect("an answer");
        drop(stream);
        eventually(reason, || sluice.log().contains(reason));
    }
}

fn console(sluice: &Sluice) -> Client {
    sluice.log_in(&Login::to("pgbouncer"))
}

#[test]
fn servers_reconnect_only_if_their_tls_has_changed() {
    let certificates = Certificates::new();
    let (_cluster, port) = tls_cluster(&certificates);
    let mut settings = modes(&certificates, "require");
    settings.extend(certificates.for_clients("allow"));
    settings.push("admin_users = postgres".to_owned());
    let sluice = start(&format!("postgres = host=127.0.0.1 port={port}"), &settings);
    let (mut client, mut console) = (sluice.client(), console(&sluice));
    let first = client.backend();
    console.ok("RELOAD");
    assert_eq!(client.backend(), first, "nothing has changed");
    certificates.issue("server", &Request::local());
    console.ok("RELOAD");
    assert_eq!(client.backend(), first, "only the clients' side has changed");
    console.ok("SET server_tls_protocols = 'tlsv1.2'");
    assert_ne!(client.backend(), first);
    let rows = console.ok("SHOW SERVERS").rows();
    let shown = rows[0][17].clone().expect("a text");
    assert!(shown.starts_with("TLSv1.2/ECDHE-ECDSA-AES256-GCM-SHA384/ECDH="), "{shown}");
}
