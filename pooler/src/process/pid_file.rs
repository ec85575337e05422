//! The pid file: PgBouncer's, so that scripts find the process.

use std::io::Write;
use std::path::{Path, PathBuf};

/// The file; removed when dropped.
#[derive(Debug)]
pub struct PidFile(Option<PathBuf>);

impl PidFile {
    /// Makes it, if the configuration has one and no other process is alive behind it.
    pub fn create(path: &Path) -> Result<Self, String> {
        if path.as_os_str().is_empty() {
            return Ok(Self(None));
        }
        let shown = path.display();
        if path.exists() {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let stale = text.trim().parse::<u32>().is_ok_and(|pid| !Path::new(&format!("/proc/{pid}")).exists());
            if !stale {
                return Err(format!("pidfile '{shown}' exists, another instance running?"));
            }
            std::fs::remove_file(path).map_err(|error| format!("cannot remove stale pidfile '{shown}': {error}"))?;
        }
        write_new(path).map_err(|error| format!("cannot write pidfile '{shown}': {error}"))?;
        Ok(Self(Some(path.to_owned())))
    }

    /// Puts it in the place of the one that the process before has left to this one; there is one at every moment.
    pub fn take_over(path: &Path) -> Result<Self, String> {
        if path.as_os_str().is_empty() {
            return Ok(Self(None));
        }
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        // A leftover of a start that was cut short.
        let _ = std::fs::remove_file(&beside);
        write_new(&beside)
            .and_then(|()| std::fs::rename(&beside, path))
            .map_err(|error| format!("cannot write pidfile '{}': {error}", path.display()))?;
        Ok(Self(Some(path.to_owned())))
    }

    /// Leaves it to the process that takes over.
    pub fn leave(mut self) {
        self.0 = None;
    }
}

fn write_new(path: &Path) -> std::io::Result<()> {
    std::fs::File::create_new(path)?.write_all(format!("{}\n", std::process::id()).as_bytes())
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_process_keeps_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        let own = PidFile::create(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        assert!(PidFile::create(&path).unwrap_err().contains("another instance running?"));
        drop(own);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_file_is_replaced_and_an_unreadable_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        std::fs::write(&path, "4194999\n").unwrap();
        drop(PidFile::create(&path).unwrap());
        std::fs::write(&path, "").unwrap();
        assert!(PidFile::create(&path).is_err());
    }

    #[test]
    fn the_next_process_gets_the_file_and_keeps_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        let old = PidFile::create(&path).unwrap();
        let new = PidFile::take_over(&path).unwrap();
        old.leave();
        assert!(path.exists());
        drop(new);
        assert!(!path.exists());
    }
}
