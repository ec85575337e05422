//! The session's loop: read a request, decide, send, relay the responses, give the server back.
//!
//! Hot path. An ordinary statement goes through [`Session::poll_request`] and the relay without an allocation and without
//! an await between reading and sending. Everything that has to wait (for a server, for settings to be applied, for several
//! shards) is boxed away behind `slow`, so that an idle client's future stays small.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use sluice_router::ShardId;
use sluice_wire::message::{Report, Status};

use super::request::Deny;
use super::send::Decided;
use super::settle::{After, eviction_report};
use super::{End, Limits, Link, Session, Shared};
use crate::config::PoolMode;
use crate::executor::relay::{Flow, RelayError, poll_responses};
use crate::net::{Io, with_scratch};
use crate::pool::Lease;
use crate::quota::Place;
use crate::registry::{ClientHandle, ClientState, Eviction};
use crate::upstream::Upstream;
use crate::vars::Vars;

/// What the loop does next.
pub(super) enum Step {
    /// Responses are to be relayed.
    Relay,
    /// The request at the head of `input` needs something that takes time.
    Slow(Slow),
    /// The client may send (more).
    Read,
    End(End),
}

/// Why the loop has to stop for more than the two sockets.
enum Turn {
    Slow(Slow),
    /// Ask the server whether what pinned it is gone.
    Unpin,
    /// Run this on the transaction's servers.
    Restore(String),
    Stopped(Stop),
    End(End),
}

/// Why a request could not be sent at once.
#[derive(Debug)]
pub(super) enum Slow {
    /// No free server for a request that is decided.
    Wait(Box<Decided>),
    /// Its user, database or tenant has as much under way as it may.
    Quota(Box<(Decided, Place)>),
    /// No free server on that shard, and nothing decided yet.
    Checkout(ShardId),
    /// The server has other settings than the client, or leftovers of another one.
    Prepare(String),
    /// The server lacks statements that the client prepared with SQL, or has others under their names.
    Statements(Vec<super::sql_prepared::Step>),
    /// Neither a plain BEGIN nor nothing: the prologue's outcome has to be awaited.
    Enlist(ShardId),
    /// Statements that are not simply sent.
    Control,
    Deny(Deny),
    Fail(Box<Report>),
}

impl Slow {
    pub(super) fn fail(report: Report) -> Self {
        Self::Fail(Box::new(report))
    }
}

/// What has to be waited for. It comes and goes, and takes no room in the futures of clients that wait for nothing.
pub(super) type Later<'a> = Pin<Box<dyn Future<Output = Result<(), End>> + Send + 'a>>;

/// Everything a session is made of.
pub struct Parts {
    pub io: Io,
    pub client: ClientHandle,
    pub upstream: Arc<Upstream>,
    pub shared: Arc<Shared>,
    pub limits: Arc<Limits>,
    pub vars: Arc<Vars>,
    /// Bytes that came behind the login.
    pub input: Vec<u8>,
}

/// Serves a client from its `login` until it leaves. This future lives as long as its client, so it keeps nothing but the
/// session: whatever is passed on to an `async fn`, or looked at by a `match` with an await inside, would be in it twice.
#[expect(clippy::manual_async_fn, reason = "its future would be larger")]
pub fn serve(login: Pin<Box<impl Future<Output = Option<Box<Parts>>> + Send>>) -> impl Future<Output = ()> + Send {
    async move {
        let Some(parts) = login.await else { return };
        let mut session = Session::new(parts);
        poll_fn(|cx| session.poll_start(cx)).await;
        loop {
            let turn = poll_fn(|cx| session.poll_turns(cx)).await;
            if let Err(end) = session.later(turn).await {
                return session.log_end(&end);
            }
        }
    }
}

impl Session {
    /// Takes the box, so that its memory goes back at once.
    #[expect(clippy::boxed_local, reason = "unboxed by the caller, it would be part of the session's future")]
    fn new(parts: Box<Parts>) -> Self {
        let parts = *parts;
        parts.upstream.count_client(true);
        let now = quanta::Instant::now();
        let mut session = Self {
            io: parts.io,
            client: parts.client,
            upstream: parts.upstream,
            shared: parts.shared,
            limits: parts.limits,
            link: Link::None,
            flow: Default::default(),
            input: parts.input,
            vars: parts.vars.clone(),
            base_vars: parts.vars,
            statements: None,
            pending: None,
            path: Default::default(),
            path_unknown: false,
            pinned: false,
            relaying: false,
            waiting: None,
            reread: false,
            open: false,
            skip_to_sync: false,
            is_timed: false,
            is_transaction_timed: false,
            request_at: now,
            transaction_at: now,
        };
        session.update_path();
        session
    }

    fn log_end(&self, end: &End) {
        let (End::Client(reason) | End::Us(reason)) = end;
        if self.limits.log_disconnections {
            let age = self.age().as_secs();
            tracing::info!("{} closing because: {reason} (age={age}s)", self.client.log_prefix());
        }
    }

    /// `log_pooler_errors`: what a client hears of us.
    pub(super) fn log_error(&self, report: &Report) {
        if self.limits.log_errors {
            tracing::warn!("{} pooler error: {}", self.client.log_prefix(), report.message);
        }
    }

    fn poll_start(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.client.set_state(ClientState::Idle);
        self.client.watch_eviction(cx.waker());
        Poll::Ready(())
    }

    /// One kind of future for all, so that the session's own has room for one.
    fn later(&mut self, turn: Turn) -> Later<'_> {
        match turn {
            Turn::Slow(slow) => self.slow(slow),
            Turn::Unpin => Box::pin(self.try_unpin()),
            Turn::Restore(sql) => Box::pin(async move { self.restore(&sql).await }),
            Turn::Stopped(Stop::Relay(RelayError::Stale)) => Box::pin(self.replan()),
            Turn::Stopped(stop) => Box::pin(async move { Err(self.stopped(stop).await) }),
            Turn::End(end) => Box::pin(std::future::ready(Err(end))),
        }
    }

    /// Request after request, for as long as nothing has to be waited for but the two sockets.
    fn poll_turns(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        if self.client.is_to_rest() {
            return self.poll_rest(cx);
        }
        loop {
            if !self.relaying {
                let step = if self.waiting.is_some() { self.poll_wait(cx) } else { self.poll_request(cx) };
                match ready!(step) {
                    Step::Read => {}
                    Step::Relay => self.relaying = true,
                    Step::Slow(Slow::Wait(decided)) => {
                        if let Err(report) = self.queue(*decided) {
                            return Poll::Ready(Turn::Slow(Slow::fail(report)));
                        }
                    }
                    Step::Slow(Slow::Quota(held_up)) => self.wait_at_gate(*held_up),
                    Step::Slow(slow) => return Poll::Ready(Turn::Slow(slow)),
                    Step::End(end) => return Poll::Ready(Turn::End(end)),
                }
                continue;
            }
            let relayed = ready!(self.poll_relay(cx));
            self.relaying = false;
            if let Err(stop) = relayed {
                return Poll::Ready(Turn::Stopped(stop));
            }
            if self.flow.copy_in || self.open || self.server().is_some_and(|server| server.pending > 0) {
                continue;
            }
            match self.answered() {
                After::Done => {}
                After::Unpin => return Poll::Ready(Turn::Unpin),
                After::Restore(sql) => return Poll::Ready(Turn::Restore(sql)),
                After::End(end) => return Poll::Ready(Turn::End(end)),
            }
        }
    }

    /// SUSPEND: what the client has not taken yet is written, and nothing is read. The client's entry wakes it up again.
    #[cold]
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        // An error is found again when the session goes on.
        if self.io.poll_flush(cx, &mut self.flow.unsent).is_ready() {
            self.client.rests();
        }
        Poll::Pending
    }

    async fn stopped(&mut self, stop: Stop) -> End {
        match stop {
            Stop::Evicted(eviction) => self.evicted(eviction).await,
            Stop::Relay(error) => self.relay_failed(error).await,
        }
    }

    /// Reads a request and sends it on, if nothing stands in the way.
    #[inline]
    fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        if let Some(eviction) = self.client.eviction_at_rest()
            && self.goes_now(eviction)
        {
            return Poll::Ready(Step::Slow(Slow::fail(eviction_report(eviction))));
        }
        if !self.flow.unsent.is_empty() && ready!(self.io.poll_flush(cx, &mut self.flow.unsent)).is_err() {
            return Poll::Ready(Step::End(End::Client("client unexpected eof".to_owned())));
        }
        if self.client.has_mail()
            && let Some(step) = self.deliver()
        {
            return Poll::Ready(step);
        }
        if !self.input.is_empty()
            && let Some(step) = self.on_input(Self::step)
        {
            return Poll::Ready(step);
        }
        if let Poll::Ready(step) = self.poll_servers(cx) {
            return Poll::Ready(step);
        }
        with_scratch(|scratch| match ready!(self.io.poll_read(cx, scratch)) {
            Ok(0) => Poll::Ready(Step::End(End::Client("client unexpected eof".to_owned()))),
            Err(error) => Poll::Ready(Step::End(End::Client(format!("client unexpected eof: {error}")))),
            Ok(count) => Poll::Ready(self.on_bytes(&scratch[..count])),
        })
    }

    /// A server may speak although nothing was asked: notifications to a pinned session, or its end, which the client of an
    /// open transaction should not learn only when it has sent more.
    fn poll_servers(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        let shared = !self.pinned && self.upstream.mode != PoolMode::Session;
        let Self { link, io, flow, .. } = self;
        let heard = match link {
            Link::One(server) if !shared => poll_unasked(cx, server, io, flow),
            Link::Transaction(transaction) => {
                let mut servers = transaction.participants.iter_mut().map(|participant| &mut participant.lease);
                servers
                    .find_map(|server| match poll_unasked(cx, server, io, flow) {
                        Poll::Ready(report) => Some(report),
                        Poll::Pending => None,
                    })
                    .map_or(Poll::Pending, Poll::Ready)
            }
            _ => Poll::Pending,
        };
        heard.map(|report| Step::Slow(Slow::fail(report)))
    }

    /// Deals with the head of what was read before.
    pub(super) fn on_input(&mut self, deal: impl FnOnce(&mut Self, &[u8]) -> (usize, Option<Step>)) -> Option<Step> {
        let input = std::mem::take(&mut self.input);
        let (used, step) = deal(self, &input);
        self.input = input;
        self.input.drain(..used);
        if self.input.is_empty() {
            self.input = Vec::new();
        }
        step
    }

    /// Bytes have arrived. The common case, a whole request and no more, is dealt with where it was read.
    #[inline]
    fn on_bytes(&mut self, bytes: &[u8]) -> Step {
        if !self.input.is_empty() {
            self.input.extend_from_slice(bytes);
            return Step::Read;
        }
        let (used, step) = self.step(bytes);
        self.input.extend_from_slice(&bytes[used..]);
        step.unwrap_or(Step::Read)
    }

    /// Relays responses, and takes COPY data and the rest of a pipeline from the client meanwhile.
    #[inline]
    fn poll_relay(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        if let Some(eviction) = self.client.eviction() {
            return Poll::Ready(Err(Stop::Evicted(eviction)));
        }
        let Self { link, io, flow, open, .. } = self;
        let Some(server) = link.server_mut() else { return Poll::Ready(Ok(())) };
        // A pipeline without its Sync has answers on the way that no ReadyForQuery ends.
        let was_copy_in = flow.copy_in;
        let waits_for_client = *open || was_copy_in;
        let extra = u32::from(waits_for_client);
        server.pending += extra;
        let relayed = poll_responses(cx, server, io, flow);
        server.pending -= extra.min(server.pending);
        // The server gave the COPY up, and ignores everything until the Sync that is still to come.
        *open |= was_copy_in && !flow.copy_in && !flow.simple;
        match relayed {
            Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
            Poll::Ready(Err(error)) => return Poll::Ready(Err(Stop::Relay(error))),
            Poll::Pending => {}
        }
        if server.pending == 0 && !*open && !flow.copy_in {
            // The last answer came while more than it was waited for.
            return Poll::Ready(Ok(()));
        }
        // COPY may just have begun or ended.
        let waits_for_client = *open || flow.copy_in || waits_for_client || self.upstream.mode == PoolMode::Session;
        if waits_for_client && flow.unsent.is_empty() && server.unsent.len() < 1 << 20 {
            if self.has_input() {
                return Poll::Ready(Ok(()));
            }
            let Self { io, .. } = self;
            return match with_scratch(|scratch| {
                let count = ready!(io.poll_read(cx, scratch))?;
                self.input.extend_from_slice(&scratch[..count]);
                Poll::Ready(Ok(count))
            }) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Ok(0)) => gone(io::ErrorKind::UnexpectedEof.into()),
                Poll::Ready(Err(error)) => gone(error),
                Poll::Ready(Ok(_)) => Poll::Ready(Ok(())),
            };
        }
        if io.poll_gone(cx).is_ready() {
            return gone(io::ErrorKind::UnexpectedEof.into());
        }
        Poll::Pending
    }

    pub(super) fn server(&self) -> Option<&Lease> {
        match &self.link {
            Link::None => None,
            Link::One(lease) => Some(lease),
            Link::Transaction(transaction) => transaction.participants.get(transaction.active).map(|p| &p.lease),
        }
    }

    pub(super) fn server_mut(&mut self) -> Option<&mut Lease> {
        self.link.server_mut()
    }

    /// The transaction status that the client is told.
    pub(super) fn status(&self) -> Status {
        match &self.link {
            Link::None => Status::Idle,
            Link::One(lease) => lease.status,
            Link::Transaction(transaction) if transaction.failed => Status::Failed,
            Link::Transaction(transaction) => {
                let failed = transaction.participants.iter().any(|p| p.lease.status == Status::Failed);
                if failed { Status::Failed } else { Status::Transaction }
            }
        }
    }

    /// Answers without a server.
    pub(super) fn reply(&mut self, bytes: &[u8]) -> Step {
        match crate::executor::relay::send(&self.io, &mut self.flow, bytes) {
            Ok(()) => Step::Read,
            Err(error) => Step::End(End::Client(format!("client unexpected eof: {error}"))),
        }
    }

    /// The last words to a client; best effort.
    pub(super) fn say_last(&mut self, report: &Report) {
        self.log_error(report);
        let mut out = Vec::new();
        report.encode(&mut out);
        let _ = crate::executor::relay::send(&self.io, &mut self.flow, &out);
    }
}

/// Why relaying stopped.
pub(super) enum Stop {
    Evicted(Eviction),
    Relay(RelayError),
}

fn gone(error: io::Error) -> Poll<Result<(), Stop>> {
    Poll::Ready(Err(Stop::Relay(RelayError::Client(error))))
}

/// Relays what a server says without being asked. `Ready`: it has gone.
fn poll_unasked(cx: &mut Context<'_>, server: &mut Lease, io: &mut Io, flow: &mut Flow) -> Poll<Report> {
    // One expected answer keeps the relay reading; nothing answers it, so it is never ready but by an error.
    server.pending += 1;
    let result = poll_responses(cx, server, io, flow);
    server.pending = server.pending.saturating_sub(1);
    match result {
        Poll::Ready(Err(error)) => {
            Poll::Ready(Report::fatal("08006", "server conn crashed?").detail(error.to_string()))
        }
        _ => Poll::Pending,
    }
}
