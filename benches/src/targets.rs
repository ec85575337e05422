//! What the project wants to reach, and what CI holds it to.
//!
//! Targets are ratios to PgBouncer in the same round, and counts. They are reported, met or not. Gates are much looser: they
//! catch a mistake on the hot path on any machine, however busy.

use crate::fleet::{Backend, Transport};
use crate::load::Protocol;
use crate::rounds::{Rounds, Sample};
use crate::subject::Subject;
use crate::suite::{CROWD, FITTING, Results};

/// Which side of the limit is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    AtMost,
    AtLeast,
}

/// A figure and its limit.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    pub what: String,
    pub bound: Bound,
    pub limit: f64,
    /// `None`: not measured in this run.
    pub value: Option<f64>,
}

impl Target {
    fn at_most(what: impl Into<String>, limit: f64, value: Option<f64>) -> Self {
        Self { what: what.into(), bound: Bound::AtMost, limit, value }
    }

    fn at_least(what: impl Into<String>, limit: f64, value: Option<f64>) -> Self {
        Self { what: what.into(), bound: Bound::AtLeast, limit, value }
    }

    /// `None`: not measured.
    pub fn is_met(&self) -> Option<bool> {
        self.value.map(|value| match self.bound {
            Bound::AtMost => value <= self.limit,
            Bound::AtLeast => value >= self.limit,
        })
    }
}

/// A row of the table of CPU targets: the limits are for unix sockets and for TCP.
struct CpuTarget {
    what: &'static str,
    subject: Subject,
    backend: Backend,
    protocol: Protocol,
    clients: usize,
    limits: [f64; 2],
}

const fn cpu(
    what: &'static str,
    subject: Subject,
    backend: Backend,
    protocol: Protocol,
    clients: usize,
    limits: [f64; 2],
) -> CpuTarget {
    CpuTarget { what, subject, backend, protocol, clients, limits }
}

use Backend::{Canned, PostgreSql};
use Protocol::{Prepared, Simple};
use Subject::{Sharded, Unsharded};

const CPU_TARGETS: [CpuTarget; 8] = [
    cpu("pass-through, clients ≤ pool, canned backend", Unsharded, Canned, Simple, FITTING, [0.95, 0.97]),
    cpu("pass-through, clients ≤ pool, PostgreSQL", Unsharded, PostgreSql, Simple, FITTING, [0.95, 0.97]),
    cpu("pass-through, clients 5 × pool, canned backend", Unsharded, Canned, Simple, CROWD, [0.65, 0.80]),
    cpu("pass-through, clients 5 × pool, PostgreSQL", Unsharded, PostgreSql, Simple, CROWD, [0.80, 0.85]),
    cpu("routing on, clients ≤ pool, canned backend", Sharded, Canned, Simple, FITTING, [1.00, 1.00]),
    cpu("routing on, clients ≤ pool, PostgreSQL", Sharded, PostgreSql, Simple, FITTING, [1.00, 1.00]),
    cpu("routing on, clients 5 × pool, PostgreSQL", Sharded, PostgreSql, Simple, CROWD, [0.85, 0.85]),
    cpu("prepared, routing on, clients ≤ pool, PostgreSQL", Sharded, PostgreSql, Prepared, FITTING, [0.85, 0.85]),
];

/// All targets that this run can speak about.
pub fn targets(results: &Results) -> Vec<Target> {
    let mut targets = Vec::new();
    for row in &CPU_TARGETS {
        for (transport, limit) in Transport::ALL.into_iter().zip(row.limits) {
            let rounds = results.cell(row.backend, transport, row.protocol, row.clients);
            let ratio = rounds.map(|rounds| rounds.ratio(row.subject, |sample| sample.cpu).median);
            targets.push(Target::at_most(format!("CPU: {}, {}", row.what, transport.name()), limit, ratio));
        }
    }
    targets.extend(throughput(results));
    targets.extend(counts(results));
    targets
}

fn throughput(results: &Results) -> Vec<Target> {
    let tps = |backend, transport, clients| {
        let rounds = results.cell(backend, transport, Simple, clients);
        rounds.map(|rounds: &Rounds| rounds.ratio(Unsharded, Sample::tps).median)
    };
    let [unix, tcp] = Transport::ALL;
    vec![
        Target::at_least("TPS: clients 5 × pool, canned backend, unix", 1.8, tps(Canned, unix, CROWD)),
        Target::at_least("TPS: clients 5 × pool, canned backend, tcp", 1.3, tps(Canned, tcp, CROWD)),
        Target::at_least("TPS: clients 5 × pool, PostgreSQL, unix", 1.05, tps(PostgreSql, unix, CROWD)),
        Target::at_least("TPS: clients 5 × pool, PostgreSQL, tcp", 1.05, tps(PostgreSql, tcp, CROWD)),
    ]
}

fn counts(results: &Results) -> Vec<Target> {
    let bytes = |subject: Subject| results.memory.map(|memory| memory[subject.index()].connected);
    let mut targets = vec![
        Target::at_most("bytes per idle client, pass-through", 1300.0, bytes(Unsharded)),
        Target::at_most("bytes per idle client, routing on", 1300.0, bytes(Sharded)),
        Target::at_most(
            "bytes per idle client: ratio to PgBouncer",
            0.5,
            bytes(Unsharded).zip(bytes(Subject::PgBouncer)).map(|(ours, theirs)| ours / theirs),
        ),
    ];
    for (access, rounds) in &results.logins {
        let ratio = rounds.ratio(Unsharded, |sample| sample.cpu).median;
        let limit = if access.has_tls() { 0.55 } else { 1.0 };
        targets.push(Target::at_most(format!("CPU: login, {}", access.name()), limit, Some(ratio)));
    }
    let encrypted = results.encrypted.map(|bytes| bytes[Unsharded.index()]);
    targets.push(Target::at_most("bytes per idle client over TLS", 11_000.0, encrypted));
    for (transport, rounds) in results.paced.iter().filter(|(transport, _)| *transport == Transport::Unix) {
        let switches = rounds.min(Unsharded, |sample| sample.switches);
        let what = format!("voluntary context switches per transaction at a fixed rate, {}", transport.name());
        targets.push(Target::at_most(what, 2.0, Some(switches)));
    }
    for counts in &results.counts {
        let what = format!("system calls per transaction, {} clients, {}", counts.clients, counts.transport.name());
        targets.push(Target::at_most(what, 4.2, counts.syscalls[Unsharded.index()]));
    }
    targets
}

/// What no change may break. The best round counts: a busy machine makes rounds worse, never better.
pub fn gates(results: &Results) -> Vec<Target> {
    let cpu = |subject: Subject, clients| {
        let rounds = results.cell(Canned, Transport::Unix, Simple, clients);
        rounds.map(|rounds| rounds.ratio(subject, |sample| sample.cpu).min)
    };
    let mut gates = vec![
        Target::at_most("CPU: pass-through, clients ≤ pool, unix", 1.15, cpu(Unsharded, FITTING)),
        Target::at_most("CPU: routing on, clients ≤ pool, unix", 1.20, cpu(Sharded, FITTING)),
        Target::at_most("CPU: pass-through, clients 5 × pool, unix", 0.85, cpu(Unsharded, CROWD)),
        Target::at_most(
            "bytes per idle client",
            1300.0,
            results.memory.map(|memory| memory[Unsharded.index()].connected),
        ),
    ];
    let paced = results.paced.iter().find(|(transport, _)| *transport == Transport::Unix);
    let switches = paced.map(|(_, rounds)| rounds.min(Unsharded, |sample| sample.switches));
    gates.push(Target::at_most("voluntary context switches per transaction, unix", 2.5, switches));
    for counts in results.counts.iter().filter(|counts| counts.transport == Transport::Unix) {
        let what = format!("system calls per transaction, {} clients", counts.clients);
        gates.push(Target::at_most(what, 5.0, counts.syscalls[Unsharded.index()]));
    }
    gates
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_neither_met_nor_missed() {
        assert_eq!(Target::at_most("x", 1.0, None).is_met(), None);
        assert_eq!(Target::at_most("x", 1.0, Some(1.1)).is_met(), Some(false));
        assert_eq!(Target::at_least("x", 1.0, Some(1.1)).is_met(), Some(true));
        assert_eq!(Target::at_most("x", 1.0, Some(f64::NAN)).is_met(), Some(false), "no figure is no pass");
    }

    #[test]
    fn an_empty_run_meets_no_cpu_target() {
        let targets = targets(&Results::default());
        assert!(targets.iter().filter(|target| target.what.starts_with("CPU")).all(|target| target.is_met().is_none()));
    }
}
