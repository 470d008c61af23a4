//! Who holds one virtual IP: the decision of one node, as a state machine without clock or I/O.
//!
//! [`Election::step`] takes what happened and when, and gives what is to be done. Times are this node's own, since its boot;
//! nobody else's clock is ever looked at. Why that is safe is in decision 0009; `docs/spec` has the same machine for
//! a model checker, and `tests/simulation.rs` drives this one through faults.

mod claim;
mod hand_over;
mod hold;
mod record;
#[cfg(test)]
mod tests;
mod words;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use contract::DnsLabel;

pub use record::{Answer, Found, HOLD_MAX, Holder, Offer, ProcessId, Record, RecordError, VERSION};

/// A time of this node: since its boot, suspension included (`CLOCK_BOOTTIME`).
pub type Time = Duration;

/// Between a write that failed and the next one.
const RETRY: Duration = Duration::from_millis(40);
/// How long a node has to accept an offer.
pub const OFFER_WITHIN: Duration = Duration::from_secs(1);
/// How long a node that did not accept is not asked again.
const SHUNNED: Duration = Duration::from_secs(10);
/// Between the claims of two candidates, so that priorities count.
const STAGGER: Duration = Duration::from_millis(30);
/// The most candidates that one waits for.
const STAGGER_MOST: u32 = 4;
/// Attempts whose outcome is not known yet, at most. Each is a lost answer; older ones are told by nobody any more.
const ATTEMPTS: usize = 32;
/// How long after one conflict on the link another makes no difference.
const CONFLICT_PAUSE: Duration = Duration::from_secs(2);

/// How one node takes part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Who it is.
    pub me: Holder,
    /// Between two renewals.
    pub renew: Duration,
    /// F: how long after the sending of a write this node may have the address, as its records say.
    pub hold: Duration,
    /// How much earlier it lets go: for a kernel that takes the address away late.
    pub slack: Duration,
    /// How much longer than F a challenger waits: for the removal, and for clocks that drift.
    pub margin: Duration,
    /// Candidates with a higher one claim first.
    pub priority: u8,
    /// Whether the address goes to a node of a higher priority, and after how long of its being well.
    pub preempt: Option<Duration>,
}

/// Another keeper, as its key in etcd shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Whether it could have the address.
    pub healthy: bool,
    /// Its priority.
    pub priority: u8,
}

/// Why an address is to move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// An operator asked.
    Operator,
    /// The keeper stops, or its host.
    Stop,
    /// The proxy here is not well.
    Unhealthy,
    /// A node of a higher priority is well.
    Preempted,
}

impl Why {
    /// One word, for metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Stop => "stop",
            Self::Unhealthy => "unhealthy",
            Self::Preempted => "preempted",
        }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Time has passed.
    Tick,
    /// The record, as the watch shows it.
    Observed {
        /// What is there.
        found: Found,
        /// The revision at which it came to be so.
        revision: i64,
        /// Whether this was seen to happen. A listing, or what follows a gap, is of unknown age.
        live: bool,
    },
    /// The record is of a version that this program does not know. It keeps out of it.
    Unreadable,
    /// A node has answered an offer.
    Answered(Answer),
    /// How a write ended.
    Written {
        /// [`Action::Write`]'s.
        id: u64,
        /// How.
        outcome: Outcome,
    },
    /// An [`Action::Hold`] was carried out, or why not.
    Up(Result<(), String>),
    /// An [`Action::Release`] was carried out, or why not.
    Down(Result<(), String>),
    /// The address was removed by something else, and cannot be put back.
    Gone(String),
    /// Whether this node could have the address: its proxy is well, its link is up.
    Health(bool),
    /// The other keepers.
    Peers(BTreeMap<DnsLabel, Peer>),
    /// The address shall go elsewhere: to a node, or to the best.
    Move(Option<DnsLabel>),
    /// Somebody else answers for the address on the link.
    Conflict,
    /// This node has promised the holder not to claim before then.
    Promised(Time),
    /// Every other keeper has promised not to claim before `until`, counted from before they were asked.
    Confirmed {
        /// Until when.
        until: Time,
    },
    /// This keeper ends.
    Stop,
}

/// How a write ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was made, with this revision.
    Done(i64),
    /// The record was another; this is what is there now, and its revision (0 if nothing is).
    Conflict(Found, i64),
    /// The record was another, of a version that this program does not know.
    Unreadable,
    /// Nobody knows; what the error said.
    Unknown(String),
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write the record if its revision is still `guard`. Answered by [`Input::Written`].
    Write {
        /// Tells it from others.
        id: u64,
        /// The revision; 0 if there must be no record.
        guard: i64,
        /// What to write.
        record: Record,
    },
    /// Say what this node thinks of an offer.
    Answer(Answer),
    /// Let the address answer until then, and announce it if it was down. Answered by [`Input::Up`].
    Hold {
        /// When the kernel takes it away by itself.
        until: Time,
    },
    /// Take the address down. Answered by [`Input::Down`].
    Release,
    /// Tell the network again where the address is.
    Announce,
    /// Something that an operator may want to know.
    Report(Change),
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// This node holds the address now.
    Took {
        /// The holder's number.
        epoch: u64,
        /// From whom, if another held it.
        from: Option<DnsLabel>,
        /// How.
        how: Took,
    },
    /// The right ended before it could be renewed.
    Expired {
        /// The holder's number.
        epoch: u64,
    },
    /// Another holds it, and this node had not given it away.
    Lost {
        /// Who.
        to: Option<DnsLabel>,
    },
    /// Given to another node.
    Gave {
        /// To whom.
        to: DnsLabel,
        /// Why.
        why: Why,
    },
    /// Given to nobody in particular.
    Released {
        /// Why.
        why: Why,
    },
    /// A move came to nothing, and the address stays.
    Stays {
        /// What was tried.
        why: Why,
        /// Why not.
        because: String,
    },
    /// Somebody else answered for the address, and this node let go until it knew better.
    Conflict,
    /// The address could not be brought up.
    Failed {
        /// What the system said.
        because: String,
    },
}

/// How this node came to hold an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Took {
    /// Its holder was silent for too long, or there never was one.
    Claimed,
    /// Its holder let go.
    Free,
    /// Its holder gave it.
    Given,
    /// It was this node's all the time, and could not be renewed for a while.
    Again,
}

impl Took {
    /// One word, for metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Claimed => "claimed",
            Self::Free => "free",
            Self::Given => "given",
            Self::Again => "again",
        }
    }
}

/// What is known of the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum View {
    /// Nothing yet, or nothing that can be read.
    Unknown,
    /// This.
    Known(Seen),
}

/// One revision of the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) found: Found,
    /// At which it came to be so.
    pub(crate) revision: i64,
    /// When this node first saw it.
    pub(crate) since: Time,
    /// Whether it was seen to happen.
    pub(crate) live: bool,
}

impl Seen {
    /// What a write is guarded by: 0 is for a record that must not be there.
    fn guard(&self) -> i64 {
        if self.found == Found::Absent {
            0
        } else {
            self.revision
        }
    }
}

/// A write whose outcome is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) id: u64,
    pub(crate) record: Record,
    /// When it was sent: its right counts from here.
    pub(crate) sent: Time,
    /// Whether an answer is still waited for.
    pub(crate) pending: bool,
}

/// The address on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// It is down.
    Down,
    /// It is being brought up.
    Rising,
    /// It is up.
    Up,
    /// It is being taken down.
    Falling,
}

/// A move that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Moving {
    pub(crate) why: Why,
    /// To whom; `None` to release.
    pub(crate) to: Option<DnsLabel>,
    pub(crate) phase: Phase,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The offer is being written, or its answer waited for.
    Offering {
        /// When the other must have accepted.
        by: Time,
        /// The offer's ID, once it was sent.
        offer: Option<u64>,
    },
    /// It was accepted (or nobody is asked): the address is being taken down.
    Falling(Gift),
    /// The address is down, and the record that says so is being written.
    Giving(Gift),
}

/// What is written in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gift {
    /// The next holder; `None` to release.
    pub(crate) to: Option<Holder>,
    /// The offer that it accepted.
    pub(crate) offer: Option<u64>,
}

/// An offer that this node has accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) offer: u64,
    pub(crate) epoch: u64,
    /// When it said so: the right counts from here.
    pub(crate) sent: Time,
}

/// One node's part in one virtual IP.
#[derive(Clone, Debug)]
pub struct Election {
    pub(crate) settings: Settings,
    pub(crate) view: View,
    /// The highest epoch that was seen, and the highest seq that was seen or sent: they go on after a record that was lost.
    pub(crate) last: (u64, u64),
    pub(crate) attempts: VecDeque<Attempt>,
    pub(crate) next_id: u64,
    pub(crate) retry_at: Time,
    /// The end of this node's right; it has none if that is past.
    pub(crate) until: Time,
    /// As much of it as the kernel knows of.
    pub(crate) open_until: Time,
    pub(crate) renew_at: Time,
    pub(crate) address: Address,
    /// How the hold came to be that is being brought up, to be told when it is.
    pub(crate) how: Option<Change>,
    pub(crate) healthy: bool,
    pub(crate) peers: BTreeMap<DnsLabel, Peer>,
    /// Since when a peer of a higher priority is well.
    pub(crate) better_since: Option<Time>,
    pub(crate) moving: Option<Moving>,
    pub(crate) shunned: BTreeMap<DnsLabel, Time>,
    pub(crate) accepted: Option<Accepted>,
    /// No claim before then.
    pub(crate) not_before: Time,
    /// When an address that would not come down is tried again.
    pub(crate) fall_at: Option<Time>,
    /// A right that was written before then does not count: somebody else answered for the address.
    pub(crate) distrust: Time,
    pub(crate) conflict_at: Option<Time>,
    pub(crate) stopping: bool,
    /// What cannot be answered with the present view is said once.
    pub(crate) answered: Option<u64>,
}

impl Election {
    /// A node that knows nothing yet, and so does nothing.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            view: View::Unknown,
            last: (0, 0),
            attempts: VecDeque::new(),
            next_id: 1,
            retry_at: Time::ZERO,
            until: Time::ZERO,
            open_until: Time::ZERO,
            renew_at: Time::ZERO,
            address: Address::Down,
            how: None,
            healthy: false,
            peers: BTreeMap::new(),
            better_since: None,
            moving: None,
            shunned: BTreeMap::new(),
            accepted: None,
            not_before: Time::ZERO,
            fall_at: None,
            distrust: Time::ZERO,
            conflict_at: None,
            stopping: false,
            answered: None,
        }
    }

    /// Takes what happened at `now`, and gives what is to be done. `now` never goes back.
    pub fn step(&mut self, now: Time, input: Input) -> Vec<Action> {
        let mut actions = Vec::new();
        match input {
            Input::Tick => {}
            Input::Observed {
                found,
                revision,
                live,
            } => self.observe(now, found, revision, live, &mut actions),
            // It gives nobody a right, and takes none away before it ends.
            Input::Unreadable => self.view = View::Unknown,
            Input::Answered(answer) => self.answered(now, answer, &mut actions),
            Input::Written { id, outcome } => self.written(now, id, outcome, &mut actions),
            Input::Up(result) => self.came_up(now, result, &mut actions),
            Input::Down(result) => self.came_down(now, result, &mut actions),
            Input::Gone(because) => self.gone(now, because, &mut actions),
            Input::Health(healthy) => self.healthy = healthy,
            Input::Peers(peers) => self.peers = peers,
            Input::Move(to) => self.asked_to_move(now, to, &mut actions),
            Input::Conflict => self.conflict(now, &mut actions),
            Input::Promised(until) => self.not_before = self.not_before.max(until),
            Input::Confirmed { until } => self.confirmed(now, until, &mut actions),
            Input::Stop => self.stopping = true,
        }
        self.decide(now, &mut actions);
        actions
    }

    /// What follows from the state, whatever led to it.
    fn decide(&mut self, now: Time, actions: &mut Vec<Action>) {
        self.expire(now, actions);
        self.fall_again(now, actions);
        self.consider_moves(now, actions);
        self.answer_offer(now, actions);
        if !self.is_pending() && now >= self.retry_at {
            let write = self.next_write(now);
            self.send(now, write, actions);
        }
    }

    /// The one write that is due, if any.
    fn next_write(&self, now: Time) -> Option<Record> {
        let View::Known(seen) = &self.view else {
            return None;
        };
        match seen.found.record() {
            Some(record) if self.is_mine(record) => {
                if self.is_old_news(now, seen, record) {
                    return None;
                }
                self.write_as_holder(now, record)
            }
            None if self.holds(now) => self.write_again(),
            _ => self.claim(now, seen),
        }
    }

    /// An etcd that was restored may name this process, which has given the address away since. So may one that says nothing
    /// new; then the wait is in vain.
    fn is_old_news(&self, now: Time, seen: &Seen, record: &Record) -> bool {
        !seen.live && !self.holds(now) && now < seen.since + record.hold() + self.settings.margin
    }

    fn send(&mut self, now: Time, record: Option<Record>, actions: &mut Vec<Action>) {
        let (Some(record), View::Known(seen)) = (record, &self.view) else {
            return;
        };
        let guard = seen.guard();
        self.note_offer(&record);
        // No two writes of this process are alike, so that what is seen later tells which of them it was, and when that was
        // sent: one whose answer was lost may have been made long before the next.
        self.last.1 = self.last.1.max(record.seq);
        let id = self.next_id;
        self.next_id += 1;
        if self.attempts.len() == ATTEMPTS {
            self.attempts.pop_front();
        }
        self.attempts.push_back(Attempt {
            id,
            record: record.clone(),
            sent: now,
            pending: true,
        });
        self.renew_at = self.after_renew(now);
        actions.push(Action::Write { id, guard, record });
    }

    /// The next renewal: all addresses of a node are renewed at the same instants, so that one transaction does.
    fn after_renew(&self, now: Time) -> Time {
        let renew = self.settings.renew.as_nanos().max(1);
        let since = now.as_nanos() % renew;
        now + Duration::from_nanos(u64::try_from(renew - since).unwrap_or(u64::MAX))
    }

    pub(crate) fn is_mine(&self, record: &Record) -> bool {
        record.holder.as_ref() == Some(&self.settings.me)
    }

    /// Whether the record names this process.
    pub(crate) fn is_holder(&self) -> bool {
        self.record().is_some_and(|record| self.is_mine(record))
    }

    pub(crate) fn is_pending(&self) -> bool {
        self.attempts.iter().any(|attempt| attempt.pending)
    }

    pub(crate) fn record(&self) -> Option<&Record> {
        match &self.view {
            View::Known(seen) => seen.found.record(),
            View::Unknown => None,
        }
    }

    /// When it wants to be called again at the latest, if nothing happens; `None`: not before something does.
    pub fn next_wake(&self, now: Time) -> Option<Time> {
        let mut wakes = Vec::new();
        if self.address == Address::Up {
            wakes.push(self.until.min(self.open_until));
        }
        wakes.extend(self.fall_at);
        if !self.is_pending() {
            if self.is_holder() || self.holds(now) {
                wakes.push(self.renew_at.max(self.retry_at));
            }
            if let View::Known(seen) = &self.view
                && let Some(record) = seen.found.record().filter(|record| self.is_mine(record))
                && self.is_old_news(now, seen, record)
            {
                wakes.push(seen.since + record.hold() + self.settings.margin);
            }
            wakes.extend(self.would_claim_at().map(|at| at.max(self.retry_at)));
        }
        if let Some(Moving {
            phase: Phase::Offering { by, .. },
            ..
        }) = &self.moving
        {
            wakes.push(*by);
        }
        if let (Some(since), Some(after)) = (self.better_since, self.settings.preempt) {
            wakes.push(since + after);
        }
        // What is due and was not done waits for something else than time. It is looked at again soon all the same.
        let soon = now + Duration::from_millis(10);
        wakes
            .into_iter()
            .map(|at| if at <= now { soon } else { at })
            .min()
    }

    /// Whether the address is up here, with the right to it.
    pub fn holds(&self, now: Time) -> bool {
        matches!(self.address, Address::Up | Address::Rising) && now < self.until
    }

    /// The end of the right; past if there is none.
    pub fn until(&self) -> Time {
        self.until
    }

    /// The record as it was last seen.
    pub fn seen(&self) -> Option<(&Record, Time)> {
        match &self.view {
            View::Known(seen) => seen.found.record().map(|record| (record, seen.since)),
            View::Unknown => None,
        }
    }

    /// Whether anything is known of the record.
    pub fn is_informed(&self) -> bool {
        matches!(self.view, View::Known(_))
    }

    /// When this node would claim the address, if nothing happened until then.
    pub fn would_claim_at(&self) -> Option<Time> {
        match &self.view {
            View::Known(seen) => self.may_claim_at(seen),
            View::Unknown => None,
        }
    }

    /// The move that is under way.
    pub fn moving(&self) -> Option<(Why, Option<&DnsLabel>)> {
        self.moving
            .as_ref()
            .map(|moving| (moving.why, moving.to.as_ref()))
    }

    /// Whether it was told to stop and nothing is left to do.
    pub fn is_done(&self) -> bool {
        self.stopping && self.address == Address::Down && self.moving.is_none() && !self.is_holder()
    }

    /// Whether this node can promise `holder` not to claim: it sees no other holder, and no write of its own is under way that
    /// could make it one.
    pub fn can_promise(&self, holder: &Holder, epoch: u64) -> bool {
        self.address == Address::Down
            && self.attempts.is_empty()
            && self.accepted.is_none()
            && self
                .record()
                .is_some_and(|record| record.holder.as_ref() == Some(holder) && record.epoch == epoch)
    }
}
