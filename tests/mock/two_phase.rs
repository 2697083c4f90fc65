//! Two-phase commit, as one line of servers has had it: a job that was handed out stays pending
//! until its runner commits to it.

use std::time::Duration;

use gitlab_runner::mock::{JobStatus, Server};
use serde_json::json;

use crate::world::{Running, World, job};

const FEATURE: &str = "two_phase_job_commit";

fn parked() -> (World, Running) {
    let mut world = World::new();
    world.gitlab.settings_mut().two_phase_commit = true;
    let job = world.start_with(job(), &[FEATURE]);
    (world, job)
}

/// After the 201 the job is still pending, and nobody else gets it.
#[test]
fn a_job_handed_out_is_parked() {
    let (mut world, job) = parked();
    let report = world.report(job.id);
    assert_eq!(report.status, JobStatus::Pending);
    assert_eq!(report.started_at, None);
    assert_eq!(world.ask_with(&[FEATURE]).status(), 204);
    assert_eq!(world.ask_plainly().status(), 204);
}

/// It takes the runner's feature and the server's setting; else the job runs at once.
#[test]
fn without_the_feature_the_job_runs_at_once() {
    for (setting, features) in [(true, &[][..]), (false, &[FEATURE][..])] {
        let mut world = World::new();
        world.gitlab.settings_mut().two_phase_commit = setting;
        let job = world.start_with(job(), features);
        assert_eq!(world.status(job.id), JobStatus::Running);
    }
}

/// `running` commits: 200, and the clock of the job starts now. After that it is a keep-alive.
#[test]
fn running_commits() {
    let (mut world, job) = parked();
    world.wait(30);
    let reply = world.put(&job, "running");
    assert_eq!(reply.status(), 200);
    assert_eq!(reply.job_status(), Some("running"));
    let report = world.report(job.id);
    assert_eq!(report.started_at, Some(world.now));
    assert_eq!(report.runner, Some(world.runner));
    assert_eq!(world.put(&job, "running").status(), 200);
    assert_eq!(world.put(&job, "success").status(), 200);
    assert_eq!(world.gitlab.poll_timeout(), None);
}

/// `pending` keeps the job parked for another two minutes; for a running job it is 400.
#[test]
fn pending_renews() {
    let (mut world, job) = parked();
    for _ in 0..3 {
        world.wait(119);
        let reply = world.put(&job, "pending");
        assert_eq!(reply.status(), 200);
        assert_eq!(reply.job_status(), Some("pending"));
    }
    assert_eq!(world.put(&job, "running").status(), 200);
    assert_eq!(world.put(&job, "pending").status(), 400);
}

/// `pending` of a job whose manager is known already is a conflict, and does not keep it parked.
/// The commit itself works.
#[test]
fn pending_with_a_manager_is_a_conflict() {
    let (mut world, job) = parked();
    let until = world.now + Duration::from_secs(120);
    world.gitlab.assign_manager(job.id);
    world.wait(60);
    assert_eq!(world.put(&job, "pending").status(), 409);
    assert_eq!(world.status(job.id), JobStatus::Pending);
    assert_eq!(world.gitlab.poll_timeout(), Some(until));
    assert_eq!(world.put(&job, "running").status(), 200);
    assert_eq!(world.put(&job, "success").status(), 200);
}

/// Anything else is 400 before the commit, final states included.
#[test]
fn a_final_state_before_the_commit_is_400() {
    let (mut world, job) = parked();
    for state in ["success", "failed", "odd"] {
        assert_eq!(world.put(&job, state).status(), 400);
    }
    let checked = json!({ "state": "success", "checksum": "crc32:00000000" });
    assert_eq!(world.put_with(&job, checked).status(), 400);
    assert_eq!(world.status(job.id), JobStatus::Pending);
    assert_eq!(world.put(&job, "running").status(), 200);
    assert_eq!(world.put(&job, "failed").status(), 200);
}

/// Committing is 400 when the manager is gone.
#[test]
fn a_commit_without_a_manager_is_400() {
    let (mut world, job) = parked();
    world.gitlab.forget_managers(world.runner);
    assert_eq!(world.put(&job, "running").status(), 400);
    assert_eq!(world.status(job.id), JobStatus::Pending);
}

/// After two minutes without a word the server takes the job back and fails it.
#[test]
fn an_uncommitted_job_is_taken_back() {
    let (mut world, job) = parked();
    let until = world.now + Duration::from_secs(120);
    assert_eq!(world.gitlab.poll_timeout(), Some(until));
    world.wait(119);
    assert_eq!(world.status(job.id), JobStatus::Pending);
    // Noticed late, but recorded for when it happened.
    world.wait(100);
    let report = world.report(job.id);
    assert_eq!(report.status, JobStatus::Failed);
    assert_eq!(report.finished_at, Some(until));
    let reason = report.failure_reason.as_deref();
    assert_eq!(reason, Some("runner_provisioning_timeout"));
    let reason = Some("Job is not processing on runner");
    world
        .put(&job, "running")
        .assert_forbidden(reason, Some("failed"));
}

/// The token of a parked job works for patches, too.
#[test]
fn a_parked_job_takes_patches() {
    let (mut world, job) = parked();
    let reply = world.patch(&job, 0, "x");
    assert_eq!(reply.status(), 202);
    assert_eq!(reply.job_status(), Some("pending"));
}

/// A job that is cancelled before the commit is found out by it: 403 with the status.
#[test]
fn a_cancelled_job_cannot_be_committed_to() {
    let (mut world, job) = parked();
    assert_eq!(world.gitlab.cancel(job.id), Some(JobStatus::Canceled));
    let reason = Some("Job is not processing on runner");
    world
        .put(&job, "running")
        .assert_forbidden(reason, Some("canceled"));
    assert_eq!(world.gitlab.poll_timeout(), None);
}
