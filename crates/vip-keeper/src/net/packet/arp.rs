//! ARP for IPv4 over Ethernet (RFC 826), and its gratuitous form (RFC 5227, section 3).

use std::net::Ipv4Addr;

use crate::net::mac::Mac;

/// `ETH_P_ARP`.
pub(crate) const ETHERTYPE: u16 = 0x0806;
/// Hardware type Ethernet, protocol type IPv4, and the lengths of their addresses.
const OVER_ETHERNET: [u8; 6] = [0, 1, 8, 0, 6, 4];
/// Where the sender's IP address is, from the start of ARP's header.
pub(crate) const SENDER_IP: u32 = 14;

/// What a packet of ARP says of its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ArpSeen {
    /// Where it says it is.
    pub(crate) mac: Mac,
    /// Who it says it is. The unspecified address in a probe, which claims nothing.
    pub(crate) ip: Ipv4Addr,
}

/// The two customary forms of a gratuitous ARP. Some hosts update their caches from the one, some from the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Request,
    Reply,
}

/// An Ethernet frame that tells everybody on the link that `ip` is at `mac`.
pub(crate) fn gratuitous(form: Form, mac: Mac, ip: Ipv4Addr) -> Vec<u8> {
    let (operation, target) = match form {
        Form::Request => ([0, 1], [0; 6]),
        // In a reply the target is the sender itself, as RFC 5227 has it for announcements that are replies.
        Form::Reply => ([0, 2], mac.0),
    };
    [
        &Mac::BROADCAST.0[..],
        &mac.0,
        &ETHERTYPE.to_be_bytes(),
        &OVER_ETHERNET,
        &operation,
        &mac.0,
        &ip.octets(),
        &target,
        &ip.octets(),
    ]
    .concat()
}

/// Reads a packet of ARP, from its own header on. None if it is none, or not for IPv4 over Ethernet.
pub(crate) fn parse_arp(packet: &[u8]) -> Option<ArpSeen> {
    let (kind, rest) = packet.split_first_chunk::<6>()?;
    let (operation, rest) = rest.split_first_chunk::<2>()?;
    let (mac, rest) = rest.split_first_chunk::<6>()?;
    let (ip, rest) = rest.split_first_chunk::<4>()?;
    let whole = rest.len() >= 10;
    (*kind == OVER_ETHERNET && matches!(operation, [0, 1 | 2]) && whole).then_some(ArpSeen {
        mac: Mac(*mac),
        ip: Ipv4Addr::from(*ip),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);
    const IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 100);

    #[test]
    fn both_forms_are_as_arping_sends_them() {
        let ethernet = "ffffffffffff 020000000009 0806 0001080006 04".replace(' ', "");
        let hex = |form| {
            gratuitous(form, MAC, IP)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
        };
        assert_eq!(
            hex(Form::Request),
            format!("{ethernet}00010200000000090a0000640000000000000a000064")
        );
        assert_eq!(
            hex(Form::Reply),
            format!("{ethernet}00020200000000090a0000640200000000090a000064")
        );
    }

    #[test]
    fn a_frame_with_padding_is_read_and_another_protocol_is_not() {
        let mut packet = gratuitous(Form::Reply, MAC, IP).split_off(14);
        assert_eq!(parse_arp(&packet), Some(ArpSeen { mac: MAC, ip: IP }));
        packet.resize(46, 0);
        assert_eq!(parse_arp(&packet), Some(ArpSeen { mac: MAC, ip: IP }));
        assert_eq!(parse_arp(&packet[..27]), None);
        for (at, byte) in [(1, 6), (2, 0x86), (4, 8), (5, 16), (7, 3)] {
            let mut other = packet.clone();
            other[at] = byte;
            assert_eq!(parse_arp(&other), None, "byte {at} is {byte}");
        }
    }

    proptest! {
        #[test]
        fn what_is_announced_is_heard(mac: [u8; 6], ip: [u8; 4], reply: bool) {
            let form = if reply { Form::Reply } else { Form::Request };
            let frame = gratuitous(form, Mac(mac), ip.into());
            prop_assert_eq!(parse_arp(&frame[14..]), Some(ArpSeen { mac: Mac(mac), ip: ip.into() }));
        }

        #[test]
        fn no_packet_panics(packet in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse_arp(&packet);
        }
    }
}
