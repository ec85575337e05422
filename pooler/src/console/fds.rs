//! SHOW FDS: the listening sockets, each sent along with its row (SCM_RIGHTS). By it a new process takes over from this one.
//!
//! PgBouncer's columns. It also hands over the sockets of clients and servers; those of Sluice stay with the process that
//! has their sessions, until they leave it.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use sluice_wire::message::{self, Column};

use super::answer::{Row, Value, bigint, bytea, data_row, int, row, text};
use crate::app::App;
use crate::net::{Bound, Listening};

pub const COLUMNS: &[Column] = &[
    int("fd"),
    text("task"),
    text("user"),
    text("database"),
    text("addr"),
    int("port"),
    bigint("cancel"),
    int("link"),
    text("client_encoding"),
    text("std_strings"),
    text("datestyle"),
    text("timezone"),
    text("password"),
    bytea("scram_client_key"),
    bytea("scram_server_key"),
];

pub fn rows(app: &App) -> Vec<(Row, Arc<Listening>)> {
    let port = app.config().settings.listen_port;
    let sockets = app.listening().into_iter();
    sockets.map(|socket| (describe(&socket, port), socket)).collect()
}

/// A listening socket has no user, database or settings.
fn describe(socket: &Listening, port: u16) -> Row {
    let (address, port) = match &socket.bound {
        Bound::Tcp(address) => (address.ip().to_string(), address.port()),
        Bound::Unix(_) => ("unix".to_owned(), port),
    };
    let fd = i64::from(socket.as_fd().as_raw_fd());
    let mut row = row![fd, "pooler", Value::Null, Value::Null, address, port, 0_u32, 0_u32];
    row.resize(COLUMNS.len(), Value::Null);
    row
}

/// A row as its message.
pub fn message(row: &Row) -> Vec<u8> {
    let mut out = Vec::new();
    data_row(&mut out, COLUMNS, &[0; COLUMNS.len()], row);
    out
}

/// The message in front of the rows.
pub fn describe_rows(out: &mut Vec<u8>) {
    message::row_description(out, COLUMNS.iter().map(|column| (*column, 0)));
}
