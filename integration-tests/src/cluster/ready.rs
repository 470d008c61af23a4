//! When a cluster is ready, and what it says of itself.

use std::future::Future;
use std::time::{Duration, Instant};

use futures_util::future::{join_all, try_join_all};
use serde_json::Value;

use super::{Cluster, KEEPER, Node, State, Steps, Units};
use crate::http;

/// How often a condition is looked at. Most ask a program on a host, which costs more than waiting.
const EVERY: Duration = Duration::from_millis(100);

/// How long each part of the platform may take to become ready. It takes seconds, on a machine that does nothing else.
pub(crate) const READY: Duration = Duration::from_secs(120);

/// Waits until `condition` is `Ok` and gives its value.
///
/// # Errors
/// After `within`, with what was waited for and the condition's last complaint.
pub(crate) async fn wait_for<T, F, Fut>(what: &str, within: Duration, mut condition: F) -> Result<T, String>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, String>>,
{
    let deadline = Instant::now() + within;
    loop {
        match condition().await {
            Ok(value) => return Ok(value),
            Err(complaint) if Instant::now() > deadline => {
                return Err(format!("not within {within:?}: {what}: {complaint}"));
            }
            Err(_) => tokio::time::sleep(EVERY).await,
        }
    }
}

/// What a node's Consul agent says of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consul {
    /// The leader's address and port.
    pub leader: String,
    /// How many servers vote.
    pub voters: usize,
    /// How many members are alive.
    pub alive: usize,
}

impl Node {
    /// Asks its Consul agent.
    ///
    /// # Errors
    /// When it does not answer, or there is no leader.
    pub async fn consul(&self) -> Result<Consul, String> {
        let leader = self.local(8500, "/v1/status/leader").await?;
        let leader = leader.trim_matches('"').to_owned();
        if leader.is_empty() {
            return Err(format!("{}: Consul has no leader", self.hostname()));
        }
        let raft = self.local_json(8500, "/v1/operator/raft/configuration").await?;
        let members = self.local_json(8500, "/v1/agent/members").await?;
        // 1 is "alive" (serf.MemberStatus).
        Ok(Consul {
            leader,
            voters: count(&raft["Servers"], |server| server["Voter"] == true),
            alive: count(&members, |member| member["Status"] == 1),
        })
    }

    async fn consul_has(&self, voters: usize, alive: usize) -> Result<(), String> {
        let consul = self.consul().await?;
        if consul.voters == voters && consul.alive == alive {
            Ok(())
        } else {
            Err(format!("{}: {consul:?}", self.hostname()))
        }
    }

    /// Whether its etcd member is well, which is only so while there is a leader.
    ///
    /// # Errors
    /// With what it says, when it is not.
    pub async fn etcd_healthy(&self) -> Result<(), String> {
        let asked = http::get(self.port(2379), "localhost", "/health");
        let answer = tokio::time::timeout(Duration::from_secs(3), asked)
            .await
            .map_err(|_| format!("{}: etcd does not answer", self.hostname()))?
            .map_err(|error| format!("{}: etcd: {error}", self.hostname()))?;
        if answer.status == 200 && answer.body.contains("\"true\"") {
            Ok(())
        } else {
            Err(format!("{}: etcd says {}", self.hostname(), answer.body))
        }
    }

    /// Whether its HAProxy runs with what router-config wrote: a host that nobody has is then 404.
    ///
    /// # Errors
    /// With what it answers otherwise.
    pub async fn routing(&self, domain: &str) -> Result<(), String> {
        let answer = self.get(&format!("unknown-host.{domain}"), "/").await?;
        if answer.status == 404 {
            Ok(())
        } else {
            Err(format!(
                "{}: HAProxy answers {} to a host that nobody has",
                self.hostname(),
                answer.status
            ))
        }
    }
}

fn count(list: &Value, holds: impl Fn(&Value) -> bool) -> usize {
    list.as_array()
        .map_or(0, |list| list.iter().filter(|item| holds(item)).count())
}

impl Cluster {
    /// Waits until all that was started is ready: etcd on its members, Consul with a leader and all its voters and
    /// members, routing on every node, each virtual IP with one holder.
    ///
    /// # Panics
    /// When a part is not within 2 minutes.
    pub async fn until_ready(&self) {
        self.ready(&Steps::silent())
            .await
            .unwrap_or_else(|error| panic!("{error}"));
    }

    pub(crate) async fn ready(&self, steps: &Steps) -> Result<(), String> {
        if matches!(self.options().units, Units::Placed | Units::None) {
            return Ok(());
        }
        let runs = |units: &[&str]| {
            units
                .iter()
                .all(|unit| self.units().iter().any(|runs| runs == unit))
        };
        if runs(&["etcd"]) {
            steps
                .step("etcd is healthy", self.until_etcd_healthy(READY))
                .await?;
        }
        if runs(&["consul", "consul-bootstrapper"]) {
            let (servers, nodes) = (self.options().consul_servers(), self.nodes().len());
            let what = format!("Consul has a leader, {servers} voters and {nodes} members");
            steps
                .step(&what, self.until_consul(servers, nodes, READY))
                .await?;
        }
        if runs(&["consul", "consul-bootstrapper", "haproxy", "router-config"]) {
            steps
                .step("HAProxy routes on every node", self.until_routing(READY))
                .await?;
        }
        if runs(&["etcd", "haproxy", KEEPER]) && self.options().vips > 0 {
            steps
                .step("somebody holds each virtual IP", self.until_vips_held(READY))
                .await?;
        }
        Ok(())
    }

    /// Waits until every member of etcd is well.
    ///
    /// # Errors
    /// With the last complaint.
    pub async fn until_etcd_healthy(&self, within: Duration) -> Result<(), String> {
        let waiting = self
            .etcd_members()
            .iter()
            .map(|node| wait_for("etcd is healthy", within, || node.etcd_healthy()));
        try_join_all(waiting).await.map(drop)
    }

    /// Waits until every node's Consul agent sees a leader, this many voters and this many members alive.
    ///
    /// # Errors
    /// With the last complaint.
    pub async fn until_consul(&self, voters: usize, alive: usize, within: Duration) -> Result<(), String> {
        let waiting = self
            .nodes()
            .iter()
            .map(|node| wait_for("Consul is formed", within, move || node.consul_has(voters, alive)));
        try_join_all(waiting).await.map(drop)
    }

    /// Waits until every node's HAProxy is configured.
    ///
    /// # Errors
    /// With the last complaint.
    pub async fn until_routing(&self, within: Duration) -> Result<(), String> {
        let domain = &self.options().domain;
        let waiting = self
            .nodes()
            .iter()
            .map(|node| wait_for("HAProxy routes", within, move || node.routing(domain)));
        try_join_all(waiting).await.map(drop)
    }

    /// Brings back what a test took away: thaws, mends, switches on and starts; then waits as [`Cluster::until_ready`]
    /// does.
    ///
    /// # Panics
    /// When it does not come back.
    pub async fn restore(&self) {
        let each = join_all(self.nodes().iter().map(|node| self.restore_node(node))).await;
        for restored in each {
            restored.unwrap_or_else(|error| panic!("{error}"));
        }
        self.heal_all().await;
        self.until_ready().await;
    }

    async fn restore_node(&self, node: &Node) -> Result<(), String> {
        match node.state().await? {
            State::On => {}
            State::Frozen => node.unfreeze().await?,
            State::Off => node.boot().await.map_err(|error| error.to_string())?,
        }
        if matches!(self.options().units, Units::Placed | Units::None) {
            return Ok(());
        }
        let units: Vec<&str> = self.units().iter().map(String::as_str).collect();
        node.exec(&[&["systemctl", "start"], units.as_slice()].concat())
            .await
            .map(drop)
    }
}
