use std::{
    io::Cursor,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use zip::{DateTime, ZipWriter, write::SimpleFileOptions};

use super::*;
use crate::spool::{SpoolFile, Stop};

/// A directory with another one beside it that nothing may get into.
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

    fn inside(&self, name: &str) -> PathBuf {
        self.parent.path().join("inside").join(name)
    }

    fn extract(&self, zip: Zip) -> Result<Extracted, ArtifactError> {
        self.extract_with(zip, ExtractLimits::default())
    }

    fn extract_with(&self, zip: Zip, limits: ExtractLimits) -> Result<Extracted, ArtifactError> {
        let result = zip.open().extract(&self.inside(""), limits);
        // Whatever was in the archive.
        let outside: Vec<_> = fs::read_dir(self.parent.path().join("outside"))
            .unwrap()
            .collect();
        assert_eq!(outside.len(), 1);
        assert_eq!(fs::read_dir(self.parent.path()).unwrap().count(), 2);
        let secret = fs::read(self.parent.path().join("outside/secret")).unwrap();
        assert_eq!(secret, b"secret");
        result
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.inside(name)).unwrap()
    }

    fn is_empty(&self) -> bool {
        fs::read_dir(self.inside("")).unwrap().next().is_none()
    }
}

struct Zip(ZipWriter<Cursor<Vec<u8>>>);

impl Zip {
    fn new() -> Self {
        Self(ZipWriter::new(Cursor::new(Vec::new())))
    }

    fn file(mut self, name: &str, content: impl AsRef<[u8]>) -> Self {
        self.0
            .start_file(name, SimpleFileOptions::default())
            .unwrap();
        self.0.write_all(content.as_ref()).unwrap();
        self
    }

    fn link(mut self, name: &str, target: &str) -> Self {
        self.0
            .add_symlink(name, target, SimpleFileOptions::default())
            .unwrap();
        self
    }

    fn with(mut self, name: &str, options: SimpleFileOptions) -> Self {
        if name.ends_with('/') {
            self.0.add_directory(name, options).unwrap();
        } else {
            self.0.start_file(name, options).unwrap();
        }
        self
    }

    fn bytes(self) -> Vec<u8> {
        self.0.finish().unwrap().into_inner()
    }

    fn open(self) -> Artifact {
        open(self.bytes(), "artifacts.zip")
    }
}

fn open(content: Vec<u8>, name: &str) -> Artifact {
    let file = SpoolFile::create(&std::env::temp_dir()).unwrap();
    file.append(&[Bytes::from(content)]).unwrap();
    Artifact::new(Arc::new(file), Some(name), Stop::default()).unwrap()
}

#[test]
fn files_and_directories_arrive_where_they_belong() {
    let world = World::new();
    let zip = Zip::new()
        .with("empty/", SimpleFileOptions::default())
        .file("a.txt", "first")
        .file("deep/er/b.txt", "second")
        .with("./", SimpleFileOptions::default());
    let extracted = world.extract(zip).unwrap();
    assert_eq!(
        (extracted.files, extracted.directories, extracted.bytes),
        (2, 1, 11)
    );
    assert_eq!(extracted.skipped, [""; 0]);
    assert_eq!(world.text("a.txt"), "first");
    assert_eq!(world.text("deep/er/b.txt"), "second");
    assert!(world.inside("empty").is_dir());

    // A directory that is not there is made, and what is there is replaced.
    let again = Zip::new().file("new/a.txt", "x").file("a.txt", "changed");
    world.extract(again).unwrap();
    assert_eq!(world.text("a.txt"), "changed");
}

#[test]
fn names_that_lead_out_stop_all() {
    for name in [
        "../outside/evil",
        "a/../../outside/evil",
        "/tmp/evil-of-a-test",
        "..\\outside\\evil",
        "C:\\evil",
        "a\0b",
    ] {
        let world = World::new();
        let zip = Zip::new().file("good", "x").file(name, "evil");
        let error = world.extract(zip).unwrap_err();
        assert_eq!(error.kind(), ArtifactErrorKind::UnsafeName, "{name}");
        assert!(world.is_empty());
        assert!(!Path::new("/tmp/evil-of-a-test").exists());
    }
}

#[test]
fn bombs_are_stopped() {
    let zeros = vec![0; 1 << 20];
    let limits = ExtractLimits::default().with_bytes(100 << 10);
    let world = World::new();
    let error = world
        .extract_with(Zip::new().file("bomb", &zeros), limits)
        .unwrap_err();
    assert_eq!(error.kind(), ArtifactErrorKind::TooLarge);
    assert!(world.is_empty());

    // One that lies about its size, in both places where it says it.
    let mut bytes = Zip::new().file("bomb", &zeros).bytes();
    let len = (zeros.len() as u32).to_le_bytes();
    let places: Vec<usize> = (0..bytes.len() - 4)
        .filter(|at| bytes[*at..*at + 4] == len)
        .collect();
    assert_eq!(places.len(), 2);
    for at in places {
        bytes[at..at + 4].copy_from_slice(&1_u32.to_le_bytes());
    }
    let mut liar = open(bytes, "artifacts.zip");
    liar.extract(&world.inside(""), limits).unwrap_err();
    assert!(fs::metadata(world.inside("bomb")).unwrap().len() <= limits.bytes);

    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&zeros).unwrap();
    let mut gzip = open(gzip.finish().unwrap(), "bomb.gz");
    let error = gzip.extract(&world.inside(""), limits).unwrap_err();
    assert_eq!(error.kind(), ArtifactErrorKind::TooLarge);

    let many = (0..11).fold(Zip::new(), |zip, n| zip.file(&n.to_string(), ""));
    let world = World::new();
    let limits = ExtractLimits::default().with_entries(10);
    let error = world.extract_with(many, limits).unwrap_err();
    assert_eq!(error.kind(), ArtifactErrorKind::TooLarge);
    assert!(world.is_empty());
}

#[test]
fn directories_that_names_ask_for_are_counted() {
    let world = World::new();
    let deep = |top: &str| format!("{top}/{}file", "d/".repeat(60));
    let limits = ExtractLimits::default().with_entries(100);
    let one = world.extract_with(Zip::new().file(&deep("a"), "x"), limits);
    assert_eq!(one.unwrap().files, 1);
    // Those that are there already cost nothing.
    let again = world.extract_with(Zip::new().file(&deep("a"), "y"), limits);
    assert_eq!(again.unwrap().files, 1);
    let two = Zip::new().file(&deep("b"), "x").file(&deep("c"), "x");
    let error = world.extract_with(two, limits).unwrap_err();
    assert_eq!(error.kind(), ArtifactErrorKind::TooLarge);
}

#[test]
fn more_directories_than_are_remembered() {
    let world = World::new();
    let names: Vec<String> = (0..2 * MAX_SAFE)
        .map(|n| format!("{}/{n}/f", n % 7))
        .collect();
    let zip = names
        .iter()
        .fold(Zip::new(), |zip, name| zip.file(name, name));
    assert_eq!(world.extract(zip).unwrap().files, names.len());
    assert!(names.iter().all(|name| world.text(name) == *name));
}

#[test]
fn one_name_for_two_entries_is_the_last() {
    let world = World::new();
    let zip = Zip::new()
        .file("a/b", "first")
        .file("a//b", "second")
        .file("./a/b", "third");
    let extracted = world.extract(zip).unwrap();
    assert_eq!(
        (extracted.files, world.text("a/b")),
        (3, "third".to_owned())
    );
}

#[test]
fn what_is_in_the_way_is_an_error() {
    for (zip, wanted) in [
        (Zip::new().file("a", "x").file("a/b", "y"), "a"),
        (Zip::new().file("a/b", "x").file("a", "y"), "a"),
    ] {
        let error = World::new().extract(zip).unwrap_err();
        assert_eq!(error.kind(), ArtifactErrorKind::InTheWay);
        assert!(error.to_string().contains(wanted));
    }
}

#[test]
fn names_are_not_printed_whole() {
    let world = World::new();
    let name = format!("../{}", "x".repeat(60_000));
    let error = world.extract(Zip::new().file(&name, "x")).unwrap_err();
    assert_eq!(error.kind(), ArtifactErrorKind::UnsafeName);
    assert!(error.to_string().len() < 400, "{error}");
    let name = "x/".repeat(20_000) + "x";
    let error = world.extract(Zip::new().file(&name, "x")).unwrap_err();
    assert!(error.to_string().len() < 400, "{error}");
}

#[test]
fn damage_is_an_error() {
    let mut bytes = Zip::new().file("a", "0123456789".repeat(100)).bytes();
    bytes[45] ^= 0x10;
    let world = World::new();
    let error = open(bytes, "artifacts.zip")
        .extract(&world.inside(""), ExtractLimits::default())
        .unwrap_err();
    assert_eq!(error.kind(), ArtifactErrorKind::Damaged, "{error}");
}

/// Written to a pipe, lengths stand behind the content; with room for large ones, or with something
/// in front.
#[test]
fn archives_of_all_kinds_of_writers_are_read() {
    let mut streamed = ZipWriter::new_stream(Vec::new());
    let mut large = ZipWriter::new(Cursor::new(Vec::new()));
    let text = "0123456789".repeat(1000);
    for method in [
        zip::CompressionMethod::Deflated,
        zip::CompressionMethod::Stored,
    ] {
        let options = SimpleFileOptions::default().compression_method(method);
        let name = format!("{method}");
        streamed.start_file(&name, options).unwrap();
        streamed.write_all(text.as_bytes()).unwrap();
        large.start_file(&name, options.large_file(true)).unwrap();
        large.write_all(text.as_bytes()).unwrap();
    }
    let streamed = streamed.finish().unwrap().into_inner();
    let large = large.finish().unwrap().into_inner();
    // Bit 3 says that the lengths come later.
    assert_eq!(streamed[6] & 8, 8);
    let behind = [b"#!/bin/sh\nexit\n".as_slice(), &large].concat();
    for bytes in [streamed, large, behind] {
        let world = World::new();
        let mut artifact = open(bytes, "artifacts.zip");
        let extracted = artifact.extract(&world.inside(""), ExtractLimits::default());
        assert_eq!(extracted.unwrap().files, 2);
        for name in ["Deflated", "Stored"] {
            assert_eq!(world.text(name), text);
        }
    }
}

#[test]
fn what_cannot_be_unpacked_is_told_apart_from_damage() {
    let plain = Zip::new().file("a", "secret").bytes();
    let central = plain.windows(4).position(|four| four == b"PK\x01\x02");
    let central = central.unwrap();
    let mut encrypted = plain.clone();
    encrypted[6] |= 1;
    encrypted[central + 8] |= 1;
    let mut unknown = plain;
    unknown[8] = 97;
    unknown[central + 10] = 97;
    for bytes in [encrypted, unknown] {
        let world = World::new();
        let mut artifact = open(bytes, "artifacts.zip");
        let extracted = artifact.extract(&world.inside(""), ExtractLimits::default());
        let error = extracted.unwrap_err();
        assert_eq!(error.kind(), ArtifactErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("a in the artifact"), "{error}");
        let written = fs::read(world.inside("a")).unwrap_or_default();
        assert_eq!(written, b"");
    }
}

/// Many entries may share what is compressed: a small archive is large many times over.
#[test]
fn entries_that_share_their_content_are_all_counted() {
    let zeros = vec![0; 1 << 20];
    let one = Zip::new().file("00", zeros).bytes();
    let central = one.windows(4).position(|four| four == b"PK\x01\x02");
    let central = central.unwrap();
    let end = one.len() - 22;
    let mut bytes = one[..central].to_vec();
    for number in 0..100 {
        let mut entry = one[central..end].to_vec();
        let name = format!("{number:02}");
        entry[46..48].copy_from_slice(name.as_bytes());
        bytes.extend_from_slice(&entry);
    }
    let len = (bytes.len() - central) as u32;
    let mut tail = one[end..].to_vec();
    tail[8..10].copy_from_slice(&100_u16.to_le_bytes());
    tail[10..12].copy_from_slice(&100_u16.to_le_bytes());
    tail[12..16].copy_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(&tail);
    let limits = ExtractLimits::default().with_bytes(10 << 20);
    let world = World::new();
    let mut artifact = open(bytes, "artifacts.zip");
    assert_eq!(artifact.len(), 100);
    let error = artifact.extract(&world.inside(""), limits).unwrap_err();
    assert_eq!(error.kind(), ArtifactErrorKind::TooLarge, "{error}");
    assert!(world.is_empty());
}

#[test]
fn gzip_and_raw_are_extracted_too() {
    let world = World::new();
    let mut gzip = flate2::GzBuilder::new()
        .comment("reports/a.xml")
        .mtime(1_600_000_000)
        .write(Vec::new(), flate2::Compression::fast());
    gzip.write_all(b"report").unwrap();
    let mut gzip = open(gzip.finish().unwrap(), "junit.xml.gz");
    gzip.extract(&world.inside(""), ExtractLimits::default())
        .unwrap();
    assert_eq!(world.text("reports/a.xml"), "report");
    let time = fs::metadata(world.inside("reports/a.xml"))
        .unwrap()
        .modified()
        .unwrap();
    assert_eq!(time, UNIX_EPOCH + Duration::from_secs(1_600_000_000));

    let mut raw = open(b"{}".to_vec(), "report.json");
    let extracted = raw
        .extract(&world.inside(""), ExtractLimits::default())
        .unwrap();
    assert_eq!(
        (extracted.files, world.text("report.json")),
        (1, "{}".to_owned())
    );
}

#[cfg(unix)]
mod unix {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    fn mode(mode: u32) -> SimpleFileOptions {
        let time = DateTime::from_date_and_time(2024, 2, 29, 12, 30, 58).unwrap();
        SimpleFileOptions::default()
            .external_attributes(mode << 16)
            .last_modified_time(time)
    }

    #[test]
    fn permissions_and_times_are_kept_but_nothing_that_gives_rights() {
        let world = World::new();
        let zip = Zip::new()
            .with("run.sh", mode(0o106_755))
            .with("dir/", mode(0o041_500))
            .with("dir/read-only", mode(0o100_444));
        world.extract(zip).unwrap();
        let of = |name| fs::metadata(world.inside(name)).unwrap();
        assert_eq!(of("run.sh").mode() & 0o7777, 0o755);
        assert_eq!(of("dir").mode() & 0o7777, 0o700);
        assert_eq!(of("dir/read-only").mode() & 0o7777, 0o444);
        for name in ["run.sh", "dir", "dir/read-only"] {
            assert_eq!(of(name).mtime(), 1_709_209_858, "{name}");
        }
        // And again, over what is for reading only.
        let zip = Zip::new().with("dir/read-only", mode(0o100_444));
        world.extract(zip).unwrap();
    }

    #[test]
    fn devices_and_pipes_are_left_out() {
        let world = World::new();
        let zip = Zip::new()
            .with("device", mode(0o020_666))
            .with("pipe", mode(0o010_666))
            .with("socket", mode(0o140_666));
        let extracted = world.extract(zip).unwrap();
        assert_eq!(extracted.skipped, ["device", "pipe", "socket"]);
        assert!(world.is_empty());
    }

    #[test]
    fn links_that_stay_inside_are_made() {
        let world = World::new();
        let zip = Zip::new()
            .link("bin/tool", "../lib/tool.js")
            .link("latest", "v1")
            .link("dangling", "nowhere/yet")
            .link("here", ".")
            .link("via", "latest/x")
            .file("lib/tool.js", "tool")
            .file("v1/x", "x");
        let extracted = world.extract(zip).unwrap();
        assert_eq!((extracted.links, extracted.files), (5, 2));
        assert_eq!(extracted.skipped, [""; 0]);
        assert_eq!(world.text("bin/tool"), "tool");
        assert_eq!(world.text("via"), "x");
        let target = fs::read_link(world.inside("dangling")).unwrap();
        assert_eq!(target, Path::new("nowhere/yet"));
    }

    #[test]
    fn links_that_lead_out_are_left_out() {
        for target in [
            "/etc/passwd",
            "../outside",
            "..",
            "a/../../outside",
            "./..",
            "",
            "..\\outside",
            &"x/".repeat(3000),
        ] {
            let world = World::new();
            let extracted = world.extract(Zip::new().link("link", target)).unwrap();
            assert_eq!(extracted.skipped, ["link"], "{target}");
            assert!(world.is_empty());
        }
        // Each of these is harmless without the other.
        let world = World::new();
        let zip = Zip::new()
            .link("sub/up", "..")
            .link("out", "sub/up/../outside/secret")
            .link("sub/out", "../../outside");
        let extracted = world.extract(zip).unwrap();
        assert_eq!(extracted.skipped, ["out", "sub/out"]);
        assert!(fs::symlink_metadata(world.inside("out")).is_err());
    }

    #[test]
    fn nothing_is_written_through_a_link_of_the_archive() {
        let outside = World::new();
        let target = outside.parent.path().join("outside");
        let zip = Zip::new()
            .link("dir", target.to_str().unwrap())
            .file("dir/evil", "evil")
            .link("file", "dir/evil")
            .file("file//x", "evil");
        let extracted = outside.extract(zip).unwrap();
        // Files come first, so that the links find something in their way.
        assert_eq!(extracted.skipped, ["dir", "file"]);
        assert_eq!(outside.text("dir/evil"), "evil");
    }

    #[test]
    fn links_that_were_there_are_followed_only_inside() {
        let world = World::new();
        let outside = world.parent.path().join("outside");
        symlink(&outside, world.inside("out")).unwrap();
        symlink(outside.join("secret"), world.inside("file")).unwrap();
        fs::create_dir(world.inside("real")).unwrap();
        symlink("real", world.inside("in")).unwrap();

        let error = world
            .extract(Zip::new().file("out/evil", "evil"))
            .unwrap_err();
        assert_eq!(error.kind(), ArtifactErrorKind::InTheWay);
        world
            .extract(Zip::new().file("in/a", "a").file("file", "new"))
            .unwrap();
        assert_eq!(
            (world.text("real/a"), world.text("file")),
            ("a".into(), "new".into())
        );
        assert!(
            fs::symlink_metadata(world.inside("file"))
                .unwrap()
                .is_file()
        );

        let zip = Zip::new()
            .link("x", "out/secret")
            .link("y", "out/new")
            .link("z", "in/a");
        let extracted = world.extract(zip).unwrap();
        assert_eq!(
            (extracted.links, extracted.skipped),
            (1, vec!["x".into(), "y".into()])
        );
    }

    #[test]
    fn the_directory_itself_may_be_reached_by_a_link() {
        let world = World::new();
        let link = world.parent.path().join("inside/link");
        fs::create_dir(world.inside("real")).unwrap();
        symlink("real", &link).unwrap();
        let mut artifact = Zip::new().file("a", "x").link("b", "a").open();
        let extracted = artifact.extract(&link, ExtractLimits::default()).unwrap();
        assert_eq!((extracted.files, extracted.links), (1, 1));
        assert_eq!(world.text("real/b"), "x");
    }
}
