//! A prepared statement whose plan is out of date: "cached plan must not change result type".
//!
//! Servers are shared, so the statement may be older than this client, which has prepared it after the table was changed and
//! would not get this error from PostgreSQL itself. Where the client is told the columns anew (by a Describe in the batch), the
//! statement is prepared again and the batch repeated. Otherwise the client gets PostgreSQL's error, and when it prepares the
//! text again, as drivers then do, it gets a new statement.

use sluice_wire::message::{self, SYNC};

use super::{End, Session};
use crate::executor::relay::{self, RelayError};
use crate::pool::{Stale, statement_name};

impl Session {
    pub(super) async fn replan(&mut self) -> Result<(), End> {
        let Some(stale) = self.server_mut().and_then(|server| server.replay.take()) else { return Ok(()) };
        let statements = stale.statements();
        let repeated = if stale.repeatable { self.prepare_again(&statements).await } else { Ok(false) };
        for &statement in &statements {
            self.shared.statements.retire(statement);
        }
        let result = match repeated {
            Ok(true) => {
                self.renew(&statements);
                self.repeat(&stale)
            }
            Ok(false) => self.pass_on(&stale),
            Err(error) => Err(RelayError::Server(error)),
        };
        // The loop relays what comes, or finds that all has come.
        self.relaying = true;
        match result {
            Ok(()) => Ok(()),
            Err(error) => Err(self.relay_failed(error).await),
        }
    }

    /// On this server, under the same names: false if one of them can't be prepared any more.
    async fn prepare_again(&mut self, statements: &[u32]) -> std::io::Result<bool> {
        let mut batch = Vec::new();
        for &statement in statements {
            let Some(tail) = self.statements.as_ref().and_then(|known| known.tail_of(statement)) else {
                return Ok(false);
            };
            message::close_statement(&mut batch, &statement_name(statement));
            message::parse(&mut batch, &statement_name(statement), tail);
        }
        batch.extend_from_slice(&SYNC);
        let Some(server) = self.server_mut() else { return Ok(false) };
        server.start_batch(&batch)?;
        let failed = server.finish(false).await?.error.is_some();
        if failed {
            for &statement in statements {
                server.forget_statement(statement);
            }
        }
        Ok(!failed)
    }

    /// From now on the client uses a statement that no server has an old plan of.
    fn renew(&mut self, statements: &[u32]) {
        let table = &self.shared.statements;
        if let Some(known) = &mut self.statements {
            for prepared in known.named.values_mut().filter(|prepared| statements.contains(&prepared.id)) {
                *prepared = table.intern(&prepared.tail, &prepared.reading);
            }
        }
    }

    fn repeat(&mut self, stale: &Stale) -> Result<(), RelayError> {
        let Some(server) = self.server_mut() else { return Ok(()) };
        server.pending += 1;
        server.send(&stale.bytes).map_err(RelayError::Server)
    }

    /// What PostgreSQL said goes to the client after all.
    fn pass_on(&mut self, stale: &Stale) -> Result<(), RelayError> {
        let Self { link, io, flow, .. } = self;
        let Some(server) = link.server_mut() else { return Ok(()) };
        server.pending += 1;
        relay::relay_chunk(&stale.refusal, server, io, flow)
    }
}
