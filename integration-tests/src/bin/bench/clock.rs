//! Moments on the system's clock, which Docker, the services and this program share.

use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(i64);

impl Moment {
    /// Now.
    pub(crate) fn now() -> Self {
        SystemTime::now().into()
    }

    /// As Docker gives it in `timeNano`.
    pub(crate) fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// As `/status` gives it, to the millisecond, cut off; or as Docker does, to the nanosecond.
    pub(crate) fn from_rfc3339(text: &str) -> Option<Self> {
        humantime::parse_rfc3339(text).ok().map(Into::into)
    }

    /// Milliseconds from `earlier` to this; negative when it was later.
    pub(crate) fn since(self, earlier: Self) -> f64 {
        let micros = (self.0 - earlier.0) / 1_000;
        // Exact: differences of minutes, in microseconds, have far fewer than 53 bits.
        #[allow(clippy::cast_precision_loss)]
        let micros = micros as f64;
        micros / 1_000.0
    }

    /// The moment `millis` before.
    pub(crate) fn earlier_by(self, millis: u64) -> Self {
        Self(self.0 - i64::try_from(millis).unwrap_or(i64::MAX / 1_000_000) * 1_000_000)
    }
}

impl From<SystemTime> for Moment {
    fn from(time: SystemTime) -> Self {
        let nanos = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        Self(i64::try_from(nanos).unwrap_or(i64::MAX))
    }
}

/// Milliseconds since `earlier`.
pub(crate) fn elapsed_ms(earlier: std::time::Instant) -> f64 {
    earlier.elapsed().as_secs_f64() * 1_000.0
}
