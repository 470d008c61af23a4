//! Taking over what an earlier process left, sharing a host, and leaving nothing.

use vip_keeper::net::doctor::{HostFacts, InterfaceFacts};
use vip_keeper::net::{GateHook, GateMode, Kernel, KernelEvents, KernelOptions, NetError, cleanup};

use crate::hosts::{VIP4, VIP6, in_ms, name, on_hosts, open, vip};

async fn instance(named: &str, address: &str) -> (Kernel, KernelEvents) {
    let options = KernelOptions {
        instance: Some(named.into()),
        ..KernelOptions::default()
    };
    Kernel::open(&[vip(address)], options).await.unwrap()
}

#[test]
fn what_an_earlier_process_left_is_removed_and_shut() {
    on_hosts(async |hosts| {
        let (mut killed, _events) = open(&[VIP4, VIP6, "10.0.0.101"], GateMode::Nftables).await;
        for address in [VIP4, VIP6, "10.0.0.101"] {
            killed.hold(&name(address), in_ms(20_000)).await.unwrap();
        }
        drop(killed);
        assert!(hosts.observer().resolves(VIP4));
        // The third is not configured any more, but bears the mark, and there is no other keeper.
        let (_kernel, _events) = open(&[VIP4, VIP6], GateMode::Nftables).await;
        for address in [VIP4, VIP6, "10.0.0.101"] {
            assert!(!hosts.has(address), "{address}");
        }
        hosts.host.ip(&format!("address add {VIP4}/32 dev eth0"));
        assert!(!hosts.observer().resolves(VIP4));
    });
}

#[test]
fn a_start_without_a_gate_leaves_none_shut() {
    on_hosts(async |hosts| {
        drop(open(&[VIP4], GateMode::Nftables).await);
        let (mut kernel, _events) = open(&[VIP4], GateMode::Lifetime).await;
        assert!(!kernel.has_gate());
        kernel.hold(&name(VIP4), in_ms(20_000)).await.unwrap();
        assert!(hosts.observer().resolves(VIP4));
    });
}

#[test]
fn two_keepers_with_addresses_of_their_own_leave_each_other_alone() {
    on_hosts(async |hosts| {
        let (mut one, _one) = instance("one", VIP4).await;
        one.hold(&name(VIP4), in_ms(20_000)).await.unwrap();
        let (mut two, _two) = instance("two", "10.0.0.101").await;
        two.hold(&name("10.0.0.101"), in_ms(20_000)).await.unwrap();
        let observer = hosts.observer();
        assert!(observer.resolves(VIP4) && observer.resolves("10.0.0.101"));
        one.close().await.unwrap();
        assert!(!hosts.has(VIP4) && observer.resolves("10.0.0.101"));
        two.close().await.unwrap();
        assert_eq!(cleanup(&[]).await.unwrap(), Vec::<String>::new());
        let bad = KernelOptions {
            instance: Some("a b".into()),
            ..KernelOptions::default()
        };
        assert!(matches!(
            Kernel::open(&[vip(VIP4)], bad).await,
            Err(NetError::Instance(_))
        ));
    });
}

#[test]
fn a_stop_leaves_no_address_and_no_table() {
    on_hosts(async |hosts| {
        let (mut kernel, _events) = open(&[VIP4, VIP6], GateMode::Nftables).await;
        for address in [VIP4, VIP6] {
            kernel.hold(&name(address), in_ms(20_000)).await.unwrap();
        }
        kernel.close().await.unwrap();
        assert!(!hosts.has(VIP4) && !hosts.has(VIP6));
        assert_eq!(hosts.host.nft("list ruleset").unwrap_or_default(), "");
        assert_eq!(cleanup(&[vip(VIP4)]).await.unwrap(), Vec::<String>::new());
    });
}

#[test]
fn cleanup_removes_what_keepers_left_and_nothing_else() {
    on_hosts(async |hosts| {
        let (mut killed, _events) = open(&[VIP4], GateMode::Nftables).await;
        killed.hold(&name(VIP4), in_ms(20_000)).await.unwrap();
        drop(killed);
        drop(instance("two", "10.0.0.101").await);
        hosts.host.ip("address add 10.0.0.102/24 dev eth0");
        let foreign = hosts.host.nft("add table inet colossus").is_some();
        let removed = cleanup(&[vip("10.0.0.102")]).await.unwrap();
        let tables = [
            "table colossus_vip of nftables",
            "table colossus_vip_two of nftables",
        ];
        assert_eq!(removed, ["address 10.0.0.100 on eth0", tables[0], tables[1]]);
        assert!(hosts.has("10.0.0.102") && !hosts.has(VIP4));
        if foreign {
            assert_eq!(hosts.host.nft("list tables").unwrap(), "table inet colossus\n");
        }
    });
}

#[test]
fn the_tables_read_as_documented() {
    on_hosts(async |hosts| {
        let (_kernel, _events) = open(&[VIP4, VIP6], GateMode::Nftables).await;
        let Some(inet) = hosts.host.nft("--stateless list table inet colossus_vip") else {
            println!("skipped: this machine has no nft to list with");
            return;
        };
        for line in [
            "type filter hook prerouting priority raw; policy accept;",
            "ip daddr @vips4 ip daddr != @live4 fib daddr type local drop",
            "ip6 daddr @vips6 ip6 daddr != @live6 fib daddr type local drop",
            "type filter hook output priority raw; policy accept;",
            "ip saddr @vips4 ip saddr != @live4 drop",
            "ip6 saddr @vips6 ip6 saddr != @live6 drop",
            "elements = { 10.0.0.100 }",
            "elements = { fd00::100 }",
            "flags timeout",
        ] {
            assert!(inet.contains(line), "{line}: {inet}");
        }
        let arp = hosts.host.nft("list table arp colossus_vip").unwrap();
        assert!(
            arp.contains("arp saddr ip @vips4 arp saddr ip != @live4 drop"),
            "{arp}"
        );
    });
}

#[test]
fn the_facts_of_a_host_are_there_and_asking_leaves_nothing() {
    on_hosts(async |hosts| {
        let facts = HostFacts::read().await;
        assert_eq!(facts.gate.unwrap(), GateHook::Prerouting);
        assert_eq!(
            (facts.missing_capabilities.as_slice(), facts.keeps_marks),
            (&[][..], true)
        );
        assert!(facts.release.is_some());
        hosts.host.ip("link add eth9 type veth peer name far9");
        let interface = InterfaceFacts::read("eth9");
        assert!(
            interface.rp_filter.is_some()
                && interface.arp_ignore.is_some()
                && interface.ipv6_disabled == Some(false)
        );
        assert_eq!(cleanup(&[]).await.unwrap(), Vec::<String>::new());
    });
}
