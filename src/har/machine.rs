//! A machine without a runner before a recording: the jobs do what they did then.
//!
//! What a job wrote, when, and how it ended stands in the requests of the recorded runner. So no
//! handler is needed, and nothing but the machine is looked at.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, StatusCode};

use super::{
    Har, HarServer, Mode,
    exchange::{Exchange, ReplayError, exchanges},
    recorded::{RecordedJob, Upload},
};
use crate::{
    Time,
    ids::{DownloadId, JobId, RequestId},
    machine::{
        CancelMode, Collected, Input, JobInput, JobOutput, MachineConfig, Output, ReplyBody,
        RequestBody, RunnerMachine, StepResult, StopMode, TimeLimit,
    },
    mock::{Answer, HoldId, Server},
    protocol::{Failure, FailureReason, JobPayload},
    time::WallTime,
    trace::TraceMark,
    transport::{TransportError, TransportErrorKind},
};

/// Beyond the time of the recording, a replay of it ends after so much in any case.
const SLACK: Duration = Duration::from_secs(86_400);

/// Lets a [`RunnerMachine`] with this configuration and seed, and up to `capacity` jobs at a time, run
/// through a recording, and gives the server back: its [`verdict`](HarServer::verdict) says whether the
/// machine asked what was asked then.
///
/// The clock is that of then, unless the configuration has another one. Each job writes what it wrote,
/// and ends as it ended. Who drives a machine by hand and has handlers
/// of its own puts [`HarServer`] in the place of GitLab instead.
///
/// # Errors
/// See [`HarServer::new`].
pub fn replay_machine(
    har: &Har,
    mode: Mode,
    config: MachineConfig,
    seed: u64,
    capacity: usize,
) -> Result<HarServer, ReplayError> {
    let recorded = exchanges(har)?;
    let mut config = config;
    if config.wall_origin == WallTime::default() {
        config.wall_origin = har.began().unwrap_or_default();
    }
    let mut stage = Stage {
        machine: RunnerMachine::new(config, seed),
        server: HarServer::new(har, mode)?,
        recorded,
        now: Time::ZERO,
        waiting: BTreeMap::new(),
        held: BTreeMap::new(),
        events: BTreeMap::new(),
        count: 0,
        jobs: BTreeMap::new(),
        is_stopping: false,
    };
    stage.tell(Input::SetCapacity(capacity));
    stage.run();
    Ok(stage.server)
}

struct Stage {
    machine: RunnerMachine,
    server: HarServer,
    recorded: Vec<Exchange>,
    now: Time,
    /// When each request is given up, and what becomes of the body of its reply.
    waiting: BTreeMap<RequestId, (Time, ReplyBody)>,
    held: BTreeMap<HoldId, RequestId>,
    /// In the order of their times.
    events: BTreeMap<(Time, u64), (JobId, Event)>,
    count: u64,
    jobs: BTreeMap<JobId, Playing>,
    is_stopping: bool,
}

enum Event {
    /// The log is so long.
    Grow(u64),
    /// What runs comes to its end.
    End,
    /// The job wants what another one made.
    Download(JobId),
}

/// A job on the stage.
struct Playing {
    log: Vec<u8>,
    len: u64,
    uploads: VecDeque<Upload>,
    /// Of the latest `Collect`.
    packed: Bytes,
    result: StepResult,
    /// How the recording has it; without it, it ends when it has to.
    has_end: bool,
    is_over: bool,
    in_step: bool,
}

impl Playing {
    fn mark(&self) -> TraceMark {
        let len = usize::try_from(self.len)
            .unwrap_or(usize::MAX)
            .min(self.log.len());
        TraceMark {
            len: len as u64,
            crc32: crc32fast::hash(&self.log[..len]),
        }
    }

    fn end(&mut self, result: StepResult) -> Option<JobInput> {
        self.len = self.len.max(if self.is_over {
            self.log.len() as u64
        } else {
            0
        });
        std::mem::take(&mut self.in_step).then(|| JobInput::StepFinished {
            result,
            trace: self.mark(),
        })
    }
}

impl Stage {
    fn tell(&mut self, input: Input) {
        self.machine.handle_input(self.now, input);
    }

    fn tell_job(&mut self, job: JobId, input: JobInput) {
        self.tell(Input::Job { job, input });
    }

    fn run(&mut self) {
        let times = || self.recorded.iter().filter_map(|entry| entry.started);
        let span = times().max().zip(times().min());
        let span = span.map_or(Duration::ZERO, |(last, first)| last.since(first));
        // Nobody records longer than a month.
        let end = Time::ZERO + span.min(30 * SLACK) + SLACK;
        while self.now < end {
            while let Some(output) = self.machine.poll_output() {
                if matches!(output, Output::Stopped(_)) {
                    return;
                }
                self.perform(output);
            }
            if let Some((hold, answer)) = self.server.poll_answer(self.now) {
                if let Some(request) = self.held.remove(&hold) {
                    self.answered(request, answer);
                }
                continue;
            }
            if self.server.is_over() && !self.is_stopping {
                self.is_stopping = true;
                self.tell(Input::Stop(StopMode::Abort));
                continue;
            }
            if !self.turn() {
                return;
            }
        }
    }

    /// On to the next moment at which something happens; false if there is none.
    fn turn(&mut self) -> bool {
        let deadline = self.machine.poll_timeout().map(|(at, _)| at);
        let event = self.events.keys().next().map(|(at, _)| *at);
        let limit = self.waiting.values().map(|(at, _)| *at).min();
        let answer = self.server.poll_timeout();
        let Some(next) = [deadline, event, limit, answer].into_iter().flatten().min() else {
            return false;
        };
        self.now = self.now.max(next);
        if event.is_some_and(|at| at <= self.now)
            && let Some((_, (job, event))) = self.events.pop_first()
        {
            self.happen(job, event);
        } else if deadline.is_some_and(|at| at <= self.now) {
            self.tell(Input::Timeout);
        } else if limit.is_some_and(|at| at <= self.now) {
            let late = self.waiting.iter().find(|(_, (at, _))| *at <= self.now);
            if let Some(request) = late.map(|(request, _)| *request) {
                self.give_up(request);
                self.fail(request, TransportErrorKind::Timeout);
            }
        }
        true
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Send {
                request,
                http,
                reply,
                limit,
            } => self.send(request, http, reply, limit),
            Output::Forget(request) => self.give_up(request),
            Output::Job { job, output } => self.perform_for_job(job, output),
            Output::PersistToken(_) => self.tell(Input::TokenPersisted(Ok(()))),
            _ => {}
        }
    }

    fn send(
        &mut self,
        request: RequestId,
        http: Request<RequestBody>,
        reply: ReplyBody,
        limit: TimeLimit,
    ) {
        let limit = match limit {
            TimeLimit::Total(limit) => limit,
            TimeLimit::Idle { reply, .. } => reply,
        };
        self.waiting.insert(request, (self.now + limit, reply));
        let (parts, body) = http.into_parts();
        let body = match body {
            RequestBody::Empty => Bytes::new(),
            RequestBody::Bytes(bytes) => bytes,
            RequestBody::Trace { job, range } => {
                let log = self.jobs.get(&job).map_or(&[][..], |job| &job.log);
                let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX).min(log.len());
                Bytes::copy_from_slice(&log[at(range.start)..at(range.end.max(range.start))])
            }
            RequestBody::Artifact {
                artifact,
                head,
                tail,
                ..
            } => {
                let packed = self.jobs.get(&artifact.job).map(|job| job.packed.clone());
                [head, packed.unwrap_or_default(), tail].concat().into()
            }
        };
        match self
            .server
            .handle(self.now, Request::from_parts(parts, body))
        {
            Answer::Hold(hold) => {
                self.held.insert(hold, request);
            }
            answer => self.answered(request, answer),
        }
    }

    fn answered(&mut self, request: RequestId, answer: Answer) {
        let Some((_, reply)) = self.waiting.remove(&request) else {
            return;
        };
        let Answer::Reply(mut response) = answer else {
            return self.fail(request, TransportErrorKind::Broken);
        };
        match reply {
            ReplyBody::Spool { .. } if response.status() == StatusCode::OK => {
                let len = response.body().len() as u64;
                self.tell(Input::Spooled { request, len });
            }
            ReplyBody::Spool { limit, .. } | ReplyBody::Collect { limit } => {
                response.body_mut().truncate(limit);
                self.tell(Input::Reply { request, response });
            }
        }
    }

    fn fail(&mut self, request: RequestId, kind: TransportErrorKind) {
        let error = TransportError::new(kind, true, "so it was recorded");
        self.tell(Input::Failed { request, error });
    }

    fn give_up(&mut self, request: RequestId) {
        self.waiting.remove(&request);
        let held = self.held.iter().find(|(_, it)| **it == request);
        if let Some(hold) = held.map(|(hold, _)| *hold) {
            self.held.remove(&hold);
            self.server.drop_hold(hold);
        }
    }

    fn perform_for_job(&mut self, id: JobId, output: JobOutput) {
        if let JobOutput::Start(payload) = &output {
            return self.start(id, payload);
        }
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let input = match output {
            JobOutput::Step { .. } => {
                job.in_step = true;
                let result = job.result.clone();
                if job.is_over { job.end(result) } else { None }
            }
            JobOutput::Cancel(CancelMode::Forced) => job.end(StepResult::Cancelled),
            JobOutput::Cancel(CancelMode::Graceful) if !job.has_end => {
                job.end(StepResult::Cancelled)
            }
            JobOutput::Collect(artifact) => {
                let outcome = match job.uploads.pop_front() {
                    Some(upload) => {
                        job.packed = upload.content;
                        Collected::Packed {
                            len: job.packed.len() as u64,
                            file_name: upload.file_name,
                            files: 1,
                        }
                    }
                    None => Collected::Nothing,
                };
                Some(JobInput::Collected { artifact, outcome })
            }
            JobOutput::CleanUp => Some(JobInput::CleanedUp { trace: job.mark() }),
            JobOutput::Done => {
                self.jobs.remove(&id);
                None
            }
            // What the machine notes stands in the recorded log already.
            _ => None,
        };
        if let Some(input) = input {
            self.tell_job(id, input);
        }
    }

    fn start(&mut self, id: JobId, payload: &JobPayload) {
        let recorded = RecordedJob::read(&self.recorded, id);
        // The answer that handed it out came in this moment, or a moment ago (the commit).
        let handed_out = self.server.handed_out(id).unwrap_or(self.now);
        let mut at = |after: Duration, event| {
            self.count += 1;
            let at = (handed_out + after).max(self.now);
            self.events.insert((at, self.count), (id, event));
        };
        for (after, len) in &recorded.growth {
            at(*after, Event::Grow(*len));
        }
        for dependency in &payload.dependencies {
            let asked = self.recorded.iter().find(|it| {
                it.key.job == Some(dependency.id) && it.request.method == Method::GET.as_str()
            });
            let after = asked.and_then(|it| it.started).zip(recorded.handed_out);
            if let Some((asked, handed_out)) = after {
                at(asked.since(handed_out), Event::Download(dependency.id));
            }
        }
        let result = match &recorded.end {
            Some(end) if end.is_success => StepResult::Ok,
            Some(end) => {
                let reason = end.reason.as_deref().unwrap_or("script_failure");
                let failure = Failure::new(FailureReason::from(reason));
                StepResult::Failed(match end.exit_code {
                    Some(code) => failure.with_exit_code(code),
                    None => failure,
                })
            }
            None => StepResult::Cancelled,
        };
        if let Some(end) = &recorded.end {
            at(end.after, Event::End);
        }
        self.jobs.insert(
            id,
            Playing {
                log: recorded.log,
                len: 0,
                uploads: recorded.uploads.into(),
                packed: Bytes::new(),
                result,
                has_end: recorded.end.is_some(),
                is_over: false,
                in_step: false,
            },
        );
        self.tell_job(id, JobInput::Accepted);
    }

    fn happen(&mut self, id: JobId, event: Event) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let input = match event {
            Event::Grow(len) => {
                job.len = job.len.max(len);
                Some(JobInput::Traced(job.mark()))
            }
            Event::End => {
                job.is_over = true;
                let result = job.result.clone();
                job.end(result)
            }
            Event::Download(dependency) => {
                self.count += 1;
                Some(JobInput::Download {
                    download: DownloadId(self.count),
                    dependency,
                })
            }
        };
        if let Some(input) = input {
            self.tell_job(id, input);
        }
    }
}
