//! The user's closure and handler without their types.

use std::{future::Future, marker::PhantomData};

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::collect::Collector;
use crate::{
    artifact::Packed,
    handler::{CancellableJobHandler, Context, Job, JobResult, Phase, UploadableFile},
};

/// A handler without its type.
pub(super) trait Handler: Send {
    fn step<'a>(
        &'a mut self,
        script: &'a [String],
        phase: Phase,
        cancel_token: &'a CancellationToken,
    ) -> BoxFuture<'a, JobResult>;

    /// Packs those of its files that `collector` wants.
    fn collect(&mut self, collector: Collector) -> BoxFuture<'_, Result<Option<Packed>, ()>>;

    fn cleanup(&mut self) -> BoxFuture<'_, ()>;
}

/// Makes the handler for one job.
pub(super) type Make =
    Box<dyn FnOnce(Job) -> BoxFuture<'static, Result<Box<dyn Handler>, ()>> + Send>;

/// A maker of handlers, and the context in which it was given to the runner.
pub(super) struct Process<M> {
    pub(super) make: M,
    pub(super) context: Context,
}

/// The closure of one job.
pub(super) fn erase<F, J, U, Ret>(process: F) -> Make
where
    F: FnOnce(Job) -> Ret + Send + 'static,
    Ret: Future<Output = Result<J, ()>> + Send + 'static,
    J: CancellableJobHandler<U> + Send + 'static,
    U: UploadableFile + Send + 'static,
{
    Box::new(move |job| {
        // Called inside of the future, so that a panic is caught with those of the future.
        Box::pin(async move {
            let handler = process(job).await?;
            Ok(Box::new(Typed(handler, PhantomData)) as Box<dyn Handler>)
        })
    })
}

/// A handler with its type, of which `U` would otherwise be unknown.
struct Typed<J, U>(J, PhantomData<fn() -> U>);

impl<J, U> Handler for Typed<J, U>
where
    J: CancellableJobHandler<U> + Send,
    U: UploadableFile + Send + 'static,
{
    fn step<'a>(
        &'a mut self,
        script: &'a [String],
        phase: Phase,
        cancel_token: &'a CancellationToken,
    ) -> BoxFuture<'a, JobResult> {
        self.0.step(script, phase, cancel_token)
    }

    fn collect(&mut self, collector: Collector) -> BoxFuture<'_, Result<Option<Packed>, ()>> {
        Box::pin(async move {
            let files = self.0.get_uploadable_files().await;
            collector.pack(files).await
        })
    }

    fn cleanup(&mut self) -> BoxFuture<'_, ()> {
        self.0.cleanup()
    }
}
