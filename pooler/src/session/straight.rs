//! Session pooling's way from client to server: the server is the client's until it leaves, and nothing between them is
//! changed.

use quanta::Instant;
use sluice_wire::frame::{Frame, Header};
use sluice_wire::scan::{Class, Sink, Verdict};
use std::io;

use super::run::{Slow, Step};
use super::steps::{PQEXEC, malformed, protocol, server_failed};
use super::{End, Link, Session};
use crate::executor::relay::Flow;
use crate::pool::Lease;
use crate::registry::ClientState;
use crate::vars::transition;

impl Session {
    /// Session pooling: the server is the client's until it leaves, and nothing between them is changed.
    pub(super) fn step_session(&mut self, input: &[u8]) -> (usize, Option<Step>) {
        let map = self.upstream.map();
        if let Link::None = self.link {
            let Some(lease) = self.upstream.pool(map.home()).and_then(|pool| pool.try_checkout()) else {
                return (0, Some(Step::Slow(Slow::Checkout(map.home()))));
            };
            self.take_one(lease);
        }
        let Link::One(server) = &mut self.link else { return (0, None) };
        if let Some(sql) = transition(&server.applied, &self.vars) {
            return (0, Some(Step::Slow(Slow::Prepare(sql))));
        }
        let refuses_simple = self.limits.refuses_simple;
        let mut sink = StraightSink {
            server,
            flow: &mut self.flow,
            refuses_simple,
            refused: false,
            terminate: false,
            error: None,
        };
        let mut scanner = sink.server.straight.take().unwrap_or_default();
        if let Err(error) = scanner.scan(input, &mut sink) {
            return (0, Some(malformed(&error)));
        }
        let (terminate, refused, error) = (sink.terminate, sink.refused, sink.error);
        if refused {
            return (0, Some(protocol(PQEXEC)));
        }
        if !scanner.is_at_boundary() {
            sink.server.straight = Some(scanner);
        }
        if let Some(error) = error {
            return (0, Some(server_failed(&error)));
        }
        if terminate {
            return (input.len(), Some(Step::End(End::Client("client close request".to_owned()))));
        }
        self.open = server.pending == 0;
        if !self.is_timed {
            self.begin_timing(Instant::now());
        }
        self.client.request_began(self.client.clock());
        self.client.set_state(ClientState::Active);
        (input.len(), Some(Step::Relay))
    }
}

/// Session pooling's way from client to server: nothing is changed, only counted.
struct StraightSink<'a> {
    server: &'a mut Lease,
    flow: &'a mut Flow,
    refuses_simple: bool,
    refused: bool,
    terminate: bool,
    error: Option<io::Error>,
}

impl Sink for StraightSink<'_> {
    fn classify(&mut self, header: Header) -> Class {
        match header.tag {
            b'Q' if self.refuses_simple => {
                self.refused = true;
                return Class::Drop;
            }
            b'X' => {
                self.terminate = true;
                return Class::Drop;
            }
            // During COPY FROM STDIN the server ignores Sync.
            b'S' if self.flow.copy_in => {}
            b'Q' | b'S' | b'F' => {
                self.server.pending += 1;
                self.server.counters.query_count += 1;
                self.flow.simple = header.tag != b'S';
            }
            b'c' | b'f' => self.flow.copy_in = false,
            _ => {}
        }
        Class::Pass
    }

    fn message(&mut self, _: Frame<'_>) -> Verdict {
        Verdict::Pass
    }

    fn pass(&mut self, bytes: &[u8]) {
        if self.error.is_none() {
            self.error = self.server.send(bytes).err();
        }
    }
}
