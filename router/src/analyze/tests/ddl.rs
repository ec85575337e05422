//! DDL and its traces in the schema snapshot.

use super::fixture::{check, refusal, statement, template};
use crate::map::TableClass;
use crate::template::{Action, Route, SchemaChange};

fn changes(sql: &str) -> Vec<SchemaChange> {
    match statement(sql).action {
        Action::Ddl(changes) => changes.into_vec(),
        other => panic!("{sql}: {other:?}"),
    }
}

#[test]
fn a_new_table_is_sharded_if_it_has_the_key() {
    check(&[
        ("CREATE TABLE loans (organization_id bigint NOT NULL, id uuid, PRIMARY KEY (organization_id, id))", "all"),
        ("CREATE TABLE notes (id bigserial PRIMARY KEY, body text)", "home"),
        ("CREATE UNLOGGED TABLE notes (id int GENERATED ALWAYS AS IDENTITY, body text)", "home"),
        ("CREATE TABLE IF NOT EXISTS jobs (id bigint)", "home"),
        ("CREATE TEMP TABLE t (id int)", "refused 0A000"),
        ("CREATE TABLE t OF some_type", "refused 0A000"),
        ("CREATE TABLE loans (organization_id numeric)", "refused 0A000"),
        ("CREATE TABLE loans (organization_id text)", "refused 0A000"),
        ("CREATE TABLE loans (organization_id bigint GENERATED ALWAYS AS (1) STORED)", "refused 0A000"),
        ("CREATE TABLE m2 (LIKE members INCLUDING ALL)", "all"),
        ("CREATE TABLE m2 (LIKE jobs)", "home"),
        ("CREATE TABLE m2 (LIKE jobs, organization_id int)", "refused 0A000"),
        ("CREATE TABLE m2 PARTITION OF members FOR VALUES IN (1)", "all"),
        ("CREATE TABLE m2 PARTITION OF jobs FOR VALUES IN (1)", "home"),
        ("CREATE TABLE m2 (x int) INHERITS (states)", "refused 0A000"),
        ("CREATE TABLE m2 (x int) INHERITS (nowhere)", "refused 42P01"),
    ]);
    let created = changes("CREATE TABLE IF NOT EXISTS app.loans (id uuid, organization_id bigint)");
    let expected = SchemaChange::Create {
        schema: Some("app".into()),
        name: "loans".into(),
        columns: ["id".into(), "organization_id".into()].into(),
        class: TableClass::Sharded,
        if_not_exists: true,
    };
    assert_eq!(created, [expected]);
    assert_eq!(changes("CREATE TABLE IF NOT EXISTS jobs (id bigint)"), []);
}

#[test]
fn a_declared_reference_table_becomes_one() {
    check(&[
        ("CREATE TABLE grades (code text PRIMARY KEY, title text DEFAULT 'none', n int DEFAULT 1 + 2)", "all"),
        ("CREATE TABLE IF NOT EXISTS grades (code text)", "all"),
        ("CREATE TABLE public.grades (code text UNIQUE, state text REFERENCES states)", "all"),
        ("CREATE TABLE archive.grades (code text)", "home"),
        ("CREATE TABLE grades (id serial)", "refused 0A000"),
        ("CREATE TABLE grades (id int GENERATED ALWAYS AS IDENTITY)", "refused 0A000"),
        ("CREATE TABLE grades (id bigint DEFAULT nextval('s'))", "refused 0A000"),
        ("CREATE TABLE grades (id uuid DEFAULT gen_random_uuid())", "refused 0A000"),
        ("CREATE TABLE grades (at timestamptz DEFAULT now())", "refused 0A000"),
        ("CREATE TABLE grades (at timestamptz DEFAULT CURRENT_TIMESTAMP)", "refused 0A000"),
        ("CREATE TABLE grades (at timestamptz DEFAULT 'now')", "refused 0A000"),
        ("CREATE TABLE grades (at text DEFAULT 'unknown')", "all"),
        ("CREATE TABLE grades (a text DEFAULT own_function())", "refused 0A000"),
        ("CREATE TABLE grades (member int REFERENCES members (id))", "refused 0A000"),
        ("CREATE TABLE grades (LIKE states INCLUDING ALL)", "all"),
        ("CREATE TABLE grades (LIKE members)", "all"),
        ("CREATE TABLE grades (LIKE members INCLUDING DEFAULTS)", "refused 0A000"),
        ("CREATE TABLE grades (LIKE members INCLUDING ALL)", "refused 0A000"),
        ("CREATE TABLE grades (LIKE jobs)", "refused 0A000"),
        ("DROP TABLE grades", "all"),
        ("CREATE TABLE IF NOT EXISTS states (code text)", "all"),
        ("CREATE TRIGGER t BEFORE INSERT ON states FOR EACH ROW EXECUTE FUNCTION f()", "refused 0A000"),
    ]);
    for sql in ["CREATE TABLE grades (code text)", "CREATE TABLE IF NOT EXISTS grades (code text)"] {
        let [SchemaChange::Create { class, columns, .. }] = &changes(sql)[..] else { panic!("{sql}") };
        assert_eq!((*class, columns.join(",")), (TableClass::Reference, "code".to_owned()), "{sql}");
    }
    assert_eq!(changes("CREATE TABLE IF NOT EXISTS states (code text)"), []);
    // In one text: what was created can be filled, and what was dropped is forgotten.
    let created = template("CREATE TABLE IF NOT EXISTS grades (code text); INSERT INTO grades VALUES ('a')");
    assert!(created.statements.iter().all(|statement| statement.route == Route::AllShards), "{created:?}");
    let dropped = template("DROP TABLE grades; CREATE TABLE grades (code text)");
    assert_eq!(dropped.statements[1].route, Route::Home);
}

/// Regression: one refused constant made every statement of its shape refused.
#[test]
fn a_refused_constant_does_not_stand_for_others() {
    let refused = template("INSERT INTO states VALUES ('a', 'now')");
    assert!(matches!(refused.statements[0].route, Route::Refused(_)));
    assert_eq!(*refused.fixed_literals, [0, 1]);
    check(&[
        ("INSERT INTO states VALUES ('KN', 'Knowsley')", "all"),
        ("ALTER TABLE states ADD COLUMN at date DEFAULT 'today'", "refused 0A000"),
    ]);
}

#[test]
fn a_sharded_table_has_nothing_that_spans_shards() {
    check(&[
        ("CREATE TABLE t (organization_id int, id serial)", "refused 0A000"),
        ("CREATE TABLE t (organization_id int, id bigint GENERATED BY DEFAULT AS IDENTITY)", "refused 0A000"),
        ("CREATE TABLE t (organization_id int, id bigint DEFAULT nextval('s'))", "refused 0A000"),
        ("CREATE TABLE t (organization_id int, id uuid DEFAULT gen_random_uuid())", "all"),
        ("CREATE TABLE t (organization_id int, id uuid PRIMARY KEY)", "refused 0A000"),
        ("CREATE TABLE t (organization_id int PRIMARY KEY, id uuid)", "all"),
        ("CREATE TABLE t (organization_id int, id uuid UNIQUE)", "refused 0A000"),
        ("CREATE TABLE t (organization_id int, id uuid, UNIQUE (id))", "refused 0A000"),
        ("CREATE TABLE t (organization_id int, id uuid, UNIQUE (id, organization_id))", "all"),
        ("CREATE TABLE t (organization_id int, r int4range, EXCLUDE USING gist (r WITH &&))", "refused 0A000"),
        (
            "CREATE TABLE t (organization_id int, r int4range, EXCLUDE USING gist (organization_id WITH =, r WITH &&))",
            "all",
        ),
        (
            "CREATE TABLE t (organization_id int, r int4range, EXCLUDE USING gist (organization_id WITH <>, r WITH &&))",
            "refused 0A000",
        ),
        ("CREATE TABLE t (organization_id int, m int REFERENCES members (id))", "refused 0A000"),
        (
            "CREATE TABLE t (organization_id int, m int, FOREIGN KEY (organization_id, m) REFERENCES members (organization_id, id))",
            "all",
        ),
        (
            "CREATE TABLE t (organization_id int, m int, FOREIGN KEY (organization_id, m) REFERENCES members (id, organization_id))",
            "refused 0A000",
        ),
        (
            "CREATE TABLE t (organization_id int, m int, FOREIGN KEY (organization_id, m) REFERENCES members)",
            "refused 0A000",
        ),
        (
            "CREATE TABLE t (organization_id int, m int, FOREIGN KEY (organization_id, m) REFERENCES t (organization_id, m))",
            "all",
        ),
        ("CREATE TABLE t (organization_id int, s text REFERENCES states (code))", "all"),
        ("CREATE TABLE t (organization_id int, s int REFERENCES jobs (id))", "refused 0A000"),
        ("CREATE TABLE t (id int, m int REFERENCES members (id))", "refused 0A000"),
        ("CREATE TABLE t (id int, s int REFERENCES jobs (id), c text REFERENCES states)", "home"),
    ]);
    assert!(
        refusal("CREATE TABLE t (organization_id int, id uuid, UNIQUE (id))").hint.contains("(organization_id, id)")
    );
}

#[test]
fn alter_table() {
    check(&[
        ("ALTER TABLE members ADD COLUMN x int", "all"),
        ("ALTER TABLE members ADD COLUMN x serial", "refused 0A000"),
        ("ALTER TABLE members ADD COLUMN x uuid UNIQUE", "refused 0A000"),
        ("ALTER TABLE members ADD COLUMN x bigint DEFAULT nextval('s')", "refused 0A000"),
        ("ALTER TABLE members ALTER COLUMN id SET DEFAULT nextval('s')", "refused 0A000"),
        ("ALTER TABLE members ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY", "refused 0A000"),
        ("ALTER TABLE members ALTER COLUMN name SET NOT NULL", "all"),
        ("ALTER TABLE members DROP COLUMN organization_id", "refused 0A000"),
        ("ALTER TABLE members DROP COLUMN name, ADD COLUMN y int", "all"),
        ("ALTER TABLE members ALTER COLUMN organization_id TYPE text", "refused 0A000"),
        ("ALTER TABLE members RENAME COLUMN organization_id TO x", "refused 0A000"),
        ("ALTER TABLE members RENAME COLUMN name TO organization_id", "refused 0A000"),
        ("ALTER TABLE members ADD CONSTRAINT u UNIQUE (id)", "refused 0A000"),
        ("ALTER TABLE members ADD CONSTRAINT u UNIQUE (organization_id, id)", "all"),
        ("ALTER TABLE members ADD CONSTRAINT u PRIMARY KEY USING INDEX i", "all"),
        ("ALTER TABLE members ADD FOREIGN KEY (id) REFERENCES claims (id)", "refused 0A000"),
        ("ALTER TABLE members ADD CHECK (id > 0) NOT VALID", "all"),
        ("ALTER TABLE members ATTACH PARTITION archive.members FOR VALUES IN (1)", "all"),
        ("ALTER TABLE members ATTACH PARTITION jobs FOR VALUES IN (1)", "refused 0A000"),
        ("ALTER TABLE members DETACH PARTITION archive.members CONCURRENTLY", "refused 0A000"),
        ("ALTER TABLE members ENABLE ROW LEVEL SECURITY", "all"),
        ("ALTER TABLE members SET SCHEMA archive", "refused 0A000"),
        ("ALTER TABLE states ADD COLUMN x timestamptz DEFAULT now()", "refused 0A000"),
        ("ALTER TABLE states ADD COLUMN x int DEFAULT 5", "all"),
        ("ALTER TABLE states ADD FOREIGN KEY (code) REFERENCES members (name)", "refused 0A000"),
        ("ALTER TABLE jobs ADD COLUMN x serial", "home"),
        ("ALTER TABLE jobs ADD COLUMN organization_id int", "refused 0A000"),
        ("ALTER TABLE nowhere ADD COLUMN x int", "refused 42P01"),
        ("ALTER TABLE IF EXISTS nowhere ADD COLUMN x int", "all"),
        ("ALTER INDEX i RENAME TO j", "all"),
        ("ALTER TABLE members RENAME TO people", "all"),
        ("ALTER TABLE nowhere RENAME TO people", "refused 42P01"),
    ]);
    let altered = SchemaChange::Alter { schema: None, name: "members".into() };
    assert_eq!(changes("ALTER TABLE members ADD COLUMN x int"), [altered]);
    assert_eq!(changes("ALTER TABLE members ALTER COLUMN name SET NOT NULL"), []);
    let renamed = SchemaChange::Rename { schema: None, name: "members".into(), to: "people".into() };
    assert_eq!(changes("ALTER TABLE members RENAME TO people"), [renamed]);
}

#[test]
fn other_ddl() {
    check(&[
        ("DROP TABLE members, states", "all"),
        ("DROP TABLE members CASCADE", "all"),
        ("DROP TABLE jobs", "home"),
        ("DROP TABLE jobs, members", "refused 0A000"),
        ("DROP TABLE nowhere", "refused 42P01"),
        ("DROP TABLE IF EXISTS nowhere", "all"),
        ("CREATE INDEX ON members (name)", "all"),
        ("CREATE UNIQUE INDEX ON members (id)", "refused 0A000"),
        ("CREATE UNIQUE INDEX ON members (organization_id, lower(name))", "all"),
        ("CREATE UNIQUE INDEX ON members ((organization_id + 0), id)", "refused 0A000"),
        ("CREATE INDEX CONCURRENTLY ON members (name)", "refused 0A000"),
        ("CREATE INDEX CONCURRENTLY ON jobs (id)", "home"),
        ("DROP INDEX CONCURRENTLY i", "refused 0A000"),
        ("DROP INDEX i", "all"),
        ("TRUNCATE members, claims", "all"),
        ("TRUNCATE states", "all"),
        ("TRUNCATE jobs", "home"),
        ("TRUNCATE jobs, members", "refused 0A000"),
        ("CREATE VIEW v AS SELECT * FROM members", "refused 0A000"),
        ("CREATE MATERIALIZED VIEW v AS SELECT * FROM members", "refused 0A000"),
        ("CREATE RULE r AS ON INSERT TO members DO INSTEAD NOTHING", "refused 0A000"),
        ("CREATE TRIGGER t BEFORE INSERT ON members FOR EACH ROW EXECUTE FUNCTION f()", "all"),
        ("CREATE TRIGGER t BEFORE INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION f()", "home"),
        ("DROP TRIGGER t ON members", "all"),
        ("CREATE POLICY p ON members USING (true)", "all"),
        ("CREATE TYPE mood AS ENUM ('sad')", "all"),
        ("CREATE DOMAIN d AS int", "all"),
        ("CREATE SCHEMA app", "all"),
        ("CREATE SCHEMA app CREATE TABLE t (id int)", "refused 0A000"),
        ("CREATE EXTENSION pg_trgm", "all"),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'select 1'", "all"),
        ("GRANT SELECT ON members TO app", "all"),
        ("GRANT SELECT ON jobs TO app", "home"),
        ("GRANT SELECT ON ALL TABLES IN SCHEMA public TO app", "all"),
        ("GRANT CONNECT ON DATABASE d TO app", "refused 0A000"),
        ("COMMENT ON TABLE members IS 'x'", "all"),
        ("COMMENT ON COLUMN jobs.id IS 'x'", "home"),
        ("COMMENT ON DATABASE d IS 'x'", "refused 0A000"),
        ("CREATE ROLE r", "refused 0A000"),
        ("VACUUM members", "refused 0A000"),
        ("ANALYZE", "refused 0A000"),
        ("LOCK TABLE members", "refused 0A000"),
        ("CREATE TABLE t AS SELECT 1", "refused 0A000"),
        ("SELECT 1 INTO t", "refused 0A000"),
        ("CREATE DATABASE d", "refused 0A000"),
    ]);
    let dropped = |name: &str| SchemaChange::Drop { schema: None, name: name.into() };
    assert_eq!(changes("DROP TABLE members, states"), [dropped("members"), dropped("states")]);
    let archived = SchemaChange::Drop { schema: Some("archive".into()), name: "members".into() };
    assert_eq!(changes("DROP SCHEMA archive CASCADE"), [archived]);
    assert_eq!(statement("TRUNCATE members").action, Action::None);
}
