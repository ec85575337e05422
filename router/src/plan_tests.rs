//! Decisions over a map of four shards whose slots go round robin.

use std::collections::HashMap;
use std::sync::Arc;

use super::*;
use crate::key::{KeyType, OwnedKey};
use crate::lexer::Normalized;
use crate::map::{Placement, SLOTS, Schema, Sharding};
use crate::template::{Access, Action, Residue};

fn map(key_type: KeyType, overrides: &[(OwnedKey, u16)]) -> ShardMap {
    let sharding =
        Sharding { key_column: "organization_id".into(), key_type, tables: HashMap::new(), functions: HashMap::new() };
    let schema = Arc::new(Schema { version: 1, sharding: Some(sharding) });
    let shard = |number| Placement { node: "n".into(), host: "h".into(), port: 5432, dbname: format!("s{number}") };
    let slots: Vec<u16> = (0..SLOTS as u16).map(|slot| slot % 4).collect();
    ShardMap::new(1, key_type, &slots, overrides.iter().cloned(), (0..4).map(shard).collect(), schema).unwrap()
}

fn statement(route: Route) -> Statement {
    Statement {
        route,
        access: Access::Read,
        action: Action::None,
        residue: Residue::default(),
        outside_transaction: false,
    }
}

fn keyed(sources: &[KeySource]) -> Statement {
    statement(Route::Keyed(sources.into()))
}

fn constant(index: u16) -> KeySource {
    KeySource::Literal { index, negated: false, usage: KeyUsage::Filter }
}

struct Values(Vec<Option<&'static str>>);

impl Parameters for Values {
    fn parameter(&self, number: u16) -> Option<Parameter<'_>> {
        let value = self.0.get(usize::from(number) - 1)?;
        Some(Parameter { oid: 0, format: Format::Text, value: value.map(str::as_bytes) })
    }
}

fn decide(map: &ShardMap, sources: &[KeySource], sql: &str, values: &[Option<&'static str>]) -> Plan {
    let mut normalized = Normalized::default();
    normalized.run(sql.as_bytes(), true);
    plan(map, &keyed(sources), sql.as_bytes(), &normalized.literals, &Values(values.to_vec()))
}

fn shard_of(map: &ShardMap, key: i64) -> Target {
    Target::Shard(map.shard_of(&Key::Int(key)))
}

/// Two keys on one shard, and one on another.
fn neighbours(map: &ShardMap) -> (i64, i64, i64) {
    let on = |key: i64| map.shard_of(&Key::Int(key));
    let same = (2..).find(|&key| on(key) == on(1)).unwrap();
    let other = (2..).find(|&key| on(key) != on(1)).unwrap();
    (1, same, other)
}

#[test]
fn one_key_goes_to_its_shard() {
    let map = map(KeyType::Int, &[]);
    for key in 0..100 {
        let sql = format!("select * from t where organization_id = {key}");
        assert_eq!(decide(&map, &[constant(0)], &sql, &[]), Ok(shard_of(&map, key)));
    }
    let negated = KeySource::Literal { index: 0, negated: true, usage: KeyUsage::Filter };
    assert_eq!(decide(&map, &[negated], "select -7", &[]), Ok(shard_of(&map, -7)));
    let parameter = KeySource::Parameter { number: 2, usage: KeyUsage::Insert };
    assert_eq!(decide(&map, &[parameter], "select $1, $2", &[None, Some("7")]), Ok(shard_of(&map, 7)));
}

#[test]
fn keys_of_all_types_agree_with_the_map() {
    let text = map(KeyType::Text, &[]);
    let expected = Target::Shard(text.shard_of(&Key::Text(b"it's")));
    assert_eq!(decide(&text, &[constant(0)], "select 'it''s'", &[]), Ok(expected));
    let uuid = map(KeyType::Uuid, &[]);
    let expected = Target::Shard(uuid.shard_of(&Key::Uuid([0xab; 16])));
    assert_eq!(decide(&uuid, &[constant(0)], &format!("select '{}'", "ab".repeat(16)), &[]), Ok(expected));
}

#[test]
fn overrides_beat_slots() {
    let plain = map(KeyType::Int, &[]);
    let elsewhere = (plain.shard_of(&Key::Int(7)).index() as u16 + 1) % 4;
    let moved = map(KeyType::Int, &[(OwnedKey::Int(7), elsewhere)]);
    assert_ne!(decide(&moved, &[constant(0)], "select 7", &[]), Ok(shard_of(&plain, 7)));
    assert_eq!(decide(&moved, &[constant(0)], "select 8", &[]), Ok(shard_of(&plain, 8)));
}

#[test]
fn several_keys_must_live_on_one_shard() {
    let map = map(KeyType::Int, &[]);
    let (one, same, other) = neighbours(&map);
    let two = [constant(0), constant(1)];
    assert_eq!(decide(&map, &two, &format!("select {one}, {same}"), &[]), Ok(shard_of(&map, one)));
    let refusal = decide(&map, &two, &format!("select {one}, {other}"), &[]).unwrap_err();
    assert_eq!(refusal.sqlstate, "0A000");
    assert!(refusal.detail.contains("2 values of the sharding key \"organization_id\""), "{}", refusal.detail);
    assert!(refusal.detail.contains("on 2 shards"), "{}", refusal.detail);
}

#[test]
fn arrays_are_lists_of_keys() {
    let map = map(KeyType::Int, &[]);
    let (one, same, other) = neighbours(&map);
    let array = [KeySource::LiteralArray { index: 0 }];
    assert_eq!(decide(&map, &array, &format!("select '{{{one},{same},null}}'"), &[]), Ok(shard_of(&map, one)));
    assert_eq!(decide(&map, &array, &format!("select '{{{one},{other}}}'"), &[]).unwrap_err().sqlstate, "0A000");
    assert_eq!(decide(&map, &array, "select '{}'", &[]), Ok(Target::Any));
    assert_eq!(decide(&map, &array, "select '{{1}}'", &[]).unwrap_err().sqlstate, "0A000");
    assert_eq!(decide(&map, &array, "select 1", &[]).unwrap_err().sqlstate, "0A000");
    let parameter = [KeySource::ParameterArray { number: 1 }];
    assert_eq!(decide(&map, &parameter, "select $1", &[Some("{7}")]), Ok(shard_of(&map, 7)));
    assert_eq!(decide(&map, &parameter, "select $1", &[None]), Ok(Target::Any));
    assert_eq!(decide(&map, &parameter, "select $1", &[]), Ok(Target::Home));
}

#[test]
fn null_matches_no_row_and_is_not_inserted() {
    let map = map(KeyType::Int, &[]);
    let filter = KeySource::Parameter { number: 1, usage: KeyUsage::Filter };
    assert_eq!(decide(&map, std::slice::from_ref(&filter), "select $1", &[None]), Ok(Target::Any));
    assert_eq!(decide(&map, &[filter, constant(0)], "select $1, 7", &[None]), Ok(shard_of(&map, 7)));
    let insert = KeySource::Parameter { number: 1, usage: KeyUsage::Insert };
    let refusal = decide(&map, &[insert], "select $1", &[None]).unwrap_err();
    assert_eq!(refusal.sqlstate, "23502");
    assert!(refusal.message.starts_with("null value in column \"organization_id\""), "{}", refusal.message);
}

#[test]
fn what_the_server_is_sure_to_refuse_reaches_it() {
    let map = map(KeyType::Int, &[]);
    let parameter = KeySource::Parameter { number: 1, usage: KeyUsage::Filter };
    assert_eq!(decide(&map, &[constant(0)], "select 'abc'", &[]), Ok(Target::Home));
    assert_eq!(decide(&map, std::slice::from_ref(&parameter), "select $1", &[Some("abc")]), Ok(Target::Home));
    assert_eq!(decide(&map, &[parameter], "select $1", &[]), Ok(Target::Home));
}

#[test]
fn what_is_not_proven_is_refused() {
    let map = map(KeyType::Int, &[]);
    for sql in ["select 42.0", "select '0x1F'", "select 9223372036854775808", "select U&'1'"] {
        let refusal = decide(&map, &[constant(0)], sql, &[]).unwrap_err();
        assert_eq!(refusal.sqlstate, "0A000", "{sql}");
        assert!(
            refusal.message.contains("constant number 1") && !refusal.detail.is_empty() && !refusal.hint.is_empty(),
            "{refusal:?}"
        );
    }
    assert_eq!(decide(&map, &[constant(5)], "select 1", &[]).unwrap_err().sqlstate, "XX000");
}

#[test]
fn other_routes_need_no_keys() {
    let map = map(KeyType::Int, &[]);
    let refusal = refusal("42P01", "no".into(), String::new(), "");
    for (route, expected) in [
        (Route::Any, Ok(Target::Any)),
        (Route::Home, Ok(Target::Home)),
        (Route::AllShards, Ok(Target::AllShards)),
        (Route::Cursor("c".into()), Ok(Target::Cursor)),
        (Route::Keyed([KeySource::CopyColumn { column: 3 }].into()), Ok(Target::CopyRows(3))),
        (Route::Refused(refusal.clone()), Err(refusal)),
    ] {
        assert_eq!(plan(&map, &statement(route), b"", &[], &NoParameters), expected);
    }
}
