//! What is not simply sent to one server: waiting for one, making it ready, BEGIN and its kin over several shards,
//! statements that run on all shards, and refusals.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Instant;

use sluice_router::template::{Action, Template};
use sluice_router::{Refusal, ShardId, ShardMap};
use sluice_wire::frame::{Bind, Frames, HEADER, Parse, query_text};
use sluice_wire::message::{self, Report, Severity, Status};

use super::copy::Rows;
use super::everywhere::Command;
use super::request::{Cut, Deny, Request, Where, cut, split_tail};
use super::run::{Later, Slow};
use super::send::{needs_reset, unknown_shard};
use super::settle::{After, eviction_report};
use super::sql_prepared::carried;
use super::transaction::{Effect, TransactionLog, is_plain_begin};
use super::wait::queued_notice;
use super::{End, Link, Pending, Session, Transaction};
use crate::executor::two_phase::{self, CommitError, Participant};
use crate::pool::{CheckoutError, Done, Lease};
use crate::registry::ClientState;
use crate::upstream::shard_of;
use crate::vars::{Var, Vars, taken_by_reset, transition};

/// Puts a server back to what it was after login, but for its prepared statements.
const RESET: &str = "RESET SESSION AUTHORIZATION; RESET ALL; CLOSE ALL; UNLISTEN *; SELECT pg_catalog.pg_advisory_unlock_all(); \
                     DISCARD TEMP; DISCARD SEQUENCES";

/// Does anything on this server still keep a session from sharing it? Followed by which prepared statements don't.
const STILL_PINNED: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid()) \
     OR EXISTS (SELECT FROM pg_catalog.pg_class WHERE relpersistence = 't' AND relnamespace = pg_catalog.pg_my_temp_schema()) \
     OR EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable) \
     OR EXISTS (SELECT FROM pg_catalog.pg_listening_channels()) \
     OR EXISTS (SELECT FROM pg_catalog.pg_prepared_statements WHERE from_sql AND NOT ";

impl Session {
    /// Deals with what [`Slow`] says, so that the loop can go on. Each kind has a future of its own: all clients may wait for
    /// a server at the same moment, and none of them should hold room for a commit over several shards.
    pub(super) fn slow(&mut self, slow: Slow) -> Later<'_> {
        match slow {
            Slow::Wait(decided) => self.slow(Slow::Checkout(decided.shard)),
            Slow::Quota(held_up) => {
                self.wait_at_gate(*held_up);
                Box::pin(std::future::ready(Ok(())))
            }
            Slow::Checkout(shard) => Box::pin(async move {
                let result = self.checkout(shard).await;
                self.tell(result).await
            }),
            Slow::Control => Box::pin(async move {
                let result = self.control().await;
                self.tell(result).await
            }),
            Slow::Enlist(shard) => Box::pin(async move {
                let result = self.enlist(shard).await;
                self.tell(result).await
            }),
            Slow::Prepare(sql) => Box::pin(async move {
                let result = self.prepare_server(sql).await;
                self.tell(result).await
            }),
            Slow::Statements(steps) => Box::pin(async move {
                let result = self.sync_sql_statements(steps).await;
                self.tell(result).await
            }),
            // Whatever else is wrong with the statement, PostgreSQL would not look at it.
            Slow::Deny(Deny::Refused(_)) if self.status() == Status::Failed => Box::pin(self.fail(aborted())),
            Slow::Deny(deny) => {
                let report = deny_report(deny, &self.input);
                Box::pin(self.fail(report))
            }
            Slow::Fail(report) => Box::pin(self.fail(*report)),
        }
    }

    async fn tell(&mut self, result: Result<(), Report>) -> Result<(), End> {
        match result {
            Ok(()) => Ok(()),
            Err(report) => Box::pin(self.fail(report)).await,
        }
    }

    /// Tells the client of an error of ours, and takes the request that it answers off the input.
    async fn fail(&mut self, report: Report) -> Result<(), End> {
        let mut out = Vec::new();
        report.encode(&mut out);
        let in_pipeline = self.open && matches!(self.link, Link::One(_) | Link::Transaction(_));
        if report.severity == Severity::Fatal || in_pipeline {
            // Last words; a client that doesn't listen doesn't hold up the end.
            let _ = tokio::time::timeout(LAST_WORDS, self.io.write_all(&out)).await;
            self.log_error(&report);
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
        self.client.request_ended(self.client.clock(), self.client.is_in_transaction());
        if !self.flow.unsent.is_empty() {
            out.splice(0..0, std::mem::take(&mut self.flow.unsent));
        }
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
    pub(super) async fn wait_for(&mut self, shard: ShardId) -> Result<Lease, Report> {
        let Some(pool) = self.upstream.pool(shard).cloned() else {
            return Err(unknown_shard(shard));
        };
        let began = Instant::now();
        let urgent = matches!(&self.link, Link::Transaction(transaction) if !transaction.participants.is_empty());
        let mut ticket = match pool.checkout(urgent) {
            Ok(Ok(lease)) => return Ok(lease),
            Ok(Err(ticket)) => ticket,
            Err(error) => return Err(self.no_server(shard, &error)),
        };
        self.begin_wait();
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
                        return Err(self.waited_in_vain(shard));
                    }
                    notify = None;
                    let _ = self.io.write_all(&queued_notice()).await;
                }
            }
        }
    }

    /// The client has gone, or is told to go.
    async fn interrupted(&self) -> Report {
        poll_fn(|cx| {
            if let Some(eviction) = self.client.poll_eviction(cx.waker()) {
                return Poll::Ready(eviction_report(eviction));
            }
            self.io.poll_gone(cx).map(|()| Report::fatal("08006", "client unexpected eof"))
        })
        .await
    }

    pub(super) fn waited_in_vain(&self, shard: ShardId) -> Report {
        Report::fatal("57014", "query_wait_timeout")
            .detail(format!("No server of {} became free in time.", self.pool_name(shard)))
            .hint("raise default_pool_size or query_wait_timeout, or see SHOW POOLS for what keeps the servers busy")
    }

    fn pool_name(&self, shard: ShardId) -> String {
        if self.upstream.is_sharded() {
            format!("database \"{}\", shard {shard}", self.upstream.database)
        } else {
            format!("database \"{}\"", self.upstream.database)
        }
    }

    /// In a sharded database the other shards go on, so the session does too.
    pub(super) fn no_server(&self, shard: ShardId, error: &CheckoutError) -> Report {
        let sqlstate = match error {
            CheckoutError::Refused(error) | CheckoutError::Failing(error) => error.sqlstate().to_owned(),
            CheckoutError::Removed => "57P01".to_owned(),
        };
        if !self.upstream.is_sharded() {
            return Report::fatal(&sqlstate, error.to_string());
        }
        let placement = self.upstream.map().placement(shard).clone();
        Report::error(&sqlstate, format!("shard {shard} of database \"{}\" is not available", self.upstream.database))
            .detail(format!(
                "{error} (host {}, port {}, database {})",
                placement.host, placement.port, placement.dbname
            ))
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
    pub(super) async fn enlist(&mut self, shard: ShardId) -> Result<(), Report> {
        let mut lease = self.wait_for(shard).await?;
        let Link::Transaction(transaction) = &self.link else { return Ok(()) };
        let (before, prologue) = (transaction.log.before().clone(), transaction.log.prologue());
        let none = self.shared.vars.intern(Vec::new());
        make_ready(&mut lease, self.client.id, &before, &none).await?;
        let done = lease.run(&prologue).await.map_err(|error| lost(&error))?;
        lease.reported.clear();
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
        if pending.opaque
            && let Some(server) = self.server_mut()
        {
            server.suspect = true;
        }
        if pending.pins {
            self.pin(true);
        }
        // Advisory locks outlive the error behind them, and the rollback.
        let ends_block = |effect: &Effect| matches!(effect, Effect::Commit { .. } | Effect::Rollback { .. });
        let may_unpin = pending.may_unpin || (pending.pins && outcome.failed) || pending.effects.iter().any(ends_block);
        if !pending.effects.is_empty() {
            let completed = if outcome.failed { outcome.completed as usize } else { pending.effects.len() };
            self.apply_effects(&pending.effects, completed, &outcome, status);
            let lost = self.lost_by(&pending.effects, status);
            if !outcome.failed && status != Status::Failed && !lost.is_empty() {
                return After::Restore(statements(&lost));
            }
        }
        if self.pinned && may_unpin && status == Status::Idle { After::Unpin } else { After::Done }
    }

    fn pin(&mut self, pinned: bool) {
        self.pinned = pinned;
        self.client.pinned.store(pinned, Ordering::Relaxed);
    }

    fn apply_effects(
        &mut self,
        effects: &[Effect],
        completed: usize,
        outcome: &crate::executor::relay::Outcome,
        status: Status,
    ) {
        // What an implicit transaction block set is gone if it failed.
        let mut safe = self.vars.clone();
        for (number, effect) in effects.iter().take(completed).enumerate() {
            self.apply_effect(effect, outcome.rollbacks.contains(&(number as u32)));
            match effect {
                // The statements of one message are a block, even if nobody has begun one.
                Effect::Rollback { .. } if matches!(self.link, Link::One(_)) => self.vars = safe.clone(),
                Effect::Commit { chain } | Effect::Rollback { chain } => {
                    safe = self.vars.clone();
                    if !chain && number + 1 < effects.len() {
                        self.leave_block();
                    }
                }
                _ => {}
            }
        }
        if outcome.failed && status == Status::Idle && !matches!(self.link, Link::Transaction(_)) {
            self.vars = safe;
        }
        if status == Status::Idle {
            // DISCARD ALL took from the server what the client came with, too; the client's next statement brings it back.
            let discarded = matches!(effects.last(), Some(Effect::DiscardAll)) && !outcome.failed;
            let lost = if outcome.failed { Vec::new() } else { self.lost_by(effects, status) };
            let on_server = match (discarded, lost.is_empty()) {
                (true, _) => self.shared.vars.intern(Vec::new()),
                (_, true) => self.vars.clone(),
                (_, false) => self.shared.vars.without(&self.vars, &lost),
            };
            if let Some(server) = self.server_mut() {
                server.applied = on_server;
            }
        }
        self.update_path();
    }

    /// What the client came with and `effects` have taken off its server, which is now in `status`.
    fn lost_by(&self, effects: &[Effect], status: Status) -> Vec<Var> {
        let mut lost: Vec<Var> = Vec::new();
        for effect in effects {
            let Effect::Set(setting) = effect else { continue };
            if setting.local && status == Status::Idle {
                continue;
            }
            lost.retain(|var| *var.name != *setting.name);
            if setting.resets {
                lost.extend(taken_by_reset(&self.base_vars, &setting.name, setting.local));
            }
        }
        lost
    }

    /// Brings back what a RESET took from the client's servers, and tells the client of it: it has been told otherwise.
    pub(super) async fn restore(&mut self, sql: &str) -> Result<(), End> {
        let restored = match self.link {
            Link::One(_) => self.restore_one(sql).await,
            _ => self.on_all(sql, "SELECT", |_| ()).await.map(|_| ()),
        };
        if let Err(report) = restored {
            return self.tell(Err(report)).await;
        }
        match self.settle(self.status()) {
            After::End(end) => Err(end),
            _ => Ok(()),
        }
    }

    async fn restore_one(&mut self, sql: &str) -> Result<(), Report> {
        let vars = self.vars.clone();
        let Some(server) = self.server_mut() else { return Ok(()) };
        let done = server.run(sql).await.map_err(|error| lost(&error))?;
        let reported = std::mem::take(&mut server.reported);
        match failure(&done) {
            Some(report) => Err(report),
            None => {
                server.applied = vars;
                self.reply(&reported);
                Ok(())
            }
        }
    }

    fn apply_effect(&mut self, effect: &Effect, rolled_back: bool) {
        match effect {
            Effect::None => {}
            Effect::Begin(sql) => match std::mem::replace(&mut self.link, Link::None) {
                Link::One(lease) => self.adopt(lease, sql),
                other => self.link = other,
            },
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
                        let mut statement = setting.statement.clone();
                        if setting.resets {
                            let start: Vec<Var> = taken_by_reset(&base, &setting.name, setting.local).collect();
                            match &*setting.name {
                                _ if start.is_empty() => {}
                                "all" => statement = format!("{statement}; {}", statements(&start)),
                                _ => statement = statements(&start),
                            }
                        }
                        transaction.log.set(&setting.name, statement, vars);
                    }
                    _ => {
                        if let Some(vars) = setting.applied_to(&table, &self.vars, &base) {
                            self.vars = vars;
                        }
                    }
                }
            }
            Effect::Prepare { name, text, leaves } => self.prepared_by_sql(name, text.as_ref(), *leaves),
            Effect::Deallocate(name) => self.deallocated(name),
            Effect::Execute(_) | Effect::ShowPrepared | Effect::ShowChannels => {}
            Effect::Listen(channel) => self.left_channel(Some(channel)),
            Effect::Unlisten(channel) => self.left_channel(channel.as_deref()),
            Effect::DiscardAll => self.discard_all(),
            Effect::DeallocateAll => self.forget_statements(),
        }
    }

    /// The session's own server listens on the channel from now on, or nobody does.
    fn left_channel(&mut self, channel: Option<&str>) {
        match &mut self.link {
            Link::Transaction(transaction) => transaction.log.listening(channel.map(Into::into)),
            _ => self.unlisten(channel),
        }
    }

    /// The block has ended inside of a request: what follows there is no longer part of it.
    fn leave_block(&mut self) {
        match std::mem::replace(&mut self.link, Link::None) {
            Link::Transaction(mut transaction) if transaction.participants.len() == 1 => {
                self.link = transaction.participants.pop().map_or(Link::None, |it| Link::One(it.lease));
            }
            other => self.link = other,
        }
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
        if committed
            && self.client.listens.load(Ordering::Relaxed)
            && let Some(pool) = self.upstream.pools().first()
        {
            let id = self.client.id;
            transaction.log.left_channels().for_each(|channel| pool.unlisten(channel, id));
        }
        if !committed {
            transaction.log.changes.clear();
            transaction.log.schema = None;
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
        self.unlisten(None);
        self.pin(false);
        if let Some(server) = self.server_mut() {
            server.suspect = false;
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
            && let sql = format!("{STILL_PINNED}{})", carried(server.sql_statements.as_deref()))
            && let Ok(done) = server.run(&sql).await
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
        let schema = self.schema(&map).clone();
        let simple = head[0] == b'Q';
        let request = {
            let context = self.context(&map);
            let decided = if simple { context.query(&head[HEADER..]) } else { context.batch(&head) };
            decided.map_err(|deny| deny_report(deny, &head))?
        };
        if request.statements > 1 && request.place != Where::Everywhere {
            return Err(not_together());
        }
        if !simple && request.statements == 0 && self.status() == Status::Failed {
            return self.prepare_exit(&head, &schema).await;
        }
        let sql = self.control_sql(&head).ok_or_else(not_together)?;
        let messages = (!simple).then(|| self.unnamed_batch(&head)).flatten();
        let command = Command { sql, messages };
        let answer = self.run_control(&request, &command, &map).await?;
        let Some(answer) = answer else { return Ok(()) };
        let out = if simple { answer } else { self.extended_answer(&head, &answer) };
        self.finish_request(out, false).await.map_err(|end| match end {
            End::Client(text) | End::Us(text) => Report::fatal("08006", text),
        })
    }

    /// In a failed block only what ends it may be prepared; no server is asked.
    async fn prepare_exit(&mut self, head: &[u8], schema: &Arc<sluice_router::Schema>) -> Result<(), Report> {
        let exits = |template: &Arc<Template>, _: &[_], _: &[u32]| {
            let ends = |action: &Action| {
                matches!(action, Action::Commit { .. } | Action::Rollback { .. } | Action::RollbackTo(_))
            };
            template.statements.iter().all(|statement| ends(&statement.action))
        };
        for frame in Frames::new(head).map_while(Result::ok) {
            let allowed = match frame.tag {
                b'P' => Parse::read(frame.body).is_some_and(|parse| {
                    self.shared.router.template(schema, self.path, !self.flow.escape_strings, parse.sql, exits)
                }),
                b'C' | b'S' | b'H' => true,
                b'D' => head.first() == Some(&b'P'),
                _ => false,
            };
            if !allowed {
                return Err(aborted());
            }
        }
        let out = self.extended_answer(head, &[]);
        self.finish_request(out, false).await.map_err(|end| match end {
            End::Client(text) | End::Us(text) => Report::fatal("08006", text),
        })
    }

    /// Runs it; the answer's messages, or `None` if the answer is relayed.
    async fn run_control(
        &mut self,
        request: &Request,
        command: &Command,
        map: &Arc<ShardMap>,
    ) -> Result<Option<Vec<u8>>, Report> {
        let sql = &*command.sql;
        let effect = request.effects.last().cloned().unwrap_or(Effect::None);
        if self.status() == Status::Failed
            && !matches!(effect, Effect::Commit { .. } | Effect::Rollback { .. } | Effect::RollbackTo(_))
        {
            return Err(aborted());
        }
        if let Where::CopyRows(column) = request.place {
            return Box::pin(self.copy_rows(sql, Rows::ByKey(column), map)).await.map(Some);
        }
        if request.copies_in && request.place == Where::Everywhere {
            return Box::pin(self.copy_rows(sql, Rows::Everywhere, map)).await.map(Some);
        }
        if request.place == Where::Everywhere || request.ddl {
            return Box::pin(self.on_shards(request, command, map)).await.map(Some);
        }
        if request.outside_transaction && matches!(self.link, Link::Transaction(_)) {
            return Err(Report::error("25001", "this statement cannot run inside a transaction block"));
        }
        let mut out = Vec::new();
        let tag = match effect {
            Effect::Begin(sql) => {
                if matches!(self.link, Link::Transaction(_)) {
                    if !is_plain_begin(&sql) {
                        return Err(begun_with_modes());
                    }
                    message::warning(&mut out, "25001", "there is already a transaction in progress");
                }
                self.begin(&sql).await?
            }
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
                let lost = self.lost_by(std::slice::from_ref(&effect), Status::Transaction);
                if !lost.is_empty() {
                    self.on_all(&statements(&lost), "SELECT", |_| ()).await?;
                }
                self.apply_effect(&effect, false);
                let is_reset = sql.trim_start().get(..5).is_some_and(|word| word.eq_ignore_ascii_case("reset"));
                if is_reset { "RESET" } else { "SET" }
            }
            Effect::Deallocate(name) => {
                self.forget_statement(&name);
                "DEALLOCATE"
            }
            Effect::Listen(channel) => {
                self.listen(&channel).await?;
                "LISTEN"
            }
            Effect::Unlisten(channel) => {
                self.unlisten(channel.as_deref());
                "UNLISTEN"
            }
            _ => return Err(not_together()),
        };
        self.update_path();
        message::command_complete(&mut out, tag);
        Ok(Some(out))
    }

    /// BEGIN costs nothing: servers are enlisted by the statements that follow. But a server that the session is pinned to
    /// takes part from the start.
    pub(super) async fn begin(&mut self, sql: &str) -> Result<&'static str, Report> {
        let transaction = || Link::Transaction(Box::new(Transaction::new(TransactionLog::new(sql, self.vars.clone()))));
        match std::mem::replace(&mut self.link, Link::None) {
            Link::One(lease) if self.pinned => {
                self.link = transaction();
                self.start_pinned(lease, sql).await?;
                self.client.set_state(ClientState::Active);
            }
            Link::One(lease) => {
                self.client.link(0);
                lease.checkin();
                self.link = transaction();
            }
            Link::Transaction(already) => self.link = Link::Transaction(already),
            Link::None => self.link = transaction(),
        }
        let first = sql.trim_start().get(..5).unwrap_or_default();
        Ok(if first.eq_ignore_ascii_case("start") { "START TRANSACTION" } else { "BEGIN" })
    }

    async fn start_pinned(&mut self, mut lease: Lease, sql: &str) -> Result<(), Report> {
        let done = lease.run(sql).await.map_err(|error| lost(&error))?;
        if let Some(report) = failure(&done) {
            self.link = Link::One(lease);
            return Err(report);
        }
        let shard = self.upstream.with_map(|map| shard_of(lease.pool(), map));
        self.join(Participant { shard, lease, wrote: true });
        Ok(())
    }

    pub(super) async fn commit(&mut self, chain: bool) -> Result<&'static str, Report> {
        if self.status() == Status::Failed {
            return Ok(self.roll_back(chain).await);
        }
        let Link::Transaction(transaction) = &mut self.link else { return Ok("COMMIT") };
        let committed = two_phase::commit(&mut transaction.participants).await;
        match committed {
            Ok(()) => {
                let changes = std::mem::take(&mut transaction.log.changes);
                let pinned = self.end_transaction(true, chain);
                self.chain_pinned(pinned).await;
                self.publish(changes).await?;
                Ok("COMMIT")
            }
            Err(CommitError::RolledBack(error)) => {
                self.end_transaction(false, false);
                Err(report_of(&error))
            }
            Err(CommitError::Unknown(text)) => {
                self.close_servers("server conn crashed?");
                Err(Report::fatal(
                    "08007",
                    "the connection to a shard was lost during COMMIT; the transaction's outcome is unknown",
                )
                .detail(text)
                .hint(
                    "reconnect and look whether the changes are there; the shards agree with each other within seconds",
                ))
            }
        }
    }

    pub(super) async fn roll_back(&mut self, chain: bool) -> &'static str {
        if let Link::Transaction(transaction) = &mut self.link {
            two_phase::rollback(&mut transaction.participants).await;
        }
        let pinned = self.end_transaction(false, chain);
        self.chain_pinned(pinned).await;
        "ROLLBACK"
    }

    /// The block is over on all servers: settings, then the servers go back. If another block follows, the server that the
    /// session is pinned to is returned: it takes part from the start.
    fn end_transaction(&mut self, committed: bool, chain: bool) -> Option<Lease> {
        self.end_log(committed, chain);
        self.count_transaction();
        let Link::Transaction(mut transaction) = std::mem::replace(&mut self.link, Link::None) else { return None };
        // Before the first server goes back: a cancel request must not follow it to another client.
        self.client.link(0);
        let pinned = self.pinned;
        // All of them had the same settings, so what changed with the end is the same on all.
        if let Some(participant) = transaction.participants.first_mut() {
            let reported = std::mem::take(&mut participant.lease.reported);
            self.reply(&reported);
        }
        for mut participant in std::mem::take(&mut transaction.participants) {
            participant.lease.reported.clear();
            if pinned && matches!(self.link, Link::None) {
                self.link = Link::One(participant.lease);
            } else {
                participant.lease.checkin();
            }
        }
        self.client.request_ended(self.client.clock(), false);
        if !chain {
            return None;
        }
        transaction.failed = false;
        match std::mem::replace(&mut self.link, Link::Transaction(transaction)) {
            Link::One(lease) => Some(lease),
            _ => None,
        }
    }

    /// Begins the next block of AND CHAIN on the server that the session is pinned to.
    async fn chain_pinned(&mut self, pinned: Option<Lease>) {
        let (Some(lease), Link::Transaction(transaction)) = (pinned, &self.link) else { return };
        let begin = transaction.log.prologue();
        if let Err(report) = self.start_pinned(lease, &begin).await {
            tracing::warn!(
                "{} the next transaction of AND CHAIN did not begin: {}",
                self.client.log_prefix(),
                report.message
            );
            self.close_servers("AND CHAIN failed");
        }
    }

    fn check_savepoint(&self, name: &str) -> Result<(), Report> {
        match &self.link {
            Link::Transaction(transaction) if transaction.log.has_savepoint(name) => Ok(()),
            _ => Err(Report::error("3B001", format!("savepoint \"{name}\" does not exist"))),
        }
    }

    /// Runs a statement on all participants, then notes it.
    async fn on_all(
        &mut self,
        sql: &str,
        tag: &'static str,
        note: impl FnOnce(&mut TransactionLog),
    ) -> Result<&'static str, Report> {
        let Link::Transaction(transaction) = &mut self.link else { return Ok(tag) };
        for participant in &mut transaction.participants {
            participant.lease.start(sql).map_err(|error| lost(&error))?;
        }
        let mut failed = None;
        for participant in &mut transaction.participants {
            let done = participant.lease.finish(false).await.map_err(|error| lost(&error))?;
            failed = failed.or_else(|| failure(&done));
        }
        let first = transaction.participants.first_mut();
        let reported = first.map(|first| std::mem::take(&mut first.lease.reported)).unwrap_or_default();
        transaction.participants.iter_mut().for_each(|participant| participant.lease.reported.clear());
        if let Some(report) = failed {
            return Err(report);
        }
        note(&mut transaction.log);
        self.reply(&reported);
        Ok(tag)
    }
}

fn statements(vars: &[Var]) -> String {
    vars.iter().map(|var| &*var.statement).collect::<Vec<_>>().join("; ")
}

/// How long a client that is told to go may take to hear it.
const LAST_WORDS: std::time::Duration = std::time::Duration::from_secs(1);

/// No deadline: a wait that nothing but its event ends.
const FOREVER: std::time::Duration = std::time::Duration::from_secs(86_400 * 365);

/// Removes what another client may have left, then makes the settings `wanted`.
pub(crate) async fn make_ready(
    lease: &mut Lease,
    client: u64,
    wanted: &Arc<Vars>,
    none: &Arc<Vars>,
) -> Result<(), Report> {
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
        lease.reported.clear();
        return Ok(());
    };
    let done = lease.run(&sql).await.map_err(|error| lost(&error))?;
    // The client knows its own settings.
    lease.reported.clear();
    if let Some(report) = failure(&done) {
        return Err(Report::fatal(&report.sqlstate, "invalid server parameter")
            .detail(report.message)
            .hint("a setting of this session (SET, or a start-up parameter) is not accepted by the server"));
    }
    lease.applied = wanted.clone();
    Ok(())
}

/// PostgreSQL warns, and takes the modes over. Here they would have to hold on servers that join later as well.
fn begun_with_modes() -> Report {
    Report::error(
        "0A000",
        "there is already a transaction in progress, and its modes cannot be changed by another BEGIN",
    )
    .hint("use SET TRANSACTION")
}

fn aborted() -> Report {
    Report::error("25P02", "current transaction is aborted, commands ignored until end of transaction block")
}

pub(super) fn failure(done: &Done) -> Option<Report> {
    done.error.as_deref().map(report_of)
}

/// A server's ErrorResponse as ours: message, SQLSTATE, DETAIL and HINT are kept.
fn report_of(error: &[u8]) -> Report {
    let done = Done { error: Some(error.to_vec()), ..Done::default() };
    let field = |code| done.error_field(code).unwrap_or_default();
    Report::error(&field(b'C'), field(b'M')).detail(field(b'D')).hint(field(b'H'))
}

pub(super) fn lost(error: &std::io::Error) -> Report {
    Report::fatal("08006", "server conn crashed?").detail(error.to_string())
}

pub(super) fn not_together() -> Report {
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

    pub(super) fn remember_parse(&mut self, parse: &Parse<'_>) {
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
        Deny::UnknownStatement(name) if name.is_empty() => {
            Report::error("26000", "unnamed prepared statement does not exist")
        }
        Deny::UnknownStatement(name) => Report::error("26000", format!("prepared statement \"{name}\" does not exist")),
        Deny::NameTaken(name) => Report::error("42P05", format!("prepared statement \"{name}\" already exists")),
    }
}

/// The grammar counts bytes, the protocol characters.
pub(super) fn refusal_report(refusal: Refusal, input: &[u8]) -> Report {
    let sql = sql_of(input).unwrap_or_default();
    let position = match refusal.position {
        0 => 0,
        at => sql.get(..at as usize - 1).map_or(0, |before| before.chars().count() + 1),
    };
    let mut report = Report::error(&refusal.sqlstate, refusal.message).detail(refusal.detail).hint(refusal.hint);
    report.position = position;
    report
}
