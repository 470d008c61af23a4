//! The one task that decides and acts: it hears etcd, the kernel, the health of the proxy and operators, asks the elections
//! what to do, and does it.
//!
//! Decisions are [`crate::election`]'s, one for each virtual IP. Here is what connects them with the world: all renewals
//! that are due go in one transaction, all refreshes of the kernel in another, and whatever is done to the kernel is done
//! before the next thing is decided.

mod act;
mod hear;
mod view;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use contract::DnsLabel;
use etcd::Watch;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::election::{Action, Election, Holder, Input, Peer, Settings, Time};
use crate::error::Error;
use crate::health::Health;
use crate::hooks::Notice;
use crate::metrics::Metrics;
use crate::net::{BootInstant, Kernel, KernelEvents, Mac};
use crate::peers::PeerClient;
use crate::store::{Keys, Presence, Report};
use crate::vip::{Vip, VipName};

pub use view::{KeeperView, RecordView, View, VipView};

/// How often the link is looked at when nothing is heard of it.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// How long a host counts as a speaker for an address.
const SPEAKERS_WITHIN: Duration = Duration::from_secs(10);
/// Values of one record that are remembered, to guard writes by.
const VALUES: usize = 4;

/// What a keeper works with.
pub struct Parts {
    /// Who it is.
    pub me: Holder,
    /// Where its host is.
    pub address: IpAddr,
    /// How it takes part; the same for all addresses.
    pub settings: Settings,
    /// The addresses.
    pub vips: Vec<Vip>,
    /// Where the keys are.
    pub keys: Keys,
    /// etcd, with deadlines that fit the settings.
    pub client: etcd::Client,
    /// The kernel.
    pub kernel: Kernel,
    /// What is measured.
    pub metrics: Metrics,
    /// Who is told of changes.
    pub hooks: mpsc::Sender<Notice>,
    /// What this keeper says of itself.
    pub presence: watch::Sender<Option<Presence>>,
    /// What `/status` shows.
    pub view: watch::Sender<View>,
    /// The other keepers, for `hold-if-alone`.
    pub peers: Option<PeerClient>,
}

/// What is asked of a keeper from outside its task.
#[derive(Debug)]
pub enum Order {
    /// Let go of everything, in order; answered when that is done.
    Stop(oneshot::Sender<()>),
    /// Another keeper, cut off from etcd, asks not to take its address.
    Promise {
        /// Which address.
        vip: VipName,
        /// Who holds it.
        holder: Holder,
        /// The number of that holder.
        epoch: u64,
        /// For how long.
        time: Duration,
        /// Whether it is promised.
        answer: oneshot::Sender<bool>,
    },
}

/// What came of something that was begun.
enum Ended {
    /// Of writes.
    Writes(Vec<act::Written>),
    /// All other keepers have promised not to take an address before then, or not all have.
    Confirmed(VipName, Option<Time>),
    /// Of a write that nobody waits for.
    Told(Result<(), String>),
}

/// One virtual IP here.
struct Part {
    vip: Vip,
    election: Election,
    /// What was seen to be in the record, by revision, newest first.
    values: VecDeque<(i64, Vec<u8>)>,
    /// Whether the kernel holds it.
    up: bool,
    /// Why the kernel could not.
    link: Result<String, String>,
    /// Whether it could be held, as the election was told.
    healthy: Option<bool>,
    /// Who was heard to speak for it.
    speakers: BTreeMap<Mac, Time>,
    /// The operator's request that is under way.
    request: Option<String>,
    /// How long the last bringing up took.
    up_took: Option<Duration>,
    /// The last change, in words, and when.
    last_change: Option<(String, std::time::SystemTime)>,
    /// The last word of the holder.
    report: Option<Report>,
    /// Whether the record is of a version that this keeper does not know.
    unreadable: Option<String>,
    /// Whether the other keepers are being asked.
    asking: bool,
}

/// See the module.
pub struct Keeper {
    me: Holder,
    address: IpAddr,
    settings: Settings,
    keys: Keys,
    client: etcd::Client,
    kernel: Kernel,
    metrics: Metrics,
    hooks: mpsc::Sender<Notice>,
    presence: watch::Sender<Option<Presence>>,
    view: watch::Sender<View>,
    peer_client: Option<PeerClient>,
    parts: BTreeMap<VipName, Part>,
    keepers: BTreeMap<DnsLabel, Presence>,
    rejected: BTreeSet<String>,
    queue: VecDeque<(VipName, Action)>,
    calls: FuturesUnordered<BoxFuture<'static, Ended>>,
    health: Health,
    etcd_error: Option<String>,
    write_error: Option<String>,
    informed: bool,
    stopping: Option<Option<oneshot::Sender<()>>>,
    look_at: Time,
    counted: Time,
}

impl Keeper {
    /// One that knows nothing yet.
    pub fn new(parts: Parts) -> Self {
        let now = now();
        let each = parts.vips.into_iter().map(|vip| {
            let part = Part {
                election: Election::new(parts.settings.clone()),
                vip: vip.clone(),
                values: VecDeque::new(),
                up: false,
                link: Err("not looked at yet".to_owned()),
                healthy: None,
                speakers: BTreeMap::new(),
                request: None,
                up_took: None,
                last_change: None,
                report: None,
                unreadable: None,
                asking: false,
            };
            (vip.name, part)
        });
        Self {
            parts: each.collect(),
            me: parts.me,
            address: parts.address,
            settings: parts.settings,
            keys: parts.keys,
            client: parts.client,
            kernel: parts.kernel,
            metrics: parts.metrics,
            hooks: parts.hooks,
            presence: parts.presence,
            view: parts.view,
            peer_client: parts.peers,
            keepers: BTreeMap::new(),
            rejected: BTreeSet::new(),
            queue: VecDeque::new(),
            calls: FuturesUnordered::new(),
            health: Health::unknown(),
            etcd_error: Some("not heard of yet".to_owned()),
            write_error: None,
            informed: false,
            stopping: None,
            look_at: now,
            counted: now,
        }
    }

    /// Works until the shutdown, then lets go of the kernel.
    ///
    /// # Errors
    /// [`Error::Close`].
    pub async fn run(
        mut self,
        mut events: KernelEvents,
        mut etcd: Watch,
        mut health: watch::Receiver<Health>,
        mut orders: mpsc::Receiver<Order>,
        shutdown: CancellationToken,
    ) -> Result<(), Error> {
        health.mark_changed();
        loop {
            let wake = self.wake_in();
            // Each arm may be cancelled: what it waits for is still there the next time. All work is done behind it.
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(ended) = self.calls.next() => self.ended(ended),
                event = etcd.next() => self.hear_etcd(event),
                Some(order) = orders.recv() => self.take_order(order),
                Ok(()) = health.changed() => {
                    self.health = health.borrow_and_update().clone();
                    self.tell_health();
                }
                event = events.next() => self.hear_kernel(event).await,
                () = sleep(wake) => {}
            }
            self.work().await;
        }
        let Self { kernel, .. } = self;
        kernel.close().await.map_err(Error::Close)
    }

    /// What is due, whatever woke us.
    async fn work(&mut self) {
        if now() >= self.look_at {
            self.look_at_links().await;
        }
        self.step_all(|_| Input::Tick);
        self.carry_out().await;
        self.ask_peers();
        self.count();
        self.say_if_stopped();
        let view = self.show();
        self.view.send_replace(view);
    }

    fn wake_in(&mut self) -> Duration {
        let now = now();
        let elections = self
            .parts
            .values()
            .filter_map(|part| part.election.next_wake(now));
        let next = elections.chain([self.look_at]).min().unwrap_or(self.look_at);
        let announce = self.kernel.announce_due().map(BootInstant::since_boot);
        let next = announce.map_or(next, |announce| announce.min(next));
        next.saturating_sub(now)
    }

    /// Gives each election an input, and queues what it wants done.
    fn step_all(&mut self, input: impl Fn(&Part) -> Input) {
        let now = now();
        for (name, part) in &mut self.parts {
            let input = input(part);
            let actions = part.election.step(now, input);
            self.queue
                .extend(actions.into_iter().map(|action| (name.clone(), action)));
        }
    }

    fn step(&mut self, name: &VipName, input: Input) {
        if let Some(part) = self.parts.get_mut(name) {
            let actions = part.election.step(now(), input);
            self.queue
                .extend(actions.into_iter().map(|action| (name.clone(), action)));
        }
    }

    fn take_order(&mut self, order: Order) {
        match order {
            Order::Stop(done) => {
                self.stopping = Some(Some(done));
                self.step_all(|_| Input::Stop);
                self.tell_presence();
            }
            Order::Promise {
                vip,
                holder,
                epoch,
                time,
                answer,
            } => {
                // Who reaches etcd can take the address in good order, and need not promise not to.
                let can = self.etcd_error.is_some()
                    && self
                        .parts
                        .get(&vip)
                        .is_some_and(|part| part.election.can_promise(&holder, epoch));
                if can {
                    let until = now() + time + self.settings.margin;
                    self.step(&vip, Input::Promised(until));
                }
                // Whoever asked may have given up.
                let _ = answer.send(can);
            }
        }
    }

    fn say_if_stopped(&mut self) {
        let without_etcd = self.etcd_error.is_some();
        let over = self
            .parts
            .values()
            .all(|part| part.election.is_done() || (without_etcd && !part.up));
        if over && let Some(done) = self.stopping.as_mut().and_then(Option::take) {
            let _ = done.send(());
        }
    }

    fn tell_health(&mut self) {
        let mut changed = false;
        for part in self.parts.values_mut() {
            let healthy = self.health.well && part.link.is_ok();
            changed |= part.healthy.replace(healthy) != Some(healthy);
            self.metrics
                .healthy
                .with_label_values(&[part.vip.name.as_str()])
                .set(i64::from(healthy));
        }
        if changed {
            self.step_all(|part| Input::Health(part.healthy == Some(true)));
        }
        self.tell_presence();
    }

    fn tell_presence(&mut self) {
        let stopping = self.stopping.is_some();
        let ready = |part: &&Part| part.healthy == Some(true) && !stopping && part.unreadable.is_none();
        let because = if stopping {
            Some("its keeper is stopping".to_owned())
        } else {
            let links = self.parts.values().filter_map(|part| part.link.as_ref().err());
            self.health.because.iter().chain(links).next().cloned()
        };
        let presence = Presence {
            process: self.me.process.clone(),
            address: self.address,
            priority: self.settings.priority,
            ready: self
                .parts
                .values()
                .filter(ready)
                .map(|part| part.vip.name.clone())
                .collect(),
            vips: self.parts.keys().cloned().collect(),
            because,
        };
        self.presence.send_if_modified(|told| {
            let changed = told.as_ref() != Some(&presence);
            *told = Some(presence);
            changed
        });
    }

    fn tell_peers(&mut self) {
        let (keepers, me) = (&self.keepers, &self.me.node);
        let mut peers: BTreeMap<VipName, BTreeMap<DnsLabel, Peer>> = BTreeMap::new();
        for name in self.parts.keys() {
            let of_this = keepers
                .iter()
                .filter(|(node, presence)| *node != me && presence.vips.contains(name));
            let of_this = of_this.map(|(node, presence)| {
                let peer = Peer {
                    healthy: presence.ready.contains(name),
                    priority: presence.priority,
                };
                (node.clone(), peer)
            });
            peers.insert(name.clone(), of_this.collect());
        }
        self.step_all(|part| Input::Peers(peers.get(&part.vip.name).cloned().unwrap_or_default()));
    }

    async fn look_at_links(&mut self) {
        self.look_at = now() + LOOK_AGAIN;
        let names: Vec<_> = self.parts.keys().cloned().collect();
        for name in names {
            let placement = self.kernel.placement(&name).await;
            let Some(part) = self.parts.get_mut(&name) else {
                continue;
            };
            let link = match placement {
                Ok(placement) if placement.is_ready() => Ok(placement.interface),
                Ok(placement) => Err(view::unready(&part.vip, &placement)),
                Err(error) => Err(daemon::error_chain(&error).to_string()),
            };
            if part.link != link {
                match &link {
                    Ok(interface) => tracing::info!(vip = %name, interface, "the link is there"),
                    Err(because) => {
                        tracing::warn!(vip = %name, because, "the address could not be held here");
                    }
                }
                part.link = link;
            }
        }
        self.tell_health();
    }

    /// When etcd does not answer: may the address stay, because everybody else has promised not to take it?
    fn ask_peers(&mut self) {
        let Some(client) = &self.peer_client else { return };
        let now = now();
        for (name, part) in &mut self.parts {
            let late = part.election.until().saturating_sub(now) < self.settings.hold * 2 / 3;
            let Some((record, _)) = part.election.seen() else {
                continue;
            };
            if part.asking || !late || !part.election.holds(now) {
                continue;
            }
            part.asking = true;
            let asked = client.ask(
                name,
                &self.me,
                record.epoch,
                self.settings.hold,
                self.settings.hold / 3,
            );
            let (name, until) = (name.clone(), now + self.settings.hold);
            self.calls.push(Box::pin(async move {
                let all = asked.await;
                Ended::Confirmed(name, all.then_some(until))
            }));
        }
    }

    fn count(&mut self) {
        let now = now();
        let passed = now.saturating_sub(std::mem::replace(&mut self.counted, now));
        for part in self.parts.values_mut() {
            let name = part.vip.name.as_str();
            let seen = part.election.seen();
            let in_time =
                seen.is_some_and(|(record, since)| record.holder.is_some() && now <= since + record.hold());
            if self.informed && !in_time && !part.up {
                self.metrics.without(&part.vip, passed);
            }
            self.metrics
                .holds
                .with_label_values(&[name])
                .set(i64::from(part.up));
            let epoch = seen.map_or(0, |(record, _)| record.epoch);
            self.metrics
                .epoch
                .with_label_values(&[name])
                .set(i64::try_from(epoch).unwrap_or(i64::MAX));
            part.speakers.retain(|_, heard| now < *heard + SPEAKERS_WITHIN);
            let speakers = part.speakers.len() + usize::from(part.up);
            self.metrics
                .speakers
                .with_label_values(&[name])
                .set(i64::try_from(speakers).unwrap_or(i64::MAX));
        }
        self.metrics.etcd.set(i64::from(self.etcd_error.is_none()));
    }
}

/// The time that everything here is counted on.
pub(crate) fn now() -> Time {
    BootInstant::now().since_boot()
}
