//! Asking for a job: the wrapper in front of the server, which may hold the request.

use std::time::Duration;

use bytes::Bytes;
use gitlab_runner::{
    Time,
    mock::{Answer, Endpoint, JobStatus, Override, Server},
};
use http::{Method, Request, Response};
use serde_json::json;

use crate::world::{TOKEN, World, job, json_request};

const POLLING: &str = "Gitlab-Ci-Builds-Polling";

/// With the wrapper every answer carries its header; without it none does.
#[test]
fn the_wrapper_shows_in_a_header() {
    let mut world = World::with_long_poll();
    assert_eq!(world.ask_plainly().header(POLLING), Some("yes"));
    assert_eq!(world.ask(&json!({})).header(POLLING), Some("yes"));
    world.gitlab.enqueue(job());
    let reply = world.ask_plainly();
    assert_eq!(reply.status(), 201);
    assert_eq!(reply.header(POLLING), Some("yes"));

    let mut world = World::new();
    assert_eq!(world.ask_plainly().header(POLLING), None);
    world.gitlab.set_long_poll(Some(Duration::ZERO));
    assert_eq!(world.ask_plainly().header(POLLING), None);
}

/// A body over 32 KiB is 413 in plain text, even with the duration that GitLab is shipped with;
/// without the wrapper nobody minds.
#[test]
fn a_body_over_32_kib_is_413() {
    let body = |len: usize| {
        let rest = json!({ "token": TOKEN, "pad": "" }).to_string().len();
        json!({ "token": TOKEN, "pad": "x".repeat(len - rest) })
    };
    for duration in [Duration::from_secs(50), Duration::from_nanos(50)] {
        let mut world = World::new();
        world.gitlab.set_long_poll(Some(duration));
        let reply = world.ask(&body(32 * 1024 + 1));
        assert_eq!(reply.status(), 413);
        assert!(
            reply
                .header("Content-Type")
                .unwrap()
                .starts_with("text/plain")
        );
        assert_eq!(reply.last_update(), None);
        assert_eq!(world.ask(&body(32 * 1024)).status(), 204);
    }
    let mut world = World::new();
    assert_eq!(world.ask(&body(40 * 1024)).status(), 204);
}

/// What is not JSON, or cannot be parsed, goes straight to the server.
#[test]
fn what_is_not_json_is_not_held() {
    let mut world = World::with_long_poll();
    let value = world.queue_value();
    let form = Request::post("/api/v4/jobs/request")
        .header("Content-Type", "application/x-www-form-urlencoded")
        .body(format!("token={TOKEN}&last_update={value}").into())
        .unwrap();
    let reply = world.send(form);
    assert_eq!(reply.status(), 204);
    assert_eq!(reply.last_update(), Some(value.as_str()));
    let broken = Request::post("/api/v4/jobs/request")
        .header("Content-Type", "application/json")
        .body(Bytes::from_static(b"{\"token\":"))
        .unwrap();
    assert_eq!(world.send(broken).status(), 400);
}

/// What is held for a token that is reset meanwhile is held to the end: the queue value of the new
/// token is another one.
#[test]
fn a_reset_wakes_nobody() {
    let mut world = World::with_long_poll();
    let hold = world.hold(&world.queue_value());
    let deadline = world.now + Duration::from_secs(50);
    let path = "runners/reset_authentication_token";
    let reply = world.json(Method::POST, path, &json!({ "token": TOKEN }));
    assert_eq!(reply.status(), 201);
    assert!(world.released().is_none());
    world.gitlab.enqueue(job());
    assert!(world.released().is_none());
    assert_eq!(world.gitlab.poll_timeout(), Some(deadline));
    world.wait(50);
    let (released, reply) = world.released().unwrap();
    assert_eq!((released, reply.status()), (hold, 204));
    world.ask_plainly().assert_forbidden(None, None);
}

/// Without a token or without a `last_update` the server answers at once, with the queue value.
#[test]
fn without_token_or_last_update_nothing_is_held() {
    let mut world = World::with_long_poll();
    for last_update in [json!(null), json!("")] {
        let reply = world.ask(&json!({ "token": TOKEN, "last_update": last_update }));
        assert_eq!(reply.status(), 204);
        assert!(reply.last_update().is_some());
    }
    let value = world.queue_value();
    let reply = world.ask(&json!({ "token": "", "last_update": value }));
    assert_eq!(reply.status(), 403);
    let reply = world.ask(&json!({ "last_update": value }));
    assert_eq!(reply.status(), 400);
}

/// An outdated `last_update` goes to the server at once, and so does an unknown token.
#[test]
fn an_outdated_last_update_is_not_held() {
    let mut world = World::with_long_poll();
    let value = world.queue_value();
    let id = world.gitlab.enqueue(job());
    let reply = world.ask(&json!({ "token": TOKEN, "last_update": value }));
    assert_eq!(reply.body()["id"], id.0);
    let reply = world.ask(&json!({ "token": "glrt-unknown", "last_update": value }));
    reply.assert_forbidden(None, None);
}

/// A current `last_update` is held; when the time is over the wrapper itself answers 204, without
/// a queue value.
#[test]
fn a_current_last_update_is_held_for_50_s() {
    let mut world = World::with_long_poll();
    let value = world.queue_value();
    let hold = world.hold(&value);
    let end = world.now + Duration::from_secs(50);
    assert_eq!(world.gitlab.poll_timeout(), Some(end));
    assert_eq!(world.gitlab.held_requests(), 1);
    world.wait_for(Duration::from_millis(49_999));
    assert!(world.released().is_none());
    world.wait_for(Duration::from_millis(1));
    let (released, reply) = world.released().unwrap();
    assert_eq!(released, hold);
    assert_eq!(reply.status(), 204);
    assert_eq!(reply.last_update(), None);
    assert_eq!(reply.header(POLLING), Some("yes"));
    assert_eq!(world.gitlab.held_requests(), 0);
    assert_eq!(world.gitlab.poll_timeout(), None);
}

/// A job that is queued meanwhile releases the request, with a 204 and not with the job: "ask
/// again".
#[test]
fn a_new_job_releases_the_hold_with_204() {
    let mut world = World::with_long_poll();
    let value = world.queue_value();
    let hold = world.hold(&value);
    world.wait(10);
    assert!(world.released().is_none());
    let id = world.gitlab.enqueue(job());
    assert_eq!(world.gitlab.poll_timeout(), Some(world.now));
    let (released, reply) = world.released().unwrap();
    assert_eq!(released, hold);
    assert_eq!(reply.status(), 204);
    assert_eq!(reply.last_update(), None);
    assert_eq!(world.status(id), JobStatus::Pending);
    let reply = world.ask(&json!({ "token": TOKEN, "last_update": value }));
    assert_eq!(reply.status(), 201);
}

/// All managers of a token share the queue value: one job releases all of them, one gets it.
#[test]
fn one_job_releases_all_requests_on_hold() {
    let mut world = World::with_long_poll();
    let value = world.queue_value();
    let holds = [world.hold(&value), world.hold(&value), world.hold(&value)];
    world.gitlab.enqueue(job());
    for hold in holds {
        let (released, reply) = world.released().unwrap();
        assert_eq!((released, reply.status()), (hold, 204));
    }
    assert!(world.released().is_none());
    let asking = json!({ "token": TOKEN, "last_update": value });
    assert_eq!(world.ask(&asking).status(), 201);
    assert_eq!(world.ask(&asking).status(), 204);
}

/// A cancelled job is no new job: the request stays on hold.
#[test]
fn a_cancelled_job_releases_nothing() {
    let mut world = World::with_long_poll();
    let job = world.running();
    let value = world.queue_value();
    world.hold(&value);
    world.gitlab.cancel(job.id);
    assert!(world.released().is_none());
}

/// The duration that GitLab is shipped with is next to nothing: the wrapper's own 204 at once.
#[test]
fn the_shipped_duration_does_not_wait() {
    let mut world = World::new();
    world.gitlab.set_long_poll(Some(Duration::from_nanos(50)));
    let value = world.queue_value();
    let reply = world.ask(&json!({ "token": TOKEN, "last_update": value }));
    assert_eq!(reply.status(), 204);
    assert_eq!(reply.last_update(), None);
    assert_eq!(reply.header(POLLING), Some("yes"));
}

/// A held request is not the server's business: no contact, no rate limit, no back-off.
#[test]
fn a_held_request_does_not_reach_the_server() {
    let mut world = World::with_long_poll();
    world.ask_plainly();
    let first = world.now;
    let value = world.queue_value();
    world.gitlab.settings_mut().job_request_limit = 1;
    world.gitlab.settings_mut().migration_backoff = true;
    for _ in 0..3 {
        world.wait(5);
        world.hold(&value);
    }
    let manager = world.gitlab.managers(world.runner).next().unwrap();
    assert_eq!(manager.last_contact, first);
}

/// A runner that is deleted while its request is on hold is told to ask again, and then refused.
#[test]
fn a_deleted_runner_is_released() {
    let mut world = World::with_long_poll();
    let value = world.queue_value();
    world.hold(&value);
    world.gitlab.remove_runner(world.runner);
    assert_eq!(world.released().unwrap().1.status(), 204);
    let reply = world.ask(&json!({ "token": TOKEN, "last_update": value }));
    assert_eq!(reply.status(), 403);
}

/// A client that goes away takes its hold along; the record says that nothing was delivered.
#[test]
fn a_client_that_hangs_up_ends_its_hold() {
    let mut world = World::with_long_poll();
    let value = world.queue_value();
    let hold = world.hold(&value);
    world.gitlab.drop_hold(hold);
    assert_eq!(world.gitlab.held_requests(), 0);
    world.wait(60);
    assert!(world.released().is_none());
    let record = world.gitlab.requests().next_back().unwrap();
    assert_eq!((record.status, record.delivered), (None, false));
}

/// A fault planned for a request that is held happens when the hold is over.
#[test]
fn a_planned_fault_replaces_the_answer_to_a_hold() {
    let mut world = World::with_long_poll();
    let mut timeout = Response::new(Bytes::new());
    *timeout.status_mut() = http::StatusCode::GATEWAY_TIMEOUT;
    world
        .gitlab
        .plan(Endpoint::JobRequest, 1, Override::ReplyAfter(timeout));
    world
        .gitlab
        .plan(Endpoint::JobRequest, 2, Override::CloseAfter);
    let value = world.queue_value();
    world.hold(&value);
    world.hold(&value);
    assert!(world.released().is_none());
    world.wait(50);
    assert_eq!(world.released().unwrap().1.status(), 504);
    let closed = world.gitlab.poll_answer(world.now);
    assert!(matches!(closed, Some((_, Answer::Close))));
}

/// Holds end at the time they were promised, whatever is set later.
#[test]
fn a_hold_keeps_its_deadline() {
    let mut world = World::with_long_poll();
    let value = world.queue_value();
    world.hold(&value);
    world.gitlab.set_long_poll(Some(Duration::from_secs(500)));
    assert_eq!(world.gitlab.poll_timeout(), Some(Time::from_secs(1050)));
}

/// The route wants its own method: other methods find nothing there.
#[test]
fn asking_is_a_post() {
    let mut world = World::with_long_poll();
    let request = json_request(Method::GET, "jobs/request", &json!({ "token": TOKEN }));
    assert_eq!(world.send(request).status(), 404);
}
