//! What can be wrong with the data of a sharded COPY. Messages and SQLSTATEs are PostgreSQL's where it has them.

use super::rows::MAX_ROW;
use crate::template::Refusal;

/// A fault, and the line of the data that has it (from 1, counted as PostgreSQL does: a header and line breaks inside
/// quotes count).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{fault}")]
pub struct CopyError {
    pub line: u64,
    pub fault: CopyFault,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CopyFault {
    #[error("literal carriage return found in data")]
    LiteralCarriageReturn,
    #[error("unquoted carriage return found in data")]
    UnquotedCarriageReturn,
    #[error("literal newline found in data")]
    LiteralNewline,
    #[error("unquoted newline found in data")]
    UnquotedNewline,
    #[error("end-of-copy marker corrupt")]
    MarkerCorrupt,
    #[error("end-of-copy marker does not match previous newline style")]
    MarkerNewline,
    #[error("unterminated CSV quoted field")]
    UnterminatedQuote,
    #[error("missing data for column \"{column}\"")]
    MissingKey { column: Box<str> },
    #[error("a row of the COPY data is longer than {} MiB", MAX_ROW >> 20)]
    RowTooLong,
    #[error("null value in column \"{column}\", the sharding key")]
    NullKey { column: Box<str> },
    #[error("column \"{column}\", the sharding key, is left to its default")]
    DefaultKey { column: Box<str> },
    /// `value` is cut short where it is long.
    #[error("invalid input syntax for column \"{column}\", the sharding key: \"{value}\"")]
    InvalidKey { column: Box<str>, value: Box<str> },
    #[error("cannot tell which key \"{value}\" in column \"{column}\" is")]
    UnprovenKey { column: Box<str>, value: Box<str>, why: &'static str },
}

impl CopyError {
    /// The error as the client sees it.
    pub fn refusal(&self) -> Box<Refusal> {
        let detail = match &self.fault {
            CopyFault::UnprovenKey { why, .. } => format!("Line {} of the COPY data: {why}.", self.line),
            _ => format!("It is in line {} of the COPY data.", self.line),
        };
        Box::new(Refusal {
            sqlstate: self.fault.sqlstate().into(),
            message: self.to_string(),
            detail,
            hint: self.fault.hint().into(),
            position: 0,
        })
    }
}

impl CopyFault {
    pub fn sqlstate(&self) -> &'static str {
        match self {
            Self::LiteralCarriageReturn
            | Self::UnquotedCarriageReturn
            | Self::LiteralNewline
            | Self::UnquotedNewline
            | Self::MarkerCorrupt
            | Self::MarkerNewline
            | Self::UnterminatedQuote
            | Self::MissingKey { .. } => "22P04",
            Self::InvalidKey { .. } => "22P02",
            Self::NullKey { .. } => "23502",
            Self::RowTooLong => "54000",
            Self::DefaultKey { .. } | Self::UnprovenKey { .. } => "0A000",
        }
    }

    fn hint(&self) -> &'static str {
        match self {
            Self::LiteralCarriageReturn => "Use \"\\r\" to represent carriage return.",
            Self::LiteralNewline => "Use \"\\n\" to represent newline.",
            Self::UnquotedCarriageReturn => "Use quoted CSV field to represent carriage return.",
            Self::UnquotedNewline => "Use quoted CSV field to represent newline.",
            Self::MarkerCorrupt => "Put \\. on a line by itself, or write a backslash in the data as \\\\.",
            Self::MarkerNewline => "End all lines alike: with newline, carriage return, or both.",
            Self::UnterminatedQuote => "Close the quote, and check the QUOTE and ESCAPE options.",
            Self::MissingKey { .. } => {
                "Check the DELIMITER option, and that each row has all columns of the statement."
            }
            Self::RowTooLong => "Check that quotes are closed; send so large a row with INSERT.",
            Self::NullKey { .. } | Self::DefaultKey { .. } => {
                "Each row needs a key: it says on which shard the row lives."
            }
            Self::InvalidKey { .. } => "The key has to be a value of the column's type.",
            Self::UnprovenKey { .. } => "Write the key in plain decimal digits.",
        }
    }
}
