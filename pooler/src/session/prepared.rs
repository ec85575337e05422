//! Protocol-level prepared statements (those of SQL are in [`super::sql_prepared`]), which outlive the server that they were
//! first prepared on.
//!
//! A statement is known by its text and parameter types, and by the settings that decide what they mean, whoever prepared it,
//! and has one number in the whole process. Its name on every server follows from the number, so all clients that prepare the
//! same text share one statement a server.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, Weak};

use super::sql_prepared::SqlNames;

use crate::lock::lock;

/// So many statements are remembered without a client that uses them, if they are no longer than so many bytes.
const RECENT: usize = 1024;
const RECENT_LENGTH: usize = 8 * 1024;

/// A statement that some client has prepared.
#[derive(Debug, PartialEq, Eq)]
pub struct Prepared {
    pub id: u32,
    /// What follows the name in a Parse message: text and types.
    pub tail: Box<[u8]>,
    /// The settings by which its literals and names are read ([`crate::vars::Vars::reading`]).
    pub reading: Box<str>,
}

/// All statements of this process.
#[derive(Debug, Default)]
pub struct StatementTable {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    known: HashMap<Box<[u8]>, Weak<Prepared>, foldhash::fast::RandomState>,
    /// The newest ones, kept although no client may have them any more: clients that come and go prepare the same again.
    recent: VecDeque<Arc<Prepared>>,
    next_id: u32,
    stamp: u64,
    /// Forget what no client uses any more when the table has grown to this.
    sweep_at: usize,
}

impl StatementTable {
    /// The one statement with this text and these types that is read by these settings.
    pub fn intern(&self, tail: &[u8], reading: &str) -> Arc<Prepared> {
        // A Parse message ends with its types, so nothing that is longer by a text is another statement's.
        let key: Cow<'_, [u8]> =
            if reading.is_empty() { tail.into() } else { [tail, reading.as_bytes()].concat().into() };
        let mut state = lock(&self.state);
        if let Some(prepared) = state.known.get(&*key).and_then(Weak::upgrade) {
            return prepared;
        }
        if state.known.len() >= state.sweep_at {
            state.known.retain(|_, prepared| prepared.strong_count() > 0);
            state.sweep_at = (state.known.len() * 2).max(1024);
        }
        state.next_id = state.next_id.wrapping_add(1);
        let prepared = Arc::new(Prepared { id: state.next_id, tail: tail.into(), reading: reading.into() });
        state.known.insert(key.into_owned().into(), Arc::downgrade(&prepared));
        if tail.len() <= RECENT_LENGTH {
            if state.recent.len() == RECENT {
                state.recent.pop_front();
            }
            state.recent.push_back(prepared.clone());
        }
        prepared
    }
}

impl StatementTable {
    /// A number for now: higher than any before it.
    pub fn stamp(&self) -> u64 {
        let mut state = lock(&self.state);
        state.stamp += 1;
        state.stamp
    }

    /// Whoever prepares this text from now on gets another statement: servers have plans of this one that are out of date.
    pub fn retire(&self, id: u32) {
        let mut state = lock(&self.state);
        state.known.retain(|_, prepared| prepared.upgrade().is_some_and(|prepared| prepared.id != id));
        state.recent.retain(|prepared| prepared.id != id);
    }
}

/// What a name meant; `None` for nothing.
type Meaning = Option<Arc<Prepared>>;

/// The statements of one client, by the names that it gave them.
#[derive(Debug, Default)]
pub struct ClientStatements {
    pub named: HashMap<Box<[u8]>, Arc<Prepared>, foldhash::fast::RandomState>,
    /// Those that it prepared with SQL.
    pub sql: SqlNames,
    /// What the names on their way to a server meant before, in the order of their Parse and Close messages.
    undo: Vec<(Box<[u8]>, Meaning)>,
    /// What follows the name in the Parse of the unnamed statement.
    pub unnamed: Option<Vec<u8>>,
    /// Which one it is of all that the client has parsed.
    pub unnamed_number: u32,
}

impl ClientStatements {
    /// Whether the name is taken, by whichever kind of statement.
    pub fn has(&self, name: &[u8]) -> bool {
        self.named.contains_key(name) || str::from_utf8(name).is_ok_and(|name| self.sql.contains_key(name))
    }

    /// The text-and-types of a statement.
    pub fn tail(&self, name: &[u8]) -> Option<&[u8]> {
        if name.is_empty() { self.unnamed.as_deref() } else { self.named.get(name).map(|prepared| &*prepared.tail) }
    }

    /// The text-and-types of a statement, by its number.
    pub fn tail_of(&self, id: u32) -> Option<&[u8]> {
        self.named.values().find(|prepared| prepared.id == id).map(|prepared| &*prepared.tail)
    }

    /// A Parse is on its way.
    pub fn insert(&mut self, name: &[u8], prepared: Arc<Prepared>) {
        let before = self.named.insert(name.into(), prepared);
        self.undo.push((name.into(), before));
    }

    /// A Close is on its way.
    pub fn remove(&mut self, name: &[u8]) {
        let (name, before) =
            self.named.remove_entry(name).map_or((name.into(), None), |(name, before)| (name, Some(before)));
        self.undo.push((name, before));
    }

    /// What was on its way is answered: the first `succeeded` did what they should, the others nothing.
    pub fn settle(&mut self, succeeded: usize) {
        for (name, before) in self.undo.drain(..).skip(succeeded).rev() {
            match before {
                Some(prepared) => self.named.insert(name, prepared),
                None => self.named.remove(&name),
            };
        }
    }

    /// Remembers the unnamed statement, reusing its memory.
    pub fn set_unnamed(&mut self, tail: &[u8]) {
        let unnamed = self.unnamed.get_or_insert_default();
        if unnamed != tail {
            self.unnamed_number = self.unnamed_number.wrapping_add(1);
            unnamed.clear();
            unnamed.extend_from_slice(tail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_statements_share_a_number() {
        let table = StatementTable::default();
        let first = table.intern(b"select 1\0\0\0", "");
        assert!(Arc::ptr_eq(&first, &table.intern(b"select 1\0\0\0", "")));
        assert_ne!(first.id, table.intern(b"select 2\0\0\0", "").id);
        assert_ne!(first.id, table.intern(b"select 1\0\0\0", "SET datestyle = 'German'").id);
    }

    #[test]
    fn a_statement_outlives_its_client_for_a_while() {
        let table = StatementTable::default();
        let id = table.intern(b"select 1\0\0\0", "").id;
        assert_eq!(table.intern(b"select 1\0\0\0", "").id, id);
        for number in 0..RECENT {
            table.intern(format!("select {number}, 2\0\0\0").as_bytes(), "");
        }
        // A server may still hold the old one under the old number; it must not be taken for the new one.
        assert_ne!(table.intern(b"select 1\0\0\0", "").id, id);
    }

    #[test]
    fn what_failed_is_undone_from_its_end() {
        let (table, mut statements) = (StatementTable::default(), ClientStatements::default());
        statements.insert(b"a", table.intern(b"1", ""));
        statements.settle(1);
        statements.insert(b"b", table.intern(b"2", ""));
        statements.remove(b"a");
        statements.insert(b"a", table.intern(b"3", ""));
        statements.remove(b"b");
        statements.remove(b"never");
        statements.settle(1);
        assert_eq!((statements.tail(b"a"), statements.tail(b"b")), (Some(&b"1"[..]), Some(&b"2"[..])));
        assert_eq!(statements.named.len(), 2);
    }
}
