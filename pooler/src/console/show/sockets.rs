//! SHOW CLIENTS, SERVERS, SOCKETS and ACTIVE_SOCKETS: one row for each connection.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use sluice_wire::startup::Replication;

use super::time;
use crate::app::App;
use crate::console::answer::{Row, Value, row};
use crate::net::Peer;
use crate::net::tls::TlsInfo;
use crate::registry::{ClientEntry, ClientState, ServerEntry};

pub fn clients(app: &App) -> Vec<Row> {
    let shown = app.registry.clients().into_iter().filter_map(|client| Some((client_state(&client)?, client)));
    let row = |(state, client): (&str, std::sync::Arc<ClientEntry>)| {
        let mut row = client_row(app, &client, state);
        row.push(client.pinned.load(Ordering::Relaxed).into());
        row
    };
    shown.map(row).collect()
}

pub fn servers(app: &App) -> Vec<Row> {
    let row = |server: &ServerEntry| {
        let mut row = server_row(app, server, server_state(server));
        row.push(server.shard.into());
        row
    };
    app.registry.servers().iter().map(|server| row(server)).collect()
}

pub fn sockets(app: &App) -> Vec<Row> {
    all_sockets(app).map(|(_, row)| row).collect()
}

/// Those on which something is under way.
pub fn active_sockets(app: &App) -> Vec<Row> {
    all_sockets(app).filter(|(active, _)| *active).map(|(_, row)| row).collect()
}

fn all_sockets(app: &App) -> impl Iterator<Item = (bool, Row)> {
    let clients = app.registry.clients().into_iter().map(move |client| {
        let (active, state) = match client.state() {
            ClientState::Login => (true, "cl_login"),
            ClientState::Waiting => (true, "cl_waiting"),
            ClientState::Active => (true, "cl_active"),
            // PgBouncer's sockets know no idle clients.
            ClientState::Idle => (client.linked_server() != 0, "cl_active"),
        };
        (active, with_buffers(client_row(app, &client, state)))
    });
    let servers = app.registry.servers().into_iter().map(move |server| {
        let state = match server_state(&server) {
            "active" => "sv_active",
            "used" => "sv_used",
            _ => "sv_idle",
        };
        (state == "sv_active", with_buffers(server_row(app, &server, state)))
    });
    clients.chain(servers)
}

/// Positions in PgBouncer's buffers. A connection has none here unless it is read from or written to right now.
fn with_buffers(mut row: Row) -> Row {
    row.extend(std::iter::repeat_n(Value::Number(0), 7));
    row
}

/// `None` while it logs in: not listed.
fn client_state(client: &ClientEntry) -> Option<&'static str> {
    match client.state() {
        ClientState::Login => None,
        ClientState::Waiting => Some("waiting"),
        ClientState::Active => Some("active"),
        ClientState::Idle if client.linked_server() != 0 => Some("active"),
        ClientState::Idle => Some("idle"),
    }
}

fn server_state(server: &ServerEntry) -> &'static str {
    if server.client.load(Ordering::Relaxed) != 0 {
        "active"
    } else if server.cancels.load(Ordering::Relaxed) > 0 {
        "being_canceled"
    } else if server.used.load(Ordering::Relaxed) {
        "used"
    } else {
        "idle"
    }
}

/// What CLIENTS and SERVERS tell in the same columns.
struct Socket<'a> {
    kind: &'static str,
    user: &'a str,
    database: &'a str,
    replication: Replication,
    state: &'a str,
    address: (String, u16),
    local: (String, u16),
    connected_at: SystemTime,
    request_at: SystemTime,
    waited: Duration,
    close_needed: bool,
    id: u64,
    linked: u64,
    remote_pid: i64,
    tls: Option<TlsInfo>,
    application_name: &'a str,
    prepared: u32,
}

impl Socket<'_> {
    fn row(self) -> Row {
        row![
            self.kind,
            self.user,
            self.database,
            replication(self.replication),
            self.state,
            self.address.0,
            self.address.1,
            self.local.0,
            self.local.1,
            time(self.connected_at),
            time(self.request_at),
            self.waited.as_secs(),
            self.waited.subsec_micros(),
            self.close_needed,
            handle(self.id),
            if self.linked == 0 { String::new() } else { handle(self.linked) },
            self.remote_pid,
            self.tls.map_or_else(String::new, |tls| tls.to_string()),
            self.application_name,
            self.prepared,
            self.id,
        ]
    }
}

fn replication(kind: Replication) -> &'static str {
    match kind {
        Replication::None => "none",
        Replication::Logical => "logical",
        Replication::Physical => "physical",
    }
}

/// As log lines name a connection: `C-0x2a`.
fn handle(id: u64) -> String {
    format!("{id:#x}")
}

fn client_row(app: &App, client: &ClientEntry, state: &str) -> Row {
    let clock = &app.registry.clock;
    let port = app.config().settings.listen_port;
    let waited = client.request_age(clock).unwrap_or_default();
    let last = if waited.is_zero() { client.quiet_for(clock).unwrap_or_default() } else { waited };
    let socket = Socket {
        kind: "C",
        user: client.user(),
        database: client.database(),
        replication: client.replication(),
        state,
        address: address(client.peer(), port),
        local: local(client.local(), port),
        connected_at: client.connected_at(),
        request_at: SystemTime::now() - last,
        waited,
        close_needed: false,
        id: client.id,
        linked: client.linked_server(),
        remote_pid: match client.peer() {
            Peer::Unix { pid, .. } => pid.into(),
            Peer::Tcp(_) => 0,
        },
        tls: client.tls(),
        application_name: client.application_name(),
        prepared: client.prepared.load(Ordering::Relaxed),
    };
    socket.row()
}

fn server_row(app: &App, server: &ServerEntry, state: &str) -> Row {
    let linked = server.client.load(Ordering::Relaxed);
    let client = app.registry.client(linked);
    let clock = &app.registry.clock;
    let waited = client.as_ref().and_then(|client| client.request_age(clock)).unwrap_or_default();
    let name = client.as_ref().map(|client| client.application_name());
    let port = server.address.port();
    let socket = Socket {
        kind: "S",
        user: &server.user,
        database: &server.database,
        replication: server.replication,
        state,
        address: address(server.peer, port),
        local: local(server.local, port),
        connected_at: server.connected_at,
        request_at: if linked == 0 { server.connected_at } else { SystemTime::now() - waited },
        waited,
        close_needed: server.close_needed.load(Ordering::Relaxed),
        id: server.id,
        linked,
        remote_pid: server.key.pid.into(),
        tls: server.tls,
        application_name: name.unwrap_or_default(),
        prepared: server.prepared.load(Ordering::Relaxed),
    };
    socket.row()
}

/// Address and port of the other end; `port` stands for a unix socket's, which is part of its name.
fn address(peer: Peer, port: u16) -> (String, u16) {
    match peer {
        Peer::Tcp(address) => (address.ip().to_string(), address.port()),
        Peer::Unix { .. } => ("unix".to_owned(), port),
    }
}

fn local(address: Option<SocketAddr>, port: u16) -> (String, u16) {
    address.map_or_else(|| ("unix".to_owned(), port), |address| (address.ip().to_string(), address.port()))
}
