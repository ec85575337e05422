//! The sharded databases of this process: for each, the catalog that its shard map comes from, the watch that keeps the map
//! fresh, and the task that finishes what a broken two-phase commit left behind.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use sluice_catalog::introspect::columns;
use sluice_catalog::recovery::{RecoveryOptions, RecoveryTask};
use sluice_catalog::{
    CatalogError, CatalogStore, Change, ControlCredentials, Deadlines, ShardPools, TableName, WatchOptions, Watcher,
    probe_two_phase,
};
use sluice_router::Schema;
use sluice_router::map::Table;
use sluice_router::template::SchemaChange;

/// One sharded database.
pub struct ShardedDatabase {
    /// Its name in the catalog.
    pub name: String,
    pub store: CatalogStore,
    pub watcher: Watcher,
    pub shards: ShardPools,
    pub recovery: RecoveryTask,
}

impl ShardedDatabase {
    /// Connects to the catalog (or falls back to the copy on disk) and starts watch and recovery.
    pub async fn start(name: &str, catalog: &str, state_dir: Option<PathBuf>) -> Result<Self, CatalogError> {
        let deadlines = Deadlines::default();
        let store = CatalogStore::new(catalog, deadlines)?;
        let shards = ShardPools::new(ControlCredentials::from_connection_string(catalog)?, deadlines);
        let options = WatchOptions { state_dir, ..WatchOptions::new(name) };
        let watcher = Watcher::start(store.clone(), options).await?;
        let recovery = RecoveryTask::start(watcher.subscribe(), shards.clone(), RecoveryOptions::default());
        let database = Self { name: name.to_owned(), store, watcher, shards, recovery };
        database.report_two_phase().await;
        Ok(database)
    }

    async fn report_two_phase(&self) {
        for (shard, setting) in probe_two_phase(&self.watcher.map(), &self.shards).await {
            match setting {
                Ok(0) => tracing::warn!(
                    "max_prepared_transactions is 0 on shard {shard} of database \"{}\": transactions that write on several shards will fail there",
                    self.name
                ),
                Ok(_) => {}
                Err(error) => tracing::warn!("shard {shard} of database \"{}\": {error}", self.name),
            }
        }
    }

    /// Notes in the catalog what DDL has changed on the shards, and waits until this instance knows it too.
    pub async fn apply(&self, changes: &[SchemaChange]) -> Result<(), CatalogError> {
        let mut resolved = Vec::new();
        for change in changes {
            resolved.extend(self.resolve(change).await?);
        }
        self.store.apply(&self.name, &resolved).await?;
        self.watcher.refresh().await?;
        Ok(())
    }

    /// Columns are read from the home shard: it knows better than the statement's text.
    async fn resolve(&self, change: &SchemaChange) -> Result<Option<Change>, CatalogError> {
        Ok(match change {
            SchemaChange::Create { schema, name, class, .. } => {
                let (table, class) = (full_name(schema.as_deref(), name), *class);
                self.columns(&table).await?.map(|columns| Change::CreateTable { table, class, columns })
            }
            SchemaChange::Alter { schema, name } => {
                let table = full_name(schema.as_deref(), name);
                self.columns(&table).await?.map(|columns| Change::SetColumns { table, columns })
            }
            SchemaChange::Drop { schema, name } => Some(Change::DropTable(full_name(schema.as_deref(), name))),
            SchemaChange::Rename { schema, name, to } => {
                Some(Change::RenameTable { table: full_name(schema.as_deref(), name), to: to.to_string() })
            }
        })
    }

    /// A table's columns as the home shard has them; `None` if it isn't there.
    pub async fn columns(&self, table: &TableName) -> Result<Option<Vec<String>>, CatalogError> {
        let map = self.watcher.map();
        let client = self.shards.get(map.placement(map.home())).await?;
        columns(&client, table).await
    }
}

fn full_name(schema: Option<&str>, name: &str) -> TableName {
    TableName::new(schema.unwrap_or("public"), name)
}

/// By the name of the entry in `[databases]`.
#[derive(Default)]
pub struct Catalogs {
    databases: RwLock<HashMap<String, Arc<ShardedDatabase>>>,
}

impl Catalogs {
    pub fn get(&self, database: &str) -> Option<Arc<ShardedDatabase>> {
        self.databases.read().unwrap_or_else(PoisonError::into_inner).get(database).cloned()
    }

    pub fn insert(&self, entry: &str, database: ShardedDatabase) {
        self.databases.write().unwrap_or_else(PoisonError::into_inner).insert(entry.to_owned(), Arc::new(database));
    }

    pub fn remove(&self, entry: &str) {
        self.databases.write().unwrap_or_else(PoisonError::into_inner).remove(entry);
    }

    pub fn all(&self) -> Vec<(String, Arc<ShardedDatabase>)> {
        let databases = self.databases.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = databases.iter().map(|(name, database)| (name.clone(), database.clone())).collect();
        all.sort_by(|left, right| left.0.cmp(&right.0));
        all
    }

    /// See [`ShardedDatabase::apply`].
    pub async fn apply(&self, database: &str, changes: &[SchemaChange]) -> Result<(), CatalogError> {
        match self.get(database) {
            Some(database) => database.apply(changes).await,
            None => Ok(()),
        }
    }
}

/// `schema` as a transaction's own DDL has made it. Its version is like no other's, so that templates analysed against it
/// serve nobody else.
pub fn with_changes(schema: &Schema, changes: &[SchemaChange]) -> Schema {
    let mut changed = schema.clone();
    changed.version = rand::random();
    let Some(sharding) = &mut changed.sharding else { return changed };
    let key =
        |schema: &Option<Box<str>>, name: &str| (schema.as_deref().unwrap_or("public").to_owned(), name.to_owned());
    for change in changes {
        match change {
            SchemaChange::Create { schema, name, columns, class, if_not_exists } => {
                let key = key(schema, name);
                let exists = sharding.tables.get(&key).is_some_and(|table| !table.is_declared());
                if !(*if_not_exists && exists) {
                    sharding.tables.insert(key, Table { class: *class, columns: columns.clone() });
                }
            }
            SchemaChange::Drop { schema, name } => {
                sharding.tables.remove(&key(schema, name));
            }
            // The new columns are read after the commit; until then an INSERT has to name its columns.
            SchemaChange::Alter { schema, name } => {
                if let Some(table) = sharding.tables.get_mut(&key(schema, name)) {
                    let key_column = sharding.key_column.clone();
                    table.columns = table.columns.iter().filter(|column| ***column == *key_column).cloned().collect();
                }
            }
            SchemaChange::Rename { schema, name, to } => {
                if let Some(table) = sharding.tables.remove(&key(schema, name)) {
                    sharding.tables.insert(key(schema, to), table);
                }
            }
        }
    }
    changed
}
