//! Rows, keys and refusals without a server. That they are PostgreSQL's is the matter of `tests/copy_rows.rs`.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::key::{Key, KeyType};
use crate::map::{Placement, SLOTS, Schema, ShardMap};

/// A row, or the error that ends the data.
type Seen = Result<(Vec<u8>, String, u64), (&'static str, u64)>;

fn cutter(options: &str, key_column: usize) -> RowCutter {
    let format = CopyFormat::parse(&format!("COPY t FROM STDIN {options}")).expect("options of the test");
    RowCutter::new(format, key_column, "k")
}

fn seen(row: &Row<'_>) -> Seen {
    let key = match &row.key {
        RowKey::Null => "NULL".to_owned(),
        RowKey::Header => "HEADER".to_owned(),
        RowKey::Value(value) => format!("={}", value.escape_ascii()),
    };
    Ok((row.raw.to_vec(), key, row.line))
}

/// Feeds `data` in chunks of `size` bytes.
fn rows(mut cutter: RowCutter, data: &[u8], size: usize) -> Vec<Seen> {
    let mut rows = Vec::new();
    let failed = |error: CopyError| Err((error.fault.sqlstate(), error.line));
    for chunk in data.chunks(size) {
        cutter.push(chunk);
        loop {
            match cutter.next_row() {
                Ok(Some(row)) => rows.push(seen(&row)),
                Ok(None) => break,
                Err(error) => {
                    rows.push(failed(error));
                    return rows;
                }
            }
        }
    }
    loop {
        match cutter.finish() {
            Ok(Some(row)) => rows.push(seen(&row)),
            Ok(None) => return rows,
            Err(error) => {
                rows.push(failed(error));
                return rows;
            }
        }
    }
}

fn row(raw: &str, key: &str, line: u64) -> Seen {
    Ok((raw.as_bytes().to_vec(), key.to_owned(), line))
}

#[test]
fn rows_keep_their_bytes_and_lines_are_counted() {
    let cases: [(&str, &str, Vec<Seen>); 8] = [
        ("", "1\tb\n\\N\tc\n", vec![row("1\tb\n", "=1", 1), row("\\N\tc\n", "NULL", 2)]),
        ("", "1\r\n2", vec![row("1\r\n", "=1", 1), row("2", "=2", 2)]),
        ("", "1\\\n2\tb\n3\n", vec![row("1\\\n2\tb\n", "=1\\n2", 1), row("3\n", "=3", 2)]),
        ("", "1\n2\\.\n3\n", vec![row("1\n", "=1", 1), row("2", "=2", 2)]),
        ("", "1\n2\r\n", vec![row("1\n", "=1", 1), Err(("22P04", 2))]),
        (
            "CSV HEADER",
            "k,z\n\"a\nb\",1\n,2\n",
            vec![row("k,z\n", "HEADER", 1), row("\"a\nb\",1\n", "=a\\nb", 3), row(",2\n", "NULL", 4)],
        ),
        ("CSV", "\"a\"\"\"\n\"\"\n\\.\nx\n", vec![row("\"a\"\"\"\n", "=a\\\"", 1), row("\"\"\n", "=", 2)]),
        ("CSV", "a\n\"b\n", vec![row("a\n", "=a", 1), Err(("22P04", 3))]),
    ];
    for (options, data, expected) in cases {
        for size in [1, 2, 3, 7, 1000] {
            assert_eq!(rows(cutter(options, 0), data.as_bytes(), size), expected, "{options} {data:?} by {size}");
        }
    }
}

#[test]
fn options_decide_what_is_null() {
    let cases = [
        ("(NULL 'x')", "x", "NULL"),
        ("(NULL 'x')", "\\x", "=x"),
        ("(NULL 0)", "0", "NULL"),
        ("(FORMAT csv)", "\"\"", "="),
        ("(FORMAT csv, FORCE_NULL (k))", "\"\"", "NULL"),
        ("(FORMAT csv, FORCE_NULL (other))", "\"\"", "="),
        ("(FORMAT csv, FORCE_NULL *)", "\"\"", "NULL"),
        ("(FORMAT csv, FORCE_NOT_NULL (k), NULL 'n')", "n", "=n"),
        ("CSV NULL 'n' FORCE NOT NULL k, z", "n", "=n"),
        ("CSV NULL AS 'n'", "n", "NULL"),
    ];
    for (options, data, key) in cases {
        assert_eq!(rows(cutter(options, 0), data.as_bytes(), 10), [row(data, key, 1)], "{options} {data}");
    }
}

#[test]
fn both_syntaxes_say_the_same() {
    for (old, new) in [
        ("", "(FORMAT text, HEADER false)"),
        ("CSV HEADER", "(FORMAT csv, HEADER)"),
        ("CSV HEADER", "(HEADER match, FORMAT 'csv')"),
        ("WITH CSV DELIMITER ';' QUOTE '''' ESCAPE '\\'", "(DELIMITER ';', QUOTE '''', ESCAPE '\\', FORMAT csv)"),
        ("CSV QUOTE ''''", "(FORMAT csv, QUOTE '''', ESCAPE '''', HEADER off)"),
        ("USING DELIMITERS '|'", "(DELIMITER '|')"),
        ("WITH DELIMITER E'\\t' NULL '\\N'", ""),
    ] {
        let parse = |options| CopyFormat::parse(&format!("COPY t (a, k) FROM STDIN {options}")).expect(options);
        assert_eq!(parse(old), parse(new), "{old} and {new}");
        assert_eq!(parse(old).columns, Some(2));
    }
    assert_eq!(CopyFormat::parse("COPY t FROM STDIN").expect("no options").columns, None);
}

#[test]
fn options_that_are_not_understood_are_refused() {
    for options in [
        "BINARY",
        "(FORMAT binary)",
        "(FORMAT 'CSV')",
        "(FREEZE)",
        "(ENCODING 'latin1')",
        "(DELIMITER '||')",
        "(FORMAT csv, QUOTE 'é')",
        "(FORMAT csv, ESCAPE '')",
        "(HEADER sometimes)",
        "(ON_ERROR ignore)",
        "(NULL)",
        "(FORMAT csv, FORCE_NULL k)",
    ] {
        let refusal = CopyFormat::parse(&format!("COPY t FROM STDIN {options}")).expect_err(options);
        assert_eq!(refusal.sqlstate, "0A000", "{options}");
        assert!(!refusal.hint.is_empty(), "{options}");
    }
    for sql in ["SELECT 1", "COPY t TO STDOUT", "COPY t FROM STDIN; COPY t FROM STDIN", "", "COPY"] {
        assert!(CopyFormat::parse(sql).is_err(), "{sql:?}");
    }
}

#[test]
fn what_follows_the_end_of_data_is_not_kept() {
    let mut cutter = cutter("", 0);
    cutter.push(b"1\n\\.\n");
    assert!(cutter.next_row().expect("a row").is_some());
    assert_eq!(cutter.next_row(), Ok(None));
    cutter.push(b"2\r\n3\n");
    assert_eq!(cutter.next_row(), Ok(None));
    assert_eq!(cutter.finish(), Ok(None));
}

#[test]
fn a_row_without_an_end_is_not_buffered_for_ever() {
    let chunk = vec![b'a'; 1 << 20];
    let mut cutter = cutter("", 0);
    for _ in 0..MAX_ROW / chunk.len() {
        cutter.push(&chunk);
        assert_eq!(cutter.next_row(), Ok(None));
    }
    cutter.push(b"\n");
    let error = cutter.next_row().expect_err("one byte too many");
    assert_eq!((error.fault.sqlstate(), error.line), ("54000", 1));
}

#[test]
fn each_key_has_its_shard_or_an_error() {
    let placement = |_| Placement { node: "n".into(), host: "h".into(), port: 5432, dbname: "d".into() };
    let slots: Vec<u16> = (0..SLOTS as u16).map(|slot| slot % 16).collect();
    let shards = (0..16).map(placement).collect();
    let map = ShardMap::new(1, KeyType::Int, &slots, [], shards, Arc::new(Schema::default())).expect("a map");
    let shard = |key| Ok(Destination::Shard(map.shard_of(&Key::Int(key))));
    let long = "y".repeat(100);
    let cases = [
        ("7\n", shard(7)),
        (" -7 \tx\n", shard(-7)),
        ("\\x37\n", shard(7)),
        ("\\N\n", Err(("23502", "null value in column \"k\", the sharding key".to_owned()))),
        ("\n", Err(("22P02", "invalid input syntax for column \"k\", the sharding key: \"\"".to_owned()))),
        ("0x7\n", Err(("0A000", "cannot tell which key \"0x7\" in column \"k\" is".to_owned()))),
        (
            &long,
            Err(("22P02", format!("invalid input syntax for column \"k\", the sharding key: \"{}…\"", &long[..64]))),
        ),
    ];
    for (data, expected) in cases {
        let mut cutter = cutter("", 0);
        cutter.push(data.as_bytes());
        let row = cutter.finish().expect("a row").expect("a row");
        let found = row.destination(&map).map_err(|error| {
            let refusal = error.refusal();
            assert!(refusal.detail.contains("ine 1 of the COPY data"), "{}", refusal.detail);
            assert_eq!(refusal.sqlstate, error.fault.sqlstate());
            (error.fault.sqlstate(), refusal.message)
        });
        assert_eq!(found, expected, "{data:?}");
    }
    let mut cutter = cutter("(HEADER, DEFAULT 'd')", 0);
    cutter.push(b"k\nd\n");
    let header = cutter.next_row().expect("a header").expect("a header");
    assert_eq!(header.destination(&map), Ok(Destination::EveryShard));
    assert_eq!(cutter.next_row().expect_err("a default key").fault.sqlstate(), "0A000");
}

const OPTIONS: &[&str] = &[
    "",
    "(DELIMITER 'A')",
    "(HEADER, NULL 'a')",
    "CSV",
    "CSV HEADER",
    "CSV ESCAPE '\\'",
    "CSV QUOTE '\\'",
    "CSV QUOTE E'\\r' ESCAPE E'\\n'",
];

proptest! {
    #[test]
    fn borders_of_messages_mean_nothing(
        options in prop::sample::select(OPTIONS),
        data in prop::collection::vec(prop::sample::select(b"a\\.\n\r\",\tNx4A\0".as_slice()), 0..40),
        size in 1..8_usize,
        key_column in 0..3_usize,
    ) {
        let whole = rows(cutter(options, key_column), &data, 1000);
        prop_assert_eq!(rows(cutter(options, key_column), &data, size), whole);
    }

    #[test]
    fn rows_are_a_prefix_of_the_data(
        options in prop::sample::select(OPTIONS),
        data in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let raw: Vec<u8> = rows(cutter(options, 0), &data, 5).into_iter().flatten().flat_map(|row| row.0).collect();
        prop_assert!(data.starts_with(&raw));
    }
}
