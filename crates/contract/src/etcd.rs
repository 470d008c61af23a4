//! The layout of etcd's keys: everything of ours is below `/colossus/`, one directory for each service that writes.

use std::fmt;

use crate::dns::{DnsLabel, DnsNameError};

/// Names one cluster of hosts among those that share an etcd. A DNS label, so that it is one segment of a key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClusterName(DnsLabel);

impl std::str::FromStr for ClusterName {
    type Err = DnsNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What the keys of consul-bootstrapper begin with: `/colossus/consul/<cluster>/`.
pub fn consul_prefix(cluster: &ClusterName) -> String {
    format!("/colossus/consul/{cluster}/")
}

/// What the keys of vip-keeper begin with: `/colossus/vip/<cluster>/`.
pub fn vip_prefix(cluster: &ClusterName) -> String {
    format!("/colossus/vip/{cluster}/")
}
