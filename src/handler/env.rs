//! What a shell needs of the variables of a job.

use std::{
    collections::{BTreeMap, btree_map},
    fmt,
};

use super::{
    files::FileVariable,
    variables::{JobVariables, is_name},
};
use crate::protocol::{Expander, Meaning};

/// So many variables are named in the log when they are left out.
const NAMED: usize = 10;
/// So much of the name of each.
const NAME_LEN: usize = 60;

/// The environment of a job's processes, from [`Job::env`](crate::job::Job::env): names and values.
///
/// ```no_run
/// # async fn step(job: &gitlab_runner::job::Job) -> Result<(), Box<dyn std::error::Error>> {
/// let mut bash = std::process::Command::new("bash");
/// bash.env_clear().envs(&job.env().await?);
/// # Ok(())
/// # }
/// ```
///
/// `Debug` shows no value.
#[derive(Clone)]
pub struct Environment {
    values: BTreeMap<String, String>,
    skipped: Vec<SkippedVariable>,
}

/// A variable that is not in the environment of the job's processes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SkippedVariable {
    /// Its name, as GitLab sent it.
    pub key: String,
    /// Why it is left out.
    pub reason: SkipReason,
}

/// Why a variable is not in the environment of the job's processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SkipReason {
    /// Its name is none for a shell: there is something else in it than letters, digits and
    /// underscores, or it begins with a digit.
    Name,
    /// There is a NUL in its value, which no process can be given.
    Nul,
    /// Expanded, its value has more than a megabyte, or is the last one of too many.
    TooLong,
}

impl Environment {
    /// The value of this variable.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// All names and values.
    pub fn values(&self) -> &BTreeMap<String, String> {
        &self.values
    }

    /// The same, to be kept.
    pub fn into_values(self) -> BTreeMap<String, String> {
        self.values
    }

    /// The variables that are left out, by name.
    pub fn skipped(&self) -> &[SkippedVariable] {
        &self.skipped
    }

    /// The environment, and the files that it names.
    pub(super) fn of(variables: &JobVariables) -> (Self, Vec<FileVariable>) {
        let mut expander = variables.expander();
        let mut environment = Self {
            values: BTreeMap::new(),
            skipped: Vec::new(),
        };
        let mut files = Vec::new();
        for (key, meaning) in expander.variables() {
            match value(&mut expander, key, meaning) {
                Ok((value, content)) => {
                    let key = key.to_owned();
                    if let Some(content) = content {
                        let key = key.clone();
                        files.push(FileVariable { key, content });
                    }
                    environment.values.insert(key, value);
                }
                Err(reason) => {
                    let key = key.to_owned();
                    environment.skipped.push(SkippedVariable { key, reason });
                }
            }
        }
        (environment, files)
    }

    /// What to say in the log of those that are left out.
    pub(super) fn warning(&self) -> Option<String> {
        if self.skipped.is_empty() {
            return None;
        }
        let mut text = "variables that no shell can be given are left out:".to_owned();
        for (number, SkippedVariable { key, reason }) in self.skipped.iter().enumerate() {
            if number == NAMED {
                text += &format!(" and {} more", self.skipped.len() - NAMED);
                break;
            }
            let name: String = key.chars().take(NAME_LEN).collect();
            let comma = if number == 0 { "" } else { "," };
            text += &format!("{comma} {name:?} ({reason})");
        }
        Some(text)
    }
}

/// The value of a variable, and what belongs into its file.
fn value<'a>(
    expander: &mut Expander<'a>,
    key: &'a str,
    meaning: Meaning<'a>,
) -> Result<(String, Option<String>), SkipReason> {
    if !is_name(key) {
        return Err(SkipReason::Name);
    }
    let mut expand = |text: &str| match expander.value(key, text) {
        (text, true) => Ok(text),
        (_, false) => Err(SkipReason::TooLong),
    };
    let (value, content) = match meaning {
        Meaning::Literal(text) => (text.into_owned(), None),
        Meaning::Text(text) => (expand(text)?, None),
        Meaning::File { path, variable } if variable.raw => (path, Some(variable.value.clone())),
        Meaning::File { path, variable } => (path, Some(expand(&variable.value)?)),
    };
    if value.contains('\0') {
        return Err(SkipReason::Nul);
    }
    Ok((value, content))
}

impl<'a> IntoIterator for &'a Environment {
    type Item = (&'a String, &'a String);
    type IntoIter = btree_map::Iter<'a, String, String>;

    fn into_iter(self) -> Self::IntoIter {
        self.values.iter()
    }
}

impl IntoIterator for Environment {
    type Item = (String, String);
    type IntoIter = btree_map::IntoIter<String, String>;

    fn into_iter(self) -> Self::IntoIter {
        self.values.into_iter()
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&String> = self.values.keys().collect();
        f.debug_struct("Environment")
            .field("names", &names)
            .field("skipped", &self.skipped)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "no name for a shell",
            Self::Nul => "NUL in its value",
            Self::TooLong => "too long",
        })
    }
}
