//! What can go wrong: one variant per kind of failure. The cause is attached as the source and not repeated in the
//! message; log the whole chain.

use std::path::PathBuf;
use std::time::Duration;

use crate::txn::TxnFailure;

/// Why a call to Consul failed. `operation` names what was tried, for example `list the agent's services`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address of Consul is wrong. A configuration error.
    #[error("Consul address {value:?}: {problem}")]
    Address {
        /// The address as given; credentials are taken out.
        value: String,
        /// What is wrong and how to mend it.
        problem: String,
    },
    /// Certificates or keys could not be used. A configuration error.
    #[error("TLS for Consul: {problem}")]
    Tls {
        /// What is wrong, with the file's name.
        problem: String,
        /// The cause, when there is one below.
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The token's file could not be read, or what it holds is no token.
    #[error("cannot take the ACL token from {}", path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The token given as a value cannot be sent in a header. A configuration error.
    #[error(
        "the ACL token is empty or has characters that no HTTP header may carry: check it for line breaks and \
         non-ASCII characters"
    )]
    TokenValue,
    /// The HTTP client could not be built. A configuration error.
    #[error("cannot build the HTTP client for Consul")]
    Build {
        /// The cause.
        source: reqwest::Error,
    },
    /// A service ID, node, key or other name cannot be put in a URL so that Consul reads back the same name. Nothing
    /// was sent.
    #[error("cannot {operation}: {value:?} cannot be sent as a name, because {problem}")]
    Identifier {
        /// What was tried.
        operation: String,
        /// The name.
        value: String,
        /// Why not.
        problem: &'static str,
    },
    /// The request could not be sent or its answer not be read to the end: refused, reset, truncated.
    #[error("cannot {operation}: the request to Consul at {address} failed")]
    Request {
        /// What was tried.
        operation: String,
        /// Where.
        address: String,
        /// The cause, without the URL.
        source: reqwest::Error,
    },
    /// Consul did not answer in full before the call's deadline.
    #[error("cannot {operation}: no full answer from Consul at {address} in {after:?}")]
    Deadline {
        /// What was tried.
        operation: String,
        /// Where.
        address: String,
        /// The deadline.
        after: Duration,
    },
    /// Consul answered with an error status.
    #[error("cannot {operation}: Consul answered {code}: {body}")]
    Status {
        /// What was tried.
        operation: String,
        /// The HTTP status.
        code: u16,
        /// What Consul said, as one line of at most 512 bytes.
        body: String,
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
    #[error("cannot {operation}: Consul's answer could not be understood")]
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
    /// The answer has no index or hash to wait on: not Consul's answer, or a proxy drops headers.
    #[error("cannot {operation}: the answer has no {header} header, so it is not Consul's")]
    MissingHeader {
        /// What was tried.
        operation: String,
        /// The header.
        header: &'static str,
    },
    /// A snapshot is not what Consul writes, or not all of it.
    #[error("cannot {operation}: the snapshot is not whole: {problem}")]
    Archive {
        /// What was tried.
        operation: String,
        /// What is wrong with it.
        problem: String,
    },
    /// What a snapshot is read from, or written to, failed.
    #[error("cannot {operation}: its data could not be read or written")]
    Stream {
        /// What was tried.
        operation: String,
        /// Why.
        source: std::io::Error,
    },
    /// The server that answered knows no leader (`X-Consul-KnownLeader: false`), so its data may be old without
    /// bound. Only [`Watch`](crate::Watch) makes this an error; single queries report it in their meta data.
    #[error("the Consul server that answered knows no leader")]
    NoLeader,
    /// A transaction was rolled back: nothing of it was applied.
    #[error("cannot {operation}: rolled back: {}", list(failures))]
    RolledBack {
        /// What was tried.
        operation: String,
        /// The operations that failed.
        failures: Vec<TxnFailure>,
    },
}

fn list(failures: &[TxnFailure]) -> String {
    failures
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

impl Error {
    /// The HTTP status, when Consul answered with an error status.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Error::Status { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether Consul said that the named thing does not exist (404).
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(404)
    }

    /// Whether the token lacks the right, or is unknown (401, 403; the keyring of Consul 1.8.7 says it with 500).
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        match self {
            Error::Status { code: 401 | 403, .. } => true,
            Error::Status { code: 500, body, .. } => body.contains("denied by ACLs"),
            _ => false,
        }
    }

    /// Whether the cluster has no leader at the moment. It passes; the agent itself is there.
    #[must_use]
    pub fn is_no_leader(&self) -> bool {
        match self {
            Error::NoLeader => true,
            Error::Status { code, body, .. } => *code >= 500 && body.contains("No cluster leader"),
            _ => false,
        }
    }

    /// Whether the same call may succeed later without anybody mending anything: connection trouble, deadlines,
    /// 429 and 5xx. Not so for configuration errors, refused names and tokens, other statuses, rolled back
    /// transactions, broken snapshots.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            _ if self.is_forbidden() => false,
            Error::Request { .. } | Error::Deadline { .. } | Error::NoLeader => true,
            Error::Status { code, .. } => *code == 429 || *code >= 500,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_names_the_operation_and_leaves_the_cause_to_the_source() {
        let source = serde_json::from_str::<u8>("x").expect_err("garbage");
        let cause = source.to_string();
        let error = Error::Decode {
            operation: "list the agent's services".into(),
            source,
        };
        assert!(error.to_string().contains("list the agent's services"));
        assert!(!error.to_string().contains(&cause));
        assert_eq!(
            std::error::Error::source(&error).map(ToString::to_string),
            Some(cause)
        );
    }

    #[test]
    fn kinds_are_told_apart() {
        let status = |code, body: &str| Error::Status {
            operation: "x".into(),
            code,
            body: body.into(),
        };
        assert!(status(404, "").is_not_found());
        assert!(status(403, "Permission denied").is_forbidden());
        let keyring = status(500, "Reading keyring denied by ACLs");
        assert!(keyring.is_forbidden() && !keyring.is_transient());
        assert!(status(500, "No cluster leader").is_no_leader());
        assert!(!status(500, "boom").is_no_leader());
        assert!(status(429, "").is_transient() && status(503, "").is_transient());
        assert!(!status(400, "").is_transient());
        assert!(Error::NoLeader.is_no_leader() && Error::NoLeader.is_transient());
    }
}
