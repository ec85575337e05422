//! The one place that knows everything and builds it: configuration in, a running pooler out.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use sluice_catalog::CatalogError;
use sluice_router::Router;
use sluice_router::map::Placement;
use sluice_wire::message::Report;
use sluice_wire::startup::Replication;
use tokio::sync::{Notify, watch};

use crate::averages::ConsoleStats;
use crate::catalogs::{Catalogs, ShardedDatabase};
use crate::config::{Config, ConfigError, Database, PoolMode};
use crate::credentials::Credentials;
use crate::dns::Dns;
use crate::lock::lock;
use crate::logging::Log;
use crate::net::tls::{TlsError, TlsSetup};
use crate::net::{Address, Listening, TcpOptions};
use crate::pool::{Hosts, Peers, Pool, PoolKey, PoolParams, Pools, ServerTarget, Sizes};
use crate::quota::{self, DatabaseLimits, Quota, Quotas};
use crate::registry::{ClientState, Eviction, Registry};
use crate::session::prepared::StatementTable;
use crate::session::{Limits, Shared};
use crate::upstream::{Upstream, unsharded_map};
use crate::vars::VarsTable;

/// Timeouts are checked, and pools tended, three times a second.
pub(crate) const TICK: Duration = Duration::from_millis(333);

/// A timeout of 0.
pub(crate) const FOREVER: Duration = Duration::from_secs(86_400);

/// Why the pooler could not start.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error("cannot load config file: {0}")]
    Config(#[from] ConfigError),
    #[error("database \"{database}\": {source}")]
    Catalog { database: String, source: CatalogError },
    #[error("cannot use resolv_conf {}: {source}", path.display())]
    ResolvConf { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// How to shut down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ShutdownMode {
    /// SIGTERM, SHUTDOWN WAIT_FOR_CLIENTS.
    WaitForClients,
    /// SHUTDOWN WAIT_FOR_TRANSACTIONS, and what a process does that is replaced (`-R`).
    WaitForTransactions,
    /// SIGINT, SHUTDOWN WAIT_FOR_SERVERS.
    WaitForServers,
    /// SIGQUIT, SHUTDOWN.
    Immediate,
}

/// A running pooler.
pub struct App {
    config: RwLock<Arc<Config>>,
    tls: RwLock<TlsSetup>,
    pub registry: Arc<Registry>,
    pub pools: Arc<Pools>,
    pub peers: Peers,
    pub shared: Arc<Shared>,
    quotas: Quotas,
    pub console: ConsoleStats,
    pub credentials: Credentials,
    pub(crate) upstreams: Mutex<HashMap<(String, String), Arc<Upstream>>>,
    disabled: Mutex<HashSet<String>>,
    /// Equal limits are one value: most clients share theirs.
    limits: Mutex<Vec<Weak<Limits>>>,
    pub(crate) shutdown: watch::Sender<Option<ShutdownMode>>,
    shutting_down: AtomicBool,
    handed_over: AtomicBool,
    pub(crate) suspended: watch::Sender<bool>,
    listening: Mutex<Vec<Weak<Listening>>>,
    changed: Notify,
    pub started: Instant,
    log: OnceLock<Log>,
}

/// Loads nothing and listens on nothing: an app around a configuration, its catalogs started.
pub async fn build(config: Config) -> Result<Arc<App>, AppError> {
    let tls = TlsSetup::load(&config)?;
    build_with(config, tls).await
}

/// As [`build`], with a TLS set-up that was loaded before (as a user that may read its files).
pub async fn build_with(config: Config, tls: TlsSetup) -> Result<Arc<App>, AppError> {
    let registry = Arc::new(Registry::default());
    let vars = Arc::new(VarsTable::default());
    let dns = Dns::new(&config.settings, registry.clone())
        .map_err(|source| AppError::ResolvConf { path: config.settings.resolv_conf.clone(), source })?;
    let pools = Pools::new(registry.clone(), vars.clone(), Arc::new(dns));
    pools.set_logging(config.settings.log_connections, config.settings.log_disconnections);
    let shared = Shared {
        router: Router::new(config.settings.template_cache_size as usize),
        vars,
        statements: StatementTable::default(),
        catalogs: Catalogs::default(),
    };
    let app = Arc::new(App {
        config: RwLock::new(Arc::new(config)),
        tls: RwLock::new(tls),
        registry,
        pools,
        quotas: Quotas::default(),
        peers: Peers::default(),
        shared: Arc::new(shared),
        console: ConsoleStats::default(),
        credentials: Credentials::default(),
        upstreams: Mutex::default(),
        disabled: Mutex::default(),
        limits: Mutex::default(),
        shutdown: watch::Sender::new(None),
        shutting_down: AtomicBool::new(false),
        handed_over: AtomicBool::new(false),
        suspended: watch::Sender::new(false),
        listening: Mutex::default(),
        changed: Notify::new(),
        started: Instant::now(),
        log: OnceLock::new(),
    });
    app.start_catalogs().await?;
    Ok(app)
}

pub fn own_uid() -> u32 {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").expect("/proc is mounted"))
}

impl App {
    pub fn config(&self) -> Arc<Config> {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What new connections use.
    pub fn tls(&self) -> TlsSetup {
        self.tls.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn is_disabled(&self, database: &str) -> bool {
        lock(&self.disabled).contains(database)
    }

    pub fn set_disabled(&self, database: &str, disabled: bool) {
        if disabled {
            lock(&self.disabled).insert(database.to_owned());
        } else {
            lock(&self.disabled).remove(database);
        }
    }

    pub fn is_shutting_down(&self) -> bool {
        self.shutting_down.load(Ordering::Relaxed)
    }

    /// From now on RELOAD and SET change this log, too.
    pub fn follow_log_settings(&self, log: Log) {
        // A process has one log.
        let _ = self.log.set(log);
    }

    fn reopen_log(&self, config: &Config) {
        let Some(log) = self.log.get() else { return };
        if let Err(error) = log.reopen(&config.settings) {
            let path = config.settings.logfile.display();
            tracing::error!("could not open logfile {path}: {error}; the old one stays in use");
        }
    }

    /// A database or a limit has changed: whoever waits for it looks again.
    pub fn changed(&self) -> &Notify {
        &self.changed
    }

    async fn start_catalogs(&self) -> Result<(), AppError> {
        let config = self.config();
        for database in config.databases.values() {
            self.start_catalog(&config, database).await?;
        }
        Ok(())
    }

    async fn start_catalog(&self, config: &Config, database: &Database) -> Result<(), AppError> {
        let Some(catalog) = &database.catalog else { return Ok(()) };
        if self.shared.catalogs.get(&database.name).is_some() {
            return Ok(());
        }
        let state_dir = Some(config.settings.state_dir.clone()).filter(|path| !path.as_os_str().is_empty());
        let started = ShardedDatabase::start(&database.dbname, catalog, state_dir).await;
        let sharded = started.map_err(|source| AppError::Catalog { database: database.name.clone(), source })?;
        self.shared.catalogs.insert(&database.name, sharded);
        Ok(())
    }

    /// The one [`Limits`] with these values.
    pub fn limits(&self, limits: Limits) -> Arc<Limits> {
        let mut known = lock(&self.limits);
        known.retain(|limits| limits.strong_count() > 0);
        if let Some(same) = known.iter().filter_map(Weak::upgrade).find(|same| **same == limits) {
            return same;
        }
        let limits = Arc::new(limits);
        known.push(Arc::downgrade(&limits));
        limits
    }

    /// Pools and map for a login user of a database entry. Their next servers are logged in to with what is known now of
    /// their user.
    pub fn upstream(
        self: &Arc<Self>,
        config: &Config,
        database: &Database,
        login_user: &str,
    ) -> Result<Arc<Upstream>, Report> {
        let user = database.user.as_deref().unwrap_or(login_user);
        let upstream = self.upstream_as(config, database, user)?;
        let secret = self.credentials.server_secret(config, database, user);
        upstream.pools().iter().for_each(|pool| pool.set_secret(&secret));
        Ok(upstream)
    }

    /// Pools and map for a server-side user of a database entry.
    pub fn upstream_as(
        self: &Arc<Self>,
        config: &Config,
        database: &Database,
        user: &str,
    ) -> Result<Arc<Upstream>, Report> {
        let mode = config.pool_mode(database, user);
        if database.is_sharded() && mode == PoolMode::Session {
            return Err(Report::fatal(
                "0A000",
                format!("database \"{}\" is sharded and cannot be pooled by session", database.name),
            )
            .hint(format!("give user \"{user}\" another pool_mode in section [users]")));
        }
        let key = (database.name.clone(), user.to_owned());
        let maps = self.maps(config, database)?;
        let shards = maps.borrow().shards().len();
        let mut upstreams = lock(&self.upstreams);
        if let Some(upstream) = upstreams.get(&key)
            && upstream.pools().len() == shards
        {
            return Ok(upstream.clone());
        }
        let name: Arc<str> = database.name.as_str().into();
        let user: Arc<str> = user.into();
        let map = maps.borrow().clone();
        let sharded = database.is_sharded();
        let pools = map.shards().iter().enumerate().map(|(number, placement)| {
            let shard = sharded.then_some(number as u16);
            let pool_key = PoolKey { database: name.clone(), user: user.clone(), shard };
            self.pools.pool(&pool_key, || {
                (
                    Arc::new(pool_params(config, database, &user)),
                    Arc::new(self.target(config, database, &user, placement)),
                )
            })
        });
        let pools: Box<[Arc<Pool>]> = pools.collect();
        let quota = self.quotas.of(&name, &user);
        set_limits(&quota, config, database, &user);
        let upstream = Arc::new(Upstream::new((name, user), mode, pools, maps, quota));
        upstreams.insert(key, upstream.clone());
        Ok(upstream)
    }

    fn maps(
        &self,
        config: &Config,
        database: &Database,
    ) -> Result<watch::Receiver<Arc<sluice_router::ShardMap>>, Report> {
        if database.is_sharded() {
            let sharded = self.shared.catalogs.get(&database.name);
            return sharded.map(|sharded| sharded.watcher.subscribe()).ok_or_else(|| {
                Report::fatal("57P03", format!("the shard map of database \"{}\" is not loaded", database.name))
                    .hint("see the log for why its catalog could not be read")
            });
        }
        Ok(watch::channel(unsharded_map(first_host(config, database))).1)
    }

    fn target(&self, config: &Config, database: &Database, user: &str, placement: &Placement) -> ServerTarget {
        let startup = [
            ("client_encoding", &database.client_encoding),
            ("datestyle", &database.datestyle),
            ("timezone", &database.timezone),
            ("application_name", &database.application_name),
        ];
        let startup = startup.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?)));
        let timeout = config.settings.server_connect_timeout;
        ServerTarget {
            hosts: Arc::new(hosts(database, placement)),
            dbname: placement.dbname.clone(),
            user: user.to_owned(),
            secret: self.credentials.server_secret(config, database, user),
            startup: startup.collect(),
            replication: Replication::None,
            connect_query: database.connect_query.clone(),
            timeout: if timeout.is_zero() { FOREVER } else { timeout },
            dns: self.pools.dns.clone(),
            tcp: tcp_options(config),
            tls: self.tls().server(&config.server_tls(database)),
        }
    }

    /// RELOAD: reads the file again; nothing changes if it has a mistake. If TLS can't be set up anew, all else does.
    pub async fn reload(self: &Arc<Self>) -> Result<(), AppError> {
        let config = self.config().reload()?;
        self.put_config(config).await
    }

    /// SET in the console.
    pub async fn set(self: &Arc<Self>, key: &str, value: &str) -> Result<(), AppError> {
        let config = self.config().with_setting(key, value)?;
        let result = self.put_config(config).await;
        // A TLS set-up that was wrong before is not this setting's.
        let is_others = matches!(result, Err(AppError::Tls(_))) && !key.contains("_tls");
        if is_others { Ok(()) } else { result }
    }

    async fn put_config(self: &Arc<Self>, config: Config) -> Result<(), AppError> {
        for database in config.databases.values() {
            self.start_catalog(&config, database).await?;
        }
        let old = {
            let mut current = self.config.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *current, Arc::new(config))
        };
        let config = self.config();
        self.pools.set_logging(config.settings.log_connections, config.settings.log_disconnections);
        self.reopen_log(&config);
        let tls = self.reload_tls(&config);
        for name in old.databases.keys().filter(|name| !config.databases.contains_key(*name) && config.autodb.is_none())
        {
            self.remove_database(name);
        }
        self.update_pools(&config);
        self.peers.keep(&config.peers);
        self.pools.dns.follow(&config.settings);
        self.changed.notify_waiters();
        Ok(tls?)
    }

    fn reload_tls(&self, config: &Config) -> Result<(), TlsError> {
        let new = self.tls().reload(config)?;
        *self.tls.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    pub(crate) fn remove_database(&self, name: &str) {
        tracing::warn!("dropping database '{name}' as it does not exist anymore or inactive auto-database");
        self.drop_connections(name);
        self.shared.catalogs.remove(name);
        self.credentials.forget_database(name);
    }

    /// KILL: like a removal, but the entry stays, and nobody gets a server of it before RESUME.
    pub fn kill_database(&self, name: &str) {
        self.pools.pause(Some(name));
        self.drop_connections(name);
    }

    /// KILL of everything. RESUME, likewise of everything, ends the pause.
    pub fn kill_all(&self) {
        self.pools.pause(None);
        self.database_names().iter().for_each(|name| self.drop_connections(name));
    }

    /// All entries: those that are listed, and those that were made from `*` and are in use.
    pub fn database_names(&self) -> BTreeSet<String> {
        let listed = self.config().databases.keys().cloned().collect::<Vec<_>>();
        let used = self.pools.all().into_iter().map(|pool| pool.key.database.to_string());
        let disabled = lock(&self.disabled).iter().cloned().collect::<Vec<_>>();
        used.chain(self.pools.paused_databases()).chain(listed).chain(disabled).collect()
    }

    fn drop_connections(&self, name: &str) {
        for client in self.registry.clients().iter().filter(|client| client.database() == name) {
            client.evict(Eviction::DatabaseRemoved);
        }
        self.pools.remove_database(name);
        lock(&self.upstreams).retain(|(database, _), _| database != name);
    }

    /// A new shard map may have put a shard elsewhere. `seen` holds the version that each database's pools follow.
    pub(crate) fn follow_maps(&self, seen: &mut HashMap<String, u64>) {
        let mut moved = false;
        for (name, database) in self.shared.catalogs.all() {
            let version = database.watcher.map().version();
            moved |= seen.insert(name, version).is_none_or(|followed| followed != version);
        }
        if moved {
            self.update_pools(&self.config());
        }
    }

    fn update_pools(&self, config: &Config) {
        let mut upstreams = lock(&self.upstreams);
        for ((name, user), upstream) in upstreams.iter() {
            let Some(database) = config.database(name) else { continue };
            set_limits(&upstream.quota, config, &database, user);
            let params = Arc::new(pool_params(config, &database, user));
            let map = upstream.map();
            for (pool, shard) in upstream.pools().iter().zip(map.shard_ids()) {
                let placement =
                    if database.is_sharded() { map.placement(shard).clone() } else { first_host(config, &database) };
                Pools::update(pool, params.clone(), Arc::new(self.target(config, &database, user, &placement)));
            }
        }
        // New sessions get the new pool mode.
        upstreams.retain(|(name, user), upstream| {
            config.database(name).is_some_and(|database| config.pool_mode(&database, user) == upstream.mode)
        });
    }

    pub(crate) fn enforce_timeouts(&self) {
        let config = self.config();
        let clock = &self.registry.clock;
        for client in self.registry.clients() {
            let over = |limit: Option<Duration>, age: Option<Duration>| matches!((limit, age), (Some(limit), Some(age)) if age >= limit);
            let user = client.user();
            let state = client.state();
            if state == ClientState::Waiting {
                client.nudge();
            }
            // As in PgBouncer, a user's own value is for queries that run.
            let in_queue = Some(config.settings.query_timeout).filter(|timeout| !timeout.is_zero());
            if state == ClientState::Waiting && over(in_queue, client.request_age(clock)) {
                client.evict(Eviction::QueryTimeoutInQueue);
            } else if state == ClientState::Active && over(config.query_timeout(user), client.request_age(clock)) {
                client.evict(Eviction::QueryTimeout);
            } else if client.is_in_transaction()
                && over(config.transaction_timeout(user), client.transaction_age(clock))
            {
                client.evict(Eviction::TransactionTimeout);
            } else if client.is_in_transaction()
                && client.request_age(clock).is_none()
                && over(config.idle_transaction_timeout(user), client.quiet_for(clock))
            {
                client.evict(Eviction::IdleTransactionTimeout);
            } else if state == ClientState::Idle
                && !client.is_in_transaction()
                && client.linked_server() == 0
                && over(config.client_idle_timeout(user), client.quiet_for(clock))
            {
                client.evict(Eviction::ClientIdleTimeout);
            }
        }
    }

    /// Begins a shutdown; a second one, or a stricter one, ends it at once.
    pub fn shut_down(&self, mode: ShutdownMode) {
        let again = self.shutting_down.swap(true, Ordering::Relaxed);
        // What is suspended would never finish.
        let mode = if again || *self.suspended.borrow() { ShutdownMode::Immediate } else { mode };
        self.shutdown.send_replace(Some(mode));
    }

    /// The listening sockets, for SHOW FDS. They belong to the listeners.
    pub fn set_listening(&self, sockets: Vec<Weak<Listening>>) {
        *lock(&self.listening) = sockets;
    }

    pub fn listening(&self) -> Vec<Arc<Listening>> {
        lock(&self.listening).iter().filter_map(Weak::upgrade).collect()
    }

    /// Another process has the listening sockets: from now on they, the unix socket's file and the pid file are its.
    pub fn hand_over(&self) {
        self.handed_over.store(true, Ordering::Relaxed);
    }

    pub fn is_handed_over(&self) -> bool {
        self.handed_over.load(Ordering::Relaxed)
    }
}

/// Where an unsharded entry's servers are; of several hosts, the first.
fn first_host(config: &Config, database: &Database) -> Placement {
    let host = database.hosts().next().map(str::to_owned);
    let host = host.unwrap_or_else(|| config.settings.unix_socket_dir.to_string_lossy().into_owned());
    Placement { node: database.name.clone(), host, port: database.port, dbname: database.dbname.clone() }
}

/// `placement`, and the other hosts of an unsharded entry.
fn hosts(database: &Database, placement: &Placement) -> Hosts {
    let address = |host: &str| Address::new(host, placement.port);
    let others = if database.is_sharded() { Vec::new() } else { database.hosts().skip(1).map(address).collect() };
    Hosts::new(address(&placement.host), others, database.load_balance_hosts)
}

pub fn tcp_options(config: &Config) -> TcpOptions {
    let settings = &config.settings;
    TcpOptions {
        keepalive: settings.tcp_keepalive,
        keepcnt: settings.tcp_keepcnt,
        keepidle: settings.tcp_keepidle,
        keepintvl: settings.tcp_keepintvl,
        socket_buffer: settings.tcp_socket_buffer as usize,
        user_timeout_ms: settings.tcp_user_timeout,
    }
}

fn set_limits(quota: &Quota, config: &Config, database: &Database, user: &str) {
    let rate = |rate| quota::Limits { rate, ..quota::Limits::default() };
    let tenant = quota::Limits {
        transactions: config.max_tenant_transactions(database),
        rate: config.max_tenant_transaction_rate(database),
    };
    let of_database = DatabaseLimits { database: rate(config.max_db_transaction_rate(database)), tenant };
    quota.set_limits(rate(config.max_user_transaction_rate(user)), of_database);
}

fn pool_params(config: &Config, database: &Database, user: &str) -> PoolParams {
    let settings = &config.settings;
    let check_query = match settings.server_check_query.as_str() {
        "" => None,
        "<empty>" => Some(String::new()),
        query => Some(query.to_owned()),
    };
    let mode = config.pool_mode(database, user);
    PoolParams {
        mode,
        sizes: Sizes {
            size: config.pool_size(database, user),
            min: config.min_pool_size(database),
            reserve: config.reserve_pool_size(database, user),
            reserve_timeout: settings.reserve_pool_timeout,
            round_robin: settings.server_round_robin,
        },
        max_db_connections: config.max_db_connections(database),
        max_user_connections: config.max_user_connections(user),
        idle_timeout: settings.server_idle_timeout,
        lifetime: config.server_lifetime(database),
        login_retry: settings.server_login_retry,
        check_delay: settings.server_check_delay,
        check_query,
        reset_query: settings.server_reset_query.clone(),
        resets_always: mode != PoolMode::Session && settings.server_reset_query_always,
        max_prepared_statements: settings.max_prepared_statements,
        is_filled: database.user.is_some(),
    }
}

/// A settings file that isn't there yet is the commonest mistake at first start.
pub fn load(path: &Path) -> Result<Config, AppError> {
    Ok(Config::load(path)?)
}
