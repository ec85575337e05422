//! The demo's part of the control plane: migrations, one node with 16 shards in the catalog, the classes of the sample's
//! tables, and the shard map that comes of it.

use sluice_router::key::KeyType;
use sluice_router::map::{Placement, SLOTS};
use sluice_router::{Key, Schema, ShardMap};
use tokio_postgres::Client;

use super::DemoError;
use super::fleet::Fleet;
use super::load::{CATALOG, SHARDS, shard_database};

/// The sharded database's name, for clients and in the catalog.
pub const DATABASE: &str = "epfo";
const NODE: &str = "demo";

pub async fn migrate_shard(shard: &mut Client) -> Result<(), DemoError> {
    let migrated = sluice_migrations::migrate_shard(shard).await;
    migrated
        .map(drop)
        .map_err(|error| DemoError::Catalog { what: "cannot migrate the shards".to_owned(), source: error.into() })
}

/// Makes the catalog's tables and registers the sharded database.
pub async fn register(fleet: &Fleet) -> Result<(), DemoError> {
    let failed = || DemoError::postgres("cannot register the shards in the catalog");
    let mut catalog = fleet.connect(CATALOG).await?;
    sluice_migrations::migrate_catalog(&mut catalog)
        .await
        .map_err(|error| DemoError::Catalog { what: "cannot migrate the catalog".to_owned(), source: error.into() })?;
    let columns = fleet.connect(&shard_database(0)).await?.query("SELECT c.relname::text, array_agg(a.attname::text ORDER BY a.attnum) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' GROUP BY 1", &[]).await.map_err(failed())?;
    let tx = catalog.transaction().await.map_err(failed())?;
    let host = fleet.sockets().display().to_string();
    tx.execute("INSERT INTO sluice.nodes VALUES ($1, $2, $3)", &[&NODE, &host, &i32::from(fleet.port())])
        .await
        .map_err(failed())?;
    tx.execute(
        "INSERT INTO sluice.databases (name, key_column, key_type) VALUES ($1, 'organization_id', 'int')",
        &[&DATABASE],
    )
    .await
    .map_err(failed())?;
    for shard in 0..SHARDS {
        tx.execute(
            "INSERT INTO sluice.shards VALUES ($1, $2, $3, $4)",
            &[&DATABASE, &i32::from(shard), &NODE, &shard_database(shard)],
        )
        .await
        .map_err(failed())?;
    }
    tx.execute("INSERT INTO sluice.slots SELECT $1, s, s * 16 / 4096 FROM generate_series(0, 4095) s", &[&DATABASE])
        .await
        .map_err(failed())?;
    for row in &columns {
        let (name, columns): (String, Vec<String>) = (row.get(0), row.get(1));
        let class = if name == "states" { "reference" } else { "sharded" };
        tx.execute(
            "INSERT INTO sluice.tables VALUES ($1, 'public', $2, $3, $4)",
            &[&DATABASE, &name, &class, &columns],
        )
        .await
        .map_err(failed())?;
    }
    tx.commit().await.map_err(failed())
}

pub async fn load_map(fleet: &Fleet) -> Result<ShardMap, DemoError> {
    let slots: Vec<u16> = (0..SLOTS).map(|s| (s * 16 / SLOTS) as u16).collect();
    let shards = (0..SHARDS)
        .map(|s| Placement {
            node: NODE.into(),
            host: fleet.sockets().display().to_string(),
            port: fleet.port(),
            dbname: shard_database(s),
        })
        .collect();
    ShardMap::new(1, KeyType::Int, &slots, [], shards, Schema::unsharded())
        .map_err(|e| DemoError::Verify(e.to_string()))
}

/// A kept fleet has other ports at every start.
pub async fn move_nodes(fleet: &Fleet) -> Result<(), DemoError> {
    let catalog = fleet.connect(CATALOG).await?;
    let host = fleet.sockets().display().to_string();
    let port = i32::from(fleet.port());
    let moved =
        catalog.execute("UPDATE sluice.nodes SET host = $1, port = $2 WHERE name = $3", &[&host, &port, &NODE]).await;
    moved.map(drop).map_err(DemoError::postgres("cannot register the server's new port in the catalog"))
}

/// Compares PostgreSQL's hash of every organization's key with the router's.
pub async fn verify_slots(shard: &Client, database: &str) -> Result<(), DemoError> {
    const SLOTS_FOUND: &str = "SELECT organization_id, sluice.slot(organization_id) FROM organizations";
    let rows = shard.query(SLOTS_FOUND, &[]).await.map_err(DemoError::postgres("cannot verify the slots"))?;
    for row in rows {
        let (organization, slot): (i64, i32) = (row.get(0), row.get(1));
        let expected = Key::Int(organization).slot();
        if slot != i32::from(expected) {
            return Err(DemoError::Verify(format!(
                "{database} has organization {organization} in slot {slot}, not {expected}"
            )));
        }
    }
    Ok(())
}
