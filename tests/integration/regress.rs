//! PostgreSQL's own regression tests, run by psql directly and through Sluice: the outputs have to be the same.
//!
//! Needs PostgreSQL's sources, which `scripts/regress` fetches. Each way has a cluster of its own, because the tests make roles.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sluice_test_harness::Cluster;

use crate::support::{Sluice, databases};

const DATABASE: &str = "regression";

/// Tests that psql alone can't run: tablespaces need a folder of pg_regress's.
const LEFT_OUT: [&str; 1] = ["tablespace"];

/// What a shared server can't hide.
const KNOWN: [(&str, &str); 3] = [
    ("guc", "whether PL/pgSQL is loaded depends on what the server ran before"),
    ("stats", "a new session of a client is no new session of the server"),
    ("temp", "the server may have a temporary schema already"),
];

/// The suite, where `scripts/regress` has put it.
struct Suite {
    directory: PathBuf,
}

impl Suite {
    fn find() -> Self {
        let directory = std::env::var_os("SLUICE_REGRESS").expect("SLUICE_REGRESS is set; run scripts/regress");
        Self { directory: directory.into() }
    }

    /// In the schedule's order.
    fn tests(&self) -> Vec<String> {
        let schedule = fs::read_to_string(self.directory.join("parallel_schedule")).expect("the schedule");
        let groups = schedule.lines().filter_map(|line| line.strip_prefix("test:"));
        let tests = groups.flat_map(str::split_whitespace).filter(|test| !LEFT_OUT.contains(test));
        tests.map(str::to_owned).collect()
    }

    /// Runs all tests, and returns each one's output.
    fn run(&self, cluster: &Cluster, (host, port): (&Path, u16), environment: &[(&str, &str)]) -> Vec<String> {
        prepare(cluster);
        let scratch = tempfile::tempdir_in("/tmp").expect("a folder for the tests' files");
        let results = scratch.path().join("results");
        fs::create_dir(&results).expect("a folder for the tests' results");
        // The server, another user, writes there.
        for folder in [scratch.path(), &results] {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).expect("the server may write");
        }
        let run = |test: String| {
            let input = fs::File::open(self.directory.join(format!("sql/{test}.sql"))).expect("a test");
            let output = scratch.path().join("output");
            let file = fs::File::create(&output).expect("an output file");
            let mut psql = Command::new("psql");
            psql.args(["-X", "-a", "-q", "-v", "HIDE_TABLEAM=on", "-v", "HIDE_TOAST_COMPRESSION=on", DATABASE])
                .env("PGHOST", host)
                .env("PGPORT", port.to_string())
                .env("PGUSER", "postgres")
                .env("PG_ABS_SRCDIR", &self.directory)
                .env("PG_LIBDIR", &self.directory)
                .env("PG_DLSUFFIX", ".so")
                .env("PG_ABS_BUILDDIR", scratch.path())
                .envs(environment.iter().copied())
                .current_dir(scratch.path())
                .stdin(Stdio::from(input))
                .stderr(file.try_clone().expect("the same file"))
                .stdout(file);
            psql.status().expect("psql runs");
            String::from_utf8_lossy(&fs::read(&output).expect("the output")).into_owned()
        };
        self.tests().into_iter().map(run).collect()
    }
}

/// As pg_regress does it.
fn prepare(cluster: &Cluster) {
    cluster.psql("postgres", &format!("CREATE DATABASE {DATABASE} TEMPLATE template0"));
    for setting in [
        "lc_messages = 'C'",
        "lc_monetary = 'C'",
        "lc_numeric = 'C'",
        "lc_time = 'C'",
        "bytea_output = 'hex'",
        "timezone_abbreviations = 'Default'",
        "timezone = 'PST8PDT'",
        "datestyle = 'Postgres, MDY'",
    ] {
        cluster.psql("postgres", &format!("ALTER DATABASE {DATABASE} SET {setting}"));
    }
}

fn cluster() -> Cluster {
    Cluster::start_with(&[("max_prepared_transactions", "10")])
}

/// Compares all outputs; the names of tests that differ and shouldn't.
fn compare(mode: &str, environment: &[(&str, &str)]) {
    let suite = Suite::find();
    let (direct, through) = std::thread::scope(|scope| {
        let direct = scope.spawn(|| {
            let cluster = cluster();
            suite.run(&cluster, (cluster.socket_dir(), cluster.port()), environment)
        });
        let cluster = cluster();
        let sluice = Sluice::start(&databases(&cluster, ""), &[&format!("pool_mode = {mode}")]);
        let through = suite.run(&cluster, (Path::new("127.0.0.1"), sluice.port()), environment);
        (direct.join().expect("the direct run"), through)
    });
    let mut surprises = Vec::new();
    let mut same = 0;
    for ((test, direct), through) in suite.tests().iter().zip(&direct).zip(&through) {
        if direct == through {
            same += 1;
        } else if let Some((_, why)) = KNOWN.iter().find(|(known, _)| known == test) {
            println!("{test} differs: {why}");
        } else {
            surprises.push(format!("{test}: {}", first_difference(direct, through)));
        }
    }
    println!("{mode} pooling: {same} of {} tests have the same output as without Sluice", direct.len());
    assert!(surprises.is_empty(), "{}", surprises.join("\n"));
}

fn first_difference(direct: &str, through: &str) -> String {
    let mut lines = direct.lines().zip(through.lines()).enumerate();
    match lines.find(|(_, (direct, through))| direct != through) {
        Some((number, (direct, through))) => format!("line {}: {direct:?} became {through:?}", number + 1),
        None => "one output is longer".to_owned(),
    }
}

#[test]
#[ignore = "needs PostgreSQL's sources and some minutes: scripts/regress"]
fn transaction_pooling_passes_postgresqls_own_tests() {
    // By the start-up packet, which is harder: RESET has to go back to it, whichever server the client has.
    compare("transaction", &[("PGTZ", "PST8PDT"), ("PGDATESTYLE", "Postgres, MDY")]);
}

#[test]
#[ignore = "needs PostgreSQL's sources and some minutes: scripts/regress"]
fn session_pooling_passes_postgresqls_own_tests() {
    compare("session", &[]);
}
