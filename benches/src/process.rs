//! What a process has cost so far, read from /proc.

use std::fs;
use std::ops::Sub;
use std::time::Duration;

use crate::error::{BenchError, Result};

/// Counters of all threads of a process since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Time on a CPU, in user mode and in the kernel.
    pub cpu: Duration,
    /// Times that a thread went to sleep.
    pub voluntary_switches: u64,
}

impl Sub for Usage {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            voluntary_switches: self.voluntary_switches.saturating_sub(earlier.voluntary_switches),
        }
    }
}

/// Usage of process `pid`. A thread that has ended is not counted: poolers keep theirs.
pub fn usage(pid: u32) -> Result<Usage> {
    let tasks = format!("/proc/{pid}/task");
    let mut usage = Usage { cpu: Duration::ZERO, voluntary_switches: 0 };
    for task in fs::read_dir(&tasks).map_err(BenchError::io(&tasks))? {
        let task = task.map_err(BenchError::io(&tasks))?.path();
        // On-CPU time in ns, time in the run queue, slices: exact, where /proc/PID/stat counts ticks of 10 ms.
        let schedstat = fs::read_to_string(task.join("schedstat")).map_err(BenchError::path(&task))?;
        let on_cpu = schedstat.split(' ').next().and_then(|field| field.parse().ok());
        usage.cpu += Duration::from_nanos(on_cpu.ok_or_else(|| unreadable(pid, "schedstat"))?);
        let status = fs::read_to_string(task.join("status")).map_err(BenchError::path(&task))?;
        usage.voluntary_switches +=
            field(&status, "voluntary_ctxt_switches").ok_or_else(|| unreadable(pid, "voluntary_ctxt_switches"))?;
    }
    Ok(usage)
}

/// Resident memory of process `pid`, in bytes.
pub fn resident(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).map_err(BenchError::io(&path))?;
    field(&status, "VmRSS").map(|kilobytes| kilobytes * 1024).ok_or_else(|| unreadable(pid, "VmRSS"))
}

/// The number after `name:` in a status file.
fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

fn unreadable(pid: u32, what: &str) -> BenchError {
    BenchError::failed(format!("cannot read {what} of process {pid} from /proc"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_process_uses_cpu_time() {
        let before = usage(std::process::id()).unwrap();
        let busy = std::time::Instant::now();
        while busy.elapsed() < Duration::from_millis(30) {}
        let used = usage(std::process::id()).unwrap() - before;
        assert!(used.cpu >= Duration::from_millis(5), "{used:?}");
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let status = "nonvoluntary_ctxt_switches:\t9\nvoluntary_ctxt_switches:\t12\nVmRSS:\t  34 kB\n";
        assert_eq!(field(status, "voluntary_ctxt_switches"), Some(12));
        assert_eq!(field(status, "VmRSS"), Some(34));
        assert_eq!(field(status, "VmSwap"), None);
    }
}
