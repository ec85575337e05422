//! LISTEN without a server of one's own: the pool's listener listens, and what it hears is written to the client whenever that
//! is between two transactions.
//!
//! This holds for LISTEN on its own. Inside a transaction, or together with other statements, it runs on the session's server,
//! which then is kept (`Residue::pins`); from its commit on, that server is the one that the client hears.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use sluice_wire::frame::Frames;
use sluice_wire::message::{Report, Status};

use super::request::Request;
use super::run::{Slow, Step};
use super::send::unknown_shard;
use super::transaction::Effect;
use super::{Link, Session, encoding};
use crate::pool::Pool;

impl Session {
    /// LISTEN or UNLISTEN on its own, of a session that holds no server.
    pub(super) fn listens_by_pool(&self, request: &Request) -> bool {
        let alone = matches!(&*request.effects, [Effect::Listen(_) | Effect::Unlisten(_)]) && request.statements == 1;
        let is_free = matches!(self.link, Link::None) && !self.open;
        alone && is_free && !self.upstream.is_sharded() && self.reads_utf8()
    }

    /// The listener hears in UTF8.
    fn reads_utf8(&self) -> bool {
        if let Some(statement) = self.vars.get("client_encoding") {
            return encoding::is_utf8(statement);
        }
        let welcome = self.upstream.pools().first().and_then(|pool| pool.welcome());
        welcome.is_some_and(|welcome| {
            let mut parameters = welcome.parameters.iter();
            parameters.any(|(name, value)| name == "client_encoding" && value == "UTF8")
        })
    }

    /// Returns when nothing that is committed from now on is missed.
    pub(super) async fn listen(&mut self, channel: &str) -> Result<(), Report> {
        let home = self.upstream.with_map(|map| map.home());
        let Some(pool) = self.upstream.pool(home).cloned() else { return Err(unknown_shard(home)) };
        if !pool.has_listener() {
            // In its turn, as anything that needs a connection: the pool may be paused, or PostgreSQL away.
            self.wait_for(home).await?.checkin();
        }
        let waker = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
        tokio::select! {
            listens = pool.listen(channel, &self.client, waker) => listens,
            report = self.interrupted() => Err(report),
        }
    }

    /// UNLISTEN on its own.
    pub(super) async fn stop_listening(&self, channel: Option<&str>) {
        if let Some(pool) = self.listening_pool() {
            pool.unlisten_in_turn(channel, self.client.id).await;
        }
    }

    /// Of one channel, or of all.
    pub(super) fn unlisten(&self, channel: Option<&str>) {
        if let Some(pool) = self.listening_pool() {
            pool.unlisten(channel, self.client.id);
        }
    }

    /// At the session's end.
    pub(super) fn leave_mailbox(&self) {
        if let Some(pool) = self.listening_pool() {
            pool.remove_mailbox(self.client.id);
        }
    }

    /// The pool whose listener has ever listened for this client.
    fn listening_pool(&self) -> Option<&Arc<Pool>> {
        self.upstream.pools().first().filter(|_| self.client.listens.load(Ordering::Relaxed))
    }

    /// Notifications have come. They wait for the end of a transaction, as PostgreSQL's do.
    #[cold]
    pub(super) fn deliver(&mut self) -> Option<Step> {
        let at_rest = self.status() == Status::Idle && !self.open && !self.flow.copy_in;
        let pool = self.listening_pool().filter(|_| at_rest)?;
        let mail = pool.take_mail(&self.client);
        if !self.reads_utf8() && !is_plain(&mail) {
            return Some(Step::Slow(Slow::fail(garbled())));
        }
        match self.reply(&mail) {
            Step::Read => None,
            end => Some(end),
        }
    }

    /// The client asks which channels it listens on, and its server does not know.
    pub(super) fn hides_channels(&self, request: &Request) -> bool {
        self.listening_pool().is_some() && request.effects.contains(&Effect::ShowChannels)
    }
}

/// NotificationResponse messages whose text is the same in all encodings.
fn is_plain(mail: &[u8]) -> bool {
    Frames::new(mail).map_while(Result::ok).all(|frame| frame.body.get(4..).is_none_or(<[u8]>::is_ascii))
}

fn garbled() -> Report {
    Report::fatal("0A000", "a notification cannot be converted to this client_encoding")
        .detail("It was changed after LISTEN, which another connection serves in UTF8.")
        .hint("set client_encoding before LISTEN")
}

/// See [`Session::hides_channels`].
pub(super) fn hidden_channels() -> Report {
    Report::error("0A000", "pg_listening_channels() cannot be answered")
        .detail("In transaction pooling, another connection listens for this session.")
        .hint("Run LISTEN inside a transaction, which keeps the server for the session, or use session pooling.")
}
