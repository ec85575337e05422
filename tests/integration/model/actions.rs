//! What the clients of the model test do: plain values, so that a run can be printed, shortened and repeated.

use rand::RngExt;
use rand::rngs::StdRng;

/// Most clients of a run.
pub const CLIENTS: usize = 4;

/// One message of the extended protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    Parse(&'static str, String),
    Bind(&'static str, &'static str, Vec<&'static str>),
    DescribeStatement(&'static str),
    DescribePortal(&'static str),
    Execute(&'static str, u32),
    CloseStatement(&'static str),
    ClosePortal(&'static str),
    Sync,
}

/// What a client does at once, before it reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Simple queries, sent together.
    Query(Vec<String>),
    /// Messages of the extended protocol, a Sync behind the last one.
    Batch(Vec<Op>),
    /// The same without a Sync, and with a Flush; the pipeline stays open.
    Flush(Vec<Op>),
    /// Ends the open pipeline.
    Sync,
    /// COPY FROM STDIN up to CopyInResponse, by the simple or the extended protocol.
    CopyBegin { extended: bool },
    /// Its data, and how it ends.
    CopyEnd { lines: Vec<&'static str>, fails: bool },
    /// The client dies where it is, and another one comes.
    Die,
    /// The client says goodbye, and another one comes.
    Leave,
}

/// Names in batches of any order. The unnamed statement is used only where it has been parsed in the same batch: whether that
/// was reached before an error, Sluice doesn't know.
const WILD: [&str; 3] = ["w1", "w2", "w3"];

/// Not in a block: there, PostgreSQL takes the modes over, and Sluice doesn't.
const BEGINS: [&str; 2] = ["START TRANSACTION READ ONLY", "BEGIN ISOLATION LEVEL REPEATABLE READ"];

impl Action {
    /// Whether this begins a block with modes of its own.
    pub fn is_begin(&self) -> bool {
        matches!(self, Self::Query(texts) if BEGINS.contains(&texts[0].as_str()))
    }

    /// The same with one part less; `None` if there is no such part, or nothing would be left.
    pub fn without(&self, part: usize) -> Option<Self> {
        fn less<T: Clone>(parts: &[T], part: usize) -> Option<Vec<T>> {
            let mut parts = (parts.len() > 1).then(|| parts.to_vec())?;
            (part < parts.len()).then(|| drop(parts.remove(part)))?;
            Some(parts)
        }
        match self {
            Self::Query(texts) => less(texts, part).map(Self::Query),
            Self::Batch(ops) => less(ops, part).map(Self::Batch),
            Self::Flush(ops) => less(ops, part).map(Self::Flush),
            _ => None,
        }
    }
}

/// Writes actions.
pub struct Writer<'a> {
    pub random: &'a mut StdRng,
    pub client: usize,
}

const SETTINGS: [(&str, &[&str]); 12] = [
    ("work_mem", &["'5MB'", "'6MB'", "'nonsense'"]),
    ("DateStyle", &["'German'", "'SQL, DMY'", "ISO"]),
    ("TimeZone", &["'UTC'", "'Asia/Tokyo'"]),
    ("search_path", &["public", "other, public", "'other'"]),
    ("app.organization", &["'7'", "'8'"]),
    ("extra_float_digits", &["0", "3", "99"]),
    ("IntervalStyle", &["'iso_8601'", "'postgres'"]),
    ("client_min_messages", &["warning", "notice"]),
    ("application_name", &["'one'", "'it''s'"]),
    ("default_transaction_isolation", &["'serializable'", "'read committed'"]),
    ("default_transaction_read_only", &["on", "off"]),
    ("standard_conforming_strings", &["off", "on"]),
];

impl Writer<'_> {
    fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.random.random_range(0..choices.len())].clone()
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    pub fn action(&mut self) -> Action {
        match self.random.random_range(0..100) {
            0..=54 => Action::Query(self.queries()),
            55..=79 => Action::Batch(self.ops(8)),
            80..=86 => Action::Flush(self.ops(4)),
            87..=90 => Action::Sync,
            91..=93 => Action::CopyBegin { extended: self.chance(50) },
            94..=96 => self.copy_end(),
            97 => Action::Leave,
            _ => Action::Die,
        }
    }

    fn copy_end(&mut self) -> Action {
        let lines = (0..self.random.random_range(0..4))
            .map(|_| self.pick(&["1\t2\tx\n", "8\t8\t\\N\n", "not a number\n", "7\t"]));
        let lines = lines.collect();
        Action::CopyEnd { lines, fails: self.chance(30) }
    }

    fn queries(&mut self) -> Vec<String> {
        match self.random.random_range(0..10) {
            // Several statements in one message are one transaction.
            0 => {
                let count = self.random.random_range(2..5);
                vec![(0..count).map(|_| self.statement()).collect::<Vec<_>>().join("; ")]
            }
            1 => (0..self.random.random_range(2..5)).map(|_| self.statement()).collect(),
            2 => vec![self.pick(&BEGINS).to_owned()],
            _ => vec![self.statement()],
        }
    }

    /// Either any statements in the order in which drivers send their messages, or harmless ones in any order.
    fn ops(&mut self, most: usize) -> Vec<Op> {
        let count = self.random.random_range(1..=most);
        let is_wild = self.chance(50);
        (0..count).flat_map(|_| if is_wild { self.wild_op() } else { self.tame_ops() }).collect()
    }

    fn tame_ops(&mut self) -> Vec<Op> {
        if self.chance(15) {
            return vec![Op::Sync];
        }
        let (sql, values) = if self.chance(50) { self.parametrized() } else { (self.statement(), vec![]) };
        if ["DISCARD ALL", "DEALLOCATE ALL"].contains(&sql.as_str()) {
            // Sluice doesn't see them before it has answered for what the server has prepared.
            return vec![Op::Sync];
        }
        let name = self.pick(&["", "", "s1", "s2"]);
        let mut ops = vec![Op::Parse(name, sql)];
        if !name.is_empty() {
            ops.insert(0, Op::CloseStatement(name));
        }
        if self.chance(40) {
            ops.push(Op::DescribeStatement(name));
        }
        ops.push(Op::Bind("", name, values));
        if self.chance(50) {
            ops.push(Op::DescribePortal(""));
        }
        ops.push(Op::Execute("", 0));
        ops
    }

    /// One message, or a few that belong together.
    fn wild_op(&mut self) -> Vec<Op> {
        let name = self.pick(&["", "", "w1", "w2", "w3"]);
        let portal = self.pick(&["", "", "", "p1"]);
        match self.random.random_range(0..20) {
            0..=7 => {
                let (sql, values) = self.parametrized();
                let rows = self.pick(&[0, 0, 0, 1, 2]);
                vec![Op::Parse(name, sql), Op::Bind(portal, name, values), Op::Execute(portal, rows)]
            }
            8 | 9 => vec![Op::Parse(name, self.parametrized().0)],
            10..=12 => {
                let name = self.pick(&WILD);
                let values = self.pick(&[vec![], vec!["3"], vec!["x", "4"]]);
                vec![Op::Bind(portal, name, values), Op::Execute(portal, self.pick(&[0, 1]))]
            }
            13 => vec![Op::DescribeStatement(self.pick(&WILD))],
            14 => vec![Op::DescribePortal(portal)],
            // In pieces. Not in a later batch: PostgreSQL 15 crashes if the block has failed meanwhile.
            15 | 16 => {
                let sql = "SELECT generate_series(1, 5)".to_owned();
                let pieces = [1, 2, 0, 0].map(|rows| Op::Execute(portal, rows));
                [vec![Op::Parse("", sql), Op::Bind(portal, "", vec![])], pieces.to_vec()].concat()
            }
            17 => vec![Op::CloseStatement(self.pick(&WILD))],
            18 => vec![Op::ClosePortal(portal)],
            _ => vec![Op::Sync],
        }
    }

    fn parametrized(&mut self) -> (String, Vec<&'static str>) {
        let client = self.client;
        match self.random.random_range(0..8) {
            0..=2 => ("SELECT $1::int + 1".to_owned(), vec![self.pick(&["3", "3", "x"])]),
            3 | 4 => {
                let key = self.pick(&["5", "6", "7"]);
                (format!("INSERT INTO t VALUES ({client}, $1, $2) RETURNING k"), vec![key, "x"])
            }
            5 => ("SELECT g, $1::text FROM generate_series(1, 4) g".to_owned(), vec!["it's"]),
            6 => (format!("SELECT k, v FROM t WHERE client = {client} ORDER BY k"), vec![]),
            _ => ("SELECT 1 / ($1::int - 3)".to_owned(), vec![self.pick(&["3", "4"])]),
        }
    }

    /// One SQL statement.
    fn statement(&mut self) -> String {
        match self.random.random_range(0..20) {
            0..=4 => self.transaction(),
            5..=8 => self.data(),
            9..=12 => self.setting(),
            13..=16 => self.session(),
            17 => self.mistake(),
            18 => self.oddity(),
            _ => self.reset(),
        }
    }

    fn transaction(&mut self) -> String {
        self.pick(&[
            "BEGIN",
            "BEGIN",
            "BEGIN",
            "COMMIT",
            "COMMIT",
            "ROLLBACK",
            "END",
            "ABORT",
            "SAVEPOINT a",
            "SAVEPOINT a",
            "SAVEPOINT b",
            "RELEASE a",
            "ROLLBACK TO a",
            "ROLLBACK TO b",
            "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
            "SET TRANSACTION READ ONLY",
        ])
        .to_owned()
    }

    /// Rows of this client's own: what others do must not decide the answer, or make anybody wait.
    fn data(&mut self) -> String {
        let client = self.client;
        let key = self.random.random_range(0..6);
        match self.random.random_range(0..10) {
            0 | 1 => format!("INSERT INTO t VALUES ({client}, {key}, 'x')"),
            2 => format!("UPDATE t SET v = v || 'y' WHERE client = {client} RETURNING k, v"),
            3 => format!("DELETE FROM t WHERE client = {client} AND k > {key}"),
            // Fails at COMMIT.
            4 => format!("INSERT INTO deferred VALUES ({client}, 1)"),
            5 => format!("COPY (SELECT * FROM t WHERE client = {client} ORDER BY k) TO STDOUT"),
            6 => "SELECT now() IS NOT NULL, 1.5::float8, interval '1 day 2 hours', date '2026-02-01'".to_owned(),
            7 => "SELECT repeat('long ', 3000) FROM generate_series(1, 10)".to_owned(),
            _ => format!("SELECT k, v FROM t WHERE client = {client} ORDER BY k"),
        }
    }

    fn setting(&mut self) -> String {
        let (name, values) = self.pick(&SETTINGS);
        let value = self.pick(values);
        match self.random.random_range(0..14) {
            0..=3 => format!("SET {name} = {value}"),
            4 | 5 => format!("SET LOCAL {name} = {value}"),
            6 => format!("RESET {name}"),
            7 => format!("SET {name} TO DEFAULT"),
            8 => format!("SELECT set_config('app.organization', '7', {})", self.pick(&["true", "false"])),
            9 => self
                .pick(&[
                    "SET ROLE someone",
                    "RESET ROLE",
                    "SET SESSION AUTHORIZATION someone",
                    "RESET SESSION AUTHORIZATION",
                ])
                .to_owned(),
            10 => self
                .pick(&["SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "SET TIME ZONE 'Europe/Rome'"])
                .to_owned(),
            11 => {
                "SELECT current_user, session_user, current_setting('app.organization', true), current_schemas(false)"
                    .to_owned()
            }
            _ => format!("SHOW {name}"),
        }
    }

    /// What stays with a session until it is taken back.
    fn session(&mut self) -> String {
        let client = self.client;
        match self.random.random_range(0..24) {
            0 => "CREATE TEMP TABLE mine (a int)".to_owned(),
            1 => "CREATE TEMP TABLE mine (a int) ON COMMIT DROP".to_owned(),
            2 => "INSERT INTO mine VALUES (1)".to_owned(),
            3 => "SELECT count(*) FROM mine".to_owned(),
            4 => "DROP TABLE mine".to_owned(),
            5 => format!("PREPARE p AS SELECT {client}"),
            6 => "PREPARE q (int) AS SELECT $1 + 1".to_owned(),
            7 => "EXECUTE q(1)".to_owned(),
            8 => self.pick(&["EXECUTE p", "DEALLOCATE q", "DEALLOCATE ALL"]).to_owned(),
            9 => "DECLARE held CURSOR WITH HOLD FOR SELECT generate_series(1, 5)".to_owned(),
            10 => "DECLARE cur CURSOR FOR SELECT generate_series(1, 5)".to_owned(),
            11 => self.pick(&["FETCH 2 FROM held", "FETCH ALL FROM held", "MOVE held"]).to_owned(),
            12 => self.pick(&["FETCH 2 FROM cur", "FETCH BACKWARD 1 FROM cur"]).to_owned(),
            13 => self.pick(&["CLOSE held", "CLOSE cur", "CLOSE ALL"]).to_owned(),
            14 | 15 => format!("SELECT pg_try_advisory_lock({})", self.random.random_range(0..3)),
            16 => format!("SELECT pg_advisory_unlock({})", self.random.random_range(0..3)),
            17 => "SELECT pg_advisory_unlock_all()".to_owned(),
            18 => "SELECT pg_try_advisory_xact_lock(1)".to_owned(),
            19 => self.pick(&["LISTEN news", "LISTEN other", "UNLISTEN news", "UNLISTEN *"]).to_owned(),
            20 => format!("NOTIFY news, 'from {client}'"),
            21 => format!("SELECT nextval('seq{client}')"),
            // Within one message: what a session has drawn from sequences doesn't follow it to another server.
            22 => format!("SELECT nextval('seq{client}'); SELECT currval('seq{client}'), lastval()"),
            _ => "SELECT count(*) FROM pg_cursors".to_owned(),
        }
    }

    fn mistake(&mut self) -> String {
        self.pick(&[
            "SELECT 1 / 0",
            "SELEKT 1",
            "SELECT * FROM missing",
            "SELECT 'a'::int",
            "INSERT INTO t VALUES (NULL, NULL, NULL)",
            "VACUUM t",
            "SET nonsense = 1",
            "COPY t FROM '/nowhere'",
        ])
        .to_owned()
    }

    fn oddity(&mut self) -> String {
        self.pick(&[
            "",
            ";",
            "/* only a comment */",
            "DROP TABLE IF EXISTS missing",
            "DO $$ BEGIN RAISE NOTICE 'said'; END $$",
            "SET CONSTRAINTS ALL IMMEDIATE",
            "EXPLAIN (COSTS off) SELECT 1",
            "LOCK TABLE t IN ACCESS SHARE MODE",
            "SELECT 1 AS \"ä\", NULL",
            "VALUES (1), (2)",
        ])
        .to_owned()
    }

    fn reset(&mut self) -> String {
        self.pick(&["DISCARD ALL", "DISCARD ALL", "RESET ALL", "DISCARD PLANS", "DISCARD SEQUENCES", "DISCARD TEMP"])
            .to_owned()
    }
}

/// A run: who does what, in turn.
pub fn run_of(random: &mut StdRng, clients: usize, length: usize) -> Vec<(usize, Action)> {
    let mut client = 0;
    (0..length)
        .map(|_| {
            // Mostly the same client for a while: a transaction should get somewhere.
            if random.random_range(0..100) < 35 {
                client = random.random_range(0..clients);
            }
            (client, Writer { random, client }.action())
        })
        .collect()
}
