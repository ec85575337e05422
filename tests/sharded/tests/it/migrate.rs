//! `sluice migrate`: from empty databases to a fleet that serves, by one command.

use std::process::Command;

use sluice_test_harness::Cluster;

use crate::support::sluice::{Sluice, program};

const ENTRY: &str = "app";

struct Empty {
    cluster: Cluster,
    directory: tempfile::TempDir,
}

impl Empty {
    /// A catalog and three shards without anything in them.
    fn start() -> Self {
        let cluster = Cluster::start_with(&[("max_prepared_transactions", "10")]);
        for name in ["catalog", "app_00", "app_01", "app_02"] {
            cluster.create_database(name);
        }
        let directory = tempfile::tempdir().expect("a directory");
        let ini = format!("[databases]\n{}\n[pgbouncer]\n", Self::entry(&cluster));
        std::fs::write(directory.path().join("sluice.ini"), ini).expect("sluice.ini");
        Self { cluster, directory }
    }

    fn entry(cluster: &Cluster) -> String {
        format!("{ENTRY} = catalog='{}' pool_mode=transaction", cluster.conninfo("catalog"))
    }

    fn place(&self, dbname: &str) -> String {
        format!("host={} port={} dbname={dbname}", self.cluster.socket_dir().display(), self.cluster.port())
    }

    /// What it prints, or the error.
    fn migrate(&self, options: &[&str]) -> Result<String, String> {
        let mut command = Command::new(program());
        command.arg("migrate").arg(self.directory.path().join("sluice.ini")).args(options);
        let output = command.output().expect("sluice can be started");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    fn create(&self, shards: &str, pattern: &str) -> Result<String, String> {
        self.create_by("organization_id", shards, pattern)
    }

    fn create_by(&self, key: &str, shards: &str, pattern: &str) -> Result<String, String> {
        self.migrate(&["--create", "--key-column", key, "--shards", shards, "--shard-pattern", &self.place(pattern)])
    }
}

#[test]
fn one_command_makes_a_fleet_that_serves() {
    let empty = Empty::start();
    let error = empty.migrate(&[]).unwrap_err();
    assert!(error.contains("database \"app\" is not in the catalog") && error.contains("--create"), "{error}");

    let first = empty.create("3", "app_%02d").expect("created");
    assert!(first.contains("database \"app\": created with 3 shards by organization_id"), "{first}");
    assert!(first.contains("shard 2 of database \"app\": applied"), "{first}");
    let counts = "SELECT shard, count(*) FROM sluice.slots GROUP BY shard ORDER BY shard";
    assert_eq!(empty.cluster.psql("catalog", counts), "0|1366\n1|1365\n2|1365");

    // Again, in the other spelling: nothing to do.
    let shards: Vec<String> = ["app_00", "app_01", "app_02"].map(|name| empty.place(name)).into();
    let mut options = vec!["--create", "--database", ENTRY, "--key-column", "organization_id", "--key-type", "int"];
    options.extend(shards.iter().flat_map(|shard| ["--shard", shard]));
    let second = empty.migrate(&options).expect("the same");
    assert!(second.lines().count() == 5 && second.lines().all(|line| line.ends_with(": up to date")), "{second}");
    assert_eq!(empty.migrate(&[]).expect("migrated").lines().count(), 4);

    let sluice = Sluice::start(&Empty::entry(&empty.cluster), "");
    let mut client = sluice.connect(ENTRY);
    client.query("CREATE TABLE members (organization_id bigint, id bigint, PRIMARY KEY (organization_id, id))").ok();
    for organization in 1..=20 {
        client.query(&format!("INSERT INTO members VALUES ({organization}, 1)")).ok();
    }
    let rows = |shard| empty.cluster.psql(shard, "SELECT count(*) FROM members").parse::<u32>().expect("a number");
    let spread = ["app_00", "app_01", "app_02"].map(rows);
    assert!(spread.iter().all(|rows| *rows > 0) && spread.iter().sum::<u32>() == 20, "{spread:?}");
}

#[test]
fn what_is_there_and_differs_is_refused() {
    let empty = Empty::start();
    empty.create("2", "app_%02d").expect("created");
    let map = || empty.cluster.psql("catalog", "SELECT * FROM sluice.shards, sluice.databases");
    let before = map();
    let error = empty.create_by("tenant", "3", "app_%02d").unwrap_err();
    for part in ["the key column is organization_id, not tenant", "the number of shards is 2, not 3"] {
        assert!(error.contains(part), "{error}");
    }
    let error = empty.create("2", "app%%_%02d").unwrap_err();
    assert!(error.contains("shard 1 is ") && error.contains("dbname=app%_01"), "{error}");
    assert_eq!(map(), before);
}

#[test]
fn a_mistake_leaves_the_catalog_as_it_was() {
    let empty = Empty::start();
    let cases = [
        (empty.create("4", "app_%02d"), "database \"app_03\" does not exist"),
        (empty.create("2", "app_00"), "shards 0 and 1 are the same PostgreSQL database"),
        (empty.create("2", "app_%02x"), "is not understood"),
        (empty.migrate(&["--create", "--key-column", "k"]), "required"),
        (empty.migrate(&["--key-column", "k"]), "--create"),
        (
            empty.migrate(&["--create", "--database", "ap", "--key-column", "k", "--shard", "host=h dbname=d"]),
            "the sharded ones are: app",
        ),
    ];
    for (number, (result, expected)) in cases.into_iter().enumerate() {
        let error = result.unwrap_err();
        assert!(error.contains(expected), "case {number}: {error}");
    }
    assert_eq!(empty.cluster.psql("catalog", "SELECT count(*) FROM sluice.databases"), "0");
    empty.create("3", "app_%02d").expect("put right");
}
