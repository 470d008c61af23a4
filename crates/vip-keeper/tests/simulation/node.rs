//! One node: its clock, its process, its kernel.

use std::time::Duration;

use vip_keeper::election::{Election, Holder, ProcessId, Settings};

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    /// Local time = offset + real time × rate.
    offset: u64,
    rate: f64,
    pub(crate) election: Election,
    settings: Settings,
    /// Counts its processes: what was meant for a dead one does not reach the next.
    pub(crate) process: u64,
    /// Not running before then (killed), or `None`.
    pub(crate) dead: bool,
    /// Does nothing before then.
    pub(crate) frozen_until: u64,
    /// Cut off from etcd before then.
    pub(crate) cut_until: u64,
    pub(crate) healthy: bool,
    /// Until when, in real time, the kernel lets the address answer.
    pub(crate) gate_until: u64,
    /// The next wake that was asked for.
    pub(crate) wake: Option<u64>,
    /// Messages to it arrive in order.
    pub(crate) last_delivery: u64,
    pub(crate) stopping: bool,
}

impl Node {
    pub(crate) fn new(index: usize, offset: u64, rate: f64) -> Self {
        let name = format!("n{index}");
        let settings = Settings {
            me: Holder {
                node: name.parse().expect("a label"),
                process: ProcessId(String::new()),
            },
            renew: Duration::from_millis(400),
            hold: Duration::from_millis(1200),
            slack: Duration::ZERO,
            margin: Duration::from_millis(150),
            priority: 100,
            preempt: None,
        };
        let mut node = Self {
            name,
            offset,
            rate,
            election: Election::new(settings.clone()),
            settings,
            process: 0,
            dead: false,
            frozen_until: 0,
            cut_until: 0,
            healthy: true,
            gate_until: 0,
            wake: None,
            last_delivery: 0,
            stopping: false,
        };
        node.start();
        node
    }

    /// A new process: knows nothing, and shuts what an earlier one has left.
    pub(crate) fn start(&mut self) {
        self.process += 1;
        self.settings.me.process = ProcessId(format!("{}-{}", self.name, self.process));
        self.election = Election::new(self.settings.clone());
        self.dead = false;
        self.stopping = false;
        self.gate_until = 0;
        self.wake = None;
    }

    pub(crate) fn local(&self, real: u64) -> Duration {
        Duration::from_micros(self.offset + (real as f64 * self.rate) as u64)
    }

    /// When its clock shows this.
    pub(crate) fn real(&self, local: Duration) -> u64 {
        let since = (local.as_micros() as u64).saturating_sub(self.offset);
        (since as f64 / self.rate).ceil() as u64
    }
}
