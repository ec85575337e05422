//! What PostgreSQL's own functions do, as far as routing must know.
//!
//! Volatility comes from `functions.txt`, which was read from pg_proc. Volatility alone doesn't say whether a function
//! answers the same on every shard, so the lists below name those that see more than their arguments: sequences, locks,
//! other sessions, files, tables named in strings.

/// pg_proc.provolatile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Volatility {
    Immutable,
    Stable,
    Volatile,
}

/// What a function reaches beyond its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Nothing, or only the clock, randomness and the session's settings: right on any shard.
    Arguments,
    /// The server, its catalogs or its session: answered by the home shard.
    Home,
    /// Takes a session-level advisory lock.
    SessionLock,
    /// Gives a session-level advisory lock back.
    SessionUnlock,
    /// `set_config`: a session setting.
    Setting,
    /// What no single shard can answer for all; with the reason.
    Refused(&'static str),
}

/// A function of pg_catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Builtin {
    pub volatility: Volatility,
    pub reach: Reach,
    /// Changes nothing, although it may be volatile.
    pub reads_only: bool,
    /// The same arguments give the same result on every shard at any time.
    pub repeatable: bool,
}

/// Looks `name` up in pg_catalog.
pub fn builtin(name: &str) -> Option<Builtin> {
    let volatility = catalogued(name).or_else(|| newer(name))?;
    let reach = reach(name, volatility);
    let harmless = HARMLESS.contains(&name);
    let reads_only = match reach {
        Reach::Arguments | Reach::Home => volatility != Volatility::Volatile || harmless || reads_server(name),
        _ => false,
    };
    let repeatable = reach == Reach::Arguments && !harmless && !CLOCK.contains(&name) && !ORDERED.contains(&name);
    Some(Builtin { volatility, reach, reads_only, repeatable })
}

const CATALOGUE: &str = include_str!("functions.txt");

/// Binary search over the lines of the catalogue.
fn catalogued(name: &str) -> Option<Volatility> {
    let (mut low, mut high) = (0, CATALOGUE.len());
    while low < high {
        let middle = low + (high - low) / 2;
        let start = CATALOGUE[..middle].rfind('\n').map_or(0, |at| at + 1).max(low);
        let end = CATALOGUE[start..].find('\n').map_or(CATALOGUE.len(), |at| start + at);
        let mut words = CATALOGUE[start..end].split(' ');
        match words.next().unwrap_or_default().as_bytes().cmp(name.as_bytes()) {
            std::cmp::Ordering::Less => low = end + 1,
            std::cmp::Ordering::Greater => high = start,
            std::cmp::Ordering::Equal => return volatility(words.next().unwrap_or_default()),
        }
    }
    None
}

fn volatility(letter: &str) -> Option<Volatility> {
    match letter {
        "i" => Some(Volatility::Immutable),
        "s" => Some(Volatility::Stable),
        "v" => Some(Volatility::Volatile),
        _ => None,
    }
}

/// Functions that came after PostgreSQL 15. An older server knows none of them, and says so.
fn newer(name: &str) -> Option<Volatility> {
    match name {
        "array_reverse"
        | "array_sort"
        | "bytea_reverse"
        | "casefold"
        | "crc32"
        | "crc32c"
        | "erf"
        | "erfc"
        | "gamma"
        | "lgamma"
        | "json_strip_nulls"
        | "to_bin"
        | "to_oct"
        | "unicode_assigned"
        | "unicode_version"
        | "uuid_extract_timestamp"
        | "uuid_extract_version"
        | "xmltext"
        | "any_value" => Some(Volatility::Immutable),
        "date_add"
        | "date_subtract"
        | "json_array"
        | "json_scalar"
        | "json_serialize"
        | "pg_input_error_info"
        | "pg_input_is_valid"
        | "system_user" => Some(Volatility::Stable),
        "array_sample" | "array_shuffle" | "random_normal" | "uuidv4" | "uuidv7" => Some(Volatility::Volatile),
        _ => None,
    }
}

/// Volatile, but they change nothing.
const HARMLESS: &[&str] = &[
    "array_sample",
    "array_shuffle",
    "clock_timestamp",
    "current_query",
    "gen_random_uuid",
    "pg_sleep",
    "pg_sleep_for",
    "pg_sleep_until",
    "random",
    "random_normal",
    "timeofday",
    "uuidv4",
    "uuidv7",
];

/// Stable within a statement, but another shard's statement starts at another time.
const CLOCK: &[&str] = &["age", "now", "statement_timestamp", "transaction_timestamp"];

/// Their result depends on the order in which rows arrive, and each shard keeps its own.
const ORDERED: &[&str] = &[
    "any_value",
    "array_agg",
    "dense_rank",
    "first_value",
    "json_agg",
    "json_object_agg",
    "jsonb_agg",
    "jsonb_object_agg",
    "lag",
    "last_value",
    "lead",
    "nth_value",
    "ntile",
    "percent_rank",
    "rank",
    "row_number",
    "string_agg",
    "xmlagg",
];

/// Functions of the `pg_` family that look at nothing but their arguments and the settings.
const PLAIN: &[&str] = &[
    "pg_char_to_encoding",
    "pg_client_encoding",
    "pg_collation_for",
    "pg_column_compression",
    "pg_column_size",
    "pg_encoding_max_length",
    "pg_encoding_to_char",
    "pg_input_error_info",
    "pg_input_is_valid",
    "pg_size_bytes",
    "pg_size_pretty",
    "pg_sleep",
    "pg_sleep_for",
    "pg_sleep_until",
    "pg_typeof",
];

/// Functions without the `pg_` prefix that look at the server's catalogs or its sessions.
const SERVER: &[&str] = &[
    "col_description",
    "currtid2",
    "inet_client_addr",
    "inet_client_port",
    "inet_server_addr",
    "inet_server_port",
    "mxid_age",
    "obj_description",
    "shobj_description",
    "row_security_active",
];

const SEQUENCE: &str = "a sequence lives in one shard: two shards hand out the same number";
const BY_NAME: &str = "it reads tables that are named in a string, on one shard only";
const SERVER_FILES: &str = "it acts on one server's files or large objects";
const ONE_SERVER: &str = "it acts on one server, not on the database as a whole";
const NOTIFICATION: &str = "a notification reaches only the sessions of one shard";
const TRANSACTION_ID: &str = "transaction ids and snapshots belong to one shard";

fn reach(name: &str, volatility: Volatility) -> Reach {
    if let Some(reach) = locks(name) {
        return reach;
    }
    if let Some(reason) = refused(name) {
        return Reach::Refused(reason);
    }
    if name == "set_config" {
        return Reach::Setting;
    }
    if HARMLESS.contains(&name) || PLAIN.contains(&name) {
        return Reach::Arguments;
    }
    let of_server = name.starts_with("pg_") && volatility != Volatility::Immutable || name.starts_with("to_reg");
    if of_server || name.starts_with("has_") || SERVER.contains(&name) {
        return match volatility {
            Volatility::Volatile if !reads_server(name) => Reach::Refused(ONE_SERVER),
            _ => Reach::Home,
        };
    }
    match volatility {
        Volatility::Volatile => Reach::Refused(ONE_SERVER),
        _ => Reach::Arguments,
    }
}

fn locks(name: &str) -> Option<Reach> {
    let rest = name.strip_prefix("pg_").map(|rest| rest.strip_prefix("try_").unwrap_or(rest))?;
    match rest {
        "advisory_lock" | "advisory_lock_shared" => Some(Reach::SessionLock),
        "advisory_unlock" | "advisory_unlock_shared" | "advisory_unlock_all" => Some(Reach::SessionUnlock),
        "advisory_xact_lock" | "advisory_xact_lock_shared" => Some(Reach::Home),
        _ => None,
    }
}

fn refused(name: &str) -> Option<&'static str> {
    match name {
        "nextval" | "setval" | "currval" | "lastval" | "pg_sequence_last_value" => Some(SEQUENCE),
        "ts_stat" | "ts_rewrite" => Some(BY_NAME),
        "pg_notify" => Some(NOTIFICATION),
        "loread" | "lowrite" | "pg_stat_file" => Some(SERVER_FILES),
        "pg_export_snapshot" | "pg_xact_status" | "pg_last_committed_xact" => Some(TRANSACTION_ID),
        _ if name.contains("_to_xml") => Some(BY_NAME),
        _ if name.starts_with("lo_") || name.starts_with("pg_read_") || name.starts_with("pg_ls_") => {
            Some(SERVER_FILES)
        }
        _ if name.starts_with("txid_") || name.starts_with("pg_current_xact") || name == "pg_current_snapshot" => {
            Some(TRANSACTION_ID)
        }
        _ => None,
    }
}

/// Volatile because the server's state moves on, but they change nothing.
fn reads_server(name: &str) -> bool {
    const WRITES: &[&str] = &["pg_stat_clear_snapshot", "pg_stat_force_next_flush", "pg_get_backend_memory_contexts"];
    let reads = name.starts_with("pg_stat_get_")
        || name.starts_with("pg_get_")
        || name.starts_with("pg_current_wal")
        || name.starts_with("pg_last_")
        || name.ends_with("_size")
        || matches!(
            name,
            "pg_backend_pid"
                | "pg_blocking_pids"
                | "pg_collation_actual_version"
                | "pg_database_collation_actual_version"
                | "pg_is_in_recovery"
                | "pg_is_wal_replay_paused"
                | "pg_jit_available"
                | "pg_lock_status"
                | "pg_notification_queue_usage"
                | "pg_partition_ancestors"
                | "pg_partition_tree"
                | "pg_prepared_xact"
                | "pg_safe_snapshot_blocking_pids"
                | "pg_stat_have_stats"
        );
    reads && !WRITES.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_every_line_of_the_catalogue_and_nothing_else() {
        for line in CATALOGUE.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(' ').next().expect("a name");
            assert!(catalogued(name).is_some(), "{name}");
        }
        for name in ["", "#", "members", "zzzz", "lowe", "lowerr", "A"] {
            assert_eq!(catalogued(name), None, "{name}");
        }
    }

    #[test]
    fn knows_what_each_kind_reaches() {
        let reach = |name| builtin(name).expect(name).reach;
        for name in ["lower", "now", "count", "random", "concat", "current_setting", "jsonb_build_object", "pg_typeof"]
        {
            assert_eq!(reach(name), Reach::Arguments, "{name}");
        }
        for name in
            ["pg_backend_pid", "pg_get_viewdef", "pg_total_relation_size", "to_regclass", "pg_advisory_xact_lock"]
        {
            assert_eq!(reach(name), Reach::Home, "{name}");
        }
        for name in
            ["nextval", "query_to_xml", "pg_notify", "pg_read_file", "lo_import", "pg_terminate_backend", "setseed"]
        {
            assert!(matches!(reach(name), Reach::Refused(_)), "{name}");
        }
        assert_eq!(reach("pg_try_advisory_lock"), Reach::SessionLock);
        assert_eq!(reach("pg_advisory_unlock_all"), Reach::SessionUnlock);
    }

    #[test]
    fn only_reads_are_called_reads() {
        let reads = |name| builtin(name).expect(name).reads_only;
        for name in ["lower", "now", "random", "pg_is_in_recovery", "gen_random_uuid"] {
            assert!(reads(name), "{name}");
        }
        for name in ["pg_advisory_lock", "nextval", "set_config", "pg_advisory_xact_lock", "pg_switch_wal"] {
            assert!(!reads(name), "{name}");
        }
    }

    #[test]
    fn the_clock_is_not_repeatable() {
        let repeatable = |name| builtin(name).expect(name).repeatable;
        assert!(repeatable("lower") && repeatable("to_char"));
        assert!(!repeatable("now") && !repeatable("random") && !repeatable("pg_backend_pid"));
    }
}
