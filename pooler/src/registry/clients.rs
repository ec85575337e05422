//! The clients that have logged in, by number and by cancel key.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::ClientEntry;
use super::key::KeyIndex;

/// Those that have logged in.
#[derive(Debug, Default)]
pub(super) struct Clients {
    pub by_id: HashSet<ById>,
    pub by_key: KeyIndex,
}

impl Clients {
    pub(super) fn insert(&mut self, client: &Arc<ClientEntry>) {
        self.by_id.insert(ById(client.clone()));
        self.by_key.insert(client.clone());
    }

    pub(super) fn remove(&mut self, client: &ClientEntry) {
        self.by_id.remove(&client.id);
        self.by_key.remove(&client.key);
    }
}

/// A set of these is a map from numbers to clients, without a second copy of each number.
#[derive(Debug)]
pub(super) struct ById(pub Arc<ClientEntry>);

impl Borrow<u64> for ById {
    fn borrow(&self) -> &u64 {
        &self.0.id
    }
}

impl Hash for ById {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.id.hash(state);
    }
}

impl PartialEq for ById {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for ById {}
