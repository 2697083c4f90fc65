//! The life of a runner at GitLab: registered, verified, with new tokens, and gone.

use std::{
    collections::VecDeque,
    future::ready,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::future::join;
use gitlab_runner::{
    RunError, RunErrorKind, Runner, Secret, Time,
    job::Job,
    mock::{Endpoint, JobSpec, JobStatus, MockGitlab, Override, VerifyMode},
    registration::{self, NewToken, Registration},
};

use crate::world::{Steps, TOKEN, URL, World, run_until};

const HOUR: Duration = Duration::from_secs(3600);

fn handler() -> impl Fn(Job) -> std::future::Ready<Result<Steps, ()>> + Clone {
    |job| ready(Ok(Steps::new(job, |_, _| async { Ok(()) })))
}

fn settings(world: &World, change: impl FnOnce(&mut MockGitlab)) {
    world.gitlab.with(|gitlab, now| {
        gitlab.advance(now);
        change(gitlab);
    });
}

fn fault(world: &World, endpoint: Endpoint, fault: Override) {
    settings(world, |gitlab| gitlab.plan(endpoint, 1, fault));
}

fn register(
    world: &World,
    wanted: Registration,
) -> Result<registration::RegisteredRunner, RunError> {
    let url = URL.parse().unwrap();
    let adapter = Some(world.sim.adapter());
    world
        .sim
        .block_on(registration::register(url, wanted, adapter))
}

fn paths(world: &World) -> Vec<String> {
    let path = |path: &str| path.trim_start_matches("/api/v4/").to_owned();
    world
        .gitlab
        .with(|it, _| it.requests().map(|it| path(&it.path)).collect())
}

/// What the callback was told, and the order of what happened.
type Stored = Arc<Mutex<VecDeque<NewToken>>>;

#[test]
fn a_runner_is_registered_runs_a_job_and_leaves() {
    let world = World::new(400);
    settings(&world, |gitlab| {
        gitlab.settings_mut().registration_token = Some("GR1348941good".into());
        gitlab.settings_mut().runner_token_life = Some(720 * HOUR);
    });
    let mut wanted = Registration::new("GR1348941good");
    wanted.tag_list = vec!["lab".to_owned()];
    wanted.run_untagged = false;
    let made = register(&world, wanted).unwrap();
    assert!(made.id.is_some());
    let life = made.token.expires_at.unwrap().since(made.token.obtained_at);
    assert_eq!(life, 720 * HOUR);

    let token = made.token.token.expose().to_owned();
    let mut runner = Runner::with_adapter(
        URL.parse().unwrap(),
        token.clone(),
        world.dir.path().into(),
        world.sim.adapter(),
    );
    let job = world.enqueue(JobSpec::script(["true"]));
    world.sim.block_on(async {
        let details = runner.verify().await.unwrap();
        assert_eq!(details.id, made.id);
        assert_eq!(details.token, Some(Secret::from(token)));
        assert!(runner.request_job(handler()).await.unwrap());
        // Waits for the job by itself. A runner of the old kind goes as a whole.
        runner.unregister().await.unwrap();
        assert_eq!(
            runner.verify().await.unwrap_err().kind(),
            RunErrorKind::TokenRefused
        );
    });
    assert_eq!(world.report(job).status, JobStatus::Success);
}

#[test]
fn a_registration_that_fails_says_what_to_check() {
    let world = World::new(401);
    let wanted = || Registration::new("GR1348941good");
    let told = |error: RunError, kind: RunErrorKind, words: &[&str]| {
        assert_eq!(error.kind(), kind, "{error}");
        let text = format!("{error} {error:?}");
        for word in words {
            assert!(text.contains(word), "{word}: {text}");
        }
        assert!(!text.contains("GR1348941good"), "{text}");
    };
    told(
        register(&world, wanted()).unwrap_err(),
        RunErrorKind::TokenRefused,
        &[
            "invalid token supplied",
            "registration token of this GitLab",
        ],
    );
    let allow = |allowed| {
        settings(&world, |gitlab| {
            gitlab.settings_mut().registration_token = Some("GR1348941good".into());
            gitlab.settings_mut().registration_allowed = allowed;
        });
    };
    allow(false);
    told(
        register(&world, wanted()).unwrap_err(),
        RunErrorKind::RegistrationDisallowed,
        &["runner registration disallowed", "glrt-"],
    );
    allow(true);
    let mut bad = wanted();
    bad.maximum_timeout = Some(Duration::from_secs(5));
    told(
        register(&world, bad).unwrap_err(),
        RunErrorKind::Rejected,
        &["maximum_timeout: needs to be at least 10 minutes"],
    );
    fault(&world, Endpoint::Register, Override::CloseAfter);
    let before = paths(&world).len();
    told(
        register(&world, wanted()).unwrap_err(),
        RunErrorKind::Network,
        &["GitLab may have made one"],
    );
    assert_eq!(paths(&world).len(), before + 1, "never blindly again");
    told(
        register(&world, Registration::new(TOKEN)).unwrap_err(),
        RunErrorKind::InvalidToken,
        &["needs no registration"],
    );
    let nowhere = "ftp://gitlab.example.test".parse().unwrap();
    let adapter = Some(world.sim.adapter());
    let answer = registration::register(nowhere, wanted(), adapter);
    let error = world.sim.block_on(answer).unwrap_err();
    assert_eq!(error.kind(), RunErrorKind::InvalidUrl);
}

#[test]
fn an_old_server_verifies_without_words() {
    let world = World::new(402);
    settings(&world, |it| {
        it.settings_mut().verify = VerifyMode::PlainText
    });
    let mut runner = world.runner();
    let details = world.sim.block_on(runner.verify()).unwrap();
    assert_eq!(details, registration::RunnerDetails::default());
    fault(&world, Endpoint::Verify, Override::Status(403));
    let error = world.sim.block_on(runner.verify()).unwrap_err();
    assert_eq!(error.kind(), RunErrorKind::TokenRefused);
    assert!(
        error
            .to_string()
            .contains("check that it is an authentication token")
    );
}

#[test]
fn a_runner_with_an_authentication_token_takes_only_its_manager_away() {
    let world = World::new(403);
    let managers = || {
        let ids = |it: &mut MockGitlab| -> Vec<String> {
            it.managers(world.number)
                .map(|it| it.system_id.clone())
                .collect()
        };
        world.gitlab.with(|it, _| ids(it))
    };
    let mut other = world.build(world.builder().system_id("s_another00000"));
    let mut runner = world.runner();
    world.sim.block_on(async {
        other.verify().await.unwrap();
        // Also after it was stopped for good.
        let handle = runner.handle();
        let stop = async {
            world.until_asked_for_a_job().await;
            handle.drain();
        };
        let (run, ()) = join(runner.run(handler(), 1), stop).await;
        run.unwrap();
        assert!(handle.is_stopped());
        assert_eq!(managers().len(), 2);
        fault(&world, Endpoint::Unregister, Override::Html(502));
        runner.unregister().await.unwrap();
        assert_eq!(managers(), ["s_another00000"]);
        let error = runner.unregister().await.unwrap_err();
        assert!(
            error.to_string().contains("knows no such runner manager"),
            "{error}"
        );
        // All of it, for all.
        runner.unregister_runner().await.unwrap();
        assert_eq!(
            other.verify().await.unwrap_err().kind(),
            RunErrorKind::TokenRefused
        );
    });
}

#[test]
fn a_new_token_is_stored_before_it_is_used_and_again_and_again() {
    let world = World::new(404);
    settings(&world, |gitlab| {
        gitlab.settings_mut().runner_token_life = Some(8 * HOUR);
        gitlab.set_token_expiry(world.number, Some(Time::ZERO + 4 * HOUR));
    });
    let stored = Stored::default();
    let keep = Arc::clone(&stored);
    let seen = world.gitlab.clone();
    let adapter = world.sim.adapter();
    let builder = world.builder().on_token_rotated(move |new: NewToken| {
        let (keep, seen, adapter) = (Arc::clone(&keep), seen.clone(), Arc::clone(&adapter));
        async move {
            let requests = || seen.with(|it, _| it.requests().len());
            let before = requests();
            adapter
                .sleep_until(adapter.now() + Duration::from_secs(20))
                .await;
            assert_eq!(requests(), before, "the runner did not wait");
            keep.lock().unwrap().push_back(new);
            Ok::<(), String>(())
        }
    });
    // A poll is always on its way while the token changes.
    settings(&world, |it| it.set_long_poll(Some(Duration::from_secs(50))));
    let mut runner = world.build(builder);
    let job = world.sim.block_on(async {
        let long = world.sim.sleep(20 * HOUR);
        assert!(run_until(runner.run(handler(), 1), long).await.is_none());
        let job = world.enqueue(JobSpec::script(["true"]));
        let over = world.until_finished(job);
        assert!(run_until(runner.run(handler(), 1), over).await.is_none());
        job
    });
    assert_eq!(world.report(job).status, JobStatus::Success);
    let stored = stored.lock().unwrap();
    // After 3 hours, and then each 6.
    let hours: Vec<u64> = {
        let origin = world.gitlab.with(|it, _| it.settings().wall_origin);
        stored
            .iter()
            .map(|new| new.obtained_at.since(origin).as_secs() / HOUR.as_secs())
            .collect()
    };
    assert_eq!(hours, [3, 9, 15]);
    let last = world
        .gitlab
        .with(|it, _| it.runner_token(world.number).cloned());
    assert_eq!(Some(&stored[2].token), last.as_ref());
    let refused = world
        .gitlab
        .with(|it, _| it.requests().filter(|it| it.status == Some(403)).count());
    assert!(
        refused <= 3,
        "{refused} refusals: one poll on its way for each change"
    );
}

#[test]
fn a_callback_that_fails_or_panics_costs_no_runner() {
    for panics in [false, true] {
        let world = World::new(405);
        settings(&world, |it| {
            it.set_token_expiry(world.number, Some(Time::from_secs(400)))
        });
        let builder = world.builder().on_token_rotated(move |_| async move {
            assert!(!panics, "on purpose");
            Err::<(), _>("the disk is full")
        });
        let mut runner = world.build(builder);
        world.sim.block_on(async {
            let while_it_runs = world.sim.sleep(Duration::from_secs(400));
            assert!(
                run_until(runner.run(handler(), 1), while_it_runs)
                    .await
                    .is_none()
            );
            let job = world.enqueue(JobSpec::script(["true"]));
            let over = world.until_finished(job);
            assert!(run_until(runner.run(handler(), 1), over).await.is_none());
            assert_eq!(world.report(job).status, JobStatus::Success);
        });
        assert!(paths(&world).iter().any(|path| path.contains("reset")));
    }
}

#[test]
fn the_operator_changes_the_token_while_the_runner_runs() {
    let world = World::new(406);
    let mut runner = world.runner();
    let handle = runner.handle();
    world.sim.block_on(async {
        // Not started yet.
        assert_eq!(
            handle.reset_token().await.unwrap_err().kind(),
            RunErrorKind::Stopped
        );
        let change = async {
            world.until_asked_for_a_job().await;
            let new = handle.reset_token().await.unwrap();
            assert!(new.token.expose().starts_with("glrt-"));
            assert!(new.token.expose() != TOKEN && !format!("{new:?}").contains("glrt-"));
            let job = world.enqueue(JobSpec::script(["true"]));
            world.until_finished(job).await;
            handle.drain();
            new
        };
        let (run, new) = join(runner.run(handler(), 1), change).await;
        run.unwrap();
        let now = world
            .gitlab
            .with(|it, _| it.runner_token(world.number).cloned());
        assert_eq!(now, Some(new.token.clone()));
        // What comes after its end knows the new one.
        let again = runner.reset_token().await.unwrap();
        assert_ne!(again.token, new.token);
        assert!(runner.verify().await.is_ok());
    });
}

#[test]
fn a_reset_whose_answer_is_lost_says_so_and_is_not_repeated() {
    let world = World::new(407);
    let mut runner = world.runner();
    fault(&world, Endpoint::ResetToken, Override::CloseAfter);
    let error = world.sim.block_on(runner.reset_token()).unwrap_err();
    assert_eq!(error.kind(), RunErrorKind::Network);
    assert!(error.to_string().contains("perhaps the token"), "{error}");
    assert_eq!(paths(&world).len(), 1);
    let error = world.sim.block_on(runner.reset_token()).unwrap_err();
    assert_eq!(error.kind(), RunErrorKind::TokenRefused);
}

#[test]
fn a_future_that_is_dropped_does_not_lose_the_token() {
    let world = World::slow(408, Duration::from_secs(2));
    let stored = Stored::default();
    let keep = Arc::clone(&stored);
    let builder = world.builder().on_token_rotated(move |new| {
        keep.lock().unwrap().push_back(new);
        ready(Ok::<(), String>(()))
    });
    let mut runner = world.build(builder);
    world.sim.block_on(async {
        let soon = world.sim.sleep(Duration::from_secs(1));
        assert!(run_until(runner.reset_token(), soon).await.is_none());
        world.sim.sleep(Duration::from_secs(10)).await;
        assert!(runner.verify().await.is_ok());
    });
    let now = world
        .gitlab
        .with(|it, _| it.runner_token(world.number).cloned());
    assert_eq!(stored.lock().unwrap().pop_front().map(|new| new.token), now);
}

#[test]
fn the_id_of_the_runner_manager_stays_with_its_directory() {
    let world = World::new(409);
    let file = world.dir.path().join(".runner_system_id");
    std::fs::write(&file, "s_0a1b2c3d4e5F\n").unwrap();
    let runner = || {
        let url = URL.parse().unwrap();
        let dir = world.dir.path().into();
        Runner::with_adapter(url, TOKEN.to_owned(), dir, world.sim.adapter())
    };
    let known = || {
        let ids = |it: &mut MockGitlab| -> Vec<String> {
            it.managers(world.number)
                .map(|it| it.system_id.clone())
                .collect()
        };
        world.gitlab.with(|it, _| ids(it))
    };
    world.sim.block_on(runner().verify()).unwrap();
    assert_eq!(known(), ["s_0a1b2c3d4e5F"]);
    std::fs::write(&file, "s_tooshort").unwrap();
    world.sim.block_on(runner().verify()).unwrap();
    world.sim.block_on(runner().verify()).unwrap();
    let kept = std::fs::read_to_string(&file).unwrap();
    assert_eq!(known().len(), 2);
    assert!(known().contains(&kept));
}

/// The token stays as good as it was.
#[test]
fn a_server_that_refuses_the_reset_is_an_error_and_no_end() {
    let world = World::new(410);
    let allow = |allowed| {
        let set = |it: &mut MockGitlab, _| it.settings_mut().token_reset_allowed = allowed;
        world.gitlab.with(set);
    };
    allow(false);
    let mut runner = world.runner();
    let error = world.sim.block_on(runner.reset_token()).unwrap_err();
    assert!(error.to_string().contains("422"), "{error}");
    assert!(!error.to_string().contains(TOKEN), "{error}");
    assert_eq!(paths(&world).len(), 1);
    assert!(world.sim.block_on(runner.verify()).is_ok());
    allow(true);
    // An older server does not say how long the new one is good for.
    let tells_nothing = |it: &mut MockGitlab, _| it.settings_mut().token_expiry_told = false;
    world.gitlab.with(tells_nothing);
    let new = world.sim.block_on(runner.reset_token()).unwrap();
    assert_eq!(new.expires_at, None);
    assert!(world.sim.block_on(runner.verify()).is_ok());
}
