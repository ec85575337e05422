//! Reads the catalog database.

use std::sync::Arc;

use sluice_router::ShardMap;
use tokio_postgres::{Client, Config, IsolationLevel, Row, Transaction};

use crate::connect::{Deadlines, Driver, catalog_config, connect};
use crate::error::CatalogError;
use crate::pool::{ControlPool, PooledClient};
use crate::snapshot::{FunctionRow, OverrideRow, ShardRow, Snapshot, TableRow};

/// Connections to the catalog: loads, polls and changes are rare and short.
const POOL_SIZE: u32 = 3;

/// The catalog database. Cheap to clone: clones share one small pool, which connects when it is first used.
#[derive(Debug, Clone)]
pub struct CatalogStore {
    config: Arc<Config>,
    pool: ControlPool,
    deadlines: Deadlines,
}

impl CatalogStore {
    /// `connection_string` as libpq takes it: `host=… dbname=…` or a URL.
    pub fn new(connection_string: &str, deadlines: Deadlines) -> Result<Self, CatalogError> {
        let config = catalog_config(connection_string, deadlines)?;
        let pool = ControlPool::new(config.clone(), POOL_SIZE, deadlines);
        Ok(Self { config: Arc::new(config), pool, deadlines })
    }

    /// The shard map of `database`, as it is at one instant.
    pub async fn load(&self, database: &str) -> Result<ShardMap, CatalogError> {
        self.snapshot(database).await?.to_map()
    }

    /// The rows that make the shard map of `database`, as they are at one instant.
    pub async fn snapshot(&self, database: &str) -> Result<Snapshot, CatalogError> {
        self.deadlines.bound("reading the shard map", self.read(database)).await
    }

    /// The version that [`Self::load`] would give: a cheap question for polling.
    pub async fn version(&self, database: &str) -> Result<u64, CatalogError> {
        let work = async {
            let client = self.client().await?;
            let sql = "SELECT greatest(map_version, schema_version) FROM sluice.databases WHERE name = $1";
            let row = client.query_opt(sql, &[&database]).await.map_err(CatalogError::query("read the version"))?;
            let row = row.ok_or_else(|| CatalogError::UnknownDatabase(database.to_owned()))?;
            Ok(row.get::<_, i64>(0).unsigned_abs())
        };
        self.deadlines.bound("reading the version of the shard map", work).await
    }

    pub(crate) fn deadlines(&self) -> Deadlines {
        self.deadlines
    }

    pub(crate) async fn client(&self) -> Result<PooledClient, CatalogError> {
        self.pool.get().await
    }

    /// A connection outside the pool, for LISTEN. The caller drives it.
    pub(crate) async fn dedicated(&self) -> Result<(Client, Driver), CatalogError> {
        connect(&self.config, self.deadlines).await
    }

    async fn read(&self, database: &str) -> Result<Snapshot, CatalogError> {
        let mut client = self.client().await?;
        let transaction = client
            .build_transaction()
            .isolation_level(IsolationLevel::RepeatableRead)
            .read_only(true)
            .start()
            .await
            .map_err(CatalogError::query("start reading the shard map"))?;
        let snapshot = read_snapshot(&transaction, database).await?;
        transaction.commit().await.map_err(CatalogError::query("finish reading the shard map"))?;
        Ok(snapshot)
    }
}

async fn read_snapshot(transaction: &Transaction<'_>, database: &str) -> Result<Snapshot, CatalogError> {
    let sql = "SELECT key_column, key_type, map_version, schema_version FROM sluice.databases WHERE name = $1";
    let head = transaction.query_opt(sql, &[&database]).await.map_err(CatalogError::query("read the database"))?;
    let head = head.ok_or_else(|| CatalogError::UnknownDatabase(database.to_owned()))?;
    let rows = async |what, sql| -> Result<Vec<Row>, CatalogError> {
        transaction.query(sql, &[&database]).await.map_err(CatalogError::query(what))
    };
    let shards = "SELECT node, host, port, dbname FROM sluice.shards JOIN sluice.nodes ON nodes.name = node
        WHERE database = $1 ORDER BY shard";
    let slots = "SELECT shard FROM sluice.slots WHERE database = $1 ORDER BY slot";
    let overrides = "SELECT key, shard FROM sluice.overrides WHERE database = $1 ORDER BY key COLLATE \"C\"";
    let tables = "SELECT schema_name, table_name, class, columns FROM sluice.tables WHERE database = $1
        ORDER BY schema_name COLLATE \"C\", table_name COLLATE \"C\"";
    let functions = "SELECT schema_name, function_name, class FROM sluice.functions WHERE database = $1
        ORDER BY schema_name COLLATE \"C\", function_name COLLATE \"C\"";
    Ok(Snapshot {
        database: database.to_owned(),
        key_column: head.get(0),
        key_type: head.get(1),
        map_version: head.get::<_, i64>(2).unsigned_abs(),
        schema_version: head.get::<_, i64>(3).unsigned_abs(),
        shards: rows("read the shards", shards).await?.iter().map(shard_row).collect(),
        slots: rows("read the slots", slots).await?.iter().map(|row| number(row, 0)).collect(),
        overrides: rows("read the overrides", overrides).await?.iter().map(override_row).collect(),
        tables: rows("read the tables", tables).await?.iter().map(table_row).collect(),
        functions: rows("read the functions", functions).await?.iter().map(function_row).collect(),
    })
}

fn shard_row(row: &Row) -> ShardRow {
    ShardRow { node: row.get(0), host: row.get(1), port: number(row, 2), dbname: row.get(3) }
}

fn override_row(row: &Row) -> OverrideRow {
    OverrideRow { key: row.get(0), shard: number(row, 1) }
}

fn table_row(row: &Row) -> TableRow {
    TableRow { schema: row.get(0), name: row.get(1), class: row.get(2), columns: row.get(3) }
}

fn function_row(row: &Row) -> FunctionRow {
    FunctionRow { schema: row.get(0), name: row.get(1), class: row.get(2) }
}

/// Shard and port numbers: the catalog's checks keep them in range. One outside would name no shard, and so make no map.
fn number(row: &Row, column: usize) -> u16 {
    u16::try_from(row.get::<_, i32>(column)).unwrap_or(u16::MAX)
}
