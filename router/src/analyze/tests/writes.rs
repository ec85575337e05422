//! INSERT, UPDATE, DELETE, MERGE, COPY.

use super::fixture::{check, route, statement};
use crate::template::{Access, Action, Route};

#[test]
fn insert_needs_the_key_of_every_row() {
    check(&[
        ("INSERT INTO members (id, organization_id, name) VALUES (1, 5, 'a')", "key +5"),
        ("INSERT INTO members (id, organization_id) VALUES ($1, $2)", "key +$2"),
        ("INSERT INTO members (id, organization_id) VALUES (1, 5), (2, $1), (3, '7'::bigint)", "key +5 +$1 +'7'"),
        ("INSERT INTO members VALUES (1, 5, 'a')", "key +5"),
        ("INSERT INTO members VALUES (1, -5, 'a')", "key +-5"),
        ("INSERT INTO members (organization_id, name) VALUES (5, (SELECT max(name) FROM states))", "key +5"),
        ("INSERT INTO members (organization_id, name) VALUES (5, (SELECT max(status) FROM claims))", "refused 0A000"),
        ("INSERT INTO members (organization_id, name) VALUES (5, lower('A')), (6, DEFAULT)", "key +5 +6"),
        ("INSERT INTO members (id) VALUES (1)", "refused 0A000"),
        ("INSERT INTO members VALUES (1)", "refused 0A000"),
        ("INSERT INTO members DEFAULT VALUES", "refused 0A000"),
        ("INSERT INTO members (id, organization_id) VALUES (1, DEFAULT)", "refused 0A000"),
        ("INSERT INTO members (id, organization_id) VALUES (1, 2 + 3)", "refused 0A000"),
        ("INSERT INTO members (id, organization_id) VALUES (1, 5), (2, 2 + 3)", "refused 0A000"),
        ("INSERT INTO members (id, organization_id) VALUES (1, NULL)", "refused 23502"),
        ("INSERT INTO members (id, organization_id) VALUES (1, 5), (2, NULL)", "refused 23502"),
        ("INSERT INTO members (id, organization_id) VALUES ($1, $1)", "refused 0A000"),
        ("INSERT INTO members (id, organization_id) VALUES (1, '5'::text)", "refused 0A000"),
        ("INSERT INTO members (id, organization_id) VALUES (1, nextval('s'))", "refused 0A000"),
        ("WITH a AS (SELECT * FROM claims) INSERT INTO members (organization_id) VALUES (5)", "refused 0A000"),
    ]);
}

#[test]
fn insert_select_keeps_the_key() {
    check(&[
        (
            "INSERT INTO claims (organization_id, id) SELECT organization_id, id FROM members WHERE organization_id = 5",
            "key 5",
        ),
        (
            "INSERT INTO claims (id, organization_id) SELECT organization_id, id FROM members WHERE organization_id = 5",
            "refused 0A000",
        ),
        ("INSERT INTO claims SELECT * FROM members WHERE organization_id = 5", "refused 0A000"),
        ("INSERT INTO claims SELECT m.organization_id, m.id FROM members m WHERE organization_id = 5", "key 5"),
        ("INSERT INTO contributions SELECT * FROM contributions WHERE organization_id = $1", "key $1"),
        ("INSERT INTO claims (organization_id, id) SELECT organization_id, id FROM members", "refused 0A000"),
        ("INSERT INTO claims (organization_id, id) SELECT 7, id FROM members WHERE organization_id = 5", "key +7 5"),
        ("INSERT INTO claims (organization_id, id) SELECT 7, 1", "key +7"),
        ("INSERT INTO claims (organization_id, id) SELECT 7, 1 FROM members", "refused 0A000"),
        (
            "INSERT INTO claims (organization_id, id) SELECT $1, id FROM members WHERE organization_id = $1",
            "key +$1 $1",
        ),
        (
            "INSERT INTO claims (organization_id, id) SELECT organization_id + 1, id FROM members WHERE organization_id = 5",
            "refused 0A000",
        ),
        ("INSERT INTO claims (organization_id) SELECT 5 UNION ALL SELECT 6", "key +5 +6"),
        ("INSERT INTO claims (organization_id) SELECT code::int FROM states", "refused 0A000"),
        ("INSERT INTO jobs SELECT id FROM members WHERE organization_id = 5", "refused 0A000"),
        ("INSERT INTO jobs (id) SELECT 1", "home"),
    ]);
}

#[test]
fn on_conflict_and_returning() {
    check(&[
        ("INSERT INTO members (organization_id, id) VALUES (5, 1) ON CONFLICT DO NOTHING", "key +5"),
        (
            "INSERT INTO members (organization_id, id, name) VALUES (5, 1, 'a') ON CONFLICT (organization_id, id) DO UPDATE SET name = excluded.name",
            "key +5",
        ),
        (
            "INSERT INTO members (organization_id, id) VALUES (5, 1) ON CONFLICT (id) DO UPDATE SET organization_id = excluded.organization_id",
            "key +5",
        ),
        (
            "INSERT INTO members (organization_id, id) VALUES (5, 1) ON CONFLICT (id) DO UPDATE SET organization_id = members.id",
            "refused 0A000",
        ),
        (
            "INSERT INTO members (organization_id, id) VALUES (5, 1) ON CONFLICT (id) DO UPDATE SET name = (SELECT max(status) FROM claims)",
            "refused 0A000",
        ),
        (
            "INSERT INTO members (organization_id, id) VALUES (5, 1) ON CONFLICT (id) DO UPDATE SET name = 'a' WHERE EXISTS (SELECT FROM claims)",
            "refused 0A000",
        ),
        ("INSERT INTO members (organization_id, id) VALUES (5, 1) RETURNING id", "key +5"),
        (
            "INSERT INTO members (organization_id, id) VALUES (5, 1) RETURNING (SELECT count(*) FROM claims)",
            "refused 0A000",
        ),
        (
            "INSERT INTO members (organization_id, id) VALUES (5, 1) RETURNING (SELECT count(*) FROM claims c WHERE c.organization_id = members.organization_id)",
            "key +5",
        ),
    ]);
}

#[test]
fn update_and_delete() {
    check(&[
        ("UPDATE members SET name = 'a' WHERE organization_id = 5", "key 5"),
        ("UPDATE members SET name = 'a' WHERE id = 5", "refused 0A000"),
        ("UPDATE members SET name = 'a'", "refused 0A000"),
        ("UPDATE members SET name = CASE WHEN organization_id = 5 THEN 'a' ELSE 'b' END", "refused 0A000"),
        ("UPDATE members SET organization_id = 6 WHERE organization_id = 5", "key 5 +6"),
        ("UPDATE members SET organization_id = $1, name = 'a' WHERE organization_id = $1 AND id = 7", "key $1 +$1"),
        ("UPDATE members SET organization_id = organization_id WHERE organization_id = 5", "key 5"),
        ("UPDATE members SET organization_id = organization_id + 1 WHERE organization_id = 5", "refused 0A000"),
        ("UPDATE members SET organization_id = DEFAULT WHERE organization_id = 5", "refused 0A000"),
        ("UPDATE members SET organization_id = NULL WHERE organization_id = 5", "refused 23502"),
        ("UPDATE members SET (organization_id, name) = (6, 'a') WHERE organization_id = 5", "key 5 +6"),
        ("UPDATE members SET (name, organization_id) = (SELECT 'a', 6) WHERE organization_id = 5", "refused 0A000"),
        (
            "UPDATE members SET (name, state_code) = (SELECT code, name FROM states LIMIT 1) WHERE organization_id = 5",
            "key 5",
        ),
        ("UPDATE members SET name = (SELECT max(status) FROM claims) WHERE organization_id = 5", "refused 0A000"),
        (
            "UPDATE members m SET name = c.status FROM claims c WHERE c.organization_id = m.organization_id AND m.organization_id = 5",
            "key 5",
        ),
        (
            "UPDATE members m SET name = c.status FROM claims c WHERE c.member_id = m.id AND m.organization_id = 5",
            "refused 0A000",
        ),
        ("UPDATE ONLY members SET name = 'a' WHERE organization_id = 5", "key 5"),
        ("WITH members AS (SELECT 1) UPDATE members SET name = 'a' WHERE organization_id = 5", "key 5"),
        ("DELETE FROM members WHERE organization_id = $1", "key $1"),
        ("DELETE FROM members", "refused 0A000"),
        (
            "DELETE FROM members WHERE id IN (SELECT id FROM members WHERE organization_id = 5 LIMIT 10)",
            "refused 0A000",
        ),
        (
            "DELETE FROM members WHERE organization_id = 5 AND id IN (SELECT id FROM members WHERE organization_id = 5 LIMIT 10)",
            "key 5 5",
        ),
        (
            "DELETE FROM members m USING claims c WHERE m.organization_id = c.organization_id AND c.organization_id = 5",
            "key 5",
        ),
        ("DELETE FROM members USING claims WHERE members.organization_id = 5", "refused 0A000"),
        ("DELETE FROM members WHERE CURRENT OF c", "refused 0A000"),
        ("DELETE FROM jobs WHERE id = 5", "home"),
        ("DELETE FROM jobs WHERE id IN (SELECT id FROM members WHERE organization_id = 5)", "refused 0A000"),
        ("UPDATE pg_class SET relname = 'a'", "refused 0A000"),
        ("SELECT * FROM members WHERE organization_id = 5 FOR UPDATE", "key 5"),
        ("SELECT * FROM members m, states s WHERE organization_id = 5 FOR UPDATE OF m", "key 5"),
    ]);
    assert_eq!(statement("SELECT * FROM members WHERE organization_id = 5 FOR UPDATE").access, Access::Write);
    assert_eq!(statement("SELECT * FROM members WHERE organization_id = 5").access, Access::Read);
    assert_eq!(statement("WITH d AS (DELETE FROM jobs RETURNING *) SELECT * FROM d").access, Access::Write);
}

#[test]
fn merge_needs_source_and_target_on_the_key() {
    check(&[
        (
            "MERGE INTO members m USING (VALUES (5, 1)) v (k, id) ON m.organization_id = v.k AND m.id = v.id \
             WHEN MATCHED THEN UPDATE SET name = 'a' WHEN NOT MATCHED THEN INSERT (organization_id, id) VALUES (v.k, v.id)",
            "key 5 +5",
        ),
        (
            "MERGE INTO members m USING (SELECT * FROM claims WHERE organization_id = 5) c ON m.organization_id = c.organization_id \
             WHEN MATCHED THEN DELETE",
            "key 5",
        ),
        (
            "MERGE INTO members m USING claims c ON m.organization_id = c.organization_id AND m.organization_id = 5 WHEN MATCHED THEN DELETE",
            "refused 0A000",
        ),
        (
            "MERGE INTO members m USING states s ON m.organization_id = 5 AND m.state_code = s.code WHEN MATCHED THEN DO NOTHING",
            "key 5",
        ),
        ("MERGE INTO members m USING states s ON m.state_code = s.code WHEN MATCHED THEN DO NOTHING", "refused 0A000"),
        (
            "MERGE INTO members m USING states s ON m.organization_id = 5 WHEN NOT MATCHED THEN INSERT (id) VALUES (1)",
            "refused 0A000",
        ),
        (
            "MERGE INTO members m USING states s ON m.organization_id = 5 WHEN NOT MATCHED THEN INSERT (organization_id) VALUES (1 + 1)",
            "refused 0A000",
        ),
        (
            "MERGE INTO members m USING states s ON m.organization_id = 5 WHEN MATCHED THEN UPDATE SET organization_id = m.id",
            "refused 0A000",
        ),
        (
            "MERGE INTO members m USING states s ON m.organization_id = 5 WHEN NOT MATCHED BY SOURCE THEN DELETE",
            "refused 0A000",
        ),
        ("MERGE INTO jobs j USING states s ON j.payload = s.code WHEN MATCHED THEN DELETE", "home"),
    ]);
}

#[test]
fn reference_tables_are_written_everywhere_if_the_result_is_the_same() {
    check(&[
        ("INSERT INTO states (code, name) VALUES ('a', 'b')", "all"),
        ("INSERT INTO states VALUES ($1, upper($2))", "all"),
        ("UPDATE states SET name = 'b' WHERE code = 'a'", "all"),
        ("DELETE FROM states WHERE code = 'a'", "all"),
        ("INSERT INTO states SELECT year::text, rate::text FROM rates", "all"),
        ("INSERT INTO states (code) VALUES ('a')", "refused 0A000"),
        ("INSERT INTO states VALUES ('a')", "refused 0A000"),
        ("INSERT INTO states VALUES ('a', DEFAULT)", "refused 0A000"),
        ("INSERT INTO states VALUES ('a', now()::text)", "refused 0A000"),
        ("INSERT INTO states VALUES ('a', CURRENT_USER)", "refused 0A000"),
        ("INSERT INTO states VALUES ('a', 'now'::timestamptz::text)", "refused 0A000"),
        ("UPDATE states SET name = gen_random_uuid()::text", "refused 0A000"),
        ("UPDATE states SET name = mask(name)", "all"),
        ("UPDATE states SET name = balance(1)", "refused 0A000"),
        ("DELETE FROM states WHERE random() < 0.5", "refused 0A000"),
        ("DELETE FROM states WHERE code IN (SELECT code FROM states LIMIT 1)", "refused 0A000"),
        ("UPDATE states SET name = (SELECT string_agg(year::text, ',') FROM rates)", "refused 0A000"),
        ("UPDATE states SET name = (SELECT name FROM members WHERE organization_id = 5 LIMIT 1)", "refused 0A000"),
        ("UPDATE states SET name = (SELECT payload FROM jobs LIMIT 1)", "refused 0A000"),
        (
            "WITH d AS (DELETE FROM members WHERE organization_id = 5 RETURNING *) INSERT INTO states SELECT name, name FROM d",
            "refused 0A000",
        ),
    ]);
}

#[test]
fn copy_tells_the_key_column() {
    check(&[
        ("COPY members FROM STDIN", "key column1"),
        ("COPY members (id, name, organization_id) FROM STDIN", "key column2"),
        ("COPY members (id, organization_id) FROM STDIN WITH (FORMAT csv, HEADER)", "key column1"),
        ("COPY members (id, name) FROM STDIN", "refused 0A000"),
        ("COPY members FROM STDIN WITH (FORMAT binary)", "refused 0A000"),
        ("COPY members FROM STDIN WITH (FREEZE)", "refused 0A000"),
        ("COPY members FROM STDIN BINARY", "refused 0A000"),
        ("COPY members FROM '/tmp/x'", "refused 0A000"),
        ("COPY members TO PROGRAM 'cat'", "refused 0A000"),
        ("COPY members TO STDOUT", "refused 0A000"),
        ("COPY (SELECT * FROM members) TO STDOUT", "refused 0A000"),
        ("COPY (SELECT * FROM members WHERE organization_id = 5) TO STDOUT", "key 5"),
        ("COPY states FROM STDIN", "all"),
        ("COPY states (code) FROM STDIN", "refused 0A000"),
        ("COPY states TO STDOUT", "any"),
        ("COPY jobs FROM STDIN", "home"),
        ("COPY jobs TO STDOUT", "home"),
        ("COPY nowhere FROM STDIN", "refused 42P01"),
    ]);
    assert_eq!(statement("COPY members FROM STDIN").action, Action::CopyIn);
    assert_eq!(statement("COPY states TO STDOUT").action, Action::CopyOut);
    assert_eq!(statement("COPY states TO STDOUT").access, Access::Read);
}

#[test]
fn keys_of_other_types_fit_their_constants() {
    use super::fixture::{schema, summary, template_in};
    use crate::key::KeyType;
    let route_as =
        |key_type, sql: &str| summary(sql, &template_in(&schema(key_type), &["public"], sql).statements[0].route);
    for (key_type, sql, expected) in [
        (KeyType::Text, "SELECT * FROM members WHERE organization_id = 'a'", "key 'a'"),
        (KeyType::Text, "SELECT * FROM members WHERE organization_id = 'a'::text", "key 'a'"),
        (KeyType::Text, "SELECT * FROM members WHERE organization_id = 'a'::varchar(1)", "refused 0A000"),
        (KeyType::Text, "SELECT * FROM members WHERE organization_id = 'a' COLLATE \"C\"", "refused 0A000"),
        (KeyType::Text, "SELECT * FROM members WHERE organization_id = 42::text", "refused 0A000"),
        (KeyType::Text, "INSERT INTO members (organization_id) VALUES (42)", "refused 0A000"),
        (KeyType::Text, "INSERT INTO members (organization_id) VALUES ($1::bigint)", "refused 0A000"),
        (KeyType::Uuid, "SELECT * FROM members WHERE organization_id = $1::uuid", "key $1"),
        (KeyType::Uuid, "SELECT * FROM members WHERE organization_id = $1::text", "refused 0A000"),
        (KeyType::Int, "SELECT * FROM members WHERE organization_id = '5'::text", "refused 0A000"),
        (KeyType::Int, "SELECT * FROM members WHERE organization_id = true", "refused 0A000"),
    ] {
        assert_eq!(route_as(key_type, sql), expected, "{sql}");
    }
    assert_eq!(route("SELECT * FROM members WHERE organization_id = B'101'"), "refused 0A000");
}

#[test]
fn many_rows_and_arms_are_no_recursion() {
    let rows = vec!["($1, 5)"; 20_000].join(", ");
    let insert = statement(&format!("INSERT INTO members (id, organization_id) VALUES {rows}"));
    assert!(matches!(&insert.route, Route::Keyed(sources) if sources.len() == 20_000));
    let arms = vec!["organization_id = 5"; 20_000].join(" OR ");
    let select = statement(&format!("SELECT * FROM members WHERE {arms}"));
    assert!(matches!(&select.route, Route::Keyed(sources) if sources.len() == 20_000));
}
