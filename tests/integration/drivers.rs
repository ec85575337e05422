//! Real drivers with their defaults, in transaction pooling with fewer servers than clients.
//!
//! Drivers of other languages are scripts in `tests/drivers/`, which `make test-drivers` installs; their tests are left out
//! of a plain `cargo nextest run`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use tokio_postgres::NoTls;

use crate::support::Stand;

/// Two servers for everybody, handed out in turn: a client hops all the time.
fn hopping() -> Stand {
    Stand::start(&["default_pool_size = 2", "server_round_robin = 1"])
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("drivers")
}

fn succeed(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?}: {status}\n{stdout}\n{stderr}");
    stdout.into_owned()
}

fn url(stand: &Stand) -> String {
    format!("postgres://postgres@127.0.0.1:{}/postgres", stand.sluice.port())
}

/// A script that is given the database's URL; it fails with its exit status.
fn script(program: PathBuf, script: &str) {
    assert!(program.exists() || !program.is_absolute(), "{} is missing: run `make test-drivers`", program.display());
    let stand = hopping();
    succeed(Command::new("timeout").arg("60").arg(program).arg(directory().join(script)).arg(url(&stand)));
    stand.assert_healthy();
}

#[test]
#[ignore = "needs its driver: make test-drivers"]
fn psycopg() {
    script(directory().join(".venv/bin/python"), "with_psycopg.py");
}

#[test]
#[ignore = "needs its driver: make test-drivers"]
fn asyncpg() {
    script(directory().join(".venv/bin/python"), "with_asyncpg.py");
}

#[test]
#[ignore = "needs its driver: make test-drivers"]
fn sqlalchemy() {
    script(directory().join(".venv/bin/python"), "with_sqlalchemy.py");
}

#[test]
#[ignore = "needs its driver: make test-drivers"]
fn django() {
    script(directory().join(".venv/bin/python"), "with_django.py");
}

#[test]
#[ignore = "needs its driver: make test-drivers"]
fn node_postgres() {
    script("node".into(), "with_node_postgres.js");
}

#[test]
fn psql() {
    let stand = hopping();
    let run = |commands: &str| {
        succeed(
            Command::new("psql").args(["-X", "-At", "-v", "ON_ERROR_STOP=1", "-d", &url(&stand), "-c"]).arg(commands),
        )
    };
    assert_eq!(run("SELECT 1"), "1\n");
    run("CREATE TABLE t (a int PRIMARY KEY, b text)");
    assert!(run("\\d t").contains("a|integer"));
    assert_eq!(run("\\copy (SELECT 7) TO STDOUT"), "7\n");
    let file = stand.sluice.directory().join("rows");
    std::fs::write(&file, "1\tx\n2\ty\n").expect("a file");
    assert_eq!(run(&format!("\\copy t FROM '{}'", file.display())), "COPY 2\n");
    stand.assert_healthy();
}

fn pgbench(stand: &Stand, arguments: &[&str]) -> String {
    let mut command = Command::new("timeout");
    command.args([
        "60",
        "pgbench",
        "--no-vacuum",
        "-h",
        "127.0.0.1",
        "-p",
        &stand.sluice.port().to_string(),
        "-U",
        "postgres",
    ]);
    succeed(command.args(arguments).arg("postgres"))
}

#[test]
fn pgbench_in_all_protocols() {
    let stand = Stand::start(&["default_pool_size = 4", "server_round_robin = 1"]);
    pgbench(&stand, &["-i", "-q", "-I", "dtgp", "-s", "1"]);
    for protocol in ["simple", "extended", "prepared"] {
        // TPC-B keeps one server per client busy; SELECTs share them.
        for arguments in [&["-c", "4", "-j", "2", "-t", "50"][..], &["-S", "-c", "4", "-j", "1", "-t", "300"][..]] {
            let report = pgbench(&stand, &[&["-M", protocol][..], arguments].concat());
            assert!(report.contains("number of failed transactions: 0 (0.000%)"), "{protocol} {arguments:?}: {report}");
        }
    }
    for protocol in ["simple", "extended"] {
        let report = pgbench(&stand, &["-M", protocol, "-S", "-c", "20", "-j", "2", "-t", "50"]);
        assert!(report.contains("number of failed transactions: 0 (0.000%)"), "{protocol}: {report}");
    }
    assert_eq!(
        stand.direct("SELECT sum(bbalance) = (SELECT sum(delta) FROM pgbench_history) FROM pgbench_branches"),
        "t"
    );
    stand.assert_healthy();
}

async fn connect(stand: &Stand) -> tokio_postgres::Client {
    let (client, connection) =
        tokio_postgres::connect(&stand.sluice.conninfo("postgres"), NoTls).await.expect("a login");
    tokio::spawn(connection);
    client
}

#[test]
fn tokio_postgres_driver() {
    let stand = hopping();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let work = async {
        let clients = connected(&stand, 6).await;
        let statement = clients[0].prepare("SELECT $1::int4 + 1").await.expect("prepared");
        for number in 0..20 {
            let row = clients[0].query_one(&statement, &[&number]).await.expect("a row");
            assert_eq!(row.get::<_, i32>(0), number + 1);
            for other in &clients[1..] {
                assert_eq!(other.query_one("SELECT $1::text", &[&"x"]).await.expect("a row").get::<_, &str>(0), "x");
            }
        }
        // Pipelined: all are on their way before the first is answered.
        let pipelined = &clients[1];
        let many = (0..100).map(|number| async move {
            let row = pipelined.query_one(&format!("SELECT {number}"), &[]).await.expect("a row");
            assert_eq!(row.get::<_, i32>(0), number);
        });
        futures_util::future::join_all(many).await;
        let mut client = connect(&stand).await;
        let transaction = client.transaction().await.expect("BEGIN");
        let portal = transaction.bind("SELECT generate_series(1, 5)", &[]).await.expect("a portal");
        assert_eq!(transaction.query_portal(&portal, 3).await.expect("rows").len(), 3);
        assert_eq!(transaction.query_portal(&portal, 3).await.expect("rows").len(), 2);
        transaction.commit().await.expect("COMMIT");
        let token = client.cancel_token();
        let (outcome, ()) = tokio::join!(client.query("SELECT pg_sleep(60)", &[]), async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            token.cancel_query(NoTls).await.expect("a cancel");
        });
        let code = outcome.expect_err("cancelled").code().cloned();
        assert_eq!(code, Some(tokio_postgres::error::SqlState::QUERY_CANCELED));
    };
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), work).await }).expect("in time");
    stand.assert_healthy();
}

async fn connected(stand: &Stand, count: usize) -> Vec<tokio_postgres::Client> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(connect(stand).await);
    }
    clients
}
