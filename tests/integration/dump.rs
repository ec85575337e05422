//! PostgreSQL's own tools that take a database apart and put it together again, in session and in transaction pooling: what
//! comes out is what PostgreSQL itself would have dumped.

use std::fs;
use std::process::{Command, Stdio};

use sluice_test_harness::{Programs, run};
use tempfile::TempDir;

use crate::support::Stand;

/// One transaction for the leader of a parallel dump, and one for each of its workers.
const JOBS: &str = "--jobs=3";
const SERVERS: &str = "default_pool_size = 4";

const CONTENTS: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'ok');
    CREATE DOMAIN positive AS int CHECK (VALUE > 0);
    CREATE TABLE parents (id bigserial PRIMARY KEY, name text NOT NULL UNIQUE, mood mood DEFAULT 'ok', at timestamptz);
    CREATE TABLE children (id int GENERATED ALWAYS AS IDENTITY, parent bigint REFERENCES parents, n positive, data jsonb) PARTITION BY RANGE (parent);
    CREATE TABLE children_1 PARTITION OF children FOR VALUES FROM (0) TO (500);
    CREATE TABLE children_2 PARTITION OF children DEFAULT;
    INSERT INTO parents (name, at) SELECT 'it''s \\ ' || n, '2026-01-01 UTC'::timestamptz + n * interval '1 hour' FROM generate_series(1, 1000) n;
    INSERT INTO children (parent, n, data) SELECT p, n, jsonb_build_object('n', n) FROM generate_series(1, 1000) p, generate_series(1, 5) n;
    CREATE INDEX ON children USING gin (data);
    CREATE MATERIALIZED VIEW sums AS SELECT parent, sum(n) FROM children GROUP BY parent;
    CREATE FUNCTION twice(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN $1 * 2; END $$;
    CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.name := NEW.name || '!'; RETURN NEW; END $$;
    CREATE TRIGGER touch BEFORE UPDATE ON parents FOR EACH ROW EXECUTE FUNCTION touch();
    CREATE STATISTICS s ON id, name FROM parents;
    CREATE SCHEMA \"Odd name\"; CREATE TABLE \"Odd name\".\"Weird\"\"table\" (a int, b bytea);
    INSERT INTO \"Odd name\".\"Weird\"\"table\" SELECT n, sha256(n::text::bytea) FROM generate_series(1, 100) n;
    COMMENT ON TABLE parents IS 'ünïcode'; GRANT SELECT ON parents TO PUBLIC;
    SELECT lo_from_bytea(0, sha256(n::text::bytea)) FROM generate_series(1, 10) n;
    SELECT setval('parents_id_seq', 4711);";

fn start(mode: &str) -> Stand {
    let stand = Stand::start(&[&format!("pool_mode = {mode}"), SERVERS, "server_round_robin = 1"]);
    stand.cluster.create_database("source");
    stand.cluster.create_database("target");
    stand.cluster.psql("source", CONTENTS);
    stand
}

/// A tool, led through Sluice.
fn tool(stand: &Stand, name: &str) -> Command {
    let mut command = Programs::find().as_user("timeout");
    command.arg("60").arg(Programs::find().path(name)).env("PGHOST", "127.0.0.1").env("PGUSER", "postgres");
    command.env("PGPORT", stand.sluice.port().to_string());
    command
}

fn succeed(command: &mut Command) -> String {
    run(command).unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// What PostgreSQL itself dumps.
fn dumped(stand: &Stand, database: &str) -> String {
    let mut command = Programs::find().command("pg_dump");
    command.args(["--dbname", &stand.cluster.conninfo(database)]);
    stable(&succeed(&mut command))
}

/// Newer releases write a random key into a dump, against injected commands.
fn stable(dump: &str) -> String {
    let is_key = |line: &&str| line.starts_with("\\restrict ") || line.starts_with("\\unrestrict ");
    dump.lines().filter(|line| !is_key(line)).collect::<Vec<_>>().join("\n")
}

fn folder() -> TempDir {
    let folder = tempfile::Builder::new().prefix("sluice-dump-").tempdir_in("/tmp").expect("a folder");
    Programs::find().give(folder.path());
    folder
}

#[test]
fn a_dump_is_piped_into_psql() {
    for mode in ["session", "transaction"] {
        let stand = start(mode);
        let mut dump = tool(&stand, "pg_dump").arg("source").stdout(Stdio::piped()).spawn().expect("pg_dump");
        let mut psql = tool(&stand, "psql");
        psql.args(["-X", "-q", "-o", "/dev/null", "-v", "ON_ERROR_STOP=1", "target"]);
        succeed(psql.stdin(dump.stdout.take().expect("a pipe")));
        assert!(dump.wait().expect("pg_dump").success());
        assert_eq!(dumped(&stand, "target"), dumped(&stand, "source"), "{mode}");
        stand.assert_healthy();
    }
}

/// The workers read the leader's snapshot, each in a transaction and so on a server of its own.
#[test]
fn a_parallel_dump_is_restored_in_parallel() {
    for mode in ["session", "transaction"] {
        let stand = start(mode);
        let folder = folder();
        let archive = folder.path().join("dump").display().to_string();
        succeed(tool(&stand, "pg_dump").args([JOBS, "--format=directory", "--file", &archive, "source"]));
        succeed(tool(&stand, "pg_restore").args([JOBS, "--exit-on-error", "--dbname=target", &archive]));
        assert_eq!(dumped(&stand, "target"), dumped(&stand, "source"), "{mode}");
        // In one transaction, over what is there.
        let again = ["--single-transaction", "--clean", "--if-exists", "--dbname=target", &archive];
        succeed(tool(&stand, "pg_restore").args(again));
        assert_eq!(dumped(&stand, "target"), dumped(&stand, "source"), "{mode}");
        stand.assert_healthy();
    }
}

#[test]
fn inserts_and_a_whole_cluster_are_dumped_as_well() {
    let stand = start("transaction");
    let inserts = ["--rows-per-insert=50", "--column-inserts", "source"];
    let text = succeed(tool(&stand, "pg_dump").args(inserts));
    let folder = folder();
    let script = folder.path().join("script.sql");
    fs::write(&script, text).expect("a script");
    let psql = ["-X", "-q", "-o", "/dev/null", "-v", "ON_ERROR_STOP=1", "--single-transaction", "-f"];
    succeed(tool(&stand, "psql").args(psql).arg(&script).arg("target"));
    assert_eq!(dumped(&stand, "target"), dumped(&stand, "source"));
    let through = succeed(tool(&stand, "pg_dumpall").arg("--no-sync"));
    let host = stand.cluster.socket_dir().display().to_string();
    let directly =
        succeed(tool(&stand, "pg_dumpall").args(["--no-sync", "-h", &host, "-p", &stand.cluster.port().to_string()]));
    assert_eq!(stable(&through), stable(&directly));
    stand.assert_healthy();
}

#[test]
fn maintenance_runs_in_parallel() {
    let stand = start("transaction");
    succeed(tool(&stand, "vacuumdb").args([JOBS, "--analyze", "source"]));
    succeed(tool(&stand, "reindexdb").args([
        JOBS,
        "--concurrently",
        "--table=parents",
        "--table=children_1",
        "source",
    ]));
    succeed(tool(&stand, "clusterdb").arg("source"));
    assert_ne!(stand.cluster.psql("source", "SELECT count(*) FROM pg_stats WHERE tablename = 'parents'"), "0");
    stand.assert_healthy();
}
