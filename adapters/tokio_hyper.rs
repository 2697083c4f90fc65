//! The live adapter on tokio, hyper and rustls.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use http::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    runtime::Handle,
    time::Instant,
};
use tokio_rustls::TlsConnector;

use crate::{
    Time,
    adapter::{
        Adapter, AdapterError, AdapterErrorKind, Body, TransportError, hyper_client::Client,
        hyper_net::Net, options::AdapterBuilder, tokio_clock,
    },
};

/// The adapter for programs on tokio. Clones share connections.
///
/// The runtime needs its I/O and time drivers (`enable_all` on tokio's builder; on by default in
/// `#[tokio::main]`). Time is tokio's, so a paused clock moves it too; while a request is on its
/// way, such a clock stands still for up to five seconds of real time, lest it time out at once.
#[derive(Clone)]
pub struct TokioHyper {
    net: TokioNet,
    client: Arc<Client<TokioNet>>,
}

impl TokioHyper {
    /// The adapter with the system's certificate authorities, the proxies of the environment and
    /// default timeouts, for the runtime that this is called in.
    ///
    /// # Errors
    /// `NoRuntime` outside of a tokio runtime; `Proxy` for one in the environment that is none.
    pub fn new() -> Result<Self, AdapterError> {
        Self::builder().build()
    }

    /// An adapter with options.
    pub fn builder() -> AdapterBuilder<Self> {
        AdapterBuilder::new()
    }
}

/// Shows no secrets.
impl fmt::Debug for TokioHyper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokioHyper")
            .field("https_used", &self.client.used_tls())
            .finish_non_exhaustive()
    }
}

impl AdapterBuilder<TokioHyper> {
    /// The adapter, for the runtime that this is called in.
    ///
    /// # Errors
    /// `NoRuntime` outside of a tokio runtime; `Certificate` for a certificate or key that cannot
    /// be read or used; `Proxy` for a proxy that is none.
    pub fn build(self) -> Result<TokioHyper, AdapterError> {
        let handle = Handle::try_current().map_err(|error| {
            AdapterError::new(
                AdapterErrorKind::NoRuntime,
                "not inside a tokio runtime: call from async code that tokio runs, or make the \
                 adapter inside `Runtime::enter` and hand it over",
            )
            .with_source(error)
        })?;
        let net = TokioNet {
            handle,
            origin: Instant::now(),
        };
        let client = Arc::new(Client::new(net.clone(), &self.options)?);
        Ok(TokioHyper { net, client })
    }
}

impl Adapter for TokioHyper {
    fn now(&self) -> Time {
        self.net.now()
    }

    fn sleep_until(&self, deadline: Time) -> BoxFuture<'static, ()> {
        self.net.sleep_until(deadline)
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.net.spawn(task);
    }

    fn unblock(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        self.net.unblock(work)
    }

    fn send(
        &self,
        request: Request<Body>,
    ) -> BoxFuture<'static, Result<Response<Body>, TransportError>> {
        let this = self.clone();
        Box::pin(async move {
            let hold = tokio_clock::hold(&this.net.handle);
            let response = this.client.send(request).await?;
            Ok(response.map(|body| tokio_clock::hold_for(body, hold)))
        })
    }
}

/// A runtime of tokio.
#[derive(Clone)]
struct TokioNet {
    handle: Handle,
    origin: Instant,
}

/// What TCP and TLS have in common.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

impl Net for TokioNet {
    type Stream = TokioIo<Box<dyn Duplex>>;

    fn now(&self) -> Time {
        Time(Instant::now().saturating_duration_since(self.origin))
    }

    fn sleep_until(&self, deadline: Time) -> BoxFuture<'static, ()> {
        // No deadline is too far: tokio's clock cannot hold them all, so the way there is cut.
        const STRIDE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
        let origin = self.origin;
        Box::pin(async move {
            loop {
                let now = Instant::now().saturating_duration_since(origin);
                let left = deadline.since(Time(now));
                if left.is_zero() {
                    return;
                }
                tokio::time::sleep(left.min(STRIDE)).await;
            }
        })
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        drop(self.handle.spawn(task));
    }

    fn unblock(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        let work = self.handle.spawn_blocking(work);
        Box::pin(async move {
            // An error means lost or panicked; either way there is nothing to wait for.
            let _ = work.await;
        })
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<Self::Stream> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(TokioIo::new(Box::new(stream)))
    }

    async fn secure(
        &self,
        tls: Arc<ClientConfig>,
        server: ServerName<'static>,
        stream: Self::Stream,
    ) -> io::Result<Self::Stream> {
        let tls = TlsConnector::from(tls);
        let stream = tls.connect(server, stream.into_inner()).await?;
        Ok(TokioIo::new(Box::new(stream)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn time_is_that_of_tokio() {
        let adapter = TokioHyper::new().unwrap();
        let start = adapter.now();
        let year = Duration::from_secs(365 * 24 * 60 * 60);
        adapter.sleep_until(start + year).await;
        assert_eq!(adapter.now(), start + year);
        // What has passed is over at once.
        adapter.sleep_until(start).await;
        assert_eq!(adapter.now(), start + year);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_moment_never_comes() {
        let adapter = TokioHyper::new().unwrap();
        let never = adapter.sleep_until(Time::MAX);
        let century = Duration::from_secs(100 * 365 * 24 * 60 * 60);
        assert!(tokio::time::timeout(century, never).await.is_err());
    }

    #[tokio::test]
    async fn work_runs_elsewhere_and_a_panic_stays_there() {
        let adapter = TokioHyper::new().unwrap();
        let here = std::thread::current().id();
        let (send, there) = tokio::sync::oneshot::channel();
        adapter
            .unblock(Box::new(move || {
                send.send(std::thread::current().id()).unwrap()
            }))
            .await;
        assert_ne!(there.await.unwrap(), here);
        adapter.unblock(Box::new(|| panic!("on purpose"))).await;

        let (send, done) = tokio::sync::oneshot::channel();
        adapter.spawn(Box::pin(async { panic!("on purpose") }));
        adapter.spawn(Box::pin(async { send.send(()).unwrap() }));
        done.await.unwrap();
    }
}
