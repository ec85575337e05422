//! How the control plane reaches the catalog and the shards: credentials, session settings, deadlines.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use sluice_router::map::Placement;
use tokio_postgres::config::Host;
use tokio_postgres::tls::NoTlsStream;
use tokio_postgres::{Client, Config, Connection, NoTls, Socket};

use crate::error::{CatalogError, explain};

/// How long the control plane waits for PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// To connect and log in.
    pub connect: Duration,
    /// For one statement; the server enforces it.
    pub statement: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { connect: Duration::from_secs(5), statement: Duration::from_secs(10) }
    }
}

impl Deadlines {
    /// Fails `work` if it takes longer than a connect and two statements may. The server's own limits come first; this one
    /// is for a server that does not answer at all.
    pub(crate) async fn bound<T>(
        self,
        what: &'static str,
        work: impl Future<Output = Result<T, CatalogError>>,
    ) -> Result<T, CatalogError> {
        let after = self.connect + 2 * self.statement;
        tokio::time::timeout(after, work).await.unwrap_or(Err(CatalogError::Deadline { what, after }))
    }
}

/// Who the control plane is on the shards: the same role as in the catalog's connection string. To finish what others have
/// prepared, PostgreSQL asks for a superuser.
#[derive(Clone, PartialEq, Eq)]
pub struct ControlCredentials {
    pub user: String,
    pub password: Option<String>,
}

impl fmt::Debug for ControlCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the password: this may end in a log.
        f.debug_struct("ControlCredentials").field("user", &self.user).finish_non_exhaustive()
    }
}

impl ControlCredentials {
    /// Takes user and password out of a connection string.
    pub fn from_connection_string(text: &str) -> Result<Self, CatalogError> {
        let config = parse(text)?;
        let user = config.get_user().ok_or_else(|| CatalogError::ConnectionString("it names no user".to_owned()))?;
        let password = config.get_password().map(String::from_utf8_lossy).map(Into::into);
        Ok(Self { user: user.to_owned(), password })
    }
}

/// A connection to a shard's primary, outside any pool: for migrations. Its search_path is pg_catalog only.
pub async fn connect_shard(placement: &Placement, credentials: &ControlCredentials) -> Result<Client, CatalogError> {
    let deadlines = Deadlines::default();
    let (client, connection) = connect(&shard_config(placement, credentials, deadlines), deadlines).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// A connection to the catalog's database, outside any pool: for migrations. Its search_path is pg_catalog only.
pub async fn connect_catalog(connection_string: &str) -> Result<Client, CatalogError> {
    let deadlines = Deadlines::default();
    let (client, connection) = connect(&catalog_config(connection_string, deadlines)?, deadlines).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// The task that drives a connection, which its caller has to spawn.
pub(crate) type Driver = Connection<Socket, NoTlsStream>;

pub(crate) async fn connect(config: &Config, deadlines: Deadlines) -> Result<(Client, Driver), CatalogError> {
    let failed = |reason| CatalogError::Connect { target: describe(config), reason };
    match tokio::time::timeout(deadlines.connect, config.connect(NoTls)).await {
        Ok(connected) => connected.map_err(|error| failed(explain(&error))),
        Err(_) => Err(failed(format!("no answer within {} ms", deadlines.connect.as_millis()))),
    }
}

/// The catalog's connection string with the control plane's session settings.
pub(crate) fn catalog_config(text: &str, deadlines: Deadlines) -> Result<Config, CatalogError> {
    let mut config = parse(text)?;
    add_session_settings(&mut config, deadlines);
    Ok(config)
}

pub(crate) fn shard_config(placement: &Placement, credentials: &ControlCredentials, deadlines: Deadlines) -> Config {
    let mut config = Config::new();
    config.host(&placement.host).port(placement.port).dbname(&placement.dbname).user(&credentials.user);
    if let Some(password) = &credentials.password {
        config.password(password);
    }
    add_session_settings(&mut config, deadlines);
    config
}

fn parse(text: &str) -> Result<Config, CatalogError> {
    text.parse().map_err(|error| CatalogError::ConnectionString(explain(&error)))
}

fn add_session_settings(config: &mut Config, deadlines: Deadlines) {
    let statement = deadlines.statement.as_millis();
    // Recovery acts on what it has committed, so its commits must be on disk, whatever the role's defaults are.
    let own = format!(
        "-c statement_timeout={statement} -c idle_in_transaction_session_timeout={statement} \
         -c synchronous_commit=on -c search_path=pg_catalog"
    );
    let options = match config.get_options() {
        Some(given) => format!("{own} {given}"),
        None => own,
    };
    config.options(options).connect_timeout(deadlines.connect).tcp_user_timeout(deadlines.statement);
    if config.get_application_name().is_none() {
        config.application_name("sluice control");
    }
}

/// Database and address; never the password.
pub(crate) fn describe(config: &Config) -> String {
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(name)) => name.clone(),
        Some(Host::Unix(directory)) => directory.display().to_string(),
        None => "localhost".to_owned(),
    };
    let port = config.get_ports().first().copied().unwrap_or(5432);
    format!("database \"{}\" at {host}:{port}", config.get_dbname().or(config.get_user()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_come_from_the_catalogs_connection_string_and_are_not_printed() {
        let credentials = ControlCredentials::from_connection_string("host=h user=control password=secret").unwrap();
        assert_eq!((&*credentials.user, credentials.password.as_deref()), ("control", Some("secret")));
        assert!(!format!("{credentials:?}").contains("secret"));
        assert!(ControlCredentials::from_connection_string("host=h").is_err());
        assert!(ControlCredentials::from_connection_string("nonsense").is_err());
    }

    #[test]
    fn options_of_the_connection_string_come_last_and_win() {
        let config = catalog_config("host=h options='-c statement_timeout=1'", Deadlines::default()).unwrap();
        assert!(config.get_options().is_some_and(|options| options.ends_with("-c statement_timeout=1")));
    }

    #[tokio::test]
    async fn a_server_that_accepts_and_says_nothing_is_given_up() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = silent.local_addr().unwrap().port();
        let deadlines = Deadlines { connect: Duration::from_millis(50), ..Deadlines::default() };
        let config = catalog_config(&format!("host=127.0.0.1 port={port} user=u dbname=d"), deadlines).unwrap();
        let error = connect(&config, deadlines).await.err().unwrap().to_string();
        assert!(error.contains(&format!("database \"d\" at 127.0.0.1:{port}: no answer within 50 ms")), "{error}");
    }
}
