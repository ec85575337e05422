//! The `client_tls_*` and `server_tls_*` settings and their files, made ready for use. A setup never changes: RELOAD makes a
//! new one, and keeps the old one if a file is broken.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::ServerName;
use rustls::server::NoServerSessionStorage;
use rustls::{ClientConfig, ServerConfig};

use super::certificate::end_point;
use super::files::{Contents, SYSTEM_AUTHORITIES};
use super::verify::{ClientVerifier, ServerVerifier};
use crate::config::{
    AuthType, CipherList, Config, Curves, ServerTlsSettings, Settings, SslMode, SslNegotiation, Suites13, TlsVersions,
};

/// PostgreSQL's protocol, as ALPN calls it.
const ALPN: &[u8] = b"postgresql";

/// Why TLS can't be set up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("TLS setup failed: {0}")]
pub struct TlsError(pub(super) String);

/// TLS of both sides.
#[derive(Debug, Clone)]
pub struct TlsSetup {
    pub client: Arc<ClientTls>,
    /// One for each way in which the settings and the entries say that servers are reached.
    servers: Arc<HashMap<ServerTlsSettings, Arc<ServerTls>>>,
}

/// TLS with clients.
#[derive(Debug)]
pub struct ClientTls {
    pub mode: SslMode,
    pub config: Option<Arc<ServerConfig>>,
    /// The channel binding `tls-server-end-point` of our certificate.
    pub end_point: Option<Vec<u8>>,
}

/// TLS with servers.
#[derive(Debug)]
pub struct ServerTls {
    pub mode: SslMode,
    pub negotiation: SslNegotiation,
    pub means: Means,
    /// `None` if it could not be read.
    source: Option<ServerSource>,
}

/// What a server is reached with.
#[derive(Debug)]
pub enum Means {
    /// No TLS is wanted.
    Clear,
    Tls(Arc<ClientConfig>),
    /// TLS is wanted, and could not be set up: there is no connection.
    Unusable(TlsError),
}

/// What a [`ServerTls`] is made of: servers stay connected over a RELOAD that leaves it as it is.
#[derive(Debug, PartialEq)]
struct ServerSource {
    mode: SslMode,
    negotiation: SslNegotiation,
    choice: Choice,
    certificate: Option<Contents>,
    key: Option<Contents>,
    authorities: Option<Contents>,
}

/// Versions and algorithms.
#[derive(Debug, Clone, PartialEq)]
struct Choice {
    versions: TlsVersions,
    ciphers: CipherList,
    ciphers13: Option<Suites13>,
    curves: Option<Curves>,
}

impl TlsSetup {
    /// Reads all that the settings name.
    pub fn load(config: &Config) -> Result<Self, TlsError> {
        Self::read(config, &HashMap::new())
    }

    /// As [`Self::load`]; what is the same for servers stays the same value.
    pub fn reload(&self, config: &Config) -> Result<Self, TlsError> {
        Self::read(config, &self.servers)
    }

    fn read(config: &Config, old: &HashMap<ServerTlsSettings, Arc<ServerTls>>) -> Result<Self, TlsError> {
        check(&config.settings)?;
        let mut servers = HashMap::new();
        for wanted in config.all_server_tls() {
            let Entry::Vacant(place) = servers.entry(wanted) else { continue };
            let new = ServerTls::load(&config.settings, place.key())?;
            let same = old.get(place.key()).filter(|old| old.source == new.source);
            place.insert(same.cloned().unwrap_or_else(|| Arc::new(new)));
        }
        Ok(Self { client: Arc::new(ClientTls::load(&config.settings)?), servers: Arc::new(servers) })
    }

    /// For servers that are to be reached like this.
    pub fn server(&self, wanted: &ServerTlsSettings) -> Arc<ServerTls> {
        self.servers.get(wanted).cloned().unwrap_or_else(|| Arc::new(ServerTls::unusable(wanted)))
    }
}

/// What the settings have to say together.
fn check(settings: &Settings) -> Result<(), TlsError> {
    let mode = settings.client_tls_sslmode;
    let is_empty = |path: &std::path::Path| path.as_os_str().is_empty();
    let problem = if settings.auth_type == AuthType::Cert && mode != SslMode::VerifyFull {
        "auth_type=cert requires client_tls_sslmode=verify-full"
    } else if mode == SslMode::Disable {
        return Ok(());
    } else if is_empty(&settings.client_tls_key_file) || is_empty(&settings.client_tls_cert_file) {
        "client_tls_sslmode requires client_tls_key_file and client_tls_cert_file"
    } else if mode.is_verified() && is_empty(&settings.client_tls_ca_file) {
        "client_tls_sslmode=verify-ca and verify-full require client_tls_ca_file"
    } else {
        return Ok(());
    };
    Err(TlsError(problem.to_owned()))
}

impl ClientTls {
    fn load(settings: &Settings) -> Result<Self, TlsError> {
        let mode = settings.client_tls_sslmode;
        let key = Contents::read_key("client_tls_key_file", &settings.client_tls_key_file)?;
        let certificate = Contents::read("client_tls_cert_file", &settings.client_tls_cert_file)?;
        let (Some(key), Some(certificate)) = (key, certificate) else {
            return Ok(Self { mode, config: None, end_point: None });
        };
        if mode == SslMode::Disable {
            return Ok(Self { mode, config: None, end_point: None });
        }
        let choice = Choice {
            versions: settings.client_tls_protocols.clone(),
            ciphers: settings.client_tls_ciphers.clone(),
            ciphers13: settings.client_tls13_ciphers.clone(),
            curves: Some(settings.client_tls_ecdhcurve.clone()),
        };
        choice.warn("client_tls_protocols");
        let authorities = Contents::read("client_tls_ca_file", &settings.client_tls_ca_file)?;
        let builder = ServerConfig::builder_with_provider(Arc::new(choice.provider()))
            .with_protocol_versions(&choice.versions.supported())
            .map_err(unusable)?;
        let builder = match authorities {
            Some(authorities) => builder.with_client_cert_verifier(Arc::new(ClientVerifier::new(
                authorities.authorities()?,
                mode.is_verified(),
            )?)),
            None => builder.with_no_client_auth(),
        };
        let chain = certificate.certificates()?;
        let end_point = chain.first().and_then(end_point);
        let mut config = builder.with_single_cert(chain, key.private_key()?).map_err(unusable)?;
        config.ignore_client_order = true;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // No tickets and no sessions, as in PostgreSQL: connections live long, and a resumed session would outlive a change
        // of certificates.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self { mode, config: Some(Arc::new(config)), end_point })
    }

    /// Whether a client on TCP has to use TLS.
    pub fn is_required(&self) -> bool {
        self.mode.is_required()
    }
}

impl ServerTls {
    fn load(settings: &Settings, wanted: &ServerTlsSettings) -> Result<Self, TlsError> {
        let (mode, negotiation) = (wanted.mode, wanted.negotiation);
        let authorities = match wanted.ca_file.as_path() {
            path if path.as_os_str().is_empty() && mode.is_verified() => Path::new(SYSTEM_AUTHORITIES),
            path => path,
        };
        // As the user named it.
        let name = |path: &Path, global: &Path, setting, key| if path == global { setting } else { key };
        let (cert, key, ca) =
            (&settings.server_tls_cert_file, &settings.server_tls_key_file, &settings.server_tls_ca_file);
        let source = ServerSource {
            mode,
            negotiation,
            choice: Choice {
                versions: settings.server_tls_protocols.clone(),
                ciphers: settings.server_tls_ciphers.clone(),
                ciphers13: settings.server_tls13_ciphers.clone(),
                curves: None,
            },
            certificate: Contents::read(
                name(&wanted.cert_file, cert, "server_tls_cert_file", "sslcert"),
                &wanted.cert_file,
            )?,
            key: Contents::read_key(name(&wanted.key_file, key, "server_tls_key_file", "sslkey"), &wanted.key_file)?,
            authorities: Contents::read(name(&wanted.ca_file, ca, "server_tls_ca_file", "sslrootcert"), authorities)?,
        };
        let means = if mode == SslMode::Disable { Means::Clear } else { Means::Tls(Arc::new(source.config()?)) };
        Ok(Self { mode, negotiation, means, source: Some(source) })
    }

    /// An entry asks for what the last RELOAD could not set up.
    fn unusable(wanted: &ServerTlsSettings) -> Self {
        let error = TlsError("the last RELOAD could not read its files".to_owned());
        let means = if wanted.mode == SslMode::Disable { Means::Clear } else { Means::Unusable(error) };
        Self { mode: wanted.mode, negotiation: wanted.negotiation, means, source: None }
    }
}

impl ServerSource {
    fn config(&self) -> Result<ClientConfig, TlsError> {
        self.choice.warn("server_tls_protocols");
        let provider = self.choice.provider();
        let authorities = match &self.authorities {
            Some(authorities) if self.mode.is_verified() => Some(authorities.authorities()?),
            _ => None,
        };
        let verifier = ServerVerifier {
            authorities,
            checks_name: self.mode == SslMode::VerifyFull,
            algorithms: provider.signature_verification_algorithms,
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&self.choice.versions.supported())
            .map_err(unusable)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => {
                builder.with_client_auth_cert(certificate.certificates()?, key.private_key()?).map_err(unusable)?
            }
            (None, None) => builder.with_no_client_auth(),
            _ => return Err(TlsError("a certificate for servers and its key need each other".to_owned())),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}

impl ServerTls {
    /// The name that a server on `host` is asked for, and compared with.
    pub fn server_name(host: &str) -> Result<ServerName<'static>, TlsError> {
        ServerName::try_from(host.to_owned()).map_err(|_| TlsError(format!("\"{host}\" is not a valid host name")))
    }
}

impl Choice {
    fn provider(&self) -> CryptoProvider {
        let mut provider = provider();
        let suites = provider.cipher_suites.clone();
        let suites13 = suites.iter().filter(|suite| suite.tls13().is_some());
        let suites12 = suites.iter().filter(|suite| suite.tls13().is_none());
        let mut chosen = Vec::new();
        match &self.ciphers13 {
            Some(list) => chosen.extend(list.choose(suites13.copied(), |suite| suite.suite())),
            None => chosen.extend(suites13),
        }
        chosen.extend(self.ciphers.choose(suites12.copied(), |suite| suite.suite()));
        provider.cipher_suites = chosen;
        if let Some(curves) = &self.curves {
            provider.kx_groups = curves.choose(provider.kx_groups, |group| group.name());
        }
        provider
    }

    fn warn(&self, setting: &str) {
        if self.versions.asks_for_old() {
            tracing::warn!("{setting}: TLS 1.0 and 1.1 are not supported and left out");
        }
    }
}

/// *ring*: as fast here as AWS-LC, rustls' default (measured, through a whole pooler), and with far less C to build.
pub(super) fn provider() -> CryptoProvider {
    ring::default_provider()
}

fn unusable(error: rustls::Error) -> TlsError {
    TlsError(error.to_string())
}
