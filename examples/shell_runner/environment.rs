//! What the scripts of a job find in their environment.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fmt,
    path::{Path, PathBuf},
};

use gitlab_runner::job::Job;

/// All that the scripts get to see of the environment of this program. The rest is none of their
/// business, least of all the runner's token.
const PASSED_ON: &[&str] = &["HOME", "LANG", "PATH", "TERM", "USER"];

/// The variables of a job, ready for a process.
pub(crate) struct Environment {
    variables: BTreeMap<String, String>,
    files: Vec<(PathBuf, String)>,
}

impl Environment {
    /// The variables of `job`, which runs in `project`; the files among them go to `temporary`.
    pub(crate) fn new(job: &Job, project: &Path, temporary: &Path) -> Self {
        let text = |path: &Path| path.display().to_string();
        let passed_on = PASSED_ON
            .iter()
            .filter_map(|&key| Some((key, env::var(key).ok()?)));
        let mut values: BTreeMap<&str, String> = passed_on.collect();
        values.insert("CI_BUILDS_DIR", text(project.parent().unwrap_or(project)));
        values.insert("CI_PROJECT_DIR", text(project));
        values.insert("CI_SERVER", "yes".to_owned());
        let mut files = Vec::new();
        let mut references = BTreeSet::new();
        for variable in job.variables() {
            let (key, value) = (variable.key(), variable.value());
            // Neither could be given to a process, or be read by bash.
            if !is_name(key) || value.contains('\0') {
                continue;
            }
            if variable.file() {
                let path = temporary.join(key);
                values.insert(key, text(&path));
                files.push((path, value.to_owned()));
                continue;
            }
            values.insert(key, value.to_owned());
            // What is to be masked must stay as the log knows it.
            if !variable.raw() && !variable.masked() {
                references.insert(key);
            }
        }
        values.insert("CI_SHARED_ENVIRONMENT", "true".to_owned());
        values.insert("RUNNER_TEMP_PROJECT_DIR", text(temporary));

        let expanded = |(&key, value): (&&str, &String)| match references.contains(key) {
            true => (key.to_owned(), expand(value, &values)),
            false => (key.to_owned(), value.clone()),
        };
        Self {
            variables: values.iter().map(expanded).collect(),
            files,
        }
    }

    pub(crate) fn variables(&self) -> &BTreeMap<String, String> {
        &self.variables
    }

    /// The files that have to be there, and what is in them.
    pub(crate) fn files(&self) -> &[(PathBuf, String)] {
        &self.files
    }
}

/// Without the values: there are secrets among them.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

fn is_name(key: &str) -> bool {
    !key.starts_with(|c: char| c.is_ascii_digit())
        && !key.is_empty()
        && key
            .bytes()
            .all(|byte| byte == b'_' || byte.is_ascii_alphanumeric())
}

/// Replaces `$NAME` and `${NAME}` by the value as GitLab sent it (one level, as in GitLab's own
/// runner), and `$$` by a dollar.
fn expand(text: &str, values: &BTreeMap<&str, String>) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        expanded += before;
        if let Some(after) = after.strip_prefix('$') {
            expanded.push('$');
            rest = after;
            continue;
        }
        let braced = after
            .strip_prefix('{')
            .and_then(|after| after.split_once('}'));
        let (name, after) = braced.unwrap_or_else(|| {
            let end = after.find(|c: char| c != '_' && !c.is_ascii_alphanumeric());
            after.split_at(end.unwrap_or(after.len()))
        });
        if name.is_empty() {
            expanded.push('$');
        } else if let Some(value) = values.get(name) {
            expanded += value;
        }
        rest = after;
    }
    expanded + rest
}
