//! Finds PostgreSQL's programs and runs them as somebody whom PostgreSQL accepts: it refuses to run as root.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// PostgreSQL's programs, and the user that runs them.
#[derive(Debug, Clone)]
pub struct Programs {
    bindir: PathBuf,
    /// User and group to become, if this process is root.
    run_as: Option<(u32, u32)>,
}

impl Programs {
    /// Looks in `PG_BINDIR`, then asks `pg_config`, then takes the newest of Debian's `/usr/lib/postgresql/*/bin`.
    ///
    /// # Panics
    /// If there is no `initdb` in any of them, or if this is root and there is no user `postgres`.
    pub fn find() -> Self {
        let bindir = from_environment()
            .or_else(from_pg_config)
            .or_else(newest_of_debian)
            .expect("no PostgreSQL server programs found: install postgresql, or set PG_BINDIR");
        Self { bindir, run_as: unprivileged_user() }
    }

    pub fn path(&self, program: &str) -> PathBuf {
        self.bindir.join(program)
    }

    /// Gives `path` to the user that runs the programs.
    pub fn give(&self, path: &Path) {
        if let Some((uid, gid)) = self.run_as {
            std::os::unix::fs::chown(path, Some(uid), Some(gid)).expect("chown of the cluster's directory");
        }
    }

    /// One of PostgreSQL's programs, ready to run as the right user and in English.
    pub fn command(&self, program: &str) -> Command {
        self.as_user(self.path(program))
    }

    /// Any program as the user that runs PostgreSQL. The working directory is one that every user may enter.
    pub fn as_user(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir("/").env("LC_ALL", "C");
        if let Some((uid, gid)) = self.run_as {
            command.uid(uid).gid(gid);
        }
        command
    }
}

/// Runs a command to its end and returns what it printed; what it complained about is the error.
pub fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("cannot run {:?}: {error}", command.get_program()))?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    if output.status.success() {
        return Ok(stdout.trim_end_matches('\n').to_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(format!("{:?}: {}\n{stdout}{stderr}", command.get_program(), output.status))
}

fn has_server(bindir: &Path) -> bool {
    bindir.join("initdb").exists()
}

fn from_environment() -> Option<PathBuf> {
    std::env::var_os("PG_BINDIR").map(PathBuf::from).filter(|bindir| has_server(bindir))
}

/// pg_config may belong to a client-only installation, so its answer counts only if a server is there.
fn from_pg_config() -> Option<PathBuf> {
    run(Command::new("pg_config").arg("--bindir")).ok().map(PathBuf::from).filter(|bindir| has_server(bindir))
}

fn newest_of_debian() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    versions
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version: u32 = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .filter(|(_, bindir)| has_server(bindir))
        .max()
        .map(|(_, bindir)| bindir)
}

fn unprivileged_user() -> Option<(u32, u32)> {
    let own_uid = fs::metadata("/proc/self").expect("/proc").uid();
    if own_uid != 0 {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").expect("/etc/passwd");
    let user = passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        match fields[..] {
            ["postgres", _, uid, gid, ..] => Some((uid.parse().ok()?, gid.parse().ok()?)),
            _ => None,
        }
    });
    Some(user.expect("PostgreSQL does not run as root, and there is no user postgres to run it as"))
}
