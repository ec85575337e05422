//! The control plane: PostgreSQL in, immutable snapshots out. Queries of clients never wait for anything here.
//!
//! Read in this order:
//! 1. [`connect`] and [`pool`]: how the catalog and the shards are reached, and the deadlines of all of it;
//! 2. [`snapshot`]: the catalog's rows as they are read, and as the router's shard map means them;
//! 3. [`store`]: reads snapshots from the catalog database; [`register`]: changes what is in it;
//! 4. [`disk`]: the copy of the last snapshot, for a start while the catalog is down;
//! 5. [`watch`]: keeps the newest map at hand: LISTEN, polling, disk copy;
//! 6. [`shards`]: pools to the shards for the control plane's own commands, and what is asked of every shard;
//! 7. [`introspect`]: reads tables from a shard: columns, and whether a table can be of a class;
//! 8. [`gid`] and [`recovery`]: the names of prepared transactions, and what becomes of those that nobody finished.

pub mod connect;
pub mod disk;
pub mod error;
pub mod gid;
pub mod introspect;
pub mod pool;
pub mod recovery;
pub mod register;
pub mod shards;
pub mod snapshot;
pub mod store;
pub mod watch;

pub use connect::{ControlCredentials, Deadlines, connect_catalog, connect_shard};
pub use error::CatalogError;
pub use pool::PooledClient;
pub use register::{Change, NewDatabase, TableName};
pub use shards::{ShardPools, probe_two_phase};
pub use snapshot::Snapshot;
pub use store::CatalogStore;
pub use watch::{WatchOptions, WatchStatus, Watcher};
