//! The console: columns of SHOW, settings, and what commands answer.

use super::poolers::Pooler;
use super::record::{self, Record};
use crate::support::{Batch, Client, Login};

const SHOWS: [&str; 24] = [
    "ACTIVE_SOCKETS",
    "CLIENTS",
    "CONFIG",
    "DATABASES",
    "DNS_HOSTS",
    "DNS_ZONES",
    "FDS",
    "HELP",
    "LISTS",
    "MEM",
    "PEERS",
    "PEER_POOLS",
    "POOLS",
    "SERVERS",
    "SOCKETS",
    "STATE",
    "STATS",
    "STATS_AVERAGES",
    "STATS_TOTALS",
    "TOTALS",
    "USERS",
    "VERSION",
    "nonsense",
    "",
];

/// Run by the administrator, in this order.
const COMMANDS: [&str; 62] = [
    "",
    ";",
    "nonsense",
    "SELECT 1",
    "SHOW POOLS; SHOW POOLS",
    "show dns_zones ;",
    "SHOW \"dns_zones\"",
    "SHOW 'POOLS'",
    "PAUSE nonsense",
    "PAUSE pgbouncer",
    "PAUSE one",
    "PAUSE one ",
    "RESUME nonsense",
    "RESUME postgres",
    "RESUME one",
    "RESUME",
    "RESUME pgbouncer",
    "PAUSE",
    "PAUSE one  ",
    "SUSPEND",
    "RESUME ",
    "SUSPEND ",
    "PAUSE  ",
    "RESUME  ",
    "DISABLE",
    "DISABLE nonsense",
    "DISABLE pgbouncer",
    "DISABLE one",
    "ENABLE",
    "ENABLE nonsense",
    "ENABLE pgbouncer",
    "ENABLE one",
    "RECONNECT",
    "RECONNECT nonsense",
    "RECONNECT pgbouncer",
    "RECONNECT one",
    "WAIT_CLOSE",
    "WAIT_CLOSE nonsense",
    "WAIT_CLOSE pgbouncer",
    "WAIT_CLOSE one",
    "KILL nonsense",
    "KILL pgbouncer",
    "KILL one",
    "RESUME one ",
    "KILL_CLIENT",
    "KILL_CLIENT nonsense",
    "KILL_CLIENT 0x7fffffff",
    "RELOAD",
    "RELOAD nonsense",
    "SHUTDOWN nonsense",
    "SET",
    "SET nonsense = 1",
    "SET query_timeout = 5",
    "SET query_timeout = '1.5'",
    "SET query_timeout=-1",
    "SET query_timeout TO 0",
    "SET query_timeout = nonsense",
    "SET listen_port = 1",
    "SET client_encoding = 'UTF8'",
    "SET datestyle TO 'ISO'",
    "SHOW client_encoding",
    "SHOW timezone",
];

/// Run by somebody who may only look.
const LOOKING: [&str; 10] = [
    "SHOW VERSION",
    "SHOW FDS",
    "PAUSE",
    "RELOAD",
    "SET query_timeout = 1",
    "KILL",
    "SHUTDOWN",
    "DISABLE one",
    "SET client_encoding = 'UTF8'",
    "SHOW datestyle",
];

pub fn run(pooler: &Pooler, record: &mut Record) {
    let mut admin = log_in(pooler, "admin");
    shows(pooler, &mut admin, record);
    for command in COMMANDS {
        let outcome = record::query(&mut admin, command);
        record.add(&format!("console: \"{command}\""), pooler.without_names(&outcome));
        if outcome.ends_with("closed") || outcome.ends_with("silence") {
            admin = log_in(pooler, "admin");
        }
    }
    let mut reader = log_in(pooler, "reader");
    for command in LOOKING {
        record.add(&format!("console, looking: \"{command}\""), without_version(&record::query(&mut reader, command)));
    }
    let mut client = log_in(pooler, "admin");
    client.send(&Batch::new().run("SHOW VERSION", &[]).sync().0);
    record.add("console: extended protocol", without_version(&record::messages(&mut client, 1)));
}

fn log_in(pooler: &Pooler, user: &str) -> Client {
    pooler.log_in(&Login { user: user.to_owned(), ..Login::to("pgbouncer") })
}

fn without_version(outcome: &str) -> String {
    outcome.lines().filter(|line| !line.starts_with("row ")).collect::<Vec<_>>().join("\n")
}

/// The columns of all, and rows where they are the same in each run.
fn shows(pooler: &Pooler, admin: &mut Client, record: &mut Record) {
    let idle = pooler.log_in(&Login::default());
    for show in SHOWS {
        let outcome = record::query(admin, &format!("SHOW {show}"));
        let rows = outcome.lines().filter(|line| !line.starts_with("row "));
        record.add(&format!("SHOW {show}"), rows.collect::<Vec<_>>().join("\n"));
    }
    for (show, columns) in [
        ("STATE", &["value"][..]),
        (
            "DATABASES",
            &["host", "database", "force_user", "pool_size", "pool_mode", "max_connections", "paused", "disabled"],
        ),
        ("LISTS", &[]),
        ("CONFIG", &["value", "default", "changeable"]),
    ] {
        for (name, values) in record::table(admin, &format!("SHOW {show}"), columns) {
            record.add(&format!("SHOW {show}: {name}"), pooler.without_names(&values));
        }
    }
    drop(idle);
}
