//! Clients and a canned backend in one thread of this process, so that the pooler between them is the bottleneck.
//!
//! - [`messages`]: what the clients send, and what the backend answers;
//! - [`stream`]: a non-blocking socket of either family;
//! - [`backend`]: speaks as much PostgreSQL as poolers ask of a server, and answers every query with the same row;
//! - [`client`]: one client: logs in, sends a request, waits for ReadyForQuery;
//! - [`generator`]: the loop that drives all of them, at full speed or at a fixed rate.

pub mod backend;
pub mod client;
pub mod generator;
pub mod messages;
pub mod stream;

pub use generator::{Crew, Generator, Work};
pub use messages::Protocol;
