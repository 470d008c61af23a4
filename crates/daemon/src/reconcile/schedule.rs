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
    /// When everything is to be looked at afresh; `None` before the first run. Only a run that does so moves it: were it moved
    /// by every run, a loop that is woken often would never come to it.
    resync_at: Option<Instant>,
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
            resync_at: None,
        }
    }

    /// Whether a run that starts now is to look at everything afresh, as the first one is.
    pub(super) fn is_resync_due(&self) -> bool {
        !self.resync.is_zero() && self.resync_at.is_none_or(|at| at <= Instant::now())
    }

    /// When the next run is due, given whether a wake is pending. `None`: only a wake can cause one.
    pub(super) fn due(&self, woken: bool) -> Option<Due> {
        let now = Instant::now();
        let wake = woken.then(|| Due {
            at: self.wakes_not_before.unwrap_or(now),
            reason: "wake",
        });
        let resync = self.resync_at.map(|at| Due {
            // Not before the floor of a back-off: it is not worth more than an event.
            at: self.wakes_not_before.map_or(at, |floor| at.max(floor)),
            reason: RESYNC,
        });
        let due = [wake, self.timer, resync]
            .into_iter()
            .flatten()
            .min_by_key(|due| due.at)?;
        Some(Due {
            at: self.not_before.map_or(due.at, |gap_over| due.at.max(gap_over)),
            ..due
        })
    }

    /// Takes note of a run, which was a `resync` or not, and sets the timer for the next.
    pub(super) fn ran(
        &mut self,
        start: Instant,
        end: Instant,
        resync: bool,
        failed: bool,
        retry_after: Option<Duration>,
    ) {
        self.not_before = Some(after(start, self.min_gap));
        if resync {
            self.resync_at = self.resync_delay().map(|delay| after(end, delay));
        }
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
            self.wakes_not_before = None;
            self.timer = again;
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

    /// Runs `schedule` once a second for up to five minutes and gives after how many seconds a resync came.
    async fn seconds_to_resync(schedule: &mut Schedule, failing: bool) -> Option<u64> {
        for second in 1..300 {
            tokio::time::advance(SECOND).await;
            let (now, resync) = (Instant::now(), schedule.is_resync_due());
            schedule.ran(now, now, resync, failing, None);
            if resync {
                return Some(second);
            }
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn resync_comes_although_wakes_never_stop_and_every_run_fails() {
        for failing in [false, true] {
            let mut schedule = schedule(100 * SECOND, SECOND);
            assert!(schedule.is_resync_due(), "the first run looks at everything");
            schedule.ran(Instant::now(), Instant::now(), true, failing, None);
            for _ in 0..2 {
                let seconds = seconds_to_resync(&mut schedule, failing).await.unwrap();
                assert!((90..=111).contains(&seconds), "{seconds}");
            }
        }
        let mut never = schedule(Duration::ZERO, SECOND);
        assert_eq!(seconds_to_resync(&mut never, false).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn resync_is_jittered_by_a_tenth() {
        let (mut schedule, now) = (schedule(100 * SECOND, SECOND), Instant::now());
        let delays: Vec<Duration> = (0..200)
            .map(|_| {
                schedule.ran(now, now, true, false, None);
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
        schedule.ran(now, now, true, false, None);
        assert_eq!(schedule.due(false), None);
        assert_eq!(schedule.due(true).unwrap().at, now + SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn after_failures_a_wake_waits_for_the_floor_and_no_longer() {
        let (mut schedule, now) = (schedule(100 * SECOND, Duration::ZERO), Instant::now());
        for _ in 0..10 {
            schedule.ran(now, now, true, true, None);
            let (retry, wake) = (schedule.due(false).unwrap(), schedule.due(true).unwrap());
            assert_eq!(retry.reason, "retry");
            assert!(retry.at <= now + 64 * SECOND);
            assert_eq!(wake.at, retry.at.min(now + SECOND));
        }
        schedule.ran(now, now, true, false, None);
        assert_eq!(schedule.due(true).unwrap().at, now);
    }

    #[tokio::test(start_paused = true)]
    async fn asking_to_run_again_brings_the_next_run_forward_but_not_below_a_floor() {
        let (mut schedule, now) = (schedule(100 * SECOND, SECOND), Instant::now());
        schedule.ran(now, now, true, false, Some(7 * SECOND));
        assert_eq!(
            schedule.due(false),
            Some(Due {
                at: now + 7 * SECOND,
                reason: "again"
            })
        );
        schedule.ran(now, now, true, false, Some(Duration::ZERO));
        assert_eq!(
            schedule.due(false),
            Some(Due {
                at: now + SECOND,
                reason: "again"
            })
        );
        schedule.ran(now, now, true, false, Some(500 * SECOND));
        assert_eq!(schedule.due(false).unwrap().reason, RESYNC);
        schedule.ran(now, now, true, true, Some(Duration::ZERO));
        let due = schedule.due(false).unwrap();
        assert!(due.at >= now + SECOND / 2 && due.at <= now + SECOND, "{due:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn absurd_durations_do_not_overflow() {
        let (mut schedule, now) = (schedule(Duration::MAX, Duration::MAX), Instant::now());
        schedule.ran(now, now, true, false, Some(Duration::MAX));
        assert!(schedule.due(true).unwrap().at > now + 1000 * SECOND);
    }
}
