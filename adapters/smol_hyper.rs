//! The live adapter on smol, hyper and rustls.
//!
//! Connections are kept and used again; nothing else is remembered between requests. The only
//! thing sent twice is a request whose first connection turned out to be closed before one byte of
//! it was written: hyper gives it back, and it goes out on another one.
//! System certificates are read when the first `https` request is made, off the async threads.

use std::{
    fmt, io,
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use futures::{
    FutureExt, StreamExt,
    channel::oneshot,
    future::{self, BoxFuture, Either},
    io::{AsyncRead, AsyncWrite},
    stream,
};
use futures_rustls::TlsConnector;
use http::{HeaderValue, Request, Response, Uri, header::HOST};
use hyper::{body::Incoming, client::conn::http1, rt};
use rustls::pki_types::{CertificateDer, ServerName};
use smol::{Timer, lock::OnceCell, net::TcpStream};

use crate::{
    Time,
    adapter::{
        Adapter, AdapterError, Body, TransportError, TransportErrorKind,
        common::{Name, Outgoing, prepare},
        hyper_reply::{BUFFER, failure, reply_body},
        last_word::LastWord,
        options::{Options, builder_options},
        smol_pool::{Connection, Place, Pool},
        tls::client_config,
    },
};

/// The adapter for programs on smol. Clones share connections.
///
/// Tasks run on smol's global executor, whose threads start when they are first needed and are as
/// many as the environment variable `SMOL_THREADS` says (one if it says nothing). It can be used
/// from any async code, also of another runtime.
#[derive(Clone)]
pub struct SmolHyper {
    inner: Arc<Inner>,
}

impl SmolHyper {
    /// The adapter with the system's certificate authorities and default timeouts.
    pub fn new() -> Self {
        Self::from_options(&Options::default(), Arc::default())
    }

    /// An adapter with options.
    pub fn builder() -> SmolHyperBuilder {
        SmolHyperBuilder::default()
    }

    fn from_options(options: &Options, authorities: Arc<[CertificateDer<'static>]>) -> Self {
        Self {
            inner: Arc::new(Inner {
                origin: Instant::now(),
                authorities,
                tls: OnceCell::new(),
                pool: Pool::new(options.idle_timeout),
                connect_timeout: options.connect_timeout,
            }),
        }
    }
}

impl Default for SmolHyper {
    fn default() -> Self {
        Self::new()
    }
}

/// Shows options only.
impl fmt::Debug for SmolHyper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SmolHyper")
            .field("extra_authorities", &self.inner.authorities.len())
            .field("https_used", &self.inner.tls.is_initialized())
            .finish_non_exhaustive()
    }
}

/// Options of a [`SmolHyper`].
#[derive(Clone, Default)]
#[must_use]
pub struct SmolHyperBuilder {
    options: Options,
}

builder_options!(SmolHyperBuilder);

impl SmolHyperBuilder {
    /// The adapter.
    ///
    /// # Errors
    /// `Certificate` for a certificate authority that cannot be read, holds no certificate or a
    /// broken one.
    pub fn build(self) -> Result<SmolHyper, AdapterError> {
        let authorities = self.options.read_authorities()?;
        Ok(SmolHyper::from_options(&self.options, authorities))
    }
}

impl Adapter for SmolHyper {
    fn now(&self) -> Time {
        Time(self.inner.origin.elapsed())
    }

    fn sleep_until(&self, deadline: Time) -> BoxFuture<'static, ()> {
        let timer = match self.inner.origin.checked_add(deadline.since_origin()) {
            Some(deadline) => Timer::at(deadline),
            None => Timer::never(),
        };
        Box::pin(async {
            timer.await;
        })
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        smol::spawn(AssertUnwindSafe(task).catch_unwind()).detach();
    }

    fn unblock(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        let (done, over) = oneshot::channel::<()>();
        // Detached, as it shall be done even if nobody waits.
        smol::unblock(move || {
            let _done = done;
            // A panic was printed when it happened; there is nobody else to tell.
            let _ = std::panic::catch_unwind(AssertUnwindSafe(work));
        })
        .detach();
        Box::pin(over.map(drop))
    }

    fn send(
        &self,
        request: Request<Body>,
    ) -> BoxFuture<'static, Result<Response<Body>, TransportError>> {
        let inner = self.inner.clone();
        Box::pin(async move {
            let name = Name::of(&request);
            let (request, secure) = prepare(request, &name)?;
            let (mut request, target) = Target::of(request, secure);
            loop {
                let kept = inner.pool.take(&target.place);
                let reused = kept.is_some();
                let mut connection = match kept {
                    Some(connection) => connection,
                    None => inner.connect(&target, &name).await?,
                };
                let reply = connection.sender.try_send_request(request);
                let (reply, connection) =
                    match future::select(pin!(reply), &mut connection.ended).await {
                        Either::Left((reply, _)) => (reply, Some(connection)),
                        Either::Right((_, reply)) => {
                            // A request that crossed the end of its connection stays in between until
                            // both sides are gone.
                            drop(connection);
                            (reply.await, None)
                        }
                    };
                match reply {
                    Ok(reply) => {
                        let keep = move || {
                            if let Some(connection) = connection {
                                inner.pool.put(target.place, connection);
                            }
                        };
                        return Ok(reply.map(|incoming| kept_body(incoming, name, keep)));
                    }
                    Err(mut error) => match error.take_message() {
                        Some(unsent) if reused => request = unsent,
                        unsent => {
                            return Err(failure(error.into_error(), unsent.is_some(), &name));
                        }
                    },
                }
            }
        })
    }
}

struct Inner {
    origin: Instant,
    authorities: Arc<[CertificateDer<'static>]>,
    tls: OnceCell<TlsConnector>,
    pool: Arc<Pool>,
    connect_timeout: Duration,
}

impl Inner {
    async fn connect(&self, target: &Target, name: &Name) -> Result<Connection, TransportError> {
        let tcp = self.tcp(target).await.map_err(|error| {
            let detail = format!("there is no connection for {name}");
            TransportError::new(TransportErrorKind::Connect, false, detail).with_source(error)
        })?;
        if !target.secure {
            return handshake(tcp, name).await;
        }
        let refused = |error: io::Error| {
            let detail = format!("TLS failed for {name}");
            TransportError::new(TransportErrorKind::Tls, false, detail).with_source(error)
        };
        let server = ServerName::try_from(target.host.clone())
            .map_err(|error| refused(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let tls = self.tls(name).await?;
        handshake(tls.connect(server, tcp).await.map_err(refused)?, name).await
    }

    async fn tcp(&self, target: &Target) -> io::Result<TcpStream> {
        let connect = TcpStream::connect((target.host.as_str(), target.port));
        let late = async {
            Timer::after(self.connect_timeout).await;
            Err(io::ErrorKind::TimedOut.into())
        };
        let tcp = smol::future::or(connect, late).await?;
        tcp.set_nodelay(true)?;
        Ok(tcp)
    }

    /// TLS, which is set up when it is first needed: a user of http only should neither read the
    /// system's certificates nor fail for want of them.
    async fn tls(&self, name: &Name) -> Result<&TlsConnector, TransportError> {
        self.tls
            .get_or_try_init(|| async {
                let authorities = self.authorities.clone();
                let config = smol::unblock(move || client_config(&authorities))
                    .await
                    .map_err(|error| {
                        let detail = format!("TLS could not be set up for {name}");
                        TransportError::new(TransportErrorKind::Tls, false, detail)
                            .with_source(error)
                    })?;
                Ok(TlsConnector::from(Arc::new(config)))
            })
            .await
    }
}

/// Where a request goes.
struct Target {
    place: Place,
    /// Without the brackets of an IPv6 address.
    host: String,
    port: u16,
    secure: bool,
}

impl Target {
    /// The request as it stands on the wire, and where it goes.
    fn of(mut request: Request<Outgoing>, secure: bool) -> (Request<Outgoing>, Self) {
        let uri = std::mem::take(request.uri_mut());
        let host = uri.host().unwrap_or_default().to_ascii_lowercase();
        let default = if secure { 443 } else { 80 };
        let port = uri.port_u16().unwrap_or(default);
        let scheme = if secure { "https" } else { "http" };
        let target = Self {
            place: format!("{scheme}://{host}:{port}").into(),
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
            secure,
        };
        if !request.headers().contains_key(HOST) {
            let value = match port == default {
                true => host,
                false => format!("{host}:{port}"),
            };
            // A host of a URI can stand in a header.
            if let Ok(value) = HeaderValue::try_from(value) {
                request.headers_mut().insert(HOST, value);
            }
        }
        if let Some(path) = uri.path_and_query().cloned() {
            *request.uri_mut() = Uri::from(path);
        }
        (request, target)
    }
}

async fn handshake(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    name: &Name,
) -> Result<Connection, TransportError> {
    let (sender, exchanges) = http1::Builder::new()
        .max_buf_size(BUFFER)
        .handshake(LastWord::new(Io(stream)))
        .await
        .map_err(|error| failure(error, true, name))?;
    let (end, ended) = oneshot::channel();
    // Ends when the last sender is dropped. Errors are those of the request.
    smol::spawn(async move {
        let _end = end;
        drop(exchanges.await);
    })
    .detach();
    Ok(Connection { sender, ended })
}

/// The body, which calls `keep` at its end.
fn kept_body(incoming: Incoming, name: Name, keep: impl FnOnce() + Send + 'static) -> Body {
    match reply_body(incoming, name) {
        Body::Stream { len, chunks } => {
            let end = stream::once(async move {
                keep();
                None
            });
            // A body that broke off has ended its connection, too.
            let chunks = chunks.map(Some).chain(end).filter_map(std::future::ready);
            Body::Stream {
                len,
                chunks: chunks.boxed(),
            }
        }
        body => {
            keep();
            body
        }
    }
}

/// A stream of `futures` as hyper takes it.
struct Io<S>(S);

impl<S: AsyncRead + Unpin> rt::Read for Io<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        // Read to the stack and copied: hyper's buffer has no initialized bytes to read into.
        let mut block = [0; 16 * 1024];
        let wanted = buffer.remaining().min(block.len());
        let read = ready!(Pin::new(&mut self.0).poll_read(cx, &mut block[..wanted]))?;
        buffer.put_slice(&block[..read]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> rt::Write for Io<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_close(cx)
    }
}
