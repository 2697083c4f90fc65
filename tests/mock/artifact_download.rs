//! Downloads: who gets the archive of an earlier job, and from where.

use gitlab_runner::{
    JobId,
    mock::{Answer, Endpoint, JobStatus, Override},
};
use http::{Method, Request};
use serde_json::json;

use crate::world::{Running, World, download_request};

const ZIP: &[u8] = b"PK archive of an earlier job";

/// A job that has uploaded its archive and is done, and one that runs.
fn two_jobs() -> (World, JobId, Running) {
    let mut world = World::new();
    let earlier = world.running();
    assert_eq!(
        world.upload(&earlier, "", r#"a \"b\"/c.zip"#, ZIP).status(),
        201
    );
    world.put(&earlier, "success");
    let job = world.running();
    (world, earlier.id, job)
}

/// 200 with the file as an attachment; the token of the running job opens it.
#[test]
fn the_archive_of_an_earlier_job() {
    let (mut world, earlier, job) = two_jobs();
    for query in ["", "direct_download=false", "direct_download=true"] {
        // Without a storage of its own the server answers by itself in any case.
        let reply = world.download(&job, earlier, query);
        assert_eq!(reply.status(), 200);
        assert_eq!(reply.0.body(), ZIP);
        assert_eq!(
            reply.header("Content-Disposition"),
            Some("attachment; filename=\"a__b__c.zip\"")
        );
        assert_eq!(reply.header("Location"), None);
    }
    // There is no checksum from the server.
    let reply = world.download(&job, earlier, "");
    assert_eq!(reply.header("X-Checksum"), None);
}

/// The token may be in the header or in a parameter of either name.
#[test]
fn where_the_token_may_be() {
    let (mut world, earlier, job) = two_jobs();
    for query in [
        format!("token={}", job.token),
        format!("job_token={}", job.token),
    ] {
        let path = format!("/api/v4/jobs/{earlier}/artifacts?{query}");
        let request = Request::get(path).body(bytes::Bytes::new()).unwrap();
        assert_eq!(world.send(request).status(), 200);
    }
}

/// 401: token missing, unknown, expired, or its job not on a runner.
#[test]
fn tokens_that_open_nothing_are_401() {
    let (mut world, earlier, job) = two_jobs();
    let refused = |world: &mut World, token: &str| {
        let reply = world.send(download_request(token, earlier, ""));
        assert_eq!(reply.status(), 401);
        assert_eq!(reply.body(), json!({ "message": "401 Unauthorized" }));
        assert_eq!(reply.job_status(), None);
    };
    refused(&mut world, "");
    refused(&mut world, "wrong");
    let own = world.gitlab.job_token(earlier).unwrap().expose().to_owned();
    refused(&mut world, &own);
    world.gitlab.expire_token(job.id);
    refused(&mut world, &job.token);
    let done = world.running();
    world.put(&done, "success");
    refused(&mut world, &done.token);
}

/// A job that is canceling may still download.
#[test]
fn a_canceling_job_may_download() {
    let mut world = World::new();
    let earlier = world.running_gracefully();
    world.upload_archive(&earlier, ZIP);
    world.put(&earlier, "success");
    let job = world.running_gracefully();
    world.gitlab.cancel(job.id);
    assert_eq!(world.status(job.id), JobStatus::Canceling);
    assert_eq!(world.download(&job, earlier.id, "").status(), 200);
}

/// 403: the job does not exist, or may not be read.
#[test]
fn jobs_that_may_not_be_read_are_403() {
    let (mut world, earlier, job) = two_jobs();
    let unknown = JobId(999_999);
    world
        .download(&job, unknown, "")
        .assert_forbidden(None, None);
    world.gitlab.delete_project(earlier);
    world
        .download(&job, earlier, "")
        .assert_forbidden(None, None);
}

/// 404: no archive, although there are other artifacts; or it expired; or the job was erased.
#[test]
fn no_archive_is_404() {
    let (mut world, earlier, job) = two_jobs();
    let erased = world.running();
    world.upload_archive(&erased, ZIP);
    world.gitlab.erase(erased.id);
    let query = "artifact_type=sast&artifact_format=raw";
    world.upload(&job, query, "sast.json", b"{}");
    world.gitlab.expire_artifacts(earlier);
    for dependency in [job.id, earlier, erased.id] {
        let reply = world.download(&job, dependency, "");
        assert_eq!(reply.status(), 404);
        assert_eq!(reply.body(), json!({ "message": "404 Not Found" }));
    }
    // The report keeps it, and says since when it is gone.
    let artifact = world.report(earlier).artifact("archive").unwrap();
    assert_eq!(artifact.content, ZIP);
    assert_eq!(artifact.removed_at, Some(world.now));
}

/// 429 comes first, then 400, then the rate limit, then the token.
#[test]
fn the_order_of_refusals() {
    let (mut world, earlier, _) = two_jobs();
    world.gitlab.settings_mut().migration_backoff = true;
    let odd = || download_request("wrong", earlier, "direct_download=maybe");
    assert_eq!(world.send(odd()).status(), 429);
    world.gitlab.settings_mut().migration_backoff = false;
    world.gitlab.settings_mut().update_limit = 1;
    assert_eq!(world.send(odd()).status(), 400);
    let wrong = || download_request("wrong", earlier, "");
    assert_eq!(world.send(wrong()).status(), 401);
    assert_eq!(world.send(wrong()).status(), 429);
    let reply = world.json(Method::GET, "jobs/abc/artifacts", &json!({}));
    assert_eq!(reply.status(), 400);
}

/// With tokens of their own, as on old servers, only that of the job itself opens its archive,
/// although it is finished.
#[test]
fn old_servers_want_the_token_of_the_dependency() {
    let (mut world, earlier, job) = two_jobs();
    world.gitlab.settings_mut().own_dependency_tokens = true;
    world
        .download(&job, earlier, "")
        .assert_forbidden(None, None);
    let own = world.gitlab.job_token(earlier).unwrap().expose().to_owned();
    assert_eq!(
        world.send(download_request(&own, earlier, "")).status(),
        200
    );
}

/// Planned faults: a refusal, and an answer that is cut after so many bytes.
#[test]
fn downloads_can_go_wrong() {
    let (mut world, earlier, job) = two_jobs();
    let plan = |world: &mut World, fault| {
        world
            .gitlab
            .plan_for_job(earlier, Endpoint::ArtifactDownload, 1, fault);
    };
    plan(&mut world, Override::Status(500));
    assert_eq!(world.download(&job, earlier, "").status(), 500);
    plan(&mut world, Override::CutBody(5));
    let cut = world.download(&job, earlier, "");
    assert_eq!((cut.status(), &cut.0.body()[..]), (200, &ZIP[..5]));
    assert_eq!(cut.header("Content-Length"), Some("28"));
    plan(&mut world, Override::CutBody(ZIP.len()));
    assert_eq!(world.download(&job, earlier, "").0.body(), ZIP);
    plan(&mut world, Override::CloseAfter);
    let answer = world.answer(download_request(&job.token, earlier, ""));
    assert!(matches!(answer, Answer::Close));
    let downloads: Vec<_> = world
        .report(earlier)
        .downloads()
        .map(|record| (record.status, record.delivered, record.token_of))
        .collect();
    let by = Some(job.id);
    assert_eq!(
        downloads,
        [
            (Some(500), true, by),
            (Some(200), false, by),
            (Some(200), false, by),
            (Some(200), false, by),
        ]
    );
}
