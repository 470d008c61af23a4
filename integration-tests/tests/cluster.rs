//! Several hosts: that the test bed does to them what it says, and that the platform on them gets over it.
//!
//! The tests share one cluster of three, one after the other. Each leaves it as it likes: the next one restores it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, also in the functions that its tests share"
)]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use integration_tests::cluster::shared::Shared;
use integration_tests::cluster::{Cluster, ClusterOptions, LABEL, Node, State, Units};
use integration_tests::docker::{docker, unique};
use integration_tests::wait::until;

/// Generous: what must happen within it takes a second or two on an idle machine.
const SOON: Duration = Duration::from_secs(30);

async fn pings(from: &Node, to: &Node) -> bool {
    let address = to.address().to_string();
    from.exec(&["ping", "-q", "-c", "1", "-W", "1", &address])
        .await
        .is_ok()
}

/// How many echo requests a node has received.
async fn echo_requests(node: &Node) -> u64 {
    let counters = "awk '/^Icmp:/ { if (!n) { for (i = 1; i <= NF; i++) if ($i == \"InEchos\") n = i } else print $n }' /proc/net/snmp";
    node.sh(counters).await.parse().unwrap()
}

/// Whether anything at all answers on its port 80, or on etcd's.
async fn answers(node: &Node) -> bool {
    let answers = async |port| {
        let connecting = tokio::net::TcpStream::connect(node.port(port));
        matches!(
            tokio::time::timeout(Duration::from_secs(1), connecting).await,
            Ok(Ok(_))
        )
    };
    answers(80).await || answers(2379).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cable_is_cut_one_way_or_both_until_it_is_mended_and_over_a_boot() {
    let cluster = Shared::take(3).await;
    let [n1, n2, n3] = [1, 2, 3].map(|n| cluster.node(n));
    assert!(pings(n1, n2).await && pings(n2, n1).await && pings(n3, n2).await);

    // What n1 sends does not reach n2; what n2 sends reaches n1, only the answers are lost.
    cluster.cut(1, 2).await;
    let (at1, at2) = (echo_requests(n1).await, echo_requests(n2).await);
    assert!(!pings(n1, n2).await && !pings(n2, n1).await);
    assert_eq!(echo_requests(n2).await, at2, "n2 heard n1");
    assert_eq!(echo_requests(n1).await, at1 + 1, "n1 did not hear n2");
    assert!(pings(n1, n3).await && pings(n3, n2).await, "n3 is not concerned");
    // Not even who has an address: neighbours that forget each other's do not find it again.
    n1.sh(&format!(
        "ip neigh flush dev eth0; ! arping -q -c 1 -w 1 -I eth0 {}",
        n2.address()
    ))
    .await;

    n2.power_cut().await;
    n2.power_on().await;
    assert!(!pings(n1, n2).await, "a boot has mended the cable");
    assert!(pings(n3, n2).await);

    cluster.heal_all().await;
    assert!(pings(n1, n2).await && pings(n2, n1).await);

    cluster.cut_off(3).await;
    assert!(!pings(n1, n3).await && !pings(n3, n2).await && pings(n1, n2).await);
    assert!(answers(n3).await, "this machine still reaches it");
    // The one alone has no leader; the others have one.
    until("n3 is without a leader, the others are not", SOON, || async {
        n1.etcd_healthy().await?;
        n2.etcd_healthy().await?;
        match n3.etcd_healthy().await {
            Err(_) => Ok(()),
            Ok(()) => Err("n3 is well".to_owned()),
        }
    })
    .await;
    cluster.heal_all().await;
    cluster.until_etcd_healthy(SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_host_answers_nothing_and_goes_on_when_thawed() {
    let cluster = Shared::take(3).await;
    let [n1, n2] = [1, 2].map(|n| cluster.node(n));
    assert!(answers(n2).await);
    let ticks = "for process in /proc/[0-9]*/stat; do cut -d ' ' -f 14 $process; done 2>/dev/null | wc -l";
    let processes = n2.sh(ticks).await;

    n2.freeze().await;
    assert_eq!(n2.state().await, Ok(State::Frozen));
    assert!(!answers(n2).await, "it accepts connections");
    assert!(!pings(n1, n2).await, "it answers pings");
    until("the others go on", SOON, || async {
        n1.etcd_healthy().await?;
        cluster.node(3).etcd_healthy().await
    })
    .await;

    n2.thaw().await;
    assert_eq!(n2.state().await, Ok(State::On));
    assert!(answers(n2).await && pings(n1, n2).await);
    assert!(
        n2.sh(ticks).await.parse::<u32>().unwrap() + 3 > processes.parse().unwrap(),
        "it lost processes"
    );
    cluster.until_ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_takes_what_is_in_memory_and_leaves_the_disk_and_all_recovers_by_itself() {
    let cluster = Shared::take(3).await;
    let n2 = cluster.node(2);
    n2.sh("touch /run/mark /tmp/mark /etc/mark /var/lib/colossus/mark")
        .await;
    let containers = n2.docker(&["ps", "-aq"]).await;
    let machine = n2.sh("cat /etc/machine-id").await;
    assert_eq!(machine.len(), 32);

    n2.power_cut().await;
    assert_eq!(n2.state().await, Ok(State::Off));
    assert!(!answers(n2).await && !pings(cluster.node(1), n2).await);
    n2.power_on().await;

    assert_eq!(
        n2.sh("ls /run/mark /tmp/mark /etc/mark /var/lib/colossus/mark 2>/dev/null || true")
            .await,
        "/etc/mark\n/var/lib/colossus/mark"
    );
    assert_eq!(n2.sh("cat /etc/machine-id").await, machine);
    let before = n2.sh("journalctl -b -1 -o cat -u etcd").await;
    assert!(
        before.contains("Started") && !before.contains("Stopping"),
        "it was shut down: {before}"
    );
    cluster.until_ready().await;
    assert_ne!(n2.docker(&["ps", "-aq"]).await, containers, "the same containers");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_shutdown_stops_every_unit_in_good_order() {
    let cluster = Shared::take(3).await;
    let n3 = cluster.node(3);
    let unit = "[Service]\nType=oneshot\nRemainAfterExit=true\nExecStart=/bin/true\nExecStop=/bin/touch /var/lib/stopped\n";
    n3.exec_with_input(
        &["sh", "-c", "cat >/etc/systemd/system/mark.service"],
        unit.as_bytes(),
    )
    .await
    .unwrap();
    n3.sh("systemctl daemon-reload && systemctl start mark").await;

    n3.shutdown().await;
    assert_eq!(n3.state().await, Ok(State::Off));
    n3.power_on().await;

    n3.sh("test -e /var/lib/stopped").await;
    assert!(
        n3.sh("journalctl -b -1 -o cat -u etcd")
            .await
            .contains("Stopped etcd.service")
    );
    cluster.until_ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_is_started_again_by_its_unit() {
    let cluster = Shared::take(3).await;
    let n1 = cluster.node(1);
    let started = "docker inspect -f '{{.State.StartedAt}} {{.State.Pid}}' etcd";
    let before = n1.sh(started).await;
    assert_eq!(n1.unit_state("etcd").await.unwrap(), "active");

    n1.kill_process("etcd", "KILL").await;
    until("etcd runs again", SOON, || async {
        match n1.exec(&["sh", "-c", started]).await {
            Ok(now) if now != before => n1.etcd_healthy().await,
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert!(n1.journal("etcd").await.contains("code=exited, status=137"));

    n1.stop_unit("etcd").await;
    assert_eq!(n1.unit_state("etcd").await.unwrap(), "inactive");
    assert!(n1.etcd_healthy().await.is_err());
    n1.start_unit("etcd").await;
    cluster.until_etcd_healthy(SOON).await.unwrap();
}

/// The instances that answer to `host` through a node, each as `example-web` calls itself; asked often enough to see all.
async fn instances(through: &Node, host: &str, expected: usize) -> Result<BTreeSet<String>, String> {
    let mut found = BTreeSet::new();
    for _ in 0..expected * 4 {
        let answer = through.get(host, "/?json").await?;
        if answer.status != 200 {
            return Err(format!(
                "{host} through {}: {}",
                through.hostname(),
                answer.status
            ));
        }
        let json: serde_json::Value =
            serde_json::from_str(&answer.body).map_err(|error| error.to_string())?;
        found.insert(json["host"].as_str().unwrap_or_default().to_owned());
    }
    Ok(found)
}

/// Waits until exactly these instances answer to `host` through each of these nodes.
async fn until_answered(through: &[&Node], host: &str, by: &[&str]) {
    let expected: BTreeSet<String> = by.iter().map(|id| id[..12].to_owned()).collect();
    until(&format!("{expected:?} answer to {host}"), SOON, || async {
        for node in through {
            let found = instances(node, host, expected.len()).await?;
            if found != expected {
                return Err(format!("{found:?} answer through {}", node.hostname()));
            }
        }
        Ok(())
    })
    .await;
}

/// Waits until nothing answers to `host` through each of these nodes.
async fn until_unanswered(through: &[&Node], host: &str) {
    until(&format!("nobody answers to {host}"), SOON, || async {
        for node in through {
            let status = node.get(host, "/").await?.status;
            if status != 404 && status != 503 {
                return Err(format!("{status} through {}", node.hostname()));
            }
        }
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_on_any_host_answers_through_every_host_and_by_the_hosts_name_from_there_alone() {
    let cluster = Shared::take(3).await;
    let nodes: Vec<&Node> = cluster.nodes().iter().collect();
    let service = unique("web");
    let mut ids = Vec::new();
    for node in &nodes {
        ids.push(node.example(&service, &["--name", &service]).await);
    }
    let [on1, on2, on3] = [&*ids[0], &*ids[1], &*ids[2]];

    until_answered(&nodes, &cluster.host(&service), &[on1, on2, on3]).await;
    for (node, id) in nodes.iter().zip(&ids) {
        until_answered(&nodes, &cluster.host_on(&service, node), &[id]).await;
    }

    nodes[1].docker(&["rm", "-f", &service]).await;
    until_answered(&nodes, &cluster.host(&service), &[on1, on3]).await;
    until_unanswered(&nodes, &cluster.host_on(&service, nodes[1])).await;
    for node in [nodes[0], nodes[2]] {
        node.docker(&["rm", "-f", &service]).await;
    }
    until_unanswered(&nodes, &cluster.host(&service)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_of_any_host_is_served_through_and_got_over_without_a_hand_on_it() {
    let cluster = Shared::take(3).await;
    let nodes: Vec<&Node> = cluster.nodes().iter().collect();
    let service = unique("web");
    let options = ["--name", &service, "--restart", "always"];
    let host = cluster.host(&service);
    for cut in 0..3 {
        let (victim, other) = (nodes[cut], nodes[(cut + 1) % 3]);
        let left = [other, nodes[(cut + 2) % 3]];
        let dies = victim.example(&service, &options).await;
        let lives = other.example(&service, &options).await;
        until_answered(&nodes, &host, &[&dies, &lives]).await;

        victim.power_cut().await;
        until_answered(&left, &host, &[&lives]).await;
        victim.power_on().await;
        cluster.until_ready().await;
        until_answered(&nodes, &host, &[&dies, &lives]).await;

        for node in [victim, other] {
            node.docker(&["rm", "-f", &service]).await;
        }
        until_unanswered(&nodes, &host).await;
    }
}

/// The content of a file that evidence must have.
fn kept(directory: &Path, name: &str) -> String {
    let path = directory.join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_is_kept_of_hosts_that_are_on_off_and_frozen() {
    let cluster = Shared::take(3).await;
    cluster.node(2).freeze().await;
    cluster.node(3).power_cut().await;
    let directory = tempfile::tempdir().unwrap();
    cluster.evidence(directory.path()).await.unwrap();

    let n1 = directory.path().join("n1");
    assert!(kept(&n1, "etcd.txt").contains("--- etcdctl member list"));
    assert!(kept(&n1, "docker-ps.txt").contains("colossus/etcd"));
    assert!(kept(&n1, "units.txt").contains("etcd.service"));
    assert!(kept(&n1, "machine.txt").contains("COLOSSUS_ETCD_CLUSTER="));
    assert!(kept(&n1, "network.txt").contains(&cluster.node(1).address().to_string()));
    for file in [
        "consul.txt",
        "haproxy-stats.csv",
        "registrator-status.txt",
        "router-config-status.txt",
    ] {
        kept(&n1, file);
    }
    for (node, state) in [("n1", "On"), ("n2", "Frozen"), ("n3", "Off")] {
        let directory = directory.path().join(node);
        assert!(kept(&directory, "state.txt").contains(state));
        assert!(kept(&directory, "journal-etcd.txt").contains("Started"), "{node}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_test_leaves_evidence_and_no_host() {
    let options = ClusterOptions {
        units: Units::None,
        ..ClusterOptions::test(1)
    };
    let name = options.name.clone();
    let failing = tokio::spawn(async move {
        let cluster = Cluster::start(options).await;
        cluster
            .node(1)
            .docker(&["image", "inspect", "colossus/example-web"])
            .await;
        panic!("as a test does that fails");
    });
    assert!(failing.await.unwrap_err().is_panic());

    let target = std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "../target".to_owned());
    let directory = Path::new(&target).join("evidence").join(&name);
    assert!(kept(&directory.join("n1"), "journal.txt").contains("Docker"));
    std::fs::remove_dir_all(&directory).unwrap();

    let filter = format!("label={LABEL}={name}");
    for list in [
        &["ps", "-aq"][..],
        &["volume", "ls", "-q"],
        &["network", "ls", "-q"],
    ] {
        assert_eq!(docker(&[list, &["--filter", &filter]].concat()), "", "{list:?}");
    }
}
