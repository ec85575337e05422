//! The side-by-side run: PgBouncer, Sluice, and Sluice with routing on do the same work in turn, on one machine.
//!
//! Read in this order:
//! 1. [`process`]: what a running pooler has cost so far, from /proc;
//! 2. [`subject`]: the three poolers that are compared, and how each is started;
//! 3. [`fleet`]: the PostgreSQL behind them: one plain database, 16 shards with the same rows, the catalog;
//! 4. [`load`]: clients and a canned backend in this process, so that the pooler is the bottleneck;
//! 5. [`pgbench`]: PostgreSQL's own load generator against real servers; [`logins`]: how its clients log in;
//! 6. [`rounds`]: interleaving, and the ratios that come of it;
//! 7. [`suite`]: which cells are measured;
//! 8. [`targets`], [`machine`] and [`report`]: what was to be reached, where, and the page that says so.
//!
//! Seconds differ from machine to machine and from minute to minute. What is compared is CPU time per transaction of the
//! pooler's process, as a ratio to PgBouncer's in the same round.

pub mod error;
pub mod fleet;
pub mod load;
pub mod logins;
pub mod machine;
pub mod pgbench;
pub mod process;
pub mod report;
pub mod rounds;
pub mod subject;
pub mod suite;
pub mod syscalls;
pub mod targets;
