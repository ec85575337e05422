//! The input functions of the key's types: what PostgreSQL makes of a string.

use super::{Key, KeyType, Reading};

const ALTERNATIVE_INTEGER: &str =
    "integers in hexadecimal, octal or binary, or with underscores, are not the same to all versions of PostgreSQL";

/// Reads a string as PostgreSQL's input function of the key's type does.
#[inline]
pub(super) fn read(key_type: KeyType, value: &[u8]) -> Reading<'_> {
    match key_type {
        KeyType::Int => int8in(value),
        KeyType::Uuid => uuid_in(value).map_or(Reading::ServerError, |uuid| Reading::Key(Key::Uuid(uuid))),
        KeyType::Text => Reading::Key(Key::Text(value)),
    }
}

/// `int8in`: white space, sign, digits, white space. int2in and int4in accept the same with narrower limits; what is beyond
/// them is an error of the server's on whatever shard.
fn int8in(value: &[u8]) -> Reading<'_> {
    let trimmed = trim(value);
    let (negative, digits) = match trimmed {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, trimmed),
    };
    match decimal(digits, negative) {
        Decimal::Value(value) => Reading::Key(Key::Int(value)),
        Decimal::TooBig => Reading::ServerError,
        Decimal::Malformed if alternative_integer(digits) => Reading::NotProven(ALTERNATIVE_INTEGER),
        Decimal::Malformed => Reading::ServerError,
    }
}

/// What PostgreSQL 16 began to accept: `0x1F`, `0o17`, `0b11`, `1_000`.
fn alternative_integer(digits: &[u8]) -> bool {
    digits.first().is_some_and(u8::is_ascii_digit)
        && digits.iter().all(|&byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

pub(super) enum Decimal {
    Value(i64),
    TooBig,
    Malformed,
}

/// Decimal digits only.
#[inline]
pub(super) fn decimal(digits: &[u8], negative: bool) -> Decimal {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Decimal::Malformed;
    }
    // Counts down: the negative numbers reach one farther.
    let mut value = 0_i64;
    for digit in digits {
        let next = value.checked_mul(10).and_then(|value| value.checked_sub(i64::from(digit - b'0')));
        let Some(next) = next else { return Decimal::TooBig };
        value = next;
    }
    if negative {
        return Decimal::Value(value);
    }
    value.checked_neg().map_or(Decimal::TooBig, Decimal::Value)
}

/// Strips white space from both ends.
pub(super) fn trim(value: &[u8]) -> &[u8] {
    let mut value = trim_start(value);
    while let [rest @ .., last] = value
        && is_space(*last)
    {
        value = rest;
    }
    value
}

pub(super) fn trim_start(mut value: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = value
        && is_space(*first)
    {
        value = rest;
    }
    value
}

/// C's `isspace`.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0B | 0x0C)
}

/// `uuid_in`: 32 hexadecimal digits of any case, a hyphen allowed after every fourth, braces allowed around all.
fn uuid_in(value: &[u8]) -> Option<[u8; 16]> {
    let mut rest = match value {
        [b'{', inside @ .., b'}'] => inside,
        _ => value,
    };
    let mut uuid = [0; 16];
    for (i, byte) in uuid.iter_mut().enumerate() {
        let [high, low, after @ ..] = rest else { return None };
        *byte = hex(*high)? << 4 | hex(*low)?;
        rest = match after {
            [b'-', after @ ..] if i % 2 == 1 && i < 15 => after,
            _ => after,
        };
    }
    rest.is_empty().then_some(uuid)
}

pub(super) fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|digit| digit as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn int(value: &str) -> Reading<'_> {
        read(KeyType::Int, value.as_bytes())
    }

    #[test]
    fn integers_are_read_as_int8in_reads_them() {
        for (text, value) in [
            ("42", 42),
            (" \t\n\r\x0b\x0c42 ", 42),
            ("+42", 42),
            ("-42", -42),
            ("-0", 0),
            ("00000000000000000000000000042", 42),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
        ] {
            assert_eq!(int(text), Reading::Key(Key::Int(value)), "{text:?}");
        }
    }

    #[test]
    fn what_int8in_refuses_is_a_server_error() {
        for text in [
            "",
            " ",
            "-",
            "+-1",
            "- 1",
            "1 2",
            "abc",
            "1.0",
            "1e3x",
            "9223372036854775808",
            "-9223372036854775809",
            "\u{a0}1",
        ] {
            let reading = int(text);
            let expected = if text == "1e3x" { Reading::NotProven(ALTERNATIVE_INTEGER) } else { Reading::ServerError };
            assert_eq!(reading, expected, "{text:?}");
        }
    }

    #[test]
    fn integers_of_newer_servers_are_not_proven() {
        for text in ["0x1F", "0o17", "0b11", "1_000", "-0x10"] {
            assert!(matches!(int(text), Reading::NotProven(_)), "{text:?}");
        }
    }

    #[test]
    fn uuids_are_read_as_uuid_in_reads_them() {
        let expected = 0xa0ee_bc99_9c0b_4ef8_bb6d_6bb9_bd38_0a11_u128.to_be_bytes();
        for text in [
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
            "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11",
            "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
            "{a0eebc99-9c0b4ef8-bb6d6bb9-bd380a11}",
        ] {
            assert_eq!(uuid_in(text.as_bytes()), Some(expected), "{text}");
        }
        for text in [
            "",
            "{}",
            " a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11-",
            "a0eebc99--9c0b-4ef8-bb6d-6bb9bd380a11",
            "a0-eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            "g0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        ] {
            assert_eq!(uuid_in(text.as_bytes()), None, "{text}");
        }
    }
}
