//! Sharded databases: the real program in front of real PostgreSQL, compared with one PostgreSQL that holds all rows. One
//! binary, so that it's linked once.
//!
//! Read `support` first, then: `wrong_answers` and `differential` (an answer is right, or there is none), `routing`,
//! `transactions`, `pooling`, `ddl`, `reference`, `sessions` (settings, encodings, pipelines), `two_phase`, `faults` and `migrate`.

mod ddl;
mod differential;
mod faults;
mod migrate;
mod pooling;
mod quotas;
mod reference;
mod routing;
mod sessions;
mod support;
mod transactions;
mod two_phase;
mod wrong_answers;
