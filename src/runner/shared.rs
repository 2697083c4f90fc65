//! What a runner, its handles and its driver know of each other.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use super::{
    inbox::{Inbox, Message},
    notice,
};
use crate::{
    machine::{Input, NewToken, StopMode},
    sync::lock,
};

#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Jobs whose end GitLab does not know of.
    running: AtomicUsize,
    control: Mutex<Control>,
    /// What GitLab gave in the place of the token that the runner was made with.
    token: Arc<Mutex<Option<NewToken>>>,
}

#[derive(Debug, Default)]
struct Control {
    /// Of the driver, while there is one.
    inbox: Option<Arc<Inbox>>,
    stop: Option<StopMode>,
    stopped: bool,
    /// Takes the place of the next `run`'s maximum.
    capacity: Option<usize>,
}

/// Whether a call can go on.
pub(super) enum Access {
    /// There is a driver.
    Driver(Arc<Inbox>),
    /// One has to be started.
    None,
    /// The runner has stopped for good.
    Stopped,
}

impl Shared {
    /// For another driver of the same runner.
    pub(super) fn aside(&self) -> Self {
        Self {
            token: Arc::clone(&self.token),
            ..Self::default()
        }
    }

    pub(super) fn new_token(&self) -> Option<NewToken> {
        lock(&self.token).clone()
    }

    pub(super) fn set_token(&self, token: NewToken) {
        *lock(&self.token) = Some(token);
    }

    pub(super) fn access(&self) -> Access {
        let control = lock(&self.control);
        match &control.inbox {
            _ if control.stopped => Access::Stopped,
            Some(inbox) => Access::Driver(Arc::clone(inbox)),
            None => Access::None,
        }
    }

    /// A driver is about to be started. False if the runner was stopped.
    pub(super) fn driver_starts(&self, inbox: &Arc<Inbox>) -> bool {
        let mut control = lock(&self.control);
        if !control.stopped {
            control.inbox = Some(Arc::clone(inbox));
        }
        !control.stopped
    }

    /// The driver is no more: it has stopped, or its runtime is gone.
    pub(super) fn driver_ended(&self, inbox: &Arc<Inbox>, stopped: bool) {
        {
            let mut control = lock(&self.control);
            control.inbox = None;
            // With the runtime everything is gone that was to be waited for.
            control.stopped = stopped || control.stop.is_some();
        }
        inbox.close();
        let lost = self.running.swap(0, Ordering::AcqRel);
        if lost > 0 {
            notice::jobs_lost(lost);
        }
    }

    pub(super) fn stop(&self, mode: StopMode) {
        let mut control = lock(&self.control);
        if control.stop == Some(StopMode::Abort) || control.stop == Some(mode) {
            return;
        }
        control.stop = Some(mode);
        match &control.inbox {
            Some(inbox) => inbox.push(Message::Input(Input::Stop(mode))),
            None => control.stopped = true,
        }
    }

    pub(super) fn set_capacity(&self, capacity: usize) {
        let mut control = lock(&self.control);
        match &control.inbox {
            Some(inbox) => inbox.push(Message::Capacity(capacity)),
            None => control.capacity = Some(capacity),
        }
    }

    /// For the next `run`.
    pub(super) fn keep_capacity(&self, capacity: usize) {
        lock(&self.control).capacity = Some(capacity);
    }

    pub(super) fn take_capacity(&self) -> Option<usize> {
        lock(&self.control).capacity.take()
    }

    pub(super) fn set_running(&self, jobs: usize) {
        self.running.store(jobs, Ordering::Release);
    }

    pub(super) fn running(&self) -> usize {
        self.running.load(Ordering::Acquire)
    }

    pub(super) fn is_stopped(&self) -> bool {
        lock(&self.control).stopped
    }
}
