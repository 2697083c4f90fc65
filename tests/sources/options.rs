//! What the variables of a job say about its sources.

use gitlab_runner::protocol::{GitInfo, JobPayload};

use crate::sources::{Options, Strategy, Submodules};

fn git_info(depth: i64) -> GitInfo {
    let body = format!(r#"{{"id":1,"token":"t","git_info":{{"depth":{depth}}}}}"#);
    JobPayload::parse(body.as_bytes()).unwrap().git_info
}

fn read(variables: &[(&str, &str)]) -> Options {
    let value = |key: &str| {
        let found = variables.iter().find(|(name, _)| *name == key);
        found
            .map(|(_, value)| (*value).to_owned())
            .unwrap_or_default()
    };
    Options::read(value, &git_info(20), true)
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn without_variables_gitlab_decides() {
    let options = read(&[]);
    assert_eq!(options.strategy, Strategy::Fetch);
    assert_eq!(options.depth, 20);
    assert_eq!(options.fetch_flags, words("--prune --quiet"));
    assert!(options.checkout);
    assert_eq!(options.clean_flags, Some(words("-ffdx")));
    assert_eq!(options.submodules, Submodules::None);
    assert_eq!(options.attempts, 1);
    assert!(options.warnings.is_empty());

    let none = |_: &str| String::new();
    let clone = Options::read(none, &git_info(0), false);
    assert_eq!(clone.strategy, Strategy::Clone);
    assert_eq!(clone.depth, 0);
    assert_eq!(Options::read(none, &git_info(-1), true).depth, 0);
}

#[test]
fn each_variable_counts() {
    for (value, strategy) in [
        ("clone", Strategy::Clone),
        ("fetch", Strategy::Fetch),
        ("none", Strategy::None),
        (" empty ", Strategy::Empty),
    ] {
        assert_eq!(read(&[("GIT_STRATEGY", value)]).strategy, strategy);
    }
    for (value, submodules) in [
        ("none", Submodules::None),
        ("normal", Submodules::Normal),
        ("recursive", Submodules::Recursive),
    ] {
        let options = read(&[("GIT_SUBMODULE_STRATEGY", value)]);
        assert_eq!(options.submodules, submodules);
    }
    for (value, checkout) in [("true", true), ("FALSE", false), ("0", false), ("1", true)] {
        assert_eq!(read(&[("GIT_CHECKOUT", value)]).checkout, checkout);
    }
    let options = read(&[
        ("GIT_DEPTH", "3"),
        ("GIT_FETCH_EXTRA_FLAGS", "--tags  --jobs=2"),
        ("GIT_CLEAN_FLAGS", "-ffd -e cache/"),
        ("GIT_SUBMODULE_PATHS", "one two"),
        ("GIT_SUBMODULE_UPDATE_FLAGS", "--jobs 4"),
        ("GIT_SUBMODULE_FORCE_HTTPS", "true"),
    ]);
    assert_eq!((options.depth, options.submodule_depth), (3, 3));
    assert_eq!(options.fetch_flags, words("--tags --jobs=2"));
    assert_eq!(options.clean_flags, Some(words("-ffd -e cache/")));
    assert_eq!(options.submodule_paths, words("one two"));
    assert_eq!(options.submodule_update_flags, words("--jobs 4"));
    assert!(options.submodule_force_https);
    let options = read(&[("GIT_SUBMODULE_DEPTH", "7")]);
    assert_eq!((options.depth, options.submodule_depth), (20, 7));
    let options = read(&[
        ("GIT_CLEAN_FLAGS", "none"),
        ("GIT_FETCH_EXTRA_FLAGS", "none"),
    ]);
    assert_eq!(options.clean_flags, None);
    assert!(options.fetch_flags.is_empty());
}

#[test]
fn attempts_are_one_to_ten() {
    for (value, attempts, warns) in [
        ("1", 1, false),
        ("3", 3, false),
        ("10", 10, false),
        ("0", 1, true),
        ("-4", 1, true),
        ("11", 10, true),
        ("many", 1, true),
        ("", 1, false),
    ] {
        let options = read(&[("GET_SOURCES_ATTEMPTS", value)]);
        assert_eq!(options.attempts, attempts, "{value}");
        assert_eq!(!options.warnings.is_empty(), warns, "{value}");
    }
}

#[test]
fn what_makes_no_sense_is_told_and_does_not_count() {
    for (key, value) in [
        ("GIT_STRATEGY", "rsync"),
        ("GIT_CHECKOUT", "perhaps"),
        ("GIT_SUBMODULE_STRATEGY", "deep"),
    ] {
        let options = read(&[(key, value)]);
        let [warning] = &options.warnings[..] else {
            panic!("{key}: {:?}", options.warnings);
        };
        assert!(
            warning.contains(key) && warning.contains(value),
            "{warning}"
        );
        let warnings = Vec::new();
        assert_eq!(
            Options {
                warnings,
                ..options
            },
            read(&[]),
            "{key}"
        );
    }
}
