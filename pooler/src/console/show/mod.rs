//! The SHOW commands: a table of names, columns and where the rows come from.
//!
//! Columns, their order and their types are PgBouncer's: monitoring reads them by position as well as by name. What Sluice
//! adds stands behind PgBouncer's last column, never between:
//! - DATABASES: `shards`, NULL for a database that isn't sharded; a sharded one has no `host` and `port` of its own;
//! - POOLS and SERVERS: `shard`, for each shard of a sharded database has pools of its own;
//! - CLIENTS: `pinned`, 1 while the session keeps its server for what it has left there (temporary tables and the like).

mod fleet;
mod process;
mod shards;
mod sockets;
mod traffic;

use std::fmt;
use std::time::SystemTime;

use sluice_wire::message::Column;

use super::answer::{Row, bigint, int, numeric, text};
use crate::app::App;
use crate::logging::timestamp;

/// One SHOW command.
pub struct Show {
    pub name: &'static str,
    pub columns: &'static [Column],
    pub rows: fn(&App) -> Vec<Row>,
}

impl Show {
    pub fn find(name: &str) -> Option<&'static Self> {
        TABLE.iter().find(|show| show.name.eq_ignore_ascii_case(name))
    }
}

impl PartialEq for Show {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Show {}

impl fmt::Debug for Show {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Show({})", self.name)
    }
}

/// A setting that drivers ask for and set at login. The console has the value in name only.
#[derive(Debug, PartialEq, Eq)]
pub struct Faked {
    pub columns: [Column; 1],
    pub value: &'static str,
}

impl Faked {
    pub fn find(name: &str) -> Option<&'static Self> {
        FAKED.iter().find(|faked| faked.columns[0].name.eq_ignore_ascii_case(name))
    }
}

static FAKED: &[Faked] = &[
    Faked { columns: [text("client_encoding")], value: "UTF-8" },
    Faked { columns: [text("default_transaction_isolation")], value: "read committed" },
    Faked { columns: [text("standard_conforming_strings")], value: "on" },
    Faked { columns: [text("datestyle")], value: "ISO" },
    Faked { columns: [text("timezone")], value: "GMT" },
];

/// The columns that CLIENTS, SERVERS, SOCKETS and ACTIVE_SOCKETS share, and then each its own.
macro_rules! socket_columns {
    ($($own:expr),* $(,)?) => {
        &[
            text("type"), text("user"), text("database"), text("replication"), text("state"), text("addr"), int("port"),
            text("local_addr"), int("local_port"), text("connect_time"), text("request_time"), int("wait"), int("wait_us"),
            int("close_needed"), text("ptr"), text("link"), int("remote_pid"), text("tls"), text("application_name"),
            int("prepared_statements"), int("id"),
            $($own),*
        ]
    };
}

const SOCKETS: &[Column] = socket_columns![
    int("recv_pos"),
    int("pkt_pos"),
    int("pkt_remain"),
    int("send_pos"),
    int("send_remain"),
    int("pkt_avail"),
    int("send_avail"),
];

static TABLE: &[Show] = &[
    Show { name: "version", columns: &[text("version")], rows: process::version },
    Show { name: "state", columns: &[text("key"), text("value")], rows: process::state },
    Show {
        name: "config",
        columns: &[text("key"), text("value"), text("default"), text("changeable")],
        rows: process::config,
    },
    Show { name: "lists", columns: &[text("list"), int("items")], rows: process::lists },
    Show {
        name: "mem",
        columns: &[text("name"), int("size"), int("used"), int("free"), int("memtotal")],
        rows: process::mem,
    },
    Show {
        name: "peers",
        columns: &[int("peer_id"), text("host"), int("port"), int("pool_size")],
        rows: process::peers,
    },
    Show {
        name: "peer_pools",
        columns: &[
            int("peer_id"),
            int("cl_active_cancel_req"),
            int("cl_waiting_cancel_req"),
            int("sv_active_cancel"),
            int("sv_login"),
        ],
        rows: process::peer_pools,
    },
    Show { name: "dns_hosts", columns: &[text("hostname"), bigint("ttl"), text("addrs")], rows: process::dns_hosts },
    Show { name: "dns_zones", columns: &[text("zonename"), bigint("serial"), int("count")], rows: process::dns_zones },
    Show {
        name: "databases",
        columns: &[
            text("name"),
            text("host"),
            int("port"),
            text("database"),
            text("force_user"),
            int("pool_size"),
            int("min_pool_size"),
            int("reserve_pool_size"),
            int("server_lifetime"),
            text("pool_mode"),
            text("load_balance_hosts"),
            int("max_connections"),
            int("current_connections"),
            int("max_client_connections"),
            int("current_client_connections"),
            int("paused"),
            int("disabled"),
            int("shards"),
        ],
        rows: fleet::databases,
    },
    Show {
        name: "pools",
        columns: &[
            text("database"),
            text("user"),
            int("cl_active"),
            int("cl_waiting"),
            int("cl_active_cancel_req"),
            int("cl_waiting_cancel_req"),
            int("sv_active"),
            int("sv_active_cancel"),
            int("sv_being_canceled"),
            int("sv_idle"),
            int("sv_used"),
            int("sv_tested"),
            int("sv_login"),
            int("maxwait"),
            int("maxwait_us"),
            text("pool_mode"),
            text("load_balance_hosts"),
            int("shard"),
        ],
        rows: fleet::pools,
    },
    Show {
        name: "users",
        columns: &[
            text("name"),
            text("pool_size"),
            text("reserve_pool_size"),
            text("pool_mode"),
            int("max_user_connections"),
            int("current_connections"),
            int("max_user_client_connections"),
            int("current_client_connections"),
        ],
        rows: fleet::users,
    },
    Show { name: "clients", columns: socket_columns![int("pinned")], rows: sockets::clients },
    Show { name: "servers", columns: socket_columns![int("shard")], rows: sockets::servers },
    Show { name: "sockets", columns: SOCKETS, rows: sockets::sockets },
    Show { name: "active_sockets", columns: SOCKETS, rows: sockets::active_sockets },
    Show {
        name: "stats",
        columns: &[
            text("database"),
            numeric("total_server_assignment_count"),
            numeric("total_xact_count"),
            numeric("total_query_count"),
            numeric("total_received"),
            numeric("total_sent"),
            numeric("total_xact_time"),
            numeric("total_query_time"),
            numeric("total_wait_time"),
            numeric("total_client_parse_count"),
            numeric("total_server_parse_count"),
            numeric("total_bind_count"),
            numeric("total_client_login_count"),
            numeric("avg_server_assignment_count"),
            numeric("avg_xact_count"),
            numeric("avg_query_count"),
            numeric("avg_recv"),
            numeric("avg_sent"),
            numeric("avg_xact_time"),
            numeric("avg_query_time"),
            numeric("avg_wait_time"),
            numeric("avg_client_parse_count"),
            numeric("avg_server_parse_count"),
            numeric("avg_bind_count"),
            numeric("avg_client_login_count"),
        ],
        rows: traffic::stats,
    },
    Show {
        name: "stats_totals",
        columns: &[
            text("database"),
            numeric("server_assignment_count"),
            numeric("xact_count"),
            numeric("query_count"),
            numeric("bytes_received"),
            numeric("bytes_sent"),
            numeric("xact_time"),
            numeric("query_time"),
            numeric("wait_time"),
            numeric("client_parse_count"),
            numeric("server_parse_count"),
            numeric("bind_count"),
            numeric("client_login_count"),
        ],
        rows: traffic::stats_totals,
    },
    Show {
        name: "stats_averages",
        columns: &[
            text("database"),
            numeric("server_assignment_count"),
            numeric("xact_count"),
            numeric("query_count"),
            numeric("bytes_received"),
            numeric("bytes_sent"),
            numeric("xact_time"),
            numeric("query_time"),
            numeric("wait_time"),
            numeric("avg_client_parse_count"),
            numeric("avg_server_parse_count"),
            numeric("avg_bind_count"),
            numeric("avg_client_login_count"),
        ],
        rows: traffic::stats_averages,
    },
    Show { name: "totals", columns: &[text("name"), numeric("value")], rows: traffic::totals },
    Show {
        name: "shards",
        columns: &[
            text("database"),
            int("shard"),
            text("node"),
            text("host"),
            int("port"),
            text("dbname"),
            int("slots"),
            int("overrides"),
            int("cl_waiting"),
            int("sv_active"),
            int("sv_idle"),
            int("sv_login"),
            text("status"),
            text("last_error"),
        ],
        rows: shards::shards,
    },
    Show {
        name: "map",
        columns: &[
            text("database"),
            bigint("version"),
            text("source"),
            text("confirmed_at"),
            text("catalog_error"),
            text("disk_error"),
            int("slot_from"),
            int("slot_to"),
            text("key"),
            int("shard"),
        ],
        rows: shards::map,
    },
    Show {
        name: "tables",
        columns: &[text("database"), text("schema"), text("table"), text("class"), text("columns")],
        rows: shards::tables,
    },
    Show {
        name: "functions",
        columns: &[text("database"), text("schema"), text("function"), text("class")],
        rows: shards::functions,
    },
    Show {
        name: "recovery",
        columns: &[text("database"), text("outcome"), bigint("count"), text("gid"), int("shard"), text("reason")],
        rows: shards::recovery,
    },
];

/// A time as all SHOW commands print it.
fn time(at: SystemTime) -> String {
    let text = timestamp(at);
    let seconds = text.split_once('.').map_or(&*text, |(seconds, _)| seconds);
    format!("{seconds} UTC")
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
