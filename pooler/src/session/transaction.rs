//! What a session has to remember of its transaction, so that another server can be brought into it later, and so that its
//! settings are right when it ends. Pure: no server here.

use std::sync::Arc;

use sluice_router::Schema;
use sluice_router::template::{Action, Residue, SchemaChange, SetAction, SetValue, Statement};

use crate::vars::{Vars, VarsTable, is_for_reading, quote_identifier, set_statement};

/// One step that a server enlisted later has to repeat.
#[derive(Debug, Clone, PartialEq)]
enum Step {
    /// A SET of any kind: the setting's name and the statement.
    Set(Box<str>, String),
    /// SAVEPOINT, and what ROLLBACK TO goes back to.
    Savepoint(Box<str>, State),
    /// A LISTEN that the session's server runs, or an UNLISTEN: from the commit on, another connection need not listen for
    /// this channel (or any). No other server has to repeat it.
    Listening(Option<Box<str>>),
}

/// What a savepoint keeps.
#[derive(Debug, Clone, PartialEq)]
struct State {
    vars: Arc<Vars>,
    schema: Option<Arc<Schema>>,
    /// How many schema changes there were.
    changes: usize,
}

/// The session's side of a transaction block.
#[derive(Debug, Clone)]
pub struct TransactionLog {
    /// The client's own BEGIN.
    begin: String,
    /// Without modes: it can't fail, and may travel in one packet with the statement behind it.
    plain: bool,
    steps: Vec<Step>,
    /// Settings in force before the transaction: what a rollback goes back to.
    before: Arc<Vars>,
    /// Settings in force after a commit.
    pub vars: Arc<Vars>,
    /// The schema as this transaction's own DDL has made it.
    pub schema: Option<Arc<Schema>>,
    /// What the catalog has to be told of after the commit.
    pub changes: Vec<SchemaChange>,
}

impl TransactionLog {
    pub fn new(begin: &str, vars: Arc<Vars>) -> Self {
        let begin = begin.trim().trim_end_matches(';').trim();
        Self::start(begin.to_owned(), is_plain_begin(begin), vars)
    }

    /// The statements that bring a server to where the transaction is.
    pub fn prologue(&self) -> String {
        let mut sql = self.begin.clone();
        for step in &self.steps {
            match step {
                Step::Set(_, statement) => sql.extend(["; ", statement]),
                Step::Savepoint(name, _) => sql.extend(["; SAVEPOINT ", &quote_identifier(name)]),
                Step::Listening(_) => {}
            }
        }
        sql
    }

    /// The prologue is a bare BEGIN.
    pub fn is_plain(&self) -> bool {
        self.plain && self.steps.iter().all(|step| matches!(step, Step::Listening(_)))
    }

    /// Whether it has set something by which statements are read, for itself or for good.
    pub fn reads_otherwise(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Set(name, _) if **name == *"all" || is_for_reading(name)))
    }

    /// By which settings statements are read now; SET LOCAL counts as well.
    pub fn reading(&self) -> String {
        let mut reading = self.vars.reading();
        for step in &self.steps {
            if let Step::Set(name, statement) = step
                && (**name == *"all" || is_for_reading(name))
            {
                reading.extend(["; ", statement]);
            }
        }
        reading
    }

    /// BEGIN behind other statements of its message: a rollback takes back theirs, too.
    pub fn take_over(&mut self, before: &Arc<Vars>) {
        if self.steps.is_empty() {
            self.before = before.clone();
        }
    }

    pub fn before(&self) -> &Arc<Vars> {
        &self.before
    }

    /// The next transaction of COMMIT AND CHAIN.
    pub fn chained(&self, vars: Arc<Vars>) -> Self {
        Self::start(self.begin.clone(), self.plain, vars)
    }

    fn start(begin: String, plain: bool, vars: Arc<Vars>) -> Self {
        Self { begin, plain, steps: Vec::new(), before: vars.clone(), vars, schema: None, changes: Vec::new() }
    }

    /// The statement that last set search_path, in the transaction or before it.
    pub fn search_path(&self) -> Option<String> {
        let inside = self.steps.iter().rev().find_map(|step| match step {
            Step::Set(name, statement) if &**name == "search_path" => Some(statement.clone()),
            // Whatever the default is: as if nothing had been set.
            Step::Set(name, _) if &**name == "all" => Some("search_path TO DEFAULT".to_owned()),
            _ => None,
        });
        inside.or_else(|| self.vars.get("search_path").map(str::to_owned))
    }

    pub fn set(&mut self, name: &str, statement: String, vars: Option<Arc<Vars>>) {
        self.steps.push(Step::Set(name.into(), statement));
        if let Some(vars) = vars {
            self.vars = vars;
        }
    }

    /// The server listens itself, or nobody is to listen any more, once this transaction is committed.
    pub fn listening(&mut self, channel: Option<Box<str>>) {
        self.steps.push(Step::Listening(channel));
    }

    /// What [`Self::listening`] was told.
    pub fn left_channels(&self) -> impl Iterator<Item = Option<&str>> {
        self.steps.iter().filter_map(|step| match step {
            Step::Listening(channel) => Some(channel.as_deref()),
            _ => None,
        })
    }

    pub fn savepoint(&mut self, name: &str) {
        let state = State { vars: self.vars.clone(), schema: self.schema.clone(), changes: self.changes.len() };
        self.steps.push(Step::Savepoint(name.into(), state));
    }

    /// RELEASE keeps what was set since; the savepoints inside go with it.
    pub fn release(&mut self, name: &str) {
        let Some(at) = self.find(name) else { return };
        let inner = self.steps.split_off(at);
        self.steps.extend(inner.into_iter().filter(|step| !matches!(step, Step::Savepoint(..))));
    }

    /// ROLLBACK TO keeps the savepoint itself.
    pub fn rollback_to(&mut self, name: &str) {
        let Some(at) = self.find(name) else { return };
        self.steps.truncate(at + 1);
        if let Some(Step::Savepoint(_, state)) = self.steps.last() {
            self.vars = state.vars.clone();
            self.schema = state.schema.clone();
            self.changes.truncate(state.changes);
        }
    }

    pub fn has_savepoint(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.steps.iter().rposition(|step| matches!(step, Step::Savepoint(known, _) if &**known == name))
    }
}

/// A BEGIN without modes.
pub fn is_plain_begin(sql: &str) -> bool {
    let begin = sql.trim().trim_end_matches(';').trim();
    let plain = ["begin", "begin work", "begin transaction", "start transaction"];
    plain.iter().any(|plain| begin.eq_ignore_ascii_case(plain))
}

/// A SET, with its values looked up: what it does to the session once it has succeeded.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    pub name: Box<str>,
    pub local: bool,
    /// The statement that makes it again; for a reset, the reset.
    pub statement: String,
    pub resets: bool,
}

impl Setting {
    /// `value` is the constant's or parameter's text where the action says that there is one.
    pub fn new(action: &SetAction, sql: &str, value: Option<String>) -> Option<Self> {
        let statement = match action.value {
            SetValue::Text | SetValue::Default => sql.trim().trim_end_matches(';').to_owned(),
            SetValue::Literal { .. } | SetValue::Parameter { .. } => set_statement(&action.name, &value?, action.local),
        };
        Some(Self {
            name: action.name.clone(),
            local: action.local,
            statement,
            resets: action.value == SetValue::Default,
        })
    }

    /// The session's settings after it.
    pub fn applied_to(&self, table: &VarsTable, vars: &Vars, base: &Vars) -> Option<Arc<Vars>> {
        match &*self.name {
            // Dies with the transaction.
            "transaction" => None,
            _ if self.local => None,
            "all" => Some(table.reset_all(vars, base)),
            name if self.resets => Some(table.reset(vars, base, name)),
            name => Some(table.with(vars, name, &self.statement)),
        }
    }
}

/// What a statement on its way will have done to the session if it succeeds.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    None,
    Begin(String),
    Commit {
        chain: bool,
    },
    Rollback {
        chain: bool,
    },
    Savepoint(Box<str>),
    Release(Box<str>),
    RollbackTo(Box<str>),
    Set(Setting),
    DiscardAll,
    /// SQL-level PREPARE. `text` makes it again on any server; `None`: it keeps the session on its server. `leaves`: what each
    /// EXECUTE leaves.
    Prepare {
        name: Box<str>,
        text: Option<Arc<str>>,
        leaves: Residue,
    },
    /// SQL-level EXECUTE, or another use of such a statement.
    Execute(Box<str>),
    Deallocate(Box<str>),
    Listen(Box<str>),
    Unlisten(Option<Box<str>>),
    /// It looks at the channels that it listens on.
    ShowChannels,
    /// All statements of the client's have to be on its server: it looks at them.
    ShowPrepared,
    /// SQL-level DEALLOCATE ALL drops the protocol's statements too.
    DeallocateAll,
}

impl Effect {
    pub fn is_set(&self) -> bool {
        matches!(self, Self::Set(_) | Self::DiscardAll)
    }

    /// `None` for an action whose values can't be told.
    pub fn of(statement: &Statement, sql: &str, value: impl FnOnce(&SetValue) -> Option<String>) -> Option<Self> {
        Some(match &statement.action {
            Action::Begin => Self::Begin(sql.to_owned()),
            Action::Commit { chain } => Self::Commit { chain: *chain },
            Action::Rollback { chain } => Self::Rollback { chain: *chain },
            Action::Savepoint(name) => Self::Savepoint(name.clone()),
            Action::Release(name) => Self::Release(name.clone()),
            Action::RollbackTo(name) => Self::RollbackTo(name.clone()),
            Action::Set(set) => Self::Set(Setting::new(set, sql, value(&set.value))?),
            Action::DiscardAll => Self::DiscardAll,
            Action::Prepare { name, leaves } => {
                let text = (!statement.residue.pins).then(|| sql.trim().trim_end_matches(';').into());
                Self::Prepare { name: name.clone(), text, leaves: *leaves }
            }
            Action::Execute(name) => Self::Execute(name.clone()),
            Action::Deallocate(Some(name)) => Self::Deallocate(name.clone()),
            Action::Deallocate(None) => Self::DeallocateAll,
            Action::ShowPrepared => Self::ShowPrepared,
            Action::ShowChannels => Self::ShowChannels,
            Action::Listen(channel) => Self::Listen(channel.clone()),
            Action::Unlisten(channel) => Self::Unlisten(channel.clone()),
            _ => Self::None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> (VarsTable, TransactionLog) {
        let table = VarsTable::default();
        let vars = table.intern(Vec::new());
        (table, TransactionLog::new("BEGIN;", vars))
    }

    #[test]
    fn a_late_server_repeats_settings_and_savepoints_in_order() {
        let (_, mut log) = log();
        assert!(log.is_plain());
        log.set("x.y", "SET LOCAL x.y = '1'".to_owned(), None);
        log.savepoint("a");
        log.savepoint("b\"c");
        log.set("x.y", "SET LOCAL x.y = '2'".to_owned(), None);
        assert_eq!(
            log.prologue(),
            "BEGIN; SET LOCAL x.y = '1'; SAVEPOINT \"a\"; SAVEPOINT \"b\"\"c\"; SET LOCAL x.y = '2'"
        );
        log.rollback_to("a");
        assert_eq!(log.prologue(), "BEGIN; SET LOCAL x.y = '1'; SAVEPOINT \"a\"");
        log.savepoint("d");
        log.set("x.y", "SET LOCAL x.y = '3'".to_owned(), None);
        log.release("a");
        assert_eq!(log.prologue(), "BEGIN; SET LOCAL x.y = '1'; SET LOCAL x.y = '3'");
        assert!(!log.has_savepoint("d"));
    }

    #[test]
    fn settings_follow_savepoints_back() {
        let (table, mut log) = log();
        let first = table.with(&log.vars, "a", "SET a = 1");
        log.set("a", "SET a = 1".to_owned(), Some(first.clone()));
        log.savepoint("s");
        let second = table.with(&log.vars, "a", "SET a = 2");
        log.set("a", "SET a = 2".to_owned(), Some(second));
        log.rollback_to("s");
        assert!(Arc::ptr_eq(&log.vars, &first));
    }

    #[test]
    fn the_innermost_savepoint_of_a_name_is_meant() {
        let (_, mut log) = log();
        log.savepoint("s");
        log.savepoint("s");
        log.release("s");
        assert_eq!(log.prologue(), "BEGIN; SAVEPOINT \"s\"");
    }

    #[test]
    fn only_a_bare_begin_is_plain() {
        let (_, plain) = log();
        assert!(plain.is_plain());
        let serializable = TransactionLog::new("begin isolation level serializable", plain.vars.clone());
        assert!(!serializable.is_plain());
    }
}
