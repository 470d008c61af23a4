//! The clock that rights are counted on.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// A time on this host's `CLOCK_BOOTTIME`: since its boot, with the time for which it was suspended.
///
/// It means nothing on another host, nor after a reboot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootInstant(Duration);

impl BootInstant {
    /// Now.
    ///
    /// Should the kernel not tell (it has known this clock since 2.6.39), it is the end of time: then every right is
    /// over, and none is taken.
    #[must_use]
    pub fn now() -> Self {
        Self(clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::MAX, Duration::from))
    }

    /// The time that is `since_boot` after the boot.
    #[must_use]
    pub const fn from_boot(since_boot: Duration) -> Self {
        Self(since_boot)
    }

    /// How long after the boot it is.
    #[must_use]
    pub const fn since_boot(self) -> Duration {
        self.0
    }

    /// This much later, unless no clock goes so far.
    #[must_use]
    pub fn checked_add(self, time: Duration) -> Option<Self> {
        self.0.checked_add(time).map(Self)
    }

    /// This much earlier, unless that was before the boot.
    #[must_use]
    pub fn checked_sub(self, time: Duration) -> Option<Self> {
        self.0.checked_sub(time).map(Self)
    }

    /// This much later, or the end of time.
    #[must_use]
    pub fn saturating_add(self, time: Duration) -> Self {
        Self(self.0.saturating_add(time))
    }

    /// How long it is from `earlier` to here; nothing if that is later.
    #[must_use]
    pub fn saturating_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// How long it is from now; nothing if it is over.
    #[must_use]
    pub fn left(self) -> Duration {
        self.saturating_since(Self::now())
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_over(self) -> bool {
        Self::now() >= self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_goes_on_and_what_is_left_shrinks() {
        let first = BootInstant::now();
        let end = first.checked_add(Duration::from_secs(60)).expect("a minute more");
        assert!(BootInstant::now() >= first);
        assert!(end.left() <= Duration::from_secs(60) && end.left() > Duration::from_secs(50));
        assert!(!end.is_over() && first.is_over());
        assert_eq!(end.checked_sub(Duration::from_secs(60)), Some(first));
        assert_eq!(first.saturating_since(end), Duration::ZERO);
    }

    #[test]
    fn no_arithmetic_leaves_the_clock() {
        let start = BootInstant::from_boot(Duration::ZERO);
        assert_eq!(start.checked_sub(Duration::from_nanos(1)), None);
        assert_eq!(
            BootInstant::from_boot(Duration::MAX).checked_add(Duration::from_nanos(1)),
            None
        );
        assert_eq!(start.saturating_add(Duration::MAX).since_boot(), Duration::MAX);
    }
}
