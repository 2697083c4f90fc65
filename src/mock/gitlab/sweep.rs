//! What the server does by itself when time passes: it fails jobs nobody cares for any more.

use super::{MockGitlab, jobs::Job};
use crate::{JobId, Time, mock::report::JobStatus};

impl MockGitlab {
    /// Fails all jobs whose time is over at `now`, each at its own time.
    pub(super) fn sweep(&mut self, now: Time) {
        // A job that was failed is in none of the lists any more, so this comes to an end.
        while let Some((at, id, reason)) = self.next_sweep().filter(|(at, ..)| *at <= now) {
            self.now = self.now.max(at);
            if let Some(job) = self.jobs.get_mut(&id) {
                // Kept even if the job ends as canceled.
                job.report.failure_reason = Some(reason.to_owned());
            }
            self.fail(id, reason, None);
        }
    }

    /// The next job that the server will fail, when, and as what.
    pub(super) fn next_sweep(&self) -> Option<(Time, JobId, &'static str)> {
        let parked = self
            .parked
            .iter()
            .map(|(id, parked)| (parked.until, *id, "runner_provisioning_timeout"));
        let settings = &self.settings;
        let (silence, grace) = (settings.no_updates_timeout, settings.server_timeout_grace);
        let live = self
            .live
            .iter()
            .take(if silence.is_some() || grace.is_some() {
                usize::MAX
            } else {
                0
            })
            .filter_map(|id| Some((*id, self.jobs.get(id)?)))
            .flat_map(move |(id, job)| {
                let canceling = job.status() == JobStatus::Canceling;
                let silent = silence.map(|silence| match canceling {
                    true => (job.last_heard + silence, id, "no_updates_canceling"),
                    false => (job.last_heard + silence, id, "no_updates_running"),
                });
                let late = grace.and_then(|grace| {
                    let limit = self.deadline(job)? + grace;
                    Some(match canceling {
                        true => (limit, id, "server_timeout_canceling"),
                        false => (limit, id, "server_timeout_running"),
                    })
                });
                [silent, late].into_iter().flatten()
            });
        let stuck_as = if self.runners.values().any(|runner| !runner.paused) {
            "stuck_pending_with_matching_runners"
        } else {
            "stuck_pending_no_matching_runners"
        };
        let queued = settings.pending_timeout.into_iter().flat_map(|patience| {
            self.queue.iter().filter_map(move |id| {
                let queued_at = self.jobs.get(id)?.report.queued_at?;
                Some((queued_at + patience, *id, stuck_as))
            })
        });
        parked.chain(live).chain(queued).min()
    }

    /// When a running job has used up its time.
    fn deadline(&self, job: &Job) -> Option<Time> {
        let runner = job
            .report
            .runner
            .and_then(|runner| self.runners.get(&runner));
        let seconds = job.timeout_on(runner);
        Some(job.report.started_at? + std::time::Duration::from_secs(seconds))
    }
}
