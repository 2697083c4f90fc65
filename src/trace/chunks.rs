//! The bytes of a log, in pieces that can be handed out without copying.

use std::{mem, ops::Range};

use bytes::{Bytes, BytesMut};
use crc32fast::Hasher;

use super::TraceMark;

/// Blocks grow with the log between these sizes, so that a quiet job costs little.
const SMALLEST_BLOCK: usize = 1 << 10;
const LARGEST_BLOCK: usize = 64 << 10;

/// The checksum is much faster on runs of this length than line by line.
const HASH_RUN: usize = 1 << 10;

/// So many small pieces in a row become one.
const MERGE_COUNT: usize = 64;
/// A piece worth its bookkeeping.
const MERGE_BELOW: usize = 4 << 10;

/// Appended to at the end, and read anywhere.
#[derive(Default)]
pub(super) struct Chunks {
    /// In order, without gaps.
    frozen: Vec<Chunk>,
    /// Where the bytes that are still here begin.
    base: u64,
    /// Index of the first frozen chunk that may still be merged.
    unmerged: usize,
    /// What follows the frozen chunks; its spare capacity is the rest of the block.
    tail: BytesMut,
    tail_start: u64,
    hasher: Hasher,
    /// How much of the tail is in the hasher: all but less than `HASH_RUN` bytes.
    hashed: usize,
}

struct Chunk {
    start: u64,
    bytes: Bytes,
}

impl Chunks {
    pub(super) fn len(&self) -> u64 {
        self.tail_start + self.tail.len() as u64
    }

    /// Where the bytes that can be read begin.
    pub(super) fn base(&self) -> u64 {
        self.base
    }

    /// The oldest bytes, in chunks that stay as they are, but for the last `keep` bytes or a little
    /// more.
    pub(super) fn cold(&self, keep: u64) -> Vec<Bytes> {
        let end = self.len().saturating_sub(keep);
        self.frozen[..self.unmerged]
            .iter()
            .take_while(|chunk| chunk.end() <= end)
            .map(|chunk| chunk.bytes.clone())
            .collect()
    }

    /// Drops the chunks before `end`.
    pub(super) fn forget(&mut self, end: u64) {
        let count = self.frozen[..self.unmerged].partition_point(|chunk| chunk.end() <= end);
        if let Some(last) = self.frozen[..count].last() {
            self.base = last.end();
            self.frozen.drain(..count);
            self.unmerged -= count;
        }
    }

    pub(super) fn mark(&self) -> TraceMark {
        let mut hasher = self.hasher.clone();
        hasher.update(&self.tail[self.hashed..]);
        TraceMark {
            len: self.len(),
            crc32: hasher.finalize(),
        }
    }

    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        if self.frozen.len() - self.unmerged >= MERGE_COUNT {
            self.merge();
        }
        while !bytes.is_empty() {
            let spare = self.tail.capacity() - self.tail.len();
            if spare == 0 {
                self.next_block();
                continue;
            }
            let (fits, rest) = bytes.split_at(spare.min(bytes.len()));
            self.tail.extend_from_slice(fits);
            bytes = rest;
            if self.tail.len() - self.hashed >= HASH_RUN {
                self.hash();
            }
        }
    }

    pub(super) fn read(&mut self, range: Range<u64>) -> Option<Vec<Bytes>> {
        if range.start > range.end || range.end > self.len() {
            return None;
        }
        if range.is_empty() {
            return Some(Vec::new());
        }
        if range.start < self.base {
            return None;
        }
        if range.end > self.tail_start {
            self.hash();
            // The tail goes on behind it, in the same block.
            let bytes = self.tail.split();
            self.freeze(bytes);
        }
        let first = self
            .frozen
            .partition_point(|chunk| chunk.end() <= range.start);
        let after = self.frozen.partition_point(|chunk| chunk.start < range.end);
        let cut = |chunk: &Chunk| chunk.cut(&range);
        Some(self.frozen[first..after].iter().map(cut).collect())
    }

    fn next_block(&mut self) {
        self.hash();
        let size = usize::try_from(self.len()).unwrap_or(LARGEST_BLOCK);
        let size = size.clamp(SMALLEST_BLOCK, LARGEST_BLOCK);
        let full = mem::replace(&mut self.tail, BytesMut::with_capacity(size));
        self.freeze(full);
        self.merge();
    }

    fn hash(&mut self) {
        self.hasher.update(&self.tail[self.hashed..]);
        self.hashed = self.tail.len();
    }

    /// Takes what was the tail, all of it hashed.
    fn freeze(&mut self, bytes: BytesMut) {
        self.hashed = 0;
        if bytes.is_empty() {
            return;
        }
        let chunk = Chunk {
            start: self.tail_start,
            bytes: bytes.freeze(),
        };
        self.tail_start = chunk.end();
        self.frozen.push(chunk);
    }

    /// Joins the chunks that frequent reads left, if they are small. Each byte is copied once here,
    /// however long the log.
    fn merge(&mut self) {
        let small = &self.frozen[self.unmerged..];
        let len: usize = small.iter().map(|chunk| chunk.bytes.len()).sum();
        if small.len() > 1 && len / small.len() < MERGE_BELOW {
            let mut joined = Vec::with_capacity(len);
            for chunk in small {
                joined.extend_from_slice(&chunk.bytes);
            }
            let start = small[0].start;
            self.frozen.truncate(self.unmerged);
            self.frozen.push(Chunk {
                start,
                bytes: joined.into(),
            });
        }
        self.unmerged = self.frozen.len();
    }
}

impl Chunk {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// The part of this chunk in `range`, which overlaps it.
    fn cut(&self, range: &Range<u64>) -> Bytes {
        let at = |place: u64| {
            let inside = place.clamp(self.start, self.end()) - self.start;
            // A place inside a slice fits.
            usize::try_from(inside).unwrap_or(self.bytes.len())
        };
        self.bytes.slice(at(range.start)..at(range.end))
    }
}
