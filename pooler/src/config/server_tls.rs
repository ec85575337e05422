//! How servers are reached by TLS: the `server_tls_*` settings, or what an entry of `[databases]` says instead, by libpq's names.

use std::path::PathBuf;

use super::values::{SslMode, SslNegotiation};
use super::{Config, ConfigError, Database};

/// `sslmode`, `sslnegotiation`, `sslrootcert`, `sslcert` and `sslkey` of an entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EntryTls {
    /// Instead of `server_tls_sslmode`.
    pub mode: Option<SslMode>,
    /// Instead of `server_tls_sslnegotiation`.
    pub negotiation: Option<SslNegotiation>,
    /// Instead of `server_tls_ca_file`.
    pub ca_file: Option<PathBuf>,
    /// Instead of `server_tls_cert_file`; together with the next.
    pub cert_file: Option<PathBuf>,
    /// Instead of `server_tls_key_file`.
    pub key_file: Option<PathBuf>,
}

/// What counts for the servers of an entry. Empty paths name no file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServerTlsSettings {
    /// Whether TLS is used, and what is verified.
    pub mode: SslMode,
    /// How it begins.
    pub negotiation: SslNegotiation,
    /// Authorities for servers' certificates.
    pub ca_file: PathBuf,
    /// The certificate shown to servers.
    pub cert_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
}

impl Config {
    /// TLS with the servers of an entry.
    pub fn server_tls(&self, database: &Database) -> ServerTlsSettings {
        self.server_tls_with(&database.tls)
    }

    /// That of the settings, and of all entries.
    pub fn all_server_tls(&self) -> impl Iterator<Item = ServerTlsSettings> {
        let entries = self.databases.values().chain(&self.autodb).map(|database| self.server_tls(database));
        std::iter::once(self.server_tls_with(&EntryTls::default())).chain(entries)
    }

    fn server_tls_with(&self, own: &EntryTls) -> ServerTlsSettings {
        let settings = &self.settings;
        // A certificate of one's own and another's key don't fit each other.
        let (cert_file, key_file) = match (&own.cert_file, &own.key_file) {
            (None, None) => (settings.server_tls_cert_file.clone(), settings.server_tls_key_file.clone()),
            (cert, key) => (cert.clone().unwrap_or_default(), key.clone().unwrap_or_default()),
        };
        ServerTlsSettings {
            mode: own.mode.unwrap_or(settings.server_tls_sslmode),
            negotiation: own.negotiation.unwrap_or(settings.server_tls_sslnegotiation),
            ca_file: own.ca_file.clone().unwrap_or_else(|| settings.server_tls_ca_file.clone()),
            cert_file,
            key_file,
        }
    }

    /// As in libpq: who doesn't ask first can't learn that a server has no TLS, so a mode that would go on without it makes
    /// no sense.
    pub(super) fn check_negotiation(&self) -> Result<(), ConfigError> {
        for database in self.databases.values().chain(&self.autodb) {
            let tls = self.server_tls(database);
            if tls.negotiation == SslNegotiation::Direct && !tls.mode.is_required() {
                let (mode, name) = (tls.mode.name(), &database.name);
                let text = format!("sslmode {mode} of database \"{name}\" is too weak for sslnegotiation direct");
                return Err(ConfigError::new(text).hint("use require, verify-ca or verify-full"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(entry: &str, settings: &str) -> Result<Config, ConfigError> {
        Config::parse_str(&format!("[databases]\nd = {entry}\n[pgbouncer]\n{settings}\n"))
    }

    fn server_tls(entry: &str, settings: &str) -> ServerTlsSettings {
        let config = config(entry, settings).unwrap();
        config.server_tls(&config.databases["d"])
    }

    #[test]
    fn an_entry_goes_before_the_settings() {
        let settings = "server_tls_sslmode = require\nserver_tls_ca_file = /ca\nserver_tls_cert_file = /c\n\
                        server_tls_key_file = /k\nserver_tls_sslnegotiation = direct";
        let global = server_tls("", settings);
        assert_eq!((global.mode, global.negotiation), (SslMode::Require, SslNegotiation::Direct));
        assert_eq!((global.ca_file, global.cert_file, global.key_file), ("/ca".into(), "/c".into(), "/k".into()));
        let own = server_tls("sslmode=disable sslnegotiation=postgres sslrootcert=/own sslcert=/own", settings);
        assert_eq!((own.mode, own.negotiation), (SslMode::Disable, SslNegotiation::Postgres));
        assert_eq!((own.ca_file, own.cert_file, own.key_file), ("/own".into(), "/own".into(), "".into()));
    }

    #[test]
    fn direct_tls_needs_a_mode_that_insists_on_tls() {
        assert!(config("sslnegotiation=direct sslmode=verify-ca", "").is_ok());
        for (entry, settings) in [
            ("sslnegotiation=direct", ""),
            ("sslnegotiation=direct sslmode=prefer", "server_tls_sslmode = require"),
            ("sslmode=allow", "server_tls_sslmode = require\nserver_tls_sslnegotiation = direct"),
        ] {
            let error = config(entry, settings).unwrap_err().to_string();
            assert!(error.contains("too weak for sslnegotiation direct"), "{error}");
        }
    }
}
