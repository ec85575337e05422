//! A server made ready for its client: what another one left is removed, the client's settings are put in force, and it is
//! brought into the client's transaction.

use std::sync::Arc;

use sluice_router::ShardId;
use sluice_wire::message::{Report, Severity, Status};

use super::refuse::lost;
use super::send::needs_reset;
use super::settle::After;
use super::sql_prepared::carried;
use super::{End, Link, Session};
use crate::executor::two_phase::Participant;
use crate::pool::Lease;
use crate::vars::{Vars, transition};

/// Puts a server back to what it was after login, but for its prepared statements.
const RESET: &str = "RESET SESSION AUTHORIZATION; RESET ALL; CLOSE ALL; UNLISTEN *; SELECT pg_catalog.pg_advisory_unlock_all(); \
                     DISCARD TEMP; DISCARD SEQUENCES";

/// Does anything on this server still keep a session from sharing it? Followed by which prepared statements don't.
const STILL_PINNED: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid()) \
     OR EXISTS (SELECT FROM pg_catalog.pg_class WHERE relpersistence = 't' AND relnamespace = pg_catalog.pg_my_temp_schema()) \
     OR EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable) \
     OR EXISTS (SELECT FROM pg_catalog.pg_listening_channels()) \
     OR EXISTS (SELECT FROM pg_catalog.pg_prepared_statements WHERE from_sql AND NOT ";

impl Session {
    /// Brings the held server to this client's settings.
    pub(super) async fn prepare_server(&mut self, sql: String) -> Result<(), Report> {
        let (id, vars) = (self.client.id, self.vars.clone());
        let none = self.shared.vars.intern(Vec::new());
        let Link::One(lease) = &mut self.link else { return Ok(()) };
        let session_mode = self.upstream.mode == crate::config::PoolMode::Session;
        let wanted = if session_mode && !lease.suspect && sql.is_empty() { lease.applied.clone() } else { vars };
        let result = make_ready(lease, id, &wanted, &none).await;
        if let Err(report) = &result
            && report.severity == Severity::Fatal
        {
            self.close_servers("invalid server parameter");
        }
        result
    }

    /// Brings another shard's server into the transaction.
    pub(super) async fn enlist(&mut self, shard: ShardId) -> Result<(), Report> {
        let mut lease = self.wait_for(shard).await?;
        let Link::Transaction(transaction) = &self.link else { return Ok(()) };
        let (before, prologue) = (transaction.log.before().clone(), transaction.log.prologue());
        let none = self.shared.vars.intern(Vec::new());
        make_ready(&mut lease, self.client.id, &before, &none).await?;
        let done = lease.run(&prologue).await.map_err(|error| lost(&error))?;
        if let Some(report) = done.failure() {
            return Err(report);
        }
        // Whether it writes is noted when its first statement is sent.
        self.join(Participant { shard, lease, wrote: false });
        Ok(())
    }

    /// Brings back what a RESET took from the client's servers, and tells the client of it: it has been told otherwise.
    pub(super) async fn restore(&mut self, sql: &str) -> Result<(), End> {
        let restored = match self.link {
            Link::One(_) => self.restore_one(sql).await,
            _ => self.on_all(sql, "SELECT", |_| ()).await.is_ok(),
        };
        // The request is answered: nobody waits for an error. Outside of a block, the next statement tries again.
        if !restored && let Link::Transaction(transaction) = &mut self.link {
            transaction.failed = true;
        }
        match self.settle(self.status()) {
            After::End(end) => Err(end),
            _ => Ok(()),
        }
    }

    /// True: it has.
    async fn restore_one(&mut self, sql: &str) -> bool {
        let vars = self.vars.clone();
        let Some(server) = self.server_mut() else { return false };
        let restored = server.run(sql).await.is_ok_and(|done| done.error.is_none());
        if restored {
            server.applied = vars;
            let reported = std::mem::take(&mut server.reported);
            self.reply(&reported);
        }
        restored
    }

    /// Asks the server whether what kept it is gone.
    pub(super) async fn try_unpin(&mut self) -> Result<(), End> {
        if let Some(server) = self.server_mut()
            && let sql = format!("{STILL_PINNED}{})", carried(server.sql_statements.as_deref()))
            && let Ok(done) = server.run(&sql).await
            && done.value.as_deref() == Some(b"f")
        {
            self.pin(false);
        }
        match self.settle(Status::Idle) {
            After::End(end) => Err(end),
            _ => Ok(()),
        }
    }
}

/// Removes what another client may have left, then makes the settings `wanted`.
pub(crate) async fn make_ready(
    lease: &mut Lease,
    client: u64,
    wanted: &Arc<Vars>,
    none: &Arc<Vars>,
) -> Result<(), Report> {
    if needs_reset(lease, client) {
        let done = lease.run(RESET).await.map_err(|error| lost(&error))?;
        if let Some(report) = done.failure() {
            return Err(Report::fatal("08006", "could not reset the server").detail(report.message));
        }
        lease.applied = none.clone();
        lease.suspect = false;
    }
    lease.last_client = client;
    let Some(sql) = transition(&lease.applied, wanted) else {
        lease.applied = wanted.clone();
        return Ok(());
    };
    let done = lease.run(&sql).await.map_err(|error| lost(&error))?;
    if let Some(report) = done.failure() {
        return Err(Report::fatal(&report.sqlstate, "invalid server parameter")
            .detail(report.message)
            .hint("a setting of this session (SET, or a start-up parameter) is not accepted by the server"));
    }
    lease.applied = wanted.clone();
    Ok(())
}
