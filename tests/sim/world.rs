//! A simulated GitLab, a runner and a build directory.

use std::{future::Future, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{
    FutureExt,
    future::{BoxFuture, Either, select},
};
use gitlab_runner::{
    CancellableJobHandler, JobHandler, JobId, JobResult, Phase, Runner, RunnerBuilder,
    UploadableFile,
    job::Job,
    mock::{JobReport, JobSpec, MockGitlab, RunnerNumber},
    sim::{ServerHandle, Sim},
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use url::Url;

pub(crate) const TOKEN: &str = "glrt-t1_simulatedrunner0";
pub(crate) const URL: &str = "https://gitlab.example.test";

pub(crate) struct World {
    pub(crate) sim: Sim,
    pub(crate) gitlab: ServerHandle<MockGitlab>,
    pub(crate) number: RunnerNumber,
    pub(crate) dir: TempDir,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        Self::around(Sim::new(seed))
    }

    /// A world in which each message takes this long.
    pub(crate) fn slow(seed: u64, latency: Duration) -> Self {
        Self::around(Sim::builder(seed).latency(latency..=latency).build())
    }

    fn around(sim: Sim) -> Self {
        let seed = sim.seed();
        let mut gitlab = MockGitlab::new(seed);
        let number = gitlab.add_runner(TOKEN);
        let gitlab = sim.serve("gitlab.example.test", gitlab);
        let dir = tempfile::tempdir().unwrap();
        Self {
            sim,
            gitlab,
            number,
            dir,
        }
    }

    pub(crate) fn builder(&self) -> RunnerBuilder {
        Runner::builder(URL.parse::<Url>().unwrap(), TOKEN, self.dir.path())
            .adapter(self.sim.adapter())
            .system_id("s_0123456789ab")
            .seed(self.sim.seed())
    }

    pub(crate) fn runner(&self) -> Runner {
        self.build(self.builder())
    }

    pub(crate) fn build(&self, builder: RunnerBuilder) -> Runner {
        builder.build().now_or_never().unwrap()
    }

    pub(crate) fn enqueue(&self, spec: JobSpec) -> JobId {
        self.gitlab.with(|gitlab, now| {
            gitlab.advance(now);
            gitlab.enqueue(spec)
        })
    }

    pub(crate) fn report(&self, job: JobId) -> JobReport {
        self.gitlab
            .with(|gitlab, _| gitlab.report(job).unwrap().clone())
    }

    pub(crate) fn log(&self, job: JobId) -> String {
        self.report(job).log_text().into_owned()
    }

    /// Runs one job to its end with this behaviour in each step.
    pub(crate) fn run_job<S, F>(&self, spec: JobSpec, step: S) -> JobReport
    where
        S: Fn(Arc<Job>, Phase) -> F + Send + Sync + 'static,
        F: Future<Output = JobResult> + Send + 'static,
    {
        self.run_process(spec, |job| async { Ok(Steps::new(job, step)) })
    }

    /// Runs one job to its end with the handler that `process` makes.
    pub(crate) fn run_process<P, R, H, U>(&self, spec: JobSpec, process: P) -> JobReport
    where
        P: FnOnce(Job) -> R + Send + Sync + 'static,
        R: Future<Output = Result<H, ()>> + Send + 'static,
        H: CancellableJobHandler<U> + Send + 'static,
        U: UploadableFile + Send + 'static,
    {
        let job = self.enqueue(spec);
        let mut runner = self.runner();
        self.sim.block_on(async {
            assert!(runner.request_job(process).await.unwrap());
            assert_eq!(runner.running(), 1);
            runner.drain().await;
            assert_eq!(runner.running(), 0);
        });
        assert!(self.is_empty(), "the build directory is not empty");
        let report = self.report(job);
        assert_eq!(report.duplicate_finals(), 0);
        assert_ne!(report.checksum_matches(), Some(false));
        assert_ne!(report.bytesize_matches(), Some(false));
        report
    }

    /// Whether nothing is left in the build directory.
    pub(crate) fn is_empty(&self) -> bool {
        is_empty(self.dir.path())
    }

    /// Waits until this holds, in steps of a second; at most a day.
    pub(crate) async fn until(&self, mut holds: impl FnMut() -> bool) {
        for _ in 0..86_400 {
            if holds() {
                return;
            }
            self.sim.sleep(Duration::from_secs(1)).await;
        }
        panic!("waited for a day (seed {})", self.sim.seed());
    }

    /// Waits until GitLab has seen a request for a job.
    pub(crate) async fn until_asked_for_a_job(&self) {
        let asked = |gitlab: &mut MockGitlab| {
            gitlab
                .requests()
                .any(|request| request.path.ends_with("/jobs/request"))
        };
        self.until(|| self.gitlab.with(|gitlab, _| asked(gitlab)))
            .await;
    }

    pub(crate) async fn until_finished(&self, job: JobId) {
        self.until(|| self.report(job).is_finished()).await;
    }
}

pub(crate) fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).unwrap().next().is_none()
}

/// Awaits `work` until `end` is done; `Some` if it ended before.
pub(crate) async fn run_until<W: Future>(
    work: W,
    end: impl Future<Output = ()>,
) -> Option<W::Output> {
    match select(Box::pin(work), Box::pin(end)).await {
        Either::Left((output, _)) => Some(output),
        Either::Right(((), _)) => None,
    }
}

type Step = dyn Fn(Arc<Job>, Phase) -> BoxFuture<'static, JobResult> + Send + Sync;

/// A handler whose steps are a closure.
pub(crate) struct Steps {
    pub(crate) job: Arc<Job>,
    step: Arc<Step>,
}

impl Steps {
    pub(crate) fn new<S, F>(job: Job, step: S) -> Self
    where
        S: Fn(Arc<Job>, Phase) -> F + Send + Sync + 'static,
        F: Future<Output = JobResult> + Send + 'static,
    {
        Self {
            job: Arc::new(job),
            step: Arc::new(move |job, phase| step(job, phase).boxed()),
        }
    }
}

#[async_trait]
impl JobHandler for Steps {
    async fn step(&mut self, _: &[String], phase: Phase) -> JobResult {
        (self.step)(Arc::clone(&self.job), phase).await
    }
}

/// A handler that ends its steps by itself when it is told to.
pub(crate) struct Patient {
    pub(crate) job: Arc<Job>,
    /// How long it takes to end.
    pub(crate) wind_down: Duration,
}

#[async_trait]
impl CancellableJobHandler for Patient {
    async fn step(&mut self, _: &[String], phase: Phase, cancel: &CancellationToken) -> JobResult {
        if phase == Phase::AfterScript {
            gitlab_runner::outputln!("after_script, cancelled: {}", cancel.is_cancelled());
            return Ok(());
        }
        gitlab_runner::outputln!("working");
        cancel.cancelled().await;
        gitlab_runner::outputln!("ending");
        self.job.sleep(self.wind_down).await;
        gitlab_runner::outputln!("ended");
        Ok(())
    }

    async fn cleanup(&mut self) {
        gitlab_runner::outputln!("cleaned up");
    }
}
