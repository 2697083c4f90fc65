//! Puts the files of an artifact into a directory, and nowhere else.
//!
//! No name leads out of the directory, symbolic links are made last and only if what they point to
//! is inside, and what was there before is followed only where it stays inside. Only another program
//! that changes the directory at the same time could lead a file elsewhere.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Component, Path, PathBuf},
    time::SystemTime,
};

use super::{
    error::{ArtifactError, ArtifactErrorKind},
    name::{NameError, Shown, clean_name},
    reader::{Artifact, ArtifactFile},
};

/// So much is written at a time.
const PIECE: usize = 256 << 10;
/// Longer targets of links are refused; no system knows them.
const MAX_TARGET: u64 = 4096;
/// So many directories are remembered, so that they need not be looked at for each of their files.
const MAX_SAFE: usize = 1000;
/// At most so many of the skipped entries are named.
const MAX_SKIPPED: usize = 100;

/// How much may come out of an artifact. It is another job that says how much that is, and 10 MB of
/// archive can hold 10 GB of zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExtractLimits {
    /// All files together, in bytes; 32 GiB by default.
    pub bytes: u64,
    /// The number of files, directories and links, and that of the directories that are made for
    /// them; a million by default.
    pub entries: usize,
}

impl Default for ExtractLimits {
    fn default() -> Self {
        Self {
            bytes: 32 << 30,
            entries: 1_000_000,
        }
    }
}

impl ExtractLimits {
    /// The same with another limit of bytes.
    #[must_use]
    pub fn with_bytes(self, bytes: u64) -> Self {
        Self { bytes, ..self }
    }

    /// The same with another limit of entries.
    #[must_use]
    pub fn with_entries(self, entries: usize) -> Self {
        Self { entries, ..self }
    }
}

/// What came out of an artifact.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Extracted {
    /// How many files.
    pub files: usize,
    /// How many directories that the artifact names.
    pub directories: usize,
    /// How many symbolic links.
    pub links: usize,
    /// How many bytes, in all files.
    pub bytes: u64,
    /// Entries that were left out, at most a hundred of them: links that point out of the directory
    /// or cannot be made, and devices, pipes and sockets.
    pub skipped: Vec<String>,
}

impl Artifact {
    /// Puts all files, directories and links into `dir`, which is made if it is not there. Blocks.
    ///
    /// Existing files and links are replaced, and of several entries with one name the last stays.
    /// Permissions are kept but for setuid, setgid and sticky bits, so are the times of files and
    /// directories. Links that lead out of the directory are left out.
    ///
    /// # Errors
    /// When the artifact is damaged or larger than the limits, when a name in it would lead out of
    /// the directory (nothing is extracted then), when something is in the way, or the directory
    /// cannot be written to. Unless it says so, a part may have been extracted.
    pub fn extract(
        &mut self,
        dir: &Path,
        limits: ExtractLimits,
    ) -> Result<Extracted, ArtifactError> {
        let names = self.safe_names()?;
        if names.len() > limits.entries {
            let detail = format!(
                "the artifact has {} entries, more than the limit of {}",
                names.len(),
                limits.entries
            );
            return Err(ArtifactError::new(ArtifactErrorKind::TooLarge, detail));
        }
        if self.declared_len() > limits.bytes {
            return Err(too_many_bytes(limits));
        }
        let mut extraction = Extraction::new(dir, limits)?;
        let mut links = Vec::new();
        for (index, name) in names.into_iter().enumerate() {
            let Some(name) = name else { continue };
            let file = self.entry(index)?;
            if matches!(Kind::of(&file), Kind::Link) {
                links.push((index, name));
            } else {
                extraction.entry(name, file)?;
            }
        }
        // Only now, so that nothing is written through one of them. Their targets are not kept
        // meanwhile: a small archive can hold gigabytes of them.
        for (index, name) in links {
            extraction.link(name, self.entry(index)?)?;
        }
        extraction.finish()
    }

    /// The names of the entries, with slashes; `None` for the directory itself.
    fn safe_names(&self) -> Result<Vec<Option<String>>, ArtifactError> {
        self.file_names()
            .map(|name| match clean_name(name) {
                Ok(name) => Ok(Some(name)),
                Err(NameError::Empty) => Ok(None),
                Err(error) => {
                    let detail = format!("the artifact has an unsafe name, \"{}\"", Shown(name));
                    let kind = ArtifactErrorKind::UnsafeName;
                    Err(ArtifactError::new(kind, detail).with_source(error))
                }
            })
            .collect()
    }
}

fn too_many_bytes(limits: ExtractLimits) -> ArtifactError {
    let detail = format!(
        "the artifact holds more than the limit of {} bytes",
        limits.bytes
    );
    ArtifactError::new(ArtifactErrorKind::TooLarge, detail)
}

fn too_many_directories(limits: ExtractLimits) -> ArtifactError {
    let detail = format!(
        "the artifact has more directories than the limit of {} entries",
        limits.entries
    );
    ArtifactError::new(ArtifactErrorKind::TooLarge, detail)
}

struct Extraction {
    /// Without symbolic links.
    root: PathBuf,
    limits: ExtractLimits,
    extracted: Extracted,
    /// Some of the directories in which files may be made.
    safe: BTreeSet<PathBuf>,
    /// How many directories were made.
    new_directories: usize,
    /// Those that were made.
    made: BTreeSet<PathBuf>,
    /// What directories are given when all is in them.
    directories: Vec<(PathBuf, Option<u32>, Option<SystemTime>)>,
    buffer: Vec<u8>,
}

/// What an entry is by its mode.
enum Kind {
    File,
    Directory,
    Link,
    Other,
}

impl Kind {
    fn of(file: &ArtifactFile<'_>) -> Self {
        if file.is_directory() {
            return Self::Directory;
        }
        match file.mode().unwrap_or_default() & 0o170_000 {
            0 | 0o100_000 => Self::File,
            0o040_000 => Self::Directory,
            0o120_000 => Self::Link,
            _ => Self::Other,
        }
    }
}

impl Extraction {
    fn new(dir: &Path, limits: ExtractLimits) -> Result<Self, ArtifactError> {
        let made = fs::create_dir_all(dir).and_then(|()| dir.canonicalize());
        let failed = |error| ArtifactError::io(format_args!("use {}", dir.display()), error);
        Ok(Self {
            root: made.map_err(failed)?,
            limits,
            extracted: Extracted::default(),
            safe: BTreeSet::new(),
            new_directories: 0,
            made: BTreeSet::new(),
            directories: Vec::new(),
            buffer: Vec::new(),
        })
    }

    fn entry(&mut self, name: String, file: ArtifactFile<'_>) -> Result<(), ArtifactError> {
        match Kind::of(&file) {
            Kind::Directory => {
                let path = self.directory(Path::new(&name))?;
                self.directories.push((path, file.mode(), file.modified()));
                self.extracted.directories += 1;
            }
            Kind::File => self.file(&name, file)?,
            Kind::Link | Kind::Other => self.skip(name),
        }
        Ok(())
    }

    fn file(&mut self, name: &str, mut file: ArtifactFile<'_>) -> Result<(), ArtifactError> {
        let path = self.place(name)?;
        let failed = |error| ArtifactError::io(format_args!("write {}", Shown(name)), error);
        // Never through a link: it must not be there.
        let new = OpenOptions::new().write(true).create_new(true).open(&path);
        let mut new = new.map_err(failed)?;
        self.buffer.resize(PIECE, 0);
        loop {
            let len = match file.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    let doing = format!("read {} in the artifact", Shown(name));
                    return Err(ArtifactError::io(doing, error));
                }
            };
            self.extracted.bytes = self.extracted.bytes.saturating_add(len as u64);
            if self.extracted.bytes > self.limits.bytes {
                return Err(too_many_bytes(self.limits));
            }
            new.write_all(&self.buffer[..len]).map_err(failed)?;
        }
        if let Some(time) = file.modified() {
            new.set_modified(time).map_err(failed)?;
        }
        if let Some(mode) = file.mode() {
            set_mode(&new, mode & 0o777).map_err(failed)?;
        }
        self.extracted.files += 1;
        Ok(())
    }

    /// Where an entry goes that is no directory. Nothing is there any more, its parent is.
    fn place(&mut self, name: &str) -> Result<PathBuf, ArtifactError> {
        let relative = Path::new(name);
        let parent = self.directory(relative.parent().unwrap_or(Path::new("")))?;
        let path = match relative.file_name() {
            Some(last) => parent.join(last),
            None => return Err(in_the_way(relative)),
        };
        let removed = match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => return Err(in_the_way(relative)),
            Ok(_) => fs::remove_file(&path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        let failed = |error| ArtifactError::io(format_args!("replace {}", Shown(name)), error);
        removed.map(|()| path).map_err(failed)
    }

    /// The real path of a directory below the root, which is there then.
    fn directory(&mut self, relative: &Path) -> Result<PathBuf, ArtifactError> {
        let mut path = self.root.clone();
        for component in relative.components() {
            path.push(component);
            if self.safe.contains(&path) {
                continue;
            }
            let failed = |error| {
                ArtifactError::io(
                    format_args!("make the directory {}", Shown(&relative.to_string_lossy())),
                    error,
                )
            };
            match fs::symlink_metadata(&path) {
                Ok(metadata) if metadata.is_dir() => {}
                Ok(metadata) if metadata.is_symlink() => {
                    let real = path.canonicalize().map_err(failed)?;
                    if !real.starts_with(&self.root) || !real.is_dir() {
                        return Err(in_the_way(relative));
                    }
                    // Known under its own path only: the link is looked at again.
                    path = real;
                    continue;
                }
                Ok(_) => return Err(in_the_way(relative)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    // One name can ask for thousands of them.
                    self.new_directories += 1;
                    if self.new_directories > self.limits.entries {
                        return Err(too_many_directories(self.limits));
                    }
                    fs::create_dir(&path).map_err(failed)?;
                }
                Err(error) => return Err(failed(error)),
            }
            if self.safe.len() >= MAX_SAFE {
                self.safe.clear();
            }
            self.safe.insert(path.clone());
        }
        Ok(path)
    }

    fn finish(mut self) -> Result<Extracted, ArtifactError> {
        // Those further down first: a directory may be for reading only then.
        self.directories.sort_by(|a, b| b.0.cmp(&a.0));
        for (path, mode, time) in &self.directories {
            // It has to be possible to remove it again.
            let given = finish_directory(path, mode.map(|mode| mode & 0o777 | 0o700), *time);
            given.map_err(|error| {
                ArtifactError::io(format_args!("use {}", path.display()), error)
            })?;
        }
        Ok(self.extracted)
    }

    fn link(&mut self, name: String, file: ArtifactFile<'_>) -> Result<(), ArtifactError> {
        let mut target = String::new();
        let is_made = match file.take(MAX_TARGET + 1).read_to_string(&mut target) {
            Ok(len) if len as u64 <= MAX_TARGET => self.make_link(&name, Path::new(&target))?,
            _ => false,
        };
        if is_made {
            self.extracted.links += 1;
        } else {
            self.skip(name);
        }
        Ok(())
    }

    /// Makes a link if it stays inside; else `false`.
    fn make_link(&mut self, name: &str, target: &Path) -> Result<bool, ArtifactError> {
        let parent = Path::new(name).parent().unwrap_or(Path::new(""));
        let parent = self.directory(parent)?;
        if !self.is_inside(&parent, target) {
            return Ok(false);
        }
        let path = match self.place(name) {
            Ok(path) => path,
            Err(error) if error.kind() == ArtifactErrorKind::InTheWay => return Ok(false),
            Err(error) => return Err(error),
        };
        match make_link(target, &path) {
            Ok(()) => {
                self.made.insert(path);
                Ok(true)
            }
            // There are systems and file systems without links.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(false),
            Err(error) => Err(ArtifactError::io(
                format_args!("make the link {}", Shown(name)),
                error,
            )),
        }
    }

    /// Whether a link in `parent`, a real path, leads to something inside, wherever the other links
    /// of the artifact lead: it goes up at its start only, where it passes no link, and not above
    /// the root; from there every step down stays inside as long as every link does.
    fn is_inside(&self, parent: &Path, target: &Path) -> bool {
        let text = target.to_string_lossy();
        if text.is_empty() || text.contains(['\0', '\\']) {
            return false;
        }
        let mut path = parent.to_owned();
        let mut goes_down = false;
        // What is not there yet leads nowhere, or is made by this artifact.
        let mut is_there = true;
        for component in target.components() {
            match component {
                Component::CurDir => {}
                Component::ParentDir if !goes_down && path != self.root => {
                    path.pop();
                }
                Component::Normal(name) => {
                    goes_down = true;
                    path.push(name);
                    if is_there {
                        match fs::symlink_metadata(&path) {
                            Ok(metadata) if metadata.is_symlink() => {
                                is_there = !self.made.contains(&path);
                                // One that was here before may lead out.
                                match path.canonicalize() {
                                    Ok(real) if real.starts_with(&self.root) => path = real,
                                    _ if is_there => return false,
                                    _ => {}
                                }
                            }
                            Ok(_) => {}
                            Err(_) => is_there = false,
                        }
                    }
                }
                _ => return false,
            }
        }
        true
    }

    fn skip(&mut self, name: String) {
        if self.extracted.skipped.len() < MAX_SKIPPED {
            self.extracted.skipped.push(name);
        }
    }
}

fn in_the_way(name: &Path) -> ArtifactError {
    let name = name.to_string_lossy();
    let detail = format!("cannot extract {}: something is in the way", Shown(&name));
    ArtifactError::new(ArtifactErrorKind::InTheWay, detail)
}

#[cfg(unix)]
fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))
}

#[cfg(not(unix))]
fn set_mode(_file: &File, _mode: u32) -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
fn make_link(target: &Path, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

#[cfg(not(unix))]
fn make_link(_target: &Path, _path: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Gives a directory its time and permissions.
fn finish_directory(path: &Path, mode: Option<u32>, time: Option<SystemTime>) -> io::Result<()> {
    if cfg!(not(unix)) {
        return Ok(());
    }
    let directory = File::open(path)?;
    if let Some(time) = time {
        directory.set_modified(time)?;
    }
    if let Some(mode) = mode {
        set_mode(&directory, mode)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
