//! Running what was decided: sending to servers, relaying their responses, and committing on several of them.
//!
//! - [`relay`]: from a server to its client. Hot path;
//! - [`command`]: statements of our own, whose results the client does not see;
//! - [`two_phase`]: an atomic commit on several servers.

pub mod command;
pub mod relay;
pub mod two_phase;
