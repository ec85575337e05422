//! Names of prepared transactions: `sluice:<transaction id>:<decision shard>:<own shard>`.
//!
//! PostgreSQL keeps these names for a whole server, which may hold several shards, so the own shard is part of them. The
//! decision shard is part of them so that whoever finds one knows where to ask for the outcome.
//!
//! What the committing instance has to keep to, so that [recovery](crate::recovery) can't contradict it:
//! 1. the transaction on the decision shard is open before the first PREPARE TRANSACTION is sent;
//! 2. `sluice.decide(<transaction id>, <decision shard>)` and COMMIT on the decision shard come after the last PREPARE
//!    TRANSACTION has succeeded;
//! 3. COMMIT PREPARED comes after that COMMIT has succeeded. If its outcome is unknown, recovery finds out.

use std::fmt;
use std::str::FromStr;

use sluice_router::ShardId;

/// PostgreSQL refuses longer names.
const MAX_GID: usize = 199;
/// What is left for the transaction id beside the prefix, the colons and two shard numbers.
const MAX_ID: usize = MAX_GID - "sluice::65535:65535".len();

/// Names one distributed transaction. Letters, digits, `_` and `-` only, so that it can stand in an SQL string as it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId(Box<str>);

impl TransactionId {
    /// From 128 random bits. They have to be hard to guess: every role may call `sluice.decide()`.
    pub fn from_random(bits: u128) -> Self {
        Self(format!("{bits:032x}").into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TransactionId {
    type Err = GidError;

    fn from_str(text: &str) -> Result<Self, GidError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if text.is_empty() || text.len() > MAX_ID || !text.bytes().all(allowed) {
            return Err(GidError(text.to_owned()));
        }
        Ok(Self(text.into()))
    }
}

/// The name of one shard's part of a distributed transaction. Displayed, it is what PREPARE TRANSACTION takes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Gid {
    transaction: TransactionId,
    decision_shard: u16,
    own_shard: u16,
}

impl Gid {
    pub fn new(transaction: TransactionId, decision_shard: ShardId, own_shard: ShardId) -> Self {
        // A ShardId is made from a u16.
        let number = |shard: ShardId| shard.index() as u16;
        Self { transaction, decision_shard: number(decision_shard), own_shard: number(own_shard) }
    }

    pub fn transaction(&self) -> &TransactionId {
        &self.transaction
    }

    /// A number, not a [`ShardId`]: a gid that was found may be older than the map at hand.
    pub fn decision_shard(&self) -> u16 {
        self.decision_shard
    }

    pub fn own_shard(&self) -> u16 {
        self.own_shard
    }
}

impl fmt::Display for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sluice:{}:{}:{}", self.transaction.as_str(), self.decision_shard, self.own_shard)
    }
}

/// A text that is not one of our gids.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the name of a prepared transaction of this version")]
pub struct GidError(String);

impl FromStr for Gid {
    type Err = GidError;

    fn from_str(text: &str) -> Result<Self, GidError> {
        let wrong = || GidError(text.to_owned());
        let parts: Vec<&str> = text.split(':').collect();
        let ["sluice", transaction, decision_shard, own_shard] = parts[..] else {
            return Err(wrong());
        };
        let gid = Self {
            transaction: transaction.parse()?,
            decision_shard: decision_shard.parse().map_err(|_| wrong())?,
            own_shard: own_shard.parse().map_err(|_| wrong())?,
        };
        // One spelling only: "+1" and "01" parse as numbers, but we never wrote them.
        if gid.to_string() == text { Ok(gid) } else { Err(wrong()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_gid_is_read_as_it_was_written(id in "[A-Za-z0-9_-]{1,180}", decision: u16, own: u16) {
            let text = format!("sluice:{id}:{decision}:{own}");
            let gid: Gid = text.parse().unwrap();
            prop_assert_eq!((gid.transaction().as_str(), gid.decision_shard(), gid.own_shard()), (&*id, decision, own));
            prop_assert_eq!(gid.to_string(), text);
        }

        #[test]
        fn whatever_is_read_is_safe_in_an_sql_string_and_fits(text in "\\PC*") {
            if let Ok(gid) = text.parse::<Gid>() {
                prop_assert!(!text.contains(['\'', '\\']) && text.len() <= MAX_GID && gid.to_string() == text);
            }
        }
    }

    #[test]
    fn the_longest_id_still_fits() {
        let id = "x".repeat(MAX_ID);
        assert_eq!(format!("sluice:{id}:65535:65535").parse::<Gid>().unwrap().to_string().len(), MAX_GID);
        assert!(format!("{id}x").parse::<TransactionId>().is_err());
    }

    #[test]
    fn other_names_are_not_ours() {
        for text in [
            "",
            "sluice",
            "sluice:a:1",
            "sluice::1:2",
            "sluice:a:1:2:3",
            "sluice:a'b:1:2",
            "sluice:a:01:2",
            "sluice:a:+1:2",
            "sluice:a:65536:2",
            "pgbouncer:a:1:2",
            " sluice:a:1:2",
        ] {
            assert!(text.parse::<Gid>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn random_ids_have_one_length() {
        assert_eq!(TransactionId::from_random(1).as_str(), "00000000000000000000000000000001");
    }
}
