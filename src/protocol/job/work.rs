//! What the job is and what it runs: everything but its files and its secrets.

use std::{fmt, sync::Arc};

use serde_json::Value;

use super::number::TextOrNumber;
use crate::{ids::JobId, secret::Secret};

objects! {
    /// Where the job comes from (`job_info`).
    #[derive(Debug)]
    pub struct JobInfo {
        /// The number of the job once more.
        pub id: Option<JobId>,
        /// The name of the job: free text.
        pub name: String,
        /// The name of its stage: free text.
        pub stage: String,
        /// The number of its pipeline.
        pub pipeline_id: Option<u64>,
        /// The number of its project.
        pub project_id: Option<u64>,
        /// The name of its project, which is not a path.
        pub project_name: String,
        /// The path of its project with all groups.
        pub project_full_path: Option<String>,
        /// The number of the group (or user namespace) of the project.
        pub namespace_id: Option<u64>,
        /// The number of the outermost group.
        pub root_namespace_id: Option<u64>,
        /// The number of the organization.
        pub organization_id: Option<u64>,
        /// The name of the GitLab instance; opaque.
        pub instance_id: Option<String>,
        /// The UUID of the GitLab instance.
        pub instance_uuid: Option<String>,
        /// The number of the user for whom the job runs.
        pub user_id: Option<u64>,
        /// The number of the human behind a service account.
        pub scoped_user_id: Option<u64>,
        /// How long the job was waiting, in seconds; none if it never was queued.
        pub time_in_queue_seconds: Option<f64>,
        /// How many jobs of the project run on instance runners: a number, a number with `+` behind
        /// it where GitLab stopped counting, or `+Inf` for other runners.
        pub project_jobs_running_on_instance_runners_count: Option<String> => TextOrNumber,
        /// How many jobs were waiting.
        pub queue_size: Option<i64>,
        /// How many of them were looked at.
        pub queue_depth: Option<i64>,
    }

    /// What to check out (`git_info`).
    #[derive(Debug)]
    pub struct GitInfo {
        /// The URL to clone from; it holds a password.
        pub repo_url: Secret,
        /// The short name of the branch or tag.
        pub ref_name: String as "ref",
        /// The commit, in 40 or 64 hex digits.
        pub sha: String,
        /// The commit that the branch pointed to before; all zeros if unknown.
        pub before_sha: String,
        /// `branch` (also for merge requests) or `tag`.
        pub ref_type: String,
        /// What to fetch, in git's notation.
        pub refspecs: Vec<String>,
        /// How many commits to fetch; 0 for all.
        pub depth: i64,
        /// `sha1` or `sha256`; empty from old servers.
        pub repo_object_format: String,
        /// Whether the branch or tag is protected, if the server says so.
        pub protected: Option<bool>,
    }

    /// What GitLab says of the runner (`runner_info`).
    #[derive(Debug)]
    pub struct RunnerInfo {
        /// The time that the job may take in all, in seconds.
        pub timeout: Option<i64>,
        /// The address of the session that the runner offered.
        pub runner_session_url: Option<String>,
        /// The UUID of the runner.
        pub uuid: Option<String>,
    }

    /// A parameter of the job (`inputs[]`), for `${{ job.inputs.<key> }}`.
    #[derive(Debug)]
    pub struct InputInfo {
        /// Its name.
        pub key: String,
        /// Its value.
        pub value: InputValue,
    }

    /// The value of a parameter.
    pub struct InputValue {
        /// Which kind of JSON the content is (`type`).
        pub kind: InputKind as "type",
        /// The value itself.
        pub content: Value,
        /// Whether it must not be shown.
        pub sensitive: bool,
    }

    /// A variable (`variables[]`), of a job or of a service.
    ///
    /// A key may come several times, and the last one counts. Services have key and value only.
    pub struct JobVariable {
        /// Its name. It may hold characters that no shell would take.
        pub key: String,
        /// Its value, unexpanded; empty if GitLab sends null.
        pub value: String,
        /// Whether everybody may know it.
        pub public: bool,
        /// Whether its value must be kept out of the log.
        pub masked: bool,
        /// Whether the job is to be given a file with this content, and its path.
        pub file: bool,
        /// Whether references in the value are to be left alone.
        pub raw: bool,
    }

    /// Something to run (`steps[]`).
    #[derive(Debug)]
    pub struct Step {
        /// Its name: `script`, `release`, `after_script`, or another in future.
        pub name: Arc<str>,
        /// Its commands; each may have several lines.
        pub script: Arc<[String]>,
        /// The time limit of the whole job once more, in seconds; not one of this step.
        pub timeout: Option<i64>,
        /// When to run it. No runner asks: steps run until one fails, then `after_script`.
        pub when: StepWhen,
        /// Whether its failure leaves the job as it is. No runner asks: GitLab judges the exit code.
        pub allow_failure: bool,
    }

    /// Commands around getting the sources (`hooks[]`).
    #[derive(Debug)]
    pub struct Hook {
        /// `pre_get_sources_script` or `post_get_sources_script`.
        pub name: String,
        /// Its commands.
        pub script: Vec<String>,
    }

    /// The image to run the job in (`image`).
    #[derive(Debug)]
    pub struct Image {
        /// Its name; it may hold unexpanded variables.
        pub name: String,
        /// What to start instead of the image's own entry point.
        pub entrypoint: Vec<String>,
        /// Its ports.
        pub ports: Vec<Port>,
        /// Options for particular executors.
        pub executor_opts: ExecutorOptions,
        /// When to fetch it, in order of preference.
        pub pull_policy: Vec<PullPolicy>,
    }

    /// An image to run beside the job (`services[]`).
    #[derive(Debug)]
    pub struct Service {
        /// Its name; it may hold unexpanded variables.
        pub name: String,
        /// What to start instead of the image's own entry point.
        pub entrypoint: Vec<String>,
        /// Its ports.
        pub ports: Vec<Port>,
        /// Options for particular executors.
        pub executor_opts: ExecutorOptions,
        /// When to fetch it, in order of preference.
        pub pull_policy: Vec<PullPolicy>,
        /// Its host names, separated by commas or blanks.
        pub alias: Option<String>,
        /// What to run instead of the image's own command.
        pub command: Vec<String>,
        /// Its own variables.
        pub variables: Vec<JobVariable>,
    }

    /// A port of an image (`ports[]`).
    #[derive(Debug)]
    pub struct Port {
        /// Its number.
        pub number: u64,
        /// `http` or `https`.
        pub protocol: String = "http".to_owned(),
        /// Its name.
        pub name: String = "default_port".to_owned(),
    }

    /// Options of an image for particular executors (`executor_opts`).
    #[derive(Debug)]
    pub struct ExecutorOptions {
        /// For Docker.
        pub docker: Option<DockerOptions>,
        /// For Kubernetes.
        pub kubernetes: Option<KubernetesOptions>,
    }

    /// Options of an image for Docker.
    #[derive(Debug)]
    pub struct DockerOptions {
        /// The platform, as in `linux/arm64`.
        pub platform: Option<String>,
        /// Who runs the job: a name, a number, or two of them with a colon between.
        pub user: Option<String> => TextOrNumber,
    }

    /// Options of an image for Kubernetes.
    #[derive(Debug)]
    pub struct KubernetesOptions {
        /// Who runs the job: a number, or two of them with a colon between.
        pub user: Option<String> => TextOrNumber,
    }

    /// Access to a registry of images (`credentials[]`).
    #[derive(Debug)]
    pub struct Credential {
        /// What it is for (`type`): `registry`, in any case of letters.
        pub kind: String as "type",
        /// Host and port, without a scheme.
        pub url: String,
        /// The user name.
        pub username: String,
        /// The password: a job token.
        pub password: Secret,
    }

    /// What the server can do (`features`).
    #[derive(Debug)]
    pub struct Features {
        /// Whether the log viewer understands section markers.
        pub trace_sections: bool,
        /// The failure reasons that the server knows.
        pub failure_reasons: Vec<String>,
        /// Beginnings of tokens that are to be masked, beside GitLab's own.
        pub token_mask_prefixes: Vec<String>,
        /// Where to send traces of the job (in the sense of OpenTelemetry).
        pub tracing: Option<TracingInfo>,
    }

    /// Where to send traces of the job (`features.tracing`).
    #[derive(Debug)]
    pub struct TracingInfo {
        /// The trace to which the job belongs, in hex digits.
        pub trace_id: String,
        /// The span above the job, in hex digits.
        pub span_parent_id: String,
        /// Where to send them.
        pub otel_endpoints: Vec<OtelEndpoint>,
    }

    /// A collector of traces (`features.tracing.otel_endpoints[]`).
    #[derive(Debug)]
    pub struct OtelEndpoint {
        /// Its URL.
        pub url: String,
        /// How to get in; open to all if there is none.
        pub auth: Option<OtelAuth>,
    }

    /// How to get in at a collector of traces.
    #[derive(Debug)]
    pub struct OtelAuth {
        /// Which way (`type`), the name of one of the other fields.
        pub kind: String as "type",
        /// A bearer token of Google Cloud.
        pub http_bearer_gcp_oidc: Option<GcpOidcAuth>,
    }

    /// A bearer token of Google Cloud.
    #[derive(Debug)]
    pub struct GcpOidcAuth {
        /// For whom the token is made out.
        pub audience: String,
    }

    /// A security policy that the job belongs to (`policy_options`).
    #[derive(Debug)]
    pub struct PolicyOptions {
        /// Whether the job was put into the pipeline by a policy.
        pub execution_policy_job: bool,
        /// The name of the policy.
        pub policy_name: Option<String>,
        /// Whether variables of the user may override those of the policy.
        pub policy_variables_override_allowed: Option<bool>,
        /// The variables for which it is the other way round.
        pub policy_variables_override_exceptions: Vec<String>,
    }

    /// What to do with the environment when the job is over (`suspend_options`).
    #[derive(Debug)]
    pub struct SuspendOptions {
        /// Keep it for another job if this one went well.
        pub suspend_on_success: bool,
        /// Keep it for another job if this one failed.
        pub suspend_on_failure: bool,
        /// The environment to resume.
        pub runtime_environment_key: Option<Secret>,
    }
}

wire_enum! {
    /// When to run a step.
    pub enum StepWhen {
        /// If everything before went well.
        OnSuccess = "on_success",
        /// If something before failed.
        OnFailure = "on_failure",
        /// In any case.
        Always = "always",
    }
}

wire_enum! {
    /// When to fetch an image.
    pub enum PullPolicy {
        /// Every time.
        Always = "always",
        /// If it is not there.
        IfNotPresent = "if-not-present",
        /// Not at all.
        Never = "never",
    }
}

wire_enum! {
    /// Which kind of JSON the value of a parameter is.
    pub enum InputKind {
        /// A text.
        String = "string",
        /// A number.
        Number = "number",
        /// True or false.
        Boolean = "boolean",
        /// A list.
        Array = "array",
        /// An object.
        Struct = "struct",
    }
}

lenient_words! {
    StepWhen: OnSuccess,
    PullPolicy: Always,
    InputKind: String,
}

/// The value is not shown.
impl fmt::Debug for JobVariable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobVariable")
            .field("key", &self.key)
            .field("public", &self.public)
            .field("masked", &self.masked)
            .field("file", &self.file)
            .field("raw", &self.raw)
            .finish_non_exhaustive()
    }
}

/// The content is not shown: what is not said to be sensitive may still be.
impl fmt::Debug for InputValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InputValue")
            .field("kind", &self.kind)
            .field("sensitive", &self.sensitive)
            .finish_non_exhaustive()
    }
}
