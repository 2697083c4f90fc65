//! What an administrator, or the version of the server, decides.

use std::{collections::BTreeMap, time::Duration};

use crate::{Secret, WallTime, mock::artifact::TYPES};

/// How the simulated server is set up. The default is a current GitLab as shipped.
///
/// Change it at any time through [`MockGitlab::settings_mut`](super::MockGitlab::settings_mut).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// The URL of the instance, used in the payload (`CI_SERVER_URL`, the repository's URL …),
    /// without the relative root and without a slash at the end.
    pub external_url: String,
    /// The path below which the instance lives, such as `/gitlab`. Empty by default.
    pub relative_root: String,
    /// How long Workhorse holds a job request whose `last_update` is current. `None` takes the
    /// wrapper away; the shipped value is 50 ns: there, but hardly waiting. GitLab.com uses 50 s.
    pub long_poll: Option<Duration>,
    /// What `POST runners/verify` answers to a known token.
    pub verify: VerifyMode,
    /// The token with which `POST runners` adds a runner; without one every token is refused.
    pub registration_token: Option<Secret>,
    /// Whether registration tokens may be used at all; if not, they are answered with 410.
    pub registration_allowed: bool,
    /// How long an authentication token is good from when it is given; then it is unknown. `None`,
    /// as by default, is for ever.
    pub runner_token_life: Option<Duration>,
    /// Whether `verify`, registration and reset tell when a token ends (`token_expires_at`, null
    /// for never). Older servers do not.
    pub token_expiry_told: bool,
    /// Whether a token may be reset; if not, 422, as newer servers answer when they refuse it.
    pub token_reset_allowed: bool,
    /// The wall clock at the origin of the mock's time. What tells of the expiry of a token carries
    /// it in `Date`.
    pub wall_origin: WallTime,
    /// Where the Job Router is, for `GET runners/router/discovery`; 501 without one.
    pub job_router_url: Option<String>,
    /// A heavy database migration runs: every route answers 429 with `Retry-After: 60`.
    pub migration_backoff: bool,
    /// Job requests per minute and runner token; 0 is no limit.
    pub job_request_limit: u32,
    /// Job updates, downloads and twice the uploads (Workhorse asks first) per minute and job
    /// token; 0 is no limit.
    pub update_limit: u32,
    /// Trace patches per minute and job token; 0 is no limit. GitLab has a setting of its own for
    /// it, whose default we only assume to be that of the updates.
    pub trace_limit: u32,
    /// The log size in MiB at which the server fails the job; 0 is no limit.
    pub trace_size_limit: u64,
    /// The server fails a running job of which it has heard nothing for this long. GitLab looks
    /// for such jobs from time to time and gives them about an hour; here it is exact, and off
    /// (`None`) by default, so that a test is not surprised by it. A job that is canceling ends as
    /// canceled.
    pub no_updates_timeout: Option<Duration>,
    /// The server fails a job that runs for longer than its timeout and this. Off by default; a
    /// runner has to keep to the timeout by itself.
    pub server_timeout_grace: Option<Duration>,
    /// The server fails a job that nobody has asked for in this time. Off by default.
    pub pending_timeout: Option<Duration>,
    /// Two-phase commit as in the 18.x line: a job handed to a runner that advertises
    /// `two_phase_job_commit` stays pending until the runner says `running`. Newer servers have
    /// dropped it, so it is off by default.
    pub two_phase_commit: bool,
    /// Incremental logging: a final update with a checksum waits until the log is persisted.
    pub incremental_logging: bool,
    /// With incremental logging: how long it takes to persist the log once a final update has
    /// asked for it. [`Duration::MAX`] is never, which leaves the 5 minutes after which the server
    /// applies the update all the same.
    pub chunk_persist_delay: Duration,
    /// Whether answers to updates carry `Job-Status`. Older servers have it on 403 only.
    pub job_status_on_update: bool,
    /// Job tokens are JWTs (long, three parts with dots) instead of `glcbt-…`.
    pub jwt_job_tokens: bool,
    /// The instance forbids requests into the local network: a job request whose `session.url`
    /// points there gets 409 instead of a job.
    pub refuse_local_sessions: bool,
    /// Whether artifacts may be uploaded at all; if not, 405.
    pub artifacts_enabled: bool,
    /// The size in bytes up to which an artifact is taken; a larger one is answered 413.
    pub max_artifact_size: u64,
    /// How many bytes of an upload are read before it is refused, if its head alone gives reason
    /// to: it may not come from this job, says that it is too long, or a fault is planned that
    /// keeps it from being processed. The answer is then given while the client is still sending,
    /// as it is when an upload turns out to be too long. Over loopback only. `None` reads
    /// everything before it answers, as some proxies do. A real server reads nothing, which is
    /// the default.
    pub early_reply_after: Option<usize>,
    /// The types of artifacts this server knows, each with the format that it must have.
    pub artifact_types: BTreeMap<String, String>,
    /// The URL below which the [`ObjectStore`](crate::mock::ObjectStore) is served, without a
    /// slash at the end. With it `direct_download=true` is answered by a redirect to there;
    /// without it, as by default, artifacts are on the disk of the server.
    pub object_storage: Option<String>,
    /// Dependencies come with a token of their own, which alone opens them, as on old servers. By
    /// default they come with the token of the running job.
    pub own_dependency_tokens: bool,
    /// The failure reasons this server knows. Any other is stored as `unknown_failure`.
    pub failure_reasons: Vec<String>,
}

/// What `POST runners/verify` answers to a known token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum VerifyMode {
    /// 200 with the runner's id, token and expiry as JSON.
    Json,
    /// 200 in plain text, as servers up to 15.x did.
    PlainText,
    /// The route does not exist: 404.
    Missing,
}

impl Settings {
    /// The relative root with a slash before it and none behind it, or nothing.
    pub(in crate::mock) fn root(&self) -> String {
        match self.relative_root.trim_matches('/') {
            "" => String::new(),
            root => format!("/{root}"),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            external_url: "https://gitlab.example.test".into(),
            relative_root: String::new(),
            long_poll: Some(Duration::from_nanos(50)),
            verify: VerifyMode::Json,
            registration_token: None,
            registration_allowed: true,
            runner_token_life: None,
            token_expiry_told: true,
            token_reset_allowed: true,
            // 2025-01-01
            wall_origin: WallTime(Duration::from_secs(1_735_689_600)),
            job_router_url: None,
            migration_backoff: false,
            job_request_limit: 2000,
            update_limit: 200,
            trace_limit: 200,
            trace_size_limit: 100,
            no_updates_timeout: None,
            server_timeout_grace: None,
            pending_timeout: None,
            two_phase_commit: false,
            incremental_logging: false,
            chunk_persist_delay: Duration::from_secs(1),
            job_status_on_update: true,
            jwt_job_tokens: false,
            refuse_local_sessions: true,
            artifacts_enabled: true,
            max_artifact_size: 100 * 1024 * 1024,
            early_reply_after: Some(0),
            artifact_types: TYPES
                .iter()
                .map(|known| (known.name.to_owned(), known.format.to_owned()))
                .collect(),
            object_storage: None,
            own_dependency_tokens: false,
            failure_reasons: FAILURE_REASONS
                .iter()
                .map(|&name| name.to_owned())
                .collect(),
        }
    }
}

const FAILURE_REASONS: &[&str] = &[
    "unknown_failure",
    "script_failure",
    "api_failure",
    "stuck_or_timeout_failure",
    "runner_system_failure",
    "missing_dependency_failure",
    "runner_unsupported",
    "stale_schedule",
    "job_execution_timeout",
    "archived_failure",
    "unmet_prerequisites",
    "scheduler_failure",
    "data_integrity_failure",
    "forward_deployment_failure",
    "user_blocked",
    "project_deleted",
    "ci_quota_exceeded",
    "pipeline_loop_detected",
    "no_matching_runner",
    "trace_size_exceeded",
    "builds_disabled",
    "environment_creation_failure",
    "deployment_rejected",
    "failed_outdated_deployment_job",
    "job_execution_server_timeout",
    "stuck_pending_with_matching_runners",
    "stuck_pending_no_matching_runners",
    "no_updates_running",
    "no_updates_canceling",
    "server_timeout_running",
    "server_timeout_canceling",
    "runner_configuration_error",
    "runner_external_dependency_failure",
    "runner_interrupted",
    "protected_environment_failure",
    "insufficient_bridge_permissions",
    "downstream_bridge_project_not_found",
    "invalid_bridge_trigger",
    "upstream_bridge_project_not_found",
    "insufficient_upstream_permissions",
    "bridge_pipeline_is_child_pipeline",
    "downstream_pipeline_creation_failed",
    "secrets_provider_not_found",
    "reached_max_descendant_pipelines_depth",
    "ip_restriction_failure",
    "reached_max_pipeline_hierarchy_size",
    "reached_downstream_pipeline_trigger_rate_limit",
    "duo_workflow_not_allowed",
    "job_router_failure",
    "job_token_expired",
    "id_token_burned_project_path",
    "downstream_project_trigger_resolved_to_empty",
];
