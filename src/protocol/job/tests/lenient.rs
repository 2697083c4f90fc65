//! What older, newer and other servers may send instead.

use super::*;

/// Calls `check` with the path of every value below `value`.
fn each_path(value: &Value, path: &mut Vec<String>, check: &mut impl FnMut(&[String])) {
    let below: Vec<(String, &Value)> = match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| (key.clone(), value))
            .collect(),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .map(|(index, value)| (index.to_string(), value))
            .collect(),
        _ => return,
    };
    for (key, value) in below {
        path.push(key);
        check(path);
        each_path(value, path, check);
        path.pop();
    }
}

fn parent<'a>(payload: &'a mut Value, path: &[String]) -> &'a mut Value {
    let pointer: String = path[..path.len() - 1]
        .iter()
        .map(|key| format!("/{key}"))
        .collect();
    payload.pointer_mut(&pointer).unwrap()
}

fn remove(payload: &mut Value, path: &[String]) -> Value {
    let key = path.last().unwrap();
    match parent(payload, path) {
        Value::Array(items) => items.remove(key.parse().unwrap()),
        parent => parent.as_object_mut().unwrap().remove(key).unwrap(),
    }
}

fn replace(payload: &mut Value, path: &[String], value: Value) {
    let key = path.last().unwrap();
    match parent(payload, path) {
        Value::Array(items) => items[key.parse::<usize>().unwrap()] = value,
        parent => parent[key] = value,
    }
}

#[test]
fn missing_null_and_empty_are_the_same_everywhere() {
    let everything = value(EVERYTHING);
    let mut paths = 0;
    each_path(&everything, &mut Vec::new(), &mut |path| {
        let name = path.join(".");
        let is_free_form = path
            .iter()
            .any(|key| key == "content" || key.contains("future"));
        if name == "id" || name == "token" || is_free_form {
            return;
        }
        paths += 1;
        let mut missing = everything.clone();
        let old = remove(&mut missing, path);
        let missing = parse(&missing);

        let mut changed = everything.clone();
        replace(&mut changed, path, Value::Null);
        assert_eq!(parse(&changed), missing, "null at {name}");

        let is_element = path.last().unwrap().parse::<usize>().is_ok();
        let is_entry = path[0] == "secrets" && path.len() == 2;
        if old.is_array() || (old.is_object() && !is_element && !is_entry) {
            replace(&mut changed, path, json!([]));
            assert_eq!(parse(&changed), missing, "empty list at {name}");
        }
    });
    assert!(paths > 300, "only {paths} places were looked at");
}

#[test]
fn unknown_fields_are_skipped_everywhere() {
    let everything = value(EVERYTHING);
    let wanted = parse(&everything);
    let unknown = json!({ "deep": [{ "id": 1, "token": "x" }], "n": null });
    each_path(&everything, &mut Vec::new(), &mut |path| {
        let mut changed = everything.clone();
        let is_table = path == ["secrets"] || path.iter().any(|key| key == "content");
        let pointer: String = path.iter().map(|key| format!("/{key}")).collect();
        if let Some(Value::Object(fields)) = changed.pointer_mut(&pointer)
            && !is_table
        {
            fields.insert("brand_new".into(), unknown.clone());
            assert_eq!(parse(&changed), wanted, "{pointer}");
        }
    });
}

#[test]
fn only_id_and_token_are_needed() {
    let payload = job(json!({}));
    assert_eq!((payload.id, payload.token.expose()), (JobId(1), "t"));
    assert_eq!(payload.runner_info.timeout, None);
    assert!(payload.steps.is_empty());
    assert_eq!(
        payload,
        job(json!({ "job_info": {}, "git_info": {}, "features": {}, "run": "" }))
    );
    assert_eq!(
        payload,
        job(json!({ "secrets": {}, "image": null, "policy_options": null }))
    );
}

#[test]
fn numbers_may_be_texts_or_floats() {
    for (id, wanted) in [
        (json!(5001), 5001),
        (json!("5001"), 5001),
        (json!(5001.0), 5001),
        (json!(u64::MAX), u64::MAX),
    ] {
        assert_eq!(job(json!({ "id": id })).id, JobId(wanted));
    }
    for (number, wanted) in [
        (json!(3600), Some(3600)),
        (json!("3600"), Some(3600)),
        (json!(" 3600 "), Some(3600)),
        (json!(3600.9), Some(3600)),
        (json!("3600.9"), Some(3600)),
        (json!(-1), Some(-1)),
        (json!(0), Some(0)),
        (json!(u64::MAX), Some(i64::MAX)),
        (json!(-1e300), Some(i64::MIN)),
        (json!("-99999999999999999999"), Some(i64::MIN)),
        (json!(""), None),
        (json!(null), None),
    ] {
        let payload = job(json!({
            "runner_info": { "timeout": number },
            "steps": [{ "timeout": number }],
            "git_info": { "depth": number },
        }));
        assert_eq!(payload.runner_info.timeout, wanted, "{number}");
        assert_eq!(payload.steps[0].timeout, wanted, "{number}");
        assert_eq!(payload.git_info.depth, wanted.unwrap_or(0), "{number}");
    }
    for (seconds, wanted) in [
        (json!(1.5), Some(1.5)),
        (json!(61), Some(61.0)),
        (json!("1.5"), Some(1.5)),
        (json!(null), None),
    ] {
        let payload = job(json!({ "job_info": { "time_in_queue_seconds": seconds } }));
        assert_eq!(payload.job_info.time_in_queue_seconds, wanted);
    }
    let payload = job(json!({ "dependencies": [
        { "id": "7", "artifacts_file": { "filename": "a.zip", "size": "12" } },
        { "id": 8, "artifacts_file": { "filename": "b.zip", "size": null } },
        { "id": 9, "artifacts_file": null },
    ] }));
    let sizes: Vec<_> = payload
        .dependencies
        .iter()
        .map(|dependency| {
            (
                dependency.id.0,
                dependency.artifacts_file.as_ref().map(|f| f.size),
            )
        })
        .collect();
    assert_eq!(sizes, [(7, Some(Some(12))), (8, Some(None)), (9, None)]);
}

#[test]
fn texts_may_be_numbers_where_gitlab_has_both() {
    let payload = job(json!({
        "job_info": { "project_jobs_running_on_instance_runners_count": 3 },
        "image": { "executor_opts": {
            "docker": { "user": 1000, "brand_new": true },
            "kubernetes": { "user": "1001:1002" },
            "brand_new": {},
        } },
        "services": [{ "executor_opts": { "docker": { "user": -1 } } }],
    }));
    let count = &payload
        .job_info
        .project_jobs_running_on_instance_runners_count;
    assert_eq!(count.as_deref(), Some("3"));
    let service = payload.services[0].executor_opts.docker.as_ref().unwrap();
    assert_eq!(service.user.as_deref(), Some("-1"));
    let options = payload.image.unwrap().executor_opts;
    assert_eq!(options.docker.unwrap().user.as_deref(), Some("1000"));
    assert_eq!(
        options.kubernetes.unwrap().user.as_deref(),
        Some("1001:1002")
    );
}

#[test]
fn lists_may_be_single_texts() {
    let payload = job(json!({
        "image": { "entrypoint": "/bin/sh", "pull_policy": "always" },
        "services": [{ "entrypoint": "/bin/sh", "command": "" }],
        "steps": [{ "name": "script", "script": "make" }],
        "git_info": { "refspecs": "+a:b" },
    }));
    let image = payload.image.unwrap();
    assert_eq!(image.entrypoint, ["/bin/sh"]);
    assert_eq!(image.pull_policy, [PullPolicy::Always]);
    assert_eq!(payload.services[0].entrypoint, ["/bin/sh"]);
    assert!(payload.services[0].command.is_empty());
    assert_eq!(*payload.steps[0].script, ["make".to_owned()]);
    assert_eq!(payload.git_info.refspecs, ["+a:b"]);
}

#[test]
fn empty_lines_of_a_script_stay() {
    let payload = job(json!({ "steps": [{ "script": ["a", "", null, "b"] }] }));
    assert_eq!(*payload.steps[0].script, ["a", "", "b"].map(String::from));
}

#[test]
fn unknown_words_are_kept() {
    let payload = job(json!({
        "steps": [{ "when": "at_full_moon" }, { "when": "" }, { "when": "on_failure" }],
        "artifacts": [
            { "when": "later", "artifact_format": "tarzstd", "artifact_type": "sarif" },
            { "when": "", "artifact_format": "", "artifact_type": "", "name": "" },
        ],
        "cache": [{ "policy": "$POLICY" }, { "policy": null }],
        "image": { "pull_policy": ["sometimes", "if-not-present"] },
        "inputs": [{ "key": "a", "value": { "type": "date", "content": "today" } }],
    }));
    let when: Vec<_> = payload.steps.iter().map(|step| step.when.clone()).collect();
    assert_eq!(
        when,
        [
            StepWhen::Other("at_full_moon".into()),
            StepWhen::OnSuccess,
            StepWhen::OnFailure
        ]
    );
    let [odd, empty] = &payload.artifacts[..] else {
        panic!("two artifacts: {:?}", payload.artifacts);
    };
    assert_eq!(odd.when, ArtifactWhen::Other("later".into()));
    assert_eq!(
        odd.artifact_format,
        Some(ArtifactFormat::Other("tarzstd".into()))
    );
    assert_eq!(odd.artifact_type.as_deref(), Some("sarif"));
    assert_eq!(empty.when, ArtifactWhen::OnSuccess);
    assert_eq!(
        (&empty.artifact_format, &empty.artifact_type, &empty.name),
        (&None, &None, &None)
    );
    assert_eq!(
        payload.cache[0].policy,
        CachePolicy::Other("$POLICY".into())
    );
    assert_eq!(payload.cache[1].policy, CachePolicy::PullPush);
    assert_eq!(
        payload.image.unwrap().pull_policy,
        [
            PullPolicy::Other("sometimes".into()),
            PullPolicy::IfNotPresent
        ]
    );
    assert_eq!(payload.inputs[0].value.kind.as_str(), "date");
}

#[test]
fn ports_have_defaults() {
    let payload = job(json!({ "image": { "ports": [{ "number": 80 }] } }));
    let port = &payload.image.unwrap().ports[0];
    assert_eq!(
        (port.protocol.as_str(), port.name.as_str()),
        ("http", "default_port")
    );
}

#[test]
fn of_a_key_that_comes_twice_the_last_one_counts() {
    let body = br#"{
        "id": 1, "token": "old", "run": "x", "image": { "name": "a", "name": "b" },
        "steps": [], "steps": [{ "name": "a", "name": "script" }], "run": null,
        "\u0069d": 2, "token": "new"
    }"#;
    let payload = JobPayload::parse(body).unwrap();
    assert_eq!((payload.id, payload.token.expose()), (JobId(2), "new"));
    assert_eq!(payload.run, None);
    assert_eq!(payload.image.unwrap().name, "b");
    assert_eq!(&*payload.steps[0].name, "script");
}

#[test]
fn all_texts_arrive_as_they_are() {
    let odd = "quote \" back \\ \u{1f600} \u{2028} tab\t line\r\n";
    let payload = job(json!({
        "job_info": { "name": odd },
        "variables": [{ "key": odd, "value": odd }],
    }));
    assert_eq!(payload.job_info.name, odd);
    assert_eq!(payload.variable(odd).unwrap().value, odd);
}
