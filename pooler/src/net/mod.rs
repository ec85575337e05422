//! Sockets as the hot path needs them.
//!
//! [`Io`] is one type for TCP and unix sockets. It differs from tokio's own streams in what it registers: tokio's ask
//! for READABLE and WRITABLE at once, and on a unix socket every read of the peer then wakes us up for nothing (measured:
//! 3.8 instead of 1.9 context switches a transaction at partial load). Here a socket is registered READABLE only, and a
//! second registration, WRITABLE, exists just while a write is short. TLS, if there is any, is inside it: readers and writers
//! see plaintext either way.

mod io;
mod listening;
mod passing;
mod scratch;
pub mod tls;

pub use io::{Address, Io, Peer, TcpOptions};
pub use listening::{Bound, Listening, unix_address};
pub use passing::{receive_with_sockets, send_with_socket};
pub use scratch::{with_output, with_scratch};
