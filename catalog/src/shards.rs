//! The control plane's own connections to the shards, and what is asked of every shard.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use sluice_router::map::Placement;
use sluice_router::{ShardId, ShardMap};
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinSet;

use crate::connect::{ControlCredentials, Deadlines, shard_config};
use crate::error::CatalogError;
use crate::pool::{ControlPool, PooledClient};

/// Connections to one shard: commands of the control plane are rare, and must not take places from clients.
const POOL_SIZE: u32 = 2;
/// Shards that are asked at once.
const CONCURRENT: usize = 32;

/// A small pool for each shard, made when it is first needed. Cheap to clone: clones share the pools.
#[derive(Debug, Clone)]
pub struct ShardPools {
    credentials: ControlCredentials,
    deadlines: Deadlines,
    pools: Arc<Mutex<HashMap<Placement, ControlPool>>>,
}

impl ShardPools {
    pub fn new(credentials: ControlCredentials, deadlines: Deadlines) -> Self {
        Self { credentials, deadlines, pools: Arc::default() }
    }

    /// A connection to a shard's primary.
    pub async fn get(&self, placement: &Placement) -> Result<PooledClient, CatalogError> {
        self.pool(placement).await.get().await
    }

    /// Forgets the pools of shards that are no longer there.
    pub async fn keep_only(&self, placements: &[Placement]) {
        self.pools.lock().await.retain(|placement, _| placements.contains(placement));
    }

    pub(crate) fn deadlines(&self) -> Deadlines {
        self.deadlines
    }

    async fn pool(&self, placement: &Placement) -> ControlPool {
        let mut pools = self.pools.lock().await;
        let made = pools.entry(placement.clone()).or_insert_with(|| {
            let config = shard_config(placement, &self.credentials, self.deadlines);
            ControlPool::new(config, POOL_SIZE, self.deadlines)
        });
        made.clone()
    }
}

/// Does `work` on every shard at once, each with the deadline of the pools, and gives the answers in the shards' order.
/// One shard's error doesn't keep the others from answering.
pub(crate) async fn on_every_shard<T, Work>(
    map: &ShardMap,
    pools: &ShardPools,
    what: &'static str,
    work: impl Fn(PooledClient) -> Work + Clone + Send + 'static,
) -> Vec<(ShardId, Result<T, CatalogError>)>
where
    T: Send + 'static,
    Work: Future<Output = Result<T, CatalogError>> + Send,
{
    let permits = Arc::new(Semaphore::new(CONCURRENT));
    let mut tasks = JoinSet::new();
    for shard in map.shard_ids() {
        let (pools, placement) = (pools.clone(), map.placement(shard).clone());
        let (permits, work) = (permits.clone(), work.clone());
        tasks.spawn(async move {
            let _permit = permits.acquire_owned().await;
            let deadlines = pools.deadlines();
            let answer = async move {
                let client = pools.get(&placement).await?;
                work(client).await
            };
            (shard, deadlines.bound(what, answer).await)
        });
    }
    let mut answers = tasks.join_all().await;
    answers.sort_by_key(|(shard, _)| *shard);
    answers
}

/// Reads `max_prepared_transactions` of every shard. Where it is 0, a transaction that writes on several shards can't be
/// atomic, and has to be refused.
pub async fn probe_two_phase(map: &ShardMap, pools: &ShardPools) -> Vec<(ShardId, Result<i32, CatalogError>)> {
    on_every_shard(map, pools, "reading max_prepared_transactions", async |client: PooledClient| {
        let sql = "SELECT current_setting('max_prepared_transactions')::integer";
        let row = client.query_one(sql, &[]).await.map_err(CatalogError::query("read max_prepared_transactions"))?;
        Ok(row.get(0))
    })
    .await
}
