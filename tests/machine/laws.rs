//! The machine's invariants, whatever happens to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use gitlab_runner::{
    ArtifactId, DownloadId, Failure, JobId, RequestId, Secret, Time,
    machine::{
        Collected, Input, JobInput, JobOutput, MachineConfig, Output, PollOutcome, ReplyBody,
        RequestBody, RunnerCall, RunnerMachine, StepResult, StopMode, StopReason,
    },
    protocol::{Registration, ServerUrl},
    trace::TraceMark,
    transport::{TransportError, TransportErrorKind},
};
use http::{HeaderValue, Response, StatusCode};
use quickcheck::{Arbitrary, Gen, QuickCheck};
use serde_json::json;

/// One thing that happens. Numbers choose among what there is at that moment.
#[derive(Clone, Debug)]
enum Event {
    Pass(u16),
    Deadline,
    Answer(u8, Answer),
    Fail(u8, bool),
    /// An answer to a request that has one already.
    Late(u8),
    Log(u8, u16),
    /// The handler answers what it owes.
    Handle(u8, Handled),
    /// The handler answers what it does not owe.
    Nonsense(u8, u8),
    /// The handler wants artifacts of a job with this number.
    Download(u8, u8),
    DropDownload(u8),
    /// The reply to a download is in its file.
    Spooled(u8),
    Capacity(u8),
    PollOnce,
    WithdrawPoll,
    /// The operator wants something.
    Call(u8),
    /// A new token is stored, or not.
    Stored(bool),
    Drain,
    DrainWithin(u16),
    Abort,
}

#[derive(Clone, Debug)]
struct Answer {
    status: u16,
    job_status: Option<&'static str>,
    range: Option<u16>,
    retry_after: Option<u16>,
    interval: Option<u16>,
    job: u8,
    broken: bool,
}

#[derive(Clone, Copy, Debug)]
enum Handled {
    Well,
    Failed,
    Panicked,
}

impl Arbitrary for Answer {
    fn arbitrary(g: &mut Gen) -> Self {
        let statuses = [
            200, 200, 200, 201, 201, 201, 202, 202, 204, 302, 400, 403, 404, 409, 412, 413, 416,
            416, 429, 500, 503,
        ];
        let job_statuses = ["running", "canceling", "canceled", "failed", "success"];
        let sometimes = |g: &mut Gen| u8::arbitrary(g) % 8 == 0;
        Self {
            status: *g.choose(&statuses).unwrap(),
            job_status: sometimes(g).then(|| *g.choose(&job_statuses).unwrap()),
            range: bool::arbitrary(g).then(|| u16::arbitrary(g) % 3000),
            retry_after: sometimes(g).then(|| u16::arbitrary(g)),
            interval: sometimes(g).then(|| u16::arbitrary(g)),
            job: u8::arbitrary(g) % 6,
            broken: sometimes(g),
        }
    }
}

impl Arbitrary for Event {
    fn arbitrary(g: &mut Gen) -> Self {
        let which = u8::arbitrary(g);
        match u8::arbitrary(g) % 39 {
            0..=1 => Self::Pass(u16::arbitrary(g)),
            2..=8 => Self::Deadline,
            9..=17 => Self::Answer(which, Answer::arbitrary(g)),
            18 => Self::Fail(which, bool::arbitrary(g)),
            19 => Self::Late(which),
            20..=21 => Self::Log(which, u16::arbitrary(g)),
            22..=26 => Self::Handle(
                which,
                *g.choose(&[
                    Handled::Well,
                    Handled::Well,
                    Handled::Failed,
                    Handled::Panicked,
                ])
                .unwrap(),
            ),
            27 => Self::Nonsense(which, u8::arbitrary(g)),
            28 => Self::Capacity(which % 5),
            29 => Self::PollOnce,
            30 => Self::WithdrawPoll,
            31..=32 => Self::Download(which, u8::arbitrary(g) % 3),
            33 => Self::DropDownload(which),
            34 => Self::Spooled(which),
            35 => Self::Call(which),
            36..=37 => Self::Stored(bool::arbitrary(g)),
            _ if which < 6 => Self::Drain,
            _ if which < 12 => Self::DrainWithin(u16::arbitrary(g) % 1000),
            _ if which < 20 => Self::Abort,
            _ => Self::Deadline,
        }
    }
}

/// What a handler owes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Owed {
    Start,
    Step,
    Collect(ArtifactId),
    CleanUp,
}

/// What is known of a job from outside.
#[derive(Debug, Default)]
struct Job {
    owed: Option<Owed>,
    accepted: bool,
    cleaned: bool,
    mark: TraceMark,
    /// Where the next patch must begin, unless the server rewound it.
    acknowledged: u64,
    rewound: bool,
    patch: Option<std::ops::Range<u64>>,
    /// Those that wait for their end.
    downloads: BTreeSet<DownloadId>,
}

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    /// State and log of a job, or the runner.
    Talk,
    /// Something about the runner but for jobs.
    Account,
    /// Its token.
    Reset,
    Upload,
    Download(DownloadId),
}

struct Model {
    machine: RunnerMachine,
    now: Time,
    /// Whose request it is, and what for.
    in_flight: BTreeMap<RequestId, (Option<JobId>, What)>,
    next_download: u64,
    answered: Vec<RequestId>,
    jobs: BTreeMap<JobId, Job>,
    /// Whose start was told to a `PollOnce`, and must follow.
    announced: Option<JobId>,
    polls: u64,
    polled: u64,
    withdrawn: u64,
    calls: u64,
    called: u64,
    /// A new token waits to be stored, until this at the most.
    storing: Option<Time>,
    stopping: bool,
    stopped: u32,
    transcript: String,
}

impl Model {
    fn new() -> Self {
        let server = ServerUrl::parse("https://h").unwrap();
        let mut config = MachineConfig::new(server, Secret::from("glrt-x"), "s_1");
        config.rotate = true;
        Self {
            machine: RunnerMachine::new(config, 5),
            now: Time::ZERO,
            in_flight: BTreeMap::new(),
            next_download: 0,
            answered: Vec::new(),
            jobs: BTreeMap::new(),
            announced: None,
            polls: 0,
            polled: 0,
            withdrawn: 0,
            calls: 0,
            called: 0,
            storing: None,
            stopping: false,
            stopped: 0,
            transcript: String::new(),
        }
    }

    fn input(&mut self, input: Input) {
        let timeout = matches!(input, Input::Timeout);
        // Whatever the input is: the machine waits no longer.
        self.storing.take_if(|until| *until <= self.now);
        self.machine.handle_input(self.now, input);
        let deadline = self.machine.poll_timeout();
        if timeout {
            assert!(
                deadline.is_none_or(|(at, _)| at > self.now),
                "invariant 8: {deadline:?}"
            );
        }
        while let Some(output) = self.machine.poll_output() {
            self.transcript += &format!("{} {output:?}\n", self.now);
            self.output(output);
        }
        assert_eq!(self.announced, None, "told of a start that did not come");
        for what in [What::Talk, What::Account, What::Reset] {
            let all = self.in_flight.values();
            let same = all.filter(|it| **it == (None, what)).count();
            assert!(same <= 1, "invariant 2: {same} requests: {what:?}");
        }
        assert_eq!(
            self.machine.stats().requests_in_flight,
            self.in_flight.len()
        );
    }

    fn output(&mut self, output: Output) {
        match output {
            Output::Send {
                request,
                http,
                reply,
                ..
            } => self.sent(request, &http, reply),
            Output::Forget(request) => {
                assert!(self.in_flight.remove(&request).is_some());
                self.answered.push(request);
            }
            Output::Job { job, output } => self.told(job, &output),
            Output::Polled(outcome) => {
                self.polled += 1;
                if let PollOutcome::Started(job) = outcome {
                    self.announced = Some(job);
                }
            }
            Output::Called(_) => self.called += 1,
            Output::PersistToken(_) => {
                assert_eq!(self.storing, None);
                self.storing = Some(self.now + Duration::from_secs(60));
            }
            // A runner whose token was refused can be started again.
            Output::Stopped(StopReason::TokenRefused(_)) => {}
            Output::Stopped(_) => self.stopped += 1,
            Output::Notice(_) => {}
            other => panic!("unknown {other:?}"),
        }
    }

    fn sent(&mut self, request: RequestId, http: &http::Request<RequestBody>, reply: ReplyBody) {
        let path = http.uri().path();
        let mut job = path
            .strip_prefix("/api/v4/jobs/")
            .and_then(|rest| rest.split('/').next()?.parse().ok())
            .map(JobId);
        let what = match (http.body(), reply) {
            (RequestBody::Artifact { .. }, _) => What::Upload,
            (_, ReplyBody::Spool { download, .. }) => {
                let mut jobs = self.jobs.iter();
                let of = jobs.find(|(_, known)| known.downloads.contains(&download));
                job = Some(*of.expect("a download that nobody waits for").0);
                What::Download(download)
            }
            _ if path.ends_with("reset_authentication_token") => What::Reset,
            _ if path.starts_with("/api/v4/runners") => What::Account,
            _ => What::Talk,
        };
        if job.is_none() {
            let mut all = self.in_flight.values();
            assert!(
                self.storing.is_none() && !all.any(|it| it.1 == What::Reset),
                "invariant 11: {path}"
            );
        }
        if let Some(id) = job {
            let mut others = self.in_flight.values();
            assert!(
                !others.any(|other| *other == (job, what)),
                "invariant 2: two requests for {id}: {what:?}"
            );
            if what == What::Upload {
                let known = &self.jobs[&id];
                assert!(known.accepted && known.owed.is_none() && !known.cleaned);
            }
            if let RequestBody::Trace { job: of, range } = http.body() {
                let known = self.jobs.get_mut(&id).expect("invariant 7: no such job");
                assert_eq!(*of, id);
                assert!(range.end <= known.mark.len, "invariant 4: {range:?}");
                assert!(range.start < range.end, "an empty patch");
                if !known.rewound {
                    assert_eq!(range.start, known.acknowledged, "invariant 3");
                }
                known.patch = Some(range.clone());
            }
        }
        let new = self.in_flight.insert(request, (job, what)).is_none();
        assert!(
            new && !self.answered.contains(&request),
            "a request number was used again"
        );
    }

    fn told(&mut self, id: JobId, output: &JobOutput) {
        if let JobOutput::Start(_) = output {
            self.announced.take_if(|job| *job == id);
            let job = Job {
                owed: Some(Owed::Start),
                ..Job::default()
            };
            assert!(
                self.jobs.insert(id, job).is_none(),
                "invariant 5: started twice"
            );
            return;
        }
        let job = self.jobs.get_mut(&id).expect("invariant 5: not started");
        match output {
            JobOutput::Step { .. } => {
                assert!(
                    job.accepted && job.owed.is_none() && !job.cleaned,
                    "invariant 5"
                );
                job.owed = Some(Owed::Step);
            }
            JobOutput::Collect(artifact) => {
                assert!(
                    job.accepted && job.owed.is_none() && !job.cleaned,
                    "invariant 5"
                );
                assert_eq!(artifact.job, id);
                job.owed = Some(Owed::Collect(*artifact));
            }
            JobOutput::Downloaded(download, _) => {
                assert!(job.downloads.remove(download), "an end that nobody awaits");
            }
            JobOutput::CleanUp => {
                assert!(
                    job.accepted && job.owed.is_none() && !job.cleaned,
                    "invariant 5"
                );
                job.owed = Some(Owed::CleanUp);
                job.cleaned = true;
            }
            JobOutput::Done => {
                assert!(
                    job.owed.is_none() && job.cleaned == job.accepted,
                    "invariant 5"
                );
                assert!(job.downloads.is_empty(), "a download without an end");
                self.jobs.remove(&id);
                assert!(
                    !self.in_flight.values().any(|(job, _)| *job == Some(id)),
                    "invariant 7"
                );
            }
            JobOutput::Cancel(_) => assert!(job.owed.is_some(), "nothing to cancel"),
            _ => {}
        }
    }

    fn request(&self, which: u8) -> Option<(RequestId, (Option<JobId>, What))> {
        let count = self.in_flight.len();
        let at = usize::from(which) % count.max(1);
        self.in_flight.iter().nth(at).map(|(id, job)| (*id, *job))
    }

    fn job(&self, which: u8) -> Option<JobId> {
        let at = usize::from(which) % self.jobs.len().max(1);
        self.jobs.keys().nth(at).copied()
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Pass(millis) => self.now = self.now + Duration::from_millis((*millis).into()),
            Event::Deadline => {
                if let Some((at, _)) = self.machine.poll_timeout() {
                    self.now = self.now.max(at);
                }
                self.input(Input::Timeout);
            }
            Event::Answer(which, answer) => {
                if let Some((request, of)) = self.request(*which) {
                    self.answer(request, of, answer);
                }
            }
            Event::Fail(which, maybe) => {
                if let Some((request, (job, what))) = self.request(*which) {
                    self.taken(request, job, what);
                    let error = TransportError::new(TransportErrorKind::Broken, *maybe, "broken");
                    self.input(Input::Failed { request, error });
                }
            }
            Event::Late(which) => {
                if let Some(request) = self.answered.get(usize::from(*which)).copied() {
                    let response = Response::new(Bytes::new());
                    self.input(Input::Reply { request, response });
                }
            }
            Event::Log(which, len) => {
                if let Some(job) = self.job(*which) {
                    let known = self.jobs.get_mut(&job).unwrap();
                    if !known.cleaned || known.owed.is_some() {
                        known.mark.len += u64::from(*len);
                        let input = JobInput::Traced(known.mark);
                        self.input(Input::Job { job, input });
                    }
                }
            }
            Event::Handle(which, how) => {
                if let Some(job) = self.job(*which) {
                    self.handle(job, *how);
                }
            }
            Event::Nonsense(which, kind) => self.nonsense(*which, *kind),
            Event::Download(which, dependency) => {
                let Some(job) = self.job(*which) else {
                    return;
                };
                let download = DownloadId(self.next_download);
                self.next_download += 1;
                self.jobs.get_mut(&job).unwrap().downloads.insert(download);
                let dependency = JobId((*dependency).into());
                let input = JobInput::Download {
                    download,
                    dependency,
                };
                self.input(Input::Job { job, input });
            }
            Event::DropDownload(which) => {
                let Some(job) = self.job(*which) else {
                    return;
                };
                if let Some(download) = self.jobs.get_mut(&job).unwrap().downloads.pop_first() {
                    let input = JobInput::DropDownload(download);
                    self.input(Input::Job { job, input });
                }
            }
            Event::Spooled(which) => {
                if let Some((request, (job, what @ What::Download(_)))) = self.request(*which) {
                    self.taken(request, job, what);
                    self.input(Input::Spooled { request, len: 1 });
                }
            }
            Event::Capacity(capacity) => self.input(Input::SetCapacity((*capacity).into())),
            Event::PollOnce => {
                self.polls += 1;
                self.input(Input::PollOnce);
            }
            Event::WithdrawPoll => {
                self.withdrawn += u64::from(self.machine.stats().polls_waiting > 0);
                self.input(Input::WithdrawPoll);
            }
            Event::Call(which) => {
                self.calls += 1;
                let registration = Registration::new("GR1348941x");
                self.input(Input::Call(match which % 5 {
                    0 => RunnerCall::Verify,
                    1 => RunnerCall::Register(Box::new(registration)),
                    2 => RunnerCall::Unregister,
                    3 => RunnerCall::UnregisterManager,
                    _ => RunnerCall::ResetToken,
                }));
            }
            Event::Stored(well) => {
                let before = self.machine.stats();
                // Late, if the machine has given up waiting.
                self.storing = None;
                let result = well.then_some(()).ok_or("no space".to_owned());
                self.input(Input::TokenPersisted(result));
                let after = self.machine.stats();
                assert!(after.ignored_inputs <= before.ignored_inputs + 1);
            }
            Event::Drain => self.stop(StopMode::Drain),
            Event::DrainWithin(seconds) => {
                let limit = Duration::from_secs((*seconds).into());
                self.stop(StopMode::DrainWithin(limit));
            }
            Event::Abort => self.stop(StopMode::Abort),
        }
    }

    fn stop(&mut self, mode: StopMode) {
        self.stopping = true;
        self.input(Input::Stop(mode));
    }

    fn taken(
        &mut self,
        request: RequestId,
        job: Option<JobId>,
        what: What,
    ) -> Option<std::ops::Range<u64>> {
        self.in_flight.remove(&request);
        self.answered.push(request);
        let known = self.jobs.get_mut(&job?)?;
        known.patch.take_if(|_| what == What::Talk)
    }

    fn answer(&mut self, request: RequestId, of: (Option<JobId>, What), answer: &Answer) {
        let (job, what) = of;
        let patch = self.taken(request, job, what);
        if let (Some(patch), Some(known)) = (patch, job.and_then(|job| self.jobs.get_mut(&job))) {
            match answer.status {
                200 | 202 => (known.acknowledged, known.rewound) = (patch.end, false),
                412 | 416 => known.rewound = true,
                _ => {}
            }
        } else if answer.status == 412
            && what == What::Talk
            && let Some(known) = job.and_then(|job| self.jobs.get_mut(&job))
        {
            known.rewound = true;
        }
        let body = match (job, answer.status) {
            (None, 201) if answer.broken => "{\"id\": 3, \"tok".to_owned(),
            (None, 201) => json!({
                "id": answer.job,
                "token": "glcbt-x",
                "runner_info": { "timeout": 100 },
                "steps": [
                    { "name": "script", "script": ["x"], "when": "on_success" },
                    { "name": "after_script", "script": ["y"], "when": "always" },
                ],
                "artifacts": [{ "paths": ["a"], "when": "always" }, { "paths": ["b"] }],
                "dependencies": [
                    { "id": 1, "token": "t", "artifacts_file": { "filename": "a.zip" } },
                    { "id": 2 },
                ],
            })
            .to_string(),
            (None, 200) if what == What::Account => {
                let day = answer.job + 1;
                json!({ "id": 1, "token_expires_at": format!("1970-01-{day:02}T00:00:00Z") })
                    .to_string()
            }
            _ => String::new(),
        };
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = StatusCode::from_u16(answer.status).unwrap();
        let headers = response.headers_mut();
        if let Some(status) = answer.job_status {
            headers.insert("job-status", HeaderValue::from_static(status));
        }
        let range = answer.range.map(|end| format!("0-{end}"));
        let numbers = [
            ("range", range),
            (
                "retry-after",
                answer.retry_after.map(|number| number.to_string()),
            ),
            (
                "x-gitlab-trace-update-interval",
                answer.interval.map(|number| number.to_string()),
            ),
        ];
        for (name, value) in numbers {
            if let Some(value) = value {
                headers.insert(name, HeaderValue::from_str(&value).unwrap());
            }
        }
        self.input(Input::Reply { request, response });
    }

    fn handle(&mut self, job: JobId, how: Handled) {
        let known = self.jobs.get_mut(&job).unwrap();
        let Some(owed) = known.owed.take() else {
            return;
        };
        let trace = known.mark;
        let input = match (owed, how) {
            (Owed::Start, Handled::Well) => {
                known.accepted = true;
                JobInput::Accepted
            }
            (Owed::Start, _) => JobInput::Declined {
                failure: Failure::exit_code(1),
                trace,
            },
            (Owed::Step, how) => JobInput::StepFinished {
                result: match how {
                    Handled::Well => StepResult::Ok,
                    Handled::Failed => StepResult::Failed(Failure::exit_code(2)),
                    Handled::Panicked => StepResult::Panicked,
                },
                trace,
            },
            (Owed::Collect(artifact), how) => JobInput::Collected {
                artifact,
                outcome: match how {
                    Handled::Well => Collected::Packed {
                        len: 5,
                        file_name: "a.zip".to_owned(),
                        files: 2,
                    },
                    Handled::Failed => Collected::Nothing,
                    Handled::Panicked => Collected::Panicked,
                },
            },
            (Owed::CleanUp, _) => JobInput::CleanedUp { trace },
        };
        self.input(Input::Job { job, input });
    }

    /// Answers that are not owed: they must be ignored.
    fn nonsense(&mut self, which: u8, kind: u8) {
        let job = match self.job(which) {
            Some(job) if kind % 4 != 3 => job,
            _ => JobId(999),
        };
        let owed = self.jobs.get(&job).and_then(|known| known.owed);
        let trace = TraceMark::default();
        let input = match kind % 5 {
            0 if owed != Some(Owed::Start) => JobInput::Accepted,
            1 if owed != Some(Owed::Step) => JobInput::StepFinished {
                result: StepResult::Ok,
                trace,
            },
            2 if owed != Some(Owed::CleanUp) => JobInput::CleanedUp { trace },
            3 => JobInput::Collected {
                // There is no such one.
                artifact: ArtifactId { job, index: 7 },
                outcome: Collected::Nothing,
            },
            4 => JobInput::DropDownload(DownloadId(u64::MAX)),
            _ => return,
        };
        let before = self.machine.stats();
        self.input(Input::Job { job, input });
        let after = self.machine.stats();
        assert_eq!(after.ignored_inputs, before.ignored_inputs + 1);
    }

    /// Brings everything to its end: the server answers well, and all handlers do what they owe.
    fn wind_down(&mut self) {
        self.stop(StopMode::Drain);
        for _ in 0..10_000 {
            if self.stopped > 0 {
                break;
            }
            let jobs: Vec<JobId> = self.jobs.keys().copied().collect();
            for job in jobs {
                if self
                    .jobs
                    .get(&job)
                    .is_some_and(|known| known.owed.is_some())
                {
                    self.handle(job, Handled::Well);
                }
            }
            if self.storing.is_some() {
                self.apply(&Event::Stored(true));
            }
            while let Some((request, of)) = self.request(0) {
                if let (job, what @ What::Download(_)) = of {
                    self.taken(request, job, what);
                    self.input(Input::Spooled { request, len: 1 });
                    continue;
                }
                let answer = Answer {
                    status: if of.0.is_some() { 200 } else { 204 },
                    job_status: None,
                    range: None,
                    retry_after: None,
                    interval: None,
                    job: 0,
                    broken: false,
                };
                self.answer(request, of, &answer);
            }
            self.apply(&Event::Deadline);
        }
        assert_eq!(self.stopped, 1, "invariant 1: {:?}", self.machine);
        assert!(self.jobs.is_empty() && self.in_flight.is_empty());
        assert_eq!(
            self.polled + self.withdrawn,
            self.polls,
            "each poll has one answer"
        );
        assert_eq!(self.called, self.calls, "each call has one answer");
    }
}

fn play(events: &[Event]) -> String {
    let mut model = Model::new();
    model.input(Input::SetCapacity(2));
    for event in events {
        model.apply(event);
    }
    model.wind_down();
    model.transcript
}

#[test]
fn the_invariants_hold_and_the_same_inputs_give_the_same_outputs() {
    fn law(events: Vec<Event>) -> bool {
        play(&events) == play(&events)
    }
    QuickCheck::new()
        .rng(Gen::new(300))
        .tests(400)
        .quickcheck(law as fn(Vec<Event>) -> bool);
}
