//! What is known of the network, and what news make of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use super::KernelEvent;
use crate::net::conflict::Claim;
use crate::net::netlink::Message;
use crate::net::place::Survey;
use crate::net::route::{self, Address, DELETED_ADDRESS, DELETED_LINK, Link, Marks};
use crate::vip::{Vip, VipName};

/// What is known, and what is to be told of it.
#[derive(Debug)]
pub(super) struct Known {
    vips: BTreeMap<IpAddr, Vip>,
    marks: Marks,
    links: BTreeMap<u32, Link>,
    /// Where the virtual IPs are, and whether they are ours there.
    present: BTreeMap<(IpAddr, u32), bool>,
    /// What is to be told.
    pub(super) events: VecDeque<KernelEvent>,
    /// Whether something was missed since the last list.
    pub(super) lost: bool,
}

impl Known {
    pub(super) fn new(vips: &[Vip], marks: Marks) -> Self {
        Self {
            vips: vips.iter().map(|vip| (vip.address, vip.clone())).collect(),
            marks,
            links: BTreeMap::new(),
            present: BTreeMap::new(),
            events: VecDeque::new(),
            lost: false,
        }
    }

    /// Takes what was listed in the place of what was known.
    pub(super) fn list(&mut self, survey: Survey) {
        self.links = survey.links;
        self.present.clear();
        for address in survey.addresses {
            if self.vips.contains_key(&address.address) {
                let ours = address.is_ours(self.marks);
                self.present.insert((address.address, address.index), ours);
            }
        }
    }

    /// Takes one piece of news.
    pub(super) fn hear(&mut self, message: &Message<'_>) {
        if let Some(link) = route::link(message) {
            self.hear_of_link(link, message.kind == DELETED_LINK);
        } else if let Some(address) = route::address(message) {
            self.hear_of_address(&address, message.kind == DELETED_ADDRESS);
        }
    }

    fn hear_of_link(&mut self, link: Link, gone: bool) {
        let interface = link.name.clone();
        let changed = if gone {
            self.links.remove(&link.index).is_some()
        } else {
            let now = Some(link.clone());
            self.links.insert(link.index, link) != now
        };
        if changed {
            self.events.push_back(KernelEvent::LinkChanged { interface });
        }
    }

    fn hear_of_address(&mut self, address: &Address, gone: bool) {
        let Some(vip) = self.name(address.address) else {
            return;
        };
        let place = (address.address, address.index);
        if gone {
            if self.present.remove(&place).is_some() {
                self.events.push_back(KernelEvent::AddressGone { vip });
            }
            return;
        }
        // Each refresh of a lifetime is told, too.
        let ours = address.is_ours(self.marks);
        if self.present.insert(place, ours) != Some(ours) {
            self.events.push_back(KernelEvent::AddressAppeared { vip, ours });
        }
    }

    /// Takes what others said on the link.
    pub(super) fn conflicts(&mut self, claims: BTreeSet<Claim>) {
        for claim in claims {
            let ours = self.links.values().any(|link| link.mac == Some(claim.mac));
            if ours || !self.is_place_of(claim.address, claim.index) {
                continue;
            }
            if let Some(vip) = self.name(claim.address) {
                let mac = claim.mac;
                self.events.push_back(KernelEvent::Conflict { vip, mac });
            }
        }
    }

    /// Whether an interface is one where the address matters: the one it is on, if it is here, or the one it is meant for.
    /// Elsewhere another network may use the same address.
    fn is_place_of(&self, address: IpAddr, index: Option<u32>) -> bool {
        let Some(index) = index else {
            return true;
        };
        let mut places = self
            .present
            .keys()
            .filter(|(present, _)| *present == address)
            .peekable();
        if places.peek().is_some() {
            return places.any(|(_, place)| *place == index);
        }
        let meant = self.vips.get(&address).and_then(|vip| vip.interface.as_ref());
        let name = self.links.get(&index).map(|link| &link.name);
        meant.is_none() || name.is_none() || meant == name
    }

    fn name(&self, address: IpAddr) -> Option<VipName> {
        self.vips.get(&address).map(|vip| vip.name.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::mac::Mac;

    const OURS: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const OTHER: Mac = Mac([2, 0, 0, 0, 0, 2]);

    fn link(index: u32, name: &str) -> Link {
        Link {
            index,
            name: name.into(),
            mac: Some(OURS),
            up: true,
            carrier: true,
        }
    }

    fn address(index: u32, address: &str, marked: bool) -> Address {
        let address = address.parse().expect("an address");
        Address {
            index,
            address,
            network: address,
            prefix: 32,
            ends: true,
            marked,
        }
    }

    fn known(vip: &str) -> Known {
        let mut known = Known::new(&[vip.parse().expect("a virtual IP")], Marks(true));
        known.list(Survey {
            links: [(2, link(2, "eth0")), (3, link(3, "eth1"))].into(),
            addresses: vec![address(2, "10.0.0.1", false)],
        });
        known
    }

    fn claim(index: Option<u32>, mac: Mac) -> BTreeSet<Claim> {
        let address = "10.0.0.100".parse().expect("an address");
        [Claim { address, mac, index }].into()
    }

    fn told(known: &mut Known) -> Vec<KernelEvent> {
        known.events.drain(..).collect()
    }

    fn vip() -> VipName {
        "10.0.0.100".parse().expect("a name")
    }

    #[test]
    fn an_address_that_comes_or_goes_is_told_and_a_refresh_is_not() {
        let mut known = known("10.0.0.100");
        let held = address(2, "10.0.0.100", true);
        known.hear_of_address(&address(2, "10.0.0.7", true), false);
        assert_eq!(told(&mut known), []);
        known.hear_of_address(&held, false);
        known.hear_of_address(&held, false);
        assert_eq!(
            told(&mut known),
            [KernelEvent::AddressAppeared {
                vip: vip(),
                ours: true
            }]
        );
        known.hear_of_address(&held, true);
        known.hear_of_address(&held, true);
        assert_eq!(told(&mut known), [KernelEvent::AddressGone { vip: vip() }]);
        known.hear_of_address(&address(3, "10.0.0.100", false), false);
        assert_eq!(
            told(&mut known),
            [KernelEvent::AddressAppeared {
                vip: vip(),
                ours: false
            }]
        );
    }

    #[test]
    fn a_link_that_changes_is_told_by_its_new_name() {
        let mut known = known("10.0.0.100");
        known.hear_of_link(link(2, "eth0"), false);
        assert_eq!(told(&mut known), []);
        known.hear_of_link(link(2, "lan0"), false);
        known.hear_of_link(
            Link {
                carrier: false,
                ..link(2, "lan0")
            },
            false,
        );
        known.hear_of_link(link(2, "lan0"), true);
        known.hear_of_link(link(2, "lan0"), true);
        let changed = KernelEvent::LinkChanged {
            interface: "lan0".into(),
        };
        assert_eq!(told(&mut known), [changed.clone(), changed.clone(), changed]);
    }

    #[test]
    fn only_another_host_on_the_same_link_is_a_conflict() {
        let conflict = [KernelEvent::Conflict {
            vip: vip(),
            mac: OTHER,
        }];
        let mut anywhere = known("10.0.0.100");
        anywhere.conflicts(claim(Some(2), OURS));
        assert_eq!(told(&mut anywhere), []);
        anywhere.conflicts(claim(Some(3), OTHER));
        assert_eq!(told(&mut anywhere), conflict);

        anywhere.hear_of_address(&address(2, "10.0.0.100", true), false);
        told(&mut anywhere);
        anywhere.conflicts(claim(Some(3), OTHER));
        assert_eq!(told(&mut anywhere), []);
        anywhere.conflicts(claim(Some(2), OTHER));
        assert_eq!(told(&mut anywhere), conflict);

        let mut named = known("10.0.0.100@eth1");
        named.conflicts(claim(Some(2), OTHER));
        assert_eq!(told(&mut named), []);
        named.conflicts(claim(None, OTHER));
        assert_eq!(told(&mut named), conflict);
    }
}
