//! Online restart (`-R`), the new process's side. The other side is SHOW FDS and SHUTDOWN in the console.
//!
//! 1. [`Takeover::begin`] logs in to the old process's unix socket and gets its listening sockets. Nothing has changed yet:
//!    if this process can't start after all, the old one has noticed nothing.
//! 2. This process gets ready. Connections that arrive go to the old one.
//! 3. [`Takeover::finish`] tells the old one to leave. From here on connections wait in the kernel's queue, which belongs to
//!    the sockets, until this process accepts them: none is refused.
//! 4. Clients of the old process stay there until their transaction has ended, and are then asked to leave one after
//!    another, over `drain_time`.
//!
//! All of it happens before this process serves anybody, so it simply blocks.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use sluice_wire::frame::{Frame, error_field};
use sluice_wire::message;
use sluice_wire::startup::startup_message;

use crate::config::{CONSOLE, Config};
use crate::listener::unix_path;
use crate::net::{Listening, receive_with_sockets, unix_address};

/// The old process answers at once, or something is wrong with it.
const DEADLINE: Duration = Duration::from_secs(10);

/// Why the old process can't be replaced.
#[derive(Debug, thiserror::Error)]
pub enum TakeoverError {
    #[error(
        "cannot reboot without a unix socket\nHINT: set unix_socket_dir; the old process passes its sockets on there"
    )]
    NoUnixSocket,
    #[error("cannot talk to the old process on {path}: {source}")]
    Io { path: String, source: io::Error },
    #[error(
        "the old process on {path} refused: {message}\nHINT: it must be Sluice and run as the same Unix user; stop it and start without -R otherwise"
    )]
    Refused { path: String, message: String },
}

/// A connection to the console of the process that is to be replaced.
pub struct Takeover {
    stream: UnixStream,
    path: String,
    received: Vec<u8>,
    sockets: Vec<OwnedFd>,
}

impl Takeover {
    /// Gets the old process's listening sockets; `None` if there is no old process.
    pub fn begin(config: &Config) -> Result<Option<(Self, Vec<Listening>)>, TakeoverError> {
        let path = unix_path(&config.settings).ok_or(TakeoverError::NoUnixSocket)?;
        let stream = match connect(&path) {
            Ok(stream) => stream,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                return Ok(None);
            }
            Err(source) => return Err(TakeoverError::Io { path: shown(&path), source }),
        };
        let mut takeover = Self { stream, path: shown(&path), received: Vec::new(), sockets: Vec::new() };
        let sockets = takeover.receive_sockets()?;
        Ok(Some((takeover, sockets)))
    }

    fn receive_sockets(&mut self) -> Result<Vec<Listening>, TakeoverError> {
        self.send(&startup_message(0, [("user", CONSOLE), ("database", CONSOLE)]))?;
        self.until_ready()?;
        if !self.query("SHOW VERSION")?.starts_with("Sluice") {
            return Err(self.refused("it is another program"));
        }
        self.query("SHOW FDS")?;
        let sockets = std::mem::take(&mut self.sockets).into_iter().map(Listening::adopt);
        let sockets: io::Result<Vec<_>> = sockets.collect();
        sockets.map_err(|error| self.refused(&format!("what it sent is of no use: {error}")))
    }

    /// Tells the old process to leave. It accepts no connection any more when this returns.
    pub fn finish(&mut self) -> Result<(), TakeoverError> {
        self.query("SHUTDOWN WAIT_FOR_TRANSACTIONS").map(drop)
    }

    /// Runs a command; returns the first field of its last row.
    fn query(&mut self, sql: &str) -> Result<String, TakeoverError> {
        let mut out = Vec::new();
        message::query(&mut out, sql.as_bytes());
        self.send(&out)?;
        self.until_ready()
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), TakeoverError> {
        self.stream.write_all(bytes).map_err(|error| self.failed(error))
    }

    fn until_ready(&mut self) -> Result<String, TakeoverError> {
        let mut row = String::new();
        loop {
            let (tag, body) = self.next_message()?;
            match tag {
                b'Z' => return Ok(row),
                b'E' => {
                    let text = error_field(&body, b'M').unwrap_or_default();
                    return Err(self.refused(&String::from_utf8_lossy(text)));
                }
                b'R' if body != [0; 4] => return Err(self.refused("it asks for a password")),
                b'D' => row = first_field(&body),
                _ => {}
            }
        }
    }

    fn next_message(&mut self) -> Result<(u8, Vec<u8>), TakeoverError> {
        loop {
            let malformed = |_| io::Error::from(io::ErrorKind::InvalidData);
            let frame = Frame::first(&self.received).map_err(malformed).map_err(|error| self.failed(error))?;
            if let Some(frame) = frame {
                let (message, used) = ((frame.tag, frame.body.to_vec()), frame.raw.len());
                self.received.drain(..used);
                return Ok(message);
            }
            match receive_with_sockets(&self.stream, &mut self.received, &mut self.sockets) {
                Ok(0) => return Err(self.failed(io::ErrorKind::UnexpectedEof.into())),
                Ok(_) => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
    }

    fn failed(&self, source: io::Error) -> TakeoverError {
        TakeoverError::Io { path: self.path.clone(), source }
    }

    fn refused(&self, message: &str) -> TakeoverError {
        TakeoverError::Refused { path: self.path.clone(), message: message.to_owned() }
    }
}

fn connect(path: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect_addr(&unix_address(path)?)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    Ok(stream)
}

fn shown(path: &Path) -> String {
    path.to_string_lossy().replace('\0', "@")
}

/// The first field of a DataRow as text; empty if it is NULL or not there.
fn first_field(body: &[u8]) -> String {
    let length = body.get(2..6).and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_be_bytes);
    let field = usize::try_from(length).ok().and_then(|length| body.get(6..6 + length));
    String::from_utf8_lossy(field.unwrap_or_default()).into_owned()
}
