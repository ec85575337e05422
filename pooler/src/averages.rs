//! Statistics that only the console needs: its own counters, and what counters were at the beginning of the last two
//! periods, from which the averages come.
//!
//! Nothing is averaged while statements run: the janitor copies the totals once in each `stats_period`, and SHOW STATS
//! compares those of now with those at the beginning of the previous period, as PgBouncer does.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::config::CONSOLE;
use crate::lock::lock;
use crate::pool::Pools;
use crate::stats::{COUNTERS, Counters};

/// Counters by database.
pub type Totals = BTreeMap<String, Counters>;
/// Averages in the order of [`Counters::values`]: counts and bytes per second, times per transaction, query or assignment.
pub type Averages = [u64; COUNTERS];

pub struct ConsoleStats {
    own: Mutex<Counters>,
    periods: Mutex<Periods>,
}

impl Default for ConsoleStats {
    fn default() -> Self {
        Self { own: Mutex::default(), periods: Mutex::new(Periods::starting(Instant::now())) }
    }
}

impl ConsoleStats {
    pub fn count(&self, add: impl FnOnce(&mut Counters)) {
        add(&mut lock(&self.own));
    }

    /// A command of the console is a query and a transaction, as in PgBouncer.
    pub fn count_command(&self, took: Duration) {
        let micros = took.as_micros() as u64;
        self.count(|counters| {
            *counters += Counters {
                query_count: 1,
                query_time: micros,
                xact_count: 1,
                xact_time: micros,
                ..Counters::default()
            };
        });
    }

    /// Counters of all databases since the start, the console's included.
    pub fn totals(&self, pools: &Pools) -> Totals {
        let mut totals = Totals::from([(CONSOLE.to_owned(), *lock(&self.own))]);
        for (database, counters) in pools.forgotten() {
            *totals.entry(database.to_string()).or_default() += counters;
        }
        for view in pools.views() {
            *totals.entry(view.key.database.to_string()).or_default() += view.counters;
        }
        totals
    }

    /// Begins a new period if the last one is over, and says so.
    pub fn tick(&self, pools: &Pools, period: Duration) -> bool {
        let now = Instant::now();
        let is_over = lock(&self.periods).is_over(now, period);
        if is_over {
            let totals = self.totals(pools);
            lock(&self.periods).turn(now, totals);
        }
        is_over
    }

    /// The line of `log_stats`: averages since the previous period began.
    pub fn line(&self, pools: &Pools) -> String {
        stats_line(self.sums(pools).1)
    }

    /// Sums over all databases, and their averages.
    pub fn sums(&self, pools: &Pools) -> (Counters, Averages) {
        let now = sum(&self.totals(pools));
        let periods = lock(&self.periods);
        let (since, before) = &periods.previous;
        (now, averages(&sum(before), &now, since.elapsed()))
    }

    pub fn averages(&self, totals: &Totals) -> BTreeMap<String, Averages> {
        lock(&self.periods).averages(Instant::now(), totals)
    }
}

/// The beginnings of the previous period and of the one that runs.
struct Periods {
    previous: (Instant, Totals),
    running: (Instant, Totals),
}

impl Periods {
    fn starting(now: Instant) -> Self {
        Self { previous: (now, Totals::new()), running: (now, Totals::new()) }
    }

    fn is_over(&self, now: Instant, period: Duration) -> bool {
        now.duration_since(self.running.0) >= period
    }

    fn turn(&mut self, now: Instant, totals: Totals) {
        self.previous = std::mem::replace(&mut self.running, (now, totals));
    }

    fn averages(&self, now: Instant, totals: &Totals) -> BTreeMap<String, Averages> {
        let (since, before) = &self.previous;
        let elapsed = now.duration_since(*since);
        let average = |(name, counters): (&String, &Counters)| {
            let before = before.get(name).copied().unwrap_or_default();
            (name.clone(), averages(&before, counters, elapsed))
        };
        totals.iter().map(average).collect()
    }
}

fn sum(totals: &Totals) -> Counters {
    totals.values().fold(Counters::default(), |mut sum, counters| {
        sum += *counters;
        sum
    })
}

/// A pool that was dropped takes its counters along, so a difference may be below zero: that counts as none.
fn averages(before: &Counters, now: &Counters, elapsed: Duration) -> Averages {
    let (old, new) = (before.values(), now.values());
    let change: [u64; COUNTERS] = std::array::from_fn(|i| new[i].saturating_sub(old[i]));
    let [assignments, transactions, queries, received, sent, transaction_time, query_time, wait_time, ..] = change;
    let micros = elapsed.as_micros().max(1);
    let per_second = |value: u64| u64::try_from(u128::from(value) * 1_000_000 / micros).unwrap_or(u64::MAX);
    let each = |time: u64, count: u64| time.checked_div(count).unwrap_or(0);
    let [.., client_parses, server_parses, binds, logins] = change;
    [
        per_second(assignments),
        per_second(transactions),
        per_second(queries),
        per_second(received),
        per_second(sent),
        each(transaction_time, transactions),
        each(query_time, queries),
        each(wait_time, assignments),
        per_second(client_parses),
        per_second(server_parses),
        per_second(binds),
        per_second(logins),
    ]
}

fn stats_line(averages: Averages) -> String {
    let [_, transactions, queries, received, sent, transaction, query, wait, parses, server_parses, binds, logins] =
        averages;
    format!(
        "stats: {transactions} xacts/s, {queries} queries/s, {parses} client parses/s, {server_parses} server parses/s, \
         {binds} binds/s, {logins} client logins/s, in {received} B/s, out {sent} B/s, xact {transaction} us, \
         query {query} us, wait {wait} us"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(query_count: u64, query_time: u64) -> Totals {
        Totals::from([("db".to_owned(), Counters { query_count, query_time, ..Counters::default() })])
    }

    #[test]
    fn averages_reach_back_to_the_beginning_of_the_previous_period() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let period = Duration::from_secs(60);
        let mut periods = Periods::starting(start);
        assert!(!periods.is_over(at(59), period));
        assert!(periods.is_over(at(60), period));
        periods.turn(at(60), counted(600, 0));
        assert_eq!(periods.averages(at(60), &counted(600, 6_000))["db"][2], 10);
        assert_eq!(periods.averages(at(60), &counted(600, 6_000))["db"][6], 10);
        periods.turn(at(120), counted(600, 6_000));
        // Since second 60: 1,200 queries in 120 seconds.
        assert_eq!(periods.averages(at(180), &counted(1_800, 6_000 + 1_200 * 7))["db"][2], 10);
        assert_eq!(periods.averages(at(180), &counted(1_800, 1_200 * 7))["db"][6], 7);
    }

    #[test]
    fn the_log_line_has_each_average_in_its_place() {
        let line = stats_line(std::array::from_fn(|i| i as u64));
        assert_eq!(
            line,
            "stats: 1 xacts/s, 2 queries/s, 8 client parses/s, 9 server parses/s, 10 binds/s, 11 client logins/s, \
             in 3 B/s, out 4 B/s, xact 5 us, query 6 us, wait 7 us"
        );
    }

    #[test]
    fn nothing_and_less_than_nothing_average_to_zero() {
        let start = Instant::now();
        let mut periods = Periods::starting(start);
        assert_eq!(periods.averages(start, &counted(0, 0))["db"], [0; COUNTERS]);
        periods.turn(start, counted(9, 9));
        periods.turn(start, counted(9, 9));
        assert_eq!(periods.averages(start, &counted(1, 1))["db"], [0; COUNTERS]);
    }
}
