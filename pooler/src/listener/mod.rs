//! Listening sockets, and what becomes of a connection that arrives on one.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

mod auth;
mod handshake;
mod parameters;

use self::handshake::{Accepted, handshake};
use crate::app::{App, tcp_options};
use crate::config::Config;
use crate::net::{Io, Peer};
use crate::registry::SocketGuard;
use crate::session::run::{Parts, serve};

/// Why there is nothing to listen on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("nowhere to listen on\nHINT: set listen_addr or unix_socket_dir")]
    Nowhere,
    #[error(
        "cannot listen on any of listen_addr = {addresses}, port {port}: {source}\nHINT: another process may have the port; see listen_port"
    )]
    Tcp { addresses: String, port: u16, source: io::Error },
    #[error(
        "unix socket {path} is in use, cannot continue\nHINT: another pooler runs there; stop it or change listen_port or unix_socket_dir"
    )]
    UnixInUse { path: String },
    #[error("cannot listen on unix socket {path}: {source}")]
    Unix { path: String, source: io::Error },
}

enum Listener {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

/// All listening sockets. Dropping it closes them and removes the unix socket's file.
pub struct Listeners {
    listeners: Vec<Listener>,
    unix_path: Option<PathBuf>,
    tasks: JoinSet<()>,
}

impl Listeners {
    /// Binds everything that the configuration names.
    pub fn bind(config: &Config) -> Result<Self, ListenError> {
        let mut listeners = Vec::new();
        bind_tcp(config, &mut listeners)?;
        let unix_path = bind_unix(config, &mut listeners)?;
        if listeners.is_empty() {
            return Err(ListenError::Nowhere);
        }
        Ok(Self { listeners, unix_path, tasks: JoinSet::new() })
    }

    /// Starts to accept.
    pub fn start(&mut self, app: &Arc<App>) {
        for listener in self.listeners.drain(..) {
            self.tasks.spawn(accept(listener, app.clone()));
        }
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        if let Some(path) = &self.unix_path {
            // It may be gone already, with its directory.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn bind_tcp(config: &Config, listeners: &mut Vec<Listener>) -> Result<(), ListenError> {
    let settings = &config.settings;
    let mut last = None;
    let before = listeners.len();
    for address in settings.listen_addr.iter() {
        for host in if address == "*" { vec!["0.0.0.0", "::"] } else { vec![address.as_str()] } {
            match bind_one(host, settings.listen_port, settings.listen_backlog, settings.so_reuseport) {
                Ok(bound) => {
                    tracing::info!("listening on {host}:{}", settings.listen_port);
                    listeners.extend(bound.into_iter().map(Listener::Tcp));
                }
                Err(error) => {
                    tracing::warn!("cannot listen on {host}:{}: {error}", settings.listen_port);
                    last = Some(error);
                }
            }
        }
    }
    match last {
        Some(source) if listeners.len() == before => {
            Err(ListenError::Tcp { addresses: settings.listen_addr.join(", "), port: settings.listen_port, source })
        }
        _ => Ok(()),
    }
}

fn bind_one(host: &str, port: u16, backlog: u32, reuseport: bool) -> io::Result<Vec<tokio::net::TcpListener>> {
    let addresses = std::net::ToSocketAddrs::to_socket_addrs(&(host, port))?;
    addresses.map(|address| bind_address(address, backlog, reuseport)).collect()
}

fn bind_address(address: SocketAddr, backlog: u32, reuseport: bool) -> io::Result<tokio::net::TcpListener> {
    let socket = if address.is_ipv4() { tokio::net::TcpSocket::new_v4()? } else { tokio::net::TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    if reuseport {
        socket.set_reuseport(true)?;
    }
    if address.is_ipv6() {
        // `*` binds both families; one socket for both would take the other's port.
        socket2::SockRef::from(&socket).set_only_v6(true)?;
    }
    socket.bind(address)?;
    socket.listen(backlog)
}

fn bind_unix(config: &Config, listeners: &mut Vec<Listener>) -> Result<Option<PathBuf>, ListenError> {
    let settings = &config.settings;
    let directory = settings.unix_socket_dir.to_string_lossy().into_owned();
    if directory.is_empty() {
        return Ok(None);
    }
    let name = format!(".s.PGSQL.{}", settings.listen_port);
    let is_abstract = directory.starts_with('@');
    let path = if is_abstract {
        PathBuf::from(format!("\0{}/{name}", &directory[1..]))
    } else {
        PathBuf::from(&directory).join(&name)
    };
    let shown = if is_abstract { format!("{directory}/{name}") } else { path.display().to_string() };
    if std::os::unix::net::UnixStream::connect(&path).is_ok() {
        return Err(ListenError::UnixInUse { path: shown });
    }
    if !is_abstract {
        // Nobody answers there: a leftover.
        let _ = std::fs::remove_file(&path);
    }
    let failed = |source| ListenError::Unix { path: shown.clone(), source };
    let listener = tokio::net::UnixListener::bind(&path).map_err(failed)?;
    tracing::info!("listening on unix:{shown}");
    listeners.push(Listener::Unix(listener));
    if is_abstract {
        return Ok(None);
    }
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(settings.unix_socket_mode.0)).map_err(failed)?;
    Ok(Some(path))
}

async fn accept(listener: Listener, app: Arc<App>) {
    loop {
        let accepted = match &listener {
            Listener::Tcp(listener) => {
                listener.accept().await.and_then(|(stream, _)| Io::tcp(stream, &tcp_options(&app.config())))
            }
            Listener::Unix(listener) => listener.accept().await.and_then(|(stream, _)| Io::unix(stream)),
        };
        match accepted {
            Ok((io, peer)) => {
                let socket = app.registry.count_socket();
                tokio::spawn(serve(Box::pin(log_in(app.clone(), io, peer, socket))));
            }
            Err(error) => {
                // Out of file descriptors, most likely: some client has to leave first.
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// What a connection does before its session, and instead of one. Boxed by the caller: gone when the session begins.
async fn log_in(app: Arc<App>, io: Io, peer: Peer, socket: SocketGuard) -> Option<Box<Parts>> {
    match handshake(app, io, peer, socket).await {
        Accepted::Done => None,
        Accepted::Console(console) => {
            Box::pin(console.serve()).await;
            None
        }
        Accepted::Session(parts) => Some(parts),
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use super::*;

    type Login = std::future::Pending<Option<Box<Parts>>>;

    fn future_size<F: Future>(_: &dyn Fn(Pin<Box<Login>>) -> F) -> usize {
        size_of::<F>()
    }

    /// Memory for each idle client is a promise: 10,000 of them are common. Around the future, tokio's task has 104 bytes of
    /// its own, and is allocated in steps of 128: with 280, it has 384.
    /// The entry is in an `Arc`, and its 152 bytes fill an allocation of 160.
    #[test]
    fn an_idle_client_is_small() {
        let (future, entry) = (future_size(&serve), size_of::<crate::registry::ClientEntry>());
        assert!(future <= 272, "a client's future has grown to {future} bytes");
        assert!(entry <= 136, "a client's entry in the registry has grown to {entry} bytes");
    }
}
