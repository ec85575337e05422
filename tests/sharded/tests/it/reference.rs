//! Reference tables: the same rows on every shard, whatever happens.

use crate::support::client::{bind, message, parse, sync};
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
