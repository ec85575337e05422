//! What is counted, as SHOW STATS tells it.

use crate::support::{Batch, Client, Stand, console};

/// Transactions, queries and assignments of database `postgres`, and its logins.
fn counts(console: &mut Client) -> (String, String, String, String) {
    let rows = console.ok("SHOW STATS_TOTALS").rows();
    let row = rows.into_iter().find(|row| row[0].as_deref() == Some("postgres")).expect("its row");
    let value = |at: usize| row[at].clone().unwrap_or_default();
    (value(2), value(3), value(1), value(12))
}

fn expected(xacts: u32, queries: u32, assignments: u32, logins: u32) -> (String, String, String, String) {
    (xacts.to_string(), queries.to_string(), assignments.to_string(), logins.to_string())
}

/// Four sessions of one query, and one of two transactions; a driver's habit of preparing the sixth run of a text adds a
/// query of its own.
fn work(stand: &Stand) -> Client {
    for _ in 0..4 {
        stand.client().ok("SELECT 1");
    }
    let mut client = stand.client();
    for transaction in 0..2 {
        client.ok("BEGIN");
        for statement in 0..3 {
            if (transaction, statement) == (1, 2) {
                client.run(Batch::new().parse("s", "SELECT 1").sync());
                client.run(Batch::new().run_prepared("s", &[]).sync());
            } else {
                client.ok("SELECT 1");
            }
        }
        client.ok("COMMIT");
    }
    client
}

#[test]
fn session_pooling_counts_while_its_clients_stay() {
    let stand = Stand::start(&["pool_mode = session"]);
    let mut console = console(&stand.sluice);
    let client = work(&stand);
    assert_eq!(counts(&mut console), expected(6, 15, 5, 5));
    drop(client);
    assert_eq!(counts(&mut console), expected(6, 15, 5, 5));
}

#[test]
fn transaction_pooling_counts_each_transactions_server() {
    let stand = Stand::start(&[]);
    let mut console = console(&stand.sluice);
    let client = work(&stand);
    assert_eq!(counts(&mut console), expected(6, 15, 6, 5));
    drop(client);
}

#[test]
fn prepared_statements_are_counted_where_they_are_prepared() {
    let stand = Stand::start(&["default_pool_size = 1"]);
    let mut console = console(&stand.sluice);
    for _ in 0..2 {
        let mut client = stand.client();
        client.run(Batch::new().parse("s", "SELECT 1").sync());
        for _ in 0..3 {
            client.run(Batch::new().run_prepared("s", &[]).sync());
        }
    }
    let rows = console.ok("SHOW STATS_TOTALS").rows();
    let row = rows.into_iter().find(|row| row[0].as_deref() == Some("postgres")).expect("its row");
    let counted: Vec<&str> = row[9..12].iter().map(|value| value.as_deref().unwrap_or_default()).collect();
    // Parse from clients, Parse on servers, Bind.
    assert_eq!(counted, ["2", "1", "6"]);
}
