//! Where a virtual IP goes, and whose the address is that is there: decided from what the kernel listed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::mac::Mac;
use super::route::{Address, Link, Marks};
use crate::vip::Vip;

/// Where a virtual IP would go on this host, and what is there now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The name of the interface.
    pub interface: String,
    /// Its index.
    pub index: u32,
    /// Its hardware address; none if it is not an Ethernet interface, where nothing need be announced.
    pub mac: Option<Mac>,
    /// Whether the interface is set up.
    pub up: bool,
    /// Whether it has a link to the other side.
    pub carrier: bool,
    /// Whether the address is on this host, on whatever interface.
    pub presence: Presence,
}

impl Placement {
    /// Whether the address could be held here now.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.up && self.carrier && self.presence != Presence::Foreign
    }
}

/// Whether an address is on this host, and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It is not here.
    Absent,
    /// A keeper added it.
    Ours,
    /// Somebody else added it: it is left alone.
    Foreign,
}

/// What the kernel listed.
#[derive(Debug)]
pub(crate) struct Survey {
    pub(crate) links: BTreeMap<u32, Link>,
    pub(crate) addresses: Vec<Address>,
}

impl Survey {
    /// The interface for `vip`: the one it names, or the one whose network holds it. Among several the narrowest network
    /// counts, then a link that is up, then the oldest interface.
    pub(crate) fn link_of(&self, vip: &Vip, marks: Marks) -> Option<&Link> {
        if let Some(name) = &vip.interface {
            return self.links.values().find(|link| link.name == *name);
        }
        self.addresses
            .iter()
            .filter(|address| address.address != vip.address && !address.marked)
            .filter(|address| !(address.is_ours(marks) && address.prefix == whole(address.address)))
            .filter(|address| holds(address.network, address.prefix, vip.address))
            .filter_map(|address| Some((address.prefix, self.links.get(&address.index)?)))
            .max_by_key(|(prefix, link)| (*prefix, link.up && link.carrier, std::cmp::Reverse(link.index)))
            .map(|(_, link)| link)
    }

    /// Every place where `ip` is, with whether it is ours.
    pub(crate) fn found(&self, ip: IpAddr, marks: Marks) -> impl Iterator<Item = (u32, bool)> + '_ {
        self.addresses
            .iter()
            .filter(move |address| address.address == ip)
            .map(move |address| (address.index, address.is_ours(marks)))
    }

    /// What a keeper put here that may be removed: what is ours among `configured`, and with `all_marked` whatever bears
    /// the mark.
    pub(crate) fn leftovers<'a>(
        &'a self,
        configured: &'a BTreeSet<IpAddr>,
        marks: Marks,
        all_marked: bool,
    ) -> impl Iterator<Item = &'a Address> {
        self.addresses.iter().filter(move |address| {
            let ours = configured.contains(&address.address) && address.is_ours(marks);
            ours || (all_marked && address.marked)
        })
    }

    /// Whether `ip` is here, and whose it is.
    pub(crate) fn presence(&self, ip: IpAddr, marks: Marks) -> Presence {
        match self.found(ip, marks).map(|(_, ours)| ours).min() {
            None => Presence::Absent,
            Some(true) => Presence::Ours,
            Some(false) => Presence::Foreign,
        }
    }

    /// The place of `vip`.
    pub(crate) fn placement(&self, vip: &Vip, marks: Marks) -> Option<Placement> {
        let link = self.link_of(vip, marks)?;
        Some(Placement {
            interface: link.name.clone(),
            index: link.index,
            mac: link.mac,
            up: link.up,
            carrier: link.carrier,
            presence: self.presence(vip.address, marks),
        })
    }

    /// What an interface is called, for a message.
    pub(crate) fn name(&self, index: u32) -> String {
        self.links
            .get(&index)
            .map_or_else(|| format!("interface {index}"), |link| link.name.clone())
    }
}

/// The length of the prefix of one address alone.
fn whole(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Whether `address` is in the network of `prefix` bits that `network` is of. A network of one address holds no other.
pub(crate) fn holds(network: IpAddr, prefix: u8, address: IpAddr) -> bool {
    let differing = match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => (network.to_bits() ^ address.to_bits()).leading_zeros(),
        (IpAddr::V6(network), IpAddr::V6(address)) => (network.to_bits() ^ address.to_bits()).leading_zeros(),
        _ => return false,
    };
    prefix > 0 && differing >= u32::from(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKS: Marks = Marks(true);

    fn link(index: u32, name: &str, up: bool) -> (u32, Link) {
        let link = Link {
            index,
            name: name.into(),
            mac: Some(Mac([2, 0, 0, 0, 0, 1])),
            up,
            carrier: up,
        };
        (index, link)
    }

    fn address(index: u32, text: &str) -> Address {
        let (address, prefix) = text.split_once('/').expect("with a prefix");
        let address = address.parse().expect("an address");
        Address {
            index,
            address,
            network: address,
            prefix: prefix.parse().expect("a length"),
            ends: false,
            marked: false,
        }
    }

    fn survey(addresses: &[Address]) -> Survey {
        Survey {
            links: [
                link(1, "lo", true),
                link(2, "eth0", true),
                link(3, "eth1", true),
                link(4, "eth2", false),
            ]
            .into(),
            addresses: addresses.to_vec(),
        }
    }

    fn place(vip: &str, addresses: &[Address]) -> Option<String> {
        let vip = vip.parse().expect("a virtual IP");
        survey(addresses)
            .placement(&vip, MARKS)
            .map(|place| place.interface)
    }

    #[test]
    fn an_address_goes_where_its_network_is() {
        let addresses = [
            address(1, "127.0.0.1/8"),
            address(2, "10.0.0.1/24"),
            address(3, "10.0.1.1/24"),
            address(3, "fd00::1/64"),
        ];
        assert_eq!(place("10.0.0.100", &addresses).as_deref(), Some("eth0"));
        assert_eq!(place("10.0.1.100", &addresses).as_deref(), Some("eth1"));
        assert_eq!(place("fd00::100", &addresses).as_deref(), Some("eth1"));
        assert_eq!(place("10.0.2.100", &addresses), None);
        assert_eq!(place("fd01::100", &addresses), None);
    }

    #[test]
    fn the_narrowest_network_counts_then_a_link_that_is_up_then_the_oldest() {
        assert_eq!(
            place(
                "10.0.0.100",
                &[address(2, "10.0.0.1/8"), address(3, "10.0.0.2/24")]
            )
            .as_deref(),
            Some("eth1")
        );
        assert_eq!(
            place(
                "10.0.0.100",
                &[address(4, "10.0.0.1/24"), address(3, "10.0.0.2/24")]
            )
            .as_deref(),
            Some("eth1")
        );
        assert_eq!(
            place(
                "10.0.0.100",
                &[address(3, "10.0.0.1/24"), address(2, "10.0.0.2/24")]
            )
            .as_deref(),
            Some("eth0")
        );
        assert_eq!(
            place("10.0.0.100", &[address(4, "10.0.0.1/24")]).as_deref(),
            Some("eth2")
        );
    }

    #[test]
    fn a_virtual_ip_is_no_reason_for_a_virtual_ip() {
        let marked = Address {
            marked: true,
            ends: true,
            ..address(3, "10.0.0.7/24")
        };
        assert_eq!(place("10.0.0.100", std::slice::from_ref(&marked)), None);
        assert_eq!(place("10.0.0.100", &[address(3, "10.0.0.100/24")]), None);
        assert_eq!(
            place("10.0.0.100", &[marked, address(2, "10.0.0.1/24")]).as_deref(),
            Some("eth0")
        );
    }

    #[test]
    fn a_network_of_everything_is_none() {
        assert_eq!(place("10.0.0.100", &[address(2, "10.0.0.1/0")]), None);
    }

    #[test]
    fn an_interface_that_is_named_must_be_there() {
        assert_eq!(place("10.9.0.1@eth1", &[]).as_deref(), Some("eth1"));
        assert_eq!(place("10.9.0.1@eth9", &[address(2, "10.9.0.2/24")]), None);
    }

    #[test]
    fn one_foreign_address_makes_it_foreign() {
        let ip = "10.0.0.100".parse().expect("an address");
        let ours = Address {
            marked: true,
            ends: true,
            ..address(2, "10.0.0.100/32")
        };
        for (addresses, presence) in [
            (vec![], Presence::Absent),
            (vec![ours.clone()], Presence::Ours),
            (vec![address(2, "10.0.0.100/24")], Presence::Foreign),
            (vec![ours, address(3, "10.0.0.100/24")], Presence::Foreign),
        ] {
            assert_eq!(survey(&addresses).presence(ip, MARKS), presence);
        }
    }

    #[test]
    fn what_bears_no_mark_is_never_a_leftover() {
        let ours = |text| Address {
            marked: true,
            ends: true,
            ..address(2, text)
        };
        let lives = Address {
            ends: true,
            ..address(2, "10.0.0.102/24")
        };
        let survey = survey(&[
            ours("10.0.0.100/32"),
            ours("10.0.0.101/32"),
            lives,
            address(2, "10.0.0.103/24"),
        ]);
        let configured = ["10.0.0.100", "10.0.0.102", "10.0.0.103"]
            .map(|ip| ip.parse().expect("an address"))
            .into();
        let left = |marks, all| {
            let left = survey.leftovers(&configured, marks, all);
            left.map(|address| address.address.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(left(MARKS, false), ["10.0.0.100"]);
        assert_eq!(left(MARKS, true), ["10.0.0.100", "10.0.0.101"]);
        assert_eq!(left(Marks(false), false), ["10.0.0.100", "10.0.0.102"]);
    }
}
