//! What the simulated server has seen of each job, for a test to look at.

use std::{borrow::Cow, collections::VecDeque, fmt};

use http::Method;

use super::RunnerNumber;
use crate::{JobId, Time};

/// Requests that a log of requests keeps; older ones are dropped.
pub(super) const MAX_REQUESTS: usize = 10_000;

/// Everything the server knows about a job.
#[derive(Clone)]
#[non_exhaustive]
pub struct JobReport {
    /// The job's number.
    pub id: JobId,
    /// Its name.
    pub name: String,
    /// Its stage.
    pub stage: String,
    /// Its status now.
    pub status: JobStatus,
    /// Why it failed, as stored: a reason this server does not know is `unknown_failure`.
    pub failure_reason: Option<String>,
    /// The exit code sent with a failure, as stored: 0 to 32767.
    pub exit_code: Option<i64>,
    /// The log as it was received, byte by byte. A real server would replace the job's token in
    /// it; here a leak stays visible.
    pub log: Vec<u8>,
    /// The log was marked as a debug log, by `debug_trace` on its first chunk.
    pub debug_trace: bool,
    /// When the pipeline was made.
    pub created_at: Time,
    /// When the job could be asked for.
    pub queued_at: Option<Time>,
    /// When it began to run on the runner, as far as the server knows.
    pub started_at: Option<Time>,
    /// When it reached its last status.
    pub finished_at: Option<Time>,
    /// The runner that has it.
    pub runner: Option<RunnerNumber>,
    /// The `system_id` of the manager that has it; `<legacy>` when none was sent.
    pub system_id: Option<String>,
    /// The checksum of the log in the first final update.
    pub reported_checksum: Option<String>,
    /// The size of the log in the first final update, in bytes.
    pub reported_bytesize: Option<i64>,
    /// How many final updates came with the job's own token, whatever they were answered.
    pub final_updates: u32,
    /// Every status the job has had, in order, the first one included.
    pub changes: Vec<StateChange>,
    /// The requests for this job, the last 10,000 of them.
    pub requests: VecDeque<RequestRecord>,
}

impl JobReport {
    /// The log as text; bytes that are not UTF-8 become U+FFFD.
    pub fn log_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.log)
    }

    /// Whether the job has reached its last status.
    pub fn is_finished(&self) -> bool {
        self.status.is_finished()
    }

    /// Whether the reported checksum is that of the log (`crc32:` and eight digits); `None`
    /// without one. A real server only logs a mismatch.
    pub fn checksum_matches(&self) -> Option<bool> {
        let reported = self.reported_checksum.as_ref()?;
        Some(*reported == format!("crc32:{:08x}", crc32fast::hash(&self.log)))
    }

    /// Whether the reported size is that of the log; `None` without one.
    pub fn bytesize_matches(&self) -> Option<bool> {
        Some(usize::try_from(self.reported_bytesize?) == Ok(self.log.len()))
    }

    /// Final updates beyond the first.
    pub fn duplicate_finals(&self) -> u32 {
        self.final_updates.saturating_sub(1)
    }

    /// The statuses the job has had, in order.
    pub fn statuses(&self) -> Vec<JobStatus> {
        self.changes.iter().map(|change| change.status).collect()
    }
}

/// Without the log: it may hold secrets.
impl fmt::Debug for JobReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobReport")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("stage", &self.stage)
            .field("status", &self.status)
            .field("failure_reason", &self.failure_reason)
            .field("exit_code", &self.exit_code)
            .field("log_len", &self.log.len())
            .field("final_updates", &self.final_updates)
            .field("changes", &self.changes)
            .field("requests", &self.requests)
            .finish_non_exhaustive()
    }
}

/// The status of a job, by GitLab's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum JobStatus {
    /// Waits for earlier jobs of its pipeline.
    Created,
    /// May be asked for, or was handed out and is not yet committed.
    Pending,
    /// On a runner.
    Running,
    /// To be stopped gracefully by its runner.
    Canceling,
    /// Stopped.
    Canceled,
    /// Done.
    Success,
    /// Failed.
    Failed,
    /// Never run, since an earlier job did not succeed.
    Skipped,
}

impl JobStatus {
    /// GitLab's name for it, as in `Job-Status`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Canceling => "canceling",
            Self::Canceled => "canceled",
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }

    /// Whether it is a last status.
    pub const fn is_finished(self) -> bool {
        matches!(
            self,
            Self::Canceled | Self::Success | Self::Failed | Self::Skipped
        )
    }
}

impl fmt::Display for JobStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A job got a new status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StateChange {
    /// When.
    pub at: Time,
    /// Which.
    pub status: JobStatus,
}

/// One request and how it was answered. It holds no token: neither the query nor the body.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RequestRecord {
    /// When it came.
    pub at: Time,
    /// Its method.
    pub method: Method,
    /// Its path, without the query.
    pub path: String,
    /// The job it is about, if its path names one.
    pub job: Option<JobId>,
    /// Its `Content-Range`.
    pub content_range: Option<String>,
    /// The length of its body.
    pub body_len: usize,
    /// The `state` of an update.
    pub state: Option<String>,
    /// The status it was answered with; the one that got lost, when the connection was closed
    /// after processing. `None` when it was closed before, or while the request is on hold.
    pub status: Option<u16>,
    /// When it was answered.
    pub answered_at: Option<Time>,
    /// Whether the answer was given to the client.
    pub delivered: bool,
}
