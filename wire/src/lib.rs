//! PostgreSQL's wire protocol (3.0 and 3.2) as values. No socket, no clock, no runtime: bytes in, values and bytes out.
//!
//! - [`frame`]: message headers and the scan of a byte stream into messages;
//! - [`message`]: the few messages that we originate, built with pgwire's message layer or by hand where it is hot;
//! - [`replies`]: the queue of expected responses, for streams that we edit;
//! - [`scan`]: a byte stream cut into messages as it arrives;
//! - [`startup`]: everything before the first regular message;
//! - [`auth`]: login, from both sides.

pub mod auth;
pub mod frame;
pub mod message;
pub mod replies;
pub mod scan;
pub mod startup;
