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

use super::batch::{Batch, Piece};
use crate::{
    adapter::{Adapter, Body},
    ids::JobId,
    spool::SpoolFile,
    sync::lock,
    time::WallTime,
    trace::{TraceMark, TraceSpool, TraceStream},
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
    /// Held by who stores them. False once they could not be.
    can_spill: Mutex<bool>,
    /// Where to.
    dir: PathBuf,
    clock: Clock,
    tell: Box<dyn Fn(LogNews) + Send + Sync>,
}

/// What the driver is told of a log.
#[derive(Debug)]
pub(crate) enum LogNews {
    /// There are new bytes, and it did not know that the log grows.
    Grew,
    /// Much of it is in memory: [`JobLog::spill`] is to be called where blocking is allowed.
    Swelled,
    /// It could not be stored and stays there.
    NotStored(io::Error),
}

/// So much of a log stays in memory.
const HOT: u64 = 64 << 10;
/// With so much, what is older is stored: a thread has to be woken each time.
const SWOLLEN: u64 = 512 << 10;
/// Who writes faster than they are stored has to store them.
const MOST: u64 = 768 << 10;

enum Inner {
    /// There is no spool yet: lines of the runner that came too early.
    Early(Vec<String>),
    Open {
        spool: TraceSpool,
        /// What is still to be written to it.
        batch: Batch,
    },
    /// Nothing is written any more, but still sent.
    Finished {
        spool: TraceSpool,
        mark: TraceMark,
    },
    Closed(TraceMark),
}

/// A log has grown, and somebody may have to hear of it.
#[derive(Clone, Copy)]
pub(super) struct Grown {
    /// How much of it is there; 0 if that is what it was.
    in_memory: u64,
}

/// Tells the time of the day.
pub(crate) type Clock = Box<dyn Fn() -> WallTime + Send + Sync>;

/// How GitLab's own runner marks its lines.
#[derive(Clone, Copy)]
pub(crate) enum Colour {
    Warning,
    Error,
}

impl JobLog {
    /// Stores in `dir` what is too much for the memory.
    pub(crate) fn new(
        job: JobId,
        dir: PathBuf,
        clock: Clock,
        tell: impl Fn(LogNews) + Send + Sync + 'static,
    ) -> Self {
        Self {
            job,
            awake: AtomicBool::new(false),
            inner: Mutex::new(Inner::Early(Vec::new())),
            spilled: Mutex::default(),
            spilling: AtomicBool::new(false),
            can_spill: Mutex::new(true),
            dir,
            clock,
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
            batch: Batch::default(),
        };
        drop(inner);
        for line in early {
            self.note(line);
        }
    }

    /// The wall clock.
    pub(crate) fn now(&self) -> WallTime {
        (self.clock)()
    }

    /// Writes bytes as they are.
    pub(crate) fn write(&self, stream: TraceStream, bytes: &[u8]) {
        let is_text = false;
        if let Some(grown) = self.append(stream, Piece { bytes, is_text }) {
            self.attend(grown);
        }
    }

    /// The same, but [`attend`](Self::attend) is to be called with what it gives: that may do
    /// anything, as this does not.
    #[inline(always)]
    pub(super) fn append(&self, stream: TraceStream, piece: Piece<'_>) -> Option<Grown> {
        let inner = &mut *lock(&self.inner);
        self.append_to(inner, stream, piece)
    }

    /// Writes a line of the runner, on a line of its own; kept if there is no spool yet.
    pub(crate) fn note(&self, line: String) {
        let grown = {
            let inner = &mut *lock(&self.inner);
            let start = match inner {
                Inner::Early(early) => return early.push(line),
                // With timestamps the runner has lines of its own.
                Inner::Open { spool, batch }
                    if !spool.has_timestamps() && !batch.at_line_start() =>
                {
                    "\n"
                }
                _ => "",
            };
            let line = [start, &line, "\n"].concat();
            let piece = Piece {
                bytes: line.as_bytes(),
                is_text: true,
            };
            self.append_to(inner, TraceStream::Runner, piece)
        };
        if let Some(grown) = grown {
            self.attend(grown);
        }
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
        let (mark, in_memory) = match &mut *lock(&self.inner) {
            Inner::Early(_) => return TraceMark::default(),
            Inner::Open { spool, batch } => {
                batch.empty(spool);
                (spool.mark(), spool.in_memory())
            }
            Inner::Finished { mark, .. } | Inner::Closed(mark) => return *mark,
        };
        // Of a log that is looked at often, no write ever finds its batch full.
        self.tell_if_swollen(in_memory);
        mark
    }

    /// Takes no more bytes. Gives the log as it is for good.
    pub(crate) fn finish(&self) -> TraceMark {
        let mut inner = lock(&self.inner);
        let (state, mark) =
            match std::mem::replace(&mut *inner, Inner::Closed(TraceMark::default())) {
                Inner::Early(_) => (Inner::Closed(TraceMark::default()), TraceMark::default()),
                Inner::Open {
                    mut spool,
                    mut batch,
                } => {
                    batch.empty(&mut spool);
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
        if stored.is_empty()
            && let Some(file) = &*lock(&self.spilled)
        {
            file.relax();
        }
        if stored.is_empty() && chunks.len() == 1 {
            return chunks.pop().map(Body::Full);
        }
        let in_memory = stream::iter(chunks).map(Ok);
        let chunks = if stored.is_empty() {
            in_memory.boxed()
        } else {
            let file = lock(&self.spilled).clone()?;
            file.stream(stored, 1, Arc::clone(adapter))
                .chain(in_memory)
                .boxed()
        };
        Some(Body::Stream {
            len: Some(len),
            chunks,
        })
    }

    /// Stores older bytes in a file and frees their memory. Blocks. When that fails, nothing is lost,
    /// and it is not tried again.
    pub(crate) fn spill(&self) {
        let stored = {
            let mut can_spill = lock(&self.can_spill);
            if !*can_spill {
                return;
            }
            let stored = self.store_cold();
            *can_spill = stored.is_ok();
            stored
        };
        match stored {
            Ok(()) => self.spilling.store(false, Ordering::SeqCst),
            // Outside of the lock: whoever hears of it may write to this log.
            Err(error) => (self.tell)(LogNews::NotStored(error)),
        }
    }

    fn store_cold(&self) -> io::Result<()> {
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
                if spool.in_memory() >= SWOLLEN =>
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

    #[inline(always)]
    fn append_to(&self, inner: &mut Inner, stream: TraceStream, piece: Piece<'_>) -> Option<Grown> {
        let Inner::Open { spool, batch } = inner else {
            return None;
        };
        let Piece { bytes, is_text } = piece;
        // With timestamps there never is room.
        let in_memory = match batch.take(piece) {
            true => 0,
            false => self.append_more(spool, batch, stream, bytes, is_text),
        };
        let is_news = in_memory >= SWOLLEN || !self.awake.load(Ordering::SeqCst);
        is_news.then_some(Grown { in_memory })
    }

    /// How much is in memory then, without the batch, which cannot be stored.
    #[inline(never)]
    fn append_more(
        &self,
        spool: &mut TraceSpool,
        batch: &mut Batch,
        stream: TraceStream,
        bytes: &[u8],
        is_text: bool,
    ) -> u64 {
        if spool.has_timestamps() {
            // Where a write ends makes a difference there.
            spool.write_from(stream, bytes, (self.clock)());
        } else {
            batch.add(Piece { bytes, is_text }, spool);
        }
        spool.in_memory()
    }

    /// Tells of it, and stores what is too much.
    #[cold]
    pub(super) fn attend(&self, Grown { in_memory }: Grown) {
        if self.wake() {
            (self.tell)(LogNews::Grew);
        }
        self.tell_if_swollen(in_memory);
        if in_memory >= MOST {
            self.spill();
        }
    }

    fn tell_if_swollen(&self, in_memory: u64) {
        if in_memory >= SWOLLEN && !self.spilling.swap(true, Ordering::SeqCst) {
            (self.tell)(LogNews::Swelled);
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
    use std::sync::mpsc;

    use super::*;
    use crate::trace::Masker;

    /// A log in `dir` to which 10 MiB were written while nobody else stored any of it.
    fn written(dir: PathBuf) -> (JobLog, Vec<LogNews>) {
        let (tell, told) = mpsc::channel();
        let log = JobLog::new(JobId(1), dir, Box::new(WallTime::default), move |news| {
            tell.send(news).unwrap()
        });
        log.open(TraceSpool::new(Masker::none(), u64::MAX));
        for _ in 0..20 {
            log.write(TraceStream::Stdout, &[b'x'; 512 << 10]);
        }
        let told = told.try_iter().collect();
        (log, told)
    }

    fn in_memory(log: &JobLog) -> u64 {
        match &*lock(&log.inner) {
            Inner::Open { spool, .. } => spool.in_memory(),
            _ => 0,
        }
    }

    #[test]
    fn a_log_that_grows_slowly_is_stored_as_well() {
        let (tell, told) = mpsc::channel();
        let dir = tempfile::tempdir().unwrap();
        let clock = Box::new(WallTime::default);
        let log = JobLog::new(JobId(1), dir.path().to_owned(), clock, move |news| {
            tell.send(news).unwrap()
        });
        log.open(TraceSpool::new(Masker::none(), u64::MAX));
        let mut stored = 0;
        for lines in 1..=20_000 {
            log.write(TraceStream::Stdout, &[b'x'; 100]);
            assert_eq!(log.mark().len, lines * 100);
            if told.try_iter().any(|it| matches!(it, LogNews::Swelled)) {
                stored += 1;
                log.spill();
            }
            assert!(in_memory(&log) <= SWOLLEN, "{}", in_memory(&log));
        }
        assert!(stored > 2);
    }

    #[test]
    fn who_writes_faster_than_the_log_is_stored_stores_it() {
        let dir = tempfile::tempdir().unwrap();
        let (log, _) = written(dir.path().to_owned());
        assert!(in_memory(&log) < MOST, "{}", in_memory(&log));
        assert_eq!(log.mark().len, 10 << 20);
    }

    #[test]
    fn a_line_of_the_runner_begins_a_line_whoever_writes_at_the_same_time() {
        let log = JobLog::new(
            JobId(1),
            PathBuf::new(),
            Box::new(WallTime::default),
            |_| (),
        );
        log.open(TraceSpool::new(Masker::none(), u64::MAX));
        std::thread::scope(|scope| {
            scope.spawn(|| (0..5_000).for_each(|_| log.write(TraceStream::Stdout, b"x")));
            scope.spawn(|| (0..5_000).for_each(|_| log.note("note".to_owned())));
        });
        let end = log.finish().len;
        let text = match &mut *lock(&log.inner) {
            Inner::Finished { spool, .. } => spool.read(0..end).unwrap().concat(),
            _ => unreachable!(),
        };
        let text = String::from_utf8(text).unwrap();
        let notes = text.lines().filter(|line| line.contains("note"));
        assert_eq!(notes.clone().count(), 5_000);
        assert!(notes.clone().all(|line| line == "note"), "{text}");
    }

    #[test]
    fn a_log_that_cannot_be_stored_stays_in_memory_and_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let (log, told) = written(dir.path().join("missing"));
        assert_eq!(in_memory(&log), 10 << 20);
        let failures = told
            .iter()
            .filter(|news| matches!(news, LogNews::NotStored(_)));
        assert_eq!(failures.count(), 1);
    }
}
