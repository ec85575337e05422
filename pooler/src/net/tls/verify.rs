//! Which certificates of the other side are accepted.
//!
//! Chains are rustls' own affair. Two things are added, because OpenSSL has them and configurations rely on it: a certificate
//! that is itself listed in the file of authorities is accepted (the usual self-signed one, which calls itself an authority),
//! and a host may be named by the CN where there is no subjectAltName.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::certificate::{PeerNames, is_in_time};
use super::files::Authorities;
use super::setup::{TlsError, provider};

/// The verifier for servers.
#[derive(Debug)]
pub struct ServerVerifier {
    /// `None`: any certificate will do, as long as the server has its key.
    pub authorities: Option<Authorities>,
    /// `verify-full`.
    pub checks_name: bool,
    pub algorithms: WebPkiSupportedAlgorithms,
}

impl ServerVerifier {
    fn check_chain(
        &self,
        authorities: &Authorities,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let verified = ParsedCertificate::try_from(certificate).and_then(|parsed| {
            let roots = &authorities.roots;
            verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, self.algorithms.all)
        });
        verified.or_else(|error| accept_listed(&authorities.listed, certificate, now, error))
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(authorities) = &self.authorities {
            self.check_chain(authorities, certificate, intermediates, now)?;
        }
        if self.checks_name && !PeerNames::of(certificate).is_host(host) {
            return Err(CertificateError::NotValidForName.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The verifier for clients: what a client presents is verified, and some have to present something.
#[derive(Debug)]
pub struct ClientVerifier {
    chains: Arc<dyn ClientCertVerifier>,
    listed: Vec<CertificateDer<'static>>,
}

impl ClientVerifier {
    pub fn new(authorities: Authorities, mandatory: bool) -> Result<Self, TlsError> {
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities.roots), Arc::new(provider()));
        let builder = if mandatory { builder } else { builder.allow_unauthenticated() };
        let chains = builder.build().map_err(|error| TlsError(format!("client_tls_ca_file: {error}")))?;
        Ok(Self { chains, listed: authorities.listed })
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.chains.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chains.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.chains.verify_client_cert(certificate, intermediates, now).or_else(|error| {
            accept_listed(&self.listed, certificate, now, error).map(|()| ClientCertVerified::assertion())
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

/// A certificate whose chain is no good may be listed itself; then only its time counts.
fn accept_listed(
    listed: &[CertificateDer<'static>],
    certificate: &CertificateDer<'_>,
    now: UnixTime,
    error: Error,
) -> Result<(), Error> {
    let is_listed = listed.iter().any(|known| known.as_ref() == certificate.as_ref());
    if is_listed && is_in_time(certificate, now) { Ok(()) } else { Err(error) }
}
