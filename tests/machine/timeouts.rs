//! Time limits of script and after_script, from their variables.

use std::time::Duration;

use gitlab_runner::{
    Failure,
    machine::{CancelMode, JobInput, JobOutput, StepResult},
};
use serde_json::{Value, json};

use crate::world::{World, payload_with_after_script, reply};

const SECOND: Duration = Duration::from_secs(1);

fn with(variables: &[(&str, &str)]) -> Value {
    let mut payload = payload_with_after_script();
    payload["variables"] = variables
        .iter()
        .map(|(key, value)| json!({ "key": key, "value": value }))
        .collect();
    payload
}

/// Goes on until the handler is told of the end of a step's time. Gives the line in the log, and how
/// long that took.
fn time_out(world: &mut World) -> (String, Duration) {
    let from = world.now;
    let JobOutput::Note(note) = world.until_job_output(&reply(200)) else {
        panic!("no note");
    };
    let took = world.now.since(from);
    assert!(matches!(
        world.job_output(),
        JobOutput::Cancel(CancelMode::Graceful)
    ));
    (note, took)
}

fn result(world: &mut World) -> Value {
    world.clean_up(0);
    world.next_update().json()
}

#[test]
fn a_script_that_takes_too_long_is_followed_by_after_script() {
    let mut world = World::running(&with(&[("RUNNER_SCRIPT_TIMEOUT", "1m30s")]));
    let (note, took) = time_out(&mut world);
    assert_eq!(took, 90 * SECOND);
    assert!(note.contains("ERROR: Job failed: the script took longer than 90 seconds"));
    assert!(world.notice("took longer than 90 seconds"));
    // It does not end by itself.
    let from = world.now;
    let told = world.until_job_output(&reply(200));
    assert!(matches!(told, JobOutput::Cancel(CancelMode::Forced)));
    assert_eq!(world.now.since(from), 30 * SECOND);
    world.finish_step(StepResult::Cancelled, 0);
    assert_eq!(world.step(), "after_script");
    world.finish_step(StepResult::Ok, 0);
    assert_eq!(
        result(&mut world)["failure_reason"],
        "job_execution_timeout"
    );
}

#[test]
fn what_the_script_says_in_the_end_does_not_count() {
    for said in [
        StepResult::Ok,
        StepResult::Failed(Failure::exit_code(143)),
        StepResult::Cancelled,
    ] {
        let mut world = World::running(&with(&[("RUNNER_SCRIPT_TIMEOUT", "10s")]));
        time_out(&mut world);
        world.finish_step(said, 0);
        assert_eq!(world.step(), "after_script");
        world.finish_step(StepResult::Ok, 0);
        let update = result(&mut world);
        assert_eq!(update["failure_reason"], "job_execution_timeout");
        assert_eq!(update.get("exit_code"), None);
    }
}

#[test]
fn all_steps_of_the_script_share_its_time() {
    let mut payload = with(&[("RUNNER_SCRIPT_TIMEOUT", "60s")]);
    payload["steps"]
        .as_array_mut()
        .unwrap()
        .insert(1, json!({ "name": "release", "script": ["x"] }));
    let mut world = World::running(&payload);
    world.run_until(world.now + 40 * SECOND);
    while let Some(sent) = world.pending() {
        world.reply(&sent, reply(200));
    }
    world.finish_step(StepResult::Ok, 0);
    assert_eq!(world.step(), "release");
    assert_eq!(time_out(&mut world).1, 20 * SECOND);
}

#[test]
fn after_script_has_five_minutes_or_what_its_variable_says() {
    for (variables, seconds) in [
        (&[][..], 300),
        (&[("RUNNER_AFTER_SCRIPT_TIMEOUT", "0")], 300),
        (&[("RUNNER_AFTER_SCRIPT_TIMEOUT", "")], 300),
        (&[("RUNNER_AFTER_SCRIPT_TIMEOUT", "20s")], 20),
        (&[("RUNNER_AFTER_SCRIPT_TIMEOUT", "10m")], 600),
    ] {
        let mut world = World::running(&with(variables));
        world.finish_step(StepResult::Ok, 0);
        assert_eq!(world.step(), "after_script");
        let (note, took) = time_out(&mut world);
        assert_eq!(took, seconds * SECOND, "{variables:?}");
        assert!(note.contains("WARNING: after_script took longer"), "{note}");
        world.finish_step(StepResult::Cancelled, 0);
        assert_eq!(result(&mut world)["state"], "success");
    }
}

#[test]
fn after_script_has_its_time_after_a_cancel_too() {
    let mut world = World::running(&with(&[("RUNNER_SCRIPT_TIMEOUT", "50s")]));
    let put = world.next_request();
    world.reply(&put, reply(200).job_status("canceling"));
    assert!(matches!(
        world.job_output(),
        JobOutput::Cancel(CancelMode::Graceful)
    ));
    // The time of the script does not count any more, that of a cancel does.
    let from = world.now;
    let told = world.until_job_output(&reply(200).job_status("canceling"));
    assert!(matches!(told, JobOutput::Cancel(CancelMode::Forced)));
    assert_eq!(world.now.since(from), 600 * SECOND);
    world.finish_step(StepResult::Cancelled, 0);
    assert_eq!(world.step(), "after_script");
    let (_, took) = time_out(&mut world);
    assert_eq!(took, 300 * SECOND);
    world.finish_step(StepResult::Cancelled, 0);
    assert_eq!(result(&mut world)["failure_reason"], "unknown_failure");
}

#[test]
fn a_cancel_gives_no_more_time_to_a_script_that_is_out_of_it() {
    let mut world = World::running(&with(&[("RUNNER_SCRIPT_TIMEOUT", "10s")]));
    time_out(&mut world);
    let from = world.now;
    let canceling = reply(200).job_status("canceling");
    let told = world.until_job_output(&canceling);
    assert!(matches!(told, JobOutput::Cancel(CancelMode::Graceful)));
    assert!(world.now.since(from) < 30 * SECOND);
    let told = world.until_job_output(&canceling);
    assert!(matches!(told, JobOutput::Cancel(CancelMode::Forced)));
    assert_eq!(world.now.since(from), 30 * SECOND);
}

#[test]
fn an_after_script_may_be_told_to_count() {
    let variables = [("AFTER_SCRIPT_IGNORE_ERRORS", "false")];
    // It fails a job that went well.
    let mut world = World::running(&with(&variables));
    world.finish_step(StepResult::Ok, 0);
    assert_eq!(world.step(), "after_script");
    world.finish_step(StepResult::Failed(Failure::exit_code(9)), 0);
    assert_eq!(result(&mut world)["exit_code"], 9);
    // The script's own failure stands.
    let mut world = World::running(&with(&variables));
    world.finish_step(StepResult::Failed(Failure::exit_code(3)), 0);
    assert_eq!(world.step(), "after_script");
    world.finish_step(StepResult::Failed(Failure::exit_code(9)), 0);
    assert_eq!(result(&mut world)["exit_code"], 3);
    // Its time counts too.
    let mut world = World::running(&with(&variables));
    world.finish_step(StepResult::Ok, 0);
    assert_eq!(world.step(), "after_script");
    assert!(time_out(&mut world).0.contains("ERROR"));
    world.finish_step(StepResult::Ok, 0);
    assert_eq!(
        result(&mut world)["failure_reason"],
        "job_execution_timeout"
    );
}

#[test]
fn the_failure_artifacts_follow_a_script_that_took_too_long() {
    let mut payload = with(&[("RUNNER_SCRIPT_TIMEOUT", "10s")]);
    payload["artifacts"] = json!([
        { "paths": ["a"], "when": "on_success" },
        { "paths": ["b"], "when": "on_failure" },
    ]);
    let mut world = World::running(&payload);
    time_out(&mut world);
    world.finish_step(StepResult::Cancelled, 0);
    assert_eq!(world.step(), "after_script");
    world.finish_step(StepResult::Ok, 0);
    assert!(matches!(world.job_output(), JobOutput::Collect(artifact) if artifact.index == 1));
}

#[test]
fn an_after_script_that_counts_decides_about_the_artifacts() {
    let mut payload = with(&[("AFTER_SCRIPT_IGNORE_ERRORS", "false")]);
    payload["artifacts"] = json!([
        { "paths": ["a"], "when": "on_success" },
        { "paths": ["b"], "when": "on_failure" },
    ]);
    let mut world = World::running(&payload);
    world.finish_step(StepResult::Ok, 0);
    assert_eq!(world.step(), "after_script");
    world.finish_step(StepResult::Failed(Failure::exit_code(9)), 0);
    assert!(matches!(world.job_output(), JobOutput::Collect(artifact) if artifact.index == 1));
}

#[test]
fn odd_limits_are_warned_of() {
    for (value, words) in [
        ("-5m", "is negative"),
        ("ten minutes", "is no duration"),
        ("90", "is no duration"),
        ("2h", "counts as 3600 seconds"),
    ] {
        for key in ["RUNNER_SCRIPT_TIMEOUT", "RUNNER_AFTER_SCRIPT_TIMEOUT"] {
            let mut world = World::starting(&with(&[(key, value)]));
            let JobOutput::Note(note) = world.job_output() else {
                panic!("no note");
            };
            assert!(note.contains(&format!("WARNING: {key}")), "{note}");
            assert!(note.contains(words), "{note}");
            world.job_input(JobInput::Accepted);
            assert_eq!(world.step(), "script");
        }
    }
}

#[test]
fn an_odd_switch_is_warned_of() {
    let key = "AFTER_SCRIPT_IGNORE_ERRORS";
    for (value, is_odd) in [("no", true), ("2", true), ("", false), ("true", false)] {
        let mut world = World::starting(&with(&[(key, value)]));
        if is_odd {
            let JobOutput::Note(note) = world.job_output() else {
                panic!("no note");
            };
            assert!(note.contains(&format!("WARNING: {key}")), "{note}");
        }
        world.job_input(JobInput::Accepted);
        assert_eq!(world.step(), "script", "{value}");
    }
}

#[test]
fn a_switch_may_refer_to_other_variables() {
    let mut world = World::running(&with(&[
        ("COUNTS", "false"),
        ("AFTER_SCRIPT_IGNORE_ERRORS", "$COUNTS"),
    ]));
    world.finish_step(StepResult::Ok, 0);
    assert_eq!(world.step(), "after_script");
    world.finish_step(StepResult::Failed(Failure::exit_code(9)), 0);
    assert_eq!(result(&mut world)["exit_code"], 9);
}

#[test]
fn a_limit_may_refer_to_other_variables() {
    let mut world = World::running(&with(&[
        ("SHORT", "7"),
        ("RUNNER_SCRIPT_TIMEOUT", "${SHORT}s"),
    ]));
    assert_eq!(time_out(&mut world).1, 7 * SECOND);
}

#[test]
fn a_raw_limit_or_switch_refers_to_nothing() {
    for key in [
        "RUNNER_SCRIPT_TIMEOUT",
        "RUNNER_AFTER_SCRIPT_TIMEOUT",
        "AFTER_SCRIPT_IGNORE_ERRORS",
    ] {
        let mut payload = payload_with_after_script();
        payload["variables"] = json!([
            { "key": "OTHER", "value": if key.ends_with("TIMEOUT") { "7s" } else { "true" } },
            { "key": key, "value": "$OTHER", "raw": true },
        ]);
        let mut world = World::starting(&payload);
        let JobOutput::Note(note) = world.job_output() else {
            panic!("no note");
        };
        assert!(note.contains(&format!("WARNING: {key}")), "{note}");
    }
}

#[test]
fn the_time_of_the_job_comes_first() {
    let mut payload = with(&[("RUNNER_SCRIPT_TIMEOUT", "60s")]);
    payload["runner_info"]["timeout"] = json!(60);
    let mut world = World::running(&payload);
    let (note, took) = time_out(&mut world);
    assert_eq!(took, 60 * SECOND);
    assert!(note.contains("execution took longer than 60 seconds"));
    world.finish_step(StepResult::Cancelled, 0);
    // No after_script: there is no time for it.
    assert_eq!(
        result(&mut world)["failure_reason"],
        "job_execution_timeout"
    );
}

#[test]
fn an_after_script_that_is_cut_by_the_time_of_the_job_is_told_once() {
    let mut payload = with(&[("RUNNER_AFTER_SCRIPT_TIMEOUT", "95s")]);
    payload["runner_info"]["timeout"] = json!(100);
    let mut world = World::running(&payload);
    world.pass(20 * SECOND);
    world.finish_step(StepResult::Ok, 0);
    assert_eq!(world.step(), "after_script");
    let (note, took) = time_out(&mut world);
    assert_eq!(took, 80 * SECOND);
    assert!(note.contains("execution took longer"), "{note}");
    // Its own time would be over in 15 seconds.
    let from = world.now;
    let told = world.until_job_output(&reply(200));
    assert!(matches!(told, JobOutput::Cancel(CancelMode::Forced)));
    assert_eq!(world.now.since(from), 30 * SECOND);
}

/// The jobs that depend on it would go on without its files.
#[test]
fn a_job_whose_time_is_over_before_its_artifacts_are_uploaded_is_no_success() {
    for (artifacts, reason) in [
        (json!([]), Value::Null),
        (
            json!([{ "paths": ["a"], "when": "on_failure" }]),
            Value::Null,
        ),
        (json!([{ "paths": ["a"] }]), "job_execution_timeout".into()),
    ] {
        let mut payload = with(&[]);
        payload["runner_info"]["timeout"] = json!(100);
        payload["artifacts"] = artifacts;
        let mut world = World::running(&payload);
        world.pass(20 * SECOND);
        world.finish_step(StepResult::Ok, 0);
        assert_eq!(world.step(), "after_script");
        time_out(&mut world);
        world.finish_step(StepResult::Cancelled, 0);
        if !reason.is_null() {
            let note = world.job_output();
            assert!(matches!(&note, JobOutput::Note(text) if text.contains("artifacts")));
        }
        let update = result(&mut world);
        let state = if reason.is_null() {
            "success"
        } else {
            "failed"
        };
        assert_eq!(
            (&update["state"], &update["failure_reason"]),
            (&state.into(), &reason)
        );
    }
}
