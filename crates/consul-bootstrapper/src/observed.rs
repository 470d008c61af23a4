//! What one node sees before it decides: itself, its files, etcd, its Consul. Plain values; time comes in as
//! durations measured by the observer, so that no two clocks are ever compared.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use contract::DnsLabel;
use serde::{Deserialize, Serialize};

use crate::record::{ClusterId, ClusterRecord};

/// What the operator lets this node be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A server while there is a slot for it, else a client.
    #[default]
    Auto,
    /// As `auto`; for hosts that are meant to be servers.
    Server,
    /// Never a server.
    Client,
}

/// This node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Me {
    /// Its name in Consul and in etcd.
    pub node: DnsLabel,
    /// Where others reach it.
    pub address: IpAddr,
    /// What it may be.
    pub role: Role,
    /// How many server slots its operator wants.
    pub servers: u8,
    /// Digest of everything else that its operator configures: another one needs a restart of Consul.
    pub settings: String,
}

/// What Consul's data directory holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Data {
    /// Nothing that was ever part of a cluster.
    #[default]
    None,
    /// It was part of this cluster.
    Member {
        /// Which one.
        cluster: ClusterId,
        /// Whether it holds the raft log of a server.
        server: bool,
    },
}

impl Data {
    /// Whether it holds the raft log of a server of `cluster`.
    pub fn is_server_of(&self, cluster: &ClusterId) -> bool {
        matches!(self, Self::Member { cluster: own, server: true } if own == cluster)
    }
}

/// What the local Consul shall be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// A server; with a number it may take part in the one bootstrap of the cluster.
    Server {
        /// Consul's `bootstrap_expect`.
        expect: Option<u8>,
    },
    /// A client.
    Client,
}

impl Mode {
    /// Whether it is a server.
    pub fn is_server(&self) -> bool {
        matches!(self, Self::Server { .. })
    }
}

/// How the local Consul is to be configured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentPlan {
    /// Of which cluster.
    pub cluster: ClusterId,
    /// Under which name.
    pub node: DnsLabel,
    /// At which address.
    pub address: IpAddr,
    /// As what.
    pub mode: Mode,
    /// Whom to join at the start. A change of these alone needs no restart.
    pub join: BTreeSet<IpAddr>,
    /// The operator's counter of restarts.
    pub restart: u64,
    /// [`Me::settings`].
    pub settings: String,
}

impl AgentPlan {
    /// Whether a Consul that runs by `self` must be restarted to run by `wanted`.
    ///
    /// `expect` alone is no reason: Consul ignores it once it has data, and it matters only at the next start.
    pub fn needs_restart(&self, wanted: &Self) -> bool {
        self.cluster != wanted.cluster
            || self.node != wanted.node
            || self.address != wanted.address
            || self.mode.is_server() != wanted.mode.is_server()
            || self.restart != wanted.restart
            || self.settings != wanted.settings
    }
}

/// What this node keeps in files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Local {
    /// What Consul's data belongs to.
    pub data: Data,
    /// The record as last read, from an earlier life perhaps.
    pub record: Option<ClusterRecord>,
    /// The plan last written, from an earlier life perhaps.
    pub written: Option<AgentPlan>,
    /// Whether Consul has been let start by `written` since the host's start.
    pub permitted: bool,
}

/// What a node tells the others, under a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// Its name.
    pub node: DnsLabel,
    /// Drawn at the start of its process.
    pub instance: String,
    /// Derived from the machine's ID; the same for two hosts only if one was cloned.
    pub host: String,
    /// Where it is reached.
    pub address: IpAddr,
    /// What its Consul's data belongs to.
    pub data: Data,
    /// Consul's own ID for the node, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consul_id: Option<String>,
}

/// The record in etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordView {
    /// There is none.
    Absent,
    /// There is something that cannot be one; the reason says why.
    Unreadable(String),
    /// There it is.
    Present(ClusterRecord),
}

/// What etcd says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdView {
    /// What was agreed.
    pub record: RecordView,
    /// Who lives, this node included.
    pub nodes: BTreeMap<DnsLabel, Presence>,
    /// For how long this observer has missed a holder of a slot.
    pub absent: BTreeMap<DnsLabel, Duration>,
    /// Who may restart its Consul now.
    pub restarting: Option<DnsLabel>,
}

/// One of Consul's raft peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Raft's ID.
    pub id: String,
    /// Its address.
    pub address: IpAddr,
    /// Whether it votes.
    pub voter: bool,
}

/// One member of Consul's gossip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub node: String,
    /// Its address.
    pub address: IpAddr,
    /// Whether it is alive by gossip.
    pub alive: bool,
    /// Whether it is a server.
    pub server: bool,
    /// Consul's node ID.
    pub id: String,
}

/// What the local Consul agent says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsulState {
    /// Whether the cluster has a leader.
    pub led: bool,
    /// Whether this agent is the leader.
    pub leads: bool,
    /// Whether this agent runs as a server.
    pub server: bool,
    /// Raft's peers; empty while there is no leader.
    pub peers: Vec<Peer>,
    /// Gossip's members.
    pub members: Vec<Member>,
    /// Whether autopilot calls all servers healthy.
    pub healthy: bool,
}

/// The local Consul.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsulView {
    /// It does not answer.
    Down,
    /// It does.
    Up(ConsulState),
}

impl ConsulView {
    /// The state of a Consul that has a leader.
    pub fn led(&self) -> Option<&ConsulState> {
        match self {
            Self::Up(state) if state.led => Some(state),
            _ => None,
        }
    }
}

/// Everything a decision rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// This node.
    pub me: Me,
    /// Its files.
    pub local: Local,
    /// etcd, or why it cannot be asked.
    pub etcd: Result<EtcdView, String>,
    /// Consul.
    pub consul: ConsulView,
    /// For how long Consul has been without a leader while it ran; zero while it has one.
    pub leaderless: Duration,
    /// Why this node must not take part, found by whoever claims its presence.
    pub contested: Option<Contest>,
    /// The ID for a cluster, should one be made now.
    pub fresh_id: ClusterId,
    /// How long a holder of a slot must be away before another may take it.
    pub replace_after: Duration,
}

/// Another node that was first to be what this one says it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Contest {
    /// A live process on another host has this node's name.
    Name {
        /// Where it is.
        address: IpAddr,
    },
    /// A live node has this host's machine ID.
    Machine {
        /// Its name.
        node: DnsLabel,
        /// Where it is.
        address: IpAddr,
    },
    /// A live node has this node's Consul data.
    ConsulData {
        /// Its name.
        node: DnsLabel,
        /// Where it is.
        address: IpAddr,
    },
    /// A live node has this node's address.
    Address {
        /// Its name.
        node: DnsLabel,
        /// The address.
        address: IpAddr,
    },
}
