//! How a shutdown lets clients finish.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sluice_wire::startup::Replication;

use crate::app::{App, ShutdownMode, TICK};
use crate::config::CONSOLE;
use crate::registry::{ClientEntry, ClientState, Eviction};

/// A shutdown that waits for servers ends by itself after this long.
const SERVERS_DEADLINE: Duration = Duration::from_secs(10);
/// A client that came just now is about to send something.
const SETTLED: Duration = Duration::from_secs(1);

/// Returns when everybody has left whom the shutdown's mode waits for.
pub async fn drain(app: &App) {
    let mut modes = app.shutdown.subscribe();
    let began = Instant::now();
    let mut leave = Leave::new(clients(app).len(), app.config().settings.drain_time);
    loop {
        let done = match modes.borrow_and_update().unwrap_or(ShutdownMode::Immediate) {
            ShutdownMode::Immediate => return,
            ShutdownMode::WaitForClients => app.registry.client_count() == 0,
            ShutdownMode::WaitForTransactions => transactions_ended(app, &mut leave, began.elapsed()),
            ShutdownMode::WaitForServers => servers_released(app) || began.elapsed() > SERVERS_DEADLINE,
        };
        if done {
            break;
        }
        let _ = tokio::time::timeout(TICK, modes.changed()).await;
    }
    match *modes.borrow() {
        Some(ShutdownMode::WaitForServers) => tracing::info!("server connections dropped, exiting"),
        _ => tracing::info!("client connections dropped, exiting"),
    }
    // Consoles are waited for by WAIT_FOR_CLIENTS only.
    app.registry.clients().iter().for_each(|client| client.evict(Eviction::ShuttingDown));
    // Time for last words.
    tokio::time::sleep(Duration::from_millis(20)).await;
}

fn clients(app: &App) -> Vec<Arc<ClientEntry>> {
    let mut clients = app.registry.clients();
    clients.retain(|client| client.database() != CONSOLE);
    clients
}

fn servers_released(app: &App) -> bool {
    let clients = clients(app);
    clients.iter().filter(|client| client.linked_server() == 0).for_each(|client| client.evict(Eviction::ShuttingDown));
    // They never give their servers back, so they go when no command of theirs would be cut off.
    let replicating = clients.iter().filter(|client| client.replication() != Replication::None);
    replicating.filter(|client| client.linked_server() != 0).for_each(|client| client.evict(Eviction::Replaced));
    clients.iter().all(|client| client.linked_server() == 0)
}

/// Asks those to leave whose turn it is; they go when they are at rest. True if nobody is left, or logging in.
fn transactions_ended(app: &App, leave: &mut Leave, elapsed: Duration) -> bool {
    let clients = clients(app);
    let consoles = app.registry.client_count() - clients.len();
    let (asked, mut staying): (Vec<_>, Vec<_>) =
        clients.into_iter().partition(|client| client.eviction_at_rest().is_some());
    // Their last answer may have been on its way when they were asked.
    asked.iter().for_each(|client| client.nudge());
    let turn = leave.turn(staying.len(), elapsed);
    staying.retain(|client| client.state() != ClientState::Login && is_settled(client));
    // The quietest first: they lose the least.
    staying.sort_by_key(|client| std::cmp::Reverse(client.quiet_for(&app.registry.clock)));
    staying.iter().take(turn).for_each(|client| client.evict(Eviction::Replaced));
    app.registry.sockets() <= consoles
}

fn is_settled(client: &ClientEntry) -> bool {
    client.connected_at().elapsed().is_ok_and(|age| age >= SETTLED)
}

/// Spreads the departures over a time, so that whoever takes over isn't flooded with logins.
#[derive(Debug)]
struct Leave {
    clients: usize,
    over: Duration,
}

impl Leave {
    fn new(clients: usize, over: Duration) -> Self {
        Self { clients, over }
    }

    /// How many of the `staying` clients are to be asked now.
    fn turn(&mut self, staying: usize, elapsed: Duration) -> usize {
        // Logins that were under way may still add some.
        self.clients = self.clients.max(staying);
        let left = self.over.saturating_sub(elapsed).as_secs_f64() / self.over.as_secs_f64().max(f64::MIN_POSITIVE);
        staying.saturating_sub((self.clients as f64 * left).ceil() as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn departures_are_spread_evenly() {
        let mut leave = Leave::new(100, Duration::from_secs(10));
        let mut staying = 100;
        let mut turns = Vec::new();
        for second in 0..=10 {
            let turn = leave.turn(staying, Duration::from_secs(second));
            staying -= turn;
            turns.push(turn);
        }
        assert_eq!(turns, [0, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10]);
    }

    #[test]
    fn those_who_leave_by_themselves_are_counted() {
        let mut leave = Leave::new(4, Duration::from_secs(10));
        assert_eq!(leave.turn(4, Duration::from_secs(1)), 0);
        assert_eq!(leave.turn(3, Duration::from_secs(3)), 0);
        assert_eq!(leave.turn(3, Duration::from_secs(6)), 1);
        assert_eq!(leave.turn(2, Duration::from_secs(20)), 2);
    }

    #[test]
    fn without_a_time_all_are_asked_at_once() {
        assert_eq!(Leave::new(7, Duration::ZERO).turn(7, Duration::ZERO), 7);
    }
}
