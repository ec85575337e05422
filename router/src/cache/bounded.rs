//! A map with a bound on its entries and on the bytes of its keys. What was not asked for since the hand last passed goes
//! first (the clock algorithm), as much as the newcomer needs: a storm of keys that are used once pushes out its own kind
//! and leaves what is in use.

use std::collections::HashMap;
use std::sync::Arc;

/// Where an entry is; valid until the next insertion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot(u32);

impl Slot {
    #[inline]
    fn index(self) -> usize {
        self.0 as usize
    }
}

pub(super) struct Bounded<V> {
    index: HashMap<Arc<[u8]>, Slot, foldhash::fast::RandomState>,
    entries: Vec<Entry<V>>,
    hand: usize,
    bytes: usize,
    most_entries: usize,
    most_bytes: usize,
}

struct Entry<V> {
    key: Arc<[u8]>,
    value: V,
    /// Asked for since the hand last passed.
    used: bool,
}

impl<V> Bounded<V> {
    /// There is always room for one entry.
    pub(super) fn new(most_entries: usize, most_bytes: usize) -> Self {
        Self {
            index: HashMap::default(),
            entries: Vec::new(),
            hand: 0,
            bytes: 0,
            most_entries: most_entries.clamp(1, u32::MAX as usize),
            most_bytes,
        }
    }

    #[inline]
    pub(super) fn find(&mut self, key: &[u8]) -> Option<Slot> {
        let slot = *self.index.get(key)?;
        let entry = &mut self.entries[slot.index()];
        // Read before written: a cache line that is only read stays clean.
        if !entry.used {
            entry.used = true;
        }
        Some(slot)
    }

    #[inline]
    pub(super) fn get(&self, slot: Slot) -> &V {
        &self.entries[slot.index()].value
    }

    pub(super) fn entry(&self, slot: Slot) -> (&Arc<[u8]>, &V) {
        let entry = &self.entries[slot.index()];
        (&entry.key, &entry.value)
    }

    /// Adds an entry, or replaces the value of one.
    pub(super) fn insert(&mut self, key: Arc<[u8]>, value: V) {
        if let Some(slot) = self.index.get(&key) {
            self.entries[slot.index()].value = value;
            return;
        }
        while !self.entries.is_empty() && !self.has_room(key.len()) {
            self.evict();
        }
        self.bytes += key.len();
        self.index.insert(key.clone(), Slot(self.entries.len() as u32));
        self.entries.push(Entry { key, value, used: false });
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.entries.len() < self.most_entries && self.bytes + bytes <= self.most_bytes
    }

    /// Removes the next entry that was not used for a round of the hand.
    fn evict(&mut self) {
        loop {
            self.hand = if self.hand < self.entries.len() { self.hand } else { 0 };
            let entry = &mut self.entries[self.hand];
            if !entry.used {
                break;
            }
            entry.used = false;
            self.hand += 1;
        }
        let evicted = self.entries.swap_remove(self.hand);
        self.bytes -= evicted.key.len();
        self.index.remove(&evicted.key);
        if let Some(moved) = self.entries.get(self.hand) {
            self.index.insert(moved.key.clone(), Slot(self.hand as u32));
        }
        // What was moved here is the youngest, and the next comes to the end: their turn is in the next round.
        self.hand = if self.hand < self.entries.len() { self.hand + 1 } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insert(map: &mut Bounded<usize>, number: usize) {
        map.insert(format!("key {number:06}").into_bytes().into(), number);
    }

    fn holds(map: &mut Bounded<usize>, number: usize) -> bool {
        let slot = map.find(format!("key {number:06}").as_bytes());
        slot.is_some_and(|slot| *map.get(slot) == number)
    }

    #[test]
    fn a_storm_stays_bounded_and_leaves_what_is_in_use() {
        let mut map = Bounded::new(100, usize::MAX);
        for number in 0..10 {
            insert(&mut map, number);
        }
        for number in 1000..11000 {
            insert(&mut map, number);
            for kept in 0..10 {
                assert!(holds(&mut map, kept), "{kept} was pushed out by {number}");
            }
            assert!(map.entries.len() <= 100 && map.index.len() == map.entries.len());
        }
    }

    #[test]
    fn eviction_takes_few_and_not_the_youngest() {
        let mut map = Bounded::new(100, usize::MAX);
        for number in 0..1000 {
            insert(&mut map, number);
        }
        assert_eq!(map.entries.len(), 100);
        let young = (950..1000).filter(|&number| holds(&mut map, number)).count();
        assert!(young >= 49, "only {young} of the 50 youngest are left");
    }

    #[test]
    fn bytes_are_bounded() {
        let mut map = Bounded::new(1000, 100);
        for number in 0..1000 {
            insert(&mut map, number);
            assert!(map.bytes <= 100);
        }
        assert_eq!(map.entries.len(), 10);
        map.insert(vec![0; 1000].into(), 7);
        assert_eq!(map.entries.len(), 1, "an entry beyond the bound stands alone");
        insert(&mut map, 1);
        assert_eq!(map.bytes, 10);
    }

    #[test]
    fn every_entry_is_found_where_it_was_moved_to() {
        let mut map = Bounded::new(7, usize::MAX);
        for number in 0..500 {
            insert(&mut map, number);
            if number % 3 == 0 {
                assert!(holds(&mut map, number));
            }
            for (at, entry) in map.entries.iter().enumerate() {
                assert_eq!(map.index.get(&entry.key).map(|slot| slot.index()), Some(at));
            }
        }
    }

    #[test]
    fn inserting_again_replaces() {
        let mut map = Bounded::new(1, usize::MAX);
        map.insert(b"a".as_slice().into(), 1);
        map.insert(b"a".as_slice().into(), 2);
        let slot = map.find(b"a").unwrap();
        assert_eq!((*map.get(slot), map.bytes), (2, 1));
    }
}
