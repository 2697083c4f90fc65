//! The task of one job: makes its directory, its log and its handler, and does what the driver
//! orders. It owes one answer to each order and keeps that promise also when the user's code panics,
//! is dropped half-way, or when the task itself is dropped with its runtime.

use std::{
    any::Any,
    future::Future,
    panic::{self, AssertUnwindSafe},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use futures::{
    FutureExt, StreamExt,
    channel::mpsc,
    future::{Either, select},
};

use super::{
    blocking::Blocking,
    cancel::Cancel,
    collect::{Collector, Packing},
    exchange,
    inbox::{Inbox, Message},
    job_dir, notice,
    packed::Packed,
    process::{Handler, Make, Process},
    quick::Quick,
    settings::Settings,
    slots::{Slot, Slots},
    variables::runner_variables,
};
use crate::{
    WallTime,
    adapter::Adapter,
    artifact,
    handler::{
        Colour, Context, Fetch, Job, JobLog, JobState, JobVariables, Phase, RunnerVariables, Scope,
    },
    ids::{ArtifactId, DownloadId, JobId},
    machine::{Collected, JobInput, MachineConfig, StepResult},
    protocol::{Failure, FailureReason, JobPayload, ScriptStatus},
    spool::Allowance,
    trace::{Masker, TraceSpool},
};

/// What all tasks of a runner share.
pub(super) struct Options {
    pub(super) adapter: Arc<dyn Adapter>,
    /// For one call of the file system in the build directory.
    pub(super) quick: Arc<Quick>,
    /// For what takes longer.
    pub(super) slow: Arc<Blocking>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) build_dir: PathBuf,
    /// For downloads.
    pub(super) memory: Arc<Allowance>,
    /// Of one of them, in bytes.
    pub(super) max_download_size: Option<u64>,
    /// The wall clock at the origin of the adapter's time.
    pub(super) wall_origin: WallTime,
    /// Numbers downloads.
    pub(super) downloads: Arc<AtomicU64>,
    /// In bytes.
    pub(super) trace_limit: u64,
    /// Whether each line of a log begins with one.
    pub(super) timestamps: bool,
    pub(super) packing: Packing,
    pub(super) variables: Arc<RunnerVariables>,
    pub(super) slots: Arc<Slots>,
}

impl Options {
    pub(super) fn new(
        adapter: &Arc<dyn Adapter>,
        inbox: &Arc<Inbox>,
        build_dir: PathBuf,
        config: &MachineConfig,
        settings: &Settings,
    ) -> Self {
        Self {
            adapter: Arc::clone(adapter),
            quick: Quick::new(adapter),
            slow: Blocking::new(Arc::clone(adapter), 4),
            inbox: Arc::clone(inbox),
            build_dir,
            memory: Allowance::new(exchange::SPOOLED_IN_MEMORY),
            max_download_size: settings.max_download_size,
            wall_origin: config.wall_origin,
            downloads: Arc::default(),
            trace_limit: settings.trace_limit,
            timestamps: settings.timestamps,
            packing: Packing {
                tells: config.artifact_log,
                most: settings.max_artifact_size,
            },
            variables: Arc::new(runner_variables(config, &settings.variables)),
            slots: Arc::default(),
        }
    }
}

/// What the driver wants of a task.
pub(super) enum Order {
    Step {
        phase: Phase,
        name: Arc<str>,
        script: Arc<[String]>,
        status: ScriptStatus,
        cancel: Cancel,
    },
    Collect {
        artifact: ArtifactId,
        cancel: Cancel,
    },
    CleanUp {
        status: ScriptStatus,
        cancel: Cancel,
    },
}

/// One job on its way.
pub(super) struct Task {
    adapter: Arc<dyn Adapter>,
    quick: Arc<Quick>,
    slow: Arc<Blocking>,
    dir: PathBuf,
    trace_limit: u64,
    timestamps: bool,
    packing: Packing,
    payload: Arc<JobPayload>,
    make: Make,
    context: Context,
    cancel: Cancel,
    packed: Packed,
    fetch: Fetch,
    spool_dir: PathBuf,
    wall: WallTime,
    variables: Arc<RunnerVariables>,
    /// Kept until the job is over.
    slot: Slot,
    duty: Duty,
}

/// How a piece of the user's code ended.
enum Ended<T> {
    Done(T),
    /// With its own words, if it had any.
    Panicked(Option<String>),
    /// It was dropped where it stood.
    Dropped,
}

impl Task {
    pub(super) fn new(
        options: &Options,
        payload: Arc<JobPayload>,
        process: Process<Make>,
        log: Arc<JobLog>,
        orders: mpsc::UnboundedReceiver<Order>,
        cancel: Cancel,
        packed: Packed,
    ) -> Self {
        Self {
            fetch: fetch(options, payload.id),
            packed,
            spool_dir: options.build_dir.clone(),
            wall: options.wall_origin,
            adapter: Arc::clone(&options.adapter),
            quick: Arc::clone(&options.quick),
            slow: Arc::clone(&options.slow),
            dir: options.build_dir.join(payload.id.to_string()),
            trace_limit: options.trace_limit,
            timestamps: options.timestamps,
            packing: options.packing,
            variables: Arc::clone(&options.variables),
            slot: options.slots.take(payload.job_info.project_id),
            make: process.make,
            context: process.context,
            cancel,
            duty: Duty {
                job: payload.id,
                log,
                inbox: Arc::clone(&options.inbox),
                orders,
                owed: Some(Owed::Start),
            },
            payload,
        }
    }

    /// Runs the job to its end.
    pub(super) async fn run(self) {
        let Self {
            adapter,
            quick,
            slow,
            dir,
            trace_limit,
            timestamps,
            packing,
            payload,
            make,
            context,
            cancel,
            packed,
            fetch,
            spool_dir,
            wall,
            variables,
            slot,
            mut duty,
        } = self;
        let log = Arc::clone(&duty.log);
        let scope = Scope::new(duty.job, Arc::clone(&log), &context);
        let state = Arc::new(JobState::new(cancel.graceful.clone()));
        let life = state.life();

        // Before the log, since masked variables may refer to it.
        let made = job_dir::make(&quick, dir.clone()).await;
        let dir = made.as_ref().unwrap_or(&dir).clone();
        let variables = JobVariables::new(payload, variables, slot.concurrent, dir);
        let variables = Arc::new(variables);
        log.open(spool(&variables, trace_limit, timestamps));
        let made = match made {
            Ok(_) => {
                let job = Job::new(
                    Arc::clone(&variables),
                    Arc::clone(&state),
                    scope.clone(),
                    Arc::clone(&log),
                    Arc::clone(&adapter),
                    fetch,
                );
                make_handler(&scope, &log, &state, make, job, &cancel).await
            }
            Err(error) => {
                // Nothing of the user's will run, so it goes here already.
                scope.run(|| drop(make));
                let kind = error.kind();
                notice::trouble_with_job(duty.job, &format!("no build directory: {error}"));
                let text = format!("the runner could not make the job's build directory: {kind}");
                system_failure(&log, &text);
                Err(Failure::new(FailureReason::RunnerSystemFailure))
            }
        };
        let mut handler = match made {
            Ok(handler) => handler,
            Err(failure) => {
                remove_dir(&quick, &slow, &variables, &duty).await;
                let trace = log.finish();
                return duty.answer(JobInput::Declined { failure, trace });
            }
        };
        duty.answer(JobInput::Accepted);

        while let Some(order) = duty.next().await {
            match order {
                Order::Step {
                    phase,
                    name,
                    script,
                    status,
                    cancel,
                } => {
                    variables.set_status(status);
                    let script = variables.lines_of(&name, script);
                    state.begin_step(name, cancel.graceful.clone());
                    let step = async { handler.step(&script, phase, &cancel.graceful).await };
                    let ended = supervise(&scope, &cancel, step).await;
                    let result = step_result(&log, &state, ended);
                    let trace = log.mark();
                    duty.answer(JobInput::StepFinished { result, trace });
                }
                Order::Collect { artifact, cancel } => {
                    state.end_steps();
                    packed.clear(&slow);
                    let collector = Collector {
                        adapter: Arc::clone(&adapter),
                        log: Arc::clone(&log),
                        variables: Arc::clone(&variables),
                        index: artifact.index,
                        spool_dir: spool_dir.clone(),
                        now: system_time(wall + adapter.now()),
                        packing,
                    };
                    let collect = async { handler.collect(collector).await };
                    let ended = supervise(&scope, &cancel, collect).await;
                    let outcome = collected(&log, &packed, artifact, ended);
                    duty.answer(JobInput::Collected { artifact, outcome });
                }
                Order::CleanUp { status, cancel } => {
                    variables.set_status(status);
                    state.end_steps();
                    packed.clear(&slow);
                    let cleanup = async { handler.cleanup().await };
                    let ended = supervise(&scope, &cancel, cleanup).await;
                    match ended {
                        Ended::Done(()) => {}
                        Ended::Panicked(panic) => {
                            system_failure(&log, &panic_text("the clean-up of the job", panic));
                        }
                        Ended::Dropped => {
                            let text = "the clean-up took too long and was stopped";
                            log.coloured(Colour::Warning, text);
                            notice::trouble_with_job(duty.job, text);
                        }
                    }
                    drop_handler(&scope, &log, handler);
                    drop(life);
                    remove_dir(&quick, &slow, &variables, &duty).await;
                    let trace = log.finish();
                    return duty.answer(JobInput::CleanedUp { trace });
                }
            }
        }
    }
}

async fn make_handler(
    scope: &Scope,
    log: &JobLog,
    state: &JobState,
    make: Make,
    job: Job,
    cancel: &Cancel,
) -> Result<Box<dyn Handler>, Failure> {
    // Called inside of the future, since it is the user's code as well.
    let making = async move { make(job).await };
    let system = || Failure::new(FailureReason::RunnerSystemFailure);
    match supervise(scope, cancel, making).await {
        Ended::Done(Ok(handler)) => Ok(handler),
        // The machine knows better why.
        Ended::Done(Err(())) if state.cancel_token().is_cancelled() => {
            log.coloured(Colour::Error, "Job failed: canceled");
            Err(system())
        }
        Ended::Done(Err(())) => match state.take_failure() {
            Some(failure) => {
                log.coloured(
                    Colour::Error,
                    "Job failed: the runner could not prepare this job",
                );
                Err(failure)
            }
            None => {
                system_failure(log, "the runner could not prepare this job");
                Err(system())
            }
        },
        Ended::Panicked(panic) => {
            system_failure(log, &panic_text("the preparation of the job", panic));
            Err(system())
        }
        Ended::Dropped => Err(system()),
    }
}

fn step_result(log: &JobLog, state: &JobState, ended: Ended<Result<(), ()>>) -> StepResult {
    match ended {
        Ended::Done(Ok(())) => StepResult::Ok,
        Ended::Done(Err(())) => StepResult::Failed(
            state
                .take_failure()
                .unwrap_or_else(|| Failure::exit_code(1)),
        ),
        Ended::Panicked(panic) => {
            system_failure(log, &panic_text("a step of the job", panic));
            StepResult::Panicked
        }
        Ended::Dropped => StepResult::Cancelled,
    }
}

fn collected(
    log: &JobLog,
    packed: &Packed,
    artifact: ArtifactId,
    ended: Ended<Result<Option<artifact::Packed>, ()>>,
) -> Collected {
    match ended {
        Ended::Done(Ok(Some(file))) => {
            packed.set(artifact, file.spool);
            Collected::Packed {
                len: file.len,
                file_name: file.file_name,
                files: file.files,
            }
        }
        Ended::Done(Ok(None)) => Collected::Nothing,
        Ended::Done(Err(())) => Collected::Failed,
        Ended::Panicked(panic) => {
            let what = "the handler of the job, asked for its files,";
            system_failure(log, &panic_text(what, panic));
            Collected::Panicked
        }
        Ended::Dropped => Collected::Cancelled,
    }
}

fn system_time(WallTime(since_1970): WallTime) -> SystemTime {
    SystemTime::UNIX_EPOCH
        .checked_add(since_1970)
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Asks the driver for what another job made, on behalf of `job`.
fn fetch(options: &Options, job: JobId) -> Fetch {
    let inbox = Arc::clone(&options.inbox);
    let downloads = Arc::clone(&options.downloads);
    Box::new(move |dependency, done| {
        let download = DownloadId(downloads.fetch_add(1, Ordering::Relaxed));
        inbox.push(Message::Download {
            job,
            download,
            dependency,
            done,
        });
        let inbox = Arc::clone(&inbox);
        Box::new(move || inbox.push(Message::DownloadDropped { job, download }))
    })
}

/// Runs the user's code on behalf of the job, until it ends, panics, or is to be dropped.
async fn supervise<F: Future>(scope: &Scope, cancel: &Cancel, work: F) -> Ended<F::Output> {
    let mut work = AssertUnwindSafe(scope.wrap(work)).catch_unwind();
    let ended = {
        let cancelled = std::pin::pin!(cancel.forced.cancelled());
        match select(&mut work, cancelled).await {
            Either::Left((Ok(output), _)) => Ended::Done(output),
            Either::Left((Err(panic), _)) => Ended::Panicked(words(panic)),
            Either::Right(((), _)) => Ended::Dropped,
        }
    };
    let dropped = panic::catch_unwind(AssertUnwindSafe(|| drop(work)));
    if matches!(ended, Ended::Dropped) {
        // Threads and tasks of the user may still look at it.
        cancel.graceful.cancel();
    }
    match dropped {
        Ok(()) => ended,
        Err(panic) => Ended::Panicked(words(panic)),
    }
}

fn drop_handler(scope: &Scope, log: &JobLog, handler: Box<dyn Handler>) {
    let dropped = panic::catch_unwind(AssertUnwindSafe(|| scope.run(|| drop(handler))));
    if let Err(panic) = dropped {
        let panic = words(panic);
        system_failure(log, &panic_text("the end of the job's handler", panic));
    }
}

fn spool(variables: &JobVariables, limit: u64, timestamps: bool) -> TraceSpool {
    let prefixes = &variables.payload().features.token_mask_prefixes;
    let masker = Masker::new(variables.mask_values(), prefixes);
    let spool = TraceSpool::new(masker, limit);
    if timestamps {
        spool.with_timestamps()
    } else {
        spool
    }
}

async fn remove_dir(
    quick: &Arc<Quick>,
    slow: &Arc<Blocking>,
    variables: &Arc<JobVariables>,
    duty: &Duty,
) {
    if let Err(error) = job_dir::remove(quick, slow, variables).await {
        let kind = error.kind();
        let text = format!("the job's build directory could not be removed: {kind}");
        duty.log.coloured(Colour::Warning, &text);
        notice::trouble_with_job(duty.job, &format!("{text} ({error})"));
    }
}

fn system_failure(log: &JobLog, text: &str) {
    log.coloured(
        Colour::Error,
        &format!("Job failed (system failure): {text}"),
    );
}

/// What a panic says. Its payload is the user's too, and may panic when it is dropped.
pub(super) fn words(panic: Box<dyn Any + Send>) -> Option<String> {
    let said = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned());
    let dropped = panic::catch_unwind(AssertUnwindSafe(|| drop(panic)));
    // Whoever goes on like that is not worth an end of the runner.
    dropped.unwrap_or_else(std::mem::forget);
    said
}

/// What to say of a panic. Its own words go through the masker of the log.
fn panic_text(what: &str, words: Option<String>) -> String {
    match words {
        Some(words) => format!("{what} panicked: {words}"),
        None => format!("{what} panicked"),
    }
}

/// What the driver waits for.
#[derive(Clone, Copy)]
enum Owed {
    Start,
    Step,
    Collect(ArtifactId),
    CleanUp,
}

/// Takes orders and answers each, if need be when it is dropped.
struct Duty {
    job: JobId,
    log: Arc<JobLog>,
    inbox: Arc<Inbox>,
    orders: mpsc::UnboundedReceiver<Order>,
    owed: Option<Owed>,
}

impl Duty {
    async fn next(&mut self) -> Option<Order> {
        let order = self.orders.next().await?;
        self.owed = Some(Owed::by(&order));
        Some(order)
    }

    fn answer(&mut self, input: JobInput) {
        self.owed = None;
        self.inbox.job(self.job, input);
    }

    fn excuse(&mut self, owed: Owed) {
        let failure = Failure::new(FailureReason::RunnerSystemFailure);
        self.answer(match owed {
            Owed::Start => JobInput::Declined {
                failure,
                trace: self.log.finish(),
            },
            Owed::Step => JobInput::StepFinished {
                result: StepResult::Panicked,
                trace: self.log.mark(),
            },
            Owed::Collect(artifact) => JobInput::Collected {
                artifact,
                outcome: Collected::Panicked,
            },
            Owed::CleanUp => JobInput::CleanedUp {
                trace: self.log.finish(),
            },
        });
    }
}

impl Owed {
    fn by(order: &Order) -> Self {
        match order {
            Order::Step { .. } => Self::Step,
            Order::Collect { artifact, .. } => Self::Collect(*artifact),
            Order::CleanUp { .. } => Self::CleanUp,
        }
    }
}

impl Drop for Duty {
    fn drop(&mut self) {
        if let Some(owed) = self.owed {
            self.excuse(owed);
        }
        // Orders that came too late to be taken are owed as well.
        self.orders.close();
        while let Some(Some(order)) = self.orders.next().now_or_never() {
            self.excuse(Owed::by(&order));
        }
    }
}
