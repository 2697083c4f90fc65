//! Files that go into a job and come out of it.

mod files;
mod glob;
mod name;
mod select;

pub use self::{
    files::{NoFiles, UploadableFile},
    glob::GlobError,
    name::NameError,
};
pub(crate) use self::{
    name::clean_name,
    select::{PatternProblem, Selection},
};
