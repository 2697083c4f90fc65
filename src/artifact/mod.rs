//! Files that go into a job and come out of it.

mod error;
mod extract;
mod files;
mod glob;
mod name;
mod pack;
mod reader;
mod select;
#[cfg(test)]
mod testing;
mod time;
mod writer;

pub use self::{
    error::{ArtifactError, ArtifactErrorKind},
    extract::{ExtractLimits, Extracted},
    files::{BlockingData, FileKind, FileMetadata, NoFiles, UploadableFile},
    glob::GlobError,
    name::NameError,
    reader::{Artifact, ArtifactFile},
};
#[allow(unused_imports, reason = "what the driver does not use yet")]
pub(crate) use self::{
    name::clean_name,
    pack::{PackError, PackOrder, PackWarning, Packed, pack},
    select::{PatternProblem, Selection},
    writer::Level,
};
