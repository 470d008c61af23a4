//! The gate: tables of nftables that make a virtual IP deaf and dumb, except for a time that is counted by the kernel.
//!
//! As `nft` would write it, for one keeper:
//!
//! ```text
//! table inet colossus_vip {
//!     set vips4 { type ipv4_addr; elements = { 10.0.0.100 } }           # every virtual IP this node may hold
//!     set live4 { type ipv4_addr; flags timeout; }                      # those it holds, each until its right ends
//!     set vips6 { type ipv6_addr; }
//!     set live6 { type ipv6_addr; flags timeout; }
//!     chain incoming {
//!         type filter hook prerouting priority -300;
//!         ip daddr @vips4 ip daddr != @live4 fib daddr type local drop
//!         ip6 daddr @vips6 ip6 daddr != @live6 fib daddr type local drop
//!     }
//!     chain outgoing {
//!         type filter hook output priority -300;
//!         ip saddr @vips4 ip saddr != @live4 drop
//!         ip6 saddr @vips6 ip6 saddr != @live6 drop
//!         icmpv6 type nd-neighbor-advert icmpv6 taddr @vips6 icmpv6 taddr != @live6 drop
//!     }
//! }
//! table arp colossus_vip {
//!     set vips4 { … }
//!     set live4 { … }
//!     chain outgoing { type filter hook output priority -300; arp saddr ip @vips4 arp saddr ip != @live4 drop }
//! }
//! ```
//!
//! - `incoming` comes before Docker's destination NAT: packets to a published port are forwarded, and never reach the hook `input`.
//!   `fib daddr type local` spares what this host only passes on to the node that holds the address. A kernel without
//!   `fib` gets the same at `input`.
//! - `outgoing` also drops what a connection of before still wants to say, and neighbour solicitations, which advertise
//!   their sender too.
//! - What a packet socket sends (our own announcements) passes by the table `arp`. They are sent by the clock.
//!
//! Whoever flushes all rules of the host removes these, too. That is seen at the next renewal, which makes them again; until then
//! the address's lifetime is what is left.
//!
//! A set is renewed by emptying it and filling it again, in one transaction: neither fails for an element that has just
//! ended, no packet sees the set between the two, and no kernel that can do this is too old.

mod message;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::clock::BootInstant;
use super::netlink::{Asking, Family, NetlinkError};
use message::Changes;

/// What the names of all our tables begin with.
const PREFIX: &str = "colossus_vip";
/// The longest name of an instance.
const INSTANCE_MAX: usize = 64;
/// `ENOENT`: what the transaction is about is not there.
const NOT_THERE: i32 = 2;
/// What a kernel says that cannot do what it was asked: `ENOENT`, `EINVAL`, `EPROTONOSUPPORT`, `EOPNOTSUPP`, `EAFNOSUPPORT`.
const UNABLE: [i32; 5] = [NOT_THERE, 22, 93, 95, 97];

/// The name of the tables of one keeper. Several keepers on a host, each with addresses of its own, have one each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableName(String);

impl TableName {
    /// The name for `instance`, or for the only keeper of a host. None if it is no name: 1 to 64 of the letters, digits,
    /// `_`, `-` and `.`.
    pub(crate) fn of(instance: Option<&str>) -> Option<Self> {
        let Some(instance) = instance else {
            return Some(Self(PREFIX.to_owned()));
        };
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let is_name = (1..=INSTANCE_MAX).contains(&instance.len()) && instance.chars().all(fits);
        is_name.then(|| Self(format!("{PREFIX}_{instance}")))
    }

    /// Whether a table of this name is a keeper's.
    fn is_ours(name: &str) -> bool {
        name.strip_prefix(PREFIX)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Where packets to a virtual IP are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateHook {
    /// Before destination NAT (Docker's published ports): needs the expression `fib`.
    Prerouting,
    /// Where this host receives: published ports of containers answer until the address is gone.
    Input,
}

/// The tables of one keeper.
#[derive(Debug)]
pub(crate) struct Gate {
    netlink: Asking,
    name: TableName,
    addresses: Vec<IpAddr>,
    hook: GateHook,
}

impl Gate {
    /// Makes the tables anew, whatever there was under this name, with the gate shut for every address.
    pub(crate) async fn open(
        name: TableName,
        addresses: Vec<IpAddr>,
        deadline: Duration,
    ) -> Result<Self, NetlinkError> {
        let mut gate = Self {
            netlink: Asking::open(Family::Netfilter, deadline).map_err(NetlinkError::Socket)?,
            name,
            addresses,
            hook: GateHook::Prerouting,
        };
        match gate.build(&[]).await {
            Err(error) if is_inability(&error) => {
                gate.hook = GateHook::Input;
                gate.build(&[]).await?;
            }
            result => result?,
        }
        Ok(gate)
    }

    /// Says whether this kernel has what the tables are made of, and changes nothing.
    pub(crate) async fn probe(deadline: Duration) -> Result<GateHook, NetlinkError> {
        let mut netlink = Asking::open(Family::Netfilter, deadline).map_err(NetlinkError::Socket)?;
        let name = TableName(format!("{PREFIX}_probe"));
        let addresses = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        let mut refused = None;
        for hook in [GateHook::Prerouting, GateHook::Input] {
            let mut changes = Changes::new(netlink.batch(), &name);
            changes.make(&addresses, hook, &[]);
            match netlink.check(changes.into_batch()).await {
                Ok(()) => return Ok(hook),
                Err(error) => refused = Some(error),
            }
        }
        Err(refused.unwrap_or(NetlinkError::Socket(io::ErrorKind::Unsupported.into())))
    }

    /// Where packets are dropped.
    pub(crate) fn hook(&self) -> GateHook {
        self.hook
    }

    /// Opens the gate for exactly these addresses, each until its time, and shuts it for all others. An address whose time is
    /// over is one of the others.
    ///
    /// Somebody may have removed the tables (`nft flush ruleset`): then they are made again.
    pub(crate) async fn set(&mut self, live: &[(IpAddr, BootInstant)]) -> Result<(), NetlinkError> {
        let mut changes = Changes::new(self.netlink.batch(), &self.name);
        changes.refill(&self.addresses, live);
        match self.netlink.commit(changes.into_batch()).await {
            Err(error) if error.refusal() == Some(NOT_THERE) => {
                tracing::warn!(
                    table = self.name.as_str(),
                    "somebody removed the gate of nftables: it is made again"
                );
                self.build(live).await
            }
            result => result,
        }
    }

    /// Removes the tables: nothing is shut any more.
    pub(crate) async fn remove(mut self) -> Result<(), NetlinkError> {
        remove(&mut self.netlink, &self.name).await
    }

    /// Whether another keeper has tables here.
    pub(crate) async fn has_others(&mut self) -> Result<bool, NetlinkError> {
        let tables = tables(&mut self.netlink).await?;
        Ok(tables.iter().any(|table| *table != self.name))
    }

    async fn build(&mut self, live: &[(IpAddr, BootInstant)]) -> Result<(), NetlinkError> {
        let mut changes = Changes::new(self.netlink.batch(), &self.name);
        changes.make(&self.addresses, self.hook, live);
        self.netlink.commit(changes.into_batch()).await
    }
}

/// Whether the kernel refused because it lacks something.
pub(crate) fn is_inability(error: &NetlinkError) -> bool {
    error.errno().is_some_and(|errno| UNABLE.contains(&errno))
}

/// Removes the tables of the keeper `name`, if there are any and the kernel has tables.
pub(crate) async fn remove_tables(name: &TableName, deadline: Duration) -> Result<(), NetlinkError> {
    let mut netlink = match Asking::open(Family::Netfilter, deadline).map_err(NetlinkError::Socket) {
        Err(error) if is_inability(&error) => return Ok(()),
        opened => opened?,
    };
    match remove(&mut netlink, name).await {
        Err(error) if is_inability(&error) => Ok(()),
        removed => removed,
    }
}

/// Removes the tables of every keeper. Says which.
pub(crate) async fn remove_all_tables(deadline: Duration) -> Result<Vec<TableName>, NetlinkError> {
    let mut netlink = match Asking::open(Family::Netfilter, deadline).map_err(NetlinkError::Socket) {
        Err(error) if is_inability(&error) => return Ok(Vec::new()),
        opened => opened?,
    };
    let tables = match tables(&mut netlink).await {
        Err(error) if is_inability(&error) => Vec::new(),
        tables => tables?,
    };
    for table in &tables {
        remove(&mut netlink, table).await?;
    }
    Ok(tables)
}

async fn tables(netlink: &mut Asking) -> Result<Vec<TableName>, NetlinkError> {
    let mut tables = netlink
        .list(message::GET_TABLE, message::all_families, message::table_name)
        .await?;
    tables.retain(|table| TableName::is_ours(table));
    tables.sort();
    tables.dedup();
    Ok(tables.into_iter().map(TableName).collect())
}

/// Removes the tables of `name` in each family that the kernel has.
async fn remove(netlink: &mut Asking, name: &TableName) -> Result<(), NetlinkError> {
    for family in [message::INET, message::ARP] {
        let mut changes = Changes::new(netlink.batch(), name);
        changes.remove(family);
        match netlink.commit(changes.into_batch()).await {
            Err(error) if is_inability(&error) => {}
            result => result?,
        }
    }
    Ok(())
}
