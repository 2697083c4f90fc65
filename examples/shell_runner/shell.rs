//! The handler: what a job is, on this runner.

use std::{
    env,
    error::Error,
    io,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
};

use gitlab_runner::{
    CancellableJobHandler, Failure, FailureReason, JobResult, Phase,
    artifact::{DirectoryFiles, DiskFile, ExtractLimits},
    job::Job,
    outputln,
};
use tokio::{fs, process::Command};
use tokio_util::sync::CancellationToken;

use crate::process;

/// Where the lines of a step are, among the temporary files of the job, which only we can read. No
/// variable has such a name.
const SCRIPT_FILE: &str = "step.sh";

/// Runs the steps of one job with bash, in a directory of the job's own.
#[derive(Debug)]
pub(crate) struct Shell {
    job: Job,
    /// The job's build directory, without symbolic links in its path: that of the project.
    project: PathBuf,
    outcome: Outcome,
    /// Whether each step is a section of the log.
    sections: bool,
}

/// How the script has ended so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Running,
    Succeeded,
    Failed(i32),
    /// Cancelled, or out of time.
    Stopped,
}

impl Shell {
    /// Makes what all steps of the job need.
    pub(crate) async fn start(job: Job) -> Result<Self, ()> {
        let project = Self::prepare(&job).await.map_err(|error| {
            job.trace(format!("The job's directory cannot be prepared: {error}\n"));
        })?;
        Self::fetch(&job, &project)
            .await
            .map_err(|error| job.trace(format!("{error}\n")))?;
        Ok(Self {
            job,
            project,
            outcome: Outcome::Running,
            sections: false,
        })
    }

    /// The same, with a log that can be folded. The times in it make it a bad one to compare.
    pub(crate) async fn start_with_sections(job: Job) -> Result<Self, ()> {
        let shell = Self::start(job).await?;
        Ok(Self {
            sections: true,
            ..shell
        })
    }

    /// Unpacks what earlier jobs made where the script finds it.
    async fn fetch(job: &Job, project: &Path) -> Result<(), Box<dyn Error + Send + Sync>> {
        for dependency in job.dependencies() {
            let Some(mut artifact) = dependency.download().await? else {
                continue;
            };
            job.trace(format!("Downloading artifacts for {}\n", dependency.name()));
            let project = project.to_owned();
            let unpack = move || artifact.extract(&project, ExtractLimits::default());
            job.unblock(unpack).await?;
        }
        Ok(())
    }

    /// Has the scripts see the directories of the job as bash does: `$PWD` has no symbolic links.
    async fn prepare(job: &Job) -> Result<PathBuf, Box<dyn Error + Send + Sync>> {
        let project = fs::canonicalize(job.build_dir()).await?;
        let temporary = fs::canonicalize(job.temp_dir().await?).await?;
        job.set_dirs(&project, temporary);
        Ok(project)
    }

    /// Runs the lines and gives the exit code.
    async fn run(
        &self,
        script: &[String],
        cancel: &CancellationToken,
    ) -> Result<i32, Box<dyn Error + Send + Sync>> {
        let environment = self.job.env().await?;
        let file = self.job.temp_dir().await?.join(SCRIPT_FILE);
        fs::write(&file, bash_script(script)).await?;
        let mut bash = Command::new(find_bash());
        bash.arg(&file)
            .current_dir(&self.project)
            .env_clear()
            .envs(&environment);
        let ended = process::run(bash, cancel, |output| self.job.trace(output)).await?;
        let by_signal = || ended.signal().map(|signal| 128 + signal);
        Ok(ended.code().or_else(by_signal).unwrap_or(1))
    }
}

#[async_trait::async_trait]
impl CancellableJobHandler<DiskFile> for Shell {
    async fn step(
        &mut self,
        script: &[String],
        phase: Phase,
        cancel_token: &CancellationToken,
    ) -> JobResult {
        let _section = self.sections.then(|| {
            let name = self.job.current_step().unwrap_or_else(|| "script".into());
            let (section, title) = match phase {
                Phase::AfterScript => {
                    ("after_script".to_owned(), "Running after_script".to_owned())
                }
                Phase::Script => {
                    let section = format!("step_{name}");
                    let title = format!("Executing \"{section}\" stage of the job script");
                    (section, title)
                }
            };
            self.job.section(&section).title(title).start()
        });
        if phase == Phase::AfterScript && !self.sections {
            self.job.trace("\x1b[36;1mRunning after_script\x1b[0;m\n");
        }
        let code = match self.run(script, cancel_token).await {
            Ok(code) => code,
            Err(error) => {
                let text = format!("Job failed (system failure): bash cannot be run: {error}");
                self.job.trace(format!("\x1b[31;1mERROR: {text}\x1b[0;m\n"));
                self.outcome = Outcome::Stopped;
                return self
                    .job
                    .fail(Failure::new(FailureReason::RunnerSystemFailure));
            }
        };
        if phase == Phase::Script && !matches!(self.outcome, Outcome::Failed(_)) {
            self.outcome = match code {
                _ if cancel_token.is_cancelled() => Outcome::Stopped,
                0 => Outcome::Succeeded,
                _ => Outcome::Failed(code),
            };
        }
        match code {
            0 => Ok(()),
            _ => self.job.fail(Failure::exit_code(code)),
        }
    }

    async fn get_uploadable_files(
        &mut self,
    ) -> Result<Box<dyn Iterator<Item = DiskFile> + Send>, ()> {
        let project = self.project.clone();
        let wants_untracked = self.job.payload().artifacts.iter().any(|it| it.untracked);
        let files = self.job.unblock(move || {
            let mut files = DirectoryFiles::walk(project)?;
            // Where there is no working copy of git, nothing is untracked.
            if wants_untracked && let Err(error) = files.mark_untracked() {
                outputln!("WARNING: untracked files are not found: {error}");
            }
            io::Result::Ok(files)
        });
        match files.await {
            Ok(files) => Ok(Box::new(files)),
            Err(error) => {
                self.job.trace(format!("{error}\n"));
                Err(())
            }
        }
    }

    async fn cleanup(&mut self) {
        // Why a job was stopped is in the log already. The directory is removed by the runner.
        match self.outcome {
            Outcome::Succeeded => self.job.trace("\x1b[32;1mJob succeeded\x1b[0;m\n"),
            Outcome::Failed(code) => {
                let text = format!("Job failed: exit code {code}");
                self.job.trace(format!("\x1b[31;1mERROR: {text}\x1b[0;m\n"));
            }
            Outcome::Running | Outcome::Stopped => {}
        }
    }
}

/// The bash of this program's own `PATH`: that of the job may lead anywhere.
fn find_bash() -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut candidates = env::split_paths(&path).map(|dir| dir.join("bash"));
    candidates
        .find(|file| file.is_file())
        .unwrap_or_else(|| "bash".into())
}

/// The lines as one script, that ends with the first of them that fails and prints each before
/// it runs.
fn bash_script(lines: &[String]) -> String {
    let mut script = "set -eo pipefail\n".to_owned();
    for line in lines {
        let mut parts = line.lines();
        let first = parts.next().unwrap_or_default();
        let more = match parts.next() {
            Some(_) => " # collapsed multi-line command",
            None => "",
        };
        let title = format!("\x1b[32;1m$ {first}{more}\x1b[0;m").replace('\'', r"'\''");
        script += &format!("printf '%s\\n' '{title}'\n{line}\n");
    }
    script
}
