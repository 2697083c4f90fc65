//! What a job is to leave behind: the builder of its `artifacts[]`, and the types that GitLab has.

use super::job::owned;

/// One entry of a job's `artifacts[]`.
///
/// ```
/// # use gitlab_runner::mock::{ArtifactSpec, JobSpec};
/// let job = JobSpec::script(["make"])
///     .artifact(
///         ArtifactSpec::archive(["target/"])
///             .exclude(["target/**/*.o"])
///             .name("build-$CI_COMMIT_REF_NAME")
///             .when("always")
///             .expire_in("1 week"),
///     )
///     .artifact(ArtifactSpec::report("codequality", ["quality.json"]));
/// ```
#[derive(Clone, Debug)]
pub struct ArtifactSpec {
    pub(super) artifact_type: String,
    pub(super) artifact_format: String,
    pub(super) name: Option<String>,
    pub(super) paths: Vec<String>,
    pub(super) exclude: Vec<String>,
    pub(super) untracked: Option<bool>,
    pub(super) when: Option<String>,
    pub(super) expire_in: Option<String>,
}

impl ArtifactSpec {
    /// An archive of these paths, as zip. Without paths they are null in the payload, which goes
    /// with [`untracked`](Self::untracked).
    pub fn archive<I>(paths: I) -> Self
    where
        I: IntoIterator<Item: Into<String>>,
    {
        Self {
            artifact_type: "archive".into(),
            artifact_format: "zip".into(),
            name: None,
            paths: owned(paths),
            exclude: Vec::new(),
            untracked: None,
            when: None,
            expire_in: None,
        }
    }

    /// A report such as `junit`, always uploaded. Format and name are what GitLab has for this
    /// type; a type that it does not know is raw and has no name. It expires with the archive
    /// unless told otherwise.
    pub fn report<I>(artifact_type: impl Into<String>, paths: I) -> Self
    where
        I: IntoIterator<Item: Into<String>>,
    {
        let artifact_type = artifact_type.into();
        let known = TYPES.iter().find(|known| known.name == artifact_type);
        Self {
            artifact_format: known.map_or("raw", |known| known.format).into(),
            name: known.and_then(|known| Some(known.file_name?.to_owned())),
            artifact_type,
            when: Some("always".into()),
            ..Self::archive(paths)
        }
    }

    /// Its name, in which variables are expanded by the runner.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Paths to leave out. The server fails the job as `runner_unsupported` for a runner without
    /// the feature `artifacts_exclude`.
    #[must_use]
    pub fn exclude<I>(mut self, paths: I) -> Self
    where
        I: IntoIterator<Item: Into<String>>,
    {
        self.exclude = owned(paths);
        self
    }

    /// Whether to take in all files that git does not know; not said by default.
    #[must_use]
    pub fn untracked(mut self, untracked: bool) -> Self {
        self.untracked = Some(untracked);
        self
    }

    /// `on_success`, `on_failure` or `always`; null by default, which is `on_success`.
    #[must_use]
    pub fn when(mut self, when: impl Into<String>) -> Self {
        self.when = Some(when.into());
        self
    }

    /// When it expires, such as `1 week` or `never`; null by default.
    #[must_use]
    pub fn expire_in(mut self, expire_in: impl Into<String>) -> Self {
        self.expire_in = Some(expire_in.into());
        self
    }

    /// `zip`, `gzip` or `raw`, or what no server would send.
    #[must_use]
    pub fn format(mut self, artifact_format: impl Into<String>) -> Self {
        self.artifact_format = artifact_format.into();
        self
    }

    pub(super) fn is_archive(&self) -> bool {
        self.artifact_type == "archive"
    }
}

/// A type of artifact.
pub(super) struct ArtifactType {
    pub(super) name: &'static str,
    pub(super) format: &'static str,
    /// The name that a report of this type has in the payload.
    file_name: Option<&'static str>,
}

const fn of(name: &'static str, format: &'static str, file_name: &'static str) -> ArtifactType {
    ArtifactType {
        name,
        format,
        file_name: Some(file_name),
    }
}

const fn unnamed(name: &'static str, format: &'static str) -> ArtifactType {
    ArtifactType {
        name,
        format,
        file_name: None,
    }
}

/// All that the server knows, with the one format that each may have.
pub(super) const TYPES: &[ArtifactType] = &[
    unnamed("archive", "zip"),
    of("lsif", "zip", "lsif.json"),
    unnamed("metadata", "gzip"),
    of("junit", "gzip", "junit.xml"),
    of("metrics", "gzip", "metrics.txt"),
    unnamed("metrics_referee", "gzip"),
    unnamed("network_referee", "gzip"),
    of("dotenv", "gzip", ".env"),
    of("cobertura", "gzip", "cobertura-coverage.xml"),
    of("jacoco", "gzip", "jacoco-coverage.xml"),
    of(
        "cluster_applications",
        "gzip",
        "gl-cluster-applications.json",
    ),
    of("cyclonedx", "gzip", "gl-sbom.cdx.json"),
    of("annotations", "gzip", "gl-annotations.json"),
    of("repository_xray", "gzip", "gl-repository-xray.json"),
    unnamed("trace", "raw"),
    of("sast", "raw", "gl-sast-report.json"),
    of("secret_detection", "raw", "gl-secret-detection-report.json"),
    of(
        "dependency_scanning",
        "raw",
        "gl-dependency-scanning-report.json",
    ),
    of(
        "container_scanning",
        "raw",
        "gl-container-scanning-report.json",
    ),
    of(
        "cluster_image_scanning",
        "raw",
        "gl-cluster-image-scanning-report.json",
    ),
    of("dast", "raw", "gl-dast-report.json"),
    of("license_scanning", "raw", "gl-license-scanning-report.json"),
    of("accessibility", "raw", "gl-accessibility.json"),
    of("codequality", "raw", "gl-code-quality-report.json"),
    of("performance", "raw", "performance.json"),
    of("browser_performance", "raw", "browser-performance.json"),
    of("load_performance", "raw", "load-performance.json"),
    of("terraform", "raw", "tfplan.json"),
    of("requirements", "raw", "requirements.json"),
    of("requirements_v2", "raw", "requirements_v2.json"),
    of("coverage_fuzzing", "raw", "gl-coverage-fuzzing.json"),
    of("api_fuzzing", "raw", "gl-api-fuzzing-report.json"),
];
