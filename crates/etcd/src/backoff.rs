//! Pauses between attempts: exponential, jittered and capped.

use std::time::Duration;

/// The pause after this many failures (1 and up): `first`, doubled each time, at most `max`; of that half to all, at
/// random, so that not all clients of a cluster come back at once.
pub(crate) fn backoff(failures: u32, first: Duration, max: Duration) -> Duration {
    let doublings = failures.saturating_sub(1).min(20);
    let pause = first.saturating_mul(1 << doublings).min(max);
    pause.mul_f64(0.5 + 0.5 * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_cap_and_are_never_under_half() {
        let (first, max) = (Duration::from_millis(50), Duration::from_secs(2));
        for (failures, full) in [
            (0, 50),
            (1, 50),
            (2, 100),
            (3, 200),
            (6, 1600),
            (7, 2000),
            (u32::MAX, 2000),
        ] {
            let full = Duration::from_millis(full);
            let pause = backoff(failures, first, max);
            assert!(full / 2 <= pause && pause <= full, "{failures}: {pause:?}");
        }
    }
}
