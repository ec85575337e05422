//! What a sharded database is made of: SHOW SHARDS, MAP, TABLES, FUNCTIONS and RECOVERY.

use std::sync::Arc;

use sluice_catalog::snapshot::{function_class_name, table_class_name};
use sluice_catalog::watch::Source;
use sluice_router::map::Table;
use sluice_router::{ShardId, ShardMap};

use super::time;
use crate::app::App;
use crate::catalogs::ShardedDatabase;
use crate::console::answer::{Row, row};
use crate::pool::PoolView;

/// The rows of all sharded databases, by the names of their entries.
fn of_all(app: &App, rows: impl Fn(&str, &ShardedDatabase) -> Vec<Row>) -> Vec<Row> {
    app.shared.catalogs.all().iter().flat_map(|(name, database)| rows(name, database)).collect()
}

pub fn shards(app: &App) -> Vec<Row> {
    let views = app.pools.views();
    of_all(app, |name, database| {
        let map = database.watcher.map();
        map.shard_ids().map(|shard| shard_row(name, &map, shard, &views)).collect()
    })
}

fn shard_row(database: &str, map: &ShardMap, shard: ShardId, views: &[PoolView]) -> Row {
    let placement = map.placement(shard);
    let own: Vec<&PoolView> = views
        .iter()
        .filter(|view| &*view.key.database == database && view.key.shard.map(usize::from) == Some(shard.index()))
        .collect();
    let sum = |count: fn(&PoolView) -> usize| own.iter().map(|view| count(view)).sum::<usize>();
    let last_error = own.iter().find_map(|view| view.failure.clone());
    let open = sum(|view| view.leased + view.idle + view.used);
    let status = match (open, &last_error) {
        (1.., _) => "up",
        (0, Some(_)) => "down",
        (0, None) => "unused",
    };
    row![
        database,
        shard.index(),
        &*placement.node,
        &*placement.host,
        placement.port,
        &*placement.dbname,
        map.slots().iter().filter(|slot| **slot == shard).count(),
        map.overrides().filter(|(_, place)| *place == shard).count(),
        sum(|view| view.waiting),
        sum(|view| view.leased),
        sum(|view| view.idle + view.used),
        sum(|view| view.connecting),
        status,
        last_error,
    ]
}

/// One row for each range of slots, then one for each override; the latter have a key.
pub fn map(app: &App) -> Vec<Row> {
    of_all(app, |name, database| {
        let (map, status) = (database.watcher.map(), database.watcher.status());
        let source = match status.source {
            Source::Catalog => "catalog",
            Source::Disk => "disk",
        };
        let confirmed_at = status.confirmed_at.map(time);
        let row = |slots: (usize, usize), key: Option<String>, shard: ShardId| {
            row![
                name,
                map.version(),
                source,
                confirmed_at.clone(),
                status.catalog_error.clone(),
                status.disk_error.clone(),
                slots.0,
                slots.1,
                key,
                shard.index(),
            ]
        };
        let ranges = slot_ranges(&map).into_iter().map(|(from, to, shard)| row((from, to), None, shard));
        let overrides = map.overrides().map(|(key, shard)| {
            let slot = usize::from(key.as_key().slot());
            row((slot, slot), Some(key.to_string()), shard)
        });
        ranges.chain(overrides).collect()
    })
}

fn slot_ranges(map: &ShardMap) -> Vec<(usize, usize, ShardId)> {
    let mut ranges: Vec<(usize, usize, ShardId)> = Vec::new();
    for (slot, shard) in map.slots().iter().enumerate() {
        match ranges.last_mut() {
            Some((_, to, last)) if last == shard => *to = slot,
            _ => ranges.push((slot, slot, *shard)),
        }
    }
    ranges
}

/// A named thing of a schema, with the words that are shown of it.
type Named<'a> = (&'a (String, String), Vec<String>);

fn sorted_rows(database: &str, mut named: Vec<Named<'_>>) -> Vec<Row> {
    named.sort();
    let row = |((schema, name), words): Named<'_>| {
        let mut row = row![database, &**schema, &**name];
        row.extend(words.into_iter().map(Into::into));
        row
    };
    named.into_iter().map(row).collect()
}

pub fn tables(app: &App) -> Vec<Row> {
    of_all(app, |name, database| {
        let schema = Arc::clone(database.watcher.map().schema());
        let tables = schema.sharding.iter().flat_map(|sharding| &sharding.tables);
        let named = tables.map(|(table, what)| (table, vec![shown_class(what), what.columns.join(", ")]));
        sorted_rows(name, named.collect())
    })
}

fn shown_class(table: &Table) -> String {
    let class = table_class_name(table.class);
    if table.is_declared() { format!("{class} (declared)") } else { class.to_owned() }
}

pub fn functions(app: &App) -> Vec<Row> {
    of_all(app, |name, database| {
        let schema = Arc::clone(database.watcher.map().schema());
        let functions = schema.sharding.iter().flat_map(|sharding| &sharding.functions);
        let named = functions.map(|(function, class)| (function, vec![function_class_name(*class).to_owned()]));
        sorted_rows(name, named.collect())
    })
}

/// What the last round of recovery did, and what it could not do.
pub fn recovery(app: &App) -> Vec<Row> {
    of_all(app, |name, database| {
        let report = database.recovery.reports().borrow().clone();
        let counts =
            [("committed", report.committed), ("rolled back", report.rolled_back), ("forgotten", report.forgotten)];
        let counted = |(outcome, count)| row![name, outcome, count, None::<&str>, None::<u32>, None::<&str>];
        let mut rows: Vec<Row> = counts.into_iter().map(counted).collect();
        rows.extend(
            report.in_doubt.into_iter().map(|(gid, reason)| row![name, "in doubt", 1_u32, gid, None::<u32>, reason]),
        );
        let unreachable =
            |(shard, reason): (ShardId, String)| row![name, "unreachable", 1_u32, None::<&str>, shard.index(), reason];
        rows.extend(report.unreachable.into_iter().map(unreachable));
        rows
    })
}
