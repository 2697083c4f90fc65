//! One job from the 201 that brought it to the answer to its final update.
//!
//! Two things go on at the same time: the handler's life ([`State`]) and the conversation with
//! GitLab ([`Exchange`]). GitLab's word comes first: a job that it ended gets no more requests, only
//! its clean-up.

mod ending;

use std::sync::Arc;

use bytes::Bytes;
use http::Response;

use self::ending::Ending;
use super::{
    core::{Core, JobCalls, error_line, warning_line},
    download::Downloads,
    exchange::{Exchange, News},
    input::{Collected, JobInput, StepResult},
    output::{CancelMode, DownloadOutcome, JobOutput, Notice, Output, PollOutcome, Trouble},
    plan::{self, Plan, Step},
    timers::Reason,
    upload::{UploadNews, Uploads},
};
use crate::{
    ids::{ArtifactId, DownloadId, JobId, RequestId},
    protocol::{Failure, FailureReason, JobPayload, Phase, ScriptStatus},
    secret::Secret,
    time::Time,
    transport::TransportError,
};

#[derive(Debug)]
pub(super) struct JobMachine {
    id: JobId,
    work: Work,
    state: State,
    exchange: Exchange,
    downloads: Downloads,
    /// Why it failed, if it did.
    failure: Option<Failure>,
    /// Why it has to end before its time.
    ending: Option<Ending>,
    /// When it runs out of time.
    deadline: Option<Time>,
    /// When its script does, if it has a limit of its own and has begun.
    script_deadline: Option<Time>,
    /// Whether its `Start` was said, so that its `Done` is owed.
    started: bool,
    /// Whether a `PollOnce` waits to hear what becomes of it.
    once: bool,
    /// Whether GitLab took it back before it was started.
    refused: bool,
}

#[derive(Debug)]
enum Work {
    Run {
        payload: Arc<JobPayload>,
        plan: Plan,
    },
    /// It cannot be run: what to say in its log and to GitLab.
    Refuse {
        text: String,
        failure: Failure,
        /// As in the payload, if it could be read.
        known_reasons: Vec<String>,
    },
}

#[derive(Debug)]
enum State {
    /// GitLab is told that the job is taken.
    Committing,
    /// The handler is being made. `force_at`: when to drop it.
    Starting {
        force_at: Option<Time>,
    },
    /// The handler runs a step. `until`: when its time is over, unless it is already.
    Stepping {
        step: Step,
        until: Option<Time>,
        force_at: Option<Time>,
    },
    /// The artifacts are packed and uploaded.
    Uploading(Uploads),
    /// The handler cleans up.
    Cleaning {
        force_at: Option<Time>,
    },
    /// The last of the log and the final state are brought to GitLab.
    Finishing,
    Done,
}

impl JobMachine {
    pub(super) fn new(core: &Core, payload: JobPayload, once: bool) -> Self {
        let payload = Arc::new(payload);
        let exchange = Exchange::new(core, JobCalls::of(core, &payload));
        let config = &core.config;
        let id = payload.id;
        let work = match Plan::new(&payload, &config.info.features, config.default_job_timeout) {
            Ok(plan) => Work::Run { payload, plan },
            Err((text, failure)) => Work::Refuse {
                text,
                failure,
                known_reasons: payload.features.failure_reasons.clone(),
            },
        };
        Self::with(id, work, exchange, once)
    }

    /// A job of which only id and token could be read.
    pub(super) fn unreadable(core: &Core, id: JobId, token: Secret, why: &str, once: bool) -> Self {
        let text = format!("the job that GitLab handed out cannot be understood: {why}");
        let failure = Failure::new(FailureReason::RunnerSystemFailure);
        let exchange = Exchange::new(core, JobCalls::new(core, id, token, false));
        let work = Work::Refuse {
            text,
            failure,
            known_reasons: Vec::new(),
        };
        Self::with(id, work, exchange, once)
    }

    fn with(id: JobId, work: Work, exchange: Exchange, once: bool) -> Self {
        Self {
            id,
            work,
            state: State::Committing,
            exchange,
            downloads: Downloads::default(),
            failure: None,
            ending: None,
            deadline: None,
            script_deadline: None,
            started: false,
            once,
            refused: false,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Whether GitLab took it back before it was started: it was no job for us.
    pub(super) fn is_refused(&self) -> bool {
        self.refused
    }

    /// How it has gone so far.
    pub(super) fn script_status(&self) -> ScriptStatus {
        match &self.state {
            State::Committing | State::Starting { .. } => ScriptStatus::Running,
            State::Stepping { step, .. } if step.phase == Phase::Script => ScriptStatus::Running,
            _ => ScriptStatus::after(self.failure.as_ref()),
        }
    }

    /// What the handler's side says; false if it was not asked for that.
    pub(super) fn on_input(&mut self, core: &mut Core, input: JobInput) -> bool {
        let mut fits = true;
        match (input, &self.state) {
            (JobInput::Traced(mark), _) => self.exchange.grow(core, mark),
            (JobInput::Accepted, State::Starting { .. }) => self.next_step(core, None),
            (JobInput::Declined { failure, trace }, State::Starting { .. }) => {
                self.exchange.grow(core, trace);
                self.failure.get_or_insert(failure);
                self.finish(core);
            }
            (JobInput::StepFinished { result, trace }, State::Stepping { step, .. }) => {
                let step = step.clone();
                self.exchange.grow(core, trace);
                self.on_step_finished(core, &step, result);
            }
            (JobInput::Collected { artifact, outcome }, State::Uploading(_)) => {
                fits = self.on_collected(core, artifact, outcome);
            }
            (
                JobInput::Download {
                    download,
                    dependency,
                },
                _,
            ) => fits = self.download(core, download, dependency),
            (JobInput::DropDownload(download), _) => fits = self.downloads.forget(core, download),
            (JobInput::CleanedUp { trace }, State::Cleaning { .. }) => {
                self.exchange.grow(core, trace);
                self.finish(core);
            }
            _ => fits = false,
        }
        self.advance(core);
        fits
    }

    /// A reply or a failure for one of the job's requests.
    pub(super) fn on_answer(
        &mut self,
        core: &mut Core,
        request: RequestId,
        answer: Result<Response<Bytes>, TransportError>,
    ) {
        if let State::Uploading(uploads) = &mut self.state
            && uploads.owns(request)
        {
            let answer = answer.as_ref().map_err(Clone::clone);
            match uploads.on_answer(core, self.exchange.calls(), answer) {
                UploadNews::Nothing => {}
                UploadNews::Doubt => self.exchange.ask(),
                UploadNews::Ended(why) => self.abort(core, why),
            }
        } else if let Some(download) = self.downloads.owner(request) {
            let answer = answer.as_ref().map_err(Clone::clone);
            let calls = self.exchange.calls();
            self.downloads.on_answer(core, calls, download, answer);
        } else {
            let news = self.exchange.on_answer(core, request, answer);
            self.on_news(core, news);
        }
        self.advance(core);
    }

    /// The body of a download is in its file; false if the request is none.
    pub(super) fn on_spooled(&mut self, core: &mut Core, request: RequestId, len: u64) -> bool {
        let download = self.downloads.owner(request);
        if let Some(download) = download {
            self.downloads.on_spooled(core, self.id, download, len);
        }
        self.advance(core);
        download.is_some()
    }

    /// Does what is due.
    pub(super) fn advance(&mut self, core: &mut Core) {
        if matches!(self.state, State::Committing) && self.exchange.is_committed() {
            self.start(core);
        }
        if self
            .job_deadline()
            .is_some_and(|deadline| deadline <= core.now)
        {
            self.time_out(core);
        }
        if self.step_deadline().is_some_and(|until| until <= core.now) {
            self.time_out_step(core);
        }
        if let Some(force_at) = self.state.force_at_mut()
            && force_at.is_some_and(|force_at| force_at <= core.now)
        {
            *force_at = None;
            core.job(self.id, JobOutput::Cancel(CancelMode::Forced));
        }
        self.downloads.advance(core, self.id);
        if let State::Uploading(uploads) = &mut self.state
            && uploads.advance(core, self.exchange.calls())
        {
            let failure = uploads.take_failure();
            self.failure = self.failure.take().or(failure);
            self.clean_up(core);
        }
        loop {
            match self.exchange.advance(core) {
                News::Nothing => break,
                news => self.on_news(core, news),
            }
        }
    }

    /// When [`advance`](Self::advance) has something to do next.
    pub(super) fn deadline(&self, core: &Core) -> Option<(Time, Reason)> {
        let timeout = self
            .job_deadline()
            .map(|deadline| (deadline, Reason::JobTimeout));
        let force = match self.state {
            State::Starting { force_at } | State::Stepping { force_at, .. } => {
                force_at.map(|time| (time, Reason::CancelGrace))
            }
            State::Cleaning { force_at } => force_at.map(|time| (time, Reason::CleanUp)),
            _ => None,
        };
        let upload = match &self.state {
            State::Uploading(uploads) => uploads.deadline(core).map(|time| (time, Reason::Upload)),
            _ => None,
        };
        let step = self.step_deadline();
        let download = self.downloads.deadline(core);
        timeout
            .into_iter()
            .chain(step.map(|time| (time, Reason::StepTimeout)))
            .chain(force)
            .chain(upload)
            .chain(download.map(|time| (time, Reason::Download)))
            .chain(self.exchange.deadline(core))
            .min()
    }

    fn job_deadline(&self) -> Option<Time> {
        let running = matches!(
            self.state,
            State::Starting { .. } | State::Stepping { .. } | State::Uploading(_)
        );
        self.deadline
            .filter(|_| running && self.ending < Some(Ending::TimedOut))
    }

    /// When the step that runs is out of time. A script that was cancelled has its time for that.
    fn step_deadline(&self) -> Option<Time> {
        let State::Stepping { step, until, .. } = &self.state else {
            return None;
        };
        let may_run = match step.phase {
            Phase::Script => self.ending.is_none(),
            Phase::AfterScript => self.ending < Some(Ending::TimedOut),
        };
        until.filter(|_| may_run)
    }

    fn on_news(&mut self, core: &mut Core, news: News) {
        let committing = matches!(self.state, State::Committing);
        match news {
            // `advance` follows, and starts what is committed.
            News::Nothing | News::Committed => {}
            News::NotCommitted => {
                self.failure = Some(Failure::new(FailureReason::RunnerSystemFailure));
                let why = "GitLab could not be told in time that the job is taken".to_owned();
                core.notice(Notice::JobDropped { job: self.id, why });
                self.polled(core, PollOutcome::NoJob);
                self.state = State::Finishing;
                self.exchange.finish(core, self.known_failure(), true);
            }
            News::Canceling => self.cancel(core),
            News::Ended(why) if committing => {
                core.notice(Notice::JobDropped { job: self.id, why });
                self.refused = true;
                self.done(core);
            }
            News::Ended(why) => self.abort(core, why),
            News::Reported => {
                let failure = self.failure.clone();
                core.notice(Notice::JobReported {
                    job: self.id,
                    failure,
                });
                self.done(core);
            }
            News::NotReported(why) => {
                core.notice(Notice::JobReportFailed { job: self.id, why });
                self.done(core);
            }
        }
    }

    /// The job is ours: on with it.
    fn start(&mut self, core: &mut Core) {
        if self.ending.is_some() {
            return self.finish(core);
        }
        match &self.work {
            Work::Run { payload, plan } => {
                self.deadline = Some(core.now + plan.limit);
                let start = JobOutput::Start(Arc::clone(payload));
                self.state = State::Starting { force_at: None };
                self.started = true;
                core.notice(Notice::JobStarted {
                    job: self.id,
                    name: payload.job_info.name.clone(),
                });
                let warnings: Vec<String> = plan.warnings.clone();
                self.polled(core, PollOutcome::Started(self.id));
                core.job(self.id, start);
                for warning in warnings {
                    core.job(self.id, JobOutput::Note(warning_line(&warning)));
                }
            }
            Work::Refuse { text, failure, .. } => {
                let log = format!("{}\n", error_line(&format!("Job failed: {text}")));
                self.failure = Some(failure.clone());
                self.exchange.set_own_log(core, log.into());
                self.polled(core, PollOutcome::Unusable(self.id));
                self.finish(core);
            }
        }
    }

    /// The next step after `last`, or the clean-up.
    fn next_step(&mut self, core: &mut Core, last: Option<&Step>) {
        let may_run = match self.ending {
            None => true,
            // A job that was cancelled before its script began has no after_script either.
            Some(Ending::Canceling) => last.is_some(),
            Some(_) => false,
        };
        let next = match &self.work {
            Work::Run { plan, .. } if may_run => {
                plan.after(last, self.failure.is_some(), self.ending.is_some())
            }
            _ => None,
        };
        let Some(step) = next else {
            match last {
                Some(_) if may_run => return self.upload(core),
                Some(_) => self.miss_artifacts(core),
                None => {}
            }
            return self.clean_up(core);
        };
        let output = JobOutput::Step {
            phase: step.phase,
            name: Arc::clone(&step.name),
            script: Arc::clone(&step.script),
            status: match step.phase {
                Phase::Script => ScriptStatus::Running,
                Phase::AfterScript => ScriptStatus::after(self.failure.as_ref()),
            },
        };
        let limit = match &self.work {
            Work::Run { plan, .. } => plan.phase_limit(step.phase),
            Work::Refuse { .. } => None,
        };
        let until = limit.map(|limit| core.now + limit);
        self.state = State::Stepping {
            until: match step.phase {
                Phase::Script => until.map(|until| *self.script_deadline.get_or_insert(until)),
                Phase::AfterScript => until,
            },
            step,
            force_at: None,
        };
        core.job(self.id, output);
    }

    fn on_step_finished(&mut self, core: &mut Core, step: &Step, result: StepResult) {
        let panicked = result == StepResult::Panicked;
        let failure = match result {
            // Only what has to end is forced to, and then it is known why.
            StepResult::Ok | StepResult::Cancelled => None,
            StepResult::Failed(failure) => Some(failure),
            StepResult::Panicked => Some(Failure::new(FailureReason::RunnerSystemFailure)),
            StepResult::TimedOut => Some(Failure::new(FailureReason::JobExecutionTimeout)),
        };
        // A failed after_script does not change how the job ended. But a panic is not a failed
        // script, it is a broken runner.
        let counts = match &self.work {
            Work::Run { plan, .. } => plan.counts(step) || panicked,
            Work::Refuse { .. } => true,
        };
        if counts && self.failure.is_none() {
            self.failure = failure;
        }
        if panicked {
            self.clean_up(core);
        } else {
            self.next_step(core, Some(step));
        }
    }

    /// The artifacts, if there are any for how the job went.
    fn upload(&mut self, core: &mut Core) {
        let Work::Run { payload, .. } = &self.work else {
            return self.clean_up(core);
        };
        // `advance` follows, and sees when there are none.
        self.state = State::Uploading(Uploads::new(plan::artifacts(
            payload,
            self.failure.is_some(),
        )));
    }

    fn on_collected(&mut self, core: &mut Core, artifact: ArtifactId, outcome: Collected) -> bool {
        let (State::Uploading(uploads), Work::Run { payload, .. }) = (&mut self.state, &self.work)
        else {
            return false;
        };
        let spec = payload.artifacts.get(artifact.index);
        uploads.on_collected(core, spec, artifact, outcome)
    }

    /// The handler wants what another job made; false if the number is in use.
    fn download(&mut self, core: &mut Core, download: DownloadId, dependency: JobId) -> bool {
        let has_handler = matches!(
            self.state,
            State::Starting { .. }
                | State::Stepping { .. }
                | State::Uploading(_)
                | State::Cleaning { .. }
        );
        let Work::Run { payload, .. } = &self.work else {
            return false;
        };
        let mut dependencies = payload.dependencies.iter();
        let known = dependencies.find(|known| known.id == dependency);
        let outcome = match known {
            _ if !has_handler || self.ending == Some(Ending::Aborted) => {
                DownloadOutcome::Failed(Trouble::Stopped)
            }
            Some(known) if known.artifacts_file.is_some() => {
                return self
                    .downloads
                    .begin(core, self.id, &payload.token, download, known);
            }
            _ => DownloadOutcome::Nothing,
        };
        core.job(self.id, JobOutput::Downloaded(download, outcome));
        true
    }

    fn clean_up(&mut self, core: &mut Core) {
        self.state = State::Cleaning {
            force_at: Some(core.now + core.config.cleanup_limit),
        };
        core.job(self.id, JobOutput::CleanUp);
    }

    /// Nothing more happens here: report it.
    fn finish(&mut self, core: &mut Core) {
        if self.ending == Some(Ending::Aborted) {
            self.done(core);
        } else {
            self.polled(core, PollOutcome::NoJob);
            self.state = State::Finishing;
            self.exchange.finish(core, self.known_failure(), false);
        }
    }

    /// Why it failed, in words that GitLab knows.
    fn known_failure(&self) -> Option<Failure> {
        let known = match &self.work {
            Work::Run { payload, .. } => &payload.features.failure_reasons[..],
            Work::Refuse { known_reasons, .. } => known_reasons,
        };
        let failure = self.failure.as_ref();
        failure.map(|failure| failure.mapped(known))
    }

    fn done(&mut self, core: &mut Core) {
        self.polled(core, PollOutcome::NoJob);
        self.exchange.end(core);
        self.downloads.stop(core, self.id);
        self.state = State::Done;
        if self.started {
            core.job(self.id, JobOutput::Done);
        }
    }

    fn polled(&mut self, core: &mut Core, outcome: PollOutcome) {
        if std::mem::take(&mut self.once) {
            core.unresolved -= 1;
            core.outbox.push_back(Output::Polled(outcome));
        }
    }
}

impl State {
    fn force_at_mut(&mut self) -> Option<&mut Option<Time>> {
        match self {
            Self::Starting { force_at }
            | Self::Stepping { force_at, .. }
            | Self::Cleaning { force_at } => Some(force_at),
            Self::Committing | Self::Uploading(_) | Self::Finishing | Self::Done => None,
        }
    }
}
