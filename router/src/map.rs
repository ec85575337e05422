//! The shard map: an immutable, versioned value. Instances swap it whole.
//!
//! *Slots* (4,096) are PostgreSQL's own hash of the sharding key, masked; each slot belongs to one shard, and an
//! *organization override* beats its slot. The schema says of each table what class it is of.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::key::{Key, KeyType, OwnedKey};

/// Number of slots: `hash(key) & (SLOTS - 1)`.
pub const SLOTS: usize = 4096;

/// A shard's number. Only a [`ShardMap`] makes one, so holding one proves that the shard exists.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ShardId(u16);

impl ShardId {
    /// Index into [`ShardMap::shards`].
    #[inline]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Where a shard's primary is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Placement {
    /// The node's name in the catalog.
    pub node: String,
    /// Host name, address, or directory of a unix socket.
    pub host: String,
    pub port: u16,
    pub dbname: String,
}

/// Everything that routing needs, at one version.
#[derive(Debug, Clone)]
pub struct ShardMap {
    version: u64,
    key_type: KeyType,
    slots: Box<[ShardId]>,
    /// By slot, so that a key is compared with the overrides of its own slot only.
    overrides: Box<[Override]>,
    shards: Box<[Placement]>,
    schema: Arc<Schema>,
}

#[derive(Debug, Clone)]
struct Override {
    slot: u16,
    key: OwnedKey,
    shard: ShardId,
}

/// A shard map that contradicts itself.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MapError {
    #[error("a shard map needs at least one shard")]
    NoShards,
    #[error("a shard map needs {SLOTS} slots, not {0}")]
    SlotCount(usize),
    #[error("{what} names shard {shard}, but there are only {shards} shards")]
    UnknownShard { what: String, shard: u16, shards: usize },
}

impl ShardMap {
    /// Builds a map from the catalog's rows. `slots[i]` and the overrides' values are shard numbers, which are indexes into
    /// `shards`; the home shard is number 0.
    pub fn new(
        version: u64,
        key_type: KeyType,
        slots: &[u16],
        overrides: impl IntoIterator<Item = (OwnedKey, u16)>,
        shards: Vec<Placement>,
        schema: Arc<Schema>,
    ) -> Result<Self, MapError> {
        if shards.is_empty() {
            return Err(MapError::NoShards);
        }
        if slots.len() != SLOTS {
            return Err(MapError::SlotCount(slots.len()));
        }
        let count = shards.len();
        let checked = |shard: u16, what: &dyn Fn() -> String| {
            if usize::from(shard) < count {
                Ok(ShardId(shard))
            } else {
                Err(MapError::UnknownShard { what: what(), shard, shards: count })
            }
        };
        let slots = slots
            .iter()
            .enumerate()
            .map(|(i, &shard)| checked(shard, &|| format!("slot {i}")))
            .collect::<Result<Box<[_]>, _>>()?;
        let mut overrides = overrides
            .into_iter()
            .map(|(key, shard)| {
                let shard = checked(shard, &|| format!("the override of {key}"))?;
                Ok(Override { slot: key.as_key().slot(), key, shard })
            })
            .collect::<Result<Box<[_]>, MapError>>()?;
        overrides.sort_unstable_by_key(|entry| entry.slot);
        Ok(Self { version, key_type, slots, overrides, shards: shards.into(), schema })
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn key_type(&self) -> KeyType {
        self.key_type
    }

    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// The shard that holds `key`'s rows.
    #[inline]
    pub fn shard_of(&self, key: &Key<'_>) -> ShardId {
        let slot = key.slot();
        if !self.overrides.is_empty()
            && let Some(shard) = self.override_of(key, slot)
        {
            return shard;
        }
        self.slots[usize::from(slot)]
    }

    fn override_of(&self, key: &Key<'_>, slot: u16) -> Option<ShardId> {
        let first = self.overrides.partition_point(|entry| entry.slot < slot);
        let mut of_slot = self.overrides[first..].iter().take_while(|entry| entry.slot == slot);
        of_slot.find(|entry| entry.key.as_key() == *key).map(|entry| entry.shard)
    }

    pub fn home(&self) -> ShardId {
        ShardId(0)
    }

    /// All shards, in order of their numbers.
    pub fn shard_ids(&self) -> impl ExactSizeIterator<Item = ShardId> + use<> {
        (0..self.shards.len() as u16).map(ShardId)
    }

    pub fn shards(&self) -> &[Placement] {
        &self.shards
    }

    pub fn placement(&self, shard: ShardId) -> &Placement {
        &self.shards[shard.index()]
    }

    /// Spreads what any shard can answer: the same `seed` always gets the same shard.
    pub fn any(&self, seed: u64) -> ShardId {
        ShardId((seed % self.shards.len() as u64) as u16)
    }

    pub fn slots(&self) -> &[ShardId] {
        &self.slots
    }

    pub fn overrides(&self) -> impl ExactSizeIterator<Item = (&OwnedKey, ShardId)> {
        self.overrides.iter().map(|entry| (&entry.key, entry.shard))
    }
}

/// The classes of tables (see the design: sharded, reference, home). What is in no class is refused.
#[derive(Debug, Clone, PartialEq, Eq, Copy)]
pub enum TableClass {
    /// Has the key column; each row lives on its key's shard.
    Sharded,
    /// The same rows on every shard.
    Reference,
    /// On the home shard only.
    Home,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub class: TableClass,
    /// All columns in the table's own order: an INSERT without a column list follows it.
    pub columns: Box<[Box<str>]>,
}

impl Table {
    /// A reference table that the console has announced and nobody has created yet: it has no columns.
    pub fn is_declared(&self) -> bool {
        self.class == TableClass::Reference && self.columns.is_empty()
    }

    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| &**column == name)
    }
}

/// A function outside pg_catalog that the catalog vouches for.
#[derive(Debug, Clone, PartialEq, Eq, Copy)]
pub enum FunctionClass {
    /// Reads no table and writes nothing: right on any shard.
    Pure,
    /// Touches only rows of the organization that its statement is pinned to.
    ShardLocal,
}

/// The tables of one sharded database, or the mark of an unsharded one (where nothing needs to be known).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Schema {
    /// Changes with every change of what is below: templates analysed against another version are analysed again.
    pub version: u64,
    /// None: an unsharded database; every statement runs as it is.
    pub sharding: Option<Sharding>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sharding {
    /// The sharding key's column name, the same in all sharded tables: `organization_id`.
    pub key_column: String,
    /// Its type: which constants and parameters the analysis may take as a key.
    pub key_type: KeyType,
    /// (schema, table) → class and columns.
    pub tables: HashMap<(String, String), Table>,
    /// (schema, function) → class.
    pub functions: HashMap<(String, String), FunctionClass>,
}

impl Schema {
    /// An unsharded database.
    pub fn unsharded() -> Arc<Self> {
        Arc::new(Self::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overrides_hold_for_their_own_keys_only() {
        let placement = |_| Placement { node: "n".into(), host: "h".into(), port: 5432, dbname: "d".into() };
        let keys: Vec<OwnedKey> = (0..10_000).map(|n| OwnedKey::Text(format!("org {n}").into_bytes().into())).collect();
        // Every third key is moved: several share a slot.
        let moved = keys.iter().step_by(3).map(|key| (key.clone(), 1));
        let map =
            ShardMap::new(1, KeyType::Text, &[0; SLOTS], moved, (0..2).map(placement).collect(), Schema::unsharded());
        let map = map.expect("the map is consistent");
        for (n, key) in keys.iter().enumerate() {
            assert_eq!(map.shard_of(&key.as_key()).index(), usize::from(n % 3 == 0), "{key}");
        }
        assert_eq!(map.overrides().len(), keys.len().div_ceil(3));
    }

    #[test]
    fn maps_that_contradict_themselves_are_refused() {
        let placement = || vec![Placement { node: "n".into(), host: "h".into(), port: 5432, dbname: "d".into() }];
        let build = |slots: &[u16], overrides: Vec<(OwnedKey, u16)>, shards| {
            ShardMap::new(1, KeyType::Int, slots, overrides, shards, Schema::unsharded()).map(|map| map.version())
        };
        assert_eq!(build(&[0; SLOTS], vec![], placement()), Ok(1));
        assert_eq!(build(&[0; SLOTS], vec![], vec![]), Err(MapError::NoShards));
        assert_eq!(build(&[0; 16], vec![], placement()), Err(MapError::SlotCount(16)));
        let unknown = |what: &str| Err(MapError::UnknownShard { what: what.into(), shard: 1, shards: 1 });
        assert_eq!(build(&[1; SLOTS], vec![], placement()), unknown("slot 0"));
        assert_eq!(build(&[0; SLOTS], vec![(OwnedKey::Int(7), 1)], placement()), unknown("the override of 7"));
    }
}
