//! What the client asks for: a service with an instance on each host.

use std::time::Duration;

use futures_util::future::try_join_all;

use crate::cluster::{Cluster, wait_for};
use crate::docker::unique;

/// How long it may take until every host's HAProxy answers for it.
const WITHIN: Duration = Duration::from_secs(60);

/// A service with an instance on each host that comes back with it.
#[derive(Debug)]
pub struct Service {
    name: String,
    host: String,
}

impl Service {
    /// Starts it.
    ///
    /// # Panics
    /// When a container does not start.
    pub async fn start(cluster: &Cluster) -> Self {
        let name = unique("vip");
        for node in cluster.nodes() {
            node.example(&name, &["--name", &name, "--restart", "always"])
                .await;
        }
        Self {
            host: cluster.host(&name),
            name,
        }
    }

    /// Its host name.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Waits until every host's HAProxy answers for it.
    ///
    /// # Errors
    /// With the last complaint.
    pub async fn until_served(&self, cluster: &Cluster) -> Result<(), String> {
        let served = || async {
            let each = cluster.nodes().iter().map(|node| async {
                match node.get(&self.host, "/").await?.status {
                    200 => Ok(()),
                    status => Err(format!("{}: {status}", node.hostname())),
                }
            });
            try_join_all(each).await.map(drop)
        };
        wait_for(&format!("{} is served by every host", self.host), WITHIN, served).await
    }

    /// Removes it from hosts that are on.
    pub async fn remove(&self, cluster: &Cluster) {
        for node in cluster.nodes() {
            // One that is off keeps its container; the cluster's end takes it.
            let _ = node.exec(&["docker", "rm", "-f", &self.name]).await;
        }
    }
}
