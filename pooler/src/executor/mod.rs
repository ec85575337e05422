//! Running what was decided: relaying servers' responses, and committing on several of them.
//!
//! - [`relay`]: from a server to its client. Hot path;
//! - [`two_phase`]: an atomic commit on several servers.

pub mod relay;
pub mod two_phase;
