//! `PUT jobs/:id`: keep-alive and final state.

use std::time::Duration;

use http::StatusCode;

use super::{
    MockGitlab,
    auth::RateKey,
    jobs::PendingState,
    params::Params,
    poll::PARKED_FOR,
    reply::{self, Refused, Reply},
};
use crate::JobId;

/// A final update that has waited longer than this is applied, persisted log or not.
const PENDING_STATE_PATIENCE: Duration = Duration::from_secs(5 * 60);

struct Update {
    state: String,
    failure_reason: Option<String>,
    exit_code: Option<i64>,
    checksum: Option<String>,
    bytesize: Option<i64>,
}

impl MockGitlab {
    pub(super) fn update(
        &mut self,
        id: &str,
        params: Result<Params, Refused>,
    ) -> Result<Reply, Refused> {
        self.check_migration()?;
        let params = params?;
        let mut check = params.check();
        let id = check.id(id);
        let token = check.required_string("token");
        let mut update = Update {
            state: check.string("state").unwrap_or_default(),
            failure_reason: check.string("failure_reason"),
            exit_code: check.integer("exit_code"),
            checksum: check.string("checksum"),
            bytesize: None,
        };
        check.inside("output", |output| {
            let checksum = output.string("checksum");
            update.checksum = checksum.or_else(|| update.checksum.take());
            update.bytesize = output.integer("bytesize");
        });
        check.finish()?;
        update.checksum = update.checksum.filter(|checksum| !checksum.is_empty());
        self.check_rate(RateKey::Update, &token)?;
        self.note_final(JobId(id), &token, &update);
        let job = self.authenticate_job(id, &token)?;

        let outcome = self.take_update(job, &update);
        let mut reply = match outcome {
            Outcome::Status(StatusCode::INTERNAL_SERVER_ERROR) => {
                return Ok(reply::message(StatusCode::INTERNAL_SERVER_ERROR));
            }
            Outcome::Status(status) => reply::bare(status),
            Outcome::NotYet(interval) => reply::with(
                reply::bare(StatusCode::ACCEPTED),
                "X-GitLab-Trace-Update-Interval",
                &interval.to_string(),
            ),
        };
        if self.settings.job_status_on_update {
            reply = reply::with(reply, "Job-Status", self.status_text(job));
        }
        Ok(reply)
    }

    /// Counts a final update, and keeps what the first one says of the log.
    fn note_final(&mut self, id: JobId, token: &str, update: &Update) {
        if !matches!(update.state.as_str(), "success" | "failed")
            || self.tokens.get(token) != Some(&id)
        {
            return;
        }
        if let Some(job) = self.jobs.get_mut(&id) {
            let report = &mut job.report;
            if report.final_updates == 0 {
                report.reported_checksum.clone_from(&update.checksum);
                report.reported_bytesize = update.bytesize;
            }
            report.final_updates = report.final_updates.saturating_add(1);
        }
    }

    fn take_update(&mut self, id: JobId, update: &Update) -> Outcome {
        if self.parked.contains_key(&id) {
            let status = self.commit(id, &update.state);
            if update.state != "running" || status != StatusCode::OK {
                return Outcome::Status(status);
            }
        }
        let waits = self.settings.incremental_logging && update.checksum.is_some();
        if update.state == "running" || !waits {
            return Outcome::Status(self.apply(id, update));
        }
        if !matches!(update.state.as_str(), "success" | "failed") {
            // No row can be made with such a state, and nothing catches that.
            return Outcome::Status(StatusCode::INTERNAL_SERVER_ERROR);
        }
        match self.pending_interval(id) {
            Some(interval) => Outcome::NotYet(interval),
            None => Outcome::Status(self.apply(id, update)),
        }
    }

    /// The answer to an update of a job that its runner has not committed to.
    fn commit(&mut self, id: JobId, state: &str) -> StatusCode {
        let until = self.now + PARKED_FOR;
        let Some(parked) = self.parked.get_mut(&id) else {
            return StatusCode::BAD_REQUEST;
        };
        match state {
            "pending" if parked.has_manager => StatusCode::CONFLICT,
            "pending" => {
                parked.until = until;
                StatusCode::OK
            }
            "running" => {
                let (runner, system_id) = (parked.runner, parked.system_id.clone());
                let managers = self.runners.get(&runner).map(|runner| &runner.managers);
                if !managers.is_some_and(|managers| managers.contains_key(&system_id)) {
                    return StatusCode::BAD_REQUEST;
                }
                self.start(id, runner, system_id);
                StatusCode::OK
            }
            _ => StatusCode::BAD_REQUEST,
        }
    }

    fn apply(&mut self, id: JobId, update: &Update) -> StatusCode {
        match update.state.as_str() {
            "running" => {}
            "success" => self.succeed(id),
            "failed" => {
                let reason = self.known_reason(id, update.failure_reason.as_deref());
                self.fail(id, &reason, update.exit_code);
            }
            _ => return StatusCode::BAD_REQUEST,
        }
        StatusCode::OK
    }

    /// The interval after which to repeat a final update, or `None` when it can be applied.
    fn pending_interval(&mut self, id: JobId) -> Option<u64> {
        let (now, delay) = (self.now, self.settings.chunk_persist_delay);
        let job = self.jobs.get_mut(&id)?;
        let created_at = job
            .pending_state
            .get_or_insert(PendingState { created_at: now })
            .created_at;
        let age = now.since(created_at);
        if job.lock_failures > 0 {
            job.lock_failures -= 1;
            return Some(interval(age));
        }
        // Persisting starts when it is first asked for, so it is never done at once.
        let persisted = match job.persisted_at {
            Some(at) => at <= now,
            None if job.report.log.is_empty() => true,
            None => {
                job.persisted_at = Some(now + delay);
                false
            }
        };
        (!persisted && age <= PENDING_STATE_PATIENCE).then(|| interval(age))
    }
}

enum Outcome {
    Status(StatusCode),
    /// Repeat after this number of seconds.
    NotYet(u64),
}

/// 1 s for a fresh pending state, then doubling with its age up to 64 s.
fn interval(age: Duration) -> u64 {
    let exponent = age.as_secs().checked_ilog2().unwrap_or(0);
    1 << exponent.saturating_sub(1).min(6)
}
