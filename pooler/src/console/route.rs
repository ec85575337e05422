//! EXPLAIN ROUTE: where a statement would go, and why.

use std::sync::Arc;

use sluice_router::SearchPath;
use sluice_router::explain;
use sluice_wire::message::{Column, Report};

use super::answer::{Answer, row, text};
use crate::app::App;
use crate::catalogs::ShardedDatabase;

pub const COLUMNS: &[Column] = &[text("property"), text("value")];

/// Explains `sql` by the shard map in force and the default search_path.
pub fn explain(app: &App, database: Option<&str>, sql: &str) -> Result<Answer, Report> {
    let (_, sharded) = sharded_database(app, database, "EXPLAIN ROUTE FOR <db> <statement>")?;
    let rows = explain::explain(&app.shared.router, &sharded.watcher.map(), sql, SearchPath::default());
    let rows = rows.into_iter().map(|(property, value)| row![property, value]).collect();
    Ok(Answer::Rows { tag: "EXPLAIN", rows })
}

/// The named sharded database, or the only one there is. `usage` says how to name it.
pub fn sharded_database(app: &App, name: Option<&str>, usage: &str) -> Result<(String, Arc<ShardedDatabase>), Report> {
    if let Some(name) = name {
        let missing = || match app.config().database(name) {
            Some(_) => {
                Report::error("42809", format!("database \"{name}\" is not sharded")).hint("its entry has no catalog")
            }
            None => Report::error("3D000", format!("no such database: {name}")).hint("SHOW DATABASES lists them"),
        };
        return app.shared.catalogs.get(name).map(|database| (name.to_owned(), database)).ok_or_else(missing);
    }
    let mut all = app.shared.catalogs.all();
    match all.len() {
        1 => Ok(all.remove(0)),
        0 => {
            Err(Report::error("55000", "no database is sharded")
                .hint("an entry with catalog= in [databases] makes one"))
        }
        _ => {
            let names: Vec<_> = all.into_iter().map(|(name, _)| name).collect();
            let text = format!("there are several sharded databases: {}", names.join(", "));
            Err(Report::error("42712", text).hint(format!("name one: {usage}")))
        }
    }
}
