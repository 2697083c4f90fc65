//! Files without a name: what is too large for memory waits here until it has been sent or read.
//! What is small, as long as it is not too much of it together, is in memory after all.
//!
//! A spool file is in no directory, so nothing but this process can open it and nothing has to
//! remove it: when its last user lets go of it, also by a panic or a kill, it is gone. Its offsets
//! are those of what was put into it.

use std::{
    error::Error,
    fmt,
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    ops::Range,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};

use crate::{
    adapter::{Adapter, unblock},
    sync::lock,
};

/// So much is read, or written, at a time.
const PIECE: usize = 256 << 10;

/// A file without a name, which only this process can read.
pub(crate) struct SpoolFile(Store);

enum Store {
    Disk(Mutex<Inner>),
    Memory(Filled),
}

struct Inner {
    file: File,
    len: u64,
}

impl SpoolFile {
    /// An empty one on the file system of `dir`. Blocks, as everything here but
    /// [`len`](Self::len) and [`stream`](Self::stream).
    pub(crate) fn create(dir: &Path) -> io::Result<Self> {
        let file = unnamed(dir)?;
        Ok(Self::on_disk(file, 0))
    }

    /// One with the content of `file`.
    pub(crate) fn new(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self::on_disk(file, len))
    }

    fn on_disk(file: File, len: u64) -> Self {
        Self(Store::Disk(Mutex::new(Inner { file, len })))
    }

    /// Its length in bytes.
    pub(crate) fn len(&self) -> u64 {
        match &self.0 {
            Store::Disk(inner) => lock(inner).len,
            Store::Memory(filled) => filled.bytes.len() as u64,
        }
    }

    /// Whether it takes up memory, so that it should not be kept without need.
    pub(crate) fn in_memory(&self) -> bool {
        matches!(self.0, Store::Memory(_))
    }

    /// Writes `chunks` from offset `start` on.
    pub(crate) fn write(&self, start: u64, chunks: &[Bytes]) -> io::Result<()> {
        self.change(|inner| inner.write(start, chunks))
    }

    /// Writes `chunks` behind all that is there.
    pub(crate) fn append(&self, chunks: &[Bytes]) -> io::Result<()> {
        self.change(|inner| inner.write(inner.len, chunks))
    }

    /// What is in memory is complete.
    fn change(&self, change: impl FnOnce(&mut Inner) -> io::Result<()>) -> io::Result<()> {
        match &self.0 {
            Store::Disk(inner) => change(&mut lock(inner)),
            Store::Memory(_) => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
        }
    }

    /// Reads some bytes from offset `at` on; none at the end.
    fn read_at(&self, at: u64, out: &mut [u8]) -> io::Result<usize> {
        match &self.0 {
            Store::Disk(inner) => {
                let mut inner = lock(inner);
                inner.file.seek(SeekFrom::Start(at))?;
                inner.file.read(out)
            }
            Store::Memory(filled) => filled.from(at).read(out),
        }
    }

    /// These bytes, piece by piece, of which `at_once` are read at the same time; an error if they
    /// are not all there. May be called again, to send them again.
    pub(crate) fn stream(
        self: Arc<Self>,
        range: Range<u64>,
        at_once: usize,
        adapter: Arc<dyn Adapter>,
    ) -> impl Stream<Item = io::Result<Bytes>> {
        let start = range.start;
        let pieces = range.end.saturating_sub(start).div_ceil(PIECE as u64);
        stream::iter(0..pieces)
            .map(move |number| {
                let (file, adapter) = (Arc::clone(&self), Arc::clone(&adapter));
                let at = start + number * PIECE as u64;
                let end = range.end.min(at + PIECE as u64);
                async move {
                    let read = unblock(&*adapter, move || file.read(at..end)).await;
                    read.unwrap_or_else(|| Err(lost()))
                }
            })
            .buffered(at_once)
    }

    /// Reads it from its start, until it is to `stop`; several may read at once.
    pub(crate) fn reader(self: Arc<Self>, stop: Stop) -> SpoolReader {
        SpoolReader {
            file: self,
            stop,
            at: 0,
            buffer: Vec::new(),
            start: 0,
        }
    }

    fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        let len = range.end.saturating_sub(range.start);
        let mut bytes = Vec::with_capacity(usize::try_from(len).map_err(io::Error::other)?);
        match &self.0 {
            Store::Disk(inner) => {
                let mut inner = lock(inner);
                inner.file.seek(SeekFrom::Start(range.start))?;
                (&inner.file).take(len).read_to_end(&mut bytes)?;
            }
            Store::Memory(filled) => {
                filled.from(range.start).take(len).read_to_end(&mut bytes)?;
            }
        }
        if bytes.len() as u64 != len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(bytes.into())
    }
}

/// How much may be in memory instead of on disk, in bytes.
pub(crate) struct Allowance(AtomicUsize);

impl Allowance {
    pub(crate) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self(AtomicUsize::new(bytes)))
    }

    /// Room for so many bytes in memory, if there is as much left.
    pub(crate) fn take(self: &Arc<Self>, len: u64) -> Option<Filled> {
        let len = usize::try_from(len).ok()?;
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(len)
            })
            .ok()?;
        Some(Filled {
            bytes: Vec::with_capacity(len),
            taken: len,
            allowance: Arc::clone(self),
        })
    }
}

/// What may be in memory, and what is there of it so far.
pub(crate) struct Filled {
    bytes: Vec<u8>,
    taken: usize,
    allowance: Arc<Allowance>,
}

impl Filled {
    /// Adds a piece; false if there is no room for it.
    pub(crate) fn add(&mut self, piece: &[u8]) -> bool {
        let fits = piece.len() <= self.taken - self.bytes.len();
        if fits {
            self.bytes.extend_from_slice(piece);
        }
        fits
    }

    pub(crate) fn is_full(&self) -> bool {
        self.bytes.len() == self.taken
    }

    pub(crate) fn finish(self) -> SpoolFile {
        SpoolFile(Store::Memory(self))
    }

    fn from(&self, at: u64) -> &[u8] {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        self.bytes.get(at..).unwrap_or_default()
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        self.allowance.0.fetch_add(self.taken, Ordering::Relaxed);
    }
}

/// A new file on the file system of `dir`.
fn unnamed(dir: &Path) -> io::Result<File> {
    let file = tempfile::tempfile_in(dir)?;
    // Who may look into our `/proc` could open it by its descriptor.
    #[cfg(unix)]
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(file)
}

impl Inner {
    fn write(&mut self, start: u64, chunks: &[Bytes]) -> io::Result<()> {
        let mut end = start;
        self.file.seek(SeekFrom::Start(start))?;
        for chunk in chunks {
            self.file.write_all(chunk)?;
            end += chunk.len() as u64;
            self.len = self.len.max(end);
        }
        Ok(())
    }
}

impl fmt::Debug for SpoolFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpoolFile({} bytes)", self.len())
    }
}

/// What became of work that was given away for good.
pub(crate) fn lost() -> io::Error {
    io::Error::other("the runtime is going away")
}

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

/// Where `to` is for one who is at `at`, in a file of `len` bytes.
fn moved(at: u64, len: u64, to: SeekFrom) -> io::Result<u64> {
    let moved = match to {
        SeekFrom::Start(to) => Some(to),
        SeekFrom::Current(by) => at.checked_add_signed(by),
        SeekFrom::End(by) => len.checked_add_signed(by),
    };
    moved.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

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

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use quickcheck::quickcheck;

    use super::*;

    fn content(file: SpoolFile) -> Vec<u8> {
        let mut content = Vec::new();
        Arc::new(file)
            .reader(Stop::default())
            .read_to_end(&mut content)
            .unwrap();
        content
    }

    #[test]
    fn what_is_appended_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let file = Arc::new(SpoolFile::create(dir.path()).unwrap());
        file.append(&["ab".into(), "cd".into()]).unwrap();
        file.append(&["ef".into()]).unwrap();
        assert_eq!(file.len(), 6);
        assert_eq!(file.read(1..4).unwrap(), "bcd");
        assert_eq!(
            file.read(4..7).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
        assert_eq!(format!("{file:?}"), "SpoolFile(6 bytes)");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[cfg(unix)]
    #[test]
    fn nobody_else_can_read_it() {
        use std::os::unix::fs::MetadataExt;

        let file = SpoolFile::create(&std::env::temp_dir()).unwrap();
        let Store::Disk(inner) = &file.0 else {
            panic!("it is in memory");
        };
        let metadata = lock(inner).file.metadata().unwrap();
        assert_eq!(metadata.mode() & 0o777, 0o600);
        assert_eq!(metadata.nlink(), 0);
    }

    #[test]
    fn two_readers_do_not_disturb_each_other() {
        let file = SpoolFile::create(&std::env::temp_dir()).unwrap();
        file.append(&["0123456789".into()]).unwrap();
        let mut first = Arc::new(file).reader(Stop::default());
        let mut second = first.clone();
        let (mut a, mut b) = ([0; 4], [0; 2]);
        first.read_exact(&mut a).unwrap();
        second.seek(SeekFrom::End(-2)).unwrap();
        second.read_exact(&mut b).unwrap();
        first.read_exact(&mut a).unwrap();
        assert_eq!((&a, &b), (b"4567", b"89"));
        assert!(first.seek(SeekFrom::Current(-9)).is_err());
    }

    #[test]
    fn only_so_much_is_in_memory() {
        let allowance = Allowance::new(10);
        let mut room = allowance.take(6).unwrap();
        assert!(allowance.take(5).is_none());
        assert!(room.add(b"0123") && !room.add(b"456") && !room.is_full());
        assert!(room.add(b"45") && room.is_full());
        let file = Arc::new(room.finish());
        assert!(file.in_memory() && file.append(&["6".into()]).is_err());
        assert_eq!((file.len(), file.read(2..5).unwrap()), (6, "234".into()));
        let mut reader = Arc::clone(&file).reader(Stop::default());
        let (mut end, mut byte) = (Vec::new(), [0]);
        reader.seek(SeekFrom::End(-2)).unwrap();
        reader.read_to_end(&mut end).unwrap();
        reader.seek(SeekFrom::Start(1)).unwrap();
        reader.read_exact(&mut byte).unwrap();
        assert_eq!((&*end, &byte), (b"45".as_slice(), b"1"));
        reader.seek(SeekFrom::Start(99)).unwrap();
        assert_eq!(reader.read(&mut byte).unwrap(), 0);
        drop((file, reader));
        assert!(allowance.take(10).is_some());
    }

    quickcheck! {
        /// Writes of all sizes and steps back give what they give in memory.
        fn the_writer_is_a_file(writes: Vec<(u8, u16, u32)>) -> bool {
            let mut wanted = Cursor::new(Vec::new());
            let mut writer = SpoolWriter::create(&std::env::temp_dir(), None).unwrap();
            for (byte, back, len) in writes {
                let to = SeekFrom::End(-i64::from(back).min(wanted.get_ref().len() as i64));
                let bytes = vec![byte; len as usize % (PIECE + 1000)];
                for target in [&mut wanted as &mut dyn Target, &mut writer] {
                    if byte % 2 == 0 {
                        target.seek(to).unwrap();
                    }
                    target.write_all(&bytes).unwrap();
                    target.seek(SeekFrom::End(0)).unwrap();
                }
                assert_eq!(wanted.position(), writer.stream_position().unwrap());
            }
            let file = writer.finish().unwrap();
            assert_eq!(file.len(), wanted.get_ref().len() as u64);
            content(file) == *wanted.get_ref()
        }
    }

    trait Target: Write + Seek {}
    impl<T: Write + Seek> Target for T {}
}
