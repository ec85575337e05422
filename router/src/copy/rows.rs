//! Rows and their keys, out of data that comes in pieces.

use std::borrow::Cow;
use std::ops::Range;

use super::error::{CopyError, CopyFault};
use super::fields::field;
use super::lines::{Cut, Lines};
use super::options::CopyFormat;

/// The longest row, with its line end, in bytes. A row is buffered until it is complete.
pub const MAX_ROW: usize = 64 << 20;

/// One row of the data.
#[derive(Debug, PartialEq, Eq)]
pub struct Row<'a> {
    /// The row's own bytes with its line end, to be sent on as they are. The last row may have no line end; none must be
    /// added.
    pub raw: &'a [u8],
    pub key: RowKey<'a>,
    /// The number of its (last) line in the data, from 1.
    pub line: u64,
    pub(super) key_column: &'a str,
}

/// What the sharding key's column of a row holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowKey<'a> {
    Null,
    /// Without quotes and escapes.
    Value(Cow<'a, [u8]>),
    /// The row is the header.
    Header,
}

/// Cuts the data of one COPY into rows. After each [`push`](Self::push), take rows until there is none: then at most one
/// row that is not complete is kept. An error ends the COPY.
#[derive(Debug)]
pub struct RowCutter {
    key: KeyColumn,
    lines: Lines,
    buffer: Vec<u8>,
    /// The buffer's bytes before are handed out.
    start: usize,
    header_due: bool,
    ended: bool,
}

impl RowCutter {
    /// `key_column`: which of the statement's columns is the key (from 0), and `key_name` its name.
    pub fn new(format: CopyFormat, key_column: usize, key_name: &str) -> Self {
        Self {
            lines: Lines::new(format.layout),
            header_due: format.header,
            key: KeyColumn::new(format, key_column, key_name),
            buffer: Vec::new(),
            start: 0,
            ended: false,
        }
    }

    /// Takes the bytes of a CopyData message. What comes after the end-of-data marker is ignored, as PostgreSQL does.
    pub fn push(&mut self, data: &[u8]) {
        if self.ended {
            return;
        }
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.extend_from_slice(data);
    }

    /// The next row that is complete.
    #[inline]
    pub fn next_row(&mut self) -> Result<Option<Row<'_>>, CopyError> {
        self.cut(false)
    }

    /// After the client's CopyDone, until there is none: the last row, which needs no line end.
    pub fn finish(&mut self) -> Result<Option<Row<'_>>, CopyError> {
        self.cut(true)
    }

    fn cut(&mut self, last: bool) -> Result<Option<Row<'_>>, CopyError> {
        let Some(line) = self.next_line(last)? else { return Ok(None) };
        let content = &self.buffer[line.content];
        let key = if line.is_header {
            RowKey::Header
        } else {
            self.key.read(content).map_err(|fault| CopyError { line: line.number, fault })?
        };
        Ok(Some(Row { raw: &self.buffer[line.raw], key, line: line.number, key_column: &self.key.name }))
    }

    fn next_line(&mut self, last: bool) -> Result<Option<Line>, CopyError> {
        if self.ended {
            return Ok(None);
        }
        let pending = &self.buffer[self.start..];
        let cut = self.lines.cut(pending, last);
        let number = self.lines.number();
        let error = |fault| CopyError { line: number, fault };
        let (content, length) = match cut.map_err(error)? {
            Cut::More if pending.len() > MAX_ROW => return Err(error(CopyFault::RowTooLong)),
            Cut::More => return Ok(None),
            Cut::Line { content, length } => (content, length),
            Cut::End { content } => {
                self.ended = true;
                (content, content)
            }
        };
        if length > MAX_ROW {
            return Err(error(CopyFault::RowTooLong));
        }
        if self.ended && content == 0 {
            return Ok(None);
        }
        let start = self.start;
        self.start += length;
        self.lines.advance();
        let is_header = std::mem::take(&mut self.header_due);
        Ok(Some(Line { content: start..start + content, raw: start..start + length, number, is_header }))
    }
}

/// A line in the buffer.
struct Line {
    content: Range<usize>,
    raw: Range<usize>,
    number: u64,
    is_header: bool,
}

/// Reads the key's column.
#[derive(Debug)]
struct KeyColumn {
    format: CopyFormat,
    index: usize,
    name: Box<str>,
    force_null: bool,
    force_not_null: bool,
}

impl KeyColumn {
    fn new(format: CopyFormat, index: usize, name: &str) -> Self {
        let force_null = format.force_null.contains(name);
        let force_not_null = format.force_not_null.contains(name);
        Self { format, index, name: name.into(), force_null, force_not_null }
    }

    fn read<'a>(&'a self, line: &'a [u8]) -> Result<RowKey<'a>, CopyFault> {
        let null = &*self.format.null;
        let field = field(self.format.layout, line, self.index)?
            .ok_or_else(|| CopyFault::MissingKey { column: self.name.clone() })?;
        if field.raw == null {
            return Ok(if self.force_not_null { RowKey::Value(null.into()) } else { RowKey::Null });
        }
        if self.format.default.as_deref() == Some(field.raw) {
            return Err(CopyFault::DefaultKey { column: self.name.clone() });
        }
        if self.force_null && *field.value == *null {
            return Ok(RowKey::Null);
        }
        Ok(RowKey::Value(field.value))
    }
}
