//! Jobs: what users and the server itself do with them.

use std::collections::VecDeque;

use super::{MockGitlab, RunnerNumber, runners::Runner};
use crate::{
    JobId, Secret, Time,
    mock::{
        job::JobSpec,
        report::{ArtifactReport, JobReport, JobStatus, StateChange},
    },
};

const FIRST_JOB: u64 = 4001;
const FIRST_PIPELINE: usize = 601;
/// The largest exit code that is stored.
const MAX_EXIT_CODE: i64 = 32767;

pub(super) struct Job {
    pub(super) report: JobReport,
    pub(super) spec: JobSpec,
    pub(super) token: Secret,
    pub(super) pipeline: usize,
    /// Jobs that must have succeeded before this one is queued.
    pub(super) after: Vec<JobId>,
    /// Those of them whose archives it gets.
    pub(super) dependencies: Vec<JobId>,
    pub(super) erased: bool,
    pub(super) project_deleted: bool,
    pub(super) token_expired: bool,
    pub(super) watched: bool,
    /// When a request with its token was last let through.
    pub(super) last_heard: Time,
    /// How many more attempts find the log locked.
    pub(super) lock_failures: u32,
    pub(super) pending_state: Option<PendingState>,
    /// When the log as it is now will have been persisted, once that was asked for.
    pub(super) persisted_at: Option<Time>,
}

/// A final update that waits for the log to be persisted.
pub(super) struct PendingState {
    pub(super) created_at: Time,
}

/// A job that was handed out but not committed to.
pub(super) struct Parked {
    pub(super) until: Time,
    pub(super) runner: RunnerNumber,
    pub(super) system_id: String,
    /// Its manager is known already, without a commit.
    pub(super) has_manager: bool,
}

impl Job {
    pub(super) fn status(&self) -> JobStatus {
        self.report.status
    }

    pub(super) fn pipeline_number(&self) -> u64 {
        (FIRST_PIPELINE + self.pipeline) as u64
    }

    /// The archive that can be downloaded from it.
    pub(super) fn archive(&self) -> Option<&ArtifactReport> {
        let archive = self.report.artifact("archive");
        archive.filter(|archive| archive.removed_at.is_none())
    }

    /// Whether it had an archive, or could have had one, that is not to be had any more.
    pub(super) fn has_lost_archive(&self) -> bool {
        self.erased || (self.report.artifact("archive").is_some() && self.archive().is_none())
    }

    /// The seconds it may run on this runner.
    pub(super) fn timeout_on(&self, runner: Option<&Runner>) -> u64 {
        let longest = runner.and_then(|runner| runner.maximum_timeout);
        longest.map_or(self.spec.timeout, |longest| longest.min(self.spec.timeout))
    }
}

/// What users and administrators do.
impl MockGitlab {
    /// A user cancels a job; the status it has then. A running job becomes `canceling` when the
    /// stored features of its manager have `cancel_gracefully`, else it is `canceled` at once.
    pub fn cancel(&mut self, job: JobId) -> Option<JobStatus> {
        let status = self.status(job)?;
        match status {
            JobStatus::Running if self.cancels_gracefully(job) => {
                self.transition(job, JobStatus::Canceling);
            }
            JobStatus::Created | JobStatus::Pending | JobStatus::Running => {
                self.transition(job, JobStatus::Canceled);
            }
            _ => {}
        }
        self.status(job)
    }

    /// A user cancels a job that is `canceling`, or any that is not finished, for good.
    pub fn force_cancel(&mut self, job: JobId) -> Option<JobStatus> {
        if !self.status(job)?.is_finished() {
            self.transition(job, JobStatus::Canceled);
        }
        self.status(job)
    }

    /// The server itself fails a job that is not finished, as when its time is over
    /// (`job_execution_timeout`) or nothing was heard of it (`stuck_or_timeout_failure`).
    pub fn drop_job(&mut self, job: JobId, reason: &str) -> Option<JobStatus> {
        self.fail(job, reason, None);
        self.status(job)
    }

    /// Erases a job: its log and its artifacts are gone and its token is refused. The report
    /// keeps the artifacts.
    pub fn erase(&mut self, job: JobId) {
        self.expire_artifacts(job);
        if let Some(job) = self.jobs.get_mut(&job) {
            job.erased = true;
            job.report.log.clear();
        }
    }

    /// Deletes the project of a job: its token is refused, and it is not handed out any more.
    pub fn delete_project(&mut self, job: JobId) {
        if let Some(job) = self.jobs.get_mut(&job) {
            job.project_deleted = true;
        }
    }

    /// Lets the token of a job expire, which only a JWT does. The next request with it fails
    /// the job.
    pub fn expire_token(&mut self, job: JobId) {
        if let Some(job) = self.jobs.get_mut(&job) {
            job.token_expired = true;
        }
    }

    /// Opens or closes the page with the live log: 3 or 60 s between patches.
    pub fn watch(&mut self, job: JobId, watched: bool) {
        if let Some(job) = self.jobs.get_mut(&job) {
            job.watched = watched;
        }
    }

    /// Loses all of the log behind its first `len` bytes, as when chunks in memory are lost.
    pub fn shrink_trace(&mut self, job: JobId, len: usize) {
        if let Some(job) = self.jobs.get_mut(&job) {
            job.report.log.truncate(len);
        }
    }

    /// Lets somebody else hold the lock of a log for the next `attempts` requests that need it:
    /// a patch gets 409 and a final update that waits for the log 202.
    pub fn lock_trace(&mut self, job: JobId, attempts: u32) {
        if let Some(job) = self.jobs.get_mut(&job) {
            job.lock_failures = attempts;
        }
    }

    /// A job that waits for its runner to commit to it has its manager already, as when the commit
    /// comes at the same time: the update to `pending` is answered 409 from now on.
    pub fn assign_manager(&mut self, job: JobId) {
        if let Some(parked) = self.parked.get_mut(&job) {
            parked.has_manager = true;
        }
    }

    /// The next `requests` job requests that would get a job get 409 instead.
    pub fn conflict(&mut self, requests: u32) {
        self.conflicts = requests;
    }

    /// What is known of a job.
    pub fn report(&self, job: JobId) -> Option<&JobReport> {
        self.jobs.get(&job).map(|job| &job.report)
    }

    /// What is known of every job, in order of their numbers.
    pub fn reports(&self) -> impl Iterator<Item = &JobReport> {
        self.jobs.values().map(|job| &job.report)
    }

    /// The token of a job.
    pub fn job_token(&self, job: JobId) -> Option<&Secret> {
        self.jobs.get(&job).map(|job| &job.token)
    }

    /// Whether all jobs are finished.
    pub fn is_idle(&self) -> bool {
        self.unfinished == 0
    }
}

impl MockGitlab {
    pub(super) fn status(&self, job: JobId) -> Option<JobStatus> {
        self.jobs.get(&job).map(Job::status)
    }

    /// A runner has the job from now on.
    pub(super) fn start(&mut self, job: JobId, runner: RunnerNumber, system_id: String) {
        if let Some(job) = self.jobs.get_mut(&job) {
            job.report.runner = Some(runner);
            job.report.system_id = Some(system_id);
        }
        self.transition(job, JobStatus::Running);
    }

    /// A job that is to be cancelled ends as canceled, whatever its runner says.
    pub(super) fn succeed(&mut self, job: JobId) {
        match self.status(job) {
            Some(JobStatus::Canceling) => self.transition(job, JobStatus::Canceled),
            Some(status) if !status.is_finished() => self.transition(job, JobStatus::Success),
            _ => {}
        }
    }

    pub(super) fn fail(&mut self, id: JobId, reason: &str, exit_code: Option<i64>) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        match job.status() {
            JobStatus::Canceling => self.transition(id, JobStatus::Canceled),
            status if !status.is_finished() => {
                job.report.failure_reason = Some(reason.to_owned());
                job.report.exit_code = exit_code.map(|code| code.clamp(0, MAX_EXIT_CODE));
                self.transition(id, JobStatus::Failed);
            }
            _ => {}
        }
    }

    /// `reason` if this server knows it, else what it stores instead.
    pub(super) fn known_reason(&self, job: JobId, reason: Option<&str>) -> String {
        let known = self
            .jobs
            .get(&job)
            .and_then(|job| job.spec.failure_reasons.as_ref())
            .unwrap_or(&self.settings.failure_reasons);
        reason
            .filter(|reason| known.iter().any(|name| name == reason))
            .unwrap_or("unknown_failure")
            .to_owned()
    }

    fn cancels_gracefully(&self, job: JobId) -> bool {
        let manager = self.jobs.get(&job).and_then(|job| {
            let runner = self.runners.get(&job.report.runner?)?;
            runner.managers.get(job.report.system_id.as_ref()?)
        });
        manager.is_some_and(|manager| manager.has_feature("cancel_gracefully"))
    }

    pub(super) fn create_job(&mut self, spec: JobSpec, pipeline: usize) -> JobId {
        let id = JobId(
            self.jobs
                .keys()
                .next_back()
                .map_or(FIRST_JOB, |last| last.0 + 1),
        );
        let token = if self.settings.jwt_job_tokens {
            let (claims, signature) = (self.random.word(1100), self.random.word(342));
            format!("eyJhbGciOiJSUzI1NiJ9.{claims}.{signature}")
        } else {
            format!("glcbt-64_{}", self.random.word(20))
        };
        let report = JobReport {
            id,
            name: spec.name.clone(),
            stage: spec.stage.clone(),
            status: JobStatus::Created,
            failure_reason: None,
            exit_code: None,
            log: Vec::new(),
            debug_trace: false,
            created_at: self.now,
            queued_at: None,
            started_at: None,
            finished_at: None,
            runner: None,
            system_id: None,
            reported_checksum: None,
            reported_bytesize: None,
            final_updates: 0,
            artifacts: Vec::new(),
            changes: vec![StateChange {
                at: self.now,
                status: JobStatus::Created,
            }],
            requests: VecDeque::new(),
        };
        self.tokens.insert(token.clone(), id);
        self.unfinished += 1;
        let job = Job {
            report,
            spec,
            token: token.into(),
            pipeline,
            after: Vec::new(),
            dependencies: Vec::new(),
            erased: false,
            project_deleted: false,
            token_expired: false,
            watched: false,
            last_heard: self.now,
            lock_failures: 0,
            pending_state: None,
            persisted_at: None,
        };
        self.jobs.insert(id, job);
        id
    }

    fn transition(&mut self, id: JobId, status: JobStatus) {
        self.set_status(id, status);
        if let Some(job) = self.jobs.get(&id).filter(|_| status.is_finished()) {
            self.advance_pipeline(job.pipeline);
        }
    }

    pub(super) fn set_status(&mut self, id: JobId, status: JobStatus) {
        let now = self.now;
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let report = &mut job.report;
        report.status = status;
        report.changes.push(StateChange { at: now, status });
        match status {
            JobStatus::Pending => report.queued_at = Some(now),
            JobStatus::Running => {
                report.started_at = Some(now);
                job.last_heard = now;
            }
            status if status.is_finished() => {
                report.finished_at = Some(now);
                self.unfinished = self.unfinished.saturating_sub(1);
            }
            _ => {}
        }
        if status == JobStatus::Pending {
            self.queue.insert(id);
            self.bump_queues();
        } else {
            self.queue.remove(&id);
            self.parked.remove(&id);
        }
        if matches!(status, JobStatus::Running | JobStatus::Canceling) {
            self.live.insert(id);
        } else {
            self.live.remove(&id);
        }
    }
}
