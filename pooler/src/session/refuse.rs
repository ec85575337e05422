//! Answers of our own that end a request: errors, and what servers said, in our words.

use sluice_router::Refusal;
use sluice_wire::frame::{Frames, Parse, query_text};
use sluice_wire::message::{self, Report, Severity, Status};

use super::request::{Cut, Deny, cut};
use super::{End, Link, Session};
use crate::registry::ClientState;

/// How long a client that is told to go may take to hear it.
const LAST_WORDS: std::time::Duration = std::time::Duration::from_secs(1);

impl Session {
    pub(super) async fn tell(&mut self, result: Result<(), Report>) -> Result<(), End> {
        match result {
            Ok(()) => Ok(()),
            Err(report) => Box::pin(self.fail(report)).await,
        }
    }

    /// Tells the client of an error of ours, and takes the request that it answers off the input.
    pub(super) async fn fail(&mut self, report: Report) -> Result<(), End> {
        let mut out = Vec::new();
        report.encode(&mut out);
        let in_pipeline = self.open && matches!(self.link, Link::One(_) | Link::Transaction(_));
        if report.severity == Severity::Fatal || in_pipeline {
            // Last words; a client that doesn't listen doesn't hold up the end.
            let _ = tokio::time::timeout(LAST_WORDS, self.io.write_all(&out)).await;
            self.log_error(&report);
            self.close_servers(&report.message);
            return Err(End::Us(report.message.clone()));
        }
        self.finish_request(out, true).await
    }

    /// Sends `out` as the answer to the request at the head of the input. In the extended protocol the answer to its Sync
    /// comes behind it.
    pub(super) async fn finish_request(&mut self, mut out: Vec<u8>, failed: bool) -> Result<(), End> {
        if failed && let Link::Transaction(transaction) = &mut self.link {
            transaction.failed = true;
        }
        match cut(&self.input, self.limits.max_packet_size) {
            Ok(Cut::Alone(end) | Cut::Synced(end)) => {
                self.input.drain(..end);
                message::ready(&mut out, self.status());
            }
            Ok(Cut::Open(end)) => {
                self.input.drain(..end);
                self.skip_to_sync = failed;
            }
            Ok(Cut::Incomplete) | Err(_) => message::ready(&mut out, self.status()),
        }
        if failed {
            self.give_back_idle();
        }
        self.client.set_state(ClientState::Idle);
        self.client.request_ended(self.client.clock(), self.client.is_in_transaction());
        if !self.flow.unsent.is_empty() {
            out.splice(0..0, std::mem::take(&mut self.flow.unsent));
        }
        self.io.write_all(&out).await.map_err(|error| End::Client(format!("client unexpected eof: {error}")))
    }

    /// A server that was taken for a request that failed before it was sent.
    fn give_back_idle(&mut self) {
        if !self.pinned && matches!(&self.link, Link::One(lease) if lease.is_settled()) {
            self.settle(Status::Idle);
        }
    }
}

pub(super) fn aborted() -> Report {
    Report::error("25P02", "current transaction is aborted, commands ignored until end of transaction block")
}

pub(super) fn lost(error: &std::io::Error) -> Report {
    Report::fatal("08006", "server conn crashed?").detail(error.to_string())
}

pub(super) fn not_together() -> Report {
    Report::error("0A000", "this statement cannot be sent together with others in a sharded database")
        .hint("send it on its own")
}

/// The text of the one statement that is sent or prepared.
fn sql_of(head: &[u8]) -> Option<String> {
    let mut texts = Vec::new();
    for frame in Frames::new(head).map_while(Result::ok) {
        match frame.tag {
            b'Q' => texts.push(query_text(frame.body)?),
            b'P' => texts.push(Parse::read(frame.body)?.sql),
            _ => {}
        }
    }
    match texts[..] {
        [sql] => String::from_utf8(sql.to_vec()).ok(),
        _ => None,
    }
}

pub(super) fn deny_report(deny: Deny, input: &[u8]) -> Report {
    match deny {
        Deny::Refused(refusal) => refusal_report(*refusal, input),
        Deny::Protocol(text) => Report::fatal("08P01", text),
        Deny::UnknownStatement(name) if name.is_empty() => {
            Report::error("26000", "unnamed prepared statement does not exist")
        }
        Deny::UnknownStatement(name) => Report::error("26000", format!("prepared statement \"{name}\" does not exist")),
        Deny::NameTaken(name) => Report::error("42P05", format!("prepared statement \"{name}\" already exists")),
    }
}

/// The grammar counts bytes, the protocol characters.
pub(super) fn refusal_report(refusal: Refusal, input: &[u8]) -> Report {
    let sql = sql_of(input).unwrap_or_default();
    let position = match refusal.position {
        0 => 0,
        at => sql.get(..at as usize - 1).map_or(0, |before| before.chars().count() + 1),
    };
    let mut report = Report::error(&refusal.sqlstate, refusal.message).detail(refusal.detail).hint(refusal.hint);
    report.position = position;
    report
}
