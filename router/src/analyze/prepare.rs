//! SQL-level PREPARE: whether its text, run on another server, prepares the same statement.

use pg_query::NodeEnum;
use pg_query::protobuf::{PrepareStmt, TypeName};

use super::effects::creates_temporary;
use super::nodes::{inner, inner_of, strings};

/// Types that are in pg_catalog under the names that people write; the grammar qualifies the others (`int`, `varchar`) itself.
const PLAIN_TYPES: [&str; 32] = [
    "text",
    "int2",
    "int4",
    "int8",
    "float4",
    "float8",
    "bool",
    "bytea",
    "date",
    "time",
    "timetz",
    "timestamp",
    "timestamptz",
    "interval",
    "uuid",
    "json",
    "jsonb",
    "jsonpath",
    "numeric",
    "oid",
    "name",
    "inet",
    "cidr",
    "macaddr",
    "money",
    "regclass",
    "regtype",
    "xml",
    "tsvector",
    "tsquery",
    "point",
    "unknown",
];

/// A backslash means what standard_conforming_strings says, and an unqualified type what search_path says: a text with either
/// may be another statement when it is prepared again, under other settings.
pub fn means_the_same_anywhere(prepare: &PrepareStmt, sql: &str) -> bool {
    let types = prepare.argtypes.iter().all(|argument| match inner(argument) {
        Some(NodeEnum::TypeName(name)) => is_built_in(name),
        _ => false,
    });
    let creates = inner_of(&prepare.query).is_none_or(|query| creates_temporary(query, sql));
    types && !creates && !sql.contains('\\')
}

fn is_built_in(name: &TypeName) -> bool {
    match &strings(&name.names)[..] {
        [schema, _] => *schema == "pg_catalog",
        [name] => PLAIN_TYPES.contains(name),
        _ => false,
    }
}
