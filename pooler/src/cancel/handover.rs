//! Cancel requests across an online restart (`-R`).
//!
//! Clients of the old process stay there for a while, and their cancel requests arrive at the new one, which has the listening
//! sockets. So the old one opens another socket when it hands those over, and the new one asks there whom it doesn't know.
//! It is in the abstract namespace, so that no file is left behind, and it takes nothing but cancel requests of the same Unix
//! user. Its name holds the process id of the new one: the old one knows who took its sockets.

use std::io;
use std::os::unix::net::UnixListener as StdListener;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use sluice_wire::startup::{self, CancelKey, Startup, cancel_request};
use tokio::net::{UnixListener, UnixStream};

use super::cancel;
use crate::app::{App, own_uid};
use crate::net::{Io, Peer, unix_address};

/// The new process has its request at hand.
const DEADLINE: Duration = Duration::from_secs(10);

fn socket_of(successor: u32) -> PathBuf {
    PathBuf::from(format!("\0sluice/cancel/{successor}"))
}

/// The old process's side: from now on the listening sockets are the successor's.
pub fn hand_over(app: &Arc<App>, successor: u32) {
    app.hand_over();
    match listen(successor) {
        Ok(listener) => drop(tokio::spawn(serve(listener, Arc::downgrade(app)))),
        Err(error) => tracing::warn!("queries that still run here cannot be cancelled: {error}"),
    }
}

fn listen(successor: u32) -> io::Result<UnixListener> {
    let listener = StdListener::bind_addr(&unix_address(&socket_of(successor))?)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

async fn serve(listener: UnixListener, app: Weak<App>) {
    loop {
        match (listener.accept().await, app.upgrade()) {
            (_, None) => return,
            (Ok((stream, _)), Some(app)) => drop(tokio::spawn(take(app, stream))),
            (Err(_), Some(_)) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn take(app: Arc<App>, stream: UnixStream) {
    let Ok((io, peer)) = Io::unix(stream) else { return };
    if !is_own(peer) {
        return;
    }
    if let Ok(Ok(packet)) = tokio::time::timeout(DEADLINE, read_packet(&io)).await
        && let Ok(Startup::Cancel(key)) = startup::parse(&packet)
    {
        let outcome = cancel(&app, &key).await;
        tracing::info!("{peer} closing because: {outcome}");
    }
}

fn is_own(peer: Peer) -> bool {
    matches!(peer, Peer::Unix { uid, .. } if uid == own_uid())
}

async fn read_packet(io: &Io) -> io::Result<Vec<u8>> {
    let mut packet = Vec::new();
    loop {
        if let Some(header) = packet.first_chunk::<4>()
            && packet.len() >= startup::packet_length(*header).map_err(io::Error::other)?
        {
            return Ok(packet);
        }
        if io.read_some(&mut packet).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// The new process's side: sends a request to the old process, if that is still there, and returns when it has been seen to.
pub(super) async fn ask_predecessor(key: &CancelKey) -> io::Result<()> {
    let (mut io, peer) = Io::connect_unix(&socket_of(std::process::id())).await?;
    if !is_own(peer) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    io.write_all(&cancel_request(key)).await?;
    while io.read_some(&mut Vec::new()).await? > 0 {}
    Ok(())
}
