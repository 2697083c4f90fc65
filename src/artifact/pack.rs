//! Packs the files of an artifact into one spool file.
//!
//! Files are read in the handler's task, in pieces that are handed to a thread where blocking is
//! allowed: there they are compressed and written while the next piece is read. Two pieces are all
//! that is in memory. Nothing else is left behind when the future is dropped.

use std::{
    collections::VecDeque,
    error::Error,
    fmt,
    io::{self, Read as _},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::SystemTime,
};

use futures::{
    AsyncReadExt as _, FutureExt as _,
    future::{BoxFuture, ready},
    poll,
};

use super::{
    files::{BlockingData, FileKind, UploadableFile},
    name::{NameError, Shown, clean_name},
    select::Selection,
    writer::{Entry, Format, Level, PackWriter},
};
use crate::{
    adapter::{Adapter, unblock},
    protocol::{ArtifactFormat, artifact_file_name},
    spool::{SpoolFile, SpoolFull, SpoolWriter},
};

/// So much is read, and handed over, at a time.
const PIECE: usize = 1 << 20;
/// A file is not begun in a piece with less room: its first bytes decide how it is stored.
const ROOM: usize = PIECE / 2;
/// At most so many small files are handed over at a time.
const MAX_WORK: usize = 1000;
/// A handler that offers many files does not hold up other tasks for more than so many.
const OFFERS: usize = 256;
/// Nor for more than so many bytes of patterns, over all of these files.
const MATCHED: usize = 256 << 10;
/// More warnings are only counted.
const MAX_WARNINGS: usize = 50;

/// How to pack.
#[derive(Clone, Debug)]
pub(crate) struct PackOrder {
    /// As the job has it; zip if there is none.
    pub(crate) format: Option<ArtifactFormat>,
    /// The artifact's name with its variables expanded.
    pub(crate) name: Option<String>,
    pub(crate) level: Level,
    /// Where the spool file is made.
    pub(crate) dir: PathBuf,
    /// The time of files that do not tell theirs.
    pub(crate) now: SystemTime,
    /// It may not become longer, in bytes.
    pub(crate) most: Option<u64>,
}

/// A packed artifact.
#[derive(Debug)]
pub(crate) struct Packed {
    pub(crate) spool: Arc<SpoolFile>,
    /// The length of the spool file.
    pub(crate) len: u64,
    /// How many files and links are in it.
    pub(crate) files: usize,
    /// What the file is called at GitLab.
    pub(crate) file_name: String,
}

/// Why a file that was offered is not in the artifact although the rest is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PackWarning {
    /// Its path cannot be a name.
    Name { path: String, error: NameError },
    /// Another file of the same name was offered before.
    Duplicate { name: String },
    /// Links have no place in this format.
    Link { name: String },
    /// It was removed in the meantime.
    Vanished { name: String },
    /// So many more warnings were kept back.
    More { count: usize },
}

impl fmt::Display for PackWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, what): (_, &str) = match self {
            Self::Name { path, error } => {
                return write!(f, "\"{}\" is not uploaded: {error}", Shown(path));
            }
            Self::Duplicate { name } => {
                (name, "is there more than once: only the first is uploaded")
            }
            Self::Link { name } => (name, "is a symbolic link, which this format cannot hold"),
            Self::Vanished { name } => (name, "was removed before it could be uploaded"),
            Self::More { count } => return write!(f, "{count} more files are not uploaded"),
        };
        write!(f, "{} {what}", Shown(name))
    }
}

/// Why there is no artifact.
#[derive(Debug)]
#[non_exhaustive]
pub(crate) enum PackError {
    /// GitLab asked for a format that this runner does not know.
    Format(String),
    /// A raw artifact is one file; these are two that matched.
    SeveralFiles { first: String, second: String },
    /// The handler could not open a file.
    Unreadable { name: String },
    /// A file could not be read.
    Read { name: String, source: io::Error },
    /// The artifact could not be written to disk.
    Write { source: io::Error },
    /// It became longer than this many bytes.
    TooLarge { most: u64 },
    /// The runtime is going away.
    Lost,
}

impl PackError {
    /// Whether there was no room on the disk.
    pub(crate) fn is_disk_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};

        let Self::Write { source } = self else {
            return false;
        };
        matches!(source.kind(), StorageFull | QuotaExceeded)
    }

    fn write(source: io::Error) -> Self {
        let too_large = source.get_ref().and_then(|source| source.downcast_ref());
        match too_large {
            Some(&SpoolFull { most }) => Self::TooLarge { most },
            None => Self::Write { source },
        }
    }
}

impl fmt::Display for PackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Format(word) => write!(f, "the artifact format `{word}` is not supported"),
            Self::SeveralFiles { first, second } => write!(
                f,
                "a raw artifact is a single file, but {} and {} match its paths: make the paths \
                 name one file",
                Shown(first),
                Shown(second)
            ),
            Self::Unreadable { name } => write!(f, "{} could not be opened", Shown(name)),
            Self::Read { name, source } => {
                write!(f, "{} could not be read: {source}", Shown(name))
            }
            Self::Write { source } if self.is_disk_full() => write!(
                f,
                "the disk of the runner is full: the artifact could not be packed ({source})"
            ),
            Self::Write { source } => write!(f, "the artifact could not be packed: {source}"),
            Self::TooLarge { most } => write!(
                f,
                "the artifact becomes longer than {most} bytes, which is this runner's own limit \
                 (`max_artifact_size`), whatever GitLab's is"
            ),
            Self::Lost => f.write_str("the runner's runtime is going away"),
        }
    }
}

impl Error for PackError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Read { source, .. } | Self::Write { source } => Some(source),
            _ => None,
        }
    }
}

/// Packs those of `files` that `selection` takes; `None` if there are none.
pub(crate) async fn pack<U>(
    files: impl Iterator<Item = U> + Send,
    selection: &mut Selection,
    order: &PackOrder,
    adapter: &Arc<dyn Adapter>,
    warn: &mut (dyn FnMut(PackWarning) + Send),
) -> Result<Option<Packed>, PackError>
where
    U: UploadableFile + Send + 'static,
{
    let mut warnings = Warnings { warn, given: 0 };
    let packed = pack_with(files, selection, order, adapter, &mut warnings).await;
    let kept_back = warnings.given.saturating_sub(MAX_WARNINGS);
    if kept_back > 0 {
        warn(PackWarning::More { count: kept_back });
    }
    packed
}

/// Passes on so many warnings as somebody may read.
struct Warnings<'w> {
    warn: &'w mut (dyn FnMut(PackWarning) + Send),
    given: usize,
}

impl Warnings<'_> {
    fn give(&mut self, warning: PackWarning) {
        self.given += 1;
        if self.given <= MAX_WARNINGS {
            (self.warn)(warning);
        }
    }
}

async fn pack_with<U>(
    files: impl Iterator<Item = U> + Send,
    selection: &mut Selection,
    order: &PackOrder,
    adapter: &Arc<dyn Adapter>,
    warn: &mut Warnings<'_>,
) -> Result<Option<Packed>, PackError>
where
    U: UploadableFile + Send + 'static,
{
    let known = Format::of(order.format.as_ref());
    let format = known.clone().unwrap_or(Format::Zip);
    let mut files = select(files, selection, format, warn).await;
    if !files.is_empty() {
        known.map_err(PackError::Format)?;
    }
    if let (Format::Raw, Some([first, second])) = (format, files.make_contiguous().get(..2)) {
        let name = |file: &Selected<U>| file.entry.name.clone();
        return Err(PackError::SeveralFiles {
            first: name(first),
            second: name(second),
        });
    }
    if files.is_empty() {
        return Ok(None);
    }

    let (dir, level, now) = (order.dir.clone(), order.level, order.now);
    let most = order.most;
    let writer = unblock(&**adapter, move || {
        let file = SpoolWriter::create(&dir, most)?;
        Ok(PackWriter::new(file, format, level, now))
    });
    let writer = writer.await.ok_or(PackError::Lost)?;
    let mut pipe = Pipe::new(writer.map_err(PackError::write)?, adapter);
    let mut piece = Piece::new();
    // A file is let go of as soon as it is read.
    while let Some(Selected { entry, file }) = files.pop_front() {
        if piece.room() < ROOM || piece.work.len() >= MAX_WORK {
            piece = pipe.pass(piece, warn).await?;
        }
        if entry.metadata.kind == FileKind::Directory {
            piece.work.push(Work::Begin(entry));
            piece.work.push(Work::End);
            continue;
        }
        if let Some(open) = file.get_blocking_data() {
            piece.work.push(Work::Whole(entry, open));
            continue;
        }
        let name = entry.name.clone();
        let Ok(mut data) = file.get_data().await else {
            return Err(PackError::Unreadable { name });
        };
        piece.work.push(Work::Begin(entry));
        loop {
            match data.read(piece.free()).await {
                Ok(0) => break,
                Ok(len) => piece.filled(len),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(PackError::Read { name, source }),
            }
            if piece.room() == 0 {
                piece = pipe.pass(piece, warn).await?;
            }
        }
        piece.work.push(Work::End);
    }
    let (writer, files) = pipe.finish(piece, warn).await?;
    if files.entries == 0 {
        return Ok(None);
    }

    let spool = unblock(&**adapter, move || writer.finish()).await;
    let spool = spool.ok_or(PackError::Lost)?.map_err(PackError::write)?;
    Ok(Some(Packed {
        len: spool.len(),
        spool: Arc::new(spool),
        files: files.files,
        file_name: artifact_file_name(order.name.as_deref(), order.format.as_ref()),
    }))
}

struct Selected<U> {
    entry: Entry,
    file: U,
}

/// The files that belong to the artifact, in the order of their names.
async fn select<U: UploadableFile + Send>(
    files: impl Iterator<Item = U> + Send,
    selection: &mut Selection,
    format: Format,
    warn: &mut Warnings<'_>,
) -> VecDeque<Selected<U>> {
    let mut selected = Vec::new();
    let at_once = (MATCHED / selection.size().max(1)).clamp(1, OFFERS);
    for (number, file) in files.enumerate() {
        let entry = offered(&file, selection, format, warn);
        selected.extend(entry.map(|entry| Selected { entry, file }));
        if (number + 1).is_multiple_of(at_once) {
            yield_now().await;
        }
    }
    selected.sort_by(|a, b| a.entry.name.cmp(&b.entry.name));
    selected.dedup_by(|later, first| {
        let is_same = later.entry.name == first.entry.name;
        if is_same {
            let name = first.entry.name.clone();
            warn.give(PackWarning::Duplicate { name });
        }
        is_same
    });
    selected.into()
}

fn offered(
    file: &impl UploadableFile,
    selection: &mut Selection,
    format: Format,
    warn: &mut Warnings<'_>,
) -> Option<Entry> {
    let path = file.get_path();
    let name = match clean_name(&path) {
        Ok(name) => name,
        Err(error) => {
            let path = path.into_owned();
            warn.give(PackWarning::Name { path, error });
            return None;
        }
    };
    let metadata = file.get_metadata();
    let fits = match metadata.kind {
        FileKind::File => true,
        FileKind::Directory | FileKind::Symlink => format == Format::Zip,
    };
    if !fits && metadata.kind == FileKind::Directory {
        return None;
    }
    if !selection.take(&name, metadata.untracked) {
        return None;
    }
    if !fits {
        warn.give(PackWarning::Link { name });
        return None;
    }
    Some(Entry { name, metadata })
}

/// Lets other tasks have a turn.
pub(crate) async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// What is handed over at a time.
struct Piece {
    bytes: Box<[u8]>,
    len: usize,
    work: Vec<Work>,
}

enum Work {
    Begin(Entry),
    /// The bytes up to here.
    Data(usize),
    End,
    /// A whole file.
    Whole(Entry, BlockingData),
}

impl Piece {
    fn new() -> Self {
        Self {
            bytes: vec![0; PIECE].into(),
            len: 0,
            work: Vec::new(),
        }
    }

    fn room(&self) -> usize {
        self.bytes.len() - self.len
    }

    fn free(&mut self) -> &mut [u8] {
        &mut self.bytes[self.len..]
    }

    /// So much of what was free is now data of the current file.
    fn filled(&mut self, len: usize) {
        self.len = (self.len + len).min(self.bytes.len());
        match self.work.last_mut() {
            Some(Work::Data(end)) => *end = self.len,
            _ => self.work.push(Work::Data(self.len)),
        }
    }
}

/// Hands one piece at a time to where blocking is allowed, while the next is filled.
struct Pipe<'a> {
    adapter: &'a Arc<dyn Adapter>,
    /// The piece before the current one.
    writing: BoxFuture<'static, Result<Written, PackError>>,
    /// Is set when the artifact is given up.
    stop: StopOnDrop,
}

/// What comes back with a piece that was written.
struct Written {
    writer: PackWriter,
    piece: Piece,
    /// For files that are read where blocking is allowed.
    buffer: Vec<u8>,
    count: Count,
    vanished: Vec<String>,
}

#[derive(Clone, Copy, Default)]
struct Count {
    entries: usize,
    files: usize,
}

#[derive(Default)]
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl<'a> Pipe<'a> {
    fn new(writer: PackWriter, adapter: &'a Arc<dyn Adapter>) -> Self {
        let nothing = Written {
            writer,
            piece: Piece::new(),
            buffer: Vec::new(),
            count: Count::default(),
            vanished: Vec::new(),
        };
        Self {
            adapter,
            writing: ready(Ok(nothing)).boxed(),
            stop: StopOnDrop::default(),
        }
    }

    /// Has `piece` written, and gives an empty one.
    async fn pass(&mut self, piece: Piece, warn: &mut Warnings<'_>) -> Result<Piece, PackError> {
        let mut last = self.written(warn).await?;
        let empty = std::mem::replace(&mut last.piece, piece);
        let stop = Arc::clone(&self.stop.0);
        let adapter = Arc::clone(self.adapter);
        let mut writing = async move {
            let written = unblock(&*adapter, move || last.write(&stop)).await;
            written.ok_or(PackError::Lost)?
        }
        .boxed();
        // Begins now, not when it is waited for.
        self.writing = match poll!(&mut writing) {
            Poll::Ready(written) => ready(written).boxed(),
            Poll::Pending => writing,
        };
        Ok(empty)
    }

    async fn written(&mut self, warn: &mut Warnings<'_>) -> Result<Written, PackError> {
        let done = ready(Err(PackError::Lost)).boxed();
        let mut written = std::mem::replace(&mut self.writing, done).await?;
        for name in written.vanished.drain(..) {
            warn.give(PackWarning::Vanished { name });
        }
        Ok(written)
    }

    /// Has the last piece written.
    async fn finish(
        mut self,
        piece: Piece,
        warn: &mut Warnings<'_>,
    ) -> Result<(PackWriter, Count), PackError> {
        self.pass(piece, warn).await?;
        let written = self.written(warn).await?;
        Ok((written.writer, written.count))
    }
}

impl Written {
    /// Writes the piece. Blocks.
    fn write(mut self, stop: &AtomicBool) -> Result<Self, PackError> {
        let mut at = 0;
        for work in std::mem::take(&mut self.piece.work) {
            match work {
                Work::Begin(entry) => self.begin(entry)?,
                Work::Data(end) => {
                    let bytes = &self.piece.bytes[at..end];
                    self.writer.data(bytes).map_err(PackError::write)?;
                    at = end;
                }
                Work::End => self.writer.end().map_err(PackError::write)?,
                Work::Whole(entry, open) => self.whole(entry, open, stop)?,
            }
        }
        self.piece.len = 0;
        Ok(self)
    }

    fn begin(&mut self, entry: Entry) -> Result<(), PackError> {
        self.count.entries += 1;
        self.count.files += usize::from(entry.metadata.kind != FileKind::Directory);
        self.writer.begin(entry).map_err(PackError::write)
    }

    fn whole(
        &mut self,
        entry: Entry,
        open: BlockingData,
        stop: &AtomicBool,
    ) -> Result<(), PackError> {
        let name = entry.name.clone();
        let mut data = match open() {
            Ok(data) => data,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.vanished.push(name);
                return Ok(());
            }
            Err(source) => return Err(PackError::Read { name, source }),
        };
        self.begin(entry)?;
        self.buffer.resize(PIECE, 0);
        loop {
            if stop.load(Ordering::Relaxed) {
                return Err(PackError::Lost);
            }
            match data.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(len) => {
                    let bytes = &self.buffer[..len];
                    self.writer.data(bytes).map_err(PackError::write)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(PackError::Read { name, source }),
            }
        }
        self.writer.end().map_err(PackError::write)
    }
}

#[cfg(test)]
mod tests;
