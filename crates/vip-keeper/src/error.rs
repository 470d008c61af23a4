//! What can go wrong, one variant per operation.

use std::time::Duration;

use contract::DnsLabel;
use thiserror::Error;

use crate::net::NetError;
use crate::vip::VipName;

/// An operation of vip-keeper that failed.
#[derive(Debug, Error)]
pub enum Error {
    /// The kernel, at the start.
    #[error("cannot take hold of this host's network")]
    Open(#[source] NetError),
    /// The kernel, at the end.
    #[error(
        "cannot let go of this host's network: what is there ends by itself; `vip-keeper cleanup` removes it"
    )]
    Close(#[source] NetError),
    /// Cleaning up.
    #[error("cannot clean up this host's network")]
    Cleanup(#[source] NetError),
    /// A keeper runs.
    #[error("a keeper runs here (its admin server answers at {0}): stop it first, it cleans up after itself")]
    Running(std::net::SocketAddr),
    /// Reading etcd.
    #[error("cannot read what etcd knows of the virtual IPs")]
    Read(#[source] etcd::Error),
    /// Asking for a hand-over.
    #[error("cannot ask for a hand-over in etcd")]
    Ask(#[source] etcd::Error),
    /// A request as JSON.
    #[error("cannot write the request as JSON")]
    Encode(#[source] serde_json::Error),
    /// Nobody holds it.
    #[error("nobody holds {0}, so there is nothing to hand over; `vip-keeper explain` on any node says why")]
    NobodyHolds(VipName),
    /// The holder says no.
    #[error("{vip} stays where it is: {because}")]
    Stays {
        /// Which.
        vip: VipName,
        /// Why.
        because: String,
    },
    /// No answer.
    #[error(
        "{vip} is still on {holder} after {waited:?}, and its keeper has not said why: is it running? (journalctl -u 'vip-keeper@*' on {holder})"
    )]
    NoAnswer {
        /// Which.
        vip: VipName,
        /// Who holds it.
        holder: DnsLabel,
        /// For how long it was waited.
        waited: Duration,
    },
    /// There is no such address.
    #[error("{0} is none of the configured virtual IPs ({1})")]
    UnknownVip(VipName, String),
    /// doctor has found something.
    #[error("{0} of the findings above should be mended")]
    Findings(usize),
    /// Random numbers.
    #[error("the system has no random bytes: {0}")]
    Random(String),
    /// The driver is gone.
    #[error("the keeper ended before it had let go")]
    Gone,
}
