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

/// As in RFC 3339 with microseconds, in UTC: `2024-07-16T10:00:00.123456Z`.
impl fmt::Display for WallTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (year, month, day) = date(seconds / 86_400);
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        let micros = self.0.subsec_micros();
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z"
        )
    }
}

/// The date so many days after 1970-01-01.
fn date(days: u64) -> (u64, u64, u64) {
    // Counted from 0000-03-01, a leap day is the last day of its year, and 400 years repeat.
    let days = days.saturating_add(719_468);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Five months from March on have 153 days.
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year_of_era;
    if month < 10 {
        (year, month + 3, day)
    } else {
        (year + 1, month - 9, day)
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
    fn a_moment_prints_as_a_date() {
        for (micros, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399_999_999, "2000-02-28T23:59:59.999999Z"),
            (951_782_400_000_000, "2000-02-29T00:00:00.000000Z"),
            (1_709_251_199_000_001, "2024-02-29T23:59:59.000001Z"),
            (1_721_124_000_123_456, "2024-07-16T10:00:00.123456Z"),
            (4_107_542_400_000_000, "2100-03-01T00:00:00.000000Z"),
        ] {
            assert_eq!(WallTime(Duration::from_micros(micros)).to_string(), text);
        }
        // No panic, whatever the clock says.
        assert!(WallTime(Duration::MAX).to_string().ends_with('Z'));
    }

    #[test]
    fn a_time_prints_as_seconds() {
        assert_eq!(Time::from_millis(12_045).to_string(), "12.045s");
    }
}
