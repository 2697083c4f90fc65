//! What the runner gets with a 201, with GitLab's quirks.

use bytes::Bytes;
use gitlab_runner::mock::{ArtifactSpec, JobSpec};
use serde_json::{Map, Value, json};

use crate::world::{World, job};

/// The payload of this job for a runner with every feature it may need.
fn payload(spec: JobSpec) -> Value {
    let mut world = World::new();
    world.gitlab.enqueue(spec);
    let features = [
        "artifacts_exclude",
        "multi_build_steps",
        "refspecs",
        "upload_multiple_artifacts",
    ];
    let reply = world.ask_with(&features);
    assert_eq!(reply.status(), 201);
    reply.body()
}

fn keys(value: &Value) -> Vec<&str> {
    value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

/// The last variable with this key, which is the one that counts.
fn variable<'a>(payload: &'a Value, key: &str) -> Option<&'a Map<String, Value>> {
    let variables = payload["variables"].as_array().unwrap();
    let found = variables.iter().rfind(|variable| variable["key"] == key);
    found.and_then(Value::as_object)
}

/// All that a server without paid features sends, and nothing else: no timeout, no tags, no retry
/// rules at the top.
#[test]
fn the_top_level() {
    let payload = payload(job());
    let mut found = keys(&payload);
    found.sort_unstable();
    let expected = [
        "allow_git_fetch",
        "artifacts",
        "cache",
        "credentials",
        "dependencies",
        "features",
        "git_info",
        "hooks",
        "id",
        "image",
        "job_info",
        "runner_info",
        "services",
        "steps",
        "token",
        "variables",
    ];
    assert_eq!(found, expected);
    assert!(payload["id"].is_u64());
    assert!(payload["allow_git_fetch"].is_boolean());
    for list in ["services", "cache", "hooks", "dependencies"] {
        assert_eq!(payload[list], json!([]), "{list}");
    }
    // Null, since the job has neither.
    assert_eq!(payload["image"], Value::Null);
    assert_eq!(payload["artifacts"], Value::Null);
}

/// About the job: the id again, a count that is a string, and a null.
#[test]
fn the_job_info() {
    let payload = payload(job().name("unit: [linux, 1]").stage("test & more"));
    let info = &payload["job_info"];
    assert_eq!(info["id"], payload["id"]);
    assert_eq!(info["name"], "unit: [linux, 1]");
    assert_eq!(info["stage"], "test & more");
    for number in [
        "pipeline_id",
        "project_id",
        "namespace_id",
        "root_namespace_id",
        "organization_id",
        "user_id",
        "time_in_queue_seconds",
        "queue_size",
        "queue_depth",
    ] {
        assert!(info[number].is_u64(), "{number}");
    }
    for text in [
        "project_name",
        "project_full_path",
        "instance_id",
        "instance_uuid",
        "project_jobs_running_on_instance_runners_count",
    ] {
        assert!(info[text].is_string(), "{text}");
    }
    assert!(info.as_object().unwrap().contains_key("scoped_user_id"));
    assert_eq!(info["scoped_user_id"], Value::Null);
}

/// How long the job was in the queue, in whole seconds.
#[test]
fn the_time_in_the_queue() {
    let mut world = World::new();
    world.wait(0);
    world.gitlab.enqueue(job());
    world.wait_for(std::time::Duration::from_millis(7900));
    let info = world.ask_plainly().body()["job_info"].clone();
    assert_eq!(info["time_in_queue_seconds"], 7);
}

/// About the repository: a URL with the job token in it, and refspecs of which that of the
/// pipeline is the first; a merge request has no other.
#[test]
fn the_git_info() {
    let branch = payload(job());
    let info = &branch["git_info"];
    let url = info["repo_url"].as_str().unwrap();
    let token = branch["token"].as_str().unwrap();
    assert!(url.contains(&format!("gitlab-ci-token:{token}@")));
    assert_eq!(info["ref_type"], "branch");
    assert_eq!(info["sha"].as_str().unwrap().len(), 40);
    assert_eq!(info["before_sha"].as_str().unwrap().len(), 40);
    assert_eq!(info["depth"], 20);
    assert_eq!(info["repo_object_format"], "sha1");
    assert!(info["protected"].is_boolean());
    let pipeline = &branch["job_info"]["pipeline_id"];
    let first = format!("+refs/pipelines/{pipeline}:refs/pipelines/{pipeline}");
    let name = info["ref"].as_str().unwrap();
    let second = format!("+refs/heads/{name}:refs/remotes/origin/{name}");
    assert_eq!(info["refspecs"], json!([first, second]));

    let merge_request = payload(job().merge_request(5));
    let info = &merge_request["git_info"];
    assert_eq!(info["ref_type"], "branch");
    assert_eq!(info["refspecs"].as_array().unwrap().len(), 1);
    assert!(info["ref"].as_str().unwrap().contains("/5/"));
}

/// The timeout is there twice: for the job, and repeated in each step.
#[test]
fn the_timeout() {
    let payload = payload(job().timeout(1800).after_script(["rm x"]));
    assert_eq!(payload["runner_info"]["timeout"], 1800);
    assert_eq!(payload["runner_info"]["runner_session_url"], Value::Null);
    assert!(payload["runner_info"]["uuid"].is_string());
    let steps = payload["steps"].as_array().unwrap();
    assert!(steps.iter().all(|step| step["timeout"] == 1800));
}

/// The steps in order: script, release, after_script; the last one always runs and may fail.
#[test]
fn the_steps() {
    let spec = JobSpec::script(["make", "make\ntest"])
        .timeout(60)
        .after_script(["rm x"])
        .release(["release-cli"]);
    let step = |name: &str, script: Value, when: &str, allow_failure: bool| {
        json!({
            "name": name,
            "script": script,
            "timeout": 60,
            "when": when,
            "allow_failure": allow_failure,
        })
    };
    assert_eq!(
        payload(spec)["steps"],
        json!([
            step("script", json!(["make", "make\ntest"]), "on_success", false),
            step("release", json!(["release-cli"]), "on_success", false),
            step("after_script", json!(["rm x"]), "always", true),
        ])
    );
    let steps = payload(job())["steps"].clone();
    assert_eq!(steps.as_array().unwrap().len(), 1);
}

/// A variable has key, value, public and masked; file and raw only when true.
#[test]
fn the_variables_of_a_job() {
    let payload = payload(
        job()
            .variable("PLAIN", "1")
            .masked_variable("PASSWORD", "correct horse")
            .file_variable("CONFIG", "a\nb\n")
            .raw_variable("PATTERN", "$a")
            .variable("EMPTY", ""),
    );
    let expect = |key: &str, expected: Value| {
        assert_eq!(variable(&payload, key), expected.as_object(), "{key}");
    };
    expect(
        "PLAIN",
        json!({ "key": "PLAIN", "value": "1", "public": true, "masked": false }),
    );
    expect(
        "PASSWORD",
        json!({ "key": "PASSWORD", "value": "correct horse", "public": false, "masked": true }),
    );
    expect(
        "CONFIG",
        json!({
            "key": "CONFIG",
            "value": "a\nb\n",
            "public": false,
            "masked": false,
            "file": true,
        }),
    );
    expect(
        "PATTERN",
        json!({ "key": "PATTERN", "value": "$a", "public": true, "masked": false, "raw": true }),
    );
    expect(
        "EMPTY",
        json!({ "key": "EMPTY", "value": "", "public": true, "masked": false }),
    );
}

/// The same key may come several times, those of the job behind the server's own: the last wins.
#[test]
fn a_key_may_come_several_times() {
    let payload = payload(
        job()
            .variable("CI", "no")
            .variable("A", "1")
            .variable("A", "2"),
    );
    let variables = payload["variables"].as_array().unwrap();
    let count = |key: &str| variables.iter().filter(|item| item["key"] == key).count();
    assert_eq!((count("CI"), count("A")), (2, 2));
    assert_eq!(variable(&payload, "CI").unwrap()["value"], "no");
    assert_eq!(variable(&payload, "A").unwrap()["value"], "2");
}

/// The server's own variables; tokens are masked, but not the repository's URL, and a value may
/// be null. Every value is a string or null.
#[test]
fn the_predefined_variables() {
    let payload = payload(job().name("unit").stage("test"));
    let token = payload["token"].as_str().unwrap();
    let id = payload["id"].to_string();
    for (key, value) in [
        ("CI", "true"),
        ("CI_JOB_ID", id.as_str()),
        ("CI_JOB_NAME", "unit"),
        ("CI_JOB_STAGE", "test"),
        ("CI_JOB_TOKEN", token),
        ("CI_REGISTRY_USER", "gitlab-ci-token"),
        ("CI_REGISTRY_PASSWORD", token),
        ("CI_SERVER_URL", "https://gitlab.example.test"),
    ] {
        assert_eq!(variable(&payload, key).unwrap()["value"], value, "{key}");
    }
    for key in [
        "CI_JOB_URL",
        "CI_PROJECT_ID",
        "CI_PROJECT_PATH",
        "CI_PIPELINE_ID",
        "CI_COMMIT_SHA",
        "CI_COMMIT_REF_NAME",
        "CI_RUNNER_ID",
        "CI_RUNNER_TAGS",
        "GITLAB_FEATURES",
    ] {
        assert!(
            variable(&payload, key).unwrap()["value"].is_string(),
            "{key}"
        );
    }
    for key in ["CI_JOB_STARTED_AT", "CI_RUNNER_DESCRIPTION"] {
        assert_eq!(variable(&payload, key).unwrap()["value"], Value::Null);
    }
    for key in ["CI_JOB_TOKEN", "CI_REGISTRY_PASSWORD"] {
        let found = variable(&payload, key).unwrap();
        assert_eq!(
            (&found["public"], &found["masked"]),
            (&json!(false), &json!(true))
        );
    }
    let url = variable(&payload, "CI_REPOSITORY_URL").unwrap();
    assert_eq!(url["value"], payload["git_info"]["repo_url"]);
    assert_eq!(
        (&url["public"], &url["masked"]),
        (&json!(false), &json!(false))
    );
    // The runner's own business.
    assert!(variable(&payload, "CI_PROJECT_DIR").is_none());
    for item in payload["variables"].as_array().unwrap() {
        assert!(
            item["value"].is_string() || item["value"].is_null(),
            "{item}"
        );
        assert!(item.get("file") != Some(&json!(false)) && item.get("raw") != Some(&json!(false)));
    }
}

/// An image comes as an object with all of its fields.
#[test]
fn the_image() {
    assert_eq!(
        payload(job().image("rust:1"))["image"],
        json!({
            "name": "rust:1",
            "entrypoint": null,
            "ports": [],
            "executor_opts": {},
            "pull_policy": null,
        })
    );
}

/// The archive comes first and may have no name; a report has a fixed one and is always uploaded.
/// `when` and `expire_in` may be null, `untracked` and `exclude` are there only when configured.
#[test]
fn the_artifacts() {
    let spec = job()
        .artifact_report("junit", ["*.xml"])
        .artifact_paths(["target/"]);
    assert_eq!(
        payload(spec)["artifacts"],
        json!([
            {
                "name": null,
                "paths": ["target/"],
                "when": null,
                "expire_in": null,
                "artifact_type": "archive",
                "artifact_format": "zip",
            },
            {
                "name": "junit.xml",
                "paths": ["*.xml"],
                "when": "always",
                "expire_in": null,
                "artifact_type": "junit",
                "artifact_format": "gzip",
            },
        ])
    );
}

/// All that an archive can have. Reports inherit its `expire_in`, and have one of their own.
#[test]
fn everything_an_artifact_can_have() {
    let spec = job()
        .artifact(ArtifactSpec::report("dotenv", ["build.env"]))
        .artifact(ArtifactSpec::report("lsif", ["dump.lsif"]).expire_in("never"))
        .artifact(
            ArtifactSpec::archive(["out/", "dist/**/*.tar"])
                .name("bundle-$CI_COMMIT_REF_SLUG")
                .untracked(true)
                .exclude(["out/**/*.o"])
                .when("on_failure")
                .expire_in("1 week"),
        );
    let report = |name: &str, path: &str, expire_in: &str, kind: &str, format: &str| {
        json!({
            "name": name,
            "paths": [path],
            "when": "always",
            "expire_in": expire_in,
            "artifact_type": kind,
            "artifact_format": format,
        })
    };
    assert_eq!(
        payload(spec)["artifacts"],
        json!([
            {
                "name": "bundle-$CI_COMMIT_REF_SLUG",
                "untracked": true,
                "paths": ["out/", "dist/**/*.tar"],
                "exclude": ["out/**/*.o"],
                "when": "on_failure",
                "expire_in": "1 week",
                "artifact_type": "archive",
                "artifact_format": "zip",
            },
            report(".env", "build.env", "1 week", "dotenv", "gzip"),
            report("lsif.json", "dump.lsif", "never", "lsif", "zip"),
        ])
    );
}

/// The paths are null when only untracked files are wanted.
#[test]
fn an_artifact_without_paths() {
    let nothing: [&str; 0] = [];
    let spec = job().artifact(ArtifactSpec::archive(nothing).untracked(true));
    let artifacts = payload(spec)["artifacts"].clone();
    assert_eq!(artifacts[0]["paths"], Value::Null);
    assert_eq!(artifacts[0]["untracked"], true);
}

/// A report comes in the format of its type, which may be changed; an unknown type is raw.
#[test]
fn the_format_of_a_report() {
    for (kind, format, name) in [
        ("cobertura", "gzip", json!("cobertura-coverage.xml")),
        ("sast", "raw", json!("gl-sast-report.json")),
        ("lsif", "zip", json!("lsif.json")),
        ("metadata", "gzip", Value::Null),
        ("sarif", "raw", Value::Null),
    ] {
        let artifacts = payload(job().artifact_report(kind, ["x"]))["artifacts"].clone();
        assert_eq!(artifacts[0]["artifact_type"], kind);
        assert_eq!(artifacts[0]["artifact_format"], format, "{kind}");
        assert_eq!(artifacts[0]["name"], name, "{kind}");
    }
    let odd = ArtifactSpec::report("junit", ["x"]).format("tar").name("y");
    let artifacts = payload(job().artifact(odd))["artifacts"].clone();
    assert_eq!(artifacts[0]["artifact_format"], "tar");
    assert_eq!(artifacts[0]["name"], "y");
}

/// Credentials have a host with a port, and the job token as password.
#[test]
fn the_credentials() {
    let payload = payload(job());
    let credentials = &payload["credentials"][0];
    assert_eq!(credentials["type"], "registry");
    assert_eq!(credentials["username"], "gitlab-ci-token");
    assert_eq!(credentials["password"], payload["token"]);
    assert!(!credentials["url"].as_str().unwrap().contains("://"));
}

/// The features: sections, the 52 reasons that the server knows, and prefixes only if there are.
#[test]
fn the_features() {
    let usual = payload(job());
    let features = &usual["features"];
    assert_eq!(features["trace_sections"], true);
    let reasons = features["failure_reasons"].as_array().unwrap();
    assert_eq!(reasons.len(), 52);
    for reason in ["script_failure", "runner_interrupted", "job_token_expired"] {
        assert!(reasons.contains(&json!(reason)));
    }
    assert!(!reasons.contains(&json!("image_pull_failure")));
    assert!(!keys(features).contains(&"token_mask_prefixes"));

    let own = payload(
        job()
            .failure_reasons(["script_failure"])
            .token_mask_prefixes(["acme-"]),
    );
    assert_eq!(
        own["features"]["failure_reasons"],
        json!(["script_failure"])
    );
    assert_eq!(own["features"]["token_mask_prefixes"], json!(["acme-"]));
}

/// The URLs are those of the instance, below its path.
#[test]
fn the_urls() {
    let mut world = World::new();
    world.gitlab.enqueue(job());
    world.gitlab.settings_mut().external_url = "http://127.0.0.1:8080".into();
    let payload = world.ask_plainly().body();
    let url = payload["git_info"]["repo_url"].as_str().unwrap();
    assert!(url.starts_with("http://gitlab-ci-token:"));
    assert!(url.contains("@127.0.0.1:8080/"));
    let server = variable(&payload, "CI_SERVER_URL").unwrap();
    assert_eq!(server["value"], "http://127.0.0.1:8080");
}

/// A payload can be made odd, in the order of the changes, or replaced as a whole.
#[test]
fn a_payload_can_be_changed() {
    let odd = payload(
        job()
            .payload_override(|payload| {
                payload["run"] = "[]".into();
                payload.as_object_mut().unwrap().remove("steps");
            })
            .payload_override(|payload| payload["run"] = "[1]".into()),
    );
    assert_eq!(odd["run"], "[1]");
    assert_eq!(odd.get("steps"), None);

    let mut world = World::new();
    let raw = Bytes::from_static(b"{\"id\":");
    world.gitlab.enqueue(job().raw_payload(raw.clone()));
    let reply = world.ask_plainly();
    assert_eq!(reply.status(), 201);
    assert_eq!(*reply.0.body(), raw);
}
