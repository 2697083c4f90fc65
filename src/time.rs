//! The crate's own time: a duration since an origin that the caller chose.
//!
//! `std::time::Instant` cannot be built, stored or compared across runs, and invites reading the
//! clock. [`Time`] is plain data: the caller says what time it is with every input.

use std::{
    fmt,
    ops::{Add, Sub},
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// A moment, as the time that passed since the origin of the adapter (or of the test) that says it.
///
/// All arithmetic saturates: no input can make it overflow.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[allow(
    clippy::exhaustive_structs,
    reason = "a moment will never be more than this"
)]
pub struct Time(pub Duration);

impl Time {
    /// The origin itself.
    pub const ZERO: Self = Self(Duration::ZERO);
    /// The last moment there is; a deadline that never comes.
    pub const MAX: Self = Self(Duration::MAX);

    /// The moment `secs` seconds after the origin.
    pub const fn from_secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    /// The moment `millis` milliseconds after the origin.
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// The time that passed since the origin.
    pub const fn since_origin(self) -> Duration {
        self.0
    }

    /// The time from `earlier` to this moment; zero when `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

impl Sub<Duration> for Time {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(duration))
    }
}

/// Seconds since the origin with the milliseconds behind the point, as in `12.345s`.
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}s", self.0.as_secs(), self.0.subsec_millis())
    }
}

/// A wall-clock moment, as the time since 1970-01-01T00:00:00Z.
///
/// The machine knows it only as `wall_origin + Time`; it is needed to read the dates that servers
/// put into `RateLimit-ResetTime` and `Retry-After`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[allow(
    clippy::exhaustive_structs,
    reason = "a moment will never be more than this"
)]
pub struct WallTime(pub Duration);

impl WallTime {
    /// The time from `earlier` to this moment; zero when `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// The wall-clock moment at `time`, where `self` is the wall clock at the origin.
impl Add<Time> for WallTime {
    type Output = Self;

    fn add(self, time: Time) -> Self {
        Self(self.0.saturating_add(time.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(Time::MAX + Duration::from_secs(1), Time::MAX);
        assert_eq!(Time::ZERO - Duration::from_secs(1), Time::ZERO);
        assert_eq!(Time::from_secs(1).since(Time::from_secs(2)), Duration::ZERO);
        assert_eq!(
            WallTime(Duration::MAX) + Time::from_secs(1),
            WallTime(Duration::MAX)
        );
    }

    #[test]
    fn a_time_prints_as_seconds() {
        assert_eq!(Time::from_millis(12_045).to_string(), "12.045s");
    }
}
