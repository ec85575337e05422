//! A small fleet: one cluster that holds the catalog and the shards.

use std::time::Duration;

use sluice_catalog::{CatalogStore, ControlCredentials, Deadlines, NewDatabase, ShardPools};
use sluice_router::map::Placement;
use sluice_router::{KeyType, ShardMap};
use sluice_test_harness::Cluster;
use tokio_postgres::{Client, NoTls};

pub const CATALOG: &str = "sluice_catalog";
pub const DATABASE: &str = "epfo";

pub struct Fleet {
    pub cluster: Cluster,
    pub store: CatalogStore,
}

impl Fleet {
    /// A catalog that is migrated and empty.
    pub async fn empty() -> Self {
        Self::empty_on(Cluster::start()).await
    }

    pub async fn empty_on(cluster: Cluster) -> Self {
        cluster.create_database(CATALOG);
        let store = CatalogStore::new(&cluster.conninfo(CATALOG), short_deadlines()).expect("store");
        let fleet = Self { cluster, store };
        let mut client = fleet.connect(CATALOG).await;
        sluice_migrations::migrate_catalog(&mut client).await.expect("migrate the catalog");
        fleet
    }

    /// With database `epfo` of `shards` shards in the catalog only: there are no shard databases.
    pub async fn of(shards: u16) -> Self {
        let fleet = Self::empty().await;
        fleet.store.create_database(&fleet.database(shards)).await.expect("create the database");
        fleet
    }

    /// With shard databases that are migrated.
    pub async fn with_shards(shards: u16) -> Self {
        Self::with_shards_on(Cluster::start(), shards).await
    }

    pub async fn with_shards_on(cluster: Cluster, shards: u16) -> Self {
        let fleet = Self::empty_on(cluster).await;
        let new = fleet.database(shards);
        for shard in &new.shards {
            fleet.cluster.create_database(&shard.dbname);
            let mut client = fleet.connect(&shard.dbname).await;
            sluice_migrations::migrate_shard(&mut client).await.expect("migrate a shard");
        }
        fleet.store.create_database(&new).await.expect("create the database");
        fleet
    }

    pub fn database(&self, shards: u16) -> NewDatabase {
        let placement = |shard: u16| Placement {
            node: "n1".into(),
            host: self.cluster.socket_dir().display().to_string(),
            port: self.cluster.port(),
            dbname: format!("epfo_{shard:02}"),
        };
        NewDatabase {
            name: DATABASE.into(),
            key_column: "organization_id".into(),
            key_type: KeyType::Int,
            shards: (0..shards).map(placement).collect(),
        }
    }

    pub async fn map(&self) -> ShardMap {
        self.store.load(DATABASE).await.expect("load")
    }

    pub fn pools(&self) -> ShardPools {
        let credentials =
            ControlCredentials::from_connection_string(&self.cluster.conninfo(CATALOG)).expect("credentials");
        ShardPools::new(credentials, short_deadlines())
    }

    pub async fn connect(&self, database: &str) -> Client {
        let (client, connection) =
            tokio_postgres::connect(&self.cluster.conninfo(database), NoTls).await.expect("connect");
        tokio::spawn(connection);
        client
    }

    /// Runs SQL in the catalog, as an operator would.
    pub fn sql(&self, sql: &str) -> String {
        self.cluster.psql(CATALOG, sql)
    }
}

/// Longer than anything takes on a busy machine, shorter than a test's patience.
fn short_deadlines() -> Deadlines {
    Deadlines { connect: Duration::from_secs(3), statement: Duration::from_secs(3) }
}
