//! The live adapter on async-std and isahc, which is libcurl with rustls.
//!
//! libcurl does all HTTP on a thread of its own; async-std runs tasks, timers and blocking work.
//! What it would do beyond one request and one reply is switched off: redirects, decompression,
//! `Expect: 100-continue`, proxies of the environment. Bodies are given to it as streams, which it
//! cannot read twice and so not send twice.

use std::{
    error::Error,
    fmt,
    io::{self, Write},
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use async_std::task;
use bytes::{Buf, Bytes, BytesMut};
use futures::{AsyncRead, AsyncReadExt, FutureExt, StreamExt, future::BoxFuture, stream};
use http::{
    Method, Request, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, TRANSFER_ENCODING},
};
use http_body::Body as _;
use isahc::{
    AsyncBody, HttpClient,
    config::{Configurable, RedirectPolicy, VersionNegotiation},
    error::ErrorKind,
    tls::{Identity, PrivateKey, TlsConfig, TrustStore},
};
use tempfile::NamedTempFile;

use crate::{
    Time,
    adapter::{
        Adapter, AdapterError, Body, TransportError, TransportErrorKind,
        certificates::{Certificates, Loaded, nobody_is_trusted},
        common::{Limit, Name, Outgoing, contained, prepare},
        options::{AdapterBuilder, Options},
        proxy::{Proxies, Proxy},
    },
};

/// The adapter for programs on async-std. Clones share connections.
///
/// async-std is no longer maintained: for a new program take smol, which is as small and can be
/// used from the same code. Libraries that a program links must not enable isahc's feature
/// `native-tls` beside: isahc cannot be built with both.
///
/// What libcurl and isahc do otherwise than the other adapters:
/// * A request without a body is sent once more if the connection that it went out on had been used
///   before and was closed without a reply. The runner sends none that changes anything.
/// * The connection of a request or reply that was dropped is closed when the server next sends
///   something, or after five minutes without a word.
/// * A server that does not accept the client's certificate, or wants one, looks like one that broke
///   the connection where it says so behind the handshake, as in TLS 1.3: isahc drops what libcurl
///   tells of it. The error says that this may be the cause.
/// * A server that answers in the middle of a request and closes at once may look like one that broke
///   the connection.
/// * The limit of unused connections is for all servers together, and the time that they are kept
///   counts in whole seconds.
#[derive(Clone)]
pub struct AsyncStdIsahc {
    inner: Arc<Inner>,
}

impl AsyncStdIsahc {
    /// The adapter with the system's certificate authorities, the proxies of the environment and
    /// default timeouts.
    ///
    /// # Errors
    /// `Proxy` for one in the environment that is none.
    pub fn new() -> Result<Self, AdapterError> {
        Self::builder().build()
    }

    /// An adapter with options.
    pub fn builder() -> AdapterBuilder<Self> {
        AdapterBuilder::new()
    }
}

/// Shows no secrets.
impl fmt::Debug for AsyncStdIsahc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.options.fmt_as("AsyncStdIsahc", f)
    }
}

impl AdapterBuilder<AsyncStdIsahc> {
    /// The adapter.
    ///
    /// # Errors
    /// `Certificate` for a certificate or key that cannot be read or used; `Proxy` for a proxy that
    /// is none.
    pub fn build(self) -> Result<AsyncStdIsahc, AdapterError> {
        let options = self.options;
        let certificates = Certificates::load(&options)?;
        Ok(AsyncStdIsahc {
            inner: Arc::new(Inner {
                origin: Instant::now(),
                proxies: Proxies::from_options(&options)?,
                limit: Limit::of(&options),
                files: certificates.may_change(),
                certificates: Mutex::new(certificates),
                options,
                http: Mutex::default(),
                https: Mutex::default(),
            }),
        })
    }
}

impl Adapter for AsyncStdIsahc {
    fn now(&self) -> Time {
        Time(self.inner.origin.elapsed())
    }

    fn sleep_until(&self, deadline: Time) -> BoxFuture<'static, ()> {
        // No deadline is too far: an `Instant` cannot hold them all, so the way there is cut.
        const STRIDE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
        let origin = self.inner.origin;
        Box::pin(async move {
            loop {
                let left = deadline.since(Time(origin.elapsed()));
                if left.is_zero() {
                    return;
                }
                task::sleep(left.min(STRIDE)).await;
            }
        })
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        drop(task::spawn(AssertUnwindSafe(task).catch_unwind()));
    }

    fn unblock(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        let (work, over) = contained(work);
        drop(task::spawn_blocking(work));
        over
    }

    fn send(
        &self,
        request: Request<Body>,
    ) -> BoxFuture<'static, Result<Response<Body>, TransportError>> {
        let inner = self.inner.clone();
        Box::pin(async move {
            let name = Name::of(&request);
            let user_agent = inner.options.user_agent.as_ref();
            let (request, secure) = prepare(request, user_agent, &name)?;
            let turn = inner.limit.turn().await;
            let proxy = inner.proxies.on_the_way(request.uri());
            let secure_proxy = proxy
                .as_ref()
                .is_some_and(|proxy| proxy.uri.scheme_str() == Some("https"));
            let client = inner.client(secure || secure_proxy, &name).await?;
            let method = request.method().clone();
            let broken = Slot::default();
            let request = request_for(request, proxy, &broken);
            let sent = Instant::now();
            let reply = match client.get().send_async(request).await {
                Ok(reply) => reply_for(&method, reply, client, name)?,
                Err(error) => {
                    let took = sent.elapsed();
                    return Err(failure(error, secure, &broken, took, &name));
                }
            };
            Ok(turn.until_read(reply))
        })
    }
}

/// When libcurl gives up a connection on which nothing is said: longer than the runner waits. Of a
/// request that was dropped isahc tells it nothing before something comes.
const SILENCE: Duration = Duration::from_secs(5 * 60);

struct Inner {
    origin: Instant,
    options: Options,
    proxies: Proxies,
    limit: Limit,
    /// Whether certificates are in files.
    files: bool,
    /// Locked by threads that may block, for as long as they read or start libcurl.
    certificates: Mutex<Certificates>,
    http: Mutex<Option<Arc<Client>>>,
    https: Mutex<Option<Arc<Client>>>,
}

impl Inner {
    /// libcurl, which is started when it is first needed: a user of http only should neither read
    /// the system's certificates nor fail for want of them. Started anew with other certificates,
    /// and when connections have become too old; requests go on at the one that they began at.
    async fn client(
        self: &Arc<Self>,
        secure: bool,
        name: &Name,
    ) -> Result<Arc<Client>, TransportError> {
        if let Some(client) = self.kept(secure).filter(|_| !(secure && self.files)) {
            return Ok(client);
        }
        let inner = self.clone();
        let client = task::spawn_blocking(move || inner.fresh_client(secure)).await;
        client.map_err(|error| {
            let (kind, what) = match secure {
                true => (TransportErrorKind::Tls, "TLS"),
                false => (TransportErrorKind::Request, "libcurl"),
            };
            let detail = format!("{what} could not be set up for {name}");
            TransportError::new(kind, false, detail).with_source(error)
        })
    }

    /// The one that there is, unless its connections are too old.
    fn kept(&self, secure: bool) -> Option<Arc<Client>> {
        let max = self.options.max_age;
        let is_young = |client: &Arc<Client>| max.is_none_or(|max| client.since.elapsed() < max);
        lock(self.slot(secure)).clone().filter(is_young)
    }

    /// With certificates as they are now. Blocking.
    fn fresh_client(&self, secure: bool) -> Result<Arc<Client>, Box<dyn Error + Send + Sync>> {
        let mut certificates = lock(&self.certificates);
        let changed = secure && certificates.refresh();
        if let Some(client) = self.kept(secure).filter(|_| !changed) {
            return Ok(client);
        }
        let tls = secure.then(|| certificates.loaded().as_ref());
        // If this fails, the next call must not take the one with other certificates.
        lock(self.slot(secure)).take();
        let client = Arc::new(Client::start(tls, &self.options)?);
        *lock(self.slot(secure)) = Some(client.clone());
        Ok(client)
    }

    fn slot(&self, secure: bool) -> &Mutex<Option<Arc<Client>>> {
        if secure { &self.https } else { &self.http }
    }
}

/// The last one to let go of isahc's client waits for its thread. So it has to be this.
struct Client {
    http: Option<HttpClient>,
    since: Instant,
    /// libcurl reads them for each connection.
    _identity: Option<[NamedTempFile; 2]>,
}

impl Client {
    /// With TLS if there are certificates. Blocking: reads those of the system, if there are others
    /// to trust besides.
    fn start(
        tls: Option<&Loaded>,
        options: &Options,
    ) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let mut builder = HttpClient::builder()
            .redirect_policy(RedirectPolicy::None)
            .automatic_decompression(false)
            .expect_continue(false)
            .version_negotiation(VersionNegotiation::http11())
            .tcp_nodelay()
            .connect_timeout(limit(options.connect_timeout, Duration::from_millis(1)))
            .low_speed_timeout(1, SILENCE)
            .connection_cache_size(match options.idle_timeout.is_zero() {
                true => 0,
                false => options.max_idle,
            })
            .connection_cache_ttl(limit(options.idle_timeout, Duration::from_secs(1)));
        let mut identity = None;
        if let Some(loaded) = tls {
            let mut config = TlsConfig::builder();
            // libcurl trusts either the system's authorities or those it is given.
            if !loaded.system || !loaded.authorities.is_empty() {
                config = config.trust_store(trust(loaded)?);
            }
            if let Some([chain, key]) = &loaded.identity {
                // It is silent about a certificate in memory, and does not send it.
                let [chain, key] = [written(chain)?, written(key)?];
                let private = PrivateKey::from_pem_file(key.path(), None);
                config = config.identity(Identity::from_pem_file(chain.path(), Some(private)));
                identity = Some([chain, key]);
            }
            let config = config.build();
            builder = builder.tls_config(config.clone()).proxy_tls_config(config);
        }
        Ok(Self {
            http: Some(builder.build()?),
            since: Instant::now(),
            _identity: identity,
        })
    }

    #[allow(clippy::expect_used, reason = "it is taken only when this is dropped")]
    fn get(&self) -> &HttpClient {
        self.http.as_ref().expect("not dropped yet")
    }
}

/// A limit that libcurl takes for what it is, which counts in `unit`s: none of them would be no limit,
/// and more than it can count an error.
fn limit(limit: Duration, unit: Duration) -> Duration {
    limit.clamp(unit, Duration::from_millis(i32::MAX as u64))
}

fn trust(loaded: &Loaded) -> Result<TrustStore, String> {
    let mut trust = TrustStore::builder();
    let mut system = rustls_native_certs::CertificateResult::default();
    if loaded.system {
        system = rustls_native_certs::load_native_certs();
    }
    let all = system.certs.iter().chain(&loaded.authorities);
    // libcurl cannot be given a list of none.
    if all.clone().next().is_none() {
        return Err(nobody_is_trusted(system.errors));
    }
    for authority in all {
        trust = trust.certificate_from_der(authority);
    }
    Ok(trust.build())
}

/// A file that only we can read.
fn written(pem: &[u8]) -> io::Result<NamedTempFile> {
    let mut file = NamedTempFile::new()?;
    file.write_all(pem)?;
    Ok(file)
}

impl Drop for Client {
    fn drop(&mut self) {
        let client = self.http.take();
        drop(task::spawn_blocking(move || drop(client)));
    }
}

fn request_for(
    request: Request<Outgoing>,
    proxy: Option<Proxy>,
    broken: &Slot,
) -> Request<AsyncBody> {
    let (mut head, body) = request.into_parts();
    // Said by isahc, which would repeat ours.
    head.headers.remove(TRANSFER_ENCODING);
    let declared = head.headers.remove(CONTENT_LENGTH);
    let len = body.size_hint().exact();
    if len == Some(0) {
        if let Some(zero) = declared {
            head.headers.insert(CONTENT_LENGTH, zero);
        }
    } else if !head.headers.contains_key(CONTENT_TYPE) {
        // libcurl would say that it is a form.
        let unknown = HeaderValue::from_static("application/octet-stream");
        head.headers.insert(CONTENT_TYPE, unknown);
    }
    let reader = Reader(Mutex::new(Upload {
        body,
        chunk: Bytes::new(),
        broken: broken.clone(),
    }));
    let body = match len {
        Some(0) => AsyncBody::empty(),
        Some(len) => AsyncBody::from_reader_sized(reader, len),
        None => AsyncBody::from_reader(reader),
    };
    let mut config = Request::builder()
        // Ours to say, not that of `no_proxy` in the environment.
        .proxy_blacklist([""; 0])
        .proxy(proxy.map(|proxy| proxy.given));
    if let Some(config) = config.extensions_mut() {
        head.extensions.extend(std::mem::take(config));
    }
    Request::from_parts(head, body)
}

/// The error of a request's body, which is not to be mistaken for one of the connection.
type Slot = Arc<Mutex<Option<Box<dyn Error + Send + Sync>>>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Never locked: isahc wants a reader that is `Sync`, and the body of a request is not.
struct Reader(Mutex<Upload>);

struct Upload {
    body: Outgoing,
    chunk: Bytes,
    broken: Slot,
}

impl AsyncRead for Reader {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let upload = self
            .get_mut()
            .0
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        while upload.chunk.is_empty() {
            match ready!(Pin::new(&mut upload.body).poll_frame(cx)) {
                Some(Ok(frame)) => upload.chunk = frame.into_data().unwrap_or_default(),
                Some(Err(error)) => {
                    *lock(&upload.broken) = Some(error.into());
                    return Poll::Ready(Err(io::Error::other("the body cannot be read")));
                }
                None => return Poll::Ready(Ok(0)),
            }
        }
        let read = buffer.len().min(upload.chunk.len());
        upload.chunk.copy_to_slice(&mut buffer[..read]);
        Poll::Ready(Ok(read))
    }
}

fn reply_for(
    method: &Method,
    reply: Response<AsyncBody>,
    client: Arc<Client>,
    name: Name,
) -> Result<Response<Body>, TransportError> {
    const BLOCK: usize = 64 * 1024;
    let (head, body) = reply.into_parts();
    let bodyless = *method == Method::HEAD
        || matches!(
            head.status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        );
    let len = body.len();
    if bodyless || len == Some(0) {
        return Ok(Response::from_parts(head, Body::Empty));
    }
    // To libcurl the end of the connection is the end of the head as well. A server that ends a
    // body like that says so, or knows no other way.
    if len.is_none()
        && head.version != Version::HTTP_10
        && !head.headers.contains_key(TRANSFER_ENCODING)
        && !head.headers.contains_key(CONNECTION)
    {
        let detail = format!("there is no whole reply to {name}");
        return Err(TransportError::new(
            TransportErrorKind::Broken,
            true,
            detail,
        ));
    }
    // In this order they are dropped.
    let state = Some((body, client, name, BytesMut::new()));
    let chunks = stream::unfold(state, |state| async {
        let (mut body, client, name, mut buffer) = state?;
        buffer.resize(BLOCK, 0);
        match body.read(&mut buffer).await {
            Ok(0) => None,
            Ok(read) => {
                let chunk = buffer.split_to(read).freeze();
                Some((Ok(chunk), Some((body, client, name, buffer))))
            }
            Err(error) => {
                let detail = format!("the reply to {name} broke off");
                let kind = error.kind();
                let error = TransportError::new(TransportErrorKind::Broken, true, detail)
                    .with_source(error);
                Some((Err(io::Error::new(kind, error)), None))
            }
        }
    });
    let chunks = chunks.boxed();
    Ok(Response::from_parts(head, Body::Stream { len, chunks }))
}

fn failure(
    error: isahc::Error,
    secure: bool,
    broken: &Slot,
    took: Duration,
    name: &Name,
) -> TransportError {
    use TransportErrorKind::{Body, Broken, Connect, Request, Timeout, Tls};
    if let Some(cause) = lock(broken).take() {
        let detail = format!("the body could not be read for {name}");
        return TransportError::new(Body, true, detail).with_source(cause);
    }
    // Codes of libcurl that isahc does not tell from others.
    let is = |code: &str| {
        let curl = error.source();
        curl.is_some_and(|curl| curl.to_string().starts_with(code))
    };
    // `CURLE_SSL_CONNECT_ERROR`, `CURLE_RECV_ERROR`.
    let (handshake, receiving) = (is("[35]"), is("[56]"));
    let (kind, maybe_delivered, what) = match error.kind() {
        ErrorKind::BadClientCertificate
        | ErrorKind::BadServerCertificate
        | ErrorKind::InvalidTlsConfiguration
        | ErrorKind::TlsEngine => (Tls, false, "TLS failed for"),
        ErrorKind::ConnectionFailed if handshake => (Tls, false, "TLS failed for"),
        // Of libcurl's limits that on connections is the only other one.
        ErrorKind::Timeout if took >= SILENCE => (Timeout, true, "nothing came in reply to"),
        ErrorKind::ConnectionFailed | ErrorKind::NameResolution | ErrorKind::Timeout => {
            (Connect, false, "there is no connection for")
        }
        ErrorKind::ClientInitialization | ErrorKind::InvalidRequest => {
            (Request, false, "libcurl cannot send")
        }
        ErrorKind::Io if secure && receiving => (
            Broken,
            true,
            "the connection broke, or the server wants another client certificate, for",
        ),
        _ => (Broken, true, "there is no usable reply to"),
    };
    TransportError::new(kind, maybe_delivered, format!("{what} {name}")).with_source(error)
}
