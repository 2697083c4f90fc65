//! Who may update a job: the job token, where it may be, and in which order it is refused.

use bytes::Bytes;
use gitlab_runner::{JobId, mock::JobStatus};
use http::{Method, Request};
use serde_json::json;

use crate::world::{Reply, Running, World, job, json_request};

/// The same refusal on both routes of a job.
fn assert_both(world: &mut World, job: &Running, reason: Option<&str>, job_status: Option<&str>) {
    world
        .put(job, "running")
        .assert_forbidden(reason, job_status);
    world
        .patch(job, 0, "x")
        .assert_forbidden(reason, job_status);
}

/// A job that does not exist is 403 without a status, and never 404.
#[test]
fn an_unknown_job_is_403() {
    let mut world = World::new();
    let mut job = world.running();
    job.id = JobId(999_999);
    assert_both(&mut world, &job, None, None);
}

/// A token that matches no job is 403 without a status.
#[test]
fn an_unknown_token_is_403() {
    let mut world = World::new();
    let mut job = world.running();
    job.token = "glcbt-64_unknown".into();
    assert_both(&mut world, &job, None, None);
    job.token = String::new();
    assert_both(&mut world, &job, None, None);
}

/// A job that is not running is 403 with a reason and with its real status.
#[test]
fn a_job_that_is_not_running_is_403_with_its_status() {
    let reason = Some("Job is not processing on runner");
    for state in ["success", "failed"] {
        let mut world = World::new();
        let job = world.running();
        assert_eq!(world.put(&job, state).status(), 200);
        assert_both(&mut world, &job, reason, Some(state));
    }
    let mut world = World::new();
    let job = world.running();
    world.gitlab.cancel(job.id);
    assert_both(&mut world, &job, reason, Some("canceled"));
}

/// So is a job that waits for a runner still.
#[test]
fn a_pending_job_is_403_with_its_status() {
    let mut world = World::new();
    let id = world.gitlab.enqueue(job());
    let token = world.gitlab.job_token(id).unwrap().expose().to_owned();
    let reason = Some("Job is not processing on runner");
    assert_both(&mut world, &Running { id, token }, reason, Some("pending"));
}

/// An erased job is 403 with a reason, without a status. Its log is gone.
#[test]
fn an_erased_job_is_403_without_status() {
    let mut world = World::new();
    let job = world.running();
    world.patch(&job, 0, "hello");
    world.gitlab.erase(job.id);
    assert_both(&mut world, &job, Some("Job has been erased!"), None);
    assert_eq!(world.report(job.id).log, b"");
}

/// A deleted project is 403 with a reason, without a status.
#[test]
fn a_deleted_project_is_403_without_status() {
    let mut world = World::new();
    let job = world.running();
    world.gitlab.delete_project(job.id);
    assert_both(&mut world, &job, Some("Project has been deleted!"), None);
}

/// The token of another running job is 403 without reason and status.
#[test]
fn the_token_of_another_job_is_403() {
    let mut world = World::new();
    let first = world.running();
    let second = world.running();
    let mixed = Running {
        id: first.id,
        token: second.token,
    };
    assert_both(&mut world, &mixed, None, None);
    assert_eq!(world.report(first.id).log, b"");
}

/// Reason and status are those of the job that the token belongs to, not of that in the path.
#[test]
fn the_refusal_describes_the_job_of_the_token() {
    let mut world = World::new();
    let running = world.running();
    let finished = world.running();
    world.put(&finished, "failed");
    let mixed = Running {
        id: running.id,
        token: finished.token,
    };
    let reason = Some("Job is not processing on runner");
    assert_both(&mut world, &mixed, reason, Some("failed"));
    assert_eq!(world.status(running.id), JobStatus::Running);
}

/// A job token that has expired is 403 with a reason and a status, and the request fails the job.
#[test]
fn an_expired_token_fails_the_job() {
    for patch in [false, true] {
        let mut world = World::new();
        world.gitlab.settings_mut().jwt_job_tokens = true;
        let job = world.running();
        world.gitlab.expire_token(job.id);
        assert_eq!(world.status(job.id), JobStatus::Running);
        let reply = if patch {
            world.patch(&job, 0, "x")
        } else {
            world.put(&job, "success")
        };
        reply.assert_forbidden(Some("Job token has expired"), Some("failed"));
        let report = world.report(job.id);
        assert_eq!(report.status, JobStatus::Failed);
        assert_eq!(report.failure_reason.as_deref(), Some("job_token_expired"));
        assert_eq!(report.log, b"");
    }
}

/// Job tokens have a prefix, or are long and of three parts with dots between.
#[test]
fn job_tokens_come_in_two_shapes() {
    let mut world = World::new();
    let first = world.running();
    assert!(first.token.starts_with("glcbt-"));
    let second = world.running();
    assert_ne!(first.token, second.token);
    world.gitlab.settings_mut().jwt_job_tokens = true;
    let job = world.running();
    assert_eq!(job.token.split('.').count(), 3);
    assert!(job.token.len() > 1024);
    assert_eq!(world.put(&job, "running").status(), 200);
    assert_eq!(world.patch(&job, 0, "x").status(), 202);
}

/// An update wants the token as a parameter: with the header alone it is 400.
#[test]
fn an_update_wants_the_token_as_parameter() {
    let mut world = World::new();
    let job = world.running();
    let path = format!("jobs/{}", job.id);
    let with_header = |query: &str| {
        let mut request = json_request(
            Method::PUT,
            &format!("{path}{query}"),
            &json!({ "state": "running" }),
        );
        request
            .headers_mut()
            .insert("JOB-TOKEN", job.token.parse().unwrap());
        request
    };
    let reply = world.send(with_header(""));
    assert_eq!(reply.status(), 400);
    assert_eq!(reply.body(), json!({ "error": "token is missing" }));
    let reply = world.send(with_header(&format!("?token={}", job.token)));
    assert_eq!(reply.status(), 200);
    let form = Request::put(format!("/api/v4/{path}"))
        .header("Content-Type", "application/x-www-form-urlencoded")
        .body(format!("token={}&state=running", job.token).into())
        .unwrap();
    assert_eq!(world.send(form).status(), 200);
}

/// A patch takes the token from the header or from the query; of both, the query counts.
#[test]
fn a_patch_takes_header_or_query_and_the_query_wins() {
    let mut world = World::new();
    let job = world.running();
    let mut patch = |start: usize, header: Option<&str>, query: &str| -> Reply {
        let mut request = Request::patch(format!("/api/v4/jobs/{}/trace{query}", job.id))
            .header("Content-Type", "text/plain")
            .header("Content-Range", format!("{start}-{start}"));
        if let Some(token) = header {
            request = request.header("job-token", token);
        }
        world.send(request.body(Bytes::from_static(b"x")).unwrap())
    };
    let good = format!("?token={}", job.token);
    assert_eq!(patch(0, Some(&job.token), "").status(), 202);
    assert_eq!(patch(1, None, &good).status(), 202);
    assert_eq!(patch(2, Some("wrong"), &good).status(), 202);
    assert_eq!(patch(3, Some(&job.token), "?token=wrong").status(), 403);
    assert_eq!(patch(3, None, "").status(), 403);
}

/// An id that is no number is 400; a number that is no job's is 403.
#[test]
fn an_id_is_a_number() {
    let mut world = World::new();
    let job = world.running();
    for (id, status) in [
        ("abc", 400),
        ("4001x", 400),
        ("-1", 403),
        ("99999999999999999999", 403),
    ] {
        let body = json!({ "token": job.token, "state": "running" });
        let reply = world.json(Method::PUT, &format!("jobs/{id}"), &body);
        assert_eq!(reply.status(), status, "{id}");
    }
}

/// The back-off comes before validation, validation before the rate limit, the rate limit before
/// the token is looked at, and the token before everything else.
#[test]
fn the_order_of_refusals() {
    let mut world = World::new();
    let job = world.running();
    let path = format!("jobs/{}", job.id);
    world.gitlab.settings_mut().update_limit = 1;
    world.gitlab.settings_mut().migration_backoff = true;
    let mut put = |body: serde_json::Value, migration: bool| {
        world.gitlab.settings_mut().migration_backoff = migration;
        world.json(Method::PUT, &path, &body).status()
    };
    assert_eq!(put(json!({}), true), 429);
    assert_eq!(put(json!({}), false), 400);
    let wrong = json!({ "token": "wrong", "state": "odd" });
    assert_eq!(put(wrong.clone(), false), 403);
    assert_eq!(put(wrong, false), 429);
    let right = json!({ "token": job.token, "state": "odd" });
    assert_eq!(put(right, false), 400);
}
