//! A runner that knows no runtime: what it waits for goes through its `Job`.

use std::{
    error::Error,
    process::{Command, Stdio},
};

use gitlab_runner::{
    Failure, JobHandler, JobId, JobResult, Phase, Runner,
    job::Job,
    mock::{JobSpec, MockGitlab},
};

pub(crate) const TOKEN: &str = "glrt-example";

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

/// A simulated GitLab with one job, which names the runtime.
pub(crate) fn gitlab(runtime: &str) -> (MockGitlab, JobId) {
    let mut gitlab = MockGitlab::new(1);
    gitlab.add_runner(TOKEN);
    let script = [
        "echo \"job $$ is a process of its own\"".to_owned(),
        format!("echo 'started from {runtime}'"),
    ];
    let job = gitlab.enqueue(JobSpec::script(script));
    (gitlab, job)
}

/// Takes the job and runs it to its end.
pub(crate) async fn run_a_job(mut runner: Runner) -> Result<(), Box<dyn Error>> {
    if !runner.request_job(|job| async { Ok(Shell(job)) }).await? {
        return Err("there was no job".into());
    }
    runner.drain().await;
    Ok(())
}

/// Prints what GitLab has of the job in the end.
pub(crate) fn print(gitlab: &MockGitlab, job: JobId) -> Result<(), Box<dyn Error>> {
    let report = gitlab.report(job).ok_or("the job is gone")?;
    println!("{:?}:\n{}", report.status, report.log_text());
    Ok(())
}
