//! Reading from threads that may block.

use std::{
    io::{self, Read, Seek, SeekFrom},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{SpoolFile, moved};

/// Ends what is read on other threads: what they do with a file may take long after the job that
/// wanted it is gone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

/// Sets what it holds.
pub(crate) struct StopOnDrop(pub(crate) Stop);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// Reads a spool file. Blocks.
///
/// What was read last stays in memory, so that small steps to and fro cost nothing.
#[derive(Clone)]
pub(crate) struct SpoolReader {
    file: Arc<SpoolFile>,
    stop: Stop,
    at: u64,
    buffer: Vec<u8>,
    /// Where in the file the buffer belongs.
    start: u64,
}

/// So much is read ahead. Larger reads go past the buffer.
const AHEAD: usize = 32 << 10;

impl SpoolReader {
    pub(super) fn new(file: Arc<SpoolFile>, stop: Stop) -> Self {
        Self {
            file,
            stop,
            at: 0,
            buffer: Vec::new(),
            start: 0,
        }
    }

    /// What of the buffer is at the place where it is read.
    fn buffered(&self) -> &[u8] {
        let inside = self.at.checked_sub(self.start);
        let inside = inside.and_then(|inside| usize::try_from(inside).ok());
        inside
            .and_then(|inside| self.buffer.get(inside..))
            .unwrap_or_default()
    }
}

impl Read for SpoolReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.stop.0.load(Ordering::Relaxed) {
            return Err(io::Error::other("the job has come to its end"));
        }
        if self.buffered().is_empty() {
            if out.len() >= AHEAD || self.file.in_memory() {
                let len = self.file.read_at(self.at, out)?;
                self.at += len as u64;
                return Ok(len);
            }
            self.start = self.at;
            self.buffer.resize(AHEAD, 0);
            let len = self.file.read_at(self.at, &mut self.buffer);
            self.buffer.truncate(*len.as_ref().unwrap_or(&0));
            len?;
        }
        let mut buffered = self.buffered();
        let len = buffered.read(out)?;
        self.at += len as u64;
        Ok(len)
    }
}

impl Seek for SpoolReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = moved(self.at, self.file.len(), to)?;
        Ok(self.at)
    }
}
