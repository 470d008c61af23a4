//! What can go wrong when a cluster is made, told with the mend.

use std::fmt::{self, Display, Formatter};

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    what: String,
    mend: Option<String>,
    usage: bool,
}

impl Error {
    /// A setting that makes no sense, or that cannot be had here, and what to do.
    pub(crate) fn usage(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            mend: Some(mend.into()),
            usage: true,
        }
    }

    pub(crate) fn with_mend(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            mend: Some(mend.into()),
            usage: false,
        }
    }

    /// What to do about it.
    pub fn mend(&self) -> Option<&str> {
        self.mend.as_deref()
    }

    /// The exit code for it: 64 (EX_USAGE) for a setting, else 1.
    pub fn code(&self) -> u8 {
        if self.usage { 64 } else { 1 }
    }
}

impl From<String> for Error {
    fn from(what: String) -> Self {
        Self {
            what,
            mend: None,
            usage: false,
        }
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Error {}
