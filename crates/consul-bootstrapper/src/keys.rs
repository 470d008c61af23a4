//! Where in etcd things are. Prefixes keep two clusters on one etcd apart.

use contract::{ClusterName, DnsLabel, consul_prefix};

/// The keys of one cluster.
#[derive(Clone, Debug)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    /// Those of `cluster`.
    pub fn new(cluster: &ClusterName) -> Self {
        Self {
            prefix: consul_prefix(cluster),
        }
    }

    /// What they all begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// What is agreed on.
    pub fn record(&self) -> String {
        format!("{}record", self.prefix)
    }

    /// What the nodes' keys begin with.
    pub fn nodes(&self) -> String {
        format!("{}nodes/", self.prefix)
    }

    /// A node that lives.
    pub fn node(&self, node: &DnsLabel) -> String {
        format!("{}{node}", self.nodes())
    }

    /// Whose turn it is to restart.
    pub fn turn(&self) -> String {
        format!("{}restarting", self.prefix)
    }

    /// The gossip key.
    pub fn gossip(&self) -> String {
        format!("{}secrets/gossip", self.prefix)
    }

    /// The tokens.
    pub fn acl(&self) -> String {
        format!("{}secrets/acl", self.prefix)
    }

    /// The authority that signs agents' certificates.
    pub fn ca(&self) -> String {
        format!("{}secrets/ca", self.prefix)
    }
}
