//! An adapter of one's own: plain threads, and ureq, a blocking HTTP client.
//!
//! It shows what each method of [`Adapter`] has to do, and how a client that knows nothing of async
//! code is bound to one that does. It passes the suite of `adapter::conformance` but for what a
//! blocking client cannot do: `tests/adapters/custom.rs`.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    error::Error,
    fmt,
    io::{self, Read},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{
    FutureExt, SinkExt, StreamExt,
    channel::{mpsc as channel, oneshot},
    executor::{ThreadPool, block_on, block_on_stream},
    future::BoxFuture,
    stream::BoxStream,
};
use gitlab_runner::{
    Time,
    adapter::{Adapter, Body, TransportError, TransportErrorKind},
};
use http::{
    Method, Request, Response, Uri,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
};
use ureq::{
    Agent, AsSendBody, SendBody,
    config::AutoHeaderValue,
    tls::{Certificate, RootCerts, TlsConfig},
};

/// How much of a body is read at a time, in bytes.
const BLOCK: usize = 64 * 1024;

/// Runs tasks on a pool of threads, blocking work and requests on a thread each.
#[derive(Clone)]
pub(crate) struct Threads {
    origin: Instant,
    tasks: ThreadPool,
    timer: Timer,
    agent: Agent,
}

impl Threads {
    /// Trusts these certificate authorities (PEM); without any, those that browsers trust.
    pub(crate) fn new(authorities: &[String]) -> Result<Self, Box<dyn Error>> {
        let mut certificates = Vec::new();
        for pem in authorities {
            certificates.push(Certificate::from_pem(pem.as_bytes())?);
        }
        let roots = match certificates.is_empty() {
            true => RootCerts::WebPki,
            false => RootCerts::new_with_certs(&certificates),
        };
        // One request, one reply: what the client would do beyond that is switched off.
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .allow_non_standard_methods(true)
            .accept(AutoHeaderValue::None)
            .accept_encoding(AutoHeaderValue::None)
            .user_agent(AutoHeaderValue::None)
            .max_idle_connections(128)
            .max_idle_connections_per_host(128)
            .max_idle_age(gitlab_runner::adapter::IDLE_CONNECTION)
            .timeout_connect(Some(Duration::from_secs(10)))
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .build();
        Ok(Self {
            origin: Instant::now(),
            tasks: ThreadPool::builder().pool_size(2).create()?,
            timer: Timer::start()?,
            agent: Agent::new_with_config(config),
        })
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Threads").finish_non_exhaustive()
    }
}

impl Adapter for Threads {
    fn now(&self) -> Time {
        Time(self.origin.elapsed())
    }

    fn sleep_until(&self, deadline: Time) -> BoxFuture<'static, ()> {
        // What no `Instant` can hold never comes.
        match self.origin.checked_add(deadline.since_origin()) {
            Some(deadline) => self.timer.wait(deadline),
            None => Box::pin(std::future::pending()),
        }
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        // A panic was printed when it happened, and must not take a thread of the pool along.
        let task = AssertUnwindSafe(task).catch_unwind().map(drop);
        self.tasks.spawn_ok(task);
    }

    fn unblock(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        let (done, over) = oneshot::channel::<()>();
        // The runner has bounded how much of this there is at a time.
        thread::spawn(move || {
            let _done = done;
            drop(catch_unwind(AssertUnwindSafe(work)));
        });
        Box::pin(over.map(drop))
    }

    fn send(
        &self,
        request: Request<Body>,
    ) -> BoxFuture<'static, Result<Response<Body>, TransportError>> {
        let agent = self.agent.clone();
        Box::pin(async move {
            let name = Arc::<str>::from(name_of(&request));
            let request = prepare(request, &name)?;
            let (reply, answer) = oneshot::channel();
            thread::spawn(move || exchange(&agent, request, &name, reply));
            let lost = |_| {
                let detail = "the thread of the request was lost";
                Err(error(TransportErrorKind::Broken, true, detail))
            };
            answer.await.unwrap_or_else(lost)
        })
    }
}

/// What errors call a request: without user info and query, which may hold secrets.
fn name_of(request: &Request<Body>) -> String {
    let uri = request.uri();
    let authority = uri.authority().map_or("", |it| it.as_str());
    let host = authority.rsplit('@').next().unwrap_or_default();
    let scheme = uri.scheme_str().unwrap_or("?");
    format!("{} {scheme}://{host}{}", request.method(), uri.path())
}

fn error(kind: TransportErrorKind, maybe_delivered: bool, detail: &str) -> TransportError {
    TransportError::new(kind, maybe_delivered, detail)
}

/// The request with the headers that are ours to say.
fn prepare(request: Request<Body>, name: &str) -> Result<Request<Body>, TransportError> {
    let refused = |why: &str| {
        let detail = format!("{name} cannot be sent: {why}");
        Err(error(TransportErrorKind::Request, false, &detail))
    };
    let (mut head, body) = request.into_parts();
    if !matches!(head.uri.scheme_str(), Some("http" | "https")) {
        return refused("the URI is neither http nor https");
    }
    if head.method == Method::CONNECT {
        return refused("tunnels are not supported");
    }
    head.headers.remove(CONTENT_LENGTH);
    head.headers.remove(TRANSFER_ENCODING);
    let len = match &body {
        Body::Empty => Some(0),
        Body::Full(bytes) => Some(bytes.len() as u64),
        Body::Stream { len, .. } => *len,
        _ => None,
    };
    match len {
        Some(0) if ![Method::POST, Method::PUT, Method::PATCH].contains(&head.method) => {}
        Some(len) => drop(head.headers.insert(CONTENT_LENGTH, len.into())),
        None => {
            let chunked = http::HeaderValue::from_static("chunked");
            head.headers.insert(TRANSFER_ENCODING, chunked);
        }
    }
    // User info is no part of what is sent.
    if let Some((_, bare)) = head
        .uri
        .authority()
        .and_then(|it| it.as_str().rsplit_once('@'))
    {
        let bare = bare.parse().ok();
        let mut parts = head.uri.clone().into_parts();
        parts.authority = bare;
        head.uri = Uri::from_parts(parts).unwrap_or(head.uri);
    }
    Ok(Request::from_parts(head, body))
}

type Reply = oneshot::Sender<Result<Response<Body>, TransportError>>;

/// Blocking: sends the request, gives the head of the reply, then its body piece by piece, as fast
/// as they are taken.
fn exchange(agent: &Agent, request: Request<Body>, name: &Arc<str>, reply: Reply) {
    let (head, body) = request.into_parts();
    let broken = Arc::new(Mutex::new(None));
    let answer = match body {
        Body::Full(bytes) if !bytes.is_empty() => run(agent, head, &*bytes),
        Body::Stream { len, chunks } if len != Some(0) => {
            let upload = Upload {
                chunks: Box::new(block_on_stream(chunks)),
                chunk: Bytes::new(),
                left: len,
                broken: broken.clone(),
            };
            run(agent, head, SendBody::from_owned_reader(upload))
        }
        _ => run(agent, head, SendBody::none()),
    };
    let response = match answer {
        Ok(response) => response,
        Err(problem) => {
            let broken = broken.lock().unwrap_or_else(PoisonError::into_inner).take();
            let problem = match broken {
                Some(cause) => {
                    let detail = format!("the body could not be read for {name}");
                    error(TransportErrorKind::Body, true, &detail).with_source(cause)
                }
                None => failure(problem, name),
            };
            return drop(reply.send(Err(problem)));
        }
    };
    let (head, body) = response.into_parts();
    let len = body.content_length();
    let mut reader = body.into_reader();
    let mut block = vec![0; BLOCK];
    // Whether there is a body at all shows when it is read.
    let first = match reader.read(&mut block) {
        Ok(0) => return drop(reply.send(Ok(Response::from_parts(head, Body::Empty)))),
        first => first.map(|read| Bytes::copy_from_slice(&block[..read])),
    };
    let (mut pieces, chunks) = channel::channel(0);
    let chunks: BoxStream<'static, io::Result<Bytes>> = chunks.boxed();
    let response = Response::from_parts(head, Body::Stream { len, chunks });
    if reply.send(Ok(response)).is_err() {
        // Nobody waits any more. The connection ends with the reader.
        return;
    }
    let mut next = first;
    loop {
        let last = next.is_err();
        let piece = next.map_err(|problem| {
            let kind = problem.kind();
            let detail = format!("the reply to {name} broke off");
            let problem = error(TransportErrorKind::Broken, true, &detail).with_source(problem);
            io::Error::new(kind, problem)
        });
        if block_on(pieces.send(piece)).is_err() || last {
            return;
        }
        next = match reader.read(&mut block) {
            Ok(0) => return,
            read => read.map(|read| Bytes::copy_from_slice(&block[..read])),
        };
    }
}

fn run(
    agent: &Agent,
    head: http::request::Parts,
    body: impl AsSendBody,
) -> Result<Response<ureq::Body>, ureq::Error> {
    agent.run(Request::from_parts(head, body))
}

/// What the client's errors mean, and whether the server may have seen the request.
fn failure(problem: ureq::Error, name: &str) -> TransportError {
    use TransportErrorKind::{Broken, Connect, Request, Tls};
    use ureq::Error as E;
    let (kind, maybe_delivered, what) = match &problem {
        E::HostNotFound
        | E::ConnectionFailed
        | E::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
            (Connect, false, "there is no connection for")
        }
        E::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            (Connect, false, "there is no connection for")
        }
        E::Tls(_) | E::Pem(_) | E::Rustls(_) => (Tls, false, "TLS failed for"),
        E::Io(error) if is_tls(error) => (Tls, false, "TLS failed for"),
        E::BadUri(_) | E::Http(_) => (Request, false, "it is not possible to send"),
        _ => (Broken, true, "there is no usable reply to"),
    };
    error(kind, maybe_delivered, &format!("{what} {name}")).with_source(problem)
}

fn is_tls(error: &io::Error) -> bool {
    error
        .get_ref()
        .is_some_and(|inner| inner.is::<rustls::Error>())
}

/// The body of a request, which fails if it is not as long as it said.
struct Upload {
    chunks: Box<dyn Iterator<Item = io::Result<Bytes>> + Send>,
    chunk: Bytes,
    left: Option<u64>,
    broken: Arc<Mutex<Option<io::Error>>>,
}

impl Read for Upload {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            if self.left == Some(0) {
                return Ok(0);
            }
            let next = match (self.chunks.next(), &mut self.left) {
                (Some(Ok(chunk)), Some(left)) => match left.checked_sub(chunk.len() as u64) {
                    Some(rest) => {
                        *left = rest;
                        Ok(chunk)
                    }
                    None => Err(io::Error::other("the body is longer than it said")),
                },
                (Some(next), None) => next,
                (Some(Err(error)), Some(_)) => Err(error),
                (None, None) => return Ok(0),
                (None, Some(left)) => Err(io::Error::other(format!(
                    "the body ended {left} bytes early"
                ))),
            };
            match next {
                Ok(chunk) => self.chunk = chunk,
                Err(error) => {
                    *self.broken.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    return Err(io::Error::other("the body cannot be read"));
                }
            }
        }
        let read = buffer.len().min(self.chunk.len());
        buffer[..read].copy_from_slice(&self.chunk.split_to(read));
        Ok(read)
    }
}

/// A thread that wakes those whose time has come. It ends with the last one who may ask.
#[derive(Clone)]
struct Timer(mpsc::Sender<Alarm>);

struct Alarm {
    deadline: Instant,
    ring: oneshot::Sender<()>,
}

impl Timer {
    fn start() -> io::Result<Self> {
        let (send, alarms) = mpsc::channel();
        thread::Builder::new()
            .name("timer".to_owned())
            .spawn(move || keep_time(&alarms))?;
        Ok(Self(send))
    }

    fn wait(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        let (ring, rung) = oneshot::channel();
        // The thread lives as long as `self`.
        let _ = self.0.send(Alarm { deadline, ring });
        Box::pin(async move {
            if rung.await.is_err() {
                // Without a timer there is no time any more.
                std::future::pending::<()>().await;
            }
        })
    }
}

fn keep_time(alarms: &mpsc::Receiver<Alarm>) {
    let mut waiting: BinaryHeap<Reverse<Alarm>> = BinaryHeap::new();
    loop {
        // Those who wait no longer are forgotten before the heap grows further.
        if waiting.len() == waiting.capacity() {
            waiting.retain(|Reverse(alarm)| !alarm.ring.is_canceled());
        }
        let next = match waiting.peek() {
            Some(Reverse(alarm)) => {
                let left = alarm.deadline.saturating_duration_since(Instant::now());
                alarms.recv_timeout(left)
            }
            None => alarms.recv().map_err(Into::into),
        };
        match next {
            Ok(alarm) => waiting.push(Reverse(alarm)),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                if let Some(Reverse(alarm)) = waiting.pop() {
                    let _ = alarm.ring.send(());
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
    }
}

impl PartialEq for Alarm {
    fn eq(&self, other: &Self) -> bool {
        self.deadline == other.deadline
    }
}

impl Eq for Alarm {}

impl PartialOrd for Alarm {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Alarm {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.deadline.cmp(&other.deadline)
    }
}
