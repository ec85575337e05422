//! The borders of PostgreSQL's tokens, as functions of a text and a place in it: strings, quoted identifiers, comments and
//! numbers, by the rules of `scan.l`.

use super::LiteralKind;

/// What a byte can begin.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Class {
    /// Part of no longer token, or of one whose bytes are simply kept (operators, brackets, commas).
    Other,
    Space,
    Identifier,
    Digit,
    Quote,
    DoubleQuote,
    Dollar,
    Dot,
    Minus,
    Slash,
    Open,
    Close,
    Semicolon,
    Control,
}

const CLASS: [Class; 256] = classes();

const fn classes() -> [Class; 256] {
    let mut table = [Class::Other; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte as u8 {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0B | 0x0C => Class::Space,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80.. => Class::Identifier,
            b'0'..=b'9' => Class::Digit,
            b'\'' => Class::Quote,
            b'"' => Class::DoubleQuote,
            b'$' => Class::Dollar,
            b'.' => Class::Dot,
            b'-' => Class::Minus,
            b'/' => Class::Slash,
            b'(' => Class::Open,
            b')' => Class::Close,
            b';' => Class::Semicolon,
            0..=0x1F => Class::Control,
            _ => Class::Other,
        };
        byte += 1;
    }
    table
}

#[inline]
pub(super) fn class(byte: u8) -> Class {
    CLASS[usize::from(byte)]
}

/// Continues an identifier: `ident_cont`.
#[inline]
pub(super) fn continues_identifier(byte: u8) -> bool {
    matches!(class(byte), Class::Identifier | Class::Digit | Class::Dollar)
}

/// How a string says that a quote is its own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Quoting {
    /// Not at all: bit strings.
    Plain,
    /// `''` only.
    Doubled,
    /// `''`, and `\` before any byte.
    Backslash,
}

/// The end of the string whose opening quote is at `quote`, with its continuations on later lines (`'a'` newline `'b'` is one
/// string). None if it never ends.
#[inline]
pub(super) fn string_end(sql: &[u8], quote: usize, quoting: Quoting) -> Option<usize> {
    let mut at = quote + 1;
    loop {
        match sql.get(at)? {
            b'\'' if quoting != Quoting::Plain && sql.get(at + 1) == Some(&b'\'') => at += 2,
            b'\'' => match continuation(sql, at + 1) {
                Some(inside) => at = inside,
                None => return Some(at + 1),
            },
            b'\\' if quoting == Quoting::Backslash => at += 2,
            _ => at += 1,
        }
    }
}

/// If a string that ended before `at` continues: the first byte inside its next piece. White space and `--` comments
/// (no others) with at least one newline must stand between the pieces.
#[inline]
pub(crate) fn continuation(sql: &[u8], mut at: usize) -> Option<usize> {
    let mut newline = false;
    loop {
        match sql.get(at)? {
            b'\'' if newline => return Some(at + 1),
            b'\n' | b'\r' => newline = true,
            b'-' if sql.get(at + 1) == Some(&b'-') => {
                at = line_comment_end(sql, at);
                continue;
            }
            &byte if class(byte) == Class::Space => {}
            _ => return None,
        }
        at += 1;
    }
}

/// The end of the `"…"` at `at`, or of the text.
pub(super) fn quoted_identifier(sql: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    while let Some(&byte) = sql.get(at) {
        at += 1;
        if byte == b'"' {
            if sql.get(at) != Some(&b'"') {
                return at;
            }
            at += 1;
        }
    }
    at
}

/// The end of the run of white space and comments at `at`. None: a comment in it never ends.
#[inline]
pub(super) fn skip_space(sql: &[u8], mut at: usize) -> Option<usize> {
    while let Some(&byte) = sql.get(at) {
        at = match class(byte) {
            Class::Space => at + 1,
            Class::Minus if sql.get(at + 1) == Some(&b'-') => line_comment_end(sql, at),
            Class::Slash if sql.get(at + 1) == Some(&b'*') => block_comment_end(sql, at)?,
            _ => break,
        };
    }
    Some(at)
}

/// The newline that ends the `--` comment at `at`, or the end of the text.
fn line_comment_end(sql: &[u8], at: usize) -> usize {
    at + run_length(&sql[at..], |byte| !matches!(byte, b'\n' | b'\r'))
}

/// The end of the comment at `at`, with the comments nested in it.
fn block_comment_end(sql: &[u8], at: usize) -> Option<usize> {
    let mut depth = 0_usize;
    let mut at = at;
    loop {
        match sql.get(at..at + 2)? {
            b"/*" => {
                depth += 1;
                at += 2;
            }
            b"*/" => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => at += 1,
        }
    }
}

/// What a number turned out to be.
pub(super) enum Scanned {
    Constant(LiteralKind, usize),
    /// Not the same number to every server version: stays in the key, up to here.
    Kept(usize),
}

/// Scans the number at `at` (a digit, or a dot before a digit).
#[inline]
pub(super) fn number_end(sql: &[u8], at: usize) -> Scanned {
    let mut separated = false;
    let mut digits = |from: usize| {
        let mut end = digits_end(sql, from);
        while sql.get(end) == Some(&b'_') && sql.get(end + 1).is_some_and(u8::is_ascii_digit) {
            separated = true;
            end = digits_end(sql, end + 1);
        }
        end
    };
    let mut end = digits(at);
    let mut kind = integer_kind(&sql[at..end]);
    // `1..10` is 1, two dots, 10.
    if sql.get(end) == Some(&b'.') && sql.get(end + 1) != Some(&b'.') {
        kind = LiteralKind::Number;
        end = digits(end + 1);
    }
    if let Some(b'e' | b'E') = sql.get(end) {
        let sign = usize::from(matches!(sql.get(end + 1), Some(b'+' | b'-')));
        let exponent = end + 1 + sign;
        if sql.get(exponent).is_some_and(u8::is_ascii_digit) {
            kind = LiteralKind::Number;
            end = digits(exponent);
        }
    }
    match sql.get(end) {
        Some(&byte) if class(byte) == Class::Identifier => Scanned::Kept(based_integer_end(sql, at).unwrap_or(end)),
        _ if separated => Scanned::Kept(end),
        _ => Scanned::Constant(kind, end),
    }
}

fn digits_end(sql: &[u8], at: usize) -> usize {
    at + run_length(&sql[at..], |byte| byte.is_ascii_digit())
}

/// The end of a `0x1F`, `0o17` or `0b11` at `at`, digits perhaps separated by underscores.
#[cold]
fn based_integer_end(sql: &[u8], at: usize) -> Option<usize> {
    let base = match sql.get(at..at + 2)? {
        b"0x" | b"0X" => 16,
        b"0o" | b"0O" => 8,
        b"0b" | b"0B" => 2,
        _ => return None,
    };
    let is_digit = |at: usize| sql.get(at).is_some_and(|&byte| char::from(byte).is_digit(base));
    let mut end = at + 2;
    loop {
        let digit = end + usize::from(sql.get(end) == Some(&b'_'));
        if !is_digit(digit) {
            return (end > at + 2).then_some(end);
        }
        end = digit + 1;
    }
}

/// ICONST or FCONST, by whether the value fits int4.
#[inline]
fn integer_kind(digits: &[u8]) -> LiteralKind {
    if digits.len() < 10 {
        return LiteralKind::Integer;
    }
    let significant = &digits[run_length(digits, |byte| byte == b'0')..];
    let fits = match significant.len() {
        0..10 => true,
        10 => significant <= b"2147483647".as_slice(),
        _ => false,
    };
    if fits { LiteralKind::Integer } else { LiteralKind::Number }
}

#[inline]
pub(super) fn run_length(bytes: &[u8], wanted: impl Fn(u8) -> bool) -> usize {
    bytes.iter().position(|&byte| !wanted(byte)).unwrap_or(bytes.len())
}

pub(super) fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}
