//! Files that a handler offers for upload.

use std::borrow::Cow;

use async_trait::async_trait;
use futures::io::{AsyncRead, Empty};

/// A file that a job offers for upload as (a part of) an artifact.
///
/// Implement it with `#[async_trait::async_trait]`.
#[async_trait]
pub trait UploadableFile {
    /// Reads the file.
    type Data<'a>: AsyncRead + Send + Unpin
    where
        Self: 'a;

    /// The path of the file, relative to the job's working directory: what the patterns of
    /// `artifacts:paths` are matched with.
    fn get_path(&self) -> Cow<'_, str>;

    /// Opens the file.
    ///
    /// # Errors
    /// When it cannot be opened.
    async fn get_data(&self) -> Result<Self::Data<'_>, ()>;
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
