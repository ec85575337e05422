//! Keeps the newest shard map of one database at hand.
//!
//! A task listens on the channel `sluice_map` and polls as well, because a notification can be missed while a connection
//! is being made again. Each map is published to [`Watcher::subscribe`] and copied to disk. A map that is older than the
//! one in use is never published, wherever it comes from; while the catalog is down, the last map stays in use.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sluice_router::ShardMap;
use tokio::sync::{Mutex, Notify, watch};
use tokio::task::JoinSet;
use tokio_postgres::{AsyncMessage, Client, Connection};

use crate::disk::DiskCopy;
use crate::error::{CatalogError, explain};
use crate::snapshot::Snapshot;
use crate::store::CatalogStore;

/// The channel that the catalog notifies, with the database's name, at every change.
const CHANNEL: &str = "sluice_map";

/// What to watch, and how.
#[derive(Debug, Clone)]
pub struct WatchOptions {
    pub database: String,
    /// Where the copy of the map is kept. None: a start needs the catalog.
    pub state_dir: Option<PathBuf>,
    /// How often to ask for a new version, in case a notification got lost.
    pub poll_interval: Duration,
}

impl WatchOptions {
    /// Polls every 5 s, keeps no copy.
    pub fn new(database: impl Into<String>) -> Self {
        Self { database: database.into(), state_dir: None, poll_interval: Duration::from_secs(5) }
    }
}

/// Where the map in use comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Catalog,
    /// The catalog has given no map since this instance started.
    Disk,
}

/// What SHOW and the metrics say about the watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchStatus {
    pub source: Source,
    /// Of the map in use.
    pub version: u64,
    /// When the catalog last confirmed that the map in use is the newest.
    pub confirmed_at: Option<SystemTime>,
    /// What went wrong since then. None: all is well.
    pub catalog_error: Option<String>,
    /// Why the copy on disk is not that of the map in use. None: it is, or there is none.
    pub disk_error: Option<String>,
}

/// The newest shard map of one database. Dropping it ends the task behind it.
#[derive(Debug)]
pub struct Watcher {
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

impl Watcher {
    /// Loads the map from the catalog, or from disk if the catalog can't give one that is at least as new. Having none at
    /// all is the only error.
    pub async fn start(store: CatalogStore, options: WatchOptions) -> Result<Self, CatalogError> {
        let disk = options.state_dir.as_deref().map(|directory| DiskCopy::new(directory, &options.database));
        let (map, status, fresh) = first_map(&store, &options, disk.as_ref()).await?;
        let shared = Arc::new(Shared {
            store,
            disk,
            options,
            loading: Mutex::new(()),
            map: watch::Sender::new(Arc::new(map)),
            status: watch::Sender::new(status),
        });
        if let Some(snapshot) = fresh {
            shared.save(snapshot).await;
        }
        let mut tasks = JoinSet::new();
        tasks.spawn(follow(Arc::clone(&shared)));
        Ok(Self { shared, _tasks: tasks })
    }

    /// The map in use.
    pub fn map(&self) -> Arc<ShardMap> {
        self.shared.map.borrow().clone()
    }

    /// Gets each new map; those that come in quick succession may be skipped.
    pub fn subscribe(&self) -> watch::Receiver<Arc<ShardMap>> {
        self.shared.map.subscribe()
    }

    pub fn status(&self) -> WatchStatus {
        self.shared.status.borrow().clone()
    }

    /// Loads the map now. What was committed in the catalog before this call is in the map that it returns.
    pub async fn refresh(&self) -> Result<Arc<ShardMap>, CatalogError> {
        self.shared.refresh().await
    }
}

/// The first map, its status, and the rows to be copied to disk if they come from the catalog.
async fn first_map(
    store: &CatalogStore,
    options: &WatchOptions,
    disk: Option<&DiskCopy>,
) -> Result<(ShardMap, WatchStatus, Option<Snapshot>), CatalogError> {
    let database = &options.database;
    let copy = disk.ok_or(CatalogError::NoStateDir).and_then(|disk| disk.load(database)?.to_map());
    let loaded = store.snapshot(database).await.and_then(|snapshot| Ok((snapshot.to_map()?, snapshot)));
    let (map, error) = match (loaded, copy) {
        // This instance has seen a later map before it was restarted; others may still use it.
        (Ok((map, _)), Ok(copy)) if map.version() < copy.version() => {
            let (loaded, current) = (map.version(), copy.version());
            (copy, CatalogError::WentBack { database: database.clone(), loaded, current })
        }
        (Ok((map, snapshot)), _) => {
            let status = status_of(&map, Source::Catalog, None);
            return Ok((map, status, Some(snapshot)));
        }
        (Err(error), Ok(copy)) => (copy, error),
        (Err(catalog), Err(disk)) => {
            let (catalog, disk) = (Box::new(catalog), Box::new(disk));
            return Err(CatalogError::NoMap { database: database.clone(), catalog, disk });
        }
    };
    tracing::warn!(database, version = map.version(), %error, "starting with the map on disk");
    let status = status_of(&map, Source::Disk, Some(error.to_string()));
    Ok((map, status, None))
}

fn status_of(map: &ShardMap, source: Source, catalog_error: Option<String>) -> WatchStatus {
    let confirmed_at = (source == Source::Catalog).then(SystemTime::now);
    WatchStatus { source, version: map.version(), confirmed_at, catalog_error, disk_error: None }
}

#[derive(Debug)]
struct Shared {
    store: CatalogStore,
    disk: Option<DiskCopy>,
    options: WatchOptions,
    /// One load at a time, so that what is published and what is saved come in the order of their versions.
    loading: Mutex<()>,
    map: watch::Sender<Arc<ShardMap>>,
    status: watch::Sender<WatchStatus>,
}

impl Shared {
    /// Loads and publishes the map, whatever its version.
    async fn refresh(&self) -> Result<Arc<ShardMap>, CatalogError> {
        let _guard = self.loading.lock().await;
        let loaded = self.load().await;
        self.note(loaded.as_ref().err());
        loaded.map(|()| self.map.borrow().clone())
    }

    /// Loads and publishes the map if the catalog has another version of it.
    async fn poll(&self) -> Result<(), CatalogError> {
        let _guard = self.loading.lock().await;
        let polled = match self.store.version(&self.options.database).await {
            Ok(version) if version == self.map.borrow().version() => Ok(()),
            Ok(_) => self.load().await,
            Err(error) => Err(error),
        };
        self.note(polled.as_ref().err());
        polled
    }

    async fn load(&self) -> Result<(), CatalogError> {
        let snapshot = self.store.snapshot(&self.options.database).await?;
        let (loaded, current) = (snapshot.version(), self.map.borrow().version());
        if loaded < current {
            return Err(CatalogError::WentBack { database: snapshot.database, loaded, current });
        }
        if loaded > current {
            let map = Arc::new(snapshot.to_map()?);
            tracing::info!(database = self.options.database, version = loaded, "new shard map");
            self.map.send_replace(map);
            self.save(snapshot).await;
        }
        Ok(())
    }

    async fn save(&self, snapshot: Snapshot) {
        let Some(disk) = self.disk.clone() else {
            return;
        };
        let saved = tokio::task::spawn_blocking(move || disk.save(&snapshot)).await;
        let error = match saved {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(panicked) => Some(panicked.to_string()),
        };
        if let Some(error) = &error {
            tracing::warn!(database = self.options.database, error, "the copy of the shard map is out of date");
        }
        self.status.send_modify(|status| status.disk_error = error);
    }

    /// Writes the outcome of a load or a poll into the status.
    fn note(&self, error: Option<&CatalogError>) {
        let text = error.map(ToString::to_string);
        if let Some(error) = &text {
            tracing::warn!(
                database = self.options.database,
                error,
                "the catalog gives no map; the last one stays in use"
            );
        }
        let version = self.map.borrow().version();
        self.status.send_modify(|status| {
            status.version = version;
            if text.is_none() {
                status.source = Source::Catalog;
                status.confirmed_at = Some(SystemTime::now());
            }
            status.catalog_error = text;
        });
    }
}

/// The task behind a [`Watcher`]: connects, follows until the connection breaks, waits, and so on.
async fn follow(shared: Arc<Shared>) {
    let mut backoff = Backoff::default();
    loop {
        let error = match Listener::connect(&shared).await {
            Ok(listener) => {
                backoff = Backoff::default();
                listener.run(&shared).await
            }
            Err(error) => error,
        };
        shared.note(Some(&error));
        tokio::time::sleep(backoff.next(rand::random())).await;
    }
}

/// A connection that listens. Its tasks end with it.
struct Listener {
    /// Held because dropping it closes the connection.
    _client: Client,
    woken: Arc<Notify>,
    connection: JoinSet<CatalogError>,
}

impl Listener {
    async fn connect(shared: &Shared) -> Result<Self, CatalogError> {
        let (client, connection) = shared.store.dedicated().await?;
        let woken = Arc::new(Notify::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(drive(connection, shared.options.database.clone(), Arc::clone(&woken)));
        let listen = async {
            let sql = format!("LISTEN {CHANNEL}");
            client.batch_execute(&sql).await.map_err(CatalogError::query("listen for new shard maps"))
        };
        shared.store.deadlines().bound("listening for new shard maps", listen).await?;
        Ok(Self { _client: client, woken, connection: tasks })
    }

    /// Polls at each notification and each interval, from now on: what changed before LISTEN was never notified.
    /// Returns why it can't go on.
    async fn run(mut self, shared: &Shared) -> CatalogError {
        loop {
            match shared.poll().await {
                Ok(()) => {}
                // The catalog answers; a new connection would not make its answer better.
                Err(error @ (CatalogError::Connect { .. } | CatalogError::Deadline { .. })) => return error,
                Err(_) => {}
            }
            tokio::select! {
                ended = self.connection.join_next() => return closed(ended),
                () = self.woken.notified() => {}
                () = tokio::time::sleep(shared.options.poll_interval) => {}
            }
        }
    }
}

fn closed(ended: Option<Result<CatalogError, tokio::task::JoinError>>) -> CatalogError {
    match ended {
        Some(Ok(error)) => error,
        Some(Err(panicked)) => connection_lost(panicked.to_string()),
        None => connection_lost("its task is gone".to_owned()),
    }
}

fn connection_lost(reason: String) -> CatalogError {
    CatalogError::Connect { target: "the catalog".to_owned(), reason }
}

/// Reads the connection until it ends; wakes the listener for each notification of `database`.
async fn drive<S, T>(mut connection: Connection<S, T>, database: String, woken: Arc<Notify>) -> CatalogError
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    loop {
        let mut pinned = Pin::new(&mut connection);
        match std::future::poll_fn(|context| pinned.poll_message(context)).await {
            Some(Ok(AsyncMessage::Notification(notification))) if notification.payload() == database => {
                woken.notify_one()
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => return connection_lost(explain(&error)),
            None => return connection_lost("the server closed the connection".to_owned()),
        }
    }
}

/// Waits between attempts to reach the catalog: doubling from 250 ms to 30 s, each time between half of that and all of it,
/// so that the instances of a fleet don't all come at once.
#[derive(Debug, Default)]
struct Backoff {
    attempts: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(250);
    const LAST: Duration = Duration::from_secs(30);

    /// `random` is in 0..1.
    fn next(&mut self, random: f64) -> Duration {
        let full = Self::FIRST.saturating_mul(1 << self.attempts.min(16)).min(Self::LAST);
        self.attempts += 1;
        full.mul_f64(0.5 + random / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit_and_vary() {
        let mut longest = Backoff::default();
        let waits: Vec<u128> = (0..10).map(|_| longest.next(1.0).as_millis()).collect();
        assert_eq!(waits, [250, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]);
        assert_eq!(Backoff::default().next(0.0), Duration::from_millis(125));
        let mut long_gone = Backoff { attempts: 1_000_000 };
        assert_eq!(long_gone.next(1.0), Backoff::LAST);
    }
}
