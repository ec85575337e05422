//! What the clients send, and what the canned backend answers: made once, sent many times.

use sluice_wire::message::{self, Column, Status};
use sluice_wire::startup::startup_message;

use crate::fleet::{KEYS, USER};

/// pgbench's names for the ways to send a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    Simple,
    Extended,
    Prepared,
}

impl Protocol {
    pub const ALL: [Self; 3] = [Self::Simple, Self::Extended, Self::Prepared];

    pub fn name(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Extended => "extended",
            Self::Prepared => "prepared",
        }
    }
}

/// Different requests of a protocol that a run cycles through: enough that all shards are hit evenly.
const VARIANTS: usize = 4096;
/// Name of the clients' prepared statement, as pgbench would choose it.
const STATEMENT: &[u8] = b"P_0";
const TEXT: &str = "SELECT abalance FROM pgbench_accounts WHERE organization_id = ";
const INT4: u32 = 23;

/// A client's part of the conversation.
#[derive(Debug)]
pub struct Requests {
    pub startup: Vec<u8>,
    /// Sent once, after the login.
    pub prepare: Option<Vec<u8>>,
    variants: Vec<Vec<u8>>,
}

impl Requests {
    pub fn new(protocol: Protocol, database: &str) -> Self {
        let prepare = (protocol == Protocol::Prepared).then(|| {
            let mut out = Vec::new();
            message::parse(&mut out, STATEMENT, &parse_tail());
            out.extend_from_slice(&message::SYNC);
            out
        });
        Self {
            startup: startup_message(0, [("user", USER), ("database", database)]),
            prepare,
            variants: (0..VARIANTS).map(|number| request(protocol, key(number))).collect(),
        }
    }

    /// The request number `number`; they repeat.
    pub fn request(&self, number: usize) -> &[u8] {
        &self.variants[number % VARIANTS]
    }
}

/// Spreads the variants over all keys, in no order: the multiplier is prime and larger than the number of keys.
fn key(number: usize) -> u64 {
    (number as u64 * 2_654_435_761) % u64::from(KEYS) + 1
}

/// Text and no declared types, as libpq sends them.
fn parse_tail() -> Vec<u8> {
    let mut tail = format!("{TEXT}$1;").into_bytes();
    tail.extend_from_slice(&[0, 0, 0]);
    tail
}

/// What libpq sends for one execution.
fn request(protocol: Protocol, key: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let statement: &[u8] = match protocol {
        Protocol::Simple => {
            message::query(&mut out, format!("{TEXT}{key};").as_bytes());
            return out;
        }
        Protocol::Extended => {
            message::parse(&mut out, b"", &parse_tail());
            b""
        }
        Protocol::Prepared => STATEMENT,
    };
    message::bind(&mut out, b"", statement, &bind_tail(key));
    message::frame(&mut out, b'D', |out| out.extend_from_slice(b"P\0"));
    message::frame(&mut out, b'E', |out| out.extend_from_slice(&[0; 5]));
    out.extend_from_slice(&message::SYNC);
    out
}

/// One parameter in text form, results in text form.
fn bind_tail(key: u64) -> Vec<u8> {
    let key = key.to_string();
    let mut tail = vec![0, 0, 0, 1];
    tail.extend_from_slice(&(key.len() as u32).to_be_bytes());
    tail.extend_from_slice(key.as_bytes());
    tail.extend_from_slice(&[0, 1, 0, 0]);
    tail
}

/// The canned backend's part of the conversation.
#[derive(Debug)]
pub struct Answers {
    pub welcome: Vec<u8>,
    pub row_description: Vec<u8>,
    /// The row and CommandComplete.
    pub rows: Vec<u8>,
    pub no_rows: Vec<u8>,
    /// CommandComplete of whatever returns no rows.
    pub done: Vec<u8>,
}

impl Default for Answers {
    fn default() -> Self {
        let mut answers = Self {
            welcome: welcome(),
            row_description: Vec::new(),
            rows: Vec::new(),
            no_rows: Vec::new(),
            done: Vec::new(),
        };
        message::row_description(&mut answers.row_description, [(Column { name: "abalance", oid: INT4 }, 0)]);
        message::data_row(&mut answers.rows, [Some(&b"0"[..])].into_iter());
        message::command_complete(&mut answers.rows, "SELECT 1");
        message::command_complete(&mut answers.no_rows, "SELECT 0");
        message::command_complete(&mut answers.done, "SET");
        answers
    }
}

fn welcome() -> Vec<u8> {
    let mut out = message::AUTHENTICATION_OK.to_vec();
    let parameters = [
        ("server_version", "15.0"),
        ("server_encoding", "UTF8"),
        ("client_encoding", "UTF8"),
        ("DateStyle", "ISO, MDY"),
        ("TimeZone", "Etc/UTC"),
        ("integer_datetimes", "on"),
        ("standard_conforming_strings", "on"),
        ("application_name", ""),
    ];
    for (name, value) in parameters {
        message::parameter_status(&mut out, name, value);
    }
    message::backend_key_data(&mut out, 1, &[0; 4]);
    message::ready(&mut out, Status::Idle);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_wire::frame::{Bind, Frames, Parse};

    #[test]
    fn requests_are_whole_messages() {
        let tags = |protocol| -> Vec<u8> {
            let requests = Requests::new(protocol, "d");
            Frames::new(requests.request(7)).map(|frame| frame.unwrap().tag).collect()
        };
        assert_eq!(tags(Protocol::Simple), b"Q");
        assert_eq!(tags(Protocol::Extended), b"PBDES");
        assert_eq!(tags(Protocol::Prepared), b"BDES");
    }

    #[test]
    fn parse_and_bind_carry_text_and_key() {
        let requests = Requests::new(Protocol::Extended, "d");
        let mut frames = Frames::new(requests.request(1));
        let parse = Parse::read(frames.next().unwrap().unwrap().body).unwrap();
        assert!(parse.sql.ends_with(b"= $1;"));
        let bind = Bind::read(frames.next().unwrap().unwrap().body).unwrap();
        assert_eq!(bind.value(1), Some((false, Some(key(1).to_string().as_bytes()))));
    }
}
