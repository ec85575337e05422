//! Schemas as numbers: equal schemas may share one, different schemas never do, and no number is used again.
//!
//! A schema is recognised by its address. The tables here keep weak references, so that the address of a schema that is gone
//! isn't given to another as long as it is known here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use crate::map::Schema;

pub(super) type SchemaId = u32;

/// Tables smaller than this are not searched for schemas that are gone.
const FEW: usize = 64;

/// The numbers given out, for all threads.
#[derive(Default)]
pub(super) struct SharedSchemas {
    /// Schemas of different content.
    known: Vec<(Weak<Schema>, SchemaId)>,
    next: SchemaId,
}

impl SharedSchemas {
    fn id(&mut self, schema: &Arc<Schema>) -> SchemaId {
        self.known.retain(|(known, _)| known.strong_count() > 0);
        let equal =
            |known: &Weak<Schema>| known.upgrade().is_some_and(|known| Arc::ptr_eq(&known, schema) || known == *schema);
        if let Some((_, id)) = self.known.iter().find(|(known, _)| equal(known)) {
            return *id;
        }
        let id = self.next;
        self.next += 1;
        self.known.push((Arc::downgrade(schema), id));
        id
    }
}

/// The numbers that a thread has learnt.
#[derive(Default)]
pub(super) struct LocalSchemas {
    by_address: HashMap<usize, (Weak<Schema>, SchemaId), foldhash::fast::RandomState>,
    /// Entries to have before looking for schemas that are gone.
    next_search: usize,
}

impl LocalSchemas {
    #[inline]
    pub(super) fn id(&mut self, schema: &Arc<Schema>, shared: &Mutex<SharedSchemas>) -> SchemaId {
        match self.by_address.get(&Arc::as_ptr(schema).addr()) {
            Some((_, id)) => *id,
            None => self.learn(schema, shared),
        }
    }

    #[cold]
    fn learn(&mut self, schema: &Arc<Schema>, shared: &Mutex<SharedSchemas>) -> SchemaId {
        if self.by_address.len() >= self.next_search {
            self.by_address.retain(|_, (known, _)| known.strong_count() > 0);
            self.next_search = FEW.max(2 * self.by_address.len());
        }
        let id = super::lock(shared).id(schema);
        self.by_address.insert(Arc::as_ptr(schema).addr(), (Arc::downgrade(schema), id));
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(version: u64) -> Arc<Schema> {
        Arc::new(Schema { version, sharding: None })
    }

    #[test]
    fn equal_schemas_share_a_number_and_different_ones_do_not() {
        let (shared, mut local) = (Mutex::default(), LocalSchemas::default());
        let (one, same, other) = (schema(1), schema(1), schema(2));
        let id = local.id(&one, &shared);
        assert_eq!(local.id(&same, &shared), id);
        assert_ne!(local.id(&other, &shared), id);
        assert_eq!(LocalSchemas::default().id(&other, &shared), local.id(&other, &shared));
    }

    #[test]
    fn numbers_are_not_used_again() {
        let (shared, mut local) = (Mutex::default(), LocalSchemas::default());
        let mut seen = std::collections::HashSet::new();
        for version in 0..1000 {
            let schema = schema(version);
            assert!(seen.insert(local.id(&schema, &shared)), "the number of an older schema, at version {version}");
        }
        assert!(local.by_address.len() <= FEW, "schemas that are gone are forgotten");
        assert!(shared.lock().unwrap().known.len() <= 2);
    }
}
