//! PgBouncer's signals.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};

use crate::app::{App, AppError, ShutdownMode};
use crate::service;

/// Obeys signals for as long as the process lives.
pub async fn obey(app: Arc<App>) {
    let listen = |kind| signal(kind).expect("signal handlers can be installed");
    let mut hup = listen(SignalKind::hangup());
    let mut term = listen(SignalKind::terminate());
    let mut int = listen(SignalKind::interrupt());
    let mut quit = listen(SignalKind::quit());
    let mut usr1 = listen(SignalKind::user_defined1());
    let mut usr2 = listen(SignalKind::user_defined2());
    loop {
        tokio::select! {
            _ = hup.recv() => reload(&app).await,
            _ = term.recv() => shut_down(&app, "SIGTERM", "all clients disconnect", ShutdownMode::WaitForClients),
            _ = int.recv() => {
                shut_down(&app, "SIGINT", "all servers connections to be released", ShutdownMode::WaitForServers);
            }
            _ = quit.recv() => {
                tracing::info!("got SIGQUIT, fast exit");
                app.shut_down(ShutdownMode::Immediate);
            }
            _ = usr1.recv() => {
                tracing::info!("got SIGUSR1, pausing all activity");
                app.pools.pause(None);
            }
            _ = usr2.recv() => resume(&app),
        }
    }
}

async fn reload(app: &Arc<App>) {
    tracing::info!("got SIGHUP, re-reading config");
    service::reloading();
    match app.reload().await {
        Ok(()) => {}
        Err(error @ AppError::Tls(_)) => tracing::error!("{error}; TLS stays as it was"),
        Err(error) => tracing::error!("{error}; the old configuration stays in force"),
    }
    service::ready();
}

fn shut_down(app: &App, signal: &str, awaited: &str, mode: ShutdownMode) {
    if app.is_shutting_down() {
        tracing::info!("got {signal} while shutting down, fast exit");
    } else {
        tracing::info!("got {signal}, shutting down, waiting for {awaited}");
    }
    app.shut_down(mode);
}

fn resume(app: &App) {
    if app.is_shutting_down() {
        tracing::info!("got SIGUSR2 while shutting down, ignoring");
    } else {
        tracing::info!("got SIGUSR2, continuing from PAUSE");
        app.pools.resume(None);
    }
}
