//! Transaction blocks over several shards: what they cost, that they end as one, and what PostgreSQL's rules for a block
//! mean there.

use sluice_router::map::TableClass;

use crate::support::client::{Client, Value};
use crate::support::fleet::{Fleet, Plan};
use crate::support::sluice::Sluice;
use crate::support::wait_until;

/// A fleet, an instance and a client, with two organizations on two shards.
struct Stage {
    fleet: Fleet,
    sluice: Sluice,
    client: Client,
    a: i64,
    b: i64,
}

impl Stage {
    fn new() -> Self {
        Self::with(Plan::default())
    }

    fn with(plan: Plan) -> Self {
        let fleet = Fleet::start_as(plan).filled();
        let sluice = fleet.sluice();
        let client = sluice.connect("epfo");
        let [a, b] = fleet.spread(2)[..] else { unreachable!() };
        Self { fleet, sluice, client, a, b }
    }

    fn run(&mut self, sql: &str) {
        self.client.query(sql).ok();
    }

    fn add(&mut self, organization: i64, amount: i64) {
        let sql = format!("UPDATE accounts SET balance = balance + {amount} WHERE organization_id = {organization}");
        assert_eq!(self.client.query(&sql).ok().tags, ["UPDATE 1"]);
    }

    /// What is committed, read directly from the shard.
    fn balance(&self, organization: i64) -> i64 {
        let sql = format!("SELECT balance FROM accounts WHERE organization_id = {organization}");
        self.fleet.on_shard(self.fleet.shard_of(organization), &sql).parse().expect("a number")
    }

    fn balances(&self) -> (i64, i64) {
        (self.balance(self.a), self.balance(self.b))
    }
}

#[test]
fn begin_takes_no_server() {
    let mut stage = Stage::new();
    // The login looked at the home shard's settings.
    let at_login = stage.fleet.backends();
    for begin in ["BEGIN", "START TRANSACTION ISOLATION LEVEL SERIALIZABLE", "begin read only"] {
        assert_eq!(stage.client.query(begin).ok().status, 'T');
        assert_eq!(stage.client.query("SAVEPOINT s").ok().status, 'T');
        assert_eq!(stage.fleet.backends(), at_login, "{begin}");
        assert_eq!(stage.client.query("COMMIT").ok().status, 'I');
    }
    let idle = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'";
    let (a, b) = (stage.a, stage.b);
    stage.run("BEGIN");
    for (organization, enlisted) in [(a, "1"), (a, "1"), (b, "2")] {
        stage.add(organization, 1);
        assert_eq!(stage.fleet.cluster.psql("postgres", idle), enlisted, "a server for each shard that was used");
    }
    stage.run("ROLLBACK");
}

#[test]
fn two_shards_commit_or_roll_back_as_one() {
    let mut stage = Stage::new();
    let (a, b) = (stage.a, stage.b);
    stage.run("BEGIN");
    stage.add(a, -100);
    stage.add(b, 100);
    assert_eq!(stage.balances(), (1000, 1000), "nothing is visible before the commit");
    stage.run("COMMIT");
    assert_eq!(stage.balances(), (900, 1100));

    stage.run("BEGIN");
    stage.add(a, -100);
    stage.add(b, 100);
    stage.run("ROLLBACK");
    assert_eq!(stage.balances(), (900, 1100));

    // A commit that one shard refuses: a deferred constraint.
    stage.fleet.on_all(
        "CREATE FUNCTION veto() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'vetoed'; END$$;
         CREATE CONSTRAINT TRIGGER veto AFTER UPDATE ON accounts DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW WHEN (NEW.balance = 1111) EXECUTE FUNCTION veto()",
    );
    for (first, second) in [(a, b), (b, a)] {
        stage.run("BEGIN");
        stage.add(first, -10);
        stage.run(&format!("UPDATE accounts SET balance = 1111 WHERE organization_id = {second}"));
        let answer = stage.client.query("COMMIT");
        assert_eq!((answer.code(), answer.status), ("P0001", 'I'));
        assert_eq!(stage.balances(), (900, 1100));
    }
    assert_eq!(stage.fleet.prepared_transactions(), 0);
}

#[test]
fn an_error_on_one_shard_fails_the_block_on_all() {
    let mut stage = Stage::new();
    let (a, b) = (stage.a, stage.b);
    let elsewhere = stage.fleet.spread(3)[2];
    let read = |organization| format!("SELECT balance FROM accounts WHERE organization_id = {organization}");
    // The shard of the error, another that is in the transaction, and one that isn't yet.
    for next in [a, b, elsewhere] {
        stage.run("BEGIN");
        stage.add(b, 5);
        let failed = stage.client.query(&format!("UPDATE accounts SET balance = -1 WHERE organization_id = {a}"));
        assert_eq!((failed.code(), failed.status), ("23514", 'E'));
        let answer = stage.client.query(&read(next));
        assert_eq!((answer.code(), answer.status), ("25P02", 'E'), "organization {next}");
        let answer = stage.client.extended(&read(next), &[], &[]);
        assert_eq!((answer.code(), answer.status), ("25P02", 'E'), "organization {next}");
        // As PostgreSQL: COMMIT of a failed block says ROLLBACK.
        let answer = stage.client.query("COMMIT").ok();
        assert_eq!((&*answer.tags[0], answer.status), ("ROLLBACK", 'I'));
        assert_eq!(stage.balances(), (1000, 1000));
    }
    // The same with the only server of a transaction.
    stage.run("BEGIN");
    assert_eq!(stage.client.query(&format!("SELECT 1/0 FROM accounts WHERE organization_id = {a}")).status, 'E');
    assert_eq!(stage.client.query(&read(b)).code(), "25P02");
    assert_eq!(stage.client.query("ROLLBACK").ok().status, 'I');
    // A refusal of ours fails the block, too.
    stage.run("BEGIN");
    stage.add(a, 5);
    assert_eq!(stage.client.query("SELECT count(*) FROM members").status, 'E');
    assert_eq!(stage.client.query(&read(a)).code(), "25P02");
    assert_eq!(stage.client.query("COMMIT").ok().tags, ["ROLLBACK"]);
    assert_eq!(stage.balances(), (1000, 1000));
}

#[test]
fn savepoints_hold_on_all_shards_also_on_those_that_join_later() {
    let mut stage = Stage::new();
    let (a, b) = (stage.a, stage.b);
    stage.run("BEGIN");
    stage.add(a, 1);
    stage.run("SAVEPOINT s");
    stage.add(a, 10);
    // Joins behind the savepoint: what it does is undone as well.
    stage.add(b, 10);
    stage.run("ROLLBACK TO SAVEPOINT s");
    stage.add(b, 2);
    stage.run("COMMIT");
    assert_eq!(stage.balances(), (1001, 1002));

    // An error is healed by the savepoint before it, on whichever shard it happened.
    for (failing, other) in [(a, b), (b, a)] {
        stage.run("BEGIN");
        stage.add(other, 100);
        stage.run("SAVEPOINT s");
        let failed = stage.client.query(&format!("UPDATE accounts SET balance = -1 WHERE organization_id = {failing}"));
        assert_eq!(failed.status, 'E');
        assert_eq!(stage.client.query("ROLLBACK TO s").ok().status, 'T');
        stage.add(failing, 1);
        stage.run("RELEASE s");
        assert_eq!(stage.client.query("ROLLBACK TO s").code(), "3B001");
        stage.run("ROLLBACK");
    }
    // Nested, of one name.
    stage.run("BEGIN");
    stage.run("SAVEPOINT s");
    stage.add(a, 1);
    stage.run("SAVEPOINT s");
    stage.add(b, 1);
    stage.run("ROLLBACK TO s; ");
    stage.run("RELEASE s");
    stage.run("ROLLBACK TO s");
    stage.add(b, 7);
    stage.run("COMMIT");
    assert_eq!(stage.balances(), (1001, 1009));
}

#[test]
fn a_late_shard_gets_the_settings_of_the_transaction() {
    let mut stage = Stage::new();
    let (a, b) = (stage.a, stage.b);
    let setting = |name: &str, organization| {
        format!("SELECT current_setting('{name}') FROM accounts WHERE organization_id = {organization}")
    };
    stage.run("SET work_mem = '5MB'");
    stage.run("BEGIN");
    stage.run("SET LOCAL statement_timeout = '17s'");
    stage.run("SET work_mem = '6MB'");
    for organization in [a, b] {
        assert_eq!(stage.client.query(&setting("statement_timeout", organization)).value(), "17s");
        assert_eq!(stage.client.query(&setting("work_mem", organization)).value(), "6MB");
    }
    // Behind a savepoint, on both; then taken back, on both.
    stage.run("SAVEPOINT s");
    stage.run("SET LOCAL statement_timeout = '18s'");
    for organization in [a, b] {
        assert_eq!(stage.client.query(&setting("statement_timeout", organization)).value(), "18s");
    }
    stage.run("ROLLBACK TO s");
    let third = stage.fleet.spread(3)[2];
    for organization in [a, b, third] {
        assert_eq!(stage.client.query(&setting("statement_timeout", organization)).value(), "17s");
    }
    stage.run("ROLLBACK");
    for organization in [a, b, third] {
        assert_eq!(stage.client.query(&setting("work_mem", organization)).value(), "5MB");
        assert_eq!(stage.client.query(&setting("statement_timeout", organization)).value(), "0");
    }
    let mut other = stage.sluice.connect("epfo");
    assert_eq!(other.query(&setting("work_mem", a)).value(), "4MB", "nothing leaks to another client");
}

#[test]
fn deferred_constraints_stay_deferred_on_a_late_shard() {
    let tables = "CREATE TABLE parents (organization_id bigint, id bigint, PRIMARY KEY (organization_id, id));
        CREATE TABLE children (organization_id bigint, id bigint, parent bigint,
            FOREIGN KEY (organization_id, parent) REFERENCES parents DEFERRABLE INITIALLY IMMEDIATE)";
    let classes = &[("parents", TableClass::Sharded), ("children", TableClass::Sharded)];
    let plan = Plan { tables, classes, ..Plan::default() };
    let mut stage = Stage::with(plan);
    stage.run("BEGIN");
    stage.run("SET CONSTRAINTS ALL DEFERRED");
    for organization in [stage.a, stage.b] {
        stage.run(&format!("INSERT INTO children VALUES ({organization}, 1, 1)"));
        stage.run(&format!("INSERT INTO parents VALUES ({organization}, 1)"));
    }
    stage.run("COMMIT");
    assert_eq!(stage.fleet.on_all("SELECT count(*) FROM children").concat().matches('1').count(), 2);
}

#[test]
fn modes_of_the_transaction_hold_on_every_shard() {
    let mut stage = Stage::new();
    let (a, b) = (stage.a, stage.b);
    let isolation = |organization| {
        format!("SELECT current_setting('transaction_isolation') FROM accounts WHERE organization_id = {organization}")
    };
    stage.run("BEGIN ISOLATION LEVEL SERIALIZABLE");
    for organization in [a, b] {
        assert_eq!(stage.client.query(&isolation(organization)).value(), "serializable");
    }
    stage.run("COMMIT");

    stage.run("BEGIN");
    stage.run("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ");
    for organization in [a, b] {
        assert_eq!(stage.client.query(&isolation(organization)).value(), "repeatable read");
    }
    stage.run("COMMIT");

    stage.run("BEGIN READ ONLY");
    for organization in [a, b] {
        stage.run(&isolation(organization));
    }
    let answer = stage.client.query(&format!("DELETE FROM accounts WHERE organization_id = {b}"));
    assert_eq!(answer.code(), "25006");
    stage.run("ROLLBACK");
}

#[test]
fn chained_transactions_keep_their_modes_and_free_their_servers() {
    let mut stage = Stage::new();
    let (a, b) = (stage.a, stage.b);
    stage.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
    stage.add(a, 1);
    stage.add(b, 1);
    assert_eq!(stage.client.query("COMMIT AND CHAIN").ok().status, 'T');
    assert_eq!(stage.balances(), (1001, 1001));
    let isolation =
        format!("SELECT current_setting('transaction_isolation') FROM accounts WHERE organization_id = {b}");
    assert_eq!(stage.client.query(&isolation).value(), "repeatable read");
    stage.add(a, 1);
    assert_eq!(stage.client.query("ROLLBACK AND CHAIN").ok().status, 'T');
    stage.add(b, 1);
    stage.run("COMMIT");
    assert_eq!(stage.balances(), (1001, 1002));
    // With one shard, which ends the transaction itself.
    stage.run("BEGIN ISOLATION LEVEL SERIALIZABLE");
    stage.add(a, 1);
    assert_eq!(stage.client.query("COMMIT AND CHAIN").ok().status, 'T');
    let isolation =
        format!("SELECT current_setting('transaction_isolation') FROM accounts WHERE organization_id = {a}");
    assert_eq!(stage.client.query(&isolation).value(), "serializable");
    stage.add(b, 1);
    stage.run("COMMIT");
    assert_eq!(stage.balances(), (1002, 1003));
    // Failed, and chained all the same.
    stage.run("BEGIN");
    stage.add(a, 1);
    stage.add(b, 1);
    assert_eq!(stage.client.query(&format!("SELECT 1/0 FROM accounts WHERE organization_id = {b}")).status, 'E');
    let answer = stage.client.query("COMMIT AND CHAIN").ok();
    assert_eq!((&*answer.tags[0], answer.status), ("ROLLBACK", 'T'));
    stage.add(b, 1);
    stage.run("COMMIT");
    assert_eq!(stage.balances(), (1002, 1004));
}

#[test]
fn cursors_are_read_where_they_were_declared() {
    let mut stage = Stage::new();
    let (a, b) = (stage.a, stage.b);
    stage.run("BEGIN");
    for (name, organization) in [("ca", a), ("cb", b)] {
        stage.run(&format!(
            "DECLARE {name} CURSOR FOR SELECT organization_id, id FROM members WHERE organization_id = {organization} ORDER BY id"
        ));
    }
    for id in 1..=3 {
        assert_eq!(stage.client.query("FETCH ca").value(), format!("{a}|{id}"));
        assert_eq!(stage.client.extended("FETCH 1 FROM cb", &[], &[]).value(), format!("{b}|{id}"));
    }
    stage.run("CLOSE ca");
    assert_eq!(stage.client.query("FETCH cb").value(), format!("{b}|4"));
    assert_eq!(stage.client.query("FETCH ca").code(), "34000");
    stage.run("ROLLBACK");
}

#[test]
fn only_writers_of_several_shards_are_prepared() {
    let logging: &[(&str, &str)] = &[("log_statement", "all")];
    let mut stage = Stage::with(Plan { settings: logging, ..Plan::default() });
    let (a, b) = (stage.a, stage.b);
    let prepares = |stage: &Stage| stage.fleet.server_log().matches("PREPARE TRANSACTION").count();
    // One shard.
    stage.run("BEGIN");
    stage.add(a, 1);
    stage.run("COMMIT");
    // One shard that writes, and one that only reads.
    stage.run("BEGIN");
    stage.run(&format!("SELECT balance FROM accounts WHERE organization_id = {a}"));
    stage.add(b, 1);
    stage.run("COMMIT");
    assert_eq!(prepares(&stage), 0);
    // Of two, only one is prepared; the other decides.
    stage.run("BEGIN");
    stage.add(a, 1);
    stage.add(b, 1);
    stage.run("COMMIT");
    assert_eq!(prepares(&stage), 1);
    assert_eq!(stage.balances(), (1002, 1002));
}

#[test]
fn parameters_route_inside_a_transaction() {
    let mut stage = Stage::new();
    let (a, b) = (stage.a, stage.b);
    let update = "UPDATE accounts SET balance = balance + $2 WHERE organization_id = $1";
    for command in ["BEGIN", "SAVEPOINT s"] {
        stage.client.extended(command, &[], &[]).ok();
    }
    stage.client.extended(update, &[], &[a.to_string().as_str().into(), "3".into()]).ok();
    stage.client.extended(update, &[20, 20], &[b.into(), Value::from(4)]).ok();
    let answer = stage.client.extended("COMMIT", &[], &[]).ok();
    assert_eq!((&*answer.tags[0], answer.status), ("COMMIT", 'I'));
    assert_eq!(stage.balances(), (1003, 1004));
}

#[test]
fn a_client_that_leaves_rolls_back_everywhere() {
    let mut stage = Stage::new();
    let (a, b) = (stage.a, stage.b);
    stage.run("BEGIN");
    stage.add(a, 1);
    stage.add(b, 1);
    stage.client = stage.sluice.connect("epfo");
    wait_until("the locks are gone", || {
        let held = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'";
        stage.fleet.cluster.psql("postgres", held) == "0"
    });
    assert_eq!(stage.balances(), (1000, 1000));
    stage.add(a, 1);
}

/// Transactions so far, and the microseconds that they took.
fn transactions(sluice: &Sluice) -> (u64, u64) {
    let rows = sluice.connect("pgbouncer").query("SHOW STATS_TOTALS").ok().rows;
    let row = rows.iter().find(|row| row.starts_with("epfo|")).expect("the database's row");
    let values: Vec<u64> = row.split('|').skip(1).map(|value| value.parse().expect("a number")).collect();
    (values[1], values[5])
}

#[test]
fn a_transaction_over_several_shards_is_counted_once_and_only_while_it_lasts() {
    let mut stage = Stage::new();
    let (a, b) = (stage.a, stage.b);
    for end in ["COMMIT", "ROLLBACK"] {
        let (before, _) = transactions(&stage.sluice);
        stage.run("BEGIN");
        stage.add(a, 1);
        stage.add(b, 1);
        stage.run(end);
        let (counted, time) = transactions(&stage.sluice);
        assert_eq!(counted, before + 1, "{end}");
        // It would still be timed.
        std::thread::sleep(std::time::Duration::from_secs(1));
        stage.add(a, 1);
        let (counted, later) = transactions(&stage.sluice);
        assert_eq!(counted, before + 2, "{end}");
        assert!(later - time < 1_000_000, "{end}: a statement took {} µs", later - time);
    }
}

#[test]
fn modes_of_a_second_begin_are_refused() {
    let fleet = Fleet::start().filled();
    let sluice = fleet.sluice();
    let mut client = sluice.connect("epfo");
    client.query("BEGIN").ok();
    client.query("BEGIN").ok();
    client.query(&format!("SELECT count(*) FROM members WHERE organization_id = {}", fleet.spread(1)[0])).ok();
    let refused = client.query("START TRANSACTION READ ONLY");
    assert_eq!((refused.code(), refused.status), ("0A000", 'E'));
    client.query("ROLLBACK").ok();
}
