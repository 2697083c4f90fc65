//! What the runner needs of an async runtime and an HTTP client, and nothing else.
//!
//! An [`Adapter`] has five methods. It never retries, never follows a redirect, never decompresses:
//! one request, one reply. Every decision is the machine's.

use std::{fmt, io, time::Duration};

use bytes::Bytes;
use futures::{future::BoxFuture, stream::BoxStream};

use crate::Time;
pub use crate::transport::{TransportError, TransportErrorKind};

/// Binds the runner to a runtime and an HTTP client.
///
/// All methods are called from inside the runtime, on any of its threads.
pub trait Adapter: fmt::Debug + Send + Sync + 'static {
    /// The time since an origin of the adapter's choice. Never goes back.
    fn now(&self) -> Time;

    /// Completes once [`now`](Self::now) is at or past `deadline`.
    fn sleep_until(&self, deadline: Time) -> BoxFuture<'static, ()>;

    /// Runs a task to its end, detached. A panic in it must not harm other tasks.
    fn spawn(&self, task: BoxFuture<'static, ()>);

    /// Runs blocking work where it holds up no task; completes when the work is done, or was lost
    /// because the runtime is going away.
    fn unblock(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()>;

    /// Sends one request and gives the reply's head as soon as it is there, and its body as it
    /// comes.
    ///
    /// The URI is absolute, the headers are complete but for `Host`, `Content-Length` and
    /// `Connection`. A body of known length is sent with a `Content-Length`, and `POST`, `PUT` and
    /// `PATCH` without a body with `Content-Length: 0`. Dropping the future or the reply's body
    /// gives the request up.
    ///
    /// # Errors
    /// When there is no reply; see [`TransportError::maybe_delivered`] for what must be said.
    fn send(
        &self,
        request: http::Request<Body>,
    ) -> BoxFuture<'static, Result<http::Response<Body>, TransportError>>;
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
