//! The handler: what a job is, on this runner.

use std::{
    error::Error,
    fs, io,
    path::{Path, PathBuf},
};

use gitlab_runner::{
    CancellableJobHandler, Failure, FailureReason, JobResult, Phase,
    artifact::{DirectoryFiles, DiskFile, ExtractLimits},
    job::{Job, Section},
    outputln,
    protocol::ScriptStatus,
};
use rustix::system::uname;
use tokio_util::sync::CancellationToken;

use crate::{
    bash,
    log::{self, Stage, section},
    sources::{self, Git},
};

/// Runs the steps of one job with bash, in a directory of the job's own.
#[derive(Debug)]
pub(crate) struct Shell {
    job: Job,
    /// The job's build directory, without symbolic links in its path: that of the project.
    project: PathBuf,
    /// What the scripts need to reach the repository.
    git: Option<Git>,
    outcome: Outcome,
    /// The section of the log that tells of the artifacts, once there is one.
    uploading: Option<Section>,
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
    /// Makes what all steps of the job need: its directories, its sources, and what earlier jobs left
    /// for it.
    pub(crate) async fn start(job: Job) -> Result<Self, ()> {
        log::plain(
            &job,
            concat!("Running with shell_runner ", env!("CARGO_PKG_VERSION")),
        );
        let who = job.expand("$CI_RUNNER_DESCRIPTION $CI_RUNNER_SHORT_TOKEN");
        log::plain(&job, &format!("  on {}", who.trim()));
        let executor = section(&job, Stage::PrepareExecutor);
        log::plain(&job, "Using Shell (bash) executor...");
        executor.end();

        let environment = section(&job, Stage::PrepareScript);
        let host = uname().nodename().to_string_lossy().into_owned();
        log::plain(&job, &format!("Running on {host}..."));
        let project = Self::prepare(&job).await.map_err(|error| {
            let text = format!("the job's directory cannot be prepared: {error}");
            log::error(&job, &text);
        })?;
        environment.end();

        let getting = section(&job, Stage::GetSources);
        let git = sources::get(&job, &project).await?;
        getting.end();

        let cancel = job.cancel_token();
        tokio::select! {
            fetched = Self::fetch(&job, &project) => fetched.map_err(|error| {
                log::error(&job, &error.to_string());
            })?,
            () = cancel.cancelled() => return Err(()),
        }
        Ok(Self {
            job,
            project,
            git,
            outcome: Outcome::Running,
            uploading: None,
        })
    }

    /// Has the scripts see the directories of the job as bash does: `$PWD` has no symbolic links.
    async fn prepare(job: &Job) -> Result<PathBuf, Box<dyn Error + Send + Sync>> {
        let dirs = [job.build_dir().to_owned(), job.temp_dir().await?];
        let [project, temporary] = job.unblock(move || dirs.map(fs::canonicalize)).await;
        let project = project?;
        job.set_dirs(&project, temporary?);
        Ok(project)
    }

    /// Unpacks what earlier jobs made where the script finds it.
    async fn fetch(job: &Job, project: &Path) -> Result<(), Box<dyn Error + Send + Sync>> {
        let has_file = |it: &gitlab_runner::job::Dependency<'_>| it.artifact_filename().is_some();
        if !job.dependencies().any(|it| has_file(&it)) {
            return Ok(());
        }
        let _section = section(job, Stage::DownloadArtifacts);
        for dependency in job.dependencies().filter(has_file) {
            let (name, id) = (dependency.name(), dependency.id());
            log::info(job, &format!("Downloading artifacts for {name} ({id})..."));
            let Some(mut artifact) = dependency.download().await? else {
                continue;
            };
            let project = project.to_owned();
            let unpack = move || artifact.extract(&project, ExtractLimits::default());
            job.unblock(unpack).await?;
        }
        Ok(())
    }

    /// Runs the lines and gives the exit code.
    async fn run(
        &self,
        script: &[String],
        cancel: &CancellationToken,
    ) -> Result<i32, Box<dyn Error + Send + Sync>> {
        let mut environment = self.job.env().await?.into_values();
        if let Some(git) = &self.git {
            environment = git.environment(environment);
        }
        bash::run(&self.job, &self.project, script, environment, cancel).await
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
        let _section = match phase {
            Phase::Script => {
                let name = self.job.current_step();
                let name = name.map_or_else(|| "script".to_owned(), |name| name.to_string());
                section(&self.job, Stage::Step(name))
            }
            Phase::AfterScript => {
                let section = section(&self.job, Stage::AfterScript);
                log::info(&self.job, "Running after script...");
                section
            }
        };
        let code = match self.run(script, cancel_token).await {
            Ok(code) => code,
            Err(error) => {
                let text = format!("Job failed (system failure): bash cannot be run: {error}");
                log::error(&self.job, &text);
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
        let stage = Stage::UploadArtifacts {
            failed: self.outcome != Outcome::Succeeded,
        };
        let job = &self.job;
        self.uploading.get_or_insert_with(|| section(job, stage));
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
                log::error(&self.job, &error.to_string());
                Err(())
            }
        }
    }

    async fn cleanup(&mut self) {
        self.uploading = None;
        // The directory is removed by the runner.
        section(&self.job, Stage::CleanUp).end();
        match (self.job.status(), self.outcome) {
            (ScriptStatus::Success, _) => log::info(&self.job, "Job succeeded"),
            (ScriptStatus::Canceled, _) => log::error(&self.job, "Job failed: canceled"),
            (_, Outcome::Failed(code)) => {
                log::error(&self.job, &format!("Job failed: exit code {code}"));
            }
            (_, Outcome::Succeeded) => {
                log::error(&self.job, "Job failed: its artifacts are not at GitLab");
            }
            // Why a job was stopped is in the log already.
            (_, Outcome::Running | Outcome::Stopped) => {}
        }
    }
}
