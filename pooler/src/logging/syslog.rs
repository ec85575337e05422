//! Log lines to syslog, in the form that the C library gives them: `<30>Nov 22 19:47:02 pgbouncer[71]: text`. RFC 3164 has
//! the numbers.

use std::fmt::Write;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use tracing::Level;

/// Where syslog listens.
pub const DEV_LOG: &str = "/dev/log";

/// Sends lines to syslog. Best effort, as syslog is: it may be started later, or restarted.
#[derive(Debug)]
pub struct Syslog {
    path: PathBuf,
    ident: String,
    facility: u8,
    socket: Option<UnixDatagram>,
}

impl Syslog {
    pub fn new(path: &Path, ident: &str, facility: u8) -> Self {
        Self { path: path.to_owned(), ident: ident.to_owned(), facility, socket: connect(path).ok() }
    }

    pub fn send(&mut self, level: Level, timestamp: &str, text: &str) {
        let mut line = format!("<{}>{timestamp} ", self.facility * 8 + severity(level));
        let _ = write!(line, "{}[{}]: {text}", self.ident, std::process::id());
        let gone = |socket: &UnixDatagram| match socket.send(line.as_bytes()) {
            // It is only slow: that must not hold up a query.
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
            Ok(_) => false,
        };
        if self.socket.as_ref().is_none_or(gone) {
            self.socket = connect(&self.path).ok();
            if let Some(socket) = &self.socket {
                let _ = socket.send(line.as_bytes());
            }
        }
    }
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn severity(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(server: &UnixDatagram) -> String {
        let mut buffer = [0; 200];
        let length = server.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn a_line_has_priority_time_name_and_pid() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let server = UnixDatagram::bind(&path).unwrap();
        let mut syslog = Syslog::new(&path, "pooler", 19);
        syslog.send(Level::WARN, "Nov  2 19:47:02", "taking connection from reserve_pool");
        let pid = std::process::id();
        assert_eq!(
            receive(&server),
            format!("<156>Nov  2 19:47:02 pooler[{pid}]: taking connection from reserve_pool")
        );
    }

    #[test]
    fn a_restart_of_syslog_loses_nothing_that_comes_later() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut syslog = Syslog::new(&path, "pooler", 3);
        syslog.send(Level::INFO, "", "nobody hears it");
        let first = UnixDatagram::bind(&path).unwrap();
        syslog.send(Level::INFO, "", "first");
        assert!(receive(&first).ends_with("first"));
        drop(first);
        std::fs::remove_file(&path).unwrap();
        let second = UnixDatagram::bind(&path).unwrap();
        syslog.send(Level::INFO, "", "second");
        assert!(receive(&second).ends_with("second"));
    }
}
