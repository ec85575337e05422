//! Going to the background (`-d`).
//!
//! A safe program can't fork, so this one starts itself again, in a session of its own, waits until that process serves, and
//! leaves. So, unlike with PgBouncer, the exit status says whether it does, and its mistakes are seen on the terminal.

use std::fs::File;
use std::io::{self, Read, Write};
use std::process::{Command, Stdio};

/// Set for the process in the background.
const MARK: &str = "SLUICE_IN_BACKGROUND";
/// What it says on its standard output when it serves.
const SERVING: &[u8] = b"serving\n";

/// Starts the process in the background; returns when it serves.
pub fn launch() -> Result<(), String> {
    let failed = |error: io::Error| format!("cannot go to the background: {error}");
    let program = std::env::current_exe().map_err(failed)?;
    let mut child = Command::new(program)
        .args(std::env::args_os().skip(1))
        .env(MARK, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut said = Vec::new();
    if let Some(mut output) = child.stdout.take() {
        output.read_to_end(&mut said).map_err(failed)?;
    }
    if said == SERVING { Ok(()) } else { Err("the process in the background has not started".to_owned()) }
}

/// Whether this is the process in the background.
pub fn is_launched() -> bool {
    std::env::var_os(MARK).is_some()
}

/// Leaves the terminal's session.
pub fn detach() -> Result<(), String> {
    rustix::process::setsid().map(drop).map_err(|error| format!("cannot leave the session: {error}"))
}

/// Lets the process that launched this one go, and lets go of the terminal.
pub fn serving() -> io::Result<()> {
    let mut output = io::stdout();
    output.write_all(SERVING)?;
    output.flush()?;
    let nowhere = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&nowhere)?;
    rustix::stdio::dup2_stderr(&nowhere)?;
    Ok(())
}
