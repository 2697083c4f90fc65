//! The runner as a pure state machine.
//!
//! [`RunnerMachine`] eats HTTP replies, passed deadlines and the reports of job handlers
//! ([`Input`]), and emits HTTP requests, calls of job handlers and notices ([`Output`]). Whoever
//! drives it does the rest: the crate's own driver under one of the runtime adapters, a simulator,
//! or you by hand. It holds no socket, clock, thread, lock or source of randomness: the same
//! configuration, seed and inputs give the same outputs, always. Log bytes never enter it; it hears
//! of them as [`TraceMark`](crate::trace::TraceMark)s and names ranges of them in requests.
//!
//! # Invariants
//! 1. After [`StopMode::Drain`] and the end of all jobs, or [`StopMode::Abort`], it comes to
//!    [`Output::Stopped`].
//! 2. At most one job request and one other request of the runner is in flight, and for each job one request about its state and log
//!    and one upload.
//! 3. `PATCH` ranges continue from the acknowledged offset, unless the server rewound it.
//! 4. No range reaches beyond a mark that was told.
//! 5. Each `Start` leads to one `CleanUp` (if it was accepted) and one `Done`, in this order.
//! 6. No job is asked for while as many live as the capacity allows, but for each `PollOnce` one.
//! 7. No request is sent for a job that GitLab ended, or that is `Done`.
//! 8. After [`Input::Timeout`] at `now` the next deadline is later than `now`.
//! 9. Same configuration, seed and inputs: same outputs.
//! 10. No token shows in any `Debug`.
//! 11. From a reset of the runner's token on its way until the new one is stored, no request of the
//!     runner is sent.
//!
//! # What the driver owes
//! One `Accepted` or `Declined` for each `Start`, one `StepFinished` for each `Step`, one `Collected`
//! for each `Collect`, one `CleanedUp` for each `CleanUp` and one `TokenPersisted` for each
//! `PersistToken`, also after a panic or a forced cancel; one answer for each `Send`
//! that was not forgotten; marks that never shrink; a `now` that never goes back (if it does, it is
//! clamped). What does not fit is ignored and counted in [`Stats::ignored_inputs`].

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod account;
mod backoff;
mod call;
mod config;
mod core;
mod download;
mod errand;
mod exchange;
mod hidden;
mod input;
mod job;
mod output;
mod plan;
mod poller;
mod timers;
pub mod transcript;
mod transfer;
mod upload;
mod wire;

use std::collections::{BTreeMap, btree_map::Entry};

use bytes::Bytes;
use http::Response;

use self::{
    account::Account,
    core::Core,
    job::JobMachine,
    poller::{HandedOut, Poller},
    timers::{Armed, Owner, Timers},
};
pub use self::{
    call::{CallOutcome, NewToken, RunnerCall, TokenNotice},
    config::MachineConfig,
    input::{Collected, Input, JobInput, StepResult, StopMode},
    output::{
        CancelMode, Doing, DownloadOutcome, JobOutput, Notice, Output, PollOutcome, ReplyBody,
        RequestBody, StopReason, TimeLimit, Trouble,
    },
    timers::Reason,
};
use crate::{
    ids::{JobId, RequestId},
    protocol::ScriptStatus,
    time::Time,
    transport::TransportError,
};

/// The pure core of a runner; see the [module's documentation](self).
#[derive(Debug)]
pub struct RunnerMachine {
    core: Core,
    account: Account,
    poller: Poller,
    /// Boxed: the places of a tree are half empty.
    jobs: BTreeMap<JobId, Box<Live>>,
    timers: Timers,
    /// The poller's.
    armed: Armed,
    account_armed: Armed,
    stop: Option<StopMode>,
    /// When a drain has lasted long enough.
    abort_at: Option<Time>,
    stopped: bool,
    ignored: u64,
}

#[derive(Debug)]
struct Live {
    job: JobMachine,
    armed: Armed,
}

/// Numbers for those who watch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Jobs that were handed out and whose final state is not known to have arrived.
    pub jobs: usize,
    /// Requests without an answer.
    pub requests_in_flight: usize,
    /// [`Input::PollOnce`]s for which no request was sent yet.
    pub polls_waiting: usize,
    /// Inputs that did not fit: late replies, unknown jobs, answers to what was not asked.
    pub ignored_inputs: u64,
}

impl RunnerMachine {
    /// A machine at rest. The `seed` decides all jitter and request ids; different runners should
    /// have different ones.
    pub fn new(config: MachineConfig, seed: u64) -> Self {
        let core = Core::new(config, seed);
        Self {
            account: Account::new(&core),
            core,
            poller: Poller::default(),
            jobs: BTreeMap::new(),
            timers: Timers::default(),
            armed: None,
            account_armed: None,
            stop: None,
            abort_at: None,
            stopped: false,
            ignored: 0,
        }
    }

    /// Takes note of something that happened at `now`. Several inputs may come before
    /// [`poll_output`](Self::poll_output) is called. Never fails: what makes no sense is ignored
    /// and counted.
    pub fn handle_input(&mut self, now: Time, input: Input) {
        self.core.now = self.core.now.max(now);
        match input {
            Input::Timeout => self.on_timeout(),
            Input::Reply { request, response } => self.on_answer(request, Ok(response)),
            Input::Spooled { request, len } => self.on_spooled(request, len),
            Input::Failed { request, error } => self.on_answer(request, Err(error)),
            Input::Job { job, input } => {
                let done = self.with_job(job, |job, core| job.on_input(core, input));
                if done != Some(true) {
                    self.ignored += 1;
                }
            }
            Input::SetCapacity(capacity) => {
                if self.stop.is_none() {
                    self.poller.set_capacity(capacity);
                } else {
                    self.ignored += 1;
                }
            }
            Input::PollOnce => self.poller.poll_once(&mut self.core),
            Input::WithdrawPoll => {
                if !self.poller.withdraw() {
                    self.ignored += 1;
                }
            }
            Input::Call(call) => self.account.call(&mut self.core, call),
            Input::TokenPersisted(result) => {
                if !self.account.on_persisted(&mut self.core, result) {
                    self.ignored += 1;
                }
            }
            Input::Stop(mode) => self.on_stop(mode),
        }
        self.advance_runner();
    }

    /// The next thing to do, in order; `None` when there is nothing until the next input.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.core.outbox.pop_front()
    }

    /// When to tell [`Input::Timeout`] at the latest, and what for. May change with every input.
    pub fn poll_timeout(&self) -> Option<(Time, Reason)> {
        self.timers.next()
    }

    /// Numbers for those who watch.
    pub fn stats(&self) -> Stats {
        Stats {
            jobs: self.jobs.len(),
            requests_in_flight: self.core.requests.len(),
            polls_waiting: self.poller.waiting(),
            ignored_inputs: self.ignored,
        }
    }

    /// How a job has gone so far: `Running` until its script is over, and then as it will be
    /// reported. None if it is over.
    pub fn script_status(&self, job: JobId) -> Option<ScriptStatus> {
        Some(self.jobs.get(&job)?.job.script_status())
    }

    fn on_timeout(&mut self) {
        while let Some(owner) = self.timers.take_due(self.core.now) {
            match owner {
                // Always follows, see `handle_input`.
                Owner::Runner => self.armed = None,
                Owner::Account => self.account_armed = None,
                Owner::Job(id) => {
                    if let Some(live) = self.jobs.get_mut(&id) {
                        live.armed = None;
                    }
                    self.with_job(id, JobMachine::advance);
                }
            }
        }
    }

    fn on_answer(&mut self, request: RequestId, answer: Result<Response<Bytes>, TransportError>) {
        match self.core.requests.remove(&request) {
            Some(Owner::Runner) => {
                if let Some(job) = self.poller.on_answer(&mut self.core, request, answer) {
                    self.on_handed_out(job);
                }
            }
            Some(Owner::Account) => {
                if let Some(verdict) = self.account.on_answer(&mut self.core, answer) {
                    self.poller.on_verified(&mut self.core, verdict);
                }
            }
            Some(Owner::Job(id)) => {
                self.with_job(id, |job, core| job.on_answer(core, request, answer));
            }
            None => self.ignored += 1,
        }
    }

    fn on_spooled(&mut self, request: RequestId, len: u64) {
        // Only downloads of jobs are written to files.
        let Some(Owner::Job(id)) = self.core.requests.get(&request).copied() else {
            self.ignored += 1;
            return;
        };
        let was_download = self.with_job(id, |job, core| job.on_spooled(core, request, len));
        if was_download == Some(true) {
            self.core.requests.remove(&request);
        } else {
            self.ignored += 1;
        }
    }

    fn on_handed_out(&mut self, HandedOut { payload, once }: HandedOut) {
        let (id, job) = match payload {
            Ok(payload) => (payload.id, JobMachine::new(&self.core, payload, once)),
            Err(error) => {
                // The poller lets through only what has both.
                let (Some(id), Some(token)) = (error.id, error.token.clone()) else {
                    return;
                };
                let why = error.to_string();
                // A server that this runner does not understand must not have its queue eaten.
                self.poller.pause(&mut self.core);
                self.core.notice(Notice::JobUnusable {
                    job: id,
                    why: why.clone(),
                });
                (
                    id,
                    JobMachine::unreadable(&self.core, id, token, &why, once),
                )
            }
        };
        match self.jobs.entry(id) {
            Entry::Occupied(_) => {
                self.core.notice(Notice::JobRepeated(id));
                self.poller.pause(&mut self.core);
                if once {
                    self.core
                        .outbox
                        .push_back(Output::Polled(PollOutcome::NoJob));
                }
            }
            Entry::Vacant(entry) => {
                self.core.unresolved += usize::from(once);
                entry.insert(Box::new(Live { job, armed: None }));
                let abort = self.stop == Some(StopMode::Abort);
                self.with_job(id, |job, core| {
                    if abort {
                        job.interrupt(core);
                    }
                    job.advance(core);
                });
            }
        }
    }

    fn on_stop(&mut self, mode: StopMode) {
        if self.stopped || self.stop == Some(StopMode::Abort) {
            self.ignored += 1;
            return;
        }
        if let StopMode::DrainWithin(time) = mode {
            let at = self.core.now + time;
            self.abort_at = Some(self.abort_at.map_or(at, |earlier| earlier.min(at)));
        }
        self.stop = Some(mode);
        self.poller.stop(&mut self.core, mode);
        self.account.stop(&mut self.core);
        if mode == StopMode::Abort {
            self.abort_at = None;
            let ids: Vec<JobId> = self.jobs.keys().copied().collect();
            for id in ids {
                self.with_job(id, |job, core| {
                    job.interrupt(core);
                    job.advance(core);
                });
            }
        }
    }

    /// Lets a job react; after that, its deadline or its end. `None` if there is no such job.
    fn with_job<R>(
        &mut self,
        id: JobId,
        react: impl FnOnce(&mut JobMachine, &mut Core) -> R,
    ) -> Option<R> {
        let Live { job, armed } = &mut **self.jobs.get_mut(&id)?;
        let result = react(job, &mut self.core);
        let deadline = if job.is_done() {
            None
        } else {
            job.deadline(&self.core)
        };
        debug_assert!(
            deadline.is_none_or(|(time, _)| time > self.core.now),
            "job {id}: {deadline:?} is not after {}",
            self.core.now
        );
        self.timers.set(Owner::Job(id), armed, deadline);
        if job.is_done() {
            if job.is_refused() {
                self.poller.pause(&mut self.core);
            }
            self.jobs.remove(&id);
        }
        Some(result)
    }

    /// After every input: what is due for the runner, its deadline, or its end.
    fn advance_runner(&mut self) {
        if self.abort_at.is_some_and(|at| at <= self.core.now) {
            self.on_stop(StopMode::Abort);
        }
        // First, since a token that is about to change holds the poller back.
        self.account.advance(&mut self.core);
        if self.poller.advance(&mut self.core, self.jobs.len()) {
            self.account.check(&mut self.core);
        }
        let drain = self.abort_at.map(|at| (at, Reason::DrainLimit));
        let poller = self.poller.deadline(&self.core, self.jobs.len());
        let deadline = drain.into_iter().chain(poller).min();
        self.timers.set(Owner::Runner, &mut self.armed, deadline);
        let deadline = self.account.deadline();
        self.timers
            .set(Owner::Account, &mut self.account_armed, deadline);
        if let Some(mode) = self.stop
            && !self.stopped
            && self.jobs.is_empty()
            && self.poller.is_idle()
            && self.account.is_idle()
        {
            self.stopped = true;
            self.abort_at = None;
            self.timers.set(Owner::Runner, &mut self.armed, None);
            self.core.outbox.push_back(Output::Stopped(match mode {
                StopMode::Drain | StopMode::DrainWithin(_) => StopReason::Drained,
                StopMode::Abort => StopReason::Aborted,
            }));
        }
    }
}
