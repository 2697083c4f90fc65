//! Reads artifacts of other jobs.

use std::{
    fmt,
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::PathBuf,
    sync::Arc,
    time::SystemTime,
};

use flate2::bufread::GzDecoder;
use zip::{ZipArchive, extra_fields::ExtraField, read::ZipFile};

use super::{
    directory::{Budgeted, MAX_DIRECTORY, MAX_ENTRIES, is_too_large},
    error::{ArtifactError, ArtifactErrorKind},
    name::{Shown, clean_name},
    time,
};
use crate::spool::{SpoolFile, SpoolReader, Stop};

/// A gzip file may not hold more than this: all of it is read to list what is in it. It is what may be
/// extracted, too, if no limit is given.
const MAX_GZIP: u64 = 32 << 30;

/// The artifact of another job: usually a zip archive, else gzip files one behind the other, or a
/// single file.
///
/// Reading blocks. Archives come from other jobs, which need not be friends: names are as they are
/// in the archive, and may lead anywhere ([`ArtifactFile::path`] is the safe one); contents may be
/// far larger than the archive. [`extract`](Self::extract) takes care of both.
pub struct Artifact {
    content: Content,
    names: Vec<String>,
    len: u64,
}

enum Content {
    Zip(ZipArchive<Budgeted>),
    Gzip {
        file: BufReader<SpoolReader>,
        /// Where each file starts.
        starts: Vec<u64>,
    },
    Raw(SpoolReader),
}

impl Artifact {
    /// Reads what is in a zip or gzip file. Blocks; of gzip, all is read.
    ///
    /// # Errors
    /// When it is neither, or damaged, or has an unreasonable number of entries.
    pub fn open(file: File) -> Result<Self, ArtifactError> {
        let file = SpoolFile::new(file).map_err(|error| ArtifactError::io("read it", error))?;
        Self::new(Arc::new(file), None, Stop::default())
    }

    /// Reads what is in a spool file. What is neither zip nor gzip is a single file if GitLab calls
    /// it by a `name` that is not that of an archive. It can be read until it is to `stop`.
    pub(crate) fn new(
        file: Arc<SpoolFile>,
        name: Option<&str>,
        stop: Stop,
    ) -> Result<Self, ArtifactError> {
        let len = file.len();
        let mut start = Vec::new();
        let reader = file.reader(stop);
        let read = reader.clone().take(4).read_to_end(&mut start);
        read.map_err(|error| ArtifactError::io("read the artifact", error))?;
        let name = name.and_then(|name| clean_name(name.rsplit('/').next()?).ok());
        let is_archive = name.as_ref().is_none_or(|name| {
            let name = name.to_ascii_lowercase();
            name.ends_with(".zip") || name.ends_with(".gz")
        });
        let (content, names) = match (&*start, &name) {
            ([0x1f, 0x8b, ..], _) => gzip(reader, name.as_deref())?,
            ([b'P', b'K', 3..=8, 4..=8], _) => zip(reader)?,
            (_, Some(name)) if !is_archive => (Content::Raw(reader), vec![name.clone()]),
            _ if len == 0 => {
                let detail = "the artifact is empty, not even an archive";
                return Err(ArtifactError::new(ArtifactErrorKind::Damaged, detail));
            }
            // There may be something in front of the archive.
            _ => zip(reader)?,
        };
        if names.len() > MAX_ENTRIES {
            return Err(too_many_entries());
        }
        Ok(Self {
            content,
            names,
            len,
        })
    }

    /// The names of all files and directories, as they are in the archive; those of directories end
    /// in a slash.
    pub fn file_names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// The file of this name; `None` if there is none, or it cannot be read.
    pub fn file(&mut self, name: &str) -> Option<ArtifactFile<'_>> {
        let by_name = match &self.content {
            Content::Zip(zip) => zip.index_for_name_raw(name.as_bytes()),
            Content::Gzip { .. } | Content::Raw(_) => None,
        };
        let index = by_name.or_else(|| self.names.iter().position(|known| known == name))?;
        self.by_index(index)
    }

    /// The file whose name is at this place in [`file_names`](Self::file_names); `None` if there is
    /// none, or it cannot be read (encrypted, say).
    pub fn by_index(&mut self, index: usize) -> Option<ArtifactFile<'_>> {
        self.entry(index).ok()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// How many files and directories there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// As [`by_index`](Self::by_index), with the reason.
    pub(super) fn entry(&mut self, index: usize) -> Result<ArtifactFile<'_>, ArtifactError> {
        let Some(name) = self.names.get(index) else {
            let detail = format!("the artifact has no entry number {index}");
            return Err(ArtifactError::new(ArtifactErrorKind::Damaged, detail));
        };
        let failed =
            |error| ArtifactError::io(format_args!("read {} in the artifact", Shown(name)), error);
        let data = match &mut self.content {
            Content::Zip(zip) => {
                let file = zip.by_index(index);
                let what = || format!("{} in the artifact", Shown(name));
                Data::Zip(file.map_err(|error| ArtifactError::reading(&what(), error))?)
            }
            Content::Gzip { file, starts } => {
                let start = SeekFrom::Start(starts.get(index).copied().unwrap_or(u64::MAX));
                file.seek(start).map_err(failed)?;
                Data::Gzip(Box::new(GzDecoder::new(file)))
            }
            Content::Raw(file) => {
                file.rewind().map_err(failed)?;
                Data::Raw(file)
            }
        };
        Ok(ArtifactFile { name, data })
    }

    /// What the archive says of the lengths of its files, together.
    pub(super) fn declared_len(&self) -> u64 {
        match &self.content {
            Content::Zip(zip) => (0..zip.len())
                .filter_map(|index| zip.by_index_data(index).ok())
                .fold(0, |sum: u64, entry| sum.saturating_add(entry.size())),
            Content::Gzip { .. } => 0,
            Content::Raw(_) => self.len,
        }
    }
}

/// Shows no content.
impl fmt::Debug for Artifact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Artifact")
            .field("bytes", &self.len)
            .field("entries", &self.names.len())
            .finish_non_exhaustive()
    }
}

/// A file in an [`Artifact`]: reads its content, uncompressed.
///
/// What is damaged shows as an error of reading, at the end at the latest.
pub struct ArtifactFile<'a> {
    name: &'a str,
    data: Data<'a>,
}

enum Data<'a> {
    Zip(ZipFile<'a, Budgeted>),
    Gzip(Box<GzDecoder<&'a mut BufReader<SpoolReader>>>),
    Raw(&'a mut SpoolReader),
}

impl ArtifactFile<'_> {
    /// Its name as it is in the archive. It may lead out of the directory that it is joined to.
    pub fn name(&self) -> &str {
        self.name
    }

    /// Its name as a relative path that does not leave the directory it is joined to; `None` if its
    /// name would.
    pub fn path(&self) -> Option<PathBuf> {
        clean_name(self.name).ok().map(PathBuf::from)
    }

    /// Kind and permissions as on Unix, where the archive knows them.
    pub(super) fn mode(&self) -> Option<u32> {
        match &self.data {
            Data::Zip(file) => file.unix_mode(),
            Data::Gzip(_) | Data::Raw(_) => None,
        }
    }

    pub(super) fn is_directory(&self) -> bool {
        matches!(&self.data, Data::Zip(file) if file.is_dir())
    }

    pub(super) fn modified(&self) -> Option<SystemTime> {
        match &self.data {
            Data::Zip(file) => {
                let exact = file.extra_data_fields().find_map(|field| match field {
                    ExtraField::ExtendedTimestamp(times) => times.mod_time(),
                    _ => None,
                });
                match exact {
                    Some(seconds) => Some(time::from_unix(seconds)),
                    None => file.last_modified().and_then(time::from_dos),
                }
            }
            Data::Gzip(file) => file.header()?.mtime_as_datetime(),
            Data::Raw(_) => None,
        }
    }
}

impl Read for ArtifactFile<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.data {
            Data::Zip(file) => file.read(buffer),
            Data::Gzip(file) => file.read(buffer),
            Data::Raw(file) => file.read(buffer),
        }
    }
}

impl fmt::Debug for ArtifactFile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArtifactFile")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

fn too_many_entries() -> ArtifactError {
    let detail = "the artifact has too many entries";
    ArtifactError::new(ArtifactErrorKind::TooLarge, detail)
}

fn zip(file: SpoolReader) -> Result<(Content, Vec<String>), ArtifactError> {
    let failed = |error| ArtifactError::reading("the artifact, as a zip archive,", error);
    if is_too_large(&mut file.clone()).map_err(|error| failed(error.into()))? {
        return Err(too_many_entries());
    }
    let (reader, budget) = Budgeted::new(file);
    let zip = ZipArchive::new(reader).map_err(failed)?;
    budget.lift();
    let mut names = Vec::with_capacity(zip.len());
    for index in 0..zip.len() {
        let entry = zip.by_index_data(index);
        let entry = entry.map_err(|error| ArtifactError::reading("the artifact", error))?;
        let name = entry.name().map(std::borrow::Cow::into_owned);
        names.push(name.unwrap_or_else(|_| String::from_utf8_lossy(entry.name_raw()).into_owned()));
    }
    Ok((Content::Zip(zip), names))
}

/// Lists what is in a gzip file, by reading all of it.
fn gzip(
    file: SpoolReader,
    file_name: Option<&str>,
) -> Result<(Content, Vec<String>), ArtifactError> {
    let failed = |error| ArtifactError::io("read the artifact as gzip files", error);
    let mut file = BufReader::new(file);
    let (mut starts, mut names) = (Vec::new(), Vec::new());
    let (mut left, mut names_left) = (MAX_GZIP, MAX_DIRECTORY);
    loop {
        let start = file.stream_position().map_err(failed)?;
        let mut magic = Vec::new();
        (&mut file)
            .take(2)
            .read_to_end(&mut magic)
            .map_err(failed)?;
        match &*magic {
            [0x1f, 0x8b] => file.seek(SeekFrom::Start(start)).map_err(failed)?,
            // Tapes fill up with zeros.
            [] | [0, ..] if start > 0 => break,
            _ => return Err(failed(io::ErrorKind::InvalidData.into())),
        };
        if starts.len() >= MAX_ENTRIES {
            return Err(too_many_entries());
        }
        let mut member = GzDecoder::new(file);
        let len = io::copy(&mut (&mut member).take(left), &mut io::sink()).map_err(failed)?;
        left -= len;
        if left == 0 {
            let detail = "the artifact is too large to be listed";
            return Err(ArtifactError::new(ArtifactErrorKind::TooLarge, detail));
        }
        let header = member.header();
        let name = header.and_then(|header| {
            let name = header.comment().or(header.filename())?;
            Some(gzip_name(name)).filter(|name| !name.is_empty())
        });
        let name = name.unwrap_or_else(|| match (file_name, names.len()) {
            (Some(name), 0) => name.strip_suffix(".gz").unwrap_or(name).to_owned(),
            (_, number) => format!("file-{number}"),
        });
        names_left = names_left
            .checked_sub(name.len() as u64)
            .ok_or_else(too_many_entries)?;
        names.push(name);
        starts.push(start);
        file = member.into_inner();
    }
    Ok((Content::Gzip { file, starts }, names))
}

/// A comment that begins with `e:` is a path in escapes.
fn gzip_name(name: &[u8]) -> String {
    let Some(escaped) = name.strip_prefix(b"e:") else {
        return String::from_utf8_lossy(name).into_owned();
    };
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    while let [byte, tail @ ..] = rest {
        let digits = tail
            .get(..2)
            .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let code = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (byte, code) {
            (b'%', Some(code)) => {
                bytes.push(code);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests;
