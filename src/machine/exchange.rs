//! One job's conversation with GitLab: commit, log, keep-alive and final update.
//!
//! One request at a time. Every answer is read in the order status 403 or a `Job-Status` that ends
//! the job, success, then each status by its meaning; what is left is trouble and is repeated with
//! growing pauses. Every repetition is bounded in time.

use std::{ops::Range, time::Duration};

use bytes::Bytes;
use http::{Response, StatusCode};

use super::{
    backoff::{Backoff, Setback},
    core::{Core, JobCalls, trouble},
    output::{Doing, Notice, Trouble},
    timers::Reason,
    wire::{Rewind, TraceWire},
};
use crate::{
    ids::RequestId,
    protocol::{
        Failure, JobState,
        headers::{self, JobStatus},
        update_body,
    },
    time::Time,
    trace::TraceMark,
    transport::{TransportError, TransportErrorKind},
};

/// A proxy may say 404: only so many in a row, over at least [`MISSING_TIME`], end the job.
const MISSING_LIMIT: u32 = 5;
const MISSING_TIME: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Exchange {
    calls: JobCalls,
    wire: TraceWire,
    stage: Stage,
    in_flight: Option<(RequestId, Call)>,
    backoff: Backoff,
    /// No request before this.
    hold_until: Time,
    /// When the latest request was sent.
    sent: Time,
    /// When the latest request was sent that GitLab then answered: that late it knew of us.
    last_contact: Time,
    /// 404s in a row, and when the first one came.
    missing: (u32, Time),
    /// A patch was answered 404: ask with a `PUT` whether the job is still there.
    ask: bool,
    /// The last request was a keep-alive. While patches fail, the two take turns: else nothing would
    /// be heard of a cancel.
    asked: bool,
    /// GitLab does not understand our keep-alives.
    mute: bool,
}

#[derive(Debug)]
enum Stage {
    Committing {
        until: Time,
    },
    Running,
    Finishing {
        state: JobState,
        failure: Option<Failure>,
        /// When to stop sending the log and report the state all the same.
        flush_until: Time,
        until: Time,
        /// Nothing but the state, until the first answer: the job may not even be ours.
        single: bool,
        /// GitLab refused the final state as if the job had never started (two-phase commit).
        recommit: Recommit,
    },
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recommit {
    No,
    Due,
    Done,
}

#[derive(Clone, Debug)]
enum Call {
    Commit,
    Patch(Range<u64>),
    KeepAlive,
    Final,
}

impl Call {
    fn doing(&self) -> Doing {
        match self {
            Self::Commit => Doing::Commit,
            Self::Patch(_) => Doing::Patch,
            Self::KeepAlive => Doing::KeepAlive,
            Self::Final => Doing::FinalUpdate,
        }
    }
}

/// What an answer means for the job.
#[derive(Debug)]
pub(super) enum News {
    Nothing,
    /// GitLab knows that the job is ours.
    Committed,
    /// The commit could not be brought to GitLab in time.
    NotCommitted,
    /// A user cancelled the job; it may come to an end by itself.
    Canceling,
    /// The job is over for GitLab, or not ours.
    Ended(String),
    /// The final state has arrived.
    Reported,
    /// The final state cannot be reported.
    NotReported(String),
}

impl Exchange {
    pub(super) fn new(core: &Core, calls: JobCalls) -> Self {
        let config = &core.config;
        let stage = if config.commit {
            Stage::Committing {
                until: core.now + config.commit_limit,
            }
        } else {
            Stage::Running
        };
        Self {
            calls,
            wire: TraceWire::new(core.now, config.trace_interval, config.patch_limit),
            stage,
            in_flight: None,
            backoff: match config.commit {
                true => Backoff::steady(),
                false => Backoff::default(),
            },
            hold_until: Time::ZERO,
            sent: core.now,
            last_contact: core.now,
            missing: (0, Time::ZERO),
            ask: false,
            asked: false,
            mute: false,
        }
    }

    /// Where calls about the job go.
    pub(super) fn calls(&self) -> &JobCalls {
        &self.calls
    }

    /// Asks GitLab soon whether the job is still there.
    pub(super) fn ask(&mut self) {
        self.ask = matches!(self.stage, Stage::Running);
    }

    pub(super) fn is_committed(&self) -> bool {
        !matches!(self.stage, Stage::Committing { .. })
    }

    /// The log has grown.
    pub(super) fn grow(&mut self, core: &Core, mark: TraceMark) {
        self.wire.grow(core.now, mark);
    }

    /// The whole log of a job that gets no handler.
    pub(super) fn set_own_log(&mut self, core: &Core, log: Bytes) {
        self.wire.set_own(core.now, log);
    }

    /// The job has come to its end here, with a `failure` that this GitLab knows. `single`: only the
    /// state is told, and the first answer counts, whatever it is.
    pub(super) fn finish(&mut self, core: &Core, failure: Option<Failure>, single: bool) {
        let limit = core.config.final_update_limit;
        self.wire.retry();
        self.ask = false;
        self.stage = Stage::Finishing {
            state: if failure.is_some() {
                JobState::Failed
            } else {
                JobState::Success
            },
            failure,
            flush_until: core.now + limit / 2,
            until: core.now + limit,
            single,
            recommit: Recommit::No,
        };
    }

    /// No more requests.
    pub(super) fn end(&mut self, core: &mut Core) {
        self.stage = Stage::Ended;
        if let Some((request, _)) = self.in_flight.take() {
            core.forget(request);
        }
    }

    /// Sends what is due, or tells that there is no more time for it.
    pub(super) fn advance(&mut self, core: &mut Core) -> News {
        if self.in_flight.is_some() {
            return News::Nothing;
        }
        let now = core.now;
        let held = self.hold(core) > now;
        match &mut self.stage {
            Stage::Ended => {}
            Stage::Committing { until } if *until <= now => return News::NotCommitted,
            Stage::Finishing { until, .. } if *until <= now => {
                let minutes = core.config.final_update_limit.as_secs() / 60;
                return News::NotReported(format!("no success within {minutes} minutes"));
            }
            _ if held => {}
            Stage::Committing { .. } => self.put(core, Call::Commit),
            Stage::Running => {
                let quiet = self.keep_alive_due(core).is_some_and(|due| due <= now);
                let starved = quiet && self.hold_until > Time::ZERO && !self.asked;
                if self.ask || starved {
                    self.asked = true;
                    self.put(core, Call::KeepAlive);
                } else if self.wire.due().is_some_and(|due| due <= now) {
                    self.patch(core);
                } else if quiet {
                    self.put(core, Call::KeepAlive);
                }
            }
            Stage::Finishing {
                flush_until,
                single,
                ..
            } => {
                if self.wire.has_unsent() && !*single && now >= *flush_until {
                    self.wire.reject();
                    let why = "it could not be sent in time".to_owned();
                    core.notice(Notice::TraceRejected {
                        job: self.calls.job,
                        why,
                    });
                }
                if self.wire.has_unsent() && !*single {
                    self.patch(core);
                } else {
                    self.put(core, Call::Final);
                }
            }
        }
        News::Nothing
    }

    /// When [`advance`](Self::advance) has something to do next.
    pub(super) fn deadline(&self, core: &Core) -> Option<(Time, Reason)> {
        if self.in_flight.is_some() {
            return None;
        }
        let hold = self.hold(core);
        match &self.stage {
            Stage::Ended => None,
            Stage::Committing { until } => Some((hold.min(*until), Reason::Commit)),
            Stage::Finishing { until, .. } => Some((hold.min(*until), Reason::FinalUpdate)),
            Stage::Running => {
                let patch = self.wire.due().map(|due| (due, Reason::Patch));
                let keep_alive = self
                    .keep_alive_due(core)
                    .map(|due| (due, Reason::KeepAlive));
                let (due, reason) = if self.ask {
                    (hold, Reason::KeepAlive)
                } else {
                    patch.into_iter().chain(keep_alive).min()?
                };
                Some((due.max(hold), reason))
            }
        }
    }

    /// No request before this.
    fn hold(&self, core: &Core) -> Time {
        self.hold_until.max(core.shared_hold(Some(self.calls.job)))
    }

    fn keep_alive_due(&self, core: &Core) -> Option<Time> {
        if self.mute {
            return None;
        }
        let due = self.last_contact + core.config.keep_alive;
        // After an answer that took long: a patch that is about to go does as well.
        let soon = core.now + core.config.trace_interval;
        let patch = self.wire.due().filter(|patch| *patch <= soon);
        Some(patch.map_or(due, |patch| due.max(patch)))
    }

    fn put(&mut self, core: &mut Core, call: Call) {
        let whole = self.wire.summary();
        let running = |trace| update_body(&self.calls.token, JobState::Running, None, trace);
        let body = match (&call, &self.stage) {
            (
                Call::Final,
                Stage::Finishing {
                    recommit: Recommit::Due,
                    ..
                },
            ) => running(None),
            (Call::Final, Stage::Finishing { state, failure, .. }) => {
                update_body(&self.calls.token, *state, failure.as_ref(), Some(whole))
            }
            (Call::Commit, _) => running(None),
            _ => running(Some(whole)),
        };
        self.sent = core.now;
        let request = core.send_update(&self.calls, body);
        self.in_flight = Some((request, call));
    }

    fn patch(&mut self, core: &mut Core) {
        self.asked = false;
        let (range, body) = self.wire.next_patch(self.calls.job);
        self.sent = core.now;
        let request = core.send_patch(&self.calls, range.start, body);
        self.in_flight = Some((request, Call::Patch(range)));
    }

    /// A reply or a failure for one of the requests.
    pub(super) fn on_answer(
        &mut self,
        core: &mut Core,
        request: RequestId,
        answer: Result<Response<Bytes>, TransportError>,
    ) -> News {
        let Some((_, call)) = self.in_flight.take_if(|(id, _)| *id == request) else {
            return News::Nothing;
        };
        let response = match answer {
            Ok(response) => response,
            Err(error) => {
                // A server (or a proxy) that finds a body too large may close before it is read.
                if let Call::Patch(range) = &call
                    && error.kind() == TransportErrorKind::Broken
                {
                    self.wire.shrink(range.end - range.start);
                }
                // Time that went by without an answer was a pause for the server already.
                let wait = self.backoff.after(Setback::Trouble, &mut core.rng);
                let wait = wait.saturating_sub(core.now.since(self.sent));
                return self.again(core, &call, Trouble::Transport(error), wait);
            }
        };
        let status = response.status();
        if status != StatusCode::NOT_FOUND {
            self.missing.0 = 0;
        }
        let job_status = headers::job_status(response.headers());
        if matches!(call, Call::Final) {
            return self.on_final(core, &response, job_status);
        }
        self.wire.read_interval(core.now, response.headers());
        let ended = matches!(job_status, Some(JobStatus::Canceled | JobStatus::Failed));
        if ended || status == StatusCode::FORBIDDEN {
            return News::Ended(self.word(&response, job_status));
        }
        let news = match call {
            Call::Patch(range) => self.on_patched(core, range, &response),
            call => self.on_put(core, &call, &response),
        };
        match news {
            News::Nothing | News::Committed if job_status == Some(JobStatus::Canceling) => {
                // The answer to a commit that failed says nothing of a job that is ours.
                if self.is_committed() {
                    News::Canceling
                } else {
                    news
                }
            }
            news => news,
        }
    }

    /// The answer to a commit or a keep-alive.
    fn on_put(&mut self, core: &mut Core, call: &Call, response: &Response<Bytes>) -> News {
        let status = response.status();
        if status.is_success() {
            self.contact();
            // That the job is there does not make its log arrive.
            if !std::mem::take(&mut self.ask) && !self.wire.has_unsent() {
                self.backoff.reset();
            }
            if matches!(call, Call::Commit) {
                self.stage = Stage::Running;
                self.wire.start(core.now);
                self.backoff = Backoff::default();
                return News::Committed;
            }
            return News::Nothing;
        }
        if matches!(call, Call::KeepAlive) {
            if status == StatusCode::NOT_FOUND && self.is_missing(core) {
                return News::Ended(self.word(response, None));
            }
            if status == StatusCode::BAD_REQUEST {
                self.mute = true;
                self.ask = false;
            }
        }
        self.trouble(core, call, response)
    }

    fn on_patched(
        &mut self,
        core: &mut Core,
        range: Range<u64>,
        response: &Response<Bytes>,
    ) -> News {
        let finishing = matches!(self.stage, Stage::Finishing { .. });
        let call = Call::Patch(range.clone());
        match response.status() {
            StatusCode::OK | StatusCode::ACCEPTED => {
                self.contact();
                if self.wire.on_accepted(core.now, range.end) {
                    self.backoff.reset();
                }
                News::Nothing
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                self.last_contact = self.sent;
                match self
                    .wire
                    .on_range(core.now, response.headers(), range.start)
                {
                    Rewind::Again => News::Nothing,
                    Rewind::Wait => self.trouble(core, &call, response),
                    Rewind::Foreign(stored) => {
                        let why = format!(
                            "GitLab has {stored} bytes of it, more than this runner ever sent"
                        );
                        core.notice(Notice::TraceRejected {
                            job: self.calls.job,
                            why,
                        });
                        News::Nothing
                    }
                }
            }
            StatusCode::PAYLOAD_TOO_LARGE if self.wire.split(core.now, range.end - range.start) => {
                News::Nothing
            }
            // Our request is wrong, and would be wrong again. One more try is made at the end.
            StatusCode::BAD_REQUEST => {
                self.wire.reject();
                let why = self.word(response, None);
                core.notice(Notice::TraceRejected {
                    job: self.calls.job,
                    why,
                });
                News::Nothing
            }
            StatusCode::NOT_FOUND if self.is_missing(core) => {
                let why = self.word(response, None);
                if !finishing {
                    return News::Ended(why);
                }
                self.wire.reject();
                core.notice(Notice::TraceRejected {
                    job: self.calls.job,
                    why,
                });
                News::Nothing
            }
            StatusCode::NOT_FOUND => {
                self.ask = !finishing;
                self.trouble(core, &call, response)
            }
            StatusCode::PRECONDITION_FAILED => {
                self.wire.restart(core.now);
                self.trouble(core, &call, response)
            }
            _ => self.trouble(core, &call, response),
        }
    }

    fn on_final(
        &mut self,
        core: &mut Core,
        response: &Response<Bytes>,
        job_status: Option<JobStatus>,
    ) -> News {
        let Stage::Finishing {
            state,
            single,
            recommit,
            ..
        } = &mut self.stage
        else {
            return News::Nothing;
        };
        let status = response.status();
        let submitted = match state {
            JobState::Success => JobStatus::Success,
            _ => JobStatus::Failed,
        };
        if *recommit == Recommit::Due && status != StatusCode::FORBIDDEN {
            if is_trouble(status) || !status.is_success() && !status.is_client_error() {
                return self.trouble(core, &Call::Final, response);
            }
            // Whatever came of it, the final state is tried once more.
            *recommit = Recommit::Done;
            return News::Nothing;
        }
        // Whatever else is said, the job is over there.
        if status != StatusCode::FORBIDDEN
            && matches!(job_status, Some(JobStatus::Canceled | JobStatus::Failed))
        {
            return News::Reported;
        }
        match status {
            StatusCode::OK => News::Reported,
            // After a lost reply the job is over already, in the state that we submitted.
            StatusCode::FORBIDDEN
                if job_status == Some(submitted) || job_status == Some(JobStatus::Canceled) =>
            {
                News::Reported
            }
            StatusCode::FORBIDDEN => News::NotReported(self.word(response, job_status)),
            _ if *single && !is_trouble(status) => {
                News::NotReported(self.word(response, job_status))
            }
            // The log is not in its final place yet: the same again, when the server says.
            StatusCode::ACCEPTED => {
                self.backoff.reset();
                let wait = headers::update_interval(response.headers());
                self.hold_until = core.now + wait.unwrap_or(core.config.trace_interval);
                News::Nothing
            }
            StatusCode::PRECONDITION_FAILED => {
                self.wire.restart(core.now);
                self.trouble(core, &Call::Final, response)
            }
            StatusCode::BAD_REQUEST if *recommit == Recommit::No => {
                *recommit = Recommit::Due;
                News::Nothing
            }
            StatusCode::BAD_REQUEST => News::NotReported(self.word(response, job_status)),
            StatusCode::NOT_FOUND if self.is_missing(core) => {
                News::NotReported(self.word(response, job_status))
            }
            _ => self.trouble(core, &Call::Final, response),
        }
    }

    /// GitLab heard us, and all is well.
    fn contact(&mut self) {
        self.last_contact = self.sent;
        self.hold_until = Time::ZERO;
    }

    /// Counts a 404; true when there were enough of them.
    fn is_missing(&mut self, core: &Core) -> bool {
        let (count, since) = &mut self.missing;
        if *count == 0 {
            *since = core.now;
        }
        *count += 1;
        *count >= MISSING_LIMIT && core.now.since(*since) >= MISSING_TIME
    }

    fn trouble(&mut self, core: &mut Core, call: &Call, response: &Response<Bytes>) -> News {
        let wait = core.wait_after(&mut self.backoff, response);
        let trouble = trouble(response, self.calls.hidden());
        self.again(core, call, trouble, wait)
    }

    fn again(&mut self, core: &mut Core, call: &Call, trouble: Trouble, wait: Duration) -> News {
        self.hold_until = core.now + wait;
        let (job, doing) = (self.calls.job, call.doing());
        core.notice(Notice::JobTrouble {
            job,
            doing,
            trouble,
            retry_in: wait,
        });
        News::Nothing
    }

    /// What GitLab said, for people.
    fn word(&self, response: &Response<Bytes>, job_status: Option<JobStatus>) -> String {
        let said = trouble(response, self.calls.hidden()).to_string();
        match job_status {
            Some(status) => format!("{said} (the job is {status} there)"),
            None => said,
        }
    }
}

/// Whether the server (or a proxy) could not do what it was asked, which says nothing of the job.
fn is_trouble(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status.as_u16(), 408 | 409 | 429)
}
