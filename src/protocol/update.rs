//! The state of a job, and why it failed.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{protocol::request::to_json, secret::Secret};

/// What a runner reports a job to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum JobState {
    /// It runs: takes the job at the start, and keeps it alive afterwards.
    Running,
    /// It went well.
    Success,
    /// It failed.
    Failed,
}

impl JobState {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Success => "success",
            Self::Failed => "failed",
        }
    }
}

/// How the script of a job has gone so far, in the words of the variable `CI_JOB_STATUS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ScriptStatus {
    /// It is not over yet.
    #[default]
    Running,
    /// It went well.
    Success,
    /// It failed.
    Failed,
    /// A user cancelled the job.
    Canceled,
    /// It took longer than it may.
    TimedOut,
}

impl ScriptStatus {
    /// What after_script is told of a script that is over, and failed if there is a `failure`.
    pub fn after(failure: Option<&Failure>) -> Self {
        match failure.map(|failure| &failure.reason) {
            None => Self::Success,
            Some(FailureReason::JobCanceled) => Self::Canceled,
            Some(FailureReason::JobExecutionTimeout) => Self::TimedOut,
            Some(_) => Self::Failed,
        }
    }

    /// GitLab's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
            Self::TimedOut => "timedout",
        }
    }
}

wire_enum! {
    /// Why a job failed, in GitLab's words.
    ///
    /// Not every server knows every word; see [`mapped`](Self::mapped).
    pub enum FailureReason {
        /// Nobody knows.
        UnknownFailure = "unknown_failure",
        /// The script failed: what the user wrote did not work.
        ScriptFailure = "script_failure",
        /// The runner failed: it is not the user's fault, and a retry may help.
        RunnerSystemFailure = "runner_system_failure",
        /// The job took longer than it may.
        JobExecutionTimeout = "job_execution_timeout",
        /// The image could not be fetched.
        ImagePullFailure = "image_pull_failure",
        /// The runner (or what the job asks of it) is configured wrongly.
        RunnerConfigurationError = "runner_configuration_error",
        /// Something that the runner depends on failed.
        RunnerExternalDependencyFailure = "runner_external_dependency_failure",
        /// The runner was stopped while the job was running.
        RunnerInterrupted = "runner_interrupted",
        /// The job was cancelled by a user. For use inside of the runner: GitLab knows, and is sent
        /// `unknown_failure`.
        JobCanceled = "job_canceled",
    }
}

impl FailureReason {
    /// The reason to send to a server that knows the reasons in `known`
    /// ([`Features::failure_reasons`](crate::protocol::Features)), following GitLab's own runner: a
    /// reason that the server does not know is replaced by the nearest one that every server knows.
    pub fn mapped(&self, known: &[String]) -> Self {
        let reason = match self {
            Self::Other(word) if word.is_empty() => Self::ScriptFailure,
            Self::Other(word) => Self::from(word.as_str()),
            reason => reason.clone(),
        };
        match reason {
            Self::ScriptFailure | Self::RunnerSystemFailure | Self::JobExecutionTimeout => reason,
            Self::JobCanceled => Self::UnknownFailure,
            reason if known.iter().any(|word| word == reason.as_str()) => reason,
            Self::ImagePullFailure | Self::RunnerExternalDependencyFailure => {
                Self::RunnerSystemFailure
            }
            Self::RunnerConfigurationError => Self::ScriptFailure,
            _ => Self::UnknownFailure,
        }
    }
}

/// How a job failed: a reason and, from a script, its exit code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    reason: FailureReason,
    exit_code: Option<i32>,
}

impl Failure {
    /// The script ended with this exit code (reason `script_failure`).
    ///
    /// A code of 0 is not sent; GitLab stores what is beyond 0 to 32767 as the nearest of the two.
    pub const fn exit_code(code: i32) -> Self {
        Self {
            reason: FailureReason::ScriptFailure,
            exit_code: Some(code),
        }
    }

    /// A failure for this reason, without an exit code.
    pub const fn new(reason: FailureReason) -> Self {
        Self {
            reason,
            exit_code: None,
        }
    }

    /// The same failure with this exit code.
    #[must_use]
    pub fn with_exit_code(mut self, code: i32) -> Self {
        self.exit_code = Some(code);
        self
    }

    /// The same failure as a server that knows the reasons in `known` is told of it; see
    /// [`FailureReason::mapped`].
    #[must_use]
    pub fn mapped(&self, known: &[String]) -> Self {
        Self {
            reason: self.reason.mapped(known),
            exit_code: self.exit_code,
        }
    }

    /// Why.
    pub const fn reason(&self) -> &FailureReason {
        &self.reason
    }

    /// The exit code, if there is one.
    pub const fn code(&self) -> Option<i32> {
        self.exit_code
    }
}

/// The reason and, if there is one, the exit code.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.exit_code {
            Some(code) => write!(f, "{} (exit code {code})", self.reason),
            None => self.reason.fmt(f),
        }
    }
}

/// Size and checksum of a whole log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(
    clippy::exhaustive_structs,
    reason = "made by whoever keeps the log; GitLab takes these two"
)]
pub struct TraceSummary {
    /// In bytes.
    pub len: u64,
    /// CRC-32 (IEEE) of all of them.
    pub crc32: u32,
}

/// A checksum in GitLab's form: `crc32:` and 8 lower-case hex digits.
pub fn checksum(crc32: u32) -> String {
    format!("crc32:{crc32:08x}")
}

/// The JSON body of `PUT jobs/:id`.
///
/// `failure` is sent with [`JobState::Failed`] only, and its reason as it is: call
/// [`Failure::mapped`] before. An exit code of 0 is left out. `trace` is everything that was logged
/// so far; a server that keeps logs in pieces delays a final state until it has stored them all if,
/// and only if, it is sent.
pub fn update_body(
    token: &Secret,
    state: JobState,
    failure: Option<&Failure>,
    trace: Option<TraceSummary>,
) -> Vec<u8> {
    let failure = failure.filter(|_| state == JobState::Failed);
    let checksum = trace.map(|trace| checksum(trace.crc32));
    to_json(&UpdateBody {
        token,
        state: state.as_str(),
        failure_reason: failure.map(|failure| match failure.reason() {
            FailureReason::JobCanceled => FailureReason::UnknownFailure.as_str(),
            reason => reason.as_str(),
        }),
        exit_code: failure.and_then(Failure::code).filter(|code| *code != 0),
        checksum: checksum.as_deref(),
        output: Output {
            checksum: checksum.as_deref(),
            bytesize: trace.map(|trace| trace.len),
        },
    })
}

#[derive(Serialize)]
struct UpdateBody<'a> {
    token: &'a Secret,
    state: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure_reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    /// For servers that do not know `output`.
    #[serde(skip_serializing_if = "Option::is_none")]
    checksum: Option<&'a str>,
    output: Output<'a>,
}

#[derive(Serialize)]
struct Output<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    checksum: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytesize: Option<u64>,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn body(state: JobState, failure: Option<&Failure>, trace: Option<TraceSummary>) -> Value {
        let token = Secret::from("glcbt-66_EXAMPLEtypical0002");
        serde_json::from_slice(&update_body(&token, state, failure, trace)).unwrap()
    }

    fn example(text: &str) -> Value {
        let mut example: Value = serde_json::from_str(text).unwrap();
        // Only for jobs that suspend their environment.
        example
            .as_object_mut()
            .unwrap()
            .remove("runtime_environment_key");
        example
    }

    const END: TraceSummary = TraceSummary {
        len: 48211,
        crc32: 0x0f4a_1c2e,
    };

    #[test]
    fn updates_have_the_fields_of_the_examples() {
        let running = TraceSummary {
            len: 20480,
            crc32: 0x9ae0_daaf,
        };
        assert_eq!(
            body(JobState::Running, None, Some(running)),
            example(include_str!("../../tests/payloads/put_job_running.json"))
        );
        assert_eq!(
            body(JobState::Success, None, Some(END)),
            example(include_str!("../../tests/payloads/put_job_success.json"))
        );
        assert_eq!(
            body(JobState::Failed, Some(&Failure::exit_code(137)), Some(END)),
            example(include_str!("../../tests/payloads/put_job_failed.json"))
        );
    }

    #[test]
    fn taking_a_job_sends_an_empty_output() {
        assert_eq!(
            body(JobState::Running, None, None),
            json!({ "token": "glcbt-66_EXAMPLEtypical0002", "state": "running", "output": {} })
        );
    }

    #[test]
    fn failures_are_sent_with_failed_only() {
        let failure = Failure::exit_code(3);
        let success = body(JobState::Success, Some(&failure), Some(END));
        assert_eq!(success, body(JobState::Success, None, Some(END)));
        let bare = body(JobState::Failed, None, None);
        assert_eq!(bare.as_object().unwrap().len(), 3);
    }

    #[test]
    fn exit_codes_are_sent_unless_zero() {
        let code = |failure: Failure| {
            let body = body(JobState::Failed, Some(&failure), None);
            assert_eq!(body["failure_reason"], failure.reason().as_str());
            body.get("exit_code").cloned()
        };
        assert_eq!(code(Failure::exit_code(0)), None);
        assert_eq!(code(Failure::new(FailureReason::JobExecutionTimeout)), None);
        assert_eq!(code(Failure::exit_code(-1)), Some(json!(-1)));
        let configuration = Failure::new(FailureReason::RunnerConfigurationError);
        assert_eq!(code(configuration.with_exit_code(3)), Some(json!(3)));
    }

    #[test]
    fn a_cancel_is_never_sent_as_such() {
        let body = body(
            JobState::Failed,
            Some(&Failure::new(FailureReason::JobCanceled)),
            None,
        );
        assert_eq!(body["failure_reason"], "unknown_failure");
    }

    #[test]
    fn reasons_are_mapped_to_what_the_server_knows() {
        use FailureReason::*;
        let all = [
            "unknown_failure",
            "image_pull_failure",
            "runner_configuration_error",
            "runner_external_dependency_failure",
            "runner_interrupted",
            "job_canceled",
            "unmet_prerequisites",
        ]
        .map(String::from);
        let unmet = Other("unmet_prerequisites".into());
        for (reason, with_all, with_none) in [
            (ScriptFailure, ScriptFailure, ScriptFailure),
            (
                RunnerSystemFailure,
                RunnerSystemFailure,
                RunnerSystemFailure,
            ),
            (
                JobExecutionTimeout,
                JobExecutionTimeout,
                JobExecutionTimeout,
            ),
            (UnknownFailure, UnknownFailure, UnknownFailure),
            (ImagePullFailure, ImagePullFailure, RunnerSystemFailure),
            (
                RunnerConfigurationError,
                RunnerConfigurationError,
                ScriptFailure,
            ),
            (
                RunnerExternalDependencyFailure,
                RunnerExternalDependencyFailure,
                RunnerSystemFailure,
            ),
            (RunnerInterrupted, RunnerInterrupted, UnknownFailure),
            (JobCanceled, UnknownFailure, UnknownFailure),
            (Other("job_canceled".into()), UnknownFailure, UnknownFailure),
            (Other("script_failure".into()), ScriptFailure, ScriptFailure),
            (Other(String::new()), ScriptFailure, ScriptFailure),
            (unmet.clone(), unmet, UnknownFailure),
            (Other("nonsense".into()), UnknownFailure, UnknownFailure),
        ] {
            assert_eq!(reason.mapped(&all), with_all, "{reason:?}");
            assert_eq!(reason.mapped(&[]), with_none, "{reason:?}");
        }
        let failure = Failure::new(ImagePullFailure).with_exit_code(2);
        assert_eq!(
            failure.mapped(&[]),
            Failure::new(RunnerSystemFailure).with_exit_code(2)
        );
    }

    #[test]
    fn checksums_have_eight_digits() {
        assert_eq!(checksum(0), "crc32:00000000");
        assert_eq!(checksum(0x0d7c_f601), "crc32:0d7cf601");
        assert_eq!(checksum(u32::MAX), "crc32:ffffffff");
    }

    #[test]
    fn failures_print_their_reason() {
        assert_eq!(
            Failure::exit_code(3).to_string(),
            "script_failure (exit code 3)"
        );
        assert_eq!(
            Failure::new(FailureReason::RunnerInterrupted).to_string(),
            "runner_interrupted"
        );
    }
}
