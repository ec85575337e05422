//! One pool: the servers of one entry, user and shard.
//!
//! Hot path: [`Pool::try_checkout`] and [`Lease::checkin`] run once per transaction; each takes the pool's lock once, for
//! a few instructions.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use sluice_wire::auth::ServerSecret;
use sluice_wire::message::TERMINATE;
use tokio::sync::oneshot;

use super::listener::Listening;
use super::pools::Pools;
use super::server::{ConnectError, Server, ServerTarget, Welcome};
use super::slots::{Sizes, Slots, Waiter};
use crate::config::PoolMode;
use crate::lock::lock;
use crate::net::Address;
use crate::registry::Registry;
use crate::stats::Counters;
use crate::vars::VarsTable;

/// What makes a pool.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolKey {
    /// The entry's name in `[databases]`.
    pub database: Arc<str>,
    /// The server-side user.
    pub user: Arc<str>,
    /// The shard's number; `None` for an unsharded database.
    pub shard: Option<u16>,
}

/// Settings in force for a pool; replaced by RELOAD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolParams {
    pub mode: PoolMode,
    pub sizes: Sizes,
    /// 0 = no limit.
    pub max_db_connections: u32,
    pub max_user_connections: u32,
    /// Zero = never.
    pub idle_timeout: Duration,
    /// Zero = a server is used once.
    pub lifetime: Duration,
    pub login_retry: Duration,
    pub check_delay: Duration,
    /// `None` = no check; empty = an empty query.
    pub check_query: Option<String>,
    /// What makes a server clean for the next client in session mode; empty = nothing.
    pub reset_query: String,
    /// `server_reset_query_always`: it runs after each transaction, too.
    pub resets_always: bool,
    pub max_prepared_statements: u32,
    /// It keeps its minimum of servers even without clients: all of them would use the same ones.
    pub is_filled: bool,
}

impl PoolParams {
    /// Whether a server that was opened at `opened_at` goes for its age, if the last one that did went at `last_retired_at`.
    /// They go one by one, so that a pool that was filled at one moment isn't emptied at another. Milliseconds of one clock.
    #[inline]
    pub(super) fn retires(&self, opened_at: u64, last_retired_at: u64, now: u64) -> bool {
        let lifetime = self.lifetime.as_millis() as u64;
        now.saturating_sub(opened_at) >= lifetime
            && now.saturating_sub(last_retired_at) >= lifetime.checked_div(self.sizes.size.into()).unwrap_or(0)
    }
}

/// Why there is no server for a client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckoutError {
    /// PostgreSQL refused the login just now.
    #[error("{0}")]
    Refused(ConnectError),
    /// The last attempt failed, and there is no server to wait for.
    #[error("server login has been failing, cached error: {0} (server_login_retry)")]
    Failing(ConnectError),
    /// The pool was removed.
    #[error("database removed")]
    Removed,
}

type Grant = Result<Lease, CheckoutError>;

pub(super) struct State {
    pub slots: Slots<Box<Server>, Grant>,
    pub params: Arc<PoolParams>,
    pub target: Arc<ServerTarget>,
    pub generation: u32,
    /// The last attempt to open a server failed, and when.
    pub failure: Option<(Instant, ConnectError)>,
    pub welcome: Option<Arc<Welcome>>,
    pub counters: Counters,
    pub removed: bool,
    /// When a server was last closed for its age, by the registry's clock.
    pub last_retired_at: u64,
}

pub struct Pool {
    pub key: PoolKey,
    pub(super) state: Mutex<State>,
    pub(super) pools: Weak<Pools>,
    registry: Arc<Registry>,
    /// Clients whose sessions use this pool.
    pub clients: AtomicUsize,
    /// Since when it has had neither clients nor servers, by the registry's clock, as the janitor found; 0: it has some.
    unused_since: AtomicU64,
    /// A copy of the parameter, so that a checkin need not take the lock for it.
    resets_always: AtomicBool,
    pub(super) listening: Listening,
}

/// A place in the queue.
pub type Ticket = oneshot::Receiver<Grant>;

impl Pool {
    pub(super) fn new(
        key: PoolKey,
        params: Arc<PoolParams>,
        target: Arc<ServerTarget>,
        paused: bool,
        (pools, registry): (Weak<Pools>, Arc<Registry>),
    ) -> Self {
        let mut slots = Slots::default();
        slots.paused = paused;
        let resets_always = AtomicBool::new(params.resets_always);
        let state = State {
            slots,
            params,
            target,
            generation: 0,
            failure: None,
            welcome: None,
            counters: Counters::default(),
            removed: false,
            last_retired_at: 0,
        };
        let (clients, unused_since) = (AtomicUsize::new(0), AtomicU64::new(0));
        Self {
            key,
            state: Mutex::new(state),
            pools,
            registry,
            clients,
            unused_since,
            resets_always,
            listening: Listening::default(),
        }
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(super) fn set_params(&self, state: &mut State, params: Arc<PoolParams>) {
        self.resets_always.store(params.resets_always, Ordering::Relaxed);
        state.params = params;
    }

    /// A client has logged in.
    pub fn count_login(&self) {
        self.lock().counters.client_login_count += 1;
    }

    pub fn params(&self) -> Arc<PoolParams> {
        self.lock().params.clone()
    }

    pub fn target(&self) -> Arc<ServerTarget> {
        self.lock().target.clone()
    }

    /// What the next servers are logged in to with. Those that are open stay.
    pub fn set_secret(&self, secret: &ServerSecret) {
        let mut state = self.lock();
        if state.target.secret != *secret {
            state.target = Arc::new(ServerTarget { secret: secret.clone(), ..ServerTarget::clone(&state.target) });
        }
    }

    pub fn welcome(&self) -> Option<Arc<Welcome>> {
        self.lock().welcome.clone()
    }

    /// Notes whether anybody uses it.
    pub(super) fn look_for_use(&self) {
        let unused = self.clients.load(Ordering::Relaxed) == 0 && {
            let state = self.lock();
            state.slots.total() == 0 && state.slots.waiting() == 0
        };
        let since = match self.unused_since.load(Ordering::Relaxed) {
            _ if !unused => 0,
            0 => self.now(),
            since => since,
        };
        self.unused_since.store(since, Ordering::Relaxed);
    }

    /// For how long nobody has used it.
    pub fn unused_for(&self) -> Option<Duration> {
        let since = self.unused_since.load(Ordering::Relaxed);
        (since != 0).then(|| self.registry.clock.since(since))
    }

    /// A free server, if one is there and nobody waits for it.
    #[inline]
    pub fn try_checkout(self: &Arc<Self>) -> Option<Lease> {
        loop {
            let server = {
                let mut state = self.lock();
                let round_robin = state.params.sizes.round_robin;
                state.slots.take(round_robin)?
            };
            if let Some(lease) = self.lend(server) {
                return Some(lease);
            }
        }
    }

    /// Lends a server that was idle. `None`: it can't be used (yet), and another one has to be looked for.
    #[inline]
    fn lend(self: &Arc<Self>, server: Box<Server>) -> Option<Lease> {
        if server.entry.used.load(Ordering::Relaxed) {
            // It was idle for long: checked first, and meanwhile others are looked at.
            self.check(server);
        } else if self.is_usable(&server) {
            return Some(Lease::new(server, self.clone()));
        } else {
            self.close(server, "idle server got dirty");
        }
        None
    }

    /// PostgreSQL says nothing to an idle connection but that it ends: readable means unusable.
    #[inline]
    fn is_usable(&self, server: &Server) -> bool {
        !server.io.is_readable() && !server.entry.close_needed.load(Ordering::Relaxed)
    }

    /// A free server now, or a place in the queue.
    ///
    /// `urgent`: for a transaction that has begun, which a PAUSE lets finish.
    pub fn checkout(self: &Arc<Self>, urgent: bool) -> Result<Result<Lease, Ticket>, CheckoutError> {
        let refused = |state: &State| {
            if state.removed {
                return Some(CheckoutError::Removed);
            }
            let has_servers = state.slots.usable() > 0;
            let (_, error) = state.failure.as_ref().filter(|_| !has_servers && !state.slots.paused)?;
            Some(CheckoutError::Failing(error.clone()))
        };
        let place = self.take_or_queue(urgent, refused);
        match &place {
            Ok(Ok(_)) | Err(CheckoutError::Removed) => {}
            Ok(Err(_)) => self.open_if_due(false),
            Err(_) => self.open_if_due(true),
        }
        place
    }

    /// Waits for a server although the last attempt failed: for the first welcome of a pool, and for the control plane.
    pub fn wait(self: &Arc<Self>) -> Result<Result<Lease, Ticket>, CheckoutError> {
        let place = self.take_or_queue(false, |state| state.removed.then_some(CheckoutError::Removed))?;
        if place.is_err() {
            self.open_if_due(false);
        }
        Ok(place)
    }

    /// Takes a free server, or else a place in the queue, unless `refused` says why not. Both under one lock: a server that
    /// became free in between would go to the idle list, past a queue that nobody is left to serve.
    fn take_or_queue(
        self: &Arc<Self>,
        urgent: bool,
        refused: impl Fn(&State) -> Option<CheckoutError>,
    ) -> Result<Result<Lease, Ticket>, CheckoutError> {
        loop {
            let server = {
                let mut state = self.lock();
                let round_robin = state.params.sizes.round_robin;
                match state.slots.take(round_robin) {
                    Some(server) => server,
                    None => {
                        return match refused(&state) {
                            Some(error) => Err(error),
                            None => Ok(Err(queue(&mut state, urgent))),
                        };
                    }
                }
            };
            if let Some(lease) = self.lend(server) {
                return Ok(Ok(lease));
            }
        }
    }

    pub(super) fn open_if_due(self: &Arc<Self>, probe: bool) {
        if let Some(pools) = self.pools.upgrade() {
            pools.open_if_due(self, probe);
        }
    }

    /// Gives a clean server to the waiter whose turn it is, or puts it into the idle list.
    pub(super) fn give(self: &Arc<Self>, mut server: Box<Server>) {
        loop {
            let waiter = {
                let mut state = self.lock();
                state.counters += std::mem::take(&mut server.counters);
                if let Some(reason) = self.worn_out(&server, &mut state) {
                    drop(state);
                    return self.close(server, reason);
                }
                match state.slots.next_waiter() {
                    Some(waiter) => waiter,
                    None => {
                        server.idle_since = self.now();
                        state.slots.leased -= 1;
                        state.slots.put_idle(server);
                        return;
                    }
                }
            };
            match waiter.grant.send(Ok(Lease::new(server, self.clone()))) {
                Ok(()) => return,
                // That client went away in between: the next one, then.
                Err(Ok(lease)) => server = lease.into_server(),
                Err(Err(_)) => return,
            }
        }
    }

    fn worn_out(&self, server: &Server, state: &mut State) -> Option<&'static str> {
        if state.removed {
            return Some("database removed");
        }
        if server.generation != state.generation || server.entry.close_needed.load(Ordering::Relaxed) {
            return Some("database configuration changed");
        }
        // With a lifetime of zero a server is used once, but that once.
        let unused = server.last_client == 0 && state.params.lifetime.is_zero();
        if !unused && state.params.retires(server.opened_at, state.last_retired_at, self.now()) {
            state.last_retired_at = self.now();
            return Some("server lifetime over");
        }
        if state.slots.paused && !state.slots.has_urgent() {
            return Some("pause mode");
        }
        (state.slots.total() > state.params.sizes.most()).then_some("too many servers in the pool")
    }

    pub(super) fn now(&self) -> u64 {
        self.registry.clock.millis()
    }

    /// Closes a leased server.
    pub(super) fn close(self: &Arc<Self>, mut server: Box<Server>, reason: &str) {
        {
            let mut state = self.lock();
            state.counters += std::mem::take(&mut server.counters);
            state.slots.leased -= 1;
        }
        self.dispose(server, reason);
        self.open_if_due(false);
    }

    /// Ends a connection that no count includes any more.
    pub(super) fn dispose(&self, server: Box<Server>, reason: &str) {
        if let Some(pools) = self.pools.upgrade() {
            self.registry.remove_server(server.entry.id);
            if pools.log_disconnections() {
                tracing::info!(
                    "{} closing because: {reason} (age={}s)",
                    server.log_prefix(),
                    self.registry.clock.since(server.opened_at).as_secs()
                );
            }
        }
        if server.pending == 0 && server.unsent.is_empty() {
            // Best effort: the connection ends either way.
            let _ = server.io.try_write(&TERMINATE);
        }
    }
}

/// The last place in the queue.
fn queue(state: &mut State, urgent: bool) -> Ticket {
    let (grant, ticket) = oneshot::channel();
    state.slots.push_waiter(Waiter { since: Instant::now(), grant, urgent });
    ticket
}

/// `S-0x…: DB/USER@ADDRESS:PORT`, as log lines about a server begin; a unix socket is `unix:PORT`.
pub(super) fn log_prefix(id: u64, database: &str, user: &str, address: &Address) -> String {
    match address {
        Address::Tcp { .. } => format!("S-{id:#x}: {database}/{user}@{address}"),
        Address::Unix(_) => format!("S-{id:#x}: {database}/{user}@unix:{}", address.port()),
    }
}

impl Server {
    pub fn log_prefix(&self) -> String {
        log_prefix(self.entry.id, &self.entry.database, &self.entry.user, &self.entry.address)
    }
}

/// A checked-out server. Goes back by [`Lease::checkin`]; dropped otherwise, its connection is closed.
pub struct Lease {
    server: Option<Box<Server>>,
    pool: Arc<Pool>,
    touched: bool,
}

impl Lease {
    #[inline]
    fn new(server: Box<Server>, pool: Arc<Pool>) -> Self {
        Self { server: Some(server), pool, touched: false }
    }

    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    pub(super) fn into_server(mut self) -> Box<Server> {
        self.server.take().expect("a lease holds its server until it is given back")
    }

    /// Returns a server on which nothing is under way; any other is closed.
    #[inline]
    pub fn checkin(self) {
        if self.pool.resets_always.load(Ordering::Relaxed) {
            return self.reset();
        }
        self.put_back();
    }

    /// Adds what was counted to the pool's statistics, although the server stays here: in session pooling it may for days.
    pub fn publish_counters(&mut self) {
        let counters = std::mem::take(&mut self.counters);
        self.pool.lock().counters += counters;
    }

    /// Runs `server_reset_query` in the background, then returns the server.
    pub fn reset(mut self) {
        let query = self.pool.params().reset_query.clone();
        if query.is_empty() || !self.is_settled() {
            return self.put_back();
        }
        self.entry.client.store(0, Ordering::Relaxed);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return self.close("shutting down") };
        runtime.spawn(async move {
            match self.run(&query).await {
                Ok(done) if done.error.is_none() => {
                    self.forget_all_statements();
                    self.applied = VarsTable::default().intern(Vec::new());
                    self.suspect = false;
                    self.put_back();
                }
                _ => self.close("reset query failed"),
            }
        });
    }

    #[inline]
    fn put_back(mut self) {
        let Some(mut server) = self.server.take() else { return };
        server.passes = None;
        server.entry.client.store(0, Ordering::Relaxed);
        if !server.is_settled() {
            return self.pool.close(server, "client disconnect while server was not ready");
        }
        // Pairs with the canceller, which counts itself in before it looks whether the client still has this server.
        if server.entry.cancels.load(Ordering::SeqCst) > 0 {
            return give_after_cancels(server, self.pool.clone());
        }
        self.pool.give(server);
    }

    /// Closes the connection and says why.
    pub fn close(mut self, reason: &str) {
        if let Some(server) = self.server.take() {
            self.pool.close(server, reason);
        }
    }
}

/// A server with cancel requests under way belongs to nobody until they are through.
fn give_after_cancels(server: Box<Server>, pool: Arc<Pool>) {
    tokio::spawn(async move {
        let deadline = Instant::now() + Duration::from_secs(10);
        while server.entry.cancels.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if server.entry.cancels.load(Ordering::SeqCst) == 0 {
            pool.give(server);
        } else {
            pool.close(server, "cancel_wait_timeout");
        }
    });
}

impl Deref for Lease {
    type Target = Server;

    #[inline]
    fn deref(&self) -> &Server {
        self.server.as_ref().expect("a lease holds its server until it is given back")
    }
}

impl DerefMut for Lease {
    #[inline]
    fn deref_mut(&mut self) -> &mut Server {
        self.touched = true;
        self.server.as_mut().expect("a lease holds its server until it is given back")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(server) = self.server.take() else { return };
        if !self.touched {
            // Granted to a client that had gone: nobody used it.
            return self.pool.give(server);
        }
        server.entry.client.store(0, Ordering::Relaxed);
        if server.pending > 0 {
            self.pool.cancel_and_close(server, "client disconnected with query in progress");
        } else {
            self.pool.close(server, "client disconnect while server was not ready");
        }
    }
}
