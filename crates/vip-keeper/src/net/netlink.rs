//! The little of netlink that is needed: messages, and a socket that asks the kernel and hears its answer in time.
//!
//! Written out rather than taken from a crate: the crates for addresses come with a task that owns the socket, give up
//! when a kernel newer than they are sends an attribute they misread, and know nothing of nftables. What is read here is
//! read by attribute, and what is unknown is passed over.

mod codec;
mod socket;

#[cfg(test)]
pub(crate) use codec::Messages;
pub(crate) use codec::{Attributes, Message, Writer, number, text};
pub(crate) use socket::{Asking, Batch, Family, Hearing};

use std::io;
use std::time::Duration;

/// Why the kernel did not do what it was asked over netlink.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetlinkError {
    /// The socket itself failed.
    #[error("the netlink socket failed")]
    Socket(#[source] io::Error),
    /// The kernel refused.
    #[error("the kernel refused{}", explained(.message.as_deref()))]
    Refused {
        /// Its error number, as an error.
        source: io::Error,
        /// Its explanation, if it gave one.
        message: Option<String>,
    },
    /// There was no answer in time.
    #[error("the kernel did not answer within {0:?}")]
    Deadline(Duration),
    /// The answer was longer than anything that is read here.
    #[error("the kernel's answer of {0} bytes is longer than what can be read")]
    TooLong(usize),
    /// What was listed changed again and again while it was listed.
    #[error("the kernel's list changed each time while it was read")]
    Unsteady,
}

fn explained(message: Option<&str>) -> String {
    message.map_or_else(String::new, |message| format!(" ({message})"))
}

impl NetlinkError {
    /// The kernel's error number, if it refused.
    pub(crate) fn refusal(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// The error number of whatever failed.
    pub(crate) fn errno(&self) -> Option<i32> {
        match self {
            Self::Socket(source) | Self::Refused { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}
