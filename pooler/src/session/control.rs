//! What is not simply sent to one server: waiting for one, making it ready, BEGIN and its kin over several shards,
//! statements that run on all shards, and refusals.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use sluice_router::template::{Action, SchemaChange};
use sluice_router::{Refusal, ShardId, Template};
use sluice_wire::frame::{Bind, Frames, HEADER, Named, Parse, query_text};
use sluice_wire::message::{self, Report, Severity, Status};

use super::request::{Cut, Deny, Request, Where, cut, split_tail};
use super::run::{After, Slow, needs_reset};
use super::transaction::{Effect, TransactionLog};
use super::{End, Link, Pending, Session, Transaction};
use crate::pool::Done;
use crate::executor::two_phase::{self, CommitError, Participant};
use crate::pool::{CheckoutError, Lease};
use crate::registry::ClientState;
use crate::vars::{Vars, transition};

/// Puts a server back to what it was after login, but for its prepared statements.
const RESET: &str = "RESET SESSION AUTHORIZATION; RESET ALL; CLOSE ALL; UNLISTEN *; SELECT pg_catalog.pg_advisory_unlock_all(); \
                     DISCARD TEMP; DISCARD SEQUENCES";

/// Does anything on this server still keep a session from sharing it?
const STILL_PINNED: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid()) \
     OR EXISTS (SELECT FROM pg_catalog.pg_class WHERE relpersistence = 't' AND relnamespace = pg_catalog.pg_my_temp_schema()) \
     OR EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable) \
     OR EXISTS (SELECT FROM pg_catalog.pg_listening_channels()) \
     OR EXISTS (SELECT FROM pg_catalog.pg_prepared_statements WHERE from_sql)";

impl Session {
    /// Deals with what [`Slow`] says, so that the loop can go on.
    pub(super) async fn slow(&mut self, slow: Slow) -> Result<(), End> {
        let result = match slow {
            Slow::Checkout(shard) => self.checkout(shard).await,
            Slow::Prepare(sql) => self.prepare_server(sql).await,
            Slow::Enlist(shard) => self.enlist(shard).await,
            Slow::Control => self.control().await,
            Slow::Deny(deny) => Err(deny_report(deny, &self.input)),
            Slow::Fail(report) => Err(*report),
        };
        match result {
            Ok(()) => Ok(()),
            Err(report) => self.fail(&report).await,
        }
    }

    /// Tells the client of an error of ours, and takes the request that it answers off the input.
    async fn fail(&mut self, report: &Report) -> Result<(), End> {
        let mut out = Vec::new();
        report.encode(&mut out);
        let in_pipeline = self.open && matches!(self.link, Link::One(_) | Link::Transaction(_));
        if report.severity == Severity::Fatal || in_pipeline {
            let _ = self.io.write_all(&out).await;
            tracing::warn!("{} pooler error: {}", self.log_prefix(), report.message);
            self.close_servers(&report.message);
            return Err(End::Us(report.message.clone()));
        }
        self.finish_request(out, true).await
    }

    /// Sends `out` as the answer to the request at the head of the input. In the extended protocol the answer to its Sync
    /// comes behind it.
    async fn finish_request(&mut self, mut out: Vec<u8>, failed: bool) -> Result<(), End> {
        if failed && let Link::Transaction(transaction) = &mut self.link {
            transaction.failed = true;
        }
        match cut(&self.input, self.limits.max_packet_size) {
            Ok(Cut::Alone(end) | Cut::Synced(end)) => {
                self.input.drain(..end);
                message::ready(&mut out, self.status());
            }
            Ok(Cut::Open(end)) => {
                self.input.drain(..end);
                self.skip_to_sync = failed;
            }
            Ok(Cut::Incomplete) | Err(_) => message::ready(&mut out, self.status()),
        }
        if failed {
            self.give_back_idle();
        }
        self.client.set_state(ClientState::Idle);
        self.io.write_all(&out).await.map_err(|error| End::Client(format!("client unexpected eof: {error}")))
    }

    /// A server that was taken for a request that failed before it was sent.
    fn give_back_idle(&mut self) {
        if !self.pinned && matches!(&self.link, Link::One(lease) if lease.is_settled()) {
            self.settle(Status::Idle);
        }
    }

    async fn checkout(&mut self, shard: ShardId) -> Result<(), Report> {
        let lease = self.wait_for(shard).await?;
        self.take_one(lease);
        Ok(())
    }

    /// A server of `shard`, waiting in the pool's queue if need be.
    async fn wait_for(&mut self, shard: ShardId) -> Result<Lease, Report> {
        let Some(pool) = self.upstream.pool(shard).cloned() else {
            return Err(Report::fatal("57P01", format!("shard {shard} was added after this session began")).hint("reconnect"));
        };
        let began = Instant::now();
        let mut ticket = match pool.checkout() {
            Ok(Ok(lease)) => return Ok(lease),
            Ok(Err(ticket)) => ticket,
            Err(error) => return Err(self.no_server(shard, &error)),
        };
        self.client.set_state(ClientState::Waiting);
        let deadline = self.limits.query_wait_timeout.map(|timeout| began + timeout);
        let mut notify = (!self.limits.query_wait_notify.is_zero()).then(|| began + self.limits.query_wait_notify);
        loop {
            let wake = [deadline, notify].into_iter().flatten().min().unwrap_or_else(|| began + FOREVER);
            tokio::select! {
                biased;
                grant = &mut ticket => {
                    self.client.set_state(ClientState::Active);
                    let mut lease = grant.map_err(|_| Report::fatal("57P01", "database removed"))?
                        .map_err(|error| self.no_server(shard, &error))?;
                    lease.counters.wait_time += began.elapsed().as_micros() as u64;
                    return Ok(lease);
                }
                report = self.interrupted() => return Err(report),
                () = tokio::time::sleep_until(wake.into()) => {
                    if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                        return Err(Report::fatal("57014", "query_wait_timeout")
                            .detail(format!("No server of {} became free in time.", self.pool_name(shard)))
                            .hint("raise default_pool_size or query_wait_timeout, or see SHOW POOLS for what keeps the servers busy"));
                    }
                    notify = None;
                    let mut out = Vec::new();
                    message::notice(&mut out, "00000", "No server connection available in postgres backend, client being queued", "");
                    let _ = self.io.write_all(&out).await;
                }
            }
        }
    }

    /// The client has gone, or is told to go.
    async fn interrupted(&self) -> Report {
        poll_fn(|cx| {
            if let Some(eviction) = self.client.poll_eviction(cx.waker()) {
                let (text, sqlstate) = eviction.report();
                return Poll::Ready(Report::fatal(sqlstate, text));
            }
            self.io.poll_gone(cx).map(|()| Report::fatal("08006", "client unexpected eof"))
        })
        .await
    }

    fn pool_name(&self, shard: ShardId) -> String {
        if self.upstream.is_sharded() {
            format!("database \"{}\", shard {shard}", self.upstream.database)
        } else {
            format!("database \"{}\"", self.upstream.database)
        }
    }

    /// In a sharded database the other shards go on, so the session does too.
    fn no_server(&self, shard: ShardId, error: &CheckoutError) -> Report {
        let sqlstate = match error {
            CheckoutError::Refused(error) | CheckoutError::Failing(error) => error.sqlstate().to_owned(),
            CheckoutError::Removed => "57P01".to_owned(),
        };
        if !self.upstream.is_sharded() {
            return Report::fatal(&sqlstate, error.to_string());
        }
        let placement = self.upstream.map().placement(shard).clone();
        Report::error(&sqlstate, format!("shard {shard} of database \"{}\" is not available", self.upstream.database))
            .detail(format!("{error} (host {}, port {}, database {})", placement.host, placement.port, placement.dbname))
            .hint("Nothing was run. Statements for organizations on other shards go on.")
    }

    /// Brings the held server to this client's settings.
    async fn prepare_server(&mut self, sql: String) -> Result<(), Report> {
        let (id, vars) = (self.client.id, self.vars.clone());
        let none = self.shared.vars.intern(Vec::new());
        let Link::One(lease) = &mut self.link else { return Ok(()) };
        let session_mode = self.upstream.mode == crate::config::PoolMode::Session;
        let wanted = if session_mode && !lease.suspect && sql.is_empty() { lease.applied.clone() } else { vars };
        let result = make_ready(lease, id, &wanted, &none).await;
        if let Err(report) = &result
            && report.severity == Severity::Fatal
        {
            self.close_servers("invalid server parameter");
        }
        result
    }

    /// Brings another shard's server into the transaction.
    async fn enlist(&mut self, shard: ShardId) -> Result<(), Report> {
        let mut lease = self.wait_for(shard).await?;
        let Link::Transaction(transaction) = &self.link else { return Ok(()) };
        let (before, prologue) = (transaction.log.before().clone(), transaction.log.prologue());
        let none = self.shared.vars.intern(Vec::new());
        make_ready(&mut lease, self.client.id, &before, &none).await?;
        let done = lease.run(&prologue).await.map_err(|error| lost(&error))?;
        if let Some(report) = failure(&done) {
            return Err(report);
        }
        // Whether it writes is noted when its first statement is sent.
        self.join(Participant { shard, lease, wrote: false });
        Ok(())
    }

    /// The request is answered: draws the consequences of what completed.
    pub(super) fn conclude(&mut self, pending: Pending, status: Status) -> After {
        let outcome = self.flow.outcome.take().unwrap_or_default();
        if pending.opaque && let Some(server) = self.server_mut() {
            server.suspect = true;
        }
        if !outcome.failed && pending.pins {
            self.pin(true);
        }
        if !pending.effects.is_empty() {
            let completed = if outcome.failed { outcome.completed as usize } else { pending.effects.len() };
            self.apply_effects(&pending.effects, completed, &outcome, status);
        }
        if self.pinned && pending.may_unpin && status == Status::Idle { After::Unpin } else { After::Done }
    }

    fn pin(&mut self, pinned: bool) {
        self.pinned = pinned;
        self.client.pinned.store(pinned, std::sync::atomic::Ordering::Relaxed);
    }

    fn apply_effects(&mut self, effects: &[Effect], completed: usize, outcome: &crate::executor::relay::Outcome, status: Status) {
        // What an implicit transaction block set is gone if it failed.
        let mut safe = self.vars.clone();
        for effect in effects.iter().take(completed) {
            self.apply_effect(effect, outcome.rolled_back);
            if matches!(effect, Effect::Commit { .. } | Effect::Rollback { .. }) {
                safe = self.vars.clone();
            }
        }
        if outcome.failed && status == Status::Idle && !matches!(self.link, Link::Transaction(_)) {
            self.vars = safe;
        }
        if status == Status::Idle {
            let vars = self.vars.clone();
            if let Some(server) = self.server_mut() {
                server.applied = vars;
            }
        }
        self.update_path();
    }

    fn apply_effect(&mut self, effect: &Effect, rolled_back: bool) {
        match effect {
            Effect::None => {}
            Effect::Begin(sql) => {
                if let Link::One(_) = self.link {
                    self.begin_on_server(sql);
                }
            }
            Effect::Commit { chain } => self.end_log(!rolled_back, *chain),
            Effect::Rollback { chain } => self.end_log(false, *chain),
            Effect::Savepoint(name) => self.with_log(|log| log.savepoint(name)),
            Effect::Release(name) => self.with_log(|log| log.release(name)),
            Effect::RollbackTo(name) => self.with_log(|log| log.rollback_to(name)),
            Effect::Set(setting) => {
                let (table, base) = (self.shared.vars.clone(), self.base_vars.clone());
                match &mut self.link {
                    Link::Transaction(transaction) => {
                        let vars = setting.applied_to(&table, &transaction.log.vars, &base);
                        transaction.log.set(&setting.name, setting.statement.clone(), vars);
                    }
                    _ => {
                        if let Some(vars) = setting.applied_to(&table, &self.vars, &base) {
                            self.vars = vars;
                        }
                    }
                }
            }
            Effect::DiscardAll => self.discard_all(),
            Effect::DeallocateAll => self.forget_statements(),
        }
    }

    /// BEGIN went to the server with other statements: its transaction is known, and repeatable elsewhere if nothing
    /// stood before it.
    fn begin_on_server(&mut self, sql: &str) {
        let Link::One(lease) = std::mem::replace(&mut self.link, Link::None) else { return };
        let map = self.upstream.map();
        let shard = map.shard_ids().find(|shard| lease.pool().key.shard == Some(shard.index() as u16)).unwrap_or(map.home());
        let mut transaction = Transaction::new(TransactionLog::new(sql, self.vars.clone()));
        transaction.opaque = true;
        transaction.participants.push(Participant { shard, lease, wrote: true });
        self.link = Link::Transaction(Box::new(transaction));
    }

    fn with_log(&mut self, with: impl FnOnce(&mut TransactionLog)) {
        if let Link::Transaction(transaction) = &mut self.link {
            with(&mut transaction.log);
        }
    }

    /// The transaction ended; its settings stay or go with it.
    fn end_log(&mut self, committed: bool, chain: bool) {
        let Link::Transaction(transaction) = &mut self.link else { return };
        self.vars = if committed { transaction.log.vars.clone() } else { transaction.log.before().clone() };
        if !committed {
            transaction.changes.clear();
            transaction.schema = None;
        }
        let vars = self.vars.clone();
        for participant in &mut transaction.participants {
            participant.lease.applied = vars.clone();
        }
        transaction.cursors.clear();
        if chain {
            transaction.log = transaction.log.chained(vars);
        }
    }

    fn discard_all(&mut self) {
        self.vars = self.base_vars.clone();
        self.forget_statements();
        self.pin(false);
        let none = self.shared.vars.intern(Vec::new());
        if let Some(server) = self.server_mut() {
            server.applied = none;
            server.suspect = false;
        }
        // The caller takes the session's settings for the server's; these are not on it any more.
        if !Arc::ptr_eq(&self.vars, &self.shared.vars.intern(Vec::new()))
            && let Some(server) = self.server_mut()
        {
            server.suspect = true;
            server.last_client = 0;
        }
    }

    fn forget_statements(&mut self) {
        self.statements = None;
        if let Some(server) = self.server_mut() {
            server.forget_all_statements();
        }
    }

    /// Asks the server whether what kept it is gone.
    pub(super) async fn try_unpin(&mut self) -> Result<(), End> {
        if let Some(server) = self.server_mut()
            && let Ok(done) = server.run(STILL_PINNED).await
            && done.value.as_deref() == Some(b"f")
        {
            self.pin(false);
        }
        match self.settle(Status::Idle) {
            After::End(end) => Err(end),
            _ => Ok(()),
        }
    }

    /// The request at the head of the input controls the session, or runs on several shards.
    async fn control(&mut self) -> Result<(), Report> {
        let head = match cut(&self.input, self.limits.max_packet_size) {
            Ok(Cut::Alone(end) | Cut::Synced(end) | Cut::Open(end)) => self.input[..end].to_vec(),
            _ => return Err(Report::fatal("08P01", "failed to parse packet")),
        };
        let map = self.upstream.map();
        let schema = self.schema(&map);
        let simple = head[0] == b'Q';
        let request = {
            let context = self.context(&map, &schema);
            let decided = if simple { context.query(&head[HEADER..]) } else { context.batch(&head) };
            decided.map_err(|deny| deny_report(deny, &head))?
        };
        if request.statements > 1 && request.place != Where::Everywhere {
            return Err(not_together());
        }
        if request.ddl && !self.upstream.is_sharded() {
            return Err(Report::fatal("XX000", "a statement of an unsharded database was planned for all shards"));
        }
        let sql = self.control_sql(&head).ok_or_else(not_together)?;
        let answer = self.run_control(&request, &sql, &map).await?;
        let Some(answer) = answer else { return Ok(()) };
        let out = if simple { answer } else { self.extended_answer(&head, &answer) };
        self.finish_request(out, false).await.map_err(|end| match end {
            End::Client(text) | End::Us(text) => Report::fatal("08006", text),
        })
    }

    /// Runs it; the answer's messages, or `None` if the answer is relayed.
    async fn run_control(&mut self, request: &Request, sql: &str, map: &Arc<sluice_router::ShardMap>) -> Result<Option<Vec<u8>>, Report> {
        let effect = request.effects.last().cloned().unwrap_or(Effect::None);
        if self.status() == Status::Failed
            && !matches!(effect, Effect::Commit { .. } | Effect::Rollback { .. } | Effect::RollbackTo(_))
        {
            return Err(Report::error("25P02", "current transaction is aborted, commands ignored until end of transaction block"));
        }
        if let Where::CopyRows(column) = request.place {
            return self.copy_rows(sql, column).await;
        }
        if request.place == Where::Everywhere {
            return self.everywhere(request, sql, map).await.map(Some);
        }
        if request.outside_transaction && matches!(self.link, Link::Transaction(_)) {
            return Err(Report::error("25001", "this statement cannot run inside a transaction block"));
        }
        let tag = match effect {
            Effect::Begin(sql) => self.begin(&sql),
            Effect::Commit { chain } => self.commit(chain).await?,
            Effect::Rollback { chain } => self.roll_back(chain).await,
            Effect::Savepoint(name) => self.on_all(sql, "SAVEPOINT", |log| log.savepoint(&name)).await?,
            Effect::Release(name) => {
                self.check_savepoint(&name)?;
                self.on_all(sql, "RELEASE", |log| log.release(&name)).await?
            }
            Effect::RollbackTo(name) => {
                self.check_savepoint(&name)?;
                let tag = self.on_all(sql, "ROLLBACK", |log| log.rollback_to(&name)).await?;
                if let Link::Transaction(transaction) = &mut self.link {
                    transaction.failed = false;
                }
                tag
            }
            effect @ Effect::Set(_) => {
                self.on_all(sql, "SET", |_| ()).await?;
                self.apply_effect(&effect, false);
                "SET"
            }
            _ => return Err(not_together()),
        };
        self.update_path();
        let mut out = Vec::new();
        message::command_complete(&mut out, tag);
        Ok(Some(out))
    }

    /// BEGIN costs nothing: servers are enlisted by the statements that follow.
    fn begin(&mut self, sql: &str) -> &'static str {
        let mut transaction = Transaction::new(TransactionLog::new(sql, self.vars.clone()));
        match std::mem::replace(&mut self.link, Link::None) {
            Link::One(lease) => {
                // Pinned: its server takes part from the first statement on.
                self.link = Link::Transaction(Box::new(transaction));
                self.start_pinned(lease, sql);
            }
            Link::Transaction(already) => self.link = Link::Transaction(already),
            Link::None => {
                transaction.participants.clear();
                self.link = Link::Transaction(Box::new(transaction));
            }
        }
        if let Link::Transaction(transaction) = &self.link
            && !transaction.participants.is_empty()
        {
            self.client.set_state(ClientState::Active);
        }
        let first = sql.trim_start().get(..5).unwrap_or_default();
        if first.eq_ignore_ascii_case("start") { "START TRANSACTION" } else { "BEGIN" }
    }

    fn start_pinned(&mut self, mut lease: Lease, sql: &str) {
        if lease.start(sql).is_ok() {
            self.flow.swallow += 1;
        }
        let map = self.upstream.map();
        let shard = map.shard_ids().find(|shard| lease.pool().key.shard == Some(shard.index() as u16)).unwrap_or(map.home());
        self.join(Participant { shard, lease, wrote: true });
    }

    async fn commit(&mut self, chain: bool) -> Result<&'static str, Report> {
        if self.status() == Status::Failed {
            return Ok(self.roll_back(chain).await);
        }
        let Link::Transaction(transaction) = &mut self.link else { return Ok("COMMIT") };
        let committed = two_phase::commit(&mut transaction.participants).await;
        match committed {
            Ok(()) => {
                let changes = std::mem::take(&mut transaction.changes);
                self.end_transaction(true, chain);
                self.publish(changes).await?;
                Ok("COMMIT")
            }
            Err(CommitError::RolledBack(error)) => {
                self.end_transaction(false, false);
                Err(report_of(&error))
            }
            Err(CommitError::Unknown(text)) => {
                self.close_servers("server conn crashed?");
                Err(Report::fatal("08007", "the connection to a shard was lost during COMMIT; the transaction's outcome is unknown")
                    .detail(text)
                    .hint("reconnect and look whether the changes are there; the shards agree with each other within seconds"))
            }
        }
    }

    async fn roll_back(&mut self, chain: bool) -> &'static str {
        if let Link::Transaction(transaction) = &mut self.link {
            two_phase::rollback(&mut transaction.participants).await;
        }
        self.end_transaction(false, chain);
        "ROLLBACK"
    }

    /// The block is over on all servers: settings, then the servers go back.
    fn end_transaction(&mut self, committed: bool, chain: bool) {
        self.end_log(committed, chain);
        let Link::Transaction(mut transaction) = std::mem::replace(&mut self.link, Link::None) else { return };
        let pinned = self.pinned;
        for participant in std::mem::take(&mut transaction.participants) {
            if pinned && matches!(self.link, Link::None) {
                self.link = Link::One(participant.lease);
            } else {
                participant.lease.checkin();
            }
        }
        self.client.link(0);
        self.client.request_ended(self.client.clock(), false);
        if chain {
            transaction.failed = false;
            if let Link::One(lease) = std::mem::replace(&mut self.link, Link::None) {
                lease.checkin();
            }
            self.link = Link::Transaction(transaction);
        }
    }

    fn check_savepoint(&self, name: &str) -> Result<(), Report> {
        match &self.link {
            Link::Transaction(transaction) if transaction.log.has_savepoint(name) => Ok(()),
            _ => Err(Report::error("3B001", format!("savepoint \"{name}\" does not exist"))),
        }
    }

    /// Runs a statement on all participants, then notes it.
    async fn on_all(&mut self, sql: &str, tag: &'static str, note: impl FnOnce(&mut TransactionLog)) -> Result<&'static str, Report> {
        let Link::Transaction(transaction) = &mut self.link else { return Ok(tag) };
        for participant in &mut transaction.participants {
            participant.lease.start(sql).map_err(|error| lost(&error))?;
        }
        let mut failed = None;
        for participant in &mut transaction.participants {
            let done = participant.lease.finish(false).await.map_err(|error| lost(&error))?;
            failed = failed.or_else(|| failure(&done));
        }
        match failed {
            Some(report) => Err(report),
            None => {
                note(&mut transaction.log);
                Ok(tag)
            }
        }
    }

    /// Runs a statement on every shard; outside a transaction block, in one of its own.
    async fn everywhere(&mut self, request: &Request, sql: &str, map: &Arc<sluice_router::ShardMap>) -> Result<Vec<u8>, Report> {
        if request.controls {
            return Err(not_together());
        }
        let own = !matches!(self.link, Link::Transaction(_));
        if own {
            if let Link::One(lease) = std::mem::replace(&mut self.link, Link::None) {
                lease.checkin();
            }
            self.link = Link::Transaction(Box::new(Transaction::new(TransactionLog::new("BEGIN", self.vars.clone()))));
        }
        let result = self.everywhere_in_transaction(sql, map).await;
        if !own {
            return result;
        }
        match result {
            Ok(answer) => self.commit(false).await.map(|_| answer),
            Err(report) => {
                self.roll_back(false).await;
                Err(report)
            }
        }
    }

    async fn everywhere_in_transaction(&mut self, sql: &str, map: &Arc<sluice_router::ShardMap>) -> Result<Vec<u8>, Report> {
        let schema = self.schema(map);
        let changes = self.schema_changes(sql, &schema);
        for shard in map.shard_ids() {
            let enlisted = matches!(&self.link, Link::Transaction(t) if t.participants.iter().any(|p| p.shard == shard));
            if !enlisted {
                self.enlist(shard).await?;
            }
        }
        let Link::Transaction(transaction) = &mut self.link else { return Err(not_together()) };
        transaction.participants.sort_by_key(|participant| participant.shard);
        transaction.active = 0;
        // The home shard first: statements that would deadlock across shards then queue up there.
        let (home, others) = transaction.participants.split_first_mut().expect("a database has a shard");
        home.wrote = true;
        home.lease.start(sql).map_err(|error| lost(&error))?;
        let first = home.lease.finish(true).await.map_err(|error| lost(&error))?;
        if let Some(report) = failure(&first) {
            return Err(report);
        }
        for other in others.iter_mut() {
            other.wrote = true;
            other.lease.start(sql).map_err(|error| lost(&error))?;
        }
        let mut failed = None;
        for other in others.iter_mut() {
            let done = other.lease.finish(false).await.map_err(|error| lost(&error))?;
            failed = failed.or_else(|| failure(&done)).or_else(|| differs(&first, &done, other.shard));
        }
        if let Some(report) = failed {
            return Err(report);
        }
        if first.kept_too_long {
            return Err(Report::error("54000", "the statement's result is too long to be compared between shards").hint("leave out RETURNING"));
        }
        if !changes.is_empty() {
            let changed = crate::catalogs::with_changes(&schema, &changes);
            transaction.schema = Some(Arc::new(changed));
            transaction.changes.extend(changes);
        }
        Ok(first.kept.unwrap_or_default())
    }

    fn schema_changes(&self, sql: &str, schema: &Arc<sluice_router::Schema>) -> Vec<SchemaChange> {
        let collect = |template: &Arc<Template>, _: &[_], _: &[u32]| {
            let ddl = template.statements.iter().filter_map(|statement| match &statement.action {
                Action::Ddl(changes) => Some(changes.to_vec()),
                _ => None,
            });
            ddl.flatten().collect()
        };
        self.shared.router.template(schema, self.path, !self.flow.escape_strings, sql.as_bytes(), collect)
    }

    /// The tables are changed on the shards; now the catalog, and with it all instances, has to know.
    async fn publish(&mut self, changes: Vec<SchemaChange>) -> Result<(), Report> {
        if changes.is_empty() {
            return Ok(());
        }
        self.shared.catalogs.apply(&self.upstream.database, &changes).await.map_err(|error| {
            Report::error("58000", format!("the shards are changed, but the catalog of database \"{}\" is not: {error}", self.upstream.database))
                .detail("Until the catalog knows the tables, statements that name them are refused.")
                .hint("when the catalog is back, classify the tables in the console: CREATE SHARDED TABLE, CREATE REFERENCE TABLE or CREATE HOME TABLE")
        })
    }
}

/// No deadline: a wait that nothing but its event ends.
const FOREVER: std::time::Duration = std::time::Duration::from_secs(86_400 * 365);

/// Removes what another client may have left, then makes the settings `wanted`.
async fn make_ready(lease: &mut Lease, client: u64, wanted: &Arc<Vars>, none: &Arc<Vars>) -> Result<(), Report> {
    if needs_reset(lease, client) {
        let done = lease.run(RESET).await.map_err(|error| lost(&error))?;
        if let Some(report) = failure(&done) {
            return Err(Report::fatal("08006", "could not reset the server").detail(report.message));
        }
        lease.applied = none.clone();
        lease.suspect = false;
    }
    lease.last_client = client;
    let Some(sql) = transition(&lease.applied, wanted) else {
        lease.applied = wanted.clone();
        return Ok(());
    };
    let done = lease.run(&sql).await.map_err(|error| lost(&error))?;
    if let Some(report) = failure(&done) {
        return Err(Report::fatal(&report.sqlstate, "invalid server parameter")
            .detail(report.message)
            .hint("a setting of this session (SET, or a start-up parameter) is not accepted by the server"));
    }
    lease.applied = wanted.clone();
    Ok(())
}

/// A server of a session-pooled client that left: cleaned in the background, then given back.
pub(super) fn give_back(mut lease: Lease) {
    let query = lease.pool().params().reset_query.clone();
    if query.is_empty() {
        return lease.checkin();
    }
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return lease.close("shutting down") };
    runtime.spawn(async move {
        match lease.run(&query).await {
            Ok(done) if done.error.is_none() => {
                lease.forget_all_statements();
                let none = crate::vars::VarsTable::default().intern(Vec::new());
                lease.applied = none;
                lease.suspect = false;
                lease.checkin();
            }
            _ => lease.close("reset query failed"),
        }
    });
}

fn failure(done: &Done) -> Option<Report> {
    done.error.as_deref().map(report_of)
}

/// A server's ErrorResponse as ours: message, SQLSTATE, DETAIL and HINT are kept.
fn report_of(error: &[u8]) -> Report {
    let done = Done { error: Some(error.to_vec()), ..Done::default() };
    let field = |code| done.error_field(code).unwrap_or_default();
    Report::error(&field(b'C'), field(b'M')).detail(field(b'D')).hint(field(b'H'))
}

fn lost(error: &std::io::Error) -> Report {
    Report::fatal("08006", "server conn crashed?").detail(error.to_string())
}

/// A statement that ran on all shards must have done the same everywhere.
fn differs(first: &Done, other: &Done, shard: ShardId) -> Option<Report> {
    (first.tag != other.tag).then(|| {
        Report::error("55000", "the shards gave different answers; nothing was changed")
            .detail(format!("Home shard: {}; shard {shard}: {}.", first.tag, other.tag))
            .hint("the table's rows differ between shards: compare them before you write to it again")
    })
}

fn not_together() -> Report {
    Report::error("0A000", "this statement cannot be sent together with others in a sharded database")
        .hint("send it on its own")
}

/// The text of the one statement that is sent or prepared.
fn sql_of(head: &[u8]) -> Option<String> {
    let mut texts = Vec::new();
    for frame in Frames::new(head).map_while(Result::ok) {
        match frame.tag {
            b'Q' => texts.push(query_text(frame.body)?),
            b'P' => texts.push(Parse::read(frame.body)?.sql),
            _ => {}
        }
    }
    match texts[..] {
        [sql] => String::from_utf8(sql.to_vec()).ok(),
        _ => None,
    }
}

impl Session {
    /// The text of the one statement that a request runs.
    fn control_sql(&self, head: &[u8]) -> Option<String> {
        let mut bound = None;
        let mut parses = Vec::new();
        for frame in Frames::new(head).map_while(Result::ok) {
            match frame.tag {
                b'Q' => return String::from_utf8(query_text(frame.body)?.to_vec()).ok(),
                b'P' => parses.push(Parse::read(frame.body)?),
                b'B' if bound.is_some() => return None,
                b'B' => {
                    let name = Bind::read(frame.body)?.statement;
                    let parsed = parses.iter().rev().find(|parse| parse.name == name).map(|parse| parse.sql);
                    let known = || self.statements.as_ref()?.tail(name).map(|tail| split_tail(tail).0);
                    bound = Some(parsed.or_else(known)?);
                }
                _ => {}
            }
        }
        String::from_utf8(bound?.to_vec()).ok()
    }

    /// The answers to an extended-protocol batch whose one statement has run: `answer` stands where Execute's belongs.
    /// Statements that the batch prepares or closes are remembered, although no server has seen them.
    fn extended_answer(&mut self, head: &[u8], answer: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for frame in Frames::new(head).map_while(Result::ok) {
            match frame.tag {
                b'P' => {
                    if let Some(parse) = Parse::read(frame.body) {
                        self.remember_parse(&parse);
                    }
                    out.extend_from_slice(&message::PARSE_COMPLETE);
                }
                b'B' => out.extend_from_slice(&message::BIND_COMPLETE),
                b'C' => {
                    if let (Some(Named::Statement(name)), Some(statements)) = (Named::read(frame.body), &mut self.statements) {
                        statements.named.remove(name);
                    }
                    out.extend_from_slice(&message::CLOSE_COMPLETE);
                }
                b'D' => {
                    if frame.body.first() == Some(&b'S') {
                        out.extend_from_slice(&message::NO_PARAMETERS);
                    }
                    out.extend_from_slice(&message::NO_DATA);
                }
                b'E' => out.extend_from_slice(answer),
                _ => {}
            }
        }
        out
    }

    fn remember_parse(&mut self, parse: &Parse<'_>) {
        let statements = self.statements.get_or_insert_default();
        if parse.name.is_empty() {
            statements.set_unnamed(parse.tail);
        } else {
            statements.named.insert(parse.name.into(), self.shared.statements.intern(parse.tail));
        }
    }
}

fn deny_report(deny: Deny, input: &[u8]) -> Report {
    match deny {
        Deny::Refused(refusal) => refusal_report(*refusal, input),
        Deny::Protocol(text) => Report::fatal("08P01", text),
        Deny::UnknownStatement => Report::error("26000", "prepared statement did not exist"),
        Deny::NameTaken(name) => Report::error("42P05", format!("prepared statement \"{name}\" already exists")),
    }
}

/// The grammar counts bytes, the protocol characters.
fn refusal_report(refusal: Refusal, input: &[u8]) -> Report {
    let sql = sql_of(input).unwrap_or_default();
    let position = match refusal.position {
        0 => 0,
        at => sql.get(..at as usize - 1).map_or(0, |before| before.chars().count() + 1),
    };
    let mut report = Report::error(&refusal.sqlstate, refusal.message).detail(refusal.detail).hint(refusal.hint);
    report.position = position;
    report
}
