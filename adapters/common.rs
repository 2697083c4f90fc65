//! What the live adapters have in common: what they refuse to send, bodies on their way out, and how
//! errors are read.

use std::{
    error::Error,
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures::{
    StreamExt,
    stream::{self, BoxStream, Stream},
};
use http::{
    HeaderValue, Method, Request, Response, Uri, Version,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING, USER_AGENT},
};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::adapter::{Body, TransportError, TransportErrorKind, options::Options};

/// What errors call a request. Without user info and query, which may hold secrets. It costs little
/// as long as nobody asks for it.
#[derive(Clone)]
pub(super) struct Name(Method, Uri);

impl Name {
    pub(super) fn of(request: &Request<Body>) -> Self {
        Self(request.method().clone(), request.uri().clone())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(method, uri) = self;
        let scheme = uri.scheme_str().unwrap_or("?");
        write!(f, "{method} {scheme}://{}", uri.host().unwrap_or("?"))?;
        if let Some(port) = uri.port() {
            write!(f, ":{port}")?;
        }
        f.write_str(uri.path())
    }
}

/// The request as it goes out, and whether it goes over TLS.
pub(super) fn prepare(
    request: Request<Body>,
    user_agent: Option<&HeaderValue>,
    name: &Name,
) -> Result<(Request<Outgoing>, bool), TransportError> {
    let refused = |why: &str| {
        TransportError::new(
            TransportErrorKind::Request,
            false,
            format!("{name} cannot be sent: {why}"),
        )
    };
    let secure = match request.uri().scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(refused("the URI is neither http nor https")),
    };
    if request.uri().host().is_none_or(str::is_empty) {
        return Err(refused("the URI has no host"));
    }
    if request.method() == Method::CONNECT {
        return Err(refused("tunnels are not supported"));
    }
    let (mut head, body) = request.into_parts();
    head.version = Version::HTTP_11;
    if let Some(user_agent) = user_agent {
        head.headers.insert(USER_AGENT, user_agent.clone());
    }
    // The length is the body's to say; a second opinion would end in a request cut short.
    head.headers.remove(CONTENT_LENGTH);
    head.headers.remove(TRANSFER_ENCODING);
    let body = Outgoing::new(body);
    match body.len() {
        // hyper says nothing for an empty body, and some proxies answer 411 to that.
        Some(0) if [Method::POST, Method::PUT, Method::PATCH].contains(&head.method) => {
            head.headers
                .insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        Some(_) => {}
        // hyper would leave such a body out of a GET if it was not told.
        None => {
            head.headers
                .insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
    }
    head.uri = without_user_info(head.uri);
    Ok((Request::from_parts(head, body), secure))
}

/// User info is no part of what is sent; with it, connections would not be shared either.
fn without_user_info(uri: Uri) -> Uri {
    let bare = uri
        .authority()
        .and_then(|authority| authority.as_str().rsplit_once('@'))
        .and_then(|(_, bare)| bare.parse().ok());
    let Some(bare) = bare else { return uri };
    let mut parts = uri.clone().into_parts();
    parts.authority = Some(bare);
    Uri::from_parts(parts).unwrap_or(uri)
}

/// Lets so many requests be on their way at a time.
pub(super) struct Limit(Option<Arc<Semaphore>>);

impl Limit {
    pub(super) fn of(options: &Options) -> Self {
        let limit = options.max_connections;
        Self(limit.map(|limit| Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS)))))
    }

    /// Waits until there is room for one more.
    pub(super) async fn turn(&self) -> Turn {
        Turn(match &self.0 {
            Some(limit) => limit.clone().acquire_owned().await.ok(),
            None => None,
        })
    }
}

/// A request's room among others.
pub(super) struct Turn(Option<OwnedSemaphorePermit>);

impl Turn {
    /// The reply, whose body takes the room until it is read or dropped.
    pub(super) fn until_read(self, reply: Response<Body>) -> Response<Body> {
        match self.0 {
            Some(permit) => reply.map(|body| with_guard(body, permit)),
            None => reply,
        }
    }
}

/// `body`, which keeps `guard` until it is read or dropped.
pub(super) fn with_guard(body: Body, guard: impl Send + 'static) -> Body {
    match body {
        Body::Stream { len, chunks } => {
            let mut guard = Some(guard);
            let end = stream::poll_fn(move |_| {
                drop(guard.take());
                Poll::Ready(None)
            });
            Body::Stream {
                len,
                chunks: chunks.chain(end).boxed(),
            }
        }
        body => body,
    }
}

/// Blocking work whose panic stays in it, and its end.
#[cfg(any(feature = "smol", feature = "async-std"))]
pub(super) fn contained(
    work: Box<dyn FnOnce() + Send>,
) -> (
    impl FnOnce() + Send + 'static,
    futures::future::BoxFuture<'static, ()>,
) {
    let (done, over) = futures::channel::oneshot::channel::<()>();
    let work = move || {
        let _done = done;
        // A panic was printed when it happened; there is nobody else to tell.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    };
    (work, Box::pin(async { _ = over.await }))
}

/// A [`Body`] on its way out.
pub(super) enum Outgoing {
    Full(Bytes),
    Sized {
        left: u64,
        chunks: BoxStream<'static, io::Result<Bytes>>,
    },
    Unsized(BoxStream<'static, io::Result<Bytes>>),
}

impl Outgoing {
    fn new(body: Body) -> Self {
        match body {
            Body::Empty => Self::Full(Bytes::new()),
            Body::Full(bytes) => Self::Full(bytes),
            Body::Stream { len: None, chunks } => Self::Unsized(chunks),
            Body::Stream {
                len: Some(left),
                chunks,
            } => Self::Sized { left, chunks },
        }
    }

    fn len(&self) -> Option<u64> {
        match self {
            Self::Full(bytes) => Some(bytes.len() as u64),
            Self::Sized { left, .. } => Some(*left),
            Self::Unsized(_) => None,
        }
    }
}

impl HttpBody for Outgoing {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let chunk = match self.get_mut() {
            Self::Full(bytes) if bytes.is_empty() => None,
            Self::Full(bytes) => Some(Ok(std::mem::take(bytes))),
            Self::Unsized(chunks) => ready!(Pin::new(chunks).poll_next(cx)),
            Self::Sized { left: 0, .. } => None,
            Self::Sized { left, chunks } => match ready!(Pin::new(chunks).poll_next(cx)) {
                Some(Ok(chunk)) => match left.checked_sub(chunk.len() as u64) {
                    Some(rest) => {
                        *left = rest;
                        Some(Ok(chunk))
                    }
                    None => Some(Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "the body is longer than it said",
                    ))),
                },
                Some(Err(error)) => Some(Err(error)),
                None => Some(Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("the body ended {left} bytes early"),
                ))),
            },
        };
        Poll::Ready(chunk.map(|chunk| chunk.map(Frame::data).map_err(BodyError)))
    }

    fn is_end_stream(&self) -> bool {
        self.len() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.len()
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// Marks an error of the request's body among all that hyper may tell.
#[derive(Debug)]
pub(super) struct BodyError(io::Error);

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("request body")
    }
}

impl Error for BodyError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str) -> Request<Body> {
        Request::builder().uri(uri).body(Body::Empty).unwrap()
    }

    #[test]
    fn a_name_holds_neither_user_info_nor_query() {
        let request = request("http://user:pass@host:81/a/b?private_token=x");
        let name = Name::of(&request);
        assert_eq!(name.to_string(), "GET http://host:81/a/b");
        let (request, secure) = prepare(request, None, &name).unwrap();
        assert!(!secure);
        assert_eq!(*request.uri(), "http://host:81/a/b?private_token=x");
    }
}
