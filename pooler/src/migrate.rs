//! `sluice migrate`: brings the catalog and every shard to this program's schema. Safe to run again, and by several at once.

use std::path::PathBuf;

use sluice_catalog::{CatalogError, CatalogStore, ControlCredentials, Deadlines, connect_catalog, connect_shard};
use sluice_migrations::{migrate_catalog, migrate_shard};

use crate::config::{Config, ConfigError};

#[derive(Debug, Clone, clap::Args)]
pub struct MigrateArgs {
    /// The configuration file whose sharded databases are meant
    pub config: PathBuf,
}

/// Why a migration stopped. Each step that was reported before is done and stays.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error("cannot load config file: {0}")]
    Config(#[from] ConfigError),
    #[error("{config} has no sharded database\nHINT: give an entry in [databases] a catalog='…'")]
    NothingSharded { config: String },
    #[error("{what}: {source}")]
    Reach { what: String, source: CatalogError },
    #[error("{what}: {source}")]
    Migrate { what: String, source: sluice_migrations::MigrateError },
}

pub async fn run(args: MigrateArgs) -> Result<(), MigrateError> {
    let config = Config::load(&args.config)?;
    let sharded: Vec<_> = config.databases.values().filter_map(|entry| Some((entry, entry.catalog.as_deref()?))).collect();
    if sharded.is_empty() {
        return Err(MigrateError::NothingSharded { config: args.config.display().to_string() });
    }
    for (entry, catalog) in sharded {
        migrate_database(&entry.name, &entry.dbname, catalog).await?;
    }
    Ok(())
}

async fn migrate_database(entry: &str, name: &str, catalog: &str) -> Result<(), MigrateError> {
    let what = format!("catalog of database \"{entry}\"");
    let reach = |source| MigrateError::Reach { what: what.clone(), source };
    let mut client = connect_catalog(catalog).await.map_err(reach)?;
    let applied = migrate_catalog(&mut client).await.map_err(|source| MigrateError::Migrate { what: what.clone(), source })?;
    report(&what, &applied);
    let store = CatalogStore::new(catalog, Deadlines::default()).map_err(reach)?;
    let map = store.load(name).await.map_err(reach)?;
    let credentials = ControlCredentials::from_connection_string(catalog).map_err(reach)?;
    for shard in map.shard_ids() {
        let what = format!("shard {shard} of database \"{entry}\"");
        let placement = map.placement(shard);
        let connected = connect_shard(placement, &credentials).await;
        let mut client = connected.map_err(|source| MigrateError::Reach { what: what.clone(), source })?;
        let applied = migrate_shard(&mut client).await.map_err(|source| MigrateError::Migrate { what: what.clone(), source })?;
        report(&what, &applied);
    }
    Ok(())
}

fn report(what: &str, applied: &[String]) {
    if applied.is_empty() {
        println!("{what}: up to date");
    } else {
        println!("{what}: applied {}", applied.join(", "));
    }
}
