//! The end of a story: all faults are over, everybody comes to rest, and it is judged how.

use super::{Checked, Host, RaftPeer, World};
use crate::observed::Role;
use crate::record::{ClusterRecord, SlotState};
use crate::step::{Refusal, State, Step, next_step};

/// How many rounds it may take until all is at rest after the faults.
const PATIENCE: usize = 160;
/// How many rounds without any change are rest: longer than every waiting time.
const REST: usize = 16;

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

impl World {
    /// Everybody runs once, then time passes.
    pub(super) fn round(&mut self) -> Checked {
        let count = self.hosts.len();
        self.rounds += 1;
        for offset in 0..count {
            self.run((self.rounds + offset) % count)?;
        }
        self.tick()
    }

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
