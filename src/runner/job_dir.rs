//! The directories of a job.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{blocking::Blocking, quick::Quick};
use crate::{handler::JobVariables, spool::lost};

/// So many jobs of one number may have a directory: several GitLabs may share a build directory, and
/// a killed runner leaves some behind.
const SAME_NUMBER: u32 = 1000;

/// Makes a directory for this job alone: `wanted`, or the same with a number behind it.
pub(super) async fn make(quick: &Arc<Quick>, wanted: PathBuf) -> io::Result<PathBuf> {
    let make = move || {
        let mut dir = wanted.clone();
        for number in 1..=SAME_NUMBER {
            match make_below_parents(&dir) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    let mut name = wanted.clone().into_os_string();
                    name.push(format!("-{number}"));
                    dir = name.into();
                }
                made => return made.map(|()| dir),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    };
    quick.run(make).await.unwrap_or_else(|| Err(lost()))
}

/// The parents are mostly there, and looking for them is not for nothing.
fn make_below_parents(dir: &Path) -> io::Result<()> {
    match (fs::create_dir(dir), dir.parent()) {
        (Err(error), Some(parent)) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(parent)?;
            fs::create_dir(dir)
        }
        (made, _) => made,
    }
}

/// Removes it, and before it the one beside it, if there is one: while the first is there, that
/// name is taken too.
pub(super) async fn remove(
    quick: &Arc<Quick>,
    slow: &Arc<Blocking>,
    variables: &Arc<JobVariables>,
) -> io::Result<()> {
    let of = Arc::clone(variables);
    let removed = quick.run(move || match of.files().close() {
        None => (fs::remove_dir(of.dir()), None),
        temp => (Ok(()), temp),
    });
    // Lost work: the runtime is going away, and nobody is left to hear of it.
    let (removed, temp) = removed.await.unwrap_or((Ok(()), None));
    if removed.is_ok() && temp.is_none() {
        return Ok(());
    }
    // Most likely it is not empty.
    let of = Arc::clone(variables);
    let removed = slow.run(move || {
        let temp = temp.map_or(Ok(()), |dir| there_no_more(fs::remove_dir_all(dir)));
        there_no_more(fs::remove_dir_all(of.dir())).and(temp)
    });
    removed.await.unwrap_or(Ok(()))
}

fn there_no_more(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
