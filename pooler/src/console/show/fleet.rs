//! SHOW DATABASES, POOLS and USERS.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::process::user_names;
use crate::app::App;
use crate::config::CONSOLE;
use crate::config::{Config, Database, PoolMode};
use crate::console::answer::{Row, Value, row};
use crate::pool::{PoolKey, PoolView};

pub fn databases(app: &App) -> Vec<Row> {
    let config = app.config();
    let mut names = app.database_names();
    names.insert(CONSOLE.to_owned());
    let row = |name: String| match config.database(&name) {
        _ if name == CONSOLE => Some(console_database(app)),
        Some(database) => Some(database_row(app, &config, &database)),
        None => None,
    };
    names.into_iter().filter_map(row).collect()
}

fn clients_of(app: &App, database: &str) -> usize {
    app.registry.count_clients(|client| client.database() == database)
}

fn console_database(app: &App) -> Row {
    let config = app.config();
    let (port, nothing) = (config.settings.listen_port, 0_u32);
    row![
        CONSOLE,
        None::<u32>,
        port,
        CONSOLE,
        CONSOLE,
        2_u32,
        nothing,
        nothing,
        config.settings.server_lifetime.as_secs(),
        PoolMode::Statement.name(),
        None::<&str>,
        nothing,
        nothing,
        nothing,
        clients_of(app, CONSOLE),
        false,
        false,
        None::<u32>,
    ]
}

fn database_row(app: &App, config: &Config, database: &Database) -> Row {
    // The sizes of users are theirs alone: the nameless user has none.
    let user = database.user.as_deref().unwrap_or_default();
    let shards = app.shared.catalogs.get(&database.name).map(|sharded| sharded.watcher.map().shards().len());
    row![
        &*database.name,
        database.host.as_deref(),
        shards.is_none().then_some(database.port),
        &*database.dbname,
        database.user.as_deref(),
        config.pool_size(database, user),
        config.min_pool_size(database),
        config.reserve_pool_size(database, user),
        config.server_lifetime(database).as_secs(),
        database.pool_mode.map(PoolMode::name),
        load_balance_hosts(database),
        config.max_db_connections(database),
        app.pools.server_count(Some(&database.name)),
        config.max_db_client_connections(database),
        clients_of(app, &database.name),
        app.pools.is_database_paused(&database.name),
        app.is_disabled(&database.name),
        shards,
    ]
}

/// Says something only where there is more than one host.
fn load_balance_hosts(database: &Database) -> Option<&'static str> {
    (database.hosts().count() > 1).then(|| database.load_balance_hosts.name())
}

/// By database, user and shard.
pub fn pools(app: &App) -> Vec<Row> {
    let config = app.config();
    let cancels = Cancels::count(app);
    let views = app.pools.views();
    let idle = idle_clients(&views);
    let mut rows: Vec<(PoolKey, Row)> =
        views.into_iter().map(|view| (view.key.clone(), pool_row(&config, &view, &cancels, &idle))).collect();
    rows.push(console_pool(app));
    rows.sort_by(|left, right| left.0.cmp(&right.0));
    rows.into_iter().map(|(_, row)| row).collect()
}

fn console_pool(app: &App) -> (PoolKey, Row) {
    let name: Arc<str> = CONSOLE.into();
    let mut row = row![CONSOLE, CONSOLE, clients_of(app, CONSOLE)];
    row.extend(std::iter::repeat_n(Value::Number(0), 12));
    row.extend(row![PoolMode::Statement.name(), None::<&str>, None::<u32>]);
    (PoolKey { database: name.clone(), user: name, shard: None }, row)
}

fn pool_row(config: &Config, view: &PoolView, cancels: &Cancels, idle: &HashMap<(Arc<str>, Arc<str>), usize>) -> Row {
    let database = config.database(&view.key.database);
    let cancels = cancels.of(&view.key);
    // All clients of a sharded database may use any shard. They are counted where their server is; the rest at home.
    let idle_here = match view.key.shard {
        None | Some(0) => idle.get(&(view.key.database.clone(), view.key.user.clone())).copied().unwrap_or(0),
        Some(_) => 0,
    };
    row![
        &*view.key.database,
        &*view.key.user,
        view.leased + idle_here,
        view.waiting,
        cancels.active,
        cancels.waiting,
        view.leased,
        cancels.active,
        cancels.being_canceled,
        view.idle,
        view.used,
        0_u32,
        view.connecting,
        view.maxwait.as_secs(),
        view.maxwait.subsec_micros(),
        view.params.mode.name(),
        database.as_ref().and_then(load_balance_hosts),
        view.key.shard,
    ]
}

/// Clients without a server that wait for none, by database and user.
fn idle_clients(views: &[PoolView]) -> HashMap<(Arc<str>, Arc<str>), usize> {
    let mut counts: HashMap<_, (usize, usize)> = HashMap::new();
    for view in views {
        let (clients, busy) = counts.entry((view.key.database.clone(), view.key.user.clone())).or_default();
        *clients = (*clients).max(view.clients);
        *busy += view.leased + view.waiting;
    }
    counts.into_iter().map(|(key, (clients, busy))| (key, clients.saturating_sub(busy))).collect()
}

/// Cancel requests under way, by pool.
struct Cancels {
    by_pool: HashMap<(String, String, Option<u16>), CancelCounts>,
}

#[derive(Debug, Clone, Copy, Default)]
struct CancelCounts {
    /// Those that are being sent.
    active: u32,
    /// Those that wait until another one for the same server has been sent.
    waiting: u32,
    /// Servers that are kept from other clients until these are through.
    being_canceled: u32,
}

impl Cancels {
    fn count(app: &App) -> Self {
        let mut by_pool: HashMap<_, CancelCounts> = HashMap::new();
        for server in app.registry.servers() {
            let asked = server.cancels.load(Ordering::Relaxed);
            if asked > 0 {
                let key = (server.database.to_string(), server.user.to_string(), server.shard);
                let counts = by_pool.entry(key).or_default();
                let active = u32::from(server.cancel_turn.try_lock().is_err());
                counts.active += active;
                counts.waiting += asked.saturating_sub(active);
                counts.being_canceled += u32::from(server.client.load(Ordering::Relaxed) == 0);
            }
        }
        Self { by_pool }
    }

    fn of(&self, key: &PoolKey) -> CancelCounts {
        self.by_pool.get(&(key.database.to_string(), key.user.to_string(), key.shard)).copied().unwrap_or_default()
    }
}

pub fn users(app: &App) -> Vec<Row> {
    let config = app.config();
    user_names(&config).into_iter().map(|name| user_row(app, &config, &name)).collect()
}

fn user_row(app: &App, config: &Config, name: &str) -> Row {
    let own = config.users.get(name);
    // PgBouncer's form: padded on the left, empty when unset.
    let padded = |size: Option<u32>| size.map_or(String::new(), |size| format!("{size:>12}"));
    let servers = app.registry.servers().iter().filter(|server| &*server.user == name).count();
    let clients = app.registry.count_clients(|client| client.user() == name);
    row![
        name,
        padded(own.and_then(|user| user.pool_size)),
        padded(own.and_then(|user| user.reserve_pool_size)),
        own.and_then(|user| user.pool_mode).map(PoolMode::name),
        config.max_user_connections(name),
        servers,
        config.max_user_client_connections(name),
        clients,
    ]
}
