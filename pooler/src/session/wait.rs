//! A decided request in a pool's queue: it waits in the session's own poll function, without a timer and without being decided
//! again, because with more clients than servers nearly every request comes this way.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use quanta::Instant;
use sluice_wire::message::{self, Report};

use super::request::{Cut, cut};
use super::run::{Slow, Step};
use super::send::{Decided, unknown_shard};
use super::settle::eviction_report;
use super::{End, Session};
use crate::pool::{CheckoutError, Lease, Ticket};
use crate::registry::ClientState;

/// A place in the queue, and what for.
pub(super) struct Waiting {
    ticket: Ticket,
    decided: Decided,
    since: Instant,
    /// The client was told (`query_wait_notify`).
    told: bool,
}

impl Session {
    /// Takes a place in the queue of the shard's pool for the request at the head of the input.
    pub(super) fn queue(&mut self, decided: Decided) -> Result<(), Report> {
        let shard = decided.shard;
        let Some(pool) = self.upstream.pool(shard) else { return Err(unknown_shard(shard)) };
        match pool.checkout(false) {
            // Just now given back. The request is decided again, which doesn't happen often enough to matter.
            Ok(Ok(lease)) => self.take_one(lease),
            Ok(Err(ticket)) => {
                self.begin_wait();
                self.waiting = Some(Box::new(Waiting { ticket, decided, since: Instant::now(), told: false }));
            }
            Err(error) => return Err(self.no_server(shard, &error)),
        }
        Ok(())
    }

    /// Shown from now on as a client that waits, and since when.
    pub(super) fn begin_wait(&self) {
        self.client.request_began(self.client.clock());
        self.client.set_state(ClientState::Waiting);
    }

    /// Ready when the request is on its way, or has waited in vain.
    pub(super) fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        if let Some(eviction) = self.client.eviction() {
            // A server that was granted in this very moment goes to the next one, unused.
            return self.give_up(eviction_report(eviction));
        }
        let Some(waiting) = &mut self.waiting else { return Poll::Ready(Step::Read) };
        if let Poll::Ready(grant) = Pin::new(&mut waiting.ticket).poll(cx) {
            let step = match self.waiting.take() {
                Some(waiting) => self.granted(*waiting, grant.unwrap_or(Err(CheckoutError::Removed))),
                None => Step::Read,
            };
            return Poll::Ready(step);
        }
        if self.io.poll_gone(cx).is_ready() {
            return self.give_up(Report::fatal("08006", "client unexpected eof"));
        }
        // The janitor wakes those that wait, so that they look at the clock.
        match self.look_at_clock() {
            Some(report) => self.give_up(report),
            None => Poll::Pending,
        }
    }

    fn give_up(&mut self, report: Report) -> Poll<Step> {
        self.waiting = None;
        Poll::Ready(Step::Slow(Slow::fail(report)))
    }

    /// Whether the client has waited too long; tells it once that it waits.
    fn look_at_clock(&mut self) -> Option<Report> {
        let waiting = self.waiting.as_mut()?;
        let (waited, shard) = (waiting.since.elapsed(), waiting.decided.shard);
        if self.limits.query_wait_timeout.is_some_and(|timeout| waited >= timeout) {
            return Some(self.waited_in_vain(shard));
        }
        let notify = self.limits.query_wait_notify;
        if notify > Duration::ZERO && waited >= notify && !waiting.told {
            waiting.told = true;
            if let Step::End(End::Client(text)) = self.reply(&queued_notice()) {
                return Some(Report::fatal("08006", text));
            }
        }
        None
    }

    fn granted(&mut self, waiting: Waiting, grant: Result<Lease, CheckoutError>) -> Step {
        let Waiting { decided, since, .. } = waiting;
        let mut lease = match grant {
            Ok(lease) => lease,
            Err(error) => return Step::Slow(Slow::fail(self.no_server(decided.shard, &error))),
        };
        lease.counters.wait_time += since.elapsed().as_micros() as u64;
        self.client.set_state(ClientState::Active);
        self.take_one(lease);
        if self.upstream.with_map(|map| map.version()) != decided.map_version {
            // The organization may live elsewhere by now.
            return Step::Read;
        }
        let max_packet = self.limits.max_packet_size;
        let resume = |session: &mut Self, input: &[u8]| match cut(input, max_packet) {
            Ok(cut @ (Cut::Alone(end) | Cut::Synced(end) | Cut::Open(end))) => {
                session.dispatch(Ok(decided), &input[..end], cut)
            }
            _ => (0, None),
        };
        self.on_input(resume).unwrap_or(Step::Read)
    }
}

/// What a client in the queue is told after `query_wait_notify`.
pub(super) fn queued_notice() -> Vec<u8> {
    let mut out = Vec::new();
    message::notice(&mut out, "00000", "No server connection available in postgres backend, client being queued", "");
    out
}
