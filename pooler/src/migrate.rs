//! `sluice migrate`: brings the catalog and every shard to this program's schema, and creates what the catalog needs first.
//! Safe to run again, and by several at once.

mod create;

use std::path::PathBuf;

use sluice_catalog::{CatalogError, CatalogStore, ControlCredentials, Deadlines, connect_catalog, connect_shard};
use sluice_migrations::{migrate_catalog, migrate_shard};
use sluice_router::ShardMap;

use self::create::CreateArgs;
use crate::config::{Config, ConfigError, Database};

const EXAMPLES: &str = "The catalog's database and the shards' databases must exist (createdb), with a user for Sluice that may create \
a schema in each. An entry of [databases] says where the catalog is: app = catalog='host=… dbname=… user=…' pool_mode=transaction

Examples:
  sluice migrate sluice.ini
  sluice migrate sluice.ini --create --key-column organization_id \\
      --shard 'host=db1 dbname=app_a' --shard 'host=db2 port=5433 dbname=app_b'
  sluice migrate sluice.ini --create --database app --key-column tenant --key-type uuid \\
      --shards 16 --shard-pattern 'host=/run/postgresql dbname=app_%02d'";

#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct MigrateArgs {
    /// The configuration file whose sharded databases are meant
    pub config: PathBuf,
    /// Only this entry of the section `databases`
    #[arg(long, value_name = "ENTRY")]
    database: Option<String>,
    #[command(flatten)]
    create: CreateArgs,
}

/// Why a migration stopped. Each step that was reported before is done and stays.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error("cannot load config file: {0}")]
    Config(#[from] ConfigError),
    #[error("{config} has no sharded database\nHINT: give an entry in [databases] a catalog='…'")]
    NothingSharded { config: String },
    #[error("{config} has no sharded database \"{entry}\"\nHINT: the sharded ones are: {others}")]
    NotSharded { config: String, entry: String, others: String },
    #[error("{config} has several sharded databases: {entries}\nHINT: say with --database which one is to be created")]
    WhichOne { config: String, entries: String },
    #[error("{0}")]
    Shards(String),
    #[error("{what}: {source}")]
    Reach { what: String, source: CatalogError },
    #[error(
        "shard {number}: {source}\nHINT: nothing was created; every shard's database must exist (createdb) and let the catalog's user in"
    )]
    NoShard { number: usize, source: CatalogError },
    #[error(
        "database \"{database}\": {source}\nHINT: one of the shards belongs to another sharded database of this catalog; see sluice.shards"
    )]
    ShardTaken { database: String, source: CatalogError },
    #[error(
        "database \"{database}\" is in the catalog already, and differs: {differences}\nHINT: nothing was changed; leave out --create to migrate what is there"
    )]
    Differs { database: String, differences: String },
    #[error("{what}: {source}")]
    Migrate { what: String, source: sluice_migrations::MigrateError },
}

pub async fn run(args: MigrateArgs) -> Result<(), MigrateError> {
    let config = Config::load(&args.config)?;
    for entry in chosen(&args, &config)? {
        migrate_database(entry, args.create.create.then_some(&args.create)).await?;
    }
    Ok(())
}

/// The sharded entries that are meant: all, or the one that the command line names.
fn chosen<'a>(args: &MigrateArgs, config: &'a Config) -> Result<Vec<&'a Database>, MigrateError> {
    let file = || args.config.display().to_string();
    let mut sharded: Vec<_> = config.databases.values().filter(|entry| entry.is_sharded()).collect();
    if sharded.is_empty() {
        return Err(MigrateError::NothingSharded { config: file() });
    }
    let names = sharded.iter().map(|entry| &*entry.name).collect::<Vec<_>>().join(", ");
    if let Some(wanted) = &args.database {
        sharded.retain(|entry| entry.name == *wanted);
        if sharded.is_empty() {
            return Err(MigrateError::NotSharded { config: file(), entry: wanted.clone(), others: names });
        }
    }
    if args.create.create && sharded.len() > 1 {
        return Err(MigrateError::WhichOne { config: file(), entries: names });
    }
    Ok(sharded)
}

async fn migrate_database(entry: &Database, create: Option<&CreateArgs>) -> Result<(), MigrateError> {
    let Some(catalog) = entry.catalog.as_deref() else { return Ok(()) };
    let new = create.map(|create| create.database(&entry.dbname)).transpose()?;
    let what = format!("catalog of database \"{}\"", entry.name);
    let reach = |source| MigrateError::Reach { what: what.clone(), source };
    let mut client = connect_catalog(catalog).await.map_err(reach)?;
    let applied =
        migrate_catalog(&mut client).await.map_err(|source| MigrateError::Migrate { what: what.clone(), source })?;
    report(&what, &applied);
    let store = CatalogStore::new(catalog, Deadlines::default()).map_err(reach)?;
    let credentials = ControlCredentials::from_connection_string(catalog).map_err(reach)?;
    if let Some(new) = new {
        let state = match create::create(&store, &new, &credentials).await? {
            true => format!("created with {} shards by {}", new.shards.len(), new.key_column),
            false => "up to date".to_owned(),
        };
        println!("database \"{}\": {state}", entry.name);
    }
    migrate_shards(&entry.name, &store.load(&entry.dbname).await.map_err(reach)?, &credentials).await
}

async fn migrate_shards(entry: &str, map: &ShardMap, credentials: &ControlCredentials) -> Result<(), MigrateError> {
    for shard in map.shard_ids() {
        let what = format!("shard {shard} of database \"{entry}\"");
        let connected = connect_shard(map.placement(shard), credentials).await;
        let mut client = connected.map_err(|source| MigrateError::Reach { what: what.clone(), source })?;
        let applied =
            migrate_shard(&mut client).await.map_err(|source| MigrateError::Migrate { what: what.clone(), source })?;
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
