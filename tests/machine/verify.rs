//! `POST runners/verify`.

use std::time::Duration;

use gitlab_runner::machine::{CallOutcome, Input, PollOutcome, RunnerCall, StopMode, StopReason};
use serde_json::json;

use crate::world::{TOKEN, World, html, reply};

fn world() -> World {
    let mut world = World::with(|config| config.verify = true);
    world.input(Input::SetCapacity(1));
    world
}

#[test]
fn the_token_is_verified_before_the_first_job_is_asked_for() {
    let mut world = world();
    let verify = world.request();
    assert_eq!(
        (verify.method.as_str(), verify.path.as_str()),
        ("POST", "runners/verify")
    );
    assert_eq!(verify.header("RUNNER-TOKEN"), Some(TOKEN));
    let body = verify.json();
    assert_eq!(body["token"], TOKEN);
    assert_eq!(body["system_id"], "s_0123456789ab");
    assert_eq!(body["info"]["name"], "gitlab-runner-rs");
    assert_eq!(body["info"]["features"]["cancelable"], true);
    world.reply(
        &verify,
        reply(200).json(&json!({ "id": 1, "token": TOKEN })),
    );
    assert_eq!(world.request().path, "jobs/request");
    assert_eq!(
        world.notices[0].to_string(),
        "token verified; asking https://gitlab.example.com/sub for jobs, up to 1 at a time"
    );
    assert_eq!(world.notices.len(), 1);
}

#[test]
fn old_servers_answer_in_plain_text() {
    let mut world = world();
    let verify = world.request();
    world.reply(&verify, reply(200).body("200"));
    assert_eq!(world.request().path, "jobs/request");
}

#[test]
fn a_page_that_answers_for_gitlab_is_no_verdict() {
    let mut world = world();
    let verify = world.request();
    let page = || html(200).header("Content-Type", "text/html; charset=utf-8");
    world.reply(&verify, page());
    assert!(world.notice("could not verify the runner token (answered 200 OK: not as GitLab"));
    let poll = world.request();
    world.reply(&poll, page());
    assert!(world.notice("could not ask for a job (answered 200 OK: not as GitLab answers"));
    assert!(!world.notice("token verified"));
}

#[test]
fn verify_403_ends_the_run_with_a_reason() {
    let mut world = world();
    let verify = world.request();
    world.reply(&verify, reply(403).body(r#"{"message":"403 Forbidden"}"#));
    let Some(StopReason::TokenRefused(trouble)) = &world.stopped else {
        panic!("{:?}", world.stopped);
    };
    // Once is enough.
    assert_eq!(trouble.to_string(), "answered 403 Forbidden");
    world.pass(Duration::from_secs(7200));
    // Another run asks once more.
    world.input(Input::SetCapacity(2));
    assert_eq!(world.request().path, "runners/verify");
}

#[test]
fn verify_403_answers_those_who_asked_for_one_job() {
    let mut world = World::with(|config| config.verify = true);
    world.input(Input::PollOnce);
    world.input(Input::PollOnce);
    let verify = world.request();
    world.reply(&verify, reply(403));
    assert_eq!(world.polled.len(), 2);
    assert!(
        world
            .polled
            .iter()
            .all(|outcome| matches!(outcome, PollOutcome::Failed(_)))
    );
    assert!(world.stopped.is_none());
}

#[test]
fn any_other_answer_is_noted_and_jobs_are_asked_for_all_the_same() {
    for n in 0..5 {
        let mut world = world();
        let verify = world.request();
        match n {
            0 => world.reply(&verify, reply(404)),
            1 => world.reply(&verify, html(502)),
            2 => world.reply(
                &verify,
                reply(302).header("Location", "https://elsewhere.test/"),
            ),
            3 => world.lose(&verify),
            _ => world.fail(&verify, false),
        }
        assert!(world.notice("could not verify the runner token"));
        assert_eq!(world.next_request().path, "jobs/request");
    }
}

#[test]
fn anybody_may_ask_for_it_at_any_time() {
    let mut world = World::new();
    for status in [200, 403, 400] {
        world.input(Input::Call(RunnerCall::Verify));
        let verify = world.request();
        world.reply(&verify, reply(status));
        let outcome = world.called.pop_front().unwrap();
        assert_eq!(
            matches!(outcome, CallOutcome::Verified(_)),
            status == 200,
            "{outcome:?}"
        );
    }
    assert!(world.stopped.is_none());
    world.input(Input::Call(RunnerCall::Verify));
    let verify = world.request();
    world.input(Input::Stop(StopMode::Drain));
    assert_eq!(world.forgotten, [verify.id]);
    assert!(matches!(
        world.called.pop_front(),
        Some(CallOutcome::VerifyFailed(_))
    ));
}

#[test]
fn what_gitlab_knows_of_the_runner_is_told() {
    let mut world = World::new();
    world.input(Input::Call(RunnerCall::Verify));
    let verify = world.request();
    let body = json!({ "id": 9, "token": TOKEN, "token_expires_at": "1970-01-03T00:00:00Z" });
    world.reply(&verify, reply(200).json(&body));
    let Some(CallOutcome::Verified(details)) = world.called.pop_front() else {
        panic!("not verified");
    };
    assert_eq!(details.id, Some(9));
    assert_eq!(details.token_expires_at.unwrap().0.as_secs(), 172_800);
    assert!(world.notice("expires in 47 hours and is not rotated"));
}
