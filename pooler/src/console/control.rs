//! The commands that change something. Each needs an [`AdminGrant`].

use std::sync::Arc;
use std::time::Duration;

use sluice_wire::message::Report;

use super::answer::{Answer, Notice};
use super::grant::AdminGrant;
use super::parse::error;
use crate::app::{App, AppError, ShutdownMode};
use crate::config::CONSOLE;
use crate::registry::Eviction;
use crate::suspend;

/// How often a command that waits looks whether its time has come.
const LOOK: Duration = Duration::from_millis(20);

/// A command that changes something; `None` for a database means all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    Set { key: String, value: String },
    Reload,
    Pause(Option<String>),
    Resume(Option<String>),
    Suspend,
    Disable(Option<String>),
    Enable(Option<String>),
    Reconnect(Option<String>),
    WaitClose(Option<String>),
    Kill(Option<String>),
    KillClient(String),
    Shutdown(ShutdownMode),
}

impl Control {
    /// As the log names it: `PAUSE 'db'`.
    pub fn summary(&self) -> String {
        let (name, argument) = match self {
            Self::Set { key, .. } => ("SET", Some(key)),
            Self::Reload => ("RELOAD", None),
            Self::Pause(database) => ("PAUSE", database.as_ref()),
            Self::Resume(database) => ("RESUME", database.as_ref()),
            Self::Suspend => ("SUSPEND", None),
            Self::Disable(database) => ("DISABLE", database.as_ref()),
            Self::Enable(database) => ("ENABLE", database.as_ref()),
            Self::Reconnect(database) => ("RECONNECT", database.as_ref()),
            Self::WaitClose(database) => ("WAIT_CLOSE", database.as_ref()),
            Self::Kill(database) => ("KILL", database.as_ref()),
            Self::KillClient(id) => ("KILL_CLIENT", Some(id)),
            Self::Shutdown(ShutdownMode::Immediate) => ("SHUTDOWN", None),
            Self::Shutdown(ShutdownMode::WaitForServers) => ("SHUTDOWN WAIT_FOR_SERVERS", None),
            Self::Shutdown(ShutdownMode::WaitForClients) => ("SHUTDOWN WAIT_FOR_CLIENTS", None),
            Self::Shutdown(ShutdownMode::WaitForTransactions) => ("SHUTDOWN WAIT_FOR_TRANSACTIONS", None),
        };
        argument.map_or_else(|| name.to_owned(), |argument| format!("{name} '{argument}'"))
    }
}

/// Runs a command. Dropped before its end, it stops waiting; what it did stays.
pub async fn run(app: &Arc<App>, _: &AdminGrant, control: &Control) -> Result<Answer, Report> {
    match control {
        Control::Set { key, value } => set(app, key, value).await,
        Control::Reload => reload(app).await,
        Control::Pause(database) => pause(app, database.as_deref()).await,
        Control::Resume(database) => resume(app, database.as_deref()),
        Control::Suspend => suspend(app).await,
        Control::Disable(database) => disable(app, database.as_deref()),
        Control::Enable(database) => enable(app, database.as_deref()),
        Control::Reconnect(database) => reconnect(app, database.as_deref()),
        Control::WaitClose(database) => wait_close(app, database.as_deref()).await,
        Control::Kill(database) => kill(app, database.as_deref()),
        Control::KillClient(id) => kill_client(app, id),
        Control::Shutdown(mode) => Ok(Answer::Shutdown(*mode)),
    }
}

/// A cancel request came while `control` waited.
pub fn cancel(app: &App, control: &Control) {
    match control {
        Control::Pause(database) => app.pools.resume(database.as_deref()),
        Control::Suspend => suspend::end(app),
        _ => {}
    }
}

async fn until(come: impl Fn() -> bool) {
    while !come() {
        tokio::time::sleep(LOOK).await;
    }
}

async fn set(app: &Arc<App>, key: &str, value: &str) -> Result<Answer, Report> {
    match app.set(key, value).await {
        Ok(()) => Ok(Answer::done(format!("SET {key}={value}"))),
        Err(AppError::Tls(reason)) => {
            tracing::error!("{reason}");
            let message = "TLS settings could not be applied, still using old configuration";
            let notice = Notice { message, detail: reason.to_string() };
            Ok(Answer::Done { tag: format!("SET {key}={value}"), notice: Some(notice) })
        }
        Err(AppError::Config(reason)) => Err(error("SET failed").detail(reason.to_string())),
        Err(reason) => Err(error("SET failed").detail(reason.to_string())),
    }
}

async fn reload(app: &Arc<App>) -> Result<Answer, Report> {
    match app.reload().await {
        Ok(()) => Ok(Answer::done("RELOAD")),
        Err(reason) => {
            tracing::error!("{reason}");
            let hint = match reason {
                AppError::Tls(_) => {
                    "TLS is as it was, and entries that ask for another have no servers; all else has been reloaded"
                }
                _ => "nothing has changed",
            };
            let text = "RELOAD failed, see logs for additional details";
            Err(Report::error("F0000", text).detail(reason.to_string()).hint(hint))
        }
    }
}

async fn pause(app: &App, database: Option<&str>) -> Result<Answer, Report> {
    refuse_while_paused(app)?;
    known(app, database, "pause")?;
    app.pools.pause(database);
    until(|| app.pools.server_count(database) == 0).await;
    Ok(Answer::done("PAUSE"))
}

/// Answers when everything rests. Whoever can't be brought to it in `suspend_timeout` is dropped.
async fn suspend(app: &App) -> Result<Answer, Report> {
    refuse_while_paused(app)?;
    if !app.pools.paused_databases().is_empty() {
        return Err(error("cannot suspend with paused databases").hint("RESUME <db> ends the pause of one database"));
    }
    suspend::begin(app);
    let timeout = app.config().settings.suspend_timeout;
    if tokio::time::timeout(timeout, until(|| suspend::hold(app))).await.is_err() {
        suspend::give_up(app);
    }
    Ok(Answer::done("SUSPEND"))
}

fn resume(app: &App, database: Option<&str>) -> Result<Answer, Report> {
    if app.is_shutting_down() {
        return Err(error("pooler is shutting down"));
    }
    match database {
        None if suspend::is_suspended(app) => {
            suspend::end(app);
            return Ok(Answer::done("RESUME"));
        }
        None if !app.pools.is_paused() => {
            return Err(error("pooler is not paused/suspended").hint("RESUME <db> ends the pause of one database"));
        }
        Some(name) if !app.pools.is_database_paused(name) => {
            existing(app, name)?;
            return Err(error(format!("database {name} is not paused")));
        }
        _ => {}
    }
    app.pools.resume(database);
    Ok(Answer::done("RESUME"))
}

fn disable(app: &App, database: Option<&str>) -> Result<Answer, Report> {
    let name = required(database)?;
    known(app, database, "disable")?;
    app.set_disabled(name, true);
    Ok(Answer::done("DISABLE"))
}

fn enable(app: &App, database: Option<&str>) -> Result<Answer, Report> {
    let name = required(database)?;
    if name == CONSOLE {
        return Err(error(format!("cannot enable admin db: {name}")));
    }
    existing(app, name)?;
    app.set_disabled(name, false);
    Ok(Answer::done("ENABLE"))
}

fn reconnect(app: &App, database: Option<&str>) -> Result<Answer, Report> {
    known(app, database, "reconnect")?;
    app.pools.reconnect(database);
    Ok(Answer::done("RECONNECT"))
}

async fn wait_close(app: &App, database: Option<&str>) -> Result<Answer, Report> {
    known(app, database, "wait in")?;
    until(|| app.pools.close_needed_count(database) == 0).await;
    Ok(Answer::done("WAIT_CLOSE"))
}

fn kill(app: &App, database: Option<&str>) -> Result<Answer, Report> {
    refuse_while_paused(app)?;
    known(app, database, "kill")?;
    match database {
        Some(name) => app.kill_database(name),
        None => app.kill_all(),
    }
    Ok(Answer::done("KILL"))
}

fn kill_client(app: &App, id: &str) -> Result<Answer, Report> {
    let id: u64 =
        id.parse().map_err(|_| error("invalid client pointer supplied").hint("give the id of SHOW CLIENTS"))?;
    let client = app.registry.client(id).ok_or_else(|| error("client not found"))?;
    client.evict(Eviction::Killed);
    Ok(Answer::done("KILL_CLIENT"))
}

fn refuse_while_paused(app: &App) -> Result<(), Report> {
    if app.pools.is_paused() || suspend::is_suspended(app) { Err(error("already suspended/paused")) } else { Ok(()) }
}

fn required(database: Option<&str>) -> Result<&str, Report> {
    database.ok_or_else(|| error("a database is required"))
}

/// A database that clients may log in to (which the `*` entry can make), and not the console.
fn known(app: &App, database: Option<&str>, what: &str) -> Result<(), Report> {
    match database {
        Some(CONSOLE) => Err(error(format!("cannot {what} admin db: {CONSOLE}"))),
        Some(name) if app.config().database(name).is_none() => Err(no_such_database(name)),
        _ => Ok(()),
    }
}

/// A database that is listed or in use: RESUME and ENABLE make none from the `*` entry.
fn existing(app: &App, name: &str) -> Result<(), Report> {
    let exists = name == CONSOLE || app.is_disabled(name) || app.database_names().iter().any(|known| known == name);
    if exists { Ok(()) } else { Err(no_such_database(name)) }
}

fn no_such_database(name: &str) -> Report {
    error(format!("no such database: {name}"))
}
