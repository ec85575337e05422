//! A small process that outlives the test by one breath: it stops the server and removes the directory.
//!
//! A destructor alone is not enough, because a test that is killed (a deadline, Ctrl-C, an abort) runs none. The guardian
//! waits for the end of a pipe that only the test's process holds; the kernel closes it however that process ends.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};

use crate::programs::Programs;

const SCRIPT: &str = r#"
trap '' INT TERM HUP
read -r _
"$1" --pgdata "$2/data" --mode immediate --wait stop
rm -rf "$2"
"#;

/// Dropping it stops the server of one directory, removes the directory, and waits for that.
#[derive(Debug)]
pub struct Guardian {
    process: Child,
    /// What the guardian waits on; taken when it has to act.
    alive: Option<ChildStdin>,
}

impl Guardian {
    /// `directory` holds the cluster in `data`, which need not exist yet.
    pub fn watch(programs: &Programs, directory: &Path) -> Self {
        let mut process = programs
            .as_user("sh")
            .args(["-c", SCRIPT, "guardian"])
            .arg(programs.path("pg_ctl"))
            .arg(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Its own group: a signal to the test's group must not take the guardian along.
            .process_group(0)
            .spawn()
            .expect("cannot start the cluster's guardian");
        let alive = process.stdin.take();
        Self { process, alive }
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        drop(self.alive.take());
        // Nothing better can be done in a destructor than to go on if the wait fails.
        let _ = self.process.wait();
    }
}
