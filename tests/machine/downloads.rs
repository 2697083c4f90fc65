//! Downloads of what earlier jobs made.

use gitlab_runner::{
    DownloadId, JobId,
    machine::{
        CancelMode, DownloadOutcome, Input, JobInput, JobOutput, ReplyBody, StepResult, Trouble,
    },
};
use serde_json::{Value, json};

use crate::world::{JOB_TOKEN, Reply, Sent, World, html, mark, payload, reply};

const DEPENDENCY_TOKEN: &str = "glcbt-of-the-dependency";

fn with_dependencies() -> Value {
    let mut payload = payload();
    payload["dependencies"] = json!([
        { "id": 3, "name": "build", "token": DEPENDENCY_TOKEN,
          "artifacts_file": { "filename": "artifacts.zip", "size": 100 } },
        { "id": 4, "name": "expired", "token": DEPENDENCY_TOKEN },
        { "id": 5, "name": "no token",
          "artifacts_file": { "filename": "artifacts.zip" } },
    ]);
    payload
}

fn begin(world: &mut World, number: u64, dependency: u64) {
    world.job_input(JobInput::Download {
        download: DownloadId(number),
        dependency: JobId(dependency),
    });
}

fn downloading() -> (World, Sent) {
    let mut world = World::running(&with_dependencies());
    begin(&mut world, 1, 3);
    let get = world.request();
    (world, get)
}

fn downloaded(world: &mut World) -> DownloadOutcome {
    match world.job_output() {
        JobOutput::Downloaded(DownloadId(1), outcome) => outcome,
        other => panic!("{other:?} is no end of a download"),
    }
}

#[test]
fn what_a_download_looks_like() {
    let (mut world, get) = downloading();
    assert_eq!(
        (get.method.as_str(), get.path.as_str()),
        ("GET", "jobs/3/artifacts?direct_download=true")
    );
    assert_eq!(get.header("JOB-TOKEN"), Some(DEPENDENCY_TOKEN));
    assert!(matches!(
        get.reply,
        ReplyBody::Spool {
            download: DownloadId(1),
            least: Some(100),
            ..
        }
    ));
    let (request, len) = (get.id, 100);
    world.input(Input::Spooled { request, len });
    assert!(matches!(
        downloaded(&mut world),
        DownloadOutcome::Done { len: 100 }
    ));
    world.no_request();
    assert_eq!(world.machine.stats().requests_in_flight, 0);
}

#[test]
fn the_job_token_stands_in_for_one_that_is_missing() {
    let mut world = World::running(&with_dependencies());
    begin(&mut world, 1, 5);
    assert_eq!(world.request().header("JOB-TOKEN"), Some(JOB_TOKEN));
}

#[test]
fn what_is_not_there_is_not_asked_for() {
    for dependency in [4, 99] {
        let mut world = World::running(&with_dependencies());
        begin(&mut world, 1, dependency);
        assert!(matches!(downloaded(&mut world), DownloadOutcome::Nothing));
        world.no_request();
    }
}

#[test]
fn refused_downloads_are_told_apart_at_once() {
    for status in [400, 401, 403, 404, 410] {
        let (mut world, get) = downloading();
        world.reply(&get, reply(status));
        match downloaded(&mut world) {
            DownloadOutcome::Failed(Trouble::Status { status: said, .. }) => {
                assert_eq!(said.as_u16(), status);
            }
            other => panic!("{status}: {other:?}"),
        }
        world.no_request();
    }
}

#[test]
fn a_download_is_tried_again_while_there_is_trouble() {
    let broken: [Option<Reply>; 5] = [
        Some(html(500)),
        Some(html(503)),
        Some(reply(429)),
        Some(reply(204)),
        None,
    ];
    for answer in broken {
        let (mut world, mut get) = downloading();
        let mut tries = 1;
        loop {
            match &answer {
                Some(answer) => world.reply(&get, answer.clone()),
                None => world.lose(&get),
            }
            match world.next_download() {
                Some(next) => get = next,
                None => break,
            }
            tries += 1;
        }
        assert!((8..=16).contains(&tries), "{answer:?}: {tries}");
        assert!(matches!(downloaded(&mut world), DownloadOutcome::Failed(_)));
    }
}

/// Whatever else there is to do.
#[test]
fn a_download_is_tried_again_on_time() {
    let (mut world, get) = downloading();
    world.reply(&get, html(503));
    let (at, _) = world.machine.poll_timeout().unwrap();
    let wait = at.since(world.now).as_secs_f64();
    assert!((1.0..2.0).contains(&wait), "{wait}");
    world.next_deadline();
    assert_eq!(world.request().uri, get.uri);
}

#[test]
fn storage_is_asked_without_the_token_and_anew_when_its_address_has_expired() {
    let (mut world, get) = downloading();
    world.reply(
        &get,
        reply(302).header("Location", "https://storage.example/b/k?sig=1"),
    );
    let moved = world.request();
    assert_eq!(moved.uri.to_string(), "https://storage.example/b/k?sig=1");
    assert_eq!(moved.header("JOB-TOKEN"), None);
    let expired = "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code>\
                   <Message>Request has expired</Message></Error>";
    world.reply(&moved, reply(403).body(expired));
    assert!(world.notice("AccessDenied: Request has expired"));
    let again = world.next_download().unwrap();
    assert_eq!(again.uri, get.uri);
    assert_eq!(again.header("JOB-TOKEN"), Some(DEPENDENCY_TOKEN));
    let (request, len) = (again.id, 7);
    world.input(Input::Spooled { request, len });
    assert!(matches!(
        downloaded(&mut world),
        DownloadOutcome::Done { len: 7 }
    ));
}

#[test]
fn what_storage_would_send_in_clear_is_asked_of_gitlab_itself() {
    let moved = || reply(302).header("Location", "http://storage.example/b/k?sig=1");
    let (mut world, get) = downloading();
    world.reply(&get, moved());
    assert!(world.notice("redirects to http://storage.example/b/k, which is not encrypted"));
    let proxied = world.request();
    let uri = get.uri.to_string();
    assert_eq!(
        proxied.uri.to_string(),
        uri.strip_suffix("?direct_download=true").unwrap()
    );
    assert_eq!(proxied.header("JOB-TOKEN"), Some(DEPENDENCY_TOKEN));
    world.reply(&proxied, html(503));
    // Further tries do not fall for it once more.
    let again = world.next_download().unwrap();
    assert_eq!(again.uri, proxied.uri);
    world.reply(&again, moved());
    assert!(matches!(
        downloaded(&mut world),
        DownloadOutcome::Failed(Trouble::Insecure(place)) if place == "http://storage.example/b/k"
    ));
}

#[test]
fn a_download_that_nobody_wants_any_more_is_dropped() {
    let (mut world, get) = downloading();
    world.job_input(JobInput::DropDownload(DownloadId(1)));
    assert_eq!(world.forgotten, [get.id]);
    world.no_job_output();
    let ignored = world.ignored();
    world.job_input(JobInput::DropDownload(DownloadId(1)));
    let (request, len) = (get.id, 100);
    world.input(Input::Spooled { request, len });
    assert_eq!(world.ignored(), ignored + 2);
}

#[test]
fn downloads_end_with_their_job() {
    let (mut world, get) = downloading();
    let put = world.next_request();
    world.reply(&put, reply(403));
    assert_eq!(world.forgotten, [get.id]);
    assert!(matches!(
        downloaded(&mut world),
        DownloadOutcome::Failed(Trouble::Stopped)
    ));
    assert!(matches!(
        world.job_output(),
        JobOutput::Cancel(CancelMode::Forced)
    ));
    // And none begins.
    begin(&mut world, 1, 3);
    assert!(matches!(
        downloaded(&mut world),
        DownloadOutcome::Failed(Trouble::Stopped)
    ));
    world.no_request();
    world.finish_step(StepResult::Cancelled, 0);
    world.clean_up(0);
    world.is_over();
}

#[test]
fn several_downloads_at_once_are_kept_apart() {
    let (mut world, get) = downloading();
    begin(&mut world, 2, 5);
    let other = world.request();
    let ignored = world.ignored();
    begin(&mut world, 2, 5);
    assert_eq!(world.ignored(), ignored + 1);
    let (request, len) = (other.id, 5);
    world.input(Input::Spooled { request, len });
    assert!(matches!(
        world.job_output(),
        JobOutput::Downloaded(DownloadId(2), DownloadOutcome::Done { len: 5 })
    ));
    let (request, len) = (get.id, 3);
    world.input(Input::Spooled { request, len });
    assert!(matches!(
        downloaded(&mut world),
        DownloadOutcome::Done { len: 3 }
    ));
}

#[test]
fn what_was_no_download_cannot_be_spooled() {
    let mut world = World::running(&payload());
    let put = world.next_request();
    let ignored = world.ignored();
    let (request, len) = (put.id, 3);
    world.input(Input::Spooled { request, len });
    assert_eq!(world.ignored(), ignored + 1);
    world.reply(&put, reply(200));
    world.job_input(JobInput::Traced(mark(5)));
    assert_eq!(world.next_request().method, "PATCH");
}

#[test]
fn what_is_due_is_done_whatever_else_is_told() {
    let mut world = World::running(&with_dependencies());
    let put = world.next_request();
    begin(&mut world, 1, 3);
    let get = world.request();
    world.reply(&get, html(503));
    // The driver is late, and wrong.
    world.now = world.now + std::time::Duration::from_secs(100);
    let (request, len) = (put.id, 3);
    world.input(Input::Spooled { request, len });
    assert_eq!(world.request().path, get.path);
}

#[test]
fn a_download_that_nobody_waits_for_ends_with_the_job() {
    let (mut world, get) = downloading();
    world.finish_step(StepResult::Ok, 0);
    world.clean_up(0);
    let update = world.next_update();
    world.reply(&update, reply(200));
    assert!(matches!(
        downloaded(&mut world),
        DownloadOutcome::Failed(Trouble::Stopped)
    ));
    world.is_over();
    assert_eq!(world.forgotten, [get.id]);
}
