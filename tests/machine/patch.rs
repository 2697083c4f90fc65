//! Answers to `PATCH jobs/:id/trace`.

use std::time::Duration;

use gitlab_runner::machine::{CancelMode, JobOutput, StepResult};
use serde_json::json;

use crate::world::{JOB_TOKEN, Reply, Sent, World, html, payload, reply};

const SECOND: Duration = Duration::from_secs(1);

/// A job with a log of 100 bytes, and the request that brings them.
fn patching() -> (World, Sent) {
    let mut world = World::running(&payload());
    world.log_to(100);
    let patch = world.next_request();
    assert_eq!(patch.range(), 0..100);
    (world, patch)
}

fn accepted(to: u64) -> Reply {
    reply(202).header("Range", &format!("0-{to}"))
}

#[test]
fn what_a_patch_looks_like() {
    let (world, patch) = patching();
    assert_eq!(patch.method, "PATCH");
    assert_eq!(patch.path, "jobs/7/trace?debug_trace=false");
    assert_eq!(patch.header("Content-Range"), Some("0-99"));
    assert_eq!(patch.header("Content-Type"), Some("text/plain"));
    assert_eq!(patch.header("JOB-TOKEN"), Some(JOB_TOKEN));
    assert_eq!(patch.at.since(world.now), Duration::ZERO);
}

#[test]
fn debug_traces_are_marked() {
    let mut payload = payload();
    payload["variables"] = json!([{ "key": "CI_DEBUG_TRACE", "value": "true" }]);
    let mut world = World::running(&payload);
    world.log_to(1);
    assert_eq!(world.next_request().path, "jobs/7/trace?debug_trace=true");
}

#[test]
fn a_patch_comes_three_seconds_after_the_start_and_then_on_a_grid() {
    let mut world = World::running(&payload());
    let start = world.now;
    world.log_to(1);
    let patch = world.next_request();
    assert_eq!(patch.at.since(start), 3 * SECOND);
    world.reply(&patch, accepted(1));
    // Nothing new, no request.
    world.pass(10 * SECOND);
    world.log_to(2);
    let (wait, patch) = world.next_request_after();
    assert!(wait <= 3 * SECOND, "{wait:?}");
    assert_eq!(patch.range(), 1..2);
}

#[test]
fn patch_200_is_accepted() {
    let (mut world, patch) = patching();
    world.reply(&patch, reply(200));
    world.log_to(150);
    assert_eq!(world.next_request().range(), 100..150);
}

#[test]
fn patch_202_advances_to_our_own_end() {
    let (mut world, patch) = patching();
    world.log_to(120);
    world.reply(&patch, accepted(100));
    world.log_to(150);
    let (wait, patch) = world.next_request_after();
    assert_eq!((patch.range(), wait), (100..150, 3 * SECOND));
    assert_eq!(patch.header("Content-Range"), Some("100-149"));
}

#[test]
fn patch_202_may_change_the_interval() {
    let (mut world, patch) = patching();
    world.reply(
        &patch,
        accepted(100).header("X-GitLab-Trace-Update-Interval", "20"),
    );
    world.log_to(150);
    let (wait, _) = world.next_request_after();
    assert_eq!(wait, 20 * SECOND);
}

#[test]
fn intervals_that_make_no_sense_change_nothing_and_long_ones_are_capped() {
    for (value, seconds) in [
        ("0", 3),
        ("-5", 3),
        ("soon", 3),
        ("", 3),
        ("30", 30),
        ("99999", 900),
        ("99999999999999999999999", 900),
    ] {
        let (mut world, patch) = patching();
        world.reply(
            &patch,
            accepted(100).header("X-GitLab-Trace-Update-Interval", value),
        );
        world.log_to(150);
        let mut wait = Duration::ZERO;
        loop {
            let (passed, sent) = world.next_request_after();
            wait += passed;
            if sent.method == "PATCH" {
                break;
            }
            world.reply(&sent, reply(200));
        }
        assert_eq!(wait, seconds * SECOND, "{value}");
    }
}

#[test]
fn patch_400_keeps_the_log_and_does_not_loop() {
    let (mut world, patch) = patching();
    world.reply(
        &patch,
        reply(400).body(r#"{"error":"Missing header Content-Range"}"#),
    );
    assert!(world.notice("does not take its log"));
    world.log_to(200);
    // Only keep-alives.
    for _ in 0..5 {
        let sent = world.next_request();
        assert_eq!(sent.method, "PUT");
        world.reply(&sent, reply(200));
    }
    // One more try at the end, with everything.
    world.finish_step(StepResult::Ok, 200);
    world.clean_up(200);
    let patch = world.request();
    assert_eq!(patch.range(), 0..200);
    world.reply(&patch, reply(400));
    assert_eq!(world.request().state(), "success");
}

#[test]
fn patch_403_aborts_the_job() {
    let (mut world, patch) = patching();
    world.reply(
        &patch,
        reply(403).body(r#"{"message":"403 Forbidden - Job has been erased!"}"#),
    );
    assert!(world.notice("Job has been erased!"));
    assert!(matches!(
        world.job_output(),
        JobOutput::Cancel(CancelMode::Forced)
    ));
    world.finish_step(StepResult::Cancelled, 100);
    world.clean_up(100);
    world.is_over();
    world.no_request_for_the_job();
}

#[test]
fn patch_404_is_tried_again_and_asked_about_before_the_job_is_given_up() {
    let (mut world, patch) = patching();
    world.reply(&patch, reply(404));
    // Whether the job is there at all is asked with a `PUT`.
    let mut count = 1;
    let mut sent = world.next_request();
    let from = sent.at;
    while world.machine.stats().jobs == 1 && count < 50 {
        assert_eq!(sent.method, "PUT");
        world.reply(&sent, reply(404));
        count += 1;
        if world.notice("ended by GitLab") {
            break;
        }
        sent = world.next_request();
    }
    assert!((5..50).contains(&count), "{count}");
    assert!(world.now.since(from) >= 50 * SECOND);
    assert!(matches!(
        world.job_output(),
        JobOutput::Cancel(CancelMode::Forced)
    ));
}

#[test]
fn patch_404_of_a_proxy_passes() {
    let (mut world, patch) = patching();
    world.reply(&patch, html(404));
    let sent = world.next_request();
    assert_eq!(sent.method, "PUT");
    world.reply(&sent, reply(200));
    let patch = world.next_request();
    assert_eq!(patch.range(), 0..100);
    world.reply(&patch, accepted(100));
    world.no_job_output();
}

#[test]
fn patch_409_is_sent_again_soon() {
    let (mut world, patch) = patching();
    world.reply(&patch, reply(409));
    let (wait, patch) = world.next_request_after();
    assert!(wait <= SECOND, "{wait:?}");
    assert_eq!(patch.range(), 0..100);
}

#[test]
fn patch_413_is_split() {
    let mut world = World::running(&payload());
    world.log_to(100_000);
    let patch = world.next_request();
    world.reply(&patch, html(413));
    let patch = world.request();
    assert_eq!(patch.range(), 0..50_000);
    world.reply(&patch, html(413));
    let patch = world.request();
    assert_eq!(patch.range(), 0..25_000);
    for end in [25_000, 50_000, 75_000, 100_000] {
        let patch = if end == 25_000 {
            &patch
        } else {
            &world.next_request()
        };
        assert_eq!(patch.range(), end - 25_000..end);
        world.reply(patch, accepted(end));
    }
}

/// A log of which the first mebibyte has arrived, and the request with the second one.
fn patching_a_long_log() -> (World, Sent) {
    let mut world = World::running(&payload());
    world.log_to(9 << 20);
    let patch = world.next_request();
    world.reply(&patch, accepted(1 << 20));
    let patch = world.next_request();
    assert_eq!(patch.range(), 1 << 20..2 << 20);
    (world, patch)
}

#[test]
fn what_is_too_large_is_halved_wherever_it_is_in_the_log() {
    let (mut world, patch) = patching_a_long_log();
    world.reply(&patch, reply(413));
    assert_eq!(world.next_request().range(), 1 << 20..3 << 19);
    // A proxy may break the connection instead.
    let (mut world, patch) = patching_a_long_log();
    world.lose(&patch);
    assert_eq!(world.next_request().range(), 1 << 20..3 << 19);
    // But no connection at all says nothing of the size.
    let (mut world, patch) = patching_a_long_log();
    world.fail(&patch, false);
    assert_eq!(world.next_request().range(), 1 << 20..2 << 20);
}

#[test]
fn patch_412_starts_anew() {
    let (mut world, patch) = patching();
    world.reply(&patch, accepted(100));
    world.log_to(150);
    let patch = world.next_request();
    assert_eq!(patch.range(), 100..150);
    world.reply(&patch, reply(412));
    assert_eq!(world.next_request().range(), 0..150);
}

#[test]
fn patch_404_at_the_end_leaves_the_final_state_to_be_told() {
    let mut world = World::running(&payload());
    world.finish_step(StepResult::Ok, 10);
    world.clean_up(10);
    let from = world.now;
    let mut sent = world.request();
    while sent.method == "PATCH" {
        world.reply(&sent, reply(404));
        sent = world.next_request();
    }
    assert!(world.notice("does not take its log"));
    assert!(world.now.since(from) < 300 * SECOND);
    assert_eq!(sent.state(), "success");
}

#[test]
fn patch_416_rewinds_to_range() {
    let (mut world, patch) = patching();
    world.reply(&patch, accepted(100));
    world.log_to(200);
    let patch = world.next_request();
    world.reply(&patch, reply(416).header("Range", "0-40"));
    // At once, and from where the server is.
    let patch = world.request();
    assert_eq!(patch.range(), 40..200);
    assert_eq!(patch.header("Content-Range"), Some("40-199"));
}

#[test]
fn patch_416_forwards_to_range() {
    // The first try had arrived, only its answer was lost.
    let (mut world, patch) = patching();
    world.lose(&patch);
    world.log_to(150);
    let patch = world.next_request();
    assert_eq!(patch.range(), 0..150);
    world.reply(&patch, reply(416).header("Range", "0-100"));
    assert_eq!(world.request().range(), 100..150);
}

#[test]
fn patch_416_without_a_range_starts_anew() {
    let (mut world, patch) = patching();
    world.reply(&patch, accepted(100));
    world.log_to(200);
    let patch = world.next_request();
    world.reply(&patch, reply(416));
    assert_eq!(world.request().range(), 0..200);
}

#[test]
fn patch_416_again_and_again_does_not_spin() {
    let (mut world, patch) = patching();
    let mut sent = patch;
    let from = world.now;
    for _ in 0..20 {
        world.reply(&sent, reply(416).header("Range", "0-0"));
        sent = world.next_request();
    }
    assert!(world.now.since(from) > 5 * 60 * SECOND);
    world.reply(&sent, accepted(100));
    world.no_job_output();
}

#[test]
fn patch_416_beyond_all_we_sent_is_somebody_elses_log() {
    let (mut world, patch) = patching();
    world.reply(&patch, reply(416).header("Range", "0-5000"));
    assert!(world.notice("5000 bytes"));
    world.log_to(200);
    world.finish_step(StepResult::Ok, 200);
    world.clean_up(200);
    // No more patches; the true size and checksum are told all the same.
    let update = world.request();
    assert_eq!(update.state(), "success");
    assert_eq!(update.json()["output"]["bytesize"], 200);
    assert_eq!(update.json()["output"]["checksum"], "crc32:00000258");
}

#[test]
fn patch_429_waits_as_told_and_sends_the_same_range_on() {
    let (mut world, patch) = patching();
    world.reply(&patch, reply(429).header("Retry-After", "30"));
    world.log_to(130);
    let from = world.now;
    let patch = world.next_patch();
    let wait = patch.at.since(from);
    assert!((30 * SECOND..=36 * SECOND).contains(&wait), "{wait:?}");
    assert_eq!(patch.range(), 0..130);
}

#[test]
fn patch_5xx_backs_off() {
    for status in [500, 502, 503, 504] {
        let (mut world, mut sent) = patching();
        let mut last = Duration::ZERO;
        let mut puts = 0;
        for _ in 0..12 {
            world.reply(&sent, html(status));
            let wait;
            (wait, sent) = world.next_request_after();
            assert!(
                wait > last / 2 && wait <= 60 * SECOND,
                "{wait:?} after {last:?}"
            );
            last = wait;
            if sent.method == "PATCH" {
                assert_eq!(sent.range(), 0..100);
            } else {
                puts += 1;
            }
        }
        assert!(last >= 50 * SECOND);
        // A cancel would be heard of all the same.
        assert!((3..=6).contains(&puts), "{puts}");
        world.no_job_output();
        // One answer, and all is well at once.
        if sent.method == "PUT" {
            world.reply(&sent, reply(200));
            sent = world.next_request();
        }
        world.reply(&sent, accepted(100));
        world.log_to(110);
        assert!(world.next_request_after().0 <= 3 * SECOND);
    }
}

#[test]
fn an_answer_that_does_not_help_does_not_end_the_pauses() {
    // The job is there, but not its log; the log is taken, and lost again.
    let requests = |answer: fn(&Sent) -> Reply| {
        let mut world = World::running(&payload());
        world.log_to(5 << 20);
        let end = world.now + 600 * SECOND;
        let mut count = 0;
        while world.now < end {
            let sent = world.next_request();
            let answer = answer(&sent);
            world.reply(&sent, answer);
            count += 1;
        }
        count
    };
    let count = requests(|sent| match sent.method.as_str() {
        "PATCH" => reply(404),
        _ => reply(200),
    });
    assert!(count <= 60, "{count}");
    let count = requests(|sent| match sent.method.as_str() {
        "PATCH" if sent.range().start == 0 => accepted(sent.range().end),
        "PATCH" => reply(416).header("Range", "0-0"),
        _ => reply(200),
    });
    assert!(count <= 60, "{count}");
}

#[test]
fn a_server_that_hangs_has_had_its_pause() {
    let (mut world, mut sent) = patching();
    for _ in 0..10 {
        world.pass(60 * SECOND);
        world.lose(&sent);
        let wait;
        (wait, sent) = world.next_request_after();
        assert!(wait <= SECOND, "{wait:?}");
    }
}

#[test]
fn patch_transport_errors_back_off() {
    for maybe_delivered in [true, false] {
        let (mut world, patch) = patching();
        world.fail(&patch, maybe_delivered);
        let (wait, patch) = world.next_request_after();
        assert!((SECOND..=2 * SECOND).contains(&wait), "{wait:?}");
        assert_eq!(patch.range(), 0..100);
    }
}

#[test]
fn any_answer_with_canceling_stops_gracefully() {
    for status in [200, 202, 409, 416, 429, 500] {
        let (mut world, patch) = patching();
        world.reply(&patch, reply(status).job_status("canceling"));
        let output = world.job_output();
        assert!(
            matches!(output, JobOutput::Cancel(CancelMode::Graceful)),
            "{status}: {output:?}"
        );
        world.no_job_output();
    }
}

#[test]
fn any_answer_with_canceled_or_failed_aborts() {
    for status in [200, 202, 403, 409, 416, 429, 500] {
        for job_status in ["canceled", "failed"] {
            let (mut world, patch) = patching();
            world.reply(&patch, reply(status).job_status(job_status));
            let output = world.job_output();
            assert!(
                matches!(output, JobOutput::Cancel(CancelMode::Forced)),
                "{status} {job_status}: {output:?}"
            );
            world.finish_step(StepResult::Cancelled, 100);
            world.clean_up(100);
            world.is_over();
            world.no_request_for_the_job();
        }
    }
}

#[test]
fn other_job_statuses_mean_nothing() {
    for job_status in ["running", "success", "pending", "", "CANCELED", "nonsense"] {
        let (mut world, patch) = patching();
        world.reply(&patch, accepted(100).job_status(job_status));
        world.no_job_output();
    }
}

#[test]
fn a_long_log_travels_in_pieces_of_a_mebibyte_without_pauses() {
    let mut world = World::running(&payload());
    world.log_to(5 << 20);
    let mut patch = world.next_request();
    let from = world.now;
    for n in 1..5 {
        assert_eq!(patch.range(), (n - 1) << 20..n << 20);
        world.reply(&patch, accepted(n << 20));
        patch = world.request();
    }
    assert_eq!(world.now, from);
}

#[test]
fn one_request_at_a_time_for_each_job() {
    let (mut world, patch) = patching();
    for len in 101..200 {
        world.log_to(len);
        world.pass(SECOND);
    }
    world.reply(&patch, accepted(100));
    assert_eq!(world.next_patch().range(), 100..199);
}
