//! The directory beside that of a job: file variables, and what else must not be among its files.

use std::{
    error::Error,
    ffi::OsString,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use crate::sync::lock;

/// What it is called behind the name of the job's directory.
const TEMP: &str = ".tmp";

/// The directory `<build directory of the job>.tmp`, made when it is first needed.
#[derive(Clone)]
pub(crate) struct FileVariables {
    dir: Arc<Path>,
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Missing,
    Made,
    /// The job is over.
    Closed,
}

/// A file with what belongs into it.
pub(super) struct FileVariable {
    pub(super) key: String,
    pub(super) content: String,
}

/// Why the variables of a job that are files could not be written.
///
/// Names the variable; holds no value.
#[derive(Debug)]
#[non_exhaustive]
pub enum EnvError {
    /// The directory for temporary files could not be made.
    Directory(io::Error),
    /// The file of one variable could not be written.
    File {
        /// The name of the variable.
        key: String,
        /// Why.
        error: io::Error,
    },
    /// The job is over, or its runtime is going away.
    Stopped,
}

impl FileVariables {
    pub(super) fn beside(dir: &Path) -> Self {
        let mut name = OsString::with_capacity(dir.as_os_str().len() + TEMP.len());
        name.push(dir);
        name.push(TEMP);
        Self {
            dir: PathBuf::from(name).into(),
            state: Arc::new(Mutex::new(State::Missing)),
        }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes the directory, and writes these files into it. Blocks.
    pub(super) fn write(&self, files: &[FileVariable]) -> Result<(), EnvError> {
        let mut state = lock(&self.state);
        match *state {
            State::Missing => {
                make_dir(&self.dir).map_err(EnvError::Directory)?;
                *state = State::Made;
            }
            State::Made => {}
            State::Closed => return Err(EnvError::Stopped),
        }
        for FileVariable { key, content } in files {
            write_private(&self.dir.join(key), content).map_err(|error| EnvError::File {
                key: key.clone(),
                error,
            })?;
        }
        Ok(())
    }

    /// Makes it no more. Gives the directory if it was made: it is to be removed. Blocks.
    pub(crate) fn close(&self) -> Option<PathBuf> {
        let state = std::mem::replace(&mut *lock(&self.state), State::Closed);
        (state == State::Made).then(|| self.dir.to_path_buf())
    }
}

/// A directory that is empty, and that nobody else can look into.
fn make_dir(dir: &Path) -> io::Result<()> {
    #[cfg_attr(not(unix), expect(unused_mut, reason = "modes are those of unix"))]
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(dir) {
        // Of a runner that was killed: the directory beside it is ours, so nobody uses it.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            remove(dir)?;
            builder.create(dir)
        }
        made => made,
    }
}

/// Writes a file that nobody else can read. What the job has put in its place is not followed.
fn write_private(path: &Path, content: &str) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            remove(path)?;
            options.open(path)
        }
        opened => opened,
    };
    io::Write::write_all(&mut file?, content.as_bytes())
}

/// Removes whatever is there, links and not what they lead to.
fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
}

impl fmt::Display for EnvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(error) => {
                write!(
                    f,
                    "the job's directory for temporary files cannot be made: {error}"
                )
            }
            Self::File { key, error } => {
                write!(
                    f,
                    "the file of the variable {key} cannot be written: {error}"
                )
            }
            Self::Stopped => f.write_str("the job is over, so its variables are not written"),
        }
    }
}

impl Error for EnvError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Directory(error) | Self::File { error, .. } => Some(error),
            Self::Stopped => None,
        }
    }
}
