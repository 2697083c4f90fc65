//! The side of the user: what runs a job, what it is given, and where its output goes.

mod batch;
mod download;
mod env;
mod files;
pub mod job;
mod jobs;
#[cfg(feature = "tracing")]
mod layer;
mod line;
mod log;
mod scope;
mod section;
mod variables;

use std::pin::pin;

use async_trait::async_trait;
use futures::future::{Either, select};
use tokio_util::sync::CancellationToken;

pub use self::jobs::JobRunList;
#[cfg(feature = "tracing")]
pub use self::layer::{GitlabFilter, GitlabLayer};
#[doc(hidden)]
pub use self::scope::{in_job, output_line};
#[cfg(feature = "tracing")]
#[doc(hidden)]
pub use self::scope::{stray_line_begins, stray_line_ends};
pub(crate) use self::{
    download::{DownloadError, Fetch, Fetched},
    job::{Job, JobState},
    log::{Colour, JobLog, LogNews},
    scope::{Context, Scope},
    variables::{Concurrent, JobVariables, RunnerVariables},
};
pub use crate::{
    artifact::{NoFiles, UploadableFile},
    protocol::Phase,
};

/// How a step ended: well, or not.
///
/// [`Job::fail`] says why it failed: `return self.job.fail(Failure::exit_code(3))`. Without it, a
/// failed step is reported as `script_failure` with exit code 1.
///
/// An error has to become a line in the log before `?` can take it:
///
/// ```
/// # use gitlab_runner::{JobResult, outputln};
/// # fn step() -> JobResult {
/// std::fs::create_dir_all("out").map_err(|error| outputln!("out cannot be made: {error}"))?;
/// # Ok(())
/// # }
/// ```
pub type JobResult = Result<(), ()>;

/// Runs one job. Implement it with `#[async_trait::async_trait]`; without that the compiler speaks of
/// lifetimes (E0195).
///
/// ```
/// use gitlab_runner::{JobHandler, JobResult, Phase, job::Job};
///
/// struct Echo(Job);
///
/// #[async_trait::async_trait]
/// impl JobHandler for Echo {
///     async fn step(&mut self, script: &[String], _phase: Phase) -> JobResult {
///         self.0.trace(script.join("\n") + "\n");
///         Ok(())
///     }
/// }
/// ```
///
/// The closure given to [`Runner::run`](crate::Runner::run) makes one for each job. A handler whose
/// step should be told of a cancel, instead of being dropped, implements [`CancellableJobHandler`].
#[async_trait]
pub trait JobHandler<U = NoFiles>: Send
where
    U: UploadableFile + Send + 'static,
{
    /// Runs the lines of one step.
    ///
    /// Called for `script`, for further steps such as `release` (also [`Phase::Script`]; see
    /// [`Job::current_step`]), and at last for `after_script`. When the job is cancelled or runs
    /// out of time, the future is dropped where it stands. A panic fails the job.
    async fn step(&mut self, script: &[String], phase: Phase) -> JobResult;

    /// The files that the job offers for upload.
    ///
    /// # Errors
    /// When they cannot be found out.
    async fn get_uploadable_files(&mut self) -> Result<Box<dyn Iterator<Item = U> + Send>, ()> {
        Ok(Box::new(std::iter::empty()))
    }

    /// Called once when all is over, on every path: success, failure, cancel, panic.
    ///
    /// Has five minutes ([`MachineConfig::cleanup_limit`]), then it is dropped where it stands and
    /// the log says so. Afterwards the job's build directory is removed, and then the end of the
    /// job is reported to GitLab.
    ///
    /// [`MachineConfig::cleanup_limit`]: crate::machine::MachineConfig::cleanup_limit
    async fn cleanup(&mut self) {}
}

/// Runs one job and is told when it is cancelled. Implement it with `#[async_trait::async_trait]`.
///
/// As [`JobHandler`], but [`step`](Self::step) is not dropped at once: it is given a token that
/// fires, and has ten minutes to come to an end by itself (half a minute when the job ran out of
/// time). When the job has ended at GitLab, or the runner is aborted, it is dropped all the same.
///
/// ```
/// use std::time::Duration;
/// use gitlab_runner::{
///     CancellableJobHandler, CancellationToken, JobResult, Phase, job::Job, outputln,
/// };
///
/// struct Flash(Job);
///
/// #[async_trait::async_trait]
/// impl CancellableJobHandler for Flash {
///     async fn step(
///         &mut self,
///         _script: &[String],
///         _phase: Phase,
///         cancel_token: &CancellationToken,
///     ) -> JobResult {
///         for block in 0..64 {
///             if cancel_token.is_cancelled() {
///                 outputln!("stopped behind block {block}");
///                 break;
///             }
///             self.0.sleep(Duration::from_secs(1)).await; // a block must be written as a whole
///         }
///         Ok(())
///     }
/// }
/// ```
#[async_trait]
pub trait CancellableJobHandler<U = NoFiles>: Send
where
    U: UploadableFile + Send + 'static,
{
    /// Runs the lines of one step. Each step has a token of its own: that of `after_script` has not
    /// fired when the script was cancelled.
    async fn step(
        &mut self,
        script: &[String],
        phase: Phase,
        cancel_token: &CancellationToken,
    ) -> JobResult;

    /// The files that the job offers for upload.
    ///
    /// # Errors
    /// When they cannot be found out.
    async fn get_uploadable_files(&mut self) -> Result<Box<dyn Iterator<Item = U> + Send>, ()> {
        Ok(Box::new(std::iter::empty()))
    }

    /// Called once when all is over, on every path: success, failure, cancel, panic.
    ///
    /// Has five minutes ([`MachineConfig::cleanup_limit`]), then it is dropped where it stands and
    /// the log says so. Afterwards the job's build directory is removed, and then the end of the
    /// job is reported to GitLab.
    ///
    /// [`MachineConfig::cleanup_limit`]: crate::machine::MachineConfig::cleanup_limit
    async fn cleanup(&mut self) {}
}

#[async_trait]
impl<U, J> CancellableJobHandler<U> for J
where
    U: UploadableFile + Send + 'static,
    J: JobHandler<U>,
{
    async fn step(
        &mut self,
        script: &[String],
        phase: Phase,
        cancel_token: &CancellationToken,
    ) -> JobResult {
        let cancelled = pin!(cancel_token.cancelled());
        match select(JobHandler::step(self, script, phase), cancelled).await {
            Either::Left((result, _)) => result,
            // Why it ended is known to who cancelled it.
            Either::Right(((), _)) => Ok(()),
        }
    }

    async fn get_uploadable_files(&mut self) -> Result<Box<dyn Iterator<Item = U> + Send>, ()> {
        JobHandler::get_uploadable_files(self).await
    }

    async fn cleanup(&mut self) {
        JobHandler::cleanup(self).await;
    }
}
