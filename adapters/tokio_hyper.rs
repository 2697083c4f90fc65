//! The live adapter on tokio, hyper and rustls.
//!
//! Connections are kept and used again; nothing else is remembered between requests. The only
//! thing sent twice is a request whose first connection turned out to be closed before one byte of
//! it was written: the server cannot have seen it, and the pool asks for another connection.
//! System certificates are read when the first `https` request is made, off the async threads.

use std::{error::Error, fmt, io, path::PathBuf, sync::Arc, time::Duration};

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
use rustls::{
    AlertDescription, ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio::{runtime::Handle, sync::OnceCell, time::Instant};

use crate::{
    Time,
    adapter::{
        Adapter, AdapterError, AdapterErrorKind, Body, IDLE_CONNECTION, TransportError,
        TransportErrorKind,
        hyper_common::{BodyError, Name, Outgoing, find, prepare, reply_body},
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
        TokioHyperBuilder {
            authorities: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            idle_timeout: IDLE_CONNECTION,
        }
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
#[derive(Clone)]
#[must_use]
pub struct TokioHyperBuilder {
    authorities: Vec<Authority>,
    connect_timeout: Duration,
    idle_timeout: Duration,
}

impl TokioHyperBuilder {
    /// Trusts the certificates in `pem` besides those of the system. May be repeated.
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.authorities.push(Authority::Pem(pem.into()));
        self
    }

    /// Trusts the certificates in this PEM file besides those of the system. May be repeated.
    ///
    /// The file is read by [`build`](Self::build), once.
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.authorities.push(Authority::File(path.into()));
        self
    }

    /// The longest time to wait for a TCP connection, all addresses of the host together; 10 s by
    /// default. The request's own timeout goes on beside it and covers TLS.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long an unused connection is kept; 60 s by default. Should be less than the server's
    /// own limit (75 s is common), or requests meet connections that close under them.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }

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
        let mut authorities = Vec::new();
        for authority in &self.authorities {
            authority.read_into(&mut authorities)?;
        }
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(self.connect_timeout));
        Ok(TokioHyper {
            inner: Arc::new(Inner {
                handle,
                origin: Instant::now(),
                authorities: authorities.into(),
                http: pool(tcp.clone(), self.idle_timeout),
                https: OnceCell::new(),
                tcp,
                idle_timeout: self.idle_timeout,
            }),
        })
    }
}

impl fmt::Debug for TokioHyperBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokioHyperBuilder")
            .field("extra_authorities", &self.authorities.len())
            .field("connect_timeout", &self.connect_timeout)
            .field("idle_timeout", &self.idle_timeout)
            .finish()
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

/// The bound of a reply's head, and of what is buffered of a body on its way out. In bytes.
const BUFFER: usize = 256 * 1024;
/// Idle connections kept for each server; further ones are closed after use.
const MAX_IDLE: usize = 128;

type Pool<C> = Client<C, Outgoing>;

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

fn pool<C: Connect + Clone>(connector: C, idle_timeout: Duration) -> Pool<C> {
    Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(idle_timeout)
        .pool_max_idle_per_host(MAX_IDLE)
        .http1_max_buf_size(BUFFER)
        // Safe: hyper gives a request back only if it wrote none of it.
        .retry_canceled_requests(true)
        .build(connector)
}

#[derive(Clone)]
enum Authority {
    Pem(Vec<u8>),
    File(PathBuf),
}

impl Authority {
    fn read_into(
        &self,
        authorities: &mut Vec<CertificateDer<'static>>,
    ) -> Result<(), AdapterError> {
        let origin = match self {
            Self::Pem(_) => "the given PEM".to_owned(),
            Self::File(path) => path.display().to_string(),
        };
        let failed = |what: &str| {
            AdapterError::new(
                AdapterErrorKind::Certificate,
                format!("certificate authority in {origin}: {what}"),
            )
        };
        let read;
        let pem = match self {
            Self::Pem(pem) => pem,
            Self::File(path) => {
                read = std::fs::read(path)
                    .map_err(|error| failed("the file cannot be read").with_source(error))?;
                &read
            }
        };
        let before = authorities.len();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate =
                certificate.map_err(|error| failed("this is not PEM").with_source(error))?;
            RootCertStore::empty()
                .add(certificate.clone())
                .map_err(|error| failed("a certificate is broken").with_source(error))?;
            authorities.push(certificate);
        }
        if authorities.len() == before {
            return Err(failed(
                "there is no certificate (`BEGIN CERTIFICATE`) in it",
            ));
        }
        Ok(())
    }
}

/// Blocking: reads the system's certificates.
fn client_config(
    authorities: &[CertificateDer<'static>],
) -> Result<ClientConfig, Box<dyn Error + Send + Sync>> {
    let system = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(system.certs);
    for authority in authorities {
        roots.add(authority.clone())?;
    }
    if roots.is_empty() {
        let mut text = "no certificate authority is trusted: install the system's certificates, \
                        name a bundle in SSL_CERT_FILE, or give one to the adapter's builder"
            .to_owned();
        for error in system.errors {
            text.push_str("; ");
            text.push_str(&error.to_string());
        }
        return Err(text.into());
    }
    // Always an explicit provider: the process may have two, or none, as its default.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

async fn exchange<C>(
    pool: &Pool<C>,
    request: Request<Outgoing>,
    name: Name,
) -> Result<Response<Body>, TransportError>
where
    C: Connect + Clone + Send + Sync + 'static,
{
    let response = pool
        .request(request)
        .await
        .map_err(|error| failure(error, &name))?;
    Ok(response.map(|incoming| reply_body(incoming, name)))
}

fn failure(error: ClientError, name: &Name) -> TransportError {
    use TransportErrorKind::{Body, Broken, Connect, Tls};
    // Both mean that no byte of the request was written.
    let unsent =
        find::<hyper::Error>(&error).is_some_and(|error| error.is_canceled() || error.is_closed());
    let tls = find::<rustls::Error>(&error);
    let (kind, maybe_delivered, what) = if error.is_connect() {
        // Before TLS begins the connector gives its own kind of error, behind it an `io::Error`.
        let handshake = error
            .source()
            .is_some_and(|source| source.is::<io::Error>());
        if tls.is_some() || handshake {
            (Tls, false, "TLS failed for")
        } else {
            (Connect, false, "there is no connection for")
        }
    } else if find::<BodyError>(&error).is_some() {
        (Body, true, "the body could not be read for")
    } else if tls.is_some_and(ends_handshake) {
        // In TLS 1.3 the server refuses our side when ours is long done.
        (Tls, false, "the server refused TLS for")
    } else if unsent {
        (Broken, false, "the connection was closed ahead of")
    } else {
        (Broken, true, "there is no usable reply to")
    };
    TransportError::new(kind, maybe_delivered, format!("{what} {name}")).with_source(error)
}

/// Whether the server never came to read a request: it did not accept the client's certificate.
fn ends_handshake(error: &rustls::Error) -> bool {
    use AlertDescription as Alert;
    matches!(
        error,
        rustls::Error::AlertReceived(
            Alert::CertificateRequired
                | Alert::NoCertificate
                | Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateRevoked
                | Alert::CertificateExpired
                | Alert::CertificateUnknown
                | Alert::UnknownCA
                | Alert::AccessDenied
                | Alert::HandshakeFailure
        )
    )
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
