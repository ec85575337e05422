//! Messages at the edge of what fits: very long ones, very wide ones, empty ones, several statements in one.

use crate::support::{Batch, Login, Stand};

fn one_server() -> Stand {
    Stand::start(&["default_pool_size = 1"])
}

#[test]
fn a_literal_of_twenty_megabytes() {
    let stand = one_server();
    let mut client = stand.client();
    let long = "x".repeat(20 << 20);
    assert_eq!(client.value(&format!("SELECT length('{long}')")), long.len().to_string());
    let answer = client.run(Batch::new().run("SELECT length($1)", &[&long]).sync());
    assert_eq!(answer.column(), [long.len().to_string()]);
    client.run(Batch::new().parse("long", "SELECT length($1)").sync());
    let answer = client.run(Batch::new().run_prepared("long", &[&long]).sync());
    assert_eq!(answer.column(), [long.len().to_string()]);
    assert_eq!(client.value("SELECT 1"), "1");
}

#[test]
fn a_row_of_twenty_megabytes() {
    let stand = one_server();
    let mut client = stand.client();
    for mode in 0..2 {
        let sql = "SELECT repeat('x', 20 * 1024 * 1024)";
        let answer = if mode == 0 {
            client.ok(sql)
        } else {
            client.run(Batch::new().parse("", sql).bind("", "", &[]).execute("", 0).sync())
        };
        assert_eq!(answer.column()[0].len(), 20 << 20);
    }
    client.run(Batch::new().parse("row", "SELECT repeat('y', $1::int)").sync());
    let answer = client.run(Batch::new().run_prepared("row", &["20000000"]).run_prepared("row", &["3"]).sync());
    assert_eq!(answer.column().iter().map(String::len).collect::<Vec<_>>(), [20_000_000, 3]);
    assert_eq!(client.value("SELECT 1"), "1");
}

#[test]
fn as_many_columns_as_postgresql_can_return() {
    let stand = one_server();
    let mut client = stand.client();
    let columns: Vec<String> =
        (0..1664).map(|number| format!("{number} AS a_column_with_a_long_name_so_that_it_adds_up_{number}")).collect();
    let sql = format!("SELECT {}", columns.join(", "));
    let row = client.ok(&sql).rows().remove(0);
    assert_eq!((row.len(), row[1663].as_deref()), (1664, Some("1663")));
    // Described: a RowDescription larger than any buffer, in an edited stream.
    client.run(Batch::new().parse("wide", &sql).sync());
    let answer = client
        .run(Batch::new().describe_statement("wide").bind("", "wide", &[]).describe_portal("").execute("", 0).sync());
    assert_eq!(answer.tags(), "tT2TDCZ");
    assert!(answer.messages[1].body.len() > 64 * 1024);
    assert_eq!(answer.messages[1].body, answer.messages[3].body);
}

#[test]
fn an_error_with_a_very_long_text_arrives_whole() {
    let stand = one_server();
    let mut client = stand.client();
    let long = "m".repeat(300_000);
    let answer = client.query(&format!("DO $$ BEGIN RAISE EXCEPTION '{long}'; END $$"));
    assert_eq!(answer.error().expect("raised").message.len(), long.len());
    assert_eq!(answer.status(), Some('I'));
    let notice = client.ok(&format!("DO $$ BEGIN RAISE NOTICE '{long}'; END $$"));
    assert_eq!(notice.notices()[0].message.len(), long.len());
    assert_eq!(client.value("SELECT 1"), "1");
}

#[test]
fn empty_queries() {
    let stand = one_server();
    let mut client = stand.client();
    for sql in ["", " ", ";", "-- nothing", "/* nothing */ ;;"] {
        let answer = client.ok(sql);
        assert_eq!(answer.tags(), "IZ", "{sql:?}");
    }
    assert_eq!(client.run(Batch::new().run("", &[]).sync()).tags(), "12IZ");
    assert_eq!(client.run(Batch::new().parse("empty", "").sync().clone()).tags(), "1Z");
    assert_eq!(client.run(Batch::new().run_prepared("empty", &[]).sync()).tags(), "2IZ");
    assert_eq!(client.run(Batch::new().sync()).tags(), "Z");
    client.send(&Batch::new().flush().sync().0);
    assert_eq!(client.answer().tags(), "Z");
    stand.assert_healthy();
}

#[test]
fn several_statements_in_one_message() {
    let stand = one_server();
    stand.direct("CREATE TABLE t (a int)");
    let (mut client, mut other) = (stand.client(), stand.client());
    let answer = client.ok("SELECT 1; SELECT 2 WHERE false; ; INSERT INTO t VALUES (1), (2); SELECT count(*) FROM t");
    assert_eq!(answer.completed(), ["SELECT 1", "SELECT 0", "INSERT 0 2", "SELECT 1"]);
    // A failure takes all of it back.
    let answer = client.query("INSERT INTO t VALUES (3); SELECT 1/0; INSERT INTO t VALUES (4)");
    assert_eq!((answer.completed().len(), answer.status()), (1, Some('I')));
    assert_eq!(other.value("SELECT count(*) FROM t"), "2");
    // But not what was committed inside.
    let answer = client.query("BEGIN; INSERT INTO t VALUES (5); COMMIT; INSERT INTO t VALUES (6); SELECT 1/0");
    assert_eq!((answer.completed().len(), answer.status()), (4, Some('I')));
    assert_eq!(other.value("SELECT count(*) FROM t"), "3");
    // A block that the message leaves open, and one that a message ends.
    let answer = client.ok("SELECT 1; BEGIN; INSERT INTO t VALUES (7)");
    assert_eq!(answer.status(), Some('T'));
    let answer = client.ok("INSERT INTO t VALUES (8); ROLLBACK; SELECT 2");
    assert_eq!(answer.status(), Some('I'));
    assert_eq!(other.value("SELECT count(*) FROM t"), "3");
    let answer = client.query("BEGIN; INSERT INTO t VALUES (9); ROLLBACK; BEGIN; SELECT 1/0");
    assert_eq!(answer.status(), Some('E'));
    client.ok("ROLLBACK; SELECT 1");
    assert_eq!(other.value("SELECT count(*) FROM t"), "3");
    stand.assert_healthy();
}

#[test]
fn lexical_oddities_pass_unchanged() {
    let stand = one_server();
    let mut client = stand.client();
    for (sql, value) in [
        ("SELECT 'a;b'", "a;b"),
        ("SELECT $tag$ ; BEGIN; $tag$", " ; BEGIN; "),
        ("SELECT E'it\\'s; \\\\'", "it's; \\"),
        ("SELECT /* ; /* nested */ COMMIT */ 'x'", "x"),
        ("SELECT 1 AS \"SET; \"\"x\"\"\"", "1"),
        ("SELECT U&'d\\0061t\\+000061'", "data"),
        ("TABLE (SELECT 'not a table' AS a) -- ;", ""),
    ] {
        if value.is_empty() {
            assert_eq!(client.error(sql).code, "42601");
        } else {
            assert_eq!(client.value(sql), value);
        }
    }
    client.ok("SET standard_conforming_strings = off");
    client.ok("SET escape_string_warning = off");
    assert_eq!(client.value("SELECT 'it\\'s; SET x'"), "it's; SET x");
    let mut other = stand.client();
    assert_eq!(other.value("SELECT 'a\\'"), "a\\");
    assert_eq!(client.value("SELECT 'it\\'s'"), "it's");
}

#[test]
fn other_encodings_pass_unchanged() {
    let stand = one_server();
    let mut client = stand.sluice.log_in(&Login::default().with("client_encoding", "LATIN1"));
    client.send(&Batch::new().raw(b'Q', b"SELECT octet_length('\xe9')::text || '\xe9'\0").0);
    let answer = client.answer();
    assert_eq!(answer.error(), None);
    let row = answer.messages.iter().find(|message| message.tag == b'D').expect("a row");
    assert!(row.body.ends_with(b"2\xe9"), "{row:?}");
    let mut other = stand.client();
    assert_eq!(other.value("SELECT 'é'"), "é");
    assert_eq!(other.error("SELECT E'\\xe9'").code, "22021");
}
