//! Dates as GitLab writes them into JSON.

use std::time::Duration;

use crate::time::WallTime;

/// Reads a date of RFC 3339 (`2026-01-31T04:05:06.789Z`, `…+02:00`), down to the second. What was
/// before 1970 is 1970. `None` for anything else.
pub(super) fn rfc3339(text: &str) -> Option<WallTime> {
    let text = text.trim();
    let (date, rest) = (text.get(..10)?, text.get(10..)?);
    let time = rest.strip_prefix(['T', 't', ' '])?;
    let (clock, zone) = (time.get(..8)?, time.get(8..)?);
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = numbers(clock, ':', [2, 2, 2])?;
    // A leap second is the first one of the next minute.
    let fits = day >= 1 && day <= days_in(year, month)? && hour < 24 && minute < 60 && second <= 60;
    if !fits {
        return None;
    }
    let zone = match zone.strip_prefix('.') {
        Some(fraction) => {
            let rest = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
            (rest.len() < fraction.len()).then_some(rest)?
        }
        None => zone,
    };
    let local = days_before(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    let seconds = local - offset(zone.trim_start())?;
    Some(WallTime(Duration::from_secs(
        u64::try_from(seconds).unwrap_or(0),
    )))
}

/// How many seconds the zone is ahead of UTC.
fn offset(zone: &str) -> Option<i64> {
    if zone.eq_ignore_ascii_case("z") || zone.eq_ignore_ascii_case("utc") {
        return Some(0);
    }
    let sign = match zone.chars().next()? {
        '+' => 1,
        '-' => -1,
        _ => return None,
    };
    let digits = &zone[1..];
    let [hours, minutes] = match digits.len() {
        4 => [digits.get(..2)?, digits.get(2..)?].map(number),
        _ => {
            let (hours, minutes) = digits.split_once(':')?;
            [hours, minutes].map(|part| number(part).filter(|_| part.len() == 2))
        }
    };
    let (hours, minutes) = (hours?, minutes?);
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

fn numbers(text: &str, between: char, lengths: [usize; 3]) -> Option<[i64; 3]> {
    let mut parts = text.split(between);
    let mut found = [0; 3];
    for (slot, len) in found.iter_mut().zip(lengths) {
        *slot = number(parts.next().filter(|part| part.len() == len)?)?;
    }
    parts.next().is_none().then_some(found)
}

/// Digits only: `parse` alone would take a sign.
fn number(digits: &str) -> Option<i64> {
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().ok())?
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in(year: i64, month: i64) -> Option<i64> {
    match month {
        2 => Some(28 + i64::from(is_leap(year))),
        4 | 6 | 9 | 11 => Some(30),
        1..=12 => Some(31),
        _ => None,
    }
}

/// Days from 1970-01-01 to this one, which may be before it.
fn days_before(year: i64, month: i64, day: i64) -> i64 {
    // Of years that end with February, so that a leap day is the last one.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use quickcheck::quickcheck;

    use super::*;

    #[test]
    fn dates_are_read_in_every_way_of_writing_them() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2026-01-31T04:05:06.789Z", 1_769_832_306),
            ("2026-01-31T04:05:06.789+00:00", 1_769_832_306),
            ("2026-01-31 04:05:06 UTC", 1_769_832_306),
            ("2026-01-31t06:05:06+02:00", 1_769_832_306),
            ("2026-01-30T22:35:06-0530", 1_769_832_306),
            ("2024-02-29T23:59:60Z", 1_709_251_200),
            ("2000-02-29T12:00:00Z", 951_825_600),
            ("2100-03-01T00:00:00Z", 4_107_542_400),
            ("9999-12-31T23:59:59Z", 253_402_300_799),
            ("1969-12-31T23:59:59Z", 0),
            ("0000-01-01T00:00:00Z", 0),
            ("1970-01-02T00:00:00+23:59", 60),
        ] {
            let wanted = WallTime(Duration::from_secs(seconds));
            assert_eq!(rfc3339(text), Some(wanted), "{text}");
        }
    }

    #[test]
    fn what_is_no_date_is_none() {
        for text in [
            "",
            "tomorrow",
            "2026-01-31",
            "2026-01-31T04:05:06",
            "2026-01-31T04:05Z",
            "2026-02-29T00:00:00Z",
            "2100-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "2026-01-31T24:00:00Z",
            "2026-01-31T00:60:00Z",
            "2026-01-31T00:00:00.Z",
            "2026-01-31T00:00:00+2:00",
            "2026-01-31T00:00:00+25:00",
            "2026-01-31T00:00:00+24:00",
            "2026-01-31T00:00:00+01:60",
            "2026-04-31T00:00:00Z",
            "2026-06-31T00:00:00Z",
            "2026-09-31T00:00:00Z",
            "2026-11-31T00:00:00Z",
            "2026-01-31T00:00:00ä",
            "+026-01-31T00:00:00Z",
            "2026-01-31T00:00:00+00:00x",
            "ä026-01-31T00:00:00Z",
        ] {
            assert_eq!(rfc3339(text), None, "{text}");
        }
    }

    quickcheck! {
        fn any_text_is_an_answer(text: String) -> bool {
            let _ = rfc3339(&text);
            let _ = rfc3339(&format!("2026-01-31T00:00:00{text}"));
            true
        }

        fn headers_say_the_same(seconds: u32) -> bool {
            let at = std::time::UNIX_EPOCH + Duration::from_secs(seconds.into());
            let date = httpdate::fmt_http_date(at);
            // `Sun, 06 Nov 1994 08:49:37 GMT`
            let month = "JanFebMarAprMayJunJulAugSepOctNovDec".find(&date[8..11]).unwrap() / 3 + 1;
            let text = format!("{}-{month:02}-{}T{}Z", &date[12..16], &date[5..7], &date[17..25]);
            rfc3339(&text) == Some(WallTime(Duration::from_secs(seconds.into())))
        }
    }
}
