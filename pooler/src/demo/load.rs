//! Fills a new fleet: roles, databases, migrations, the sample's tables and rows, and a check of what has arrived.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, TryStreamExt, stream};
use sluice_router::{Key, ShardMap};
use tokio_postgres::{Client, CopyInSink};

use super::DemoError;
use super::directory::State;
use super::fleet::Fleet;
use super::progress::{Progress, grouped};
use super::sample::{MONTHS, Organization, Table, Totals, organizations, rows};
use super::sharding;

/// The application's role: owner of the databases, and of the tables in them.
pub const APP: &str = "epfo_app";
/// An ordinary database beside the sharded one.
pub const PLAIN: &str = "plain";
pub const CATALOG: &str = "sluice_catalog";
pub const SHARDS: u16 = 16;

/// COPY data is sent in pieces of about this many bytes.
const PIECE: usize = 64 * 1024;

/// The name of a shard's database: `epfo_07`.
pub fn shard_database(shard: u16) -> String {
    format!("epfo_{shard:02}")
}

/// What was loaded, for the banner.
#[derive(Debug)]
pub struct Summary {
    pub totals: Totals,
    pub largest: Organization,
}

impl Summary {
    /// The sample is computed, so a kept fleet needn't be asked what is in it.
    pub fn of_scale(scale: f64) -> Self {
        let organizations = organizations(scale);
        let mut totals = Totals::default();
        let mut largest = Organization { id: 0, members: 0, claims: 0 };
        for organization in organizations {
            totals.add(&planned(&organization));
            if organization.members > largest.members {
                largest = organization;
            }
        }
        Self { totals, largest }
    }
}

/// Row counts only: the sums come with the rows.
fn planned(organization: &Organization) -> Totals {
    Totals {
        organizations: 1,
        members: organization.members,
        contributions: organization.members * MONTHS,
        claims: organization.claims,
        ..Totals::default()
    }
}

/// From an empty cluster to verified data in all shards.
pub async fn fill(fleet: &Fleet, state: &State, progress: &Progress) -> Result<(), DemoError> {
    create_databases(fleet, state).await?;
    progress.note(&format!("created {SHARDS} shard databases, the catalog, and database \"{PLAIN}\""));
    let map = sharding::register(fleet).await?;
    progress.note(&format!("registered {SHARDS} shards and their tables in the catalog"));
    let totals = load_sample(fleet, &map, state.scale, progress).await?;
    let largest = Summary::of_scale(state.scale).largest;
    progress.note(&format!(
        "loaded {} contributions of {} members in {SHARDS} shards (largest organization: number {} with {} members); counts and sums verified",
        grouped(totals.contributions),
        grouped(totals.members),
        largest.id,
        grouped(largest.members),
    ));
    Ok(())
}

/// The first shard is made, and the others are copies of it.
async fn create_databases(fleet: &Fleet, state: &State) -> Result<(), DemoError> {
    let server = fleet.connect("postgres").await?;
    let password = &state.app_password;
    execute(&server, &format!("CREATE ROLE {APP} LOGIN PASSWORD '{password}'")).await?;
    execute(&server, &format!("CREATE DATABASE {CATALOG}")).await?;
    execute(&server, &format!("CREATE DATABASE {PLAIN} OWNER {APP}")).await?;
    let first = shard_database(0);
    execute(&server, &format!("CREATE DATABASE {first} OWNER {APP}")).await?;
    {
        // A template must have no other connection; PostgreSQL waits for this one to go.
        let mut shard = fleet.connect(&first).await?;
        sharding::prepare_shard(&mut shard).await?;
        execute(&shard, &format!("SET ROLE {APP}; {}", include_str!("schema.sql"))).await?;
    }
    in_parallel(1..SHARDS, async |shard| {
        let server = fleet.connect("postgres").await?;
        let name = shard_database(shard);
        execute(&server, &format!("CREATE DATABASE {name} OWNER {APP} TEMPLATE {first} STRATEGY wal_log")).await
    })
    .await
    .map(drop)
}

/// Loads all shards, and compares each with what was sent to it.
async fn load_sample(fleet: &Fleet, map: &ShardMap, scale: f64, progress: &Progress) -> Result<Totals, DemoError> {
    let mut by_shard: Vec<Vec<Organization>> = vec![Vec::new(); map.shards().len()];
    for organization in organizations(scale) {
        by_shard[map.shard_of(&Key::Int(organization.id as i64)).index()].push(organization);
    }
    let counter = Counter { expected: Summary::of_scale(scale).totals.rows(), sent: AtomicU64::new(0), progress };
    let shards = map.shards().iter().map(|placement| placement.dbname.clone()).zip(by_shard);
    let loaded = in_parallel(shards, async |(database, organizations)| {
        let mut shard = fleet.connect(&database).await?;
        let sent = copy_all(&mut shard, &organizations, &counter).await?;
        verify(&shard, &database, sent).await?;
        sharding::verify_slots(&shard, &database).await?;
        Ok(sent)
    })
    .await?;
    let mut totals = Totals::default();
    loaded.iter().for_each(|shard| totals.add(shard));
    Ok(totals)
}

/// Rows sent by all shards' loaders together.
struct Counter<'a> {
    expected: u64,
    sent: AtomicU64,
    progress: &'a Progress,
}

impl Counter<'_> {
    fn add(&self, rows: u64) {
        let sent = self.sent.fetch_add(rows, Ordering::Relaxed) + rows;
        self.progress.update(&format!("loading: {} of {} rows", grouped(sent), grouped(self.expected)));
    }
}

/// All of a shard's tables, in one transaction.
async fn copy_all(
    shard: &mut Client,
    organizations: &[Organization],
    counter: &Counter<'_>,
) -> Result<Totals, DemoError> {
    let failed = || DemoError::postgres("cannot load the sample data");
    let mut totals = Totals::default();
    let transaction = shard.transaction().await.map_err(failed())?;
    for table in Table::ALL {
        let copy = format!("COPY {} ({}) FROM STDIN", table.name(), table.columns());
        let sink = transaction.copy_in(&copy).await.map_err(failed())?;
        copy_table(sink, table, organizations, &mut totals, counter).await.map_err(failed())?;
    }
    transaction.commit().await.map_err(failed())?;
    // Without it, the first plans would be made for empty tables, until autovacuum comes by.
    shard
        .batch_execute("VACUUM (ANALYZE) organizations, members, contributions, claims, states")
        .await
        .map_err(failed())?;
    Ok(totals)
}

async fn copy_table(
    sink: CopyInSink<Bytes>,
    table: Table,
    organizations: &[Organization],
    totals: &mut Totals,
    counter: &Counter<'_>,
) -> Result<(), tokio_postgres::Error> {
    let mut sink = std::pin::pin!(sink);
    let mut piece = String::with_capacity(PIECE + PIECE / 8);
    let mut counted = totals.rows();
    for organization in organizations {
        for member in 1..=organization.members {
            rows(table, organization, member, &mut piece, totals);
            if piece.len() >= PIECE {
                sink.send(Bytes::from(std::mem::take(&mut piece))).await?;
                counter.add(totals.rows() - counted);
                counted = totals.rows();
            }
        }
    }
    sink.send(Bytes::from(piece)).await?;
    counter.add(totals.rows() - counted);
    sink.finish().await.map(drop)
}

/// Compares what a shard holds with what was sent.
async fn verify(shard: &Client, database: &str, sent: Totals) -> Result<(), DemoError> {
    const FOUND: &str = "SELECT (SELECT count(*) FROM organizations), (SELECT count(*) FROM members), \
         (SELECT count(*) FROM contributions), (SELECT count(*) FROM claims), \
         (SELECT coalesce(sum(employee_share) * 100, 0)::bigint FROM contributions), \
         (SELECT coalesce(sum(amount) * 100, 0)::bigint FROM claims)";
    let row = shard.query_one(FOUND, &[]).await.map_err(DemoError::postgres("cannot verify the sample data"))?;
    let figure = |column: usize| row.get::<_, i64>(column) as u64;
    let found = Totals {
        organizations: figure(0),
        members: figure(1),
        contributions: figure(2),
        claims: figure(3),
        employee_share: figure(4),
        claimed: figure(5),
    };
    if found == sent {
        return Ok(());
    }
    Err(DemoError::Verify(format!("{database} was sent {sent:?} and holds {found:?}")))
}

/// Runs one piece of work per item, a few at a time: as many as there are processors.
async fn in_parallel<I: IntoIterator, T>(
    items: I,
    work: impl AsyncFn(I::Item) -> Result<T, DemoError>,
) -> Result<Vec<T>, DemoError> {
    let width = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8);
    stream::iter(items).map(|item| work(item)).buffer_unordered(width).try_collect().await
}

async fn execute(client: &Client, sql: &str) -> Result<(), DemoError> {
    let first_words = || sql.split_whitespace().take(3).collect::<Vec<_>>().join(" ");
    client.batch_execute(sql).await.map_err(|source| DemoError::Postgres { what: first_words(), source })
}
