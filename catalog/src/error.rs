//! What can go wrong in the control plane, as an operator reads it.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use sluice_router::map::MapError;
use tokio_postgres::error::SqlState;

/// An error of the control plane. None of them stops the routing of queries by the map at hand.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error("the connection string of the catalog is not valid: {0}")]
    ConnectionString(String),
    #[error("cannot connect to {target}: {reason}")]
    Connect { target: String, reason: String },
    #[error("{what} took longer than {} ms", .after.as_millis())]
    Deadline { what: &'static str, after: Duration },
    #[error("cannot {what}: {}", explain(.source))]
    Query { what: &'static str, source: tokio_postgres::Error },
    #[error("cannot {what}: the database has no tables of Sluice; run: sluice migrate")]
    NotMigrated { what: &'static str },
    #[error(
        "database \"{0}\" is not in the catalog; create it with: sluice migrate --create (see sluice migrate --help)"
    )]
    UnknownDatabase(String),
    #[error("table \"{0}\" is not in the catalog; create it through Sluice, or classify it in the console")]
    UnknownTable(String),
    #[error(
        "node \"{0}\" is in the catalog with another host or port; give the new one another name, or update sluice.nodes"
    )]
    NodeElsewhere(String),
    #[error("the catalog's rows of database \"{database}\" make no shard map: {source}")]
    Map { database: String, source: MapError },
    #[error("the catalog's rows of database \"{database}\" make no shard map: {what} cannot be {value:?}")]
    Value { database: String, what: &'static str, value: String },
    #[error(
        "the catalog has version {loaded} of database \"{database}\", older than version {current} in use; \
         if it was restored on purpose, run in it: SELECT sluice.advance_version({current})"
    )]
    WentBack { database: String, loaded: u64, current: u64 },
    #[error("cannot use the disk copy {}: {reason}", .path.display())]
    DiskCopy { path: PathBuf, reason: String },
    #[error("no shard map of database \"{database}\": {catalog}; {disk}")]
    NoMap { database: String, catalog: Box<CatalogError>, disk: Box<CatalogError> },
    #[error("no state_dir is set, so there is no disk copy")]
    NoStateDir,
}

impl CatalogError {
    /// The SQLSTATE, if PostgreSQL has refused something.
    pub fn sqlstate(&self) -> Option<&SqlState> {
        match self {
            Self::Query { source, .. } => source.code(),
            _ => None,
        }
    }

    /// For `map_err`: PostgreSQL could not do `what`, an infinitive: "read the shards".
    pub fn query(what: &'static str) -> impl FnOnce(tokio_postgres::Error) -> Self {
        move |source| match source.code() {
            Some(&SqlState::INVALID_SCHEMA_NAME | &SqlState::UNDEFINED_TABLE) => Self::NotMigrated { what },
            _ => Self::Query { what, source },
        }
    }
}

/// An error with its cause: the drivers' own texts leave out what PostgreSQL has said.
pub(crate) fn explain(error: &dyn Error) -> String {
    match error.source() {
        Some(cause) => explain(cause),
        None => error.to_string(),
    }
}
