//! The one error of a benchmark run. Nothing is retried: a run that met an error has measured nothing.

use std::io;
use std::path::Path;

#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    #[error("{0}")]
    Failed(String),
}

pub type Result<T> = std::result::Result<T, BenchError>;

impl BenchError {
    pub fn failed(what: impl Into<String>) -> Self {
        Self::Failed(what.into())
    }

    /// For `map_err`: what was attempted when the system refused.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    pub fn path(path: &Path) -> impl FnOnce(io::Error) -> Self {
        Self::io(path.display().to_string())
    }
}
