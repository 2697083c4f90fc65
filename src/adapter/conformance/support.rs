//! A scripted [`Server`], raw TCP servers, a certificate authority, and short ways to send.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    future::Future,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    panic::{self, AssertUnwindSafe},
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use bytes::Bytes;
use futures::{
    StreamExt,
    channel::oneshot,
    future::{self, Either},
};
use http::{Request, Response};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{
    RootCertStore, ServerConfig, ServerConnection,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};

use crate::{
    Time,
    adapter::{Adapter, Body, TransportError, TransportErrorKind},
    mock::{Answer, HoldId, Server, http::ServerTls},
    sync::lock,
};

/// The longest that a test waits for one thing, which takes not nearly as long.
pub const LIMIT: Duration = Duration::from_secs(30);

/// A test that hangs ends here: later, so that it can say what it was waiting for.
const HANG: Duration = Duration::from_secs(60);

/// How long a raw server bears a silent client: longer than any test, in which it would look like
/// one that has gone.
const SILENCE: Duration = Duration::from_secs(120);

/// Ends a test that hangs, by a panic. Needs no runtime.
pub async fn bounded<T>(test: impl Future<Output = T>) -> T {
    let (_goes_on, ended) = mpsc::channel::<()>();
    let (ring, alarm) = oneshot::channel();
    thread::spawn(move || {
        if ended.recv_timeout(HANG) == Err(mpsc::RecvTimeoutError::Timeout) {
            let _ = ring.send(());
        }
    });
    match future::select(pin!(test), alarm).await {
        Either::Left((result, _)) => result,
        Either::Right(_) => panic!("the test hangs"),
    }
}

/// The result of work that may block, done on a thread of its own; its panic is that of the test.
pub async fn elsewhere<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = oneshot::channel();
    thread::spawn(move || drop(done.send(panic::catch_unwind(AssertUnwindSafe(work)))));
    let result = result.await.expect("a panic is a result, too");
    result.unwrap_or_else(|panic| panic::resume_unwind(panic))
}

/// The result of a task that the adapter runs by itself, from now on.
pub fn spawned<T: Send + 'static>(
    adapter: &dyn Adapter,
    task: impl Future<Output = T> + Send + 'static,
) -> impl Future<Output = T> + Send {
    let (done, result) = oneshot::channel();
    adapter.spawn(Box::pin(async move { drop(done.send(task.await)) }));
    async { result.await.expect("the task was lost") }
}

/// A request without headers.
pub fn request(method: &str, uri: &str, body: Body) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(uri)
        .body(body)
        .unwrap()
}

/// Sends a `GET`.
///
/// # Errors
/// Those of the adapter.
pub async fn get(adapter: &dyn Adapter, uri: &str) -> Result<Response<Body>, TransportError> {
    adapter.send(request("GET", uri, Body::Empty)).await
}

/// A whole body in memory.
///
/// # Errors
/// The first one of the body.
pub async fn collect(body: Body) -> io::Result<Vec<u8>> {
    match body {
        Body::Empty => Ok(Vec::new()),
        Body::Full(bytes) => Ok(bytes.to_vec()),
        Body::Stream { mut chunks, .. } => {
            let mut all = Vec::new();
            while let Some(chunk) = chunks.next().await {
                all.extend_from_slice(&chunk?);
            }
            Ok(all)
        }
    }
}

/// Asserts what the adapter has to say about a failure.
pub fn assert_failure(error: &TransportError, kind: TransportErrorKind, maybe_delivered: bool) {
    assert_eq!(
        (error.kind(), error.maybe_delivered()),
        (kind, maybe_delivered),
        "{error}"
    );
}

/// A server whose paths say what it does: `/hold`, `/later`, `/close`, `/cut`, `/redirect`,
/// `/wrong-length`, `/status/404`; all others give the request's body back.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Probe {
    /// `METHOD /path` of every request.
    pub seen: Vec<String>,
    /// Open holds, oldest first.
    pub holds: Vec<HoldId>,
    /// Holds whose client went away.
    pub dropped: Vec<HoldId>,
    /// Holds to be answered.
    pub released: VecDeque<HoldId>,
    due: VecDeque<(Time, HoldId)>,
    /// Shows when the server itself is dropped.
    pub life: Arc<()>,
}

impl Probe {
    fn hold(&mut self) -> HoldId {
        let hold = HoldId::new(self.seen.len() as u64);
        self.holds.push(hold);
        hold
    }
}

impl Server for Probe {
    fn handle(&mut self, now: Time, request: Request<Bytes>) -> Answer {
        let path = request.uri().path().to_owned();
        self.seen.push(format!("{} {path}", request.method()));
        let reply = |status: u16| Response::builder().status(status);
        match path.as_str() {
            "/hold" => Answer::Hold(self.hold()),
            "/later" => {
                let hold = self.hold();
                self.due.push_back((now + Duration::from_millis(5), hold));
                Answer::Hold(hold)
            }
            "/close" => Answer::Close,
            "/cut" => Answer::Reply(
                reply(200)
                    .header("content-length", 10)
                    .body(Bytes::from_static(b"abc"))
                    .unwrap(),
            ),
            "/redirect" => Answer::Reply(
                reply(302)
                    .header("location", "/landed")
                    .body(Bytes::new())
                    .unwrap(),
            ),
            "/wrong-length" => Answer::Reply(
                reply(200)
                    .header("content-length", 1)
                    .body(request.into_body())
                    .unwrap(),
            ),
            path => {
                let status = path
                    .strip_prefix("/status/")
                    .map_or(200, |code| code.parse().unwrap());
                Answer::Reply(reply(status).body(request.into_body()).unwrap())
            }
        }
    }

    fn poll_answer(&mut self, now: Time) -> Option<(HoldId, Answer)> {
        if self.due.front().is_some_and(|(due, _)| *due <= now) {
            self.released
                .extend(self.due.pop_front().map(|(_, hold)| hold));
        }
        let hold = self.released.pop_front()?;
        self.holds.retain(|held| *held != hold);
        Some((
            hold,
            Answer::Reply(Response::new(Bytes::from_static(b"released"))),
        ))
    }

    fn poll_timeout(&self) -> Option<Time> {
        self.due.front().map(|(due, _)| *due)
    }

    fn drop_hold(&mut self, hold: HoldId) {
        self.holds.retain(|held| *held != hold);
        self.dropped.push(hold);
    }
}

/// A TCP server on a free port that does what the test says with each connection, on a thread of
/// its own.
#[derive(Debug)]
pub struct Raw {
    addr: SocketAddr,
    stop: Arc<AtomicBool>,
    connections: Arc<Mutex<BTreeMap<usize, TcpStream>>>,
    thread: Option<JoinHandle<()>>,
}

impl Raw {
    /// Calls `serve` with each connection.
    pub fn start(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let connections = Arc::new(Mutex::new(BTreeMap::new()));
        let (stopped, serving) = (stop.clone(), connections.clone());
        let thread = thread::spawn(move || {
            // Joins all the others at its end, and panics if one of them did.
            thread::scope(|scope| {
                let (serve, serving) = (&serve, &serving);
                for (number, stream) in listener.incoming().enumerate() {
                    let stream = stream.unwrap();
                    lock(serving).insert(number, stream.try_clone().unwrap());
                    if stopped.load(Ordering::SeqCst) {
                        return;
                    }
                    stream.set_read_timeout(Some(SILENCE)).unwrap();
                    stream.set_write_timeout(Some(SILENCE)).unwrap();
                    scope.spawn(move || {
                        serve(stream);
                        lock(serving).remove(&number);
                    });
                }
            });
        });
        Self {
            addr,
            stop,
            connections,
            thread: Some(thread),
        }
    }

    /// Replies this to everything, then reads until the client closes.
    pub fn reply(reply: impl Into<Vec<u8>>) -> Self {
        let reply = reply.into();
        Self::start(move |mut stream| {
            if read_head(&mut stream).is_some() {
                // A client that does not like what it reads is gone before the end.
                drop(stream.write_all(&reply));
                drain(&mut stream);
            }
        })
    }

    /// A server that speaks TLS 1.3 and wants certificates of `clients`, which the client does not
    /// have. It tells so when the client takes the handshake to be done and has sent a request.
    pub fn refusing(tls: &ServerTls, clients: &Authority) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        let pem = clients.pem();
        roots
            .add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
            .unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(
                CertificateDer::pem_slice_iter(&tls.cert_chain_pem)
                    .collect::<Result<_, _>>()
                    .unwrap(),
                PrivateKeyDer::from_pem_slice(&tls.key_pem).unwrap(),
            )
            .unwrap();
        let config = Arc::new(config);
        Self::start(move |mut stream| {
            let mut tls = ServerConnection::new(config.clone()).unwrap();
            while tls.is_handshaking() {
                if tls.complete_io(&mut stream).is_err() {
                    break;
                }
            }
            assert!(tls.is_handshaking(), "the client has a certificate");
            while tls.wants_write() {
                tls.write_tls(&mut stream).unwrap();
            }
            drain(&mut stream);
        })
    }

    /// The URL of this path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.addr.port()
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // The client may be on a runtime that this very thread is holding up.
        for stream in lock(&self.connections).values() {
            drop(stream.shutdown(Shutdown::Both));
        }
        drop(TcpStream::connect(self.addr));
        let ended = self.thread.take().unwrap().join();
        if !thread::panicking() {
            ended.expect("the raw server panicked");
        }
    }
}

/// The request line and headers in lower case; `None` if the client left before their end.
pub fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return None,
        }
    }
    Some(String::from_utf8(head).unwrap().to_lowercase())
}

/// Reads until the client closes, so that our own close cannot overtake what was sent.
pub fn drain(stream: &mut TcpStream) {
    drop(io::copy(stream, &mut io::sink()));
}

/// A certificate authority of a test.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// One of this name. Two of the same name differ in their keys.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    /// Its certificate.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for a server that has these names or addresses. It is good for a client, too.
    pub fn server(&self, names: &[&str]) -> ServerTls {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(names)
            .unwrap()
            .signed_by(&key, &self.0)
            .unwrap();
        ServerTls {
            cert_chain_pem: certificate.pem().into_bytes(),
            key_pem: key.serialize_pem().into_bytes(),
            client_authority_pem: None,
        }
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}
