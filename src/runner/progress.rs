//! Whether an exchange moves, and when it has taken too long.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, stream};

use crate::{
    Time,
    adapter::{Adapter, Body},
    machine::TimeLimit,
};

/// The longest piece of a body that is handed over at a time, in bytes: that it was taken is the
/// only sign that a slow connection is not a dead one.
const SIGN: usize = 16 << 10;

/// One exchange and its time.
pub(super) struct Progress {
    adapter: Arc<dyn Adapter>,
    limit: TimeLimit,
    begun: Time,
    /// Where the limit depends on them.
    moves: Option<Arc<Moves>>,
}

/// When something last moved.
struct Moves {
    adapter: Arc<dyn Adapter>,
    /// In nanoseconds since the adapter's origin.
    last: AtomicU64,
    /// All of the request has been taken, and the reply has not begun.
    waiting: AtomicBool,
}

impl Moves {
    fn note(&self) {
        let now = self.adapter.now().since(Time::ZERO).as_nanos();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    fn sent(&self) {
        self.note();
        self.waiting.store(true, Ordering::Relaxed);
    }

    fn last(&self) -> Time {
        Time::ZERO + Duration::from_nanos(self.last.load(Ordering::Relaxed))
    }
}

impl Progress {
    pub(super) fn new(adapter: &Arc<dyn Adapter>, limit: TimeLimit) -> Self {
        let moves = match limit {
            TimeLimit::Total(_) => None,
            TimeLimit::Idle { .. } => {
                let moves = Moves {
                    adapter: Arc::clone(adapter),
                    last: AtomicU64::new(0),
                    waiting: AtomicBool::new(false),
                };
                moves.note();
                Some(Arc::new(moves))
            }
        };
        Self {
            adapter: Arc::clone(adapter),
            limit,
            begun: adapter.now(),
            moves,
        }
    }

    pub(super) fn note(&self) {
        if let Some(moves) = &self.moves {
            moves.note();
        }
    }

    pub(super) fn replied(&self) {
        if let Some(moves) = &self.moves {
            moves.note();
            moves.waiting.store(false, Ordering::Relaxed);
        }
    }

    /// Completes when the time is over.
    pub(super) async fn is_over(&self) {
        loop {
            let now = self.adapter.now();
            let last = self.moves.as_ref().map_or(self.begun, |moves| moves.last());
            let (deadline, next_look) = match (self.limit, &self.moves) {
                (TimeLimit::Total(limit), _) => (self.begun + limit, self.begun + limit),
                // The reply may begin at any time, and has less of it from then on.
                (TimeLimit::Idle { reply, stall }, Some(moves))
                    if moves.waiting.load(Ordering::Relaxed) =>
                {
                    (last + reply, now + stall)
                }
                (TimeLimit::Idle { stall, .. }, _) => (last + stall, now + stall),
            };
            if now >= deadline {
                return;
            }
            self.adapter.sleep_until(deadline.min(next_look)).await;
        }
    }

    /// The same body, where that counts in pieces that are not too long, with a note of each that is
    /// taken.
    pub(super) fn watched(&self, body: Body) -> Body {
        let Some(moves) = &self.moves else {
            return body;
        };
        let Body::Stream { len, chunks } = body else {
            moves.sent();
            return body;
        };
        let (moves, over) = (Arc::clone(moves), Arc::clone(moves));
        let pieces = chunks.flat_map(|chunk| {
            let mut rest = Some(chunk);
            stream::iter(std::iter::from_fn(move || match rest.take()? {
                Ok(mut bytes) => {
                    let piece: Bytes = bytes.split_to(SIGN.min(bytes.len()));
                    rest = Some(bytes).filter(|bytes| !bytes.is_empty()).map(Ok);
                    Some(Ok(piece))
                }
                Err(error) => Some(Err(error)),
            }))
        });
        let end = stream::once(async move {
            over.sent();
            None
        });
        let chunks = pieces
            .inspect(move |_| moves.note())
            .map(Some)
            .chain(end)
            .filter_map(std::future::ready)
            .boxed();
        Body::Stream { len, chunks }
    }
}
