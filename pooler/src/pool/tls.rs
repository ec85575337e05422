//! TLS with servers: asked for before the start-up message, and before a cancel request.

use std::io;

use sluice_wire::startup::{ENCRYPTION_GRANTED, ENCRYPTION_REFUSED, ssl_request};

use crate::config::SslMode;
use crate::net::tls::ServerTls;
use crate::net::{Address, Io};

/// Brings a new connection to where its first message may be sent: in TLS, or in the clear if that is allowed.
pub async fn negotiate(io: &mut Io, address: &Address, tls: &ServerTls) -> io::Result<()> {
    let (Address::Tcp { host, .. }, Some(config)) = (address, &tls.config) else { return Ok(()) };
    io.write_all(&ssl_request()).await?;
    let mut answer = Vec::with_capacity(1);
    io.read_some(&mut answer).await?;
    match answer[..] {
        [ENCRYPTION_GRANTED] => {
            let name = ServerTls::server_name(host).map_err(io::Error::other)?;
            let shaken = io.connect_tls(config.clone(), name).await;
            shaken.map_err(|error| io::Error::new(error.kind(), format!("TLS handshake error: {error}")))
        }
        [ENCRYPTION_REFUSED] if matches!(tls.mode, SslMode::Allow | SslMode::Prefer) => Ok(()),
        [ENCRYPTION_REFUSED] => Err(io::Error::other("server refused SSL")),
        [] => Err(io::ErrorKind::UnexpectedEof.into()),
        // Somebody in between may have put it there, to have it taken for the server's (CVE-2021-23222).
        [ENCRYPTION_GRANTED | ENCRYPTION_REFUSED, ..] => {
            Err(io::Error::other("received unencrypted data after SSL response"))
        }
        _ => Err(io::Error::other("the server does not understand an SSL request")),
    }
}
