//! Files without a name: what is too large for memory waits here until it has been sent or read.
//!
//! A spool file is in no directory, so nothing but this process can open it and nothing has to
//! remove it: when its last user lets go of it, also by a panic or a kill, it is gone. Its offsets
//! are those of what was put into it.

use std::{
    fmt,
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    ops::Range,
    path::Path,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures::{Stream, stream};

use crate::{
    adapter::{Adapter, unblock},
    sync::lock,
};

/// So much is read, or written, at a time.
const PIECE: usize = 256 << 10;

/// A file without a name, which only this process can read.
pub(crate) struct SpoolFile(Mutex<Inner>);

struct Inner {
    file: File,
    len: u64,
}

impl SpoolFile {
    /// An empty one on the file system of `dir`. Blocks, as everything here but
    /// [`len`](Self::len) and [`stream`](Self::stream).
    pub(crate) fn create(dir: &Path) -> io::Result<Self> {
        let file = unnamed(dir)?;
        Ok(Self(Mutex::new(Inner { file, len: 0 })))
    }

    /// One with the content of `file`.
    pub(crate) fn new(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self(Mutex::new(Inner { file, len })))
    }

    /// Its length in bytes.
    pub(crate) fn len(&self) -> u64 {
        lock(&self.0).len
    }

    /// Writes `chunks` from offset `start` on.
    pub(crate) fn write(&self, start: u64, chunks: &[Bytes]) -> io::Result<()> {
        lock(&self.0).write(start, chunks)
    }

    /// Writes `chunks` behind all that is there.
    pub(crate) fn append(&self, chunks: &[Bytes]) -> io::Result<()> {
        let mut inner = lock(&self.0);
        let end = inner.len;
        inner.write(end, chunks)
    }

    /// These bytes, piece by piece; an error if they are not all there. May be called again, to
    /// send them again.
    pub(crate) fn stream(
        self: Arc<Self>,
        range: Range<u64>,
        adapter: Arc<dyn Adapter>,
    ) -> impl Stream<Item = io::Result<Bytes>> {
        stream::try_unfold(range.start, move |at| {
            let (file, adapter) = (Arc::clone(&self), Arc::clone(&adapter));
            let end = range.end.min(at.saturating_add(PIECE as u64));
            async move {
                if at >= end {
                    return Ok(None);
                }
                let read = unblock(&*adapter, move || file.read(at..end)).await;
                let bytes = read.unwrap_or_else(|| Err(lost()))?;
                Ok(Some((bytes, end)))
            }
        })
    }

    /// Reads it from its start; several may read at once.
    pub(crate) fn reader(self: Arc<Self>) -> SpoolReader {
        SpoolReader {
            file: self,
            at: 0,
            buffer: Vec::new(),
            start: 0,
        }
    }

    fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        let len = range.end.saturating_sub(range.start);
        let mut bytes = Vec::with_capacity(usize::try_from(len).map_err(io::Error::other)?);
        let mut inner = lock(&self.0);
        inner.file.seek(SeekFrom::Start(range.start))?;
        (&inner.file).take(len).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(bytes.into())
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

/// Reads a spool file. Blocks.
///
/// What was read last stays in memory, so that small steps to and fro cost nothing.
#[derive(Clone)]
pub(crate) struct SpoolReader {
    file: Arc<SpoolFile>,
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
        if self.buffered().is_empty() {
            let mut inner = lock(&self.file.0);
            inner.file.seek(SeekFrom::Start(self.at))?;
            if out.len() >= AHEAD {
                let len = inner.file.read(out)?;
                self.at += len as u64;
                return Ok(len);
            }
            self.buffer.clear();
            self.start = self.at;
            (&inner.file)
                .take(AHEAD as u64)
                .read_to_end(&mut self.buffer)?;
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
    /// A write failed. Nothing is written any more: an archive that is dropped then would try, and
    /// complain.
    broken: bool,
}

impl SpoolWriter {
    pub(crate) fn create(dir: &Path) -> io::Result<Self> {
        Ok(Self {
            file: unnamed(dir)?,
            file_at: 0,
            len: 0,
            buffer: Vec::with_capacity(PIECE),
            start: 0,
            at: 0,
            broken: false,
        })
    }

    pub(crate) fn finish(mut self) -> io::Result<SpoolFile> {
        self.empty()?;
        if self.broken {
            return Err(io::Error::other("an earlier write failed"));
        }
        let Self { file, len, .. } = self;
        Ok(SpoolFile(Mutex::new(Inner { file, len })))
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
        Arc::new(file).reader().read_to_end(&mut content).unwrap();
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
        let metadata = lock(&file.0).file.metadata().unwrap();
        assert_eq!(metadata.mode() & 0o777, 0o600);
        assert_eq!(metadata.nlink(), 0);
    }

    #[test]
    fn two_readers_do_not_disturb_each_other() {
        let file = SpoolFile::create(&std::env::temp_dir()).unwrap();
        file.append(&["0123456789".into()]).unwrap();
        let mut first = Arc::new(file).reader();
        let mut second = first.clone();
        let (mut a, mut b) = ([0; 4], [0; 2]);
        first.read_exact(&mut a).unwrap();
        second.seek(SeekFrom::End(-2)).unwrap();
        second.read_exact(&mut b).unwrap();
        first.read_exact(&mut a).unwrap();
        assert_eq!((&a, &b), (b"4567", b"89"));
        assert!(first.seek(SeekFrom::Current(-9)).is_err());
    }

    quickcheck! {
        /// Writes of all sizes and steps back give what they give in memory.
        fn the_writer_is_a_file(writes: Vec<(u8, u16, u32)>) -> bool {
            let mut wanted = Cursor::new(Vec::new());
            let mut writer = SpoolWriter::create(&std::env::temp_dir()).unwrap();
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
