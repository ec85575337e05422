//! The console: database `pgbouncer`. It speaks PgBouncer's commands with PgBouncer's columns, in the simple and (unlike
//! PgBouncer) in the extended protocol, and adds what a sharded database needs.
//!
//! In the order of reading:
//! - `parse`: one statement's text to a [`parse::Command`], or the error;
//! - `answer`: what commands answer, as values and as messages;
//! - `show`: the SHOW commands: a table of names, columns and where the rows come from;
//! - `control`: PAUSE, RELOAD, KILL and so on; `classify`: CREATE REFERENCE TABLE and its kin. Both need a `grant`;
//! - `route`: EXPLAIN ROUTE;
//! - `stats`: averages, and the console's own counters;
//! - `fds`: SHOW FDS, which hands listening sockets to another process;
//! - `extended`: prepared statements and portals of one connection; `connection`: its loop.

mod answer;
mod classify;
mod connection;
mod control;
mod extended;
mod fds;
mod grant;
mod help;
mod parse;
mod route;
mod show;

use std::sync::Arc;

use sluice_wire::message::Report;

use crate::app::App;
use crate::net::Io;
use crate::registry::ClientHandle;
use answer::{Answer, Notice};
use grant::AdminGrant;
use parse::{Command, error};

/// What SHOW VERSION answers.
pub const VERSION: &str = concat!("Sluice ", env!("CARGO_PKG_VERSION"));
/// PgBouncer's form of `server_version`: some clients parse the number in front.
pub const SERVER_VERSION: &str = "1.25.2/bouncer";

/// Serves a console connection until it ends. `admin` is what the login found out; `input` is what it has read already.
pub async fn serve(app: Arc<App>, io: Io, client: ClientHandle, admin: bool, input: Vec<u8>) {
    connection::Connection::new(app, io, client, AdminGrant::of_login(admin), input).run().await;
}

/// Runs a command to its end, which may be far: PAUSE answers when no server is left.
async fn run(app: &Arc<App>, grant: Option<&AdminGrant>, command: &Command) -> Result<Answer, Report> {
    let granted = || grant.ok_or_else(|| error("admin access needed"));
    match command {
        Command::Help => {
            let notice = Notice { message: "Console usage", detail: help::TEXT.to_owned() };
            Ok(Answer::Done { tag: "SHOW".to_owned(), notice: Some(notice) })
        }
        Command::Show(show) => Ok(Answer::Rows { tag: "SHOW", rows: (show.rows)(app) }),
        Command::ShowFaked(faked) => Ok(Answer::Rows { tag: "SHOW", rows: vec![vec![faked.value.into()]] }),
        Command::SetFaked => {
            let notice = Notice { message: "SET ignored", detail: String::new() };
            Ok(Answer::Done { tag: "SET".to_owned(), notice: Some(notice) })
        }
        Command::ShowFds => granted().map(|_| Answer::Sockets(fds::rows(app))),
        Command::ExplainRoute { database, sql } => route::explain(app, database.as_deref(), sql),
        Command::Control(control) => control::run(app, granted()?, control).await,
        Command::Classify(classify) => classify::run(app, granted()?, classify).await,
    }
}

/// What a cancel request does to a command that still waits. PgBouncer's rule: it ends a PAUSE.
fn cancel(app: &App, command: &Command) -> Report {
    if let Command::Control(control) = command {
        control::cancel(app, control);
    }
    Report::error("57014", "canceling statement due to user request")
}
