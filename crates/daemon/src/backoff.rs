//! Delays between tries: exponential, jittered and capped.

use std::time::Duration;

/// The delays between one try and the next.
///
/// The n-th delay is drawn evenly from `initial / 2` to `initial × 2ⁿ`, at most `max`: full jitter, so that a cluster that
/// lost the same upstream does not come back to it as one, with a floor, so that luck does not make a hammer.
#[derive(Clone, Debug)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    ceiling: Duration,
    random: fastrand::Rng,
}

impl Backoff {
    /// Delays from about `initial` to `max`. An `initial` above `max` is taken as `max`.
    #[must_use]
    pub fn new(initial: Duration, max: Duration) -> Self {
        Self::with_random(initial, max, fastrand::Rng::new())
    }

    /// As [`Backoff::new`], with the same delays each time: for tests.
    #[must_use]
    pub fn seeded(initial: Duration, max: Duration, seed: u64) -> Self {
        Self::with_random(initial, max, fastrand::Rng::with_seed(seed))
    }

    fn with_random(initial: Duration, max: Duration, random: fastrand::Rng) -> Self {
        let initial = initial.min(max);
        Self {
            initial,
            max,
            ceiling: initial,
            random,
        }
    }

    /// The delay before the next try; the one after it may be twice as long.
    pub fn next_delay(&mut self) -> Duration {
        let floor = self.initial / 2;
        let spread = self.ceiling.saturating_sub(floor);
        let delay = floor.saturating_add(spread.mul_f64(self.random.f64()));
        self.ceiling = self.ceiling.saturating_mul(2).min(self.max);
        // `mul_f64` rounds, so the bound is set here rather than argued for.
        delay.min(self.max)
    }

    /// Starts anew: for after a success.
    pub fn reset(&mut self) {
        self.ceiling = self.initial;
    }

    /// The most that the first delay can be.
    #[must_use]
    pub fn initial(&self) -> Duration {
        self.initial
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_delay_is_between_half_the_initial_and_its_ceiling(
            initial_us in 0_u64..10_000_000, max_us in 0_u64..3_600_000_000, seed: u64, tries in 1_usize..80,
        ) {
            let (initial, max) = (Duration::from_micros(initial_us), Duration::from_micros(max_us));
            let mut backoff = Backoff::seeded(initial, max, seed);
            let mut ceiling = initial.min(max);
            for _ in 0..tries {
                let delay = backoff.next_delay();
                prop_assert!(delay >= initial.min(max) / 2, "{delay:?} is under half of {initial:?}");
                prop_assert!(delay <= ceiling + Duration::from_nanos(1), "{delay:?} is over {ceiling:?}");
                prop_assert!(delay <= max);
                ceiling = ceiling.saturating_mul(2).min(max);
            }
            backoff.reset();
            prop_assert!(backoff.next_delay() <= initial.min(max) + Duration::from_nanos(1));
        }
    }

    #[test]
    fn the_longest_durations_do_not_overflow() {
        let mut backoff = Backoff::seeded(Duration::MAX / 2, Duration::MAX / 2, 7);
        for _ in 0..5 {
            assert!(backoff.next_delay() <= Duration::MAX / 2);
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_delays() {
        let delays = |seed| {
            let mut backoff = Backoff::seeded(Duration::from_secs(1), Duration::from_secs(60), seed);
            (0..8).map(|_| backoff.next_delay()).collect::<Vec<_>>()
        };
        assert_eq!(delays(3), delays(3));
        assert_ne!(delays(3), delays(4));
    }
}
