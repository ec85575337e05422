//! What a login costs, and what an encrypted client that does nothing keeps in memory.
//!
//! pgbench connects anew for each transaction; the pooler's CPU time includes the one query of each connection.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use sluice_wire::startup::{ssl_request, startup_message};

use crate::error::{BenchError, Result};
use crate::fleet::USER;

/// The password of all clients where there is one.
pub const PASSWORD: &str = "benchmark";

/// What PostgreSQL keeps of it, with its own number of iterations: the poolers don't have to derive it for each login.
const VERIFIER: &str = "SCRAM-SHA-256$4096:c2x1aWNlLWJlbmNobWFyaw==$uMPn4BJ7ONxRI5wzgDGSrRx8LL8q7RwDdBua7L0PHb8=:52e0OHHC4h3g8qutT090gEUaFlR60sdnnZkeJ0Aa8Lg=";

/// How clients log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing is asked, nothing is encrypted.
    Trust,
    /// SCRAM-SHA-256.
    Scram,
    /// SCRAM-SHA-256 inside TLS 1.3.
    ScramTls,
    /// Nothing is asked, inside TLS.
    TrustTls,
}

impl Access {
    pub fn name(self) -> &'static str {
        match self {
            Self::Trust => "trust",
            Self::Scram => "SCRAM",
            Self::ScramTls => "SCRAM and TLS",
            Self::TrustTls => "TLS",
        }
    }

    pub fn has_tls(self) -> bool {
        matches!(self, Self::ScramTls | Self::TrustTls)
    }

    /// What libpq calls it.
    pub fn sslmode(self) -> &'static str {
        if self.has_tls() { "require" } else { "disable" }
    }

    /// Lines of `[pgbouncer]`, for a pooler whose files are in `directory`.
    pub fn settings(self, directory: &str) -> String {
        let auth = match self {
            Self::Trust | Self::TrustTls => "trust",
            Self::Scram | Self::ScramTls => "scram-sha-256",
        };
        let tls = if self.has_tls() {
            format!(
                "client_tls_sslmode = require\nclient_tls_cert_file = {directory}/server.crt\n\
                 client_tls_key_file = {directory}/server.key\n"
            )
        } else {
            String::new()
        };
        format!("auth_type = {auth}\n{tls}")
    }

    /// Puts the files that [`Self::settings`] names into a pooler's directory.
    pub fn write_files(self, directory: &Path) -> Result<()> {
        write_private(&directory.join("users"), &format!("\"{USER}\" \"{VERIFIER}\"\n"))?;
        if self.has_tls() {
            let key = KeyPair::generate().map_err(failed)?;
            let certificate = CertificateParams::new(vec!["localhost".to_owned()]).map_err(failed)?;
            let certificate = certificate.self_signed(&key).map_err(failed)?;
            write_private(&directory.join("server.crt"), &certificate.pem())?;
            write_private(&directory.join("server.key"), &key.serialize_pem())?;
            fs::write(directory.join("server.der"), certificate.der()).map_err(BenchError::path(directory))?;
        }
        Ok(())
    }
}

fn failed(error: rcgen::Error) -> BenchError {
    BenchError::failed(format!("cannot make a certificate: {error}"))
}

/// Poolers refuse keys that others can read.
fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, text).map_err(BenchError::path(path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(BenchError::path(path))
}

/// A client over TLS that has logged in and does nothing.
pub struct Idle {
    _stream: StreamOwned<ClientConnection, TcpStream>,
}

/// Logs clients in, over TLS and without a password.
#[derive(Debug)]
pub struct Encrypted {
    config: Arc<ClientConfig>,
    port: u16,
}

impl Encrypted {
    /// For the pooler in `directory`.
    pub fn new(directory: &Path, port: u16) -> Result<Self> {
        let certificate = fs::read(directory.join("server.der")).map_err(BenchError::path(directory))?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(certificate)).map_err(refused)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = versions.map_err(refused)?.with_root_certificates(roots).with_no_client_auth();
        Ok(Self { config: Arc::new(config), port })
    }

    pub fn connect(&self, database: &str) -> Result<Idle> {
        let io = |error| BenchError::io("an encrypted client")(error);
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).map_err(io)?;
        stream.set_read_timeout(Some(Duration::from_secs(30))).map_err(io)?;
        stream.write_all(&ssl_request()).map_err(io)?;
        stream.read_exact(&mut [0]).map_err(io)?;
        let name = "localhost".try_into().map_err(|_| BenchError::failed("not a name"))?;
        let connection = ClientConnection::new(self.config.clone(), name).map_err(refused)?;
        let mut stream = StreamOwned::new(connection, stream);
        let login = startup_message(0, [("user", USER), ("database", database)]);
        stream.write_all(&login).map_err(io)?;
        let mut header = [0; 5];
        loop {
            stream.read_exact(&mut header).map_err(io)?;
            let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
            stream.read_exact(&mut vec![0; length.saturating_sub(4)]).map_err(io)?;
            match header[0] {
                b'Z' => return Ok(Idle { _stream: stream }),
                b'E' => return Err(BenchError::failed("an encrypted client was refused")),
                _ => {}
            }
        }
    }
}

fn refused(error: rustls::Error) -> BenchError {
    BenchError::failed(format!("TLS: {error}"))
}
