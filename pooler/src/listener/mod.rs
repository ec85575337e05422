//! Listening sockets, and what becomes of a connection that arrives on one.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

mod auth;
mod bind;
mod handshake;
mod parameters;
mod proxy;
mod replication;
mod tls;

pub use self::bind::{Inherited, check_unix_socket, unix_path};
use self::handshake::{Accepted, handshake};
use crate::app::{App, tcp_options};
use crate::config::Config;
use crate::net::{Bound, Io, Listening, Peer};
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
    #[error(
        "unix port {port} is in use\nHINT: PostgreSQL has the lock file {path}.lock; change listen_port or unix_socket_dir"
    )]
    Locked { path: String, port: u16 },
    #[error("cannot listen on unix socket {path}: {source}")]
    Unix { path: String, source: io::Error },
}

/// All listening sockets, and the tasks that accept on them. Dropping it closes them and removes the unix socket's file.
pub struct Listeners {
    sockets: Vec<Arc<Listening>>,
    file: Option<PathBuf>,
    tcp: JoinSet<()>,
    unix: JoinSet<()>,
}

impl Listeners {
    /// Binds everything that the configuration names and that isn't `inherited`.
    pub fn bind(config: &Config, inherited: Inherited) -> Result<Self, ListenError> {
        let (sockets, file) = bind::bind(config, inherited)?;
        let sockets = sockets.into_iter().map(Arc::new).collect();
        Ok(Self { sockets, file, tcp: JoinSet::new(), unix: JoinSet::new() })
    }

    /// Starts to accept.
    pub fn start(&mut self, app: &Arc<App>) -> io::Result<()> {
        app.set_listening(self.sockets.iter().map(Arc::downgrade).collect());
        for socket in &self.sockets {
            let app = app.clone();
            match socket.bound {
                Bound::Tcp(_) => drop(self.tcp.spawn(accept(Acceptor::Tcp(socket.to_tcp()?), app))),
                Bound::Unix(_) => drop(self.unix.spawn(accept(Acceptor::Unix(socket.to_unix()?), app))),
            }
        }
        Ok(())
    }

    /// Closes the TCP sockets. The unix socket still lets administrators in.
    pub async fn close_tcp(&mut self) {
        self.tcp.shutdown().await;
        self.sockets.retain(|socket| matches!(socket.bound, Bound::Unix(_)));
    }

    /// Leaves all sockets, and the unix socket's file, to the process that has taken them over.
    pub async fn hand_over(mut self) {
        self.file = None;
        self.tcp.shutdown().await;
        self.unix.shutdown().await;
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        if let Some(path) = &self.file {
            // It may be gone already, with its directory.
            let _ = std::fs::remove_file(path);
        }
    }
}

enum Acceptor {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

async fn accept(listener: Acceptor, app: Arc<App>) {
    let mut suspended = app.suspended.subscribe();
    loop {
        let accepted = match &listener {
            Acceptor::Tcp(listener) => {
                listener.accept().await.and_then(|(stream, _)| Io::tcp(stream, &tcp_options(&app.config())))
            }
            Acceptor::Unix(listener) => listener.accept().await.and_then(|(stream, _)| Io::unix(stream)),
        };
        // The app keeps the sender.
        let _ = suspended.wait_for(|suspended| !suspended).await;
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
        Accepted::Replication(replicating, input) => {
            Box::pin(replicating.serve(input)).await;
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
