//! The line that moves while the demo runs, asked of the pooler's own console.

use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls, SimpleQueryMessage, SimpleQueryRow};

use super::DemoError;
use super::progress::{Progress, grouped};

/// How long the pooler may take until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(15);
const RETRY: Duration = Duration::from_millis(50);

/// Waits until the console answers.
pub async fn connect(console_url: &str) -> Result<Client, DemoError> {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        match tokio_postgres::connect(console_url, NoTls).await {
            Ok((client, connection)) => {
                // An error of the connection reaches whoever uses the client.
                tokio::spawn(connection);
                return Ok(client);
            }
            Err(_) if Instant::now() < deadline => tokio::time::sleep(RETRY).await,
            Err(error) => return Err(DemoError::postgres("the pooler's console doesn't answer")(error)),
        }
    }
}

/// Shows clients and queries per second until the console goes away.
pub async fn show(console: &Client, progress: &Progress) {
    let mut before: Option<(Instant, u64)> = None;
    let mut tick = tokio::time::interval(progress.status_interval());
    loop {
        tick.tick().await;
        let Ok((clients, queries)) = ask(console).await else { return };
        let now = Instant::now();
        if let Some((then, queries_then)) = before.replace((now, queries)) {
            let rate = queries.saturating_sub(queries_then) as f64 / (now - then).as_secs_f64();
            let rate = grouped(rate.round() as u64);
            progress.status(&format!("{clients} clients, {rate} queries/s, {} queries so far", grouped(queries)));
        }
    }
}

/// Clients connected (this one not counted), and queries since the start.
async fn ask(console: &Client) -> Result<(u64, u64), tokio_postgres::Error> {
    let lists = rows(console.simple_query("SHOW LISTS").await?);
    let clients = lists.iter().find(|row| text(row, "list") == "used_clients").map_or(0, |row| number(row, "items"));
    let stats = rows(console.simple_query("SHOW STATS").await?);
    let of_databases = stats.iter().filter(|row| text(row, "database") != "pgbouncer");
    let queries = of_databases.map(|row| number(row, "total_query_count")).sum();
    Ok((clients.saturating_sub(1), queries))
}

fn rows(messages: Vec<SimpleQueryMessage>) -> Vec<SimpleQueryRow> {
    let row = |message| if let SimpleQueryMessage::Row(row) = message { Some(row) } else { None };
    messages.into_iter().filter_map(row).collect()
}

fn text<'a>(row: &'a SimpleQueryRow, column: &str) -> &'a str {
    row.try_get(column).ok().flatten().unwrap_or_default()
}

fn number(row: &SimpleQueryRow, column: &str) -> u64 {
    text(row, column).parse().unwrap_or_default()
}
