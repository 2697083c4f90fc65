//! `PATCH jobs/:id/trace`: appending to the log.

use bytes::Bytes;
use http::{Request, StatusCode, header};

use super::{
    MockGitlab,
    auth::RateKey,
    params::{Params, header_text, token_or_header},
    reply::{self, Refused, Reply},
};

const MIB: u64 = 1024 * 1024;

impl MockGitlab {
    pub(super) fn append_trace(
        &mut self,
        id: &str,
        request: &Request<Bytes>,
        params: Result<Params, Refused>,
    ) -> Result<Reply, Refused> {
        self.check_migration()?;
        let params = params?;
        let mut check = params.check();
        let id = check.id(id);
        let parameter = check.string("token");
        let debug_trace = check.boolean("debug_trace").unwrap_or(false);
        check.finish()?;
        let token = token_or_header(parameter, request.headers());
        self.check_rate(RateKey::Trace, &token)?;
        let id = self.authenticate_job(id, &token)?;
        let Some(range) = header_text(request.headers(), header::CONTENT_RANGE.as_str()) else {
            let text = "400 Missing header Content-Range";
            return Err(reply::error(StatusCode::BAD_REQUEST, text).into());
        };

        let (start, body) = (range_start(&range), request.body());
        let end = start.saturating_add(body.len() as u64);
        let limit = self.settings.trace_size_limit;
        let Some(job) = self.jobs.get_mut(&id) else {
            return Err(reply::message(StatusCode::FORBIDDEN).into());
        };
        if debug_trace && start == 0 {
            job.report.debug_trace = true;
        }
        // The claimed end counts, whether or not it fits the log.
        if limit > 0 && end / MIB >= limit {
            self.fail(id, "trace_size_exceeded", None);
            return Err(reply::error(StatusCode::FORBIDDEN, "403 Forbidden").into());
        }
        if job.lock_failures > 0 {
            job.lock_failures -= 1;
            return Err(reply::error(StatusCode::CONFLICT, "409 Conflict").into());
        }
        let log = &mut job.report.log;
        if start == log.len() as u64 && !body.is_empty() {
            log.extend_from_slice(body);
            job.persisted_at = None;
        }
        // The range's end is the next offset to send, not the last byte. What was there before is
        // never compared: an exact repeat of the tail is accepted, and so is anything of its size.
        let stored = log.len();
        let next = format!("0-{stored}");
        if stored as u64 != end {
            let text = "416 Range Not Satisfiable";
            let reply = reply::error(StatusCode::RANGE_NOT_SATISFIABLE, text);
            return Err(reply::with(reply, "Range", &next).into());
        }
        let interval = if job.watched { "3" } else { "60" };
        let mut reply = reply::bare(StatusCode::ACCEPTED);
        reply = reply::with(reply, "Job-Status", self.status_text(id));
        reply = reply::with(reply, "Range", &next);
        Ok(reply::with(
            reply,
            "X-GitLab-Trace-Update-Interval",
            interval,
        ))
    }
}

/// The number before the first dash, as C would read it: `28` is 28, `bytes 28` and nothing are
/// 0. Whatever comes after the dash does not count.
fn range_start(range: &str) -> u64 {
    let first = range.split('-').next().unwrap_or_default();
    let first = first.trim_ascii_start();
    let digits = first.strip_prefix('+').unwrap_or(first);
    let len = digits.bytes().take_while(u8::is_ascii_digit).count();
    match digits.get(..len) {
        None | Some("") => 0,
        // Too large for a number is larger than any log.
        Some(digits) => digits.parse().unwrap_or(u64::MAX),
    }
}
