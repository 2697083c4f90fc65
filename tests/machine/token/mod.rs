//! The runner's token: registration, unregistering, reset and rotation.

mod calls;
mod rotation;

use std::time::Duration;

use gitlab_runner::machine::{Input, NewToken, RunnerCall};
use serde_json::json;

use crate::world::{Reply, Sent, TOKEN, World, reply};

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
