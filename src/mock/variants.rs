//! What differs in payloads from one GitLab to the next.

use std::fmt;

use serde_json::{Value, json};

use self::FieldForm::{Absent, Json, Null, Sample};

/// A field of the payload in one of the forms in which GitLab's versions, editions and settings
/// send it, for [`JobSpec::payload_variant`](super::JobSpec::payload_variant).
///
/// A runner should take each of them:
///
/// ```
/// use gitlab_runner::mock::{FieldForm, JobSpec, MockGitlab, PayloadVariant};
///
/// let mut gitlab = MockGitlab::new(1);
/// for variant in PayloadVariant::all() {
///     gitlab.enqueue(JobSpec::script(["true"]).payload_variant(variant));
/// }
/// // Or one of them.
/// let old = PayloadVariant::of("git_info.refspecs", FieldForm::Absent).expect("in the table");
/// gitlab.enqueue(JobSpec::script(["true"]).payload_variant(old));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PayloadVariant {
    field: &'static str,
    form: FieldForm,
}

/// How a field of the payload is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FieldForm {
    /// Not at all.
    Absent,
    /// As null.
    Null,
    /// As an example of all that can be in it.
    Sample,
    /// As this JSON.
    Json(&'static str),
}

impl PayloadVariant {
    /// All that are documented.
    pub fn all() -> impl Iterator<Item = Self> {
        let rows = TABLE.iter();
        rows.flat_map(|&(field, forms)| forms.iter().map(move |&form| Self { field, form }))
    }

    /// This field in this form; `None` when no GitLab is known to send it so.
    pub fn of(field: &str, form: FieldForm) -> Option<Self> {
        Self::all().find(|variant| variant.field == field && variant.form == form)
    }

    /// The path of the field, such as `job_info.user_id`; `[]` stands for each entry of a list,
    /// `*` for each value of an object.
    pub fn field(&self) -> &'static str {
        self.field
    }

    /// How it is sent.
    pub fn form(&self) -> FieldForm {
        self.form
    }

    /// Makes the payload so. What the field is inside of is filled with an example if need be.
    pub(super) fn apply(self, payload: &mut Value) {
        let steps: Vec<&str> = self.field.split('.').collect();
        self.change(payload, &steps);
        if self.field == "steps" {
            payload["run"] = sample("run");
        }
    }

    fn change(self, value: &mut Value, path: &[&str]) {
        let Some((&step, rest)) = path.split_first() else {
            return;
        };
        if rest.is_empty() {
            return self.set(value, step);
        }
        let name = step.strip_suffix("[]").unwrap_or(step);
        if let Some(owner) = value.as_object_mut()
            && is_empty(owner.get(name))
            && let example @ (Value::Array(_) | Value::Object(_)) = sample(name)
        {
            owner.insert(name.to_owned(), example);
        }
        if let Some(list) = step.strip_suffix("[]") {
            let entries = value.get_mut(list).and_then(Value::as_array_mut);
            let entries = entries.into_iter().flatten();
            entries.for_each(|entry| self.change(entry, rest));
        } else if step == "*" {
            let entries = value.as_object_mut().into_iter().flatten();
            entries.for_each(|(_, entry)| self.change(entry, rest));
        } else if let Some(inner) = value.get_mut(step) {
            self.change(inner, rest);
        }
    }

    fn set(self, owner: &mut Value, key: &str) {
        let Some(owner) = owner.as_object_mut() else {
            return;
        };
        let value = match self.form {
            Absent => {
                owner.remove(key);
                return;
            }
            Null => Value::Null,
            Sample => sample(key),
            Json(text) => serde_json::from_str(text).unwrap_or_default(),
        };
        owner.insert(key.to_owned(), value);
    }
}

impl fmt::Display for PayloadVariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.field)?;
        match self.form {
            Absent => f.write_str(" absent"),
            Null => f.write_str(" null"),
            Sample => f.write_str(" present"),
            Json(text) => write!(f, " as {text}"),
        }
    }
}

fn is_empty(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Array(list)) => list.is_empty(),
        Some(Value::Object(object)) => object.is_empty(),
        Some(_) => false,
    }
}

/// Every field that is not always there, not always set, or not always of the same type.
const TABLE: &[(&str, &[FieldForm])] = &[
    // Steps are absent where `run` takes their place.
    ("steps", &[Absent]),
    ("hooks", &[Absent, Sample]),
    ("image", &[Null, Sample]),
    ("services", &[Sample]),
    // Null without the keyword, empty when it says nothing to upload.
    ("artifacts", &[Null, Json("[]")]),
    ("cache", &[Sample]),
    ("credentials", &[Json("[]")]),
    ("secrets", &[Absent, Json("{}"), Sample]),
    ("policy_options", &[Absent, Null, Sample]),
    ("inputs", &[Absent, Sample]),
    ("suspend_options", &[Absent, Sample]),
    ("job_info.pipeline_id", &[Absent]),
    ("job_info.project_full_path", &[Absent]),
    ("job_info.namespace_id", &[Absent]),
    ("job_info.root_namespace_id", &[Absent]),
    ("job_info.organization_id", &[Absent, Null]),
    ("job_info.instance_id", &[Absent, Null]),
    ("job_info.instance_uuid", &[Absent, Null]),
    ("job_info.user_id", &[Absent, Null]),
    ("job_info.scoped_user_id", &[Absent, Null, Json("7")]),
    ("job_info.time_in_queue_seconds", &[Null, Json("1.5")]),
    (
        "job_info.project_jobs_running_on_instance_runners_count",
        &[Absent, Json("\"0\""), Json("\"2+\""), Json("\"+Inf\"")],
    ),
    ("job_info.queue_size", &[Absent, Null]),
    ("job_info.queue_depth", &[Absent, Null]),
    (
        "git_info.before_sha",
        &[Null, Json("\"0000000000000000000000000000000000000000\"")],
    ),
    ("git_info.ref_type", &[Json("\"tag\"")]),
    ("git_info.refspecs", &[Absent]),
    ("git_info.depth", &[Json("0")]),
    ("git_info.repo_object_format", &[Absent, Json("\"sha256\"")]),
    ("git_info.protected", &[Absent, Null, Json("true")]),
    ("runner_info.timeout", &[Null]),
    ("runner_info.runner_session_url", &[Null]),
    ("runner_info.uuid", &[Absent]),
    ("variables[].value", &[Null]),
    ("variables[].masked", &[Absent]),
    ("steps[].when", &[Absent, Json("\"\"")]),
    ("image.entrypoint", LIST_OR_TEXT),
    ("image.ports", PORTS),
    ("image.executor_opts", EXECUTOR_OPTS),
    ("image.pull_policy", PULL_POLICY),
    ("services[].alias", &[Null, Json("\"db, data base\"")]),
    ("services[].entrypoint", LIST_OR_TEXT),
    ("services[].command", LIST_OR_TEXT),
    ("services[].ports", PORTS),
    ("services[].executor_opts", EXECUTOR_OPTS),
    ("services[].pull_policy", PULL_POLICY),
    ("services[].variables", &[Absent, Null, Json("[]")]),
    ("artifacts[].name", &[Null]),
    ("artifacts[].untracked", &[Absent, Json("true")]),
    ("artifacts[].paths", &[Null]),
    ("artifacts[].exclude", &[Absent]),
    ("artifacts[].when", &[Null]),
    ("artifacts[].expire_in", &[Null]),
    ("artifacts[].artifact_type", &[Absent]),
    ("artifacts[].artifact_format", &[Absent]),
    ("cache[].untracked", &[Null]),
    ("cache[].paths", &[Null]),
    ("cache[].fallback_keys", &[Absent]),
    ("features.failure_reasons", &[Absent]),
    (
        "features.token_mask_prefixes",
        &[Absent, Json("[\"own-\"]")],
    ),
    ("features.tracing", &[Absent, Null, Sample]),
    ("features.tracing.otel_endpoints[].auth", &[Null]),
    // Nothing to download: no archive, an expired one, an erased job.
    ("dependencies[].artifacts_file", &[Absent]),
    (
        "policy_options.policy_variables_override_allowed",
        &[Absent, Null],
    ),
    (
        "policy_options.policy_variables_override_exceptions",
        &[Absent, Null],
    ),
    ("suspend_options.suspend_on_success", &[Absent]),
    ("suspend_options.suspend_on_failure", &[Absent]),
    ("suspend_options.runtime_environment_key", &[Absent]),
    ("secrets.*.file", &[Absent, Json("false")]),
    ("secrets.*.token", &[Absent, Null]),
    ("secrets.*.vault.server.namespace", &[Absent, Null]),
    ("secrets.*.vault.server.url", &[Null]),
    ("secrets.*.vault.server.auth.data.role", &[Absent, Null]),
    ("secrets.*.azure_key_vault.version", &[Absent, Null]),
    ("secrets.*.azure_key_vault.server.client_id", &[Null]),
    ("secrets.*.gcp_secret_manager.version", &[Null]),
    (
        "secrets.*.gcp_secret_manager.server.project_number",
        &[Null],
    ),
    ("secrets.*.aws_secrets_manager.version_id", &[Absent, Null]),
    (
        "secrets.*.aws_secrets_manager.version_stage",
        &[Absent, Null],
    ),
    ("secrets.*.aws_secrets_manager.field", &[Absent, Null]),
    ("secrets.*.aws_secrets_manager.region", &[Absent, Null]),
    ("secrets.*.aws_secrets_manager.role_arn", &[Absent, Null]),
    (
        "secrets.*.aws_secrets_manager.role_session_name",
        &[Absent, Null],
    ),
    ("secrets.*.aws_secrets_manager.server.region", &[Null]),
    ("secrets.*.aws_secrets_manager.server.jwt", &[Absent, Null]),
    (
        "secrets.*.aws_secrets_manager.server.role_arn",
        &[Absent, Null],
    ),
    (
        "secrets.*.aws_secrets_manager.server.role_session_name",
        &[Absent, Null],
    ),
    ("secrets.*.gitlab_secrets_manager.server.url", &[Null]),
    ("secrets.*.akeyless.server.access_key", &[Null]),
];

/// A plain text comes from old servers.
const LIST_OR_TEXT: &[FieldForm] = &[Null, Json("[\"sh\",\"-c\"]"), Json("\"sh\"")];
const PORTS: &[FieldForm] = &[
    Json("[]"),
    Json("[{\"number\":80,\"protocol\":\"http\",\"name\":\"default_port\"}]"),
];
/// Users may be numbers, and there may be executors that nobody knows.
const EXECUTOR_OPTS: &[FieldForm] = &[
    Absent,
    Json("{}"),
    Json("{\"docker\":{\"platform\":\"linux/arm64\",\"user\":\"dave\"}}"),
    Json("{\"docker\":{\"user\":1000},\"kubernetes\":{\"user\":1000}}"),
    Json("{\"docker\":{\"newer\":[1]},\"newer\":{\"user\":true}}"),
];
const PULL_POLICY: &[FieldForm] = &[Absent, Null, Json("[\"if-not-present\",\"always\"]")];

/// An example of the field with this name, with all that can be in it.
fn sample(name: &str) -> Value {
    match name {
        "run" => json!("[{\"name\":\"greet\",\"script\":\"echo hello\"}]"),
        "hooks" => json!([{ "name": "pre_get_sources_script", "script": ["echo before"] }]),
        "image" => json!({
            "name": "registry.example.test/build:1",
            "entrypoint": ["/bin/sh", "-c"],
            "ports": [],
            "executor_opts": {},
            "pull_policy": ["always"],
        }),
        "services" => json!([{
            "name": "postgres:17",
            "alias": "db",
            "entrypoint": null,
            "command": ["postgres"],
            "ports": [],
            "executor_opts": {},
            "pull_policy": null,
            "variables": [{ "key": "POSTGRES_DB", "value": "test" }],
        }]),
        "artifacts" => json!([{
            "name": "build",
            "untracked": false,
            "paths": ["out/"],
            "exclude": ["out/*.tmp"],
            "when": "on_success",
            "expire_in": "1 week",
            "artifact_type": "archive",
            "artifact_format": "zip",
        }]),
        "cache" => json!([{
            "key": "deps-1-non_protected",
            "untracked": false,
            "paths": ["deps/"],
            "policy": "pull-push",
            "when": "on_success",
            "fallback_keys": ["deps-non_protected"],
        }]),
        "dependencies" => json!([{
            "id": 4000,
            "name": "earlier",
            "token": "glcbt-example_dependency",
            "artifacts_file": { "filename": "artifacts.zip", "size": 1024 },
        }]),
        "policy_options" => json!({
            "execution_policy_job": true,
            "policy_name": "Scans",
            "policy_variables_override_allowed": true,
            "policy_variables_override_exceptions": ["DEPTH"],
        }),
        "inputs" => json!([
            input("text", "string", &json!("value"), false),
            input("number", "number", &json!(1.5), false),
            input("flag", "boolean", &json!(true), false),
            input("list", "array", &json!(["a", 1]), false),
            input("object", "struct", &json!({ "a": [1, null] }), true),
        ]),
        "suspend_options" => json!({
            "suspend_on_success": true,
            "suspend_on_failure": false,
            "runtime_environment_key": "11/s_example/opaque",
        }),
        "tracing" => tracing(),
        "secrets" => secrets(),
        _ => Value::Null,
    }
}

fn input(key: &str, kind: &str, content: &Value, sensitive: bool) -> Value {
    json!({ "key": key, "value": { "type": kind, "content": content, "sensitive": sensitive } })
}

fn tracing() -> Value {
    json!({
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "span_parent_id": "00f067aa0ba902b7",
        "otel_endpoints": [{
            "url": "https://otel.example.test",
            "auth": {
                "type": "http_bearer_gcp_oidc",
                "http_bearer_gcp_oidc": { "audience": "runner" },
            },
        }],
    })
}

/// One secret of each provider.
fn secrets() -> Value {
    let jwt = "${ID_TOKEN}";
    let secret = |provider: &str, fields: Value| {
        let mut secret = json!({ "file": true, "token": "$ID_TOKEN" });
        secret[provider] = fields;
        secret
    };
    json!({
        "OF_VAULT": secret("vault", json!({
            "engine": { "name": "kv-v2", "path": "kv" },
            "path": "production/db",
            "field": "password",
            "server": {
                "url": "https://vault.example.test",
                "namespace": "team",
                "auth": { "name": "jwt", "path": "jwt", "data": { "jwt": jwt, "role": "ci" } },
            },
        })),
        "OF_AZURE": secret("azure_key_vault", json!({
            "name": "db",
            "version": "1",
            "server": {
                "url": "https://azure.example.test",
                "client_id": "client",
                "tenant_id": "tenant",
                "jwt": jwt,
            },
        })),
        "OF_GCP": secret("gcp_secret_manager", json!({
            "name": "db",
            "version": "latest",
            "server": {
                "project_number": "1",
                "workload_identity_federation_pool_id": "pool",
                "workload_identity_federation_provider_id": "provider",
                "jwt": jwt,
            },
        })),
        "OF_AWS": secret("aws_secrets_manager", json!({
            "secret_id": "db",
            "version_id": "1",
            "version_stage": "current",
            "field": "password",
            "region": "eu-example-1",
            "role_arn": "arn:example",
            "role_session_name": "job",
            "server": {
                "region": "eu-example-1",
                "jwt": jwt,
                "role_arn": "arn:example",
                "role_session_name": "job",
            },
        })),
        "OF_GITLAB": secret("gitlab_secrets_manager", json!({
            "path": "db",
            "field": "value",
            "engine": { "name": "kv-v2", "path": "secrets/kv" },
            "server": {
                "url": "https://secrets.example.test",
                "inline_auth": { "path": "login", "jwt": jwt, "role": "ci", "auth_mount": "jwt" },
            },
        })),
        "OF_AKEYLESS": secret("akeyless", json!({
            "name": "db",
            "server": {
                "access_id": "p-example",
                "access_key": "",
                "akeyless_api_url": "https://akeyless.example.test",
                "akeyless_access_type": "jwt",
                "jwt": jwt,
            },
        })),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_row_is_twice_and_all_json_can_be_read() {
        let all: Vec<_> = PayloadVariant::all().collect();
        let names: BTreeSet<_> = all.iter().map(ToString::to_string).collect();
        assert_eq!(names.len(), all.len());
        for variant in all {
            if let Json(text) = variant.form {
                serde_json::from_str::<Value>(text).unwrap();
            }
            if variant.form == Sample {
                let key = variant.field.rsplit('.').next().unwrap_or_default();
                assert!(!sample(key).is_null(), "{variant}");
            }
        }
    }
}
