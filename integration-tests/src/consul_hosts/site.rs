//! A site: a network with etcd and hosts, removed as a whole when dropped.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::evidence;
use super::host::Host;
use super::ring::Ring;
use super::watch::Watch;
use crate::docker::{LABEL, docker, try_docker, unique};
use crate::wait::until;

/// Has a shell and iptables. Made by deploy/test.sh; made here for who runs these tests alone.
const MACHINE: &str = "colossus/test-docker";

/// A Docker network, and the names of all that is in it.
#[derive(Clone, Debug)]
pub(super) struct Net {
    inner: Arc<NetInner>,
}

#[derive(Debug)]
struct NetInner {
    name: String,
    /// The first three parts of its addresses.
    prefix: String,
    scratch: tempfile::TempDir,
}

impl Net {
    fn create() -> Self {
        let name = unique("colossus-site");
        let label = format!("{LABEL}={}", std::process::id());
        for _ in 0..50 {
            let prefix = format!("10.{}.{}", fastrand::u8(130..230), fastrand::u8(..));
            let subnet = format!("{prefix}.0/24");
            match try_docker(&["network", "create", "--label", &label, "--subnet", &subnet, &name]) {
                Ok(_) => {
                    let scratch = tempfile::tempdir().expect("a temporary directory");
                    let inner = NetInner {
                        name,
                        prefix,
                        scratch,
                    };
                    return Self {
                        inner: Arc::new(inner),
                    };
                }
                Err(error) if error.contains("overlap") => {}
                Err(error) => panic!("docker network create: {error}"),
            }
        }
        panic!("no subnet is free");
    }

    /// The full name of one of its containers.
    pub(super) fn container(&self, name: &str) -> String {
        format!("{}-{name}", self.inner.name)
    }

    pub(super) fn address(&self, number: usize) -> String {
        format!("{}.{number}", self.inner.prefix)
    }

    /// A directory of this test.
    pub(super) fn scratch(&self) -> PathBuf {
        self.inner.scratch.path().to_owned()
    }

    fn label(&self) -> String {
        format!("colossus.site={}", self.inner.name)
    }

    /// `docker <verb> <options> IMAGE <command>` with a name and the labels by which all is found again.
    pub(super) fn make(&self, verb: &[&str], name: &str, options: &[&str], image: &str, command: &[&str]) {
        let (test, site) = (format!("{LABEL}={}", std::process::id()), self.label());
        let own = ["--name", name, "--label", &test, "--label", &site];
        docker(&[verb, &own, options, &[image], command].concat());
    }

    pub(super) fn run(&self, name: &str, options: &[&str], image: &str, command: &[&str]) {
        self.make(&["run", "-d"], name, options, image, command);
    }

    /// A container that only holds a network namespace. This machine reaches Consul's and consul-bootstrapper's
    /// loopback ports in it at [`super::host::CONSUL_PORT`] and [`super::host::ADMIN_PORT`].
    pub(super) fn machine(&self, name: &str, address: &str, options: &[&str]) {
        let own = [
            "--network",
            &self.inner.name,
            "--ip",
            address,
            "--cap-add=NET_ADMIN",
            "--sysctl=net.ipv4.conf.all.route_localnet=1",
            "--entrypoint=sleep",
        ];
        self.run(name, &[&own, options].concat(), MACHINE, &["infinity"]);
    }

    /// Loses all packets between a machine and these addresses, both ways.
    pub(super) fn cut(&self, machine: &str, addresses: &[String]) {
        let rules = addresses.iter().map(|address| {
            format!("iptables -I INPUT -s {address} -j DROP && iptables -I OUTPUT -d {address} -j DROP")
        });
        let rules: Vec<_> = rules.collect();
        docker(&["exec", machine, "sh", "-c", &rules.join(" && ")]);
    }

    /// Loses no packets any more.
    pub(super) fn mend(&self, machine: &str) {
        docker(&["exec", machine, "iptables", "-F"]);
    }

    /// The full names of all its containers.
    pub(super) fn containers(&self) -> Vec<String> {
        let filter = format!("label={}", self.label());
        let names =
            try_docker(&["ps", "-a", "--filter", &filter, "--format", "{{.Names}}"]).unwrap_or_default();
        names.lines().map(str::to_owned).collect()
    }

    fn remove(&self) {
        let containers = self.containers();
        let names: Vec<&str> = containers.iter().map(String::as_str).collect();
        // What cannot be removed carries the label.
        if !names.is_empty() {
            let _ = try_docker(&[&["rm", "-f", "-v"], names.as_slice()].concat());
        }
        let _ = try_docker(&["network", "rm", &self.inner.name]);
    }
}

/// A network with etcd, hosts, and a watch over them all.
#[derive(Debug)]
pub struct Site {
    net: Net,
    ring: Ring,
    watch: Watch,
}

impl Site {
    /// One with a single etcd.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn new() -> Self {
        Self::with_etcd(1).await
    }

    /// One with this many members of etcd.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn with_etcd(members: usize) -> Self {
        if try_docker(&["image", "inspect", MACHINE]).is_err() {
            let package = std::env::var("CARGO_MANIFEST_DIR").expect("cargo runs the tests");
            docker(&["build", "-q", "-t", MACHINE, &format!("{package}/images/docker")]);
        }
        let net = Net::create();
        let ring = Ring::start(&net, members);
        let watch = Watch::start(ring.client());
        let site = Self { net, ring, watch };
        site.ring.until_answering().await;
        site
    }

    /// Its etcd.
    pub fn etcd(&self) -> &Ring {
        &self.ring
    }

    /// What is watched all the while.
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// A host called `n<number>` with an empty disk; it is off.
    pub fn host(&self, number: usize) -> Host {
        Host::new(&self.net, &self.watch.places(), &self.ring.endpoints(), number)
    }

    /// Hosts `n1` … `n<count>`, all off.
    pub fn hosts<const N: usize>(&self) -> [Host; N] {
        std::array::from_fn(|index| self.host(index + 1))
    }

    /// Three hosts that have formed a cluster, with a value in it that must never be lost.
    ///
    /// # Panics
    /// When they do not within 60 s.
    pub async fn formed(&self) -> [Host; 3] {
        let hosts = self.hosts();
        self.form(&hosts.each_ref()).await;
        hosts
    }

    /// Boots these hosts at once, waits until all of them are servers of one cluster, and writes a value into it.
    ///
    /// # Panics
    /// When they are not within 60 s.
    pub async fn form(&self, hosts: &[&Host]) {
        boot(hosts);
        until_voters(hosts[0], hosts, FORMING).await;
        until_settled(hosts, FORMING).await;
        self.mark(hosts[0]).await;
    }

    /// Writes a value through `host`. From now on every consistent read in its cluster must give it.
    ///
    /// # Panics
    /// When it cannot be written within 30 s.
    pub async fn mark(&self, host: &Host) {
        // Between the write and our knowledge of it either value is right.
        self.watch.keeps_nothing(host.cluster());
        let value = unique("kept");
        let (client, options) = (host.consul(), consul::PutOptions::default());
        until("a value is written", Duration::from_secs(30), || async {
            match client.kv_put(super::watch::KEPT, value.clone(), &options).await {
                Ok(true) => Ok(()),
                Ok(false) => Err("refused".to_owned()),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
        self.watch.must_keep(host.cluster(), &value);
    }

    /// Waits until the value is read through each of these hosts.
    ///
    /// # Panics
    /// When it is not within 30 s.
    pub async fn nothing_is_lost(&self, hosts: &[&Host]) {
        for host in hosts {
            let kept = self
                .watch
                .kept(host.cluster())
                .expect("a value was written before");
            let name = host.name();
            until(
                &format!("{name} reads what was written"),
                Duration::from_secs(30),
                || async {
                    match host.read().await? {
                        Some(value) if value == kept => Ok(()),
                        other => Err(format!("{other:?} instead of {kept}")),
                    }
                },
            )
            .await;
        }
    }

    /// What the nodes of the cluster `main` have agreed on, as it is in etcd.
    ///
    /// # Errors
    /// When there is nothing, or no JSON.
    pub async fn record(&self) -> Result<Value, String> {
        let entry = self
            .etcd()
            .client()
            .get("/colossus/consul/main/record")
            .await
            .map_err(|error| error.to_string())?;
        let entry = entry.ok_or("there is no record")?;
        serde_json::from_slice(&entry.value).map_err(|error| error.to_string())
    }

    /// Who holds the slots, by that.
    ///
    /// # Errors
    /// As [`Site::record`].
    pub async fn slots(&self) -> Result<BTreeSet<String>, String> {
        let record = self.record().await?;
        let slots = record["slots"].as_array().cloned().unwrap_or_default();
        Ok(slots
            .iter()
            .map(|slot| slot["node"].as_str().unwrap_or_default().to_owned())
            .collect())
    }

    /// The nodes that have a key in etcd.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub async fn present(&self) -> Result<BTreeSet<String>, String> {
        let prefix = "/colossus/consul/main/nodes/";
        let listing = self
            .etcd()
            .client()
            .list(prefix)
            .await
            .map_err(|error| error.to_string())?;
        let names = listing
            .entries
            .iter()
            .filter_map(|entry| entry.key.strip_prefix(prefix));
        Ok(names.map(str::to_owned).collect())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let violations = self.watch.violations();
        if std::thread::panicking() || !violations.is_empty() {
            evidence::print(&self.net, &self.ring, &self.watch);
        }
        self.net.remove();
        // A test that was about to pass does not.
        assert!(
            std::thread::panicking() || violations.is_empty(),
            "while the test ran: {violations:#?}"
        );
    }
}

/// How long forming a cluster may take: three times what it shall.
pub const FORMING: Duration = Duration::from_secs(30);

/// Boots hosts side by side. Gives the time of the last consul-bootstrapper's start.
pub fn boot(hosts: &[&Host]) -> Instant {
    side_by_side(hosts, Host::boot)
        .into_iter()
        .max()
        .unwrap_or_else(Instant::now)
}

/// Cuts the power of hosts side by side.
pub fn power_cut(hosts: &[&Host]) {
    side_by_side(hosts, Host::power_cut);
}

fn side_by_side<T: Send>(hosts: &[&Host], action: impl Fn(&Host) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let running: Vec<_> = hosts.iter().map(|host| scope.spawn(|| action(host))).collect();
        running
            .into_iter()
            .map(|thread| thread.join().expect("docker does as it is told"))
            .collect()
    })
}

/// Waits until Consul has a leader by what `asked` says, and its voters are exactly these hosts.
///
/// # Panics
/// When they are not in time.
pub async fn until_voters(asked: &Host, servers: &[&Host], within: Duration) {
    let wanted: BTreeSet<_> = servers.iter().map(|host| host.address().to_owned()).collect();
    until(&format!("the voters are {wanted:?}"), within, || async {
        let raft = asked.raft().await?;
        if raft.leader.is_some() && raft.voters == wanted && raft.others.is_empty() {
            Ok(())
        } else {
            Err(format!("{raft:?}"))
        }
    })
    .await;
}

/// Waits until each host says that it is settled.
///
/// # Panics
/// When one does not in time.
pub async fn until_settled(hosts: &[&Host], within: Duration) {
    for host in hosts {
        until_state(host, "settled", within).await;
    }
}

/// Waits until a host is in this state by its `/status`.
///
/// # Panics
/// When it is not in time.
pub async fn until_state(host: &Host, state: &str, within: Duration) {
    until(&format!("{} is {state}", host.name()), within, || async {
        let standing = host.standing().await?;
        if standing.state == state {
            Ok(())
        } else {
            Err(format!("{standing:?}"))
        }
    })
    .await;
}

/// Waits until a host's summary or last error contains this text; gives all of it.
///
/// # Panics
/// When it does not in time.
pub async fn until_says(host: &Host, text: &str, within: Duration) -> String {
    until(&format!("{} says {text:?}", host.name()), within, || async {
        let standing = host.standing().await?;
        let said = format!(
            "{}\n{}",
            standing.summary,
            standing.error.as_deref().unwrap_or_default()
        );
        if said.contains(text) {
            Ok(said)
        } else {
            Err(format!("{standing:?}"))
        }
    })
    .await
}
