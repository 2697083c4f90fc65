//! Ctrl-C, SIGTERM and SIGQUIT: first drain, then abort, then go.

use std::{future::pending, io, thread, time::Duration};

use futures::{StreamExt, channel::mpsc};
use gitlab_runner::RunnerHandle;
use signal_hook::consts::{SIGINT, SIGQUIT, SIGTERM};

/// The signals that ask this program to end. From `new` on they do not end it by themselves.
///
/// Jobs do not get them: each runs in a process group of its own, so Ctrl-C in a terminal reaches
/// only the runner.
#[derive(Debug)]
pub(crate) struct Signals {
    names: mpsc::UnboundedReceiver<&'static str>,
    /// How long running jobs may take to finish after the first one, but for SIGQUIT.
    limit: Option<Duration>,
}

impl Signals {
    pub(crate) fn new(limit: Option<Duration>) -> io::Result<Self> {
        let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGQUIT])?;
        let (send, names) = mpsc::unbounded();
        let thread = thread::Builder::new().name("signals".to_owned());
        thread.spawn(move || {
            for signal in signals.forever() {
                let name = match signal {
                    SIGINT => "SIGINT",
                    SIGTERM => "SIGTERM",
                    _ => "SIGQUIT",
                };
                if send.unbounded_send(name).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { names, limit })
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
        match self.names.next().await {
            Some(name) => name,
            // The thread is gone: there will be none any more.
            None => pending().await,
        }
    }
}
