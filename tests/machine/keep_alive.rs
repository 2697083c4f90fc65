//! `PUT jobs/:id` while the job runs.

use std::time::Duration;

use gitlab_runner::machine::{CancelMode, JobOutput, StepResult};
use serde_json::json;

use crate::world::{JOB_TOKEN, Sent, World, html, payload, reply};

const SECOND: Duration = Duration::from_secs(1);

/// A silent job, and the request that keeps it alive.
fn keeping() -> (World, Sent) {
    let mut world = World::running(&payload());
    let (wait, put) = world.next_request_after();
    assert_eq!(wait, 30 * SECOND);
    (world, put)
}

#[test]
fn what_a_keep_alive_looks_like() {
    let (_, put) = keeping();
    assert_eq!((put.method.as_str(), put.path.as_str()), ("PUT", "jobs/7"));
    assert_eq!(put.header("Content-Type"), Some("application/json"));
    let body = put.json();
    assert_eq!(body["state"], "running");
    assert_eq!(body["token"], JOB_TOKEN);
    assert_eq!(body.get("failure_reason"), None);
    assert_eq!(
        body["output"],
        json!({ "checksum": "crc32:00000000", "bytesize": 0 })
    );
}

#[test]
fn put_200_continues() {
    let (mut world, put) = keeping();
    world.reply(&put, reply(200).body("200"));
    assert_eq!(world.next_request_after().0, 30 * SECOND);
    world.no_job_output();
}

#[test]
fn a_late_answer_does_not_put_the_next_one_off() {
    let (mut world, put) = keeping();
    world.pass(10 * SECOND);
    world.reply(&put, reply(200));
    assert_eq!(world.next_request_after().0, 20 * SECOND);

    // A patch that is about to go does as well.
    let (mut world, put) = keeping();
    world.log_to(5);
    world.pass(50 * SECOND);
    world.reply(&put, reply(200));
    assert_eq!(world.next_request().method, "PATCH");
}

#[test]
fn a_log_that_is_sent_keeps_the_job_alive_too() {
    let mut world = World::running(&payload());
    for len in 1..20 {
        world.log_to(len);
        let sent = world.next_request();
        assert_eq!(sent.method, "PATCH");
        world.reply(&sent, reply(202));
        world.pass(10 * SECOND);
    }
}

#[test]
fn a_log_that_is_about_to_go_comes_before_a_keep_alive() {
    // Trouble that is over changes nothing.
    for trouble in [false, true] {
        let mut world = World::running(&payload());
        world.log_to(100);
        let mut patch = world.next_request();
        if trouble {
            world.reply(&patch, html(502));
            patch = world.next_request();
        }
        world.log_to(120);
        world.pass(50 * SECOND);
        world.reply(&patch, reply(202));
        let (wait, patch) = world.next_request_after();
        assert_eq!((patch.method.as_str(), wait), ("PATCH", 3 * SECOND));
        assert_eq!(patch.range(), 100..120);
    }
}

#[test]
fn a_keep_alive_that_arrives_ends_the_trouble_if_no_log_waits() {
    let (mut world, mut put) = keeping();
    for _ in 0..6 {
        world.reply(&put, html(502));
        put = world.next_request();
    }
    world.reply(&put, reply(200));
    let put = world.next_request();
    world.reply(&put, html(502));
    let (wait, _) = world.next_request_after();
    assert!(wait < 2 * SECOND, "{wait:?}");
}

#[test]
fn put_400_stops_keep_alives() {
    let (mut world, put) = keeping();
    world.reply(&put, reply(400));
    world.pass(600 * SECOND);
    // The log still goes.
    world.log_to(5);
    assert_eq!(world.next_request().method, "PATCH");
}

#[test]
fn put_403_aborts_the_job() {
    let (mut world, put) = keeping();
    world.reply(&put, reply(403));
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
fn put_404_is_tried_again_before_the_job_is_given_up() {
    let (mut world, mut put) = keeping();
    let from = world.now;
    let mut count = 0;
    loop {
        world.reply(&put, reply(404));
        count += 1;
        if world.notice("ended by GitLab") {
            break;
        }
        put = world.next_request();
    }
    assert!(
        count >= 5 && world.now.since(from) >= 60 * SECOND,
        "{count}"
    );
    assert!(matches!(
        world.job_output(),
        JobOutput::Cancel(CancelMode::Forced)
    ));
}

/// A proxy says it once before, and once behind an outage.
#[test]
fn two_404s_are_too_few_however_far_apart() {
    let (mut world, put) = keeping();
    let from = world.now;
    world.reply(&put, reply(404));
    while world.now.since(from) < 90 * SECOND {
        let put = world.next_request();
        world.lose(&put);
    }
    let put = world.next_request();
    world.reply(&put, reply(404));
    world.no_job_output();
    let put = world.next_request();
    world.reply(&put, reply(200));
    world.no_job_output();
}

#[test]
fn put_409_is_repeated_soon() {
    let (mut world, put) = keeping();
    world.reply(&put, reply(409));
    let (wait, put) = world.next_request_after();
    assert!(wait <= SECOND);
    assert_eq!(put.state(), "running");
}

#[test]
fn put_429_waits_as_told() {
    let (mut world, put) = keeping();
    world.reply(&put, reply(429).header("Retry-After", "100"));
    let (wait, _) = world.next_request_after();
    assert!((100 * SECOND..=120 * SECOND).contains(&wait), "{wait:?}");
}

#[test]
fn put_5xx_and_lost_answers_back_off() {
    let (mut world, mut put) = keeping();
    let mut waits = Vec::new();
    for n in 0..10 {
        match n % 2 {
            0 => world.reply(&put, html(502)),
            _ => world.lose(&put),
        }
        let wait;
        (wait, put) = world.next_request_after();
        waits.push(wait);
    }
    assert!(
        waits[0] < 2 * SECOND && waits[9] >= 50 * SECOND,
        "{waits:?}"
    );
    assert!(waits.iter().all(|wait| *wait <= 60 * SECOND));
    world.no_job_output();
}

#[test]
fn put_with_canceling_stops_gracefully() {
    let (mut world, put) = keeping();
    world.reply(&put, reply(200).job_status("canceling"));
    assert!(matches!(
        world.job_output(),
        JobOutput::Cancel(CancelMode::Graceful)
    ));
    assert!(world.notice("was cancelled"));
}

#[test]
fn put_with_canceled_or_failed_aborts() {
    for status in ["canceled", "failed"] {
        let (mut world, put) = keeping();
        world.reply(&put, reply(200).job_status(status));
        assert!(matches!(
            world.job_output(),
            JobOutput::Cancel(CancelMode::Forced)
        ));
    }
}

#[test]
fn put_answers_change_the_interval_of_patches() {
    let (mut world, put) = keeping();
    world.reply(
        &put,
        reply(200).header("X-GitLab-Trace-Update-Interval", "10"),
    );
    world.pass(SECOND);
    world.log_to(1);
    let (wait, patch) = world.next_request_after();
    assert_eq!((patch.method.as_str(), wait), ("PATCH", 9 * SECOND));
}
