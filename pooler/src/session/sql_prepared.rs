//! SQL-level PREPARE, EXECUTE and DEALLOCATE on shared servers.
//!
//! The client's statements keep their own names on a server, so that its texts can be sent as they are, and errors point to the
//! right place. Before a request that names statements is sent, [`Session::check_sql_statements`] compares what the names mean to
//! the client with what the server has, and what differs is made equal first: nearly always, nothing does.
//!
//! Not carried are statements whose text might mean something else on another server (`Residue::pins`); they keep the session
//! on its own.

use std::collections::HashMap;
use std::sync::Arc;

use sluice_router::template::Residue;
use sluice_wire::message::{Report, Status};

use super::refuse::lost;
use super::request::Request;
use super::run::Slow;
use super::transaction::Effect;
use super::{Link, Session};
use crate::pool::SqlStatements;
use crate::vars::{Vars, quote_identifier, quote_literal, read_alike, switch_reading};

/// Takes a name, and does nothing else: for a name that the client's protocol-level statement has.
const PLACEHOLDER: &str = "AS SELECT";

/// A statement that the client has prepared with SQL.
#[derive(Debug, Clone)]
pub struct SqlPrepared {
    /// The PREPARE that makes it on any server; `None`: it is on the server that the session keeps.
    pub text: Option<Arc<str>>,
    /// What each EXECUTE leaves.
    pub leaves: Residue,
    /// Plans that are older than this are not the client's.
    stamp: u64,
    /// The settings by which the client's PREPARE was read.
    vars: Arc<Vars>,
}

pub type SqlNames = HashMap<Box<str>, SqlPrepared, foldhash::fast::RandomState>;

/// What brings a server's statements nearer to a client's.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Deallocate(Box<str>),
    Prepare(Box<str>, Arc<str>, Option<Arc<Vars>>),
}

impl Step {
    /// On a server that reads by the settings `now`. One text, so that the settings are back also if it fails.
    fn sql(&self, now: &Arc<Vars>) -> String {
        match self {
            Self::Deallocate(name) => format!("DEALLOCATE {}", quote_identifier(name)),
            Self::Prepare(_, text, Some(vars)) if !read_alike(vars, now) => {
                format!("{};\n{text}\n;{}", switch_reading(now, vars), switch_reading(vars, now))
            }
            Self::Prepare(_, text, _) => text.to_string(),
        }
    }
}

/// The statements that an effect needs, or makes, or drops.
fn named(effect: &Effect) -> Option<&str> {
    match effect {
        Effect::Prepare { name, .. } | Effect::Execute(name) | Effect::Deallocate(name) => Some(name),
        _ => None,
    }
}

fn concerns(effect: &Effect) -> bool {
    named(effect).is_some() || *effect == Effect::ShowPrepared
}

impl Session {
    /// A server that has yet to join the transaction joins before its statements are compared.
    #[cold]
    pub(super) fn check_enlisted(&self, request: &Request) -> Result<(), Slow> {
        let joins = matches!(&self.link, Link::Transaction(transaction) if transaction.participants.is_empty());
        if joins && request.effects.iter().any(concerns) {
            return self.upstream.with_map(|map| Err(Slow::Enlist(self.place(request, map)?)));
        }
        Ok(())
    }

    /// The server has the statements that the request names, and no others under these names.
    #[cold]
    pub(super) fn check_sql_statements(&mut self, request: &Request) -> Result<(), Slow> {
        if !request.effects.iter().any(concerns) || self.status() == Status::Failed {
            return Ok(());
        }
        let steps = self.sql_steps(&request.effects);
        if steps.is_empty() {
            return Ok(());
        }
        if self.open {
            let report = Report::fatal("0A000", "this prepared statement cannot be used inside a pipeline yet");
            return Err(Slow::fail(report.detail("Its server does not have it.").hint("Send Sync before it.")));
        }
        Err(Slow::Statements(steps))
    }

    fn sql_steps(&mut self, effects: &[Effect]) -> Vec<Step> {
        let all = effects.contains(&Effect::ShowPrepared);
        let limit = self.limits.max_prepared_statements;
        let statements = self.statements.get_or_insert_default();
        let Some(server) = self.link.server_mut() else { return Vec::new() };
        let held = server.sql_statements.get_or_insert_default();
        let mut names: Vec<&str> = effects.iter().filter_map(named).collect();
        if all {
            names.extend(statements.sql.keys().map(|name| &**name));
            names.extend(held.names());
        }
        names.sort_unstable();
        names.dedup();
        let mut steps = Vec::new();
        for name in &names {
            let taken = statements.named.contains_key(name.as_bytes());
            difference(name, statements.sql.get(*name), taken, held, &mut steps);
        }
        let more = effects.iter().filter(|effect| matches!(effect, Effect::Prepare { .. })).count()
            + steps.iter().filter(|step| matches!(step, Step::Prepare(..))).count();
        let surplus = held.surplus(more, limit).filter(|name| !names.contains(name));
        let surplus: Vec<_> = surplus.map(|name| Step::Deallocate(name.into())).collect();
        steps.splice(0..0, surplus);
        effects.iter().filter_map(named).for_each(|name| held.touch(name));
        steps
    }

    /// Makes the server's statements those of the client.
    pub(super) async fn sync_sql_statements(&mut self, steps: Vec<Step>) -> Result<(), Report> {
        for step in steps {
            let stamp = self.shared.statements.stamp();
            let (now, is_known) = (self.settings().clone(), !self.reads_otherwise());
            let sql = step.sql(&now);
            let Some(server) = self.server_mut() else { return Ok(()) };
            let done = server.run(&sql).await.map_err(|error| lost(&error))?;
            if let Some(report) = done.failure() {
                return Err(report);
            }
            let held = server.sql_statements.get_or_insert_default();
            match step {
                Step::Deallocate(name) => held.remove(&name),
                Step::Prepare(name, text, vars) => {
                    held.insert(&name, (text, is_known.then(|| vars.unwrap_or(now))), stamp);
                }
            }
        }
        Ok(())
    }

    /// Those that its servers have now, but for what SET LOCAL has changed.
    fn settings(&self) -> &Arc<Vars> {
        match &self.link {
            Link::Transaction(transaction) => &transaction.log.vars,
            _ => &self.vars,
        }
    }

    /// By which settings the server reads the statements that are sent now: part of what a statement is. A text of its own, where
    /// they aren't known, because the same pipeline changes them: `effects` of this part of it, or of one before.
    pub(super) fn reading(&self, effects: &[Effect]) -> String {
        let sent = self.pending.as_ref().map_or(&[][..], |pending| &pending.effects);
        if effects.iter().chain(sent).any(Effect::is_set) {
            return format!("-- {}", self.shared.statements.stamp());
        }
        match &self.link {
            Link::Transaction(transaction) => transaction.log.reading(),
            _ => self.vars.reading(),
        }
    }

    fn reads_otherwise(&self) -> bool {
        matches!(&self.link, Link::Transaction(transaction) if transaction.log.reads_otherwise())
    }

    /// PREPARE has succeeded.
    pub(super) fn prepared_by_sql(&mut self, name: &str, text: Option<&Arc<str>>, leaves: Residue) {
        let stamp = self.shared.statements.stamp();
        let vars = self.settings().clone();
        let known = (!self.reads_otherwise()).then(|| vars.clone());
        let prepared = SqlPrepared { text: text.cloned(), leaves, stamp, vars };
        self.statements.get_or_insert_default().sql.insert(name.into(), prepared);
        if let (Some(server), Some(text)) = (self.server_mut(), text) {
            server.sql_statements.get_or_insert_default().insert(name, (text.clone(), known), stamp);
        }
    }

    /// DEALLOCATE has succeeded on the server.
    pub(super) fn deallocated(&mut self, name: &str) {
        self.forget_statement(name);
        if let Some(held) = self.server_mut().and_then(|server| server.sql_statements.as_mut()) {
            held.remove(name);
        }
    }

    pub(super) fn forget_statement(&mut self, name: &str) {
        let Some(statements) = &mut self.statements else { return };
        statements.sql.remove(name);
        statements.named.remove(name.as_bytes());
    }

    /// DEALLOCATE of a statement that other servers may have under this name, or none: no server is needed to forget it.
    pub(super) fn forgets_without_server(&self, request: &Request) -> bool {
        let ([Effect::Deallocate(name)], Some(statements)) = (&*request.effects, &self.statements) else {
            return false;
        };
        let carried = statements.sql.get(name).is_some_and(|prepared| prepared.text.is_some());
        let known = carried || statements.named.contains_key(name.as_bytes());
        known && request.statements == 1 && !self.open
    }
}

/// What has to be done on a server so that `name` means there what it means to the client.
fn difference(name: &str, own: Option<&SqlPrepared>, taken: bool, held: &SqlStatements, steps: &mut Vec<Step>) {
    let wanted = match own {
        // It is where the session is.
        Some(SqlPrepared { text: None, .. }) => return,
        Some(SqlPrepared { text: Some(text), stamp, vars, .. }) if held.matches(name, (text, vars), *stamp) => return,
        Some(SqlPrepared { text: Some(text), vars, .. }) => Some((text.clone(), Some(vars.clone()))),
        // PREPARE says that the name is taken, and DEALLOCATE frees it.
        None if taken && held.has(name) => return,
        None if taken => Some((format!("PREPARE {} {PLACEHOLDER}", quote_identifier(name)).into(), None)),
        None => None,
    };
    if held.has(name) {
        steps.push(Step::Deallocate(name.into()));
    }
    steps.extend(wanted.map(|(text, vars)| Step::Prepare(name.into(), text, vars)));
}

/// As an SQL condition on pg_prepared_statements: those that pin nobody.
pub(super) fn carried(held: Option<&SqlStatements>) -> String {
    let names: Vec<_> = held.into_iter().flat_map(SqlStatements::names).map(quote_literal).collect();
    format!("name = ANY (ARRAY[{}]::text[])", names.join(", "))
}
