//! LISTEN for clients that share servers: one connection for each pool listens on all channels that its clients ask for, and
//! hands what it hears to each of them.
//!
//! What is promised is what PostgreSQL promises: after LISTEN has answered, nothing that is committed later is missed, and
//! notifications come in the order of their commits. Where that can't be kept (the connection broke, or a client takes nothing),
//! the client's connection ends, as it would if PostgreSQL's had: a gap that nobody is told of would be worse.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use sluice_wire::frame::{Frame, Header, cstr};
use sluice_wire::message::{self, Report};
use sluice_wire::scan::{Class, Sink, Verdict};
use tokio::sync::{mpsc, oneshot};

use super::command::report_of;
use super::pool::Pool;
use super::server::{ConnectError, Server};
use crate::lock::lock;
use crate::net::with_scratch;
use crate::registry::{ClientEntry, Eviction};
use crate::vars::{VarsTable, quote_identifier};

/// Notifications that a client has not taken yet may be so long in all.
const MAILBOX: usize = 16 << 20;

/// How often the connection is looked after: closed if nobody listens any more, asked whether it is still there.
const ROUND: Duration = Duration::from_secs(5);

/// After so many quiet rounds the server has to answer; it has as many to do so.
const QUIET_ROUNDS: u32 = 6;

/// Requests that are on their way to the listener.
const REQUESTS: usize = 64;

/// What a listening client has yet to be sent.
#[derive(Debug)]
struct Mailbox {
    client: Arc<ClientEntry>,
    /// Of the session's task.
    waker: Waker,
    /// NotificationResponse messages, as they came.
    mail: Mutex<Vec<u8>>,
}

impl Mailbox {
    fn put(&self, notification: &[u8]) {
        let mut mail = lock(&self.mail);
        if mail.len() + notification.len() > MAILBOX {
            return self.client.evict(Eviction::MailboxFull);
        }
        mail.extend_from_slice(notification);
        self.client.has_mail.store(true, Ordering::Release);
        drop(mail);
        self.waker.wake_by_ref();
    }
}

/// A pool's way to its listener.
#[derive(Debug, Default)]
pub(super) struct Listening {
    requests: Mutex<Option<mpsc::Sender<Request>>>,
    /// Many may want the first one at the same moment.
    opening: tokio::sync::Mutex<()>,
    /// Here, by the client's number, because a session has no room for what few clients use.
    mailboxes: Mutex<HashMap<u64, Arc<Mailbox>>>,
}

/// Somebody wants to hear of a channel.
#[derive(Debug)]
struct Listen {
    channel: Box<str>,
    mailbox: Arc<Mailbox>,
    done: oneshot::Sender<Result<(), Report>>,
}

#[derive(Debug)]
enum Request {
    Listen(Listen),
    Unlisten { channel: Option<Box<str>>, client: u64 },
}

impl Listening {
    fn running(&self) -> Option<mpsc::Sender<Request>> {
        lock(&self.requests).clone().filter(|requests| !requests.is_closed())
    }

    fn mailbox(&self, client: &Arc<ClientEntry>, waker: Waker) -> Arc<Mailbox> {
        client.listens.store(true, Ordering::Relaxed);
        let new = || Arc::new(Mailbox { client: client.clone(), waker, mail: Mutex::default() });
        lock(&self.mailboxes).entry(client.id).or_insert_with(new).clone()
    }
}

impl Pool {
    pub fn has_listener(&self) -> bool {
        self.listening.running().is_some()
    }

    /// Returns when the client will hear of whatever is committed from now on. `waker` is that of its session's task.
    pub async fn listen(
        self: &Arc<Self>,
        channel: &str,
        client: &Arc<ClientEntry>,
        waker: Waker,
    ) -> Result<(), Report> {
        let mailbox = self.listening.mailbox(client, waker);
        loop {
            let (done, answer) = oneshot::channel();
            let request = Request::Listen(Listen { channel: channel.into(), mailbox: mailbox.clone(), done });
            let listener = self.listener().await.map_err(|error| unreachable(&error))?;
            if listener.send(request).await.is_ok()
                && let Ok(result) = answer.await
            {
                return result;
            }
            // It ended in this very moment, because nobody listened: the next one, then.
        }
    }

    /// What the client has yet to be sent.
    pub fn take_mail(&self, client: &ClientEntry) -> Vec<u8> {
        let mailbox = lock(&self.listening.mailboxes).get(&client.id).cloned();
        let Some(mailbox) = mailbox else { return Vec::new() };
        let mut mail = lock(&mailbox.mail);
        client.has_mail.store(false, Ordering::Release);
        std::mem::take(&mut mail)
    }

    /// The client is gone.
    pub fn remove_mailbox(&self, client: u64) {
        lock(&self.listening.mailboxes).remove(&client);
        self.unlisten(None, client);
    }

    /// One channel, or all. What the client asks for next comes behind it.
    pub async fn unlisten_in_turn(&self, channel: Option<&str>, client: u64) {
        let Some(requests) = self.listening.running() else { return };
        // It has ended: nobody listens any more.
        let _ = requests.send(Request::Unlisten { channel: channel.map(Into::into), client }).await;
    }

    /// One channel, or all, of a client that can't wait.
    pub fn unlisten(&self, channel: Option<&str>, client: u64) {
        let Some(requests) = self.listening.running() else { return };
        let request = Request::Unlisten { channel: channel.map(Into::into), client };
        if let Err(mpsc::error::TrySendError::Full(request)) = requests.try_send(request)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move { requests.send(request).await });
        }
    }

    /// The listener that runs, or a new one.
    async fn listener(self: &Arc<Self>) -> Result<mpsc::Sender<Request>, ConnectError> {
        if let Some(requests) = self.listening.running() {
            return Ok(requests);
        }
        let target = self.target();
        let opening = tokio::time::timeout(target.timeout, self.listening.opening.lock()).await;
        let _opening = opening.map_err(|_| ConnectError::Timeout)?;
        // Somebody else may have been faster.
        if let Some(requests) = self.listening.running() {
            return Ok(requests);
        }
        let none = VarsTable::default().intern(Vec::new());
        let turn = (self.registry().next_id(), target.hosts.pick());
        let (server, _) = Server::open(&target, turn, none, &self.key, self.registry()).await?;
        let (sender, requests) = mpsc::channel(REQUESTS);
        *lock(&self.listening.requests) = Some(sender.clone());
        tracing::info!("{} listens for the clients of its pool", server.log_prefix());
        self.registry().add_server(server.entry.clone());
        tokio::spawn(Listener::new(server, Arc::downgrade(self)).serve(requests));
        Ok(sender)
    }
}

fn unreachable(error: &ConnectError) -> Report {
    Report::error(error.sqlstate(), "cannot listen: no connection to the server").detail(error.to_string())
}

/// The connection that listens, and for whom.
struct Listener {
    server: Server,
    pool: Weak<Pool>,
    channels: HashMap<Box<str>, Vec<Arc<Mailbox>>>,
    /// What was sent to the server, in order: each is answered by one ReadyForQuery. Nobody waits for the others' answers.
    asked: VecDeque<Option<Listen>>,
    /// The error that answers what was asked first.
    error: Option<Report>,
    quiet_rounds: u32,
}

impl Listener {
    fn new(server: Server, pool: Weak<Pool>) -> Self {
        let (channels, asked) = Default::default();
        Self { server, pool, channels, asked, error: None, quiet_rounds: 0 }
    }

    async fn serve(mut self, mut requests: mpsc::Receiver<Request>) {
        // What most clients read; sessions look whether theirs does. Should it fail, so does the connection.
        let _ = self.ask("SET client_encoding = 'UTF8'", None);
        let mut rounds = tokio::time::interval_at(tokio::time::Instant::now() + ROUND, ROUND);
        let ended = loop {
            let result = tokio::select! {
                biased;
                result = poll_fn(|cx| self.poll_server(cx)) => result,
                request = requests.recv() => match request {
                    Some(request) => self.on_request(request),
                    None => break None,
                },
                _ = rounds.tick() => match self.is_needed(&requests) {
                    true => self.look_after(),
                    false => break None,
                },
            };
            if let Err(error) = result {
                break Some(error);
            }
        };
        requests.close();
        self.end(ended);
    }

    fn on_request(&mut self, request: Request) -> io::Result<()> {
        match request {
            Request::Listen(listen) => {
                let sql = format!("LISTEN {}", quote_identifier(&listen.channel));
                self.ask(&sql, Some(listen))
            }
            Request::Unlisten { channel, client } => {
                let leaves = |mailbox: &Arc<Mailbox>| mailbox.client.id != client;
                match channel {
                    Some(channel) => self.channels.get_mut(&channel).into_iter().for_each(|them| them.retain(leaves)),
                    None => self.channels.values_mut().for_each(|them| them.retain(leaves)),
                }
                self.leave_channels()
            }
        }
    }

    /// Stops listening where nobody is left, nor about to come: an UNLISTEN behind a LISTEN that is on its way would undo it.
    /// If that one fails, the next round comes back here.
    fn leave_channels(&mut self) -> io::Result<()> {
        let asked = &self.asked;
        let is_asked_for = |name: &str| asked.iter().flatten().any(|listen| *listen.channel == *name);
        let empty = self.channels.extract_if(|name, them| them.is_empty() && !is_asked_for(name));
        let empty: Vec<_> = empty.map(|(channel, _)| channel).collect();
        for channel in empty {
            // A LISTEN that is behind it in the queue listens again.
            self.ask(&format!("UNLISTEN {}", quote_identifier(&channel)), None)?;
        }
        Ok(())
    }

    fn ask(&mut self, sql: &str, asked: Option<Listen>) -> io::Result<()> {
        self.asked.push_back(asked);
        let mut bytes = Vec::with_capacity(sql.len() + 6);
        message::query(&mut bytes, sql.as_bytes());
        self.server.send(&bytes)
    }

    fn is_needed(&self, requests: &mpsc::Receiver<Request>) -> bool {
        let is_heard = self.channels.values().any(|them| !them.is_empty());
        is_heard || !self.asked.is_empty() || !requests.is_empty()
    }

    /// A connection that is dead looks like a quiet one.
    fn look_after(&mut self) -> io::Result<()> {
        self.leave_channels()?;
        if self.server.entry.close_needed.load(Ordering::Relaxed) {
            return Err(io::Error::other("database configuration changed"));
        }
        self.quiet_rounds += 1;
        match self.quiet_rounds {
            QUIET_ROUNDS if self.asked.is_empty() => self.ask("", None),
            rounds if rounds >= 2 * QUIET_ROUNDS => Err(io::ErrorKind::TimedOut.into()),
            _ => Ok(()),
        }
    }

    /// Reads what the server says. Ready only when its connection has ended.
    fn poll_server(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if !self.server.unsent.is_empty()
                && let Poll::Ready(result) = self.server.io.poll_flush(cx, &mut self.server.unsent)
            {
                result?;
            }
            ready!(with_scratch(|scratch| {
                let count = ready!(self.server.io.poll_read(cx, scratch))?;
                if count == 0 {
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                self.quiet_rounds = 0;
                let mut scanner = std::mem::take(&mut self.server.scanner);
                let scanned = scanner.scan(&scratch[..count], self);
                self.server.scanner = scanner;
                Poll::Ready(scanned.map_err(io::Error::other))
            }))?;
        }
    }

    fn on_notification(&self, frame: Frame<'_>) {
        let channel = frame.body.get(4..).and_then(cstr).and_then(|(channel, _)| str::from_utf8(channel).ok());
        for mailbox in channel.and_then(|channel| self.channels.get(channel)).into_iter().flatten() {
            mailbox.put(frame.raw);
        }
    }

    fn on_ready(&mut self) {
        let error = self.error.take();
        let Some(Some(Listen { channel, mailbox, done })) = self.asked.pop_front() else { return };
        let listening = self.channels.entry(channel).or_default();
        if let Some(report) = error {
            let _ = done.send(Err(report));
            return;
        }
        let is_new = !listening.iter().any(|known| Arc::ptr_eq(known, &mailbox));
        let id = mailbox.client.id;
        listening.extend(is_new.then_some(mailbox));
        if done.send(Ok(())).is_err() {
            // The client has gone. Its UNLISTEN came before there was anything to leave.
            listening.retain(|mailbox| mailbox.client.id != id);
        }
    }

    /// Everybody who listens is told that something may have been missed.
    fn end(self, error: Option<io::Error>) {
        for mailbox in self.channels.values().flatten() {
            mailbox.client.evict(Eviction::ListenerLost);
        }
        let Some(pool) = self.pool.upgrade() else { return };
        let reason = error.map_or("nobody listens".to_owned(), |error| format!("listener lost: {error}"));
        pool.dispose(Box::new(self.server), &reason);
    }
}

impl Sink for Listener {
    fn classify(&mut self, header: Header) -> Class {
        match header.tag {
            b'A' | b'E' | b'Z' => Class::Hold,
            _ => Class::Drop,
        }
    }

    fn message(&mut self, frame: Frame<'_>) -> Verdict {
        match frame.tag {
            b'A' => self.on_notification(frame),
            b'E' => self.error = Some(report_of(frame.raw)),
            _ => self.on_ready(),
        }
        Verdict::Drop
    }

    fn pass(&mut self, _: &[u8]) {}
}
