//! One PostgreSQL cluster of a test.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::guardian::Guardian;
use crate::programs::{Programs, run};

/// Only part of the socket's file name, unless a test asks for TCP: then it has to choose a port that is free.
const PORT: u16 = 5432;

/// What every test cluster has: room for pools and two-phase commits, and no waiting for the disk. A crash of the server
/// still loses nothing (the kernel has what was written), so synchronous_commit stays on.
const SETTINGS: &[(&str, &str)] = &[
    ("listen_addresses", ""),
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("max_connections", "200"),
    ("max_prepared_transactions", "50"),
    ("wal_level", "logical"),
    ("autovacuum", "off"),
    ("log_min_messages", "warning"),
];

/// A running PostgreSQL; stopped and removed when dropped. Everybody may connect as `postgres`, without a password.
#[derive(Debug)]
pub struct Cluster {
    directory: PathBuf,
    port: u16,
    programs: Programs,
    _guardian: Guardian,
}

impl Cluster {
    /// A new, empty cluster with [default settings](Self::start_with).
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// A new, empty cluster. `settings` are lines of postgresql.conf, and beat the harness's own.
    pub fn start_with(settings: &[(&str, &str)]) -> Self {
        let cluster = Self::prepare(port_in(settings));
        let mut initdb = cluster.programs.command("initdb");
        initdb
            .arg("--pgdata")
            .arg(cluster.data())
            .args(["--username", "postgres", "--auth", "trust", "--encoding", "UTF8", "--locale", "C"])
            .args(["--no-sync", "--no-instructions"]);
        run(&mut initdb).expect("initdb");
        cluster.configure(SETTINGS);
        cluster.configure(settings);
        cluster.boot();
        cluster
    }

    /// A streaming replica of this cluster, caught up with what is committed when this returns.
    pub fn replica(&self) -> Self {
        let replica = Self::prepare(self.port);
        let mut basebackup = self.programs.command("pg_basebackup");
        basebackup.arg("--pgdata").arg(replica.data()).args(["--dbname", &self.conninfo("postgres")]).args([
            "--write-recovery-conf",
            "--wal-method",
            "stream",
            "--checkpoint",
            "fast",
            "--no-sync",
        ]);
        run(&mut basebackup).expect("pg_basebackup");
        // The copied settings name the primary's socket directory.
        replica.configure(&[]);
        replica.boot();
        replica
    }

    /// The directory of the server's unix socket: a host name for libpq and for drivers.
    pub fn socket_dir(&self) -> &Path {
        &self.directory
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// A connection string for the superuser.
    pub fn conninfo(&self, database: &str) -> String {
        format!("host={} port={} user=postgres dbname={database}", self.directory.display(), self.port)
    }

    /// Runs SQL and returns its rows, unaligned, one a line, columns apart by `|`.
    ///
    /// # Panics
    /// If any statement fails.
    pub fn psql(&self, database: &str, sql: &str) -> String {
        match self.try_psql(database, sql) {
            Ok(rows) => rows,
            Err(error) => panic!("{error}\nin: {sql}"),
        }
    }

    /// As [`Self::psql`]; a failing statement is the error, with its SQLSTATE.
    pub fn try_psql(&self, database: &str, sql: &str) -> Result<String, String> {
        let mut psql = Command::new(self.programs.path("psql"));
        psql.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"])
            .args(["--set", "ON_ERROR_STOP=1", "--set", "VERBOSITY=verbose"])
            .args(["--dbname", &self.conninfo(database), "--command", sql]);
        run(&mut psql)
    }

    pub fn create_database(&self, name: &str) {
        self.psql("postgres", &format!("CREATE DATABASE \"{name}\""));
    }

    /// Pulls the plug: no checkpoint, no goodbye to clients. Prepared transactions survive it.
    pub fn stop_immediate(&self) {
        self.control(&["--mode", "immediate", "stop"]);
    }

    /// Starts the server, whether it runs (then it's stopped first) or not, and waits until it accepts connections.
    pub fn restart(&self) {
        self.control(&["--mode", "fast", "--silent", "restart"]);
    }

    fn prepare(port: u16) -> Self {
        let programs = Programs::find();
        // Not TMPDIR, which may be long: a socket's path has to fit into 107 bytes.
        let directory = tempfile::Builder::new()
            .prefix("sluice-test-")
            .tempdir_in("/tmp")
            .expect("a directory for the cluster")
            .keep();
        programs.give(&directory);
        let guardian = Guardian::watch(&programs, &directory);
        Self { directory, port, programs, _guardian: guardian }
    }

    /// The first start: pg_ctl restarts only what has run before.
    fn boot(&self) {
        self.control(&["--silent", "start"]);
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn configure(&self, settings: &[(&str, &str)]) {
        let mut lines = format!("unix_socket_directories = '{}'\n", self.directory.display());
        for (name, value) in settings {
            writeln!(lines, "{name} = '{value}'").expect("writing to a string");
        }
        let file = self.data().join("postgresql.conf");
        let mut file = OpenOptions::new().append(true).open(file).expect("postgresql.conf");
        file.write_all(lines.as_bytes()).expect("postgresql.conf");
    }

    fn control(&self, arguments: &[&str]) {
        let log = self.directory.join("log");
        let mut pg_ctl = self.programs.command("pg_ctl");
        pg_ctl
            .arg("--pgdata")
            .arg(self.data())
            .arg("--log")
            .arg(&log)
            .args(["--wait", "--timeout", "60"])
            .args(arguments);
        if let Err(error) = run(&mut pg_ctl) {
            let log = fs::read_to_string(log).unwrap_or_default();
            panic!("{error}\nthe server's log:\n{log}");
        }
    }
}

/// The setting `port`, if it is there.
fn port_in(settings: &[(&str, &str)]) -> u16 {
    let port = settings.iter().find(|(name, _)| *name == "port");
    port.map_or(PORT, |(_, port)| port.parse().expect("a port number"))
}
