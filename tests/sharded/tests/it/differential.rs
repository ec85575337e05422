//! Random statements through Sluice and on the truth: equal answers, or a refusal. The seed is printed with a failure;
//! `SLUICE_SEED` repeats it.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::support::client::{Answer, Client, Value};
use crate::support::fleet::{Fleet, sorted};

const STATEMENTS: usize = 1_500;
const TABLES: [&str; 2] = ["members", "claims"];

/// Writes statements over the sharded tables. Keys are few, so that they often meet.
struct Writer {
    random: SmallRng,
    keys: [i64; 3],
    aliases: usize,
}

/// What a FROM clause brings into scope.
type Scope = Vec<String>;

impl Writer {
    fn pick<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.random.random_range(0..choices.len())]
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    fn key(&mut self) -> i64 {
        // Mostly one: two different ones give empty results or refusals.
        if self.chance(70) { self.keys[0] } else { self.keys[self.random.random_range(0..3)] }
    }

    fn alias(&mut self) -> String {
        self.aliases += 1;
        format!("t{}", self.aliases)
    }

    fn one_of(&mut self, scope: &Scope) -> String {
        scope[self.random.random_range(0..scope.len())].clone()
    }

    fn from(&mut self, depth: u32, scope: &mut Scope) -> String {
        let mut from = self.item(depth, scope);
        for _ in 0..self.random.random_range(0..3) {
            let join = self.pick(&["JOIN", "JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN", "CROSS JOIN", ","]);
            let left = self.one_of(scope);
            let item = self.item(depth, scope);
            let right = scope.last().cloned().unwrap_or_default();
            from = match join {
                "CROSS JOIN" => format!("{from} CROSS JOIN {item}"),
                "," => format!("{from}, {item}"),
                "FULL JOIN" => format!("{from} FULL JOIN {item} ON {left}.organization_id = {right}.organization_id"),
                _ => {
                    let mut on = format!("{left}.organization_id = {right}.organization_id");
                    if self.chance(30) {
                        on = format!("{left}.id = {right}.id");
                    }
                    if self.chance(30) {
                        on += &format!(" AND {right}.organization_id = {}", self.key());
                    }
                    format!("{from} {join} {item} ON {on}")
                }
            };
        }
        from
    }

    fn item(&mut self, depth: u32, scope: &mut Scope) -> String {
        let alias = self.alias();
        let item = match self.random.random_range(0..10) {
            0 | 1 if depth > 0 => format!("({}) {alias}", self.select(depth - 1, &Vec::new())),
            2 => format!(
                "(VALUES ({}::bigint, 1::bigint), ({}, 2)) {alias} (organization_id, id)",
                self.key(),
                self.key()
            ),
            _ => format!("{} {alias}", self.pick(&TABLES)),
        };
        scope.push(alias);
        item
    }

    fn condition(&mut self, depth: u32, scope: &Scope, outer: &Scope) -> String {
        let own = self.one_of(scope);
        let everybody: Scope = scope.iter().chain(outer).cloned().collect();
        let other = self.one_of(&everybody);
        let key = self.key();
        match self.random.random_range(0..16) {
            0..=5 => format!("{own}.organization_id = {key}"),
            6 => format!("{key} = {own}.organization_id"),
            7 => format!("{own}.organization_id = {other}.organization_id"),
            8 => format!("{own}.organization_id IN ({key}, {})", self.key()),
            9 => format!("{own}.id = {other}.id"),
            10 => format!("{own}.organization_id IS NULL"),
            11 if depth > 0 => format!("({} OR {})", self.condition(0, scope, outer), self.condition(0, scope, outer)),
            12 if depth > 0 => format!("NOT ({})", self.condition(0, scope, outer)),
            13 if depth > 0 => format!("{}EXISTS ({})", self.pick(&["", "NOT "]), self.select(depth - 1, scope)),
            14 if depth > 0 => {
                let alias = self.alias();
                let inner = format!(
                    "SELECT {alias}.organization_id FROM members {alias} WHERE {alias}.organization_id = {key}"
                );
                format!("{own}.organization_id {} ({inner})", self.pick(&["IN", "NOT IN"]))
            }
            _ => format!("({own}.organization_id, {own}.id) = ({key}, 1)"),
        }
    }

    fn select(&mut self, depth: u32, outer: &Scope) -> String {
        let mut scope = Vec::new();
        let from = self.from(depth, &mut scope);
        let mut conditions = Vec::new();
        for _ in 0..self.random.random_range(0..3) {
            conditions.push(self.condition(depth, &scope, outer));
        }
        for alias in &scope {
            if self.chance(35) {
                conditions.push(format!("{alias}.organization_id = {}", self.key()));
            }
        }
        let restriction =
            if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) };
        let (a, b) = (self.one_of(&scope), self.one_of(&scope));
        let list = match self.random.random_range(0..8) {
            0 => {
                return format!(
                    "SELECT {a}.organization_id, count(*) AS id FROM {from}{restriction} GROUP BY {a}.organization_id"
                );
            }
            1 => format!("max({a}.organization_id) AS organization_id, count({b}.id) AS id"),
            2 => format!("DISTINCT {a}.organization_id, {b}.id"),
            3 => format!("{a}.organization_id, count(*) OVER (PARTITION BY {b}.organization_id) AS id"),
            4 if depth > 0 => {
                let alias = self.alias();
                let inner =
                    format!("SELECT count(*) FROM claims {alias} WHERE {alias}.organization_id = {a}.organization_id");
                format!("{a}.organization_id, ({inner}) AS id")
            }
            _ => format!("{a}.organization_id, {b}.id"),
        };
        format!("SELECT {list} FROM {from}{restriction}")
    }

    fn statement(&mut self) -> String {
        self.aliases = 0;
        let none = Vec::new();
        match self.random.random_range(0..10) {
            0 => {
                let set = self.pick(&["UNION", "UNION ALL", "EXCEPT", "INTERSECT"]);
                format!("{} {set} {}", self.select(1, &none), self.select(1, &none))
            }
            1 => {
                let with = self.select(1, &none);
                let key = self.key();
                format!(
                    "WITH c AS ({with}) SELECT m.id, c.id FROM members m JOIN c USING (organization_id) WHERE m.organization_id = {key}"
                )
            }
            _ => self.select(2, &none),
        }
    }
}

fn run(client: &mut Client, sql: &str, parameter: Option<i64>) -> Answer {
    let answer = match parameter {
        None => client.query(sql),
        Some(key) => client.extended(sql, &[20], &[Value::from(key)]),
    };
    sorted(answer)
}

#[test]
fn random_statements_are_answered_as_by_one_postgresql_or_refused() {
    let seed = std::env::var("SLUICE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random::<u64>);
    eprintln!("SLUICE_SEED={seed}");
    let fleet = Fleet::start().filled();
    let sluice = fleet.sluice();
    let (mut client, mut truth) = (sluice.connect("epfo"), fleet.truth());
    let keys = fleet.spread(3);
    let mut writer = Writer { random: SmallRng::seed_from_u64(seed), keys: [keys[0], keys[1], keys[2]], aliases: 0 };
    let (mut answered, mut with_rows) = (0, 0);
    for _ in 0..STATEMENTS {
        let mut sql = writer.statement();
        let constant = format!("= {}", keys[0]);
        // Some travel with a binary parameter in place of one constant.
        let parameter = (writer.chance(40) && sql.contains(&constant)).then_some(keys[0]);
        if parameter.is_some() {
            sql = sql.replacen(&constant, "= $1", 1);
        }
        let answer = run(&mut client, &sql, parameter);
        if answer.errors.first().is_some_and(|error| error.code == "0A000") {
            continue;
        }
        let wanted = run(&mut truth, &sql, parameter);
        let codes = |answer: &Answer| answer.errors.iter().map(|error| error.code.clone()).collect::<Vec<_>>();
        assert_eq!((&answer.rows, codes(&answer)), (&wanted.rows, codes(&wanted)), "{sql}");
        answered += 1;
        with_rows += usize::from(!answer.rows.is_empty());
    }
    assert!(
        answered > STATEMENTS / 20 && with_rows > STATEMENTS / 50,
        "{answered} answers, {with_rows} with rows: too few to prove anything"
    );
}
