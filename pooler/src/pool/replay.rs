//! The last batch that used prepared statements, kept until its first response: if PostgreSQL says that a statement's plan is
//! out of date (a table changed since some client prepared it), the statement is prepared again and the batch repeated.
//!
//! The buffer belongs to the server, so an idle client pays nothing for it.

use sluice_wire::frame::{Frames, Named, error_field};

use super::server::statement_number;

/// Longer batches are not kept.
const LONGEST: usize = 8 * 1024;

#[derive(Debug, Default)]
pub struct Replay {
    /// As sent to the server.
    bytes: Vec<u8>,
    /// A ParameterDescription, which comes before the columns: it is held back until they do.
    head: Vec<u8>,
    state: State,
    repeatable: bool,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Off,
    /// Sent, and nothing has come back yet.
    Armed,
    /// PostgreSQL refused a plan; these are the messages that said so, which the client has not seen.
    Stale(Vec<u8>),
}

/// A batch that met a plan that is out of date.
#[derive(Debug)]
pub struct Stale {
    pub bytes: Vec<u8>,
    /// What came instead: ErrorResponse and ReadyForQuery, after what was held back.
    pub refusal: Vec<u8>,
    /// Repeating it gives the client what it would have got: nothing was passed on, no transaction has failed, and
    /// the client is told what columns the new plan has.
    pub repeatable: bool,
}

impl Stale {
    /// The prepared statements that the batch names.
    pub fn statements(&self) -> Vec<u32> {
        let named = Frames::new(&self.bytes).map_while(Result::ok).filter_map(|frame| match frame.tag {
            b'B' => statement_number(sluice_wire::frame::Bind::read(frame.body)?.statement),
            b'D' => match Named::read(frame.body)? {
                Named::Statement(name) => statement_number(name),
                Named::Portal(_) => None,
            },
            _ => None,
        });
        let mut statements: Vec<u32> = named.collect();
        statements.sort_unstable();
        statements.dedup();
        statements
    }
}

impl Replay {
    /// Keeps a batch that is on its way.
    #[inline]
    pub fn arm(&mut self, bytes: &[u8], repeatable: bool) {
        if bytes.len() > LONGEST {
            return;
        }
        self.head.clear();
        self.bytes.clear();
        self.bytes.extend_from_slice(bytes);
        self.state = State::Armed;
        self.repeatable = repeatable;
    }

    /// The batch is answered.
    #[inline]
    pub fn disarm(&mut self) {
        if !matches!(self.state, State::Off) {
            self.state = State::Off;
        }
    }

    /// Holds back the first part of a statement's description.
    pub fn hold(&mut self, raw: &[u8]) {
        self.head.clear();
        self.head.extend_from_slice(raw);
    }

    /// Something else came back than an error: what was held back, if anything.
    pub fn pass(&mut self) -> Option<Vec<u8>> {
        self.disarm();
        (!self.head.is_empty()).then(|| std::mem::take(&mut self.head))
    }

    #[inline]
    pub fn is_armed(&self) -> bool {
        matches!(self.state, State::Armed)
    }

    /// Something is being kept from the client.
    #[inline]
    pub fn holds_back(&self) -> bool {
        self.is_stale() || !self.head.is_empty()
    }

    #[inline]
    pub fn is_stale(&self) -> bool {
        matches!(self.state, State::Stale(_))
    }

    /// The first response is an error: whether it is about a plan, and is therefore kept from the client.
    pub fn refuse(&mut self, raw: &[u8], body: &[u8]) -> bool {
        let about_plan = error_field(body, b'C') == Some(b"0A000")
            // The words are translated, the function's name isn't.
            && error_field(body, b'R') == Some(b"RevalidateCachedQuery");
        if about_plan {
            self.state = State::Stale([&std::mem::take(&mut self.head)[..], raw].concat());
        }
        about_plan
    }

    /// The ReadyForQuery behind it.
    pub fn end(&mut self, raw: &[u8]) {
        if let State::Stale(refusal) = &mut self.state {
            refusal.extend_from_slice(raw);
        }
    }

    /// Hands out the batch, once.
    pub fn take(&mut self) -> Option<Stale> {
        match std::mem::take(&mut self.state) {
            State::Stale(refusal) => {
                Some(Stale { bytes: std::mem::take(&mut self.bytes), refusal, repeatable: self.repeatable })
            }
            _ => None,
        }
    }
}
