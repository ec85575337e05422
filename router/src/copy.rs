//! Rows of COPY … FROM STDIN, as values: where each row ends, and what its sharding key is.
//!
//! A sharded COPY is routed row by row. The client's CopyData messages go in as they come (their borders mean nothing);
//! rows come out with their own bytes, to be sent on unchanged to the shard that [`Row::destination`] names. Rows are told
//! apart and columns are read exactly as PostgreSQL 15 does it, so that a shard sees the same rows as are seen here. What
//! is wrong with other columns than the key is left to the shard, whose COPY then fails.
//!
//! The data has to be in an encoding that never uses ASCII bytes inside other characters, and a text key in the
//! database's own encoding: UTF-8 is both.
//!
//! Read in this order:
//! - [`options`]: the statement's options to a [`CopyFormat`];
//! - [`lines`]: where a row ends, and where the data ends;
//! - [`fields`]: one column's value out of a row;
//! - [`rows`]: both together on a buffer: the [`RowCutter`];
//! - [`destination`]: the key's value to a shard;
//! - [`error`]: what can be wrong with the data.

mod destination;
mod error;
mod fields;
mod lines;
mod options;
mod rows;
#[cfg(test)]
mod tests;

pub use destination::Destination;
pub use error::{CopyError, CopyFault};
pub use options::CopyFormat;
pub use rows::{MAX_ROW, Row, RowCutter, RowKey};
