//! Files that go into a job and come out of it.
//!
//! A handler offers files for upload as [`UploadableFile`]s; [`DirectoryFiles`] are those of a
//! directory on disk. What an earlier job uploaded is an [`Artifact`]: read it file by file, or
//! [`extract`](Artifact::extract) it into a directory.
//!
//! All that comes from outside is taken to be hostile: names, links, lengths.

mod directory;
mod disk;
mod error;
mod extract;
mod files;
pub(crate) mod glob;
mod name;
mod pack;
mod reader;
mod select;
#[cfg(test)]
mod testing;
mod time;
mod writer;

pub use self::{
    disk::{DirectoryFiles, DiskFile},
    error::{ArtifactError, ArtifactErrorKind},
    extract::{ExtractLimits, Extracted},
    files::{BlockingData, FileKind, FileMetadata, NoFiles, UploadableFile},
    glob::GlobError,
    name::NameError,
    reader::{Artifact, ArtifactFile},
};
pub(crate) use self::{
    pack::{PackOrder, Packed, pack, yield_now},
    select::{PatternProblem, Selection},
    writer::Level,
};
