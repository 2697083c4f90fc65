//! What stands between the runners and GitLab: it takes down every request, and adds trouble of its
//! own to that of [`gitlab_runner::mock::FaultPlan`].

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use gitlab_runner::{
    Time,
    mock::{Answer, HoldId, Server},
};
use http::{Method, Request, Response, request::Parts};

use super::dice::{Dice, Random};

/// When the first nine seconds are over.
const NINE: &str = "Wed, 01 Jan 2025 00:00:09 GMT";

/// Trouble, in so many of a thousand requests.
#[derive(Clone, Debug)]
pub(crate) struct Weather {
    random: Random,
    rates: Vec<(Trouble, u64)>,
    /// A job may be handed out once more.
    repeats: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// Never answered, and not processed.
    Silence,
    /// Processed, and never answered.
    Dumb,
    /// A proxy sends it twice.
    Twice,
    /// The connection breaks, and it is processed seconds later.
    Stale,
    /// A proxy knows no such page.
    Missing,
    /// 412.
    Precondition,
    /// 416 that makes no sense.
    Range,
    /// 409.
    Conflict,
    /// 413 from a proxy.
    TooLarge,
    /// 429 or 503 that says how long to wait, in an odd way.
    Limited,
    /// Odd headers in the answer.
    Odd,
    /// The job that was handed out last, once more.
    Again,
}

const ALL: [Trouble; 12] = [
    Trouble::Silence,
    Trouble::Dumb,
    Trouble::Twice,
    Trouble::Stale,
    Trouble::Missing,
    Trouble::Precondition,
    Trouble::Range,
    Trouble::Conflict,
    Trouble::TooLarge,
    Trouble::Limited,
    Trouble::Odd,
    Trouble::Again,
];

impl Weather {
    pub(crate) fn draw(dice: &mut Dice<'_>, troubled: bool, repeats: bool) -> Self {
        let mut rates = Vec::new();
        for trouble in ALL {
            let mut random = dice.stream(&format!("weather-{trouble:?}-rate"));
            if troubled && dice.has(&format!("weather-{trouble:?}"), 10) {
                rates.push((
                    trouble,
                    match trouble {
                        // Five of them in a row end a job.
                        Trouble::Missing => random.between(1, 15),
                        Trouble::Odd | Trouble::Again => random.between(1, 300),
                        _ => random.between(1, 80),
                    },
                ));
            }
        }
        Self {
            random: dice.stream("weather"),
            rates,
            repeats,
        }
    }

    pub(crate) fn is_bad(&self) -> bool {
        !self.rates.is_empty()
    }

    fn trouble(&mut self) -> Option<Trouble> {
        let mut draw = self.random.next() % 1000;
        for (trouble, per_mille) in &self.rates {
            match draw.checked_sub(*per_mille) {
                None => return Some(*trouble),
                Some(rest) => draw = rest,
            }
        }
        None
    }
}

/// A request as it came, and how it was answered.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) at: Time,
    pub(crate) what: What,
    /// Of a job request: the one it brought.
    pub(crate) job: Option<u64>,
    /// Of a patch: the first byte, and the last and one.
    pub(crate) range: Option<(u64, u64)>,
    /// Of an update.
    pub(crate) state: Option<String>,
    /// None as long as there is no answer, and when there is none.
    pub(crate) answer: Option<(Time, u16)>,
    /// It had trouble with this.
    pub(crate) is_troubled: bool,
    pub(crate) retry_after: Option<u64>,
    pub(crate) job_status: Option<String>,
    /// Who sent it: the token in it.
    pub(crate) token: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Poll,
    Patch,
    Update,
    Upload,
    Download,
    Other,
}

/// A server in bad weather.
pub(crate) struct Outside<S> {
    pub(crate) server: S,
    weather: Weather,
    pub(crate) seen: Vec<Seen>,
    holds: BTreeMap<HoldId, usize>,
    silent: BTreeSet<HoldId>,
    stale: Vec<(Time, Request<Bytes>)>,
    last_job: Option<Response<Bytes>>,
}

/// The holds of the server, and those of faults, are numbered otherwise.
const FIRST_SILENCE: u64 = 1 << 62;

impl<S: Server> Outside<S> {
    pub(crate) fn new(server: S, weather: Weather) -> Self {
        Self {
            server,
            weather,
            seen: Vec::new(),
            holds: BTreeMap::new(),
            silent: BTreeSet::new(),
            stale: Vec::new(),
            last_job: None,
        }
    }

    /// Requests that wait for an answer.
    pub(crate) fn held(&self) -> usize {
        self.holds.len()
    }

    fn take_down(&mut self, now: Time, request: &Request<Bytes>) -> usize {
        self.seen.push(Seen::of(now, request));
        self.seen.len() - 1
    }

    fn silence(&mut self, number: usize) -> Answer {
        let hold = HoldId::new(FIRST_SILENCE + number as u64);
        self.silent.insert(hold);
        self.holds.insert(hold, number);
        Answer::Hold(hold)
    }

    /// Processes those that come too late.
    fn process_stale(&mut self, now: Time) {
        while let Some(at) = self.stale.iter().position(|(due, _)| *due <= now) {
            let (_, request) = self.stale.remove(at);
            if let Answer::Hold(hold) = self.server.handle(now, request) {
                self.server.drop_hold(hold);
            }
        }
    }

    fn answered(&mut self, number: usize, now: Time, answer: Answer) -> Answer {
        let seen = &mut self.seen[number];
        match &answer {
            Answer::Reply(reply) => {
                let header = |name: &str| {
                    let value = reply.headers().get(name)?.to_str().ok()?;
                    Some(value.to_owned())
                };
                seen.answer = Some((now, reply.status().as_u16()));
                seen.retry_after = header("Retry-After").and_then(|it| wait(&it, now));
                seen.job_status = header("Job-Status");
                if seen.what == What::Poll && reply.status() == 201 {
                    let job: serde_json::Value =
                        serde_json::from_slice(reply.body()).unwrap_or_default();
                    seen.job = job["id"].as_u64();
                }
            }
            Answer::Hold(hold) => {
                self.holds.insert(*hold, number);
            }
            _ => seen.is_troubled = true,
        }
        answer
    }
}

/// How many seconds there are at least until then. The world begins with 2025.
fn wait(retry_after: &str, now: Time) -> Option<u64> {
    match retry_after {
        NINE => Some(9_u64.saturating_sub(now.since_origin().as_secs() + 1)),
        seconds => seconds.parse().ok(),
    }
}

impl Seen {
    /// Whether it tells how the job has ended.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self.state.as_deref(), Some("success" | "failed"))
    }

    fn of(at: Time, request: &Request<Bytes>) -> Self {
        let path = request.uri().path();
        let path = path.trim_start_matches("/gitlab");
        let parts: Vec<&str> = path.trim_start_matches("/api/v4/").split('/').collect();
        let job = parts.get(1).and_then(|id| id.parse().ok());
        let what = match (request.method(), &parts[..]) {
            (&Method::POST, ["jobs", "request"]) => What::Poll,
            (&Method::PATCH, ["jobs", _, "trace"]) => What::Patch,
            (&Method::PUT, ["jobs", _]) => What::Update,
            (&Method::POST, ["jobs", _, "artifacts"]) => What::Upload,
            (&Method::GET, ["jobs", _, "artifacts"]) => What::Download,
            _ => What::Other,
        };
        let body: serde_json::Value = match what {
            What::Upload | What::Patch | What::Download => serde_json::Value::Null,
            _ => serde_json::from_slice(request.body()).unwrap_or_default(),
        };
        let header = |name: &str| {
            let value = request.headers().get(name)?.to_str().ok()?;
            Some(value.to_owned())
        };
        let start = header("Content-Range").and_then(|it| it.split('-').next()?.parse().ok());
        Self {
            at,
            what,
            job,
            range: start.map(|start: u64| (start, start + request.body().len() as u64)),
            state: body["state"].as_str().map(str::to_owned),
            answer: None,
            is_troubled: false,
            retry_after: None,
            job_status: None,
            token: body["token"]
                .as_str()
                .map(str::to_owned)
                .or_else(|| header("JOB-TOKEN"))
                .unwrap_or_default(),
        }
    }
}

/// The same answer with a header that makes no sense, or that means nothing.
fn odd(random: &mut Random, mut answer: Answer) -> Answer {
    if let Answer::Reply(reply) = &mut answer
        && reply.status().is_success()
    {
        let (name, values): (_, &[&'static str]) = match random.below(2) {
            0 => (
                "X-GitLab-Trace-Update-Interval",
                &[
                    "0",
                    "-5",
                    "1/2",
                    "",
                    "7",
                    "999999999",
                    "99999999999999999999",
                ],
            ),
            _ => (
                "Job-Status",
                &["pending", "RUNNING", "", "nonsense", "skipped"],
            ),
        };
        // A cancel must stay one.
        let canceling = reply
            .headers()
            .get("Job-Status")
            .is_some_and(|it| it != "running");
        if name != "Job-Status" || !canceling {
            let value = http::HeaderValue::from_static(random.pick(values));
            reply.headers_mut().insert(name, value);
        }
    }
    answer
}

impl<S: Server> Server for Outside<S> {
    fn handle(&mut self, now: Time, request: Request<Bytes>) -> Answer {
        self.process_stale(now);
        let number = self.take_down(now, &request);
        let what = self.seen[number].what;
        let about_job = matches!(what, What::Patch | What::Update);
        let trouble = self.weather.trouble().filter(|trouble| match trouble {
            // Whether a job that was handed out twice is lost is beyond a runner.
            Trouble::Dumb => true,
            Trouble::Twice | Trouble::Stale => {
                matches!(what, What::Patch | What::Update | What::Upload)
            }
            Trouble::Missing => what == What::Patch || what == What::Update,
            Trouble::Precondition => about_job,
            Trouble::Range => what == What::Patch,
            Trouble::TooLarge => what == What::Patch,
            Trouble::Silence | Trouble::Conflict | Trouble::Limited => what != What::Other,
            Trouble::Odd => about_job,
            // To who commits to a job: nobody else can know.
            Trouble::Again => what == What::Poll && self.weather.repeats && self.last_job.is_some(),
        });
        self.seen[number].is_troubled |= trouble.is_some();
        let random = &mut self.weather.random;
        let reply = |status: u16, header: Option<(&str, &str)>| {
            let mut reply = Response::builder().status(status);
            if let Some((name, value)) = header {
                reply = reply.header(name, value);
            }
            let page = Bytes::from_static(b"<html>proxy</html>");
            Answer::Reply(reply.body(page).unwrap_or_default())
        };
        let answer = match trouble {
            None => {
                let answer = self.server.handle(now, request);
                if let Answer::Reply(reply) = &answer
                    && reply.status() == 201
                    && what == What::Poll
                {
                    self.last_job = Some(reply.clone());
                }
                answer
            }
            Some(Trouble::Silence) => return self.silence(number),
            Some(Trouble::Dumb) => {
                return match self.server.handle(now, request) {
                    Answer::Hold(hold) => self.answered(number, now, Answer::Hold(hold)),
                    _ => self.silence(number),
                };
            }
            Some(Trouble::Twice) => {
                if let Answer::Hold(hold) = self.server.handle(now, request.clone()) {
                    self.server.drop_hold(hold);
                }
                self.server.handle(now, request)
            }
            Some(Trouble::Stale) => {
                let late = Duration::from_millis(random.between(1, 30_000));
                self.stale.push((now + late, request));
                Answer::Close
            }
            Some(Trouble::Missing) => reply(404, None),
            Some(Trouble::Precondition) => reply(412, None),
            Some(Trouble::Range) => match random.below(3) {
                0 => reply(416, None),
                1 => reply(416, Some(("Range", "0-0"))),
                _ => reply(416, Some(("Range", "nonsense"))),
            },
            Some(Trouble::Conflict) => reply(409, None),
            Some(Trouble::TooLarge) => reply(413, None),
            Some(Trouble::Limited) => {
                let status = random.pick(&[429, 503]);
                let wait = random.pick(&[
                    "0",
                    "7",
                    "-3",
                    "",
                    "soon",
                    "1.5",
                    "100",
                    "99999999999999999999",
                    NINE,
                    "Wed, 01 Jan 2020 00:00:00 GMT",
                ]);
                reply(status, Some(("Retry-After", wait)))
            }
            Some(Trouble::Odd) => odd(random, self.server.handle(now, request)),
            Some(Trouble::Again) => match self.last_job.clone() {
                Some(job) => Answer::Reply(job),
                None => Answer::Close,
            },
        };
        self.answered(number, now, answer)
    }

    fn body_limit(&self, head: &Parts) -> Option<gitlab_runner::mock::BodyLimit> {
        self.server.body_limit(head)
    }

    fn poll_answer(&mut self, now: Time) -> Option<(HoldId, Answer)> {
        self.process_stale(now);
        let (hold, answer) = self.server.poll_answer(now)?;
        let answer = match self.holds.remove(&hold) {
            Some(number) => self.answered(number, now, answer),
            None => answer,
        };
        Some((hold, answer))
    }

    fn poll_timeout(&self) -> Option<Time> {
        let stale = self.stale.iter().map(|(due, _)| *due);
        stale.chain(self.server.poll_timeout()).min()
    }

    fn drop_hold(&mut self, hold: HoldId) {
        self.holds.remove(&hold);
        if !self.silent.remove(&hold) {
            self.server.drop_hold(hold);
        }
    }
}
