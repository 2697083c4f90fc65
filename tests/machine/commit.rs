//! Answers to the first `PUT jobs/:id`, which takes the job.

use std::time::Duration;

use gitlab_runner::machine::{Input, JobOutput, StopMode};
use serde_json::json;

use crate::world::{JOB_TOKEN, World, html, payload, reply};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn what_a_commit_looks_like() {
    let (_, commit) = World::committing(&payload());
    assert_eq!(
        (commit.method.as_str(), commit.path.as_str()),
        ("PUT", "jobs/7")
    );
    assert_eq!(
        commit.json(),
        json!({ "token": JOB_TOKEN, "state": "running", "output": {} })
    );
}

#[test]
fn commit_200_starts_the_handler() {
    let (mut world, commit) = World::committing(&payload());
    world.no_job_output();
    world.reply(&commit, reply(200));
    assert!(matches!(world.job_output(), JobOutput::Start(_)));
}

#[test]
fn without_two_phase_commit_the_handler_starts_at_once() {
    let mut world = World::with(|config| config.commit = false);
    world.input(Input::SetCapacity(1));
    let poll = world.request();
    world.reply(&poll, reply(201).json(&payload()));
    world.no_request();
    assert!(matches!(world.job_output(), JobOutput::Start(_)));
}

#[test]
fn commit_403_drops_the_job() {
    for answer in [
        reply(403),
        reply(403).job_status("failed"),
        reply(200).job_status("canceled"),
        reply(200).job_status("failed"),
    ] {
        let (mut world, commit) = World::committing(&payload());
        world.reply(&commit, answer);
        world.no_job_output();
        assert!(world.notice("not for this runner any more"));
        assert_eq!(world.machine.stats().jobs, 0);
        // No word about this job any more, but the next one is asked for.
        assert_eq!(world.next_request().path, "jobs/request");
    }
}

#[test]
fn commit_with_canceling_reports_at_once() {
    let (mut world, commit) = World::committing(&payload());
    world.reply(&commit, reply(200).job_status("canceling"));
    world.no_job_output();
    let update = world.request();
    assert_eq!(update.state(), "failed");
    assert_eq!(update.json()["failure_reason"], "unknown_failure");
    world.reply(&update, reply(200));
    assert_eq!(world.machine.stats().jobs, 0);
}

#[test]
fn anything_else_is_repeated_for_two_minutes_and_then_reported() {
    for n in 0..6 {
        let (mut world, mut commit) = World::committing(&payload());
        let (from, body) = (world.now, commit.body.clone());
        let mut count = 0;
        while commit.body == body {
            match n {
                0 => world.reply(&commit, reply(400)),
                1 => world.reply(&commit, reply(404)),
                2 => world.reply(&commit, html(502)),
                3 => world.reply(&commit, reply(429).header("Retry-After", "10")),
                4 => world.lose(&commit),
                _ => world.fail(&commit, false),
            }
            count += 1;
            commit = world.next_request();
        }
        let took = world.now.since(from);
        // The pause after the last refusal counts for the report too.
        assert!(
            (119 * SECOND..=135 * SECOND).contains(&took),
            "{n}: {took:?}"
        );
        assert!((6..=14).contains(&count), "{n}: {count}");
        world.no_job_output();
        // It may be ours after all.
        assert_eq!(commit.state(), "failed");
        assert_eq!(commit.json()["failure_reason"], "runner_system_failure");
        world.reply(&commit, reply(403));
        assert_eq!(world.machine.stats().jobs, 0);
    }
}

#[test]
fn commit_409_is_repeated_soon() {
    let (mut world, commit) = World::committing(&payload());
    world.reply(&commit, reply(409));
    let (wait, commit) = world.next_request_after();
    assert!(wait <= SECOND);
    world.reply(&commit, reply(200));
    assert!(matches!(world.job_output(), JobOutput::Start(_)));
}

#[test]
fn a_report_without_a_commit_is_repeated_while_the_server_is_in_trouble() {
    let (mut world, mut commit) = World::committing(&payload());
    while commit.state() == "running" {
        world.reply(&commit, html(503));
        commit = world.next_request();
    }
    for _ in 0..5 {
        world.reply(&commit, html(503));
        commit = world.next_request();
        assert_eq!(commit.state(), "failed");
    }
    world.lose(&commit);
    commit = world.next_request();
    world.reply(&commit, reply(400));
    assert_eq!(world.machine.stats().jobs, 0);
}

#[test]
fn a_job_that_is_being_committed_when_the_runner_stops_is_reported() {
    let (mut world, commit) = World::committing(&payload());
    world.input(Input::Stop(StopMode::Abort));
    world.reply(&commit, reply(200));
    let update = world.request();
    assert_eq!(update.json()["failure_reason"], "runner_interrupted");
    world.reply(&update, reply(200));
    assert!(world.stopped.is_some());
    world.no_job_output();
}
