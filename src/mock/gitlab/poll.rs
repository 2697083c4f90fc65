//! `POST jobs/request`: first Workhorse, which may hold it, then Rails.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use serde_json::{Map, Value};

use super::{
    MockGitlab, Processed, RunnerNumber,
    auth::RateKey,
    jobs::{Job, Parked},
    params::{Params, media_type},
    plan::Spoil,
    reply::{self, Refused, Reply},
    runners::is_true,
};
use crate::{
    JobId, Secret, Time,
    mock::{
        Answer, HoldId,
        payload::{Context, Dependency},
    },
};

/// The largest body that Workhorse lets through.
const MAX_BODY: usize = 32 * 1024;
/// Shorter long polls are answered at once.
const SHORTEST_HOLD: Duration = Duration::from_millis(1);
/// Jobs that the server fails for one request before it gives up with a conflict.
const MAX_CANDIDATES: usize = 45;
/// How long a job handed out with two-phase commit waits for its runner.
pub(super) const PARKED_FOR: Duration = Duration::from_secs(120);

const POLLING: &str = "Gitlab-Ci-Builds-Polling";
const LAST_UPDATE: &str = "X-GitLab-Last-Update";

/// A job request that Workhorse holds.
pub(super) struct Hold {
    /// The number of its record.
    pub(super) number: u64,
    runner: RunnerNumber,
    token: Secret,
    last_update: String,
    deadline: Time,
    /// What becomes of the answer, if a fault was planned.
    spoil: Option<Spoil>,
}

impl MockGitlab {
    pub(super) fn poll(
        &mut self,
        request: &Request<Bytes>,
        params: Result<Params, Refused>,
    ) -> Processed {
        let Some(duration) = self
            .settings
            .long_poll
            .filter(|long_poll| !long_poll.is_zero())
        else {
            return Processed::Reply(self.request_job(params).unwrap_or_else(|refused| *refused));
        };
        let polling = |reply| Processed::Reply(reply::with(reply, POLLING, "yes"));
        if request.body().len() > MAX_BODY {
            let status = StatusCode::PAYLOAD_TOO_LARGE;
            return polling(reply::text(status, "Request Entity Too Large\n"));
        }
        match self.current_poller(request) {
            Some(_) if duration < SHORTEST_HOLD => polling(reply::no_content()),
            Some((runner, token, last_update)) => Processed::Hold(Hold {
                number: 0,
                runner,
                token,
                last_update,
                deadline: self.now + duration,
                spoil: None,
            }),
            None => polling(self.request_job(params).unwrap_or_else(|refused| *refused)),
        }
    }

    pub(super) fn put_on_hold(
        &mut self,
        mut hold: Hold,
        number: u64,
        spoil: Option<Spoil>,
    ) -> Answer {
        let id = HoldId::new(self.next_hold);
        self.next_hold += 1;
        hold.number = number;
        hold.spoil = spoil;
        self.holds.insert(id, hold);
        Answer::Hold(id)
    }

    /// Workhorse's own 204, to a hold that is over. It does not tell the queue value.
    pub(super) fn release_hold(&mut self) -> Option<(HoldId, Answer)> {
        let (id, _) = self
            .holds
            .iter()
            .find(|(_, hold)| hold.deadline <= self.now || self.has_news(hold))?;
        let id = *id;
        let hold = self.holds.remove(&id)?;
        let reply = reply::with(reply::no_content(), POLLING, "yes");
        let delivered = hold.spoil.as_ref().is_none_or(Spoil::delivers);
        self.answered(hold.number, Some(reply.status()), delivered);
        let answer = match hold.spoil {
            None => Answer::Reply(reply),
            Some(spoil) => spoil.apply(reply),
        };
        Some((id, answer))
    }

    pub(super) fn hold_deadlines(&self) -> impl Iterator<Item = Time> {
        self.holds.values().map(|hold| {
            if self.has_news(hold) {
                self.now
            } else {
                hold.deadline
            }
        })
    }

    /// Whether what the hold waits for has come. The value belongs to a token: nothing comes any
    /// more for one that was reset meanwhile.
    fn has_news(&self, hold: &Hold) -> bool {
        let Some(runner) = self.runners.get(&hold.runner) else {
            return true;
        };
        runner.token.expose() == hold.token.expose() && runner.last_update != hold.last_update
    }

    /// The runner, its token and its queue value if Workhorse would wait: a JSON body whose `last_update`
    /// is current. Workhorse looks at nothing else.
    fn current_poller(&self, request: &Request<Bytes>) -> Option<(RunnerNumber, Secret, String)> {
        if media_type(request)? != "application/json" {
            return None;
        }
        let body: Value = serde_json::from_slice(request.body()).ok()?;
        let text = |name| body.get(name).and_then(Value::as_str);
        let token = text("token")?;
        let number = self.runner_with(token)?;
        let current = self.last_update(number)?;
        (text("last_update")? == current).then(|| (number, token.into(), current.to_owned()))
    }

    fn request_job(&mut self, params: Result<Params, Refused>) -> Result<Reply, Refused> {
        self.check_migration()?;
        let params = params?;
        let mut check = params.check();
        let token = check.required_string("token");
        let system_id = check.string("system_id");
        let last_update = check.string("last_update").unwrap_or_default();
        let info = check.hash("info").cloned();
        check.inside("info", |info| {
            let strings = [
                "name",
                "version",
                "revision",
                "platform",
                "architecture",
                "executor",
            ];
            for name in strings {
                info.string(name);
            }
            for name in ["features", "config", "labels"] {
                info.hash(name);
            }
        });
        let session = check.hash("session").cloned();
        check.inside("session", |session| {
            for name in ["url", "certificate", "authorization"] {
                session.string(name);
            }
        });
        check.finish()?;
        self.check_rate(RateKey::JobRequest, &token)?;
        let (runner, system_id) = self.authenticate_runner(&token, system_id, info.as_ref())?;

        // Read before the queue is looked at: what is queued meanwhile must not be missed.
        let value = self.last_update(runner).unwrap_or_default().to_owned();
        let nothing = reply::with(reply::no_content(), LAST_UPDATE, &value);
        let paused = self
            .runners
            .get(&runner)
            .is_some_and(|runner| runner.paused);
        if paused || last_update == value {
            return Ok(nothing);
        }
        let features = info
            .as_ref()
            .and_then(|info| info.get("features")?.as_object())
            .cloned()
            .unwrap_or_default();
        let Some(job) = self.pick_job(&features)? else {
            return Ok(nothing);
        };
        let session_url = session
            .as_ref()
            .and_then(|session| session.get("url")?.as_str());
        if self.settings.refuse_local_sessions && session_url.is_some_and(is_local) {
            return Err(reply::message(StatusCode::CONFLICT).into());
        }
        if self.conflicts > 0 {
            self.conflicts -= 1;
            return Err(reply::message(StatusCode::CONFLICT).into());
        }
        let payload = self.payload_of(job, runner, session_url);
        if self.settings.two_phase_commit && is_true(features.get("two_phase_job_commit")) {
            self.queue.remove(&job);
            let until = self.now + PARKED_FOR;
            let parked = Parked {
                until,
                runner,
                system_id,
                has_manager: false,
            };
            self.parked.insert(job, parked);
        } else {
            self.start(job, runner, system_id);
        }
        let reply = reply::json(StatusCode::CREATED, &Value::Null);
        Ok(reply.map(|_| payload))
    }

    /// The oldest job in the queue that can run, after failing those that cannot.
    fn pick_job(&mut self, features: &Map<String, Value>) -> Result<Option<JobId>, Refused> {
        for _ in 0..MAX_CANDIDATES {
            let Some(id) = self.queue.first().copied() else {
                return Ok(None);
            };
            let Some(job) = self.jobs.get(&id) else {
                self.queue.remove(&id);
                continue;
            };
            match self.unfit(job, features) {
                None => return Ok(Some(id)),
                Some(reason) => self.fail(id, &reason, None),
            }
        }
        if self.queue.is_empty() {
            return Ok(None);
        }
        Err(reply::message(StatusCode::CONFLICT).into())
    }

    /// Why the server fails a job instead of giving it to a runner with these features.
    fn unfit(&self, job: &Job, features: &Map<String, Value>) -> Option<String> {
        let supported = |name: &String| is_true(features.get(name));
        // Whoever names what it depends on cannot do without.
        let named = job.spec.needs.is_some() || job.spec.dependencies.is_some();
        let mut dependencies = job.dependencies.iter().filter_map(|id| self.jobs.get(id));
        if job.project_deleted {
            Some("project_deleted".to_owned())
        } else if let Some(reason) = &job.spec.dropped_as {
            Some(reason.clone())
        } else if named && dependencies.any(Job::has_lost_archive) {
            Some("missing_dependency_failure".to_owned())
        } else if !job.spec.required_features.iter().all(supported) {
            Some("runner_unsupported".to_owned())
        } else {
            None
        }
    }

    fn payload_of(&self, id: JobId, runner: RunnerNumber, session_url: Option<&str>) -> Bytes {
        let Some(job) = self.jobs.get(&id) else {
            return Bytes::new();
        };
        if let Some(raw) = &job.spec.raw_payload {
            return raw.clone();
        }
        let queued_at = job.report.queued_at.unwrap_or(self.now);
        let context = Context {
            settings: &self.settings,
            job: id,
            token: &job.token,
            pipeline: job.pipeline_number(),
            runner,
            runner_description: self
                .runners
                .get(&runner)
                .and_then(|runner| runner.description.as_deref()),
            timeout: job.timeout_on(self.runners.get(&runner)),
            seconds_in_queue: self.now.since(queued_at).as_secs(),
            queue_size: self.queue.len(),
            session_url,
            dependencies: self.dependencies_of(job),
        };
        context.payload(&job.spec).to_string().into()
    }

    fn dependencies_of<'a>(&'a self, job: &'a Job) -> Vec<Dependency<'a>> {
        let own_tokens = self.settings.own_dependency_tokens;
        let dependency = |id: &JobId| {
            let other = self.jobs.get(id)?;
            let archive = other.archive();
            Some(Dependency {
                job: *id,
                name: &other.spec.name,
                token: if own_tokens { &other.token } else { &job.token },
                archive: archive.map(|archive| (archive.filename.as_str(), archive.content.len())),
            })
        };
        job.dependencies.iter().filter_map(dependency).collect()
    }
}

/// Whether a URL points to the host itself or into a private network.
fn is_local(url: &str) -> bool {
    let Ok(uri) = url.parse::<http::Uri>() else {
        return false;
    };
    let host = uri.host().unwrap_or_default();
    if host == "localhost" || host.ends_with(".localhost") {
        return true;
    }
    match host.trim_matches(['[', ']']).parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V4(ip)) => {
            ip.is_loopback() || ip.is_private() || ip.is_link_local() || ip.is_unspecified()
        }
        Ok(std::net::IpAddr::V6(ip)) => ip.is_loopback() || ip.is_unspecified(),
        Err(_) => false,
    }
}
