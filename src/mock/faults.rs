//! Faults of a server, of the network and of proxies between, by a seed.

use std::{collections::BTreeMap, fmt, ops::Range, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, request::Parts};

use super::{Answer, BodyLimit, HoldId, Server, gitlab::reply, random::Random};
use crate::Time;

/// What goes wrong with one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// Not processed; 500 as the API says it.
    InternalError,
    /// Not processed; 502 with the HTML page of a proxy.
    BadGateway,
    /// Not processed; 503 with the HTML page of a proxy.
    Unavailable,
    /// Not processed; 429 with `Retry-After` of 1 to 5 seconds.
    RateLimited,
    /// Not processed; the connection is closed.
    CutBefore,
    /// Processed; the connection is closed instead of an answer.
    CutAfter,
    /// Processed; the answer comes seconds late.
    Late,
    /// Processed; the answer is a 502 with the HTML page of a proxy.
    Lost,
    /// Processed; the connection is closed in the middle of the answer's body. Answers without a
    /// body are as they are.
    Truncated,
}

impl Fault {
    /// All there are.
    pub const ALL: [Self; 9] = [
        Self::InternalError,
        Self::BadGateway,
        Self::Unavailable,
        Self::RateLimited,
        Self::CutBefore,
        Self::CutAfter,
        Self::Late,
        Self::Lost,
        Self::Truncated,
    ];
    /// Those after which nothing has happened.
    const STORM: [Self; 5] = [
        Self::InternalError,
        Self::BadGateway,
        Self::Unavailable,
        Self::RateLimited,
        Self::CutBefore,
    ];
}

/// Which faults there are, how often, and when.
#[derive(Clone, Debug)]
pub struct FaultPlan {
    seed: u64,
    per_mille: BTreeMap<Fault, u64>,
    storms: Vec<Range<Time>>,
    late: Duration,
    spares_jobs: bool,
}

impl FaultPlan {
    /// No faults yet. Same seed, same requests: same faults.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            per_mille: BTreeMap::new(),
            storms: Vec::new(),
            late: Duration::from_secs(5),
            spares_jobs: false,
        }
    }

    /// This fault hits so many of a thousand requests.
    #[must_use]
    pub fn with(mut self, fault: Fault, per_mille: u16) -> Self {
        self.per_mille.insert(fault, per_mille.into());
        self
    }

    /// Each kind of fault hits so many of a thousand requests.
    #[must_use]
    pub fn with_all(mut self, per_mille: u16) -> Self {
        self.per_mille = Fault::ALL.map(|fault| (fault, per_mille.into())).into();
        self
    }

    /// During this time not a single request is processed.
    #[must_use]
    pub fn with_storm(mut self, from: Time, duration: Duration) -> Self {
        self.storms.push(from..from + duration);
        self
    }

    /// No answer to a job request is lost or cut once it was processed: whether GitLab then has
    /// assigned a job that no runner knows of is beyond what a runner can do about.
    #[must_use]
    pub fn sparing_jobs(mut self) -> Self {
        self.spares_jobs = true;
        self
    }

    /// How late an answer is at most; 5 seconds unless told otherwise.
    #[must_use]
    pub fn with_latest(mut self, late: Duration) -> Self {
        self.late = late;
        self
    }
}

/// Any server, with faults.
pub struct Faulty<S> {
    server: S,
    plan: FaultPlan,
    random: Random,
    late: BTreeMap<HoldId, (Time, Answer)>,
    next_late: u64,
    counts: BTreeMap<Fault, u64>,
    requests: u64,
}

/// Holds of our own are numbered from here; no server gets that far.
const FIRST_LATE: u64 = 1 << 63;

impl<S> Faulty<S> {
    /// `server`, with the faults of `plan`.
    pub fn new(server: S, plan: FaultPlan) -> Self {
        Self {
            server,
            random: Random::new(plan.seed),
            plan,
            late: BTreeMap::new(),
            next_late: FIRST_LATE,
            counts: BTreeMap::new(),
            requests: 0,
        }
    }

    /// The server behind the faults.
    pub fn server(&self) -> &S {
        &self.server
    }

    /// The server behind the faults, to be changed.
    pub fn server_mut(&mut self) -> &mut S {
        &mut self.server
    }

    /// How often each fault has hit.
    pub fn counts(&self) -> &BTreeMap<Fault, u64> {
        &self.counts
    }

    /// How many requests there were, with and without faults.
    pub fn requests(&self) -> u64 {
        self.requests
    }

    fn fault(&mut self, now: Time) -> Option<Fault> {
        // One draw for each request, whatever comes of it, so that faults do not depend on storms.
        let draw = self.random.next();
        if self.plan.storms.iter().any(|storm| storm.contains(&now)) {
            let storm = Fault::STORM;
            return Some(storm[(draw % storm.len() as u64) as usize]);
        }
        let mut rest = draw % 1000;
        for (fault, per_mille) in &self.plan.per_mille {
            match rest.checked_sub(*per_mille) {
                None => return Some(*fault),
                Some(less) => rest = less,
            }
        }
        None
    }
}

impl<S: Server> Faulty<S> {
    fn hold(&mut self, now: Time, answer: Answer) -> Answer {
        let longest = u64::try_from(self.plan.late.as_millis()).unwrap_or(u64::MAX);
        let late = Duration::from_millis(self.random.between(1, longest.max(1)));
        let id = HoldId::new(self.next_late);
        self.next_late += 1;
        self.late.insert(id, (now + late, answer));
        Answer::Hold(id)
    }
}

impl<S: Server> Server for Faulty<S> {
    fn handle(&mut self, now: Time, request: Request<Bytes>) -> Answer {
        self.requests += 1;
        let spared = self.plan.spares_jobs && request.uri().path().ends_with("/jobs/request");
        let fault = self.fault(now).filter(|fault| {
            let lost = matches!(fault, Fault::CutAfter | Fault::Lost | Fault::Truncated);
            !(spared && lost)
        });
        let Some(fault) = fault else {
            return self.server.handle(now, request);
        };
        *self.counts.entry(fault).or_default() += 1;
        match fault {
            Fault::InternalError => Answer::Reply(reply::usual(StatusCode::INTERNAL_SERVER_ERROR)),
            Fault::BadGateway => Answer::Reply(reply::html(StatusCode::BAD_GATEWAY)),
            Fault::Unavailable => Answer::Reply(reply::html(StatusCode::SERVICE_UNAVAILABLE)),
            Fault::RateLimited => Answer::Reply(reply::rate_limited(self.random.between(1, 5))),
            Fault::CutBefore => Answer::Close,
            Fault::CutAfter | Fault::Lost | Fault::Late | Fault::Truncated => {
                match (fault, self.server.handle(now, request)) {
                    // What is held is no answer yet, and goes its way.
                    (_, Answer::Hold(hold)) => Answer::Hold(hold),
                    (Fault::CutAfter, _) => Answer::Close,
                    (Fault::Lost, _) => Answer::Reply(reply::html(StatusCode::BAD_GATEWAY)),
                    (Fault::Late, answer) => self.hold(now, answer),
                    (_, Answer::Reply(whole)) => {
                        let half = whole.body().len() / 2;
                        Answer::Reply(reply::cut(whole, half))
                    }
                    (_, Answer::Close) => Answer::Close,
                }
            }
        }
    }

    fn body_limit(&self, head: &Parts) -> Option<BodyLimit> {
        self.server.body_limit(head)
    }

    fn poll_answer(&mut self, now: Time) -> Option<(HoldId, Answer)> {
        let due = self.late.iter().find(|(_, (at, _))| *at <= now);
        match due.map(|(id, _)| *id) {
            Some(id) => self.late.remove(&id).map(|(_, answer)| (id, answer)),
            None => self.server.poll_answer(now),
        }
    }

    fn poll_timeout(&self) -> Option<Time> {
        let late = self.late.values().map(|(at, _)| *at);
        late.chain(self.server.poll_timeout()).min()
    }

    fn drop_hold(&mut self, hold: HoldId) {
        if self.late.remove(&hold).is_none() {
            self.server.drop_hold(hold);
        }
    }
}

/// Counts only.
impl<S> fmt::Debug for Faulty<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faulty")
            .field("requests", &self.requests)
            .field("counts", &self.counts)
            .field("late", &self.late.len())
            .finish_non_exhaustive()
    }
}
