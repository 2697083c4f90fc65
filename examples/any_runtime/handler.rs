//! A runner that knows no runtime: what it waits for goes through its `Job`.

use std::{
    error::Error,
    process::{Command, Stdio},
};

use gitlab_runner::{
    Failure, JobHandler, JobResult, Phase, Runner,
    job::Job,
    mock::{JobSpec, MockGitlab, http::Loopback},
};

const TOKEN: &str = "glrt-example";

/// Runs scripts with `sh`.
struct Shell(Job);

#[async_trait::async_trait]
impl JobHandler for Shell {
    async fn step(&mut self, script: &[String], _phase: Phase) -> JobResult {
        let mut sh = Command::new("sh");
        sh.args(["-ec", &script.join("\n")])
            .current_dir(self.0.build_dir())
            .stdin(Stdio::null());
        let output = self.0.unblock(move || sh.output()).await;
        let output = output.map_err(|error| {
            self.0.trace(format!("sh cannot be run: {error}\n"));
        })?;
        self.0.trace(output.stdout);
        self.0.trace_stderr(output.stderr);
        match output.status.code() {
            Some(0) => Ok(()),
            code => self.0.fail(Failure::exit_code(code.unwrap_or(1))),
        }
    }
}

/// Runs a job of a simulated GitLab and prints what that GitLab has of it in the end.
pub(crate) async fn run_a_job(runtime: &str) -> Result<(), Box<dyn Error>> {
    let mut gitlab = MockGitlab::new(1);
    gitlab.add_runner(TOKEN);
    let script = [
        "echo \"job $$ is a process of its own\"".to_owned(),
        format!("echo 'started from {runtime}'"),
    ];
    let id = gitlab.enqueue(JobSpec::script(script));
    let gitlab = Loopback::start(gitlab)?;
    let builds = tempfile::tempdir()?;

    let url = gitlab.url().parse()?;
    let mut runner = Runner::new(url, TOKEN.to_owned(), builds.path().into());
    if !runner.request_job(|job| async { Ok(Shell(job)) }).await? {
        return Err("there was no job".into());
    }
    runner.drain().await;

    gitlab.with(|gitlab, _| {
        let report = gitlab.report(id).ok_or("the job is gone")?;
        println!("{:?}:\n{}", report.status, report.log_text());
        Ok(())
    })
}
