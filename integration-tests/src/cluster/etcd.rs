//! Which member leads etcd: what a host does to it depends on that.

use futures_util::future::join_all;
use serde_json::Value;

use super::ready::wait_for;
use super::{Cluster, Node, SHORT};

/// A member, as it says of itself.
struct Member {
    id: u64,
    leader: u64,
}

impl Node {
    /// Runs etcdctl against its member.
    ///
    /// # Errors
    /// With all it printed, when it fails.
    pub async fn etcdctl(&self, arguments: &[&str]) -> Result<String, String> {
        let etcdctl = "docker exec -e ETCDCTL_API=3 etcd etcdctl --command-timeout=3s";
        let command: Vec<&str> = etcdctl.split(' ').chain(arguments.iter().copied()).collect();
        self.exec(&command).await
    }

    async fn etcd_member(&self) -> Result<Member, String> {
        let told = self.etcdctl(&["endpoint", "status", "-w", "json"]).await?;
        let all: Value = serde_json::from_str(&told).map_err(|error| format!("{error}: {told}"))?;
        let status = &all[0]["Status"];
        match (status["header"]["member_id"].as_u64(), status["leader"].as_u64()) {
            (Some(id), Some(leader)) => Ok(Member { id, leader }),
            _ => Err(format!("{} says of its etcd: {told}", self.hostname())),
        }
    }
}

impl Cluster {
    /// The number of the node whose member leads etcd.
    ///
    /// # Errors
    /// When nobody says of itself that it leads, or several do.
    pub async fn etcd_leader(&self) -> Result<usize, String> {
        let members = join_all(self.etcd_members().iter().map(Node::etcd_member)).await;
        let leaders: Vec<usize> = self
            .etcd_members()
            .iter()
            .zip(&members)
            .filter(|(_, member)| member.as_ref().is_ok_and(|member| member.id == member.leader))
            .map(|(node, _)| node.number())
            .collect();
        match leaders[..] {
            [leader] => Ok(leader),
            _ => Err(format!("etcd is led by the members of {leaders:?}")),
        }
    }

    /// Makes the member of this node lead etcd.
    ///
    /// # Errors
    /// When it does not within 30 s.
    pub async fn lead_etcd(&self, node: usize) -> Result<(), String> {
        let led = || async {
            let leader = self.etcd_leader().await?;
            if leader == node {
                return Ok(());
            }
            let wanted = self.node(node).etcd_member().await?;
            let id = format!("{:x}", wanted.id);
            self.node(leader).etcdctl(&["move-leader", &id]).await?;
            Err(format!("n{leader} leads"))
        };
        wait_for(&format!("n{node} leads etcd"), SHORT, led).await
    }
}
