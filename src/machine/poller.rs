//! Asks for jobs: capacity, pace, `last_update`, and the health of the server.
//!
//! At most one job request is in flight. A request that was sent is always awaited, also when the
//! capacity has gone since: GitLab may have assigned a job already.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};

use super::{
    backoff::{Backoff, Setback},
    core::{Core, trouble},
    hidden::Hidden,
    input::StopMode,
    output::{Notice, Output, PollOutcome, StopReason, Trouble},
    timers::Reason,
};
use crate::{
    ids::RequestId,
    protocol::{JobPayload, JobRequests, PayloadError, PayloadReader, RawPayload, headers},
    secret::Secret,
    time::Time,
    transport::{TransportError, TransportErrorKind},
};

/// The part of the machine that is about the runner and not about a job.
#[derive(Debug, Default)]
pub(super) struct Poller {
    capacity: usize,
    /// `PollOnce` inputs that no request was sent for yet.
    once: usize,
    token: TokenCheck,
    in_flight: Option<Poll>,
    last_update: Option<String>,
    /// What each request says of the runner, once there was one.
    requests: Option<JobRequests>,
    payloads: PayloadReader,
    /// Why the next request comes at once, if it does.
    haste: Option<Haste>,
    /// Haste was of no use: GitLab does not hold requests.
    never_holds: bool,
    /// No request of any kind before this: the server is in trouble, or refused us.
    hold_until: Time,
    /// No request for the capacity before this: there was no job a moment ago.
    next_poll: Time,
    backoff: Backoff,
    /// The server found the request too large: send less about ourselves.
    shrunk: bool,
    /// No more requests, whatever comes.
    stopping: bool,
    /// After an abort, when to stop waiting for what is in flight.
    give_up: Option<Time>,
}

#[derive(Debug, Default)]
enum TokenCheck {
    #[default]
    Due,
    Asked,
    Done,
}

#[derive(Debug)]
struct Poll {
    request: RequestId,
    sent: Time,
    once: bool,
    /// The one that it was sent with.
    token: Secret,
    haste: Option<Haste>,
}

/// Why to ask again without a pause, where GitLab holds requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Haste {
    /// It let go of a request: there is something new.
    Released,
    /// It has told a new queue value, with which it holds the next request.
    Told,
}

/// A job that GitLab handed out.
pub(super) struct HandedOut {
    pub(super) payload: Result<JobPayload, PayloadError>,
    /// Whether a `PollOnce` waits to hear what becomes of it.
    pub(super) once: bool,
}

impl Poller {
    pub(super) fn set_capacity(&mut self, capacity: usize) {
        self.capacity = capacity;
    }

    pub(super) fn poll_once(&mut self, core: &mut Core) {
        if self.stopping {
            core.outbox.push_back(Output::Polled(PollOutcome::Stopped));
        } else {
            self.once += 1;
        }
    }

    /// Takes back a `PollOnce` that was not sent; false if there is none.
    pub(super) fn withdraw(&mut self) -> bool {
        let some = self.once > 0;
        self.once -= usize::from(some);
        some
    }

    /// `PollOnce` inputs that were not sent.
    pub(super) fn waiting(&self) -> usize {
        self.once
    }

    /// Whether nothing is in flight or asked for.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_none()
    }

    /// No more requests; what is in flight is awaited, after an abort for a short time only.
    pub(super) fn stop(&mut self, core: &mut Core, mode: StopMode) {
        self.stopping = true;
        self.capacity = 0;
        for _ in 0..std::mem::take(&mut self.once) {
            core.outbox.push_back(Output::Polled(PollOutcome::Stopped));
        }
        self.token = TokenCheck::Due;
        if mode == StopMode::Abort && self.in_flight.is_some() && self.give_up.is_none() {
            self.give_up = Some(core.now + core.config.abort_patience);
        }
    }

    /// Sends what is due. `jobs` live now. True if the token has to be verified first.
    pub(super) fn advance(&mut self, core: &mut Core, jobs: usize) -> bool {
        if self.give_up.is_some_and(|give_up| give_up <= core.now) {
            self.give_up = None;
            if let Some(poll) = self.in_flight.take() {
                core.forget(poll.request);
                let detail = "the runner was stopped while a job request was on its way";
                let error = TransportError::new(TransportErrorKind::Timeout, true, detail);
                core.notice(Notice::MaybeOrphanedJob(error));
                if poll.once {
                    core.outbox.push_back(Output::Polled(PollOutcome::Stopped));
                }
            }
        }
        if self.due(core, jobs).is_none_or(|due| due > core.now) {
            return false;
        }
        let verify = matches!(self.token, TokenCheck::Due) && core.config.verify;
        if verify {
            self.token = TokenCheck::Asked;
        } else {
            self.token = TokenCheck::Done;
            self.send_poll(core);
        }
        verify
    }

    fn send_poll(&mut self, core: &mut Core) {
        let requests = self.requests.get_or_insert_with(|| match self.shrunk {
            true => JobRequests::new(&core.config.info.minimal()),
            false => JobRequests::new(&core.config.info),
        });
        let body = requests.body(
            &core.config.token,
            &core.config.system_id,
            self.last_update.as_deref(),
        );
        let request = core.send_job_request(body);
        let once = self.once > 0 && core.unresolved == 0;
        self.once -= usize::from(once);
        self.in_flight = Some(Poll {
            request,
            sent: core.now,
            once,
            token: core.config.token.clone(),
            haste: self.haste.take(),
        });
    }

    /// When a request is due, if one is wanted and none is in flight.
    fn due(&self, core: &Core, jobs: usize) -> Option<Time> {
        let hold = self.hold_until.max(core.shared_hold(None));
        let waits = self.in_flight.is_some() || matches!(self.token, TokenCheck::Asked);
        if waits || core.token_held {
            None
        } else if self.once > 0 && core.unresolved == 0 {
            Some(hold)
        } else if jobs < self.capacity {
            Some(hold.max(self.next_poll))
        } else {
            None
        }
    }

    pub(super) fn deadline(&self, core: &Core, jobs: usize) -> Option<(Time, Reason)> {
        let give_up = self.give_up.map(|time| (time, Reason::AbortPatience));
        give_up.or_else(|| self.due(core, jobs).map(|time| (time, Reason::JobRequest)))
    }

    /// A reply or a failure for a job request; gives the job that came with it.
    pub(super) fn on_answer(
        &mut self,
        core: &mut Core,
        request: RequestId,
        answer: Result<Response<Bytes>, TransportError>,
    ) -> Option<HandedOut> {
        if let Ok(response) = &answer
            && let Some(update) = headers::last_update(response.headers())
        {
            self.last_update = Some(update);
        }
        let poll = self.in_flight.take_if(|poll| poll.request == request)?;
        self.give_up = None;
        match answer {
            Ok(response) => self.on_poll_reply(core, &poll, &response),
            Err(error) => {
                if error.maybe_delivered() {
                    core.notice(Notice::MaybeOrphanedJob(error.clone()));
                }
                // Time that went by without an answer was a pause for the server already.
                let wait = self.backoff.after(Setback::Trouble, &mut core.rng);
                let wait = wait.saturating_sub(core.now.since(poll.sent));
                self.on_poll_failed(core, &poll, Trouble::Transport(error), wait);
                None
            }
        }
    }

    /// What GitLab handed out was no new job: as if there had been none.
    pub(super) fn pause(&mut self, core: &mut Core) {
        self.next_poll = core.now + core.rng.jitter(core.config.poll_interval);
    }

    /// Whether the token is good.
    pub(super) fn on_verified(&mut self, core: &mut Core, verdict: Result<(), Trouble>) {
        self.token = TokenCheck::Done;
        match verdict {
            Ok(()) => {
                let server = core.config.server.to_string();
                let capacity = self.capacity;
                core.notice(Notice::Verified { server, capacity });
            }
            Err(trouble) if trouble.is_refusal() => {
                // The next `SetCapacity` or `PollOnce` asks again.
                self.token = TokenCheck::Due;
                self.hold_until = core.now + self.backoff.after(Setback::Trouble, &mut core.rng);
                for _ in 0..std::mem::take(&mut self.once) {
                    core.outbox
                        .push_back(Output::Polled(PollOutcome::Failed(trouble.clone())));
                }
                if std::mem::take(&mut self.capacity) > 0 {
                    core.outbox
                        .push_back(Output::Stopped(StopReason::TokenRefused(trouble)));
                }
            }
            Err(trouble) => {
                if trouble.is_missing() {
                    // Older than two-phase commit by years, or a simulation of such a one.
                    core.config.commit = false;
                    core.config.info.features.two_phase_job_commit = false;
                    self.requests = None;
                }
                core.notice(Notice::VerifyFailed(trouble));
            }
        }
    }

    fn on_poll_reply(
        &mut self,
        core: &mut Core,
        poll: &Poll,
        response: &Response<Bytes>,
    ) -> Option<HandedOut> {
        match response.status() {
            StatusCode::CREATED => match self.payloads.read(response.body()) {
                Err(error) if error.id.is_none() || error.token.is_none() => {
                    core.notice(Notice::JobLost(error.to_string()));
                    let wait = self.backoff.after(Setback::Trouble, &mut core.rng);
                    let trouble = Trouble::Unreadable(error.to_string());
                    self.on_poll_failed(core, poll, trouble, wait);
                    None
                }
                mut payload => {
                    if core.config.keep_raw_payload
                        && let Ok(payload) = &mut payload
                    {
                        payload.raw = RawPayload::new(response.body().clone());
                    }
                    self.backoff.reset();
                    // A pause that began meanwhile stands.
                    self.next_poll = self.next_poll.max(core.now);
                    Some(HandedOut {
                        payload,
                        once: poll.once,
                    })
                }
            },
            StatusCode::NO_CONTENT => {
                self.backoff.reset();
                self.haste = self.haste_after(core, poll, response.headers());
                if self.haste.is_some() {
                    self.next_poll = core.now;
                } else {
                    self.pause(core);
                }
                self.polled(core, poll, PollOutcome::NoJob);
                None
            }
            // Another manager was faster, or the database lags: normal, and no trouble at all.
            StatusCode::CONFLICT => {
                self.hold_until = core.now + self.backoff.after(Setback::Outrun, &mut core.rng);
                self.polled(core, poll, PollOutcome::NoJob);
                None
            }
            // The request is too large: say less about ourselves, and ask again at once.
            StatusCode::PAYLOAD_TOO_LARGE if !self.shrunk && !self.stopping => {
                self.shrunk = true;
                self.requests = None;
                self.next_poll = core.now;
                self.once += usize::from(poll.once);
                None
            }
            // Refused because the token changes, or has changed meanwhile.
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED
                if (core.token_held || poll.token != core.config.token) && !self.stopping =>
            {
                self.next_poll = core.now;
                self.once += usize::from(poll.once);
                None
            }
            status => {
                let wait = match status {
                    StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => {
                        self.backoff.after(Setback::Refused, &mut core.rng)
                    }
                    // We or a proxy are at fault; asking often cannot help.
                    _ if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS => {
                        self.backoff
                            .after(Setback::RateLimited(None), &mut core.rng)
                    }
                    _ => core.wait_after(&mut self.backoff, response),
                };
                let trouble = match trouble(response, Hidden::token(&poll.token)) {
                    // A GitLab elsewhere on this host, or none: people need to see where we asked.
                    Trouble::Status { status, message }
                        if status == StatusCode::NOT_FOUND
                            && (message.is_empty() || message == status.to_string()) =>
                    {
                        let server = &core.config.server;
                        let message = format!("is {server} the address of GitLab?");
                        Trouble::Status { status, message }
                    }
                    trouble => trouble,
                };
                self.on_poll_failed(core, poll, trouble, wait);
                None
            }
        }
    }

    /// Whether to ask again at once after a 204. It never leads to more than two requests in a row
    /// that were not held.
    fn haste_after(&mut self, core: &Core, poll: &Poll, headers: &HeaderMap) -> Option<Haste> {
        // A request that was held and then let go means that something is new.
        if core.now.since(poll.sent) >= core.config.long_poll_threshold {
            self.never_holds = false;
            return Some(Haste::Released);
        }
        if !headers::is_from_front_end(headers) {
            return None;
        }
        let haste = match headers::last_update(headers) {
            // Perhaps it was held for a moment, perhaps not at all.
            None => Haste::Released,
            Some(_) => Haste::Told,
        };
        if haste == Haste::Released && poll.haste == Some(Haste::Released) {
            self.never_holds = true;
        }
        let is_new = haste == Haste::Released || poll.haste.is_none();
        (is_new && !self.never_holds).then_some(haste)
    }

    fn on_poll_failed(&mut self, core: &mut Core, poll: &Poll, trouble: Trouble, wait: Duration) {
        self.hold_until = core.now + wait;
        core.notice(Notice::PollFailed {
            trouble: trouble.clone(),
            retry_in: wait,
        });
        self.polled(core, poll, PollOutcome::Failed(trouble));
    }

    fn polled(&self, core: &mut Core, poll: &Poll, outcome: PollOutcome) {
        if poll.once {
            core.outbox.push_back(Output::Polled(outcome));
        }
    }
}
