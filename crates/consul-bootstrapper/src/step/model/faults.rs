//! What happens to the world: faults, and what operators want.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Checked, STALE, World, address};
use crate::observed::{Data, Mode, Role};
use crate::record::ClusterRecord;
use crate::step::{Step, next_step};

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

impl World {
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

    pub(super) fn power_on(&mut self, host: usize) {
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

    pub(super) fn may_bootstrap(&self, host: usize) -> bool {
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
}
