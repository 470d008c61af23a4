//! Links and addresses, as the kernel tells them and takes them (rtnetlink).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::error::NetError;
use super::mac::Mac;
use super::netlink::{Asking, Attributes, Family, Message, NetlinkError, Writer, number, text};
use super::place::{Survey, holds};
use crate::vip::Vip;

/// `RTM_*`.
pub(crate) const NEW_LINK: u16 = 16;
pub(crate) const DELETED_LINK: u16 = 17;
const GET_LINK: u16 = 18;
pub(crate) const NEW_ADDRESS: u16 = 20;
pub(crate) const DELETED_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;
/// `RTMGRP_LINK`, `RTMGRP_IPV4_IFADDR` and `RTMGRP_IPV6_IFADDR`: the news of links and addresses.
pub(crate) const NEWS: u32 = 0x1 | 0x10 | 0x100;

/// `NLM_F_CREATE` and `NLM_F_REPLACE`: there afterwards, whether or not it was before.
const CREATE_OR_REPLACE: u16 = 0x400 | 0x100;
/// `IFF_*`.
const UP: u32 = 1;
const LOOPBACK: u32 = 8;
const NO_ARP: u32 = 0x80;
const LOWER_UP: u32 = 0x1_0000;
/// `ARPHRD_ETHER`.
const ETHERNET: u16 = 1;
/// `IFA_F_*`: no duplicate address detection, and no route for a prefix.
const NO_DAD: u32 = 0x02;
const NO_PREFIX_ROUTE: u32 = 0x200;
/// A lifetime without end.
const FOR_EVER: u32 = u32::MAX;
/// `IFA_PROTO` of our addresses: what says that they are ours (Linux 5.18 and newer). The kernel itself uses 1 to 3.
pub(crate) const MARK: u8 = 0xC0;

/// `EADDRNOTAVAIL` and `ENODEV`: there is no such address, no such interface.
const ABSENT: [i32; 2] = [99, 19];

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// Its hardware address, where it is an Ethernet interface that speaks ARP.
    pub(crate) mac: Option<Mac>,
    /// Whether it was set up.
    pub(crate) up: bool,
    /// Whether there is a link to the other side.
    pub(crate) carrier: bool,
}

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) index: u32,
    pub(crate) address: IpAddr,
    /// The network that is behind the interface: an address of it, and the length of its prefix.
    pub(crate) network: IpAddr,
    pub(crate) prefix: u8,
    /// Whether the kernel will remove it by itself.
    pub(crate) ends: bool,
    /// Whether it bears our mark.
    pub(crate) marked: bool,
}

/// What a kernel can do with a mark, and so which addresses are ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marks(pub(crate) bool);

impl Address {
    /// Whether it is `ip`, or has it in its network.
    fn concerns(&self, ip: IpAddr) -> bool {
        self.address == ip || holds(self.network, self.prefix, ip)
    }

    /// Whether a keeper added it: it bears the mark or, on a kernel that knows no marks, it ends, as only ours do that have
    /// the address of a virtual IP.
    pub(crate) fn is_ours(&self, marks: Marks) -> bool {
        self.marked || (!marks.0 && self.ends)
    }
}

/// Asks about links and addresses, and changes addresses.
#[derive(Debug)]
pub(crate) struct Route(Asking);

impl Route {
    pub(crate) fn open(deadline: Duration) -> io::Result<Self> {
        Asking::open(Family::Route, deadline).map(Self)
    }

    /// All interfaces, by their index.
    async fn links(&mut self) -> Result<BTreeMap<u32, Link>, NetlinkError> {
        let links = self.0.list(GET_LINK, |message| asked(message, 0), link).await?;
        Ok(links.into_iter().map(|link| (link.index, link)).collect())
    }

    /// The interface of this index, if there is one.
    pub(crate) async fn link(&mut self, index: u32) -> Result<Option<Link>, NetError> {
        let link = self.0.get(GET_LINK, |message| asked(message, index), link).await;
        or_absent(link).map_err(NetError::ListLinks)
    }

    /// The interface of this name, if there is one.
    async fn link_named(&mut self, name: &str) -> Result<Option<Link>, NetError> {
        let ask = |message: &mut Writer| {
            asked(message, 0);
            message.text(3, name);
        };
        let link = self.0.get(GET_LINK, ask, link).await;
        or_absent(link).map_err(NetError::ListLinks)
    }

    /// All addresses of all interfaces.
    async fn addresses(&mut self) -> Result<Vec<Address>, NetlinkError> {
        self.0
            .list(GET_ADDRESS, |message| message.put(&[0; 8]), address)
            .await
    }

    /// All addresses, and of the interfaces those that `vip` could be on: on a host of many containers all of them would
    /// take most of the time of taking an address.
    pub(crate) async fn survey_for(&mut self, vip: &Vip) -> Result<Survey, NetError> {
        let addresses = self.addresses().await.map_err(NetError::ListAddresses)?;
        let concerned = addresses.iter().filter(|address| address.concerns(vip.address));
        let indexes: BTreeSet<_> = concerned.map(|address| address.index).collect();
        let mut links = BTreeMap::new();
        for index in indexes {
            links.extend(self.link(index).await?.map(|link| (index, link)));
        }
        if let Some(name) = &vip.interface {
            links.extend(self.link_named(name).await?.map(|link| (link.index, link)));
        }
        Ok(Survey { links, addresses })
    }

    /// All of both.
    pub(crate) async fn survey(&mut self) -> Result<Survey, NetError> {
        Ok(Survey {
            links: self.links().await.map_err(NetError::ListLinks)?,
            addresses: self.addresses().await.map_err(NetError::ListAddresses)?,
        })
    }

    /// Adds `address` to an interface for `lifetime` seconds, or gives it these if it is there.
    ///
    /// It counts as outlived from the start (a preferred lifetime of 0), so that nothing on this host chooses it as the source
    /// of a connection of its own.
    pub(crate) async fn add(
        &mut self,
        index: u32,
        address: IpAddr,
        lifetime: u32,
    ) -> Result<(), NetlinkError> {
        self.0
            .request(NEW_ADDRESS, CREATE_OR_REPLACE, |message| {
                named(message, index, address);
                // struct ifa_cacheinfo: preferred, valid, and two times that only the kernel tells.
                let lifetimes = [0, lifetime, 0, 0].map(u32::to_ne_bytes).concat();
                message.attribute(6, &lifetimes);
                message.attribute(8, &(NO_DAD | NO_PREFIX_ROUTE).to_ne_bytes());
                message.attribute(11, &[MARK]);
            })
            .await
    }

    /// Removes `address` from an interface. Says whether it was there.
    pub(crate) async fn remove(&mut self, index: u32, address: IpAddr) -> Result<bool, NetlinkError> {
        let removed = self
            .0
            .request(DELETED_ADDRESS, 0, |message| named(message, index, address))
            .await;
        or_absent(removed.map(Some)).map(|removed| removed.is_some())
    }
}

/// None if the kernel says that there is no such thing.
fn or_absent<T>(answer: Result<Option<T>, NetlinkError>) -> Result<Option<T>, NetlinkError> {
    match answer {
        Err(error) if error.refusal().is_some_and(|errno| ABSENT.contains(&errno)) => Ok(None),
        answer => answer,
    }
}

/// A `struct ifinfomsg` for an interface, or any with 0; and `IFLA_EXT_MASK` with `RTEXT_FILTER_SKIP_STATS`: the
/// counters make most of an answer.
fn asked(message: &mut Writer, index: u32) {
    message.put(&[0; 4]);
    message.put(&index.to_ne_bytes());
    message.put(&[0; 8]);
    message.attribute(29, &8u32.to_ne_bytes());
}

/// A `struct ifaddrmsg`, `IFA_LOCAL` and `IFA_ADDRESS`.
fn named(message: &mut Writer, index: u32, address: IpAddr) {
    let (family, prefix, bytes) = match address {
        IpAddr::V4(v4) => (2, 32, v4.octets().to_vec()),
        IpAddr::V6(v6) => (10, 128, v6.octets().to_vec()),
    };
    message.put(&[family, prefix, 0, 0]);
    message.put(&index.to_ne_bytes());
    message.attribute(2, &bytes);
    message.attribute(1, &bytes);
}

/// The interface that a message of `RTM_NEWLINK` or `RTM_DELLINK` is about.
pub(crate) fn link(message: &Message<'_>) -> Option<Link> {
    if !matches!(message.kind, NEW_LINK | DELETED_LINK) {
        return None;
    }
    // struct ifinfomsg: family, padding, type, index, flags, change.
    let (header, attributes) = message.payload.split_first_chunk::<16>()?;
    let [family, _, t0, t1, i0, i1, i2, i3, f0, f1, f2, f3, ..] = *header;
    // News of a bridge's ports come in the same way, as family AF_BRIDGE, and tell less.
    if family != 0 {
        return None;
    }
    let flags = u32::from_ne_bytes([f0, f1, f2, f3]);
    let speaks_arp = u16::from_ne_bytes([t0, t1]) == ETHERNET && flags & (LOOPBACK | NO_ARP) == 0;
    let mut link = Link {
        index: u32::from_ne_bytes([i0, i1, i2, i3]),
        name: String::new(),
        mac: None,
        up: flags & UP != 0,
        carrier: flags & LOWER_UP != 0,
    };
    for (kind, payload) in Attributes(attributes) {
        match kind {
            1 if speaks_arp => link.mac = Mac::host(payload),
            3 => link.name = text(payload),
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

/// The address that a message of `RTM_NEWADDR` or `RTM_DELADDR` is about.
pub(crate) fn address(message: &Message<'_>) -> Option<Address> {
    if !matches!(message.kind, NEW_ADDRESS | DELETED_ADDRESS) {
        return None;
    }
    // struct ifaddrmsg: family, length of the prefix, flags, scope, index.
    let (header, attributes) = message.payload.split_first_chunk::<8>()?;
    let [family, prefix, _, _, i0, i1, i2, i3] = *header;
    let (mut network, mut local, mut ends, mut marked) = (None, None, false, false);
    for (kind, payload) in Attributes(attributes) {
        match kind {
            1 => network = ip(family, payload),
            2 => local = ip(family, payload),
            6 => {
                ends = payload
                    .get(4..)
                    .and_then(number)
                    .is_some_and(|valid| valid != FOR_EVER);
            }
            11 => marked = payload.first() == Some(&MARK),
            _ => {}
        }
    }
    Some(Address {
        index: u32::from_ne_bytes([i0, i1, i2, i3]),
        // With a peer (point to point), the local one is ours and the other is the peer's.
        address: local.or(network)?,
        network: network.or(local)?,
        prefix,
        ends,
        marked,
    })
}

fn ip(family: u8, payload: &[u8]) -> Option<IpAddr> {
    match family {
        2 => <[u8; 4]>::try_from(payload)
            .ok()
            .map(|octets| Ipv4Addr::from(octets).into()),
        10 => <[u8; 16]>::try_from(payload)
            .ok()
            .map(|octets| Ipv6Addr::from(octets).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::netlink::{Messages, Writer};
    use super::*;

    fn read<T>(writer: &Writer, parse: impl Fn(&Message<'_>) -> Option<T>) -> Vec<T> {
        Messages(writer.bytes())
            .filter_map(|message| parse(&message))
            .collect()
    }

    /// As Linux 6.18 tells of 10.0.0.100/32 with a lifetime.
    fn told(kind: u16, valid: u32, mark: &[u8]) -> Writer {
        let mut writer = Writer::default();
        writer.message(kind, 0, 1, |message| {
            message.put(&[2, 32, 0, 0]);
            message.put(&3u32.to_ne_bytes());
            message.attribute(1, &[10, 0, 0, 100]);
            message.attribute(2, &[10, 0, 0, 100]);
            message.text(3, "eth0");
            message.attribute(8, &0x2a0u32.to_ne_bytes());
            message.attribute(6, &[0, valid, 77, 77].map(u32::to_ne_bytes).concat());
            message.attribute(11, mark);
        });
        writer
    }

    #[test]
    fn an_address_is_ours_by_its_mark_or_by_its_lifetime_where_there_are_no_marks() {
        for (valid, mark, with_marks, without) in [
            (2, MARK, true, true),
            (FOR_EVER, MARK, true, true),
            (2, 0, false, true),
            (FOR_EVER, 0, false, false),
        ] {
            let read = read(&told(NEW_ADDRESS, valid, &[mark]), address);
            let [address] = read.as_slice() else {
                panic!("{read:?}")
            };
            assert_eq!((address.index, address.prefix), (3, 32));
            assert_eq!(address.address.to_string(), "10.0.0.100");
            assert_eq!(
                (address.is_ours(Marks(true)), address.is_ours(Marks(false))),
                (with_marks, without)
            );
        }
    }

    #[test]
    fn with_a_peer_the_local_address_is_the_hosts_and_the_network_is_the_peers() {
        let mut writer = Writer::default();
        writer.message(NEW_ADDRESS, 0, 1, |message| {
            message.put(&[2, 24, 0, 0]);
            message.put(&3u32.to_ne_bytes());
            message.attribute(1, &[10, 1, 0, 1]);
            message.attribute(2, &[10, 0, 0, 1]);
        });
        let read = read(&writer, address);
        let [address] = read.as_slice() else {
            panic!("{read:?}")
        };
        assert_eq!(
            (address.address.to_string(), address.network.to_string()),
            ("10.0.0.1".into(), "10.1.0.1".into())
        );
    }

    #[test]
    fn a_link_is_read_by_what_matters_here() {
        for (flags, device, up, carrier, mac) in [
            (UP | LOWER_UP, ETHERNET, true, true, true),
            (UP, ETHERNET, true, false, true),
            (0, ETHERNET, false, false, true),
            (UP | LOWER_UP | NO_ARP, ETHERNET, true, true, false),
            (UP | LOWER_UP, 512, true, true, false),
        ] {
            let mut writer = Writer::default();
            writer.message(NEW_LINK, 0, 1, |message| {
                message.put(&[&[0, 0][..], &device.to_ne_bytes()].concat());
                message.put(&7u32.to_ne_bytes());
                message.put(&flags.to_ne_bytes());
                message.put(&[0; 4]);
                message.text(3, "eth0");
                message.attribute(1, &[2, 0, 0, 0, 0, 9]);
            });
            let expected = Link {
                index: 7,
                name: "eth0".into(),
                mac: mac.then_some(Mac([2, 0, 0, 0, 0, 9])),
                up,
                carrier,
            };
            assert_eq!(read(&writer, link), [expected]);
        }
    }

    proptest! {
        #[test]
        fn no_message_panics(kind in 14u16..24, payload in proptest::collection::vec(any::<u8>(), 0..120)) {
            let message = Message { kind, flags: 0, sequence: 0, payload: &payload };
            let _ = (link(&message), address(&message));
        }
    }
}
