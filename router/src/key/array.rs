//! The keys of `= ANY (…)`: an array as text (`{1,2,3}`) or in PostgreSQL's binary form, of one dimension.

use super::{Key, KeyType, Reading, oid, parameter, text};
use crate::plan::{Format, Parameter};

const OTHER_TYPE: &str = "the array parameter's declared type is not an array of the key's type";
const NOT_PLAIN: &str = "the array is not a plain one-dimensional array such as {1,2,3}";

/// What reading an array came to. The elements went to the caller's function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArrayReading {
    /// All elements were handed out (NULL elements are left out: nothing equals them).
    Done,
    /// The array itself is NULL.
    Null,
    /// An element is sure to raise an error.
    ServerError,
    NotProven(&'static str),
}

/// Hands out the keys of an array parameter.
pub fn read_parameter(key_type: KeyType, parameter: Parameter<'_>, each: &mut dyn FnMut(Key<'_>)) -> ArrayReading {
    let Some(value) = parameter.value else { return ArrayReading::Null };
    let of_family = is_array_of(key_type, parameter.oid);
    // A string that is cast, as in `$1::bigint[]`.
    let cast = matches!(parameter.oid, oid::TEXT | oid::VARCHAR);
    match parameter.format {
        Format::Text if of_family || cast => read_text(key_type, value, each),
        Format::Binary if of_family => read_binary(key_type, value, each).unwrap_or(ArrayReading::NotProven(NOT_PLAIN)),
        Format::Binary if cast => read_text(key_type, value, each),
        _ => ArrayReading::NotProven(OTHER_TYPE),
    }
}

fn is_array_of(key_type: KeyType, oid: u32) -> bool {
    match key_type {
        _ if matches!(oid, oid::UNSPECIFIED | oid::UNKNOWN) => true,
        KeyType::Int => matches!(oid, oid::INT2_ARRAY | oid::INT4_ARRAY | oid::INT8_ARRAY),
        KeyType::Uuid => oid == oid::UUID_ARRAY,
        KeyType::Text => matches!(oid, oid::TEXT_ARRAY | oid::VARCHAR_ARRAY),
    }
}

/// Hands out the keys of an array's text form.
pub fn read_text(key_type: KeyType, value: &[u8], each: &mut dyn FnMut(Key<'_>)) -> ArrayReading {
    let [b'{', inside @ .., b'}'] = text::trim(value) else { return ArrayReading::NotProven(NOT_PLAIN) };
    if text::trim(inside).is_empty() {
        return ArrayReading::Done;
    }
    let mut buffer = Vec::new();
    let mut rest = inside;
    loop {
        let Some((element, after)) = next_element(rest, &mut buffer) else { return ArrayReading::NotProven(NOT_PLAIN) };
        let reading = match element {
            Element::Null => Reading::Null,
            Element::Plain(value) => text::read(key_type, value),
            Element::InBuffer => text::read(key_type, &buffer),
        };
        if let Err(stop) = hand_out(reading, each) {
            return stop;
        }
        match after {
            [] => return ArrayReading::Done,
            [_comma, after @ ..] => rest = after,
        }
    }
}

fn hand_out(reading: Reading<'_>, each: &mut dyn FnMut(Key<'_>)) -> Result<(), ArrayReading> {
    match reading {
        Reading::Key(key) => each(key),
        Reading::Null => {}
        Reading::ServerError => return Err(ArrayReading::ServerError),
        Reading::NotProven(why) => return Err(ArrayReading::NotProven(why)),
    }
    Ok(())
}

enum Element<'a> {
    Null,
    Plain(&'a [u8]),
    InBuffer,
}

/// The first element, and what follows it: nothing, or a comma and more. None: not plain.
fn next_element<'a>(text: &'a [u8], buffer: &mut Vec<u8>) -> Option<(Element<'a>, &'a [u8])> {
    let text = text::trim_start(text);
    if let [b'"', quoted @ ..] = text {
        let after = text::trim_start(unquote(quoted, buffer)?);
        return matches!(after, [] | [b',', ..]).then_some((Element::InBuffer, after));
    }
    let end = text.iter().position(|&byte| byte == b',').unwrap_or(text.len());
    let (value, after) = (text::trim(&text[..end]), &text[end..]);
    let odd = |byte: &u8| matches!(byte, b'{' | b'}' | b'"' | b'\\');
    if value.is_empty() || value.iter().any(odd) {
        return None;
    }
    let element = if value.eq_ignore_ascii_case(b"null") { Element::Null } else { Element::Plain(value) };
    Some((element, after))
}

/// Decodes a quoted element into the buffer; returns what follows its closing quote.
fn unquote<'a>(quoted: &'a [u8], buffer: &mut Vec<u8>) -> Option<&'a [u8]> {
    buffer.clear();
    let mut rest = quoted;
    loop {
        match rest {
            [b'"', after @ ..] => return Some(after),
            [] | [b'\\'] => return None,
            [b'\\', byte, after @ ..] | [byte, after @ ..] => {
                buffer.push(*byte);
                rest = after;
            }
        }
    }
}

/// Hands out the keys of an array's binary form: dimensions, a flag, the element type, length and lower bound of each
/// dimension, then length and value of each element. None: not of that form.
fn read_binary(key_type: KeyType, value: &[u8], each: &mut dyn FnMut(Key<'_>)) -> Option<ArrayReading> {
    let mut rest = value;
    let dimensions = take_i32(&mut rest)?;
    let _has_nulls = take_i32(&mut rest)?;
    let element_type = take_i32(&mut rest)? as u32;
    if element_type == oid::UNSPECIFIED || !key_type.accepts(element_type) {
        return Some(ArrayReading::NotProven(OTHER_TYPE));
    }
    if dimensions == 0 {
        return rest.is_empty().then_some(ArrayReading::Done);
    }
    if dimensions != 1 {
        return None;
    }
    let count = take_i32(&mut rest)?;
    let _lower_bound = take_i32(&mut rest)?;
    for _ in 0..count {
        let reading = match take_i32(&mut rest)? {
            -1 => Reading::Null,
            length => {
                let (element, after) = rest.split_at_checked(usize::try_from(length).ok()?)?;
                rest = after;
                parameter::binary(key_type, element_type, element)
            }
        };
        if let Err(stop) = hand_out(reading, each) {
            return Some(stop);
        }
    }
    rest.is_empty().then_some(ArrayReading::Done)
}

fn take_i32(bytes: &mut &[u8]) -> Option<i32> {
    let (head, rest) = bytes.split_first_chunk::<4>()?;
    *bytes = rest;
    Some(i32::from_be_bytes(*head))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_keys(key_type: KeyType, value: &str) -> (ArrayReading, Vec<String>) {
        let mut keys = Vec::new();
        let reading = read_text(key_type, value.as_bytes(), &mut |key| keys.push(key.to_string()));
        (reading, keys)
    }

    #[test]
    fn text_arrays_hand_out_their_elements() {
        for (value, expected) in [
            ("{1,2,3}", vec!["1", "2", "3"]),
            (" { 1 ,\t-2 , \"3\" } ", vec!["1", "-2", "3"]),
            ("{}", vec![]),
            ("{ }", vec![]),
            ("{NULL,7,null}", vec!["7"]),
        ] {
            let expected = (ArrayReading::Done, expected.into_iter().map(String::from).collect());
            assert_eq!(text_keys(KeyType::Int, value), expected, "{value}");
        }
        let (reading, keys) = text_keys(KeyType::Text, r#"{a b,"c,d","e\"f","NULL","\\"}"#);
        assert_eq!(reading, ArrayReading::Done);
        assert_eq!(keys, ["a b", "c,d", r#"e\"f"#, "NULL", r"\\"]);
    }

    #[test]
    fn odd_text_arrays_prove_nothing() {
        for value in [
            "",
            "1,2",
            "{1,2",
            "{{1,2},{3,4}}",
            "[0:1]={1,2}",
            "{1,}",
            "{,1}",
            "{1,,2}",
            "{\"1}",
            "{\"1\"2}",
            "{1\"2\"}",
            "{\"1\\",
        ] {
            assert!(matches!(text_keys(KeyType::Int, value).0, ArrayReading::NotProven(_)), "{value}");
        }
        assert!(matches!(text_keys(KeyType::Text, "{a\\,b}").0, ArrayReading::NotProven(_)));
        assert_eq!(text_keys(KeyType::Int, "{1,abc}").0, ArrayReading::ServerError);
    }

    fn binary_array(element_type: u32, dimensions: i32, elements: &[Option<&[u8]>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [dimensions, 0, element_type as i32, elements.len() as i32, 1] {
            bytes.extend_from_slice(&word.to_be_bytes());
        }
        for element in elements {
            let length = element.map_or(-1, |element| element.len() as i32);
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(element.unwrap_or_default());
        }
        bytes
    }

    fn binary_keys(key_type: KeyType, oid: u32, value: &[u8]) -> (ArrayReading, Vec<String>) {
        let mut keys = Vec::new();
        let parameter = Parameter { oid, format: Format::Binary, value: Some(value) };
        let reading = read_parameter(key_type, parameter, &mut |key| keys.push(key.to_string()));
        (reading, keys)
    }

    #[test]
    fn binary_arrays_hand_out_their_elements() {
        let int4 = binary_array(23, 1, &[Some(&[0, 0, 0, 1]), None, Some(&[255; 4])]);
        assert_eq!(binary_keys(KeyType::Int, 1007, &int4), (ArrayReading::Done, vec!["1".into(), "-1".into()]));
        assert_eq!(binary_keys(KeyType::Int, 0, &int4).0, ArrayReading::Done);
        let text = binary_array(25, 1, &[Some(b"a"), Some(b"")]);
        assert_eq!(binary_keys(KeyType::Text, 1009, &text), (ArrayReading::Done, vec!["a".into(), String::new()]));
        let uuid = binary_array(2950, 1, &[Some(&[0xAB; 16])]);
        assert_eq!(binary_keys(KeyType::Uuid, 2951, &uuid), (ArrayReading::Done, vec!["ab".repeat(16)]));
        let empty = [0_u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 23];
        assert_eq!(binary_keys(KeyType::Int, 1007, &empty), (ArrayReading::Done, vec![]));
    }

    #[test]
    fn odd_binary_arrays_prove_nothing() {
        let good = binary_array(23, 1, &[Some(&[0, 0, 0, 1]), Some(&[0, 0, 0, 2])]);
        for length in 0..good.len() {
            assert!(matches!(binary_keys(KeyType::Int, 0, &good[..length]).0, ArrayReading::NotProven(_)), "{length}");
        }
        let trailing = [&good[..], &[0]].concat();
        assert!(matches!(binary_keys(KeyType::Int, 0, &trailing).0, ArrayReading::NotProven(_)));
        for wrong in [
            binary_array(23, 2, &[Some(&[0, 0, 0, 1])]),
            binary_array(23, -1, &[Some(&[0, 0, 0, 1])]),
            binary_array(1700, 1, &[Some(&[0, 0, 0, 1])]),
            binary_array(0, 1, &[Some(&[0, 0, 0, 1])]),
        ] {
            assert!(matches!(binary_keys(KeyType::Int, 0, &wrong).0, ArrayReading::NotProven(_)));
        }
        assert!(matches!(binary_keys(KeyType::Int, 1231, &good).0, ArrayReading::NotProven(_)));
    }

    #[test]
    fn array_parameters_as_text() {
        let read = |key_type, oid, value| {
            let mut keys = Vec::new();
            let parameter = Parameter { oid, format: Format::Text, value };
            let reading = read_parameter(key_type, parameter, &mut |key| keys.push(key.to_string()));
            (reading, keys.join(" "))
        };
        for oid in [0, 25, 705, 1005, 1007, 1016, 1043] {
            assert_eq!(read(KeyType::Int, oid, Some(b"{4,5}".as_slice())), (ArrayReading::Done, "4 5".into()), "{oid}");
        }
        assert_eq!(read(KeyType::Int, 0, None).0, ArrayReading::Null);
        assert!(matches!(read(KeyType::Int, 1231, Some(b"{4}")).0, ArrayReading::NotProven(_)));
    }
}
