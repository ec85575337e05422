//! Statements that change the session, and unsharded databases.

use super::fixture::{check, route, statement, template, template_in, unsharded};
use crate::lexer::Normalized;
use crate::map::Schema;
use crate::template::{Access, Action, Residue, Route, SetAction, SetValue};

fn set(name: &str, local: bool, value: SetValue) -> Action {
    Action::Set(SetAction { name: name.into(), local, value })
}

#[test]
fn actions_of_session_statements() {
    let cases = [
        ("BEGIN", Action::Begin),
        ("START TRANSACTION ISOLATION LEVEL SERIALIZABLE", Action::Begin),
        ("COMMIT", Action::Commit { chain: false }),
        ("END AND CHAIN", Action::Commit { chain: true }),
        ("ROLLBACK", Action::Rollback { chain: false }),
        ("ABORT AND CHAIN", Action::Rollback { chain: true }),
        ("SAVEPOINT a", Action::Savepoint("a".into())),
        ("RELEASE SAVEPOINT a", Action::Release("a".into())),
        ("ROLLBACK TO a", Action::RollbackTo("a".into())),
        ("PREPARE TRANSACTION 'x'", Action::TwoPhase),
        ("COMMIT PREPARED 'x'", Action::TwoPhase),
        ("SET search_path = a, b", set("search_path", false, SetValue::Text)),
        ("SET SCHEMA 'a'", set("search_path", false, SetValue::Text)),
        ("SET LOCAL work_mem = '1MB'", set("work_mem", true, SetValue::Text)),
        ("SET \"TimeZone\" TO 'UTC'", set("timezone", false, SetValue::Text)),
        ("SET TIME ZONE 'UTC'", set("timezone", false, SetValue::Text)),
        ("SET ROLE a", set("role", false, SetValue::Text)),
        ("SET ROLE NONE", set("role", false, SetValue::Text)),
        ("RESET ROLE", set("role", false, SetValue::Default)),
        ("SET SESSION AUTHORIZATION a", set("session_authorization", false, SetValue::Text)),
        ("SET TRANSACTION READ ONLY", set("transaction", true, SetValue::Text)),
        ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", set("session_characteristics", false, SetValue::Text)),
        ("SET x.y TO DEFAULT", set("x.y", false, SetValue::Default)),
        ("RESET statement_timeout", set("statement_timeout", false, SetValue::Default)),
        ("RESET ALL", set("all", false, SetValue::Default)),
        ("SET NAMES 'UTF8'", set("client_encoding", false, SetValue::Text)),
        ("SHOW search_path", Action::None),
        ("DISCARD ALL", Action::DiscardAll),
        ("DISCARD PLANS", Action::DiscardOther),
        ("LISTEN a", Action::Listen("a".into())),
        ("UNLISTEN *", Action::Unlisten(None)),
        ("UNLISTEN \"B\"", Action::Unlisten(Some("B".into()))),
        ("NOTIFY a, 'b'", Action::Notify),
        ("PREPARE p AS SELECT 1", Action::Prepare { name: "p".into(), leaves: Residue::default() }),
        ("EXECUTE p (1)", Action::Execute("p".into())),
        ("EXPLAIN ANALYZE EXECUTE p", Action::Execute("p".into())),
        ("CREATE TABLE t AS EXECUTE p", Action::Execute("p".into())),
        ("EXPLAIN ANALYZE CREATE TABLE t AS EXECUTE p", Action::Execute("p".into())),
        ("SELECT name FROM pg_prepared_statements", Action::ShowPrepared),
        ("SELECT count(*) FROM pg_catalog.pg_listening_channels()", Action::ShowChannels),
        ("DEALLOCATE p", Action::Deallocate(Some("p".into()))),
        ("DEALLOCATE ALL", Action::Deallocate(None)),
        ("DECLARE c CURSOR FOR SELECT 1", Action::DeclareCursor { name: "c".into(), hold: false }),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", Action::DeclareCursor { name: "c".into(), hold: true }),
        ("CLOSE c", Action::CloseCursor(Some("c".into()))),
        ("CLOSE ALL", Action::CloseCursor(None)),
        ("COPY t FROM STDIN", Action::CopyIn),
        ("COPY t TO STDOUT", Action::CopyOut),
        ("COPY t FROM '/tmp/x'", Action::None),
        ("SELECT 1", Action::None),
        ("CREATE TABLE t (id int)", Action::None),
    ];
    for (sql, action) in cases {
        let found = unsharded(sql);
        assert_eq!(found.action, action, "{sql}");
        assert_eq!(found.route, Route::Home, "{sql}");
    }
}

#[test]
fn set_config_as_a_statement_is_a_setting() {
    let cases = [
        ("SELECT set_config('search_path', 'a', false)", "search_path", false, SetValue::Literal { index: 1 }),
        (
            "SELECT pg_catalog.set_config('Search_Path', $1, true)",
            "search_path",
            true,
            SetValue::Parameter { number: 1 },
        ),
        (
            "SELECT current_setting('jit') AS cur, set_config('jit', 'off', false) AS new",
            "jit",
            false,
            SetValue::Literal { index: 2 },
        ),
        ("SELECT set_config('a.b'::text, $1::text, false)", "a.b", false, SetValue::Parameter { number: 1 }),
        ("SELECT set_config('a.b', NULL, false)", "a.b", false, SetValue::Default),
    ];
    for (sql, name, local, value) in cases {
        let found = unsharded(sql);
        assert_eq!(found.action, set(name, local, value), "{sql}");
        assert!(!found.residue.opaque && !found.residue.pins, "{sql}");
        assert_eq!(route(sql), "any", "{sql}");
    }
    let jit = "SELECT current_setting('jit') AS cur, set_config('jit', 'off', false) AS new";
    assert_eq!(*template(jit).fixed_literals, [1]);
    for sql in [
        "SELECT set_config($1, 'a', false)",
        "SELECT set_config('a', 'b', $1)",
        "SELECT set_config('a', 'b', false) WHERE false",
        "SELECT set_config(name, setting, false) FROM pg_settings",
        "SELECT set_config('a', 'b', false), set_config('c', 'd', false)",
        "SELECT lower(set_config('a', 'b', false))",
        "SELECT set_config('a', lower('b'), false)",
        "WITH x AS (SELECT set_config('a', 'b', false)) SELECT 1",
    ] {
        let found = unsharded(sql);
        assert_eq!(found.action, Action::None, "{sql}");
        assert!(found.residue.opaque && found.residue.pins, "{sql}");
        assert_eq!(route(sql), "refused 0A000", "{sql}");
    }
}

#[test]
fn residue_that_pins_the_server() {
    for sql in [
        "CREATE TEMP TABLE t (id int)",
        "CREATE TABLE pg_temp.t (id int)",
        "CREATE TEMPORARY VIEW v AS SELECT 1",
        "CREATE TEMP SEQUENCE s",
        "CREATE TEMP TABLE t AS SELECT 1",
        "SELECT 1 INTO TEMP t",
        "EXPLAIN ANALYZE CREATE TEMP TABLE t AS SELECT 1",
        "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'select 1'",
        "LISTEN a",
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        "PREPARE p (my_type) AS SELECT 1",
        "PREPARE p (schema.type) AS SELECT 1",
        "PREPARE p AS SELECT 'a\\b'",
        "PREPARE p AS SELECT 1 INTO TEMP t",
        "PREPARE p AS SELECT set_config('a.b', 'c', false)",
        "PREPARE p AS SELECT pg_advisory_lock(1)",
        "SELECT pg_advisory_lock(1)",
        "SELECT * FROM t WHERE pg_try_advisory_lock_shared(id)",
        "LOAD 'x'",
    ] {
        assert!(unsharded(sql).residue.pins, "{sql}");
    }
    for sql in
        ["CREATE TABLE t (id int)", "SELECT 1", "SELECT pg_advisory_xact_lock(1)", "DECLARE c CURSOR FOR SELECT 1"]
    {
        assert!(!unsharded(sql).residue.pins, "{sql}");
    }
    for sql in
        ["DROP TABLE t", "UNLISTEN *", "CLOSE c", "DEALLOCATE p", "DISCARD ALL", "SELECT pg_advisory_unlock_all()"]
    {
        assert!(unsharded(sql).residue.may_unpin, "{sql}");
    }
    for sql in ["DO 'begin end'", "CALL p()", "SELECT my_function()", "SELECT * FROM s.f(1)", "SELECT dblink('a')"] {
        let found = unsharded(sql);
        assert!(found.residue.opaque, "{sql}");
        assert_eq!(found.access, Access::Write, "{sql}");
    }
    for sql in ["SELECT lower('a'), now(), count(*)", "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'select g()'"] {
        assert!(!unsharded(sql).residue.opaque, "{sql}");
    }
}

#[test]
fn what_executing_a_prepared_statement_leaves() {
    let leaves = |sql| match unsharded(sql).action {
        Action::Prepare { leaves, .. } => leaves,
        other => panic!("{sql}: {other:?}"),
    };
    assert_eq!(leaves("PREPARE p (int, text[], pg_catalog.uuid) AS SELECT $1, $2, $3"), Residue::default());
    assert!(leaves("PREPARE p AS SELECT my_function()").opaque);
    assert!(leaves("PREPARE p AS SELECT pg_advisory_unlock(1)").may_unpin);
    let own = unsharded("PREPARE p AS SELECT my_function()").residue;
    assert_eq!(own, Residue::default(), "preparing runs nothing");
}

#[test]
fn access_and_transaction_blocks() {
    for sql in [
        "SELECT * FROM t",
        "VALUES (1)",
        "SHOW x",
        "SELECT now(), random()",
        "EXPLAIN DELETE FROM t",
        "BEGIN",
        "TABLE t",
        "COPY (SELECT 1) TO STDOUT",
        "EXPLAIN ANALYZE SELECT 1",
        "FETCH c",
    ] {
        assert_eq!(unsharded(sql).access, Access::Read, "{sql}");
    }
    for sql in [
        "SELECT * FROM t FOR SHARE",
        "DELETE FROM t",
        "WITH x AS (INSERT INTO t VALUES (1) RETURNING *) SELECT * FROM x",
        "SELECT nextval('s')",
        "SELECT f()",
        "EXPLAIN ANALYZE DELETE FROM t",
        "EXPLAIN (ANALYZE) SELECT f()",
        "COMMIT",
        "SELECT 1 INTO t",
        "COPY t FROM STDIN",
        "SELECT pg_advisory_lock(1)",
        "SELECT lo_create(1)",
    ] {
        assert_eq!(unsharded(sql).access, Access::Write, "{sql}");
    }
    for sql in [
        "VACUUM",
        "CREATE INDEX CONCURRENTLY i ON t (a)",
        "DROP INDEX CONCURRENTLY i",
        "REINDEX DATABASE d",
        "REINDEX (CONCURRENTLY) TABLE t",
        "CREATE DATABASE d",
        "DISCARD ALL",
        "COMMIT PREPARED 'x'",
        "ALTER SYSTEM SET a = 1",
        "CLUSTER",
    ] {
        assert!(unsharded(sql).outside_transaction, "{sql}");
    }
    for sql in
        ["ANALYZE t", "CREATE INDEX i ON t (a)", "REINDEX TABLE t", "CLUSTER t", "SELECT 1", "PREPARE TRANSACTION 'x'"]
    {
        assert!(!unsharded(sql).outside_transaction, "{sql}");
    }
}

#[test]
fn session_statements_in_a_sharded_database() {
    check(&[
        ("BEGIN", "any"),
        ("COMMIT", "any"),
        ("SET search_path = a", "any"),
        ("SHOW search_path", "any"),
        ("SET CONSTRAINTS ALL DEFERRED", "any"),
        ("SET TRANSACTION SNAPSHOT 'x'", "refused 0A000"),
        ("DISCARD ALL", "any"),
        ("UNLISTEN *", "any"),
        ("DEALLOCATE ALL", "any"),
        ("LISTEN a", "refused 0A000"),
        ("NOTIFY a", "refused 0A000"),
        ("PREPARE p AS SELECT 1", "refused 0A000"),
        ("EXECUTE p", "refused 0A000"),
        ("PREPARE TRANSACTION 'x'", "refused 0A000"),
        ("DO 'begin end'", "refused 0A000"),
        ("CALL p()", "refused 0A000"),
        ("DECLARE c CURSOR FOR SELECT * FROM members WHERE organization_id = $1", "key $1"),
        ("DECLARE c CURSOR FOR SELECT * FROM members", "refused 0A000"),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "refused 0A000"),
        ("FETCH 5 FROM c", "cursor c"),
        ("MOVE ALL IN c", "cursor c"),
        ("CLOSE c", "cursor c"),
        ("CLOSE ALL", "any"),
        ("EXPLAIN SELECT * FROM members WHERE organization_id = 5", "key 5"),
        ("EXPLAIN SELECT * FROM members", "refused 0A000"),
        ("EXPLAIN ANALYZE DELETE FROM states", "refused 0A000"),
        ("EXPLAIN DELETE FROM states", "home"),
        ("EXPLAIN EXECUTE p", "refused 0A000"),
        ("EXPLAIN CREATE TABLE t AS SELECT 1", "refused 0A000"),
    ]);
    assert_eq!(statement("SET CONSTRAINTS ALL DEFERRED").action, set("constraints", true, SetValue::Text));
}

#[test]
fn several_statements_are_apart() {
    let template = template("BEGIN; SELECT * FROM members WHERE organization_id = 5;; ; DELETE FROM jobs -- done\n;");
    let routes: Vec<_> = template.statements.iter().map(|statement| statement.route.clone()).collect();
    assert_eq!(routes.len(), 3);
    assert!(matches!((&routes[0], &routes[1], &routes[2]), (Route::Any, Route::Keyed(_), Route::Home)));
    assert!(template.spans_agree);
    assert_eq!(super::fixture::template("").statements.len(), 0);
    assert_eq!(super::fixture::template(" ;; -- x").statements.len(), 0);
    assert!(super::fixture::template(" ;; -- x").spans_agree);
    let atomic = "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END";
    assert!(!super::fixture::template(atomic).spans_agree);
}

#[test]
fn what_does_not_parse() {
    let found = unsharded("SELEC 1");
    assert_eq!((found.route, found.access, found.residue.opaque), (Route::Home, Access::Write, true));
    assert_eq!(route("SELEC 1"), "refused 42601");
    let deep = format!("SELECT {}1", "1 + ".repeat(2000));
    assert_eq!(route(&deep), "refused 54001");
    assert_eq!(*template("SELECT FROM WHERE 'a' = 5").fixed_literals, [0, 1]);
}

#[test]
fn backslashes_under_non_standard_strings() {
    let sql = r"SELECT 'a\'b; DROP TABLE jobs; --', 5; SELECT 'c\\'";
    let mut normalized = Normalized::default();
    normalized.run(sql.as_bytes(), false);
    let template = crate::analyze::analyze(&Schema::default(), &[], Default::default(), sql, &normalized);
    assert_eq!(template.statements.len(), 2);
    assert!(template.spans_agree);
    let shorter = template_in(&Schema::default(), &[], r"SELECT 'a\b'");
    assert_eq!(shorter.statements.len(), 1);
}

#[test]
fn names_follow_the_search_path() {
    use super::fixture::{schema, summary};
    use crate::key::KeyType;
    let route =
        |path: &[&str], sql: &str| summary(sql, &template_in(&schema(KeyType::Int), path, sql).statements[0].route);
    assert_eq!(route(&["archive", "public"], "INSERT INTO members VALUES (5, 1)"), "key +5");
    assert_eq!(route(&["public", "archive"], "INSERT INTO members VALUES (5, 1)"), "key +1");
    assert_eq!(route(&["archive"], "SELECT * FROM states"), "refused 42P01");
    assert_eq!(route(&[], "SELECT * FROM public.states"), "any");
    assert_eq!(route(&["archive"], "SELECT mask('a')"), "refused 0A000");
}
