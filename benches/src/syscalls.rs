//! System calls per transaction, counted by strace where it is installed and allowed.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::error::{BenchError, Result};

/// A strace that is attached to a pooler, and counts.
#[derive(Debug)]
pub struct Trace {
    strace: Child,
    summary: tempfile::NamedTempFile,
}

impl Trace {
    /// Attaches to `pid`; none if strace isn't there or may not.
    pub fn attach(pid: u32) -> Result<Option<Self>> {
        let summary = tempfile::NamedTempFile::new().map_err(BenchError::io("a file for strace"))?;
        let mut command = Command::new("strace");
        command.args(["-c", "-f", "-q", "-p", &pid.to_string(), "-o"]).arg(summary.path());
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let Ok(strace) = spawned else { return Ok(None) };
        let mut trace = Self { strace, summary };
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(5) {
            if is_traced(pid) {
                return Ok(Some(trace));
            }
            if trace.strace.try_wait().map_err(BenchError::io("strace"))?.is_some() {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(None)
    }

    /// Detaches, and returns the number of calls that were counted.
    pub fn finish(mut self) -> Result<u64> {
        interrupt(&self.strace)?;
        self.strace.wait().map_err(BenchError::io("strace"))?;
        let summary = fs::read_to_string(self.summary.path()).map_err(BenchError::path(self.summary.path()))?;
        total_calls(&summary).ok_or_else(|| BenchError::failed(format!("cannot read what strace says:\n{summary}")))
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // It would hold the pooler for ever. After `finish` it is gone already.
        if let Ok(None) = self.strace.try_wait() {
            let _ = interrupt(&self.strace);
            let _ = self.strace.wait();
        }
    }
}

fn interrupt(process: &Child) -> Result<()> {
    let pid = i32::try_from(process.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| BenchError::failed("strace has no process id"))?;
    kill_process(pid, Signal::INT).map_err(|error| BenchError::io("cannot stop strace")(error.into()))
}

/// All of the process's threads have a tracer.
fn is_traced(pid: u32) -> bool {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    tasks.flatten().all(|task| {
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|tracer| tracer.trim() != "0"))
    })
}

/// The calls in the summary's last line: percent, seconds, µs per call, calls, errors (may be missing), "total".
fn total_calls(summary: &str) -> Option<u64> {
    let total = summary.lines().rev().find(|line| line.trim_end().ends_with("total"))?;
    total.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_read_with_and_without_errors() {
        let head = "% time     seconds  usecs/call     calls    errors syscall\n";
        let line = |errors| format!("{head}100.00    0.074130           1     40521 {errors:>9} total\n");
        assert_eq!(total_calls(&line("17")), Some(40521));
        assert_eq!(total_calls(&line("")), Some(40521));
        assert_eq!(total_calls("strace: nothing\n"), None);
    }
}
