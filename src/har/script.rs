//! Which entry answers a request.
//!
//! Entries with the same key follow each other in recorded order. Between keys there is no order: who
//! is replayed has a pace of its own.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::{
    Har,
    exchange::{Exchange, Key, ReplayError, exchanges},
};
use crate::{Time, ids::JobId, time::WallTime};

/// News of a job come no earlier than they did, but for so much: who asks a little earlier than the
/// recorded runner hears of them too.
const EARLY: Duration = Duration::from_secs(1);

pub(super) struct Script {
    exchanges: Vec<Exchange>,
    /// What is left, by key.
    left: BTreeMap<Key, VecDeque<usize>>,
    /// When each job was handed out, in the recording.
    recorded: BTreeMap<JobId, WallTime>,
    /// And in the replay.
    replayed: BTreeMap<JobId, Time>,
}

/// What answers a request.
pub(super) enum Found {
    Entry(usize),
    /// There is none (left), or not yet.
    None,
}

impl Script {
    pub(super) fn new(har: &Har) -> Result<Self, ReplayError> {
        let exchanges = exchanges(har)?;
        let mut left: BTreeMap<Key, VecDeque<usize>> = BTreeMap::new();
        for (at, exchange) in exchanges.iter().enumerate() {
            left.entry(exchange.key.clone()).or_default().push_back(at);
        }
        Ok(Self {
            exchanges,
            left,
            recorded: BTreeMap::new(),
            replayed: BTreeMap::new(),
        })
    }

    pub(super) fn entry(&self, at: usize) -> &Exchange {
        &self.exchanges[at]
    }

    /// The next one with this key.
    pub(super) fn next(&self, key: &Key) -> Option<usize> {
        self.left.get(key)?.front().copied()
    }

    /// Takes the next one with this key.
    pub(super) fn take(&mut self, key: &Key) -> Found {
        match self.left.get_mut(key).and_then(VecDeque::pop_front) {
            Some(at) => Found::Entry(at),
            None => Found::None,
        }
    }

    /// Takes the one with this key whose time has come: those without news that are behind the time
    /// are passed over, and news are not told before theirs.
    pub(super) fn take_timed(&mut self, key: &Key, now: Time) -> Found {
        let (recorded, replayed) = match key.job {
            Some(job) => (self.recorded.get(&job), self.replayed.get(&job)),
            None => (None, None),
        };
        let (Some(recorded), Some(replayed)) = (recorded, replayed) else {
            return self.take(key);
        };
        let passed = now.since(*replayed);
        let Some(queue) = self.left.get_mut(key) else {
            return Found::None;
        };
        let due = |at: usize| {
            let started = self.exchanges[at].started;
            started.map(|started| started.since(*recorded))
        };
        while let Some(&at) = queue.front() {
            let is_news = self.exchanges[at].reply.is_news();
            let next = queue.get(1).and_then(|next| due(*next));
            if !is_news && next.is_some_and(|next| next <= passed) {
                queue.pop_front();
                continue;
            }
            if is_news && due(at).is_some_and(|due| due > passed + EARLY) {
                return Found::None;
            }
            queue.pop_front();
            return Found::Entry(at);
        }
        Found::None
    }

    /// The job of this entry is handed out now.
    pub(super) fn handed_out(&mut self, at: usize, job: JobId, now: Time) {
        let entry = &self.exchanges[at];
        if let Some(started) = entry.started {
            self.recorded
                .insert(job, WallTime(started.0 + entry.duration));
        }
        self.replayed.insert(job, now);
    }

    /// When a job was handed out in the replay.
    pub(super) fn replayed(&self, job: JobId) -> Option<Time> {
        self.replayed.get(&job).copied()
    }

    /// The recorded request that is most like this key: of what is left, or else of all.
    pub(super) fn nearest(&self, key: &Key) -> Option<usize> {
        let left = self.left.values().flatten().copied();
        let best = |entries: &mut dyn Iterator<Item = usize>| {
            let likeness = |at: &usize| self.exchanges[*at].key.likeness(key);
            entries
                .filter(|at| likeness(at) >= 4)
                // Of equals, the first.
                .max_by_key(|at| (likeness(at), std::cmp::Reverse(*at)))
        };
        best(&mut left.into_iter()).or_else(|| best(&mut (0..self.exchanges.len())))
    }

    /// What nobody has asked for, in order.
    pub(super) fn left(&self) -> Vec<usize> {
        let mut left: Vec<usize> = self.left.values().flatten().copied().collect();
        left.sort_unstable();
        left
    }

    /// Whether any entry is left for which this holds.
    pub(super) fn any_left(&self, holds: impl Fn(&Exchange) -> bool) -> bool {
        let mut left = self.left.values().flatten();
        left.any(|at| holds(&self.exchanges[*at]))
    }
}
