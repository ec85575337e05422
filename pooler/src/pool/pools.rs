//! All pools: finding them, limits across them, opening of servers, PAUSE, and upkeep.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sluice_wire::startup::cancel_request;

use super::pool::{CheckoutError, Pool, PoolKey, PoolParams, State, log_prefix};
use super::server::{ConnectError, Server, ServerTarget};
use super::tls::negotiate;
use crate::dns::Dns;
use crate::lock::lock;
use crate::net::{Address, Io, Peer};
use crate::registry::{Registry, ServerEntry};
use crate::stats::Counters;
use crate::vars::VarsTable;

/// A cancel request that isn't through by then is given up.
const CANCEL_DEADLINE: Duration = Duration::from_secs(10);

pub struct Pools {
    pools: Mutex<BTreeMap<PoolKey, Arc<Pool>>>,
    /// Held while limits across pools are compared with their counts.
    pub(super) opening: Mutex<()>,
    pub registry: Arc<Registry>,
    pub vars: Arc<VarsTable>,
    pub dns: Arc<Dns>,
    forgotten: Mutex<BTreeMap<Arc<str>, Counters>>,
    paused: AtomicBool,
    /// Paused one by one, by PAUSE or KILL of a database: holds for pools that are made later, too.
    paused_databases: Mutex<BTreeSet<String>>,
    log_connections: AtomicBool,
    log_disconnections: AtomicBool,
}

/// What SHOW POOLS tells of one pool.
#[derive(Debug, Clone)]
pub struct PoolView {
    pub key: PoolKey,
    pub params: Arc<PoolParams>,
    pub clients: usize,
    pub waiting: usize,
    pub leased: usize,
    pub idle: usize,
    pub used: usize,
    pub connecting: usize,
    pub maxwait: Duration,
    pub counters: Counters,
    pub paused: bool,
    /// Why the last attempt to open a server failed; `None` once one has succeeded.
    pub failure: Option<String>,
}

impl Pools {
    pub fn new(registry: Arc<Registry>, vars: Arc<VarsTable>, dns: Arc<Dns>) -> Arc<Self> {
        Arc::new(Self {
            pools: Mutex::default(),
            opening: Mutex::default(),
            registry,
            vars,
            dns,
            forgotten: Mutex::default(),
            paused: AtomicBool::new(false),
            paused_databases: Mutex::default(),
            log_connections: AtomicBool::new(true),
            log_disconnections: AtomicBool::new(true),
        })
    }

    pub fn set_logging(&self, connections: bool, disconnections: bool) {
        self.log_connections.store(connections, Ordering::Relaxed);
        self.log_disconnections.store(disconnections, Ordering::Relaxed);
    }

    pub(super) fn log_disconnections(&self) -> bool {
        self.log_disconnections.load(Ordering::Relaxed)
    }

    /// The pool of `key`, made on first use. An existing one takes over changed settings; where its target has changed, its
    /// servers are closed when they are next free.
    pub fn pool(
        self: &Arc<Self>,
        key: &PoolKey,
        params: impl FnOnce() -> (Arc<PoolParams>, Arc<ServerTarget>),
    ) -> Arc<Pool> {
        let mut pools = lock(&self.pools);
        if let Some(pool) = pools.get(key) {
            return pool.clone();
        }
        let (params, target) = params();
        let paused = self.is_paused() || self.is_database_paused(&key.database);
        let pool =
            Arc::new(Pool::new(key.clone(), params, target, paused, (Arc::downgrade(self), self.registry.clone())));
        pools.insert(key.clone(), pool.clone());
        pool
    }

    pub fn all(&self) -> Vec<Arc<Pool>> {
        lock(&self.pools).values().cloned().collect()
    }

    fn of_database(&self, database: Option<&str>) -> Vec<Arc<Pool>> {
        let mut pools = self.all();
        pools.retain(|pool| database.is_none_or(|name| &*pool.key.database == name));
        pools
    }

    /// RELOAD for one pool.
    pub fn update(pool: &Arc<Pool>, params: Arc<PoolParams>, target: Arc<ServerTarget>) {
        let mut state = pool.lock();
        pool.set_params(&mut state, params);
        let moved = state.target.hosts != target.hosts
            || state.target.dbname != target.dbname
            || state.target.connect_query != target.connect_query
            || !Arc::ptr_eq(&state.target.tls, &target.tls);
        state.target = target;
        if moved {
            state.generation += 1;
            state.welcome = None;
            let stale = state.slots.take_idle_where(|_| true);
            drop(state);
            pool.mark_servers();
            for server in stale {
                pool.dispose(server, "database configuration changed");
            }
            pool.open_if_due(false);
        }
    }

    /// Drops the pools of an entry that is no longer configured.
    pub fn remove_database(&self, database: &str) {
        lock(&self.forgotten).remove(database);
        for pool in self.of_database(Some(database)) {
            lock(&self.pools).remove(&pool.key);
            let (idle, waiters) = {
                let mut state = pool.lock();
                state.removed = true;
                (state.slots.take_idle_where(|_| true), state.slots.drain_waiters())
            };
            for waiter in waiters {
                let _ = waiter.grant.send(Err(CheckoutError::Removed));
            }
            for server in idle {
                pool.dispose(server, "database removed");
            }
        }
    }

    /// Forgets a pool that nobody uses. What it has counted stays in the statistics of its database.
    pub fn forget(&self, pool: &Pool) {
        lock(&self.pools).remove(&pool.key);
        let mut state = pool.lock();
        state.removed = true;
        *lock(&self.forgotten).entry(pool.key.database.clone()).or_default() += state.counters;
    }

    /// What pools had counted that are forgotten, by database.
    pub fn forgotten(&self) -> BTreeMap<Arc<str>, Counters> {
        lock(&self.forgotten).clone()
    }

    /// PAUSE of all (`None`) or one database: idle servers are closed, nothing is handed out.
    pub fn pause(&self, database: Option<&str>) {
        match database {
            None => self.paused.store(true, Ordering::Relaxed),
            Some(name) => drop(lock(&self.paused_databases).insert(name.to_owned())),
        }
        for pool in self.of_database(database) {
            let idle = {
                let mut state = pool.lock();
                state.slots.paused = true;
                state.slots.take_idle_where(|_| true)
            };
            for server in idle {
                pool.dispose(server, "pause mode");
            }
        }
    }

    /// Ends a PAUSE of all, or of one database. Either leaves the other kind in force.
    pub fn resume(&self, database: Option<&str>) {
        match database {
            None => self.paused.store(false, Ordering::Relaxed),
            Some(name) => drop(lock(&self.paused_databases).remove(name)),
        }
        for pool in self.of_database(database) {
            if self.is_paused() || self.is_database_paused(&pool.key.database) {
                continue;
            }
            pool.lock().slots.paused = false;
            pool.open_if_due(false);
        }
    }

    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// Those that are paused by their own names.
    pub fn paused_databases(&self) -> Vec<String> {
        lock(&self.paused_databases).iter().cloned().collect()
    }

    /// Paused by its own name, whatever holds for all.
    pub fn is_database_paused(&self, database: &str) -> bool {
        lock(&self.paused_databases).contains(database)
    }

    /// Servers of all or one database, those being opened included.
    pub fn server_count(&self, database: Option<&str>) -> usize {
        self.of_database(database).iter().map(|pool| pool.lock().slots.total()).sum()
    }

    /// RECONNECT: each server is closed when it is next free.
    pub fn reconnect(&self, database: Option<&str>) {
        for pool in self.of_database(database) {
            let idle = {
                let mut state = pool.lock();
                state.generation += 1;
                state.welcome = None;
                state.slots.take_idle_where(|_| true)
            };
            for server in idle {
                pool.dispose(server, "database configuration changed");
            }
            pool.open_if_due(false);
        }
        for server in self.registry.servers() {
            if database.is_none_or(|name| &*server.database == name) {
                server.close_needed.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Leased servers that RECONNECT marked and that are not closed yet.
    pub fn close_needed_count(&self, database: Option<&str>) -> usize {
        let servers = self.registry.servers();
        let of_database = servers.iter().filter(|server| database.is_none_or(|name| &*server.database == name));
        of_database.filter(|server| server.close_needed.load(Ordering::Relaxed)).count()
    }

    pub fn views(&self) -> Vec<PoolView> {
        let now = Instant::now();
        self.all()
            .iter()
            .map(|pool| {
                let state = pool.lock();
                let used = state.slots.idle().filter(|server| server.entry.used.load(Ordering::Relaxed)).count();
                PoolView {
                    key: pool.key.clone(),
                    params: state.params.clone(),
                    clients: pool.clients.load(Ordering::Relaxed),
                    waiting: state.slots.waiting(),
                    leased: state.slots.leased + state.slots.replicating,
                    idle: state.slots.idle().len() - used,
                    used,
                    connecting: state.slots.connecting,
                    maxwait: state.slots.oldest_wait(now).unwrap_or_default(),
                    counters: state.counters,
                    paused: state.slots.paused,
                    failure: state.failure.as_ref().map(|(_, error)| error.to_string()),
                }
            })
            .collect()
    }

    /// Opens a server for `pool` if it wants one and all limits allow. `probe`: once, although nobody waits, to learn
    /// whether PostgreSQL is back.
    pub(super) fn open_if_due(self: &Arc<Self>, pool: &Arc<Pool>, probe: bool) {
        let _opening = lock(&self.opening);
        let (params, target, generation, evicts) = {
            let mut state = pool.lock();
            let now = Instant::now();
            let resting =
                state.failure.as_ref().is_some_and(|(at, _)| now.duration_since(*at) < state.params.login_retry);
            let has_clients = state.params.is_filled || pool.clients.load(Ordering::Relaxed) > 0;
            let wants = |state: &State| {
                state.slots.wants_connection(&state.params.sizes, has_clients, now)
                    || (probe && state.slots.is_void(&state.params.sizes))
            };
            if state.removed || resting || !wants(&state) {
                return;
            }
            // Those who waited may have left.
            state.slots.prune_waiters();
            if !wants(&state) {
                return;
            }
            // Nobody has to go for a server that nobody waits for (min_pool_size).
            (state.params.clone(), state.target.clone(), state.generation, probe || state.slots.waiting() > 0)
        };
        if !self.make_room(pool, &params, evicts) {
            return;
        }
        pool.lock().slots.connecting += 1;
        tokio::spawn(open(self.clone(), pool.clone(), target, generation));
    }

    /// Below `max_db_connections` and `max_user_connections`; with `evicts`, if need be by closing the longest-idle server of
    /// another pool.
    pub(super) fn make_room(&self, pool: &Arc<Pool>, params: &PoolParams, evicts: bool) -> bool {
        let same_database = |other: &Pool| other.key.database == pool.key.database;
        let same_user = |other: &Pool| other.key.user == pool.key.user;
        self.below(params.max_db_connections, evicts, &same_database)
            && self.below(params.max_user_connections, evicts, &same_user)
    }

    fn below(&self, limit: u32, evicts: bool, counts: &dyn Fn(&Pool) -> bool) -> bool {
        if limit == 0 {
            return true;
        }
        let mut pools = self.all();
        pools.retain(|pool| counts(pool));
        let total: usize = pools.iter().map(|pool| pool.lock().slots.total()).sum();
        if total < limit as usize || !evicts {
            return total < limit as usize;
        }
        let idle_since = |pool: &Arc<Pool>| pool.lock().slots.idle().map(|server| server.idle_since).min();
        let Some((since, pool)) =
            pools.iter().filter_map(|pool| Some((idle_since(pool)?, pool))).min_by_key(|(since, _)| *since)
        else {
            return false;
        };
        let mut one = true;
        let evicted =
            pool.lock().slots.take_idle_where(|server| server.idle_since == since && std::mem::take(&mut one));
        let found = !evicted.is_empty();
        for server in evicted {
            pool.dispose(server, "evicted");
        }
        found
    }

    /// Sends PostgreSQL the cancel request of `server`; returns when PostgreSQL has taken it.
    pub async fn cancel(server: &ServerEntry) {
        Self::cancel_within(server, CANCEL_DEADLINE).await;
    }

    /// As [`Self::cancel`], but gives up after `deadline`. The result is how it ended.
    pub async fn cancel_within(server: &ServerEntry, deadline: Duration) -> &'static str {
        let send = async {
            // Where the server is, and not where its name may have gone since.
            let (mut io, _) = match (server.peer, &server.address) {
                (Peer::Tcp(peer), _) => Io::connect_tcp(peer, &Default::default()).await?,
                (Peer::Unix { .. }, Address::Unix(path)) => Io::connect_unix(path).await?,
                (Peer::Unix { .. }, Address::Tcp { .. }) => return Err(std::io::ErrorKind::AddrNotAvailable.into()),
            };
            if server.tls.is_some() {
                negotiate(&mut io, &server.address, &server.tls_setup).await?;
            }
            io.write_all(&cancel_request(&server.key)).await?;
            io.read_some(&mut Vec::new()).await
        };
        match tokio::time::timeout(deadline, send).await {
            Ok(Ok(_)) => "cancel request sent",
            Ok(Err(error)) => {
                tracing::warn!("cancel request to {} failed: {error}", server.address);
                "cancel request could not be sent"
            }
            Err(_) => {
                tracing::warn!("cancel request to {} given up: cancel_wait_timeout", server.address);
                "cancel_wait_timeout"
            }
        }
    }

    /// Upkeep, three times a second.
    pub fn tend(self: &Arc<Self>) {
        self.registry.clock.tick();
        for pool in self.all() {
            pool.tend();
            pool.look_for_use();
        }
    }
}

impl Pool {
    /// Each of its servers is closed when it is next free.
    fn mark_servers(&self) {
        for server in self.registry().servers() {
            let own = *server.database == *self.key.database && *server.user == *self.key.user;
            if own && server.shard == self.key.shard {
                server.close_needed.store(true, Ordering::Relaxed);
            }
        }
    }
}

/// Opens one server and hands it to the pool; its count has been reserved.
async fn open(pools: Arc<Pools>, pool: Arc<Pool>, target: Arc<ServerTarget>, generation: u32) {
    let no_vars = pools.vars.intern(Vec::new());
    let (id, address, began) = (pools.registry.next_id(), target.hosts.pick(), Instant::now());
    let result = Server::open(&target, (id, address), no_vars, &pool.key, &pools.registry).await;
    match result {
        Ok((mut server, welcome)) => {
            server.generation = generation;
            pools.registry.add_server(server.entry.clone());
            pools.log_opened(&server);
            {
                let mut state = pool.lock();
                state.slots.connecting -= 1;
                state.slots.leased += 1;
                state.failure = None;
                if state.generation == generation {
                    state.welcome = Some(Arc::new(welcome));
                }
            }
            pool.give(Box::new(server));
            pool.open_if_due(false);
        }
        Err(error) => {
            let server = log_prefix(id, &pool.key.database, &pool.key.user, address);
            pools.log_failure(&server, &error, began.elapsed());
            pool.opening_failed(error);
        }
    }
}

impl Pools {
    pub(super) fn log_opened(&self, server: &Server) {
        if !self.log_connections.load(Ordering::Relaxed) {
            return;
        }
        let from = server.entry.local.map_or(String::new(), |address| format!(" (from {address})"));
        tracing::info!("{} new connection to server{from}", server.log_prefix());
        if let Some(tls) = server.entry.tls {
            tracing::info!("{} SSL established: {tls}", server.log_prefix());
        }
    }

    /// Nobody has got this server.
    fn log_failure(&self, server: &str, error: &ConnectError, age: Duration) {
        match error {
            ConnectError::Refused { severity, message, .. } => {
                tracing::warn!("server login failed: {severity} {message}");
            }
            ConnectError::Login(text) => tracing::warn!("server login failed: {text}"),
            ConnectError::Unreachable { .. } => tracing::warn!("{server} {error}"),
            // The look-up has a line of its own.
            ConnectError::Lookup { .. } | ConnectError::Timeout => {}
        }
        if self.log_disconnections() {
            tracing::info!("{server} closing because: {} (age={}s)", error.reason(), age.as_secs());
        }
    }
}

impl Pool {
    fn opening_failed(self: &Arc<Self>, error: ConnectError) {
        let waiters = {
            let mut state = self.lock();
            state.slots.connecting -= 1;
            state.failure = Some((Instant::now(), error.clone()));
            let others = state.slots.usable();
            // A refusal won't pass by waiting; nor will a sharded database's clients wait for a shard that is down.
            let hopeless = error.is_refusal() || self.key.shard.is_some();
            if hopeless && others == 0 { state.slots.drain_waiters() } else { Vec::new() }
        };
        for waiter in waiters {
            let _ = waiter.grant.send(Err(CheckoutError::Refused(error.clone())));
        }
    }

    /// Closes a server whose statement nobody waits for any more, and tells PostgreSQL to stop it.
    pub(super) fn cancel_and_close(self: &Arc<Self>, server: Box<Server>, reason: &'static str) {
        let pool = self.clone();
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return self.close(server, reason) };
        runtime.spawn(async move {
            Pools::cancel(&server.entry).await;
            pool.close(server, reason);
        });
    }

    /// Sees whether a server that was idle for long still answers; then it goes to whoever waits.
    pub(super) fn check(self: &Arc<Self>, mut server: Box<Server>) {
        let pool = self.clone();
        let (query, timeout) = {
            let state = pool.lock();
            (state.params.check_query.clone().unwrap_or_default(), state.target.timeout)
        };
        tokio::spawn(async move {
            match tokio::time::timeout(timeout, server.run(&query)).await {
                Ok(Ok(done)) if done.error.is_none() => {
                    server.entry.used.store(false, Ordering::Relaxed);
                    pool.give(server);
                }
                _ => pool.close(server, "test query failed"),
            }
        });
    }
}
