//! What a client is told, freed of what has to differ between two databases and two sessions.

use std::collections::BTreeMap;
use std::fmt;

use sluice_wire::frame::error_field;

use crate::support::{Client, Message};

/// How far to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Until {
    /// So many ReadyForQuery.
    Ready(usize),
    /// One of these types, or an error, for each of the messages that were sent; nothing behind an error.
    Each(Vec<&'static [u8]>),
    /// CopyInResponse, or what comes instead of it.
    CopyIn { otherwise: u8 },
}

/// One message, in a form that two sessions can have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen(String);

impl Seen {
    /// A message that begins so.
    pub fn is(&self, start: &str) -> bool {
        self.0.starts_with(start)
    }

    /// An error whose SQLSTATE and text begin so.
    pub fn is_error(&self, start: &str) -> bool {
        self.0.strip_prefix("E ERROR|").is_some_and(|error| error.starts_with(start))
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What one client has been told.
#[derive(Default)]
pub struct Told {
    pub messages: Vec<Seen>,
    /// How its last ReadyForQuery was.
    pub status: Option<char>,
    pub failed: bool,
    pub copying: bool,
}

/// What arrives when it likes: not part of an answer's order, but of what a client knows.
#[derive(Default, Clone, PartialEq, Eq)]
pub struct Known {
    pub parameters: BTreeMap<String, String>,
    pub notifications: Vec<String>,
}

impl Known {
    /// Notes a message that belongs to no answer.
    fn take(&mut self, message: &Message) -> bool {
        match message.tag {
            b'S' => {
                let mut parts = message.body.split(|&byte| byte == 0).map(|part| part.escape_ascii().to_string());
                let name = parts.next().unwrap_or_default();
                self.parameters.insert(name, parts.next().unwrap_or_default());
                true
            }
            b'A' => {
                // Behind the process id.
                self.notifications.push(message.body.get(4..).unwrap_or_default().escape_ascii().to_string());
                true
            }
            _ => false,
        }
    }
}

/// Reads an answer. An end of the connection, or silence, is the last message.
pub fn read(client: &mut Client, known: &mut Known, until: &Until) -> Told {
    let mut told = Told::default();
    let (mut ready, mut each) = (0, 0);
    while !is_over(until, &told, ready, each) {
        let message = match client.try_read() {
            Ok(message) => message,
            Err(error) => {
                told.messages.push(Seen(format!("connection: {:?}", error.kind())));
                told.failed = true;
                return told;
            }
        };
        if known.take(&message) {
            continue;
        }
        told.failed |= message.tag == b'E';
        told.copying |= message.tag == b'G';
        if let Until::Each(ends) = until {
            each += usize::from(ends[each].contains(&message.tag));
        }
        if message.tag == b'Z' {
            ready += 1;
            told.status = message.body.first().map(|&status| char::from(status));
        }
        told.messages.push(seen(&message));
        if let Until::CopyIn { otherwise } = until
            && message.tag == *otherwise
        {
            return told;
        }
    }
    told
}

fn is_over(until: &Until, told: &Told, ready: usize, each: usize) -> bool {
    match until {
        Until::Ready(count) => ready == *count,
        Until::Each(ends) => told.failed || each == ends.len(),
        Until::CopyIn { .. } => told.copying,
    }
}

fn seen(message: &Message) -> Seen {
    let shown = match message.tag {
        b'E' | b'N' => report(&message.body),
        b'T' => row_description(&message.body),
        _ => message.body.escape_ascii().to_string(),
    };
    Seen(format!("{} {shown}", char::from(message.tag)))
}

/// What the text and its position say; not which line of whose source says it.
fn report(body: &[u8]) -> String {
    let field = |code| error_field(body, code).unwrap_or_default().escape_ascii().to_string();
    let (sqlstate, text) = (field(b'C'), field(b'M'));
    // Prepared statements have other names on Sluice's servers; what can't run in a block is refused without asking one.
    let is_reworded = ["26000", "42P05", "25001"].contains(&&*sqlstate) || text.contains("prepared statement \\\"");
    let fields: &[u8] = if is_reworded { b"VC" } else { b"VCMDHP" };
    fields.iter().map(|&code| field(code)).collect::<Vec<_>>().join("|").replace("pooled", "twin")
}

/// Without the tables' OIDs.
fn row_description(body: &[u8]) -> String {
    let mut shown = String::new();
    let mut rest = body.get(2..).unwrap_or_default();
    while let Some(end) = rest.iter().position(|&byte| byte == 0) {
        let Some((fixed, behind)) = rest[end + 1..].split_at_checked(18) else { break };
        shown += &format!("{} {} ", rest[..end].escape_ascii(), fixed[4..].escape_ascii());
        rest = behind;
    }
    shown
}
