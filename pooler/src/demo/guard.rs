//! A small process that outlives the demo by a moment: it stops the servers and removes the directory.
//!
//! It waits for the end of a pipe that only the demo holds, and the kernel closes that pipe however the demo ends: by
//! Ctrl-C, an error, a panic, or `kill -9`. So there is one way of cleaning up, and it is always the same one.

use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};

use super::DemoError;
use super::programs::Programs;

/// $1 pg_ctl, $2 the directory, $3 `keep` or `remove`. A program that was killed a moment ago may still write into the
/// directory, hence the repeated removal.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
cat >/dev/null
if [ "$3" = keep ]; then mode=fast; else mode=immediate; fi
for data in "$2/replica" "$2/primary"; do
  if [ -f "$data/postmaster.pid" ]; then
    "$1" stop -s -w -t 30 -D "$data" -m "$mode" || "$1" stop -s -w -D "$data" -m immediate
  fi
done
if [ "$3" = remove ]; then
  for attempt in 1 2 3 4 5 6 7 8 9 10; do
    rm -rf "$2" && break
    sleep 0.2
  done
fi
"#;

/// Dropping it cleans up, and waits until that is done.
#[derive(Debug)]
pub struct Guard {
    process: Child,
    /// The pipe that the guard reads; taken when it has to act.
    alive: Option<ChildStdin>,
}

impl Guard {
    /// Watches over the servers in `directory`/primary and `directory`/replica, which need not exist yet.
    pub fn watch(programs: &Programs, directory: &Path, keep: bool) -> Result<Self, DemoError> {
        let mut process = programs
            .as_user("sh")
            .args(["-c", SCRIPT, "sluice-demo-guard"])
            .arg(programs.bindir().join("pg_ctl"))
            .arg(directory)
            .arg(if keep { "keep" } else { "remove" })
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(DemoError::io("cannot run sh"))?;
        let alive = process.stdin.take();
        Ok(Self { process, alive })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.alive.take());
        // A destructor can't do better than to go on if the wait fails.
        let _ = self.process.wait();
    }
}
