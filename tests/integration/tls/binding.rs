//! SCRAM bound to the TLS connection (SCRAM-SHA-256-PLUS), on both sides.

use std::fs;

use super::{psql, tls_cluster};
use crate::support::{Certificates, Client, Login, Request, Sluice, databases};
use sluice_test_harness::Cluster;

const SCRAM: &str = "auth_type = scram-sha-256";
const USERS: &str = "\"postgres\" \"secret\"\n";

fn sluice(databases: &str, certificates: &Certificates, more: &[&str]) -> Sluice {
    let mut settings = certificates.for_clients("allow");
    settings.extend(more.iter().map(|&line| line.to_owned()));
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    Sluice::start_with_users(databases, &settings, USERS)
}

#[test]
fn libpq_may_insist_on_it() {
    let cluster = Cluster::start();
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let certificates = Certificates::new();
        certificates.issue("server", &Request { algorithm, ..Request::local() });
        let sluice = sluice(&databases(&cluster, ""), &certificates, &[SCRAM]);
        let conninfo = "sslmode=require channel_binding=require";
        assert_eq!(psql(&sluice, conninfo, "SELECT 1"), Ok("1".to_owned()), "{}", sluice.log());
        for binding in ["prefer", "disable"] {
            let conninfo = format!("sslmode=require channel_binding={binding}");
            assert_eq!(psql(&sluice, &conninfo, "SELECT 1"), Ok("1".to_owned()), "{binding}");
        }
        let plain = psql(&sluice, "sslmode=disable channel_binding=require", "SELECT 1").expect_err("no TLS");
        assert!(plain.contains("channel binding required"), "{plain}");
        assert_eq!(psql(&sluice, "sslmode=disable", "SELECT 1"), Ok("1".to_owned()));
    }
}

#[test]
fn who_could_bind_but_has_seen_no_offer_is_refused() {
    let cluster = Cluster::start();
    let certificates = Certificates::new();
    let sluice = sluice(&databases(&cluster, ""), &certificates, &[SCRAM]);
    let first = |flag: &str| {
        let mut client = Client::open_tls(&sluice.address(), certificates.client_config(None, None)).expect("TLS");
        client.start(&Login::default());
        let offer = client.read();
        assert_eq!(offer.body, b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0");
        let message = format!("{flag},,n=,r=abcdefgh");
        let body = [&b"SCRAM-SHA-256\0"[..], &(message.len() as u32).to_be_bytes(), message.as_bytes()].concat();
        client.send(&crate::support::Batch::new().raw(b'p', &body).0);
        client.read().tag
    };
    assert_eq!(first("n"), b'R');
    assert_eq!(first("y"), b'E');
    assert_eq!(first("p=tls-server-end-point"), b'E');
}

#[test]
fn postgresqls_offer_is_taken() {
    let certificates = Certificates::new();
    let (cluster, port) = tls_cluster(&certificates);
    cluster.psql("postgres", "SET password_encryption = 'scram-sha-256'; ALTER ROLE postgres PASSWORD 'secret'");
    let hba = "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n";
    fs::write(cluster.socket_dir().join("data/pg_hba.conf"), hba).expect("pg_hba.conf");
    cluster.psql("postgres", "SELECT pg_reload_conf()");
    let entry = format!("postgres = host=127.0.0.1 port={port}");
    let stored = cluster.psql("postgres", "SELECT rolpassword FROM pg_authid WHERE rolname = 'postgres'");
    // The password, and keys that a client's own bound login has left.
    for users in [USERS.to_owned(), format!("\"postgres\" \"{stored}\"\n")] {
        let mut settings = certificates.for_clients("require");
        settings.extend([SCRAM.to_owned(), "server_tls_sslmode = require".to_owned()]);
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let sluice = Sluice::start_with_users(&entry, &settings, &users);
        let rows = psql(&sluice, "sslmode=require channel_binding=require", "SELECT current_user");
        assert_eq!(rows, Ok("postgres".to_owned()), "{}", sluice.log());
    }
}
