//! Where the run took place: without it, no figure means anything.

use std::fs;
use std::process::Command;

use crate::subject::Binaries;

/// One line each, in the order in which the report shows them.
pub fn describe(binaries: &Binaries, postgresql: &str) -> Vec<(&'static str, String)> {
    vec![
        ("Date", output(Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]))),
        ("CPU", format!("{}, {} cores", cpu_model(), cores())),
        ("Memory", memory()),
        ("Kernel", output(Command::new("uname").args(["-s", "-r", "-m"]))),
        ("PostgreSQL", postgresql.to_owned()),
        ("PgBouncer", output(Command::new(&binaries.pgbouncer).arg("-V"))),
        ("Sluice", output(Command::new(&binaries.sluice).arg("-V"))),
        ("Compiler", output(Command::new("rustc").arg("-V"))),
        ("Load, this run included", load_average()),
    ]
}

pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn cpu_model() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or_else(|| "unknown".to_owned(), |(_, model)| model.to_owned())
}

fn memory() -> String {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes: Option<u64> =
        info.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok());
    kilobytes.map_or_else(|| "unknown".to_owned(), |kilobytes| format!("{} GB", kilobytes / 1_000_000))
}

fn load_average() -> String {
    let averages = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let average = averages.split(' ').nth(2).unwrap_or("unknown");
    format!("{average} on average over 15 minutes (the run alone makes 2 to 3)")
}

/// The first line of what a program prints.
fn output(command: &mut Command) -> String {
    let output = command.output().ok().filter(|output| output.status.success());
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().next().map_or_else(|| "unknown".to_owned(), str::to_owned)
}
