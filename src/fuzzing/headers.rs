//! All headers of replies.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::{
    protocol::headers::{self, JobStatus, MAX_UPDATE_INTERVAL},
    time::WallTime,
};

static NAMES: [HeaderName; 8] = [
    header::RANGE,
    headers::JOB_STATUS,
    headers::X_GITLAB_TRACE_UPDATE_INTERVAL,
    headers::X_GITLAB_LAST_UPDATE,
    headers::RATELIMIT_RESETTIME,
    header::RETRY_AFTER,
    header::DATE,
    header::CONTENT_TYPE,
];
/// Sun, 06 Nov 1994 08:49:37 GMT
const NOW: WallTime = WallTime(Duration::from_secs(784_111_777));

/// Each line of `data` is a header: a byte that says which, and its value.
pub fn run(data: &[u8]) {
    let (mut map, mut padded) = (HeaderMap::new(), HeaderMap::new());
    for line in data.split(|byte| *byte == b'\n') {
        let Some((which, value)) = line.split_first() else {
            continue;
        };
        let name = &NAMES[usize::from(*which) % NAMES.len()];
        let blanks = [b" \t".as_slice(), value, b" "].concat();
        if let (Ok(value), Ok(blanks)) = (
            HeaderValue::from_bytes(value),
            HeaderValue::from_bytes(&blanks),
        ) {
            map.append(name, value);
            padded.append(name, blanks);
        }
    }
    let read = read(&map);
    assert_eq!(read, self::read(&padded), "blanks around a value count");

    let Read {
        status,
        interval,
        last_update,
        wait,
        stored,
        ..
    } = read;
    if let Some(JobStatus::Other(status)) = status {
        assert!((1..=64).contains(&status.len()), "{status}");
    }
    if let Some(interval) = interval {
        assert!(!interval.is_zero() && interval <= MAX_UPDATE_INTERVAL);
    }
    if let Some(state) = last_update {
        assert!((1..=1024).contains(&state.len()) && state.is_ascii());
    }
    assert!(wait.is_none_or(|wait| !wait.is_zero()));
    // What was stored is where the next part begins.
    if let Some(stored) = stored.filter(|stored| *stored < u64::MAX) {
        let next = headers::content_range(stored, 1);
        assert_eq!(next, format!("{stored}-{stored}"));
        let mut map = HeaderMap::new();
        map.insert(header::RANGE, headers::content_range(0, stored + 1));
        assert_eq!(headers::stored_size(&map), Some(stored));
    }
}

#[derive(Debug, PartialEq)]
struct Read {
    stored: Option<u64>,
    status: Option<JobStatus>,
    interval: Option<Duration>,
    last_update: Option<String>,
    wait: Option<Duration>,
    date: Option<WallTime>,
    json: bool,
}

fn read(map: &HeaderMap) -> Read {
    Read {
        stored: headers::stored_size(map),
        status: headers::job_status(map),
        interval: headers::update_interval(map),
        last_update: headers::last_update(map),
        wait: headers::retry_after(map, NOW),
        date: headers::date(map),
        json: headers::is_json(map),
    }
}
