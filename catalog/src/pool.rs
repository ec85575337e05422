//! Small pools for the control plane's own statements: bb8 over tokio-postgres.
//!
//! bb8 keeps quiet about a failed attempt to connect and lets the caller wait for its deadline. A catalog or a shard that
//! is down must be noticed at once, and with its reason, so the manager here tells those who wait.

use std::time::Duration;

use bb8::{ManageConnection, RunError};
use tokio::sync::watch;
use tokio_postgres::{Client, Config};

use crate::connect::{Deadlines, connect, describe};
use crate::error::{CatalogError, explain};

/// A connection that goes back to its pool when dropped.
pub type PooledClient = bb8::PooledConnection<'static, Manager>;

/// A pool of connections to one database. Cheap to clone: clones share the connections.
#[derive(Debug, Clone)]
pub(crate) struct ControlPool {
    pool: bb8::Pool<Manager>,
    target: String,
    failures: watch::Sender<String>,
}

impl ControlPool {
    /// Lazy: nothing is connected yet, so that neither a start nor a reload waits for a server that is down.
    pub fn new(config: Config, size: u32, deadlines: Deadlines) -> Self {
        let (target, failures) = (describe(&config), watch::Sender::default());
        let pool = bb8::Pool::builder()
            .max_size(size)
            .connection_timeout(deadlines.connect)
            .idle_timeout(Duration::from_secs(60))
            .retry_connection(false)
            .build_unchecked(Manager { config, deadlines, failures: failures.clone() });
        Self { pool, target, failures }
    }

    pub async fn get(&self) -> Result<PooledClient, CatalogError> {
        let failed = |reason| CatalogError::Connect { target: self.target.clone(), reason };
        let mut failures = self.failures.subscribe();
        tokio::select! {
            client = self.pool.get_owned() => client.map_err(|error| match error {
                RunError::User(error) => error,
                RunError::TimedOut => failed("all connections of the pool are busy".to_owned()),
            }),
            Ok(()) = failures.changed() => Err(failed(failures.borrow().clone())),
        }
    }
}

/// How the pool makes and checks connections.
#[derive(Debug)]
pub struct Manager {
    config: Config,
    deadlines: Deadlines,
    /// The reason of the last failed attempt.
    failures: watch::Sender<String>,
}

impl ManageConnection for Manager {
    type Connection = Client;
    type Error = CatalogError;

    async fn connect(&self) -> Result<Client, CatalogError> {
        match connect(&self.config, self.deadlines).await {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                Ok(client)
            }
            Err(error) => {
                if let CatalogError::Connect { reason, .. } = &error {
                    self.failures.send_replace(reason.clone());
                }
                Err(error)
            }
        }
    }

    async fn is_valid(&self, client: &mut Client) -> Result<(), CatalogError> {
        let failed = |error| CatalogError::Connect { target: describe(&self.config), reason: explain(&error) };
        client.simple_query("").await.map(drop).map_err(failed)
    }

    fn has_broken(&self, client: &mut Client) -> bool {
        client.is_closed()
    }
}
