//! The variables of a job: those that GitLab sent, and those that a runner adds itself.
//!
//! | | in this order, so that the last one of a name counts |
//! |---|---|
//! | 1 | `CI_JOB_IMAGE`, `CI_RUNNER_SHORT_TOKEN`, those of [`RunnerBuilder::variable`] |
//! | 2 | `CI_BUILDS_DIR`, `CI_PROJECT_DIR`, `CI_CONCURRENT_ID`, `CI_CONCURRENT_PROJECT_ID`, `CI_SERVER`, `CI_JOB_STATUS`, `CI_JOB_TIMEOUT` |
//! | 3 | GitLab's |
//! | 4 | `CI_SHARED_ENVIRONMENT` or `CI_DISPOSABLE_ENVIRONMENT`, `CI_RUNNER_VERSION`, `CI_RUNNER_REVISION`, `CI_RUNNER_EXECUTABLE_ARCH` |
//! | 5 | `RUNNER_TEMP_PROJECT_DIR`, and `CI_JOB_STATUS` once the script is over |
//!
//! [`RunnerBuilder::variable`]: crate::RunnerBuilder::variable

use std::{
    borrow::Cow,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use super::files::FileVariables;
use crate::{
    protocol::{Expander, JobPayload, JobVariable, Meaning, ScriptStatus, has_references},
    sync::lock,
};

/// So many bytes of expanded values are masked, which is far beyond all secrets: a masker takes many
/// times that, and a few variables that double each other would make a gigabyte of them.
const MAX_MASKED: usize = 256 << 10;
/// But one with so few bytes is masked whatever the others take.
const ALWAYS_MASKED: usize = 1 << 10;

/// Few jobs have more secrets.
const SECRETS: usize = 16;

/// A variable of a job.
///
/// What it gives out lives as long as the job, not as the `Variable`. `Display` prints the value,
/// or a placeholder if it is masked; `Debug` prints no value at all.
#[derive(Clone, Copy)]
pub struct Variable<'a>(pub(super) &'a JobVariable);

impl<'a> Variable<'a> {
    /// Its name.
    pub fn key(&self) -> &'a str {
        &self.0.key
    }

    /// Its value, as GitLab sent it: references to other variables are not expanded. See
    /// [`Job::expand`](crate::job::Job::expand) and [`Job::env`](crate::job::Job::env).
    pub fn value(&self) -> &'a str {
        &self.0.value
    }

    /// Whether the value is kept out of the log.
    pub fn masked(&self) -> bool {
        self.0.masked
    }

    /// Whether it may be shown to everybody.
    pub fn public(&self) -> bool {
        self.0.public
    }

    /// Whether the job expects the value in a file, and the name of that file in the variable.
    pub fn file(&self) -> bool {
        self.0.file
    }

    /// Whether references to other variables in the value stay as they are.
    pub fn raw(&self) -> bool {
        self.0.raw
    }
}

impl fmt::Display for Variable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.masked() {
            "[MASKED]"
        } else {
            self.value()
        })
    }
}

impl fmt::Debug for Variable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Variable")
            .field("key", &self.key())
            .field("masked", &self.masked())
            .field("public", &self.public())
            .field("file", &self.file())
            .field("raw", &self.raw())
            .finish_non_exhaustive()
    }
}

/// What a runner adds to the variables of each of its jobs.
pub(crate) struct RunnerVariables {
    pub(crate) short_token: String,
    /// Those of the runner's author.
    pub(crate) own: Vec<(String, String)>,
    /// Behind GitLab's.
    pub(crate) after: Vec<(&'static str, String)>,
    /// The time limit of a job for which GitLab names none.
    pub(crate) time_limit: Duration,
}

/// Which of the runner's jobs a job is among those that run at the same time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Concurrent {
    /// Among all.
    pub(crate) id: usize,
    /// Among those of its project.
    pub(crate) project_id: usize,
}

/// All variables of one job.
pub(crate) struct JobVariables {
    payload: Arc<JobPayload>,
    runner: Arc<RunnerVariables>,
    concurrent: Concurrent,
    dir: PathBuf,
    files: FileVariables,
    now: Mutex<Now>,
}

/// What changes while the job runs.
#[derive(Default)]
struct Now {
    status: ScriptStatus,
    seen: Option<Seen>,
    /// Whether the log says which variables are left out.
    warned: bool,
}

/// Where the scripts of a job see its directories.
#[derive(Clone)]
struct Seen {
    project: String,
    temp: String,
    builds: String,
}

impl JobVariables {
    pub(crate) fn new(
        payload: Arc<JobPayload>,
        runner: Arc<RunnerVariables>,
        concurrent: Concurrent,
        dir: PathBuf,
    ) -> Self {
        Self {
            payload,
            runner,
            concurrent,
            files: FileVariables::beside(&dir),
            dir,
            now: Mutex::default(),
        }
    }

    pub(crate) fn payload(&self) -> &JobPayload {
        &self.payload
    }

    /// The job's directory on this machine.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn files(&self) -> &FileVariables {
        &self.files
    }

    pub(crate) fn set_status(&self, status: ScriptStatus) {
        lock(&self.now).status = status;
    }

    pub(super) fn status(&self) -> ScriptStatus {
        lock(&self.now).status
    }

    pub(super) fn set_dirs(&self, project: &Path, temp: &Path) {
        lock(&self.now).seen = Some(Seen::at(project, temp));
    }

    /// Whether this is asked for the first time.
    pub(super) fn warns(&self) -> bool {
        !std::mem::replace(&mut lock(&self.now).warned, true)
    }

    /// The time that the job may take.
    pub(super) fn time_limit(&self) -> Duration {
        self.payload.time_limit(self.runner.time_limit)
    }

    /// Where the scripts see the project.
    pub(crate) fn project_dir(&self) -> PathBuf {
        let seen = lock(&self.now).seen.as_ref().map(|it| it.project.clone());
        seen.map_or_else(|| self.dir.clone(), PathBuf::from)
    }

    /// `text` with all references to variables replaced by their values.
    pub(crate) fn expand(&self, text: &str) -> String {
        if !has_references(text) {
            return text.to_owned();
        }
        self.expander().text(text).0
    }

    /// The lines of a step as its handler gets them. GitLab writes those of `release` itself, and
    /// leaves the references in them to the runner, as they may be in no shell's quotes.
    pub(crate) fn lines_of(&self, step: &str, lines: Arc<[String]>) -> Arc<[String]> {
        if step != "release" || !lines.iter().any(|line| has_references(line)) {
            return lines;
        }
        lines.iter().map(|line| self.expand(line)).collect()
    }

    /// All variables that count.
    pub(super) fn expander(&self) -> Expander<'_> {
        let now = lock(&self.now);
        let (status, seen) = (now.status, now.seen.clone());
        drop(now);
        let seen = seen.unwrap_or_else(|| Seen::at(&self.dir, self.files.dir()));
        let number = |number: usize| Meaning::Literal(number.to_string().into());
        let fixed = |text| Meaning::Literal(Cow::Borrowed(text));
        let is_over = status != ScriptStatus::Running;
        let status = ("CI_JOB_STATUS", fixed(status.as_str()));
        let limit = self.time_limit().as_secs().to_string();
        let image = self.payload.image.as_ref();
        let runner = &*self.runner;
        let before = image
            .map(|image| ("CI_JOB_IMAGE", Meaning::Text(&image.name)))
            .into_iter()
            .chain([("CI_RUNNER_SHORT_TOKEN", fixed(&runner.short_token))]);
        let own = runner.own.iter();
        let own = own.map(|(key, value)| (key.as_str(), Meaning::Text(value)));
        let defaults = [
            (
                "CI_BUILDS_DIR",
                Meaning::Literal(seen.builds.clone().into()),
            ),
            (
                "CI_PROJECT_DIR",
                Meaning::Literal(seen.project.clone().into()),
            ),
            ("CI_CONCURRENT_ID", number(self.concurrent.id)),
            (
                "CI_CONCURRENT_PROJECT_ID",
                number(self.concurrent.project_id),
            ),
            ("CI_SERVER", fixed("yes")),
            status.clone(),
            ("CI_JOB_TIMEOUT", Meaning::Literal(limit.into())),
        ];
        let after = runner.after.iter();
        let after = after.map(|(key, value)| (*key, fixed(value)));
        let temp = Meaning::Literal(seen.temp.clone().into());
        let variables = before
            .chain(own)
            .chain(defaults)
            .chain(self.payload.meanings(|key| seen.file(key)))
            .chain(after)
            .chain([("RUNNER_TEMP_PROJECT_DIR", temp)])
            .chain(is_over.then_some(status));
        Expander::new(variables)
    }

    /// Every text that must be kept out of the log: those of the payload, and what masked variables
    /// are once they are expanded. The masker trims them, and drops what comes twice.
    pub(crate) fn mask_values(&self) -> Vec<Cow<'_, str>> {
        let mut values = Vec::with_capacity(SECRETS);
        values.extend(self.payload.secrets());
        let variables = self.payload.variables.iter();
        let mut expandable = variables
            .filter(|it| it.masked && !it.raw && has_references(&it.value))
            .peekable();
        if expandable.peek().is_none() {
            return values;
        }
        let mut expander = self.expander();
        let mut room = MAX_MASKED;
        for variable in expandable {
            let (value, whole) = expander.value(&variable.key, &variable.value);
            // What is not whole is in no environment.
            if whole && value.len() <= room.max(ALWAYS_MASKED) {
                room = room.saturating_sub(value.len());
                values.push(value.into());
            }
        }
        values
    }
}

impl Seen {
    fn at(project: &Path, temp: &Path) -> Self {
        Self {
            project: text(project),
            temp: text(temp),
            builds: text(project.parent().unwrap_or(project)),
        }
    }

    /// What stands for a variable that is a file; one that gets no file stands for nothing.
    fn file(&self, key: &str) -> String {
        match is_name(key) {
            true => text(&Path::new(&self.temp).join(key)),
            false => String::new(),
        }
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Whether a shell takes it as the name of a variable.
pub(super) fn is_name(key: &str) -> bool {
    !key.is_empty()
        && !key.starts_with(|c: char| c.is_ascii_digit())
        && key
            .bytes()
            .all(|byte| byte == b'_' || byte.is_ascii_alphanumeric())
}
