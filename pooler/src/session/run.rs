//! The session's loop: read a request, decide, send, relay the responses, give the server back.
//!
//! Hot path. An ordinary statement goes through [`Session::poll_request`] and the relay without an allocation and without
//! an await between reading and sending. Everything that has to wait (for a server, for settings to be applied, for several
//! shards) is boxed away behind `slow`, so that an idle client's future stays small.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use sluice_router::ShardId;
use sluice_wire::message::{Report, Status};

use super::request::Deny;
use super::settle::{After, eviction_report};
use super::{End, Limits, Link, Session, Shared};
use crate::config::PoolMode;
use crate::executor::relay::{Flow, RelayError, poll_responses};
use crate::net::{Io, with_scratch};
use crate::pool::Lease;
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

/// Why a request could not be sent at once.
#[derive(Debug)]
pub(super) enum Slow {
    /// No free server on that shard.
    Checkout(ShardId),
    /// The server has other settings than the client, or leftovers of another one.
    Prepare(String),
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

impl Session {
    /// Takes the box, so that its memory goes back at once.
    #[expect(clippy::boxed_local, reason = "unboxed by the caller, it would be part of the session's future")]
    pub fn new(parts: Box<Parts>) -> Self {
        let parts = *parts;
        parts.upstream.count_client(true);
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
            reread: false,
            open: false,
            skip_to_sync: false,
            straight: None,
            request_at: None,
            transaction_at: None,
        };
        session.update_path();
        session
    }

    /// Serves the client until it leaves.
    pub async fn run(&mut self) -> End {
        self.client.set_state(ClientState::Idle);
        loop {
            match self.turn().await {
                Ok(()) => {}
                Err(end) => return end,
            }
        }
    }

    async fn turn(&mut self) -> Result<(), End> {
        match poll_fn(|cx| self.poll_request(cx)).await {
            Step::Read => Ok(()),
            Step::End(end) => Err(end),
            Step::Relay => self.relay().await,
            Step::Slow(slow) => Box::pin(self.slow(slow)).await,
        }
    }

    /// Relays until the request is answered (or the client has to send more), then draws the consequences.
    pub(super) async fn relay(&mut self) -> Result<(), End> {
        let relayed = poll_fn(|cx| self.poll_relay(cx)).await;
        match relayed {
            Ok(()) => {}
            Err(Stop::Evicted(eviction)) => return Err(Box::pin(self.evicted(eviction)).await),
            Err(Stop::Relay(error)) => return Err(Box::pin(self.relay_failed(error)).await),
        }
        if self.flow.copy_in || self.open || self.server().is_some_and(|server| server.pending > 0) {
            return Ok(());
        }
        match self.answered() {
            After::Done => Ok(()),
            After::Unpin => Box::pin(self.try_unpin()).await,
            After::End(end) => Err(end),
        }
    }

    /// Reads a request and sends it on, if nothing stands in the way.
    fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        if let Some(eviction) = self.client.poll_eviction(cx.waker()) {
            return Poll::Ready(Step::Slow(Slow::fail(eviction_report(eviction))));
        }
        if !self.flow.unsent.is_empty() && ready!(self.io.poll_flush(cx, &mut self.flow.unsent)).is_err() {
            return Poll::Ready(Step::End(End::Client("client unexpected eof".to_owned())));
        }
        if !self.input.is_empty() {
            let input = std::mem::take(&mut self.input);
            let (used, step) = self.step(&input);
            self.input = input;
            self.input.drain(..used);
            if self.input.is_empty() {
                self.input = Vec::new();
            }
            if let Some(step) = step {
                return Poll::Ready(step);
            }
        }
        if let Poll::Ready(step) = self.poll_servers(cx) {
            return Poll::Ready(step);
        }
        with_scratch(|scratch| match ready!(self.io.poll_read(cx, scratch)) {
            Ok(0) => Poll::Ready(Step::End(End::Client("client close request".to_owned()))),
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

    /// Deals with the first request of `input`: how much of it is done with, and what comes next (`None`: more input).
    fn step(&mut self, input: &[u8]) -> (usize, Option<Step>) {
        if self.upstream.mode == PoolMode::Session {
            return self.step_session(input);
        }
        if self.flow.copy_in {
            return self.step_copy(input);
        }
        if self.skip_to_sync {
            return self.step_skip(input);
        }
        match request::cut(input, self.limits.max_packet_size) {
            Err(error) => (0, Some(protocol(&error.to_string()))),
            Ok(Cut::Incomplete) => (0, None),
            Ok(Cut::Alone(end)) => self.step_alone(&input[..end]),
            Ok(Cut::Synced(end)) => self.step_batch(&input[..end], true),
            Ok(Cut::Open(end)) => self.step_batch(&input[..end], false),
        }
    }

    fn step_alone(&mut self, message: &[u8]) -> (usize, Option<Step>) {
        let used = message.len();
        match message[0] {
            b'Q' if self.limits.refuses_simple => (0, Some(protocol(PQEXEC))),
            b'Q' => {
                let map = self.upstream.map();
                let schema = self.schema(&map);
                let decided = self.context(&map, &schema).query(&message[HEADER..]);
                self.flow.simple = true;
                match decided.map_err(Slow::Deny).and_then(|request| self.send(request, &map, message, 1)) {
                    Ok(()) => {
                        // Its ReadyForQuery ends a pipeline that had no Sync yet, too.
                        self.open = false;
                        (used, Some(Step::Relay))
                    }
                    Err(slow) => (0, Some(Step::Slow(slow))),
                }
            }
            b'X' => (used, Some(Step::End(End::Client("client close request".to_owned())))),
            // The rest of a COPY that failed.
            b'd' | b'c' | b'f' => (used, Some(Step::Read)),
            b'F' if !self.upstream.is_sharded() => {
                let map = self.upstream.map();
                self.flow.simple = true;
                let request = Request { place: Where::Shard(map.home()), ..Request::opaque() };
                match self.send(request, &map, message, 1) {
                    Ok(()) => (used, Some(Step::Relay)),
                    Err(slow) => (0, Some(Step::Slow(slow))),
                }
            }
            b'F' => {
                let report = Report::fatal("0A000", "function calls by the fast path are not supported in a sharded database")
                    .hint("call the function with SELECT");
                (0, Some(Step::Slow(Slow::fail(report))))
            }
            tag => (0, Some(protocol(&format!("unexpected message {:?}", char::from(tag))))),
        }
    }

    fn step_batch(&mut self, batch: &[u8], synced: bool) -> (usize, Option<Step>) {
        if batch == message::SYNC && matches!(self.link, Link::None) && !self.open {
            let status = self.status();
            let mut out = Vec::new();
            message::ready(&mut out, status);
            return (batch.len(), Some(self.reply(&out)));
        }
        let map = self.upstream.map();
        let schema = self.schema(&map);
        let decided = self.context(&map, &schema).batch(batch);
        self.flow.simple = false;
        match decided.map_err(Slow::Deny).and_then(|request| self.send(request, &map, batch, u32::from(synced))) {
            Ok(()) => {
                self.open = !synced;
                (batch.len(), Some(Step::Relay))
            }
            Err(slow) => (0, Some(Step::Slow(slow))),
        }
    }

    /// After an error of ours: everything up to Sync is dropped.
    fn step_skip(&mut self, input: &[u8]) -> (usize, Option<Step>) {
        let Some(header) = Header::read(input) else { return (0, None) };
        match header {
            Ok(header) if input.len() as u64 >= header.total => {
                let used = header.total as usize;
                if header.tag == b'S' {
                    self.skip_to_sync = false;
                    let mut out = Vec::new();
                    message::ready(&mut out, self.status());
                    return (used, Some(self.reply(&out)));
                }
                (used, Some(Step::Read))
            }
            Ok(header) if header.total > request::MESSAGE_BUDGET => (0, Some(protocol("message too long"))),
            Ok(_) => (0, None),
            Err(error) => (0, Some(protocol(&error.to_string()))),
        }
    }

    /// COPY data, on its way to the server: as many whole messages as there are.
    fn step_copy(&mut self, input: &[u8]) -> (usize, Option<Step>) {
        let mut used = 0;
        while self.flow.copy_in {
            let rest = &input[used..];
            let Some(header) = Header::read(rest) else { break };
            let header = match header.and_then(|header| {
                check_client_header(header, self.limits.max_packet_size).map(|()| header)
            }) {
                Ok(header) => header,
                Err(error) => return (0, Some(protocol(&error.to_string()))),
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
    fn has_input(&self) -> bool {
        if self.upstream.mode == PoolMode::Session {
            return !self.input.is_empty();
        }
        if self.flow.copy_in {
            return matches!(Header::read(&self.input), Some(Ok(header)) if self.input.len() as u64 >= header.total);
        }
        !matches!(request::cut(&self.input, self.limits.max_packet_size), Ok(Cut::Incomplete))
    }

    /// Session pooling: the server is the client's until it leaves, and nothing between them is changed.
    fn step_session(&mut self, input: &[u8]) -> (usize, Option<Step>) {
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
        let mut sink =
            StraightSink { server, flow: &mut self.flow, refuses_simple, refused: false, terminate: false, error: None };
        let mut scanner = self.straight.take().unwrap_or_default();
        if let Err(error) = scanner.scan(input, &mut sink) {
            return (0, Some(protocol(&error.to_string())));
        }
        let (terminate, refused, error) = (sink.terminate, sink.refused, sink.error);
        if refused {
            return (0, Some(protocol(PQEXEC)));
        }
        if !scanner.is_at_boundary() {
            self.straight = Some(scanner);
        }
        if let Some(error) = error {
            return (0, Some(server_failed(&error)));
        }
        if terminate {
            return (input.len(), Some(Step::End(End::Client("client close request".to_owned()))));
        }
        self.request_at.get_or_insert_with(Instant::now);
        self.transaction_at.get_or_insert_with(Instant::now);
        self.client.request_began(self.client.clock());
        self.client.set_state(ClientState::Active);
        self.open = server.pending == 0;
        (input.len(), Some(Step::Relay))
    }

    pub(super) fn schema(&self, map: &Arc<ShardMap>) -> Arc<Schema> {
        match &self.link {
            Link::Transaction(transaction) if transaction.log.schema.is_some() => {
                transaction.log.schema.clone().unwrap_or_else(|| map.schema().clone())
            }
            _ => map.schema().clone(),
        }
    }

    pub(super) fn context<'a>(&'a self, map: &'a ShardMap, schema: &'a Arc<Schema>) -> request::Context<'a> {
        request::Context {
            router: &self.shared.router,
            map,
            schema,
            path: self.path,
            standard_strings: !self.flow.escape_strings,
            statements: self.statements.as_deref(),
            tracks_statements: self.limits.max_prepared_statements > 0,
        }
    }

    /// Sends a decided request, if its server is at hand and ready for it.
    fn send(&mut self, request: Request, map: &Arc<ShardMap>, bytes: &[u8], syncs: u32) -> Result<(), Slow> {
        if self.path_unknown && self.upstream.is_sharded() && !request.controls {
            return Err(Slow::fail(super::path::unknown_path()));
        }
        if self.needs_control(&request) {
            return Err(Slow::Control);
        }
        let shard = self.place(&request, map)?;
        self.link_to(shard, request.writes)?;
        self.check_strings()?;
        let simple = self.flow.simple;
        let in_pipeline = !simple && (syncs == 0 || self.flow.replies.is_some());
        let server = self.server_mut().ok_or(Slow::Control)?;
        if request.edits || in_pipeline {
            self.send_edited(bytes, syncs).map_err(|error| broken(&error))?;
        } else {
            if simple {
                server.unnamed_of = 0;
            }
            server.pending += syncs;
            server.send(bytes).map_err(|error| broken(&error))?;
            if !simple {
                self.remember_unnamed(bytes);
            }
        }
        self.sent(request, shard);
        Ok(())
    }

    /// The request is not simply sent to one server.
    fn needs_control(&self, request: &Request) -> bool {
        if request.ddl || matches!(request.place, Where::Everywhere | Where::CopyRows(_)) {
            return true;
        }
        match &self.link {
            Link::Transaction(transaction) => {
                transaction.failed
                    || request.outside_transaction
                    || (request.controls
                        && (transaction.participants.len() > 1
                            || !transaction.log.changes.is_empty()
                            || (transaction.participants.is_empty() && !is_setting(request))))
            }
            // Lazily begun: no server is needed for it.
            Link::None => request.begins && self.upstream.mode == PoolMode::Transaction && !self.open,
            Link::One(_) => request.begins && self.pinned && !self.open,
        }
    }

    /// The one shard that runs it.
    fn place(&self, request: &Request, map: &Arc<ShardMap>) -> Result<ShardId, Slow> {
        // A server that failed knows what PostgreSQL still allows in the block; no other one may go on without it.
        if let Link::Transaction(transaction) = &self.link
            && let Some(failed) = transaction.participants.iter().find(|it| it.lease.status == Status::Failed)
        {
            return Ok(failed.shard);
        }
        if let (Some((name, false)), Link::Transaction(transaction)) = (&request.cursor, &self.link)
            && let Some((_, shard)) = transaction.cursors.iter().rev().find(|(known, _)| known == name)
        {
            return Ok(*shard);
        }
        match request.place {
            Where::Shard(shard) => Ok(shard),
            _ => Ok(match &self.link {
                Link::Transaction(transaction) => match transaction.participants.get(transaction.active) {
                    Some(participant) => participant.shard,
                    None => map.any(self.client.id),
                },
                Link::One(lease) => map.shard_ids().find(|shard| lease.pool().key.shard == Some(shard.index() as u16)).unwrap_or(map.home()),
                Link::None => map.any(self.client.id),
            }),
        }
    }

    /// Makes `shard`'s server the current one, with the client's settings and inside its transaction.
    fn link_to(&mut self, shard: ShardId, writes: bool) -> Result<(), Slow> {
        match &mut self.link {
            Link::One(lease) => {
                let own = lease.pool().key.shard;
                if own.is_some() && own != Some(shard.index() as u16) {
                    if self.pinned && !self.open {
                        return Err(Slow::fail(bound(own.unwrap_or_default(), shard)));
                    }
                    if self.open {
                        return Err(Slow::fail(one_pipeline(own.unwrap_or_default(), shard)));
                    }
                    // It was waited for under an older shard map.
                    self.settle(Status::Idle);
                    let lease = self.checkout_now(shard)?;
                    self.take_one(lease);
                }
            }
            Link::Transaction(transaction) => {
                let found = transaction.participants.iter().position(|participant| participant.shard == shard);
                match found {
                    Some(index) => {
                        if self.open && index != transaction.active {
                            let own = transaction.participants[transaction.active].shard;
                            return Err(Slow::fail(one_pipeline(own.index() as u16, shard)));
                        }
                        transaction.active = index;
                        transaction.participants[index].wrote |= writes;
                        let id = transaction.participants[index].lease.entry.id;
                        self.client.link(id);
                        return Ok(());
                    }
                    None => return self.enlist_now(shard, writes),
                }
            }
            Link::None => {
                let lease = self.checkout_now(shard)?;
                self.take_one(lease);
            }
        }
        self.check_settings()
    }

    fn checkout_now(&self, shard: ShardId) -> Result<Lease, Slow> {
        let pool = self.upstream.pool(shard).ok_or_else(|| Slow::fail(unknown_shard(shard)))?;
        pool.try_checkout().ok_or(Slow::Checkout(shard))
    }

    /// A server joins the transaction: with a bare BEGIN in the same packet as the statement, if that is all it needs.
    fn enlist_now(&mut self, shard: ShardId, writes: bool) -> Result<(), Slow> {
        let Link::Transaction(transaction) = &self.link else { return Ok(()) };
        if self.open {
            return Err(Slow::fail(one_pipeline(transaction.participants.get(transaction.active).map_or(0, |p| p.shard.index() as u16), shard)));
        }
        if transaction.opaque {
            return Err(Slow::fail(
                Report::error("0A000", format!("shard {shard} cannot join this transaction"))
                    .detail("The transaction was begun inside a pipeline or together with other statements.")
                    .hint("send BEGIN on its own"),
            ));
        }
        if !transaction.log.is_plain() {
            return Err(Slow::Enlist(shard));
        }
        let before = transaction.log.before().clone();
        let mut lease = match self.checkout_now(shard) {
            Ok(lease) => lease,
            // Not a checkout of its own: that one would take the transaction's place.
            Err(Slow::Checkout(shard)) => return Err(Slow::Enlist(shard)),
            Err(slow) => return Err(slow),
        };
        let reads_otherwise = lease.escape_strings != self.flow.escape_strings;
        if reads_otherwise || needs_reset(&lease, self.client.id) || transition(&lease.applied, &before).is_some() {
            // Untouched: goes back to the pool, and is taken again by the slow way.
            return Err(Slow::Enlist(shard));
        }
        lease.start("BEGIN").map_err(|error| broken(&error))?;
        self.flow.swallow += 1;
        self.join(Participant { shard, lease, wrote: writes });
        Ok(())
    }

    /// Adds a participant that is in the transaction.
    pub(super) fn join(&mut self, mut participant: Participant) {
        let id = self.client.id;
        own(&mut participant.lease, id, &self.client);
        let Link::Transaction(transaction) = &mut self.link else { return };
        transaction.participants.push(participant);
        transaction.active = transaction.participants.len() - 1;
    }

    /// Holds one server.
    pub(super) fn take_one(&mut self, mut lease: Lease) {
        let id = self.client.id;
        if lease.last_client != id && !lease.suspect {
            lease.last_client = id;
        }
        own(&mut lease, id, &self.client);
        self.link = Link::One(lease);
    }

    fn check_settings(&mut self) -> Result<(), Slow> {
        let Link::One(lease) = &self.link else { return Ok(()) };
        if needs_reset(lease, self.client.id) {
            return Err(Slow::Prepare(String::new()));
        }
        if Arc::ptr_eq(&lease.applied, &self.vars) {
            return Ok(());
        }
        match transition(&lease.applied, &self.vars) {
            Some(sql) => Err(Slow::Prepare(sql)),
            None => Ok(()),
        }
    }

    /// The text was read as the server will read it: what a backslash means decides where a string ends, and so what the
    /// key is. If not, the request is decided anew.
    #[inline]
    fn check_strings(&mut self) -> Result<(), Slow> {
        match self.server().map(|server| server.escape_strings) {
            Some(escapes) if escapes != self.flow.escape_strings => self.read_anew(escapes),
            _ => Ok(()),
        }
    }

    #[cold]
    fn read_anew(&mut self, escapes: bool) -> Result<(), Slow> {
        if self.reread {
            let report = Report::error("55000", "the shards differ in standard_conforming_strings");
            return Err(Slow::fail(report.hint("set it to on for all roles and databases")));
        }
        self.reread = true;
        self.flow.escape_strings = escapes;
        Err(Slow::Prepare(String::new()))
    }

    /// Book-keeping once a request is on its way.
    fn sent(&mut self, request: Request, shard: ShardId) {
        self.reread = false;
        let now = Instant::now();
        self.request_at = Some(now);
        self.client.request_began(self.client.clock());
        self.client.set_state(ClientState::Active);
        if let (Some((name, true)), Link::Transaction(transaction)) = (&request.cursor, &mut self.link) {
            transaction.cursors.push((name.clone(), shard));
        }
        let Some(server) = self.server_mut() else { return };
        server.counters.query_count += 1;
        let id = server.entry.id;
        self.client.link(id);
        if self.transaction_at.is_none() {
            self.transaction_at = Some(now);
        }
        let residue = request.residue;
        if request.effects.is_empty() && !residue.pins && !residue.may_unpin && !residue.opaque {
            return;
        }
        let pending = self.pending.get_or_insert_default();
        pending.effects.extend(request.effects);
        pending.pins |= residue.pins;
        pending.may_unpin |= residue.may_unpin;
        pending.opaque |= residue.opaque;
        self.flow.outcome.get_or_insert_default();
    }

    /// Relays responses, and takes COPY data and the rest of a pipeline from the client meanwhile.
    fn poll_relay(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        if let Some(eviction) = self.client.poll_eviction(cx.waker()) {
            return Poll::Ready(Err(Stop::Evicted(eviction)));
        }
        let Self { link, io, flow, open, .. } = self;
        let server = match link {
            Link::One(lease) => lease,
            Link::Transaction(transaction) => match transaction.participants.get_mut(transaction.active) {
                Some(participant) => &mut participant.lease,
                None => return Poll::Ready(Ok(())),
            },
            Link::None => return Poll::Ready(Ok(())),
        };
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
        if flow.swallowed_error {
            let error = io::Error::other("BEGIN failed");
            return Poll::Ready(Err(Stop::Relay(RelayError::Server(error))));
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
        match &mut self.link {
            Link::None => None,
            Link::One(lease) => Some(lease),
            Link::Transaction(transaction) => {
                transaction.participants.get_mut(transaction.active).map(|p| &mut p.lease)
            }
        }
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
        let mut out = Vec::new();
        report.encode(&mut out);
        let _ = crate::executor::relay::send(&self.io, &mut self.flow, &out);
    }

    async fn relay_failed(&mut self, error: RelayError) -> End {
        let RelayError::Client(error) = error else { return self.server_lost(&error) };
        if let Some(server) = self.server() {
            let entry = server.entry.clone();
            if server.pending > 0 {
                // What nobody waits for any more shouldn't go on. The lease is closed behind it.
                Pools::cancel(&entry).await;
            }
        }
        self.close_servers("client disconnect before everything was sent to the server");
        End::Client(format!("client unexpected eof: {error}"))
    }

    fn server_lost(&mut self, error: &RelayError) -> End {
        let name = self.server().map_or(String::new(), |server| server.log_prefix());
        tracing::warn!("{name} closing because: server conn crashed? ({error})");
        let report = Report::fatal("08006", "server conn crashed?")
            .detail(format!("{error} ({name})"))
            .hint("reconnect; if a write was running, check whether it took effect before you run it again");
        self.say_last(&report);
        self.close_servers("server conn crashed?");
        End::Us("server conn crashed?".to_owned())
    }

    async fn evicted(&mut self, eviction: Eviction) -> End {
        let report = eviction_report(eviction);
        if let Some(server) = self.server()
            && server.pending > 0
        {
            let entry = server.entry.clone();
            Pools::cancel(&entry).await;
        }
        self.close_servers(&report.message);
        self.say_last(&report);
        End::Us(report.message)
    }

    pub(super) fn close_servers(&mut self, reason: &str) {
        self.client.link(0);
        match std::mem::replace(&mut self.link, Link::None) {
            Link::None => {}
            Link::One(lease) => lease.close(reason),
            Link::Transaction(transaction) => {
                for participant in transaction.participants {
                    participant.lease.close(reason);
                }
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.upstream.count_client(false);
        self.client.link(0);
        let Link::One(lease) = std::mem::replace(&mut self.link, Link::None) else { return };
        if self.upstream.mode == PoolMode::Session && lease.is_settled() && !self.pinned {
            lease.reset();
        } else {
            drop(lease);
        }
    }
}

impl Transaction {
    pub(super) fn new(log: TransactionLog) -> Self {
        Self {
            log,
            participants: Vec::new(),
            active: 0,
            failed: false,
            opaque: false,
            cursors: Vec::new(),
        }
    }
}

impl Request {
    /// A message that we don't look into.
    fn opaque() -> Self {
        let mut request = Self::default();
        request.writes = true;
        request.residue.opaque = true;
        request.statements = 1;
        request
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

/// What follows an answered request.
pub(super) enum After {
    Done,
    /// Ask the server whether what pinned it is gone.
    Unpin,
    End(End),
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

/// SET alone: it is validated by a server even as the first statement of a transaction.
fn is_setting(request: &Request) -> bool {
    request.statements == 1 && matches!(request.effects.last(), Some(super::transaction::Effect::Set(_)))
}

pub(super) fn needs_reset(lease: &Lease, client: u64) -> bool {
    lease.suspect && lease.last_client != client
}

fn own(lease: &mut Lease, client: u64, handle: &ClientHandle) {
    lease.counters.server_assignment_count += 1;
    lease.entry.client.store(client, Ordering::Relaxed);
    handle.link(lease.entry.id);
}

/// What a client hears that sends a simple query in spite of `disable_pqexec`.
const PQEXEC: &str = "PQexec disallowed";

fn protocol(text: &str) -> Step {
    Step::Slow(Slow::fail(Report::fatal("08P01", text)))
}

fn broken(error: &io::Error) -> Slow {
    Slow::fail(Report::fatal("08006", "server conn crashed?").detail(error.to_string()))
}

fn server_failed(error: &io::Error) -> Step {
    Step::Slow(broken(error))
}

fn unknown_shard(shard: ShardId) -> Report {
    Report::fatal("57P01", format!("shard {shard} was added after this session began")).hint("reconnect")
}

fn one_pipeline(own: u16, shard: ShardId) -> Report {
    Report::fatal("0A000", "a pipeline cannot touch several shards")
        .detail(format!("It began on shard {own}, and a later statement belongs to shard {shard}; without BEGIN they could not succeed or fail as one."))
        .hint("Send Sync between statements for different organizations, or BEGIN before the pipeline.")
}

fn bound(own: u16, shard: ShardId) -> Report {
    Report::error("0A000", format!("this session is bound to shard {own} and cannot use shard {shard}"))
        .detail("It keeps something on its server that cannot be carried to another one, such as a session advisory lock.")
        .hint("release it first, or begin a transaction: that may use all shards (and pg_advisory_xact_lock ends with it)")
}

fn eviction_report(eviction: Eviction) -> Report {
    let (text, sqlstate) = eviction.report();
    Report::fatal(sqlstate, text)
}
