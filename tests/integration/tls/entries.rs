//! What an entry of `[databases]` says of TLS with its servers: `sslmode` and the like, and direct TLS.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use sluice_test_harness::Cluster;

use super::{psql, start, tls_cluster};
use crate::support::{Certificates, Client, Login, Request, Sluice, console, databases, eventually};

/// PostgreSQL has direct TLS since version 17; Sluice has it, so it stands in for one.
fn direct_server(cluster: &Cluster, certificates: &Certificates) -> Sluice {
    start(&databases(cluster, ""), &certificates.for_clients("require"))
}

fn begin_login(sluice: &Sluice) -> Client {
    let mut client = Client::open(&sluice.address());
    client.start(&Login::default());
    client
}

#[test]
fn direct_tls_serves_queries_and_cancels_them() {
    let (cluster, certificates) = (Cluster::start(), Certificates::new());
    let server = direct_server(&cluster, &certificates);
    let entry = format!(
        "postgres = host=127.0.0.1 port={} sslmode=verify-full sslrootcert={} sslnegotiation=direct",
        server.port(),
        certificates.file("ca.crt")
    );
    let sluice = start(&entry, &[]);
    let mut client = sluice.client();
    assert_eq!(client.value("SELECT 1"), "1");
    assert!(sluice.log().contains("SSL established: TLSv1.3"), "{}", sluice.log());
    client.send_query("SELECT pg_sleep(600)");
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)' AND state = 'active'";
    eventually("it sleeps", || cluster.psql("postgres", sleeping) == "1");
    crate::support::cancel(&sluice.address(), &client.cancel_packet());
    assert_eq!(client.answer().error().expect("cancelled").code, "57014");
}

#[test]
fn direct_tls_begins_with_the_first_byte_and_never_falls_back() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let settings = ["server_tls_sslmode = require".to_owned(), "server_tls_sslnegotiation = direct".to_owned()];
    let sluice = start(&format!("postgres = host=127.0.0.1 port={port}"), &settings);
    let _client = begin_login(&sluice);
    // A server that doesn't know it closes the connection; the next attempt begins likewise.
    for _ in 0..2 {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut first = [0];
        stream.read_exact(&mut first).expect("a byte");
        assert_eq!(first, [0x16], "a TLS handshake");
    }
}

#[test]
fn direct_tls_with_something_else_than_postgresql_is_given_up() {
    let certificates = Certificates::new();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let sluice = start(&format!("postgres = host=127.0.0.1 port={port} sslmode=require sslnegotiation=direct"), &[]);
    let _client = begin_login(&sluice);
    let (stream, _) = listener.accept().expect("a connection");
    let mut stream = serve_without_alpn(stream, &certificates);
    let mut received = Vec::new();
    // Closed without a word: no user name has gone there.
    let _ = stream.read_to_end(&mut received);
    assert_eq!(received, b"");
    eventually("it is noticed", || sluice.log().contains("without ALPN protocol negotiation extension"));
}

fn serve_without_alpn(stream: TcpStream, certificates: &Certificates) -> StreamOwned<ServerConnection, TcpStream> {
    let certificate = CertificateDer::from_pem_file(certificates.path("server.crt")).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(certificates.path("server.key")).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a pair");
    StreamOwned::new(ServerConnection::new(Arc::new(config)).expect("TLS"), stream)
}

#[test]
fn each_entry_has_its_own_tls() {
    let (certificates, others) = (Certificates::new(), Certificates::new());
    certificates.issue("pooler", &Request::user("pooler"));
    let (_cluster, port) = tls_cluster(&certificates);
    let entry = |name: &str, more: &str| format!("{name} = host=127.0.0.1 port={port} dbname=postgres {more}\n");
    let file = |name| certificates.file(name);
    let entries = [
        entry("global", ""),
        entry("clear", "sslmode=disable"),
        entry("verified", &format!("sslmode=verify-full sslrootcert={}", file("ca.crt"))),
        entry("shown", &format!("sslmode=require sslcert={} sslkey={}", file("pooler.crt"), file("pooler.key"))),
        entry("strange", &format!("sslmode=verify-ca sslrootcert={}", others.file("ca.crt"))),
    ]
    .concat();
    let sluice = start(&entries, &["server_tls_sslmode = require".to_owned(), "query_wait_timeout = 1".to_owned()]);
    let tls = "SELECT ssl, coalesce(client_dn, '') FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    for (name, shown) in [("global", "t|"), ("clear", "f|"), ("verified", "t|"), ("shown", "t|/CN=pooler")] {
        assert_eq!(psql(&sluice, &format!("dbname={name}"), tls).as_deref(), Ok(shown), "{name}\n{}", sluice.log());
    }
    assert!(psql(&sluice, "dbname=strange", "SELECT 1").is_err());
    assert!(sluice.log().contains("certificate verify failed"), "{}", sluice.log());
}

#[test]
fn only_the_entries_whose_tls_has_changed_reconnect() {
    let certificates = Certificates::new();
    let (_cluster, port) = tls_cluster(&certificates);
    let entry = |name: &str, more: &str| format!("{name} = host=127.0.0.1 port={port} dbname=postgres {more}\n");
    let sluice = start(&[entry("changed", "sslmode=disable"), entry("same", "sslmode=require")].concat(), &[]);
    let log_in = |name| sluice.log_in(&Login::to(name));
    let (mut changed, mut same) = (log_in("changed"), log_in("same"));
    let before = (changed.backend(), same.backend());
    let file = sluice.directory().join("sluice.ini");
    let write = |from: &str, to: &str| {
        let text = std::fs::read_to_string(&file).expect("settings");
        assert!(text.contains(from));
        std::fs::write(&file, text.replace(from, to)).expect("settings");
    };
    write("sslmode=disable", "sslmode=require sslrootcert=/nowhere");
    let error = console(&sluice).error("RELOAD");
    assert_eq!(error.code, "F0000");
    assert!(sluice.log().contains("failed to load sslrootcert /nowhere"), "{}", sluice.log());
    // What could not be read is not done without.
    changed.send_query("SELECT 1");
    eventually("it is refused", || sluice.log().contains("the last RELOAD could not read its files"));
    write("sslrootcert=/nowhere", "");
    console(&sluice).ok("RELOAD");
    assert_eq!(changed.answer().column(), ["1"]);
    assert_eq!(changed.value("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"), "t");
    assert_ne!(changed.backend(), before.0);
    assert_eq!(same.backend(), before.1);
}
