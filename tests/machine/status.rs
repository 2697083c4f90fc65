//! What each step finds in `CI_JOB_STATUS`, and the payload as it came.

use gitlab_runner::{
    Failure, FailureReason,
    machine::{Input, JobInput, JobOutput, StepResult},
    protocol::ScriptStatus,
};
use serde_json::{Value, json};

use crate::world::{JOB, World, payload, payload_with_after_script, reply};

/// The name of the step that is to run, and the status for it.
fn step(world: &mut World) -> (String, &'static str) {
    match world.job_output() {
        JobOutput::Step { name, status, .. } => (name.to_string(), status.as_str()),
        other => panic!("{other:?} is no step"),
    }
}

fn with_release() -> Value {
    let mut payload = payload_with_after_script();
    payload["steps"].as_array_mut().unwrap().push(json!({
        "name": "release", "script": ["release"], "when": "on_success", "allow_failure": true,
    }));
    payload
}

#[test]
fn after_script_is_told_how_the_script_went() {
    let timeout = Failure::new(FailureReason::JobExecutionTimeout);
    for (result, status) in [
        (StepResult::Ok, "success"),
        (StepResult::Failed(Failure::exit_code(3)), "failed"),
        (StepResult::Failed(timeout), "timedout"),
    ] {
        let mut world = World::starting(&payload_with_after_script());
        world.job_input(JobInput::Accepted);
        assert_eq!(step(&mut world), ("script".into(), "running"));
        world.finish_step(result, 0);
        assert_eq!(step(&mut world), ("after_script".into(), status));
    }
}

#[test]
fn a_further_step_belongs_to_the_script() {
    let mut world = World::running(&with_release());
    world.finish_step(StepResult::Ok, 0);
    assert_eq!(step(&mut world), ("release".into(), "running"));
    world.finish_step(StepResult::Failed(Failure::exit_code(1)), 0);
    assert_eq!(step(&mut world), ("after_script".into(), "failed"));
}

#[test]
fn after_script_is_told_of_a_cancel_whatever_the_script_said() {
    for result in [
        StepResult::Ok,
        StepResult::Failed(Failure::exit_code(3)),
        StepResult::Cancelled,
    ] {
        let mut world = World::running(&payload_with_after_script());
        let put = world.next_request();
        world.reply(&put, reply(200).job_status("canceling"));
        assert!(matches!(world.job_output(), JobOutput::Cancel(_)));
        world.finish_step(result, 0);
        assert_eq!(step(&mut world), ("after_script".into(), "canceled"));
    }
}

#[test]
fn a_script_that_is_over_is_not_running() {
    assert_eq!(ScriptStatus::default(), ScriptStatus::Running);
    let interrupted = Failure::new(FailureReason::RunnerInterrupted);
    assert_eq!(
        ScriptStatus::after(Some(&interrupted)),
        ScriptStatus::Failed
    );
}

#[test]
fn the_payload_is_kept_as_it_came_if_that_is_wanted() {
    for keep in [false, true] {
        let mut world = World::with(|config| {
            assert!(!config.keep_raw_payload);
            config.keep_raw_payload = keep;
        });
        let mut payload = payload();
        payload["brand_new"] = json!({ "field": 1 });
        world.input(Input::SetCapacity(1));
        let poll = world.request();
        world.reply(&poll, reply(201).json(&payload));
        let commit = world.request();
        world.reply(&commit, reply(200));
        let JobOutput::Start(started) = world.job_output() else {
            panic!("no start");
        };
        let raw = started.raw.get();
        assert_eq!(raw.is_some(), keep);
        if let Some(raw) = raw {
            let raw: Value = serde_json::from_slice(raw).unwrap();
            assert_eq!(raw, payload);
        }
        let shown = format!("{started:?}");
        assert!(!shown.contains("brand_new"), "{shown}");
    }
}

#[test]
fn anybody_may_ask_how_a_job_has_gone_so_far() {
    let (mut world, commit) = World::committing(&payload_with_after_script());
    let status = |world: &World| world.machine.script_status(JOB);
    assert_eq!(status(&world), Some(ScriptStatus::Running));
    world.reply(&commit, reply(200));
    assert_eq!(status(&world), Some(ScriptStatus::Running));
    world.job_output();
    world.job_input(JobInput::Accepted);
    assert_eq!(step(&mut world), ("script".into(), "running"));
    assert_eq!(status(&world), Some(ScriptStatus::Running));
    let failed = StepResult::Failed(Failure::exit_code(3));
    world.finish_step(failed, 0);
    assert_eq!(step(&mut world), ("after_script".into(), "failed"));
    assert_eq!(status(&world), Some(ScriptStatus::Failed));
    world.finish_step(StepResult::Ok, 0);
    world.clean_up(0);
    assert_eq!(status(&world), Some(ScriptStatus::Failed));
    let update = world.next_update();
    world.reply(&update, reply(200));
    assert_eq!(status(&world), None);

    let mut world = World::running(&payload());
    world.finish_step(StepResult::Ok, 0);
    assert_eq!(status(&world), Some(ScriptStatus::Success));
}
