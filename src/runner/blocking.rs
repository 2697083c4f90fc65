//! Work on files, on a few threads at a time.
//!
//! Each job needs a little of it at its start and its end. Handed to the runtime piece by piece, it
//! would occupy as many threads as there are jobs, and wake one for each piece.

use std::{
    collections::VecDeque,
    panic::{self, AssertUnwindSafe},
    sync::{Arc, Mutex},
};

use futures::{
    channel::oneshot,
    future::{BoxFuture, Either, select},
};

use crate::{adapter::Adapter, sync::lock};

/// A queue, and the threads that work it off.
pub(super) struct Blocking {
    adapter: Arc<dyn Adapter>,
    /// At the most.
    threads: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Box<dyn FnOnce() + Send>>,
    threads: usize,
}

impl Blocking {
    /// No more than `threads` at a time.
    pub(super) fn new(adapter: Arc<dyn Adapter>, threads: usize) -> Arc<Self> {
        Arc::new(Self {
            adapter,
            threads,
            state: Mutex::default(),
        })
    }

    /// Does `work` some time.
    pub(super) fn spawn(self: &Arc<Self>, work: impl FnOnce() + Send + 'static) {
        if let Some(thread) = self.queue(work) {
            self.adapter.spawn(thread);
        }
    }

    /// Another thread, if there may be one more.
    fn queue(
        self: &Arc<Self>,
        work: impl FnOnce() + Send + 'static,
    ) -> Option<BoxFuture<'static, ()>> {
        {
            let mut state = lock(&self.state);
            state.queue.push_back(Box::new(work));
            if state.threads == self.threads {
                return None;
            }
            state.threads += 1;
        }
        let this = Arc::clone(self);
        Some(self.adapter.unblock(Box::new(move || this.work_off())))
    }

    /// The result of `work`; `None` if it panicked, or was lost with the runtime.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (done, result) = oneshot::channel();
        let thread = self.queue(move || {
            // Who has gone does not want to know.
            let _ = done.send(work());
        });
        match thread {
            // A task of its own for the thread would only be one more to wake.
            Some(thread) => match select(result, thread).await {
                Either::Left((result, _)) => result.ok(),
                Either::Right(((), result)) => result.await.ok(),
            },
            None => result.await.ok(),
        }
    }

    fn work_off(&self) {
        while let Some(work) = self.next() {
            // What it was for hears of it by the sender that is dropped.
            let _ = panic::catch_unwind(AssertUnwindSafe(work));
        }
    }

    fn next(&self) -> Option<Box<dyn FnOnce() + Send>> {
        let mut state = lock(&self.state);
        let next = state.queue.pop_front();
        if next.is_none() {
            state.threads -= 1;
        }
        next
    }
}
