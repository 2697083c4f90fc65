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

pub use super::download::DownloadError;
use super::{
    JobResult,
    download::{Fetch, FetchGuard, Kept},
    log::JobLog,
    scope::Scope,
};
use crate::{
    Time,
    adapter::{Adapter, unblock},
    artifact::Artifact,
    ids::JobId,
    protocol::{DependencyInfo, Failure, JobPayload, JobVariable},
    spool::SpoolFile,
    sync::lock,
};

/// A job that GitLab has handed to this runner.
///
/// Everything that waits, sleeps or blocks through it runs on every runtime that the crate has an
/// adapter for, and in virtual time in the simulator. `Debug` shows no variable and no token.
pub struct Job {
    payload: Arc<JobPayload>,
    build_dir: PathBuf,
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
        payload: Arc<JobPayload>,
        build_dir: PathBuf,
        state: Arc<JobState>,
        scope: Scope,
        log: Arc<JobLog>,
        adapter: Arc<dyn Adapter>,
        fetch: Fetch,
    ) -> Self {
        Self {
            payload,
            build_dir,
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
        self.payload.id.0
    }

    /// The name of the job in `.gitlab-ci.yml`; empty if GitLab did not say.
    pub fn name(&self) -> &str {
        &self.payload.job_info.name
    }

    /// Writes bytes into the log of the job, as they are: no line end is added.
    ///
    /// Never fails and never waits for the network. Masked values are replaced, bytes that are not
    /// UTF-8 become U+FFFD, and beyond the log limit nothing is kept.
    pub fn trace(&self, data: impl AsRef<[u8]>) {
        self.log.write(data.as_ref());
    }

    /// As [`trace`](Self::trace), for what the job said on its standard error.
    pub fn trace_stderr(&self, data: impl AsRef<[u8]>) {
        self.log.write(data.as_ref());
    }

    /// The variable with this key. Of several, the last one counts.
    pub fn variable(&self, key: &str) -> Option<Variable<'_>> {
        self.payload.variable(key).map(Variable)
    }

    /// All variables in GitLab's order, each key once with the definition that counts.
    pub fn variables(&self) -> impl Iterator<Item = Variable<'_>> {
        let mut last = BTreeMap::new();
        for (at, variable) in self.payload.variables.iter().enumerate() {
            last.insert(&variable.key, at);
        }
        let variables = self.payload.variables.iter().enumerate();
        variables
            .filter(move |(at, variable)| last.get(&variable.key) == Some(at))
            .map(|(_, variable)| Variable(variable))
    }

    /// The jobs whose artifacts this one asks for.
    pub fn dependencies(&self) -> impl Iterator<Item = Dependency<'_>> {
        let dependencies = self.payload.dependencies.iter();
        dependencies.map(|info| Dependency { info, job: self })
    }

    /// A directory for this job alone. It is there, and it is removed after
    /// [`cleanup`](crate::JobHandler::cleanup).
    pub fn build_dir(&self) -> &Path {
        &self.build_dir
    }

    /// Says why the current step fails: `return self.job.fail(Failure::exit_code(3))`.
    ///
    /// It counts if the step then fails; the last one said in a step wins.
    ///
    /// # Errors
    /// Always, for the handler to return.
    #[expect(clippy::result_unit_err, reason = "what a step returns")]
    pub fn fail(&self, failure: Failure) -> JobResult {
        lock(&self.state.0).failure = Some(failure);
        Err(())
    }

    /// GitLab's name of the step that runs (`script`, `release`, `after_script`), if one does.
    pub fn current_step(&self) -> Option<Arc<str>> {
        lock(&self.state.0).step.clone()
    }

    /// Everything that GitLab said of the job.
    pub fn payload(&self) -> &JobPayload {
        &self.payload
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
            .field("build_dir", &self.build_dir)
            .finish_non_exhaustive()
    }
}

/// What the handler's `Job` and the task that runs the handler share.
#[derive(Debug, Default)]
pub(crate) struct JobState(Mutex<StepState>);

#[derive(Debug, Default)]
struct StepState {
    step: Option<Arc<str>>,
    failure: Option<Failure>,
}

impl JobState {
    /// Another step begins: what was said of the last one counts no more.
    pub(crate) fn begin_step(&self, name: Arc<str>) {
        *lock(&self.0) = StepState {
            step: Some(name),
            failure: None,
        };
    }

    pub(crate) fn end_steps(&self) {
        *lock(&self.0) = StepState::default();
    }

    pub(crate) fn take_failure(&self) -> Option<Failure> {
        lock(&self.0).failure.take()
    }
}

/// A variable of a job.
///
/// What it gives out lives as long as the job, not as the `Variable`. `Display` prints the value,
/// or a placeholder if it is masked; `Debug` prints no value at all.
#[derive(Clone, Copy)]
pub struct Variable<'a>(&'a JobVariable);

impl<'a> Variable<'a> {
    /// Its name.
    pub fn key(&self) -> &'a str {
        &self.0.key
    }

    /// Its value, as GitLab sent it: references to other variables are not expanded.
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
    /// for the life of the job. All downloads of a runner together take up to 32 MiB of memory. What
    /// fails on the way is tried again, for some minutes.
    ///
    /// # Errors
    /// See [`DownloadError`].
    pub async fn download(&self) -> Result<Option<Artifact>, DownloadError> {
        let Some(file) = self.fetch().await? else {
            return Ok(None);
        };
        let name = self.artifact_filename().map(str::to_owned);
        let open = move || Artifact::new(file, name.as_deref());
        match unblock(&*self.job.adapter, open).await {
            Some(artifact) => artifact.map(Some).map_err(DownloadError::Unreadable),
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
