//! The example payloads, field by field.

use super::*;

#[test]
fn a_minimal_job() {
    let payload = parse(&value(MINIMAL));
    assert_eq!(payload.id, JobId(5001));
    assert_eq!(payload.token.expose(), "glcbt-66_EXAMPLEminimal0001");
    assert!(payload.allow_git_fetch);

    let info = &payload.job_info;
    assert_eq!(info.id, Some(JobId(5001)));
    assert_eq!((info.name.as_str(), info.stage.as_str()), ("hello", "test"));
    assert_eq!((info.pipeline_id, info.project_id), (None, Some(17)));
    assert_eq!(info.project_name, "tiny");
    assert_eq!(info.project_full_path, None);
    assert_eq!(info.time_in_queue_seconds, None);
    assert_eq!(
        info.project_jobs_running_on_instance_runners_count
            .as_deref(),
        Some("+Inf")
    );

    let git = &payload.git_info;
    assert_eq!(
        git.repo_url.expose(),
        "https://gitlab-ci-token:glcbt-66_EXAMPLEminimal0001@git.example.test/demo/tiny.git"
    );
    assert_eq!(
        (git.ref_name.as_str(), git.ref_type.as_str()),
        ("main", "branch")
    );
    assert_eq!(git.sha, "0f3a5d0c9b6e4a7d8c1b2e3f4a5b6c7d8e9f0a1b");
    assert_eq!(git.before_sha, "0".repeat(40));
    assert_eq!(
        git.refspecs,
        [
            "+refs/pipelines/901:refs/pipelines/901",
            "+refs/heads/main:refs/remotes/origin/main"
        ]
    );
    assert_eq!((git.depth, git.repo_object_format.as_str()), (20, "sha1"));
    assert_eq!(git.protected, None);

    assert_eq!(payload.runner_info.timeout, Some(3600));
    assert_eq!(payload.runner_info.runner_session_url, None);
    assert_eq!(payload.variables.len(), 2);
    let variable = payload.variable("CI_JOB_TOKEN").unwrap();
    assert_eq!(variable.value, "glcbt-66_EXAMPLEminimal0001");
    assert!(variable.masked && !variable.public && !variable.file && !variable.raw);

    let [step] = &payload.steps[..] else {
        panic!("one step: {:?}", payload.steps);
    };
    assert_eq!(&*step.name, "script");
    assert_eq!(*step.script, ["echo hello".to_owned()]);
    assert_eq!(step.timeout, Some(3600));
    assert_eq!(step.when, StepWhen::OnSuccess);
    assert!(!step.allow_failure);

    assert_eq!((&payload.run, &payload.image), (&None, &None));
    assert!(payload.hooks.is_empty() && payload.services.is_empty());
    assert!(payload.artifacts.is_empty() && payload.cache.is_empty());
    assert!(payload.credentials.is_empty() && payload.dependencies.is_empty());
    assert!(payload.inputs.is_empty() && payload.secrets.is_empty());
    assert_eq!(
        (&payload.policy_options, &payload.suspend_options),
        (&None, &None)
    );
    assert!(payload.features.trace_sections);
    assert_eq!(payload.features.failure_reasons.len(), 4);
    assert!(payload.features.token_mask_prefixes.is_empty());
    assert_eq!(payload.mask_values(), ["glcbt-66_EXAMPLEminimal0001"]);
}

#[test]
fn a_typical_job() {
    let payload = parse(&value(TYPICAL));
    assert_eq!(payload.id, JobId(730_144));
    assert_eq!(payload.job_info.name, "unit: [linux, stable]");
    assert_eq!(payload.job_info.scoped_user_id, None);
    assert_eq!(payload.job_info.time_in_queue_seconds, Some(7.0));
    assert_eq!(payload.git_info.protected, Some(false));
    assert_eq!(payload.variables.len(), 12);
    assert_eq!(payload.variable("CI_RUNNER_DESCRIPTION").unwrap().value, "");
    let key = payload.variable("DEPLOY_KEY").unwrap();
    assert_eq!(
        (key.value.as_str(), key.file, key.raw),
        ("line one\nline two\n", true, false)
    );
    assert!(payload.variable("PATTERN").unwrap().raw);

    let names: Vec<_> = payload.steps.iter().map(|step| &*step.name).collect();
    assert_eq!(names, ["script", "after_script"]);
    assert_eq!(payload.steps[0].script.len(), 3);
    assert_eq!(payload.steps[1].when, StepWhen::Always);
    assert!(payload.steps[1].allow_failure);

    assert_eq!(payload.hooks[0].name, "pre_get_sources_script");
    let image = payload.image.as_ref().unwrap();
    assert_eq!(image.name, "rust:1.85");
    assert!(image.entrypoint.is_empty() && image.pull_policy.is_empty());
    assert_eq!(payload.services[0].alias.as_deref(), Some("db"));
    assert_eq!(payload.services[0].variables[0].key, "POSTGRES_PASSWORD");
    assert_eq!(payload.services[0].variables[0].value, "example");
    assert_eq!(payload.services[1].alias, None);

    assert_eq!(
        payload.artifacts[0].artifact_format,
        Some(ArtifactFormat::Zip)
    );
    assert_eq!(
        payload.artifacts[1].artifact_format,
        Some(ArtifactFormat::Gzip)
    );
    assert_eq!(payload.artifacts[1].artifact_type.as_deref(), Some("junit"));
    assert_eq!(payload.artifacts[1].when, ArtifactWhen::Always);
    assert_eq!(payload.cache[0].key, "cargo-2-non_protected");
    assert_eq!(payload.credentials[1].url, "git.example.test:443");
    assert_eq!(payload.credentials[1].kind, "registry");
    assert_eq!(payload.features.failure_reasons.len(), 24);

    let [codegen, lint] = &payload.dependencies[..] else {
        panic!("two dependencies: {:?}", payload.dependencies);
    };
    assert_eq!(
        (codegen.id, codegen.name.as_str()),
        (JobId(730_140), "codegen")
    );
    assert_eq!(codegen.token.expose(), "glcbt-66_EXAMPLEtypical0002");
    let file = codegen.artifacts_file.as_ref().unwrap();
    assert_eq!(
        (file.filename.as_str(), file.size),
        ("artifacts.zip", Some(482_113))
    );
    assert_eq!(lint.artifacts_file, None);
}

#[test]
fn a_job_with_native_steps() {
    let payload = parse(&value(RUN_STEPS));
    assert_eq!(payload.id, JobId(5050));
    assert!(payload.steps.is_empty());
    let run = value(payload.run.as_deref().unwrap());
    assert_eq!(run[1]["inputs"]["message"], "hello");
    assert_eq!(payload.git_info.protected, Some(true));
}

#[test]
fn a_job_with_everything() {
    let payload = parse(&value(EVERYTHING));
    assert_eq!(payload.id, JobId(9_007_199));
    assert_eq!(payload.token.expose(), EVERYTHING_TOKEN);
    assert!(!payload.allow_git_fetch);

    let info = &payload.job_info;
    assert_eq!(info.pipeline_id, Some(660_021));
    assert_eq!(info.project_full_path.as_deref(), Some("acme/everything"));
    assert_eq!(
        (info.namespace_id, info.root_namespace_id),
        (Some(12), Some(12))
    );
    assert_eq!((info.organization_id, info.user_id), (Some(1), Some(301)));
    assert_eq!(info.scoped_user_id, Some(302));
    assert_eq!(info.instance_id.as_deref(), Some("instance-example-1"));
    assert!(
        info.instance_uuid
            .as_deref()
            .unwrap()
            .starts_with("3f1d2c4b-")
    );
    assert_eq!(
        info.project_jobs_running_on_instance_runners_count
            .as_deref(),
        Some("1000+")
    );
    assert_eq!((info.queue_size, info.queue_depth), (Some(48), Some(3)));
    assert_eq!(payload.git_info.sha.len(), 64);
    assert_eq!(payload.git_info.repo_object_format, "sha256");
    assert_eq!(
        payload.runner_info.uuid.as_deref(),
        Some("runner-uuid-example-1")
    );
    assert!(payload.runner_info.runner_session_url.is_some());

    let kinds: Vec<_> = payload
        .inputs
        .iter()
        .map(|input| input.value.kind.as_str())
        .collect();
    assert_eq!(
        kinds,
        ["string", "string", "number", "boolean", "array", "struct"]
    );
    assert_eq!(payload.inputs[1].value.content, "hunter2-example");
    assert!(payload.inputs[1].value.sensitive);
    assert_eq!(payload.inputs[5].value.content["level"], 2);
    let both = payload.variable("BOTH_FILE_AND_RAW").unwrap();
    assert!(both.file && both.raw && both.masked && !both.public);
    let names: Vec<_> = payload.steps.iter().map(|step| &*step.name).collect();
    assert_eq!(names, ["script", "release", "after_script"]);
    assert!(payload.run.is_some());
    assert_eq!(payload.hooks[1].script, ["echo after"]);

    let image = payload.image.as_ref().unwrap();
    assert_eq!(image.entrypoint, ["/bin/sh", "-c"]);
    assert_eq!(
        (image.ports[1].number, image.ports[1].name.as_str()),
        (8443, "ui")
    );
    assert_eq!(
        image.pull_policy,
        [PullPolicy::IfNotPresent, PullPolicy::Always]
    );
    let docker = image.executor_opts.docker.as_ref().unwrap();
    assert_eq!(docker.platform.as_deref(), Some("linux/arm64"));
    assert_eq!(docker.user.as_deref(), Some("1000:1000"));
    let kubernetes = image.executor_opts.kubernetes.as_ref().unwrap();
    assert_eq!(kubernetes.user.as_deref(), Some("1001"));
    assert_eq!(payload.services[0].command, ["postgres", "-c", "fsync=off"]);
    assert_eq!(payload.services[1].entrypoint, ["/bin/sh"]);
    assert_eq!(payload.services[1].command, ["sleep 30"]);
    assert!(payload.services[1].variables.is_empty());

    assert_eq!(payload.artifacts.len(), 8);
    let archive = &payload.artifacts[0];
    assert!(archive.untracked);
    assert_eq!(archive.exclude, ["out/**/*.o", "out/tmp/"]);
    assert_eq!(archive.when, ArtifactWhen::OnFailure);
    assert_eq!(archive.expire_in.as_deref(), Some("never"));
    assert_eq!(
        payload.artifacts[4].artifact_format,
        Some(ArtifactFormat::Raw)
    );
    assert_eq!(payload.artifacts[7].name, None);
    assert_eq!(payload.artifacts[7].when, ArtifactWhen::OnSuccess);
    assert_eq!(payload.cache[0].fallback_keys.len(), 2);
    assert_eq!(payload.cache[1].policy, CachePolicy::Pull);
    assert_eq!(payload.cache[2].policy, CachePolicy::Push);
    assert_eq!(payload.cache[2].when, ArtifactWhen::OnFailure);
    assert!(payload.cache[2].paths.is_empty());

    let features = &payload.features;
    assert_eq!(features.failure_reasons.len(), 52);
    assert_eq!(features.token_mask_prefixes, ["acme-"]);
    let tracing = features.tracing.as_ref().unwrap();
    assert_eq!(tracing.trace_id, "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(tracing.span_parent_id, "00f067aa0ba902b7");
    let auth = tracing.otel_endpoints[0].auth.as_ref().unwrap();
    assert_eq!(auth.kind, "http_bearer_gcp_oidc");
    assert_eq!(
        auth.http_bearer_gcp_oidc.as_ref().unwrap().audience,
        "https://otel.example.test"
    );
    assert_eq!(tracing.otel_endpoints[1].auth, None);

    let policy = payload.policy_options.as_ref().unwrap();
    assert!(policy.execution_policy_job);
    assert_eq!(policy.policy_name.as_deref(), Some("Compliance scan"));
    assert_eq!(policy.policy_variables_override_allowed, Some(false));
    assert_eq!(policy.policy_variables_override_exceptions, ["LOG_LEVEL"]);
    let suspend = payload.suspend_options.as_ref().unwrap();
    assert!(suspend.suspend_on_success && !suspend.suspend_on_failure);
    let key = suspend.runtime_environment_key.as_ref().unwrap();
    assert_eq!(key.expose(), "42/s_machineid/acquisition-key=abc123");

    let mut values = payload.mask_values();
    values.sort();
    let wanted = [
        EVERYTHING_TOKEN,
        "$x",
        "eyEXAMPLE",
        "eyEXAMPLEIDTOKEN",
        "hunter2-example",
    ];
    let mut wanted = wanted.map(String::from);
    wanted.sort();
    assert_eq!(values, wanted);
}

#[test]
fn every_store_of_secrets() {
    let payload = parse(&value(EVERYTHING));
    assert_eq!(payload.secrets.len(), 6);
    let secret = |token: &Option<Secret>| token.as_ref().map(|token| token.expose().to_owned());

    let spec = &payload.secrets["DB_PASSWORD"];
    assert!(!spec.file);
    assert_eq!(secret(&spec.token).as_deref(), Some("$VAULT_ID_TOKEN"));
    let vault = spec.vault.as_ref().unwrap();
    assert_eq!(
        (vault.engine.name.as_str(), vault.engine.path.as_str()),
        ("kv-v2", "ops")
    );
    assert_eq!(
        (vault.path.as_str(), vault.field.as_str()),
        ("production/db", "password")
    );
    assert_eq!(vault.server.url, "https://vault.example.test");
    assert_eq!(vault.server.namespace, None);
    assert_eq!(vault.server.auth.name, "jwt");
    assert_eq!(vault.server.auth.data.role.as_deref(), Some("ci"));
    assert_eq!(
        secret(&vault.server.auth.data.jwt).as_deref(),
        Some("$VAULT_ID_TOKEN")
    );

    let spec = &payload.secrets["AZ_SECRET"];
    assert!(spec.file && spec.vault.is_none());
    let azure = spec.azure_key_vault.as_ref().unwrap();
    assert_eq!(
        (azure.name.as_str(), azure.version.as_deref()),
        ("az-secret", Some("1"))
    );
    assert_eq!(azure.server.tenant_id.as_deref(), Some("t-1"));
    assert_eq!(azure.server.client_id.as_deref(), Some("c-1"));

    let gcp = payload.secrets["GCP_SECRET"]
        .gcp_secret_manager
        .as_ref()
        .unwrap();
    assert_eq!(gcp.version.as_deref(), Some("latest"));
    assert_eq!(gcp.server.project_number.as_deref(), Some("123456"));
    assert_eq!(
        gcp.server.workload_identity_federation_pool_id.as_deref(),
        Some("pool")
    );

    let aws = payload.secrets["AWS_SECRET"]
        .aws_secrets_manager
        .as_ref()
        .unwrap();
    assert_eq!(aws.secret_id, "prod/app");
    assert_eq!(aws.version_stage.as_deref(), Some("AWSCURRENT"));
    assert_eq!(aws.server.region.as_deref(), Some("eu-central-1"));
    assert_eq!(secret(&aws.server.jwt).as_deref(), Some("$AWS_ID_TOKEN"));

    let spec = &payload.secrets["OPENBAO_SECRET"];
    assert!(spec.file && spec.token.is_none());
    let gitlab = spec.gitlab_secrets_manager.as_ref().unwrap();
    assert_eq!(gitlab.engine.path, "secrets/kv");
    assert_eq!(
        gitlab.server.inline_auth.role.as_deref(),
        Some("project_4242")
    );
    assert_eq!(
        secret(&gitlab.server.inline_auth.jwt).as_deref(),
        Some("eyEXAMPLE")
    );

    let akeyless = payload.secrets["AKEYLESS_SECRET"]
        .akeyless
        .as_ref()
        .unwrap();
    assert_eq!(akeyless.name.as_deref(), Some("/prod/app"));
    assert_eq!(akeyless.server.access_id.as_deref(), Some("p-1"));
    assert_eq!(akeyless.server.access_key, None);
    assert_eq!(akeyless.server.uid_token, None);
    assert_eq!(
        secret(&akeyless.server.jwt).as_deref(),
        Some("$AKEYLESS_ID_TOKEN")
    );
}
