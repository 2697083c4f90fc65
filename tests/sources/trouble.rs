//! Repositories that cannot be reached, and jobs that are cancelled meanwhile.

use gitlab_runner::mock::{Answer, HoldId, JobStatus};

use crate::world::{World, plain, reply};

#[tokio::test(flavor = "multi_thread")]
async fn as_many_attempts_as_the_job_asks_for() {
    for (attempts, succeeds) in [("2", false), ("3", true)] {
        let mut failures = 2;
        let Some(world) = World::meddling(Box::new(move |_| {
            (failures > 0).then(|| {
                failures -= 1;
                reply(503)
            })
        })) else {
            return;
        };
        let spec = world
            .spec(["cat README"])
            .variable("GET_SOURCES_ATTEMPTS", attempts);
        let report = world.run(spec).await;
        let log = plain(&report);
        assert_eq!(report.status == JobStatus::Success, succeeds, "{log}");
        assert!(
            log.contains("git fetch ended with exit code 128; attempt 2 of"),
            "{log}"
        );
        assert!(log.contains("follows in 5 seconds\n"), "{log}");
        assert_eq!(
            log.contains("attempt 3 of 3 follows in 10 seconds\n"),
            succeeds,
            "{log}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_ends_git_and_nothing_else_runs() {
    let never = HoldId::new(u64::MAX);
    let Some(world) = World::meddling(Box::new(move |_| Some(Answer::Hold(never)))) else {
        return;
    };
    let spec = world
        .spec(["echo never"])
        .after_script(["echo never either"])
        .variable("GET_SOURCES_ATTEMPTS", "5");
    let report = world
        .run_and(spec, |job| {
            let world = &world;
            async move {
                world.until_git_asks().await;
                let processes = world.processes();
                let token = world.gitlab(|gitlab| {
                    let token = gitlab.job_token(job).unwrap();
                    token.expose().to_owned()
                });
                assert!(
                    cfg!(not(target_os = "linux"))
                        || processes.iter().any(|it| it.contains("git fetch ")),
                    "{processes:?}"
                );
                assert!(
                    !processes.iter().any(|it| it.contains(&token)),
                    "everybody on the machine can see the password: {processes:?}"
                );
                world.gitlab(|gitlab| gitlab.cancel(job));
            }
        })
        .await;
    assert!(world.processes().is_empty(), "{:?}", world.processes());
    let log = plain(&report);
    assert_eq!(report.status, JobStatus::Canceled, "{log}");
    assert!(log.ends_with("ERROR: Job failed: canceled\n"), "{log}");
    assert!(!log.contains("never") && !log.contains("attempt"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_job_ends_git_too() {
    for out_of_time in [false, true] {
        let never = HoldId::new(u64::MAX);
        let Some(world) = World::meddling(Box::new(move |_| Some(Answer::Hold(never)))) else {
            return;
        };
        let mut spec = world
            .spec(["echo never"])
            .after_script(["echo never either"]);
        if out_of_time {
            // A minute of the runner's is a second and a half.
            spec = spec.timeout(60);
        }
        let report = world
            .run_and(spec, |job| {
                let world = &world;
                async move {
                    world.until_git_asks().await;
                    if !out_of_time {
                        world.gitlab(|gitlab| gitlab.force_cancel(job));
                    }
                }
            })
            .await;
        assert!(world.processes().is_empty(), "{:?}", world.processes());
        let log = plain(&report);
        assert!(!log.contains("never"), "{log}");
        if out_of_time {
            assert_eq!(report.status, JobStatus::Failed, "{log}");
            let reason = report.failure_reason.as_deref();
            assert_eq!(reason, Some("job_execution_timeout"), "{log}");
            assert!(log.contains("ERROR: Job failed: execution took longer than 60 seconds\n"));
        } else {
            assert_eq!(report.status, JobStatus::Canceled, "{log}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_is_heard_between_attempts() {
    let Some(world) = World::meddling(Box::new(|_| Some(reply(503)))) else {
        return;
    };
    let spec = world
        .spec(["echo never"])
        .variable("GET_SOURCES_ATTEMPTS", "10");
    let report = world
        .run_and(spec, |job| {
            let world = &world;
            async move {
                world.until_git_asks().await;
                world.gitlab(|gitlab| gitlab.cancel(job));
            }
        })
        .await;
    let log = plain(&report);
    assert_eq!(report.status, JobStatus::Canceled, "{log}");
    assert!(!log.contains("attempt 10 of 10"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_none_is_told_and_the_script_runs() {
    let Some(world) = World::new() else { return };
    let spec = world.spec(["echo here"]).payload_override(|payload| {
        payload["git_info"]["repo_url"] = "https://x:secret1234@git.example.test/a/b.git".into();
    });
    let report = world.run(spec).await;
    let log = plain(&report);
    assert_eq!(report.status, JobStatus::Success, "{log}");
    let warning = "WARNING: there is no host git.example.test: the job runs without its sources\n";
    assert!(log.contains(warning), "{log}");
    assert!(log.contains("$ echo here\nhere\n"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_is_not_there_fails_the_job() {
    let Some(world) = World::new() else { return };
    for (from, to) in [
        ("widget-works.git", "nothing.git"),
        ("@127.0.0.1:", "@127.0.0.1:1"),
    ] {
        let spec = world.spec(["echo never"]).payload_override(move |payload| {
            let url = payload["git_info"]["repo_url"].as_str().unwrap();
            let url = match to.ends_with(":1") {
                true => format!("{}{to}/a.git", url.split_once(from).unwrap().0),
                false => url.replace(from, to),
            };
            payload["git_info"]["repo_url"] = url.into();
        });
        let report = world.run(spec).await;
        let log = plain(&report);
        assert_eq!(report.status, JobStatus::Failed, "{log}");
        assert!(log.contains("fatal: "), "{log}");
        assert!(!log.contains("never"), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_gitlab_says_cannot_become_an_option_of_git() {
    let Some(world) = World::new() else { return };
    for (field, value) in [
        ("sha", serde_json::json!("--help")),
        ("sha", serde_json::json!("")),
        ("repo_url", serde_json::json!("--upload-pack=touch x")),
        ("refspecs", serde_json::json!(["--upload-pack=echo never"])),
    ] {
        let spec = world.spec(["echo never"]).payload_override(move |payload| {
            payload["git_info"][field] = value.clone();
        });
        let report = world.run(spec).await;
        let log = plain(&report);
        assert_eq!(report.status, JobStatus::Failed, "{field}: {log}");
        assert!(
            log.contains("ERROR: the sources are not there"),
            "{field}: {log}"
        );
        assert!(!log.contains("echo never\nnever"), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_fails_fails_the_job() {
    let Some(world) = World::new() else { return };
    let spec = world.spec(["echo never"]).payload_override(|payload| {
        let script = ["(exit 7)"];
        payload["hooks"] =
            serde_json::json!([{"name": "pre_get_sources_script", "script": script}]);
    });
    let report = world.run(spec).await;
    let log = plain(&report);
    assert_eq!(report.status, JobStatus::Failed, "{log}");
    assert!(
        log.contains("the hook pre_get_sources_script ended with exit code 7\n"),
        "{log}"
    );
    assert!(world.git_requests().is_empty());
}
