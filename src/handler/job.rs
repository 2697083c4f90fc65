//! What a handler is given: the [`Job`], its variables and its dependencies.

use std::{
    any::Any,
    collections::BTreeMap,
    fmt,
    future::{self, Future},
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{channel::oneshot, future::BoxFuture};
use tokio_util::sync::CancellationToken;

pub use super::section::{Section, SectionBuilder};
use super::{
    JobResult,
    download::{Fetch, FetchGuard, Kept},
    files::FileVariable,
    log::{Colour, JobLog},
    scope::Scope,
    variables::JobVariables,
};
pub use super::{
    download::DownloadError,
    env::{Environment, SkipReason, SkippedVariable},
    files::EnvError,
    variables::Variable,
};
use crate::{
    Time,
    adapter::{Adapter, unblock},
    artifact::Artifact,
    ids::JobId,
    protocol::{DependencyInfo, Failure, InputInfo, InputValue, JobPayload, ScriptStatus},
    spool::{SpoolFile, Stop, StopOnDrop},
    sync::lock,
    trace::TraceStream,
};

/// A job that GitLab has handed to this runner.
///
/// Everything that waits, sleeps or blocks through it runs on every runtime that the crate has an
/// adapter for, and in virtual time in the simulator. `Debug` shows no variable and no token.
pub struct Job {
    variables: Arc<JobVariables>,
    state: Arc<JobState>,
    scope: Scope,
    log: Arc<JobLog>,
    adapter: Arc<dyn Adapter>,
    fetch: Fetch,
    /// What was downloaded, by the number of the job that made it.
    fetched: Mutex<BTreeMap<JobId, Kept>>,
}

impl Job {
    pub(crate) fn new(
        variables: Arc<JobVariables>,
        state: Arc<JobState>,
        scope: Scope,
        log: Arc<JobLog>,
        adapter: Arc<dyn Adapter>,
        fetch: Fetch,
    ) -> Self {
        Self {
            variables,
            state,
            scope,
            log,
            adapter,
            fetch,
            fetched: Mutex::default(),
        }
    }

    /// GitLab's number of the job.
    pub fn id(&self) -> u64 {
        self.payload().id.0
    }

    /// The name of the job in `.gitlab-ci.yml`; empty if GitLab did not say.
    pub fn name(&self) -> &str {
        &self.payload().job_info.name
    }

    /// The name of its stage; empty if GitLab did not say.
    pub fn stage(&self) -> &str {
        &self.payload().job_info.stage
    }

    /// The time that it may take in all.
    pub fn timeout(&self) -> Duration {
        self.variables.time_limit()
    }

    /// The value of its input with this name.
    pub fn input(&self, key: &str) -> Option<&InputValue> {
        let inputs = self.payload().inputs.iter();
        let mut named = inputs.filter(|InputInfo { key: name, .. }| name == key);
        named.next_back().map(|input| &input.value)
    }

    /// The commands of its hook with this name, `pre_get_sources_script` or
    /// `post_get_sources_script`; none if it has no such hook.
    pub fn hook(&self, name: &str) -> &[String] {
        let mut hooks = self.payload().hooks.iter();
        let hook = hooks.find(|hook| hook.name == name);
        hook.map_or(&[], |hook| &hook.script)
    }

    /// Writes bytes into the log of the job, as they are: no line end is added.
    ///
    /// Never fails and never waits for the network. Masked values are replaced, bytes that are not
    /// UTF-8 become U+FFFD, and beyond the log limit nothing is kept.
    pub fn trace(&self, data: impl AsRef<[u8]>) {
        self.log.write(TraceStream::Stdout, data.as_ref());
    }

    /// As [`trace`](Self::trace), for what the job said on its standard error. That makes a difference
    /// only where each line has a [timestamp](crate::RunnerBuilder::timestamps).
    pub fn trace_stderr(&self, data: impl AsRef<[u8]>) {
        self.log.write(TraceStream::Stderr, data.as_ref());
    }

    /// A part of the log that GitLab's viewer can fold, with the time that it took.
    ///
    /// The name may have letters, digits, `_`, `.` and `-`; anything else becomes `_`.
    ///
    /// ```no_run
    /// # use gitlab_runner::{job::Job, outputln};
    /// # fn build(job: &Job) {
    /// let section = job.section("build").title("Building").collapsed().start();
    /// outputln!("compiling");
    /// section.end();
    /// # }
    /// ```
    pub fn section(&self, name: &str) -> SectionBuilder {
        SectionBuilder::new(
            Arc::clone(&self.log),
            self.payload().features.trace_sections,
            name,
        )
    }

    /// GitLab's variable with this key. Of several, the last one counts.
    ///
    /// For what a script sees, with the variables that a runner adds, see [`expand`](Self::expand)
    /// and [`env`](Self::env).
    pub fn variable(&self, key: &str) -> Option<Variable<'_>> {
        self.payload().variable(key).map(Variable)
    }

    /// All of GitLab's variables in its order, each key once with the definition that counts.
    pub fn variables(&self) -> impl Iterator<Item = Variable<'_>> {
        let mut last = BTreeMap::new();
        for (at, variable) in self.payload().variables.iter().enumerate() {
            last.insert(&variable.key, at);
        }
        let variables = self.payload().variables.iter().enumerate();
        variables
            .filter(move |(at, variable)| last.get(&variable.key) == Some(at))
            .map(|(_, variable)| Variable(variable))
    }

    /// `text` with all references to variables replaced by their values: `$NAME`, `${NAME}` and
    /// `%NAME%`.
    ///
    /// Beside GitLab's variables there are those that a runner adds: `CI_PROJECT_DIR`,
    /// `CI_BUILDS_DIR`, `RUNNER_TEMP_PROJECT_DIR`, `CI_SERVER`, `CI_JOB_STATUS`, `CI_JOB_TIMEOUT`,
    /// `CI_JOB_IMAGE`, `CI_CONCURRENT_ID`, `CI_CONCURRENT_PROJECT_ID`, `CI_RUNNER_SHORT_TOKEN`,
    /// `CI_RUNNER_VERSION`, `CI_RUNNER_REVISION` and `CI_RUNNER_EXECUTABLE_ARCH` if the runner was
    /// told, `CI_SHARED_ENVIRONMENT` or (without the feature `shared`)
    /// `CI_DISPOSABLE_ENVIRONMENT`, and those of [`RunnerBuilder::variable`]. The rules are those of
    /// [`JobPayload::expand`]: references in values are followed, but not in those of raw variables.
    /// File variables stand for their paths; the files are there once [`env`](Self::env) was
    /// awaited.
    ///
    /// [`RunnerBuilder::variable`]: crate::RunnerBuilder::variable
    pub fn expand(&self, text: &str) -> String {
        self.variables.expand(text)
    }

    /// The environment for a process of the job: all variables, expanded, with `CI_JOB_STATUS` as
    /// it is in the current step.
    ///
    /// File variables are written anew (mode 0600, so that only the user of the runner can read
    /// them), and are paths here. Variables that no process can be given are left out: see
    /// [`Environment::skipped`]; for those a warning is written into the log, once.
    ///
    /// No thread of the runtime is blocked, and a job without file variables costs no file access:
    /// for it, `RUNNER_TEMP_PROJECT_DIR` is there only if [`temp_dir`](Self::temp_dir) was awaited.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub async fn env(&self) -> Result<Environment, EnvError> {
        let (environment, files) = Environment::of(&self.variables);
        if !files.is_empty() {
            self.write_files(files).await?;
        }
        if let Some(warning) = environment.warning()
            && self.variables.warns()
        {
            self.log.coloured(Colour::Warning, &warning);
        }
        Ok(environment)
    }

    /// A directory for what must not be among the files of the project, such as scripts; file
    /// variables are in it too. It is there when this returns, nobody else can look into it, and it
    /// is removed with the [build directory](Self::build_dir), beside which it is: its name has
    /// `.tmp` behind.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn temp_dir(&self) -> Result<PathBuf, EnvError> {
        self.write_files(Vec::new()).await?;
        Ok(self.variables.files().dir().to_owned())
    }

    async fn write_files(&self, files: Vec<FileVariable>) -> Result<(), EnvError> {
        let dir = self.variables.files().clone();
        let written = unblock(&*self.adapter, move || dir.write(&files)).await;
        written.unwrap_or(Err(EnvError::Stopped))
    }

    /// Says where the scripts of the job see the project and the directory for temporary files, if
    /// not at [`build_dir`](Self::build_dir) and [`temp_dir`](Self::temp_dir): in a container, or in
    /// a directory below. `CI_PROJECT_DIR`, `CI_BUILDS_DIR` (the parent),
    /// `RUNNER_TEMP_PROJECT_DIR`, the paths of file variables and the absolute paths of artifacts
    /// follow; nothing is moved.
    ///
    /// Call it when the handler is made: masked variables that refer to these are kept out of the
    /// log as they were before.
    pub fn set_dirs(&self, project: impl AsRef<Path>, temp: impl AsRef<Path>) {
        self.variables.set_dirs(project.as_ref(), temp.as_ref());
    }

    /// The jobs whose artifacts this one asks for.
    pub fn dependencies(&self) -> impl Iterator<Item = Dependency<'_>> {
        let dependencies = self.payload().dependencies.iter();
        dependencies.map(|info| Dependency { info, job: self })
    }

    /// A directory for this job alone. It is there, and it is removed after
    /// [`cleanup`](crate::JobHandler::cleanup).
    pub fn build_dir(&self) -> &Path {
        self.variables.dir()
    }

    /// Says why the current step fails: `return self.job.fail(Failure::exit_code(3))`.
    ///
    /// It counts if the step then fails; the last one said in a step wins.
    ///
    /// # Errors
    /// Always, for the handler to return.
    #[expect(clippy::result_unit_err, reason = "what a step returns")]
    pub fn fail(&self, failure: Failure) -> JobResult {
        lock(&self.state.step).failure = Some(failure);
        Err(())
    }

    /// GitLab's name of the step that runs (`script`, `release`, `after_script`), if one does.
    pub fn current_step(&self) -> Option<Arc<str>> {
        lock(&self.state.step).step.clone()
    }

    /// How the job has gone so far: as `CI_JOB_STATUS` says it to scripts, and in
    /// [`cleanup`](crate::JobHandler::cleanup) as it will be reported to GitLab, with artifacts that
    /// could not be uploaded taken into account.
    pub fn status(&self) -> ScriptStatus {
        self.variables.status()
    }

    /// Fires when what runs now is to end: the making of the handler, in which nothing else tells of
    /// a cancel, or the current step, where it is the token that a
    /// [`CancellableJobHandler`](crate::CancellableJobHandler) is given. Each step has one of its own.
    /// It fires too once the step was dropped, for threads and tasks that still work for it.
    ///
    /// Who makes a handler for long should look at it: no step follows once it has fired, and after
    /// ten minutes the closure's future is dropped.
    pub fn cancel_token(&self) -> CancellationToken {
        self.state.cancel_token()
    }

    /// Everything that GitLab said of the job: `job.payload().image`, say.
    pub fn payload(&self) -> &JobPayload {
        self.variables.payload()
    }

    /// The JSON of the job as GitLab sent it, if the runner was
    /// [told](crate::RunnerBuilder::keep_raw_payload) to keep it. It holds tokens and secrets.
    pub fn raw_payload(&self) -> Option<&[u8]> {
        self.payload().raw.get().map(|body| &body[..])
    }

    /// Runs `future` on behalf of this job wherever it is awaited, also in a task of its own:
    /// [`outputln!`](crate::outputln) in it goes to the log of the job, events to its span.
    pub fn in_scope<F: Future>(&self, future: F) -> impl Future<Output = F::Output> + use<F> {
        self.scope.wrap(future)
    }

    /// Runs a task of its own on behalf of this job. It is not waited for: what it writes after the
    /// end of the job is lost, and a panic in it harms nobody.
    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.adapter.spawn(Box::pin(self.scope.wrap(future)));
    }

    /// Waits.
    pub fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.adapter.sleep_until(self.adapter.now() + duration)
    }

    /// The time that the runner goes by.
    pub fn now(&self) -> Time {
        self.adapter.now()
    }

    /// Runs work that blocks (files, compression, long computations) where it holds up no task.
    /// In it, [`outputln!`](crate::outputln) goes to the log of the job.
    ///
    /// A panic in `work` goes on in the caller. Work that is dropped half-way is not stopped.
    pub fn unblock<T, F>(&self, work: F) -> impl Future<Output = T> + Send + use<T, F>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        type Slot<T> = Arc<Mutex<Option<Result<T, Box<dyn Any + Send>>>>>;
        let slot: Slot<T> = Arc::default();
        let (filled, scope) = (Arc::clone(&slot), self.scope.clone());
        let unblocked = self.adapter.unblock(Box::new(move || {
            let result = panic::catch_unwind(AssertUnwindSafe(|| scope.run(work)));
            *lock(&filled) = Some(result);
        }));
        async move {
            unblocked.await;
            let result = lock(&slot).take();
            match result {
                Some(Ok(value)) => value,
                Some(Err(panic)) => panic::resume_unwind(panic),
                // The runtime is going away, and the caller with it.
                None => future::pending().await,
            }
        }
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("id", &self.id())
            .field("name", &self.name())
            .field("build_dir", &self.build_dir())
            .finish_non_exhaustive()
    }
}

/// What the handler's `Job` and the task that runs the handler share.
#[derive(Debug)]
pub(crate) struct JobState {
    step: Mutex<StepState>,
    /// Ends what reads the artifacts of other jobs.
    stop: Stop,
}

#[derive(Debug, Default)]
struct StepState {
    step: Option<Arc<str>>,
    failure: Option<Failure>,
    /// Nothing cancels what is no step.
    cancel: Option<CancellationToken>,
}

impl JobState {
    /// The handler is being made, until `cancel` fires.
    pub(crate) fn new(cancel: CancellationToken) -> Self {
        Self {
            step: Mutex::new(StepState {
                cancel: Some(cancel),
                ..StepState::default()
            }),
            stop: Stop::default(),
        }
    }

    /// Another step begins: what was said of the last one counts no more.
    pub(crate) fn begin_step(&self, name: Arc<str>, cancel: CancellationToken) {
        *lock(&self.step) = StepState {
            step: Some(name),
            failure: None,
            cancel: Some(cancel),
        };
    }

    pub(crate) fn cancel_token(&self) -> CancellationToken {
        lock(&self.step).cancel.clone().unwrap_or_default()
    }

    pub(crate) fn end_steps(&self) {
        *lock(&self.step) = StepState::default();
    }

    /// What ends, when it is dropped, the work of the job that nobody waits for.
    pub(crate) fn life(&self) -> StopOnDrop {
        StopOnDrop(self.stop.clone())
    }

    pub(crate) fn take_failure(&self) -> Option<Failure> {
        lock(&self.step).failure.take()
    }
}

/// A job whose artifacts this one asks for.
#[derive(Clone, Copy)]
pub struct Dependency<'a> {
    info: &'a DependencyInfo,
    job: &'a Job,
}

impl<'a> Dependency<'a> {
    /// GitLab's number of that job.
    pub fn id(&self) -> u64 {
        self.info.id.0
    }

    /// The name of that job.
    pub fn name(&self) -> &'a str {
        &self.info.name
    }

    /// The name of its artifacts file, if it has artifacts.
    pub fn artifact_filename(&self) -> Option<&'a str> {
        self.info
            .artifacts_file
            .as_ref()
            .map(|file| file.filename.as_str())
    }

    /// The size of its artifacts file in bytes, if GitLab said.
    pub fn artifact_size(&self) -> Option<usize> {
        let size = self.info.artifacts_file.as_ref()?.size?;
        usize::try_from(size).ok()
    }

    /// Downloads its artifacts; `None` if it has none.
    ///
    /// A second call costs nothing while the first artifact is there; a large one is on disk and kept
    /// for the life of the job, in which it can be read. All downloads of a runner together take up to 32 MiB of memory. What
    /// fails on the way is tried again, for some minutes.
    ///
    /// # Errors
    /// See [`DownloadError`].
    pub async fn download(&self) -> Result<Option<Artifact>, DownloadError> {
        let Some(file) = self.fetch().await? else {
            return Ok(None);
        };
        let name = self.artifact_filename().map(str::to_owned);
        let stop = self.job.state.stop.clone();
        let open = move || Artifact::new(file, name.as_deref(), stop);
        match unblock(&*self.job.adapter, open).await {
            Some(Ok(artifact)) => Ok(Some(artifact)),
            Some(Err(error)) => {
                // Asked for again, it may come whole.
                lock(&self.job.fetched).remove(&self.info.id);
                Err(DownloadError::Unreadable(error))
            }
            None => Err(DownloadError::Stopped),
        }
    }

    async fn fetch(&self) -> Result<Option<Arc<SpoolFile>>, DownloadError> {
        if self.info.artifacts_file.is_none() {
            return Ok(None);
        }
        if let Some(file) = lock(&self.job.fetched)
            .get(&self.info.id)
            .and_then(Kept::file)
        {
            return Ok(Some(file));
        }
        let (done, fetched) = oneshot::channel();
        let guard = FetchGuard::new((self.job.fetch)(self.info.id, done));
        let fetched = fetched.await;
        guard.over();
        // Without an answer the job, or its runner, is no more.
        let file = fetched.unwrap_or(Err(DownloadError::Stopped))?;
        if let Some(file) = &file {
            lock(&self.job.fetched).insert(self.info.id, Kept::new(file));
        }
        Ok(file)
    }
}

impl fmt::Debug for Dependency<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dependency")
            .field("id", &self.id())
            .field("name", &self.name())
            .field("artifact_filename", &self.artifact_filename())
            .field("artifact_size", &self.artifact_size())
            .finish()
    }
}
