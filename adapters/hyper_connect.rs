//! New connections for the adapters on hyper: through a proxy or not, with TLS or without.

use std::{
    error::Error,
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::ready,
    time::Duration,
};

use futures::{
    StreamExt,
    channel::oneshot,
    future::{self, Either},
    stream::FuturesUnordered,
};
use http::{Uri, header::HeaderValue};
use hyper::{
    client::conn::http1,
    rt::{self, ReadBuf},
};
use rustls::{ClientConfig, pki_types::ServerName};

use crate::adapter::{
    AdapterError, TransportError, TransportErrorKind,
    certificates::{Certificates, Loaded},
    common::Name,
    hyper_client::Target,
    hyper_net::{Net, unblock},
    hyper_pool::Connection,
    hyper_reply::{BUFFER, Progress, failure},
    last_word::LastWord,
    options::Options,
    tls::client_config,
};

/// How long one address of a host has before the next one is tried beside it.
const HEAD_START: Duration = Duration::from_millis(250);

/// How long a connection that nobody uses any more may take to end.
const FAREWELL: Duration = Duration::from_secs(5);

/// The bound of a proxy's reply to the request for a tunnel, in bytes.
const MAX_TUNNEL_REPLY: usize = 16 * 1024;

/// Makes connections.
pub(super) struct Connector<N> {
    net: N,
    timeout: Duration,
    /// Whether certificates are in files.
    files: bool,
    tls: Arc<Tls>,
}

struct Tls {
    /// Locked by threads that may block, for as long as they read.
    certificates: Mutex<Certificates>,
    /// Set up when it is first needed: a user of http only should neither read the system's
    /// certificates nor fail for want of them.
    config: Mutex<Option<Arc<ClientConfig>>>,
}

impl Tls {
    fn config(&self) -> Option<Arc<ClientConfig>> {
        lock(&self.config).clone()
    }

    /// With certificates as they are now. Blocking.
    fn fresh_config(
        &self,
        set_up: impl FnOnce(&Loaded) -> Result<ClientConfig, Box<dyn Error + Send + Sync>>,
    ) -> Result<Arc<ClientConfig>, Box<dyn Error + Send + Sync>> {
        let mut certificates = lock(&self.certificates);
        let changed = certificates.refresh();
        if let Some(config) = self.config().filter(|_| !changed) {
            return Ok(config);
        }
        // If this fails, the next call must not take the one with other certificates.
        lock(&self.config).take();
        let config = Arc::new(set_up(certificates.loaded())?);
        *lock(&self.config) = Some(config.clone());
        Ok(config)
    }
}

impl<N: Net> Connector<N> {
    /// Reads the files that the options name.
    pub(super) fn new(net: N, options: &Options) -> Result<Self, AdapterError> {
        let certificates = Certificates::load(options)?;
        Ok(Self {
            net,
            timeout: options.connect_timeout,
            files: certificates.may_change(),
            tls: Arc::new(Tls {
                certificates: Mutex::new(certificates),
                config: Mutex::default(),
            }),
        })
    }

    pub(super) fn used_tls(&self) -> bool {
        self.tls.config().is_some()
    }

    pub(super) async fn connect(
        &self,
        target: &Target,
        name: &Name,
    ) -> Result<Connection, TransportError> {
        let late = self.net.sleep_until(self.net.now() + self.timeout);
        match future::select(pin!(self.establish(target, name)), late).await {
            Either::Left((connection, _)) => connection,
            Either::Right(_) => Err(unconnected(name, io::ErrorKind::TimedOut.into())),
        }
    }

    async fn establish(&self, target: &Target, name: &Name) -> Result<Connection, TransportError> {
        let mut stream = match &target.proxy {
            None => self
                .tcp(target.host(), target.port)
                .await
                .map_err(|error| unconnected(name, error))?,
            Some(proxy) => {
                let secure = proxy.uri.scheme_str() == Some("https");
                let port = proxy
                    .uri
                    .port_u16()
                    .unwrap_or(if secure { 443 } else { 80 });
                let host = bare(&proxy.uri);
                let stream = self.tcp(host, port).await.map_err(|error| {
                    // The name that people see is not that of who could not be reached.
                    let what = format!("the proxy {host}:{port} cannot be reached: {error}");
                    unconnected(name, io::Error::new(error.kind(), what))
                })?;
                let mut stream = match secure {
                    true => self.secure(host, stream, name).await?,
                    false => stream,
                };
                if target.secure {
                    let authorization = proxy.authorization.as_ref();
                    tunnel(&mut stream, target, authorization)
                        .await
                        .map_err(|error| unconnected(name, error))?;
                }
                stream
            }
        };
        if target.secure {
            stream = self.secure(target.host(), stream, name).await?;
        }
        self.handshake(stream, name).await
    }

    /// All addresses of the host, one after the other, each with a head start over the next.
    async fn tcp(&self, host: &str, port: u16) -> io::Result<N::Stream> {
        let addresses = match host.parse::<IpAddr>() {
            Ok(address) => vec![SocketAddr::new(address, port)],
            Err(_) => {
                let place = (host.to_owned(), port);
                let look_up =
                    move || -> io::Result<Vec<_>> { Ok(place.to_socket_addrs()?.collect()) };
                unblock(&self.net, look_up).await.flatten()?
            }
        };
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        let mut addresses = addresses.into_iter();
        let mut attempts = FuturesUnordered::new();
        while !attempts.is_empty() || addresses.len() > 0 {
            if let Some(address) = addresses.next() {
                attempts.push(self.net.connect(address));
            }
            let next = match addresses.len() {
                0 => Some(attempts.next().await),
                _ => {
                    let impatience = self.net.sleep_until(self.net.now() + HEAD_START);
                    match future::select(attempts.next(), impatience).await {
                        Either::Left((next, _)) => Some(next),
                        Either::Right(_) => None,
                    }
                }
            };
            match next.flatten() {
                Some(Ok(stream)) => return Ok(stream),
                Some(Err(error)) => last = error,
                None => {}
            }
        }
        Err(last)
    }

    async fn secure(
        &self,
        host: &str,
        stream: N::Stream,
        name: &Name,
    ) -> Result<N::Stream, TransportError> {
        let failed = |error: io::Error| {
            let detail = format!("TLS failed for {name}");
            TransportError::new(TransportErrorKind::Tls, false, detail).with_source(error)
        };
        let server = ServerName::try_from(host.to_owned())
            .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let tls = self.tls(name).await?;
        self.net.secure(tls, server, stream).await.map_err(failed)
    }

    /// TLS with certificates as they are now.
    async fn tls(&self, name: &Name) -> Result<Arc<ClientConfig>, TransportError> {
        if let Some(config) = self.tls.config().filter(|_| !self.files) {
            return Ok(config);
        }
        let tls = self.tls.clone();
        let config = unblock(&self.net, move || tls.fresh_config(client_config));
        let config = config.await.unwrap_or_else(|lost| Err(lost.into()));
        config.map_err(|error| {
            let detail = format!("TLS could not be set up for {name}");
            TransportError::new(TransportErrorKind::Tls, false, detail).with_source(error)
        })
    }

    async fn handshake(
        &self,
        stream: N::Stream,
        name: &Name,
    ) -> Result<Connection, TransportError> {
        let (sender, exchanges) = http1::Builder::new()
            .max_buf_size(BUFFER)
            .handshake(LastWord::new(stream))
            .await
            .map_err(|error| failure(error, None, Progress::Unsent, name))?;
        let (end, ended) = oneshot::channel();
        let (alive, gone) = oneshot::channel();
        let net = self.net.clone();
        // Ends when the last sender is dropped, but over TLS not if the server takes nothing: what
        // was encrypted is to be written ahead of the farewell.
        self.net.spawn(Box::pin(async move {
            let over = match future::select(exchanges, gone).await {
                Either::Left((over, _)) => over,
                Either::Right((_, exchanges)) => {
                    let late = net.sleep_until(net.now() + FAREWELL);
                    match future::select(exchanges, late).await {
                        Either::Left((over, _)) => over,
                        Either::Right(_) => Ok(()),
                    }
                }
            };
            let _ = end.send(over.err());
        }));
        Ok(Connection {
            sender,
            alive,
            ended,
            since: self.net.now(),
            host: None,
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unconnected(name: &Name, error: io::Error) -> TransportError {
    let detail = format!("there is no connection for {name}");
    TransportError::new(TransportErrorKind::Connect, false, detail).with_source(error)
}

/// The host, without the brackets of an IPv6 address.
fn bare(uri: &Uri) -> &str {
    uri.host().unwrap_or_default().trim_matches(['[', ']'])
}

/// Has the proxy at the other end of `stream` connect us through. It hears nothing else of the
/// request.
async fn tunnel(
    stream: &mut (impl rt::Read + rt::Write + Unpin),
    target: &Target,
    authorization: Option<&HeaderValue>,
) -> io::Result<()> {
    let place = match target.host().contains(':') {
        true => format!("[{}]:{}", target.host(), target.port),
        false => format!("{}:{}", target.host(), target.port),
    };
    let mut request = format!("CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n").into_bytes();
    if let Some(value) = authorization {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(value.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    let mut left = &*request;
    while !left.is_empty() {
        let written = poll_fn(|cx| Pin::new(&mut *stream).poll_write(cx, left)).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        left = &left[written..];
    }
    poll_fn(|cx| Pin::new(&mut *stream).poll_flush(cx)).await?;

    let mut reply = Vec::new();
    // Byte by byte: what comes behind the head belongs to the tunnel.
    while !reply.ends_with(b"\r\n\r\n") {
        if reply.len() == MAX_TUNNEL_REPLY {
            return Err(io::Error::other("the proxy's reply has no end"));
        }
        match read_byte(stream).await? {
            Some(byte) => reply.push(byte),
            None => return Err(io::Error::other("the proxy closed the connection")),
        }
    }
    let line = reply.split(|byte| *byte == b'\r').next().unwrap_or(&[]);
    let line = String::from_utf8_lossy(line);
    match line.split_once(' ') {
        Some((version, status)) if version.starts_with("HTTP/1.") && status.starts_with('2') => {
            Ok(())
        }
        _ => Err(io::Error::other(format!(
            "the proxy refused the tunnel: {}",
            line.escape_debug()
        ))),
    }
}

async fn read_byte(stream: &mut (impl rt::Read + Unpin)) -> io::Result<Option<u8>> {
    let mut byte = [0];
    let mut buffer = ReadBuf::new(&mut byte);
    poll_fn(|cx| {
        ready!(Pin::new(&mut *stream).poll_read(cx, buffer.unfilled()))?;
        std::task::Poll::Ready(io::Result::Ok(()))
    })
    .await?;
    Ok(buffer.filled().first().copied())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::options::AdapterBuilder;

    #[test]
    fn old_certificates_are_gone_though_new_ones_fail_at_first() {
        let authority = || {
            let key = rcgen::KeyPair::generate().unwrap();
            let params = rcgen::CertificateParams::default();
            params.self_signed(&key).unwrap().pem()
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, authority()).unwrap();
        let builder = AdapterBuilder::<()>::new()
            .system_roots(false)
            .ca_file(file.path());
        let tls = Tls {
            certificates: Mutex::new(Certificates::load(&builder.options).unwrap()),
            config: Mutex::default(),
        };
        let old = tls.fresh_config(client_config).unwrap();
        assert!(Arc::ptr_eq(&old, &tls.fresh_config(client_config).unwrap()));
        std::fs::write(&file, authority()).unwrap();
        tls.fresh_config(|_| Err("not now".into())).unwrap_err();
        let new = tls.fresh_config(client_config).unwrap();
        assert!(!Arc::ptr_eq(&old, &new));
    }
}
