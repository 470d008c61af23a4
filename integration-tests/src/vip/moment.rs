//! Moments on a clock that all processes of this machine share, also those in containers.

use std::fmt::{self, Display, Formatter};
use std::ops::{Add, Sub};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// A moment: nanoseconds on `CLOCK_MONOTONIC`, which nobody sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(u64);

impl Moment {
    /// Now.
    ///
    /// # Panics
    /// Never on Linux, which has this clock.
    pub fn now() -> Self {
        let since_boot = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("Linux has this clock");
        Self(nanos(since_boot.into()))
    }

    /// The moment this long after the machine's start.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// How long after `earlier` it was; nothing if it was before.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }
}

impl Sub<Duration> for Moment {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(duration)))
    }
}

/// From one moment to a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Its beginning.
    pub from: Moment,
    /// Its end.
    pub to: Moment,
}

impl Span {
    /// How long it is.
    pub fn length(self) -> Duration {
        self.to.since(self.from)
    }
}

/// A duration as `1234.5 ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Millis(pub Duration);

impl Display for Millis {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} ms", self.0.as_secs_f64() * 1_000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_and_never_below_nothing() {
        let (earlier, later) = (Moment::now(), Moment::now());
        assert!(later >= earlier);
        assert_eq!(earlier.since(earlier + Duration::from_secs(1)), Duration::ZERO);
        let span = Span {
            from: earlier,
            to: earlier + Duration::from_millis(1_500),
        };
        assert_eq!(span.length(), Duration::from_millis(1_500));
        assert_eq!(Millis(span.length()).to_string(), "1500.0 ms");
        assert_eq!((span.to - span.length()), earlier);
    }
}
