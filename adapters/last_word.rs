//! Streams of hyper on which the other side has the last word.
//!
//! A server that finds a request too large answers while it is still being sent, and closes. When
//! that comes in one with the answer, the next write fails, and hyper would say so and not look for
//! the answer, which may be there to be read. Here such a write waits: whatever is left is read
//! first, to the end that follows it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use hyper::rt;

/// A stream whose writes wait for ever once the other side takes no more.
pub(super) struct LastWord<S> {
    stream: S,
    is_over: bool,
}

impl<S> LastWord<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            is_over: false,
        }
    }

    fn written<T>(&mut self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};

        match written {
            Poll::Ready(Err(error))
                if matches!(
                    error.kind(),
                    BrokenPipe | ConnectionAborted | ConnectionReset
                ) =>
            {
                // Reading goes on to the end, which is there or has woken the reader.
                self.is_over = true;
                Poll::Pending
            }
            written => written,
        }
    }
}

impl<S: rt::Read + Unpin> rt::Read for LastWord<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: rt::Write + Unpin> rt::Write for LastWord<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_over {
            return Poll::Pending;
        }
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.is_over {
            return Poll::Pending;
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.written(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_over {
            return Poll::Pending;
        }
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.written(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_over {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
