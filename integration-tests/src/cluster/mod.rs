//! Several hosts on one machine: containers with systemd, a Docker engine and an address each, and the platform on them
//! as deploy/host/install.sh puts it on a user's hosts. Behind `make cluster`, and for tests that need hosts to lose.
//!
//! A host is one container and one volume, its disk (`/var`). [`Node::power_cut`] takes away the first's processes, its
//! `/run` and `/tmp`; the disk stays, with all that was written to it: a cut here never loses what was not yet synced.
//!
//! Everything made here carries the label [`LABEL`] with the cluster's name. Tests share one cluster: [`shared`].

mod command;
mod create;
mod error;
mod etcd;
mod evidence;
mod faults;
mod node;
mod ready;
mod seed;
mod settings;
pub mod shared;
mod steps;
mod subnet;
mod vips;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use futures_util::future::join_all;

pub use error::Error;
pub use node::{Node, State};
pub use ready::Consul;
pub use steps::Steps;
pub use subnet::Subnet;
pub use vips::{KEEPER, KEEPER_ADMIN, VipStatus};

use crate::docker::{LABEL as TEST_LABEL, unique};
pub(crate) use command::SHORT;
use faults::Cuts;
pub(crate) use ready::wait_for;
pub(crate) use seed::HOST_IMAGE;

/// Label of the containers, volumes and networks of a cluster; its value is the cluster's name.
pub const LABEL: &str = "colossus.cluster";

/// The most hosts a cluster may have.
pub const MOST_NODES: usize = 9;

/// What runs on the hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Units {
    /// Every service of the platform whose image exists.
    Platform,
    /// These of them.
    Only(Vec<String>),
    /// All is in place, and nothing is started.
    Placed,
    /// Nothing: bare hosts with Docker and the images.
    None,
}

/// What a cluster shall be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterOptions {
    /// The hosts are the containers `<name>-n1` and so on.
    pub name: String,
    /// How many hosts: 1 to [`MOST_NODES`].
    pub nodes: usize,
    /// Where their addresses are; without one, a network that is free is found.
    pub subnet: Option<Subnet>,
    /// Services answer at `<service>.<domain>`.
    pub domain: String,
    /// How many virtual IPs it has: 0 to [`MOST_VIPS`](Subnet::MOST_VIPS).
    pub vips: usize,
    /// What runs on the hosts.
    pub units: Units,
    /// Further lines `NAME=VALUE` of every host's `/etc/colossus/environment`, also in place of one that it has.
    pub settings: Vec<(String, String)>,
    /// Whether it is a test's, for which it gets that label.
    pub test: bool,
}

impl ClusterOptions {
    /// Those of a test's cluster: beside any other, removed when it is dropped.
    pub fn test(nodes: usize) -> Self {
        Self {
            name: unique("colossus-test"),
            nodes,
            subnet: None,
            domain: "cluster.local".to_owned(),
            vips: 1,
            units: Units::Platform,
            settings: Vec::new(),
            test: true,
        }
    }

    /// How many of the hosts run etcd. Two members would survive no more losses than one.
    fn etcd_members(&self) -> usize {
        if self.nodes < 3 { 1 } else { 3 }
    }

    /// How many Consul servers there shall be.
    pub fn consul_servers(&self) -> usize {
        self.etcd_members()
    }

    pub(crate) fn labels(&self) -> Vec<String> {
        let mut labels = vec![format!("{LABEL}={}", self.name)];
        if self.test {
            labels.push(format!("{TEST_LABEL}={}", std::process::id()));
        }
        labels
    }
}

/// Hosts. Removed with all that is on them when dropped, unless [kept](Cluster::keep); when that is because a test
/// fails, [evidence](Cluster::evidence) is collected before.
#[derive(Debug)]
pub struct Cluster {
    options: ClusterOptions,
    subnet: Subnet,
    /// Which of the services are installed.
    units: Vec<String>,
    nodes: Vec<Node>,
    cuts: Cuts,
    /// The name of the test that it was made for, for its evidence.
    test: String,
    kept: bool,
}

impl Cluster {
    /// Starts a test's cluster, and waits until it is [ready](Cluster::until_ready).
    ///
    /// # Panics
    /// When it does not come up; with evidence.
    pub async fn start(options: ClusterOptions) -> Self {
        match Self::up(options, &Steps::silent()).await {
            Ok(cluster) => cluster,
            Err((error, remains)) => {
                // The remains are dropped while this panics, and so leave evidence.
                let _remains = remains;
                panic!("the cluster did not come up: {error}");
            }
        }
    }

    /// Its hosts, n1 first.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A host by its number: 1 is n1.
    ///
    /// # Panics
    /// When there is none of that number.
    pub fn node(&self, number: usize) -> &Node {
        &self.nodes[number - 1]
    }

    /// The options it was made with.
    pub fn options(&self) -> &ClusterOptions {
        &self.options
    }

    /// The services that are installed on its hosts.
    pub fn units(&self) -> &[String] {
        &self.units
    }

    /// Where its hosts' addresses are.
    pub fn subnet(&self) -> Subnet {
        self.subnet
    }

    /// The host name of a service.
    pub fn host(&self, service: &str) -> String {
        format!("{service}.{}", self.options.domain)
    }

    /// The host name under which only the instances on one node answer.
    pub fn host_on(&self, service: &str, node: &Node) -> String {
        format!("{service}.{}.{}", node.hostname(), self.options.domain)
    }

    /// Leaves it running when this is dropped.
    pub fn keep(&mut self) {
        self.kept = true;
    }

    /// Writes what can be known of each host below `directory`, also of one that is off or frozen.
    ///
    /// # Errors
    /// With those of all hosts of which nothing could be written.
    pub async fn evidence(&self, directory: &Path) -> Result<(), String> {
        let all = self.nodes.iter().map(|node| evidence::collect(node, directory));
        let failed: Vec<String> = join_all(all).await.into_iter().filter_map(Result::err).collect();
        if failed.is_empty() {
            Ok(())
        } else {
            Err(failed.join("; "))
        }
    }

    /// Where the evidence of this cluster is kept when its test fails.
    pub fn evidence_directory(&self) -> PathBuf {
        target().join("evidence").join(&self.test)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if std::thread::panicking() {
            let directory = self.evidence_directory();
            match command::blocking(self.evidence(&directory)) {
                Ok(()) => eprintln!("--- evidence of {}: {}", self.options.name, directory.display()),
                Err(error) => eprintln!("--- no evidence of {}: {error}", self.options.name),
            }
        }
        if let Err(output) = remove(&self.options.name) {
            eprintln!("cannot take {} down: {output}", self.options.name);
        }
    }
}

/// Removes a cluster with all that is on it, as `make cluster-down` does.
///
/// # Errors
/// With what the script printed.
pub fn remove(name: &str) -> Result<(), String> {
    let output = Command::new(root().join("deploy/cluster.sh"))
        .arg("down")
        .env("CLUSTER", name)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}

/// The project's directory. deploy/cluster.sh tells it, and cargo when it runs a test. What was compiled in is where it
/// *was*: a target directory may be shared, or outlive the checkout it was filled from.
fn root() -> PathBuf {
    if let Ok(root) = std::env::var("COLOSSUS_ROOT") {
        return root.into();
    }
    let package =
        std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
    PathBuf::from(package).join("..")
}

/// Where what is built and written goes.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}
