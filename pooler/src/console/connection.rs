//! One console connection: messages in, answers out.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use sluice_wire::frame::{self, Frame, Header, check_client_header, query_text};
use sluice_wire::message::{self, Report, Severity, Status};

use super::answer::{Answer, Row, data_row};
use super::control::Control;
use super::extended::{Extended, Portal};
use super::fds;
use super::grant::AdminGrant;
use super::parse::{self, Command, error};
use crate::app::{App, ShutdownMode};
use crate::cancel::hand_over;
use crate::net::{Io, Listening, Peer, send_with_socket};
use crate::registry::{ClientHandle, ClientState, Eviction};
use crate::suspend;

/// Longest message that the console reads: EXPLAIN ROUTE may be asked about a long statement.
const MAX_MESSAGE: u32 = 1 << 20;
/// Answers that are held back until a Sync or Flush.
const MAX_OUTPUT: usize = 1 << 20;
/// A client that doesn't read its answer by then is dropped.
const WRITE_DEADLINE: Duration = Duration::from_secs(60);

/// Why a connection ends.
enum End {
    /// The client left, by a Terminate or without one.
    Gone,
    /// The process ends, and says nothing.
    Immediate,
    Fatal(Report),
}

/// What can come between a command and its end.
enum Interruption {
    Gone,
    Cancelled,
    Evicted(Eviction),
}

pub struct Connection {
    app: Arc<App>,
    io: Io,
    client: ClientHandle,
    grant: Option<AdminGrant>,
    input: Vec<u8>,
    output: Vec<u8>,
    extended: Extended,
    /// After an error in the extended protocol: everything up to the next Sync is skipped.
    skipping: bool,
    /// A shutdown that begins when its answer is out.
    shutdown: Option<ShutdownMode>,
    /// It got the listening sockets.
    hands_over: bool,
    /// It has asked for SUSPEND.
    suspends: bool,
}

impl Connection {
    pub fn new(app: Arc<App>, io: Io, client: ClientHandle, grant: Option<AdminGrant>, input: Vec<u8>) -> Self {
        let (output, extended) = (Vec::new(), Extended::default());
        Self {
            app,
            io,
            client,
            grant,
            input,
            output,
            extended,
            skipping: false,
            shutdown: None,
            hands_over: false,
            suspends: false,
        }
    }

    pub async fn run(mut self) {
        self.serve().await;
        if self.suspends && suspend::is_suspended(&self.app) {
            // Nobody else may be able to come in for a RESUME.
            suspend::end(&self.app);
        }
    }

    async fn serve(&mut self) {
        // As in PgBouncer, console clients are never idle: no timeout ends them.
        self.client.set_state(ClientState::Active);
        loop {
            match self.step().await {
                Ok(()) => {}
                Err(End::Fatal(report)) => {
                    self.log_end(&report.message);
                    return self.say_goodbye(&report).await;
                }
                Err(End::Gone) => return self.log_end("client close request"),
                Err(End::Immediate) => return,
            }
        }
    }

    /// Reads and answers one message.
    async fn step(&mut self) -> Result<(), End> {
        let (tag, body) = self.next_message().await?;
        match tag {
            b'Q' => self.query(&body).await,
            b'S' => {
                self.skipping = false;
                self.extended.sync();
                self.ready().await
            }
            b'X' => Err(End::Gone),
            b'P' | b'B' | b'D' | b'E' | b'C' if self.skipping => Ok(()),
            b'P' | b'B' | b'D' | b'C' => {
                let done = self.extended.on_message(tag, &body, &mut self.output);
                self.extended_result(done).await
            }
            b'E' => {
                let done = self.execute_portal(&body).await?;
                self.extended_result(done).await
            }
            b'H' => self.flush().await,
            _ => Err(End::Fatal(Report::fatal("08P01", format!("unexpected message type {:?}", char::from(tag))))),
        }
    }

    async fn next_message(&mut self) -> Result<(u8, Vec<u8>), End> {
        loop {
            if let Some(message) =
                self.buffered_message().map_err(|error| End::Fatal(Report::fatal("08P01", error.to_string())))?
            {
                self.count(|counters, length| counters.received += length, message.1.len() + frame::HEADER);
                return Ok(message);
            }
            let read = tokio::select! {
                biased;
                eviction = evicted(&self.client) => return Err(End::Fatal(evicted_report(eviction))),
                read = self.io.read_some(&mut self.input) => read,
            };
            if !matches!(read, Ok(1..)) {
                return Err(End::Gone);
            }
        }
    }

    fn buffered_message(&mut self) -> Result<Option<(u8, Vec<u8>)>, frame::FrameError> {
        let Some(header) = Header::read(&self.input) else { return Ok(None) };
        check_client_header(header?, MAX_MESSAGE)?;
        let Some(frame) = Frame::first(&self.input)? else { return Ok(None) };
        let (message, used) = ((frame.tag, frame.body.to_vec()), frame.raw.len());
        self.input.drain(..used);
        Ok(Some(message))
    }

    /// The simple protocol.
    async fn query(&mut self, body: &[u8]) -> Result<(), End> {
        let Some(sql) = query_text(body) else { return Err(malformed()) };
        match parse::parse(&String::from_utf8_lossy(sql)) {
            Ok(command) => match self.execute(&command).await? {
                Ok(Answer::Sockets(sockets)) => self.send_sockets(&sockets).await?,
                Ok(answer) => self.put_answer(&command, answer)?,
                Err(report) => self.put_error(&report),
            },
            Err(report) => self.put_error(&report),
        }
        self.ready().await
    }

    fn put_answer(&mut self, command: &Command, answer: Answer) -> Result<(), End> {
        match answer {
            Answer::Rows { tag, rows } => {
                let columns = command.columns().unwrap_or_default();
                let formats = vec![0; columns.len()];
                message::row_description(&mut self.output, columns.iter().map(|column| (*column, 0)));
                for row in &rows {
                    data_row(&mut self.output, columns, &formats, row);
                }
                message::command_complete(&mut self.output, tag);
            }
            answer => self.put_rowless(answer)?,
        }
        Ok(())
    }

    fn put_rowless(&mut self, answer: Answer) -> Result<(), End> {
        match answer {
            Answer::Done { tag, notice } => {
                if let Some(notice) = notice {
                    notice.encode(&mut self.output);
                }
                message::command_complete(&mut self.output, &tag);
            }
            Answer::Shutdown(_) if self.hands_over => {
                if let Peer::Unix { pid, .. } = self.client.peer() {
                    hand_over(&self.app, pid.unsigned_abs());
                }
                self.hands_over = false;
                return self.put_rowless(answer);
            }
            Answer::Shutdown(ShutdownMode::Immediate) => {
                self.app.shut_down(ShutdownMode::Immediate);
                return Err(End::Immediate);
            }
            Answer::Shutdown(mode) => {
                self.shutdown = Some(mode);
                message::command_complete(&mut self.output, "SHUTDOWN");
            }
            Answer::Rows { .. } | Answer::Sockets(_) => {}
        }
        Ok(())
    }

    fn put_error(&mut self, report: &Report) {
        tracing::error!("{}", report.message);
        if self.app.config().settings.log_pooler_errors {
            tracing::warn!("{} pooler error: {}", self.client.log_prefix(), report.message);
        }
        report.encode(&mut self.output);
    }

    /// The rows of SHOW FDS, each with its socket. Whoever got them is the next process: a shutdown that this connection asks
    /// for leaves the sockets to it.
    async fn send_sockets(&mut self, sockets: &[(Row, Arc<Listening>)]) -> Result<(), End> {
        if !matches!(self.client.peer(), Peer::Unix { .. }) {
            self.put_error(&error("SHOW FDS works on the unix socket only"));
            return Ok(());
        }
        fds::describe_rows(&mut self.output);
        self.flush().await?;
        for (row, socket) in sockets {
            send_with_socket(&self.io, &fds::message(row), &**socket).map_err(|_| End::Gone)?;
        }
        self.hands_over = true;
        message::command_complete(&mut self.output, "SHOW");
        Ok(())
    }

    /// Execute: runs the portal's command if that has not happened yet, and sends rows up to its limit.
    async fn execute_portal(&mut self, body: &[u8]) -> Result<Result<(), Report>, End> {
        let Some((name, limit)) = frame::execute(body) else { return Err(malformed()) };
        let mut portal = match self.extended.take_portal(name) {
            Ok(portal) => portal,
            Err(report) => return Ok(Err(report)),
        };
        if let Portal { command, rows: None, .. } = &portal {
            match self.execute(&command.clone()).await? {
                Ok(Answer::Rows { tag, rows }) => portal.start(tag, rows),
                Ok(Answer::Sockets(_)) => return Ok(Err(error("SHOW FDS needs the simple query protocol"))),
                Ok(answer) => {
                    self.put_rowless(answer)?;
                    portal.start("", Vec::new());
                }
                Err(report) => return Ok(Err(report)),
            }
        }
        portal.send(limit, &mut self.output);
        self.extended.put_portal(name, portal);
        Ok(Ok(()))
    }

    async fn extended_result(&mut self, result: Result<(), Report>) -> Result<(), End> {
        match result {
            Ok(()) if self.output.len() > MAX_OUTPUT => self.flush().await,
            Ok(()) => Ok(()),
            Err(report) if report.severity == Severity::Fatal => Err(End::Fatal(report)),
            Err(report) => {
                self.put_error(&report);
                self.skipping = true;
                // A client may wait for it before it sends its Sync.
                self.flush().await
            }
        }
    }

    /// Runs a command; a cancel request, an eviction or the client's end end the wait for it.
    async fn execute(&mut self, command: &Command) -> Result<Result<Answer, Report>, End> {
        let began = Instant::now();
        self.client.take_cancel();
        self.suspends |= matches!(command, Command::Control(Control::Suspend)) && self.grant.is_some();
        self.log_command(command);
        let result = tokio::select! {
            biased;
            result = super::run(&self.app, self.grant.as_ref(), command) => result,
            interruption = interrupted(&self.io, &self.client) => match interruption {
                Interruption::Gone => return Err(End::Gone),
                Interruption::Evicted(eviction) => return Err(End::Fatal(evicted_report(eviction))),
                Interruption::Cancelled => Err(super::cancel(&self.app, command)),
            },
        };
        self.app.console.count_command(began.elapsed());
        Ok(result)
    }

    async fn ready(&mut self) -> Result<(), End> {
        message::ready(&mut self.output, Status::Idle);
        self.flush().await
    }

    async fn flush(&mut self) -> Result<(), End> {
        let output = std::mem::take(&mut self.output);
        self.count(|counters, length| counters.sent += length, output.len());
        let written = tokio::time::timeout(WRITE_DEADLINE, self.io.write_all(&output)).await;
        if !matches!(written, Ok(Ok(()))) {
            return Err(End::Gone);
        }
        if let Some(mode) = self.shutdown.take() {
            self.app.shut_down(mode);
        }
        Ok(())
    }

    fn count(&self, add: impl FnOnce(&mut crate::stats::Counters, u64), length: usize) {
        self.app.console.count(|counters| add(counters, length as u64));
    }

    async fn say_goodbye(&mut self, report: &Report) {
        self.put_error(report);
        let _ = tokio::time::timeout(Duration::from_secs(1), self.io.write_all(&self.output)).await;
    }

    fn log_end(&self, reason: &str) {
        if self.app.config().settings.log_disconnections {
            let age = self.client.connected_at().elapsed().unwrap_or_default().as_secs();
            tracing::info!("{} closing because: {reason} (age={age}s)", self.client.log_prefix());
        }
    }

    fn log_command(&self, command: &Command) {
        match command {
            Command::Control(control) if self.grant.is_some() => {
                tracing::info!("{} {} command issued", self.client.log_prefix(), control.summary());
            }
            _ => {}
        }
    }
}

fn malformed() -> End {
    End::Fatal(Report::fatal("08P01", "failed to parse packet"))
}

fn evicted_report(eviction: Eviction) -> Report {
    let (text, sqlstate) = eviction.report();
    Report::fatal(sqlstate, text)
}

async fn evicted(client: &ClientHandle) -> Eviction {
    poll_fn(|cx| match client.poll_eviction(cx.waker()) {
        Some(eviction) => Poll::Ready(eviction),
        None => Poll::Pending,
    })
    .await
}

async fn interrupted(io: &Io, client: &ClientHandle) -> Interruption {
    poll_fn(|cx| {
        if let Some(eviction) = client.poll_eviction(cx.waker()) {
            return Poll::Ready(Interruption::Evicted(eviction));
        }
        if client.take_cancel() {
            return Poll::Ready(Interruption::Cancelled);
        }
        io.poll_gone(cx).map(|()| Interruption::Gone)
    })
    .await
}
