//! What comes before a route's own logic: back-off, rate limits, job tokens.

use std::collections::BTreeMap;

use http::StatusCode;

use super::{
    MockGitlab,
    reply::{self, Refused},
};
use crate::{JobId, Time, mock::report::JobStatus};

/// Tokens that one minute's count keeps apart; beyond it new ones go uncounted.
const MAX_COUNTED: usize = 100_000;

/// The routes that are counted together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RateKey {
    JobRequest,
    Update,
    Trace,
}

/// Counts per key and token in the present minute. The windows are fixed, not sliding.
#[derive(Default)]
pub(super) struct RateLimits {
    minute: u64,
    counts: BTreeMap<(RateKey, String), u32>,
}

impl RateLimits {
    fn count(&mut self, now: Time, key: RateKey, token: &str) -> u32 {
        let minute = now.since_origin().as_secs() / 60;
        if minute != self.minute {
            self.minute = minute;
            self.counts.clear();
        }
        let key = (key, token.to_owned());
        if self.counts.len() >= MAX_COUNTED && !self.counts.contains_key(&key) {
            return 0;
        }
        let count = self.counts.entry(key).or_default();
        *count = count.saturating_add(1);
        *count
    }
}

impl MockGitlab {
    pub(super) fn check_migration(&self) -> Result<(), Refused> {
        if !self.settings.migration_backoff {
            return Ok(());
        }
        let reply = reply::message(StatusCode::TOO_MANY_REQUESTS);
        Err(reply::with(reply, "Retry-After", "60").into())
    }

    /// Retry-After is the whole minute, however little of it is left.
    pub(super) fn check_rate(&mut self, key: RateKey, token: &str) -> Result<(), Refused> {
        let limit = match key {
            RateKey::JobRequest => self.settings.job_request_limit,
            RateKey::Update => self.settings.update_limit,
            RateKey::Trace => self.settings.trace_limit,
        };
        if self.rates.count(self.now, key, token) > limit && limit > 0 {
            return Err(reply::rate_limited(60).into());
        }
        Ok(())
    }

    /// The job that may be updated with `token` on the route of job `id`, of which the server has
    /// heard with that. A token that has expired fails its job.
    pub(super) fn authenticate_job(&mut self, id: u64, token: &str) -> Result<JobId, Refused> {
        let owner = self.tokens.get(token).copied();
        let expired = owner.filter(|owner| {
            let job = self.jobs.get(owner);
            job.is_some_and(|job| job.token_expired) && self.jobs.contains_key(&JobId(id))
        });
        if let Some(owner) = expired {
            self.fail(owner, "job_token_expired", None);
        }
        let owner = self.check_job_token(id, token)?;
        self.heard_of(owner);
        Ok(owner)
    }

    /// The job whose routes are open to `token`, if it is the one with this `id`.
    ///
    /// The reason and the status in a refusal are those of the job that the token belongs to.
    pub(super) fn check_job_token(&self, id: u64, token: &str) -> Result<JobId, Refused> {
        let forbidden = || Err(reply::message(StatusCode::FORBIDDEN).into());
        if !self.jobs.contains_key(&JobId(id)) {
            return forbidden();
        }
        let Some(owner) = self.tokens.get(token).copied() else {
            return forbidden();
        };
        let Some(job) = self.jobs.get(&owner) else {
            return forbidden();
        };
        if job.token_expired {
            return Err(self.forbidden_with_status(owner, "Job token has expired"));
        }
        let processing = matches!(job.status(), JobStatus::Running | JobStatus::Canceling)
            || self.parked.contains_key(&owner);
        if !processing {
            return Err(self.forbidden_with_status(owner, "Job is not processing on runner"));
        }
        let because = |reason| Err(reply::message_because(StatusCode::FORBIDDEN, reason).into());
        if job.erased {
            return because("Job has been erased!");
        }
        if job.project_deleted {
            return because("Project has been deleted!");
        }
        if owner != JobId(id) {
            return forbidden();
        }
        Ok(owner)
    }

    /// Updates and patches count as contact with the manager that has the job.
    fn heard_of(&mut self, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        job.last_heard = self.now;
        let runner = job
            .report
            .runner
            .and_then(|runner| self.runners.get_mut(&runner));
        let (Some(runner), Some(system_id)) = (runner, &job.report.system_id) else {
            return;
        };
        if let Some(manager) = runner.managers.get_mut(system_id) {
            manager.last_contact = self.now;
        }
    }

    fn forbidden_with_status(&self, job: JobId, reason: &str) -> Refused {
        let reply = reply::message_because(StatusCode::FORBIDDEN, reason);
        reply::with(reply, "Job-Status", self.status_text(job)).into()
    }

    /// The status of a job, as `Job-Status` tells it.
    pub(super) fn status_text(&self, job: JobId) -> &'static str {
        self.jobs.get(&job).map_or("", |job| job.status().as_str())
    }
}
