//! Values of the sharding key, how they are read from SQL text and binary parameters, and PostgreSQL's own hash of them.

use std::fmt;

/// The type of the key column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyType {
    /// smallint, int and bigint: all hash as bigint (`hashint8extended`), as PostgreSQL's cross-type hashing does.
    Int,
    Uuid,
    Text,
}

/// A borrowed key value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Key<'a> {
    Int(i64),
    Uuid([u8; 16]),
    Text(&'a [u8]),
}

/// An owned key value: what overrides are kept by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OwnedKey {
    Int(i64),
    Uuid([u8; 16]),
    Text(Box<[u8]>),
}

impl fmt::Display for OwnedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(value) => write!(f, "{value}"),
            Self::Uuid(value) => write!(f, "{:032x}", u128::from_be_bytes(*value)),
            Self::Text(value) => write!(f, "{}", value.escape_ascii()),
        }
    }
}

impl Key<'_> {
    pub fn to_owned_key(&self) -> OwnedKey {
        match *self {
            Self::Int(value) => OwnedKey::Int(value),
            Self::Uuid(value) => OwnedKey::Uuid(value),
            Self::Text(value) => OwnedKey::Text(value.into()),
        }
    }

    /// `hash(key, 0) & 4095` with PostgreSQL's `hashint8extended`, `uuid_hash_extended` or `hashtextextended`.
    #[inline]
    pub fn slot(&self) -> u16 {
        todo!("router helper: PostgreSQL's hash_bytes_extended family")
    }
}
