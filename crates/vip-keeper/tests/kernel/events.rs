//! What the kernel says by itself.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::time::timeout;
use vip_keeper::net::{GateMode, KernelEvent, KernelEvents};

use crate::hosts::{PATIENCE, VIP4, VIP6, in_ms, name, on_hosts, open};

/// How long nothing must be heard to count as nothing.
const QUIET: Duration = Duration::from_millis(200);

async fn next(events: &mut KernelEvents) -> KernelEvent {
    timeout(PATIENCE / 3, events.next()).await.expect("an event")
}

/// The events until none comes for a while.
async fn all(events: &mut KernelEvents) -> Vec<KernelEvent> {
    let mut heard = vec![];
    while let Ok(event) = timeout(QUIET, events.next()).await {
        heard.push(event);
    }
    heard
}

#[test]
fn addresses_that_come_and_go_are_told_and_renewals_are_not() {
    on_hosts(async |hosts| {
        let (mut kernel, mut events) = open(&[VIP4, VIP6], GateMode::Auto).await;
        for address in [VIP4, VIP6] {
            let vip = name(address);
            kernel.hold(&vip, in_ms(1000)).await.unwrap();
            assert_eq!(
                all(&mut events).await,
                [KernelEvent::AddressAppeared {
                    vip: vip.clone(),
                    ours: true
                }]
            );
            kernel.extend(&[(vip.clone(), in_ms(20_000))]).await.unwrap();
            assert_eq!(all(&mut events).await, []);
            hosts.host.ip(&format!("address flush to {address}"));
            assert_eq!(
                all(&mut events).await,
                [KernelEvent::AddressGone { vip: vip.clone() }]
            );
            hosts.host.ip(&format!("address add {address} dev eth0"));
            assert_eq!(
                next(&mut events).await,
                KernelEvent::AddressAppeared { vip, ours: false }
            );
            hosts.host.ip(&format!("address flush to {address}"));
            all(&mut events).await;
        }
    });
}

#[test]
fn the_end_of_a_lifetime_is_told() {
    on_hosts(async |_hosts| {
        let (mut kernel, mut events) = open(&[VIP4], GateMode::Lifetime).await;
        let vip = name(VIP4);
        kernel.hold(&vip, in_ms(1000)).await.unwrap();
        assert_eq!(
            next(&mut events).await,
            KernelEvent::AddressAppeared {
                vip: vip.clone(),
                ours: true
            }
        );
        assert_eq!(next(&mut events).await, KernelEvent::AddressGone { vip });
    });
}

#[test]
fn a_link_that_changes_is_told_by_its_name_now() {
    on_hosts(async |hosts| {
        let (_kernel, mut events) = open(&[VIP4], GateMode::Auto).await;
        for (change, interface) in [
            ("link set eth0 name lan0", "lan0"),
            ("link set lan0 down", "lan0"),
            ("link set lan0 up", "lan0"),
            ("link set lan0 address 02:00:00:00:00:77", "lan0"),
            ("link add eth9 type veth peer name far9", "eth9"),
            ("link del eth9", "eth9"),
        ] {
            hosts.host.ip(change);
            let heard = all(&mut events).await;
            let expected = KernelEvent::LinkChanged {
                interface: interface.into(),
            };
            assert!(heard.contains(&expected), "{change}: {heard:?}");
        }
    });
}

#[test]
fn another_host_that_speaks_for_our_address_is_heard_and_we_are_not() {
    on_hosts(async |hosts| {
        let (mut kernel, mut events) = open(&[VIP4, VIP6], GateMode::Nftables).await;
        let observer = hosts.observer();
        for address in [VIP4, VIP6] {
            let vip = name(address);
            let conflict = KernelEvent::Conflict {
                vip: vip.clone(),
                mac: observer.mac(),
            };
            observer.claim(address, 255);
            assert_eq!(
                all(&mut events).await,
                std::slice::from_ref(&conflict),
                "{address}, not held"
            );
            kernel.hold(&vip, in_ms(20_000)).await.unwrap();
            assert!(observer.resolves(address));
            assert_eq!(
                all(&mut events).await,
                [KernelEvent::AddressAppeared {
                    vip: vip.clone(),
                    ours: true
                }]
            );
            observer.claim(address, 255);
            assert_eq!(next(&mut events).await, conflict, "{address}, held");
            // Other addresses, and who only asks.
            observer.claim("10.0.0.77", 255);
            observer.claim("fd00::77", 255);
            observer.ask(address);
            assert_eq!(all(&mut events).await, []);
        }
        // From another link, through a router: anybody could send that.
        observer.claim(VIP6, 254);
        assert_eq!(all(&mut events).await, []);
    });
}

#[test]
fn what_was_too_much_to_hear_is_told_as_lost() {
    on_hosts(async |hosts| {
        let (_kernel, mut events) = open(&[VIP4], GateMode::Auto).await;
        hosts.host.ip("link add eth9 type veth peer name far9");
        let mut command = Command::new("ip");
        command
            .args(["-force", "-batch", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::null());
        let mut ip = hosts.host.run(|| command.spawn()).unwrap();
        let mut input = ip.stdin.take().unwrap();
        for number in 0..8000 {
            writeln!(
                input,
                "address add 172.16.{}.{}/32 dev eth9",
                number / 250,
                1 + number % 250
            )
            .unwrap();
        }
        writeln!(input, "address add {VIP4}/32 dev eth9").unwrap();
        drop(input);
        assert!(ip.wait().unwrap().success());
        let heard = all(&mut events).await;
        assert!(heard.contains(&KernelEvent::Lost), "{heard:?}");
        // And what comes after it is heard again.
        hosts.host.ip(&format!("address del {VIP4}/32 dev eth9"));
        assert_eq!(
            all(&mut events).await,
            [KernelEvent::AddressGone { vip: name(VIP4) }]
        );
    });
}
