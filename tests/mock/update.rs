//! Updates of a job: keep-alive and final state.

use std::time::Duration;

use gitlab_runner::mock::JobStatus;
use http::Method;
use serde_json::{Value, json};

use crate::world::{Reply, Running, World, crc32, job};

/// A server with incremental logging, which takes this long to persist a log, and a job with one.
fn incremental(delay: Duration) -> (World, Running) {
    let mut world = World::new();
    let settings = world.gitlab.settings_mut();
    settings.incremental_logging = true;
    settings.chunk_persist_delay = delay;
    let job = world.running();
    assert_eq!(world.patch(&job, 0, "hello\n").status(), 202);
    (world, job)
}

fn done(state: &str) -> Value {
    json!({ "state": state, "output": { "checksum": crc32("hello\n"), "bytesize": 6 } })
}

/// A keep-alive is 200, tells the status, and has no interval; the job goes on.
#[test]
fn a_keep_alive_is_200_with_the_status() {
    let mut world = World::new();
    let job = world.running();
    let reply = world.put(&job, "running");
    assert_eq!(reply.status(), 200);
    assert_eq!(reply.text(), "200");
    assert_eq!(reply.job_status(), Some("running"));
    assert_eq!(reply.interval(), None);
    assert_eq!(world.status(job.id), JobStatus::Running);
    assert_eq!(world.report(job.id).final_updates, 0);
}

/// `success` is applied at once without a checksum; the answer has the new status.
#[test]
fn success_is_applied() {
    let mut world = World::new();
    let job = world.running();
    world.wait(5);
    let reply = world.put(&job, "success");
    assert_eq!((reply.status(), reply.text()), (200, "200"));
    assert_eq!(reply.job_status(), Some("success"));
    let report = world.report(job.id);
    assert_eq!(report.status, JobStatus::Success);
    assert_eq!(report.finished_at, Some(world.now));
    assert_eq!(report.failure_reason, None);
}

/// `failed` is applied with reason and exit code; `Job-Status: failed` on the 200 is no error.
#[test]
fn failure_is_applied_with_reason_and_exit_code() {
    let mut world = World::new();
    let job = world.running();
    let reply = world.put_with(
        &job,
        json!({ "state": "failed", "failure_reason": "script_failure", "exit_code": 3 }),
    );
    assert_eq!(reply.status(), 200);
    assert_eq!(reply.job_status(), Some("failed"));
    let report = world.report(job.id);
    assert_eq!(report.status, JobStatus::Failed);
    assert_eq!(report.failure_reason.as_deref(), Some("script_failure"));
    assert_eq!(report.exit_code, Some(3));
}

/// A reason that is missing or unknown is stored as `unknown_failure`, and never an error.
#[test]
fn an_unknown_reason_is_unknown_failure() {
    for (sent, stored) in [
        (Value::Null, "unknown_failure"),
        ("".into(), "unknown_failure"),
        ("image_pull_failure".into(), "unknown_failure"),
        ("runner_interrupted".into(), "runner_interrupted"),
        ("job_execution_timeout".into(), "job_execution_timeout"),
        ("api_failure".into(), "api_failure"),
    ] {
        let mut world = World::new();
        let job = world.running();
        let reply = world.put_with(&job, json!({ "state": "failed", "failure_reason": sent }));
        assert_eq!(reply.status(), 200);
        assert_eq!(world.report(job.id).failure_reason.as_deref(), Some(stored));
    }
}

/// What a server knows is what it lists in the payload, for older servers less.
#[test]
fn an_older_server_knows_fewer_reasons() {
    let mut world = World::new();
    let job = world.start(job().failure_reasons(["unknown_failure", "script_failure"]));
    world.put_with(
        &job,
        json!({ "state": "failed", "failure_reason": "runner_interrupted" }),
    );
    let report = world.report(job.id);
    assert_eq!(report.failure_reason.as_deref(), Some("unknown_failure"));
}

/// The exit code is stored between 0 and 32767; one that is no number is 400.
#[test]
fn the_exit_code_is_clamped() {
    for (sent, stored) in [
        (json!(-1), 0),
        (json!(0), 0),
        (json!(255), 255),
        (json!(32767), 32767),
        (json!(40000), 32767),
        (json!("17"), 17),
    ] {
        let mut world = World::new();
        let job = world.running();
        world.put_with(&job, json!({ "state": "failed", "exit_code": sent }));
        assert_eq!(world.report(job.id).exit_code, Some(stored));
    }
    let mut world = World::new();
    let job = world.running();
    let reply = world.put_with(&job, json!({ "state": "failed", "exit_code": "x" }));
    assert_eq!(reply.status(), 400);
    assert_eq!(world.status(job.id), JobStatus::Running);
}

/// A state that is missing, unknown, or `pending` for a running job: 400, with the number as body.
#[test]
fn an_unknown_state_is_400() {
    let mut world = World::new();
    let job = world.running();
    for state in [json!("pending"), json!("canceled"), json!(""), Value::Null] {
        let reply = world.put_with(&job, json!({ "state": state }));
        assert_eq!((reply.status(), reply.text()), (400, "400"));
    }
    assert_eq!(world.put_with(&job, json!({})).status(), 400);
    assert_eq!(world.status(job.id), JobStatus::Running);
}

/// Parameters of the wrong type are refused before anything happens, those inside `output` too;
/// `info` and unknown ones are ignored.
#[test]
fn parameters_are_validated() {
    let mut world = World::new();
    let job = world.running();
    for bad in [
        json!({ "state": "success", "output": "x" }),
        json!({ "state": "success", "output": { "bytesize": "many" } }),
        json!({ "state": "success", "output": { "checksum": [] } }),
        json!({ "state": { "a": 1 } }),
        json!({ "state": "failed", "failure_reason": [] }),
    ] {
        let reply = world.put_with(&job, bad.clone());
        assert_eq!(reply.status(), 400, "{bad}");
        assert!(reply.body()["error"].is_string());
    }
    let reply = world.put_with(
        &job,
        json!({ "state": "success", "info": { "features": {} }, "novelty": [] }),
    );
    assert_eq!(reply.status(), 200);
}

/// After the final update everything is 403 with the status: the job is finished.
#[test]
fn after_the_final_update_all_is_403() {
    let mut world = World::new();
    let job = world.running();
    assert_eq!(world.put(&job, "success").status(), 200);
    let reason = Some("Job is not processing on runner");
    for state in ["success", "failed", "running"] {
        world
            .put(&job, state)
            .assert_forbidden(reason, Some("success"));
    }
    world
        .patch(&job, 0, "x")
        .assert_forbidden(reason, Some("success"));
    assert_eq!(world.status(job.id), JobStatus::Success);
    assert_eq!(world.report(job.id).duplicate_finals(), 2);
}

/// Older servers tell the status on 403 only.
#[test]
fn an_older_server_tells_no_status() {
    let mut world = World::new();
    world.gitlab.settings_mut().job_status_on_update = false;
    let job = world.running();
    assert_eq!(world.put(&job, "running").job_status(), None);
    assert_eq!(world.patch(&job, 0, "x").job_status(), Some("running"));
    assert_eq!(world.put(&job, "success").job_status(), None);
    assert_eq!(world.put(&job, "success").job_status(), Some("success"));
}

/// Without incremental logging a checksum delays nothing, and a wrong one hurts nobody.
#[test]
fn a_checksum_alone_does_not_delay() {
    let mut world = World::new();
    let job = world.running();
    world.patch(&job, 0, "hello\n");
    let wrong = json!({ "checksum": "crc32:00000000", "bytesize": 7 });
    let reply = world.put_with(&job, json!({ "state": "success", "output": wrong }));
    assert_eq!(reply.status(), 200);
    let report = world.report(job.id);
    assert_eq!(report.status, JobStatus::Success);
    assert_eq!(report.checksum_matches(), Some(false));
    assert_eq!(report.bytesize_matches(), Some(false));
}

/// A final update with a checksum is 202 with an interval until the log is persisted, then 200.
#[test]
fn a_final_update_waits_until_the_log_is_persisted() {
    let (mut world, job) = incremental(Duration::from_secs(2));
    for _ in 0..2 {
        let reply = world.put_with(&job, done("success"));
        assert_eq!((reply.status(), reply.text()), (202, "202"));
        assert_eq!(reply.interval(), Some("1"));
        assert_eq!(reply.job_status(), Some("running"));
        assert_eq!(world.status(job.id), JobStatus::Running);
        world.wait(1);
    }
    let reply = world.put_with(&job, done("success"));
    assert_eq!(reply.status(), 200);
    assert_eq!(reply.interval(), None);
    assert_eq!(reply.job_status(), Some("success"));
    let report = world.report(job.id);
    assert_eq!(report.checksum_matches(), Some(true));
    assert_eq!(report.bytesize_matches(), Some(true));
    assert_eq!(report.final_updates, 3);
}

/// Without a checksum nobody waits, and a keep-alive never does.
#[test]
fn without_checksum_nothing_waits() {
    let (mut world, job) = incremental(Duration::MAX);
    let mut alive = done("running");
    assert_eq!(world.put_with(&job, alive.clone()).status(), 200);
    alive["state"] = "success".into();
    alive["output"] = json!({ "checksum": "", "bytesize": 6 });
    assert_eq!(world.put_with(&job, alive).status(), 200);
}

/// The deprecated `checksum` does the same as that inside `output`, which wins over it.
#[test]
fn the_old_checksum_counts_as_well() {
    let (mut world, job) = incremental(Duration::from_secs(1));
    let reply = world.put_with(&job, json!({ "state": "success", "checksum": "crc32:1" }));
    assert_eq!(reply.status(), 202);
    let reported = world.report(job.id).reported_checksum.as_deref();
    assert_eq!(reported, Some("crc32:1"));

    let (mut world, job) = incremental(Duration::from_secs(1));
    let mut both = done("success");
    both["checksum"] = "crc32:1".into();
    world.put_with(&job, both);
    assert_eq!(world.report(job.id).checksum_matches(), Some(true));
}

/// The interval doubles with the age of the first final update: 1, 1, 2, 4, 8, 16, 32, 64 s.
#[test]
fn the_interval_grows_with_the_age() {
    let (mut world, job) = incremental(Duration::MAX);
    let start = world.now;
    for (age, interval) in [
        (0, "1"),
        (1, "1"),
        (3, "1"),
        (4, "2"),
        (7, "2"),
        (8, "4"),
        (15, "4"),
        (16, "8"),
        (32, "16"),
        (63, "16"),
        (64, "32"),
        (127, "32"),
        (128, "64"),
        (300, "64"),
    ] {
        world.now = start + Duration::from_secs(age);
        let reply = world.put_with(&job, done("success"));
        assert_eq!(reply.status(), 202, "after {age} s");
        assert_eq!(reply.interval(), Some(interval), "after {age} s");
    }
}

/// After more than five minutes the update is applied, persisted log or not.
#[test]
fn after_five_minutes_the_update_is_applied() {
    let (mut world, job) = incremental(Duration::MAX);
    assert_eq!(world.put_with(&job, done("failed")).status(), 202);
    world.wait(300);
    assert_eq!(world.put_with(&job, done("failed")).status(), 202);
    world.wait(1);
    let reply = world.put_with(&job, done("failed"));
    assert_eq!(reply.status(), 200);
    assert_eq!(world.status(job.id), JobStatus::Failed);
}

/// A busy log lock is 202 as well.
#[test]
fn a_locked_log_delays_the_final_update() {
    let (mut world, job) = incremental(Duration::ZERO);
    assert_eq!(world.put_with(&job, done("success")).status(), 202);
    world.gitlab.lock_trace(job.id, 1);
    assert_eq!(world.put_with(&job, done("success")).status(), 202);
    assert_eq!(world.put_with(&job, done("success")).status(), 200);
}

/// A log without a single byte has nothing to be persisted.
#[test]
fn an_empty_log_delays_nothing() {
    let mut world = World::new();
    world.gitlab.settings_mut().incremental_logging = true;
    let job = world.running();
    let empty = json!({ "checksum": "crc32:00000000", "bytesize": 0 });
    let reply = world.put_with(&job, json!({ "state": "success", "output": empty }));
    assert_eq!(reply.status(), 200);
    assert_eq!(world.report(job.id).checksum_matches(), Some(true));
}

/// A checksum or a size that is not that of the persisted log is noted, and the job ends all the
/// same.
#[test]
fn a_wrong_checksum_is_ignored() {
    let (mut world, job) = incremental(Duration::from_secs(1));
    let output = json!({ "checksum": "crc32:00000000", "bytesize": 5 });
    let wrong = json!({ "state": "success", "output": output });
    assert_eq!(world.put_with(&job, wrong.clone()).status(), 202);
    world.wait(1);
    assert_eq!(world.put_with(&job, wrong).status(), 200);
    let report = world.report(job.id);
    assert_eq!(report.status, JobStatus::Success);
    assert_eq!(report.checksum_matches(), Some(false));
    assert_eq!(report.bytesize_matches(), Some(false));
}

/// The first values are kept: a repeat with other ones is applied with the new state, and
/// compared with the old checksum.
#[test]
fn the_first_checksum_is_kept() {
    let (mut world, job) = incremental(Duration::from_secs(1));
    assert_eq!(world.put_with(&job, done("success")).status(), 202);
    world.wait(1);
    let other = json!({ "state": "failed", "output": { "checksum": "crc32:2", "bytesize": 9 } });
    assert_eq!(world.put_with(&job, other).status(), 200);
    let report = world.report(job.id);
    assert_eq!(report.status, JobStatus::Failed);
    assert_eq!(report.checksum_matches(), Some(true));
    assert_eq!(report.reported_bytesize, Some(6));
}

/// Patches are still taken while the final update waits; what they add is to be persisted anew.
#[test]
fn a_patch_while_waiting_is_taken() {
    let (mut world, job) = incremental(Duration::from_secs(2));
    assert_eq!(world.put_with(&job, done("success")).status(), 202);
    world.wait(2);
    assert_eq!(world.patch(&job, 6, "more\n").status(), 202);
    assert_eq!(world.put_with(&job, done("success")).status(), 202);
    world.wait(2);
    assert_eq!(world.put_with(&job, done("success")).status(), 200);
    assert_eq!(world.report(job.id).log, b"hello\nmore\n");
}

/// An odd state together with a checksum is the server's own error.
#[test]
fn an_odd_state_with_a_checksum_is_500() {
    let (mut world, job) = incremental(Duration::ZERO);
    let reply: Reply = world.put_with(&job, done("odd"));
    assert_eq!(reply.status(), 500);
    assert_eq!(world.status(job.id), JobStatus::Running);
}

/// The route is PUT: there is nothing to be had by other methods.
#[test]
fn an_update_is_a_put() {
    let mut world = World::new();
    let job = world.running();
    let body = json!({ "token": job.token, "state": "success" });
    let reply = world.json(Method::POST, &format!("jobs/{}", job.id), &body);
    assert_eq!(reply.status(), 404);
    assert_eq!(world.status(job.id), JobStatus::Running);
}
