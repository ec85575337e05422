//! Servers of replication clients. Each is opened for one client, with what that client's start-up packet says, and closed
//! with it.
//!
//! It counts in its pool and towards all limits, but is never lent: it is no [`Lease`], so it can't get into the idle list.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sluice_wire::startup::Replication;

use super::pool::{CheckoutError, Lease, Pool, log_prefix};
use super::pools::Pools;
use super::server::{ConnectError, Server, ServerTarget, Welcome};
use crate::lock::lock;

/// Room for one server in its pool, from before it is opened until it is closed.
struct Room(Arc<Pool>);

impl Drop for Room {
    fn drop(&mut self) {
        self.0.lock().slots.replicating -= 1;
        self.0.open_if_due(false);
    }
}

/// The server of one replication client; closed when dropped.
pub struct ReplicationServer {
    server: Option<Box<Server>>,
    room: Room,
}

impl Pool {
    /// Opens a server of kind `replication` with these start-up parameters, as soon as there is room for it. Like any client
    /// that needs a server, this one waits for its turn; its caller sets the deadline.
    pub async fn open_for_replication(
        self: &Arc<Self>,
        replication: Replication,
        startup: &[(String, String)],
    ) -> Result<(ReplicationServer, Welcome), CheckoutError> {
        let room = self.room().await?;
        let pools = self.pools.upgrade().ok_or(CheckoutError::Removed)?;
        let (target, generation) = {
            let state = self.lock();
            (state.target.clone(), state.generation)
        };
        let target = replication_target(&target, replication, startup);
        let (id, address, began) = (pools.registry.next_id(), target.hosts.pick(), Instant::now());
        let no_vars = pools.vars.intern(Vec::new());
        let opened = Server::open(&target, (id, address), no_vars, &self.key, &pools.registry).await;
        let (mut server, welcome) = opened.map_err(|error| {
            log_failure(&pools, &log_prefix(id, &self.key.database, &self.key.user, address), &error, began.elapsed());
            CheckoutError::Refused(error)
        })?;
        server.generation = generation;
        pools.registry.add_server(server.entry.clone());
        pools.log_opened(&server);
        if self.lock().generation != generation {
            server.entry.close_needed.store(true, Ordering::Relaxed);
        }
        Ok((ReplicationServer { server: Some(Box::new(server)), room }, welcome))
    }

    async fn room(self: &Arc<Self>) -> Result<Room, CheckoutError> {
        loop {
            if let Some(room) = self.pools.upgrade().ok_or(CheckoutError::Removed)?.make_replication_room(self)? {
                return Ok(room);
            }
            let granted = match self.wait()? {
                Ok(lease) => Ok(lease),
                Err(ticket) => ticket.await.unwrap_or(Err(CheckoutError::Removed)),
            };
            match granted {
                Ok(lease) => return Ok(lease.into_room()),
                // An ordinary login was refused. That of a replication connection is judged by other rules.
                Err(CheckoutError::Refused(_)) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Such a failure is between this client and its server: others don't wait any longer for it.
fn log_failure(pools: &Pools, server: &str, error: &ConnectError, age: Duration) {
    tracing::error!("S: login failed: FATAL: {error}");
    if pools.log_disconnections() {
        tracing::info!("{server} closing because: login failed (age={}s)", age.as_secs());
    }
}

impl Pools {
    /// `None`: there is none, or others wait for it.
    fn make_replication_room(&self, pool: &Arc<Pool>) -> Result<Option<Room>, CheckoutError> {
        let _opening = lock(&self.opening);
        let (evicted, params) = {
            let mut state = pool.lock();
            if state.removed {
                return Err(CheckoutError::Removed);
            }
            let params = state.params.clone();
            let Some(evicted) = state.slots.make_room(&params.sizes) else { return Ok(None) };
            (evicted, params)
        };
        if let Some(server) = evicted {
            pool.dispose(server, "evicted");
        }
        if !self.make_room(pool, &params, true) {
            return Ok(None);
        }
        pool.lock().slots.replicating += 1;
        Ok(Some(Room(pool.clone())))
    }
}

impl Lease {
    /// Closes a server that was granted, for one in its place.
    fn into_room(self) -> Room {
        let pool = self.pool().clone();
        let mut server = self.into_server();
        {
            let mut state = pool.lock();
            state.counters += std::mem::take(&mut server.counters);
            state.slots.leased -= 1;
            state.slots.replicating += 1;
        }
        pool.dispose(server, "evicted");
        Room(pool)
    }
}

/// The client's parameters win over those of the entry. `connect_query` is left out: a physical connection runs no SQL.
fn replication_target(target: &ServerTarget, replication: Replication, startup: &[(String, String)]) -> ServerTarget {
    let is_clients = |name: &str| startup.iter().any(|(own, _)| own.eq_ignore_ascii_case(name));
    let of_entry = target.startup.iter().filter(|(name, _)| !is_clients(name));
    let startup = of_entry.chain(startup).cloned().collect();
    ServerTarget { startup, replication, connect_query: None, ..target.clone() }
}

impl ReplicationServer {
    /// Adds what it has counted so far to its pool: it may live for months.
    pub fn count(&mut self) {
        let counters = std::mem::take(&mut self.counters);
        self.room.0.lock().counters += counters;
    }

    /// Closes the connection and says why.
    pub fn close(mut self, reason: &str) {
        self.end(reason);
    }

    fn end(&mut self, reason: &str) {
        let Some(mut server) = self.server.take() else { return };
        let pool = &self.room.0;
        pool.lock().counters += std::mem::take(&mut server.counters);
        pool.dispose(server, reason);
    }
}

impl Drop for ReplicationServer {
    fn drop(&mut self) {
        self.end("replication client was closed");
    }
}

impl Deref for ReplicationServer {
    type Target = Server;

    fn deref(&self) -> &Server {
        self.server.as_ref().expect("it is taken out only at its end")
    }
}

impl DerefMut for ReplicationServer {
    fn deref_mut(&mut self) -> &mut Server {
        self.server.as_mut().expect("it is taken out only at its end")
    }
}
