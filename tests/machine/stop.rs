//! Drain and abort.

use std::time::Duration;

use gitlab_runner::machine::{
    CancelMode, Input, JobInput, JobOutput, PollOutcome, StepResult, StopMode, StopReason,
};

use crate::world::{World, mark, payload, payload_with_after_script, reply};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_machine_at_rest_stops_at_once() {
    for (mode, reason) in [(StopMode::Drain, "Drained"), (StopMode::Abort, "Aborted")] {
        let mut world = World::new();
        world.input(Input::Stop(mode));
        assert_eq!(format!("{:?}", world.stopped.as_ref().unwrap()), reason);
        assert_eq!(world.machine.poll_timeout(), None);
        // For good.
        let ignored = world.ignored();
        world.input(Input::SetCapacity(5));
        world.input(Input::Stop(StopMode::Drain));
        assert_eq!(world.ignored(), ignored + 2);
        world.input(Input::PollOnce);
        assert!(matches!(
            world.polled.pop_front(),
            Some(PollOutcome::Stopped)
        ));
        world.no_request();
    }
}

#[test]
fn drain_lets_jobs_finish() {
    let mut world = World::running(&payload());
    world.input(Input::Stop(StopMode::Drain));
    world.no_job_output();
    world.finish_step(StepResult::Ok, 0);
    world.clean_up(0);
    assert!(world.stopped.is_none());
    let update = world.request();
    world.reply(&update, reply(200));
    world.is_over();
    assert!(matches!(world.stopped, Some(StopReason::Drained)));
    world.pass(1000 * SECOND);
}

#[test]
fn drain_awaits_a_job_request_and_runs_its_job() {
    let mut world = World::new();
    world.input(Input::SetCapacity(1));
    let poll = world.request();
    world.input(Input::Stop(StopMode::Drain));
    // As long as it takes.
    world.pass(1000 * SECOND);
    assert!(world.stopped.is_none() && world.forgotten.is_empty());
    world.reply(&poll, reply(201).json(&payload()));
    let commit = world.request();
    world.reply(&commit, reply(200));
    assert!(matches!(world.job_output(), JobOutput::Start(_)));
    assert!(world.stopped.is_none());
}

#[test]
fn drain_ends_when_the_last_job_request_brings_nothing() {
    for n in 0..3 {
        let mut world = World::new();
        world.input(Input::SetCapacity(1));
        let poll = world.request();
        world.input(Input::Stop(StopMode::Drain));
        match n {
            0 => world.reply(&poll, reply(204)),
            1 => world.reply(&poll, reply(500)),
            _ => world.lose(&poll),
        }
        assert!(matches!(world.stopped, Some(StopReason::Drained)));
        world.pass(1000 * SECOND);
    }
}

#[test]
fn abort_cancels_and_reports() {
    let mut world = World::running(&payload_with_after_script());
    world.input(Input::Stop(StopMode::Abort));
    let JobOutput::Note(line) = world.job_output() else {
        panic!("no note");
    };
    assert!(line.contains("the runner was stopped"), "{line}");
    assert!(matches!(
        world.job_output(),
        JobOutput::Cancel(CancelMode::Forced)
    ));
    world.finish_step(StepResult::Cancelled, 0);
    world.clean_up(0);
    let update = world.request();
    assert_eq!(update.state(), "failed");
    assert_eq!(update.json()["failure_reason"], "runner_interrupted");
    world.reply(&update, reply(200));
    world.is_over();
    assert!(matches!(world.stopped, Some(StopReason::Aborted)));
}

#[test]
fn abort_after_drain() {
    let mut world = World::running(&payload());
    world.input(Input::Stop(StopMode::Drain));
    world.no_job_output();
    world.input(Input::Stop(StopMode::Abort));
    assert!(matches!(world.job_output(), JobOutput::Note(_)));
    assert!(matches!(
        world.job_output(),
        JobOutput::Cancel(CancelMode::Forced)
    ));
}

#[test]
fn abort_while_the_handler_is_made() {
    let mut world = World::starting(&payload());
    world.input(Input::Stop(StopMode::Abort));
    assert!(matches!(world.job_output(), JobOutput::Note(_)));
    assert!(matches!(
        world.job_output(),
        JobOutput::Cancel(CancelMode::Forced)
    ));
    world.job_input(JobInput::Declined {
        failure: gitlab_runner::Failure::new(gitlab_runner::FailureReason::RunnerSystemFailure),
        trace: mark(0),
    });
    assert_eq!(
        world.request().json()["failure_reason"],
        "runner_interrupted"
    );
}

#[test]
fn abort_does_not_change_the_result_of_a_script_that_is_over() {
    let mut world = World::running(&payload_with_after_script());
    world.finish_step(StepResult::Ok, 0);
    assert_eq!(world.step(), "after_script");
    world.input(Input::Stop(StopMode::Abort));
    assert!(matches!(
        world.job_output(),
        JobOutput::Cancel(CancelMode::Forced)
    ));
    world.finish_step(StepResult::Cancelled, 0);
    world.clean_up(0);
    assert_eq!(world.request().state(), "success");
}

#[test]
fn abort_waits_a_little_for_a_job_request() {
    let mut world = World::new();
    world.input(Input::SetCapacity(1));
    let poll = world.request();
    world.input(Input::Stop(StopMode::Abort));
    assert!(world.stopped.is_none());
    let from = world.now;
    world.next_deadline();
    assert_eq!(world.now.since(from), 10 * SECOND);
    assert_eq!(world.forgotten, [poll.id]);
    assert!(world.notice("may have assigned a job"));
    assert!(matches!(world.stopped, Some(StopReason::Aborted)));
}

#[test]
fn abort_reports_the_job_that_a_job_request_still_brings() {
    let mut world = World::new();
    world.input(Input::PollOnce);
    let poll = world.request();
    world.input(Input::Stop(StopMode::Abort));
    world.reply(&poll, reply(201).json(&payload()));
    let commit = world.request();
    world.reply(&commit, reply(200));
    world.no_job_output();
    let update = world.request();
    assert_eq!(update.json()["failure_reason"], "runner_interrupted");
    world.reply(&update, reply(200));
    assert!(matches!(
        world.polled.pop_front(),
        Some(PollOutcome::NoJob | PollOutcome::Stopped)
    ));
    assert!(matches!(world.stopped, Some(StopReason::Aborted)));
}

#[test]
fn a_request_that_is_refused_as_too_large_is_not_repeated_after_a_stop() {
    for mode in [StopMode::Drain, StopMode::Abort] {
        let mut world = World::new();
        world.input(Input::PollOnce);
        let poll = world.request();
        world.input(Input::Stop(mode));
        world.reply(&poll, reply(413));
        world.no_request();
        assert!(matches!(
            world.polled.pop_front(),
            Some(PollOutcome::Failed(_))
        ));
        assert!(world.stopped.is_some());
    }
}

#[test]
fn a_drain_with_a_limit_becomes_an_abort() {
    let mut world = World::running(&payload());
    world.input(Input::Stop(StopMode::DrainWithin(100 * SECOND)));
    // A later limit does not count, nor does a drain without one.
    world.input(Input::Stop(StopMode::DrainWithin(200 * SECOND)));
    world.input(Input::Stop(StopMode::Drain));
    let from = world.now;
    let told = world.until_job_output(&reply(200));
    assert!(matches!(told, JobOutput::Note(_)));
    assert_eq!(world.now.since(from), 100 * SECOND);
    assert!(matches!(
        world.job_output(),
        JobOutput::Cancel(CancelMode::Forced)
    ));
    world.finish_step(StepResult::Cancelled, 0);
    world.clean_up(0);
    let update = world.next_update();
    assert_eq!(update.json()["failure_reason"], "runner_interrupted");
    world.reply(&update, reply(200));
    assert!(matches!(world.stopped, Some(StopReason::Aborted)));
    assert_eq!(world.machine.poll_timeout(), None);
}

#[test]
fn a_drain_that_ends_in_time_is_a_drain() {
    let mut world = World::running(&payload());
    world.input(Input::Stop(StopMode::DrainWithin(100 * SECOND)));
    world.finish_step(StepResult::Ok, 0);
    world.clean_up(0);
    let update = world.next_update();
    assert_eq!(update.state(), "success");
    world.reply(&update, reply(200));
    assert!(matches!(world.stopped, Some(StopReason::Drained)));
    assert_eq!(world.machine.poll_timeout(), None);
}

#[test]
fn no_further_step_runs_after_an_end_but_after_script() {
    let mut payload = payload_with_after_script();
    payload["steps"].as_array_mut().unwrap().insert(
        1,
        serde_json::json!({ "name": "release", "script": ["x"], "when": "always" }),
    );
    let mut world = World::running(&payload);
    let put = world.next_request();
    world.reply(&put, reply(200).job_status("canceling"));
    assert!(matches!(
        world.job_output(),
        JobOutput::Cancel(CancelMode::Graceful)
    ));
    world.finish_step(StepResult::Ok, 0);
    assert_eq!(world.step(), "after_script");
}
