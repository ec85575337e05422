//! One connection to PostgreSQL: how it is opened, and what it carries from lease to lease.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use sluice_wire::auth::{Entropy, LoginReply, ServerLogin, ServerSecret};
use sluice_wire::frame::{Frame, error_field};
use sluice_wire::message::{self, Status};
use sluice_wire::scan::Scanner;
use sluice_wire::startup::{CancelKey, Replication, startup_message};

use super::hosts::Hosts;
use super::pool::PoolKey;
use super::replay::Replay;
use super::sql_statements::SqlStatements;
use super::tls::negotiate;
use crate::dns::{ConnectFailure, Dns};
use crate::net::tls::{ServerTls, end_point};
use crate::net::{Address, Io, Peer, TcpOptions};
use crate::quota::Passes;
use crate::registry::{Registry, ServerEntry};
use crate::stats::Counters;
use crate::vars::Vars;

/// Longest answer that a server may give before it is logged in, in total.
const LOGIN_BUDGET: usize = 1 << 20;

/// Everything needed to open a connection.
#[derive(Debug, Clone)]
pub struct ServerTarget {
    pub hosts: Arc<Hosts>,
    pub dbname: String,
    pub user: String,
    pub secret: ServerSecret,
    /// Further start-up parameters of the entry (`client_encoding`, `datestyle`, `timezone`, `application_name`).
    pub startup: Vec<(String, String)>,
    /// The kind of connection.
    pub replication: Replication,
    /// The entry's `connect_query`.
    pub connect_query: Option<String>,
    pub timeout: Duration,
    pub dns: Arc<Dns>,
    pub tcp: TcpOptions,
    pub tls: Arc<ServerTls>,
}

/// What the first server of a pool said at its login: the parameters that clients are welcomed with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Welcome {
    pub parameters: Vec<(String, String)>,
}

/// Why a server could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// PostgreSQL answered, and refused; its own words.
    #[error("{message}")]
    Refused { severity: String, sqlstate: String, message: String },
    #[error("cannot connect to {address}: {text}")]
    Unreachable { address: String, text: String },
    #[error("server DNS lookup failed: {address}")]
    Lookup { address: String },
    #[error("connect timeout")]
    Timeout,
    #[error("{0}")]
    Login(String),
}

impl ConnectError {
    /// PostgreSQL is there, but does not let this user in: waiting won't help.
    pub fn is_refusal(&self) -> bool {
        match self {
            // Starting up or shutting down passes.
            Self::Refused { sqlstate, .. } => sqlstate != "57P03",
            Self::Login(_) => true,
            Self::Unreachable { .. } | Self::Lookup { .. } | Self::Timeout => false,
        }
    }

    /// Why the attempt ended, in PgBouncer's words: what scripts search the log for.
    pub fn reason(&self) -> &str {
        match self {
            Self::Refused { message, .. } => message,
            Self::Unreachable { .. } => "connect failed",
            Self::Lookup { .. } => "server DNS lookup failed",
            Self::Timeout => "connect timeout",
            Self::Login(text) => text,
        }
    }

    pub fn sqlstate(&self) -> &str {
        match self {
            Self::Refused { sqlstate, .. } => sqlstate,
            Self::Login(_) => "08P01",
            Self::Unreachable { .. } | Self::Lookup { .. } | Self::Timeout => "08006",
        }
    }
}

/// Whose unnamed statement a server holds, and which of those that the client has parsed. The default is nobody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unnamed {
    pub client: u64,
    pub number: u32,
}

/// A logged-in connection. It belongs to a pool's idle list or to one lease.
pub struct Server {
    pub io: Io,
    pub entry: Arc<ServerEntry>,
    pub scanner: Scanner,
    /// What the socket did not take yet.
    pub unsent: Vec<u8>,
    /// Session pooling: its client has sent a part of a message, and this is where that stands.
    pub straight: Option<Box<Scanner>>,
    /// The session settings that are in force on it, outside a transaction.
    pub applied: Arc<Vars>,
    pub status: Status,
    /// ReadyForQuery messages that are still to come.
    pub pending: u32,
    /// It reads string constants as standard_conforming_strings = off does: backslashes escape.
    pub escape_strings: bool,
    pub statements: Option<Box<StatementCache>>,
    pub sql_statements: Option<Box<SqlStatements>>,
    pub replay: Replay,
    /// ParameterStatus messages that the last statement of ours has brought about, and that the client may have to hear.
    pub reported: Vec<u8>,
    /// What the transaction that runs on it has passed to get here.
    pub passes: Option<Box<Passes>>,
    pub unnamed: Unnamed,
    /// The last client that had it.
    pub last_client: u64,
    /// Ran code that we can't see into: reset before another client gets it.
    pub suspect: bool,
    /// RECONNECT raises the pool's; servers of an older generation are closed when they are free.
    pub generation: u32,
    /// Milliseconds of the registry's clock.
    pub opened_at: u64,
    pub idle_since: u64,
    pub counters: Counters,
}

impl Server {
    /// Nothing is under way: it may be handed on.
    pub fn is_settled(&self) -> bool {
        self.pending == 0
            && self.unsent.is_empty()
            && self.straight.is_none()
            && self.status == Status::Idle
            && self.scanner.is_at_boundary()
    }

    /// Connects to `address`, the host whose turn it is, and logs in. `id` is the connection's number from the first byte on.
    pub async fn open(
        target: &ServerTarget,
        (id, address): (u64, &Address),
        no_vars: Arc<Vars>,
        key: &PoolKey,
        registry: &Registry,
    ) -> Result<(Self, Welcome), ConnectError> {
        let login = async {
            let (mut io, peer) = target.dns.connect(address, &target.tcp).await.map_err(|failure| match failure {
                ConnectFailure::Lookup(_) => ConnectError::Lookup { address: address.to_string() },
                ConnectFailure::Io(error) => unreachable(address, &error),
            })?;
            negotiate(&mut io, address, &target.tls).await.map_err(|error| unreachable(address, &error))?;
            let address = address.clone();
            let mut login =
                Login { address, io, peer, received: Vec::new(), used: 0, key: None, welcome: Welcome::default() };
            login.run(target).await?;
            Ok(login)
        };
        let login = tokio::time::timeout(target.timeout, login).await.unwrap_or(Err(ConnectError::Timeout));
        let login = login.inspect_err(|_| target.hosts.skip(address))?;
        let now = registry.clock.millis();
        let entry = Arc::new(ServerEntry {
            id,
            database: (&*key.database).into(),
            shard: key.shard,
            user: target.user.as_str().into(),
            replication: target.replication,
            address: login.address,
            peer: login.peer,
            local: login.io.local_addr(),
            tls: login.io.tls(),
            tls_setup: target.tls.clone(),
            key: login.key.unwrap_or(CancelKey { pid: 0, secret: Vec::new() }),
            connected_at: SystemTime::now(),
            client: AtomicU64::new(0),
            cancels: AtomicU32::new(0),
            cancel_turn: Default::default(),
            close_needed: AtomicBool::new(false),
            prepared: AtomicU32::new(0),
            used: AtomicBool::new(false),
        });
        let server = Self {
            io: login.io,
            entry,
            scanner: Scanner::default(),
            unsent: Vec::new(),
            straight: None,
            applied: no_vars,
            status: Status::Idle,
            pending: 0,
            escape_strings: login.welcome.parameters.iter().any(|(name, value)| name == STRINGS && value == "off"),
            statements: None,
            sql_statements: None,
            replay: Replay::default(),
            reported: Vec::new(),
            passes: None,
            unnamed: Unnamed::default(),
            last_client: 0,
            suspect: false,
            generation: 0,
            opened_at: now,
            idle_since: now,
            counters: Counters::default(),
        };
        Ok((server, login.welcome))
    }

    /// Whether PostgreSQL has this statement; counts as a use.
    pub fn has_statement(&mut self, id: u32) -> bool {
        self.statements.as_mut().is_some_and(|statements| statements.touch(id))
    }

    /// Notes that a Parse of `id` is on its way. Returns the statement to close for it, if the cache is full.
    pub fn add_statement(&mut self, id: u32, limit: u32) -> Option<u32> {
        let statements = self.statements.get_or_insert_default();
        let evicted = statements.insert(id, limit);
        self.entry.prepared.store(statements.len() as u32, Ordering::Relaxed);
        evicted
    }

    /// The Parse failed, or was thrown away after an error.
    pub fn forget_statement(&mut self, id: u32) {
        if let Some(statements) = &mut self.statements {
            statements.used.remove(&id);
            self.entry.prepared.store(statements.len() as u32, Ordering::Relaxed);
        }
    }

    /// DISCARD ALL or DEALLOCATE ALL ran.
    pub fn forget_all_statements(&mut self) {
        self.statements = None;
        self.sql_statements = None;
        self.unnamed = Unnamed::default();
        self.entry.prepared.store(0, Ordering::Relaxed);
    }
}

impl Server {
    /// Sends `bytes` as far as the socket takes them; the rest goes out while responses are relayed.
    #[inline]
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.counters.received += bytes.len() as u64;
        let written = if self.unsent.is_empty() { self.io.try_write(bytes)? } else { 0 };
        if written < bytes.len() {
            self.unsent.extend_from_slice(&bytes[written..]);
        }
        Ok(())
    }
}

fn unreachable(address: &Address, error: &io::Error) -> ConnectError {
    ConnectError::Unreachable { address: address.to_string(), text: error.to_string() }
}

/// Reported by PostgreSQL whenever it changes.
pub const STRINGS: &str = "standard_conforming_strings";

/// The name that statement `id` has on every server.
pub fn statement_name(id: u32) -> [u8; 15] {
    let mut name = *b"SLUICE_00000000";
    for (place, byte) in name[7..].iter_mut().rev().enumerate() {
        *byte = b"0123456789abcdef"[(id >> (4 * place)) as usize & 15];
    }
    name
}

/// The number in a name that [`statement_name`] made.
pub fn statement_number(name: &[u8]) -> Option<u32> {
    let digits = name.strip_prefix(b"SLUICE_").filter(|digits| digits.len() == 8)?;
    u32::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()
}

/// The prepared statements that a server holds, least recently used first to go.
#[derive(Debug, Default)]
pub struct StatementCache {
    /// Statement → when it was last used.
    used: HashMap<u32, u64, foldhash::fast::RandomState>,
    clock: u64,
}

impl StatementCache {
    pub fn len(&self) -> usize {
        self.used.len()
    }

    pub fn is_empty(&self) -> bool {
        self.used.is_empty()
    }

    fn touch(&mut self, id: u32) -> bool {
        self.clock += 1;
        match self.used.get_mut(&id) {
            Some(last) => {
                *last = self.clock;
                true
            }
            None => false,
        }
    }

    fn insert(&mut self, id: u32, limit: u32) -> Option<u32> {
        self.clock += 1;
        let evicted = if self.used.len() >= limit.max(1) as usize && !self.used.contains_key(&id) {
            let oldest = self.used.iter().min_by_key(|(_, last)| **last).map(|(&id, _)| id);
            oldest.inspect(|id| {
                self.used.remove(id);
            })
        } else {
            None
        };
        self.used.insert(id, self.clock);
        evicted
    }
}

/// A login under way.
struct Login {
    address: Address,
    io: Io,
    peer: Peer,
    received: Vec<u8>,
    used: usize,
    key: Option<CancelKey>,
    welcome: Welcome,
}

impl Login {
    async fn run(&mut self, target: &ServerTarget) -> Result<(), ConnectError> {
        let params = [("user", target.user.as_str()), ("database", target.dbname.as_str())];
        let replication = target.replication.parameter().map(|value| ("replication", value));
        let extra = target.startup.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        self.send(&startup_message(0, params.into_iter().chain(replication).chain(extra))).await?;
        self.authenticate(target).await?;
        self.until_ready().await?;
        if let Some(query) = &target.connect_query {
            let mut bytes = Vec::new();
            message::query(&mut bytes, query.as_bytes());
            self.send(&bytes).await?;
            self.until_ready().await?;
        }
        Ok(())
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), ConnectError> {
        self.io.write_all(bytes).await.map_err(|error| unreachable(&self.address, &error))
    }

    async fn authenticate(&mut self, target: &ServerTarget) -> Result<(), ConnectError> {
        let end_point = self.io.peer_certificate().and_then(|certificate| end_point(&certificate));
        let login = ServerLogin::new(&target.user, target.secret.clone(), &Entropy::random());
        let mut login = login.bound_to(end_point);
        loop {
            let (tag, body) = self.next().await?;
            match tag {
                b'R' => match login.on_authentication(&body).map_err(|error| ConnectError::Login(error.to_string()))? {
                    LoginReply::Authenticated => return Ok(()),
                    LoginReply::Nothing => {}
                    LoginReply::Send(bytes) => self.send(&bytes).await?,
                },
                b'E' => return Err(refused(&body)),
                b'N' | b'S' | b'v' => {}
                tag => return Err(unexpected(tag)),
            }
        }
    }

    /// Reads up to ReadyForQuery, and collects what a client is welcomed with. An error after the login is one of
    /// `connect_query`, which is logged and ignored.
    async fn until_ready(&mut self) -> Result<(), ConnectError> {
        loop {
            let (tag, body) = self.next().await?;
            match tag {
                b'Z' => return Ok(()),
                b'S' => self.add_parameter(&body),
                b'K' => {
                    if let Some((pid, secret)) = body.split_first_chunk::<4>() {
                        self.key = Some(CancelKey { pid: i32::from_be_bytes(*pid), secret: secret.to_vec() });
                    }
                }
                b'E' if self.key.is_none() => return Err(refused(&body)),
                b'E' => {
                    let ConnectError::Refused { message, .. } = refused(&body) else { continue };
                    tracing::error!("S: error while executing connect_query: ERROR: {message}");
                }
                _ => {}
            }
        }
    }

    fn add_parameter(&mut self, body: &[u8]) {
        let mut parts = body.split(|&byte| byte == 0).map(|part| str::from_utf8(part).ok());
        if let (Some(Some(name)), Some(Some(value))) = (parts.next(), parts.next()) {
            let parameters = &mut self.welcome.parameters;
            parameters.retain(|(known, _)| known != name);
            parameters.push((name.to_owned(), value.to_owned()));
        }
    }

    async fn next(&mut self) -> Result<(u8, Vec<u8>), ConnectError> {
        loop {
            match Frame::first(&self.received[self.used..]) {
                Ok(Some(frame)) => {
                    let message = (frame.tag, frame.body.to_vec());
                    self.used += frame.raw.len();
                    return Ok(message);
                }
                Ok(None) => {}
                Err(error) => return Err(ConnectError::Login(error.to_string())),
            }
            self.received.drain(..self.used);
            self.used = 0;
            if self.received.len() > LOGIN_BUDGET {
                return Err(ConnectError::Login("the server's answer is too long".to_owned()));
            }
            match self.io.read_some(&mut self.received).await {
                Ok(0) => return Err(unreachable(&self.address, &io::ErrorKind::UnexpectedEof.into())),
                Ok(_) => {}
                Err(error) => return Err(unreachable(&self.address, &error)),
            }
        }
    }
}

fn refused(body: &[u8]) -> ConnectError {
    let field = |code| error_field(body, code).map_or(String::new(), |text| text.escape_invalid());
    ConnectError::Refused { severity: field(b'S'), sqlstate: field(b'C'), message: field(b'M') }
}

fn unexpected(tag: u8) -> ConnectError {
    ConnectError::Login(format!("unexpected message {:?} during login", char::from(tag)))
}

/// A server's text for our log: what isn't UTF-8 (a server may speak another encoding before login) is shown as escapes.
trait EscapeInvalid {
    fn escape_invalid(&self) -> String;
}

impl EscapeInvalid for [u8] {
    fn escape_invalid(&self) -> String {
        match str::from_utf8(self) {
            Ok(text) => text.to_owned(),
            Err(_) => self.escape_ascii().to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statement_names_have_one_width() {
        assert_eq!(&statement_name(0x2a), b"SLUICE_0000002a");
        assert_eq!(&statement_name(u32::MAX), b"SLUICE_ffffffff");
        assert_eq!(statement_number(b"SLUICE_0000002a"), Some(0x2a));
        assert_eq!(statement_number(b"SLUICE_2a"), None);
        assert_eq!(statement_number(b"other"), None);
    }

    #[test]
    fn the_least_recently_used_statement_goes_first() {
        let mut cache = StatementCache::default();
        assert_eq!(cache.insert(1, 2), None);
        assert_eq!(cache.insert(2, 2), None);
        assert!(cache.touch(1));
        assert_eq!(cache.insert(3, 2), Some(2));
        assert!(!cache.touch(2));
        assert_eq!(cache.len(), 2);
    }

    #[test]
    fn a_server_that_starts_up_is_worth_waiting_for() {
        let refused = |sqlstate: &str| ConnectError::Refused {
            severity: "FATAL".to_owned(),
            sqlstate: sqlstate.to_owned(),
            message: String::new(),
        };
        assert!(!refused("57P03").is_refusal());
        assert!(refused("28P01").is_refusal());
        assert!(!ConnectError::Timeout.is_refusal());
    }
}
