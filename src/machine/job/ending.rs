//! What makes a job end before its time: a cancel, its time limit, the end of the runner, or GitLab.

use super::{JobMachine, State, Work};
use crate::{
    machine::{
        core::{Core, error_line, warning_line},
        output::{CancelMode, JobOutput, Notice},
        plan,
    },
    protocol::{Failure, FailureReason, Phase},
};

/// Why a job has to end before its time. A later one overrules an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ending {
    /// A user cancelled it; after_script still runs.
    Canceling,
    /// It ran out of time.
    TimedOut,
    /// The runner stops.
    Interrupted,
    /// GitLab ended it: it hears nothing more from us.
    Aborted,
}

impl JobMachine {
    /// A user cancelled the job. Once the script is over that changes nothing any more.
    pub(super) fn cancel(&mut self, core: &mut Core) {
        if self.ending.is_some() {
            return;
        }
        let grace = core.now + core.config.cancel_grace;
        match &mut self.state {
            State::Committing => {}
            State::Starting { force_at } => {
                *force_at = Some(grace);
                core.job(self.id, JobOutput::Cancel(CancelMode::Graceful));
            }
            State::Stepping { step, force_at, .. } if step.phase == Phase::Script => {
                // A script that is out of time has been told to end already, and sooner.
                *force_at = Some(force_at.map_or(grace, |earlier| earlier.min(grace)));
                core.job(self.id, JobOutput::Cancel(CancelMode::Graceful));
            }
            _ => return,
        }
        core.notice(Notice::JobCanceling(self.id));
        self.ending = Some(Ending::Canceling);
        self.failure = Some(Failure::new(FailureReason::JobCanceled));
    }

    /// The job has run out of time.
    pub(super) fn time_out(&mut self, core: &mut Core) {
        let limit = match &self.work {
            Work::Run { plan, .. } => plan.limit,
            Work::Refuse { .. } => return,
        };
        let text = format!("execution took longer than {} seconds", limit.as_secs());
        let (note, mode) = match &mut self.state {
            State::Stepping { step, force_at, .. } => {
                let grace = core.now + core.config.timeout_grace;
                *force_at = Some(force_at.map_or(grace, |earlier| earlier.min(grace)));
                if step.phase == Phase::Script {
                    self.failure = Some(Failure::new(FailureReason::JobExecutionTimeout));
                    (
                        error_line(&format!("Job failed: {text}")),
                        CancelMode::Graceful,
                    )
                } else {
                    // How the script ended stands.
                    (
                        warning_line(&format!("after_script ended: {text}")),
                        CancelMode::Graceful,
                    )
                }
            }
            State::Starting { force_at } => {
                *force_at = None;
                self.failure = Some(Failure::new(FailureReason::JobExecutionTimeout));
                (
                    error_line(&format!("Job failed: {text}")),
                    CancelMode::Forced,
                )
            }
            State::Uploading(_) => {
                self.failure
                    .get_or_insert(Failure::new(FailureReason::JobExecutionTimeout));
                (
                    error_line(&format!("Job failed: {text}")),
                    CancelMode::Forced,
                )
            }
            _ => return,
        };
        self.ending = Some(Ending::TimedOut);
        core.notice(Notice::JobTimedOut {
            job: self.id,
            limit,
        });
        core.job(self.id, JobOutput::Note(note));
        if matches!(self.state, State::Uploading(_)) {
            self.stop_uploads(core);
        } else {
            core.job(self.id, JobOutput::Cancel(mode));
        }
    }

    /// The job ended before its artifacts were asked for. Without them it is no success: the jobs
    /// that depend on it would run without its files.
    pub(super) fn miss_artifacts(&mut self, core: &mut Core) {
        let reason = match self.ending {
            Some(Ending::TimedOut) => FailureReason::JobExecutionTimeout,
            Some(Ending::Interrupted) => FailureReason::RunnerInterrupted,
            _ => return,
        };
        let Work::Run { payload, .. } = &self.work else {
            return;
        };
        if self.failure.is_some() || plan::artifacts(payload, false).next().is_none() {
            return;
        }
        let text = "Job failed: it was ended before its artifacts were uploaded";
        core.job(self.id, JobOutput::Note(error_line(text)));
        self.failure = Some(Failure::new(reason));
    }

    /// The time of the step that runs is over, not that of the job: after_script follows a script.
    pub(super) fn time_out_step(&mut self, core: &mut Core) {
        let (
            State::Stepping {
                step,
                until,
                force_at,
            },
            Work::Run { plan, .. },
        ) = (&mut self.state, &self.work)
        else {
            return;
        };
        *until = None;
        let grace = core.now + core.config.timeout_grace;
        *force_at = Some(force_at.map_or(grace, |earlier| earlier.min(grace)));
        let limit = plan.phase_limit(step.phase).unwrap_or_default();
        let (what, key) = match step.phase {
            Phase::Script => ("the script", "RUNNER_SCRIPT_TIMEOUT"),
            Phase::AfterScript => ("after_script", "RUNNER_AFTER_SCRIPT_TIMEOUT"),
        };
        let text = format!(
            "{what} took longer than {} seconds ({key})",
            limit.as_secs()
        );
        let note = if plan.counts(step) {
            self.failure
                .get_or_insert(Failure::new(FailureReason::JobExecutionTimeout));
            error_line(&format!("Job failed: {text}"))
        } else {
            warning_line(&text)
        };
        core.notice(Notice::StepTimedOut {
            job: self.id,
            step: step.name.to_string(),
            limit,
        });
        core.job(self.id, JobOutput::Note(note));
        core.job(self.id, JobOutput::Cancel(CancelMode::Graceful));
    }

    /// The runner stops: cancel what runs, and report it.
    pub(in crate::machine) fn interrupt(&mut self, core: &mut Core) {
        if self.ending >= Some(Ending::Interrupted) {
            return;
        }
        let in_script = match &mut self.state {
            State::Committing => true,
            State::Starting { force_at } => {
                *force_at = None;
                true
            }
            State::Stepping { step, force_at, .. } => {
                *force_at = None;
                step.phase == Phase::Script
            }
            // Without all of its artifacts a job is no success.
            State::Uploading(_) => self.failure.is_none(),
            // The script is over, its result stands.
            _ => return,
        };
        self.ending = Some(Ending::Interrupted);
        if in_script {
            self.failure = Some(Failure::new(FailureReason::RunnerInterrupted));
        }
        if matches!(self.state, State::Committing) {
            return;
        }
        if in_script {
            let note = error_line("Job failed (system failure): the runner was stopped");
            core.job(self.id, JobOutput::Note(note));
        }
        if matches!(self.state, State::Uploading(_)) {
            self.stop_uploads(core);
        } else {
            core.job(self.id, JobOutput::Cancel(CancelMode::Forced));
        }
    }

    /// GitLab ended the job: drop everything but the clean-up.
    pub(super) fn abort(&mut self, core: &mut Core, why: String) {
        core.notice(Notice::JobAborted { job: self.id, why });
        self.ending = Some(Ending::Aborted);
        self.exchange.end(core);
        self.downloads.stop(core, self.id);
        match &mut self.state {
            State::Uploading(_) => self.stop_uploads(core),
            State::Starting { force_at } | State::Stepping { force_at, .. } => {
                *force_at = None;
                core.job(self.id, JobOutput::Cancel(CancelMode::Forced));
            }
            State::Cleaning { .. } => {}
            _ => self.done(core),
        }
    }

    /// No more uploads. The clean-up follows as soon as the handler's side is free for it.
    fn stop_uploads(&mut self, core: &mut Core) {
        let State::Uploading(uploads) = &mut self.state else {
            return;
        };
        if uploads.stop(core) {
            core.job(self.id, JobOutput::Cancel(CancelMode::Forced));
        } else {
            self.clean_up(core);
        }
    }
}
