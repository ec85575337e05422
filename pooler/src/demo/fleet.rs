//! The PostgreSQL servers of the demo: one primary that holds all shards and the catalog, and a streaming replica of it.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::time::Duration;

use tokio_postgres::{Client, NoTls};

use super::DemoError;
use super::directory::DemoDirectory;
use super::programs::{Programs, finish};

/// Superuser: the control plane's role, and the console's administrator.
pub const ADMIN: &str = "sluice_admin";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Settings of both servers. 16 shards with pools of 20 servers need 320 connections, and the rest is room.
/// `wal_keep_size` lets the replica fall behind while the data is loaded.
const SETTINGS: &str = "\
listen_addresses = '127.0.0.1'
max_connections = 500
max_prepared_transactions = 200
shared_buffers = 256MB
wal_level = replica
max_wal_size = 4GB
wal_keep_size = 1GB
checkpoint_timeout = 30min
jit = off
password_encryption = scram-sha-256
";

/// Running servers. They are stopped when the [`DemoDirectory`] is dropped.
#[derive(Debug)]
pub struct Fleet {
    programs: Programs,
    sockets: std::path::PathBuf,
    admin_password: String,
    port: u16,
}

impl Fleet {
    /// Starts the primary, and makes it first if there is none.
    pub async fn start(programs: &Programs, directory: &DemoDirectory) -> Result<Self, DemoError> {
        let fleet = Self {
            programs: programs.clone(),
            sockets: directory.postgresql_sockets(),
            admin_password: directory.state().admin_password.clone(),
            port: free_port()?,
        };
        let data = directory.primary();
        if !data.join("PG_VERSION").exists() {
            fleet.initdb(directory).await?;
        }
        fleet.configure(&data, fleet.port, directory.is_kept() && directory.state().loaded)?;
        fleet.boot(&data).await?;
        Ok(fleet)
    }

    /// From now on, what is committed survives a power cut. The data is loaded without that, because it can be loaded again.
    pub async fn make_durable(&self, directory: &DemoDirectory) -> Result<(), DemoError> {
        self.configure(&directory.primary(), self.port, true)?;
        let server = self.connect("postgres").await?;
        // Not one string: CHECKPOINT can't run in the transaction that several statements would make.
        for step in ["SELECT pg_reload_conf()", "CHECKPOINT"] {
            server.batch_execute(step).await.map_err(DemoError::postgres("cannot make the data durable"))?;
        }
        // What was written before the settings changed is still in the kernel's buffers. One call for all is many times
        // faster than one for each of the 7,000 files (`initdb --sync-only`).
        finish(self.programs.as_user("sync")).await
    }

    /// Copies the primary, starts the copy as a streaming replica, and returns its port.
    pub async fn start_replica(&self, directory: &DemoDirectory) -> Result<u16, DemoError> {
        let data = directory.replica();
        let mut basebackup = self.programs.command("pg_basebackup");
        basebackup
            .env("PGPASSWORD", &self.admin_password)
            .arg("--pgdata")
            .arg(&data)
            .arg("--host")
            .arg(&self.sockets)
            .args(["--port", &self.port.to_string(), "--username", ADMIN, "--no-password"])
            .args(["--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync"]);
        finish(basebackup).await?;
        let port = free_port()?;
        self.configure(&data, port, false)?;
        self.boot(&data).await?;
        Ok(port)
    }

    /// The primary's port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory of the primary's unix socket, which drivers take as a host name.
    pub fn sockets(&self) -> &Path {
        &self.sockets
    }

    /// For the control plane.
    pub fn admin_url(&self, database: &str) -> String {
        format!("postgres://{ADMIN}:{}@127.0.0.1:{}/{database}", self.admin_password, self.port)
    }

    /// A superuser's connection to a database of the primary.
    pub async fn connect(&self, database: &str) -> Result<Client, DemoError> {
        let what = || format!("cannot connect to database \"{database}\"");
        let (client, connection) = tokio_postgres::Config::new()
            .host_path(&self.sockets)
            .port(self.port)
            .user(ADMIN)
            .password(&self.admin_password)
            .dbname(database)
            .application_name("sluice demo")
            .connect_timeout(CONNECT_TIMEOUT)
            .connect(NoTls)
            .await
            .map_err(DemoError::postgres(what()))?;
        // An error of the connection reaches whoever uses the client.
        tokio::spawn(connection);
        Ok(client)
    }

    async fn initdb(&self, directory: &DemoDirectory) -> Result<(), DemoError> {
        let password_file = directory.write_private("initdb-password", &self.admin_password)?;
        self.programs.give(&password_file)?;
        let mut initdb = self.programs.command("initdb");
        initdb
            .arg("--pgdata")
            .arg(directory.primary())
            .arg("--pwfile")
            .arg(&password_file)
            .args(["--username", ADMIN, "--auth", "scram-sha-256"])
            .args(["--encoding", "UTF8", "--locale", "C", "--no-sync", "--no-instructions"]);
        let made = finish(initdb).await;
        fs::remove_file(&password_file).map_err(DemoError::path(&password_file))?;
        made
    }

    /// Writes the server's own settings into `demo.conf`, which its postgresql.conf includes. A copied data directory has
    /// the include already.
    fn configure(&self, data: &Path, port: u16, durable: bool) -> Result<(), DemoError> {
        // Throw-away data needn't survive a power cut; data that is kept should. Replicas are made anew at every start.
        let durability = if durable { "on" } else { "off" };
        let sockets = quoted(&self.sockets);
        let settings = format!(
            "{SETTINGS}port = {port}\nunix_socket_directories = {sockets}\n\
             fsync = {durability}\nfull_page_writes = {durability}\nsynchronous_commit = {durability}\n"
        );
        let file = data.join("demo.conf");
        fs::write(&file, settings).map_err(DemoError::path(&file))?;
        self.programs.give(&file)?;
        let main = data.join("postgresql.conf");
        let mut content = fs::read_to_string(&main).map_err(DemoError::path(&main))?;
        if !content.contains("include 'demo.conf'") {
            content.push_str("include 'demo.conf'\n");
            fs::write(&main, content).map_err(DemoError::path(&main))?;
        }
        Ok(())
    }

    async fn boot(&self, data: &Path) -> Result<(), DemoError> {
        let log = data.with_extension("log");
        let mut pg_ctl = self.programs.command("pg_ctl");
        pg_ctl.args(["start", "--silent", "--wait", "--timeout=60"]).arg("--pgdata").arg(data).arg("--log").arg(&log);
        match finish(pg_ctl).await {
            // pg_ctl only says that it failed: the reason is in the log.
            Err(DemoError::Program { program, status, output }) => {
                Err(DemoError::Program { program, status, output: format!("{output}\n{}", last_lines(&log)) })
            }
            other => other,
        }
    }
}

/// A port of 127.0.0.1 that nobody listens on now.
fn free_port() -> Result<u16, DemoError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    listener.map(|address| address.port()).map_err(DemoError::io("cannot find a free port"))
}

/// A directory as an item of a list in postgresql.conf.
fn quoted(path: &Path) -> String {
    format!("'\"{}\"'", path.display().to_string().replace('"', "\"\"").replace('\\', "\\\\").replace('\'', "''"))
}

fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_names_survive_quoting() {
        assert_eq!(quoted(Path::new("/tmp/a b")), "'\"/tmp/a b\"'");
        assert_eq!(quoted(Path::new("/tmp/it's")), "'\"/tmp/it''s\"'");
    }

    #[test]
    fn free_ports_can_be_listened_on() {
        let port = free_port().unwrap();
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    }
}
