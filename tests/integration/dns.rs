//! Names of servers, asked of a name server of the test's own.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use sluice_test_harness::Cluster;

use crate::support::{Client, Login, Sluice, console, eventually, free_port};

/// What it answers for, and how often it was asked for addresses and for the serial number.
#[derive(Default)]
struct Zone {
    addresses: BTreeMap<String, Vec<Ipv4Addr>>,
    serial: u32,
    asked: usize,
    checked: usize,
}

/// A name server on a port of its own. Its thread ends with the test's process.
#[derive(Clone)]
struct NameServer {
    zone: Arc<Mutex<Zone>>,
    port: u16,
}

impl NameServer {
    fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let port = socket.local_addr().expect("an address").port();
        let server = Self { zone: Arc::default(), port };
        let zone = server.zone.clone();
        thread::spawn(move || {
            let mut packet = [0; 1500];
            while let Ok((length, peer)) = socket.recv_from(&mut packet) {
                let question = Message::from_vec(&packet[..length]).expect("a question");
                let answer = answer(&mut zone.lock().expect("a zone"), question);
                // Who asked may be gone.
                let _ = socket.send_to(&answer.to_vec().expect("an answer"), peer);
            }
        });
        server
    }

    fn set(&self, host: &str, last: &[u8]) {
        let addresses = last.iter().map(|&last| Ipv4Addr::new(127, 0, 0, last)).collect();
        self.zone.lock().expect("a zone").addresses.insert(format!("{host}."), addresses);
    }

    fn set_serial(&self, serial: u32) {
        self.zone.lock().expect("a zone").serial = serial;
    }

    fn checked(&self) -> usize {
        self.zone.lock().expect("a zone").checked
    }

    fn asked(&self) -> usize {
        self.zone.lock().expect("a zone").asked
    }
}

fn answer(zone: &mut Zone, question: Message) -> Message {
    let query = question.queries[0].clone();
    let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
    answer.metadata.message_type = MessageType::Response;
    answer.add_query(query.clone());
    let name = query.name().clone();
    // A time to live that nobody is to look at.
    let mut add = |data| {
        answer.add_answer(Record::from_rdata(name.clone(), 86_400, data));
    };
    match (query.query_type(), zone.addresses.get(&name.to_lowercase().to_string())) {
        (RecordType::A, Some(addresses)) => {
            zone.asked += 1;
            addresses.iter().for_each(|&address| add(RData::A(A(address))));
        }
        (RecordType::SOA, _) if name.to_string() == "example.test." => {
            zone.checked += 1;
            let host = Name::from_ascii("ns.example.test.").expect("a name");
            add(RData::SOA(SOA::new(host.clone(), host, zone.serial, 1, 1, 1, 1)));
        }
        (_, Some(_)) => {}
        (_, None) => answer.metadata.response_code = ResponseCode::NXDomain,
    }
    answer
}

/// PostgreSQL on two addresses, a name server, and Sluice that reaches `db.example.test` through it.
struct Stand {
    sluice: Sluice,
    names: NameServer,
    _cluster: Cluster,
    _file: tempfile::NamedTempFile,
}

impl Stand {
    fn start(settings: &[&str]) -> Self {
        let port = free_port();
        let addresses = ("listen_addresses", "127.0.0.1,127.0.0.2");
        let cluster = Cluster::start_with(&[addresses, ("port", &port.to_string())]);
        let names = NameServer::start();
        names.set("db.example.test", &[1, 2]);
        let file = tempfile::NamedTempFile::new().expect("a file");
        let text = format!("nameserver 127.0.0.1:{}\noptions timeout:1 attempts:2\n", names.port);
        std::fs::write(file.path(), text).expect("a file");
        let resolv_conf = format!("resolv_conf = {}", file.path().display());
        let mut all = vec![resolv_conf.as_str(), "pool_mode = session", "query_wait_timeout = 5"];
        all.extend(settings);
        let entry = format!(
            "postgres = host=db.example.test port={port}\n\
             gone = host=gone.example.test port={port} dbname=postgres\n"
        );
        Self { sluice: Sluice::start(&entry, &all), names, _cluster: cluster, _file: file }
    }
}

/// The address of the server that this client has.
fn server_of(client: &mut Client) -> String {
    client.value("SELECT host(inet_server_addr())")
}

fn hosts(sluice: &Sluice, command: &str) -> Vec<Vec<String>> {
    let rows = console(sluice).ok(command).rows();
    rows.into_iter().map(|row| row.into_iter().map(Option::unwrap_or_default).collect()).collect()
}

#[test]
fn addresses_are_taken_in_turn_and_the_answer_is_kept() {
    let stand = Stand::start(&["dns_max_ttl = 600"]);
    let mut clients: Vec<_> = (0..4).map(|_| stand.sluice.client()).collect();
    let mut servers: Vec<_> = clients.iter_mut().map(server_of).collect();
    servers.sort_unstable();
    assert_eq!(servers, ["127.0.0.1", "127.0.0.1", "127.0.0.2", "127.0.0.2"]);
    assert_eq!(stand.names.asked(), 1);
    let [row] = &hosts(&stand.sluice, "SHOW DNS_HOSTS")[..] else { panic!("one name") };
    assert_eq!((row[0].as_str(), row[2].as_str()), ("db.example.test", "127.0.0.1:0,127.0.0.2:0"));
    assert!((500..=600).contains(&row[1].parse::<u32>().expect("a time")), "{row:?}");
    assert_eq!(hosts(&stand.sluice, "SHOW DNS_ZONES"), [["example.test", "0", "1"]]);
    let lists = hosts(&stand.sluice, "SHOW LISTS");
    assert_eq!(lists[10..], [["dns_names", "1"], ["dns_zones", "1"], ["dns_queries", "0"], ["dns_pending", "0"]]);
}

#[test]
fn servers_leave_an_address_that_a_later_answer_lacks() {
    let stand = Stand::start(&["dns_max_ttl = 0"]);
    stand.names.set("db.example.test", &[1]);
    let mut first = stand.sluice.client();
    assert_eq!(server_of(&mut first), "127.0.0.1");
    stand.names.set("db.example.test", &[2]);
    assert_eq!(server_of(&mut stand.sluice.client()), "127.0.0.2");
    let needed: Vec<_> =
        hosts(&stand.sluice, "SHOW SERVERS").into_iter().map(|row| format!("{}|{}", row[5], row[13])).collect();
    assert_eq!(needed, ["127.0.0.1|1", "127.0.0.2|0"]);
    assert_eq!(server_of(&mut first), "127.0.0.1", "a session is not interrupted");
    first.terminate();
    eventually("the old address is left", || {
        hosts(&stand.sluice, "SHOW SERVERS").iter().all(|row| row[5] == "127.0.0.2")
    });
    assert!(stand.sluice.log().contains("db.example.test is no longer at 127.0.0.1"), "{}", stand.sluice.log());
}

#[test]
fn a_name_that_is_not_there_is_logged_and_asked_for_again() {
    let stand = Stand::start(&["dns_nxdomain_ttl = 0.5"]);
    let mut client = Client::open(&stand.sluice.address());
    let login = Login::to("gone");
    client.start(&login);
    eventually("it is logged", || {
        stand.sluice.log().contains("WARNING DNS lookup failed: gone.example.test: result=4")
    });
    eventually("with its reason", || stand.sluice.log().contains("closing because: server DNS lookup failed (age=0s)"));
    stand.names.set("gone.example.test", &[1]);
    assert_eq!(client.finish_login(&login), Ok(()));
    assert_eq!(client.value("SELECT 1"), "1");
}

#[test]
fn a_zone_whose_serial_has_changed_is_asked_again() {
    let stand = Stand::start(&["dns_max_ttl = 600", "dns_zone_check_period = 0.3", "server_idle_timeout = 600"]);
    stand.names.set_serial(41);
    stand.names.set("db.example.test", &[1]);
    let mut client = stand.sluice.client();
    assert_eq!(server_of(&mut client), "127.0.0.1");
    eventually("the zone is known", || hosts(&stand.sluice, "SHOW DNS_ZONES") == [["example.test", "41", "1"]]);
    client.terminate();
    stand.names.set("db.example.test", &[2]);
    let before = stand.names.checked();
    eventually("it is checked again", || stand.names.checked() >= before + 2);
    assert_eq!(hosts(&stand.sluice, "SHOW DNS_HOSTS")[0][2], "127.0.0.1:0", "nothing says that it has changed");
    stand.names.set_serial(42);
    // Nobody connects: the idle server is closed all the same.
    eventually("the new address", || hosts(&stand.sluice, "SHOW DNS_HOSTS")[0][2] == "127.0.0.2:0");
    eventually("nobody is left there", || hosts(&stand.sluice, "SHOW SERVERS").iter().all(|row| row[5] == "127.0.0.2"));
    assert_eq!(server_of(&mut stand.sluice.client()), "127.0.0.2");
}

#[test]
fn an_address_that_does_not_answer_is_passed_over() {
    let stand = Stand::start(&[]);
    // Nobody listens on 127.0.0.3.
    stand.names.set("db.example.test", &[3, 2]);
    for _ in 0..2 {
        let mut client = stand.sluice.client();
        assert_eq!(server_of(&mut client), "127.0.0.2");
        std::mem::forget(client);
    }
}

#[test]
fn a_resolv_conf_that_is_not_there_ends_the_start() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("sluice.ini");
    let text = format!(
        "[pgbouncer]\nlisten_port = {}\nresolv_conf = /nowhere/resolv.conf\nunix_socket_dir =\nlisten_addr = 127.0.0.1\n",
        free_port()
    );
    std::fs::write(&file, text).expect("settings");
    let output = std::process::Command::new(crate::support::binary()).arg(&file).output().expect("it runs");
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("cannot use resolv_conf /nowhere/resolv.conf"), "{error}");
}
