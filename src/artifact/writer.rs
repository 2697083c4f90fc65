//! Writes packed artifacts. Everything here blocks.

use std::{
    io::{self, Write},
    time::SystemTime,
};

use flate2::{Compress, Compression, FlushCompress, GzBuilder, write::GzEncoder};
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use super::{
    files::{FileKind, FileMetadata},
    time,
};
use crate::{
    protocol::{ArtifactFormat, percent_encode},
    spool::{SpoolFile, SpoolWriter},
};

/// A name that a link points to is not longer.
const MAX_TARGET: usize = 64 << 10;

/// How hard to compress, in the words of `ARTIFACT_COMPRESSION_LEVEL`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Level {
    /// Not at all.
    Fastest,
    Fast,
    #[default]
    Default,
    Slow,
    Slowest,
}

impl Level {
    /// The level of this name; `None` if there is none. Empty is the default.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "fastest" => Self::Fastest,
            "fast" => Self::Fast,
            "" | "default" => Self::Default,
            "slow" => Self::Slow,
            "slowest" => Self::Slowest,
            _ => return None,
        })
    }

    fn number(self) -> u32 {
        match self {
            Self::Fastest => 0,
            Self::Fast => 1,
            Self::Default => 5,
            Self::Slow => 7,
            Self::Slowest => 9,
        }
    }
}

/// The formats that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Zip,
    Gzip,
    Raw,
}

impl Format {
    /// What GitLab asked for, or its word if it is unknown.
    pub(super) fn of(format: Option<&ArtifactFormat>) -> Result<Self, String> {
        match format {
            None | Some(ArtifactFormat::Zip) => Ok(Self::Zip),
            Some(ArtifactFormat::Gzip) => Ok(Self::Gzip),
            Some(ArtifactFormat::Raw) => Ok(Self::Raw),
            Some(other) => Err(other.as_str().to_owned()),
        }
    }
}

/// A file to be packed.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// A clean name.
    pub(super) name: String,
    pub(super) metadata: FileMetadata,
}

impl Entry {
    fn modified(&self, default: SystemTime) -> u32 {
        time::to_unix(self.metadata.modified.unwrap_or(default))
    }
}

/// Packs one file behind the other: [`begin`](Self::begin), [`data`](Self::data) any number of
/// times, [`end`](Self::end).
pub(super) struct PackWriter {
    out: Out,
    level: Level,
    /// The time of files that do not tell theirs.
    now: SystemTime,
    probe: Probe,
}

enum Out {
    Zip(Box<ZipWriter<SpoolWriter>>, ZipEntry),
    Gzip(Gzip),
    Raw(SpoolWriter),
    /// A write failed.
    Broken,
}

/// Where the zip archive is.
enum ZipEntry {
    Between,
    /// How it is stored is decided by its first bytes.
    Begun(Entry),
    Writing,
    Link(Entry, Vec<u8>),
}

enum Gzip {
    Between(SpoolWriter),
    Writing(Box<GzEncoder<SpoolWriter>>),
}

impl PackWriter {
    /// An empty one.
    pub(super) fn new(file: SpoolWriter, format: Format, level: Level, now: SystemTime) -> Self {
        let out = match format {
            Format::Zip => Out::Zip(Box::new(ZipWriter::new(file)), ZipEntry::Between),
            Format::Gzip => Out::Gzip(Gzip::Between(file)),
            Format::Raw => Out::Raw(file),
        };
        Self {
            out,
            level,
            now,
            probe: Probe::default(),
        }
    }

    pub(super) fn begin(&mut self, entry: Entry) -> io::Result<()> {
        match std::mem::replace(&mut self.out, Out::Broken) {
            Out::Zip(zip, _) => {
                let state = match entry.metadata.kind {
                    FileKind::Symlink => ZipEntry::Link(entry, Vec::new()),
                    FileKind::File | FileKind::Directory => ZipEntry::Begun(entry),
                };
                self.out = Out::Zip(zip, state);
            }
            Out::Gzip(gzip) => {
                let file = gzip.end()?;
                let header = gzip_header(&entry.name).mtime(entry.modified(self.now));
                let level = Compression::new(self.level.number());
                self.out = Out::Gzip(Gzip::Writing(Box::new(header.write(file, level))));
            }
            Out::Raw(file) => self.out = Out::Raw(file),
            Out::Broken => return Err(broken()),
        }
        Ok(())
    }

    pub(super) fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        match &mut self.out {
            Out::Zip(zip, state) => {
                if let ZipEntry::Link(_, target) = state {
                    if target.len() + bytes.len() > MAX_TARGET {
                        return Err(io::Error::other("the target of a link is too long"));
                    }
                    target.extend_from_slice(bytes);
                    return Ok(());
                }
                if let ZipEntry::Begun(entry) = std::mem::replace(state, ZipEntry::Writing) {
                    let store = self.level == Level::Fastest || !self.probe.shrinks(bytes);
                    let level = (!store).then_some(self.level);
                    zip.start_file(&entry.name, options(&entry, self.now, level)?)?;
                }
                zip.write_all(bytes)
            }
            Out::Gzip(Gzip::Writing(gzip)) => gzip.write_all(bytes),
            Out::Raw(file) => file.write_all(bytes),
            Out::Gzip(Gzip::Between(_)) | Out::Broken => Err(broken()),
        }
    }

    pub(super) fn end(&mut self) -> io::Result<()> {
        let Out::Zip(zip, state) = &mut self.out else {
            return Ok(());
        };
        match std::mem::replace(state, ZipEntry::Between) {
            ZipEntry::Begun(entry) => {
                let options = options(&entry, self.now, None)?;
                match entry.metadata.kind {
                    FileKind::Directory => zip.add_directory(entry.name, options)?,
                    _ => zip.start_file(entry.name, options)?,
                }
            }
            ZipEntry::Link(entry, target) => {
                let options = options(&entry, self.now, None)?;
                zip.add_symlink(entry.name, String::from_utf8_lossy(&target), options)?;
            }
            ZipEntry::Between | ZipEntry::Writing => {}
        }
        Ok(())
    }

    pub(super) fn finish(self) -> io::Result<SpoolFile> {
        let file = match self.out {
            Out::Zip(zip, _) => zip.finish()?,
            Out::Gzip(gzip) => gzip.end()?,
            Out::Raw(file) => file,
            Out::Broken => return Err(broken()),
        };
        file.finish()
    }
}

impl Gzip {
    fn end(self) -> io::Result<SpoolWriter> {
        match self {
            Self::Between(file) => Ok(file),
            Self::Writing(gzip) => gzip.finish(),
        }
    }
}

fn broken() -> io::Error {
    io::Error::other("an earlier write failed")
}

/// How a file is kept in a zip archive; without a level it is stored.
fn options(
    entry: &Entry,
    now: SystemTime,
    level: Option<Level>,
) -> io::Result<zip::write::FullFileOptions<'static, 'static>> {
    let modified = entry.modified(now);
    let mut options = SimpleFileOptions::default()
        .compression_method(match level {
            Some(_) => CompressionMethod::Deflated,
            None => CompressionMethod::Stored,
        })
        .compression_level(level.map(|level| level.number().into()))
        .last_modified_time(time::to_dos(modified))
        // Its length is not known before.
        .large_file(entry.metadata.kind == FileKind::File);
    if let Some(mode) = entry.metadata.mode {
        options = options.unix_permissions(mode);
    }
    Ok(options.with_extended_timestamp(Some(modified), None, None)?)
}

/// GitLab's runner puts the path into the comment, in escapes where it is not plain.
fn gzip_header(path: &str) -> GzBuilder {
    let name = path.rsplit('/').next().unwrap_or(path);
    let is_plain = |c: char| matches!(c, ' '..='~') && c != '%';
    if path.chars().all(is_plain) {
        return GzBuilder::new().filename(name).comment(path);
    }
    let (mut escaped_name, mut comment) = (String::new(), "e:".to_owned());
    percent_encode(name, &mut escaped_name);
    percent_encode(path, &mut comment);
    GzBuilder::new().filename(escaped_name).comment(comment)
}

/// Finds out whether compressing is worth it.
#[derive(Default)]
struct Probe(Option<(Compress, Vec<u8>)>);

impl Probe {
    /// Less is compressed anyway.
    const LEAST: usize = 64 << 10;
    const SAMPLE: usize = 16 << 10;

    /// Whether a file that begins with `bytes` becomes shorter: samples from the start, the middle
    /// and the end of them do, by three percent at least.
    fn shrinks(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() < Self::LEAST {
            return true;
        }
        let (compress, out) = self.0.get_or_insert_with(|| {
            let fast = Compression::new(1);
            let out = Vec::with_capacity(2 * Self::SAMPLE);
            (Compress::new(fast, false), out)
        });
        let last = bytes.len() - Self::SAMPLE;
        let shrunk: usize = [0, last / 2, last]
            .into_iter()
            .map(|start| {
                compress.reset();
                out.clear();
                let sample = &bytes[start..start + Self::SAMPLE];
                match compress.compress_vec(sample, out, FlushCompress::Finish) {
                    Ok(_) => out.len(),
                    Err(_) => Self::SAMPLE,
                }
            })
            .sum();
        shrunk * 100 < 3 * Self::SAMPLE * 97
    }
}
