//! Files that go into a job and come out of it.

mod files;

pub use self::files::{NoFiles, UploadableFile};
