//! When which request is sent, by tokio's clock, which the tests pause: no time passes while a
//! request is on its way, and all that passes is by the timers.

use std::time::Duration;

use gitlab_runner::{
    GitlabLayer, JobHandler, JobResult, Phase, RunnerBuilder, job::Job, mock::JobSpec,
};
use tokio::time::{Instant, sleep};
use tracing_subscriber::Registry;

use crate::support::{TOKEN, World};

struct Slow(Job);

#[async_trait::async_trait]
impl JobHandler for Slow {
    async fn step(&mut self, script: &[String], _: Phase) -> JobResult {
        for line in script {
            match line.parse() {
                Ok(seconds) => sleep(Duration::from_secs(seconds)).await,
                Err(_) => self.0.trace(line),
            }
        }
        Ok(())
    }
}

async fn slow(job: Job) -> Result<Slow, ()> {
    Ok(Slow(job))
}

/// Runs for so many seconds of tokio's time.
async fn run(world: &World, seconds: u64) {
    let (_layer, jobs) = GitlabLayer::new::<Registry>();
    let mut runner = RunnerBuilder::new(world.url(), TOKEN, world.dir.path(), jobs)
        .build()
        .await;
    tokio::select! {
        result = runner.run(slow, 1) => result.unwrap(),
        () = sleep(Duration::from_secs(seconds)) => {}
    }
    runner.drain().await;
}

fn count(world: &World, method: &str, path: &str) -> usize {
    let asked = world.requests();
    let asked = asked.iter().filter(|it| it.method == method);
    asked.filter(|it| it.path.ends_with(path)).count()
}

// 2.3: the first poll at once, the next at once after a job, else after some seconds
#[tokio::test(start_paused = true)]
async fn jobs_are_asked_for_at_this_pace() {
    let world = World::new();
    run(&world, 70).await;
    let polls = count(&world, "POST", "/jobs/request");
    assert!((10..=140).contains(&polls), "{polls}");

    let world = World::new();
    let jobs: Vec<_> = (0..5)
        .map(|_| world.enqueue(JobSpec::script(["done"])))
        .collect();
    let start = Instant::now();
    let (_layer, list) = GitlabLayer::new::<Registry>();
    let mut runner = RunnerBuilder::new(world.url(), TOKEN, world.dir.path(), list)
        .build()
        .await;
    tokio::select! {
        result = runner.run(slow, 1) => result.unwrap(),
        () = async {
            while !jobs.iter().all(|job| world.report(*job).is_finished()) {
                sleep(Duration::from_millis(1)).await;
            }
        } => {}
    }
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
    runner.drain().await;
}

// 2.3: all that was written in an interval goes together; keep-alives after 30 s of silence
#[tokio::test(start_paused = true)]
async fn the_log_is_sent_at_this_pace() {
    let world = World::new();
    let script = ["a", "b", "1", "c", "3", "d", "e", "4", "f", "100"];
    let job = world.enqueue(JobSpec::script(script));
    run(&world, 1).await;
    let report = world.report(job);
    assert_eq!(report.log_text(), "abcdef");
    let updates: Vec<_> = report
        .requests
        .iter()
        .map(|it| it.content_range.as_deref().or(it.state.as_deref()))
        .map(Option::unwrap)
        .collect();
    // The first one is ours alone: GitLab is told that the job is taken.
    assert_eq!(
        updates,
        [
            "running", "0-2", "3-4", "5-5", "running", "running", "running", "success"
        ]
    );
}
