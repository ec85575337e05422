//! A replication connection after its login: bytes go both ways between its client and a server of its own, until one of the
//! two ends or is told to.
//!
//! Nothing of it is pooled, and nothing is changed. Headers are looked at for three things: whether the client has said
//! goodbye, whether a command runs, and where one message ends and the next begins, because last words of ours in the middle
//! of one would be taken for data. Neither end is read while the other one has not taken what came before.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use sluice_wire::frame::{Frame, Header};
use sluice_wire::message::Report;
use sluice_wire::scan::{Class, Scanner, Sink, Verdict};

use crate::net::{Io, with_scratch};
use crate::pool::{Pools, ReplicationServer};
use crate::registry::{ClientHandle, ClientState, Eviction};
use crate::upstream::Upstream;

/// The pool's statistics are brought up to date after so many bytes.
const COUNTED_TOGETHER: u64 = 1 << 20;
/// A client that doesn't listen doesn't hold up its own end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A replication client and its server.
pub struct Replicating {
    io: Io,
    client: ClientHandle,
    upstream: Arc<Upstream>,
    server: ReplicationServer,
    /// From the client to the server.
    up: Way,
    /// From the server to the client.
    down: Way,
    commands: Commands,
}

/// How it ended.
enum End {
    /// The client said goodbye.
    Terminated,
    ClientLost(io::Error),
    ServerLost(io::Error),
    Evicted(Eviction),
}

impl Replicating {
    pub fn new(io: Io, client: ClientHandle, upstream: Arc<Upstream>, mut server: ReplicationServer) -> Self {
        upstream.count_client(true);
        server.counters.server_assignment_count += 1;
        server.entry.client.store(client.id, Ordering::Relaxed);
        client.link(server.entry.id);
        client.set_state(ClientState::Active);
        // Terminate at the end, unless somebody knows better, might become a part of what the client was about to say.
        server.pending = 1;
        let (up, down, commands) = Default::default();
        Self { io, client, upstream, server, up, down, commands }
    }

    /// Relays until the end. `input` came behind the login.
    pub async fn serve(mut self, input: Vec<u8>) {
        let end = match self.pass_up(&input) {
            Ok(()) => poll_fn(|cx| self.poll(cx)).await,
            Err(end) => end,
        };
        let reason = self.say_why(&end).await;
        self.stop_command(&end).await;
        let client = &self.client;
        tracing::info!(
            "C-{:#x}: {}/{}@{} closing because: {reason} (age={}s)",
            client.id,
            client.database(),
            client.user(),
            client.peer(),
            client.connected_at().elapsed().unwrap_or_default().as_secs()
        );
        self.client.link(0);
        self.upstream.count_client(false);
        if self.up.is_between_messages() {
            self.server.pending = 0;
        }
        match end {
            End::Terminated | End::ClientLost(_) => self.server.close("replication client was closed"),
            End::ServerLost(_) | End::Evicted(_) => self.server.close(&reason),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.client.watch_eviction(cx.waker());
        loop {
            match self.client.eviction_at_rest() {
                Some(Eviction::Rest | Eviction::Resting) => return self.poll_rest(cx),
                Some(eviction) if self.goes_now(eviction) => return Poll::Ready(End::Evicted(eviction)),
                _ => {}
            }
            // One piece each way, in turn: neither starves the other.
            match (self.poll_down(cx), self.poll_up(cx)) {
                (Poll::Ready(Err(end)), _) | (_, Poll::Ready(Err(end))) => return Poll::Ready(end),
                (Poll::Pending, Poll::Pending) => return Poll::Pending,
                _ => {}
            }
        }
    }

    fn poll_down(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        if !self.down.unsent.is_empty() {
            ready!(self.io.poll_flush(cx, &mut self.down.unsent)).map_err(End::ClientLost)?;
        }
        with_scratch(|scratch| {
            let piece = ready!(poll_piece(&self.server.io, cx, scratch)).map_err(End::ServerLost)?;
            self.pass_down(piece)?;
            Poll::Ready(Ok(()))
        })
    }

    fn poll_up(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        if !self.up.unsent.is_empty() {
            ready!(self.server.io.poll_flush(cx, &mut self.up.unsent)).map_err(End::ServerLost)?;
        }
        with_scratch(|scratch| {
            let piece = ready!(poll_piece(&self.io, cx, scratch)).map_err(End::ClientLost)?;
            self.pass_up(piece)?;
            Poll::Ready(if self.commands.terminated { Err(End::Terminated) } else { Ok(()) })
        })
    }

    fn pass_down(&mut self, piece: &[u8]) -> Result<(), End> {
        let commands = &mut self.commands;
        let relayed = self.down.relay(piece, &self.io, |tag| commands.on_response(tag));
        relayed.map_err(|broken| broken.end(End::ServerLost, End::ClientLost))?;
        self.server.counters.sent += piece.len() as u64;
        if self.server.counters.sent >= COUNTED_TOGETHER {
            self.server.count();
        }
        Ok(())
    }

    fn pass_up(&mut self, piece: &[u8]) -> Result<(), End> {
        let before = self.commands.running;
        let commands = &mut self.commands;
        let relayed = self.up.relay(piece, &self.server.io, |tag| commands.on_request(tag));
        relayed.map_err(|broken| broken.end(End::ClientLost, End::ServerLost))?;
        self.server.counters.received += piece.len() as u64;
        self.server.counters.query_count += u64::from(self.commands.running - before);
        Ok(())
    }

    /// SUSPEND: what was read is written, and nothing more is read.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        // An error is found again when the connection goes on.
        let down = self.io.poll_flush(cx, &mut self.down.unsent);
        let up = self.server.io.poll_flush(cx, &mut self.up.unsent);
        if down.is_ready() && up.is_ready() {
            self.client.rests();
        }
        Poll::Pending
    }

    /// Only a shutdown lets a command finish; a stream that never ends by itself is cut between two messages. Those who
    /// receive it connect again and go on where they were.
    fn goes_now(&self, eviction: Eviction) -> bool {
        let rests = || self.commands.running == 0 && !self.io.has_unread();
        eviction != Eviction::Replaced || (self.down.is_between_messages() && (self.commands.streaming || rests()))
    }

    /// Tells the client why it has to go, where that can be told from data.
    async fn say_why(&mut self, end: &End) -> String {
        let report = match end {
            End::Terminated => return "client close request".to_owned(),
            End::ClientLost(error) => return format!("client unexpected eof: {error}"),
            End::ServerLost(error) => Report::fatal("08006", "server conn crashed?").detail(error.to_string()),
            End::Evicted(eviction) => {
                let (text, sqlstate) = eviction.report();
                Report::fatal(sqlstate, text)
            }
        };
        if self.down.is_between_messages() {
            let mut out = Vec::new();
            report.encode(&mut out);
            let _ = tokio::time::timeout(LAST_WORDS, self.io.write_all(&out)).await;
        }
        report.message
    }

    /// What nobody waits for any more shouldn't go on. The end of a stream is noticed without being told.
    async fn stop_command(&self, end: &End) {
        if self.commands.would_end() && matches!(end, End::ClientLost(_) | End::Evicted(_)) {
            Pools::cancel(&self.server.entry).await;
        }
    }
}

/// What the client and the server have said, as far as it matters here.
#[derive(Debug, Default)]
struct Commands {
    /// ReadyForQuery messages that are still to come.
    running: u32,
    /// In START_REPLICATION.
    streaming: bool,
    terminated: bool,
}

impl Commands {
    fn on_request(&mut self, tag: u8) {
        match tag {
            b'Q' | b'S' | b'F' => self.running += 1,
            b'X' => self.terminated = true,
            _ => {}
        }
    }

    fn on_response(&mut self, tag: u8) {
        match tag {
            b'W' => self.streaming = true,
            b'Z' => {
                self.running = self.running.saturating_sub(1);
                self.streaming = false;
            }
            _ => {}
        }
    }

    /// A command runs that ends by itself.
    fn would_end(&self) -> bool {
        self.running > 0 && !self.streaming
    }
}

/// One direction.
#[derive(Default)]
struct Way {
    scanner: Scanner,
    /// What the other end's socket has not taken yet.
    unsent: Vec<u8>,
}

/// Which end of a way is broken.
enum Broken {
    Source(io::Error),
    Sink(io::Error),
}

impl Broken {
    fn end(self, source: fn(io::Error) -> End, sink: fn(io::Error) -> End) -> End {
        match self {
            Self::Source(error) => source(error),
            Self::Sink(error) => sink(error),
        }
    }
}

impl Way {
    /// Sends `piece` on as far as the socket takes it; `note` is told of each message.
    fn relay(&mut self, piece: &[u8], to: &Io, note: impl FnMut(u8)) -> Result<(), Broken> {
        let mut relay = Relay { to, unsent: &mut self.unsent, note, result: Ok(()) };
        let scanned = self.scanner.scan(piece, &mut relay);
        relay.result.map_err(Broken::Sink)?;
        scanned.map_err(|error| Broken::Source(io::Error::other(error)))
    }

    /// The other end has been sent whole messages.
    fn is_between_messages(&self) -> bool {
        self.unsent.is_empty() && self.scanner.is_at_boundary()
    }
}

struct Relay<'a, N> {
    to: &'a Io,
    unsent: &'a mut Vec<u8>,
    note: N,
    result: io::Result<()>,
}

impl<N: FnMut(u8)> Sink for Relay<'_, N> {
    fn classify(&mut self, header: Header) -> Class {
        (self.note)(header.tag);
        Class::Pass
    }

    fn message(&mut self, _: Frame<'_>) -> Verdict {
        Verdict::Pass
    }

    fn pass(&mut self, bytes: &[u8]) {
        if self.result.is_err() {
            return;
        }
        let written = if self.unsent.is_empty() { self.to.try_write(bytes) } else { Ok(0) };
        match written {
            Ok(written) => self.unsent.extend_from_slice(&bytes[written..]),
            Err(error) => self.result = Err(error),
        }
    }
}

/// Reads once; the end of the stream is an error.
fn poll_piece<'a>(io: &Io, cx: &mut Context<'_>, scratch: &'a mut [u8]) -> Poll<io::Result<&'a [u8]>> {
    let count = ready!(io.poll_read(cx, scratch))?;
    if count == 0 {
        return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
    }
    Poll::Ready(Ok(&scratch[..count]))
}
