//! A decided request in a pool's queue: it waits in the session's own poll function, without a timer and without being decided
//! again, because with more clients than servers nearly every request comes this way.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use quanta::Instant;
use sluice_wire::message::{self, Report};

use super::request::{Cut, cut};
use super::run::{Slow, Step};
use super::send::{Decided, unknown_shard};
use super::settle::eviction_report;
use super::{End, Session};
use crate::pool::{CheckoutError, Lease, Ticket};
use crate::quota::Place;
use crate::registry::ClientState;

/// A place in the queue, and what for.
pub(super) struct Waiting {
    queue: Queue,
    decided: Decided,
    since: Instant,
    /// The client was told (`query_wait_notify`).
    told: bool,
}

/// What it waits in.
enum Queue {
    /// For a server of its pool.
    Pool(Ticket),
    /// At the gate of its user, database or tenant.
    Gate(Place),
}

impl Session {
    /// Waits until its user, database or tenant may do more.
    pub(super) fn wait_at_gate(&mut self, (decided, place): (Decided, Place)) {
        self.begin_wait();
        let (queue, since) = (Queue::Gate(place), Instant::now());
        self.waiting = Some(Box::new(Waiting { queue, decided, since, told: false }));
    }

    /// Takes a place in the queue of the shard's pool for the request at the head of the input.
    pub(super) fn queue(&mut self, decided: Decided) -> Result<(), Report> {
        let shard = decided.shard;
        let Some(pool) = self.upstream.pool(shard) else { return Err(unknown_shard(shard)) };
        match pool.checkout(false) {
            // Just now given back. The request is decided again, which doesn't happen often enough to matter.
            Ok(Ok(lease)) => {
                self.take_one(lease);
                self.begin_passed(decided.passes);
            }
            Ok(Err(ticket)) => {
                self.begin_wait();
                let (queue, since) = (Queue::Pool(ticket), Instant::now());
                self.waiting = Some(Box::new(Waiting { queue, decided, since, told: false }));
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
        if let Poll::Ready(step) = self.poll_queue(cx) {
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

    fn poll_queue(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        let Some(waiting) = &mut self.waiting else { return Poll::Ready(Step::Read) };
        match &mut waiting.queue {
            Queue::Pool(ticket) => {
                let grant = ready!(Pin::new(ticket).poll(cx)).unwrap_or(Err(CheckoutError::Removed));
                let Some(waiting) = self.waiting.take() else { return Poll::Ready(Step::Read) };
                Poll::Ready(self.granted(*waiting, grant))
            }
            Queue::Gate(place) => {
                let pass = ready!(Pin::new(&mut place.grant).poll(cx));
                let Some(mut waiting) = self.waiting.take() else { return Poll::Ready(Step::Read) };
                if let (Queue::Gate(place), Ok(pass)) = (&waiting.queue, pass) {
                    place.passed(pass, waiting.decided.passes.get_or_insert_default());
                }
                self.client.set_state(ClientState::Active);
                Poll::Ready(self.go_on(waiting.decided))
            }
        }
    }

    fn give_up(&mut self, report: Report) -> Poll<Step> {
        self.waiting = None;
        Poll::Ready(Step::Slow(Slow::fail(report)))
    }

    /// Whether the client has waited too long; tells it once that it waits.
    fn look_at_clock(&mut self) -> Option<Report> {
        let waiting = self.waiting.as_mut()?;
        let waited = waiting.since.elapsed();
        if self.limits.query_wait_timeout.is_some_and(|timeout| waited >= timeout) {
            return Some(match &waiting.queue {
                Queue::Gate(place) => over_limit(place),
                Queue::Pool(_) => {
                    let shard = waiting.decided.shard;
                    self.waited_in_vain(shard)
                }
            });
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
        self.go_on(decided)
    }

    /// The wait is over.
    fn go_on(&mut self, decided: Decided) -> Step {
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

fn over_limit(place: &Place) -> Report {
    Report::fatal("57014", "query_wait_timeout")
        .detail(format!("The transaction could not begin in time because of {}.", place.limit()))
        .hint("send fewer transactions, or raise the limit or query_wait_timeout")
}

/// What a client in the queue is told after `query_wait_notify`.
pub(super) fn queued_notice() -> Vec<u8> {
    let mut out = Vec::new();
    message::notice(&mut out, "00000", "No server connection available in postgres backend, client being queued", "");
    out
}
