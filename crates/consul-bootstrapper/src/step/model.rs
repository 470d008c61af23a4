//! A whole world around the decision: hosts, etcd, Consul's gossip and raft, faults. It checks after every event that
//! no promise is broken, and in the end, once all faults are over, that every node comes to rest as it should.
//!
//! Consul's part follows what was measured with Consul 1.8: raft knows its peers by their IDs, finds one that has moved
//! through gossip, and then admits it again without a vote; a lone server is never admitted again under its new address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use contract::DnsLabel;

use super::{Change, LEADERLESS, Step, next_step};
use crate::observed::{
    AgentPlan, ConsulState, ConsulView, Data, EtcdView, Local, Me, Member, Observed, Peer, Presence,
    RecordView, Role,
};
use crate::record::{ClusterRecord, SlotState};

/// What one tick of the model's clock stands for.
const TICK: Duration = Duration::from_secs(5);
/// How many ticks a lease outlives its holder.
const LEASE: u32 = 2;
/// How many ticks a holder of a slot must be away before another may take it.
const REPLACE_AFTER: u32 = 6;
/// How many ticks an observation may be old when it is acted on: a run has a deadline, far below a lease.
const STALE: u32 = 1;
/// Steps in one run, as in the reconciler.
const RUN: usize = 24;

type Checked = Result<(), String>;

macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+));
        }
    };
}

mod consul;
mod end;
mod faults;
mod garbage;
mod regressions;
mod stories;

/// A running Consul.
#[derive(Clone, Debug)]
struct Agent {
    /// By what it was started.
    plan: AgentPlan,
    /// Whether a join from its configuration has succeeded: it is not tried again.
    joined: bool,
    /// What gossip told of the others at the last tick.
    members: BTreeMap<usize, Member>,
}

#[derive(Clone, Debug)]
struct Host {
    name: DnsLabel,
    address: IpAddr,
    role: Role,
    servers: u8,
    settings: u8,
    on: bool,
    scrapped: bool,
    stuck: bool,
    side: u8,
    cut: bool,
    // Files.
    mark: Data,
    record: Option<ClusterRecord>,
    written: Option<AgentPlan>,
    raft: Option<usize>,
    /// How far its raft log goes.
    log: u64,
    consul_id: u32,
    knows: BTreeSet<IpAddr>,
    // What ends with the host.
    permitted: bool,
    agent: Option<Agent>,
    absent: BTreeMap<DnsLabel, u32>,
    leaderless: u32,
    saw: Option<Seen>,
}

/// An observation, and when it was made.
#[derive(Clone, Debug)]
struct Seen {
    observed: Observed,
    revision: Option<u64>,
    tick: u32,
    fresh: bool,
}

/// One cluster of Consul servers, as raft's log has it.
#[derive(Clone, Debug)]
struct Raft {
    peers: Vec<RaftPeer>,
    leader: Option<usize>,
    healthy: bool,
    /// How far a majority of the voters has the log.
    committed: u64,
}

#[derive(Clone, Debug, PartialEq)]
struct RaftPeer {
    id: u32,
    address: IpAddr,
    voter: bool,
}

/// Everything.
#[derive(Clone, Debug)]
pub(super) struct World {
    hosts: Vec<Host>,
    record: Option<(ClusterRecord, u64)>,
    revision: u64,
    presences: BTreeMap<usize, (Presence, u32)>,
    turn: Option<(usize, u32)>,
    rafts: Vec<Raft>,
    /// Hosts whose voting server was restarted by plan and does not vote yet.
    restarting: BTreeSet<usize>,
    ids: u32,
    now: u32,
    rounds: usize,
    /// Counts whatever changed.
    changes: u64,
    /// What has happened, for a look at what the model reaches.
    pub(super) reached: BTreeMap<String, u64>,
}

fn address(number: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, number).into()
}

/// The first word of a value's `Debug`.
fn kind(value: &impl std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    text.split(|c: char| !c.is_alphanumeric())
        .next()
        .unwrap_or_default()
        .to_owned()
}

impl World {
    /// Empty hosts, all running.
    pub(super) fn new(hosts: usize, servers: u8) -> Self {
        let host = |number: usize| Host {
            name: format!("n{number}").parse().expect("a label"),
            address: address(number as u8 + 1),
            role: Role::Auto,
            servers,
            settings: 0,
            on: true,
            scrapped: false,
            stuck: false,
            side: 0,
            cut: false,
            mark: Data::None,
            record: None,
            written: None,
            raft: None,
            log: 0,
            consul_id: number as u32,
            knows: BTreeSet::new(),
            permitted: false,
            agent: None,
            absent: BTreeMap::new(),
            leaderless: 0,
            saw: None,
        };
        Self {
            hosts: (0..hosts).map(host).collect(),
            record: None,
            revision: 0,
            presences: BTreeMap::new(),
            turn: None,
            rafts: Vec::new(),
            restarting: BTreeSet::new(),
            ids: hosts as u32,
            now: 0,
            rounds: 0,
            changes: 0,
            reached: BTreeMap::new(),
        }
    }

    // What is true.

    fn reaches_etcd(&self, host: usize) -> bool {
        let host = &self.hosts[host];
        host.on && host.side == 0 && !host.cut
    }

    fn runs_server(&self, host: usize) -> bool {
        self.hosts[host]
            .agent
            .as_ref()
            .is_some_and(|agent| agent.plan.mode.is_server())
    }

    fn by_consul_id(&self, id: u32) -> Option<usize> {
        self.hosts.iter().position(|host| host.consul_id == id)
    }

    /// Whether `to` answers `from` as the raft peer it is.
    fn answers(&self, from: usize, to: usize, peer: &RaftPeer, raft: usize) -> bool {
        let (source, target) = (&self.hosts[from], &self.hosts[to]);
        let found = from == to
            || target.address == peer.address
            || source.agent.as_ref().is_some_and(|agent| {
                agent
                    .members
                    .get(&to)
                    .is_some_and(|member| member.alive && member.address == target.address)
            });
        self.runs_server(to) && target.raft == Some(raft) && source.side == target.side && found
    }

    /// Whether what gossip tells `host` of the voters is so.
    fn is_informed(&self, host: usize, raft: usize) -> bool {
        let this = &self.hosts[host];
        let Some(agent) = &this.agent else { return false };
        self.rafts[raft]
            .peers
            .iter()
            .filter(|peer| peer.voter)
            .all(|peer| {
                let alive = self
                    .by_consul_id(peer.id)
                    .is_some_and(|voter| self.runs_server(voter) && self.hosts[voter].side == this.side);
                let mut members = agent.members.values();
                members.any(|member| member.id == peer.id.to_string() && member.alive) == alive
            })
    }

    fn has_majority(&self, candidate: usize, raft: usize) -> bool {
        let voters = self.rafts[raft].peers.iter().filter(|peer| peer.voter);
        let votes = voters.clone().filter(|peer| {
            self.by_consul_id(peer.id)
                .is_some_and(|voter| self.answers(candidate, voter, peer, raft))
        });
        votes.count() * 2 > voters.count()
    }

    fn is_voter(&self, host: usize, raft: usize) -> bool {
        let id = self.hosts[host].consul_id;
        self.rafts[raft]
            .peers
            .iter()
            .any(|peer| peer.id == id && peer.voter)
    }

    fn is_peer(&self, host: usize, raft: usize) -> bool {
        let id = self.hosts[host].consul_id;
        self.rafts[raft].peers.iter().any(|peer| peer.id == id)
    }

    /// The leader, if it can lead.
    fn leader(&self, raft: usize) -> Option<usize> {
        self.rafts[raft].leader.filter(|leader| {
            self.runs_server(*leader)
                && self.hosts[*leader].raft == Some(raft)
                && self.is_voter(*leader, raft)
                && self.has_majority(*leader, raft)
        })
    }

    /// The cluster whose leader `host` knows.
    fn led(&self, host: usize) -> Option<usize> {
        let this = &self.hosts[host];
        let agent = this.agent.as_ref()?;
        (0..self.rafts.len()).find(|raft| {
            self.leader(*raft).is_some_and(|leader| {
                let near = self.hosts[leader].side == this.side;
                if agent.plan.mode.is_server() {
                    near && this.raft == Some(*raft) && self.is_peer(host, *raft)
                } else {
                    near && agent.members.get(&leader).is_some_and(|member| member.alive)
                }
            })
        })
    }

    // What a node sees.

    fn presence(&self, host: usize) -> Presence {
        let this = &self.hosts[host];
        Presence {
            node: this.name.clone(),
            instance: String::new(),
            host: this.name.to_string(),
            address: this.address,
            data: this.mark.clone(),
            consul_id: Some(this.consul_id.to_string()),
        }
    }

    fn consul_view(&self, host: usize) -> ConsulView {
        let Some(agent) = &self.hosts[host].agent else {
            return ConsulView::Down;
        };
        let led = self.led(host);
        let peers = led.map_or(Vec::new(), |raft| {
            let peer = |peer: &RaftPeer| Peer {
                id: peer.id.to_string(),
                address: peer.address,
                voter: peer.voter,
            };
            self.rafts[raft].peers.iter().map(peer).collect()
        });
        ConsulView::Up(ConsulState {
            led: led.is_some(),
            leads: led.is_some_and(|raft| self.leader(raft) == Some(host)),
            server: agent.plan.mode.is_server(),
            peers,
            members: agent.members.values().cloned().collect(),
            healthy: led.is_some_and(|raft| self.rafts[raft].healthy),
        })
    }

    fn observe(&mut self, host: usize) -> Seen {
        let reaches = self.reaches_etcd(host);
        let before = self.hosts[host].record.clone();
        if reaches {
            self.presences.insert(host, (self.presence(host), LEASE));
        }
        let etcd = if reaches {
            let this = &mut self.hosts[host];
            if let Some((record, _)) = &self.record {
                let other = matches!(&this.mark, Data::Member { cluster, .. } if *cluster != record.id);
                if !other {
                    this.record = Some(record.clone());
                }
                this.absent.retain(|node, _| record.slot(node).is_some());
                for slot in &record.slots {
                    let lives = self
                        .presences
                        .values()
                        .any(|(presence, _)| presence.node == slot.node);
                    if lives {
                        this.absent.remove(&slot.node);
                    } else {
                        this.absent.entry(slot.node.clone()).or_insert(0);
                    }
                }
            }
            Ok(EtcdView {
                record: match &self.record {
                    Some((record, _)) => RecordView::Present(record.clone()),
                    None => RecordView::Absent,
                },
                nodes: self
                    .presences
                    .values()
                    .map(|(presence, _)| (presence.node.clone(), presence.clone()))
                    .collect(),
                absent: this
                    .absent
                    .iter()
                    .map(|(node, ticks)| (node.clone(), TICK * *ticks))
                    .collect(),
                restarting: self.turn.map(|(holder, _)| self.hosts[holder].name.clone()),
            })
        } else {
            Err("no answer".to_owned())
        };
        self.ids += 1;
        let consul = self.consul_view(host);
        let this = &self.hosts[host];
        let leaderless = match &consul {
            ConsulView::Up(state) if !state.led => TICK * this.leaderless,
            _ => Duration::ZERO,
        };
        let observed = Observed {
            me: Me {
                node: this.name.clone(),
                address: this.address,
                role: this.role,
                servers: this.servers,
                settings: this.settings.to_string(),
            },
            local: Local {
                data: this.mark.clone(),
                record: before,
                written: this.written.clone(),
                permitted: this.permitted,
            },
            etcd,
            consul,
            leaderless,
            contested: None,
            fresh_id: format!("c{}", self.ids).as_str().into(),
            replace_after: TICK * REPLACE_AFTER,
        };
        Seen {
            observed,
            revision: self.record.as_ref().map(|(_, revision)| *revision),
            tick: self.now,
            fresh: true,
        }
    }

    // What a node does.

    /// Looks and does one step.
    pub(super) fn step(&mut self, host: usize) -> Result<Step, String> {
        let seen = self.observe(host);
        let step = next_step(&seen.observed);
        self.apply(host, &seen, &step)?;
        Ok(step)
    }

    /// A run of the reconciler: steps until there is nothing to do for now.
    fn run(&mut self, host: usize) -> Result<Option<Step>, String> {
        if !self.hosts[host].on {
            return Ok(None);
        }
        let mut taken = Vec::new();
        for _ in 0..RUN {
            let step = self.step(host)?;
            if matches!(step, Step::Rest(_) | Step::Refuse(_) | Step::Join(_)) {
                return Ok(Some(step));
            }
            taken.push(step);
        }
        Err(format!("n{host} spins: {taken:#?}"))
    }

    fn apply(&mut self, host: usize, seen: &Seen, step: &Step) -> Checked {
        *self.reached.entry(kind(step)).or_default() += 1;
        let reaches = self.reaches_etcd(host);
        if !matches!(step, Step::Rest(_) | Step::Refuse(_) | Step::Join(_)) {
            self.changes += 1;
        }
        match step {
            Step::Create(record, change) => {
                if reaches && self.record.is_none() {
                    self.put(host, record, change)?;
                }
            }
            Step::Update(record, change) => {
                let current = self.record.as_ref().map(|(_, revision)| *revision);
                if reaches && current.is_some() && current == seen.revision {
                    self.put(host, record, change)?;
                }
            }
            Step::Configure(plan) => self.configure(host, seen, plan)?,
            Step::MarkData(data) => self.hosts[host].mark = data.clone(),
            Step::TakeTurn => {
                if reaches && self.turn.is_none() {
                    self.turn = Some((host, LEASE));
                }
            }
            Step::EndTurn => {
                if reaches && self.turn.is_some_and(|(holder, _)| holder == host) {
                    self.turn = None;
                }
            }
            Step::Join(addresses) => {
                ensure!(!addresses.is_empty(), "n{host} joins nobody");
                let here = self.hosts[host].side;
                let answering = self
                    .hosts
                    .iter()
                    .filter(|other| other.agent.is_some() && other.side == here);
                let found: Vec<_> = answering
                    .map(|other| other.address)
                    .filter(|at| addresses.contains(at))
                    .collect();
                self.hosts[host].knows.extend(found);
            }
            Step::RemovePeer(peer) => {
                if let Some(raft) = self.led(host) {
                    let informed = seen.fresh && self.is_informed(host, raft);
                    self.rafts[raft]
                        .peers
                        .retain(|other| other.id.to_string() != peer.id);
                    ensure!(
                        !informed || self.leader(raft).is_some(),
                        "n{host} took the leader's quorum away with {peer:?}"
                    );
                }
            }
            Step::Leave => self.leave(host, seen)?,
            Step::Refuse(refusal) => *self.reached.entry(kind(refusal)).or_default() += 1,
            Step::Rest(state) => *self.reached.entry(kind(state)).or_default() += 1,
        }
        Ok(())
    }

    /// A change of the record, which the compare-and-swap let through.
    fn put(&mut self, host: usize, next: &ClusterRecord, change: &Change) -> Checked {
        *self.reached.entry(kind(change)).or_default() += 1;
        next.check()
            .map_err(|problem| format!("n{host} writes a record that cannot be: {problem}"))?;
        let name = self.hosts[host].name.clone();
        if let Some((now, _)) = &self.record {
            ensure!(now != next, "n{host} changes nothing by {change:?}");
            if now.bootstrapped {
                ensure!(
                    next.id == now.id && next.bootstrapped,
                    "n{host} forgets a cluster by {change:?}"
                );
                ensure!(next.servers >= now.servers, "n{host} shrinks the cluster");
                let gone: Vec<_> = now
                    .slots
                    .iter()
                    .filter(|slot| next.slot(&slot.node).is_none())
                    .collect();
                ensure!(
                    gone.len() <= 1,
                    "n{host} frees two slots at once by {change:?}: {now:?}"
                );
                // Who is a server already takes nothing from anybody by claiming a slot.
                let known = self.hosts[host].mark.is_server_of(&now.id)
                    || self
                        .led(host)
                        .is_some_and(|raft| self.is_peer(host, raft) && self.runs_server(host));
                let hands_over = match change {
                    Change::TakeOver { .. } | Change::Free { .. } => true,
                    Change::Claim => !known,
                    _ => false,
                };
                let lives = |node: &DnsLabel| {
                    self.presences
                        .values()
                        .any(|(presence, _)| presence.node == *node)
                };
                let joining = now.slots.iter().filter(|slot| lives(&slot.node)).find(|slot| {
                    slot.state == SlotState::Joining
                        && slot.node != name
                        && gone.iter().all(|gone| gone.node != slot.node)
                });
                if let (true, Some(joining)) = (hands_over, joining) {
                    return Err(format!(
                        "{change:?} by n{host} while {} has no vote: {now:?}",
                        joining.node
                    ));
                }
            }
        }
        self.revision += 1;
        self.record = Some((next.clone(), self.revision));
        Ok(())
    }

    fn configure(&mut self, host: usize, seen: &Seen, plan: &AgentPlan) -> Checked {
        let restarts = self.hosts[host]
            .agent
            .as_ref()
            .is_some_and(|agent| agent.plan.needs_restart(plan));
        let voter = (0..self.rafts.len()).find(|raft| {
            self.hosts[host].raft == Some(*raft) && self.runs_server(host) && self.is_voter(host, *raft)
        });
        if let (true, Some(raft)) = (restarts, voter) {
            let turn = self.turn.is_some_and(|(holder, _)| holder == host);
            let moved = self.hosts[host]
                .agent
                .as_ref()
                .is_some_and(|agent| agent.plan.address != plan.address);
            let lost = seen.observed.leaderless >= LEADERLESS;
            if seen.fresh && self.reaches_etcd(host) {
                ensure!(
                    turn || moved || lost,
                    "n{host} restarts a voter out of turn: {plan:?}"
                );
            }
            self.restarting.remove(&host);
            if self.leader(raft).is_some() && (seen.fresh || turn) && !moved {
                ensure!(
                    self.restarting.is_empty(),
                    "n{host} restarts while these restart: {:?}",
                    self.restarting
                );
            }
            self.restarting.insert(host);
        }
        let server_runs = self.runs_server(host);
        let this = &mut self.hosts[host];
        if plan.mode.is_server() && matches!(this.mark, Data::Member { server: false, .. }) {
            ensure!(
                !server_runs || this.raft.is_none(),
                "n{host} puts aside the log of a server that runs"
            );
            (this.raft, this.log, this.mark) = (None, 0, Data::None);
        }
        this.written = Some(plan.clone());
        this.permitted = true;
        if restarts {
            this.agent = None;
        }
        Ok(())
    }

    fn leave(&mut self, host: usize, seen: &Seen) -> Checked {
        if let Some(raft) = self.led(host)
            && self.runs_server(host)
        {
            let informed = seen.fresh && self.is_informed(host, raft);
            let id = self.hosts[host].consul_id;
            self.rafts[raft].peers.retain(|peer| peer.id != id);
            if informed {
                let mut others = (0..self.hosts.len()).filter(|other| *other != host);
                ensure!(
                    others.any(|other| self.runs_server(other)
                        && self.is_voter(other, raft)
                        && self.has_majority(other, raft)),
                    "n{host} leaves a cluster that cannot do without it"
                );
            }
        }
        let this = &mut self.hosts[host];
        if let (Some(_), Data::Member { server, .. }) = (&this.agent, &mut this.mark) {
            *server = false;
        }
        this.agent = None;
        this.permitted = false;
        self.restarting.remove(&host);
        Ok(())
    }
}
