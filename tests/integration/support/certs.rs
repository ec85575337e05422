//! Certificates of a test, in files as PostgreSQL, Sluice and libpq read them.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType, SignatureAlgorithm,
    date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use sluice_test_harness::Programs;
use tempfile::TempDir;

/// An authority and what it has issued: `NAME.crt` and `NAME.key` in one directory, `ca.crt` among them.
pub struct Certificates {
    directory: TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

/// What a certificate says.
pub struct Request {
    pub common_name: &'static str,
    /// Names and addresses of subjectAltName.
    pub alternative: &'static [&'static str],
    pub expired: bool,
    pub algorithm: &'static SignatureAlgorithm,
}

impl Default for Request {
    fn default() -> Self {
        Self { common_name: "", alternative: &[], expired: false, algorithm: &rcgen::PKCS_ECDSA_P256_SHA256 }
    }
}

impl Request {
    /// A certificate of this computer.
    pub fn local() -> Self {
        Self { common_name: "somewhere", alternative: &["127.0.0.1", "localhost"], ..Self::default() }
    }

    /// A certificate of a user.
    pub fn user(name: &'static str) -> Self {
        Self { common_name: name, ..Self::default() }
    }

    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, self.common_name);
        for name in self.alternative {
            params.subject_alt_names.push(match name.parse() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName((*name).try_into().expect("a name")),
            });
        }
        if self.expired {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        }
        params
    }
}

impl Certificates {
    /// An authority that has issued `server.crt` to this computer.
    pub fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("sluice-certs-").tempdir_in("/tmp").expect("a directory");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("a mode");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "an authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority =
            CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
        let certificates = Self { directory, authority };
        certificates.write("ca.crt", certificates.authority.pem().as_bytes());
        certificates.issue("server", &Request::local());
        certificates
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    /// As it stands in a settings file or a connection string.
    pub fn file(&self, file: &str) -> String {
        self.path(file).display().to_string()
    }

    /// Issues `NAME.crt` with `NAME.key`, in place of those that there may be.
    pub fn issue(&self, name: &str, request: &Request) {
        let key = KeyPair::generate_for(request.algorithm).expect("a key");
        let certificate = request.params().signed_by(&key, &self.authority).expect("a certificate");
        self.write_pair(name, &certificate.pem(), &key);
    }

    /// As [`Self::issue`], for a certificate that vouches for itself as `openssl req -x509` makes them: as an authority.
    pub fn issue_self_signed(&self, name: &str, request: &Request) {
        let key = KeyPair::generate_for(request.algorithm).expect("a key");
        let mut params = request.params();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        self.write_pair(name, &params.self_signed(&key).expect("a certificate").pem(), &key);
    }

    fn write_pair(&self, name: &str, certificate: &str, key: &KeyPair) {
        self.write(&format!("{name}.crt"), certificate.as_bytes());
        self.write(&format!("{name}.key"), key.serialize_pem().as_bytes());
    }

    pub fn write(&self, file: &str, bytes: &[u8]) {
        let mode = if Path::new(file).extension().is_some_and(|extension| extension == "key") { 0o600 } else { 0o644 };
        // A new file each time: the old one may belong to PostgreSQL.
        let _ = fs::remove_file(self.path(file));
        let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(self.path(file));
        opened.and_then(|mut opened| opened.write_all(bytes)).expect("a file");
    }

    /// A copy of the server's files that belongs to whoever runs PostgreSQL; its settings for TLS.
    pub fn for_postgresql(&self) -> Vec<(&'static str, String)> {
        for kind in ["crt", "key"] {
            self.write(&format!("postgresql.{kind}"), &fs::read(self.path(&format!("server.{kind}"))).expect("a file"));
        }
        Programs::find().give(&self.path("postgresql.key"));
        vec![
            ("ssl", "on".to_owned()),
            ("ssl_cert_file", self.file("postgresql.crt")),
            ("ssl_key_file", self.file("postgresql.key")),
            ("ssl_ca_file", self.file("ca.crt")),
        ]
    }

    /// Sluice's settings for TLS with clients.
    pub fn for_clients(&self, mode: &str) -> Vec<String> {
        vec![
            format!("client_tls_sslmode = {mode}"),
            format!("client_tls_cert_file = {}", self.file("server.crt")),
            format!("client_tls_key_file = {}", self.file("server.key")),
            format!("client_tls_ca_file = {}", self.file("ca.crt")),
        ]
    }

    /// A TLS client that trusts the authority; `user` names the certificate that it shows.
    pub fn client_config(&self, user: Option<&str>, alpn: Option<&str>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).expect("an authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.expect("versions").with_root_certificates(roots);
        let mut config = match user {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let certificate =
                    CertificateDer::from_pem_file(self.path(&format!("{name}.crt"))).expect("a certificate");
                let key = PrivateKeyDer::from_pem_file(self.path(&format!("{name}.key"))).expect("a key");
                builder.with_client_auth_cert(vec![certificate], key).expect("a pair")
            }
        };
        config.alpn_protocols = alpn.into_iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}
