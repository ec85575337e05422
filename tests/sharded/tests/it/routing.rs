//! Statements that belong to one shard: every way to write and to send the key finds it, for every type of key.

use sluice_router::{Key, KeyType};

use crate::support::client::{Client, INT8, Value};
use crate::support::fleet::{Fleet, Plan};

const INT4: u32 = 23;
const INT2: u32 = 21;
const TEXT: u32 = 25;
const UUID: u32 = 2950;

#[test]
fn statements_of_one_organization_run_on_its_shard() {
    let fleet = Fleet::start().filled();
    let sluice = fleet.sluice();
    let mut client = sluice.connect("epfo");
    for organization in fleet.spread(4) {
        let on_shard = |sql: &str| fleet.on_shard(fleet.shard_of(organization), sql);
        client
            .query(&format!(
                "INSERT INTO members VALUES ({organization}, 10, 'ten', 1), ({organization}, 11, 'eleven', 2)"
            ))
            .ok();
        let update = client.query(&format!(
            "UPDATE members SET wages = wages * 10 WHERE organization_id = {organization} AND id >= 10 RETURNING wages"
        ));
        assert_eq!(update.ok().rows, ["10", "20"]);
        client.query(&format!("DELETE FROM members WHERE id = 11 AND organization_id = {organization}")).ok();
        let merge = format!(
            "MERGE INTO members m USING (SELECT * FROM claims WHERE organization_id = {organization}) c
             ON m.organization_id = c.organization_id AND m.id = c.id + 5 AND m.organization_id = {organization}
             WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN DO NOTHING"
        );
        assert_eq!(client.query(&merge).ok().tags, ["MERGE 1"]);
        assert_eq!(on_shard(&format!("SELECT count(*) FROM members WHERE organization_id = {organization}")), "5");
    }
}

#[test]
fn parameters_of_every_type_and_format_find_the_shard() {
    let fleet = Fleet::start().filled();
    let sluice = fleet.sluice();
    let mut client = sluice.connect("epfo");
    let sql = "SELECT organization_id, count(*) FROM members WHERE organization_id = $1 GROUP BY 1";
    for organization in fleet.spread(4) {
        let wanted = format!("{organization}|5");
        let text = || Value::from(organization.to_string().as_str());
        let forms: [(&[u32], Value); 8] = [
            (&[], text()),
            (&[0], text()),
            (&[INT8], text()),
            (&[INT4], text()),
            (&[INT2], text()),
            (&[INT8], organization.into()),
            (&[INT4], Value::Binary((organization as i32).to_be_bytes().to_vec())),
            (&[INT2], Value::Binary((organization as i16).to_be_bytes().to_vec())),
        ];
        for (types, value) in forms {
            assert_eq!(
                client.extended(sql, types, std::slice::from_ref(&value)).value(),
                wanted,
                "{types:?} {value:?}"
            );
        }
        for padded in [format!(" {organization}"), format!("+{organization}"), format!("0{organization} ")] {
            assert_eq!(client.extended(sql, &[], &[padded.as_str().into()]).value(), wanted, "{padded:?}");
        }
    }
    assert_eq!(client.extended(sql, &[], &["x".into()]).code(), "22P02", "the server's own error");
    assert_eq!(client.extended(sql, &[], &[Value::Text(None)]).ok().rows.len(), 0, "NULL matches no row");
    assert_eq!(client.extended(sql, &[INT8], &[Value::Binary(vec![1])]).status, 'I');
}

#[test]
fn lists_of_keys_are_answered_by_one_shard_or_refused() {
    let fleet = Fleet::start().filled();
    let sluice = fleet.sluice();
    let mut client = sluice.connect("epfo");
    let (a, b) = fleet.neighbours();
    let elsewhere = fleet
        .spread(2)
        .into_iter()
        .find(|&organization| fleet.shard_of(organization) != fleet.shard_of(a))
        .expect("another shard");
    let count = "SELECT count(*) FROM members WHERE organization_id";
    for (second, wanted) in [(b, Some("10")), (elsewhere, None)] {
        let array = format!("{{{a},{second}}}");
        let answers = [
            client.query(&format!("{count} IN ({a}, {second})")),
            client.query(&format!("{count} = ANY ('{array}')")),
            client.extended(&format!("{count} IN ($1, $2)"), &[INT8, INT8], &[a.into(), second.into()]),
            client.extended(&format!("{count} IN ($1, {second})"), &[], &[a.to_string().as_str().into()]),
            client.extended(&format!("{count} = ANY ($1)"), &[1016], &[array.as_str().into()]),
            client.extended(&format!("{count} = ANY ($1)"), &[1016], &[binary_array(&[a, second])]),
        ];
        for (form, answer) in answers.into_iter().enumerate() {
            match wanted {
                Some(wanted) => assert_eq!(answer.value(), wanted, "form {form}"),
                None => assert_eq!(answer.code(), "0A000", "form {form}"),
            }
        }
        let insert = format!("INSERT INTO members (organization_id, id) VALUES ({a}, 20), ({second}, 20)");
        match wanted {
            Some(_) => assert_eq!(client.query(&insert).ok().tags, ["INSERT 0 2"]),
            None => assert_eq!(client.query(&insert).code(), "0A000"),
        }
        client.query(&format!("DELETE FROM members WHERE organization_id IN ({a}, {b}) AND id = 20")).ok();
    }
    assert_eq!(client.extended(&format!("{count} = ANY ($1)"), &[1016], &["{}".into()]).value(), "0");
}

/// bigint[] in binary: dimensions, no NULLs, the element's type, length, lower bound, elements.
fn binary_array(elements: &[i64]) -> Value {
    let mut bytes = Vec::new();
    for word in [1, 0, INT8, elements.len() as u32, 1] {
        bytes.extend_from_slice(&word.to_be_bytes());
    }
    for element in elements {
        bytes.extend_from_slice(&8u32.to_be_bytes());
        bytes.extend_from_slice(&element.to_be_bytes());
    }
    Value::Binary(bytes)
}

#[test]
fn a_row_without_key_belongs_nowhere() {
    let fleet = Fleet::start().filled();
    let sluice = fleet.sluice();
    let mut client = sluice.connect("epfo");
    for sql in ["INSERT INTO members VALUES (NULL, 1)", "INSERT INTO members (organization_id, id) VALUES (NULL, 1)"] {
        assert_eq!(client.query(sql).code(), "23502");
    }
    let answer = client.extended("INSERT INTO members (organization_id, id) VALUES ($1, 1)", &[], &[Value::Text(None)]);
    assert_eq!(answer.code(), "23502");
    assert_eq!(client.query("SELECT count(*) FROM members WHERE organization_id = NULL").value(), "0");
    assert_eq!(client.query("INSERT INTO members (id) VALUES (1)").status, 'I');
    assert!(
        fleet
            .on_all("SELECT count(*) FROM members WHERE id = 1 AND organization_id IS NULL")
            .iter()
            .all(|count| count == "0")
    );
}

/// Inserts and reads a row for each key, in all formats, and looks on which shard it is.
fn check_keys(fleet: &Fleet, keys: &[(String, Key<'_>, Vec<u8>)], oid: u32) {
    let sluice = fleet.sluice();
    let mut client = sluice.connect("epfo");
    let mut used = std::collections::BTreeSet::new();
    for (text, key, binary) in keys {
        let shard = fleet.map.shard_of(key).index();
        used.insert(shard);
        let quoted = text.replace('\'', "''");
        client.query(&format!("INSERT INTO notes VALUES ('{quoted}', 1)")).ok();
        let insert = "INSERT INTO notes VALUES ($1, $2)";
        client.extended(insert, &[], &[text.as_str().into(), "2".into()]).ok();
        client.extended(insert, &[oid, INT8], &[Value::Binary(binary.clone()), 3.into()]).ok();
        assert_eq!(
            fleet.on_shard(shard, &format!("SELECT count(*) FROM notes WHERE organization_id = '{quoted}'")),
            "3",
            "{text}"
        );
        for answer in [
            client.query(&format!("SELECT count(*) FROM notes WHERE organization_id = '{quoted}'")),
            client.extended(
                "SELECT count(*) FROM notes WHERE organization_id = $1",
                &[oid],
                &[Value::Binary(binary.clone())],
            ),
        ] {
            assert_eq!(answer.value(), "3", "{text}");
        }
    }
    assert!(used.len() > 1, "the keys are on several shards");
}

const NOTES: &[(&str, sluice_router::map::TableClass)] = &[("notes", sluice_router::map::TableClass::Sharded)];

#[test]
fn text_keys() {
    let tables = "CREATE TABLE notes (organization_id text, id bigint)";
    let fleet =
        Fleet::start_as(Plan { key_type: KeyType::Text, tables, classes: NOTES, own_tables: true, ..Plan::default() });
    let keys: Vec<_> = ["acme", "it's", "Ünïcödé ☃", "", " acme", "back\\slash", "日本"]
        .iter()
        .map(|&text| (text.to_owned(), Key::Text(text.as_bytes()), text.as_bytes().to_vec()))
        .collect();
    check_keys(&fleet, &keys, TEXT);
    let sluice = fleet.sluice();
    let mut client = sluice.connect("epfo");
    for form in ["E'\\x61cme'", "U&'\\0061cme'", "$$acme$$", "'ac'\n'me'"] {
        let answer = client.query(&format!("SELECT count(*) FROM notes WHERE organization_id = {form}"));
        assert!(
            answer.errors.first().is_some_and(|error| error.code == "0A000") || answer.rows == ["3"],
            "{form}: {answer:?}"
        );
    }
}

#[test]
fn uuid_keys() {
    let tables = "CREATE TABLE notes (organization_id uuid, id bigint)";
    let fleet =
        Fleet::start_as(Plan { key_type: KeyType::Uuid, tables, classes: NOTES, own_tables: true, ..Plan::default() });
    let keys: Vec<_> = (0..6u8)
        .map(|n| {
            let bytes = [n.wrapping_mul(41); 16];
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            (if n % 2 == 0 { hex } else { format!("{{{}}}", hex.to_uppercase()) }, Key::Uuid(bytes), bytes.to_vec())
        })
        .collect();
    check_keys(&fleet, &keys, UUID);
}

#[test]
fn routing_does_not_depend_on_how_a_statement_is_written() {
    let fleet = Fleet::start().filled();
    let sluice = fleet.sluice();
    let mut client = sluice.connect("epfo");
    for (n, organization) in fleet.spread(4).into_iter().cycle().take(40).enumerate() {
        let gap = ["\n", "\t ", " -- one = 2\n", "/* a /* nested ; */ ' */", "\r\n", "/**/"][n % 6];
        let key = [
            "organization_id",
            "ORGANIZATION_ID",
            "\"organization_id\"",
            "Members.organization_id",
            "organization_id",
            "(organization_id)",
        ][n % 6];
        let equals = if n % 4 == 0 {
            format!("{organization}{gap}={gap}{key}")
        } else {
            format!("{key}{gap}={gap}{organization}")
        };
        let table = ["members", "public.members", "MEMBERS", "\"members\"", "ONLY members", "public . members"][n % 6];
        let sql = format!("{gap}SELECT{gap}count(*){gap}FROM {table}{gap} WHERE 1 = 1 AND{gap} {equals}{gap};");
        assert_eq!(client.query(&sql).value(), "5", "{sql}");
    }
    assert_eq!(client.query("SELECT count(*) FROM \"MEMBERS\" WHERE organization_id = 1").code(), "42P01");
}

/// A named statement keeps its meaning whatever shard its parameters name.
#[test]
fn a_prepared_statement_serves_all_shards() {
    use crate::support::client::{bind, message, parse, sync};
    let fleet = Fleet::start().filled();
    let sluice = fleet.sluice();
    let mut client = sluice.connect("epfo");
    client.send(&[parse("by_key", "SELECT organization_id FROM accounts WHERE organization_id = $1", &[INT8]), sync()]);
    client.read_answer().ok();
    let execute = |client: &mut Client, organization: i64| {
        client.send(&[bind("by_key", &[organization.into()]), message(b'E', &[0; 5]), sync()]);
        client.read_answer().value()
    };
    for organization in fleet.spread(4).into_iter().cycle().take(12) {
        assert_eq!(execute(&mut client, organization), organization.to_string());
    }
    client.query("BEGIN").ok();
    for organization in fleet.spread(4).into_iter().cycle().take(8) {
        assert_eq!(execute(&mut client, organization), organization.to_string());
    }
    client.query("COMMIT").ok();
}
