//! What is in memory instead of in a file.

use std::sync::{Arc, Mutex};

use super::{SpoolFile, Store};
use crate::sync::lock;

/// How much may be in memory instead of on disk, in bytes.
pub(crate) struct Allowance(Mutex<Left>);

struct Left {
    bytes: usize,
    /// Memory that was used last and is empty. New memory costs more than what is put into it; and one download mostly
    /// follows another.
    spare: Vec<u8>,
}

impl Allowance {
    pub(crate) fn new(bytes: usize) -> Arc<Self> {
        let spare = Vec::new();
        Arc::new(Self(Mutex::new(Left { bytes, spare })))
    }

    /// Room for so many bytes in memory, if there is as much left.
    pub(crate) fn take(self: &Arc<Self>, len: u64) -> Option<Filled> {
        let len = usize::try_from(len).ok()?;
        let mut left = lock(&self.0);
        let spare = std::mem::take(&mut left.spare);
        // No more is taken than was asked for, but for a little.
        let fits = spare.capacity() >= len && spare.capacity() - len <= len / 8;
        let bytes = if fits && spare.capacity() <= left.bytes {
            spare
        } else {
            drop(spare);
            Vec::with_capacity(Some(len).filter(|len| *len <= left.bytes)?)
        };
        let taken = bytes.capacity();
        left.bytes = left.bytes.saturating_sub(taken);
        Some(Filled {
            bytes,
            len,
            taken,
            allowance: Arc::clone(self),
        })
    }

    #[cfg(test)]
    pub(super) fn spare(&self) -> usize {
        lock(&self.0).spare.capacity()
    }

    /// Keeps no memory that is not used.
    pub(crate) fn relax(&self) {
        let spare = std::mem::take(&mut lock(&self.0).spare);
        drop(spare);
    }
}

/// What may be in memory, and what is there of it so far.
pub(crate) struct Filled {
    bytes: Vec<u8>,
    /// How much it will be.
    len: usize,
    taken: usize,
    allowance: Arc<Allowance>,
}

impl Filled {
    /// Adds a piece; false if there is no room for it.
    pub(crate) fn add(&mut self, piece: &[u8]) -> bool {
        let fits = piece.len() <= self.len - self.bytes.len();
        if fits {
            self.bytes.extend_from_slice(piece);
        }
        fits
    }

    pub(crate) fn is_full(&self) -> bool {
        self.bytes.len() == self.len
    }

    pub(crate) fn finish(self) -> SpoolFile {
        SpoolFile::on(Store::Memory(self))
    }

    pub(super) fn from(&self, at: u64) -> &[u8] {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        self.bytes.get(at..).unwrap_or_default()
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        let mut spare = std::mem::take(&mut self.bytes);
        spare.clear();
        let mut left = lock(&self.allowance.0);
        left.bytes += self.taken;
        std::mem::swap(&mut left.spare, &mut spare);
        drop(left);
        drop(spare);
    }
}
