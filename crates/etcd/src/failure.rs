//! What a failed attempt means: whether another endpoint may do better, whether a write may have been made all the
//! same, or that nobody will ever answer otherwise.
//!
//! The messages and codes are those of etcd's `api/v3rpc/rpctypes/error.go`.

use std::error::Error as StdError;
use std::time::Duration;

use etcd_client::Error as ClientError;
use tonic::{Code, ConnectError, Status};

use crate::error::CallError;

/// How much of a message is kept.
const MESSAGE_MAX: usize = 512;

/// What a failed attempt means.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Another endpoint, or this one later, may answer.
    Retry {
        /// What happened, on one line.
        problem: String,
        /// Whether a write may have been made.
        ambiguous: bool,
        /// Whether the connection is of no more use.
        disconnect: bool,
    },
    /// The log-in is missing, too old, or was lost.
    Login(String),
    /// No endpoint would answer otherwise.
    Final(CallError),
}

/// Reads an error of one attempt at `endpoint`.
pub(crate) fn classify(endpoint: &str, error: &ClientError) -> Failure {
    match error {
        ClientError::GRpcStatus(status) => classify_status(endpoint, status),
        // Nothing of these says how far the request got.
        other => Failure::Retry {
            problem: one_line(&chain(other)),
            ambiguous: true,
            disconnect: true,
        },
    }
}

fn classify_status(endpoint: &str, status: &Status) -> Failure {
    // A status with a cause was made here, by the transport; its code is a guess.
    if let Some(cause) = status.source() {
        return Failure::Retry {
            problem: one_line(&chain(cause)),
            ambiguous: !is_connect_error(cause),
            disconnect: true,
        };
    }
    let message = one_line(status.message());
    let endpoint = || endpoint.to_owned();
    let retry = |ambiguous, disconnect| Failure::Retry {
        problem: if message.is_empty() {
            format!("{:?}", status.code())
        } else {
            message.clone()
        },
        ambiguous,
        disconnect,
    };
    if message.contains("message length too large") || message.contains("larger than max") {
        return Failure::Final(CallError::TooLarge {
            problem: message.clone(),
        });
    }
    let Some(said) = message.strip_prefix("etcdserver: ") else {
        // Whatever this is, it is not etcd's own word: a proxy, another server, or Go's gRPC in trouble.
        return retry(true, true);
    };
    let final_error = |error| Failure::Final(error);
    match (status.code(), said) {
        (Code::Unauthenticated, _)
        | (_, "invalid auth token" | "revision of auth store is old" | "user name is empty") => {
            Failure::Login(message)
        }
        // Refused at the door: nobody looked at the request itself.
        (_, "no leader" | "too many requests" | "rpc not supported for learner") => retry(false, false),
        (Code::PermissionDenied, _) => final_error(CallError::Denied {
            endpoint: endpoint(),
            message,
        }),
        (_, "request is too large") => final_error(CallError::TooLarge { problem: message }),
        (_, "mvcc: database space exceeded") => final_error(CallError::NoSpace {
            endpoint: endpoint(),
            message,
        }),
        (_, "requested lease not found") => final_error(CallError::LeaseNotFound),
        (
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::ResourceExhausted
            | Code::Unimplemented,
            _,
        ) => final_error(CallError::Refused {
            endpoint: endpoint(),
            code: format!("{:?}", status.code()),
            message,
        }),
        _ => retry(true, false),
    }
}

/// An attempt that was not answered in this time.
pub(crate) fn unanswered(limit: Duration, sent: bool) -> Failure {
    // Whole milliseconds are enough to read.
    let limit = Duration::from_millis(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
    Failure::Retry {
        problem: format!("no answer in {limit:?}"),
        ambiguous: sent,
        disconnect: true,
    }
}

/// What a watch was cancelled for, which comes as text only.
pub(crate) fn classify_cancel(endpoint: &str, reason: &str) -> Failure {
    let said = match reason.find("etcdserver: ") {
        Some(at) => reason.get(at..).unwrap_or(reason),
        None => reason,
    };
    let code = match said {
        "etcdserver: permission denied" => Code::PermissionDenied,
        "etcdserver: no leader" => Code::Unavailable,
        _ => Code::Unknown,
    };
    let text = if said.is_empty() {
        "the watch was cancelled"
    } else {
        said
    };
    classify_status(endpoint, &Status::new(code, text))
}

/// Whether no connection was made, so that nothing can have been sent.
fn is_connect_error(cause: &(dyn StdError + 'static)) -> bool {
    causes(cause).any(|cause| cause.downcast_ref::<ConnectError>().is_some())
}

fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
}

/// An error and its causes, each said once: some repeat what is below them.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = String::new();
    for cause in causes(error) {
        let said = cause.to_string();
        // Says nothing that is not said below.
        if said == "transport error" && cause.source().is_some() {
            continue;
        }
        if text.contains(&said) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&said);
    }
    text
}

/// Foreign text on one line and of bounded length.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::new();
    for word in text
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
    {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
        if line.len() > MESSAGE_MAX {
            let end = (0..=MESSAGE_MAX)
                .rev()
                .find(|&at| line.is_char_boundary(at))
                .unwrap_or(0);
            line.truncate(end);
            line.push('…');
            break;
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: Code, message: &str) -> Failure {
        classify(
            "http://h:2379",
            &ClientError::GRpcStatus(Status::new(code, message)),
        )
    }

    #[test]
    fn what_another_member_may_answer_is_tried_again_and_may_have_been_done() {
        for (code, message) in [
            (Code::Unavailable, "etcdserver: request timed out"),
            (Code::Unavailable, "etcdserver: leader changed"),
            (Code::Unavailable, "etcdserver: server stopped"),
            (Code::Unknown, "raft proposal dropped"),
            (Code::Unknown, "context canceled"),
            (Code::DataLoss, "etcdserver: corrupt cluster"),
            (
                Code::Unimplemented,
                "grpc-status header missing, mapped from HTTP status code 404",
            ),
            (
                Code::PermissionDenied,
                "grpc-status header missing, mapped from HTTP status code 403",
            ),
        ] {
            let failure = of(code, message);
            assert!(
                matches!(failure, Failure::Retry { ambiguous: true, .. }),
                "{message}: {failure:?}"
            );
        }
    }

    #[test]
    fn what_was_refused_at_the_door_was_not_done() {
        for message in ["etcdserver: no leader", "etcdserver: too many requests"] {
            let failure = of(Code::Unavailable, message);
            assert!(
                matches!(
                    failure,
                    Failure::Retry {
                        ambiguous: false,
                        disconnect: false,
                        ..
                    }
                ),
                "{failure:?}"
            );
        }
    }

    #[test]
    fn what_everybody_would_refuse_is_final_and_named() {
        let text = |failure: Failure| match failure {
            Failure::Final(error) => error.to_string(),
            other => panic!("{other:?}"),
        };
        for (code, message, part) in [
            (
                Code::PermissionDenied,
                "etcdserver: permission denied",
                "denies it",
            ),
            (
                Code::InvalidArgument,
                "etcdserver: request is too large",
                "too large",
            ),
            (
                Code::ResourceExhausted,
                "grpc: received message larger than max (9 vs. 8)",
                "too large",
            ),
            (
                Code::OutOfRange,
                "Error, decoded message length too large: found 9 bytes",
                "too large",
            ),
            (
                Code::ResourceExhausted,
                "etcdserver: mvcc: database space exceeded",
                "no space left",
            ),
            (
                Code::NotFound,
                "etcdserver: requested lease not found",
                "lease does not exist",
            ),
            (
                Code::InvalidArgument,
                "etcdserver: key is not provided",
                "InvalidArgument",
            ),
        ] {
            let said = text(of(code, message));
            assert!(said.contains(part), "{message}: {said}");
        }
    }

    #[test]
    fn a_lost_log_in_is_told_from_a_lacking_right() {
        for (code, message) in [
            (Code::Unauthenticated, "etcdserver: invalid auth token"),
            (Code::InvalidArgument, "etcdserver: revision of auth store is old"),
            (Code::InvalidArgument, "etcdserver: user name is empty"),
        ] {
            assert!(matches!(of(code, message), Failure::Login(_)), "{message}");
        }
    }

    #[test]
    fn a_cancelled_watch_says_why() {
        let denied = classify_cancel(
            "h",
            "rpc error: code = PermissionDenied desc = etcdserver: permission denied",
        );
        assert!(
            matches!(denied, Failure::Final(CallError::Denied { .. })),
            "{denied:?}"
        );
        let token = classify_cancel("h", "etcdserver: invalid auth token");
        assert!(matches!(token, Failure::Login(_)), "{token:?}");
        let unnamed = classify_cancel("h", "");
        assert!(matches!(unnamed, Failure::Retry { .. }), "{unnamed:?}");
    }

    #[test]
    fn foreign_text_becomes_one_bounded_line() {
        assert_eq!(one_line("a\n\tb\u{0} c"), "a b c");
        let long = one_line(&"é".repeat(1000));
        assert!(long.len() <= MESSAGE_MAX + '…'.len_utf8() && long.ends_with('…'));
    }
}
