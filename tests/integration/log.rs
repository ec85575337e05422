//! The log lines that scripts search for, in PgBouncer's words.

use std::net::TcpListener;

use sluice_test_harness::Cluster;

use crate::support::{Client, Login, Sluice, Stand, console, eventually, free_port};

/// Whether `line` is `pattern`, in which `*` stands for anything.
fn is_like(line: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    pattern.ends_with('*') || rest.is_empty()
}

/// Waits until the log has a line `LEVEL text` for each of these patterns.
fn await_lines(sluice: &Sluice, patterns: &[&str]) {
    for pattern in patterns {
        let pattern = format!("* UTC [{}] {pattern}", sluice.pid());
        eventually(&pattern, || sluice.log().lines().any(|line| is_like(line, &pattern)));
    }
}

fn count(sluice: &Sluice, text: &str) -> usize {
    sluice.log().matches(text).count()
}

#[test]
fn a_start_is_told() {
    let stand = Stand::start(&["max_client_conn = 77"]);
    let port = stand.sluice.port();
    await_lines(
        &stand.sluice,
        &[
            "LOG kernel file descriptor limit: * (hard: *); max_client_conn: 77, max expected fd use: *",
            &format!("LOG listening on 127.0.0.1:{port}"),
            &format!("LOG listening on unix:*/.s.PGSQL.{port}"),
            "LOG process up: Sluice *",
        ],
    );
}

#[test]
fn a_clients_life_is_told() {
    let cluster = Cluster::start_with(&[("listen_addresses", "127.0.0.1"), ("port", &free_port().to_string())]);
    let entries = format!(
        "tcp = host=127.0.0.1 port={port} dbname=postgres\nlocal = host={} port={port} dbname=postgres",
        cluster.socket_dir().display(),
        port = cluster.port()
    );
    let sluice = Sluice::start(&entries, &[]);
    sluice.log_in(&Login::to("tcp")).terminate();
    drop(sluice.log_in_by_unix_socket(&Login::to("local")));
    let (own, server) = (std::process::id(), cluster.port());
    await_lines(
        &sluice,
        &[
            "LOG C-0x*: tcp/postgres@127.0.0.1:* login attempt: db=tcp user=postgres tls=no replication=no",
            &format!("LOG S-0x*: tcp/postgres@127.0.0.1:{server} new connection to server (from 127.0.0.1:*)"),
            "LOG C-0x*: tcp/postgres@127.0.0.1:* closing because: client close request (age=*s)",
            &format!("LOG C-0x*: local/postgres@unix({own}):{} login attempt: *", sluice.port()),
            &format!("LOG S-0x*: local/postgres@unix:{server} new connection to server"),
            &format!(
                "LOG C-0x*: local/postgres@unix({own}):{} closing because: client unexpected eof (age=*s)",
                sluice.port()
            ),
        ],
    );
}

#[test]
fn refused_logins_are_told() {
    let cluster = Cluster::start();
    let entries = format!("postgres = host={0}\nmissing = host={0} dbname=missing", cluster.socket_dir().display());
    let sluice = Sluice::start(&entries, &[]);
    let refuse = |login: Login| assert!(Client::log_in(&sluice.address(), &login).is_err());
    refuse(Login::user("nobody"));
    refuse(Login::to("nowhere"));
    refuse(Login::to("missing"));
    refuse(Login::default().with("nonsense", "1"));
    refuse(Login::default().with("options", "-c nonsense=2"));
    await_lines(
        &sluice,
        &[
            "LOG C-0x*: * no such user: nobody",
            "LOG C-0x*: * login failed: db=postgres user=nobody",
            "LOG C-0x*: * closing because: \"trust\" authentication failed (age=*s)",
            "LOG C-0x*: * login failed: db=nowhere user=postgres",
            "LOG C-0x*: * closing because: no such database: nowhere (age=*s)",
            "WARNING C-0x*: * pooler error: no such database: nowhere",
            "WARNING server login failed: FATAL database \"missing\" does not exist",
            "LOG S-0x*: missing/postgres@unix:5432 closing because: database \"missing\" does not exist (age=*s)",
            "LOG C-0x*: missing/postgres@* closing because: database \"missing\" does not exist (age=*s)",
            "WARNING C-0x*: * unsupported startup parameter: nonsense=1",
            "LOG C-0x*: * closing because: unsupported startup parameter: nonsense (age=*s)",
            "WARNING C-0x*: * unsupported startup parameter in options: nonsense=2",
        ],
    );
}

#[test]
fn servers_are_closed_with_pgbouncers_reasons() {
    let stand = Stand::start(&["server_idle_timeout = 0.5"]);
    stand.client().ok("SELECT 1");
    await_lines(&stand.sluice, &["LOG S-0x*: postgres/postgres@unix:* closing because: server idle timeout (age=*s)"]);
    let mut console = console(&stand.sluice);
    console.ok("SET server_idle_timeout = 0");
    stand.client().ok("SELECT 1");
    stand.await_servers("state = 'idle'", 1);
    console.ok("SET server_lifetime = '0.2'");
    await_lines(&stand.sluice, &["LOG S-0x*: * closing because: server lifetime over (age=*s)"]);
    console.ok("SET server_lifetime = 3600");
    stand.client().ok("SELECT 1");
    stand.await_servers("state = 'idle'", 1);
    console.ok("PAUSE");
    await_lines(&stand.sluice, &["LOG S-0x*: * closing because: pause mode (age=*s)"]);
    console.ok("RESUME");
    stand.client().ok("SELECT 1");
    stand.await_servers("state = 'idle'", 1);
    stand.direct("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name <> 'psql'");
    await_lines(&stand.sluice, &["LOG S-0x*: * closing because: server conn crashed? (age=*s)"]);
}

#[test]
fn a_pool_that_is_made_smaller_closes_what_is_too_much() {
    let stand = Stand::start(&["default_pool_size = 3"]);
    let mut clients: Vec<Client> = (0..3).map(|_| stand.client()).collect();
    clients.iter_mut().for_each(|client| drop(client.ok("BEGIN; SELECT 1")));
    clients.iter_mut().for_each(|client| drop(client.ok("COMMIT")));
    stand.await_servers("state = 'idle'", 3);
    console(&stand.sluice).ok("SET default_pool_size = 1");
    stand.await_servers("true", 1);
    assert_eq!(count(&stand.sluice, "closing because: too many servers in the pool (age="), 2);
}

#[test]
fn servers_that_cannot_be_reached_are_told() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let entries = format!(
        "refused = host=127.0.0.1 port={}\nsilent = host=127.0.0.1 port={}",
        free_port(),
        silent.local_addr().expect("its address").port()
    );
    let sluice = Sluice::start(&entries, &["server_connect_timeout = 0.5", "query_wait_timeout = 2"]);
    for database in ["refused", "silent"] {
        let error = Client::log_in(&sluice.address(), &Login::to(database)).err().expect("a refusal");
        assert_eq!((error.code.as_str(), error.message.as_str()), ("57014", "query_wait_timeout"), "{database}");
    }
    await_lines(
        &sluice,
        &[
            "LOG S-0x*: refused/postgres@127.0.0.1:* closing because: connect failed (age=*s)",
            "LOG S-0x*: silent/postgres@127.0.0.1:* closing because: connect timeout (age=*s)",
        ],
    );
}

#[test]
fn console_commands_and_their_errors_are_told() {
    let stand = Stand::start(&[]);
    let mut console = console(&stand.sluice);
    console.error("no such thing");
    for command in ["PAUSE postgres", "RESUME postgres", "RELOAD", "RECONNECT"] {
        console.ok(command);
    }
    await_lines(
        &stand.sluice,
        &[
            "LOG C-0x*: pgbouncer/pgbouncer@unix(*):* pgbouncer access from unix socket",
            "ERROR invalid command 'no such thing', use SHOW HELP;",
            "WARNING C-0x*: pgbouncer/pgbouncer@unix(*):* pooler error: invalid command 'no such thing', use SHOW HELP;",
            "LOG *PAUSE 'postgres' command issued",
            "LOG *RESUME 'postgres' command issued",
            "LOG *RELOAD command issued",
            "LOG *RECONNECT command issued",
        ],
    );
}

#[test]
fn what_is_told_can_be_chosen() {
    let stand = Stand::start(&["log_connections = 0", "log_disconnections = 0", "log_pooler_errors = 0"]);
    stand.client().ok("SELECT 1");
    assert!(Client::log_in(&stand.sluice.address(), &Login::to("nowhere")).is_err());
    let mut console = console(&stand.sluice);
    console.ok("RECONNECT");
    eventually("the server is closed", || stand.servers("true") == 0);
    // Behind all the others in the log.
    console.ok("SET log_connections = 1");
    stand.client().ok("SELECT 1");
    await_lines(&stand.sluice, &["LOG S-0x*: * new connection to server", "LOG C-0x*: * login attempt: *"]);
    for (text, times) in [("login attempt", 1), ("new connection", 1), ("closing because", 0), ("pooler error", 0)] {
        assert_eq!(count(&stand.sluice, text), times, "{text}: {}", stand.sluice.log());
    }
}
