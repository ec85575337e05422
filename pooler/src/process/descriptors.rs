//! How many files the process may have open: said at start, and raised as far as it will need and may.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;

/// The log, the pid file, listening sockets, what the runtime needs.
const OWN: u64 = 10;

/// Logs PgBouncer's line about it. A limit that is lower than what the configuration may need is raised, if the system lets
/// us: otherwise the clients that come last would be refused.
pub fn make_room(config: &Config) {
    let limit = getrlimit(Resource::Nofile);
    let expected = expected_use(config);
    let shown = |limit: Option<u64>| limit.map_or("unlimited".to_owned(), |limit| limit.to_string());
    tracing::info!(
        "kernel file descriptor limit: {} (hard: {}); max_client_conn: {}, max expected fd use: {expected}",
        shown(limit.current),
        shown(limit.maximum),
        config.settings.max_client_conn
    );
    let Some(wanted) = raised(limit, expected) else { return };
    match setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..limit }) {
        Ok(()) => tracing::info!("kernel file descriptor limit raised to {wanted}"),
        Err(error) => tracing::warn!("cannot raise the kernel file descriptor limit to {wanted}: {error}"),
    }
}

/// What to raise the limit to; `None` if it is high enough, or as high as it may be.
fn raised(limit: Rlimit, expected: u64) -> Option<u64> {
    let current = limit.current?;
    let wanted = expected.min(limit.maximum.unwrap_or(u64::MAX));
    (wanted > current).then_some(wanted)
}

/// All clients, and full pools of every entry: one pool for a forced user, else one for each user that is listed.
fn expected_use(config: &Config) -> u64 {
    let listed = config.secrets.len().max(1) as u64;
    let servers = config.databases.values().chain(&config.autodb).map(|database| match &database.user {
        Some(user) => u64::from(config.pool_size(database, user)),
        None => u64::from(config.pool_size(database, "")) * listed,
    });
    OWN + u64::from(config.settings.max_client_conn) + servers.sum::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_raised_as_far_as_needed_and_allowed() {
        let limit = |current, maximum| Rlimit { current, maximum };
        assert_eq!(raised(limit(Some(1024), Some(4096)), 100), None);
        assert_eq!(raised(limit(Some(1024), Some(4096)), 2000), Some(2000));
        assert_eq!(raised(limit(Some(1024), Some(4096)), 9000), Some(4096));
        assert_eq!(raised(limit(Some(1024), None), 9000), Some(9000));
        assert_eq!(raised(limit(Some(4096), Some(4096)), 9000), None);
        assert_eq!(raised(limit(None, None), 9000), None);
    }
}
