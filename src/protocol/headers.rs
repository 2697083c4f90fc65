//! What the headers of the job API say.
//!
//! Every function takes whatever headers came and answers; a header that is missing, doubled or
//! makes no sense counts as absent (of several, the first is read).

use std::time::{Duration, SystemTime};

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONTENT_TYPE, DATE, RANGE, RETRY_AFTER},
};

use crate::time::WallTime;

/// Carries the job token on every request for one job.
pub const JOB_TOKEN: HeaderName = HeaderName::from_static("job-token");
/// Carries the runner token beside the one in the body, as GitLab's own runner sends it.
pub const RUNNER_TOKEN: HeaderName = HeaderName::from_static("runner-token");
/// Names one request in the logs of both sides: 32 lower-case hex digits.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The status of a job; see [`job_status`].
pub const JOB_STATUS: HeaderName = HeaderName::from_static("job-status");
/// The state of the job queue; see [`last_update`].
pub const X_GITLAB_LAST_UPDATE: HeaderName = HeaderName::from_static("x-gitlab-last-update");
/// On all answers of a front end that may hold job requests.
const GITLAB_CI_BUILDS_POLLING: HeaderName = HeaderName::from_static("gitlab-ci-builds-polling");
/// How often to send the log, or when to ask again; see [`update_interval`].
pub const X_GITLAB_TRACE_UPDATE_INTERVAL: HeaderName =
    HeaderName::from_static("x-gitlab-trace-update-interval");
/// When a rate limit ends; see [`retry_after`].
pub const RATELIMIT_RESETTIME: HeaderName = HeaderName::from_static("ratelimit-resettime");

/// The longest interval that [`update_interval`] tells.
pub const MAX_UPDATE_INTERVAL: Duration = Duration::from_secs(15 * 60);

const MAX_LAST_UPDATE: usize = 1024;
const MAX_STATUS: usize = 64;

wire_enum! {
    /// The status of a job at GitLab, as its replies about that job tell it.
    pub enum JobStatus {
        /// Not (or not yet) running.
        Pending = "pending",
        /// Running on this runner.
        Running = "running",
        /// Finished well.
        Success = "success",
        /// Failed; also when GitLab itself gave it up.
        Failed = "failed",
        /// Being cancelled: the runner is asked to bring it to an end.
        Canceling = "canceling",
        /// Cancelled for good.
        Canceled = "canceled",
    }
}

/// The `Content-Range` of `len` bytes from byte `start` of the log: `<first>-<last>`, both
/// inclusive, without a unit (GitLab would read a `bytes ` in front as a start of 0).
///
/// `len` is at least 1: an empty part of a log cannot be said in this form, and is never sent.
pub fn content_range(start: u64, len: u64) -> HeaderValue {
    let last = start.saturating_add(len.saturating_sub(1));
    #[expect(clippy::expect_used, reason = "digits and a dash are a header value")]
    HeaderValue::try_from(format!("{start}-{last}")).expect("digits and a dash")
}

/// How many bytes of a log GitLab has: the N of `Range: 0-N`, which is the next byte to send and not
/// the last one that is there.
pub fn stored_size(headers: &HeaderMap) -> Option<u64> {
    let value = text(headers, &RANGE)?;
    let range = match value.get(..5) {
        Some(unit) if unit.eq_ignore_ascii_case("bytes") => {
            value[5..].trim_start_matches(['=', ' ', '\t'])
        }
        _ => value,
    };
    let (start, size) = range.split_once('-')?;
    (number(start)? == Some(0)).then_some(())?;
    number(size)?
}

/// The status of the job that the reply is about.
pub fn job_status(headers: &HeaderMap) -> Option<JobStatus> {
    let word = text(headers, &JOB_STATUS)?;
    // `text` gives ASCII only, so any cut is between characters.
    Some(JobStatus::from(&word[..word.len().min(MAX_STATUS)]))
}

/// The interval of `X-GitLab-Trace-Update-Interval`, in whole seconds, at most
/// [`MAX_UPDATE_INTERVAL`].
///
/// On the reply to a part of a log it says how often to send more (3 s while somebody watches, else
/// 60 s); on a 202 to a final state it says when to repeat that.
pub fn update_interval(headers: &HeaderMap) -> Option<Duration> {
    let seconds = number(text(headers, &X_GITLAB_TRACE_UPDATE_INTERVAL)?)?;
    let interval = Duration::from_secs(seconds.unwrap_or(u64::MAX)).min(MAX_UPDATE_INTERVAL);
    (!interval.is_zero()).then_some(interval)
}

/// The opaque state of the job queue, to be sent back as `last_update` in the next job request.
///
/// Only visible ASCII, at most 1024 bytes; GitLab sends 32 hex digits.
pub fn last_update(headers: &HeaderMap) -> Option<String> {
    let value = text(headers, &X_GITLAB_LAST_UPDATE)?;
    let is_good =
        value.len() <= MAX_LAST_UPDATE && value.bytes().all(|byte| byte.is_ascii_graphic());
    is_good.then(|| value.to_owned())
}

/// Whether there is a front end that may hold job requests. As GitLab is installed, it does so for
/// no time at all.
pub(crate) fn is_from_front_end(headers: &HeaderMap) -> bool {
    headers.contains_key(GITLAB_CI_BUILDS_POLLING)
}

/// How long the server wants to be left alone from `now` on: until `RateLimit-ResetTime` if that is
/// in the future, else for `Retry-After` (seconds, or a date in the future).
///
/// The wait is as the server says it, however long; the caller limits it.
pub fn retry_after(headers: &HeaderMap, now: WallTime) -> Option<Duration> {
    let reset = text(headers, &RATELIMIT_RESETTIME).and_then(|value| until(value, now));
    reset.or_else(|| {
        let value = text(headers, &RETRY_AFTER)?;
        match number(value) {
            Some(seconds) => Some(Duration::from_secs(seconds.unwrap_or(u64::MAX)))
                .filter(|wait| !wait.is_zero()),
            None => until(value, now),
        }
    })
}

/// The clock of the server when it answered, to the second.
pub fn date(headers: &HeaderMap) -> Option<WallTime> {
    text(headers, &DATE).and_then(wall_time)
}

/// Whether the body is said to be JSON: media type `application/json`, with or without parameters.
pub fn is_json(headers: &HeaderMap) -> bool {
    is_media(headers, "application/json")
}

/// Whether the body is said to be a page for people, which no part of the job API answers with.
pub(crate) fn is_web_page(headers: &HeaderMap) -> bool {
    is_media(headers, "text/html")
}

fn is_media(headers: &HeaderMap, wanted: &str) -> bool {
    text(headers, &CONTENT_TYPE)
        .and_then(|value| value.split(';').next())
        .is_some_and(|media| media.trim().eq_ignore_ascii_case(wanted))
}

/// The value of a header, if it is text (visible ASCII and blanks) and not empty.
fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let value = headers.get(name)?.to_str().ok()?.trim();
    (!value.is_empty()).then_some(value)
}

/// `None` if `text` is anything but digits; `Some(None)` if it is a number beyond all measure.
fn number(text: &str) -> Option<Option<u64>> {
    let text = text.trim();
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok())
}

/// The time from `now` to an HTTP date, if that is in the future.
fn until(date: &str, now: WallTime) -> Option<Duration> {
    let wait = wall_time(date)?.since(now);
    (!wait.is_zero()).then_some(wait)
}

fn wall_time(date: &str) -> Option<WallTime> {
    let date = httpdate::parse_http_date(date).ok()?;
    let since_1970 = date.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(WallTime(since_1970))
}

#[cfg(test)]
mod tests {
    use quickcheck::quickcheck;

    use super::*;

    fn with(name: &HeaderName, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_str(value).unwrap());
        headers
    }

    #[test]
    fn content_ranges_are_inclusive() {
        assert_eq!(content_range(5, 4), "5-8");
        assert_eq!(content_range(0, 1), "0-0");
        assert_eq!(content_range(u64::MAX, 9), format!("{0}-{0}", u64::MAX));
        assert_eq!(content_range(7, 0), "7-7");
    }

    #[test]
    fn the_stored_size_is_what_follows_the_dash() {
        for (value, wanted) in [
            ("0-0", Some(0)),
            ("0-28", Some(28)),
            ("  0 - 28 ", Some(28)),
            ("bytes 0-28", Some(28)),
            ("bytes=0-28", Some(28)),
            ("Bytes 0-28", Some(28)),
            ("0-18446744073709551615", Some(u64::MAX)),
            ("0-18446744073709551616", None),
            ("", None),
            ("0", None),
            ("-", None),
            ("0-", None),
            ("-5", None),
            ("0--5", None),
            ("0-+5", None),
            ("0-5/9", None),
            ("0-0x5", None),
            ("3-5", None),
            ("items 0-5", None),
        ] {
            assert_eq!(stored_size(&with(&RANGE, value)), wanted, "{value}");
        }
        assert_eq!(stored_size(&HeaderMap::new()), None);
    }

    #[test]
    fn statuses_are_exact_words() {
        for (value, wanted) in [
            ("pending", Some(JobStatus::Pending)),
            (" running ", Some(JobStatus::Running)),
            ("success", Some(JobStatus::Success)),
            ("failed", Some(JobStatus::Failed)),
            ("canceling", Some(JobStatus::Canceling)),
            ("canceled", Some(JobStatus::Canceled)),
            ("Canceled", Some(JobStatus::Other("Canceled".into()))),
            ("waiting", Some(JobStatus::Other("waiting".into()))),
            ("", None),
        ] {
            assert_eq!(job_status(&with(&JOB_STATUS, value)), wanted, "{value}");
        }
        let long = job_status(&with(&JOB_STATUS, &"x".repeat(5000)));
        assert_eq!(long, Some(JobStatus::Other("x".repeat(64))));
    }

    #[test]
    fn intervals_are_positive_whole_seconds_up_to_15_minutes() {
        for (value, wanted) in [
            ("1", Some(1)),
            ("60", Some(60)),
            ("900", Some(900)),
            ("901", Some(900)),
            ("99999999999999999999999999", Some(900)),
            ("0", None),
            ("000", None),
            ("-3", None),
            ("+3", None),
            ("1/2", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(
                update_interval(&with(&X_GITLAB_TRACE_UPDATE_INTERVAL, value)),
                wanted.map(Duration::from_secs),
                "{value}"
            );
        }
    }

    #[test]
    fn the_queue_state_is_opaque_but_bounded() {
        let state = |value: &str| last_update(&with(&X_GITLAB_LAST_UPDATE, value));
        assert_eq!(state("5f2d9c1e").as_deref(), Some("5f2d9c1e"));
        assert_eq!(
            state(&"a".repeat(1024)).map(|state| state.len()),
            Some(1024)
        );
        assert_eq!(state(&"a".repeat(1025)), None);
        assert_eq!(state(""), None);
        assert_eq!(state("a b"), None);
        let mut headers = HeaderMap::new();
        headers.insert(
            X_GITLAB_LAST_UPDATE,
            HeaderValue::from_bytes(b"a\xff").unwrap(),
        );
        assert_eq!(last_update(&headers), None);
    }

    #[test]
    fn waits_come_from_the_reset_time_or_retry_after() {
        // Sun, 06 Nov 1994 08:49:37 GMT
        let now = WallTime(Duration::from_secs(784_111_777));
        let wait = |reset: &str, retry: &str| {
            let mut headers = with(&RETRY_AFTER, retry);
            headers.insert(RATELIMIT_RESETTIME, HeaderValue::from_str(reset).unwrap());
            retry_after(&headers, now).map(|wait| wait.as_secs())
        };
        let future = "Sun, 06 Nov 1994 08:50:00 GMT";
        let past = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(wait(future, "5"), Some(23));
        assert_eq!(wait(past, "5"), Some(5));
        assert_eq!(wait("junk", "5"), Some(5));
        assert_eq!(wait("", future), Some(23));
        assert_eq!(wait("", past), None);
        assert_eq!(wait("", "0"), None);
        assert_eq!(wait("", "-5"), None);
        assert_eq!(wait("", "1.5"), None);
        assert_eq!(wait("", "60"), Some(60));
        assert_eq!(wait("", "99999999999999999999999"), Some(u64::MAX));
        assert_eq!(wait("Thu, 01 Jan 1970 00:00:00 GMT", ""), None);
        assert!(wait("", "Fri, 31 Dec 9999 23:59:59 GMT").is_some());
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    #[test]
    fn json_may_have_parameters() {
        for (value, wanted) in [
            ("application/json", true),
            ("Application/JSON ; charset=utf-8", true),
            ("application/json;", true),
            ("text/html", false),
            ("application/jsonp", false),
            ("text/plain; a=application/json", false),
            ("", false),
        ] {
            assert_eq!(is_json(&with(&CONTENT_TYPE, value)), wanted, "{value}");
        }
        assert!(!is_json(&HeaderMap::new()));
        assert!(is_web_page(&with(
            &CONTENT_TYPE,
            "Text/HTML; charset=utf-8"
        )));
        assert!(!is_web_page(&with(&CONTENT_TYPE, "text/plain")));
    }

    quickcheck! {
        fn any_header_is_an_answer(value: Vec<u8>, now: u64) -> bool {
            let Ok(value) = HeaderValue::from_bytes(&value) else { return true };
            let mut headers = HeaderMap::new();
            for name in [
                RANGE, JOB_STATUS, X_GITLAB_TRACE_UPDATE_INTERVAL, X_GITLAB_LAST_UPDATE,
                RATELIMIT_RESETTIME, RETRY_AFTER, CONTENT_TYPE,
            ] {
                headers.insert(name, value.clone());
            }
            let _ = (stored_size(&headers), job_status(&headers), last_update(&headers));
            let _ = retry_after(&headers, WallTime(Duration::from_secs(now)));
            let _ = is_json(&headers);
            update_interval(&headers).is_none_or(|interval| interval <= MAX_UPDATE_INTERVAL)
        }

        fn any_text_is_an_answer(text: String, now: u64) -> bool {
            let _ = until(&text, WallTime(Duration::from_secs(now)));
            number(&text).is_none() || text.trim().bytes().all(|byte| byte.is_ascii_digit())
        }

        fn a_content_range_says_start_and_length(start: u32, len: u32) -> bool {
            let (start, len) = (u64::from(start), u64::from(len) + 1);
            let value = content_range(start, len);
            let (first, last) = value.to_str().unwrap().split_once('-').unwrap();
            let (first, last): (u64, u64) = (first.parse().unwrap(), last.parse().unwrap());
            first == start && last - first + 1 == len
        }

        fn a_part_from_the_start_round_trips(len: u64) -> bool {
            // GitLab's `Range` has the exclusive end where `Content-Range` has the inclusive one.
            let len = len.max(1);
            let mut headers = HeaderMap::new();
            headers.insert(RANGE, content_range(0, len));
            stored_size(&headers) == Some(len - 1)
        }
    }
}
