//! Notices as events, for whoever watches the runner. Without the feature `tracing` they go nowhere.

#[cfg(not(feature = "tracing"))]
pub(super) use self::silent::{jobs_lost, report, trouble_with_job, trouble_with_runner};
#[cfg(feature = "tracing")]
pub(super) use self::traced::{jobs_lost, report, trouble_with_job, trouble_with_runner};

#[cfg(feature = "tracing")]
mod traced {
    use crate::{
        ids::JobId,
        machine::{Notice, TokenNotice},
        protocol::{Failure, FailureReason},
    };

    /// For filters: where in the crate an event is made is nobody's business.
    const TARGET: &str = "gitlab_runner";

    /// One event for each change of state; `job` is its number, where it is about one.
    pub(in crate::runner) fn report(notice: &Notice) {
        match notice {
            Notice::Verified { .. } | Notice::Token(TokenNotice::Rotated { .. }) => {
                tracing::info!(target: TARGET, "{notice}");
            }
            Notice::Token(news) if news.is_severe() => {
                tracing::error!(target: TARGET, "{notice}");
            }
            Notice::Token(_) => tracing::warn!(target: TARGET, "{notice}"),
            Notice::JobStarted { job, .. } | Notice::JobCanceling(job) => {
                tracing::info!(target: TARGET, job = job.0, "{notice}");
            }
            Notice::JobReported { job, failure } => {
                let reason = failure.as_ref().map(Failure::reason);
                // This one is for us to mend, not for who wrote the script.
                if reason == Some(&FailureReason::RunnerSystemFailure) {
                    tracing::warn!(target: TARGET, job = job.0, success = false, "{notice}");
                } else {
                    let success = reason.is_none();
                    tracing::info!(target: TARGET, job = job.0, success, "{notice}");
                }
            }
            Notice::JobRepeated(job)
            | Notice::JobUnusable { job, .. }
            | Notice::JobDropped { job, .. }
            | Notice::JobAborted { job, .. }
            | Notice::JobTimedOut { job, .. }
            | Notice::StepTimedOut { job, .. }
            | Notice::JobTrouble { job, .. }
            | Notice::TraceRejected { job, .. } => {
                tracing::warn!(target: TARGET, job = job.0, "{notice}");
            }
            Notice::ArtifactUploaded { artifact, .. } => {
                tracing::info!(target: TARGET, job = artifact.job.0, "{notice}");
            }
            Notice::ArtifactFailed { artifact, .. } => {
                tracing::warn!(target: TARGET, job = artifact.job.0, "{notice}");
            }
            Notice::JobReportFailed { job, .. } => {
                tracing::error!(target: TARGET, job = job.0, "{notice}");
            }
            Notice::JobLost(_) => tracing::error!(target: TARGET, "{notice}"),
            Notice::VerifyFailed(_) | Notice::PollFailed { .. } | Notice::MaybeOrphanedJob(_) => {
                tracing::warn!(target: TARGET, "{notice}");
            }
        }
    }

    /// The runtime of the jobs is gone.
    pub(in crate::runner) fn jobs_lost(jobs: usize) {
        let what = match jobs {
            1 => "1 job was lost with the runtime that it ran on".to_owned(),
            _ => format!("{jobs} jobs were lost with the runtime that they ran on"),
        };
        tracing::error!(target: TARGET, jobs, "{what}");
    }

    /// Something about one job that GitLab is not to blame for.
    pub(in crate::runner) fn trouble_with_job(job: JobId, what: &str) {
        tracing::warn!(target: TARGET, job = job.0, "job {job}: {what}");
    }

    /// Something about the runner as a whole.
    pub(in crate::runner) fn trouble_with_runner(what: &str) {
        tracing::warn!(target: TARGET, "{what}");
    }
}

#[cfg(not(feature = "tracing"))]
mod silent {
    use crate::{ids::JobId, machine::Notice};

    pub(in crate::runner) fn report(_: &Notice) {}
    pub(in crate::runner) fn jobs_lost(_: usize) {}
    pub(in crate::runner) fn trouble_with_job(_: JobId, _: &str) {}
    pub(in crate::runner) fn trouble_with_runner(_: &str) {}
}
