//! What can be wrong before the first job.

use std::{sync::Arc, time::Duration};

use futures::FutureExt;
use gitlab_runner::{
    RunError, RunErrorKind, Runner,
    mock::{Endpoint, JobSpec, JobStatus, Override},
};

use crate::world::{Steps, TOKEN, URL, World, run_until};

fn handler() -> impl Fn(gitlab_runner::job::Job) -> std::future::Ready<Result<Steps, ()>> + Clone {
    |job| std::future::ready(Ok(Steps::new(job, |_, _| async { Ok(()) })))
}

fn start(world: &World, url: &str, token: &str, dir: &std::path::Path) -> RunError {
    let url = url.parse().unwrap();
    let adapter = world.sim.adapter();
    let mut runner = Runner::with_adapter(url, token.to_owned(), dir.to_owned(), adapter);
    let run = world.sim.block_on(runner.run(handler(), 1)).unwrap_err();
    let request = world
        .sim
        .block_on(runner.request_job(handler()))
        .unwrap_err();
    assert_eq!(run.kind(), request.kind());
    assert!(!run.to_string().contains(TOKEN));
    run
}

/// All is said, and nothing is left to print for who follows the sources.
fn assert_whole(error: &RunError) {
    let cause = error.cause().unwrap().to_string();
    assert!(error.to_string().ends_with(&cause), "{error}");
    assert!(std::error::Error::source(error).is_none());
}

#[test]
fn a_url_must_name_a_web_server() {
    let world = World::new(60);
    for url in [
        "gitlab.example.com:443",
        "ftp://gitlab.example.com",
        "mailto:me@example.com",
    ] {
        let error = start(&world, url, TOKEN, world.dir.path());
        assert_eq!(error.kind(), RunErrorKind::InvalidUrl, "{url}");
        assert!(error.to_string().contains("https://"), "{error}");
        assert_whole(&error);
    }
}

#[test]
fn credentials_in_the_url_are_an_error_that_does_not_repeat_them() {
    let world = World::new(69);
    let url = "https://me:open-sesame@gitlab.example.com";
    let error = start(&world, url, TOKEN, world.dir.path());
    assert_eq!(error.kind(), RunErrorKind::InvalidUrl);
    assert!(!format!("{error} {error:?}").contains("sesame"), "{error}");
}

#[test]
fn urls_below_a_path_keep_it() {
    for (url, prefix) in [
        ("/gitlab", "/gitlab"),
        ("/gitlab/", "/gitlab"),
        ("/?x=1", ""),
    ] {
        let world = World::new(61);
        let url = format!("{URL}{url}");
        let mut runner = Runner::builder(url.parse().unwrap(), TOKEN, world.dir.path())
            .adapter(world.sim.adapter())
            .build()
            .now_or_never()
            .unwrap();
        // The simulated server is not below a path and answers 404 there.
        let _ = world.sim.block_on(runner.request_job(handler()));
        let paths: Vec<_> = world
            .gitlab
            .with(|it, _| it.requests().map(|it| it.path.clone()).collect());
        assert_eq!(
            paths,
            [
                format!("{prefix}/api/v4/runners/verify"),
                format!("{prefix}/api/v4/jobs/request")
            ]
        );
    }
}

#[test]
fn the_build_directory_must_be_writable() {
    let world = World::new(62);
    let file = world.dir.path().join("file");
    std::fs::write(&file, b"").unwrap();
    for dir in [file.clone(), file.join("below")] {
        let error = start(&world, URL, TOKEN, &dir);
        assert_eq!(error.kind(), RunErrorKind::BuildDir);
        assert!(
            error.to_string().contains(&*dir.to_string_lossy()),
            "{error}"
        );
        assert_whole(&error);
    }
    assert_eq!(world.gitlab.with(|gitlab, _| gitlab.requests().len()), 0);
}

#[test]
fn a_build_directory_without_a_name_is_seen_in_the_error() {
    let world = World::new(59);
    let error = start(&world, URL, TOKEN, std::path::Path::new(""));
    assert_eq!(error.kind(), RunErrorKind::BuildDir);
    assert!(error.to_string().contains("\"\""), "{error}");
}

#[test]
fn a_token_that_cannot_be_one_is_sent_nowhere() {
    let world = World::new(58);
    for token in ["", " ", "glrt-hidden\n", "glrt-hiddén"] {
        let error = start(&world, URL, token, world.dir.path());
        assert_eq!(error.kind(), RunErrorKind::InvalidToken, "{token:?}");
        assert!(!format!("{error} {error:?}").contains("hidd"), "{error:?}");
    }
    assert_eq!(world.gitlab.with(|gitlab, _| gitlab.requests().len()), 0);
    // The placeholder of the README is for GitLab to refuse.
    let error = start(&world, URL, "runner token", world.dir.path());
    assert_eq!(error.kind(), RunErrorKind::TokenRefused);
}

#[test]
fn missing_parents_of_the_build_directory_are_made() {
    let world = World::new(63);
    let job = world.enqueue(JobSpec::script(["true"]));
    let dir = world.dir.path().join("a/b/c");
    let url = URL.parse().unwrap();
    let adapter = world.sim.adapter();
    let mut runner = Runner::with_adapter(url, TOKEN.to_owned(), dir.clone(), adapter);
    world.sim.block_on(async {
        assert!(runner.request_job(handler()).await.unwrap());
        runner.drain().await;
    });
    assert_eq!(world.report(job).status, JobStatus::Success);
    assert!(dir.is_dir());
    let left: Vec<_> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|it| it.unwrap().file_name())
        .collect();
    assert!(
        left.iter().all(|name| name == ".runner_system_id"),
        "{left:?}"
    );
}

#[test]
fn a_refused_token_is_an_error_and_can_be_tried_again() {
    let world = World::new(64);
    let error = start(&world, URL, "glrt-of-somebody-else", world.dir.path());
    assert_eq!(error.kind(), RunErrorKind::TokenRefused);
    let text = error.to_string();
    assert!(
        text.contains("glrt-") && !text.contains("somebody"),
        "{text}"
    );

    let mut runner = world.runner();
    let job = world.enqueue(JobSpec::script(["true"]));
    world
        .gitlab
        .with(|it, _| it.plan(Endpoint::Verify, 1, Override::Status(403)));
    world.sim.block_on(async {
        let error = runner.run(handler(), 1).await.unwrap_err();
        assert_eq!(error.kind(), RunErrorKind::TokenRefused);
        let over = world.until_finished(job);
        assert!(run_until(runner.run(handler(), 1), over).await.is_none());
    });
}

#[test]
fn an_odd_answer_to_the_first_question_is_no_error() {
    let world = World::new(65);
    let job = world.enqueue(JobSpec::script(["true"]));
    world
        .gitlab
        .with(|it, _| it.plan(Endpoint::Verify, 1, Override::Html(502)));
    let mut runner = world.runner();
    world.sim.block_on(async {
        let over = world.until_finished(job);
        assert!(run_until(runner.run(handler(), 1), over).await.is_none());
    });
    assert_eq!(world.report(job).status, JobStatus::Success);
}

#[test]
fn when_the_runtime_is_gone_another_one_will_do() {
    let world = World::new(66);
    let mut runner = world.runner();
    // A world of its own, with the same server's address but nothing behind it.
    let lost = gitlab_runner::sim::Sim::new(1);
    let url = URL.parse().unwrap();
    let mut stranded = Runner::with_adapter(
        url,
        TOKEN.to_owned(),
        world.dir.path().into(),
        lost.adapter(),
    );
    let error = lost.block_on(stranded.request_job(handler())).unwrap_err();
    assert_eq!(error.kind(), RunErrorKind::Network);
    drop(lost);
    let handle = stranded.handle();
    let error = world
        .sim
        .block_on(stranded.request_job(handler()))
        .unwrap_err();
    assert_eq!(error.kind(), RunErrorKind::DriverGone);
    world.sim.block_on(stranded.drain());
    drop(stranded);
    assert!(handle.is_stopped());

    assert!(!world.sim.block_on(runner.request_job(handler())).unwrap());
}

// The other runtimes are started when they are needed.
#[cfg(all(feature = "tokio", not(feature = "smol"), not(feature = "async-std")))]
#[test]
fn without_a_runtime_there_is_an_error() {
    let world = World::new(67);
    let mut runner = Runner::new(
        URL.parse().unwrap(),
        TOKEN.to_owned(),
        world.dir.path().into(),
    );
    let error = world
        .sim
        .block_on(runner.request_job(handler()))
        .unwrap_err();
    assert_eq!(error.kind(), RunErrorKind::NoRuntime, "{error}");
    assert!(error.to_string().contains("tokio"), "{error}");
}

#[test]
fn a_server_that_is_not_there_is_asked_again() {
    let world = World::new(68);
    let url = "https://nobody.example.test".parse().unwrap();
    let adapter = world.sim.adapter();
    let mut runner = Runner::with_adapter(
        url,
        TOKEN.to_owned(),
        world.dir.path().into(),
        Arc::clone(&adapter),
    );
    world.sim.block_on(async {
        let hour = world.sim.sleep(Duration::from_secs(3600));
        assert!(run_until(runner.run(handler(), 1), hour).await.is_none());
    });
}

#[test]
fn everything_can_move_between_threads() {
    fn send<T: Send>(_: &T) {}
    fn shared<T: Send + Sync + 'static>() {}

    shared::<Runner>();
    shared::<gitlab_runner::RunnerBuilder>();
    shared::<gitlab_runner::RunnerHandle>();
    shared::<gitlab_runner::job::Job>();
    shared::<gitlab_runner::job::Variable<'static>>();
    shared::<RunError>();
    let world = World::new(69);
    let mut runner = world.runner();
    send(&runner.run(handler(), 1));
    send(&runner.request_job(handler()));
    send(&runner.wait_for_space(1));
    send(&runner.drain());
}
