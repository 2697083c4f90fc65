//! Times of files, as archives write them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use zip::DateTime;

/// Seconds since 1970 as archives hold them: 31 bits, so that nobody reads them as negative.
pub(super) fn to_unix(time: SystemTime) -> u32 {
    let seconds = time
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs());
    u32::try_from(seconds.min(i32::MAX as u64)).unwrap_or_default()
}

pub(super) fn from_unix(seconds: u32) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds.into())
}

/// The older form, which knows no time zone (UTC is written) and only every other second; what was
/// before 1980 is in 1980.
pub(super) fn to_dos(seconds: u32) -> DateTime {
    let (year, month, day) = date(seconds / 86_400);
    let [hour, minute, second] = [seconds / 3600 % 24, seconds / 60 % 60, seconds % 60];
    let small = |number: u32| number as u8;
    DateTime::from_date_and_time(
        year as u16,
        small(month),
        small(day),
        small(hour),
        small(minute),
        small(second),
    )
    .unwrap_or_default()
}

/// The reverse; `None` for what is no date.
pub(super) fn from_dos(time: DateTime) -> Option<SystemTime> {
    let days = days(time.year().into(), time.month().into(), time.day().into())?;
    let seconds =
        u32::from(time.hour()) * 3600 + u32::from(time.minute()) * 60 + u32::from(time.second());
    Some(from_unix(days.checked_mul(86_400)?.checked_add(seconds)?))
}

/// The date `days` after 1970-01-01, for the 68 years that [`to_unix`] gives.
fn date(days: u32) -> (u32, u32, u32) {
    let mut year = 1970 + days / 366;
    while days_before(year + 1) <= days {
        year += 1;
    }
    let mut left = days - days_before(year);
    for (month, len) in (1..).zip(month_lengths(year)) {
        if left < len {
            return (year, month, left + 1);
        }
        left -= len;
    }
    (year, 12, 31)
}

fn days(year: u32, month: u32, day: u32) -> Option<u32> {
    let lengths = month_lengths(year);
    let month = usize::try_from(month).ok()?.checked_sub(1)?;
    let before: u32 = lengths.get(..month)?.iter().sum();
    let is_day = (1..=*lengths.get(month)?).contains(&day);
    (year >= 1970 && is_day).then(|| days_before(year) + before + day - 1)
}

/// The days from 1970-01-01 to the first of the year.
fn days_before(year: u32) -> u32 {
    let leap_days = |year: u32| year / 4 - year / 100 + year / 400;
    (year - 1970) * 365 + leap_days(year - 1) - leap_days(1969)
}

fn month_lengths(year: u32) -> [u32; 12] {
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let february = if is_leap { 29 } else { 28 };
    [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (315_532_800, "1980-01-01 00:00:00"),
            (951_782_400, "2000-02-29 00:00:00"),
            (1_709_251_198, "2024-02-29 23:59:58"),
            (1_735_689_600, "2025-01-01 00:00:00"),
            (i32::MAX as u32, "2038-01-19 03:14:06"),
        ] {
            let dos = to_dos(seconds);
            assert_eq!(dos.to_string(), text);
            assert_eq!(from_dos(dos).unwrap(), from_unix(seconds & !1));
        }
        assert_eq!(to_dos(0).to_string(), "1980-01-01 00:00:00");
    }

    #[test]
    fn every_day_is_its_own() {
        for days in 3652..24_855 {
            let dos = to_dos(days * 86_400);
            assert_eq!(from_dos(dos).unwrap(), from_unix(days * 86_400));
        }
    }

    #[test]
    fn times_that_archives_cannot_hold_are_near_them() {
        assert_eq!(to_unix(UNIX_EPOCH - Duration::from_secs(1)), 0);
        assert_eq!(to_unix(from_unix(u32::MAX)), i32::MAX as u32);
    }
}
