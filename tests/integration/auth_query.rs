//! `auth_query`: users whom PostgreSQL knows and `auth_file` doesn't, and what strangers can do with the query.

use std::time::{Duration, Instant};

use sluice_test_harness::Cluster;

use crate::auth::{METHODS, cluster_with, refusal, scram_only, verifier, who};
use crate::support::{Client, Login, ServerError, Sluice, console, databases, eventually};

/// `auth_user`; its servers need no password.
const POOLER: &str = "\"postgres\" \"\"\n";

fn start(cluster: &Cluster, entry: &str, settings: &[&str]) -> Sluice {
    let settings = [&["auth_user = postgres", "auth_type = scram-sha-256"], settings].concat();
    Sluice::start_with_users(&databases(cluster, entry), &settings, POOLER)
}

fn alice(password: &str) -> Login {
    Login::user("alice").with_password(password)
}

fn shown(error: &ServerError) -> (&str, &str, &str) {
    (&error.severity, &error.code, &error.message)
}

const WRONG: (&str, &str, &str) = ("FATAL", "28P01", "SASL authentication failed");
const MISCONFIGURED: (&str, &str, &str) = ("FATAL", "F0000", "bouncer config error");

#[test]
fn users_who_are_not_listed_are_looked_up() {
    let cluster = scram_only();
    verifier(&cluster, "alice", "secret", "scram-sha-256");
    for method in METHODS {
        let sluice = start(&cluster, "", &[&format!("auth_type = {method}")]);
        // The server, too, wants SCRAM: the keys of the client's login open it.
        assert_eq!(who(&mut sluice.log_in(&alice("secret"))), "alice", "{method}");
        assert_eq!(refusal(&sluice, &alice("Secret")).code, "28P01", "{method}");
    }
}

#[test]
fn md5_hashes_are_found_as_well() {
    let cluster = cluster_with(&["alice"]);
    verifier(&cluster, "alice", "secret", "md5");
    for method in ["plain", "md5"] {
        let sluice = start(&cluster, "", &[&format!("auth_type = {method}")]);
        assert_eq!(who(&mut sluice.log_in(&alice("secret"))), "alice", "{method}");
        assert_eq!(refusal(&sluice, &alice("Secret")).code, "28P01", "{method}");
    }
    // As PostgreSQL does it: an md5 hash is no use for SCRAM.
    let sluice = start(&cluster, "", &[]);
    assert_eq!(shown(&refusal(&sluice, &alice("secret"))), WRONG);
}

#[test]
fn a_secret_is_looked_up_at_each_login() {
    let cluster = scram_only();
    verifier(&cluster, "alice", "secret", "scram-sha-256");
    let sluice = start(&cluster, "", &["default_pool_size = 1"]);
    assert_eq!(who(&mut sluice.log_in(&alice("secret"))), "alice");
    verifier(&cluster, "alice", "newer", "scram-sha-256");
    assert_eq!(shown(&refusal(&sluice, &alice("secret"))), WRONG);
    // New servers are opened with the new keys.
    console(&sluice).ok("RECONNECT");
    assert_eq!(who(&mut sluice.log_in(&alice("newer"))), "alice");
    cluster.psql("postgres", "ALTER ROLE alice VALID UNTIL '2001-01-01'");
    assert_eq!(shown(&refusal(&sluice, &alice("newer"))), WRONG, "expired");
    cluster.psql("postgres", "ALTER ROLE alice VALID UNTIL 'infinity' NOLOGIN");
    assert_eq!(shown(&refusal(&sluice, &alice("newer"))), WRONG, "may not log in");
}

#[test]
fn entries_have_queries_of_their_own() {
    let (first, second) = (scram_only(), scram_only());
    verifier(&first, "alice", "of the first", "scram-sha-256");
    verifier(&second, "alice", "of the second", "scram-sha-256");
    first.psql("postgres", "CREATE DATABASE users");
    first.psql(
        "users",
        "CREATE FUNCTION public.lookup(INOUT name text, OUT secret text) SECURITY DEFINER LANGUAGE sql AS \
         'SELECT rolname, rolpassword FROM pg_authid WHERE rolname = $1'",
    );
    let at = |cluster: &Cluster| format!("host={} port={}", cluster.socket_dir().display(), cluster.port());
    let entries = format!(
        "a = {} dbname=postgres auth_user=postgres auth_dbname=users auth_query='SELECT * FROM lookup($1)'\n\
         b = {} dbname=postgres auth_user=postgres\nusers = {}\nc = {} dbname=postgres\n",
        at(&first),
        at(&second),
        at(&first),
        at(&first),
    );
    let sluice = Sluice::start_with_users(&entries, &["auth_type = scram-sha-256"], POOLER);
    let to =
        |database: &str, password: &str| Login { user: "alice".into(), ..Login::to(database) }.with_password(password);
    for _ in 0..2 {
        for (database, password) in [("a", "of the first"), ("b", "of the second")] {
            assert_eq!(who(&mut sluice.log_in(&to(database, password))), "alice", "{database}");
        }
        assert_eq!(shown(&refusal(&sluice, &to("a", "of the second"))), WRONG);
        console(&sluice).ok("RECONNECT");
    }
    assert_eq!(shown(&refusal(&sluice, &to("c", "of the first"))), WRONG, "c has no auth_user");
    // Nobody can say who this is; that there is no such database is for those who have logged in.
    assert_eq!(shown(&refusal(&sluice, &to("nowhere", "of the first"))), WRONG);
}

#[test]
fn the_query_may_answer_with_another_name() {
    let cluster = cluster_with(&["alice"]);
    let sluice = start(&cluster, "", &["auth_query = SELECT 'alice', 'pw' WHERE $1 = 'ann@example.com'"]);
    let mut client = sluice.log_in(&Login::user("ann@example.com").with_password("pw"));
    assert_eq!(who(&mut client), "alice");
}

#[test]
fn answers_that_make_no_sense_let_nobody_in() {
    let cluster = cluster_with(&["alice"]);
    let answers = [
        ("SELECT $1::text", "expected 2 columns, user name and secret, but got 1"),
        ("SELECT $1::text, 'pw', 'more'", "expected 2 columns"),
        ("SELECT NULL::text, 'pw' WHERE $1 <> ''", "null user name"),
        ("SELECT '', 'pw' WHERE $1 <> ''", "a user name of 0 bytes"),
        ("SELECT repeat('x', 128), 'pw' WHERE $1 <> ''", "a user name of 128 bytes"),
        ("SELECT $1::text, repeat('x', 65531)", "a secret of 65531 bytes"),
        ("SELECT $1::text, 'pw' FROM generate_series(1, 3)", "more than one row for a user"),
        ("SELECT $1::text, 'pw' WHERE 1 / 0 = 1", "ERROR: division by zero"),
        ("SELEKT $1", "ERROR: syntax error at or near \"SELEKT\""),
        ("SELECT 'alice', 'pw'", "ERROR: bind message supplies 1 parameters"),
        ("COPY (SELECT 1) TO STDOUT", "ERROR: bind message supplies 1 parameters"),
    ];
    let at = format!("host={} port={}", cluster.socket_dir().display(), cluster.port());
    let entry = |(number, (query, _)): (usize, &(&str, &str))| {
        format!("q{number} = {at} dbname=postgres pool_size=1 auth_query='{}'\n", query.replace('\'', "''"))
    };
    let entries: String = answers.iter().enumerate().map(entry).collect();
    let sluice = Sluice::start_with_users(&entries, &["auth_user = postgres", "auth_type = scram-sha-256"], POOLER);
    for (number, (query, reason)) in answers.into_iter().enumerate() {
        let login = Login { user: "alice".into(), ..Login::to(&format!("q{number}")) }.with_password("pw");
        let closed = format!("closing because: error in auth_query: {reason}");
        let is_close = |line: &&str| line.contains(&format!("q{number}/postgres@")) && line.contains(&closed);
        // A second one finds the pool's only server free again, or replaced.
        for count in 1..=if number == 0 { 2 } else { 1 } {
            assert_eq!(shown(&refusal(&sluice, &login)), MISCONFIGURED, "{query}");
            assert_eq!(sluice.log().lines().filter(is_close).count(), count, "{query}:\n{}", sluice.log());
        }
    }
}

#[test]
fn a_null_secret_never_matches() {
    let cluster = cluster_with(&["alice"]);
    for method in METHODS {
        let settings = ["auth_query = SELECT $1::text, NULL", &format!("auth_type = {method}")];
        assert_eq!(refusal(&start(&cluster, "", &settings), &alice("NULL")).code, "28P01", "{method}");
    }
    let settings = ["auth_query = SELECT $1::text, NULL", "auth_type = trust"];
    assert_eq!(who(&mut start(&cluster, "", &settings).log_in(&Login::user("alice"))), "alice");
}

#[test]
fn a_query_that_cannot_run_is_the_configurations_fault() {
    let cluster = cluster_with(&["alice"]);
    let missing = start(&cluster, "", &["auth_dbname = missing"]);
    assert_eq!(shown(&refusal(&missing, &alice("x"))), MISCONFIGURED);
    assert!(missing.log().contains("database \"missing\" does not exist"), "{}", missing.log());
    let at = format!("host={} port={}", cluster.socket_dir().display(), cluster.port());
    let entries = format!("postgres = {at} auth_dbname=nowhere\nother = {at} dbname=postgres\n");
    let settings = ["auth_user = postgres", "auth_type = scram-sha-256"];
    let sluice = Sluice::start_with_users(&entries, &settings, POOLER);
    assert_eq!(shown(&refusal(&sluice, &alice("x"))), MISCONFIGURED);
    assert!(sluice.log().contains("authentication database \"nowhere\" is not configured."), "{}", sluice.log());
    // The console has no database of its own to ask.
    let to_console = Login { user: "alice".into(), ..Login::to("pgbouncer") }.with_password("x");
    assert_eq!(shown(&refusal(&sluice, &to_console)), MISCONFIGURED);
    assert!(sluice.log().contains("cannot use the reserved \"pgbouncer\" database as an auth_dbname"));
    console(&sluice).ok("DISABLE other");
    let other = Login { user: "alice".into(), ..Login::to("other") }.with_password("x");
    assert_eq!(refusal(&sluice, &other).message, "authentication database \"other\" is disabled");
}

#[test]
fn the_console_is_open_to_those_who_are_looked_up() {
    let cluster = scram_only();
    verifier(&cluster, "alice", "secret", "scram-sha-256");
    verifier(&cluster, "bob", "secret", "scram-sha-256");
    let sluice = start(&cluster, "", &["auth_dbname = postgres", "admin_users = alice"]);
    let login = |user: &str| Login { user: user.into(), ..Login::to("pgbouncer") }.with_password("secret");
    sluice.log_in(&login("alice")).ok("SHOW VERSION");
    assert_eq!(shown(&refusal(&sluice, &login("bob"))), ("FATAL", "42501", "not allowed"));
}

#[test]
fn hostile_names_are_only_names() {
    let cluster = scram_only();
    cluster.psql("postgres", "CREATE TABLE canary (x int)");
    let sluice = start(&cluster, "", &[]);
    let names = [
        "alice'; DROP TABLE canary; --",
        "alice\"",
        "$1",
        "\\'; DROP TABLE canary; --",
        "alice\nbob",
        "line\r\n2026-01-01 00:00:00.000 UTC [1] LOG forged",
        "\u{feff}alice",
        "é',(SELECT 1))",
        " ",
        "%s%n",
    ];
    for name in names {
        assert_eq!(shown(&refusal(&sluice, &Login::user(name).with_password("x"))), WRONG, "{name:?}");
    }
    for length in [128, 9_000] {
        let error = refusal(&sluice, &Login::user(&"x".repeat(length)).with_password("x"));
        assert_eq!(shown(&error), ("FATAL", "08P01", "username too long"));
    }
    assert_eq!(cluster.psql("postgres", "SELECT count(*) FROM canary"), "0");
    assert!(!sluice.log().lines().any(|line| line.starts_with("2026-01-01")), "a name has forged a line of the log");
    // Odd as they are, they may exist.
    for name in ["o'neil \"x\"; --", "$1", "é"] {
        cluster.psql("postgres", &format!("CREATE ROLE \"{}\" LOGIN PASSWORD 'secret'", name.replace('"', "\"\"")));
        assert_eq!(who(&mut sluice.log_in(&Login::user(name).with_password("secret"))), name);
    }
}

/// CVE-2025-12819 of PgBouncer, and its kin: somebody else's pg_authid, by somebody's search_path.
#[test]
fn no_search_path_of_a_client_reaches_the_query() {
    let cluster = scram_only();
    verifier(&cluster, "alice", "secret", "scram-sha-256");
    let mine = verifier(&cluster, "bob", "mine", "scram-sha-256");
    cluster.psql(
        "postgres",
        &format!(
            "CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO public; \
             CREATE TABLE evil.pg_authid AS SELECT 'alice'::name AS rolname, '{mine}'::text AS rolpassword, \
             NULL::timestamptz AS rolvaliduntil, true AS rolcanlogin; GRANT SELECT ON evil.pg_authid TO public"
        ),
    );
    let settings =
        ["track_extra_parameters = search_path", "default_pool_size = 1", "pool_mode = transaction", "auth_type = hba"];
    let hba = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(hba.path(), "host all postgres all trust\nhost all all all scram-sha-256\n").expect("rules");
    let hba_file = format!("auth_hba_file = {}", hba.path().display());
    let sluice = start(&cluster, "", &[&settings[..], &[&hba_file]].concat());
    let path = "evil, pg_catalog";
    for attack in [
        alice("mine").with("search_path", path),
        alice("mine").with("options", "-c search_path=evil,pg_catalog"),
        alice("mine"),
    ] {
        // auth_user itself uses the same server, and leaves its settings there.
        let mut own = sluice.log_in(&Login::default());
        own.ok(&format!("SET search_path = {path}"));
        assert_eq!(own.value("SELECT count(*) FROM pg_authid"), "1", "the trap is set");
        assert_eq!(shown(&refusal(&sluice, &attack)), WRONG);
        assert_eq!(who(&mut sluice.log_in(&alice("secret"))), "alice");
        assert_eq!(own.value("SHOW search_path"), path);
    }
}

#[test]
fn who_does_not_exist_looks_like_who_does() {
    let cluster = scram_only();
    verifier(&cluster, "alice", "secret", "scram-sha-256");
    for method in METHODS {
        let sluice = start(&cluster, "", &[&format!("auth_type = {method}")]);
        assert_eq!(who(&mut sluice.log_in(&alice("secret"))), "alice", "{method}");
        let seen = |user: &str, password: &str| {
            let login = Login::user(user).with_password(password);
            let mut client = Client::open(&sluice.address());
            client.start(&login);
            let challenge = client.read();
            let kind = (challenge.tag, challenge.body.get(..4).map(<[u8]>::to_vec));
            let began = Instant::now();
            (kind, refusal(&sluice, &login), began.elapsed())
        };
        let (wrong, unknown) = (seen("alice", "wrong"), seen("nobody", "wrong"));
        assert_eq!((&wrong.0, &wrong.1), (&unknown.0, &unknown.1), "{method}");
        for (_, _, time) in [&wrong, &unknown] {
            assert!(*time >= Duration::from_millis(300), "{method}: refused after {time:?}");
        }
        assert!(sluice.log().contains("no such user: nobody"));
        assert!(sluice.log().contains("login failed: db=postgres user=alice"));
    }
}

#[test]
fn a_refusal_keeps_nobody_waiting() {
    let cluster = scram_only();
    verifier(&cluster, "alice", "secret", "scram-sha-256");
    let sluice = start(&cluster, "", &["auth_type = plain", "max_client_conn = 1000"]);
    let mut client = sluice.log_in(&alice("secret"));
    let guessers: Vec<_> = (0..20)
        .map(|_| {
            let address = sluice.address();
            std::thread::spawn(move || Client::log_in(&address, &alice("wrong")).err().expect("a refusal").code)
        })
        .collect();
    let began = Instant::now();
    for _ in 0..20 {
        assert_eq!(client.value("SELECT 1"), "1");
    }
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    for guesser in guessers {
        assert_eq!(guesser.join().expect("no panic"), "28P01");
    }
    eventually("the servers are free", || {
        cluster.psql("postgres", "SELECT count(*) FROM pg_stat_activity WHERE state = 'active'") == "1"
    });
}
