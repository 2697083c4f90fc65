//! Files that a handler offers for upload.

use std::{
    borrow::Cow,
    io::{self, Read},
    time::SystemTime,
};

use async_trait::async_trait;
use futures::io::{AsyncRead, Empty};

/// A file that a job offers for upload as (a part of) an artifact.
///
/// Implement it with `#[async_trait::async_trait]`. Only the first two methods are needed.
#[async_trait]
pub trait UploadableFile {
    /// Reads the file.
    type Data<'a>: AsyncRead + Send + Unpin
    where
        Self: 'a;

    /// The path of the file, relative to the job's working directory: what the patterns of
    /// `artifacts:paths` are matched with, and its name in the artifact. A file whose path is
    /// absolute or leads out of the directory is not uploaded.
    fn get_path(&self) -> Cow<'_, str>;

    /// Opens the file.
    ///
    /// # Errors
    /// When it cannot be opened.
    async fn get_data(&self) -> Result<Self::Data<'_>, ()>;

    /// What is kept of the file besides its content; nothing by default.
    fn get_metadata(&self) -> FileMetadata {
        FileMetadata::default()
    }

    /// For files that are read by blocking, such as those on disk: how to open it. What is returned
    /// is called, and the file read, on a thread where blocking is allowed, and
    /// [`get_data`](Self::get_data) is not called. `None` by default.
    fn get_blocking_data(&self) -> Option<BlockingData> {
        None
    }
}

/// Opens a file where blocking is allowed. A file that is not found then is left out, as it was
/// removed since it was offered; any other error fails the upload.
pub type BlockingData = Box<dyn FnOnce() -> io::Result<Box<dyn Read + Send>> + Send>;

/// What is kept of a file besides its name and content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileMetadata {
    /// What it is.
    pub kind: FileKind,
    /// Who may read, write and execute it, as on Unix; the lower nine bits count. Without it `0o644`
    /// for files and `0o755` for directories.
    pub mode: Option<u32>,
    /// When it was changed last; without it, the time of the upload.
    pub modified: Option<SystemTime>,
    /// Whether git does not know it: it is uploaded for `artifacts:untracked`.
    pub untracked: bool,
}

/// What a path leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FileKind {
    /// A file with content.
    #[default]
    File,
    /// A directory. Its data are not read, and what is in it has to be offered besides.
    Directory,
    /// A symbolic link. Its data are the path that it points to.
    Symlink,
}

/// The file type of handlers that offer no files.
///
/// One that is made all the same has no path and cannot be opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(
    clippy::exhaustive_structs,
    reason = "there is nothing to add to nothing"
)]
pub struct NoFiles {}

#[async_trait]
impl UploadableFile for NoFiles {
    type Data<'a> = Empty;

    fn get_path(&self) -> Cow<'_, str> {
        Cow::Borrowed("")
    }

    async fn get_data(&self) -> Result<Self::Data<'_>, ()> {
        Err(())
    }
}
