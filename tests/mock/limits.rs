//! 429, the shapes of errors, and what proxies answer.

use bytes::Bytes;
use gitlab_runner::mock::{Answer, Endpoint, JobStatus, Override};
use http::{Method, Request, Response};
use serde_json::json;

use crate::world::{Reply, TOKEN, World, json_request};

fn assert_limited(reply: &Reply) {
    assert_eq!(reply.status(), 429);
    // The whole minute, and an object where all other errors have a string.
    assert_eq!(reply.header("Retry-After"), Some("60"));
    assert!(reply.body()["message"]["error"].is_string());
    let mut names = reply.0.headers().keys();
    assert!(!names.any(|name| name.as_str().starts_with("ratelimit")));
    assert_eq!(reply.last_update(), None);
}

/// While a heavy migration runs every route is 429 with `Retry-After: 60`, even for requests that
/// would be refused otherwise.
#[test]
fn a_migration_is_429_everywhere() {
    let mut world = World::new();
    let job = world.running();
    world.gitlab.settings_mut().migration_backoff = true;
    let path = format!("jobs/{}", job.id);
    for (method, path) in [
        (Method::POST, "runners/verify"),
        (Method::POST, "runners"),
        (Method::DELETE, "runners"),
        (Method::DELETE, "runners/managers"),
        (Method::POST, "runners/reset_authentication_token"),
        (Method::POST, "jobs/request"),
        (Method::PUT, path.as_str()),
        (Method::PATCH, &format!("{path}/trace")),
    ] {
        let reply = world.json(method, path, &json!({}));
        assert_eq!(reply.status(), 429, "{path}");
        assert_eq!(reply.header("Retry-After"), Some("60"));
    }
    world.gitlab.settings_mut().migration_backoff = false;
    assert_eq!(world.put(&job, "running").status(), 200);
}

/// Job requests are limited per runner token and minute; all managers share the count.
#[test]
fn job_requests_are_limited_per_runner_token() {
    let mut world = World::new();
    world.gitlab.settings_mut().job_request_limit = 2;
    world.gitlab.add_runner("glrt-other");
    assert_eq!(world.ask_plainly().status(), 204);
    let other_manager = json!({ "token": TOKEN, "system_id": "s_other" });
    assert_eq!(world.ask(&other_manager).status(), 204);
    assert_limited(&world.ask_plainly());
    assert_eq!(world.ask(&json!({ "token": "glrt-other" })).status(), 204);
    world.wait(60);
    assert_eq!(world.ask_plainly().status(), 204);
}

/// Updates and patches are limited per job token, each with a count of its own.
#[test]
fn updates_and_patches_are_limited_per_job_token() {
    let mut world = World::new();
    world.gitlab.settings_mut().update_limit = 1;
    world.gitlab.settings_mut().trace_limit = 2;
    let (first, second) = (world.running(), world.running());
    for job in [&first, &second] {
        assert_eq!(world.put(job, "running").status(), 200);
        assert_limited(&world.put(job, "success"));
        assert_eq!(world.patch(job, 0, "ab").status(), 202);
        assert_eq!(world.patch(job, 2, "cd").status(), 202);
        assert_limited(&world.patch(job, 4, "ef"));
        assert_eq!(world.report(job.id).log, b"abcd");
        assert_eq!(world.status(job.id), JobStatus::Running);
    }
    world.wait(60);
    assert_eq!(world.patch(&first, 4, "ef").status(), 202);
    assert_eq!(world.put(&first, "success").status(), 200);
}

/// As shipped: 2000 job requests and 200 updates a minute.
#[test]
fn the_shipped_limits() {
    let mut world = World::new();
    let job = world.running();
    let refused = (0..2000)
        .filter(|_| world.ask_plainly().status() != 204)
        .count();
    // One request has fetched the job.
    assert_eq!(refused, 1);
    let refused = (0..201)
        .filter(|_| world.put(&job, "running").status() != 200)
        .count();
    assert_eq!(refused, 1);
}

/// A limit of 0 is none.
#[test]
fn a_limit_of_zero_is_none() {
    let mut world = World::new();
    let settings = world.gitlab.settings_mut();
    (settings.job_request_limit, settings.update_limit) = (0, 0);
    let job = world.running();
    assert!((0..2100).all(|_| world.ask_plainly().status() == 204));
    assert!((0..300).all(|_| world.put(&job, "running").status() == 200));
}

/// A body that is not what it claims to be is 400, a type that the API does not read 415.
#[test]
fn bodies_must_be_what_they_claim() {
    let mut world = World::new();
    let post = |content_type: &str, body: &'static str| {
        Request::post("/api/v4/runners/verify")
            .header("Content-Type", content_type)
            .body(Bytes::from_static(body.as_bytes()))
            .unwrap()
    };
    assert_eq!(world.send(post("application/json", "{")).status(), 400);
    assert_eq!(world.send(post("application/x-yaml", "a: b")).status(), 415);
    let typed = post(
        "application/json; charset=utf-8",
        r#"{"token":"glrt-example"}"#,
    );
    assert_eq!(world.send(typed).status(), 200);
}

/// What is no route of the API is 404 as JSON; what is outside of it, a page of the web server.
#[test]
fn unknown_routes_are_404() {
    let mut world = World::new();
    let reply = world.json(Method::POST, "runners/unknown", &json!({}));
    assert_eq!(reply.status(), 404);
    assert!(reply.body()["error"].is_string());
    let outside = Request::get("/users/sign_in").body(Bytes::new()).unwrap();
    let reply = world.send(outside);
    assert_eq!(reply.status(), 404);
    assert_eq!(reply.header("Content-Type"), Some("text/html"));
}

/// An instance below a path of its own answers there and nowhere else; the URI may be absolute.
#[test]
fn an_instance_can_live_below_a_path() {
    let mut world = World::new();
    world.gitlab.settings_mut().relative_root = "/git/lab/".into();
    let body = json!({ "token": TOKEN });
    assert_eq!(world.verify(&body).status(), 404);
    let mut request = json_request(Method::POST, "runners/verify", &body);
    *request.uri_mut() = "https://gitlab.example.test/git/lab/api/v4/runners/verify"
        .parse()
        .unwrap();
    assert_eq!(world.send(request).status(), 200);
}

/// A planned error of a proxy is HTML, and the request did not arrive.
#[test]
fn a_planned_error_page_is_not_processed() {
    let mut world = World::new();
    let job = world.running();
    world
        .gitlab
        .plan_for_job(job.id, Endpoint::FinalUpdate, 1, Override::Html(502));
    world
        .gitlab
        .plan_for_job(job.id, Endpoint::Trace, 2, Override::Status(429));
    let reply = world.put(&job, "success");
    assert_eq!(reply.status(), 502);
    assert!(reply.text().starts_with("<html>"));
    assert_eq!(world.status(job.id), JobStatus::Running);
    assert_eq!(world.patch(&job, 0, "ab").status(), 202);
    assert_limited(&world.patch(&job, 2, "cd"));
    assert_eq!(world.gitlab.pending_plans(), 0);
    assert_eq!(world.put(&job, "success").status(), 200);
}

/// A lost request was not processed, a lost reply was: repeating the final update is then 403
/// with the status that was asked for.
#[test]
fn a_lost_reply_was_processed() {
    let mut world = World::new();
    let job = world.running();
    let path = format!("jobs/{}", job.id);
    let done = json!({ "token": job.token, "state": "success" });
    let put = || json_request(Method::PUT, &path, &done);
    world
        .gitlab
        .plan(Endpoint::Update, 1, Override::CloseBefore);
    world.gitlab.plan(Endpoint::Update, 2, Override::CloseAfter);
    assert!(matches!(world.answer(put()), Answer::Close));
    assert_eq!(world.status(job.id), JobStatus::Running);
    assert!(matches!(world.answer(put()), Answer::Close));
    assert_eq!(world.status(job.id), JobStatus::Success);
    let reason = Some("Job is not processing on runner");
    world.send(put()).assert_forbidden(reason, Some("success"));
}

/// A reply of the test's own, instead of the usual one or after the request was processed.
#[test]
fn a_planned_reply_is_given_as_it_is() {
    let mut world = World::new();
    let job = world.running();
    let odd = Response::builder()
        .status(412)
        .header("Job-Status", "running")
        .body(Bytes::from_static(b"odd"))
        .unwrap();
    world
        .gitlab
        .plan(Endpoint::KeepAlive, 1, Override::Reply(odd.clone()));
    world
        .gitlab
        .plan(Endpoint::Trace, 1, Override::ReplyAfter(odd));
    let reply = world.put(&job, "running");
    assert_eq!((reply.status(), reply.text()), (412, "odd"));
    assert_eq!(world.patch(&job, 0, "log").status(), 412);
    assert_eq!(world.report(job.id).log, b"log");
    world.gitlab.plan(Endpoint::Any, 1, Override::RetryAfter(7));
    let reply = world.verify(&json!({ "token": TOKEN }));
    assert_eq!(reply.header("Retry-After"), Some("7"));
}
