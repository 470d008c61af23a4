//! Hearing others announce our addresses.

use std::collections::BTreeSet;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;

use nix::cmsg_space;
use nix::libc::in6_pktinfo;
use nix::sys::socket::{
    ControlMessageOwned, LinkAddr, MsgFlags, SockaddrIn6, recvfrom, recvmsg, setsockopt,
    sockopt::Ipv6RecvPacketInfo,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::unix::AsyncFd;

use super::mac::Mac;
use super::packet::advertisement::parse_advertisement;
use super::packet::arp::{ETHERTYPE, parse_arp};
use super::packet::filter;
use super::readiness::watched;

/// Longer than any packet that is looked at. What is longer still is cut off.
const PACKET_MAX: usize = 512;
/// Packets read at a time, so that a flood of them keeps nobody from anything else.
const READ_MAX: usize = 64;

/// Somebody spoke for an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Claim {
    pub(crate) address: IpAddr,
    pub(crate) mac: Mac,
    /// On which interface, if the kernel said.
    pub(crate) index: Option<u32>,
}

/// A socket that hears claims of one family.
#[derive(Debug)]
pub(crate) struct Claims {
    socket: AsyncFd<Socket>,
    read: fn(&Socket, &mut [u8]) -> io::Result<Option<Claim>>,
}

impl Claims {
    /// ARP that speaks for one of these, on every interface.
    pub(crate) fn of_v4(addresses: &[Ipv4Addr]) -> io::Result<Self> {
        // With SOCK_DGRAM a packet begins behind the header of the link. What comes in before the filter is there is
        // dropped by whoever reads it: it is nobody's claim to one of these.
        let protocol = Protocol::from(i32::from(ETHERTYPE.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol))?;
        socket.attach_filter(&filter::arp_of(addresses))?;
        Self::new(socket, read_arp)
    }

    /// Neighbour advertisements for one of these, on every interface.
    pub(crate) fn of_v6(addresses: &[Ipv6Addr]) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
        socket.attach_filter(&filter::advertisements_of(addresses))?;
        setsockopt(&socket, Ipv6RecvPacketInfo, &true)?;
        Self::new(socket, read_advertisement)
    }

    fn new(socket: Socket, read: fn(&Socket, &mut [u8]) -> io::Result<Option<Claim>>) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let socket = watched(socket)?;
        Ok(Self { socket, read })
    }

    /// The claims that came, each once. Nothing is lost if this is dropped while it waits.
    pub(crate) async fn next(&mut self) -> io::Result<BTreeSet<Claim>> {
        let mut ready = self.socket.readable().await?;
        let mut claims = BTreeSet::new();
        let mut packet = [0; PACKET_MAX];
        for _ in 0..READ_MAX {
            match ready.try_io(|socket| (self.read)(socket.get_ref(), &mut packet)) {
                Ok(claim) => claims.extend(claim?),
                Err(_no_more) => break,
            }
        }
        Ok(claims)
    }
}

fn read_arp(socket: &Socket, packet: &mut [u8]) -> io::Result<Option<Claim>> {
    let (length, from) = recvfrom::<LinkAddr>(socket.as_raw_fd(), packet)?;
    let seen = packet.get(..length).and_then(parse_arp);
    Ok(seen.map(|seen| Claim {
        address: seen.ip.into(),
        mac: seen.mac,
        index: from.and_then(|from| u32::try_from(from.ifindex()).ok()),
    }))
}

fn read_advertisement(socket: &Socket, packet: &mut [u8]) -> io::Result<Option<Claim>> {
    let mut control = cmsg_space!(in6_pktinfo);
    let (length, index) = {
        let mut parts = [IoSliceMut::new(packet)];
        let received = recvmsg::<SockaddrIn6>(
            socket.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::empty(),
        )?;
        let index = received.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::Ipv6PacketInfo(info) => Some(info.ipi6_ifindex),
            _ => None,
        });
        (received.bytes, index)
    };
    let seen = packet.get(..length).and_then(parse_advertisement);
    Ok(seen.map(|seen| Claim {
        address: seen.target.into(),
        mac: seen.mac,
        index,
    }))
}
