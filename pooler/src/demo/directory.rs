//! The demo's directory: temporary, or kept from one start to the next (`--keep`). It remembers passwords and whether the
//! data was loaded, and belongs to one demo at a time.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::DemoError;
use super::guard::Guard;
use super::programs::Programs;

/// Its presence is also the proof that a directory is ours, and may be cleared.
const STATE_FILE: &str = "demo.json";
/// A unix socket's path has to fit into 107 bytes; this is the longest that follows the directory's.
const LONGEST_SOCKET: &str = "/postgresql/.s.PGSQL.65535";

/// What a kept directory has to remember.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    pub app_password: String,
    pub admin_password: String,
    pub scale: f64,
    /// Everything was loaded and verified: the next start only starts the servers.
    pub loaded: bool,
}

impl State {
    fn new(scale: f64) -> Self {
        Self { app_password: new_password(), admin_password: new_password(), scale, loaded: false }
    }
}

/// While this lives, so may servers; when it is dropped, they are stopped, and a temporary directory is removed.
#[derive(Debug)]
pub struct DemoDirectory {
    path: PathBuf,
    kept: bool,
    state: State,
    /// Before the lock, so that the lock is given up only after the servers have stopped.
    _guard: Guard,
    _lock: File,
}

impl DemoDirectory {
    /// A new temporary directory, or the one to keep (new, or from an earlier start, whose scale then stays).
    pub fn open(programs: &Programs, keep: Option<&Path>, scale: f64) -> Result<Self, DemoError> {
        let path = match keep {
            Some(path) => std::path::absolute(path).map_err(DemoError::path(path))?,
            None => std::env::temp_dir().join(format!("sluice-demo-{:08x}", rand::random::<u32>())),
        };
        let fits = path.as_os_str().len() + LONGEST_SOCKET.len() <= 107;
        if !fits {
            return Err(DemoError::LongPath(path));
        }
        make_directory(&path)?;
        let old_state = read_state(&path)?;
        let lock = lock(&path)?;
        // Others may pass through to the pooler's socket, but can't list the directory.
        set_mode(&path, 0o711)?;
        programs.give(&path)?;
        check_enterable(programs, &path)?;
        let guard = Guard::watch(programs, &path, keep.is_some())?;
        let state = old_state.unwrap_or_else(|| State::new(scale));
        let directory = Self { path, kept: keep.is_some(), state, _guard: guard, _lock: lock };
        directory.prepare(programs)?;
        Ok(directory)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn is_kept(&self) -> bool {
        self.kept
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    pub fn primary(&self) -> PathBuf {
        self.path.join("primary")
    }

    pub fn replica(&self) -> PathBuf {
        self.path.join("replica")
    }

    /// Where the PostgreSQL servers put their sockets.
    pub fn postgresql_sockets(&self) -> PathBuf {
        self.path.join("postgresql")
    }

    pub fn mark_loaded(&mut self) -> Result<(), DemoError> {
        self.state.loaded = true;
        self.save_state()
    }

    /// Writes a file that only we (and root) may read.
    pub fn write_private(&self, name: &str, content: &str) -> Result<PathBuf, DemoError> {
        let path = self.path.join(name);
        let write = || {
            let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&path)?;
            file.write_all(content.as_bytes())
        };
        write().map_err(DemoError::path(&path))?;
        Ok(path)
    }

    /// Removes what an interrupted first start left, and makes what the servers and the pooler need.
    fn prepare(&self, programs: &Programs) -> Result<(), DemoError> {
        if self.state.loaded {
            self.check_version(programs)?;
        } else {
            remove(&self.primary())?;
            remove(&self.path.join("state"))?;
        }
        // The replica is copied anew at every start: that takes a second, and it can't have fallen behind.
        remove(&self.replica())?;
        for name in ["postgresql", "state"] {
            make_directory(&self.path.join(name))?;
            set_mode(&self.path.join(name), 0o700)?;
            programs.give(&self.path.join(name))?;
        }
        self.save_state()
    }

    fn check_version(&self, programs: &Programs) -> Result<(), DemoError> {
        let file = self.primary().join("PG_VERSION");
        let made_by = fs::read_to_string(&file).map_err(DemoError::path(&file))?.trim().to_owned();
        let found = programs.major_version();
        if made_by == found {
            return Ok(());
        }
        Err(DemoError::OtherVersion { path: self.path.clone(), made_by, found })
    }

    fn save_state(&self) -> Result<(), DemoError> {
        let json = serde_json::to_string_pretty(&self.state).map_err(std::io::Error::from);
        self.write_private(STATE_FILE, &json.map_err(DemoError::path(&self.path))?).map(drop)
    }
}

/// None for a new (or empty) directory; an error if somebody else's files are there.
fn read_state(path: &Path) -> Result<Option<State>, DemoError> {
    let file = path.join(STATE_FILE);
    match fs::read_to_string(&file) {
        Ok(json) => serde_json::from_str(&json).map(Some).map_err(|error| DemoError::path(&file)(error.into())),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let is_empty = fs::read_dir(path).map_err(DemoError::path(path))?.next().is_none();
            if is_empty { Ok(None) } else { Err(DemoError::ForeignDirectory(path.to_owned())) }
        }
        Err(error) => Err(DemoError::path(&file)(error)),
    }
}

fn lock(path: &Path) -> Result<File, DemoError> {
    let file = File::open(path).map_err(DemoError::path(path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(DemoError::DirectoryInUse(path.to_owned())),
        Err(TryLockError::Error(error)) => Err(DemoError::path(path)(error)),
    }
}

/// Root may make a directory where the user who runs PostgreSQL can't follow, such as below /root.
fn check_enterable(programs: &Programs, path: &Path) -> Result<(), DemoError> {
    let Some(user) = programs.user() else { return Ok(()) };
    let entered = programs.as_user("test").arg("-w").arg(path).status().map_err(DemoError::io("cannot run test"))?;
    if entered.success() {
        return Ok(());
    }
    let error = DemoError::NotEnterable { path: path.to_owned(), user: user.to_owned() };
    // Not ours to keep: nothing was put into it yet. If it can't be removed, the message above says more.
    let _ = fs::remove_dir(path);
    Err(error)
}

fn make_directory(path: &Path) -> Result<(), DemoError> {
    fs::create_dir_all(path).map_err(DemoError::path(path))
}

fn set_mode(path: &Path, mode: u32) -> Result<(), DemoError> {
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(DemoError::path(path))
}

fn remove(path: &Path) -> Result<(), DemoError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(DemoError::path(path)(error)),
        _ => Ok(()),
    }
}

/// 96 random bits, in characters that need quoting neither in a URL nor in SQL nor in an ini file.
fn new_password() -> String {
    let bytes: [u8; 12] = rand::random();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(keep: &Path) -> Result<DemoDirectory, DemoError> {
        DemoDirectory::open(&Programs::find().unwrap(), Some(keep), 1.0)
    }

    /// A directory that the user who runs PostgreSQL may enter.
    fn parent() -> tempfile::TempDir {
        let parent = tempfile::tempdir().unwrap();
        set_mode(parent.path(), 0o711).unwrap();
        parent
    }

    #[test]
    fn kept_directory_keeps_its_passwords_and_scale() {
        let parent = parent();
        let path = parent.path().join("kept");
        let first = open(&path).unwrap().state().clone();
        let second = DemoDirectory::open(&Programs::find().unwrap(), Some(&path), 7.0).unwrap();
        assert_eq!(second.state().app_password, first.app_password);
        assert_eq!(second.state().scale, 1.0);
    }

    #[test]
    fn directory_serves_one_demo_at_a_time() {
        let parent = parent();
        let path = parent.path().join("kept");
        let _first = open(&path).unwrap();
        assert!(matches!(open(&path), Err(DemoError::DirectoryInUse(_))));
    }

    #[test]
    fn foreign_files_are_not_touched() {
        let parent = parent();
        fs::write(parent.path().join("thesis.txt"), "years of work").unwrap();
        assert!(matches!(open(parent.path()), Err(DemoError::ForeignDirectory(_))));
        assert!(parent.path().join("thesis.txt").exists());
    }

    #[test]
    fn interrupted_first_start_is_cleared() {
        let parent = parent();
        let path = parent.path().join("kept");
        drop(open(&path).unwrap());
        fs::create_dir(path.join("primary")).unwrap();
        let directory = open(&path).unwrap();
        assert!(!directory.primary().exists());
    }

    #[test]
    fn temporary_directory_goes_with_its_owner() {
        let directory = DemoDirectory::open(&Programs::find().unwrap(), None, 1.0).unwrap();
        let path = directory.path().to_owned();
        assert!(path.join(STATE_FILE).exists());
        drop(directory);
        assert!(!path.exists());
    }

    #[test]
    fn path_too_long_for_a_socket_is_refused() {
        let path = Path::new("/tmp").join("x".repeat(100));
        assert!(matches!(open(&path), Err(DemoError::LongPath(_))));
        assert!(!path.exists());
    }
}
