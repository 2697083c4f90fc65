//! Uploads: what is taken, under which name, and in which order an upload is refused.

use bytes::Bytes;
use gitlab_runner::{
    JobId,
    mock::{Answer, ArtifactReport, Endpoint, JobStatus, Override},
};
use http::{Method, Request};
use serde_json::{Value, json};

use crate::world::{Reply, Running, World, field_part, file_part, form, form_type, upload_request};

const ZIP: &[u8] = b"PK\x05\x06 not much of an archive";
const GZIP: &[u8] = &[0x1f, 0x8b, 8, 0, 1, 2, 3];

fn archive(world: &World, job: JobId) -> &ArtifactReport {
    world.report(job).artifact("archive").unwrap()
}

fn assert_message(reply: &Reply, status: u16) {
    assert_eq!(reply.status(), status, "{}", reply.text());
    assert!(reply.body()["message"].is_string(), "{}", reply.text());
}

/// 201 with the body `201`: stored, with all that was said of it.
#[test]
fn an_upload_is_stored() {
    let mut world = World::new();
    let job = world.running();
    let query = "accessibility=private&artifact_format=zip&artifact_type=archive\
                 &expire_in=1+week%2C+2%20days";
    let reply = world.upload(&job, query, "bundle-main.zip", ZIP);
    assert_eq!((reply.status(), reply.text()), (201, "201"));
    let stored = archive(&world, job.id);
    assert_eq!(stored.artifact_format, "zip");
    assert_eq!(stored.filename, "bundle-main.zip");
    assert_eq!(stored.expire_in.as_deref(), Some("1 week, 2 days"));
    assert_eq!(stored.accessibility.as_deref(), Some("private"));
    assert_eq!(stored.content, ZIP);
    assert_eq!(stored.received_at, world.now);
    assert_eq!((stored.accepted, stored.removed_at), (1, None));
    assert_eq!(world.status(job.id), JobStatus::Running);
}

/// Type and format default to an archive as zip, the expiry to what the instance says.
#[test]
fn the_defaults() {
    let mut world = World::new();
    let job = world.running();
    assert_eq!(world.upload(&job, "", "default.zip", ZIP).status(), 201);
    let stored = archive(&world, job.id);
    assert_eq!(stored.artifact_format, "zip");
    assert_eq!((&stored.expire_in, &stored.accessibility), (&None, &None));
}

/// Format and type may be there once more as fields; Rails reads them, whatever the query says.
#[test]
fn fields_count_as_parameters() {
    let mut world = World::new();
    let job = world.running();
    let parts = [
        field_part("artifact_format", "gzip"),
        field_part("artifact_type", "junit"),
        field_part("expire_in", "never"),
        file_part("junit.xml.gz", GZIP),
    ];
    assert_eq!(world.send(upload_request(&job, "", &parts)).status(), 201);
    let stored = world.report(job.id).artifact("junit").unwrap();
    assert_eq!(stored.artifact_format, "gzip");
    assert_eq!(stored.expire_in.as_deref(), Some("never"));
    assert_eq!(stored.content, GZIP);
}

/// Every type has one format; any other is 400, with a message.
#[test]
fn a_type_has_one_format() {
    for (kind, format) in [
        ("archive", "zip"),
        ("lsif", "zip"),
        ("junit", "gzip"),
        ("dotenv", "gzip"),
        ("cobertura", "gzip"),
        ("cyclonedx", "gzip"),
        ("metadata", "gzip"),
        ("sast", "raw"),
        ("codequality", "raw"),
        ("terraform", "raw"),
        ("trace", "raw"),
    ] {
        for sent in ["zip", "gzip", "raw"] {
            let mut world = World::new();
            let job = world.running();
            let query = format!("artifact_format={sent}&artifact_type={kind}");
            let reply = world.upload(&job, &query, "x", GZIP);
            if sent == format {
                assert_eq!(reply.status(), 201, "{query}");
            } else {
                assert_message(&reply, 400);
                assert!(world.report(job.id).artifacts.is_empty());
            }
        }
    }
}

/// 400 from validation, with all problems at once: a type, a format, an accessibility that there
/// is not, no file.
#[test]
fn values_are_validated() {
    let mut world = World::new();
    let job = world.running();
    let error = |reply: &Reply| reply.body()["error"].as_str().unwrap().to_owned();
    for query in [
        "artifact_type=sarif",
        "artifact_format=tar",
        "artifact_format=zipzstd",
        "accessibility=friends",
    ] {
        let reply = world.upload(&job, query, "x.zip", ZIP);
        assert_eq!(reply.status(), 400, "{query}");
        let name = query.split('=').next().unwrap();
        assert_eq!(error(&reply), format!("{name} does not have a valid value"));
    }
    let query = "artifact_format=tar";
    let reply = world.send(upload_request(&job, query, &[]));
    assert_eq!(reply.status(), 400);
    assert_eq!(
        error(&reply),
        "artifact_format does not have a valid value, file is missing"
    );
    // Without a name it is a field.
    let reply = world.send(upload_request(&job, "", &[field_part("file", "x")]));
    assert_eq!(
        (reply.status(), error(&reply).as_str()),
        (400, "file is missing")
    );
    let reply = world.json(
        Method::POST,
        &format!("jobs/{}/artifacts?token={}", job.id, job.token),
        &json!({}),
    );
    assert_eq!(
        (reply.status(), error(&reply).as_str()),
        (400, "file is missing")
    );
    assert!(world.report(job.id).artifacts.is_empty());
}

/// A server that knows more types takes more.
#[test]
fn newer_servers_know_more_types() {
    let mut world = World::new();
    let types = &mut world.gitlab.settings_mut().artifact_types;
    types.insert("sarif".into(), "raw".into());
    let job = world.running();
    let query = "artifact_type=sarif&artifact_format=raw";
    assert_eq!(world.upload(&job, query, "x.sarif", b"{}").status(), 201);
}

/// A report that is read at once and cannot be is 400 with a message.
#[test]
fn a_report_that_cannot_be_read() {
    for kind in ["dotenv", "annotations"] {
        let mut world = World::new();
        let job = world.running();
        let query = format!("artifact_format=gzip&artifact_type={kind}");
        assert_message(&world.upload(&job, &query, ".env.gz", b"A=1"), 400);
        assert!(world.report(job.id).artifacts.is_empty());
    }
}

/// The same file once more is 201, a different one for the same type 400; the first one stays.
#[test]
fn a_repeat_is_idempotent() {
    let mut world = World::new();
    let job = world.running();
    assert_eq!(world.upload_archive(&job, ZIP).status(), 201);
    assert_eq!(world.upload_archive(&job, ZIP).status(), 201);
    assert_message(&world.upload_archive(&job, b"different"), 400);
    let junit = "artifact_format=gzip&artifact_type=junit";
    assert_eq!(world.upload(&job, junit, "junit.gz", GZIP).status(), 201);
    let report = world.report(job.id);
    assert_eq!(report.artifacts.len(), 2);
    assert_eq!(
        (
            archive(&world, job.id).accepted,
            report.artifacts[1].accepted
        ),
        (2, 1)
    );
    assert_eq!(archive(&world, job.id).content, ZIP);
    assert_eq!(report.uploads("archive").count(), 3);
    assert_eq!(report.uploads("junit").count(), 1);
}

/// The file comes through byte by byte, whatever is in it.
#[test]
fn the_file_is_kept_as_it_is() {
    let mut world = World::new();
    let job = world.running();
    let mut content: Vec<u8> = (0..=255).collect();
    content.extend_from_slice(b"\r\n--0123456789abcde\r\n\r\n--\r\n");
    assert_eq!(world.upload_archive(&job, &content).status(), 201);
    assert_eq!(archive(&world, job.id).content, content);
    let empty = world.running();
    assert_eq!(world.upload_archive(&empty, b"").status(), 201);
    assert_eq!(archive(&world, empty.id).content, b"".as_slice());
}

/// 500 in plain text from Workhorse: a second file, another file, a form that does not end.
#[test]
fn workhorse_takes_exactly_one_file() {
    let mut world = World::new();
    let job = world.running();
    let file = file_part("a.zip", ZIP);
    let metadata = b"Content-Disposition: form-data; name=\"metadata\"; filename=\"m\"\r\n\r\nx";
    let path = format!("/api/v4/jobs/{}/artifacts", job.id);
    let with_body = |content_type: &str, body: Vec<u8>| {
        Request::post(&path)
            .header("JOB-TOKEN", &job.token)
            .header("Content-Type", content_type)
            .body(Bytes::from(body))
            .unwrap()
    };
    let whole = form(std::slice::from_ref(&file));
    let mut cut = whole.clone();
    cut.truncate(whole.len() - 8);
    for request in [
        upload_request(&job, "", &[file.clone(), file.clone()]),
        upload_request(&job, "", &[file.clone(), metadata.to_vec()]),
        upload_request(&job, "", &[metadata.to_vec()]),
        with_body(&form_type(), cut),
        with_body("multipart/form-data; boundary=other", whole.clone()),
        with_body("multipart/form-data", whole),
    ] {
        let reply = world.send(request);
        assert_eq!(reply.status(), 500);
        assert!(serde_json::from_slice::<Value>(reply.0.body()).is_err());
    }
    assert!(world.report(job.id).artifacts.is_empty());
}

/// 403 as everywhere: unknown job, unknown token, token of another job, erased, deleted. Never a
/// `Job-Status`.
#[test]
fn who_may_not_upload() {
    let mut world = World::new();
    let job = world.running();
    let mut wrong = job.clone();
    wrong.id = JobId(999_999);
    world
        .upload_archive(&wrong, ZIP)
        .assert_forbidden(None, None);
    wrong = job.clone();
    wrong.token = "wrong".into();
    world
        .upload_archive(&wrong, ZIP)
        .assert_forbidden(None, None);
    let other = world.running();
    wrong.token = other.token.clone();
    world
        .upload_archive(&wrong, ZIP)
        .assert_forbidden(None, None);
    world.gitlab.delete_project(other.id);
    let reason = Some("Project has been deleted!");
    world
        .upload_archive(&other, ZIP)
        .assert_forbidden(reason, None);
    world.gitlab.erase(job.id);
    let reason = Some("Job has been erased!");
    world
        .upload_archive(&job, ZIP)
        .assert_forbidden(reason, None);
    assert_eq!(
        world
            .gitlab
            .reports()
            .map(|report| report.artifacts.len())
            .sum::<usize>(),
        0
    );
}

/// All uploads must finish before the final update: afterwards 403 with the status. A job that is
/// canceling may still upload.
#[test]
fn after_the_final_update_it_is_too_late() {
    let mut world = World::new();
    let job = world.running_gracefully();
    world.gitlab.cancel(job.id);
    assert_eq!(world.status(job.id), JobStatus::Canceling);
    assert_eq!(world.upload_archive(&job, ZIP).status(), 201);
    world.put(&job, "failed");
    let reason = Some("Job is not processing on runner");
    world
        .upload_archive(&job, ZIP)
        .assert_forbidden(reason, Some("canceled"));
    let done = world.running();
    world.put(&done, "success");
    world
        .upload_archive(&done, ZIP)
        .assert_forbidden(reason, Some("success"));
}

/// An expired token is refused, but unlike on the other routes it does not fail the job; nor does
/// an upload count as a sign of life.
#[test]
fn an_upload_changes_nothing_else() {
    let mut world = World::new();
    let job = world.running();
    world.wait(100);
    assert_eq!(world.upload_archive(&job, ZIP).status(), 201);
    let manager = world
        .gitlab
        .managers(world.runner)
        .next()
        .map(|manager| manager.last_contact);
    assert_ne!(manager, Some(world.now));
    world.gitlab.expire_token(job.id);
    let reason = Some("Job token has expired");
    world
        .upload_archive(&job, ZIP)
        .assert_forbidden(reason, Some("running"));
    assert_eq!(world.status(job.id), JobStatus::Running);
}

/// The token may be in the header or in the query, of both the query counts. In the form it comes
/// too late for Workhorse's question.
#[test]
fn where_the_token_may_be() {
    let mut world = World::new();
    let job = world.running();
    let mut upload = |header: Option<&str>, query: &str, field: Option<&str>| {
        let mut parts = vec![file_part("a.zip", ZIP)];
        parts.extend(field.map(|token| field_part("token", token)));
        let mut request = upload_request(&job, query, &parts);
        match header {
            Some(token) => {
                let token = token.parse().unwrap();
                request.headers_mut().insert("job-token", token);
            }
            None => drop(request.headers_mut().remove("JOB-TOKEN")),
        }
        world.send(request).status()
    };
    let good = format!("token={}", job.token);
    assert_eq!(upload(Some(&job.token), "", None), 201);
    assert_eq!(upload(None, &good, None), 201);
    assert_eq!(upload(Some("wrong"), &good, None), 201);
    assert_eq!(upload(Some(&job.token), "token=wrong", None), 403);
    assert_eq!(upload(None, "", None), 403);
    assert_eq!(upload(None, "", Some(&job.token)), 403);
}

/// 413 in plain text above the limit, compared in bytes, and from the announced length alone.
#[test]
fn a_file_may_be_too_large() {
    let mut world = World::new();
    assert_eq!(world.gitlab.settings().max_artifact_size, 100 * 1024 * 1024);
    world.gitlab.settings_mut().max_artifact_size = ZIP.len() as u64;
    let job = world.running();
    assert_eq!(world.upload_archive(&job, ZIP).status(), 201);
    let reply = world.upload_archive(&job, &[ZIP, b"x"].concat());
    assert_eq!(reply.status(), 413);
    assert!(serde_json::from_slice::<Value>(reply.0.body()).is_err());
    let mut announced = upload_request(&job, "", &[file_part("a.zip", ZIP)]);
    announced
        .headers_mut()
        .insert("Content-Length", 1_000_000.into());
    assert_eq!(world.send(announced).status(), 413);
    assert_eq!(archive(&world, job.id).accepted, 1);
}

/// 405 with artifacts disabled; before the token is looked at.
#[test]
fn artifacts_can_be_disabled() {
    let mut world = World::new();
    let mut job = world.running();
    world.gitlab.settings_mut().artifacts_enabled = false;
    assert_message(&world.upload_archive(&job, ZIP), 405);
    job.token = "wrong".into();
    assert_message(&world.upload_archive(&job, ZIP), 405);
}

/// 429 during a migration, and beyond the limit of the job token, of which an upload takes two:
/// Workhorse asks first. Validation comes before the limit.
#[test]
fn uploads_are_limited() {
    let mut world = World::new();
    let job = world.running();
    world.gitlab.settings_mut().migration_backoff = true;
    let reply = world.upload_archive(&job, ZIP);
    assert_eq!(
        (reply.status(), reply.header("Retry-After")),
        (429, Some("60"))
    );
    world.gitlab.settings_mut().migration_backoff = false;
    world.gitlab.settings_mut().update_limit = 4;
    assert_eq!(world.upload_archive(&job, ZIP).status(), 201);
    assert_eq!(world.upload_archive(&job, ZIP).status(), 201);
    let reply = world.upload_archive(&job, ZIP);
    assert_eq!(reply.status(), 429);
    assert!(reply.body()["message"]["error"].is_string());
    assert_eq!(world.put(&job, "running").status(), 429);
    let reply = world.upload(&job, "artifact_type=odd", "a.zip", ZIP);
    assert_eq!(reply.status(), 400);
    world.wait(60);
    assert_eq!(world.upload_archive(&job, ZIP).status(), 201);
}

/// `authorize` is for Workhorse: 403 for anybody else, after 429, 400 and 405.
#[test]
fn authorize_is_for_workhorse() {
    let mut world = World::new();
    let job = world.running();
    let authorize = |query: &str| {
        Request::post(format!(
            "/api/v4/jobs/{}/artifacts/authorize?{query}",
            job.id
        ))
        .header("JOB-TOKEN", &job.token)
        .body(Bytes::new())
        .unwrap()
    };
    let reply = world.send(authorize("filesize=1"));
    reply.assert_forbidden(None, None);
    assert_eq!(world.send(authorize("filesize=big")).status(), 400);
    assert_eq!(world.send(authorize("artifact_type=odd")).status(), 400);
    world.gitlab.settings_mut().artifacts_enabled = false;
    assert_eq!(world.send(authorize("")).status(), 405);
    world.gitlab.settings_mut().migration_backoff = true;
    assert_eq!(world.send(authorize("filesize=big")).status(), 429);
}

/// Planned faults: 503 and a lost request store nothing, a lost reply does, so that the repeat
/// finds the same file.
#[test]
fn uploads_can_go_wrong() {
    let mut world = World::new();
    let job = world.running();
    for (nth, fault) in [
        Override::Html(503),
        Override::Status(500),
        Override::CloseBefore,
        Override::CloseAfter,
    ]
    .into_iter()
    .enumerate()
    {
        let nth = nth as u64 + 1;
        world
            .gitlab
            .plan_for_job(job.id, Endpoint::ArtifactUpload, nth, fault);
    }
    let request = || upload_request(&job, "", &[file_part("a.zip", ZIP)]);
    assert_eq!(world.send(request()).status(), 503);
    assert_eq!(world.send(request()).status(), 500);
    assert!(matches!(world.answer(request()), Answer::Close));
    assert!(world.report(job.id).artifacts.is_empty());
    assert!(matches!(world.answer(request()), Answer::Close));
    assert_eq!(archive(&world, job.id).accepted, 1);
    assert_eq!(world.send(request()).status(), 201);
    assert_eq!(archive(&world, job.id).accepted, 2);
    let statuses: Vec<_> = world
        .report(job.id)
        .uploads("archive")
        .map(|record| (record.status, record.delivered))
        .collect();
    assert_eq!(
        statuses,
        [
            (Some(503), true),
            (Some(500), true),
            (None, false),
            (Some(201), false),
            (Some(201), true),
        ]
    );
}

/// The record of an upload: of what type, and whose token it carried; never the token itself.
#[test]
fn what_is_recorded() {
    let mut world = World::new();
    let job = world.running();
    let other = world.running();
    let query = "artifact_type=junit&artifact_format=gzip";
    world.upload(&job, query, "junit.gz", GZIP);
    let mixed = Running {
        id: job.id,
        token: other.token.clone(),
    };
    world.upload_archive(&mixed, ZIP);
    let records: Vec<_> = world
        .report(job.id)
        .requests
        .iter()
        .map(|record| {
            (
                record.artifact_type.as_deref(),
                record.token_of,
                record.direct_download,
            )
        })
        .collect();
    assert_eq!(
        records,
        [
            (Some("junit"), Some(job.id), None),
            (Some("archive"), Some(other.id), None),
        ]
    );
    let shown = format!("{:?}", world.report(job.id));
    assert!(!shown.contains(&job.token) && !shown.contains(&other.token));
}
