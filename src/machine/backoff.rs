//! How long to wait after what kind of setback, with seeded jitter.

use std::time::Duration;

use http::{HeaderMap, StatusCode};

use crate::{protocol::headers, time::WallTime};

/// The longest wait that a server's `Retry-After` or `RateLimit-ResetTime` is granted.
const LONGEST_RATE_LIMIT: Duration = Duration::from_secs(600);
/// The wait after a 429 that names none.
const RATE_LIMIT: Duration = Duration::from_secs(60);
/// The longest wait for a server in trouble is 60 s with its jitter, so that all logs are current a
/// minute after it came back.
const LONGEST_TROUBLE: Duration = Duration::from_secs(50);
/// The longest wait after a refusal is 1 h with its jitter.
const LONGEST_REFUSAL: Duration = Duration::from_secs(3000);

/// Why a request has to be made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setback {
    /// 409: somebody else was at it in the same moment.
    Conflict,
    /// 409 to a job request: somebody else got the job, as happens all day.
    Outrun,
    /// The token was refused.
    Refused,
    /// 429, or another error that says how long to wait.
    RateLimited(Option<Duration>),
    /// Everything else: server errors, the network, answers that make no sense.
    Trouble,
}

impl Setback {
    /// The kind of setback that this status means.
    pub(super) fn of_status(status: StatusCode, headers: &HeaderMap, now: WallTime) -> Self {
        let wait = headers::retry_after(headers, now);
        match status {
            StatusCode::TOO_MANY_REQUESTS => Self::RateLimited(wait),
            StatusCode::CONFLICT => Self::Conflict,
            _ if status.is_server_error() && wait.is_some() => Self::RateLimited(wait),
            _ => Self::Trouble,
        }
    }
}

/// Counts setbacks in a row and says how long to wait after each.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    steady: bool,
}

impl Backoff {
    /// For what has little time: the waits for a server in trouble do not grow, so there are as many
    /// tries as a minute allows.
    pub(super) fn steady() -> Self {
        Self {
            failures: 0,
            steady: true,
        }
    }

    /// The wait after one more setback.
    pub(super) fn after(&mut self, setback: Setback, rng: &mut Rng) -> Duration {
        let failures = self.failures;
        self.failures = failures.saturating_add(1);
        match setback {
            // A server that conflicts with every request must not be asked twice a second for ever.
            Setback::Conflict | Setback::Outrun if failures < 5 => {
                Duration::from_millis(500) + rng.below(Duration::from_millis(500))
            }
            Setback::Outrun => rng.jitter(Duration::from_secs(3)),
            Setback::Conflict => rng.jitter(
                doubled(Duration::from_secs(3), failures.saturating_sub(5)).min(LONGEST_TROUBLE),
            ),
            Setback::Refused => {
                rng.jitter(doubled(Duration::from_secs(60), failures).min(LONGEST_REFUSAL))
            }
            Setback::RateLimited(wait) => {
                let wait = wait.unwrap_or(RATE_LIMIT).min(LONGEST_RATE_LIMIT);
                rng.jitter(wait).min(LONGEST_RATE_LIMIT)
            }
            Setback::Trouble if self.steady => rng.jitter(match failures {
                0 => Duration::from_secs(2),
                _ => Duration::from_secs(12),
            }),
            Setback::Trouble => {
                rng.jitter(doubled(Duration::from_secs(1), failures).min(LONGEST_TROUBLE))
            }
        }
    }

    /// Something went well.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

fn doubled(base: Duration, times: u32) -> Duration {
    base.saturating_mul(1 << times.min(16))
}

/// The machine's only randomness: a splitmix64 sequence that follows from the seed.
#[derive(Clone, Debug)]
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(super) fn wide(&mut self) -> u128 {
        u128::from(self.next()) << 64 | u128::from(self.next())
    }

    /// A duration of at least zero and less than `limit`.
    fn below(&mut self, limit: Duration) -> Duration {
        let nanos = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(if nanos == 0 { 0 } else { self.next() % nanos })
    }

    /// `wait` and up to a fifth more: never sooner than asked, never in step with others.
    pub(super) fn jitter(&mut self, wait: Duration) -> Duration {
        wait.saturating_add(self.below(wait / 5))
    }
}

#[cfg(test)]
mod tests {
    use quickcheck::quickcheck;

    use super::*;

    fn waits(setback: Setback, count: usize) -> Vec<f64> {
        let (mut backoff, mut rng) = (Backoff::default(), Rng::new(7));
        (0..count)
            .map(|_| backoff.after(setback, &mut rng).as_secs_f64())
            .collect()
    }

    #[test]
    fn trouble_doubles_up_to_a_minute() {
        let waits = waits(Setback::Trouble, 50);
        for (wait, base) in waits
            .iter()
            .zip([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 50.0, 50.0])
        {
            assert!((base..=base * 1.2).contains(wait), "{wait} for {base}");
        }
        assert!(waits.iter().all(|wait| *wait <= 60.0));
        // A dead server gets at most 6 requests in the first minute: the first and 5 repeats.
        assert!(waits[..6].iter().sum::<f64>() > 60.0);
    }

    #[test]
    fn steady_trouble_is_no_more_often_in_the_first_minute() {
        let (mut backoff, mut rng) = (Backoff::steady(), Rng::new(7));
        let mut wait = || backoff.after(Setback::Trouble, &mut rng).as_secs_f64();
        let waits: Vec<f64> = std::iter::repeat_with(&mut wait).take(12).collect();
        assert!(waits[..6].iter().sum::<f64>() >= 60.0, "{waits:?}");
        assert!(waits[..9].iter().sum::<f64>() < 120.0, "{waits:?}");
    }

    #[test]
    fn a_refusal_waits_a_minute_and_doubles_to_an_hour() {
        let waits = waits(Setback::Refused, 20);
        assert!((60.0..=72.0).contains(&waits[0]) && (120.0..=144.0).contains(&waits[1]));
        assert!(waits.iter().all(|wait| *wait <= 3600.0) && waits[19] >= 3000.0);
    }

    #[test]
    fn a_rate_limit_is_obeyed_up_to_ten_minutes() {
        let secs = |secs| Setback::RateLimited(Some(Duration::from_secs(secs)));
        assert!((30.0..=36.0).contains(&waits(secs(30), 1)[0]));
        assert_eq!(waits(secs(86_400), 1)[0], 600.0);
        assert!((60.0..=72.0).contains(&waits(Setback::RateLimited(None), 1)[0]));
    }

    #[test]
    fn a_conflict_is_repeated_soon_but_not_for_ever() {
        for setback in [Setback::Conflict, Setback::Outrun] {
            let waits = waits(setback, 8);
            assert!(waits[..5].iter().all(|wait| (0.5..1.0).contains(wait)));
            assert!(waits[5..].iter().all(|wait| *wait >= 3.0));
        }
        let hour = waits(Setback::Conflict, 100);
        assert!(hour.iter().sum::<f64>() > 3600.0);
    }

    #[test]
    fn chance_is_splitmix64() {
        let mut rng = Rng::new(0);
        assert_eq!(rng.next(), 0xE220_A839_7B1D_CDAF);
        assert_eq!(rng.wide(), 0x6E78_9E6A_A1B9_65F4_06C4_5D18_8009_454F);
    }

    #[test]
    fn a_reset_starts_anew() {
        let (mut backoff, mut rng) = (Backoff::default(), Rng::new(1));
        for _ in 0..9 {
            backoff.after(Setback::Trouble, &mut rng);
        }
        backoff.reset();
        assert!(backoff.after(Setback::Trouble, &mut rng) < Duration::from_secs(2));
    }

    quickcheck! {
        fn waits_grow_and_have_a_limit(seed: u64, kind: u8, told: Option<u64>, steady: bool) -> bool {
            let told = told.map(Duration::from_secs);
            // How much of a wait is chance, and the longest one.
            let (setback, chance, longest) = match kind % 5 {
                0 => (Setback::Conflict, 2.0, 60.0),
                4 => (Setback::Outrun, 2.0, 3.6),
                1 => (Setback::Refused, 1.2, 3600.0),
                2 => (Setback::RateLimited(told), 1.2, 600.0),
                _ => (Setback::Trouble, 1.2, 60.0),
            };
            let mut backoff = if steady { Backoff::steady() } else { Backoff::default() };
            let mut rng = Rng::new(seed);
            let mut wait = || backoff.after(setback, &mut rng).as_secs_f64();
            let waits: Vec<f64> = std::iter::repeat_with(&mut wait).take(40).collect();
            let least = told.filter(|_| kind % 5 == 2).map_or(0.0, |told| told.as_secs_f64());
            waits.windows(2).all(|pair| pair[1] * chance >= pair[0])
                && waits.iter().all(|wait| (least.min(600.0)..=longest).contains(wait))
        }
    }
}
