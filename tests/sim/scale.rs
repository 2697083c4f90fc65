//! Many jobs, and the same run twice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use gitlab_runner::{
    job::Job,
    mock::{Endpoint, JobSpec, JobStatus, Override},
    outputln,
};

use crate::world::{Steps, World, run_until};

fn handler(job: Job) -> std::future::Ready<Result<Steps, ()>> {
    std::future::ready(Ok(Steps::new(job, |job, _| async move {
        for n in 0..10 {
            outputln!("line {n} of job {}", job.id());
            job.sleep(Duration::from_millis(job.id() % 17 * 100 + 5000))
                .await;
        }
        Ok(())
    })))
}

#[test]
fn a_hundred_jobs_at_once() {
    let world = World::new(80);
    let jobs: Vec<_> = (0..250)
        .map(|_| world.enqueue(JobSpec::script(["true"])))
        .collect();
    let mut runner = world.runner();
    let handle = runner.handle();
    let most = Arc::new(AtomicUsize::new(0));
    world.sim.block_on(async {
        let over = world.until(|| {
            most.fetch_max(handle.running(), Ordering::Relaxed);
            jobs.iter().all(|job| world.report(*job).is_finished())
        });
        assert!(run_until(runner.run(handler, 100), over).await.is_none());
        runner.drain().await;
    });
    assert_eq!(most.load(Ordering::Relaxed), 100);
    for job in jobs {
        let report = world.report(job);
        assert_eq!(report.status, JobStatus::Success);
        let wanted: String = (0..10)
            .map(|n| format!("line {n} of job {job}\n"))
            .collect();
        assert_eq!(report.log_text(), wanted);
    }
    assert!(world.is_empty());
}

/// All of them at once, and GitLab hears of each.
#[test]
fn ten_thousand_live_jobs() {
    const JOBS: usize = 10_000;
    let world = World::slow(81, Duration::from_millis(1));
    world
        .gitlab
        .with(|gitlab, _| gitlab.settings_mut().job_request_limit = 0);
    let jobs: Vec<_> = (0..JOBS)
        .map(|_| world.enqueue(JobSpec::script(["true"])))
        .collect();
    let live = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&live);
    let process = move |job: Job| {
        let counter = Arc::clone(&counter);
        std::future::ready(Ok(Steps::new(job, move |job, _| {
            let counter = Arc::clone(&counter);
            async move {
                outputln!("job {} begins", job.id());
                counter.fetch_add(1, Ordering::Relaxed);
                job.sleep(Duration::from_secs(60)).await;
                outputln!("job {} ends", job.id());
                Ok(())
            }
        })))
    };
    let mut runner = world.runner();
    let handle = runner.handle();
    world.sim.block_on(async {
        let all_live = async {
            world.until(|| live.load(Ordering::Relaxed) == JOBS).await;
            assert_eq!(handle.running(), JOBS);
            handle.drain();
            std::future::pending().await
        };
        let ended = run_until(runner.run(process, JOBS), all_live).await;
        ended.expect("drained").unwrap();
    });
    for job in jobs {
        let report = world.report(job);
        assert_eq!(report.status, JobStatus::Success);
        assert_eq!(
            report.log_text(),
            format!("job {job} begins\njob {job} ends\n")
        );
    }
    assert!(world.is_empty());
}

/// What a bad network and a bad proxy do, at places that differ from seed to seed.
#[test]
fn faults_cost_time_but_no_job_and_no_byte() {
    for seed in 100..130_u32 {
        let world = World::new(seed.into());
        let jobs: Vec<_> = (0..12)
            .map(|_| world.enqueue(JobSpec::script(["true"])))
            .collect();
        world.gitlab.with(|gitlab, _| {
            for n in 0..24_u32 {
                let endpoint = [
                    Endpoint::Trace,
                    Endpoint::Update,
                    Endpoint::FinalUpdate,
                    Endpoint::Trace,
                ][n as usize % 4];
                let fault = match (n + seed) % 5 {
                    0 => Override::Status(500),
                    1 => Override::Html(502),
                    2 => Override::CloseBefore,
                    3 => Override::CloseAfter,
                    _ => Override::RetryAfter(7),
                };
                gitlab.plan(endpoint, u64::from(n * seed % 19 + 1), fault);
            }
        });
        let mut runner = world.runner();
        world.sim.block_on(async {
            let over = world.until(|| jobs.iter().all(|job| world.report(*job).is_finished()));
            assert!(run_until(runner.run(handler, 5), over).await.is_none());
            runner.drain().await;
        });
        for job in jobs {
            let report = world.report(job);
            assert_eq!(report.status, JobStatus::Success, "seed {seed}");
            let wanted: String = (0..10)
                .map(|n| format!("line {n} of job {job}\n"))
                .collect();
            assert_eq!(report.log_text(), wanted, "seed {seed}");
        }
        assert!(world.is_empty());
    }
}

#[test]
fn a_seed_gives_the_same_run() {
    let record = |seed| {
        let world = World::new(seed);
        let jobs: Vec<_> = (0..30)
            .map(|_| world.enqueue(JobSpec::script(["true"])))
            .collect();
        let mut runner = world.runner();
        world.sim.block_on(async {
            let over = world.until(|| jobs.iter().all(|job| world.report(*job).is_finished()));
            assert!(run_until(runner.run(handler, 7), over).await.is_none());
        });
        world.gitlab.with(|gitlab, _| {
            gitlab
                .requests()
                .map(|it| (it.at, it.method.to_string(), it.path.clone(), it.body_len))
                .collect::<Vec<_>>()
        })
    };
    let first = record(81);
    assert!(first.len() > 100);
    assert!(first == record(81));
    assert!(first != record(82));
}
