//! How much of a job's log GitLab has, and when to send more.
//!
//! Offsets are bytes of the log as sent. The server's word counts: on 416 it says how much it has
//! stored, which may be less than it acknowledged before (even nothing) or more (a reply was lost).

use std::{ops::Range, time::Duration};

use bytes::Bytes;
use http::HeaderMap;

use super::output::RequestBody;
use crate::{
    ids::JobId,
    protocol::{TraceSummary, headers},
    time::Time,
    trace::TraceMark,
};

/// A body is split no further than this when the server finds it too large.
const SMALLEST_PATCH: u64 = 1024;
/// After so many bodies that were taken a larger one is tried again.
const GROW_AFTER: u32 = 8;
/// What a proxy may find too large without saying so.
const LARGE_PATCH: u64 = 64 << 10;

#[derive(Debug)]
pub(super) struct TraceWire {
    /// The log of a job that never gets a handler is made by the machine itself.
    own: Option<Bytes>,
    mark: TraceMark,
    acknowledged: u64,
    /// The end of the furthest range that was ever sent.
    sent: u64,
    /// The furthest that was ever acknowledged.
    furthest: u64,
    /// The most that is sent at once, at present and at best.
    patch_limit: u64,
    best_limit: u64,
    /// How many requests of the present size were taken in a row.
    taken: u32,
    interval: Duration,
    /// Origin of the grid on which patches are due: the end of the last one.
    anchor: Time,
    /// When the bytes that wait are due; `None` when none wait.
    due: Option<Time>,
    /// Rewinds since the last accepted patch.
    rewinds: u32,
    /// GitLab does not take (more of) this log for now.
    rejected: bool,
    /// What GitLab has is not this log, and never will be.
    foreign: bool,
}

/// What a 416 leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rewind {
    /// Send from the new offset at once.
    Again,
    /// The server does not move: wait first.
    Wait,
    /// The server has more than we ever sent: this log is somebody else's.
    Foreign(u64),
}

impl TraceWire {
    pub(super) fn new(now: Time, interval: Duration, patch_limit: u64) -> Self {
        Self {
            own: None,
            mark: TraceMark::default(),
            acknowledged: 0,
            sent: 0,
            furthest: 0,
            patch_limit: patch_limit.max(SMALLEST_PATCH),
            best_limit: patch_limit.max(SMALLEST_PATCH),
            taken: 0,
            interval,
            anchor: now,
            due: None,
            rewinds: 0,
            rejected: false,
            foreign: false,
        }
    }

    /// Makes `log` the whole log.
    pub(super) fn set_own(&mut self, now: Time, log: Bytes) {
        let mark = TraceMark {
            len: log.len() as u64,
            crc32: crc32fast::hash(&log),
        };
        self.own = Some(log);
        self.grow(now, mark);
    }

    /// The log has grown. A mark that is behind the last one is stale and ignored.
    pub(super) fn grow(&mut self, now: Time, mark: TraceMark) {
        if mark.len > self.mark.len {
            self.mark = mark;
            if mark.len.saturating_sub(self.acknowledged) >= self.patch_limit {
                // More of it would not travel together.
                self.due = Some(now);
            } else if self.due.is_none() {
                self.due = Some(self.next_on_grid(now));
            }
        }
    }

    /// Patches fall on a grid of one interval, so that a line waits at most that long and a burst
    /// of lines travels together.
    fn next_on_grid(&self, now: Time) -> Time {
        let interval = self.interval.as_nanos().max(1);
        let passed = now.since(self.anchor).as_nanos();
        let steps = passed.div_ceil(interval).max(1);
        let offset = u64::try_from(steps.saturating_mul(interval)).unwrap_or(u64::MAX);
        self.anchor + Duration::from_nanos(offset)
    }

    /// Starts the grid anew, when the job starts.
    pub(super) fn start(&mut self, now: Time) {
        self.anchor = now;
        if self.due.is_some() {
            self.due = Some(self.next_on_grid(now));
        }
    }

    /// Every answer about the job may change the pace.
    pub(super) fn read_interval(&mut self, now: Time, headers: &HeaderMap) {
        if let Some(interval) = headers::update_interval(headers)
            && interval != self.interval
        {
            self.interval = interval;
            if self.due.is_some_and(|due| due > now) {
                self.due = Some(self.next_on_grid(now));
            }
        }
    }

    /// When the next patch is due during the job.
    pub(super) fn due(&self) -> Option<Time> {
        self.due.filter(|_| self.has_unsent())
    }

    /// Whether a patch would bring GitLab further.
    pub(super) fn has_unsent(&self) -> bool {
        !self.rejected && !self.foreign && self.acknowledged < self.mark.len
    }

    /// The next range to send, and its body.
    pub(super) fn next_patch(&mut self, job: JobId) -> (Range<u64>, RequestBody) {
        let end = self
            .mark
            .len
            .min(self.acknowledged.saturating_add(self.patch_limit));
        let range = self.acknowledged..end;
        self.sent = self.sent.max(end);
        let slice = |log: &Bytes| {
            let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX).min(log.len());
            log.slice(at(range.start)..at(range.end))
        };
        let body = match &self.own {
            Some(log) => RequestBody::Bytes(slice(log)),
            None => RequestBody::Trace {
                job,
                range: range.clone(),
            },
        };
        (range, body)
    }

    /// The server took everything up to `end`; true if it never had as much.
    pub(super) fn on_accepted(&mut self, now: Time, end: u64) -> bool {
        if end.saturating_sub(self.acknowledged) >= self.patch_limit {
            self.taken += 1;
            if self.taken >= GROW_AFTER {
                self.taken = 0;
                self.patch_limit = self.patch_limit.saturating_mul(2).min(self.best_limit);
            }
        }
        self.acknowledged = end;
        let progress = end > self.furthest;
        if progress {
            self.furthest = end;
            self.rewinds = 0;
        }
        self.anchor = now;
        let left = self.mark.len.saturating_sub(end);
        self.due = if left == 0 {
            None
        } else if left >= self.patch_limit {
            // A backlog is sent without a pause, or it would grow until the end of the job.
            Some(now)
        } else {
            Some(self.next_on_grid(now))
        };
        progress
    }

    /// 416 to a patch that started at `start`. A missing or odd `Range` counts as an empty log.
    pub(super) fn on_range(&mut self, now: Time, headers: &HeaderMap, start: u64) -> Rewind {
        let stored = headers::stored_size(headers).unwrap_or(0);
        if stored > self.sent {
            self.foreign = true;
            return Rewind::Foreign(stored);
        }
        self.acknowledged = stored;
        self.anchor = now;
        self.due = Some(now);
        self.rewinds = self.rewinds.saturating_add(1);
        if stored == start || self.rewinds > 1 {
            Rewind::Wait
        } else {
            Rewind::Again
        }
    }

    /// 412: the server could not make sense of what it has; send everything anew.
    pub(super) fn restart(&mut self, now: Time) {
        self.acknowledged = 0;
        self.due = Some(now);
    }

    /// A request with so much broke: perhaps it was too large.
    pub(super) fn shrink(&mut self, sent: u64) {
        if sent > LARGE_PATCH {
            self.taken = 0;
            self.patch_limit = sent / 2;
        }
    }

    /// 413: true when a smaller body can be tried at once.
    pub(super) fn split(&mut self, now: Time, sent: u64) -> bool {
        self.due = Some(now);
        self.taken = 0;
        self.patch_limit = (sent / 2).max(SMALLEST_PATCH);
        sent > SMALLEST_PATCH
    }

    /// No more patches.
    pub(super) fn reject(&mut self) {
        self.rejected = true;
    }

    /// One more try after all, when the job has ended.
    pub(super) fn retry(&mut self) {
        self.rejected = false;
    }

    /// Size and checksum of the whole log, one consistent snapshot.
    pub(super) fn summary(&self) -> TraceSummary {
        TraceSummary {
            len: self.mark.len,
            crc32: self.mark.crc32,
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, header::RANGE};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn wire() -> TraceWire {
        TraceWire::new(Time::ZERO, 3 * SECOND, 1 << 20)
    }

    fn mark(len: u64) -> TraceMark {
        TraceMark { len, crc32: 0 }
    }

    fn range(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(RANGE, HeaderValue::from_static(value))])
    }

    #[test]
    fn patches_fall_on_a_grid() {
        let mut wire = wire();
        wire.grow(Time::ZERO, mark(1));
        assert_eq!(wire.due(), Some(Time::from_secs(3)));
        wire.on_accepted(Time::from_secs(3), 1);
        assert_eq!(wire.due(), None);
        wire.grow(Time::from_millis(13_500), mark(2));
        assert_eq!(wire.due(), Some(Time::from_secs(15)));
    }

    #[test]
    fn a_mark_that_says_nothing_new_is_no_reason_to_send() {
        let mut wire = wire();
        wire.grow(Time::ZERO, mark(1));
        wire.on_accepted(Time::from_secs(3), 1);
        wire.grow(Time::from_secs(4), mark(1));
        wire.grow(Time::from_millis(13_500), mark(2));
        assert_eq!(wire.due(), Some(Time::from_secs(15)));
    }

    #[test]
    fn the_grid_begins_with_the_job() {
        let mut wire = wire();
        wire.grow(Time::ZERO, mark(1));
        wire.start(Time::from_secs(1));
        assert_eq!(wire.due(), Some(Time::from_secs(4)));
    }

    #[test]
    fn another_interval_moves_what_is_not_due_yet() {
        let interval = |seconds| {
            let value = HeaderValue::from_static(seconds);
            HeaderMap::from_iter([(headers::X_GITLAB_TRACE_UPDATE_INTERVAL, value)])
        };
        let mut wire = wire();
        wire.grow(Time::ZERO, mark(1));
        wire.read_interval(Time::from_secs(1), &interval("20"));
        assert_eq!(wire.due(), Some(Time::from_secs(20)));
        wire.read_interval(Time::from_secs(20), &interval("30"));
        assert_eq!(wire.due(), Some(Time::from_secs(20)));
    }

    #[test]
    fn a_backlog_is_sent_at_once() {
        let mut wire = wire();
        wire.grow(Time::ZERO, mark((1 << 20) - 1));
        assert_eq!(wire.due(), Some(Time::from_secs(3)));
        wire.grow(Time::from_secs(1), mark(3 << 20));
        assert_eq!(wire.due(), Some(Time::from_secs(1)));
        let (range, body) = wire.next_patch(JobId(1));
        assert_eq!((range, body.len()), (0..1 << 20, 1 << 20));
        wire.on_accepted(Time::from_secs(3), 1 << 20);
        assert_eq!(wire.due(), Some(Time::from_secs(3)));
    }

    #[test]
    fn the_server_says_where_to_go_on() {
        let mut wire = wire();
        wire.grow(Time::ZERO, mark(100));
        wire.next_patch(JobId(1));
        assert_eq!(wire.on_range(Time::ZERO, &range("0-40"), 0), Rewind::Again);
        assert_eq!(wire.next_patch(JobId(1)).0, 40..100);
        assert_eq!(wire.on_range(Time::ZERO, &range("0-30"), 40), Rewind::Wait);
        assert_eq!(wire.next_patch(JobId(1)).0, 30..100);
        assert_eq!(
            wire.on_range(Time::ZERO, &range("0-101"), 30),
            Rewind::Foreign(101)
        );
        assert!(!wire.has_unsent());
    }

    #[test]
    fn a_server_that_has_all_we_sent_has_our_log() {
        let mut wire = wire();
        wire.grow(Time::ZERO, mark(100));
        wire.next_patch(JobId(1));
        assert_eq!(wire.on_range(Time::ZERO, &range("0-100"), 0), Rewind::Again);
        assert!(!wire.has_unsent());
    }

    #[test]
    fn progress_is_what_never_was_acknowledged() {
        let mut wire = wire();
        wire.grow(Time::ZERO, mark(100));
        assert!(wire.on_accepted(Time::ZERO, 50));
        wire.restart(Time::ZERO);
        assert!(!wire.on_accepted(Time::ZERO, 50));
        assert!(wire.on_accepted(Time::ZERO, 100));
    }

    #[test]
    fn what_broke_was_too_large_only_if_it_was_large() {
        for (sent, next) in [
            (LARGE_PATCH, 1 << 20),
            (LARGE_PATCH + 2, LARGE_PATCH / 2 + 1),
        ] {
            let mut wire = wire();
            wire.grow(Time::ZERO, mark(1 << 20));
            wire.shrink(sent);
            assert_eq!(wire.next_patch(JobId(1)).0, 0..next);
        }
    }

    #[test]
    fn a_body_that_is_too_large_is_halved_down_to_a_kilobyte() {
        let mut wire = wire();
        wire.grow(Time::ZERO, mark(1 << 20));
        let mut tries = 0;
        loop {
            let (range, _) = wire.next_patch(JobId(1));
            tries += 1;
            if !wire.split(Time::ZERO, range.end - range.start) {
                break;
            }
        }
        assert_eq!(tries, 11);
        // And it grows again when bodies are taken.
        for n in 0..100 {
            let (range, _) = wire.next_patch(JobId(1));
            assert_eq!(range.end - range.start, 1024 << (n / 8).min(10));
            wire.grow(Time::ZERO, mark(wire.mark.len + (1 << 20)));
            wire.on_accepted(Time::ZERO, range.end);
        }
    }
}
