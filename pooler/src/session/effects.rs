//! What an answered request has done to the session: effects are drawn from what completed, not from what was sent.

use std::sync::atomic::Ordering;

use sluice_wire::message::Status;

use super::settle::After;
use super::transaction::{Effect, TransactionLog};
use super::{Link, Pending, Session};
use crate::vars::{Var, taken_by_reset};

impl Session {
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

    pub(super) fn pin(&mut self, pinned: bool) {
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
                // The statements of one message are a block, even if nobody has begun one; BEGIN takes it over.
                Effect::Begin(_) => self.with_log(|log| log.take_over(&safe)),
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
    pub(super) fn lost_by(&self, effects: &[Effect], status: Status) -> Vec<Var> {
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

    pub(super) fn apply_effect(&mut self, effect: &Effect, rolled_back: bool) {
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
    pub(super) fn end_log(&mut self, committed: bool, chain: bool) {
        if committed && let Link::Transaction(transaction) = &self.link {
            transaction.log.left_channels().for_each(|channel| self.unlisten(channel));
        }
        let Link::Transaction(transaction) = &mut self.link else { return };
        self.vars = if committed { transaction.log.vars.clone() } else { transaction.log.before().clone() };
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
}

pub(super) fn statements(vars: &[Var]) -> String {
    vars.iter().map(|var| &*var.statement).collect::<Vec<_>>().join("; ")
}
