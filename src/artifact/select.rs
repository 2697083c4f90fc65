//! Which of the files that a job offers belong to an artifact.

use std::{error::Error, fmt, path::Path};

use super::glob::{Glob, GlobError};

/// All patterns of an artifact together may spell out to so many bytes: in memory they take some
/// ten times as much, and each file is matched with all of them.
const MAX_SIZE: usize = 2 << 20;
/// Of a pattern that cannot be used so many characters are shown.
const MAX_SHOWN: usize = 500;

/// The patterns of an artifact, and how many files each of them found.
#[derive(Debug)]
pub(crate) struct Selection {
    dir: String,
    paths: Vec<Rule>,
    excludes: Vec<Rule>,
    untracked: Option<usize>,
    size: usize,
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

impl PatternProblem {
    /// Whether there is nothing that the pattern could mean.
    pub(crate) fn means_nothing(&self) -> bool {
        matches!(self.error, GlobError::Empty | GlobError::Outside)
    }
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
    /// Nothing yet in `dir`; with `untracked`, files that git does not know.
    pub(crate) fn empty(dir: &Path, untracked: bool) -> Self {
        let dir = dir.to_string_lossy().into_owned();
        Self {
            dir: if cfg!(windows) {
                dir.replace('\\', "/")
            } else {
                dir
            },
            paths: Vec::new(),
            excludes: Vec::new(),
            untracked: untracked.then_some(0),
            size: 0,
        }
    }

    /// Also what this pattern matches. It is relative to the directory, has its variables expanded,
    /// and means with a directory all that is below it. One that cannot be used is left out.
    pub(crate) fn add(&mut self, pattern: String) -> Result<(), PatternProblem> {
        let rule = self.rule(pattern)?;
        self.paths.push(rule);
        Ok(())
    }

    /// But not what this pattern matches. What one would take away that cannot be used is not known.
    pub(crate) fn exclude(&mut self, pattern: String) -> Result<(), PatternProblem> {
        let rule = self.rule(pattern)?;
        self.excludes.push(rule);
        Ok(())
    }

    fn rule(&mut self, mut pattern: String) -> Result<Rule, PatternProblem> {
        let glob = Glob::new(&pattern, &self.dir).and_then(|glob| {
            let size = self.size + glob.size();
            if size > MAX_SIZE {
                return Err(GlobError::TooLarge);
            }
            self.size = size;
            Ok(glob)
        });
        match glob {
            Ok(glob) => Ok(Rule {
                pattern,
                glob,
                files: 0,
            }),
            Err(error) => {
                if let Some((end, _)) = pattern.char_indices().nth(MAX_SHOWN) {
                    pattern.truncate(end);
                    pattern.push('…');
                }
                Err(PatternProblem { pattern, error })
            }
        }
    }

    /// What all patterns spell out to, in bytes: how long a file takes to be looked at.
    pub(super) fn size(&self) -> usize {
        self.size
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

#[cfg(test)]
impl Selection {
    /// What the patterns `paths` match but none of `excludes`, and which of them cannot be used.
    pub(super) fn new(
        dir: &Path,
        paths: &[&str],
        excludes: &[&str],
        untracked: bool,
    ) -> (Self, Vec<PatternProblem>) {
        let mut selection = Self::empty(dir, untracked);
        let mut problems = Vec::new();
        for path in paths {
            problems.extend(selection.add((*path).to_owned()).err());
        }
        for exclude in excludes {
            problems.extend(selection.exclude((*exclude).to_owned()).err());
        }
        (selection, problems)
    }
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
    fn patterns_that_mean_too_much_together_are_left_out() {
        let mut selection = Selection::empty(Path::new("/p"), false);
        let braces = "{a,b}".repeat(9) + "/" + &"x".repeat(1000);
        let mut used = 0;
        while selection.add(braces.clone()).is_ok() {
            used += 1;
        }
        assert_eq!(used, 4);
        assert!(selection.add("y".to_owned()).is_ok());
        assert!(selection.take("y", false) && !selection.take("z", false));
        let problem = selection.exclude("é".repeat(1 << 20)).unwrap_err();
        assert!(problem.to_string().len() < 2000);
        assert_eq!(problem.error, GlobError::TooLarge);
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
