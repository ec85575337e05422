//! Tests of the SHOW commands against PgBouncer's columns, and on an app without clients.

use std::collections::BTreeSet;

use super::*;
use crate::app;
use crate::config::Config;
use crate::console::answer::Value;

/// Columns as a list of `name type`, from the table of types in which PgBouncer's are documented: t, i, q, n.
fn columns(show: &str) -> Vec<String> {
    let show = Show::find(show).expect(show);
    let letter = |oid| match oid {
        25 => "t",
        23 => "i",
        20 => "q",
        1700 => "n",
        other => panic!("type {other}"),
    };
    show.columns.iter().map(|column| format!("{} {}", column.name, letter(column.oid))).collect()
}

/// PgBouncer's columns; Sluice's own may only follow.
fn begins_with(show: &str, expected: &str, own: &[&str]) {
    let columns = columns(show);
    let expected: Vec<_> = expected.split(", ").map(str::to_owned).collect();
    assert_eq!(columns[..expected.len()], expected, "SHOW {show}");
    assert_eq!(columns[expected.len()..], *own, "SHOW {show}");
}

const SOCKET: &str = "type t, user t, database t, replication t, state t, addr t, port i, local_addr t, local_port i, \
    connect_time t, request_time t, wait i, wait_us i, close_needed i, ptr t, link t, remote_pid i, tls t, \
    application_name t, prepared_statements i, id i";

#[test]
fn columns_are_pgbouncers() {
    begins_with("version", "version t", &[]);
    begins_with("state", "key t, value t", &[]);
    begins_with("config", "key t, value t, default t, changeable t", &[]);
    begins_with(
        "databases",
        "name t, host t, port i, database t, force_user t, pool_size i, min_pool_size i, reserve_pool_size i, \
         server_lifetime i, pool_mode t, load_balance_hosts t, max_connections i, current_connections i, \
         max_client_connections i, current_client_connections i, paused i, disabled i",
        &["shards i"],
    );
    begins_with(
        "pools",
        "database t, user t, cl_active i, cl_waiting i, cl_active_cancel_req i, cl_waiting_cancel_req i, sv_active i, \
         sv_active_cancel i, sv_being_canceled i, sv_idle i, sv_used i, sv_tested i, sv_login i, maxwait i, maxwait_us i, \
         pool_mode t, load_balance_hosts t",
        &["shard i"],
    );
    begins_with(
        "peer_pools",
        "peer_id i, cl_active_cancel_req i, cl_waiting_cancel_req i, sv_active_cancel i, sv_login i",
        &[],
    );
    begins_with("peers", "peer_id i, host t, port i, pool_size i", &[]);
    begins_with(
        "users",
        "name t, pool_size t, reserve_pool_size t, pool_mode t, max_user_connections i, current_connections i, \
         max_user_client_connections i, current_client_connections i",
        &[],
    );
    begins_with("clients", SOCKET, &["pinned i"]);
    begins_with("servers", SOCKET, &["shard i"]);
    let sockets =
        format!("{SOCKET}, recv_pos i, pkt_pos i, pkt_remain i, send_pos i, send_remain i, pkt_avail i, send_avail i");
    begins_with("sockets", &sockets, &[]);
    begins_with("active_sockets", &sockets, &[]);
    begins_with("lists", "list t, items i", &[]);
    begins_with("mem", "name t, size i, used i, free i, memtotal i", &[]);
    begins_with("dns_hosts", "hostname t, ttl q, addrs t", &[]);
    begins_with("dns_zones", "zonename t, serial q, count i", &[]);
}

#[test]
fn columns_of_statistics_are_pgbouncers() {
    let counters = "server_assignment_count n, xact_count n, query_count n, bytes_received n, bytes_sent n, xact_time n, \
        query_time n, wait_time n";
    begins_with(
        "stats_totals",
        &format!(
            "database t, {counters}, client_parse_count n, server_parse_count n, bind_count n, client_login_count n"
        ),
        &[],
    );
    begins_with(
        "stats_averages",
        &format!(
            "database t, {counters}, avg_client_parse_count n, avg_server_parse_count n, avg_bind_count n, avg_client_login_count n"
        ),
        &[],
    );
    begins_with(
        "stats",
        "database t, total_server_assignment_count n, total_xact_count n, total_query_count n, total_received n, \
         total_sent n, total_xact_time n, total_query_time n, total_wait_time n, total_client_parse_count n, \
         total_server_parse_count n, total_bind_count n, total_client_login_count n, avg_server_assignment_count n, \
         avg_xact_count n, avg_query_count n, avg_recv n, avg_sent n, avg_xact_time n, avg_query_time n, avg_wait_time n, \
         avg_client_parse_count n, avg_server_parse_count n, avg_bind_count n, avg_client_login_count n",
        &[],
    );
    begins_with("totals", "name t, value n", &[]);
}

#[tokio::test]
async fn every_row_has_its_columns() {
    let app = quiet_app().await;
    for show in TABLE {
        for row in (show.rows)(&app) {
            assert_eq!(row.len(), show.columns.len(), "SHOW {}: {row:?}", show.name);
        }
    }
}

#[tokio::test]
async fn the_console_is_among_databases_pools_and_users() {
    let app = quiet_app().await;
    let names = |show: &str| -> BTreeSet<String> {
        let rows = (Show::find(show).expect(show).rows)(&app);
        let first = rows.into_iter().map(|row| match row.into_iter().next() {
            Some(Value::Text(name)) => name,
            other => panic!("{other:?}"),
        });
        first.collect()
    };
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(names("databases"), set(&["fund", "pgbouncer"]));
    assert_eq!(names("pools"), set(&["pgbouncer"]));
    assert_eq!(names("users"), set(&["ann", "owner", "pgbouncer"]));
    assert_eq!(names("stats"), set(&["pgbouncer"]));
}

#[tokio::test]
async fn a_paused_and_disabled_database_shows_it() {
    let app = quiet_app().await;
    app.kill_database("fund");
    app.set_disabled("fund", true);
    let rows = (Show::find("databases").expect("databases").rows)(&app);
    assert_eq!(rows[0][15..17], [Value::Number(1), Value::Number(1)]);
    assert_eq!(rows[0][5], Value::Number(7), "the entry's pool_size");
}

#[tokio::test]
async fn totals_name_every_counter_twice() {
    let app = quiet_app().await;
    let rows = (Show::find("totals").expect("totals").rows)(&app);
    assert_eq!(rows.len(), 24);
    assert_eq!(rows[3][0], Value::from("total_client_bytes"));
    assert_eq!(rows[12][0], Value::from("avg_server_assignment_count"));
}

#[test]
fn times_have_a_zone_and_no_fraction() {
    assert_eq!(time(SystemTime::UNIX_EPOCH), "1970-01-01 00:00:00 UTC");
}

/// One database, two users, nobody connected.
async fn quiet_app() -> std::sync::Arc<App> {
    let text = "[pgbouncer]\n[databases]\nfund= host=127.0.0.1 user=owner pool_size=7\n[users]\nann= pool_size=3\n";
    app::build(Config::parse_str(text).expect("a configuration")).await.expect("an app")
}
