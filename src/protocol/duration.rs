//! Durations as Go writes them, which is how variables such as `RUNNER_SCRIPT_TIMEOUT` hold them.

use std::time::Duration;

/// A duration in Go's notation, such as `1h30m`, `90s` or `1.5h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "a number has a sign or has none")]
pub enum GoDuration {
    /// Zero or more.
    Forward(Duration),
    /// Less than zero: so much.
    Backward(Duration),
}

impl GoDuration {
    /// Reads a duration: numbers, each with a unit (`h`, `m`, `s`, `ms`, `us`, `µs`, `ns`), one
    /// behind the other, or a plain `0`. What is beyond Go's range (292 years) is no duration, nor is
    /// anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let (negative, mut rest) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let mut nanos: u128 = 0;
        if rest != "0" {
            if rest.is_empty() {
                return None;
            }
            while !rest.is_empty() {
                let (part, behind) = part(rest)?;
                nanos = nanos.checked_add(part)?;
                rest = behind;
            }
        }
        if nanos > i64::MAX as u128 {
            return None;
        }
        let duration = Duration::from_nanos(u64::try_from(nanos).ok()?);
        Some(if negative && !duration.is_zero() {
            Self::Backward(duration)
        } else {
            Self::Forward(duration)
        })
    }
}

/// One number and its unit, in nanoseconds, and what follows.
fn part(text: &str) -> Option<(u128, &str)> {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let (whole, rest) = text.split_at(digits(text));
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(digits(rest)),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let end = rest.find(|c: char| c == '.' || c.is_ascii_digit());
    let (unit, rest) = rest.split_at(end.unwrap_or(rest.len()));
    let unit: u128 = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    let whole: u128 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    // The smallest part of an hour that counts is its 13th decimal.
    let (mut fine, mut scale) = (0, 1);
    for digit in fraction.bytes().take(14) {
        scale *= 10;
        fine = fine * 10 + u128::from(digit - b'0');
    }
    let fine = fine * unit / scale;
    Some((whole.checked_mul(unit)?.checked_add(fine)?, rest))
}

#[cfg(test)]
mod tests {
    use quickcheck::quickcheck;

    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        let forward = |millis| Some(GoDuration::Forward(Duration::from_millis(millis)));
        let backward = |millis| Some(GoDuration::Backward(Duration::from_millis(millis)));
        for (text, wanted) in [
            ("0", forward(0)),
            ("-0", forward(0)),
            ("0s", forward(0)),
            ("90s", forward(90_000)),
            ("+5s", forward(5_000)),
            ("1h30m", forward(5_400_000)),
            ("1h15m30.918s", forward(4_530_918)),
            ("1.5h", forward(5_400_000)),
            (".5s", forward(500)),
            ("1.s", forward(1_000)),
            ("100ms", forward(100)),
            ("2000us", forward(2)),
            ("2000µs", forward(2)),
            ("3000000ns", forward(3)),
            ("0.1000000000000000000001h", forward(360_000)),
            ("-5m", backward(300_000)),
            ("-1.5s", backward(1_500)),
            ("", None),
            ("-", None),
            ("5", None),
            ("5 s", None),
            (" 5s", None),
            ("s", None),
            (".s", None),
            ("5d", None),
            ("1e3s", None),
            ("--5s", None),
            ("5s-", None),
            ("ten minutes", None),
            ("9223372036854775808ns", None),
            ("2562048h", None),
            ("99999999999999999999999999999999999999999h", None),
        ] {
            assert_eq!(GoDuration::parse(text), wanted, "{text:?}");
        }
        let longest = GoDuration::Forward(Duration::from_nanos(i64::MAX as u64));
        assert_eq!(GoDuration::parse("9223372036854775807ns"), Some(longest));
        assert_eq!(
            GoDuration::parse("2562047h"),
            Some(GoDuration::Forward(Duration::from_secs(2_562_047 * 3600)))
        );
    }

    quickcheck! {
        fn any_text_is_an_answer(text: String) -> bool {
            GoDuration::parse(&text).is_none_or(|_| !text.is_empty())
        }

        fn seconds_are_seconds(seconds: u32) -> bool {
            GoDuration::parse(&format!("{seconds}s"))
                == Some(GoDuration::Forward(Duration::from_secs(seconds.into())))
        }
    }
}
