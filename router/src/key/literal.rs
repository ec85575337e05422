//! Keys from the constants of a statement's text.

use std::borrow::Cow;

use super::text::{self, Decimal};
use super::{Key, KeyType, Reading};
use crate::lexer::{self, Literal, LiteralKind};

const NOT_AN_INTEGER: &str = "the constant is not a whole number of bigint's range";
const NUMBER_FOR_STRING: &str = "a number is compared with, or stored in, a key that is not an integer";
const NEGATED_STRING: &str = "a minus sign stands before a string";
const UNREAD_STRING: &str = "strings of this form (U&'…', B'…', X'…') are not read as keys";

/// Reads a constant as a key. `negated`: a minus sign belongs to it. `scratch` holds the value of a string with escapes.
pub fn read<'a>(
    key_type: KeyType,
    literal: &Literal,
    negated: bool,
    sql: &'a [u8],
    scratch: &'a mut Vec<u8>,
) -> Reading<'a> {
    match literal.kind {
        LiteralKind::Integer | LiteralKind::Number if key_type != KeyType::Int => Reading::NotProven(NUMBER_FOR_STRING),
        LiteralKind::Integer | LiteralKind::Number => match text::decimal(literal.raw(sql), negated) {
            Decimal::Value(value) => Reading::Key(Key::Int(value)),
            Decimal::TooBig | Decimal::Malformed => Reading::NotProven(NOT_AN_INTEGER),
        },
        _ if negated => Reading::NotProven(NEGATED_STRING),
        _ => match decode(literal, sql, scratch) {
            Decoded::Plain(value) => text::read(key_type, value),
            Decoded::InBuffer => text::read(key_type, scratch),
            Decoded::Malformed => Reading::ServerError,
            Decoded::Unread => Reading::NotProven(UNREAD_STRING),
        },
    }
}

/// The value of a string constant. None: not a string, malformed, or of a form that is not read here.
pub fn string<'a>(literal: &Literal, sql: &'a [u8]) -> Option<Cow<'a, [u8]>> {
    let mut buffer = Vec::new();
    match decode(literal, sql, &mut buffer) {
        Decoded::Plain(value) => Some(Cow::Borrowed(value)),
        Decoded::InBuffer => Some(Cow::Owned(buffer)),
        Decoded::Malformed | Decoded::Unread => None,
    }
}

/// Where a string's value is.
enum Decoded<'a> {
    /// Stands in the text as it is.
    Plain(&'a [u8]),
    /// Had escapes, doubled quotes or continuation lines: is in the buffer.
    InBuffer,
    /// PostgreSQL's lexer raises an error.
    Malformed,
    Unread,
}

fn decode<'a>(literal: &Literal, sql: &'a [u8], buffer: &mut Vec<u8>) -> Decoded<'a> {
    let raw = literal.raw(sql);
    match literal.kind {
        LiteralKind::String => decode_quoted(raw, false, buffer),
        LiteralKind::EscapeString => {
            let prefix = usize::from(matches!(raw.first(), Some(b'e' | b'E')));
            decode_quoted(raw.get(prefix..).unwrap_or_default(), true, buffer)
        }
        LiteralKind::DollarString => dollar_body(raw).map_or(Decoded::Unread, Decoded::Plain),
        LiteralKind::UnicodeString | LiteralKind::BitString | LiteralKind::Integer | LiteralKind::Number => {
            Decoded::Unread
        }
    }
}

/// Between the delimiters of `$tag$…$tag$`.
fn dollar_body(raw: &[u8]) -> Option<&[u8]> {
    let delimiter = raw.iter().skip(1).position(|&byte| byte == b'$')? + 2;
    raw.get(delimiter..raw.len().checked_sub(delimiter)?)
}

/// `quoted` begins and ends with its quotes.
fn decode_quoted<'a>(quoted: &'a [u8], backslashes: bool, buffer: &mut Vec<u8>) -> Decoded<'a> {
    let [b'\'', body @ .., b'\''] = quoted else { return Decoded::Unread };
    if !body.iter().any(|&byte| byte == b'\'' || (backslashes && byte == b'\\')) {
        return Decoded::Plain(body);
    }
    buffer.clear();
    let mut at = 1;
    while let Some(&byte) = quoted.get(at) {
        at = match byte {
            b'\'' if quoted.get(at + 1) == Some(&b'\'') => {
                buffer.push(b'\'');
                at + 2
            }
            b'\'' => match lexer::continuation(quoted, at + 1) {
                Some(inside) => inside,
                None => break,
            },
            b'\\' if backslashes => match escape(&quoted[at + 1..], buffer) {
                Some(length) => at + 1 + length,
                None => return Decoded::Malformed,
            },
            _ => {
                buffer.push(byte);
                at + 1
            }
        };
    }
    Decoded::InBuffer
}

/// Appends what the escape after a backslash stands for; returns its length. None: PostgreSQL's lexer raises an error.
fn escape(rest: &[u8], buffer: &mut Vec<u8>) -> Option<usize> {
    let &first = rest.first()?;
    let (byte, length) = match first {
        b'b' => (0x08, 1),
        b'f' => (0x0C, 1),
        b'n' => (b'\n', 1),
        b'r' => (b'\r', 1),
        b't' => (b'\t', 1),
        b'v' => (0x0B, 1),
        b'0'..=b'7' => number_escape(rest, 8, 3),
        b'x' if rest.get(1).is_some_and(u8::is_ascii_hexdigit) => {
            let (byte, length) = number_escape(&rest[1..], 16, 2);
            (byte, length + 1)
        }
        b'u' => return unicode_escape(rest, 4, buffer),
        b'U' => return unicode_escape(rest, 8, buffer),
        _ => (first, 1),
    };
    // The zero byte is in no encoding.
    (byte != 0).then(|| buffer.push(byte))?;
    Some(length)
}

/// One to `longest` digits as a byte (higher bits are dropped, as PostgreSQL does), and how many they were.
fn number_escape(digits: &[u8], base: u32, longest: usize) -> (u8, usize) {
    let digits = digits.iter().take(longest).map_while(|&digit| char::from(digit).to_digit(base));
    let (value, length) = digits.fold((0, 0), |(value, length), digit| (value * base + digit, length + 1));
    (value as u8, length)
}

/// `u0041`, `U00000041`, and the second half of a surrogate pair if there is one.
fn unicode_escape(rest: &[u8], digits: usize, buffer: &mut Vec<u8>) -> Option<usize> {
    let (first, length) = code_point(rest, digits)?;
    let (code, length) = if (0xD800..0xDC00).contains(&first) {
        let [b'\\', after @ ..] = &rest[length..] else { return None };
        let digits = if after.first() == Some(&b'U') { 8 } else { 4 };
        let (second, second_length) = code_point(after, digits).filter(|(code, _)| (0xDC00..0xE000).contains(code))?;
        (0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00), length + 1 + second_length)
    } else {
        (first, length)
    };
    let character = char::from_u32(code).filter(|&character| character != '\0')?;
    buffer.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    Some(length)
}

/// The letter `u` or `U` and `digits` hexadecimal digits: their value and the length of all.
fn code_point(text: &[u8], digits: usize) -> Option<(u32, usize)> {
    let [b'u' | b'U', rest @ ..] = text else { return None };
    let digit = |code: u32, &digit: &u8| Some(code << 4 | u32::from(text::hex(digit)?));
    let code = rest.get(..digits)?.iter().try_fold(0, digit)?;
    Some((code, digits + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lexer::Normalized;

    fn decoded(sql: &str, standard_strings: bool) -> Option<String> {
        let mut normalized = Normalized::default();
        normalized.run(sql.as_bytes(), standard_strings);
        assert_eq!(normalized.literals.len(), 1, "{sql}");
        string(&normalized.literals[0], sql.as_bytes()).map(|value| String::from_utf8(value.into_owned()).unwrap())
    }

    #[test]
    fn strings_are_decoded_as_postgresql_decodes_them() {
        for (sql, value) in [
            ("'a'", "a"),
            ("''", ""),
            ("'it''s'", "it's"),
            (r"'a\nb'", r"a\nb"),
            ("'a'\n'b'", "ab"),
            ("'a' -- c'\n\t'b'''", "ab'"),
            (r"E'a\nb\\c\'d''e'", "a\nb\\c'd'e"),
            (r"e'\101\x42\u0043\U00000044\8\q'", "ABCD8q"),
            (r"E'\xc3\xa9\303\251'", "éé"),
            (r"E'\uD83D\uDE00'", "😀"),
            ("E'a'\n'\\t'", "a\t"),
            ("$$it's$$", "it's"),
            ("$t$a$$b$t$", "a$$b"),
            ("$$$$", ""),
        ] {
            assert_eq!(decoded(sql, true).as_deref(), Some(value), "{sql}");
        }
        assert_eq!(decoded(r"'a\'b'", false).as_deref(), Some("a'b"));
    }

    #[test]
    fn malformed_and_unread_strings_have_no_value() {
        for sql in [
            r"E'\u12'",
            r"E'\uD83D'",
            r"E'\uD83Dx'",
            r"E'\uDE00'",
            r"E'\0'",
            r"E'\x00'",
            r"E'\U00110000'",
            "U&'a'",
            "B'1'",
            "X'1F'",
            "1",
        ] {
            assert_eq!(decoded(sql, true), None, "{sql}");
        }
    }

    fn key(key_type: KeyType, sql: &str, negated: bool) -> String {
        let mut normalized = Normalized::default();
        normalized.run(sql.as_bytes(), true);
        match read(key_type, &normalized.literals[0], negated, sql.as_bytes(), &mut Vec::new()) {
            Reading::Key(key) => key.to_string(),
            Reading::Null => "null".into(),
            Reading::ServerError => "server error".into(),
            Reading::NotProven(_) => "not proven".into(),
        }
    }

    #[test]
    fn integer_keys_from_constants() {
        for (sql, negated, expected) in [
            ("42", false, "42"),
            ("42", true, "-42"),
            ("0042", false, "42"),
            ("5000000000", false, "5000000000"),
            ("9223372036854775807", false, "9223372036854775807"),
            ("9223372036854775808", true, "-9223372036854775808"),
            ("9223372036854775808", false, "not proven"),
            ("42.0", false, "not proven"),
            ("1e3", false, "not proven"),
            ("'42'", false, "42"),
            ("' -42 '", false, "-42"),
            ("'42'", true, "not proven"),
            (r"E'4\x32'", false, "42"),
            ("$$42$$", false, "42"),
            ("'abc'", false, "server error"),
            ("'9223372036854775808'", false, "server error"),
            ("B'101'", false, "not proven"),
        ] {
            assert_eq!(key(KeyType::Int, sql, negated), expected, "{sql}");
        }
    }

    #[test]
    fn keys_of_other_types_from_constants() {
        assert_eq!(key(KeyType::Text, "'it''s'", false), r"it\'s");
        assert_eq!(key(KeyType::Text, "42", false), "not proven");
        assert_eq!(key(KeyType::Uuid, "42", false), "not proven");
        assert_eq!(key(KeyType::Uuid, "'nonsense'", false), "server error");
        let uuid = "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'";
        assert_eq!(key(KeyType::Uuid, uuid, false), "a0eebc999c0b4ef8bb6d6bb9bd380a11");
    }
}
