//! Time, messages and faults.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use vip_keeper::election::{Action, Answer, Found, Input, Outcome, Peer, Record};

use super::etcd::Etcd;
use super::node::Node;

/// Which faults there are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Faults {
    /// Between two of them, in microseconds; 0 for none.
    every: u64,
    /// Of a hundred messages so many are lost.
    lost: u32,
}

impl Faults {
    pub(crate) fn all() -> Self {
        Self {
            every: 700_000,
            lost: 3,
        }
    }

    pub(crate) fn none() -> Self {
        Self { every: 0, lost: 0 }
    }
}

#[derive(Clone, Debug)]
enum Event {
    Wake {
        node: usize,
        process: u64,
    },
    /// Something reaches a process.
    Input {
        node: usize,
        process: u64,
        input: Input,
    },
    /// A write reaches etcd.
    Arrives {
        node: usize,
        process: u64,
        id: u64,
        guard: i64,
        replaces: Option<Record>,
        record: Record,
        store: u64,
    },
    /// An answer to an offer reaches etcd.
    Answers {
        answer: Answer,
    },
    Restart {
        node: usize,
    },
    /// Every node tells how it is.
    Presence,
    Fault,
}

pub(crate) struct World {
    seed: u64,
    random: fastrand::Rng,
    now: u64,
    order: u64,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<(u64, u64), Event>,
    nodes: Vec<Node>,
    etcd: Etcd,
    backup: Etcd,
    faults: Faults,
    steps: u64,
    /// Since when nobody answers; and the longest such time.
    without: u64,
    trace: bool,
}

impl World {
    pub(crate) fn new(seed: u64, faults: Faults) -> Self {
        Self::with(seed, faults, 0.0)
    }

    /// One in which every other clock runs three times as fast: its challengers do not wait for F.
    pub(crate) fn impatient(seed: u64, faults: Faults) -> Self {
        Self::with(seed, faults, 2.0)
    }

    fn with(seed: u64, faults: Faults, haste: f64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        // Clocks run apart by up to 2 %, a hundred times what real ones do.
        let nodes = (1..=5)
            .map(|index| {
                let (offset, drift) = (random.u64(0..1 << 40), random.f64() * 0.02 - 0.01);
                let haste = if index % 2 == 0 { haste } else { 0.0 };
                Node::new(index, offset, 1.0 + drift + haste)
            })
            .collect();
        let mut world = Self {
            seed,
            random,
            now: 0,
            order: 0,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            nodes,
            etcd: Etcd::new(),
            backup: Etcd::new(),
            faults,
            steps: 0,
            without: 0,
            trace: std::env::var_os("VIP_SIMULATION_TRACE").is_some(),
        };
        for node in 0..world.nodes.len() {
            world.at(1000 + node as u64, Event::Restart { node });
        }
        world.at(2000, Event::Presence);
        if faults.every > 0 {
            world.at(3_000_000, Event::Fault);
        }
        world
    }

    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.etcd.found.record().map_or(0, |record| record.epoch)
    }

    pub(crate) fn longest_without_holder(&self) -> u64 {
        self.without
    }

    fn at(&mut self, time: u64, event: Event) {
        self.order += 1;
        let key = (time.max(self.now), self.order);
        self.queue.push(Reverse(key));
        self.events.insert(key, event);
    }

    pub(crate) fn run_until(&mut self, end: u64) {
        while let Some(Reverse(key)) = self.queue.peek().copied() {
            if key.0 > end {
                break;
            }
            self.queue.pop();
            let event = self.events.remove(&key).expect("queued");
            if self.nodes.iter().all(|node| node.gate_until <= key.0) {
                self.without += key.0 - self.now;
            }
            self.now = key.0;
            self.steps += 1;
            self.happen(event);
        }
        self.now = end;
    }

    /// No more faults, and those there are end.
    pub(crate) fn calm(&mut self) {
        self.faults = Faults::none();
        self.etcd.stalled_until = 0;
        for index in 0..self.nodes.len() {
            let node = &mut self.nodes[index];
            node.frozen_until = 0;
            node.cut_until = 0;
            node.healthy = true;
            if node.dead || node.stopping {
                self.at(self.now, Event::Restart { node: index });
            } else {
                self.input(index, Input::Health(true));
                self.snapshot(index);
            }
        }
    }

    pub(crate) fn assert_one_healthy_holder(&self) {
        let holders: Vec<_> = self
            .nodes
            .iter()
            .filter(|node| node.gate_until > self.now)
            .collect();
        assert!(
            matches!(holders.as_slice(), [node] if node.healthy),
            "seed {}: {:?} hold; the record is {:?}; {:#?}",
            self.seed,
            holders.iter().map(|node| &node.name).collect::<Vec<_>>(),
            self.etcd,
            self.nodes
        );
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Wake { node, process } => {
                if self.nodes[node].wake == Some(self.now) {
                    self.nodes[node].wake = None;
                }
                self.deliver(node, process, Input::Tick);
            }
            Event::Input { node, process, input } => self.deliver(node, process, input),
            arrival @ Event::Arrives { .. } => self.arrives(arrival),
            Event::Answers { answer } => {
                for node in 0..self.nodes.len() {
                    self.send(node, Input::Answered(answer.clone()));
                }
            }
            Event::Restart { node } => self.restart(node),
            Event::Presence => self.presence(),
            Event::Fault => self.fault(),
        }
    }

    /// To a process, which may be frozen or dead.
    fn deliver(&mut self, index: usize, process: u64, input: Input) {
        let node = &mut self.nodes[index];
        if node.dead || node.process != process {
            return;
        }
        if node.frozen_until > self.now {
            let until = node.frozen_until;
            self.at(
                until,
                Event::Input {
                    node: index,
                    process,
                    input,
                },
            );
            return;
        }
        self.input(index, input);
    }

    fn input(&mut self, index: usize, input: Input) {
        let now = self.now;
        let node = &mut self.nodes[index];
        let local = node.local(now);
        if self.trace && input != Input::Tick {
            eprintln!("{now} {} <- {input:?}", node.name);
        }
        let actions = node.election.step(local, input);
        for action in actions {
            self.act(index, action);
        }
        let node = &mut self.nodes[index];
        if node.election.is_done() {
            // The process ends.
            node.dead = true;
            return;
        }
        if let Some(at) = node.election.next_wake(local) {
            let at = node.real(at).max(now + 1);
            if node.wake.is_none_or(|wake| at < wake) {
                node.wake = Some(at);
                let process = node.process;
                self.at(at, Event::Wake { node: index, process });
            }
        }
    }

    fn act(&mut self, index: usize, action: Action) {
        let now = self.now;
        if self.trace {
            eprintln!("{now} {} -> {action:?}", self.nodes[index].name);
        }
        let process = self.nodes[index].process;
        match action {
            Action::Write { id, guard, record } => {
                // Also long after the caller has given up: a member that was frozen.
                let late = if self.random.u32(..100) < self.faults.lost {
                    self.random.u64(..4_000_000)
                } else {
                    0
                };
                let arrives = now + self.random.u64(500..4_000) + late;
                if self.nodes[index].cut_until <= now && self.random.u32(..100) >= self.faults.lost {
                    let store = self.etcd.store;
                    let replaces = self.nodes[index]
                        .election
                        .seen()
                        .map(|(record, _)| record.clone());
                    self.at(
                        arrives,
                        Event::Arrives {
                            node: index,
                            process,
                            id,
                            guard,
                            replaces,
                            record,
                            store,
                        },
                    );
                }
                let input = Input::Written {
                    id,
                    outcome: Outcome::Unknown("no answer".to_owned()),
                };
                self.at(
                    now + 600_000,
                    Event::Input {
                        node: index,
                        process,
                        input,
                    },
                );
            }
            Action::Answer(answer) => {
                if self.nodes[index].cut_until <= now {
                    let arrives = now + self.random.u64(1_000..8_000);
                    self.at(arrives, Event::Answers { answer });
                }
            }
            Action::Hold { until } => {
                let until = Some(self.nodes[index].real(until));
                let fails = self.faults.every > 0 && self.random.u32(..300) == 0;
                self.gate(index, process, until, fails);
            }
            Action::Release => {
                let fails = self.faults.every > 0 && self.random.u32(..100) == 0;
                self.gate(index, process, None, fails);
            }
            Action::Announce | Action::Report(_) => {}
        }
    }

    /// What the kernel does, and what it says of it afterwards.
    fn gate(&mut self, index: usize, process: u64, until: Option<u64>, fails: bool) {
        let now = self.now;
        let node = &mut self.nodes[index];
        let result = match (until, fails) {
            (_, true) => Err("no".to_owned()),
            (None, false) => {
                node.gate_until = 0;
                Ok(())
            }
            // Read after the call: too late, so shut again.
            (Some(until), false) if until <= now => {
                node.gate_until = 0;
                Err("too late".to_owned())
            }
            (Some(until), false) => {
                node.gate_until = until;
                Ok(())
            }
        };
        let name = node.name.clone();
        if until.is_some() && self.nodes[index].gate_until > now {
            for (other, node) in self.nodes.iter().enumerate() {
                assert!(
                    other == index || node.gate_until <= now,
                    "seed {}: at {now} both {name} and {} hold the address; {:?}",
                    self.seed,
                    node.name,
                    self.etcd
                );
            }
        }
        let input = if until.is_some() {
            Input::Up(result)
        } else {
            Input::Down(result)
        };
        self.at(
            now,
            Event::Input {
                node: index,
                process,
                input,
            },
        );
    }

    fn arrives(&mut self, arrival: Event) {
        if self.etcd.stalled_until > self.now {
            let until = self.etcd.stalled_until + self.random.u64(..5_000);
            self.at(until, arrival);
            return;
        }
        let Event::Arrives {
            node,
            process,
            id,
            guard,
            replaces,
            record,
            store,
        } = arrival
        else {
            return;
        };
        if store != self.etcd.store {
            return;
        }
        let outcome = self.etcd.write(guard, replaces.as_ref(), record);
        if let Outcome::Done(_) = outcome {
            self.tell_all();
        }
        if self.random.u32(..100) >= self.faults.lost && self.nodes[node].cut_until <= self.now {
            let at = self.now + self.random.u64(500..4_000);
            let input = Input::Written { id, outcome };
            self.at(at, Event::Input { node, process, input });
        }
    }

    fn tell_all(&mut self) {
        let (found, revision) = (self.etcd.found.clone(), self.etcd.changed);
        for node in 0..self.nodes.len() {
            self.send(
                node,
                Input::Observed {
                    found: found.clone(),
                    revision,
                    live: true,
                },
            );
        }
    }

    /// Through a node's watch: in order, and late when it is cut off.
    fn send(&mut self, index: usize, input: Input) {
        let delay = self.random.u64(500..5_000);
        let node = &mut self.nodes[index];
        let at = (self.now.max(node.cut_until) + delay).max(node.last_delivery + 1);
        node.last_delivery = at;
        let process = node.process;
        self.at(
            at,
            Event::Input {
                node: index,
                process,
                input,
            },
        );
    }

    /// A watch that begins anew.
    fn snapshot(&mut self, index: usize) {
        let input = Input::Observed {
            found: self.etcd.found.clone(),
            revision: self.etcd.changed,
            live: false,
        };
        self.send(index, input);
    }

    fn restart(&mut self, index: usize) {
        self.nodes[index].start();
        let healthy = self.nodes[index].healthy;
        self.input(index, Input::Health(healthy));
        self.snapshot(index);
        self.input(index, Input::Peers(self.peers()));
    }

    fn peers(&self) -> BTreeMap<contract::DnsLabel, Peer> {
        let alive = self.nodes.iter().filter(|node| !node.dead && !node.stopping);
        alive
            .map(|node| {
                let peer = Peer {
                    healthy: node.healthy,
                    priority: 100,
                };
                (node.name.parse().expect("a label"), peer)
            })
            .collect()
    }

    fn presence(&mut self) {
        let peers = self.peers();
        for node in 0..self.nodes.len() {
            self.send(node, Input::Peers(peers.clone()));
        }
        self.at(self.now + 1_000_000, Event::Presence);
    }

    fn fault(&mut self) {
        if self.faults.every == 0 {
            return;
        }
        let next = self.now + self.random.u64(..self.faults.every * 2);
        self.at(next, Event::Fault);
        let now = self.now;
        let any = self.random.usize(..self.nodes.len());
        // Half of them hit the holder, where they hurt.
        let holder = self.nodes.iter().position(|node| node.gate_until > now);
        let index = holder.filter(|_| self.random.bool()).unwrap_or(any);
        let process = self.nodes[index].process;
        let kind = self.random.u32(..12);
        if self.trace {
            eprintln!("{now} fault {kind} on {}", self.nodes[index].name);
        }
        match kind {
            0 | 1 => {
                // What waits for it waits in order, so it thaws no earlier than was said before.
                let until = now + self.random.u64(1_000..5_000_000);
                let frozen = &mut self.nodes[index].frozen_until;
                *frozen = until.max(*frozen);
            }
            2 => {
                // kill -9: the kernel's gate stays as it is until the next process.
                self.nodes[index].dead = true;
                let at = now + self.random.u64(100_000..3_000_000);
                self.at(at, Event::Restart { node: index });
            }
            3 | 4 => self.nodes[index].cut_until = now + self.random.u64(10_000..5_000_000),
            5 => self.etcd.stalled_until = now + self.random.u64(100_000..1_200_000),
            6 => {
                let healthy = !self.nodes[index].healthy;
                self.nodes[index].healthy = healthy;
                self.deliver(index, process, Input::Health(healthy));
            }
            7 => {
                let to = self.random.usize(..self.nodes.len());
                let to = self
                    .random
                    .bool()
                    .then(|| self.nodes[to].name.parse().expect("a label"));
                self.deliver(index, process, Input::Move(to));
            }
            8 => self.deliver(index, process, Input::Conflict),
            9 => {
                self.nodes[index].stopping = true;
                self.deliver(index, process, Input::Stop);
                let at = now + self.random.u64(500_000..4_000_000);
                self.at(at, Event::Restart { node: index });
            }
            10 if self.random.u32(..2) == 0 => {
                // A node that hears of nothing would go by what it saw long ago: no restoring while there is one.
                let all_hear = self
                    .nodes
                    .iter()
                    .all(|node| node.cut_until.max(node.frozen_until) <= now);
                match self.random.u32(..6) {
                    0 => self.etcd.wipe(),
                    1..4 => self.backup = self.etcd.clone(),
                    _ if all_hear => self.etcd.restore(&self.backup),
                    _ => {}
                }
                for node in 0..self.nodes.len() {
                    self.snapshot(node);
                }
            }
            10 => self.snapshot(index),
            _ => {
                self.etcd.set(Found::Garbled);
                self.tell_all();
            }
        }
    }
}
