//! From a server to its client.
//!
//! Hot path: one poll function, no await inside, no buffer of its own. A response is read into the worker's scratch
//! buffer, its headers are looked at, and the bytes are sent on at once. There must be no allocation here for a response
//! that is relayed as it is, and no system call but one read and one write for what fits the buffer.

use std::io;
use std::task::{Context, Poll, ready};

use sluice_wire::frame::{Frame, FrameError, Header, cstr};
use sluice_wire::message::Status;
use sluice_wire::replies::{Fate, Replies};
use sluice_wire::scan::{Class, Sink, Verdict, plain_response};

use crate::net::{Io, with_output, with_scratch};
use crate::pool::{Server, Unnamed};

/// Messages up to this size are looked at as a whole where their content matters.
const HOLD: u64 = 64 * 1024;

/// What a session keeps of the stream between its client and its server. Empty for an idle client.
#[derive(Default)]
pub struct Flow {
    /// What the client's socket did not take yet. While there is any, nothing more is read from the server.
    pub unsent: Vec<u8>,
    /// So many of the next ReadyForQuery end statements of ours: everything up to them is dropped.
    pub swallow: u16,
    /// Expected responses, where the stream is edited.
    pub replies: Option<Box<Replies>>,
    /// What completed, where somebody wants to know.
    pub outcome: Option<Box<Outcome>>,
    /// The server reads COPY data.
    pub copy_in: bool,
    /// All COPY data were sent, although the server has not asked for them yet.
    pub copy_ended: bool,
    /// The last request was a simple query.
    pub simple: bool,
    /// The session's standard_conforming_strings is off.
    pub escape_strings: bool,
    /// A statement of ours, sent ahead, failed.
    pub swallowed_error: bool,
}

impl Flow {
    /// Responses are passed on as they come, and nobody wants to know what is in them.
    #[inline]
    fn is_plain(&self) -> bool {
        self.swallow == 0 && self.replies.is_none() && self.outcome.is_none() && !self.copy_in && !self.swallowed_error
    }

    /// After an error in an open pipeline the server ignores everything up to Sync.
    pub fn is_skipping(&self) -> bool {
        self.replies.as_ref().is_some_and(|replies| replies.is_skipping())
    }
}

/// What completed since the request was sent.
#[derive(Debug, Default)]
pub struct Outcome {
    pub completed: u32,
    pub failed: bool,
    /// Those that answered ROLLBACK (which a COMMIT does, too, after an error), counted from 0.
    pub rollbacks: Vec<u32>,
}

/// Why relaying ended early.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    #[error("client connection: {0}")]
    Client(io::Error),
    #[error("server connection: {0}")]
    Server(io::Error),
    #[error("server sent {0}")]
    Protocol(#[from] FrameError),
    /// A prepared statement's plan is out of date; the server knows what was sent ([`crate::pool::Replay`]).
    #[error("cached plan must not change result type")]
    Stale,
    /// The statement behind it may have run outside the block that its client asked for: nobody must go on from here.
    #[error("BEGIN failed")]
    Ahead,
}

/// Relays until all responses have arrived (`Ready`) or there is nothing to read.
pub fn poll_responses(
    cx: &mut Context<'_>,
    server: &mut Server,
    client: &mut Io,
    flow: &mut Flow,
) -> Poll<Result<(), RelayError>> {
    loop {
        if !flow.unsent.is_empty() {
            ready!(client.poll_flush(cx, &mut flow.unsent)).map_err(RelayError::Client)?;
            flow.unsent = Vec::new();
        }
        if !server.unsent.is_empty()
            && let Poll::Ready(result) = server.io.poll_flush(cx, &mut server.unsent)
        {
            result.map_err(RelayError::Server)?;
        }
        if server.pending == 0 {
            return Poll::Ready(Ok(()));
        }
        let count = ready!(with_scratch(|scratch| {
            let count = ready!(server.io.poll_read(cx, scratch)).map_err(RelayError::Server)?;
            relay_chunk(&scratch[..count], server, client, flow)?;
            Poll::Ready(Ok::<_, RelayError>(count))
        }))?;
        if count == 0 {
            return Poll::Ready(Err(RelayError::Server(io::ErrorKind::UnexpectedEof.into())));
        }
        if flow.swallowed_error {
            return Poll::Ready(Err(RelayError::Ahead));
        }
        if server.pending == 0 && server.replay.is_stale() {
            return Poll::Ready(Err(RelayError::Stale));
        }
    }
}

/// Relays what a server has sent.
pub fn relay_chunk(chunk: &[u8], server: &mut Server, client: &Io, flow: &mut Flow) -> Result<(), RelayError> {
    server.counters.sent += chunk.len() as u64;
    if flow.is_plain()
        && server.scanner.is_at_boundary()
        && !server.replay.holds_back()
        && let Some(status) = plain_response(chunk)
    {
        server.status = Status::from_byte(status).unwrap_or(Status::Failed);
        server.pending = server.pending.saturating_sub(1);
        return send(client, flow, chunk).map_err(RelayError::Client);
    }
    let mut scanner = std::mem::take(&mut server.scanner);
    let edited = flow.replies.is_some();
    let result = if edited {
        with_output(|out| {
            let mut sink = ResponseSink { server, client, flow, edited: Some(out), error: None };
            let scanned = scanner.scan(chunk, &mut sink);
            if scanner.is_at_boundary() {
                sink.make_due();
            }
            let error = sink.error.take();
            send(client, flow, out).map_or_else(|e| (scanned, Some(e)), |()| (scanned, error))
        })
    } else {
        let mut sink = ResponseSink { server, client, flow, edited: None, error: None };
        let scanned = scanner.scan(chunk, &mut sink);
        (scanned, sink.error)
    };
    server.scanner = scanner;
    result.0?;
    result.1.map_or(Ok(()), |error| Err(RelayError::Client(error)))
}

/// Sends to the client what it takes; keeps the rest.
pub fn send(client: &Io, flow: &mut Flow, bytes: &[u8]) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let written = if flow.unsent.is_empty() { client.try_write(bytes)? } else { 0 };
    flow.unsent.extend_from_slice(&bytes[written..]);
    Ok(())
}

struct ResponseSink<'a> {
    server: &'a mut Server,
    client: &'a Io,
    flow: &'a mut Flow,
    /// Collects an edited stream, so that it is sent in one piece.
    edited: Option<&'a mut Vec<u8>>,
    error: Option<io::Error>,
}

impl ResponseSink<'_> {
    fn make_due(&mut self) {
        if self.flow.swallow > 0 || self.flow.swallowed_error {
            return;
        }
        if let (Some(replies), Some(out)) = (&mut self.flow.replies, &mut self.edited) {
            replies.make_due(out);
        }
    }

    fn respond(&mut self, tag: u8) -> Fate {
        match &mut self.flow.replies {
            Some(replies) => replies.on_response(tag),
            None => Fate::Pass,
        }
    }

    fn on_ready(&mut self, frame: Frame<'_>) -> Verdict {
        self.server.status = frame.body.first().and_then(|&byte| Status::from_byte(byte)).unwrap_or(Status::Failed);
        self.server.pending = self.server.pending.saturating_sub(1);
        if self.server.replay.is_stale() {
            self.server.replay.end(frame.raw);
            return Verdict::Drop;
        }
        if self.flow.swallow > 0 {
            self.flow.swallow -= 1;
            return Verdict::Drop;
        }
        self.flow.copy_in = false;
        self.flow.copy_ended = false;
        self.respond(b'Z');
        Verdict::Pass
    }

    fn on_error(&mut self) {
        self.flow.copy_in = false;
        // A Parse that came behind it was ignored.
        self.server.unnamed = Unnamed::default();
        if let Some(outcome) = &mut self.flow.outcome {
            outcome.failed = true;
        }
        self.respond(b'E');
    }

    /// The first response to a batch that can be repeated.
    fn on_refusal(&mut self, frame: Frame<'_>) -> Verdict {
        if self.server.replay.refuse(frame.raw, frame.body) {
            return Verdict::Drop;
        }
        self.give_back_head();
        self.on_error();
        Verdict::Pass
    }

    /// What was held back for the sake of a repetition that isn't needed.
    fn give_back_head(&mut self) {
        if let Some(head) = self.server.replay.pass() {
            self.make_due();
            self.respond(b't');
            self.pass(&head);
        }
    }

    fn on_complete(&mut self, body: &[u8]) -> Verdict {
        let tag = cstr(body).map_or(body, |(tag, _)| tag);
        if let Some(outcome) = &mut self.flow.outcome {
            if tag == b"ROLLBACK" {
                outcome.rollbacks.push(outcome.completed);
            }
            outcome.completed += 1;
        }
        self.respond(b'C');
        Verdict::Pass
    }

    /// The server waits for COPY data. In the extended protocol it ignores the Sync that came before them, so no
    /// ReadyForQuery answers that one.
    fn on_copy_in(&mut self) -> Verdict {
        if std::mem::take(&mut self.flow.copy_ended) {
            // The Sync comes behind the data.
            return Verdict::Pass;
        }
        self.flow.copy_in = true;
        if !self.flow.simple {
            self.server.pending = self.server.pending.saturating_sub(1);
            // What comes now is a pipeline whose Sync is still to be sent.
            self.flow.replies.get_or_insert_default().clear();
        }
        Verdict::Pass
    }

    fn on_parameter(&mut self, body: &[u8]) -> Verdict {
        if let Some((name, rest)) = cstr(body)
            && name == b"standard_conforming_strings"
        {
            self.server.escape_strings = rest.starts_with(b"off");
            self.flow.escape_strings = self.server.escape_strings;
        }
        Verdict::Pass
    }
}

impl Sink for ResponseSink<'_> {
    fn stepwise(&self) -> bool {
        self.edited.is_some()
    }

    #[inline]
    fn classify(&mut self, header: Header) -> Class {
        if self.flow.swallowed_error {
            // What stands behind the failure is no answer that the client may see.
            return Class::Drop;
        }
        if self.flow.swallow > 0 {
            return match header.tag {
                b'Z' if header.total <= HOLD => Class::Hold,
                b'E' => {
                    self.flow.swallowed_error = true;
                    Class::Drop
                }
                _ => Class::Drop,
            };
        }
        if self.server.replay.is_stale() {
            return if header.tag == b'Z' { Class::Hold } else { Class::Drop };
        }
        if self.server.replay.is_armed() {
            if matches!(header.tag, b'E' | b't') && header.total <= HOLD {
                return Class::Hold;
            }
            self.give_back_head();
        }
        self.make_due();
        match header.tag {
            b'D' | b'd' | b'N' | b'A' => Class::Pass,
            b'Z' | b'S' | b'G' if header.total <= HOLD => Class::Hold,
            // Behind the last answer: the connection's last words, which say nothing about the request.
            b'E' if self.server.pending == 0 && !self.flow.copy_in => Class::Pass,
            b'E' => {
                // Its fate is known from the header; the body matters to nobody here.
                self.on_error();
                Class::Pass
            }
            b'C' if self.flow.outcome.is_some() && header.total <= HOLD => Class::Hold,
            tag => match self.respond(tag) {
                Fate::Pass => Class::Pass,
                Fate::Drop => Class::Drop,
            },
        }
    }

    fn message(&mut self, frame: Frame<'_>) -> Verdict {
        match frame.tag {
            b'Z' => self.on_ready(frame),
            b'E' => self.on_refusal(frame),
            b't' => {
                self.server.replay.hold(frame.raw);
                Verdict::Drop
            }
            b'C' => self.on_complete(frame.body),
            b'G' => self.on_copy_in(),
            b'S' => self.on_parameter(frame.body),
            _ => Verdict::Pass,
        }
    }

    fn pass(&mut self, bytes: &[u8]) {
        match &mut self.edited {
            Some(out) => out.extend_from_slice(bytes),
            None => {
                if self.error.is_none()
                    && let Err(error) = send(self.client, self.flow, bytes)
                {
                    self.error = Some(error);
                }
            }
        }
    }
}
