//! The facade: a [`Runner`] that asks for jobs and runs them, and what is behind it.

mod blocking;
mod builder;
mod cancel;
mod collect;
mod driver;
mod exchange;
mod inbox;
mod job_dir;
mod life;
mod notice;
mod packed;
mod process;
mod progress;
mod quick;
pub mod registration;
mod reply;
mod requests;
mod settings;
mod shared;
mod sleep;
mod slots;
mod system_id;
mod task;
mod variables;

use std::{fmt, future::Future, path::PathBuf, sync::Arc, time::Duration};

use futures::channel::oneshot;
use url::Url;

pub use self::builder::RunnerBuilder;
use self::{
    driver::Driver,
    inbox::{Inbox, Message, RequestCall, RunCall, Waiter},
    life::Calls,
    process::{Process, erase},
    settings::Settings,
    shared::{Access, Shared},
};
use crate::{
    adapter::Adapter,
    error::RunError,
    handler::{CancellableJobHandler, Context, Job, UploadableFile},
    machine::{MachineConfig, StopMode, transcript::RecordedMachine},
};

/// A GitLab runner.
///
/// Made without a runtime and without I/O: the URL, the build directory and the runtime are looked
/// at when the first [`run`](Self::run) or [`request_job`](Self::request_job) is awaited. From then
/// on its jobs live on that runtime, whatever becomes of the futures of its methods. Keep the
/// runtime until they have ended.
///
/// To stop it in good order, use a [`RunnerHandle`], or drop the future of `run` and then await
/// [`drain`](Self::drain). Dropping the runner itself cancels its jobs; they are still reported to
/// GitLab, in the background.
///
/// `Debug` shows no token.
pub struct Runner {
    settings: Settings,
    shared: Arc<Shared>,
    /// Drivers and `run`s so far.
    count: u64,
}

impl Runner {
    /// A runner for this server with an authentication token (`glrt-…`), whose jobs have their
    /// directories below `build_dir`.
    ///
    /// It runs on the runtime in which it is first awaited: inside tokio on that, elsewhere on
    /// smol, else on async-std, as far as their features are enabled. A library should hand over
    /// an adapter, as it does not know what else a program enables.
    #[cfg(any(feature = "tokio", feature = "smol", feature = "async-std"))]
    pub fn new(server: Url, token: String, build_dir: PathBuf) -> Self {
        Self::builder(server, token, build_dir).into_runner()
    }

    /// A runner, and a layer that lets events of `tracing` reach the logs of its jobs. Installs
    /// nothing: put the layer into a subscriber.
    #[cfg(all(
        any(feature = "tokio", feature = "smol", feature = "async-std"),
        feature = "tracing"
    ))]
    pub fn new_with_layer(
        server: Url,
        token: String,
        build_dir: PathBuf,
    ) -> (Self, crate::handler::GitlabLayer) {
        let jobs = crate::handler::JobRunList::default();
        let builder = Self::builder(server, token, build_dir).jobs(jobs.clone());
        (
            builder.into_runner(),
            crate::handler::GitlabLayer::for_jobs(jobs),
        )
    }

    /// A runner on an adapter of your own, or on one that several runners share.
    pub fn with_adapter(
        server: Url,
        token: String,
        build_dir: PathBuf,
        adapter: Arc<dyn Adapter>,
    ) -> Self {
        Self::builder(server, token, build_dir)
            .adapter(adapter)
            .into_runner()
    }

    /// A runner with options.
    pub fn builder(
        server: Url,
        token: impl Into<String>,
        build_dir: impl Into<PathBuf>,
    ) -> RunnerBuilder {
        RunnerBuilder::from_parts(server, token.into(), build_dir.into())
    }

    fn from_settings(settings: Settings) -> Self {
        Self {
            settings,
            shared: Arc::default(),
            count: 0,
        }
    }

    /// Asks for jobs and runs up to `maximum` of them at the same time, until the runner is stopped
    /// through a [`RunnerHandle`].
    ///
    /// `process` makes the handler of each job. If it fails or panics, the job fails with a line in
    /// its log that says so, and the runner goes on. With a `maximum` of zero it asks for no job until
    /// [`RunnerHandle::set_capacity`] allows one.
    ///
    /// Dropping the future asks for no more jobs; those that run go on, and so does one that a
    /// request on its way may still bring. Await [`drain`](Self::drain) to see them end.
    ///
    /// # Errors
    /// When it cannot start: see [`RunErrorKind`](crate::RunErrorKind). `TokenRefused` when GitLab
    /// says at the start that the token is not good; later refusals, and all other trouble with the
    /// server, are waited out. `DriverGone` when the runtime went away.
    pub async fn run<F, J, U, Ret>(&mut self, process: F, maximum: usize) -> Result<(), RunError>
    where
        F: Fn(Job) -> Ret + Clone + Send + Sync + 'static,
        Ret: Future<Output = Result<J, ()>> + Send + 'static,
        J: CancellableJobHandler<U> + Send + 'static,
        U: UploadableFile + Send + 'static,
    {
        let context = Context::current();
        let Some(inbox) = self.driver(&context).await? else {
            return Ok(());
        };
        self.count += 1;
        let number = self.count;
        let process = Arc::new(process);
        let make = move || {
            let process = Arc::clone(&process);
            erase(move |job| process(job))
        };
        let (done, outcome) = oneshot::channel();
        inbox.push(Message::Run(RunCall {
            number,
            capacity: maximum,
            process: Process {
                make: Box::new(make),
                context,
            },
            done,
        }));
        let _dropped = RunGuard { inbox, number };
        match outcome.await {
            Ok(outcome) => outcome,
            Err(_) if self.shared.is_stopped() => Ok(()),
            Err(_) => Err(RunError::driver_gone()),
        }
    }

    /// Asks for one job, whatever the number of running ones, and tells whether there was one.
    ///
    /// The job then runs in the background. With a server that holds requests, this takes up to a
    /// minute. If the future is dropped, no request is sent any more; one that is on its way is
    /// awaited, and if it brings a job, that is run.
    ///
    /// # Errors
    /// When GitLab could not be asked or did not answer as it should: see
    /// [`RunErrorKind`](crate::RunErrorKind). After trouble, the next call waits a while by itself.
    pub async fn request_job<F, J, U, Ret>(&mut self, process: F) -> Result<bool, RunError>
    where
        F: FnOnce(Job) -> Ret + Send + Sync + 'static,
        Ret: Future<Output = Result<J, ()>> + Send + 'static,
        J: CancellableJobHandler<U> + Send + 'static,
        U: UploadableFile + Send + 'static,
    {
        let context = Context::current();
        let Some(inbox) = self.driver(&context).await? else {
            return Err(RunError::stopped());
        };
        let (done, outcome) = oneshot::channel();
        let process = Process {
            make: erase(process),
            context,
        };
        inbox.push(Message::RequestJob(RequestCall { process, done }));
        let mut guard = RequestGuard(Some(inbox));
        let outcome = outcome.await;
        guard.0 = None;
        match outcome {
            Ok(outcome) => outcome,
            Err(_) if self.shared.is_stopped() => Err(RunError::stopped()),
            Err(_) => Err(RunError::driver_gone()),
        }
    }

    /// Waits until fewer than `max` jobs are running; zero counts as one.
    pub async fn wait_for_space(&mut self, max: usize) {
        self.wait(Some(max.max(1))).await;
    }

    /// Waits until all jobs have ended and GitLab knows of it, and until no request is on its way
    /// that may bring a job.
    ///
    /// It stops nothing, but no jobs are asked for meanwhile, and afterwards the runner can be used
    /// again.
    pub async fn drain(&mut self) {
        self.wait(None).await;
    }

    /// The number of jobs that run or whose end GitLab does not know of yet.
    pub fn running(&self) -> usize {
        self.handle().running()
    }

    /// Stops or steers this runner from elsewhere, also while [`run`](Self::run) is awaited.
    pub fn handle(&self) -> RunnerHandle {
        RunnerHandle {
            shared: Arc::clone(&self.shared),
        }
    }

    async fn wait(&self, below: Option<usize>) {
        let Access::Driver(inbox) = self.shared.access() else {
            return;
        };
        let (done, outcome) = oneshot::channel();
        inbox.push(Message::Wait(Waiter { below, done }));
        // Without a driver there are no jobs.
        let _ = outcome.await;
    }

    /// The inbox of the driver, which is started if there is none; `None` if the runner was
    /// stopped.
    async fn driver(&mut self, context: &Context) -> Result<Option<Arc<Inbox>>, RunError> {
        match self.shared.access() {
            Access::Driver(inbox) => return Ok(Some(inbox)),
            Access::Stopped => return Ok(None),
            Access::None => {}
        }
        let prepared = self.settings.prepare(context, &self.shared).await?;
        let (adapter, config, build_dir) = prepared;
        let shared = Arc::clone(&self.shared);
        Ok(self.start(&shared, context, adapter, config, build_dir))
    }

    /// Starts a driver; `None` if it is to stop already.
    fn start(
        &mut self,
        shared: &Arc<Shared>,
        context: &Context,
        adapter: Arc<dyn Adapter>,
        config: MachineConfig,
        build_dir: PathBuf,
    ) -> Option<Arc<Inbox>> {
        self.count += 1;
        let seed = self.settings.seed.wrapping_add(self.count);
        let inbox = Arc::new(Inbox::default());
        let options = task::Options::new(&adapter, &inbox, build_dir, &config, &self.settings);
        let machine = match &self.settings.transcript {
            Some((secrets, sink)) => {
                let sink = Arc::clone(sink);
                RecordedMachine::new(config, seed, *secrets, move |line| sink(line))
            }
            None => RecordedMachine::unrecorded(config, seed),
        };
        if !shared.driver_starts(&inbox) {
            return None;
        }
        let calls = Calls::new(&adapter, shared, &inbox, &self.settings.store_token);
        let driver = Driver::new(
            Arc::clone(&adapter),
            Arc::clone(shared),
            Arc::clone(&inbox),
            machine,
            self.settings.jobs.clone(),
            options,
            calls,
        );
        adapter.spawn(Box::pin(driver.drive(context.clone())));
        Some(inbox)
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.shared.stop(StopMode::Abort);
    }
}

impl fmt::Debug for Runner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runner")
            .field("settings", &self.settings)
            .field("running", &self.running())
            .finish_non_exhaustive()
    }
}

/// Tells the driver that nobody awaits this `run` any more.
struct RunGuard {
    inbox: Arc<Inbox>,
    number: u64,
}

impl Drop for RunGuard {
    fn drop(&mut self) {
        self.inbox.push(Message::RunDropped(self.number));
    }
}

/// Tells the driver that nobody awaits this `request_job` any more.
struct RequestGuard(Option<Arc<Inbox>>);

impl Drop for RequestGuard {
    fn drop(&mut self) {
        if let Some(inbox) = &self.0 {
            inbox.push(Message::RequestDropped);
        }
    }
}

/// Stops or steers a [`Runner`] from elsewhere, such as a signal handler.
///
/// All methods return at once, and also work before the runner was first awaited and after it is
/// gone.
#[derive(Clone)]
pub struct RunnerHandle {
    shared: Arc<Shared>,
}

impl RunnerHandle {
    /// Asks for no more jobs and lets those that run come to their end. Then
    /// [`Runner::run`] returns. Final: the runner cannot be used again.
    pub fn drain(&self) {
        self.shared.stop(StopMode::Drain);
    }

    /// As [`drain`](Self::drain), but those that still run after `limit` are cancelled, as by
    /// [`abort`](Self::abort). Of several limits the earliest counts.
    pub fn drain_within(&self, limit: Duration) {
        self.shared.stop(StopMode::DrainWithin(limit));
    }

    /// Asks for no more jobs and cancels those that run: they are reported to GitLab as
    /// interrupted. Then [`Runner::run`] returns. Final, and stronger than an earlier
    /// [`drain`](Self::drain).
    ///
    /// While GitLab cannot be reached, the reports are tried for up to an hour; who cannot wait so
    /// long drops the runtime.
    pub fn abort(&self) {
        self.shared.stop(StopMode::Abort);
    }

    /// Changes how many jobs may run at the same time. Jobs above it go on to their end.
    ///
    /// Holds for the current [`Runner::run`]; if there is none, it takes the place of the next
    /// one's maximum.
    pub fn set_capacity(&self, capacity: usize) {
        self.shared.set_capacity(capacity);
    }

    /// The number of jobs that run or whose end GitLab does not know of yet.
    pub fn running(&self) -> usize {
        self.shared.running()
    }

    /// Whether the runner was stopped, and nothing is left to do.
    pub fn is_stopped(&self) -> bool {
        self.shared.is_stopped()
    }
}

impl fmt::Debug for RunnerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunnerHandle")
            .field("running", &self.running())
            .field("stopped", &self.is_stopped())
            .finish()
    }
}
