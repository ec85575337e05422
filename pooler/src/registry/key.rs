//! Cancel keys: what a client proves itself with when it asks to cancel its statement.
//!
//! In peering, a key also says which process has the client. As in PgBouncer, its bytes 1 and 2 are the peer's number, low
//! byte first, and the two low bits of byte 7 count how often a request may still be forwarded. Long keys (32 secret bytes,
//! protocol 3.2) have them at the same places.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use sluice_wire::startup::CancelKey;
use subtle::ConstantTimeEq;

use super::ClientEntry;

/// In the byte [`HOPS_AT`].
const HOPS: u8 = 3;
const HOPS_AT: usize = 7;

/// A client's cancel key: its process id, and 4 or 32 secret bytes.
#[derive(Debug)]
pub struct ClientKey {
    /// The process id and four secret bytes, with all hops to go.
    first: [u8; 8],
    rest: Option<Box<[u8; 28]>>,
}

impl ClientKey {
    /// `peer` is this process's number, or 0 without peering.
    pub(super) fn random(peer: u16, long: bool) -> Self {
        let mut first: [u8; 8] = rand::random();
        // Process ids are positive.
        first[0] &= 0x7f;
        if peer > 0 {
            first[1..3].copy_from_slice(&peer.to_le_bytes());
        }
        first[HOPS_AT] |= HOPS;
        Self { first, rest: long.then(|| Box::new(rand::random())) }
    }

    /// As the client is told.
    pub fn announced(&self) -> CancelKey {
        let [a, b, c, d, secret @ ..] = self.first;
        let rest = self.rest.as_deref().map_or(&[][..], |rest| rest);
        CancelKey { pid: i32::from_be_bytes([a, b, c, d]), secret: [&secret, rest].concat() }
    }

    /// Compares what [`KeyIndex`] has not, in constant time.
    fn has_rest(&self, rest: &[u8]) -> bool {
        self.rest.as_deref().map_or(&[][..], |own| own).ct_eq(rest).into()
    }
}

/// The first eight bytes, as they are before any hop; a shorter key is nobody's.
fn first_bytes(key: &CancelKey) -> Option<([u8; 8], &[u8])> {
    let (secret, rest) = key.secret.split_first_chunk::<4>()?;
    let ([a, b, c, d], [e, f, g, h]) = (key.pid.to_be_bytes(), *secret);
    Some(([a, b, c, d, e, f, g, h | HOPS], rest))
}

/// The number of the process that made this key, if that is in peering.
pub fn peer_of(key: &CancelKey) -> u16 {
    let [_, low, high, _] = key.pid.to_be_bytes();
    u16::from_le_bytes([low, high])
}

/// The key for the next process, with one hop fewer; `None` if there is none left.
pub fn forwarded(key: &CancelKey) -> Option<CancelKey> {
    let mut next = key.clone();
    let byte = next.secret.get_mut(HOPS_AT - size_of::<i32>())?;
    if *byte & HOPS == 0 {
        return None;
    }
    *byte -= 1;
    Some(next)
}

/// Clients by the first eight bytes of their keys, which no two of them share.
#[derive(Debug, Default)]
pub(super) struct KeyIndex(HashSet<ByKey>);

impl KeyIndex {
    /// A key that nobody has.
    pub(super) fn unused(&self, peer: u16, long: bool) -> ClientKey {
        loop {
            let key = ClientKey::random(peer, long);
            if !self.0.contains(&key.first) {
                return key;
            }
        }
    }

    pub(super) fn insert(&mut self, client: Arc<ClientEntry>) {
        self.0.insert(ByKey(client));
    }

    pub(super) fn remove(&mut self, key: &ClientKey) {
        self.0.remove(&key.first);
    }

    /// Whose key this is. How long it takes tells nothing: the hash is keyed, and eight bytes are compared at once.
    pub(super) fn find(&self, key: &CancelKey) -> Option<Arc<ClientEntry>> {
        let (first, rest) = first_bytes(key)?;
        let ByKey(client) = self.0.get(&first)?;
        client.key.has_rest(rest).then(|| client.clone())
    }
}

/// A set of these is a map from keys to clients, without a second copy of each key.
#[derive(Debug)]
struct ByKey(Arc<ClientEntry>);

impl Borrow<[u8; 8]> for ByKey {
    fn borrow(&self) -> &[u8; 8] {
        &self.0.key.first
    }
}

impl Hash for ByKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key.first.hash(state);
    }
}

impl PartialEq for ByKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.key.first == other.0.key.first
    }
}

impl Eq for ByKey {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_names_its_peer_and_counts_its_hops() {
        for long in [false, true] {
            let mut key = ClientKey::random(0x1234, long).announced();
            assert!(key.pid > 0);
            assert_eq!(key.secret.len(), if long { 32 } else { 4 });
            let first = first_bytes(&key).map(|(first, _)| first);
            for _ in 0..3 {
                key = forwarded(&key).expect("a hop");
                assert_eq!(peer_of(&key), 0x1234);
                assert_eq!(first_bytes(&key).map(|(first, _)| first), first, "hops are no part of the secret");
            }
            assert_eq!(forwarded(&key), None);
        }
    }

    #[test]
    fn the_bytes_are_where_pgbouncer_has_them() {
        let key = CancelKey { pid: i32::from_be_bytes([1, 2, 0, 4]), secret: vec![5, 6, 7, 0xff] };
        assert_eq!(peer_of(&key), 2);
        assert_eq!(forwarded(&key).map(|key| key.secret), Some(vec![5, 6, 7, 0xfe]));
    }

    #[test]
    fn the_rest_of_a_long_key_counts() {
        let key = ClientKey::random(0, true);
        let (_, mut rest) = (key.announced(), key.announced().secret[4..].to_vec());
        assert!(key.has_rest(&rest));
        assert!(!key.has_rest(&[]));
        rest[27] ^= 1;
        assert!(!key.has_rest(&rest));
        assert!(ClientKey::random(0, false).has_rest(&[]));
    }
}
