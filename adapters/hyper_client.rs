//! The HTTP client of the adapters on hyper: one request on a connection that was kept or is new.
//!
//! Nothing else is remembered between requests. The only thing sent twice is a request whose kept
//! connection turned out to be closed before one byte of it was written: hyper gives it back, and it
//! goes out on another one.

use std::{pin::pin, sync::Arc};

use futures::future::{self, Either};
use http::{
    HeaderValue, Request, Response, Uri,
    header::{HOST, PROXY_AUTHORIZATION},
    uri::Authority,
};

use crate::adapter::{
    AdapterError, Body, TransportError, TransportErrorKind,
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
        let target = Target::of(request, secure, proxy);
        let (mut request, target) = target.ok_or_else(|| {
            let detail = format!("{name} cannot be sent: there is no host");
            TransportError::new(TransportErrorKind::Request, false, detail)
        })?;
        let names_host = request.headers().contains_key(HOST);
        loop {
            let kept = self.pool.take(&target.place);
            let reused = kept.is_some();
            let mut connection = match kept {
                Some(connection) => connection,
                // Rare, and larger than all the rest.
                None => Box::pin(self.connector.connect(&target, &name)).await?,
            };
            if !names_host && let Some(host) = target.host_header(&mut connection) {
                request.headers_mut().insert(HOST, host);
            }
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
                    let reply = reply.map(|incoming| reply_body(incoming, name, keep));
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
    /// Of the server; `place` may be a proxy's.
    server: Authority,
    pub(super) port: u16,
    pub(super) secure: bool,
    pub(super) proxy: Option<Proxy>,
}

impl Target {
    /// The request as it stands on the wire, and where it goes; none without a host.
    fn of(
        mut request: Request<Outgoing>,
        secure: bool,
        proxy: Option<Proxy>,
    ) -> Option<(Request<Outgoing>, Self)> {
        let uri = std::mem::take(request.uri_mut());
        let server = uri.authority()?;
        let default = if secure { 443 } else { 80 };
        let port = server.port_u16().unwrap_or(default);
        let server = match server.as_str().len() == server.host().len() || port != default {
            true => server.clone(),
            false => server.host().parse().ok()?,
        };
        let place = match &proxy {
            Some(proxy) if !secure => {
                *request.uri_mut() = uri;
                if let Some(value) = &proxy.authorization {
                    let value = value.clone();
                    request.headers_mut().insert(PROXY_AUTHORIZATION, value);
                }
                Place {
                    authority: proxy.uri.authority()?.clone(),
                    secure: proxy.uri.scheme_str() == Some("https"),
                    is_proxy: true,
                }
            }
            _ => {
                if let Some(path) = uri.into_parts().path_and_query {
                    *request.uri_mut() = Uri::from(path);
                }
                Place {
                    authority: server.clone(),
                    secure,
                    is_proxy: false,
                }
            }
        };
        let target = Self {
            place,
            server,
            port,
            secure,
            proxy,
        };
        Some((request, target))
    }

    /// What every request on this connection says, but for a proxy's.
    fn host_header(&self, connection: &mut Connection) -> Option<HeaderValue> {
        if connection.host.is_none() || self.place.is_proxy {
            // An authority can stand in a header.
            connection.host = HeaderValue::from_str(self.server.as_str()).ok();
        }
        connection.host.clone()
    }

    /// Without the brackets of an IPv6 address.
    pub(super) fn host(&self) -> &str {
        self.server.host().trim_matches(['[', ']'])
    }
}
