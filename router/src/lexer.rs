//! One pass over a statement's text, exact for PostgreSQL's lexical rules (`scan.l`), that takes its constants out.
//!
//! Hot path: runs once per query. No allocation once the buffers have grown; spans that need no change are copied whole.
//!
//! What is left is the template's key. Two texts get the same key only if PostgreSQL sees the same tokens in both, apart
//! from the values of constants:
//! - a run of white space and comments becomes one space: it never vanishes between two tokens, so it joins none;
//! - a constant becomes one control byte, a different one for each kind that the grammar tells apart; control bytes of the
//!   text itself are escaped;
//! - numbers that servers of different versions read differently (`0x1F`, `1_000`, `12abc`) and what isn't terminated stay
//!   as they are: such a text is a template of its own, and analysis decides about it;
//! - in utility statements (COPY, EXPLAIN, SET, CREATE …) constants are reported but stay in the key: there they are
//!   options that change what the statement does.

mod scan;

use std::ops::Range;

pub(crate) use scan::continuation;
use scan::{
    Class, Quoting, Scanned, class, continues_identifier, find, number_end, quoted_identifier, run_length, skip_space,
    string_end,
};

/// A constant that was taken out, in text order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Literal {
    pub kind: LiteralKind,
    /// Byte span in the original text, quotes and prefix included.
    pub start: u32,
    pub end: u32,
}

impl Literal {
    /// The constant as it stands in `sql`, quotes and prefix included. Empty if `sql` is not the text that was lexed.
    #[inline]
    pub fn raw<'a>(&self, sql: &'a [u8]) -> &'a [u8] {
        sql.get(self.start as usize..self.end as usize).unwrap_or_default()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LiteralKind {
    /// An integer that fits int4 (the grammar's ICONST).
    Integer,
    /// Any other number (the grammar's FCONST).
    Number,
    /// '…' without escapes to process (doubled quotes only).
    String,
    /// E'…', or '…' under standard_conforming_strings = off.
    EscapeString,
    /// U&'…'
    UnicodeString,
    /// $tag$…$tag$
    DollarString,
    /// B'…' or X'…'
    BitString,
}

impl LiteralKind {
    /// The control byte that stands for the constant in the template's key.
    #[inline]
    fn mark(self) -> u8 {
        match self {
            Self::Integer => 0x01,
            Self::Number => 0x02,
            Self::String => 0x03,
            Self::EscapeString => 0x04,
            Self::UnicodeString => 0x05,
            Self::DollarString => 0x06,
            Self::BitString => 0x07,
        }
    }
}

/// Stands before a control byte that is the text's own.
const ESCAPED: u8 = 0x0E;

/// The lexer's output; reused from statement to statement.
#[derive(Debug, Default)]
pub struct Normalized {
    /// The template's key: the text without comments, with runs of white space folded and each constant replaced by a mark
    /// of its kind.
    pub text: Vec<u8>,
    pub literals: Vec<Literal>,
    /// Byte offsets, in the original text, of the semicolons that separate statements (those outside parentheses).
    pub separators: Vec<u32>,
    /// There are constants that stayed in the key.
    pub(crate) keeps_constants: bool,
}

impl Normalized {
    /// Lexes `sql`, replacing what was here. `standard_strings`: the session's standard_conforming_strings.
    pub fn run(&mut self, sql: &[u8], standard_strings: bool) {
        self.text.clear();
        self.literals.clear();
        self.separators.clear();
        self.keeps_constants = false;
        let mut lexer = Lexer {
            out: self,
            sql,
            standard_strings,
            at: 0,
            copied: 0,
            depth: 0,
            statement_starts: true,
            keeps_constants: false,
        };
        lexer.run();
    }
}

/// The constant at `at`, where a token begins, if it is a number or a plain string under standard_conforming_strings = on: its
/// kind and its end, as the lexer reports them.
#[inline]
pub(crate) fn plain_constant(sql: &[u8], at: usize) -> Option<(LiteralKind, usize)> {
    match sql.get(at)? {
        b'0'..=b'9' => match number_end(sql, at) {
            Scanned::Constant(kind, end) => Some((kind, end)),
            Scanned::Kept(_) => None,
        },
        b'\'' => string_end(sql, at, Quoting::Doubled).map(|end| (LiteralKind::String, end)),
        _ => None,
    }
}

/// The byte spans of the statements between `separators` (of this very text), without the white space and comments before
/// them. What holds nothing else is no statement.
pub fn statement_spans<'a>(sql: &'a [u8], separators: &'a [u32]) -> impl Iterator<Item = Range<usize>> + 'a {
    let ends = separators.iter().map(|&separator| separator as usize).chain([sql.len()]);
    let mut next = 0;
    ends.filter_map(move |end| {
        let piece = sql.get(next..end)?;
        // A comment that never ends is part of the statement: the server has to complain.
        let start = next + skip_space(piece, 0).unwrap_or(0);
        next = end + 1;
        (start < end).then_some(start..end)
    })
}

/// One run over one text. `sql[copied..at]` has been read and will be copied as it is.
struct Lexer<'a> {
    out: &'a mut Normalized,
    sql: &'a [u8],
    standard_strings: bool,
    at: usize,
    copied: usize,
    /// Open parentheses.
    depth: u32,
    /// No identifier of the current statement has been read yet.
    statement_starts: bool,
    /// The current statement's constants stay in the key.
    keeps_constants: bool,
}

impl Lexer<'_> {
    fn run(&mut self) {
        while let Some(&byte) = self.sql.get(self.at) {
            match class(byte) {
                Class::Other => self.at += 1,
                Class::Space if self.is_lone_space() => self.at += 1,
                Class::Space => self.space(),
                Class::Identifier => self.identifier(),
                Class::Digit => self.number(),
                Class::Quote => self.plain_string(),
                Class::DoubleQuote => self.at = quoted_identifier(self.sql, self.at),
                Class::Dollar => self.dollar(),
                Class::Dot => self.dot(),
                Class::Minus if self.next_is(b'-') => self.space(),
                Class::Slash if self.next_is(b'*') => self.space(),
                Class::Minus | Class::Slash => self.at += 1,
                Class::Open => {
                    self.depth += 1;
                    self.at += 1;
                }
                Class::Close => {
                    self.depth = self.depth.saturating_sub(1);
                    self.at += 1;
                }
                Class::Semicolon => self.semicolon(),
                Class::Control => self.control(byte),
            }
        }
        self.flush(self.sql.len());
    }

    #[inline]
    fn next_is(&self, byte: u8) -> bool {
        self.sql.get(self.at + 1) == Some(&byte)
    }

    /// A single blank between two tokens, the commonest white space by far: it stays as it is.
    #[inline]
    fn is_lone_space(&self) -> bool {
        let next = self.sql.get(self.at + 1).map(|&byte| class(byte));
        self.at > 0
            && self.sql[self.at] == b' '
            && !matches!(next, None | Some(Class::Space | Class::Minus | Class::Slash))
    }

    /// Copies what is pending up to `end`, and skips to there.
    #[inline]
    fn flush(&mut self, end: usize) {
        self.out.text.extend_from_slice(&self.sql[self.copied..end]);
        self.copied = end;
    }

    /// Folds a run of white space and comments. A lone space in the middle needs nothing.
    #[inline]
    fn space(&mut self) {
        let start = self.at;
        let Some(end) = skip_space(self.sql, start) else {
            // A comment that never ends: keep the rest.
            self.at = self.sql.len();
            return;
        };
        self.at = end;
        let at_border = start == 0 || end == self.sql.len();
        if end - start == 1 && self.sql[start] == b' ' && !at_border {
            return;
        }
        self.flush(start);
        if !at_border {
            self.out.text.push(b' ');
        }
        self.copied = end;
    }

    #[inline]
    fn identifier(&mut self) {
        let start = self.at;
        let end = start + 1 + run_length(&self.sql[start + 1..], continues_identifier);
        if end == start + 1 && self.prefixed(self.sql[start], end) {
            return;
        }
        self.at = end;
        if self.statement_starts {
            self.statement_starts = false;
            self.keeps_constants = !constants_are_only_values(&self.sql[start..end]);
        }
    }

    /// `e'…'`, `b'…'`, `x'…'`, `u&'…'`, `u&"…"`: true if it was one. (`n'…'` is the keyword NCHAR and a plain string.)
    #[inline]
    fn prefixed(&mut self, letter: u8, end: usize) -> bool {
        match (letter | 0x20, self.sql.get(end)) {
            (b'e', Some(b'\'')) => self.string(end, Quoting::Backslash, LiteralKind::EscapeString),
            (b'b' | b'x', Some(b'\'')) => self.string(end, Quoting::Plain, LiteralKind::BitString),
            (b'u', Some(b'&')) => match self.sql.get(end + 1) {
                Some(b'\'') => {
                    self.string(end + 1, Quoting::Doubled, LiteralKind::UnicodeString);
                    self.uescape();
                }
                Some(b'"') => {
                    self.at = quoted_identifier(self.sql, end + 1);
                    self.uescape();
                }
                _ => return false,
            },
            _ => return false,
        }
        true
    }

    /// `UESCAPE 'c'` after a `U&` token stays in the key: it changes what the token says.
    fn uescape(&mut self) {
        const WORD: &[u8] = b"uescape";
        let Some(word) = skip_space(self.sql, self.at) else { return };
        let Some(after) = word.checked_add(WORD.len()).filter(|&after| after <= self.sql.len()) else { return };
        if !self.sql[word..after].eq_ignore_ascii_case(WORD) {
            return;
        }
        let Some(quote) = skip_space(self.sql, after) else { return };
        if self.sql.get(quote) != Some(&b'\'') {
            return;
        }
        let quoting = self.plain_quoting();
        self.at = string_end(self.sql, quote, quoting).unwrap_or(self.sql.len());
    }

    fn plain_quoting(&self) -> Quoting {
        if self.standard_strings { Quoting::Doubled } else { Quoting::Backslash }
    }

    #[inline]
    fn plain_string(&mut self) {
        let kind = if self.standard_strings { LiteralKind::String } else { LiteralKind::EscapeString };
        self.string(self.at, self.plain_quoting(), kind);
    }

    /// A string that begins (with its prefix) at `self.at` and whose opening quote is at `quote`.
    #[inline]
    fn string(&mut self, quote: usize, quoting: Quoting, kind: LiteralKind) {
        match string_end(self.sql, quote, quoting) {
            Some(end) => self.constant(kind, end),
            None => self.at = self.sql.len(),
        }
    }

    /// Reports the constant `sql[at..end]`, and replaces it unless the statement keeps its constants.
    #[inline]
    fn constant(&mut self, kind: LiteralKind, end: usize) {
        self.out.literals.push(Literal { kind, start: self.at as u32, end: end as u32 });
        self.out.keeps_constants |= self.keeps_constants;
        if !self.keeps_constants {
            self.flush(self.at);
            self.out.text.push(kind.mark());
            self.copied = end;
        }
        self.at = end;
    }

    #[inline]
    fn number(&mut self) {
        match number_end(self.sql, self.at) {
            Scanned::Constant(kind, end) => self.constant(kind, end),
            Scanned::Kept(end) => self.at = end,
        }
    }

    /// `..`, `.5`, or a plain dot.
    #[inline]
    fn dot(&mut self) {
        match self.sql.get(self.at + 1) {
            Some(b'0'..=b'9') => self.number(),
            Some(b'.') => self.at += 2,
            _ => self.at += 1,
        }
    }

    /// `$1`, `$tag$…$tag$`, or a stray dollar sign.
    fn dollar(&mut self) {
        let after = self.at + 1;
        let digits = run_length(&self.sql[after..], |byte| byte.is_ascii_digit());
        if digits > 0 {
            self.at = after + digits;
            return;
        }
        let tag = run_length(&self.sql[after..], |byte| matches!(class(byte), Class::Identifier | Class::Digit));
        let body = after + tag + 1;
        if self.sql.get(body - 1) != Some(&b'$') {
            self.at = after;
            return;
        }
        let delimiter = &self.sql[self.at..body];
        match find(&self.sql[body..], delimiter) {
            Some(length) => self.constant(LiteralKind::DollarString, body + length + delimiter.len()),
            None => self.at = self.sql.len(),
        }
    }

    fn semicolon(&mut self) {
        if self.depth == 0 {
            self.out.separators.push(self.at as u32);
            self.statement_starts = true;
            self.keeps_constants = false;
        }
        self.at += 1;
    }

    /// A control byte of the text's own, escaped so that it can't pass for a mark.
    fn control(&mut self, byte: u8) {
        self.flush(self.at);
        self.out.text.extend_from_slice(&[ESCAPED, byte]);
        self.at += 1;
        self.copied = self.at;
    }
}

/// Statements whose constants are plain values (or names that routing does not read), by their first word. In all others,
/// constants stay in the template's key.
fn constants_are_only_values(word: &[u8]) -> bool {
    let mut lower = [0; 8];
    let Some(lower) = lower.get_mut(..word.len()) else { return false };
    lower.copy_from_slice(word);
    lower.make_ascii_lowercase();
    matches!(
        &*lower,
        b"select"
            | b"insert"
            | b"update"
            | b"delete"
            | b"merge"
            | b"with"
            | b"values"
            | b"execute"
            | b"call"
            | b"do"
            | b"declare"
            | b"fetch"
            | b"move"
            | b"notify"
            | b"prepare"
            | b"commit"
            | b"rollback"
    )
}

#[cfg(test)]
#[path = "lexer_tests.rs"]
mod tests;
