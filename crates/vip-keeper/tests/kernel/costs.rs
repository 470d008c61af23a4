//! What it costs. Figures, and no test: `cargo test -p vip-keeper --test kernel --release costs -- --ignored --nocapture`.

use std::time::Duration;

use vip_keeper::net::{BootInstant, GateMode};

use crate::hosts::{in_ms, name, on_hosts, open};

fn shown(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |part: usize| times[(times.len() - 1) * part / 100];
    format!("median {:?}, 99 % {:?}, most {:?}", at(50), at(99), at(100))
}

#[test]
#[ignore = "measures"]
fn what_it_costs() {
    on_hosts(async |hosts| {
        for count in [1, 10, 100] {
            let addresses: Vec<_> = (0..count)
                .map(|number| format!("10.0.0.{}", 100 + number))
                .collect();
            let texts: Vec<_> = addresses.iter().map(String::as_str).collect();
            let (mut kernel, _events) = open(&texts, GateMode::Nftables).await;
            let mut held = vec![];
            for address in &texts {
                let before = BootInstant::now();
                kernel.hold(&name(address), in_ms(20_000)).await.unwrap();
                held.push(BootInstant::now().saturating_since(before));
            }
            let mut extended = vec![];
            for _ in 0..1000 {
                let before = BootInstant::now();
                let rights: Vec<_> = texts.iter().map(|address| (name(address), in_ms(1200))).collect();
                assert!(kernel.extend(&rights).await.unwrap().is_empty());
                extended.push(BootInstant::now().saturating_since(before));
            }
            println!("{count} addresses: hold {}", shown(held));
            println!("{count} addresses: extend {}", shown(extended));
            kernel.close().await.unwrap();
        }
        let (mut kernel, _events) = open(&["10.0.0.100"], GateMode::Nftables).await;
        let vip = name("10.0.0.100");
        let (mut out, mut released) = (vec![], vec![]);
        for _ in 0..50 {
            let observer = hosts.observer();
            let before = BootInstant::now();
            kernel.hold(&vip, in_ms(20_000)).await.unwrap();
            let (heard, _) = observer.heard("10.0.0.100").expect("an announcement");
            out.push(heard.saturating_since(before));
            let before = BootInstant::now();
            kernel.release(&vip).await.unwrap();
            released.push(BootInstant::now().saturating_since(before));
        }
        println!(
            "from hold to the first announcement read by another host: {}",
            shown(out)
        );
        println!("release: {}", shown(released));
        // As on a host that runs many containers.
        for number in 0..200 {
            hosts
                .host
                .ip(&format!("link add near{number} type veth peer name far{number}"));
        }
        let mut held = vec![];
        for _ in 0..100 {
            let before = BootInstant::now();
            kernel.hold(&vip, in_ms(20_000)).await.unwrap();
            held.push(BootInstant::now().saturating_since(before));
        }
        println!("hold among 400 other interfaces: {}", shown(held));
    });
}
