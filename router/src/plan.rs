//! A template plus this execution's constants and parameters: where it runs.

use crate::map::{ShardId, ShardMap};
use crate::template::{Refusal, Statement};

/// How a parameter's bytes are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Text,
    Binary,
}

/// One value of a Bind message.
#[derive(Debug, Clone, Copy)]
pub struct Parameter<'a> {
    /// The type that the client declared in Parse; 0 = left to the server.
    pub oid: u32,
    pub format: Format,
    /// None = NULL.
    pub value: Option<&'a [u8]>,
}

/// The parameters of one execution. The session implements it over the Bind message's bytes.
pub trait Parameters {
    /// `$number`, from 1; None if there are fewer.
    fn parameter(&self, number: u16) -> Option<Parameter<'_>>;
}

/// A statement without parameters (the simple protocol).
pub struct NoParameters;

impl Parameters for NoParameters {
    fn parameter(&self, _: u16) -> Option<Parameter<'_>> {
        None
    }
}

/// Where one statement runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// On the one shard that holds all its keys.
    Shard(ShardId),
    /// On any one shard.
    Any,
    /// On the home shard (in an unsharded database: the server).
    Home,
    /// On all shards, atomically.
    AllShards,
    /// Where its cursor was declared: the session knows.
    Cursor,
    /// By the rows that follow in COPY data; column number of the key, from 0.
    CopyRows(u16),
}

/// A decision: a target, or why there is none.
pub type Plan = Result<Target, Box<Refusal>>;

/// Decides one statement of a template. `sql` and `literals` are of this very text (the lexer's output).
/// No allocation unless refused.
pub fn plan(
    _map: &ShardMap,
    _statement: &Statement,
    _sql: &[u8],
    _literals: &[crate::lexer::Literal],
    _parameters: &dyn Parameters,
) -> Plan {
    todo!("router helper")
}
