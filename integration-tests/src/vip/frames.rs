//! ARP over Ethernet: the frames that the observer sends and reads (RFC 826).

use std::fmt::{self, Display, Formatter};
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// ARP's number among Ethernet's protocols (`ETH_P_ARP`).
pub(crate) const ETHERTYPE: u16 = 0x0806;

/// Ethernet, with addresses of 6 bytes; IPv4, with addresses of 4.
const KIND: [u8; 6] = [0x00, 0x01, 0x08, 0x00, 6, 4];

const REQUEST: u16 = 1;
const REPLY: u16 = 2;

/// The length of an Ethernet header, and of an ARP packet behind it.
const HEADER: usize = 14;
const PACKET: usize = 28;

/// A network card's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl Mac {
    pub(crate) const EVERYBODY: Self = Self([0xff; 6]);
}

impl Display for Mac {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self([a, b, c, d, e, g]) = self;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let byte = |part: &str| u8::from_str_radix(part, 16).ok();
        let bytes: Option<Vec<u8>> = text.split(':').map(byte).collect();
        bytes
            .and_then(|bytes| <[u8; 6]>::try_from(bytes).ok())
            .map(Self)
            .ok_or_else(|| format!("'{text}' is no MAC address"))
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl TryFrom<String> for Mac {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// "Who has `wanted`?", for everybody, from the card `own`; answers go to `mark`.
///
/// The sender's IP address is 0.0.0.0, as in a probe (RFC 5227, section 2.1.1): nobody learns anything from it, and
/// who has the address answers.
pub(crate) fn request(own: Mac, mark: Mac, wanted: Ipv4Addr) -> [u8; HEADER + PACKET] {
    let mut frame = [0; HEADER + PACKET];
    let parts: [&[u8]; 9] = [
        &Mac::EVERYBODY.0,
        &own.0,
        &ETHERTYPE.to_be_bytes(),
        &KIND,
        &REQUEST.to_be_bytes(),
        &mark.0,
        &Ipv4Addr::UNSPECIFIED.octets(),
        &[0; 6],
        &wanted.octets(),
    ];
    let bytes = parts.into_iter().flatten();
    frame
        .iter_mut()
        .zip(bytes)
        .for_each(|(place, byte)| *place = *byte);
    frame
}

/// What is said about an IPv4 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// An answer to whom asked: `address` is at `mac`.
    Answer { address: Ipv4Addr, mac: Mac, to: Mac },
    /// Told to everybody without being asked (gratuitous): `address` is at `mac`.
    Announced { address: Ipv4Addr, mac: Mac },
}

/// Reads a frame; nothing when it is none of these.
pub(crate) fn parse(frame: &[u8]) -> Option<Heard> {
    let (header, packet) = frame.split_at_checked(HEADER)?;
    let everybody = header.get(..6)? == Mac::EVERYBODY.0;
    if header.get(12..)? != ETHERTYPE.to_be_bytes() || packet.get(..6)? != KIND {
        return None;
    }
    let operation = u16::from_be_bytes(packet.get(6..8)?.try_into().ok()?);
    let mac = |at: usize| Some(Mac(packet.get(at..at + 6)?.try_into().ok()?));
    let address = |at: usize| {
        let octets: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
        Some(Ipv4Addr::from(octets))
    };
    let (from, sender, to, target) = (mac(8)?, address(14)?, mac(18)?, address(24)?);
    // RFC 5227, section 3: an announcement has the same address in both places; as a request or as a reply.
    match operation {
        REQUEST | REPLY if everybody && sender == target && !sender.is_unspecified() => {
            Some(Heard::Announced {
                address: sender,
                mac: from,
            })
        }
        REPLY => Some(Heard::Answer {
            address: sender,
            mac: from,
            to,
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIP: Ipv4Addr = Ipv4Addr::new(10, 214, 3, 100);

    fn mac(text: &str) -> Mac {
        text.parse().unwrap()
    }

    /// What a host that has the address makes of a request.
    fn reply(to: Mac, from: Mac) -> Vec<u8> {
        let mut frame = request(from, from, Ipv4Addr::UNSPECIFIED).to_vec();
        frame[..6].copy_from_slice(&to.0);
        frame[21] = 2;
        frame[28..32].copy_from_slice(&VIP.octets());
        frame[32..38].copy_from_slice(&to.0);
        frame
    }

    #[test]
    fn a_request_is_what_the_standard_says() {
        let frame = request(mac("02:42:0a:d6:03:c0"), mac("06:01:00:00:00:07"), VIP);
        assert_eq!(
            frame,
            [
                0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0x42, 0x0a, 0xd6, 0x03, 0xc0, 0x08, 0x06, 0, 1, 8,
                0, 6, 4, 0, 1, 0x06, 0x01, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 214, 3, 100
            ]
        );
        assert_eq!(parse(&frame), None, "a question tells nothing");
    }

    #[test]
    fn answers_and_announcements_are_told_apart() {
        let (asked, holder) = (mac("06:01:00:00:00:07"), mac("02:42:0a:d6:03:0b"));
        let answer = Heard::Answer {
            address: VIP,
            mac: holder,
            to: asked,
        };
        let mut frame = reply(asked, holder);
        assert_eq!(parse(&frame), Some(answer));
        // Ethernet fills up to 60 bytes.
        frame.resize(60, 0);
        assert_eq!(parse(&frame), Some(answer));

        for operation in [1, 2] {
            let mut frame = reply(Mac::EVERYBODY, holder);
            frame[21] = operation;
            frame[38..42].copy_from_slice(&VIP.octets());
            let announced = Heard::Announced {
                address: VIP,
                mac: holder,
            };
            assert_eq!(parse(&frame), Some(announced));
        }
    }

    #[test]
    fn anything_else_is_passed_over() {
        let whole = reply(mac("06:01:00:00:00:07"), mac("02:42:0a:d6:03:0b"));
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length]), None, "{length} bytes");
        }
        for at in [12, 14, 20] {
            let mut frame = whole.clone();
            frame[at] = 0x77;
            assert_eq!(parse(&frame), None, "byte {at}");
        }
        for bad in ["", "02:42:0a:d6:03", "02:42:0a:d6:03:0b:00", "02:42:0a:d6:03:zz"] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }
}
