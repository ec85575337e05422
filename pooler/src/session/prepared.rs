//! Protocol-level prepared statements, which outlive the server they were first prepared on.
//!
//! A statement is known by its text and parameter types, whoever prepared it, and has one number in the whole process.
//! Its name on every server follows from the number, so all clients that prepare the same text share one statement a server.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// A statement that some client has prepared.
#[derive(Debug, PartialEq, Eq)]
pub struct Prepared {
    pub id: u32,
    /// What follows the name in a Parse message: text and types.
    pub tail: Box<[u8]>,
}

/// All statements of this process.
#[derive(Debug, Default)]
pub struct StatementTable {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    known: HashMap<Box<[u8]>, Weak<Prepared>, foldhash::fast::RandomState>,
    next_id: u32,
    /// Forget what no client uses any more when the table has grown to this.
    sweep_at: usize,
}

impl StatementTable {
    /// The one statement with this text and these types.
    pub fn intern(&self, tail: &[u8]) -> Arc<Prepared> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(prepared) = state.known.get(tail).and_then(Weak::upgrade) {
            return prepared;
        }
        if state.known.len() >= state.sweep_at {
            state.known.retain(|_, prepared| prepared.strong_count() > 0);
            state.sweep_at = (state.known.len() * 2).max(1024);
        }
        state.next_id = state.next_id.wrapping_add(1);
        let prepared = Arc::new(Prepared { id: state.next_id, tail: tail.into() });
        state.known.insert(tail.into(), Arc::downgrade(&prepared));
        prepared
    }
}

/// The statements of one client, by the names that it gave them.
#[derive(Debug, Default)]
pub struct ClientStatements {
    pub named: HashMap<Box<[u8]>, Arc<Prepared>, foldhash::fast::RandomState>,
    /// What follows the name in the Parse of the unnamed statement.
    pub unnamed: Option<Vec<u8>>,
}

impl ClientStatements {
    /// The text-and-types of a statement.
    pub fn tail(&self, name: &[u8]) -> Option<&[u8]> {
        if name.is_empty() { self.unnamed.as_deref() } else { self.named.get(name).map(|prepared| &*prepared.tail) }
    }

    /// Remembers the unnamed statement, reusing its memory.
    pub fn set_unnamed(&mut self, tail: &[u8]) {
        let unnamed = self.unnamed.get_or_insert_default();
        if unnamed != tail {
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
        let first = table.intern(b"select 1\0\0\0");
        assert!(Arc::ptr_eq(&first, &table.intern(b"select 1\0\0\0")));
        assert_ne!(first.id, table.intern(b"select 2\0\0\0").id);
    }

    #[test]
    fn a_forgotten_statement_gets_a_new_number() {
        // A server may still hold the old one under the old number; it must not be taken for the new one.
        let table = StatementTable::default();
        let id = table.intern(b"select 1\0\0\0").id;
        assert_ne!(table.intern(b"select 1\0\0\0").id, id);
    }
}
