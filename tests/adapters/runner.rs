//! A whole runner on each adapter, over TLS.

use std::time::Duration;

use gitlab_runner::{
    Failure, JobHandler, JobResult, Phase, Runner,
    adapter::conformance::{Subject, support::*},
    job::Job,
    mock::{JobSpec, JobStatus, MockGitlab, http::Loopback},
    outputln,
};

const TOKEN: &str = "glrt-adapters";

/// Waits, works and logs on whatever runtime there is.
struct Neutral(Job);

#[async_trait::async_trait]
impl JobHandler for Neutral {
    async fn step(&mut self, script: &[String], _: Phase) -> JobResult {
        let before = self.0.now();
        self.0.sleep(Duration::from_millis(1)).await;
        assert!(self.0.now() >= before + Duration::from_millis(1));
        for line in script {
            outputln!("{line}");
        }
        let lines = script.len();
        match self.0.unblock(move || lines).await {
            1 => Ok(()),
            more => self
                .0
                .fail(Failure::exit_code(i32::try_from(more).unwrap())),
        }
    }
}

pub(crate) async fn runs_jobs(subject: &dyn Subject) {
    let authority = Authority::new("ours");
    let mut gitlab = MockGitlab::new(5);
    gitlab.add_runner(TOKEN);
    let good = gitlab.enqueue(JobSpec::script(["ssshhhh!"]).masked_variable("SECRET", "ssshhhh!"));
    let bad = gitlab.enqueue(JobSpec::script(["one", "two"]));
    let gitlab = Loopback::start_tls(gitlab, authority.server(&["127.0.0.1"])).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let adapter = subject.adapter(&[authority.pem()]);
    let url = gitlab.url().parse().unwrap();
    let mut runner = Runner::with_adapter(url, TOKEN.to_owned(), dir.path().into(), adapter);
    for _ in 0..2 {
        let job = runner.request_job(|job| async { Ok(Neutral(job)) }).await;
        assert!(job.unwrap());
    }
    runner.drain().await;
    gitlab.with(|gitlab, _| {
        let report = gitlab.report(good).unwrap();
        assert_eq!(
            (report.status, &*report.log_text()),
            (JobStatus::Success, "[MASKED]\n")
        );
        let report = gitlab.report(bad).unwrap();
        assert_eq!(
            (report.status, report.exit_code),
            (JobStatus::Failed, Some(2))
        );
        assert_eq!(report.log_text(), "one\ntwo\n");
        assert_eq!(report.checksum_matches(), Some(true));
    });
}
