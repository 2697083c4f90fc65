//! Which of the files that a job offers belong to an artifact.

use std::{error::Error, fmt, path::Path};

use super::glob::{Glob, GlobError};

/// The patterns of an artifact, and how many files each of them found.
#[derive(Debug)]
pub(crate) struct Selection {
    paths: Vec<Rule>,
    excludes: Vec<Rule>,
    untracked: Option<usize>,
}

#[derive(Debug)]
struct Rule {
    pattern: String,
    glob: Glob,
    files: usize,
}

/// A pattern that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PatternProblem {
    pub(crate) pattern: String,
    pub(crate) error: GlobError,
}

impl fmt::Display for PatternProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pattern, error } = self;
        write!(f, "the pattern `{pattern}` is not used: {error}")
    }
}

impl Error for PatternProblem {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.error)
    }
}

impl Selection {
    /// What the patterns `paths` match but none of `excludes`; with `untracked`, also files that
    /// git does not know. Patterns are relative to `dir`, have their variables expanded, and mean
    /// with a directory all that is below it. Those that cannot be used are left out and reported.
    pub(crate) fn new(
        dir: &Path,
        paths: &[impl AsRef<str>],
        excludes: &[impl AsRef<str>],
        untracked: bool,
    ) -> (Self, Vec<PatternProblem>) {
        let dir = dir.to_string_lossy();
        let dir = if cfg!(windows) {
            dir.replace('\\', "/").into()
        } else {
            dir
        };
        let mut problems = Vec::new();
        let selection = Self {
            paths: rules(paths, &dir, &mut problems),
            excludes: rules(excludes, &dir, &mut problems),
            untracked: untracked.then_some(0),
        };
        (selection, problems)
    }

    /// Whether a file belongs to the artifact; if so, it is counted. `name` is a clean one.
    pub(crate) fn take(&mut self, name: &str, is_untracked: bool) -> bool {
        let path: Vec<&str> = name.split('/').collect();
        let by_git = is_untracked && self.untracked.is_some();
        if !by_git && !self.paths.iter().any(|rule| rule.glob.matches(&path)) {
            return false;
        }
        let mut excludes = self.excludes.iter_mut();
        if let Some(rule) = excludes.find(|rule| rule.glob.matches(&path)) {
            rule.files += 1;
            return false;
        }
        for rule in &mut self.paths {
            rule.files += usize::from(rule.glob.matches(&path));
        }
        if let Some(files) = self.untracked.as_mut().filter(|_| by_git) {
            *files += 1;
        }
        true
    }

    /// For the log, in GitLab's words: what each pattern found and took away. `true` stands with
    /// those that found nothing.
    pub(crate) fn report(&self) -> impl Iterator<Item = (bool, String)> {
        let found = self.paths.iter().map(|Rule { pattern, files, .. }| {
            let what = "matching artifact files and directories";
            match files {
                0 => {
                    let advice =
                        "Ensure that the artifact path is relative to the working directory";
                    (true, format!("{pattern}: no matching files. {advice}"))
                }
                files => (false, format!("{pattern}: found {files} {what}")),
            }
        });
        let untracked = self.untracked.iter();
        let untracked = untracked.map(|files| (false, format!("untracked: found {files} files")));
        let excludes = self.excludes.iter().filter(|rule| rule.files > 0);
        let excluded = excludes.map(|Rule { pattern, files, .. }| {
            (false, format!("{pattern}: excluded {files} files"))
        });
        found.chain(untracked).chain(excluded)
    }
}

fn rules(patterns: &[impl AsRef<str>], dir: &str, problems: &mut Vec<PatternProblem>) -> Vec<Rule> {
    let mut rules = Vec::new();
    for pattern in patterns {
        let pattern = pattern.as_ref().to_owned();
        match Glob::new(&pattern, dir) {
            Ok(glob) => rules.push(Rule {
                pattern,
                glob,
                files: 0,
            }),
            Err(error) => problems.push(PatternProblem { pattern, error }),
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: [&str; 6] = [
        "foo/file.txt",
        "foo/bar/file.txt",
        "foo/bar/baz/file.txt",
        "foo/bar/readme.md",
        "b.txt",
        ".git/config",
    ];

    fn select(paths: &[&str], excludes: &[&str]) -> (Vec<&'static str>, Vec<String>) {
        let (mut selection, problems) =
            Selection::new(Path::new("/builds/project"), paths, excludes, false);
        assert_eq!(problems, []);
        let mut files = FILES.to_vec();
        files.retain(|file| selection.take(file, false));
        let report = selection.report().map(|(_, line)| line).collect();
        (files, report)
    }

    #[test]
    fn the_files_of_a_pattern_are_taken_and_counted() {
        let (files, report) = select(&["foo/**/*.txt", "*.txt", "nothing"], &[]);
        assert_eq!(
            files,
            [
                "foo/file.txt",
                "foo/bar/file.txt",
                "foo/bar/baz/file.txt",
                "b.txt"
            ]
        );
        assert_eq!(
            report,
            [
                "foo/**/*.txt: found 3 matching artifact files and directories",
                "*.txt: found 1 matching artifact files and directories",
                "nothing: no matching files. Ensure that the artifact path is relative to the working directory",
            ]
        );
    }

    #[test]
    fn what_is_excluded_is_not_taken() {
        let (files, report) = select(&["foo", "*.txt"], &["foo/bar/baz/", "**/*.md", "b.txt"]);
        assert_eq!(files, ["foo/file.txt", "foo/bar/file.txt"]);
        assert_eq!(
            report,
            [
                "foo: found 2 matching artifact files and directories",
                "*.txt: no matching files. Ensure that the artifact path is relative to the working directory",
                "foo/bar/baz/: excluded 1 files",
                "**/*.md: excluded 1 files",
                "b.txt: excluded 1 files",
            ]
        );
        assert!(select(&["**"], &["**"]).0.is_empty());
        assert!(select(&[], &[]).0.is_empty());
    }

    #[test]
    fn a_bad_pattern_is_reported_and_the_others_count() {
        let dir = Path::new("/builds/project");
        let (mut selection, problems) = Selection::new(dir, &["", "[", "../x", "a"], &["{"], false);
        assert!(selection.take("a", false));
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            problems,
            [
                "the pattern `` is not used: it is empty",
                "the pattern `[` is not used: it has a `[` without a `]`",
                "the pattern `../x` is not used: it lies outside of the job's directory",
                "the pattern `{` is not used: it has a `{` without a `}`",
            ]
        );
    }

    #[test]
    fn untracked_files_are_taken_where_they_are_wanted() {
        let dir = Path::new("/p");
        let none: &[&str] = &[];
        let (mut wanted, _) = Selection::new(dir, none, &["x"], true);
        assert!(wanted.take("a", true) && !wanted.take("b", false) && !wanted.take("x", true));
        assert_eq!(
            wanted.report().next().unwrap().1,
            "untracked: found 1 files"
        );
        let (mut unwanted, _) = Selection::new(dir, none, none, false);
        assert!(!unwanted.take("a", true));
    }
}
