//! Runners: verify, register, delete, new tokens, managers.

use std::time::Duration;

use bytes::Bytes;
use gitlab_runner::mock::{JobStatus, VerifyMode};
use http::{Method, Request};
use serde_json::{Value, json};

use crate::world::{Reply, SYSTEM_ID, TOKEN, World, asking_with, job, json_request};

const RESET: &str = "runners/reset_authentication_token";

/// A known token is 200 with the runner's id, the presented token and its expiry.
#[test]
fn verify_tells_id_token_and_expiry() {
    let mut world = World::new();
    let reply = world.verify(&json!({ "token": TOKEN, "system_id": SYSTEM_ID }));
    assert_eq!(reply.status(), 200);
    let id: u64 = world.runner.to_string().parse().unwrap();
    assert_eq!(
        reply.body(),
        json!({ "id": id, "token": TOKEN, "token_expires_at": null })
    );
}

/// An old server answers 200 in plain text, and one without the route 404.
#[test]
fn verify_can_be_that_of_an_old_server() {
    let mut world = World::new();
    world.gitlab.settings_mut().verify = VerifyMode::PlainText;
    let reply = world.verify(&json!({ "token": TOKEN }));
    assert_eq!(reply.status(), 200);
    assert!(
        reply
            .header("Content-Type")
            .unwrap()
            .starts_with("text/plain")
    );
    assert!(serde_json::from_str::<Value>(reply.text()).is_ok_and(|body| !body.is_object()));
    world.gitlab.settings_mut().verify = VerifyMode::Missing;
    assert_eq!(world.verify(&json!({ "token": TOKEN })).status(), 404);
}

/// The order is 429, then 400, then 403.
#[test]
fn verify_refuses_in_order() {
    let mut world = World::new();
    world
        .verify(&json!({ "token": "glrt-unknown" }))
        .assert_forbidden(None, None);
    let reply = world.verify(&json!({}));
    assert_eq!(reply.status(), 400);
    assert_eq!(reply.body(), json!({ "error": "token is missing" }));
    world.gitlab.settings_mut().migration_backoff = true;
    assert_eq!(world.verify(&json!({})).status(), 429);
}

/// The details of a manager are stored with the first contact, and after that not before 40 to 55
/// minutes have passed: so `verify` with full details is what counts.
#[test]
fn details_are_stored_with_the_first_contact() {
    let mut world = World::new();
    let mut verify = asking_with(&["cancel_gracefully"]);
    verify["info"]["version"] = "1.0".into();
    world.verify(&verify);
    verify["info"]["version"] = "2.0".into();
    let version = |world: &World| {
        let manager = world.gitlab.managers(world.runner).next().unwrap();
        assert!(manager.has_feature("cancel_gracefully"));
        manager.info["version"].as_str().unwrap().to_owned()
    };
    world.wait(40 * 60 - 1);
    world.ask(&verify);
    assert_eq!(version(&world), "1.0");
    world.wait(15 * 60 + 1);
    world.ask(&verify);
    assert_eq!(version(&world), "2.0");
}

/// A first contact without details leaves the manager without features for as long.
#[test]
fn a_first_contact_without_details_takes_the_turn() {
    let mut world = World::new();
    world.verify(&json!({ "token": TOKEN, "system_id": SYSTEM_ID }));
    world.wait(60);
    world.ask_with(&["cancel_gracefully"]);
    let manager = world.gitlab.managers(world.runner).next().unwrap();
    assert!(!manager.has_feature("cancel_gracefully"));
    assert_eq!(manager.info, json!({}));
    assert_eq!(
        manager.last_contact,
        manager.first_contact + Duration::from_secs(60)
    );
}

/// Not everything is kept: no shell, of the configuration only the GPUs, and an executor that is
/// not GitLab's is unknown.
#[test]
fn details_are_reduced_to_what_is_kept() {
    for (executor, stored) in [("docker+machine", "docker+machine"), ("rust", "unknown")] {
        let mut world = World::new();
        world.verify(&json!({
            "token": TOKEN,
            "info": {
                "version": "1.0",
                "executor": executor,
                "shell": "bash",
                "config": { "gpus": "all", "limit": 3 },
                "labels": { "zone": "a" },
            },
        }));
        let manager = world.gitlab.managers(world.runner).next().unwrap();
        assert_eq!(
            manager.info,
            json!({
                "version": "1.0",
                "executor": stored,
                "config": { "gpus": "all" },
                "labels": { "zone": "a" },
            })
        );
    }
}

/// Updates and patches count as contact of the manager that has the job.
#[test]
fn updates_and_patches_are_contact() {
    let mut world = World::new();
    let job = world.running();
    let last = |world: &World| {
        let mut managers = world.gitlab.managers(world.runner);
        managers.next().unwrap().last_contact
    };
    for _ in 0..2 {
        world.wait(20);
        world.put(&job, "running");
        assert_eq!(last(&world), world.now);
        world.wait(20);
        world.patch(&job, 0, "");
        assert_eq!(last(&world), world.now);
    }
}

fn register(world: &mut World, rest: Value) -> Reply {
    let mut body = json!({ "token": "registration" });
    body.as_object_mut()
        .unwrap()
        .extend(rest.as_object().unwrap().clone());
    world.json(Method::POST, "runners", &body)
}

fn with_registration() -> World {
    let mut world = World::new();
    world.gitlab.settings_mut().registration_token = Some("registration".into());
    world
}

/// A registration token makes a runner: 201 with its id, its token (which does not begin as those
/// of the user interface do) and its expiry. The runner can then ask for jobs.
#[test]
fn registration_makes_a_runner() {
    let mut world = with_registration();
    world.gitlab.enqueue(job().timeout(3600));
    let reply = register(
        &mut world,
        json!({
            "description": "builder",
            "tag_list": "linux, rust",
            "run_untagged": true,
            "maximum_timeout": 600,
            "access_level": "not_protected",
            "info": { "name": "example" },
        }),
    );
    assert_eq!(reply.status(), 201);
    let body = reply.body();
    assert!(body["id"].is_u64());
    assert_eq!(body["token_expires_at"], Value::Null);
    let token = body["token"].as_str().unwrap();
    assert!(!token.starts_with("glrt-"));
    let payload = world.ask(&json!({ "token": token })).body();
    assert_eq!(payload["runner_info"]["timeout"], 600);
    assert_eq!(payload["steps"][0]["timeout"], 600);
    let variables = payload["variables"].as_array().unwrap();
    let name = variables
        .iter()
        .find(|variable| variable["key"] == "CI_RUNNER_DESCRIPTION");
    assert_eq!(name.unwrap()["value"], "builder");
}

/// Paused, or with the deprecated inverse not active, the new runner gets no jobs.
#[test]
fn a_runner_can_be_registered_paused() {
    for (rest, status) in [
        (json!({ "paused": true }), 204),
        (json!({ "active": false }), 204),
        (json!({ "active": true }), 201),
    ] {
        let mut world = with_registration();
        world.gitlab.enqueue(job());
        let token = register(&mut world, rest).body()["token"].clone();
        assert_eq!(world.ask(&json!({ "token": token })).status(), status);
    }
}

/// An unknown registration token is 403 with a reason; 410 where they are not allowed at all.
#[test]
fn registration_can_be_refused() {
    let mut world = World::new();
    register(&mut world, json!({})).assert_forbidden(Some("invalid token supplied"), None);
    let mut world = with_registration();
    let reply = world.json(Method::POST, "runners", &json!({ "token": "other" }));
    assert_eq!(reply.status(), 403);
    world.gitlab.settings_mut().registration_allowed = false;
    for token in ["registration", "other"] {
        let reply = world.json(Method::POST, "runners", &json!({ "token": token }));
        assert_eq!(reply.status(), 410);
        let text = "410 Gone - runner registration disallowed";
        assert_eq!(reply.body(), json!({ "message": text }));
    }
}

/// Parameters that contradict each other, or are none of the allowed values: 400 before the token
/// is looked at.
#[test]
fn registration_validates_its_parameters() {
    let mut world = World::new();
    for rest in [
        json!({ "paused": true, "active": true }),
        json!({ "maintenance_note": "a", "maintainer_note": "b" }),
        json!({ "access_level": "public" }),
        json!({ "tag_list": { "a": 1 } }),
        json!({ "maximum_timeout": "soon" }),
        json!({ "locked": "perhaps" }),
    ] {
        let reply = register(&mut world, rest.clone());
        assert_eq!(reply.status(), 400, "{rest}");
        assert!(reply.body()["error"].is_string());
    }
}

/// What the model refuses is 400 as well, with `message` as an object of fields and texts.
#[test]
fn registration_validates_the_runner() {
    for (rest, field) in [
        (json!({ "run_untagged": false }), "tags_list"),
        (
            json!({ "run_untagged": false, "tag_list": " , " }),
            "tags_list",
        ),
        (json!({ "maximum_timeout": 599 }), "maximum_timeout"),
        (
            json!({ "maintenance_note": "x".repeat(1025) }),
            "maintenance_note",
        ),
    ] {
        let mut world = with_registration();
        let reply = register(&mut world, rest);
        assert_eq!(reply.status(), 400);
        assert!(reply.body()["message"][field][0].is_string());
    }
    let mut world = with_registration();
    let reply = register(
        &mut world,
        json!({ "run_untagged": false, "tag_list": ["a"], "maximum_timeout": "" }),
    );
    assert_eq!(reply.status(), 201);
}

/// Deleting the runner ends its token for all who share it; the token may be in the query.
#[test]
fn a_deleted_runner_is_unknown() {
    let mut world = World::new();
    let reply = world.json(Method::DELETE, "runners", &json!({}));
    assert_eq!(reply.status(), 400);
    let request = Request::delete(format!("/api/v4/runners?token={TOKEN}"))
        .body(Bytes::new())
        .unwrap();
    let reply = world.send(request);
    assert_eq!(reply.status(), 204);
    assert_eq!(reply.text(), "");
    world.ask_plainly().assert_forbidden(None, None);
    let reply = world.json(Method::DELETE, "runners", &json!({ "token": TOKEN }));
    reply.assert_forbidden(None, None);
}

/// Deleting a manager needs token and `system_id`, touches that manager alone, and is 404 when
/// there is none.
#[test]
fn a_manager_can_be_deleted() {
    let mut world = World::new();
    world.ask_plainly();
    world.ask(&json!({ "token": TOKEN, "system_id": "s_other" }));
    let mut delete = |body: Value| {
        let reply = world.json(Method::DELETE, "runners/managers", &body);
        (reply.status(), world.gitlab.managers(world.runner).count())
    };
    assert_eq!(delete(json!({ "token": TOKEN })), (400, 2));
    assert_eq!(delete(json!({ "system_id": SYSTEM_ID })), (400, 2));
    let unknown = json!({ "token": "glrt-unknown", "system_id": SYSTEM_ID });
    assert_eq!(delete(unknown), (403, 2));
    let known = json!({ "token": TOKEN, "system_id": SYSTEM_ID });
    assert_eq!(delete(known.clone()), (204, 1));
    assert_eq!(delete(known), (404, 1));
    assert_eq!(world.ask_plainly().status(), 204);
}

/// Who deletes may say of when the record is that it means: 412 if it was changed since. Any other
/// header than a date is as good as none.
#[test]
fn what_was_changed_since_is_not_deleted() {
    for path in ["runners", "runners/managers"] {
        // At 00:16:40; the manager is there from then on, too.
        let mut world = World::new();
        world.gitlab.advance(world.now);
        world.gitlab.set_paused(world.runner, false);
        world.ask_plainly();
        world.wait(60);
        let mut delete = |since: &str| {
            let body = json!({ "token": TOKEN, "system_id": SYSTEM_ID });
            let mut request = json_request(Method::DELETE, path, &body);
            let since = since.parse().unwrap();
            request.headers_mut().insert("If-Unmodified-Since", since);
            world.send(request)
        };
        let reply = delete("Wed, 01 Jan 2025 00:16:39 GMT");
        assert_eq!(reply.status(), 412, "{path}");
        let message = json!({ "message": "412 Precondition Failed" });
        assert_eq!(reply.body(), message);
        assert_eq!(delete("Wed, 01 Jan 2025 00:16:40 GMT").status(), 204);
    }
    let mut world = World::new();
    let mut request = json_request(Method::DELETE, "runners", &json!({ "token": TOKEN }));
    let since = "yesterday".parse().unwrap();
    request.headers_mut().insert("If-Unmodified-Since", since);
    assert_eq!(world.send(request).status(), 204);
}

/// An older server tells nothing of the end of a token, be there one or not.
#[test]
fn an_older_server_tells_no_expiry() {
    let mut world = with_registration();
    let settings = world.gitlab.settings_mut();
    settings.token_expiry_told = false;
    settings.runner_token_life = Some(Duration::from_secs(3600));
    let reset = |world: &mut World| world.json(Method::POST, RESET, &json!({ "token": TOKEN }));
    let replies = [
        register(&mut world, json!({})),
        world.verify(&json!({ "token": TOKEN })),
        reset(&mut world),
    ];
    for reply in replies {
        let body = reply.body();
        assert!(body["token"].is_string(), "{body}");
        assert_eq!(body.get("token_expires_at"), None);
    }
}

/// The server may refuse the reset; then the old token is as good as before.
#[test]
fn a_reset_can_be_refused() {
    let mut world = World::new();
    world.gitlab.settings_mut().token_reset_allowed = false;
    let reply = world.json(Method::POST, RESET, &json!({ "token": TOKEN }));
    assert_eq!(reply.status(), 422);
    assert!(reply.body()["error"].is_string());
    let unknown = json!({ "token": "glrt-unknown" });
    let reply = world.json(Method::POST, RESET, &unknown);
    reply.assert_forbidden(None, None);
    assert_eq!(world.ask_plainly().status(), 204);
    world.gitlab.settings_mut().token_reset_allowed = true;
    let reply = world.json(Method::POST, RESET, &json!({ "token": TOKEN }));
    assert_eq!(reply.status(), 201);
}

/// A new token has a queue value of its own: the old one is news to the server.
#[test]
fn a_reset_token_has_a_queue_value_of_its_own() {
    let mut world = World::new();
    let old = world.queue_value();
    let id = world.gitlab.enqueue(job());
    let old_after = world.queue_value();
    assert_ne!(old, old_after);
    let reply = world.json(Method::POST, RESET, &json!({ "token": TOKEN }));
    let token = reply.body()["token"].clone();
    let value = world.queue_value();
    assert_ne!(value, old_after);
    let mut ask =
        |last_update: &str| world.ask(&json!({ "token": token, "last_update": last_update }));
    assert_eq!(ask(&value).status(), 204);
    let reply = ask(&old_after);
    assert_eq!(reply.status(), 201);
    assert_eq!(reply.body()["id"], id.0);
}

/// A new token kills the old one at once; the runner stays the same.
#[test]
fn a_reset_token_replaces_the_old_one() {
    let mut world = World::new();
    let running = world.running();
    let reply = world.json(Method::POST, RESET, &json!({ "token": TOKEN }));
    assert_eq!(reply.status(), 201);
    let body = reply.body();
    assert_eq!(body["token_expires_at"], Value::Null);
    let token = body["token"].as_str().unwrap();
    assert!(token.starts_with("glrt-"));
    assert_ne!(token, TOKEN);
    let known = world.gitlab.runner_token(world.runner).unwrap();
    assert_eq!(known.expose(), token);
    world.ask_plainly().assert_forbidden(None, None);
    assert_eq!(world.ask(&json!({ "token": token })).status(), 204);
    assert_eq!(world.put(&running, "success").status(), 200);
    assert_eq!(world.status(running.id), JobStatus::Success);
    let reply = world.json(Method::POST, RESET, &json!({ "token": TOKEN }));
    reply.assert_forbidden(None, None);
    assert_eq!(world.json(Method::POST, RESET, &json!({})).status(), 400);
}

/// The discovery of the job router wants the token in a header; without a router it is 501.
#[test]
fn discovery_wants_the_header() {
    let mut world = World::new();
    let url = "wss://kas.example.test";
    let get = |world: &mut World, query: &str, token: Option<&str>| {
        let mut request = Request::get(format!("/api/v4/runners/router/discovery{query}"));
        if let Some(token) = token {
            request = request.header("Runner-Token", token);
        }
        world.send(request.body(Bytes::new()).unwrap())
    };
    assert_eq!(get(&mut world, "", Some(TOKEN)).status(), 501);
    world.gitlab.settings_mut().job_router_url = Some(url.into());
    let reply = get(&mut world, "", Some(TOKEN));
    assert_eq!(reply.status(), 200);
    assert_eq!(reply.body(), json!({ "server_url": url }));
    assert_eq!(get(&mut world, "", Some("glrt-unknown")).status(), 403);
    assert_eq!(get(&mut world, "?token=glrt-example", None).status(), 403);
    world.gitlab.settings_mut().migration_backoff = true;
    assert_eq!(get(&mut world, "", None).status(), 429);
}

/// Neither deleting nor discovering counts as contact, and they make no manager; a new token does.
#[test]
fn only_some_calls_are_contact() {
    let mut world = World::new();
    let body = json!({ "token": TOKEN, "system_id": "s_other" });
    world.json(Method::DELETE, "runners/managers", &body);
    assert_eq!(world.gitlab.managers(world.runner).count(), 0);
    world.json(Method::POST, RESET, &body);
    assert_eq!(world.gitlab.managers(world.runner).count(), 1);
}

/// A token is known until it ends; a reset gives a new one with a life of its own, and every answer
/// that tells of it has the clock that it is meant by.
#[test]
fn tokens_end_where_they_have_a_life() {
    let mut world = World::new();
    world.gitlab.settings_mut().runner_token_life = Some(Duration::from_secs(3600));
    let end = world.now + Duration::from_secs(90);
    world.gitlab.set_token_expiry(world.runner, Some(end));
    let reply = world.verify(&json!({ "token": TOKEN }));
    assert_eq!(reply.body()["token_expires_at"], "2025-01-01T00:18:10.000Z");
    assert_eq!(reply.header("Date"), Some("Wed, 01 Jan 2025 00:16:40 GMT"));
    world.wait(60);
    let reply = world.json(Method::POST, RESET, &json!({ "token": TOKEN }));
    assert_eq!(reply.status(), 201);
    assert_eq!(reply.body()["token_expires_at"], "2025-01-01T01:17:40.000Z");
    let token = reply.body()["token"].clone();
    world
        .verify(&json!({ "token": TOKEN }))
        .assert_forbidden(None, None);
    world.wait(3599);
    assert_eq!(world.verify(&json!({ "token": token })).status(), 200);
    world.wait(1);
    world
        .verify(&json!({ "token": token }))
        .assert_forbidden(None, None);
}
