//! Entries of section `[databases]`: where a database's servers are, and what differs from the settings there.

use std::fmt;
use std::time::Duration;

use super::conninfo::{self, Pair};
use super::error::ConfigError;
use super::server_tls::EntryTls;
use super::values::{LoadBalanceHosts, PoolMode};

/// Longest name of a database in PostgreSQL, in bytes.
const MAX_NAME: usize = 63;
/// Longest password that PgBouncer carries.
const MAX_PASSWORD: usize = 65_530;
/// The console's database.
pub const CONSOLE: &str = "pgbouncer";

const KEYS: &[&str] = &[
    "application_name",
    "auth_dbname",
    "auth_query",
    "auth_user",
    "catalog",
    "client_encoding",
    "connect_query",
    "datestyle",
    "dbname",
    "host",
    "load_balance_hosts",
    "max_db_client_connections",
    "max_db_connections",
    "max_db_transaction_rate",
    "max_tenant_transaction_rate",
    "max_tenant_transactions",
    "min_pool_size",
    "password",
    "pool_mode",
    "pool_size",
    "port",
    "query_wait_timeout",
    "reserve_pool",
    "reserve_pool_size",
    "server_lifetime",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslnegotiation",
    "sslrootcert",
    "timezone",
    "user",
];

/// One database as clients name it. `None` in an optional field says "as in the settings" or "not given".
#[derive(Clone, PartialEq)]
pub struct Database {
    /// The name that clients ask for; `*` in the entry that serves all other names.
    pub name: String,
    /// The name that the server is asked for. For a sharded database, the name it has in the catalog.
    pub dbname: String,
    /// Names, addresses or socket folders, separated by commas; `None` for a unix socket in `unix_socket_dir`.
    pub host: Option<String>,
    /// The servers' port.
    pub port: u16,
    /// The user that all servers log in as, whoever the client is.
    pub user: Option<String>,
    /// That user's password.
    pub password: Option<String>,
    /// Servers per pool; 0 is no limit.
    pub pool_size: Option<u32>,
    /// Servers to keep in a pool that is in use.
    pub min_pool_size: Option<u32>,
    /// Extra servers for a pool whose clients wait too long.
    pub reserve_pool_size: Option<u32>,
    /// Most servers of the entry.
    pub max_db_connections: Option<u32>,
    /// Most clients of the entry.
    pub max_db_client_connections: Option<u32>,
    /// Transactions that may begin in a second.
    pub max_db_transaction_rate: Option<u32>,
    /// Transactions of one tenant at the same time.
    pub max_tenant_transactions: Option<u32>,
    /// Transactions of one tenant that may begin in a second.
    pub max_tenant_transaction_rate: Option<u32>,
    /// When a server is given back.
    pub pool_mode: Option<PoolMode>,
    /// Age at which a server is closed.
    pub server_lifetime: Option<Duration>,
    /// Longest a query may wait for a server; zero is for ever.
    pub query_wait_timeout: Option<Duration>,
    /// What a list of hosts means.
    pub load_balance_hosts: LoadBalanceHosts,
    /// Run on each new server before use.
    pub connect_query: Option<String>,
    /// Sent in the server's start-up message, as are the next three.
    pub client_encoding: Option<String>,
    /// Likewise.
    pub datestyle: Option<String>,
    /// Likewise.
    pub timezone: Option<String>,
    /// Likewise.
    pub application_name: Option<String>,
    /// Who runs `auth_query` for clients of this entry.
    pub auth_user: Option<String>,
    /// The query for a user's secret.
    pub auth_query: Option<String>,
    /// The entry that it runs on.
    pub auth_dbname: Option<String>,
    /// TLS with its servers, where it differs from `server_tls_*`.
    pub tls: EntryTls,
    /// Where the catalog of a sharded database is, as a URL or a connection string of its own. Its presence makes the
    /// database a sharded one: the servers are the shards that the catalog lists under `dbname`.
    pub catalog: Option<String>,
    /// Whether the entry names `dbname`; if not, it follows `name`.
    names_dbname: bool,
}

/// Without `password` and `catalog`, which hold secrets.
impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database")
            .field("name", &self.name)
            .field("dbname", &self.dbname)
            .field("host", &self.host)
            .field("port", &self.port)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

impl Database {
    /// Parses an entry.
    pub(super) fn parse(name: &str, connection: &str) -> Result<Self, ConfigError> {
        check_name(name)?;
        let mut database = Self::named(name);
        for (key, value) in conninfo::parse(connection)? {
            database.set(&Pair { key: &key, value: &value })?;
        }
        Ok(database)
    }

    /// The entry that a `*` entry makes for a database of this name.
    pub(super) fn instance(&self, name: &str) -> Self {
        let mut database = self.clone();
        name.clone_into(&mut database.name);
        if !database.names_dbname {
            name.clone_into(&mut database.dbname);
        }
        database
    }

    /// The hosts one by one; empty for a unix socket in `unix_socket_dir`.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.host.iter().flat_map(|hosts| hosts.split(',')).map(str::trim).filter(|host| !host.is_empty())
    }

    /// Whether the entry is a sharded database.
    pub fn is_sharded(&self) -> bool {
        self.catalog.is_some()
    }

    fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            dbname: name.to_owned(),
            host: None,
            port: 5432,
            user: None,
            password: None,
            pool_size: None,
            min_pool_size: None,
            reserve_pool_size: None,
            max_db_connections: None,
            max_db_client_connections: None,
            max_db_transaction_rate: None,
            max_tenant_transactions: None,
            max_tenant_transaction_rate: None,
            pool_mode: None,
            server_lifetime: None,
            query_wait_timeout: None,
            load_balance_hosts: LoadBalanceHosts::RoundRobin,
            connect_query: None,
            client_encoding: None,
            datestyle: None,
            timezone: None,
            application_name: None,
            auth_user: None,
            auth_query: None,
            auth_dbname: None,
            tls: EntryTls::default(),
            catalog: None,
            names_dbname: false,
        }
    }

    fn set(&mut self, pair: &Pair<'_>) -> Result<(), ConfigError> {
        let text = || Some(pair.value.to_owned());
        match pair.key {
            "dbname" => {
                pair.value.clone_into(&mut self.dbname);
                self.names_dbname = true;
            }
            "host" => self.host = text(),
            "port" => self.port = pair.port()?,
            "user" => self.user = text(),
            "password" if pair.value.len() > MAX_PASSWORD => {
                return Err(ConfigError::new("password too long"));
            }
            "password" => self.password = text(),
            "pool_size" => self.pool_size = pair.size()?,
            "min_pool_size" => self.min_pool_size = pair.size()?,
            "reserve_pool_size" | "reserve_pool" => self.reserve_pool_size = pair.size()?,
            "max_db_connections" => self.max_db_connections = pair.positive_size()?,
            "max_db_client_connections" => self.max_db_client_connections = pair.positive_size()?,
            "max_db_transaction_rate" => self.max_db_transaction_rate = pair.positive_size()?,
            "max_tenant_transactions" => self.max_tenant_transactions = pair.positive_size()?,
            "max_tenant_transaction_rate" => self.max_tenant_transaction_rate = pair.positive_size()?,
            "pool_mode" => self.pool_mode = Some(pair.parse()?),
            "server_lifetime" => {
                self.server_lifetime = Some(pair.seconds()?).filter(|age| !age.is_zero());
            }
            "query_wait_timeout" => self.query_wait_timeout = Some(pair.seconds()?),
            "load_balance_hosts" => self.load_balance_hosts = pair.parse()?,
            "connect_query" => self.connect_query = text(),
            "client_encoding" => self.client_encoding = text(),
            "datestyle" => self.datestyle = text(),
            "timezone" => self.timezone = text(),
            "application_name" => self.application_name = text(),
            "catalog" => self.catalog = text(),
            "auth_dbname" if pair.value == CONSOLE => return Err(reserved_auth_dbname()),
            "auth_dbname" => self.auth_dbname = text(),
            "auth_query" => self.auth_query = text(),
            "auth_user" => self.auth_user = text(),
            "sslmode" => self.tls.mode = Some(pair.parse()?),
            "sslnegotiation" => self.tls.negotiation = Some(pair.parse()?),
            "sslrootcert" => self.tls.ca_file = Some(pair.parse()?),
            "sslcert" => self.tls.cert_file = Some(pair.parse()?),
            "sslkey" => self.tls.key_file = Some(pair.parse()?),
            unknown => {
                let known = KEYS.iter().copied();
                return Err(ConfigError::unknown("database parameter", unknown, known));
            }
        }
        Ok(())
    }
}

pub(super) fn reserved_auth_dbname() -> ConfigError {
    ConfigError::new(format!("cannot use the reserved \"{CONSOLE}\" database as an auth_dbname"))
}

fn check_name(name: &str) -> Result<(), ConfigError> {
    if name == CONSOLE {
        return Err(ConfigError::new(format!("database name \"{CONSOLE}\" is reserved")).hint("it is the console's"));
    }
    if name.is_empty() {
        return Err(ConfigError::new("database name is empty"));
    }
    if name.len() > MAX_NAME {
        let text = format!("database name too long: \"{name}\"");
        return Err(ConfigError::new(text).hint(format!("at most {MAX_NAME} bytes")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(connection: &str) -> Database {
        Database::parse("epfo", connection).unwrap()
    }

    fn error(name: &str, connection: &str) -> String {
        Database::parse(name, connection).unwrap_err().to_string()
    }

    #[test]
    fn an_empty_entry_is_a_local_database_of_that_name() {
        let database = parse("");
        assert_eq!((database.dbname.as_str(), database.port), ("epfo", 5432));
        assert_eq!(database.hosts().count(), 0);
        assert!(!database.is_sharded());
    }

    #[test]
    fn every_known_key_is_taken() {
        for &key in KEYS {
            let value = match key {
                "pool_mode" => "statement",
                "load_balance_hosts" => "disable",
                "sslmode" => "require",
                "sslnegotiation" => "direct",
                _ => "7",
            };
            let before = parse("");
            let after = parse(&format!("{key}={value}"));
            assert_ne!(before, after, "{key}");
        }
    }

    #[test]
    fn sizes_inherit_where_pgbouncer_says_so() {
        let database = parse(
            "pool_size=-1 min_pool_size=0 reserve_pool=4 max_db_connections=0 max_db_client_connections=-5 \
             server_lifetime=0 query_wait_timeout=0",
        );
        assert_eq!(database.pool_size, None);
        assert_eq!(database.min_pool_size, Some(0));
        assert_eq!(database.reserve_pool_size, Some(4));
        assert_eq!(database.max_db_connections, None);
        assert_eq!(database.max_db_client_connections, None);
        assert_eq!(database.server_lifetime, None);
        assert_eq!(database.query_wait_timeout, Some(Duration::ZERO));
    }

    #[test]
    fn hosts_are_a_list() {
        let database = parse("host='a, 10.0.0.1,::1,/run/pg'");
        let hosts: Vec<_> = database.hosts().collect();
        assert_eq!(hosts, ["a", "10.0.0.1", "::1", "/run/pg"]);
    }

    #[test]
    fn a_catalog_makes_a_sharded_database() {
        let database = parse("catalog='postgres://u:p@h:5433/catalog' dbname=fund");
        assert!(database.is_sharded());
        assert_eq!(database.dbname, "fund");
    }

    #[test]
    fn instances_follow_the_name_unless_told_otherwise() {
        let any = Database::parse("*", "host=h").unwrap();
        assert_eq!(any.instance("x").dbname, "x");
        let one = Database::parse("*", "host=h dbname=fixed").unwrap();
        let instance = one.instance("x");
        assert_eq!((instance.name.as_str(), instance.dbname.as_str()), ("x", "fixed"));
    }

    #[test]
    fn bad_entries_are_explained() {
        let long = "n".repeat(64);
        for (name, connection, expected) in [
            ("pgbouncer", "", "database name \"pgbouncer\" is reserved (it is the console's)".to_owned()),
            ("", "", "database name is empty".to_owned()),
            (&long, "", format!("database name too long: \"{long}\" (at most 63 bytes)")),
            ("d", "prot=1", "unknown database parameter \"prot\"".to_owned()),
            ("d", "pool_sizes=1", "unknown database parameter \"pool_sizes\" (did you mean \"pool_size\"?)".to_owned()),
            ("d", "port=0", "bad value \"0\" for \"port\": must be a port from 1 to 65535".to_owned()),
            (
                "d",
                "pool_mode=x",
                "bad value \"x\" for \"pool_mode\": must be one of: session, transaction, statement".to_owned(),
            ),
            (
                "d",
                "auth_dbname=pgbouncer",
                "cannot use the reserved \"pgbouncer\" database as an auth_dbname".to_owned(),
            ),
        ] {
            assert_eq!(error(name, connection), expected);
        }
        let password = format!("password={}", "p".repeat(MAX_PASSWORD + 1));
        assert_eq!(error("d", &password), "password too long");
    }

    #[test]
    fn debug_output_shows_no_secret() {
        let shown = format!("{:?}", parse("password=hush catalog='postgres://u:hush@h/c'"));
        assert!(!shown.contains("hush"), "{shown}");
    }
}
