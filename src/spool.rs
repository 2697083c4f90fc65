//! Files without a name: what is too large for memory waits here until it has been sent or read.
//! What is small, as long as it is not too much of it together, is in memory after all.
//!
//! A spool file is in no directory, so nothing but this process can open it and nothing has to
//! remove it: when its last user lets go of it, also by a panic or a kill, it is gone. Its offsets
//! are those of what was put into it.

mod memory;
mod reader;
mod writer;

use std::{
    fmt,
    fs::File,
    io::{self, IoSlice, Read, Seek, SeekFrom, Write},
    ops::Range,
    path::Path,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};

pub(crate) use self::{
    memory::{Allowance, Filled},
    reader::{SpoolReader, Stop, StopOnDrop},
    writer::{SpoolFull, SpoolWriter},
};
use crate::{
    adapter::{Adapter, unblock},
    sync::lock,
};

/// So much is written at a time.
const PIECE: usize = 256 << 10;
/// So much is read at a time to be sent.
const STREAMED: usize = 512 << 10;

/// So many buffers are kept to be read into.
const BUFFERS: usize = 3;

/// A file without a name, which only this process can read.
pub(crate) struct SpoolFile {
    store: Store,
    buffers: Arc<Buffers>,
}

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
        Self::on(Store::Disk(Mutex::new(Inner { file, len })))
    }

    fn on(store: Store) -> Self {
        let buffers = Arc::default();
        Self { store, buffers }
    }

    /// Its length in bytes.
    pub(crate) fn len(&self) -> u64 {
        match &self.store {
            Store::Disk(inner) => lock(inner).len,
            Store::Memory(filled) => filled.from(0).len() as u64,
        }
    }

    /// Whether it takes up memory, so that it should not be kept without need.
    pub(crate) fn in_memory(&self) -> bool {
        matches!(self.store, Store::Memory(_))
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
        match &self.store {
            Store::Disk(inner) => change(&mut lock(inner)),
            Store::Memory(_) => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
        }
    }

    /// Reads some bytes from offset `at` on; none at the end.
    fn read_at(&self, at: u64, out: &mut [u8]) -> io::Result<usize> {
        match &self.store {
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
        let pieces = range.end.saturating_sub(start).div_ceil(STREAMED as u64);
        stream::iter(0..pieces)
            .map(move |number| {
                let (file, adapter) = (Arc::clone(&self), Arc::clone(&adapter));
                let at = start + number * STREAMED as u64;
                let end = range.end.min(at + STREAMED as u64);
                async move {
                    // Not where blocking is allowed: each of those threads keeps some of the memory
                    // that was allocated on it.
                    let piece = file.buffers.take((end - at) as usize);
                    let read = unblock(&*adapter, move || file.read(at, piece)).await;
                    read.unwrap_or_else(|| Err(lost()))
                }
            })
            .buffered(at_once)
    }

    /// Keeps no memory that is not used.
    pub(crate) fn relax(&self) {
        let free = std::mem::take(&mut *lock(&self.buffers.0));
        drop(free);
    }

    /// Reads it from its start, until it is to `stop`; several may read at once.
    pub(crate) fn reader(self: Arc<Self>, stop: Stop) -> SpoolReader {
        SpoolReader::new(self, stop)
    }

    /// Fills `piece` from offset `at` on.
    fn read(&self, at: u64, mut piece: Piece) -> io::Result<Bytes> {
        let out = &mut piece.buffer[..piece.len];
        match &self.store {
            Store::Disk(inner) => {
                let mut inner = lock(inner);
                inner.file.seek(SeekFrom::Start(at))?;
                inner.file.read_exact(out)?;
            }
            Store::Memory(filled) => filled.from(at).read_exact(out)?,
        }
        Ok(Bytes::from_owner(piece))
    }
}

/// What is read to be sent goes through a few buffers again and again: new ones would cost more than
/// what is done with them.
#[derive(Default)]
struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    fn take(self: &Arc<Self>, len: usize) -> Piece {
        let mut buffer = lock(&self.0).pop().unwrap_or_default();
        if buffer.len() < len {
            buffer.resize(len, 0);
        }
        Piece {
            buffer,
            len,
            buffers: Arc::clone(self),
        }
    }
}

/// A buffer that comes back.
struct Piece {
    buffer: Vec<u8>,
    len: usize,
    buffers: Arc<Buffers>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.len]
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let mut free = lock(&self.buffers.0);
        if free.len() < BUFFERS {
            free.push(std::mem::take(&mut self.buffer));
        }
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
        let mut slices: Vec<_> = chunks.iter().map(|chunk| IoSlice::new(chunk)).collect();
        let mut slices = &mut slices[..];
        let mut end = start;
        self.file.seek(SeekFrom::Start(start))?;
        // What is empty would be taken for the end.
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            match self.file.write_vectored(slices) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    IoSlice::advance_slices(&mut slices, written);
                    end += written as u64;
                    self.len = self.len.max(end);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
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

/// Where `to` is for one who is at `at`, in a file of `len` bytes.
fn moved(at: u64, len: u64, to: SeekFrom) -> io::Result<u64> {
    let moved = match to {
        SeekFrom::Start(to) => Some(to),
        SeekFrom::Current(by) => at.checked_add_signed(by),
        SeekFrom::End(by) => len.checked_add_signed(by),
    };
    moved.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use quickcheck::quickcheck;

    use super::*;

    fn read(file: &SpoolFile, range: Range<u64>) -> io::Result<Bytes> {
        let len = (range.end - range.start) as usize;
        file.read(range.start, file.buffers.take(len))
    }

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
        file.append(&["".into(), "ab".into(), "".into(), "cd".into()])
            .unwrap();
        file.append(&["".into()]).unwrap();
        file.append(&["ef".into()]).unwrap();
        assert_eq!(file.len(), 6);
        assert_eq!(read(&file, 1..4).unwrap(), "bcd");
        assert_eq!(
            read(&file, 4..7).unwrap_err().kind(),
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
        let Store::Disk(inner) = &file.store else {
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
        let read = read(&file, 2..5).unwrap();
        assert_eq!((file.len(), read), (6, "234".into()));
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

    #[test]
    fn memory_is_used_again() {
        let allowance = Allowance::new(2500);
        let place = |room: &Filled| room.from(0).as_ptr();
        let mut first = allowance.take(1000).unwrap();
        assert!(first.add(&[1; 1000]) && !first.add(&[1]));
        let at = place(&first);
        drop(first);
        let mut second = allowance.take(950).unwrap();
        assert!(place(&second) == at && !second.is_full());
        assert!(second.add(&[2; 950]) && second.is_full() && !second.add(&[2]));
        assert_eq!(second.from(0), [2; 950]);
        drop(second);
        // Not for a little only, nor for ever.
        let small = allowance.take(10).unwrap();
        let rest = allowance.take(2490).unwrap();
        assert!(allowance.take(1).is_none());
        drop((small, rest));
        allowance.relax();
        assert_eq!(allowance.spare(), 0);

        let file = SpoolFile::create(&std::env::temp_dir()).unwrap();
        file.append(&["0123456789".into()]).unwrap();
        let first = read(&file, 0..10).unwrap();
        let at = first.as_ptr();
        let part = first.slice(3..);
        drop(first);
        assert_ne!(read(&file, 0..10).unwrap().as_ptr(), at);
        assert_eq!(part, "3456789");
        drop(part);
        assert_eq!(lock(&file.buffers.0).len(), 2);
        let (short, long) = (read(&file, 0..2), read(&file, 2..10));
        assert_eq!(
            (short.unwrap(), long.unwrap()),
            ("01".into(), "23456789".into())
        );
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
