//! Consul forms, grows, heals and refuses through etcd: one test for each scenario that consul-bootstrapper must master.
//! Real etcd, real Consul, the real consul-bootstrapper; what is known is known from outside. What must never be (a second
//! cluster, a lost value, two slots that change hands at once) is watched in every test, all the while.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, also in the functions that its tests share"
)]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use consul::{AclBootstrap, AclTokenRequest, MemberStatus, PutOptions};
use integration_tests::consul_hosts::{
    FORMING, Host, Service, Site, boot, power_cut, until_says, until_settled, until_state, until_voters,
};
use integration_tests::wait::{throughout, until};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

/// Generous: what must happen within it takes a few seconds on an idle machine.
const SOON: Duration = Duration::from_secs(30);
/// How long a server slot is held for who is away, and what it takes until another one has its vote.
const REPLACED: Duration = Duration::from_secs(30 + 3 * 30);
/// How long nothing may happen where nothing must happen.
const A_WHILE: Duration = Duration::from_secs(5);

fn names(hosts: &[&Host]) -> BTreeSet<String> {
    hosts.iter().map(|host| host.name().to_owned()).collect()
}

/// How long something took, and how long it shall take at most. Held with a wide margin, since other tests run beside this
/// one.
fn timing(what: &str, began: Instant, target: Duration) {
    let took = began.elapsed();
    eprintln!(
        "{what}: {:.1} s (target {} s)",
        took.as_secs_f64(),
        target.as_secs()
    );
    assert!(took < target * 3, "{what} took {took:?}");
}

/// Nobody leads, and nobody tries to, for a while.
async fn nobody_leads(hosts: &[&Host]) {
    throughout("there is no leader", A_WHILE, || async {
        for host in hosts {
            if host.led().await {
                return Err(format!("{} knows one", host.name()));
            }
        }
        Ok(())
    })
    .await;
}

async fn until_present(site: &Site, wanted: &[&Host], within: Duration) {
    let wanted = names(wanted);
    until(&format!("etcd knows {wanted:?}"), within, || async {
        let present = site.present().await?;
        if present == wanted {
            Ok(())
        } else {
            Err(format!("{present:?}"))
        }
    })
    .await;
}

async fn until_slots(site: &Site, wanted: &[&Host], within: Duration) {
    let wanted = names(wanted);
    until(&format!("the slots are held by {wanted:?}"), within, || async {
        let slots = site.slots().await?;
        if slots == wanted {
            Ok(())
        } else {
            Err(format!("{slots:?}"))
        }
    })
    .await;
}

/// The members that the gossip of `host` calls alive.
async fn alive(host: &Host) -> Result<BTreeSet<String>, String> {
    let members = host
        .consul()
        .agent_members(false)
        .await
        .map_err(|error| error.to_string())?;
    let alive = members
        .into_iter()
        .filter(|member| member.status == MemberStatus::Alive);
    Ok(alive.map(|member| member.name).collect())
}

async fn until_alive(asked: &Host, wanted: &[&Host], within: Duration) {
    let wanted = names(wanted);
    until(&format!("{} sees {wanted:?}", asked.name()), within, || async {
        let alive = alive(asked).await?;
        if alive == wanted {
            Ok(())
        } else {
            Err(format!("{alive:?}"))
        }
    })
    .await;
}

async fn node_ids(hosts: &[&Host]) -> Vec<String> {
    let mut ids = Vec::new();
    for host in hosts {
        ids.push(until("an ID", SOON, || host.node_id()).await);
    }
    ids
}

/// What the hosts have, that none of them bootstrapped again: the same nodes under the same cluster.
async fn identity(site: &Site, hosts: &[&Host]) -> (String, Vec<String>) {
    let record = until("a record", SOON, || site.record()).await;
    (record["id"].to_string(), node_ids(hosts).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn scenario_01_three_empty_hosts_that_start_at_once_become_three_voters() {
    let site = Site::new().await;
    let [n1, n2, n3] = &site.hosts();
    let all = [n1, n2, n3];
    let started = boot(&all);
    until_voters(n1, &all, FORMING).await;
    timing(
        "scenario 01: from the last start to a leader and three voters",
        started,
        Duration::from_secs(10),
    );
    until_settled(&all, SOON).await;
    let expectations = n1.expectations().await.unwrap();
    assert_eq!(expectations.len(), 3, "{expectations:?}");
    assert!(
        expectations.values().all(|expect| *expect == Some(3)),
        "{expectations:?}"
    );
    site.mark(n2).await;
    site.nothing_is_lost(&all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scenario_02_one_or_two_of_three_wait_and_say_so() {
    let site = Site::new().await;
    let [n1, n2, n3] = &site.hosts();
    n1.boot();
    until_says(n1, "waiting for servers: 1/3", SOON).await;
    n2.boot();
    for host in [n1, n2] {
        until_says(host, "waiting for servers: 2/3", SOON).await;
    }
    nobody_leads(&[n1, n2]).await;
    n3.boot();
    until_voters(n1, &[n1, n2, n3], FORMING).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scenario_03_starts_far_apart_make_the_same_cluster() {
    let site = Site::new().await;
    let [n1, n2, n3] = &site.hosts();
    n1.boot();
    until_says(n1, "waiting for servers: 1/3", SOON).await;
    // So far apart that the first has gone again.
    power_cut(&[n1]);
    until_present(&site, &[], SOON).await;
    n2.boot();
    until_says(n2, "waiting for servers: 2/3", SOON).await;
    n3.boot();
    // All slots are taken, and the holder of one is off: two of three elect nobody, as all expect three.
    until_slots(&site, &[n1, n2, n3], SOON).await;
    nobody_leads(&[n2, n3]).await;
    let started = boot(&[n1]);
    let all = [n1, n2, n3];
    until_voters(n1, &all, FORMING).await;
    timing(
        "scenario 03: from the last start to a leader and three voters",
        started,
        Duration::from_secs(10),
    );
    until_settled(&all, SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scenario_04_of_six_hosts_exactly_three_become_servers() {
    let site = Site::new().await;
    let hosts: [Host; 6] = site.hosts();
    let all = hosts.each_ref();
    boot(&all);
    until_settled(&all, FORMING).await;
    let slots = site.slots().await.unwrap();
    assert_eq!(slots.len(), 3, "{slots:?}");
    let (servers, clients): (Vec<&Host>, Vec<&Host>) =
        all.iter().partition(|host| slots.contains(host.name()));
    until_voters(servers[0], &servers, SOON).await;
    until_alive(clients[0], &all, SOON).await;
    for host in all {
        assert_eq!(
            host.standing().await.unwrap().server,
            slots.contains(host.name()),
            "{}",
            host.name()
        );
    }
    assert_eq!(
        servers[0].expectations().await.unwrap().len(),
        3,
        "Consul's servers"
    );
    site.mark(clients[0]).await;
    site.nothing_is_lost(&all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scenario_05_a_restart_with_its_data_keeps_role_and_node() {
    let site = Site::new().await;
    let [n1, n2, n3] = &site.formed().await;
    let all = [n1, n2, n3];
    let before = identity(&site, &all).await;
    let records = site.watch().records("main").len();
    n3.power_cut();
    n3.boot();
    n2.shut_down();
    // A server that is shut down does not leave.
    until_voters(n1, &all, SOON).await;
    n2.boot();
    until_voters(n1, &all, SOON).await;
    until_settled(&all, SOON).await;
    assert_eq!(identity(&site, &all).await, before);
    assert_eq!(
        site.watch().records("main").len(),
        records,
        "the record has not changed"
    );
    let expectations = n1.expectations().await.unwrap();
    assert_eq!(
        expectations["n2"], None,
        "told to bootstrap once more: {expectations:?}"
    );
    assert_eq!(
        expectations["n3"], None,
        "told to bootstrap once more: {expectations:?}"
    );
    site.nothing_is_lost(&all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scenario_06_a_killed_server_goes_from_etcd_and_the_others_are_untouched() {
    let site = Site::new().await;
    let [n1, n2, n3] = &site.formed().await;
    let starts = |host: &Host| (host.starts(Service::Consul), host.starts(Service::Bootstrapper));
    let before = (starts(n1), starts(n2));
    n3.power_cut();
    let killed = Instant::now();
    until_present(&site, &[n1, n2], SOON).await;
    let took = killed.elapsed();
    assert!(
        took < Duration::from_secs(10),
        "its lease holds for 5 s, it was there for {took:?}"
    );
    until("there is a leader", SOON, || async {
        n1.raft().await?.leader.map(drop).ok_or("none".to_owned())
    })
    .await;
    site.mark(n1).await;
    throughout("the others are as they were", A_WHILE, || async {
        let slots = site.slots().await?;
        if (starts(n1), starts(n2)) == before && slots.len() == 3 {
            Ok(())
        } else {
            Err(format!("{slots:?} {before:?}"))
        }
    })
    .await;
    assert_eq!(
        n1.raft().await.unwrap().voters.len(),
        3,
        "nobody has its slot, so it stays a peer"
    );
    site.nothing_is_lost(&[n1, n2]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scenario_07_a_server_that_lost_its_data_joins_and_never_bootstraps() {
    let site = Site::new().await;
    let [n1, n2, n3] = &site.formed().await;
    let all = [n1, n2, n3];
    let (cluster, ids) = identity(&site, &all).await;
    // The whole disk, and on another host Consul's data alone.
    n3.power_cut();
    n3.lose_disk();
    let started = boot(&[n3]);
    let fresh = until("another ID", SOON, || async {
        let id = n3.node_id().await?;
        if id == ids[2] { Err(id) } else { Ok(id) }
    })
    .await;
    until_voters(n1, &all, SOON).await;
    timing(
        "scenario 07: from the start to a voter again",
        started,
        Duration::from_secs(30),
    );
    until_settled(&all, SOON).await;
    site.nothing_is_lost(&all).await;
    n2.power_cut();
    n2.on_disk("rm -r data");
    n2.boot();
    until("another ID", SOON, || async {
        let id = n2.node_id().await?;
        if id == ids[1] { Err(id) } else { Ok(()) }
    })
    .await;
    until_voters(n1, &all, SOON).await;
    until_settled(&all, SOON).await;
    let expectations = n1.expectations().await.unwrap();
    assert_eq!(expectations["n2"], None, "{expectations:?}");
    assert_eq!(expectations["n3"], None, "{expectations:?}");
    let (now, ids) = identity(&site, &all).await;
    assert_eq!((&now, &ids[2]), (&cluster, &fresh));
    site.nothing_is_lost(&all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scenario_08_a_new_host_takes_the_slot_of_a_dead_one() {
    let site = Site::new().await;
    let [n1, n2, n3] = &site.formed().await;
    let n4 = &site.host(4);
    n4.boot();
    until_settled(&[n4], SOON).await;
    n3.power_cut();
    let killed = Instant::now();
    until_slots(&site, &[n1, n2, n4], REPLACED).await;
    let (taken, waited) = (Instant::now(), killed.elapsed());
    assert!(
        waited > Duration::from_secs(30),
        "the slot was taken after {waited:?}"
    );
    until_voters(n1, &[n1, n2, n4], REPLACED).await;
    timing(
        "scenario 08: from the take-over to a voter",
        taken,
        Duration::from_secs(30),
    );
    until_settled(&[n1, n2, n4], SOON).await;
    site.nothing_is_lost(&[n1, n2, n4]).await;
    // The dead one was only away: it is a client now, and its log as a server is of no more use.
    n3.boot();
    until_settled(&[n3], SOON).await;
    assert!(!n3.standing().await.unwrap().server);
    until_voters(n3, &[n1, n2, n4], SOON).await;
    site.nothing_is_lost(&[n1, n2, n3, n4]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scenario_08_two_dead_servers_of_five_are_replaced_one_after_the_other() {
    let site = Site::new().await;
    let hosts = site
        .hosts::<7>()
        .map(|host| host.with("COLOSSUS_CONSUL_SERVERS", "5"));
    let [n1, n2, n3, n4, n5, n6, n7] = &hosts;
    site.form(&[n1, n2, n3, n4, n5]).await;
    boot(&[n6, n7]);
    until_settled(&[n6, n7], SOON).await;
    power_cut(&[n4, n5]);
    until_slots(&site, &[n1, n2, n3, n6, n7], REPLACED + SOON).await;
    until_voters(n1, &[n1, n2, n3, n6, n7], REPLACED).await;
    until_settled(&[n1, n2, n3, n6, n7], SOON).await;
    // That the first was a voter before the second slot was taken is watched; this is to see that there was something
    // to watch.
    let records = site.watch().records("main");
    let joining = |record: &serde_json::Value| {
        let slots = record["slots"].as_array().cloned().unwrap_or_default();
        slots.iter().filter(|slot| slot["state"] == "joining").count()
    };
    let last: Vec<_> = records.iter().rev().take(4).map(joining).collect();
    assert_eq!(last, [0, 1, 0, 1], "{records:#?}");
    site.nothing_is_lost(&[n1, n2, n3, n6, n7]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scenario_09_a_server_with_another_address_is_a_voter_again() {
    let site = Site::new().await;
    let [n1, n2, mut n3] = site.formed().await;
    let (cluster, ids) = identity(&site, &[&n1, &n2, &n3]).await;
    n3.power_cut();
    n3.move_to(33);
    let started = n3.boot();
    let all = [&n1, &n2, &n3];
    until_voters(&n1, &all, Duration::from_secs(90)).await;
    // Consul's gossip lets nobody else have a dead member's name for 30 s, and then a new peer must be steady for 10 s.
    timing(
        "scenario 09: from the start to a voter at the new address",
        started,
        Duration::from_secs(60),
    );
    until_settled(&all, SOON).await;
    let record = site.record().await.unwrap();
    let slot = record["slots"]
        .as_array()
        .unwrap()
        .iter()
        .find(|slot| slot["node"] == "n3");
    assert_eq!(slot.unwrap()["address"], n3.address());
    assert_eq!(identity(&site, &all).await, (cluster, ids));
    site.nothing_is_lost(&all).await;
}

/// Waits for the loss of the quorum, and gives the command that the host prints against it.
async fn printed_recovery(host: &Host) -> Vec<String> {
    let said = until_says(host, "Consul has lost its quorum", Duration::from_secs(60)).await;
    let command = said.split('`').nth(1).expect("a command");
    assert!(said.contains(&format!("run on {}", host.name())), "{said}");
    let words: Vec<String> = command.split(' ').map(str::to_owned).collect();
    assert_eq!(words[0], "consul-bootstrapper", "{said}");
    words[1..].to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn scenario_10_without_a_quorum_it_refuses_and_an_explicit_recovery_keeps_the_data() {
    let site = Site::new().await;
    let [n1, n2, n3] = &site.formed().await;
    power_cut(&[n2, n3]);
    let [n4, n5] = &[site.host(4), site.host(5)];
    boot(&[n4, n5]);
    let command = printed_recovery(n1).await;
    nobody_leads(&[n1, n4, n5]).await;
    // Two of three who come and have nothing are no quorum either.
    let slots = site.slots().await.unwrap();
    assert_eq!(slots, names(&[n1, n2, n3]));
    let wrong = n1.operate(&["recover", "--lost", "n2"]);
    assert!(wrong.code == Some(1) && wrong.text.contains("n3"), "{wrong:?}");
    let wrong = n4.operate(&["recover", "--lost", "n2,n3"]);
    assert!(
        wrong.code == Some(1) && wrong.text.contains("no data"),
        "{wrong:?}"
    );

    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let kept = site.watch();
    let value = n1.consul();
    kept.all_is_given_up();
    let began = Instant::now();
    let done = n1.operate(&command);
    assert_eq!(done.code, Some(0), "{}", done.text);
    until_voters(n1, &[n1, n4, n5], Duration::from_secs(90)).await;
    timing(
        "scenario 10: from `recover` to three voters",
        began,
        Duration::from_secs(60),
    );
    let options = consul::QueryOptions::default();
    let found = value.kv_get("colossus-test", &options).await.unwrap().value;
    assert!(found.is_some(), "the data was kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn scenario_10_those_given_up_for_lost_do_not_make_a_second_cluster_when_they_return() {
    let site = Site::new().await;
    let [n1, n2, n3] = &site.formed().await;
    power_cut(&[n2, n3]);
    let command = printed_recovery(n1).await;
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    site.watch().all_is_given_up();
    let done = n1.operate(&command);
    assert_eq!(done.code, Some(0), "{}", done.text);
    // Written after the recovery: what the two know is older, and must never win.
    site.mark(n1).await;
    boot(&[n2, n3]);
    for host in [n2, n3] {
        until_says(host, "refused", SOON).await;
    }
    throughout("n1 leads alone", Duration::from_secs(10), || async {
        let raft = n1.raft().await?;
        if raft.voters.len() == 1 {
            Ok(())
        } else {
            Err(format!("{raft:?}"))
        }
    })
    .await;
    site.nothing_is_lost(&[n1]).await;
    // Their old data removed, they are as good as new ones.
    power_cut(&[n2, n3]);
    n2.lose_disk();
    n3.lose_disk();
    boot(&[n2, n3]);
    until_voters(n1, &[n1, n2, n3], Duration::from_secs(90)).await;
    site.nothing_is_lost(&[n1, n2, n3]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scenario_11_all_restarted_with_their_data_are_the_same_cluster() {
    let site = Site::new().await;
    let [n1, n2, n3] = &site.formed().await;
    let all = [n1, n2, n3];
    let before = identity(&site, &all).await;
    power_cut(&all);
    let started = boot(&all);
    until_voters(n2, &all, SOON).await;
    timing(
        "scenario 11: from the last start to a leader again",
        started,
        Duration::from_secs(10),
    );
    until_settled(&all, SOON).await;
    assert_eq!(identity(&site, &all).await, before);
    site.nothing_is_lost(&all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scenario_12_with_all_data_lost_it_stops_and_asks() {
    let site = Site::new().await;
    let mut hosts: [Host; 3] = site.hosts();
    hosts[0].mount_scratch();
    let [n1, n2, n3] = &hosts;
    let all = [n1, n2, n3];
    site.form(&all).await;
    let cluster = site.record().await.unwrap()["id"].to_string();
    let value = n1.read().await.unwrap();
    let saved = n1.operate(&["snapshot", "save", "/scratch/consul.snap"]);
    assert_eq!(saved.code, Some(0), "{}", saved.text);
    power_cut(&all);
    for host in all {
        host.lose_disk();
    }
    boot(&all);
    for host in all {
        let said = until_says(host, "no server has its data any more", SOON).await;
        assert!(
            said.contains("recover --new-cluster") && said.contains("snapshot restore"),
            "{said}"
        );
    }
    nobody_leads(&all).await;
    assert_eq!(site.record().await.unwrap()["id"].to_string(), cluster);

    site.watch().all_is_given_up();
    let done = n2.operate(&["recover", "--new-cluster"]);
    assert_eq!(done.code, Some(0), "{}", done.text);
    until_voters(n1, &all, Duration::from_secs(60)).await;
    until_settled(&all, SOON).await;
    assert_ne!(site.record().await.unwrap()["id"].to_string(), cluster);
    assert_eq!(n1.read().await.unwrap(), None, "it begins with nothing");
    let restored = n1.operate(&["snapshot", "restore", "/scratch/consul.snap"]);
    assert_eq!(restored.code, Some(0), "{}", restored.text);
    until("what was saved is back", SOON, || async {
        let now = n3.read().await?;
        if now == value {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        }
    })
    .await;
    until_voters(n1, &all, SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scenario_13_with_etcd_down_a_reboot_uses_what_is_known_and_never_bootstraps() {
    let site = Site::new().await;
    let [n1, n2, n3] = &site.formed().await;
    let all = [n1, n2, n3];
    let before = identity(&site, &all).await;
    site.etcd().command(&["kill"]);
    power_cut(&all);
    let n4 = &site.host(4);
    let started = boot(&[n1, n2, n3, n4]);
    until_voters(n1, &all, SOON).await;
    timing(
        "scenario 13: from the last start to a leader, without etcd",
        started,
        Duration::from_secs(15),
    );
    for host in all {
        until_says(host, "Consul goes on as it was", SOON).await;
    }
    let expectations = n1.expectations().await.unwrap();
    assert!(expectations.values().all(Option::is_none), "{expectations:?}");
    assert_eq!(node_ids(&all).await, before.1);
    until_says(n4, "this node may not start Consul", SOON).await;
    assert!(!n4.answers().await, "an empty host without etcd waits");
    site.nothing_is_lost(&all).await;

    site.etcd().command(&["start"]);
    until_settled(&[n1, n2, n3, n4], SOON).await;
    assert!(!n4.standing().await.unwrap().server);
    assert_eq!(identity(&site, &all).await, before);
    site.nothing_is_lost(&[n1, n2, n3, n4]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scenario_14_an_etcd_that_was_wiped_is_told_again() {
    let site = Site::new().await;
    let [n1, n2, n3] = &site.formed().await;
    let all = [n1, n2, n3];
    let before = identity(&site, &all).await;
    let gossip = || async {
        site.etcd()
            .client()
            .get("/colossus/consul/main/secrets/gossip")
            .await
    };
    let key = gossip().await.unwrap().expect("a key").value;
    let starts: Vec<_> = all.iter().map(|host| host.starts(Service::Consul)).collect();
    // Three empty hosts are there in the same moment: as many as would make a cluster.
    let [n4, n5, n6] = &[site.host(4), site.host(5), site.host(6)];
    boot(&[n4, n5, n6]);
    until_settled(&[n4, n5, n6], SOON).await;
    power_cut(&[n4, n5, n6]);
    for host in [n4, n5, n6] {
        host.lose_disk();
    }
    site.etcd().wipe().await;
    boot(&[n4, n5, n6]);
    until_settled(&[n1, n2, n3, n4, n5, n6], SOON).await;
    until_slots(&site, &all, SOON).await;
    assert_eq!(identity(&site, &all).await, before);
    assert_eq!(gossip().await.unwrap().expect("a key").value, key);
    let now: Vec<_> = all.iter().map(|host| host.starts(Service::Consul)).collect();
    assert_eq!(now, starts, "Consul ran on");
    until_voters(n4, &all, SOON).await;
    site.nothing_is_lost(&[n1, n2, n3, n4, n5, n6]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scenario_15_who_reaches_only_the_minority_of_etcd_waits() {
    let site = Site::with_etcd(3).await;
    let mut hosts = site.hosts();
    let etcd = site.etcd();
    // Three members, the third alone, and n1 reaches only that one.
    etcd.cut_from_peers(2);
    hosts[0].cut_at_boot_from(&[etcd.address(0), etcd.address(1)]);
    let [n1, n2, n3] = &hosts;
    boot(&[n1, n2, n3]);
    for host in [n2, n3] {
        until_says(host, "waiting for servers: 2/3", SOON).await;
    }
    until_says(n1, "this node may not start Consul", SOON).await;
    nobody_leads(&[n1, n2, n3]).await;
    assert_eq!(site.slots().await.unwrap(), names(&[n2, n3]));
    etcd.mend(2);
    n1.mend();
    until_voters(n1, &[n1, n2, n3], FORMING).await;
    until_settled(&[n1, n2, n3], SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scenario_16_garbage_and_stale_addresses_in_etcd_are_skipped() {
    let site = Site::new().await;
    let [n1, n2, n3] = &site.hosts();
    let client = site.etcd().client();
    let nodes = "/colossus/consul/main/nodes";
    let stale = |node: &str, address: &str| {
        serde_json::json!({"node": node, "instance": "x", "host": "y", "address": address, "data": "none"})
            .to_string()
    };
    let lease = client.lease_grant(Duration::from_secs(60)).await.unwrap();
    // No JSON, no text at all, nothing; without a lease, and at n1's own address; nobody's address; nobody there.
    client.put(&format!("{nodes}/g1"), "garbage", None).await.unwrap();
    client
        .put(&format!("{nodes}/g2"), vec![0xff, 0xfe, 0], None)
        .await
        .unwrap();
    client.put(&format!("{nodes}/g3"), "", None).await.unwrap();
    client
        .put(&format!("{nodes}/old"), stale("old", n1.address()), None)
        .await
        .unwrap();
    client
        .put(&format!("{nodes}/zero"), stale("zero", "0.0.0.0"), Some(lease.id))
        .await
        .unwrap();
    client
        .put(
            &format!("{nodes}/n9"),
            stale("n9", "10.255.255.9"),
            Some(lease.id),
        )
        .await
        .unwrap();
    client
        .put(
            &format!("{nodes}/other"),
            stale("somebody", "10.255.255.8"),
            Some(lease.id),
        )
        .await
        .unwrap();
    let all = [n1, n2, n3];
    boot(&all);
    until_voters(n1, &all, FORMING).await;
    until_settled(&all, SOON).await;
    let logs = n1.logs(Service::Bootstrapper);
    for key in ["g1", "g2", "g3", "old", "zero", "other"] {
        assert!(
            logs.contains(&format!("{nodes}/{key}")),
            "{key} is named in the log:\n{logs}"
        );
    }
    for host in all {
        let config: serde_json::Value = serde_json::from_str(&host.sh("cat config/colossus.json")).unwrap();
        let join: BTreeSet<_> = config["retry_join"]
            .as_array()
            .unwrap()
            .iter()
            .map(|at| at.as_str().unwrap())
            .collect();
        let others: BTreeSet<_> = all
            .iter()
            .map(|other| other.address())
            .filter(|at| *at != host.address())
            .collect();
        assert_eq!(join, others);
    }
    site.mark(n1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scenario_17_sigterm_removes_the_key_and_only_decommission_leaves_raft() {
    let site = Site::new().await;
    let [n1, n2, n3] = &site.formed().await;
    let n4 = &site.host(4);
    n4.boot();
    until_settled(&[n4], SOON).await;
    let all = [n1, n2, n3];
    n3.command(Service::Bootstrapper, &["stop", "-t", "15"]);
    // At once: not when its lease ends.
    assert_eq!(site.present().await.unwrap(), names(&[n1, n2, n4]));
    n3.command(Service::Consul, &["stop", "-t", "20"]);
    until("n3 is gone", SOON, || async {
        let alive = alive(n1).await?;
        if alive.contains("n3") {
            Err(format!("{alive:?}"))
        } else {
            Ok(())
        }
    })
    .await;
    let members = n1.consul().agent_members(false).await.unwrap();
    let member = members.iter().find(|member| member.name == "n3").unwrap();
    assert_eq!(
        member.status,
        MemberStatus::Failed,
        "a server that stops has not left"
    );
    assert_eq!(n1.raft().await.unwrap().voters.len(), 3);
    n3.command(Service::Consul, &["start"]);
    n3.command(Service::Bootstrapper, &["start"]);
    until_settled(&all, SOON).await;
    until_voters(n1, &all, SOON).await;

    let began = Instant::now();
    let done = n1.operate(&["decommission", "n3", "--wait", "60s"]);
    assert_eq!(done.code, Some(0), "{}", done.text);
    until_voters(n1, &[n1, n2, n4], SOON).await;
    timing(
        "scenario 17: from `decommission` to three voters",
        began,
        Duration::from_secs(30),
    );
    until_says(n3, "decommissioned", SOON).await;
    assert!(!n3.answers().await);
    // A reboot does not bring it back.
    n3.power_cut();
    n3.boot();
    until_says(n3, "decommissioned", SOON).await;
    assert!(!n3.answers().await);
    let undone = n3.operate(&["decommission", "--undo"]);
    assert_eq!(undone.code, Some(0), "{}", undone.text);
    until_settled(&[n1, n2, n3, n4], SOON).await;
    assert!(!n3.standing().await.unwrap().server);
    site.nothing_is_lost(&[n1, n2, n3, n4]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scenario_18_a_rolling_restart_takes_one_at_a_time_and_waits_for_health() {
    let site = Site::new().await;
    let [n1, n2, n3] = &site.formed().await;
    let n4 = &site.host(4);
    n4.boot();
    until_settled(&[n4], SOON).await;
    let all = [n1, n2, n3];
    // A server is missing: nobody may restart.
    n3.power_cut();
    until_present(&site, &[n1, n2, n4], SOON).await;
    let starts =
        |hosts: &[&Host]| -> Vec<String> { hosts.iter().map(|host| host.starts(Service::Consul)).collect() };
    let before = starts(&[n1, n2, n4]);
    let asked = n1.operate(&["restart"]);
    assert_eq!(asked.code, Some(0), "{}", asked.text);
    for host in [n1, n2] {
        until_state(host, "awaits_restart", SOON).await;
    }
    throughout("nobody restarts", A_WHILE, || async {
        let now = starts(&[n1, n2, n4]);
        if now == before {
            Ok(())
        } else {
            Err(format!("{now:?} was {before:?}"))
        }
    })
    .await;
    n3.boot();
    until_voters(n1, &all, SOON).await;
    let _ = site.watch().down_at_once();
    until("all have restarted", Duration::from_secs(120), || async {
        let now = starts(&[n1, n2, n4]);
        if now.iter().zip(&before).all(|(now, before)| now != before) {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        }
    })
    .await;
    until_settled(&[n1, n2, n3, n4], SOON).await;
    // A client may restart beside a server: it is no part of a quorum.
    let servers = names(&all);
    let down = site.watch().down_at_once();
    let most = down.iter().map(|down| down.intersection(&servers).count()).max();
    assert_eq!(
        most,
        Some(1),
        "the Consuls of these hosts were down at once: {down:?}"
    );
    until_voters(n1, &all, SOON).await;
    site.nothing_is_lost(&[n1, n2, n3, n4]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scenario_19_from_three_servers_to_five_it_grows_by_joining() {
    let site = Site::new().await;
    let mut hosts: [Host; 5] = site.hosts();
    let [n1, n2, n3, n4, n5] = &hosts;
    site.form(&[n1, n2, n3]).await;
    boot(&[n4, n5]);
    until_settled(&[n4, n5], SOON).await;
    let before = identity(&site, &[n1, n2, n3]).await;
    for host in &mut hosts {
        host.set("COLOSSUS_CONSUL_SERVERS", "5");
        host.relaunch(Service::Bootstrapper);
    }
    let all = hosts.each_ref();
    until_voters(all[0], &all, Duration::from_secs(90)).await;
    until_settled(&all, SOON).await;
    assert_eq!(identity(&site, &all[..3]).await, before);
    let expectations = all[0].expectations().await.unwrap();
    assert_eq!(
        (expectations["n4"], expectations["n5"]),
        (None, None),
        "{expectations:?}"
    );
    site.nothing_is_lost(&all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scenario_20_clones_are_refused() {
    let site = Site::new().await;
    let [n1, n2, n3] = &site.formed().await;
    let all = [n1, n2, n3];
    let before = identity(&site, &all).await;
    // The image of n1 was made after its first boot; the disk of n2 was copied; a host calls itself n3.
    let (mut machine, mut data, mut name) = (site.host(4), site.host(5), site.host(6));
    machine.take_machine_id_of(n1);
    data.copy_disk_of(n2);
    data.on_disk("rm -f .lock");
    name.take_name_of(n3);
    data.set("COLOSSUS_NODE", "n5");
    boot(&[&machine, &data, &name]);
    until_says(&machine, "n1 at", SOON).await;
    let said = until_says(&machine, "has this host's machine ID", SOON).await;
    assert!(said.contains("/etc/machine-id"), "{said}");
    let said = until_says(&data, "has this node's Consul data", SOON).await;
    assert!(
        said.contains("n2 at") && said.contains("Remove it here"),
        "{said}"
    );
    let said = until_says(&name, "has this node's name", SOON).await;
    assert!(said.contains(n3.address()) && said.contains("--node"), "{said}");
    // It stays so beyond the time that one waits for what an earlier life has left.
    throughout("no clone runs Consul", Duration::from_secs(12), || async {
        for clone in [&machine, &data, &name] {
            if clone.answers().await {
                return Err(format!("{} does", clone.name()));
            }
        }
        Ok(())
    })
    .await;
    until_present(&site, &all, SOON).await;
    until_settled(&all, SOON).await;
    assert_eq!(identity(&site, &all).await, before);
    until_voters(n1, &all, SOON).await;
    site.nothing_is_lost(&all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scenario_21_one_gossip_key_wins_and_is_shown_to_nobody() {
    let site = Site::new().await;
    let [n1, n2, n3] = &site.formed().await;
    let entry = site
        .etcd()
        .client()
        .get("/colossus/consul/main/secrets/gossip")
        .await
        .unwrap();
    let key: String = serde_json::from_slice(&entry.expect("a key").value).unwrap();
    assert_eq!(key.len(), 44, "32 bytes in base64");
    for host in [n1, n2, n3] {
        let keyring: Vec<String> = serde_json::from_str(&host.sh("cat data/serf/local.keyring")).unwrap();
        assert_eq!(keyring, std::slice::from_ref(&key));
        let files = host.sh(&format!("grep -r -l -F -e '{key}' . | sort"));
        for file in files.lines() {
            let mode = host.sh(&format!("stat -c '%a %u' {file}"));
            assert_eq!(mode, "600 65532", "{file}");
        }
        assert!(
            files.contains("config/colossus.json") && files.contains("secrets.json"),
            "{files}"
        );
        for service in [Service::Consul, Service::Bootstrapper] {
            assert!(
                !host.inspect(service).contains(&key),
                "{service:?} has the key in its arguments or environment"
            );
            assert!(!host.logs(service).contains(&key), "{service:?} logged the key");
        }
        assert!(
            !host.status().await.unwrap().to_string().contains(&key),
            "/status"
        );
        let dry = host.operate(&["--dry-run"]);
        assert!(!dry.text.contains(&key), "{}", dry.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn scenario_22_one_acl_token_wins_and_is_in_a_file() {
    let site = Site::new().await;
    let hosts = site
        .hosts::<3>()
        .map(|host| host.with("COLOSSUS_CONSUL_ACL", "true"));
    let all = hosts.each_ref();
    boot(&all);
    until_settled(&all, FORMING).await;
    let entry = site
        .etcd()
        .client()
        .get("/colossus/consul/main/secrets/acl")
        .await
        .unwrap();
    let secrets: serde_json::Value = serde_json::from_slice(&entry.expect("tokens").value).unwrap();
    let management = secrets["management"].as_str().unwrap();
    for host in all {
        assert_eq!(host.sh("cat tokens/management"), management);
        for token in ["management", "registrator", "router-config"] {
            assert_eq!(host.sh(&format!("stat -c '%a %u' tokens/{token}")), "600 65532");
        }
        for service in [Service::Consul, Service::Bootstrapper] {
            assert!(!host.inspect(service).contains(management), "{service:?}");
            assert!(!host.logs(service).contains(management), "{service:?}");
        }
    }
    let options = PutOptions::default();
    let anonymous = hosts[0].consul().kv_put("a", "b", &options).await;
    assert!(
        anonymous.as_ref().is_err_and(consul::Error::is_forbidden),
        "{anonymous:?}"
    );
    let manager = hosts[0].consul_with(Some(management));
    assert!(manager.kv_put("a", "b", &options).await.unwrap());
    // Until each server has heard that all the others know of tokens, one says that it is in "legacy mode".
    until("a second bootstrap of the tokens is refused", SOON, || async {
        match hosts[0].consul().acl_bootstrap().await {
            Ok(AclBootstrap::AlreadyDone { .. }) => Ok(()),
            Ok(again) => panic!("{again:?}"),
            Err(error) => Err(error.to_string()),
        }
    })
    .await;
    // The tokens for the services do what they are for, and no more.
    let registrator = hosts[1].consul_with(secrets["registrator"].as_str());
    until("registrator's token may register", SOON, || async {
        let service = consul::ServiceRegistration::new("x", "x");
        registrator
            .register_service(&service)
            .await
            .map_err(|error| error.to_string())
    })
    .await;
    let denied = registrator.acl_token_create(&AclTokenRequest::default()).await;
    assert!(
        denied.as_ref().is_err_and(consul::Error::is_forbidden),
        "{denied:?}"
    );
}

/// An authority, and certificates that it signed for servers of the data centre `dc1`.
struct Authority {
    params: CertificateParams,
    key: KeyPair,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self {
            params,
            key: KeyPair::generate().unwrap(),
        }
    }

    fn certificate(&self) -> String {
        self.params.self_signed(&self.key).unwrap().pem()
    }

    /// Writes `cert.pem` and `key.pem` for a host into its scratch directory, and this authority as `ca.pem`.
    fn equip(&self, host: &Host) {
        let key = KeyPair::generate().unwrap();
        let mut params =
            CertificateParams::new(vec!["server.dc1.consul".to_owned(), "localhost".to_owned()]).unwrap();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let issuer = Issuer::from_params(&self.params, &self.key);
        let certificate = params.signed_by(&key, &issuer).unwrap();
        let write = |name: &str, text: String| std::fs::write(host.scratch().join(name), text).unwrap();
        write("ca.pem", self.certificate());
        write("cert.pem", certificate.pem());
        write("key.pem", key.serialize_pem());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn scenario_23_tls_material_is_checked_before_consul_starts_and_a_wrong_ca_is_an_error() {
    let site = Site::new().await;
    let mut hosts: [Host; 3] = site.hosts();
    let (ours, other) = (Authority::new(), Authority::new());
    for host in &mut hosts {
        host.mount_scratch();
        host.set("COLOSSUS_CONSUL_TLS", "files");
        for (name, file) in [("CA", "ca"), ("CERT", "cert"), ("KEY", "key")] {
            host.set(
                &format!("COLOSSUS_CONSUL_TLS_{name}_FILE"),
                &format!("/scratch/{file}.pem"),
            );
        }
        ours.equip(host);
    }
    let [n1, n2, n3] = &hosts;
    let all = [n1, n2, n3];
    std::fs::write(n3.scratch().join("ca.pem"), other.certificate()).unwrap();
    boot(&all);
    let said = until_says(n3, "Give the CA that signed it", SOON).await;
    assert!(
        said.contains("/scratch/ca.pem") && said.contains("server.dc1.consul"),
        "{said}"
    );
    assert!(!n3.answers().await, "Consul does not start with it");
    nobody_leads(&all).await;
    std::fs::write(n3.scratch().join("ca.pem"), ours.certificate()).unwrap();
    until_voters(n1, &all, FORMING).await;
    until_settled(&all, SOON).await;
    site.mark(n3).await;

    // One with certificates of another authority, which are good by themselves, gets nowhere and harms nobody.
    let mut n4 = site.host(4);
    n4.mount_scratch();
    for (name, file) in [("CA", "ca"), ("CERT", "cert"), ("KEY", "key")] {
        n4.set(
            &format!("COLOSSUS_CONSUL_TLS_{name}_FILE"),
            &format!("/scratch/{file}.pem"),
        );
    }
    n4.set("COLOSSUS_CONSUL_TLS", "files");
    other.equip(&n4);
    n4.boot();
    until_state(&n4, "awaits_leader", SOON).await;
    nobody_leads(&[&n4]).await;
    until_settled(&all, SOON).await;
    site.nothing_is_lost(&all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scenario_23_certificates_are_made_for_all_and_for_who_comes_later() {
    let site = Site::new().await;
    let hosts = site
        .hosts::<4>()
        .map(|host| host.with("COLOSSUS_CONSUL_TLS", "auto"));
    let [n1, n2, n3, n4] = &hosts;
    site.form(&[n1, n2, n3]).await;
    n4.boot();
    until_settled(&[n4], SOON).await;
    for host in [n1, n2, n3, n4] {
        for file in ["ca.pem", "cert.pem", "key.pem"] {
            assert_eq!(host.sh(&format!("stat -c '%a %u' tls/{file}")), "600 65532");
        }
        assert_eq!(host.sh("cat tls/ca.pem"), n1.sh("cat tls/ca.pem"));
    }
    // Consul does not speak with who shows no certificate.
    let plain = site.host(5);
    plain.boot();
    nobody_leads(&[&plain]).await;
    site.nothing_is_lost(&[n1, n2, n3, n4]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scenario_24_two_clusters_on_one_etcd_stay_apart() {
    let site = Site::new().await;
    let hosts: [Host; 6] = std::array::from_fn(|index| {
        site.host(index + 1)
            .with("COLOSSUS_CLUSTER", if index % 2 == 0 { "even" } else { "odd" })
    });
    let [a1, b1, a2, b2, a3, b3] = &hosts;
    boot(&hosts.each_ref());
    for servers in [[a1, a2, a3], [b1, b2, b3]] {
        until_voters(servers[0], &servers, FORMING).await;
        until_settled(&servers, SOON).await;
        until_alive(servers[1], &servers, SOON).await;
        site.mark(servers[0]).await;
    }
    let client = site.etcd().client();
    let mut keys = BTreeSet::new();
    for cluster in ["even", "odd"] {
        let key = client
            .get(&format!("/colossus/consul/{cluster}/secrets/gossip"))
            .await
            .unwrap();
        keys.insert(key.expect("a key").value);
    }
    assert_eq!(keys.len(), 2, "each has a gossip key of its own");
    site.nothing_is_lost(&hosts.each_ref()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scenario_25_clients_find_servers_whose_addresses_have_all_changed() {
    let site = Site::new().await;
    let mut hosts = site.formed().await;
    let n4 = &site.host(4);
    n4.boot();
    until_settled(&[n4], SOON).await;
    let before = identity(&site, &hosts.each_ref()).await;
    power_cut(&hosts.each_ref());
    for (index, host) in hosts.iter_mut().enumerate() {
        host.move_to(41 + index);
    }
    let all = hosts.each_ref();
    let started = boot(&all);
    // By name: the peer that leads keeps its old address in raft for as long as it leads, and is found by its ID.
    until_settled(&all, Duration::from_secs(90)).await;
    until_settled(&[n4], Duration::from_secs(90)).await;
    timing(
        "scenario 25: from the last start until all are settled",
        started,
        Duration::from_secs(60),
    );
    until_alive(n4, &[all[0], all[1], all[2], n4], SOON).await;
    let config: serde_json::Value = serde_json::from_str(&n4.sh("cat config/colossus.json")).unwrap();
    let join: BTreeSet<_> = config["retry_join"]
        .as_array()
        .unwrap()
        .iter()
        .map(|at| at.as_str().unwrap())
        .collect();
    assert_eq!(join, all.iter().map(|host| host.address()).collect());
    assert_eq!(identity(&site, &all).await, before);
    site.nothing_is_lost(&[all[0], all[1], all[2], n4]).await;
}
