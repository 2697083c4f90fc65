//! A simulated GitLab on loopback.

use std::{future::Future, time::Duration};

use gitlab_runner::{
    JobId,
    mock::{JobReport, JobSpec, MockGitlab, PipelineSpec, RequestRecord, http::Loopback},
};
use tempfile::TempDir;
use tracing::Dispatch;
use tracing_subscriber::Registry;
use url::Url;

pub(crate) const TOKEN: &str = "glrt-compatible";

/// Nothing here takes nearly as long; a hang ends here.
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) struct World {
    gitlab: Loopback<MockGitlab>,
    pub(crate) dir: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        let mut gitlab = MockGitlab::new(1);
        gitlab.add_runner(TOKEN);
        Self {
            gitlab: Loopback::start(gitlab).unwrap(),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn url(&self) -> Url {
        self.gitlab.url().parse().unwrap()
    }

    pub(crate) fn enqueue(&self, spec: JobSpec) -> JobId {
        self.gitlab.with(|gitlab, _| {
            let job = gitlab.enqueue(spec);
            // Somebody looks at the log, so it is sent every 3 seconds.
            gitlab.watch(job, true);
            job
        })
    }

    /// Two jobs, of which the second waits for the first and is given its artifacts.
    pub(crate) fn enqueue_two(&self, first: JobSpec, second: JobSpec) -> [JobId; 2] {
        let jobs = [first.stage("first"), second.stage("second")];
        let pipeline = PipelineSpec::new(jobs).stages(["first", "second"]);
        let jobs = self
            .gitlab
            .with(|gitlab, _| gitlab.enqueue_pipeline(pipeline));
        jobs.unwrap().try_into().unwrap()
    }

    pub(crate) fn report(&self, job: JobId) -> JobReport {
        self.gitlab
            .with(|gitlab, _| gitlab.report(job).unwrap().clone())
    }

    pub(crate) fn log(&self, job: JobId) -> String {
        self.report(job).log_text().into_owned()
    }

    /// All requests so far.
    pub(crate) fn requests(&self) -> Vec<RequestRecord> {
        self.gitlab
            .with(|gitlab, _| gitlab.requests().cloned().collect())
    }

    /// Looks at a job whenever something changes at GitLab.
    pub(crate) fn wait_until(&self, job: JobId, look: impl Fn(&JobReport) -> bool) {
        self.gitlab
            .wait_until(LIMIT, |gitlab| look(gitlab.report(job)?).then_some(()))
            .expect("it never came to that");
    }

    /// As [`wait_until`](Self::wait_until), by tokio's clock.
    pub(crate) async fn until(&self, job: JobId, look: impl Fn(&JobReport) -> bool) {
        while !look(&self.report(job)) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub(crate) fn cancel(&self, job: JobId) {
        self.gitlab.with(|gitlab, _| gitlab.cancel(job));
    }
}

/// While there is only one subscriber in the process, tracing asks that of the thread which comes to
/// a callsite first, and another test's has none.
pub(crate) fn second_subscriber() -> Dispatch {
    Dispatch::new(Registry::default())
}

/// Ends a test that hangs.
pub(crate) async fn bounded<T>(test: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, test)
        .await
        .expect("the test hangs")
}
