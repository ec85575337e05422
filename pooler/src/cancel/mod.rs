//! Cancel requests: to the server that runs the client's statement, or to the process that has the client: a peer, or after an
//! online restart the process before this one.

mod handover;

use std::time::{Duration, Instant};

use sluice_wire::startup::CancelKey;

use self::handover::ask_predecessor;
pub use self::handover::hand_over;
use crate::app::{App, FOREVER};
use crate::config::CONSOLE;
use crate::pool::Pools;
use crate::registry::{ClientEntry, forwarded, peer_of};
use crate::stats::Counted;

/// Sees a request through, and returns when it has arrived: why its connection may be closed now.
pub async fn cancel(app: &App, key: &CancelKey) -> &'static str {
    // One's own come first, whatever their peer number says: it may have changed since they got their keys.
    match app.registry.client_by_key(key) {
        Some(client) => cancel_client(app, &client).await,
        None => forward(app, key).await,
    }
}

async fn cancel_client(app: &App, client: &ClientEntry) -> &'static str {
    if client.database() == CONSOLE {
        client.ask_to_cancel();
        return "cancel request for the console";
    }
    let server = client.linked_server();
    let Some(entry) = (server != 0).then(|| app.registry.server(server)).flatten() else {
        return "cancel request for idle client";
    };
    let _under_way = Counted::new(&entry.cancels);
    let (deadline, began) = (deadline(app), Instant::now());
    let Ok(_turn) = tokio::time::timeout(deadline, entry.cancel_turn.lock()).await else {
        return "cancel_wait_timeout";
    };
    // The server may have gone to another client in between; it doesn't while cancels are counted. Or the request before this
    // one has ended the statement.
    if client.linked_server() != server {
        return "cancel request for idle client";
    }
    Pools::cancel_within(&entry, deadline.saturating_sub(began.elapsed())).await
}

/// A key that isn't ours may be another process's.
async fn forward(app: &App, key: &CancelKey) -> &'static str {
    let (config, id) = (app.config(), peer_of(key));
    if config.settings.peer_id == 0 || id == config.settings.peer_id {
        return match tokio::time::timeout(deadline(app), ask_predecessor(key)).await {
            Ok(Ok(())) => "cancel request passed on to the process before this one",
            Ok(Err(_)) => "failed cancel request",
            Err(_) => "cancel_wait_timeout",
        };
    }
    let Some(peer) = config.peers.get(&id) else {
        return "could not find peer to forward cancel request to";
    };
    let Some(key) = forwarded(key) else {
        return "cancel request was forwarded too often";
    };
    app.peers.forward(peer, config.peer_pool_size(peer), &key, (&app.pools.dns, deadline(app))).await
}

fn deadline(app: &App) -> Duration {
    let timeout = app.config().settings.cancel_wait_timeout;
    if timeout.is_zero() { FOREVER } else { timeout }
}
