//! Settings that a configuration file may give: what they say is what happens.

use std::fs;

use sluice_test_harness::Cluster;

use crate::support::{Batch, Client, Login, Sluice, Stand, console, eventually};

/// The values of a row of SHOW STATS_TOTALS.
fn totals(console: &mut Client, database: &str) -> Vec<String> {
    let rows = console.ok("SHOW STATS_TOTALS").rows();
    let row = rows.into_iter().find(|row| row[0].as_deref() == Some(database));
    row.unwrap_or_default().into_iter().map(Option::unwrap_or_default).collect()
}

#[test]
fn logins_are_counted() {
    let stand = Stand::start(&[]);
    let mut console = console(&stand.sluice);
    let clients: Vec<Client> = (0..3).map(|_| stand.client()).collect();
    drop(clients);
    assert!(Client::log_in(&stand.sluice.address(), &Login::to("nowhere")).is_err());
    assert_eq!(totals(&mut console, "postgres").last().map(String::as_str), Some("3"));
    assert_eq!(totals(&mut console, "pgbouncer").last().map(String::as_str), Some("1"));
}

#[test]
fn disable_pqexec_refuses_simple_queries_in_every_mode() {
    for mode in ["session", "transaction"] {
        let stand = Stand::start(&["disable_pqexec = 1", &format!("pool_mode = {mode}")]);
        let mut client = stand.client();
        assert_eq!(client.run(Batch::new().run("SELECT 7", &[]).sync()).column(), ["7"], "{mode}");
        client.send_query("SELECT 1");
        let error = client.until_closed().error().expect("an error");
        assert_eq!((error.severity.as_str(), error.message.as_str()), ("FATAL", "PQexec disallowed"), "{mode}");
        assert_eq!(stand.client().run(Batch::new().run("SELECT 7", &[]).sync()).column(), ["7"], "{mode}");
    }
}

#[test]
fn the_reset_query_can_run_after_each_transaction() {
    let one_server = "default_pool_size = 1";
    for (always, left) in [("0", "1"), ("1", "0")] {
        let stand = Stand::start(&[one_server, &format!("server_reset_query_always = {always}")]);
        let mut client = stand.client();
        // In a DO block, so that only the reset query could know of it.
        client.ok("DO $$ BEGIN EXECUTE 'PREPARE kept AS SELECT 1'; END $$");
        let kept = "SELECT count(*) FROM pg_prepared_statements WHERE name = 'kept'";
        assert_eq!(client.value(kept), left, "always = {always}");
        // What Sluice itself prepares is prepared again.
        for _ in 0..3 {
            let prepared = Batch::new().parse("mine", "SELECT 5").run_prepared("mine", &[]).sync();
            assert_eq!(client.run(prepared).column(), ["5"]);
            client.run(Batch::new().close_statement("mine").sync());
        }
        stand.assert_healthy();
    }
}

#[test]
fn each_connection_goes_to_the_next_host() {
    let clusters = [Cluster::start(), Cluster::start()];
    let hosts = clusters.each_ref().map(|cluster| cluster.socket_dir().display().to_string()).join(",");
    for (balance, expected) in [("round-robin", 2), ("disable", 1)] {
        let entry = format!(
            "postgres = host='{hosts}' port={} dbname=postgres user=postgres load_balance_hosts={balance}",
            clusters[0].port()
        );
        let sluice = Sluice::start(&entry, &[]);
        let mut clients: Vec<Client> = (0..4).map(|_| sluice.client()).collect();
        let mut seen: Vec<String> = Vec::new();
        for client in &mut clients {
            client.ok("BEGIN");
            seen.push(client.value("SHOW unix_socket_directories"));
        }
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), expected, "{balance}: {seen:?}");
    }
}

#[test]
fn without_balancing_the_next_host_is_for_failures() {
    let clusters = [Cluster::start(), Cluster::start()];
    clusters[0].stop_immediate();
    let hosts = clusters.each_ref().map(|cluster| cluster.socket_dir().display().to_string()).join(",");
    let port = clusters[0].port();
    let entry =
        format!("postgres = host='{hosts}' port={port} dbname=postgres user=postgres load_balance_hosts=disable");
    let sluice = Sluice::start(&entry, &["server_login_retry = 0.1"]);
    eventually("the second host serves", || Client::log_in(&sluice.address(), &Login::default()).is_ok());
    let directory = clusters[1].socket_dir().display().to_string();
    assert_eq!(sluice.client().value("SHOW unix_socket_directories"), directory);
}

#[test]
fn the_log_follows_reload() {
    let stand = Stand::start(&["stats_period = 1", "log_pooler_errors = 0"]);
    let sluice = &stand.sluice;
    eventually("averages are logged", || sluice.log().contains("LOG stats: 0 xacts/s, 0 queries/s, 0 client parses/s"));
    // logrotate: the old file goes on until RELOAD.
    let (log, old) = (sluice.directory().join("log"), sluice.directory().join("old"));
    fs::rename(&log, &old).expect("renamed");
    let mut console = console(sluice);
    let refused = Login::default().with("nonsense", "1");
    assert!(!log.exists());
    console.ok("RELOAD");
    assert!(Client::log_in(&sluice.address(), &refused).is_err());
    drop(stand.client());
    eventually("the new file is used", || sluice.log().contains("closing because"));
    assert!(!sluice.log().contains("pooler error"), "log_pooler_errors is off");
    console.ok("SET log_pooler_errors = '1'");
    console.ok("SET log_stats = '0'");
    assert!(Client::log_in(&sluice.address(), &refused).is_err());
    eventually("the error is logged", || {
        sluice.log().contains("pooler error: unsupported startup parameter: nonsense")
    });
}

#[test]
fn the_clients_address_can_stand_in_its_application_name() {
    let stand = Stand::start(&["application_name_add_host = 1"]);
    for (login, begin) in
        [(Login::default().with("application_name", "web"), "web - 127.0.0.1:"), (Login::default(), "app - 127.0.0.1:")]
    {
        let name = stand.sluice.log_in(&login).value("SHOW application_name");
        assert!(name.starts_with(begin), "{name}");
    }
}

#[test]
fn a_notice_may_welcome_clients() {
    let stand = Stand::start(&["login_notify_message = the pooler moves tonight"]);
    let mut client = Client::open(&stand.sluice.address());
    client.start(&Login::default());
    let notice = client.until(b'Z').notices();
    assert_eq!(notice[0].message, "the pooler moves tonight");
}

#[test]
fn more_is_logged_on_request() {
    let stand = Stand::start(&[]);
    let file = stand.sluice.directory().join("hba");
    fs::write(&file, "host all all all trust\n").expect("rules");
    let mut console = console(&stand.sluice);
    console.ok(&format!("SET auth_hba_file = '{}'", file.display()));
    console.ok("SET auth_type = hba");
    stand.client();
    assert!(!stand.sluice.log().contains(" DEBUG "));
    console.ok("SET verbose = 1");
    stand.client();
    eventually("it says more", || stand.sluice.log().contains(" DEBUG C-0x"));
}

#[test]
fn a_connect_query_is_run_on_each_new_server() {
    let stand = Stand::with_entry("connect_query='SET search_path = pg_catalog; SELECT 1'", &[]);
    assert_eq!(stand.client().value("SHOW search_path"), "pg_catalog");
    let broken = Stand::with_entry("connect_query='SELECT 1/0'", &[]);
    assert_eq!(broken.client().value("SELECT 7"), "7");
    assert!(broken.sluice.log().contains("ERROR: division by zero"), "{}", broken.sluice.log());
}

#[test]
fn an_entrys_parameters_reach_its_servers() {
    let entry = "datestyle=German timezone=Asia/Tokyo application_name=entry";
    let stand = Stand::with_entry(entry, &[]);
    let mut client = stand.client();
    assert_eq!(client.value("SHOW datestyle"), "German, DMY");
    assert_eq!(client.value("SHOW timezone"), "Asia/Tokyo");
    assert_eq!(client.value("SHOW application_name"), "entry");
}
