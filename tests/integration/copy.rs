//! COPY in both directions, in both protocols, to its end or not.

use crate::support::{Batch, Client, Stand, eventually};

fn stand() -> Stand {
    let stand = Stand::start(&["default_pool_size = 1"]);
    stand.direct("CREATE TABLE t (a int, b text)");
    stand
}

fn start_copy(client: &mut Client, sql: &str) {
    client.send_query(sql);
    assert_eq!(client.until(b'G').tags(), "G");
}

fn rows(count: usize) -> Vec<u8> {
    (0..count).flat_map(|number| format!("{number}\trow {number}\n").into_bytes()).collect()
}

#[test]
fn copy_in_and_out_by_simple_query() {
    let stand = stand();
    let mut client = stand.client();
    start_copy(&mut client, "COPY t FROM STDIN");
    let answer = client.run(Batch::new().copy_data(&rows(3)).copy_data(b"3\trow 3\n").copy_done());
    assert_eq!((answer.completed(), answer.status()), (vec!["COPY 4".to_owned()], Some('I')));
    let out = client.ok("COPY t TO STDOUT");
    assert_eq!(out.tags(), "HddddcCZ");
    assert_eq!(client.value("SELECT count(*) FROM t"), "4");
    stand.assert_healthy();
}

/// A client that doesn't wait for CopyInResponse. Rows were lost that came before it.
#[test]
fn data_may_come_before_they_are_asked_for() {
    let stand = stand();
    let copy = || Batch::new().run("COPY t FROM STDIN", &[]);
    let row = |number: u32| format!("{number}\tx\n").into_bytes();
    let mut client = stand.client();
    for (what, pieces, tags, rows) in [
        ("at once", vec![copy().copy_data(&row(1)).copy_data(&row(2)).copy_done().sync()], "12GCZ", 2),
        ("in two", vec![copy().copy_data(&row(1)), Batch::new().copy_data(&row(2)).copy_done().sync()], "12GCZ", 2),
        (
            "a flush inside",
            vec![copy().copy_data(&row(1)).flush(), Batch::new().copy_data(&row(2)).copy_done().sync()],
            "12GCZ",
            2,
        ),
        ("Sync first", vec![copy().sync().copy_data(&row(1)).copy_done().sync()], "12GCZ", 1),
        ("no row", vec![copy().copy_done().sync()], "12GCZ", 0),
        ("given up", vec![copy().copy_data(&row(1)).copy_fail("enough").sync()], "12GEZ", 0),
        ("a row that is none", vec![copy().copy_data(b"x\n").copy_data(&row(1)).copy_done().sync()], "12GEZ", 0),
        ("no COPY", vec![Batch::new().run("SELECT 1", &[]).copy_data(&row(1)).copy_done().sync()], "12DCZ", 0),
    ] {
        for piece in pieces {
            client.send(&piece.0);
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        assert_eq!(client.answer().tags(), tags, "{what}");
        assert_eq!(client.value("SELECT count(*) FROM t"), rows.to_string(), "{what}");
        client.ok("TRUNCATE t");
    }
    client.send(
        &copy().copy_data(&row(1)).copy_done().run("COPY t FROM STDIN", &[]).copy_data(&row(2)).copy_done().sync().0,
    );
    let error = client.until_closed().error().expect("refused");
    assert_eq!(
        (&*error.severity, &*error.code),
        ("FATAL", "0A000"),
        "which of the two the server asks for is not known"
    );
    assert_eq!(stand.client().value("SELECT count(*) FROM t"), "0");
    stand.assert_healthy();
}

#[test]
fn copy_in_and_out_by_the_extended_protocol() {
    let stand = stand();
    let mut client = stand.client();
    // As libpq does: Sync goes ahead of the data, and PostgreSQL ignores it.
    client.send(&Batch::new().run("COPY t FROM STDIN", &[]).sync().0);
    assert_eq!(client.until(b'G').tags(), "12G");
    let answer = client.run(Batch::new().copy_data(&rows(5)).copy_done().sync());
    assert_eq!((answer.completed(), answer.status()), (vec!["COPY 5".to_owned()], Some('I')));
    // Without the early Sync.
    client.send(&Batch::new().parse("c", "COPY t FROM STDIN").run_prepared("c", &[]).flush().0);
    client.until(b'G');
    let answer = client.run(Batch::new().copy_data(&rows(2)).copy_done().sync());
    assert_eq!(answer.completed(), ["COPY 2"]);
    let out = client.run(Batch::new().run("COPY t TO STDOUT", &[]).sync());
    assert_eq!(out.tags(), "12HdddddddcCZ");
    assert_eq!(client.value("SELECT count(*) FROM t"), "7");
    stand.assert_healthy();
}

#[test]
fn a_copy_that_the_client_gives_up() {
    let stand = stand();
    let mut client = stand.client();
    start_copy(&mut client, "COPY t FROM STDIN");
    let answer = client.run(Batch::new().copy_data(&rows(3)).copy_fail("changed my mind"));
    let error = answer.error().expect("it failed");
    assert_eq!((error.code.as_str(), answer.status()), ("57014", Some('I')));
    assert!(error.message.contains("changed my mind"), "{error}");
    client.send(&Batch::new().run("COPY t FROM STDIN", &[]).sync().0);
    client.until(b'G');
    let answer = client.run(Batch::new().copy_fail("again").sync());
    assert_eq!((answer.error().expect("it failed").code.as_str(), answer.status()), ("57014", Some('I')));
    assert_eq!(client.value("SELECT count(*) FROM t"), "0");
    stand.assert_healthy();
}

#[test]
fn a_copy_that_the_server_gives_up() {
    let stand = stand();
    let (mut client, mut other) = (stand.client(), stand.client());
    start_copy(&mut client, "COPY t FROM STDIN");
    client.send(&Batch::new().copy_data(b"no number\tx\n").0);
    let answer = client.answer();
    assert_eq!((answer.error().expect("it failed").code.as_str(), answer.status()), ("22P02", Some('I')));
    // The server is free, although this client's data is still coming.
    assert_eq!(other.value("SELECT 1"), "1");
    client.send(&Batch::new().copy_data(&rows(100)).copy_done().0);
    assert_eq!(client.value("SELECT count(*) FROM t"), "0");
    // The same in the extended protocol: everything up to Sync is skipped.
    client.send(&Batch::new().run("COPY t FROM STDIN", &[]).sync().0);
    client.until(b'G');
    client.send(&Batch::new().copy_data(b"no number\tx\n").copy_data(&rows(100)).copy_done().sync().0);
    let answer = client.answer();
    assert_eq!((answer.error().expect("it failed").code.as_str(), answer.status()), ("22P02", Some('I')));
    assert_eq!(client.value("SELECT 2"), "2");
    assert_eq!(other.value("SELECT 3"), "3");
    // Nobody else gets the server while it waits for that Sync.
    client.send(&Batch::new().run("COPY t FROM STDIN", &[]).sync().0);
    client.until(b'G');
    client.send(&Batch::new().copy_data(b"no number\tx\n").0);
    assert_eq!(client.read().tag, b'E');
    other.send_query("SELECT 4");
    assert!(other.is_silent_for(std::time::Duration::from_millis(200)));
    client.send(&Batch::new().copy_data(&rows(5)).copy_done().sync().0);
    assert_eq!(client.answer().tags(), "Z");
    assert_eq!(other.answer().column(), ["4"]);
    stand.assert_healthy();
}

#[test]
fn copy_inside_a_transaction() {
    let stand = stand();
    let mut client = stand.client();
    client.ok("BEGIN");
    start_copy(&mut client, "COPY t FROM STDIN");
    let answer = client.run(Batch::new().copy_data(&rows(10)).copy_done());
    assert_eq!(answer.status(), Some('T'));
    assert_eq!(client.value("SELECT count(*) FROM t"), "10");
    client.ok("ROLLBACK");
    assert_eq!(client.value("SELECT count(*) FROM t"), "0");
    client.ok("BEGIN");
    start_copy(&mut client, "COPY t FROM STDIN");
    let answer = client.run(Batch::new().copy_data(b"x\n").copy_done());
    assert_eq!(answer.status(), Some('E'));
    client.ok("ROLLBACK");
    stand.assert_healthy();
}

#[test]
fn copies_and_queries_in_one_message() {
    let stand = stand();
    let mut client = stand.client();
    client.send_query("SELECT 1; COPY t FROM STDIN; SELECT count(*) FROM t; COPY t TO STDOUT; COPY t FROM STDIN");
    client.until(b'G');
    client.send(&Batch::new().copy_data(&rows(2)).copy_done().0);
    assert_eq!(client.until(b'G').tags(), "CTDCHddcCG");
    let answer = client.run(Batch::new().copy_data(&rows(1)).copy_done());
    assert_eq!((answer.completed(), answer.status()), (vec!["COPY 1".to_owned()], Some('I')));
    assert_eq!(client.value("SELECT count(*) FROM t"), "3");
    stand.assert_healthy();
}

#[test]
fn fifty_megabytes_in_and_out_with_little_memory() {
    let stand = stand();
    let mut client = stand.client();
    let before = stand.sluice.memory();
    start_copy(&mut client, "COPY t FROM STDIN");
    let line = format!("1\t{}\n", "x".repeat(1000));
    let chunk = Batch::new().copy_data(line.repeat(100).as_bytes());
    for _ in 0..520 {
        client.send(&chunk.0);
    }
    let answer = client.run(Batch::new().copy_done());
    assert_eq!(answer.completed(), ["COPY 52000"]);
    client.send_query("COPY t TO STDOUT");
    let mut bytes = 0;
    loop {
        let message = client.read();
        match message.tag {
            b'd' => bytes += message.body.len(),
            b'Z' => break,
            _ => {}
        }
    }
    assert_eq!(bytes, 52_000 * line.len());
    let grown = stand.sluice.memory().saturating_sub(before);
    assert!(grown < 20 << 20, "memory grew by {grown} bytes");
}

#[test]
fn a_client_that_dies_during_copy_in_loads_nothing() {
    let stand = stand();
    let mut dying = stand.client();
    start_copy(&mut dying, "COPY t FROM STDIN");
    dying.send(&Batch::new().copy_data(&rows(1000)).0);
    drop(dying);
    stand.assert_healthy();
    assert_eq!(stand.direct("SELECT count(*) FROM t"), "0");
}

#[test]
fn a_client_that_dies_during_copy_out_stops_it() {
    let stand = stand();
    let mut dying = stand.client();
    dying.send_query("COPY (SELECT repeat('x', 1000) FROM generate_series(1, 10000000)) TO STDOUT");
    dying.until(b'd');
    drop(dying);
    eventually("the COPY is stopped", || stand.servers("query LIKE 'COPY%' AND state = 'active'") == 0);
    stand.assert_healthy();
}

#[test]
fn a_query_during_copy_in_is_refused() {
    let stand = stand();
    let mut client = stand.client();
    start_copy(&mut client, "COPY t FROM STDIN");
    client.send_query("SELECT 1");
    let error = client.until_closed().error().expect("a refusal");
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "08P01"));
    stand.assert_healthy();
    assert_eq!(stand.direct("SELECT count(*) FROM t"), "0");
}
