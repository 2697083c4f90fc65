use std::{
    collections::BTreeMap,
    time::{Duration, UNIX_EPOCH},
};

use futures::AsyncReadExt;

use super::{
    super::{
        Artifact, ExtractLimits, Level, PackOrder, Packed, Selection,
        pack::{PackError, PackWarning, pack},
        testing::{Threads, block_on, noise, printed},
    },
    *,
};

fn write(dir: &Path, name: &str, content: impl AsRef<[u8]>) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn walk(dir: &Path) -> BTreeMap<String, DiskFile> {
    let files = DirectoryFiles::walk(dir).unwrap();
    files
        .map(|file| (file.get_path().into_owned(), file))
        .collect()
}

fn pack_files(
    dir: &Path,
    files: impl Iterator<Item = DiskFile> + Send,
    paths: &[&str],
    untracked: bool,
) -> (Result<Option<Packed>, PackError>, Vec<PackWarning>) {
    let none: &[&str] = &[];
    let (mut selection, _) = Selection::new(dir, paths, none, untracked);
    let order = PackOrder {
        format: None,
        name: None,
        level: Level::Default,
        dir: std::env::temp_dir(),
        now: UNIX_EPOCH,
        most: None,
    };
    let mut warnings = Vec::new();
    let adapter = Threads::adapter();
    let mut warn = |warning| warnings.push(warning);
    let packed = block_on(pack(files, &mut selection, &order, &adapter, &mut warn));
    (packed, warnings)
}

#[test]
fn all_that_is_below_is_offered_by_relative_paths() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a.txt", "first");
    write(dir.path(), "deep/er/.hidden", "second");
    let files = walk(dir.path());
    let names: Vec<_> = files.keys().collect();
    assert_eq!(names, ["a.txt", "deep", "deep/er", "deep/er/.hidden"]);
    assert_eq!(files["deep"].get_metadata().kind, FileKind::Directory);
    assert_eq!(files["a.txt"].get_metadata().kind, FileKind::File);
    assert!(files["a.txt"].path().ends_with("a.txt"));
    let text = block_on(async {
        let mut text = String::new();
        let mut data = files["deep/er/.hidden"].get_data().await.unwrap();
        AsyncReadExt::read_to_string(&mut data, &mut text)
            .await
            .unwrap();
        text
    });
    assert_eq!(text, "second");
    assert!(DirectoryFiles::walk(dir.path().join("none")).is_err());
    assert!(DirectoryFiles::walk(dir.path().join("a.txt")).is_err());
}

#[test]
fn what_was_removed_is_left_out_and_what_became_something_else_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "gone", "");
    write(dir.path(), "stays", "");
    let files = walk(dir.path()).into_values();
    fs::remove_file(dir.path().join("gone")).unwrap();
    let (packed, warnings) = pack_files(dir.path(), files, &["*"], false);
    assert_eq!(packed.unwrap().unwrap().files, 1);
    assert_eq!(
        warnings,
        [PackWarning::Vanished {
            name: "gone".into()
        }]
    );

    let files = walk(dir.path()).into_values();
    fs::remove_file(dir.path().join("stays")).unwrap();
    fs::create_dir(dir.path().join("stays")).unwrap();
    let error = pack_files(dir.path(), files, &["*"], false).0.unwrap_err();
    assert!(error.to_string().contains("not a file any more"), "{error}");
}

#[test]
fn files_that_git_does_not_know_are_marked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    if printed("git", &["init", "-q", path]).is_none() {
        return;
    }
    write(dir.path(), "known", "");
    write(dir.path(), "unknown ä", "");
    write(dir.path(), "ignored", "");
    write(dir.path(), ".gitignore", "ignored\n");
    printed("git", &["-C", path, "add", "known", ".gitignore"]).unwrap();
    let mut files = DirectoryFiles::walk(dir.path()).unwrap();
    files.mark_untracked().unwrap();
    let mut untracked: Vec<_> = files
        .filter(|file| file.get_metadata().untracked)
        .map(|file| file.get_path().into_owned())
        .collect();
    untracked.sort();
    assert_eq!(untracked, ["ignored", "unknown ä"]);

    let mut files = DirectoryFiles::walk(dir.path()).unwrap();
    files.mark_untracked().unwrap();
    let (packed, _) = pack_files(dir.path(), files, &[], true);
    assert_eq!(packed.unwrap().unwrap().files, 2);

    let bare = tempfile::tempdir().unwrap();
    let mut files = DirectoryFiles::walk(bare.path()).unwrap();
    assert!(files.mark_untracked().is_err());
}

#[cfg(unix)]
mod unix {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn what_is_packed_comes_out_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let noise = noise(2 << 20);
        write(dir.path(), "bin/run.sh", "#!/bin/sh\n");
        write(dir.path(), "data", &noise);
        let script = File::open(dir.path().join("bin/run.sh")).unwrap();
        script
            .set_permissions(PermissionsExt::from_mode(0o750))
            .unwrap();
        script
            .set_modified(UNIX_EPOCH + Duration::from_secs(1_600_000_001))
            .unwrap();
        symlink("run.sh", dir.path().join("bin/link")).unwrap();
        fs::create_dir(dir.path().join("empty")).unwrap();
        std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();

        let files = DirectoryFiles::walk(dir.path()).unwrap();
        let (packed, warnings) = pack_files(dir.path(), files, &["**"], false);
        let packed = packed.unwrap().unwrap();
        assert_eq!((packed.files, warnings), (3, vec![]));

        let out = tempfile::tempdir().unwrap();
        let mut artifact = Artifact::new(
            packed.spool,
            Some(&packed.file_name),
            crate::spool::Stop::default(),
        )
        .unwrap();
        let extracted = artifact
            .extract(out.path(), ExtractLimits::default())
            .unwrap();
        assert_eq!(
            (extracted.files, extracted.directories, extracted.links),
            (2, 2, 1)
        );
        assert_eq!(extracted.skipped, [""; 0]);
        let script = fs::metadata(out.path().join("bin/run.sh")).unwrap();
        assert_eq!(
            (script.mode() & 0o7777, script.mtime()),
            (0o750, 1_600_000_001)
        );
        assert_eq!(
            fs::read_link(out.path().join("bin/link")).unwrap(),
            Path::new("run.sh")
        );
        assert!(fs::read(out.path().join("data")).unwrap() == noise);
        assert!(out.path().join("empty").is_dir());
    }

    #[test]
    fn links_are_links_and_nothing_behind_them_is_offered() {
        let parent = tempfile::tempdir().unwrap();
        write(parent.path(), "outside/secret", "secret");
        write(parent.path(), "inside/a", "");
        let inside = parent.path().join("inside");
        symlink("../outside", inside.join("out")).unwrap();
        let files = walk(&inside);
        assert_eq!(files.keys().collect::<Vec<_>>(), ["a", "out"]);
        assert_eq!(files["out"].get_metadata().kind, FileKind::Symlink);
        let mut target = String::new();
        let open = files["out"].get_blocking_data().unwrap();
        open().unwrap().read_to_string(&mut target).unwrap();
        assert_eq!(target, "../outside");
    }

    #[test]
    fn a_directory_that_becomes_a_link_leads_nowhere() {
        let parent = tempfile::tempdir().unwrap();
        write(parent.path(), "outside/file", "secret");
        write(parent.path(), "inside/dir/file", "public");
        let inside = parent.path().join("inside");
        let files = walk(&inside);
        fs::remove_dir_all(inside.join("dir")).unwrap();
        symlink("../outside", inside.join("dir")).unwrap();
        let open = files["dir/file"].get_blocking_data().unwrap();
        assert!(open().is_err());
        assert!(block_on(files["dir/file"].get_data()).is_err());

        write(&inside, "other", "public");
        let files = walk(&inside);
        fs::remove_file(inside.join("other")).unwrap();
        symlink("../outside/file", inside.join("other")).unwrap();
        let open = files["other"].get_blocking_data().unwrap();
        assert!(open().is_err());
    }
}
