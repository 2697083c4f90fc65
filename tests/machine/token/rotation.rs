//! A token that expires is changed in time, and nothing is lost over that.

use std::time::Duration;

use gitlab_runner::{
    Secret,
    machine::{Input, Notice, Reason, RunnerCall, TokenNotice},
};
use serde_json::{Value, json};

use super::{DAY, RESET, new_token, on_day, rotating, stored, until_reset, verified};
use crate::world::{TOKEN, World, html, payload, reply};

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
fn a_start_that_could_not_verify_asks_no_more_when_nothing_is_rotated() {
    for rotate in [false, true] {
        let mut world = World::with(|config| (config.verify, config.rotate) = (true, rotate));
        world.input(Input::PollOnce);
        let verify = world.request();
        // A token that is refused is not asked about either.
        world.reply(&verify, if rotate { reply(403) } else { html(502) });
        if let Some(poll) = world.pending() {
            world.reply(&poll, reply(204));
        }
        assert_eq!(world.machine.poll_timeout(), None, "{rotate}");
    }
}

#[test]
fn a_refusal_alone_is_no_lost_token() {
    let mut world = rotating(9);
    world.input(Input::SetCapacity(0));
    let verify = loop {
        let sent = world.next_any();
        if sent.path == "runners/verify" {
            break sent;
        }
        world.reply(&sent, reply(204));
    };
    let from = world.now;
    world.reply(&verify, reply(429).header("Retry-After", "500"));
    assert!(!world.notice("is lost"));
    assert!(world.notice("could not be verified or changed"));
    // The server says when.
    let verify = world.next_request();
    assert!(verify.at.since(from) >= Duration::from_secs(500));
    world.reply(&verify, reply(403));
    assert!(!world.notice("is lost"));
}

#[test]
fn a_token_that_is_due_in_just_a_day_is_changed_then() {
    for (more, wanted) in [(0, RESET), (1, "runners/verify")] {
        let mut world = World::with(|config| {
            (config.verify, config.rotate) = (true, true);
            config.token_obtained_at = Some(gitlab_runner::WallTime::default());
            config.wall_origin = gitlab_runner::WallTime(2 * DAY - Duration::from_secs(100 + more));
        });
        world.input(Input::SetCapacity(0));
        world.input(Input::PollOnce);
        let verify = world.request();
        // Four days of life: changed when three are over.
        verified(&mut world, &verify, Some(5));
        let poll = world.request();
        world.reply(&poll, reply(204));
        let from = world.now;
        let sent = world.next_request();
        assert_eq!((sent.at.since(from), &*sent.path), (DAY, wanted));
    }
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
