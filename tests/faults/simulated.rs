//! In virtual time: many seeds.

use std::time::Duration;

use gitlab_runner::{
    Runner, Time,
    mock::{FaultPlan, Faulty, JobReport, MockGitlab},
    sim::Sim,
};

use crate::campaign::{Queued, TOKEN, check, check_or_failed, enqueue, print};

fn run(seed: u64, jobs: u64, plan: FaultPlan, check: fn(Queued, &JobReport)) {
    let sim = Sim::builder(seed)
        .latency(Duration::from_millis(1)..=Duration::from_millis(200))
        .build();
    let mut gitlab = MockGitlab::new(seed);
    gitlab.add_runner(TOKEN);
    // Jobs whose hand-out was lost come back.
    gitlab.settings_mut().two_phase_commit = true;
    let queued = enqueue(&mut gitlab, jobs);
    let gitlab = sim.serve("gitlab.example.test", Faulty::new(gitlab, plan));
    let dir = tempfile::tempdir().unwrap();
    let mut runner = Runner::with_adapter(
        "https://gitlab.example.test".parse().unwrap(),
        TOKEN.to_owned(),
        dir.path().to_owned(),
        sim.adapter(),
    );
    let handle = runner.handle();
    sim.block_on(async {
        let watch = async {
            // Far longer than everything takes.
            for _ in 0..1000 {
                sim.sleep(Duration::from_secs(60)).await;
                if gitlab.with(|it, _| it.server().is_idle()) {
                    break;
                }
            }
            handle.drain();
        };
        let (result, ()) = futures::join!(runner.run(print, 30), watch);
        result.unwrap();
    });
    gitlab.with(|it, _| {
        for job in queued {
            check(job, it.server().report(job.id).unwrap());
        }
    });
}

#[test]
fn faults_of_every_kind() {
    for seed in 0..30 {
        run(
            seed,
            40,
            FaultPlan::new(seed).with_all(50).sparing_jobs(),
            check,
        );
    }
}

#[test]
fn more_faults_than_answers() {
    for seed in 0..10 {
        run(seed, 20, FaultPlan::new(seed).with_all(80), check_or_failed);
    }
}

#[test]
fn storms() {
    for seed in 0..20 {
        let storm = |plan: FaultPlan, n: u64| {
            plan.with_storm(Time::from_secs(n * 70 + seed), Duration::from_secs(30))
        };
        run(
            seed,
            40,
            (0..10).fold(FaultPlan::new(seed).with_all(5).sparing_jobs(), storm),
            check,
        );
    }
}
