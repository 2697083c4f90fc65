//! Artifacts of other jobs, which need not be friends: nothing gets out of the directory.

use std::{
    fs,
    io::{Cursor, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use arbitrary::{Arbitrary, Result, Unstructured};
use bytes::Bytes;
use flate2::{Compression, GzBuilder};
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use crate::{
    artifact::{Artifact, ExtractLimits},
    spool::{SpoolFile, Stop},
};

const MAX_BYTES: u64 = 200_000;
const MAX_ENTRIES: usize = 60;
/// Names are made of these. The last but one stands for the directory that nothing may get into.
const PARTS: &[&str] = &[
    "a",
    "b",
    "c",
    "/",
    "/",
    "/",
    "..",
    "..",
    ".",
    "\\",
    "C:",
    "\0",
    "ü",
    " ",
    "link",
    "<outside>",
    "../outside",
];
const OUTSIDE: &str = "<outside>";

/// `data` is an archive, or makes one up.
pub fn run(data: &[u8]) {
    let mut source = Unstructured::new(data);
    let world = World::new();
    if let Ok((archive, name)) = archive(&mut source, &world) {
        world.extract(archive, name);
    }
}

/// A directory with another one beside it.
struct World {
    parent: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let parent = tempfile::tempdir().unwrap();
        fs::create_dir(parent.path().join("inside")).unwrap();
        fs::create_dir(parent.path().join("outside")).unwrap();
        fs::write(parent.path().join("outside/secret"), "secret").unwrap();
        Self { parent }
    }

    fn inside(&self) -> PathBuf {
        self.parent.path().join("inside")
    }

    fn outside(&self) -> PathBuf {
        self.parent.path().join("outside")
    }

    fn extract(&self, archive: Vec<u8>, name: &str) {
        let file = SpoolFile::create(self.parent.path()).unwrap();
        file.append(&[Bytes::from(archive)]).unwrap();
        let Ok(mut artifact) = Artifact::new(Arc::new(file), Some(name), Stop::default()) else {
            return;
        };
        assert_eq!(artifact.file_names().count(), artifact.len());
        for index in 0..artifact.len().min(MAX_ENTRIES) {
            if let Some(file) = artifact.by_index(index) {
                if let Some(path) = file.path() {
                    assert!(path.is_relative(), "{path:?}");
                }
                let _ = file.take(MAX_BYTES).read_to_end(&mut Vec::new());
            }
        }
        let limits = ExtractLimits::default()
            .with_bytes(MAX_BYTES)
            .with_entries(MAX_ENTRIES);
        let extracted = artifact.extract(&self.inside(), limits);
        self.outside_is_as_it_was();
        let mut found = Found::default();
        self.look_at(&self.inside(), &mut found);
        // A piece is written before it is counted.
        assert!(found.bytes <= MAX_BYTES + (256 << 10), "{}", found.bytes);
        if let Ok(extracted) = extracted {
            assert!(extracted.bytes <= MAX_BYTES);
            assert!(found.files <= extracted.files && found.links <= extracted.links + 1);
        }
    }

    fn outside_is_as_it_was(&self) {
        let names = |dir: &Path| -> Vec<_> {
            let entries = fs::read_dir(dir).unwrap();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(self.parent.path()), ["inside", "outside"]);
        assert_eq!(names(&self.outside()), ["secret"]);
        assert_eq!(fs::read(self.outside().join("secret")).unwrap(), b"secret");
    }

    /// Every link leads to a place inside, but for the one that was there before.
    fn look_at(&self, dir: &Path, found: &mut Found) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            if metadata.is_dir() {
                self.look_at(&path, found);
            } else if metadata.is_symlink() {
                found.links += 1;
                let was_there = path == self.inside().join("link");
                if let Ok(target) = path.canonicalize()
                    && !was_there
                {
                    let inside = self.inside().canonicalize().unwrap();
                    assert!(target.starts_with(inside), "{path:?} leads to {target:?}");
                }
            } else {
                found.files += 1;
                found.bytes += metadata.len();
            }
        }
    }
}

#[derive(Default)]
struct Found {
    files: usize,
    links: usize,
    bytes: u64,
}

/// An archive, and what GitLab calls it.
fn archive(source: &mut Unstructured<'_>, world: &World) -> Result<(Vec<u8>, &'static str)> {
    let kind = u8::arbitrary(source)?;
    if kind & 0x80 != 0 {
        link_outside(world);
    }
    Ok(match kind % 8 {
        0 => (source.bytes(source.len())?.to_vec(), "artifacts.zip"),
        1 => (source.bytes(source.len())?.to_vec(), "report.xml"),
        2 | 3 => (gzip(source, world)?, "artifacts.gz"),
        _ => (zip(source, world)?, "artifacts.zip"),
    })
}

#[cfg(unix)]
fn link_outside(world: &World) {
    std::os::unix::fs::symlink(world.outside(), world.inside().join("link")).unwrap();
}

#[cfg(not(unix))]
fn link_outside(_world: &World) {}

fn zip(source: &mut Unstructured<'_>, world: &World) -> Result<Vec<u8>> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for _ in 0..source.int_in_range(0..=8)? {
        let name = name(source, world)?;
        let kind = u8::arbitrary(source)?;
        let mode = u32::from(u16::arbitrary(source)?);
        let options = SimpleFileOptions::default()
            .unix_permissions(mode)
            .compression_method(match kind & 0x10 {
                0 => CompressionMethod::Stored,
                _ => CompressionMethod::Deflated,
            });
        // The writer refuses some names; that is one entry less.
        match kind % 4 {
            0 => drop(writer.add_directory(name, options)),
            1 => drop(writer.add_symlink(name, self::name(source, world)?, options)),
            _ => {
                if writer.start_file(name, options).is_ok() {
                    let content = content(source)?;
                    let _ = writer.write_all(&content);
                }
            }
        }
    }
    let archive = writer.finish().map(Cursor::into_inner);
    damaged(source, archive.unwrap_or_default())
}

fn gzip(source: &mut Unstructured<'_>, world: &World) -> Result<Vec<u8>> {
    let mut archive = Vec::new();
    for _ in 0..source.int_in_range(0..=3)? {
        let name = name(source, world)?.replace('\0', "");
        let builder = match bool::arbitrary(source)? {
            true => GzBuilder::new().comment(format!("e:{name}")),
            false => GzBuilder::new().filename(name),
        };
        let mut encoder = builder.write(Vec::new(), Compression::fast());
        let _ = encoder.write_all(&content(source)?);
        archive.extend(encoder.finish().unwrap_or_default());
    }
    damaged(source, archive)
}

fn name(source: &mut Unstructured<'_>, world: &World) -> Result<String> {
    let mut name = String::new();
    for _ in 0..source.int_in_range(0..=6)? {
        let part = *source.choose(PARTS)?;
        match part {
            OUTSIDE => name.push_str(&world.outside().to_string_lossy()),
            part => name.push_str(part),
        }
    }
    Ok(name)
}

/// Now and then far more than the limit.
fn content(source: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let len = u8::arbitrary(source)?;
    if len == u8::MAX {
        return Ok(vec![0; 1 << 20]);
    }
    let len = usize::from(len).min(source.len());
    Ok(source.bytes(len)?.to_vec())
}

fn damaged(source: &mut Unstructured<'_>, mut archive: Vec<u8>) -> Result<Vec<u8>> {
    while !source.is_empty() && !archive.is_empty() {
        let at = usize::from(u16::arbitrary(source)?) % archive.len();
        archive[at] = u8::arbitrary(source)?;
    }
    Ok(archive)
}
