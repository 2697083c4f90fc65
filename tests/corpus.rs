//! The fuzz targets on a stable toolchain: their committed corpora, and their laws by quickcheck.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{collections::BTreeSet, fs, path::Path};

use gitlab_runner::fuzzing::TARGETS;

#[test]
fn every_input_of_the_corpora_still_holds() {
    for (name, run) in TARGETS {
        let inputs = files(&Path::new("fuzz/corpus").join(name));
        assert!(!inputs.is_empty(), "{name} has no corpus");
        for input in inputs {
            let data = fs::read(&input).unwrap();
            let outcome = std::panic::catch_unwind(|| run(&data));
            assert!(outcome.is_ok(), "{} fails", input.display());
        }
    }
}

/// A target that is in one place and not in another is built or replayed by nobody.
#[test]
fn targets_and_corpora_match() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let names = |dir: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(dir).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths
            .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names("fuzz/corpus"), targets);
    assert_eq!(names("fuzz/fuzz_targets"), targets);
    let manifest = fs::read_to_string("fuzz/Cargo.toml").unwrap();
    for target in &targets {
        assert!(
            manifest.contains(&format!("name = \"{target}\"\n")),
            "{target}"
        );
        let source = fs::read_to_string(format!("fuzz/fuzz_targets/{target}.rs")).unwrap();
        assert!(
            source.contains(&format!("fuzzing::{target}::run")),
            "{target}"
        );
    }
    assert_eq!(manifest.matches("[[bin]]").count(), targets.len());
}

#[test]
fn corpora_are_small() {
    for (name, _) in TARGETS {
        let inputs = files(&Path::new("fuzz/corpus").join(name));
        let sizes = inputs
            .iter()
            .map(|input| fs::metadata(input).unwrap().len());
        let size: u64 = sizes.sum();
        assert!(size < 150 << 10, "{name} has {size} bytes");
    }
}

/// Each target with bytes of chance, and with inputs of its corpus that chance has changed.
macro_rules! laws {
    ($($target:ident: $size:literal bytes, $tests:literal times;)*) => {
        mod laws {$(
            #[test]
            fn $target() {
                fn of_chance(data: Vec<u8>) {
                    gitlab_runner::fuzzing::$target::run(&data);
                }
                fn changed(input: u8, cut: u16, changes: Vec<(u16, u8)>) {
                    let data = super::changed(stringify!($target), input, cut, &changes);
                    gitlab_runner::fuzzing::$target::run(&data);
                }
                let check = || quickcheck::QuickCheck::new().tests($tests);
                check()
                    .rng(quickcheck::Gen::new($size))
                    .quickcheck(of_chance as fn(Vec<u8>));
                check()
                    .rng(quickcheck::Gen::new(8))
                    .quickcheck(changed as fn(u8, u16, Vec<(u16, u8)>));
            }
        )*}

        #[test]
        fn every_target_has_its_law() {
            let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, [$(stringify!($target)),*]);
        }
    };
}

laws! {
    error_body: 300 bytes, 300 times;
    expand: 150 bytes, 1500 times;
    extract: 150 bytes, 60 times;
    glob: 40 bytes, 500 times;
    har: 100 bytes, 300 times;
    headers: 80 bytes, 500 times;
    job_payload: 100 bytes, 300 times;
    machine: 1500 bytes, 300 times;
    masker: 120 bytes, 150 times;
    multipart: 200 bytes, 300 times;
    transcript: 600 bytes, 100 times;
    url: 60 bytes, 500 times;
}

/// An input of a corpus, cut and with some of its bytes changed.
fn changed(target: &str, input: u8, cut: u16, changes: &[(u16, u8)]) -> Vec<u8> {
    let inputs = files(&Path::new("fuzz/corpus").join(target));
    let mut data = fs::read(&inputs[usize::from(input) % inputs.len()]).unwrap();
    if cut.is_multiple_of(8) {
        data.truncate(usize::from(cut) % (data.len() + 1));
    }
    let len = data.len().max(1);
    for (at, byte) in changes {
        if let Some(old) = data.get_mut(usize::from(*at) % len) {
            *old = *byte;
        }
    }
    data
}

fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}
