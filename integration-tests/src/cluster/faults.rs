//! Cut cables. Whoever should receive drops every frame with the sender's MAC address, so that nothing passes: not IP, not
//! a virtual address that moves, not ARP.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

use futures_util::future::join_all;

use super::command::{SHORT, docker};
use super::{Cluster, Node, State};

/// Which directions are cut: from one node to another.
pub(crate) type Cuts = Mutex<BTreeSet<(usize, usize)>>;

impl Cluster {
    /// Cuts one direction: what `from` sends does not reach `to`. What `to` sends still reaches `from`. Stays so over a
    /// boot of either.
    ///
    /// # Panics
    /// When `to` is frozen.
    pub async fn cut(&self, from: usize, to: usize) {
        self.change(|cuts| {
            cuts.insert((from, to));
        })
        .await;
    }

    /// Cuts both directions between a node and all others. This machine still reaches it.
    ///
    /// # Panics
    /// When one of them is frozen.
    pub async fn cut_off(&self, node: usize) {
        let others: Vec<usize> = self
            .nodes()
            .iter()
            .map(Node::number)
            .filter(|n| *n != node)
            .collect();
        self.change(|cuts| {
            for other in others {
                cuts.extend([(node, other), (other, node)]);
            }
        })
        .await;
    }

    /// Mends all that is cut.
    ///
    /// # Panics
    /// When a node on which something is cut is frozen.
    pub async fn heal_all(&self) {
        self.change(BTreeSet::clear).await;
    }

    async fn change(&self, change: impl FnOnce(&mut BTreeSet<(usize, usize)>)) {
        let (before, now) = {
            let mut cuts = self.cuts.lock().unwrap_or_else(PoisonError::into_inner);
            let before = cuts.clone();
            change(&mut cuts);
            (before, cuts.clone())
        };
        let senders = |cuts: &BTreeSet<(usize, usize)>, to: usize| -> Vec<usize> {
            cuts.iter().filter(|cut| cut.1 == to).map(|cut| cut.0).collect()
        };
        let changes = self.nodes().iter().filter_map(|node| {
            let to = senders(&now, node.number());
            (to != senders(&before, node.number())).then(|| self.apply(node, to))
        });
        for applied in join_all(changes).await {
            applied.unwrap_or_else(|error| panic!("{error}"));
        }
    }

    async fn apply(&self, node: &Node, senders: Vec<usize>) -> Result<(), String> {
        let macs: Vec<String> = senders
            .into_iter()
            .map(|sender| self.node(sender).mac())
            .collect();
        // Read by entry.sh at each boot.
        let file = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
        std::fs::write(file.path(), rules(&macs)).map_err(|error| error.to_string())?;
        let source = file.path().to_string_lossy();
        let destination = format!("{}:/test-bed/cuts.nft", node.container());
        docker(&["cp", &source, &destination], SHORT).await?;
        match node.state().await? {
            State::On => node.exec(&["nft", "-f", "/test-bed/cuts.nft"]).await.map(drop),
            State::Off => Ok(()),
            State::Frozen => Err(format!(
                "{} is frozen: its cables cannot be changed",
                node.hostname()
            )),
        }
    }
}

/// What a node drops, in place of what it dropped before.
fn rules(senders: &[String]) -> String {
    let mut rules = String::new();
    for family in ["inet", "arp"] {
        let _ = writeln!(
            rules,
            "table {family} test_bed_cut {{}}\ndelete table {family} test_bed_cut"
        );
    }
    if !senders.is_empty() {
        let senders = senders.join(", ");
        let _ = write!(
            rules,
            "table inet test_bed_cut {{\n  chain in {{ type filter hook prerouting priority -310; ether saddr {{ {senders} }} drop; }}\n}}\n\
             table arp test_bed_cut {{\n  chain in {{ type filter hook input priority 0; arp saddr ether {{ {senders} }} drop; }}\n}}\n",
        );
    }
    rules
}
