//! The service manager (systemd): the sockets that it opened for us, and what it wants to be told.

use std::ffi::OsStr;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use listenfd::ListenFd;
use rustix::time::{ClockId, clock_gettime};

use crate::net::{Listening, unix_address};

/// The sockets of socket activation (LISTEN_FDS), if they are meant for this process.
pub fn sockets() -> io::Result<Vec<Listening>> {
    let mut passed = ListenFd::from_env();
    (0..passed.len())
        .map(|index| match passed.take_tcp_listener(index) {
            Ok(Some(listener)) => Listening::adopt(listener.into()),
            _ => match passed.take_unix_listener(index)? {
                Some(listener) => Listening::adopt(listener.into()),
                None => Err(io::ErrorKind::NotFound.into()),
            },
        })
        .collect()
}

/// The process serves; `MAINPID` because it may have replaced the one that was started.
pub fn ready() {
    notify(&format!("READY=1\nMAINPID={}", std::process::id()));
}

/// A reload begins; [`ready`] ends it.
pub fn reloading() {
    let now = clock_gettime(ClockId::Monotonic);
    let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
    notify(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
}

pub fn stopping() {
    notify("STOPPING=1");
}

/// One line of free text, shown by `systemctl status`.
pub fn status(text: &str) {
    notify(&format!("STATUS={text}"));
}

fn notify(state: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(&socket, state) {
        tracing::debug!("cannot notify the service manager: {error}");
    }
}

fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    let name = socket.to_string_lossy();
    let path = match name.strip_prefix('@') {
        Some(name) => PathBuf::from(format!("\0{name}")),
        None => PathBuf::from(socket),
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &unix_address(&path)?).map(drop)
}
