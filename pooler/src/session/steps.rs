//! The head of a client's input: which message it is, how far a request reaches, and what is to be done with it.
//!
//! Hot path: no allocation for an ordinary statement.

use std::io;

use sluice_wire::frame::{FrameError, Frames, HEADER, Header, check_client_header};
use sluice_wire::message::{self, Report};

use super::request::{self, Cut, Request, Where};
use super::run::{Slow, Step};
use super::send::{Decided, broken};
use super::{End, Link, Session};
use crate::config::PoolMode;

impl Session {
    /// Deals with the first request of `input`: how much of it is done with, and what comes next (`None`: more input).
    pub(super) fn step(&mut self, input: &[u8]) -> (usize, Option<Step>) {
        if self.upstream.mode == PoolMode::Session {
            return self.step_session(input);
        }
        if self.flow.copy_in {
            return self.step_copy(input);
        }
        if self.skip_to_sync || (self.open && self.flow.is_skipping()) {
            return self.step_skip(input);
        }
        match request::cut(input, self.limits.max_packet_size) {
            Err(error) => (0, Some(malformed(&error))),
            Ok(Cut::Incomplete) => (0, None),
            Ok(Cut::Alone(end)) => self.step_alone(&input[..end]),
            Ok(Cut::Synced(end)) => self.step_batch(&input[..end], true),
            Ok(Cut::Open(end)) => self.step_batch(&input[..end], false),
        }
    }

    pub(super) fn step_alone(&mut self, message: &[u8]) -> (usize, Option<Step>) {
        let used = message.len();
        match message[0] {
            b'Q' if self.limits.refuses_simple => (0, Some(protocol(PQEXEC))),
            b'Q' => {
                let decided = self.decide(|context| context.query(&message[HEADER..]));
                self.flow.simple = true;
                self.dispatch(decided, message, Cut::Alone(used))
            }
            b'X' => (used, Some(Step::End(End::Client("client close request".to_owned())))),
            b'd' | b'c' | b'f' if self.open => self.step_early_copy(message),
            // The rest of a COPY that failed.
            b'd' | b'c' | b'f' => (used, Some(Step::Read)),
            b'F' if !self.upstream.is_sharded() => {
                let decided =
                    self.decide(|context| Ok(Request { place: Where::Shard(context.map.home()), ..Request::opaque() }));
                self.flow.simple = true;
                self.dispatch(decided, message, Cut::Alone(used))
            }
            b'F' => {
                let report =
                    Report::fatal("0A000", "function calls by the fast path are not supported in a sharded database")
                        .hint("call the function with SELECT");
                (0, Some(Step::Slow(Slow::fail(report))))
            }
            tag => {
                let detail = format!("A message of type {:?} is not expected here.", char::from(tag));
                (0, Some(Step::Slow(Slow::fail(Report::fatal("08P01", "unknown pkt").detail(detail)))))
            }
        }
    }

    pub(super) fn step_batch(&mut self, batch: &[u8], synced: bool) -> (usize, Option<Step>) {
        if batch == message::SYNC && matches!(self.link, Link::None) && !self.open {
            let status = self.status();
            let mut out = Vec::new();
            message::ready(&mut out, status);
            return (batch.len(), Some(self.reply(&out)));
        }
        if !synced && !self.open && Frames::new(batch).all(|frame| frame.is_ok_and(|frame| frame.tag == b'H')) {
            // Flush with nothing before it: all answers are sent.
            return (batch.len(), Some(Step::Read));
        }
        if self.flow.copy_ended && Frames::new(batch).any(|frame| frame.is_ok_and(|frame| frame.tag == b'E')) {
            return (0, Some(Step::Slow(Slow::fail(early_data()))));
        }
        let decided = self.decide(|context| context.batch(batch));
        self.flow.simple = false;
        let end = batch.len();
        self.dispatch(decided, batch, if synced { Cut::Synced(end) } else { Cut::Open(end) })
    }

    /// Sends a request that is decided, all of `bytes`.
    #[inline]
    pub(super) fn dispatch(&mut self, decided: Result<Decided, Slow>, bytes: &[u8], cut: Cut) -> (usize, Option<Step>) {
        // A pipeline's end is still to come if it is cut open. ReadyForQuery ends it, which a simple query has, too.
        let open = matches!(cut, Cut::Open(_));
        match decided.and_then(|decided| self.send(decided, bytes, u32::from(!open))) {
            Ok(()) => {
                self.open = open;
                (bytes.len(), Some(Step::Relay))
            }
            Err(slow) => (0, Some(Step::Slow(slow))),
        }
    }

    /// After an error everything up to Sync is dropped: of a request that we have refused, or of one that the server ignores.
    fn step_skip(&mut self, input: &[u8]) -> (usize, Option<Step>) {
        let header = match Header::read(input) {
            None => return (0, None),
            Some(Err(error)) => return (0, Some(malformed(&error))),
            Some(Ok(header)) if header.total > request::MESSAGE_BUDGET => {
                return (0, Some(protocol("message too long")));
            }
            Some(Ok(header)) if (input.len() as u64) < header.total => return (0, None),
            Some(Ok(header)) => header,
        };
        let message = &input[..header.total as usize];
        match header.tag {
            b'S' if self.skip_to_sync => {
                self.skip_to_sync = false;
                let mut out = Vec::new();
                message::ready(&mut out, self.status());
                (message.len(), Some(self.reply(&out)))
            }
            b'S' => self.step_batch(message, true),
            b'X' => self.step_alone(message),
            _ => (message.len(), Some(Step::Read)),
        }
    }

    /// COPY data in a pipeline, before the server has asked for them. It knows what to do with them: it ignores them where no
    /// COPY is under way.
    fn step_early_copy(&mut self, message: &[u8]) -> (usize, Option<Step>) {
        self.flow.copy_ended = message[0] != b'd';
        match self.server_mut().map_or(Ok(()), |server| server.send(message)) {
            Ok(()) => (message.len(), Some(Step::Relay)),
            Err(error) => (0, Some(server_failed(&error))),
        }
    }

    /// COPY data, on its way to the server: as many whole messages as there are.
    pub(super) fn step_copy(&mut self, input: &[u8]) -> (usize, Option<Step>) {
        let mut used = 0;
        while self.flow.copy_in {
            let rest = &input[used..];
            let Some(header) = Header::read(rest) else { break };
            let header = match header
                .and_then(|header| check_client_header(header, self.limits.max_packet_size).map(|()| header))
            {
                Ok(header) => header,
                Err(error) => return (0, Some(malformed(&error))),
            };
            if header.total > request::MESSAGE_BUDGET {
                return (0, Some(protocol("message too long")));
            }
            if (rest.len() as u64) < header.total {
                break;
            }
            let message = &rest[..header.total as usize];
            used += message.len();
            match header.tag {
                b'd' | b'c' | b'f' => {}
                // The server ignores them in here.
                b'S' | b'H' => continue,
                b'X' => return (used, Some(Step::End(End::Client("client close request".to_owned())))),
                _ => return (0, Some(protocol("only COPY data may be sent during COPY FROM STDIN"))),
            }
            if header.tag != b'd' {
                self.flow.copy_in = false;
                // In the extended protocol the Sync that ends the request is still to come.
                self.open = !self.flow.simple;
            }
            let sent = self.server_mut().map_or(Ok(()), |server| server.send(message));
            if let Err(error) = sent {
                return (0, Some(server_failed(&error)));
            }
        }
        (used, (used > 0).then_some(Step::Relay))
    }

    /// A whole message waits in the input.
    pub(super) fn has_input(&self) -> bool {
        if self.upstream.mode == PoolMode::Session {
            return !self.input.is_empty();
        }
        if self.flow.copy_in {
            return matches!(Header::read(&self.input), Some(Ok(header)) if self.input.len() as u64 >= header.total);
        }
        !matches!(request::cut(&self.input, self.limits.max_packet_size), Ok(Cut::Incomplete))
    }
}

/// Whether the server's next answer is to the COPY that the data were for, nobody could tell.
fn early_data() -> Report {
    Report::fatal("0A000", "a statement behind COPY data for which the server has not asked yet")
        .hint("send Sync behind the data, or wait for CopyInResponse")
}

/// What a client hears that sends a simple query in spite of `disable_pqexec`.
pub(super) const PQEXEC: &str = "PQexec disallowed";

pub(super) fn protocol(text: &str) -> Step {
    Step::Slow(Slow::fail(Report::fatal("08P01", text)))
}

/// A message that isn't one: PgBouncer's words, and in the detail what is wrong with it.
pub(super) fn malformed(error: &FrameError) -> Step {
    let text = match error {
        FrameError::UnknownTag { .. } => "unknown pkt".to_owned(),
        FrameError::Length { tag, len } => format!("bad packet header: '{tag:02x}{len:08x}'"),
    };
    Step::Slow(Slow::fail(Report::fatal("08P01", text).detail(error.to_string())))
}

pub(super) fn server_failed(error: &io::Error) -> Step {
    Step::Slow(broken(error))
}
