//! Which value counts where a setting can be given in several places: the user's, else the database entry's, else the
//! global one.
//!
//! "Server user" is the entry's forced user if it has one, else the login user: the settings of a login user do not
//! reach a pool with a forced user.

use std::time::Duration;

use super::values::PoolMode;
use super::{Config, Database, Peer, UserSettings};

impl Config {
    /// When the servers of a pool are given back.
    pub fn pool_mode(&self, database: &Database, server_user: &str) -> PoolMode {
        self.user(server_user).and_then(|user| user.pool_mode).or(database.pool_mode).unwrap_or(self.settings.pool_mode)
    }

    /// Servers of a pool; 0 is no limit.
    pub fn pool_size(&self, database: &Database, server_user: &str) -> u32 {
        self.user(server_user)
            .and_then(|user| user.pool_size)
            .or(database.pool_size)
            .unwrap_or(self.settings.default_pool_size)
    }

    /// Connections to a peer for forwarded cancel requests; 0 is no limit.
    pub fn peer_pool_size(&self, peer: &Peer) -> u32 {
        peer.pool_size.unwrap_or(self.settings.default_pool_size)
    }

    /// Extra servers of a pool whose clients wait too long.
    pub fn reserve_pool_size(&self, database: &Database, server_user: &str) -> u32 {
        self.user(server_user)
            .and_then(|user| user.reserve_pool_size)
            .or(database.reserve_pool_size)
            .unwrap_or(self.settings.reserve_pool_size)
    }

    /// Servers to keep in a pool that is in use.
    pub fn min_pool_size(&self, database: &Database) -> u32 {
        database.min_pool_size.unwrap_or(self.settings.min_pool_size)
    }

    /// Most servers of a database entry; 0 is no limit.
    pub fn max_db_connections(&self, database: &Database) -> u32 {
        database.max_db_connections.unwrap_or(self.settings.max_db_connections)
    }

    /// Most clients of a database entry; 0 is no limit.
    pub fn max_db_client_connections(&self, database: &Database) -> u32 {
        database.max_db_client_connections.unwrap_or(self.settings.max_db_client_connections)
    }

    /// Most servers that log in as a user; 0 is no limit.
    pub fn max_user_connections(&self, server_user: &str) -> u32 {
        self.user(server_user).and_then(|user| user.max_user_connections).unwrap_or(self.settings.max_user_connections)
    }

    /// Most clients that log in as a user; 0 is no limit.
    pub fn max_user_client_connections(&self, login_user: &str) -> u32 {
        self.user(login_user)
            .and_then(|user| user.max_user_client_connections)
            .unwrap_or(self.settings.max_user_client_connections)
    }

    /// Transactions of a server-side user that may begin in a second; 0 is no limit.
    pub fn max_user_transaction_rate(&self, server_user: &str) -> u32 {
        self.user(server_user)
            .and_then(|user| user.max_user_transaction_rate)
            .unwrap_or(self.settings.max_user_transaction_rate)
    }

    /// Transactions of a database entry that may begin in a second; 0 is no limit.
    pub fn max_db_transaction_rate(&self, database: &Database) -> u32 {
        database.max_db_transaction_rate.unwrap_or(self.settings.max_db_transaction_rate)
    }

    /// Transactions of one tenant at the same time; 0 is no limit.
    pub fn max_tenant_transactions(&self, database: &Database) -> u32 {
        database.max_tenant_transactions.unwrap_or(self.settings.max_tenant_transactions)
    }

    /// Transactions of one tenant that may begin in a second; 0 is no limit.
    pub fn max_tenant_transaction_rate(&self, database: &Database) -> u32 {
        database.max_tenant_transaction_rate.unwrap_or(self.settings.max_tenant_transaction_rate)
    }

    /// Age at which a server is closed when it is free; zero uses each connection once.
    pub fn server_lifetime(&self, database: &Database) -> Duration {
        database.server_lifetime.unwrap_or(self.settings.server_lifetime)
    }

    /// Longest a query may wait for a server; `None` is for ever.
    pub fn query_wait_timeout(&self, database: &Database, login_user: &str) -> Option<Duration> {
        let timeout = self
            .user(login_user)
            .and_then(|user| user.query_wait_timeout)
            .or(database.query_wait_timeout)
            .unwrap_or(self.settings.query_wait_timeout);
        unless_off(timeout)
    }

    /// Longest a query may run; `None` is for ever.
    pub fn query_timeout(&self, server_user: &str) -> Option<Duration> {
        let user = self.user(server_user).and_then(|user| user.query_timeout);
        unless_off(user.unwrap_or(self.settings.query_timeout))
    }

    /// Longest a client may idle in a transaction; `None` is for ever.
    pub fn idle_transaction_timeout(&self, server_user: &str) -> Option<Duration> {
        let user = self.user(server_user).and_then(|user| user.idle_transaction_timeout);
        unless_off(user.unwrap_or(self.settings.idle_transaction_timeout))
    }

    /// Longest a transaction may take; `None` is for ever.
    pub fn transaction_timeout(&self, server_user: &str) -> Option<Duration> {
        let user = self.user(server_user).and_then(|user| user.transaction_timeout);
        unless_off(user.unwrap_or(self.settings.transaction_timeout))
    }

    /// Longest a client may idle without a server; `None` is for ever.
    pub fn client_idle_timeout(&self, login_user: &str) -> Option<Duration> {
        let user = self.user(login_user).and_then(|user| user.client_idle_timeout);
        unless_off(user.unwrap_or(self.settings.client_idle_timeout))
    }

    /// Who runs `auth_query` for clients of an entry (`None`: of one that isn't there, or of the console).
    pub fn auth_user<'a>(&'a self, database: Option<&'a Database>) -> Option<&'a str> {
        database.and_then(|database| database.auth_user.as_deref()).or(self.settings.auth_user.as_deref())
    }

    /// What it runs.
    pub fn auth_query<'a>(&'a self, database: Option<&'a Database>) -> &'a str {
        database.and_then(|database| database.auth_query.as_deref()).unwrap_or(&self.settings.auth_query)
    }

    /// The name of the entry that it runs on.
    pub fn auth_dbname<'a>(&'a self, database: Option<&'a Database>) -> Option<&'a str> {
        database
            .and_then(|database| database.auth_dbname.as_deref())
            .or(self.settings.auth_dbname.as_deref())
            .or(database.map(|database| database.name.as_str()))
    }

    fn user(&self, name: &str) -> Option<&UserSettings> {
        self.users.get(name)
    }
}

/// Zero switches a timeout off.
fn unless_off(timeout: Duration) -> Option<Duration> {
    (!timeout.is_zero()).then_some(timeout)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "[pgbouncer]\npool_mode=session\ndefault_pool_size=1\nreserve_pool_size=2\nmin_pool_size=3\n\
        max_db_connections=4\nmax_db_client_connections=5\nmax_user_connections=6\nmax_user_client_connections=7\n\
        server_lifetime=8\nquery_wait_timeout=9\nquery_timeout=10\nidle_transaction_timeout=11\n\
        transaction_timeout=12\nclient_idle_timeout=13\n\
        [databases]\nbare=\nfull= pool_mode=transaction pool_size=21 reserve_pool_size=22 min_pool_size=23 \
        max_db_connections=24 max_db_client_connections=25 server_lifetime=28 query_wait_timeout=0\n\
        [users]\nann= pool_mode=statement pool_size=31 reserve_pool_size=32 max_user_connections=36 \
        max_user_client_connections=37 query_wait_timeout=39 query_timeout=40 idle_transaction_timeout=41 \
        transaction_timeout=42 client_idle_timeout=43\n";

    fn seconds(count: u64) -> Option<Duration> {
        Some(Duration::from_secs(count))
    }

    #[test]
    fn user_beats_database_beats_global() {
        let config = Config::parse_str(TEXT).unwrap();
        let (bare, full) = (&config.databases["bare"], &config.databases["full"]);
        let by = |database, user| {
            (
                config.pool_mode(database, user),
                config.pool_size(database, user),
                config.reserve_pool_size(database, user),
                config.query_wait_timeout(database, user),
            )
        };
        assert_eq!(by(bare, "bob"), (PoolMode::Session, 1, 2, seconds(9)));
        assert_eq!(by(full, "bob"), (PoolMode::Transaction, 21, 22, None));
        assert_eq!(by(full, "ann"), (PoolMode::Statement, 31, 32, seconds(39)));
        assert_eq!(by(bare, "ann"), (PoolMode::Statement, 31, 32, seconds(39)));
    }

    #[test]
    fn database_beats_global() {
        let config = Config::parse_str(TEXT).unwrap();
        let of = |name: &str| {
            let database = &config.databases[name];
            (
                config.min_pool_size(database),
                config.max_db_connections(database),
                config.max_db_client_connections(database),
                config.server_lifetime(database).as_secs(),
            )
        };
        assert_eq!(of("bare"), (3, 4, 5, 8));
        assert_eq!(of("full"), (23, 24, 25, 28));
    }

    #[test]
    fn user_beats_global() {
        let config = Config::parse_str(TEXT).unwrap();
        let of = |user| {
            (
                (config.max_user_connections(user), config.max_user_client_connections(user)),
                config.query_timeout(user),
                config.idle_transaction_timeout(user),
                config.transaction_timeout(user),
                config.client_idle_timeout(user),
            )
        };
        assert_eq!(of("bob"), ((6, 7), seconds(10), seconds(11), seconds(12), seconds(13)));
        assert_eq!(of("ann"), ((36, 37), seconds(40), seconds(41), seconds(42), seconds(43)));
    }
}
