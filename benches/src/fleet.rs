//! The PostgreSQL behind the poolers: one plain database, 16 shards that hold the same rows between them, and the catalog.
//!
//! The catalog lists four sharded databases: the real shards and the canned backend's, each by unix socket and by TCP. All
//! four have one name a pair of [`Backend`] and [`Transport`], made by [`database_name`].

use std::net::{Ipv4Addr, TcpListener};

use sluice_catalog::{CatalogStore, Change, Deadlines, NewDatabase, TableName};
use sluice_migrations::{migrate_catalog, migrate_shard};
use sluice_router::map::{Placement, TableClass};
use sluice_router::{KeyType, ShardMap};
use sluice_test_harness::Cluster;

use crate::error::{BenchError, Result};

/// Keys run from 1 to this; pgbench's own scale 1.
pub const KEYS: u32 = 100_000;
/// The role of the clients, and of the servers that the poolers open.
pub const USER: &str = "postgres";
/// The role of Sluice's control plane: the canned backend tells it from the clients' by this name.
pub const CONTROL_USER: &str = "sluice_control";
/// The plain database on the real server.
const PLAIN: &str = "bench";
const CATALOG: &str = "bench_catalog";
const SHARDS: u16 = 16;
const TABLE: &str = "pgbench_accounts";

/// Both hops of a run: client to pooler, and pooler to server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    Unix,
    Tcp,
}

impl Transport {
    pub const ALL: [Self; 2] = [Self::Unix, Self::Tcp];

    pub fn name(self) -> &'static str {
        match self {
            Self::Unix => "unix",
            Self::Tcp => "tcp",
        }
    }
}

/// What answers the queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Backend {
    Canned,
    PostgreSql,
}

impl Backend {
    pub fn name(self) -> &'static str {
        match self {
            Self::Canned => "canned",
            Self::PostgreSql => "postgresql",
        }
    }
}

/// Where a server listens: a socket folder or an address, and a port that serves both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub socket_dir: String,
    pub port: u16,
}

impl Address {
    pub fn host(&self, transport: Transport) -> &str {
        match transport {
            Transport::Unix => &self.socket_dir,
            Transport::Tcp => "127.0.0.1",
        }
    }
}

/// A sharded database in the catalog.
pub fn database_name(backend: Backend, transport: Transport) -> String {
    format!("{}_{}", backend.name(), transport.name())
}

/// A port that nobody listens on now.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(BenchError::io("cannot find a free port"))?;
    listener.local_addr().map(|address| address.port()).map_err(BenchError::io("cannot find a free port"))
}

/// A running fleet. It is gone when dropped.
#[derive(Debug)]
pub struct Fleet {
    cluster: Cluster,
}

impl Fleet {
    /// A cluster with all databases and rows. `canned` is where the canned backend listens.
    pub async fn start(canned: &Address) -> Result<Self> {
        let port = free_port()?.to_string();
        let settings = [("listen_addresses", "127.0.0.1"), ("port", &port), ("max_connections", "900"), ("jit", "off")];
        let fleet = Self { cluster: Cluster::start_with(&settings) };
        fleet.cluster.psql("postgres", &format!("CREATE ROLE {CONTROL_USER} SUPERUSER LOGIN"));
        fleet.cluster.create_database(PLAIN);
        fleet.load(PLAIN, "true");
        fleet.register(canned).await?;
        fleet.cluster.psql("postgres", "CHECKPOINT");
        Ok(fleet)
    }

    pub fn address(&self) -> Address {
        Address { socket_dir: self.cluster.socket_dir().display().to_string(), port: self.cluster.port() }
    }

    pub fn plain_database(&self) -> &'static str {
        PLAIN
    }

    pub fn version(&self) -> String {
        self.cluster.psql("postgres", "SHOW server_version")
    }

    /// The catalog, as an entry of `[databases]` names it.
    pub fn catalog_url(&self) -> String {
        format!("postgres://{CONTROL_USER}@127.0.0.1:{}/{CATALOG}", self.cluster.port())
    }

    /// Creates the table, with those keys of `1..=KEYS` that `condition` picks.
    fn load(&self, database: &str, condition: &str) {
        let sql = format!(
            "CREATE TABLE {TABLE} (organization_id bigint PRIMARY KEY, abalance int NOT NULL);
             INSERT INTO {TABLE} SELECT key, 0 FROM generate_series(1, {KEYS}) AS key WHERE {condition};
             VACUUM ANALYZE {TABLE}"
        );
        // One by one: VACUUM can't run in the transaction that several statements in one text make.
        for statement in sql.split(';') {
            self.cluster.psql(database, statement);
        }
    }

    /// Makes the catalog, and the shards where its map says that they are.
    async fn register(&self, canned: &Address) -> Result<()> {
        self.cluster.create_database(CATALOG);
        migrate_catalog(&mut self.connect(CATALOG).await?).await.map_err(failed("cannot migrate the catalog"))?;
        let store = CatalogStore::new(&self.catalog_url(), Deadlines::default()).map_err(failed("catalog"))?;
        let own = self.address();
        let mut map = None;
        for (backend, address) in [(Backend::Canned, canned), (Backend::PostgreSql, &own)] {
            for transport in Transport::ALL {
                map = Some(register_database(&store, backend, transport, address).await?);
            }
        }
        match map {
            Some(map) => self.fill_shards(&map).await,
            None => Ok(()),
        }
    }

    async fn fill_shards(&self, map: &ShardMap) -> Result<()> {
        for shard in map.shard_ids() {
            let database = &map.placement(shard).dbname;
            self.cluster.create_database(database);
            migrate_shard(&mut self.connect(database).await?).await.map_err(failed("cannot migrate a shard"))?;
            let slots = map.slots().iter().enumerate().filter(|(_, owner)| **owner == shard);
            let slots: Vec<String> = slots.map(|(slot, _)| slot.to_string()).collect();
            self.load(database, &format!("sluice.slot(key::bigint) = ANY ('{{{}}}'::int[])", slots.join(",")));
        }
        Ok(())
    }

    async fn connect(&self, database: &str) -> Result<tokio_postgres::Client> {
        let connected = tokio_postgres::connect(&self.cluster.conninfo(database), tokio_postgres::NoTls).await;
        let (client, connection) = connected.map_err(failed("cannot connect to the fleet"))?;
        // An error of the connection reaches whoever uses the client.
        tokio::spawn(connection);
        Ok(client)
    }
}

async fn register_database(
    store: &CatalogStore,
    backend: Backend,
    transport: Transport,
    address: &Address,
) -> Result<ShardMap> {
    let name = database_name(backend, transport);
    let placement = |shard| Placement {
        node: name.clone(),
        host: address.host(transport).to_owned(),
        port: address.port,
        dbname: format!("bench_{shard:02}"),
    };
    let new = NewDatabase {
        name: name.clone(),
        key_column: "organization_id".to_owned(),
        key_type: KeyType::Int,
        shards: (0..SHARDS).map(placement).collect(),
    };
    let columns = ["organization_id", "abalance"].map(str::to_owned).to_vec();
    let table = TableName::new("public", TABLE);
    let change = Change::CreateTable { table, class: TableClass::Sharded, columns };
    store.create_database(&new).await.map_err(failed("cannot create a sharded database"))?;
    store.apply(&name, &[change]).await.map_err(failed("cannot register the table"))?;
    store.load(&name).await.map_err(failed("cannot load the shard map"))
}

fn failed<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> BenchError {
    move |error| BenchError::failed(format!("{what}: {error}"))
}
