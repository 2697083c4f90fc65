//! The older part of a job's log, on disk.

use std::{
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

/// So much is read at a time.
const PIECE: u64 = 256 << 10;

/// A file without a name, which only this process can read. Its offsets are those of the log.
pub(super) struct SpillFile(Mutex<File>);

impl SpillFile {
    pub(super) fn create(dir: &Path) -> io::Result<Self> {
        tempfile::tempfile_in(dir).map(|file| Self(Mutex::new(file)))
    }

    /// Blocks.
    pub(super) fn write(&self, start: u64, chunks: &[Bytes]) -> io::Result<()> {
        let mut file = lock(&self.0);
        file.seek(SeekFrom::Start(start))?;
        chunks.iter().try_for_each(|chunk| file.write_all(chunk))
    }

    /// These bytes, piece by piece.
    pub(super) fn stream(
        self: Arc<Self>,
        range: Range<u64>,
        adapter: Arc<dyn Adapter>,
    ) -> impl Stream<Item = io::Result<Bytes>> {
        stream::try_unfold(range.start, move |at| {
            let (file, adapter) = (Arc::clone(&self), Arc::clone(&adapter));
            let piece = at..range.end.min(at + PIECE);
            async move {
                if piece.is_empty() {
                    return Ok(None);
                }
                let end = piece.end;
                let read = unblock(&*adapter, move || file.read(piece)).await;
                let lost = || Err(io::Error::other("the runtime is going away"));
                let bytes = read.unwrap_or_else(lost)?;
                Ok(Some((bytes, end)))
            }
        })
    }

    fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        let len = range.end - range.start;
        let mut bytes = Vec::with_capacity(usize::try_from(len).map_err(io::Error::other)?);
        let mut file = lock(&self.0);
        file.seek(SeekFrom::Start(range.start))?;
        if Read::take(&mut *file, len).read_to_end(&mut bytes)? as u64 == len {
            Ok(bytes.into())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }
}
