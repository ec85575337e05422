//! Forms that other sharding proxies answer wrongly: here each is refused or right, never guessed.

use super::fixture::{check, template};
use crate::template::Route;

#[test]
fn the_key_in_odd_places() {
    check(&[
        ("SELECT sum(CASE WHEN organization_id = 5 THEN 1 END) FROM members", "refused 0A000"),
        ("SELECT count(*) FILTER (WHERE organization_id = 5) FROM members", "refused 0A000"),
        ("SELECT * FROM members ORDER BY organization_id = 5, id", "refused 0A000"),
        ("SELECT organization_id = 5 AS mine, count(*) FROM members GROUP BY 1", "refused 0A000"),
        ("SELECT * FROM states s LEFT JOIN members m ON m.organization_id = 5 AND m.state_code = s.code", "key 5"),
        ("SELECT * FROM members m LEFT JOIN states s ON m.organization_id = 5", "refused 0A000"),
        (
            "SELECT count(*) FROM members WHERE id IN (SELECT member_id FROM claims WHERE organization_id = 5)",
            "refused 0A000",
        ),
        ("WITH c AS (SELECT * FROM claims WHERE organization_id = 5) SELECT * FROM members, c", "refused 0A000"),
        ("SELECT id FROM members WHERE organization_id = 5 UNION SELECT id FROM members", "refused 0A000"),
        ("SELECT * FROM members WHERE organization_id = 10 + 4", "refused 0A000"),
    ]);
}

#[test]
fn statements_without_a_key() {
    check(&[
        ("SELECT id FROM members UNION SELECT id FROM claims", "refused 0A000"),
        ("SELECT id FROM members INTERSECT SELECT id FROM claims", "refused 0A000"),
        ("SELECT id FROM members EXCEPT SELECT id FROM claims", "refused 0A000"),
        ("SELECT EXISTS (SELECT * FROM members)", "refused 0A000"),
        ("SELECT (SELECT count(*) FROM members)", "refused 0A000"),
        ("SELECT sum(amount) + 1 FROM contributions", "refused 0A000"),
        ("SELECT coalesce(sum(amount), 0) FROM contributions", "refused 0A000"),
        ("SELECT round(avg(amount), 2) FROM contributions", "refused 0A000"),
        ("SELECT sum(amount) / count(*) FROM contributions", "refused 0A000"),
        ("SELECT lower(name) AS n, count(*) FROM members GROUP BY n", "refused 0A000"),
        ("SELECT count(*) FROM members GROUP BY state_code HAVING count(*) > 1", "refused 0A000"),
        ("SELECT rank() OVER (ORDER BY id) FROM members", "refused 0A000"),
        ("SELECT state_code, count(*) FROM members GROUP BY ROLLUP (state_code)", "refused 0A000"),
        ("SELECT max(n) FROM (SELECT count(*) AS n FROM members GROUP BY state_code) x", "refused 0A000"),
        ("SELECT state_code, count(*) FROM members GROUP BY 1 ORDER BY 2 DESC LIMIT 3", "refused 0A000"),
        ("SELECT * FROM members LIMIT 10", "refused 0A000"),
        ("SELECT * FROM members LIMIT 5 + 5", "refused 0A000"),
        ("SELECT * FROM members OFFSET 5", "refused 0A000"),
        ("SELECT id FROM members ORDER BY name COLLATE \"de-x-icu\" NULLS FIRST LIMIT 3", "refused 0A000"),
        ("SELECT * FROM members m JOIN claims c ON c.member_id = m.id", "refused 0A000"),
        ("SELECT count(DISTINCT state_code), array_agg(id), string_agg(name, ',') FROM members", "refused 0A000"),
        ("SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY amount) FROM contributions", "refused 0A000"),
        ("EXPLAIN SELECT count(*) FROM members", "refused 0A000"),
        ("DECLARE c CURSOR FOR SELECT * FROM members ORDER BY id", "refused 0A000"),
    ]);
}

#[test]
fn writes_that_would_go_astray() {
    check(&[
        ("INSERT INTO members (organization_id, id) VALUES (length('abc'), 1)", "refused 0A000"),
        ("INSERT INTO members (organization_id, id) VALUES ((SELECT 5 + 1), 1)", "refused 0A000"),
        // Both keys must live on one shard; planning refuses them if they don't.
        ("INSERT INTO members (organization_id, id) VALUES (5, 1), (6, 2)", "key +5 +6"),
        ("INSERT INTO claims (organization_id, id) SELECT organization_id, id FROM members", "refused 0A000"),
        ("UPDATE members SET name = CASE organization_id WHEN 5 THEN 'a' ELSE 'b' END", "refused 0A000"),
        ("DELETE FROM members WHERE id IN (SELECT id FROM members ORDER BY id LIMIT 10)", "refused 0A000"),
        ("MERGE INTO members m USING claims c ON m.id = c.member_id WHEN MATCHED THEN DELETE", "refused 0A000"),
        ("SELECT nextval('members_id_seq')", "refused 0A000"),
        ("CREATE TABLE t (organization_id int, id serial)", "refused 0A000"),
        ("SELECT pg_try_advisory_lock(5)", "home"),
        ("COPY members (id, name) FROM STDIN", "refused 0A000"),
        ("COPY members TO STDOUT WITH (FORMAT csv, HEADER)", "refused 0A000"),
        ("COPY (SELECT count(*) FROM members) TO STDOUT", "refused 0A000"),
        ("COPY members FROM STDIN WITH (FORMAT binary)", "refused 0A000"),
    ]);
}

#[test]
fn each_statement_of_a_text_has_its_own_place() {
    let sql = "UPDATE members SET name = 'a' WHERE organization_id = 5; UPDATE members SET name = 'b' WHERE organization_id = 6; \
               SELECT count(*) FROM members";
    let template = template(sql);
    let routes: Vec<_> =
        template.statements.iter().map(|statement| super::fixture::summary(sql, &statement.route)).collect();
    assert_eq!(routes, ["key 5", "key 6", "refused 0A000"]);
}

#[test]
fn later_statements_see_what_earlier_ones_did() {
    let routes = |sql: &str| -> Vec<_> {
        template(sql).statements.iter().map(|statement| super::fixture::summary(sql, &statement.route)).collect()
    };
    assert_eq!(
        routes(
            "CREATE TABLE loans (id uuid, organization_id int); INSERT INTO loans VALUES ('a', 5); DROP TABLE loans; TABLE loans"
        ),
        ["all", "key +5", "all", "refused 42P01"]
    );
    assert_eq!(routes("CREATE TABLE notes (id serial); INSERT INTO notes DEFAULT VALUES"), ["home", "home"]);
    assert_eq!(
        routes("ALTER TABLE members RENAME TO people; DELETE FROM people WHERE organization_id = 5; TABLE members"),
        ["all", "key 5", "refused 42P01"]
    );
    assert_eq!(
        routes("ALTER TABLE states ADD COLUMN x int; INSERT INTO states VALUES ('a', 'b')"),
        ["all", "refused 0A000"]
    );
    assert_eq!(
        routes(
            "ALTER TABLE members ADD COLUMN x int; UPDATE members SET x = 1 WHERE organization_id = 5; \
             INSERT INTO members VALUES (1, 5); INSERT INTO members (x, organization_id) VALUES (1, 5)"
        ),
        ["all", "key 5", "refused 0A000", "key +5"]
    );
    assert_eq!(
        routes("SET search_path = archive; BEGIN; SELECT * FROM members WHERE organization_id = 5; SHOW search_path"),
        ["any", "any", "refused 0A000", "refused 0A000"]
    );
    assert!(matches!(template("SET work_mem = '1MB'; TABLE states").statements[1].route, Route::Any));
}
