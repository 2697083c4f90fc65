//! What the runner needs of an async runtime and an HTTP client, and nothing else.
//!
//! An [`Adapter`] has five methods. It never retries, never follows a redirect, never decompresses:
//! one request, one reply. Every decision is the machine's.
//!
//! | feature | adapter | |
//! |---|---|---|
//! | `tokio` | [`TokioHyper`] | tokio, hyper, rustls |
//! | `smol` | [`SmolHyper`] | smol, hyper, rustls |
//! | `async-std` | [`AsyncStdIsahc`] | async-std (unmaintained), libcurl with rustls |
//!
//! Without an adapter of the user's choice, a [`Runner`](crate::Runner) that is awaited inside of
//! tokio takes the first, elsewhere the second, else the third, as far as they are enabled.
//!
//! Their options are those of [`AdapterBuilder`]: certificates, proxies, limits. Make an adapter with
//! its `builder()` and hand it to [`Runner::with_adapter`](crate::Runner::with_adapter).
//!
//! To write one for another runtime or HTTP client, implement [`Adapter`] and have it pass the
//! suite of [`conformance`]. `examples/custom_adapter` of the repository is one to start from: plain
//! threads and a blocking HTTP client, in a few pages.
//!
// Where one is not built, its name above leads back to here.
#![cfg_attr(not(feature = "tokio"), doc = "[`TokioHyper`]: crate::adapter")]
#![cfg_attr(not(feature = "smol"), doc = "[`SmolHyper`]: crate::adapter")]
#![cfg_attr(not(feature = "async-std"), doc = "[`AsyncStdIsahc`]: crate::adapter")]
#![cfg_attr(
    not(any(feature = "tokio", feature = "smol", feature = "async-std")),
    doc = "[`AdapterBuilder`]: crate::adapter"
)]
#![cfg_attr(not(feature = "conformance"), doc = "[`conformance`]: crate::adapter")]

use std::{
    error::Error,
    fmt, io,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures::{future::BoxFuture, stream::BoxStream};

#[cfg(feature = "har")]
pub use self::record::Recording;
pub use crate::transport::{TransportError, TransportErrorKind};
use crate::{Time, sync::lock};

#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "har")]
pub mod record;

#[cfg(any(feature = "tokio", feature = "smol", feature = "async-std"))]
#[path = "../../adapters/certificates.rs"]
mod certificates;
#[cfg(any(feature = "tokio", feature = "smol", feature = "async-std"))]
#[path = "../../adapters/common.rs"]
mod common;
#[cfg(any(feature = "tokio", feature = "smol", feature = "async-std"))]
#[path = "../../adapters/options.rs"]
mod options;
#[cfg(any(feature = "tokio", feature = "smol", feature = "async-std"))]
#[path = "../../adapters/proxy.rs"]
mod proxy;

#[cfg(any(feature = "tokio", feature = "smol"))]
#[path = "../../adapters/hyper_client.rs"]
mod hyper_client;
#[cfg(any(feature = "tokio", feature = "smol"))]
#[path = "../../adapters/hyper_connect.rs"]
mod hyper_connect;
#[cfg(any(feature = "tokio", feature = "smol"))]
#[path = "../../adapters/hyper_net.rs"]
mod hyper_net;
#[cfg(any(feature = "tokio", feature = "smol"))]
#[path = "../../adapters/hyper_pool.rs"]
mod hyper_pool;
#[cfg(any(feature = "tokio", feature = "smol"))]
#[path = "../../adapters/hyper_reply.rs"]
mod hyper_reply;
#[cfg(any(feature = "tokio", feature = "smol"))]
#[path = "../../adapters/last_word.rs"]
mod last_word;
#[cfg(any(feature = "tokio", feature = "smol"))]
#[path = "../../adapters/tls.rs"]
mod tls;

#[cfg(feature = "tokio")]
#[path = "../../adapters/tokio_clock.rs"]
mod tokio_clock;
#[cfg(feature = "tokio")]
#[path = "../../adapters/tokio_hyper.rs"]
mod tokio_hyper;

#[cfg(feature = "async-std")]
#[path = "../../adapters/async_std_isahc.rs"]
mod async_std_isahc;

#[cfg(feature = "smol")]
#[path = "../../adapters/smol_hyper.rs"]
mod smol_hyper;

#[cfg(feature = "async-std")]
pub use async_std_isahc::AsyncStdIsahc;
#[cfg(any(feature = "tokio", feature = "smol", feature = "async-std"))]
pub use options::AdapterBuilder;
#[cfg(feature = "smol")]
pub use smol_hyper::SmolHyper;
#[cfg(feature = "tokio")]
pub use tokio_hyper::TokioHyper;

/// Binds the runner to a runtime and an HTTP client.
///
/// All methods are called from inside the runtime, on any of its threads, and must not block: what
/// takes time happens in the future that they return. Several runners may share one adapter. What it
/// keeps, connections and threads say, is its own, and ends when it is dropped.
pub trait Adapter: fmt::Debug + Send + Sync + 'static {
    /// The time since an origin of the adapter's choice. Never goes back.
    fn now(&self) -> Time;

    /// Completes once [`now`](Self::now) is at or past `deadline`: at once if that has passed
    /// already, never for [`Time::MAX`]. The future does not hold the adapter, and can be dropped
    /// at any time.
    fn sleep_until(&self, deadline: Time) -> BoxFuture<'static, ()>;

    /// Runs a task to its end, detached. A panic in it must not harm other tasks.
    fn spawn(&self, task: BoxFuture<'static, ()>);

    /// Runs blocking work where it holds up no task; completes when the work is done, or was lost
    /// because the runtime is going away. It starts at once, whether or not the future is polled,
    /// and is done even if that is dropped. A panic in it must not harm others.
    ///
    /// The runner itself has no more than a few of these at a time;
    /// [`Job::unblock`](crate::job::Job::unblock) has as many as handlers ask for.
    fn unblock(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()>;

    /// Sends one request and gives the reply's head as soon as it is there, and its body as it
    /// comes.
    ///
    /// * The URI is absolute, `http` or `https`. The headers are complete but for `Host`,
    ///   `Content-Length`, `Transfer-Encoding` and `Connection`.
    /// * A body of known length is sent with a `Content-Length`, one of unknown length chunked;
    ///   `POST`, `PUT` and `PATCH` without a body with `Content-Length: 0`. A stream that is longer
    ///   or shorter than it said must not end in a request that looks complete.
    /// * Bodies of any size go through in pieces, in both directions, and the next piece is read
    ///   when there is room for it.
    /// * There is one request and one reply: no redirect is followed, nothing is sent again once a
    ///   byte of it may have been read, nothing is decompressed, no header is added that the server
    ///   acts on.
    /// * The runner polls the futures of many requests in one task, its own. What keeps a processor
    ///   for long belongs in another one.
    /// * Time limits are the caller's, who drops the future: that, or dropping the reply's body,
    ///   gives the request up and closes its connection. Only making a connection has a limit of
    ///   the adapter's own.
    ///
    /// # Errors
    /// When there is no reply; any status is one. [`TransportError::maybe_delivered`] must be
    /// `true` unless the server certainly has not seen the request: the runner may then send it
    /// once more. The kinds:
    ///
    /// | kind | maybe delivered | |
    /// |---|---|---|
    /// | `Request` | no | the request makes no sense: no `http` URI, no host, `CONNECT` |
    /// | `Connect` | no | no connection: name, network, refused, out of time, the proxy refused |
    /// | `Tls` | no | certificates and all else up to the end of the handshake; also a server that tells later that it does not accept the client's |
    /// | `Body` | yes | the request's body gave an error, or is not as long as it said |
    /// | `Broken` | yes, unless no byte was written | the connection ended, or what came is not HTTP, or its head is too large to be kept |
    ///
    /// An error of the reply's body is an [`io::Error`] that wraps a [`TransportError`] of kind
    /// `Broken`. Errors name method, host and path, and the cause as their source; they hold no
    /// header, query or user info, which may be secrets.
    fn send(
        &self,
        request: http::Request<Body>,
    ) -> BoxFuture<'static, Result<http::Response<Body>, TransportError>>;
}

/// Runs `work` where it holds up no task.
/// `None` if it was lost with the runtime.
pub(crate) async fn unblock<T: Send + 'static>(
    adapter: &dyn Adapter,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let slot = Arc::new(Mutex::new(None));
    let filled = Arc::clone(&slot);
    adapter
        .unblock(Box::new(move || *lock(&filled) = Some(work())))
        .await;
    std::mem::take(&mut *lock(&slot))
}

/// The body of a request or of a reply.
#[derive(Default)]
#[non_exhaustive]
pub enum Body {
    /// None.
    #[default]
    Empty,
    /// All of it, in memory.
    Full(Bytes),
    /// Piece by piece.
    Stream {
        /// The exact length in bytes, where it is known.
        len: Option<u64>,
        /// The pieces.
        chunks: BoxStream<'static, io::Result<Bytes>>,
    },
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("Empty"),
            Self::Full(bytes) => write!(f, "Full({} bytes)", bytes.len()),
            Self::Stream { len: Some(len), .. } => write!(f, "Stream({len} bytes)"),
            Self::Stream { len: None, .. } => f.write_str("Stream"),
        }
    }
}

/// How long an adapter keeps an idle connection for the next request.
pub const IDLE_CONNECTION: Duration = Duration::from_secs(60);

/// Why there is no adapter.
#[derive(Clone, Debug)]
pub struct AdapterError {
    kind: AdapterErrorKind,
    detail: Arc<str>,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

/// What an adapter lacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AdapterErrorKind {
    /// The call was made outside of a runtime that an enabled adapter can use. Make it (or await
    /// it) inside of one, or make the adapter there and hand it over.
    NoRuntime,
    /// A certificate or key that was given cannot be read or used.
    Certificate,
    /// A proxy that was given, or stands in the environment, is not the URL of an HTTP proxy.
    Proxy,
}

impl AdapterError {
    /// An error of `kind`; `detail` says what was tried and what would help.
    pub fn new(kind: AdapterErrorKind, detail: impl Into<Arc<str>>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            source: None,
        }
    }

    /// The same error with the error that caused it.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }

    /// What was lacking.
    pub fn kind(&self) -> AdapterErrorKind {
        self.kind
    }
}

impl fmt::Display for AdapterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl Error for AdapterError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn Error + 'static))
    }
}

/// The live adapter for the runtime that this is called in: inside tokio that on tokio; else that on
/// smol, else that on async-std, which both start their runtime when they need it.
///
/// # Errors
/// `NoRuntime` outside of any runtime that an enabled adapter can use; `Proxy` for one in the
/// environment that is none.
#[cfg(any(feature = "tokio", feature = "smol", feature = "async-std"))]
pub(crate) fn default_adapter() -> Result<Arc<dyn Adapter>, AdapterError> {
    #[cfg(feature = "tokio")]
    let tokio = TokioHyper::new().map(|adapter| Arc::new(adapter) as _);
    #[cfg(all(feature = "tokio", any(feature = "smol", feature = "async-std")))]
    if !matches!(&tokio, Err(error) if error.kind() == AdapterErrorKind::NoRuntime) {
        return tokio;
    }
    #[cfg(feature = "smol")]
    let adapter = SmolHyper::new().map(|adapter| Arc::new(adapter) as _);
    #[cfg(all(feature = "async-std", not(feature = "smol")))]
    let adapter = AsyncStdIsahc::new().map(|adapter| Arc::new(adapter) as _);
    #[cfg(not(any(feature = "smol", feature = "async-std")))]
    let adapter = tokio;
    adapter
}

#[cfg(all(test, any(feature = "tokio", feature = "smol", feature = "async-std")))]
mod tests {
    use super::*;

    #[cfg(not(any(feature = "smol", feature = "async-std")))]
    #[test]
    fn there_is_no_adapter_outside_of_a_runtime() {
        let error = default_adapter().unwrap_err();
        assert_eq!(error.kind(), AdapterErrorKind::NoRuntime);
        assert!(error.to_string().contains("tokio runtime"), "{error}");
    }

    #[cfg(feature = "tokio")]
    #[tokio::test]
    async fn inside_tokio_it_is_tokio() {
        let adapter = default_adapter().unwrap();
        assert!(format!("{adapter:?}").starts_with("TokioHyper"));
    }

    #[cfg(feature = "smol")]
    #[test]
    fn elsewhere_it_is_smol() {
        let adapter = smol::block_on(async { default_adapter().unwrap() });
        assert!(format!("{adapter:?}").starts_with("SmolHyper"));
    }

    #[cfg(all(feature = "async-std", not(feature = "smol")))]
    #[test]
    fn without_smol_it_is_async_std() {
        let adapter = default_adapter().unwrap();
        assert!(format!("{adapter:?}").starts_with("AsyncStdIsahc"));
    }
}
