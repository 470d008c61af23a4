//! What can go wrong: one variant per kind of failure. The cause is attached as the source and not repeated in the
//! message; log the whole chain.

use std::time::Duration;

/// Why a call to fleet failed. `operation` names what was tried, for example `list the units`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The endpoint is wrong. A configuration error.
    #[error("fleet's endpoint {value:?}: {problem}")]
    Endpoint {
        /// As given; credentials are taken out.
        value: String,
        /// What is wrong and how to mend it.
        problem: String,
    },
    /// The HTTP client could not be built.
    #[error("cannot build the HTTP client for fleet")]
    Build {
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The request could not be sent or its answer not be read to the end: refused, reset, truncated.
    #[error("cannot {operation}: the request to fleet at {endpoint} failed")]
    Request {
        /// What was tried.
        operation: String,
        /// Where.
        endpoint: String,
        /// The cause, without the URL.
        source: reqwest::Error,
    },
    /// fleet did not answer in full before the call's deadline.
    #[error("cannot {operation}: no full answer from fleet at {endpoint} in {after:?}")]
    Deadline {
        /// What was tried.
        operation: String,
        /// Where.
        endpoint: String,
        /// The deadline.
        after: Duration,
    },
    /// fleet answered with an error status.
    #[error("cannot {operation}: fleet answered {code}: {message}")]
    Status {
        /// What was tried.
        operation: String,
        /// The HTTP status.
        code: u16,
        /// What fleet said, as one line of at most 512 bytes.
        message: String,
    },
    /// fleet answered with a success that this call does not have: something else listens there.
    #[error("cannot {operation}: the answer {code} is not fleet's")]
    Unexpected {
        /// What was tried.
        operation: String,
        /// The HTTP status.
        code: u16,
    },
    /// The answer is larger than [`MAX_ANSWER`](crate::MAX_ANSWER) and was not read.
    #[error("cannot {operation}: the answer is larger than {limit} bytes")]
    TooLarge {
        /// What was tried.
        operation: String,
        /// The limit in bytes.
        limit: usize,
    },
    /// The answer is not the JSON that was expected.
    #[error("cannot {operation}: fleet's answer could not be understood")]
    Decode {
        /// What was tried.
        operation: String,
        /// Where and why.
        source: serde_json::Error,
    },
    /// What should be sent could not be written as JSON.
    #[error("cannot {operation}: the request could not be encoded")]
    Encode {
        /// What was tried.
        operation: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A list has more pages than fleet can number, or sends the reader in a circle.
    #[error("cannot {operation}: its pages do not end (gave up after {pages})")]
    Pages {
        /// What was tried.
        operation: String,
        /// How many were read.
        pages: usize,
    },
    /// A unit that was destroyed, to be created anew, still runs somewhere.
    #[error("cannot {operation}: destroyed, but it still runs on {} after {after:?}, so it was not created again", machines.join(", "))]
    StillRunning {
        /// What was tried.
        operation: String,
        /// IDs of the machines.
        machines: Vec<String>,
        /// How long it was waited for.
        after: Duration,
    },
}

impl Error {
    /// The HTTP status, when fleet answered with an error status.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Status { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether the unit does not exist, and nothing was sent that it could be made of (409).
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.status() == Some(409)
    }

    /// Whether the same call may succeed later without anybody mending anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Request { .. } | Self::Deadline { .. } | Self::StillRunning { .. } => true,
            Self::Status { code, .. } => *code == 429 || *code >= 500,
            _ => false,
        }
    }
}
