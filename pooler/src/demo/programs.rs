//! PostgreSQL's programs: where they are, and as whom they run (the server refuses to run as root).

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::DemoError;

/// All that the demo runs. A directory without one of them is passed over.
const NEEDED: [&str; 4] = ["initdb", "postgres", "pg_ctl", "pg_basebackup"];

/// Nothing in Sluice depends on a later version.
const OLDEST: u32 = 15;

#[derive(Debug, Clone)]
pub struct Programs {
    bindir: PathBuf,
    version: String,
    user: Option<User>,
}

/// Whom to become when this process is root.
#[derive(Debug, Clone)]
struct User {
    name: &'static str,
    uid: u32,
    gid: u32,
}

impl Programs {
    /// Looks in `PG_BINDIR` (and nowhere else if that is set), asks `pg_config`, then looks along `PATH` and where Debian
    /// and Red Hat packages install, newest version first.
    pub fn find() -> Result<Self, DemoError> {
        let candidates = candidates();
        let bindir = candidates.iter().find(|bindir| is_complete(bindir)).cloned().ok_or_else(|| {
            let looked_in = candidates.iter().map(|bindir| bindir.display().to_string()).collect::<Vec<_>>();
            DemoError::NoPrograms { looked_in: looked_in.join(", ") }
        })?;
        let version = version_of(&bindir)?;
        if major(&version).is_none_or(|major| major < OLDEST) {
            return Err(DemoError::OldPostgres { bindir, found: version });
        }
        Ok(Self { bindir, version, user: unprivileged_user()? })
    }

    pub fn bindir(&self) -> &Path {
        &self.bindir
    }

    /// As the server prints it: `15.18`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// What a data directory's PG_VERSION holds: `15`.
    pub fn major_version(&self) -> String {
        major(&self.version).map(|major| major.to_string()).unwrap_or_default()
    }

    /// The user that the programs run as, if not our own.
    pub fn user(&self) -> Option<&'static str> {
        self.user.as_ref().map(|user| user.name)
    }

    /// Gives `path` to the user that runs the programs.
    pub fn give(&self, path: &Path) -> Result<(), DemoError> {
        match &self.user {
            Some(user) => chown(path, Some(user.uid), Some(user.gid)).map_err(DemoError::path(path)),
            None => Ok(()),
        }
    }

    /// One of PostgreSQL's programs, to run as the right user.
    pub fn command(&self, program: &str) -> Command {
        self.as_user(self.bindir.join(program))
    }

    /// Any program as the user that runs PostgreSQL: in English, in a directory that everybody may enter, without the PG…
    /// variables by which the caller's own PostgreSQL would be meant, and out of reach of the terminal's Ctrl-C, which
    /// would make it fail while we clean up.
    pub fn as_user(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir("/").env("LC_ALL", "C").process_group(0);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
            command.env_remove(name);
        }
        if let Some(user) = &self.user {
            command.uid(user.uid).gid(user.gid);
        }
        command
    }
}

/// Runs a program to its end; if the future is dropped before, the program is killed.
pub async fn finish(command: Command) -> Result<(), DemoError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = tokio::process::Command::from(command).kill_on_drop(true).output().await;
    let output = output.map_err(DemoError::io(format!("cannot run {program}")))?;
    if output.status.success() { Ok(()) } else { Err(failure(program, &output)) }
}

fn failure(program: String, output: &Output) -> DemoError {
    let said = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    let output_lines = said.iter().flat_map(|text| text.lines()).filter(|line| !line.trim().is_empty());
    let output_text = output_lines.collect::<Vec<_>>().join("\n");
    DemoError::Program { program, status: output.status.to_string(), output: output_text }
}

/// Standard output of a small program, or nothing if there is none.
fn ask(program: impl AsRef<OsStr>, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn candidates() -> Vec<PathBuf> {
    if let Some(chosen) = std::env::var_os("PG_BINDIR") {
        return vec![chosen.into()];
    }
    // Several packages put only links to some programs on PATH: the programs' own directory is what counts.
    let on_path =
        std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect::<Vec<_>>()).unwrap_or_default();
    let on_path = on_path.iter().filter_map(|dir| dir.join("initdb").canonicalize().ok()?.parent().map(Path::to_owned));
    let mut all: Vec<PathBuf> = ask("pg_config", &["--bindir"]).map(PathBuf::from).into_iter().collect();
    all.extend(on_path);
    all.extend(versions_in(Path::new("/usr/lib/postgresql"), ""));
    all.extend(versions_in(Path::new("/usr"), "pgsql-"));
    all
}

/// `parent/<prefix><version>/bin`, newest first.
fn versions_in(parent: &Path, prefix: &str) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let by_version: BTreeMap<u32, PathBuf> = entries
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    by_version.into_values().rev()
}

fn is_complete(bindir: &Path) -> bool {
    NEEDED.iter().all(|program| bindir.join(program).exists())
}

fn version_of(bindir: &Path) -> Result<String, DemoError> {
    // "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"
    let printed = ask(bindir.join("postgres"), &["--version"]).unwrap_or_default();
    let version = printed.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    version
        .map(str::to_owned)
        .ok_or_else(|| DemoError::OldPostgres { bindir: bindir.to_owned(), found: format!("unknown (\"{printed}\")") })
}

fn major(version: &str) -> Option<u32> {
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn unprivileged_user() -> Result<Option<User>, DemoError> {
    if ask("id", &["-u"]).as_deref() != Some("0") {
        return Ok(None);
    }
    let known = ["postgres", "nobody"].into_iter().find_map(|name| {
        let uid = ask("id", &["-u", name])?.parse().ok()?;
        let gid = ask("id", &["-g", name])?.parse().ok()?;
        Some(User { name, uid, gid })
    });
    known.map(Some).ok_or(DemoError::NoUser)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn major_version_of_all_spellings() {
        assert_eq!(major("15.18"), Some(15));
        assert_eq!(major("17devel"), Some(17));
        assert_eq!(major("18beta2"), Some(18));
        assert_eq!(major("devel"), None);
    }

    #[test]
    fn newest_version_comes_first_and_other_names_are_passed_over() {
        let parent = tempfile::tempdir().unwrap();
        for name in ["pgsql-9", "pgsql-15", "pgsql-17", "pgsql-x", "lib"] {
            fs::create_dir(parent.path().join(name)).unwrap();
        }
        let found: Vec<_> = versions_in(parent.path(), "pgsql-").collect();
        let expected: Vec<_> =
            ["pgsql-17", "pgsql-15", "pgsql-9"].iter().map(|n| parent.path().join(n).join("bin")).collect();
        assert_eq!(found, expected);
    }

    #[tokio::test]
    async fn failing_program_shows_what_it_said() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two >&2; exit 3"]);
        let error = finish(command).await.unwrap_err().to_string();
        assert_eq!(error, "sh failed (exit status: 3):\none\ntwo");
    }
}
