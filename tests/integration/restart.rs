//! Online restart: a new process takes over from the one that runs. Nobody is refused, nothing fails half-way, and clients
//! are told to leave only between two transactions.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use sluice_test_harness::Programs;

use crate::support::{Batch, Client, Login, Old, ServerError, Stand, binary, cancel, eventually};

const CONSOLE: &str = "pgbouncer";

fn console(stand: &Stand) -> Client {
    stand.sluice.log_in_by_unix_socket(&Login { user: CONSOLE.to_owned(), ..Login::to(CONSOLE) })
}

/// A query goes on in the process that was replaced, and its cancel request arrives at the new one, or at the one after that.
#[test]
fn queries_are_cancelled_across_restarts() {
    let mut stand = Stand::start(&["drain_time = 0"]);
    let mut clients = [stand.client(), stand.sluice.log_in(&Login { minor: 2, ..Login::default() })];
    clients.iter_mut().for_each(|client| client.send_query("SELECT pg_sleep(600)"));
    stand.await_servers("query LIKE '%pg_sleep%' AND state = 'active'", 2);
    let mut old = Vec::new();
    for client in &mut clients {
        old.push(stand.sluice.reboot());
        cancel(&stand.sluice.address(), &client.cancel_packet());
        assert_eq!(client.answer().error().map(|error| error.code).as_deref(), Some("57014"));
    }
    old.iter_mut().for_each(Old::await_end);
    // Nobody is left to ask.
    cancel(&stand.sluice.address(), &clients[0].cancel_packet());
    eventually("it is nobody's", || stand.sluice.log().contains("failed cancel request"));
}

#[test]
fn clients_that_reconnect_notice_nothing() {
    let mut stand = Stand::start(&["drain_time = 1", "max_client_conn = 500"]);
    let script = stand.sluice.directory().join("script.sql");
    fs::write(&script, "SELECT 1;\nBEGIN;\nSELECT 2;\nCOMMIT;\n").expect("a script");
    let pgbench = |host: String| {
        let mut pgbench = Command::new(Programs::find().path("pgbench"));
        pgbench
            .args(["--no-vacuum", "--connect", "--client=4", "--time=5", "--username=postgres", "--host", &host])
            .args(["--port", &stand.sluice.port().to_string(), "--file"])
            .arg(&script)
            .arg("postgres");
        thread::spawn(move || pgbench.output().expect("pgbench runs"))
    };
    let benches = [pgbench("127.0.0.1".to_owned()), pgbench(stand.sluice.directory().display().to_string())];
    for _ in 0..2 {
        thread::sleep(Duration::from_millis(1200));
        stand.sluice.reboot().await_end();
    }
    for bench in benches {
        let output = bench.join().expect("pgbench");
        let report = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{report}{}", String::from_utf8_lossy(&output.stderr));
        assert!(report.contains("number of failed transactions: 0 "), "{report}");
        assert!(!report.contains("number of transactions actually processed: 0\n"), "{report}");
    }
    stand.assert_healthy();
}

/// Runs transactions until told to stop. Returns how many committed, and how often it had to reconnect.
fn write_steadily(address: &str, stop: &AtomicBool) -> (u32, u32) {
    let (mut committed, mut reconnects) = (0, 0);
    let mut client = Client::log_in(address, &Login::default()).expect("a login");
    while !stop.load(Ordering::Relaxed) {
        // The first statement may find that the client has been told to go: nothing of it has run then.
        let _ = client.try_send(&Batch::new().query("INSERT INTO t VALUES (1)").0);
        let answer = client.answer();
        if let Some(error) = answer.error() {
            assert_eq!((&*error.severity, &*error.code), ("FATAL", "57P01"), "{error}");
            reconnects += 1;
            client = Client::log_in(address, &Login::default()).expect("a new login");
            continue;
        }
        assert_eq!(answer.status(), Some('I'), "{answer:?}");
        committed += 1;
        if let Err(error) = write_in_a_block(&mut client) {
            assert_eq!(error.code, "57P01", "{error}");
            reconnects += 1;
            client = Client::log_in(address, &Login::default()).expect("a new login");
            continue;
        }
        committed += 1;
    }
    (committed, reconnects)
}

/// Whoever is in a transaction is left alone, however long it takes: only its BEGIN can fail.
fn write_in_a_block(client: &mut Client) -> Result<(), ServerError> {
    let _ = client.try_send(&Batch::new().query("BEGIN").0);
    if let Some(error) = client.answer().error() {
        return Err(error);
    }
    client.ok("INSERT INTO t VALUES (1)");
    client.ok("SELECT pg_sleep(0.01)");
    client.ok("COMMIT");
    Ok(())
}

#[test]
fn clients_that_stay_are_told_between_two_transactions() {
    let mut stand = Stand::start(&["drain_time = 1"]);
    stand.direct("CREATE TABLE t (a int)");
    let stop = Arc::new(AtomicBool::new(false));
    let addresses = [stand.sluice.address(), stand.sluice.unix_address()];
    let writers: Vec<_> = (0..6)
        .map(|number| {
            let (address, stop) = (addresses[number % 2].clone(), stop.clone());
            thread::spawn(move || write_steadily(&address, &stop))
        })
        .collect();
    for _ in 0..2 {
        thread::sleep(Duration::from_millis(500));
        stand.sluice.reboot().await_end();
    }
    stop.store(true, Ordering::Relaxed);
    let done: Vec<_> = writers.into_iter().map(|writer| writer.join().expect("a writer")).collect();
    assert!(done.iter().all(|&(_, reconnects)| reconnects == 2), "{done:?}");
    let committed: u32 = done.iter().map(|&(committed, _)| committed).sum();
    assert_eq!(stand.direct("SELECT count(*) FROM t"), committed.to_string());
    stand.assert_healthy();
}

#[test]
fn a_transaction_outlives_its_process_being_replaced() {
    let mut stand = Stand::start(&["drain_time = 0"]);
    let mut client = stand.client();
    client.ok("BEGIN");
    let backend = client.backend();
    let mut old = stand.sluice.reboot();
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(client.backend(), backend);
    assert!(old.is_alive());
    client.ok("COMMIT");
    let error = client.until_closed().error().expect("the reason");
    assert_eq!((&*error.severity, &*error.code, &*error.message), ("FATAL", "57P01", "server shutting down"));
    old.await_end();
    stand.assert_healthy();
}

#[test]
fn the_new_process_gets_sockets_and_files() {
    let directory = tempfile::tempdir().expect("a directory");
    let pid_file = directory.path().join("pid");
    let mut stand = Stand::start(&[&format!("pidfile = {}", pid_file.display()), "drain_time = 0"]);
    let mut idle = stand.client();
    let mut old = stand.sluice.reboot();
    old.await_end();
    assert_eq!(idle.until_closed().error().expect("the reason").code, "57P01");
    assert_eq!(fs::read_to_string(&pid_file).expect("the pid file"), format!("{}\n", stand.sluice.pid()));
    // The file of the unix socket is still there, and so is the port.
    let mut client = stand.sluice.log_in_by_unix_socket(&Login::default());
    assert_eq!(client.value("SELECT 1"), "1");
    stand.assert_healthy();
    let mut console = console(&stand);
    console.send_query("SHUTDOWN");
    console.until_closed();
    eventually("the pid file is removed", || !pid_file.exists());
    assert!(!std::path::Path::new(&stand.sluice.unix_address()).exists());
}

#[test]
fn a_reboot_without_an_old_process_is_a_start() {
    let mut stand = Stand::start(&[]);
    let mut console = console(&stand);
    console.send_query("SHUTDOWN");
    console.until_closed();
    // Its socket is closed a moment after its clients' connections.
    eventually("it has ended", || !stand.sluice.is_alive());
    stand.sluice.reboot().await_end();
    assert!(stand.sluice.log().contains("old process not found, try to continue normally"));
    stand.assert_healthy();
}

#[test]
fn a_new_process_that_cannot_start_leaves_the_old_one_alone() {
    let mut stand = Stand::start(&[]);
    let mut client = stand.client();
    client.ok("BEGIN");
    let ini = stand.sluice.directory().join("broken.ini");
    let settings = fs::read_to_string(stand.sluice.directory().join("sluice.ini")).expect("the settings");
    // No address of this machine.
    fs::write(&ini, format!("{settings}\nlisten_addr = 192.0.2.1\n")).expect("a file");
    let ended = Command::new(binary()).args(["--reboot", "--quiet"]).arg(&ini).output().expect("sluice runs");
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    client.ok("COMMIT");
    assert!(stand.sluice.is_alive());
    stand.assert_healthy();
}

#[test]
fn show_fds_is_for_administrators_on_the_unix_socket() {
    let stand = Stand::start(&["admin_users = postgres", "stats_users = reader"]);
    let mut by_tcp = stand.sluice.log_in(&Login::to(CONSOLE));
    assert_eq!(by_tcp.error("SHOW FDS").message, "SHOW FDS works on the unix socket only");
    let mut console = console(&stand);
    let tasks: Vec<_> = console.ok("SHOW FDS").rows().into_iter().map(|row| (row[1].clone(), row[4].clone())).collect();
    let pooler = |address: &str| (Some("pooler".to_owned()), Some(address.to_owned()));
    assert_eq!(tasks, [pooler("127.0.0.1"), pooler("unix")]);
    console.ok("SHOW VERSION");
}

#[test]
fn a_rolling_restart_waits_for_transactions() {
    let mut stand = Stand::start(&["drain_time = 0"]);
    let (mut busy, mut idle) = (stand.client(), stand.client());
    busy.ok("BEGIN");
    console(&stand).ok("SHUTDOWN WAIT_FOR_TRANSACTIONS");
    assert_eq!(idle.until_closed().error().expect("the reason").code, "57P01");
    eventually("the port is closed", || std::net::TcpStream::connect(stand.sluice.address()).is_err());
    // The unix socket is for administrators now.
    let refused = Client::log_in(&stand.sluice.unix_address(), &Login::default()).err().expect("a refusal");
    assert_eq!((&*refused.code, &*refused.message), ("57P03", "pooler is shutting down"));
    assert_eq!(console(&stand).error("RESUME").message, "pooler is shutting down");
    assert!(stand.sluice.is_alive());
    busy.ok("COMMIT");
    eventually("it ends", || !stand.sluice.is_alive());
}
