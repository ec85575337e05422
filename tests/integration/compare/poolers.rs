//! PgBouncer or Sluice, with the same settings file in front of the same cluster.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use sluice_test_harness::{Cluster, Programs};
use tempfile::TempDir;

use crate::support::{Client, Login, binary, eventually, free_port};

/// Roles in PostgreSQL and in the poolers' `auth_file`; the last two have a secret of another kind there.
const ROLES: [&str; 6] = ["admin", "reader", "stranger", "plain", "hashed", "verified"];

/// md5 of `secret` and the name, and what PostgreSQL made of `secret`.
const USERS: &str = "\"postgres\" \"\"\n\"admin\" \"\"\n\"reader\" \"\"\n\"stranger\" \"\"\n\"plain\" \"secret\"\n";

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    PgBouncer,
    Sluice,
}

/// A running pooler, killed when dropped.
pub struct Pooler {
    process: Child,
    port: u16,
    directory: TempDir,
}

/// What the script needs to find in PostgreSQL.
pub fn prepare(cluster: &Cluster) {
    for role in ROLES {
        cluster.psql("postgres", &format!("CREATE ROLE {role} LOGIN"));
    }
    cluster.psql("postgres", "CREATE TABLE numbers (n int PRIMARY KEY, text text); GRANT ALL ON numbers TO PUBLIC");
}

impl Pooler {
    /// `settings` are lines of `[pgbouncer]`; of one that occurs twice, the last counts.
    pub fn start(kind: Kind, pgbouncer: &str, cluster: &Cluster, settings: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("sluice-cmp-").tempdir_in("/tmp").expect("a folder");
        let port = free_port();
        write_files(directory.path(), port, cluster, settings);
        let programs = Programs::find();
        let mut command = match kind {
            // It refuses to run as root.
            Kind::PgBouncer => programs.as_user(pgbouncer),
            Kind::Sluice => Command::new(binary()),
        };
        command.arg("--quiet").arg(directory.path().join("pooler.ini")).stdin(Stdio::null());
        let process = command.spawn().expect("the pooler runs");
        let mut started = Self { process, port, directory };
        eventually("the pooler serves", || {
            assert!(started.process.try_wait().expect("its state").is_none(), "{}", started.log());
            started.log().contains("process up")
        });
        started
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A session, in the middle of which the pooler isn't compared.
    pub fn log_in(&self, login: &Login) -> Client {
        Client::log_in(&self.address(), login).unwrap_or_else(|error| panic!("{error}\n{}", self.log()))
    }

    /// What may differ from run to run in a text of this pooler's.
    pub fn without_names(&self, text: &str) -> String {
        let folder = self.directory.path().display().to_string();
        text.replace(&folder, "FOLDER").replace(&self.port.to_string(), "PORT")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("--- log\n{}", self.log());
        }
    }
}

fn write_files(directory: &Path, port: u16, cluster: &Cluster, settings: &str) {
    let folder = directory.display();
    let server = format!("host={} port={}", cluster.socket_dir().display(), cluster.port());
    let hashed = cluster.psql("postgres", "SELECT 'md5' || md5('secrethashed')");
    let verifier = "SET password_encryption = 'scram-sha-256'; ALTER ROLE verified PASSWORD 'secret'; \
                    SELECT rolpassword FROM pg_authid WHERE rolname = 'verified'";
    let verified = cluster.psql("postgres", verifier);
    let users = format!("{USERS}\"hashed\" \"{hashed}\"\n\"verified\" \"{verified}\"\n");
    let hba = "host all plain 127.0.0.1/32 scram-sha-256\nhost postgres hashed 127.0.0.0/8 md5\nhost all stranger 0.0.0.0/0 reject\nlocal all all trust\n";
    let ini = format!(
        "[databases]\npostgres = {server}\nsession = {server} dbname=postgres pool_mode=session\n\
         statement = {server} dbname=postgres pool_mode=statement\nforced = {server} dbname=postgres user=plain\n\
         one = {server} dbname=postgres pool_size=1\nnowhere = {server} dbname=nope\nunreachable = host=127.0.0.1 port=1\n\n\
         [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir = {folder}\nlogfile = {folder}/log\n\
         auth_file = {folder}/users\nauth_hba_file = {folder}/hba\nadmin_users = admin\nstats_users = reader\n\
         pool_mode = transaction\nignore_startup_parameters = extra_float_digits\nserver_login_retry = 1\n{settings}\n",
    );
    for (name, text) in [("pooler.ini", ini.as_str()), ("users", &users), ("hba", hba)] {
        fs::write(directory.join(name), text).expect("a file");
    }
    Programs::find().give(directory);
}
