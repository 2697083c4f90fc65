//! What the simulated server has seen of each job, for a test to look at.

use std::{borrow::Cow, collections::VecDeque, fmt};

use bytes::Bytes;
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
    /// The artifacts received, in order; one of each type.
    pub artifacts: Vec<ArtifactReport>,
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

    /// What was received of this type, such as `archive` or `junit`.
    pub fn artifact(&self, artifact_type: &str) -> Option<&ArtifactReport> {
        let mut artifacts = self.artifacts.iter();
        artifacts.find(|artifact| artifact.artifact_type == artifact_type)
    }

    /// The requests to upload an artifact of this type, whatever came of them.
    pub fn uploads(&self, artifact_type: &str) -> impl Iterator<Item = &RequestRecord> {
        let named =
            move |record: &&RequestRecord| record.artifact_type.as_deref() == Some(artifact_type);
        self.requests.iter().filter(named)
    }

    /// The requests to download the archive of this job, whatever came of them.
    pub fn downloads(&self) -> impl Iterator<Item = &RequestRecord> {
        let download = |record: &&RequestRecord| record.direct_download.is_some();
        self.requests.iter().filter(download)
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
            .field("artifacts", &self.artifacts)
            .field("changes", &self.changes)
            .field("requests", &self.requests)
            .finish_non_exhaustive()
    }
}

/// An artifact as the server stored it.
#[derive(Clone)]
#[non_exhaustive]
pub struct ArtifactReport {
    /// Its type, such as `archive` or `junit`.
    pub artifact_type: String,
    /// Its format: `zip`, `gzip` or `raw`.
    pub artifact_format: String,
    /// The name of the file, as the upload gave it.
    pub filename: String,
    /// When it is to expire, as the upload said it; the instance decides if it did not.
    pub expire_in: Option<String>,
    /// Who may read it, as the upload said it.
    pub accessibility: Option<String>,
    /// The file, byte by byte.
    pub content: Bytes,
    /// When it came.
    pub received_at: Time,
    /// How many uploads of it the server accepted: the first, and identical ones after it.
    pub accepted: u32,
    /// When it expired or was erased. It cannot be downloaded any more.
    pub removed_at: Option<Time>,
}

/// Without the content: it may hold secrets.
impl fmt::Debug for ArtifactReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArtifactReport")
            .field("artifact_type", &self.artifact_type)
            .field("artifact_format", &self.artifact_format)
            .field("filename", &self.filename)
            .field("expire_in", &self.expire_in)
            .field("content_len", &self.content.len())
            .field("accepted", &self.accepted)
            .field("removed_at", &self.removed_at)
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
    /// The length of its body, as far as it was read.
    pub body_len: usize,
    /// The job whose token it carried, if it carried one that belongs to a job.
    pub token_of: Option<JobId>,
    /// What an upload says it is an artifact of: `archive` unless told otherwise.
    pub artifact_type: Option<String>,
    /// Whether a download asks for a redirect to the object storage; `None` for other requests.
    pub direct_download: Option<bool>,
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
