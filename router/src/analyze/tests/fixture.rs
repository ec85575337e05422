//! A sharded database to analyse statements against, and routes in short words.

use std::collections::HashMap;

use crate::analyze::analyze;
use crate::cache::SearchPath;
use crate::key::KeyType;
use crate::lexer::Normalized;
use crate::map::{FunctionClass, Schema, Sharding, Table, TableClass};
use crate::template::{KeySource, KeyUsage, Refusal, Route, Statement, Template};

const TABLES: &[(&str, TableClass, &[&str])] = &[
    ("members", TableClass::Sharded, &["id", "organization_id", "name", "state_code", "joined", "supervisor_id"]),
    ("contributions", TableClass::Sharded, &["organization_id", "id", "member_id", "amount", "month"]),
    ("claims", TableClass::Sharded, &["organization_id", "id", "member_id", "status", "details"]),
    ("states", TableClass::Reference, &["code", "name"]),
    ("rates", TableClass::Reference, &["year", "rate", "organization_id_range"]),
    // Declared in the console, and not created yet.
    ("grades", TableClass::Reference, &[]),
    ("jobs", TableClass::Home, &["id", "payload"]),
    ("schema_migrations", TableClass::Home, &["version"]),
];

pub fn schema(key_type: KeyType) -> Schema {
    let mut tables: HashMap<_, _> = TABLES
        .iter()
        .map(|(name, class, columns)| {
            let columns = columns.iter().map(|column| Box::from(*column)).collect();
            (("public".to_owned(), (*name).to_owned()), Table { class: *class, columns })
        })
        .collect();
    let archived = Table { class: TableClass::Sharded, columns: ["organization_id".into(), "id".into()].into() };
    tables.insert(("archive".into(), "members".into()), archived);
    let functions = HashMap::from([
        (("public".to_owned(), "mask".to_owned()), FunctionClass::Pure),
        (("public".to_owned(), "balance".to_owned()), FunctionClass::ShardLocal),
    ]);
    let sharding = Sharding { key_column: "organization_id".into(), key_type, tables, functions };
    Schema { version: 1, sharding: Some(sharding) }
}

pub fn template_in(schema: &Schema, path: &[&str], sql: &str) -> Template {
    let mut normalized = Normalized::default();
    normalized.run(sql.as_bytes(), true);
    let path: Vec<String> = path.iter().map(|schema| (*schema).to_owned()).collect();
    analyze(schema, &path, SearchPath::default(), sql, &normalized)
}

pub fn template(sql: &str) -> Template {
    template_in(&schema(KeyType::Int), &["public"], sql)
}

/// The only statement of a text.
pub fn statement(sql: &str) -> Statement {
    let template = template(sql);
    assert_eq!(template.statements.len(), 1, "{sql}");
    template.statements[0].clone()
}

pub fn unsharded(sql: &str) -> Statement {
    let template = template_in(&Schema::default(), &["public"], sql);
    assert_eq!(template.statements.len(), 1, "{sql}");
    template.statements[0].clone()
}

pub fn refusal(sql: &str) -> Refusal {
    match statement(sql).route {
        Route::Refused(refusal) => *refusal,
        other => panic!("not refused but {other:?}: {sql}"),
    }
}

/// A route in short: `key 5 $1 -7 in{1,2} any$1`, `any`, `home`, `all`, `cursor c`, `refused SQLSTATE`.
pub fn route(sql: &str) -> String {
    summary(sql, &statement(sql).route)
}

pub fn summary(sql: &str, route: &Route) -> String {
    match route {
        Route::Any => "any".into(),
        Route::Home => "home".into(),
        Route::AllShards => "all".into(),
        Route::Cursor(name) => format!("cursor {name}"),
        Route::Refused(refusal) => format!("refused {}", refusal.sqlstate),
        Route::Keyed(sources) => {
            let words: Vec<_> = sources.iter().map(|source| word(sql, source)).collect();
            format!("key {}", words.join(" "))
        }
    }
}

fn word(sql: &str, source: &KeySource) -> String {
    let mut normalized = Normalized::default();
    normalized.run(sql.as_bytes(), true);
    let raw = |index: u16| {
        let literal = normalized.literals[usize::from(index)];
        &sql[literal.start as usize..literal.end as usize]
    };
    let mark = |usage: &KeyUsage| if *usage == KeyUsage::Insert { "+" } else { "" };
    match source {
        KeySource::Literal { index, negated, usage } => {
            format!("{}{}{}", mark(usage), if *negated { "-" } else { "" }, raw(*index))
        }
        KeySource::Parameter { number, usage } => format!("{}${number}", mark(usage)),
        KeySource::LiteralArray { index } => format!("any{}", raw(*index)),
        KeySource::ParameterArray { number } => format!("any${number}"),
        KeySource::CopyColumn { column } => format!("column{column}"),
    }
}

/// Checks a table of (statement, route).
pub fn check(cases: &[(&str, &str)]) {
    let wrong: Vec<_> = cases
        .iter()
        .filter_map(|(sql, expected)| {
            let found = statement(sql);
            let route = summary(sql, &found.route);
            (route != *expected).then(|| match found.route {
                Route::Refused(refusal) => format!("{sql}\n  expected {expected}, found {route}: {refusal:?}"),
                _ => format!("{sql}\n  expected {expected}, found {route}"),
            })
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {} wrong:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
