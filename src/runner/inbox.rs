//! What the driver is told, and how it is woken.

use std::{
    fmt,
    sync::{Arc, Mutex},
    task::{Poll, Waker},
};

use futures::{channel::oneshot, task::AtomicWaker};

use super::process::{Make, Process};
use crate::{
    error::RunError,
    handler::Fetched,
    ids::{DownloadId, JobId, RequestId},
    machine::{CallOutcome, Input, JobInput, RunnerCall},
    spool::SpoolFile,
    sync::lock,
};

/// Messages from everywhere to the one driver. There is one outstanding answer for each request and
/// each job, so it holds no more than a few messages for each.
#[derive(Default)]
pub(super) struct Inbox {
    state: Mutex<State>,
    driver: AtomicWaker,
}

#[derive(Default)]
struct State {
    messages: Vec<Message>,
    closed: bool,
}

/// One thing for the driver to know.
pub(super) enum Message {
    /// Straight for the machine.
    Input(Input),
    /// The request in this slot can go on.
    Ready(usize),
    /// The reply to a download is in this file.
    Spooled {
        request: RequestId,
        download: DownloadId,
        file: Arc<SpoolFile>,
    },
    /// The handler of a job wants the artifacts of another one.
    Download {
        job: JobId,
        download: DownloadId,
        dependency: JobId,
        done: oneshot::Sender<Fetched>,
    },
    /// It does not want them any more.
    DownloadDropped { job: JobId, download: DownloadId },
    /// There are new bytes in a log whose last bytes the driver knew of.
    LogGrew(JobId),
    /// Too much of a log is in memory.
    LogSwelled(JobId),
    /// `Runner::run`.
    Run(RunCall),
    /// The future of this `Runner::run` was dropped.
    RunDropped(u64),
    /// `Runner::request_job`.
    RequestJob(RequestCall),
    /// The future of a `Runner::request_job` was dropped.
    RequestDropped,
    /// `RunnerHandle::set_capacity`.
    Capacity(usize),
    /// Something about the runner itself, and who wants it.
    Call(RunnerCall, oneshot::Sender<CallOutcome>),
    /// `Runner::wait_for_space` and `Runner::drain`.
    Wait(Waiter),
}

/// One call of `Runner::run`.
pub(super) struct RunCall {
    pub(super) number: u64,
    pub(super) capacity: usize,
    pub(super) process: Process<Box<dyn Fn() -> Make + Send>>,
    pub(super) done: oneshot::Sender<Result<(), RunError>>,
}

/// One call of `Runner::request_job`.
pub(super) struct RequestCall {
    pub(super) process: Process<Make>,
    pub(super) done: oneshot::Sender<Result<bool, RunError>>,
}

/// Who waits for jobs to end.
pub(super) struct Waiter {
    /// Until there are fewer jobs than this; `None` is until there is nothing left at all, not even
    /// a request that may bring a job.
    pub(super) below: Option<usize>,
    pub(super) done: oneshot::Sender<()>,
}

impl Inbox {
    /// Tells the driver. What comes after its end is dropped.
    pub(super) fn push(&self, message: Message) {
        let late = {
            let mut state = lock(&self.state);
            if state.closed {
                Some(message)
            } else {
                state.messages.push(message);
                None
            }
        };
        // Outside of the lock: a closure of the user may go with it.
        drop(late);
        self.driver.wake();
    }

    pub(super) fn job(&self, job: JobId, input: JobInput) {
        self.push(Message::Input(Input::Job { job, input }));
    }

    /// Swaps all messages into `into`, which is empty. The driver is awake, and looks for more
    /// before it sleeps: those that come until then need not wake it.
    pub(super) fn take(&self, into: &mut Vec<Message>) {
        self.driver.take();
        std::mem::swap(&mut lock(&self.state).messages, into);
    }

    /// Ready when there is a message; `waker` is woken by the next one.
    pub(super) fn poll_message(&self, waker: &Waker) -> Poll<()> {
        self.driver.register(waker);
        if lock(&self.state).messages.is_empty() {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }

    /// Takes no more messages.
    pub(super) fn close(&self) {
        let messages = {
            let mut state = lock(&self.state);
            state.closed = true;
            std::mem::take(&mut state.messages)
        };
        drop(messages);
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.state);
        f.debug_struct("Inbox")
            .field("messages", &state.messages.len())
            .field("closed", &state.closed)
            .finish()
    }
}
