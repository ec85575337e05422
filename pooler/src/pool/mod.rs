//! The pool of servers that client traffic runs on.
//!
//! - [`hosts`]: the hosts of an entry, and whose turn it is;
//! - [`server`]: one connection to PostgreSQL, how it is opened, and what it carries between leases;
//! - [`command`]: statements of our own on a server, whose results the client does not see;
//! - [`replay`]: a batch that is repeated if a plan was out of date;
//! - [`listener`]: one connection that listens for all clients of a pool;
//! - [`sql_statements`]: what a server has from SQL-level PREPARE;
//! - [`slots`]: the locked core: idle servers, waiters in order, counts. No await, no clock of its own;
//! - [`peers`]: cancel requests on their way to other processes;
//! - [`pool`]: one pool (entry, user, shard): checkout, checkin, opening of servers;
//! - [`replication`]: servers of replication clients, which nobody else gets;
//! - [`pools`]: all pools: limits across them, eviction, PAUSE;
//! - [`upkeep`]: what becomes of idle servers.
//!
//! A server is handed on in one way only: [`Lease::checkin`], which takes it if it is clean. A lease that is dropped instead
//! closes its server.

mod command;
mod hosts;
mod listener;
mod peers;
#[expect(clippy::module_inception, reason = "one pool, in the folder of all that pools are made of")]
mod pool;
mod pools;
mod replay;
mod replication;
mod server;
mod slots;
mod sql_statements;
mod tls;
mod upkeep;

pub use command::{Done, report_of};
pub use hosts::Hosts;
pub use peers::{PeerView, Peers};
pub use pool::{CheckoutError, Lease, Pool, PoolKey, PoolParams, Ticket};
pub use pools::{PoolView, Pools};
pub use replay::{Replay, Stale};
pub use replication::ReplicationServer;
pub use server::{
    ConnectError, Server, ServerTarget, StatementCache, Unnamed, Welcome, statement_name, statement_number,
};
pub use slots::{Sizes, Slots, Waiter};
pub use sql_statements::SqlStatements;
