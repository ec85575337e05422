//! SHOW commands about the process as a whole.

use std::collections::BTreeSet;
use std::mem::size_of;
use std::net::SocketAddr;

use crate::app::App;
use crate::config::CONSOLE;
use crate::config::Config;
use crate::console::VERSION;
use crate::console::answer::{Row, row};
use crate::dns::HostView;
use crate::pool::Server;
use crate::registry::{ClientEntry, ServerEntry};
use crate::suspend;

pub fn version(_: &App) -> Vec<Row> {
    vec![row![VERSION]]
}

pub fn state(app: &App) -> Vec<Row> {
    let paused = app.pools.is_paused();
    let suspended = suspend::is_suspended(app);
    [("active", !paused && !suspended), ("paused", paused), ("suspended", suspended)]
        .into_iter()
        .map(|(key, value)| row![key, yes_no(value)])
        .collect()
}

pub fn config(app: &App) -> Vec<Row> {
    let rows = app.config().show();
    rows.into_iter()
        .map(|setting| row![setting.key, setting.value, setting.default, yes_no(setting.changeable)])
        .collect()
}

fn yes_no(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

pub fn lists(app: &App) -> Vec<Row> {
    let config = app.config();
    let clients = app.registry.client_count();
    let dns = app.pools.dns.counts();
    let items = [
        ("databases", app.database_names().len() + 1),
        ("users", user_names(&config).len()),
        ("peers", config.peers.len()),
        ("pools", app.pools.all().len() + 1),
        ("peer_pools", app.peers.views().len()),
        ("free_clients", 0),
        ("used_clients", clients),
        ("login_clients", app.registry.sockets().saturating_sub(clients)),
        ("free_servers", 0),
        ("used_servers", app.pools.server_count(None)),
        ("dns_names", dns.names),
        ("dns_zones", dns.zones),
        ("dns_queries", dns.queries as usize),
        ("dns_pending", dns.pending as usize),
    ];
    items.into_iter().map(|(list, items)| row![list, items]).collect()
}

/// Everybody whom the configuration names, and the console's own user.
pub fn user_names(config: &Config) -> BTreeSet<String> {
    let entries = config.databases.values().chain(&config.autodb);
    let forced = entries.filter_map(|database| database.user.clone());
    let named = config.secrets.keys().chain(config.users.keys()).cloned();
    named.chain(forced).chain([CONSOLE.to_owned()]).collect()
}

/// The sizes are those of the fixed parts; buffers come and go with the traffic.
pub fn mem(app: &App) -> Vec<Row> {
    let objects = [
        ("client_cache", size_of::<ClientEntry>(), app.registry.client_count()),
        ("server_cache", size_of::<ServerEntry>() + size_of::<Server>(), app.registry.servers().len()),
        ("pool_cache", size_of::<crate::pool::Pool>(), app.pools.all().len()),
    ];
    objects.into_iter().map(|(name, size, used)| row![name, size, used, 0_u32, size * used]).collect()
}

pub fn peers(app: &App) -> Vec<Row> {
    let config = app.config();
    config.peers.values().map(|peer| row![peer.id, &*peer.host, peer.port, config.peer_pool_size(peer)]).collect()
}

/// Peers that a cancel request went to.
pub fn peer_pools(app: &App) -> Vec<Row> {
    let views = app.peers.views().into_iter();
    views.map(|peer| row![peer.id, peer.active, peer.waiting, peer.active, peer.connecting]).collect()
}

/// The addresses are written as PgBouncer does, with a port of 0.
pub fn dns_hosts(app: &App) -> Vec<Row> {
    let row = |host: HostView| {
        let addresses = host.addresses.into_iter().map(|address| SocketAddr::new(address, 0).to_string());
        row![host.name, host.ttl.as_secs(), addresses.collect::<Vec<_>>().join(",")]
    };
    app.pools.dns.hosts().into_iter().map(row).collect()
}

pub fn dns_zones(app: &App) -> Vec<Row> {
    app.pools.dns.zones().into_iter().map(|zone| row![zone.name, zone.serial, zone.count]).collect()
}
