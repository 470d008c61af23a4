//! Changes in words, for logs and `/status`.

use std::fmt;

use super::{Change, Took, Why};

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Operator => "an operator asked",
            Self::Stop => "this keeper stops",
            Self::Unhealthy => "this node is not well",
            Self::Preempted => "a node of a higher priority is well",
        })
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Took { epoch, from, how } => {
                write!(f, "this node holds the address (epoch {epoch}): ")?;
                match (how, from) {
                    (Took::Claimed, Some(from)) => write!(f, "{from} had not renewed it in time"),
                    (Took::Claimed, None) => f.write_str("nobody held it"),
                    (Took::Free, _) => f.write_str("its holder had let go of it"),
                    (Took::Given, Some(from)) => write!(f, "{from} handed it over"),
                    (Took::Given, None) => f.write_str("it was handed over"),
                    (Took::Again, _) => f.write_str("it is renewed again"),
                }
            }
            Self::Expired { epoch } => write!(
                f,
                "this node let go of the address (epoch {epoch}): it could not renew it in etcd in time"
            ),
            Self::Lost { to: Some(to) } => write!(f, "{to} holds the address now; this node let go"),
            Self::Lost { to: None } => f.write_str("nobody holds the address in etcd any more; this node let go"),
            Self::Gave { to, why } => write!(f, "handed the address over to {to}: {why}"),
            Self::Released { why } => write!(f, "released the address to whoever is well: {why}"),
            Self::Stays { why, because } => write!(f, "the address stays here, though {why}: {because}"),
            Self::Conflict => f.write_str(
                "another host speaks for the address: let go until etcd has confirmed that this node holds it",
            ),
            Self::Failed { because } => write!(f, "the address cannot be here: {because}"),
        }
    }
}
