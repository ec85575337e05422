//! COPY data that is hard to read: by hand, and at random.

use std::fmt;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};

/// COPY t (columns) FROM STDIN (options); the key is column `k`.
#[derive(Debug, Clone)]
pub struct Input {
    pub columns: &'static str,
    pub options: &'static str,
    pub data: Vec<u8>,
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: \"{}\"", self.sql(), self.data.escape_ascii())
    }
}

impl Input {
    pub fn sql(&self) -> String {
        let options = if self.options.is_empty() { String::new() } else { format!(" ({})", self.options) };
        format!("COPY t ({}) FROM STDIN{options}", self.columns)
    }
}

fn input(columns: &'static str, options: &'static str, data: impl Into<Vec<u8>>) -> Input {
    Input { columns, options, data: data.into() }
}

/// One column of text: line ends, escapes, NULL, the end-of-data marker.
#[rustfmt::skip]
const TEXT: &[&str] = &[
    "", "\n", "\n\n", "a", "a\n", "a\nb", "a\r\nb\r\n", "a\rb\r", "a\r", "a\r\n", "\r", "\r\n", "a\nb\r\n", "a\r\nb\n",
    "a\rb\n", "a\r\nb\r", "a\r\nb\rc\r\n", "a\nb\rc\n", "\\N\n", "\\N", "\\n\n", "\\\\N\n", "\\NN\n", "N\n", " \\N\n",
    "\\b\\f\\n\\r\\t\\v\n", "\\1\\12\\101\\1011\n", "\\777\n", "\\477\n", "\\8\\9\n", "\\x\\xg\\x4\\x41\\x411\\X41\n",
    "\\x4g\n", "\\q\\\"\\'\\\\\n", "a\\\nb\n", "a\\\r\nb\n", "a\\\r\nb\r\n", "a\\\r\\\nb\n", "a\\\rb\r", "a\\", "\\", "a\n\\",
    "\\.\n", "\\.", "\\.\r\n", "\\.\r", "a\n\\.\n", "a\n\\.\nb\n", "a\n\\.", "a\n\\.\r\n", "a\r\n\\.\r\n", "a\r\n\\.\n",
    "a\r\n\\.", "a\r\n\\.\r", "a\r\n\\.\rx", "a\r\\.\r", "a\r\\.\n", "a\r\\.\r\n", "a\\.\nb\n", "a\n\\.b\n", "\\..\n",
    "\\\\.\n", "\\\\\\.\n", "a\n\\.\nb\r\n\r\r", "\\x5c.\n", "\\056\n", "\u{e9}\n", "\\303\\251\n", "\\xc3\\xa9\n",
    "a\\\u{e9}\n", "\"a\nb\"\n", ",\n", "\\,\n", " a \n", "\\101\\x\n", "a\n\n\nb\n", "\\\\\\N\n",
];

/// One column of CSV: quotes, line breaks inside them, the marker only as a line of its own.
#[rustfmt::skip]
const CSV: &[&str] = &[
    "", "\n", "\n\n", "a", "a\n", "a\nb", "a\r\nb\r\n", "a\rb\r", "a\r", "\r\n", "a\nb\r\n", "a\r\nb\n", "a\rb\n",
    "a\nb\rc\n", "\"\"\n", "\"\"", "\"\n\"\n", "\"a\nb\"\n\"c\r\nd\"\n", "\"a\r\nb\"\r\nc\r\n", "\"a\rb\"\nc\n",
    "\"a\nb\"\r\nc\r\n", "\"a\"\"b\"\n", "\"\"\"\"\n", "\"\"\"\n", "\"\"\"\n\"\n", "a\"b\"c\n", "a\"\"c\n", "a\"b\nc\"d\n",
    "\"a\"b\"c\"\n", "\"a\nb", "a\"", "\"\\\"\n", "\"\\\"\"\n", "\"a\\\"b\"\n", "\"a\\\\\"\n", "\"a\\\\\"\"\n", "\"a\\b\"\n",
    "a\\b\n", "a\\\n", "\\", "a\n\\", "\\.\n", "\\.", "\\.\r\n", "\\.\r", "a\n\\.\nb\n", "a\n\\.", "a\n\\.\r\n",
    "a\r\n\\.\r\n", "a\r\n\\.\n", "a\r\n\\.", "a\r\n\\.\r", "a\r\n\\.\rx", "a\r\\.\r", "a\r\\.\n", "a\\.\n", "\\.b\nc\n",
    "\"\\.\"\n", "\"\n\\.\n\"\n", "\"a\n\\.\nb\"\nc\n", "\\N\n", "\"\\N\"\n", " \"a\" \n", "' '\n", "\u{e9}\"\u{e9}\"\n",
    "\"a\n\"\"\nb\"\n", "\"\"\n\\.\n", "\\.\"\n\"\n", "\\x41\n", "\"a,b\"\n", "a\"\n\"\n",
];

/// Several columns, and options.
const WIDE: &[(&str, &str, &str)] = &[
    ("a,k,z", "", "1\t2\t3\n4\t5\t6\n"),
    ("a,k,z", "", "1\t\\N\t3\n\\N\t5\t\\N\n\t\t\n"),
    ("a,k,z", "", "1\\\t2\t3\t4\n\\t\t5\\\n5\t\\\\\n"),
    ("a,k,z", "", "1\t2\n"),
    ("a,k,z", "", "1\n"),
    ("a,k,z", "", "\n"),
    ("a,k,z", "", "1\t2\t3\t4\n"),
    ("a,k", "", "1\t2\n3"),
    ("a,k", "", "1\t2\n3\t\\"),
    ("a,k", "", "1\\\t2\n"),
    ("z,k", "DELIMITER 'A'", "\\x41A1\n2\\AA3\n\\xAA4\n"),
    ("k,z", "DELIMITER '|', NULL 'nil'", "a|b\nnil|c\n\\nil|d\nnil\\|e|f\n"),
    ("k", "NULL 'nil'", "nil\\"),
    ("k", "NULL ''", "\n\\N\n\n"),
    ("k,z", "HEADER", "anything\nk\tz\n"),
    ("k,z", "HEADER", ""),
    ("k,z", "HEADER", "\n1\t2\n"),
    ("k,z", "HEADER", "k\tz"),
    ("k,z", "HEADER match", "k\tz\n1\t2\n"),
    ("k,z", "HEADER match", "k\tx\n1\t2\n"),
    ("k,z", "HEADER", "\\.\n1\t2\n"),
    ("a,k,z", "FORMAT csv", "1,2,3\n\"4\n,\",\"5,5\",\"6\"\n,,\n\"\",\"\",\"\"\n"),
    ("a,k,z", "FORMAT csv", "1,2\n"),
    ("a,k,z", "FORMAT csv", "1\n"),
    ("a,k,z", "FORMAT csv", "1,2,3,4\n"),
    ("a,k,z", "FORMAT csv", "1,2,\"3\n"),
    ("a,k,z", "FORMAT csv", "1,\"2,3\n"),
    ("a,k,z", "FORMAT csv, ESCAPE '\\'", "\"\\\"\",\"\\\\\\\"\",\"\\x\"\n\"\"\"\",x,y\n"),
    ("a,k,z", "FORMAT csv, QUOTE '''', DELIMITER ';'", "'1;2';'3''4';\"\n"),
    ("a,k", "FORMAT csv, QUOTE '\\'", "\\1,2\\,\\3\n4\\\n5,6\n"),
    ("a,k", "FORMAT csv, HEADER", "\"a\nb\",k\n1,2\n"),
    ("a,k", "FORMAT csv, HEADER match", "a,\"k\"\n1,2\n"),
    ("a,k", "FORMAT csv, HEADER off", "a,k\n"),
    ("k,z", "FORMAT csv, FORCE_NULL (k)", "\"\",\"\"\n,\n"),
    ("k,z", "FORMAT csv, FORCE_NOT_NULL (k, z)", "\"\",\"\"\n,\n"),
    ("k,z", "FORMAT csv, FORCE_NULL (k), FORCE_NOT_NULL (k), NULL 'n'", "n,\"n\"\n\"n\",n\n"),
    ("k,z", "FORMAT csv, NULL 'a b'", "a b,1\n\"a b\",2\na\" \"b,3\n"),
    ("k,z", "FORMAT csv", "\\.\n1,2\n"),
    ("k,z", "FORMAT csv", "\\.,2\n3,4\n"),
];

/// The inputs written by hand.
pub fn fixed() -> Vec<Input> {
    let text = TEXT.iter().flat_map(|data| [input("k", "", *data), input("k", "NULL ''", *data)]);
    let csv_options = ["FORMAT csv", "FORMAT csv, ESCAPE '\\'", "FORMAT csv, NULL '\\N'", "FORMAT csv, HEADER"];
    let csv = CSV.iter().flat_map(|data| csv_options.map(|options| input("k", options, *data)));
    let wide = WIDE.iter().map(|&(columns, options, data)| input(columns, options, data));
    let large = input("a,k,z", "", "1\t2\t3\n".repeat(50_000));
    let bytes = [b"a\0\n".as_slice(), b"\\0\n", b"\xff\n", b"\\xff\n"].map(|data| input("k", "", data));
    text.chain(csv).chain(wide).chain([large]).chain(bytes).collect()
}

/// Columns and options of the random inputs, and their delimiter.
const SHAPES: &[(&str, &str, &str)] = &[
    ("k", "", "\t"),
    ("a,k", "DELIMITER ','", ","),
    ("a,k,z", "NULL 'a'", "\t"),
    ("k", "FORMAT csv", ","),
    ("a,k", "FORMAT csv", ","),
    ("a,k,z", "FORMAT csv, HEADER, NULL 'a'", ","),
    ("a,k", "FORMAT csv, ESCAPE '\\'", ","),
    ("k,z", "FORMAT csv, QUOTE '\\', ESCAPE '\"', FORCE_NULL (k), NULL 'a'", ","),
    ("k", "FORMAT csv, QUOTE 'a', ESCAPE '.'", ","),
];

/// What random fields are made of.
#[rustfmt::skip]
const PIECES: &[&str] = &[
    "a", "a", "b", "", "7", ".", "x", "N", "\\", "\\", "\\\\", "\\N", "\\x4", "\\1", "\\t", "\\\n", "\\\r", "\\.", "\"", "\"",
    "\"\"", "\"\n\"", "\"\r\n\"", "\",\"", "\u{e9}", " ",
];

/// What is thrown in anywhere, mostly to break things.
const DAMAGE: &[&str] = &["\n", "\r", "\r\n", "\\", "\\.", "\\.\n", "\\.\r\n", "\n\\.\n", "\"", ",", "\t", "\0"];

/// Rows of the right number of columns, with the same line ends, and in a quarter of the inputs some damage.
pub fn structured() -> impl Strategy<Value = Input> {
    let field = prop::collection::vec(prop::sample::select(PIECES), 0..4).prop_map(|pieces| pieces.concat());
    let rows = prop::collection::vec(prop::collection::vec(field, 3), 0..6);
    let line_end = prop::sample::select(["\n", "\n", "\r\n", "\r"].as_slice());
    let damage = prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(DAMAGE)), 1..3);
    let damage = prop_oneof![3 => Just(Vec::new()), 1 => damage];
    (prop::sample::select(SHAPES), rows, line_end, damage, any::<bool>()).prop_map(
        |((columns, options, delimiter), rows, line_end, damage, last_end)| {
            let width = columns.split(',').count();
            let rows: Vec<String> = rows.iter().map(|fields| fields[..width].join(delimiter)).collect();
            let last_end = if last_end { line_end } else { "" };
            let mut data = (rows.join(line_end) + last_end).into_bytes();
            for (place, what) in damage {
                let place = place.index(data.len() + 1);
                data.splice(place..place, what.bytes());
            }
            input(columns, options, data)
        },
    )
}

/// Bytes that mean something, in no order.
pub fn random() -> impl Strategy<Value = Input> {
    let bytes = prop::sample::select(b"aaaabN.x4\\\\\\\"\"\"\n\n\n\r,\t \xc3\xa9".as_slice());
    (prop::sample::select(SHAPES), prop::collection::vec(bytes, 0..24))
        .prop_map(|((columns, options, _), data)| input(columns, options, data))
}

/// `count` inputs. A failure prints its input, which is all that is needed to repeat it.
pub fn many(strategy: &impl Strategy<Value = Input>, count: usize) -> Vec<Input> {
    let mut runner = TestRunner::new(Config::default());
    let mut next = || strategy.new_tree(&mut runner).expect("an input").current();
    (0..count).map(|_| next()).collect()
}
