//! Two-phase commits that are interrupted: whatever dies at whichever moment, all shards come to one decision, and nothing
//! stays prepared.

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::support::client::Client;
use crate::support::fleet::{Fleet, ORGANIZATIONS, Plan, shard_name};
use crate::support::sluice::Sluice;
use crate::support::wait_until;

/// A transfer of 100 from `a` to `b`, about to commit. `a` is on the decision shard.
struct Transfer {
    fleet: Fleet,
    sluice: Sluice,
    client: Client,
    a: i64,
    b: i64,
}

impl Transfer {
    fn new() -> Self {
        Self::with(Plan::default())
    }

    fn with(plan: Plan) -> Self {
        let fleet = Fleet::start_as(plan).filled();
        let sluice = fleet.sluice();
        let mut client = sluice.connect("epfo");
        let mut pair = fleet.spread(2);
        pair.sort_by_key(|&organization| fleet.shard_of(organization));
        let [a, b] = pair[..] else { unreachable!() };
        for sql in begin_transfer(a, b) {
            client.query(&sql).ok();
        }
        Self { fleet, sluice, client, a, b }
    }

    fn balance(&self, organization: i64) -> i64 {
        let sql = format!("SELECT balance FROM accounts WHERE organization_id = {organization}");
        self.fleet.on_shard(self.fleet.shard_of(organization), &sql).parse().expect("a number")
    }

    fn balances(&self) -> (i64, i64) {
        (self.balance(self.a), self.balance(self.b))
    }

    /// Holds the decision: nobody can write it until the connection's transaction ends.
    fn hold_decision(&self) -> Client {
        let mut holder = self.fleet.direct(&shard_name(self.fleet.shard_of(self.a) as u16));
        holder.query("BEGIN; LOCK TABLE sluice.decisions IN ACCESS EXCLUSIVE MODE").ok();
        holder
    }

    /// Sends COMMIT, and waits until the other part is prepared.
    fn commit_until_prepared(&mut self) {
        self.client.send_query("COMMIT");
        wait_until("a part is prepared", || self.fleet.prepared_transactions() == 1);
    }

    fn wait_for_recovery(&self) {
        wait_until("recovery has finished what was prepared", || self.fleet.prepared_transactions() == 0);
    }

    /// The process that serves `organization`'s part of the transaction.
    fn backend(&self, organization: i64) -> String {
        let database = shard_name(self.fleet.shard_of(organization) as u16);
        let sql = format!(
            "SELECT pid FROM pg_stat_activity WHERE datname = '{database}' AND application_name NOT LIKE 'sluice%'
             AND query ~ '^(UPDATE accounts|PREPARE TRANSACTION|SELECT sluice.decide)'"
        );
        self.fleet.cluster.psql("postgres", &sql)
    }

    fn terminate(&self, backend: &str) {
        self.fleet.cluster.psql("postgres", &format!("SELECT pg_terminate_backend({backend})"));
    }
}

fn begin_transfer(a: i64, b: i64) -> [String; 3] {
    let add = |organization, amount| {
        format!("UPDATE accounts SET balance = balance + {amount} WHERE organization_id = {organization}")
    };
    ["BEGIN".to_owned(), add(a, -100), add(b, 100)]
}

fn signal(name: &str, pid: &str) {
    let status = Command::new("kill").args([name, pid]).status().expect("kill");
    assert!(status.success(), "kill {name} {pid}");
}

#[test]
fn killed_before_the_decision_everything_is_rolled_back() {
    let mut transfer = Transfer::new();
    let holder = transfer.hold_decision();
    transfer.commit_until_prepared();
    transfer.sluice.kill();
    drop(holder);
    assert_eq!(transfer.fleet.prepared_transactions(), 1, "nobody finishes it yet");
    transfer.sluice.restart();
    transfer.wait_for_recovery();
    assert_eq!(transfer.balances(), (1000, 1000));
}

#[test]
fn killed_after_the_decision_everything_is_committed() {
    let mut transfer = Transfer::new();
    let mut holder = transfer.hold_decision();
    transfer.commit_until_prepared();
    // The other part can't hear COMMIT PREPARED while it is stopped.
    let backend = transfer.backend(transfer.b);
    signal("-STOP", &backend);
    holder.query("ROLLBACK").ok();
    wait_until("the decision is made", || transfer.balance(transfer.a) == 900);
    transfer.sluice.kill();
    transfer.terminate(&backend);
    signal("-CONT", &backend);
    assert_eq!((transfer.fleet.prepared_transactions(), transfer.balance(transfer.b)), (1, 1000));
    transfer.sluice.restart();
    transfer.wait_for_recovery();
    assert_eq!(transfer.balances(), (900, 1100));
}

#[test]
fn a_participant_lost_before_or_while_it_prepares_undoes_all() {
    for lost in [true, false] {
        let mut transfer = Transfer::new();
        let backend = transfer.backend(if lost { transfer.a } else { transfer.b });
        transfer.terminate(&backend);
        let answer = transfer.client.query("COMMIT");
        assert!(answer.tags.is_empty() && !answer.errors.is_empty(), "{answer:?}");
        transfer.wait_for_recovery();
        assert_eq!(transfer.balances(), (1000, 1000));
    }
}

#[test]
fn a_decision_shard_lost_while_it_decides_is_settled_without_a_restart() {
    let mut transfer = Transfer::new();
    let holder = transfer.hold_decision();
    transfer.commit_until_prepared();
    let backend = transfer.backend(transfer.a);
    transfer.terminate(&backend);
    let answer = transfer.client.read_answer();
    assert!(answer.tags.is_empty(), "{answer:?}");
    drop(holder);
    transfer.wait_for_recovery();
    assert_eq!(transfer.balances(), (1000, 1000));
}

#[test]
fn without_prepared_transactions_a_transfer_is_refused_clearly() {
    let mut transfer = Transfer::with(Plan { settings: &[("max_prepared_transactions", "0")], ..Plan::default() });
    let answer = transfer.client.query("COMMIT");
    assert_eq!((answer.code(), answer.status), ("55000", 'I'));
    assert!(answer.errors[0].hint.contains("max_prepared_transactions"), "{answer:?}");
    assert_eq!(transfer.balances(), (1000, 1000));
    assert!(transfer.sluice.log().contains("max_prepared_transactions"), "it is reported at start-up");
}

/// Transfers between random organizations until told to stop; whatever fails is tried anew.
fn transfer_for_ever(socket: &std::path::Path, stop: &AtomicBool, committed: &AtomicU64) {
    let mut client = None;
    while !stop.load(Ordering::Relaxed) {
        let Some(connected) = &mut client else {
            client = Client::try_connect(socket, "epfo", &[]).ok();
            std::thread::sleep(Duration::from_millis(20));
            continue;
        };
        let a = rand::random_range(1..=ORGANIZATIONS);
        let b = rand::random_range(1..=ORGANIZATIONS);
        let failed = begin_transfer(a, b).iter().any(|sql| !connected.query(sql).errors.is_empty());
        let answer = connected.query(if failed { "ROLLBACK" } else { "COMMIT" });
        if answer.tags == ["COMMIT"] {
            committed.fetch_add(1, Ordering::Relaxed);
        }
        if answer.is_end() {
            client = None;
        }
    }
}

#[test]
fn no_money_appears_or_vanishes_under_faults() {
    // Deadlocks are across shards, too, where no PostgreSQL sees them whole: lock_timeout ends those.
    // What was run is in the server's log, for whoever has to find out why a sum is wrong.
    const SETTINGS: &[(&str, &str)] =
        &[("lock_timeout", "300ms"), ("log_statement", "all"), ("log_line_prefix", "%m [%p] %d ")];
    let fleet = Fleet::start_as(Plan { settings: SETTINGS, ..Plan::default() }).filled();
    let mut sluice = fleet.sluice();
    let (stop, committed) = (AtomicBool::new(false), AtomicU64::new(0));
    let socket = sluice.socket();
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| transfer_for_ever(&socket, &stop, &committed));
        }
        let began = Instant::now();
        let mut restarts = 0;
        while began.elapsed() < Duration::from_secs(8) {
            std::thread::sleep(Duration::from_millis(150));
            let victim = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE 'epfo%'
                AND application_name NOT LIKE 'sluice%' ORDER BY random() LIMIT 1";
            fleet.cluster.psql("postgres", victim);
            if began.elapsed() > Duration::from_secs(2 * (restarts + 1)) {
                sluice.restart();
                restarts += 1;
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    wait_until("recovery has finished what was prepared", || fleet.prepared_transactions() == 0);
    let sum: i64 = fleet
        .on_all("SELECT coalesce(sum(balance), 0) FROM accounts")
        .iter()
        .map(|sum| sum.parse::<i64>().expect("a sum"))
        .sum();
    if sum != 1000 * ORGANIZATIONS {
        println!("{}", fleet.server_log());
    }
    assert_eq!(sum, 1000 * ORGANIZATIONS);
    let committed = committed.into_inner();
    assert!(committed > 50, "only {committed} transfers were committed");
}
