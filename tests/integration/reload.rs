//! RELOAD and SET: what follows the files, what stays, and what becomes of connections.

use std::fs;
use std::process::Command;

use sluice_test_harness::Cluster;

use crate::auth::refusal;
use crate::support::{Client, Login, Sluice, Stand, console, eventually};

fn entry(name: &str, cluster: &Cluster, more: &str) -> String {
    format!("{name} = host={} dbname=postgres {more}", cluster.socket_dir().display())
}

/// Puts something else into the settings file.
fn edit(sluice: &Sluice, from: &str, to: &str) {
    let path = sluice.directory().join("sluice.ini");
    let settings = fs::read_to_string(&path).expect("its settings");
    assert!(settings.contains(from), "{from} in {settings}");
    fs::write(path, settings.replace(from, to)).expect("its settings");
}

fn hang_up(sluice: &Sluice) {
    let sent = Command::new("kill").args(["-HUP", &sluice.pid().to_string()]).status().expect("kill");
    assert!(sent.success());
}

fn setting(console: &mut Client, name: &str) -> Option<String> {
    let rows = console.ok("SHOW CONFIG").rows();
    rows.into_iter().find(|row| row[0].as_deref() == Some(name)).and_then(|row| row[1].clone())
}

#[test]
fn settings_and_entries_follow_the_file() {
    let cluster = Cluster::start();
    let (stays, goes) = (entry("stays", &cluster, ""), entry("goes", &cluster, ""));
    let sluice = Sluice::start(&format!("{stays}\n{goes}"), &["query_timeout = 7"]);
    let mut console = console(&sluice);
    let (mut kept, mut dropped) = (sluice.log_in(&Login::to("stays")), sluice.log_in(&Login::to("goes")));
    let backend = kept.backend();
    dropped.ok("BEGIN; SELECT 1");
    console.ok("SET max_client_conn = 55");
    console.ok("SET auth_user = somebody");
    edit(&sluice, "query_timeout = 7", "query_timeout = 8");
    edit(&sluice, &goes, "");
    console.ok("RELOAD");
    let told = dropped.until_closed().error().expect("the reason");
    assert_eq!((told.severity.as_str(), told.message.as_str()), ("FATAL", "database removed"));
    assert_eq!(refusal(&sluice, &Login::to("goes")).message, "no such database: goes");
    let gone = "WARNING dropping database 'goes' as it does not exist anymore or inactive auto-database";
    assert!(sluice.log().contains(gone), "{}", sluice.log());
    assert_eq!(setting(&mut console, "query_timeout").as_deref(), Some("8"));
    assert_eq!(setting(&mut console, "max_client_conn").as_deref(), Some("100"), "what SET had made is lost");
    assert_eq!(setting(&mut console, "auth_user"), None, "also where there is no default");
    assert_eq!(kept.backend(), backend);
    edit(&sluice, "query_timeout = 8", "query_timeout = 9");
    hang_up(&sluice);
    eventually("SIGHUP reloads", || setting(&mut console, "query_timeout").as_deref() == Some("9"));
    assert!(sluice.log().contains("LOG got SIGHUP, re-reading config"));
}

#[test]
fn a_file_with_a_mistake_changes_nothing() {
    let stand = Stand::start(&["query_timeout = 7"]);
    let mut console = console(&stand.sluice);
    edit(&stand.sluice, "query_timeout = 7", "query_timeout = 8\nmax_client_conn = many");
    let error = console.error("RELOAD");
    assert_eq!(
        (error.severity.as_str(), error.code.as_str(), error.message.as_str()),
        ("ERROR", "F0000", "RELOAD failed, see logs for additional details")
    );
    assert!(error.detail.contains("bad value \"many\" for \"max_client_conn\""), "{}", error.detail);
    hang_up(&stand.sluice);
    eventually("the log has it", || stand.sluice.log().contains("the old configuration stays in force"));
    assert_eq!(setting(&mut console, "query_timeout").as_deref(), Some("7"));
    stand.assert_healthy();
}

#[test]
fn servers_of_a_changed_entry_are_replaced() {
    let cluster = Cluster::start();
    cluster.psql("postgres", "CREATE DATABASE other");
    cluster.psql("postgres", "CREATE ROLE bob LOGIN");
    let sluice = Sluice::start(&entry("mine", &cluster, "pool_size=4"), &[]);
    let mut console = console(&sluice);
    let mut client = sluice.log_in(&Login::to("mine"));
    let old = client.backend();
    let reload = |console: &mut Client, from: &str, to: &str| {
        edit(&sluice, from, to);
        console.ok("RELOAD");
    };
    reload(&mut console, "pool_size=4", "pool_size=3 password=x");
    assert_eq!(client.backend(), old, "sizes and passwords close nothing");
    client.ok("BEGIN; SELECT 1");
    reload(&mut console, "dbname=postgres", "dbname=other");
    assert_eq!(client.backend(), old, "what is in use stays until it is free");
    client.ok("COMMIT");
    assert_eq!(client.value("SELECT current_database()"), "other");
    let closed = "closing because: database configuration changed (age=";
    assert!(sluice.log().contains(closed), "{}", sluice.log());
    // A forced user can be given and taken away.
    for (from, to, expected) in [("pool_size=3", "pool_size=3 user=bob", "bob"), (" user=bob", "", "postgres")] {
        reload(&mut console, from, to);
        assert_eq!(sluice.log_in(&Login::to("mine")).value("SELECT current_user"), expected);
    }
}

#[test]
fn entries_made_from_the_star_follow_it() {
    let stand = Stand::with_entry("pool_size=7", &[]);
    let mut console = console(&stand.sluice);
    let mut client = stand.client();
    assert_eq!(client.value("SELECT current_database()"), "postgres");
    edit(&stand.sluice, "pool_size=7", "pool_size=7 dbname=template1");
    console.ok("RELOAD");
    assert_eq!(client.value("SELECT current_database()"), "template1");
    edit(&stand.sluice, "* = host", "other = host");
    console.ok("RELOAD");
    assert_eq!(refusal(&stand.sluice, &Login::default()).message, "no such database: postgres");
}

#[test]
fn another_file_may_be_read_from_now_on() {
    let stand = Stand::start(&["query_timeout = 7"]);
    let mut console = console(&stand.sluice);
    let (first, second) = (stand.sluice.directory().join("sluice.ini"), stand.sluice.directory().join("second.ini"));
    let settings = fs::read_to_string(first).expect("its settings").replace("query_timeout = 7", "query_timeout = 8");
    fs::write(&second, settings).expect("other settings");
    console.ok(&format!("SET conffile = '{}'", second.display()));
    console.ok("RELOAD");
    assert_eq!(setting(&mut console, "query_timeout").as_deref(), Some("8"));
    assert_eq!(setting(&mut console, "conffile").as_deref(), second.to_str());
}

#[test]
fn users_follow_the_file() {
    let stand = Stand::start(&[]);
    let mut console = console(&stand.sluice);
    assert_eq!(refusal(&stand.sluice, &Login::user("bob")).code, "28000");
    stand.direct("CREATE ROLE bob LOGIN");
    let users = stand.sluice.directory().join("users.txt");
    fs::write(&users, "\"postgres\" \"\"\n\"bob\" \"\"\n").expect("users");
    console.ok("RELOAD");
    let mut bob = stand.sluice.log_in(&Login::user("bob"));
    fs::write(&users, "\"postgres\" \"\"\n").expect("users");
    console.ok("RELOAD");
    assert_eq!(refusal(&stand.sluice, &Login::user("bob")).code, "28000");
    assert_eq!(bob.value("SELECT current_user"), "bob", "whoever is in stays");
}

#[test]
fn set_tells_when_tls_does_not_follow() {
    let stand = Stand::start(&[]);
    let mut console = console(&stand.sluice);
    let answer = console.ok("SET client_tls_sslmode = 'require'");
    assert_eq!(answer.notices()[0].message, "TLS settings could not be applied, still using old configuration");
    assert_eq!(answer.completed(), ["SET client_tls_sslmode=require"]);
    // Not this one's fault.
    assert!(console.ok("SET query_timeout = 0").notices().is_empty());
    stand.assert_healthy();
}
