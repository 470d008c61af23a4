use std::net::IpAddr;
use std::time::Duration;

use super::*;
use crate::net::netlink::Messages;

/// See its first lines.
const BY_NFT: &str = include_str!("by_nft.txt");
/// `NLM_F_*` and the numbers of a batch's frame.
const CREATE: u16 = 0x400;
const FRAME: u16 = 16;

fn name() -> TableName {
    TableName::of(None).expect("a name")
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts
        .iter()
        .map(|text| text.parse::<IpAddr>().expect("an address"))
        .collect()
}

/// The messages of a transaction: what each is, and its bytes in hex.
async fn messages(change: impl FnOnce(&mut Changes<'_>)) -> Vec<(String, String)> {
    let mut netlink = Asking::open(Family::Netfilter, Duration::from_millis(500)).expect("a socket");
    let name = name();
    let mut changes = Changes::new(netlink.batch(), &name);
    change(&mut changes);
    let batch = changes.into_batch();
    let shown = Messages(batch.bytes())
        .filter(|message| message.kind != FRAME)
        .map(|message| {
            let kind = match message.kind & 0xff {
                0 => "table",
                2 => "deltable",
                3 => "chain",
                6 => "rule",
                9 => "set",
                12 => "element",
                14 => "delelement",
                _ => "?",
            };
            let creates = matches!(kind, "table" | "chain" | "rule" | "set" | "element");
            assert_eq!(message.flags & CREATE != 0, creates, "{kind}");
            (kind.to_owned(), hex(message.payload))
        });
    shown.collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn by_nft() -> Vec<(String, String)> {
    let lines = BY_NFT.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once(' '))
        .map(|(kind, bytes)| (kind.to_owned(), bytes.to_owned()))
        .collect()
}

#[tokio::test]
#[cfg(target_endian = "little")]
async fn each_message_is_what_nft_sends() {
    let addresses = addresses(&["10.0.0.100", "fd00::100"]);
    let ours = messages(|changes| changes.make(&addresses, GateHook::Prerouting, &[])).await;
    let theirs = by_nft();
    let is_live = |(kind, bytes): &&(String, String)| kind == "element" && bytes.contains("6c697665");
    for message in theirs.iter().filter(|message| !is_live(message)) {
        assert!(ours.contains(message), "nft sends {message:?}");
    }
    // What is left is the rule that this version of nft cannot write (`icmpv6 taddr`), and what it need not do: it removes
    // one table, and empties one set.
    let unknown = ours.iter().filter(|message| !theirs.contains(message));
    let unknown: Vec<_> = unknown.map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(unknown, ["rule", "deltable", "delelement", "delelement"]);
}

#[tokio::test]
#[cfg(target_endian = "little")]
async fn an_element_ends_when_its_right_does() {
    let addresses = addresses(&["10.0.0.100", "fd00::100"]);
    // Long enough for the clock not to matter, and short enough for the bytes to be known: 2^24 ms and a little.
    let end = BootInstant::now().saturating_add(Duration::from_millis((1 << 24) + 60_000));
    let live = ["10.0.0.100", "fd00::100"].map(|text| (text.parse().expect("an address"), end));
    let ours = messages(|changes| changes.refill(&addresses, &live)).await;
    let elements: Vec<_> = ours.iter().filter(|(kind, _)| kind == "element").collect();
    let theirs: Vec<_> = by_nft()
        .into_iter()
        .filter(|(kind, bytes)| kind == "element" && bytes.contains("6c697665"))
        .collect();
    let [v6, v4, arp] = elements.as_slice() else {
        panic!("{elements:?}")
    };
    for ((_, ours), (_, theirs)) in [(v4, &theirs[0]), (v6, &theirs[1])] {
        let (ours, theirs) = (timeout_of(ours), timeout_of(theirs));
        assert_eq!((ours.0, ours.2), (theirs.0, theirs.2));
        assert!((1 << 24..=(1 << 24) + 60_000).contains(&ours.1), "{ours:?}");
    }
    assert!(arp.1.starts_with("03"), "{arp:?}");
}

/// What is before the timeout of an element, the timeout in milliseconds, and what is behind it.
fn timeout_of(bytes: &str) -> (&str, u64, &str) {
    let (before, rest) = bytes.split_once("0c000400").expect("a timeout");
    let (timeout, behind) = rest.split_at(16);
    (
        before,
        u64::from_str_radix(timeout, 16).expect("a number"),
        behind,
    )
}

#[tokio::test]
async fn an_end_that_is_over_is_not_sent_since_nothing_left_means_for_ever() {
    let addresses = addresses(&["10.0.0.100", "fd00::100"]);
    let live =
        ["10.0.0.100", "fd00::100"].map(|text| (text.parse().expect("an address"), BootInstant::now()));
    let ours = messages(|changes| changes.refill(&addresses, &live)).await;
    for (kind, bytes) in ours {
        assert!(
            !bytes.contains("0a000064") && !bytes.contains("fd000000"),
            "{kind} {bytes}"
        );
    }
}

#[tokio::test]
async fn a_kernel_without_fib_is_asked_for_none() {
    let of = async |hook| messages(|changes| changes.make(&addresses(&["10.0.0.100"]), hook, &[])).await;
    let fib = hex(b"fib");
    let has_fib = |messages: &[(String, String)]| messages.iter().any(|(_, bytes)| bytes.contains(&fib));
    assert!(has_fib(&of(GateHook::Prerouting).await));
    assert!(!has_fib(&of(GateHook::Input).await));
}

#[tokio::test]
async fn without_addresses_of_ipv4_the_family_arp_is_not_needed() {
    let of = async |texts: &[&str]| {
        messages(|changes| changes.make(&addresses(texts), GateHook::Prerouting, &[])).await
    };
    let has_arp = |messages: &[(String, String)]| messages.iter().any(|(_, bytes)| bytes.starts_with("03"));
    assert!(has_arp(&of(&["10.0.0.100", "fd00::100"]).await));
    assert!(!has_arp(&of(&["fd00::100"]).await));
}

#[test]
fn only_a_name_that_nft_can_write_is_an_instances() {
    let name = |instance| TableName::of(instance).map(|name| name.as_str().to_owned());
    assert_eq!(name(None).as_deref(), Some("colossus_vip"));
    assert_eq!(name(Some("web-1.a")).as_deref(), Some("colossus_vip_web-1.a"));
    let long = "a".repeat(65);
    for no in ["", "a b", "a/b", "ä", &long] {
        assert_eq!(name(Some(no)), None, "{no}");
    }
    for (table, ours) in [
        ("colossus_vip", true),
        ("colossus_vip_web", true),
        ("colossus_vips", false),
        ("filter", false),
    ] {
        assert_eq!(TableName::is_ours(table), ours, "{table}");
    }
}
