//! What the operator wants of a runner, and what a stop makes of that.

use std::time::Duration;

use gitlab_runner::{
    Secret,
    machine::{CallOutcome, Input, PollOutcome, RunnerCall, StopMode, StopReason},
    protocol::Registration,
};
use serde_json::json;

use super::{RESET, calls, new_token, rotating, stored, until_reset};
use crate::world::{TOKEN, World, html, reply};

#[test]
fn a_refusal_of_the_old_token_after_a_reset_is_no_ill_health() {
    // The answer to the poll comes: while the reset is on its way, while the token is stored, after.
    for n in 0..3 {
        for once in [false, true] {
            let mut world = World::new();
            world.input(if once {
                Input::PollOnce
            } else {
                Input::SetCapacity(1)
            });
            let poll = world.request();
            let reset = calls(&mut world, RunnerCall::ResetToken);
            let refused = reply(403).json(&json!({ "message": "403 Forbidden" }));
            if n == 0 {
                world.reply(&poll, refused.clone());
                world.no_request();
            }
            world.reply(&reset, new_token("glrt-second", None));
            if n == 1 {
                world.reply(&poll, refused.clone());
                world.no_request();
            }
            stored(&mut world);
            if n == 2 {
                world.reply(&poll, refused);
            }
            let again = world.request();
            assert_eq!(again.json()["token"], "glrt-second");
            assert!(!world.notice("could not ask for a job"));
            assert!(world.polled.is_empty());
            // With the new token it is what it says.
            world.reply(&again, reply(403));
            assert!(world.notice("could not ask for a job"));
            assert_eq!(world.polled.len(), usize::from(once));
        }
    }
}

#[test]
fn after_a_reset_that_failed_a_refusal_is_one() {
    let mut world = World::new();
    world.input(Input::SetCapacity(1));
    let poll = world.request();
    let reset = calls(&mut world, RunnerCall::ResetToken);
    world.reply(&reset, reply(403));
    world.reply(&poll, reply(403));
    assert!(world.notice("could not ask for a job"));
    world.no_request();
}

#[test]
fn a_token_changes_when_the_operator_wants_it() {
    let mut world = World::new();
    let reset = calls(&mut world, RunnerCall::ResetToken);
    assert_eq!(reset.path, RESET);
    world.reply(&reset, new_token("glrt-2", Some(9)));
    // Stored first.
    assert!(world.called.is_empty());
    stored(&mut world);
    let Some(CallOutcome::TokenReset(token)) = world.called.pop_front() else {
        panic!("no answer");
    };
    assert_eq!(token.token, Secret::from("glrt-2"));
    assert!(!format!("{token:?}").contains("glrt-2"));
    let verify = calls(&mut world, RunnerCall::Verify);
    assert_eq!(verify.json()["token"], "glrt-2");
}

#[test]
fn calls_wait_for_each_other() {
    let mut world = World::new();
    let reset = calls(&mut world, RunnerCall::ResetToken);
    world.input(Input::Call(RunnerCall::Verify));
    world.no_request();
    world.reply(&reset, new_token("glrt-2", None));
    world.no_request();
    stored(&mut world);
    let verify = world.request();
    assert_eq!(verify.json()["token"], "glrt-2");
    world.reply(&verify, reply(200));
    assert!(matches!(world.called[0], CallOutcome::TokenReset(_)));
    assert!(matches!(world.called[1], CallOutcome::Verified(_)));
}

#[test]
fn what_may_have_been_done_is_not_done_again_and_what_was_not_is() {
    let register = || RunnerCall::Register(Box::new(Registration::new("GR1348941x")));
    for call in [register(), RunnerCall::ResetToken] {
        for n in 0..4 {
            let mut world = World::new();
            let sent = calls(&mut world, call.clone());
            match n {
                0 => world.lose(&sent),
                1 => world.reply(&sent, html(503)),
                2 => world.reply(&sent, reply(408)),
                _ => world.reply(&sent, reply(201).body("<html>")),
            }
            assert_eq!(world.called.len(), 1, "{n}");
            assert_eq!(world.machine.poll_timeout(), None);
        }
        let mut world = World::new();
        let sent = calls(&mut world, call);
        world.fail(&sent, false);
        let sent = world.next_request();
        world.reply(&sent, reply(429).header("Retry-After", "20"));
        let (wait, sent) = world.next_request_after();
        assert!((20..=24).contains(&wait.as_secs()), "{wait:?}");
        world.reply(&sent, reply(403));
        assert_eq!(world.called.len(), 1);
    }
}

#[test]
fn calls_are_repeated_for_a_time() {
    let mut world = World::new();
    let mut sent = calls(&mut world, RunnerCall::Verify);
    let from = world.now;
    let mut tries = 1;
    while {
        world.reply(&sent, html(502));
        world.called.is_empty()
    } {
        sent = world.next_request();
        tries += 1;
    }
    assert_eq!(tries, 5);
    assert!(world.now.since(from) < Duration::from_secs(60));
    assert!(matches!(world.called[0], CallOutcome::VerifyFailed(_)));

    // Not longer than the operator's patience.
    let mut world = World::new();
    let sent = calls(&mut world, RunnerCall::Verify);
    world.reply(&sent, reply(429).header("Retry-After", "500"));
    assert_eq!(world.called.len(), 1);

    // The longest wait is 600 seconds.
    for (limit, tries) in [(599, 1), (600, 2)] {
        let mut world = World::with(|config| config.call_limit = Duration::from_secs(limit));
        let sent = calls(&mut world, RunnerCall::Verify);
        world.reply(&sent, reply(429).header("Retry-After", "3600"));
        if tries == 2 {
            let (wait, again) = world.next_request_after();
            assert_eq!(wait, Duration::from_secs(600));
            world.reply(&again, reply(200));
        }
        assert_eq!(world.called.len(), 1, "{limit}");
    }
}

#[test]
fn a_runner_is_registered() {
    let mut world = World::new();
    let mut wanted = Registration::new("GR1348941x");
    wanted.description = "lab".to_owned();
    let register = calls(&mut world, RunnerCall::Register(Box::new(wanted)));
    assert_eq!(
        (register.method.as_str(), &*register.path),
        ("POST", "runners")
    );
    assert_eq!(register.header("RUNNER-TOKEN"), Some("GR1348941x"));
    assert_eq!(register.header("Accept"), Some("application/json"));
    let body = register.json();
    assert_eq!(body["token"], "GR1348941x");
    assert_eq!(body["description"], "lab");
    assert_eq!(body["info"]["name"], "gitlab-runner-rs");
    assert_eq!(body.get("system_id"), None);
    // Old servers tell no more.
    world.reply(
        &register,
        reply(201).json(&json!({ "id": 3, "token": "t3_x" })),
    );
    let Some(CallOutcome::Registered { id, token }) = world.called.pop_front() else {
        panic!("not registered");
    };
    assert_eq!((id, token.expires_at), (Some(3), None));
    assert_eq!(token.token, Secret::from("t3_x"));
    // The machine goes on with its own.
    let verify = calls(&mut world, RunnerCall::Verify);
    assert_eq!(verify.json()["token"], TOKEN);
}

#[test]
fn a_refused_registration_repeats_no_token() {
    let mut world = World::new();
    let wanted = Registration::new("GR1348941x");
    let register = calls(&mut world, RunnerCall::Register(Box::new(wanted)));
    let message = json!({ "message": { "tags_list": ["bad"], "token": ["GR1348941x"] } });
    world.reply(&register, reply(400).json(&message));
    let Some(CallOutcome::RegisterFailed(trouble)) = world.called.pop_front() else {
        panic!("registered");
    };
    let text = trouble.to_string();
    assert!(
        text.contains("tags_list: bad") && !text.contains("GR1348941x"),
        "{text}"
    );
}

#[test]
fn a_runner_or_its_manager_is_unregistered() {
    let manager = json!({ "token": TOKEN, "system_id": "s_0123456789ab" });
    for (call, path, body) in [
        (RunnerCall::Unregister, "runners", json!({ "token": TOKEN })),
        (RunnerCall::UnregisterManager, "runners/managers", manager),
    ] {
        let mut world = World::new();
        let sent = calls(&mut world, call.clone());
        assert_eq!((sent.method.as_str(), &*sent.path), ("DELETE", path));
        assert_eq!(sent.json(), body);
        assert_eq!(sent.header("RUNNER-TOKEN"), Some(TOKEN));
        assert_eq!(sent.header("Accept"), None);
        world.reply(&sent, reply(204));
        assert!(matches!(world.called[0], CallOutcome::Unregistered));

        // What was done and not heard of is found done.
        let gone = if path == "runners" { 403 } else { 404 };
        let mut world = World::new();
        let sent = calls(&mut world, call.clone());
        world.lose(&sent);
        let sent = world.next_request();
        world.reply(&sent, reply(gone));
        assert!(matches!(world.called[0], CallOutcome::Unregistered));

        // At the first try it means something else.
        for status in [403, 404, 412] {
            let mut world = World::new();
            let sent = calls(&mut world, call.clone());
            world.reply(&sent, reply(status));
            assert!(matches!(world.called[0], CallOutcome::UnregisterFailed(_)));
        }
    }
}

#[test]
fn a_stop_waits_for_a_token_that_is_on_its_way() {
    for mode in [StopMode::Drain, StopMode::Abort] {
        let mut world = rotating(5);
        let reset = until_reset(&mut world, 5);
        world.input(Input::Stop(mode));
        world.input(Input::Call(RunnerCall::Unregister));
        assert!(matches!(world.called[0], CallOutcome::UnregisterFailed(_)));
        assert!(world.stopped.is_none() && world.forgotten.is_empty());
        world.reply(&reset, new_token("glrt-2", Some(20)));
        assert!(world.stopped.is_none());
        stored(&mut world);
        assert!(matches!(
            world.stopped,
            Some(StopReason::Drained | StopReason::Aborted)
        ));
        assert_eq!(world.machine.poll_timeout(), None);
    }
}

#[test]
fn who_has_left_changes_no_token() {
    let mut world = rotating(5);
    let poll = world.request();
    world.input(Input::SetCapacity(0));
    world.reply(&poll, reply(204));
    assert!(world.machine.poll_timeout().is_some());
    let leave = calls(&mut world, RunnerCall::Unregister);
    world.reply(&leave, reply(204));
    assert_eq!(world.machine.poll_timeout(), None);
}

#[test]
fn what_fails_while_the_runner_stops_is_not_tried_again() {
    let mut world = World::new();
    let reset = calls(&mut world, RunnerCall::ResetToken);
    world.input(Input::Stop(StopMode::Drain));
    assert!(world.called.is_empty());
    world.fail(&reset, false);
    assert!(matches!(world.called[0], CallOutcome::ResetFailed(_)));
    assert!(world.stopped.is_some());
}

#[test]
fn an_answer_to_something_else_is_not_that_of_a_call() {
    let mut world = World::new();
    world.input(Input::PollOnce);
    let poll = world.request();
    let verify = calls(&mut world, RunnerCall::Verify);
    world.reply(&poll, reply(204));
    assert!(matches!(world.polled[0], PollOutcome::NoJob));
    assert!(world.called.is_empty());
    world.reply(&verify, reply(200));
    assert!(matches!(world.called[0], CallOutcome::Verified(_)));
}

#[test]
fn a_stop_ends_what_waits() {
    let mut world = World::new();
    let verify = calls(&mut world, RunnerCall::Verify);
    world.input(Input::Call(RunnerCall::ResetToken));
    world.reply(&verify, html(502));
    world.input(Input::Stop(StopMode::Drain));
    assert!(matches!(world.called[0], CallOutcome::VerifyFailed(_)));
    assert!(matches!(world.called[1], CallOutcome::ResetFailed(_)));
    assert!(world.stopped.is_some());
}

#[test]
fn a_poll_refused_for_the_old_token_is_answered_when_the_runner_stops() {
    let mut world = World::new();
    world.input(Input::PollOnce);
    let poll = world.request();
    let reset = calls(&mut world, RunnerCall::ResetToken);
    world.reply(&poll, reply(403));
    world.input(Input::Stop(StopMode::Drain));
    assert!(matches!(world.polled[0], PollOutcome::Stopped));
    world.reply(&reset, new_token("glrt-2", None));
    stored(&mut world);
    assert!(world.stopped.is_some());
}
