use std::{
    io::{Cursor, Write as _},
    path::Path,
};

use flate2::{Compression, GzBuilder};
use quickcheck::quickcheck;
use zip::{ZipWriter, write::SimpleFileOptions};

use super::*;
use crate::spool::StopOnDrop;

fn spool(content: &[u8]) -> Arc<SpoolFile> {
    let file = SpoolFile::create(&std::env::temp_dir()).unwrap();
    file.append(&[bytes::Bytes::copy_from_slice(content)])
        .unwrap();
    Arc::new(file)
}

fn open(content: &[u8]) -> Result<Artifact, ArtifactError> {
    Artifact::new(spool(content), Some("artifacts.zip"), Stop::default())
}

fn zipped(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in files {
        zip.start_file(name, SimpleFileOptions::default()).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn gzipped(header: GzBuilder, content: &[u8]) -> Vec<u8> {
    let mut gzip = header.write(Vec::new(), Compression::fast());
    gzip.write_all(content).unwrap();
    gzip.finish().unwrap()
}

fn text(file: Option<ArtifactFile<'_>>) -> String {
    let mut text = String::new();
    file.unwrap().read_to_string(&mut text).unwrap();
    text
}

fn read_all(artifact: &mut Artifact) {
    for index in 0..artifact.len() + 1 {
        if let Some(file) = artifact.by_index(index) {
            let _ = io::copy(&mut file.take(1 << 20), &mut io::sink());
        }
    }
}

#[test]
fn the_files_of_a_zip_are_there_by_name_and_by_number() {
    let content = zipped(&[("a", b"first"), ("dir/ä", b"second"), ("../x", b"outside")]);
    let mut artifact = open(&content).unwrap();
    assert_eq!(artifact.len(), 3);
    assert!(!artifact.is_empty());
    assert_eq!(
        artifact.file_names().collect::<Vec<_>>(),
        ["a", "dir/ä", "../x"]
    );
    assert_eq!(text(artifact.file("dir/ä")), "second");
    assert_eq!(text(artifact.file("a")), "first");
    assert_eq!(text(artifact.file("a")), "first");
    assert_eq!(text(artifact.by_index(1)), "second");
    assert!(artifact.file("b").is_none());
    assert!(artifact.by_index(3).is_none());
    let path = artifact.file("dir/ä").unwrap().path();
    assert_eq!(path.as_deref(), Some(Path::new("dir/ä")));
    let outside = artifact.file("../x").unwrap();
    assert_eq!((outside.name(), outside.path()), ("../x", None));
}

#[test]
fn it_moves_to_another_thread_and_shows_no_content() {
    let mut artifact = open(&zipped(&[("a", b"hunter2")])).unwrap();
    let debug = [format!("{artifact:?}"), format!("{:?}", artifact.file("a"))].concat();
    assert!(
        debug.contains("entries: 1") && !debug.contains("hunter2"),
        "{debug}"
    );
    let read = std::thread::spawn(move || text(artifact.file("a")));
    assert_eq!(read.join().unwrap(), "hunter2");
}

#[test]
fn an_empty_archive_is_empty() {
    let artifact = open(&zipped(&[])).unwrap();
    assert!(artifact.is_empty());
    assert_eq!(artifact.len(), 0);
}

#[test]
fn what_is_in_front_of_an_archive_does_no_harm() {
    let content = [
        b"half of an earlier download".to_vec(),
        zipped(&[("a", b"x")]),
    ]
    .concat();
    assert_eq!(text(open(&content).unwrap().file("a")), "x");
}

#[test]
fn gzip_members_are_files() {
    let content = [
        gzipped(GzBuilder::new().filename("b").comment("a/b"), b"one"),
        gzipped(GzBuilder::new().comment("e:x%2F%C3%A4%25%zz"), b"two"),
        gzipped(GzBuilder::new().filename("name"), b""),
        gzipped(GzBuilder::new(), b"four"),
        vec![0; 512],
    ];
    let mut artifact = open(&content.concat()).unwrap();
    let names: Vec<_> = artifact.file_names().collect();
    assert_eq!(names, ["a/b", "x/ä%%zz", "name", "file-3"]);
    assert_eq!(text(artifact.file("x/ä%%zz")), "two");
    assert_eq!(text(artifact.by_index(0)), "one");
    assert_eq!(text(artifact.by_index(2)), "");
    assert_eq!(text(artifact.by_index(3)), "four");

    let content = gzipped(GzBuilder::new(), b"report");
    let artifact = Artifact::new(spool(&content), Some("junit.xml.gz"), Stop::default()).unwrap();
    assert_eq!(artifact.file_names().collect::<Vec<_>>(), ["junit.xml"]);
}

#[test]
fn a_raw_artifact_is_a_file() {
    let mut artifact =
        Artifact::new(spool(b"{}"), Some("dir/gl-report.json"), Stop::default()).unwrap();
    assert_eq!(
        artifact.file_names().collect::<Vec<_>>(),
        ["gl-report.json"]
    );
    assert_eq!(text(artifact.by_index(0)), "{}");
    assert_eq!(text(artifact.file("gl-report.json")), "{}");
}

#[test]
fn a_file_can_be_opened() {
    use std::io::{Seek as _, SeekFrom};

    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&zipped(&[("a", b"x")])).unwrap();
    file.seek(SeekFrom::Start(3)).unwrap();
    assert_eq!(text(Artifact::open(file).unwrap().file("a")), "x");
}

#[test]
fn what_is_no_archive_is_an_error() {
    for content in [
        &b""[..],
        b"PK",
        b"PK\x03\x04",
        b"<html>502 Bad Gateway</html>",
        b"\x1f\x8b",
        b"\x1f\x8b\x08\x00",
        &[0; 1000],
    ] {
        let error = open(content).unwrap_err();
        assert_eq!(
            error.kind(),
            ArtifactErrorKind::Damaged,
            "{content:?}: {error}"
        );
        assert!(Artifact::new(spool(content), None, Stop::default()).is_err());
    }
}

#[test]
fn damage_is_an_error_of_reading() {
    let mut content = zipped(&[("a", &b"0123456789".repeat(100))]);
    content[50] ^= 1;
    let mut artifact = open(&content).unwrap();
    let mut file = artifact.file("a").unwrap();
    assert!(io::copy(&mut file, &mut io::sink()).is_err());
}

#[test]
fn a_cut_archive_is_an_error_and_no_panic() {
    let zip = zipped(&[("a", b"first"), ("b", &b"second".repeat(20))]);
    let gzip = gzipped(GzBuilder::new().filename("a"), b"content").repeat(2);
    for content in [zip, gzip] {
        for len in 0..content.len() {
            if let Ok(mut artifact) = open(&content[..len]) {
                read_all(&mut artifact);
            }
        }
    }
}

#[test]
fn a_directory_that_claims_too_much_is_an_error() {
    let mut content = zipped(&[("a", b"x")]);
    let end = content.len() - 22;
    // 65535 entries, where there is one.
    content[end + 8..end + 12].fill(0xff);
    assert!(open(&content).is_err());
}

/// As an archive with more than two millions of entries would be, before they are read.
#[test]
fn an_archive_that_says_that_it_is_too_large_is_refused() {
    let mut end = [b"PK\x06\x06", &44_u64.to_le_bytes()[..], &[0; 12]].concat();
    for number in [2_400_000_u64, 2_400_000, 120 << 20, 0] {
        end.extend_from_slice(&number.to_le_bytes());
    }
    end.extend_from_slice(b"PK\x06\x07\0\0\0\0");
    end.extend_from_slice(&(120_u64 << 20).to_le_bytes());
    end.extend_from_slice(&[1, 0, 0, 0]);
    end.extend_from_slice(b"PK\x05\x06\0\0\0\0");
    end.extend_from_slice(&[0xff; 12]);
    end.extend_from_slice(&[0; 2]);
    let file = SpoolFile::create(&std::env::temp_dir()).unwrap();
    file.write(120 << 20, &[end.into()]).unwrap();
    let error = Artifact::new(Arc::new(file), Some("artifacts.zip"), Stop::default()).unwrap_err();
    assert_eq!(error.kind(), ArtifactErrorKind::TooLarge, "{error}");
    assert_eq!(error.to_string(), "the artifact has too many entries");
}

/// Listing or reading what another job has compressed can take for ever.
#[test]
fn nothing_is_read_on_when_the_job_is_gone() {
    let zeros = vec![0; 10 << 20];
    let zip = zipped(&[("a", &zeros)]);
    let gzip = gzipped(GzBuilder::new(), &zeros);
    for (content, name) in [(zip, "a.zip"), (gzip, "a.gz"), (zeros, "raw.json")] {
        let stop = Stop::default();
        let mut artifact = Artifact::new(spool(&content), Some(name), stop.clone()).unwrap();
        let mut file = artifact.by_index(0).unwrap();
        file.read_exact(&mut [0; 1000]).unwrap();
        drop(StopOnDrop(stop.clone()));
        let error = io::copy(&mut file, &mut io::sink()).unwrap_err();
        assert!(error.to_string().contains("come to its end"), "{error}");
        let error = Artifact::new(spool(&content), Some(name), stop).unwrap_err();
        assert_eq!(error.kind(), ArtifactErrorKind::Io, "{error}");
    }
}

quickcheck! {
    fn changed_bytes_do_no_harm(changes: Vec<(u16, u8)>) -> bool {
        let zip = zipped(&[("a", b"first"), ("b", &b"second".repeat(20))]);
        let gzip = gzipped(GzBuilder::new().filename("a"), b"content").repeat(2);
        for mut content in [zip, gzip] {
            for (at, byte) in &changes {
                let at = usize::from(*at) % content.len();
                content[at] = *byte;
            }
            if let Ok(mut artifact) = open(&content) {
                read_all(&mut artifact);
            }
        }
        true
    }
}
