//! Ctrl-C, SIGTERM and SIGQUIT: first drain, then abort, then go.

use std::{io, time::Duration};

use gitlab_runner::RunnerHandle;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that ask this program to end. From `new` on they do not end it by themselves.
///
/// Jobs do not get them: each runs in a process group of its own, so Ctrl-C in a terminal reaches
/// only the runner.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    quit: Signal,
    /// How long running jobs may take to finish after the first one, but for SIGQUIT.
    limit: Option<Duration>,
}

impl Signals {
    pub(crate) fn new(limit: Option<Duration>) -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            quit: signal(SignalKind::quit())?,
            limit,
        })
    }

    /// Tells the runner to end, ever more clearly. Returns at the third signal, after which there
    /// is nothing left but to exit.
    pub(crate) async fn stop(mut self, runner: RunnerHandle) {
        let name = self.next().await;
        let limit = self.limit.filter(|_| name != "SIGQUIT");
        let may = match limit {
            Some(limit) => {
                runner.drain_within(limit);
                format!("have {} seconds to finish", limit.as_secs())
            }
            None => {
                runner.drain();
                "may finish".to_owned()
            }
        };
        eprintln!("{name}: asking for no more jobs, running ones {may}. Once more to cancel them.");
        let name = self.next().await;
        runner.abort();
        eprintln!("{name}: cancelling the running jobs. Once more to exit at once.");
        let name = self.next().await;
        eprintln!("{name}: exiting. GitLab will notice after a while that its jobs are gone.");
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.quit.recv() => "SIGQUIT",
        }
    }
}
