//! What goes over the wire between a runner and GitLab, as plain data.
//!
//! Bodies and headers are read and written here; when to send what is decided by the machine.
//! Nothing here does input or output or knows the time. Every function is total: whatever bytes a
//! server or a proxy sends, the answer is a value or a typed error, never a panic.
//!
//! - [`ServerUrl`]: the address of the instance and of the endpoints below it.
//! - [`headers`]: what the headers of requests and replies say.
//! - [`JobPayload`]: a job as GitLab hands it out, read leniently.
//! - [`job_request_body`], [`verify_body`]: what a runner tells of itself ([`Info`]).
//! - [`Registration`], [`RunnerDetails`]: how a runner comes, goes and changes its token.
//! - [`update_body`]: the state of a job, and why it failed ([`Failure`]).
//! - [`ArtifactForm`], [`artifact_query`], [`artifact_file_name`]: the upload of an artifact.
//! - [`GoDuration`]: durations in variables.
//! - [`error_message`]: what the body of an error reply says.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use serde::{Deserialize, Serialize};

#[macro_use]
mod wire;

mod artifact;
mod date;
mod duration;
mod error_body;
pub mod headers;
mod job;
mod redirect;
mod request;
mod runner;
mod token;
mod update;
mod url;

pub(crate) use self::artifact::percent_encode;
#[cfg(feature = "runner")]
pub(crate) use self::job::{Expander, Meaning, has_references};
pub use self::{
    artifact::{ArtifactForm, artifact_file_name, artifact_query},
    duration::GoDuration,
    error_body::error_message,
    job::{
        AkeylessSecret, AkeylessServer, ArtifactFormat, ArtifactSpec, ArtifactWhen, ArtifactsFile,
        AwsSecret, AwsServer, AzureSecret, AzureServer, CachePolicy, CacheSpec, Credential,
        DependencyInfo, DockerOptions, ExecutorOptions, Features, GcpOidcAuth, GcpSecret,
        GcpServer, GitInfo, GitlabSecret, GitlabSecretServer, Hook, Image, InlineAuth, InputInfo,
        InputKind, InputValue, JobInfo, JobPayload, JobVariable, KubernetesOptions, OtelAuth,
        OtelEndpoint, PayloadError, PolicyOptions, Port, PullPolicy, RawPayload, RunnerInfo,
        SecretEngine, SecretSpec, Service, Step, StepWhen, SuspendOptions, TracingInfo, VaultAuth,
        VaultAuthData, VaultSecret, VaultServer,
    },
    redirect::{loses_encryption, redirect_target, same_origin},
    request::{Info, RunnerFeatures, job_request_body, verify_body},
    runner::{AccessLevel, Registration, RunnerDetails, manager_body, register_body, token_body},
    token::short_token,
    update::{Failure, FailureReason, JobState, ScriptStatus, TraceSummary, checksum, update_body},
    url::{ServerUrl, ServerUrlError},
};
pub(crate) use self::{
    error_body::{error_words, tidy},
    job::{PayloadReader, TOKEN_VARIABLES, is_on, percent_decoded},
    request::JobRequests,
};

/// Which part of a job a step belongs to.
///
/// Serialised it is `script` or `after_script`, as GitLab calls these steps; the names of the
/// variants are read as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(
    clippy::exhaustive_enums,
    reason = "existing job handlers match on both variants without a wildcard"
)]
pub enum Phase {
    /// The job's own work: the step `script`, and every other one but `after_script`.
    #[serde(alias = "Script")]
    Script,
    /// The step `after_script`, which runs whether the script went well or not.
    #[serde(alias = "AfterScript")]
    AfterScript,
}
