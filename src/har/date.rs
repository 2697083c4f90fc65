//! Dates as archives have them: RFC 3339.

use std::time::Duration;

use crate::time::WallTime;

/// `2024-07-16T10:00:00.123456+02:00`; a date without an offset is UTC.
pub(super) fn parse(text: &str) -> Option<WallTime> {
    let (date, time) = text.trim().split_once(['T', 't', ' '])?;
    let mut date = date.splitn(3, '-').map(digits);
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let zone = time.find(['Z', 'z', '+', '-']).unwrap_or(time.len());
    let (time, zone) = time.split_at(zone);
    let (time, fraction) = time.split_once('.').unwrap_or((time, ""));
    let mut time = time.splitn(3, ':').map(digits);
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    let is_date = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    if !is_date {
        return None;
    }
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    let seconds = u64::try_from(seconds - offset(zone)?).ok()?;
    Some(WallTime(Duration::new(seconds, nanos(fraction)?)))
}

/// A number of at most four digits.
fn digits(text: &str) -> Option<i64> {
    let is_number = (1..=4).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

/// Of the first nine digits behind the point.
fn nanos(fraction: &str) -> Option<u32> {
    if !fraction.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let digits = fraction.bytes().chain(std::iter::repeat(b'0')).take(9);
    Some(digits.fold(0, |nanos, digit| nanos * 10 + u32::from(digit - b'0')))
}

/// Of a time zone, in seconds.
fn offset(zone: &str) -> Option<i64> {
    let sign = match zone.bytes().next() {
        None | Some(b'Z' | b'z') => return Some(0),
        Some(b'-') => -1,
        Some(_) => 1,
    };
    let zone = zone[1..].replace(':', "");
    let zone = digits(&zone)?;
    Some(sign * (zone / 100 * 3600 + zone % 100 * 60))
}

/// Days since 1970-01-01.
fn days(year: i64, month: i64, day: i64) -> i64 {
    // Counted from March on, a leap day is the last day of its year.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leap_days = year / 4 - year / 100 + year / 400;
    365 * year + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_come_back_as_they_were_written() {
        for micros in [
            0,
            951_782_400_000_000,
            1_721_124_000_123_456,
            4_107_542_399_999_999,
        ] {
            let time = WallTime(Duration::from_micros(micros));
            assert_eq!(parse(&time.to_string()), Some(time), "{time}");
        }
    }

    #[test]
    fn offsets_count_and_nonsense_does_not() {
        let utc = parse("2024-07-16T08:00:00Z");
        assert!(utc.is_some());
        for text in [
            "2024-07-16T10:00:00+02:00",
            "2024-07-16 03:00:00.000-0500",
            "2024-07-16T08:00:00",
        ] {
            assert_eq!(parse(text), utc, "{text}");
        }
        for text in [
            "",
            "T",
            "2024-07-16",
            "2024-13-01T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "2024-07-16T10:00",
            "2024-07-16T10:00:00.x",
            "1970-01-01T00:00:00+01:00",
            "2024-07-16T10:00:00+é",
            "é-1-1T0:0:0",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
