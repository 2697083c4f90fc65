//! What the simulated server remembers, for a test to look at.

use std::time::Duration;

use gitlab_runner::{
    Time,
    mock::{JobStatus, MockGitlab, Server},
};
use serde_json::json;

use crate::world::{Running, SYSTEM_ID, TOKEN, World, asking_with, crc32, job, json_request};

/// Every status with its time, from the first to the last.
#[test]
fn every_status_is_kept_with_its_time() {
    let mut world = World::new();
    world.wait(0);
    let id = world.gitlab.enqueue(job().name("unit").stage("check"));
    world.wait(3);
    let payload = world.ask_with(&["cancel_gracefully"]).body();
    let job = Running {
        id,
        token: payload["token"].as_str().unwrap().to_owned(),
    };
    world.wait(4);
    world.gitlab.cancel(id);
    world.wait(5);
    world.put(&job, "failed");
    let report = world.report(id);
    let changes: Vec<_> = report
        .changes
        .iter()
        .map(|change| (change.at.since_origin().as_secs(), change.status))
        .collect();
    assert_eq!(
        changes,
        [
            (1000, JobStatus::Created),
            (1000, JobStatus::Pending),
            (1003, JobStatus::Running),
            (1007, JobStatus::Canceling),
            (1012, JobStatus::Canceled),
        ]
    );
    assert_eq!(
        (report.name.as_str(), report.stage.as_str()),
        ("unit", "check")
    );
    assert_eq!(report.created_at, Time::from_secs(1000));
    assert_eq!(report.queued_at, Some(Time::from_secs(1000)));
    assert_eq!(report.started_at, Some(Time::from_secs(1003)));
    assert_eq!(report.finished_at, Some(Time::from_secs(1012)));
    assert_eq!(report.system_id.as_deref(), Some(SYSTEM_ID));
    assert!(report.is_finished());
    assert_eq!(
        report.statuses().last().map(|status| status.to_string()),
        Some("canceled".to_owned())
    );
}

/// Every request for a job, with what was asked and answered.
#[test]
fn every_request_is_kept() {
    let mut world = World::new();
    let job = world.running();
    world.patch(&job, 0, "hello");
    world.wait(1);
    world.patch(&job, 9, "gap");
    world.put(&job, "running");
    world.put(&job, "success");
    world.put(&job, "success");
    let report = world.report(job.id);
    let requests: Vec<_> = report
        .requests
        .iter()
        .map(|record| {
            (
                record.at.since_origin().as_secs(),
                record.method.as_str(),
                record.content_range.as_deref(),
                record.state.as_deref(),
                record.status,
            )
        })
        .collect();
    assert_eq!(
        requests,
        [
            (1000, "PATCH", Some("0-4"), None, Some(202)),
            (1001, "PATCH", Some("9-11"), None, Some(416)),
            (1001, "PUT", None, Some("running"), Some(200)),
            (1001, "PUT", None, Some("success"), Some(200)),
            (1001, "PUT", None, Some("success"), Some(403)),
        ]
    );
    let first = &report.requests[0];
    assert_eq!(first.path, format!("/api/v4/jobs/{}/trace", job.id));
    assert_eq!((first.body_len, first.job), (5, Some(job.id)));
    assert_eq!(first.answered_at, Some(Time::from_secs(1000)));
    assert!(first.delivered);
    // Beside those, the request for the job.
    assert_eq!(world.gitlab.requests().len(), 6);
}

/// A request on hold is answered later than it came, and the record says so.
#[test]
fn a_held_request_is_kept_with_both_times() {
    let mut world = World::with_long_poll();
    let value = world.queue_value();
    world.hold(&value);
    let record = world.gitlab.requests().next().unwrap();
    assert_eq!((record.status, record.answered_at), (None, None));
    world.wait(50);
    world.released().unwrap();
    let record = world.gitlab.requests().next().unwrap();
    assert_eq!(record.at, Time::from_secs(1000));
    assert_eq!(record.answered_at, Some(Time::from_secs(1050)));
    assert_eq!((record.status, record.delivered), (Some(204), true));
}

/// The log of requests is bounded: the last 10,000 are kept.
#[test]
fn the_last_ten_thousand_requests_are_kept() {
    let mut world = World::new();
    world.gitlab.settings_mut().update_limit = 0;
    let job = world.running();
    for _ in 0..10_005 {
        world.put(&job, "running");
    }
    assert_eq!(world.gitlab.requests().len(), 10_000);
    assert_eq!(world.report(job.id).requests.len(), 10_000);
    world.patch(&job, 0, "x");
    let last = world.gitlab.requests().next_back().unwrap();
    assert_eq!((last.method.as_str(), last.status), ("PATCH", Some(202)));
    assert_eq!(world.gitlab.requests().len(), 10_000);
}

/// The checksum and size that the runner reports are compared with the log.
#[test]
fn checksum_and_size_are_compared() {
    let mut world = World::new();
    let job = world.running();
    assert_eq!(world.report(job.id).checksum_matches(), None);
    assert_eq!(world.report(job.id).bytesize_matches(), None);
    world.patch(&job, 0, "hello\n");
    let output = json!({ "checksum": crc32("hello\n"), "bytesize": 6 });
    world.put_with(&job, json!({ "state": "success", "output": output }));
    let report = world.report(job.id);
    assert_eq!(report.checksum_matches(), Some(true));
    assert_eq!(report.bytesize_matches(), Some(true));
    assert_eq!(report.reported_bytesize, Some(6));
    assert_eq!((report.final_updates, report.duplicate_finals()), (1, 0));
}

/// Nothing that is printed for debugging holds a token, a value or a log.
#[test]
fn nothing_secret_is_printed() {
    let mut world = World::new();
    world.gitlab.settings_mut().registration_token = Some("registration-secret".into());
    let spec = job().masked_variable("PASSWORD", "correct horse");
    let printed = format!("{spec:?}");
    assert!(!printed.contains("correct horse"));
    let job = world.start(spec);
    world.patch(&job, 0, "battery staple");
    let records: Vec<_> = world.gitlab.requests().collect();
    let printed = format!(
        "{:?} {:?} {:?} {records:?}",
        world.gitlab,
        world.gitlab.settings(),
        world.report(job.id),
    );
    for secret in [TOKEN, &job.token, "battery", "horse", "registration-secret"] {
        assert!(!printed.contains(secret), "{secret}");
    }
}

/// The same seed and the same requests give the same answers, another seed other ones.
#[test]
fn the_seed_decides() {
    let run = |seed: u64| {
        let mut gitlab = MockGitlab::new(seed);
        gitlab.add_runner(TOKEN);
        gitlab.enqueue(job());
        let mut answers = Vec::new();
        for _ in 0..2 {
            let request = json_request(http::Method::POST, "jobs/request", &asking_with(&[]));
            answers.push(format!("{:?}", gitlab.handle(Time::ZERO, request)));
        }
        answers
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1)[0], run(2)[0]);
    assert_ne!(run(1)[1], run(2)[1]);
}

/// Time goes forward only: an input from before counts as now.
#[test]
fn time_never_goes_back() {
    let mut world = World::new();
    world.wait(0);
    let job = world.running();
    world.now = world.now - Duration::from_secs(500);
    world.put(&job, "success");
    assert_eq!(world.gitlab.now(), Time::from_secs(1000));
    assert_eq!(
        world.report(job.id).finished_at,
        Some(Time::from_secs(1000))
    );
}
