//! What `Debug` and messages may not show.

use gitlab_runner::machine::{Input, MachineConfig, RunnerMachine};
use gitlab_runner::{Secret, Time, protocol::ServerUrl};
use serde_json::json;

use crate::world::{JOB_TOKEN, TOKEN, World, payload, reply};

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
