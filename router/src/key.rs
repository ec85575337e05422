//! Values of the sharding key, how they are read from SQL text and binary parameters, and PostgreSQL's own hash of them.
//!
//! Reading is all or nothing: what PostgreSQL would not surely turn into the very same value is no key ([`Reading`]).
//! - [`literal`]: constants of a statement's text;
//! - [`parameter`]: values of a Bind message;
//! - [`mod@array`]: what `= ANY (…)` compares with, as text and binary;
//! - [`text`]: the input functions `int8in` and `uuid_in`;
//! - [`hash`]: `hashint8extended` and its family.

pub mod array;
pub mod hash;
pub mod literal;
pub mod parameter;
mod text;

use std::fmt;

use crate::map::SLOTS;

/// The type of the key column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyType {
    /// smallint, int and bigint: all hash as bigint (`hashint8extended`), as PostgreSQL's cross-type hashing does.
    Int,
    Uuid,
    Text,
}

impl KeyType {
    /// The types that a key's text may come as: of a string in the text protocol, or of its own.
    fn accepts(self, oid: u32) -> bool {
        use crate::key::oid::{INT2, INT4, INT8, TEXT, UNKNOWN, UNSPECIFIED, UUID, VARCHAR};
        match self {
            Self::Int => matches!(oid, UNSPECIFIED | UNKNOWN | INT2 | INT4 | INT8),
            Self::Uuid => matches!(oid, UNSPECIFIED | UNKNOWN | UUID),
            Self::Text => matches!(oid, UNSPECIFIED | UNKNOWN | TEXT | VARCHAR),
        }
    }
}

/// Object identifiers of PostgreSQL's built-in types (`pg_type.dat`).
mod oid {
    /// The client left the type to the server.
    pub const UNSPECIFIED: u32 = 0;
    pub const INT8: u32 = 20;
    pub const INT2: u32 = 21;
    pub const INT4: u32 = 23;
    pub const TEXT: u32 = 25;
    pub const UNKNOWN: u32 = 705;
    pub const INT2_ARRAY: u32 = 1005;
    pub const INT4_ARRAY: u32 = 1007;
    pub const TEXT_ARRAY: u32 = 1009;
    pub const VARCHAR_ARRAY: u32 = 1015;
    pub const INT8_ARRAY: u32 = 1016;
    pub const VARCHAR: u32 = 1043;
    pub const UUID: u32 = 2950;
    pub const UUID_ARRAY: u32 = 2951;
}

/// A borrowed key value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Key<'a> {
    Int(i64),
    Uuid([u8; 16]),
    Text(&'a [u8]),
}

/// What a constant or parameter says about the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading<'a> {
    Key(Key<'a>),
    Null,
    /// PostgreSQL is certain to raise an error for it: the statement changes nothing, wherever it runs.
    ServerError,
    /// It may be a value to PostgreSQL, but which one isn't proven. Says why, for the client.
    NotProven(&'static str),
}

/// An owned key value: what overrides are kept by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OwnedKey {
    Int(i64),
    Uuid([u8; 16]),
    Text(Box<[u8]>),
}

impl OwnedKey {
    pub fn as_key(&self) -> Key<'_> {
        match self {
            Self::Int(value) => Key::Int(*value),
            Self::Uuid(value) => Key::Uuid(*value),
            Self::Text(value) => Key::Text(value),
        }
    }
}

impl fmt::Display for OwnedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_key().fmt(f)
    }
}

impl fmt::Display for Key<'_> {
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

    /// `hash(key, 0)` with PostgreSQL's `hashint8extended`, `uuid_hash_extended` or `hashtextextended` (as that hashes under
    /// a deterministic collation).
    #[inline]
    pub fn hash(&self) -> u64 {
        match self {
            Self::Int(value) => hash::int8(*value),
            Self::Uuid(value) => hash::bytes(value),
            Self::Text(value) => hash::bytes(value),
        }
    }

    /// `hash(key, 0) & 4095`.
    #[inline]
    pub fn slot(&self) -> u16 {
        (self.hash() & (SLOTS as u64 - 1)) as u16
    }
}
