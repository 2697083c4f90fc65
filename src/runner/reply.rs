//! A reply on its way into memory.

use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream::BoxStream};
use http::Response;

use crate::adapter::Body;

/// So many pieces are taken at a time: a stream that always has one more must not hold up the others.
const AT_ONCE: u32 = 64;

/// A reply of whose body no more than `limit` bytes count.
///
/// What came before the connection broke, or the time was over, counts: the head of a reply says
/// most, and a job that GitLab has assigned must not be lost with the end of it.
pub(super) struct Reading {
    head: Response<()>,
    chunks: Option<BoxStream<'static, std::io::Result<Bytes>>>,
    limit: usize,
    first: Bytes,
    /// With the first piece, if there are more.
    all: BytesMut,
}

impl Reading {
    pub(super) fn new(reply: Response<Body>, limit: usize) -> Self {
        let (parts, body) = reply.into_parts();
        let (first, chunks) = match body {
            Body::Empty => (Bytes::new(), None),
            Body::Full(bytes) => (bytes, None),
            Body::Stream { chunks, .. } => (Bytes::new(), Some(chunks)),
        };
        Self {
            head: Response::from_parts(parts, ()),
            chunks,
            limit,
            first,
            all: BytesMut::new(),
        }
    }

    /// Ready with the whole of it.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Response<Bytes>> {
        let mut taken = 0;
        while let Some(chunks) = &mut self.chunks
            && self.first.len().max(self.all.len()) < self.limit
        {
            if taken == AT_ONCE {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            taken += 1;
            let Some(Ok(chunk)) = ready!(chunks.poll_next_unpin(cx)) else {
                break;
            };
            if self.first.is_empty() {
                self.first = chunk;
                continue;
            }
            if self.all.is_empty() {
                self.all.extend_from_slice(&self.first);
            }
            self.all.extend_from_slice(&chunk);
        }
        Poll::Ready(self.finish())
    }

    /// What there is of it.
    pub(super) fn finish(&mut self) -> Response<Bytes> {
        self.chunks = None;
        let (first, all) = (&mut self.first, &mut self.all);
        let body = match all.is_empty() {
            true => std::mem::take(first),
            false => std::mem::take(all).freeze(),
        };
        let body = body.slice(..body.len().min(self.limit));
        std::mem::take(&mut self.head).map(|()| body)
    }
}
