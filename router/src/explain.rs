//! The routing decision in words, for `EXPLAIN ROUTE`: the same template and the same keys that an execution would use.

use crate::cache::{Router, SearchPath};
use crate::key::OwnedKey;
use crate::lexer::{Literal, statement_spans};
use crate::map::{ShardId, ShardMap};
use crate::plan::{Execution, NoParameters, Target, describe, plan};
use crate::template::{Access, Action, KeySource, Refusal, Residue, Route, SetAction, Statement, Template};

/// Keys that are written out; of more, only the number.
const MOST_KEYS: usize = 10;

/// Explains each statement of `sql` by rows of (property, value). Several statements follow one another; each begins with
/// its `statement` row.
pub fn explain(router: &Router, map: &ShardMap, sql: &str, path: SearchPath) -> Vec<(String, String)> {
    router.template(map.schema(), path, true, sql.as_bytes(), |template, literals, separators| {
        let mut rows = Rows(Vec::new());
        for (statement, text) in template.statements.iter().zip(texts(template, sql, separators)) {
            rows.add("statement", text.trim_end());
            rows.statement(map, statement, sql, literals);
        }
        rows.0
    })
}

/// Each statement's text; all of it for each if the grammar and the lexer count differently.
fn texts<'a>(template: &Template, sql: &'a str, separators: &'a [u32]) -> Vec<&'a str> {
    if template.spans_agree {
        statement_spans(sql.as_bytes(), separators).filter_map(|span| sql.get(span)).collect()
    } else {
        vec![sql; template.statements.len()]
    }
}

struct Rows(Vec<(String, String)>);

impl Rows {
    fn add(&mut self, property: &str, value: impl Into<String>) {
        self.0.push((property.into(), value.into()));
    }

    fn statement(&mut self, map: &ShardMap, statement: &Statement, sql: &str, literals: &[Literal]) {
        let execution = Execution { map, sql: sql.as_bytes(), literals, parameters: &NoParameters };
        let unbound = unbound_keys(&statement.route);
        if let Some(sources) = &unbound {
            self.add("class", "single-shard");
            self.add("key", sources);
            self.add("shard", "decided by the parameters of each execution");
        } else {
            match plan(map, statement, sql.as_bytes(), literals, &NoParameters) {
                Ok(target) => self.target(map, target, &statement.route, &execution),
                Err(refusal) => self.refusal(&refusal),
            }
        }
        self.add("access", if statement.access == Access::Read { "read" } else { "write" });
        self.add("session effect", session_effect(statement));
        self.add("reason", reason(&statement.route));
    }

    fn target(&mut self, map: &ShardMap, target: Target, route: &Route, execution: &Execution<'_>) {
        let class = match target {
            Target::Shard(_) => "single-shard",
            Target::Any => "any shard",
            Target::Home => "home",
            Target::AllShards => "all shards",
            Target::Cursor => "the cursor's shard",
            Target::CopyRows(_) => "each row's shard",
        };
        self.add("class", class);
        if let Route::Keyed(sources) = route {
            self.keys(sources, execution);
        }
        match target {
            Target::Shard(shard) => self.shard(map, shard),
            Target::Home => self.shard(map, map.home()),
            Target::Any | Target::AllShards | Target::Cursor | Target::CopyRows(_) => {}
        }
    }

    fn shard(&mut self, map: &ShardMap, shard: ShardId) {
        let placement = map.placement(shard);
        self.add("shard", shard.to_string());
        self.add("placement", format!("{}:{}/{}", placement.host, placement.port, placement.dbname));
    }

    /// The key values, or where they will come from.
    fn keys(&mut self, sources: &[KeySource], execution: &Execution<'_>) {
        let mut keys: Vec<OwnedKey> = Vec::new();
        let read = execution.each_key(sources, &mut |key| {
            let key = key.to_owned_key();
            if !keys.contains(&key) {
                keys.push(key);
            }
        });
        if read.is_err() {
            let places: Vec<_> = sources.iter().map(describe).collect();
            self.add("key", abbreviated(&places));
            return;
        }
        let values: Vec<_> = keys.iter().map(ToString::to_string).collect();
        let mut slots: Vec<_> = keys.iter().map(|key| key.as_key().slot()).collect();
        slots.dedup();
        let slots: Vec<_> = slots.iter().map(ToString::to_string).collect();
        self.add("key", if values.is_empty() { "none (only NULL)".into() } else { abbreviated(&values) });
        if !slots.is_empty() {
            self.add("slot", abbreviated(&slots));
        }
    }

    fn refusal(&mut self, refusal: &Refusal) {
        self.add("class", "refused");
        self.add("error", format!("{}: {}", refusal.sqlstate, refusal.message));
        self.add("detail", &*refusal.detail);
        self.add("hint", &*refusal.hint);
    }
}

/// The key's places, if some of them are parameters: they have no values here.
fn unbound_keys(route: &Route) -> Option<String> {
    let Route::Keyed(sources) = route else { return None };
    let is_parameter =
        |source: &KeySource| matches!(source, KeySource::Parameter { .. } | KeySource::ParameterArray { .. });
    let places: Vec<_> = sources.iter().map(describe).collect();
    sources.iter().any(is_parameter).then(|| abbreviated(&places))
}

fn abbreviated(values: &[String]) -> String {
    let shown = values.iter().take(MOST_KEYS).map(String::as_str).collect::<Vec<_>>().join(", ");
    match values.len().saturating_sub(MOST_KEYS) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn reason(route: &Route) -> &'static str {
    match route {
        Route::Any => "it reads no table, or reference tables only: every shard gives the same answer",
        Route::Home => "what it uses is on the home shard only, or the database is not sharded",
        Route::Keyed(sources) if matches!(**sources, [KeySource::CopyColumn { .. }]) => {
            "each row of the data names its key"
        }
        Route::Keyed(_) => "every sharded table in it is restricted to the keys above",
        Route::AllShards => "it changes what all shards hold alike: one atomic commit on all of them",
        Route::Cursor(_) => "it follows the shard on which the cursor was declared",
        Route::Refused(_) => "it is not proven to be right on one shard, and is never sent to all",
    }
}

fn session_effect(statement: &Statement) -> String {
    let mut effects = Vec::new();
    effects.extend(action_effect(&statement.action));
    let Residue { pins, may_unpin, opaque } = statement.residue;
    if pins {
        effects.push("keeps its server until the session ends or what it left there is gone".into());
    }
    if may_unpin {
        effects.push("may free the session's server".into());
    }
    if opaque {
        effects.push("runs code that is not seen into: its server is reset before another session gets it".into());
    }
    if statement.outside_transaction {
        effects.push("cannot run inside a transaction block".into());
    }
    if effects.is_empty() { "none".into() } else { effects.join("; ") }
}

fn action_effect(action: &Action) -> Option<String> {
    Some(match action {
        Action::None
        | Action::CopyIn
        | Action::CopyOut
        | Action::Notify
        | Action::ShowPrepared
        | Action::ShowChannels => return None,
        Action::Begin => "opens a transaction block; no server is taken before the first statement".into(),
        Action::Commit { .. } | Action::Rollback { .. } => "ends the transaction block".into(),
        Action::Savepoint(name) => format!("sets savepoint \"{name}\""),
        Action::Release(name) => format!("releases savepoint \"{name}\""),
        Action::RollbackTo(name) => format!("rolls back to savepoint \"{name}\""),
        Action::TwoPhase => "two-phase commit by the client".into(),
        Action::Set(SetAction { name, local: false, .. }) => format!("changes the session's \"{name}\""),
        Action::Set(SetAction { name, local: true, .. }) => format!("changes the transaction's \"{name}\""),
        Action::DiscardAll | Action::DiscardOther => "discards session state".into(),
        Action::Listen(channel) => format!("listens on channel \"{channel}\""),
        Action::Unlisten(Some(channel)) => format!("stops listening on channel \"{channel}\""),
        Action::Unlisten(None) => "stops listening".into(),
        Action::Prepare { name, .. } => format!("prepares statement \"{name}\""),
        Action::Execute(name) => format!("executes prepared statement \"{name}\""),
        Action::Deallocate(Some(name)) => format!("deallocates prepared statement \"{name}\""),
        Action::Deallocate(None) => "deallocates all prepared statements".into(),
        Action::DeclareCursor { name, .. } => format!("declares cursor \"{name}\""),
        Action::CloseCursor(Some(name)) => format!("closes cursor \"{name}\""),
        Action::CloseCursor(None) => "closes all cursors".into(),
        Action::Ddl(_) => "changes the schema".into(),
    })
}

#[cfg(test)]
#[path = "explain_tests.rs"]
mod tests;
