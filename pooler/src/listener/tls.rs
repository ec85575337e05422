//! TLS as clients ask for it: by an SSLRequest, or at once ("direct TLS").

use std::sync::Arc;

use rustls::ServerConfig;
use sluice_wire::startup::{ENCRYPTION_GRANTED, ENCRYPTION_REFUSED};

use super::handshake::{Handshake, Refusal, refuse};
use crate::net::Peer;

/// The first byte of a TLS record with a handshake message. No start-up packet begins with it: it would be too long.
const CLIENT_HELLO: u8 = 0x16;

impl Handshake {
    /// Begins TLS if the client's first byte does. It has to name PostgreSQL's protocol by ALPN then, so that nobody is led
    /// here who meant to speak another one.
    pub(super) async fn take_direct_tls(&mut self) -> Result<(), Refusal> {
        if self.input.is_empty() {
            self.read().await?;
        }
        if self.input[0] != CLIENT_HELLO || self.is_tls() {
            return Ok(());
        }
        let Some(config) = self.offered() else { return Ok(()) };
        let received = std::mem::take(&mut self.input);
        self.shake_hands(config, received).await?;
        if self.io.has_alpn() {
            return Ok(());
        }
        Err(refuse("08P01", "received direct TLS connection request without ALPN protocol negotiation extension"))
    }

    /// Answers an SSLRequest. What came behind it in the clear can't be part of what TLS protects (CVE-2021-23214).
    pub(super) async fn answer_ssl_request(&mut self) -> Result<(), Refusal> {
        if !self.input.is_empty() {
            return Err(refuse("08P01", "received unencrypted data after SSL request"));
        }
        if self.is_tls() {
            return Err(refuse("08P01", "SSL request inside SSL"));
        }
        match self.offered() {
            None => self.send(&[ENCRYPTION_REFUSED]).await,
            Some(config) => {
                self.send(&[ENCRYPTION_GRANTED]).await?;
                self.shake_hands(config, Vec::new()).await
            }
        }
    }

    pub(super) async fn answer_gss_request(&mut self) -> Result<(), Refusal> {
        if !self.input.is_empty() {
            return Err(refuse("08P01", "received unencrypted data after GSSAPI encryption request"));
        }
        self.send(&[ENCRYPTION_REFUSED]).await
    }

    /// A log-in has to come over TLS, if `client_tls_sslmode` says so; unix sockets are exempt.
    pub(super) fn check_tls(&self) -> Result<(), Refusal> {
        let is_tcp = matches!(self.peer, Peer::Tcp(_));
        if is_tcp && self.tls.is_required() && !self.is_tls() {
            return Err(refuse("28000", "SSL required"));
        }
        Ok(())
    }

    /// How log lines show it.
    pub(super) fn tls_text(&self) -> String {
        self.io.tls().map_or_else(|| "no".to_owned(), |tls| tls.to_string())
    }

    fn offered(&self) -> Option<Arc<ServerConfig>> {
        let is_tcp = matches!(self.peer, Peer::Tcp(_));
        self.tls.config.clone().filter(|_| is_tcp)
    }

    async fn shake_hands(&mut self, config: Arc<ServerConfig>, received: Vec<u8>) -> Result<(), Refusal> {
        self.io.accept_tls(config, received).await.map_err(|error| {
            tracing::warn!("{} TLS handshake error: {error}", self.log_prefix());
            None
        })
    }
}
