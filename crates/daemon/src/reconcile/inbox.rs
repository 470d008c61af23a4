//! Where wakes gather until the next run.

use std::{
    borrow::Cow,
    sync::{Arc, Mutex},
};

use tokio::{sync::Notify, time::Instant};

use super::Activation;
use crate::lock;

/// How many distinct reasons are kept for one run.
const MAX_REASONS: usize = 8;
/// How many bytes of a reason are kept: reasons may quote outside input.
const MAX_REASON_LEN: usize = 200;

/// Wakes a reconcile loop. Clones wake the same loop.
#[derive(Clone, Debug)]
pub struct Waker {
    inbox: Arc<Inbox>,
}

#[derive(Debug)]
struct Inbox {
    pending: Mutex<Pending>,
    notice: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    reasons: Vec<Cow<'static, str>>,
    suppressed: usize,
    first_wake: Option<Instant>,
}

impl Waker {
    pub(super) fn new() -> Self {
        Self {
            inbox: Arc::new(Inbox {
                pending: Mutex::default(),
                notice: Notify::new(),
            }),
        }
    }

    /// Asks for a run. It never blocks, and any number of wakes before a run are one run and a bounded amount of memory.
    pub fn wake(&self, reason: impl Into<Cow<'static, str>>) {
        let reason = shortened(reason.into());
        {
            let mut pending = lock(&self.inbox.pending);
            pending.first_wake.get_or_insert_with(Instant::now);
            if pending.reasons.len() < MAX_REASONS && !pending.reasons.contains(&reason) {
                pending.reasons.push(reason);
            } else {
                pending.suppressed = pending.suppressed.saturating_add(1);
            }
        }
        // Kept for the next waiter if there is none now, so that no wake is lost.
        self.inbox.notice.notify_one();
    }

    /// Whether a wake waits for its run.
    pub(super) fn is_pending(&self) -> bool {
        lock(&self.inbox.pending).first_wake.is_some()
    }

    /// The reasons that wait for their run.
    pub(super) fn reasons(&self) -> Vec<String> {
        lock(&self.inbox.pending)
            .reasons
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    /// Ready after a wake; now and then without one.
    pub(super) async fn woken(&self) {
        self.inbox.notice.notified().await;
    }

    /// Empties the inbox for a run. Wakes from here on ask for the next one.
    pub(super) fn take(&self, own_reason: &str, attempt: u32, resync: bool) -> Activation {
        let Pending {
            reasons,
            suppressed,
            first_wake,
        } = std::mem::take(&mut *lock(&self.inbox.pending));
        let reasons = if reasons.is_empty() {
            vec![own_reason.to_owned()]
        } else {
            reasons.into_iter().map(Cow::into_owned).collect()
        };
        Activation {
            reasons,
            suppressed,
            first_wake: first_wake.unwrap_or_else(Instant::now),
            attempt,
            resync,
        }
    }
}

fn shortened(reason: Cow<'static, str>) -> Cow<'static, str> {
    if reason.len() <= MAX_REASON_LEN {
        return reason;
    }
    let kept: String = reason
        .char_indices()
        .take_while(|(start, character)| start + character.len_utf8() <= MAX_REASON_LEN)
        .map(|(_, character)| character)
        .collect();
    Cow::Owned(kept + "…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_first_eight_distinct_reasons_and_counts_the_rest() {
        let waker = Waker::new();
        for number in 0..10 {
            waker.wake(format!("event {number}"));
            waker.wake("event 0");
        }
        let activation = waker.take("resync", 1, false);
        assert_eq!(
            activation.reasons,
            (0..8).map(|number| format!("event {number}")).collect::<Vec<_>>()
        );
        assert_eq!(activation.suppressed, 12);
        assert!(!waker.is_pending());
        assert_eq!(waker.take("resync", 1, false).reasons, ["resync"]);
    }

    #[test]
    fn long_reasons_are_cut_at_a_character() {
        let waker = Waker::new();
        waker.wake("é".repeat(1000));
        let activation = waker.take("resync", 1, false);
        assert_eq!(activation.reasons, ["é".repeat(100) + "…"]);
    }
}
