//! Who gets in, and what those are told who don't.

use sluice_wire::startup::ssl_request;

use super::poolers::Pooler;
use super::record::{self, Record};
use crate::support::{Client, Login};

pub fn run(start: &dyn Fn(&str) -> Pooler, record: &mut Record) {
    for method in ["trust", "plain", "md5", "scram-sha-256", "hba"] {
        let pooler = start(&format!("auth_type = {method}"));
        passwords(&pooler, method, record);
    }
    let pooler = start("auth_type = any");
    for (what, login) in [("forced", Login::to("forced")), ("not forced", Login::user("stranger"))] {
        record.add(&format!("login any: {what}"), log_in(&pooler, &login));
    }
    databases(&start("auth_type = trust"), record);
    start_up(&start("auth_type = trust"), record);
    limits(&start("auth_type = trust\nmax_client_conn = 2"), record);
}

fn log_in(pooler: &Pooler, login: &Login) -> String {
    record::login(Client::log_in(&pooler.address(), login))
}

fn passwords(pooler: &Pooler, method: &str, record: &mut Record) {
    for user in ["plain", "hashed", "verified", "stranger", "nobody"] {
        for password in ["secret", "wrong"] {
            let login = Login::user(user).with_password(password);
            record.add(&format!("login {method}: {user} with \"{password}\""), log_in(pooler, &login));
        }
    }
}

fn databases(pooler: &Pooler, record: &mut Record) {
    let mut admin = pooler.log_in(&Login { user: "admin".to_owned(), ..Login::to("pgbouncer") });
    for database in ["nonsense", "nowhere", "forced", "pgbouncer"] {
        record.add(
            &format!("login to {database}"),
            log_in(pooler, &Login { user: "stranger".to_owned(), ..Login::to(database) }),
        );
    }
    admin.ok("DISABLE postgres");
    record.add("login to a disabled database", log_in(pooler, &Login::default()));
    admin.ok("ENABLE postgres");
    for user in ["admin", "reader", "plain"] {
        record.add(
            &format!("login to the console as {user}"),
            log_in(pooler, &Login { user: user.to_owned(), ..Login::to("pgbouncer") }),
        );
    }
    let console = pooler.log_in(&Login { user: "reader".to_owned(), ..Login::to("pgbouncer") });
    for (name, value) in console.parameters.iter().filter(|(name, _)| name != "server_version") {
        record.add(&format!("console's parameter {name}"), value);
    }
}

fn start_up(pooler: &Pooler, record: &mut Record) {
    for (name, value) in [
        ("extra_float_digits", "3"),
        ("application_name", "it's"),
        ("work_mem", "1MB"),
        ("options", "-c work_mem=1MB"),
        ("options", "-c timezone=UTC --datestyle=ISO"),
        ("options", "-d 5"),
        ("TIMEZONE", "UTC"),
        ("client_encoding", "LATIN1"),
        ("client_encoding", "nonsense"),
        ("_pq_.feature", "1"),
        ("replication", "database"),
        ("replication", "nonsense"),
    ] {
        let mut outcome = log_in(pooler, &Login::default().with(name, value));
        if let Ok(mut client) = Client::log_in(&pooler.address(), &Login::default().with(name, value)) {
            outcome = record::query(&mut client, "SELECT 1");
        }
        record.add(&format!("start-up parameter {name}={value}"), outcome);
    }
    let client = pooler.log_in(&Login::default().with("datestyle", "german").with("timezone", "UTC"));
    let mut parameters: Vec<_> = client.parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
    parameters.sort();
    record.add("parameters of a login", parameters.join("\n"));
    for (name, minor) in [("3.1", 1), ("3.9", 9)] {
        record.add(&format!("protocol {name}"), log_in(pooler, &Login { minor, ..Login::default() }));
    }
    for (name, packet) in [
        ("protocol 2", &b"\0\0\0\x09\0\x02\0\0\0"[..]),
        ("no user", b"\0\0\0\x09\0\x03\0\0\0"),
        ("no end", b"\0\0\0\x12\0\x03\0\0user\0x\0\0\0x"),
        ("no start-up packet", b"GET / HTTP/1.0\r\n\r\n"),
        ("an SSL request with more behind it", &[&ssl_request()[..], b"\0\0\0\x09\0\x03\0\0\0"].concat()),
    ] {
        let mut client = Client::open(&pooler.address());
        client.send(packet);
        record.add(name, record::messages(&mut client, 1));
    }
    let mut client = Client::open(&pooler.address());
    client.send(&ssl_request());
    record.add("an SSL request", char::from(client.read_byte()).to_string());
}

fn limits(pooler: &Pooler, record: &mut Record) {
    let _clients = [pooler.log_in(&Login::default()), pooler.log_in(&Login::default())];
    record.add("login beyond max_client_conn", log_in(pooler, &Login::default()));
    record.add(
        "login to the console beyond max_client_conn",
        log_in(pooler, &Login { user: "admin".to_owned(), ..Login::to("pgbouncer") }),
    );
}
