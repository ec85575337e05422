//! The statements on a server that were made by SQL-level PREPARE and that any client may bring to any server. Which of them
//! are whose is the sessions' business; here is what the server has.

use std::sync::Arc;

use crate::vars::{Vars, read_alike};

/// By name, least recently used first.
#[derive(Debug, Default)]
pub struct SqlStatements {
    held: Vec<Held>,
}

#[derive(Debug)]
struct Held {
    name: Box<str>,
    /// The PREPARE that made it.
    text: Arc<str>,
    /// When that was, in the order of all PREPAREs of the process.
    stamp: u64,
    /// The settings by which its text was read; `None`: nobody knows.
    vars: Option<Arc<Vars>>,
}

impl SqlStatements {
    pub fn has(&self, name: &str) -> bool {
        self.held.iter().any(|held| &*held.name == name)
    }

    /// Whether `name` was made by this very text, read by these settings (what is the date '01/02/2020'?), and not before
    /// `stamp`: a plan that is older than its client may have columns that the client has never heard of.
    pub fn matches(&self, name: &str, (text, vars): (&str, &Arc<Vars>), stamp: u64) -> bool {
        let is_same = |held: &Held| {
            let is_read_alike = held.vars.as_ref().is_some_and(|known| read_alike(known, vars));
            held.stamp >= stamp && *held.text == *text && is_read_alike
        };
        self.held.iter().any(|held| &*held.name == name && is_same(held))
    }

    pub fn insert(&mut self, name: &str, (text, vars): (Arc<str>, Option<Arc<Vars>>), stamp: u64) {
        self.remove(name);
        self.held.push(Held { name: name.into(), text, stamp, vars });
    }

    pub fn remove(&mut self, name: &str) {
        self.held.retain(|held| &*held.name != name);
    }

    /// Somebody uses it again.
    pub fn touch(&mut self, name: &str) {
        if let Some(at) = self.held.iter().position(|held| &*held.name == name) {
            self.held[at..].rotate_left(1);
        }
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.held.iter().map(|held| &*held.name)
    }

    /// Those that have to go before `more` can come.
    pub fn surplus(&self, more: usize, limit: u32) -> impl Iterator<Item = &str> {
        self.names().take((self.held.len() + more).saturating_sub(limit as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vars::VarsTable;

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut statements = SqlStatements::default();
        for name in ["a", "b", "c"] {
            statements.insert(name, ("PREPARE".into(), None), 1);
        }
        statements.touch("a");
        assert_eq!(statements.surplus(1, 3).collect::<Vec<_>>(), ["b"]);
        assert_eq!(statements.surplus(2, 3).collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(statements.surplus(0, 3).count(), 0);
    }

    #[test]
    fn an_older_plan_or_one_by_other_settings_is_not_the_same_statement() {
        let table = VarsTable::default();
        let none = table.intern(Vec::new());
        let (named, dated) = (table.with(&none, "application_name", "x"), table.with(&none, "datestyle", "x"));
        let mut statements = SqlStatements::default();
        statements.insert("a", ("PREPARE a AS SELECT 1".into(), Some(none.clone())), 5);
        let matches = |text, vars, stamp| statements.matches("a", (text, vars), stamp);
        assert!(matches("PREPARE a AS SELECT 1", &none, 5));
        assert!(matches("PREPARE a AS SELECT 1", &named, 5));
        assert!(!matches("PREPARE a AS SELECT 1", &dated, 5));
        assert!(!matches("PREPARE a AS SELECT 1", &none, 6));
        assert!(!matches("PREPARE a AS SELECT 2", &none, 5));
        statements.remove("a");
        assert!(!statements.has("a"));
    }
}
