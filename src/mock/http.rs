//! Serves any [`Server`] over HTTP/1.1 on loopback, with or without TLS.
//!
//! The server runs on a thread of its own, so any client on any runtime can talk to it. Time is
//! real: what passed since the start.
//!
//! A test of a handler that needs tokio, here for its processes:
//!
//! ```
//! use gitlab_runner::{
//!     JobHandler, JobResult, Phase, Runner,
//!     job::Job,
//!     mock::{JobSpec, JobStatus, MockGitlab, http::Loopback},
//!     outputln,
//! };
//! use tokio::process::Command;
//!
//! struct Lab(Job);
//!
//! #[async_trait::async_trait]
//! impl JobHandler for Lab {
//!     async fn step(&mut self, script: &[String], _phase: Phase) -> JobResult {
//!         let output = Command::new("sh").arg("-c").arg(script.join("\n")).output().await;
//!         self.0.trace(output.map_err(|error| outputln!("no shell: {error}"))?.stdout);
//!         Ok(())
//!     }
//! }
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut gitlab = MockGitlab::new(7);
//! gitlab.add_runner("glrt-lab");
//! let job = gitlab.enqueue(JobSpec::script(["echo hello"]));
//! let gitlab = Loopback::start(gitlab)?;
//!
//! let builds = std::env::temp_dir().join("lab-builds");
//! let mut runner = Runner::new(gitlab.url().parse()?, "glrt-lab".into(), builds);
//! assert!(runner.request_job(|job| async { Ok(Lab(job)) }).await?);
//! runner.drain().await;
//!
//! gitlab.with(|gitlab, _now| {
//!     let report = gitlab.report(job).expect("the job is known");
//!     assert_eq!(report.status, JobStatus::Success);
//!     assert_eq!(report.log_text(), "hello\n");
//! });
//! # Ok(())
//! # }
//! ```

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt, io,
    net::{Ipv4Addr, SocketAddr, TcpListener as StdListener},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use futures::{
    StreamExt,
    future::{self, Either},
    stream,
};
use http::{
    Method, Request, Response, StatusCode,
    header::{CONNECTION, CONTENT_LENGTH, HeaderValue},
};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::Incoming,
    rt::{Read, Write},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::{
    net::TcpListener,
    runtime,
    sync::{Notify, oneshot},
};
use tokio_rustls::TlsAcceptor;

use super::{Answer, BodyLimit, HoldId, Server, Trickle};
use crate::Time;

/// The longest request body that is taken, in bytes, unless the server has a
/// [limit](Server::body_limit) of its own. A longer one is answered 413.
pub const MAX_REQUEST_BODY: usize = 64 * 1024 * 1024;

/// A [`Server`] at work on `127.0.0.1`. Dropping it closes every connection and ends its thread; an
/// `Arc` shares it.
///
/// The server is called with a lock held: it must not reach for its own `Loopback`.
/// A reply that claims a `Content-Length` beyond its body is cut: the body is sent, then the
/// connection is closed.
pub struct Loopback<S: Server> {
    shared: Arc<Shared<S>>,
    addr: SocketAddr,
    secure: bool,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What a TLS server shows to its clients.
#[derive(Clone)]
#[allow(
    clippy::exhaustive_structs,
    reason = "made by the user, field by field"
)]
pub struct ServerTls {
    /// The server's certificate and those between it and the authority, in PEM.
    pub cert_chain_pem: Vec<u8>,
    /// The private key of the first certificate, in PEM.
    pub key_pem: Vec<u8>,
    /// The authority (PEM) of the certificates that clients have to show; `None` asks for none.
    pub client_authority_pem: Option<Vec<u8>>,
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").finish_non_exhaustive()
    }
}

impl<S: Server> Loopback<S> {
    /// Serves `server` over plain HTTP on a free port.
    ///
    /// # Errors
    /// If there is no port, thread or runtime to be had.
    pub fn start(server: S) -> io::Result<Self> {
        Self::launch(server, None)
    }

    /// Serves `server` over HTTPS on a free port.
    ///
    /// # Errors
    /// As [`start`](Self::start); `InvalidInput` if certificate and key cannot be used.
    pub fn start_tls(server: S, tls: ServerTls) -> io::Result<Self> {
        let config = server_config(&tls)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        Self::launch(server, Some(TlsAcceptor::from(Arc::new(config))))
    }

    /// The address to connect to.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The base URL, as in `http://127.0.0.1:4711`, without a slash at the end.
    pub fn url(&self) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://{}", self.addr)
    }

    /// How many connections were accepted so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Looks at the server or changes it. Holds that this releases are answered at once.
    pub fn with<R>(&self, change: impl FnOnce(&mut S, Time) -> R) -> R {
        let mut state = self.shared.lock();
        let result = change(&mut state.server, self.shared.now());
        self.shared.settle(&mut state);
        result
    }

    /// Blocks until `look` finds what it looks for, and gives it; `None` after `timeout`.
    ///
    /// `look` is called at once and again after every request and every other change. In async code
    /// poll [`with`](Self::with), or call this from `spawn_blocking`: a runtime of one thread, such
    /// as that of `#[tokio::test]`, would stand still meanwhile, and its runner with it.
    pub fn wait_until<T>(
        &self,
        timeout: Duration,
        mut look: impl FnMut(&mut S) -> Option<T>,
    ) -> Option<T> {
        let started = Instant::now();
        let mut state = self.shared.lock();
        loop {
            if let Some(found) = look(&mut state.server) {
                self.shared.settle(&mut state);
                return Some(found);
            }
            let left = timeout.checked_sub(started.elapsed())?;
            (state, _) = self
                .shared
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn launch(server: S, tls: Option<TlsAcceptor>) -> io::Result<Self> {
        let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                server,
                waiting: BTreeMap::new(),
            }),
            changed: Condvar::new(),
            rearm: Notify::new(),
            connections: AtomicU64::new(0),
            origin: Instant::now(),
        });
        let secure = tls.is_some();
        let (stop, stopped) = oneshot::channel();
        let (report, ready) = mpsc::sync_channel(1);
        let served = shared.clone();
        // The runtime lives and dies on its thread: dropped in async code it would panic.
        let thread = thread::Builder::new()
            .name(format!("loopback-{}", addr.port()))
            .spawn(move || run(&served, listener, tls, &report, stopped))?;
        let loopback = Self {
            shared,
            addr,
            secure,
            stop: Some(stop),
            thread: Some(thread),
        };
        ready
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("the server's thread ended early")))?;
        Ok(loopback)
    }
}

impl<S: Server> Drop for Loopback<S> {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the server was printed when it happened.
            let _ = thread.join();
        }
    }
}

impl<S: Server> fmt::Debug for Loopback<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loopback")
            .field("url", &self.url())
            .finish_non_exhaustive()
    }
}

/// How much of a body is read, beyond what is wanted of it, before the connection is closed
/// anyway: a close with unread bytes would take the reply with it.
const MAX_DRAINED: usize = 16 * MAX_REQUEST_BODY;
/// How long a client may take to notice an early reply and to stop sending.
const LINGER: Duration = Duration::from_secs(10);

struct Shared<S> {
    state: Mutex<State<S>>,
    /// Told after every call of the server.
    changed: Condvar,
    /// Tells the timer task to look at `poll_timeout` again.
    rearm: Notify,
    connections: AtomicU64,
    origin: Instant,
}

struct State<S> {
    server: S,
    waiting: BTreeMap<HoldId, oneshot::Sender<Answer>>,
}

impl<S: Server> Shared<S> {
    fn lock(&self) -> MutexGuard<'_, State<S>> {
        // A panic in `handle` ends one connection; the others go on.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Time {
        Time(self.origin.elapsed())
    }

    /// Hands out what is due. Owed after every call of the server.
    fn settle(&self, state: &mut State<S>) {
        while let Some((hold, answer)) = state.server.poll_answer(self.now()) {
            if let Some(waiting) = state.waiting.remove(&hold) {
                // An error means that the client has just gone: nobody is left to tell.
                let _ = waiting.send(answer);
            }
        }
        self.changed.notify_all();
        self.rearm.notify_one();
    }

    async fn answer(self: Arc<Self>, request: Request<Bytes>) -> Answer {
        let (holding, answer) = {
            let mut state = self.lock();
            let first = state.server.handle(self.now(), request);
            let held = match first {
                Answer::Hold(hold) => {
                    let (send, answer) = oneshot::channel();
                    state.waiting.insert(hold, send);
                    Ok((hold, answer))
                }
                other => Err(other),
            };
            self.settle(&mut state);
            match held {
                Ok((hold, answer)) => (
                    Holding {
                        shared: self.clone(),
                        hold,
                    },
                    answer,
                ),
                Err(first) => return first,
            }
        };
        let answer = answer.await.unwrap_or(Answer::Close);
        drop(holding);
        answer
    }

    /// Calls the server when its timeout comes, for ever.
    async fn keep_time(&self) {
        const LONG: Duration = Duration::from_secs(3600);
        // For a server that goes on to name a moment that has passed.
        const SHORT: Duration = Duration::from_millis(1);
        loop {
            let timeout = self.lock().server.poll_timeout();
            let left = timeout.map_or(LONG, |timeout| timeout.since(self.now()).clamp(SHORT, LONG));
            let rearm = std::pin::pin!(self.rearm.notified());
            let sleep = std::pin::pin!(tokio::time::sleep(left));
            match future::select(rearm, sleep).await {
                Either::Left(_) => {}
                Either::Right(_) => {
                    let mut state = self.lock();
                    self.settle(&mut state);
                }
            }
        }
    }
}

/// Tells the server if the client goes away while its request is on hold.
struct Holding<S: Server> {
    shared: Arc<Shared<S>>,
    hold: HoldId,
}

impl<S: Server> Drop for Holding<S> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if state.waiting.remove(&self.hold).is_some() {
            state.server.drop_hold(self.hold);
            self.shared.settle(&mut state);
        }
    }
}

fn server_config(
    tls: &ServerTls,
) -> Result<ServerConfig, Box<dyn std::error::Error + Send + Sync>> {
    let chain = CertificateDer::pem_slice_iter(&tls.cert_chain_pem).collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(&tls.key_pem)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?;
    let config = match &tls.client_authority_pem {
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(pem) {
                roots.add(certificate?)?;
            }
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
            config.with_client_cert_verifier(verifier)
        }
        None => config.with_no_client_auth(),
    };
    Ok(config.with_single_cert(chain, key)?)
}

fn run<S: Server>(
    shared: &Arc<Shared<S>>,
    listener: StdListener,
    tls: Option<TlsAcceptor>,
    report: &mpsc::SyncSender<io::Result<()>>,
    stopped: oneshot::Receiver<()>,
) {
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return drop(report.send(Err(error))),
    };
    runtime.block_on(async {
        let listener = match TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => return drop(report.send(Err(error))),
        };
        drop(report.send(Ok(())));
        let accept = std::pin::pin!(accept(shared, listener, tls));
        let keep_time = std::pin::pin!(shared.keep_time());
        future::select(stopped, future::select(accept, keep_time)).await;
    });
    // Dropping the runtime drops every connection.
}

async fn accept<S: Server>(
    shared: &Arc<Shared<S>>,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely: connections have to end first.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        shared.connections.fetch_add(1, Ordering::Relaxed);
        let _ = stream.set_nodelay(true);
        let (shared, tls) = (shared.clone(), tls.clone());
        tokio::spawn(async move {
            match tls {
                None => serve(shared, TokioIo::new(stream)).await,
                Some(tls) => {
                    // A client that does not trust us is no event for the server.
                    if let Ok(stream) = tls.accept(stream).await {
                        serve(shared, TokioIo::new(stream)).await;
                    }
                }
            }
        });
    }
}

async fn serve<S: Server>(shared: Arc<Shared<S>>, io: impl Read + Write + Unpin + 'static) {
    let service = service_fn(move |request| exchange(shared.clone(), request));
    // Errors are the client's to see.
    let _ = http1::Builder::new().serve_connection(io, service).await;
}

type ReplyBody = UnsyncBoxBody<Bytes, io::Error>;

/// One request and its reply; an error closes the connection.
async fn exchange<S: Server>(
    shared: Arc<Shared<S>>,
    request: Request<Incoming>,
) -> io::Result<Response<ReplyBody>> {
    let (head, mut body) = request.into_parts();
    let wish = shared.lock().server.body_limit(&head);
    let limit = wish.unwrap_or(BodyLimit::new(MAX_REQUEST_BODY, false));
    let (bytes, whole) = collect(&mut body, limit.bytes).await?;
    if !whole && !limit.early {
        drain(&mut body).await?;
    }
    if !whole && wish.is_none() {
        let mut reply = Response::new(Bytes::new());
        *reply.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
        return Ok(closing(framed(&head.method, reply)));
    }
    let method = head.method.clone();
    let reply = match shared.answer(Request::from_parts(head, bytes)).await {
        Answer::Reply(reply) => framed(&method, reply),
        Answer::Close | Answer::Hold(_) => return Err(io::Error::other("closed by the server")),
    };
    if whole {
        return Ok(reply);
    }
    if limit.early {
        // Goes on to read while the reply is sent. Dropping the body closes the connection.
        tokio::spawn(async move {
            let _ = tokio::time::timeout(LINGER, drain(&mut body)).await;
        });
    }
    Ok(closing(reply))
}

/// The body, or its first `limit` bytes; and whether that is all of it.
async fn collect(body: &mut Incoming, limit: usize) -> io::Result<(Bytes, bool)> {
    let mut collected = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(io::Error::other)?.into_data() else {
            continue;
        };
        let room = limit - collected.len();
        if data.len() > room {
            collected.extend_from_slice(&data[..room]);
            return Ok((collected.freeze(), false));
        }
        collected.extend_from_slice(&data);
    }
    Ok((collected.freeze(), true))
}

/// Reads on, within reason.
async fn drain(body: &mut Incoming) -> io::Result<()> {
    let mut left = MAX_DRAINED;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(io::Error::other)?.into_data() else {
            continue;
        };
        left = left
            .checked_sub(data.len())
            .ok_or_else(|| io::Error::other("far too long a body"))?;
    }
    Ok(())
}

fn closing(mut reply: Response<ReplyBody>) -> Response<ReplyBody> {
    let close = HeaderValue::from_static("close");
    reply.headers_mut().insert(CONNECTION, close);
    reply
}

/// The reply as hyper takes it, which insists on a `Content-Length` that is true.
fn framed(method: &Method, reply: Response<Bytes>) -> Response<ReplyBody> {
    let (mut head, body) = reply.into_parts();
    let bodyless = *method == Method::HEAD
        || matches!(
            head.status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        );
    if bodyless {
        return Response::from_parts(head, whole(Bytes::new()));
    }
    let claimed = head
        .headers
        .remove(CONTENT_LENGTH)
        .and_then(|len| len.to_str().ok()?.parse::<u64>().ok());
    let len = body.len() as u64;
    let longer = claimed.filter(|claimed| *claimed > len);
    let trickle = head.extensions.remove::<Trickle>();
    if trickle.is_none() && longer.is_none() {
        return Response::from_parts(head, whole(body));
    }
    head.headers
        .insert(CONTENT_LENGTH, longer.unwrap_or(len).into());
    Response::from_parts(head, piecemeal(body, trickle, longer.is_some()))
}

fn whole(body: Bytes) -> ReplyBody {
    Full::new(body)
        .map_err(|never: Infallible| match never {})
        .boxed_unsync()
}

/// The bytes, slowly if wanted; then an error, if the rest is cut. In between one turn of the
/// connection, which sends what there is.
fn piecemeal(body: Bytes, trickle: Option<Trickle>, is_cut: bool) -> ReplyBody {
    let at_once = Trickle::new(body.len(), Duration::ZERO);
    let trickle = trickle.unwrap_or(at_once);
    let sent = stream::iter(trickle.pieces(body)).then(move |piece| async move {
        if !trickle.every.is_zero() {
            tokio::time::sleep(trickle.every).await;
        }
        Ok(Frame::data(piece))
    });
    let broken = stream::iter(is_cut.then_some(())).then(|()| async {
        tokio::task::yield_now().await;
        Err(io::Error::other("cut by the server"))
    });
    StreamBody::new(sent.chain(broken)).boxed_unsync()
}
