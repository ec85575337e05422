//! The data plane, and the binary `sluice`.
//!
//! Modules are layers: each may import only those before it in this list (`tests/tidy.rs` holds them to it).
//!
//! lock, config, stats, logging, net, service, vars, registry, dns, quota, pool, upstream, catalogs, averages, executor, session, credentials,
//! app, cancel, cleanup, drain, suspend, console, replication, listener, serve, process, demo, migrate

pub mod app;
pub mod averages;
pub mod cancel;
pub mod catalogs;
pub mod cleanup;
pub mod config;
pub mod console;
pub mod credentials;
pub mod demo;
pub mod dns;
pub mod drain;
pub mod executor;
pub mod listener;
pub mod lock;
pub mod logging;
pub mod migrate;
pub mod net;
pub mod pool;
pub mod process;
pub mod quota;
pub mod registry;
pub mod replication;
pub mod serve;
pub mod service;
pub mod session;
pub mod stats;
pub mod suspend;
pub mod upstream;
pub mod vars;
