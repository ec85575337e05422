//! Configuration: PgBouncer's files in, one immutable [`Config`] out.
//!
//! Two steps. `ini` turns text into raw entries, each with its file and line; [`Config`] gives them their meaning, or
//! refuses the whole with the place of the first mistake. Nothing of a file with a mistake takes effect, which is a
//! deliberate difference from PgBouncer (it applies the lines before the mistake).
//!
//! - `settings`: section `[pgbouncer]`, one row per setting;
//! - `databases`, `users`: the other sections, whose values are `conninfo` strings;
//! - `tls`: the values of its `*_tls_*` settings;
//! - `server_tls`: TLS with servers, by settings or entry;
//! - `auth_file`: users and their secrets;
//! - `hba`: rules and user name maps for `auth_type = hba`;
//! - `ldap`: options of LDAP authentication;
//! - `network`: ranges of addresses;
//! - `effective`: which value counts where several are given.

mod auth_file;
mod conninfo;
mod databases;
mod effective;
mod error;
mod hba;
mod ini;
mod ldap;
mod network;
mod server_tls;
mod settings;
mod tls;
mod users;
mod values;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use sluice_wire::auth::Secret;

pub use auth_file::parse as parse_users;
pub(crate) use conninfo::parse as parse_conninfo;
pub use databases::{CONSOLE, Database};
pub use error::{ConfigError, Place};
pub use hba::{Applicant, Hba, HbaMethod, IdentMaps, Rule};
pub use ldap::{LdapBind, LdapOptions};
pub use network::Networks;
pub use server_tls::{EntryTls, ServerTlsSettings};
pub use settings::{ConfigRow, Settings};
pub use tls::{CipherList, Curves, Suites13, TlsVersions, openssl_name};
pub use users::{Peer, UserSettings};
pub use values::{AuthType, FileMode, List, LoadBalanceHosts, PoolMode, SslMode, SslNegotiation};

use ini::{Item, Section};

/// A whole configuration. It never changes: RELOAD and SET make a new one.
#[derive(Debug, Clone)]
pub struct Config {
    /// Section `[pgbouncer]`. Its `conffile` is the file that the next reload reads.
    pub settings: Settings,
    /// Section `[databases]` without its `*` entry.
    pub databases: BTreeMap<String, Database>,
    /// The `*` entry, for databases that are not listed.
    pub autodb: Option<Database>,
    /// Section `[users]`.
    pub users: BTreeMap<String, UserSettings>,
    /// Section `[peers]`.
    pub peers: BTreeMap<u16, Peer>,
    /// Users and secrets from `auth_file`.
    pub secrets: Arc<HashMap<String, Secret>>,
    /// If most of these are SCRAM verifiers, the iterations that most of them have.
    pub usual_scram_iterations: Option<u32>,
    /// The rules of `auth_hba_file`; empty unless `auth_type` is `hba`.
    pub hba: Arc<Hba>,
    /// The maps of `auth_ident_file`; likewise.
    pub ident_maps: Arc<IdentMaps>,
    /// What `auth_ldap_options` say; `None` unless `auth_type` is `ldap`.
    pub ldap: Option<Arc<LdapOptions>>,
}

impl Config {
    /// Reads a configuration file and all that it names.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let settings = Settings { conffile: path.to_owned(), ..Settings::default() };
        Self::build(settings, ini::read(path)?)
    }

    /// Reads the configuration file again. Settings that only count at start keep their value.
    pub fn reload(&self) -> Result<Self, ConfigError> {
        let mut config = Self::load(&self.settings.conffile)?;
        config.settings.keep_start_settings(&self.settings);
        Ok(config)
    }

    /// Reads a configuration from a text, which errors call `sluice.ini`.
    pub fn parse_str(text: &str) -> Result<Self, ConfigError> {
        Self::build(Settings::default(), ini::parse(text, "sluice.ini")?)
    }

    /// The configuration after `SET key = value`. As in PgBouncer, a setting that only counts at start keeps its value,
    /// without an error.
    pub fn with_setting(&self, key: &str, value: &str) -> Result<Self, ConfigError> {
        let mut config = self.clone();
        if !Settings::is_changeable(key)? {
            return Ok(config);
        }
        config.settings.set(key, value)?;
        config.check()?;
        config.check_sharded()?;
        config.check_negotiation()?;
        if config.settings.auth_file != self.settings.auth_file {
            config.read_secrets()?;
        }
        if matches!(key, "auth_type" | "auth_hba_file" | "auth_ident_file" | "auth_ldap_options") {
            config.read_hba()?;
            config.read_ldap()?;
        }
        Ok(config)
    }

    /// The rows of SHOW CONFIG, in PgBouncer's order.
    pub fn show(&self) -> Vec<ConfigRow> {
        self.settings.show()
    }

    /// The entry for a database that a client asks for: a listed one, or one made from the `*` entry.
    pub fn database(&self, name: &str) -> Option<Database> {
        let listed = self.databases.get(name).cloned();
        listed.or_else(|| Some(self.autodb.as_ref()?.instance(name)))
    }

    fn build(settings: Settings, items: Vec<Item>) -> Result<Self, ConfigError> {
        let mut config = Self {
            settings,
            databases: BTreeMap::new(),
            autodb: None,
            users: BTreeMap::new(),
            peers: BTreeMap::new(),
            secrets: Arc::default(),
            usual_scram_iterations: None,
            hba: Arc::default(),
            ident_maps: Arc::default(),
            ldap: None,
        };
        if !items.iter().any(|item| item.section == Section::Pgbouncer) {
            return Err(
                ConfigError::new("main section missing from config file").hint("begin the file with [pgbouncer]")
            );
        }
        for item in items {
            config.take(item.section, item.entry).map_err(|error| error.at(&item.place))?;
        }
        config.check_sharded()?;
        config.check_negotiation()?;
        config.read_secrets()?;
        config.read_hba()?;
        config.read_ldap()?;
        Ok(config)
    }

    fn read_ldap(&mut self) -> Result<(), ConfigError> {
        if self.settings.auth_type == AuthType::Ldap {
            let options = LdapOptions::parse(self.settings.auth_ldap_options.as_deref().unwrap_or_default());
            self.ldap = Some(Arc::new(options.map_err(|error| error.within("auth_ldap_options"))?));
        }
        Ok(())
    }

    fn read_secrets(&mut self) -> Result<(), ConfigError> {
        self.secrets = match &self.settings.auth_file {
            Some(path) => Arc::new(auth_file::read(path)?),
            None => Arc::default(),
        };
        self.usual_scram_iterations = auth_file::usual_scram_iterations(&self.secrets);
        Ok(())
    }

    fn read_hba(&mut self) -> Result<(), ConfigError> {
        if self.settings.auth_type != AuthType::Hba {
            return Ok(());
        }
        let file = &self.settings.auth_hba_file;
        if file.as_os_str().is_empty() {
            return Err(
                ConfigError::new("auth_type is hba, but there is no auth_hba_file").hint("set auth_hba_file first")
            );
        }
        self.hba = Arc::new(Hba::read(file)?);
        if let Some(file) = &self.settings.auth_ident_file {
            self.ident_maps = Arc::new(IdentMaps::read(file)?);
        }
        Ok(())
    }

    /// Under session pooling a client keeps one server, and so one shard: its other rows would seem not to exist. A user
    /// whose own mode is session is refused at login, because other databases may be meant.
    fn check_sharded(&self) -> Result<(), ConfigError> {
        let by_session = |database: &&Database| {
            database.is_sharded() && database.pool_mode.unwrap_or(self.settings.pool_mode) == PoolMode::Session
        };
        match self.databases.values().chain(&self.autodb).find(by_session) {
            None => Ok(()),
            Some(database) => {
                let text = format!("database \"{}\" is sharded and cannot be pooled by session", database.name);
                Err(ConfigError::new(text).hint("add pool_mode=transaction to its entry"))
            }
        }
    }

    fn take(&mut self, section: Section, entry: Option<(String, String)>) -> Result<(), ConfigError> {
        let Some((key, value)) = entry else {
            if section == Section::Pgbouncer {
                self.settings.reset();
            }
            return Ok(());
        };
        match section {
            Section::Pgbouncer => {
                self.settings.set(&key, &value)?;
                self.check()?;
            }
            Section::Databases => {
                let database = Database::parse(&key, &value)?;
                match key.as_str() {
                    "*" => self.autodb = Some(database),
                    _ => drop(self.databases.insert(key, database)),
                }
            }
            Section::Users => {
                let user = UserSettings::parse(&key, &value)?;
                self.users.insert(key, user);
            }
            Section::Peers => {
                let peer = Peer::parse(&key, &value)?;
                self.peers.insert(peer.id, peer);
            }
        }
        Ok(())
    }

    /// What the type of a setting cannot say.
    fn check(&self) -> Result<(), ConfigError> {
        if self.settings.auth_dbname.as_deref() == Some(databases::CONSOLE) {
            return Err(databases::reserved_auth_dbname());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
