//! Telling everybody on a link that an address is here now, again and again.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{LinkAddr, MsgFlags, sendto};
use socket2::{Domain, Protocol, Socket, Type};

use super::clock::BootInstant;
use super::mac::Mac;
use super::packet::advertisement::unsolicited;
use super::packet::arp::{Form, gratuitous};
use super::packet::filter;

/// How long after the first announcement the next ones follow. One may be lost, or meet a switch that has just
/// learnt of the port; a Linux neighbour takes no second one within a second of the first (`locktime`), so the later
/// ones are further apart than that.
const BURST: [Duration; 5] = [
    Duration::from_millis(50),
    Duration::from_millis(250),
    Duration::from_millis(1350),
    Duration::from_millis(2450),
    Duration::from_millis(3550),
];
/// How often an address is announced while it is held: for hosts and switches that missed all of the burst.
const REFRESH: Duration = Duration::from_secs(30);
/// Everybody on the link (`ff02::1`).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Interfaces whose packet address is remembered.
const REMEMBERED_MAX: usize = 64;

/// When an address is to be announced again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Schedule {
    begun: BootInstant,
    due: BootInstant,
}

impl Schedule {
    /// Begins with an announcement at `now`.
    pub(crate) fn begun(now: BootInstant) -> Self {
        let mut schedule = Self { begun: now, due: now };
        schedule.announced(now);
        schedule
    }

    /// When the next one is due.
    pub(crate) fn due(&self) -> BootInstant {
        self.due
    }

    /// Counts one that was made at `now`. Those that were missed meanwhile are not made up for.
    pub(crate) fn announced(&mut self, now: BootInstant) {
        let mut burst = BURST.into_iter().map(|after| self.begun.saturating_add(after));
        self.due = burst
            .find(|due| *due > now)
            .unwrap_or(now.saturating_add(REFRESH));
    }
}

/// Sends announcements.
#[derive(Debug)]
pub(crate) struct Announcer {
    arp: Option<Socket>,
    icmp: Option<Socket>,
    /// The packet address of each interface, by its index: nothing of it is used but that index.
    interfaces: BTreeMap<u32, LinkAddr>,
}

impl Announcer {
    /// Sockets for the families that are needed.
    pub(crate) fn open(v4: bool, v6: bool) -> io::Result<Self> {
        Ok(Self {
            arp: v4.then(arp_socket).transpose()?,
            icmp: v6.then(icmp_socket).transpose()?,
            interfaces: BTreeMap::new(),
        })
    }

    /// Tells everybody on the interface that `address` is at `mac`. The caller looks at the clock first: no gate holds
    /// back what a packet socket sends.
    pub(crate) fn announce(
        &mut self,
        index: u32,
        interface: &str,
        mac: Mac,
        address: IpAddr,
    ) -> io::Result<()> {
        match (address, &self.arp, &self.icmp) {
            (IpAddr::V4(v4), Some(socket), _) => {
                let to = packet_address(&mut self.interfaces, index)?;
                for form in [Form::Request, Form::Reply] {
                    sendto(
                        socket.as_raw_fd(),
                        &gratuitous(form, mac, v4),
                        &to,
                        MsgFlags::MSG_DONTWAIT,
                    )?;
                }
                Ok(())
            }
            (IpAddr::V6(v6), _, Some(socket)) => {
                let to = SocketAddrV6::new(ALL_NODES, 0, 0, index);
                let message = unsolicited(mac, v6, is_router(interface));
                socket.send_to(&message, &to.into()).map(drop)
            }
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

fn arp_socket() -> io::Result<Socket> {
    // Without a protocol a packet socket receives nothing.
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn icmp_socket() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    socket.attach_filter(&filter::nothing())?;
    socket.set_nonblocking(true)?;
    // What has passed a router is no word of a neighbour (RFC 4861, 7.1.2).
    socket.set_multicast_hops_v6(255)?;
    socket.set_multicast_loop_v6(false)?;
    Ok(socket)
}

/// The address of an interface for a packet socket. The kernel is asked for its list of them, since no safe function
/// makes one.
fn packet_address(known: &mut BTreeMap<u32, LinkAddr>, index: u32) -> io::Result<LinkAddr> {
    if let Some(address) = known.get(&index) {
        return Ok(*address);
    }
    let is_it = |address: &LinkAddr| u32::try_from(address.ifindex()) == Ok(index);
    let found = getifaddrs()?
        .filter_map(|interface| interface.address?.as_link_addr().copied())
        .find(is_it)
        .ok_or(io::ErrorKind::NotFound)?;
    if known.len() >= REMEMBERED_MAX {
        known.clear();
    }
    known.insert(index, found);
    Ok(found)
}

/// Whether the host routes IPv6 on this interface.
fn is_router(interface: &str) -> bool {
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/forwarding");
    std::fs::read_to_string(path).is_ok_and(|text| text.trim() != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_comes_first_and_then_a_slow_refresh() {
        let start = BootInstant::from_boot(Duration::from_secs(1000));
        let mut schedule = Schedule::begun(start);
        let mut seconds = Vec::new();
        for _ in 0..8 {
            let due = schedule.due();
            seconds.push(due.saturating_since(start).as_secs_f64());
            schedule.announced(due);
        }
        assert_eq!(seconds, [0.05, 0.25, 1.35, 2.45, 3.55, 33.55, 63.55, 93.55]);
    }

    #[test]
    fn what_was_missed_is_not_made_up_for() {
        let start = BootInstant::from_boot(Duration::from_secs(1000));
        let mut schedule = Schedule::begun(start);
        schedule.announced(start.saturating_add(Duration::from_secs(2)));
        assert_eq!(schedule.due(), start.saturating_add(BURST[3]));
        let late = start.saturating_add(Duration::from_secs(3600));
        schedule.announced(late);
        assert_eq!(schedule.due(), late.saturating_add(REFRESH));
    }
}
