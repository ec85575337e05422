//! Prepared statements of the extended protocol in transaction pooling: a client's names hold on whichever server it gets.

use crate::support::{Batch, Client, Stand};

fn one_server() -> Stand {
    Stand::start(&["default_pool_size = 1"])
}

fn warm_up(stand: &Stand) -> (Client, Client) {
    let (mut one, mut two) = (stand.client(), stand.client());
    one.ok("BEGIN");
    two.ok("BEGIN");
    assert_ne!(one.backend(), two.backend());
    one.ok("COMMIT");
    two.ok("COMMIT");
    (one, two)
}

fn prepare(client: &mut Client, name: &str, sql: &str) {
    let answer = client.run(Batch::new().parse(name, sql).describe_statement(name).sync());
    assert_eq!(answer.error(), None, "{sql}");
    assert!(answer.tags().starts_with("1t"), "{}", answer.tags());
}

fn execute(client: &mut Client, name: &str, values: &[&str]) -> Vec<String> {
    let answer = client.run(Batch::new().run_prepared(name, values).sync());
    assert_eq!(answer.error(), None, "{name}");
    answer.column()
}

/// Statements that the pool's servers have, as PostgreSQL sees them.
fn on_server(client: &mut Client) -> usize {
    client.value("SELECT count(*) FROM pg_prepared_statements").parse().expect("a count")
}

#[test]
fn a_statement_follows_its_client_to_other_servers() {
    let stand = Stand::start(&["default_pool_size = 2", "server_round_robin = 1"]);
    let (mut client, _other) = warm_up(&stand);
    prepare(&mut client, "add", "SELECT $1::int + $2::int, pg_backend_pid()");
    let mut backends = std::collections::HashSet::new();
    for number in 0..6 {
        let answer = client.run(Batch::new().run_prepared("add", &["40", &number.to_string()]).sync());
        let row = answer.rows().remove(0);
        assert_eq!(row[0].as_deref(), Some((40 + number).to_string().as_str()));
        backends.insert(row[1].clone());
    }
    assert_eq!(backends.len(), 2);
}

#[test]
fn the_same_name_means_different_statements_to_different_clients() {
    let stand = one_server();
    let (mut one, mut two) = (stand.client(), stand.client());
    prepare(&mut one, "q", "SELECT 'one'");
    prepare(&mut two, "q", "SELECT 'two'");
    for _ in 0..3 {
        assert_eq!(execute(&mut one, "q", &[]), ["one"]);
        assert_eq!(execute(&mut two, "q", &[]), ["two"]);
    }
}

#[test]
fn clients_that_prepare_the_same_text_share_one_statement_of_the_server() {
    let stand = one_server();
    for number in 0..5 {
        let mut client = stand.client();
        let name = format!("mine_{number}");
        prepare(&mut client, &name, "SELECT $1::text || '!'");
        assert_eq!(execute(&mut client, &name, &["hi"]), ["hi!"]);
        assert_eq!(on_server(&mut client), 1);
    }
}

#[test]
fn the_least_recently_used_statement_is_evicted_and_comes_back() {
    let stand = Stand::start(&["default_pool_size = 1", "max_prepared_statements = 3"]);
    let mut client = stand.client();
    for number in 0..8 {
        prepare(&mut client, &format!("s{number}"), &format!("SELECT {number}"));
        assert!(on_server(&mut client) <= 3);
    }
    for number in (0..8).rev().chain(0..8) {
        assert_eq!(execute(&mut client, &format!("s{number}"), &[]), [number.to_string()]);
    }
    assert_eq!(on_server(&mut client), 3);
    // All at once: more than the server may keep.
    let batch = (0..8).fold(Batch::new(), |batch, number| batch.run_prepared(&format!("s{number}"), &[]));
    assert_eq!(client.run(batch.sync()).column(), ["0", "1", "2", "3", "4", "5", "6", "7"]);
    assert_eq!(on_server(&mut client), 3);
}

#[test]
fn a_statement_that_does_not_parse_is_not_remembered() {
    let stand = one_server();
    let (mut one, mut two) = (stand.client(), stand.client());
    for client in [&mut one, &mut two, &mut stand.client()] {
        let answer = client.run(Batch::new().parse("bad", "SELECT * FROM missing").sync());
        assert_eq!(answer.error().expect("no such table").code, "42P01");
    }
    stand.direct("CREATE TABLE missing AS SELECT 5 AS a");
    prepare(&mut one, "bad", "SELECT * FROM missing");
    assert_eq!(execute(&mut one, "bad", &[]), ["5"]);
    // The other client's attempt failed: there is nothing to bind.
    let answer = two.run(Batch::new().run_prepared("bad", &[]).sync());
    assert_eq!(answer.error().expect("no such statement").code, "26000");
    assert_eq!(two.value("SELECT 1"), "1");
}

#[test]
fn statements_behind_an_error_in_their_pipeline_are_not_there() {
    let stand = one_server();
    let mut client = stand.client();
    let batch = Batch::new()
        .parse("good", "SELECT 1")
        .run("SELECT 1/0", &[])
        .parse("late", "SELECT 2")
        .run_prepared("late", &[])
        .sync();
    let answer = client.run(batch);
    assert_eq!(answer.error().expect("division by zero").code, "22012");
    assert_eq!(answer.status(), Some('I'));
    // PostgreSQL keeps what was parsed before the error.
    assert_eq!(execute(&mut client, "good", &[]), ["1"]);
    prepare(&mut client, "late", "SELECT 3");
    assert_eq!(execute(&mut client, "late", &[]), ["3"]);
    // Another client is not fooled either.
    let mut other = stand.client();
    prepare(&mut other, "x", "SELECT 2");
    assert_eq!(execute(&mut other, "x", &[]), ["2"]);
}

#[test]
fn a_close_behind_an_error_did_not_happen() {
    let stand = one_server();
    let mut client = stand.client();
    prepare(&mut client, "q", "SELECT 1");
    let answer = client.run(Batch::new().run("SELECT 1/0", &[]).close_statement("q").sync());
    assert_eq!(answer.tags().chars().filter(|&tag| tag == '3').count(), 0);
    assert_eq!(execute(&mut client, "q", &[]), ["1"]);
}

#[test]
fn names_are_free_again_after_close() {
    let stand = one_server();
    let mut client = stand.client();
    prepare(&mut client, "q", "SELECT 1");
    let taken = client.run(Batch::new().parse("q", "SELECT 2").sync());
    assert_eq!(taken.error().expect("taken").code, "42P05");
    let batch = Batch::new()
        .close_statement("q")
        .parse("q", "SELECT 2")
        .run_prepared("q", &[])
        .close_statement("q")
        .close_statement("never")
        .sync();
    let answer = client.run(batch);
    assert_eq!((answer.tags().as_str(), answer.column()), ("312DC33Z", vec!["2".to_owned()]));
    let gone = client.run(Batch::new().run_prepared("q", &[]).sync());
    assert_eq!(gone.error().expect("gone").code, "26000");
}

#[test]
fn deallocate_all_and_discard_all_forget_everything() {
    let stand = one_server();
    let (mut client, mut other) = (stand.client(), stand.client());
    for forget in ["DEALLOCATE ALL", "DISCARD ALL"] {
        prepare(&mut client, "q", "SELECT 1");
        prepare(&mut other, "q", "SELECT 'other'");
        client.ok(forget);
        let gone = client.run(Batch::new().run_prepared("q", &[]).sync());
        assert_eq!(gone.error().expect("gone").code, "26000", "{forget}");
        prepare(&mut client, "q", "SELECT 2");
        assert_eq!(execute(&mut client, "q", &[]), ["2"]);
        // Another client's name outlives it, although the server's statement is gone.
        assert_eq!(execute(&mut other, "q", &[]), ["other"]);
        client.run(Batch::new().close_statement("q").sync());
        other.run(Batch::new().close_statement("q").sync());
    }
    // The extended protocol's DISCARD ALL does the same.
    prepare(&mut client, "q", "SELECT 1");
    assert_eq!(client.run(Batch::new().run("DISCARD ALL", &[]).sync()).error(), None);
    assert_eq!(client.run(Batch::new().run_prepared("q", &[]).sync()).error().expect("gone").code, "26000");
}

#[test]
fn the_unnamed_statement_survives_another_clients_turn() {
    let stand = one_server();
    let (mut one, mut two) = (stand.client(), stand.client());
    let described = one.run(Batch::new().parse("", "SELECT $1::int * 2").describe_statement("").sync());
    assert_eq!(described.tags(), "1tTZ");
    two.run(Batch::new().run("SELECT 'in between'", &[]).sync());
    assert_eq!(one.run(Batch::new().bind("", "", &["21"]).execute("", 0).sync()).column(), ["42"]);
    two.ok("SELECT 'a simple query destroys the unnamed statement, too'");
    assert_eq!(one.run(Batch::new().describe_statement("").bind("", "", &["4"]).execute("", 0).sync()).column(), ["8"]);
}

#[test]
fn describe_tells_parameters_and_columns_on_any_server() {
    let stand = Stand::start(&["default_pool_size = 2", "server_round_robin = 1"]);
    let (mut client, _other) = warm_up(&stand);
    client.run(Batch::new().parse("d", "SELECT $1::int8 AS number, $2::text AS words").sync());
    for _ in 0..3 {
        let answer = client.run(Batch::new().describe_statement("d").sync());
        assert_eq!(answer.tags(), "tTZ");
        assert_eq!(answer.messages[0].body, [0, 2, 0, 0, 0, 20, 0, 0, 0, 25]);
    }
    client.run(Batch::new().parse("n", "CREATE TABLE IF NOT EXISTS x (a int)").sync());
    assert_eq!(client.run(Batch::new().describe_statement("n").sync()).tags(), "tnZ");
    let unknown = client.run(Batch::new().describe_statement("unknown").sync());
    assert_eq!((unknown.error().expect("unknown").code.as_str(), unknown.status()), ("26000", Some('I')));
}

#[test]
fn a_portal_is_read_in_pieces() {
    let stand = one_server();
    let mut client = stand.client();
    prepare(&mut client, "numbers", "SELECT generate_series(1, 5)");
    client.ok("BEGIN");
    let first = client.run(Batch::new().bind("p", "numbers", &[]).execute("p", 2).sync());
    assert_eq!((first.tags().as_str(), first.column()), ("2DDsZ", vec!["1".to_owned(), "2".to_owned()]));
    let second = client.run(Batch::new().execute("p", 2).sync());
    assert_eq!(second.column(), ["3", "4"]);
    let last = client.run(Batch::new().execute("p", 2).close_portal("p").sync());
    assert_eq!((last.tags().as_str(), last.column()), ("DC3Z", vec!["5".to_owned()]));
    client.ok("COMMIT");
    stand.assert_healthy();
}

#[test]
fn a_portal_is_read_in_pieces_by_a_client_that_only_flushes() {
    let stand = one_server();
    let mut client = stand.client();
    client.send(&Batch::new().parse("", "SELECT generate_series(1, 5)").bind("", "", &[]).execute("", 2).flush().0);
    assert_eq!(client.until(b's').column(), ["1", "2"]);
    client.send(&Batch::new().execute("", 2).flush().0);
    assert_eq!(client.until(b's').column(), ["3", "4"]);
    client.send(&Batch::new().execute("", 0).flush().0);
    assert_eq!(client.until(b'C').column(), ["5"]);
    client.send(&Batch::new().sync().0);
    assert_eq!(client.answer().tags(), "Z");
    stand.assert_healthy();
}

#[test]
fn a_client_that_only_flushes_gets_every_answer_at_once() {
    let stand = one_server();
    let mut client = stand.client();
    for round in 0..3 {
        let name = format!("f{round}");
        client.send(&Batch::new().parse(&name, "SELECT $1::int").flush().0);
        assert_eq!(client.read().tag, b'1');
        client.send(&Batch::new().describe_statement(&name).flush().0);
        assert_eq!(client.until(b'T').tags(), "tT");
        client.send(&Batch::new().bind("", &name, &["3"]).flush().0);
        assert_eq!(client.read().tag, b'2');
        client.send(&Batch::new().execute("", 0).flush().0);
        assert_eq!(client.until(b'C').column(), ["3"]);
        client.send(&Batch::new().close_statement(&name).flush().0);
        assert_eq!(client.read().tag, b'3');
        client.send(&Batch::new().sync().0);
        assert_eq!(client.answer().tags(), "Z");
    }
    // An error is told at once, too, and everything up to Sync is skipped.
    client.send(&Batch::new().parse("", "SELECT nonsense").flush().0);
    assert_eq!(client.read().tag, b'E');
    client.send(&Batch::new().bind("", "", &[]).execute("", 0).flush().0);
    client.send(&Batch::new().sync().0);
    assert_eq!(client.answer().tags(), "Z");
    // So are statements whose Parse would not even be sent on.
    prepare(&mut client, "known", "SELECT 7");
    client.send(&Batch::new().run("SELECT nonsense", &[]).flush().0);
    assert_eq!(client.read().tag, b'E');
    client.send(&Batch::new().parse("again", "SELECT 7").run_prepared("again", &[]).close_statement("known").flush().0);
    client.send(&Batch::new().sync().0);
    assert_eq!(client.answer().tags(), "Z");
    assert_eq!(execute(&mut client, "known", &[]), ["7"]);
    assert_eq!(client.run(Batch::new().run_prepared("again", &[]).sync()).error().expect("never parsed").code, "26000");
    stand.assert_healthy();
}

#[test]
fn an_answer_of_ours_waits_for_those_before_it() {
    let stand = one_server();
    let mut client = stand.client();
    prepare(&mut client, "known", "SELECT 7");
    client.send(
        &Batch::new()
            .run("SELECT 1 FROM pg_sleep(0.3)", &[])
            .flush()
            .parse("again", "SELECT 7")
            .run_prepared("again", &[])
            .flush()
            .0,
    );
    client.send(&Batch::new().close_statement("again").sync().0);
    assert_eq!(client.answer().tags(), "12DC12DC3Z");
}

#[test]
fn without_tracking_names_belong_to_the_server() {
    let stand = Stand::start(&["default_pool_size = 1", "max_prepared_statements = 0"]);
    let mut client = stand.client();
    let batch = Batch::new().parse("mine", "SELECT 5").run_prepared("mine", &[]).sync();
    assert_eq!(client.run(batch).column(), ["5"]);
    assert_eq!(client.value("SELECT name FROM pg_prepared_statements"), "mine");
}

#[test]
fn a_statement_whose_table_has_changed_is_planned_again() {
    let stand = one_server();
    stand.direct("CREATE TABLE t AS SELECT 1 AS a");
    let mut client = stand.client();
    prepare(&mut client, "q", "SELECT * FROM t");
    assert_eq!(execute(&mut client, "q", &[]), ["1"]);
    stand.direct("ALTER TABLE t ADD b int DEFAULT 2");
    let answer = client.run(Batch::new().run_prepared("q", &[]).sync());
    assert_eq!(answer.error().expect("PostgreSQL's own refusal").code, "0A000");
    client.run(Batch::new().close_statement("q").sync());
    prepare(&mut client, "q", "SELECT a, b FROM t");
    assert_eq!(execute(&mut client, "q", &[]), ["1"]);
}

#[test]
fn what_stands_before_an_unknown_statement_is_run() {
    let stand = Stand::start(&["default_pool_size = 1"]);
    let (mut other, mut client) = (stand.client(), stand.client());
    other.ok("PREPARE ghost AS SELECT 'another client''s'");
    other.run(Batch::new().parse("", "SELECT 'another client''s'").sync());
    let batches = [
        Batch::new().parse("s1", "SELECT 1").bind("", "ghost", &[]).execute("", 0).sync(),
        Batch::new().parse("s2", "SELECT 1").bind("", "SLUICE_00000001", &[]).execute("", 0).sync(),
        Batch::new().parse("s3", "SELECT 1").bind("", "", &[]).execute("", 0).sync(),
        Batch::new().parse("s4", "SELECT 1").describe_statement("ghost").sync(),
        Batch::new().parse("s5", "SELECT 1").describe_statement("").sync(),
    ];
    for (number, batch) in batches.into_iter().enumerate() {
        let answer = client.run(batch);
        assert_eq!((answer.tags().as_str(), answer.error().expect("an error").code.as_str()), ("1EZ", "26000"));
        let batch = Batch::new().run_prepared(&format!("s{}", number + 1), &[]).sync();
        assert_eq!(client.run(batch).column(), ["1"], "what came before the error is prepared");
    }
    for batch in [
        Batch::new().bind("", "", &[]).execute("", 0).sync(),
        Batch::new().describe_statement("").sync(),
        Batch::new().bind("", "ghost", &[]).execute("", 0).sync(),
    ] {
        assert_eq!(client.run(batch).error().expect("an error").code, "26000");
    }
    let answer = client.run(Batch::new().parse("s9", "SELECT 9").parse("s9", "SELECT 10").sync());
    assert_eq!((answer.tags().as_str(), answer.error().expect("an error").code.as_str()), ("1EZ", "42P05"));
    assert_eq!(client.run(Batch::new().run_prepared("s9", &[]).sync()).column(), ["9"]);
    assert_eq!(other.value("EXECUTE ghost"), "another client's");
}

#[test]
fn a_simple_query_ends_the_unnamed_statement() {
    let stand = Stand::start(&["default_pool_size = 1"]);
    let mut client = stand.client();
    client.run(Batch::new().parse("", "SELECT 1").sync());
    assert_eq!(client.run(Batch::new().run_prepared("", &[]).sync()).column(), ["1"]);
    client.ok("SELECT 2");
    assert_eq!(client.run(Batch::new().run_prepared("", &[]).sync()).error().expect("it is gone").code, "26000");
}

#[test]
fn the_unnamed_statement_is_the_one_that_was_parsed_last() {
    let stand = Stand::start(&["default_pool_size = 2", "server_round_robin = 1"]);
    let (mut client, mut other) = (stand.client(), stand.client());
    client.ok("BEGIN; SELECT 1");
    other.ok("SELECT 1");
    client.ok("COMMIT");
    let backend = client.run(Batch::new().run("SELECT pg_backend_pid(), 'first'", &[]).sync()).column();
    client.run(Batch::new().parse("", "SELECT pg_backend_pid(), 'second'").sync());
    for _ in 0..4 {
        let row = client.run(Batch::new().run_prepared("", &[]).sync()).rows().remove(0);
        assert_eq!(row[1].as_deref(), Some("second"), "on {row:?}, the first ran on {backend:?}");
    }
}

#[test]
fn an_unnamed_parse_that_the_server_ignored_is_not_believed_to_be_there() {
    let stand = Stand::start(&["default_pool_size = 1"]);
    let (mut client, mut other) = (stand.client(), stand.client());
    other.run(Batch::new().parse("", "SELECT 'another client''s'").sync());
    let answer = client.run(Batch::new().bind("", "ghost", &[]).parse("", "SELECT 'mine'").sync());
    assert!(answer.error().is_some());
    other.run(Batch::new().parse("", "SELECT 'another client''s'").sync());
    let answer = client.run(Batch::new().execute("ghost", 0).parse("", "SELECT 'mine'").sync());
    assert!(answer.error().is_some());
    let answer = client.run(Batch::new().run_prepared("", &[]).sync());
    assert_ne!(answer.column(), ["another client's"]);
}

#[test]
fn an_unnamed_statement_that_was_never_parsed_is_nobodys() {
    let stand = one_server();
    let (mut client, mut other) = (stand.client(), stand.client());
    let bind = || Batch::new().run_prepared("", &[]).sync();
    let parse = |sql: &str| Batch::new().parse("", sql).sync();
    client.run(parse("SELECT 'mine'"));
    assert_eq!(other.run(bind()).error().expect("it never parsed one").code, "26000");
    client.run(parse("SELECT 'mine'"));
    // Its Parse was skipped, because of the error before it.
    assert_eq!(other.run(Batch::new().run_prepared("none", &[]).run("SELECT 1", &[]).sync()).tags(), "EZ");
    assert_eq!(other.run(bind()).error().expect("it never parsed one").code, "26000");
    client.run(parse("SELECT 'mine'"));
    assert_eq!(other.run(Batch::new().describe_statement("").sync()).error().expect("nothing").code, "26000");
    assert_eq!(client.run(bind()).column(), ["mine"]);
}

#[test]
fn a_name_that_is_wrong_fails_at_its_place_in_the_pipeline() {
    let stand = one_server();
    let mut client = stand.client();
    // What comes before is answered, and stays.
    let answer = client.run(Batch::new().parse("a", "SELECT 1").run_prepared("b", &[]).sync());
    assert_eq!((&*answer.tags(), &*answer.error().expect("no b").code), ("1EZ", "26000"));
    let answer = client.run(Batch::new().run_prepared("a", &[]).parse("a", "SELECT 2").parse("c", "SELECT 3").sync());
    assert_eq!((&*answer.tags(), &*answer.error().expect("a is taken").code), ("2DCEZ", "42P05"));
    // In an open pipeline, too; and behind an error, nobody looks.
    client.send(&Batch::new().parse("d", "SELECT 4").flush().0);
    assert_eq!(client.read().tag, b'1');
    client.send(&Batch::new().run_prepared("b", &[]).flush().0);
    assert_eq!(client.read().tag, b'E');
    let answer = client.run(Batch::new().run_prepared("b", &[]).parse("a", "SELECT 5").sync());
    assert_eq!((&*answer.tags(), answer.status()), ("Z", Some('I')));
    assert_eq!(execute(&mut client, "d", &[]), ["4"]);
    stand.assert_healthy();
}

#[test]
fn statements_are_where_an_error_left_them() {
    let stand = Stand::start(&["default_pool_size = 1", "max_prepared_statements = 2"]);
    let mut client = stand.client();
    // More statements than the server may keep, none of which it ever sees.
    let batch =
        Batch::new().run("SELECT 1/0", &[]).parse("a", "SELECT 1").parse("b", "SELECT 2").parse("c", "SELECT 3");
    assert_eq!(client.run(batch.sync()).error().expect("division by zero").code, "22012");
    for name in ["a", "b", "c"] {
        prepare(&mut client, name, &format!("SELECT {}", name.as_bytes()[0] - b'a' + 1));
    }
    for (name, value) in [("a", "1"), ("b", "2"), ("c", "3"), ("a", "1")] {
        assert_eq!(execute(&mut client, name, &[]), [value]);
    }
}
