//! What the adapters on hyper need of their runtime.

use std::{future::Future, io, net::SocketAddr, sync::Arc};

use futures::future::BoxFuture;
use hyper::rt;
use rustls::{ClientConfig, pki_types::ServerName};

use crate::Time;

/// A runtime and its sockets. The first four methods are those of an [`Adapter`](super::Adapter).
pub(super) trait Net: Clone + Send + Sync + 'static {
    /// A connection, with or without TLS.
    type Stream: rt::Read + rt::Write + Send + Unpin + 'static;

    fn now(&self) -> Time;

    fn sleep_until(&self, deadline: Time) -> BoxFuture<'static, ()>;

    fn spawn(&self, task: BoxFuture<'static, ()>);

    fn unblock(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()>;

    /// Connects, and lets no small piece wait for others.
    fn connect(&self, address: SocketAddr)
    -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// TLS over `stream`.
    fn secure(
        &self,
        tls: Arc<ClientConfig>,
        server: ServerName<'static>,
        stream: Self::Stream,
    ) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// The result of work that may block. An error if it was lost with the runtime.
pub(super) async fn unblock<T: Send + 'static>(
    net: &impl Net,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (done, result) = futures::channel::oneshot::channel();
    net.unblock(Box::new(move || drop(done.send(work())))).await;
    result
        .await
        .map_err(|_| io::Error::other("the runtime is going away"))
}
