//! Builders of jobs and pipelines.

use std::{collections::BTreeSet, fmt, sync::Arc};

use bytes::Bytes;
use serde_json::Value;

use super::{artifact::ArtifactSpec, variants::PayloadVariant};

type PayloadOverride = Arc<dyn Fn(&mut Value) + Send + Sync>;

/// A job to be queued.
///
/// ```
/// # use gitlab_runner::mock::JobSpec;
/// let job = JobSpec::script(["make", "make test"])
///     .name("unit")
///     .after_script(["make clean"])
///     .variable("CARGO_TERM_COLOR", "always")
///     .masked_variable("PASSWORD", "correct horse")
///     .timeout(600);
/// ```
#[derive(Clone)]
pub struct JobSpec {
    pub(super) name: String,
    pub(super) stage: String,
    pub(super) script: Vec<String>,
    pub(super) after_script: Option<Vec<String>>,
    pub(super) release: Option<Vec<String>>,
    pub(super) image: Option<String>,
    pub(super) variables: Vec<SpecVariable>,
    pub(super) timeout: u64,
    pub(super) failure_reasons: Option<Vec<String>>,
    pub(super) token_mask_prefixes: Option<Vec<String>>,
    pub(super) needs: Option<Vec<String>>,
    pub(super) dependencies: Option<Vec<String>>,
    pub(super) allow_failure: bool,
    pub(super) artifacts: Vec<ArtifactSpec>,
    pub(super) merge_request: Option<u64>,
    pub(super) required_features: BTreeSet<String>,
    pub(super) dropped_as: Option<String>,
    pub(super) raw_payload: Option<Bytes>,
    payload_overrides: Vec<PayloadOverride>,
}

#[derive(Clone)]
pub(super) struct SpecVariable {
    pub(super) key: String,
    pub(super) value: String,
    pub(super) public: bool,
    pub(super) masked: bool,
    pub(super) file: bool,
    pub(super) raw: bool,
}

impl JobSpec {
    /// A job named `job` in stage `test` with these lines of script and a timeout of one hour.
    pub fn script<I>(lines: I) -> Self
    where
        I: IntoIterator<Item: Into<String>>,
    {
        Self {
            name: "job".into(),
            stage: "test".into(),
            script: owned(lines),
            after_script: None,
            release: None,
            image: None,
            variables: Vec::new(),
            timeout: 3600,
            failure_reasons: None,
            token_mask_prefixes: None,
            needs: None,
            dependencies: None,
            allow_failure: false,
            artifacts: Vec::new(),
            merge_request: None,
            required_features: BTreeSet::new(),
            dropped_as: None,
            raw_payload: None,
            payload_overrides: Vec::new(),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Its stage.
    #[must_use]
    pub fn stage(mut self, stage: impl Into<String>) -> Self {
        self.stage = stage.into();
        self
    }

    /// Adds the step `after_script`, which runs always and whose failure changes nothing.
    #[must_use]
    pub fn after_script<I>(mut self, lines: I) -> Self
    where
        I: IntoIterator<Item: Into<String>>,
    {
        self.after_script = Some(owned(lines));
        self
    }

    /// Adds the step `release` between the script and the after_script. The server fails the job
    /// as `runner_unsupported` for a runner without the feature `multi_build_steps`.
    #[must_use]
    pub fn release<I>(mut self, lines: I) -> Self
    where
        I: IntoIterator<Item: Into<String>>,
    {
        self.release = Some(owned(lines));
        self.requires("multi_build_steps")
    }

    /// The image to run in; none by default.
    #[must_use]
    pub fn image(mut self, name: impl Into<String>) -> Self {
        self.image = Some(name.into());
        self
    }

    /// Adds a public variable. Of several with the same key the last one wins, at the runner.
    #[must_use]
    pub fn variable(self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.with_variable(key, value, |variable| variable.public = true)
    }

    /// Adds a variable whose value must not be in the log.
    #[must_use]
    pub fn masked_variable(self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.with_variable(key, value, |variable| variable.masked = true)
    }

    /// Adds a variable that stands for a file with this content.
    #[must_use]
    pub fn file_variable(self, key: impl Into<String>, content: impl Into<String>) -> Self {
        self.with_variable(key, content, |variable| variable.file = true)
    }

    /// Adds a public variable in whose value nothing is to be expanded.
    #[must_use]
    pub fn raw_variable(self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.with_variable(key, value, |variable| {
            variable.public = true;
            variable.raw = true;
        })
    }

    /// Its timeout in seconds, which the runner has to keep to. The server enforces it only with
    /// [`Settings::server_timeout_grace`](super::Settings::server_timeout_grace).
    #[must_use]
    pub fn timeout(mut self, seconds: u64) -> Self {
        self.timeout = seconds;
        self
    }

    /// The failure reasons that the server knows, for this job, instead of those of the
    /// [`Settings`](super::Settings).
    #[must_use]
    pub fn failure_reasons<I>(mut self, names: I) -> Self
    where
        I: IntoIterator<Item: Into<String>>,
    {
        self.failure_reasons = Some(owned(names));
        self
    }

    /// Beginnings of tokens that the runner shall redact (`features.token_mask_prefixes`).
    #[must_use]
    pub fn token_mask_prefixes<I>(mut self, prefixes: I) -> Self
    where
        I: IntoIterator<Item: Into<String>>,
    {
        self.token_mask_prefixes = Some(owned(prefixes));
        self
    }

    /// In a pipeline: waits for the jobs with these names instead of all earlier stages.
    #[must_use]
    pub fn needs<I>(mut self, names: I) -> Self
    where
        I: IntoIterator<Item: Into<String>>,
    {
        self.needs = Some(owned(names));
        self
    }

    /// In a pipeline: gets the archives of the jobs with these names alone, instead of all those
    /// that it waits for; with none of them, no archives. It has to wait for each of them.
    #[must_use]
    pub fn dependencies<I>(mut self, names: I) -> Self
    where
        I: IntoIterator<Item: Into<String>>,
    {
        self.dependencies = Some(owned(names));
        self
    }

    /// In a pipeline: its failure does not keep later jobs from running.
    #[must_use]
    pub fn allow_failure(mut self) -> Self {
        self.allow_failure = true;
        self
    }

    /// Asks for an archive of these paths.
    #[must_use]
    pub fn artifact_paths<I>(self, paths: I) -> Self
    where
        I: IntoIterator<Item: Into<String>>,
    {
        self.artifact(ArtifactSpec::archive(paths))
    }

    /// Asks for a report such as `junit`, in the format of its type. The server fails the job as
    /// `runner_unsupported` for a runner without the feature `upload_multiple_artifacts`.
    #[must_use]
    pub fn artifact_report<I>(self, artifact_type: impl Into<String>, paths: I) -> Self
    where
        I: IntoIterator<Item: Into<String>>,
    {
        self.artifact(ArtifactSpec::report(artifact_type, paths))
    }

    /// Asks for this artifact. What its reports and its exclusions need of the runner is
    /// required of it.
    #[must_use]
    pub fn artifact(mut self, artifact: ArtifactSpec) -> Self {
        if !artifact.exclude.is_empty() {
            self = self.requires("artifacts_exclude");
        }
        // The archive, if any, comes first.
        if artifact.is_archive() {
            self.artifacts.insert(0, artifact);
            return self;
        }
        self.artifacts.push(artifact);
        self.requires("upload_multiple_artifacts")
    }

    /// Runs for the merge request with this number: no branch refspec, and the server fails the
    /// job as `runner_unsupported` for a runner without the feature `refspecs`.
    #[must_use]
    pub fn merge_request(mut self, number: u64) -> Self {
        self.merge_request = Some(number);
        self.requires("refspecs")
    }

    /// The server fails the job as `runner_unsupported` when it is about to give it to a runner
    /// that does not set this feature to true.
    #[must_use]
    pub fn requires(mut self, feature: impl Into<String>) -> Self {
        self.required_features.insert(feature.into());
        self
    }

    /// The server fails the job with this reason when it is about to give it to a runner, as with
    /// `archived_failure`, `missing_dependency_failure` or, for a payload that it cannot build,
    /// `scheduler_failure`. The runner gets the next job.
    #[must_use]
    pub fn dropped_as(mut self, reason: impl Into<String>) -> Self {
        self.dropped_as = Some(reason.into());
        self
    }

    /// Changes the payload after it was built, to make it odd or broken. May be called several
    /// times; the changes apply in order.
    #[must_use]
    pub fn payload_override(mut self, change: impl Fn(&mut Value) + Send + Sync + 'static) -> Self {
        self.payload_overrides.push(Arc::new(change));
        self
    }

    /// Sends a field of the payload as other GitLabs do. May be called several times, together with
    /// [`payload_override`](Self::payload_override); the changes apply in order.
    #[must_use]
    pub fn payload_variant(self, variant: PayloadVariant) -> Self {
        self.payload_override(move |payload| variant.apply(payload))
    }

    /// Sends these bytes instead of a payload.
    #[must_use]
    pub fn raw_payload(mut self, payload: impl Into<Bytes>) -> Self {
        self.raw_payload = Some(payload.into());
        self
    }

    pub(super) fn override_payload(&self, payload: &mut Value) {
        for change in &self.payload_overrides {
            change(payload);
        }
    }

    fn with_variable(
        mut self,
        key: impl Into<String>,
        value: impl Into<String>,
        set: impl FnOnce(&mut SpecVariable),
    ) -> Self {
        let mut variable = SpecVariable {
            key: key.into(),
            value: value.into(),
            public: false,
            masked: false,
            file: false,
            raw: false,
        };
        set(&mut variable);
        self.variables.push(variable);
        self
    }
}

/// Only what cannot be secret.
impl fmt::Debug for JobSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobSpec")
            .field("name", &self.name)
            .field("stage", &self.stage)
            .field("timeout", &self.timeout)
            .field("needs", &self.needs)
            .finish_non_exhaustive()
    }
}

/// Jobs that belong together: those of a stage can be asked for when all of the earlier stages
/// have succeeded, and are skipped when one has not.
#[derive(Clone, Debug)]
pub struct PipelineSpec {
    pub(super) stages: Vec<String>,
    pub(super) jobs: Vec<JobSpec>,
}

impl PipelineSpec {
    /// A pipeline of these jobs. The stages come in the order in which the jobs name them.
    pub fn new(jobs: impl IntoIterator<Item = JobSpec>) -> Self {
        Self {
            stages: Vec::new(),
            jobs: jobs.into_iter().collect(),
        }
    }

    /// The order of the stages. Stages not named here come last.
    #[must_use]
    pub fn stages<I>(mut self, stages: I) -> Self
    where
        I: IntoIterator<Item: Into<String>>,
    {
        self.stages = owned(stages);
        self
    }
}

pub(super) fn owned<I>(items: I) -> Vec<String>
where
    I: IntoIterator<Item: Into<String>>,
{
    items.into_iter().map(Into::into).collect()
}
