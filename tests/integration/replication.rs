//! Replication connections: PostgreSQL's own programs and a subscription, through Sluice; and what becomes of them when the
//! pooler has other plans.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sluice_test_harness::{Cluster, Programs};
use tempfile::TempDir;

use crate::auth::verifier;
use crate::support::{Certificates, Client, Login, ServerError, Sluice, Stand, cancel, console, databases, eventually};

/// pg_receivewal and pg_basebackup ask for this database.
const PHYSICAL: &str = "replication";

/// Any database of the cluster, and `replication`.
fn start(settings: &[&str]) -> Stand {
    let cluster = Cluster::start();
    let sluice = Sluice::start(&with_physical(&cluster), settings);
    Stand { sluice, cluster }
}

fn with_physical(cluster: &Cluster) -> String {
    let (host, port) = (cluster.socket_dir().display().to_string(), cluster.port());
    format!("{PHYSICAL} = host={host} port={port} dbname=postgres\n{}", databases(cluster, ""))
}

/// A folder that the user who runs PostgreSQL's programs may write to.
fn folder() -> TempDir {
    let folder = tempfile::Builder::new().prefix("sluice-repl-").tempdir_in("/tmp").expect("a folder");
    Programs::find().give(folder.path());
    folder
}

/// One of PostgreSQL's programs, led through Sluice.
fn program(sluice: &Sluice, name: &str, arguments: &[&str]) -> Command {
    let mut command = Programs::find().as_user("timeout");
    let port = sluice.port().to_string();
    command.arg("60").arg(Programs::find().path(name)).args(["-h", "127.0.0.1", "-p", &port, "-U", "postgres"]);
    command.args(arguments);
    command
}

fn succeed(command: &mut Command) {
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A program that runs until it is told to stop.
struct Running(Child);

impl Running {
    fn start(command: &mut Command, log: &Path) -> Self {
        let log = fs::File::create(log).expect("a file");
        Self(command.stdin(Stdio::null()).stderr(log).spawn().expect("it runs"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // `timeout` passes SIGTERM on, but would leave its child behind after SIGKILL.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

/// Waits until so many of PostgreSQL's processes for replication fulfil the condition.
fn await_senders(stand: &Stand, condition: &str, count: usize) {
    let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender' AND {condition}");
    eventually(&format!("{count} with {condition}"), || stand.direct(&sql) == count.to_string());
}

fn logical() -> Login {
    Login::default().with("replication", "database")
}

fn shown(console: &mut Client, what: &str) -> Vec<(String, String)> {
    let rows = console.ok(&format!("SHOW {what}")).rows();
    let text = |row: &[Option<String>], at: usize| row[at].clone().unwrap_or_default();
    rows.iter().map(|row| (text(row, 3), text(row, 4))).filter(|(kind, _)| kind != "none").collect()
}

fn refusal(sluice: &Sluice, login: &Login) -> ServerError {
    Client::log_in(&sluice.address(), login).err().expect("a refusal")
}

#[test]
fn a_base_backup_is_complete() {
    let stand = start(&[]);
    stand.direct("CREATE TABLE t AS SELECT generate_series(1, 100000) AS a");
    let folder = folder();
    let backup = folder.path().join("backup").display().to_string();
    for wal in ["stream", "fetch"] {
        succeed(&mut program(&stand.sluice, "pg_basebackup", &["-D", &backup, "-X", wal, "--checkpoint=fast"]));
        let mut verify = Programs::find().command("pg_verifybackup");
        succeed(verify.arg(&backup));
        fs::remove_dir_all(&backup).expect("the backup's folder");
    }
    // Its servers went with it.
    eventually("no server is left", || shown(&mut console(&stand.sluice), "SERVERS").is_empty());
    assert!(stand.sluice.log().contains("replication=yes"));
    assert!(stand.sluice.log().contains("closing because: replication client was closed"));
}

#[test]
fn wal_is_received_as_it_is_written() {
    let stand = start(&[]);
    let folder = folder();
    succeed(&mut program(&stand.sluice, "pg_receivewal", &["--create-slot", "--slot=archive"]));
    let directory = folder.path().display().to_string();
    let mut receive = program(&stand.sluice, "pg_receivewal", &["-D", &directory, "--slot=archive", "--no-loop"]);
    let _receiving = Running::start(&mut receive, &folder.path().join("log"));
    eventually("it streams", || {
        stand.direct("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == "1"
    });
    let mut console = console(&stand.sluice);
    for side in ["SERVERS", "CLIENTS"] {
        assert_eq!(shown(&mut console, side), [("physical".to_owned(), "active".to_owned())], "{side}");
    }
    let segment = stand.direct("SELECT pg_walfile_name(pg_current_wal_lsn())");
    stand.direct("CREATE TABLE t AS SELECT 1; SELECT pg_switch_wal()");
    eventually("the segment is there", || folder.path().join(&segment).exists());
}

#[test]
fn changes_are_received_by_pg_recvlogical() {
    let stand = start(&[]);
    stand.direct("CREATE TABLE t (a int)");
    let folder = folder();
    let slot = ["-d", "postgres", "--slot=changes"];
    let create = [&slot[..], &["--create-slot", "--plugin=test_decoding"]].concat();
    succeed(&mut program(&stand.sluice, "pg_recvlogical", &create));
    let file = folder.path().join("changes");
    let file_name = file.display().to_string();
    let receive = [&slot[..], &["--start", "--no-loop", "--fsync-interval=0", "-f", &file_name]].concat();
    let mut receive = program(&stand.sluice, "pg_recvlogical", &receive);
    let _receiving = Running::start(&mut receive, &folder.path().join("log"));
    stand.client().ok("INSERT INTO t VALUES (41), (42)");
    let received = || fs::read_to_string(&file).unwrap_or_default();
    eventually("the rows arrive", || received().contains("table public.t: INSERT: a[integer]:42"));
    assert!(stand.sluice.log().contains("replication=database"));
}

/// The subscriber's own connections, for the first copy and for the stream that follows it.
#[test]
fn a_subscription_follows_its_publisher() {
    let stand = start(&[]);
    let subscriber = Cluster::start();
    stand.direct("CREATE TABLE t (a int PRIMARY KEY, b text)");
    subscriber.psql("postgres", "CREATE TABLE t (a int PRIMARY KEY, b text)");
    stand.direct(
        "INSERT INTO t SELECT n, repeat('x', 100) FROM generate_series(1, 10000) n; CREATE PUBLICATION p FOR TABLE t",
    );
    subscriber.psql(
        "postgres",
        &format!("CREATE SUBSCRIPTION s CONNECTION '{}' PUBLICATION p", stand.sluice.conninfo("postgres")),
    );
    let is_equal = || {
        let count = "SELECT count(*), sum(a), sum(length(b)) FROM t";
        subscriber.psql("postgres", count) == stand.direct(count)
    };
    eventually("the first copy", is_equal);
    stand.client().ok("UPDATE t SET b = repeat('y', 200) WHERE a % 2 = 0; DELETE FROM t WHERE a % 7 = 0");
    eventually("the changes", is_equal);
    // It connects again by itself.
    console(&stand.sluice).ok("RECONNECT");
    stand.client().ok("INSERT INTO t VALUES (20001, 'after')");
    eventually("the stream goes on", is_equal);
    subscriber.psql("postgres", "DROP SUBSCRIPTION s");
    eventually("no server is left", || shown(&mut console(&stand.sluice), "SERVERS").is_empty());
}

#[test]
fn start_up_parameters_reach_the_server_and_no_other_client() {
    let stand = start(&["default_pool_size = 1", "track_extra_parameters = IntervalStyle"]);
    let login = logical()
        .with("application_name", "repl's \\name")
        .with("IntervalStyle", "iso_8601")
        .with("options", "-c work_mem=77kB --enable_seqscan=off");
    let mut client = stand.sluice.log_in(&login);
    assert_eq!(client.parameter("application_name"), Some("repl's \\name"));
    assert_eq!(client.value("SHOW work_mem"), "77kB");
    assert_eq!(client.value("SHOW enable_seqscan"), "off");
    assert_eq!(client.value("SHOW IntervalStyle"), "iso_8601");
    assert_eq!(client.value("IDENTIFY_SYSTEM").len(), 19);
    client.terminate();
    let mut other = stand.client();
    assert_eq!(other.value("SHOW work_mem"), "4MB");
    assert_eq!(other.value("SHOW IntervalStyle"), "postgres");
    // Options of ordinary clients are judged as before.
    let options = Login::default().with("options", "-c work_mem=77kB");
    assert_eq!(refusal(&stand.sluice, &options).message, "unsupported startup parameter in options: work_mem");
    let off = Login::default().with("replication", "off");
    assert_eq!(stand.sluice.log_in(&off).value("SELECT 1"), "1");
    let unclear = refusal(&stand.sluice, &Login::default().with("replication", "maybe"));
    assert_eq!(
        (&*unclear.code, &*unclear.message),
        ("08P01", "invalid value for parameter \"replication\": \"maybe\"")
    );
}

#[test]
fn it_counts_in_its_pool_and_takes_the_place_of_an_idle_server() {
    let stand = start(&["default_pool_size = 1", "query_wait_timeout = 1"]);
    let mut ordinary = stand.client();
    let idle = ordinary.backend();
    let mut client = stand.sluice.log_in(&logical());
    stand.await_servers(&format!("pid = {idle}"), 0);
    assert!(stand.sluice.log().contains("closing because: evicted"));
    // Now the pool is full: others wait, of either kind.
    let error = refusal(&stand.sluice, &logical());
    assert_eq!((&*error.code, &*error.message), ("57014", "query_wait_timeout"));
    assert_eq!(ordinary.query("SELECT 1").error().expect("a refusal").message, "query_wait_timeout");
    assert_eq!(client.value("SELECT 1"), "1");
    let row =
        console(&stand.sluice).ok("SHOW POOLS").rows().into_iter().find(|row| row[0].as_deref() == Some("postgres"));
    let row = row.expect("the pool");
    assert_eq!((row[2].as_deref(), row[6].as_deref(), row[9].as_deref()), (Some("1"), Some("1"), Some("0")));
    client.terminate();
    stand.assert_healthy();
}

#[test]
fn whoever_waits_in_the_queue_is_served_in_turn() {
    let stand = start(&["default_pool_size = 1"]);
    let mut busy = stand.client();
    busy.ok("BEGIN; SELECT 1");
    let address = stand.sluice.address();
    let waiting = std::thread::spawn(move || Client::log_in(&address, &logical()).expect("a login").backend());
    eventually("it comes", || stand.sluice.log().contains("replication=database"));
    busy.ok("COMMIT");
    let backend = waiting.join().expect("it was served");
    await_senders(&stand, &format!("pid = {backend}"), 0);
    assert_eq!(busy.value("SELECT 41 + 1"), "42");
    stand.assert_healthy();
}

#[test]
fn a_refused_login_disturbs_nobody_else() {
    let stand = start(&["server_login_retry = 60"]);
    let hba = stand.direct("SHOW hba_file");
    let rules = "local all all trust\nlocal replication all reject\n";
    fs::write(&hba, rules).expect("pg_hba.conf");
    stand.direct("SELECT pg_reload_conf()");
    let physical = Login::to(PHYSICAL).with("replication", "true");
    let message = || refusal(&stand.sluice, &physical);
    eventually("the rules are in force", || message().message == "login failed");
    let error = message();
    assert_eq!((&*error.severity, &*error.code), ("FATAL", "28000"));
    assert!(error.detail.contains("pg_hba.conf rejects replication connection"), "{}", error.detail);
    let log = stand.sluice.log();
    assert!(log.contains("ERROR S: login failed: FATAL: pg_hba.conf rejects replication connection"), "{log}");
    for side in ["C-", "S-"] {
        let is_closing = |line: &&str| line.contains("closing because: login failed (age=") && line.contains(side);
        assert!(log.lines().any(|line| is_closing(&line)), "{side}: {log}");
    }
    let mut ordinary = stand.sluice.log_in(&Login::to(PHYSICAL));
    assert_eq!(ordinary.value("SELECT 1"), "1");
    // And the other way round: who may replicate and nothing else.
    fs::write(&hba, "local all all reject\nlocal replication all trust\n").expect("pg_hba.conf");
    ordinary.ok("SELECT pg_reload_conf()");
    let elsewhere = Login::to("template1").with("replication", "true");
    eventually("the rules are in force", || Client::log_in(&stand.sluice.address(), &elsewhere).is_ok());
    assert_eq!(refusal(&stand.sluice, &Login::to("template1")).code, "28000");
    stand.sluice.log_in(&elsewhere).terminate();
}

#[test]
fn reconnect_and_the_console_end_it() {
    let stand = start(&[]);
    let mut console = console(&stand.sluice);
    for (command, code, message) in
        [("RECONNECT", "57P01", "database configuration changed"), ("KILL postgres", "57P01", "database removed")]
    {
        let mut client = stand.sluice.log_in(&logical());
        client.send_query("SELECT pg_sleep(600)");
        await_senders(&stand, "query LIKE '%pg_sleep(600)%' AND state = 'active'", 1);
        console.ok(command);
        let error = client.until_closed().error().expect("the reason");
        assert_eq!((&*error.code, &*error.message), (code, message), "{command}");
        await_senders(&stand, "query LIKE '%pg_sleep(600)%'", 0);
    }
    console.ok("RESUME postgres");
    let mut client = stand.sluice.log_in(&logical());
    let id = console.ok("SHOW CLIENTS").rows().into_iter().find(|row| row[3].as_deref() == Some("logical"));
    console.ok(&format!("KILL_CLIENT {}", id.expect("the client")[20].clone().expect("an id")));
    assert_eq!(client.until_closed().error().expect("the reason").message, "admin forced disconnect");
    stand.assert_healthy();
}

#[test]
fn its_command_is_cancelled_and_ends_with_it() {
    let stand = start(&[]);
    let mut client = stand.sluice.log_in(&logical());
    client.send_query("SELECT pg_sleep(600)");
    await_senders(&stand, "query LIKE '%pg_sleep(600)%' AND state = 'active'", 1);
    cancel(&stand.sluice.address(), &client.cancel_packet());
    assert_eq!(client.answer().error().expect("cancelled").code, "57014");
    client.send_query("SELECT pg_sleep(601)");
    await_senders(&stand, "query LIKE '%pg_sleep(601)%' AND state = 'active'", 1);
    drop(client);
    await_senders(&stand, "query LIKE '%pg_sleep(601)%'", 0);
    stand.assert_healthy();
}

/// PostgreSQL waits instead: what one side doesn't read isn't read from the other.
#[test]
fn a_slow_client_costs_no_memory() {
    let stand = start(&[]);
    let mut client = stand.sluice.log_in(&logical());
    let before = stand.sluice.memory();
    client.send_query("SELECT repeat('x', 1000) FROM generate_series(1, 100000)");
    await_senders(&stand, "wait_event IN ('ClientWrite', 'WalSenderWriteData')", 1);
    // For as long as nobody reads, not only at first.
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(100));
        let grown = stand.sluice.memory().saturating_sub(before);
        assert!(grown < 10 << 20, "grown by {grown} bytes");
    }
    assert_eq!(client.answer().column().len(), 100_000);
    let mut console = console(&stand.sluice);
    let row = console.ok("SHOW STATS_TOTALS").rows().into_iter().find(|row| row[0].as_deref() == Some("postgres"));
    let sent: u64 = row.expect("the database")[5].clone().expect("a number").parse().expect("a number");
    assert!(sent > 90_000_000, "counted while the connection lives: {sent}");
}

/// Streams that never end, at rest.
fn stream(stand: &Stand) -> Client {
    stand.direct("SELECT pg_create_logical_replication_slot('slot', 'test_decoding')");
    let mut client = stand.sluice.log_in(&logical());
    client.send_query("START_REPLICATION SLOT slot LOGICAL 0/0");
    client.until(b'W');
    client
}

#[test]
fn suspended_it_rests_and_goes_on() {
    let stand = start(&[]);
    stand.direct("CREATE TABLE t (a int)");
    let mut client = stream(&stand);
    let mut console = console(&stand.sluice);
    console.ok("SUSPEND");
    // What was on its way arrives, and then nothing more.
    while !client.is_silent_for(Duration::from_millis(500)) {}
    stand.direct("INSERT INTO t VALUES (77)");
    assert!(client.is_silent_for(Duration::from_millis(500)));
    console.ok("RESUME");
    let mut seen = String::new();
    while !seen.contains("a[integer]:77") {
        seen.push_str(&String::from_utf8_lossy(&client.read().body));
    }
}

#[test]
fn a_replaced_process_lets_commands_finish_and_cuts_streams() {
    let mut stand = start(&["drain_time = 0"]);
    let mut streaming = stream(&stand);
    let mut busy = stand.sluice.log_in(&logical());
    busy.send_query("SELECT pg_sleep(2.5), 'done'");
    await_senders(&stand, "query LIKE '%pg_sleep(2.5)%' AND state = 'active'", 1);
    let mut old = stand.sluice.reboot();
    let reason = |client: &mut Client| client.until_closed().error().expect("the reason");
    let error = reason(&mut streaming);
    assert_eq!((&*error.code, &*error.message), ("57P01", "server shutting down"));
    assert!(old.is_alive(), "a command runs");
    assert_eq!(busy.answer().rows()[0][1].as_deref(), Some("done"));
    assert_eq!(reason(&mut busy).code, "57P01");
    old.await_end();
    stand.assert_healthy();
}

#[test]
fn a_shutdown_that_waits_for_servers_does_not_wait_for_streams() {
    let mut stand = start(&[]);
    let mut client = stream(&stand);
    console(&stand.sluice).ok("SHUTDOWN WAIT_FOR_SERVERS");
    assert_eq!(client.until_closed().error().expect("the reason").message, "server shutting down");
    let began = std::time::Instant::now();
    eventually("it ends", || !stand.sluice.is_alive());
    assert!(began.elapsed() < Duration::from_secs(8), "before its deadline");
}

#[test]
fn rules_tell_physical_replication_from_databases() {
    let cluster = Cluster::start();
    let directory = tempfile::tempdir().expect("a folder");
    let rules: PathBuf = directory.path().join("hba");
    let start = |text: &str| {
        fs::write(&rules, text).expect("rules");
        Sluice::start(&with_physical(&cluster), &["auth_type = hba", &format!("auth_hba_file = {}", rules.display())])
    };
    let physical = Login::to(PHYSICAL).with("replication", "1");
    let all = start("host all all all trust\n");
    let error = refusal(&all, &physical);
    assert_eq!((&*error.code, &*error.message), ("28000", "no authentication method is found"));
    assert!(error.detail.contains("replication connection from host"), "{}", error.detail);
    all.log_in(&logical());
    let only = start("host replication all all trust\n");
    only.log_in(&physical);
    assert_eq!(refusal(&only, &logical()).code, "28000");
}

/// The user is found by `auth_query`, and its SCRAM keys open the server.
#[test]
fn over_tls_with_auth_query() {
    let cluster = crate::auth::scram_only();
    verifier(&cluster, "alice", "secret", "scram-sha-256");
    cluster.psql("postgres", "ALTER USER alice REPLICATION");
    let hba = cluster.psql("postgres", "SHOW hba_file");
    let rules = fs::read_to_string(&hba).expect("pg_hba.conf");
    fs::write(&hba, format!("local replication all scram-sha-256\n{rules}")).expect("pg_hba.conf");
    cluster.psql("postgres", "SELECT pg_reload_conf()");
    let certificates = Certificates::new();
    let mut settings = certificates.for_clients("require");
    settings.extend(["auth_user = postgres", "auth_type = scram-sha-256"].map(str::to_owned));
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let sluice = Sluice::start_with_users(&with_physical(&cluster), &settings, "\"postgres\" \"\"\n");
    let folder = folder();
    let backup = folder.path().join("backup").display().to_string();
    let conninfo = format!("host=127.0.0.1 port={} user=alice sslmode=require sslcert=none", sluice.port());
    let mut command = Programs::find().command("pg_basebackup");
    command.args(["-d", &conninfo, "-D", &backup, "--checkpoint=fast"]).env("PGPASSWORD", "secret");
    succeed(&mut command);
    succeed(Programs::find().command("pg_verifybackup").arg(&backup));
    assert!(sluice.log().contains("tls=TLSv1.3"), "{}", sluice.log());
}
