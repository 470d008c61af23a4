//! What can go wrong between us and the kernel: one variant per operation.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use super::netlink::NetlinkError;
use crate::vip::VipName;

/// An operation on this host's network that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// The instance cannot be part of a table's name.
    #[error("\"{0}\" is no name for an instance: use 1 to 64 letters, digits, '_', '-' and '.'")]
    Instance(String),
    /// Two virtual IPs have the same name or the same address.
    #[error("{0} is given twice")]
    Twice(String),
    /// The process may not do what it must.
    #[error(
        "the capabilities {} are missing: start the container with --cap-add NET_ADMIN --cap-add NET_RAW, or the unit with AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW",
        .0.join(" and ")
    )]
    Capabilities(Vec<&'static str>),
    /// A socket could not be had.
    #[error("cannot open a socket for {purpose}")]
    Socket {
        /// What for.
        purpose: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The kernel did not list its interfaces.
    #[error("cannot list the network interfaces")]
    ListLinks(#[source] NetlinkError),
    /// The kernel did not list its addresses.
    #[error("cannot list the addresses of the network interfaces")]
    ListAddresses(#[source] NetlinkError),
    /// The tables of nftables could not be listed.
    #[error("cannot list the tables of nftables")]
    ListTables(#[source] NetlinkError),
    /// The gate could not be made.
    #[error("cannot make the gate of nftables; --gate lifetime does without, and is less exact")]
    MakeGate(#[source] NetlinkError),
    /// The gate could not be opened or shut. What is open shuts by itself when its time is over.
    #[error("cannot change the gate of nftables")]
    SetGate(#[source] NetlinkError),
    /// The gate could not be removed: what it shuts is shut until the next start, or `cleanup`.
    #[error("cannot remove the gate of nftables")]
    RemoveGate(#[source] NetlinkError),
    /// An address could not be added, or its lifetime not be extended.
    #[error("cannot give {address} to {interface}")]
    AddAddress {
        /// The address.
        address: IpAddr,
        /// The interface.
        interface: String,
        /// Why not.
        source: NetlinkError,
    },
    /// An address could not be removed. The kernel removes it when its lifetime ends.
    #[error("cannot remove {address} from {interface}")]
    RemoveAddress {
        /// The address.
        address: IpAddr,
        /// The interface.
        interface: String,
        /// Why not.
        source: NetlinkError,
    },
    /// An address could not be announced.
    #[error("cannot announce {address} on {interface}")]
    Announce {
        /// The address.
        address: IpAddr,
        /// The interface.
        interface: String,
        /// Why not.
        source: io::Error,
    },
    /// There is no virtual IP of this name here.
    #[error("there is no virtual IP {0} here")]
    Unknown(VipName),
    /// The address is not held.
    #[error("{0} is not held here")]
    NotHeld(VipName),
    /// The interface that a virtual IP names is not there.
    #[error("the interface {interface} for {vip} is not there")]
    NoSuchInterface {
        /// The virtual IP.
        vip: VipName,
        /// The interface.
        interface: String,
    },
    /// No interface has the network of a virtual IP.
    #[error("no interface has a network with {address} in it: give it one as {vip}={address}@INTERFACE")]
    NoInterface {
        /// The virtual IP.
        vip: VipName,
        /// Its address.
        address: IpAddr,
    },
    /// The interface is not set up.
    #[error("the interface {interface} for {vip} is down")]
    LinkDown {
        /// The virtual IP.
        vip: VipName,
        /// The interface.
        interface: String,
    },
    /// Somebody else has configured the address on this host.
    #[error(
        "{address} is on {interface} already, and was not put there by a keeper: remove it (ip address del {address} dev {interface}) and from what configured it, so that only the keepers move it"
    )]
    Foreign {
        /// The address.
        address: IpAddr,
        /// Where it is.
        interface: String,
    },
    /// The right to the address was over before it answered, or too short to be used. It does not answer.
    #[error("the right to {vip} is over, for {late:?} now")]
    TooLate {
        /// The virtual IP.
        vip: VipName,
        /// For how long; nothing if what was left was too short.
        late: Duration,
    },
}
