//! The real program, running in front of a fleet.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::client::{Client, socket_path};
use super::wait_until;

/// Only part of the socket's file name: every instance has a directory of its own and listens on no network address.
const PORT: u16 = 6432;

/// A running instance; killed when dropped.
pub struct Sluice {
    directory: tempfile::TempDir,
    process: Child,
}

impl Sluice {
    /// Starts an instance with these lines under `[databases]` and these under `[pgbouncer]`, beside the tests' own.
    ///
    /// # Panics
    /// If it does not serve.
    pub fn start(databases: &str, settings: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("sluice-it-").tempdir_in("/tmp").expect("a directory");
        write_files(directory.path(), databases, settings);
        let process = spawn(directory.path());
        let mut sluice = Self { directory, process };
        sluice.wait_until_it_serves();
        sluice
    }

    /// SIGKILL, as the kernel or an operator would; the files stay.
    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Starts again with the same files.
    pub fn restart(&mut self) {
        self.kill();
        let _ = fs::remove_file(self.socket());
        self.process = spawn(self.directory.path());
        self.wait_until_it_serves();
    }

    pub fn socket(&self) -> PathBuf {
        socket_path(self.directory.path(), PORT)
    }

    pub fn connect(&self, database: &str) -> Client {
        Client::connect(&self.socket(), database)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn wait_until_it_serves(&mut self) {
        wait_until("sluice serves", || {
            if let Some(status) = self.process.try_wait().expect("the child can be asked") {
                panic!("sluice: {status}\n{}", self.log());
            }
            std::os::unix::net::UnixStream::connect(self.socket()).is_ok()
        });
    }
}

impl Drop for Sluice {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- sluice's log\n{}", self.log());
        }
    }
}

fn write_files(directory: &Path, databases: &str, settings: &str) {
    let path = directory.display();
    let ini = format!(
        "[databases]\n{databases}\n[pgbouncer]\nlisten_addr =\nlisten_port = {PORT}\nunix_socket_dir = {path}\n\
         auth_type = trust\nauth_file = {path}/userlist.txt\nadmin_users = postgres\npool_mode = transaction\n\
         max_prepared_statements = 100\nstate_dir = {path}/state\nlogfile = {path}/log\n{settings}\n"
    );
    fs::create_dir(directory.join("state")).expect("the state directory");
    fs::write(directory.join("sluice.ini"), ini).expect("sluice.ini");
    fs::write(directory.join("userlist.txt"), "\"postgres\" \"\"\n").expect("userlist.txt");
}

fn spawn(directory: &Path) -> Child {
    Command::new(program())
        .arg("--quiet")
        .arg(directory.join("sluice.ini"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("sluice can be started")
}

/// Beside the tests in the target directory, or where `SLUICE_BIN` says.
pub fn program() -> PathBuf {
    if let Some(program) = std::env::var_os("SLUICE_BIN") {
        return program.into();
    }
    let tests = std::env::current_exe().expect("the tests' own path");
    let program = tests.ancestors().nth(2).expect("a target directory").join("sluice");
    assert!(program.exists(), "{} is missing: cargo build --package sluice, or set SLUICE_BIN", program.display());
    program
}
