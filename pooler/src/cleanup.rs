//! What the janitor prepares and clears away: servers that are wanted before the first client, pools that nobody uses, entries made from `*` that nobody uses, and servers that session
//! clients and replication clients would keep for too long.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sluice_wire::startup::Replication;

use crate::app::App;
use crate::config::{Config, PoolMode};
use crate::lock::lock;
use crate::registry::Eviction;
use crate::upstream::Upstream;

type Upstreams = HashMap<(String, String), Arc<Upstream>>;

/// Three times a second.
pub fn clean_up(app: &Arc<App>) {
    let config = app.config();
    fill_pools(app, &config);
    close_fast(app, &config);
    // An entry's removal takes its pools along.
    for database in unused_autodbs(app, &config) {
        app.remove_database(&database);
    }
    forget_pools(app, &config);
}

/// A replication client whose server is to be closed leaves with it at once; with `server_fast_close`, a session client
/// between two transactions.
fn close_fast(app: &App, config: &Config) {
    for server in app.registry.servers().iter().filter(|server| server.close_needed.load(Ordering::Relaxed)) {
        let Some(client) = app.registry.client(server.client.load(Ordering::Relaxed)) else { continue };
        if client.replication() != Replication::None {
            client.evict(Eviction::Reconfigured);
            continue;
        }
        let in_session = config.database(client.database()).is_some_and(|database| {
            let user = database.user.as_deref().unwrap_or(client.user());
            config.pool_mode(&database, user) == PoolMode::Session
        });
        if config.settings.server_fast_close && in_session && client.eviction_at_rest().is_none() {
            client.evict(Eviction::Reconfigured);
        }
    }
}

/// Entries with a forced user and a `min_pool_size` have their servers before the first client comes. A database whose shards
/// are not known has none.
fn fill_pools(app: &Arc<App>, config: &Config) {
    for database in config.databases.values() {
        if let Some(user) = &database.user
            && config.min_pool_size(database) > 0
            && let Err(report) = app.upstream(config, database, user)
        {
            tracing::debug!("no pool for user {user} on db {}: {}", database.name, report.message);
        }
    }
}

/// `autodb_idle_timeout`.
fn unused_autodbs(app: &App, config: &Config) -> Vec<String> {
    let timeout = config.settings.autodb_idle_timeout;
    if timeout.is_zero() {
        return Vec::new();
    }
    let upstreams = lock(&app.upstreams);
    let mut unused = BTreeMap::new();
    for ((database, _), upstream) in upstreams.iter().filter(|((name, _), _)| !config.databases.contains_key(name)) {
        *unused.entry(database).or_insert(true) &= is_unused(upstream, timeout);
    }
    unused.into_iter().filter(|(_, unused)| *unused).map(|(database, _)| database.clone()).collect()
}

/// `pool_idle_timeout`.
fn forget_pools(app: &App, config: &Config) {
    let timeout = config.settings.pool_idle_timeout;
    if timeout.is_zero() {
        return;
    }
    let mut upstreams = lock(&app.upstreams);
    let unused = |upstreams: &Upstreams| -> Vec<_> {
        let unused = upstreams.iter().filter(|((name, _), upstream)| {
            // A pool of a forced user is filled without any client.
            let is_kept = config
                .database(name)
                .is_some_and(|database| database.user.is_some() && config.min_pool_size(&database) > 0);
            !is_kept && is_unused(upstream, timeout)
        });
        unused.map(|(key, _)| key.clone()).collect()
    };
    for key in unused(&upstreams) {
        let Some(upstream) = upstreams.remove(&key) else { continue };
        let (database, user) = &key;
        let age = upstream.pools().iter().filter_map(|pool| pool.unused_for()).min().unwrap_or_default().as_secs();
        tracing::info!(
            "cleaning up idle pool for user {user} on db {database} because: pool idle timeout (age= {age}s)"
        );
        upstream.pools().iter().for_each(|pool| app.pools.forget(pool));
    }
}

/// Neither clients nor servers for so long; nor is a login under way, which would hold the upstream.
fn is_unused(upstream: &Arc<Upstream>, timeout: Duration) -> bool {
    let unused = |pool: &Arc<crate::pool::Pool>| pool.unused_for().is_some_and(|since| since >= timeout);
    Arc::strong_count(upstream) == 1 && upstream.pools().iter().all(unused)
}
