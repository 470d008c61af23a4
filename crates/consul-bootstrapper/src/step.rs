//! The decision: what one node does next, from what it sees. Pure.
//!
//! One step at a time: after each the node looks again. A step that changes the record is guarded by the record's
//! revision, so of two nodes that decide at once one is refused, and decides afresh.
//!
//! The rules that make a second cluster impossible:
//!
//! - A server is told to bootstrap (`expect`) only while the record says that the cluster never had a leader, and only
//!   once it is sealed: all slots are taken, and all who hold them were there. Slots are taken by compare-and-swap, and
//!   change hands no more once sealed, so exactly these servers expect each other.
//! - A node with data of a cluster makes every record say `bootstrapped` before it lets its Consul start.
//! - Without etcd nothing is decided: a node goes on as it was, and a node that never was anything waits.
//! - Nobody takes the slot of another before that one has been away for long, by the count of the taker, Consul has a
//!   leader, and every other slot has its vote.
//! - A server that has lost its data starts only once Consul has a leader.
//! - A server gives up its slot, and later its data, only while Consul has a leader that can do without it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use contract::DnsLabel;
use serde::Serialize;

use crate::observed::{
    AgentPlan, ConsulState, ConsulView, Contest, Data, EtcdView, Me, Mode, Observed, Peer, RecordView, Role,
};
use crate::record::{ClusterId, ClusterRecord, Slot, SlotState};

/// How long Consul may be without a leader before the loss of its quorum is stated: elections take seconds.
pub const LEADERLESS: Duration = Duration::from_secs(15);

/// How long it may be without a leader though enough servers seem to be there.
const LOST: Duration = Duration::from_secs(60);

/// Why the record changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    /// There was no record and no data: a cluster begins.
    Found,
    /// etcd has forgotten a cluster that lives in this node's data.
    Republish,
    /// A free slot is taken.
    Claim,
    /// The slot of a node that has been away for long is taken.
    TakeOver {
        /// Who held it.
        from: DnsLabel,
    },
    /// All slots are taken and all holders are there: they will bootstrap together.
    Sealed,
    /// The cluster has a leader.
    Bootstrapped,
    /// This node's server was seen voting.
    Voting,
    /// This node's server has lost its data and begins again.
    LostData,
    /// This node has another address.
    Moved {
        /// The one before.
        from: IpAddr,
    },
    /// There shall be more servers.
    Grow {
        /// How many there were.
        from: u8,
    },
    /// The slot of a node that is decommissioned, or may no longer be a server, is free.
    Free {
        /// Who held it.
        node: DnsLabel,
    },
}

/// Why a node does not let its Consul start, or lets it run on but takes part in nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "refusal", rename_all = "snake_case")]
pub enum Refusal {
    /// Another node was first to be what this one says it is.
    Contested(Contest),
    /// This host's data is of another cluster than the one in etcd.
    ForeignData {
        /// The cluster of the data.
        ours: ClusterId,
        /// The cluster in etcd.
        theirs: ClusterId,
    },
    /// The cluster was bootstrapped once, and no server has its data any more.
    AllDataLost,
    /// The record in etcd cannot be read.
    Unreadable {
        /// What is wrong with it.
        reason: String,
    },
}

/// How things stand when there is nothing to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// etcd cannot be asked. With `runs`, Consul goes on as it was.
    WithoutEtcd {
        /// Whether Consul may run.
        runs: bool,
        /// What etcd's client says.
        reason: String,
    },
    /// This node may only be a client, and there is no cluster yet.
    NoCluster,
    /// A node with data of a cluster is there, and will publish the cluster's record.
    AwaitsRecord {
        /// Which node.
        node: DnsLabel,
    },
    /// Not all server slots are taken yet.
    Forming {
        /// Slots taken.
        have: usize,
        /// Slots there are.
        want: u8,
    },
    /// Consul may run, and has no leader yet.
    AwaitsLeader,
    /// This node's server has no vote yet.
    AwaitsVote,
    /// A restart is due, and another node's turn comes first, or the cluster is not healthy enough.
    AwaitsRestart {
        /// Whose turn it is.
        turn: Option<DnsLabel>,
    },
    /// More servers are gone than the cluster can lose: an operator must say which data is to be kept.
    QuorumLost {
        /// Holders of slots that are here with their data.
        alive: Vec<DnsLabel>,
        /// Holders of slots that are away or have lost their data.
        lost: Vec<DnsLabel>,
    },
    /// Decommissioned.
    Left,
    /// Decommissioned, but the cluster could not bear it now.
    CannotLeave {
        /// Why.
        reason: String,
    },
    /// All is as it should be.
    Settled {
        /// Whether as a server.
        server: bool,
    },
}

/// What a node does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make the record, if there still is none.
    Create(ClusterRecord, Change),
    /// Change the record, if it still is the one seen.
    Update(ClusterRecord, Change),
    /// Write Consul's configuration and let it run by it.
    Configure(AgentPlan),
    /// Remember in Consul's data directory what the data belongs to.
    MarkData(Data),
    /// Take the turn to restart Consul.
    TakeTurn,
    /// Give it back.
    EndTurn,
    /// Tell Consul of members it does not know.
    Join(BTreeSet<IpAddr>),
    /// Take the server of nobody's slot out of raft.
    RemovePeer(Peer),
    /// Leave Consul's cluster, and raft with it; from then on the data is no server's ([`Data::Member`]), and Consul is kept
    /// from starting until it is configured anew.
    Leave,
    /// Take part in nothing.
    Refuse(Refusal),
    /// Nothing.
    Rest(State),
}

/// Decides.
pub fn next_step(seen: &Observed) -> Step {
    let etcd = match &seen.etcd {
        Ok(etcd) => etcd,
        Err(reason) => return without_etcd(seen, reason),
    };
    if let Some(contest) = &seen.contested {
        return Step::Refuse(Refusal::Contested(contest.clone()));
    }
    let step = match &etcd.record {
        RecordView::Unreadable(reason) => Step::Refuse(Refusal::Unreadable {
            reason: reason.clone(),
        }),
        RecordView::Absent => without_record(seen, etcd),
        RecordView::Present(record) => match &seen.local.data {
            // What a client has kept of another cluster is of no use to anybody.
            Data::Member {
                cluster,
                server: true,
            } if *cluster != record.id => other_cluster(seen, cluster, record),
            _ if record.leaving.contains(&seen.me.node) => leave(seen, etcd, record),
            _ if record.bootstrapped => maintain(seen, etcd, record),
            _ => form(seen, etcd, record),
        },
    };
    match step {
        // Who takes part in nothing any more must not keep the others from their turn.
        Step::Refuse(_) | Step::Rest(State::Left) if etcd.restarting.as_ref() == Some(&seen.me.node) => {
            Step::EndTurn
        }
        step => step,
    }
}

/// etcd is away: go on as before.
fn without_etcd(seen: &Observed, reason: &str) -> Step {
    let rest = |runs| {
        Step::Rest(State::WithoutEtcd {
            runs,
            reason: reason.to_owned(),
        })
    };
    if seen.local.permitted {
        return rest(true);
    }
    // A restart of the host. Only who was part of a cluster and still has its data may go on, and never as one that
    // could bootstrap.
    let (Some(record), Some(written)) = (&seen.local.record, &seen.local.written) else {
        return rest(false);
    };
    let same = written.cluster == record.id && written.node == seen.me.node && record.bootstrapped;
    // Who has lost its slot is no server any more.
    let same = same && (!written.mode.is_server() || record.slot(&seen.me.node).is_some());
    let has_data = match &seen.local.data {
        Data::Member { cluster, server } => *cluster == record.id && (*server || !written.mode.is_server()),
        Data::None => false,
    };
    if !same || !has_data || record.leaving.contains(&seen.me.node) {
        return rest(false);
    }
    let mode = match written.mode {
        Mode::Server { .. } => Mode::Server { expect: None },
        Mode::Client => Mode::Client,
    };
    Step::Configure(agent_plan(&seen.me, record, mode))
}

/// Nothing is agreed on: a new cluster, or etcd has forgotten one.
fn without_record(seen: &Observed, etcd: &EtcdView) -> Step {
    if let Data::Member { cluster, server } = &seen.local.data {
        return match &seen.local.record {
            Some(record) if record.id == *cluster => Step::Create(bootstrapped(record), Change::Republish),
            _ if *server => Step::Create(from_peers(seen, cluster), Change::Republish),
            // A client knows of its cluster, but not who its servers are: they will publish.
            _ => Step::Rest(State::NoCluster),
        };
    }
    if let Some(other) = etcd.nodes.values().find(|node| node.data != Data::None) {
        return Step::Rest(State::AwaitsRecord {
            node: other.node.clone(),
        });
    }
    if seen.me.role == Role::Client {
        return Step::Rest(State::NoCluster);
    }
    let record = ClusterRecord::new(seen.fresh_id.clone(), seen.me.servers);
    Step::Create(record.with_slot(joining(&seen.me)), Change::Found)
}

/// The data is of another cluster than the record.
fn other_cluster(seen: &Observed, ours: &ClusterId, record: &ClusterRecord) -> Step {
    // A cluster that never had a leader must give way to one that has: etcd was wiped, and an empty node was faster.
    if !record.bootstrapped {
        let ours = match &seen.local.record {
            Some(known) if known.id == *ours => bootstrapped(known),
            _ => from_peers(seen, ours),
        };
        return Step::Update(ours, Change::Republish);
    }
    Step::Refuse(Refusal::ForeignData {
        ours: ours.clone(),
        theirs: record.id.clone(),
    })
}

/// The record of a cluster known by its data alone: who else is a server will claim a slot.
fn from_peers(seen: &Observed, cluster: &ClusterId) -> ClusterRecord {
    let mut record = ClusterRecord::new(cluster.clone(), seen.me.servers);
    record.bootstrapped = true;
    record.with_slot(Slot {
        state: SlotState::Voter,
        ..joining(&seen.me)
    })
}

/// The cluster has never had a leader.
fn form(seen: &Observed, etcd: &EtcdView, record: &ClusterRecord) -> Step {
    let me = &seen.me;
    if matches!(&seen.local.data, Data::Member { cluster, .. } if *cluster == record.id) {
        return Step::Update(bootstrapped(record), Change::Bootstrapped);
    }
    if let Some(consul) = seen.consul.led()
        && consul.server
        && record.slot(&me.node).is_some()
        && is_peer(consul, &me.node)
    {
        return Step::MarkData(Data::Member {
            cluster: record.id.clone(),
            server: true,
        });
    }
    if let Some(step) = hold_first_slot(seen, record) {
        return step;
    }
    if !record.is_full() {
        return forming(record, record.slots.len());
    }
    // etcd was wiped, and who lives in another cluster has not said so yet.
    if let Some(other) = foreigner(etcd, record) {
        return Step::Rest(State::AwaitsRecord { node: other });
    }
    let here = record
        .slots
        .iter()
        .filter(|slot| etcd.nodes.contains_key(&slot.node))
        .count();
    let holds = record.slot(&me.node).is_some();
    if !record.sealed {
        let sealed = ClusterRecord {
            sealed: true,
            ..record.clone()
        };
        return if holds && here == record.slots.len() {
            Step::Update(sealed, Change::Sealed)
        } else {
            forming(record, here)
        };
    }
    let mode = if holds {
        Mode::Server {
            expect: Some(record.servers),
        }
    } else {
        Mode::Client
    };
    match run_as(seen, record, mode) {
        Step::Rest(State::AwaitsLeader) if here < record.slots.len() => forming(record, here),
        step => step,
    }
}

fn forming(record: &ClusterRecord, have: usize) -> Step {
    Step::Rest(State::Forming {
        have,
        want: record.servers,
    })
}

/// This node's slot before the first leader.
fn hold_first_slot(seen: &Observed, record: &ClusterRecord) -> Option<Step> {
    let me = &seen.me;
    let mine = record.slot(&me.node);
    if record.sealed {
        // No slot changes hands: its holder may be where nobody sees it, and bootstrap with the others there.
        let slot = mine.filter(|slot| slot.address != me.address)?;
        return Some(moved(me, record, slot));
    }
    let client = me.role == Role::Client;
    match mine {
        Some(_) if client => Some(free(record, &me.node)),
        Some(slot) => (slot.address != me.address).then(|| moved(me, record, slot)),
        None if client => None,
        None if record.is_full() => take_over(seen, record),
        None => claim(me, record).or_else(|| take_over(seen, record)),
    }
}

/// A node that has been a server of another cluster than the record's.
fn foreigner(etcd: &EtcdView, record: &ClusterRecord) -> Option<DnsLabel> {
    let other = etcd
        .nodes
        .values()
        .find(|node| matches!(&node.data, Data::Member { cluster, server: true } if *cluster != record.id))?;
    Some(other.node.clone())
}

/// The cluster has had a leader: keep it, grow it, heal it.
fn maintain(seen: &Observed, etcd: &EtcdView, record: &ClusterRecord) -> Step {
    if let Some(step) = hold_slot(seen, etcd, record) {
        return step;
    }
    if let Some(consul) = seen.consul.led()
        && let Some(step) = care(seen, etcd, record, consul)
    {
        return step;
    }
    let step = match record.slot(&seen.me.node) {
        Some(_) => run_as(seen, record, mode_with_slot(seen, record)),
        None => without_slot(seen, etcd, record),
    };
    // Last of all: a server that cannot be joined must hold nothing else up.
    if let (Step::Rest(_), Some(_)) = (&step, seen.consul.led()) {
        let unknown = unknown_servers(seen, etcd, record);
        if !unknown.is_empty() {
            return Step::Join(unknown);
        }
    }
    step
}

/// This node's own slot: take one, keep it true.
fn hold_slot(seen: &Observed, etcd: &EtcdView, record: &ClusterRecord) -> Option<Step> {
    let me = &seen.me;
    let Some(slot) = record.slot(&me.node) else {
        return want_slot(seen, record);
    };
    if slot.address != me.address {
        return Some(moved(me, record, slot));
    }
    if me.role == Role::Client && holds_up(seen, record).is_none() {
        return Some(free(record, &me.node));
    }
    let consul = seen.consul.led().filter(|consul| consul.server);
    if seen.local.data.is_server_of(&record.id) {
        let votes = consul.is_some_and(|consul| is_voter(consul, &me.node));
        return (slot.state == SlotState::Joining && votes).then(|| {
            let voting = Slot {
                state: SlotState::Voter,
                ..slot.clone()
            };
            Step::Update(record.with_slot(voting), Change::Voting)
        });
    }
    // Without data. It joins, and never bootstraps.
    if consul.is_some_and(|consul| is_peer(consul, &me.node)) {
        return Some(Step::MarkData(Data::Member {
            cluster: record.id.clone(),
            server: true,
        }));
    }
    if slot.state == SlotState::Voter {
        return Some(Step::Update(record.with_slot(joining(me)), Change::LostData));
    }
    let all_here = record
        .slots
        .iter()
        .all(|slot| etcd.nodes.contains_key(&slot.node));
    let nobody_has_data = !etcd.nodes.values().any(|node| node.data.is_server_of(&record.id));
    (all_here && nobody_has_data && seen.consul.led().is_none()).then_some(Step::Refuse(Refusal::AllDataLost))
}

/// How a node runs that holds a slot: as a server, but without data not before there is a leader.
///
/// A server that has lost its data votes for anybody. Its vote can make one the leader that is behind, and what the others
/// have agreed on since is lost (seen with Consul 1.8).
fn mode_with_slot(seen: &Observed, record: &ClusterRecord) -> Mode {
    let local = &seen.local;
    let plan = local.written.as_ref().filter(|plan| plan.cluster == record.id);
    // It may have been bootstrapped before its data could be marked, or be about to get a leader's.
    let may_have_data = plan.is_some_and(|plan| match plan.mode {
        Mode::Server { expect } => expect.is_some() || local.permitted,
        Mode::Client => false,
    });
    if local.data.is_server_of(&record.id) || may_have_data || seen.consul.led().is_some() {
        Mode::Server { expect: None }
    } else {
        Mode::Client
    }
}

/// A node without a slot takes one, when that is safe.
fn want_slot(seen: &Observed, record: &ClusterRecord) -> Option<Step> {
    let me = &seen.me;
    if me.role == Role::Client {
        return None;
    }
    // etcd was wiped, and the record does not list all of the servers that there are.
    if seen.local.data.is_server_of(&record.id) && !record.is_full() && !seen.local.permitted {
        return claim(me, record);
    }
    let consul = seen.consul.led()?;
    if consul.server && is_peer(consul, &me.node) && !record.is_full() {
        return claim(me, record);
    }
    take_over(seen, record).or_else(|| {
        let room = !record.is_full() && consul.peers.len() < usize::from(record.servers);
        let alone = record.all_voting_except(&me.node);
        (room && alone).then(|| claim(me, record)).flatten()
    })
}

fn claim(me: &Me, record: &ClusterRecord) -> Option<Step> {
    // Where this node is, another was said to be: that one says first where it has gone, or is replaced.
    let taken = record.slots.iter().any(|slot| slot.address == me.address);
    (!taken).then(|| Step::Update(record.with_slot(joining(me)), Change::Claim))
}

/// Takes the slot of a holder that has been away for long enough.
fn take_over(seen: &Observed, record: &ClusterRecord) -> Option<Step> {
    let etcd = seen.etcd.as_ref().ok()?;
    let mut replaceable = record.slots.iter().filter(|slot| {
        // Before the first leader nobody votes, and nothing can be lost.
        is_long_absent(seen, etcd, slot)
            && (!record.bootstrapped || nobody_joins_but(seen, etcd, record, &slot.node))
    });
    let here = record.slots.iter().find(|slot| slot.address == seen.me.address);
    let holder = replaceable.find(|slot| here.is_none_or(|here| here.node == slot.node))?;
    let from = holder.node.clone();
    let next = record.without_slot(&from).with_slot(joining(&seen.me));
    Some(Step::Update(next, Change::TakeOver { from }))
}

/// A node that holds no slot is a client, unless the cluster needs the server that it still is.
///
/// It may when etcd was wiped, and the first to publish knew of an older record.
fn without_slot(seen: &Observed, etcd: &EtcdView, record: &ClusterRecord) -> Step {
    let (me, local) = (&seen.me, &seen.local);
    let serves = local.permitted
        && local
            .written
            .as_ref()
            .is_some_and(|plan| plan.cluster == record.id && plan.mode.is_server());
    let needed = match seen.consul.led() {
        Some(consul) if serves && is_peer(consul, &me.node) => {
            let replaced = me.role == Role::Client || all_vote(consul, record);
            if !is_voter(consul, &me.node) || (replaced && bears_loss_of(consul, &me.node)) {
                // To go without a word would leave a dead voter behind. It comes back as a client.
                return Step::Leave;
            }
            true
        }
        Some(_) => false,
        None => {
            let alone = holders_with_data(etcd, record) < record.quorum() || seen.leaderless >= LOST;
            local.data.is_server_of(&record.id) && (serves || (seen.leaderless >= LEADERLESS && alone))
        }
    };
    let mode = if needed {
        Mode::Server { expect: None }
    } else {
        Mode::Client
    };
    run_as(seen, record, mode)
}

/// How many holders of slots are here with their data.
fn holders_with_data(etcd: &EtcdView, record: &ClusterRecord) -> usize {
    record
        .slots
        .iter()
        .filter(|slot| has_data(etcd, record, &slot.node))
        .count()
}

fn has_data(etcd: &EtcdView, record: &ClusterRecord, node: &DnsLabel) -> bool {
    etcd.nodes
        .get(node)
        .is_some_and(|node| node.data.is_server_of(&record.id))
}

/// Whether the holder of a slot has been away for long enough, by etcd and by Consul.
fn is_long_absent(seen: &Observed, etcd: &EtcdView, slot: &Slot) -> bool {
    etcd.absent
        .get(&slot.node)
        .is_some_and(|away| *away >= seen.replace_after)
        && !etcd.nodes.contains_key(&slot.node)
        && !alive_in_gossip(&seen.consul, &slot.node)
}

/// Whether all slots but that of `node` have their vote, or will never have it. One slot changes hands at a time: the next
/// only when this one votes.
fn nobody_joins_but(seen: &Observed, etcd: &EtcdView, record: &ClusterRecord, node: &DnsLabel) -> bool {
    record
        .slots
        .iter()
        .all(|slot| slot.node == *node || slot.state == SlotState::Voter || is_long_absent(seen, etcd, slot))
}

/// What a node does for the cluster as a whole, while Consul has a leader.
fn care(seen: &Observed, etcd: &EtcdView, record: &ClusterRecord, consul: &ConsulState) -> Option<Step> {
    let me = &seen.me;
    if me.servers > record.servers {
        let mut next = record.clone();
        next.servers = me.servers;
        return Some(Step::Update(next, Change::Grow { from: record.servers }));
    }
    let gone = record.slots.iter().find(|slot| {
        record.leaving.contains(&slot.node)
            && !etcd.nodes.contains_key(&slot.node)
            && !alive_in_gossip(&seen.consul, &slot.node)
            && nobody_joins_but(seen, etcd, record, &slot.node)
            && bears_loss_of(consul, &slot.node)
    });
    if let Some(slot) = gone {
        return Some(free(record, &slot.node));
    }
    // The leader's node; and one more, since that one may not know that a slot has changed hands.
    let first = record
        .slots
        .iter()
        .find(|slot| etcd.nodes.contains_key(&slot.node));
    if (consul.leads || first.is_some_and(|slot| slot.node == me.node))
        && let Some(peer) = consul.peers.iter().find(|peer| is_retired(peer, record, consul))
    {
        return Some(Step::RemovePeer(peer.clone()));
    }
    None
}

/// Servers whose hosts live, and which the local Consul does not see: its own retries end with the first success.
fn unknown_servers(seen: &Observed, etcd: &EtcdView, record: &ClusterRecord) -> BTreeSet<IpAddr> {
    record
        .slots
        .iter()
        .filter(|slot| slot.node != seen.me.node && etcd.nodes.contains_key(&slot.node))
        .filter(|slot| !alive_in_gossip(&seen.consul, &slot.node))
        .map(|slot| slot.address)
        .collect()
}

/// Whether a raft peer is the server of somebody's slot.
fn is_of_a_slot(peer: &Peer, record: &ClusterRecord, consul: &ConsulState) -> bool {
    record
        .slots
        .iter()
        .any(|slot| slot.address == peer.address || peer_of(consul, &slot.node) == Some(peer))
}

/// Whether a raft peer is the server of nobody's slot, and dead.
fn is_retired(peer: &Peer, record: &ClusterRecord, consul: &ConsulState) -> bool {
    // Gossip may be behind raft: who seems dead may be the one whose vote has just made the leader.
    !is_of_a_slot(peer, record, consul) && !is_alive(consul, peer) && bears_removal_of(consul, Some(peer))
}

/// Lets Consul run as `mode`, restarts it in turn, and says how things stand.
fn run_as(seen: &Observed, record: &ClusterRecord, mode: Mode) -> Step {
    let wanted = agent_plan(&seen.me, record, mode);
    let etcd = seen.etcd.as_ref().ok();
    let turn = etcd.and_then(|etcd| etcd.restarting.as_ref());
    let mine = turn == Some(&seen.me.node);
    match seen.local.written.as_ref().filter(|_| seen.local.permitted) {
        Some(written) if *written == wanted => {}
        Some(written) if written.needs_restart(&wanted) && takes_turns(seen, written, &wanted) && !mine => {
            return match turn {
                None if may_restart(seen, record) => Step::TakeTurn,
                turn => Step::Rest(State::AwaitsRestart { turn: turn.cloned() }),
            };
        }
        _ => return Step::Configure(wanted),
    }
    let ConsulView::Up(consul) = &seen.consul else {
        return Step::Rest(State::AwaitsLeader);
    };
    if !consul.led {
        return without_leader(seen, record);
    }
    let server = wanted.mode.is_server();
    if consul.server != server {
        // It still ends as what it was.
        return Step::Rest(State::AwaitsLeader);
    }
    if server && !is_voter(consul, &seen.me.node) {
        return Step::Rest(State::AwaitsVote);
    }
    if mine && (!server || consul.healthy) {
        return Step::EndTurn;
    }
    let data = Data::Member {
        cluster: record.id.clone(),
        server,
    };
    // A server's data is of use until raft does without it.
    let in_raft = !server && is_peer(consul, &seen.me.node);
    if seen.local.data != data && record.bootstrapped && !in_raft {
        return Step::MarkData(data);
    }
    Step::Rest(State::Settled { server })
}

/// Consul runs without a leader: an election, or the loss of the quorum.
fn without_leader(seen: &Observed, record: &ClusterRecord) -> Step {
    let Ok(etcd) = &seen.etcd else {
        return Step::Rest(State::AwaitsLeader);
    };
    let (alive, lost): (Vec<_>, Vec<_>) = record
        .slots
        .iter()
        .map(|slot| slot.node.clone())
        .partition(|node| has_data(etcd, record, node));
    // One that has its data, and was never seen voting since, cannot make up for a voter.
    let voters = alive.iter().filter(|node| {
        record
            .slot(node)
            .is_some_and(|slot| slot.state == SlotState::Voter)
    });
    let too_few = !lost.is_empty() && voters.count() < record.quorum() && seen.leaderless >= LEADERLESS;
    if record.bootstrapped && too_few {
        return Step::Rest(State::QuorumLost { alive, lost });
    }
    let unknown = unknown_servers(seen, etcd, record);
    if !unknown.is_empty() {
        return Step::Join(unknown);
    }
    // Raft may wait for voters that no slot speaks of any more: then only time tells.
    if record.bootstrapped && seen.leaderless >= LOST {
        return Step::Rest(State::QuorumLost { alive, lost });
    }
    Step::Rest(State::AwaitsLeader)
}

/// An operator has decommissioned this node: it gives up its slot, then its place among the members, with its data.
///
/// Until the cluster can do without it, it goes on, also after a restart of its host.
fn leave(seen: &Observed, etcd: &EtcdView, record: &ClusterRecord) -> Step {
    let me = &seen.me;
    let (reason, step) = if record.slot(&me.node).is_some() {
        let Some(reason) = holds_up(seen, record) else {
            return free(record, &me.node);
        };
        let step = if record.bootstrapped {
            maintain(seen, etcd, record)
        } else {
            form(seen, etcd, record)
        };
        (reason, step)
    } else if let Some(reason) = needed(seen, record) {
        (reason, without_slot(seen, etcd, record))
    } else if seen.local.permitted {
        return Step::Leave;
    } else {
        return Step::Rest(State::Left);
    };
    match step {
        Step::Rest(_) => Step::Rest(State::CannotLeave {
            reason: reason.to_owned(),
        }),
        step => step,
    }
}

const NO_LEADER: &str = "Consul has no leader: bring back its servers first";
const TOO_FEW: &str = "too many other servers are down: bring them back first";

/// Why this node may not give up its slot.
fn holds_up(seen: &Observed, record: &ClusterRecord) -> Option<&'static str> {
    if !record.bootstrapped {
        return record
            .sealed
            .then_some("the cluster has no leader yet: it must have formed first");
    }
    if !record.all_voting_except(&seen.me.node) {
        return Some("another server has no vote yet: it must come first");
    }
    if record.slots.len() == 1 {
        return Some("it is the only server: let another join first");
    }
    let Some(consul) = seen.consul.led() else {
        return Some(NO_LEADER);
    };
    if consul
        .peers
        .iter()
        .any(|peer| !is_of_a_slot(peer, record, consul))
    {
        return Some("another server is still leaving: it must be gone first");
    }
    (!bears_loss_of(consul, &seen.me.node)).then_some(TOO_FEW)
}

/// Why this node, whose slot is free already, may not go yet. Data of a server may be that of a voter, as long as no
/// leader says otherwise.
fn needed(seen: &Observed, record: &ClusterRecord) -> Option<&'static str> {
    let data = seen.local.data.is_server_of(&record.id);
    match seen.consul.led() {
        Some(consul) => {
            let serves = data || is_peer(consul, &seen.me.node);
            (serves && !bears_loss_of(consul, &seen.me.node)).then_some(TOO_FEW)
        }
        None => data.then_some(NO_LEADER),
    }
}

/// Whether the cluster keeps its leader without the server of `node`.
fn bears_loss_of(consul: &ConsulState, node: &DnsLabel) -> bool {
    bears_removal_of(consul, peer_of(consul, node))
}

/// Whether most voters but `gone` are alive.
fn bears_removal_of(consul: &ConsulState, gone: Option<&Peer>) -> bool {
    let others = consul
        .peers
        .iter()
        .filter(|peer| peer.voter && gone != Some(*peer));
    let alive = others.clone().filter(|peer| is_alive(consul, peer)).count();
    alive * 2 > others.count()
}

/// Whether a voter may restart without harm: everybody votes and is healthy.
fn may_restart(seen: &Observed, record: &ClusterRecord) -> bool {
    seen.consul.led().is_some_and(|consul| {
        let voters = consul.peers.iter().filter(|peer| peer.voter).count();
        consul.healthy
            && voters >= record.slots.len()
            && record.slots.iter().all(|slot| slot.state == SlotState::Voter)
    })
}

/// Whether a restart must wait for its turn: that of a voter, and one that an operator caused.
fn takes_turns(seen: &Observed, written: &AgentPlan, wanted: &AgentPlan) -> bool {
    let ConsulView::Up(consul) = &seen.consul else {
        return false;
    };
    if written.address != wanted.address {
        // Nobody reaches it where it was.
        return false;
    }
    if !consul.led {
        // An election: it may be the restart of another voter that made it necessary.
        return consul.server && seen.leaderless < LEADERLESS;
    }
    let asked_for = AgentPlan {
        restart: wanted.restart,
        settings: wanted.settings.clone(),
        ..written.clone()
    };
    (consul.server && is_voter(consul, &seen.me.node)) || !asked_for.needs_restart(wanted)
}

/// The raft peer that the server of `node` is. Gossip tells its ID: raft keeps the address at which it admitted a server,
/// which says nothing of one that has moved, and too much of one that has lost its data.
fn peer_of<'a>(consul: &'a ConsulState, node: &DnsLabel) -> Option<&'a Peer> {
    let member = consul
        .members
        .iter()
        .find(|member| member.node == node.as_str())?;
    consul.peers.iter().find(|peer| peer.id == member.id)
}

fn is_peer(consul: &ConsulState, node: &DnsLabel) -> bool {
    peer_of(consul, node).is_some()
}

fn is_voter(consul: &ConsulState, node: &DnsLabel) -> bool {
    peer_of(consul, node).is_some_and(|peer| peer.voter)
}

/// Whether raft knows the holders of all slots as voters, dead or alive.
fn all_vote(consul: &ConsulState, record: &ClusterRecord) -> bool {
    record.slots.iter().all(|slot| {
        let known = consul
            .members
            .iter()
            .any(|member| member.node == slot.node.as_str());
        let mut there = consul.peers.iter().filter(|peer| peer.address == slot.address);
        is_voter(consul, &slot.node) || (!known && there.any(|peer| peer.voter))
    })
}

fn is_alive(consul: &ConsulState, peer: &Peer) -> bool {
    consul
        .members
        .iter()
        .any(|member| member.id == peer.id && member.alive && member.server)
}

fn alive_in_gossip(consul: &ConsulView, node: &DnsLabel) -> bool {
    match consul {
        ConsulView::Up(state) => state
            .members
            .iter()
            .any(|member| member.alive && member.node == node.as_str()),
        ConsulView::Down => false,
    }
}

fn joining(me: &Me) -> Slot {
    Slot {
        node: me.node.clone(),
        address: me.address,
        state: SlotState::Joining,
    }
}

fn moved(me: &Me, record: &ClusterRecord, slot: &Slot) -> Step {
    Step::Update(
        record.with_slot(joining(me)),
        Change::Moved { from: slot.address },
    )
}

fn free(record: &ClusterRecord, node: &DnsLabel) -> Step {
    Step::Update(record.without_slot(node), Change::Free { node: node.clone() })
}

fn bootstrapped(record: &ClusterRecord) -> ClusterRecord {
    ClusterRecord {
        bootstrapped: true,
        ..record.clone()
    }
}

fn agent_plan(me: &Me, record: &ClusterRecord, mode: Mode) -> AgentPlan {
    AgentPlan {
        cluster: record.id.clone(),
        node: me.node.clone(),
        address: me.address,
        mode,
        join: record
            .slots
            .iter()
            .filter(|slot| slot.node != me.node)
            .map(|slot| slot.address)
            .filter(|address| *address != me.address)
            .collect(),
        restart: record.restart,
        settings: me.settings.clone(),
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
