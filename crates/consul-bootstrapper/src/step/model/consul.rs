//! Time, and what Consul does in it: gossip, elections, the peers, the one bootstrap.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Agent, Checked, LEASE, Raft, RaftPeer, World};
use crate::observed::{Member, Mode};

impl World {
    /// Time passes, by one tick.
    pub(super) fn tick(&mut self) -> Checked {
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
            // A change of the peers is committed by the peers that there are after it.
            self.replicate(raft);
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
            // A server that has lost its data knows of nothing newer. One that lost it while it formed the cluster is not
            // told from a new one; by then there was nothing to lose.
            let forgot = |peer: &RaftPeer| {
                let mut hosts = (0..self.hosts.len()).filter(|host| {
                    let host = &self.hosts[*host];
                    host.address == peer.address && host.side == side && host.raft.is_none()
                });
                hosts.any(|host| self.runs_server(host) && !self.may_bootstrap(host))
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
