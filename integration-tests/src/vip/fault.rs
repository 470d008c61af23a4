//! What can happen to the holder of an address, and how it is undone.

use futures_util::future::try_join_all;

use super::Daemon;
use crate::cluster::{Cluster, Node, State};

/// Which frames are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// What the holder sends to the others.
    Out,
    /// What the others send to the holder.
    In,
    /// Both.
    Both,
}

/// Something that happens to the holder of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// None.
    Nothing,
    /// Its power is cut.
    PowerCut,
    /// It is shut down in good order.
    Shutdown,
    /// All of it freezes, its kernel too; and goes on.
    Freeze,
    /// Its cable to the other hosts is cut; the client reaches it still.
    Cut(Direction),
    /// The daemon's processes are killed (SIGKILL).
    KillDaemon,
    /// The daemon's processes are stopped (SIGSTOP), and go on (SIGCONT).
    StopDaemon,
    /// The daemon is told to move what it holds.
    HandOver,
    /// The daemon's unit is stopped in good order.
    StopUnit,
    /// HAProxy is killed (SIGKILL); its unit starts it again.
    KillProxy,
    /// HAProxy's unit is stopped.
    StopProxy,
    /// The address is removed by hand.
    RemoveAddress,
    /// The member of etcd on the holder's host is stopped.
    StopEtcd,
    /// The member that leads etcd is restarted.
    RestartEtcdLeader,
    /// The members of etcd on the other hosts are stopped: no quorum.
    StopOtherEtcds,
}

/// Where it happens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scene<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) daemon: Daemon,
    /// The number of the host that holds the address.
    pub(crate) holder: usize,
    /// The one it is handed over to.
    pub(crate) target: usize,
}

impl<'a> Scene<'a> {
    fn holder(&self) -> &'a Node {
        self.cluster.node(self.holder)
    }

    fn others(&self) -> impl Iterator<Item = &'a Node> {
        let holder = self.holder;
        self.cluster
            .nodes()
            .iter()
            .filter(move |node| node.number() != holder)
    }

    async fn cut(&self, direction: Direction) {
        if direction == Direction::Both {
            return self.cluster.cut_off(self.holder).await;
        }
        for other in self.others() {
            match direction {
                Direction::Out => self.cluster.cut(self.holder, other.number()).await,
                _ => self.cluster.cut(other.number(), self.holder).await,
            }
        }
    }

    async fn other_etcds(&self, verb: &str) -> Result<(), String> {
        let each = self
            .others()
            .map(|node| async move { node.exec(&["systemctl", verb, "etcd"]).await });
        try_join_all(each).await.map(drop)
    }
}

impl Fault {
    /// Makes it happen.
    pub(crate) async fn strike(self, scene: &Scene<'_>) -> Result<(), String> {
        let (holder, daemon) = (scene.holder(), scene.daemon);
        match self {
            Self::Nothing => {}
            Self::PowerCut => holder.power_cut().await,
            Self::Shutdown => holder.shutdown().await,
            Self::Freeze => holder.freeze().await,
            Self::Cut(direction) => scene.cut(direction).await,
            Self::KillDaemon => daemon.signal(holder, "KILL").await?,
            Self::StopDaemon => daemon.signal(holder, "STOP").await?,
            Self::HandOver => {
                daemon.hand_over(holder, scene.cluster.node(scene.target)).await?;
            }
            Self::StopUnit => daemon.stop(holder).await?,
            Self::KillProxy => holder.kill_process("haproxy", "KILL").await,
            Self::StopProxy => holder.stop_unit("haproxy").await,
            Self::RemoveAddress => {
                for vip in daemon.vips(scene.cluster) {
                    // Of several, it may hold only some.
                    let script =
                        format!("! ip -o addr show to {vip} | grep -q . || ip addr del {vip}/32 dev eth0");
                    holder.exec(&["sh", "-c", &script]).await?;
                }
            }
            Self::StopEtcd => holder.stop_unit("etcd").await,
            Self::RestartEtcdLeader => {
                let leader = scene.cluster.etcd_leader().await?;
                scene.cluster.node(leader).restart_unit("etcd").await;
            }
            Self::StopOtherEtcds => scene.other_etcds("stop").await?,
        }
        Ok(())
    }

    /// Undoes it, where it does not pass by itself.
    pub(crate) async fn undo(self, scene: &Scene<'_>) -> Result<(), String> {
        let (holder, daemon) = (scene.holder(), scene.daemon);
        match self {
            Self::PowerCut | Self::Shutdown => holder.power_on().await,
            Self::Freeze => holder.thaw().await,
            Self::Cut(_) => scene.cluster.heal_all().await,
            Self::StopDaemon => daemon.signal(holder, "CONT").await?,
            Self::KillDaemon | Self::HandOver | Self::StopUnit => daemon.start(holder).await?,
            Self::StopProxy | Self::KillProxy => holder.start_unit("haproxy").await,
            Self::Nothing | Self::RemoveAddress => {}
            Self::StopEtcd | Self::RestartEtcdLeader => holder.start_unit("etcd").await,
            Self::StopOtherEtcds => scene.other_etcds("start").await?,
        }
        if holder.state().await? != State::On {
            return Err(format!("{} is not on", holder.hostname()));
        }
        Ok(())
    }
}
