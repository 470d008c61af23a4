//! Filters that the kernel runs on a socket's packets, so that nobody is woken for those of others.
//!
//! In the classic language of BPF (`linux/filter.h`): a program gives the number of bytes that the socket gets.

use std::net::{Ipv4Addr, Ipv6Addr};

use socket2::SockFilter;

use super::{advertisement, arp};

/// Load a word, or a byte, from an offset in the packet.
const LOAD_WORD: u16 = 0x20;
const LOAD_BYTE: u16 = 0x30;
/// Compare with a constant; go so many instructions further if equal, so many if not.
const JUMP_EQUAL: u16 = 0x15;
/// The end: this many bytes.
const RETURN: u16 = 0x06;
/// `SKF_NET_OFF`: offsets from here count from the network header.
const NETWORK_HEADER: u32 = (-0x10_0000i32).cast_unsigned();
/// The hop limit in IPv6's header.
const HOP_LIMIT: u32 = 7;
/// The longest program that the kernel takes (`BPF_MAXINSNS`).
const LENGTH_MAX: usize = 4096;
/// All of a packet.
const ALL: u32 = u32::MAX;

/// An instruction that is no jump.
fn plain(code: u16, operand: u32) -> SockFilter {
    SockFilter::new(code, 0, 0, operand)
}

/// Goes on `skipped` instructions further down unless what was loaded is `value`.
fn unless_equal_skip(value: u32, skipped: u8) -> SockFilter {
    SockFilter::new(JUMP_EQUAL, 0, skipped, value)
}

/// Nothing at all: for a socket that only sends.
pub(crate) fn nothing() -> Vec<SockFilter> {
    vec![plain(RETURN, 0)]
}

/// ARP whose sender says it is one of `addresses`. All of ARP, should there be too many for a program.
pub(crate) fn arp_of(addresses: &[Ipv4Addr]) -> Vec<SockFilter> {
    let mut program = vec![plain(LOAD_WORD, arp::SENDER_IP)];
    for address in addresses {
        program.push(unless_equal_skip(address.to_bits(), 1));
        program.push(plain(RETURN, ALL));
    }
    ended(program, vec![plain(RETURN, ALL)])
}

/// Neighbour advertisements for one of `addresses`, sent on this very link: a router would have lowered the hop limit
/// (RFC 4861, 7.1.2). All advertisements of the link, should there be too many for a program.
pub(crate) fn advertisements_of(addresses: &[Ipv6Addr]) -> Vec<SockFilter> {
    let on_link = || {
        vec![
            plain(LOAD_BYTE, 0),
            unless_equal_skip(advertisement::TYPE.into(), 2),
            plain(LOAD_BYTE, NETWORK_HEADER.wrapping_add(HOP_LIMIT)),
            SockFilter::new(JUMP_EQUAL, 1, 0, 255),
            plain(RETURN, 0),
        ]
    };
    let mut program = on_link();
    for address in addresses {
        let words = words(*address);
        for (word, (offset, left)) in words.into_iter().zip([(0, 7), (4, 5), (8, 3), (12, 1)]) {
            program.push(plain(LOAD_WORD, advertisement::TARGET + offset));
            program.push(unless_equal_skip(word, left));
        }
        program.push(plain(RETURN, ALL));
    }
    let mut short = on_link();
    short.push(plain(RETURN, ALL));
    ended(program, short)
}

/// `program`, with an end that takes nothing; or `short` if it is too long.
fn ended(mut program: Vec<SockFilter>, short: Vec<SockFilter>) -> Vec<SockFilter> {
    program.push(plain(RETURN, 0));
    if program.len() > LENGTH_MAX {
        short
    } else {
        program
    }
}

fn words(address: Ipv6Addr) -> [u32; 4] {
    let bits = address.to_bits();
    [96, 64, 32, 0].map(|shift| u32::try_from(bits >> shift & u128::from(u32::MAX)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_never_longer_than_the_kernel_takes() {
        for count in [0, 1, 400, 5000] {
            let v4: Vec<_> = (0..count).map(Ipv4Addr::from_bits).collect();
            let v6: Vec<_> = (0..u128::from(count)).map(Ipv6Addr::from_bits).collect();
            assert!(arp_of(&v4).len() <= LENGTH_MAX);
            assert!(advertisements_of(&v6).len() <= LENGTH_MAX);
        }
    }

    #[test]
    fn an_address_is_compared_word_by_word() {
        let address = "fd00:1:2:3:4:5:6:100".parse().expect("an address");
        assert_eq!(
            words(address),
            [0xfd00_0001, 0x0002_0003, 0x0004_0005, 0x0006_0100]
        );
    }
}
