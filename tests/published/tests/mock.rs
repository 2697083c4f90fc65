//! Against the mock that was published for collabora's `gitlab-runner` 0.3.2, which is strict about
//! what it is sent. The crate `tracing` is not among the dependencies: `outputln!` does without.

use std::{borrow::Cow, time::Duration};

use futures::io::Cursor;
use gitlab_runner::{
    CancellableJobHandler, Failure, GitlabLayer, JobHandler, JobResult, Phase, Runner,
    RunnerBuilder, UploadableFile, job::Job, outputln,
};
use gitlab_runner_mock::{
    GitlabRunnerMock, MockJob, MockJobState, MockJobStepName, MockJobStepWhen,
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::Registry;

struct Talk(Job);

#[async_trait::async_trait]
impl JobHandler for Talk {
    async fn step(&mut self, script: &[String], phase: Phase) -> JobResult {
        for line in script {
            match line.split_once(' ').unwrap_or((line, "")) {
                ("echo", text) => outputln!("{}", text),
                ("sleep", seconds) => {
                    let seconds = seconds.parse().map_err(|_| ())?;
                    tokio::time::sleep(Duration::from_secs(seconds)).await;
                }
                ("show", key) => {
                    let variable = self.0.variable(key).ok_or(())?;
                    outputln!("{variable} {:?}", phase);
                }
                ("panic", text) => panic!("{text}"),
                _ => return self.0.fail(Failure::exit_code(3)),
            }
        }
        Ok(())
    }
}

async fn talk(job: Job) -> Result<Talk, ()> {
    Ok(Talk(job))
}

async fn runner(mock: &GitlabRunnerMock) -> (Runner, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let (_layer, jobs) = GitlabLayer::new::<Registry>();
    let builder = RunnerBuilder::new(mock.uri(), mock.runner_token(), dir.path(), jobs);
    (builder.build().await, dir)
}

fn job(mock: &GitlabRunnerMock, script: &[&str], after: &[&str]) -> MockJob {
    let mut job = mock.job_builder("a job".to_owned());
    let lines = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect();
    let (script, after): (Vec<String>, Vec<String>) = (lines(script), lines(after));
    let when = MockJobStepWhen::OnSuccess;
    job.add_step(MockJobStepName::Script, script, 3600, when, false);
    if !after.is_empty() {
        let when = MockJobStepWhen::Always;
        job.add_step(MockJobStepName::AfterScript, after, 3600, when, true);
    }
    job.add_variable("SHOWN".to_owned(), "a value".to_owned(), true, false);
    job.add_variable("HIDDEN".to_owned(), "a-secret".to_owned(), false, true);
    let job = job.build();
    mock.enqueue_job(job.clone());
    job
}

/// Runs this job to its end.
async fn run(mock: &GitlabRunnerMock, script: &[&str], after: &[&str]) -> MockJob {
    let job = job(mock, script, after);
    let (mut runner, _dir) = runner(mock).await;
    assert!(runner.request_job(talk).await.unwrap());
    runner.wait_for_space(1).await;
    // As soon as there is space, the server knows.
    assert!(job.finished());
    job
}

fn log(job: &MockJob) -> String {
    String::from_utf8(job.log()).unwrap()
}

#[tokio::test]
async fn a_job_succeeds() {
    let mock = GitlabRunnerMock::start().await;
    let job = run(&mock, &["echo hello", "show SHOWN"], &["echo bye"]).await;
    assert_eq!(job.state(), MockJobState::Success);
    assert_eq!(log(&job), "hello\na value Script\nbye\n");
}

#[tokio::test]
async fn nothing_more_is_sent_than_this_server_knows() {
    let mock = GitlabRunnerMock::start().await;
    let job = run(&mock, &["echo hello"], &[]).await;
    assert_eq!((mock.n_requests().await, job.log_patches()), (1, 1));
    // It runs, and it is done: no commit, for this server has never heard of it.
    assert_eq!(job.state_updates(), 2);
}

#[tokio::test]
async fn a_job_fails() {
    let mock = GitlabRunnerMock::start().await;
    let job = run(&mock, &["exit"], &["echo bye"]).await;
    assert_eq!((job.state(), &*log(&job)), (MockJobState::Failed, "bye\n"));
    let job = run(&mock, &["panic on purpose"], &[]).await;
    assert_eq!(job.state(), MockJobState::Failed);
    assert!(log(&job).contains("on purpose"), "{}", log(&job));
}

#[tokio::test]
async fn a_masked_value_is_masked() {
    let mock = GitlabRunnerMock::start().await;
    let job = run(&mock, &["show HIDDEN", "echo it is a-secret"], &[]).await;
    assert_eq!(log(&job), "[MASKED] Script\nit is [MASKED]\n");
}

#[tokio::test]
async fn what_the_runner_is_reaches_the_server() {
    let mock = GitlabRunnerMock::start().await;
    mock.set_expected_metadata_version("1.2.3");
    mock.set_expected_metadata_revision("0123abc");
    mock.set_expected_metadata_platform("linux");
    mock.set_expected_metadata_architecture("amd64");
    let job = job(&mock, &["echo hello"], &[]);
    let dir = tempfile::tempdir().unwrap();
    let (_layer, jobs) = GitlabLayer::new::<Registry>();
    let mut runner = RunnerBuilder::new(mock.uri(), mock.runner_token(), dir.path(), jobs)
        .version("1.2.3")
        .revision("0123abc")
        .platform("linux")
        .architecture("amd64")
        .build()
        .await;
    assert!(runner.request_job(talk).await.unwrap());
    runner.drain().await;
    assert_eq!(job.state(), MockJobState::Success);
}

struct Patient;

#[async_trait::async_trait]
impl CancellableJobHandler for Patient {
    async fn step(&mut self, _: &[String], _: Phase, token: &CancellationToken) -> JobResult {
        outputln!("waiting");
        token.cancelled().await;
        Ok(())
    }
}

struct Report;

#[async_trait::async_trait]
impl UploadableFile for Report {
    type Data<'a> = Cursor<&'static [u8]>;

    fn get_path(&self) -> Cow<'_, str> {
        "out/report.xml".into()
    }

    async fn get_data(&self) -> Result<Self::Data<'_>, ()> {
        Ok(Cursor::new(b"<testsuites/>"))
    }
}

struct Makes;

#[async_trait::async_trait]
impl JobHandler<Report> for Makes {
    async fn step(&mut self, _: &[String], _: Phase) -> JobResult {
        Ok(())
    }

    async fn get_uploadable_files(
        &mut self,
    ) -> Result<Box<dyn Iterator<Item = Report> + Send>, ()> {
        Ok(Box::new(std::iter::once(Report)))
    }
}

#[tokio::test]
async fn artifacts_arrive_with_what_they_are() {
    let mock = GitlabRunnerMock::start().await;
    let mut job = mock.job_builder("a job".to_owned());
    let when = MockJobStepWhen::OnSuccess;
    job.add_step(
        MockJobStepName::Script,
        vec!["make".to_owned()],
        3600,
        when,
        false,
    );
    for (name, kind, format) in [
        (None, "archive", "zip"),
        (Some("junit.xml"), "junit", "gzip"),
    ] {
        job.add_artifact(
            name.map(str::to_owned),
            false,
            vec!["out/*".to_owned()],
            None,
            kind.to_owned(),
            Some(format.to_owned()),
            None,
        );
    }
    let job = job.build();
    mock.enqueue_job(job.clone());
    let (mut runner, _dir) = runner(&mock).await;
    assert!(runner.request_job(|_| async { Ok(Makes) }).await.unwrap());
    runner.drain().await;
    assert_eq!(job.state(), MockJobState::Success);
    let arrived: Vec<_> = job
        .uploaded_artifacts()
        .map(|it| [it.filename, it.artifact_type, it.artifact_format].map(Option::unwrap))
        .collect();
    let wanted = [
        ["default.zip", "archive", "zip"],
        ["junit.xml.gz", "junit", "gzip"],
    ];
    assert_eq!(arrived, wanted);
}

/// The clock stands still while requests are on their way, and else goes from timer to timer.
#[tokio::test(start_paused = true)]
async fn a_cancelled_job_ends() {
    let mock = GitlabRunnerMock::start().await;
    let job = job(&mock, &["work"], &[]);
    let (mut runner, _dir) = runner(&mock).await;
    let process = |_| async { Ok(Patient) };
    assert!(runner.request_job(process).await.unwrap());
    while !log(&job).contains("waiting") {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    job.cancel();
    runner.drain().await;
    assert_eq!(runner.running(), 0);
    assert_eq!(job.state(), MockJobState::Cancelled);
}

#[tokio::test(start_paused = true)]
async fn many_jobs_are_run_at_once() {
    let mock = GitlabRunnerMock::start().await;
    let jobs: Vec<_> = (0..20)
        .map(|number| job(&mock, &[&format!("echo {number}"), "sleep 10"], &[]))
        .collect();
    let (mut runner, _dir) = runner(&mock).await;
    let start = tokio::time::Instant::now();
    tokio::select! {
        result = runner.run(talk, 5) => result.unwrap(),
        () = async {
            while !jobs.iter().all(MockJob::finished) {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        } => {}
    }
    // Four times five, ten seconds each.
    assert!(
        start.elapsed() < Duration::from_secs(60),
        "{:?}",
        start.elapsed()
    );
    for (number, job) in jobs.iter().enumerate() {
        assert_eq!(job.state(), MockJobState::Success);
        assert_eq!(log(job), format!("{number}\n"));
    }
}
