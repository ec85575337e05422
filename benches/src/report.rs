//! The page: where it ran, what was measured, and which targets are met.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::fleet::Backend;
use crate::machine;
use crate::rounds::{Rounds, Sample};
use crate::subject::{Binaries, Subject};
use crate::suite::{Cell, Memory, Results, Scale};
use crate::targets::{Bound, Target, targets};

const METHOD: &str = "\
The same statement, `SELECT abalance FROM pgbench_accounts WHERE organization_id = …` with random keys, runs through
PgBouncer, through Sluice as a plain pooler, and through Sluice with routing to 16 shards. The poolers take turns, A B C
and then C B A, in every cell.

- **CPU** is the time on a processor of the pooler's process, in user mode and in the kernel, divided by transactions, in µs. The
  *ratio* is to PgBouncer in the same round: the median of all rounds, and in brackets the best.
- **Canned backend**: clients and servers are one thread of the benchmark, so that the pooler is the bottleneck. This is
  the steady measure. **PostgreSQL**: `pgbench --jobs 1`, real servers and the pooler share the cores, so that
  TPS is mostly theirs; CPU includes the connecting of the clients, TPS and latencies do not.
- Where other work shares the machine (see the load above), TPS and latencies say little: they are as unsteady as that work.
  The CPU ratios of the canned backend hold within a few percent all the same, the others within ten.
- *unix* and *tcp* are both hops of a run: client to pooler, and pooler to server. All logins but those of the last section are `trust`, and nothing is encrypted.
- Transaction mode, pools of 20 servers. The sharded database has a pool for each shard: 20 servers each where clients are at
  most 20 (none waits, as in the other pools), else 2 each, which makes 32 in all.
";

const PREPARED: &str = "- **Prepared**: both poolers rename statements (`max_prepared_statements = 200`).\n";

const NOT_PREPARED: &str = "\
- **Prepared**: this PgBouncer does not support prepared statements of the protocol in transaction mode (1.21 was the first
  that did). Sluice's prepared runs are compared with PgBouncer's extended ones; a newer one would have to rename
  statements as Sluice does. `side-by-side --pgbouncer PATH` compares with another PgBouncer.
";

/// The page in Markdown.
pub fn markdown(results: &Results, scale: &Scale, binaries: &Binaries, took: Duration) -> String {
    let mut page = String::from(
        "# Benchmarks\n\nWritten by `make bench`; changes are lost at the next run.\n\n## Where and when\n\n",
    );
    for (name, value) in machine::describe(binaries, &results.postgresql) {
        line(&mut page, format_args!("- {name}: {value}"));
    }
    line(&mut page, format_args!("- Duration: {} s", took.as_secs()));
    page.push_str("\n## How\n\n");
    page.push_str(METHOD);
    line(
        &mut page,
        format_args!(
            "- {} rounds of {} ms with the canned backend, {} rounds of {} s with pgbench.",
            scale.canned_rounds,
            scale.canned_turn.as_millis(),
            scale.pgbench_rounds,
            scale.pgbench_turn.as_secs()
        ),
    );
    page.push_str(if binaries.pgbouncer_prepares { PREPARED } else { NOT_PREPARED });
    page.push_str("\n## Targets\n\nRatios are to PgBouncer.\n\n");
    target_table(&mut page, &targets(results));
    page.push_str("\nCached results have targets, too; they are not part of this version.\n");
    for (backend, title) in [(Backend::Canned, "Canned backend"), (Backend::PostgreSql, "PostgreSQL and pgbench")] {
        line(&mut page, format_args!("\n## {title}\n"));
        cell_table(&mut page, results.cells.iter().filter(|cell| cell.backend == backend));
    }
    paced_table(&mut page, results, scale);
    idle_table(&mut page, results, scale);
    login_tables(&mut page, results);
    criterion_table(&mut page, &criterion_directory());
    page
}

fn line(page: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string can't fail.
    let _ = writeln!(page, "{text}");
}

/// As a table in the page, and on the terminal.
pub fn target_table(page: &mut String, targets: &[Target]) {
    page.push_str("| | target | measured | |\n| --- | --- | --- | --- |\n");
    for target in targets {
        let sign = match target.bound {
            Bound::AtMost => "≤",
            Bound::AtLeast => "≥",
        };
        let value = target.value.map_or_else(|| "–".to_owned(), number);
        let verdict = match target.is_met() {
            Some(true) => "met",
            Some(false) => "**not met**",
            None => "not measured",
        };
        line(page, format_args!("| {} | {sign} {} | {value} | {verdict} |", target.what, number(target.limit)));
    }
}

fn cell_table<'a>(page: &mut String, cells: impl Iterator<Item = &'a Cell>) {
    page.push_str("| transport, protocol, clients | | CPU µs | ratio (best) | TPS | ratio | p50 ms | p99 ms |\n");
    page.push_str("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n");
    for cell in cells {
        let name = format!("{}, {}, {}", cell.transport.name(), cell.protocol.name(), cell.clients);
        for subject in Subject::ALL {
            let name = if subject == Subject::PgBouncer { &name } else { "" };
            line(page, format_args!("| {name} | {} |{}", subject.name(), columns(&cell.rounds, subject)));
        }
    }
}

fn columns(rounds: &Rounds, subject: Subject) -> String {
    let cpu = rounds.ratio(subject, |sample| sample.cpu);
    let median = |of: fn(&Sample) -> f64| rounds.median(subject, of);
    let (cpu_ratio, tps_ratio) = match subject {
        Subject::PgBouncer => ("1".to_owned(), "1".to_owned()),
        _ => {
            (format!("{:.2} ({:.2})", cpu.median, cpu.min), format!("{:.2}", rounds.ratio(subject, Sample::tps).median))
        }
    };
    format!(
        " {:.1} | {cpu_ratio} | {:.0} | {tps_ratio} | {:.3} | {:.3} |",
        median(|sample| sample.cpu),
        median(Sample::tps),
        median(|sample| sample.p50) / 1e3,
        median(|sample| sample.p99) / 1e3,
    )
}

fn paced_table(page: &mut String, results: &Results, scale: &Scale) {
    line(page, format_args!("\n## At a fixed rate of {} transactions a second, and system calls\n", scale.rate));
    page.push_str("Canned backend, simple protocol. CPU and context switches: the best round with 100 clients, because at partial\n");
    page.push_str(
        "load both depend on where the kernel places the threads. System calls: counted by strace at full speed.\n\n",
    );
    page.push_str(
        "| transport | | CPU µs | voluntary switches per transaction | system calls: 20 clients | 100 clients |\n",
    );
    page.push_str("| --- | --- | ---: | ---: | ---: | ---: |\n");
    for (transport, rounds) in &results.paced {
        for subject in Subject::ALL {
            let of_transport = results.counts.iter().filter(|counts| counts.transport == *transport);
            let syscalls: Vec<String> = of_transport
                .map(|counts| counts.syscalls[subject.index()].map_or_else(|| "–".to_owned(), number))
                .collect();
            let (cpu, switches) =
                (rounds.min(subject, |sample| sample.cpu), rounds.min(subject, |sample| sample.switches));
            let name = if subject == Subject::PgBouncer { transport.name() } else { "" };
            line(
                page,
                format_args!("| {name} | {} | {cpu:.1} | {switches:.2} | {} |", subject.name(), syscalls.join(" | ")),
            );
        }
    }
}

fn idle_table(page: &mut String, results: &Results, scale: &Scale) {
    let Some(memory) = results.memory else { return };
    line(page, format_args!("\n## Memory of {} idle clients\n", scale.idle_clients));
    page.push_str(
        "Growth of resident memory from 1,000 clients on, over unix sockets: after the logins, and after all of them\n",
    );
    page.push_str("have sent a query at the same moment and have their answers.\n\n");
    page.push_str("| | bytes per client | ratio | after the queries | ratio |\n| --- | ---: | ---: | ---: | ---: |\n");
    let base = memory[Subject::PgBouncer.index()];
    for subject in Subject::ALL {
        let Memory { connected, after_crowd } = memory[subject.index()];
        let (ratio, after_ratio) = (connected / base.connected, after_crowd / base.after_crowd);
        let name = subject.name();
        line(page, format_args!("| {name} | {connected:.0} | {ratio:.2} | {after_crowd:.0} | {after_ratio:.2} |"));
    }
}

fn login_tables(page: &mut String, results: &Results) {
    if !results.logins.is_empty() {
        page.push_str("\n## Logins\n\n`pgbench --connect` by TCP: each transaction is a connection, a login and one query. Servers stay.\n\n");
        page.push_str("| login | | CPU µs | ratio (best) | per second | ratio | p50 ms | p99 ms |\n");
        page.push_str("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n");
    }
    for (access, rounds) in &results.logins {
        for subject in Subject::ALL {
            let name = if subject == Subject::PgBouncer { access.name() } else { "" };
            line(page, format_args!("| {name} | {} |{}", subject.name(), columns(rounds, subject)));
        }
    }
    if let Some(bytes) = results.encrypted {
        page.push_str("\n## Idle clients over TLS\n\n| | bytes per client | ratio |\n| --- | ---: | ---: |\n");
        for subject in Subject::ALL {
            let (own, base) = (bytes[subject.index()], bytes[Subject::PgBouncer.index()]);
            line(page, format_args!("| {} | {own:.0} | {:.2} |", subject.name(), own / base));
        }
    }
}

/// Times of the parts, if `cargo bench` has measured them.
fn criterion_table(page: &mut String, directory: &Path) {
    let mut parts = Vec::new();
    collect_estimates(directory, directory, &mut parts);
    parts.sort();
    if parts.is_empty() {
        return;
    }
    page.push_str("\n## Parts (criterion)\n\n| | ns |\n| --- | ---: |\n");
    for (name, nanoseconds) in parts {
        line(page, format_args!("| {name} | {nanoseconds} |"));
    }
}

/// Where criterion writes: beside the profile's directory that this program runs from.
fn criterion_directory() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    own.parent().and_then(Path::parent).unwrap_or(Path::new("target")).join("criterion")
}

/// Finds `NAME/new/estimates.json` at any depth: the mean's point estimate, in ns.
fn collect_estimates(root: &Path, directory: &Path, parts: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect_estimates(root, &path, parts);
        } else if path.ends_with("new/estimates.json")
            && let Some(name) = path.parent().and_then(Path::parent).and_then(|path| path.strip_prefix(root).ok())
            && let Some(mean) = fs::read(&path).ok().and_then(|text| mean_of(&text))
        {
            parts.push((name.display().to_string(), number(mean)));
        }
    }
}

fn mean_of(estimates: &[u8]) -> Option<f64> {
    let estimates: serde_json::Value = serde_json::from_slice(estimates).ok()?;
    estimates["mean"]["point_estimate"].as_f64()
}

/// Three digits that count.
fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        medium if medium >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
