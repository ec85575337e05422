//! From an accepted socket to a logged-in client: start-up packets, authentication, the welcome.
//!
//! Runs once per connection, in a future of its own that is gone when the session begins: nothing of it weighs on an idle
//! client.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use sluice_wire::message::{self, Report};
use sluice_wire::startup::{self, CancelKey, Replication, Startup, StartupMessage};
use tokio::time::Instant;

use super::parameters::{Parameters, session_vars};
use crate::app::App;
use crate::cancel::cancel;
use crate::config::{AuthType, CONSOLE, Config, Database};
use crate::net::tls::{ClientTls, PeerNames};
use crate::net::{Io, Peer};
use crate::pool::{CheckoutError, ReplicationServer, Welcome};
use crate::registry::{ClientEntry, ClientHandle, Names, NewClient, SocketGuard};
use crate::replication::Replicating;
use crate::session::Limits;
use crate::session::encoding;
use crate::session::run::Parts;
use crate::upstream::Upstream;
use crate::vars::Var;

/// A timeout that isn't set.
const FOREVER: Duration = Duration::from_secs(86_400);
/// The first byte of a password message, which no start-up packet has: it would be too long.
const PASSWORD: u8 = b'p';

/// What a connection turned out to be.
pub enum Accepted {
    Session(Box<Parts>),
    Console(Box<ConsoleParts>),
    /// With what came behind the login.
    Replication(Box<Replicating>, Vec<u8>),
    /// A cancel request, or a client that left: nothing more to do.
    Done,
}

/// A client that asked for the console.
pub struct ConsoleParts {
    app: Arc<App>,
    io: Io,
    client: ClientHandle,
    admin: bool,
    input: Vec<u8>,
}

impl ConsoleParts {
    pub async fn serve(self: Box<Self>) {
        let Self { app, io, client, admin, input } = *self;
        crate::console::serve(app, io, client, admin, input).await;
    }
}

/// A connection that is logging in.
pub(super) struct Handshake {
    pub(super) app: Arc<App>,
    pub(super) config: Arc<Config>,
    pub(super) tls: Arc<ClientTls>,
    pub(super) io: Io,
    pub(super) peer: Peer,
    pub(super) input: Vec<u8>,
    /// Its number, from the first byte on.
    pub(super) id: u64,
    /// The database and user that it asks for, once it has.
    names: Option<(String, String)>,
    began: Instant,
    /// When it last said something that a refusal may be the answer to.
    pub(super) last_word: Instant,
    /// It is who it says, and waits for the parameters of its pool's first server.
    awaits_server: bool,
}

/// Why a login ended. `None`: the client left without a word.
pub(super) type Refusal = Option<Report>;

/// Takes a connection through its login, within `client_login_timeout`.
pub async fn handshake(app: Arc<App>, io: Io, peer: Peer, socket: SocketGuard) -> Accepted {
    let config = app.config();
    let timeout = match config.settings.client_login_timeout {
        Duration::ZERO => FOREVER,
        timeout => timeout,
    };
    let tls = app.tls().client;
    let (id, now) = (app.registry.next_id(), Instant::now());
    let mut handshake = Handshake {
        app,
        config,
        tls,
        io,
        peer,
        input: Vec::new(),
        id,
        names: None,
        began: now,
        last_word: now,
        awaits_server: false,
    };
    let result = match tokio::time::timeout(timeout, handshake.run(socket)).await {
        Ok(result) => result,
        Err(_) => Err(handshake.too_late()),
    };
    match result {
        Ok(LoggedIn::Cancel(key)) => {
            let outcome = cancel(&handshake.app, &key).await;
            handshake.log_closing(outcome);
            Accepted::Done
        }
        Ok(LoggedIn::Client(login)) => login.accept(handshake),
        Err(None) => {
            handshake.log_closing("client unexpected eof");
            Accepted::Done
        }
        Err(Some(report)) => {
            handshake.log_refusal(&report);
            let mut out = Vec::new();
            report.encode(&mut out);
            let _ = tokio::time::timeout(Duration::from_secs(1), handshake.io.write_all(&out)).await;
            Accepted::Done
        }
    }
}

enum LoggedIn {
    /// It came to cancel another connection's statement.
    Cancel(CancelKey),
    Client(Box<Login>),
}

pub(super) struct Login {
    pub(super) client: ClientHandle,
    pub(super) to: Destination,
}

/// Where a login leads.
pub(super) enum Destination {
    Console { admin: bool },
    Database { upstream: Arc<Upstream>, limits: Limits, vars: Vec<Var> },
    Replication { upstream: Arc<Upstream>, server: ReplicationServer },
}

impl Login {
    fn accept(self, handshake: Handshake) -> Accepted {
        let Handshake { app, io, mut input, .. } = handshake;
        // The room that the login needed; an idle client has none.
        input.shrink_to_fit();
        let client = self.client;
        match self.to {
            Destination::Console { admin } => {
                Accepted::Console(Box::new(ConsoleParts { app, io, client, admin, input }))
            }
            Destination::Replication { upstream, server } => {
                Accepted::Replication(Box::new(Replicating::new(io, client, upstream, server)), input)
            }
            Destination::Database { upstream, limits, vars } => {
                let (vars, limits) = (app.shared.vars.intern(vars), app.limits(limits));
                let parts = Parts { io, client, upstream, shared: app.shared.clone(), limits, vars, input };
                Accepted::Session(Box::new(parts))
            }
        }
    }
}

impl Handshake {
    /// `C-0x…: DB/USER@ADDRESS`, as log lines about a client begin.
    pub(super) fn log_prefix(&self) -> String {
        let (database, user) =
            self.names.as_ref().map_or(("(nodb)", "(nouser)"), |(database, user)| (database.as_str(), user.as_str()));
        format!("C-{:#x}: {database}/{user}@{}", self.id, self.peer)
    }

    fn log_closing(&self, reason: &str) {
        if self.config.settings.log_disconnections {
            let age = self.began.elapsed().as_secs();
            tracing::info!("{} closing because: {reason} (age={age}s)", self.log_prefix());
        }
    }

    fn log_refusal(&self, report: &Report) {
        self.log_closing(&report.message);
        if self.config.settings.log_pooler_errors {
            tracing::warn!("{} pooler error: {}", self.log_prefix(), report.message);
        }
    }

    /// `client_login_timeout`: who is to blame.
    fn too_late(&self) -> Refusal {
        if self.awaits_server {
            let report = Report::fatal("08006", "client_login_timeout (server down)");
            return Some(report.hint("no server could be opened in time; the pooler's log says why"));
        }
        Some(Report::fatal("08P01", "client_login_timeout").hint("log in faster, or raise client_login_timeout"))
    }

    /// The client's connection is encrypted.
    pub(super) fn is_tls(&self) -> bool {
        self.io.tls().is_some()
    }

    /// The names in the certificate that the client has proved to own: those of its SAN, and its CN.
    pub(super) fn certificate_names(&self) -> Vec<String> {
        let names = self.io.peer_certificate().map(|certificate| PeerNames::of(&certificate));
        names.map_or_else(Vec::new, |names| names.dns.into_iter().chain(names.common_name).collect())
    }

    async fn run(&mut self, socket: SocketGuard) -> Result<LoggedIn, Refusal> {
        self.take_proxy_header().await?;
        loop {
            self.take_direct_tls().await?;
            let packet = self.startup_packet().await?;
            match startup::parse(&packet).map_err(|error| Some(Report::fatal(error.sqlstate(), error.to_string())))? {
                Startup::Ssl => self.answer_ssl_request().await?,
                Startup::Gss => self.answer_gss_request().await?,
                Startup::Cancel(key) => return Ok(LoggedIn::Cancel(key)),
                Startup::Start(message) => {
                    self.check_tls()?;
                    return self.log_in(message, socket).await.map(|login| LoggedIn::Client(Box::new(login)));
                }
            }
        }
    }

    async fn startup_packet(&mut self) -> Result<Vec<u8>, Refusal> {
        while self.input.len() < 4 {
            self.read().await?;
        }
        self.refuse_proxy_header()?;
        if self.input[0] == PASSWORD {
            return Err(refuse("08P01", "client password pkt before startup packet"));
        }
        let length = startup::packet_length([self.input[0], self.input[1], self.input[2], self.input[3]])
            .map_err(|error| Some(Report::fatal(error.sqlstate(), error.to_string())))?;
        while self.input.len() < length {
            self.read().await?;
        }
        Ok(self.input.drain(..length).collect())
    }

    pub(super) async fn read(&mut self) -> Result<(), Refusal> {
        match self.io.read_some(&mut self.input).await {
            Ok(0) | Err(_) => Err(None),
            Ok(_) => Ok(()),
        }
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        self.io.write_all(bytes).await.map_err(|_| None)
    }

    /// The order of checks is PgBouncer's: who can't log in doesn't learn which databases there are.
    async fn log_in(&mut self, message: StartupMessage, socket: SocketGuard) -> Result<Login, Refusal> {
        self.names = Some((message.database.clone(), message.user.clone()));
        let console = message.database == CONSOLE;
        let negotiated = startup::negotiate_protocol(message.minor, &message.pq_options);
        if let Some(reply) = &negotiated.reply {
            self.send(reply).await?;
        }
        if !console && self.app.registry.sockets() > self.config.settings.max_client_conn as usize {
            return Err(refuse("53300", "no more connections allowed (max_client_conn)"));
        }
        let replication = message.replication().map_err(|error| refuse(error.sqlstate(), error.to_string()))?;
        let parameters = self.session_parameters(&message, replication)?;
        let database = if console { None } else { self.config.database(&message.database) };
        if let Some(database) = &database {
            self.check_limits(database, &message.user)?;
        }
        let user = self.authenticate(&message, database.as_ref()).await?;
        let names = Names {
            user,
            database: message.database.clone(),
            application_name: message.param("application_name").unwrap_or_default().to_owned(),
            tls: self.io.tls(),
            replication,
        };
        let new = NewClient {
            names,
            socket,
            peer: self.peer,
            local: self.io.local_addr(),
            peer_id: self.config.settings.peer_id,
            long_key: negotiated.long_cancel_keys(),
        };
        if console {
            return self.log_in_to_console(new).await;
        }
        let Some(database) = database else {
            self.log_failed_login(&message);
            return Err(refuse("3D000", format!("no such database: {}", message.database)));
        };
        self.check_open(&database)?;
        // Again: others may have come in the meantime.
        self.check_limits(&database, &new.names.user)?;
        if replication == Replication::None {
            return self.log_in_to_database(&database, new, &parameters).await;
        }
        self.log_in_for_replication(&database, new, parameters, message.param("options")).await
    }

    fn check_open(&self, database: &Database) -> Result<(), Refusal> {
        if self.app.is_disabled(&database.name) {
            return Err(refuse("57P03", format!("database \"{}\" is disabled", database.name)));
        }
        // Those that came before the listening sockets went to another process are served.
        if self.app.is_shutting_down() && !self.app.is_handed_over() {
            return Err(refuse("57P03", "pooler is shutting down"));
        }
        Ok(())
    }

    /// Asked before the login, which costs something, and after it.
    fn check_limits(&self, database: &Database, user: &str) -> Result<(), Refusal> {
        let admin = self.config.settings.admin_users.has(user);
        // All clients are looked at only if there is a limit.
        let over = |limit: u32, counts: &dyn Fn(&ClientEntry) -> bool| {
            limit > 0 && !admin && self.app.registry.count_clients(counts) >= limit as usize
        };
        let of_database = |client: &ClientEntry| *client.database() == *database.name;
        if over(self.config.max_db_client_connections(database), &of_database) {
            return Err(refuse("53300", "client connections exceeded (max_db_client_connections)"));
        }
        if over(self.config.max_user_client_connections(user), &|client| client.user() == user) {
            return Err(refuse("53300", "client connections exceeded (max_user_client_connections)"));
        }
        Ok(())
    }

    async fn log_in_to_database(
        &mut self,
        database: &Database,
        new: NewClient,
        parameters: &Parameters,
    ) -> Result<Login, Refusal> {
        let user = new.names.user.clone();
        let vars = session_vars(parameters);
        let upstream = self.app.upstream(&self.config, database, &user).map_err(Some)?;
        let misleads = |var: &Var| &*var.name == "client_encoding" && !encoding::is_safe(&var.statement);
        if upstream.is_sharded() && vars.iter().any(misleads) {
            let refusal = encoding::refusal();
            return Err(Some(
                Report::fatal(&refusal.sqlstate, refusal.message).detail(refusal.detail).hint(refusal.hint),
            ));
        }
        let app = self.app.clone();
        let client = app.registry.add_client(self.id, new);
        let wait = self.config.query_wait_timeout(database, &user);
        upstream.count_client(true);
        let welcome = self.await_server(&upstream, &client, wait).await;
        upstream.count_client(false);
        self.welcome(&client, &*welcome?, parameters).await?;
        upstream.count_login();
        let limits = Limits {
            query_wait_timeout: self.config.query_wait_timeout(database, &user),
            query_wait_notify: Duration::from_secs(self.config.settings.query_wait_notify.into()),
            max_packet_size: self.config.settings.max_packet_size,
            max_prepared_statements: self.config.settings.max_prepared_statements,
            refuses_simple: self.config.settings.disable_pqexec,
            log_errors: self.config.settings.log_pooler_errors,
            log_disconnections: self.config.settings.log_disconnections,
        };
        Ok(Login { client, to: Destination::Database { upstream, limits, vars } })
    }

    /// The parameters to welcome the client with, for which a first login may have to wait as queries do.
    async fn await_server(
        &mut self,
        upstream: &Upstream,
        client: &ClientHandle,
        timeout: Option<Duration>,
    ) -> Result<Arc<Welcome>, Refusal> {
        self.awaits_server = true;
        let told_to_go = poll_fn(|cx| client.poll_eviction(cx.waker()).map_or(Poll::Pending, Poll::Ready));
        let result = tokio::select! {
            biased;
            welcome = welcome(upstream) => welcome.map_err(Some),
            eviction = told_to_go => {
                let (text, sqlstate) = eviction.report();
                Err(refuse(sqlstate, text))
            }
            () = poll_fn(|cx| self.io.poll_gone(cx)) => Err(None),
            () = tokio::time::sleep(timeout.unwrap_or(FOREVER)) => Err(refuse("57014", "query_wait_timeout")),
        };
        self.awaits_server = false;
        result
    }

    async fn log_in_to_console(&mut self, new: NewClient) -> Result<Login, Refusal> {
        let config = self.config.clone();
        let settings = &config.settings;
        let local = is_own_uid(self.peer) && new.names.user == CONSOLE;
        let admin = local || settings.admin_users.has(&new.names.user);
        let everybody = settings.auth_type == AuthType::Any;
        if !admin && !everybody && !settings.stats_users.has(&new.names.user) {
            return Err(refuse("42501", "not allowed"));
        }
        if new.names.replication != Replication::None {
            return Err(refuse("0A000", "the console has nothing to replicate"));
        }
        let client = self.app.registry.add_client(self.id, new);
        let parameters = [
            ("server_version", crate::console::SERVER_VERSION),
            ("client_encoding", "UTF8"),
            ("server_encoding", "UTF8"),
            ("DateStyle", "ISO"),
            ("TimeZone", "GMT"),
            ("standard_conforming_strings", "on"),
            ("is_superuser", "on"),
        ];
        let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        self.welcome(&client, &Welcome { parameters }, &Parameters::new()).await?;
        self.app.console.count(|counters| counters.client_login_count += 1);
        Ok(Login { client, to: Destination::Console { admin } })
    }

    /// AuthenticationOk, parameters, key, ReadyForQuery.
    pub(super) async fn welcome(
        &mut self,
        client: &ClientHandle,
        welcome: &Welcome,
        parameters: &Parameters,
    ) -> Result<(), Refusal> {
        let mut out = message::AUTHENTICATION_OK.to_vec();
        for (name, value) in &welcome.parameters {
            let own = parameters.iter().find(|(own, _)| own.eq_ignore_ascii_case(name));
            message::parameter_status(&mut out, name, own.map_or(value, |(_, value)| value));
        }
        let key = client.key.announced();
        message::backend_key_data(&mut out, key.pid, &key.secret);
        let notice = &self.config.settings.login_notify_message;
        if !notice.is_empty() {
            message::notice(&mut out, "00000", notice, "");
        }
        out.extend_from_slice(&message::READY_IDLE);
        self.send(&out).await
    }
}

/// The parameters of the first server that answers: cached, or learned by opening one.
async fn welcome(upstream: &Upstream) -> Result<Arc<Welcome>, Report> {
    if let Some(welcome) = upstream.pools().iter().find_map(|pool| pool.welcome()) {
        return Ok(welcome);
    }
    let mut last = Report::fatal("08006", "no server is available");
    for pool in upstream.pools() {
        // A shard that is down keeps nobody from the others; an unsharded database is waited for.
        let place = if upstream.is_sharded() { pool.checkout(false) } else { pool.wait() };
        let granted = match place {
            Ok(Ok(lease)) => Ok(lease),
            Ok(Err(ticket)) => ticket.await.unwrap_or(Err(CheckoutError::Removed)),
            Err(error) => Err(error),
        };
        if let Err(error) = granted {
            last = match error {
                CheckoutError::Refused(error) => Report::fatal(error.sqlstate(), error.to_string()),
                error => Report::fatal("08006", error.to_string()),
            };
            continue;
        }
        if let Some(welcome) = pool.welcome() {
            return Ok(welcome);
        }
    }
    Err(last)
}

pub(super) fn refuse(sqlstate: &str, text: impl Into<String>) -> Refusal {
    Some(Report::fatal(sqlstate, text))
}

/// The client runs as the same Unix user as this process.
pub(super) fn is_own_uid(peer: Peer) -> bool {
    matches!(peer, Peer::Unix { uid, .. } if uid == crate::app::own_uid())
}
