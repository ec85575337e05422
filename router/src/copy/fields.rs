//! One column's value out of a row: PostgreSQL's rules (`CopyReadAttributesText` and `CopyReadAttributesCSV`).

use std::borrow::Cow;

use memchr::memchr2;

use super::error::CopyFault;
use super::options::Layout;

/// A column of a row.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Field<'a> {
    /// As it stands in the row, with its quotes: what is compared with the NULL and DEFAULT strings (which the server
    /// allows no quote in).
    pub raw: &'a [u8],
    /// What it means.
    pub value: Cow<'a, [u8]>,
}

/// The column with number `column` (from 0) of `line` (without its end); None if the line has fewer.
pub(super) fn field(layout: Layout, line: &[u8], column: usize) -> Result<Option<Field<'_>>, CopyFault> {
    match layout {
        Layout::Text { delimiter } => Ok(text(line, delimiter, column)),
        Layout::Csv { delimiter, quote, escape } => Csv { line, delimiter, quote, escape }.field(column),
    }
}

fn text(line: &[u8], delimiter: u8, column: usize) -> Option<Field<'_>> {
    let mut start = 0;
    for _ in 0..column {
        let end = text_end(line, start, delimiter);
        if line.get(end) != Some(&delimiter) {
            return None;
        }
        start = end + 1;
    }
    let raw = &line[start..text_end(line, start, delimiter)];
    Some(Field { raw, value: unescape(raw) })
}

/// Where the field that begins at `start` ends: at a delimiter, at the line's end, or at a backslash that is the line's
/// last byte (and means nothing).
fn text_end(line: &[u8], start: usize, delimiter: u8) -> usize {
    let mut at = start;
    while let Some(offset) = memchr2(delimiter, b'\\', &line[at..]) {
        at += offset;
        if line[at] == delimiter || at + 1 == line.len() {
            return at;
        }
        at += 1 + escape(&line[at + 1..]).1;
    }
    line.len()
}

fn unescape(raw: &[u8]) -> Cow<'_, [u8]> {
    let mut value = Cow::Borrowed(raw);
    let mut rest = raw;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        let (byte, length) = escape(&rest[at + 1..]);
        if rest.len() == raw.len() {
            value = Cow::Owned(Vec::with_capacity(raw.len()));
        }
        value.to_mut().extend_from_slice(&rest[..at]);
        value.to_mut().push(byte);
        rest = &rest[at + 1 + length..];
    }
    if let Cow::Owned(value) = &mut value {
        value.extend_from_slice(rest);
    }
    value
}

/// What the bytes after a backslash stand for, and how many of them do. A field has no backslash at its end
/// ([`text_end`]).
fn escape(after: &[u8]) -> (u8, usize) {
    let Some(&first) = after.first() else { return (b'\\', 0) };
    match first {
        b'0'..=b'7' => number(after, 8, 3),
        b'x' => match number(&after[1..], 16, 2) {
            (_, 0) => (b'x', 1),
            (byte, digits) => (byte, 1 + digits),
        },
        b'b' => (0x08, 1),
        b'f' => (0x0C, 1),
        b'n' => (b'\n', 1),
        b'r' => (b'\r', 1),
        b't' => (b'\t', 1),
        b'v' => (0x0B, 1),
        other => (other, 1),
    }
}

/// The low byte of the number that at most `most` leading digits are, and how many digits it has.
fn number(digits: &[u8], radix: u32, most: usize) -> (u8, usize) {
    let leading = digits.iter().take(most).map_while(|&digit| char::from(digit).to_digit(radix));
    let (value, count) = leading.fold((0, 0), |(value, count), digit| (value * radix + digit, count + 1));
    (value as u8, count)
}

/// A line of CSV.
#[derive(Clone, Copy)]
struct Csv<'a> {
    line: &'a [u8],
    delimiter: u8,
    quote: u8,
    escape: u8,
}

impl<'a> Csv<'a> {
    fn field(self, column: usize) -> Result<Option<Field<'a>>, CopyFault> {
        let mut start = 0;
        for _ in 0..column {
            let end = self.each_piece(start, |_| {})?;
            if end == self.line.len() {
                return Ok(None);
            }
            start = end + 1;
        }
        let mut value = Cow::Borrowed(&self.line[..0]);
        let end = self.each_piece(start, |piece| append(&mut value, piece))?;
        Ok(Some(Field { raw: &self.line[start..end], value }))
    }

    /// Hands out the pieces of the value that begins at `start`; returns where it ends (at a delimiter or at the line's end).
    fn each_piece(self, start: usize, mut each: impl FnMut(&'a [u8])) -> Result<usize, CopyFault> {
        let mut at = start;
        loop {
            let end =
                memchr2(self.delimiter, self.quote, &self.line[at..]).map_or(self.line.len(), |offset| at + offset);
            each(&self.line[at..end]);
            if self.line.get(end).is_none_or(|&byte| byte == self.delimiter) {
                return Ok(end);
            }
            at = self.quoted(end + 1, &mut each)?;
        }
    }

    /// The inside of quotes, from `start`; returns where it goes on after the closing one. An escape byte that is followed
    /// by neither a quote nor another one is an ordinary byte.
    fn quoted(self, start: usize, each: &mut impl FnMut(&'a [u8])) -> Result<usize, CopyFault> {
        let mut piece = start;
        let mut at = start;
        while let Some(offset) = memchr2(self.quote, self.escape, &self.line[at..]) {
            at += offset;
            let next = self.line.get(at + 1);
            if self.line[at] == self.escape && next.is_some_and(|&next| next == self.escape || next == self.quote) {
                each(&self.line[piece..at]);
                piece = at + 1;
                at += 2;
            } else if self.line[at] == self.quote {
                each(&self.line[piece..at]);
                return Ok(at + 1);
            } else {
                at += 1;
            }
        }
        Err(CopyFault::UnterminatedQuote)
    }
}

/// Copies nothing as long as there is only one piece.
fn append<'a>(value: &mut Cow<'a, [u8]>, piece: &'a [u8]) {
    if value.is_empty() {
        *value = Cow::Borrowed(piece);
    } else if !piece.is_empty() {
        value.to_mut().extend_from_slice(piece);
    }
}
