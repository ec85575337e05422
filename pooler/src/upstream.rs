//! What stands behind one entry of `[databases]` for one server-side user: a pool for each shard, and the shard map that
//! says which. An unsharded database is one with a single shard and nothing to know about its tables.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sluice_router::map::Placement;
use sluice_router::{KeyType, Schema, ShardId, ShardMap};
use tokio::sync::watch;

use crate::config::PoolMode;
use crate::pool::Pool;
use crate::quota::Quota;

/// Pools and map of one (entry, user).
pub struct Upstream {
    pub database: Arc<str>,
    pub user: Arc<str>,
    pub mode: PoolMode,
    /// In the order of shard numbers.
    pools: Box<[Arc<Pool>]>,
    maps: watch::Receiver<Arc<ShardMap>>,
    /// How much its clients may do.
    pub quota: Quota,
    /// An unsharded database's map never changes.
    fixed: Option<Arc<ShardMap>>,
}

impl Upstream {
    pub fn new(
        (database, user): (Arc<str>, Arc<str>),
        mode: PoolMode,
        pools: Box<[Arc<Pool>]>,
        maps: watch::Receiver<Arc<ShardMap>>,
        quota: Quota,
    ) -> Self {
        let fixed = Some(maps.borrow().clone()).filter(|map| map.schema().sharding.is_none());
        Self { database, user, mode, pools, maps, quota, fixed }
    }

    pub fn is_sharded(&self) -> bool {
        self.fixed.is_none()
    }

    /// Lends the shard map in force now, without counting a reference: for as long as it takes to decide a request.
    ///
    /// `with` holds a read lock. It must not ask for the map again: should another thread publish a new one in between, each
    /// of the two would wait for the other. What it needs of the map has to be passed to it.
    #[inline]
    pub fn with_map<R>(&self, with: impl FnOnce(&Arc<ShardMap>) -> R) -> R {
        match &self.fixed {
            Some(map) => with(map),
            None => with(&self.maps.borrow()),
        }
    }

    /// The shard map in force now.
    pub fn map(&self) -> Arc<ShardMap> {
        match &self.fixed {
            Some(map) => map.clone(),
            None => self.maps.borrow().clone(),
        }
    }

    /// `None` for a shard that was added after this session's pools were made.
    #[inline]
    pub fn pool(&self, shard: ShardId) -> Option<&Arc<Pool>> {
        self.pools.get(shard.index())
    }

    pub fn pools(&self) -> &[Arc<Pool>] {
        &self.pools
    }

    /// Counted once, however many shards there are.
    pub fn count_login(&self) {
        if let Some(home) = self.pools.first() {
            home.count_login();
        }
    }

    /// A session begins (or, with `false`, ends).
    pub fn count_client(&self, comes: bool) {
        for pool in &self.pools {
            if comes {
                pool.clients.fetch_add(1, Ordering::Relaxed);
            } else {
                pool.clients.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

/// The shard that one of these pools serves; an unsharded database has one, its home.
pub fn shard_of(pool: &Pool, map: &ShardMap) -> ShardId {
    map.shard_ids().find(|shard| pool.key.shard == Some(shard.index() as u16)).unwrap_or(map.home())
}

/// The map of an unsharded database: everything is at home.
pub fn unsharded_map(placement: Placement) -> Arc<ShardMap> {
    let slots = vec![0; sluice_router::map::SLOTS];
    let map = ShardMap::new(0, KeyType::Int, &slots, [], vec![placement], Schema::unsharded());
    Arc::new(map.expect("one shard, to which every slot belongs"))
}
