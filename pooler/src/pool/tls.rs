//! TLS with servers: asked for before the start-up message, and before a cancel request; or begun at once.

use std::io;
use std::sync::Arc;

use rustls::ClientConfig;
use sluice_wire::startup::{ENCRYPTION_GRANTED, ENCRYPTION_REFUSED, ssl_request};

use crate::config::SslNegotiation;
use crate::net::tls::{Means, ServerTls};
use crate::net::{Address, Io};

/// Brings a new connection to where its first message may be sent: in TLS, or in the clear if that is allowed.
pub async fn negotiate(io: &mut Io, address: &Address, tls: &ServerTls) -> io::Result<()> {
    let Address::Tcp { host, .. } = address else { return Ok(()) };
    let config = match &tls.means {
        Means::Clear => return Ok(()),
        Means::Tls(config) => config,
        Means::Unusable(error) => return Err(io::Error::other(error.clone())),
    };
    match tls.negotiation {
        SslNegotiation::Direct => begin_direct(io, host, config).await,
        SslNegotiation::Postgres => ask(io, host, tls, config).await,
    }
}

/// The server has to name PostgreSQL's protocol by ALPN, so that nobody is taken for it who speaks another one.
async fn begin_direct(io: &mut Io, host: &str, config: &Arc<ClientConfig>) -> io::Result<()> {
    shake_hands(io, host, config).await?;
    if io.has_alpn() {
        return Ok(());
    }
    Err(io::Error::other("direct TLS connection was established without ALPN protocol negotiation extension"))
}

async fn ask(io: &mut Io, host: &str, tls: &ServerTls, config: &Arc<ClientConfig>) -> io::Result<()> {
    io.write_all(&ssl_request()).await?;
    let mut answer = Vec::with_capacity(1);
    io.read_some(&mut answer).await?;
    match answer[..] {
        [ENCRYPTION_GRANTED] => shake_hands(io, host, config).await,
        [ENCRYPTION_REFUSED] if !tls.mode.is_required() => Ok(()),
        [ENCRYPTION_REFUSED] => Err(io::Error::other("server refused SSL")),
        [] => Err(io::ErrorKind::UnexpectedEof.into()),
        // Somebody in between may have put it there, to have it taken for the server's (CVE-2021-23222).
        [ENCRYPTION_GRANTED | ENCRYPTION_REFUSED, ..] => {
            Err(io::Error::other("received unencrypted data after SSL response"))
        }
        _ => Err(io::Error::other("the server does not understand an SSL request")),
    }
}

async fn shake_hands(io: &mut Io, host: &str, config: &Arc<ClientConfig>) -> io::Result<()> {
    let name = ServerTls::server_name(host).map_err(io::Error::other)?;
    let shaken = io.connect_tls(config.clone(), name).await;
    shaken.map_err(|error| io::Error::new(error.kind(), format!("TLS handshake error: {error}")))
}
