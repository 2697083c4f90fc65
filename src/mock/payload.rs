//! The body of a 201: the job as the runner gets it.

use serde_json::{Value, json};

use super::{
    RunnerNumber, Settings,
    artifact::ArtifactSpec,
    job::{JobSpec, SpecVariable},
};
use crate::{JobId, Secret};

const PROJECT_ID: u64 = 842;
const PROJECT_PATH: &str = "acme/tools/widget-works";
const REF: &str = "main";
const SHA: &str = "a94a8fe5ccb19ba61c4c0873d391e987982fbbd3";
const BEFORE_SHA: &str = "de9f2c7fd25e1b3afad3e85a0bd17d9b100db4b3";

/// What the payload depends on beside the job's specification.
pub(super) struct Context<'a> {
    pub(super) settings: &'a Settings,
    pub(super) job: JobId,
    pub(super) token: &'a Secret,
    pub(super) pipeline: u64,
    pub(super) runner: RunnerNumber,
    pub(super) runner_description: Option<&'a str>,
    /// Seconds; what the job and the runner allow.
    pub(super) timeout: u64,
    pub(super) seconds_in_queue: u64,
    pub(super) queue_size: usize,
    pub(super) session_url: Option<&'a str>,
    pub(super) dependencies: Vec<Dependency<'a>>,
}

/// A job whose archive this one gets.
pub(super) struct Dependency<'a> {
    pub(super) job: JobId,
    pub(super) name: &'a str,
    pub(super) token: &'a Secret,
    /// The name of its archive and its size in bytes, if there is one to be had.
    pub(super) archive: Option<(&'a str, usize)>,
}

impl Context<'_> {
    pub(super) fn payload(&self, spec: &JobSpec) -> Value {
        let token = self.token.expose();
        let git_ref = git_ref(spec);
        let mut payload = json!({
            "id": self.job.0,
            "token": token,
            "allow_git_fetch": true,
            "job_info": {
                "id": self.job.0,
                "name": spec.name,
                "stage": spec.stage,
                "pipeline_id": self.pipeline,
                "project_id": PROJECT_ID,
                "project_name": "Widget Works",
                "project_full_path": PROJECT_PATH,
                "namespace_id": 77,
                "root_namespace_id": 12,
                "organization_id": 1,
                "instance_id": "instance-example-1",
                "instance_uuid": "3f1d2c4b-5a69-4788-9c0d-1e2f3a4b5c6d",
                "user_id": 301,
                "scoped_user_id": null,
                "time_in_queue_seconds": self.seconds_in_queue,
                "project_jobs_running_on_instance_runners_count": "+Inf",
                "queue_size": self.queue_size,
                "queue_depth": 1,
            },
            "git_info": {
                "repo_url": self.repository_url(),
                "ref": git_ref,
                "sha": SHA,
                "before_sha": BEFORE_SHA,
                "ref_type": "branch",
                "refspecs": self.refspecs(spec),
                "depth": 20,
                "repo_object_format": "sha1",
                "protected": false,
            },
            "runner_info": {
                "timeout": self.timeout,
                "runner_session_url": self.session_url,
                "uuid": format!("runner-uuid-{}", self.runner),
            },
            "variables": self.variables(spec),
            "steps": steps(spec, self.timeout),
            "hooks": [],
            "image": spec.image.as_ref().map(|name| json!({
                "name": name,
                "entrypoint": null,
                "ports": [],
                "executor_opts": {},
                "pull_policy": null,
            })),
            "services": [],
            "artifacts": artifacts(&spec.artifacts),
            "cache": [],
            "credentials": [{
                "type": "registry",
                "url": "images.example.test:5005",
                "username": "gitlab-ci-token",
                "password": token,
            }],
            "features": {
                "trace_sections": true,
                "failure_reasons": spec
                    .failure_reasons
                    .as_ref()
                    .unwrap_or(&self.settings.failure_reasons),
            },
            "dependencies": self.dependencies.iter().map(dependency).collect::<Vec<_>>(),
        });
        if let Some(prefixes) = &spec.token_mask_prefixes {
            payload["features"]["token_mask_prefixes"] = json!(prefixes);
        }
        spec.override_payload(&mut payload);
        payload
    }

    fn variables(&self, spec: &JobSpec) -> Vec<Value> {
        let url = self.instance_url();
        let project_url = format!("{url}/{PROJECT_PATH}");
        let git_ref = git_ref(spec);
        let public = |key: &str, value: &str| variable(key, Some(value), true, false);
        let mut variables = vec![
            public("CI", "true"),
            public("GITLAB_CI", "true"),
            public("CI_PIPELINE_ID", &self.pipeline.to_string()),
            public("CI_PIPELINE_IID", &self.pipeline.to_string()),
            public("CI_PIPELINE_SOURCE", "push"),
            public(
                "CI_PIPELINE_URL",
                &format!("{project_url}/-/pipelines/{}", self.pipeline),
            ),
            public("CI_JOB_ID", &self.job.to_string()),
            public("CI_JOB_URL", &format!("{project_url}/-/jobs/{}", self.job)),
            variable("CI_JOB_TOKEN", Some(self.token.expose()), false, true),
            public("CI_JOB_NAME", &spec.name),
            public("CI_JOB_STAGE", &spec.stage),
            variable("CI_JOB_STARTED_AT", None, true, false),
            public("CI_REGISTRY_USER", "gitlab-ci-token"),
            variable(
                "CI_REGISTRY_PASSWORD",
                Some(self.token.expose()),
                false,
                true,
            ),
            variable(
                "CI_REPOSITORY_URL",
                Some(&self.repository_url()),
                false,
                false,
            ),
            public("CI_PROJECT_ID", &PROJECT_ID.to_string()),
            public("CI_PROJECT_NAME", "widget-works"),
            public("CI_PROJECT_TITLE", "Widget Works"),
            public("CI_PROJECT_PATH", PROJECT_PATH),
            public("CI_PROJECT_NAMESPACE", "acme/tools"),
            public("CI_PROJECT_URL", &project_url),
            public("CI_COMMIT_SHA", SHA),
            public("CI_COMMIT_SHORT_SHA", &SHA[..8]),
            public("CI_COMMIT_BEFORE_SHA", BEFORE_SHA),
            public("CI_COMMIT_REF_NAME", &git_ref),
            public("CI_RUNNER_ID", &self.runner.to_string()),
            variable(
                "CI_RUNNER_DESCRIPTION",
                self.runner_description,
                true,
                false,
            ),
            public("CI_RUNNER_TAGS", "[\"linux\", \"rust\"]"),
            public("CI_SERVER_URL", &url),
            public("CI_SERVER_NAME", "GitLab"),
            public("CI_SERVER_VERSION", "19.3.0"),
            public("GITLAB_FEATURES", ""),
        ];
        variables.extend(spec.variables.iter().map(user_variable));
        variables
    }

    fn instance_url(&self) -> String {
        format!("{}{}", self.settings.external_url, self.settings.root())
    }

    fn repository_url(&self) -> String {
        let url = self.instance_url();
        let (scheme, rest) = url.split_once("://").unwrap_or(("https", &url));
        format!(
            "{scheme}://gitlab-ci-token:{}@{rest}/{PROJECT_PATH}.git",
            self.token.expose()
        )
    }

    fn refspecs(&self, spec: &JobSpec) -> Vec<String> {
        let pipeline = self.pipeline;
        let mut refspecs = vec![format!(
            "+refs/pipelines/{pipeline}:refs/pipelines/{pipeline}"
        )];
        if spec.merge_request.is_none() {
            refspecs.push(format!("+refs/heads/{REF}:refs/remotes/origin/{REF}"));
        }
        refspecs
    }
}

fn git_ref(spec: &JobSpec) -> String {
    match spec.merge_request {
        Some(number) => format!("refs/merge-requests/{number}/head"),
        None => REF.to_owned(),
    }
}

fn variable(key: &str, value: Option<&str>, public: bool, masked: bool) -> Value {
    json!({ "key": key, "value": value, "public": public, "masked": masked })
}

/// `file` and `raw` are there only when true.
fn user_variable(spec: &SpecVariable) -> Value {
    let mut value = variable(&spec.key, Some(&spec.value), spec.public, spec.masked);
    if spec.file {
        value["file"] = true.into();
    }
    if spec.raw {
        value["raw"] = true.into();
    }
    value
}

fn steps(spec: &JobSpec, timeout: u64) -> Vec<Value> {
    let step = |name: &str, script: &[String], when: &str, allow_failure: bool| {
        json!({
            "name": name,
            "script": script,
            "timeout": timeout,
            "when": when,
            "allow_failure": allow_failure,
        })
    };
    let mut steps = vec![step("script", &spec.script, "on_success", false)];
    if let Some(script) = &spec.release {
        steps.push(step("release", script, "on_success", false));
    }
    if let Some(script) = &spec.after_script {
        steps.push(step("after_script", script, "always", true));
    }
    steps
}

/// Null when the job has none at all.
fn artifacts(specs: &[ArtifactSpec]) -> Value {
    if specs.is_empty() {
        return Value::Null;
    }
    let archive = specs.iter().find(|spec| spec.is_archive());
    let inherited = archive.and_then(|spec| spec.expire_in.as_ref());
    let entry = |spec: &ArtifactSpec| {
        let mut entry = json!({
            "name": spec.name,
            "paths": Some(&spec.paths).filter(|paths| !paths.is_empty()),
            "when": spec.when,
            "expire_in": spec.expire_in.as_ref().or(inherited.filter(|_| !spec.is_archive())),
            "artifact_type": spec.artifact_type,
            "artifact_format": spec.artifact_format,
        });
        if let Some(untracked) = spec.untracked {
            entry["untracked"] = untracked.into();
        }
        if !spec.exclude.is_empty() {
            entry["exclude"] = json!(spec.exclude);
        }
        entry
    };
    specs.iter().map(entry).collect()
}

/// Without a file when there is nothing to download.
fn dependency(dependency: &Dependency<'_>) -> Value {
    let mut entry = json!({
        "id": dependency.job.0,
        "name": dependency.name,
        "token": dependency.token.expose(),
    });
    if let Some((filename, size)) = dependency.archive {
        entry["artifacts_file"] = json!({ "filename": filename, "size": size });
    }
    entry
}
