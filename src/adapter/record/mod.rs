//! Writes down what passes an adapter, as an HTTP archive.
//!
//! A [`Recording`] wraps any adapter and is one: a runner on it does what it would do without. What
//! passes is kept in memory, within a limit, and put in order by [`Recording::har`], where secrets
//! become placeholders: each the same one everywhere, so that the archive can be shown and replayed.
//!
//! ```no_run
//! use std::sync::Arc;
//! use gitlab_runner::{JobHandler, JobResult, Phase, Runner, adapter::{Adapter, Recording}};
//!
//! # struct Lab;
//! # #[async_trait::async_trait]
//! # impl JobHandler for Lab {
//! #     async fn step(&mut self, _: &[String], _: Phase) -> JobResult { Ok(()) }
//! # }
//! # async fn example(adapter: Arc<dyn Adapter>) -> Result<(), Box<dyn std::error::Error>> {
//! let recording = Recording::new(adapter);
//! let server = "https://gitlab.example.com".parse()?;
//! let token = std::env::var("GITLAB_RUNNER_TOKEN")?;
//! let adapter = Arc::new(recording.clone());
//! let mut runner = Runner::with_adapter(server, token, "builds".into(), adapter);
//! runner.request_job(|_job| async { Ok(Lab) }).await?;
//! runner.drain().await;
//! std::fs::write("session.har", recording.har().to_json())?;
//! # Ok(())
//! # }
//! ```

mod export;
mod tape;

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use futures::{Stream, StreamExt, future::BoxFuture, stream::BoxStream};
use http::{Request, Response};

use self::tape::{Slot, Tape};
use super::{Adapter, Body, TransportError};
use crate::{Time, har::Har, redact::Secrets, time::WallTime};

/// An adapter that writes down what passes; see the [module](self). Clones write to the same
/// archive.
#[derive(Clone)]
pub struct Recording {
    adapter: Arc<dyn Adapter>,
    tape: Arc<Tape>,
    secrets: Secrets,
    wall_origin: WallTime,
}

impl Recording {
    /// What is recorded of one archive unless another limit was chosen: 64 MiB.
    pub const DEFAULT_LIMIT: usize = 64 << 20;

    /// A recording of what passes `adapter`.
    pub fn new(adapter: Arc<dyn Adapter>) -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        let since_1970 = since_1970.unwrap_or_default();
        let now = adapter.now().since_origin();
        Self {
            wall_origin: WallTime(since_1970.saturating_sub(now)),
            adapter,
            tape: Arc::new(Tape::new(Self::DEFAULT_LIMIT)),
            secrets: Secrets::Redacted,
        }
    }

    /// What [`har`](Self::har) does with secrets; by default they become placeholders.
    #[must_use]
    pub fn secrets(mut self, secrets: Secrets) -> Self {
        self.secrets = secrets;
        self
    }

    /// The most that is kept in memory, in bytes. Bodies beyond it are kept as hash and length,
    /// and further requests are only counted. Set it before the first request.
    #[must_use]
    pub fn limit(self, bytes: usize) -> Self {
        self.tape.set_limit(bytes);
        self
    }

    /// Keeps artifacts of up to so many bytes. None are by default, only their hash and length: what
    /// is in them cannot be redacted.
    #[must_use]
    pub fn keep_artifacts(self, bytes: usize) -> Self {
        self.tape.set_artifact_limit(bytes);
        self
    }

    /// The wall clock at the origin of the adapter's time; by default what the clock of this machine
    /// says. A simulated one gives the same archive each time.
    #[must_use]
    pub fn wall_origin(mut self, origin: WallTime) -> Self {
        self.wall_origin = origin;
        self
    }

    /// Takes note of a secret that cannot be known by its place: it is kept out of the archive too.
    pub fn secret(&self, secret: impl Into<String>) {
        self.tape.add_secret(secret.into());
    }

    /// What was recorded so far. Requests without a reply are there as given up. It takes a while if
    /// that is much, and holds up no request.
    pub fn har(&self) -> Har {
        let now = self.adapter.now();
        let content = self.tape.content();
        export::har(&content, self.secrets, self.wall_origin, now)
    }
}

impl Adapter for Recording {
    fn now(&self) -> Time {
        self.adapter.now()
    }

    fn sleep_until(&self, deadline: Time) -> BoxFuture<'static, ()> {
        self.adapter.sleep_until(deadline)
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.adapter.spawn(task);
    }

    fn unblock(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        self.adapter.unblock(work)
    }

    fn send(
        &self,
        request: Request<Body>,
    ) -> BoxFuture<'static, Result<Response<Body>, TransportError>> {
        let (adapter, tape) = (Arc::clone(&self.adapter), Arc::clone(&self.tape));
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let Some(slot) = tape.begin(adapter.now(), &parts) else {
                return adapter.send(Request::from_parts(parts, body)).await;
            };
            let slot = Recorded {
                adapter: Arc::clone(&adapter),
                tape,
                slot,
            };
            let body = slot.watched(body, Tape::sent);
            let reply = adapter.send(Request::from_parts(parts, body)).await;
            match reply {
                Ok(reply) => {
                    let (parts, body) = reply.into_parts();
                    slot.tape.replied(slot.slot, adapter.now(), &parts);
                    let body = slot.watched(body, Tape::received);
                    Ok(Response::from_parts(parts, body))
                }
                Err(error) => {
                    slot.tape.failed(slot.slot, &error.to_string());
                    Err(error)
                }
            }
        })
    }
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recording")
            .field("adapter", &self.adapter)
            .field("requests", &self.tape.len())
            .finish_non_exhaustive()
    }
}

/// Notes the time when the last of a request and its reply is let go.
struct Recorded {
    adapter: Arc<dyn Adapter>,
    tape: Arc<Tape>,
    slot: Slot,
}

type Note = fn(&Tape, Slot, &Bytes);

impl Recorded {
    /// The same body, which notes what passes.
    fn watched(&self, body: Body, note: Note) -> Body {
        match body {
            Body::Empty => {
                note(&self.tape, self.slot, &Bytes::new());
                Body::Empty
            }
            Body::Full(bytes) => {
                note(&self.tape, self.slot, &bytes);
                Body::Full(bytes)
            }
            Body::Stream { len, chunks } => {
                let slot = Self {
                    adapter: Arc::clone(&self.adapter),
                    tape: Arc::clone(&self.tape),
                    slot: self.slot,
                };
                Body::Stream {
                    len,
                    chunks: Watched { chunks, slot, note }.boxed(),
                }
            }
        }
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        self.tape.ended(self.slot, self.adapter.now());
    }
}

struct Watched {
    chunks: BoxStream<'static, std::io::Result<Bytes>>,
    slot: Recorded,
    note: Note,
}

impl Stream for Watched {
    type Item = std::io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.chunks.poll_next_unpin(cx);
        let Recorded { tape, slot, .. } = &self.slot;
        match &next {
            Poll::Ready(Some(Ok(chunk))) => (self.note)(tape, *slot, chunk),
            Poll::Ready(Some(Err(error))) => tape.failed(*slot, &error.to_string()),
            _ => {}
        }
        next
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.chunks.size_hint()
    }
}
