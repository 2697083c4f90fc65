//! What people do while the runners run, each thing at its time.

use gitlab_runner::mock::MockGitlab;

use super::{
    plan::{Deed, Stop},
    run::{Done, World, get},
};

/// What is done at a time of its own.
enum What {
    Deed(Deed),
    Stop(usize, Stop),
    Capacity(usize, usize),
}

impl World {
    pub(super) async fn do_deeds(&self) {
        let deeds = self.plan.deeds.iter();
        let deeds = deeds.map(|(at, deed)| (*at, What::Deed(*deed)));
        let runners = || self.plan.runners.iter().enumerate();
        let stops = runners().filter_map(|(number, runner)| {
            let (at, stop) = runner.stop?;
            Some((at, What::Stop(number, stop)))
        });
        let capacities = runners().filter_map(|(number, runner)| {
            let (at, capacity) = runner.capacity_later?;
            Some((at, What::Capacity(number, capacity)))
        });
        let mut all: Vec<_> = deeds.chain(stops).chain(capacities).collect();
        all.sort_by_key(|(at, _)| *at);
        for (at, what) in all {
            self.sleep_until(at).await;
            match what {
                What::Deed(deed) => self.do_it(deed),
                What::Stop(number, stop) => self.stop(number, stop),
                What::Capacity(number, capacity) => {
                    if let Some(handle) = get(&self.handles[number]) {
                        handle.set_capacity(capacity);
                        self.note(number, |run| run.capacity = Some(capacity));
                    }
                }
            }
        }
    }

    fn stop(&self, number: usize, stop: Stop) {
        let Some(handle) = get(&self.handles[number]) else {
            return;
        };
        let now = self.sim.now();
        let aborted = match stop {
            Stop::DropRun | Stop::RunAgain(_) | Stop::DropRunner => return,
            Stop::Drain => {
                handle.drain();
                None
            }
            Stop::DrainWithin(limit) => {
                handle.drain_within(limit);
                Some(now + limit)
            }
            Stop::Abort => {
                handle.abort();
                Some(now)
            }
        };
        self.note(number, |run| {
            run.stopped = Some(now);
            run.aborted = aborted;
        });
    }

    fn do_it(&self, deed: Deed) {
        let done = self.gitlab.with(|outside, now| {
            let gitlab = outside.server.server_mut();
            gitlab.advance(now);
            let id = deed.job().map(|job| self.ids[job]);
            let status = |gitlab: &MockGitlab| Some(gitlab.report(id?)?.status);
            let before = status(gitlab);
            match (deed, id) {
                (Deed::Cancel(_), Some(id)) => _ = gitlab.cancel(id),
                (Deed::ForceCancel(_), Some(id)) => _ = gitlab.force_cancel(id),
                (Deed::Fail(_), Some(id)) => _ = gitlab.drop_job(id, "stuck_or_timeout_failure"),
                (Deed::Erase(_), Some(id)) => gitlab.erase(id),
                (Deed::DeleteProject(_), Some(id)) => gitlab.delete_project(id),
                (Deed::ExpireToken(_), Some(id)) => gitlab.expire_token(id),
                (Deed::Shrink(_, hundredths), Some(id)) => {
                    let running = before.is_some_and(|status| !status.is_finished());
                    let len = gitlab.report(id).map_or(0, |report| report.log.len());
                    if running {
                        gitlab.shrink_trace(id, len * hundredths as usize / 100);
                    }
                }
                (Deed::Lock(_, attempts), Some(id)) => gitlab.lock_trace(id, attempts),
                (Deed::Watch(_, watched), Some(id)) => gitlab.watch(id, watched),
                (Deed::Conflict(requests), _) => gitlab.conflict(requests),
                (Deed::Migration(runs), _) => gitlab.settings_mut().migration_backoff = runs,
                (Deed::ExpireLinks, _) => gitlab.object_store().expire_links(),
                (Deed::Pause(paused), _) => {
                    self.numbers
                        .iter()
                        .for_each(|it| gitlab.set_paused(*it, paused));
                }
                (Deed::ForgetManagers, _) => {
                    self.numbers
                        .iter()
                        .for_each(|it| gitlab.forget_managers(*it));
                }
                _ => {
                    self.numbers.iter().for_each(|it| gitlab.bump_queue(*it));
                }
            }
            Done {
                at: now,
                deed,
                before,
                status: status(gitlab),
            }
        });
        if let Ok(mut all) = self.done.lock() {
            all.push(done);
        }
    }
}
