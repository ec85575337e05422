//! TLS on both sides, with certificates that are made for each test.

mod binding;
mod clients;
mod entries;
mod servers;
mod setup;

use std::process::Command;

use sluice_test_harness::Cluster;

use crate::support::{Certificates, Sluice};

/// Runs psql with this connection string, and more of it.
fn psql(sluice: &Sluice, conninfo: &str, sql: &str) -> Result<String, String> {
    let port = sluice.port();
    psql_to(&format!("host=127.0.0.1 port={port} user=postgres dbname=postgres connect_timeout=15 {conninfo}"), sql)
}

fn psql_to(conninfo: &str, sql: &str) -> Result<String, String> {
    let mut command = Command::new("psql");
    command.args(["-X", "-At", "-v", "ON_ERROR_STOP=1", "-d", conninfo, "-c", sql]);
    let output = command.env("PGPASSWORD", "secret").output().expect("psql runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// A cluster on TCP with TLS, as `certificates` say.
fn tls_cluster(certificates: &Certificates) -> (Cluster, u16) {
    let port = crate::support::free_port();
    let mut settings = certificates.for_postgresql();
    settings.extend([("listen_addresses", "127.0.0.1".to_owned()), ("port", port.to_string())]);
    let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    (Cluster::start_with(&settings), port)
}

fn start(databases: &str, settings: &[String]) -> Sluice {
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    Sluice::start(databases, &settings)
}
