//! Neighbour advertisements of IPv6 (RFC 4861, section 4.4).

use std::net::Ipv6Addr;

use crate::net::mac::Mac;

/// The type of the message.
pub(crate) const TYPE: u8 = 136;
/// Where the address it speaks for is, from the start of ICMPv6's header.
pub(crate) const TARGET: u32 = 8;
/// The option that holds the sender's hardware address.
const TARGET_LINK_LAYER: u8 = 2;
/// Flags: the sender is a router; what was known is to be overridden.
const ROUTER: u8 = 0x80;
const OVERRIDE: u8 = 0x20;

/// What an advertisement says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AdvertisementSeen {
    /// The address it speaks for.
    pub(crate) target: Ipv6Addr,
    /// Where that is.
    pub(crate) mac: Mac,
}

/// An advertisement that nobody asked for: `target` is at `mac`. The checksum is the kernel's to fill in.
///
/// It says whether the sender is a router, as the kernel's own do: hosts that use the address as their gateway would
/// otherwise drop it.
pub(crate) fn unsolicited(mac: Mac, target: Ipv6Addr, router: bool) -> Vec<u8> {
    let flags = if router { ROUTER | OVERRIDE } else { OVERRIDE };
    let header = [TYPE, 0, 0, 0, flags, 0, 0, 0];
    [&header[..], &target.octets(), &[TARGET_LINK_LAYER, 1], &mac.0].concat()
}

/// Reads an advertisement, from ICMPv6's header on. None if it is none, or does not say where its address is.
pub(crate) fn parse_advertisement(packet: &[u8]) -> Option<AdvertisementSeen> {
    let (header, rest) = packet.split_first_chunk::<8>()?;
    let (target, mut options) = rest.split_first_chunk::<16>()?;
    if !matches!(header, [TYPE, 0, ..]) {
        return None;
    }
    loop {
        let [kind, units, ..] = *options.first_chunk::<2>()?;
        // In units of eight bytes. One of none would never end, and makes the packet invalid.
        let (option, rest) = options
            .split_at_checked(usize::from(units) * 8)
            .filter(|_| units > 0)?;
        if kind == TARGET_LINK_LAYER {
            let mac = option.get(2..8)?.try_into().ok()?;
            return Some(AdvertisementSeen {
                target: Ipv6Addr::from(*target),
                mac: Mac(mac),
            });
        }
        options = rest;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);

    fn target() -> Ipv6Addr {
        "fd00::100".parse().expect("an address")
    }

    #[test]
    fn it_overrides_what_was_known_and_tells_a_router() {
        let hex = |router| {
            unsolicited(MAC, target(), router)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
        };
        let rest = "000000fd0000000000000000000000000001000201020000000009";
        assert_eq!(hex(false), format!("8800000020{rest}"));
        assert_eq!(hex(true), format!("88000000a0{rest}"));
    }

    #[test]
    fn the_option_is_found_behind_others_and_needed() {
        let packet = unsolicited(MAC, target(), false);
        let (head, option) = packet.split_at(24);
        let unknown = [&[14, 2][..], &[0; 14]].concat();
        let seen = AdvertisementSeen {
            target: target(),
            mac: MAC,
        };
        assert_eq!(
            parse_advertisement(&[head, &unknown, option].concat()),
            Some(seen)
        );
        assert_eq!(parse_advertisement(head), None);
        assert_eq!(parse_advertisement(&[head, &[14, 0], option].concat()), None);
        assert_eq!(parse_advertisement(&packet[..31]), None);
        let solicitation = [&[135][..], &packet[1..]].concat();
        assert_eq!(parse_advertisement(&solicitation), None);
    }

    proptest! {
        #[test]
        fn what_is_announced_is_heard(mac: [u8; 6], target: [u8; 16], router: bool) {
            let seen = AdvertisementSeen { target: target.into(), mac: Mac(mac) };
            prop_assert_eq!(parse_advertisement(&unsolicited(Mac(mac), target.into(), router)), Some(seen));
        }

        #[test]
        fn no_packet_panics(advertisement: bool, mut packet in proptest::collection::vec(any::<u8>(), 0..96)) {
            if let [kind, code, ..] = packet.as_mut_slice() && advertisement {
                (*kind, *code) = (TYPE, 0);
            }
            let _ = parse_advertisement(&packet);
        }
    }
}
