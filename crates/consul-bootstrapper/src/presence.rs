//! Making this node known to the others, under a lease that ends with it, and finding out whether it is the one it
//! says it is.

use std::collections::BTreeMap;
use std::time::Duration;

use contract::DnsLabel;
use etcd::{Cas, KeyValue, LeaseId};
use tokio::time::Instant;

use crate::error::Error;
use crate::keys::Keys;
use crate::observed::{Contest, Presence};

/// A node as etcd shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What it says.
    pub presence: Presence,
    /// When its key was made: who was first.
    pub create_revision: i64,
}

/// Keeps this node's key, and refuses to once another proved to be first.
#[derive(Debug)]
pub struct Registration {
    client: etcd::Client,
    key: String,
    ttl: Duration,
    /// Under which instance an earlier process of this node was known.
    earlier: Option<String>,
    held: Option<Held>,
    contest: Option<(Contest, Instant)>,
    refused: Option<Contest>,
}

#[derive(Debug)]
struct Held {
    presence: Presence,
    lease: LeaseId,
    mod_revision: i64,
}

impl Registration {
    /// A node that is not known yet.
    pub fn new(
        client: etcd::Client,
        keys: &Keys,
        node: &DnsLabel,
        ttl: Duration,
        earlier: Option<String>,
    ) -> Self {
        Self {
            client,
            key: keys.node(node),
            ttl,
            earlier,
            held: None,
            contest: None,
            refused: None,
        }
    }

    /// Why this node is refused, for good.
    pub fn refused(&self) -> Option<&Contest> {
        self.refused.as_ref()
    }

    /// Makes the node known as `mine` says under `lease`; what stands against it, if anything.
    ///
    /// A key that another process holds is waited out: an earlier one of this node ends with its lease. One that is
    /// still there after that is another host, and this one is refused until it is started again.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub async fn claim(&mut self, mine: &Presence, lease: LeaseId) -> Result<Option<Contest>, Error> {
        if let Some(contest) = &self.refused {
            return Ok(Some(contest.clone()));
        }
        let unchanged = |held: &Held| held.presence == *mine && held.lease == lease;
        if self.held.as_ref().is_some_and(unchanged) {
            return Ok(None);
        }
        let value = serde_json::to_vec(mine).map_err(Error::Encode)?;
        let written = match &self.held {
            Some(held) => {
                self.client
                    .replace(&self.key, value.clone(), held.mod_revision, Some(lease))
                    .await
            }
            None => self.client.create(&self.key, value.clone(), Some(lease)).await,
        };
        match written.map_err(Error::Presence)? {
            Cas::Done { revision } => self.hold(mine, lease, revision),
            // It ended with its lease: the next run makes it anew.
            Cas::Conflict(None) => self.held = None,
            Cas::Conflict(Some(other)) => {
                self.held = None;
                let Some(contest) = self.rival(mine, &other) else {
                    let replaced = self
                        .client
                        .replace(&self.key, value, other.mod_revision, Some(lease))
                        .await
                        .map_err(Error::Presence)?;
                    if let Cas::Done { revision } = replaced {
                        self.hold(mine, lease, revision);
                    }
                    return Ok(None);
                };
                return Ok(Some(self.contested(contest)));
            }
        }
        Ok(None)
    }

    fn hold(&mut self, mine: &Presence, lease: LeaseId, mod_revision: i64) {
        self.held = Some(Held {
            presence: mine.clone(),
            lease,
            mod_revision,
        });
    }

    /// What holds the key, if it is not an earlier process of this very node. What nobody of ours wrote is replaced.
    fn rival(&self, mine: &Presence, other: &KeyValue) -> Option<Contest> {
        let theirs: Presence = serde_json::from_slice(&other.value).ok()?;
        let own = theirs.instance == mine.instance || self.earlier.as_ref() == Some(&theirs.instance);
        let same = own && theirs.host == mine.host && theirs.address == mine.address;
        (!same && other.lease.is_some()).then_some(Contest::Name {
            address: theirs.address,
        })
    }

    /// Looks for a live node that was first to have what must be this node's alone.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub async fn compare(
        &mut self,
        nodes: &BTreeMap<DnsLabel, Seen>,
        mine: &Presence,
    ) -> Result<Option<Contest>, Error> {
        let Some(own) = nodes.get(&mine.node) else {
            return Ok(None);
        };
        let Some(contest) = first_claimant(nodes, own) else {
            self.contest = None;
            return Ok(None);
        };
        let contest = self.contested(contest);
        if self.refused.is_some()
            && let Some(held) = self.held.take()
        {
            let _ = self
                .client
                .delete_if(&self.key, held.mod_revision)
                .await
                .map_err(Error::Presence)?;
        }
        Ok(Some(contest))
    }

    /// A contest lasts: what an earlier life has left behind ends with its lease.
    fn contested(&mut self, contest: Contest) -> Contest {
        let since = match &self.contest {
            Some((before, since)) if *before == contest => *since,
            _ => Instant::now(),
        };
        if since.elapsed() > self.ttl.saturating_mul(2) {
            self.refused = Some(contest.clone());
        }
        self.contest = Some((contest.clone(), since));
        contest
    }

    /// The node's key is gone: the next claim makes it anew.
    pub fn forget(&mut self) {
        self.held = None;
    }
}

/// The live node that was there before `own` and has its machine, its Consul data or its address.
fn first_claimant(nodes: &BTreeMap<DnsLabel, Seen>, own: &Seen) -> Option<Contest> {
    let mine = &own.presence;
    nodes
        .values()
        .filter(|other| other.presence.node != mine.node && other.create_revision < own.create_revision)
        .find_map(|other| {
            let theirs = &other.presence;
            let (node, address) = (theirs.node.clone(), theirs.address);
            if theirs.host == mine.host {
                Some(Contest::Machine { node, address })
            } else if mine.consul_id.is_some() && theirs.consul_id == mine.consul_id {
                Some(Contest::ConsulData { node, address })
            } else if theirs.address == mine.address {
                Some(Contest::Address { node, address })
            } else {
                None
            }
        })
}
