//! Answers to `POST jobs/request`.

use std::time::Duration;

use gitlab_runner::machine::{Input, JobInput, PollOutcome, ReplyBody, StepResult};
use serde_json::json;

use crate::world::{Reply, Sent, TOKEN, World, html, payload, reply};

const SECOND: Duration = Duration::from_secs(1);

fn polling() -> (World, Sent) {
    let mut world = World::new();
    world.input(Input::SetCapacity(1));
    let poll = world.request();
    (world, poll)
}

#[test]
fn what_a_job_request_looks_like() {
    let (_, poll) = polling();
    assert_eq!(
        (poll.method.as_str(), poll.path.as_str()),
        ("POST", "jobs/request")
    );
    assert_eq!(poll.header("Content-Type"), Some("application/json"));
    assert_eq!(poll.header("Accept"), Some("application/json"));
    assert_eq!(poll.header("RUNNER-TOKEN"), Some(TOKEN));
    assert!(
        poll.header("User-Agent")
            .unwrap()
            .starts_with("gitlab-runner-rs ")
    );
    let id = poll.header("X-Request-ID").unwrap();
    let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    assert!(id.len() == 32 && id.bytes().all(is_hex), "{id}");
    // Some jobs are large.
    assert_eq!(poll.reply, ReplyBody::Collect { limit: 32 << 20 });
    let body = poll.json();
    assert_eq!(body["token"], TOKEN);
    assert_eq!(body["system_id"], "s_0123456789ab");
    assert_eq!(body.get("last_update"), None);
    let features = &body["info"]["features"];
    for name in ["refspecs", "masking", "trace_checksum", "cancel_gracefully"] {
        assert_eq!(features[name], true, "{name}");
    }
    for name in ["image", "services", "cache", "session"] {
        assert_ne!(features[name], true, "{name}");
    }
}

#[test]
fn request_201_runs_the_job_and_asks_for_the_next() {
    let mut world = World::new();
    world.input(Input::SetCapacity(2));
    let poll = world.request();
    world.reply(&poll, reply(201).json(&payload()));
    // The commit, and at once the next job request.
    let stats = world.machine.stats();
    assert_eq!((stats.jobs, stats.requests_in_flight), (1, 2));
}

#[test]
fn request_204_waits_for_three_seconds() {
    let (mut world, poll) = polling();
    world.reply(&poll, reply(204));
    let (wait, _) = world.next_request_after();
    assert!((3 * SECOND..4 * SECOND).contains(&wait), "{wait:?}");
}

#[test]
fn request_204_that_was_held_is_repeated_at_once() {
    let (mut world, poll) = polling();
    world.now = world.now + 50 * SECOND;
    world.reply(&poll, reply(204).header("Gitlab-Ci-Builds-Polling", "yes"));
    world.request();
}

/// The front end's own 204 has no queue value, that of Rails has.
fn front_end(value: Option<&str>) -> Reply {
    let reply = reply(204).header("Gitlab-Ci-Builds-Polling", "yes");
    match value {
        Some(value) => reply.header("X-GitLab-Last-Update", value),
        None => reply,
    }
}

#[test]
fn a_new_queue_value_is_held_at_once_and_a_short_hold_is_one() {
    let (mut world, poll) = polling();
    world.reply(&poll, front_end(Some("abc")));
    let poll = world.request();
    assert_eq!(poll.json()["last_update"], "abc");
    world.now = world.now + SECOND / 3;
    world.reply(&poll, front_end(None));
    let poll = world.request();
    // Another runner was faster.
    world.reply(&poll, front_end(Some("def")));
    let (wait, _) = world.next_request_after();
    assert!(wait >= 3 * SECOND, "{wait:?}");
}

#[test]
fn a_front_end_that_does_not_hold_is_not_asked_more_often() {
    let (mut world, poll) = polling();
    world.reply(&poll, front_end(Some("abc")));
    for _ in 0..2 {
        let poll = world.request();
        world.reply(&poll, front_end(None));
    }
    for value in [None, Some("def"), None, Some("ghi")] {
        let (wait, poll) = world.next_request_after();
        assert!(wait >= 3 * SECOND, "{wait:?}");
        world.reply(&poll, front_end(value));
    }
    // Now it does.
    let poll = world.next_request();
    world.now = world.now + 2 * SECOND;
    world.reply(&poll, front_end(None));
    let poll = world.request();
    world.reply(&poll, front_end(Some("jkl")));
    let (wait, poll) = world.next_request_after();
    assert!(wait >= 3 * SECOND, "{wait:?}");
    world.reply(&poll, front_end(Some("mno")));
    world.request();
}

#[test]
fn request_204_keeps_the_queue_value() {
    let (mut world, poll) = polling();
    world.reply(&poll, reply(204).header("X-GitLab-Last-Update", "abc"));
    let poll = world.next_request();
    assert_eq!(poll.json()["last_update"], "abc");
    // Workhorse's own 204 has none: the last one stays.
    world.now = world.now + 50 * SECOND;
    world.reply(&poll, reply(204));
    let poll = world.request();
    assert_eq!(poll.json()["last_update"], "abc");
    world.reply(&poll, reply(204).header("X-GitLab-Last-Update", "def"));
    let poll = world.next_request();
    assert_eq!(poll.json()["last_update"], "def");
    // A conflict has none either; what an error says counts, and an empty value does not.
    world.reply(&poll, reply(409));
    let poll = world.next_request();
    assert_eq!(poll.json()["last_update"], "def");
    world.reply(&poll, reply(500).header("X-GitLab-Last-Update", "ghi"));
    let poll = world.next_request();
    assert_eq!(poll.json()["last_update"], "ghi");
    world.reply(&poll, reply(204).header("X-GitLab-Last-Update", ""));
    assert_eq!(world.next_request().json()["last_update"], "ghi");
}

#[test]
fn request_400_is_not_repeated_often() {
    for status in [400, 404, 405, 410, 422] {
        let (mut world, poll) = polling();
        world.reply(
            &poll,
            reply(status).body(r#"{"error":"system_id is invalid"}"#),
        );
        assert!(world.notice("system_id is invalid"), "{:?}", world.notices);
        let (wait, _) = world.next_request_after();
        assert!(wait >= 60 * SECOND, "{status}: {wait:?}");
    }
}

#[test]
fn request_404_names_the_server_that_was_asked() {
    for reply in [
        html(404),
        reply(404).body(r#"{"error":"404 Not Found"}"#),
        reply(404),
    ] {
        let (mut world, poll) = polling();
        world.reply(&poll, reply);
        assert!(
            world.notice("404 Not Found: is https://gitlab.example.com/sub the address of GitLab?"),
            "{:?}",
            world.notices
        );
    }
}

#[test]
fn request_403_pauses_this_runner_ever_longer() {
    for status in [401, 403] {
        let (mut world, mut poll) = polling();
        let mut waits = Vec::new();
        for _ in 0..10 {
            world.reply(&poll, reply(status));
            let wait;
            (wait, poll) = world.next_request_after();
            waits.push(wait);
        }
        assert!((60 * SECOND..=72 * SECOND).contains(&waits[0]), "{waits:?}");
        assert!(
            (120 * SECOND..=144 * SECOND).contains(&waits[1]),
            "{waits:?}"
        );
        assert!(
            waits[9] >= 3000 * SECOND && waits[9] <= 3600 * SECOND,
            "{waits:?}"
        );
        assert!(world.stopped.is_none());
        // And is back at once.
        world.reply(&poll, reply(204));
        assert!(world.next_request_after().0 < 4 * SECOND);
    }
}

#[test]
fn request_409_retries_soon_but_not_for_ever() {
    let (mut world, mut poll) = polling();
    let from = world.now;
    for n in 0..20 {
        world.reply(&poll, reply(409));
        let wait;
        (wait, poll) = world.next_request_after();
        assert!(wait >= SECOND / 2 && wait <= 4 * SECOND, "{n}: {wait:?}");
        assert!(n > 3 || wait <= SECOND, "{n}: {wait:?}");
    }
    assert!(world.now.since(from) > 40 * SECOND);
    assert!(world.notices.is_empty());
}

#[test]
fn request_413_shrinks_info() {
    let mut world = World::with(|config| config.info.version = "x".repeat(2048));
    world.input(Input::SetCapacity(1));
    let poll = world.request();
    let len = poll.body.len();
    world.reply(&poll, html(413));
    let poll = world.request();
    assert!(poll.body.len() < len / 2, "{} of {len}", poll.body.len());
    assert_eq!(poll.json()["token"], TOKEN);
    // That was all we can do.
    world.reply(&poll, html(413));
    assert!(world.next_request_after().0 >= 60 * SECOND);

    // Who asked once hears of the second try.
    let mut world = World::new();
    world.input(Input::PollOnce);
    let poll = world.request();
    world.reply(&poll, html(413));
    assert!(world.polled.is_empty());
    let poll = world.request();
    world.reply(&poll, reply(204));
    assert!(matches!(world.polled.pop_front(), Some(PollOutcome::NoJob)));
    assert_eq!(world.machine.poll_timeout(), None);
}

#[test]
fn poll_once_has_an_answer_when_its_request_is_too_large() {
    let mut world = World::new();
    world.input(Input::PollOnce);
    let poll = world.request();
    world.reply(&poll, html(413));
    assert!(world.polled.is_empty(), "{:?}", world.polled);
    let poll = world.request();
    world.reply(&poll, reply(204));
    assert!(matches!(world.polled.pop_front(), Some(PollOutcome::NoJob)));
    assert!(world.polled.is_empty());
    // It was for that once.
    world.pass(600 * SECOND);
}

#[test]
fn request_429_waits_as_told() {
    for (name, value, seconds) in [
        ("Retry-After", "17", 17),
        ("Retry-After", "99999999", 600),
        ("Retry-After", "soon", 60),
        ("X-Nothing", "", 60),
    ] {
        let (mut world, poll) = polling();
        world.reply(&poll, reply(429).header(name, value));
        let (wait, _) = world.next_request_after();
        let told = seconds * SECOND;
        assert!(
            (told..=told * 6 / 5).contains(&wait),
            "{name}: {value}: {wait:?}"
        );
    }
}

#[test]
fn request_429_waits_until_a_date() {
    for (name, value) in [
        ("Retry-After", "Tue, 24 Nov 2026 12:05:00 GMT"),
        ("RateLimit-ResetTime", "Tue, 24 Nov 2026 12:05:00 GMT"),
    ] {
        let noon = gitlab_runner::WallTime(Duration::from_secs(1_795_521_600));
        let mut world = World::with(|config| config.wall_origin = noon);
        world.now = gitlab_runner::Time::ZERO;
        world.input(Input::SetCapacity(1));
        let poll = world.request();
        world.reply(&poll, reply(429).header(name, value));
        let (wait, _) = world.next_request_after();
        assert!(
            (300 * SECOND..=360 * SECOND).contains(&wait),
            "{name}: {wait:?}"
        );
    }
}

#[test]
fn request_5xx_backs_off_and_names_what_it_got() {
    let (mut world, mut poll) = polling();
    let mut waits = Vec::new();
    for n in 0..12 {
        let status = [500, 502, 503, 504][n % 4];
        world.reply(&poll, html(status));
        assert!(world.notice(&status.to_string()));
        let wait;
        (wait, poll) = world.next_request_after();
        waits.push(wait);
    }
    for (wait, base) in waits.iter().zip([1, 2, 4, 8, 16, 32, 50, 50]) {
        assert!(
            (base * SECOND..=base * SECOND * 6 / 5).contains(wait),
            "{waits:?}"
        );
    }
    // One answer, and all is well.
    world.reply(&poll, reply(204));
    assert!(world.next_request_after().0 < 4 * SECOND);
}

#[test]
fn request_lost_may_mean_a_job_that_nobody_knows_of() {
    let (mut world, poll) = polling();
    world.lose(&poll);
    assert!(world.notice("may have assigned a job"));
    let (wait, _) = world.next_request_after();
    assert!((SECOND..2 * SECOND).contains(&wait), "{wait:?}");

    let (mut world, poll) = polling();
    world.fail(&poll, false);
    assert!(!world.notice("may have assigned a job"));
}

#[test]
fn redirects_are_not_followed_but_told() {
    let (mut world, poll) = polling();
    let location = "https://gitlab.example.com:8443/api/v4/jobs/request?private=1";
    world.reply(&poll, reply(301).header("Location", location));
    assert!(world.notice("redirects to https://gitlab.example.com:8443/api/v4/jobs/request;"));
    assert!(!world.notice("private"));

    // What GitLab says counts for more, and a place alone is no redirect.
    for (status, body, said) in [(301, "gone west", "gone west"), (500, "", "500")] {
        let (mut world, poll) = polling();
        let answer = reply(status).header("Location", location);
        world.reply(&poll, answer.json(&json!({ "message": body })));
        assert!(world.notice(said) && !world.notice("redirects to"));
    }
}

#[test]
fn no_job_is_asked_for_above_the_capacity() {
    let mut world = World::running(&payload());
    world.input(Input::SetCapacity(1));
    world.pass(25 * SECOND);
    world.input(Input::SetCapacity(2));
    let poll = world.request();
    assert_eq!(poll.path, "jobs/request");
    // What is on its way is awaited, whatever the capacity is now.
    world.input(Input::SetCapacity(0));
    assert!(world.forgotten.is_empty());
    let mut second = payload();
    second["id"] = json!(8);
    world.reply(&poll, reply(201).json(&second));
    assert_eq!(world.request().path, "jobs/8");
}

#[test]
fn a_capacity_of_zero_asks_for_nothing() {
    let mut world = World::new();
    world.input(Input::SetCapacity(0));
    assert_eq!(world.machine.poll_timeout(), None);
    world.no_request();
}

#[test]
fn poll_once_has_each_outcome() {
    for n in 0..7 {
        let mut world = World::new();
        world.input(Input::PollOnce);
        let poll = world.request();
        match n {
            0 => world.reply(&poll, reply(204)),
            1 => world.reply(&poll, reply(409)),
            2 => world.reply(&poll, reply(500)),
            3 => world.lose(&poll),
            4 => world.reply(&poll, reply(201).body("no json")),
            5 => {
                world.reply(&poll, reply(201).json(&payload()));
                assert!(world.polled.is_empty());
                let commit = world.request();
                world.reply(&commit, reply(200));
            }
            _ => {
                world.reply(&poll, reply(201).json(&payload()));
                let commit = world.request();
                world.reply(&commit, reply(403));
            }
        }
        let outcome = world.polled.pop_front().unwrap();
        let right = match n {
            0 | 1 | 6 => matches!(outcome, PollOutcome::NoJob),
            2..=4 => matches!(outcome, PollOutcome::Failed(_)),
            _ => matches!(outcome, PollOutcome::Started(_)),
        };
        assert!(right, "{n}: {outcome:?}");
        assert!(world.polled.is_empty());
        world.no_request();
    }
}

#[test]
fn poll_once_is_answered_in_order() {
    let mut world = World::new();
    for _ in 0..3 {
        world.input(Input::PollOnce);
    }
    assert_eq!(world.machine.stats().polls_waiting, 2);
    let poll = world.request();
    world.reply(&poll, reply(201).json(&payload()));
    // The answer to the first is not known before its job is committed.
    let commit = world.request();
    world.reply(&commit, reply(200));
    assert!(matches!(
        world.polled.pop_front(),
        Some(PollOutcome::Started(_))
    ));
    let poll = world.request();
    world.input(Input::WithdrawPoll);
    assert_eq!(world.machine.stats().polls_waiting, 0);
    world.reply(&poll, reply(204));
    assert!(matches!(world.polled.pop_front(), Some(PollOutcome::NoJob)));
    world.no_request();
    let ignored = world.ignored();
    world.input(Input::WithdrawPoll);
    assert_eq!(world.ignored(), ignored + 1);
}

#[test]
fn poll_once_does_not_wait_for_the_pause_between_polls_but_for_trouble() {
    let mut world = World::new();
    world.input(Input::PollOnce);
    let poll = world.request();
    world.reply(&poll, reply(204));
    world.input(Input::PollOnce);
    let poll = world.request();
    world.reply(&poll, reply(503).header("Retry-After", "40"));
    world.input(Input::PollOnce);
    assert!(world.next_request_after().0 >= 40 * SECOND);
}

#[test]
fn late_and_repeated_answers_are_ignored() {
    let (mut world, poll) = polling();
    world.reply(&poll, reply(204));
    let ignored = world.ignored();
    world.reply(&poll, reply(201).json(&payload()));
    world.lose(&poll);
    assert_eq!(world.ignored(), ignored + 2);
    assert_eq!(world.machine.stats().jobs, 0);
}

#[test]
fn a_full_life_frees_the_place_for_the_next_job() {
    let (mut world, update) = World::finishing(StepResult::Ok);
    world.reply(&update, reply(200));
    world.is_over();
    let poll = world.request();
    world.reply(&poll, reply(201).json(&payload()));
    let commit = world.request();
    world.reply(&commit, reply(200));
    world.job_output();
    world.job_input(JobInput::Accepted);
    assert_eq!(world.step(), "script");
}

#[test]
fn time_that_goes_back_is_held() {
    let (mut world, poll) = polling();
    let now = world.now;
    world.now = gitlab_runner::Time::ZERO;
    world.reply(&poll, reply(204));
    assert!(world.machine.poll_timeout().unwrap().0 >= now + 3 * SECOND);
}

#[test]
fn a_job_that_is_no_new_one_does_not_lead_to_a_storm_of_requests() {
    // The same job once more while it runs.
    let mut world = World::with(|config| config.commit = false);
    world.input(Input::SetCapacity(2));
    let poll = world.request();
    world.reply(&poll, reply(201).json(&payload()));
    let poll = world.request();
    world.reply(&poll, reply(201).json(&payload()));
    assert!(world.notice("again while it is running"));
    let (wait, poll) = world.next_request_after();
    assert_eq!(poll.path, "jobs/request");
    assert!(wait >= 3 * SECOND, "{wait:?}");

    // A job that GitLab takes back as soon as it handed it out.
    let (mut world, commit) = World::committing(&payload());
    world.reply(&commit, reply(403));
    let (wait, poll) = world.next_request_after();
    assert_eq!(poll.path, "jobs/request");
    assert!(wait >= 3 * SECOND, "{wait:?}");
}

#[test]
fn a_caller_that_does_not_wait_is_made_to() {
    // For a token that was refused, and for a server that conflicts.
    for (verify, status) in [(true, 403), (false, 409)] {
        let mut world = World::with(|config| config.verify = verify);
        let from = world.now;
        for _ in 0..10 {
            world.input(Input::PollOnce);
            let sent = world.next_request();
            world.reply(&sent, reply(status));
            assert!(world.polled.pop_front().is_some());
        }
        assert!(world.now.since(from) >= 4 * SECOND, "{status}");
    }
}

#[test]
fn jobs_that_cannot_be_read_do_not_come_at_wire_speed() {
    let mut world = World::new();
    world.input(Input::SetCapacity(5));
    let end = world.now + Duration::from_secs(60);
    let mut jobs = 0;
    while world.now < end {
        let sent = world.next_any();
        let answer = match sent.path.as_str() {
            "jobs/request" => {
                jobs += 1;
                reply(201).json(&json!({ "id": 1000 + jobs, "token": "glcbt-x", "steps": 5 }))
            }
            _ => reply(200),
        };
        world.reply(&sent, answer);
    }
    assert!((15..=25).contains(&jobs), "{jobs}");
}

#[test]
fn a_limit_on_the_address_slows_everything_that_shares_it() {
    for (answer, shared) in [
        (
            reply(429).header("Retry-After", "50").body("Retry later"),
            true,
        ),
        (
            reply(429)
                .header("Retry-After", "50")
                .header("RateLimit-Name", "throttle_unauthenticated_api"),
            true,
        ),
        (
            reply(429)
                .header("Retry-After", "50")
                .json(&json!({ "message": { "error": "This endpoint has been requested too many times." } })),
            false,
        ),
    ] {
        // A job's patch is refused while another place is free.
        let mut world = World::with(|config| config.commit = false);
        world.input(Input::SetCapacity(2));
        let poll = world.request();
        world.reply(&poll, reply(201).json(&payload()));
        let poll = world.request();
        world.reply(&poll, reply(204));
        world.job_output();
        world.job_input(JobInput::Accepted);
        assert_eq!(world.step(), "script");
        world.log_to(10);
        let from = world.now;
        let patch = loop {
            let sent = world.next_any();
            if sent.method == "PATCH" {
                break sent;
            }
            world.reply(&sent, reply(204));
        };
        world.reply(&patch, answer);
        let next = world.next_any();
        assert_eq!(next.at.since(from) >= 50 * SECOND, shared, "{next:?}");
    }
}
