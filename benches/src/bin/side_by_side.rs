//! `side-by-side [--quick] [--out FILE]`: PgBouncer, Sluice, and Sluice with routing on, in turn.
//!
//! The quick run also checks the gates, and fails if one is broken.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sluice_benches::error::{BenchError, Result};
use sluice_benches::report::{markdown, target_table};
use sluice_benches::subject::Binaries;
use sluice_benches::suite::{self, Scale};
use sluice_benches::targets::gates;

/// What a query costs in Sluice, beside PgBouncer on the same machine
#[derive(Parser)]
struct Args {
    /// A minute instead of twenty: fewer cells, shorter runs, and a failure if a gate is broken
    #[arg(long)]
    quick: bool,
    /// Where to write the page; default: stdout
    #[arg(long)]
    out: Option<PathBuf>,
    /// The pooler to measure; default: the one that was built beside this program
    #[arg(long)]
    sluice: Option<PathBuf>,
    /// The PgBouncer to compare with; default: Debian's, or the one in PATH
    #[arg(long)]
    pgbouncer: Option<PathBuf>,
    /// Measure only what has this in its name, such as "canned backend, unix, simple" or "memory"
    #[arg(long, default_value = "")]
    only: String,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("side-by-side: {error}");
            ExitCode::FAILURE
        }
    }
}

/// False: a gate is broken.
fn run(args: &Args) -> Result<bool> {
    let binaries = Binaries::find(args.sluice.clone(), args.pgbouncer.clone())?;
    let mut scale = if args.quick { Scale::quick() } else { Scale::full() };
    scale.only.clone_from(&args.only);
    raise_file_limit(scale.idle_clients as u64 + 1000)?;
    let start = Instant::now();
    let results =
        suite::run(&binaries, &scale, &mut |step| eprintln!("{:6.1} s  {step}", start.elapsed().as_secs_f64()))?;
    let page = markdown(&results, &scale, &binaries, start.elapsed());
    match &args.out {
        Some(path) => std::fs::write(path, page).map_err(BenchError::path(path))?,
        None => print!("{page}"),
    }
    if !args.quick || !args.only.is_empty() {
        return Ok(true);
    }
    let gates = gates(&results);
    let mut table = String::new();
    target_table(&mut table, &gates);
    eprintln!("\nGates:\n{table}");
    Ok(gates.iter().all(|gate| gate.is_met() != Some(false)))
}

/// Files that a process may have open: for our clients, and inherited by the poolers for theirs.
fn raise_file_limit(needed: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.maximum.is_some_and(|maximum| maximum < needed) {
        let hint = "HINT: raise the hard limit, or try --quick";
        return Err(BenchError::failed(format!("this run needs {needed} open files (ulimit -Hn)\n{hint}")));
    }
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised)
        .map_err(|error| BenchError::io("cannot raise the limit of open files")(error.into()))
}
