//! The three poolers that are compared, with the same settings, and how each is started.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sluice_test_harness::Programs;
use tempfile::TempDir;

use crate::error::{BenchError, Result};
use crate::fleet::{Address, Backend, Transport, database_name, free_port};
use crate::logins::Access;

/// Servers in a pool.
pub const POOL_SIZE: u32 = 20;
/// Servers for each of 16 shards where clients are more than [`POOL_SIZE`]: as near to 20 servers in all as equal pools
/// come. With few clients a shard may have 20, so that, as in the unsharded pools, no client waits.
const NARROW_POOL_SIZE: u32 = 2;
const START_DEADLINE: Duration = Duration::from_secs(30);

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subject {
    PgBouncer,
    /// Sluice as a plain pooler.
    Unsharded,
    /// Sluice with routing to 16 shards.
    Sharded,
}

impl Subject {
    pub const ALL: [Self; 3] = [Self::PgBouncer, Self::Unsharded, Self::Sharded];

    pub fn name(self) -> &'static str {
        match self {
            Self::PgBouncer => "PgBouncer",
            Self::Unsharded => "Sluice",
            Self::Sharded => "Sluice, sharded",
        }
    }

    pub fn index(self) -> usize {
        self as usize
    }
}

/// Where the programs are.
#[derive(Debug, Clone)]
pub struct Binaries {
    pub sluice: PathBuf,
    pub pgbouncer: PathBuf,
    /// This PgBouncer knows prepared statements of the protocol in transaction mode: 1.21 and later.
    pub pgbouncer_prepares: bool,
}

impl Binaries {
    /// Unless they are given: `sluice` beside this program, where cargo puts it, and PgBouncer where Debian does, or in PATH.
    pub fn find(sluice: Option<PathBuf>, pgbouncer: Option<PathBuf>) -> Result<Self> {
        let beside = std::env::current_exe().map_err(BenchError::io("own path"))?.with_file_name("sluice");
        let sluice = sluice.unwrap_or(beside);
        if !sluice.exists() {
            let hint = "HINT: cargo build --release --package sluice";
            return Err(BenchError::failed(format!("{} is not there\n{hint}", sluice.display())));
        }
        let debian = PathBuf::from("/usr/sbin/pgbouncer");
        let pgbouncer = pgbouncer.unwrap_or_else(|| if debian.exists() { debian } else { "pgbouncer".into() });
        let said = Command::new(&pgbouncer).arg("-V").output();
        let said = said.map_err(BenchError::io(format!("cannot run {}", pgbouncer.display())))?;
        let pgbouncer_prepares = prepares(&String::from_utf8_lossy(&said.stdout));
        Ok(Self { sluice, pgbouncer, pgbouncer_prepares })
    }
}

/// What is behind the poolers.
#[derive(Debug)]
pub struct Upstream {
    pub backend: Backend,
    pub address: Address,
    pub plain_database: &'static str,
    pub catalog_url: String,
    /// How clients log in.
    pub access: Access,
}

/// A running pooler. It ends when dropped.
#[derive(Debug)]
pub struct Pooler {
    pub subject: Subject,
    pub address: Address,
    process: Child,
    directory: TempDir,
}

impl Pooler {
    /// Starts the pooler and waits until it accepts connections. `wait` is what to do meanwhile: the canned backend has to
    /// answer.
    pub fn start(
        subject: Subject,
        binaries: &Binaries,
        upstream: &Upstream,
        wait: &mut dyn FnMut(Duration) -> Result<()>,
    ) -> Result<Self> {
        // Not TMPDIR, which may be long: a socket's path has to fit into 107 bytes.
        let directory = tempfile::Builder::new().prefix("sluice-bench-").tempdir_in("/tmp");
        let directory = directory.map_err(BenchError::io("a directory for the pooler"))?;
        let address = Address { socket_dir: directory.path().display().to_string(), port: free_port()? };
        let ini = directory.path().join("pooler.ini");
        let prepares = subject != Subject::PgBouncer || binaries.pgbouncer_prepares;
        write(&ini, &configuration(subject, &address, upstream, prepares))?;
        upstream.access.write_files(directory.path())?;
        let log = fs::File::create(directory.path().join("stderr")).map_err(BenchError::path(directory.path()))?;
        let mut command = command(subject, binaries, directory.path());
        command.arg("-q").arg(&ini).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let process = command.spawn().map_err(BenchError::io(format!("cannot start {}", subject.name())))?;
        let pooler = Self { subject, address, process, directory };
        pooler.wait_until_up(wait)?;
        Ok(pooler)
    }

    /// Where its files are.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The entry of `[databases]` to connect to.
    pub fn database(&self, transport: Transport, clients: usize) -> String {
        let width = if self.subject == Subject::Sharded && clients > POOL_SIZE as usize { "_narrow" } else { "" };
        format!("{}{width}", transport.name())
    }

    fn wait_until_up(&self, wait: &mut dyn FnMut(Duration) -> Result<()>) -> Result<()> {
        let socket = self.directory.path().join(format!(".s.PGSQL.{}", self.address.port));
        let start = Instant::now();
        while UnixStream::connect(&socket).is_err() {
            if start.elapsed() > START_DEADLINE {
                let log = fs::read_to_string(self.directory.path().join("stderr")).unwrap_or_default();
                return Err(BenchError::failed(format!("{} does not come up:\n{log}", self.subject.name())));
            }
            wait(Duration::from_millis(20))?;
        }
        Ok(())
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        // Nothing better can be done in a destructor than to go on if one of these fails.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// PgBouncer refuses to run as root: it becomes the user that PostgreSQL runs as.
fn command(subject: Subject, binaries: &Binaries, directory: &Path) -> Command {
    match subject {
        Subject::PgBouncer => {
            let programs = Programs::find();
            programs.give(directory);
            for file in fs::read_dir(directory).into_iter().flatten().flatten() {
                programs.give(&file.path());
            }
            programs.as_user(&binaries.pgbouncer)
        }
        Subject::Unsharded | Subject::Sharded => Command::new(&binaries.sluice),
    }
}

/// Whether the PgBouncer that says this of itself ("PgBouncer 1.24.1") is 1.21 or later.
fn prepares(version: &str) -> bool {
    let numbers = version.split_whitespace().nth(1).unwrap_or_default();
    let mut numbers = numbers.split('.').map(|number| number.parse().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(1), Some(21))
}

fn configuration(subject: Subject, address: &Address, upstream: &Upstream, prepares: bool) -> String {
    let mut databases = String::new();
    for transport in Transport::ALL {
        let name = transport.name();
        // Writing to a string can't fail.
        let _ = match subject {
            Subject::PgBouncer | Subject::Unsharded => writeln!(
                databases,
                "{name} = host={} port={} dbname={}",
                upstream.address.host(transport),
                upstream.address.port,
                upstream.plain_database
            ),
            Subject::Sharded => {
                let entry =
                    format!("catalog='{}' dbname={}", upstream.catalog_url, database_name(upstream.backend, transport));
                writeln!(databases, "{name} = {entry}\n{name}_narrow = {entry} pool_size={NARROW_POOL_SIZE}")
            }
        };
    }
    // An older PgBouncer would refuse the setting.
    let prepared = if prepares { "max_prepared_statements = 200\n" } else { "" };
    format!(
        "[databases]\n{databases}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
         unix_socket_dir = {directory}\n{access}auth_file = {directory}/users\npool_mode = transaction\n\
         default_pool_size = {POOL_SIZE}\nmax_client_conn = 15000\nserver_idle_timeout = 0\n\
         log_connections = 0\nlog_disconnections = 0\n{prepared}",
        port = address.port,
        directory = address.socket_dir,
        access = upstream.access.settings(&address.socket_dir),
    )
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(BenchError::path(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prepared_statements_came_with_1_21() {
        assert!(!prepares("PgBouncer 1.18.0\nlibevent 2.1.12-stable"));
        assert!(prepares("PgBouncer 1.21.0"));
        assert!(prepares("PgBouncer 1.24.1\n"));
        assert!(!prepares("nonsense"));
    }
}
