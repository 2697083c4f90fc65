//! The log of one job on its way to GitLab, sans-IO.
//!
//! [`TraceSpool`] takes what a job writes and does, in this order: repair invalid UTF-8, mask
//! secrets ([`Masker`]), keep to the limit, count and checksum. What has passed can be read back at
//! any offset, since GitLab may ask for any part again until the job is done. A [`TraceMark`] says
//! how far the log has come; bytes that may still become a secret are not in it, so no request can
//! cut one in two.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod log;
mod mask;
mod utf8;

use std::{fmt, ops::Range};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use self::mask::{DEFAULT_TOKEN_PREFIXES, Masker};
use self::{log::Log, utf8::Repair};

/// 99 MiB: just below the 100 MiB at which GitLab fails a job for the size of its log.
pub const DEFAULT_TRACE_LIMIT: u64 = 99 << 20;

/// How far a log has come: a consistent snapshot of its size and checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::exhaustive_structs, reason = "all that GitLab asks of a log")]
pub struct TraceMark {
    /// Size in bytes, as sent to GitLab.
    pub len: u64,
    /// CRC-32 (IEEE) of these bytes.
    pub crc32: u32,
}

/// The log of one job.
pub struct TraceSpool {
    repair: Repair,
    masker: Masker,
    log: Log,
    finished: bool,
    dropped: u64,
}

impl TraceSpool {
    /// An empty log that takes `limit` bytes and then says, once, that there is more.
    pub fn new(masker: Masker, limit: u64) -> Self {
        Self {
            repair: Repair::default(),
            masker,
            log: Log::new(limit),
            finished: false,
            dropped: 0,
        }
    }

    /// Appends what the job wrote. Characters and secrets may be split over any number of writes.
    /// After [`finish`](Self::finish) nothing is taken any more.
    pub fn write(&mut self, bytes: &[u8]) {
        let Self {
            repair,
            masker,
            log,
            ..
        } = self;
        if self.finished {
            self.dropped += bytes.len() as u64;
            return;
        }
        repair.write(bytes, |valid| {
            masker.write(valid, |clean| log.append(clean))
        });
    }

    /// How far the log has come.
    pub fn mark(&self) -> TraceMark {
        self.log.mark()
    }

    /// Ends the log: what was held back is let go. Calling it again changes nothing.
    pub fn finish(&mut self) -> TraceMark {
        if !self.finished {
            self.finished = true;
            let Self {
                repair,
                masker,
                log,
                ..
            } = self;
            repair.finish(|valid| masker.write(valid, |clean| log.append(clean)));
            masker.finish(|clean| log.append(clean));
        }
        self.log.mark()
    }

    /// The bytes of `range`, in pieces that are shared and not copied; `None` when it reaches beyond
    /// [`mark`](Self::mark).
    pub fn read(&mut self, range: Range<u64>) -> Option<Vec<Bytes>> {
        self.log.read(range)
    }

    /// Whether the log has reached its limit; what is written then is dropped.
    pub fn is_limited(&self) -> bool {
        self.log.is_limited()
    }

    /// How many bytes were written after the end of the log, and dropped.
    pub fn dropped_bytes(&self) -> u64 {
        self.dropped
    }
}

/// Sizes only: logs may hold anything.
impl fmt::Debug for TraceSpool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TraceSpool")
            .field("mark", &self.mark())
            .field("masker", &self.masker)
            .field("limited", &self.is_limited())
            .field("finished", &self.finished)
            .finish()
    }
}

#[cfg(test)]
mod tests;
