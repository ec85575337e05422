//! PREPARE, EXECUTE and DEALLOCATE by SQL, on servers that clients share.

use crate::support::{Batch, Client, Stand};

/// Two servers, handed out in turn, and a client that hops from one to the other.
fn hopping(settings: &[&str]) -> (Stand, Client, Client) {
    let stand = Stand::start(&[&["default_pool_size = 2", "server_round_robin = 1"], settings].concat());
    let (mut one, mut two) = (stand.client(), stand.client());
    one.ok("BEGIN; SELECT 1");
    two.ok("BEGIN; SELECT 1");
    one.ok("COMMIT");
    two.ok("COMMIT");
    assert_ne!(one.backend(), one.backend(), "the servers are not handed out in turn");
    (stand, one, two)
}

fn refused(client: &mut Client, sql: &str, code: &str) {
    let error = client.query(sql).error().unwrap_or_else(|| panic!("{sql} should fail"));
    assert_eq!(error.code, code, "{sql}: {error}");
}

#[test]
fn a_statement_goes_with_its_client() {
    let (_stand, mut client, _) = hopping(&[]);
    client.ok("PREPARE add (int, int) AS SELECT $1 + $2 -- its comment\n;");
    for round in 0..4 {
        assert_eq!(client.value(&format!("EXECUTE add ({round}, 1)")), (round + 1).to_string());
    }
    assert_ne!(client.backend(), client.backend(), "it keeps no server");
    refused(&mut client, "PREPARE add AS SELECT 1", "42P05");
    refused(&mut client, "PREPARE add AS SELECT 1", "42P05");
    client.ok("DEALLOCATE add");
    refused(&mut client, "EXECUTE add (1, 2)", "26000");
    refused(&mut client, "EXECUTE add (1, 2)", "26000");
    refused(&mut client, "DEALLOCATE add", "26000");
    client.ok("PREPARE add AS SELECT 'another'");
    for _ in 0..3 {
        assert_eq!(client.value("EXECUTE add"), "another");
    }
}

#[test]
fn one_name_means_to_each_client_what_it_prepared() {
    let (_stand, mut one, mut two) = hopping(&[]);
    one.ok("PREPARE q AS SELECT 'one'");
    two.ok("PREPARE q AS SELECT 'two'");
    let mut third = _stand.client();
    for _ in 0..4 {
        assert_eq!(one.value("EXECUTE q"), "one");
        assert_eq!(two.value("EXECUTE q"), "two");
        refused(&mut third, "EXECUTE q", "26000");
        refused(&mut third, "DEALLOCATE q", "26000");
    }
    one.ok("DEALLOCATE q");
    refused(&mut one, "EXECUTE q", "26000");
    assert_eq!(two.value("EXECUTE q"), "two");
    drop(two);
    refused(&mut one, "EXECUTE q", "26000");
}

#[test]
fn it_is_not_transactional() {
    let (_stand, mut client, _) = hopping(&[]);
    client.ok("BEGIN");
    client.ok("PREPARE q AS SELECT 1");
    assert_eq!(client.value("EXECUTE q"), "1");
    client.ok("ROLLBACK");
    for _ in 0..3 {
        client.ok("BEGIN");
        assert_eq!(client.value("EXECUTE q"), "1");
        client.ok("COMMIT");
    }
    client.ok("BEGIN");
    client.ok("DEALLOCATE q");
    client.ok("ROLLBACK");
    refused(&mut client, "EXECUTE q", "26000");
    client.ok("BEGIN");
    refused(&mut client, "SELECT 1/0", "22012");
    refused(&mut client, "EXECUTE q", "25P02");
    refused(&mut client, "DEALLOCATE q", "25P02");
    client.ok("ROLLBACK");
}

#[test]
fn several_statements_in_one_text() {
    let (_stand, mut client, _) = hopping(&[]);
    let answer = client.ok("PREPARE a AS SELECT 1; PREPARE b AS SELECT 2; EXECUTE b; EXECUTE a");
    assert_eq!(answer.column(), ["2", "1"]);
    for _ in 0..3 {
        assert_eq!(client.ok("EXECUTE a; EXECUTE b").column(), ["1", "2"]);
    }
    // What was done before the error stays done: PREPARE and DEALLOCATE are no part of the transaction.
    refused(&mut client, "DEALLOCATE a; PREPARE c AS SELECT 3; SELECT 1/0; DEALLOCATE b", "22012");
    for _ in 0..3 {
        refused(&mut client, "EXECUTE a", "26000");
        assert_eq!(client.ok("EXECUTE b; EXECUTE c").column(), ["2", "3"]);
    }
    client.ok("DEALLOCATE ALL");
    for name in ["a", "b", "c"] {
        refused(&mut client, &format!("EXECUTE {name}"), "26000");
    }
}

#[test]
fn errors_point_into_the_clients_text() {
    let (_stand, mut client, _) = hopping(&[]);
    client.ok("PREPARE q (int) AS SELECT $1");
    for _ in 0..3 {
        let answer = client.query("EXECUTE q (nonsense)");
        let body = &answer.messages.iter().find(|message| message.tag == b'E').expect("an error").body;
        let position = sluice_wire::frame::error_field(body, b'P').expect("a position");
        assert_eq!(position, b"12");
    }
}

#[test]
fn other_statements_may_execute_it() {
    let (_stand, mut client, _) = hopping(&[]);
    client.ok("PREPARE rows (int) AS SELECT generate_series(1, $1)");
    for round in 1..4 {
        client.ok(&format!("CREATE TABLE made_{round} AS EXECUTE rows ({round})"));
        assert_eq!(client.value(&format!("SELECT count(*) FROM made_{round}")), round.to_string());
        assert!(client.ok("EXPLAIN (COSTS OFF) EXECUTE rows (2)").column()[0].contains("ProjectSet"));
    }
}

#[test]
fn the_protocol_sees_it_too() {
    let (_stand, mut client, _) = hopping(&[]);
    client.ok("PREPARE q (int) AS SELECT $1 * 2");
    for _ in 0..3 {
        let batch = Batch::new().bind("", "q", &["21"]).describe_portal("").execute("", 0).sync();
        assert_eq!(client.run(batch).column(), ["42"]);
        assert_eq!(client.run(Batch::new().describe_statement("q").sync()).tags(), "tTZ");
    }
    let taken = client.run(Batch::new().parse("q", "SELECT 1").sync());
    assert_eq!(taken.error().expect("the name is taken").code, "42P05");
    assert_eq!(client.run(Batch::new().close_statement("q").sync()).tags(), "3Z");
    refused(&mut client, "EXECUTE q (1)", "26000");
    assert_eq!(client.run(Batch::new().parse("q", "SELECT 7").sync()).tags(), "1Z");
    refused(&mut client, "PREPARE q AS SELECT 1", "42P05");
    refused(&mut client, "EXECUTE q", "0A000");
    for _ in 0..3 {
        assert_eq!(client.run(Batch::new().run_prepared("q", &[]).sync()).column(), ["7"]);
    }
}

#[test]
fn deallocate_frees_a_name_of_the_protocol() {
    let (_stand, mut client, _) = hopping(&[]);
    // By a simple query, as PDO does; inside a transaction; and by the extended protocol.
    for round in 0..4 {
        assert_eq!(client.run(Batch::new().parse("pdo", "SELECT 7").sync()).tags(), "1Z");
        assert_eq!(client.run(Batch::new().run_prepared("pdo", &[]).sync()).column(), ["7"]);
        match round {
            0 | 1 => assert_eq!(client.ok("DEALLOCATE pdo").completed(), ["DEALLOCATE"]),
            2 => {
                client.ok("BEGIN");
                client.ok("DEALLOCATE PREPARE \"pdo\"");
                client.ok("COMMIT");
            }
            _ => assert_eq!(client.run(Batch::new().run("DEALLOCATE pdo", &[]).sync()).tags(), "12CZ"),
        }
        let error = client.run(Batch::new().run_prepared("pdo", &[]).sync()).error().expect("it is gone");
        assert_eq!(error.code, "26000");
    }
}

#[test]
fn a_plan_is_not_older_than_its_client() {
    let (stand, mut one, mut two) = hopping(&[]);
    stand.direct("CREATE TABLE changing (a int)");
    stand.direct("INSERT INTO changing VALUES (1)");
    one.ok("PREPARE q AS SELECT * FROM changing");
    for _ in 0..3 {
        assert_eq!(one.ok("EXECUTE q").rows()[0].len(), 1);
    }
    stand.direct("ALTER TABLE changing ADD b int");
    two.ok("PREPARE q AS SELECT * FROM changing");
    for _ in 0..4 {
        assert_eq!(two.ok("EXECUTE q").rows()[0].len(), 2);
    }
}

#[test]
fn what_cannot_be_prepared_again_keeps_its_server() {
    let (stand, mut client, mut other) = hopping(&[]);
    stand.direct("CREATE TYPE mood AS ENUM ('fine')");
    for sql in ["PREPARE q (mood) AS SELECT $1", "PREPARE q (text) AS SELECT $1, E'\\\\'"] {
        client.ok(sql);
        let backend = client.backend();
        for _ in 0..4 {
            other.ok("SELECT 1");
            assert_eq!((client.value("EXECUTE q ('fine')"), client.backend()), ("fine".to_owned(), backend.clone()));
        }
        assert_eq!(client.run(Batch::new().bind("", "q", &["fine"]).execute("", 0).sync()).column(), ["fine"]);
        client.ok("DEALLOCATE q");
        assert_ne!(client.backend(), client.backend(), "{sql}");
    }
}

#[test]
fn what_it_leaves_is_known_at_each_execution() {
    let (_stand, mut client, mut other) = hopping(&[]);
    client.ok("PREPARE lock AS SELECT pg_advisory_lock(5)");
    let backend = client.backend();
    for _ in 0..4 {
        other.ok("SELECT 1");
        assert_eq!(client.backend(), backend, "it may hold a lock that is not to be lost");
    }
    client.ok("DEALLOCATE lock");
    other.ok("CREATE FUNCTION sets() RETURNS text LANGUAGE sql AS $$ SELECT set_config('work_mem', '77MB', false) $$");
    other.ok("PREPARE sets AS SELECT sets()");
    let mut third = _stand.client();
    for _ in 0..3 {
        assert_eq!(other.value("EXECUTE sets"), "77MB");
        assert_eq!(third.value("SHOW work_mem"), "4MB", "what a function sets stays with its client");
    }
}

#[test]
fn the_view_shows_ones_own_statements() {
    let (_stand, mut one, mut two) = hopping(&[]);
    one.ok("PREPARE mine AS SELECT 1");
    two.ok("PREPARE yours AS SELECT 2");
    for _ in 0..4 {
        let names = "SELECT name FROM pg_prepared_statements WHERE from_sql ORDER BY name";
        assert_eq!(one.ok(names).column(), ["mine"]);
        assert_eq!(two.ok(names).column(), ["yours"]);
    }
}

#[test]
fn a_server_holds_no_more_than_it_should() {
    let (stand, mut client, _) = hopping(&["max_prepared_statements = 3"]);
    for number in 0..8 {
        client.ok(&format!("PREPARE q{number} AS SELECT {number}"));
    }
    for number in (0..8).rev().chain(0..8) {
        assert_eq!(client.value(&format!("EXECUTE q{number}")), number.to_string());
    }
    let mut other = stand.client();
    other.ok("DO 'BEGIN END'");
    assert_eq!(other.ok("SELECT count(*) FROM pg_prepared_statements").column(), ["0"]);
}

#[test]
fn without_tracking_it_keeps_its_server() {
    let (_stand, mut client, mut other) = hopping(&["max_prepared_statements = 0"]);
    client.ok("PREPARE q AS SELECT 1");
    for _ in 0..4 {
        other.ok("SELECT 1");
        assert_eq!(client.value("EXECUTE q"), "1");
    }
    let (one, two) = (client.backend(), client.backend());
    assert_eq!(one, two);
}

#[test]
fn a_pipeline_that_would_need_it_elsewhere_is_told_so() {
    let (_stand, mut client, _) = hopping(&[]);
    client.ok("PREPARE q AS SELECT 1");
    client.ok("SELECT 1");
    client.send(&Batch::new().run("SELECT 5", &[]).flush().0);
    for tag in *b"12DC" {
        assert_eq!(client.read().tag, tag);
    }
    client.send(&Batch::new().run("EXECUTE q", &[]).sync().0);
    let answer = client.answer();
    match answer.error() {
        Some(error) => assert_eq!(error.code, "0A000"),
        None => assert_eq!(answer.column(), ["1"]),
    }
}

#[test]
fn a_literal_means_what_its_clients_settings_say() {
    let (_stand, mut one, mut two) = hopping(&[]);
    one.ok("SET datestyle = 'ISO, DMY'");
    two.ok("SET datestyle = 'ISO, MDY'");
    one.ok("PREPARE q AS SELECT date '01/02/2020'");
    two.ok("PREPARE q AS SELECT date '01/02/2020'");
    for _ in 0..3 {
        assert_eq!(one.value("EXECUTE q"), "2020-02-01");
        assert_eq!(two.value("EXECUTE q"), "2020-01-02");
    }
    // As PostgreSQL does, by what held when it was prepared.
    one.ok("SET datestyle = 'ISO, MDY'");
    for _ in 0..4 {
        assert_eq!(one.value("EXECUTE q"), "2020-02-01");
        assert_eq!(one.value("SELECT date '01/02/2020'"), "2020-01-02");
    }
    // Nothing else of the session changes with that, inside a transaction neither.
    one.ok("SET ROLE pg_read_all_data");
    for _ in 0..4 {
        // On both servers.
        two.ok("EXECUTE q");
        two.ok("EXECUTE q");
        one.ok("BEGIN");
        one.ok("SET LOCAL ROLE pg_monitor");
        assert_eq!(one.value("EXECUTE q"), "2020-02-01");
        assert_eq!(one.value("SELECT date '01/02/2020' || current_user::text"), "2020-01-02pg_monitor");
        one.ok("COMMIT");
    }
    one.ok("RESET ROLE");
    one.ok("BEGIN");
    one.ok("SET LOCAL datestyle = 'ISO, DMY'");
    one.ok("PREPARE r AS SELECT date '01/02/2020'");
    one.ok("COMMIT");
    two.ok("PREPARE r AS SELECT date '01/02/2020'");
    for _ in 0..4 {
        one.ok("EXECUTE r");
        assert_eq!(two.value("EXECUTE r"), "2020-01-02");
    }
}

#[test]
fn tables_of_one_name_in_two_schemas() {
    let stand = Stand::start(&["default_pool_size = 1"]);
    stand.direct("CREATE SCHEMA s1; CREATE TABLE s1.t AS SELECT 1 AS a");
    stand.direct("CREATE SCHEMA s2; CREATE TABLE s2.t AS SELECT 'x' AS a, 2 AS b");
    let (mut one, mut two) = (stand.client(), stand.client());
    one.ok("SET search_path = s1");
    two.ok("SET search_path = s2");
    one.ok("PREPARE q AS SELECT * FROM t");
    two.ok("PREPARE q AS SELECT * FROM t");
    for _ in 0..3 {
        assert_eq!(one.value("EXECUTE q"), "1");
        assert_eq!(two.value("EXECUTE q"), "x");
    }
}

#[test]
fn a_literal_of_the_protocols_statements_means_it_as_well() {
    let stand = Stand::start(&["default_pool_size = 1"]);
    let (mut one, mut two) = (stand.client(), stand.client());
    one.ok("SET datestyle = 'ISO, DMY'");
    two.ok("SET datestyle = 'ISO, MDY'");
    for client in [&mut one, &mut two] {
        client.run(Batch::new().parse("q", "SELECT date '01/02/2020'").sync());
    }
    let a = one.run(Batch::new().run_prepared("q", &[]).sync()).column();
    let b = two.run(Batch::new().run_prepared("q", &[]).sync()).column();
    assert_eq!((a, b), (vec!["2020-02-01".to_owned()], vec!["2020-01-02".to_owned()]));
}

#[test]
fn settings_of_the_same_batch_count_as_well() {
    let stand = Stand::start(&["default_pool_size = 1"]);
    let (mut one, mut two) = (stand.client(), stand.client());
    let sql = "SELECT date '01/02/2020'";
    one.run(Batch::new().run("SET datestyle = 'ISO, DMY'", &[]).parse("q", sql).sync());
    one.ok("BEGIN");
    one.ok("SET LOCAL datestyle = 'ISO, YMD'");
    one.ok("COMMIT");
    two.ok("BEGIN; SET LOCAL datestyle = 'ISO, DMY'");
    two.run(Batch::new().parse("local", sql).sync());
    two.ok("COMMIT");
    two.run(Batch::new().parse("q", sql).sync());
    assert_eq!(one.run(Batch::new().run_prepared("q", &[]).sync()).column(), ["2020-02-01"]);
    assert_eq!(two.run(Batch::new().run_prepared("q", &[]).sync()).column(), ["2020-01-02"]);
}
