//! Which cells are measured, and how long.

use std::time::Duration;

use crate::error::{BenchError, Result};
use crate::fleet::{Address, Backend, Fleet, Transport, free_port};
use crate::load::{Crew, Generator, Protocol, Work};
use crate::logins::{Access, Encrypted};
use crate::pgbench::{Pgbench, Run};
use crate::process::{resident, usage};
use crate::rounds::{Rounds, Sample};
use crate::subject::{Binaries, POOL_SIZE, Pooler, Subject, Upstream};
use crate::syscalls::Trace;

/// Five times the pool: many clients wait.
pub const CROWD: usize = 5 * POOL_SIZE as usize;
/// As many clients as the pool has servers: none waits.
pub const FITTING: usize = POOL_SIZE as usize;
/// Connections under way at the same time where logins are measured.
const LOGINS_AT_ONCE: usize = 4;
/// Idle clients over TLS.
const ENCRYPTED_CLIENTS: usize = 1000;
/// Clients that are there before idle clients are counted, so that what a pooler allocates once isn't.
const FIRST_CLIENTS: usize = 1000;
const SYSCALLS_DURATION: Duration = Duration::from_secs(1);

/// How much is measured.
#[derive(Debug, Clone)]
pub struct Scale {
    pub protocols: &'static [Protocol],
    pub clients: &'static [usize],
    pub canned_rounds: usize,
    pub canned_turn: Duration,
    pub pgbench_rounds: usize,
    /// Whole seconds.
    pub pgbench_turn: Duration,
    pub idle_clients: usize,
    /// Transactions a second in the paced runs.
    pub rate: u32,
    pub paced_rounds: usize,
    /// Measure only what has this in its name.
    pub only: String,
}

impl Scale {
    /// All cells: about 20 minutes.
    pub fn full() -> Self {
        Self {
            protocols: &Protocol::ALL,
            clients: &[1, FITTING, CROWD, 1000],
            canned_rounds: 7,
            canned_turn: Duration::from_millis(500),
            pgbench_rounds: 5,
            pgbench_turn: Duration::from_secs(2),
            idle_clients: 10_000,
            rate: 10_000,
            paced_rounds: 5,
            only: String::new(),
        }
    }

    /// That everything works, and that nothing got much worse: about a minute.
    pub fn quick() -> Self {
        Self {
            protocols: &[Protocol::Simple, Protocol::Prepared],
            clients: &[FITTING, CROWD],
            canned_rounds: 5,
            canned_turn: Duration::from_millis(300),
            pgbench_rounds: 1,
            pgbench_turn: Duration::from_secs(1),
            idle_clients: 5000,
            rate: 10_000,
            paced_rounds: 3,
            only: String::new(),
        }
    }
}

/// The steps of a run: which of them are wanted, and who hears that they begin.
struct Steps<'a> {
    scale: &'a Scale,
    note: &'a mut dyn FnMut(&str),
}

impl Steps<'_> {
    fn begins(&mut self, name: &str) -> bool {
        let is_wanted = name.contains(&self.scale.only);
        if is_wanted {
            (self.note)(name);
        }
        is_wanted
    }
}

/// One line of a result table.
#[derive(Debug, Clone)]
pub struct Cell {
    pub backend: Backend,
    pub transport: Transport,
    pub protocol: Protocol,
    pub clients: usize,
    pub rounds: Rounds,
}

/// Counts that hardly depend on the machine: by subject.
#[derive(Debug, Clone)]
pub struct Counts {
    pub transport: Transport,
    pub clients: usize,
    /// `None`: strace isn't there, or may not.
    pub syscalls: [Option<f64>; 3],
}

/// Resident bytes that an idle client costs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    /// Logged in.
    pub connected: f64,
    /// All have sent a query at the same moment, and have their answers: what that leaves behind.
    pub after_crowd: f64,
}

#[derive(Debug, Default)]
pub struct Results {
    pub cells: Vec<Cell>,
    /// Simple protocol at a fixed rate with [`CROWD`] clients, canned backend.
    pub paced: Vec<(Transport, Rounds)>,
    pub counts: Vec<Counts>,
    /// By subject.
    pub memory: Option<[Memory; 3]>,
    /// A new connection for each transaction.
    pub logins: Vec<(Access, Rounds)>,
    /// Resident bytes of an idle client over TLS, by subject.
    pub encrypted: Option<[f64; 3]>,
    pub postgresql: String,
}

impl Results {
    pub fn cell(&self, backend: Backend, transport: Transport, protocol: Protocol, clients: usize) -> Option<&Rounds> {
        let wanted = (backend, transport, protocol, clients);
        let found =
            self.cells.iter().find(|cell| (cell.backend, cell.transport, cell.protocol, cell.clients) == wanted);
        found.map(|cell| &cell.rounds)
    }
}

/// What a subject runs when `wanted` is measured: a PgBouncer older than 1.21 knows no prepared statements of the protocol in
/// transaction mode, so its extended runs stand in.
fn protocol_of(subject: Subject, wanted: Protocol, binaries: &Binaries) -> Protocol {
    match (subject, wanted) {
        (Subject::PgBouncer, Protocol::Prepared) if !binaries.pgbouncer_prepares => Protocol::Extended,
        _ => wanted,
    }
}

/// Runs everything. `note` gets a line about each step.
pub fn run(binaries: &Binaries, scale: &Scale, note: &mut dyn FnMut(&str)) -> Result<Results> {
    let directory = tempfile::Builder::new().prefix("sluice-bench-").tempdir_in("/tmp");
    let directory = directory.map_err(BenchError::io("a directory for the canned backend"))?;
    open_to_all(directory.path())?;
    let canned = Address { socket_dir: directory.path().display().to_string(), port: free_port()? };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(BenchError::io("cannot start a runtime"))?;
    note("starting PostgreSQL: a plain database, 16 shards, the catalog");
    let fleet = runtime.block_on(Fleet::start(&canned))?;
    let mut results = Results { postgresql: fleet.version(), ..Results::default() };
    let upstream = |backend, address, access| Upstream {
        backend,
        address,
        access,
        plain_database: fleet.plain_database(),
        catalog_url: fleet.catalog_url(),
    };
    let mut steps = Steps { scale, note };
    let canned = upstream(Backend::Canned, canned, Access::Trust);
    CannedSuite::start(binaries, &canned, scale)?.run(&mut results, &mut steps)?;
    let real = |access| upstream(Backend::PostgreSql, fleet.address(), access);
    real_servers(binaries, &real(Access::Trust), &mut steps, &mut results)?;
    for access in [Access::Scram, Access::ScramTls] {
        logins(binaries, &real(access), &mut steps, &mut results)?;
    }
    encrypted(binaries, &real(Access::TrustTls), &mut steps, &mut results)?;
    Ok(results)
}

/// PgBouncer runs as another user, and has to reach the backend's socket.
fn open_to_all(directory: &std::path::Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).map_err(BenchError::path(directory))
}

/// The poolers in front of the canned backend.
struct CannedSuite<'a> {
    binaries: &'a Binaries,
    generator: Generator,
    poolers: [Pooler; 3],
    scale: &'a Scale,
}

impl<'a> CannedSuite<'a> {
    fn start(binaries: &'a Binaries, upstream: &Upstream, scale: &'a Scale) -> Result<Self> {
        let mut generator = Generator::new(&upstream.address).map_err(BenchError::io("cannot start the backend"))?;
        let mut start = |subject| {
            let wait = &mut |duration| generator.serve_for(duration).map_err(BenchError::io("canned backend"));
            Pooler::start(subject, binaries, upstream, wait)
        };
        let [first, second, third] = Subject::ALL;
        let poolers = [start(first)?, start(second)?, start(third)?];
        Ok(Self { binaries, generator, poolers, scale })
    }

    fn run(mut self, results: &mut Results, steps: &mut Steps<'_>) -> Result<()> {
        let scale = self.scale;
        if steps.begins(&format!("memory of {} idle clients", scale.idle_clients)) {
            let mut memory = [Memory::default(); 3];
            for subject in Subject::ALL {
                memory[subject.index()] = self.memory(subject)?;
            }
            results.memory = Some(memory);
        }
        for transport in Transport::ALL {
            for &protocol in scale.protocols {
                for &clients in scale.clients {
                    let name = format!("canned backend, {}, {}, {clients} clients", transport.name(), protocol.name());
                    if steps.begins(&name) {
                        let rounds = self.cell(transport, protocol, clients)?;
                        results.cells.push(Cell { backend: Backend::Canned, transport, protocol, clients, rounds });
                    }
                }
            }
            if steps.begins(&format!("canned backend, {}, {} transactions a second", transport.name(), scale.rate)) {
                results.paced.push((transport, self.paced(transport)?));
            }
            if steps.begins(&format!("system calls, {}", transport.name())) {
                for clients in [FITTING, CROWD] {
                    results.counts.push(self.count(transport, clients)?);
                }
            }
        }
        Ok(())
    }

    fn cell(&mut self, transport: Transport, protocol: Protocol, clients: usize) -> Result<Rounds> {
        let turn = self.scale.canned_turn;
        self.rounds(self.scale.canned_rounds, transport, protocol, clients, |generator, crew| {
            generator.saturate(crew, turn)
        })
    }

    fn paced(&mut self, transport: Transport) -> Result<Rounds> {
        let rate = self.scale.rate;
        self.rounds(self.scale.paced_rounds, transport, Protocol::Simple, CROWD, |generator, crew| {
            generator.pace(crew, rate, Duration::from_secs(1))
        })
    }

    fn rounds(
        &mut self,
        count: usize,
        transport: Transport,
        protocol: Protocol,
        clients: usize,
        work: impl Fn(&mut Generator, &Crew) -> std::io::Result<Work>,
    ) -> Result<Rounds> {
        let mut crews = Vec::with_capacity(Subject::ALL.len());
        for subject in Subject::ALL {
            crews.push(self.crew(subject, transport, protocol, clients)?);
        }
        let (generator, poolers) = (&mut self.generator, &self.poolers);
        let rounds = Rounds::run(count, |subject| {
            let pid = poolers[subject.index()].pid();
            let before = usage(pid)?;
            let work = work(generator, &crews[subject.index()]).map_err(BenchError::io(subject.name()))?;
            let used = usage(pid)? - before;
            Ok(Sample {
                transactions: work.transactions,
                seconds: work.elapsed.as_secs_f64(),
                cpu: used.cpu.as_secs_f64() * 1e6 / work.transactions as f64,
                p50: work.latency.value_at_quantile(0.5) as f64 / 1e3,
                p99: work.latency.value_at_quantile(0.99) as f64 / 1e3,
                switches: used.voluntary_switches as f64 / work.transactions as f64,
            })
        });
        self.generator.disconnect_all();
        rounds
    }

    /// Connects clients, and lets each run one query: servers are opened, templates known.
    fn crew(&mut self, subject: Subject, transport: Transport, protocol: Protocol, clients: usize) -> Result<Crew> {
        let crew = self.connect(subject, transport, protocol, clients)?;
        self.once(subject, &crew)?;
        Ok(crew)
    }

    fn connect(&mut self, subject: Subject, transport: Transport, protocol: Protocol, clients: usize) -> Result<Crew> {
        let pooler = &self.poolers[subject.index()];
        let (database, protocol) = (pooler.database(transport, clients), protocol_of(subject, protocol, self.binaries));
        let connected = self.generator.connect((&pooler.address, transport), &database, protocol, clients);
        connected.map_err(BenchError::io(format!("clients of {}", subject.name())))
    }

    fn once(&mut self, subject: Subject, crew: &Crew) -> Result<()> {
        self.generator.once(crew).map_err(BenchError::io(format!("first queries of {}", subject.name())))
    }

    fn memory(&mut self, subject: Subject) -> Result<Memory> {
        // A few queries open the servers. No crowd yet: its buffers, freed, would hold the clients that come after.
        self.crew(subject, Transport::Unix, Protocol::Simple, FITTING)?;
        self.connect(subject, Transport::Unix, Protocol::Simple, FIRST_CLIENTS)?;
        let pid = self.poolers[subject.index()].pid();
        let before = resident(pid)?;
        let more = self.scale.idle_clients - FIRST_CLIENTS;
        let per_client = |after: u64| after.saturating_sub(before) as f64 / more as f64;
        let crew = self.connect(subject, Transport::Unix, Protocol::Simple, more)?;
        let connected = per_client(resident(pid)?);
        self.once(subject, &crew)?;
        let after_crowd = per_client(resident(pid)?);
        self.generator.disconnect_all();
        Ok(Memory { connected, after_crowd })
    }

    fn count(&mut self, transport: Transport, clients: usize) -> Result<Counts> {
        let mut syscalls = [None; 3];
        for subject in Subject::ALL {
            let crew = self.crew(subject, transport, Protocol::Simple, clients)?;
            if let Some(trace) = Trace::attach(self.poolers[subject.index()].pid())? {
                let work = self.generator.saturate(&crew, SYSCALLS_DURATION).map_err(BenchError::io(subject.name()))?;
                syscalls[subject.index()] = Some(trace.finish()? as f64 / work.transactions as f64);
            }
            self.generator.disconnect_all();
        }
        Ok(Counts { transport, clients, syscalls })
    }
}

fn real_servers(binaries: &Binaries, upstream: &Upstream, steps: &mut Steps<'_>, results: &mut Results) -> Result<()> {
    let scale = steps.scale;
    let pgbench = Pgbench::new()?;
    let poolers = poolers(binaries, upstream)?;
    for transport in Transport::ALL {
        for &protocol in scale.protocols {
            for &clients in scale.clients {
                let name = format!("PostgreSQL, {}, {}, {clients} clients", transport.name(), protocol.name());
                if !steps.begins(&name) {
                    continue;
                }
                let rounds = Rounds::run(scale.pgbench_rounds, |subject| {
                    let pooler = &poolers[subject.index()];
                    let protocol = protocol_of(subject, protocol, binaries);
                    let duration = scale.pgbench_turn;
                    pgbench_turn(&pgbench, Run { pooler, transport, protocol, clients, duration, connects: None })
                })?;
                results.cells.push(Cell { backend: Backend::PostgreSql, transport, protocol, clients, rounds });
            }
        }
    }
    Ok(())
}

fn poolers(binaries: &Binaries, upstream: &Upstream) -> Result<[Pooler; 3]> {
    let wait = &mut |duration| {
        std::thread::sleep(duration);
        Ok(())
    };
    let [first, second, third] = Subject::ALL;
    let mut start = |subject| Pooler::start(subject, binaries, upstream, wait);
    Ok([start(first)?, start(second)?, start(third)?])
}

fn logins(binaries: &Binaries, upstream: &Upstream, steps: &mut Steps<'_>, results: &mut Results) -> Result<()> {
    let (scale, access) = (steps.scale, upstream.access);
    if !steps.begins(&format!("logins, {}", access.name())) {
        return Ok(());
    }
    let (pgbench, poolers) = (Pgbench::new()?, poolers(binaries, upstream)?);
    let rounds = Rounds::run(scale.pgbench_rounds, |subject| {
        let (pooler, duration) = (&poolers[subject.index()], scale.pgbench_turn);
        let (transport, protocol, clients) = (Transport::Tcp, Protocol::Simple, LOGINS_AT_ONCE);
        pgbench_turn(&pgbench, Run { pooler, transport, protocol, clients, duration, connects: Some(access) })
    })?;
    results.logins.push((access, rounds));
    Ok(())
}

fn encrypted(binaries: &Binaries, upstream: &Upstream, steps: &mut Steps<'_>, results: &mut Results) -> Result<()> {
    if !steps.begins("memory of idle clients over TLS") {
        return Ok(());
    }
    let mut bytes = [0.0; 3];
    for pooler in poolers(binaries, upstream)? {
        let client = Encrypted::new(pooler.directory(), pooler.address.port)?;
        let database = pooler.database(Transport::Tcp, FITTING);
        let connect = |count| (0..count).map(|_| client.connect(&database)).collect::<Result<Vec<_>>>();
        let _first = connect(ENCRYPTED_CLIENTS / 4)?;
        let before = resident(pooler.pid())?;
        let _more = connect(ENCRYPTED_CLIENTS)?;
        let grown = resident(pooler.pid())?.saturating_sub(before);
        bytes[pooler.subject.index()] = grown as f64 / ENCRYPTED_CLIENTS as f64;
    }
    results.encrypted = Some(bytes);
    Ok(())
}

/// The pooler's CPU time includes what the clients' connecting costs; pgbench's TPS and latencies don't.
fn pgbench_turn(pgbench: &Pgbench, run: Run<'_>) -> Result<Sample> {
    let pid = run.pooler.pid();
    let before = usage(pid)?;
    let outcome = pgbench.run(run)?;
    let used = usage(pid)? - before;
    let transactions = outcome.transactions as f64;
    Ok(Sample {
        transactions: outcome.transactions,
        seconds: transactions / outcome.tps,
        cpu: used.cpu.as_secs_f64() * 1e6 / transactions,
        p50: outcome.p50,
        p99: outcome.p99,
        switches: used.voluntary_switches as f64 / transactions,
    })
}
