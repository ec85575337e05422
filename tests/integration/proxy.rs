//! The PROXY protocol: whom a trusted proxy speaks for is who the client is; nobody else is believed.

use std::net::Ipv6Addr;
use std::time::Duration;

use sluice_test_harness::Cluster;
use sluice_wire::startup::{ssl_request, startup_message};

use crate::support::{Certificates, Client, Login, Sluice, console, databases};

const V1: &[u8] = b"PROXY TCP4 203.0.113.7 192.0.2.1 50123 6432\r\n";
const HEALTH_CHECK: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// Version 2, for a client at 2001:db8::7, port 4660.
fn v2() -> Vec<u8> {
    let client = "2001:db8::7".parse::<Ipv6Addr>().expect("an address").octets();
    let ports = [0x12, 0x34, 0x19, 0x20];
    [&b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24"[..], &client, &client, &ports].concat()
}

fn start(cluster: &Cluster, networks: &str, more: &[String]) -> Sluice {
    let networks = format!("proxy_protocol_networks = {networks}");
    let mut settings = vec![networks.as_str()];
    settings.extend(more.iter().map(String::as_str));
    Sluice::start(&databases(cluster, ""), &settings)
}

fn log_in_behind(sluice: &Sluice, header: &[u8]) -> Result<Client, String> {
    let (mut client, login) = (Client::open(&sluice.address()), Login::default());
    client.send(header);
    client.start(&login);
    client.finish_login(&login).map_err(|error| error.message)?;
    Ok(client)
}

/// The address and port of the only client of database `postgres`, as SHOW CLIENTS has them.
fn shown(sluice: &Sluice) -> String {
    let rows = console(sluice).ok("SHOW CLIENTS").rows();
    let rows: Vec<_> = rows.into_iter().filter(|row| row[2].as_deref() == Some("postgres")).collect();
    let [row] = &rows[..] else { panic!("{rows:?}") };
    format!("{}|{}", row[5].as_deref().unwrap_or_default(), row[6].as_deref().unwrap_or_default())
}

#[test]
fn the_client_is_where_the_header_says() {
    let cluster = Cluster::start();
    let sluice = start(&cluster, "10.0.0.0/8, 127.0.0.1", &["application_name_add_host = 1".to_owned()]);
    for (header, address, name) in [
        (V1, "203.0.113.7|50123", "app - 203.0.113.7:50123"),
        (&v2()[..], "2001:db8::7|4660", "app - [2001:db8::7]:4660"),
    ] {
        // A byte at a time, and then all the rest at once.
        let (mut client, login) = (Client::open(&sluice.address()), Login::default());
        let (slow, fast) = header.split_at(header.len() - 4);
        slow.chunks(1).for_each(|byte| client.send(byte));
        let params = [("user", "postgres"), ("database", "postgres"), ("application_name", "app")];
        client.send(&[fast, &startup_message(0, params)].concat());
        client.finish_login(&login).expect("a login");
        assert_eq!(shown(&sluice), address);
        assert_eq!(client.value("SELECT current_setting('application_name')"), name);
        client.terminate();
        crate::support::eventually("it is gone", || console(&sluice).ok("SHOW CLIENTS").rows().len() == 1);
    }
    assert!(sluice.log().contains("postgres/postgres@203.0.113.7:50123 login attempt"), "{}", sluice.log());
    assert!(sluice.log().contains("postgres/postgres@[2001:db8::7]:4660 login attempt"), "{}", sluice.log());
}

#[test]
fn rules_for_addresses_see_the_client_and_not_the_proxy() {
    let cluster = Cluster::start();
    let rules = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(rules.path(), "host all all 127.0.0.1/32 reject\nhost all all 203.0.113.0/24 trust\n")
        .expect("rules");
    let hba = format!("auth_hba_file = {}", rules.path().display());
    let sluice = start(&cluster, "127.0.0.1", &["auth_type = hba".to_owned(), hba]);
    let mut client = log_in_behind(&sluice, V1).expect("a login");
    assert_eq!(client.value("SELECT 1"), "1");
    assert_eq!(log_in_behind(&sluice, &v2()).err().as_deref(), Some("no authentication method is found"));
    // The proxy itself.
    assert_eq!(log_in_behind(&sluice, HEALTH_CHECK).err().as_deref(), Some("login rejected"));
    assert_eq!(log_in_behind(&sluice, b"PROXY UNKNOWN\r\n").err().as_deref(), Some("login rejected"));
}

#[test]
fn tls_begins_behind_the_header() {
    let cluster = Cluster::start();
    let certificates = Certificates::new();
    let sluice = start(&cluster, "127.0.0.1", &certificates.for_clients("require"));
    let login = Login::default();
    let mut asked = Client::open(&sluice.address());
    asked.send(&[V1, &ssl_request()].concat());
    assert_eq!(asked.read_byte(), b'S');
    let mut asked = asked.shake_hands(certificates.client_config(None, None)).expect("TLS");
    asked.start(&login);
    assert_eq!(asked.finish_login(&login), Ok(()));
    assert_eq!(shown(&sluice), "203.0.113.7|50123");
    let mut direct = Client::open(&sluice.address());
    direct.send(&v2());
    let mut direct = direct.shake_hands(certificates.client_config(None, Some("postgresql"))).expect("TLS");
    direct.start(&login);
    assert_eq!(direct.finish_login(&login), Ok(()));
    // In the clear the header may come, but no login.
    assert_eq!(log_in_behind(&sluice, V1).err().as_deref(), Some("SSL required"));
}

#[test]
fn who_has_to_send_a_header_must_and_nobody_else_may() {
    let cluster = Cluster::start();
    let trusting = start(&cluster, "127.0.0.1", &[]);
    assert_eq!(
        log_in_behind(&trusting, b"").err().as_deref(),
        Some("the connection does not begin with a PROXY protocol header")
    );
    // One proxy, one header: what follows it is the client's own.
    let untrusted = "PROXY protocol header from an address that is not in proxy_protocol_networks";
    assert_eq!(log_in_behind(&trusting, &[V1, V1].concat()).err().as_deref(), Some(untrusted));
    let long = [b"PROXY TCP4 ", &[b'1'; 200][..]].concat();
    assert_eq!(log_in_behind(&trusting, &long).err().as_deref(), Some("the PROXY protocol header is too long"));
    // Unix sockets have none.
    trusting.log_in_by_unix_socket(&Login::default());
    for networks in ["", "192.0.2.0/24"] {
        let sluice = start(&cluster, networks, &[]);
        for header in [V1, &v2()[..]] {
            assert_eq!(log_in_behind(&sluice, header).err().as_deref(), Some(untrusted), "{networks}");
        }
        assert_eq!(sluice.client().value("SELECT 1"), "1");
    }
}

#[test]
fn a_header_that_never_comes_is_not_waited_for() {
    let cluster = Cluster::start();
    let sluice = start(&cluster, "127.0.0.1", &["client_login_timeout = 1".to_owned()]);
    let mut client = Client::open(&sluice.address());
    client.send(&V1[..20]);
    assert_eq!(client.until_closed().error().map(|error| error.message).as_deref(), Some("client_login_timeout"));
}

#[test]
fn health_checks_leave_without_a_word() {
    let cluster = Cluster::start();
    let sluice = start(&cluster, "127.0.0.1", &[]);
    for check in [HEALTH_CHECK, b""] {
        let mut client = Client::open(&sluice.address());
        client.send(check);
        assert!(client.is_silent_for(Duration::from_millis(100)));
    }
    crate::support::eventually("they are gone", || {
        let rows = console(&sluice).ok("SHOW LISTS").rows();
        rows.iter().any(|row| row[0].as_deref() == Some("login_clients") && row[1].as_deref() == Some("0"))
    });
    assert!(!sluice.log().contains("pooler error"), "{}", sluice.log());
    // Without the setting the console may turn it off again.
    console(&sluice).ok("SET proxy_protocol_networks = ''");
    assert_eq!(sluice.client().value("SELECT 1"), "1");
}
