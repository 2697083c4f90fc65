//! What is known of a machine from outside, and what must be true of its outputs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    ops::Range,
    time::Duration,
};

use crate::{
    Secret, Time,
    ids::{ArtifactId, DownloadId, JobId, RequestId},
    machine::{
        Input, JobOutput, MachineConfig, Output, PollOutcome, ReplyBody, RequestBody,
        RunnerMachine, StopReason,
        transcript::{Entry, Transcript},
    },
    protocol::ServerUrl,
    trace::TraceMark,
};

/// In every token, and in nothing else.
pub(crate) const HIDDEN: &str = "hidden-from-all";
const SEED: u64 = 5;
/// No input leads to more outputs.
const MAX_OUTPUTS: usize = 1000;
/// Nor is one thing asked for more often in the same moment, as long as nobody wants it and no log
/// arrives.
const MAX_AT_ONCE: u32 = 40;

/// What a handler owes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Owed {
    Start,
    Step,
    Collect(ArtifactId),
    CleanUp,
}

/// What is known of a job from outside.
#[derive(Debug, Default)]
pub(super) struct Job {
    pub(super) owed: Option<Owed>,
    pub(super) accepted: bool,
    pub(super) cleaned: bool,
    pub(super) mark: TraceMark,
    /// Where the next patch must begin, unless the server rewound it.
    pub(super) acknowledged: u64,
    pub(super) rewound: bool,
    pub(super) patch: Option<Range<u64>>,
    /// Those that wait for their end.
    pub(super) downloads: BTreeSet<DownloadId>,
}

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    /// State and log of a job, or the runner.
    Talk,
    /// Something about the runner but for jobs.
    Account,
    /// Its token.
    Reset,
    Upload,
    Download(DownloadId),
}

/// Whose request it is, and what for.
pub(super) type Purpose = (Option<JobId>, What);

pub(super) struct Model {
    pub(super) machine: RunnerMachine,
    pub(super) now: Time,
    /// The last that the machine was told of it.
    heard: Time,
    pub(super) in_flight: BTreeMap<RequestId, Purpose>,
    pub(super) next_download: u64,
    pub(super) answered: Vec<RequestId>,
    pub(super) jobs: BTreeMap<JobId, Job>,
    /// Whose start was told to a `PollOnce`, and must follow.
    announced: Option<JobId>,
    pub(super) capacity: usize,
    pub(super) polls: u64,
    pub(super) polled: u64,
    pub(super) withdrawn: u64,
    pub(super) calls: u64,
    pub(super) called: u64,
    /// A new token waits to be stored, until this at the most.
    pub(super) storing: Option<Time>,
    /// The last that was to be stored.
    pub(super) new_token: Secret,
    pub(super) stopping: bool,
    pub(super) stopped: u32,
    /// How often what was asked for since there was a reason to.
    pub(super) asked: BTreeMap<Purpose, u32>,
    pub(super) inputs: Transcript,
    /// The outputs, one in a line.
    words: String,
}

impl Model {
    pub(super) fn new() -> Self {
        let server = ServerUrl::parse("https://h").unwrap();
        let token = Secret::from(format!("glrt-{HIDDEN}"));
        let mut config = MachineConfig::new(server, token, "s_1");
        config.rotate = true;
        Self {
            machine: RunnerMachine::new(config.clone(), SEED),
            now: Time::ZERO,
            heard: Time::ZERO,
            in_flight: BTreeMap::new(),
            next_download: 0,
            answered: Vec::new(),
            jobs: BTreeMap::new(),
            announced: None,
            capacity: 0,
            polls: 0,
            polled: 0,
            withdrawn: 0,
            calls: 0,
            called: 0,
            storing: None,
            new_token: Secret::default(),
            stopping: false,
            stopped: 0,
            asked: BTreeMap::new(),
            inputs: Transcript::new(config, SEED),
            words: String::new(),
        }
    }

    pub(super) fn input(&mut self, input: Input) {
        self.input_at(self.now, input);
    }

    /// The time may be behind that of the model: for the machine it does not go back.
    pub(super) fn input_at(&mut self, told: Time, input: Input) {
        let timeout = matches!(input, Input::Timeout);
        if let Input::SetCapacity(capacity) = input
            && !self.stopping
        {
            self.capacity = capacity;
        }
        self.heard = self.heard.max(told);
        // Whatever the input is: the machine waits no longer.
        self.storing.take_if(|until| *until <= self.heard);
        self.inputs.push(Entry::Input {
            at: told,
            input: input.clone(),
        });
        self.machine.handle_input(told, input);
        let deadline = self.machine.poll_timeout();
        if timeout {
            assert!(
                deadline.is_none_or(|(at, _)| at > self.heard),
                "invariant 8: {deadline:?}"
            );
        }
        let before = self.words.len();
        let mut outputs = 0;
        while let Some(output) = self.machine.poll_output() {
            outputs += 1;
            assert!(outputs <= MAX_OUTPUTS, "outputs without an end");
            let _ = writeln!(self.words, "{} {output:?}", self.heard);
            self.output(output);
        }
        assert!(
            !self.words[before..].contains(HIDDEN),
            "invariant 10: {}",
            &self.words[before..]
        );
        assert_eq!(self.announced, None, "told of a start that did not come");
        for what in [What::Talk, What::Account, What::Reset] {
            let all = self.in_flight.values();
            let same = all.filter(|it| **it == (None, what)).count();
            assert!(same <= 1, "invariant 2: {same} requests: {what:?}");
        }
        let stats = self.machine.stats();
        assert_eq!(stats.requests_in_flight, self.in_flight.len());
    }

    pub(super) fn into_words(self) -> String {
        let shown = format!("{:?}", self.machine);
        assert!(!shown.contains(HIDDEN), "invariant 10: {shown}");
        self.words
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
                self.asked.clear();
                if let PollOutcome::Started(job) = outcome {
                    self.announced = Some(job);
                }
            }
            Output::Called(_) => {
                self.called += 1;
                // The next one may wait already.
                self.asked.clear();
            }
            Output::PersistToken(new) => {
                assert_eq!(self.storing, None);
                self.new_token = new.token;
                self.storing = Some(self.heard + Duration::from_secs(60));
            }
            // A runner whose token was refused can be started again.
            Output::Stopped(StopReason::TokenRefused(_)) => {}
            Output::Stopped(_) => self.stopped += 1,
            Output::Notice(_) => {}
        }
    }

    fn sent(&mut self, request: RequestId, http: &http::Request<RequestBody>, reply: ReplyBody) {
        let path = http.uri().path();
        let mut job = path
            .strip_prefix("/api/v4/jobs/")
            .and_then(|rest| rest.split('/').next()?.parse().ok())
            .map(JobId);
        let what = match (http.body(), reply) {
            // The place that a redirect names does not tell.
            (RequestBody::Artifact { artifact, .. }, _) => {
                job = Some(artifact.job);
                What::Upload
            }
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
        if http.uri().host() != Some("h") || http.uri().scheme_str() != Some("https") {
            let shown = format!("{:?} {}", http.headers(), http.uri());
            let tokens = http.headers().contains_key("job-token");
            assert!(!tokens, "a token for another host: {shown}");
        }
        let asked = self.asked.entry((job, what)).or_default();
        *asked += 1;
        assert!(
            *asked <= MAX_AT_ONCE,
            "{what:?} of {job:?} again and again: {}",
            self.words
        );
        match job {
            Some(job) => self.sent_for(job, what, http),
            None => self.sent_for_the_runner(path),
        }
        let new = self.in_flight.insert(request, (job, what)).is_none();
        assert!(
            new && !self.answered.contains(&request),
            "a request number was used again"
        );
    }

    fn sent_for_the_runner(&self, path: &str) {
        let mut all = self.in_flight.values();
        assert!(
            self.storing.is_none() && !all.any(|it| it.1 == What::Reset),
            "invariant 11: {path}"
        );
        if path.ends_with("jobs/request") {
            let once = self.polls > self.polled + self.withdrawn;
            let room = self.machine.stats().jobs < self.capacity;
            assert!(
                !self.stopping && (once || room),
                "invariant 6: {:?}",
                self.machine
            );
        }
    }

    fn sent_for(&mut self, id: JobId, what: What, http: &http::Request<RequestBody>) {
        let mut others = self.in_flight.values();
        assert!(
            !others.any(|other| *other == (Some(id), what)),
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
        let is_free = job.accepted && job.owed.is_none() && !job.cleaned;
        match output {
            JobOutput::Start(_) => {}
            JobOutput::Step { .. } => {
                assert!(is_free, "invariant 5");
                job.owed = Some(Owed::Step);
            }
            JobOutput::Collect(artifact) => {
                assert!(is_free, "invariant 5");
                assert_eq!(artifact.job, id);
                job.owed = Some(Owed::Collect(*artifact));
            }
            JobOutput::Downloaded(download, _) => {
                assert!(job.downloads.remove(download), "an end that nobody awaits");
            }
            JobOutput::CleanUp => {
                assert!(is_free, "invariant 5");
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
            JobOutput::Note(_) => {}
        }
    }
}
