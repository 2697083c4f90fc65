//! Cancelling jobs, and stopping and steering runners.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::future::join;
use gitlab_runner::{
    JobHandler, JobId, JobResult, Phase, RunErrorKind, Runner, Time,
    job::Job,
    mock::{JobSpec, JobStatus},
    outputln,
};

use crate::world::{Patient, Steps, TOKEN, URL, World, run_until};

const SECOND: Duration = Duration::from_secs(1);

fn spec() -> JobSpec {
    JobSpec::script(["work"]).after_script(["tidy"])
}

/// Runs one job, in the middle of which `meddle` is called.
fn cancelled(
    seed: u64,
    wind_down: Duration,
    meddle: impl FnOnce(&World, JobId),
) -> gitlab_runner::mock::JobReport {
    let world = World::new(seed);
    let job = world.enqueue(spec());
    let mut runner = world.runner();
    world.sim.block_on(async {
        let process = move |job| async move {
            Ok(Patient {
                job: Arc::new(job),
                wind_down,
            })
        };
        assert!(runner.request_job(process).await.unwrap());
        world.sim.sleep(10 * SECOND).await;
        meddle(&world, job);
        runner.drain().await;
    });
    assert!(world.is_empty());
    world.report(job)
}

#[test]
fn a_cancelled_job_comes_to_an_end_by_itself() {
    let report = cancelled(20, 5 * SECOND, |world, job| {
        let status = world.gitlab.with(|gitlab, _| gitlab.cancel(job));
        assert_eq!(status, Some(JobStatus::Canceling));
    });
    assert_eq!(report.status, JobStatus::Canceled);
    assert_eq!(
        report.log_text(),
        "working\nending\nended\nafter_script, cancelled: false\ncleaned up\n"
    );
}

#[test]
fn a_job_that_ended_at_gitlab_is_dropped() {
    let report = cancelled(21, 5 * SECOND, |world, job| {
        world.gitlab.with(|gitlab, _| gitlab.force_cancel(job));
    });
    assert_eq!(report.status, JobStatus::Canceled);
    assert_eq!(report.log_text(), "working\n");
    assert_eq!(report.final_updates, 0);
}

#[test]
fn a_job_that_ended_at_gitlab_is_cleaned_up() {
    struct Endless(Job, Arc<AtomicUsize>);

    #[async_trait]
    impl JobHandler for Endless {
        async fn step(&mut self, _: &[String], _: Phase) -> JobResult {
            self.0.sleep(7200 * SECOND).await;
            Ok(())
        }

        // GitLab takes no more of the log, so it cannot say so there.
        async fn cleanup(&mut self) {
            self.1.fetch_add(1, Ordering::Relaxed);
        }
    }

    let world = World::new(36);
    let cleaned = Arc::new(AtomicUsize::new(0));
    let job = world.enqueue(spec());
    let mut runner = world.runner();
    world.sim.block_on(async {
        let count = Arc::clone(&cleaned);
        let process = |job| async { Ok(Endless(job, count)) };
        assert!(runner.request_job(process).await.unwrap());
        world.sim.sleep(10 * SECOND).await;
        world.gitlab.with(|gitlab, _| gitlab.force_cancel(job));
        runner.drain().await;
        assert!(world.sim.now() < Time::from_secs(100));
    });
    assert_eq!(cleaned.load(Ordering::Relaxed), 1);
}

#[test]
fn what_works_on_for_a_dropped_step_hears_of_its_end() {
    let world = World::new(37);
    let heard = Arc::new(AtomicUsize::new(0));
    let job = world.enqueue(spec());
    let mut runner = world.runner();
    world.sim.block_on(async {
        let count = Arc::clone(&heard);
        let process = |job| async {
            Ok(Steps::new(job, move |job, _| {
                let (token, count) = (job.cancel_token(), Arc::clone(&count));
                async move {
                    job.spawn(async move {
                        token.cancelled().await;
                        count.fetch_add(1, Ordering::Relaxed);
                    });
                    job.sleep(7200 * SECOND).await;
                    Ok(())
                }
            }))
        };
        assert!(runner.request_job(process).await.unwrap());
        world.sim.sleep(10 * SECOND).await;
        assert_eq!(heard.load(Ordering::Relaxed), 0);
        // Nothing tells the job of it before.
        world.gitlab.with(|gitlab, _| gitlab.force_cancel(job));
        runner.drain().await;
    });
    assert_eq!(heard.load(Ordering::Relaxed), 1);
}

#[test]
fn a_cancelled_job_that_does_not_end_is_dropped() {
    let report = cancelled(22, 7200 * SECOND, |world, job| {
        world.gitlab.with(|gitlab, _| gitlab.cancel(job));
    });
    assert_eq!(report.status, JobStatus::Canceled);
    let log = report.log_text();
    assert!(
        log.starts_with("working\nending\n") && !log.contains("ended"),
        "{log}"
    );
    assert!(log.ends_with("cleaned up\n"), "{log}");
}

#[test]
fn a_plain_handler_loses_its_step() {
    let world = World::new(23);
    let job = world.enqueue(spec());
    let mut runner = world.runner();
    world.sim.block_on(async {
        let process = |job| async {
            Ok(Steps::new(job, |job, phase| async move {
                outputln!("{phase:?}");
                if phase == Phase::Script {
                    job.sleep(7200 * SECOND).await;
                }
                Ok(())
            }))
        };
        assert!(runner.request_job(process).await.unwrap());
        world.sim.sleep(10 * SECOND).await;
        world.gitlab.with(|gitlab, _| gitlab.cancel(job));
        runner.drain().await;
    });
    let report = world.report(job);
    assert_eq!(report.status, JobStatus::Canceled);
    assert_eq!(report.log_text(), "Script\nAfterScript\n");
}

#[test]
fn a_handler_that_is_still_being_made_is_dropped() {
    struct Dropped;

    impl Drop for Dropped {
        fn drop(&mut self) {
            outputln!("dropped on behalf of the job");
        }
    }

    for abort in [false, true] {
        let world = World::new(34);
        let job = world.enqueue(spec());
        let mut runner = world.runner();
        world.sim.block_on(async {
            let process = |job: Job| async move {
                let _dropped = Dropped;
                assert!(job.current_step().is_none());
                outputln!("waiting for a machine");
                job.sleep(3000 * SECOND).await;
                Ok(Steps::new(job, |_, _| async { Ok(()) }))
            };
            assert!(runner.request_job(process).await.unwrap());
            world.sim.sleep(10 * SECOND).await;
            if abort {
                runner.handle().abort();
            } else {
                world
                    .gitlab
                    .with(|gitlab, _| gitlab.drop_job(job, "stuck_or_timeout_failure"));
            }
            runner.drain().await;
            assert!(
                world.sim.now() < Time::from_secs(120),
                "{}",
                world.sim.now()
            );
        });
        assert!(world.is_empty());
        let report = world.report(job);
        assert_eq!(report.status, JobStatus::Failed);
        let log = report.log_text();
        assert!(log.starts_with("waiting for a machine\n"), "{log}");
        assert_eq!(
            log.contains("dropped on behalf of the job\n"),
            abort,
            "{log}"
        );
    }
}

#[test]
fn the_making_of_a_handler_hears_of_a_cancel() {
    let world = World::new(36);
    let job = world.enqueue(spec());
    let mut runner = world.runner();
    world.sim.block_on(async {
        let process = |job: Job| async move {
            job.cancel_token().cancelled().await;
            outputln!("not needed any more");
            Err::<Steps, ()>(())
        };
        assert!(runner.request_job(process).await.unwrap());
        world.sim.sleep(10 * SECOND).await;
        world.gitlab.with(|gitlab, _| gitlab.cancel(job));
        runner.drain().await;
    });
    assert!(world.is_empty());
    let report = world.report(job);
    assert_eq!(report.status, JobStatus::Canceled);
    assert_eq!(
        report.log_text(),
        "not needed any more\n\u{1b}[31;1mERROR: Job failed: canceled\u{1b}[0;m\n"
    );
}

#[test]
fn a_clean_up_that_hangs_is_dropped() {
    struct Hangs(Job);

    #[async_trait]
    impl JobHandler for Hangs {
        async fn step(&mut self, _: &[String], _: Phase) -> JobResult {
            // Half a line, and a directory with something in it.
            self.0.trace("half");
            std::fs::write(self.0.build_dir().join("file"), b"x").map_err(|_| ())
        }

        async fn cleanup(&mut self) {
            std::future::pending().await
        }
    }

    let world = World::new(35);
    let report = world.run_process(spec(), |job| async { Ok(Hangs(job)) });
    assert_eq!(report.status, JobStatus::Success);
    assert_eq!(
        report.log_text(),
        "halfhalf\n\u{1b}[0;33mWARNING: the clean-up took too long and was stopped\u{1b}[0;m\n"
    );
    assert!(
        world.sim.now() < Time::from_secs(400),
        "{}",
        world.sim.now()
    );
}

/// A handler that works for this long.
fn busy(duration: Duration) -> impl Fn(Job) -> std::future::Ready<Result<Steps, ()>> + Clone {
    move |job| {
        std::future::ready(Ok(Steps::new(job, move |job, _| async move {
            outputln!("begun");
            job.sleep(duration).await;
            outputln!("done");
            Ok(())
        })))
    }
}

#[test]
fn jobs_go_on_when_run_is_dropped() {
    let world = World::new(24);
    let (first, second) = (world.enqueue(spec()), world.enqueue(spec()));
    let third = world.enqueue(spec());
    let mut runner = world.runner();
    world.sim.block_on(async {
        let enough = world.until(|| world.report(second).status == JobStatus::Running);
        assert!(
            run_until(runner.run(busy(60 * SECOND), 2), enough)
                .await
                .is_none()
        );
        assert_eq!(runner.running(), 2);
        runner.drain().await;
        assert_eq!(runner.running(), 0);
        for job in [first, second] {
            assert_eq!(world.report(job).status, JobStatus::Success);
        }
        world.sim.sleep(300 * SECOND).await;
        assert_eq!(world.report(third).status, JobStatus::Pending);
        // It can be used again.
        let over = world.until_finished(third);
        assert!(run_until(runner.run(busy(SECOND), 2), over).await.is_none());
    });
    assert_eq!(world.log(third), "begun\ndone\nbegun\ndone\n");
    assert!(world.is_empty());
}

#[test]
fn a_job_that_comes_after_run_was_dropped_is_run() {
    let world = World::slow(25, 10 * SECOND);
    let (job, other) = (world.enqueue(spec()), world.enqueue(spec()));
    let mut runner = world.runner();
    world.sim.block_on(async {
        let asked = world.until_asked_for_a_job();
        assert!(
            run_until(runner.run(busy(5 * SECOND), 1), asked)
                .await
                .is_none()
        );
        assert_eq!(runner.running(), 0);
        runner.drain().await;
        assert_eq!(world.report(job).status, JobStatus::Success);
        world.sim.sleep(600 * SECOND).await;
    });
    assert_eq!(world.log(job), "begun\ndone\nbegun\ndone\n");
    assert_eq!(world.report(other).status, JobStatus::Pending);
}

#[test]
fn a_job_that_comes_after_its_request_was_dropped_is_run() {
    let world = World::slow(26, 10 * SECOND);
    let (job, other) = (world.enqueue(spec()), world.enqueue(spec()));
    let mut runner = world.runner();
    world.sim.block_on(async {
        let asked = world.until_asked_for_a_job();
        assert!(
            run_until(runner.request_job(busy(SECOND)), asked)
                .await
                .is_none()
        );
        runner.drain().await;
        assert_eq!(world.report(job).status, JobStatus::Success);
        world.sim.sleep(600 * SECOND).await;
    });
    assert_eq!(world.report(other).status, JobStatus::Pending);
}

#[test]
fn a_held_request_is_let_go() {
    let world = World::new(33);
    world
        .gitlab
        .with(|gitlab, _| gitlab.set_long_poll(Some(50 * SECOND)));
    let mut runner = world.runner();
    world.sim.block_on(async {
        let job = async {
            world
                .until(|| world.gitlab.with(|gitlab, _| gitlab.held_requests()) == 1)
                .await;
            world.sim.sleep(20 * SECOND).await;
            let queued = world.sim.now();
            let job = world.enqueue(spec());
            world.until_finished(job).await;
            let started = world.report(job).started_at.unwrap();
            assert!(started.since(queued) < SECOND, "{queued} {started}");
        };
        assert!(run_until(runner.run(busy(SECOND), 1), job).await.is_none());
    });
}

#[test]
fn a_handle_drains() {
    let world = World::new(27);
    let (first, second) = (world.enqueue(spec()), world.enqueue(spec()));
    let mut runner = world.runner();
    let handle = runner.handle();
    world.sim.block_on(async {
        let stop = async {
            world.until(|| handle.running() == 1).await;
            world.sim.sleep(5 * SECOND).await;
            handle.drain();
            assert!(!handle.is_stopped());
        };
        let (result, ()) = join(runner.run(busy(30 * SECOND), 1), stop).await;
        result.unwrap();
        assert!(handle.is_stopped());
        // Stopping is final.
        runner.run(busy(SECOND), 1).await.unwrap();
        let error = runner.request_job(busy(SECOND)).await.unwrap_err();
        assert_eq!(error.kind(), RunErrorKind::Stopped);
        runner.drain().await;
        runner.wait_for_space(1).await;
    });
    assert_eq!(world.report(first).status, JobStatus::Success);
    assert_eq!(world.report(second).status, JobStatus::Pending);
    assert!(world.is_empty());
}

#[test]
fn a_handle_aborts() {
    let world = World::new(28);
    let job = world.enqueue(spec());
    let mut runner = world.runner();
    let handle = runner.handle();
    let start = world.sim.now();
    world.sim.block_on(async {
        let stop = async {
            world.until(|| handle.running() == 1).await;
            world.sim.sleep(5 * SECOND).await;
            handle.drain();
            world.sim.sleep(5 * SECOND).await;
            handle.abort();
        };
        let (result, ()) = join(runner.run(busy(7200 * SECOND), 1), stop).await;
        result.unwrap();
    });
    let report = world.report(job);
    assert_eq!(report.status, JobStatus::Failed);
    assert!(
        report.log_text().contains("the runner was stopped"),
        "{}",
        report.log_text()
    );
    assert!(world.sim.now().since(start) < 60 * SECOND);
    assert!(world.is_empty());
}

#[test]
fn a_handle_works_before_the_start() {
    for abort in [false, true] {
        let world = World::new(29);
        world.enqueue(spec());
        let mut runner = world.runner();
        let handle = runner.handle();
        if abort {
            handle.abort();
        } else {
            handle.drain();
        }
        assert!(handle.is_stopped());
        world.sim.block_on(runner.run(busy(SECOND), 1)).unwrap();
        assert_eq!(world.gitlab.with(|gitlab, _| gitlab.requests().len()), 0);
    }
}

#[test]
fn a_handle_changes_the_capacity() {
    let world = World::new(30);
    let jobs: Vec<_> = (0..6).map(|_| world.enqueue(spec())).collect();
    let mut runner = world.runner();
    let handle = runner.handle();
    // In place of the 1 below.
    handle.set_capacity(2);
    let most = Arc::new(AtomicUsize::new(0));
    world.sim.block_on(async {
        let watch = async {
            world.until(|| handle.running() == 2).await;
            world.sim.sleep(20 * SECOND).await;
            assert_eq!(handle.running(), 2);
            handle.set_capacity(4);
            world
                .until(|| {
                    most.fetch_max(handle.running(), Ordering::Relaxed);
                    jobs.iter().all(|job| world.report(*job).is_finished())
                })
                .await;
        };
        assert!(
            run_until(runner.run(busy(60 * SECOND), 1), watch)
                .await
                .is_none()
        );
    });
    assert_eq!(most.load(Ordering::Relaxed), 4);
}

#[test]
fn a_dropped_runner_reports_its_jobs() {
    let world = World::new(31);
    let job = world.enqueue(spec());
    let mut runner = world.runner();
    let handle = runner.handle();
    world.sim.block_on(async {
        assert!(runner.request_job(busy(7200 * SECOND)).await.unwrap());
        world.sim.sleep(5 * SECOND).await;
        drop(runner);
        assert!(!handle.is_stopped());
        world.until(|| handle.is_stopped()).await;
    });
    assert_eq!(world.report(job).status, JobStatus::Failed);
    assert!(world.is_empty());
}

#[test]
fn two_runners_share_an_adapter() {
    let world = World::new(32);
    let other_token = "glrt-t1_another";
    world
        .gitlab
        .with(|gitlab, _| gitlab.add_runner(other_token));
    let jobs: Vec<_> = (0..8).map(|_| world.enqueue(spec())).collect();
    let adapter = world.sim.adapter();
    let runner = |token: &str| {
        let url = URL.parse().unwrap();
        let dir = world.dir.path().join("below").join(token);
        Runner::with_adapter(url, token.to_owned(), dir, Arc::clone(&adapter))
    };
    let (mut one, mut two) = (runner(TOKEN), runner(other_token));
    world.sim.block_on(async {
        let over = world.until(|| jobs.iter().all(|job| world.report(*job).is_finished()));
        let both = join(one.run(busy(20 * SECOND), 2), two.run(busy(20 * SECOND), 2));
        assert!(run_until(both, over).await.is_none());
    });
    let mut runners = std::collections::BTreeSet::new();
    for job in jobs {
        let report = world.report(job);
        assert_eq!(report.status, JobStatus::Success);
        assert_eq!(report.log_text(), "begun\ndone\nbegun\ndone\n");
        runners.insert(report.runner);
    }
    assert_eq!(runners.len(), 2);
}
