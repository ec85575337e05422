//! Who gets in, how both sides prove it, and what somebody who doesn't get in can learn.

use std::fs;
use std::process::Command;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sluice_test_harness::Cluster;

use crate::support::{Batch, Client, Login, ServerError, Sluice, databases};

pub(crate) const METHODS: [&str; 3] = ["plain", "md5", "scram-sha-256"];

/// PostgreSQL's own verifier of `role`, which has this password now.
pub(crate) fn verifier(cluster: &Cluster, role: &str, password: &str, encryption: &str) -> String {
    cluster.psql(
        "postgres",
        &format!("SET password_encryption = '{encryption}'; ALTER ROLE {role} PASSWORD '{password}'"),
    );
    cluster.psql("postgres", &format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{role}'"))
}

pub(crate) fn cluster_with(roles: &[&str]) -> Cluster {
    let cluster = Cluster::start();
    for role in roles {
        cluster.psql("postgres", &format!("CREATE ROLE {role} LOGIN"));
    }
    cluster
}

pub(crate) fn refusal(sluice: &Sluice, login: &Login) -> ServerError {
    Client::log_in(&sluice.address(), login).err().expect("a refusal")
}

pub(crate) fn who(client: &mut Client) -> String {
    client.value("SELECT current_user")
}

#[test]
fn every_method_takes_the_right_password_and_no_other() {
    let cluster = cluster_with(&["alice"]);
    for method in METHODS {
        let users = "\"alice\" \"se\"\"cret\"\n";
        let sluice = Sluice::start_with_users(&databases(&cluster, ""), &[&format!("auth_type = {method}")], users);
        let mut client = sluice.log_in(&Login::user("alice").with_password("se\"cret"));
        assert_eq!(who(&mut client), "alice", "{method}");
        for wrong in ["secret", "se\"cret "] {
            let error = refusal(&sluice, &Login::user("alice").with_password(wrong));
            assert_eq!(
                (error.severity.as_str(), error.code.as_str()),
                ("FATAL", "28P01"),
                "{method}: {wrong:?}: {error}"
            );
        }
    }
}

#[test]
fn stored_verifiers_serve_instead_of_passwords() {
    let cluster = cluster_with(&["alice", "bob"]);
    let scram = verifier(&cluster, "alice", "secret", "scram-sha-256");
    let md5 = verifier(&cluster, "bob", "secret", "md5");
    assert!(scram.starts_with("SCRAM-SHA-256$") && md5.starts_with("md5"));
    let users = format!("\"alice\" \"{scram}\"\n\"bob\" \"{md5}\"\n");
    for (method, user) in
        [("scram-sha-256", "alice"), ("md5", "alice"), ("plain", "alice"), ("md5", "bob"), ("plain", "bob")]
    {
        let sluice = Sluice::start_with_users(&databases(&cluster, ""), &[&format!("auth_type = {method}")], &users);
        assert_eq!(who(&mut sluice.log_in(&Login::user(user).with_password("secret"))), user, "{method}");
        assert_eq!(refusal(&sluice, &Login::user(user).with_password("other")).code, "28P01", "{method}");
    }
    // An md5 hash can't serve SCRAM.
    let sluice = Sluice::start_with_users(&databases(&cluster, ""), &["auth_type = scram-sha-256"], &users);
    assert_eq!(refusal(&sluice, &Login::user("bob").with_password("secret")).code, "28P01");
}

#[test]
fn an_unknown_user_looks_like_a_wrong_password() {
    let cluster = cluster_with(&["alice"]);
    for method in METHODS {
        let sluice = Sluice::start_with_users(
            &databases(&cluster, ""),
            &[&format!("auth_type = {method}")],
            "\"alice\" \"secret\"\n",
        );
        let unknown = refusal(&sluice, &Login::user("nobody").with_password("secret"));
        let wrong = refusal(&sluice, &Login::user("alice").with_password("wrong"));
        assert_eq!(unknown, wrong, "{method}");
    }
}

#[test]
fn an_unknown_database_is_told_only_to_who_may_log_in() {
    let cluster = cluster_with(&["alice"]);
    let entry = format!("known = host={} port={} dbname=postgres", cluster.socket_dir().display(), cluster.port());
    let sluice = Sluice::start_with_users(&entry, &["auth_type = md5"], "\"alice\" \"secret\"\n");
    let login =
        |database: &str, password: &str| Login { user: "alice".into(), ..Login::to(database).with_password(password) };
    let error = refusal(&sluice, &login("unknown", "secret"));
    assert_eq!(
        (error.severity.as_str(), error.code.as_str(), error.message.as_str()),
        ("FATAL", "3D000", "no such database: unknown")
    );
    assert_eq!(refusal(&sluice, &login("unknown", "wrong")), refusal(&sluice, &login("known", "wrong")));
    assert_eq!(who(&mut sluice.log_in(&login("known", "secret"))), "alice");
}

#[test]
fn a_database_that_postgresql_does_not_have_is_postgresqls_own_error() {
    let cluster = Cluster::start();
    let sluice = Sluice::start(&databases(&cluster, ""), &[]);
    let error = refusal(&sluice, &Login::to("missing"));
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "3D000"));
    assert_eq!(error.message, "database \"missing\" does not exist");
}

#[test]
fn trust_lets_known_users_in_and_no_others() {
    let cluster = cluster_with(&["alice"]);
    let sluice = Sluice::start_with_users(&databases(&cluster, ""), &["auth_type = trust"], "\"alice\" \"\"\n");
    assert_eq!(who(&mut sluice.log_in(&Login::user("alice"))), "alice");
    let error = refusal(&sluice, &Login::user("postgres"));
    assert_eq!(
        (error.severity.as_str(), error.code.as_str(), error.message.as_str()),
        ("FATAL", "28000", "\"trust\" authentication failed")
    );
}

/// PostgreSQL that takes SCRAM only, from everybody but the superuser.
pub(crate) fn scram_only() -> Cluster {
    let cluster = cluster_with(&["alice", "bob"]);
    let hba = "local all postgres trust\nlocal all all scram-sha-256\n";
    fs::write(cluster.socket_dir().join("data/pg_hba.conf"), hba).expect("pg_hba.conf");
    cluster.psql("postgres", "SELECT pg_reload_conf()");
    cluster
}

#[test]
fn postgresql_that_wants_scram_gets_it_from_a_plain_password() {
    let cluster = scram_only();
    verifier(&cluster, "alice", "secret", "scram-sha-256");
    for method in METHODS {
        let sluice = Sluice::start_with_users(
            &databases(&cluster, ""),
            &[&format!("auth_type = {method}")],
            "\"alice\" \"secret\"\n",
        );
        assert_eq!(who(&mut sluice.log_in(&Login::user("alice").with_password("secret"))), "alice", "{method}");
    }
}

#[test]
fn a_scram_login_is_passed_through_without_knowing_the_password() {
    let cluster = scram_only();
    let stored = verifier(&cluster, "alice", "secret", "scram-sha-256");
    let users = format!("\"alice\" \"{stored}\"\n");
    let settings = ["auth_type = scram-sha-256", "server_idle_timeout = 1"];
    let sluice = Sluice::start_with_users(&databases(&cluster, ""), &settings, &users);
    let mut client = sluice.log_in(&Login::user("alice").with_password("secret"));
    assert_eq!(who(&mut client), "alice");
    // The key outlives the server connection.
    std::thread::sleep(std::time::Duration::from_millis(1700));
    assert_eq!(who(&mut client), "alice");
    drop(client);
    assert_eq!(who(&mut sluice.log_in(&Login::user("alice").with_password("secret"))), "alice");
}

#[test]
fn a_verifier_that_postgresql_does_not_have_cannot_be_passed_through() {
    let cluster = scram_only();
    // The same password, salted anew.
    let outdated = verifier(&cluster, "alice", "secret", "scram-sha-256");
    assert_ne!(verifier(&cluster, "alice", "secret", "scram-sha-256"), outdated);
    let users = format!("\"alice\" \"{outdated}\"\n");
    let settings = ["auth_type = scram-sha-256"];
    let sluice = Sluice::start_with_users(&databases(&cluster, ""), &settings, &users);
    let error = refusal(&sluice, &Login::user("alice").with_password("secret"));
    assert_eq!(error.severity, "FATAL");
    assert!(!error.message.is_empty());
}

#[test]
fn a_server_that_refuses_the_password_tells_the_client_in_its_own_words() {
    let cluster = scram_only();
    verifier(&cluster, "alice", "secret", "scram-sha-256");
    let sluice = Sluice::start_with_users(&databases(&cluster, ""), &["auth_type = plain"], "\"alice\" \"outdated\"\n");
    let error = refusal(&sluice, &Login::user("alice").with_password("outdated"));
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "28P01"));
    assert_eq!(error.message, "password authentication failed for user \"alice\"");
}

#[test]
fn a_forced_user_logs_in_for_everybody() {
    let cluster = scram_only();
    verifier(&cluster, "bob", "bobs secret", "scram-sha-256");
    for method in METHODS {
        let sluice = Sluice::start_with_users(
            &databases(&cluster, "user=bob password='bobs secret'"),
            &[&format!("auth_type = {method}"), "default_pool_size = 1"],
            "\"alice\" \"secret\"\n\"carol\" \"other\"\n",
        );
        let mut alice = sluice.log_in(&Login::user("alice").with_password("secret"));
        let mut carol = sluice.log_in(&Login::user("carol").with_password("other"));
        assert_eq!((who(&mut alice), who(&mut carol)), ("bob".to_owned(), "bob".to_owned()), "{method}");
        assert_eq!(alice.backend(), carol.backend(), "one pool for both");
    }
}

#[test]
fn an_empty_password_never_matches() {
    let cluster = cluster_with(&["alice"]);
    for method in METHODS {
        let sluice =
            Sluice::start_with_users(&databases(&cluster, ""), &[&format!("auth_type = {method}")], "\"alice\" \"\"\n");
        assert_eq!(refusal(&sluice, &Login::user("alice").with_password("anything")).code, "28P01", "{method}");
    }
    let sluice = Sluice::start_with_users(&databases(&cluster, ""), &["auth_type = plain"], "\"alice\" \"\"\n");
    let mut client = Client::open(&sluice.address());
    client.start(&Login::user("alice"));
    client.send(&Batch::new().raw(b'p', b"\0").0);
    let error = client.until_closed().error().expect("a refusal");
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "28P01"));
}

/// The longest that a statement takes while `logins` go on.
fn slowest_during(client: &mut Client, logins: Vec<JoinHandle<()>>) -> Duration {
    let mut slowest = Duration::ZERO;
    while logins.iter().any(|login| !login.is_finished()) {
        let began = Instant::now();
        assert_eq!(client.value("SELECT 1"), "1");
        slowest = slowest.max(began.elapsed());
    }
    logins.into_iter().for_each(|login| login.join().expect("a login"));
    slowest
}

#[test]
fn a_storm_of_logins_does_not_stop_queries() {
    let cluster = Cluster::start();
    // The dearest logins there are: each user's verifier has to be derived, by 6,000 rounds.
    let users: String = (0..300).map(|number| format!("\"u{number}\" \"secret\"\n")).collect();
    let settings = ["auth_type = scram-sha-256", "scram_iterations = 6000", "max_client_conn = 1000"];
    let users = format!("\"postgres\" \"pw\"\n{users}");
    let sluice = Sluice::start_with_users(&databases(&cluster, "user=postgres pool_size=5"), &settings, &users);
    let mut client = sluice.log_in(&Login::default().with_password("pw"));
    let log_in = |number| {
        let address = sluice.address();
        std::thread::spawn(move || {
            let login = Login::user(&format!("u{number}")).with_password("secret");
            let mut client = Client::open(&address);
            client.start(&login);
            // As far as our own work goes: what the client then has to derive is not ours to speed up.
            assert_eq!(client.read().tag, b'R');
        })
    };
    let slowest = slowest_during(&mut client, (0..300).map(log_in).collect());
    assert!(slowest < Duration::from_millis(500), "a query took {slowest:?} while others logged in");
    println!("slowest query: {slowest:?}");
}

#[test]
fn psql_logs_in_by_every_method() {
    let cluster = scram_only();
    verifier(&cluster, "alice", "secret", "scram-sha-256");
    for method in METHODS {
        let settings = ["auth_user = postgres", &format!("auth_type = {method}")];
        let sluice = Sluice::start_with_users(&databases(&cluster, ""), &settings, "\"postgres\" \"\"\n");
        let psql = |user: &str, password: &str| {
            let dsn = format!("host=127.0.0.1 port={} user={user} dbname=postgres", sluice.port());
            let mut psql = Command::new("psql");
            psql.env("PGPASSWORD", password).args(["-XAtqc", "SELECT current_user", &dsn]);
            let output = psql.output().expect("psql runs");
            (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        assert_eq!(psql("alice", "secret").0, "alice\n", "{method}");
        let (wrong, unknown) = (psql("alice", "wrong").1, psql("nobody", "wrong").1);
        assert!(wrong.contains("FATAL:  ") && wrong.contains("authentication failed"), "{method}: {wrong}");
        assert_eq!(wrong, unknown, "{method}");
    }
}
