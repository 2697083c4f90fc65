//! The handler's side of a job: steps, time limits, cancel, clean-up.

use std::time::Duration;

use gitlab_runner::{
    Failure, FailureReason,
    machine::{CancelMode, Input, JobInput, JobOutput, StepResult},
    protocol::Phase,
};
use serde_json::{Value, json};

use crate::world::{JOB, Sent, World, mark, payload, payload_with_after_script, reply};

const SECOND: Duration = Duration::from_secs(1);

fn with_steps(steps: &[(&str, &str, bool)]) -> Value {
    let mut payload = payload();
    payload["steps"] = steps
        .iter()
        .map(|(name, when, allow_failure)| {
            json!({ "name": name, "script": [name], "when": when, "allow_failure": allow_failure })
        })
        .collect();
    payload
}

/// Cleans up and gives the final update.
fn result(world: &mut World) -> Sent {
    world.clean_up(0);
    world.request()
}

fn failed() -> StepResult {
    StepResult::Failed(Failure::exit_code(3))
}

#[test]
fn script_then_after_script() {
    let mut world = World::starting(&payload_with_after_script());
    world.job_input(JobInput::Accepted);
    let JobOutput::Step {
        phase,
        name,
        script,
        ..
    } = world.job_output()
    else {
        panic!("no step");
    };
    assert_eq!(
        (phase, &*name, &*script),
        (Phase::Script, "script", &["make".to_owned()][..])
    );
    world.finish_step(StepResult::Ok, 0);
    let JobOutput::Step { phase, name, .. } = world.job_output() else {
        panic!("no step");
    };
    assert_eq!((phase, &*name), (Phase::AfterScript, "after_script"));
    world.finish_step(StepResult::Ok, 0);
    assert_eq!(result(&mut world).state(), "success");
}

#[test]
fn after_script_runs_after_a_failure_and_changes_nothing() {
    for after in [StepResult::Ok, StepResult::Failed(Failure::exit_code(9))] {
        for script in [StepResult::Ok, failed()] {
            let mut world = World::running(&payload_with_after_script());
            world.finish_step(script.clone(), 0);
            assert_eq!(world.step(), "after_script");
            world.finish_step(after.clone(), 0);
            let update = result(&mut world).json();
            match script {
                StepResult::Ok => assert_eq!(update["state"], "success"),
                _ => assert_eq!(
                    (&update["state"], &update["exit_code"]),
                    (&json!("failed"), &json!(3))
                ),
            }
        }
    }
}

#[test]
fn further_steps_run_before_after_script_until_one_fails() {
    let steps = [
        ("after_script", "always", true),
        ("script", "on_success", false),
        ("release", "on_success", false),
        ("last", "on_success", false),
    ];
    let mut world = World::running(&with_steps(&steps));
    for step in ["release", "last", "after_script"] {
        world.finish_step(StepResult::Ok, 0);
        assert_eq!(world.step(), step);
    }

    for fails in ["script", "release"] {
        let mut world = World::running(&with_steps(&steps));
        if fails == "release" {
            world.finish_step(StepResult::Ok, 0);
            assert_eq!(world.step(), "release");
        }
        world.finish_step(failed(), 0);
        assert_eq!(world.step(), "after_script");
        world.finish_step(StepResult::Ok, 0);
        assert_eq!(result(&mut world).json()["exit_code"], 3);
    }
}

/// Whether a failure is allowed is for GitLab to say, by the exit code.
#[test]
fn when_and_allow_failure_of_a_step_do_not_count() {
    for when in ["on_success", "on_failure", "always"] {
        let steps = [("script", when, true), ("release", when, true)];
        let mut world = World::running(&with_steps(&steps));
        world.finish_step(failed(), 0);
        let update = result(&mut world).json();
        assert_eq!(update["state"], "failed", "{when}");
        assert_eq!(update["exit_code"], 3, "{when}");

        let mut world = World::running(&with_steps(&steps));
        world.finish_step(StepResult::Ok, 0);
        assert_eq!(world.step(), "release", "{when}");
    }
}

#[test]
fn a_panic_ends_the_job() {
    for after in [false, true] {
        let mut world = World::running(&payload_with_after_script());
        if after {
            world.finish_step(StepResult::Ok, 0);
            assert_eq!(world.step(), "after_script");
        }
        world.finish_step(StepResult::Panicked, 0);
        let update = result(&mut world).json();
        assert_eq!(update["failure_reason"], "runner_system_failure");
    }
}

#[test]
fn a_job_without_a_handler_is_reported() {
    let mut world = World::starting(&payload());
    world.job_input(JobInput::Declined {
        failure: Failure::new(FailureReason::RunnerSystemFailure),
        trace: mark(20),
    });
    let patch = world.request();
    assert_eq!(patch.range(), 0..20);
    world.reply(&patch, reply(202));
    let update = world.request();
    assert_eq!(update.json()["failure_reason"], "runner_system_failure");
    world.reply(&update, reply(200));
    world.is_over();
}

#[test]
fn a_job_that_takes_too_long() {
    let mut payload = payload_with_after_script();
    payload["runner_info"]["timeout"] = json!(600);
    let mut world = World::running(&payload);
    let from = world.now;
    loop {
        let sent = loop {
            if world.machine.stats().requests_in_flight == 1 {
                break Some(world.request());
            }
            world.next_deadline();
            if world.notice("took longer than 600 seconds") {
                break None;
            }
        };
        let Some(sent) = sent else { break };
        world.reply(&sent, reply(200));
    }
    assert_eq!(world.now.since(from), 600 * SECOND);
    let JobOutput::Note(line) = world.job_output() else {
        panic!("no note");
    };
    assert_eq!(
        line,
        "\u{1b}[31;1mERROR: Job failed: execution took longer than 600 seconds\u{1b}[0;m"
    );
    assert!(matches!(
        world.job_output(),
        JobOutput::Cancel(CancelMode::Graceful)
    ));
    // It does not end by itself.
    let timed_out = world.now;
    let told = world.until_job_output(&reply(200));
    assert!(matches!(told, JobOutput::Cancel(CancelMode::Forced)));
    assert_eq!(world.now.since(timed_out), 30 * SECOND);
    world.finish_step(StepResult::Cancelled, 0);
    // There is no time for after_script either.
    let update = result(&mut world).json();
    assert_eq!(update["failure_reason"], "job_execution_timeout");
    assert_eq!(update.get("exit_code"), None);
}

#[test]
fn what_a_step_says_after_the_timeout_does_not_count() {
    let mut payload = payload();
    payload["runner_info"]["timeout"] = json!(10);
    let mut world = World::running(&payload);
    world.pass(10 * SECOND);
    world.job_output();
    world.job_output();
    world.finish_step(failed(), 0);
    let update = result(&mut world).json();
    assert_eq!(update["failure_reason"], "job_execution_timeout");
}

#[test]
fn after_script_that_takes_too_long_keeps_the_result() {
    let mut payload = payload_with_after_script();
    payload["runner_info"]["timeout"] = json!(10);
    let mut world = World::running(&payload);
    world.finish_step(StepResult::Ok, 0);
    assert_eq!(world.step(), "after_script");
    world.pass(10 * SECOND);
    assert!(matches!(world.job_output(), JobOutput::Note(_)));
    assert!(matches!(
        world.job_output(),
        JobOutput::Cancel(CancelMode::Graceful)
    ));
    world.finish_step(StepResult::Cancelled, 0);
    assert_eq!(result(&mut world).state(), "success");
}

#[test]
fn odd_timeouts_are_those_of_the_runner() {
    for timeout in [json!(0), json!(-5), json!(null)] {
        let mut payload = payload();
        payload["runner_info"]["timeout"] = timeout;
        let mut world = World::running(&payload);
        let from = world.now;
        while !world.notice("took longer than") {
            world.next_deadline();
            if world.machine.stats().requests_in_flight == 1 {
                let sent = world.request();
                world.reply(&sent, reply(200));
            }
        }
        assert_eq!(world.now.since(from), 7200 * SECOND);
    }
}

#[test]
fn the_time_limit_of_a_step_does_not_count() {
    let mut payload = payload();
    payload["steps"][0]["timeout"] = json!(1);
    let mut world = World::running(&payload);
    for _ in 0..3 {
        let put = world.next_request();
        world.reply(&put, reply(200));
        world.no_job_output();
    }
}

/// A job whose script runs and that was cancelled gracefully.
fn canceling(payload: &Value) -> World {
    let mut world = World::running(payload);
    let put = world.next_request();
    world.reply(&put, reply(200).job_status("canceling"));
    assert!(matches!(
        world.job_output(),
        JobOutput::Cancel(CancelMode::Graceful)
    ));
    world
}

#[test]
fn a_cancelled_script_may_end_and_after_script_runs() {
    for result_of_step in [StepResult::Ok, failed(), StepResult::Cancelled] {
        let mut world = canceling(&payload_with_after_script());
        world.finish_step(result_of_step, 0);
        assert_eq!(world.step(), "after_script");
        world.finish_step(StepResult::Ok, 0);
        let update = result(&mut world).json();
        assert_eq!(update["state"], "failed");
        assert_eq!(update["failure_reason"], "unknown_failure");
    }
}

#[test]
fn a_cancelled_script_that_does_not_end_is_forced_after_ten_minutes() {
    let mut payload = payload();
    payload["runner_info"]["timeout"] = json!(36000);
    let mut world = canceling(&payload);
    let from = world.now;
    let told = world.until_job_output(&reply(200).job_status("canceling"));
    assert!(matches!(told, JobOutput::Cancel(CancelMode::Forced)));
    assert_eq!(world.now.since(from), 600 * SECOND);
    world.no_job_output();
}

#[test]
fn a_cancel_is_told_once() {
    let mut world = canceling(&payload());
    for _ in 0..3 {
        let put = world.next_request();
        world.reply(&put, reply(200).job_status("canceling"));
        world.no_job_output();
    }
}

#[test]
fn a_cancel_after_the_script_changes_nothing() {
    let mut world = World::running(&payload_with_after_script());
    world.finish_step(StepResult::Ok, 0);
    assert_eq!(world.step(), "after_script");
    let put = world.next_request();
    world.reply(&put, reply(200).job_status("canceling"));
    world.no_job_output();
    world.finish_step(StepResult::Ok, 0);
    assert_eq!(result(&mut world).state(), "success");
}

#[test]
fn a_cancel_while_the_handler_is_made_runs_nothing() {
    let mut world = World::starting(&payload_with_after_script());
    let told = world.until_job_output(&reply(200).job_status("canceling"));
    assert!(matches!(told, JobOutput::Cancel(CancelMode::Graceful)));
    world.job_input(JobInput::Accepted);
    assert_eq!(result(&mut world).state(), "failed");
}

#[test]
fn a_handler_that_is_made_for_ever_is_dropped_after_a_cancel() {
    let mut world = World::starting(&payload());
    let canceling = reply(200).job_status("canceling");
    let told = world.until_job_output(&canceling);
    assert!(matches!(told, JobOutput::Cancel(CancelMode::Graceful)));
    let from = world.now;
    let told = world.until_job_output(&canceling);
    assert!(matches!(told, JobOutput::Cancel(CancelMode::Forced)));
    assert_eq!(world.now.since(from), 600 * SECOND);
}

#[test]
fn graceful_then_forced_cancel() {
    let mut world = canceling(&payload_with_after_script());
    let put = world.next_request();
    world.reply(&put, reply(403).job_status("canceled"));
    assert!(matches!(
        world.job_output(),
        JobOutput::Cancel(CancelMode::Forced)
    ));
    world.finish_step(StepResult::Cancelled, 0);
    world.clean_up(0);
    world.is_over();
    world.no_request_for_the_job();
}

#[test]
fn a_job_that_ended_at_gitlab_is_heard_of_no_more() {
    let mut world = World::running(&payload_with_after_script());
    let put = world.next_request();
    world.reply(&put, reply(403));
    assert!(matches!(
        world.job_output(),
        JobOutput::Cancel(CancelMode::Forced)
    ));
    // The log may go on for a moment.
    world.log_to(1000);
    world.pass(300 * SECOND);
    world.finish_step(StepResult::Cancelled, 1000);
    world.clean_up(1000);
    world.is_over();
}

#[test]
fn a_job_that_ends_at_gitlab_is_cleaned_up_all_the_same() {
    let mut world = World::running(&payload());
    world.finish_step(StepResult::Ok, 10);
    assert!(matches!(world.job_output(), JobOutput::CleanUp));
    let patch = world.next_patch();
    world.reply(&patch, reply(403));
    world.no_job_output();
    world.job_input(JobInput::CleanedUp { trace: mark(10) });
    world.is_over();
    world.no_request_for_the_job();
}

#[test]
fn a_job_may_take_too_long_before_it_has_begun() {
    let mut payload = payload();
    payload["runner_info"]["timeout"] = 100.into();
    let mut world = World::starting(&payload);
    let from = world.now;
    let told = world.until_job_output(&reply(200));
    assert!(matches!(told, JobOutput::Note(text) if text.contains("Job failed")));
    assert_eq!(world.now.since(from), 100 * SECOND);
    let told = world.job_output();
    assert!(matches!(told, JobOutput::Cancel(CancelMode::Forced)));
    // Whatever the handler says now.
    world.job_input(JobInput::Declined {
        failure: Failure::new(FailureReason::RunnerSystemFailure),
        trace: mark(0),
    });
    let update = world.next_update().json();
    assert_eq!(update["failure_reason"], "job_execution_timeout");
}

#[test]
fn a_clean_up_that_hangs_is_dropped() {
    let mut world = World::running(&payload());
    // Not in step with the keep-alives.
    world.pass(7 * SECOND);
    world.finish_step(StepResult::Ok, 0);
    assert!(matches!(world.job_output(), JobOutput::CleanUp));
    let from = world.now;
    let told = world.until_job_output(&reply(200));
    assert!(matches!(told, JobOutput::Cancel(CancelMode::Forced)));
    assert_eq!(world.now.since(from), 300 * SECOND);
    world.job_input(JobInput::CleanedUp { trace: mark(0) });
    assert_eq!(world.request().state(), "success");
}

#[test]
fn answers_that_nobody_asked_for_are_counted() {
    let mut world = World::running(&payload());
    let before = world.ignored();
    world.job_input(JobInput::Accepted);
    world.job_input(JobInput::CleanedUp { trace: mark(9) });
    world.input(Input::Job {
        job: gitlab_runner::JobId(99),
        input: JobInput::Traced(mark(1)),
    });
    assert_eq!(world.ignored(), before + 3);
    world.no_job_output();
    world.finish_step(StepResult::Ok, 0);
    world.finish_step(failed(), 0);
    assert_eq!(world.ignored(), before + 4);
    assert_eq!(result(&mut world).state(), "success");
    world.input(Input::Job {
        job: JOB,
        input: JobInput::CleanedUp { trace: mark(50) },
    });
    assert_eq!(world.ignored(), before + 5);
}

#[test]
fn a_mark_that_shrinks_is_stale() {
    let mut world = World::running(&payload());
    world.log_to(100);
    world.log_to(50);
    assert_eq!(world.next_request().range(), 0..100);
}
