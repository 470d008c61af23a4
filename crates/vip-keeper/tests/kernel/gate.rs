//! The gate: who hears of an address when, and when no longer.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vip_keeper::net::{BootInstant, GateHook, GateMode, NetError};

use crate::hosts::{Hosts, PATIENCE, VIP4, VIP6, in_ms, name, on_hosts, open, until};
use crate::observer::Echo;

/// How much too early the gate may shut: the kernel counts in ticks of at most 10 ms, of which it may lack two.
const EARLY: Duration = Duration::from_millis(20);

#[test]
fn an_address_that_is_there_without_a_right_is_deaf_and_dumb() {
    on_hosts(async |hosts| {
        let (mut kernel, _events) = open(&[VIP4, VIP6], GateMode::Nftables).await;
        assert_eq!(kernel.gate_hook(), Some(GateHook::Prerouting));
        let observer = hosts.observer();
        for (address, length) in [(VIP4, 32), (VIP6, 128)] {
            hosts
                .host
                .ip(&format!("address add {address}/{length} dev eth0 nodad"));
            let echo = Echo::new(&hosts, address);
            assert!(!observer.resolves(address), "{address}");
            assert!(!echo.answers(), "{address}");
            // What is wrong here is the address, not the test.
            hosts.host.ip(&format!("address del {address}/{length} dev eth0"));
            kernel.hold(&name(address), in_ms(20_000)).await.unwrap();
            assert!(observer.resolves(address), "{address}");
            assert!(echo.answers(), "{address}");
        }
    });
}

#[test]
fn an_address_that_is_released_is_silent_at_once_and_the_other_goes_on() {
    on_hosts(async |hosts| {
        let (mut kernel, _events) = open(&[VIP4, VIP6, "10.0.0.101"], GateMode::Nftables).await;
        let observer = hosts.observer();
        for address in [VIP4, VIP6, "10.0.0.101"] {
            kernel.hold(&name(address), in_ms(20_000)).await.unwrap();
        }
        for address in [VIP4, VIP6] {
            let echo = Echo::new(&hosts, address);
            assert!(echo.answers(), "{address}");
            kernel.release(&name(address)).await.unwrap();
            assert!(
                !echo.answers() && !observer.resolves(address) && !hosts.has(address),
                "{address}"
            );
            kernel
                .release(&name(address))
                .await
                .expect("a second time changes nothing");
        }
        assert!(observer.resolves("10.0.0.101") && Echo::new(&hosts, "10.0.0.101").answers());
    });
}

#[test]
fn the_gate_shuts_by_itself_at_the_deadline_and_never_later() {
    on_hosts(async |hosts| {
        let (mut kernel, _events) = open(&[VIP4], GateMode::Nftables).await;
        let vip = name(VIP4);
        let mut early = vec![];
        for right in (0..20).map(|run| 100 + 7 * run) {
            let observer = hosts.observer();
            let deadline = in_ms(right);
            kernel.hold(&vip, deadline).await.unwrap();
            // Nothing else happens here meanwhile: it is the kernel that shuts.
            let answers = observer.flood(VIP4);
            let last = *answers.last().expect("answers at first");
            assert!(last <= deadline, "{:?} too late", last.saturating_since(deadline));
            early.push(deadline.saturating_since(last));
            assert!(hosts.has(VIP4), "the address itself lives longer");
            kernel.release(&vip).await.unwrap();
        }
        early.sort();
        println!(
            "shut before the deadline by {:?} to {:?}, {:?} in the median",
            early[0], early[19], early[10]
        );
        // On a busy machine the last answer may be some time before the end: nobody asked, or nobody was let answer.
        assert!(early[0] <= EARLY, "{early:?}");
    });
}

#[test]
fn renewing_leaves_no_gap() {
    on_hosts(async |hosts| {
        let vips = [VIP4, VIP6, "10.0.0.101"];
        let (mut kernel, _events) = open(&vips, GateMode::Nftables).await;
        for address in vips {
            kernel.hold(&name(address), in_ms(5000)).await.unwrap();
        }
        let mut floods = vec![];
        for address in [VIP4, VIP6] {
            // What is lost is lost; what is only late, since this machine is busy, is not.
            let echo = Echo::new(&hosts, address).patient(PATIENCE / 10);
            let observer = hosts.observer();
            assert!(observer.resolves(address));
            let end = in_ms(2000);
            floods.push(tokio::task::spawn_blocking(move || {
                let (mut asked, mut lost) = (0, 0);
                while !end.is_over() {
                    asked += 1;
                    lost += u32::from(!echo.answers());
                    if asked % 10 == 0 {
                        lost += u32::from(observer.answer(address, PATIENCE / 10).is_none());
                    }
                }
                (asked, lost)
            }));
        }
        let mut renewed = 0;
        while floods.iter().any(|flood| !flood.is_finished()) {
            let rights = vips.map(|address| (name(address), in_ms(5000)));
            assert!(kernel.extend(&rights).await.unwrap().is_empty());
            renewed += 1;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        for flood in floods {
            let (asked, lost) = flood.await.unwrap();
            println!("{asked} echoes while the gate was renewed {renewed} times, {lost} lost");
            assert!(asked > 100 && renewed > 100);
            assert_eq!(lost, 0);
        }
    });
}

#[test]
fn a_right_that_is_over_or_runs_out_meanwhile_is_not_taken() {
    on_hosts(async |hosts| {
        for gate in [GateMode::Nftables, GateMode::Lifetime] {
            let (mut kernel, _events) = open(&[VIP4, VIP6], gate).await;
            for vip in [VIP4, VIP6].map(name) {
                let over = in_ms(0);
                assert!(matches!(
                    kernel.hold(&vip, over).await,
                    Err(NetError::TooLate { .. })
                ));
                kernel.hold(&vip, in_ms(2000)).await.unwrap();
                let failed = kernel.extend(&[(vip.clone(), over)]).await.unwrap();
                assert!(
                    matches!(failed.as_slice(), [(failed, NetError::TooLate { .. })] if *failed == vip),
                    "{failed:?}"
                );
            }
            assert!(!hosts.has(VIP4) && !hosts.has(VIP6), "{gate:?}");
            kernel.close().await.unwrap();
        }
    });
}

#[test]
fn an_end_that_is_over_does_not_open_the_gate_for_the_others_end_either() {
    on_hosts(async |hosts| {
        let (mut kernel, _events) = open(&[VIP4, "10.0.0.101"], GateMode::Nftables).await;
        kernel.hold(&name(VIP4), in_ms(50)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(60)).await;
        // The first one's end is written anew with each change of the gate.
        kernel.hold(&name("10.0.0.101"), in_ms(20_000)).await.unwrap();
        let observer = hosts.observer();
        assert!(!observer.resolves(VIP4) && observer.resolves("10.0.0.101"));
        assert!(
            kernel
                .extend(&[(name("10.0.0.101"), in_ms(20_000))])
                .await
                .unwrap()
                .len()
                == 1
        );
        assert!(!hosts.has(VIP4));
    });
}

/// A process that holds an address. It is killed when this goes.
struct Holder {
    child: Child,
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Holder {
    /// Started, and holding.
    async fn start(hosts: &Hosts, address: &str, right: Duration, gate: &str) -> Self {
        // Cargo builds the examples beside the tests.
        let test = std::env::current_exe().unwrap();
        let program: PathBuf = test.parent().unwrap().parent().unwrap().join("examples/hold");
        let mut command = Command::new(&program);
        command
            .args([address, &right.as_millis().to_string(), gate])
            .stdout(Stdio::piped());
        let child = hosts
            .host
            .run(|| command.spawn())
            .expect("the example hold: cargo build --examples");
        let holder = Self { child };
        let observer = hosts.observer();
        until("the holder holds", || observer.resolves(address)).await;
        holder
    }

    fn pause(&self) {
        let process = Pid::from_raw(self.child.id().try_into().unwrap());
        kill(process, Signal::SIGSTOP).unwrap();
    }

    /// The end of the last right that it may have taken, once it is dead.
    fn last_right(mut self) -> BootInstant {
        self.child.kill().unwrap();
        let lines = BufReader::new(self.child.stdout.take().unwrap()).lines();
        let nanoseconds = lines
            .map_while(Result::ok)
            .filter_map(|line| line.parse().ok())
            .max()
            .unwrap();
        BootInstant::from_boot(Duration::from_nanos(nanoseconds))
    }
}

#[test]
fn a_process_that_is_stopped_loses_the_address_in_time() {
    on_hosts(async |hosts| {
        for address in [VIP4, VIP6] {
            let right = Duration::from_secs(1);
            let holder = Holder::start(&hosts, address, right, "nftables").await;
            let observer = hosts.observer();
            let flood = tokio::task::spawn_blocking(move || observer.flood(address));
            tokio::time::sleep(Duration::from_millis(200)).await;
            holder.pause();
            let stopped = BootInstant::now();
            let last = *flood.await.unwrap().last().expect("answers at first");
            until("the kernel removed the address", || !hosts.has(address)).await;
            let removed = BootInstant::now().saturating_since(stopped);
            let end = holder.last_right();
            println!(
                "{address}: silent {:?} before its end, removed {removed:?} after the stop",
                end.saturating_since(last)
            );
            assert!(last <= end, "{:?} too late", last.saturating_since(end));
            assert!(last > stopped, "it went on until its end");
        }
    });
}

#[test]
fn a_process_that_is_killed_loses_the_address_and_leaves_the_gate_shut() {
    on_hosts(async |hosts| {
        let holder = Holder::start(&hosts, VIP4, Duration::from_millis(300), "nftables").await;
        let end = holder.last_right();
        until("the kernel removed the address", || !hosts.has(VIP4)).await;
        hosts.host.ip(&format!("address add {VIP4}/32 dev eth0"));
        assert!(end.is_over() && !hosts.observer().resolves(VIP4));
    });
}

#[test]
fn without_nftables_the_lifetime_alone_ends_it() {
    on_hosts(async |hosts| {
        let holder = Holder::start(&hosts, VIP4, Duration::from_secs(2), "lifetime").await;
        let observer = hosts.observer();
        holder.pause();
        until("the kernel removed the address", || !hosts.has(VIP4)).await;
        let (removed, silent) = (BootInstant::now(), !observer.resolves(VIP4));
        let end = holder.last_right();
        println!("removed {:?} after its end", removed.saturating_since(end));
        // In whole seconds, and the kernel looks for them up to a second late.
        assert!(silent && removed.saturating_since(end) < Duration::from_millis(1300));
    });
}

#[test]
fn a_published_port_is_shut_too() {
    on_hosts(async |hosts| {
        let (mut kernel, _events) = open(&[VIP4], GateMode::Nftables).await;
        // As Docker publishes a port: to an address of another interface, before routing.
        let published = "add table ip published; add chain ip published pre { type nat hook prerouting priority -100; }; \
                         add rule ip published pre fib daddr type local icmp type echo-request dnat to 10.9.0.1";
        for line in published.split("; add") {
            let line = format!("add {}", line.trim_start_matches("add"));
            if hosts.host.nft(&line).is_none() {
                println!("skipped: this machine has no nft to publish a port with");
                return;
            }
        }
        hosts.host.ip("address add 10.9.0.1/32 dev lo");
        let echo = Echo::new(&hosts, VIP4);
        hosts.host.ip(&format!("address add {VIP4}/32 dev eth0"));
        assert!(!echo.answers());
        hosts.host.ip(&format!("address del {VIP4}/32 dev eth0"));
        kernel.hold(&name(VIP4), in_ms(20_000)).await.unwrap();
        assert!(echo.answers());
    });
}

#[test]
fn the_gate_is_made_again_if_somebody_flushes_all_rules() {
    on_hosts(async |hosts| {
        let (mut kernel, _events) = open(&[VIP4, VIP6], GateMode::Nftables).await;
        kernel.hold(&name(VIP4), in_ms(2000)).await.unwrap();
        let Some(before) = hosts.host.nft("--stateless list ruleset") else {
            println!("skipped: this machine has no nft to flush with");
            return;
        };
        hosts.host.nft("flush ruleset");
        assert!(
            kernel
                .extend(&[(name(VIP4), in_ms(20_000))])
                .await
                .unwrap()
                .is_empty()
        );
        let after = hosts.host.nft("--stateless list ruleset").unwrap();
        assert!(
            after.contains("colossus_vip") && after.lines().count() == before.lines().count(),
            "{after}"
        );
        hosts.host.ip(&format!("address add {VIP6}/128 dev eth0 nodad"));
        let observer = hosts.observer();
        assert!(observer.resolves(VIP4) && !observer.resolves(VIP6));
    });
}
