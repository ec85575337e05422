//! The statements on a server that were made by SQL-level PREPARE and that any client may bring to any server. Which of them
//! are whose is the sessions' business; here is what the server has.

use std::sync::Arc;

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
}

impl SqlStatements {
    pub fn has(&self, name: &str) -> bool {
        self.held.iter().any(|held| &*held.name == name)
    }

    /// Whether `name` was made by this very text, and not before `stamp`: a plan that is older than its client may have
    /// columns that the client has never heard of.
    pub fn matches(&self, name: &str, text: &str, stamp: u64) -> bool {
        self.held.iter().any(|held| &*held.name == name && held.stamp >= stamp && *held.text == *text)
    }

    pub fn insert(&mut self, name: &str, text: Arc<str>, stamp: u64) {
        self.remove(name);
        self.held.push(Held { name: name.into(), text, stamp });
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

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut statements = SqlStatements::default();
        for name in ["a", "b", "c"] {
            statements.insert(name, "PREPARE".into(), 1);
        }
        statements.touch("a");
        assert_eq!(statements.surplus(1, 3).collect::<Vec<_>>(), ["b"]);
        assert_eq!(statements.surplus(2, 3).collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(statements.surplus(0, 3).count(), 0);
    }

    #[test]
    fn an_older_plan_is_not_the_same_statement() {
        let mut statements = SqlStatements::default();
        statements.insert("a", "PREPARE a AS SELECT 1".into(), 5);
        assert!(statements.matches("a", "PREPARE a AS SELECT 1", 5));
        assert!(!statements.matches("a", "PREPARE a AS SELECT 1", 6));
        assert!(!statements.matches("a", "PREPARE a AS SELECT 2", 5));
        statements.remove("a");
        assert!(!statements.has("a"));
    }
}
