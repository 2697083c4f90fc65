use std::{
    fs,
    io::Write,
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

use flate2::read::{GzDecoder, MultiGzDecoder};
use zip::{CompressionMethod, ZipArchive};

use super::{
    super::files::FileMetadata,
    super::testing::{Fault, MemoryFile, Threads, block_on, file, noise, printed},
    *,
};

const NOW: u64 = 1_750_000_000;

fn order(format: ArtifactFormat) -> PackOrder {
    PackOrder {
        format: Some(format),
        name: None,
        level: Level::Default,
        dir: std::env::temp_dir(),
        now: UNIX_EPOCH + Duration::from_secs(NOW),
        most: None,
    }
}

fn pack_all(
    files: Vec<MemoryFile>,
    paths: &[&str],
    order: &PackOrder,
) -> (Result<Option<Packed>, PackError>, Vec<PackWarning>) {
    let none: &[&str] = &[];
    let (mut selection, problems) = Selection::new(Path::new("/p"), paths, none, false);
    assert_eq!(problems, []);
    let mut warnings = Vec::new();
    let adapter = Threads::adapter();
    let packed = block_on(pack(
        files.into_iter(),
        &mut selection,
        order,
        &adapter,
        &mut |warning| warnings.push(warning),
    ));
    (packed, warnings)
}

/// What is packed, without a warning.
fn packed(files: Vec<MemoryFile>, paths: &[&str], order: &PackOrder) -> Packed {
    let (packed, warnings) = pack_all(files, paths, order);
    assert_eq!(warnings, []);
    packed.unwrap().unwrap()
}

fn content(packed: &Packed) -> Vec<u8> {
    let mut content = Vec::new();
    let spool = Arc::clone(&packed.spool);
    spool
        .reader(crate::spool::Stop::default())
        .read_to_end(&mut content)
        .unwrap();
    assert_eq!(content.len() as u64, packed.len);
    content
}

fn unzip(packed: &Packed) -> ZipArchive<io::Cursor<Vec<u8>>> {
    ZipArchive::new(io::Cursor::new(content(packed))).unwrap()
}

fn read(archive: &mut ZipArchive<io::Cursor<Vec<u8>>>, name: &str) -> Vec<u8> {
    let mut content = Vec::new();
    let mut file = archive.by_name(name).unwrap();
    file.read_to_end(&mut content).unwrap();
    content
}

#[test]
fn a_zip_holds_the_files_in_the_order_of_their_names() {
    let text = "a line of text\n".repeat(200_000);
    let mut slow = file("b/slow.txt", text.clone());
    slow.step = 1000;
    let noise = noise(3 << 20);
    let files = vec![
        slow,
        file("b/noise.bin", noise.clone()),
        file("./a.txt", "small"),
        file("b/empty", ""),
        file("other", "not wanted"),
        file("b/ä\\b", "odd"),
    ];
    let packed = packed(files, &["b", "*.txt"], &order(ArtifactFormat::Zip));
    assert_eq!((packed.files, &*packed.file_name), (5, "default.zip"));

    let mut zip = unzip(&packed);
    let names: Vec<_> = zip
        .file_names()
        .map(|name| name.unwrap().into_owned())
        .collect();
    assert_eq!(
        names,
        ["a.txt", "b/empty", "b/noise.bin", "b/slow.txt", "b/ä\\b"]
    );
    assert_eq!(read(&mut zip, "a.txt"), b"small");
    assert_eq!(read(&mut zip, "b/empty"), b"");
    assert_eq!(read(&mut zip, "b/slow.txt"), text.as_bytes());
    assert_eq!(read(&mut zip, "b/noise.bin"), noise);
    assert_eq!(read(&mut zip, "b/ä\\b"), b"odd");

    use CompressionMethod::{Deflated, Stored};
    for (name, method) in [
        ("b/empty", Stored),
        ("b/noise.bin", Stored),
        ("b/slow.txt", Deflated),
        ("a.txt", Deflated),
    ] {
        let entry = zip.by_name(name).unwrap();
        assert_eq!(entry.compression(), method, "{name}");
        assert_eq!(entry.unix_mode(), Some(0o100_644));
        let time = entry.last_modified().unwrap();
        assert_eq!(time.to_string(), "2025-06-15 15:06:40");
    }
}

#[test]
fn unzip_and_python_read_it() {
    let mut script = file("bin/run.sh", "#!/bin/sh\necho hello\n");
    script.metadata.mode = Some(0o4755);
    script.metadata.modified = Some(UNIX_EPOCH + Duration::from_secs(1_600_000_000));
    let mut link = file("bin/link", "run.sh");
    link.metadata.kind = FileKind::Symlink;
    let mut empty = file("empty", "never read");
    empty.metadata.kind = FileKind::Directory;
    let files = vec![
        script,
        link,
        empty,
        file("text", "x".repeat(3_000_000)),
        file("noise", noise(300_000)),
    ];
    let packed = packed(files, &["**"], &order(ArtifactFormat::Zip));
    assert_eq!(packed.files, 4);

    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("a.zip");
    fs::write(&archive, content(&packed)).unwrap();
    let archive = archive.to_str().unwrap();
    let target = dir.path().join("out");

    let listed = printed("python3", &["-m", "zipfile", "-l", archive]);
    if let Some(listed) = listed {
        let names: Vec<_> = listed
            .lines()
            .skip(1)
            .map(|line| line.split(' ').next())
            .collect();
        let wanted = ["bin/link", "bin/run.sh", "empty/", "noise", "text"];
        assert_eq!(names, wanted.map(Some), "{listed}");
        printed("python3", &["-m", "zipfile", "-t", archive]).unwrap();
    }
    if printed("unzip", &["-q", archive, "-d", target.to_str().unwrap()]).is_some() {
        assert_eq!(fs::read(target.join("text")).unwrap().len(), 3_000_000);
        assert_eq!(fs::read(target.join("noise")).unwrap(), noise(300_000));
        assert!(target.join("empty").is_dir());
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;

            let metadata = fs::metadata(target.join("bin/run.sh")).unwrap();
            assert_eq!(metadata.mode() & 0o7777, 0o755);
            assert_eq!(metadata.mtime(), 1_600_000_000);
            let to = fs::read_link(target.join("bin/link")).unwrap();
            assert_eq!(to, Path::new("run.sh"));
        }
    }
}

#[test]
fn gzip_is_a_member_for_each_file() {
    let text = "report\n".repeat(1000);
    let mut dir = file("r", "");
    dir.metadata.kind = FileKind::Directory;
    let files = vec![
        file("r/b.xml", "second"),
        dir,
        file("r/a.xml", text.clone()),
        file("r/50%.xml", "third"),
    ];
    let mut order = order(ArtifactFormat::Gzip);
    order.name = Some("junit.xml".to_owned());
    let packed = packed(files, &["r"], &order);
    assert_eq!((packed.files, &*packed.file_name), (3, "junit.xml.gz"));

    let mut all = String::new();
    let bytes = content(&packed);
    MultiGzDecoder::new(&*bytes)
        .read_to_string(&mut all)
        .unwrap();
    assert_eq!(all, format!("third{text}second"));
    let mut on_disk = tempfile::NamedTempFile::with_suffix(".gz").unwrap();
    on_disk.write_all(&bytes).unwrap();
    if let Some(unpacked) = printed("zcat", &[on_disk.path().to_str().unwrap()]) {
        assert_eq!(unpacked, all);
    }

    let mut rest = &*bytes;
    for (name, comment) in [
        ("50%25.xml", "e:r%2F50%25.xml"),
        ("a.xml", "r/a.xml"),
        ("b.xml", "r/b.xml"),
    ] {
        let mut member = flate2::bufread::GzDecoder::new(rest);
        let header = member.header().unwrap();
        assert_eq!(header.filename(), Some(name.as_bytes()));
        assert_eq!(header.comment(), Some(comment.as_bytes()));
        assert_eq!(u64::from(header.mtime()), NOW);
        io::copy(&mut member, &mut io::sink()).unwrap();
        rest = member.into_inner();
    }
    assert!(rest.is_empty());
}

#[test]
fn raw_is_one_file_as_it_is() {
    let mut order = order(ArtifactFormat::Raw);
    order.name = Some("gl-sast-report.json".to_owned());
    let data = noise(5 << 20);
    let files = vec![file("sast.json", data.clone()), file("other", "")];
    let packed = packed(files, &["*.json"], &order);
    assert_eq!(
        (packed.files, &*packed.file_name),
        (1, "gl-sast-report.json")
    );
    assert!(content(&packed) == data);

    let files = vec![file("a.json", ""), file("b.json", "")];
    let error = pack_all(files, &["*.json"], &order).0.unwrap_err();
    assert!(
        error.to_string().contains("a.json and b.json match"),
        "{error}"
    );
}

#[test]
fn nothing_that_matches_is_no_error() {
    for format in [
        ArtifactFormat::Zip,
        ArtifactFormat::Gzip,
        ArtifactFormat::Raw,
    ] {
        let (packed, warnings) = pack_all(vec![file("a", "")], &["b"], &order(format));
        assert!(packed.unwrap().is_none());
        assert_eq!(warnings, []);
    }
}

#[test]
fn what_has_no_safe_name_or_the_name_of_another_is_left_out() {
    let mut link = file("c", "a");
    link.metadata.kind = FileKind::Symlink;
    let files = vec![
        file("a", "first"),
        file("../../etc/cron.d/evil", ""),
        file("./a", "second"),
        file("/etc/passwd", ""),
        link,
    ];
    let (packed, warnings) = pack_all(files, &["**"], &order(ArtifactFormat::Gzip));
    let packed = packed.unwrap().unwrap();
    let mut text = String::new();
    GzDecoder::new(&*content(&packed))
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!((packed.files, &*text), (1, "first"));
    let warnings: Vec<_> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "\"../../etc/cron.d/evil\" is not uploaded: it leads out of the job's directory",
            "\"/etc/passwd\" is not uploaded: it is absolute, not relative to the job's directory",
            "c is a symbolic link, which this format cannot hold",
            "a is there more than once: only the first is uploaded",
        ]
    );
}

#[test]
fn many_warnings_are_counted() {
    let files = (0..80).map(|n| file(&format!("/{n}"), ""));
    let (packed, warnings) = pack_all(files.collect(), &["**"], &order(ArtifactFormat::Zip));
    assert!(packed.unwrap().is_none());
    assert_eq!(warnings.len(), 51);
    assert_eq!(warnings.last(), Some(&PackWarning::More { count: 30 }));
}

#[test]
fn long_names_are_shown_by_their_ends() {
    let long = format!("{}/{}", "a".repeat(1 << 20), "z".repeat(200));
    let (_, warnings) = pack_all(vec![file(&long, "")], &["**"], &order(ArtifactFormat::Zip));
    let [warning] = &warnings[..] else {
        panic!("{} warnings", warnings.len());
    };
    let text = warning.to_string();
    assert!(text.len() < 300 && text.contains("…zzz"), "{text}");
    assert!(text.ends_with("is not uploaded: it is too long"), "{text}");
}

#[test]
fn a_file_that_cannot_be_read_says_which() {
    let mut broken = file("broken", noise(3 << 20));
    for (fault, wanted) in [
        (Fault::Open, "broken could not be opened"),
        (Fault::Read, "broken could not be read: the cable was cut"),
    ] {
        broken.fault = fault;
        let files = vec![file("a", ""), broken.clone()];
        let error = pack_all(files, &["**"], &order(ArtifactFormat::Zip)).0;
        let error = error.unwrap_err();
        assert_eq!(error.to_string(), wanted);
        assert_eq!(error.source().is_some(), fault == Fault::Read);
    }
}

#[test]
fn a_spool_file_that_cannot_be_made_is_an_error_of_the_disk() {
    let mut order = order(ArtifactFormat::Zip);
    order.dir = "/nonexistent/dir".into();
    let error = pack_all(vec![file("a", "")], &["a"], &order).0.unwrap_err();
    assert!(matches!(error, PackError::Write { .. }) && !error.is_disk_full());
    let full = PackError::write(io::ErrorKind::StorageFull.into());
    assert!(full.is_disk_full() && full.to_string().contains("disk of the runner is full"));
}

#[test]
fn an_artifact_does_not_become_longer_than_it_may() {
    for format in [
        ArtifactFormat::Zip,
        ArtifactFormat::Gzip,
        ArtifactFormat::Raw,
    ] {
        let mut order = order(format.clone());
        order.most = Some(1 << 20);
        let large = vec![file("a", noise(2 << 20))];
        let error = pack_all(large, &["a"], &order).0.unwrap_err();
        assert!(
            matches!(error, PackError::TooLarge { most: 0x10_0000 }),
            "{format:?}: {error:?}"
        );
        let text = error.to_string();
        assert!(text.contains("1048576 bytes") && text.contains("max_artifact_size"));
        packed(vec![file("a", noise(1_000_000))], &["a"], &order);
    }
}

#[test]
fn an_unknown_format_is_an_error() {
    let order = order(ArtifactFormat::Other("zipzstd".to_owned()));
    let error = pack_all(vec![file("a", "")], &["a"], &order).0.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the artifact format `zipzstd` is not supported"
    );
}

#[test]
fn many_small_files_are_packed_together() {
    let files = (0..5000).map(|n| file(&format!("{n:05}"), n.to_string()));
    let packed = packed(files.collect(), &["*"], &order(ArtifactFormat::Zip));
    let mut zip = unzip(&packed);
    assert_eq!((zip.len(), packed.files), (5000, 5000));
    assert_eq!(read(&mut zip, "04711"), b"4711");
}

#[test]
fn levels_have_names() {
    let text = include_str!("tests.rs").as_bytes();
    let lens = ["fastest", "fast", "", "slowest"].map(|name| {
        let level = Level::named(name).unwrap();
        let order = PackOrder {
            level,
            ..order(ArtifactFormat::Zip)
        };
        packed(vec![file("a", text)], &["a"], &order).len
    });
    assert!(
        lens.is_sorted_by(|faster, slower| faster > slower),
        "{lens:?}"
    );
    assert!(lens[0] > text.len() as u64);
    assert_eq!(Level::named("default"), Some(Level::Default));
    assert_eq!(Level::named("9"), None);
}

/// Handlers' files need not be `Sync`, and the task that packs them moves between threads.
#[allow(dead_code, reason = "it is enough that it compiles")]
fn packing_moves_between_threads<'a, U: UploadableFile + Send + 'static>(
    files: Box<dyn Iterator<Item = U> + Send>,
    selection: &'a mut Selection,
    order: &'a PackOrder,
    adapter: &'a Arc<dyn Adapter>,
    warn: &'a mut (dyn FnMut(PackWarning) + Send),
) -> BoxFuture<'a, Result<Option<Packed>, PackError>> {
    pack(files, selection, order, adapter, warn).boxed()
}

/// A file that is read by blocking.
struct Blocking(&'static str, Option<&'static str>);

#[async_trait::async_trait]
impl UploadableFile for Blocking {
    type Data<'a> = futures::io::Empty;

    fn get_path(&self) -> std::borrow::Cow<'_, str> {
        self.0.into()
    }

    async fn get_data(&self) -> Result<Self::Data<'_>, ()> {
        Err(())
    }

    fn get_blocking_data(&self) -> Option<BlockingData> {
        let data = self.1;
        Some(Box::new(move || match data {
            Some(data) => Ok(Box::new(data.as_bytes())),
            None => Err(io::ErrorKind::NotFound.into()),
        }))
    }
}

#[test]
fn files_on_disk_are_read_where_blocking_is_allowed() {
    let none: &[&str] = &[];
    let (mut selection, _) = Selection::new(Path::new("/p"), &["*"], none, false);
    let mut warnings = Vec::new();
    let adapter = Threads::adapter();
    let mut all = |files: Vec<Blocking>, warnings: &mut Vec<PackWarning>| {
        block_on(pack(
            files.into_iter(),
            &mut selection,
            &order(ArtifactFormat::Zip),
            &adapter,
            &mut |warning| warnings.push(warning),
        ))
    };
    let files = vec![Blocking("a", Some("data")), Blocking("b", None)];
    let packed = all(files, &mut warnings).unwrap().unwrap();
    assert_eq!(
        (packed.files, read(&mut unzip(&packed), "a")),
        (1, b"data".to_vec())
    );
    assert!(
        all(vec![Blocking("b", None)], &mut warnings)
            .unwrap()
            .is_none()
    );
    let vanished = PackWarning::Vanished {
        name: "b".to_owned(),
    };
    assert_eq!(warnings, [vanished.clone(), vanished]);
}

#[test]
fn a_pack_that_is_dropped_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let mut order = order(ArtifactFormat::Zip);
    order.dir = dir.path().to_owned();
    let none: &[&str] = &[];
    let (mut selection, _) = Selection::new(Path::new("/p"), &["*"], none, false);
    let adapter = Threads::adapter();
    let mut warn = |_| ();
    let files = vec![file("a", noise(8 << 20))].into_iter();
    let mut pack = pack(files, &mut selection, &order, &adapter, &mut warn).boxed();
    block_on(async {
        for _ in 0..3 {
            let _ = poll!(&mut pack);
            yield_now().await;
        }
    });
    drop(pack);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told_apart() {
    // What is small is written at the end, what is large on the way.
    for (format, len) in [Format::Zip, Format::Gzip, Format::Raw]
        .into_iter()
        .flat_map(|format| [(format, 10), (format, 2 << 20)])
    {
        // The one device that is always full.
        let full = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/full");
        let Ok(full) = full else {
            eprintln!("SKIPPED: there is no /dev/full");
            return;
        };
        let full = SpoolWriter::on(full, None);
        let mut writer = PackWriter::new(full, format, Level::Default, UNIX_EPOCH);
        let entry = Entry {
            name: "a".to_owned(),
            metadata: FileMetadata::default(),
        };
        let packed = writer
            .begin(entry)
            .and_then(|()| writer.data(&noise(len)))
            .and_then(|()| writer.end())
            .and_then(|()| writer.finish());
        let error = PackError::write(packed.map(drop).unwrap_err());
        assert!(error.is_disk_full(), "{format:?}, {len}: {error:?}");
        assert!(error.to_string().contains("the disk of the runner is full"));
    }
}
