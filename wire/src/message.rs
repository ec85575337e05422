//! The messages that we originate: errors, notices, console results, and the small requests that we put between a client's.
//!
//! Everything with a layout of its own is encoded by pgwire's message layer; single-purpose requests of a few bytes, which
//! stand on the hot path, are written out here.

use bytes::BytesMut;
use pgwire::messages::Message;
use pgwire::messages::data::{DataRow, FieldDescription, RowDescription};
use pgwire::messages::response::{CommandComplete, ErrorResponse, NoticeResponse};
use pgwire::messages::startup::ParameterStatus;

pub const READY_IDLE: [u8; 6] = [b'Z', 0, 0, 0, 5, b'I'];
pub const PARSE_COMPLETE: [u8; 5] = [b'1', 0, 0, 0, 4];
pub const BIND_COMPLETE: [u8; 5] = [b'2', 0, 0, 0, 4];
pub const CLOSE_COMPLETE: [u8; 5] = [b'3', 0, 0, 0, 4];
pub const NO_DATA: [u8; 5] = [b'n', 0, 0, 0, 4];
/// ParameterDescription of a statement without parameters.
pub const NO_PARAMETERS: [u8; 7] = [b't', 0, 0, 0, 6, 0, 0];
pub const EMPTY_QUERY: [u8; 5] = [b'I', 0, 0, 0, 4];
pub const SYNC: [u8; 5] = [b'S', 0, 0, 0, 4];
pub const TERMINATE: [u8; 5] = [b'X', 0, 0, 0, 4];
/// AuthenticationOk.
pub const AUTHENTICATION_OK: [u8; 9] = [b'R', 0, 0, 0, 8, 0, 0, 0, 0];

/// The transaction status that ReadyForQuery reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Status {
    /// `I`: not in a transaction.
    #[default]
    Idle,
    /// `T`: in a transaction block.
    Transaction,
    /// `E`: in a failed one.
    Failed,
}

impl Status {
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            b'I' => Some(Self::Idle),
            b'T' => Some(Self::Transaction),
            b'E' => Some(Self::Failed),
            _ => None,
        }
    }

    pub fn byte(self) -> u8 {
        match self {
            Self::Idle => b'I',
            Self::Transaction => b'T',
            Self::Failed => b'E',
        }
    }
}

/// How much of the connection an error ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    Error,
    Fatal,
}

/// An error as the client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub severity: Severity,
    pub sqlstate: String,
    pub message: String,
    pub detail: String,
    pub hint: String,
    /// In characters, from 1; 0 = none.
    pub position: usize,
}

impl Report {
    pub fn error(sqlstate: &str, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            sqlstate: sqlstate.to_owned(),
            message: message.into(),
            detail: String::new(),
            hint: String::new(),
            position: 0,
        }
    }

    pub fn fatal(sqlstate: &str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Fatal, ..Self::error(sqlstate, message) }
    }

    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// Appends the ErrorResponse.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let severity = match self.severity {
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
        };
        let mut fields = vec![
            (b'S', severity.to_owned()),
            (b'V', severity.to_owned()),
            (b'C', self.sqlstate.clone()),
            (b'M', without_nul(&self.message)),
        ];
        for (code, value) in [(b'D', &self.detail), (b'H', &self.hint)] {
            if !value.is_empty() {
                fields.push((code, without_nul(value)));
            }
        }
        if self.position > 0 {
            fields.push((b'P', self.position.to_string()));
        }
        put(out, &ErrorResponse::new(fields));
    }
}

/// A field ends at its first NUL, so one inside would cut the message short.
fn without_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// Appends a NoticeResponse of severity NOTICE.
pub fn notice(out: &mut Vec<u8>, sqlstate: &str, message: &str, detail: &str) {
    notice_response(out, "NOTICE", sqlstate, message, detail);
}

/// Appends a NoticeResponse of severity WARNING.
pub fn warning(out: &mut Vec<u8>, sqlstate: &str, message: &str) {
    notice_response(out, "WARNING", sqlstate, message, "");
}

fn notice_response(out: &mut Vec<u8>, severity: &str, sqlstate: &str, message: &str, detail: &str) {
    let mut fields = vec![
        (b'S', severity.to_owned()),
        (b'V', severity.to_owned()),
        (b'C', sqlstate.to_owned()),
        (b'M', without_nul(message)),
    ];
    if !detail.is_empty() {
        fields.push((b'D', without_nul(detail)));
    }
    put(out, &NoticeResponse::new(fields));
}

/// Appends a message of pgwire's layer. Those that we build are far below its size limits; one that is not is a defect.
fn put(out: &mut Vec<u8>, message: &impl Message) {
    let mut buffer = BytesMut::with_capacity(message.message_length() + 1);
    let encoded = message.encode(&mut buffer);
    debug_assert!(encoded.is_ok(), "a message of ours exceeds the protocol's limit");
    out.extend_from_slice(&buffer);
}

/// Appends ReadyForQuery.
pub fn ready(out: &mut Vec<u8>, status: Status) {
    out.extend_from_slice(&[b'Z', 0, 0, 0, 5, status.byte()]);
}

/// Appends CommandComplete.
pub fn command_complete(out: &mut Vec<u8>, tag: &str) {
    put(out, &CommandComplete::new(tag.to_owned()));
}

/// Appends ParameterStatus.
pub fn parameter_status(out: &mut Vec<u8>, name: &str, value: &str) {
    put(out, &ParameterStatus::new(name.to_owned(), value.to_owned()));
}

/// Appends BackendKeyData; the secret is 4 to 256 bytes.
pub fn backend_key_data(out: &mut Vec<u8>, pid: i32, secret: &[u8]) {
    frame(out, b'K', |out| {
        out.extend_from_slice(&pid.to_be_bytes());
        out.extend_from_slice(secret);
    });
}

/// A column of a result that we make: its name and the OID of its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    pub oid: u32,
}

/// Appends RowDescription of columns and their formats (0 text, 1 binary).
pub fn row_description(out: &mut Vec<u8>, columns: impl IntoIterator<Item = (Column, i16)>) {
    let size = |oid| match oid {
        23 => 4,
        20 => 8,
        _ => -1,
    };
    let fields = columns
        .into_iter()
        .map(|(column, format)| {
            FieldDescription::new(column.name.to_owned(), 0, 0, column.oid, size(column.oid), -1, format)
        })
        .collect();
    put(out, &RowDescription::new(fields));
}

/// Appends DataRow; `None` = NULL.
pub fn data_row<'a>(out: &mut Vec<u8>, values: impl ExactSizeIterator<Item = Option<&'a [u8]>>) {
    let count = i16::try_from(values.len()).unwrap_or(i16::MAX);
    let mut data = BytesMut::new();
    for value in values {
        match value {
            Some(value) => {
                data.extend_from_slice(&(value.len() as u32).to_be_bytes());
                data.extend_from_slice(value);
            }
            None => data.extend_from_slice(&(-1_i32).to_be_bytes()),
        }
    }
    put(out, &DataRow::new(data, count));
}

/// Appends CopyInResponse for text rows of so many columns.
pub fn copy_in_response(out: &mut Vec<u8>, columns: usize) {
    frame(out, b'G', |out| {
        out.push(0);
        out.extend_from_slice(&(columns as u16).to_be_bytes());
        out.resize(out.len() + 2 * columns, 0);
    });
}

/// Appends a message of `tag` whose body `fill` writes.
#[inline]
pub fn frame(out: &mut Vec<u8>, tag: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    fill(out);
    let len = (out.len() - start) as u32;
    out[start..start + 4].copy_from_slice(&len.to_be_bytes());
}

/// Appends Query.
pub fn query(out: &mut Vec<u8>, sql: &[u8]) {
    frame(out, b'Q', |out| {
        out.extend_from_slice(sql);
        out.push(0);
    });
}

/// Appends Parse of `tail` (text, types; see [`crate::frame::Parse`]) under another name.
#[inline]
pub fn parse(out: &mut Vec<u8>, name: &[u8], tail: &[u8]) {
    frame(out, b'P', |out| {
        out.extend_from_slice(name);
        out.push(0);
        out.extend_from_slice(tail);
    });
}

/// Appends Bind with another statement name.
#[inline]
pub fn bind(out: &mut Vec<u8>, portal: &[u8], statement: &[u8], tail: &[u8]) {
    frame(out, b'B', |out| {
        out.extend_from_slice(portal);
        out.push(0);
        out.extend_from_slice(statement);
        out.push(0);
        out.extend_from_slice(tail);
    });
}

/// Appends Describe of a statement.
#[inline]
pub fn describe_statement(out: &mut Vec<u8>, name: &[u8]) {
    named(out, b'D', b'S', name);
}

/// Appends Close of a statement.
#[inline]
pub fn close_statement(out: &mut Vec<u8>, name: &[u8]) {
    named(out, b'C', b'S', name);
}

#[inline]
fn named(out: &mut Vec<u8>, tag: u8, kind: u8, name: &[u8]) {
    frame(out, tag, |out| {
        out.push(kind);
        out.extend_from_slice(name);
        out.push(0);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Frame, error_field, query_text};

    fn only(bytes: &[u8]) -> Frame<'_> {
        let frame = Frame::first(bytes).expect("valid").expect("complete");
        assert_eq!(frame.raw.len(), bytes.len());
        frame
    }

    #[test]
    fn an_error_carries_all_its_fields() {
        let mut out = Vec::new();
        Report::error("0A000", "no\0pe").detail("because").hint("do this").encode(&mut out);
        let frame = only(&out);
        assert_eq!(frame.tag, b'E');
        for (code, value) in
            [(b'S', "ERROR"), (b'C', "0A000"), (b'M', "no\u{fffd}pe"), (b'D', "because"), (b'H', "do this")]
        {
            assert_eq!(error_field(frame.body, code), Some(value.as_bytes()));
        }
        assert_eq!(error_field(frame.body, b'P'), None);
    }

    #[test]
    fn rows_keep_null_apart_from_empty() {
        let mut out = Vec::new();
        data_row(&mut out, [None, Some(&b""[..]), Some(b"x")].into_iter());
        assert_eq!(only(&out).body, [0, 3, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 1, b'x']);
    }

    #[test]
    fn a_query_reads_back() {
        let mut out = Vec::new();
        query(&mut out, b"select 1");
        assert_eq!(query_text(only(&out).body), Some(&b"select 1"[..]));
    }

    #[test]
    fn a_long_secret_fits_the_key_message() {
        let mut out = Vec::new();
        backend_key_data(&mut out, 7, &[9; 256]);
        assert_eq!(only(&out).body.len(), 260);
    }
}
