//! The HTTP client of the adapters on hyper: one request on a connection that was kept or is new.
//!
//! Nothing else is remembered between requests. The only thing sent twice is a request whose kept
//! connection turned out to be closed before one byte of it was written: hyper gives it back, and it
//! goes out on another one.

use std::{pin::pin, sync::Arc};

use futures::{
    StreamExt,
    future::{self, Either},
    stream,
};
use http::{
    HeaderValue, Request, Response, Uri,
    header::{HOST, PROXY_AUTHORIZATION},
};
use hyper::body::Incoming;

use crate::adapter::{
    AdapterError, Body, TransportError,
    common::{Limit, Name, Outgoing, prepare},
    hyper_connect::Connector,
    hyper_net::Net,
    hyper_pool::{Connection, Place, Pool},
    hyper_reply::{Progress, failure, reply_body},
    options::Options,
    proxy::{Proxies, Proxy},
};

/// Connections, and how more are made.
pub(super) struct Client<N> {
    pool: Arc<Pool<N>>,
    connector: Connector<N>,
    proxies: Proxies,
    limit: Limit,
    user_agent: Option<HeaderValue>,
}

impl<N: Net> Client<N> {
    /// Reads the files that the options name.
    pub(super) fn new(net: N, options: &Options) -> Result<Self, AdapterError> {
        Ok(Self {
            pool: Pool::new(net.clone(), options),
            connector: Connector::new(net, options)?,
            proxies: Proxies::from_options(options)?,
            limit: Limit::of(options),
            user_agent: options.user_agent.clone(),
        })
    }

    /// Whether there was anything to do for `https`.
    pub(super) fn used_tls(&self) -> bool {
        self.connector.used_tls()
    }

    pub(super) async fn send(
        &self,
        request: Request<Body>,
    ) -> Result<Response<Body>, TransportError> {
        let name = Name::of(&request);
        let (request, secure) = prepare(request, self.user_agent.as_ref(), &name)?;
        let turn = self.limit.turn().await;
        let proxy = self.proxies.on_the_way(request.uri());
        let (mut request, target) = Target::of(request, secure, proxy);
        loop {
            let kept = self.pool.take(&target.place);
            let reused = kept.is_some();
            let mut connection = match kept {
                Some(connection) => connection,
                None => self.connector.connect(&target, &name).await?,
            };
            let reply = connection.sender.try_send_request(request);
            let (reply, connection, cause) =
                match future::select(pin!(reply), &mut connection.ended).await {
                    Either::Left((Ok(reply), _)) => (Ok(reply), Some(connection), None),
                    Either::Left((Err(error), _)) => {
                        // Without its sender the connection ends, and says why.
                        let Connection {
                            sender,
                            alive,
                            ended,
                            ..
                        } = connection;
                        drop((sender, alive));
                        let cause = match error.error().is_canceled() {
                            true => ended.await.ok().flatten(),
                            false => None,
                        };
                        (Err(error), None, cause)
                    }
                    Either::Right((cause, reply)) => {
                        // A request that crossed the end of its connection stays in between until
                        // both sides are gone.
                        drop(connection);
                        (reply.await, None, cause.ok().flatten())
                    }
                };
            match reply {
                Ok(reply) => {
                    let pool = self.pool.clone();
                    let keep = move || {
                        if let Some(connection) = connection {
                            pool.put(target.place, connection);
                        }
                    };
                    let reply = reply.map(|incoming| kept_body(incoming, name, keep));
                    return Ok(turn.until_read(reply));
                }
                Err(mut error) => match error.take_message() {
                    Some(unsent) if reused => request = unsent,
                    unsent => {
                        let progress = match unsent {
                            Some(_) => Progress::Unsent,
                            None if reused => Progress::Later,
                            None => Progress::First,
                        };
                        let error = error.into_error();
                        return Err(failure(error, cause, progress, &name));
                    }
                },
            }
        }
    }
}

/// Where a request goes.
pub(super) struct Target {
    pub(super) place: Place,
    /// Without the brackets of an IPv6 address.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) secure: bool,
    pub(super) proxy: Option<Proxy>,
}

impl Target {
    /// The request as it stands on the wire, and where it goes.
    fn of(
        mut request: Request<Outgoing>,
        secure: bool,
        proxy: Option<Proxy>,
    ) -> (Request<Outgoing>, Self) {
        let uri = std::mem::take(request.uri_mut());
        let mut host = uri.host().unwrap_or_default().to_ascii_lowercase();
        let default = if secure { 443 } else { 80 };
        let port = uri.port_u16().unwrap_or(default);
        let scheme = if secure { "https" } else { "http" };
        if !request.headers().contains_key(HOST) {
            // A host of a URI can stand in a header.
            let value = match port == default {
                true => HeaderValue::from_str(&host),
                false => HeaderValue::try_from(format!("{host}:{port}")),
            };
            if let Ok(value) = value {
                request.headers_mut().insert(HOST, value);
            }
        }
        // A proxy takes plain requests for everybody on the same connection.
        let place = match &proxy {
            Some(proxy) if !secure => {
                *request.uri_mut() = uri;
                if let Some(value) = &proxy.authorization {
                    let value = value.clone();
                    request.headers_mut().insert(PROXY_AUTHORIZATION, value);
                }
                format!("proxy {}", proxy.uri)
            }
            _ => {
                if let Some(path) = uri.path_and_query() {
                    *request.uri_mut() = Uri::from(path.clone());
                }
                format!("{scheme}://{host}:{port}")
            }
        };
        if host.starts_with('[') {
            host = host.trim_matches(['[', ']']).to_owned();
        }
        let target = Self {
            place: place.into(),
            host,
            port,
            secure,
            proxy,
        };
        (request, target)
    }
}

/// The body, which calls `keep` at its end.
fn kept_body(incoming: Incoming, name: Name, keep: impl FnOnce() + Send + 'static) -> Body {
    match reply_body(incoming, name) {
        Body::Stream { len, chunks } => {
            let end = stream::once(async move {
                keep();
                None
            });
            // A body that broke off has ended its connection, too.
            let chunks = chunks.map(Some).chain(end).filter_map(std::future::ready);
            Body::Stream {
                len,
                chunks: chunks.boxed(),
            }
        }
        body => {
            keep();
            body
        }
    }
}
