//! What handlers did and saw, taken down by themselves.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use gitlab_runner::Time;

/// All pages, by the numbers of the jobs. More than one for a job is a mistake of the runner.
#[derive(Clone, Default)]
pub(crate) struct Book(Arc<Mutex<BTreeMap<u64, Vec<Page>>>>);

/// What one handler did.
#[derive(Clone)]
pub(crate) struct Page(Arc<Mutex<Notes>>);

#[derive(Clone, Debug)]
pub(crate) struct Notes {
    /// Which runner it ran on.
    pub(crate) runner: usize,
    /// When the runner asked for a handler.
    pub(crate) begun: Time,
    pub(crate) entries: Vec<(Time, Entry)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Given to the log.
    Wrote(Bytes),
    /// The handler is there.
    Made,
    /// It cannot be made; `told`: it had heard of a cancel by then.
    NotMade {
        told: bool,
    },
    MakingDropped,
    Begun(usize),
    /// Its step has heard that it is to stop.
    Told(usize),
    Ended(usize),
    Dropped(usize),
    /// What comes next is a panic with these words.
    Panics(String),
    AskedForFiles,
    CleanUp,
    CleanUpEnded,
    CleanUpDropped,
    /// The handler was dropped.
    Gone,
    /// Something is wrong that only the handler can see.
    Complains(String),
}

impl Book {
    pub(crate) fn open(&self, job: u64, runner: usize, now: Time) -> Page {
        let page = Page(Arc::new(Mutex::new(Notes {
            runner,
            begun: now,
            entries: Vec::new(),
        })));
        lock(&self.0).entry(job).or_default().push(page.clone());
        page
    }

    pub(crate) fn pages(&self) -> BTreeMap<u64, Vec<Notes>> {
        let notes = |pages: &Vec<Page>| pages.iter().map(|page| lock(&page.0).clone()).collect();
        let book = lock(&self.0);
        book.iter()
            .map(|(job, pages)| (*job, notes(pages)))
            .collect()
    }
}

impl Page {
    pub(crate) fn note(&self, now: Time, entry: Entry) {
        lock(&self.0).entries.push((now, entry));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
