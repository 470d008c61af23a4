//! Addresses: where they go, how they are announced, and whose they are.

use std::time::Duration;

use vip_keeper::net::{GateMode, NetError, Presence};

use crate::hosts::{VIP4, VIP6, in_ms, name, on_hosts, open};

#[test]
fn an_address_is_added_alone_marked_and_with_a_lifetime() {
    on_hosts(async |hosts| {
        let (mut kernel, _events) = open(&[VIP4, VIP6], GateMode::Auto).await;
        for (address, prefix) in [(VIP4, 32), (VIP6, 128)] {
            kernel.hold(&name(address), in_ms(1200)).await.unwrap();
            let shown = hosts.shown(address);
            for part in [
                &format!("{address}/{prefix} "),
                "deprecated",
                "valid_lft 3sec",
                "preferred_lft 0sec",
            ] {
                assert!(shown.contains(part), "{part}: {shown}");
            }
            assert!(!shown.contains("tentative"), "{shown}");
            assert_eq!(
                kernel.placement(&name(address)).await.unwrap().presence,
                Presence::Ours
            );
        }
    });
}

#[test]
fn a_lifetime_is_refreshed_only_when_it_would_end_too_early() {
    on_hosts(async |hosts| {
        let (mut kernel, _events) = open(&[VIP4], GateMode::Auto).await;
        let left = || {
            let shown = hosts.shown(VIP4);
            let (_, after) = shown.split_once("valid_lft ").unwrap();
            after.split_once("sec").unwrap().0.parse::<u32>().unwrap()
        };
        kernel.hold(&name(VIP4), in_ms(20_000)).await.unwrap();
        assert_eq!(left(), 21);
        kernel.extend(&[(name(VIP4), in_ms(5_000))]).await.unwrap();
        assert!(left() >= 20, "an end that comes earlier is the gate's");
        kernel.extend(&[(name(VIP4), in_ms(30_000))]).await.unwrap();
        assert_eq!(left(), 31);
    });
}

#[test]
fn an_address_is_announced_in_every_form_as_soon_as_it_is_held() {
    on_hosts(async |hosts| {
        let (mut kernel, _events) = open(&[VIP4, VIP6], GateMode::Nftables).await;
        let observer = hosts.observer();
        let start = in_ms(0);
        kernel.hold(&name(VIP4), in_ms(20_000)).await.unwrap();
        for operation in [1, 2] {
            let (heard, packet) = observer.heard(VIP4).expect("an announcement");
            println!("heard {:?} after the call", heard.saturating_since(start));
            assert_eq!(
                (packet[21], &packet[..6], &packet[38..42]),
                (operation, &[0xff; 6][..], &packet[28..32])
            );
        }
        let start = in_ms(0);
        kernel.hold(&name(VIP6), in_ms(20_000)).await.unwrap();
        let (heard, packet) = observer.heard(VIP6).expect("an announcement");
        println!("heard {:?} after the call", heard.saturating_since(start));
        assert_eq!(
            (packet[21], &packet[..2], packet[58]),
            (255, &[0x33, 0x33][..], 0x20),
            "hop limit, to all, override"
        );
        assert_eq!(packet[78..86], [2, 1, 2, 0, 0, 0, 0, 1]);
    });
}

#[test]
fn a_neighbour_that_knew_the_old_holder_is_turned_at_once() {
    on_hosts(async |hosts| {
        let (mut kernel, _events) = open(&[VIP4, VIP6], GateMode::Nftables).await;
        for address in [VIP4, VIP6] {
            hosts.other.ip(&format!(
                "neighbour replace {address} lladdr 02:00:00:00:00:99 dev eth0 nud reachable"
            ));
            // A Linux neighbour takes no other ARP within a second of what it knows.
            tokio::time::sleep(Duration::from_millis(1100)).await;
            kernel.hold(&name(address), in_ms(20_000)).await.unwrap();
            let known = hosts.other.ip(&format!("neighbour show {address}"));
            assert!(known.contains("02:00:00:00:00:01"), "{known}");
        }
    });
}

#[test]
fn announcements_follow_in_a_burst_and_end_with_the_right() {
    on_hosts(async |hosts| {
        let (mut kernel, _events) = open(&[VIP4], GateMode::Nftables).await;
        let observer = hosts.observer();
        assert_eq!(kernel.announce_due(), None);
        let end = in_ms(200);
        kernel.hold(&name(VIP4), end).await.unwrap();
        let mut heard = 0;
        while let Some(due) = kernel
            .announce_due()
            .filter(|due| due.left() < Duration::from_millis(500))
        {
            tokio::time::sleep(due.left()).await;
        }
        observer.heard(VIP4).expect("one at once");
        while let Some((at, _)) = observer.heard(VIP4) {
            assert!(at < end, "{:?} after the end", at.saturating_since(end));
            heard += 1;
        }
        // Both forms at once and after 50 ms; the third time would be after the end.
        assert_eq!(heard, 3);
        assert!(matches!(
            kernel.announce(&name(VIP4)).await,
            Err(NetError::TooLate { .. })
        ));
    });
}

#[test]
fn a_foreign_address_is_left_alone_and_named() {
    on_hosts(async |hosts| {
        hosts.host.ip(&format!("address add {VIP4}/24 dev eth0"));
        let (mut kernel, _events) = open(&[VIP4], GateMode::Auto).await;
        assert_eq!(
            kernel.placement(&name(VIP4)).await.unwrap().presence,
            Presence::Foreign
        );
        let error = kernel.hold(&name(VIP4), in_ms(2000)).await.unwrap_err();
        assert!(
            error.to_string().contains("ip address del 10.0.0.100 dev eth0"),
            "{error}"
        );
        kernel.release(&name(VIP4)).await.unwrap();
        assert!(hosts.has(VIP4));

        // One that is held is let go of when a foreign one appears beside it.
        hosts.host.ip(&format!("address del {VIP4}/24 dev eth0"));
        kernel.hold(&name(VIP4), in_ms(20_000)).await.unwrap();
        hosts.host.ip(&format!("address add {VIP4}/24 dev eth0"));
        assert!(kernel.hold(&name(VIP4), in_ms(20_000)).await.is_err());
        let shown = hosts.shown(VIP4);
        assert!(shown.contains("/24") && !shown.contains("/32"), "{shown}");
        kernel.close().await.unwrap();
        assert!(hosts.has(VIP4));
    });
}

#[test]
fn a_place_is_where_the_network_is_and_told_with_its_link() {
    on_hosts(async |hosts| {
        let (mut kernel, _events) = open(&[VIP4, "fd01::1", "far=10.0.0.9@eth7"], GateMode::Auto).await;
        let place = kernel.placement(&name(VIP4)).await.unwrap();
        assert_eq!(
            (place.interface.as_str(), place.presence),
            ("eth0", Presence::Absent)
        );
        assert!(place.is_ready() && place.mac.is_some());
        kernel.hold(&name(VIP4), in_ms(20_000)).await.unwrap();
        assert_eq!(
            kernel.placement(&name(VIP4)).await.unwrap().presence,
            Presence::Ours
        );
        hosts.other.ip("link set eth0 down");
        assert!(!kernel.placement(&name(VIP4)).await.unwrap().carrier);
        hosts.host.ip("link set eth0 down");
        assert!(!kernel.placement(&name(VIP4)).await.unwrap().up);
        assert!(matches!(
            kernel.hold(&name(VIP4), in_ms(2000)).await,
            Err(NetError::LinkDown { .. })
        ));
        assert!(matches!(
            kernel.placement(&name("fd01::1")).await,
            Err(NetError::NoInterface { .. })
        ));
        let far = "far".parse().unwrap();
        assert!(matches!(
            kernel.placement(&far).await,
            Err(NetError::NoSuchInterface { .. })
        ));
        let unknown = "nobody".parse().unwrap();
        assert!(matches!(
            kernel.hold(&unknown, in_ms(2000)).await,
            Err(NetError::Unknown(_))
        ));
    });
}

#[test]
fn an_interface_that_gets_another_name_keeps_the_address() {
    on_hosts(async |hosts| {
        let (mut kernel, _events) = open(&[VIP4, VIP6], GateMode::Nftables).await;
        for address in [VIP4, VIP6] {
            kernel.hold(&name(address), in_ms(20_000)).await.unwrap();
        }
        hosts.host.ip("link set eth0 name lan0");
        let observer = hosts.observer();
        let rights = [VIP4, VIP6].map(|address| (name(address), in_ms(25_000)));
        assert!(kernel.extend(&rights).await.unwrap().is_empty());
        for address in [VIP4, VIP6] {
            assert!(observer.resolves(address));
            observer.forget();
            kernel.announce(&name(address)).await.unwrap();
            assert!(observer.heard(address).is_some());
            assert_eq!(kernel.placement(&name(address)).await.unwrap().interface, "lan0");
            kernel.hold(&name(address), in_ms(20_000)).await.unwrap();
        }
    });
}

#[test]
fn an_address_follows_its_network_to_another_interface() {
    on_hosts(async |hosts| {
        let (mut kernel, _events) = open(&[VIP4], GateMode::Nftables).await;
        kernel.hold(&name(VIP4), in_ms(20_000)).await.unwrap();
        hosts.host.ip("link add eth1 type veth peer name far1");
        hosts.host.ip("link set eth1 up");
        hosts.host.ip("address add 10.0.0.1/25 dev eth1");
        kernel.hold(&name(VIP4), in_ms(20_000)).await.unwrap();
        let shown = hosts.shown(VIP4);
        assert!(shown.contains("eth1") && !shown.contains("eth0"), "{shown}");
    });
}

#[test]
fn an_address_whose_interface_is_gone_is_told_and_can_be_held_elsewhere() {
    on_hosts(async |hosts| {
        hosts.host.ip("link add eth1 type veth peer name far1");
        hosts.host.ip("link set eth1 up");
        let (mut kernel, _events) = open(&["10.1.0.1@eth1"], GateMode::Nftables).await;
        let vip = name("10.1.0.1");
        kernel.hold(&vip, in_ms(2000)).await.unwrap();
        hosts.host.ip("link del eth1");
        let failed = kernel.extend(&[(vip.clone(), in_ms(20_000))]).await.unwrap();
        assert!(
            matches!(failed.as_slice(), [(_, NetError::AddAddress { .. })]),
            "{failed:?}"
        );
        hosts.host.ip("link add eth1 type veth peer name far1");
        hosts.host.ip("link set eth1 up");
        kernel.hold(&vip, in_ms(2000)).await.unwrap();
        assert!(hosts.has("10.1.0.1"));
    });
}
