//! Idle connections of hyper, kept for the next request.

use std::{
    collections::HashMap,
    hash::{Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use futures::{
    channel::oneshot,
    future::{self, Either},
};
use http::{HeaderValue, uri::Authority};
use hyper::client::conn::http1::SendRequest;

use crate::{
    Time,
    adapter::{common::Outgoing, hyper_net::Net, options::Options},
};

/// The part of a URI that says where it leads to. Nothing is copied for it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// In any case of letters, without a port that goes without saying.
    pub(super) authority: Authority,
    pub(super) secure: bool,
    /// The server is a proxy that takes plain requests for everybody.
    pub(super) is_proxy: bool,
}

/// There are few places, so little of them tells them apart.
impl Hash for Place {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.authority.as_str().len(), self.secure, self.is_proxy).hash(state);
    }
}

/// A connection, and the end of the task that serves it.
pub(super) struct Connection {
    pub(super) sender: SendRequest<Outgoing>,
    /// Tells the task when this is dropped.
    pub(super) alive: oneshot::Sender<()>,
    /// Why it ended.
    pub(super) ended: oneshot::Receiver<Option<hyper::Error>>,
    pub(super) since: Time,
    /// The `Host` of the last request.
    pub(super) host: Option<HeaderValue>,
}

/// Connections that nobody uses.
pub(super) struct Pool<N> {
    net: N,
    state: Mutex<State>,
    idle_timeout: Duration,
    max_idle: usize,
    max_age: Option<Duration>,
}

#[derive(Default)]
struct State {
    /// The newest last.
    idle: HashMap<Place, Vec<Idle>>,
    /// While there is a task that closes what is kept for too long. It ends with this.
    sweeper: Option<oneshot::Sender<()>>,
}

struct Idle {
    connection: Connection,
    since: Time,
}

impl<N: Net> Pool<N> {
    pub(super) fn new(net: N, options: &Options) -> Arc<Self> {
        Arc::new(Self {
            net,
            state: Mutex::default(),
            idle_timeout: options.idle_timeout,
            max_idle: options.max_idle,
            max_age: options.max_age,
        })
    }

    /// The connection to this place that was used last. One whose end of the last exchange is not
    /// known yet is left for later.
    pub(super) fn take(&self, place: &Place) -> Option<Connection> {
        let now = self.net.now();
        let mut state = self.lock();
        let idle = state.idle.get_mut(place)?;
        idle.retain(|idle| self.may_stay(idle, now));
        let at = idle
            .iter()
            .rposition(|idle| idle.connection.sender.is_ready())?;
        Some(idle.remove(at).connection)
    }

    /// Keeps a connection behind an exchange.
    pub(super) fn put(self: &Arc<Self>, place: Place, connection: Connection) {
        let now = self.net.now();
        let idle = Idle {
            connection,
            since: now,
        };
        if self.max_idle == 0 || !self.may_stay(&idle, now) {
            return;
        }
        let mut state = self.lock();
        let all = state.idle.entry(place).or_default();
        if all.len() >= self.max_idle {
            all.remove(0);
        }
        all.push(idle);
        if state.sweeper.is_none() {
            let (goes_on, ended) = oneshot::channel();
            state.sweeper = Some(goes_on);
            let sweeper = sweep(Arc::downgrade(self), self.pause(), ended);
            self.net.spawn(Box::pin(sweeper));
        }
    }

    fn may_stay(&self, idle: &Idle, now: Time) -> bool {
        let connection = &idle.connection;
        !connection.sender.is_closed()
            && now.since(idle.since) < self.idle_timeout
            && self
                .max_age
                .is_none_or(|max| now.since(connection.since) < max)
    }

    /// Until there may be something to close.
    fn pause(&self) -> future::BoxFuture<'static, ()> {
        let pause = self
            .max_age
            .map_or(self.idle_timeout, |max| max.min(self.idle_timeout));
        // A limit of no time at all keeps nothing, and so has nothing to look for.
        self.net.sleep_until(self.net.now() + pause)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes what was kept for too long, until there is nothing left, or the pool is gone.
async fn sweep<N: Net>(
    pool: Weak<Pool<N>>,
    mut pause: future::BoxFuture<'static, ()>,
    mut ended: oneshot::Receiver<()>,
) {
    loop {
        if let Either::Right(_) = future::select(pause, &mut ended).await {
            return;
        }
        let Some(pool) = pool.upgrade() else { return };
        let now = pool.net.now();
        let mut state = pool.lock();
        state.idle.retain(|_, idle| {
            idle.retain(|idle| pool.may_stay(idle, now));
            !idle.is_empty()
        });
        if state.idle.is_empty() {
            state.sweeper = None;
            return;
        }
        pause = pool.pause();
    }
}
