//! Asking for a job: what the server itself answers.

use gitlab_runner::mock::{ArtifactSpec, JobStatus};
use http::{Method, Request};
use serde_json::json;

use crate::world::{SYSTEM_ID, TOKEN, World, asking_with, job, json_request};

/// A job is assigned: 201 with the payload as JSON, without a queue value. The job runs.
#[test]
fn an_assigned_job_is_201_without_queue_value() {
    let mut world = World::new();
    let job = world.gitlab.enqueue(job());
    let reply = world.ask_plainly();
    assert_eq!(reply.status(), 201);
    assert_eq!(reply.header("Content-Type"), Some("application/json"));
    assert_eq!(reply.last_update(), None);
    assert_eq!(reply.body()["id"], job.0);
    let report = world.report(job);
    assert_eq!(report.status, JobStatus::Running);
    assert_eq!(report.started_at, Some(world.now));
    assert_eq!(report.runner, Some(world.runner));
    assert_eq!(report.system_id.as_deref(), Some(SYSTEM_ID));
}

/// Nothing suitable: 204, no body, and the queue value.
#[test]
fn nothing_to_do_is_204_with_the_queue_value() {
    let mut world = World::new();
    let reply = world.ask_plainly();
    assert_eq!(reply.status(), 204);
    assert_eq!(reply.text(), "");
    let value = reply.last_update().unwrap();
    assert_eq!(value.len(), 32);
    assert!(value.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert_eq!(value, world.queue_value());
}

/// An equal `last_update` is 204 with the same value: the queue is not looked at, even though a
/// job waits in it, until the value changes.
#[test]
fn a_current_last_update_is_204_although_a_job_waits() {
    let mut world = World::new();
    world.gitlab.enqueue(job());
    let value = world.queue_value();
    let asking = json!({ "token": TOKEN, "last_update": value });
    let reply = world.ask(&asking);
    assert_eq!(reply.status(), 204);
    assert_eq!(reply.last_update(), Some(value.as_str()));
    world.gitlab.bump_queue(world.runner);
    assert_eq!(world.ask(&asking).status(), 201);
}

/// An empty `last_update` counts as none.
#[test]
fn an_empty_last_update_is_none() {
    let mut world = World::new();
    world.gitlab.enqueue(job());
    let reply = world.ask(&json!({ "token": TOKEN, "last_update": "" }));
    assert_eq!(reply.status(), 201);
}

/// The queue value changes when a job is queued, for every runner, and with nothing else that
/// happens to a job.
#[test]
fn the_queue_value_changes_with_a_queued_job_only() {
    let mut world = World::new();
    let other = world.gitlab.add_runner("glrt-other");
    let values = |world: &World| {
        let other = world.gitlab.last_update(other).unwrap().to_owned();
        [world.queue_value(), other]
    };
    let before = values(&world);
    let first = world.gitlab.enqueue(job());
    let after = values(&world);
    assert_ne!(before[0], after[0]);
    assert_ne!(before[1], after[1]);
    assert_eq!(world.ask_plainly().status(), 201);
    world.gitlab.cancel(first);
    assert_eq!(values(&world), after);
}

/// A conflict is 409 without a queue value; the same request gets the job later.
#[test]
fn a_conflict_is_409_without_queue_value() {
    let mut world = World::new();
    let job = world.gitlab.enqueue(job());
    world.gitlab.conflict(1);
    let reply = world.ask_plainly();
    assert_eq!(reply.status(), 409);
    assert_eq!(reply.body(), json!({ "message": "409 Conflict" }));
    assert_eq!(reply.last_update(), None);
    assert_eq!(world.status(job), JobStatus::Pending);
    assert_eq!(world.ask_plainly().status(), 201);
}

/// A paused runner gets 204 with the queue value, although a job waits.
#[test]
fn a_paused_runner_gets_204_with_the_queue_value() {
    let mut world = World::new();
    world.gitlab.enqueue(job());
    world.gitlab.set_paused(world.runner, true);
    let reply = world.ask_plainly();
    assert_eq!(reply.status(), 204);
    assert_eq!(reply.last_update(), Some(world.queue_value().as_str()));
    world.gitlab.set_paused(world.runner, false);
    assert_eq!(world.ask_plainly().status(), 201);
}

/// An unknown token is 403, without a reason and without a queue value.
#[test]
fn an_unknown_token_is_403() {
    let mut world = World::new();
    let reply = world.ask(&json!({ "token": "glrt-unknown" }));
    reply.assert_forbidden(None, None);
    assert_eq!(reply.last_update(), None);
}

/// A missing token is 400, and so is a parameter of the wrong type; all problems are told.
#[test]
fn bad_parameters_are_400() {
    let mut world = World::new();
    let reply = world.ask(&json!({}));
    assert_eq!(reply.status(), 400);
    assert_eq!(reply.body(), json!({ "error": "token is missing" }));
    let reply = world.ask(&json!({ "info": [], "last_update": {} }));
    assert_eq!(reply.status(), 400);
    let text = reply.text().to_owned();
    for problem in [
        "token is missing",
        "info is invalid",
        "last_update is invalid",
    ] {
        assert!(text.contains(problem), "{text}");
    }
}

/// A parameter that the server does not know is dropped without a word.
#[test]
fn unknown_parameters_are_dropped() {
    let mut world = World::new();
    world.gitlab.enqueue(job());
    let mut asking = asking_with(&[]);
    asking["job_age"] = 3.into();
    asking["info"]["novelty"] = json!({ "deep": [1] });
    assert_eq!(world.ask(&asking).status(), 201);
}

/// The token counts as a parameter only: a form body or the query will do, the header will not.
#[test]
fn the_runner_token_is_a_parameter() {
    let mut world = World::new();
    let form = Request::post("/api/v4/jobs/request")
        .header("Content-Type", "application/x-www-form-urlencoded")
        .body("token=glrt-example&info[features][refspecs]=true".into())
        .unwrap();
    assert_eq!(world.send(form).status(), 204);
    let query = json_request(
        Method::POST,
        "jobs/request?token=glrt%2Dexample",
        &json!({}),
    );
    assert_eq!(world.send(query).status(), 204);
    let mut header = json_request(Method::POST, "jobs/request", &json!({}));
    header
        .headers_mut()
        .insert("Runner-Token", TOKEN.parse().unwrap());
    assert_eq!(world.send(header).status(), 400);
}

/// Without a `system_id` the manager is the shared one, `<legacy>`; one that is too long is
/// refused with the names of the fields.
#[test]
fn the_system_id_names_the_manager() {
    let mut world = World::new();
    world.ask(&json!({ "token": TOKEN }));
    world.ask_plainly();
    let managers = world.gitlab.managers(world.runner);
    let names: Vec<_> = managers.map(|manager| manager.system_id.clone()).collect();
    assert_eq!(names, ["<legacy>", SYSTEM_ID]);
    let reply = world.ask(&json!({ "token": TOKEN, "system_id": "x".repeat(65) }));
    assert_eq!(reply.status(), 400);
    assert!(reply.body()["message"].is_object());
    let reply = world.ask(&json!({ "token": TOKEN, "system_id": "é".repeat(64) }));
    assert_eq!(reply.status(), 204);
}

/// Runners share nothing but the queue: each has a queue value of its own, and a job goes to one.
#[test]
fn a_job_goes_to_one_runner() {
    let mut world = World::new();
    let other = world.gitlab.add_runner("glrt-other");
    assert_ne!(
        world.gitlab.last_update(other).unwrap(),
        world.queue_value()
    );
    let job = world.gitlab.enqueue(job());
    let reply = world.ask(&json!({ "token": "glrt-other" }));
    assert_eq!(reply.status(), 201);
    assert_eq!(world.ask_plainly().status(), 204);
    assert_eq!(world.report(job).runner, Some(other));
}

/// The oldest job goes first.
#[test]
fn jobs_go_in_order() {
    let mut world = World::new();
    let jobs: Vec<_> = (0..3).map(|_| world.gitlab.enqueue(job())).collect();
    for id in jobs {
        assert_eq!(world.ask_plainly().body()["id"], id.0);
    }
    assert_eq!(world.ask_plainly().status(), 204);
}

/// The `session.url` comes back in the payload; without a session it is null there.
#[test]
fn the_session_url_is_echoed() {
    let mut world = World::new();
    world.gitlab.enqueue(job());
    world.gitlab.enqueue(job());
    let url = "https://runner.example.test:8093/session/1";
    let mut asking = asking_with(&[]);
    asking["session"] = json!({ "url": url, "certificate": "", "authorization": "x" });
    let payload = world.ask(&asking).body();
    assert_eq!(payload["runner_info"]["runner_session_url"], url);
    let payload = world.ask_plainly().body();
    assert_eq!(payload["runner_info"]["runner_session_url"], json!(null));
}

/// A `session.url` in the local network makes every assignment a 409 where that is forbidden.
#[test]
fn a_local_session_url_is_409() {
    let mut world = World::new();
    let id = world.gitlab.enqueue(job());
    for host in ["127.0.0.1:8093", "localhost", "[::1]:80", "10.1.2.3"] {
        let mut asking = asking_with(&[]);
        asking["session"] = json!({ "url": format!("https://{host}/session") });
        for _ in 0..2 {
            let reply = world.ask(&asking);
            assert_eq!(reply.status(), 409, "{host}");
            assert_eq!(reply.last_update(), None);
        }
    }
    assert_eq!(world.status(id), JobStatus::Pending);
    world.gitlab.settings_mut().refuse_local_sessions = false;
    let mut asking = asking_with(&[]);
    asking["session"] = json!({ "url": "https://127.0.0.1/session" });
    assert_eq!(world.ask(&asking).status(), 201);
}

/// A job that needs a feature which the runner does not set to true is failed, not skipped, and
/// the runner gets the next one.
#[test]
fn an_unsupported_job_is_failed_and_the_next_one_given() {
    let needing = [
        (job().release(["release"]), "multi_build_steps"),
        (
            job().artifact_report("junit", ["*.xml"]),
            "upload_multiple_artifacts",
        ),
        (job().merge_request(5), "refspecs"),
        (job().requires("return_exit_code"), "return_exit_code"),
        (
            job().artifact(ArtifactSpec::archive(["a"]).exclude(["b"])),
            "artifacts_exclude",
        ),
        (job().requires("fallback_cache_keys"), "fallback_cache_keys"),
        (job().requires("vault_secrets"), "vault_secrets"),
    ];
    for (spec, feature) in needing {
        let mut world = World::new();
        let without = world.gitlab.enqueue(spec.clone());
        let next = world.gitlab.enqueue(job());
        let reply = world.ask_plainly();
        assert_eq!(reply.body()["id"], next.0, "{feature}");
        let report = world.report(without);
        assert_eq!(report.status, JobStatus::Failed);
        let reason = report.failure_reason.as_deref();
        assert_eq!(reason, Some("runner_unsupported"));
        let with = world.gitlab.enqueue(spec);
        assert_eq!(world.ask_with(&[feature]).body()["id"], with.0);
    }
}

/// Jobs that the server fails before it hands them out: the runner sees another job, or 204 with
/// the queue value.
#[test]
fn a_job_can_be_failed_before_it_is_handed_out() {
    let mut world = World::new();
    let archived = world.gitlab.enqueue(job().dropped_as("archived_failure"));
    let deleted = world.gitlab.enqueue(job());
    world.gitlab.delete_project(deleted);
    let good = world.gitlab.enqueue(job());
    assert_eq!(world.ask_plainly().body()["id"], good.0);
    for (job, reason) in [(archived, "archived_failure"), (deleted, "project_deleted")] {
        assert_eq!(world.status(job), JobStatus::Failed);
        assert_eq!(world.report(job).failure_reason.as_deref(), Some(reason));
    }
    world.gitlab.enqueue(job().dropped_as("scheduler_failure"));
    let reply = world.ask_plainly();
    assert_eq!(reply.status(), 204);
    assert!(reply.last_update().is_some());
}

/// After 45 candidates the server gives up with a conflict; 45 and no more is an empty queue.
#[test]
fn more_than_45_candidates_are_a_conflict() {
    let mut world = World::new();
    for _ in 0..45 {
        world.gitlab.enqueue(job().dropped_as("user_blocked"));
    }
    assert_eq!(world.ask_plainly().status(), 204);
    for _ in 0..45 {
        world.gitlab.enqueue(job().dropped_as("user_blocked"));
    }
    let good = world.gitlab.enqueue(job());
    assert_eq!(world.ask_plainly().status(), 409);
    assert_eq!(world.ask_plainly().body()["id"], good.0);
}
