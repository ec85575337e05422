//! Reference tables: the same rows on every shard, whatever happens.

use crate::support::client::{Client, bind, message, parse, sync};
use crate::support::fleet::Fleet;

fn rows(fleet: &Fleet) -> Vec<String> {
    fleet.on_all("SELECT string_agg(code || '=' || title, ',' ORDER BY code) FROM states")
}

#[test]
fn writes_reach_all_shards_or_none() {
    let fleet = Fleet::start().filled();
    let sluice = fleet.sluice();
    let mut client = sluice.connect("epfo");
    assert_eq!(client.query("INSERT INTO states VALUES ('KL', 'Kerala')").ok().tags, ["INSERT 0 1"]);
    let update = "UPDATE states SET title = $1 WHERE code = $2 RETURNING title";
    assert_eq!(client.extended(update, &[], &["NCT".into(), "DL".into()]).value(), "NCT");
    // A prepared statement, described and then executed twice.
    client.send(&[parse("delete", "DELETE FROM states WHERE code = $1", &[]), sync()]);
    client.read_answer().ok();
    for (code, tag) in [("TN", "DELETE 1"), ("XX", "DELETE 0")] {
        client.send(&[bind("delete", &[code.into()]), message(b'E', &[0; 5]), sync()]);
        assert_eq!(client.read_answer().ok().tags, [tag]);
    }
    let wanted = "DL=NCT,KA=Karnataka,KL=Kerala";
    assert!(rows(&fleet).iter().all(|rows| *rows == wanted), "{:?}", rows(&fleet));
    assert_eq!(client.query("UPDATE states SET title = upper(title) RETURNING code").ok().rows.len(), 3);

    // Every client reads them, wherever it is.
    for _ in 0..4 {
        assert_eq!(sluice.connect("epfo").query("SELECT title FROM states WHERE code = 'KL'").value(), "KERALA");
    }
    let [a] = fleet.spread(1)[..] else { unreachable!() };
    let join = format!("SELECT count(*) FROM members JOIN states ON code = 'KA' WHERE organization_id = {a}");
    assert_eq!(client.query(&join).value(), "5");
}

#[test]
fn a_shard_that_fails_or_differs_undoes_all() {
    let fleet = Fleet::start();
    let sluice = fleet.sluice();
    let mut client = sluice.connect("epfo");
    let before = rows(&fleet);
    fleet.on_shard(2, "ALTER TABLE states ADD CONSTRAINT short CHECK (length(title) < 12)");
    let answer = client.query("INSERT INTO states VALUES ('AP', 'Andhra Pradesh')");
    assert_eq!((answer.code(), answer.status), ("23514", 'I'));
    assert_eq!(rows(&fleet), before);

    fleet.on_shard(3, "DELETE FROM states WHERE code = 'DL'");
    let before = rows(&fleet);
    let answer = client.query("UPDATE states SET title = 'x'");
    assert_eq!((answer.code(), answer.status), ("55000", 'I'));
    assert_eq!(rows(&fleet), before);
    assert_eq!(fleet.prepared_transactions(), 0);
}

#[test]
fn a_write_is_part_of_its_transaction() {
    let fleet = Fleet::start().filled();
    let sluice = fleet.sluice();
    let mut client = sluice.connect("epfo");
    let [a] = fleet.spread(1)[..] else { unreachable!() };
    let before = rows(&fleet);
    for end in ["ROLLBACK", "COMMIT"] {
        for sql in ["BEGIN", "INSERT INTO states VALUES ('GA', 'Goa')"] {
            client.query(sql).ok();
        }
        client.query(&format!("UPDATE accounts SET balance = 7 WHERE organization_id = {a}")).ok();
        assert_eq!(client.query("SELECT title FROM states WHERE code = 'GA'").value(), "Goa");
        assert_eq!(rows(&fleet), before, "nothing is visible before the end");
        client.query(end).ok();
    }
    assert!(rows(&fleet).iter().all(|rows| rows.contains("GA=Goa")));
    let balance = format!("SELECT balance FROM accounts WHERE organization_id = {a}");
    assert_eq!(fleet.on_shard(fleet.shard_of(a), &balance), "7");
    // An error in it fails the block.
    client.query("BEGIN").ok();
    assert_eq!(client.query("INSERT INTO states VALUES ('GA', 'again')").code(), "23505");
    assert_eq!(client.query("SELECT 1").code(), "25P02");
    assert_eq!(client.query("COMMIT").ok().tags, ["ROLLBACK"]);
}

/// What SHOW TABLES says of a table: class and columns.
fn shown(console: &mut Client, table: &str) -> Vec<String> {
    let middle = format!("|{table}|");
    let rows = console.query("SHOW TABLES").ok().rows;
    rows.iter().filter_map(|row| row.split_once(&middle)).map(|(_, class)| class.to_owned()).collect()
}

#[test]
fn a_declared_table_is_created_on_all_shards() {
    let fleet = Fleet::start().filled();
    let sluice = fleet.sluice();
    let (mut console, mut client) = (sluice.connect("pgbouncer"), sluice.connect("epfo"));
    assert_eq!(console.query("CREATE REFERENCE TABLE grades IN epfo").ok().tags, ["CREATE REFERENCE TABLE"]);
    assert_eq!(shown(&mut console, "grades"), ["reference (declared)|"]);
    assert_eq!(client.query("SELECT * FROM grades").code(), "42P01");
    let refused = client.query("CREATE TABLE grades (id serial, at timestamptz DEFAULT now())");
    assert_eq!(refused.code(), "0A000");
    assert!(fleet.on_all("SELECT to_regclass('grades')").iter().all(String::is_empty));

    // As a migration does: created and filled in one transaction.
    for sql in [
        "BEGIN",
        "CREATE TABLE IF NOT EXISTS grades (code text PRIMARY KEY, title text)",
        "INSERT INTO grades VALUES ('A', 'first')",
        "COMMIT",
    ] {
        client.query(sql).ok();
    }
    assert_eq!(client.query("INSERT INTO grades VALUES ('B', 'second')").ok().tags, ["INSERT 0 1"]);
    let rows = fleet.on_all("SELECT string_agg(code || '=' || title, ',' ORDER BY code) FROM grades");
    assert_eq!(rows, ["A=first,B=second"; 4]);
    assert_eq!(shown(&mut console, "grades"), ["reference|code, title"]);
    let [a] = fleet.spread(1)[..] else { unreachable!() };
    let join = format!("SELECT count(*) FROM members JOIN grades ON code = 'B' WHERE organization_id = {a}");
    assert_eq!(client.query(&join).value(), "5");

    // DROP TABLE forgets the class; a declaration can be taken back.
    client.query("DROP TABLE grades").ok();
    assert!(shown(&mut console, "grades").is_empty());
    console.query("CREATE REFERENCE TABLE grades IN epfo").ok();
    assert_eq!(console.query("DROP TABLE CLASS grades IN epfo").ok().tags, ["DROP TABLE CLASS"]);
    client.query("CREATE TABLE grades (code text)").ok();
    assert_eq!(fleet.on_all("SELECT to_regclass('grades')"), ["grades", "", "", ""]);
}

#[test]
fn a_table_that_only_some_shards_have_cannot_be_declared() {
    let fleet = Fleet::start();
    let sluice = fleet.sluice();
    fleet.on_shard(2, "CREATE TABLE grades (code text)");
    let answer = sluice.connect("pgbouncer").query("CREATE REFERENCE TABLE grades");
    let [error] = &answer.errors[..] else { panic!("{answer:?}") };
    assert_eq!(error.code, "55000", "{error:?}");
    assert!(error.detail.contains("on shard 2"), "{error:?}");
}
