//! Jobs that cannot be understood, or cannot be run.

use gitlab_runner::machine::{Input, PollOutcome, RequestBody};
use serde_json::{Value, json};

use crate::world::{ID, JOB_TOKEN, World, html, payload, reply};

/// Hands out a job that cannot be run, and gives its log and its final update.
fn refused(body: impl Into<bytes::Bytes>) -> (World, String, Value) {
    let mut world = World::new();
    world.input(Input::PollOnce);
    let poll = world.request();
    world.reply(&poll, reply(201).body(body));
    let commit = world.request();
    assert_eq!((&*commit.path, &*commit.state()), ("jobs/7", "running"));
    world.reply(&commit, reply(200));
    world.no_job_output();
    assert!(matches!(
        world.polled.pop_front(),
        Some(PollOutcome::Unusable(_))
    ));
    let patch = world.request();
    let RequestBody::Bytes(log) = &patch.body else {
        panic!("{patch:?}");
    };
    let log = String::from_utf8(log.to_vec()).unwrap();
    assert_eq!(
        patch.header("Content-Range"),
        Some(&*format!("0-{}", log.len() - 1))
    );
    assert_eq!(patch.header("JOB-TOKEN"), Some(JOB_TOKEN));
    world.reply(&patch, reply(202));
    let update = world.request();
    world.reply(&update, reply(200));
    assert_eq!(world.machine.stats().jobs, 0);
    assert!(
        !log.contains(JOB_TOKEN) && log.contains("ERROR: Job failed"),
        "{log}"
    );
    let update = update.json();
    assert_eq!(update["state"], "failed");
    assert_eq!(update["output"]["bytesize"], log.len());
    (world, log, update)
}

#[test]
fn a_wrong_type_anywhere_is_reported_with_its_place() {
    for (key, value) in [
        ("steps", json!("none")),
        ("steps", json!([{ "name": "script", "script": { "a": 1 } }])),
        ("variables", json!({ "key": "value" })),
        ("git_info", json!([1])),
        ("artifacts", json!("all")),
        ("features", json!(17)),
        ("runner_info", json!("x")),
    ] {
        let mut payload = payload();
        payload[key] = value;
        let (world, log, update) = refused(payload.to_string());
        assert_eq!(update["failure_reason"], "runner_system_failure");
        assert!(log.contains(key), "{log}");
        assert!(world.notice("reporting it as failed"));
    }
}

#[test]
fn a_payload_that_was_cut_is_reported() {
    let mut long = payload();
    long["variables"] = json!([{ "key": "LONG", "value": "x".repeat(1000) }]);
    // The order of fields as GitLab has it: id and token come first.
    let mut text = format!("{{\"id\":{ID},\"token\":\"{JOB_TOKEN}\",");
    text += &long.to_string()[1..];
    text.truncate(600);
    let (_, _, update) = refused(text);
    assert_eq!(update["failure_reason"], "runner_system_failure");
}

#[test]
fn jobs_without_a_script_are_reported() {
    for steps in [json!([]), json!(null)] {
        let mut payload = payload();
        payload["steps"] = steps;
        let (_, log, update) = refused(payload.to_string());
        assert!(log.contains("it has no script"), "{log}");
        // The server does not know `runner_configuration_error`.
        assert_eq!(update["failure_reason"], "script_failure");
    }
}

#[test]
fn jobs_with_run_are_reported_unless_declared() {
    let mut payload = payload();
    payload["run"] = json!("[{\"name\":\"x\"}]");
    let (_, log, _) = refused(payload.to_string());
    assert!(log.contains("`run`"), "{log}");
}

#[test]
fn what_is_no_job_at_all_is_trouble() {
    let mut without_token = payload();
    without_token["token"] = json!(null);
    let mut without_id = payload();
    without_id["id"] = json!("seven");
    let answers = [
        reply(201),
        reply(201).body("{"),
        reply(201).body("[]"),
        reply(201).body("null"),
        html(201),
        reply(201).json(&without_token),
        reply(201).json(&without_id),
        reply(201).body(vec![0xff; 100]),
        reply(201).body("[".repeat(100_000)),
    ];
    for answer in answers {
        let mut world = World::new();
        world.input(Input::SetCapacity(1));
        let poll = world.request();
        world.reply(&poll, answer);
        world.no_job_output();
        assert!(world.notice("cannot be reported"), "{:?}", world.notices);
        assert_eq!(world.machine.stats().jobs, 0);
        let (wait, poll) = world.next_request_after();
        assert!(wait.as_secs() >= 1);
        assert_eq!(poll.path, "jobs/request");
    }
}

#[test]
fn a_job_that_is_running_already_is_not_started_again() {
    let mut world = World::running(&payload());
    world.input(Input::SetCapacity(2));
    let poll = world.request();
    world.reply(&poll, reply(201).json(&payload()));
    assert!(world.notice("again while it is running"));
    world.no_job_output();
    assert_eq!(world.machine.stats().jobs, 1);
}
