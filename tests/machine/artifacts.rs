//! Uploads of artifacts.

use std::time::Duration;

use gitlab_runner::{
    ArtifactId, Failure,
    machine::{
        CancelMode, Collected, Input, JobInput, JobOutput, RequestBody, StepResult, StopMode,
    },
};
use serde_json::{Value, json};

use crate::world::{JOB, JOB_TOKEN, Sent, World, html, payload_with_after_script, reply};

const SECOND: Duration = Duration::from_secs(1);

fn artifact(index: usize) -> ArtifactId {
    ArtifactId { job: JOB, index }
}

fn archive(when: &str) -> Value {
    json!({
        "name": "a name", "paths": ["out/"], "when": when, "expire_in": "1 week",
        "artifact_type": "archive", "artifact_format": "zip",
    })
}

fn with_artifacts(artifacts: Value) -> Value {
    let mut payload = payload_with_after_script();
    payload["artifacts"] = artifacts;
    payload
}

/// A world in which the steps are over.
fn after_steps(payload: &Value, result: StepResult) -> World {
    let mut world = World::running(payload);
    world.finish_step(result, 0);
    assert_eq!(world.step(), "after_script");
    world.finish_step(StepResult::Ok, 0);
    world
}

fn collect(world: &mut World) -> ArtifactId {
    match world.job_output() {
        JobOutput::Collect(artifact) => artifact,
        other => panic!("{other:?} is no order to collect"),
    }
}

fn collected(world: &mut World, outcome: Collected) {
    let artifact = collect(world);
    world.job_input(JobInput::Collected { artifact, outcome });
}

fn packed() -> Collected {
    Collected::Packed {
        len: 1000,
        file_name: "a name.zip".to_owned(),
        files: 2,
    }
}

/// A world in which an archive is being uploaded.
fn uploading() -> (World, Sent) {
    let mut world = after_steps(&with_artifacts(json!([archive("always")])), StepResult::Ok);
    collected(&mut world, packed());
    let upload = world.request();
    (world, upload)
}

fn note(world: &mut World) -> String {
    match world.job_output() {
        JobOutput::Note(note) => note,
        other => panic!("{other:?} is no note"),
    }
}

/// Cleans up and gives the final update.
fn result(world: &mut World) -> Value {
    world.clean_up(0);
    world.next_update().json()
}

#[test]
fn what_an_upload_looks_like() {
    let (mut world, upload) = uploading();
    assert_eq!(
        (upload.method.as_str(), upload.path.as_str()),
        (
            "POST",
            "jobs/7/artifacts?artifact_format=zip&artifact_type=archive&expire_in=1%20week"
        )
    );
    assert_eq!(upload.header("JOB-TOKEN"), Some(JOB_TOKEN));
    let content_type = upload.header("Content-Type").unwrap();
    let boundary = content_type
        .strip_prefix("multipart/form-data; boundary=")
        .unwrap();
    let RequestBody::Artifact {
        artifact: id,
        head,
        len: 1000,
        tail,
    } = &upload.body
    else {
        panic!("{:?}", upload.body);
    };
    assert_eq!(*id, artifact(0));
    let head = String::from_utf8(head.to_vec()).unwrap();
    assert!(head.starts_with(&format!("--{boundary}\r\n")));
    assert!(head.contains("name=\"file\"; filename=\"a name.zip\"\r\n"));
    assert_eq!(tail, &format!("\r\n--{boundary}--\r\n"));
    assert_eq!(
        upload.body.len(),
        1000 + head.len() as u64 + tail.len() as u64
    );
    world.reply(&upload, reply(201));
    assert!(world.notice("was uploaded (2 files, 1000 bytes packed)"));
    assert_eq!(result(&mut world)["state"], "success");
}

#[test]
fn each_artifact_is_uploaded_in_order_if_its_time_has_come() {
    let artifacts = json!([
        archive("on_success"),
        archive("on_failure"),
        archive("always"),
        { "paths": [], "when": "always" },
        { "paths": ["x"], "when": null },
        { "untracked": true, "when": "always" },
    ]);
    for (result_of_script, wanted) in [
        (StepResult::Ok, vec![0, 2, 4, 5]),
        (StepResult::Failed(Failure::exit_code(3)), vec![1, 2, 5]),
    ] {
        let mut world = after_steps(&with_artifacts(artifacts.clone()), result_of_script);
        for index in wanted {
            let id = collect(&mut world);
            assert_eq!(id, artifact(index));
            let outcome = packed();
            world.job_input(JobInput::Collected {
                artifact: id,
                outcome,
            });
            let upload = world.request();
            world.reply(&upload, reply(201));
        }
        world.clean_up(0);
    }
}

#[test]
fn nothing_to_upload_is_no_failure() {
    let mut world = after_steps(&with_artifacts(json!([archive("always")])), StepResult::Ok);
    collected(&mut world, Collected::Nothing);
    world.no_request();
    assert_eq!(result(&mut world)["state"], "success");
}

#[test]
fn what_cannot_be_packed_fails_a_job_that_went_well() {
    let artifacts = with_artifacts(json!([archive("always")]));
    let mut world = after_steps(&artifacts, StepResult::Ok);
    collected(&mut world, Collected::Failed);
    let update = result(&mut world);
    assert_eq!(update["failure_reason"], "script_failure");
    assert_eq!(update["exit_code"], 1);

    let failed = StepResult::Failed(Failure::exit_code(3));
    let mut world = after_steps(&artifacts, failed);
    collected(&mut world, Collected::Failed);
    assert_eq!(result(&mut world)["exit_code"], 3);
}

#[test]
fn a_panic_while_files_are_listed_is_a_broken_runner() {
    let artifacts = with_artifacts(json!([archive("always"), archive("always")]));
    let mut world = after_steps(&artifacts, StepResult::Ok);
    collected(&mut world, Collected::Panicked);
    let update = result(&mut world);
    assert_eq!(update["failure_reason"], "runner_system_failure");

    let failed = StepResult::Failed(Failure::exit_code(3));
    let mut world = after_steps(&artifacts, failed);
    collected(&mut world, Collected::Panicked);
    assert_eq!(result(&mut world)["exit_code"], 3);
}

#[test]
fn refusals_are_final_and_say_what_to_do() {
    for (answer, words) in [
        (
            reply(400).json(&json!({"message": "bad report"})),
            "bad report",
        ),
        (reply(400), "of this type already"),
        (reply(401), "401"),
        (reply(403), "not running any more"),
        (reply(404), "404"),
        (reply(405), "switched off"),
        (html(413), "maximum artifacts size"),
        (reply(422), "422"),
        (reply(302).header("Location", "https://other/"), "302"),
        (reply(307), "307"),
    ] {
        let (mut world, upload) = uploading();
        world.reply(&upload, answer);
        let note = note(&mut world);
        assert!(note.contains("ERROR: Uploading artifacts as \"archive\" failed"));
        assert!(note.contains(words), "{note}");
        assert!(world.notice("could not be uploaded"));
        assert_eq!(result(&mut world)["failure_reason"], "script_failure");
    }
}

#[test]
fn trouble_is_tried_again_from_the_same_file_and_then_given_up() {
    for (answer, tries) in [
        (Some(html(500)), 8),
        (Some(reply(409)), 8),
        // A page of something in between is no artifact that was stored.
        (Some(html(200)), 8),
        (Some(reply(204)), 8),
        (Some(html(502)), 16),
        (Some(html(503)), 16),
        (Some(reply(504).header("Retry-After", "1")), 16),
        (Some(reply(429).header("Retry-After", "20")), 16),
        (None, 16),
    ] {
        let (mut world, mut upload) = uploading();
        let body = upload.body.clone();
        let from = world.now;
        for n in 1..tries {
            match &answer {
                Some(answer) => world.reply(&upload, answer.clone()),
                None => world.lose(&upload),
            }
            upload = world.next_upload();
            assert_eq!(upload.body, body, "{answer:?} {n}");
        }
        // A short outage is outlasted, however soon the server wants to be asked again.
        let least = if tries == 8 { 60 } else { 300 };
        let took = world.now.since(from);
        assert!(took > least * SECOND && took < 900 * SECOND, "{answer:?}");
        match &answer {
            Some(answer) => world.reply(&upload, answer.clone()),
            None => world.lose(&upload),
        }
        assert!(note(&mut world).contains("failed"));
        assert_eq!(result(&mut world)["state"], "failed");
    }
}

/// The answer to a large body may be lost when it comes before the end of it.
#[test]
fn a_large_artifact_is_not_sent_again_and_again_over_connections_that_break() {
    use gitlab_runner::transport::{TransportError, TransportErrorKind};

    let heavy = 16 << 20;
    for (kind, len, tries) in [
        (TransportErrorKind::Broken, heavy + 1, 5),
        (TransportErrorKind::Broken, heavy, 16),
        (TransportErrorKind::Connect, heavy + 1, 16),
        (TransportErrorKind::Timeout, heavy + 1, 16),
    ] {
        let mut world = after_steps(&with_artifacts(json!([archive("always")])), StepResult::Ok);
        let large = Collected::Packed {
            len,
            file_name: "a.zip".to_owned(),
            files: 1,
        };
        collected(&mut world, large);
        let mut upload = world.request();
        let from = world.now;
        for n in 1..=tries {
            world.input(Input::Failed {
                request: upload.id,
                error: TransportError::new(kind, true, "reset"),
            });
            if n < tries {
                upload = world.next_upload();
            }
        }
        let took = world.now.since(from);
        assert!(took > 200 * SECOND, "{kind:?} {took:?}");
        let note = note(&mut world);
        let may_be_too_large = kind == TransportErrorKind::Broken;
        assert_eq!(
            note.contains("finds it too large"),
            may_be_too_large,
            "{note}"
        );
        assert_eq!(result(&mut world)["state"], "failed");
    }
}

#[test]
fn trouble_of_one_kind_does_not_use_up_the_tries_of_another() {
    let (mut world, mut upload) = uploading();
    for n in 0..14 {
        match n % 3 {
            0 => world.reply(&upload, html(500)),
            1 => world.reply(&upload, html(502)),
            _ => world.lose(&upload),
        }
        upload = world.next_upload();
    }
    world.reply(&upload, reply(201));
    assert_eq!(result(&mut world)["state"], "success");
}

#[test]
fn an_upload_that_succeeds_in_the_end_leaves_no_trace() {
    let (mut world, upload) = uploading();
    let from = world.now;
    world.reply(&upload, html(503));
    let upload = world.next_upload();
    assert!(world.now.since(from) < 10 * SECOND);
    world.lose(&upload);
    let upload = world.next_upload();
    world.reply(&upload, reply(201));
    assert_eq!(result(&mut world)["state"], "success");
}

#[test]
fn a_redirect_is_followed_without_the_token_to_another_host() {
    for (location, path, token) in [
        ("https://storage.example/x?y=1", "/x?y=1", false),
        ("https://gitlab.example.com:8443/x", "/x", false),
        ("/other", "/other", true),
        ("https://GITLAB.example.com:443/x", "/x", true),
    ] {
        let (mut world, upload) = uploading();
        world.reply(&upload, reply(307).header("Location", location));
        let moved = world.request();
        assert!(moved.uri.to_string().ends_with(path), "{}", moved.uri);
        assert_eq!(moved.header("JOB-TOKEN").is_some(), token, "{location}");
        assert_eq!(moved.body, upload.body);
        world.reply(&moved, html(503));
        // The next try begins at GitLab again.
        let again = world.next_upload();
        assert_eq!(again.uri, upload.uri);
        assert_eq!(again.header("JOB-TOKEN"), Some(JOB_TOKEN));
    }
}

#[test]
fn an_upload_does_not_follow_to_where_it_would_go_in_clear() {
    for location in [
        "http://gitlab.example.com/x?sig=1",
        "http://storage.example/x",
    ] {
        let (mut world, upload) = uploading();
        world.reply(&upload, reply(307).header("Location", location));
        let note = note(&mut world);
        let place = location.split('?').next().unwrap();
        let wanted = format!("redirects to {place}, which is not encrypted");
        assert!(note.contains(&wanted), "{note}");
        assert_eq!(result(&mut world)["state"], "failed");
    }
}

#[test]
fn redirects_end_after_five() {
    let (mut world, mut upload) = uploading();
    for _ in 0..5 {
        world.reply(&upload, reply(308).header("Location", "/again"));
        upload = world.request();
    }
    world.reply(&upload, reply(308).header("Location", "/again"));
    assert!(note(&mut world).contains("redirects to"));
}

#[test]
fn a_disk_that_fails_is_not_tried_again() {
    use gitlab_runner::transport::{TransportError, TransportErrorKind};

    let (mut world, upload) = uploading();
    world.input(Input::Failed {
        request: upload.id,
        error: TransportError::new(TransportErrorKind::Body, true, "the file is broken"),
    });
    assert!(note(&mut world).contains("the file is broken"));
    assert_eq!(result(&mut world)["state"], "failed");
}

#[test]
fn log_and_keep_alives_go_on_beside_an_upload() {
    let (mut world, upload) = uploading();
    world.log_to(10);
    let patch = world.next_request();
    assert_eq!(patch.method, "PATCH");
    world.reply(&patch, reply(202));
    let put = world.next_request();
    assert_eq!(put.state(), "running");
    world.reply(&put, reply(200));
    world.reply(&upload, reply(201));
    world.clean_up(10);
    assert_eq!(world.next_update().state(), "success");
}

#[test]
fn after_a_cancel_the_failure_artifacts_are_uploaded() {
    let artifacts = json!([archive("on_success"), archive("on_failure")]);
    let mut world = World::running(&with_artifacts(artifacts));
    let put = world.next_request();
    world.reply(&put, reply(200).job_status("canceling"));
    assert!(matches!(
        world.job_output(),
        JobOutput::Cancel(CancelMode::Graceful)
    ));
    world.finish_step(StepResult::Ok, 0);
    assert_eq!(world.step(), "after_script");
    world.finish_step(StepResult::Ok, 0);
    assert_eq!(collect(&mut world), artifact(1));
}

#[test]
fn a_cancel_during_the_uploads_changes_nothing() {
    let (mut world, upload) = uploading();
    let put = world.next_request();
    world.reply(&put, reply(200).job_status("canceling"));
    world.no_job_output();
    world.reply(&upload, reply(201));
    assert_eq!(result(&mut world)["state"], "success");
}

#[test]
fn a_job_that_ended_at_gitlab_uploads_no_more() {
    let (mut world, upload) = uploading();
    let put = world.next_request();
    world.reply(&put, reply(403).job_status("canceled"));
    assert_eq!(world.forgotten, [upload.id]);
    world.clean_up(0);
    world.is_over();
    world.no_request_for_the_job();

    // The upload itself may be what hears of it.
    let (mut world, upload) = uploading();
    world.reply(&upload, reply(403).job_status("canceled"));
    world.clean_up(0);
    world.is_over();
    world.no_request_for_the_job();
}

#[test]
fn a_refused_upload_asks_whether_the_job_is_there() {
    let artifacts = with_artifacts(json!([archive("always"), archive("always")]));
    let mut world = after_steps(&artifacts, StepResult::Ok);
    collected(&mut world, packed());
    let upload = world.request();
    world.reply(&upload, reply(403));
    assert!(note(&mut world).contains("failed"));
    let put = world.request();
    assert_eq!(put.state(), "running");
    world.reply(&put, reply(403));
    // The second one was being packed.
    assert_eq!(collect(&mut world), artifact(1));
    assert!(matches!(
        world.job_output(),
        JobOutput::Cancel(CancelMode::Forced)
    ));
    let outcome = Collected::Cancelled;
    world.job_input(JobInput::Collected {
        artifact: artifact(1),
        outcome,
    });
    world.clean_up(0);
    world.is_over();
}

#[test]
fn the_time_of_the_job_holds_for_its_uploads() {
    let (mut world, upload) = uploading();
    let told = world.until_job_output(&reply(200));
    assert!(matches!(&told, JobOutput::Note(note) if note.contains("took longer than 3600")));
    assert_eq!(world.forgotten, [upload.id]);
    let update = result(&mut world);
    assert_eq!(update["failure_reason"], "job_execution_timeout");

    // Packing is dropped too.
    let mut world = after_steps(&with_artifacts(json!([archive("always")])), StepResult::Ok);
    let id = collect(&mut world);
    let told = world.until_job_output(&reply(200));
    assert!(matches!(told, JobOutput::Note(_)));
    assert!(matches!(
        world.job_output(),
        JobOutput::Cancel(CancelMode::Forced)
    ));
    let outcome = Collected::Cancelled;
    world.job_input(JobInput::Collected {
        artifact: id,
        outcome,
    });
    assert_eq!(
        result(&mut world)["failure_reason"],
        "job_execution_timeout"
    );
}

#[test]
fn a_job_that_ran_out_of_time_or_whose_handler_panicked_uploads_nothing() {
    let artifacts = with_artifacts(json!([archive("always")]));
    let mut world = World::running(&artifacts);
    world.finish_step(StepResult::Panicked, 0);
    world.clean_up(0);

    let mut world = World::running(&artifacts);
    world.until_job_output(&reply(200));
    assert!(matches!(
        world.job_output(),
        JobOutput::Cancel(CancelMode::Graceful)
    ));
    world.finish_step(StepResult::Cancelled, 0);
    world.clean_up(0);
}

#[test]
fn without_its_artifacts_an_interrupted_job_is_no_success() {
    let (mut world, upload) = uploading();
    world.input(Input::Stop(StopMode::Abort));
    assert!(note(&mut world).contains("the runner was stopped"));
    assert_eq!(world.forgotten, [upload.id]);
    assert_eq!(result(&mut world)["failure_reason"], "runner_interrupted");

    // The script was over, and its artifacts not yet asked for.
    let mut world = World::running(&with_artifacts(json!([archive("always")])));
    world.finish_step(StepResult::Ok, 0);
    assert_eq!(world.step(), "after_script");
    world.input(Input::Stop(StopMode::Abort));
    let told = world.job_output();
    assert!(matches!(told, JobOutput::Cancel(CancelMode::Forced)));
    world.finish_step(StepResult::Cancelled, 0);
    assert!(note(&mut world).contains("before its artifacts were uploaded"));
    assert_eq!(result(&mut world)["failure_reason"], "runner_interrupted");
}

#[test]
fn collected_is_taken_once_and_only_when_asked_for() {
    let (mut world, _) = uploading();
    let ignored = world.ignored();
    for index in [0, 1, 99] {
        let (artifact, outcome) = (artifact(index), packed());
        world.job_input(JobInput::Collected { artifact, outcome });
    }
    assert_eq!(world.ignored(), ignored + 3);
    world.no_request();

    // Of another one than is asked for.
    for stop in [false, true] {
        let payload = with_artifacts(json!([archive("always"), archive("always")]));
        let mut world = after_steps(&payload, StepResult::Ok);
        assert_eq!(collect(&mut world), artifact(0));
        if stop {
            world.input(Input::Stop(StopMode::Abort));
            note(&mut world);
            let told = world.job_output();
            assert!(matches!(told, JobOutput::Cancel(CancelMode::Forced)));
        }
        let ignored = world.ignored();
        let (artifact, outcome) = (artifact(1), packed());
        world.job_input(JobInput::Collected { artifact, outcome });
        assert_eq!(world.ignored(), ignored + 1);
        world.no_request();
        world.no_job_output();
    }
}
