//! A decided request on its way: to the right server, with the client's settings, inside its transaction.
//!
//! Hot path: what is at hand is used at once; whatever has to be waited for is a [`Slow`].

use quanta::Instant;
use sluice_router::map::ShardMap;
use sluice_router::template::Residue;
use sluice_router::{Schema, ShardId};
use sluice_wire::message::{Report, Status};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::listen::hidden_channels;
use super::request::{self, Request, Where};
use super::run::Slow;
use super::transaction::Effect;
use super::{Link, Session};
use crate::config::PoolMode;
use crate::executor::two_phase::Participant;
use crate::pool::{Lease, Unnamed};
use crate::quota::Passes;
use crate::registry::{ClientHandle, ClientState};
use crate::upstream::shard_of;
use crate::vars::transition;

impl Session {
    /// The tables as this session sees them: its transaction's own DDL included.
    pub(super) fn schema<'a>(&'a self, map: &'a ShardMap) -> &'a Arc<Schema> {
        match &self.link {
            Link::Transaction(transaction) => transaction.log.schema.as_ref().unwrap_or(map.schema()),
            _ => map.schema(),
        }
    }

    pub(super) fn context<'a>(&'a self, map: &'a ShardMap) -> request::Context<'a> {
        request::Context {
            router: &self.shared.router,
            map,
            schema: self.schema(map),
            path: self.path,
            standard_strings: !self.flow.escape_strings,
            statements: self.statements.as_deref(),
            tracks_statements: self.limits.max_prepared_statements > 0,
            limits_tenants: self.upstream.quota.limits_tenants(),
            open: self.open,
        }
    }

    /// What the request at the head of the input asks for, and the one shard that runs it.
    #[inline]
    pub(super) fn decide(
        &self,
        read: impl FnOnce(&request::Context<'_>) -> Result<Request, request::Deny>,
    ) -> Result<Decided, Slow> {
        self.upstream.with_map(|map| {
            let request = read(&self.context(map)).map_err(Slow::Deny)?;
            if self.path_unknown && self.upstream.is_sharded() && !request.controls {
                return Err(Slow::fail(super::path::unknown_path()));
            }
            if self.needs_control(&request) {
                return Err(Slow::Control);
            }
            let shard = self.place(&request, map)?;
            Ok(Decided { request, shard, map_version: map.version(), passes: None })
        })
    }

    /// Sends a decided request, if its server is at hand and ready for it.
    #[inline]
    pub(super) fn send(&mut self, mut decided: Decided, bytes: &[u8], syncs: u32) -> Result<(), Slow> {
        let shard = decided.shard;
        if self.upstream.quota.is_limited() {
            decided = self.pass_gates(decided)?;
        }
        if !decided.request.effects.is_empty() {
            self.check_enlisted(&decided.request)?;
        }
        match self.link_to(shard, decided.request.writes) {
            Ok(()) => {}
            Err(Slow::Checkout(_)) => return Err(Slow::Wait(Box::new(decided))),
            Err(slow) => return Err(slow),
        }
        let (request, passes) = (decided.request, decided.passes);
        self.check_strings()?;
        if !request.effects.is_empty() {
            self.check_sql_statements(&request)?;
            if self.hides_channels(&request) {
                return Err(Slow::fail(hidden_channels()));
            }
        }
        let simple = self.flow.simple;
        let in_pipeline = !simple && (syncs == 0 || self.flow.replies.is_some());
        if request.edits || in_pipeline {
            let reading = if request.parses { self.reading(&request.effects) } else { String::new() };
            self.send_edited(bytes, syncs, &reading).map_err(|error| broken(&error))?;
        } else {
            let server = self.server_mut().ok_or(Slow::Control)?;
            if simple {
                server.unnamed = Unnamed::default();
            }
            server.pending += syncs;
            server.send(bytes).map_err(|error| broken(&error))?;
            if !simple {
                self.remember_unnamed(bytes);
            } else if let Some(statements) = &mut self.statements {
                // As PostgreSQL does.
                statements.unnamed = None;
            }
        }
        if passes.is_some() {
            self.begin_passed(passes);
        }
        self.sent(request, shard, in_pipeline);
        Ok(())
    }

    /// A transaction that is about to take its first server passes the gates of its user, database and tenant, or waits there.
    #[cold]
    fn pass_gates(&self, mut decided: Decided) -> Result<Decided, Slow> {
        let has_passed = match &self.link {
            Link::Transaction(transaction) => !transaction.participants.is_empty(),
            _ => self.server().is_some_and(|server| server.passes.is_some()),
        };
        if has_passed {
            return Ok(decided);
        }
        let passes = decided.passes.get_or_insert_default();
        match self.upstream.quota.enter(decided.request.tenant, passes) {
            Ok(()) => Ok(decided),
            Err(place) => Err(Slow::Quota(Box::new((decided, place)))),
        }
    }

    #[cold]
    pub(super) fn begin_passed(&mut self, passes: Option<Box<Passes>>) {
        let Some(server) = self.server_mut() else { return };
        server.passes = passes;
        if let Some(passes) = &mut server.passes {
            passes.begin();
        }
    }

    /// The request is not simply sent to one server.
    pub(super) fn needs_control(&self, request: &Request) -> bool {
        if request.ddl || matches!(request.place, Where::Everywhere | Where::CopyRows(_)) {
            return true;
        }
        match &self.link {
            Link::Transaction(transaction) => {
                let is_sharded = self.upstream.is_sharded();
                transaction.failed
                    || (is_sharded && (request.outside_transaction || request.begins))
                    || (request.controls
                        && (transaction.participants.len() > 1
                            || !transaction.log.changes.is_empty()
                            || (transaction.participants.is_empty() && is_for_session(request))))
            }
            _ if !request.effects.is_empty() && self.runs_without_server(request) => true,
            // Lazily begun: no server is needed for it.
            Link::None => request.begins && self.upstream.mode == PoolMode::Transaction && !self.open,
            Link::One(_) => request.begins && self.pinned && !self.open,
        }
    }

    #[cold]
    fn runs_without_server(&self, request: &Request) -> bool {
        self.forgets_without_server(request) || self.listens_by_pool(request)
    }

    /// The one shard that runs it.
    pub(super) fn place(&self, request: &Request, map: &ShardMap) -> Result<ShardId, Slow> {
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
                Link::One(lease) => shard_of(lease.pool(), map),
                Link::None => map.any(self.client.id),
            }),
        }
    }

    /// Makes `shard`'s server the current one, with the client's settings and inside its transaction.
    pub(super) fn link_to(&mut self, shard: ShardId, writes: bool) -> Result<(), Slow> {
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

    pub(super) fn checkout_now(&self, shard: ShardId) -> Result<Lease, Slow> {
        let pool = self.upstream.pool(shard).ok_or_else(|| Slow::fail(unknown_shard(shard)))?;
        pool.try_checkout().ok_or(Slow::Checkout(shard))
    }

    /// A server joins the transaction: with a bare BEGIN in the same packet as the statement, if that is all it needs.
    pub(super) fn enlist_now(&mut self, shard: ShardId, writes: bool) -> Result<(), Slow> {
        let Link::Transaction(transaction) = &self.link else { return Ok(()) };
        if self.open {
            return Err(Slow::fail(one_pipeline(
                transaction.participants.get(transaction.active).map_or(0, |p| p.shard.index() as u16),
                shard,
            )));
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
        if transaction.participants.is_empty() {
            // BEGIN was a query of the client's, and there was no server yet to count it.
            participant.lease.counters.query_count += 1;
        }
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

    pub(super) fn check_settings(&mut self) -> Result<(), Slow> {
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
    pub(super) fn check_strings(&mut self) -> Result<(), Slow> {
        match self.server().map(|server| server.escape_strings) {
            Some(escapes) if escapes != self.flow.escape_strings => self.read_anew(escapes),
            _ => Ok(()),
        }
    }

    #[cold]
    pub(super) fn read_anew(&mut self, escapes: bool) -> Result<(), Slow> {
        if self.reread {
            let report = Report::error("55000", "the shards differ in standard_conforming_strings");
            return Err(Slow::fail(report.hint("set it to on for all roles and databases")));
        }
        self.reread = true;
        self.flow.escape_strings = escapes;
        Err(Slow::Prepare(String::new()))
    }

    /// Book-keeping once a request is on its way.
    pub(super) fn sent(&mut self, mut request: Request, shard: ShardId, in_pipeline: bool) {
        self.reread = false;
        self.begin_timing(Instant::now());
        self.client.request_began(self.client.clock());
        self.client.set_state(ClientState::Active);
        if let (Some((name, true)), Link::Transaction(transaction)) = (&request.cursor, &mut self.link) {
            transaction.cursors.push((name.clone(), shard));
        }
        let Some(server) = self.server_mut() else { return };
        server.counters.query_count += 1;
        let id = server.entry.id;
        self.client.link(id);
        let residue = request.residue;
        if in_pipeline {
            // An error in one part makes the server skip what comes in the next ones: all are counted.
            request.effects.resize(request.statements, Effect::None);
        }
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
}

/// A request that one shard runs, under the map in force when it was read.
#[derive(Debug)]
pub(super) struct Decided {
    pub(super) request: Request,
    pub(super) shard: ShardId,
    pub(super) map_version: u64,
    /// The gates that its transaction has passed.
    pub(super) passes: Option<Box<Passes>>,
}

impl Request {
    /// A message that we don't look into.
    pub(super) fn opaque() -> Self {
        let residue = Residue { opaque: true, ..Residue::default() };
        Self { writes: true, residue, statements: 1, ..Self::default() }
    }
}

/// One statement that the session deals with, if its transaction has no server yet. A SET isn't: it is validated by a server,
/// even as the first statement; nor another BEGIN, of which PostgreSQL warns.
fn is_for_session(request: &Request) -> bool {
    request.statements <= 1 && !request.begins && !is_setting(request)
}

/// SET alone: it is validated by a server even as the first statement of a transaction.
pub(super) fn is_setting(request: &Request) -> bool {
    request.statements == 1 && matches!(request.effects.last(), Some(Effect::Set(_)))
}

pub(super) fn needs_reset(lease: &Lease, client: u64) -> bool {
    lease.suspect && lease.last_client != client
}

pub(super) fn own(lease: &mut Lease, client: u64, handle: &ClientHandle) {
    lease.counters.server_assignment_count += 1;
    lease.entry.client.store(client, Ordering::Relaxed);
    handle.link(lease.entry.id);
}

pub(super) fn broken(error: &io::Error) -> Slow {
    Slow::fail(Report::fatal("08006", "server conn crashed?").detail(error.to_string()))
}

pub(super) fn unknown_shard(shard: ShardId) -> Report {
    Report::fatal("57P01", format!("shard {shard} was added after this session began")).hint("reconnect")
}

pub(super) fn one_pipeline(own: u16, shard: ShardId) -> Report {
    Report::fatal("0A000", "a pipeline cannot touch several shards")
        .detail(format!("It began on shard {own}, and a later statement belongs to shard {shard}; without BEGIN they could not succeed or fail as one."))
        .hint("Send Sync between statements for different organizations, or BEGIN before the pipeline.")
}

pub(super) fn bound(own: u16, shard: ShardId) -> Report {
    Report::error("0A000", format!("this session is bound to shard {own} and cannot use shard {shard}"))
        .detail("It keeps something on its server that cannot be carried to another one, such as a session advisory lock.")
        .hint("release it first, or begin a transaction: that may use all shards (and pg_advisory_xact_lock ends with it)")
}
