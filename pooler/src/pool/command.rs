//! Statements of our own on a server: their results are for us, and the client sees nothing of them.

use std::future::poll_fn;
use std::io;
use std::task::{Poll, ready};

use sluice_wire::frame::{Frame, HEADER, Header, cstr, error_field};
use sluice_wire::message::{self, Report, Status};
use sluice_wire::scan::{Class, Sink, Verdict};

use super::server::{STRINGS, Server, Unnamed};
use crate::net::with_scratch;

/// A result that is kept for the client may be so long; a longer one is an error.
const KEEP_BUDGET: usize = 16 << 20;

/// What a statement of ours did.
#[derive(Debug, Default, Clone)]
pub struct Done {
    /// The last command tag.
    pub tag: String,
    /// The first ErrorResponse, as it came.
    pub error: Option<Vec<u8>>,
    /// The first column of the first row, as text.
    pub value: Option<Vec<u8>>,
    /// All messages up to ReadyForQuery (not included), if they were asked for.
    pub kept: Option<Vec<u8>>,
    pub kept_too_long: bool,
}

impl Done {
    pub fn error_field(&self, code: u8) -> Option<String> {
        let frame = Frame::first(self.error.as_deref()?).ok()??;
        error_field(frame.body, code).map(readable)
    }

    /// Why it failed, if it did, as an error of ours.
    pub fn failure(&self) -> Option<Report> {
        self.error.as_deref().map(report_of)
    }

    pub fn sqlstate(&self) -> Option<String> {
        self.error_field(b'C')
    }
}

/// An ErrorResponse as one of ours: SQLSTATE, message, DETAIL and HINT are kept.
pub fn report_of(error: &[u8]) -> Report {
    let body = error.get(HEADER..).unwrap_or_default();
    let field = |code| error_field(body, code).map(readable).unwrap_or_default();
    Report::error(&field(b'C'), field(b'M')).detail(field(b'D')).hint(field(b'H'))
}

impl Server {
    /// Sends a simple query without waiting.
    pub fn start(&mut self, sql: &str) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(sql.len() + 6);
        message::query(&mut bytes, sql.as_bytes());
        self.unnamed = Unnamed::default();
        self.pending += 1;
        self.send(&bytes)
    }

    /// Sends a batch of extended-protocol messages that uses the unnamed statement and ends with Sync, without waiting.
    pub fn start_batch(&mut self, messages: &[u8]) -> io::Result<()> {
        self.unnamed = Unnamed::default();
        self.pending += 1;
        self.send(messages)
    }

    /// Waits for what [`Self::start`] sent.
    pub async fn finish(&mut self, keep: bool) -> io::Result<Done> {
        let mut collect = Collect {
            done: Done::default(),
            pending: self.pending,
            status: self.status,
            escape_strings: self.escape_strings,
            reported: Vec::new(),
        };
        collect.done.kept = keep.then(Vec::new);
        let mut scanner = std::mem::take(&mut self.scanner);
        let result = poll_fn(|cx| {
            while collect.pending > 0 {
                if !self.unsent.is_empty()
                    && let Poll::Ready(result) = self.io.poll_flush(cx, &mut self.unsent)
                {
                    result?;
                }
                ready!(with_scratch(|scratch| {
                    let count = ready!(self.io.poll_read(cx, scratch))?;
                    if count == 0 {
                        return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                    }
                    Poll::Ready(scanner.scan(&scratch[..count], &mut collect).map_err(io::Error::other))
                }))?;
            }
            Poll::Ready(Ok(()))
        })
        .await;
        self.scanner = scanner;
        self.pending = collect.pending;
        self.status = collect.status;
        self.escape_strings = collect.escape_strings;
        self.reported = collect.reported;
        result.map(|()| collect.done)
    }

    /// Runs a statement of ours.
    pub async fn run(&mut self, sql: &str) -> io::Result<Done> {
        self.start(sql)?;
        self.finish(false).await
    }
}

struct Collect {
    done: Done,
    pending: u32,
    status: Status,
    escape_strings: bool,
    reported: Vec<u8>,
}

impl Sink for Collect {
    fn classify(&mut self, header: Header) -> Class {
        if self.pending == 0 {
            // The connection's last words, behind the answer: they say nothing about what was asked.
            return Class::Drop;
        }
        let wanted = match header.tag {
            b'Z' | b'E' | b'C' | b'S' => true,
            b'D' => self.done.value.is_none() && header.total < 1 << 16,
            _ => false,
        };
        match (wanted, &self.done.kept) {
            (true, _) => Class::Hold,
            (false, Some(_)) if !self.done.kept_too_long => Class::Pass,
            (false, _) => Class::Drop,
        }
    }

    fn message(&mut self, frame: Frame<'_>) -> Verdict {
        match frame.tag {
            b'Z' => {
                self.pending = self.pending.saturating_sub(1);
                self.status = frame.body.first().and_then(|&byte| Status::from_byte(byte)).unwrap_or(Status::Failed);
                return Verdict::Drop;
            }
            b'E' if self.done.error.is_none() => self.done.error = Some(frame.raw.to_vec()),
            b'C' => self.done.tag = cstr(frame.body).map_or(String::new(), |(tag, _)| tag.escape_ascii().to_string()),
            b'D' => self.done.value = first_column(frame.body),
            b'S' => {
                self.reported.extend_from_slice(frame.raw);
                if let Some((name, rest)) = cstr(frame.body)
                    && name == STRINGS.as_bytes()
                {
                    self.escape_strings = rest.starts_with(b"off");
                }
            }
            _ => {}
        }
        if self.done.kept.is_some() { Verdict::Pass } else { Verdict::Drop }
    }

    fn pass(&mut self, bytes: &[u8]) {
        if let Some(kept) = &mut self.done.kept {
            if kept.len() + bytes.len() > KEEP_BUDGET {
                self.done.kept_too_long = true;
                return;
            }
            kept.extend_from_slice(bytes);
        }
    }
}

/// A server's words; what isn't UTF-8 (the client may have asked for another encoding) is shown as escapes.
fn readable(text: &[u8]) -> String {
    str::from_utf8(text).map_or_else(|_| text.escape_ascii().to_string(), str::to_owned)
}

fn first_column(row: &[u8]) -> Option<Vec<u8>> {
    let (len, rest) = row.get(2..)?.split_first_chunk::<4>()?;
    rest.get(..usize::try_from(i32::from_be_bytes(*len)).ok()?).map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_wire::scan::Scanner;

    #[test]
    fn what_comes_behind_the_answer_is_not_the_statements() {
        let mut bytes = Vec::new();
        message::command_complete(&mut bytes, "COMMIT");
        message::ready(&mut bytes, Status::Idle);
        Report::fatal("57P01", "terminating connection due to administrator command").encode(&mut bytes);
        let mut collect = Collect {
            done: Done::default(),
            pending: 1,
            status: Status::Transaction,
            escape_strings: false,
            reported: Vec::new(),
        };
        Scanner::default().scan(&bytes, &mut collect).expect("messages");
        assert_eq!((collect.done.tag.as_str(), collect.done.error), ("COMMIT", None));
        assert_eq!((collect.pending, collect.status), (0, Status::Idle));
    }
}
