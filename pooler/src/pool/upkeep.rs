//! What the janitor does to a pool, three times a second: it closes idle servers that are dead, too many, too old or too long
//! idle, and has opened what is missing.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::pool::{Pool, PoolParams, State};
use super::server::Server;

impl Pool {
    /// Closes what is dead, too many, too old or too long idle; opens what is missing.
    pub(super) fn tend(self: &Arc<Self>) {
        let closed = {
            let mut state = self.lock();
            state.slots.prune_waiters();
            let mut upkeep = Upkeep::new(&state, self.now());
            let mut reasons = Vec::new();
            let servers = state.slots.take_idle_where(|server| {
                let reason = upkeep.closes(server);
                reasons.extend(reason);
                reason.is_some()
            });
            state.last_retired_at = upkeep.last_retired_at;
            servers.into_iter().zip(reasons).collect::<Vec<_>>()
        };
        for (server, reason) in closed {
            self.dispose(server, reason);
        }
        self.open_if_due(false);
    }
}

/// What the janitor thinks of a pool's idle servers, looked at one after another.
struct Upkeep {
    params: Arc<PoolParams>,
    now: u64,
    /// Servers that are left, those in use included.
    total: usize,
    last_retired_at: u64,
}

impl Upkeep {
    fn new(state: &State, now: u64) -> Self {
        let (total, last_retired_at) = (state.slots.total(), state.last_retired_at);
        Self { params: state.params.clone(), now, total, last_retired_at }
    }

    /// Why `server` is to be closed now.
    fn closes(&mut self, server: &Server) -> Option<&'static str> {
        let reason = self.reason(server);
        if reason.is_some() {
            self.total -= 1;
        } else if self.params.check_query.is_some() && self.since(server.idle_since) >= self.params.check_delay {
            server.entry.used.store(true, Ordering::Relaxed);
        }
        reason
    }

    fn reason(&mut self, server: &Server) -> Option<&'static str> {
        let params = &self.params;
        if server.io.is_readable() {
            return Some("server conn crashed?");
        }
        if server.entry.close_needed.load(Ordering::Relaxed) {
            return Some("database configuration changed");
        }
        if self.total > params.sizes.most() {
            return Some("too many servers in the pool");
        }
        let is_spare = self.total > params.sizes.min as usize;
        if is_spare && !params.idle_timeout.is_zero() && self.since(server.idle_since) >= params.idle_timeout {
            return Some("server idle timeout");
        }
        // A lifetime of zero is over when the server has been used, and is seen to at checkin.
        if !params.lifetime.is_zero() && params.retires(server.opened_at, self.last_retired_at, self.now) {
            self.last_retired_at = self.now;
            return Some("server lifetime over");
        }
        None
    }

    fn since(&self, then: u64) -> Duration {
        Duration::from_millis(self.now.saturating_sub(then))
    }
}
