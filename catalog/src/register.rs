//! Changes what is in the catalog. Each call is one transaction: instances see all of it or nothing.

use std::fmt;

use sluice_router::KeyType;
use sluice_router::map::{FunctionClass, Placement, SLOTS, TableClass};
use tokio_postgres::Transaction;

use crate::error::CatalogError;
use crate::snapshot::{function_class_name, key_type_name, table_class_name};
use crate::store::CatalogStore;

/// A table's or a function's full name, unquoted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TableName {
    pub schema: String,
    pub name: String,
}

impl TableName {
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        Self { schema: schema.into(), name: name.into() }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// A change of what the catalog knows of a database's tables and functions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A table that the shards have just made. It replaces what was known by that name: the shards know better.
    CreateTable {
        table: TableName,
        class: TableClass,
        columns: Vec<String>,
    },
    /// Nothing happens if the table is not known.
    DropTable(TableName),
    RenameTable {
        table: TableName,
        to: String,
    },
    /// Columns were added, dropped or renamed: all columns, as a shard has them now.
    SetColumns {
        table: TableName,
        columns: Vec<String>,
    },
    /// The caller has checked that the rows are where the class says, and with [`crate::introspect`] that the table is fit.
    SetClass {
        table: TableName,
        class: TableClass,
    },
    DeclareFunction {
        function: TableName,
        class: FunctionClass,
    },
    /// Nothing happens if the function is not known.
    ForgetFunction(TableName),
}

/// A sharded database to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDatabase {
    pub name: String,
    pub key_column: String,
    pub key_type: KeyType,
    /// In the order of the shards' numbers; the first is the home shard. Placements with one node's name share its address.
    pub shards: Vec<Placement>,
}

impl CatalogStore {
    /// Applies `changes` in order, all or none. Returns the version of the map that has them.
    pub async fn apply(&self, database: &str, changes: &[Change]) -> Result<u64, CatalogError> {
        let work = async {
            let mut client = self.client().await?;
            let transaction = client.transaction().await.map_err(CatalogError::query("start changing the catalog"))?;
            for change in changes {
                apply_change(&transaction, database, change).await?;
            }
            finish(transaction, database).await
        };
        self.deadlines().bound("changing the catalog", work).await
    }

    /// Creates a database without tables, its nodes (unless they are known already) and its shards, and spreads the slots
    /// evenly in ranges. Returns its version.
    pub async fn create_database(&self, new: &NewDatabase) -> Result<u64, CatalogError> {
        let work = async {
            let mut client = self.client().await?;
            let transaction = client.transaction().await.map_err(CatalogError::query("start changing the catalog"))?;
            insert_database(&transaction, new).await?;
            finish(transaction, &new.name).await
        };
        self.deadlines().bound("creating the database in the catalog", work).await
    }
}

async fn finish(transaction: Transaction<'_>, database: &str) -> Result<u64, CatalogError> {
    let sql = "SELECT greatest(map_version, schema_version) FROM sluice.databases WHERE name = $1";
    let row = transaction.query_opt(sql, &[&database]).await.map_err(CatalogError::query("read the new version"))?;
    let row = row.ok_or_else(|| CatalogError::UnknownDatabase(database.to_owned()))?;
    transaction.commit().await.map_err(CatalogError::query("commit the change of the catalog"))?;
    Ok(row.get::<_, i64>(0).unsigned_abs())
}

async fn apply_change(transaction: &Transaction<'_>, database: &str, change: &Change) -> Result<(), CatalogError> {
    match change {
        Change::CreateTable { table, class, columns } => {
            let sql = "INSERT INTO sluice.tables (database, schema_name, table_name, class, columns)
                VALUES ($1, $2, $3, $4, $5)
                ON CONFLICT (database, schema_name, table_name) DO UPDATE SET class = $4, columns = $5";
            let class = table_class_name(*class);
            transaction
                .execute(sql, &[&database, &table.schema, &table.name, &class, columns])
                .await
                .map_err(CatalogError::query("register the table"))?;
            Ok(())
        }
        Change::DropTable(table) => {
            let sql = "DELETE FROM sluice.tables WHERE database = $1 AND schema_name = $2 AND table_name = $3";
            transaction
                .execute(sql, &[&database, &table.schema, &table.name])
                .await
                .map_err(CatalogError::query("drop the table from the catalog"))?;
            Ok(())
        }
        Change::RenameTable { table, to } => set(transaction, database, table, "table_name", to).await,
        Change::SetColumns { table, columns } => set(transaction, database, table, "columns", columns).await,
        Change::SetClass { table, class } => {
            set(transaction, database, table, "class", &table_class_name(*class)).await
        }
        Change::DeclareFunction { function, class } => {
            let sql = "INSERT INTO sluice.functions (database, schema_name, function_name, class)
                VALUES ($1, $2, $3, $4)
                ON CONFLICT (database, schema_name, function_name) DO UPDATE SET class = $4";
            let class = function_class_name(*class);
            transaction
                .execute(sql, &[&database, &function.schema, &function.name, &class])
                .await
                .map_err(CatalogError::query("declare the function"))?;
            Ok(())
        }
        Change::ForgetFunction(function) => {
            let sql = "DELETE FROM sluice.functions WHERE database = $1 AND schema_name = $2 AND function_name = $3";
            transaction
                .execute(sql, &[&database, &function.schema, &function.name])
                .await
                .map_err(CatalogError::query("forget the function"))?;
            Ok(())
        }
    }
}

/// Sets one column of a table's row, which must be there. `column` is one of ours, never a client's text.
async fn set(
    transaction: &Transaction<'_>,
    database: &str,
    table: &TableName,
    column: &str,
    value: &(dyn tokio_postgres::types::ToSql + Sync),
) -> Result<(), CatalogError> {
    let sql =
        format!("UPDATE sluice.tables SET {column} = $4 WHERE database = $1 AND schema_name = $2 AND table_name = $3");
    let changed = transaction
        .execute(&sql, &[&database, &table.schema, &table.name, value])
        .await
        .map_err(CatalogError::query("change the table in the catalog"))?;
    if changed == 0 {
        return Err(CatalogError::UnknownTable(table.to_string()));
    }
    Ok(())
}

async fn insert_database(transaction: &Transaction<'_>, new: &NewDatabase) -> Result<(), CatalogError> {
    let sql = "INSERT INTO sluice.databases (name, key_column, key_type) VALUES ($1, $2, $3)";
    transaction
        .execute(sql, &[&new.name, &new.key_column, &key_type_name(new.key_type)])
        .await
        .map_err(CatalogError::query("create the database in the catalog"))?;
    for (shard, placement) in (0i32..).zip(&new.shards) {
        insert_shard(transaction, &new.name, shard, placement).await?;
    }
    // Without shards there is nothing to spread the slots over, and the check at commit says so.
    let slots = "INSERT INTO sluice.slots (database, slot, shard)
        SELECT $1, slot, slot * $2 / $3 FROM generate_series(0, $3 - 1) AS slot WHERE $2 > 0";
    let shards = i32::try_from(new.shards.len()).unwrap_or(i32::MAX);
    transaction
        .execute(slots, &[&new.name, &shards, &(SLOTS as i32)])
        .await
        .map_err(CatalogError::query("spread the slots"))?;
    Ok(())
}

async fn insert_shard(
    transaction: &Transaction<'_>,
    database: &str,
    shard: i32,
    placement: &Placement,
) -> Result<(), CatalogError> {
    let node = "INSERT INTO sluice.nodes (name, host, port) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING";
    let port = i32::from(placement.port);
    transaction
        .execute(node, &[&placement.node, &placement.host, &port])
        .await
        .map_err(CatalogError::query("register the node"))?;
    // Finds no node where the known one has another address: moving it would move the shards of other databases.
    let sql = "INSERT INTO sluice.shards (database, shard, node, dbname)
        SELECT $1, $2, name, $6 FROM sluice.nodes WHERE name = $3 AND host = $4 AND port = $5";
    let inserted = transaction
        .execute(sql, &[&database, &shard, &placement.node, &placement.host, &port, &placement.dbname])
        .await
        .map_err(CatalogError::query("register the shard"))?;
    if inserted == 0 {
        return Err(CatalogError::NodeElsewhere(placement.node.clone()));
    }
    Ok(())
}
