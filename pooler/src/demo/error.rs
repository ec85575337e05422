//! What can keep the demo from running. Each text says what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::BoxError;

#[derive(Debug, Error)]
pub enum DemoError {
    #[error(
        "no PostgreSQL server programs found (looked in {looked_in}); install them (Debian: apt-get install postgresql), \
         or set PG_BINDIR to the directory that holds initdb"
    )]
    NoPrograms { looked_in: String },

    #[error("PostgreSQL in {} is version {found}; the demo needs 15 or later (PG_BINDIR chooses another)", bindir.display())]
    OldPostgres { bindir: PathBuf, found: String },

    #[error(
        "PostgreSQL doesn't run as root, and there is neither a user \"postgres\" nor \"nobody\"; run the demo as another user"
    )]
    NoUser,

    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },

    #[error("{program} failed ({status}):\n{output}")]
    Program { program: String, status: String, output: String },

    #[error("{what}: {}", with_detail(source))]
    Postgres { what: String, source: tokio_postgres::Error },

    #[error("{what}: {source}")]
    Catalog { what: &'static str, source: BoxError },

    #[error("directory \"{}\" isn't empty and wasn't made by the demo; choose another for --keep", .0.display())]
    ForeignDirectory(PathBuf),

    #[error("another demo is using directory \"{}\"; stop it first, or choose another for --keep", .0.display())]
    DirectoryInUse(PathBuf),

    #[error(
        "directory \"{}\" was made by PostgreSQL {made_by}, but the programs found are {found}; \
         set PG_BINDIR to the older programs, or remove the directory", path.display()
    )]
    OtherVersion { path: PathBuf, made_by: String, found: String },

    #[error("user \"{user}\", as whom PostgreSQL has to run, can't enter \"{}\"; use a directory that it may enter, such as one under /tmp", path.display())]
    NotEnterable { path: PathBuf, user: String },

    #[error("path \"{}\" is too long for a unix socket (at most 107 bytes with the file's name); choose a shorter one for --keep", .0.display())]
    LongPath(PathBuf),

    #[error("--scale must be between 0.01 and 100, not {0}")]
    Scale(f64),

    #[error("no free port from {0} on; choose another with --port")]
    NoPort(u16),

    #[error("the data isn't what was loaded: {0}; please report this")]
    Verify(String),

    #[error("the pooler ended: {0}")]
    Pooler(BoxError),
}

impl DemoError {
    /// For `map_err`: an I/O error and what was being done.
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// For `map_err`: an I/O error with a path.
    pub(super) fn path(path: &Path) -> impl FnOnce(io::Error) -> Self {
        Self::io(format!("\"{}\"", path.display()))
    }

    /// For `map_err`: an error of PostgreSQL and what was being done.
    pub(super) fn postgres(what: impl Into<String>) -> impl FnOnce(tokio_postgres::Error) -> Self {
        let what = what.into();
        move |source| Self::Postgres { what, source }
    }

    /// For `map_err`: an error of the control plane and what was being done.
    pub(super) fn catalog<E: Into<BoxError>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Catalog { what, source: source.into() }
    }
}

/// tokio-postgres prints only "db error"; what the server said is one level down.
fn with_detail(error: &tokio_postgres::Error) -> String {
    match (error.as_db_error(), std::error::Error::source(error)) {
        (Some(from_server), _) => from_server.to_string(),
        (None, Some(cause)) => format!("{error}: {cause}"),
        (None, None) => error.to_string(),
    }
}
