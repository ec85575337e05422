//! Shards, the catalog, and the truth: a database that holds in one PostgreSQL what the shards hold together.

use sluice_catalog::{CatalogStore, Change, Deadlines, NewDatabase, TableName};
use sluice_router::map::{Placement, TableClass};
use sluice_router::{KeyType, ShardMap};
use sluice_test_harness::Cluster;

use super::client::{Answer, Client, socket_path};
use super::sluice::Sluice;

pub const CATALOG: &str = "catalog";
pub const TRUTH: &str = "truth";
/// The sharded database, for clients and in the catalog.
pub const DATABASE: &str = "epfo";
const KEY_COLUMN: &str = "organization_id";
const TEMPLATE: &str = "shard_template";

/// What is in every shard, and in the truth.
const TABLES: &str = "
    CREATE TABLE members (organization_id bigint, id bigint, name text, wages numeric, PRIMARY KEY (organization_id, id));
    CREATE TABLE claims (organization_id bigint, id bigint, member_id bigint, amount numeric, PRIMARY KEY (organization_id, id));
    CREATE TABLE accounts (organization_id bigint PRIMARY KEY, balance bigint NOT NULL CHECK (balance >= 0));
    CREATE TABLE states (code text PRIMARY KEY, title text);
    CREATE TABLE settings (name text PRIMARY KEY, value text);
    INSERT INTO states VALUES ('KA', 'Karnataka'), ('TN', 'Tamil Nadu'), ('DL', 'Delhi');
";
const CLASSES: &[(&str, TableClass)] = &[
    ("members", TableClass::Sharded),
    ("claims", TableClass::Sharded),
    ("accounts", TableClass::Sharded),
    ("states", TableClass::Reference),
    ("settings", TableClass::Home),
];

/// Organizations with rows; each has `ROWS` members and as many claims.
pub const ORGANIZATIONS: i64 = 12;
const ROWS: i64 = 5;

/// How a fleet differs from the usual one.
#[derive(Clone, Copy)]
pub struct Plan {
    pub shards: u16,
    pub key_type: KeyType,
    /// Lines of postgresql.conf.
    pub settings: &'static [(&'static str, &'static str)],
    /// Beside those above.
    pub tables: &'static str,
    pub classes: &'static [(&'static str, TableClass)],
    /// Only these: the usual ones have keys of another type.
    pub own_tables: bool,
    /// The last shard is on a cluster of its own.
    pub two_nodes: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            shards: 4,
            key_type: KeyType::Int,
            settings: &[],
            tables: "",
            classes: &[],
            own_tables: false,
            two_nodes: false,
        }
    }
}

impl Plan {
    fn ddl(&self) -> String {
        format!("{}{}", if self.own_tables { "" } else { TABLES }, self.tables)
    }
}

pub struct Fleet {
    pub cluster: Cluster,
    /// Where the last shard is, if it is elsewhere.
    pub other: Option<Cluster>,
    pub map: ShardMap,
}

impl Fleet {
    pub fn start() -> Self {
        Self::start_as(Plan::default())
    }

    /// Fresh clusters with empty sharded tables.
    pub fn start_as(plan: Plan) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let cluster = Cluster::start_with(plan.settings);
        let other = plan.two_nodes.then(|| Cluster::start_with(plan.settings));
        for name in [CATALOG, TRUTH] {
            cluster.create_database(name);
        }
        cluster.psql(TRUTH, &plan.ddl());
        make_shards(&runtime, &cluster, plan, 0..plan.shards - u16::from(plan.two_nodes));
        if let Some(other) = &other {
            make_shards(&runtime, other, plan, plan.shards - 1..plan.shards);
        }
        let map = runtime.block_on(register(&cluster, other.as_ref(), plan));
        Self { cluster, other, map }
    }

    /// Fills shards and truth with the same rows, not through Sluice.
    pub fn filled(self) -> Self {
        let insert = |organization: i64| {
            format!(
                "INSERT INTO members SELECT {organization}, i, 'member ' || i % 3, i * 10.5 + {organization} FROM generate_series(1, {ROWS}) i;
                 INSERT INTO claims SELECT {organization}, i, i % 4, i * {organization} FROM generate_series(1, {ROWS}) i;
                 INSERT INTO accounts VALUES ({organization}, 1000);"
            )
        };
        let mut shards = vec![String::new(); self.map.shards().len()];
        let mut truth = String::new();
        for organization in 1..=ORGANIZATIONS {
            shards[self.shard_of(organization)] += &insert(organization);
            truth += &insert(organization);
        }
        self.cluster.psql(TRUTH, &truth);
        for (shard, sql) in shards.iter().enumerate() {
            self.on_shard(shard, sql);
        }
        self
    }

    /// An instance in front of this fleet.
    pub fn sluice(&self) -> Sluice {
        self.sluice_with("")
    }

    pub fn sluice_with(&self, settings: &str) -> Sluice {
        Sluice::start(&format!("{DATABASE} = catalog='{}'", self.cluster.conninfo(CATALOG)), settings)
    }

    /// A direct connection to the truth.
    pub fn truth(&self) -> Client {
        self.direct(TRUTH)
    }

    pub fn direct(&self, database: &str) -> Client {
        Client::connect(&socket_path(self.cluster.socket_dir(), self.cluster.port()), database)
    }

    pub fn shard_of(&self, organization: i64) -> usize {
        self.map.shard_of(&sluice_router::Key::Int(organization)).index()
    }

    /// The first `count` organizations that are all on different shards.
    pub fn spread(&self, count: usize) -> Vec<i64> {
        let mut shards = Vec::new();
        let fresh = |organization: &i64| {
            let shard = self.shard_of(*organization);
            let new = !shards.contains(&shard);
            shards.push(shard);
            new
        };
        let found: Vec<i64> = (1..=ORGANIZATIONS).filter(fresh).take(count).collect();
        assert_eq!(found.len(), count, "there are organizations on {count} shards");
        found
    }

    /// Two organizations of one shard.
    pub fn neighbours(&self) -> (i64, i64) {
        let pairs = (1..=ORGANIZATIONS).flat_map(|a| (a + 1..=ORGANIZATIONS).map(move |b| (a, b)));
        pairs.into_iter().find(|&(a, b)| self.shard_of(a) == self.shard_of(b)).expect("more organizations than shards")
    }

    /// Runs SQL directly on a shard.
    pub fn on_shard(&self, shard: usize, sql: &str) -> String {
        let last = shard + 1 == self.map.shards().len();
        let cluster = self.other.as_ref().filter(|_| last).unwrap_or(&self.cluster);
        cluster.psql(&shard_name(shard as u16), sql)
    }

    /// Runs SQL directly on all shards.
    pub fn on_all(&self, sql: &str) -> Vec<String> {
        (0..self.map.shards().len()).map(|shard| self.on_shard(shard, sql)).collect()
    }

    pub fn on_catalog(&self, sql: &str) -> String {
        self.cluster.psql(CATALOG, sql)
    }

    /// Backends of shards that serve clients (not the control plane's own).
    pub fn backends(&self) -> usize {
        let sql =
            "SELECT count(*) FROM pg_stat_activity WHERE datname LIKE 'epfo%' AND application_name NOT LIKE 'sluice%'";
        self.cluster.psql("postgres", sql).parse().expect("a number")
    }

    /// What the first cluster's server has logged.
    pub fn server_log(&self) -> String {
        std::fs::read_to_string(self.cluster.socket_dir().join("log")).unwrap_or_default()
    }

    pub fn prepared_transactions(&self) -> usize {
        let count = |cluster: &Cluster| {
            let count = cluster.psql("postgres", "SELECT count(*) FROM pg_prepared_xacts");
            count.parse::<usize>().expect("a number")
        };
        count(&self.cluster) + self.other.as_ref().map_or(0, count)
    }
}

pub fn shard_name(shard: u16) -> String {
    format!("epfo_{shard:02}")
}

/// Rows in any order.
pub fn sorted(answer: Answer) -> Answer {
    let mut answer = answer;
    answer.rows.sort();
    answer
}

fn make_shards(runtime: &tokio::runtime::Runtime, cluster: &Cluster, plan: Plan, shards: std::ops::Range<u16>) {
    cluster.create_database(TEMPLATE);
    cluster.psql(TEMPLATE, &plan.ddl());
    runtime.block_on(async {
        let mut client = connect(cluster, TEMPLATE).await;
        sluice_migrations::migrate_shard(&mut client).await.expect("migrate a shard");
    });
    let copy = |shard| format!("CREATE DATABASE {} TEMPLATE {TEMPLATE};", shard_name(shard));
    // The migration's connection may need a moment to be gone.
    super::wait_until("the template is free", || {
        let sessions = format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{TEMPLATE}'");
        cluster.psql("postgres", &sessions) == "0"
    });
    for shard in shards {
        cluster.psql("postgres", &copy(shard));
    }
}

async fn register(cluster: &Cluster, other: Option<&Cluster>, plan: Plan) -> ShardMap {
    let mut client = connect(cluster, CATALOG).await;
    sluice_migrations::migrate_catalog(&mut client).await.expect("migrate the catalog");
    let store = CatalogStore::new(&cluster.conninfo(CATALOG), Deadlines::default()).expect("a store");
    let placement = |shard: u16| {
        let (node, cluster) = match other {
            Some(other) if shard + 1 == plan.shards => ("other", other),
            _ => ("one", cluster),
        };
        let host = cluster.socket_dir().display().to_string();
        Placement { node: node.into(), host, port: cluster.port(), dbname: shard_name(shard) }
    };
    let new = NewDatabase {
        name: DATABASE.into(),
        key_column: KEY_COLUMN.into(),
        key_type: plan.key_type,
        shards: (0..plan.shards).map(placement).collect(),
    };
    store.create_database(&new).await.expect("create the database");
    let shard = connect(cluster, &shard_name(0)).await;
    let mut changes = Vec::new();
    let usual = if plan.own_tables { &[] } else { CLASSES };
    for &(name, class) in usual.iter().chain(plan.classes) {
        let table = TableName::new("public", name);
        let columns = sluice_catalog::introspect::columns(&shard, &table).await.expect("columns").expect("the table");
        changes.push(Change::CreateTable { table, class, columns });
    }
    store.apply(DATABASE, &changes).await.expect("register the tables");
    store.load(DATABASE).await.expect("load the map")
}

async fn connect(cluster: &Cluster, database: &str) -> tokio_postgres::Client {
    let (client, connection) =
        tokio_postgres::connect(&cluster.conninfo(database), tokio_postgres::NoTls).await.expect("connect");
    tokio::spawn(connection);
    client
}
