//! Entries of sections `[users]` and `[peers]`.

use std::time::Duration;

use super::conninfo::{self, Pair};
use super::error::ConfigError;
use super::values::PoolMode;

/// Longest user name, in bytes.
pub(super) const MAX_NAME: usize = 127;

const USER_KEYS: &[&str] = &[
    "client_idle_timeout",
    "idle_transaction_timeout",
    "max_user_client_connections",
    "max_user_connections",
    "max_user_transaction_rate",
    "pool_mode",
    "pool_size",
    "query_timeout",
    "query_wait_timeout",
    "reserve_pool_size",
    "transaction_timeout",
];
const PEER_KEYS: &[&str] = &["host", "port", "pool_size"];

/// What is different for one user. `None` says "as in the database entry or the settings".
#[derive(Debug, Clone, Default, PartialEq)]
pub struct UserSettings {
    /// When a server is given back.
    pub pool_mode: Option<PoolMode>,
    /// Servers per pool; 0 is no limit.
    pub pool_size: Option<u32>,
    /// Extra servers for a pool whose clients wait too long.
    pub reserve_pool_size: Option<u32>,
    /// Most servers that log in as this user.
    pub max_user_connections: Option<u32>,
    /// Most clients that log in as this user.
    pub max_user_client_connections: Option<u32>,
    /// Transactions that may begin in a second.
    pub max_user_transaction_rate: Option<u32>,
    /// Longest a query may run.
    pub query_timeout: Option<Duration>,
    /// Longest a client may idle in a transaction.
    pub idle_transaction_timeout: Option<Duration>,
    /// Longest a transaction may take.
    pub transaction_timeout: Option<Duration>,
    /// Longest a query may wait for a server; zero is for ever.
    pub query_wait_timeout: Option<Duration>,
    /// Longest a client may idle without a server.
    pub client_idle_timeout: Option<Duration>,
}

impl UserSettings {
    /// Parses an entry.
    pub(super) fn parse(name: &str, connection: &str) -> Result<Self, ConfigError> {
        check_name(name)?;
        let mut user = Self::default();
        for (key, value) in conninfo::parse(connection)? {
            user.set(&Pair { key: &key, value: &value })?;
        }
        Ok(user)
    }

    fn set(&mut self, pair: &Pair<'_>) -> Result<(), ConfigError> {
        // Zero means "as elsewhere" for all times but query_wait_timeout, where it means "never".
        let time = || Ok(Some(pair.seconds()?).filter(|time| !time.is_zero()));
        match pair.key {
            "pool_mode" => self.pool_mode = Some(pair.parse()?),
            "pool_size" => self.pool_size = pair.size()?,
            "reserve_pool_size" => self.reserve_pool_size = pair.size()?,
            "max_user_connections" => self.max_user_connections = pair.positive_size()?,
            "max_user_client_connections" => {
                self.max_user_client_connections = pair.positive_size()?;
            }
            "max_user_transaction_rate" => self.max_user_transaction_rate = pair.positive_size()?,
            "query_timeout" => self.query_timeout = time()?,
            "idle_transaction_timeout" => self.idle_transaction_timeout = time()?,
            "transaction_timeout" => self.transaction_timeout = time()?,
            "query_wait_timeout" => self.query_wait_timeout = Some(pair.seconds()?),
            "client_idle_timeout" => self.client_idle_timeout = time()?,
            unknown => {
                let known = USER_KEYS.iter().copied();
                return Err(ConfigError::unknown("user parameter", unknown, known));
            }
        }
        Ok(())
    }
}

pub(super) fn check_name(name: &str) -> Result<(), ConfigError> {
    match name.len() {
        0 => Err(ConfigError::new("user name is empty")),
        1..=MAX_NAME => Ok(()),
        _ => Err(ConfigError::new(format!("user name too long: \"{name}\"")).hint(format!("at most {MAX_NAME} bytes"))),
    }
}

/// Another process that answers on the same address, to forward cancel requests to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its `peer_id`.
    pub id: u16,
    /// Where it listens.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Most connections for forwarded requests.
    pub pool_size: Option<u32>,
}

impl Peer {
    /// Parses an entry.
    pub(super) fn parse(id: &str, connection: &str) -> Result<Self, ConfigError> {
        let id =
            id.parse().ok().filter(|&id| id > 0).ok_or_else(|| {
                ConfigError::new(format!("bad peer id \"{id}\"")).hint("use a number from 1 to 65535")
            })?;
        let (mut host, mut port, mut pool_size) = (None, 6432, None);
        for (key, value) in conninfo::parse(connection)? {
            let pair = Pair { key: &key, value: &value };
            match pair.key {
                "host" => host = Some(value.clone()),
                "port" => port = pair.port()?,
                "pool_size" => pool_size = pair.size()?,
                unknown => {
                    let known = PEER_KEYS.iter().copied();
                    return Err(ConfigError::unknown("peer parameter", unknown, known));
                }
            }
        }
        let host = host.ok_or_else(|| ConfigError::new(format!("peer {id} has no host")))?;
        Ok(Self { id, host, port, pool_size })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_key_is_taken() {
        for &key in USER_KEYS {
            let value = if key == "pool_mode" { "statement" } else { "7" };
            let user = UserSettings::parse("ann", &format!("{key}={value}")).unwrap();
            assert_ne!(user, UserSettings::default(), "{key}");
        }
    }

    #[test]
    fn zero_inherits_except_for_waiting_and_sizes() {
        let keys = USER_KEYS.iter().filter(|&&key| key != "pool_mode");
        let text: String = keys.map(|key| format!("{key}=0 ")).collect();
        let expected = UserSettings {
            pool_size: Some(0),
            reserve_pool_size: Some(0),
            query_wait_timeout: Some(Duration::ZERO),
            ..UserSettings::default()
        };
        assert_eq!(UserSettings::parse("ann", &text), Ok(expected));
    }

    #[test]
    fn bad_users_are_explained() {
        let error = |name: &str, text| UserSettings::parse(name, text).unwrap_err().to_string();
        let long = "u".repeat(128);
        assert_eq!(error("", ""), "user name is empty");
        assert_eq!(error(&long, ""), format!("user name too long: \"{long}\" (at most 127 bytes)"));
        assert_eq!(
            error("ann", "pool_mod=session"),
            "unknown user parameter \"pool_mod\" (did you mean \"pool_mode\"?)"
        );
        assert_eq!(
            error("ann", "query_timeout=1s"),
            "bad value \"1s\" for \"query_timeout\": must be a whole number of seconds"
        );
    }

    #[test]
    fn peers() {
        let peer = Peer::parse("3", "host=h pool_size=2").unwrap();
        assert_eq!((peer.id, peer.port, peer.pool_size), (3, 6432, Some(2)));
        let error = |id, text| Peer::parse(id, text).unwrap_err().to_string();
        assert_eq!(error("0", "host=h"), "bad peer id \"0\" (use a number from 1 to 65535)");
        assert_eq!(error("65536", "host=h"), "bad peer id \"65536\" (use a number from 1 to 65535)");
        assert_eq!(error("1", ""), "peer 1 has no host");
        assert_eq!(error("1", "host=h user=u"), "unknown peer parameter \"user\"");
    }
}
