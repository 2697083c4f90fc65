//! The options that all live adapters have, and their builder.

use std::{fmt, marker::PhantomData, path::PathBuf, time::Duration};

use http::HeaderValue;

use crate::adapter::{
    IDLE_CONNECTION,
    certificates::{Identity, Pem},
    proxy::Choice,
};

/// Options of a live adapter, as `TokioHyper::builder()` and its like give them. They are the same
/// for all.
#[must_use]
pub struct AdapterBuilder<A> {
    pub(super) options: Options,
    adapter: PhantomData<fn() -> A>,
}

/// What an [`AdapterBuilder`] was told.
#[derive(Clone)]
pub(super) struct Options {
    pub(super) authorities: Vec<Pem>,
    pub(super) system_roots: bool,
    pub(super) identity: Option<Identity>,
    pub(super) proxy: Choice,
    pub(super) no_proxy: Option<String>,
    pub(super) max_connections: Option<usize>,
    pub(super) max_idle: usize,
    pub(super) max_age: Option<Duration>,
    pub(super) idle_timeout: Duration,
    pub(super) connect_timeout: Duration,
    pub(super) user_agent: Option<HeaderValue>,
}

impl<A> AdapterBuilder<A> {
    pub(super) fn new() -> Self {
        Self {
            options: Options {
                authorities: Vec::new(),
                system_roots: true,
                identity: None,
                proxy: Choice::Environment,
                no_proxy: None,
                max_connections: None,
                max_idle: 128,
                max_age: None,
                idle_timeout: IDLE_CONNECTION,
                connect_timeout: Duration::from_secs(10),
                user_agent: None,
            },
            adapter: PhantomData,
        }
    }

    /// Trusts the certificates in `pem` besides those of the system. May be repeated.
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.options.authorities.push(given(pem));
        self
    }

    /// Trusts the certificates in this PEM file besides those of the system. May be repeated.
    ///
    /// The file is read when the adapter is built, and again when it has changed: before a new
    /// connection is made. A changed file that cannot be used changes nothing.
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.options.authorities.push(Pem::File(path.into()));
        self
    }

    /// Whether the system's certificate authorities are trusted, which they are by default. They
    /// are read once, when the first `https` request is made; `SSL_CERT_FILE` and `SSL_CERT_DIR`
    /// say where.
    pub fn system_roots(mut self, trusted: bool) -> Self {
        self.options.system_roots = trusted;
        self
    }

    /// Shows servers that ask for it this certificate (with those up to its authority behind it)
    /// and proves it with this key. Both are PEM.
    pub fn client_certificate_pem(
        mut self,
        chain: impl Into<Vec<u8>>,
        key: impl Into<Vec<u8>>,
    ) -> Self {
        let (chain, key) = (given(chain), given(key));
        self.options.identity = Some(Identity { chain, key });
        self
    }

    /// As [`client_certificate_pem`](Self::client_certificate_pem), with PEM files, which may be
    /// the same. They are read again when they have changed, as a [`ca_file`](Self::ca_file) is.
    pub fn client_certificate_files(
        mut self,
        chain: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Self {
        let (chain, key) = (Pem::File(chain.into()), Pem::File(key.into()));
        self.options.identity = Some(Identity { chain, key });
        self
    }

    /// Sends all requests through this proxy: `http://user:password@host:3128`, say. Requests over
    /// TLS go through a tunnel, of which the proxy learns host and port only.
    ///
    /// Without this, `HTTPS_PROXY` and `HTTP_PROXY` say which proxy there is (or `https_proxy` and
    /// `http_proxy`). They are read when the adapter is built, and do not count for loopback
    /// addresses and `localhost`.
    pub fn proxy(mut self, url: impl Into<String>) -> Self {
        self.options.proxy = Choice::Given(url.into());
        self
    }

    /// The hosts that need no proxy, instead of those in `NO_PROXY` (or `no_proxy`): names (of
    /// domains, too), addresses and networks (`10.0.0.0/8`) with commas in between; `*` for all. A
    /// name or address may end in a port, as in `host:8080`.
    pub fn no_proxy(mut self, hosts: impl Into<String>) -> Self {
        self.options.no_proxy = Some(hosts.into());
        self
    }

    /// Uses no proxy, whatever the environment says.
    pub fn without_proxy(mut self) -> Self {
        self.options.proxy = Choice::Direct;
        self
    }

    /// The most connections in use at a time, all servers together; no limit by default. Further
    /// requests wait until the reply to another one was read or dropped. A runner's long polling
    /// occupies one all the time, so less than two is treated as two.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.options.max_connections = Some(connections.max(2));
        self
    }

    /// The most connections kept unused for each server; 128 by default.
    pub fn max_idle_connections(mut self, connections: usize) -> Self {
        self.options.max_idle = connections;
        self
    }

    /// How old a connection may be when it is used again; no limit by default. With one, the
    /// servers behind a name or a load balancer that have come since get their share.
    pub fn max_connection_age(mut self, age: Duration) -> Self {
        self.options.max_age = Some(age);
        self
    }

    /// How long an unused connection is kept; 60 s by default. Should be less than the server's own
    /// limit (75 s is common), or requests meet connections that close under them.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.options.idle_timeout = timeout;
        self
    }

    /// The longest time to wait for a connection: all addresses of the host together, the proxy's
    /// tunnel and TLS; 10 s by default. The request's own timeout goes on beside it.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.options.connect_timeout = timeout;
        self
    }

    /// The `User-Agent` of all requests, in place of what they say. To put a name in front of the
    /// runner's own, tell the runner's builder.
    pub fn user_agent(mut self, value: HeaderValue) -> Self {
        self.options.user_agent = Some(value);
        self
    }
}

impl<A> Clone for AdapterBuilder<A> {
    fn clone(&self) -> Self {
        Self {
            options: self.options.clone(),
            adapter: PhantomData,
        }
    }
}

/// Shows neither keys nor proxies, which may hold passwords.
impl<A> fmt::Debug for AdapterBuilder<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.options.fmt_as("AdapterBuilder", f)
    }
}

impl Options {
    /// Shows them as those of `name`, without secrets.
    pub(super) fn fmt_as(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(name)
            .field("extra_authorities", &self.authorities.len())
            .field("system_roots", &self.system_roots)
            .field("client_certificate", &self.identity.is_some())
            .field("max_connections", &self.max_connections)
            .field("max_connection_age", &self.max_age)
            .field("idle_timeout", &self.idle_timeout)
            .field("connect_timeout", &self.connect_timeout)
            .finish_non_exhaustive()
    }
}

fn given(pem: impl Into<Vec<u8>>) -> Pem {
    Pem::Given(pem.into().into())
}
