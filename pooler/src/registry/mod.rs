//! Who is connected: what the console shows of clients and servers, how a client is told to go, and how a cancel request
//! finds its server.
//!
//! A client's task owns its session; others see only the atomics here.

use std::collections::{HashMap, HashSet};
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use atomic_waker::AtomicWaker;
use sluice_wire::startup::{CancelKey, Replication};

mod clients;
mod clock;
mod key;
mod server;

use self::clients::Clients;
pub use self::clock::Clock;
pub use self::key::{ClientKey, forwarded, peer_of};
pub use self::server::ServerEntry;
use crate::lock::lock;
use crate::net::Peer;
use crate::net::tls::TlsInfo;

/// The states of SHOW CLIENTS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ClientState {
    Login,
    Idle,
    Active,
    Waiting,
}

/// Why somebody else ends a client's session; checked by the session whenever it is woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Eviction {
    None,
    /// KILL_CLIENT.
    Killed,
    /// KILL, or the entry is no longer configured.
    DatabaseRemoved,
    /// SHUTDOWN WAIT_FOR_SERVERS.
    ShuttingDown,
    ClientIdleTimeout,
    QueryTimeout,
    /// Likewise, but the query was still waiting for a server.
    QueryTimeoutInQueue,
    IdleTransactionTimeout,
    TransactionTimeout,
    /// Another process takes over, or SHUTDOWN WAIT_FOR_TRANSACTIONS. Waits until the client is at rest.
    Replaced,
    /// `server_fast_close`; waits, too.
    Reconfigured,
    SuspendTimeout,
    /// The connection that listened for this client was lost; waits, too.
    ListenerLost,
    /// It takes no notifications.
    MailboxFull,
    /// No eviction: SUSPEND, the client is to rest.
    Rest,
    /// It does, and has been sent all there was.
    Resting,
}

impl Eviction {
    const ALL: [Self; 16] = [
        Self::None,
        Self::Killed,
        Self::DatabaseRemoved,
        Self::ShuttingDown,
        Self::ClientIdleTimeout,
        Self::QueryTimeout,
        Self::QueryTimeoutInQueue,
        Self::IdleTransactionTimeout,
        Self::TransactionTimeout,
        Self::Replaced,
        Self::Reconfigured,
        Self::SuspendTimeout,
        Self::ListenerLost,
        Self::MailboxFull,
        Self::Rest,
        Self::Resting,
    ];

    /// Until the client is between two transactions, or for ever.
    pub fn waits(self) -> bool {
        matches!(self, Self::Replaced | Self::Reconfigured | Self::ListenerLost | Self::Rest | Self::Resting)
    }

    /// The text that the client gets, and its SQLSTATE.
    pub fn report(self) -> (&'static str, &'static str) {
        match self {
            Self::None | Self::Rest | Self::Resting => ("", "00000"),
            Self::SuspendTimeout => ("suspend_timeout", "57P01"),
            Self::ListenerLost => {
                ("notifications may have been missed: the connection that listened was lost", "08006")
            }
            Self::MailboxFull => ("too many notifications wait for this client", "53000"),
            Self::Killed => ("admin forced disconnect", "57P01"),
            Self::Reconfigured => ("database configuration changed", "57P01"),
            Self::DatabaseRemoved => ("database removed", "57P01"),
            Self::ShuttingDown | Self::Replaced => ("server shutting down", "57P01"),
            Self::ClientIdleTimeout => ("client_idle_timeout", "57P05"),
            Self::QueryTimeout => ("query timeout", "57014"),
            Self::QueryTimeoutInQueue => ("query_timeout", "57014"),
            Self::IdleTransactionTimeout => ("idle transaction timeout", "25P03"),
            Self::TransactionTimeout => ("transaction timeout", "57014"),
        }
    }
}

/// What many clients have in common: one value for all that came with the same names, and the same kind of TLS.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Names {
    pub user: String,
    pub database: String,
    pub application_name: String,
    pub tls: Option<TlsInfo>,
    pub replication: Replication,
}

/// Both ends of a client's connection, in as little room as the usual kinds need.
#[derive(Debug)]
enum Ends {
    Unix { pid: i32, uid: u32, port: u16 },
    V4(SocketAddrV4, SocketAddrV4),
    Other(Box<(Peer, Option<SocketAddr>)>),
}

impl Ends {
    fn new(peer: Peer, local: Option<SocketAddr>) -> Self {
        match (peer, local) {
            (Peer::Unix { pid, uid, port }, None) => Self::Unix { pid, uid, port },
            (Peer::Tcp(SocketAddr::V4(peer)), Some(SocketAddr::V4(local))) => Self::V4(peer, local),
            other => Self::Other(Box::new(other)),
        }
    }
}

/// What everybody may know of a client. There is one for each, so its size counts.
#[derive(Debug)]
pub struct ClientEntry {
    pub id: u64,
    names: Arc<Names>,
    ends: Ends,
    /// Milliseconds since 1970.
    connected_at: u64,
    pub key: ClientKey,
    /// Here, and not in the handle, because an idle client has room for it here, and none to spare in its future.
    socket: SocketGuard,
    state: AtomicU8,
    eviction: AtomicU8,
    waker: AtomicWaker,
    /// The server that runs this client's statement; 0 = none.
    server: AtomicU64,
    /// Milliseconds of the process's clock; 0 = never.
    request_started: AtomicU64,
    transaction_started: AtomicU64,
    last_message: AtomicU64,
    in_transaction: AtomicBool,
    pub prepared: AtomicU32,
    /// A cancel request came for a console connection, which has no server to pass it on to.
    cancel_asked: AtomicBool,
    /// Pinned servers are shown: 1 while this session can't share its server.
    pub pinned: AtomicBool,
    /// Another connection has listened for it (LISTEN).
    pub listens: AtomicBool,
    /// Notifications wait for it.
    pub has_mail: AtomicBool,
}

impl ClientEntry {
    pub fn user(&self) -> &str {
        &self.names.user
    }

    pub fn database(&self) -> &str {
        &self.names.database
    }

    pub fn application_name(&self) -> &str {
        &self.names.application_name
    }

    pub fn tls(&self) -> Option<TlsInfo> {
        self.names.tls
    }

    pub fn replication(&self) -> Replication {
        self.names.replication
    }

    pub fn peer(&self) -> Peer {
        match &self.ends {
            &Ends::Unix { pid, uid, port } => Peer::Unix { pid, uid, port },
            &Ends::V4(peer, _) => Peer::Tcp(peer.into()),
            Ends::Other(ends) => ends.0,
        }
    }

    pub fn local(&self) -> Option<SocketAddr> {
        match &self.ends {
            Ends::Unix { .. } => None,
            &Ends::V4(_, local) => Some(local.into()),
            Ends::Other(ends) => ends.1,
        }
    }

    /// `C-0x…: DB/USER@ADDRESS`, as log lines about a client begin.
    pub fn log_prefix(&self) -> String {
        format!("C-{:#x}: {}/{}@{}", self.id, self.database(), self.user(), self.peer())
    }

    pub fn connected_at(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.connected_at)
    }

    pub fn set_state(&self, state: ClientState) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    pub fn state(&self) -> ClientState {
        match self.state.load(Ordering::Relaxed) {
            0 => ClientState::Login,
            1 => ClientState::Idle,
            2 => ClientState::Active,
            _ => ClientState::Waiting,
        }
    }

    /// Tells the session to end.
    pub fn evict(&self, why: Eviction) {
        self.eviction.store(why as u8, Ordering::Release);
        self.waker.wake();
    }

    /// Remembers whom to wake, and returns why to go, if at all.
    pub fn poll_eviction(&self, waker: &std::task::Waker) -> Option<Eviction> {
        self.waker.register(waker);
        self.eviction()
    }

    /// Remembers whom to wake: the session's task, whose waker stays the same.
    pub fn watch_eviction(&self, waker: &std::task::Waker) {
        self.waker.register(waker);
    }

    /// Has the session look at the clock, and leaves its waker where it was.
    pub fn nudge(&self) {
        let Some(waker) = self.waker.take() else { return };
        waker.wake_by_ref();
        self.waker.register(&waker);
        if self.eviction().is_some() {
            // Told to go while there was nobody to wake.
            self.waker.wake();
        }
    }

    /// Why to go now, whatever is under way. The session's task asks at each poll; it is woken by `watch_eviction`.
    #[inline]
    pub fn eviction(&self) -> Option<Eviction> {
        self.eviction_at_rest().filter(|eviction| !eviction.waits())
    }

    /// Why to go as soon as nothing is under way.
    #[inline]
    pub fn eviction_at_rest(&self) -> Option<Eviction> {
        match self.eviction.load(Ordering::Acquire) {
            0 => None,
            code => Some(Eviction::ALL[usize::from(code)]),
        }
    }

    /// Has the session rest until [`Self::resume`]. True if it does, or is on its way out.
    pub fn suspend(&self) -> bool {
        let rest = Eviction::Rest as u8;
        match self.eviction.compare_exchange(Eviction::None as u8, rest, Ordering::AcqRel, Ordering::Acquire) {
            Err(now) if now != rest => true,
            _ => {
                self.nudge();
                false
            }
        }
    }

    /// Whether the session is to rest.
    #[inline]
    pub fn is_to_rest(&self) -> bool {
        self.eviction.load(Ordering::Relaxed) >= Eviction::Rest as u8
    }

    /// The session rests.
    pub fn rests(&self) {
        self.replace(Eviction::Rest, Eviction::Resting);
    }

    /// It goes on.
    pub fn resume(&self) {
        self.replace(Eviction::Rest, Eviction::None);
        self.replace(Eviction::Resting, Eviction::None);
        self.nudge();
    }

    fn replace(&self, old: Eviction, new: Eviction) {
        // Somebody else may have said otherwise in between.
        let _ = self.eviction.compare_exchange(old as u8, new as u8, Ordering::AcqRel, Ordering::Relaxed);
    }

    #[inline]
    pub fn has_mail(&self) -> bool {
        self.has_mail.load(Ordering::Acquire)
    }

    /// A cancel request for a console connection.
    pub fn ask_to_cancel(&self) {
        self.cancel_asked.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Whether there was a cancel request since this was last asked.
    pub fn take_cancel(&self) -> bool {
        self.cancel_asked.swap(false, Ordering::AcqRel)
    }

    /// The server now runs this client's statement, or (0) none does. Only the client's own session calls it.
    #[inline]
    pub fn link(&self, server: u64) {
        if server == 0 {
            // Before the server is given back: whoever cancels either sees this, or is seen (`Lease::checkin`).
            self.server.store(0, Ordering::SeqCst);
        } else if self.server.load(Ordering::Relaxed) != server {
            self.server.store(server, Ordering::Release);
        }
    }

    pub fn linked_server(&self) -> u64 {
        self.server.load(Ordering::SeqCst)
    }

    #[inline]
    pub fn request_began(&self, clock: &Clock) {
        let now = clock.millis();
        self.request_started.store(now, Ordering::Relaxed);
        self.last_message.store(now, Ordering::Relaxed);
    }

    #[inline]
    pub fn request_ended(&self, clock: &Clock, in_transaction: bool) {
        self.request_started.store(0, Ordering::Relaxed);
        let now = clock.millis();
        self.last_message.store(now, Ordering::Relaxed);
        if in_transaction != self.in_transaction.load(Ordering::Relaxed) {
            self.in_transaction.store(in_transaction, Ordering::Relaxed);
            self.transaction_started.store(if in_transaction { now } else { 0 }, Ordering::Relaxed);
        }
    }

    pub fn request_age(&self, clock: &Clock) -> Option<Duration> {
        clock.age(self.request_started.load(Ordering::Relaxed))
    }

    pub fn transaction_age(&self, clock: &Clock) -> Option<Duration> {
        clock.age(self.transaction_started.load(Ordering::Relaxed))
    }

    pub fn quiet_for(&self, clock: &Clock) -> Option<Duration> {
        clock.age(self.last_message.load(Ordering::Relaxed))
    }

    pub fn is_in_transaction(&self) -> bool {
        self.in_transaction.load(Ordering::Relaxed)
    }
}

/// All clients and servers of this process.
#[derive(Debug)]
pub struct Registry {
    next_id: AtomicU64,
    clients: Mutex<Clients>,
    servers: Mutex<HashMap<u64, Arc<ServerEntry>>>,
    names: Mutex<HashSet<Arc<Names>>>,
    /// Accepted and not yet closed, logged in or not.
    sockets: AtomicUsize,
    pub clock: Clock,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            next_id: AtomicU64::new(1),
            clients: Mutex::default(),
            servers: Mutex::default(),
            names: Mutex::default(),
            sockets: AtomicUsize::new(0),
            clock: Clock::new(),
        }
    }
}

/// What a new client is known by.
pub struct NewClient {
    pub names: Names,
    pub peer: Peer,
    pub local: Option<SocketAddr>,
    /// This process's number in peering, or 0: part of the cancel key.
    pub peer_id: u16,
    /// The client speaks protocol 3.2: its cancel key may be long.
    pub long_key: bool,
    pub socket: SocketGuard,
}

impl Registry {
    /// One counter for clients and servers, never reused.
    pub fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Counts a client's socket for as long as the guard lives.
    pub fn count_socket(self: &Arc<Self>) -> SocketGuard {
        self.sockets.fetch_add(1, Ordering::Relaxed);
        SocketGuard(self.clone())
    }

    pub fn sockets(&self) -> usize {
        self.sockets.load(Ordering::Relaxed)
    }

    pub fn add_client(&self, id: u64, client: NewClient) -> ClientHandle {
        let connected_at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let names = self.intern(client.names);
        let mut clients = lock(&self.clients);
        let entry = Arc::new(ClientEntry {
            id,
            names,
            ends: Ends::new(client.peer, client.local),
            connected_at: connected_at.as_millis() as u64,
            key: clients.by_key.unused(client.peer_id, client.long_key),
            socket: client.socket,
            state: AtomicU8::new(ClientState::Login as u8),
            eviction: AtomicU8::new(Eviction::None as u8),
            waker: AtomicWaker::new(),
            server: AtomicU64::new(0),
            request_started: AtomicU64::new(0),
            transaction_started: AtomicU64::new(0),
            last_message: AtomicU64::new(self.clock.millis()),
            in_transaction: AtomicBool::new(false),
            prepared: AtomicU32::new(0),
            cancel_asked: AtomicBool::new(false),
            pinned: AtomicBool::new(false),
            listens: AtomicBool::new(false),
            has_mail: AtomicBool::new(false),
        });
        clients.insert(&entry);
        drop(clients);
        ClientHandle { entry }
    }

    /// The one copy of these names.
    fn intern(&self, names: Names) -> Arc<Names> {
        let mut known = lock(&self.names);
        if let Some(same) = known.get(&names) {
            return same.clone();
        }
        if known.len() >= 256 && known.len().is_power_of_two() {
            known.retain(|names| Arc::strong_count(names) > 1);
        }
        let interned = Arc::new(names);
        known.insert(interned.clone());
        interned
    }

    pub fn clients(&self) -> Vec<Arc<ClientEntry>> {
        let mut clients: Vec<_> = lock(&self.clients).by_id.iter().map(|client| client.0.clone()).collect();
        clients.sort_by_key(|client| client.id);
        clients
    }

    pub fn client(&self, id: u64) -> Option<Arc<ClientEntry>> {
        lock(&self.clients).by_id.get(&id).map(|client| client.0.clone())
    }

    /// How many clients there are of which `counts` is true.
    pub fn count_clients(&self, mut counts: impl FnMut(&ClientEntry) -> bool) -> usize {
        lock(&self.clients).by_id.iter().filter(|client| counts(&client.0)).count()
    }

    pub fn client_count(&self) -> usize {
        lock(&self.clients).by_id.len()
    }

    /// The client that a cancel request means. All of the key is compared, in constant time.
    pub fn client_by_key(&self, key: &CancelKey) -> Option<Arc<ClientEntry>> {
        lock(&self.clients).by_key.find(key)
    }

    pub fn add_server(&self, server: Arc<ServerEntry>) {
        lock(&self.servers).insert(server.id, server);
    }

    pub fn remove_server(&self, id: u64) {
        lock(&self.servers).remove(&id);
    }

    pub fn server(&self, id: u64) -> Option<Arc<ServerEntry>> {
        lock(&self.servers).get(&id).cloned()
    }

    pub fn servers(&self) -> Vec<Arc<ServerEntry>> {
        let mut servers: Vec<_> = lock(&self.servers).values().cloned().collect();
        servers.sort_by_key(|server| server.id);
        servers
    }
}

/// See [`Registry::count_socket`].
#[derive(Debug)]
pub struct SocketGuard(Arc<Registry>);

impl Drop for SocketGuard {
    fn drop(&mut self) {
        self.0.sockets.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A registered client; leaves the registry when dropped.
#[derive(Debug)]
pub struct ClientHandle {
    entry: Arc<ClientEntry>,
}

impl ClientHandle {
    pub fn clock(&self) -> &Clock {
        &self.entry.socket.0.clock
    }
}

impl std::ops::Deref for ClientHandle {
    type Target = Arc<ClientEntry>;

    fn deref(&self) -> &Arc<ClientEntry> {
        &self.entry
    }
}

impl Drop for ClientHandle {
    fn drop(&mut self) {
        lock(&self.entry.socket.0.clients).remove(&self.entry);
    }
}
