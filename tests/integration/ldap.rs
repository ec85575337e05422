//! `auth_type = ldap` and method `ldap` of a rule, against OpenLDAP's own server.

use std::fs;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::auth::{cluster_with, refusal, who};
use crate::support::{Batch, Client, Login, Sluice, databases, eventually, free_port};

const CONFIGURATION: &str = "\
objectclass ( 1.3.6.1.4.1.4203.666.1 NAME 'somebody' SUP top STRUCTURAL MUST cn MAY ( uid $ userPassword ) )
database ldif
suffix cn=test
directory DIRECTORY/data
rootdn cn=root,cn=test
rootpw hush
access to attrs=userPassword by anonymous auth
access to * by dn.exact=cn=finder,cn=test read by anonymous auth
";

const ENTRIES: &str = "\
dn: cn=test
objectClass: somebody
cn: test

dn: cn=finder,cn=test
objectClass: somebody
cn: finder
userPassword: found

dn: cn=alice,cn=test
objectClass: somebody
cn: alice
uid: alice
userPassword: secret

dn: cn=twin,cn=test
objectClass: somebody
cn: twin
uid: twins
userPassword: secret

dn: cn=other twin,cn=test
objectClass: somebody
cn: other twin
uid: twins
userPassword: secret
";

/// A running LDAP server.
struct Slapd {
    process: Child,
    port: u16,
    _directory: TempDir,
}

impl Slapd {
    fn start() -> Self {
        let program = std::env::var("SLAPD").unwrap_or_else(|_| "/usr/sbin/slapd".to_owned());
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name).display().to_string();
        fs::create_dir(path("data")).expect("a directory");
        fs::write(path("conf"), CONFIGURATION.replace("DIRECTORY", &directory.path().display().to_string()))
            .expect("its configuration");
        fs::write(path("ldif"), ENTRIES).expect("its entries");
        let add = Command::new(&program).args(["-T", "add", "-f", &path("conf"), "-l", &path("ldif")]).output();
        let add = add.unwrap_or_else(|error| panic!("{program}: {error} (install slapd, or set SLAPD)"));
        assert!(add.status.success(), "{}", String::from_utf8_lossy(&add.stderr));
        let port = free_port();
        let url = format!("ldap://127.0.0.1:{port}/");
        let mut slapd = Command::new(&program);
        let slapd = slapd.args(["-d", "0", "-h", &url, "-f", &path("conf")]).stderr(Stdio::null());
        let started = Self { process: slapd.spawn().expect("slapd starts"), port, _directory: directory };
        eventually("slapd listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        started
    }
}

impl Drop for Slapd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn by_name(slapd: &Slapd) -> String {
    format!("ldapserver=127.0.0.1 ldapport={} ldapprefix=\"cn=\" ldapsuffix=\",cn=test\"", slapd.port)
}

fn by_search(slapd: &Slapd) -> String {
    format!(
        "ldapurl=\"ldap://127.0.0.1:{}/cn=test?uid?sub\" ldapbinddn=\"cn=finder,cn=test\" ldapbindpasswd=found",
        slapd.port
    )
}

#[test]
#[ignore = "needs slapd: apt install slapd, or SLAPD=PATH"]
fn who_can_bind_is_the_user() {
    let (slapd, cluster) = (Slapd::start(), cluster_with(&["alice", "twins"]));
    for options in [by_name(&slapd), by_search(&slapd)] {
        let settings = ["auth_type = ldap", &format!("auth_ldap_options = {options}")];
        let sluice = Sluice::start_with_users(&databases(&cluster, ""), &settings, "");
        let login = |user: &str, password: &str| Login::user(user).with_password(password);
        assert_eq!(who(&mut sluice.log_in(&login("alice", "secret"))), "alice", "{options}");
        let hostile = ["alice,cn=test", "*", "alice)(uid=*", "a*", "twins", "nobody", "al\\69ce", "+"];
        for (user, password) in [("alice", "wrong")].into_iter().chain(hostile.map(|user| (user, "secret"))) {
            let error = refusal(&sluice, &login(user, password));
            assert_eq!(
                (error.code.as_str(), error.message.as_str()),
                ("28P01", "LDAP authentication failed"),
                "{user}"
            );
        }
        // LDAP would take it for an anonymous bind, which always succeeds.
        let mut client = Client::open(&sluice.address());
        client.start(&Login::user("alice"));
        client.send(&Batch::new().raw(b'p', b"\0").0);
        let error = client.until_closed().error().expect("a refusal");
        assert_eq!(error.message, "empty password returned by client");
    }
}

#[test]
#[ignore = "needs slapd: apt install slapd, or SLAPD=PATH"]
fn a_rule_may_ask_an_ldap_server_and_the_next_one_if_it_is_down() {
    let (slapd, cluster) = (Slapd::start(), cluster_with(&["alice"]));
    // PostgreSQL wants the password, too, and gets the one that the client gave.
    cluster.psql("postgres", "ALTER ROLE alice PASSWORD 'secret'");
    fs::write(cluster.socket_dir().join("data/pg_hba.conf"), "local all postgres trust\nlocal all all scram-sha-256\n")
        .expect("pg_hba.conf");
    cluster.psql("postgres", "SELECT pg_reload_conf()");
    let options = format!("ldapserver=\"127.0.0.2:{port} 127.0.0.1:{port}\"", port = slapd.port);
    let rules = tempfile::NamedTempFile::new().expect("a file");
    let rule = format!("host all all all ldap {options} ldapprefix=\"cn=\" ldapsuffix=\",cn=test\"\n");
    fs::write(rules.path(), rule).expect("rules");
    let settings = ["auth_type = hba", &format!("auth_hba_file = {}", rules.path().display())];
    let sluice = Sluice::start_with_users(&databases(&cluster, ""), &settings, "");
    assert_eq!(who(&mut sluice.log_in(&Login::user("alice").with_password("secret"))), "alice");
    assert!(sluice.log().contains("LDAP server ldap://127.0.0.2:"), "{}", sluice.log());
    drop(slapd);
    let error = refusal(&sluice, &Login::user("alice").with_password("secret"));
    assert_eq!(error.message, "LDAP authentication failed");
}
