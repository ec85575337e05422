//! SHOW STATS, STATS_TOTALS, STATS_AVERAGES and TOTALS.

use crate::app::App;
use crate::averages::Averages;
use crate::console::answer::{Row, Value, row};
use crate::stats::{COUNTERS, Counters};

/// The counters' names in TOTALS, in the order of [`Counters::values`].
const NAMES: [&str; COUNTERS] = [
    "server_assignment_count",
    "xact_count",
    "query_count",
    "client_bytes",
    "server_bytes",
    "xact_time",
    "query_time",
    "wait_time",
    "ps_client_parse_count",
    "ps_server_parse_count",
    "ps_bind_count",
    "client_login_count",
];

/// Name, totals and averages of each database, by name.
fn by_database(app: &App) -> impl Iterator<Item = (String, Counters, Averages)> {
    let totals = app.console.totals(&app.pools);
    let mut averages = app.console.averages(&totals);
    totals.into_iter().map(move |(name, counters)| {
        let average = averages.remove(&name).unwrap_or_default();
        (name, counters, average)
    })
}

fn numbers(row: &mut Row, values: [u64; COUNTERS]) {
    row.extend(values.map(Value::from));
}

pub fn stats(app: &App) -> Vec<Row> {
    let row = |(name, counters, averages): (String, Counters, Averages)| {
        let mut row = row![name];
        numbers(&mut row, counters.values());
        numbers(&mut row, averages);
        row
    };
    by_database(app).map(row).collect()
}

pub fn stats_totals(app: &App) -> Vec<Row> {
    let row = |(name, counters, _): (String, Counters, Averages)| {
        let mut row = row![name];
        numbers(&mut row, counters.values());
        row
    };
    by_database(app).map(row).collect()
}

pub fn stats_averages(app: &App) -> Vec<Row> {
    let row = |(name, _, averages): (String, Counters, Averages)| {
        let mut row = row![name];
        numbers(&mut row, averages);
        row
    };
    by_database(app).map(row).collect()
}

/// Averages of all databases are averages of their sum, not sums of their averages.
pub fn totals(app: &App) -> Vec<Row> {
    let (totals, averages) = app.console.sums(&app.pools);
    let row = |kind: &str, values: [u64; COUNTERS]| -> Vec<Row> {
        NAMES.iter().zip(values).map(|(name, value)| row![format!("{kind}_{name}"), value]).collect()
    };
    let mut rows = row("total", totals.values());
    rows.extend(row("avg", averages));
    rows
}
