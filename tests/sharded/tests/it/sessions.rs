//! What a session brings along: several statements at once, pipelines, settings that change how text is read, encodings.

use crate::support::client::{Answer, Client, INT8, Value, flush, statement, sync};
use crate::support::fleet::Fleet;

fn count(organization: i64) -> String {
    format!("SELECT count(*) FROM members WHERE organization_id = {organization}")
}

#[test]
fn several_statements_of_one_text_run_on_one_shard_or_not_at_all() {
    let fleet = Fleet::start().filled();
    let sluice = fleet.sluice();
    let mut client = sluice.connect("epfo");
    let [a, b] = fleet.spread(2)[..] else { unreachable!() };
    let insert =
        |organization: i64, id: i64| format!("INSERT INTO members (organization_id, id) VALUES ({organization}, {id})");
    let answer = client.query(&format!("{}; {}; SELECT 1", insert(a, 50), count(a))).ok();
    assert_eq!(answer.rows, ["6", "1"]);
    let answer = client.query(&format!("{}; {}", insert(a, 51), insert(b, 51)));
    assert_eq!((answer.code(), answer.status), ("0A000", 'I'));
    let answer = client.query(&format!("{}; SELECT 1/0", insert(a, 52)));
    assert_eq!(answer.code(), "22012");
    assert_eq!(client.query(&count(a)).value(), "6", "the text was one transaction");
    let answer = client.query(&format!("BEGIN; {}; COMMIT", insert(a, 53))).ok();
    assert_eq!((answer.tags.len(), answer.status), (3, 'I'));
    // A block that goes on, on the shard where it began.
    assert_eq!(client.query(&format!("BEGIN; {}", insert(a, 54))).ok().status, 'T');
    assert_eq!(client.query(&count(a)).value(), "8");
    let answer = client.query(&count(b));
    assert_eq!((answer.code(), answer.status), ("0A000", 'E'));
    assert_eq!(client.query("ROLLBACK").ok().status, 'I');
    assert_eq!(client.query(&count(a)).value(), "7");
}

#[test]
fn pipelines_are_right_or_refused() {
    let fleet = Fleet::start().filled();
    let sluice = fleet.sluice();
    let mut client = sluice.connect("epfo");
    let [a, b] = fleet.spread(2)[..] else { unreachable!() };
    let update = |organization: i64| {
        let sql = "UPDATE accounts SET balance = balance + 1 WHERE organization_id = $1";
        statement(sql, &[INT8], &[Value::from(organization)], 0)
    };
    // A Sync behind each: two requests, sent at once.
    client.send(&[update(a), sync(), update(b), sync()]);
    for _ in 0..2 {
        assert_eq!(client.read_answer().ok().tags, ["UPDATE 1"]);
    }
    // One Sync: they would have to succeed or fail as one.
    client.send(&[update(a), update(b), sync()]);
    let answer = client.read_answer();
    assert_eq!((answer.code(), answer.status), ("0A000", 'I'));
    // One shard: right.
    client.send(&[update(a), update(a), sync()]);
    assert_eq!(client.read_answer().ok().tags, ["UPDATE 1", "UPDATE 1"]);
    // In a block, too.
    client.query("BEGIN").ok();
    client.send(&[update(a), sync(), update(b), sync()]);
    for _ in 0..2 {
        assert_eq!(client.read_answer().ok().status, 'T');
    }
    client.query("COMMIT").ok();
    // The whole transaction in one go, on one shard.
    let none = |sql: &str| statement(sql, &[], &[], 0);
    client.send(&[none("BEGIN"), update(a), none("COMMIT"), sync()]);
    assert_eq!(client.read_answer().ok().tags, ["BEGIN", "UPDATE 1", "COMMIT"]);
    let balances = "SELECT balance FROM accounts WHERE organization_id = ";
    assert_eq!(client.query(&format!("{balances}{a}")).value(), "1005");
    assert_eq!(client.query(&format!("{balances}{b}")).value(), "1002");
    // A pipeline that was flushed has begun on its shard.
    client.send(&[update(a), flush(), update(b), sync()]);
    let answer = client.read_answer();
    assert!(answer.errors.iter().any(|error| error.code == "0A000"), "{answer:?}");
    let mut client = sluice.connect("epfo");
    assert_eq!(client.query(&format!("{balances}{a}")).value(), "1005", "an error before Sync rolls back");
}

#[test]
fn rows_can_be_fetched_in_portions() {
    let fleet = Fleet::start().filled();
    let sluice = fleet.sluice();
    let mut client = sluice.connect("epfo");
    let [a] = fleet.spread(1)[..] else { unreachable!() };
    let sql = "SELECT id FROM members WHERE organization_id = $1 ORDER BY id";
    client.send(&[statement(sql, &[INT8], &[a.into()], 2), sync()]);
    let answer = client.read_answer().ok();
    assert_eq!((answer.rows.len(), answer.suspended), (2, true));
    client.query("BEGIN").ok();
    client.send(&[statement(sql, &[INT8], &[a.into()], 2), flush()]);
    client.send(&[crate::support::client::message(b'E', b"\0\0\0\0\0"), sync()]);
    assert_eq!(client.read_answer().ok().rows, ["1", "2", "3", "4", "5"]);
    client.query("COMMIT").ok();
}

/// What backslashes mean changes where a string ends, and so what the statement's key is.
#[test]
fn old_string_syntax_does_not_mislead_routing() {
    let fleet = Fleet::start().filled();
    let sluice = fleet.sluice();
    let [a, b] = fleet.spread(2)[..] else { unreachable!() };
    let tricky = format!(
        "SELECT count(*) FROM members WHERE name <> '\\' AND organization_id = {a} --' AND organization_id = {b}\n"
    );
    let mut truth = fleet.truth();
    let check = |client: &mut Client, truth: &mut Client, when: &str| {
        let wanted = truth.query(&tricky);
        let answer = client.query(&tricky);
        let refused = answer.errors.first().is_some_and(|error| error.code == "0A000");
        assert!(
            refused || (answer.rows == wanted.rows && answer.errors.is_empty() == wanted.errors.is_empty()),
            "{when}: {answer:?} is not {wanted:?}"
        );
    };
    let mut client = sluice.connect("epfo");
    let both = |client: &mut Client, truth: &mut Client, sql: &str| {
        let (answer, wanted): (Answer, Answer) = (client.query(sql), truth.query(sql));
        assert_eq!(answer.errors.is_empty(), wanted.errors.is_empty(), "{sql}: {answer:?}");
    };
    check(&mut client, &mut truth, "at first");
    both(&mut client, &mut truth, "SET standard_conforming_strings = off");
    check(&mut client, &mut truth, "when off");
    both(&mut client, &mut truth, "RESET standard_conforming_strings");
    check(&mut client, &mut truth, "after RESET");
    // Over two shards, so that the end is not relayed from one server.
    for end in ["ROLLBACK", "COMMIT"] {
        both(&mut client, &mut truth, "BEGIN");
        both(&mut client, &mut truth, &count(a));
        both(&mut client, &mut truth, "SET LOCAL standard_conforming_strings = off");
        check(&mut client, &mut truth, "when off in a block");
        both(&mut client, &mut truth, &count(b));
        check(&mut client, &mut truth, "when off on two shards");
        both(&mut client, &mut truth, end);
        check(&mut client, &mut truth, end);
    }
    both(&mut client, &mut truth, "BEGIN");
    both(&mut client, &mut truth, &count(a));
    both(&mut client, &mut truth, &count(b));
    both(&mut client, &mut truth, "SET standard_conforming_strings = off");
    check(&mut client, &mut truth, "when set on two shards");
    both(&mut client, &mut truth, "COMMIT");
    check(&mut client, &mut truth, "when committed on two shards");
    both(&mut client, &mut truth, "SELECT set_config('standard_conforming_strings', 'on', false)");
    check(&mut client, &mut truth, "after set_config");
    if let Ok(mut client) = Client::try_connect(&sluice.socket(), "epfo", &[("standard_conforming_strings", "off")]) {
        truth.query("SET standard_conforming_strings = off").ok();
        check(&mut client, &mut truth, "from the start");
    }
}

/// In these encodings a byte of a character may look like a quote or a backslash.
#[test]
fn encodings_that_mislead_are_refused() {
    let fleet = Fleet::start().filled();
    let sluice = fleet.sluice();
    let [a] = fleet.spread(1)[..] else { unreachable!() };
    for encoding in ["SJIS", "big5", "GBK", "'UHC'", "gb18030", "JOHAB", "SHIFT_JIS_2004"] {
        let name = encoding.trim_matches('\'');
        let Err(answer) = Client::try_connect(&sluice.socket(), "epfo", &[("client_encoding", name)]) else {
            panic!("a login with {name} went through")
        };
        assert_eq!(answer.errors[0].severity, "FATAL", "{answer:?}");
        let mut client = sluice.connect("epfo");
        for sql in [
            format!("SET client_encoding = {encoding}"),
            format!("SET client_encoding TO '{name}'"),
            format!("SET NAMES '{name}'"),
            format!("SELECT set_config('client_encoding', '{name}', false)"),
            format!("SET LOCAL client_encoding = {encoding}"),
        ] {
            let answer = client.query(&sql);
            assert_eq!((answer.code(), answer.status), ("0A000", 'I'), "{sql}");
            assert_eq!(client.extended(&sql, &[], &[]).code(), "0A000", "{sql}");
        }
        let answer = client.extended("SELECT set_config('client_encoding', $1, false)", &[], &[name.into()]);
        assert_eq!(answer.code(), "0A000");
        assert_eq!(client.query("SHOW client_encoding").value(), "UTF8");
        assert_eq!(client.query(&count(a)).value(), "5");
    }
    for encoding in ["UTF8", "utf-8", "LATIN1", "SQL_ASCII", "WIN1252", "EUC_JP"] {
        let mut client = Client::try_connect(&sluice.socket(), "epfo", &[("client_encoding", encoding)])
            .unwrap_or_else(|answer| panic!("{answer:?}"));
        client.query(&format!("SET client_encoding = '{encoding}'")).ok();
        client.query("RESET client_encoding").ok();
        client.query("SET client_encoding TO DEFAULT").ok();
        assert_eq!(client.query(&count(a)).value(), "5");
    }
}

#[test]
fn what_keeps_a_session_on_its_server_is_refused_with_a_hint() {
    let fleet = Fleet::start().filled();
    let sluice = fleet.sluice();
    let mut client = sluice.connect("epfo");
    let [a] = fleet.spread(1)[..] else { unreachable!() };
    for sql in [
        "LISTEN news".to_owned(),
        "CREATE TEMP TABLE t (x int)".to_owned(),
        format!("PREPARE p AS {}", count(a)),
        "EXECUTE p".to_owned(),
        format!("SELECT unknown_function(id) FROM members WHERE organization_id = {a}"),
        format!("DECLARE c CURSOR WITH HOLD FOR {}", count(a)),
        format!("SELECT * INTO TEMP t FROM members WHERE organization_id = {a}"),
        "PREPARE TRANSACTION 'mine'".to_owned(),
        "COMMIT PREPARED 'mine'".to_owned(),
    ] {
        for answer in [client.query(&sql), client.extended(&sql, &[], &[])] {
            let [error] = &answer.errors[..] else { panic!("{sql}: {answer:?}") };
            assert_eq!(error.code, "0A000", "{sql}: {error:?}");
            assert!(!error.hint.is_empty() || !error.detail.is_empty(), "{sql}: {error:?}");
        }
    }
    assert_eq!(client.query(&count(a)).value(), "5");
}

#[test]
fn a_session_lock_does_not_cut_off_other_shards() {
    let fleet = Fleet::start().filled();
    let sluice = fleet.sluice();
    let (mut first, mut second) = (sluice.connect("epfo"), sluice.connect("epfo"));
    assert_eq!(first.query("SELECT pg_try_advisory_lock(5)").value(), "t");
    assert_eq!(second.query("SELECT pg_try_advisory_lock(5)").value(), "f", "the lock is one for all");
    for organization in fleet.spread(4) {
        let answer = first.query(&count(organization));
        assert!(answer.rows == ["5"] || answer.code() == "0A000", "{answer:?}");
        assert_eq!(answer.status, 'I', "the session goes on");
    }
    first.query("BEGIN").ok();
    for organization in fleet.spread(4) {
        assert_eq!(first.query(&count(organization)).value(), "5");
    }
    first.query("COMMIT").ok();
    assert_eq!(second.query("SELECT pg_try_advisory_lock(5)").value(), "f", "and still held");
    assert_eq!(first.query("SELECT pg_advisory_unlock(5)").value(), "t");
    for organization in fleet.spread(4) {
        assert_eq!(first.query(&count(organization)).value(), "5");
    }
    assert_eq!(second.query("SELECT pg_try_advisory_lock(5)").value(), "t");
}

#[test]
fn a_session_lock_of_a_transaction_over_shards_outlives_it() {
    let fleet = Fleet::start().filled();
    let sluice = fleet.sluice();
    let (mut first, mut second) = (sluice.connect("epfo"), sluice.connect("epfo"));
    let away = fleet.spread(4).into_iter().filter(|&organization| fleet.shard_of(organization) > 0).take(2);
    first.query("BEGIN").ok();
    assert_eq!(first.query("SELECT pg_try_advisory_lock(6)").value(), "t");
    for organization in away {
        first.query(&format!("UPDATE accounts SET balance = 1 WHERE organization_id = {organization}")).ok();
    }
    for end in ["COMMIT AND CHAIN", "ROLLBACK AND CHAIN", "COMMIT"] {
        first.query(end).ok();
        assert_eq!(second.query("SELECT pg_try_advisory_lock(6)").value(), "f", "{end}");
    }
    assert_eq!(first.query("SELECT pg_advisory_unlock(6)").value(), "t");
    assert_eq!(second.query("SELECT pg_try_advisory_lock(6)").value(), "t");
    assert_eq!(second.query("SELECT pg_advisory_unlock(6)").value(), "t");
}

#[test]
fn search_path_decides_which_table_is_meant() {
    let fleet = Fleet::start().filled();
    fleet.on_all("CREATE SCHEMA archive; CREATE TABLE archive.members (organization_id bigint, id bigint)");
    fleet.on_catalog("INSERT INTO sluice.tables VALUES ('epfo', 'archive', 'members', 'home', '{organization_id,id}')");
    let sluice = fleet.sluice();
    let mut client = sluice.connect("epfo");
    let all = "SELECT count(*) FROM members";
    assert_eq!(client.query(all).code(), "0A000");
    client.query("SET search_path = archive, public").ok();
    assert_eq!(client.query(all).value(), "0");
    client.query("RESET search_path").ok();
    assert_eq!(client.query(all).code(), "0A000");
    for end in ["COMMIT", "ROLLBACK"] {
        client.query("BEGIN").ok();
        client.query("SET LOCAL search_path TO archive").ok();
        assert_eq!(client.query(all).value(), "0");
        client.query(end).ok();
        assert_eq!(client.query(all).code(), "0A000");
    }
    // Behind a change in the same text.
    let answer = client.query(&format!("SET search_path = archive; {all}"));
    assert!(answer.rows == ["0"] || answer.code() == "0A000", "{answer:?}");
}
