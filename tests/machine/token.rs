//! The runner's token: registration, unregistering, reset and rotation.

use std::time::Duration;

use gitlab_runner::{
    Secret,
    machine::{
        CallOutcome, Input, NewToken, Notice, PollOutcome, Reason, RunnerCall, StopMode,
        StopReason, TokenNotice,
    },
    protocol::Registration,
};
use serde_json::{Value, json};

use crate::world::{Reply, Sent, TOKEN, World, html, payload, reply};

const RESET: &str = "runners/reset_authentication_token";
const DAY: Duration = Duration::from_secs(86_400);

/// A day of January 1970, where the clock of these worlds begins.
fn on_day(day: u32) -> String {
    format!("1970-01-{day:02}T00:00:00.000Z")
}

fn new_token(token: &str, expires: Option<u32>) -> Reply {
    reply(201).json(&json!({ "token": token, "token_expires_at": expires.map(on_day) }))
}

/// A world whose verified token expires on that day.
fn rotating(day: u32) -> World {
    let mut world = World::with(|config| (config.verify, config.rotate) = (true, true));
    world.input(Input::SetCapacity(1));
    let verify = world.request();
    assert_eq!(verify.path, "runners/verify");
    verified(&mut world, &verify, Some(day));
    world
}

fn verified(world: &mut World, verify: &Sent, day: Option<u32>) {
    assert_eq!(verify.path, "runners/verify");
    let body = json!({ "id": 1, "token": TOKEN, "token_expires_at": day.map(on_day) });
    world.reply(verify, reply(200).json(&body));
}

/// Answers the daily question until something else is sent. No jobs are asked for meanwhile, and
/// again afterwards.
fn until_reset(world: &mut World, expires: u32) -> Sent {
    world.input(Input::SetCapacity(0));
    loop {
        let sent = world.next_any();
        match &*sent.path {
            "jobs/request" => world.reply(&sent, reply(204)),
            "runners/verify" => verified(world, &sent, Some(expires)),
            _ => {
                world.input(Input::SetCapacity(1));
                return sent;
            }
        }
    }
}

fn stored(world: &mut World) -> NewToken {
    let token = world.tokens.pop_front().expect("no token to be stored");
    world.input(Input::TokenPersisted(Ok(())));
    token
}

fn calls(world: &mut World, call: RunnerCall) -> Sent {
    world.input(Input::Call(call));
    world.request()
}

#[test]
fn a_token_is_changed_when_three_quarters_of_its_life_are_over() {
    // Obtained on the first day, as far as the runner knows, and good until the fifth.
    let mut world = rotating(5);
    let reset = until_reset(&mut world, 5);
    assert_eq!((reset.method.as_str(), &*reset.path), ("POST", RESET));
    assert_eq!(reset.json(), json!({ "token": TOKEN }));
    assert_eq!(reset.header("RUNNER-TOKEN"), None);
    // The clock began 100 s after midnight.
    let wanted = 100 + (4 * DAY.as_secs() - 100) * 3 / 4;
    assert_eq!(reset.at.since_origin().as_secs(), wanted);
}

#[test]
fn the_life_is_counted_from_when_the_token_was_obtained() {
    // The examples of the official runner: on the first until the fifth, and until the ninth.
    for (end, due) in [(5, 4), (9, 7)] {
        let mut world = World::with(|config| {
            (config.verify, config.rotate) = (true, true);
            config.token_obtained_at = Some(gitlab_runner::WallTime::default());
        });
        world.input(Input::SetCapacity(1));
        let verify = world.request();
        verified(&mut world, &verify, Some(end));
        let reset = until_reset(&mut world, end);
        assert_eq!(reset.at.since_origin(), (due - 1) * DAY);
    }
}

#[test]
fn the_clock_of_the_server_counts() {
    // By our clock there were days left.
    let mut world = World::with(|config| {
        (config.verify, config.rotate) = (true, true);
        config.token_obtained_at = Some(gitlab_runner::WallTime::default());
    });
    world.input(Input::SetCapacity(1));
    let verify = world.request();
    let body = json!({ "token_expires_at": on_day(9) });
    let date = "Thu, 08 Jan 1970 00:00:00 GMT";
    world.reply(&verify, reply(200).header("Date", date).json(&body));
    let reset = world.request();
    assert_eq!(reset.path, RESET);
    world.reply(&reset, new_token("glrt-2", None).header("Date", date));
    assert_eq!(stored(&mut world).obtained_at.0, 7 * DAY);
}

#[test]
fn an_expired_token_is_changed_at_once_and_before_a_job_is_asked_for() {
    let mut world = World::with(|config| {
        (config.verify, config.rotate) = (true, true);
        config.wall_origin = gitlab_runner::WallTime(30 * DAY);
    });
    world.input(Input::SetCapacity(1));
    let verify = world.request();
    verified(&mut world, &verify, Some(5));
    assert_eq!(world.request().path, RESET);
}

#[test]
fn a_token_without_an_end_is_not_changed() {
    let mut world = World::with(|config| (config.verify, config.rotate) = (true, true));
    world.input(Input::SetCapacity(0));
    world.input(Input::PollOnce);
    let verify = world.request();
    verified(&mut world, &verify, None);
    let poll = world.request();
    world.reply(&poll, reply(204));
    assert_eq!(world.machine.poll_timeout(), None);
}

#[test]
fn without_somebody_who_stores_it_a_token_is_not_changed_but_warned_of() {
    let mut world = World::with(|config| config.verify = true);
    world.input(Input::PollOnce);
    let verify = world.request();
    verified(&mut world, &verify, Some(5));
    let poll = world.request();
    world.reply(&poll, reply(204));
    assert_eq!(world.machine.poll_timeout(), None);
    assert!(world.notice("the runner token expires in 3 days and is not rotated"));
}

#[test]
fn nothing_is_sent_before_the_new_token_is_stored() {
    let mut world = rotating(5);
    let reset = until_reset(&mut world, 5);
    world.run_until(world.now + Duration::from_secs(30));
    world.no_request();
    world.reply(&reset, new_token("glrt-second", Some(10)));
    world.run_until(world.now + Duration::from_secs(59));
    world.no_request();
    let token = stored(&mut world);
    assert_eq!(token.token, Secret::from("glrt-second"));
    assert_eq!(token.expires_at.unwrap().0, 9 * DAY);
    assert!(world.notice("the runner token was changed"));
    let poll = world.next_request();
    assert_eq!(poll.path, "jobs/request");
    assert_eq!(poll.json()["token"], "glrt-second");
    assert_eq!(poll.header("RUNNER-TOKEN"), Some("glrt-second"));
    world.reply(&poll, reply(204));
    // And so on, with the life of that one.
    let again = until_reset(&mut world, 10);
    assert_eq!(again.json()["token"], "glrt-second");
    let obtained = token.obtained_at.0.as_secs();
    let wanted = obtained + (9 * DAY.as_secs() - obtained) * 3 / 4;
    assert!(again.at.since_origin().as_secs().abs_diff(wanted) <= 1);
    assert!(!format!("{:?} {:?}", world.notices, world.machine).contains("glrt-second"));
}

#[test]
fn jobs_go_on_while_the_token_changes() {
    let mut world = rotating(5);
    let poll = world.request();
    world.reply(&poll, reply(201).json(&payload()));
    let commit = world.request();
    world.input(Input::Call(RunnerCall::ResetToken));
    let reset = world.request();
    world.reply(&commit, reply(200));
    assert!(matches!(
        world.job_output(),
        gitlab_runner::machine::JobOutput::Start(_)
    ));
    world.job_input(gitlab_runner::machine::JobInput::Accepted);
    world.reply(&reset, new_token("glrt-2", None));
    assert_eq!(world.next_request().path, "jobs/7");
}

#[test]
fn a_token_that_cannot_be_stored_is_used_all_the_same_and_loudly() {
    for late in [false, true] {
        let mut world = rotating(5);
        let reset = until_reset(&mut world, 5);
        world.reply(&reset, new_token("glrt-second", None));
        let why = "no space left beside glrt-second\n".to_owned();
        if late {
            assert_eq!(world.next_deadline(), Reason::PersistToken);
        } else {
            world.input(Input::TokenPersisted(Err(why.clone())));
        }
        assert!(world.notice("THE NEW RUNNER TOKEN COULD NOT BE STORED"));
        assert_eq!(world.notice("no space left beside [MASKED]"), !late);
        assert!(!world.notice("glrt-second"));
        let poll = world.next_request();
        assert_eq!(poll.json()["token"], "glrt-second");
        // Nobody has asked.
        let ignored = world.ignored();
        world.input(Input::TokenPersisted(Err(why)));
        assert_eq!(world.ignored(), ignored + 1);
    }
}

#[test]
fn a_failed_reset_is_tried_again_later_and_later() {
    let mut world = rotating(2);
    world.input(Input::SetCapacity(0));
    let mut waits = Vec::new();
    let mut last = None;
    while waits.len() < 12 {
        let sent = world.next_any();
        match &*sent.path {
            "jobs/request" => world.reply(&sent, reply(204)),
            "runners/verify" => verified(&mut world, &sent, Some(2)),
            _ => {
                waits.extend(last.map(|last| sent.at.since(last).as_secs()));
                last = Some(sent.at);
                world.reply(&sent, reply(429));
            }
        }
    }
    assert!((60..=75).contains(&waits[0]), "{waits:?}");
    assert!((120..=150).contains(&waits[1]), "{waits:?}");
    assert!(
        waits[7..].iter().all(|wait| (3000..=3600).contains(wait)),
        "{waits:?}"
    );
    assert!(world.notice("could not be verified or changed (answered 429"));
}

#[test]
fn a_lost_answer_is_told_and_the_old_token_verified_before_another_try() {
    for n in 0..3 {
        let mut world = rotating(2);
        let reset = until_reset(&mut world, 2);
        match n {
            0 => world.lose(&reset),
            1 => world.reply(&reset, html(502)),
            _ => world.reply(&reset, reply(201).body("{\"tok")),
        }
        assert!(world.notice("if GitLab has changed it, nobody knows the new one"));
        // The poller does not wait for that.
        let poll = world.request();
        assert_eq!(poll.path, "jobs/request");
        world.input(Input::SetCapacity(0));
        world.reply(&poll, reply(204));
        let from = world.now;
        let verify = world.next_request();
        assert_eq!(verify.path, "runners/verify");
        assert!(verify.at.since(from) >= Duration::from_secs(50));
        if n == 0 {
            // It has come through after all.
            world.reply(&verify, reply(403));
            assert!(world.notice("the runner token is lost"));
            assert!(world.notices.iter().any(
                |notice| matches!(notice, Notice::Token(news @ TokenNotice::Lost(_)) if news.is_severe())
            ));
            let (wait, verify) = world.next_request_after();
            assert_eq!(verify.path, "runners/verify");
            assert!(wait >= Duration::from_secs(120), "{wait:?}");
        } else {
            verified(&mut world, &verify, Some(2));
            assert_eq!(world.request().path, RESET);
        }
    }
}

#[test]
fn a_token_that_is_dead_on_arrival_is_no_reason_to_hurry() {
    let mut world = rotating(2);
    let mut resets = Vec::new();
    while resets.len() < 6 {
        let reset = until_reset(&mut world, 2);
        resets.push(reset.at);
        world.reply(&reset, new_token("glrt-dead", Some(1)));
        stored(&mut world);
    }
    let waits: Vec<u64> = resets
        .windows(2)
        .map(|pair| pair[1].since(pair[0]).as_secs())
        .collect();
    assert!(waits[0] >= 60 && waits[4] >= 900, "{waits:?}");
}

#[test]
fn a_start_that_could_not_verify_asks_later_how_long_the_token_lives() {
    let mut world = World::with(|config| (config.verify, config.rotate) = (true, true));
    world.input(Input::SetCapacity(1));
    let verify = world.request();
    world.reply(&verify, html(502));
    let verify = loop {
        let sent = world.next_any();
        if sent.path != "jobs/request" {
            break sent;
        }
        world.reply(&sent, reply(204));
    };
    assert!(verify.at.since_origin() >= Duration::from_secs(160));
    verified(&mut world, &verify, Some(3));
    assert_eq!(until_reset(&mut world, 3).path, RESET);

    // And one that does not verify at all.
    let mut world = World::with(|config| config.rotate = true);
    world.input(Input::SetCapacity(0));
    let verify = world.request();
    verified(&mut world, &verify, Some(3));
    assert_eq!(world.next_deadline(), Reason::TokenRotation);
}

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

/// For the eye: what a notice says is what people read.
#[test]
fn no_notice_shows_a_token() {
    let mut world = rotating(2);
    let reset = until_reset(&mut world, 2);
    let body: Value = json!({ "message": format!("no {TOKEN}") });
    world.reply(&reset, reply(422).json(&body));
    assert!(world.notice("no [MASKED]"));
    assert!(!world.notice(TOKEN));
}
