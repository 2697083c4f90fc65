//! The live adapter on smol, hyper and rustls.

use std::{
    fmt, io,
    net::SocketAddr,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use futures::{
    FutureExt,
    future::BoxFuture,
    io::{AsyncRead, AsyncWrite},
};
use futures_rustls::TlsConnector;
use http::{Request, Response};
use hyper::rt;
use rustls::{ClientConfig, pki_types::ServerName};
use smol::{Timer, net::TcpStream};

use crate::{
    Time,
    adapter::{
        Adapter, AdapterError, Body, TransportError, common::contained, hyper_client::Client,
        hyper_net::Net, options::AdapterBuilder,
    },
};

/// The adapter for programs on smol. Clones share connections.
///
/// Tasks run on smol's global executor, whose threads start when they are first needed and are as
/// many as the environment variable `SMOL_THREADS` says (one if it says nothing). It can be used
/// from any async code, also of another runtime.
#[derive(Clone)]
pub struct SmolHyper {
    net: SmolNet,
    client: Arc<Client<SmolNet>>,
}

impl SmolHyper {
    /// The adapter with the system's certificate authorities, the proxies of the environment and
    /// default timeouts.
    ///
    /// # Errors
    /// `Proxy` for one in the environment that is none.
    pub fn new() -> Result<Self, AdapterError> {
        Self::builder().build()
    }

    /// An adapter with options.
    pub fn builder() -> AdapterBuilder<Self> {
        AdapterBuilder::new()
    }
}

/// Shows no secrets.
impl fmt::Debug for SmolHyper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SmolHyper")
            .field("https_used", &self.client.used_tls())
            .finish_non_exhaustive()
    }
}

impl AdapterBuilder<SmolHyper> {
    /// The adapter.
    ///
    /// # Errors
    /// `Certificate` for a certificate or key that cannot be read or used; `Proxy` for a proxy that
    /// is none.
    pub fn build(self) -> Result<SmolHyper, AdapterError> {
        let net = SmolNet {
            origin: Instant::now(),
        };
        let client = Arc::new(Client::new(net.clone(), &self.options)?);
        Ok(SmolHyper { net, client })
    }
}

impl Adapter for SmolHyper {
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
        let client = self.client.clone();
        Box::pin(async move { client.send(request).await })
    }
}

/// smol's global executor and reactor.
#[derive(Clone)]
struct SmolNet {
    origin: Instant,
}

/// What TCP and TLS have in common.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

impl Net for SmolNet {
    type Stream = Io<Box<dyn Duplex>>;

    fn now(&self) -> Time {
        Time(self.origin.elapsed())
    }

    fn sleep_until(&self, deadline: Time) -> BoxFuture<'static, ()> {
        let timer = match self.origin.checked_add(deadline.since_origin()) {
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
        let (work, over) = contained(work);
        // Detached, as it shall be done even if nobody waits.
        smol::unblock(work).detach();
        over
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<Self::Stream> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Io(Box::new(stream)))
    }

    async fn secure(
        &self,
        tls: Arc<ClientConfig>,
        server: ServerName<'static>,
        stream: Self::Stream,
    ) -> io::Result<Self::Stream> {
        let stream = TlsConnector::from(tls).connect(server, stream.0).await?;
        Ok(Io(Box::new(stream)))
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
