//! Clients that come over TLS.

use std::time::Duration;

use sluice_test_harness::Cluster;
use sluice_wire::startup::ssl_request;

use super::{psql, start};
use crate::support::{Batch, Certificates, Client, Login, Request, Sluice, cancel, databases, eventually};

#[test]
fn psql_comes_over_tls_where_it_may_and_where_it_has_to() {
    let cluster = Cluster::start();
    let certificates = Certificates::new();
    let roots = format!("sslrootcert={}", certificates.file("ca.crt"));
    for mode in ["allow", "prefer", "require"] {
        let sluice = start(&databases(&cluster, ""), &certificates.for_clients(mode));
        for sslmode in ["require", "verify-ca", "verify-full"] {
            let rows = psql(&sluice, &format!("sslmode={sslmode} {roots}"), "SELECT 1");
            assert_eq!(rows, Ok("1".to_owned()), "{mode} {sslmode}\n{}", sluice.log());
        }
        let plain = psql(&sluice, "sslmode=disable", "SELECT 1");
        if mode == "require" {
            assert!(plain.expect_err("a refusal").contains("SSL required"));
        } else {
            assert_eq!(plain, Ok("1".to_owned()));
        }
        assert!(sluice.log().contains("tls=TLSv1.3/TLS_AES_256_GCM_SHA384"), "{}", sluice.log());
    }
}

fn sluice(cluster: &Cluster, certificates: &Certificates, mode: &str, more: &[&str]) -> Sluice {
    let mut settings = certificates.for_clients(mode);
    settings.extend(more.iter().map(|&setting| setting.to_owned()));
    start(&databases(cluster, ""), &settings)
}

#[test]
fn without_tls_and_on_the_unix_socket_it_is_declined() {
    let cluster = Cluster::start();
    let certificates = Certificates::new();
    let off = sluice(&cluster, &certificates, "disable", &[]);
    let required = sluice(&cluster, &certificates, "require", &[]);
    for address in [off.address(), required.unix_address()] {
        let mut client = Client::open(&address);
        client.send(&ssl_request());
        assert_eq!(client.read_byte(), b'N', "{address}");
        client.start(&Login::default());
        assert_eq!(client.finish_login(&Login::default()), Ok(()), "{address}");
    }
    assert!(psql(&off, "sslmode=require", "SELECT 1").expect_err("a refusal").contains("server does not support SSL"));
}

#[test]
fn nothing_may_come_in_the_clear_behind_the_request() {
    let cluster = Cluster::start();
    let certificates = Certificates::new();
    let sluice = sluice(&cluster, &certificates, "allow", &[]);
    let mut client = Client::open(&sluice.address());
    client.send(&[&ssl_request()[..], b"Q"].concat());
    let error = client.until_closed().error().expect("a refusal");
    assert_eq!((error.code.as_str(), error.message.as_str()), ("08P01", "received unencrypted data after SSL request"));
    // Nor is TLS begun twice.
    let mut client = Client::open_tls(&sluice.address(), certificates.client_config(None, None)).expect("TLS");
    client.send(&ssl_request());
    assert_eq!(client.until_closed().error().expect("a refusal").message, "SSL request inside SSL");
}

#[test]
fn direct_tls_needs_the_protocols_name() {
    let cluster = Cluster::start();
    let certificates = Certificates::new();
    let sluice = sluice(&cluster, &certificates, "require", &[]);
    let direct = |alpn| Client::open(&sluice.address()).shake_hands(certificates.client_config(None, alpn));
    let mut client = direct(Some("postgresql")).expect("TLS");
    client.start(&Login::default());
    assert_eq!(client.finish_login(&Login::default()), Ok(()));
    assert_eq!(client.value("SELECT 1"), "1");
    assert!(direct(Some("http/1.1")).is_err());
    let error = direct(None).expect("TLS").until_closed().error().expect("a refusal");
    assert!(error.message.contains("without ALPN"), "{error}");
}

#[test]
fn direct_tls_where_there_is_none_is_a_bad_packet() {
    let cluster = Cluster::start();
    let certificates = Certificates::new();
    let off = sluice(&cluster, &certificates, "disable", &[]);
    let required = sluice(&cluster, &certificates, "require", &[]);
    for address in [off.address(), required.unix_address()] {
        let mut client = Client::open(&address);
        client.send(&[0x16, 3, 1, 0, 200, 1, 0, 0]);
        let error = client.until_closed().error().expect("a refusal");
        assert!(error.message.starts_with("bad packet header"), "{address}: {error}");
    }
}

#[test]
fn a_handshake_that_does_not_end_is_cut_off() {
    let cluster = Cluster::start();
    let certificates = Certificates::new();
    let sluice = sluice(&cluster, &certificates, "require", &["client_login_timeout = 1"]);
    let mut client = Client::open(&sluice.address());
    client.send(&ssl_request());
    assert_eq!(client.read_byte(), b'S');
    client.send(&[0x16, 3, 1]);
    client.until_closed();
    assert!(sluice.log().contains("client_login_timeout"), "{}", sluice.log());
}

#[test]
fn a_clients_certificate_is_verified_if_it_shows_one() {
    let cluster = Cluster::start();
    let certificates = Certificates::new();
    let others = Certificates::new();
    for (name, request) in
        [("alice", Request::user("alice")), ("old", Request { expired: true, ..Request::user("alice") })]
    {
        certificates.issue(name, &request);
        others.issue(name, &request);
    }
    for mode in ["allow", "prefer", "require", "verify-ca", "verify-full"] {
        let sluice = sluice(&cluster, &certificates, mode, &[]);
        let with = |certificates: &Certificates, name: &str| {
            let pair = format!(
                "sslcert={} sslkey={}",
                certificates.file(&format!("{name}.crt")),
                certificates.file(&format!("{name}.key"))
            );
            psql(&sluice, &format!("sslmode=require {pair}"), "SELECT 1")
        };
        assert_eq!(with(&certificates, "alice"), Ok("1".to_owned()), "{mode}");
        assert!(with(&certificates, "old").is_err(), "{mode}");
        assert!(with(&others, "alice").is_err(), "{mode}");
        assert!(sluice.log().contains("TLS handshake error: certificate verify failed"), "{}", sluice.log());
        let without = psql(&sluice, "sslmode=require", "SELECT 1");
        assert_eq!(without.is_ok(), !mode.starts_with("verify"), "{mode}");
    }
}

#[test]
fn auth_type_cert_takes_the_certificates_name_for_the_users() {
    let cluster = Cluster::start();
    cluster.psql("postgres", "CREATE ROLE alice LOGIN; CREATE ROLE bob LOGIN");
    let certificates = Certificates::new();
    certificates.issue("alice", &Request::user("alice"));
    certificates.issue("bob", &Request { alternative: &["bob"], ..Request::user("somebody") });
    let mut settings = certificates.for_clients("verify-full");
    settings.push("auth_type = cert".to_owned());
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let sluice = Sluice::start_with_users(&databases(&cluster, ""), &settings, "\"alice\" \"\"\n\"bob\" \"\"\n");
    let log_in = |name: &str, user: &str| {
        Client::log_in_by_tls(&sluice.address(), certificates.client_config(Some(name), None), &Login::user(user))
    };
    for user in ["alice", "bob"] {
        assert_eq!(log_in(user, user).expect("a login").value("SELECT current_user"), user);
    }
    let error = log_in("alice", "bob").err().expect("a refusal");
    assert_eq!((error.code.as_str(), error.message.as_str()), ("28000", "certificate authentication failed"));
    let plain = Client::log_in(&sluice.unix_address(), &Login::user("alice")).err().expect("a refusal");
    assert_eq!(plain.message, "certificate authentication failed");
}

#[test]
fn cancel_requests_come_over_tls_and_in_the_clear() {
    let stand_certificates = Certificates::new();
    let cluster = Cluster::start();
    let sluice = sluice(&cluster, &stand_certificates, "require", &[]);
    let config = stand_certificates.client_config(None, None);
    for over_tls in [true, false] {
        let mut client = Client::log_in_by_tls(&sluice.address(), config.clone(), &Login::default()).expect("a login");
        client.send_query("SELECT pg_sleep(600)");
        eventually("it sleeps", || {
            cluster.psql(
                "postgres",
                "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)' AND state = 'active'",
            ) == "1"
        });
        if over_tls {
            let mut canceller = Client::open_tls(&sluice.address(), config.clone()).expect("TLS");
            canceller.send(&client.cancel_packet());
            canceller.until_closed();
        } else {
            cancel(&sluice.address(), &client.cancel_packet());
        }
        assert_eq!(client.answer().error().expect("cancelled").code, "57014");
        assert_eq!(client.value("SELECT 1"), "1");
    }
}

#[test]
fn megabytes_go_both_ways_and_wait_for_slow_readers() {
    let cluster = Cluster::start();
    let certificates = Certificates::new();
    let sluice = sluice(&cluster, &certificates, "require", &[]);
    let config = certificates.client_config(None, None);
    let mut client = Client::log_in_by_tls(&sluice.address(), config.clone(), &Login::default()).expect("a login");
    client.ok("CREATE TABLE t (a int, b text)");
    client.send_query("COPY t FROM STDIN");
    assert_eq!(client.read().tag, b'G');
    let mut sent = Batch::new();
    for row in 0..40_000 {
        let line = format!("{row}\t{}\n", "x".repeat(row % 300));
        sent = sent.raw(b'd', line.as_bytes());
    }
    client.send(&sent.raw(b'c', b"").0);
    assert_eq!(client.answer().completed(), ["COPY 40000"]);
    let expected = cluster.psql("postgres", "SELECT sum(length(b)) FROM t");
    // A reader that doesn't read: what the pooler holds for it stays small.
    client.ok("SELECT 1");
    let before = sluice.memory();
    client.send_query("SELECT repeat('y', 1000) FROM generate_series(1, 100000)");
    std::thread::sleep(Duration::from_millis(700));
    let grown = sluice.memory().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes for a client that does not read");
    assert_eq!(client.answer().rows().len(), 100_000);
    let rows = client.ok("COPY t TO STDOUT");
    let copied: usize =
        rows.messages.iter().filter(|message| message.tag == b'd').map(|message| message.body.len()).sum();
    assert!(copied > expected.parse().expect("a sum"));
    // One message that is longer than any buffer.
    let long = client.value("SELECT repeat('z', 20000000)");
    assert_eq!(long.len(), 20_000_000);
    assert_eq!(client.value(&format!("SELECT length('{long}')")), "20000000");
}

#[test]
fn the_console_shows_what_was_agreed_on() {
    let cluster = Cluster::start();
    let certificates = Certificates::new();
    let sluice =
        sluice(&cluster, &certificates, "allow", &["admin_users = postgres", "client_tls_protocols = tlsv1.2"]);
    let config = certificates.client_config(None, None);
    let mut client = Client::log_in_by_tls(&sluice.address(), config.clone(), &Login::default()).expect("a login");
    client.ok("SELECT 1");
    let _plain = sluice.client();
    let mut console = Client::log_in_by_tls(&sluice.address(), config, &Login::to("pgbouncer")).expect("a console");
    let rows = console.ok("SHOW CLIENTS").rows();
    let mut shown: Vec<String> = rows.iter().map(|row| row[17].clone().unwrap_or_default()).collect();
    shown.sort();
    assert_eq!(shown[0], "");
    assert!(shown[1].starts_with("TLSv1.2/ECDHE-ECDSA-AES256-GCM-SHA384/ECDH="), "{shown:?}");
    assert_eq!(shown[1], shown[2]);
    drop(client);
    eventually("it is gone", || console.ok("SHOW CLIENTS").rows().len() == 2);
}

#[test]
fn a_client_that_leaves_while_it_waits_is_noticed() {
    let cluster = Cluster::start();
    let certificates = Certificates::new();
    let sluice = sluice(&cluster, &certificates, "require", &["default_pool_size = 1", "admin_users = postgres"]);
    let config = certificates.client_config(None, None);
    let log_in = || Client::log_in_by_tls(&sluice.address(), config.clone(), &Login::default()).expect("a login");
    let (mut holder, mut waiter) = (log_in(), log_in());
    holder.ok("BEGIN; SELECT 1");
    waiter.send_query("SELECT 1");
    let mut console =
        Client::log_in_by_tls(&sluice.address(), config.clone(), &Login::to("pgbouncer")).expect("a console");
    let waiting = |console: &mut Client| {
        console.ok("SHOW CLIENTS").rows().iter().filter(|row| row[4].as_deref() == Some("waiting")).count()
    };
    eventually("it waits", || waiting(&mut console) == 1);
    waiter.close();
    eventually("it is noticed", || waiting(&mut console) == 0);
    holder.ok("COMMIT");
}

#[test]
fn rules_tell_tls_from_none() {
    let cluster = Cluster::start();
    cluster.psql("postgres", "CREATE ROLE alice LOGIN");
    let certificates = Certificates::new();
    certificates.issue("alice", &Request::user("alice@example.com"));
    certificates.write("hba", b"local all all trust\nhostssl all alice all cert map=mail\nhostssl all all all trust\nhostnossl all all all reject\n");
    certificates.write("ident", b"mail alice@example.com alice\n");
    let mut settings = certificates.for_clients("allow");
    settings.push("auth_type = hba".to_owned());
    settings.push(format!("auth_hba_file = {}", certificates.file("hba")));
    settings.push(format!("auth_ident_file = {}", certificates.file("ident")));
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let sluice = Sluice::start_with_users(&databases(&cluster, ""), &settings, "\"postgres\" \"\"\n\"alice\" \"\"\n");
    let log_in = |name: Option<&str>, user: &str| {
        let config = certificates.client_config(name, None);
        Client::log_in_by_tls(&sluice.address(), config, &Login::user(user)).map(drop).map_err(|error| error.message)
    };
    assert_eq!(log_in(None, "postgres"), Ok(()));
    assert_eq!(log_in(Some("alice"), "alice"), Ok(()));
    assert_eq!(log_in(None, "alice"), Err("certificate authentication failed".to_owned()));
    let plain = Client::log_in(&sluice.address(), &Login::default()).err().expect("a refusal");
    assert_eq!(plain.message, "login rejected");
}

#[test]
fn an_idle_client_over_tls_is_small() {
    const COUNT: u64 = 400;
    let cluster = Cluster::start();
    let certificates = Certificates::new();
    let sluice = sluice(&cluster, &certificates, "require", &["max_client_conn = 1000"]);
    let config = certificates.client_config(None, None);
    let log_in = || {
        let mut client = Client::log_in_by_tls(&sluice.address(), config.clone(), &Login::default()).expect("a login");
        client.ok("SELECT 1");
        client
    };
    let _first: Vec<Client> = (0..20).map(|_| log_in()).collect();
    let before = sluice.memory();
    let _others: Vec<Client> = (0..COUNT).map(|_| log_in()).collect();
    let each = sluice.memory().saturating_sub(before) / COUNT;
    println!("{each} bytes for each idle client");
    assert!(each < 11 * 1024, "{each} bytes for each idle client");
}
