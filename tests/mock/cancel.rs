//! Cancelling, by users and by the server itself: timeouts and jobs that nobody cares for.

use std::time::Duration;

use gitlab_runner::{
    JobId,
    mock::{JobStatus, Server},
};
use serde_json::json;

use crate::world::{Running, SYSTEM_ID, TOKEN, World, job};

const NOT_RUNNING: Option<&str> = Some("Job is not processing on runner");

/// A manager with `cancel_gracefully`: the job is to be canceled, and all its routes go on working
/// and tell so.
#[test]
fn a_graceful_cancel_shows_in_answers() {
    let mut world = World::new();
    let job = world.running_gracefully();
    assert_eq!(world.gitlab.cancel(job.id), Some(JobStatus::Canceling));
    let reply = world.patch(&job, 0, "bye");
    assert_eq!(reply.status(), 202);
    assert_eq!(reply.job_status(), Some("canceling"));
    let reply = world.put(&job, "running");
    assert_eq!(reply.status(), 200);
    assert_eq!(reply.job_status(), Some("canceling"));
    assert_eq!(world.status(job.id), JobStatus::Canceling);
}

/// Either final state makes it canceled: 200, and the reason and exit code do not count.
#[test]
fn a_final_update_ends_a_graceful_cancel() {
    for state in ["success", "failed"] {
        let mut world = World::new();
        let job = world.running_gracefully();
        world.gitlab.cancel(job.id);
        let reply = world.put_with(
            &job,
            json!({ "state": state, "failure_reason": "script_failure", "exit_code": 1 }),
        );
        assert_eq!(reply.status(), 200);
        assert_eq!(reply.job_status(), Some("canceled"));
        let report = world.report(job.id);
        assert_eq!(report.status, JobStatus::Canceled);
        assert_eq!(report.failure_reason, None);
        assert_eq!(report.exit_code, None);
        world
            .put(&job, state)
            .assert_forbidden(NOT_RUNNING, Some("canceled"));
    }
}

/// With a checksum the final update of a canceling job waits as any other.
#[test]
fn a_graceful_cancel_waits_for_the_log_too() {
    let mut world = World::new();
    world.gitlab.settings_mut().incremental_logging = true;
    let job = world.running_gracefully();
    world.patch(&job, 0, "bye");
    world.gitlab.cancel(job.id);
    let done = json!({ "state": "failed", "checksum": "crc32:0" });
    let reply = world.put_with(&job, done.clone());
    assert_eq!(
        (reply.status(), reply.job_status()),
        (202, Some("canceling"))
    );
    world.wait(1);
    let reply = world.put_with(&job, done);
    assert_eq!(
        (reply.status(), reply.job_status()),
        (200, Some("canceled"))
    );
}

/// A manager without the feature: the job is canceled at once, and its requests are 403 with the
/// status.
#[test]
fn a_hard_cancel_is_403() {
    let mut world = World::new();
    let job = world.running();
    assert_eq!(world.gitlab.cancel(job.id), Some(JobStatus::Canceled));
    let reply = world.patch(&job, 0, "x");
    reply.assert_forbidden(NOT_RUNNING, Some("canceled"));
    let reply = world.put(&job, "running");
    reply.assert_forbidden(NOT_RUNNING, Some("canceled"));
    assert_eq!(world.report(job.id).log, b"");
}

/// What counts is what was stored of the manager, not what it sends with the job request.
#[test]
fn the_stored_feature_decides() {
    let mut world = World::new();
    world.verify(&json!({ "token": TOKEN, "system_id": SYSTEM_ID }));
    let job = world.running_gracefully();
    assert_eq!(world.gitlab.cancel(job.id), Some(JobStatus::Canceled));
}

/// A forced cancel ends a job that is canceling, and any other that is not finished.
#[test]
fn a_forced_cancel_is_403() {
    let mut world = World::new();
    let job = world.running_gracefully();
    world.gitlab.cancel(job.id);
    // Cancelling again changes nothing.
    assert_eq!(world.gitlab.cancel(job.id), Some(JobStatus::Canceling));
    assert_eq!(world.gitlab.force_cancel(job.id), Some(JobStatus::Canceled));
    let reply = world.patch(&job, 0, "x");
    reply.assert_forbidden(NOT_RUNNING, Some("canceled"));
    let job = world.running_gracefully();
    assert_eq!(world.gitlab.force_cancel(job.id), Some(JobStatus::Canceled));
}

/// A job that nobody has yet is canceled and never handed out; a finished one stays as it is.
#[test]
fn jobs_that_do_not_run_can_be_cancelled() {
    let mut world = World::new();
    let id = world.gitlab.enqueue(job());
    assert_eq!(world.gitlab.cancel(id), Some(JobStatus::Canceled));
    assert_eq!(world.ask_plainly().status(), 204);
    let job = world.running();
    world.put(&job, "success");
    assert_eq!(world.gitlab.cancel(job.id), Some(JobStatus::Success));
    assert_eq!(world.gitlab.force_cancel(job.id), Some(JobStatus::Success));
    assert_eq!(world.gitlab.cancel(JobId(1)), None);
}

/// A job that the server fails by itself is 403 with `failed`.
#[test]
fn a_job_dropped_by_the_server_is_403() {
    let mut world = World::new();
    let job = world.running();
    let status = world.gitlab.drop_job(job.id, "stuck_or_timeout_failure");
    assert_eq!(status, Some(JobStatus::Failed));
    let reply = world.put(&job, "success");
    reply.assert_forbidden(NOT_RUNNING, Some("failed"));
    let reason = world.report(job.id).failure_reason.as_deref();
    assert_eq!(reason, Some("stuck_or_timeout_failure"));
}

fn assert_dropped(world: &World, job: &Running, status: JobStatus, reason: &str, after: u64) {
    let report = world.report(job.id);
    assert_eq!(report.status, status);
    assert_eq!(report.failure_reason.as_deref(), Some(reason));
    let took = report
        .finished_at
        .unwrap()
        .since(report.started_at.unwrap());
    assert_eq!(took, Duration::from_secs(after));
}

/// By default the server leaves jobs alone, however long they are silent.
#[test]
fn nothing_is_swept_by_default() {
    let mut world = World::new();
    let job = world.running();
    let waiting = world.gitlab.enqueue(crate::world::job());
    world.wait(1_000_000);
    assert_eq!(world.gitlab.poll_timeout(), None);
    assert_eq!(world.status(job.id), JobStatus::Running);
    assert_eq!(world.status(waiting), JobStatus::Pending);
}

/// A job of which nothing was heard for too long is failed; patches and updates both count, and
/// what is refused does not.
#[test]
fn a_silent_job_is_failed() {
    let mut world = World::new();
    world.gitlab.settings_mut().no_updates_timeout = Some(Duration::from_secs(3600));
    let job = world.running();
    for _ in 0..2 {
        world.wait(3599);
        assert_eq!(world.put(&job, "running").status(), 200);
        world.wait(3599);
        assert_eq!(world.patch(&job, 0, "").status(), 202);
    }
    let impostor = Running {
        token: "wrong".into(),
        ..job.clone()
    };
    world.wait(1800);
    assert_eq!(world.put(&impostor, "running").status(), 403);
    let end = world.now + Duration::from_secs(1800);
    assert_eq!(world.gitlab.poll_timeout(), Some(end));
    world.wait(1800);
    assert_dropped(
        &world,
        &job,
        JobStatus::Failed,
        "no_updates_running",
        4 * 3599 + 3600,
    );
    let reply = world.patch(&job, 0, "x");
    reply.assert_forbidden(NOT_RUNNING, Some("failed"));
    assert_eq!(world.gitlab.poll_timeout(), None);
}

/// A canceling job that nobody finishes is closed as canceled.
#[test]
fn a_silent_canceling_job_is_closed() {
    let mut world = World::new();
    world.gitlab.settings_mut().no_updates_timeout = Some(Duration::from_secs(3600));
    let job = world.running_gracefully();
    world.gitlab.cancel(job.id);
    world.wait(10_000);
    assert_dropped(
        &world,
        &job,
        JobStatus::Canceled,
        "no_updates_canceling",
        3600,
    );
    let reply = world.put(&job, "success");
    reply.assert_forbidden(NOT_RUNNING, Some("canceled"));
}

/// A job that runs for longer than its timeout allows is failed, however lively it is.
#[test]
fn a_job_that_runs_too_long_is_failed() {
    for cancel in [false, true] {
        let mut world = World::new();
        world.gitlab.settings_mut().server_timeout_grace = Some(Duration::from_secs(60));
        let job = world.start_with(job().timeout(600), &["cancel_gracefully"]);
        let (status, reason) = if cancel {
            world.gitlab.cancel(job.id);
            (JobStatus::Canceled, "server_timeout_canceling")
        } else {
            (JobStatus::Failed, "server_timeout_running")
        };
        world.wait(659);
        assert_eq!(world.put(&job, "running").status(), 200);
        world.wait(1);
        assert_dropped(&world, &job, status, reason, 660);
    }
}

/// A job that nobody asks for is failed, and the reason tells whether anybody could have.
#[test]
fn a_job_that_nobody_asks_for_is_failed() {
    for (paused, reason) in [
        (false, "stuck_pending_with_matching_runners"),
        (true, "stuck_pending_no_matching_runners"),
    ] {
        let mut world = World::new();
        world.gitlab.settings_mut().pending_timeout = Some(Duration::from_secs(3600));
        world.gitlab.set_paused(world.runner, paused);
        world.wait(0);
        let id = world.gitlab.enqueue(job());
        world.wait(3599);
        assert_eq!(world.status(id), JobStatus::Pending);
        world.wait(1);
        let report = world.report(id);
        assert_eq!(report.status, JobStatus::Failed);
        assert_eq!(report.failure_reason.as_deref(), Some(reason));
        assert_eq!(world.ask_plainly().status(), 204);
    }
}
