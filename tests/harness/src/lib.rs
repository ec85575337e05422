//! Throw-away PostgreSQL clusters for tests: real servers, on a unix socket only, in a directory that goes with them.
//!
//! Read in this order: [`Cluster`] (what tests use), `programs` (where PostgreSQL's programs are, and as whom they run),
//! `guardian` (why nothing is left behind, however the test ends).
//!
//! This is test code: whatever fails panics, with the program's own output.

mod cluster;
mod guardian;
mod programs;

pub use cluster::Cluster;
pub use programs::{Programs, run};
