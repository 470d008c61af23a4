//! Who keeps an address: vip-keeper, or keepalived beside it on the same hosts for comparison.

use std::fmt::{self, Display, Formatter};
use std::net::Ipv4Addr;
use std::time::Duration;

use futures_util::future::try_join_all;

use crate::cluster::{Cluster, KEEPER, Node};

/// A program that keeps virtual IPs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Daemon {
    /// Ours.
    Keeper,
    /// Debian's package of keepalived with its defaults (VRRP, an advertisement each second), and priorities 100, 90, 80.
    Keepalived,
}

/// How long one that was started may take.
const WITHIN: Duration = Duration::from_secs(60);

impl Daemon {
    /// Its unit.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Keeper => KEEPER,
            Self::Keepalived => "keepalived",
        }
    }

    /// The addresses that it keeps.
    pub fn vips(self, cluster: &Cluster) -> Vec<Ipv4Addr> {
        match self {
            Self::Keeper => cluster.vips(),
            Self::Keepalived => vec![cluster.subnet().other_vip()],
        }
    }

    /// Makes it run on every host; only keepalived needs that.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn install(self, cluster: &Cluster) -> Result<(), String> {
        if self == Self::Keeper {
            return Ok(());
        }
        let each = cluster.nodes().iter().map(|node| async move {
            let configuration = keepalived_conf(node, cluster.subnet().other_vip());
            let write = ["sh", "-c", "cat >/etc/keepalived/keepalived.conf"];
            node.exec_with_input(&write, configuration.as_bytes()).await?;
            node.exec(&["systemctl", "enable", "-q", "--now", "keepalived"])
                .await
        });
        try_join_all(each).await.map(drop)
    }

    /// Waits until it runs on every host, ready to take over.
    ///
    /// # Errors
    /// With the last complaint.
    pub async fn until_ready(self, cluster: &Cluster) -> Result<(), String> {
        match self {
            Self::Keeper => cluster.until_vips_held(WITHIN).await,
            Self::Keepalived => {
                let starts = cluster.nodes().iter().map(|node| self.start(node));
                try_join_all(starts).await.map(drop)
            }
        }
    }

    /// Sends a signal to all of its processes on a host.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn signal(self, node: &Node, signal: &str) -> Result<(), String> {
        match self {
            Self::Keeper => node.kill_process("vip-keeper", signal).await,
            Self::Keepalived => {
                node.exec(&["systemctl", "kill", "-s", signal, self.unit()])
                    .await?;
            }
        }
        Ok(())
    }

    /// Starts it, unless it runs.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(self, node: &Node) -> Result<(), String> {
        node.exec(&["systemctl", "start", self.unit()]).await.map(drop)
    }

    /// Stops it in good order.
    ///
    /// # Errors
    /// When it does not stop.
    pub async fn stop(self, node: &Node) -> Result<(), String> {
        node.exec(&["systemctl", "stop", self.unit()]).await.map(drop)
    }

    /// Moves what `from` holds to another host, as an operator does: vip-keeper is told to, keepalived is stopped.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn hand_over(self, from: &Node, to: &Node) -> Result<(), String> {
        match self {
            Self::Keeper => from
                .exec(&[
                    "docker",
                    "exec",
                    "vip-keeper",
                    "/bin/vip-keeper",
                    "hand-over",
                    "--to",
                    &to.hostname(),
                ])
                .await
                .map(drop),
            Self::Keepalived => self.stop(from).await,
        }
    }
}

impl Display for Daemon {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keeper => "vip-keeper",
            Self::Keepalived => "keepalived",
        })
    }
}

/// What there must be; all else is keepalived's default.
fn keepalived_conf(node: &Node, vip: Ipv4Addr) -> String {
    let priority = 110 - 10 * node.number();
    format!(
        "vrrp_instance test_bed {{\n  interface eth0\n  virtual_router_id 51\n  priority {priority}\n  \
         virtual_ipaddress {{\n    {vip}\n  }}\n}}\n"
    )
}
