//! What the cluster has agreed on: one record in etcd, changed by compare-and-swap only.
//!
//! Everything that must be decided once (who is a server, whether the cluster was ever bootstrapped) is in this one
//! value, so that a single comparison of its revision guards all of it.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use contract::DnsLabel;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The format this program writes, and the only one it reads.
pub const RECORD_VERSION: u32 = 1;

/// Names one Consul cluster for all its life: a new cluster gets a new one, also under the same name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterId(String);

impl ClusterId {
    /// From 16 random bytes.
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for ClusterId {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// How far the holder of a slot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlotState {
    /// It is, or will be, a server without a vote. While one slot is in this state no other is given away.
    Joining,
    /// It was seen voting.
    Voter,
}

/// The right to be a Consul server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// Who holds it.
    pub node: DnsLabel,
    /// The address its server is reached at.
    pub address: IpAddr,
    /// How far it is.
    pub state: SlotState,
}

/// What all nodes have agreed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// [`RECORD_VERSION`].
    pub version: u32,
    /// Which cluster this is.
    pub id: ClusterId,
    /// How many slots there are: 1 to 7.
    pub servers: u8,
    /// Whether this cluster ever had a leader. From then on no server is told to bootstrap.
    pub bootstrapped: bool,
    /// Whether those who hold the slots have begun to bootstrap together. From then on no slot changes hands until they
    /// have.
    #[serde(default)]
    pub sealed: bool,
    /// The slots that are taken, in the order in which they were.
    pub slots: Vec<Slot>,
    /// Nodes an operator has decommissioned: they leave, and do not come back by themselves.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub leaving: BTreeSet<DnsLabel>,
    /// Raised by an operator to restart every Consul, one after the other.
    #[serde(default)]
    pub restart: u64,
}

/// Why a record cannot be one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RecordProblem {
    /// Another format.
    #[error("it has format {found}, this program knows {RECORD_VERSION}: run the same version everywhere")]
    Version {
        /// What was found.
        found: u32,
    },
    /// No possible number of slots.
    #[error("it has {found} server slots, 1 to 7 are possible")]
    Servers {
        /// What was found.
        found: u8,
    },
    /// More taken than there are.
    #[error("{taken} of {servers} server slots are taken")]
    TooManySlots {
        /// Slots taken.
        taken: usize,
        /// Slots there are.
        servers: u8,
    },
    /// One node or address in two slots.
    #[error("two server slots are held by {holder}")]
    TwoSlots {
        /// The node or address.
        holder: String,
    },
}

impl ClusterRecord {
    /// A cluster nobody belongs to.
    pub fn new(id: ClusterId, servers: u8) -> Self {
        Self {
            version: RECORD_VERSION,
            id,
            servers,
            bootstrapped: false,
            sealed: false,
            slots: Vec::new(),
            leaving: BTreeSet::new(),
            restart: 0,
        }
    }

    /// Whether the record can be what this program wrote.
    ///
    /// # Errors
    /// The first thing that cannot.
    pub fn check(&self) -> Result<(), RecordProblem> {
        if self.version != RECORD_VERSION {
            return Err(RecordProblem::Version { found: self.version });
        }
        if !(1..=7).contains(&self.servers) {
            return Err(RecordProblem::Servers { found: self.servers });
        }
        if self.slots.len() > usize::from(self.servers) {
            return Err(RecordProblem::TooManySlots {
                taken: self.slots.len(),
                servers: self.servers,
            });
        }
        let (mut nodes, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        for slot in &self.slots {
            if !nodes.insert(&slot.node) {
                return Err(RecordProblem::TwoSlots {
                    holder: slot.node.to_string(),
                });
            }
            if !addresses.insert(slot.address) {
                return Err(RecordProblem::TwoSlots {
                    holder: slot.address.to_string(),
                });
            }
        }
        Ok(())
    }

    /// The slot that `node` holds.
    pub fn slot(&self, node: &DnsLabel) -> Option<&Slot> {
        self.slots.iter().find(|slot| slot.node == *node)
    }

    /// Whether every slot is taken.
    pub fn is_full(&self) -> bool {
        self.slots.len() >= usize::from(self.servers)
    }

    /// Whether every slot that is taken, leaving `except` out, has a vote: only then may another one change hands.
    pub fn all_voting_except(&self, except: &DnsLabel) -> bool {
        self.slots
            .iter()
            .all(|slot| slot.node == *except || slot.state == SlotState::Voter)
    }

    /// How many servers must agree: more than half of the slots that are taken.
    pub fn quorum(&self) -> usize {
        self.slots.len() / 2 + 1
    }

    /// The record with `slot` in the place of what its node held, or added.
    ///
    /// An address serves one node. Who is said to be at this one has moved, too, and will say where to: until then it
    /// gets the address that becomes free, or, if none does, loses its slot.
    #[must_use]
    pub fn with_slot(&self, slot: Slot) -> Self {
        let mut next = self.clone();
        let before = self.slot(&slot.node).map(|held| held.address);
        if let Some(other) = next
            .slots
            .iter_mut()
            .find(|other| other.node != slot.node && other.address == slot.address)
            && let Some(before) = before
        {
            other.address = before;
        }
        next.slots
            .retain(|other| other.node == slot.node || other.address != slot.address);
        match next.slots.iter_mut().find(|other| other.node == slot.node) {
            Some(held) => *held = slot,
            None => next.slots.push(slot),
        }
        next
    }

    /// The record with the slot of `node` free.
    #[must_use]
    pub fn without_slot(&self, node: &DnsLabel) -> Self {
        let mut next = self.clone();
        next.slots.retain(|slot| slot.node != *node);
        next
    }
}
