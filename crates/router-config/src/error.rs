//! What can go wrong, one variant per operation.

use thiserror::Error;

use crate::haproxy::config::Generation;
use crate::haproxy::files::FileError;
use crate::haproxy::master::MasterError;

/// An operation of router-config that failed.
#[derive(Debug, Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// HAProxy did not do what it was asked to.
    #[error(transparent)]
    Master(#[from] MasterError),
    /// What HAProxy did not take a moment ago is still what it should run; it was not offered again yet.
    #[error("{0}")]
    Repeated(String),
    /// HAProxy took the reload but does not run what was written.
    #[error(
        "HAProxy was reloaded but runs {}, not generation {wanted}: does it read {file} from the directory given \
         with --state-dir?", running.as_deref().unwrap_or("a configuration that is not ours"),
        file = crate::haproxy::files::CONFIG
    )]
    NotVerified {
        /// What it should run.
        wanted: Generation,
        /// What it runs.
        running: Option<String>,
    },
}
