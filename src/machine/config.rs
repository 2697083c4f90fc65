//! What the machine is told once: who it is, whom it asks, and its numbers.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::output::TimeLimit;
use crate::{
    protocol::{Info, ServerUrl},
    secret::Secret,
    time::WallTime,
};

/// Everything a [`RunnerMachine`](crate::machine::RunnerMachine) needs to know.
///
/// [`MachineConfig::new`] fills in good values for all but the first three. Serialising gives the token
/// as it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MachineConfig {
    /// Where GitLab is.
    pub server: ServerUrl,
    /// The runner authentication token (`glrt-…`).
    pub token: Secret,
    /// Names this runner manager among those that share the token; at most 64 bytes.
    pub system_id: String,
    /// What the runner says of itself. GitLab stores it on the first contact and then rarely.
    pub info: Info,
    /// The `User-Agent` header; what cannot stand in a header is left out.
    pub user_agent: String,
    /// The wall clock at the origin of all [`Time`](crate::Time)s, to read dates in headers.
    pub wall_origin: WallTime,
    /// Whether to keep the JSON of each job in [`JobPayload::raw`](crate::protocol::JobPayload::raw).
    pub keep_raw_payload: bool,
    /// Whether to ask `runners/verify` before the first job request.
    pub verify: bool,
    /// Whether to change the token before it expires, when three quarters of its life are over.
    /// Whoever drives the machine must be able to store the new one, and nobody else may use the
    /// old one. Off by default.
    pub rotate: bool,
    /// When the token was obtained, if that is known; its life is counted from there. By default
    /// from when GitLab first tells when it ends.
    pub token_obtained_at: Option<WallTime>,
    /// Whether to tell GitLab that a job is taken before its handler starts (two-phase commit).
    pub commit: bool,
    /// The wait after GitLab said that there is no job.
    pub poll_interval: Duration,
    /// A 204 that took at least this long was a held request: the next one is sent at once.
    pub long_poll_threshold: Duration,
    /// Time limit of a job request. Must be well above the time for which GitLab holds it (50 s).
    pub job_request_timeout: Duration,
    /// Time limit of every other request but those that carry artifacts.
    pub request_timeout: Duration,
    /// For how long an operator's [`Call`](crate::machine::Input::Call) is repeated.
    pub call_limit: Duration,
    /// How long it may take to store a new token. After that the machine goes on as if it could not
    /// be stored.
    pub persist_limit: Duration,
    /// The longest time in which nothing of an artifact moves, up or down.
    pub artifact_stall: Duration,
    /// The longest wait for an answer when all of an artifact was sent: GitLab may move it to object
    /// storage first.
    pub artifact_reply: Duration,
    /// How often the log is sent until the server says otherwise, and after a rewind.
    pub trace_interval: Duration,
    /// At most this many bytes of log are sent in one request.
    pub patch_limit: u64,
    /// After this long without contact about a job, it is kept alive by a `PUT`.
    pub keep_alive: Duration,
    /// How long a commit is tried; GitLab takes the job back after 2 minutes.
    pub commit_limit: Duration,
    /// How long the last log bytes and the final state are tried.
    pub final_update_limit: Duration,
    /// Whether the log of a job tells of each artifact that was uploaded, and not only of trouble.
    pub artifact_log: bool,
    /// How long a cancelled step may take to end by itself.
    pub cancel_grace: Duration,
    /// How long a step that ran out of time may take to end by itself.
    pub timeout_grace: Duration,
    /// How long the handler's clean-up may take.
    pub cleanup_limit: Duration,
    /// After [`StopMode::Abort`](crate::machine::StopMode::Abort), how long a job request on its
    /// way is still awaited.
    pub abort_patience: Duration,
    /// The time limit of a job whose payload names none.
    pub default_job_timeout: Duration,
}

impl MachineConfig {
    /// The default numbers for this runner on this server.
    pub fn new(server: ServerUrl, token: Secret, system_id: impl Into<String>) -> Self {
        Self {
            server,
            token,
            system_id: system_id.into(),
            info: Info::default(),
            user_agent: concat!("gitlab-runner-rs ", env!("CARGO_PKG_VERSION")).to_owned(),
            wall_origin: WallTime::default(),
            keep_raw_payload: false,
            verify: true,
            rotate: false,
            token_obtained_at: None,
            commit: true,
            poll_interval: Duration::from_secs(3),
            long_poll_threshold: Duration::from_secs(1),
            job_request_timeout: Duration::from_secs(120),
            request_timeout: Duration::from_secs(60),
            call_limit: Duration::from_secs(120),
            persist_limit: Duration::from_secs(60),
            artifact_stall: Duration::from_secs(60),
            artifact_reply: Duration::from_secs(600),
            trace_interval: Duration::from_secs(3),
            patch_limit: 1 << 20,
            keep_alive: Duration::from_secs(30),
            commit_limit: Duration::from_secs(120),
            final_update_limit: Duration::from_secs(3600),
            artifact_log: false,
            cancel_grace: Duration::from_secs(600),
            timeout_grace: Duration::from_secs(30),
            cleanup_limit: Duration::from_secs(300),
            abort_patience: Duration::from_secs(10),
            default_job_timeout: Duration::from_secs(7200),
        }
    }

    pub(super) fn upload_limit(&self) -> TimeLimit {
        TimeLimit::Idle {
            stall: self.artifact_stall,
            reply: self.artifact_reply,
        }
    }

    pub(super) fn download_limit(&self) -> TimeLimit {
        TimeLimit::Idle {
            stall: self.artifact_stall,
            reply: self.artifact_stall,
        }
    }
}
