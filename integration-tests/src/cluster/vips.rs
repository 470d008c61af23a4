//! The virtual IPs of a cluster, as vip-keeper tells of them.

use std::net::Ipv4Addr;
use std::time::Duration;

use futures_util::future::try_join_all;
use serde_json::Value;

use super::ready::wait_for;
use super::{Cluster, Node};

/// vip-keeper's unit. Its container is `vip-keeper`.
pub const KEEPER: &str = "vip-keeper@1";

/// The port on the loopback address where vip-keeper tells of itself.
pub const KEEPER_ADMIN: u16 = 9104;

/// What a node's vip-keeper says of one virtual IP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VipStatus {
    /// Its name: the address, where it was given no other.
    pub name: String,
    /// Whether this node holds it.
    pub holds: bool,
    /// Whether this node could take it: its proxy is well, its link is up.
    pub healthy: bool,
    /// Which node holds it, as the record says.
    pub owner: Option<String>,
    /// How often it has changed hands.
    pub epoch: Option<u64>,
}

impl Node {
    /// Asks its vip-keeper.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn vips(&self) -> Result<Vec<VipStatus>, String> {
        let status = self.local_json(KEEPER_ADMIN, "/status").await?;
        let vips = status["vips"].as_array().cloned().unwrap_or_default();
        Ok(vips
            .iter()
            .map(|vip| VipStatus {
                name: vip["name"].as_str().unwrap_or_default().to_owned(),
                holds: vip["holds"] == true,
                healthy: vip["healthy"] == true,
                owner: vip["record"]["owner"].as_str().map(str::to_owned),
                epoch: vip["epoch"].as_u64(),
            })
            .collect())
    }

    /// Whether its vip-keeper could take every address, and knows of as many others that could.
    async fn keeper_ready(&self, keepers: usize) -> Result<(), String> {
        self.local(KEEPER_ADMIN, "/ready").await?;
        let status = self.local_json(KEEPER_ADMIN, "/status").await?;
        let all = |list: &Value, is_so: &dyn Fn(&Value) -> bool| {
            list.as_array()
                .is_some_and(|list| !list.is_empty() && list.iter().all(is_so))
        };
        let names = status["vips"].as_array().map_or(0, Vec::len);
        let can_take_all = |keeper: &Value| keeper["ready"].as_array().map_or(0, Vec::len) == names;
        let known = status["keepers"].as_array().map_or(0, Vec::len);
        if all(&status["vips"], &|vip| vip["healthy"] == true)
            && known == keepers
            && all(&status["keepers"], &can_take_all)
        {
            Ok(())
        } else {
            Err(format!(
                "{}: not every keeper is ready: {status}",
                self.hostname()
            ))
        }
    }
}

impl Cluster {
    /// Its virtual IPs.
    pub fn vips(&self) -> Vec<Ipv4Addr> {
        self.subnet().vips(self.options().vips)
    }

    /// The number of the one node that holds this virtual IP, as all nodes' keepers say.
    ///
    /// # Errors
    /// When one does not answer, or not exactly one holds it.
    pub async fn vip_holder(&self, vip: Ipv4Addr) -> Result<usize, String> {
        let all = try_join_all(self.nodes().iter().map(Node::vips)).await?;
        let name = vip.to_string();
        let holds = |vips: &[VipStatus]| vips.iter().any(|vip| vip.name == name && vip.holds);
        let holders: Vec<usize> = self
            .nodes()
            .iter()
            .zip(&all)
            .filter(|(_, vips)| holds(vips))
            .map(|(node, _)| node.number())
            .collect();
        match holders[..] {
            [holder] => Ok(holder),
            _ => Err(format!("{vip} is held by {holders:?}: {all:?}")),
        }
    }

    /// Waits until every node's vip-keeper is ready to take over, and each virtual IP has one holder.
    ///
    /// # Errors
    /// With the last complaint.
    pub async fn until_vips_held(&self, within: Duration) -> Result<(), String> {
        let held = || async {
            let keepers = self.nodes().len();
            try_join_all(self.nodes().iter().map(|node| node.keeper_ready(keepers))).await?;
            try_join_all(self.vips().into_iter().map(|vip| self.vip_holder(vip)))
                .await
                .map(drop)
        };
        wait_for("each virtual IP has one holder", within, held).await
    }
}
