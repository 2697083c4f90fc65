//! The one task between the machine and the world.
//!
//! It takes what happened out of the [`Inbox`], tells the machine, and does what the machine says:
//! sends requests, and spawns a task for each job. It never waits for any of them.

use std::{
    collections::{BTreeMap, VecDeque},
    panic::{self, AssertUnwindSafe},
    sync::Arc,
};

use futures::{
    StreamExt,
    channel::{mpsc, oneshot},
    stream,
};

use super::{
    cancel::Cancel,
    exchange,
    inbox::{Inbox, Message, RequestCall, RunCall, Waiter},
    life::Calls,
    notice,
    packed::Packed,
    process::{Make, Process},
    requests::Requests,
    shared::Shared,
    sleep::Sleep,
    task::{self, Order, Task},
};
use crate::{
    Time,
    adapter::{Adapter, Body},
    error::RunError,
    handler::{Context, Fetched, JobLog, JobRunList, LogNews},
    ids::{DownloadId, JobId, RequestId},
    machine::{
        Collected, DownloadOutcome, Input, JobInput, JobOutput, Notice, Output, PollOutcome,
        ReplyBody, RequestBody, StepResult, StopReason, TimeLimit, transcript::RecordedMachine,
    },
    protocol::{Failure, FailureReason, JobPayload},
    spool::SpoolFile,
    trace::TraceMark,
};

/// Drives one machine. Dropped before its end (its runtime is gone), it gives all callers back.
pub(super) struct Driver {
    adapter: Arc<dyn Adapter>,
    shared: Arc<Shared>,
    inbox: Arc<Inbox>,
    machine: RecordedMachine,
    run_list: JobRunList,
    options: Arc<task::Options>,
    now: Time,
    jobs: BTreeMap<JobId, JobEntry>,
    requests: Requests,
    downloads: BTreeMap<DownloadId, Download>,
    /// Logs whose growth is looked for at each turn, until they are found at rest.
    growing: Vec<JobId>,
    run: Option<RunCall>,
    /// The closure of the latest `run`. It outlives the call, since a job request may have been on
    /// its way when that was dropped.
    last_process: Option<Process<Box<dyn Fn() -> Make + Send>>>,
    request_calls: VecDeque<RequestCall>,
    calls: Calls,
    /// Closures of `request_job` whose job is about to start.
    claimed: BTreeMap<JobId, Process<Make>>,
    waiters: Vec<Waiter>,
    stopped: bool,
}

struct JobEntry {
    log: Arc<JobLog>,
    orders: mpsc::UnboundedSender<Order>,
    /// Of what the task does now.
    cancel: Cancel,
    told: TraceMark,
    /// What the task has packed last.
    packed: Packed,
}

/// Who waits for a download, and what came of it so far.
struct Download {
    done: oneshot::Sender<Fetched>,
    file: Option<Arc<SpoolFile>>,
}

impl Driver {
    pub(super) fn new(
        adapter: Arc<dyn Adapter>,
        shared: Arc<Shared>,
        inbox: Arc<Inbox>,
        machine: RecordedMachine,
        run_list: JobRunList,
        options: task::Options,
        calls: Calls,
    ) -> Self {
        let now = adapter.now();
        let options = Arc::new(options);
        Self {
            adapter,
            shared,
            inbox,
            machine,
            run_list,
            requests: Requests::new(&options),
            options,
            now,
            jobs: BTreeMap::new(),
            downloads: BTreeMap::new(),
            growing: Vec::new(),
            run: None,
            last_process: None,
            request_calls: VecDeque::new(),
            calls,
            claimed: BTreeMap::new(),
            waiters: Vec::new(),
            stopped: false,
        }
    }

    /// Runs until the machine has stopped for good.
    pub(super) async fn drive(mut self, context: Context) {
        let mut sleep = Sleep::new(&self.adapter, &self.inbox);
        let mut messages = Vec::new();
        loop {
            context.run(|| self.turn(&mut messages));
            if self.stopped {
                return;
            }
            let machine = self.machine.poll_timeout().map(|(deadline, _)| deadline);
            let deadline = machine.into_iter().chain(self.requests.deadline()).min();
            sleep.until(deadline).await;
        }
    }

    fn turn(&mut self, messages: &mut Vec<Message>) {
        self.now = self.adapter.now();
        self.inbox.take(messages);
        for message in messages.drain(..) {
            self.on_message(message);
        }
        self.look_for_growth();
        // By the clock and not by the sleep that ended: a runtime may end it late or early.
        if self
            .machine
            .poll_timeout()
            .is_some_and(|(deadline, _)| deadline <= self.now)
        {
            self.machine.handle_input(self.now, Input::Timeout);
        }
        while let Some(answer) = self.requests.expired(self.now) {
            self.machine.handle_input(self.now, answer);
        }
        // Before anybody hears of anything: who is told of a job finds it counted.
        self.shared.set_running(self.machine.stats().jobs);
        while let Some(output) = self.machine.poll_output() {
            self.perform(output);
        }
        self.answer_waiters();
    }

    fn on_message(&mut self, message: Message) {
        match message {
            Message::Input(Input::Reply { request, .. } | Input::Failed { request, .. })
                if !self.requests.answered(request) => {}
            Message::Input(input) => self.machine.handle_input(self.now, input),
            Message::Ready(slot) => {
                if let Some(answer) = self.requests.poll(slot) {
                    self.machine.handle_input(self.now, answer);
                }
            }
            Message::Spooled {
                request,
                download,
                file,
            } => {
                if self.requests.answered(request)
                    && let Some(entry) = self.downloads.get_mut(&download)
                {
                    let len = file.len();
                    entry.file = Some(file);
                    self.machine
                        .handle_input(self.now, Input::Spooled { request, len });
                }
            }
            Message::Download {
                job,
                download,
                dependency,
                done,
            } => {
                // Without its job it would never be answered; dropped, it is.
                if self.jobs.contains_key(&job) {
                    self.downloads
                        .insert(download, Download { done, file: None });
                    let input = JobInput::Download {
                        download,
                        dependency,
                    };
                    self.job_input(job, input);
                }
            }
            Message::DownloadDropped { job, download } => {
                if self.downloads.remove(&download).is_some() {
                    self.job_input(job, JobInput::DropDownload(download));
                }
            }
            Message::LogGrew(job) => self.growing.push(job),
            Message::LogSwelled(job) => self.spill(job),
            Message::Run(call) => {
                let capacity = self.shared.take_capacity().unwrap_or(call.capacity);
                if capacity == 0 {
                    notice::trouble_with_runner(
                        "the runner may run no job at a time, so it asks for none",
                    );
                }
                self.machine
                    .handle_input(self.now, Input::SetCapacity(capacity));
                let old = (self.run.replace(call), self.last_process.take());
                self.discard(old);
            }
            Message::RunDropped(number) => {
                if let Some(call) = self.run.take_if(|call| call.number == number) {
                    let old = self.last_process.replace(call.process);
                    self.discard(old);
                    self.machine.handle_input(self.now, Input::SetCapacity(0));
                }
            }
            Message::RequestJob(call) => {
                self.request_calls.push_back(call);
                self.machine.handle_input(self.now, Input::PollOnce);
            }
            Message::RequestDropped => {
                // One that is on its way may bring a job already: that is run.
                let dropped = self
                    .request_calls
                    .iter()
                    .rposition(|it| it.done.is_canceled());
                if let Some(dropped) = dropped
                    && self.machine.stats().polls_waiting > 0
                {
                    let call = self.request_calls.remove(dropped);
                    self.discard(call);
                    self.machine.handle_input(self.now, Input::WithdrawPoll);
                }
            }
            Message::Capacity(capacity) => {
                if self.run.is_some() {
                    self.machine
                        .handle_input(self.now, Input::SetCapacity(capacity));
                } else {
                    self.shared.keep_capacity(capacity);
                }
            }
            Message::Call(call, done) => {
                let input = self.calls.begin(call, done);
                self.machine.handle_input(self.now, input);
            }
            Message::Wait(waiter) => self.waiters.push(waiter),
        }
    }

    fn job_input(&mut self, job: JobId, input: JobInput) {
        self.machine
            .handle_input(self.now, Input::Job { job, input });
    }

    /// Drops what holds a closure of the user in a task of its own: it may panic.
    fn discard(&self, what: impl Send + 'static) {
        self.adapter.spawn(Box::pin(async move { drop(what) }));
    }

    /// Tells the machine how far the logs have come that were written to of late. A log that was
    /// not says so with its next line; all others need not wake the driver for each of theirs: the
    /// machine has bytes of them to send, so it wakes soon.
    fn look_for_growth(&mut self) {
        let mut growing = std::mem::take(&mut self.growing);
        growing.retain(|job| {
            let Some(entry) = self.jobs.get_mut(job) else {
                return false;
            };
            let mark = entry.log.mark();
            if mark != entry.told {
                entry.told = mark;
                self.job_input(*job, JobInput::Traced(mark));
                return true;
            }
            entry.log.rest();
            // What was written in between has found the log awake, and told nobody.
            let mark = entry.log.mark();
            if mark == entry.told || !entry.log.wake() {
                return false;
            }
            entry.told = mark;
            self.job_input(*job, JobInput::Traced(mark));
            true
        });
        self.growing = growing;
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Send {
                request,
                http,
                reply,
                limit,
            } => {
                self.send(request, http, reply, limit);
            }
            Output::Forget(request) => self.requests.forget(request),
            Output::Job {
                job,
                output: JobOutput::Start(payload),
            } => self.start(job, payload),
            Output::Job { job, output } => self.perform_for_job(job, output),
            Output::Polled(outcome) => self.on_polled(outcome),
            Output::Called(outcome) => self.calls.answer(outcome),
            Output::PersistToken(token) => self.calls.persist(token),
            Output::Notice(notice) => self.report(&notice),
            Output::Stopped(reason) => self.on_stopped(&reason),
        }
    }

    fn send(
        &mut self,
        request: RequestId,
        http: http::Request<RequestBody>,
        reply: ReplyBody,
        limit: TimeLimit,
    ) {
        let (parts, body) = http.into_parts();
        let body = match body {
            RequestBody::Empty => Some(Body::Empty),
            RequestBody::Bytes(bytes) => Some(Body::Full(bytes)),
            RequestBody::Trace { job, range } => {
                let log = self.jobs.get(&job).map(|entry| &entry.log);
                log.and_then(|log| log.body(range, &self.adapter))
            }
            RequestBody::Artifact {
                artifact,
                head,
                len,
                tail,
            } => {
                let entry = self.jobs.get(&artifact.job);
                let file = entry.and_then(|entry| entry.packed.of(artifact));
                file.map(|file| {
                    let chunks = stream::iter([Ok(head.clone())])
                        .chain(file.stream(0..len, 2, Arc::clone(&self.adapter)))
                        .chain(stream::iter([Ok(tail.clone())]))
                        .boxed();
                    let len = (head.len() + tail.len()) as u64 + len;
                    Body::Stream {
                        len: Some(len),
                        chunks,
                    }
                })
            }
        };
        let call = exchange::Call {
            request,
            http: body.map(|body| http::Request::from_parts(parts, body)),
            reply,
            limit,
        };
        self.requests.send(self.now, call);
    }

    fn spill(&self, job: JobId) {
        let Some(entry) = self.jobs.get(&job) else {
            return;
        };
        let log = Arc::clone(&entry.log);
        self.options.slow.spawn(move || log.spill());
    }

    fn start(&mut self, job: JobId, payload: Arc<JobPayload>) {
        let process = self.claimed.remove(&job).or_else(|| {
            let run = self.run.as_ref().map(|call| &call.process);
            run.or(self.last_process.as_ref()).map(|process| Process {
                make: (process.make)(),
                context: process.context.clone(),
            })
        });
        let Some(process) = process else {
            // The capacity is zero until there is a closure.
            let failure = Failure::new(FailureReason::RunnerSystemFailure);
            let input = JobInput::Declined {
                failure,
                trace: TraceMark::default(),
            };
            return self.inbox.job(job, input);
        };
        let inbox = Arc::clone(&self.inbox);
        let tell = move |news| match news {
            LogNews::Grew => inbox.push(Message::LogGrew(job)),
            LogNews::Swelled => inbox.push(Message::LogSwelled(job)),
            LogNews::NotStored(error) => {
                let what = "a part of its log cannot be stored on disk and stays in memory";
                notice::trouble_with_job(job, &format!("{what}: {error}"));
            }
        };
        let (adapter, origin) = (Arc::clone(&self.adapter), self.options.wall_origin);
        let clock = Box::new(move || origin + adapter.now());
        let dir = self.options.build_dir.clone();
        let log = Arc::new(JobLog::new(job, dir, clock, tell));
        let (orders, received) = mpsc::unbounded();
        let cancel = Cancel::default();
        let entry = JobEntry {
            log: Arc::clone(&log),
            orders,
            cancel: cancel.clone(),
            told: TraceMark::default(),
            packed: Packed::default(),
        };
        let packed = entry.packed.clone();
        self.run_list.insert(job, &log);
        self.jobs.insert(job, entry);
        let task = Task::new(
            &self.options,
            payload,
            process,
            log,
            received,
            cancel,
            packed,
        );
        self.adapter.spawn(Box::pin(task.run()));
    }

    fn perform_for_job(&mut self, job: JobId, output: JobOutput) {
        let Some(entry) = self.jobs.get_mut(&job) else {
            return;
        };
        match output {
            JobOutput::Start(_) => {}
            JobOutput::Step {
                phase,
                name,
                script,
                status,
            } => {
                let order = Order::Step {
                    phase,
                    name,
                    script,
                    status,
                    cancel: entry.cancel.renew(),
                };
                if entry.orders.unbounded_send(order).is_err() {
                    let trace = entry.log.mark();
                    let result = StepResult::Panicked;
                    self.inbox
                        .job(job, JobInput::StepFinished { result, trace });
                }
            }
            JobOutput::Collect(artifact) => {
                let cancel = entry.cancel.renew();
                let order = Order::Collect { artifact, cancel };
                if entry.orders.unbounded_send(order).is_err() {
                    let outcome = Collected::Panicked;
                    self.inbox
                        .job(job, JobInput::Collected { artifact, outcome });
                }
            }
            JobOutput::Downloaded(download, outcome) => self.downloaded(download, outcome),
            JobOutput::Cancel(mode) => entry.cancel.fire(mode),
            JobOutput::Note(text) => entry.log.note(text),
            JobOutput::CleanUp => {
                let order = Order::CleanUp {
                    status: self.machine.script_status(job).unwrap_or_default(),
                    cancel: entry.cancel.renew(),
                };
                if entry.orders.unbounded_send(order).is_err() {
                    let trace = entry.log.finish();
                    self.inbox.job(job, JobInput::CleanedUp { trace });
                }
            }
            JobOutput::Done => {
                if let Some(entry) = self.jobs.remove(&job) {
                    self.run_list.remove(job, &entry.log);
                    entry.log.close();
                    self.options.memory.relax();
                }
            }
        }
    }

    fn downloaded(&mut self, download: DownloadId, outcome: DownloadOutcome) {
        let Some(Download { done, file }) = self.downloads.remove(&download) else {
            return;
        };
        // Who has gone does not want to know.
        let _ = done.send(match outcome {
            DownloadOutcome::Done { .. } => Ok(file),
            DownloadOutcome::Nothing => Ok(None),
            DownloadOutcome::Failed(trouble) => Err(exchange::download_error(trouble)),
        });
    }

    fn on_polled(&mut self, outcome: PollOutcome) {
        let Some(call) = self.request_calls.pop_front() else {
            return;
        };
        let answer = match outcome {
            PollOutcome::Started(job) => {
                self.claimed.insert(job, call.process);
                Ok(true)
            }
            PollOutcome::Unusable(_) => Ok(true),
            PollOutcome::NoJob => Ok(false),
            PollOutcome::Failed(trouble) => Err(RunError::job_request(trouble)),
            PollOutcome::Stopped => Err(RunError::stopped()),
        };
        // Who has gone does not want to know.
        let _ = call.done.send(answer);
    }

    /// A subscriber is the user's code: if it panics, that is no reason to lose all jobs.
    fn report(&self, notice: &Notice) {
        let _ = panic::catch_unwind(AssertUnwindSafe(|| notice::report(notice)));
    }

    fn on_stopped(&mut self, reason: &StopReason) {
        let answer = match reason {
            StopReason::TokenRefused(trouble) => Err(RunError::token_refused(trouble)),
            StopReason::Drained | StopReason::Aborted => {
                self.stopped = true;
                Ok(())
            }
        };
        if let Some(call) = self.run.take() {
            let old = self.last_process.replace(call.process);
            self.discard(old);
            let _ = call.done.send(answer);
        }
    }

    fn answer_waiters(&mut self) {
        if self.waiters.is_empty() {
            return;
        }
        let stats = self.machine.stats();
        let waiters = std::mem::take(&mut self.waiters);
        for waiter in waiters {
            let over = match waiter.below {
                Some(below) => stats.jobs < below,
                None => stats.jobs == 0 && stats.requests_in_flight == 0,
            };
            if over {
                let _ = waiter.done.send(());
            } else {
                self.waiters.push(waiter);
            }
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        for (job, entry) in &self.jobs {
            self.run_list.remove(*job, &entry.log);
        }
        self.shared.driver_ended(&self.inbox, self.stopped);
    }
}
