//! A machine, the time, and everything that came out and was not looked at yet.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use gitlab_runner::{
    JobId, RequestId, Secret, Time,
    machine::{
        Input, JobInput, JobOutput, MachineConfig, Notice, Output, PollOutcome, ReplyBody,
        RequestBody, RunnerMachine, StepResult, StopReason,
    },
    protocol::ServerUrl,
    trace::TraceMark,
    transport::{TransportError, TransportErrorKind},
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, header::HeaderName};
use serde_json::{Value, json};

pub(crate) const TOKEN: &str = "glrt-by-hand";
pub(crate) const JOB_TOKEN: &str = "glcbt-of-the-job";
pub(crate) const ID: u64 = 7;
pub(crate) const JOB: JobId = JobId(ID);

/// Log lengths stand for logs: the machine never sees a byte of them.
pub(crate) fn mark(len: u64) -> TraceMark {
    let crc32 = u32::try_from(len * 3).unwrap();
    TraceMark { len, crc32 }
}

/// A request that waits for its answer.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) id: RequestId,
    pub(crate) method: Method,
    /// Below `/api/v4/`, with the query.
    pub(crate) path: String,
    pub(crate) uri: Uri,
    pub(crate) reply: ReplyBody,
    pub(crate) headers: HeaderMap,
    pub(crate) body: RequestBody,
    pub(crate) at: Time,
}

impl Sent {
    pub(crate) fn json(&self) -> Value {
        match &self.body {
            RequestBody::Bytes(bytes) => serde_json::from_slice(bytes).unwrap(),
            other => panic!("{other:?} is no JSON"),
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The part of the log that it carries.
    pub(crate) fn range(&self) -> std::ops::Range<u64> {
        match &self.body {
            RequestBody::Trace { job: JOB, range } => range.clone(),
            other => panic!("{other:?} is no part of the job's log"),
        }
    }

    pub(crate) fn state(&self) -> String {
        self.json()["state"].as_str().unwrap().to_owned()
    }
}

/// What a server answers.
#[derive(Clone, Debug)]
pub(crate) struct Reply(Response<Bytes>);

pub(crate) fn reply(status: u16) -> Reply {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    Reply(response)
}

/// The page of a proxy in front of GitLab.
pub(crate) fn html(status: u16) -> Reply {
    reply(status).body("<html><head><title>Bad Gateway</title></head><body>oh no</body></html>")
}

impl Reply {
    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        self.0
            .headers_mut()
            .insert(name, HeaderValue::from_str(value).unwrap());
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Bytes>) -> Self {
        *self.0.body_mut() = body.into();
        self
    }

    pub(crate) fn json(self, body: &Value) -> Self {
        self.body(body.to_string())
    }

    pub(crate) fn job_status(self, status: &str) -> Self {
        self.header("Job-Status", status)
    }
}

/// A job as GitLab hands it out.
pub(crate) fn payload() -> Value {
    json!({
        "id": ID,
        "token": JOB_TOKEN,
        "job_info": { "name": "a job", "stage": "test" },
        "runner_info": { "timeout": 3600 },
        "variables": [],
        "steps": [{
            "name": "script", "script": ["make"], "timeout": 3600, "when": "on_success",
            "allow_failure": false,
        }],
        "artifacts": null,
        "dependencies": [],
        "features": { "failure_reasons": ["script_failure", "runner_interrupted"] },
    })
}

/// The same with an after_script.
pub(crate) fn payload_with_after_script() -> Value {
    let mut payload = payload();
    payload["steps"].as_array_mut().unwrap().push(json!({
        "name": "after_script", "script": ["make clean"], "timeout": 3600, "when": "always",
        "allow_failure": true,
    }));
    payload
}

pub(crate) struct World {
    pub(crate) machine: RunnerMachine,
    pub(crate) now: Time,
    sent: VecDeque<Sent>,
    /// Requests of which the machine knows that they are on their way.
    in_flight: BTreeSet<RequestId>,
    jobs: VecDeque<(JobId, JobOutput)>,
    pub(crate) notices: Vec<Notice>,
    pub(crate) polled: VecDeque<PollOutcome>,
    pub(crate) called: VecDeque<gitlab_runner::machine::CallOutcome>,
    /// New tokens that wait to be stored.
    pub(crate) tokens: VecDeque<gitlab_runner::machine::NewToken>,
    pub(crate) stopped: Option<StopReason>,
    pub(crate) forgotten: Vec<RequestId>,
}

impl World {
    /// A machine that does not verify its token.
    pub(crate) fn new() -> Self {
        Self::with(|_| ())
    }

    pub(crate) fn with(tune: impl FnOnce(&mut MachineConfig)) -> Self {
        let server = ServerUrl::parse("https://gitlab.example.com/sub/").unwrap();
        let mut config = MachineConfig::new(server, Secret::from(TOKEN), "s_0123456789ab");
        config.verify = false;
        tune(&mut config);
        Self {
            machine: RunnerMachine::new(config, 1),
            now: Time::from_secs(100),
            sent: VecDeque::new(),
            in_flight: BTreeSet::new(),
            jobs: VecDeque::new(),
            notices: Vec::new(),
            polled: VecDeque::new(),
            called: VecDeque::new(),
            tokens: VecDeque::new(),
            stopped: None,
            forgotten: Vec::new(),
        }
    }

    /// A world in which the job's commit has just been sent.
    pub(crate) fn committing(payload: &Value) -> (Self, Sent) {
        let mut world = Self::new();
        world.input(Input::SetCapacity(1));
        let poll = world.request();
        world.reply(&poll, reply(201).json(payload));
        let commit = world.request();
        (world, commit)
    }

    /// A world in which the handler is about to be made.
    pub(crate) fn starting(payload: &Value) -> Self {
        let (mut world, commit) = Self::committing(payload);
        world.reply(&commit, reply(200));
        assert!(matches!(world.job_output(), JobOutput::Start(_)));
        world
    }

    /// A world in which the job's script runs.
    pub(crate) fn running(payload: &Value) -> Self {
        let mut world = Self::starting(payload);
        world.job_input(JobInput::Accepted);
        assert!(matches!(world.job_output(), JobOutput::Step { .. }));
        world
    }

    /// A world in which the final update of a job with a log of 10 bytes was just sent.
    pub(crate) fn finishing(result: StepResult) -> (Self, Sent) {
        let mut world = Self::running(&payload());
        world.finish_step(result, 10);
        world.clean_up(10);
        let patch = world.request();
        assert_eq!(patch.range(), 0..10);
        world.reply(&patch, reply(202).header("Range", "0-10"));
        let update = world.request();
        (world, update)
    }

    pub(crate) fn input(&mut self, input: Input) {
        let ignored = self.ignored();
        let answered = match &input {
            Input::Reply { request, .. }
            | Input::Failed { request, .. }
            | Input::Spooled { request, .. } => Some(*request),
            _ => None,
        };
        self.machine.handle_input(self.now, input);
        if let Some(request) = answered
            && self.ignored() == ignored
        {
            self.in_flight.remove(&request);
        }
        self.drain();
        let known = self.machine.stats().requests_in_flight;
        assert_eq!(known, self.in_flight.len(), "requests in flight");
    }

    fn drain(&mut self) {
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Send {
                    request,
                    http,
                    reply,
                    ..
                } => {
                    self.in_flight.insert(request);
                    let (parts, body) = http.into_parts();
                    let path = parts.uri.path_and_query().unwrap().as_str();
                    self.sent.push_back(Sent {
                        id: request,
                        method: parts.method,
                        path: path.strip_prefix("/sub/api/v4/").unwrap_or(path).to_owned(),
                        uri: parts.uri,
                        reply,
                        headers: parts.headers,
                        body,
                        at: self.now,
                    });
                }
                Output::Job { job, output } => self.jobs.push_back((job, output)),
                Output::Notice(notice) => self.notices.push(notice),
                Output::Polled(outcome) => self.polled.push_back(outcome),
                Output::Called(outcome) => self.called.push_back(outcome),
                Output::PersistToken(token) => self.tokens.push_back(token),
                Output::Stopped(reason) => self.stopped = Some(reason),
                Output::Forget(request) => {
                    self.in_flight.remove(&request);
                    self.sent.retain(|sent| sent.id != request);
                    self.forgotten.push(request);
                }
                other => panic!("unknown {other:?}"),
            }
        }
    }

    /// The one request that was sent and not looked at.
    pub(crate) fn request(&mut self) -> Sent {
        let sent = self.sent.pop_front().expect("no request was sent");
        self.no_request();
        sent
    }

    /// A request that was sent and not looked at, if there is one.
    pub(crate) fn pending(&mut self) -> Option<Sent> {
        self.sent.pop_front()
    }

    pub(crate) fn no_request(&self) {
        assert!(self.sent.is_empty(), "{:?}", self.sent);
    }

    pub(crate) fn no_request_for_the_job(&self) {
        let other = |sent: &Sent| sent.path == "jobs/request";
        assert!(self.sent.iter().all(other), "{:?}", self.sent);
    }

    /// Goes to the next deadline, again and again, until a request is sent; at once if one was.
    pub(crate) fn next_request(&mut self) -> Sent {
        for _ in 0..1000 {
            if !self.sent.is_empty() {
                return self.request();
            }
            self.next_deadline();
        }
        panic!("no request in a thousand deadlines");
    }

    /// Goes on until the handler is told something; keep-alives are answered with `answer`.
    pub(crate) fn until_job_output(&mut self, answer: &Reply) -> JobOutput {
        for _ in 0..1000 {
            if !self.jobs.is_empty() {
                return self.job_output();
            }
            self.next_deadline();
            while let Some(sent) = self.sent.pop_front() {
                self.reply(&sent, answer.clone());
            }
        }
        panic!("the handler was told nothing in a thousand deadlines");
    }

    /// Goes on until a request of this kind is sent; what else is sent is answered well.
    fn next_where(&mut self, wanted: impl Fn(&Sent) -> bool) -> Option<Sent> {
        for _ in 0..1000 {
            while let Some(sent) = self.sent.pop_front() {
                if wanted(&sent) {
                    return Some(sent);
                }
                let status = if sent.method == "PATCH" { 202 } else { 200 };
                self.reply(&sent, reply(status));
            }
            if !self.jobs.is_empty() {
                return None;
            }
            self.next_deadline();
        }
        panic!("no such request in a thousand deadlines");
    }

    /// The next request, whatever it is; others may wait behind it.
    pub(crate) fn next_any(&mut self) -> Sent {
        self.next_where(|_| true).unwrap()
    }

    pub(crate) fn next_patch(&mut self) -> Sent {
        self.next_where(|sent| sent.method == "PATCH").unwrap()
    }

    pub(crate) fn next_upload(&mut self) -> Sent {
        self.next_where(|sent| sent.method == "POST").unwrap()
    }

    /// None if the handler was told something before there was another one.
    pub(crate) fn next_download(&mut self) -> Option<Sent> {
        self.next_where(|sent| sent.method == "GET")
    }

    /// The next word on the final state of the job.
    pub(crate) fn next_update(&mut self) -> Sent {
        let is_final = |sent: &Sent| sent.method == "PUT" && sent.state() != "running";
        self.next_where(is_final).unwrap()
    }

    /// How long until the next request is sent, and that.
    pub(crate) fn next_request_after(&mut self) -> (Duration, Sent) {
        let from = self.now;
        let sent = self.next_request();
        (sent.at.since(from), sent)
    }

    pub(crate) fn reply(&mut self, to: &Sent, reply: Reply) {
        let request = to.id;
        let response = reply.0;
        self.input(Input::Reply { request, response });
    }

    /// No answer, and perhaps the request has arrived.
    pub(crate) fn lose(&mut self, sent: &Sent) {
        self.fail(sent, true);
    }

    pub(crate) fn fail(&mut self, sent: &Sent, maybe_delivered: bool) {
        let kind = if maybe_delivered {
            TransportErrorKind::Broken
        } else {
            TransportErrorKind::Connect
        };
        let error = TransportError::new(kind, maybe_delivered, "a bad line");
        let request = sent.id;
        self.input(Input::Failed { request, error });
    }

    /// Jumps to the next deadline and tells it.
    pub(crate) fn next_deadline(&mut self) -> gitlab_runner::machine::Reason {
        let (at, reason) = self.machine.poll_timeout().expect("there is no deadline");
        self.now = self.now.max(at);
        self.input(Input::Timeout);
        let after = self.machine.poll_timeout();
        assert!(after.is_none_or(|(at, _)| at > self.now), "{after:?}");
        reason
    }

    /// Lets time pass, stopping at each deadline. Nothing may be sent.
    pub(crate) fn pass(&mut self, duration: Duration) {
        self.run_until(self.now + duration);
        self.no_request();
    }

    pub(crate) fn run_until(&mut self, end: Time) {
        while let Some((at, _)) = self.machine.poll_timeout().filter(|(at, _)| *at <= end) {
            self.now = self.now.max(at);
            self.input(Input::Timeout);
        }
        self.now = self.now.max(end);
    }

    pub(crate) fn job_input(&mut self, input: JobInput) {
        self.input(Input::Job { job: JOB, input });
    }

    pub(crate) fn log_to(&mut self, len: u64) {
        self.job_input(JobInput::Traced(mark(len)));
    }

    pub(crate) fn finish_step(&mut self, result: StepResult, len: u64) {
        let trace = mark(len);
        self.job_input(JobInput::StepFinished { result, trace });
    }

    /// Expects the order to clean up, and obeys.
    pub(crate) fn clean_up(&mut self, len: u64) {
        let output = self.job_output();
        assert!(matches!(output, JobOutput::CleanUp), "{output:?}");
        self.job_input(JobInput::CleanedUp { trace: mark(len) });
    }

    /// The next thing that the handler is told.
    pub(crate) fn job_output(&mut self) -> JobOutput {
        let (job, output) = self.jobs.pop_front().expect("the handler was told nothing");
        assert_eq!(job, JOB);
        output
    }

    pub(crate) fn no_job_output(&self) {
        assert!(self.jobs.is_empty(), "{:?}", self.jobs);
    }

    /// The name of the step that the handler shall run.
    pub(crate) fn step(&mut self) -> String {
        match self.job_output() {
            JobOutput::Step { name, .. } => name.to_string(),
            other => panic!("{other:?} is no step"),
        }
    }

    /// The job is over for the machine: its handler was told so, and nothing more comes of it.
    pub(crate) fn is_over(&mut self) {
        let output = self.job_output();
        assert!(matches!(output, JobOutput::Done), "{output:?}");
        self.no_job_output();
        assert_eq!(self.machine.stats().jobs, 0);
    }

    pub(crate) fn notice(&self, text: &str) -> bool {
        self.notices
            .iter()
            .any(|notice| notice.to_string().contains(text))
    }

    pub(crate) fn ignored(&self) -> u64 {
        self.machine.stats().ignored_inputs
    }
}
