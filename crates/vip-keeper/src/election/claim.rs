//! What a node that does not hold the address does: sees the record, claims it when it may, answers offers.

use super::*;

impl Election {
    pub(crate) fn observe(
        &mut self,
        now: Time,
        found: Found,
        revision: i64,
        live: bool,
        actions: &mut Vec<Action>,
    ) {
        if let View::Known(seen) = &self.view {
            // A watch tells a write of one's own after its answer. Only a listing may go back: etcd was restored.
            if revision == seen.revision && found == seen.found || live && revision <= seen.revision {
                return;
            }
        }
        let before = self.record().cloned();
        if let (None, Some(before)) = (found.record(), &before) {
            // Its holder may not know yet that it is gone, and its F may be longer than ours.
            let over = now + before.hold() + self.settings.margin;
            self.not_before = self.not_before.max(over);
        }
        if let Some(record) = found.record() {
            self.last = (self.last.0.max(record.epoch), self.last.1.max(record.seq));
        }
        self.view = View::Known(Seen {
            found,
            revision,
            since: now,
            live,
        });
        self.take_note(now, before.as_ref(), actions);
    }

    /// What a new view means for what this node does. `before` is what the record was.
    pub(crate) fn take_note(&mut self, now: Time, before: Option<&Record>, actions: &mut Vec<Action>) {
        let Some(record) = self.record().cloned() else {
            // Whoever holds the address goes on doing so until its right ends, and writes the record again.
            self.attempts.retain(|attempt| attempt.pending);
            return;
        };
        if self.is_mine(&record) {
            self.confirm(now, &record, before, actions);
            return;
        }
        self.attempts
            .retain(|attempt| attempt.pending || attempt.record.seq > record.seq);
        if self
            .accepted
            .as_ref()
            .is_some_and(|accepted| accepted.epoch != record.epoch)
        {
            self.accepted = None;
        }
        let to = record.holder.map(|holder| holder.node);
        match self.moving.take() {
            Some(Moving {
                why,
                phase: Phase::Giving(_),
                ..
            }) => {
                self.until = Time::ZERO;
                actions.push(Action::Report(match to {
                    Some(to) => Change::Gave { to, why },
                    None => Change::Released { why },
                }));
            }
            _ => self.lose(to, actions),
        }
    }

    /// The first moment at which a claim of what was seen is safe; `None` if it is no use to wait.
    pub(crate) fn may_claim_at(&self, seen: &Seen) -> Option<Time> {
        if !self.healthy || self.stopping || self.address != Address::Down {
            return None;
        }
        let own = self.settings.hold + self.settings.margin;
        let at = match seen.found.record() {
            None => seen.since + own,
            Some(record) if self.is_mine(record) => return None,
            Some(record) if record.holder.is_none() && seen.live => seen.since,
            Some(record) => seen.since + record.hold() + self.settings.margin,
        };
        at.max(self.not_before).checked_add(self.stagger(seen))
    }

    /// Better candidates come first. The dead holder is none.
    fn stagger(&self, seen: &Seen) -> Duration {
        let holder = seen.found.record().and_then(|record| record.holder.as_ref());
        let mine = (self.settings.priority, std::cmp::Reverse(&self.settings.me.node));
        let before_me = self.peers.iter().filter(|(node, peer)| {
            peer.healthy
                && **node != self.settings.me.node
                && holder.is_none_or(|holder| holder.node != **node)
                && (peer.priority, std::cmp::Reverse(*node)) > mine
        });
        let rank = u32::try_from(before_me.count()).unwrap_or(u32::MAX);
        STAGGER * rank.min(STAGGER_MOST)
    }

    pub(crate) fn claim(&self, now: Time, seen: &Seen) -> Option<Record> {
        if now < self.may_claim_at(seen)? {
            return None;
        }
        self.own(self.last.0.checked_add(1)?)
    }

    /// The record that names this node, of the next seq.
    pub(crate) fn own(&self, epoch: u64) -> Option<Record> {
        Some(Record {
            version: VERSION,
            holder: Some(self.settings.me.clone()),
            epoch,
            seq: self.last.1.checked_add(1)?,
            hold_ms: self.hold_ms(),
            offer: None,
            given: None,
        })
    }

    pub(crate) fn hold_ms(&self) -> u64 {
        u64::try_from(self.settings.hold.as_millis()).unwrap_or(u64::MAX)
    }

    /// Answers an offer that was seen to be made, once.
    pub(crate) fn answer_offer(&mut self, now: Time, actions: &mut Vec<Action>) {
        let View::Known(Seen {
            found: Found::Record(record),
            live: true,
            ..
        }) = &self.view
        else {
            return;
        };
        let Some(offer) = record
            .offer
            .as_ref()
            .filter(|offer| offer.to == self.settings.me.node)
        else {
            return;
        };
        if self.is_mine(record) || self.answered == Some(offer.id) {
            return;
        }
        let refused = if self.stopping {
            Some("its keeper is stopping".to_owned())
        } else if !self.healthy {
            Some("its proxy or its link is not well".to_owned())
        } else {
            None
        };
        self.answered = Some(offer.id);
        if refused.is_none() {
            self.accepted = Some(Accepted {
                offer: offer.id,
                epoch: record.epoch,
                sent: now,
            });
        }
        actions.push(Action::Answer(Answer {
            by: self.settings.me.clone(),
            offer: offer.id,
            refused,
        }));
    }
}
