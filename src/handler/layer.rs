//! Routes events of `tracing` into the logs of jobs.

use std::{
    fmt::{self, Write},
    sync::Weak,
};

use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id},
    subscriber::Interest,
};
use tracing_subscriber::{
    filter::{Filtered, LevelFilter},
    layer::{Context, Filter, Layer},
    registry::LookupSpan,
};

use super::{
    jobs::JobRunList,
    log::JobLog,
    scope::{current_log, line_was_taken},
};
use crate::{ids::JobId, trace::TraceStream};

/// A layer for subscribers of `tracing`: an event with the field `gitlab.output = true` becomes a
/// line in the log of the job in whose span it occurs.
///
/// [`outputln!`](crate::outputln) needs no layer inside of a handler. A layer is for code that
/// does not know of this crate, or that runs in tasks of its own: what matters is that it runs in
/// the job's span (target `gitlab_runner::gitlab::job`, field `gitlab.job`), for instance by way of
/// `tracing::Instrument`.
///
/// The line is the `message` of the event; other fields are left out. Whether it is written is
/// decided by the recorded values, so events may be made anew by other layers. One subscriber may
/// have several of these layers, each with the jobs of its own [`JobRunList`].
#[derive(Clone, Debug, Default)]
pub struct GitlabLayer {
    jobs: JobRunList,
}

impl GitlabLayer {
    /// A layer that sees only what concerns it, and the list that is to be given to
    /// [`RunnerBuilder::new`](crate::RunnerBuilder::new).
    #[allow(
        clippy::new_ret_no_self,
        reason = "as in collabora's crate, on which our users' programs were built"
    )]
    pub fn new<S>() -> (Filtered<Self, GitlabFilter, S>, JobRunList)
    where
        S: Subscriber + for<'span> LookupSpan<'span> + 'static,
    {
        let jobs = JobRunList::default();
        let layer = Self::for_jobs(jobs.clone());
        (layer.with_filter(GitlabFilter::default()), jobs)
    }

    /// A layer for the jobs of `jobs`. It asks for all events there are: give it a
    /// [`GitlabFilter`], unless other layers want them too.
    pub fn for_jobs(jobs: JobRunList) -> Self {
        Self { jobs }
    }
}

/// Lets a [`GitlabLayer`] see the spans and events with a field whose name begins with `gitlab.`,
/// of any level.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct GitlabFilter {}

impl GitlabFilter {
    fn wants(metadata: &Metadata<'_>) -> bool {
        metadata
            .fields()
            .iter()
            .any(|field| field.name().starts_with("gitlab."))
    }
}

impl<S> Filter<S> for GitlabFilter {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        Self::wants(metadata)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        match Self::wants(metadata) {
            true => Interest::always(),
            false => Interest::never(),
        }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::TRACE)
    }
}

/// What a span remembers of its job.
struct InJob {
    job: JobId,
    /// If the span is one of this crate's own.
    log: Option<Weak<JobLog>>,
}

impl<S> Layer<S> for GitlabLayer
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = SpanFields::default();
        attributes.record(&mut fields);
        let (Some(job), Some(span)) = (fields.job, context.span(id)) else {
            return;
        };
        let mut extensions = span.extensions_mut();
        // Another layer of this kind may have been here.
        if extensions.get_mut::<InJob>().is_none() {
            let log = current_log(job);
            extensions.insert(InJob { job, log });
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = EventFields::default();
        event.record(&mut fields);
        if !fields.output {
            return;
        }
        let log = context.event_scope(event).and_then(|scope| {
            scope.from_root().find_map(|span| {
                let extensions = span.extensions();
                let InJob { job, log } = extensions.get()?;
                Some(self.jobs.find(*job, log.as_ref()))
            })
        });
        if let Some(log) = log.flatten() {
            fields.message.push('\n');
            log.write(TraceStream::Stdout, fields.message.as_bytes());
            line_was_taken();
        }
    }
}

#[derive(Default)]
struct SpanFields {
    job: Option<JobId>,
}

impl Visit for SpanFields {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "gitlab.job" {
            self.job = Some(JobId(value));
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

#[derive(Default)]
struct EventFields {
    output: bool,
    message: String,
}

impl Visit for EventFields {
    fn record_bool(&mut self, field: &Field, value: bool) {
        if field.name() == "gitlab.output" {
            self.output = value;
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message.clear();
            // A String takes everything.
            let _ = write!(self.message, "{value:?}");
        }
    }
}
