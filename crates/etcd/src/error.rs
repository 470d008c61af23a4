//! What can go wrong.

use std::path::PathBuf;
use std::time::Duration;

use crate::lease::LeaseId;

/// Why an operation on etcd failed: one variant per operation, the cause attached as the source and not repeated in
/// the message; log the whole chain.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A key could not be read.
    #[error("cannot read {key:?} from etcd")]
    Get {
        /// The key.
        key: String,
        /// Why not.
        source: CallError,
    },
    /// The keys under a prefix could not be listed.
    #[error("cannot list {prefix:?} in etcd")]
    List {
        /// The prefix.
        prefix: String,
        /// Why not.
        source: CallError,
    },
    /// A key could not be written.
    #[error("cannot write {key:?} to etcd")]
    Put {
        /// The key.
        key: String,
        /// Why not.
        source: CallError,
    },
    /// A key could not be deleted.
    #[error("cannot delete {key:?} from etcd")]
    Delete {
        /// The key.
        key: String,
        /// Why not.
        source: CallError,
    },
    /// A key could not be created.
    #[error("cannot create {key:?} in etcd")]
    Create {
        /// The key.
        key: String,
        /// Why not.
        source: CallError,
    },
    /// A key could not be replaced.
    #[error("cannot replace {key:?} at revision {mod_revision} in etcd")]
    Replace {
        /// The key.
        key: String,
        /// The revision that was to be replaced.
        mod_revision: i64,
        /// Why not.
        source: CallError,
    },
    /// Several keys could not be replaced.
    #[error("cannot replace {} in etcd", keys.join(", "))]
    ReplaceEach {
        /// The keys.
        keys: Vec<String>,
        /// Why not.
        source: CallError,
    },
    /// A key could not be deleted at a revision.
    #[error("cannot delete {key:?} at revision {mod_revision} from etcd")]
    DeleteIf {
        /// The key.
        key: String,
        /// The revision that was to be deleted.
        mod_revision: i64,
        /// Why not.
        source: CallError,
    },
    /// A lease could not be granted.
    #[error("cannot get a lease of {ttl:?} from etcd")]
    LeaseGrant {
        /// What was asked for.
        ttl: Duration,
        /// Why not.
        source: CallError,
    },
    /// A lease could not be revoked. It ends by itself when its time is over.
    #[error("cannot revoke etcd's lease {id}")]
    LeaseRevoke {
        /// The lease.
        id: LeaseId,
        /// Why not.
        source: CallError,
    },
    /// A lease could not be kept alive.
    #[error("cannot keep etcd's lease {id} alive")]
    LeaseKeepAlive {
        /// The lease.
        id: LeaseId,
        /// Why not.
        source: CallError,
    },
    /// The keys under a prefix cannot be watched at the moment.
    #[error("cannot watch {prefix:?} in etcd")]
    Watch {
        /// The prefix.
        prefix: String,
        /// Why not.
        source: CallError,
    },
    /// A member did not tell its status.
    #[error("cannot ask {endpoint} for its status")]
    Status {
        /// The member's client URL.
        endpoint: String,
        /// Why not.
        source: CallError,
    },
    /// The cluster's members could not be listed.
    #[error("cannot list the members of etcd's cluster")]
    Members {
        /// Why not.
        source: CallError,
    },
    /// A record holds something else than was expected. It is there: it is not to be taken for a missing one.
    #[error("the record {key:?} in etcd (revision {mod_revision}) cannot be understood: {reason}")]
    Decode {
        /// The key.
        key: String,
        /// The revision that holds it.
        mod_revision: i64,
        /// What is wrong with it, without what it holds: that may be a secret.
        reason: String,
    },
    /// A record could not be written as JSON. Nothing was sent.
    #[error("the record {key:?} cannot be written as JSON")]
    Encode {
        /// The key.
        key: String,
        /// Why not.
        source: serde_json::Error,
    },
}

/// Why a call to etcd failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// No member answered in time.
    #[error("no member of etcd answered in {after:?}: {}", list(attempts))]
    Unavailable {
        /// How long it was tried.
        after: Duration,
        /// The last failure at each endpoint that was tried.
        attempts: Vec<AttemptError>,
        /// Whether what was to be written may have been written, or may still be.
        ambiguous: bool,
    },
    /// It cannot be found out any more whether a guarded write was made: read the key again and decide.
    #[error("the answer was lost, and what became of the write cannot be found out: {reason}")]
    Ambiguous {
        /// Why not.
        reason: String,
    },
    /// The user lacks the right.
    #[error("{endpoint} denies it to this user: {message}")]
    Denied {
        /// The member.
        endpoint: String,
        /// What it said.
        message: String,
    },
    /// The log-in failed: wrong user or password, or none given and one is needed.
    #[error("{endpoint} refuses the log-in{}: {message}", user.as_ref().map(|user| format!(" of {user:?}")).unwrap_or_default())]
    Login {
        /// The member.
        endpoint: String,
        /// The user, if one was given.
        user: Option<String>,
        /// What it said.
        message: String,
    },
    /// The password's file cannot be read.
    #[error("cannot read the password from {}", path.display())]
    Password {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Key or value, or an answer, is larger than it may be.
    #[error("too large: {problem}")]
    TooLarge {
        /// What is, and the limit.
        problem: String,
    },
    /// The key cannot be one. Nothing was sent.
    #[error("the key cannot be used: {problem}")]
    Key {
        /// Why not.
        problem: &'static str,
    },
    /// The database of etcd is full; nothing can be written until an operator makes room.
    #[error("{endpoint} has no space left: {message}")]
    NoSpace {
        /// The member.
        endpoint: String,
        /// What it said.
        message: String,
    },
    /// The lease does not exist, or not any more.
    #[error("the lease does not exist (any more)")]
    LeaseNotFound,
    /// etcd refused the call for another reason.
    #[error("{endpoint} refuses it: {message} ({code})")]
    Refused {
        /// The member.
        endpoint: String,
        /// The gRPC status, such as `InvalidArgument`.
        code: String,
        /// What it said, as one line of at most 512 bytes.
        message: String,
    },
}

/// Why one attempt at one endpoint failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{endpoint}: {problem}")]
pub struct AttemptError {
    /// The member's client URL.
    pub endpoint: String,
    /// What happened, on one line.
    pub problem: String,
}

fn list(attempts: &[AttemptError]) -> String {
    attempts
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

impl CallError {
    /// Whether the same call may succeed later without anybody mending anything.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(self, CallError::Unavailable { .. })
    }

    /// Whether a write may have been made, or may still be, although the call failed.
    #[must_use]
    pub fn is_ambiguous(&self) -> bool {
        match self {
            CallError::Unavailable { ambiguous, .. } => *ambiguous,
            CallError::Ambiguous { .. } => true,
            _ => false,
        }
    }

    /// Whether a revision was asked for that the store has no more, or has not yet.
    pub(crate) fn is_revision_gone(&self) -> bool {
        matches!(self, CallError::Refused { message, .. }
            if message.contains("required revision has been compacted")
                || message.contains("required revision is a future revision"))
    }

    /// This error, for a write whose answer was lost before: then it cannot say that nothing was written.
    pub(crate) fn or_ambiguous(self, lost: bool) -> CallError {
        match self {
            error if !lost || error.is_ambiguous() => error,
            CallError::Unavailable { after, attempts, .. } => CallError::Unavailable {
                after,
                attempts,
                ambiguous: true,
            },
            error => CallError::Ambiguous {
                reason: error.to_string(),
            },
        }
    }
}

impl Error {
    /// The call's failure, when a call was made.
    #[must_use]
    pub fn call(&self) -> Option<&CallError> {
        match self {
            Error::Get { source, .. }
            | Error::List { source, .. }
            | Error::Put { source, .. }
            | Error::Delete { source, .. }
            | Error::Create { source, .. }
            | Error::Replace { source, .. }
            | Error::ReplaceEach { source, .. }
            | Error::DeleteIf { source, .. }
            | Error::LeaseGrant { source, .. }
            | Error::LeaseRevoke { source, .. }
            | Error::LeaseKeepAlive { source, .. }
            | Error::Watch { source, .. }
            | Error::Status { source, .. }
            | Error::Members { source } => Some(source),
            Error::Decode { .. } | Error::Encode { .. } => None,
        }
    }

    /// Whether etcd could not be reached in time: the same call may succeed later without anybody mending anything.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        self.call().is_some_and(CallError::is_unavailable)
    }

    /// Whether a write may have been made, or may still be, although the call failed.
    #[must_use]
    pub fn is_ambiguous(&self) -> bool {
        self.call().is_some_and(CallError::is_ambiguous)
    }

    /// Whether the user lacks the right, or could not log in.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        matches!(
            self.call(),
            Some(CallError::Denied { .. } | CallError::Login { .. })
        )
    }
}
