//! The live adapter on tokio, hyper and rustls.
//!
//! Connections are kept and used again; nothing else is remembered between requests. The only
//! thing sent twice is a request whose first connection turned out to be closed before one byte of
//! it was written: the server cannot have seen it, and the pool asks for another connection.
//! System certificates are read when the first `https` request is made, off the async threads.

use std::{error::Error, fmt, io, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use http::{Request, Response};
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{
        Client, Error as ClientError,
        connect::{Connect, HttpConnector},
    },
    rt::{TokioExecutor, TokioTimer},
};
use rustls::pki_types::CertificateDer;
use tokio::{runtime::Handle, sync::OnceCell, time::Instant};

use crate::{
    Time,
    adapter::{
        Adapter, AdapterError, AdapterErrorKind, Body, TransportError, TransportErrorKind,
        common::{MAX_IDLE, Name, Outgoing, prepare},
        hyper_reply::{self, BUFFER, find, reply_body},
        last_word::LastWords,
        options::{Options, builder_options},
        tls::client_config,
        tokio_clock,
    },
};

/// The adapter for programs on tokio. Clones share connections.
///
/// The runtime needs its I/O and time drivers (`enable_all` on tokio's builder; on by default in
/// `#[tokio::main]`). Time is tokio's, so a paused clock moves it too; while a request is on its
/// way, such a clock stands still for up to five seconds of real time, lest it time out at once.
#[derive(Clone)]
pub struct TokioHyper {
    inner: Arc<Inner>,
}

impl TokioHyper {
    /// The adapter with the system's certificate authorities and default timeouts, for the runtime
    /// that this is called in.
    ///
    /// # Errors
    /// `NoRuntime` outside of a tokio runtime.
    pub fn new() -> Result<Self, AdapterError> {
        Self::builder().build()
    }

    /// An adapter with options.
    pub fn builder() -> TokioHyperBuilder {
        TokioHyperBuilder::default()
    }
}

/// Shows options only.
impl fmt::Debug for TokioHyper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokioHyper")
            .field("extra_authorities", &self.inner.authorities.len())
            .field("https_used", &self.inner.https.initialized())
            .finish_non_exhaustive()
    }
}

/// Options of a [`TokioHyper`].
#[derive(Clone, Default)]
#[must_use]
pub struct TokioHyperBuilder {
    options: Options,
}

builder_options!(TokioHyperBuilder);

impl TokioHyperBuilder {
    /// The adapter, for the runtime that this is called in.
    ///
    /// # Errors
    /// `NoRuntime` outside of a tokio runtime; `Certificate` for a certificate authority that
    /// cannot be read, holds no certificate or a broken one.
    pub fn build(self) -> Result<TokioHyper, AdapterError> {
        let handle = Handle::try_current().map_err(|error| {
            AdapterError::new(
                AdapterErrorKind::NoRuntime,
                "not inside a tokio runtime: call from async code that tokio runs, or make the \
                 adapter inside `Runtime::enter` and hand it over",
            )
            .with_source(error)
        })?;
        let Options {
            connect_timeout,
            idle_timeout,
            ..
        } = self.options;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(connect_timeout));
        Ok(TokioHyper {
            inner: Arc::new(Inner {
                handle,
                origin: Instant::now(),
                authorities: self.options.read_authorities()?,
                http: pool(tcp.clone(), idle_timeout),
                https: OnceCell::new(),
                tcp,
                idle_timeout,
            }),
        })
    }
}

impl Adapter for TokioHyper {
    fn now(&self) -> Time {
        Time(Instant::now().saturating_duration_since(self.inner.origin))
    }

    fn sleep_until(&self, deadline: Time) -> BoxFuture<'static, ()> {
        // No deadline is too far: tokio's clock cannot hold them all, so the way there is cut.
        const STRIDE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
        let adapter = self.clone();
        Box::pin(async move {
            loop {
                let left = deadline.since(adapter.now());
                if left.is_zero() {
                    return;
                }
                tokio::time::sleep(left.min(STRIDE)).await;
            }
        })
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        drop(self.inner.handle.spawn(task));
    }

    fn unblock(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        let work = self.inner.handle.spawn_blocking(work);
        Box::pin(async move {
            // An error means lost or panicked; either way there is nothing to wait for.
            let _ = work.await;
        })
    }

    fn send(
        &self,
        request: Request<Body>,
    ) -> BoxFuture<'static, Result<Response<Body>, TransportError>> {
        let inner = self.inner.clone();
        Box::pin(async move {
            let name = Name::of(&request);
            let (request, secure) = prepare(request, &name)?;
            let hold = tokio_clock::hold(&inner.handle);
            let response = if secure {
                exchange(inner.https(&name).await?, request, name).await
            } else {
                exchange(&inner.http, request, name).await
            }?;
            Ok(response.map(|body| tokio_clock::hold_for(body, hold)))
        })
    }
}

type Pool<C> = Client<LastWords<C>, Outgoing>;

struct Inner {
    handle: Handle,
    origin: Instant,
    authorities: Arc<[CertificateDer<'static>]>,
    http: Pool<HttpConnector>,
    https: OnceCell<Pool<HttpsConnector<HttpConnector>>>,
    tcp: HttpConnector,
    idle_timeout: Duration,
}

impl Inner {
    /// The pool for https, which is made when it is first needed: a user of http only should
    /// neither read the system's certificates nor fail for want of them.
    async fn https(
        &self,
        name: &Name,
    ) -> Result<&Pool<HttpsConnector<HttpConnector>>, TransportError> {
        self.https
            .get_or_try_init(|| async {
                let authorities = self.authorities.clone();
                let config = self
                    .handle
                    .spawn_blocking(move || client_config(&authorities))
                    .await
                    .unwrap_or_else(|lost| Err(lost.into()))
                    .map_err(|error| {
                        TransportError::new(
                            TransportErrorKind::Tls,
                            false,
                            format!("TLS could not be set up for {name}"),
                        )
                        .with_source(error)
                    })?;
                Ok(pool(
                    HttpsConnector::from((self.tcp.clone(), config)),
                    self.idle_timeout,
                ))
            })
            .await
    }
}

fn pool<C>(connector: C, idle_timeout: Duration) -> Pool<C>
where
    LastWords<C>: Connect + Clone,
{
    Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(idle_timeout)
        .pool_max_idle_per_host(MAX_IDLE)
        .http1_max_buf_size(BUFFER)
        // Safe: hyper gives a request back only if it wrote none of it.
        .retry_canceled_requests(true)
        .build(LastWords(connector))
}

async fn exchange<C>(
    pool: &Pool<C>,
    request: Request<Outgoing>,
    name: Name,
) -> Result<Response<Body>, TransportError>
where
    LastWords<C>: Connect + Clone + Send + Sync + 'static,
{
    let response = pool
        .request(request)
        .await
        .map_err(|error| failure(error, &name))?;
    Ok(response.map(|incoming| reply_body(incoming, name)))
}

fn failure(error: ClientError, name: &Name) -> TransportError {
    use TransportErrorKind::{Connect, Tls};
    if !error.is_connect() {
        // Both mean that no byte of the request was written.
        let unsent = find::<hyper::Error>(&error)
            .is_some_and(|error| error.is_canceled() || error.is_closed());
        return hyper_reply::failure(error, unsent, name);
    }
    // Before TLS begins the connector gives its own kind of error, behind it an `io::Error`.
    let handshake = error
        .source()
        .is_some_and(|source| source.is::<io::Error>());
    let (kind, what) = if handshake || find::<rustls::Error>(&error).is_some() {
        (Tls, "TLS failed for")
    } else {
        (Connect, "there is no connection for")
    };
    TransportError::new(kind, false, format!("{what} {name}")).with_source(error)
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
