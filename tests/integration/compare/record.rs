//! What a client sees, as text that can be compared: one line for each message, without what differs from run to run.

use std::io::ErrorKind;
use std::time::Duration;

use sluice_wire::frame::error_field;

use crate::support::{Client, Message, ServerError};

/// Where there is no outcome of a name.
pub const NOTHING: &str = "(nothing)";
/// Nothing that is compared takes longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Named outcomes, in the order of the script.
#[derive(Default)]
pub struct Record(Vec<(String, String)>);

impl Record {
    /// # Panics
    /// If there is one of this name.
    pub fn add(&mut self, name: &str, outcome: impl Into<String>) {
        assert!(self.0.iter().all(|(known, _)| known != name), "two outcomes called \"{name}\"");
        self.0.push((name.to_owned(), outcome.into()));
    }

    pub fn outcomes(&self) -> &[(String, String)] {
        &self.0
    }

    pub fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(known, _)| known == name).map_or(NOTHING, |(_, outcome)| outcome)
    }
}

/// How a login ended.
pub fn login(result: Result<Client, ServerError>) -> String {
    match result {
        Ok(_) => "logged in".to_owned(),
        Err(error) => error.to_string(),
    }
}

/// All messages up to so many ReadyForQuery, or to the end of the connection.
pub fn messages(client: &mut Client, ready: usize) -> String {
    client.set_read_timeout(PATIENCE);
    let (mut lines, mut seen) = (Vec::new(), 0);
    while seen < ready {
        match client.try_read() {
            Ok(message) => {
                seen += usize::from(message.tag == b'Z');
                lines.push(line(&message));
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                lines.push("silence".to_owned());
                break;
            }
            // A reset hides behind it what the other end did not read.
            Err(_) => {
                lines.push("closed".to_owned());
                break;
            }
        }
    }
    lines.join("\n")
}

/// The messages that answer a simple query.
pub fn query(client: &mut Client, sql: &str) -> String {
    if client.try_send(&crate::support::Batch::new().query(sql).0).is_err() {
        return "closed".to_owned();
    }
    messages(client, 1)
}

/// Rows by the value of their first column, with these other columns.
pub fn table(client: &mut Client, sql: &str, wanted: &[&str]) -> Vec<(String, String)> {
    let answer = client.query(sql);
    let Some(description) = answer.messages.iter().find(|message| message.tag == b'T') else { return Vec::new() };
    let names = columns(&description.body);
    let names: Vec<_> = names.split(' ').filter_map(|column| column.split(':').next()).collect();
    let shown = |row: &[Option<String>]| {
        let values = names.iter().zip(row).filter(|(name, _)| wanted.contains(name));
        let values = values.map(|(name, value)| format!("{name}={}", value.as_deref().unwrap_or("NULL")));
        values.collect::<Vec<_>>().join(" ")
    };
    answer.rows().iter().map(|row| (row[0].clone().unwrap_or_default(), shown(row))).collect()
}

fn line(message: &Message) -> String {
    let body = &message.body;
    match message.tag {
        b'E' => format!("error {}", report(body)),
        b'N' => format!("notice {}", report(body)),
        b'T' => format!("columns {}", columns(body)),
        b'D' => format!("row {}", row(body)),
        b'C' => format!("complete {}", text(body)),
        b'Z' => format!("ready {}", text(body)),
        b'S' => format!("parameter {}", text(body)),
        b'K' => "key".to_owned(),
        tag => format!("{} {}", char::from(tag), body.escape_ascii()).trim_end().to_owned(),
    }
}

fn report(body: &[u8]) -> String {
    let field = |code| error_field(body, code).map_or(String::new(), |text| String::from_utf8_lossy(text).into_owned());
    let position = field(b'P');
    let at = if position.is_empty() { String::new() } else { format!(" at {position}") };
    format!("{} {}: {}{at}", field(b'S'), field(b'C'), field(b'M'))
}

fn text(body: &[u8]) -> String {
    String::from_utf8_lossy(body).trim_end_matches('\0').replace('\0', "=")
}

/// Names and types, as RowDescription has them.
fn columns(body: &[u8]) -> String {
    let mut rest = &body[2..];
    let mut columns = Vec::new();
    while let Some(end) = rest.iter().position(|&byte| byte == 0) {
        let (name, tail) = rest.split_at(end);
        let oid = u32::from_be_bytes([tail[7], tail[8], tail[9], tail[10]]);
        columns.push(format!("{}:{oid}", String::from_utf8_lossy(name)));
        rest = &tail[19..];
    }
    columns.join(" ")
}

fn row(body: &[u8]) -> String {
    let mut rest = &body[2..];
    let mut values = Vec::new();
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(i32::from_be_bytes(*length)).ok();
        let (value, tail) = tail.split_at(length.unwrap_or(0));
        values.push(length.map_or("NULL".into(), |_| String::from_utf8_lossy(value).into_owned()));
        rest = tail;
    }
    values.join("|")
}
