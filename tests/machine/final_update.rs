//! The last `PUT jobs/:id`.

use std::time::Duration;

use gitlab_runner::{
    Failure, FailureReason,
    machine::{JobOutput, StepResult},
};
use serde_json::json;

use crate::world::{JOB_TOKEN, World, html, payload, reply};

const SECOND: Duration = Duration::from_secs(1);

fn failed(code: i32) -> StepResult {
    StepResult::Failed(Failure::exit_code(code))
}

#[test]
fn what_a_success_looks_like() {
    let (_, update) = World::finishing(StepResult::Ok);
    assert_eq!(
        (update.method.as_str(), update.path.as_str()),
        ("PUT", "jobs/7")
    );
    assert_eq!(
        update.json(),
        json!({
            "token": JOB_TOKEN,
            "state": "success",
            "checksum": "crc32:0000001e",
            "output": { "checksum": "crc32:0000001e", "bytesize": 10 },
        })
    );
}

#[test]
fn what_a_failure_looks_like() {
    let (_, update) = World::finishing(failed(3));
    let body = update.json();
    assert_eq!(body["state"], "failed");
    assert_eq!(body["failure_reason"], "script_failure");
    assert_eq!(body["exit_code"], 3);
}

#[test]
fn reasons_that_the_server_does_not_know_are_replaced() {
    for (reason, sent) in [
        (FailureReason::RunnerSystemFailure, "runner_system_failure"),
        (FailureReason::JobExecutionTimeout, "job_execution_timeout"),
        (FailureReason::ImagePullFailure, "runner_system_failure"),
        (FailureReason::RunnerConfigurationError, "script_failure"),
        (FailureReason::RunnerInterrupted, "runner_interrupted"),
        (
            FailureReason::Other("made_up".to_owned()),
            "unknown_failure",
        ),
    ] {
        let (_, update) = World::finishing(StepResult::Failed(Failure::new(reason)));
        assert_eq!(update.json()["failure_reason"], sent);
    }
}

#[test]
fn final_200_is_the_end() {
    let failure = "job 7 failed: script_failure (exit code 1)";
    for (result, text) in [(StepResult::Ok, "job 7 succeeded"), (failed(1), failure)] {
        let (mut world, update) = World::finishing(result);
        world.reply(&update, reply(200).body("200"));
        assert!(world.notice(text));
        world.is_over();
        // The next job.
        assert_eq!(world.next_request().path, "jobs/request");
    }
}

#[test]
fn final_202_waits_as_told_and_repeats_the_same() {
    let (mut world, update) = World::finishing(failed(2));
    world.reply(&update, reply(202));
    let (wait, again) = world.next_request_after();
    assert_eq!((wait, &again.body), (3 * SECOND, &update.body));
    world.reply(
        &again,
        reply(202).header("X-GitLab-Trace-Update-Interval", "7"),
    );
    let (wait, again) = world.next_request_after();
    assert_eq!((wait, &again.body), (7 * SECOND, &update.body));
    world.reply(&again, reply(200));
    world.is_over();
}

#[test]
fn final_202_for_ever_is_given_up_after_an_hour() {
    let (mut world, mut update) = World::finishing(StepResult::Ok);
    let from = world.now;
    while world.machine.stats().jobs == 1 {
        world.reply(
            &update,
            reply(202).header("X-GitLab-Trace-Update-Interval", "60"),
        );
        match world.machine.poll_timeout() {
            Some(_) if world.machine.stats().jobs == 1 => {
                world.next_deadline();
                if world.machine.stats().jobs == 1 {
                    update = world.request();
                }
            }
            _ => {}
        }
    }
    let took = world.now.since(from);
    assert!((3500 * SECOND..=3700 * SECOND).contains(&took), "{took:?}");
    assert!(world.notice("final state could not be reported"));
    assert!(world.notice("no success within 60 minutes"));
}

#[test]
fn final_400_tries_running_first() {
    let (mut world, update) = World::finishing(StepResult::Ok);
    world.reply(&update, reply(400));
    let running = world.request();
    assert_eq!(running.state(), "running");
    world.reply(&running, reply(200));
    let again = world.request();
    assert_eq!(again.body, update.body);
    world.reply(&again, reply(400));
    assert!(world.notice("could not be reported"));
    world.is_over();
}

#[test]
fn the_running_before_another_final_state_is_repeated_only_if_the_server_is_in_trouble() {
    let (mut world, update) = World::finishing(StepResult::Ok);
    world.reply(&update, reply(400));
    let mut running = world.request();
    let limited = reply(429).header("Retry-After", "60");
    for (trouble, wait) in [
        (html(500), SECOND),
        (limited, 60 * SECOND),
        (reply(409), SECOND / 2),
        (reply(408), SECOND),
    ] {
        world.reply(&running, trouble);
        world.no_request();
        let waited;
        (waited, running) = world.next_request_after();
        assert!(waited >= wait, "{waited:?}");
        assert_eq!(running.state(), "running");
    }
    world.reply(&running, reply(404));
    let again = world.request();
    assert_eq!(again.body, update.body);
}

#[test]
fn final_403_is_done_if_the_job_is_in_the_state_we_sent() {
    for (result, status, reported) in [
        (StepResult::Ok, "success", true),
        (failed(1), "failed", true),
        (StepResult::Ok, "canceled", true),
        (failed(1), "canceled", true),
        (StepResult::Ok, "failed", false),
        (failed(1), "success", false),
    ] {
        let (mut world, update) = World::finishing(result);
        world.reply(&update, reply(403).job_status(status));
        assert_eq!(world.notice("could not be reported"), !reported, "{status}");
        world.is_over();
    }
}

#[test]
fn final_403_without_a_status_is_given_up() {
    let (mut world, update) = World::finishing(StepResult::Ok);
    world.reply(&update, reply(403).body(r#"{"message":"403 Forbidden"}"#));
    assert!(world.notice("could not be reported"));
    world.is_over();
}

#[test]
fn final_404_is_tried_a_few_times() {
    let (mut world, mut update) = World::finishing(StepResult::Ok);
    let from = world.now;
    let mut count = 0;
    loop {
        world.reply(&update, reply(404));
        count += 1;
        if world.machine.stats().jobs == 0 {
            break;
        }
        update = world.next_request();
    }
    assert!(count >= 5, "{count}");
    assert!(world.now.since(from) < 300 * SECOND);
    assert!(world.notice("could not be reported"));
}

#[test]
fn final_404_of_a_proxy_passes() {
    let (mut world, update) = World::finishing(StepResult::Ok);
    world.reply(&update, html(404));
    let update = world.next_request();
    world.reply(&update, reply(200));
    assert!(world.notice("succeeded"));
}

#[test]
fn final_409_is_repeated_soon() {
    let (mut world, update) = World::finishing(StepResult::Ok);
    world.reply(&update, reply(409));
    let (wait, again) = world.next_request_after();
    assert!(wait <= SECOND);
    assert_eq!(again.body, update.body);
}

#[test]
fn final_412_sends_the_log_once_more() {
    let (mut world, update) = World::finishing(StepResult::Ok);
    world.reply(&update, reply(412));
    let patch = world.next_request();
    assert_eq!(patch.range(), 0..10);
    world.reply(&patch, reply(416).header("Range", "0-10"));
    let again = world.next_request();
    assert_eq!(again.body, update.body);
    world.reply(&again, reply(200));
    world.is_over();
}

#[test]
fn final_429_5xx_and_lost_answers_are_repeated_for_an_hour() {
    for n in 0..3 {
        let (mut world, mut update) = World::finishing(failed(9));
        let (from, body) = (world.now, update.body.clone());
        let mut count = 0;
        loop {
            match n {
                0 => world.reply(&update, reply(429).header("Retry-After", "60")),
                1 => world.reply(&update, html(500)),
                _ => world.lose(&update),
            }
            count += 1;
            while world.machine.stats().jobs == 1 && world.machine.stats().requests_in_flight == 0 {
                world.next_deadline();
            }
            if world.machine.stats().jobs == 0 {
                break;
            }
            update = world.request();
            assert_eq!(update.body, body);
        }
        let took = world.now.since(from);
        assert!((3000 * SECOND..=3700 * SECOND).contains(&took), "{took:?}");
        assert!(count < 100, "{count} requests");
        assert!(world.notice("could not be reported"));
        // All of the log was.
        assert!(!world.notice("could not be sent in time"));
    }
}

#[test]
fn final_with_canceled_or_failed_is_done() {
    for job_status in ["canceled", "failed"] {
        for status in [200, 202, 403] {
            let (mut world, update) = World::finishing(failed(1));
            world.reply(&update, reply(status).job_status(job_status));
            assert!(
                !world.notice("could not be reported"),
                "{status} {job_status}"
            );
            world.is_over();
        }
    }
}

#[test]
fn the_whole_log_goes_before_the_final_update() {
    let mut world = World::running(&payload());
    world.finish_step(StepResult::Ok, 3 << 20);
    world.clean_up((3 << 20) + 5);
    for n in 0..3_u64 {
        let patch = world.request();
        assert_eq!(patch.range(), n << 20..(n + 1) << 20);
        world.reply(&patch, reply(202));
    }
    let patch = world.request();
    assert_eq!(patch.range(), 3 << 20..(3 << 20) + 5);
    world.reply(&patch, reply(202));
    assert_eq!(world.request().state(), "success");
}

#[test]
fn a_log_that_cannot_be_sent_does_not_keep_the_final_state_back_for_ever() {
    let mut world = World::running(&payload());
    world.finish_step(StepResult::Ok, 10);
    world.clean_up(10);
    let from = world.now;
    let mut sent = world.request();
    while sent.method == "PATCH" {
        world.reply(&sent, reply(500));
        sent = world.next_request();
    }
    assert_eq!(sent.state(), "success");
    assert!(world.now.since(from) <= 1900 * SECOND);
    assert!(world.notice("could not be sent in time"));
    world.reply(&sent, reply(200));
    assert!(matches!(world.job_output(), JobOutput::Done));
}

#[test]
fn an_empty_log_needs_no_patch() {
    let mut world = World::running(&payload());
    world.finish_step(StepResult::Ok, 0);
    world.clean_up(0);
    let update = world.request();
    assert_eq!(update.json()["output"]["bytesize"], 0);
}

#[test]
fn whatever_the_status_a_job_that_is_over_is_over() {
    for status in [200, 202, 204, 400, 404, 409, 412, 413, 416, 429, 500, 502] {
        for job_status in ["canceled", "failed"] {
            let (mut world, update) = World::finishing(StepResult::Ok);
            world.reply(&update, reply(status).job_status(job_status));
            world.is_over();
            world.no_request_for_the_job();
        }
    }
}
