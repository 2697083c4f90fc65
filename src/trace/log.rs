//! The bytes of a log, with their limit, size and checksum.

use std::{collections::VecDeque, ops::Range};

use bytes::{Bytes, BytesMut};
use crc32fast::Hasher;

use super::TraceMark;

/// Memory for the log is taken in pieces of this size.
const CHUNK: usize = 64 << 10;

pub(super) struct Log {
    limit: u64,
    limited: bool,
    len: u64,
    hasher: Hasher,
    /// What is complete, each with the offset at which it begins.
    chunks: VecDeque<(u64, Bytes)>,
    /// What grows.
    tail: BytesMut,
}

impl Log {
    pub(super) fn new(limit: u64) -> Self {
        Self {
            limit,
            limited: false,
            len: 0,
            hasher: Hasher::new(),
            chunks: VecDeque::new(),
            tail: BytesMut::new(),
        }
    }

    /// Appends valid UTF-8, as far as the limit allows.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        if self.limited || bytes.is_empty() {
            return;
        }
        let room = usize::try_from(self.limit.saturating_sub(self.len)).unwrap_or(usize::MAX);
        if bytes.len() < room {
            return self.push(bytes);
        }
        self.limited = true;
        let is_inside = |at: usize| bytes.get(at).is_some_and(|byte| byte & 0xC0 == 0x80);
        let cut = (0..=room.min(bytes.len()))
            .rev()
            .find(|at| !is_inside(*at))
            .unwrap_or(0);
        self.push(&bytes[..cut]);
        let notice = format!(
            "\n\u{1b}[33;1mJob's log exceeded limit of {} bytes.\n\
             Job execution will continue but no more output will be collected.\u{1b}[0;m\n",
            self.limit
        );
        self.push(notice.as_bytes());
    }

    fn push(&mut self, mut bytes: &[u8]) {
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        while !bytes.is_empty() {
            if self.tail.capacity() == self.tail.len() {
                self.freeze();
                self.tail = BytesMut::with_capacity(CHUNK);
            }
            let room = (self.tail.capacity() - self.tail.len()).min(bytes.len());
            let (now, later) = bytes.split_at(room);
            self.tail.extend_from_slice(now);
            bytes = later;
        }
    }

    /// Makes the tail readable. Its spare memory stays with the new tail.
    fn freeze(&mut self) {
        if !self.tail.is_empty() {
            let chunk = self.tail.split().freeze();
            let end = self
                .chunks
                .back()
                .map_or(0, |(at, chunk)| at + chunk.len() as u64);
            self.chunks.push_back((end, chunk));
        }
    }

    pub(super) fn mark(&self) -> TraceMark {
        TraceMark {
            len: self.len,
            crc32: self.hasher.clone().finalize(),
        }
    }

    pub(super) fn is_limited(&self) -> bool {
        self.limited
    }

    pub(super) fn read(&mut self, range: Range<u64>) -> Option<Vec<Bytes>> {
        if range.start > range.end || range.end > self.len {
            return None;
        }
        self.freeze();
        let first = self
            .chunks
            .partition_point(|(at, chunk)| at + chunk.len() as u64 <= range.start);
        let mut parts = Vec::new();
        for (at, chunk) in self.chunks.range(first..) {
            if *at >= range.end {
                break;
            }
            let index = |place: u64| {
                let offset = place.saturating_sub(*at).min(chunk.len() as u64);
                usize::try_from(offset).unwrap_or(chunk.len())
            };
            parts.push(chunk.slice(index(range.start)..index(range.end)));
        }
        Some(parts)
    }
}
