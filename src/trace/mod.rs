//! The log of one job: bytes go in, [`TraceMark`]s and ranges of `Bytes` come out.
//!
//! A [`TraceSpool`] belongs to one job. Everything the job prints is written to it, by whoever
//! prints; the driver takes its mark, tells it to the machine, and reads the ranges that the machine
//! wants to be sent. The spool does no input or output, and it never wakes anybody.
//!
//! A write passes these stages, in this order:
//!
//! 1. UTF-8 repair: each bad byte becomes U+FFFD; a character cut by the end of a write waits.
//! 2. The [`Masker`]: secrets become `[MASKED]`; what may yet become one waits.
//! 3. Timestamps in front of the lines, if wanted.
//! 4. The output limit, counted on what is left by then, with a notice where the log was cut.
//! 5. CRC-32, and storage in chunks.
//!
//! Invariants: marks never shrink; a mark covers only bytes that will never change, so no request
//! can carry a part of a secret; every range of a mark can be read as long as the spool lives, or until
//! it is forgotten.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod automaton;
mod chunks;
mod mask;
mod names;
mod prefilter;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod reference;
mod stamp;
mod utf8;

use std::{fmt, ops::Range};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use automaton::DEFAULT_TOKEN_PREFIXES;
pub use mask::Masker;
pub use stamp::TraceStream;

use self::{chunks::Chunks, stamp::Stamps, utf8::Repair};
use crate::time::WallTime;

/// The output limit in bytes unless another one was chosen: 99 MiB.
///
/// GitLab fails a job whose log passes its instance limit, 100 MiB by default; a log cut just below
/// that keeps the job alive.
pub const DEFAULT_TRACE_LIMIT: u64 = 99 << 20;

/// How much of a log there is, and its checksum: what GitLab is told in the final update.
///
/// Both numbers belong to the same moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(
    clippy::exhaustive_structs,
    reason = "GitLab's checksum and bytesize; callers of the machine build it"
)]
pub struct TraceMark {
    /// Length of the log in bytes, as it is sent: repaired, masked and limited.
    pub len: u64,
    /// CRC-32 (IEEE 802.3) of the first `len` bytes.
    pub crc32: u32,
}

/// The log of one job.
///
/// `Debug` shows sizes only, never the log.
pub struct TraceSpool {
    repair: Repair,
    masker: Masker,
    stamps: Option<Stamps>,
    store: Limited,
    finished: bool,
    dropped: u64,
}

impl TraceSpool {
    /// An empty log that passes `masker`, and is cut when it reaches `limit` bytes.
    ///
    /// The notice that says so comes on top of `limit`. A limit of 0 leaves nothing but the notice;
    /// [`DEFAULT_TRACE_LIMIT`] is a good choice.
    pub fn new(masker: Masker, limit: u64) -> Self {
        Self {
            repair: Repair::default(),
            masker,
            stamps: None,
            store: Limited::new(limit),
            finished: false,
            dropped: 0,
        }
    }

    /// The same, with a time in front of each line, as GitLab's own runner writes it and GitLab's
    /// log viewer hides it (`FF_TIMESTAMPS`): `2024-07-16T10:00:00.123456Z 01O hello`.
    ///
    /// A line without an end then waits for it, for as long as it holds no carriage return and is no
    /// longer than 8 KiB.
    #[must_use]
    pub fn with_timestamps(mut self) -> Self {
        self.stamps = Some(Stamps::default());
        self
    }

    /// Whether there is a time in front of each line.
    pub fn has_timestamps(&self) -> bool {
        self.stamps.is_some()
    }

    /// Appends what the job printed: any bytes, cut anywhere.
    ///
    /// After [`finish`](Self::finish) they are dropped, and counted by
    /// [`dropped_bytes`](Self::dropped_bytes).
    pub fn write(&mut self, bytes: &[u8]) {
        self.write_from(TraceStream::Stdout, bytes, WallTime::default());
    }

    /// As [`write`](Self::write), for bytes that are known to be UTF-8.
    #[cfg(any(test, feature = "runner"))]
    pub(crate) fn write_text(&mut self, text: &[u8]) {
        if self.finished || self.stamps.is_some() {
            self.write(text);
        } else if !self.store.limited {
            let (masker, store) = (&mut self.masker, &mut self.store);
            self.repair
                .write_valid(text, |valid| masker.write(valid, |out| store.push(out)));
        }
    }

    /// As [`write`](Self::write), for what came from this stream at this time; both count if there
    /// are [timestamps](Self::with_timestamps).
    pub fn write_from(&mut self, stream: TraceStream, bytes: &[u8], now: WallTime) {
        if self.finished {
            self.dropped = self.dropped.saturating_add(bytes.len() as u64);
            return;
        }
        if self.store.limited {
            return;
        }
        let Self {
            repair,
            masker,
            stamps,
            store,
            ..
        } = self;
        let Some(stamps) = stamps else {
            repair.write(bytes, |valid| masker.write(valid, |out| store.push(out)));
            return;
        };
        stamps.begin(stream, masker.position());
        repair.write(bytes, |valid| {
            masker.write_at(valid, |at, out| {
                stamps.push(at, out, now, |line| store.push(line));
            });
        });
        stamps.end(stream, |line| store.push(line));
    }

    /// What can be sent so far. Bytes that wait for the rest of a character, or that may yet become
    /// a secret, are not in it. Cheap: it does not depend on the length of the log.
    pub fn mark(&self) -> TraceMark {
        self.store.chunks.mark()
    }

    /// Ends the log, so that the mark covers all of it: nothing waits any longer. The next calls
    /// return the same mark.
    pub fn finish(&mut self) -> TraceMark {
        if !self.finished {
            self.finished = true;
            let Self {
                repair,
                masker,
                stamps,
                store,
                ..
            } = self;
            if let Some(stamps) = stamps {
                // What waits has the time of the line that it belongs to, or of the last one.
                repair.finish(|valid| {
                    masker.write_at(valid, |at, out| {
                        stamps.push_late(at, out, |it| store.push(it))
                    });
                });
                masker.finish_at(|at, out| stamps.push_late(at, out, |it| store.push(it)));
                stamps.finish(|line| store.push(line));
            } else {
                repair.finish(|valid| masker.write(valid, |out| store.push(out)));
                masker.finish(|out| store.push(out));
            }
        }
        self.mark()
    }

    /// The bytes of `range`, in order and without copying them; `None` if the range goes backwards,
    /// beyond the [`mark`](Self::mark), or to bytes that were [forgotten](Self::forget).
    pub fn read(&mut self, range: Range<u64>) -> Option<Vec<Bytes>> {
        self.store.chunks.read(range)
    }

    /// The oldest bytes that are in memory, all but the last `keep` or a little more: to be stored
    /// elsewhere, at the offset [`start`](Self::start), and then [forgotten](Self::forget).
    pub fn cold(&self, keep: u64) -> Vec<Bytes> {
        self.store.chunks.cold(keep)
    }

    /// Drops what was [`cold`](Self::cold), up to the offset `end`. Bytes that were not are kept.
    pub fn forget(&mut self, end: u64) {
        self.store.chunks.forget(end);
    }

    /// The offset of the first byte that can be read; 0 unless something was
    /// [forgotten](Self::forget).
    pub fn start(&self) -> u64 {
        self.store.chunks.base()
    }

    /// How many bytes can be read.
    pub fn in_memory(&self) -> u64 {
        self.store.chunks.len() - self.start()
    }

    /// Whether the log reached the output limit and was cut.
    pub fn is_limited(&self) -> bool {
        self.store.limited
    }

    /// How many bytes were written after [`finish`](Self::finish), and so are lost.
    pub fn dropped_bytes(&self) -> u64 {
        self.dropped
    }
}

impl fmt::Debug for TraceSpool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TraceSpool")
            .field("mark", &self.mark())
            .field("limit", &self.store.limit)
            .field("limited", &self.store.limited)
            .field("finished", &self.finished)
            .field("dropped", &self.dropped)
            .field("masker", &self.masker)
            .finish_non_exhaustive()
    }
}

/// The chunks, up to the output limit.
struct Limited {
    chunks: Chunks,
    limit: u64,
    limited: bool,
}

impl Limited {
    fn new(limit: u64) -> Self {
        Self {
            chunks: Chunks::default(),
            limit,
            limited: false,
        }
    }

    /// Takes whole characters, since a cut may only go back to the start of one in `bytes`.
    fn push(&mut self, bytes: &[u8]) {
        if self.limited || bytes.is_empty() {
            return;
        }
        let space = self.limit.saturating_sub(self.chunks.len());
        if space > bytes.len() as u64 {
            self.chunks.push(bytes);
            return;
        }
        self.limited = true;
        // The branch above leaves a `space` that is no larger than a slice.
        let cut = usize::try_from(space).unwrap_or(bytes.len());
        self.chunks.push(&bytes[..utf8::floor(bytes, cut)]);
        self.chunks.push(notice(self.limit).as_bytes());
    }
}

/// GitLab's own runner's wording, in yellow: people search logs for it.
fn notice(limit: u64) -> String {
    format!(
        "\n\x1b[33;1mJob's log exceeded limit of {limit} bytes.\n\
         Job execution will continue but no more output will be collected.\x1b[0;m\n"
    )
}

#[cfg(test)]
mod tests;
