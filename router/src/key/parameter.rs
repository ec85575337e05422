//! Keys from the values of a Bind message.
//!
//! A parameter is a key only if its declared type is of the key's family, or was left to the server (which then takes the
//! type of what it is compared with), or is a string that the statement casts: then its value is read as PostgreSQL's input
//! function reads it.

use super::{Key, KeyType, Reading, oid, text};
use crate::plan::{Format, Parameter};

const OTHER_TYPE: &str = "the parameter's declared type is not the key's";

/// Reads a parameter as a key.
#[inline]
pub fn read<'a>(key_type: KeyType, parameter: Parameter<'a>) -> Reading<'a> {
    let Some(value) = parameter.value else { return Reading::Null };
    if key_type.accepts(parameter.oid) {
        return match parameter.format {
            Format::Text => text::read(key_type, value),
            Format::Binary => binary(key_type, parameter.oid, value),
        };
    }
    // A string that is cast (`$1::bigint`); without a cast the server refuses the comparison.
    if matches!(parameter.oid, oid::TEXT | oid::VARCHAR) {
        return text::read(key_type, value);
    }
    Reading::NotProven(OTHER_TYPE)
}

/// Reads the binary form of a value whose type `oid` belongs to the key's family or is unspecified.
#[inline]
pub(super) fn binary(key_type: KeyType, oid: u32, value: &[u8]) -> Reading<'_> {
    match key_type {
        KeyType::Text => Reading::Key(Key::Text(value)),
        KeyType::Uuid => value.try_into().map_or(Reading::ServerError, |uuid| Reading::Key(Key::Uuid(uuid))),
        KeyType::Int => integer(oid, value).map_or(Reading::ServerError, |value| Reading::Key(Key::Int(value))),
    }
}

/// Big-endian, as wide as its type; any width if the type is the server's choice (which refuses a wrong one).
fn integer(oid: u32, value: &[u8]) -> Option<i64> {
    match (value, oid) {
        (&[a, b], oid::INT2 | oid::UNSPECIFIED | oid::UNKNOWN) => Some(i16::from_be_bytes([a, b]).into()),
        (&[a, b, c, d], oid::INT4 | oid::UNSPECIFIED | oid::UNKNOWN) => Some(i32::from_be_bytes([a, b, c, d]).into()),
        (_, oid::INT8 | oid::UNSPECIFIED | oid::UNKNOWN) => value.try_into().ok().map(i64::from_be_bytes),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(key_type: KeyType, oid: u32, format: Format, value: &[u8]) -> Reading<'_> {
        read(key_type, Parameter { oid, format, value: Some(value) })
    }

    #[test]
    fn integers_come_as_text_or_in_their_declared_width() {
        let expected = Reading::Key(Key::Int(-7));
        for oid in [0, 20, 21, 23, 25, 705, 1043] {
            assert_eq!(reading(KeyType::Int, oid, Format::Text, b"-7"), expected, "{oid}");
        }
        for oid in [0, 20, 705] {
            assert_eq!(reading(KeyType::Int, oid, Format::Binary, &(-7_i64).to_be_bytes()), expected, "{oid}");
        }
        assert_eq!(reading(KeyType::Int, 23, Format::Binary, &(-7_i32).to_be_bytes()), expected);
        assert_eq!(reading(KeyType::Int, 21, Format::Binary, &(-7_i16).to_be_bytes()), expected);
        assert_eq!(reading(KeyType::Int, 23, Format::Binary, &(-7_i64).to_be_bytes()), Reading::ServerError);
        assert_eq!(reading(KeyType::Int, 20, Format::Binary, &(-7_i32).to_be_bytes()), Reading::ServerError);
        assert_eq!(reading(KeyType::Int, 0, Format::Binary, b"abc"), Reading::ServerError);
    }

    #[test]
    fn types_of_other_families_prove_nothing() {
        // numeric, float8, bpchar, name, bytea
        for oid in [1700, 701, 1042, 19, 17] {
            for key_type in [KeyType::Int, KeyType::Uuid, KeyType::Text] {
                assert_eq!(reading(key_type, oid, Format::Text, b"42"), Reading::NotProven(OTHER_TYPE), "{oid}");
            }
        }
        assert_eq!(reading(KeyType::Text, 20, Format::Text, b"42"), Reading::NotProven(OTHER_TYPE));
        assert_eq!(reading(KeyType::Uuid, 20, Format::Text, b"42"), Reading::NotProven(OTHER_TYPE));
    }

    #[test]
    fn uuid_and_text_come_in_both_formats() {
        let uuid = [7; 16];
        assert_eq!(reading(KeyType::Uuid, 2950, Format::Binary, &uuid), Reading::Key(Key::Uuid(uuid)));
        assert_eq!(reading(KeyType::Uuid, 0, Format::Text, "07".repeat(16).as_bytes()), Reading::Key(Key::Uuid(uuid)));
        assert_eq!(reading(KeyType::Uuid, 0, Format::Binary, &uuid[1..]), Reading::ServerError);
        for format in [Format::Text, Format::Binary] {
            assert_eq!(reading(KeyType::Text, 25, format, b"a b"), Reading::Key(Key::Text(b"a b")));
        }
        assert_eq!(read(KeyType::Text, Parameter { oid: 0, format: Format::Text, value: None }), Reading::Null);
    }
}
