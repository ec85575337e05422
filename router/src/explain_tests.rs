//! Explanations over an analysis that reads its verdict from the statement's second word.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use super::*;
use crate::key::KeyType;
use crate::lexer::Normalized;
use crate::map::{Placement, SLOTS, Schema, Sharding};
use crate::template::KeyUsage;

fn verdicts(_: &Schema, _: &[String], _: SearchPath, sql: &str, normalized: &Normalized) -> Template {
    let statements = statement_spans(sql.as_bytes(), &normalized.separators).map(|span| {
        let word = sql[span].split_whitespace().nth(1).unwrap().to_owned();
        let constants = 0..normalized.literals.len() as u16;
        let constants = constants.map(|index| KeySource::Literal { index, negated: false, usage: KeyUsage::Filter });
        let refusal = Refusal {
            sqlstate: Cow::Borrowed("0A000"),
            message: "no".into(),
            detail: "Because.".into(),
            hint: "Do not.".into(),
            position: 0,
        };
        let route = match &*word {
            "keyed" => Route::Keyed(constants.collect()),
            "bound" => Route::Keyed([KeySource::Parameter { number: 1, usage: KeyUsage::Filter }].into()),
            "all" => Route::AllShards,
            "home" => Route::Home,
            "any" => Route::Any,
            _ => Route::Refused(Box::new(refusal)),
        };
        let residue = Residue { pins: word == "home", ..Residue::default() };
        Statement { route, access: Access::Read, action: Action::None, residue, outside_transaction: word == "all" }
    });
    Template { statements: statements.collect(), spans_agree: true, fixed_literals: Box::default() }
}

fn explained(sql: &str) -> Vec<(String, String)> {
    let sharding = Sharding {
        key_column: "organization_id".into(),
        key_type: KeyType::Int,
        tables: HashMap::new(),
        functions: HashMap::new(),
    };
    let schema = Arc::new(Schema { version: 1, sharding: Some(sharding) });
    let shard =
        |number| Placement { node: "n".into(), host: "db".into(), port: 5432, dbname: format!("shard_{number}") };
    let slots: Vec<u16> = (0..SLOTS as u16).map(|slot| slot % 4).collect();
    let map = ShardMap::new(1, KeyType::Int, &slots, [], (0..4).map(shard).collect(), schema).unwrap();
    explain(&Router::with_analyzer(10, verdicts), &map, sql, SearchPath::default())
}

fn value(rows: &[(String, String)], property: &str) -> String {
    let row = rows.iter().find(|(name, _)| name == property);
    row.map(|(_, value)| value.clone()).unwrap_or_default()
}

#[test]
fn a_key_is_explained_down_to_its_placement() {
    let rows = explained("select keyed where organization_id = 42 -- comment");
    // hashint8extended(42, 0) & 4095, as PostgreSQL computes it; this map puts slot n on shard n % 4.
    let slot = crate::key::Key::Int(42).slot();
    assert_eq!(value(&rows, "class"), "single-shard");
    assert_eq!(value(&rows, "key"), "42");
    assert_eq!(value(&rows, "slot"), slot.to_string());
    assert_eq!(value(&rows, "shard"), (slot % 4).to_string());
    assert_eq!(value(&rows, "placement"), format!("db:5432/shard_{}", slot % 4));
    assert_eq!((value(&rows, "access"), value(&rows, "session effect")), ("read".into(), "none".into()));
    assert!(value(&rows, "reason").contains("restricted to the keys"));
}

#[test]
fn several_statements_are_explained_one_after_another() {
    let rows = explained("select any; select home ; select all; select bad");
    let starts: Vec<_> = rows.iter().filter(|(name, _)| name == "statement").map(|(_, value)| value.as_str()).collect();
    assert_eq!(starts, ["select any", "select home", "select all", "select bad"]);
    let classes: Vec<_> = rows.iter().filter(|(name, _)| name == "class").map(|(_, value)| value.as_str()).collect();
    assert_eq!(classes, ["any shard", "home", "all shards", "refused"]);
    assert_eq!(value(&rows, "error"), "0A000: no");
    assert_eq!((value(&rows, "detail"), value(&rows, "hint")), ("Because.".into(), "Do not.".into()));
    assert!(rows.iter().any(|(name, value)| name == "session effect" && value.starts_with("keeps its server")));
    assert!(rows.iter().any(|(_, value)| value == "cannot run inside a transaction block"));
}

#[test]
fn keys_on_several_shards_are_refused_with_their_number() {
    let rows = explained("select keyed 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12");
    assert_eq!(value(&rows, "class"), "refused");
    assert!(value(&rows, "detail").contains("12 values"), "{rows:?}");
}

#[test]
fn parameters_have_no_value_yet() {
    let rows = explained("select bound $1");
    assert_eq!(value(&rows, "class"), "single-shard");
    assert_eq!(value(&rows, "key"), "parameter $1");
    assert_eq!(value(&rows, "shard"), "decided by the parameters of each execution");
}

#[test]
fn constants_that_the_server_will_refuse_name_their_place() {
    let rows = explained("select keyed 'abc'");
    assert_eq!((value(&rows, "class"), value(&rows, "key")), ("home".into(), "constant number 1".into()));
}
