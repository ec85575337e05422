//! What the tests stand on: a [`Stand`] (a PostgreSQL cluster with Sluice in front of it) and a [`Client`] that speaks the
//! protocol message by message, so that a test can send what no driver would.
//!
//! Everything blocks, with a deadline: a test that would hang fails instead.

mod batch;
mod certs;
mod client;
mod fake;
mod sluice;

use std::time::{Duration, Instant};

use sluice_test_harness::Cluster;

pub use batch::Batch;
pub use certs::{Certificates, Request};
pub use client::{Answer, Client, DEADLINE, Login, Message, ServerError, cancel};
pub use fake::{LOGIN, NO_TLS, fake, fake_server, first_request, outlast, server_that_answers};
pub use sluice::{Old, Sluice, binary, free_port};

/// A cluster, and Sluice in front of it: every database of the cluster is reachable under its own name by user `postgres`.
pub struct Stand {
    // Dropped in this order: Sluice leaves before its servers do.
    pub sluice: Sluice,
    pub cluster: Cluster,
}

impl Stand {
    /// `settings` are lines of `[pgbouncer]`. Transaction pooling, unless they say otherwise.
    pub fn start(settings: &[&str]) -> Self {
        Self::with_entry("", settings)
    }

    /// As [`Self::start`]; `entry` is added to the connection string of all databases.
    pub fn with_entry(entry: &str, settings: &[&str]) -> Self {
        let cluster = Cluster::start();
        let sluice = Sluice::start(&databases(&cluster, entry), settings);
        Self { sluice, cluster }
    }

    /// A logged-in client of database `postgres`.
    pub fn client(&self) -> Client {
        self.sluice.client()
    }

    /// Runs SQL directly on PostgreSQL.
    pub fn direct(&self, sql: &str) -> String {
        self.cluster.psql("postgres", sql)
    }

    /// How many connections PostgreSQL has from Sluice, by a condition on pg_stat_activity.
    pub fn servers(&self, condition: &str) -> usize {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name <> 'psql' AND {condition}"
        );
        self.direct(&sql).parse().expect("a count")
    }

    /// Waits until exactly so many of Sluice's connections fulfil the condition.
    pub fn await_servers(&self, condition: &str, count: usize) {
        eventually(&format!("{count} servers with {condition}"), || self.servers(condition) == count);
    }

    /// What has to hold after whatever went wrong: a new client is served, no server is left in a transaction or in a
    /// statement, and nobody waits.
    pub fn assert_healthy(&self) {
        self.assert_healthy_servers();
        let mut client = self.client();
        assert_eq!(client.value("SELECT 41 + 1"), "42");
        client.ok("BEGIN; SELECT 1; COMMIT");
    }

    /// No server is in the middle of something.
    pub fn assert_healthy_servers(&self) {
        self.await_servers("state <> 'idle'", 0);
    }
}

/// A client of the console who may do everything.
pub fn console(sluice: &Sluice) -> Client {
    sluice.log_in_by_unix_socket(&Login { user: "pgbouncer".into(), ..Login::to("pgbouncer") })
}

/// The line of `[databases]` that leads everything to a cluster.
pub fn databases(cluster: &Cluster, entry: &str) -> String {
    format!("* = host={} port={} {entry}", cluster.socket_dir().display(), cluster.port())
}

/// Waits for something that happens soon, without being told of it.
///
/// # Panics
/// If it doesn't.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "did not happen: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
