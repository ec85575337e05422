//! TLS, by rustls with the *ring* provider.
//!
//! - `stream`: one connection, driven by [`Io`](super::Io);
//! - `setup`: the `client_tls_*` and `server_tls_*` settings and the files that they name, made ready for use;
//! - `files`: those files;
//! - `verify`: which certificates of the other side are accepted;
//! - `certificate`: what is read out of a certificate.

mod certificate;
mod files;
mod setup;
mod stream;
mod verify;

pub use certificate::{PeerNames, end_point};
pub use setup::{ClientTls, Means, ServerTls, TlsError, TlsSetup};
pub(super) use stream::Tls;
pub use stream::TlsInfo;
