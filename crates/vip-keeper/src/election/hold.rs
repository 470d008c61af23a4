//! What a node does that holds the address, or thinks that it may: counts its right, renews it, brings the address up
//! and down.

use super::*;

/// How long this node does not claim after it could not bring the address up.
const BARRED: Duration = Duration::from_secs(10);
/// Between two tries to take the address down.
const FALL_AGAIN: Duration = Duration::from_millis(50);

impl Election {
    pub(crate) fn written(&mut self, now: Time, id: u64, outcome: Outcome, actions: &mut Vec<Action>) {
        let Some(attempt) = self.attempts.iter_mut().find(|attempt| attempt.id == id) else {
            // The watch has told it already.
            return;
        };
        attempt.pending = false;
        let record = attempt.record.clone();
        match outcome {
            Outcome::Done(revision) => {
                self.observe(now, Found::Record(record), revision, true, actions);
                self.attempts.retain(|attempt| attempt.id != id);
            }
            Outcome::Conflict(current, revision) => {
                let it_is = |attempt: &Attempt| current.record() == Some(&attempt.record);
                self.attempts.retain(|attempt| attempt.id != id || it_is(attempt));
                let known = match &self.view {
                    View::Known(seen) => seen.revision,
                    View::Unknown => i64::MAX,
                };
                // What is older than what was seen is no change, but another history.
                let live = revision > known;
                self.observe(now, current, revision, live, actions);
                self.retry_at = now + RETRY;
            }
            Outcome::Unreadable => self.view = View::Unknown,
            Outcome::Unknown(_) => {
                self.retry_at = now + RETRY;
                self.renew_at = self.renew_at.min(self.retry_at);
            }
        }
    }

    /// The record names this process: what right follows from that, and from when.
    pub(crate) fn confirm(
        &mut self,
        now: Time,
        record: &Record,
        before: Option<&Record>,
        actions: &mut Vec<Action>,
    ) {
        let sent = self.sent(record);
        self.attempts.retain(|attempt| attempt.record.seq > record.seq);
        let was_mine = before.is_some_and(|before| self.is_mine(before));
        match sent.filter(|sent| *sent >= self.distrust) {
            Some(sent) => {
                let right = record.hold().saturating_sub(self.settings.slack);
                self.until = self.until.max(sent + right);
            }
            // Written by a call that nobody remembers, or before somebody else answered: only another write tells.
            None => self.renew_at = now,
        }
        if record.given.is_some() && !was_mine {
            // The right began with the acceptance; most of it may be over.
            self.renew_at = now;
        }
        self.retry_at = now;
        if now >= self.until {
            return;
        }
        match self.address {
            Address::Up => actions.push(Action::Hold { until: self.until }),
            Address::Down if self.moving.is_none() => {
                self.how = Some(self.how_it_came(record, before));
                self.accepted = None;
                self.address = Address::Rising;
                actions.push(Action::Hold { until: self.until });
            }
            Address::Down | Address::Rising | Address::Falling => {}
        }
    }

    /// When the write was sent that made the record what it is. Of several the first: any of them may have been it.
    fn sent(&self, record: &Record) -> Option<Time> {
        let given = self
            .accepted
            .as_ref()
            .filter(|accepted| record.given == Some(accepted.offer) && record.epoch == accepted.epoch + 1)
            .map(|accepted| accepted.sent);
        let written = self.attempts.iter().filter(|attempt| attempt.record == *record);
        written.map(|attempt| attempt.sent).min().or(given)
    }

    fn how_it_came(&self, record: &Record, before: Option<&Record>) -> Change {
        let holder = before.and_then(|before| before.holder.as_ref());
        let how = match (before, holder) {
            (_, Some(holder)) if *holder == self.settings.me => Took::Again,
            (_, Some(_)) if record.given.is_some() => Took::Given,
            (Some(_), None) => Took::Free,
            _ => Took::Claimed,
        };
        Change::Took {
            epoch: record.epoch,
            from: holder
                .filter(|holder| **holder != self.settings.me)
                .map(|holder| holder.node.clone()),
            how,
        }
    }

    /// What the holder writes next, if anything is due.
    pub(crate) fn write_as_holder(&self, now: Time, record: &Record) -> Option<Record> {
        let next = Record {
            seq: self.last.1.max(record.seq).checked_add(1)?,
            hold_ms: self.hold_ms(),
            given: None,
            ..record.clone()
        };
        match self.moving.as_ref().map(|moving| (&moving.phase, &moving.to)) {
            Some((Phase::Giving(gift), _)) => Some(Record {
                holder: gift.to.clone(),
                epoch: record.epoch.checked_add(1)?,
                offer: None,
                given: gift.offer,
                ..next
            }),
            // What is written now must not be late for what comes next.
            Some((Phase::Falling(_), _)) => None,
            Some((Phase::Offering { .. }, Some(to))) => {
                let stands = record
                    .offer
                    .as_ref()
                    .is_some_and(|offer| self.is_present_offer(offer.id));
                if stands {
                    return (now >= self.renew_at).then_some(next);
                }
                Some(Record {
                    offer: Some(Offer {
                        to: to.clone(),
                        id: next.seq,
                    }),
                    ..next
                })
            }
            Some((Phase::Offering { .. }, None)) | None => {
                let withdraws = record.offer.is_some();
                (withdraws || now >= self.renew_at).then_some(Record { offer: None, ..next })
            }
        }
    }

    /// The record of an address that this node holds is gone, or was overwritten with something else.
    pub(crate) fn write_again(&self) -> Option<Record> {
        if self.moving.is_some() || self.stopping {
            return None;
        }
        self.own(self.last.0)
    }

    pub(crate) fn came_up(&mut self, now: Time, result: Result<(), String>, actions: &mut Vec<Action>) {
        match (self.address, result) {
            (Address::Rising, Ok(())) => {
                self.address = Address::Up;
                self.open_until = self.until;
                if let Some(how) = self.how.take() {
                    actions.push(Action::Report(how));
                }
            }
            (Address::Up, Ok(())) => self.open_until = self.until,
            (Address::Rising, Err(because)) if now < self.until => self.fail(now, because, actions),
            // It was too late, and that was not the address's fault.
            (Address::Rising, Err(because)) => self.fall(actions, Change::Failed { because }),
            // It answers for a while yet, and the next renewal tries again.
            (Address::Up, Err(_)) | (Address::Down | Address::Falling, _) => {}
        }
    }

    pub(crate) fn gone(&mut self, now: Time, because: String, actions: &mut Vec<Action>) {
        if self.address == Address::Up {
            self.fail(now, because, actions);
        }
    }

    /// The system does not let the address be here. Somebody else may have more luck.
    fn fail(&mut self, now: Time, because: String, actions: &mut Vec<Action>) {
        self.not_before = self.not_before.max(now + BARRED);
        self.moving = Some(Moving {
            why: Why::Unhealthy,
            to: None,
            phase: Phase::Falling(Gift {
                to: None,
                offer: None,
            }),
        });
        self.fall(actions, Change::Failed { because });
    }

    pub(crate) fn came_down(&mut self, now: Time, result: Result<(), String>, actions: &mut Vec<Action>) {
        if self.address != Address::Falling {
            return;
        }
        match result {
            Ok(()) => {
                self.address = Address::Down;
                if let Some(moving) = &mut self.moving
                    && let Phase::Falling(gift) = &moving.phase
                {
                    moving.phase = Phase::Giving(gift.clone());
                }
            }
            Err(because) => {
                // Never given away while it may be there. At the end of the right the kernel does it.
                self.fall_at = Some(now + FALL_AGAIN);
                if let Some(moving) = &self.moving {
                    actions.push(Action::Report(Change::Stays {
                        why: moving.why,
                        because,
                    }));
                }
            }
        }
    }

    pub(crate) fn fall_again(&mut self, now: Time, actions: &mut Vec<Action>) {
        if self.fall_at.take_if(|at| *at <= now).is_some() && self.address == Address::Falling {
            actions.push(Action::Release);
        }
    }

    /// The right is over, or could not be passed on to the kernel: it has shut the address already.
    pub(crate) fn expire(&mut self, now: Time, actions: &mut Vec<Action>) {
        if self.address != Address::Up || now < self.until.min(self.open_until) {
            return;
        }
        if now < self.until {
            self.fail(now, "the kernel did not take the renewals".to_owned(), actions);
            return;
        }
        let epoch = self.record().map_or(0, |record| record.epoch);
        if matches!(
            &self.moving,
            Some(Moving {
                phase: Phase::Offering { .. },
                ..
            })
        ) {
            self.moving = None;
        }
        self.fall(actions, Change::Expired { epoch });
    }

    /// Another holds it, or nobody knows who.
    pub(crate) fn lose(&mut self, to: Option<DnsLabel>, actions: &mut Vec<Action>) {
        self.moving = None;
        self.until = Time::ZERO;
        if matches!(self.address, Address::Up | Address::Rising) {
            self.fall(actions, Change::Lost { to });
        }
    }

    pub(crate) fn fall(&mut self, actions: &mut Vec<Action>, change: Change) {
        self.address = Address::Falling;
        self.how = None;
        actions.push(Action::Release);
        actions.push(Action::Report(change));
    }

    /// Somebody else answers on the link. The record decides: until this node has renewed, it lets go.
    pub(crate) fn conflict(&mut self, now: Time, actions: &mut Vec<Action>) {
        if self.address != Address::Up {
            return;
        }
        if self.conflict_at.is_some_and(|at| now < at + CONFLICT_PAUSE) {
            // It was asked a moment ago, and the record said: here. Letting go again would help nobody.
            actions.push(Action::Announce);
            return;
        }
        self.conflict_at = Some(now);
        self.distrust = now;
        self.until = Time::ZERO;
        self.renew_at = now;
        self.fall(actions, Change::Conflict);
    }

    /// All others have promised not to claim.
    pub(crate) fn confirmed(&mut self, now: Time, until: Time, actions: &mut Vec<Action>) {
        if self.address == Address::Up && now < self.until && until > self.until {
            self.until = until;
            actions.push(Action::Hold { until });
        }
    }
}
