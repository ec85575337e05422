//! The two worlds: clients of Sluice in one database, and each one's double with a PostgreSQL session of its own in another.

use std::fmt;
use std::time::{Duration, Instant};

use sluice_test_harness::Cluster;

use super::actions::{Action, CLIENTS, Op};
use super::compare::{Known, Seen, Until, read};
use crate::support::{Batch, Client, Login, Sluice, console, databases, eventually};

/// How long one answer may take. Nothing in a run waits for another client.
const PATIENCE: Duration = Duration::from_secs(4);

const SCHEMA: &str = "
    CREATE TABLE t (client int NOT NULL, k int, v text, UNIQUE (client, k));
    CREATE TABLE deferred (client int, k int, UNIQUE (client, k) DEFERRABLE INITIALLY DEFERRED);
    CREATE SCHEMA other;
    CREATE TABLE other.t (client int, k int, v text);
    CREATE SEQUENCE seq0; CREATE SEQUENCE seq1; CREATE SEQUENCE seq2; CREATE SEQUENCE seq3;
    GRANT SELECT ON t TO someone";

const CLEAN: &str = "
    TRUNCATE t, deferred, other.t; ALTER SEQUENCE seq0 RESTART; ALTER SEQUENCE seq1 RESTART; ALTER SEQUENCE seq2 RESTART;
    ALTER SEQUENCE seq3 RESTART";

/// What a session must not inherit from another one.
const FRESH: &str = "
    SELECT 'setting', name, setting FROM pg_settings WHERE source = 'session' AND name NOT LIKE 'transaction_%'
    UNION ALL SELECT 'cursor', name, statement FROM pg_cursors WHERE statement NOT LIKE '%pg_cursors%'
    UNION ALL SELECT 'prepared', name, statement FROM pg_prepared_statements WHERE from_sql
    UNION ALL SELECT 'listening', c, '' FROM pg_listening_channels() c
    UNION ALL SELECT 'lock', locktype, '' FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()
    UNION ALL SELECT 'temporary', relname, '' FROM pg_class WHERE relnamespace = pg_my_temp_schema()
    UNION ALL SELECT 'user', current_user, session_user
    ORDER BY 1, 2";

/// The size of the pool, and of its memory of prepared statements.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub servers: usize,
    pub prepared: u32,
}

/// Where the two worlds went apart.
pub struct Difference {
    pub step: usize,
    what: String,
}

impl Difference {
    /// Whether it may be the same mistake: the message where they part is of the same kinds.
    pub fn is_like(&self, other: &Self) -> bool {
        let kinds = |what: &str| {
            let sides = what
                .split("Sluice:")
                .map(|side| side.lines().nth(2).map(|line| line.chars().take(20).collect::<String>()));
            sides.collect::<Vec<_>>()
        };
        kinds(&self.what) == kinds(&other.what)
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

pub struct World {
    sluice: Sluice,
    cluster: Cluster,
    pub shape: Shape,
    /// Direct connections to the database of either world.
    hands: [Client; 2],
    pub actions: u64,
}

/// What a connection is in the middle of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Rest,
    Pipeline { skipping: bool },
    Copy { extended: bool },
}

/// A client and its double.
struct Pair {
    model: Client,
    pooled: Client,
    known: [Known; 2],
    status: char,
    mode: Mode,
    /// They differ in a way that is known: the run ends.
    parted: bool,
    /// The block that it is in has failed.
    has_failed: bool,
    /// What may keep its server: which kinds of residue its statements may have left.
    pins: [bool; PINS.len()],
}

/// For each kind of residue: a word in what leaves it, and the statements that surely take it away.
const PINS: [(&str, &[&str]); 5] = [
    ("TEMP", &["DISCARD TEMP", "DISCARD ALL"]),
    ("LISTEN", &["UNLISTEN *", "DISCARD ALL"]),
    ("CURSOR", &["CLOSE ALL", "DISCARD ALL"]),
    ("advisory_lock", &["SELECT pg_advisory_unlock_all()", "DISCARD ALL"]),
    ("PREPARE", &["DEALLOCATE ALL", "DISCARD ALL"]),
];

impl Pair {
    fn holds(&self) -> bool {
        self.status != 'I' || self.mode != Mode::Rest || self.pins.contains(&true)
    }

    /// Notes what a text may leave behind.
    fn note(&mut self, sql: &str) {
        for (pin, (word, _)) in self.pins.iter_mut().zip(PINS) {
            *pin |= sql.contains(word) && !sql.starts_with("UNLISTEN");
        }
    }

    fn note_release(&mut self, action: &Action, failed: bool) {
        let Action::Query(texts) = action else { return };
        if failed || self.status != 'I' || texts.len() != 1 {
            return;
        }
        for (pin, (_, ends)) in self.pins.iter_mut().zip(PINS) {
            *pin &= !ends.contains(&texts[0].as_str());
        }
    }

    /// What there is to send, and how far to read then; `None` if this can't be done now.
    fn plan(&mut self, action: &Action) -> Option<(Batch, Until)> {
        match (action, self.mode) {
            (Action::Query(_), _) if action.is_begin() && self.status != 'I' => None,
            (Action::Query(texts), Mode::Rest | Mode::Pipeline { skipping: false }) => {
                texts.iter().for_each(|sql| self.note(sql));
                Some((texts.iter().fold(Batch::new(), |batch, sql| batch.query(sql)), Until::Ready(texts.len())))
            }
            (Action::Batch(ops), Mode::Rest | Mode::Pipeline { .. }) => {
                let syncs = ops.iter().filter(|op| **op == Op::Sync).count();
                Some((self.batch(ops).sync(), Until::Ready(syncs + 1)))
            }
            (Action::Flush(ops), Mode::Rest | Mode::Pipeline { skipping: false }) => {
                let ops: Vec<_> = ops.iter().filter(|op| **op != Op::Sync).cloned().collect();
                Some((self.batch(&ops).raw(b'H', b""), Until::Each(ops.iter().map(end_of).collect())))
            }
            (Action::Sync, Mode::Pipeline { .. }) => Some((Batch::new().sync(), Until::Ready(1))),
            (Action::CopyBegin { extended: false }, Mode::Rest) => {
                Some((Batch::new().query("COPY t FROM STDIN"), Until::CopyIn { otherwise: b'Z' }))
            }
            (Action::CopyBegin { extended: true }, Mode::Rest) => {
                Some((Batch::new().run("COPY t FROM STDIN", &[]).flush(), Until::CopyIn { otherwise: b'E' }))
            }
            (Action::CopyEnd { lines, fails }, Mode::Copy { extended }) => {
                let data = lines.iter().fold(Batch::new(), |batch, line| batch.copy_data(line.as_bytes()));
                let end = if *fails { data.copy_fail("changed my mind") } else { data.copy_done() };
                Some((if extended { end.sync() } else { end }, Until::Ready(1)))
            }
            _ => None,
        }
    }

    fn batch(&mut self, ops: &[Op]) -> Batch {
        ops.iter().fold(Batch::new(), |batch, op| match op {
            Op::Parse(name, sql) => {
                self.note(sql);
                batch.parse(name, sql)
            }
            Op::Bind(portal, name, values) => batch.bind(portal, name, values),
            Op::DescribeStatement(name) => batch.describe_statement(name),
            Op::DescribePortal(name) => batch.describe_portal(name),
            Op::Execute(portal, rows) => batch.execute(portal, *rows),
            Op::CloseStatement(name) => batch.close_statement(name),
            Op::ClosePortal(name) => batch.close_portal(name),
            Op::Sync => batch.sync(),
        })
    }

    fn mode_after(&self, action: &Action, failed: bool, copying: bool) -> Mode {
        match action {
            Action::Flush(_) => Mode::Pipeline { skipping: failed },
            Action::CopyBegin { extended } if copying => Mode::Copy { extended: *extended },
            Action::CopyBegin { extended: true } => Mode::Pipeline { skipping: true },
            _ => Mode::Rest,
        }
    }
}

/// The types that end the answer to one message.
fn end_of(op: &Op) -> &'static [u8] {
    match op {
        Op::Parse(..) => b"1",
        Op::Bind(..) => b"2",
        Op::DescribeStatement(_) | Op::DescribePortal(_) => b"Tn",
        Op::Execute(..) => b"CsI",
        Op::CloseStatement(_) | Op::ClosePortal(_) => b"3",
        Op::Sync => b"Z",
    }
}

impl World {
    pub fn start(shape: Shape) -> Self {
        let cluster = Cluster::start();
        cluster.psql("postgres", "CREATE ROLE someone");
        let hands = ["twin", "pooled"].map(|database| {
            cluster.create_database(database);
            cluster.psql(database, SCHEMA);
            // A server that has met it never forgets that there is such a setting.
            cluster.psql(database, &format!("ALTER DATABASE {database} SET app.organization = 'none'"));
            direct(&cluster, database)
        });
        let settings = [
            format!("default_pool_size = {}", shape.servers),
            format!("max_prepared_statements = {}", shape.prepared),
            "query_wait_timeout = 2".to_owned(),
        ];
        let settings: Vec<_> = settings.iter().map(String::as_str).collect();
        let sluice = Sluice::start(&databases(&cluster, ""), &settings);
        Self { sluice, cluster, shape, hands, actions: 0 }
    }

    fn pair(&self) -> Pair {
        let mut model = direct(&self.cluster, "twin");
        let mut pooled = self.sluice.log_in(&Login::to("pooled"));
        model.set_read_timeout(PATIENCE);
        pooled.set_read_timeout(PATIENCE);
        let known = [&model, &pooled]
            .map(|client| Known { parameters: client.parameters.iter().cloned().collect(), notifications: Vec::new() });
        Pair {
            model,
            pooled,
            known,
            status: 'I',
            mode: Mode::Rest,
            parted: false,
            has_failed: false,
            pins: [false; PINS.len()],
        }
    }

    /// As [`Self::play`], on new servers: what another run has left behind is not there.
    pub fn replay(&mut self, run: &[(usize, Action)]) -> Result<(), Difference> {
        console(&self.sluice).ok("RECONNECT");
        self.play(run)
    }

    /// Plays a run in both worlds.
    pub fn play(&mut self, run: &[(usize, Action)]) -> Result<(), Difference> {
        self.hands.iter_mut().for_each(|hand| drop(hand.ok(CLEAN)));
        let mut pairs: [Option<Pair>; CLIENTS] = [const { None }; CLIENTS];
        for (step, (client, action)) in run.iter().enumerate() {
            let others = pairs.iter().enumerate().filter(|(other, _)| other != client);
            let held = others.filter(|(_, pair)| pair.as_ref().is_some_and(Pair::holds)).count();
            if held >= self.shape.servers {
                continue;
            }
            let mut pair = pairs[*client].take().unwrap_or_else(|| self.pair());
            self.actions += 1;
            let differs = |what| Difference { step, what };
            match action {
                Action::Die => {
                    drop(pair);
                    self.await_rest(&pairs).map_err(differs)?;
                    continue;
                }
                Action::Leave => {
                    pair.model.terminate();
                    pair.pooled.terminate();
                    self.await_rest(&pairs).map_err(differs)?;
                    continue;
                }
                action => act(&mut pair, action).map_err(differs)?,
            }
            if pair.parted {
                // What one has done and the other hasn't would be met again and again.
                drop((pair, pairs));
                return self.await_rest(&[]).map_err(differs);
            }
            pairs[*client] = Some(pair);
        }
        let last = |what| Difference { step: run.len().saturating_sub(1), what };
        self.compare_notifications(&mut pairs).map_err(last)?;
        drop(pairs);
        self.compare_ends().map_err(last)
    }

    /// Waits until what dead clients had is gone in both worlds: their locks, and the servers that they held.
    fn await_rest(&mut self, pairs: &[Option<Pair>]) -> Result<(), String> {
        const LOCKS: &str = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database \
            WHERE locktype = 'advisory' AND datname = current_database()";
        let alive = pairs.iter().flatten().count();
        let mut console = console(&self.sluice);
        let until = Instant::now() + PATIENCE;
        loop {
            let locks: Vec<_> = self.hands.iter_mut().map(|hand| hand.value(LOCKS)).collect();
            let clients = console.ok("SHOW CLIENTS").rows();
            let clients = clients.iter().filter(|row| row[2].as_deref() == Some("pooled")).count();
            let sessions = self.hands[0].value("SELECT count(*) FROM pg_stat_activity WHERE datname = 'twin'");
            if locks[0] == locks[1] && clients == alive && sessions == (alive + 1).to_string() {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(format!("left behind: locks {locks:?}, {clients} clients instead of {alive}"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn compare_notifications(&mut self, pairs: &mut [Option<Pair>; CLIENTS]) -> Result<(), String> {
        for pair in pairs.iter_mut().flatten().filter(|pair| pair.status == 'I' && pair.mode == Mode::Rest) {
            let until = Instant::now() + Duration::from_secs(3);
            // Whoever is pinned has a server to ask; nobody else listens.
            while pair.pins[1] && pair.known[0].notifications != pair.known[1].notifications && Instant::now() < until {
                read_again(pair);
            }
            let [model, pooled] = &pair.known;
            if model.notifications != pooled.notifications {
                return Err(format!("heard {:?} instead of {:?}", pooled.notifications, model.notifications));
            }
        }
        Ok(())
    }

    /// Everybody has left: nothing may be left of them.
    fn compare_ends(&mut self) -> Result<(), String> {
        self.await_rest(&[])?;
        let mut fresh = [direct(&self.cluster, "twin"), self.sluice.log_in(&Login::to("pooled"))];
        let [model, pooled] = fresh.each_mut().map(|client| client.ok(FRESH).rows());
        if model != pooled {
            return Err(format!("a new client begins with {pooled:?} instead of {model:?}"));
        }
        let [model, pooled] = self.hands.each_mut().map(|hand| hand.ok("TABLE t; TABLE deferred").rows());
        if model != pooled {
            return Err(format!("the tables hold {pooled:?} instead of {model:?}"));
        }
        drop(fresh);
        eventually("the last ones are gone", || {
            self.hands[0].value("SELECT count(*) FROM pg_stat_activity WHERE datname = 'twin'") == "1"
        });
        Ok(())
    }
}

fn read_again(pair: &mut Pair) {
    for (client, known) in [(&mut pair.model, 0), (&mut pair.pooled, 1)] {
        client.send_query("SELECT 1");
        read(client, &mut pair.known[known], &Until::Ready(1));
    }
}

fn direct(cluster: &Cluster, database: &str) -> Client {
    let address = cluster.socket_dir().join(format!(".s.PGSQL.{}", cluster.port())).display().to_string();
    Client::log_in(&address, &Login::to(database)).unwrap_or_else(|error| panic!("{error}"))
}

/// One action in both worlds; the model goes first.
fn act(pair: &mut Pair, action: &Action) -> Result<(), String> {
    let Some((batch, until)) = pair.plan(action) else { return Ok(()) };
    let _ = pair.model.try_send(&batch.0);
    let model = read(&mut pair.model, &mut pair.known[0], &until);
    let _ = pair.pooled.try_send(&batch.0);
    let pooled = read(&mut pair.pooled, &mut pair.known[1], &until);
    if is_excused(pair, &model.messages, &pooled.messages) {
        pair.parted = true;
        return Ok(());
    }
    if model.messages != pooled.messages {
        return Err(apart(&model.messages, &pooled.messages));
    }
    compare_parameters(pair, model.status)?;
    pair.status = model.status.unwrap_or(pair.status);
    pair.mode = pair.mode_after(action, model.failed, model.copying);
    pair.note_release(action, model.failed);
    Ok(())
}

/// What the client knows of its settings. Known: in a block that Sluice has failed by itself it isn't told that they are back.
fn compare_parameters(pair: &mut Pair, status: Option<char>) -> Result<(), String> {
    pair.has_failed |= status == Some('E');
    if status != Some('I') {
        return Ok(());
    }
    let [model, pooled] = &mut pair.known;
    if std::mem::take(&mut pair.has_failed) {
        pooled.parameters = model.parameters.clone();
    }
    let apart = model.parameters.iter().find(|(name, value)| pooled.parameters.get(*name) != Some(value));
    match apart {
        Some((name, value)) => Err(format!("{name} is {:?} instead of {value}", pooled.parameters.get(name))),
        None => Ok(()),
    }
}

/// What is known to differ:
/// - in a block that Sluice has failed by itself, it answers whatever comes with 25P02;
/// - in a block that has failed, a text that the server has is parsed without asking it, and a name is looked at first;
/// - an error of Sluice's own comes without the answers to the messages before it;
/// - what can't be answered rightly is refused (0A000).
fn is_excused(pair: &Pair, model: &[Seen], pooled: &[Seen]) -> bool {
    let same = model.iter().zip(pooled).take_while(|(model, pooled)| model == pooled).count();
    let (before, rest) = model.split_at(same);
    let (Some(model), Some(pooled)) = (rest.first(), pooled.get(same)) else { return false };
    (pooled.is_error("") && rest.contains(pooled))
        || (model.is_error("25P02") && (pooled.is("1 ") || pooled.is_error("26000") || pooled.is_error("42P05")))
        || (pooled.is_error("25P02") && (pair.status == 'E' || before.iter().any(|seen| seen.is("Z E"))))
        || pooled.is_error("0A000")
}

fn apart(model: &[Seen], pooled: &[Seen]) -> String {
    let same = model.iter().zip(pooled).take_while(|(model, pooled)| model == pooled).count();
    let show = |seen: &[Seen]| {
        let shown = seen.iter().skip(same).take(6);
        shown.map(|seen| format!("    {:.400}", seen.to_string())).collect::<Vec<_>>().join("\n")
    };
    format!("after {same} equal messages\n  PostgreSQL:\n{}\n  Sluice:\n{}", show(model), show(pooled))
}
