//! The log of one job: its spool behind a lock, and a word to the driver when it grows.

use std::{
    fmt, io,
    ops::Range,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use futures::{StreamExt, stream};

use crate::{
    adapter::{Adapter, Body},
    ids::JobId,
    spool::SpoolFile,
    sync::lock,
    trace::{TraceMark, TraceSpool},
};

/// Everybody who writes for the job has it, and the driver, who sends parts of it.
pub(crate) struct JobLog {
    job: JobId,
    /// Whether the driver knows that it grows.
    awake: AtomicBool,
    inner: Mutex<Inner>,
    /// What is no longer in memory.
    spilled: Mutex<Option<Arc<SpoolFile>>>,
    /// Whether older bytes are about to be stored, or could not be.
    spilling: AtomicBool,
    /// Whether they could not be.
    stuck: AtomicBool,
    /// Where they are stored.
    dir: PathBuf,
    tell: Box<dyn Fn(LogNews) + Send + Sync>,
}

/// What the driver is told of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogNews {
    /// There are new bytes, and it did not know that the log grows.
    Grew,
    /// Much of it is in memory: [`JobLog::spill`] is to be called where blocking is allowed.
    Swelled,
}

/// So much of a log stays in memory.
const HOT: u64 = 1 << 20;
/// So much may wait in memory to be stored.
const MOST: u64 = 8 << 20;
/// Older bytes are stored in pieces of about this size.
const SPILL_SIZE: u64 = 512 << 10;

enum Inner {
    /// There is no spool yet: lines of the runner that came too early.
    Early(Vec<String>),
    Open {
        spool: TraceSpool,
        /// Whether the last byte ended a line.
        at_line_start: bool,
    },
    /// Nothing is written any more, but still sent.
    Finished {
        spool: TraceSpool,
        mark: TraceMark,
    },
    Closed(TraceMark),
}

/// How GitLab's own runner marks its lines.
#[derive(Clone, Copy)]
pub(crate) enum Colour {
    Warning,
    Error,
}

impl JobLog {
    pub(crate) fn new(
        job: JobId,
        dir: PathBuf,
        tell: impl Fn(LogNews) + Send + Sync + 'static,
    ) -> Self {
        Self {
            job,
            awake: AtomicBool::new(false),
            inner: Mutex::new(Inner::Early(Vec::new())),
            spilled: Mutex::default(),
            spilling: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
            dir,
            tell: Box::new(tell),
        }
    }

    /// Whose log it is.
    #[cfg(feature = "tracing")]
    pub(super) fn job(&self) -> JobId {
        self.job
    }

    /// Lets writing begin.
    pub(crate) fn open(&self, spool: TraceSpool) {
        let mut inner = lock(&self.inner);
        let Inner::Early(early) = &mut *inner else {
            return;
        };
        let early = std::mem::take(early);
        *inner = Inner::Open {
            spool,
            at_line_start: true,
        };
        drop(inner);
        for line in early {
            self.write_line(&line);
        }
    }

    /// Writes bytes as they are.
    pub(crate) fn write(&self, bytes: &[u8]) {
        self.write_all(&[bytes]);
    }

    /// Writes a line and its end.
    pub(crate) fn write_line(&self, line: &str) {
        self.write_all(&[line.as_bytes(), b"\n"]);
    }

    /// Writes a line of the runner, on a line of its own; kept if there is no spool yet.
    pub(crate) fn note(&self, line: String) {
        let start = match &mut *lock(&self.inner) {
            Inner::Early(early) => {
                early.push(line);
                return;
            }
            Inner::Open {
                at_line_start: false,
                ..
            } => "\n",
            _ => "",
        };
        self.write_all(&[start.as_bytes(), line.as_bytes(), b"\n"]);
    }

    /// Writes a line of the runner as GitLab's own runner would colour it.
    pub(crate) fn coloured(&self, colour: Colour, text: &str) {
        let (code, label) = match colour {
            Colour::Warning => ("\x1b[0;33m", "WARNING"),
            Colour::Error => ("\x1b[31;1m", "ERROR"),
        };
        self.note(format!("{code}{label}: {text}\x1b[0;m"));
    }

    /// The log as it is now, but for what the masker still holds back.
    pub(crate) fn mark(&self) -> TraceMark {
        match &*lock(&self.inner) {
            Inner::Early(_) => TraceMark::default(),
            Inner::Open { spool, .. } => spool.mark(),
            Inner::Finished { mark, .. } | Inner::Closed(mark) => *mark,
        }
    }

    /// Takes no more bytes. Gives the log as it is for good.
    pub(crate) fn finish(&self) -> TraceMark {
        let mut inner = lock(&self.inner);
        let (state, mark) =
            match std::mem::replace(&mut *inner, Inner::Closed(TraceMark::default())) {
                Inner::Early(_) => (Inner::Closed(TraceMark::default()), TraceMark::default()),
                Inner::Open { mut spool, .. } => {
                    let mark = spool.finish();
                    (Inner::Finished { spool, mark }, mark)
                }
                Inner::Finished { spool, mark } => (Inner::Finished { spool, mark }, mark),
                Inner::Closed(mark) => (Inner::Closed(mark), mark),
            };
        *inner = state;
        mark
    }

    /// Frees its memory.
    pub(crate) fn close(&self) {
        let mark = self.finish();
        *lock(&self.inner) = Inner::Closed(mark);
        *lock(&self.spilled) = None;
    }

    /// These bytes of the log; `None` if they are not there.
    pub(crate) fn body(&self, range: Range<u64>, adapter: &Arc<dyn Adapter>) -> Option<Body> {
        let len = range.end.checked_sub(range.start)?;
        let (stored, mut chunks) = match &mut *lock(&self.inner) {
            Inner::Open { spool, .. } | Inner::Finished { spool, .. } => {
                let from = spool.start().clamp(range.start, range.end);
                (range.start..from, spool.read(from..range.end)?)
            }
            Inner::Early(_) | Inner::Closed(_) => return None,
        };
        if stored.is_empty() && chunks.len() == 1 {
            return chunks.pop().map(Body::Full);
        }
        let in_memory = stream::iter(chunks).map(Ok);
        let chunks = if stored.is_empty() {
            in_memory.boxed()
        } else {
            let file = lock(&self.spilled).clone()?;
            file.stream(stored, Arc::clone(adapter))
                .chain(in_memory)
                .boxed()
        };
        Some(Body::Stream {
            len: Some(len),
            chunks,
        })
    }

    /// Stores older bytes in a file and frees their memory. Blocks. May be called by several at
    /// once.
    ///
    /// # Errors
    /// When the file cannot be written. Nothing is lost then, and it is not tried again.
    pub(crate) fn spill(&self) -> io::Result<()> {
        self.spill_cold()
            .inspect(|()| self.spilling.store(false, Ordering::SeqCst))
            .inspect_err(|_| self.stuck.store(true, Ordering::SeqCst))
    }

    fn spill_cold(&self) -> io::Result<()> {
        while let Some((start, cold)) = self.cold() {
            let file = self.spill_file()?;
            file.write(start, &cold)?;
            let len: usize = cold.iter().map(Bytes::len).sum();
            if let Inner::Open { spool, .. } | Inner::Finished { spool, .. } =
                &mut *lock(&self.inner)
            {
                spool.forget(start + len as u64);
            }
        }
        Ok(())
    }

    fn cold(&self) -> Option<(u64, Vec<Bytes>)> {
        match &*lock(&self.inner) {
            Inner::Open { spool, .. } | Inner::Finished { spool, .. }
                if spool.in_memory() >= HOT + SPILL_SIZE =>
            {
                let cold = spool.cold(HOT);
                (!cold.is_empty()).then(|| (spool.start(), cold))
            }
            _ => None,
        }
    }

    fn spill_file(&self) -> io::Result<Arc<SpoolFile>> {
        let known = lock(&self.spilled).clone();
        if let Some(file) = known {
            return Ok(file);
        }
        // Not under the lock, which the driver takes too: a disk may be slow.
        let file = Arc::new(SpoolFile::create(&self.dir)?);
        Ok(Arc::clone(lock(&self.spilled).get_or_insert(file)))
    }

    /// The driver looks no more: the next write tells it.
    pub(crate) fn rest(&self) {
        self.awake.store(false, Ordering::SeqCst);
    }

    /// Whether it was at rest until now.
    pub(crate) fn wake(&self) -> bool {
        !self.awake.swap(true, Ordering::SeqCst)
    }

    fn write_all(&self, parts: &[&[u8]]) {
        let waiting = {
            let mut inner = lock(&self.inner);
            let Inner::Open {
                spool,
                at_line_start,
            } = &mut *inner
            else {
                return;
            };
            for part in parts {
                if let Some(last) = part.last() {
                    *at_line_start = *last == b'\n';
                    spool.write(part);
                }
            }
            spool.in_memory()
        };
        if self.wake() {
            (self.tell)(LogNews::Grew);
        }
        if waiting >= HOT + SPILL_SIZE && !self.spilling.swap(true, Ordering::SeqCst) {
            (self.tell)(LogNews::Swelled);
        }
        if waiting >= MOST && !self.stuck.load(Ordering::SeqCst) {
            // Whoever writes faster than that, and may hold up the driver, does it himself. What
            // goes wrong is told by the other one, which was asked for it before.
            let _ = self.spill_cold();
        }
    }
}

impl fmt::Debug for JobLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobLog")
            .field("job", &self.job)
            .field("mark", &self.mark())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Masker;

    #[test]
    fn a_writer_that_nobody_helps_stores_what_is_too_much() {
        let dir = tempfile::tempdir().unwrap();
        let log = JobLog::new(JobId(1), dir.path().to_owned(), |_| ());
        log.open(TraceSpool::new(Masker::none(), u64::MAX));
        let chunk = [b'x'; 100_000];
        for _ in 0..300 {
            log.write(&chunk);
            let Inner::Open { spool, .. } = &*lock(&log.inner) else {
                panic!("closed");
            };
            assert!(spool.in_memory() <= MOST + chunk.len() as u64);
        }
        assert_eq!(log.mark().len, 30_000_000);
        assert!(lock(&log.spilled).as_ref().unwrap().len() >= 20_000_000);
    }
}
