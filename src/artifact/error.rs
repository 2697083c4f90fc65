//! What can go wrong with the artifact of another job.

use std::{error::Error, fmt, io, sync::Arc};

use zip::result::ZipError;

/// Why an artifact could not be read or extracted.
///
/// Prints what was tried; [`kind`](Self::kind) is for programs.
#[derive(Clone, Debug)]
pub struct ArtifactError {
    kind: ArtifactErrorKind,
    detail: Arc<str>,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

/// What is wrong with an artifact, or with where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ArtifactErrorKind {
    /// It is none: neither zip nor gzip, or cut off, or not what it says.
    Damaged,
    /// It is encrypted, or compressed in a way that this crate does not know.
    Unsupported,
    /// It is larger than the limits, or has more entries. Raise them if you trust the job that made
    /// it.
    TooLarge,
    /// It has an entry that would be outside of the directory. Nothing was extracted.
    UnsafeName,
    /// Something is in the way that cannot be replaced: a file where it has a directory, or the
    /// reverse, or a symbolic link that leads out of the directory.
    InTheWay,
    /// The disk is full.
    DiskFull,
    /// Its file cannot be read, or the directory not be written to.
    Io,
}

impl ArtifactError {
    pub(super) fn new(kind: ArtifactErrorKind, detail: impl Into<Arc<str>>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            source: None,
        }
    }

    pub(super) fn with_source(mut self, source: impl Error + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// What came of reading `what`.
    pub(super) fn reading(what: &str, error: ZipError) -> Self {
        use ArtifactErrorKind::{Damaged, Unsupported};

        let kind = match &error {
            ZipError::Io(error) => io_kind(error.kind()),
            ZipError::UnsupportedArchive(_)
            | ZipError::InvalidPassword
            | ZipError::CompressionMethodNotSupported(_) => Unsupported,
            _ => Damaged,
        };
        Self::new(kind, format!("{what} cannot be read")).with_source(error)
    }

    /// What came of `doing` something with a file.
    pub(super) fn io(doing: impl fmt::Display, error: io::Error) -> Self {
        let kind = io_kind(error.kind());
        Self::new(kind, format!("cannot {doing}")).with_source(error)
    }

    /// What is wrong.
    pub fn kind(&self) -> ArtifactErrorKind {
        self.kind
    }
}

fn io_kind(kind: io::ErrorKind) -> ArtifactErrorKind {
    use io::ErrorKind::{
        FileTooLarge, InvalidData, InvalidInput, QuotaExceeded, StorageFull, UnexpectedEof,
        Unsupported,
    };

    match kind {
        InvalidData | InvalidInput | UnexpectedEof => ArtifactErrorKind::Damaged,
        Unsupported => ArtifactErrorKind::Unsupported,
        FileTooLarge => ArtifactErrorKind::TooLarge,
        StorageFull | QuotaExceeded => ArtifactErrorKind::DiskFull,
        _ => ArtifactErrorKind::Io,
    }
}

/// The detail and, behind a colon, what caused it.
impl fmt::Display for ArtifactError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl Error for ArtifactError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn Error + 'static))
    }
}
