//! PostgreSQL's own load generator against real servers. It, the servers and the pooler share the machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use sluice_test_harness::Programs;
use tempfile::TempDir;

use crate::error::{BenchError, Result};
use crate::fleet::{KEYS, Transport, USER};
use crate::load::Protocol;
use crate::logins::{Access, PASSWORD};
use crate::subject::Pooler;

/// One run.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    pub pooler: &'a Pooler,
    pub transport: Transport,
    pub protocol: Protocol,
    pub clients: usize,
    pub duration: Duration,
    /// A new connection for each transaction, by this sort of login.
    pub connects: Option<Access>,
}

/// What pgbench says about a run. Latencies are in µs; connecting is in neither.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    pub transactions: u64,
    pub tps: f64,
    pub p50: f64,
    pub p99: f64,
}

#[derive(Debug)]
pub struct Pgbench {
    program: PathBuf,
    directory: TempDir,
}

impl Pgbench {
    pub fn new() -> Result<Self> {
        let directory = tempfile::tempdir().map_err(BenchError::io("a directory for pgbench"))?;
        let script = format!(
            "\\set key random(1, {KEYS})\nSELECT abalance FROM pgbench_accounts WHERE organization_id = :key;\n"
        );
        fs::write(directory.path().join("script"), script).map_err(BenchError::path(directory.path()))?;
        Ok(Self { program: Programs::find().path("pgbench"), directory })
    }

    pub fn run(&self, run: Run<'_>) -> Result<Outcome> {
        let mut command = self.command(run);
        let output = command.output().map_err(BenchError::io("cannot start pgbench"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let complaint = String::from_utf8_lossy(&output.stderr);
        let outcome = output.status.success().then(|| parse(&text)).flatten();
        let (transactions, tps) = outcome.ok_or_else(|| {
            BenchError::failed(format!("pgbench against {}: {text}{complaint}", run.pooler.subject.name()))
        })?;
        let mut latencies = self.take_log()?;
        latencies.sort_unstable();
        Ok(Outcome { transactions, tps, p50: quantile(&latencies, 0.5), p99: quantile(&latencies, 0.99) })
    }

    fn command(&self, run: Run<'_>) -> Command {
        let mut command = Command::new(&self.program);
        let clients = run.clients.to_string();
        let seconds = run.duration.as_secs().to_string();
        if let Some(access) = run.connects {
            command.arg("--connect").env("PGPASSWORD", PASSWORD).env("PGSSLMODE", access.sslmode());
        }
        command
            .args(["--no-vacuum", "--jobs", "1", "--protocol", run.protocol.name()])
            .args(["--client", &clients, "--time", &seconds])
            .args(["--log", "--sampling-rate", "0.2"])
            .arg("--log-prefix")
            .arg(self.directory.path().join("log"))
            .arg("--file")
            .arg(self.directory.path().join("script"))
            .args(["--host", run.pooler.address.host(run.transport), "--port", &run.pooler.address.port.to_string()])
            .args(["--username", USER, &run.pooler.database(run.transport, run.clients)]);
        command
    }

    /// The logged latencies, in µs; the log is removed.
    fn take_log(&self) -> Result<Vec<u64>> {
        let mut latencies = Vec::new();
        let is_log = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("log."));
        let directory = self.directory.path();
        for entry in fs::read_dir(directory).map_err(BenchError::path(directory))? {
            let path = entry.map_err(BenchError::path(directory))?.path();
            if is_log(&path) {
                let log = fs::read_to_string(&path).map_err(BenchError::path(&path))?;
                // client, transaction, latency, script, seconds, µs.
                latencies.extend(log.lines().filter_map(|line| line.split(' ').nth(2)?.parse::<u64>().ok()));
                fs::remove_file(&path).map_err(BenchError::path(&path))?;
            }
        }
        Ok(latencies)
    }
}

/// Transactions and TPS.
fn parse(text: &str) -> Option<(u64, f64)> {
    let after = |prefix: &str| text.lines().find_map(|line| line.strip_prefix(prefix)?.split([' ', '/']).next());
    let transactions = after("number of transactions actually processed: ")?.parse().ok()?;
    let tps = after("tps = ")?.parse().ok()?;
    (transactions > 0).then_some((transactions, tps))
}

/// A quantile of sorted values; NaN for none.
fn quantile(sorted: &[u64], quantile: f64) -> f64 {
    let index = ((sorted.len() as f64 * quantile) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(index).map_or(f64::NAN, |&value| value as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_read() {
        let text = "number of transactions actually processed: 1234\nlatency average = 0.1 ms\n\
                    tps = 617.250000 (without initial connection time)\n";
        assert_eq!(parse(text), Some((1234, 617.25)));
        assert_eq!(parse("number of transactions actually processed: 0\ntps = nan\n"), None);
    }

    #[test]
    fn quantiles() {
        let values: Vec<u64> = (0..100).collect();
        assert_eq!(quantile(&values, 0.5), 50.0);
        assert_eq!(quantile(&values, 0.99), 99.0);
        assert!(quantile(&[], 0.5).is_nan());
    }
}
