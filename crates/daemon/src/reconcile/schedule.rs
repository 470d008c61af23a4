//! When the next run is due: arithmetic on instants, with the jitter as its only state.

use std::time::Duration;

use tokio::time::Instant;

use super::RESYNC;
use crate::{Backoff, after};

/// When a run is due, and why if nothing wakes the loop before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) at: Instant,
    pub(super) reason: &'static str,
}

#[derive(Debug)]
pub(super) struct Schedule {
    resync: Duration,
    min_gap: Duration,
    retry: Backoff,
    random: fastrand::Rng,
    /// Before this nothing runs, woken or not: the gap from the start of the last run.
    not_before: Option<Instant>,
    /// Before this a wake does not run: the floor of the back-off after a failure.
    wakes_not_before: Option<Instant>,
    /// When to run unwoken.
    timer: Option<Due>,
}

impl Schedule {
    pub(super) fn new(resync: Duration, min_gap: Duration, retry: Backoff) -> Self {
        let random = fastrand::Rng::new();
        Self {
            resync,
            min_gap,
            retry,
            random,
            not_before: None,
            wakes_not_before: None,
            timer: None,
        }
    }

    /// When the next run is due, given whether a wake is pending. `None`: only a wake can cause one.
    pub(super) fn due(&self, woken: bool) -> Option<Due> {
        let now = Instant::now();
        let wake = woken.then(|| Due {
            at: self.wakes_not_before.unwrap_or(now),
            reason: "wake",
        });
        let due = [wake, self.timer]
            .into_iter()
            .flatten()
            .min_by_key(|due| due.at)?;
        Some(Due {
            at: self.not_before.map_or(due.at, |gap_over| due.at.max(gap_over)),
            ..due
        })
    }

    /// Takes note of a run and sets the timer for the next.
    pub(super) fn ran(&mut self, start: Instant, end: Instant, failed: bool, retry_after: Option<Duration>) {
        self.not_before = Some(after(start, self.min_gap));
        let again = retry_after.map(|delay| Due {
            at: after(end, delay),
            reason: "again",
        });
        if failed {
            let delay = self.retry.next_delay();
            // An event may mean that the cause is gone, so it need not wait for the whole of a long delay; but a storm of
            // events must not undo the back-off.
            let floor = after(end, delay.min(self.retry.initial()));
            let retry = Due {
                at: after(end, delay),
                reason: "retry",
            };
            let again = again.map(|again| Due {
                at: again.at.max(floor),
                ..again
            });
            self.wakes_not_before = Some(floor);
            self.timer = [Some(retry), again]
                .into_iter()
                .flatten()
                .min_by_key(|due| due.at);
        } else {
            self.retry.reset();
            let resync = self.resync_delay().map(|delay| Due {
                at: after(end, delay),
                reason: RESYNC,
            });
            self.wakes_not_before = None;
            self.timer = [again, resync].into_iter().flatten().min_by_key(|due| due.at);
        }
    }

    /// The resync interval ±10 %, so that the nodes of a cluster do not all ask at once.
    fn resync_delay(&mut self) -> Option<Duration> {
        if self.resync.is_zero() {
            return None;
        }
        let tenth = self.resync / 10;
        let spread = tenth.saturating_mul(2).mul_f64(self.random.f64());
        Some(self.resync.saturating_sub(tenth).saturating_add(spread))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn schedule(resync: Duration, min_gap: Duration) -> Schedule {
        Schedule::new(resync, min_gap, Backoff::seeded(SECOND, 64 * SECOND, 1))
    }

    #[tokio::test(start_paused = true)]
    async fn resync_is_jittered_by_a_tenth() {
        let (mut schedule, now) = (schedule(100 * SECOND, SECOND), Instant::now());
        let delays: Vec<Duration> = (0..200)
            .map(|_| {
                schedule.ran(now, now, false, None);
                let due = schedule.due(false).unwrap();
                assert_eq!(due.reason, RESYNC);
                due.at - now
            })
            .collect();
        assert!(
            delays
                .iter()
                .all(|delay| (90 * SECOND..=110 * SECOND).contains(delay)),
            "{delays:?}"
        );
        assert!(
            delays.iter().any(|delay| *delay < 95 * SECOND)
                && delays.iter().any(|delay| *delay > 105 * SECOND)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn no_resync_means_only_wakes() {
        let (mut schedule, now) = (schedule(Duration::ZERO, SECOND), Instant::now());
        assert_eq!(schedule.due(false), None);
        assert_eq!(schedule.due(true).unwrap().at, now);
        schedule.ran(now, now, false, None);
        assert_eq!(schedule.due(false), None);
        assert_eq!(schedule.due(true).unwrap().at, now + SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn after_failures_a_wake_waits_for_the_floor_and_no_longer() {
        let (mut schedule, now) = (schedule(100 * SECOND, Duration::ZERO), Instant::now());
        for _ in 0..10 {
            schedule.ran(now, now, true, None);
            let (retry, wake) = (schedule.due(false).unwrap(), schedule.due(true).unwrap());
            assert_eq!(retry.reason, "retry");
            assert!(retry.at <= now + 64 * SECOND);
            assert_eq!(wake.at, retry.at.min(now + SECOND));
        }
        schedule.ran(now, now, false, None);
        assert_eq!(schedule.due(true).unwrap().at, now);
    }

    #[tokio::test(start_paused = true)]
    async fn asking_to_run_again_brings_the_next_run_forward_but_not_below_a_floor() {
        let (mut schedule, now) = (schedule(100 * SECOND, SECOND), Instant::now());
        schedule.ran(now, now, false, Some(7 * SECOND));
        assert_eq!(
            schedule.due(false),
            Some(Due {
                at: now + 7 * SECOND,
                reason: "again"
            })
        );
        schedule.ran(now, now, false, Some(Duration::ZERO));
        assert_eq!(
            schedule.due(false),
            Some(Due {
                at: now + SECOND,
                reason: "again"
            })
        );
        schedule.ran(now, now, false, Some(500 * SECOND));
        assert_eq!(schedule.due(false).unwrap().reason, RESYNC);
        schedule.ran(now, now, true, Some(Duration::ZERO));
        let due = schedule.due(false).unwrap();
        assert!(due.at >= now + SECOND / 2 && due.at <= now + SECOND, "{due:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn absurd_durations_do_not_overflow() {
        let (mut schedule, now) = (schedule(Duration::MAX, Duration::MAX), Instant::now());
        schedule.ran(now, now, false, Some(Duration::MAX));
        assert!(schedule.due(true).unwrap().at > now + 1000 * SECOND);
    }
}
