//! A template plus this execution's constants and parameters: where it runs.
//!
//! Hot path: runs once per execution. No allocation unless the statement is refused (or its key is a string with escapes).

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::key::array::{self, ArrayReading};
use crate::key::{Key, Reading, literal, parameter};
use crate::lexer::Literal;
use crate::map::{ShardId, ShardMap};
use crate::template::{KeySource, KeyUsage, Refusal, Route, Statement};

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
    map: &ShardMap,
    statement: &Statement,
    sql: &[u8],
    literals: &[Literal],
    parameters: &dyn Parameters,
) -> Plan {
    match &statement.route {
        Route::Keyed(sources) => Execution { map, sql, literals, parameters }.keyed(sources),
        Route::Any => Ok(Target::Any),
        Route::Home => Ok(Target::Home),
        Route::AllShards => Ok(Target::AllShards),
        Route::Cursor(_) => Ok(Target::Cursor),
        Route::Refused(refusal) => Err(refusal.clone()),
    }
}

/// The hash of the first sharding key that the statement names: whose statement it is.
pub fn tenant(
    map: &ShardMap,
    statement: &Statement,
    sql: &[u8],
    literals: &[Literal],
    parameters: &dyn Parameters,
) -> Option<u64> {
    let Route::Keyed(sources) = &statement.route else { return None };
    let mut tenant = None;
    // What can't be read has been refused before.
    let _ = Execution { map, sql, literals, parameters }.each_key(sources, &mut |key| {
        tenant.get_or_insert(key.hash());
    });
    tenant
}

/// One execution of a statement: what its key sources are read from.
pub(crate) struct Execution<'a> {
    pub(crate) map: &'a ShardMap,
    pub(crate) sql: &'a [u8],
    pub(crate) literals: &'a [Literal],
    pub(crate) parameters: &'a dyn Parameters,
}

/// Why the keys of a statement were not all read.
pub(crate) enum Stop {
    /// PostgreSQL will raise an error of its own, wherever the statement runs.
    ServerError,
    Refused(Box<Refusal>),
}

impl Execution<'_> {
    fn keyed(&self, sources: &[KeySource]) -> Plan {
        if let [KeySource::CopyColumn { column }] = sources {
            return Ok(Target::CopyRows(*column));
        }
        let mut shard = None;
        let mut several = false;
        let read = self.each_key(sources, &mut |key| {
            let its_shard = self.map.shard_of(&key);
            several |= *shard.get_or_insert(its_shard) != its_shard;
        });
        match (read, shard) {
            (Err(Stop::Refused(refusal)), _) => Err(refusal),
            // The client gets the server's own error. Nothing is changed, so one shard's answer is as right as another's.
            (Err(Stop::ServerError), _) => Ok(Target::Home),
            (Ok(()), _) if several => Err(self.several_shards(sources)),
            (Ok(()), Some(shard)) => Ok(Target::Shard(shard)),
            // Compared with NULL or an empty array: no row of any shard.
            (Ok(()), None) => Ok(Target::Any),
        }
    }

    /// Hands out the key values of all sources. NULLs of filters are left out: they match no row.
    pub(crate) fn each_key(&self, sources: &[KeySource], each: &mut dyn FnMut(Key<'_>)) -> Result<(), Stop> {
        sources.iter().try_for_each(|source| self.keys_of(source, each))
    }

    #[inline]
    fn keys_of(&self, source: &KeySource, each: &mut dyn FnMut(Key<'_>)) -> Result<(), Stop> {
        let key_type = self.map.key_type();
        match *source {
            KeySource::Literal { index, negated, usage } => {
                let literal = self.literal(index)?;
                let mut buffer = Vec::new();
                let reading = literal::read(key_type, literal, negated, self.sql, &mut buffer);
                self.take(source, reading, usage, each)
            }
            KeySource::Parameter { number, usage } => {
                // Fewer parameters than the statement has: the server says so.
                let parameter = self.parameters.parameter(number).ok_or(Stop::ServerError)?;
                self.take(source, parameter::read(key_type, parameter), usage, each)
            }
            KeySource::LiteralArray { index } => {
                let Some(text) = literal::string(self.literal(index)?, self.sql) else {
                    return Err(self.unread(source, "the constant is not a plain string"));
                };
                self.take_array(source, array::read_text(key_type, &text, each))
            }
            KeySource::ParameterArray { number } => {
                let parameter = self.parameters.parameter(number).ok_or(Stop::ServerError)?;
                self.take_array(source, array::read_parameter(key_type, parameter, each))
            }
            KeySource::CopyColumn { .. } => Err(self.unread(source, "a COPY has other keys beside those of its rows")),
        }
    }

    fn literal(&self, index: u16) -> Result<&Literal, Stop> {
        let missing = || {
            Stop::Refused(refusal(
                "XX000",
                format!("the statement has no constant number {}", index + 1),
                "Its template belongs to another text.".into(),
                "This is a fault of the router: please report it with the statement.",
            ))
        };
        self.literals.get(usize::from(index)).ok_or_else(missing)
    }

    #[inline]
    fn take(
        &self,
        source: &KeySource,
        reading: Reading<'_>,
        usage: KeyUsage,
        each: &mut dyn FnMut(Key<'_>),
    ) -> Result<(), Stop> {
        match reading {
            Reading::Key(key) => each(key),
            Reading::Null if usage == KeyUsage::Insert => return Err(self.null_key()),
            Reading::Null => {}
            Reading::ServerError => return Err(Stop::ServerError),
            Reading::NotProven(why) => return Err(self.unread(source, why)),
        }
        Ok(())
    }

    fn take_array(&self, source: &KeySource, reading: ArrayReading) -> Result<(), Stop> {
        match reading {
            ArrayReading::Done | ArrayReading::Null => Ok(()),
            ArrayReading::ServerError => Err(Stop::ServerError),
            ArrayReading::NotProven(why) => Err(self.unread(source, why)),
        }
    }

    /// The key column's name, for messages.
    fn key_column(&self) -> &str {
        self.map.schema().sharding.as_ref().map_or("", |sharding| &sharding.key_column)
    }

    fn null_key(&self) -> Stop {
        Stop::Refused(refusal(
            "23502",
            format!("null value in column \"{}\" violates not-null constraint", self.key_column()),
            "The column is the sharding key: a row without it belongs to no shard.".into(),
            "Give the row the key of the organization that owns it.",
        ))
    }

    fn unread(&self, source: &KeySource, why: &str) -> Stop {
        Stop::Refused(refusal(
            "0A000",
            format!("cannot read the sharding key \"{}\" from {}", self.key_column(), describe(source)),
            format!("{}.", capitalized(why)),
            "Write the key as a plain constant, or send it as a parameter, of the key column's own type.",
        ))
    }

    #[cold]
    fn several_shards(&self, sources: &[KeySource]) -> Box<Refusal> {
        let (mut keys, mut shards) = (BTreeSet::new(), BTreeSet::new());
        // Was read to the end before: no error can come.
        let _ = self.each_key(sources, &mut |key| {
            keys.insert(key.to_owned_key());
            shards.insert(self.map.shard_of(&key));
        });
        let names: Vec<_> = shards.iter().map(ToString::to_string).collect();
        refusal(
            "0A000",
            "cross-shard statements are not supported in this version".into(),
            format!(
                "The statement names {} values of the sharding key \"{}\", whose rows are on {} shards ({}).",
                keys.len(),
                self.key_column(),
                shards.len(),
                names.join(", ")
            ),
            "Split the statement so that each one names keys of a single shard; one transaction may hold them all.",
        )
    }
}

/// Where a key stands, in words.
pub(crate) fn describe(source: &KeySource) -> String {
    match source {
        KeySource::Literal { index, .. } => format!("constant number {}", index + 1),
        KeySource::LiteralArray { index } => format!("the array in constant number {}", index + 1),
        KeySource::Parameter { number, .. } => format!("parameter ${number}"),
        KeySource::ParameterArray { number } => format!("the array in parameter ${number}"),
        KeySource::CopyColumn { column } => format!("column {} of the COPY data", column + 1),
    }
}

fn refusal(sqlstate: &'static str, message: String, detail: String, hint: &str) -> Box<Refusal> {
    Box::new(Refusal { sqlstate: Cow::Borrowed(sqlstate), message, detail, hint: hint.into(), position: 0 })
}

/// Details are sentences.
fn capitalized(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
