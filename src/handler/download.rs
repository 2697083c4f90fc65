//! Asks the driver for what other jobs made.

use std::{
    error::Error,
    fmt,
    sync::{Arc, Weak},
};

use futures::channel::oneshot;

use crate::{adapter::TransportError, artifact::ArtifactError, ids::JobId, spool::SpoolFile};

/// What came of it: the file, or none if there is nothing to download.
pub(crate) type Fetched = Result<Option<Arc<SpoolFile>>, DownloadError>;

/// Begins a download and gives what ends it early.
pub(crate) type Fetch =
    Box<dyn Fn(JobId, oneshot::Sender<Fetched>) -> Box<dyn FnOnce() + Send> + Send + Sync>;

/// What was downloaded and may be asked for again. What is in memory is kept only while somebody
/// uses it.
pub(super) enum Kept {
    OnDisk(Arc<SpoolFile>),
    InMemory(Weak<SpoolFile>),
}

impl Kept {
    pub(super) fn new(file: &Arc<SpoolFile>) -> Self {
        if file.in_memory() {
            Self::InMemory(Arc::downgrade(file))
        } else {
            Self::OnDisk(Arc::clone(file))
        }
    }

    pub(super) fn file(&self) -> Option<Arc<SpoolFile>> {
        match self {
            Self::OnDisk(file) => Some(Arc::clone(file)),
            Self::InMemory(file) => file.upgrade(),
        }
    }
}

/// Why the artifacts of a dependency could not be downloaded.
///
/// Prints what GitLab (or the storage that it pointed to) said; holds no token.
#[derive(Debug)]
#[non_exhaustive]
pub enum DownloadError {
    /// The job's token is not good for them (401 or 403): the job is over at GitLab, or the user
    /// for whom it runs may not read that job. With what GitLab said.
    Refused(String),
    /// They are not there (404): they have expired or were erased since the job was handed out.
    /// With what GitLab said.
    NotFound(String),
    /// GitLab did not answer as it should, also when it was asked again. With what it said.
    Failed(String),
    /// GitLab could not be reached, or the answer broke off, again and again; or it could not be
    /// stored, because the disk is full, say.
    Transport(TransportError),
    /// They are there, but cannot be read.
    Unreadable(ArtifactError),
    /// The job, or its runner, has come to its end.
    Stopped,
}

impl fmt::Display for DownloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the artifacts of a dependency could not be downloaded: ")?;
        match self {
            Self::Refused(said) => write!(f, "the job may not read them ({said})"),
            Self::NotFound(said) => write!(f, "they have expired or were erased ({said})"),
            Self::Failed(said) => f.write_str(said),
            Self::Transport(error) => error.fmt(f),
            Self::Unreadable(error) => error.fmt(f),
            Self::Stopped => f.write_str("the job has come to its end"),
        }
    }
}

impl Error for DownloadError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Transport(error) => Some(error),
            Self::Unreadable(error) => Some(error),
            _ => None,
        }
    }
}

/// Ends a download that nobody awaits any more.
pub(super) struct FetchGuard(Option<Box<dyn FnOnce() + Send>>);

impl FetchGuard {
    pub(super) fn new(forget: Box<dyn FnOnce() + Send>) -> Self {
        Self(Some(forget))
    }

    /// It has come to its end.
    pub(super) fn over(mut self) {
        self.0 = None;
    }
}

impl Drop for FetchGuard {
    fn drop(&mut self) {
        if let Some(forget) = self.0.take() {
            forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::Allowance;

    #[test]
    fn what_is_in_memory_is_kept_only_while_it_is_used() {
        let allowance = Allowance::new(10);
        let mut room = allowance.take(10).unwrap();
        assert!(room.add(b"0123456789"));
        let file = Arc::new(room.finish());
        let kept = Kept::new(&file);
        assert!(kept.file().is_some_and(|again| Arc::ptr_eq(&again, &file)));
        drop(file);
        assert!(kept.file().is_none() && allowance.take(10).is_some());

        let file = Arc::new(SpoolFile::create(&std::env::temp_dir()).unwrap());
        let kept = Kept::new(&file);
        drop(file);
        assert!(kept.file().is_some());
    }
}
