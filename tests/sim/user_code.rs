//! Code of the user that behaves badly harms its own job, and no other.

use std::{panic, sync::Arc, time::Duration};

use async_trait::async_trait;
use gitlab_runner::{
    JobHandler, JobResult, Phase,
    job::Job,
    mock::{Endpoint, JobSpec, JobStatus, Override},
    outputln,
};

use crate::world::{Steps, World, run_until};

const SECOND: Duration = Duration::from_secs(1);

/// Panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("a bomb");
        }
    }
}

/// A job that takes this long.
fn sleeper(
    seconds: u64,
) -> impl Fn(Job) -> std::future::Ready<Result<Steps, ()>> + Clone + Send + Sync + 'static {
    move |job| {
        std::future::ready(Ok(Steps::new(job, move |job, _| async move {
            job.sleep(SECOND * u32::try_from(seconds).unwrap()).await;
            Ok(())
        })))
    }
}

#[test]
fn a_closure_that_panics_when_a_request_is_dropped() {
    let world = World::new(900);
    let job = world.enqueue(JobSpec::script(["x"]));
    let mut runner = world.runner();
    world.sim.block_on(async {
        assert!(runner.request_job(sleeper(60)).await.unwrap());
        // So that the next request waits.
        world.gitlab.with(|gitlab, _| {
            gitlab.plan(Endpoint::JobRequest, 1, Override::Status(500));
        });
        assert!(runner.request_job(sleeper(1)).await.is_err());
        let bomb = Bomb;
        let process = move |_: Job| {
            let _bomb = &bomb;
            async { Err::<Steps, ()>(()) }
        };
        let moment = world.sim.sleep(SECOND / 10);
        assert!(
            run_until(runner.request_job(process), moment)
                .await
                .is_none()
        );
        assert_eq!(runner.running(), 1);
        runner.drain().await;
    });
    assert_eq!(world.report(job).status, JobStatus::Success);
}

#[test]
fn a_closure_that_panics_when_a_run_is_replaced() {
    let world = World::new(901);
    let job = world.enqueue(JobSpec::script(["x"]));
    let mut runner = world.runner();
    world.sim.block_on(async {
        let bomb = Arc::new(Bomb);
        let process = move |job: Job| {
            let _bomb = &bomb;
            sleeper(60)(job)
        };
        let first = run_until(runner.run(process, 1), world.sim.sleep(10 * SECOND));
        assert!(first.await.is_none());
        for _ in 0..2 {
            let next = run_until(runner.run(sleeper(1), 1), world.sim.sleep(100 * SECOND));
            assert!(next.await.is_none());
        }
    });
    assert_eq!(world.report(job).status, JobStatus::Success);
}

struct Panics {
    at: &'static str,
}

#[async_trait]
impl JobHandler for Panics {
    async fn step(&mut self, _: &[String], _: Phase) -> JobResult {
        if self.at == "step" {
            panic::panic_any(Bomb);
        }
        Ok(())
    }

    async fn cleanup(&mut self) {
        outputln!("cleaning up");
        if self.at == "cleanup" {
            panic::panic_any(Bomb);
        }
    }
}

impl Drop for Panics {
    fn drop(&mut self) {
        if self.at == "drop" {
            panic::panic_any(Bomb);
        }
    }
}

#[test]
fn what_is_thrown_may_panic_when_it_is_dropped() {
    for at in ["step", "cleanup", "drop"] {
        let world = World::new(902);
        let report =
            world.run_process(
                JobSpec::script(["x"]),
                move |_| async move { Ok(Panics { at }) },
            );
        let log = report.log_text();
        assert!(log.contains("cleaning up"), "{at}: {log}");
        assert!(log.contains("panicked"), "{at}: {log}");
        let failed = report.status == JobStatus::Failed;
        assert_eq!(failed, at == "step", "{at}");
    }
}

#[test]
fn a_capacity_said_between_two_runs_is_that_of_the_next_alone() {
    let world = World::new(903);
    for _ in 0..20 {
        world.enqueue(JobSpec::script(["x"]));
    }
    let mut runner = world.runner();
    world.sim.block_on(async {
        let none = run_until(runner.run(sleeper(1000), 0), world.sim.sleep(SECOND));
        assert!(none.await.is_none());
        runner.handle().set_capacity(1);
        let one = run_until(runner.run(sleeper(1000), 5), world.sim.sleep(30 * SECOND));
        assert!(one.await.is_none());
        assert_eq!(runner.running(), 1);
        let eight = run_until(runner.run(sleeper(1000), 8), world.sim.sleep(60 * SECOND));
        assert!(eight.await.is_none());
        assert_eq!(runner.running(), 8);
    });
}
