//! Serving: listeners in front of an [`App`], upkeep behind it, until it is told to stop.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::app::{App, ShutdownMode, TICK};
use crate::cleanup::clean_up;
use crate::console;
use crate::drain::drain;
use crate::listener::Listeners;
use crate::service;
use crate::suspend;

/// Serves clients until `shutdown` resolves, or the app is told to stop by a signal or in the console.
pub async fn serve(
    app: Arc<App>,
    mut listeners: Listeners,
    shutdown: Pin<Box<dyn Future<Output = ()> + Send>>,
) -> io::Result<()> {
    listeners.start(&app)?;
    tracing::info!("process up: {}, PostgreSQL sharding and pooling", console::VERSION);
    tokio::spawn(janitor(Arc::downgrade(&app)));
    let mut modes = app.shutdown.subscribe();
    tokio::select! {
        () = shutdown => app.shut_down(ShutdownMode::WaitForServers),
        _ = modes.wait_for(Option::is_some) => {}
    }
    if !app.is_handed_over() {
        service::stopping();
    }
    if *modes.borrow() == Some(ShutdownMode::Immediate) {
        return Ok(());
    }
    // Kept to the end, unless another process has it: administrators come in by the unix socket.
    let unix = if app.is_handed_over() {
        listeners.hand_over().await;
        None
    } else {
        listeners.close_tcp().await;
        Some(listeners)
    };
    drain(&app).await;
    drop(unix);
    Ok(())
}

async fn janitor(app: Weak<App>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut maps = HashMap::new();
    let mut suspended = false;
    loop {
        ticks.tick().await;
        let Some(app) = app.upgrade() else { return };
        if suspend::is_suspended(&app) {
            app.registry.clock.tick();
            suspend::hold(&app);
            suspended = true;
            continue;
        }
        if std::mem::take(&mut suspended) {
            // Again: a session may have been woken by somebody else at the moment of RESUME.
            suspend::end(&app);
        }
        app.follow_maps(&mut maps);
        app.pools.tend();
        app.enforce_timeouts();
        clean_up(&app);
        app.pools.dns.tend();
        let config = app.config();
        let is_over = app.console.tick(&app.pools, Duration::from_secs(config.settings.stats_period.into()));
        if is_over && config.settings.log_stats {
            tracing::info!("{}", app.console.line(&app.pools));
        }
        if is_over {
            service::status(&app.console.line(&app.pools));
        }
    }
}
