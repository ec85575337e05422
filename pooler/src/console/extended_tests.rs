//! Tests of the extended protocol, on bytes.

use sluice_wire::frame::Frames;

use super::*;

fn tags(out: &[u8]) -> String {
    Frames::new(out).map(|frame| char::from(frame.expect("a frame").tag)).collect()
}

fn parse_body(name: &str, sql: &str) -> Vec<u8> {
    format!("{name}\0{sql}\0\0\0").into_bytes()
}

/// A Bind of the unnamed portal, without parameters.
fn bind_body(statement: &str, formats: &[i16]) -> Vec<u8> {
    let mut body = format!("\0{statement}\0\0\0\0\0").into_bytes();
    body.extend((formats.len() as u16).to_be_bytes());
    body.extend(formats.iter().flat_map(|format| format.to_be_bytes()));
    body
}

fn sent(extended: &mut Extended, tag: u8, body: &[u8]) -> Result<String, Report> {
    let mut out = Vec::new();
    extended.on_message(tag, body, &mut out).map(|()| tags(&out))
}

#[test]
fn a_command_is_prepared_described_and_bound() {
    let mut extended = Extended::default();
    assert_eq!(sent(&mut extended, b'P', &parse_body("s", "SHOW TOTALS")).as_deref(), Ok("1"));
    assert_eq!(sent(&mut extended, b'D', b"Ss\0").as_deref(), Ok("tT"));
    assert_eq!(sent(&mut extended, b'B', &bind_body("s", &[1])).as_deref(), Ok("2"));
    let mut out = Vec::new();
    extended.on_message(b'D', b"P\0", &mut out).expect("described");
    assert_eq!(out[out.len() - 2..], [0, 1], "the portal's columns are binary");
    assert_eq!(sent(&mut extended, b'C', b"Ss\0").as_deref(), Ok("3"));
    assert_eq!(sent(&mut extended, b'D', b"Ss\0").expect_err("closed").sqlstate, "26000");
}

#[test]
fn a_command_without_rows_has_no_data() {
    let mut extended = Extended::default();
    sent(&mut extended, b'P', &parse_body("", "RELOAD")).expect("parsed");
    assert_eq!(sent(&mut extended, b'D', b"S\0").as_deref(), Ok("tn"));
}

#[test]
fn rows_come_in_portions() {
    let mut extended = Extended::default();
    sent(&mut extended, b'P', &parse_body("", "SHOW VERSION")).expect("parsed");
    sent(&mut extended, b'B', &bind_body("", &[])).expect("bound");
    let mut portal = extended.take_portal(b"").expect("the portal");
    portal.start("SHOW", vec![vec!["a".into()], vec!["b".into()], vec!["c".into()]]);
    let mut send = |limit| {
        let mut out = Vec::new();
        portal.send(limit, &mut out);
        tags(&out)
    };
    assert_eq!(send(2), "DDs");
    assert_eq!(send(2), "DC");
    assert_eq!(send(0), "C");
}

#[test]
fn portals_end_at_sync_and_statements_stay() {
    let mut extended = Extended::default();
    sent(&mut extended, b'P', &parse_body("s", "SHOW POOLS")).expect("parsed");
    sent(&mut extended, b'B', &bind_body("s", &[])).expect("bound");
    extended.sync();
    assert_eq!(extended.take_portal(b"").map(|_| ()).expect_err("gone").sqlstate, "34000");
    assert_eq!(sent(&mut extended, b'D', b"Ss\0").as_deref(), Ok("tT"));
}

#[test]
fn mistakes_have_their_sqlstates() {
    let mut extended = Extended::default();
    sent(&mut extended, b'P', &parse_body("s", "SHOW POOLS")).expect("parsed");
    let code = |result: Result<String, Report>| result.expect_err("a mistake").sqlstate;
    assert_eq!(code(sent(&mut extended, b'P', &parse_body("s", "SHOW POOLS"))), "42P05");
    assert_eq!(code(sent(&mut extended, b'P', &parse_body("t", "SELECT $1"))), "08P01");
    assert_eq!(code(sent(&mut extended, b'B', &bind_body("other", &[]))), "26000");
    assert_eq!(code(sent(&mut extended, b'B', &bind_body("s", &[0, 1]))), "08P01");
    assert_eq!(code(sent(&mut extended, b'B', &bind_body("s", &[2]))), "22023");
    let with_parameter = b"\0s\0\0\0\0\x01\0\0\0\x01x\0\0";
    assert_eq!(code(sent(&mut extended, b'B', with_parameter)), "08P01");
    let malformed = sent(&mut extended, b'B', b"\0s").expect_err("cut short");
    assert_eq!(malformed.severity, sluice_wire::message::Severity::Fatal);
}

#[test]
fn statements_have_a_limit() {
    let mut extended = Extended::default();
    for number in 0..MAX_STATEMENTS {
        sent(&mut extended, b'P', &parse_body(&format!("s{number}"), "SHOW POOLS")).expect("room");
    }
    assert_eq!(sent(&mut extended, b'P', &parse_body("more", "SHOW POOLS")).expect_err("full").sqlstate, "53400");
}
