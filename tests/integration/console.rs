//! The console, as scripts and dashboards use it: who gets in, what each command answers, and with which words it refuses.

use crate::auth::refusal;
use crate::support::{Batch, Client, Login, Sluice, Stand, console, databases};
use sluice_test_harness::Cluster;

/// One after another, on one connection: what is said, and the answer's tag or error.
const DIALOGUE: &[(&str, &str)] = &[
    ("", "invalid command '', use SHOW HELP;"),
    ("SHOW", "invalid command 'SHOW', use SHOW HELP;"),
    ("SHOW nothing", "invalid command 'SHOW nothing', use SHOW HELP;"),
    ("SHOW VERSION; SHOW STATE", "invalid command 'SHOW VERSION; SHOW STATE', use SHOW HELP;"),
    ("RELOAD now", "invalid command 'RELOAD now', use SHOW HELP;"),
    ("SHUTDOWN now", "invalid command 'SHUTDOWN now', use SHOW HELP;"),
    ("\tshow\n\"version\" ; ", "SHOW"),
    ("SELECT version", "SHOW"),
    ("SHOW client_encoding", "SHOW"),
    ("SET client_encoding = utf8", "SET"),
    ("SET query_timeout=1.5", "invalid command 'SET query_timeout=1.5', use SHOW HELP;"),
    ("SET query_timeout=-1", "invalid command 'SET query_timeout=-1', use SHOW HELP;"),
    ("SET query_timeout='1.5'", "SET query_timeout=1.5"),
    ("set query_timeout to 0", "SET query_timeout=0"),
    ("SET query_timeout=x", "SET failed"),
    ("SET no_such_setting=1", "SET failed"),
    ("SET listen_port=1", "SET listen_port=1"),
    ("SET job_name=x", "SET job_name=x"),
    ("RESUME", "pooler is not paused/suspended"),
    ("RESUME postgres", "database postgres is not paused"),
    ("RESUME nowhere", "no such database: nowhere"),
    ("PAUSE nowhere", "no such database: nowhere"),
    ("PAUSE pgbouncer", "cannot pause admin db: pgbouncer"),
    ("PAUSE postgres", "PAUSE"),
    ("SUSPEND", "cannot suspend with paused databases"),
    ("RESUME postgres", "RESUME"),
    ("PAUSE", "PAUSE"),
    ("PAUSE", "already suspended/paused"),
    ("SUSPEND", "already suspended/paused"),
    ("KILL postgres", "already suspended/paused"),
    ("RESUME", "RESUME"),
    ("DISABLE", "a database is required"),
    ("DISABLE nowhere", "no such database: nowhere"),
    ("DISABLE pgbouncer", "cannot disable admin db: pgbouncer"),
    ("DISABLE postgres", "DISABLE"),
    ("ENABLE", "a database is required"),
    ("ENABLE nowhere", "no such database: nowhere"),
    ("ENABLE pgbouncer", "cannot enable admin db: pgbouncer"),
    ("ENABLE postgres", "ENABLE"),
    ("RECONNECT nowhere", "no such database: nowhere"),
    ("RECONNECT pgbouncer", "cannot reconnect admin db: pgbouncer"),
    ("RECONNECT postgres", "RECONNECT"),
    ("RECONNECT", "RECONNECT"),
    ("WAIT_CLOSE nowhere", "no such database: nowhere"),
    ("WAIT_CLOSE pgbouncer", "cannot wait in admin db: pgbouncer"),
    ("WAIT_CLOSE postgres", "WAIT_CLOSE"),
    ("WAIT_CLOSE", "WAIT_CLOSE"),
    ("KILL nowhere", "no such database: nowhere"),
    ("KILL pgbouncer", "cannot kill admin db: pgbouncer"),
    ("KILL postgres", "KILL"),
    ("RESUME postgres", "RESUME"),
    ("KILL", "KILL"),
    ("RESUME", "RESUME"),
    ("KILL_CLIENT", "invalid client pointer supplied"),
    ("KILL_CLIENT abc", "invalid client pointer supplied"),
    ("KILL_CLIENT 99999", "client not found"),
    ("RELOAD", "RELOAD"),
];

fn single_entry(cluster: &Cluster) -> String {
    format!("postgres = host={} port={}", cluster.socket_dir().display(), cluster.port())
}

#[test]
fn every_command_answers_in_pgbouncers_words() {
    let cluster = Cluster::start();
    let sluice = Sluice::start(&single_entry(&cluster), &[]);
    let mut console = console(&sluice);
    for (command, expected) in DIALOGUE {
        let answer = console.query(command);
        assert_eq!(answer.status(), Some('I'), "{command}");
        match answer.error() {
            Some(error) => {
                assert_eq!(&error.message, expected, "{command}");
                assert_eq!((error.severity.as_str(), error.code.as_str()), ("ERROR", "08P01"), "{command}");
            }
            None => assert_eq!(answer.completed(), [*expected], "{command}"),
        }
    }
    for long in [format!("SHOW {}", "x".repeat(64)), format!("SET query_timeout='{}'", "1".repeat(256))] {
        assert_eq!(console.error(&long).message, "bad arguments", "{long}");
    }
}

#[test]
fn drivers_get_the_settings_that_they_ask_for() {
    let stand = Stand::start(&[]);
    let mut console = console(&stand.sluice);
    for (name, value) in [
        ("client_encoding", "UTF-8"),
        ("default_transaction_isolation", "read committed"),
        ("standard_conforming_strings", "on"),
        ("datestyle", "ISO"),
        ("timezone", "GMT"),
    ] {
        assert_eq!(console.value(&format!("SHOW {name}")), value);
        let answer = console.ok(&format!("SET {name} = 'anything'"));
        assert_eq!(answer.notices()[0].message, "SET ignored");
    }
    let parameter = |name: &str| console.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| &**value);
    assert!(parameter("server_version").is_some_and(|version| version.ends_with("/bouncer")));
    assert_eq!(parameter("is_superuser"), Some("on"));
}

#[test]
fn help_is_a_notice() {
    let stand = Stand::start(&[]);
    let answer = console(&stand.sluice).ok("SHOW HELP");
    let notice = &answer.notices()[0];
    assert_eq!((notice.code.as_str(), notice.message.as_str()), ("00000", "Console usage"));
    assert!(notice.detail.contains("SHOW HELP|CONFIG|DATABASES|POOLS|CLIENTS|SERVERS|USERS|VERSION"));
    assert_eq!(answer.completed(), ["SHOW"]);
}

#[test]
fn rights_end_where_the_settings_say() {
    let cluster = Cluster::start();
    let users = "\"postgres\" \"\"\n\"watcher\" \"\"\n\"stranger\" \"\"\n\"pgbouncer\" \"\"\n";
    let settings = ["admin_users = postgres", "stats_users = watcher", "max_client_conn = 1"];
    let sluice = Sluice::start_with_users(&databases(&cluster, ""), &settings, users);
    let to_console = |user: &str| Login { user: user.to_owned(), ..Login::to("pgbouncer") };
    assert_eq!(refusal(&sluice, &to_console("stranger")).message, "not allowed");
    // The name alone is no right: it takes the process's own Unix user, too.
    assert_eq!(refusal(&sluice, &to_console("pgbouncer")).message, "not allowed");
    let mut watcher = sluice.log_in(&to_console("watcher"));
    watcher.ok("SHOW POOLS");
    watcher.ok("SET datestyle = ISO");
    for command in [
        "SHOW FDS",
        "RELOAD",
        "SET query_timeout=1",
        "PAUSE",
        "RESUME",
        "SUSPEND",
        "DISABLE postgres",
        "ENABLE postgres",
        "RECONNECT",
        "WAIT_CLOSE",
        "KILL",
        "KILL_CLIENT 1",
        "SHUTDOWN",
        "SHUTDOWN WAIT_FOR_CLIENTS",
    ] {
        assert_eq!(watcher.error(command).message, "admin access needed", "{command}");
    }
    // The console is exempt from max_client_conn.
    let mut admin = sluice.log_in(&to_console("postgres"));
    admin.ok("RELOAD");
    assert_eq!(refusal(&sluice, &Login::default()).message, "no more connections allowed (max_client_conn)");
}

#[test]
fn with_auth_type_any_everybody_may_look() {
    let cluster = Cluster::start();
    let entry = format!("{} user=postgres", single_entry(&cluster));
    let sluice = Sluice::start(&entry, &["auth_type = any", "admin_users = boss"]);
    let to_console = |user: &str| Login { user: user.to_owned(), ..Login::to("pgbouncer") };
    let mut anybody = sluice.log_in(&to_console("anybody"));
    anybody.ok("SHOW POOLS");
    assert_eq!(anybody.error("RELOAD").message, "admin access needed");
    sluice.log_in(&to_console("boss")).ok("RELOAD");
}

#[test]
fn the_extended_protocol_works_too() {
    let stand = Stand::start(&[]);
    let answer = console(&stand.sluice).run(Batch::new().run("SHOW VERSION", &[]).sync());
    assert!(answer.column()[0].starts_with("Sluice "));
}

/// A row of SHOW as a list of texts; NULL is `-`.
fn row(console: &mut Client, show: &str, first: &str) -> Vec<String> {
    let rows = console.ok(show).rows();
    let row =
        rows.into_iter().find(|row| row[0].as_deref() == Some(first)).unwrap_or_else(|| panic!("{show}: {first}"));
    row.into_iter().map(|value| value.unwrap_or_else(|| "-".to_owned())).collect()
}

#[test]
fn shown_values_are_pgbouncers() {
    let cluster = Cluster::start();
    cluster.psql("postgres", "CREATE ROLE bob LOGIN SUPERUSER");
    let host = cluster.socket_dir().display().to_string();
    let entries = format!(
        "plain = host={host} dbname=postgres\nfull = host='{host},{host}' dbname=postgres user=bob pool_size=5 \
         min_pool_size=0 reserve_pool_size=2 pool_mode=session max_db_connections=9 max_db_client_connections=8"
    );
    let users = "\n[users]\npostgres = pool_size=3 max_user_connections=7\n";
    let sluice = Sluice::start(&entries, &[users]);
    let mut console = console(&sluice);
    let mut client = sluice.log_in(&Login::to("full"));
    client.ok("SELECT 1");
    let database = row(&mut console, "SHOW DATABASES", "full");
    let expected = format!("full|{host},{host}|5432|postgres|bob|5|0|2|3600|session|round-robin|9|1|8|1|0|0|-");
    assert_eq!(database.join("|"), expected);
    let database = row(&mut console, "SHOW DATABASES", "plain");
    assert_eq!(database.join("|"), format!("plain|{host}|5432|postgres|-|20|0|0|3600|-|-|0|0|0|0|0|0|-"));
    let own = row(&mut console, "SHOW DATABASES", "pgbouncer");
    let port = sluice.port();
    assert_eq!(own.join("|"), format!("pgbouncer|-|{port}|pgbouncer|pgbouncer|2|0|0|3600|statement|-|0|0|0|1|0|0|-"));
    let pool = row(&mut console, "SHOW POOLS", "full");
    assert_eq!(pool.join("|"), "full|bob|1|0|0|0|1|0|0|0|0|0|0|0|0|session|round-robin|-");
    let user = row(&mut console, "SHOW USERS", "postgres");
    assert_eq!(user[1].trim_start(), "3");
    assert_eq!(user[2..].join("|"), "|-|7|0|0|1");
    let unset = row(&mut console, "SHOW USERS", "pgbouncer");
    assert_eq!(unset[1..4].join("|"), "||-", "sizes that are not set are empty, not NULL");
    client.ok("BEGIN");
    let socket = row(&mut console, "SHOW SERVERS", "S");
    assert_eq!(socket[..7].join("|"), "S|bob|full|none|active|unix|5432");
    assert!(socket[15].starts_with("0x"), "the link of a server in use: {socket:?}");
}

#[test]
fn clients_and_servers_are_numbered_by_one_counter() {
    let stand = Stand::start(&[]);
    let mut console = console(&stand.sluice);
    let id = |console: &mut Client, show: &str| {
        let rows = console.ok(show).rows();
        rows.iter().filter_map(|row| row[20].as_deref()?.parse::<u64>().ok()).max().expect("a number")
    };
    let own = id(&mut console, "SHOW CLIENTS");
    let _client = stand.client();
    assert_eq!(id(&mut console, "SHOW CLIENTS"), own + 1);
    assert_eq!(id(&mut console, "SHOW SERVERS"), own + 2);
}

#[test]
fn a_disabled_database_is_shown_although_nobody_uses_it() {
    let stand = Stand::start(&[]);
    let mut console = console(&stand.sluice);
    console.ok("DISABLE somewhere");
    assert_eq!(row(&mut console, "SHOW DATABASES", "somewhere")[16], "1");
    let error = refusal(&stand.sluice, &Login::to("somewhere"));
    assert_eq!(error.message, "database \"somewhere\" is disabled");
}
