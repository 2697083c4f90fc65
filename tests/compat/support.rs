//! A simulated GitLab on loopback.

use std::{future::Future, time::Duration};

use gitlab_runner::{
    JobId,
    mock::{JobReport, JobSpec, MockGitlab, http::Loopback},
};
use tempfile::TempDir;
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

    pub(crate) fn report(&self, job: JobId) -> JobReport {
        self.gitlab
            .with(|gitlab, _| gitlab.report(job).unwrap().clone())
    }

    pub(crate) fn log(&self, job: JobId) -> String {
        self.report(job).log_text().into_owned()
    }

    /// Looks at a job whenever something changes at GitLab.
    pub(crate) fn wait_until(&self, job: JobId, look: impl Fn(&JobReport) -> bool) {
        self.gitlab
            .wait_until(LIMIT, |gitlab| look(gitlab.report(job)?).then_some(()))
            .expect("it never came to that");
    }

    pub(crate) fn cancel(&self, job: JobId) {
        self.gitlab.with(|gitlab, _| gitlab.cancel(job));
    }
}

/// Ends a test that hangs.
pub(crate) async fn bounded<T>(test: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, test)
        .await
        .expect("the test hangs")
}
