//! The data plane. Inside this crate a module may import only what stands above it in this list.
//! (`tests/tidy.rs` checks it.)

pub mod config;
pub mod demo;
