//! What this runner says in the log of a job, in the words and colours of GitLab's own runner.

use gitlab_runner::job::{Job, Section};

/// Writes a line.
pub(crate) fn plain(job: &Job, text: &str) {
    job.trace(format!("\x1b[0K{text}\x1b[0;m\n"));
}

/// Writes a line that is good news.
pub(crate) fn info(job: &Job, text: &str) {
    job.trace(format!("\x1b[32;1m{text}\x1b[0;m\n"));
}

/// Writes a line that somebody should look at.
pub(crate) fn warning(job: &Job, text: &str) {
    job.trace(format!("\x1b[0;33mWARNING: {text}\x1b[0;m\n"));
}

/// Writes a line that says why something failed.
pub(crate) fn error(job: &Job, text: &str) {
    job.trace(format!("\x1b[31;1mERROR: {text}\x1b[0;m\n"));
}

/// Begins one of the sections that the log of every job has.
pub(crate) fn section(job: &Job, stage: Stage) -> Section {
    let (name, title) = stage.name_and_title();
    job.section(&name).title(title).start()
}

/// What happens to a job, one after the other.
#[derive(Clone, Debug)]
pub(crate) enum Stage {
    PrepareExecutor,
    PrepareScript,
    GetSources,
    DownloadArtifacts,
    /// A step, with its name.
    Step(String),
    AfterScript,
    UploadArtifacts {
        failed: bool,
    },
    CleanUp,
}

impl Stage {
    fn name_and_title(self) -> (String, String) {
        let (name, title) = match self {
            Self::PrepareExecutor => ("prepare_executor", "Preparing the \"shell\" executor"),
            Self::PrepareScript => ("prepare_script", "Preparing environment"),
            Self::GetSources => ("get_sources", "Getting source from Git repository"),
            Self::DownloadArtifacts => ("download_artifacts", "Downloading artifacts"),
            Self::Step(name) => {
                let name = format!("step_{name}");
                let title = format!("Executing \"{name}\" stage of the job script");
                return (name, title);
            }
            Self::AfterScript => ("after_script", "Running after_script"),
            Self::UploadArtifacts { failed: false } => (
                "upload_artifacts_on_success",
                "Uploading artifacts for successful job",
            ),
            Self::UploadArtifacts { failed: true } => (
                "upload_artifacts_on_failure",
                "Uploading artifacts for failed job",
            ),
            Self::CleanUp => (
                "cleanup_file_variables",
                "Cleaning up project directory and file based variables",
            ),
        };
        (name.to_owned(), title.to_owned())
    }
}
