//! The console: database `pgbouncer`.

use std::sync::Arc;

use crate::app::App;
use crate::net::Io;
use crate::registry::ClientHandle;

/// What SHOW VERSION answers.
pub const VERSION: &str = concat!("Sluice ", env!("CARGO_PKG_VERSION"));
/// PgBouncer's form of `server_version`: some clients parse the number in front.
pub const SERVER_VERSION: &str = "1.25.2/bouncer";

/// Serves a console connection until it ends.
pub async fn serve(_app: Arc<App>, _io: Io, _client: ClientHandle, _admin: bool, _input: Vec<u8>) {}
