//! The data plane, and the binary `sluice`.
//!
//! Inside this crate a module may import only what stands above it in this list (`tests/tidy` checks it).

pub mod config;
pub mod stats;
pub mod logging;
pub mod net;
pub mod vars;
pub mod registry;
pub mod pool;
pub mod upstream;
pub mod catalogs;
pub mod executor;
pub mod session;
pub mod console;
pub mod listener;
pub mod app;
pub mod demo;
pub mod migrate;
