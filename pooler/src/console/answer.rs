//! What a command answers, and how that becomes messages, in text and in binary format.
//!
//! PgBouncer only knows text. Drivers that speak the extended protocol ask for binary, so the four types of the console's
//! columns can be sent in both.

use std::sync::Arc;

use sluice_wire::message::{self, Column};

use crate::app::ShutdownMode;
use crate::net::Listening;

const BYTEA: u32 = 17;
const TEXT: u32 = 25;
const INT4: u32 = 23;
const INT8: u32 = 20;
const NUMERIC: u32 = 1700;

/// Format code of the binary format.
pub const BINARY: i16 = 1;

pub const fn text(name: &'static str) -> Column {
    Column { name, oid: TEXT }
}

pub const fn int(name: &'static str) -> Column {
    Column { name, oid: INT4 }
}

pub const fn bigint(name: &'static str) -> Column {
    Column { name, oid: INT8 }
}

pub const fn bytea(name: &'static str) -> Column {
    Column { name, oid: BYTEA }
}

pub const fn numeric(name: &'static str) -> Column {
    Column { name, oid: NUMERIC }
}

/// A field of a row. Numbers take their type from the column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Null,
    Text(String),
    Number(i64),
}

pub type Row = Vec<Value>;

/// Makes a row of whatever converts to [`Value`].
macro_rules! row {
    ($($value:expr),* $(,)?) => { vec![$($crate::console::answer::Value::from($value)),*] };
}
pub(super) use row;

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Self::from(number as u64)
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl From<u16> for Value {
    fn from(number: u16) -> Self {
        Self::Number(number.into())
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Number(flag.into())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// What a command answers if it doesn't fail.
#[derive(Debug)]
pub enum Answer {
    /// The columns are known from the command: [`super::parse::Command::columns`].
    Rows {
        tag: &'static str,
        rows: Vec<Row>,
    },
    Done {
        tag: String,
        notice: Option<Notice>,
    },
    /// Rows that sockets go along with.
    Sockets(Vec<(Row, Arc<Listening>)>),
    /// The process is to end: at once, without an answer, or by and by.
    Shutdown(ShutdownMode),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub message: &'static str,
    pub detail: String,
}

impl Answer {
    pub fn done(tag: impl Into<String>) -> Self {
        Self::Done { tag: tag.into(), notice: None }
    }
}

impl Notice {
    pub fn encode(&self, out: &mut Vec<u8>) {
        message::notice(out, "00000", self.message, &self.detail);
    }
}

/// Appends a DataRow; `formats` has one code for each column.
pub fn data_row(out: &mut Vec<u8>, columns: &[Column], formats: &[i16], row: &[Value]) {
    debug_assert_eq!(columns.len(), row.len(), "columns: {columns:?}");
    let fields: Vec<Option<Vec<u8>>> = row
        .iter()
        .zip(columns)
        .zip(formats)
        .map(|((value, column), format)| field(value, column.oid, *format))
        .collect();
    message::data_row(out, fields.iter().map(Option::as_deref));
}

fn field(value: &Value, oid: u32, format: i16) -> Option<Vec<u8>> {
    let number = match value {
        Value::Null => return None,
        Value::Text(text) => return Some(text.clone().into_bytes()),
        Value::Number(number) => *number,
    };
    // A limit such as 4294967295 does not fit PgBouncer's column type.
    let small = i32::try_from(number).unwrap_or(i32::MAX);
    Some(match (oid, format) {
        (INT4, BINARY) => small.to_be_bytes().to_vec(),
        (INT8, BINARY) => number.to_be_bytes().to_vec(),
        (NUMERIC, BINARY) => binary_numeric(number.unsigned_abs()),
        (INT4, _) => small.to_string().into_bytes(),
        _ => number.to_string().into_bytes(),
    })
}

/// PostgreSQL's binary numeric of a whole number that isn't negative: count of base-10000 digits, weight of the first,
/// sign, decimal places, digits.
fn binary_numeric(mut number: u64) -> Vec<u8> {
    let mut digits = Vec::new();
    while number > 0 {
        digits.push((number % 10_000) as u16);
        number /= 10_000;
    }
    let count = digits.len() as u16;
    let head = [count, count.saturating_sub(1), 0, 0];
    head.into_iter().chain(digits.into_iter().rev()).flat_map(u16::to_be_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_their_column() {
        let limit = Value::from(u32::MAX);
        assert_eq!(field(&limit, INT4, 0).as_deref(), Some(&b"2147483647"[..]));
        assert_eq!(field(&limit, INT4, BINARY).as_deref(), Some(&[0x7f, 0xff, 0xff, 0xff][..]));
        assert_eq!(field(&limit, INT8, BINARY).as_deref(), Some(&[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff][..]));
        assert_eq!(field(&limit, NUMERIC, 0).as_deref(), Some(&b"4294967295"[..]));
        assert_eq!(field(&Value::from(None::<u32>), INT4, 0), None);
    }

    #[test]
    fn binary_numerics_are_postgresqls() {
        assert_eq!(binary_numeric(0), [0; 8]);
        assert_eq!(binary_numeric(1_0002_0003), [0, 3, 0, 2, 0, 0, 0, 0, 0, 1, 0, 2, 0, 3]);
        assert_eq!(binary_numeric(10_000), [0, 2, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0]);
    }
}
