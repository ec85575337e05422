//! The SQL of the catalog (`sql/catalog`) and of the shards (`sql/shard`), and what applies it.
//!
//! A migration that was released is never edited: refinery compares checksums and refuses. Everything, also refinery's own
//! history, lives in the schema `sluice`.

use std::time::Duration;

use refinery::{Migration, Runner};
use tokio_postgres::Client;

/// File name (without suffix) and text. Listed by hand, so that a new file can't be missed by an incremental build.
type Source = (&'static str, &'static str);

const CATALOG: &[Source] = &[("V1__shard_map", include_str!("../sql/catalog/V1__shard_map.sql"))];
const SHARD: &[Source] = &[("V1__slots_and_decisions", include_str!("../sql/shard/V1__slots_and_decisions.sql"))];

/// A database may be a catalog and a shard at once (in a small installation), so each has a history of its own.
const CATALOG_HISTORY: &str = "sluice.catalog_migrations";
const SHARD_HISTORY: &str = "sluice.shard_migrations";

/// Key of the advisory lock that lets one runner at a time into a database: "sluice" in ASCII.
const LOCK: i64 = 0x73_6c_75_69_63_65;

/// How long to wait for another runner, and how long a statement of a migration may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A migration that could not be applied. Each one is applied whole or not at all.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error("cannot prepare the schema \"sluice\": {}; the role needs CREATE on the database", root(.0))]
    Prepare(#[source] tokio_postgres::Error),
    #[error("cannot get the lock that one migration holds at a time: {}; try again when the other is done", root(.0))]
    Locked(#[source] tokio_postgres::Error),
    #[error("cannot apply a migration: {}: {}", .0, root(.0))]
    Apply(#[source] Box<refinery::Error>),
}

/// Brings a catalog database up to date. Returns the names of the migrations that this call applied: none, if it was.
pub async fn migrate_catalog(client: &mut Client) -> Result<Vec<String>, MigrateError> {
    migrate(client, CATALOG, CATALOG_HISTORY).await
}

/// Brings a shard's database up to date. Returns the names of the migrations that this call applied: none, if it was.
pub async fn migrate_shard(client: &mut Client) -> Result<Vec<String>, MigrateError> {
    migrate(client, SHARD, SHARD_HISTORY).await
}

async fn migrate(client: &mut Client, sources: &[Source], history: &str) -> Result<Vec<String>, MigrateError> {
    lock(client).await?;
    let applied = apply(client, sources, history).await;
    // If this fails, the connection is gone, and the lock with it.
    let _ = client.execute("SELECT pg_advisory_unlock($1)", &[&LOCK]).await;
    let _ = client.batch_execute("RESET statement_timeout; RESET lock_timeout").await;
    applied
}

async fn lock(client: &Client) -> Result<(), MigrateError> {
    // The caller's limits are for queries; waiting for another runner may take longer.
    let limits = format!("SET statement_timeout = {0}; SET lock_timeout = {0}", TIMEOUT.as_millis());
    client.batch_execute(&limits).await.map_err(MigrateError::Prepare)?;
    client.execute("SELECT pg_advisory_lock($1)", &[&LOCK]).await.map_err(MigrateError::Locked)?;
    Ok(())
}

async fn apply(client: &mut Client, sources: &[Source], history: &str) -> Result<Vec<String>, MigrateError> {
    client.batch_execute("CREATE SCHEMA IF NOT EXISTS sluice").await.map_err(MigrateError::Prepare)?;
    let report = runner(sources, history).map_err(boxed)?.run_async(client).await.map_err(boxed)?;
    Ok(report.applied_migrations().iter().map(Migration::to_string).collect())
}

fn runner(sources: &[Source], history: &str) -> Result<Runner, refinery::Error> {
    let migrations =
        sources.iter().map(|(name, sql)| Migration::unapplied(name, sql)).collect::<Result<Vec<_>, _>>()?;
    let mut runner = Runner::new(&migrations);
    runner.set_migration_table_name(history);
    Ok(runner)
}

/// The innermost cause: the driver's and refinery's own texts leave out what PostgreSQL has said.
fn root(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => root(cause),
        None => error.to_string(),
    }
}

fn boxed(error: refinery::Error) -> MigrateError {
    MigrateError::Apply(Box::new(error))
}
