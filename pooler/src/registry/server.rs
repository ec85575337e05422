//! What the console, cancel requests and upkeep know of a server connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::time::SystemTime;

use sluice_wire::startup::{CancelKey, Replication};

use crate::net::tls::{ServerTls, TlsInfo};
use crate::net::{Address, Peer};

/// What everybody may know of a server connection.
#[derive(Debug)]
pub struct ServerEntry {
    pub id: u64,
    pub database: Box<str>,
    /// `None` in an unsharded database.
    pub shard: Option<u16>,
    pub user: Box<str>,
    pub replication: Replication,
    pub address: Address,
    pub peer: Peer,
    pub local: Option<SocketAddr>,
    pub tls: Option<TlsInfo>,
    /// For cancel requests, which take the same way.
    pub tls_setup: Arc<ServerTls>,
    pub key: CancelKey,
    pub connected_at: SystemTime,
    /// The client that has it; 0 = idle.
    pub client: AtomicU64,
    /// Cancel requests on their way to it: it isn't handed on while there are any.
    pub cancels: AtomicU32,
    /// Held by the one of them that is being sent. So there are no more of these connections than there are servers.
    pub cancel_turn: tokio::sync::Mutex<()>,
    pub close_needed: AtomicBool,
    pub prepared: AtomicU32,
    pub used: AtomicBool,
}
