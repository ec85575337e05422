//! What a client of a database sees: in transaction pooling, unless a step says otherwise.

use std::time::Duration;

use super::poolers::Pooler;
use super::record::{self, Record};
use crate::support::{Batch, Client, Login, cancel};

/// Conversations in simple queries: database and statements.
const CONVERSATIONS: [(&str, &str, &[&str]); 24] = [
    ("a value", "postgres", &["SELECT 1 AS one, NULL AS nothing"]),
    ("nothing at all", "postgres", &["", ";", "-- only a comment"]),
    ("several statements", "postgres", &["SELECT 1; SELECT 2", "SELECT 1; SELECT 1/0; SELECT 2", "SELECT 3"]),
    ("an error with its position", "postgres", &["SELECT nonsense", "SELEC 1", "SELECT 1"]),
    ("a transaction", "postgres", &["BEGIN", "SELECT 1", "COMMIT"]),
    ("a failed transaction", "postgres", &["BEGIN", "SELECT 1/0", "SELECT 1", "COMMIT"]),
    (
        "savepoints",
        "postgres",
        &["BEGIN", "SAVEPOINT a", "SELECT 1/0", "ROLLBACK TO a", "SELECT 1", "RELEASE a", "COMMIT"],
    ),
    ("COMMIT without BEGIN", "postgres", &["COMMIT", "ROLLBACK", "SAVEPOINT a"]),
    ("BEGIN twice", "postgres", &["BEGIN", "BEGIN", "ROLLBACK"]),
    (
        "BEGIN of an odd kind",
        "postgres",
        &["START TRANSACTION READ ONLY", "SHOW transaction_read_only", "ABORT", "BEGIN ISOLATION LEVEL NONSENSE"],
    ),
    ("notices", "postgres", &["DO $$ BEGIN RAISE NOTICE 'hear'; RAISE WARNING 'ye'; END $$"]),
    (
        "settings of a transaction",
        "postgres",
        &["BEGIN", "SET LOCAL statement_timeout = '5s'", "SHOW statement_timeout", "COMMIT", "SHOW statement_timeout"],
    ),
    ("a parameter that is reported", "postgres", &["SET TimeZone = 'UTC'", "SHOW TimeZone", "RESET TimeZone"]),
    ("application_name", "postgres", &["SET application_name = 'mine'", "SHOW application_name"]),
    ("SQL-level PREPARE in a session", "session", &["PREPARE p AS SELECT 1", "EXECUTE p", "DEALLOCATE p", "EXECUTE p"]),
    (
        "cursors",
        "postgres",
        &["BEGIN", "DECLARE c CURSOR FOR SELECT generate_series(1, 3)", "FETCH 2 FROM c", "CLOSE c", "COMMIT"],
    ),
    (
        "a temporary table in a session",
        "session",
        &["CREATE TEMP TABLE t (a int)", "INSERT INTO t VALUES (1)", "SELECT * FROM t"],
    ),
    ("LISTEN in a session", "session", &["LISTEN c", "UNLISTEN c"]),
    ("COPY out", "postgres", &["COPY (SELECT generate_series(1, 2)) TO STDOUT"]),
    ("statement pooling", "statement", &["SELECT 1", "SELECT 1; SELECT 2", "BEGIN", "SELECT 1"]),
    ("statement pooling, one text", "statement", &["BEGIN; SELECT 1; COMMIT", "SELECT 1"]),
    ("a database that does not exist", "nowhere", &["SELECT 1"]),
    ("a user that is forced", "forced", &["SELECT current_user"]),
    ("a function call by name", "postgres", &["SELECT set_config('search_path', '', true)", "SHOW search_path"]),
];

pub fn run(pooler: &Pooler, record: &mut Record) {
    for (name, database, statements) in CONVERSATIONS {
        let outcome = match Client::log_in(&pooler.address(), &Login::to(database)) {
            Ok(mut client) => {
                let answers: Vec<_> =
                    statements.iter().map(|sql| format!("{sql}:\n{}", record::query(&mut client, sql))).collect();
                answers.join("\n")
            }
            Err(error) => error.to_string(),
        };
        record.add(&format!("session: {name}"), outcome);
    }
    batches(pooler, record);
    copy(pooler, record);
    cancelling(pooler, record);
    two_clients(pooler, record);
    odd_messages(pooler, record);
}

/// The extended protocol; a number of answers for each.
fn batches(pooler: &Pooler, record: &mut Record) {
    let batch = Batch::new;
    for (name, database, messages, ready) in [
        (
            "an unnamed statement",
            "postgres",
            batch().parse("", "SELECT $1::int + 1").bind("", "", &["41"]).execute("", 0).sync(),
            1,
        ),
        ("described", "postgres", batch().parse("", "SELECT $1::int AS n").describe_statement("").sync(), 1),
        (
            "rows in portions",
            "postgres",
            batch().parse("", "SELECT generate_series(1, 3)").bind("p", "", &[]).execute("p", 2).execute("p", 2).sync(),
            1,
        ),
        (
            "an error, and what follows it",
            "postgres",
            batch()
                .parse("", "SELECT 1/0")
                .bind("", "", &[])
                .execute("", 0)
                .parse("", "SELECT 2")
                .sync()
                .query("SELECT 3"),
            2,
        ),
        (
            "a pipeline",
            "postgres",
            batch().run("SELECT 1", &[]).sync().run("SELECT 2", &[]).sync().run("SELECT 3", &[]).sync(),
            3,
        ),
        ("only Sync", "postgres", batch().sync().sync(), 2),
        (
            "a named statement in a session",
            "session",
            batch().parse("s", "SELECT 7").sync().bind("", "s", &[]).execute("", 0).sync().close_statement("s").sync(),
            3,
        ),
        (
            "a named statement",
            "postgres",
            batch().parse("s", "SELECT 7").bind("", "s", &[]).execute("", 0).sync().close_statement("s").sync(),
            2,
        ),
        ("a statement that is not there", "session", batch().bind("", "nonsense", &[]).execute("", 0).sync(), 1),
        (
            "a statement that is not there, shared",
            "postgres",
            batch().bind("", "nonsense", &[]).execute("", 0).sync(),
            1,
        ),
        ("a statement prepared twice", "session", batch().parse("s", "SELECT 1").parse("s", "SELECT 2").sync(), 1),
        ("a portal that is not there", "postgres", batch().execute("nonsense", 0).sync(), 1),
        ("too many values", "postgres", batch().parse("", "SELECT 1").bind("", "", &["1"]).sync(), 1),
    ] {
        let mut client = pooler.log_in(&Login::to(database));
        client.send(&messages.0);
        record.add(&format!("batch: {name}"), record::messages(&mut client, ready));
    }
}

fn copy(pooler: &Pooler, record: &mut Record) {
    let copy = || Batch::new().query("COPY numbers FROM STDIN");
    for (name, messages, ready) in [
        ("rows", copy().copy_data(b"1\tx\n2\ty\n").copy_done(), 1),
        ("rows that fail", copy().copy_data(b"nonsense\n").copy_done().query("SELECT 1"), 2),
        ("given up by the client", copy().copy_fail("enough").query("SELECT 1"), 2),
        ("without a COPY", Batch::new().copy_data(b"1\n").copy_done().query("SELECT 1"), 1),
        (
            "in the extended protocol",
            Batch::new().run("COPY numbers FROM STDIN", &[]).copy_data(b"3\tz\n").copy_done().sync(),
            1,
        ),
    ] {
        let mut client = pooler.log_in(&Login::default());
        client.send(&messages.0);
        record.add(&format!("copy: {name}"), record::messages(&mut client, ready));
        drop(client);
        pooler.log_in(&Login::to("session")).ok("TRUNCATE numbers");
    }
}

fn cancelling(pooler: &Pooler, record: &mut Record) {
    let mut client = pooler.log_in(&Login::default());
    client.send_query("SELECT pg_sleep(30)");
    // The request finds the statement running, or waits until it does.
    std::thread::sleep(Duration::from_millis(500));
    cancel(&pooler.address(), &client.cancel_packet());
    record.add("cancel: a query", record::messages(&mut client, 1));
    cancel(&pooler.address(), &client.cancel_packet());
    record.add("cancel: nothing", record::query(&mut client, "SELECT 1"));
}

/// What one client's session leaves for the next one on the same server.
fn two_clients(pooler: &Pooler, record: &mut Record) {
    for (name, set, show) in [
        ("a setting", "SET statement_timeout = '77s'", "SHOW statement_timeout"),
        ("a parameter that is reported", "SET TimeZone = 'Asia/Tokyo'", "SHOW TimeZone"),
        ("a role", "SET ROLE plain", "SELECT current_user"),
        ("SQL-level PREPARE", "PREPARE p AS SELECT 1", "EXECUTE p"),
    ] {
        let login = Login::to("one");
        let (mut first, mut second) = (pooler.log_in(&login), pooler.log_in(&login));
        first.query("SELECT 1");
        second.query("SELECT 1");
        first.ok(set);
        record.add(&format!("{name} of another client"), record::query(&mut second, show));
        record.add(&format!("{name} of its own"), record::query(&mut first, show));
        drop((first, second));
        pooler.log_in(&Login { user: "admin".to_owned(), ..Login::to("pgbouncer") }).ok("RECONNECT");
    }
}

fn odd_messages(pooler: &Pooler, record: &mut Record) {
    for (name, bytes) in [
        ("an unknown message", &b"?\0\0\0\x04"[..]),
        ("a password now", b"p\0\0\0\x06x\0"),
        ("a length that is too short", b"Q\0\0\0\x03"),
        ("a query without its end", b"Q\0\0\0\x0cSELECT 1"),
        ("a flush", b"H\0\0\0\x04"),
    ] {
        let mut client = pooler.log_in(&Login::default());
        client.send(bytes);
        let _ = client.try_send(&Batch::new().query("SELECT 1").0);
        record.add(&format!("message: {name}"), record::messages(&mut client, 1));
    }
}
