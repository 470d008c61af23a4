//! consul-bootstrapper against bad input and faults: garbage, full and read-only disks, wrong keys, clocks that differ, etcd
//! and Consul dead, frozen or talking nonsense, its own death at any moment. Each time: a clear error, nothing lost,
//! no second cluster.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, also in the functions that its tests share"
)]

use std::time::{Duration, Instant};

use integration_tests::consul_hosts::{
    FORMING, Host, Service, Site, boot, power_cut, until_says, until_settled, until_state, until_voters,
};
use integration_tests::wait::{throughout, until};

/// Generous: what must happen within it takes a few seconds on an idle machine.
const SOON: Duration = Duration::from_secs(30);
/// How long nothing may happen where nothing must happen.
const A_WHILE: Duration = Duration::from_secs(5);

const RECORD: &str = "/colossus/consul/main/record";
const GOSSIP: &str = "/colossus/consul/main/secrets/gossip";

fn starts(hosts: &[&Host]) -> Vec<String> {
    hosts.iter().map(|host| host.starts(Service::Consul)).collect()
}

/// The Consuls run on, untouched, with a leader.
async fn consul_runs_on(hosts: &[&Host], before: &[String], duration: Duration) {
    throughout("Consul runs on", duration, || async {
        let now = starts(hosts);
        if now != before {
            return Err(format!("{now:?} was {before:?}"));
        }
        // An election under way is none of our business.
        Ok(())
    })
    .await;
    for host in hosts {
        until(&format!("{} knows a leader", host.name()), SOON, || async {
            if host.led().await {
                Ok(())
            } else {
                Err("no leader".to_owned())
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_in_the_record_stops_every_change_and_is_named() {
    let site = Site::new().await;
    let [n1, n2, n3] = &site.formed().await;
    let all = [n1, n2, n3];
    let (client, before) = (site.etcd().client(), starts(&all));
    let good = client.get(RECORD).await.unwrap().unwrap().value;
    let huge = format!("{{\"version\":1,\"id\":\"{}\"}}", "x".repeat(100_000));
    for garbage in [
        "",
        "garbage",
        "[]",
        "{\"version\":99,\"id\":\"x\",\"servers\":3,\"bootstrapped\":false,\"slots\":[]}",
        &huge,
    ] {
        client.put(RECORD, garbage, None).await.unwrap();
        for host in all {
            let said = until_says(host, "cannot be read", SOON).await;
            assert!(said.contains(RECORD), "{said}");
        }
        let held = client.get(RECORD).await.unwrap().unwrap().value;
        assert_eq!(
            held,
            garbage.as_bytes(),
            "nobody overwrites what one may want to look at"
        );
    }
    // A host that comes now waits, one that reboots goes nowhere; those that run do.
    let n4 = &site.host(4);
    n4.boot();
    until_says(n4, "cannot be read", SOON).await;
    assert!(!n4.answers().await);
    consul_runs_on(&all, &before, A_WHILE).await;
    let refused = n1.operate(&["recover", "--new-cluster"]);
    assert_eq!(refused.code, Some(1), "{}", refused.text);
    client.put(RECORD, good, None).await.unwrap();
    until_settled(&[n1, n2, n3, n4], SOON).await;
    // Without any it is published again.
    client.delete(RECORD).await.unwrap();
    until("the record is back", SOON, || site.record()).await;
    until_settled(&[n1, n2, n3, n4], SOON).await;
    assert_eq!(starts(&all), before);
    site.nothing_is_lost(&[n1, n2, n3, n4]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gossip_key_that_is_none_is_named_before_anything_is_formed() {
    let site = Site::new().await;
    let [n1, n2, n3] = &site.hosts();
    let client = site.etcd().client();
    client.put(GOSSIP, "\"too short\"", None).await.unwrap();
    let all = [n1, n2, n3];
    boot(&all);
    for host in all {
        let said = until_says(host, "gossip key", SOON).await;
        assert!(said.contains(GOSSIP) && said.contains("base64"), "{said}");
        assert!(!host.answers().await);
    }
    client.delete(GOSSIP).await.unwrap();
    until_voters(n1, &all, FORMING).await;
    until_settled(&all, SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_gossip_key_is_named_and_makes_no_second_cluster() {
    let site = Site::new().await;
    let [n1, n2, n3] = &site.formed().await;
    let all = [n1, n2, n3];
    let client = site.etcd().client();
    let good = client.get(GOSSIP).await.unwrap().unwrap().value;
    client
        .put(GOSSIP, "\"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\"", None)
        .await
        .unwrap();
    // One with data knows better; ones without cannot.
    n3.power_cut();
    n3.boot();
    let said = until_says(n3, "another gossip key", SOON).await;
    assert!(
        said.contains(GOSSIP) && said.contains("Put the old key back"),
        "{said}"
    );
    assert!(!n3.answers().await);
    let n4 = &site.host(4);
    n4.boot();
    until_says(n4, "could not join", SOON).await;
    throughout("n4 has no leader", A_WHILE, || async {
        if n4.led().await {
            Err("it has".to_owned())
        } else {
            Ok(())
        }
    })
    .await;
    site.nothing_is_lost(&[n1, n2]).await;
    client.put(GOSSIP, good, None).await.unwrap();
    until_settled(&all, SOON).await;
    until_voters(n1, &all, SOON).await;
    site.nothing_is_lost(&all).await;
    // It says what to do, and that is right.
    n4.power_cut();
    n4.boot();
    let said = until_says(n4, "another gossip key", SOON).await;
    let keyring = said.split("remove ").nth(1).unwrap().split(' ').next().unwrap();
    n4.sh(&format!("rm {keyring}"));
    until_settled(&[n4], SOON).await;
    site.nothing_is_lost(&[n4]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_an_hour_apart_change_nothing() {
    let site = Site::new().await;
    let hosts = site
        .hosts::<4>()
        .map(|host| host.with("COLOSSUS_CONSUL_TLS", "auto"));
    let [n1, n2, n3, n4] = &hosts;
    let all = [n1, n2, n3];
    site.form(&all).await;
    // Nobody compares clocks, as nobody tells the time: of what a node keeps or tells, nothing is one. (Consul's
    // certificates are the exception; that they bear a day is tested where they are made.)
    let listing = site.etcd().client().list("/colossus/").await.unwrap();
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let (unix, year) = (
        (now / 100_000).to_string(),
        format!("{}-", 1970 + now / 31_556_952),
    );
    for entry in &listing.entries {
        if entry.key.contains("/secrets/") {
            continue;
        }
        let text = String::from_utf8_lossy(&entry.value).into_owned();
        for field in text.split('"') {
            assert!(
                !field.starts_with(&unix) && !field.starts_with(&year),
                "{}: {text}",
                entry.key
            );
        }
    }
    // What has times all the same are files: those of n2 are an hour ahead, as if its clock had been, those of n3 behind.
    power_cut(&[n2, n3]);
    n2.on_disk("find . -exec touch -h -d '+1 hour' {} +");
    n3.on_disk("find . -exec touch -h -d '-1 hour' {} +");
    let certificate = n2.on_disk("cat tls/cert.pem");
    boot(&[n2, n3, n4]);
    until_settled(&[n1, n2, n3, n4], SOON).await;
    until_voters(n1, &all, SOON).await;
    assert_eq!(
        n2.sh("cat tls/cert.pem").trim(),
        certificate.trim(),
        "a young certificate is kept"
    );
    site.nothing_is_lost(&[n1, n2, n3, n4]).await;
}

/// A disk of this size, in memory.
fn tiny_disk(host: &mut Host, kilobytes: u32) {
    let option = format!("o=size={kilobytes}k,mode=700,uid=65532,gid=65532");
    host.disk(&[
        "--mount",
        &format!(
            "type=volume,dst=/var/lib/colossus/consul,volume-driver=local,volume-opt=type=tmpfs,volume-opt=device=tmpfs,\"volume-opt={option}\""
        ),
    ]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_named_and_nothing_is_lost() {
    let site = Site::new().await;
    let [n1, n2, mut n3] = site.hosts();
    tiny_disk(&mut n3, 8 * 1024);
    let all = [&n1, &n2, &n3];
    site.form(&all).await;
    // Full to the last byte, then a change that must be written down.
    n3.sh("dd if=/dev/zero of=fill bs=1k 2>/dev/null; dd if=/dev/zero of=fill2 bs=1 2>/dev/null; true");
    let known = n3.sh("cat known.json");
    n2.power_cut();
    n2.lose_disk();
    n3.command(Service::Bootstrapper, &["kill"]);
    n3.command(Service::Bootstrapper, &["start"]);
    let said = until_says(&n3, "is the disk full", SOON).await;
    assert!(said.contains("/var/lib/colossus/consul"), "{said}");
    assert_eq!(n3.sh("cat known.json"), known, "what was there is unharmed");
    n3.sh("rm -f fill fill2");
    n2.boot();
    until_settled(&all, Duration::from_secs(60)).await;
    until_voters(&n1, &all, SOON).await;
    site.nothing_is_lost(&all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_at_the_first_boot_is_named() {
    let site = Site::new().await;
    let [n1, n2, mut n3] = site.hosts();
    // Room for the directories, and not for a configuration.
    tiny_disk(&mut n3, 8);
    let all = [&n1, &n2, &n3];
    boot(&all);
    until("n3 says so", SOON, || async {
        let logs = n3.logs(Service::Bootstrapper);
        let standing = n3.standing().await.unwrap_or_default();
        let said = format!("{logs}{standing:?}");
        if said.contains("is the disk full") {
            Ok(())
        } else {
            Err(said)
        }
    })
    .await;
    throughout("nobody leads", A_WHILE, || async {
        for host in all {
            if host.led().await {
                return Err(format!("{} knows a leader", host.name()));
            }
        }
        Ok(())
    })
    .await;
    n3.power_cut();
    n3.lose_disk();
    n3.disk(&[]);
    n3.boot();
    let all = [&n1, &n2, &n3];
    until_voters(&n1, &all, FORMING).await;
    until_settled(&all, SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_directory_that_cannot_be_written_is_named() {
    let site = Site::new().await;
    let [n1, n2, n3] = &site.formed().await;
    let all = [n1, n2, n3];
    n3.power_cut();
    // Not a file system that is mounted read-only, but as unwritable for who is not root.
    n3.on_disk("chown -R 0:65532 config && chmod 550 config && chmod 440 config/*");
    let before = n3.on_disk("cat config/colossus.json");
    n3.boot();
    // Its configuration is good as it is, until it shall join others.
    until_settled(&[n3], SOON).await;
    n1.operate(&["decommission", "n2"]);
    let said = until_says(n3, "cannot write", SOON).await;
    assert!(
        said.contains("config/colossus.json") && said.contains("read-only"),
        "{said}"
    );
    assert_eq!(n3.sh("cat config/colossus.json"), before);
    n3.sh("chown -R 65532 config && chmod 700 config && chmod 600 config/*");
    n1.operate(&["decommission", "n2", "--undo"]);
    until_settled(&all, Duration::from_secs(60)).await;
    site.nothing_is_lost(&all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_etcd_consul_goes_on_whatever_etcd_does() {
    let site = Site::new().await;
    let [n1, n2, n3] = &site.formed().await;
    let (all, before) = ([n1, n2, n3], starts(&[n1, n2, n3]));
    type Fault = (&'static str, fn(&Site), fn(&Site));
    let faults: [Fault; 3] = [
        (
            "killed",
            |site| site.etcd().command(&["kill"]),
            |site| site.etcd().command(&["start"]),
        ),
        (
            "frozen",
            |site| site.etcd().command(&["kill", "-s", "STOP"]),
            |site| site.etcd().command(&["kill", "-s", "CONT"]),
        ),
        (
            "talking nonsense",
            |site| site.etcd().answer_nonsense(),
            |site| site.etcd().answer_sense(),
        ),
    ];
    for (what, begin, end) in faults {
        begin(&site);
        for host in all {
            until_says(host, "Consul goes on as it was", SOON).await;
        }
        eprintln!("etcd is {what}: {}", n1.standing().await.unwrap().summary);
        // Longer than the leases hold.
        consul_runs_on(&all, &before, Duration::from_secs(7)).await;
        site.nothing_is_lost(&all).await;
        end(&site);
        until_settled(&all, SOON).await;
        assert_eq!(site.slots().await.unwrap().len(), 3);
    }
    consul_runs_on(&all, &before, Duration::from_secs(1)).await;
    until_voters(n1, &all, SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consul_that_is_killed_frozen_or_talks_nonsense_is_waited_for() {
    let site = Site::new().await;
    let [n1, n2, n3] = &site.formed().await;
    let all = [n1, n2, n3];
    let slots = site.record().await.unwrap()["slots"].clone();
    type Fault = (&'static str, fn(&Host), fn(&Host));
    let faults: [Fault; 3] = [
        (
            "killed",
            |host| host.command(Service::Consul, &["kill"]),
            |host| host.command(Service::Consul, &["start"]),
        ),
        (
            "frozen",
            |host| host.command(Service::Consul, &["pause"]),
            |host| host.command(Service::Consul, &["unpause"]),
        ),
        ("talking nonsense", Host::answer_nonsense, Host::answer_sense),
    ];
    for (what, begin, end) in faults {
        begin(n3);
        until_state(n3, "awaits_leader", SOON).await;
        eprintln!("Consul is {what}: {}", n3.standing().await.unwrap().summary);
        throughout("nothing is changed", A_WHILE, || async {
            let now = site.record().await?["slots"].clone();
            if now == slots {
                Ok(())
            } else {
                Err(now.to_string())
            }
        })
        .await;
        site.nothing_is_lost(&[n1, n2]).await;
        end(n3);
        until_voters(n3, &all, SOON).await;
        until_settled(&all, SOON).await;
    }
    site.nothing_is_lost(&all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_cut_off_comes_back_as_it_was() {
    let site = Site::new().await;
    let [n1, n2, n3] = &site.formed().await;
    let all = [n1, n2, n3];
    let before = starts(&all);
    // From the other hosts, then from etcd alone, then from both.
    let etcd = site.etcd().address(0);
    for cut in [
        vec![n1.address(), n2.address()],
        vec![&etcd],
        vec![n1.address(), n2.address(), &etcd],
    ] {
        n3.cut_from(&cut);
        if cut.contains(&etcd.as_str()) {
            until_says(n3, "etcd cannot be asked", SOON).await;
        } else {
            until("n3 has no leader", SOON, || async {
                if n3.led().await {
                    Err("it has".to_owned())
                } else {
                    Ok(())
                }
            })
            .await;
        }
        until_voters(n1, &all, SOON).await;
        site.nothing_is_lost(&[n1, n2]).await;
        n3.mend();
        until_settled(&all, SOON).await;
        until_voters(n3, &all, SOON).await;
    }
    assert_eq!(starts(&all), before);
    site.nothing_is_lost(&all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_formation_survives_the_death_of_consul_bootstrapper_at_any_moment() {
    for round in 1..=3 {
        let site = Site::new().await;
        let [n1, n2, n3] = &site.hosts();
        let all = [n1, n2, n3];
        let began = Instant::now();
        boot(&all);
        for _ in 0..15 {
            let pause = Duration::from_millis(fastrand::u64(0..400));
            tokio::time::sleep(pause).await;
            let host = all[fastrand::usize(..3)];
            host.command(Service::Bootstrapper, &["kill"]);
            host.command(Service::Bootstrapper, &["start"]);
        }
        until_voters(n1, &all, FORMING).await;
        until_settled(&all, SOON).await;
        eprintln!(
            "round {round}: formed after {:.1} s",
            began.elapsed().as_secs_f64()
        );
        let ids: std::collections::BTreeSet<_> = site
            .watch()
            .records("main")
            .iter()
            .map(|record| record["id"].to_string())
            .collect();
        assert_eq!(ids.len(), 1, "one cluster was begun");
        site.mark(n1).await;
        site.nothing_is_lost(&all).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_formation_survives_power_cuts_at_any_moment() {
    let site = Site::new().await;
    let [n1, n2, n3] = &site.hosts();
    let all = [n1, n2, n3];
    boot(&all);
    for _ in 0..4 {
        let pause = Duration::from_millis(fastrand::u64(20..2500));
        tokio::time::sleep(pause).await;
        let host = all[fastrand::usize(..3)];
        host.power_cut();
        host.boot();
    }
    until_voters(n1, &all, FORMING).await;
    until_settled(&all, SOON).await;
    site.mark(n1).await;
    site.nothing_is_lost(&all).await;
}
