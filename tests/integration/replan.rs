//! Tables that change under prepared statements: "cached plan must not change result type". Servers are shared, so a plan may be
//! older than the client that meets it.

use crate::support::{Batch, Client, Stand};

const SQL: &str = "SELECT * FROM wide";

fn stand(servers: usize) -> Stand {
    let stand = Stand::start(&[&format!("default_pool_size = {servers}"), "server_round_robin = 1"]);
    stand.direct("CREATE TABLE wide AS SELECT 1 AS a");
    stand
}

fn widen(stand: &Stand) {
    stand.direct("ALTER TABLE wide ADD COLUMN b int DEFAULT 2");
}

/// Bind, Describe and Execute, as libpq does it: the client learns what columns it gets.
fn described(name: &str) -> Batch {
    Batch::new().bind("", name, &[]).describe_portal("").execute("", 0).sync()
}

fn prepare(client: &mut Client, name: &str) {
    let answer = client.run(Batch::new().parse(name, SQL).describe_statement(name).sync());
    assert_eq!((answer.error(), answer.tags().as_str()), (None, "1tTZ"));
}

/// All servers of the pool get the statement.
fn warm_up(stand: &Stand, servers: usize) -> Client {
    let mut clients: Vec<Client> = (0..servers).map(|_| stand.client()).collect();
    for client in &mut clients {
        client.ok("BEGIN");
        client.backend();
        prepare(client, "old");
        assert_eq!(client.run(described("old")).rows()[0].len(), 1);
    }
    for client in &mut clients {
        client.ok("COMMIT");
    }
    clients.remove(0)
}

#[test]
fn a_client_that_is_told_the_columns_gets_the_new_ones() {
    let stand = stand(2);
    let mut client = warm_up(&stand, 2);
    widen(&stand);
    for _ in 0..6 {
        let answer = client.run(described("old"));
        assert_eq!((answer.error(), answer.tags().as_str()), (None, "2TDCZ"));
        assert_eq!(answer.rows(), [[Some("1".to_owned()), Some("2".to_owned())]]);
    }
}

#[test]
fn a_client_that_prepares_after_the_change_hears_nothing_of_old_plans() {
    let stand = stand(3);
    let _old = warm_up(&stand, 3);
    widen(&stand);
    let mut client = stand.client();
    prepare(&mut client, "new");
    for _ in 0..7 {
        // Without a Describe, as drivers do that have described the statement before.
        let answer = client.run(Batch::new().run_prepared("new", &[]).sync());
        assert_eq!((answer.error(), answer.tags().as_str()), (None, "2DCZ"));
        assert_eq!(answer.rows()[0].len(), 2);
    }
}

#[test]
fn a_client_that_knows_the_old_columns_gets_the_error_until_it_prepares_anew() {
    let stand = stand(3);
    let mut client = warm_up(&stand, 3);
    widen(&stand);
    for _ in 0..2 {
        let error = client.run(Batch::new().run_prepared("old", &[]).sync()).error().expect("an old plan");
        assert_eq!((error.code.as_str(), error.message.as_str()), ("0A000", "cached plan must not change result type"));
        assert_eq!(client.value("SELECT 1"), "1");
    }
    assert_eq!(client.run(Batch::new().close_statement("old").sync()).tags(), "3Z");
    prepare(&mut client, "old");
    for _ in 0..7 {
        assert_eq!(client.run(Batch::new().run_prepared("old", &[]).sync()).rows()[0].len(), 2);
    }
}

#[test]
fn a_transaction_that_meets_an_old_plan_fails_as_with_postgresql() {
    let stand = stand(1);
    let mut client = warm_up(&stand, 1);
    widen(&stand);
    client.ok("BEGIN");
    let answer = client.run(described("old"));
    assert_eq!(answer.error().expect("an old plan").code, "0A000");
    assert_eq!((answer.tags().as_str(), answer.status()), ("EZ", Some('E')));
    client.ok("ROLLBACK");
    assert_eq!(client.run(described("old")).rows()[0].len(), 2);
}

#[test]
fn a_table_that_is_gone_is_postgresqls_error() {
    let stand = stand(1);
    let mut client = warm_up(&stand, 1);
    stand.direct("DROP TABLE wide");
    for _ in 0..2 {
        let answer = client.run(described("old"));
        assert_eq!(answer.error().expect("no such table").code, "42P01");
        assert_eq!(answer.status(), Some('I'));
    }
    stand.direct("CREATE TABLE wide AS SELECT 1 AS a, 2 AS b, 3 AS c");
    assert_eq!(client.run(described("old")).rows()[0].len(), 3);
    assert_eq!(client.value("SELECT count(*) FROM pg_prepared_statements"), "1");
}

#[test]
fn statements_of_one_batch_are_repeated_together() {
    let stand = stand(1);
    let mut client = warm_up(&stand, 1);
    let answer = client.run(Batch::new().parse("one", "SELECT 1").describe_statement("one").sync());
    assert_eq!(answer.error(), None);
    widen(&stand);
    let batch = Batch::new().bind("", "old", &[]).describe_portal("").execute("", 0);
    let batch = batch.bind("", "one", &[]).describe_portal("").execute("", 0).sync();
    let answer = client.run(batch);
    assert_eq!((answer.error(), answer.tags().as_str()), (None, "2TDC2TDCZ"));
    assert_eq!(client.value("SELECT 1"), "1");
}
