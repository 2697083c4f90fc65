//! Nobody gets to see the password of a repository.

use gitlab_runner::mock::{Answer, JobStatus};
use http::{Response, header};
use std::sync::{Arc, Mutex};

use crate::world::{World, plain};

#[tokio::test(flavor = "multi_thread")]
async fn scripts_reach_the_repository_and_the_password_is_in_no_file() {
    let Some(world) = World::new() else { return };
    let report = world
        .run(world.spec([
            "git config remote.origin.url",
            "! grep -rq \"$CI_JOB_TOKEN\" .git",
            "git fetch --quiet --unshallow origin || git fetch --quiet origin",
            "env | grep ^RUNNER_GIT",
            "GIT_TRACE_CURL=1 git ls-remote --quiet origin main 2>&1 | grep -i 'authorization:' | head -n1",
        ]))
        .await;
    let log = plain(&report);
    assert_eq!(report.status, JobStatus::Success, "{log}");
    let url = format!("{}/acme/tools/widget-works.git\n", world.gitlab.url());
    assert!(
        log.contains(&format!("$ git config remote.origin.url\n{url}")),
        "{log}"
    );
    assert!(log.contains("RUNNER_GIT_PASSWORD=[MASKED]\n"), "{log}");
    assert!(log.contains("<redacted>"), "{log}");
    let token = world.gitlab(|gitlab| gitlab.job_token(report.id).unwrap().expose().to_owned());
    assert!(!report.log_text().contains(&token), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_elsewhere_takes_no_password_along() {
    let seen: Arc<Mutex<Vec<Option<String>>>> = Arc::default();
    let record = Arc::clone(&seen);
    let Some(elsewhere) = World::meddling(Box::new(move |request| {
        let given = request.headers().get(header::AUTHORIZATION);
        let given = given.map(|it| String::from_utf8_lossy(it.as_bytes()).into_owned());
        record.lock().unwrap().push(given);
        None
    })) else {
        return;
    };
    let target = elsewhere.gitlab.url();
    let world = World::meddling(Box::new(move |request| {
        // Only once it is known who asks: what was said here must not be said there.
        request.headers().get(header::AUTHORIZATION)?;
        let place = format!("{target}{}", request.uri());
        let reply = Response::builder()
            .status(302)
            .header(header::LOCATION, place);
        Some(Answer::Reply(reply.body(Vec::new().into()).unwrap()))
    }));
    let world = world.unwrap();
    let report = world.run(world.spec(["echo never"])).await;
    let log = plain(&report);
    assert_eq!(report.status, JobStatus::Failed, "{log}");
    let seen = seen.lock().unwrap();
    assert!(!seen.is_empty(), "the redirect was followed: {log}");
    assert!(seen.iter().flatten().next().is_none(), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_fails_without_a_question() {
    let Some(world) = World::new() else { return };
    let spec = world.spec(["echo never"]).payload_override(|payload| {
        let url = payload["git_info"]["repo_url"].as_str().unwrap();
        let (_, host) = url.split_once('@').unwrap();
        payload["git_info"]["repo_url"] = format!("http://someone:p%40ss%25wörd@{host}").into();
    });
    let report = world.run(spec).await;
    let log = plain(&report);
    assert_eq!(report.status, JobStatus::Failed, "{log}");
    assert_eq!(report.failure_reason.as_deref(), Some("script_failure"));
    assert!(
        log.contains("ERROR: the sources are not there: git fetch ended with"),
        "{log}"
    );
    assert!(
        !log.contains("never") && !log.contains("p@ss") && !log.contains("p%40ss"),
        "{log}"
    );
}
