//! A server that answers as a recording says.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header::CONTENT_LENGTH};

use super::{
    Har, HarBody,
    compare::{Mismatch, difference, mismatch},
    exchange::{Asked, Key, ReplayError, Replied},
    rewrite::Rewrite,
    script::{Found, Script},
};
use crate::{
    Time,
    ids::JobId,
    mock::{Answer, HoldId, Server},
    protocol::headers,
};

/// A request for a job that the recording has nothing about waits so long for a 204.
const IDLE: Duration = Duration::from_secs(50);
/// A zip archive without files, for a download whose content was not recorded.
const EMPTY_ZIP: &[u8] = b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// How exactly a runner has to ask what was asked in the recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mode {
    /// Each request has to be the recorded one, byte for byte, but for tokens, the name of the runner
    /// manager, and headers that clients add by themselves. For recordings of the same runner with
    /// the same seed.
    Strict,
    /// Only what is asked counts, not in which words. What the recording does not have is answered as
    /// GitLab does when all is well, and news of a job (a cancel, a refusal) come when it is as old as
    /// it was then. For recordings of other runners, and of handlers that have changed since.
    Lenient,
}

/// A [`Server`] that answers as a recording says: each request by the next entry with the same method,
/// path and job, after the time that it took then.
///
/// Tokens and the name of the runner manager are those of whoever asks; the `Range` of a 202 is that
/// of the log that came.
///
/// ```
/// use std::time::Duration;
/// use gitlab_runner::{
///     JobHandler, JobResult, Phase, Runner,
///     har::{Har, HarServer, Mode},
///     sim::Sim,
/// };
/// # struct Lab;
/// # #[async_trait::async_trait]
/// # impl JobHandler for Lab {
/// #     async fn step(&mut self, _: &[String], _: Phase) -> JobResult { Ok(()) }
/// # }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let recording = br#"{"log":{"entries":[{
/// #     "request":{"method":"POST","url":"https://gitlab.example.com/api/v4/jobs/request"},
/// #     "response":{"status":204}}]}}"#;
/// let gitlab = HarServer::new(&Har::parse(recording)?, Mode::Lenient)?;
/// let sim = Sim::builder(7).latency(Duration::ZERO..=Duration::ZERO).build();
/// let gitlab = sim.serve("*", gitlab);
///
/// let url = "https://gitlab.example.com".parse()?;
/// let builds = std::env::temp_dir().join("replayed-builds");
/// let mut runner = Runner::with_adapter(url, "glrt-any".into(), builds, sim.adapter());
/// let handle = runner.handle();
/// sim.block_on(async {
///     let over = async {
///         while !gitlab.with(|gitlab, _| gitlab.is_over()) {
///             sim.sleep(Duration::from_secs(1)).await;
///         }
///         handle.abort();
///     };
///     let (end, ()) = futures::join!(runner.run(|_job| async { Ok(Lab) }, 1), over);
///     end
/// })?;
/// gitlab.with(|gitlab, _| gitlab.verdict())?;
/// # Ok(())
/// # }
/// ```
pub struct HarServer {
    script: Script,
    mode: Mode,
    rewrite: Rewrite,
    /// What whoever replays says of artifacts, by SHA-256.
    bodies: BTreeMap<String, Bytes>,
    holds: BTreeMap<HoldId, (Time, Answer)>,
    /// Requests for a job, or after a mismatch, of which the recording does not have the end.
    idle: BTreeSet<HoldId>,
    next_hold: u64,
    live: BTreeSet<JobId>,
    /// How much log each job has sent.
    stored: BTreeMap<JobId, u64>,
    mismatch: Option<Mismatch>,
    differences: Vec<String>,
    requests: u64,
}

impl HarServer {
    /// A server for this recording.
    ///
    /// # Errors
    /// When there is nothing in it that a runner asks GitLab, or an entry cannot be read.
    pub fn new(har: &Har, mode: Mode) -> Result<Self, ReplayError> {
        Ok(Self {
            script: Script::new(har)?,
            mode,
            rewrite: Rewrite::default(),
            bodies: BTreeMap::new(),
            holds: BTreeMap::new(),
            idle: BTreeSet::new(),
            next_hold: 0,
            live: BTreeSet::new(),
            stored: BTreeMap::new(),
            mismatch: None,
            differences: Vec::new(),
            requests: 0,
        })
    }

    /// What an artifact with this SHA-256 (in hex) holds, of which the recording has only that. Of
    /// others, an archive without files is sent.
    #[must_use]
    pub fn with_body(mut self, sha256: &str, body: impl Into<Bytes>) -> Self {
        self.bodies.insert(sha256.to_ascii_lowercase(), body.into());
        self
    }

    /// Whether the recording has come to its end: nothing that it has is left to be asked for, or
    /// (in `Lenient`) all its jobs have ended. Also after a mismatch.
    pub fn is_over(&self) -> bool {
        if self.mismatch.is_some() {
            return true;
        }
        if self.holds.keys().any(|hold| !self.idle.contains(hold)) {
            return false;
        }
        match self.mode {
            Mode::Strict => self.script.left().is_empty(),
            Mode::Lenient => {
                let has_job = |status: u16| status == 201;
                // Without a job, its last word is the end.
                let is_last = |key: &Key| key.is_poll() || key.is_verify();
                self.live.is_empty()
                    && !self.script.any_left(|entry| match self.stored.is_empty() {
                        true => is_last(&entry.key),
                        false => entry.key.is_poll() && has_job(entry.reply.status()),
                    })
            }
        }
    }

    /// Whether the runner has asked what was recorded.
    ///
    /// # Errors
    /// The first request that it should not have sent (so), or (in `Strict`) one that it did not send.
    pub fn verdict(&self) -> Result<(), Mismatch> {
        if let Some(mismatch) = &self.mismatch {
            return Err(mismatch.clone());
        }
        match self.mode {
            Mode::Strict => self.missing().map_or(Ok(()), Err),
            Mode::Lenient => Ok(()),
        }
    }

    /// Where the end of a job was another one than the recorded, in `Lenient`.
    pub fn differences(&self) -> &[String] {
        &self.differences
    }

    /// How many requests came.
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// When a job was handed out.
    pub(super) fn handed_out(&self, job: JobId) -> Option<Time> {
        self.script.replayed(job)
    }

    /// The entries of the archive that nobody has asked for, from 0.
    pub fn left(&self) -> Vec<usize> {
        let left = self.script.left().into_iter();
        left.map(|at| self.script.entry(at).number).collect()
    }

    /// The first request that was not sent.
    fn missing(&self) -> Option<Mismatch> {
        let entry = self.script.entry(*self.script.left().first()?);
        let what = format!("{} was not asked (any more)", entry.key);
        let mut missing = mismatch(Some(entry.number), what, None, &entry.request);
        std::mem::swap(&mut missing.expected, &mut missing.actual);
        Some(missing)
    }

    fn strict(&mut self, key: &Key, request: &Request<Bytes>) -> Option<usize> {
        let next = self.script.next(key);
        let expected = next.map(|at| self.script.entry(at));
        if let Some(expected) = expected
            && key.job.is_none()
        {
            self.rewrite.learn(expected.request.bytes(), request.body());
        }
        let actual = self.rewrite.to_recorded(Asked::of(request));
        let Some(expected) = expected else {
            // Who has nothing to do but ask for jobs will not send what is left.
            if key.is_poll() && self.live.is_empty() {
                self.mismatch = self.missing();
                return None;
            }
            let nearest = self.script.nearest(key).map(|at| self.script.entry(at));
            let what = format!("{key} is not recorded (any more)");
            let (entry, expected) = nearest.map(|it| (it.number, &it.request)).unzip();
            self.mismatch = Some(mismatch(entry, what, expected, &actual));
            return None;
        };
        if let Some(what) = difference(&expected.request, &actual) {
            let entry = Some(expected.number);
            self.mismatch = Some(mismatch(entry, what, Some(&expected.request), &actual));
            return None;
        }
        self.script.take(key);
        next
    }

    fn lenient(&mut self, now: Time, key: &Key, request: &Request<Bytes>) -> Option<usize> {
        let found = match key.is_timed() {
            true => self.script.take_timed(key, now),
            false => self.script.take(key),
        };
        let Found::Entry(at) = found else {
            return None;
        };
        let expected = &self.script.entry(at).request;
        if key.job.is_none() {
            self.rewrite.learn(expected.bytes(), request.body());
        }
        if key.is_final() {
            for name in ["state", "failure_reason", "exit_code"] {
                let values = [expected.bytes(), request.body()].map(|body| value(body, name));
                if values[0] != values[1] {
                    let [recorded, sent] = values;
                    self.differences
                        .push(format!("{key}: {name} is {sent}, recorded was {recorded}"));
                }
            }
        }
        Some(at)
    }

    /// What an entry answers, and when.
    fn answer(&mut self, now: Time, at: usize, request: &Request<Bytes>) -> Answer {
        let entry = self.script.entry(at);
        let (key, due) = (entry.key.clone(), now + entry.duration);
        let (status, headers, body, is_cut) = match entry.reply.clone() {
            Replied::With {
                status,
                headers,
                body,
                is_cut,
            } => (status, headers, body, is_cut),
            Replied::Lost => return self.later(now, due, Answer::Close),
            Replied::Never => return self.never(),
        };
        let body = match body {
            HarBody::Whole(body) => body,
            HarBody::Lossy(text) => Bytes::from(text),
            HarBody::Hash { sha256, .. } => match self.bodies.get(&sha256) {
                Some(given) => given.clone(),
                None if key.is_download() => Bytes::from_static(EMPTY_ZIP),
                None => Bytes::new(),
            },
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        let mut response = self.rewrite.to_actual(response);
        if key.is_poll()
            && let Some(job) = self.script.entry(at).reply.hands_out()
        {
            self.live.insert(job);
            self.stored.insert(job, 0);
            self.script.handed_out(at, job, due);
        }
        if let Some(job) = key.job {
            self.note(job, &key, &response);
            self.set_range(job, request, &mut response);
        }
        if is_cut {
            let len = HeaderValue::from(response.body().len() as u64 + 1);
            response.headers_mut().insert(CONTENT_LENGTH, len);
        }
        self.later(now, due, Answer::Reply(response))
    }

    /// What an answer means for the life of a job.
    fn note(&mut self, job: JobId, key: &Key, response: &Response<Bytes>) {
        let status = response.status().as_u16();
        let job_status = response.headers().get("job-status");
        let is_ended = job_status.is_some_and(|it| it == "canceled" || it == "failed");
        let is_reported = key.is_final() && status == 200;
        if is_ended || is_reported || status == 403 {
            self.live.remove(&job);
        }
    }

    /// The log that came counts, not the recorded one.
    fn set_range(&mut self, job: JobId, request: &Request<Bytes>, response: &mut Response<Bytes>) {
        let range = request.headers().get("content-range");
        let range = range.and_then(|range| end_of(range.to_str().ok()?));
        let stored = self.stored.entry(job).or_default();
        let end = match (response.status().as_u16(), range) {
            (202, Some(end)) => {
                *stored = end;
                end
            }
            (416, _) if self.mode == Mode::Lenient => {
                let recorded = headers::stored_size(response.headers()).unwrap_or(0);
                recorded.min(*stored)
            }
            _ => return,
        };
        if let Ok(value) = HeaderValue::from_str(&format!("0-{end}")) {
            let name = HeaderName::from_static("range");
            response.headers_mut().insert(name, value);
        }
    }

    /// What the recording does not have, as GitLab answers it when all is well.
    fn usual(&mut self, now: Time, key: &Key, request: &Request<Bytes>) -> Answer {
        let status = match key {
            key if key.is_poll() => StatusCode::NO_CONTENT,
            key if key.is_patch() => StatusCode::ACCEPTED,
            key if key.is_upload() => StatusCode::CREATED,
            key if key.is_update() || key.is_verify() => StatusCode::OK,
            _ => StatusCode::NOT_FOUND,
        };
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = status;
        if let Some(job) = key.job {
            self.note(job, key, &response);
            self.set_range(job, request, &mut response);
        }
        let due = if key.is_poll() { now + IDLE } else { now };
        let answer = self.later(now, due, Answer::Reply(response));
        if let Answer::Hold(hold) = &answer {
            self.idle.insert(*hold);
        }
        answer
    }

    fn later(&mut self, now: Time, due: Time, answer: Answer) -> Answer {
        if due <= now {
            return answer;
        }
        let hold = self.hold();
        self.holds.insert(hold, (due, answer));
        Answer::Hold(hold)
    }

    fn never(&mut self) -> Answer {
        let hold = self.hold();
        self.idle.insert(hold);
        Answer::Hold(hold)
    }

    fn hold(&mut self) -> HoldId {
        self.next_hold += 1;
        HoldId::new(self.next_hold)
    }
}

/// Behind the last byte of `0-9` or `0-9/10`.
fn end_of(content_range: &str) -> Option<u64> {
    let (_, end) = content_range.split_once('-')?;
    let end: u64 = end.split('/').next()?.trim().parse().ok()?;
    Some(end.saturating_add(1))
}

/// A field of a JSON object as it stands.
fn value(body: &[u8], name: &str) -> String {
    let body: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let value = body.and_then(|body| body.get(name).cloned());
    value.map_or("missing".to_owned(), |value| value.to_string())
}

impl Server for HarServer {
    fn handle(&mut self, now: Time, request: Request<Bytes>) -> Answer {
        self.requests += 1;
        if self.mismatch.is_some() {
            return self.never();
        }
        let key = Key::of(
            request.method().as_str(),
            request.uri().path(),
            request.body(),
        );
        let is_past_the_end = key.is_poll() && self.is_over();
        let entry = match self.mode {
            _ if is_past_the_end && self.script.next(&key).is_none() => None,
            Mode::Strict => match self.strict(&key, &request) {
                Some(at) => Some(at),
                None => return self.never(),
            },
            Mode::Lenient => self.lenient(now, &key, &request),
        };
        match entry {
            Some(at) => self.answer(now, at, &request),
            None => self.usual(now, &key, &request),
        }
    }

    fn poll_answer(&mut self, now: Time) -> Option<(HoldId, Answer)> {
        let due = self.holds.iter().find(|(_, (at, _))| *at <= now);
        let hold = due.map(|(hold, _)| *hold)?;
        self.idle.remove(&hold);
        self.holds.remove(&hold).map(|(_, answer)| (hold, answer))
    }

    fn poll_timeout(&self) -> Option<Time> {
        self.holds.values().map(|(at, _)| *at).min()
    }

    fn drop_hold(&mut self, hold: HoldId) {
        self.holds.remove(&hold);
        self.idle.remove(&hold);
    }
}

/// Counts only.
impl fmt::Debug for HarServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HarServer")
            .field("mode", &self.mode)
            .field("requests", &self.requests)
            .field("left", &self.script.left().len())
            .finish_non_exhaustive()
    }
}
