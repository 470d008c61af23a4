//! The changes of the gate as messages of nftables (`linux/netfilter/nf_tables.h`).
//!
//! Attributes stand in the order in which the program `nft` writes them, so that the two can be compared byte by byte.

use std::net::IpAddr;
use std::time::Duration;

use super::{GateHook, TableName};
use crate::net::clock::BootInstant;
use crate::net::netlink::{Attributes, Batch, Message, Writer, text};

/// `NFNL_SUBSYS_NFTABLES`, where a message's type has it.
const NFTABLES: u16 = 10 << 8;
/// `NFT_MSG_*`.
const NEW_TABLE: u16 = NFTABLES;
pub(super) const GET_TABLE: u16 = NFTABLES | 1;
const DELETE_TABLE: u16 = NFTABLES | 2;
const NEW_CHAIN: u16 = NFTABLES | 3;
const NEW_RULE: u16 = NFTABLES | 6;
const NEW_SET: u16 = NFTABLES | 9;
const NEW_ELEMENT: u16 = NFTABLES | 12;
const DELETE_ELEMENT: u16 = NFTABLES | 14;
/// `NLM_F_CREATE`, and `NLM_F_APPEND`.
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
/// `NFPROTO_*`.
pub(super) const INET: u8 = 1;
pub(super) const ARP: u8 = 3;
const IPV4: u8 = 2;
const IPV6: u8 = 10;
/// `NF_INET_*` and `NF_ARP_OUT`: the hooks.
const PREROUTING: u32 = 0;
const INPUT: u32 = 1;
const OUTPUT: u32 = 3;
const ARP_OUTPUT: u32 = 1;
/// Before connection tracking (-200) and destination NAT (-100).
const PRIORITY: i32 = -300;
/// `NFT_SET_*`: the flags of a set.
const TIMEOUTS: u32 = 0x10;
/// `NF_ACCEPT` and `NF_DROP`.
const ACCEPT: u32 = 1;
const DROP: u32 = 0;
/// `NFT_CMP_EQ`, `NFT_LOOKUP_F_INV`, `NFTA_FIB_F_DADDR`, `NFT_FIB_RESULT_ADDRTYPE`.
const EQUAL: u32 = 0;
const INVERTED: u32 = 1;
const OF_DESTINATION: u32 = 2;
const ADDRESS_TYPE: u32 = 3;
/// `NFT_REG_1`, and the register of the verdict.
const REGISTER: u32 = 1;
const VERDICT: u32 = 0;
/// Elements in one message, so that each fits into an attribute of 65,535 bytes.
const ELEMENTS_MAX: usize = 512;

/// A set of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Set {
    name: &'static str,
    /// By what a transaction refers to it, beside its name.
    id: u32,
    family: u8,
    /// What `nft` takes its keys for (its own numbers, of which the kernel knows nothing), and their length.
    key: (u32, u32),
    flags: u32,
}

impl Set {
    /// The virtual IPs.
    const fn vips(family: u8, id: u32, key: (u32, u32)) -> Self {
        let name = if key.1 == 4 { "vips4" } else { "vips6" };
        let flags = 0;
        Self {
            name,
            id,
            family,
            key,
            flags,
        }
    }

    /// Those that may speak.
    const fn live(family: u8, id: u32, key: (u32, u32)) -> Self {
        let name = if key.1 == 4 { "live4" } else { "live6" };
        let flags = TIMEOUTS;
        Self {
            name,
            id,
            family,
            key,
            flags,
        }
    }

    /// Whether an address is of its family.
    fn takes(&self, address: &IpAddr) -> bool {
        address.is_ipv4() == (self.key == KEY4)
    }
}

/// `ipv4_addr` and `ipv6_addr`.
const KEY4: (u32, u32) = (7, 4);
const KEY6: (u32, u32) = (8, 16);
const VIPS4: Set = Set::vips(INET, 1, KEY4);
const LIVE4: Set = Set::live(INET, 2, KEY4);
const VIPS6: Set = Set::vips(INET, 3, KEY6);
const LIVE6: Set = Set::live(INET, 4, KEY6);
const ARP_VIPS4: Set = Set::vips(ARP, 5, KEY4);
const ARP_LIVE4: Set = Set::live(ARP, 6, KEY4);

/// An element: its key, and when it ends.
type Element = (IpAddr, Option<BootInstant>);

/// What a rule is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expression {
    /// Loads `NFT_META_NFPROTO` or `NFT_META_L4PROTO`.
    Meta(u32),
    /// Goes on if what was loaded is this.
    Equals(&'static [u8]),
    /// Loads bytes of the packet: the header (`NFT_PAYLOAD_*`), the offset in it, the length.
    Payload(u32, u32, u32),
    /// Goes on if what was loaded is in the set.
    In(Set),
    /// Goes on if it is not.
    NotIn(Set),
    /// Loads the kind of the destination (`NFT_FIB_RESULT_ADDRTYPE`).
    DestinationType,
    /// The packet ends here.
    Drop,
}

use Expression::{DestinationType, Drop, Equals, In, Meta, NotIn, Payload};

/// `NFT_META_NFPROTO`, `NFT_META_L4PROTO`.
const NFPROTO: Expression = Meta(15);
const L4PROTO: Expression = Meta(16);
/// `NFT_PAYLOAD_NETWORK_HEADER`, `NFT_PAYLOAD_TRANSPORT_HEADER`.
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
/// `RTN_LOCAL`, as `fib` loads it: in the host's order.
const LOCAL: Expression = Equals(&2u32.to_ne_bytes());
const IS_IPV4: Expression = Equals(&[IPV4]);
const IS_IPV6: Expression = Equals(&[IPV6]);
const IS_ICMPV6: Expression = Equals(&[58]);
/// The type of a neighbour advertisement (RFC 4861, 4.4).
const IS_ADVERTISEMENT: Expression = Equals(&[136]);
/// Where the addresses are.
const IPV4_SOURCE: Expression = Payload(NETWORK, 12, 4);
const IPV4_DESTINATION: Expression = Payload(NETWORK, 16, 4);
const IPV6_SOURCE: Expression = Payload(NETWORK, 8, 16);
const IPV6_DESTINATION: Expression = Payload(NETWORK, 24, 16);
const ICMPV6_TYPE: Expression = Payload(TRANSPORT, 0, 1);
const ADVERTISED: Expression = Payload(TRANSPORT, 8, 16);
const ARP_SENDER: Expression = Payload(NETWORK, 14, 4);

/// The changes of one transaction, on the tables of one keeper.
#[derive(Debug)]
pub(super) struct Changes<'a> {
    batch: Batch,
    name: &'a TableName,
}

impl<'a> Changes<'a> {
    pub(super) fn new(batch: Batch, name: &'a TableName) -> Self {
        Self { batch, name }
    }

    pub(super) fn into_batch(self) -> Batch {
        self.batch
    }

    /// Everything anew: the tables, as they are to be, open for `live`.
    pub(super) fn make(&mut self, addresses: &[IpAddr], hook: GateHook, live: &[(IpAddr, BootInstant)]) {
        self.remove(INET);
        self.table(INET);
        for set in [VIPS4, LIVE4, VIPS6, LIVE6] {
            self.set(set);
        }
        self.incoming(hook);
        self.outgoing();
        let vips: Vec<Element> = addresses.iter().map(|address| (*address, None)).collect();
        self.fill(VIPS4, &vips);
        self.fill(VIPS6, &vips);
        // Without IPv4 nothing is asked of the family arp, which a kernel may lack.
        if addresses.iter().any(IpAddr::is_ipv4) {
            self.remove(ARP);
            self.table(ARP);
            self.set(ARP_VIPS4);
            self.set(ARP_LIVE4);
            self.chain(ARP, "outgoing", ARP_OUTPUT);
            self.rule(
                ARP,
                "outgoing",
                &[ARP_SENDER, In(ARP_VIPS4), ARP_SENDER, NotIn(ARP_LIVE4), Drop],
            );
            self.fill(ARP_VIPS4, &vips);
        }
        self.refill(addresses, live);
    }

    /// The sets of those that may speak: emptied, and filled with `live`.
    pub(super) fn refill(&mut self, addresses: &[IpAddr], live: &[(IpAddr, BootInstant)]) {
        let live: Vec<Element> = live.iter().map(|(address, end)| (*address, Some(*end))).collect();
        for set in [LIVE6, LIVE4, ARP_LIVE4] {
            if addresses.iter().any(|address| set.takes(address)) {
                self.empty(set);
                self.fill(set, &live);
            }
        }
    }

    /// No table of this family. It is made first, so that it can be removed whether or not it was there.
    pub(super) fn remove(&mut self, family: u8) {
        self.table(family);
        self.message(DELETE_TABLE, 0, family, |_| {});
    }

    fn table(&mut self, family: u8) {
        self.message(NEW_TABLE, CREATE, family, |message| message.number(2, 0));
    }

    fn incoming(&mut self, hook: GateHook) {
        let (hook, only_local): (u32, &[Expression]) = match hook {
            GateHook::Prerouting => (PREROUTING, &[DestinationType, LOCAL]),
            // What comes here is for this host.
            GateHook::Input => (INPUT, &[]),
        };
        self.chain(INET, "incoming", hook);
        for (family, destination, vips, live) in [
            (IS_IPV4, IPV4_DESTINATION, VIPS4, LIVE4),
            (IS_IPV6, IPV6_DESTINATION, VIPS6, LIVE6),
        ] {
            let shut = [NFPROTO, family, destination, In(vips), destination, NotIn(live)];
            self.rule(INET, "incoming", &[&shut, only_local, &[Drop]].concat());
        }
    }

    fn outgoing(&mut self) {
        self.chain(INET, "outgoing", OUTPUT);
        let (v4, v6) = (IPV4_SOURCE, IPV6_SOURCE);
        self.rule(
            INET,
            "outgoing",
            &[NFPROTO, IS_IPV4, v4, In(VIPS4), v4, NotIn(LIVE4), Drop],
        );
        self.rule(
            INET,
            "outgoing",
            &[NFPROTO, IS_IPV6, v6, In(VIPS6), v6, NotIn(LIVE6), Drop],
        );
        let advertisement = [
            NFPROTO,
            IS_IPV6,
            L4PROTO,
            IS_ICMPV6,
            ICMPV6_TYPE,
            IS_ADVERTISEMENT,
        ];
        let shut = [ADVERTISED, In(VIPS6), ADVERTISED, NotIn(LIVE6), Drop];
        self.rule(INET, "outgoing", &[&advertisement[..], &shut].concat());
    }

    fn chain(&mut self, family: u8, chain: &str, hook: u32) {
        self.message(NEW_CHAIN, CREATE, family, |message| {
            message.text(3, chain);
            message.text(7, "filter");
            message.number(5, ACCEPT);
            message.nest(4, |place| {
                place.number(1, hook);
                place.number(2, PRIORITY.cast_unsigned());
            });
        });
    }

    fn rule(&mut self, family: u8, chain: &str, expressions: &[Expression]) {
        self.message(NEW_RULE, CREATE | APPEND, family, |message| {
            message.text(2, chain);
            message.nest(4, |list| {
                for expression in expressions {
                    list.nest(1, |item| expression.write(item));
                }
            });
        });
    }

    fn set(&mut self, set: Set) {
        self.message(NEW_SET, CREATE, set.family, |message| {
            message.text(2, set.name);
            message.number(3, set.flags);
            message.number(4, set.key.0);
            message.number(5, set.key.1);
            message.number(10, set.id);
        });
    }

    fn empty(&mut self, set: Set) {
        self.message(DELETE_ELEMENT, 0, set.family, |message| message.text(2, set.name));
    }

    /// Adds those of the elements that the set takes.
    fn fill(&mut self, set: Set, elements: &[Element]) {
        let taken: Vec<_> = elements
            .iter()
            .filter(|(address, _)| set.takes(address))
            .collect();
        for part in taken.chunks(ELEMENTS_MAX) {
            self.message(NEW_ELEMENT, CREATE, set.family, |message| {
                message.text(2, set.name);
                message.number(4, set.id);
                message.nest(3, |list| {
                    for (address, end) in part {
                        element(list, *address, *end);
                    }
                });
            });
        }
    }

    /// A message on the table: `struct nfgenmsg`, and the name, which is the first attribute of all of them.
    fn message(&mut self, kind: u16, flags: u16, family: u8, body: impl FnOnce(&mut Writer)) {
        let name = self.name.as_str();
        self.batch.message(kind, flags, |message| {
            message.put(&[family, 0, 0, 0]);
            message.text(1, name);
            body(message);
        });
    }
}

/// An element, with what is left of its time at this very moment: nothing, if it is over.
fn element(list: &mut Writer, address: IpAddr, end: Option<BootInstant>) {
    let timeout = end.map(|end| milliseconds(end.left()));
    if timeout == Some(0) {
        return;
    }
    list.nest(1, |element| {
        if let Some(timeout) = timeout {
            element.attribute(4, &timeout.to_be_bytes());
        }
        element.nest(1, |key| match address {
            IpAddr::V4(v4) => key.attribute(1, &v4.octets()),
            IpAddr::V6(v6) => key.attribute(1, &v6.octets()),
        });
    });
}

/// Whole milliseconds, rounded down. 0 must not be sent: to the kernel it is for ever.
fn milliseconds(left: Duration) -> u64 {
    u64::try_from(left.as_millis()).unwrap_or(u64::MAX)
}

impl Expression {
    /// Its name, and what it is given.
    fn write(self, item: &mut Writer) {
        let mut named = |name: &str, data: &dyn Fn(&mut Writer)| {
            item.text(1, name);
            item.nest(2, data);
        };
        match self {
            Meta(key) => named("meta", &|data| {
                data.number(2, key);
                data.number(1, REGISTER);
            }),
            Equals(bytes) => named("cmp", &|data| {
                data.number(1, REGISTER);
                data.number(2, EQUAL);
                data.nest(3, |value| value.attribute(1, bytes));
            }),
            Payload(base, offset, length) => named("payload", &|data| {
                data.number(1, REGISTER);
                data.number(2, base);
                data.number(3, offset);
                data.number(4, length);
            }),
            In(set) | NotIn(set) => named("lookup", &|data| {
                data.number(2, REGISTER);
                data.text(1, set.name);
                data.number(4, set.id);
                if matches!(self, NotIn(_)) {
                    data.number(5, INVERTED);
                }
            }),
            DestinationType => named("fib", &|data| {
                data.number(3, OF_DESTINATION);
                data.number(2, ADDRESS_TYPE);
                data.number(1, REGISTER);
            }),
            Drop => named("immediate", &|data| {
                data.number(1, VERDICT);
                data.nest(2, |value| value.nest(2, |verdict| verdict.number(1, DROP)));
            }),
        }
    }
}

/// What is asked to list the tables of every family.
pub(super) fn all_families(message: &mut Writer) {
    message.put(&[0; 4]);
}

/// The name of the table that an answer to [`GET_TABLE`] is about.
pub(super) fn table_name(message: &Message<'_>) -> Option<String> {
    let attributes = message.payload.get(4..)?;
    Attributes(attributes)
        .find(|(kind, _)| message.kind == NEW_TABLE && *kind == 1)
        .map(|(_, name)| text(name))
}
