//! What is not simply sent to one server: BEGIN and its kin over several shards, and who deals with each [`Slow`].

use std::sync::Arc;

use sluice_router::ShardMap;
use sluice_router::template::{Action, Template};
use sluice_wire::frame::{Bind, Frames, HEADER, Parse, query_text};
use sluice_wire::message::{self, Report, Status};

use super::copy::Rows;
use super::effects::statements;
use super::everywhere::Command;
use super::refuse::{aborted, deny_report, lost, not_together};
use super::request::{Cut, Deny, Request, Where, cut, split_tail};
use super::run::{Later, Slow};
use super::transaction::{Effect, TransactionLog, is_plain_begin};
use super::{End, Link, Session, Transaction};
use crate::executor::two_phase;
use crate::executor::two_phase::{CommitError, Participant};
use crate::pool::{Lease, report_of};
use crate::registry::ClientState;
use crate::upstream::shard_of;

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
                self.stop_listening(channel.as_deref()).await;
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
        if let Some(report) = done.failure() {
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
        for participant in std::mem::take(&mut transaction.participants) {
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
    pub(super) async fn on_all(
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
            failed = failed.or_else(|| done.failure());
        }
        let first = transaction.participants.first_mut();
        let reported = first.map(|first| std::mem::take(&mut first.lease.reported)).unwrap_or_default();
        if let Some(report) = failed {
            return Err(report);
        }
        note(&mut transaction.log);
        self.reply(&reported);
        Ok(tag)
    }
}

/// PostgreSQL warns, and takes the modes over. Here they would have to hold on servers that join later as well.
fn begun_with_modes() -> Report {
    Report::error(
        "0A000",
        "there is already a transaction in progress, and its modes cannot be changed by another BEGIN",
    )
    .hint("use SET TRANSACTION")
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
        let reading = self.reading(&[]);
        let statements = self.statements.get_or_insert_default();
        if parse.name.is_empty() {
            statements.set_unnamed(parse.tail);
        } else {
            statements.named.insert(parse.name.into(), self.shared.statements.intern(parse.tail, &reading));
        }
    }
}
