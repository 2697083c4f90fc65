//! What adapters on hyper have in common: bodies on their way in, and what hyper's errors mean.

use std::{
    error::Error,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures::stream::Stream;
use http_body::Body as HttpBody;
use hyper::body::Incoming;

use crate::adapter::{
    Body, TransportError, TransportErrorKind,
    common::{BodyError, Name},
    tls::ends_handshake,
};

/// The bound of a reply's head, and of what is buffered of a body on its way out. In bytes.
pub(super) const BUFFER: usize = 256 * 1024;

/// The body, which calls `keep` at its end.
pub(super) fn reply_body(
    incoming: Incoming,
    name: Name,
    keep: impl FnOnce() + Send + Unpin + 'static,
) -> Body {
    if incoming.is_end_stream() {
        keep();
        return Body::Empty;
    }
    let len = incoming.size_hint().exact();
    let keep = Some(keep);
    let chunks = Box::pin(Chunks {
        incoming,
        name,
        keep,
    });
    Body::Stream { len, chunks }
}

struct Chunks<K> {
    incoming: Incoming,
    name: Name,
    keep: Option<K>,
}

impl<K: FnOnce() + Unpin> Stream for Chunks<K> {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(chunk) = frame.into_data() {
                        return Poll::Ready(Some(Ok(chunk)));
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(broken_off(error, &self.name)))),
                None => {
                    // A body that broke off has ended its connection, too.
                    if let Some(keep) = self.keep.take() {
                        keep();
                    }
                    return Poll::Ready(None);
                }
            }
        }
    }
}

fn broken_off(error: hyper::Error, name: &Name) -> io::Error {
    let kind = find::<io::Error>(&error).map_or(io::ErrorKind::Other, io::Error::kind);
    let detail = format!("the reply to {name} broke off");
    let error = TransportError::new(TransportErrorKind::Broken, true, detail).with_source(error);
    io::Error::new(kind, error)
}

/// How far a request came on its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// No byte of it was written.
    Unsent,
    /// It is the first one on its connection.
    First,
    /// The server has answered others before it.
    Later,
}

/// Why there is no reply on a connection that there was. `cause` is what ended the connection, if
/// that is known.
pub(super) fn failure(
    error: hyper::Error,
    cause: Option<hyper::Error>,
    progress: Progress,
    name: &Name,
) -> TransportError {
    use TransportErrorKind::{Body, Broken, Tls};
    let error = match cause {
        // It says no more than that there is a cause.
        Some(cause) if error.is_canceled() => cause,
        _ => error,
    };
    let (kind, maybe_delivered, what) = if find::<BodyError>(&error).is_some() {
        (Body, true, "the body could not be read for")
    } else if progress != Progress::Later
        && find::<rustls::Error>(&error).is_some_and(ends_handshake)
    {
        // In TLS 1.3 the server refuses our side when ours is long done.
        (Tls, false, "the server refused TLS for")
    } else if progress == Progress::Unsent {
        (Broken, false, "the connection was closed ahead of")
    } else {
        (Broken, true, "there is no usable reply to")
    };
    TransportError::new(kind, maybe_delivered, format!("{what} {name}")).with_source(error)
}

/// The first error of this type in the chain, also where `io::Error` hides it from `source`.
pub(super) fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = match error.downcast_ref().and_then(io::Error::get_ref) {
            Some(hidden) => Some(hidden),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use futures::{executor::block_on, future::join};
    use http::Request;
    use hyper::{client::conn::http1, rt};

    use super::*;
    use crate::adapter::TransportErrorKind::{Broken, Tls};

    /// Takes what is written, and refuses TLS then.
    #[derive(Default)]
    struct Refusing {
        was_written: bool,
    }

    impl rt::Read for Refusing {
        fn poll_read(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            _: rt::ReadBufCursor<'_>,
        ) -> Poll<io::Result<()>> {
            if !self.was_written {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let alert = rustls::AlertDescription::AccessDenied;
            let alert = rustls::Error::AlertReceived(alert);
            Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, alert)))
        }
    }

    impl rt::Write for Refusing {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.was_written = true;
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn a_server_that_has_answered_may_have_read_what_it_refuses() {
        for (progress, kind, maybe_delivered) in [
            (Progress::First, Tls, false),
            (Progress::Later, Broken, true),
        ] {
            let (sender, exchanges) = block_on(http1::handshake(Refusing::default())).unwrap();
            let mut sender = sender;
            let request = Request::builder().uri("/").body(Body::Empty).unwrap();
            let name = Name::of(&request);
            let request = request.map(|_| http_body_util::Empty::<Bytes>::new());
            let (reply, _) = block_on(join(sender.send_request(request), exchanges));
            let error = failure(reply.unwrap_err(), None, progress, &name);
            let found = (error.kind(), error.maybe_delivered());
            assert_eq!(found, (kind, maybe_delivered), "{error:?}");
        }
    }

    #[test]
    fn an_error_is_found_inside_an_io_error() {
        let inner = io::Error::new(io::ErrorKind::InvalidData, rustls::Error::DecryptError);
        let outer = io::Error::other(inner);
        assert_eq!(find(&outer), Some(&rustls::Error::DecryptError));
        assert!(find::<BodyError>(&outer).is_none());
    }
}
