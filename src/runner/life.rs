//! What a runner does about itself: verify, unregister, and change its token.

use std::{
    collections::VecDeque,
    fmt,
    future::{self, Future},
    panic::AssertUnwindSafe,
    sync::Arc,
};

use futures::{FutureExt, channel::oneshot, future::BoxFuture};

use super::{
    Runner, RunnerHandle,
    inbox::{Inbox, Message},
    notice,
    shared::{Access, Shared},
};
use crate::{
    adapter::Adapter,
    error::RunError,
    handler::Context,
    machine::{CallOutcome, Input, NewToken, RunnerCall, StopMode},
    protocol::RunnerDetails,
};

/// Stores a new token.
pub(super) type StoreToken =
    Arc<dyn Fn(NewToken) -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// The callback without its types.
pub(super) fn erase<F, Ret, E>(store: F) -> StoreToken
where
    F: Fn(NewToken) -> Ret + Send + Sync + 'static,
    Ret: Future<Output = Result<(), E>> + Send + 'static,
    E: fmt::Display,
{
    let store = Arc::new(store);
    Arc::new(move |token| {
        let store = Arc::clone(&store);
        // Called inside of the future, so that a panic is caught with those of the future.
        Box::pin(async move { store(token).await.map_err(|error| error.to_string()) })
    })
}

impl Runner {
    /// Asks GitLab whether the runner's token is good, and what it knows of the runner. An old
    /// server says no more than that it is.
    ///
    /// # Errors
    /// `TokenRefused` if it is not. When GitLab cannot be asked, after some tries: see
    /// [`RunErrorKind`](crate::RunErrorKind).
    pub async fn verify(&mut self) -> Result<RunnerDetails, RunError> {
        match self.call(RunnerCall::Verify).await? {
            CallOutcome::Verified(details) => Ok(details),
            other => Err(failure(other)),
        }
    }

    /// Deletes what GitLab knows of this runner: of one with an authentication token (`glrt-…`) only
    /// this runner manager, since the runner belongs to who made it and others may share its token;
    /// of one that was [registered](crate::registration) all of it.
    ///
    /// Waits for running jobs first, and also works after the runner was stopped.
    ///
    /// # Errors
    /// `TokenRefused` if GitLab does not know the token. When GitLab cannot be asked, after some
    /// tries: see [`RunErrorKind`](crate::RunErrorKind).
    pub async fn unregister(&mut self) -> Result<(), RunError> {
        let call = if self.current_token().starts_with("glrt-") {
            RunnerCall::UnregisterManager
        } else {
            RunnerCall::Unregister
        };
        self.leave(call).await
    }

    /// Deletes the runner at GitLab, for all that share its token: see
    /// [`unregister`](Self::unregister).
    ///
    /// # Errors
    /// The same ones.
    pub async fn unregister_runner(&mut self) -> Result<(), RunError> {
        self.leave(RunnerCall::Unregister).await
    }

    /// Changes the runner's token, and gives the new one. The old one is dead at once, for all that
    /// share it; this runner goes on with the new one. Store it before anything else: nobody can ask
    /// for it again. If there is a [callback](super::RunnerBuilder::on_token_rotated) for that, it
    /// is called first.
    ///
    /// Once it is under way it is not taken back if the future is dropped.
    ///
    /// # Errors
    /// `TokenRefused` if GitLab does not know the old one. If the answer is lost, so may be the
    /// token: the error says so, and the reset is not tried again.
    pub async fn reset_token(&mut self) -> Result<NewToken, RunError> {
        self.call(RunnerCall::ResetToken).await.and_then(reset)
    }

    async fn leave(&mut self, call: RunnerCall) -> Result<(), RunError> {
        self.drain().await;
        match self.call(call).await? {
            CallOutcome::Unregistered => Ok(()),
            other => Err(failure(other)),
        }
    }

    fn current_token(&self) -> String {
        let token = self.shared.new_token().map(|new| new.token);
        let token = token.as_ref().unwrap_or(&self.settings.token);
        token.expose().to_owned()
    }

    async fn call(&mut self, call: RunnerCall) -> Result<CallOutcome, RunError> {
        let context = Context::current();
        if let Some(inbox) = self.driver(&context).await? {
            match ask(&inbox, call.clone()).await {
                Some(outcome) => return Ok(outcome),
                // It may have been at it.
                None if !self.shared.is_stopped() || call == RunnerCall::ResetToken => {
                    return Err(RunError::driver_gone());
                }
                None => {}
            }
        }
        // The runner has stopped: a driver for this alone.
        let aside = Aside(Arc::new(self.shared.aside()));
        let (adapter, mut config, build_dir) =
            self.settings.prepare(&context, &self.shared).await?;
        config.rotate = false;
        let inbox = self.start(&aside.0, &context, adapter, config, build_dir);
        let inbox = inbox.ok_or_else(RunError::stopped)?;
        let outcome = ask(&inbox, call).await;
        outcome.ok_or_else(RunError::driver_gone)
    }
}

impl RunnerHandle {
    /// The same as [`Runner::reset_token`], while [`Runner::run`] is awaited elsewhere.
    ///
    /// # Errors
    /// The same ones; and `Stopped` if the runner was not started yet, or has stopped.
    pub async fn reset_token(&self) -> Result<NewToken, RunError> {
        let Access::Driver(inbox) = self.shared.access() else {
            return Err(RunError::stopped());
        };
        match ask(&inbox, RunnerCall::ResetToken).await {
            Some(outcome) => reset(outcome),
            None => Err(RunError::driver_gone()),
        }
    }
}

fn reset(outcome: CallOutcome) -> Result<NewToken, RunError> {
    match outcome {
        CallOutcome::TokenReset(token) => Ok(token),
        other => Err(failure(other)),
    }
}

/// `None` if the driver is no more.
pub(super) async fn ask(inbox: &Inbox, call: RunnerCall) -> Option<CallOutcome> {
    let (done, outcome) = oneshot::channel();
    inbox.push(Message::Call(call, done));
    outcome.await.ok()
}

/// What did not come to what it was for.
pub(super) fn failure(outcome: CallOutcome) -> RunError {
    match outcome {
        CallOutcome::VerifyFailed(trouble) => RunError::verify(trouble),
        CallOutcome::RegisterFailed(trouble) => RunError::register(trouble),
        CallOutcome::UnregisterFailed(trouble) => RunError::unregister(trouble),
        CallOutcome::ResetFailed(trouble) => RunError::reset(trouble),
        // The answers come in order, so there is none to another question.
        _ => RunError::driver_gone(),
    }
}

/// What is known of a driver that was started for one call, which ends with this.
pub(super) struct Aside(pub(super) Arc<Shared>);

impl Drop for Aside {
    fn drop(&mut self) {
        self.0.stop(StopMode::Drain);
    }
}

/// The driver's side of it.
pub(super) struct Calls {
    adapter: Arc<dyn Adapter>,
    shared: Arc<Shared>,
    inbox: Arc<Inbox>,
    store: Option<StoreToken>,
    /// In the order in which they will be answered.
    waiting: VecDeque<oneshot::Sender<CallOutcome>>,
}

impl Calls {
    pub(super) fn new(
        adapter: &Arc<dyn Adapter>,
        shared: &Arc<Shared>,
        inbox: &Arc<Inbox>,
        store: &Option<StoreToken>,
    ) -> Self {
        Self {
            adapter: Arc::clone(adapter),
            shared: Arc::clone(shared),
            inbox: Arc::clone(inbox),
            store: store.clone(),
            waiting: VecDeque::new(),
        }
    }

    pub(super) fn begin(&mut self, call: RunnerCall, done: oneshot::Sender<CallOutcome>) -> Input {
        self.waiting.push_back(done);
        Input::Call(call)
    }

    pub(super) fn answer(&mut self, outcome: CallOutcome) {
        let Some(done) = self.waiting.pop_front() else {
            return;
        };
        if let Err(CallOutcome::TokenReset(_) | CallOutcome::Registered { .. }) = done.send(outcome)
            && self.store.is_none()
        {
            notice::trouble_with_runner(
                "GitLab gave a new runner token, and who asked for it has gone: nobody has stored \
                 it",
            );
        }
    }

    /// Lets the user store the token, and tells the machine when it is done.
    pub(super) fn persist(&self, token: NewToken) {
        self.shared.set_token(token.clone());
        let told = |result| Message::Input(Input::TokenPersisted(result));
        let Some(store) = self.store.clone() else {
            // Who asked for it has it in a moment.
            let nobody = || Err("there is no callback that stores it".to_owned());
            let asked = self.waiting.front().map(|_| Ok(()));
            return self.inbox.push(told(asked.unwrap_or_else(nobody)));
        };
        let (inbox, context) = (Arc::clone(&self.inbox), Context::current());
        self.adapter.spawn(Box::pin(async move {
            let mut work = AssertUnwindSafe(store(token)).catch_unwind();
            let work = future::poll_fn(|cx| context.run(|| work.poll_unpin(cx)));
            let panicked = |_| Err("the callback that stores it panicked".to_owned());
            let result = work.await.unwrap_or_else(panicked);
            inbox.push(told(result));
        }));
    }
}
