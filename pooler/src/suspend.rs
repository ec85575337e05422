//! SUSPEND: nothing is read and nobody is accepted until RESUME. Unlike PAUSE, it waits for no transaction, and keeps all
//! servers.
//!
//! Each session is told by the byte that also says why it has to go, so that a session that runs looks at nothing more
//! than before. It writes out what its client has not taken yet, says that it rests, and is polled again by RESUME.

use crate::app::App;
use crate::config::CONSOLE;
use crate::registry::Eviction;

/// From now on nobody new is accepted; [`hold`] stops the others.
pub fn begin(app: &App) {
    app.suspended.send_replace(true);
}

pub fn is_suspended(app: &App) -> bool {
    *app.suspended.borrow()
}

/// Tells all clients to rest, those too that have logged in since. True if they do.
pub fn hold(app: &App) -> bool {
    let clients = app.registry.clients();
    let mut resting = true;
    for client in clients.iter().filter(|client| client.database() != CONSOLE) {
        resting &= client.suspend();
    }
    resting
}

/// `suspend_timeout`: those that could not be brought to rest have to go.
pub fn give_up(app: &App) {
    let clients = app.registry.clients();
    for client in clients.iter().filter(|client| client.database() != CONSOLE && !client.suspend()) {
        client.evict(Eviction::SuspendTimeout);
    }
}

/// RESUME.
pub fn end(app: &App) {
    app.suspended.send_replace(false);
    app.registry.clients().iter().for_each(|client| client.resume());
}
