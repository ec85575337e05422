//! When a server is given back: session, transaction and statement pooling.

use crate::support::{Batch, Stand};

#[test]
fn transaction_pooling_shares_a_server_between_transactions() {
    let stand = Stand::start(&["default_pool_size = 1"]);
    let (mut one, mut two) = (stand.client(), stand.client());
    let backend = one.backend();
    assert_eq!(two.backend(), backend);
    one.ok("BEGIN");
    assert_eq!(one.backend(), backend);
    two.send_query("SELECT pg_backend_pid()");
    assert!(two.is_silent_for(std::time::Duration::from_millis(300)), "the server belongs to an open transaction");
    one.ok("COMMIT");
    assert_eq!(two.answer().column(), [backend]);
}

#[test]
fn a_failed_transaction_keeps_its_server_until_it_ends() {
    let stand = Stand::start(&["default_pool_size = 1"]);
    let (mut one, mut two) = (stand.client(), stand.client());
    one.ok("BEGIN");
    let answer = one.query("SELECT 1/0");
    assert_eq!(answer.error().expect("an error").code, "22012");
    assert_eq!(answer.status(), Some('E'));
    let aborted = one.error("SELECT 1");
    assert_eq!(aborted.code, "25P02");
    two.send_query("SELECT 2");
    assert!(two.is_silent_for(std::time::Duration::from_millis(200)));
    // COMMIT of a failed transaction is a rollback, and says so.
    let answer = one.query("COMMIT");
    assert_eq!((answer.completed(), answer.status()), (vec!["ROLLBACK".to_owned()], Some('I')));
    assert_eq!(two.answer().column(), ["2"]);
}

#[test]
fn session_pooling_keeps_the_server_until_the_client_leaves() {
    let stand = Stand::start(&["pool_mode = session", "default_pool_size = 1"]);
    let mut one = stand.client();
    let backend = one.backend();
    one.ok("CREATE TEMP TABLE mine (a int)");
    one.ok("SET work_mem = '3MB'");
    let mut two = stand.client();
    two.send_query("SELECT pg_backend_pid(), current_setting('work_mem'), to_regclass('mine') IS NULL");
    assert!(two.is_silent_for(std::time::Duration::from_millis(300)), "one's session goes on");
    assert_eq!(one.value("SELECT count(*) FROM mine"), "0");
    one.terminate();
    let row = two.answer().rows().remove(0).into_iter().map(Option::unwrap_or_default).collect::<Vec<_>>();
    // DISCARD ALL ran in between.
    assert_eq!(row, [backend.as_str(), "4MB", "t"]);
}

#[test]
fn session_pooling_passes_everything_through() {
    let stand = Stand::start(&["pool_mode = session", "default_pool_size = 2"]);
    let mut client = stand.client();
    let batch = Batch::new().parse("s", "SELECT $1::int + 1").sync();
    assert_eq!(client.run(batch).tags(), "1Z");
    client.ok("LISTEN news; PREPARE p AS SELECT 7; SET TimeZone = 'Asia/Kolkata'");
    assert_eq!(client.run(Batch::new().run_prepared("s", &["4"]).sync()).column(), ["5"]);
    assert_eq!(client.value("EXECUTE p"), "7");
    stand.direct("NOTIFY news, 'hello'");
    assert_eq!(client.until(b'A').messages.last().expect("a notification").tag, b'A');
    assert_eq!(client.run(Batch::new().parse("s", "SELECT 1").sync()).error().expect("a clash").code, "42P05");
}

#[test]
fn a_custom_reset_query_is_run_instead_of_discard_all() {
    let settings = [
        "pool_mode = session",
        "default_pool_size = 1",
        "server_reset_query = SELECT set_config('my.reset', 'ran', false)",
    ];
    let stand = Stand::start(&settings);
    let mut one = stand.client();
    one.ok("SET my.mark = 'left'");
    one.terminate();
    let mut two = stand.client();
    assert_eq!(two.value("SELECT current_setting('my.reset') || current_setting('my.mark')"), "ranleft");
}

#[test]
fn a_reset_query_that_fails_costs_the_server_not_the_next_client() {
    let stand = Stand::start(&["pool_mode = session", "default_pool_size = 1", "server_reset_query = SELECT 1/0"]);
    let mut one = stand.client();
    let backend = one.backend();
    one.terminate();
    let mut two = stand.client();
    assert_ne!(two.backend(), backend);
}

#[test]
fn statement_pooling_refuses_transaction_blocks() {
    let stand = Stand::start(&["pool_mode = statement", "default_pool_size = 1"]);
    let mut client = stand.client();
    client.ok("SELECT 1");
    // Begun and ended in one message is no block that lasts.
    assert_eq!(client.ok("BEGIN; SELECT 2; COMMIT").completed(), ["BEGIN", "SELECT 1", "COMMIT"]);
    client.send_query("BEGIN");
    let error = client.until_closed().error().expect("an error");
    assert_eq!(
        (error.severity.as_str(), error.code.as_str(), error.message.as_str()),
        ("FATAL", "08P01", "transaction blocks not allowed in statement pooling mode")
    );
    stand.assert_healthy_servers();
    assert_eq!(stand.client().value("SELECT 3"), "3");
}

#[test]
fn a_pipeline_keeps_its_server_until_everything_is_answered() {
    let stand = Stand::start(&["default_pool_size = 1"]);
    let (mut one, mut two) = (stand.client(), stand.client());
    // No Sync yet: the implicit transaction is open.
    one.send(&Batch::new().run("SELECT pg_backend_pid()", &[]).flush().0);
    one.until(b'C');
    two.send_query("SELECT 2");
    assert!(two.is_silent_for(std::time::Duration::from_millis(200)));
    one.send(&Batch::new().sync().0);
    assert_eq!(one.answer().status(), Some('I'));
    assert_eq!(two.answer().column(), ["2"]);
}

#[test]
fn a_pool_mode_of_the_entry_or_the_user_beats_the_global_one() {
    let stand = Stand::with_entry("pool_mode=session", &["pool_mode = transaction", "default_pool_size = 1"]);
    let mut one = stand.client();
    one.ok("SELECT 1");
    let mut two = stand.client();
    two.send_query("SELECT 2");
    assert!(two.is_silent_for(std::time::Duration::from_millis(200)), "session pooling holds the server");
    one.terminate();
    assert_eq!(two.answer().column(), ["2"]);
}
