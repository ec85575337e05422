//! What routing costs per query: the lexer, a known template, a plan, a slot's hash.

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sluice_router::cache::SearchPath;
use sluice_router::lexer::Normalized;
use sluice_router::map::{Placement, SLOTS, Sharding};
use sluice_router::plan::{NoParameters, plan};
use sluice_router::template::{Access, Action, KeySource, KeyUsage, Residue, Route, Statement, Template};
use sluice_router::{Key, KeyType, Router, Schema, ShardMap};

const BEGIN: &str = "BEGIN";
const SELECT: &str = "SELECT abalance FROM pgbench_accounts WHERE aid = 1234567";
const UPDATE: &str = "UPDATE pgbench_accounts SET abalance = abalance + -4321 WHERE aid = 1234567";
const INSERT: &str =
    "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (3, 1, 1234567, -4321, CURRENT_TIMESTAMP)";
const ORM: &str = r#"SELECT "members"."id", "members"."organization_id", "members"."given_name", "members"."family_name", "members"."date_of_birth",
 "members"."joined_at", "members"."status", "accounts"."id", "accounts"."balance", "accounts"."currency", "accounts"."updated_at"
 FROM "members" INNER JOIN "accounts" ON ("accounts"."member_id" = "members"."id" AND "accounts"."organization_id" = "members"."organization_id")
 WHERE ("members"."organization_id" = 42 AND "members"."status" IN ('active', 'on leave') AND NOT ("accounts"."balance" = 0.0))
 ORDER BY "members"."family_name" ASC, "members"."given_name" ASC LIMIT 21 OFFSET 40"#;

const TEXTS: [(&str, &str); 5] =
    [("begin", BEGIN), ("select", SELECT), ("update", UPDATE), ("insert", INSERT), ("orm", ORM)];

fn lexer(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lexer");
    let mut normalized = Normalized::default();
    for (name, sql) in TEXTS {
        group.throughput(Throughput::Bytes(sql.len() as u64));
        group.bench_function(name, |bencher| bencher.iter(|| normalized.run(black_box(sql.as_bytes()), true)));
    }
    group.finish();
}

/// A template whose last constant is the key: what counts here is finding it.
fn last_constant(_: &Schema, _: &[String], _: SearchPath, _: &str, normalized: &Normalized) -> Template {
    let index = normalized.literals.len().saturating_sub(1) as u16;
    let source = KeySource::Literal { index, negated: false, usage: KeyUsage::Filter };
    let statement = Statement {
        route: Route::Keyed(Box::new([source])),
        access: Access::Read,
        action: Action::None,
        residue: Residue::default(),
        outside_transaction: false,
    };
    Template { statements: Box::new([statement]), spans_agree: true, fixed_literals: Box::default() }
}

fn map() -> ShardMap {
    let sharding = Sharding {
        key_column: "aid".into(),
        key_type: KeyType::Int,
        tables: HashMap::new(),
        functions: HashMap::new(),
    };
    let schema = Arc::new(Schema { version: 1, sharding: Some(sharding) });
    let shard =
        |number| Placement { node: "a".into(), host: "a".into(), port: 5432, dbname: format!("shard_{number}") };
    let slots: Vec<u16> = (0..SLOTS as u16).map(|slot| slot % 16).collect();
    let shards = (0..16).map(shard).collect();
    ShardMap::new(1, KeyType::Int, &slots, [], shards, schema).expect("the map of this benchmark is consistent")
}

fn template(criterion: &mut Criterion) {
    let (router, map) = (Router::with_analyzer(1000, last_constant), map());
    let mut group = criterion.benchmark_group("template hit");
    for (name, sql) in TEXTS {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let sql = black_box(sql.as_bytes());
                router.template(map.schema(), SearchPath::default(), true, sql, |template, _, _| template.spans_agree)
            });
        });
    }
    group.finish();
}

fn route(criterion: &mut Criterion) {
    let (router, map) = (Router::with_analyzer(1000, last_constant), map());
    let mut group = criterion.benchmark_group("route");
    for (name, sql) in [("select", SELECT), ("update", UPDATE)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let sql = black_box(sql.as_bytes());
                router.template(map.schema(), SearchPath::default(), true, sql, |template, literals, _| {
                    plan(&map, &template.statements[0], sql, literals, &NoParameters)
                })
            });
        });
    }
    group.finish();
}

fn plan_alone(criterion: &mut Criterion) {
    let map = map();
    let mut normalized = Normalized::default();
    normalized.run(SELECT.as_bytes(), true);
    let template = last_constant(map.schema(), &[], SearchPath::default(), SELECT, &normalized);
    criterion.bench_function("plan", |bencher| {
        bencher.iter(|| {
            plan(black_box(&map), &template.statements[0], SELECT.as_bytes(), &normalized.literals, &NoParameters)
        })
    });
}

fn slot(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("slot");
    let keys = [
        ("int", Key::Int(1_234_567)),
        ("uuid", Key::Uuid([7; 16])),
        ("text of 21 bytes", Key::Text(b"organization-00000042")),
    ];
    for (name, key) in keys {
        group.bench_function(name, |bencher| bencher.iter(|| black_box(&key).slot()));
    }
    group.finish();
}

criterion_group!(benches, lexer, template, route, plan_alone, slot);
criterion_main!(benches);
