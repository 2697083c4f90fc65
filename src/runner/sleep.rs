//! How the driver waits.

use std::{future, sync::Arc, task::Poll};

use futures::future::BoxFuture;

use super::inbox::Inbox;
use crate::{Time, adapter::Adapter, artifact::yield_now};

/// After so many turns in a row the other tasks of its thread have theirs. A request that wakes
/// itself gets on only then.
const TURNS: u32 = 32;

/// The pauses between the turns of a driver.
pub(super) struct Sleep {
    adapter: Arc<dyn Adapter>,
    inbox: Arc<Inbox>,
    timer: Option<(Time, BoxFuture<'static, ()>)>,
    /// Since it last had to wait.
    turns: u32,
}

impl Sleep {
    pub(super) fn new(adapter: &Arc<dyn Adapter>, inbox: &Arc<Inbox>) -> Self {
        Self {
            adapter: Arc::clone(adapter),
            inbox: Arc::clone(inbox),
            timer: None,
            turns: 0,
        }
    }

    /// Until there is a message, or this time has come. It may be over before.
    pub(super) async fn until(&mut self, deadline: Option<Time>) {
        if self.turns == TURNS {
            self.turns = 0;
            yield_now().await;
        }
        // To wake early once costs less than a timer for each deadline that is put off.
        let set = self.timer.as_ref().map(|(at, _)| *at);
        match deadline {
            Some(deadline) if set.is_none_or(|at| deadline < at) => {
                self.timer = Some((deadline, self.adapter.sleep_until(deadline)));
            }
            Some(_) => {}
            None => self.timer = None,
        }
        future::poll_fn(|cx| {
            if self.inbox.poll_message(cx.waker()).is_ready() {
                self.turns += 1;
                return Poll::Ready(());
            }
            self.turns = 0;
            if let Some((_, timer)) = &mut self.timer
                && timer.as_mut().poll(cx).is_ready()
            {
                // It must not be polled again.
                self.timer = None;
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
    }
}
