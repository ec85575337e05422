//! Long pipelines, large ones, and those with an error in the middle.

use std::thread;

use crate::support::{Batch, Stand};

fn one_server() -> Stand {
    Stand::start(&["default_pool_size = 1"])
}

#[test]
fn a_thousand_statements_before_one_sync() {
    let stand = one_server();
    let mut client = stand.client();
    client.run(Batch::new().parse("n", "SELECT $1::int").sync());
    let batch = (0..1000).fold(Batch::new(), |batch, number: i32| {
        let text = number.to_string();
        if number % 2 == 0 { batch.run_prepared("n", &[&text]) } else { batch.run("SELECT $1::int", &[&text]) }
    });
    let column = client.run(batch.sync()).column();
    assert_eq!(column, (0..1000).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[test]
fn a_thousand_syncs_before_the_first_answer_is_read() {
    let stand = Stand::start(&["default_pool_size = 2", "server_round_robin = 1"]);
    let mut client = stand.client();
    let batch = (0..1000).fold(Batch::new(), |batch, number: i32| {
        let batch = if number % 3 == 0 {
            batch.query(&format!("SELECT {number}"))
        } else {
            batch.run(&format!("SELECT {number}"), &[]).sync()
        };
        if number % 100 == 50 { batch.run("SELECT 1/0", &[]).sync() } else { batch }
    });
    client.send(&batch.0);
    let mut errors = 0;
    let mut next = 0;
    while next < 1000 {
        let answer = client.answer();
        match answer.error() {
            Some(error) => {
                assert_eq!(error.code, "22012");
                errors += 1;
            }
            None => {
                assert_eq!(answer.column(), [next.to_string()]);
                next += 1;
            }
        }
    }
    assert_eq!(errors, 10);
}

#[test]
fn an_error_in_the_middle_takes_the_rest_with_it() {
    let stand = one_server();
    stand.direct("CREATE TABLE t (a int)");
    let mut client = stand.client();
    client.run(Batch::new().parse("i", "INSERT INTO t VALUES ($1::int)").sync());
    let batch = (0..100).fold(Batch::new(), |batch, number| {
        let value = if number == 50 { "no number".to_owned() } else { number.to_string() };
        batch.run_prepared("i", &[&value])
    });
    let answer = client.run(batch.sync());
    assert_eq!((answer.completed().len(), answer.error().expect("no number").code.as_str()), (50, "22P02"));
    assert_eq!(answer.tags().chars().last(), Some('Z'));
    assert_eq!(stand.direct("SELECT count(*) FROM t"), "0", "a pipeline is one transaction");
    stand.assert_healthy();
}

#[test]
fn transactions_begin_and_end_inside_pipelines() {
    let stand = one_server();
    stand.direct("CREATE TABLE t (a int)");
    let mut client = stand.client();
    let batch = Batch::new()
        .run("BEGIN", &[])
        .run("INSERT INTO t VALUES (1)", &[])
        .run("COMMIT", &[])
        .run("BEGIN", &[])
        .run("INSERT INTO t VALUES (2)", &[])
        .run("ROLLBACK", &[])
        .run("BEGIN", &[])
        .run("INSERT INTO t VALUES (3)", &[])
        .sync();
    assert_eq!(client.run(batch).status(), Some('T'));
    assert_eq!(client.run(Batch::new().run("COMMIT", &[]).sync()).status(), Some('I'));
    assert_eq!(stand.direct("SELECT string_agg(a::text, ',' ORDER BY a) FROM t"), "1,3");
    // Several batches at once, BEGIN alone in the first.
    let batch =
        Batch::new().run("BEGIN", &[]).sync().run("INSERT INTO t VALUES (4)", &[]).sync().run("COMMIT", &[]).sync();
    client.send(&batch.0);
    let states: String = (0..3).filter_map(|_| client.answer().status()).collect();
    assert_eq!(states, "TTI");
    assert_eq!(stand.direct("SELECT max(a) FROM t"), "4");
}

#[test]
fn megabytes_in_both_directions_at_once() {
    let stand = one_server();
    let mut client = stand.client();
    let value = "x".repeat(100_000);
    client.run(Batch::new().parse("echo", "SELECT $1::text || $1::text").sync());
    let mut batch = Batch::new();
    for number in 0..60 {
        batch = if number % 2 == 0 {
            batch.run_prepared("echo", &[&value])
        } else {
            batch.run("SELECT $1::text || $1::text", &[&value])
        };
    }
    let batch = batch.sync();
    assert!(batch.0.len() > 5_000_000);
    // All of it is written before anything is read, as libpq's pipeline mode may do: somebody has to buffer.
    let writer = thread::spawn(move || {
        client.send(&batch.0);
        client
    });
    let mut client = writer.join().expect("the writer is not blocked for ever");
    let answer = client.answer();
    assert_eq!(answer.error(), None);
    assert_eq!(answer.column().iter().map(String::len).collect::<Vec<_>>(), vec![200_000; 60]);
    assert_eq!(client.value("SELECT 1"), "1");
}

#[test]
fn a_batch_arrives_byte_by_byte() {
    let stand = one_server();
    let mut client = stand.client();
    let batch = Batch::new().parse("slow", "SELECT $1::int").run_prepared("slow", &["7"]).sync().query("SELECT 8");
    for byte in &batch.0 {
        client.send(std::slice::from_ref(byte));
    }
    assert_eq!(client.answer().column(), ["7"]);
    assert_eq!(client.answer().column(), ["8"]);
}

#[test]
fn a_simple_query_inside_an_open_pipeline_ends_it() {
    let stand = one_server();
    let (mut client, mut other) = (stand.client(), stand.client());
    client.send(&Batch::new().run("SELECT 1", &[]).query("SELECT 2").0);
    let answer = client.answer();
    assert_eq!(answer.column(), ["1", "2"]);
    assert_eq!(other.value("SELECT 3"), "3");
    stand.assert_healthy();
}

#[test]
fn a_query_behind_an_error_in_an_open_pipeline_is_ignored() {
    let stand = Stand::start(&["default_pool_size = 1"]);
    let mut client = stand.client();
    client.send(&Batch::new().execute("nothing", 0).flush().0);
    assert_eq!(client.read().tag, b'E');
    assert_eq!(client.run(Batch::new().query("SELECT 1").run("SELECT 2", &[]).sync()).tags(), "Z");
    assert_eq!(client.value("SELECT 3"), "3");
}

#[test]
fn a_lazily_begun_transaction_takes_a_batch_of_several_statements() {
    let stand = Stand::start(&["default_pool_size = 1"]);
    let mut client = stand.client();
    client.ok("CREATE TABLE kept (a int)");
    client.ok("BEGIN");
    let batch = Batch::new().run("SET LOCAL work_mem = '7MB'", &[]).run("SHOW work_mem", &[]).sync();
    assert_eq!(client.run(batch).column(), ["7MB"]);
    client.ok("COMMIT");
    assert_eq!(client.value("SHOW work_mem"), "4MB");
    client.ok("BEGIN");
    let batch = Batch::new()
        .run("SAVEPOINT a", &[])
        .run("INSERT INTO kept VALUES (1)", &[])
        .run("RELEASE a", &[])
        .run("SAVEPOINT b", &[])
        .run("INSERT INTO kept VALUES (2)", &[])
        .run("ROLLBACK TO b", &[])
        .sync();
    assert_eq!(client.run(batch).error(), None);
    client.ok("COMMIT");
    assert_eq!(client.ok("SELECT a FROM kept").column(), ["1"]);
    client.ok("BEGIN");
    assert_eq!(client.ok("INSERT INTO kept VALUES (3); COMMIT; SELECT 7").column(), ["7"]);
    assert_eq!(client.ok("SELECT a FROM kept").column(), ["1", "3"]);
}

#[test]
fn what_is_bound_and_not_executed_has_no_effect() {
    let stand = Stand::start(&["default_pool_size = 1"]);
    let mut client = stand.client();
    for sql in ["BEGIN", "SET work_mem = '7MB'"] {
        let answer = client.run(Batch::new().parse("", sql).bind("", "", &[]).sync());
        assert_eq!(answer.error().expect("refused").code, "0A000", "{sql}");
        assert_eq!(answer.status(), Some('I'));
        let batch = Batch::new().execute("nothing", 0).parse("", sql).bind("", "", &[]).sync();
        assert_eq!(client.run(batch).status(), Some('I'), "{sql}");
    }
    assert_eq!(client.value("SHOW work_mem"), "4MB");
}
