//! Session settings that travel with the client: what SET left behind, whichever server that ran on.
//!
//! A [`Vars`] is an immutable, interned list: two sessions with the same settings share one, so that "does this server have
//! this client's settings?" is a comparison of pointers on the hot path. PgBouncer calls the same thing the varcache, but
//! carries only parameters that the server reports; this one carries every SET.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use crate::lock::lock;

/// One setting: its name in lower case, and the statement that makes it again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Var {
    pub name: Box<str>,
    pub statement: Box<str>,
}

/// Settings in the order in which they were last made.
#[derive(Debug, PartialEq, Eq, Hash, Default)]
pub struct Vars {
    entries: Box<[Var]>,
}

impl Vars {
    pub fn entries(&self) -> &[Var] {
        &self.entries
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.entries.iter().find(|var| &*var.name == name).map(|var| &*var.statement)
    }

    /// Those by which a statement is read, as the statements that set them; empty for most clients.
    pub fn reading(&self) -> String {
        let mut statements =
            self.entries.iter().filter(|var| is_for_reading(&var.name)).map(|var| &*var.statement).collect::<Vec<_>>();
        statements.sort_unstable();
        statements.join("; ")
    }
}

/// What decides the meaning of literals and names when a statement is prepared.
const READING: [&str; 10] = [
    "array_nulls",
    "client_encoding",
    "datestyle",
    "intervalstyle",
    "lc_monetary",
    "search_path",
    "timezone",
    "timezone_abbreviations",
    "transform_null_equals",
    "xmloption",
];

/// Whether the setting is one of those by which a statement is read.
pub fn is_for_reading(name: &str) -> bool {
    READING.contains(&name)
}

/// Whether a statement that is prepared under either of them is the same one.
pub fn read_alike(one: &Arc<Vars>, other: &Arc<Vars>) -> bool {
    Arc::ptr_eq(one, other) || READING.iter().all(|name| one.get(name) == other.get(name))
}

/// The statements after which a server with `from` reads statements as one with `to`. Nothing else changes: not the role.
pub fn switch_reading(from: &Vars, to: &Vars) -> String {
    let differ = READING.iter().filter(|name| from.get(name) != to.get(name));
    let statements: Vec<_> =
        differ.map(|name| to.get(name).map_or_else(|| reset_statement(name), str::to_owned)).collect();
    statements.join("; ")
}

/// Quotes a value as an SQL string constant, right whatever standard_conforming_strings is.
pub fn quote_literal(value: &str) -> String {
    let doubled = value.replace('\'', "''");
    if value.contains('\\') { format!("E'{}'", doubled.replace('\\', "\\\\")) } else { format!("'{doubled}'") }
}

/// Quotes a name that has no parts.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes a setting's name; `myapp.org` is quoted part by part.
pub fn quote_name(name: &str) -> String {
    name.split('.').map(quote_identifier).collect::<Vec<_>>().join(".")
}

/// The statement that sets `name` to `value`, for the transaction or for the session. Not SET: a value such as a
/// search_path is a list already, and must not be quoted as one name.
pub fn set_statement(name: &str, value: &str, local: bool) -> String {
    format!("SELECT pg_catalog.set_config({}, {}, {local})", quote_literal(name), quote_literal(value))
}

/// What a reset takes off a server although the client came with it. PostgreSQL goes back to what the start-up packet said, but
/// a shared server's start-up packet was not this client's.
pub fn taken_by_reset<'a>(base: &'a Vars, name: &'a str, local: bool) -> impl Iterator<Item = Var> + 'a {
    let taken = base.entries.iter().filter(move |var| *var.name == *name || (name == "all" && !is_identity(&var.name)));
    taken.map(move |var| match var.statement.strip_suffix("false)") {
        Some(call) if local => Var { name: var.name.clone(), statement: format!("{call}true)").into() },
        _ => var.clone(),
    })
}

/// Keeps equal lists one.
#[derive(Debug, Default)]
pub struct VarsTable {
    known: Mutex<HashMap<Vec<Var>, Weak<Vars>>>,
}

impl VarsTable {
    /// The one [`Vars`] with these entries.
    pub fn intern(&self, entries: Vec<Var>) -> Arc<Vars> {
        let mut known = lock(&self.known);
        if let Some(vars) = known.get(&entries).and_then(Weak::upgrade) {
            return vars;
        }
        if known.len() >= 256 && known.len().is_power_of_two() {
            known.retain(|_, vars| vars.strong_count() > 0);
        }
        let vars = Arc::new(Vars { entries: entries.clone().into() });
        known.insert(entries, Arc::downgrade(&vars));
        vars
    }

    /// `vars` with `name` set by `statement`.
    pub fn with(&self, vars: &Vars, name: &str, statement: &str) -> Arc<Vars> {
        let mut entries = without(vars, name);
        if name == "session_authorization" {
            // SET SESSION AUTHORIZATION ends a SET ROLE.
            entries.retain(|var| &*var.name != "role");
        }
        entries.push(Var { name: name.into(), statement: statement.into() });
        self.intern(entries)
    }

    /// `vars` with `name` back at its value in `base`.
    pub fn reset(&self, vars: &Vars, base: &Vars, name: &str) -> Arc<Vars> {
        match base.get(name) {
            Some(statement) => self.with(vars, name, statement),
            // As SET SESSION AUTHORIZATION does, its RESET ends a SET ROLE.
            None if name == "session_authorization" => {
                self.intern(vars.entries.iter().filter(|var| !is_identity(&var.name)).cloned().collect())
            }
            None => self.intern(without(vars, name)),
        }
    }

    /// `vars` without what `names` say.
    pub fn without(&self, vars: &Vars, names: &[Var]) -> Arc<Vars> {
        let is_named = |var: &&Var| names.iter().any(|name| name.name == var.name);
        self.intern(vars.entries.iter().filter(|var| !is_named(var)).cloned().collect())
    }

    /// RESET ALL: everything but role and session authorization back to `base`.
    pub fn reset_all(&self, vars: &Vars, base: &Vars) -> Arc<Vars> {
        let identity = vars.entries.iter().filter(|var| is_identity(&var.name)).cloned();
        self.intern(base.entries.iter().cloned().chain(identity).collect())
    }
}

fn without(vars: &Vars, name: &str) -> Vec<Var> {
    vars.entries.iter().filter(|var| &*var.name != name).cloned().collect()
}

fn is_identity(name: &str) -> bool {
    matches!(name, "role" | "session_authorization")
}

fn reset_statement(name: &str) -> String {
    match name {
        "role" => "RESET ROLE".to_owned(),
        "session_authorization" => "RESET SESSION AUTHORIZATION".to_owned(),
        "session_characteristics" => {
            "RESET default_transaction_isolation; RESET default_transaction_read_only; RESET default_transaction_deferrable"
                .to_owned()
        }
        name => format!("RESET {}", quote_name(name)),
    }
}

/// The statements that turn a server with `from` into one with `to`; `None` if there is nothing to do.
///
/// Identity comes off first and on last, because a role may lack the right to make the other settings.
pub fn transition(from: &Arc<Vars>, to: &Arc<Vars>) -> Option<String> {
    if Arc::ptr_eq(from, to) || from.entries == to.entries {
        return None;
    }
    let identity_of =
        |vars: &Vars| vars.entries.iter().filter(|var| is_identity(&var.name)).cloned().collect::<Vec<_>>();
    let identity_changes = identity_of(from) != identity_of(to);
    let mut statements = Vec::new();
    // Anything else than identity may need the login role's rights.
    let strip_identity = !identity_of(from).is_empty();
    if strip_identity {
        statements.push("RESET SESSION AUTHORIZATION".to_owned());
        statements.push("RESET ROLE".to_owned());
    }
    for var in from.entries.iter().filter(|var| !is_identity(&var.name) && to.get(&var.name).is_none()) {
        statements.push(reset_statement(&var.name));
    }
    for var in to.entries.iter().filter(|var| !is_identity(&var.name)) {
        if from.get(&var.name) != Some(&var.statement) {
            statements.push(var.statement.to_string());
        }
    }
    if identity_changes || strip_identity {
        statements.extend(identity_of(to).into_iter().map(|var| var.statement.to_string()));
    }
    (!statements.is_empty()).then(|| statements.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_settings_are_one_value() {
        let table = VarsTable::default();
        let empty = table.intern(Vec::new());
        let left = table.with(&empty, "timezone", "SET timezone = 'UTC'");
        let right = table.with(&empty, "timezone", "SET timezone = 'UTC'");
        assert!(Arc::ptr_eq(&left, &right));
        assert_eq!(transition(&left, &right), None);
    }

    #[test]
    fn a_transition_resets_what_is_gone_and_sets_what_is_new() {
        let table = VarsTable::default();
        let empty = table.intern(Vec::new());
        let from =
            table.with(&table.with(&empty, "work_mem", "SET work_mem = '1MB'"), "timezone", "SET timezone = 'UTC'");
        let to = table.with(&table.with(&empty, "timezone", "SET timezone = 'UTC'"), "app.org", "SET app.org = '7'");
        assert_eq!(transition(&from, &to).as_deref(), Some("RESET \"work_mem\"; SET app.org = '7'"));
    }

    #[test]
    fn a_role_comes_off_first_and_on_last() {
        let table = VarsTable::default();
        let empty = table.intern(Vec::new());
        let from = table.with(&empty, "role", "SET ROLE auditor");
        let to = table.with(&from, "work_mem", "SET work_mem = '1MB'");
        assert_eq!(
            transition(&from, &to).as_deref(),
            Some("RESET SESSION AUTHORIZATION; RESET ROLE; SET work_mem = '1MB'; SET ROLE auditor")
        );
        assert_eq!(transition(&from, &empty).as_deref(), Some("RESET SESSION AUTHORIZATION; RESET ROLE"));
    }

    #[test]
    fn session_authorization_ends_a_role() {
        let table = VarsTable::default();
        let empty = table.intern(Vec::new());
        let role = table.with(&empty, "role", "SET ROLE a");
        let both = table.with(&role, "session_authorization", "SET SESSION AUTHORIZATION b");
        assert_eq!(both.get("role"), None);
        let under = table.with(&both, "role", "SET ROLE a");
        assert!(Arc::ptr_eq(&table.reset(&under, &empty, "session_authorization"), &empty));
    }

    #[test]
    fn reset_goes_back_to_the_start_up_value() {
        let table = VarsTable::default();
        let base = table.with(&table.intern(Vec::new()), "application_name", "SET application_name = 'app'");
        let changed = table.with(&base, "application_name", "SET application_name = 'other'");
        assert!(Arc::ptr_eq(&table.reset(&changed, &base, "application_name"), &base));
        assert!(Arc::ptr_eq(&table.reset_all(&changed, &base), &base));
    }

    #[test]
    fn values_are_quoted_whatever_they_hold() {
        assert_eq!(quote_literal("a'b"), "'a''b'");
        assert_eq!(quote_literal("a\\'b"), "E'a\\\\''b'");
        assert_eq!(quote_name("my.na\"me"), "\"my\".\"na\"\"me\"");
    }
}
