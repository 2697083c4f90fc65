//! Filling a file from its start.

use std::{
    error::Error,
    fmt,
    fs::File,
    io::{self, Seek, SeekFrom, Write},
    path::Path,
};

use super::{PIECE, SpoolFile, moved, unnamed};

/// Fills a new spool file. Blocks.
///
/// What is written last can be gone back to and changed at no cost: archives write the length of an
/// entry in front of it when it is over.
pub(crate) struct SpoolWriter {
    file: File,
    /// Where the file stands.
    file_at: u64,
    len: u64,
    /// Not yet in the file.
    buffer: Vec<u8>,
    /// Where in the file the buffer belongs.
    start: u64,
    /// Where the next byte goes: at the end of the buffer, or in it.
    at: u64,
    /// It may not become longer, in bytes.
    most: Option<u64>,
    /// A write failed. Nothing is written any more: an archive that is dropped then would try, and
    /// complain.
    broken: bool,
}

/// A spool file became longer than this many bytes, which it may not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SpoolFull {
    pub(crate) most: u64,
}

impl fmt::Display for SpoolFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "more than {} bytes", self.most)
    }
}

impl Error for SpoolFull {}

impl SpoolWriter {
    /// An empty one on the file system of `dir`, which may not become longer than `most`.
    pub(crate) fn create(dir: &Path, most: Option<u64>) -> io::Result<Self> {
        Ok(Self::on(unnamed(dir)?, most))
    }

    /// One in this file, which is empty.
    pub(crate) fn on(file: File, most: Option<u64>) -> Self {
        Self {
            most,
            file,
            file_at: 0,
            len: 0,
            buffer: Vec::with_capacity(PIECE),
            start: 0,
            at: 0,
            broken: false,
        }
    }

    pub(crate) fn finish(mut self) -> io::Result<SpoolFile> {
        self.empty()?;
        if self.broken {
            return Err(io::Error::other("an earlier write failed"));
        }
        Ok(SpoolFile::on_disk(self.file, self.len))
    }

    /// Puts the buffer into the file.
    fn empty(&mut self) -> io::Result<()> {
        let buffer = std::mem::take(&mut self.buffer);
        let result = self.put(self.start, &buffer);
        self.buffer = buffer;
        self.buffer.clear();
        self.start = self.at;
        result
    }

    fn put(&mut self, start: u64, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() || self.broken {
            return Ok(());
        }
        self.broken = true;
        let end = start.saturating_add(bytes.len() as u64);
        if let Some(most) = self.most.filter(|most| end > *most) {
            return Err(io::Error::other(SpoolFull { most }));
        }
        if self.file_at != start {
            self.file.seek(SeekFrom::Start(start))?;
            self.file_at = start;
        }
        self.file.write_all(bytes)?;
        self.file_at += bytes.len() as u64;
        self.len = self.len.max(self.file_at);
        self.broken = false;
        Ok(())
    }

    fn buffer_end(&self) -> u64 {
        self.start + self.buffer.len() as u64
    }
}

impl Write for SpoolWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let inside = (self.at - self.start) as usize;
        if inside < self.buffer.len() {
            let len = bytes.len().min(self.buffer.len() - inside);
            self.buffer[inside..inside + len].copy_from_slice(&bytes[..len]);
            self.at += len as u64;
            return Ok(len);
        }
        if self.buffer.len() + bytes.len() > PIECE {
            self.empty()?;
        }
        if bytes.len() >= PIECE {
            self.put(self.start, bytes)?;
            self.at += bytes.len() as u64;
            self.start = self.at;
        } else {
            self.buffer.extend_from_slice(bytes);
            self.at += bytes.len() as u64;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for SpoolWriter {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let len = self.len.max(self.buffer_end());
        let to = moved(self.at, len, to)?;
        if !(self.start..=self.buffer_end()).contains(&to) {
            self.empty()?;
            self.start = to;
        }
        self.at = to;
        Ok(to)
    }
}
