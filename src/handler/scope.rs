//! Knows the job on whose behalf code runs: `outputln!` finds its log here.
//!
//! The future of a handler is polled inside of an [`InJob`], which says so in a thread-local for the
//! time of each poll (and of its drop). This works on every executor and when a task moves from one
//! thread to another.

use std::{
    cell::{Cell, RefCell},
    fmt::{self, Write},
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{self, Poll},
};

#[cfg(feature = "tracing")]
use std::sync::{
    Weak,
    atomic::{AtomicU64, Ordering},
};

use super::{
    batch::Piece,
    line::LineBuffer,
    log::{Grown, JobLog},
};
use crate::{ids::JobId, trace::TraceStream};

thread_local! {
    static HERE: Here = const { Here::new() };
    /// Whether there is a job, which is asked for each line.
    static IN_JOB: Cell<bool> = const { Cell::new(false) };
    /// Whether a layer has found a job for the line that is an event just now.
    #[cfg(feature = "tracing")]
    static TAKEN: Cell<bool> = const { Cell::new(false) };
}

/// What belongs to a thread.
struct Here {
    /// That of the job on whose behalf it runs just now.
    log: RefCell<Option<Arc<JobLog>>>,
    /// Lines are put together here, so that there is no allocation for each of them.
    line: RefCell<LineBuffer>,
}

impl Here {
    const fn new() -> Self {
        Self {
            log: RefCell::new(None),
            line: RefCell::new(LineBuffer::new()),
        }
    }

    #[inline(always)]
    fn append(
        &self,
        buffer: &mut LineBuffer,
        line: fmt::Arguments<'_>,
    ) -> Option<(Arc<JobLog>, Grown)> {
        buffer.clear();
        buffer.write_fmt(line).ok()?;
        buffer.write_char('\n').ok()?;
        let piece = Piece {
            bytes: buffer.as_bytes(),
            is_text: true,
        };
        let log = self.log.borrow();
        let log = log.as_ref()?;
        let grown = log.append(TraceStream::Stdout, piece)?;
        Some((Arc::clone(log), grown))
    }

    /// For a line that is printed while another one is put together.
    #[cold]
    #[inline(never)]
    fn append_inner(&self, line: fmt::Arguments<'_>) -> Option<(Arc<JobLog>, Grown)> {
        self.append(&mut LineBuffer::new(), line)
    }
}

/// Writes one line into the log of the running job.
///
/// Takes a value, or a format string with arguments, as `println!` does. Inside of a job's handler
/// the line goes straight to its log at GitLab; nothing needs to be set up. Elsewhere (in another
/// thread, in a task of its own) it becomes a `TRACE` event with `gitlab.output = true` in the
/// current span, if the feature `tracing` is on; use [`Job::in_scope`](crate::job::Job::in_scope)
/// or [`Job::trace`](crate::job::Job::trace) there.
///
/// ```
/// use gitlab_runner::outputln;
///
/// let (done, all) = (3, 4);
/// outputln!("{done} of {} done", all);
/// outputln!("");
/// ```
#[macro_export]
macro_rules! outputln {
    () => {
        $crate::outputln!("")
    };
    ($format:literal $(, $($argument:tt)*)?) => {
        if $crate::__private::in_job() {
            $crate::__private::output_line(::core::format_args!($format $(, $($argument)*)?));
        } else {
            $crate::__output_event!($format $(, $($argument)*)?);
        }
    };
    ($value:expr $(,)?) => {
        $crate::outputln!("{}", $value)
    };
    ($format:expr, $($argument:tt)+) => {
        if $crate::__private::in_job() {
            $crate::__private::output_line(::core::format_args!($format, $($argument)+));
        } else {
            $crate::__output_event!($format, $($argument)+);
        }
    };
}

/// The line as an event, for a layer to pick up.
#[cfg(feature = "tracing")]
#[doc(hidden)]
#[macro_export]
macro_rules! __output_event {
    ($($format:tt)+) => {{
        $crate::__private::stray_line_begins();
        $crate::tracing::trace!(gitlab.output = true, $($format)+);
        $crate::__private::stray_line_ends();
    }};
}

/// Without events there is nowhere to go.
#[cfg(not(feature = "tracing"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __output_event {
    ($($format:tt)+) => {{
        let _ = ::core::format_args!($($format)+);
    }};
}

/// The log of `job` if the calling code runs on its behalf.
#[cfg(feature = "tracing")]
pub(super) fn current_log(job: JobId) -> Option<Weak<JobLog>> {
    let current = HERE.try_with(|here| here.log.borrow().as_ref().map(Arc::downgrade));
    let log = current.ok().flatten()?;
    (log.upgrade()?.job() == job).then_some(log)
}

/// A line that knows no job is about to be made an event.
#[cfg(feature = "tracing")]
#[doc(hidden)]
pub fn stray_line_begins() {
    TAKEN.set(false);
}

/// A layer found the job of the line.
#[cfg(feature = "tracing")]
pub(super) fn line_was_taken() {
    let _ = TAKEN.try_with(|taken| taken.set(true));
}

/// Says once in a while that lines get lost, for otherwise there would be no sign of it.
#[cfg(feature = "tracing")]
#[doc(hidden)]
pub fn stray_line_ends() {
    static LOST: AtomicU64 = AtomicU64::new(0);
    if TAKEN.get() {
        return;
    }
    let lost = LOST.fetch_add(1, Ordering::Relaxed) + 1;
    if lost.is_power_of_two() {
        tracing::warn!(
            target: "gitlab_runner",
            lost,
            "outputln! was called where no job is known, and no GitlabLayer took the line; use \
             Job::in_scope, Job::spawn or Job::trace"
        );
    }
}

/// Whether the calling code runs on behalf of a job.
#[doc(hidden)]
#[inline]
pub fn in_job() -> bool {
    IN_JOB.get()
}

/// Writes a line into the log of the job on whose behalf the calling code runs.
#[doc(hidden)]
pub fn output_line(line: fmt::Arguments<'_>) {
    // At the very end of a thread there is no such thing any more.
    let news = HERE.try_with(|here| match here.line.try_borrow_mut() {
        Ok(mut buffer) => here.append(&mut buffer, line),
        Err(_) => here.append_inner(line),
    });
    if let Ok(Some((log, grown))) = news {
        log.attend(grown);
    }
}

/// Who is called on behalf of what: the job's log, and what `tracing` needs to know.
#[derive(Clone)]
pub(crate) struct Scope {
    log: Arc<JobLog>,
    context: Context,
}

impl Scope {
    /// The scope of `job`, below the context in which its runner was started.
    pub(crate) fn new(job: JobId, log: Arc<JobLog>, context: &Context) -> Self {
        // The layer of this crate finds the log when the span is made.
        let _entered = Entered::new(&log);
        let context = context.of_job(job);
        Self { log, context }
    }

    /// Runs `work` on behalf of the job.
    pub(crate) fn run<R>(&self, work: impl FnOnce() -> R) -> R {
        let _entered = Entered::new(&self.log);
        self.context.run(work)
    }

    /// Polls `future` on behalf of the job.
    pub(crate) fn wrap<F: Future>(&self, future: F) -> InJob<F> {
        InJob {
            future: Some(Box::pin(future)),
            scope: self.clone(),
        }
    }
}

/// Puts back what was current before, also after a panic.
struct Entered(Option<Arc<JobLog>>);

impl Entered {
    fn new(log: &Arc<JobLog>) -> Self {
        Self(enter(Some(Arc::clone(log))))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        enter(self.0.take());
    }
}

/// Gives what was current before.
fn enter(log: Option<Arc<JobLog>>) -> Option<Arc<JobLog>> {
    let is_some = log.is_some();
    let before = HERE.with(|here| here.log.replace(log));
    IN_JOB.set(is_some);
    before
}

/// Polls a future, and drops it, on behalf of a job.
pub(crate) struct InJob<F> {
    future: Option<Pin<Box<F>>>,
    scope: Scope,
}

impl<F: Future> Future for InJob<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let Some(future) = &mut this.future else {
            return Poll::Pending;
        };
        let poll = this.scope.run(|| future.as_mut().poll(cx));
        if poll.is_ready() {
            let future = this.future.take();
            this.scope.run(|| drop(future));
        }
        poll
    }
}

impl<F> Drop for InJob<F> {
    fn drop(&mut self) {
        if let Some(future) = self.future.take() {
            self.scope.run(|| drop(future));
        }
    }
}

/// The subscriber and the span that were current where the runner was started. Without the feature
/// `tracing`, nothing.
#[derive(Clone)]
pub(crate) struct Context {
    #[cfg(feature = "tracing")]
    dispatch: Option<tracing::Dispatch>,
    #[cfg(feature = "tracing")]
    span: tracing::Span,
}

#[cfg(feature = "tracing")]
impl Context {
    /// That of the caller.
    pub(crate) fn current() -> Self {
        let dispatch = tracing::dispatcher::get_default(Clone::clone);
        Self {
            // No subscriber yet: one that is installed later is to be found.
            dispatch: (!dispatch.is::<tracing::subscriber::NoSubscriber>()).then_some(dispatch),
            span: tracing::Span::current(),
        }
    }

    fn of_job(&self, job: JobId) -> Self {
        let span = self.run(|| {
            tracing::error_span!(
                target: "gitlab_runner::gitlab::job",
                "job",
                gitlab.job = job.0
            )
        });
        Self {
            dispatch: self.dispatch.clone(),
            span,
        }
    }

    /// Runs `work` in it.
    pub(crate) fn run<R>(&self, work: impl FnOnce() -> R) -> R {
        let _default = self.dispatch.as_ref().map(tracing::dispatcher::set_default);
        self.span.in_scope(work)
    }
}

#[cfg(not(feature = "tracing"))]
impl Context {
    pub(crate) fn current() -> Self {
        Self {}
    }

    fn of_job(&self, _: JobId) -> Self {
        Self {}
    }

    pub(crate) fn run<R>(&self, work: impl FnOnce() -> R) -> R {
        work()
    }
}
