//! Idle connections of hyper, kept for the next request.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use futures::channel::oneshot;
use hyper::client::conn::http1::SendRequest;
use smol::{Task, Timer};

use crate::adapter::common::{MAX_IDLE, Outgoing};

/// The part of a URI that says where it leads to: `https://host:443`.
pub(super) type Place = Arc<str>;

/// A connection, and the end of the task that serves it.
pub(super) struct Connection {
    pub(super) sender: SendRequest<Outgoing>,
    pub(super) ended: oneshot::Receiver<Infallible>,
}

pub(super) struct Pool {
    state: Mutex<State>,
    idle_timeout: Duration,
}

#[derive(Default)]
struct State {
    /// The newest last.
    idle: HashMap<Place, Vec<Idle>>,
    /// Closes what is kept for too long. Ends with the pool, as nobody else holds it.
    sweeper: Option<Task<()>>,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

impl Pool {
    pub(super) fn new(idle_timeout: Duration) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            idle_timeout,
        })
    }

    /// The connection to this place that was used last. One whose end of the last exchange is not
    /// known yet is left for later.
    pub(super) fn take(&self, place: &Place) -> Option<Connection> {
        let mut state = self.lock();
        let idle = state.idle.get_mut(place)?;
        idle.retain(|idle| !idle.connection.sender.is_closed() && self.is_young(idle));
        let at = idle
            .iter()
            .rposition(|idle| idle.connection.sender.is_ready())?;
        Some(idle.remove(at).connection)
    }

    /// Keeps a connection behind an exchange.
    pub(super) fn put(self: &Arc<Self>, place: Place, connection: Connection) {
        if connection.sender.is_closed() || self.idle_timeout.is_zero() {
            return;
        }
        let mut state = self.lock();
        let idle = state.idle.entry(place).or_default();
        if idle.len() == MAX_IDLE {
            idle.remove(0);
        }
        idle.push(Idle {
            connection,
            since: Instant::now(),
        });
        if state.sweeper.is_none() {
            let sweeper = sweep(Arc::downgrade(self), self.idle_timeout);
            state.sweeper = Some(smol::spawn(sweeper));
        }
    }

    fn is_young(&self, idle: &Idle) -> bool {
        idle.since.elapsed() < self.idle_timeout
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes what was kept for too long, until there is nothing left.
async fn sweep(pool: Weak<Pool>, pause: Duration) {
    loop {
        Timer::after(pause).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut state = pool.lock();
        state.idle.retain(|_, idle| {
            idle.retain(|idle| !idle.connection.sender.is_closed() && pool.is_young(idle));
            !idle.is_empty()
        });
        if state.idle.is_empty() {
            // It is this task; dropped here, it would cancel itself.
            return state.sweeper.take().map_or((), Task::detach);
        }
    }
}
