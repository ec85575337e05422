//! The settings of section `[pgbouncer]`: one row each. The row drives the field of [`Settings`], its default, parsing,
//! RELOAD, SET and SHOW CONFIG. Rows stand in the order of PgBouncer's SHOW CONFIG.
//!
//! A row also says how much of the setting this version can do. What it cannot do is refused when a file asks for it,
//! never ignored.

use std::path::PathBuf;
use std::time::Duration;

use super::error::ConfigError;
use super::network::Networks;
use super::tls::{CipherList, Curves, DhParams, Suites13, TlsVersions};
use super::values::{AuthType, FileMode, List, PoolMode, SslMode, SslNegotiation, SyslogFacility, Value};

const AUTH_QUERY: &str = "SELECT rolname, CASE WHEN rolvaliduntil < now() THEN NULL ELSE rolpassword END \
    FROM pg_authid WHERE rolname=$1 AND rolcanlogin";

/// When a setting takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    /// At once: by RELOAD, SIGHUP and SET, too.
    Reload,
    /// At start only. As in PgBouncer, later values are accepted and have no effect.
    Start,
}

/// How much of a setting this version can do.
#[derive(Debug, Clone, Copy)]
enum Support {
    /// All of it.
    Full,
    /// The listed values.
    Only(&'static [&'static str]),
}

use Support::{Full, Only};
use Takes::{Reload, Start};

/// A row of the table.
struct Setting {
    name: &'static str,
    default: Option<&'static str>,
    takes: Takes,
    support: Support,
    parse: fn(&mut Settings, &str) -> Result<(), String>,
    show: fn(&Settings) -> Option<String>,
    copy: fn(&mut Settings, &Settings),
    /// For the page `docs/settings.md`.
    #[cfg(test)]
    says: &'static str,
}

/// Expands rows of `name: type = default, when it takes effect, support;` to the struct and its table.
macro_rules! settings {
    ($($(#[doc = $doc:literal])+ $name:ident: $type:ty = $default:expr, $takes:expr, $support:expr;)*) => {
        /// The values of all settings. Durations of 0 mean what each setting says about 0.
        #[derive(Debug, Clone, PartialEq)]
        pub struct Settings {
            $($(#[doc = $doc])+ pub $name: $type,)*
        }

        impl Default for Settings {
            fn default() -> Self {
                Self {
                    $($name: <$type>::parse($default.unwrap_or("")).expect("a default parses"),)*
                }
            }
        }

        static TABLE: &[Setting] = &[$(Setting {
            name: stringify!($name),
            default: $default,
            takes: $takes,
            support: $support,
            parse: |settings, text| {
                settings.$name = Value::parse(text)?;
                Ok(())
            },
            show: |settings| settings.$name.show(),
            copy: |to, from| to.$name.clone_from(&from.$name),
            #[cfg(test)]
            says: concat!($($doc),+),
        }),*];
    };
}

settings! {
    /// Users who may do everything on the console.
    admin_users: List = Some(""), Reload, Full;
    /// Append the client's address to its `application_name`.
    application_name_add_host: bool = Some("0"), Reload, Full;
    /// Database entry on which `auth_query` runs.
    auth_dbname: Option<String> = None, Reload, Full;
    /// The list of users and their secrets.
    auth_file: Option<PathBuf> = None, Reload, Full;
    /// Rules for `auth_type = hba`.
    auth_hba_file: PathBuf = Some(""), Reload, Full;
    /// User name maps for those rules.
    auth_ident_file: Option<PathBuf> = None, Reload, Full;
    /// Options for `auth_type = ldap`.
    auth_ldap_options: Option<String> = None, Reload, Full;
    /// Query for a user's secret.
    auth_query: String = Some(AUTH_QUERY), Reload, Full;
    /// How clients are authenticated.
    auth_type: AuthType = Some("md5"), Reload, Only(&["any", "trust", "plain", "md5", "cert", "hba", "ldap", "scram-sha-256"]);
    /// User that runs `auth_query`.
    auth_user: Option<String> = None, Reload, Full;
    /// Forget an unused entry made from `*` after this long; 0 never.
    autodb_idle_timeout: Duration = Some("3600"), Reload, Full;
    /// Drop a cancel request that takes longer.
    cancel_wait_timeout: Duration = Some("10"), Reload, Full;
    /// Drop a client that is idle this long without a server; 0 never.
    client_idle_timeout: Duration = Some("0"), Reload, Full;
    /// Drop a client that has not logged in by then; 0 never.
    client_login_timeout: Duration = Some("60"), Reload, Full;
    /// TLS 1.3 cipher suites for clients.
    client_tls13_ciphers: Option<Suites13> = None, Reload, Full;
    /// Authority for client certificates.
    client_tls_ca_file: PathBuf = Some(""), Reload, Full;
    /// Certificate shown to clients.
    client_tls_cert_file: PathBuf = Some(""), Reload, Full;
    /// Ciphers up to TLS 1.2 for clients.
    client_tls_ciphers: CipherList = Some("default"), Reload, Full;
    /// Diffie-Hellman parameters for clients.
    client_tls_dheparams: DhParams = Some("auto"), Reload, Full;
    /// Elliptic curve for clients.
    client_tls_ecdhcurve: Curves = Some("auto"), Reload, Full;
    /// Private key of the certificate shown to clients.
    client_tls_key_file: PathBuf = Some(""), Reload, Full;
    /// TLS versions for clients.
    client_tls_protocols: TlsVersions = Some("secure"), Reload, Full;
    /// Whether clients use TLS.
    client_tls_sslmode: SslMode = Some("disable"), Reload, Full;
    /// The file that the next reload reads; set from the command line.
    conffile: PathBuf = None, Reload, Full;
    /// Servers per pool; 0 is no limit.
    default_pool_size: u32 = Some("20"), Reload, Full;
    /// Refuse the simple query protocol.
    disable_pqexec: bool = Some("0"), Start, Full;
    /// How long a DNS answer is kept; its own time to live is not used.
    dns_max_ttl: Duration = Some("15"), Reload, Full;
    /// How long a failed lookup is kept.
    dns_nxdomain_ttl: Duration = Some("15"), Reload, Full;
    /// How often zone serials are polled; 0 never.
    dns_zone_check_period: Duration = Some("0"), Reload, Full;
    /// Longest a client may idle in a transaction; 0 for ever.
    idle_transaction_timeout: Duration = Some("0"), Reload, Full;
    /// Start-up parameters to accept and drop.
    ignore_startup_parameters: List = Some(""), Reload, Full;
    /// Name of the Windows service; without effect elsewhere.
    job_name: String = Some("pgbouncer"), Start, Full;
    /// TCP addresses or names; `*` for all, empty for no TCP.
    listen_addr: List = Some(""), Start, Full;
    /// Length of the kernel's queue of new connections.
    listen_backlog: u32 = Some("128"), Start, Full;
    /// TCP port, and suffix of the unix socket's name.
    listen_port: u16 = Some("6432"), Start, Full;
    /// Log logins and new server connections.
    log_connections: bool = Some("1"), Reload, Full;
    /// Log closings and their reasons.
    log_disconnections: bool = Some("1"), Reload, Full;
    /// Log errors that are sent to clients.
    log_pooler_errors: bool = Some("1"), Reload, Full;
    /// Log averages every `stats_period`.
    log_stats: bool = Some("1"), Reload, Full;
    /// File that the log is appended to; empty for none.
    logfile: PathBuf = Some(""), Reload, Full;
    /// NOTICE sent to each client at login; empty for none.
    login_notify_message: String = Some(""), Reload, Full;
    /// Most client connections, the console's excepted.
    max_client_conn: u32 = Some("100"), Reload, Full;
    /// Most clients of a database entry; 0 is no limit.
    max_db_client_connections: u32 = Some("0"), Reload, Full;
    /// Most servers of a database entry; 0 is no limit.
    max_db_connections: u32 = Some("0"), Reload, Full;
    /// Longest protocol message accepted, in bytes.
    max_packet_size: u32 = Some("2147483647"), Reload, Full;
    /// Prepared statements kept on each server; 0 turns tracking off.
    max_prepared_statements: u32 = Some("200"), Reload, Full;
    /// Most clients of a login user; 0 is no limit.
    max_user_client_connections: u32 = Some("0"), Reload, Full;
    /// Most servers of a server-side user; 0 is no limit.
    max_user_connections: u32 = Some("0"), Reload, Full;
    /// Servers to keep in a pool that is in use.
    min_pool_size: u32 = Some("0"), Reload, Full;
    /// This process's number among its peers; 0 for no peering.
    peer_id: u16 = Some("0"), Reload, Full;
    /// File for the process id; empty for none.
    pidfile: PathBuf = Some(""), Start, Full;
    /// Size of PgBouncer's relay buffers, in bytes. Sluice's are one per thread; the value changes nothing.
    pkt_buf: u32 = Some("4096"), Start, Full;
    /// When a server is given back.
    pool_mode: PoolMode = Some("session"), Reload, Full;
    /// Forget an empty pool after this long; 0 never.
    pool_idle_timeout: Duration = Some("0"), Reload, Full;
    /// Longest a query may run; 0 for ever.
    query_timeout: Duration = Some("0"), Reload, Full;
    /// Tell a client after so many seconds that it is queued; 0 never.
    query_wait_notify: u32 = Some("5"), Reload, Full;
    /// Longest a query may wait for a server; 0 for ever.
    query_wait_timeout: Duration = Some("120"), Reload, Full;
    /// Extra servers for a pool whose clients wait too long.
    reserve_pool_size: u32 = Some("0"), Reload, Full;
    /// How long they wait before that; 0 disables the reserve.
    reserve_pool_timeout: Duration = Some("5"), Reload, Full;
    /// Name servers to ask instead of the system: a file like `/etc/resolv.conf`, where addresses may have ports.
    resolv_conf: PathBuf = Some(""), Start, Full;
    /// Buffers handled on one socket before others get a turn. The runtime sees to fairness; the value changes nothing.
    sbuf_loopcnt: u32 = Some("5"), Reload, Full;
    /// Iterations of a SCRAM verifier derived from a plain password.
    scram_iterations: u32 = Some("4096"), Reload, Full;
    /// A server idle for longer is checked before use.
    server_check_delay: Duration = Some("30"), Reload, Full;
    /// The query for that; empty for no check, `<empty>` for an empty query.
    server_check_query: String = Some("<empty>"), Reload, Full;
    /// Longest that connecting and logging in to a server may take; 0 for ever.
    server_connect_timeout: Duration = Some("15"), Reload, Full;
    /// Close servers marked for it without waiting for session clients.
    server_fast_close: bool = Some("0"), Reload, Full;
    /// Close a server idle this long; 0 never.
    server_idle_timeout: Duration = Some("600"), Reload, Full;
    /// Close a server this old when it is free; 0 uses each connection once.
    server_lifetime: Duration = Some("3600"), Reload, Full;
    /// Pause after a failed connection or login.
    server_login_retry: Duration = Some("15"), Reload, Full;
    /// Run when a server is given back in session mode; empty for none.
    server_reset_query: String = Some("DISCARD ALL"), Reload, Full;
    /// Run it in every pool mode.
    server_reset_query_always: bool = Some("0"), Reload, Full;
    /// Hand out the longest-idle server first, not the latest used.
    server_round_robin: bool = Some("0"), Reload, Full;
    /// TLS 1.3 cipher suites for servers.
    server_tls13_ciphers: Option<Suites13> = None, Reload, Full;
    /// Authority for server certificates.
    server_tls_ca_file: PathBuf = Some(""), Reload, Full;
    /// Certificate shown to servers.
    server_tls_cert_file: PathBuf = Some(""), Reload, Full;
    /// Ciphers up to TLS 1.2 for servers.
    server_tls_ciphers: CipherList = Some("default"), Reload, Full;
    /// Private key of the certificate shown to servers.
    server_tls_key_file: PathBuf = Some(""), Reload, Full;
    /// TLS versions for servers.
    server_tls_protocols: TlsVersions = Some("secure"), Reload, Full;
    /// Whether server connections use TLS.
    server_tls_sslmode: SslMode = Some("prefer"), Reload, Full;
    /// Let several processes listen on one port.
    so_reuseport: bool = Some("0"), Start, Full;
    /// Seconds between two averages.
    stats_period: u32 = Some("60"), Reload, Full;
    /// Users who may read the console.
    stats_users: List = Some(""), Reload, Full;
    /// Drop sockets that SUSPEND cannot flush by then.
    suspend_timeout: Duration = Some("10"), Reload, Full;
    /// Log to syslog.
    syslog: bool = Some("0"), Reload, Full;
    /// Facility of messages to syslog.
    syslog_facility: SyslogFacility = Some("daemon"), Reload, Full;
    /// Name before messages to syslog.
    syslog_ident: String = Some("pgbouncer"), Reload, Full;
    /// TCP_DEFER_ACCEPT on PgBouncer's listeners: spares it connections that say nothing. Here they cost little until
    /// `client_login_timeout` ends them; the value changes nothing.
    tcp_defer_accept: u32 = Some("1"), Reload, Full;
    /// SO_KEEPALIVE on client and server sockets.
    tcp_keepalive: bool = Some("1"), Reload, Full;
    /// TCP_KEEPCNT; 0 for the system's default.
    tcp_keepcnt: u32 = Some("0"), Reload, Full;
    /// TCP_KEEPIDLE in seconds; 0 for the system's default.
    tcp_keepidle: u32 = Some("0"), Reload, Full;
    /// TCP_KEEPINTVL in seconds; 0 for the system's default.
    tcp_keepintvl: u32 = Some("0"), Reload, Full;
    /// SO_SNDBUF and SO_RCVBUF in bytes; 0 for the system's default.
    tcp_socket_buffer: u32 = Some("0"), Reload, Full;
    /// TCP_USER_TIMEOUT in milliseconds; 0 for the system's default.
    tcp_user_timeout: u32 = Some("0"), Reload, Full;
    /// Parameters to carry from server to server, beyond the standard ones.
    track_extra_parameters: List = Some("IntervalStyle"), Start, Full;
    /// Longest a transaction may take; 0 for ever.
    transaction_timeout: Duration = Some("0"), Reload, Full;
    /// Folder of the unix socket and of servers without a host; `@x` for the abstract namespace, empty for none.
    unix_socket_dir: PathBuf = Some("/tmp"), Start, Full;
    /// Group of the unix socket.
    unix_socket_group: String = Some(""), Start, Full;
    /// Permissions of the unix socket.
    unix_socket_mode: FileMode = Some("0777"), Start, Full;
    /// Unix user to become.
    user: Option<String> = None, Start, Full;
    /// How much to log, from 0 to 3.
    verbose: u32 = Some("0"), Reload, Full;

    // Sluice's own, after PgBouncer's so that those keep their order in SHOW CONFIG.
    /// Over how long the clients of a process that is being replaced are asked to leave, one after another.
    drain_time: Duration = Some("30"), Reload, Full;
    /// Addresses of proxies whose connections begin with a PROXY protocol header (version 1 or 2), and nobody else's may; empty
    /// for none. Unix sockets have no header.
    proxy_protocol_networks: Networks = Some(""), Reload, Full;
    /// How TLS with servers begins: asked for (`postgres`), or at once (`direct`: PostgreSQL 17 and later).
    server_tls_sslnegotiation: SslNegotiation = Some("postgres"), Reload, Full;
    /// Transactions of a database entry that may begin in a second; 0 for no limit.
    max_db_transaction_rate: u32 = Some("0"), Reload, Full;
    /// Transactions of one tenant (one value of the sharding key) at the same time, in a sharded database; 0 for no limit.
    max_tenant_transactions: u32 = Some("0"), Reload, Full;
    /// Transactions of one tenant that may begin in a second; 0 for no limit.
    max_tenant_transaction_rate: u32 = Some("0"), Reload, Full;
    /// Transactions of a server-side user that may begin in a second; 0 for no limit.
    max_user_transaction_rate: u32 = Some("0"), Reload, Full;
    /// Folder where the last shard map is kept; empty for nowhere.
    state_dir: PathBuf = Some(""), Start, Full;
    /// Threads that serve clients; 0: one up to two cores, then half the cores.
    worker_threads: u32 = Some("0"), Start, Full;
    /// Statement templates whose routing is remembered.
    template_cache_size: u32 = Some("10000"), Start, Full;
}

/// A row of SHOW CONFIG.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigRow {
    /// Name of the setting.
    pub key: &'static str,
    /// Its value as text; `None` if unset.
    pub value: Option<String>,
    /// Its default as text; `None` if it has none.
    pub default: Option<&'static str>,
    /// Whether RELOAD and SET can change it.
    pub changeable: bool,
}

impl Settings {
    /// Sets one setting from text, as a line of the file does.
    pub(super) fn set(&mut self, key: &str, text: &str) -> Result<(), ConfigError> {
        let row = find(key)?;
        (row.parse)(self, text)
            .map_err(|problem| ConfigError::new(format!("bad value \"{text}\" for \"{key}\": {problem}")))?;
        row.check_support(self)
    }

    /// What entering section `[pgbouncer]` does: settings that have a default go back to it.
    pub(super) fn reset(&mut self) {
        let defaults = Self::default();
        for row in TABLE.iter().filter(|row| row.default.is_some()) {
            (row.copy)(self, &defaults);
        }
    }

    /// Keeps what only counts at start from the settings in force.
    pub(super) fn keep_start_settings(&mut self, in_force: &Settings) {
        for row in TABLE.iter().filter(|row| row.takes == Start) {
            (row.copy)(self, in_force);
        }
    }

    /// Whether RELOAD and SET can change a setting; an error if there is no such setting.
    pub(super) fn is_changeable(key: &str) -> Result<bool, ConfigError> {
        Ok(find(key)?.takes == Reload)
    }

    /// The rows of SHOW CONFIG.
    pub(super) fn show(&self) -> Vec<ConfigRow> {
        TABLE
            .iter()
            .map(|row| ConfigRow {
                key: row.name,
                value: (row.show)(self),
                default: row.default,
                changeable: row.takes == Reload,
            })
            .collect()
    }
}

impl Setting {
    fn check_support(&self, settings: &Settings) -> Result<(), ConfigError> {
        let Some(value) = (self.show)(settings) else {
            return Ok(());
        };
        let allowed = match self.support {
            Full => return Ok(()),
            Only(values) => values,
        };
        if allowed.contains(&value.as_str()) {
            return Ok(());
        }
        let hint = match allowed {
            [] => "remove the setting".to_owned(),
            [""] => "leave it empty".to_owned(),
            values => format!("use one of: {}", values.join(", ")),
        };
        let text = format!("\"{}\" = \"{value}\" is not supported in this version", self.name);
        Err(ConfigError::new(text).hint(hint))
    }
}

fn find(key: &str) -> Result<&'static Setting, ConfigError> {
    TABLE
        .iter()
        .find(|row| row.name == key)
        .ok_or_else(|| ConfigError::unknown("setting", key, TABLE.iter().map(|row| row.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(key: &str, text: &str) -> Result<Settings, String> {
        let mut settings = Settings::default();
        settings.set(key, text).map_err(|error| error.to_string())?;
        Ok(settings)
    }

    #[test]
    fn every_default_is_supported_and_shown_as_it_is_written() {
        let settings = Settings::default();
        for (row, shown) in TABLE.iter().zip(settings.show()) {
            let mut copy = Settings::default();
            if let Some(default) = row.default {
                copy.set(row.name, default).expect(row.name);
            }
            assert_eq!(copy, settings, "{}", row.name);
            if !matches!(row.name, "unix_socket_mode" | "conffile") {
                assert_eq!(shown.value.as_deref(), row.default, "{}", row.name);
            }
        }
    }

    const PAGE_HEAD: &str = "\
# Settings

Section `[pgbouncer]`, in the order of SHOW CONFIG. Written by a test from the table that the program itself uses
(`UPDATE_DOCS=1 cargo nextest run -p sluice -E 'test(the_settings_page)'`). Times are in seconds unless it says otherwise. Names and
defaults are PgBouncer's; the last six are Sluice's own. *At start*: RELOAD accepts another value, which counts from the
next start on. What isn't supported is an error with file and line.

| setting | default | meaning | takes effect | supported |
| --- | --- | --- | --- | --- |
";

    fn settings_page() -> String {
        let mut page = PAGE_HEAD.to_owned();
        for row in TABLE {
            let code = |text: &str| if text.is_empty() { "empty".to_owned() } else { format!("`{text}`") };
            let default = row.default.map_or("none".to_owned(), code);
            let supported = match row.support {
                Full => "yes".to_owned(),
                Only(values) => values.iter().map(|value| code(value)).collect::<Vec<_>>().join(", "),
            };
            let takes = if row.takes == Reload { "at RELOAD" } else { "at start" };
            let cells = [&format!("`{}`", row.name), &default, row.says.trim(), takes, &supported]
                .map(|cell| cell.replace('|', "\\|"));
            page.push_str(&format!("| {} |\n", cells.join(" | ")));
        }
        page
    }

    #[test]
    fn the_settings_page_is_this_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/settings.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, settings_page()).expect("the page can be written");
        }
        let page = std::fs::read_to_string(path).expect("the page is there");
        assert!(page == settings_page(), "docs/settings.md is out of date: run this test with UPDATE_DOCS=1");
    }

    #[test]
    fn rows_stand_in_pgbouncers_order() {
        let names: Vec<_> = TABLE.iter().map(|row| row.name).collect();
        let mut sorted: Vec<_> = names[..names.len() - 10].to_vec();
        sorted.sort_unstable();
        let from = sorted.iter().position(|&name| name == "pool_idle_timeout").unwrap();
        sorted.swap(from, from + 1);
        sorted.extend([
            "drain_time",
            "proxy_protocol_networks",
            "server_tls_sslnegotiation",
            "max_db_transaction_rate",
            "max_tenant_transactions",
            "max_tenant_transaction_rate",
            "max_user_transaction_rate",
            "state_dir",
            "worker_threads",
            "template_cache_size",
        ]);
        assert_eq!(names, sorted);
    }

    #[test]
    fn values_reach_their_fields() {
        assert_eq!(set("pool_mode", "TRANSACTION").unwrap().pool_mode, PoolMode::Transaction);
        assert_eq!(set("default_pool_size", "0x20").unwrap().default_pool_size, 32);
        assert_eq!(set("auth_file", "/etc/x").unwrap().auth_file, Some("/etc/x".into()));
        assert_eq!(set("query_timeout", "1.5").unwrap().query_timeout, Duration::from_millis(1500));
        assert_eq!(*set("admin_users", "a, b").unwrap().admin_users, ["a", "b"]);
    }

    #[test]
    fn bad_values_are_explained() {
        for (key, text, expected) in [
            ("pool_mod", "x", "unknown setting \"pool_mod\" (did you mean \"pool_mode\"?)"),
            ("service_name", "x", "unknown setting \"service_name\""),
            (
                "max_client_conn",
                "5 ; x",
                "bad value \"5 ; x\" for \"max_client_conn\": must be a whole number from 0 to 4294967295",
            ),
            ("syslog", "on", "bad value \"on\" for \"syslog\": must be 0 or 1"),
            (
                "pool_mode",
                "query",
                "bad value \"query\" for \"pool_mode\": must be one of: session, transaction, statement",
            ),
        ] {
            assert_eq!(set(key, text).unwrap_err(), expected);
        }
    }

    #[test]
    fn what_this_version_cannot_do_is_refused() {
        assert_eq!(
            set("auth_type", "pam").unwrap_err(),
            "\"auth_type\" = \"pam\" is not supported in this version (use one of: any, trust, plain, md5, cert, hba, ldap, scram-sha-256)"
        );
        for harmless in [
            ("server_tls_sslmode", "disable"),
            ("auth_user", ""),
            ("client_tls_ciphers", "HIGH"),
            ("autodb_idle_timeout", "0"),
        ] {
            assert!(set(harmless.0, harmless.1).is_ok(), "{harmless:?}");
        }
    }

    #[test]
    fn reset_spares_what_has_no_default() {
        let mut settings = Settings::default();
        for (key, text) in [("auth_file", "f"), ("conffile", "c"), ("max_client_conn", "7")] {
            settings.set(key, text).unwrap();
        }
        settings.reset();
        assert_eq!(settings.max_client_conn, 100);
        assert_eq!((settings.auth_file, settings.conffile), (Some("f".into()), "c".into()));
    }
}
