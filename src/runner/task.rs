//! The task of one job: makes its directory, its log and its handler, and does what the driver
//! orders. It owes one answer to each order and keeps that promise also when the user's code panics,
//! is dropped half-way, or when the task itself is dropped with its runtime.

use std::{
    any::Any,
    fs,
    future::Future,
    io,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    sync::Arc,
};

use futures::{
    FutureExt, StreamExt,
    channel::mpsc,
    future::{Either, select},
};
use tokio_util::sync::CancellationToken;

use super::{
    blocking::Blocking,
    inbox::Inbox,
    notice,
    process::{Handler, Make, Process},
};
use crate::{
    adapter::Adapter,
    handler::{Colour, Context, Job, JobLog, JobState, Phase, Scope},
    ids::JobId,
    machine::{JobInput, StepResult},
    protocol::{Failure, FailureReason, JobPayload},
    trace::{Masker, TraceSpool},
};

/// What all tasks of a runner share.
pub(super) struct Options {
    pub(super) adapter: Arc<dyn Adapter>,
    /// For one call of the file system in the build directory, which lets in only one at a time.
    pub(super) quick: Arc<Blocking>,
    /// For what takes longer.
    pub(super) slow: Arc<Blocking>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) build_dir: PathBuf,
    /// In bytes.
    pub(super) trace_limit: u64,
}

/// What the driver wants of a task.
pub(super) enum Order {
    Step {
        phase: Phase,
        name: Arc<str>,
        script: Arc<[String]>,
        graceful: CancellationToken,
        forced: CancellationToken,
    },
    CleanUp {
        forced: CancellationToken,
    },
}

/// One job on its way.
pub(super) struct Task {
    adapter: Arc<dyn Adapter>,
    quick: Arc<Blocking>,
    slow: Arc<Blocking>,
    dir: PathBuf,
    trace_limit: u64,
    payload: Arc<JobPayload>,
    make: Make,
    context: Context,
    forced: CancellationToken,
    duty: Duty,
}

/// How a piece of the user's code ended.
enum Ended<T> {
    Done(T),
    Panicked(Box<dyn Any + Send>),
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
        forced: CancellationToken,
    ) -> Self {
        Self {
            adapter: Arc::clone(&options.adapter),
            quick: Arc::clone(&options.quick),
            slow: Arc::clone(&options.slow),
            dir: options.build_dir.join(payload.id.to_string()),
            trace_limit: options.trace_limit,
            make: process.make,
            context: process.context,
            forced,
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
            payload,
            make,
            context,
            forced,
            mut duty,
        } = self;
        let log = Arc::clone(&duty.log);
        let scope = Scope::new(duty.job, Arc::clone(&log), &context);
        log.open(spool(&payload, trace_limit));
        let state = Arc::new(JobState::default());

        let made = match make_dir(&quick, &dir).await {
            Ok(()) => {
                let job = Job::new(
                    payload,
                    dir.clone(),
                    Arc::clone(&state),
                    scope.clone(),
                    Arc::clone(&log),
                    Arc::clone(&adapter),
                );
                make_handler(&scope, &log, &state, make, job, forced).await
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
                remove_dir(&quick, &slow, &dir, &duty).await;
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
                    graceful,
                    forced,
                } => {
                    state.begin_step(name);
                    let step = async { handler.step(&script, phase, &graceful).await };
                    let ended = supervise(&scope, &forced, step).await;
                    let result = step_result(&log, &state, ended);
                    let trace = log.mark();
                    duty.answer(JobInput::StepFinished { result, trace });
                }
                Order::CleanUp { forced } => {
                    state.end_steps();
                    let cleanup = async { handler.cleanup().await };
                    let ended = supervise(&scope, &forced, cleanup).await;
                    if let Ended::Panicked(panic) = ended {
                        system_failure(&log, &panic_text("the clean-up of the job", &*panic));
                    }
                    drop_handler(&scope, &log, handler);
                    remove_dir(&quick, &slow, &dir, &duty).await;
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
    forced: CancellationToken,
) -> Result<Box<dyn Handler>, Failure> {
    // Called inside of the future, since it is the user's code as well.
    let making = async move { make(job).await };
    let system = || Failure::new(FailureReason::RunnerSystemFailure);
    match supervise(scope, &forced, making).await {
        Ended::Done(Ok(handler)) => Ok(handler),
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
            system_failure(log, &panic_text("the preparation of the job", &*panic));
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
            system_failure(log, &panic_text("a step of the job", &*panic));
            StepResult::Panicked
        }
        Ended::Dropped => StepResult::Cancelled,
    }
}

/// Runs the user's code on behalf of the job, until it ends, panics, or is to be dropped.
async fn supervise<F: Future>(
    scope: &Scope,
    forced: &CancellationToken,
    work: F,
) -> Ended<F::Output> {
    let mut work = Box::pin(AssertUnwindSafe(scope.wrap(work)).catch_unwind());
    let ended = {
        let cancelled = std::pin::pin!(forced.cancelled());
        match select(&mut work, cancelled).await {
            Either::Left((Ok(output), _)) => Ended::Done(output),
            Either::Left((Err(panic), _)) => Ended::Panicked(panic),
            Either::Right(((), _)) => Ended::Dropped,
        }
    };
    match panic::catch_unwind(AssertUnwindSafe(|| drop(work))) {
        Ok(()) => ended,
        Err(panic) => Ended::Panicked(panic),
    }
}

fn drop_handler(scope: &Scope, log: &JobLog, handler: Box<dyn Handler>) {
    let dropped = panic::catch_unwind(AssertUnwindSafe(|| scope.run(|| drop(handler))));
    if let Err(panic) = dropped {
        system_failure(log, &panic_text("the end of the job's handler", &*panic));
    }
}

fn spool(payload: &JobPayload, limit: u64) -> TraceSpool {
    let prefixes = &payload.features.token_mask_prefixes;
    let masker = Masker::new(payload.mask_values(), prefixes);
    TraceSpool::new(masker, limit)
}

async fn make_dir(quick: &Arc<Blocking>, dir: &Path) -> io::Result<()> {
    let path = dir.to_owned();
    let lost = || Err(io::Error::other("the runtime is going away"));
    quick
        .run(move || fs::create_dir_all(path))
        .await
        .unwrap_or_else(lost)
}

async fn remove_dir(quick: &Arc<Blocking>, slow: &Arc<Blocking>, dir: &Path, duty: &Duty) {
    let path = dir.to_owned();
    let mut removed = quick.run(move || fs::remove_dir(path)).await;
    if matches!(removed, Some(Err(_))) {
        // Most likely it is not empty.
        let path = dir.to_owned();
        removed = slow.run(move || fs::remove_dir_all(path)).await;
    }
    match removed {
        Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => {
            let kind = error.kind();
            let text = format!("the job's build directory could not be removed: {kind}");
            duty.log.coloured(Colour::Warning, &text);
            notice::trouble_with_job(duty.job, &format!("{text} ({error})"));
        }
        _ => {}
    }
}

fn system_failure(log: &JobLog, text: &str) {
    log.coloured(
        Colour::Error,
        &format!("Job failed (system failure): {text}"),
    );
}

/// What to say of a panic. Its own words go through the masker of the log.
fn panic_text(what: &str, panic: &(dyn Any + Send)) -> String {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    match message {
        Some(message) => format!("{what} panicked: {message}"),
        None => format!("{what} panicked"),
    }
}

/// What the driver waits for.
#[derive(Clone, Copy)]
enum Owed {
    Start,
    Step,
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
