//! The simulated GitLab: the runner API as a state machine without input, output or clock.
//!
//! Requests come through [`Server`], the deeds of GitLab's users through the methods of
//! [`MockGitlab`]. It never waits and never looks at a clock: it knows the time of the last input.
//! The same seed, the same inputs and the same times give the same answers.
//!
//! It reads requests with its own code and shares nothing with the runner's side of the protocol,
//! so that a mistake made there does not find its twin here.

mod artifacts;
mod auth;
mod jobs;
mod params;
mod pipelines;
pub(super) mod plan;
mod poll;
mod registration;
pub(super) mod reply;
mod route;
mod runners;
mod settings;
mod sweep;
mod trace;
mod update;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode, header, request::Parts};

use self::{
    auth::RateLimits,
    jobs::{Job, Parked},
    params::{Params, header_text, token_or_header},
    plan::{Effect, Planned},
    poll::Hold,
    reply::{Refused, Reply},
    route::Route,
    runners::Runner,
};
use super::{
    Answer, BodyLimit, HoldId, ObjectStore, Server,
    random::Random,
    report::{MAX_REQUESTS, RequestRecord},
};
use crate::{JobId, Time};

pub use pipelines::PipelineError;
pub use plan::{Endpoint, Override};
pub use runners::{Manager, RunnerNumber};
pub use settings::{Settings, VerifyMode};

/// A GitLab instance with one project, as far as runners can see it.
///
/// ```
/// use bytes::Bytes;
/// use gitlab_runner::Time;
/// use gitlab_runner::mock::{Answer, JobSpec, JobStatus, MockGitlab, Server};
///
/// let mut gitlab = MockGitlab::new(1);
/// gitlab.add_runner("glrt-example");
/// let job = gitlab.enqueue(JobSpec::script(["echo hi"]));
///
/// let request = http::Request::post("/api/v4/jobs/request")
///     .header("Content-Type", "application/json")
///     .body(Bytes::from_static(br#"{"token":"glrt-example"}"#))?;
/// let Answer::Reply(reply) = gitlab.handle(Time::ZERO, request) else {
///     return Err("no reply".into());
/// };
/// assert_eq!(reply.status(), 201);
/// assert_eq!(gitlab.report(job).map(|job| job.status), Some(JobStatus::Running));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct MockGitlab {
    settings: Settings,
    random: Random,
    now: Time,
    runners: BTreeMap<RunnerNumber, Runner>,
    jobs: BTreeMap<JobId, Job>,
    /// Job tokens, with the job each belongs to.
    tokens: BTreeMap<String, JobId>,
    /// Pending jobs that can be handed out.
    queue: BTreeSet<JobId>,
    /// Jobs that are running or canceling.
    live: BTreeSet<JobId>,
    /// Jobs handed out with two-phase commit that their runner has not committed to.
    parked: BTreeMap<JobId, Parked>,
    pipelines: Vec<Vec<JobId>>,
    unfinished: usize,
    holds: BTreeMap<HoldId, Hold>,
    next_hold: u64,
    plans: Vec<Planned>,
    rates: RateLimits,
    conflicts: u32,
    storage: ObjectStore,
    requests: VecDeque<RequestRecord>,
    /// Number of the first request in `requests`.
    first_request: u64,
}

impl MockGitlab {
    /// An instance as shipped, with no runners and no jobs. The seed decides on tokens, queue
    /// values and how long the details of a manager stay unchanged.
    pub fn new(seed: u64) -> Self {
        Self {
            settings: Settings::default(),
            random: Random::new(seed),
            now: Time::ZERO,
            runners: BTreeMap::new(),
            jobs: BTreeMap::new(),
            tokens: BTreeMap::new(),
            queue: BTreeSet::new(),
            live: BTreeSet::new(),
            parked: BTreeMap::new(),
            pipelines: Vec::new(),
            unfinished: 0,
            holds: BTreeMap::new(),
            next_hold: 0,
            plans: Vec::new(),
            rates: RateLimits::default(),
            conflicts: 0,
            storage: ObjectStore::default(),
            requests: VecDeque::new(),
            first_request: 0,
        }
    }

    /// How the instance is set up.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How the instance is set up, to be changed. Requests on hold keep their deadline.
    pub fn settings_mut(&mut self) -> &mut Settings {
        &mut self.settings
    }

    /// How long job requests are held ([`Settings::long_poll`]), for instance 50 s.
    pub fn set_long_poll(&mut self, duration: Option<Duration>) {
        self.settings.long_poll = duration;
    }

    /// The time of the last input.
    pub fn now(&self) -> Time {
        self.now
    }

    /// Tells the time, so that what a user does next happens then. It never goes back.
    pub fn advance(&mut self, now: Time) {
        self.sweep(now);
        self.now = self.now.max(now);
    }

    /// Plans a fault for the `nth` request from now that goes to `endpoint`; 1 (and 0) is the
    /// next one. Faults planned for the same request happen one after the other.
    pub fn plan(&mut self, endpoint: Endpoint, nth: u64, fault: Override) {
        self.plans.push(Planned {
            endpoint,
            job: None,
            nth,
            fault,
        });
    }

    /// As [`plan`](Self::plan), counting only the requests for one job.
    pub fn plan_for_job(&mut self, job: JobId, endpoint: Endpoint, nth: u64, fault: Override) {
        self.plans.push(Planned {
            endpoint,
            job: Some(job),
            nth,
            fault,
        });
    }

    /// Planned faults that have not happened yet.
    pub fn pending_plans(&self) -> usize {
        self.plans.len()
    }

    /// The requests so far, oldest first; the last 10,000 of them.
    pub fn requests(&self) -> impl DoubleEndedIterator<Item = &RequestRecord> + ExactSizeIterator {
        self.requests.iter()
    }

    /// Job requests on hold.
    pub fn held_requests(&self) -> usize {
        self.holds.len()
    }

    fn process(
        &mut self,
        route: &Route,
        request: &Request<Bytes>,
        params: Result<Params, Refused>,
    ) -> Processed {
        let reply = match route {
            Route::Register => self.register(params),
            Route::Unregister => self.unregister(request, params),
            Route::UnregisterManager => self.unregister_manager(request, params),
            Route::ResetToken => self.reset_token(params),
            Route::Discovery => self.discover_router(request),
            Route::Verify => self.verify(params),
            Route::Poll => return self.poll(request, params),
            Route::Update(id) => self.update(id, params),
            Route::Trace(id) => self.append_trace(id, request, params),
            Route::Authorize(id) => self.authorize_directly(id, request, params),
            Route::Upload(id) => self.upload_artifact(id, request, params),
            Route::Download(id) => self.download_artifact(id, request, params),
            Route::Unknown => Ok(reply::error(StatusCode::NOT_FOUND, "404 Not Found")),
            Route::Outside => Ok(reply::html(StatusCode::NOT_FOUND)),
        };
        Processed::Reply(reply.unwrap_or_else(|refused| *refused))
    }

    /// Takes down a request; the number is for [`Self::answered`].
    fn record(
        &mut self,
        request: &Request<Bytes>,
        route: &Route,
        job: Option<JobId>,
        params: Option<&Params>,
    ) -> u64 {
        let text = |name| {
            params
                .and_then(|params| params.string(name))
                .map(str::to_owned)
        };
        let token = token_or_header(text("token").or(text("job_token")), request.headers());
        let record =
            RequestRecord {
                at: self.now,
                method: request.method().clone(),
                path: request.uri().path().to_owned(),
                job,
                content_range: header_text(request.headers(), header::CONTENT_RANGE.as_str()),
                body_len: request.body().len(),
                token_of: self.tokens.get(&token).copied(),
                artifact_type: match route {
                    Route::Upload(_) => params.map(artifacts::named_type),
                    _ => None,
                },
                direct_download: match route {
                    Route::Download(_) => Some(params.is_some_and(|params| {
                        params.check().boolean("direct_download") == Some(true)
                    })),
                    _ => None,
                },
                state: match route {
                    Route::Update(_) => text("state"),
                    _ => None,
                },
                status: None,
                answered_at: None,
                delivered: false,
            };
        if self.requests.len() == MAX_REQUESTS {
            self.requests.pop_front();
            self.first_request += 1;
        }
        self.requests.push_back(record);
        self.first_request + self.requests.len() as u64 - 1
    }

    fn answered(&mut self, number: u64, status: Option<StatusCode>, delivered: bool) {
        let Some(record) = number
            .checked_sub(self.first_request)
            .and_then(|index| self.requests.get_mut(usize::try_from(index).ok()?))
        else {
            return;
        };
        record.status = status.map(|status| status.as_u16());
        record.answered_at = Some(self.now);
        record.delivered = delivered;
        let job = record.job.and_then(|job| self.jobs.get_mut(&job));
        if let Some(job) = job {
            let requests = &mut job.report.requests;
            if requests.len() == MAX_REQUESTS {
                requests.pop_front();
            }
            requests.push_back(record.clone());
        }
    }
}

impl Server for MockGitlab {
    fn handle(&mut self, now: Time, request: Request<Bytes>) -> Answer {
        self.advance(now);
        let route = Route::of(&self.settings, request.method(), request.uri());
        let job = route.job().filter(|job| self.jobs.contains_key(job));
        let params = Params::of(&request);
        let state = match (&route, &params) {
            (Route::Update(_), Ok(params)) => params.string("state"),
            _ => None,
        };
        let number = self.record(&request, &route, job, params.as_ref().ok());
        let due = plan::due(&mut self.plans, |endpoint| route.is(endpoint, state), job);
        let after = match due.map(Override::effect) {
            None => None,
            Some(Effect::Instead(reply)) => {
                self.answered(number, Some(reply.status()), true);
                return Answer::Reply(reply);
            }
            Some(Effect::Close) => {
                self.answered(number, None, false);
                return Answer::Close;
            }
            Some(Effect::After(after)) => Some(after),
        };
        match (self.process(&route, &request, params), after) {
            (Processed::Reply(reply), None) => {
                self.answered(number, Some(reply.status()), true);
                Answer::Reply(reply)
            }
            (Processed::Reply(lost), Some(after)) => {
                self.answered(number, Some(lost.status()), after.delivers());
                after.apply(lost)
            }
            (Processed::Hold(hold), after) => self.put_on_hold(hold, number, after),
        }
    }

    fn body_limit(&self, head: &Parts) -> Option<BodyLimit> {
        self.upload_limit(head)
    }

    fn poll_answer(&mut self, now: Time) -> Option<(HoldId, Answer)> {
        self.advance(now);
        self.release_hold()
    }

    fn poll_timeout(&self) -> Option<Time> {
        let sweep = self.next_sweep().map(|(at, ..)| at);
        self.hold_deadlines().chain(sweep).min()
    }

    fn drop_hold(&mut self, hold: HoldId) {
        if let Some(hold) = self.holds.remove(&hold) {
            self.answered(hold.number, None, false);
        }
    }
}

/// Counts only: everything else may hold a token.
impl fmt::Debug for MockGitlab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MockGitlab")
            .field("now", &self.now)
            .field("runners", &self.runners.len())
            .field("jobs", &self.jobs.len())
            .field("unfinished", &self.unfinished)
            .field("held_requests", &self.holds.len())
            .field("pending_plans", &self.plans.len())
            .finish_non_exhaustive()
    }
}

enum Processed {
    Reply(Reply),
    Hold(Hold),
}
