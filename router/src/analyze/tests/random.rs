//! Random and damaged statements: the analysis always ends, and never with a panic.

use proptest::prelude::*;

use super::fixture::{schema, template_in};
use crate::key::KeyType;
use crate::map::Schema;
use crate::template::{KeySource, Route};

const WORDS: &[&str] = &[
    "SELECT",
    "FROM",
    "WHERE",
    "members",
    "claims",
    "states",
    "jobs",
    "m",
    "c",
    "organization_id",
    "id",
    "=",
    "5",
    "-",
    "'a'",
    "$1",
    "(",
    ")",
    ",",
    "*",
    "JOIN",
    "LEFT JOIN",
    "FULL JOIN",
    "ON",
    "USING",
    "AND",
    "OR",
    "NOT",
    "IN",
    "ANY",
    "EXISTS",
    "WITH",
    "RECURSIVE",
    "AS",
    "UNION",
    "INSERT INTO",
    "VALUES",
    "UPDATE",
    "SET",
    "DELETE FROM",
    "MERGE INTO",
    "WHEN MATCHED THEN",
    "RETURNING",
    "ON CONFLICT",
    "DO NOTHING",
    "DEFAULT",
    "NULL",
    "::bigint",
    "CASE",
    "END",
    "LATERAL",
    "LIMIT",
    "ORDER BY",
    "GROUP BY",
    "count(*)",
    "now()",
    "f(",
    "CREATE TABLE",
    "ALTER TABLE",
    "ADD COLUMN",
    "DROP TABLE",
    "COPY",
    "STDIN",
    "BEGIN",
    "COMMIT",
    "DECLARE",
    "CURSOR FOR",
    "EXPLAIN",
    ";",
    "ARRAY[",
    "]",
    "ROW(",
    ".",
    "OVER (",
    "FILTER (",
    "FOR UPDATE",
    "set_config('a', 'b', false)",
    "TRUNCATE",
    "GRANT",
    "PREPARE",
    "EXECUTE",
    "primary key",
    "int",
];

/// Statements that parse, to cut pieces from.
const WHOLE: &[&str] = &[
    "WITH RECURSIVE t AS (SELECT id, organization_id FROM members WHERE organization_id = 5 UNION ALL SELECT m.id, m.organization_id FROM members m JOIN t USING (organization_id)) SELECT * FROM t",
    "INSERT INTO members (id, organization_id) VALUES (1, 5), (2, -6) ON CONFLICT (id) DO UPDATE SET name = excluded.name RETURNING *",
    "MERGE INTO members m USING (VALUES (5, 1)) v (k, id) ON m.organization_id = v.k WHEN MATCHED THEN UPDATE SET name = 'a' WHEN NOT MATCHED THEN INSERT (organization_id) VALUES (v.k)",
    "SELECT (SELECT count(*) FILTER (WHERE x > 1) OVER (PARTITION BY y ORDER BY z) FROM claims c WHERE c.organization_id = m.organization_id) FROM members m LEFT JOIN states s ON s.code = m.state_code WHERE m.organization_id = ANY ('{1,2}'::bigint[]) FOR UPDATE OF m",
    "CREATE TABLE t (organization_id int, id uuid DEFAULT gen_random_uuid(), PRIMARY KEY (organization_id, id), FOREIGN KEY (organization_id, id) REFERENCES members (organization_id, id))",
    "SELECT xmlelement(name e, (SELECT 1)), json_object('a': 1), CAST(5 AS numeric(3, 2)), (ARRAY[1])[1], ROW(1, 2) = (1, 2), current_date",
];

/// Analyses `sql` for databases of both kinds, and checks what must hold of any answer.
fn analyse(sql: &str) {
    for schema in [&schema(KeyType::Int), &schema(KeyType::Text), &Schema::default()] {
        let template = template_in(schema, &["public"], sql);
        let mut normalized = crate::lexer::Normalized::default();
        normalized.run(sql.as_bytes(), true);
        let constants = normalized.literals.len();
        assert!(template.fixed_literals.iter().all(|index| usize::from(*index) < constants), "{sql}");
        for statement in &template.statements {
            assert!(schema.sharding.is_some() || statement.route == Route::Home, "{sql}");
            if let Route::Keyed(sources) = &statement.route {
                assert!(!sources.is_empty(), "{sql}");
                let known = |source: &KeySource| match source {
                    KeySource::Literal { index, .. } | KeySource::LiteralArray { index } => {
                        usize::from(*index) < constants
                    }
                    _ => true,
                };
                assert!(sources.iter().all(known), "{sql}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn word_salad(words in prop::collection::vec(prop::sample::select(WORDS), 0..24)) {
        analyse(&words.join(" "));
    }

    #[test]
    fn cut_and_joined(first in prop::sample::select(WHOLE), second in prop::sample::select(WHOLE), cut in 0usize..400, from in 0usize..400) {
        let head: String = first.chars().take(cut).collect();
        let tail: String = second.chars().skip(from).collect();
        analyse(&format!("{head}{tail}"));
    }

    #[test]
    fn any_text(sql in "\\PC{0,60}") {
        analyse(&sql);
    }
}

#[test]
fn odd_texts() {
    for sql in [
        "\0",
        "SELECT 'a\0b'",
        "é",
        "SELECT \"",
        "/*",
        "SELECT $99999999999",
        "SELECT $0",
        "$$",
        "SELECT U&'\\D800'",
        ";",
    ] {
        analyse(sql);
    }
    for sql in WHOLE {
        analyse(sql);
    }
}
