//! Virtual IPs: what a client on the network sees of them when their holder is lost, stopped, cut off, handed over. A short
//! selection, once each; all of it, many times, is `make soak`.
//!
//! First that the observer sees what there is. Bounds are generous here: this may be a busy machine.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, also in the functions that its tests share"
)]

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use integration_tests::cluster::shared::Shared;
use integration_tests::cluster::{Cluster, ClusterOptions, KEEPER};
use integration_tests::docker::{Container, LABEL, docker, try_docker, unique};
use integration_tests::vip::{
    Daemon, Drill, Mac, Moment, Observer, Outcome, Place, Scenario, Service, Sight, Span, run,
};

/// What takes a second or two on an idle machine.
const SOON: Duration = Duration::from_secs(30);

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_vip"))
}

/// A network whose hosts are given an address by hand.
struct Network {
    name: String,
    vip: Ipv4Addr,
}

impl Network {
    fn make() -> Self {
        let name = unique("colossus-test-vip");
        let label = format!("{LABEL}={}", std::process::id());
        docker(&["network", "create", "--label", &label, &name]);
        let format = "{{(index .IPAM.Config 0).Subnet}}";
        let subnet = docker(&["network", "inspect", "-f", format, &name]);
        let network: Ipv4Addr = subnet.split('/').next().unwrap().parse().unwrap();
        Self {
            name,
            // Docker gives out addresses from the beginning.
            vip: Ipv4Addr::from(u32::from(network) + 200),
        }
    }

    async fn observer(&self, hosts: &[&Host]) -> Observer {
        let place = Place {
            network: self.name.clone(),
            labels: vec![format!("{LABEL}={}", std::process::id())],
            names: hosts
                .iter()
                .map(|host| (host.mac(), host.name.to_owned()))
                .collect(),
        };
        Observer::start(program(), &place, &[self.vip], "any.host")
            .await
            .unwrap()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = try_docker(&["network", "rm", &self.name]);
    }
}

/// A web server, and a shell beside it in its network.
struct Host {
    name: &'static str,
    vip: String,
    shell: Container,
    web: Container,
}

impl Host {
    fn start(network: &Network, name: &'static str) -> Self {
        let web = Container::run(&["--network", &network.name], "colossus/example-web", &[]);
        let beside = format!("container:{}", web.id());
        let options = [
            "--network",
            &beside,
            "--cap-add",
            "NET_ADMIN",
            "--entrypoint",
            "sleep",
        ];
        Self {
            name,
            vip: network.vip.to_string(),
            shell: Container::run(&options, "colossus/test-host", &["infinity"]),
            web,
        }
    }

    fn sh(&self, script: &str) {
        docker(&["exec", self.shell.id(), "sh", "-c", script]);
    }

    fn add(&self) {
        self.sh(&format!("ip addr add {}/32 dev eth0", self.vip));
    }

    fn remove(&self) {
        self.sh(&format!("ip addr del {}/32 dev eth0", self.vip));
    }

    fn announce(&self) {
        self.sh(&format!("arping -q -U -c 1 -I eth0 {}", self.vip));
    }

    fn mac(&self) -> Mac {
        let format = "{{range .NetworkSettings.Networks}}{{.MacAddress}}{{end}}";
        docker(&["inspect", "-f", format, self.web.id()]).parse().unwrap()
    }
}

/// Waits until exactly these answer ARP for the address.
async fn until_owned(observer: &Observer, by: &[&str]) {
    let owned = |sight: &Sight| {
        let mut owners: Vec<&str> = sight.owners.iter().map(|owner| owner.name.as_str()).collect();
        owners.sort_unstable();
        if owners == by {
            Ok(())
        } else {
            Err(format!("{owners:?} answer"))
        }
    };
    observer
        .until(&format!("{by:?} answer"), Duration::from_millis(300), SOON, owned)
        .await
        .unwrap();
}

async fn until_served(observer: &Observer) {
    let served = |sight: &Sight| match sight.requests.good {
        0..5 => Err("it does not answer".to_owned()),
        _ => Ok(()),
    };
    observer
        .until("it answers", Duration::from_millis(300), SOON, served)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_observer_sees_who_has_an_address_and_its_client_learns_it_from_announcements_alone() {
    let network = Network::make();
    let (one, two) = (Host::start(&network, "one"), Host::start(&network, "two"));
    one.add();
    let observer = network.observer(&[&one, &two]).await;
    until_owned(&observer, &["one"]).await;
    until_served(&observer).await;

    // Without an announcement ARP finds the new owner at once, and who has known the old one does not.
    let moved = Moment::now();
    one.remove();
    two.add();
    until_owned(&observer, &["two"]).await;
    let removed = Moment::now();
    let answers = observer.since(network.vip, removed - Duration::from_millis(200));
    assert_eq!(
        answers.requests.good, 0,
        "the client has learnt from the watcher's questions: {answers}"
    );
    two.announce();
    until_served(&observer).await;
    let ended = Moment::now();

    let seen = observer.finish().await.unwrap();
    let sight = seen.of(
        network.vip,
        Span {
            from: moved,
            to: ended,
        },
    );
    let owners: Vec<&str> = sight.owners.iter().map(|owner| owner.name.as_str()).collect();
    assert_eq!(owners, ["one", "two"], "{sight}");
    assert_eq!(sight.two_owners, [], "{sight}");
    assert!(sight.announced >= 1, "{sight}");
    // From the removal to the announcement, and each request on its own: none waited for another.
    assert!(sight.outage >= Duration::from_millis(300), "{sight}");
    let long = sight
        .outages
        .iter()
        .filter(|outage| outage.length() >= Duration::from_millis(300));
    assert_eq!(long.count(), 1, "{sight}");
    let failed = u32::try_from(sight.requests.unconnected).unwrap();
    let outage = u32::try_from(sight.outage.as_millis()).unwrap();
    assert!(failed > 0 && failed <= outage / 10 + 2, "{sight}");
    assert_eq!(sight.last_owner().unwrap().name, "two");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_observer_sees_two_owners() {
    let network = Network::make();
    let (one, two) = (Host::start(&network, "one"), Host::start(&network, "two"));
    one.add();
    let observer = network.observer(&[&one, &two]).await;
    until_owned(&observer, &["one"]).await;
    let from = Moment::now();
    two.add();
    until_owned(&observer, &["one", "two"]).await;
    one.remove();
    until_owned(&observer, &["two"]).await;
    let to = Moment::now();

    let sight = observer
        .finish()
        .await
        .unwrap()
        .of(network.vip, Span { from, to });
    assert!(
        sight.longest_two_owners() >= Duration::from_millis(250),
        "{sight}"
    );
    assert!(sight.longest_two_owners() < sight.time.length(), "{sight}");
    assert_eq!(sight.owners.len(), 2, "{sight}");
}

/// The longest outage, whatever happens; on an idle machine it is under two seconds.
const OUTAGE: Duration = Duration::from_secs(5);

/// Three hosts that keep two addresses, and a service on each.
async fn hosts() -> (Shared, Service) {
    let options = ClusterOptions {
        vips: 2,
        ..ClusterOptions::test(3)
    };
    let cluster = Shared::take_like(options).await;
    assert!(
        cluster.units().iter().any(|unit| unit == KEEPER),
        "there is no image colossus/vip-keeper: make images"
    );
    let service = Service::start(&cluster).await;
    (cluster, service)
}

/// A scenario, once, with these bounds: [`OUTAGE`] and the scenario's own for all else.
async fn drill(scenario: Scenario) -> Outcome {
    let (cluster, service) = hosts().await;
    let outcome = run(&cluster, program(), &service, Daemon::Keeper, scenario)
        .await
        .unwrap();
    outcome.within(OUTAGE).unwrap();
    service.remove(&cluster).await;
    outcome
}

/// Brings all addresses to the host that holds the first.
async fn gather(cluster: &Cluster) {
    let vips = cluster.vips();
    let first = cluster.vip_holder(vips[0]).await.unwrap();
    for vip in &vips[1..] {
        let other = cluster.vip_holder(*vip).await.unwrap();
        if other != first {
            let (from, to) = (cluster.node(other), cluster.node(first));
            Daemon::Keeper.hand_over(from, to).await.unwrap();
        }
    }
    cluster.until_vips_held(SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_of_the_holder_of_two_addresses_moves_both() {
    let (cluster, service) = hosts().await;
    cluster.restore().await;
    gather(&cluster).await;
    let outcome = run(&cluster, program(), &service, Daemon::Keeper, Scenario::POWER_CUT)
        .await
        .unwrap();
    outcome.within(OUTAGE).unwrap();
    assert_eq!(outcome.fault.len(), 2);
    for sight in &outcome.fault {
        let owner = sight.last_owner().unwrap();
        assert_ne!(owner.name, outcome.holder, "{outcome}");
        assert!(sight.announced > 0, "{outcome}");
    }
    service.remove(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_that_is_stopped_lets_go_and_does_not_answer_when_it_goes_on() {
    drill(Scenario::STOP).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planned_hand_over_fails_no_connection() {
    let outcome = drill(Scenario::HAND_OVER).await;
    let unconnected: usize = outcome.whole.iter().map(|sight| sight.requests.unconnected).sum();
    assert_eq!(unconnected, 0, "{outcome}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_haproxy_moves_the_address() {
    drill(Scenario::KILL_PROXY).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_was_removed_by_hand_comes_back() {
    drill(Scenario::REMOVED).await;
}

/// fleet lets the units of a host that it cannot reach run on. That must not matter.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_cut_off_keeps_its_units_running_and_does_not_answer_for_the_address() {
    let (cluster, service) = hosts().await;
    let mut drill = Drill::begin(&cluster, program(), &service, Daemon::Keeper, Scenario::CUT_OFF)
        .await
        .unwrap();
    let alone = cluster.node(drill.holder());
    drill.strike().await.unwrap();
    for unit in cluster.units() {
        assert_eq!(alone.unit_state(unit).await.unwrap(), "active", "{unit}");
    }
    // The client reaches it, and it serves: only the address is not its own any more.
    assert_eq!(alone.get(service.host(), "/").await.unwrap().status, 200);
    drill.undo().await.unwrap();
    let outcome = drill.finish().await.unwrap();
    outcome.within(OUTAGE).unwrap();
    assert!(outcome.let_go_after().unwrap() < OUTAGE, "{outcome}");
    service.remove(&cluster).await;
}
