//! From a row's key to its shard, by the rules for parameters in text format.

use super::error::{CopyError, CopyFault};
use super::rows::{Row, RowKey};
use crate::key::{Reading, parameter};
use crate::map::{ShardId, ShardMap};
use crate::plan::{Format, Parameter};

/// The type of a parameter that is left to the server, as the text of a COPY is.
const UNSPECIFIED: u32 = 0;

/// A key that is quoted in an error ends after so many bytes.
const QUOTED: usize = 64;

/// Where a row has to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    Shard(ShardId),
    /// The header: each shard that gets rows gets it before them.
    EveryShard,
}

impl Row<'_> {
    /// Where the row belongs.
    #[inline]
    pub fn destination(&self, map: &ShardMap) -> Result<Destination, CopyError> {
        let column = || self.key_column.into();
        let fault = match &self.key {
            RowKey::Header => return Ok(Destination::EveryShard),
            RowKey::Null => CopyFault::NullKey { column: column() },
            RowKey::Value(value) => match read(map, value) {
                Reading::Key(key) => return Ok(Destination::Shard(map.shard_of(&key))),
                Reading::Null => CopyFault::NullKey { column: column() },
                Reading::ServerError => CopyFault::InvalidKey { column: column(), value: quoted(value) },
                Reading::NotProven(why) => CopyFault::UnprovenKey { column: column(), value: quoted(value), why },
            },
        };
        Err(CopyError { line: self.line, fault })
    }
}

#[inline]
fn read<'a>(map: &ShardMap, value: &'a [u8]) -> Reading<'a> {
    parameter::read(map.key_type(), Parameter { oid: UNSPECIFIED, format: Format::Text, value: Some(value) })
}

fn quoted(value: &[u8]) -> Box<str> {
    let shown = &value[..value.len().min(QUOTED)];
    let more = if value.len() > QUOTED { "…" } else { "" };
    format!("{}{more}", shown.escape_ascii()).into()
}
