//! What `Debug` and messages may not show.

use gitlab_runner::{
    Secret, Time,
    machine::{Input, JobInput, MachineConfig, Reason, RunnerCall, RunnerMachine, StopMode},
    protocol::{Registration, ServerUrl},
};
use serde_json::json;

use crate::world::{JOB, JOB_TOKEN, TOKEN, World, payload, reply};

#[test]
fn no_token_shows_in_debug() {
    let mut payload = payload();
    payload["variables"] =
        json!([{ "key": "PASSWORD", "value": "a-masked-value", "masked": true }]);
    payload["git_info"] =
        json!({ "repo_url": format!("https://gitlab-ci-token:{JOB_TOKEN}@h/p.git") });

    let server = ServerUrl::parse("https://gitlab.example.com").unwrap();
    let config = MachineConfig::new(server, Secret::from(TOKEN), "s_1");
    let mut shown = format!("{config:?}");
    let mut machine = RunnerMachine::new(config, 1);
    machine.handle_input(Time::ZERO, Input::SetCapacity(2));
    for _ in 0..3 {
        shown += &format!("{machine:?}");
        while let Some(output) = machine.poll_output() {
            shown += &format!("{output:?}");
            let gitlab_runner::machine::Output::Send { request, http, .. } = output else {
                continue;
            };
            let path = http.uri().path().to_owned();
            let (status, body) = match &*path {
                "/api/v4/jobs/request" => (201, payload.to_string()),
                _ => (200, String::new()),
            };
            let mut response = http::Response::new(body.into());
            *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
            let input = Input::Reply { request, response };
            shown += &format!("{input:?}");
            machine.handle_input(Time::ZERO, input);
        }
    }
    assert!(shown.contains("Start"), "{shown}");
    assert!(shown.contains("Step(0: script, 1 lines)"), "{shown}");
    for secret in [TOKEN, JOB_TOKEN, "a-masked-value"] {
        assert!(!shown.contains(secret), "{secret} shows");
    }
}

#[test]
fn a_server_that_echoes_the_token_is_not_quoted() {
    let mut world = World::new();
    world.input(Input::SetCapacity(1));
    let poll = world.request();
    world.reply(
        &poll,
        reply(400).json(&json!({ "error": format!("bad token {TOKEN}!") })),
    );
    assert!(world.notice("bad token"));
    assert!(!world.notice(TOKEN));
    assert!(!format!("{:?}", world.notices).contains(TOKEN));

    let mut world = World::running(&crate::world::payload());
    let put = world.next_request();
    world.reply(
        &put,
        reply(403).json(&json!({ "message": format!("no {JOB_TOKEN}") })),
    );
    assert!(!format!("{:?}", world.notices).contains(JOB_TOKEN));
}

#[test]
fn what_a_job_masks_is_not_quoted() {
    let mut payload = payload();
    payload["variables"] = json!([
        { "key": "A", "value": "a \"masked\" value", "masked": true },
        { "key": "B", "value": "one line\nanother\n", "file": true },
        { "key": "C", "value": "shown to all", "public": true },
    ]);
    let mut world = World::running(&payload);
    let put = world.next_request();
    let said = "no a \"masked\" value, one line\nanother\nshown to all";
    world.reply(&put, reply(500).json(&json!({ "message": said })));
    assert!(
        world.notice("no [MASKED], [MASKED] shown to all"),
        "{:?}",
        world.notices
    );
    assert!(!format!("{:?}", world.notices).contains("masked\\\" value"));
}

#[test]
fn no_part_of_a_token_is_left_where_a_text_is_cut() {
    for before in 180..205 {
        let mut world = World::new();
        world.input(Input::SetCapacity(1));
        let poll = world.request();
        let message = format!("{}{TOKEN}", "x".repeat(before));
        world.reply(&poll, reply(500).json(&json!({ "message": message })));
        assert!(world.notice("could not ask"));
        assert!(!world.notice(&TOKEN[..6]), "{before}: {:?}", world.notices);
    }
}

#[test]
fn the_target_of_a_redirect_is_shown_without_what_may_be_secret() {
    let mut world = World::new();
    world.input(Input::SetCapacity(1));
    let poll = world.request();
    let location = format!("https://user:hunter2@elsewhere.example/{TOKEN}/x?key=hunter3#hunter4");
    world.reply(&poll, reply(302).header("Location", &location));
    assert!(world.notice("redirects to https://elsewhere.example/[MASKED]/x"));
    assert!(!world.notice("hunter"));
}

#[test]
fn inputs_and_reasons_say_what_they_are_and_no_more() {
    let registration = Registration::new(TOKEN);
    for (input, shown) in [
        (Input::Timeout, "Timeout"),
        (Input::SetCapacity(3), "SetCapacity(3)"),
        (Input::PollOnce, "PollOnce"),
        (Input::WithdrawPoll, "WithdrawPoll"),
        (Input::Stop(StopMode::Drain), "Stop(Drain)"),
        (Input::TokenPersisted(Ok(())), "TokenPersisted"),
        (
            Input::TokenPersisted(Err(format!("no space for {TOKEN}"))),
            "TokenPersisted(failed)",
        ),
        (
            Input::Job {
                job: JOB,
                input: JobInput::Accepted,
            },
            "Job(7, Accepted)",
        ),
        (Input::Call(RunnerCall::Verify), "Call(Verify)"),
    ] {
        assert_eq!(format!("{input:?}"), shown);
    }
    let register = Input::Call(RunnerCall::Register(Box::new(registration)));
    assert!(!format!("{register:?}").contains(TOKEN));
    let mut world = World::new();
    world.input(Input::SetCapacity(1));
    let (request, len) = (world.request().id, 3);
    let spooled = Input::Spooled { request, len };
    assert_eq!(
        format!("{spooled:?}"),
        format!("Spooled({request}, 3 bytes)")
    );
    assert_eq!(Reason::KeepAlive.to_string(), "keep-alive");
}
