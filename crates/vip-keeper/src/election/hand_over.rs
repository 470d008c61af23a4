//! Planned moves: when the address shall go elsewhere, to whom, and how it gets there.

use super::*;

impl Election {
    /// Whether an offer in the record is the one that is under way.
    pub(crate) fn is_present_offer(&self, id: u64) -> bool {
        matches!(&self.moving, Some(Moving { phase: Phase::Offering { offer, .. }, .. }) if *offer == Some(id))
    }

    /// Who could have it: healthy, and not one that has just refused. Higher priorities first, then by name.
    fn best(&self, now: Time, above: Option<u8>) -> Option<DnsLabel> {
        self.peers
            .iter()
            .filter(|(node, peer)| {
                peer.healthy
                    && **node != self.settings.me.node
                    && above.is_none_or(|priority| peer.priority > priority)
                    && self.shunned.get(*node).is_none_or(|until| now >= *until)
            })
            .max_by_key(|(node, peer)| (peer.priority, std::cmp::Reverse(*node)))
            .map(|(node, _)| node.clone())
    }

    pub(crate) fn asked_to_move(&mut self, now: Time, to: Option<DnsLabel>, actions: &mut Vec<Action>) {
        let because = if self.address != Address::Up {
            Some("this node does not hold the address".to_owned())
        } else if self.moving.is_some() {
            Some("it is moving already".to_owned())
        } else {
            match to.as_ref() {
                Some(node) if *node == self.settings.me.node => Some(format!("{node} holds it already")),
                Some(node) => match self.peers.get(node) {
                    None => Some(format!("no keeper lives on {node}")),
                    Some(peer) if !peer.healthy => Some(format!("{node} is not well")),
                    Some(_) => None,
                },
                None => None,
            }
        };
        let to = match because {
            Some(_) => None,
            None => to.or_else(|| self.best(now, None)),
        };
        match to {
            Some(to) => self.offer(now, Why::Operator, to),
            None => actions.push(Action::Report(Change::Stays {
                why: Why::Operator,
                because: because.unwrap_or_else(|| "no other keeper is well".to_owned()),
            })),
        }
    }

    fn offer(&mut self, now: Time, why: Why, to: DnsLabel) {
        self.moving = Some(Moving {
            why,
            to: Some(to),
            phase: Phase::Offering {
                by: now + OFFER_WITHIN,
                offer: None,
            },
        });
    }

    /// Begins what should be begun, and gives up what takes too long.
    pub(crate) fn consider_moves(&mut self, now: Time, actions: &mut Vec<Action>) {
        self.give_up(now, actions);
        self.watch_betters(now);
        self.drop_moot(actions);
        if self.moving.is_some() || !(self.is_holder() || self.holds(now)) {
            return;
        }
        // An offer is part of the record.
        let best = |above| {
            if self.is_holder() {
                self.best(now, above)
            } else {
                None
            }
        };
        match self.address {
            Address::Up if self.stopping => match best(None) {
                Some(to) => self.offer(now, Why::Stop, to),
                None => self.release(Why::Stop, actions),
            },
            // Its record is no use without the address.
            Address::Down if self.stopping => {
                self.moving = Some(Moving {
                    why: Why::Stop,
                    to: None,
                    phase: Phase::Giving(Gift {
                        to: None,
                        offer: None,
                    }),
                });
            }
            Address::Up if !self.healthy => {
                // Without another that is well it stays: an address that answers badly is better than none.
                if let Some(to) = best(None) {
                    self.offer(now, Why::Unhealthy, to);
                }
            }
            Address::Up => {
                if let (Some(after), Some(since)) = (self.settings.preempt, self.better_since)
                    && now >= since + after
                    && let Some(to) = best(Some(self.settings.priority))
                {
                    self.better_since = None;
                    self.offer(now, Why::Preempted, to);
                }
            }
            Address::Down | Address::Rising | Address::Falling => {}
        }
    }

    /// Without a record there is nothing to write an offer into, and what was given away is given away.
    fn drop_moot(&mut self, actions: &mut Vec<Action>) {
        if !matches!(&self.view, View::Known(seen) if seen.found.record().is_none()) {
            return;
        }
        let moot = self
            .moving
            .take_if(|moving| matches!(moving.phase, Phase::Offering { .. } | Phase::Giving(_)));
        if let Some(Moving {
            why,
            phase: Phase::Giving(_),
            ..
        }) = moot
        {
            self.until = Time::ZERO;
            actions.push(Action::Report(Change::Released { why }));
        }
    }

    fn give_up(&mut self, now: Time, actions: &mut Vec<Action>) {
        let late = self
            .moving
            .take_if(|moving| matches!(moving.phase, Phase::Offering { by, .. } if now >= by));
        if let Some(Moving {
            why, to: Some(to), ..
        }) = late
        {
            let because = format!("{to} did not answer within {OFFER_WITHIN:?}");
            self.shun(now, to);
            actions.push(Action::Report(Change::Stays { why, because }));
        }
    }

    fn shun(&mut self, now: Time, node: DnsLabel) {
        self.shunned.retain(|_, until| now < *until);
        self.shunned.insert(node, now + SHUNNED);
    }

    fn watch_betters(&mut self, now: Time) {
        if self.settings.preempt.is_none() {
            return;
        }
        match self.best(now, Some(self.settings.priority)) {
            Some(_) => {
                self.better_since.get_or_insert(now);
            }
            None => self.better_since = None,
        }
    }

    fn release(&mut self, why: Why, actions: &mut Vec<Action>) {
        self.moving = Some(Moving {
            why,
            to: None,
            phase: Phase::Falling(Gift {
                to: None,
                offer: None,
            }),
        });
        self.address = Address::Falling;
        actions.push(Action::Release);
    }

    pub(crate) fn answered(&mut self, now: Time, answer: Answer, actions: &mut Vec<Action>) {
        let Some(moving) = &mut self.moving else { return };
        let Phase::Offering { offer, .. } = moving.phase else {
            return;
        };
        if moving.to.as_ref() != Some(&answer.by.node) || offer != Some(answer.offer) {
            return;
        }
        if let Some(because) = answer.refused {
            let why = moving.why;
            self.moving = None;
            self.shun(now, answer.by.node);
            actions.push(Action::Report(Change::Stays { why, because }));
            return;
        }
        if self.address != Address::Up {
            return;
        }
        moving.phase = Phase::Falling(Gift {
            to: Some(answer.by),
            offer: Some(answer.offer),
        });
        self.address = Address::Falling;
        actions.push(Action::Release);
    }

    /// Remembers which offer was sent.
    pub(crate) fn note_offer(&mut self, record: &Record) {
        if let (Some(offer), Some(moving)) = (&record.offer, &mut self.moving)
            && let Phase::Offering { offer: sent, .. } = &mut moving.phase
        {
            *sent = Some(offer.id);
        }
    }
}
