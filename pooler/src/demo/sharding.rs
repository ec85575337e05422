//! The demo's part of the control plane: migrations, one node with 16 shards in the catalog, the classes of the sample's
//! tables, and the shard map that comes of it.

use sluice_catalog::{CatalogStore, Change, Deadlines, NewDatabase, TableName, introspect};
use sluice_migrations::{migrate_catalog, migrate_shard};
use sluice_router::map::{Placement, TableClass};
use sluice_router::{Key, KeyType, ShardMap};
use tokio_postgres::Client;

use super::DemoError;
use super::fleet::Fleet;
use super::load::{CATALOG, SHARDS, shard_database};
use super::sample::Table;

/// The sharded database's name, for clients and in the catalog.
pub const DATABASE: &str = "epfo";
/// The column that all sharded tables of the sample have.
const KEY_COLUMN: &str = "organization_id";
/// The one server's name in the catalog.
const NODE: &str = "demo";

/// Makes what every shard needs beside the application's tables.
pub async fn prepare_shard(shard: &mut Client) -> Result<(), DemoError> {
    migrate_shard(shard).await.map(drop).map_err(DemoError::catalog("cannot migrate the shards"))
}

/// Makes the catalog, registers the sharded database and its tables, and returns the shard map.
pub async fn register(fleet: &Fleet) -> Result<ShardMap, DemoError> {
    let failed = || DemoError::catalog("cannot register the shards in the catalog");
    let mut catalog = fleet.connect(CATALOG).await?;
    migrate_catalog(&mut catalog).await.map_err(DemoError::catalog("cannot migrate the catalog"))?;
    let store = CatalogStore::new(&fleet.admin_url(CATALOG), Deadlines::default()).map_err(failed())?;
    store.create_database(&new_database(fleet)).await.map_err(failed())?;
    let first_shard = fleet.connect(&shard_database(0)).await?;
    store.apply(DATABASE, &table_classes(&first_shard).await?).await.map_err(failed())?;
    store.load(DATABASE).await.map_err(failed())
}

/// A kept fleet's server has another port at every start.
pub async fn move_node(fleet: &Fleet) -> Result<(), DemoError> {
    const MOVE: &str = "UPDATE sluice.nodes SET host = $1, port = $2 WHERE name = $3";
    let catalog = fleet.connect(CATALOG).await?;
    let (host, port) = (fleet.sockets().display().to_string(), i32::from(fleet.port()));
    let moved = catalog.execute(MOVE, &[&host, &port, &NODE]).await;
    moved.map(drop).map_err(DemoError::postgres("cannot register the server's new port in the catalog"))
}

/// Compares the server's hash of every organization's key with the router's: rows that were placed by another hash would
/// not be found.
pub async fn verify_slots(shard: &Client, database: &str) -> Result<(), DemoError> {
    const FOUND: &str = "SELECT organization_id, sluice.slot(organization_id) FROM organizations";
    let rows = shard.query(FOUND, &[]).await.map_err(DemoError::postgres("cannot verify the slots"))?;
    let wrong = rows
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .find(|&(organization, slot): &(i64, i32)| slot != i32::from(Key::Int(organization).slot()));
    match wrong {
        Some((organization, slot)) => {
            Err(DemoError::Verify(format!("{database} has organization {organization} in another slot than {slot}")))
        }
        None => Ok(()),
    }
}

fn new_database(fleet: &Fleet) -> NewDatabase {
    let placement = |shard| Placement {
        node: NODE.to_owned(),
        host: fleet.sockets().display().to_string(),
        port: fleet.port(),
        dbname: shard_database(shard),
    };
    NewDatabase {
        name: DATABASE.to_owned(),
        key_column: KEY_COLUMN.to_owned(),
        key_type: KeyType::Int,
        shards: (0..SHARDS).map(placement).collect(),
    }
}

/// The sample's tables, with the columns that they really have.
async fn table_classes(shard: &Client) -> Result<Vec<Change>, DemoError> {
    let sharded = Table::ALL.map(|table| (table.name(), TableClass::Sharded));
    let mut changes = Vec::new();
    for (name, class) in sharded.into_iter().chain([("states", TableClass::Reference)]) {
        let table = TableName::new("public", name);
        let columns = introspect::columns(shard, &table).await.map_err(DemoError::catalog("cannot read the tables"))?;
        let columns = columns.ok_or_else(|| DemoError::Verify(format!("table {table} is missing")))?;
        changes.push(Change::CreateTable { table, class, columns });
    }
    Ok(changes)
}
