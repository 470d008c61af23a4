//! The error a service's `run` ends with, and how an error is shown.

use std::error::Error;

use crate::{AdminError, MetricsError, ProcessError};

/// Any error that can cross threads.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Why a service's `run` ended without success. The variant decides the exit code.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration is wrong: starting again without changing it is pointless. Exit code 64 (`EX_USAGE`).
    #[error(transparent)]
    Config(BoxError),
    /// Anything else: starting again may help. Exit code 1.
    #[error(transparent)]
    Failed(BoxError),
}

impl RunError {
    /// A configuration error. Its text should name the flag, the value and the mend.
    pub fn config(error: impl Into<BoxError>) -> Self {
        Self::Config(error.into())
    }

    /// Any other failure.
    pub fn failed(error: impl Into<BoxError>) -> Self {
        Self::Failed(error.into())
    }

    /// The exit code of a process that ends with this error.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) => crate::entry::EX_USAGE,
            Self::Failed(_) => 1,
        }
    }
}

impl From<AdminError> for RunError {
    fn from(error: AdminError) -> Self {
        match error {
            AdminError::Bind { .. } => Self::config(error),
            AdminError::LocalAddr { .. } | AdminError::Serve { .. } => Self::failed(error),
        }
    }
}

impl From<MetricsError> for RunError {
    fn from(error: MetricsError) -> Self {
        Self::failed(error)
    }
}

impl From<ProcessError> for RunError {
    fn from(error: ProcessError) -> Self {
        Self::failed(error)
    }
}

impl From<crate::ProbeError> for RunError {
    fn from(error: crate::ProbeError) -> Self {
        Self::failed(error)
    }
}

/// An error and all its sources on one line, joined by `: `.
#[must_use]
pub fn error_chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open the shop")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn a_chain_shows_every_source_once() {
        let error = RunError::failed(Outer(std::io::Error::other("no key")));
        assert_eq!(error_chain(&error), "cannot open the shop: no key");
    }

    #[test]
    fn the_variant_decides_the_exit_code() {
        assert_eq!(RunError::config("bad flag").exit_code(), 64);
        assert_eq!(RunError::failed("bad luck").exit_code(), 1);
    }
}
