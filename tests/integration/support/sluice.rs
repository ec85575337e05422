//! The real program, as a child process on a port of its own.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::client::{Client, Login};
use super::eventually;

/// A running pooler; killed by its pid when dropped, its directory removed.
pub struct Sluice {
    process: Child,
    port: u16,
    directory: TempDir,
}

/// Where cargo put the program: beside the directory of this test's own binary.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("SLUICE_BINARY") {
        return path.into();
    }
    let own = std::env::current_exe().expect("the test's own path");
    let path = own.parent().and_then(Path::parent).expect("target/PROFILE/deps").join("sluice");
    assert!(
        path.exists(),
        "{} is missing: run `cargo build --package sluice` first, as `make test` does",
        path.display()
    );
    path
}

/// A port that nobody listens on now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

impl Sluice {
    /// Starts it and waits until it accepts connections. User `postgres` gets in without a password, if `settings` name
    /// no other `auth_type`; later settings win.
    pub fn start(databases: &str, settings: &[&str]) -> Self {
        Self::start_with_users(databases, settings, "\"postgres\" \"\"\n")
    }

    /// As [`Self::start`], with the lines of `auth_file`.
    pub fn start_with_users(databases: &str, settings: &[&str], users: &str) -> Self {
        // Another process may take the port first; then there's another one.
        for _ in 0..5 {
            if let Some(started) = Self::try_start(databases, settings, users) {
                return started;
            }
        }
        panic!("sluice does not start");
    }

    fn try_start(databases: &str, settings: &[&str], users: &str) -> Option<Self> {
        let port = free_port();
        let directory = tempfile::Builder::new().prefix("sluice-it-").tempdir_in("/tmp").expect("a directory");
        let path = directory.path();
        fs::write(path.join("users.txt"), users).expect("users.txt");
        let ini = format!(
            "[databases]\n{databases}\n\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir = {dir}\n\
             logfile = {dir}/log\nauth_file = {dir}/users.txt\nauth_type = trust\npool_mode = transaction\nserver_login_retry = 0.3\n{}\n",
            settings.join("\n"),
            dir = path.display(),
        );
        fs::write(path.join("sluice.ini"), ini).expect("sluice.ini");
        let process = spawn(path, &["--quiet"]);
        let mut started = Self { process, port, directory };
        let mut alive = true;
        eventually("sluice listens", || {
            alive = started.process.try_wait().expect("its state").is_none();
            !alive || started.log().contains("process up")
        });
        alive.then_some(started)
    }

    /// An online restart: a second process with `-R` serves when this returns. The first one is returned.
    pub fn reboot(&mut self) -> Old {
        let serving = |log: &str| log.matches("process up").count();
        let before = serving(&self.log());
        let new = spawn(self.directory(), &["--reboot", "--quiet"]);
        let old = Old(std::mem::replace(&mut self.process, new));
        eventually("the new process serves", || {
            assert!(self.process.try_wait().expect("its state").is_none(), "{}", self.log());
            serving(&self.log()) > before
        });
        old
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory of its unix socket, its log and its settings.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.directory().join("log")).unwrap_or_default()
    }

    /// A logged-in client of database `postgres`, over TCP.
    pub fn client(&self) -> Client {
        self.log_in(&Login::default())
    }

    /// # Panics
    /// If the login is refused.
    pub fn log_in(&self, login: &Login) -> Client {
        Client::log_in(&self.address(), login).unwrap_or_else(|error| panic!("{error}\n{}", self.log()))
    }

    /// As [`Self::log_in`], over the unix socket.
    pub fn log_in_by_unix_socket(&self, login: &Login) -> Client {
        Client::log_in(&self.unix_address(), login).unwrap_or_else(|error| panic!("{error}\n{}", self.log()))
    }

    /// For [`Client::open`] and [`Client::log_in`].
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn unix_address(&self) -> String {
        self.directory().join(format!(".s.PGSQL.{}", self.port)).display().to_string()
    }

    /// A connection string for drivers.
    pub fn conninfo(&self, database: &str) -> String {
        format!("host=127.0.0.1 port={} user=postgres dbname={database} sslmode=disable", self.port)
    }

    /// Resident memory in bytes.
    pub fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("kB") * 1024
    }

    /// Whether the program still runs; a panic in a task doesn't end it, so the log is looked at, too.
    pub fn is_alive(&mut self) -> bool {
        self.process.try_wait().expect("its state").is_none() && !self.log().contains("panicked")
    }
}

/// A process that was replaced; killed when dropped.
pub struct Old(Child);

impl Old {
    pub fn is_alive(&mut self) -> bool {
        self.0.try_wait().expect("its state").is_none()
    }

    /// Waits until it has ended by itself.
    pub fn await_end(&mut self) {
        eventually("the old process ends", || !self.is_alive());
        assert!(self.0.wait().expect("its state").success());
    }
}

impl Drop for Old {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawn(directory: &Path, flags: &[&str]) -> Child {
    Command::new(binary())
        .args(flags)
        .arg(directory.join("sluice.ini"))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("sluice starts")
}

impl Drop for Sluice {
    fn drop(&mut self) {
        // SIGKILL: PostgreSQL notices that its clients are gone, and the directory goes with the socket in it.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("--- log of sluice\n{}", self.log());
        }
    }
}
