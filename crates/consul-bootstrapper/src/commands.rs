//! What an operator does: recover, decommission, restart, snapshots. Each reads etcd afresh, and changes the record as the
//! nodes do, by compare-and-swap; the nodes then act on it.

use std::io::Write;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use contract::DnsLabel;
use daemon::RunError;
use etcd::Cas;
use thiserror::Error;
use tokio::time::{Instant, sleep};

use crate::args::SnapshotCommand;
use crate::cluster_view::ClusterView;
use crate::files::{FileError, Files};
use crate::keys::Keys;
use crate::observed::{Data, RecordView};
use crate::record::{ClusterId, ClusterRecord, Slot, SlotState};
use crate::secrets::random;

/// How often another's write may come in between before we give up.
const TRIES: usize = 16;
/// How often to look whether something has come about.
const POLL: Duration = Duration::from_millis(250);
/// How long Consul may take to lead alone after a recovery.
const RECOVERY: Duration = Duration::from_secs(90);
/// How long a snapshot may take, either way.
const SNAPSHOT: Duration = Duration::from_secs(600);
/// The port of Consul's servers among themselves.
const SERVER_PORT: u16 = 8300;

/// Why a command did nothing, or did not come to its end.
#[derive(Debug, Error)]
pub enum CommandError {
    /// etcd.
    #[error("cannot ask etcd")]
    Etcd(#[source] etcd::Error),
    /// Nothing is agreed on.
    #[error("etcd knows no Consul cluster at {key}: see --etcd and --cluster")]
    NoRecord {
        /// The record's key.
        key: String,
    },
    /// What is agreed on cannot be read.
    #[error("the cluster's record cannot be read: {0}")]
    Unreadable(String),
    /// Others wrote all the time.
    #[error("the cluster's record was changed by others {TRIES} times in a row: try again")]
    Contended,
    /// The record cannot be written down.
    #[error("cannot write the cluster's record as JSON")]
    Encode(#[source] serde_json::Error),
    /// The command does not fit how things stand.
    #[error("{0}")]
    Refused(String),
    /// A file of this node.
    #[error(transparent)]
    File(#[from] FileError),
    /// Consul.
    #[error("cannot ask Consul")]
    Consul(#[source] consul::Error),
    /// A snapshot's file.
    #[error("cannot use {path}")]
    SnapshotFile {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It has not come about in time.
    #[error("{what} has not come about within {}; see `consul-bootstrapper status`, on {node} if it is another node", humantime::format_duration(*waited))]
    Timeout {
        /// What was waited for.
        what: String,
        /// Which node must do it.
        node: DnsLabel,
        /// For how long.
        waited: Duration,
    },
    /// Random bytes.
    #[error("cannot draw an ID for the new cluster")]
    Random(#[source] Box<crate::error::Error>),
}

/// What commands work with.
#[derive(Debug)]
pub struct Operator {
    /// This node.
    pub node: DnsLabel,
    /// etcd.
    pub etcd: etcd::Client,
    /// The local Consul.
    pub consul: consul::Client,
    /// etcd's keys.
    pub keys: Keys,
    /// Files of this node.
    pub files: Files,
}

impl Operator {
    async fn view(&self) -> Result<ClusterView, CommandError> {
        let listing = self
            .etcd
            .list(self.keys.prefix())
            .await
            .map_err(CommandError::Etcd)?;
        Ok(ClusterView::read(&self.keys, &listing))
    }

    fn record(&self, view: &ClusterView) -> Result<ClusterRecord, CommandError> {
        match &view.record {
            RecordView::Present(record) => Ok(record.clone()),
            RecordView::Absent => Err(CommandError::NoRecord {
                key: self.keys.record(),
            }),
            RecordView::Unreadable(reason) => Err(CommandError::Unreadable(reason.clone())),
        }
    }

    /// Changes the record, as often as it takes until nobody was in between.
    async fn edit(
        &self,
        change: impl Fn(&ClusterRecord, &ClusterView) -> Result<ClusterRecord, CommandError>,
    ) -> Result<ClusterRecord, CommandError> {
        for _ in 0..TRIES {
            let view = self.view().await?;
            let record = self.record(&view)?;
            let next = change(&record, &view)?;
            if next == record {
                return Ok(next);
            }
            let value = serde_json::to_vec(&next).map_err(CommandError::Encode)?;
            let written = self
                .etcd
                .replace(&self.keys.record(), value, view.record_revision, None)
                .await
                .map_err(CommandError::Etcd)?;
            if let Cas::Done { .. } = written {
                return Ok(next);
            }
        }
        Err(CommandError::Contended)
    }

    /// See [`crate::args::Command::Recover`].
    ///
    /// The cluster goes on under another ID. Should those that were called lost come back with their data, all the same, it
    /// is the data of another cluster, and refused: two of them together would be a quorum by what they know.
    ///
    /// # Errors
    /// When the cluster has a leader, this host has no data, or a server called lost has its data.
    pub async fn recover(&self, lost: &[DnsLabel]) -> Result<(), CommandError> {
        let view = self.view().await?;
        let record = self.record(&view)?;
        self.no_leader().await?;
        let data = self.files.data()?;
        let cut_short = self.is_cut_short(&record, &data);
        if !data.is_server_of(&record.id) && !cut_short {
            return refused(format!(
                "this host ({}) has no data of the cluster's servers: run it on one that has, see the `nodes` of \
                 `consul-bootstrapper status`",
                self.node
            ));
        }
        for slot in record.slots.iter().filter(|slot| slot.node != self.node) {
            check_lost(&record, &view, lost, slot)?;
        }
        let Some(address) = view.nodes.get(&self.node).map(|seen| seen.presence.address) else {
            return refused(format!(
                "{} is not known in etcd: is consul-bootstrapper running here?",
                self.node
            ));
        };
        let Some(id) = self.files.consul_id() else {
            return refused("Consul's data here has no node-id: it never ran".to_owned());
        };
        let mut cluster = record.id.clone();
        if !cut_short {
            let peers = serde_json::json!([{
                "id": id,
                "address": std::net::SocketAddr::new(address, SERVER_PORT).to_string(),
                "non_voter": false,
            }]);
            self.files.write_raft_peers(&format!("{peers:#}\n"))?;
            cluster = match self.give_up(&record.id, lost, address).await {
                Ok(record) => record.id,
                Err(error) => {
                    self.files.remove_raft_peers()?;
                    return Err(error);
                }
            };
        }
        // Last, for the record decides: until the data is marked nothing here acts on it, and to recover once more ends it.
        self.files.mark_data(&Data::Member {
            cluster,
            server: true,
        })?;
        say(&format!(
            "{} goes on alone with its data; its Consul restarts now",
            self.node
        ));
        self.wait_for(RECOVERY, "a leader", &self.node, async || self.led().await)
            .await?;
        say("Consul has a leader again; other hosts take the free server slots by themselves");
        Ok(())
    }

    /// Whether an earlier recovery on this host has changed the record, and got no further.
    fn is_cut_short(&self, record: &ClusterRecord, data: &Data) -> bool {
        let alone = matches!(record.slots.as_slice(), [slot] if slot.node == self.node && slot.state == SlotState::Voter);
        let other = matches!(data, Data::Member { cluster, server: true } if *cluster != record.id);
        alone && other && self.files.has_raft_peers()
    }

    /// Makes the record that of a cluster with this node as its only server.
    async fn give_up(
        &self,
        cluster: &ClusterId,
        lost: &[DnsLabel],
        address: IpAddr,
    ) -> Result<ClusterRecord, CommandError> {
        let id = ClusterId::from_random(random().map_err(|error| CommandError::Random(Box::new(error)))?);
        self.edit(|now, view| {
            if now.id != *cluster {
                return refused(
                    "somebody else has recovered the cluster in this moment: see `status`".to_owned(),
                );
            }
            for slot in now.slots.iter().filter(|slot| slot.node != self.node) {
                check_lost(now, view, lost, slot)?;
            }
            let mut next = now.clone();
            next.id = id.clone();
            next.slots = vec![Slot {
                node: self.node.clone(),
                address,
                state: SlotState::Voter,
            }];
            next.restart = now.restart.saturating_add(1);
            Ok(next)
        })
        .await
    }

    /// See [`crate::args::Command::Recover`].
    ///
    /// # Errors
    /// When a node has data of the cluster.
    pub async fn new_cluster(&self) -> Result<(), CommandError> {
        self.no_leader().await?;
        let id = ClusterId::from_random(random().map_err(|error| CommandError::Random(Box::new(error)))?);
        let own = self.files.data()?;
        let made = self
            .edit(|now, view| {
                let with_data = view
                    .nodes
                    .values()
                    .find(|seen| seen.presence.data.is_server_of(&now.id))
                    .map(|seen| seen.presence.node.clone())
                    .or_else(|| own.is_server_of(&now.id).then(|| self.node.clone()));
                if let Some(node) = with_data {
                    return refused(format!(
                        "{node} has data of the cluster: recover from it (`consul-bootstrapper recover --lost …` on {node}), or \
                         remove its state directory first if it is of no use"
                    ));
                }
                let mut next = ClusterRecord::new(id.clone(), now.servers);
                next.leaving.clone_from(&now.leaving);
                next.restart = now.restart;
                Ok(next)
            })
            .await?;
        say(&format!("a new cluster {} begins, with nothing in it", made.id));
        Ok(())
    }

    /// See [`crate::args::Command::Decommission`].
    ///
    /// # Errors
    /// When nobody knows the node, or it has not left in time.
    pub async fn decommission(
        &self,
        node: &DnsLabel,
        undo: bool,
        wait: Duration,
    ) -> Result<(), CommandError> {
        self.edit(|record, view| {
            let mut next = record.clone();
            if undo {
                next.leaving.remove(node);
                return Ok(next);
            }
            if record.slot(node).is_none() && !view.nodes.contains_key(node) {
                let known: Vec<_> = view.nodes.keys().map(DnsLabel::as_str).collect();
                return refused(format!(
                    "no node of this cluster is called {node}; there are: {}",
                    known.join(", ")
                ));
            }
            next.leaving.insert(node.clone());
            Ok(next)
        })
        .await?;
        if undo {
            say(&format!("{node} may take part again"));
            return Ok(());
        }
        say(&format!("{node} shall leave; waiting until it has"));
        let what = format!("that {node} has left");
        self.wait_for(wait, &what, node, async || {
            let view = self.view().await?;
            let slot = self.record(&view)?.slot(node).is_some();
            Ok(!slot && !self.alive(node).await?)
        })
        .await?;
        say(&format!(
            "{node} has left; stop its units, or take it back with --undo"
        ));
        Ok(())
    }

    /// See [`crate::args::Command::Restart`].
    ///
    /// # Errors
    /// When etcd does not answer.
    pub async fn restart(&self) -> Result<(), CommandError> {
        let record = self
            .edit(|record, _| {
                Ok(ClusterRecord {
                    restart: record.restart.saturating_add(1),
                    ..record.clone()
                })
            })
            .await?;
        say(&format!(
            "restart {} is asked for; each Consul takes its turn once all servers are healthy",
            record.restart
        ));
        Ok(())
    }

    /// See [`SnapshotCommand`].
    ///
    /// # Errors
    /// When Consul or the file cannot be used.
    pub async fn snapshot(&self, command: &SnapshotCommand) -> Result<(), CommandError> {
        match command {
            SnapshotCommand::Save { file } => self.save(file).await,
            SnapshotCommand::Restore { file } => self.restore(file).await,
        }
    }

    async fn save(&self, path: &Path) -> Result<(), CommandError> {
        let at = |source| CommandError::SnapshotFile {
            path: path.display().to_string(),
            source,
        };
        let mut open = tokio::fs::OpenOptions::new();
        open.write(true).create_new(true).mode(0o600);
        let mut file = open.open(path).await.map_err(at)?;
        let saved = match self.consul.snapshot_save(&mut file, false, SNAPSHOT).await {
            Ok(saved) => file.sync_all().await.map(|()| saved).map_err(at),
            Err(error) => Err(CommandError::Consul(error)),
        };
        match saved {
            Ok(info) => {
                say(&format!(
                    "{}: Consul's data at raft index {}, {} bytes",
                    path.display(),
                    info.index,
                    info.archive_size
                ));
                Ok(())
            }
            Err(error) => {
                // A part of a snapshot must not look like one.
                let _ = tokio::fs::remove_file(path).await;
                Err(error)
            }
        }
    }

    async fn restore(&self, path: &Path) -> Result<(), CommandError> {
        let open = async || {
            tokio::fs::File::open(path)
                .await
                .map_err(|source| CommandError::SnapshotFile {
                    path: path.display().to_string(),
                    source,
                })
        };
        consul::verify_snapshot(&mut open().await?)
            .await
            .map_err(CommandError::Consul)?;
        self.consul
            .snapshot_restore(open().await?, SNAPSHOT)
            .await
            .map_err(CommandError::Consul)?;
        say(&format!("Consul's data is now that of {}", path.display()));
        Ok(())
    }

    async fn no_leader(&self) -> Result<(), CommandError> {
        if self.led().await? {
            return refused(
                "Consul has a leader: there is nothing to recover. To take a node out, use `decommission`"
                    .to_owned(),
            );
        }
        Ok(())
    }

    /// Whether the local Consul knows a leader; one that does not answer knows none.
    async fn led(&self) -> Result<bool, CommandError> {
        Ok(self.consul.leader().await.is_ok_and(|leader| leader.is_some()))
    }

    /// Whether gossip, or on the node itself its permit, says that `node` takes part.
    async fn alive(&self, node: &DnsLabel) -> Result<bool, CommandError> {
        if *node == self.node {
            return Ok(self.files.permitted().is_some());
        }
        let members = self
            .consul
            .agent_members(false)
            .await
            .map_err(CommandError::Consul)?;
        Ok(members
            .iter()
            .any(|member| member.name == node.as_str() && member.status == consul::MemberStatus::Alive))
    }

    async fn wait_for(
        &self,
        within: Duration,
        what: &str,
        node: &DnsLabel,
        mut condition: impl AsyncFnMut() -> Result<bool, CommandError>,
    ) -> Result<(), CommandError> {
        let began = Instant::now();
        // A passing error is waited out, too; the last one is lost, `status` tells more.
        while !condition().await.unwrap_or(false) {
            if began.elapsed() >= within {
                return Err(CommandError::Timeout {
                    what: what.to_owned(),
                    node: node.clone(),
                    waited: within,
                });
            }
            sleep(POLL).await;
        }
        Ok(())
    }
}

/// Whether the holder of `slot` may be given up: the operator says so, and it is not there with its data.
fn check_lost(
    record: &ClusterRecord,
    view: &ClusterView,
    lost: &[DnsLabel],
    slot: &Slot,
) -> Result<(), CommandError> {
    if !lost.contains(&slot.node) {
        return refused(format!(
            "{} is a server, too, and is not said to be lost: bring it back, or name it in --lost",
            slot.node
        ));
    }
    let here = view.nodes.get(&slot.node).map(|seen| &seen.presence.data);
    if here.is_some_and(|data: &Data| data.is_server_of(&record.id)) {
        return refused(format!(
            "{} is here with its data: it is not lost. Should its data be of no use, stop consul-bootstrapper there first",
            slot.node
        ));
    }
    Ok(())
}

fn refused<T>(reason: String) -> Result<T, CommandError> {
    Err(CommandError::Refused(reason))
}

/// To whoever typed the command.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

impl From<CommandError> for RunError {
    fn from(error: CommandError) -> Self {
        Self::failed(error)
    }
}
