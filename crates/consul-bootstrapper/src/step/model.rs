//! A whole world around the decision: hosts, etcd, Consul's gossip and raft, faults. It checks after every event that
//! no promise is broken, and in the end, once all faults are over, that every node comes to rest as it should.
//!
//! Consul's part follows what was measured with Consul 1.8: raft knows its peers by their IDs, finds one that has moved
//! through gossip, and then admits it again without a vote; a lone server is never admitted again under its new address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use contract::DnsLabel;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{TestCaseError, TestRunner};

use super::{Change, LEADERLESS, Refusal, State, Step, next_step};
use crate::observed::{
    AgentPlan, ConsulState, ConsulView, Data, EtcdView, Local, Me, Member, Mode, Observed, Peer, Presence,
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
/// How many rounds it may take until all is at rest after the faults.
const PATIENCE: usize = 160;
/// How many rounds without any change are rest: longer than every waiting time.
const REST: usize = 16;

/// How many stories are told to see that the model reaches everything.
const STORIES: usize = 100;

type Checked = Result<(), String>;

macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+));
        }
    };
}

/// One thing that happens. Numbers of hosts are taken modulo the number of hosts.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// Everybody runs once, then time passes.
    Rounds(usize),
    /// Time passes.
    Tick,
    /// A node looks and does one step.
    Step(usize),
    /// A node looks.
    Look(usize),
    /// A node acts on what it saw before.
    Act(usize),
    /// A host loses its power.
    PowerCut(usize),
    /// A host is started.
    PowerOn(usize),
    /// A host that is off loses Consul's data, or all of its state.
    Wipe(usize, bool),
    /// Consul's data is lost while the host runs, and its Consul is started again by its unit.
    WipeInPlace(usize),
    /// A host is lost for good.
    Scrap(usize),
    /// Consul ends, and is started again by its unit.
    Crash(usize),
    /// consul-bootstrapper ends, and is started again by its unit.
    Restarted(usize),
    /// Consul cannot be started on a host for a while.
    Stuck(usize, bool),
    /// A host is moved to another side of the network. etcd is on side 0.
    Side(usize, u8),
    /// A host cannot reach etcd, but the other hosts.
    Cut(usize, bool),
    /// etcd forgets everything but who lives. The first to act is a node with data.
    WipeEtcd(usize),
    /// A host is restarted under another address, perhaps one that a dead host had.
    Readdress(usize, u8),
    /// An operator decommissions a node, or takes it back.
    Decommission(usize, bool),
    /// An operator wants so many servers.
    Servers(usize, u8),
    /// An operator gives a node a role.
    Role(usize, Role),
    /// An operator wants every Consul restarted.
    RestartAll,
    /// An operator changes Consul's settings on a host.
    Settings(usize),
}

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

    // Time.

    fn tick(&mut self) -> Checked {
        self.now += 1;
        self.expire();
        for host in 0..self.hosts.len() {
            let this = &mut self.hosts[host];
            if this.on && this.permitted && !this.stuck && this.agent.is_none() {
                let plan = this.written.clone().expect("a permit is given for a plan");
                this.agent = Some(Agent {
                    plan,
                    joined: false,
                    members: BTreeMap::new(),
                });
                self.changes += 1;
            }
        }
        self.gossip();
        for raft in 0..self.rafts.len() {
            self.elect(raft)?;
            self.change_peers(raft);
            self.replicate(raft);
        }
        self.bootstrap()?;
        for host in 0..self.hosts.len() {
            let led = self.led(host).is_some();
            let this = &mut self.hosts[host];
            this.leaderless = if led || this.agent.is_none() {
                0
            } else {
                this.leaderless + 1
            };
            for ticks in this.absent.values_mut() {
                *ticks += 1;
            }
        }
        let mut restarting = std::mem::take(&mut self.restarting);
        restarting.retain(|host| {
            let votes = (0..self.rafts.len()).any(|raft| self.is_voter(*host, raft));
            votes && self.hosts[*host].permitted && self.led(*host).is_none()
        });
        self.restarting = restarting;
        Ok(())
    }

    fn expire(&mut self) {
        for host in 0..self.hosts.len() {
            let reaches = self.reaches_etcd(host);
            let left = |left: u32| if reaches { LEASE } else { left.saturating_sub(1) };
            if let Some((_, lease)) = self.presences.get_mut(&host) {
                *lease = left(*lease);
            }
            if let Some((holder, lease)) = &mut self.turn
                && *holder == host
            {
                *lease = left(*lease);
            }
        }
        self.presences.retain(|_, (_, lease)| *lease > 0);
        self.turn = self.turn.filter(|(_, lease)| *lease > 0);
    }

    /// Everybody who is connected knows of everybody.
    fn gossip(&mut self) {
        let agents: Vec<usize> = (0..self.hosts.len())
            .filter(|host| self.hosts[*host].agent.is_some())
            .collect();
        for host in &agents {
            let side = self.hosts[*host].side;
            let running: BTreeSet<IpAddr> = agents
                .iter()
                .filter(|other| self.hosts[**other].side == side)
                .map(|other| self.hosts[*other].address)
                .collect();
            let this = &mut self.hosts[*host];
            if let Some(agent) = this.agent.as_mut().filter(|agent| !agent.joined) {
                let found: Vec<_> = agent.plan.join.intersection(&running).copied().collect();
                agent.joined = agent.plan.join.is_empty() || !found.is_empty();
                this.knows.extend(found);
            }
        }
        let mut pools: BTreeMap<usize, usize> = agents.iter().map(|host| (*host, *host)).collect();
        for one in &agents {
            for other in &agents {
                let (a, b) = (&self.hosts[*one], &self.hosts[*other]);
                if a.side == b.side && a.knows.contains(&b.address) && pools[one] != pools[other] {
                    let (from, to) = (pools[one], pools[other]);
                    for pool in pools.values_mut().filter(|pool| **pool == from) {
                        *pool = to;
                    }
                }
            }
        }
        for host in &agents {
            let pool: Vec<usize> = agents
                .iter()
                .copied()
                .filter(|other| pools[other] == pools[host])
                .collect();
            let told: BTreeMap<usize, Member> =
                pool.iter().map(|other| (*other, self.member(*other))).collect();
            let heard: BTreeMap<usize, Member> = pool
                .iter()
                .flat_map(|other| {
                    self.hosts[*other]
                        .agent
                        .iter()
                        .flat_map(|agent| agent.members.clone())
                })
                .collect();
            let this = &mut self.hosts[*host];
            this.knows.extend(told.values().map(|member| member.address));
            let agent = this.agent.as_mut().expect("it runs");
            for (other, member) in heard {
                agent.members.entry(other).or_insert(member);
            }
            for member in agent.members.values_mut() {
                member.alive = false;
            }
            agent.members.extend(told);
        }
    }

    fn member(&self, host: usize) -> Member {
        let this = &self.hosts[host];
        Member {
            node: this.name.to_string(),
            address: this.address,
            alive: true,
            server: self.runs_server(host),
            id: this.consul_id.to_string(),
        }
    }

    fn elect(&mut self, raft: usize) -> Checked {
        if self.leader(raft).is_some() {
            return Ok(());
        }
        let mut elected = None;
        for candidate in 0..self.hosts.len() {
            let log = self.hosts[candidate].log;
            let runs = self.runs_server(candidate) && self.hosts[candidate].raft == Some(raft);
            if !runs || !self.is_voter(candidate, raft) {
                continue;
            }
            let voters: Vec<&RaftPeer> = self.rafts[raft].peers.iter().filter(|peer| peer.voter).collect();
            let votes = |peer: &RaftPeer| {
                let voter = self.by_consul_id(peer.id);
                voter.is_some_and(|voter| {
                    self.hosts[voter].log <= log && self.answers(candidate, voter, peer, raft)
                })
            };
            let side = self.hosts[candidate].side;
            // A server that has lost its data knows of nothing newer.
            let forgot = |peer: &RaftPeer| {
                let mut hosts =
                    (0..self.hosts.len()).filter(|host| self.hosts[*host].address == peer.address);
                hosts.any(|host| {
                    self.runs_server(host) && self.hosts[host].raft.is_none() && self.hosts[host].side == side
                })
            };
            let granted = voters.iter().filter(|peer| votes(peer)).count();
            let wrongly = voters.iter().filter(|peer| votes(peer) || forgot(peer)).count();
            ensure!(
                wrongly * 2 <= voters.len() || log >= self.rafts[raft].committed,
                "n{candidate} can be elected, and would lose what was committed"
            );
            if granted * 2 > voters.len() {
                elected = Some(candidate);
            }
        }
        if elected.is_some() {
            self.changes += 1;
        }
        self.rafts[raft].leader = elected;
        Ok(())
    }

    /// Whoever is there has what the leader has.
    fn replicate(&mut self, raft: usize) {
        let Some(leader) = self.leader(raft) else { return };
        let log = self.hosts[leader].log + 1;
        for peer in self.rafts[raft].peers.clone() {
            if let Some(host) = self.by_consul_id(peer.id)
                && self.answers(leader, host, &peer, raft)
            {
                self.hosts[host].log = log;
            }
        }
        self.rafts[raft].committed = log;
    }

    /// What a leader and autopilot do: one change at a time.
    fn change_peers(&mut self, raft: usize) {
        let Some(leader) = self.leader(raft) else { return };
        let agent = self.hosts[leader].agent.as_ref().expect("it leads");
        let servers: Vec<usize> = agent
            .members
            .iter()
            .filter(|(_, member)| member.alive && member.server)
            .map(|(host, _)| *host)
            .collect();
        let alive = |peer: &RaftPeer| servers.iter().any(|host| self.hosts[*host].consul_id == peer.id);
        let peers = &self.rafts[raft].peers;
        let admitted = servers.iter().find_map(|host| {
            // A leader that admits itself again must step down: it does so only among three.
            let stays = *host == leader && peers.len() < 3;
            let next = admit(peers, self.hosts[*host].consul_id, self.hosts[*host].address)?;
            let voters = next.iter().filter(|peer| peer.voter);
            let majority = voters.clone().filter(|peer| alive(peer)).count() * 2 > voters.count();
            (!stays && majority).then_some((*host, next))
        });
        let next = match &admitted {
            Some((_, next)) => next.clone(),
            None => {
                let mut next = peers.clone();
                if let Some(peer) = next.iter_mut().find(|peer| !peer.voter && alive(peer)) {
                    peer.voter = true;
                }
                next
            }
        };
        let healthy = next.iter().all(alive);
        if let Some((host, _)) = admitted {
            self.hosts[host].raft.get_or_insert(raft);
        }
        let raft = &mut self.rafts[raft];
        if raft.peers != next || raft.healthy != healthy {
            self.changes += 1;
        }
        raft.peers = next;
        raft.healthy = healthy;
    }

    /// Consul's own rule: as many servers as are expected see each other, and none of them has data.
    fn bootstrap(&mut self) -> Checked {
        for host in 0..self.hosts.len() {
            let Some(agent) = &self.hosts[host].agent else {
                continue;
            };
            let Mode::Server { expect: Some(expect) } = agent.plan.mode else {
                continue;
            };
            let servers: Vec<usize> = agent
                .members
                .iter()
                .filter(|(_, member)| member.alive && member.server)
                .map(|(other, _)| *other)
                .collect();
            let conflict = servers.iter().any(|other| {
                let mode = self.hosts[*other].agent.as_ref().map(|agent| &agent.plan.mode);
                matches!(mode, Some(Mode::Server { expect: Some(other) }) if *other != expect)
            });
            let data = servers.iter().any(|other| self.hosts[*other].raft.is_some());
            if servers.len() < usize::from(expect) || conflict || data {
                continue;
            }
            *self.reached.entry("bootstrap".to_owned()).or_default() += 1;
            self.changes += 1;
            // One that lost all its data before anybody could note that it was there may begin again.
            let noted = self.record.as_ref().is_none_or(|(record, _)| record.bootstrapped);
            if !noted && self.hosts.iter().all(|host| host.raft.is_none()) {
                self.rafts.clear();
            }
            let raft = self.rafts.len();
            ensure!(raft == 0, "a second cluster is bootstrapped by {servers:?}");
            for other in &servers {
                self.hosts[*other].raft = Some(raft);
            }
            let peer = |other: &usize| RaftPeer {
                id: self.hosts[*other].consul_id,
                address: self.hosts[*other].address,
                voter: true,
            };
            self.rafts.push(Raft {
                peers: servers.iter().map(peer).collect(),
                leader: None,
                healthy: false,
                committed: 0,
            });
            self.elect(raft)?;
        }
        Ok(())
    }

    // Faults and orders.

    fn power_cut(&mut self, host: usize) {
        let this = &mut self.hosts[host];
        this.on = false;
        this.permitted = false;
        this.agent = None;
        this.absent.clear();
        this.leaderless = 0;
        this.saw = None;
        self.restarting.remove(&host);
    }

    fn free_address(&self, wanted: u8) -> IpAddr {
        let taken: BTreeSet<IpAddr> = self
            .hosts
            .iter()
            .filter(|host| host.on)
            .map(|host| host.address)
            .collect();
        (0..=u8::MAX)
            .map(|more| address(1 + (wanted.wrapping_add(more)) % 32))
            .find(|at| !taken.contains(at))
            .expect("there are more addresses than hosts")
    }

    fn power_on(&mut self, host: usize) {
        let this = &self.hosts[host];
        if this.on || this.scrapped {
            return;
        }
        let taken = self
            .hosts
            .iter()
            .any(|other| other.on && other.address == this.address);
        if taken {
            self.hosts[host].address = self.free_address(host as u8);
        }
        self.hosts[host].on = true;
    }

    fn wipe(&mut self, host: usize, all: bool) {
        self.ids += 1;
        let this = &mut self.hosts[host];
        this.mark = Data::None;
        (this.raft, this.log) = (None, 0);
        this.consul_id = self.ids;
        this.knows.clear();
        if all {
            this.record = None;
            this.written = None;
        }
    }

    fn may_bootstrap(&self, host: usize) -> bool {
        let plan = self.hosts[host].written.as_ref();
        plan.is_some_and(|plan| matches!(plan.mode, Mode::Server { expect: Some(_) }))
    }

    /// Lets one thing happen.
    pub(super) fn happen(&mut self, event: &Event) -> Checked {
        let count = self.hosts.len();
        let at = |host: &usize| host % count;
        match event {
            Event::Rounds(rounds) => {
                for _ in 0..*rounds {
                    self.round()?;
                }
            }
            Event::Tick => self.tick()?,
            Event::Step(host) if self.hosts[at(host)].on => {
                self.step(at(host))?;
            }
            Event::Look(host) if self.hosts[at(host)].on => {
                let mut seen = self.observe(at(host));
                seen.fresh = false;
                self.hosts[at(host)].saw = Some(seen);
            }
            Event::Act(host) => {
                if let Some(seen) = self.hosts[at(host)].saw.take()
                    && self.now - seen.tick <= STALE
                {
                    self.apply(at(host), &seen, &next_step(&seen.observed))?;
                }
            }
            Event::PowerCut(host) => self.power_cut(at(host)),
            Event::PowerOn(host) => self.power_on(at(host)),
            Event::Wipe(host, all) => {
                self.power_cut(at(host));
                // Who may bootstrap still, and is emptied meanwhile, is told from a new one by its other files alone.
                let all = *all || self.may_bootstrap(at(host));
                self.wipe(at(host), all);
                self.power_on(at(host));
            }
            Event::WipeInPlace(host) => {
                // With another fault at the same time its vote does harm before anybody could know.
                let healthy = self.led(at(host)).is_some_and(|raft| {
                    let peers = self.rafts[raft].peers.iter();
                    let leader = self.leader(raft).unwrap_or_default();
                    peers.into_iter().all(|peer| {
                        self.by_consul_id(peer.id)
                            .is_some_and(|host| self.answers(leader, host, peer, raft))
                    })
                });
                if healthy && !self.may_bootstrap(at(host)) {
                    let this = &mut self.hosts[at(host)];
                    this.agent = None;
                    this.saw = None;
                    self.wipe(at(host), false);
                    self.tick()?;
                }
            }
            Event::Scrap(host) => {
                let left = self.hosts.iter().filter(|host| !host.scrapped).count();
                if left > 3 {
                    self.power_cut(at(host));
                    self.hosts[at(host)].scrapped = true;
                    (self.hosts[at(host)].raft, self.hosts[at(host)].log) = (None, 0);
                }
            }
            Event::Crash(host) => self.hosts[at(host)].agent = None,
            Event::Restarted(host) => {
                let this = &mut self.hosts[at(host)];
                this.absent.clear();
                this.leaderless = 0;
                this.saw = None;
            }
            Event::Stuck(host, stuck) => self.hosts[at(host)].stuck = *stuck,
            Event::Side(host, side) => self.hosts[at(host)].side = *side,
            Event::Cut(host, cut) => self.hosts[at(host)].cut = *cut,
            Event::WipeEtcd(host) => self.wipe_etcd(at(host))?,
            Event::Readdress(host, wanted) => {
                if !self.hosts[at(host)].scrapped {
                    self.power_cut(at(host));
                    self.hosts[at(host)].address = self.free_address(*wanted);
                    self.power_on(at(host));
                }
            }
            Event::Decommission(host, undo) => {
                let name = self.hosts[at(host)].name.clone();
                self.order(|record| {
                    if *undo {
                        record.leaving.remove(&name);
                    } else {
                        record.leaving.insert(name.clone());
                    }
                });
            }
            Event::Servers(host, servers) => self.hosts[at(host)].servers = *servers,
            Event::Role(host, role) => self.hosts[at(host)].role = *role,
            Event::RestartAll => self.order(|record| record.restart += 1),
            Event::Settings(host) => self.hosts[at(host)].settings += 1,
            Event::Step(_) | Event::Look(_) => {}
        }
        Ok(())
    }

    fn order(&mut self, change: impl Fn(&mut ClusterRecord)) {
        if let Some((record, revision)) = &mut self.record {
            change(record);
            self.revision += 1;
            *revision = self.revision;
        }
    }

    /// Only while a node with data is there: nothing else could know of the cluster.
    fn wipe_etcd(&mut self, first: usize) -> Checked {
        let Some((record, _)) = self.record.clone() else {
            return Ok(());
        };
        let knows = |host: &usize| {
            let this = &self.hosts[*host];
            self.reaches_etcd(*host)
                && matches!(&this.mark, Data::Member { cluster, .. } if *cluster == record.id)
        };
        let count = self.hosts.len();
        let order = (0..count).map(|offset| (first + offset) % count);
        let Some(witness) = order.into_iter().find(knows) else {
            return Ok(());
        };
        let (kept, turn) = (self.record.take(), self.turn.take());
        let seen = self.observe(witness);
        if let Step::Create(..) = next_step(&seen.observed) {
            self.step(witness)?;
            *self.reached.entry("etcd wiped".to_owned()).or_default() += 1;
        } else {
            (self.record, self.turn) = (kept, turn);
        }
        Ok(())
    }

    /// Everybody runs once, then time passes.
    pub(super) fn round(&mut self) -> Checked {
        let count = self.hosts.len();
        self.rounds += 1;
        for offset in 0..count {
            self.run((self.rounds + offset) % count)?;
        }
        self.tick()
    }

    // The end.

    /// All faults are over, and whoever is left is started.
    pub(super) fn heal(&mut self) -> Checked {
        for host in 0..self.hosts.len() {
            let this = &mut self.hosts[host];
            (this.side, this.cut, this.stuck, this.saw) = (0, false, false, None);
            self.power_on(host);
        }
        // Who has just died is noticed: nobody can be blamed for what could not be known.
        self.tick()?;
        self.tick()?;
        let prospects = self.prospects();
        *self.reached.entry(format!("{prospects:?}")).or_default() += 1;
        let mut quiet = 0;
        for _ in 0..PATIENCE {
            let before = self.changes;
            self.round()?;
            quiet = if self.changes == before { quiet + 1 } else { 0 };
            if quiet == REST {
                break;
            }
        }
        if quiet < REST {
            let mut last = Vec::new();
            for host in 0..self.hosts.len() {
                let seen = self.observe(host);
                last.push(next_step(&seen.observed));
            }
            return Err(format!("nothing comes to rest: {last:?}"));
        }
        let mut states = Vec::new();
        for host in 0..self.hosts.len() {
            states.push(self.run(host)?);
        }
        self.judge(prospects, &states)
    }

    /// What may be hoped for.
    fn prospects(&self) -> Prospects {
        let Some(raft) = self.rafts.first() else {
            return Prospects::Unborn;
        };
        let Some((record, _)) = &self.record else {
            return Prospects::Unmarked;
        };
        let holder = |peer: &&RaftPeer| {
            self.by_consul_id(peer.id)
                .map(|host| &self.hosts[host])
                .filter(|host| !host.scrapped && host.raft == Some(0))
        };
        let voters: Vec<_> = raft.peers.iter().filter(|peer| peer.voter).collect();
        let (mut data, mut marked) = (0, 0);
        for host in voters.iter().filter_map(holder) {
            data += 1;
            marked += usize::from(host.mark.is_server_of(&record.id));
        }
        let anywhere =
            |has: &dyn Fn(&Host) -> bool| self.hosts.iter().any(|host| !host.scrapped && has(host));
        if marked * 2 > voters.len() {
            Prospects::Good
        } else if data * 2 > voters.len() || !record.bootstrapped {
            Prospects::Unmarked
        } else if anywhere(&|host| host.mark.is_server_of(&record.id)) {
            Prospects::QuorumLost
        } else if anywhere(&|host| host.raft.is_some()) {
            Prospects::Unmarked
        } else {
            Prospects::AllLost
        }
    }

    fn judge(&self, prospects: Prospects, ends: &[Option<Step>]) -> Checked {
        let tell = || {
            let record = self.record.as_ref().map(|(record, _)| record);
            let raft: Vec<_> = self.rafts.iter().map(|raft| (&raft.peers, raft.leader)).collect();
            let hosts = self.hosts.iter().map(|host| {
                let agent = host.agent.as_ref().map(|agent| &agent.plan);
                format!(
                    "{} at {}, {:?}: {:?} raft {:?} id {}, runs {agent:?}",
                    host.name, host.address, host.role, host.mark, host.raft, host.consul_id
                )
            });
            let hosts: Vec<_> = hosts.collect();
            format!(
                "{prospects:?}: {ends:?}\n{record:?}\n{raft:?}\n{}",
                hosts.join("\n")
            )
        };
        let led = (0..self.rafts.len()).any(|raft| self.leader(raft).is_some());
        let candidates = self
            .hosts
            .iter()
            .filter(|host| host.on && self.may_serve(host))
            .count();
        let Some((record, _)) = &self.record else {
            ensure!(candidates == 0, "there is no record: {}", tell());
            return Ok(());
        };
        match prospects {
            Prospects::Good => ensure!(led, "no leader: {}", tell()),
            Prospects::Unborn if candidates >= usize::from(record.servers) && !self.is_held_up(record) => {
                ensure!(led, "not bootstrapped: {}", tell());
            }
            Prospects::QuorumLost | Prospects::AllLost => {
                ensure!(!led, "a leader without a quorum: {}", tell());
                return self
                    .judge_lost(prospects, record, ends)
                    .map_err(|why| format!("{why}: {}", tell()));
            }
            Prospects::Unborn | Prospects::Unmarked => {}
        }
        if led && !self.is_in_the_way() {
            self.judge_led(record, candidates, ends)
                .map_err(|why| format!("{why}: {}", tell()))?;
        }
        Ok(())
    }

    fn may_serve(&self, host: &Host) -> bool {
        let leaving = self
            .record
            .as_ref()
            .is_some_and(|(record, _)| record.leaving.contains(&host.name));
        host.role != Role::Client && !leaving
    }

    /// Whether a server that leads keeps in raft the address that another host has now: it admits nobody there without
    /// losing itself.
    fn is_in_the_way(&self) -> bool {
        let peers = self.rafts.iter().flat_map(|raft| &raft.peers);
        let taken = |peer: &RaftPeer| {
            self.hosts
                .iter()
                .any(|host| host.address == peer.address && host.consul_id != peer.id)
        };
        let alive = |peer: &RaftPeer| self.hosts.iter().any(|host| host.on && host.consul_id == peer.id);
        peers.clone().any(|peer| taken(peer) && alive(peer))
    }

    /// Whether one of those who were to bootstrap together will never come.
    fn is_held_up(&self, record: &ClusterRecord) -> bool {
        let lost = |host: &Host| host.scrapped && record.slot(&host.name).is_some();
        record.sealed && self.hosts.iter().any(lost)
    }

    fn judge_led(&self, record: &ClusterRecord, candidates: usize, ends: &[Option<Step>]) -> Checked {
        let held = |host: &Host| record.slot(&host.name).is_some();
        let servers = self.hosts.iter().filter(|host| host.on && held(host)).count();
        let wanted = candidates.min(usize::from(record.servers));
        ensure!(servers >= wanted, "{servers} servers where {wanted} could be");
        for (number, (host, end)) in self.hosts.iter().zip(ends).enumerate() {
            let Some(Step::Rest(state)) = end else {
                ensure!(end.is_none(), "n{number} is not at rest");
                continue;
            };
            let slot = record.slot(&host.name);
            let whole = servers == usize::from(record.servers).min(record.slots.len());
            let good = match state {
                State::Settled { server } => *server == slot.is_some() && *server == self.is_voter(number, 0),
                State::Left => record.leaving.contains(&host.name) && slot.is_none(),
                State::CannotLeave { .. } => {
                    record.leaving.contains(&host.name) && (servers <= 2 || servers < record.slots.len())
                }
                State::AwaitsRestart { .. } => !whole,
                _ => false,
            };
            ensure!(good, "n{number} rests in {state:?}");
            if let Some(slot) = slot {
                ensure!(slot.state == SlotState::Voter, "n{number} has no vote");
            }
            if let (State::Settled { .. }, Some(agent)) = (state, &host.agent) {
                ensure!(
                    agent.plan.restart == record.restart,
                    "n{number} was not restarted"
                );
            }
        }
        let running = (0..self.hosts.len())
            .filter(|host| self.runs_server(*host))
            .count();
        ensure!(running <= usize::from(record.servers), "{running} servers run");
        let strangers = self.rafts[0].peers.iter().filter(|peer| {
            let node = self.by_consul_id(peer.id).map(|host| &self.hosts[host].name);
            let mut slots = record.slots.iter();
            !slots.any(|slot| Some(&slot.node) == node || slot.address == peer.address)
        });
        let all_here = servers == record.slots.len();
        ensure!(
            !all_here || strangers.count() == 0,
            "a server of nobody's slot is left in raft"
        );
        Ok(())
    }

    fn judge_lost(&self, prospects: Prospects, record: &ClusterRecord, ends: &[Option<Step>]) -> Checked {
        // Who was no server any more may have given up its data meanwhile.
        let all_lost = !self
            .hosts
            .iter()
            .any(|host| host.on && host.mark.is_server_of(&record.id));
        for (host, end) in self.hosts.iter().zip(ends) {
            let holds = record.slot(&host.name).is_some();
            let good = match end {
                None => true,
                Some(Step::Refuse(Refusal::AllDataLost)) => all_lost && holds,
                Some(Step::Rest(State::QuorumLost { .. })) => true,
                Some(Step::Rest(State::Left | State::CannotLeave { .. })) => {
                    record.leaving.contains(&host.name)
                }
                _ => false,
            };
            ensure!(good, "{} ends in {end:?}", host.name);
        }
        let all_there = record
            .slots
            .iter()
            .all(|slot| self.hosts.iter().any(|host| host.on && host.name == slot.node));
        if prospects == Prospects::AllLost && all_there {
            for (host, end) in self
                .hosts
                .iter()
                .zip(ends)
                .filter(|(host, _)| record.slot(&host.name).is_some())
            {
                ensure!(
                    matches!(end, Some(Step::Refuse(Refusal::AllDataLost))),
                    "{} does not say that all is lost",
                    host.name
                );
            }
        }
        Ok(())
    }
}

/// The peers with that server among them, without a vote; nothing if it is there already.
fn admit(peers: &[RaftPeer], id: u32, address: IpAddr) -> Option<Vec<RaftPeer>> {
    if peers.iter().any(|peer| peer.id == id && peer.address == address) {
        return None;
    }
    let mut next: Vec<_> = peers
        .iter()
        .filter(|peer| peer.id != id && peer.address != address)
        .cloned()
        .collect();
    next.push(RaftPeer {
        id,
        address,
        voter: false,
    });
    Some(next)
}

/// What may be hoped for when the faults are over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Prospects {
    /// There never was a cluster.
    Unborn,
    /// There was one for a moment, and it was not written down everywhere.
    Unmarked,
    /// Most voters have their data.
    Good,
    /// Too few voters have their data.
    QuorumLost,
    /// Nobody has any.
    AllLost,
}

fn event() -> impl Strategy<Value = Event> {
    let host = 0..6_usize;
    prop_oneof![
        12 => (1..4_usize).prop_map(Event::Rounds),
        3 => (6..10_usize).prop_map(Event::Rounds),
        6 => Just(Event::Tick),
        16 => host.clone().prop_map(Event::Step),
        4 => host.clone().prop_map(Event::Look),
        4 => host.clone().prop_map(Event::Act),
        5 => host.clone().prop_map(Event::PowerCut),
        5 => host.clone().prop_map(Event::PowerOn),
        3 => (host.clone(), any::<bool>()).prop_map(|(host, all)| Event::Wipe(host, all)),
        1 => host.clone().prop_map(Event::WipeInPlace),
        1 => host.clone().prop_map(Event::Scrap),
        3 => host.clone().prop_map(Event::Crash),
        2 => host.clone().prop_map(Event::Restarted),
        3 => (host.clone(), any::<bool>()).prop_map(|(host, stuck)| Event::Stuck(host, stuck)),
        5 => (host.clone(), 0..3_u8).prop_map(|(host, side)| Event::Side(host, side)),
        3 => (host.clone(), any::<bool>()).prop_map(|(host, cut)| Event::Cut(host, cut)),
        2 => host.clone().prop_map(Event::WipeEtcd),
        3 => (host.clone(), 0..8_u8).prop_map(|(host, at)| Event::Readdress(host, at)),
        3 => (host.clone(), any::<bool>()).prop_map(|(host, undo)| Event::Decommission(host, undo)),
        2 => (host.clone(), prop_oneof![Just(1), Just(3), Just(5)]).prop_map(|(host, n)| Event::Servers(host, n)),
        2 => (host.clone(), prop_oneof![Just(Role::Auto), Just(Role::Client), Just(Role::Server)])
            .prop_map(|(host, role)| Event::Role(host, role)),
        1 => Just(Event::RestartAll),
        2 => host.prop_map(Event::Settings),
    ]
}

/// Hosts, server slots, and what happens to them.
fn story() -> impl Strategy<Value = (usize, u8, Vec<Event>)> {
    (
        4..=6_usize,
        prop_oneof![1 => Just(1_u8), 6 => Just(3), 1 => Just(5)],
        any::<bool>(),
        prop::collection::vec(event(), 0..70),
    )
        .prop_map(|(hosts, servers, calm, mut events)| {
            if calm {
                events.insert(0, Event::Rounds(8));
            }
            (hosts, servers, events)
        })
}

/// Lets it all happen, and then be over.
pub(super) fn live(hosts: usize, servers: u8, events: &[Event]) -> Result<World, String> {
    let mut world = World::new(hosts, servers);
    for event in events {
        world.happen(event)?;
    }
    world.heal()?;
    Ok(world)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens: never a second cluster, never two slots freed at once, never two voters restarted at once;
    /// and when it is over everybody comes to rest, with a leader if most voters have kept their data.
    #[test]
    fn whatever_happens_there_is_one_cluster_and_it_heals((hosts, servers, events) in story()) {
        live(hosts, servers, &events).map_err(TestCaseError::fail)?;
    }
}

/// A test of the test: a model in which something never happens proves nothing about it.
#[test]
fn the_model_reaches_every_step_change_and_state() {
    let mut runner = TestRunner::deterministic();
    let mut reached = BTreeMap::<String, u64>::new();
    for _ in 0..STORIES {
        let (hosts, servers, events) = story().new_tree(&mut runner).expect("a story").current();
        let world = live(hosts, servers, &events).expect("a world at rest");
        for (what, times) in world.reached {
            *reached.entry(what).or_default() += times;
        }
    }
    panic!("{reached:#?}");
}
