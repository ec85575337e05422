//! Forms of statements that sharding poolers are known to answer wrongly without a word. Each is answered as one PostgreSQL
//! would, or refused.

use crate::support::client::{Answer, Client, INT8, Value};
use crate::support::fleet::{Fleet, sorted};

/// `{a}` and `{b}` are organizations on different shards. In each: what a shard alone would get wrong.
const READS: &[&str] = &[
    // The key compared where it does not restrict the rows.
    "SELECT count(CASE WHEN organization_id = {a} THEN 1 END), count(*) FROM members",
    "SELECT count(*) FILTER (WHERE organization_id = {a}), count(*) FROM members",
    "SELECT id FROM members ORDER BY organization_id = {a}, id, name LIMIT 3",
    "SELECT organization_id = {a}, count(*) FROM members GROUP BY 1",
    "SELECT count(*) FROM members m LEFT JOIN claims c ON m.organization_id = {a} AND c.organization_id = {a} AND c.id = m.id",
    "SELECT count(*), (SELECT count(*) FROM claims WHERE organization_id = {a}) FROM members",
    "SELECT count(*) FROM members WHERE id IN (SELECT id FROM claims WHERE organization_id = {a})",
    "WITH c AS (SELECT * FROM claims WHERE organization_id = {a}) SELECT count(*) FROM members",
    "SELECT id FROM members WHERE organization_id = {a} UNION ALL SELECT id FROM claims",
    "SELECT count(*) FROM members WHERE organization_id = {a} OR id = 1",
    "SELECT count(*) FROM members WHERE NOT organization_id = {a}",
    "SELECT count(*) FROM members WHERE organization_id <> {a}",
    "SELECT count(*) FROM members WHERE organization_id >= {a}",
    "SELECT count(*) FROM members WHERE (organization_id = {a}) IS NOT TRUE",
    "SELECT count(*) FROM members WHERE coalesce(organization_id = {a}, true)",
    "SELECT count(*) FROM members WHERE organization_id = {a}+0",
    "SELECT count(*) FROM members WHERE organization_id = -(-{a})",
    "SELECT count(*) FROM members WHERE organization_id = abs({a})",
    "SELECT count(*) FROM members WHERE organization_id = '{a}'",
    "SELECT count(*) FROM members WHERE organization_id = {a}::smallint",
    "SELECT count(*) FROM members WHERE organization_id = {a}.0",
    "SELECT count(*) FROM members WHERE organization_id::text = '{a}'",
    // Sets.
    "SELECT id FROM members UNION SELECT id FROM claims",
    "SELECT id FROM members INTERSECT SELECT member_id FROM claims",
    "SELECT organization_id FROM members EXCEPT SELECT organization_id FROM claims",
    "SELECT EXISTS (SELECT FROM members WHERE organization_id = {a} AND id = 1)",
    "SELECT EXISTS (SELECT FROM members WHERE name = 'member 1')",
    "SELECT (SELECT count(*) FROM members)",
    // Aggregates.
    "SELECT sum(id) + 1 FROM members",
    "SELECT coalesce(sum(wages), 0) FROM members",
    "SELECT round(avg(wages), 2) FROM members",
    "SELECT sum(wages) / count(*) FROM members",
    "SELECT upper(name) AS n, count(*) FROM members GROUP BY n",
    "SELECT count(*) FROM members GROUP BY name",
    "SELECT name, count(*) FROM members GROUP BY name HAVING count(*) > 20",
    "SELECT id, row_number() OVER (ORDER BY wages, organization_id, id) FROM members",
    "SELECT name, sum(wages) FROM members GROUP BY ROLLUP (name)",
    "SELECT max(c) FROM (SELECT name, count(*) AS c FROM members GROUP BY name) x",
    "WITH c AS (SELECT count(*) AS n FROM members) SELECT n + 1 FROM c",
    "WITH RECURSIVE r AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM r JOIN members ON id = i) SELECT count(*) FROM r",
    "SELECT name, count(*) FROM members GROUP BY name ORDER BY count(*) DESC, name LIMIT 1",
    "SELECT count(DISTINCT name) FROM members",
    "SELECT array_agg(id ORDER BY id, organization_id) FROM members",
    "SELECT string_agg(name, ',' ORDER BY name) FROM members",
    "SELECT bool_and(id > 1) FROM members",
    "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY wages) FROM members",
    "SELECT DISTINCT name FROM members",
    "SELECT DISTINCT ON (name) name, id FROM members ORDER BY name, id, organization_id",
    // Order and limits.
    "SELECT count(*) FROM (SELECT id FROM members LIMIT 3) x",
    "SELECT count(*) FROM (SELECT id FROM members LIMIT 5+5) x",
    "SELECT id FROM members ORDER BY organization_id, id OFFSET 50",
    "SELECT id FROM members ORDER BY wages",
    "SELECT id FROM members ORDER BY -wages, organization_id",
    "SELECT name FROM members ORDER BY name COLLATE \"C\" DESC NULLS FIRST, id LIMIT 2",
    // Joins.
    "SELECT count(*) FROM members m JOIN claims c ON c.member_id = m.id",
    "SELECT count(*) FROM members m JOIN claims c ON c.member_id = m.id WHERE m.organization_id = {a}",
    "SELECT count(*) FROM members m, claims c WHERE m.organization_id = {a} AND c.organization_id = {b}",
    "SELECT count(*) FROM members m CROSS JOIN claims c WHERE m.organization_id = {a}",
    "SELECT count(*) FROM members m FULL JOIN claims c USING (organization_id) WHERE m.organization_id = {a}",
    "SELECT count(*) FROM states s LEFT JOIN members m ON m.organization_id = {a} AND m.name = s.code",
    "SELECT count(*) FROM members m JOIN settings s ON s.name = m.name WHERE m.organization_id = {a}",
    "SELECT count(*) FROM members WHERE organization_id IN ({a}, {b})",
    "SELECT count(*) FROM members WHERE organization_id = ANY ('{{a},{b}}')",
    "SELECT count(*) FROM members WHERE organization_id = ANY (ARRAY[{a}, {b}])",
    "SELECT count(*) FROM members WHERE organization_id BETWEEN {a} AND {b}",
    "SELECT count(*) FROM members WHERE organization_id IN (SELECT organization_id FROM accounts WHERE organization_id = {a})",
    "SELECT count(*) FROM members TABLESAMPLE BERNOULLI (100)",
    "TABLE members",
    // What belongs to one shard is answered.
    "SELECT count(*), sum(wages) FROM members WHERE organization_id = {a}",
    "SELECT name, count(*) FROM members WHERE organization_id = {a} GROUP BY name HAVING count(*) > 1",
    "SELECT m.id, c.amount FROM members m JOIN claims c USING (organization_id, id) WHERE organization_id = {a}",
    "SELECT m.id FROM members m JOIN claims c ON c.organization_id = m.organization_id AND c.member_id = m.id WHERE c.organization_id = {a}",
    "WITH c AS (SELECT * FROM claims WHERE organization_id = {a}) SELECT count(*) FROM c JOIN members USING (organization_id, id)",
];

/// Compared are the tables afterwards.
const WRITES: &[&str] = &[
    "INSERT INTO members (organization_id, id) VALUES ({a}+0, 100)",
    "INSERT INTO members (organization_id, id) VALUES (abs({a}), 101)",
    "INSERT INTO members (organization_id, id) VALUES ((SELECT {a}), 102)",
    "INSERT INTO members (organization_id, id) VALUES ({a}, 103), ({b}, 103)",
    "INSERT INTO members (organization_id, id) SELECT organization_id, id + 200 FROM claims",
    "INSERT INTO members (organization_id, id) SELECT {a}, id + 300 FROM claims",
    "INSERT INTO members (organization_id, id) SELECT {a}, id + 350 FROM claims WHERE organization_id = {b}",
    "INSERT INTO members (id, organization_id) SELECT id + 400, organization_id FROM claims WHERE organization_id = {a}",
    "INSERT INTO members (id) VALUES (1)",
    "INSERT INTO members DEFAULT VALUES",
    "INSERT INTO members VALUES ({a}, 104, 'x', 1) ON CONFLICT (organization_id, id) DO UPDATE SET organization_id = {b}",
    "INSERT INTO members VALUES ({a}, 1, 'y', 1) ON CONFLICT (organization_id, id) DO UPDATE SET name = 'conflict'",
    "UPDATE members SET wages = CASE WHEN organization_id = {a} THEN 1 ELSE 2 END",
    "UPDATE members SET wages = 3",
    "UPDATE members SET organization_id = {b} WHERE organization_id = {a} AND id = 2",
    "UPDATE members SET (organization_id, name) = ({b}, 'z') WHERE organization_id = {a} AND id = 2",
    "UPDATE members SET name = c.id::text FROM claims c WHERE c.organization_id = {a} AND c.member_id = members.id",
    "UPDATE members SET wages = (SELECT sum(amount) FROM claims) WHERE organization_id = {a}",
    "UPDATE members m SET wages = (SELECT sum(amount) FROM claims c WHERE c.organization_id = m.organization_id) WHERE organization_id = {a}",
    "DELETE FROM members WHERE id IN (SELECT id FROM members ORDER BY id LIMIT 2)",
    "DELETE FROM claims USING members m WHERE m.organization_id = {a} AND m.id = claims.member_id",
    "DELETE FROM members WHERE organization_id IN ({a}, {b})",
    "MERGE INTO members t USING claims s ON t.id = s.id WHEN MATCHED THEN UPDATE SET name = 'm'",
    "MERGE INTO members t USING claims s ON t.organization_id = s.organization_id AND t.id = s.id \
     WHEN NOT MATCHED THEN INSERT VALUES (s.organization_id, s.id + 500, 'n', 0)",
    "MERGE INTO members t USING (VALUES ({a}, 1), ({b}, 1)) s(o, i) ON t.organization_id = s.o AND t.id = s.i WHEN MATCHED THEN DELETE",
    "WITH d AS (DELETE FROM claims WHERE organization_id = {a} AND id = 3 RETURNING id) UPDATE members SET name = 'cte'",
    "WITH d AS (DELETE FROM claims RETURNING id) SELECT 1",
    "TRUNCATE members",
    "SELECT * FROM members FOR UPDATE",
    "CREATE TABLE copied AS SELECT * FROM members",
    "SELECT * INTO copied FROM members",
    "INSERT INTO states (code) SELECT name FROM members WHERE organization_id = {a} AND id = 1",
    "UPDATE states SET title = (SELECT count(*)::text FROM members)",
    "INSERT INTO settings SELECT name, 'x' FROM members WHERE organization_id = {a} AND id = 1",
    // These belong to one shard.
    "INSERT INTO members (organization_id, id) VALUES ({a}, 105), ({a}, 106)",
    "UPDATE members SET name = 'one' WHERE organization_id = {a} AND id = 1",
    "DELETE FROM members m USING claims c WHERE m.organization_id = {a} AND c.organization_id = m.organization_id AND c.id = m.id AND m.id = 4",
    "MERGE INTO members t USING claims s ON t.organization_id = s.organization_id AND t.id = s.id AND t.organization_id = {a} AND s.organization_id = {a} \
     WHEN MATCHED THEN UPDATE SET name = 'merged'",
];

/// What no shard can answer for the others, and what would outlive the server that a client has for the moment.
const REFUSED: &[&str] = &[
    "SELECT nextval('s')",
    "SELECT pg_try_advisory_lock(1), count(*) FROM members",
    "EXPLAIN SELECT count(*) FROM members",
    "EXECUTE something",
    "CALL something()",
    "DO 'BEGIN END'",
    "SELECT something(1)",
    "SELECT * FROM unknown_table",
    "COPY members TO STDOUT",
    "COPY (SELECT count(*) FROM members) TO STDOUT WITH (FORMAT csv, HEADER)",
    "COPY members TO STDOUT WITH (FORMAT binary)",
    "DECLARE c CURSOR WITH HOLD FOR SELECT * FROM members",
    "SELECT 1; SELECT * FROM members",
];

fn fill(form: &str, a: i64, b: i64) -> String {
    form.replace("{a}", &a.to_string()).replace("{b}", &b.to_string())
}

/// Refused with a reason, before anything has run.
fn is_refused(answer: &Answer) -> bool {
    matches!(&answer.errors[..], [error] if error.code == "0A000" && !error.message.is_empty() && !error.hint.is_empty())
}

fn ordered(sql: &str) -> bool {
    sql.contains("ORDER BY") && sql.starts_with("SELECT id FROM")
}

/// The answer as it has to be compared.
fn comparable(sql: &str, answer: Answer) -> Answer {
    let mut answer = if ordered(sql) { answer } else { sorted(answer) };
    // A server's own error: which one is enough.
    for error in &mut answer.errors {
        *error = crate::support::client::Error { code: error.code.clone(), ..Default::default() };
    }
    answer
}

#[test]
fn reads_are_right_or_refused() {
    let fleet = Fleet::start().filled();
    let sluice = fleet.sluice();
    let (mut client, mut truth) = (sluice.connect("epfo"), fleet.truth());
    let [a, b] = fleet.spread(2)[..] else { unreachable!() };
    let mut answered = 0;
    for form in READS {
        let sql = fill(form, a, b);
        let wanted = comparable(&sql, truth.query(&sql));
        for answer in [client.query(&sql), client.extended(&sql, &[], &[])] {
            if is_refused(&answer) {
                continue;
            }
            answered += 1;
            assert_eq!(comparable(&sql, answer), wanted, "{sql}");
        }
    }
    assert!(answered >= 20, "only {answered} answers: refusing everything is no test");
}

#[test]
fn keys_in_parameters_are_right_or_refused() {
    let fleet = Fleet::start().filled();
    let sluice = fleet.sluice();
    let (mut client, mut truth) = (sluice.connect("epfo"), fleet.truth());
    let [a, b] = fleet.spread(2)[..] else { unreachable!() };
    let mut answered = 0;
    for form in READS.iter().filter(|form| form.contains("{a}") && !form.contains("'{")) {
        let sql = form.replacen("{a}", "$1", 1);
        // One parameter for the first place, constants elsewhere.
        let sql = fill(&sql, a, b);
        let formats: [(&[u32], Value); 3] =
            [(&[], a.to_string().as_str().into()), (&[INT8], a.to_string().as_str().into()), (&[INT8], a.into())];
        for (types, value) in formats {
            let wanted = comparable(&sql, truth.extended(&sql, types, std::slice::from_ref(&value)));
            let answer = client.extended(&sql, types, &[value]);
            if !is_refused(&answer) {
                answered += 1;
                assert_eq!(comparable(&sql, answer), wanted, "{sql}");
            }
        }
    }
    assert!(answered >= 15, "only {answered} answers: refusing everything is no test");
}

#[test]
fn writes_are_right_or_refused() {
    let fleet = Fleet::start().filled();
    let sluice = fleet.sluice();
    let (mut client, mut truth) = (sluice.connect("epfo"), fleet.truth());
    let [a, b] = fleet.spread(2)[..] else { unreachable!() };
    let mut answered = 0;
    for (form, extended) in WRITES.iter().flat_map(|form| [(form, false), (form, true)]) {
        let sql = fill(form, a, b);
        let run = |client: &mut Client| if extended { client.extended(&sql, &[], &[]) } else { client.query(&sql) };
        let answer = run(&mut client);
        if is_refused(&answer) {
            continue;
        }
        let wanted = run(&mut truth);
        answered += usize::from(answer.errors.is_empty());
        assert_eq!(comparable("", answer), comparable("", wanted), "{sql}");
        assert_same_rows(&fleet, &mut truth, &sql);
    }
    assert!(answered >= 6, "only {answered} writes went through: refusing everything is no test");
}

/// All rows of all shards are those of the truth, and each is where its key belongs.
fn assert_same_rows(fleet: &Fleet, truth: &mut Client, after: &str) {
    for table in ["members", "claims"] {
        let mut wanted: Vec<String> =
            truth.query(&format!("SELECT t::text FROM {table} t")).ok().rows.into_iter().collect();
        let mut found = Vec::new();
        for (shard, rows) in fleet.on_all(&format!("SELECT t::text FROM {table} t")).iter().enumerate() {
            for row in rows.lines() {
                let key = row[1..].split(',').next().expect("a first column").parse().expect("a key");
                assert_eq!(fleet.shard_of(key), shard, "a row of {table} after {after}");
                found.push(row.to_owned());
            }
        }
        wanted.sort();
        found.sort();
        assert_eq!(found, wanted, "{table} after {after}");
    }
}

#[test]
fn what_cannot_be_right_is_refused_with_a_reason() {
    let fleet = Fleet::start().filled();
    let sluice = fleet.sluice();
    let mut client = sluice.connect("epfo");
    for sql in REFUSED {
        for answer in [client.query(sql), client.extended(sql, &[], &[])] {
            let [error] = &answer.errors[..] else { panic!("{sql}: {answer:?}") };
            assert!(matches!(&*error.code, "0A000" | "42P01" | "42601"), "{sql}: {error:?}");
            assert!(answer.rows.is_empty() && answer.status == 'I', "{sql}: {answer:?}");
        }
    }
    let [a] = fleet.spread(1)[..] else { unreachable!() };
    assert_eq!(client.query(&format!("SELECT count(*) FROM members WHERE organization_id = {a}")).value(), "5");
}
