//! Files on disk, ready to be offered for upload.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    fmt,
    fs::{self, File, Metadata},
    io::{self, Cursor, Read},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use async_trait::async_trait;
use futures::io::AllowStdIo;
use walkdir::WalkDir;

use super::files::{BlockingData, FileKind, FileMetadata, UploadableFile};

/// All that is below a directory: files, symbolic links as such, and directories, each with its
/// permissions and times. Devices, pipes and sockets are left out.
///
/// A handler that works in its job's build directory offers all of it, and GitLab's patterns choose:
///
/// ```no_run
/// # use gitlab_runner::{JobHandler, JobResult, Phase, job::Job};
/// use gitlab_runner::artifact::{DirectoryFiles, DiskFile};
/// # struct Shell(Job);
///
/// # #[async_trait::async_trait]
/// impl JobHandler<DiskFile> for Shell {
/// #   async fn step(&mut self, _: &[String], _: Phase) -> JobResult { Ok(()) }
///     async fn get_uploadable_files(
///         &mut self,
///     ) -> Result<Box<dyn Iterator<Item = DiskFile> + Send>, ()> {
///         let files = DirectoryFiles::walk(self.0.build_dir()).map_err(drop)?;
///         Ok(Box::new(files))
///     }
/// }
/// ```
///
/// The directory is read as the iterator is, which blocks for a moment now and then.
pub struct DirectoryFiles {
    root: Arc<Path>,
    walk: walkdir::IntoIter,
    untracked: BTreeSet<PathBuf>,
}

impl DirectoryFiles {
    /// Begins to walk through a directory.
    ///
    /// # Errors
    /// When there is no such directory. What cannot be read below it fails the upload that it would
    /// be a part of.
    pub fn walk(dir: impl AsRef<Path>) -> io::Result<Self> {
        let root = dir.as_ref().canonicalize()?;
        fs::read_dir(&root)?;
        Ok(Self {
            walk: WalkDir::new(&root)
                .follow_links(false)
                .min_depth(1)
                .into_iter(),
            root: root.into(),
            untracked: BTreeSet::new(),
        })
    }

    /// Finds out which files git does not know, ignored ones too, so that `artifacts:untracked`
    /// uploads them. Blocks.
    ///
    /// # Errors
    /// When there is no git, or no working copy in the directory.
    pub fn mark_untracked(&mut self) -> io::Result<()> {
        let output = Command::new("git")
            .arg("-C")
            .arg(&*self.root)
            // The job may have written the configuration: it must not name programs to be run.
            .args([
                "-c",
                "core.fsmonitor=false",
                "-c",
                "core.hooksPath=/dev/null",
            ])
            .args(["ls-files", "-o", "-z"])
            .stdin(Stdio::null())
            .output()?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            return Err(io::Error::other(format!("git ls-files: {}", error.trim())));
        }
        let names = output.stdout.split(|byte| *byte == 0);
        let names = names.filter(|name| !name.is_empty());
        self.untracked = names.map(|name| self.root.join(path(name))).collect();
        Ok(())
    }

    fn file(&self, path: PathBuf, metadata: &Metadata) -> Option<DiskFile> {
        let file_type = metadata.file_type();
        let kind = if file_type.is_file() {
            FileKind::File
        } else if file_type.is_dir() {
            FileKind::Directory
        } else if file_type.is_symlink() {
            FileKind::Symlink
        } else {
            return None;
        };
        let untracked = self.untracked.contains(&path);
        Some(self.with_metadata(
            path,
            FileMetadata {
                kind,
                mode: mode(metadata),
                modified: metadata.modified().ok(),
                untracked,
            },
        ))
    }

    fn with_metadata(&self, path: PathBuf, metadata: FileMetadata) -> DiskFile {
        DiskFile {
            root: Arc::clone(&self.root),
            path,
            metadata,
        }
    }
}

impl Iterator for DirectoryFiles {
    type Item = DiskFile;

    fn next(&mut self) -> Option<DiskFile> {
        loop {
            let found = match self.walk.next()? {
                Ok(entry) => match entry.metadata() {
                    Ok(metadata) => self.file(entry.into_path(), &metadata),
                    // It was removed in this moment.
                    Err(_) => None,
                },
                // It is offered as a file, and whoever selects it learns that it cannot be read.
                Err(error) => error
                    .path()
                    .map(|path| self.with_metadata(path.to_owned(), FileMetadata::default())),
            };
            if found.is_some() {
                return found;
            }
        }
    }
}

impl fmt::Debug for DirectoryFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirectoryFiles")
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

/// A file, directory or symbolic link on disk, below a directory that it is not read outside of.
#[derive(Clone, Debug)]
pub struct DiskFile {
    root: Arc<Path>,
    path: PathBuf,
    metadata: FileMetadata,
}

impl DiskFile {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[async_trait]
impl UploadableFile for DiskFile {
    type Data<'a> = AllowStdIo<Box<dyn Read + Send>>;

    /// The path below the directory, with slashes.
    fn get_path(&self) -> Cow<'_, str> {
        let relative = self.path.strip_prefix(&self.root).unwrap_or(&self.path);
        match relative.to_string_lossy() {
            path if cfg!(windows) => path.replace('\\', "/").into(),
            path => path,
        }
    }

    /// Reading blocks; the runner uses [`get_blocking_data`](Self::get_blocking_data).
    async fn get_data(&self) -> Result<Self::Data<'_>, ()> {
        let data = open(&self.root, &self.path, self.metadata.kind);
        data.map(AllowStdIo::new).map_err(drop)
    }

    fn get_metadata(&self) -> FileMetadata {
        self.metadata.clone()
    }

    fn get_blocking_data(&self) -> Option<BlockingData> {
        let Self {
            root,
            path,
            metadata,
        } = self.clone();
        Some(Box::new(move || open(&root, &path, metadata.kind)))
    }
}

/// Opens what is at `path` if that is what it was and where it was when the directory was read: the
/// job may still be running, and change it.
fn open(root: &Path, path: &Path, kind: FileKind) -> io::Result<Box<dyn Read + Send>> {
    let parent = path.parent().unwrap_or(root).canonicalize()?;
    if !parent.starts_with(root) {
        return Err(changed());
    }
    match kind {
        FileKind::Symlink => {
            let target = fs::read_link(path)?;
            let target = target.to_string_lossy();
            Ok(Box::new(Cursor::new(target.into_owned().into_bytes())))
        }
        FileKind::Directory => Ok(Box::new(io::empty())),
        FileKind::File => {
            let named = fs::symlink_metadata(path)?;
            if !named.is_file() {
                return Err(changed());
            }
            let file = File::open(path)?;
            if !is_same(&named, &file.metadata()?) {
                return Err(changed());
            }
            Ok(Box::new(file))
        }
    }
}

fn changed() -> io::Error {
    io::Error::other("it is not a file any more, or not in the directory")
}

#[cfg(unix)]
fn is_same(a: &Metadata, b: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;

    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(not(unix))]
fn is_same(_a: &Metadata, _b: &Metadata) -> bool {
    true
}

#[cfg(unix)]
fn mode(metadata: &Metadata) -> Option<u32> {
    Some(std::os::unix::fs::MetadataExt::mode(metadata) & 0o777)
}

#[cfg(not(unix))]
fn mode(_metadata: &Metadata) -> Option<u32> {
    None
}

#[cfg(unix)]
fn path(name: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;

    PathBuf::from(std::ffi::OsStr::from_bytes(name))
}

#[cfg(not(unix))]
fn path(name: &[u8]) -> PathBuf {
    PathBuf::from(String::from_utf8_lossy(name).into_owned())
}

#[cfg(test)]
mod tests;
