//! `auth_type = hba`: rules decide how a client is authenticated, by where it comes from and what it asks for.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use sluice_test_harness::Cluster;
use tempfile::TempDir;

use crate::auth::{cluster_with, refusal, verifier, who};
use crate::support::{Client, Login, ServerError, Sluice, binary, console, databases};

/// Files of rules and maps.
struct Files {
    directory: TempDir,
}

impl Files {
    fn new(rules: &str, maps: &str) -> Self {
        let files = Self { directory: tempfile::tempdir().expect("a directory") };
        files.write(rules);
        fs::write(files.path("ident"), maps).expect("maps");
        files
    }

    fn write(&self, rules: &str) {
        fs::write(self.path("hba"), rules).expect("rules");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn start(&self, cluster: &Cluster, users: &str) -> Sluice {
        let (rules, maps) = (self.path("hba").display().to_string(), self.path("ident").display().to_string());
        let settings = ["auth_type = hba", &format!("auth_hba_file = {rules}"), &format!("auth_ident_file = {maps}")];
        Sluice::start_with_users(&databases(cluster, ""), &settings, users)
    }
}

fn shown(error: &ServerError) -> (&str, &str, &str, &str) {
    (&error.severity, &error.code, &error.message, &error.detail)
}

#[test]
fn rules_choose_the_method() {
    let cluster = cluster_with(&["alice", "bob", "carol"]);
    let scram = verifier(&cluster, "bob", "secret", "scram-sha-256");
    let files = Files::new(
        "host postgres alice 127.0.0.0/8 trust\n\
         host all alice all reject\n\
         host all bob 127.0.0.1 255.255.255.255 scram-sha-256 # SCRAM for bob\n\
         local all bob password\n\
         hostssl all carol all trust\n",
        "",
    );
    cluster.create_database("other");
    let users = format!("\"alice\" \"unused\"\n\"bob\" \"{scram}\"\n\"carol\" \"\"\n");
    let sluice = files.start(&cluster, &users);
    assert_eq!(who(&mut sluice.log_in(&Login::user("alice"))), "alice");
    let elsewhere = Login { user: "alice".into(), ..Login::to("other") };
    assert_eq!(
        shown(&refusal(&sluice, &elsewhere)),
        (
            "FATAL",
            "28000",
            "login rejected",
            "auth_hba_file rejects host \"127.0.0.1\", user \"alice\", database \"other\", no encryption"
        )
    );
    let bob = Login::user("bob").with_password("secret");
    assert_eq!(who(&mut sluice.log_in(&bob)), "bob");
    assert_eq!(who(&mut sluice.log_in_by_unix_socket(&bob)), "bob");
    let wrong = Login::user("bob").with_password("wrong");
    assert_eq!(refusal(&sluice, &wrong).message, "SASL authentication failed");
    let error = Client::log_in(&sluice.unix_address(), &wrong).err().expect("a refusal");
    assert_eq!(error.message, "password authentication failed");
    for user in ["carol", "nobody"] {
        let detail = format!(
            "no entry of auth_hba_file for host \"127.0.0.1\", user \"{user}\", database \"postgres\", no encryption"
        );
        assert_eq!(
            shown(&refusal(&sluice, &Login::user(user))),
            ("FATAL", "28000", "no authentication method is found", detail.as_str())
        );
    }
}

#[test]
fn the_system_vouches_for_its_users() {
    let cluster = cluster_with(&["alice", "bob"]);
    let own = Command::new("id").arg("-un").output().expect("id");
    let own = String::from_utf8(own.stdout).expect("a name").trim().to_owned();
    if own != "postgres" {
        cluster.psql("postgres", &format!("CREATE ROLE \"{own}\" LOGIN"));
    }
    let rules = format!("local all alice,bob,nobody,\"{own}\" peer map=m\nhost all bob all peer\nlocal all all peer\n");
    let files = Files::new(&rules, &format!("m {own} alice\nm /^({own})$ \\1\nm {own} nobody\n"));
    let users = format!("\"alice\" \"\"\n\"bob\" \"\"\n\"{own}\" \"\"\n\"carol\" \"\"\n");
    let sluice = files.start(&cluster, &users);
    let refused = |address: &str, user: &str| {
        let error = Client::log_in(address, &Login::user(user)).err().expect("a refusal");
        assert_eq!(shown(&error), ("FATAL", "28000", "unix socket login rejected", ""), "{user}");
    };
    for user in ["alice", &own] {
        assert_eq!(who(&mut sluice.log_in_by_unix_socket(&Login::user(user))), user);
    }
    // Not in the map; in the map, but no user; another name without a map; not by a unix socket.
    for user in ["bob", "nobody", "carol"] {
        refused(&sluice.unix_address(), user);
    }
    refused(&sluice.address(), "bob");
    assert!(sluice.log().contains("ident map m cannot be matched"));
}

#[test]
fn a_certificate_is_asked_for_and_there_is_none() {
    let cluster = cluster_with(&["alice"]);
    let sluice = Files::new("host all all all cert\n", "").start(&cluster, "\"alice\" \"\"\n");
    let error = refusal(&sluice, &Login::user("alice"));
    assert_eq!(shown(&error), ("FATAL", "28000", "certificate authentication failed", ""));
}

#[test]
fn rules_follow_reload_unless_they_are_broken() {
    let cluster = cluster_with(&["alice"]);
    let files = Files::new("host all all all trust\n", "");
    let sluice = files.start(&cluster, "\"alice\" \"\"\n");
    let alice = Login::user("alice");
    drop(sluice.log_in(&alice));
    let mut console = console(&sluice);
    files.write("host all all all reject\n");
    drop(sluice.log_in(&alice));
    console.ok("RELOAD");
    assert_eq!(refusal(&sluice, &alice).message, "login rejected");
    files.write("host all all all trust\nhost all all 10.0.0.1 trust\n");
    assert_eq!(console.error("RELOAD").code, "F0000");
    assert_eq!(refusal(&sluice, &alice).message, "login rejected", "the old rules hold");
    assert!(sluice.log().contains("hba:2: bad address \"10.0.0.1 trust\""), "{}", sluice.log());
    fs::remove_file(files.path("hba")).expect("removed");
    assert_eq!(console.error("RELOAD").code, "F0000");
    assert_eq!(refusal(&sluice, &alice).message, "login rejected");
    files.write("host all all all trust\n");
    fs::write(files.path("ident"), "m /( x\n").expect("maps");
    assert_eq!(console.error("RELOAD").code, "F0000");
    assert!(sluice.log().contains("ident:1: bad regular expression \"(\""), "{}", sluice.log());
    console.ok("SET auth_type = 'trust'");
    drop(sluice.log_in(&alice));
}

#[test]
fn broken_rules_do_not_start() {
    let files = Files::new("host all all all trust\nhost all +staff all md5\n", "");
    let ini = files.path("sluice.ini");
    let text = format!(
        "[databases]\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = 1\nauth_type = hba\nauth_hba_file = {}\n",
        files.path("hba").display()
    );
    fs::write(&ini, text).expect("settings");
    let output = Command::new(binary()).arg(&ini).stdin(Stdio::null()).output().expect("sluice runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("hba:2: \"+staff\" is not supported"), "{text}");
}

#[test]
fn anybody_is_the_forced_user() {
    let cluster = cluster_with(&["alice"]);
    let at = format!("host={} port={}", cluster.socket_dir().display(), cluster.port());
    let entries = format!("forced = {at} dbname=postgres user=alice\nfree = {at} dbname=postgres\n");
    let sluice = Sluice::start_with_users(&entries, &["auth_type = any", "admin_users = root"], "");
    let to = |database: &str, user: &str| Login { user: user.into(), ..Login::to(database) };
    assert_eq!(who(&mut sluice.log_in(&to("forced", "whoever"))), "alice");
    let error = refusal(&sluice, &to("free", "whoever"));
    assert_eq!((error.code.as_str(), error.message.as_str()), ("F0000", "bouncer config error"));
    let mut reader = sluice.log_in(&to("pgbouncer", "whoever"));
    reader.ok("SHOW POOLS");
    assert!(reader.error("PAUSE").message.contains("admin"), "only a reader");
    sluice.log_in(&to("pgbouncer", "root")).ok("PAUSE");
}
