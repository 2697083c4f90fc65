//! A program with a layer of its own around ours: it makes events with a marker of its own anew,
//! with the field that our layer looks for, and hands them over.

use gitlab_runner::{
    GitlabLayer, JobHandler, JobResult, Phase, RunnerBuilder, UploadableFile, job::Job,
    mock::JobSpec,
};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Value, Visit},
    instrument::WithSubscriber,
    span::{Attributes, Id, Record},
    subscriber::Interest,
};
use tracing_subscriber::{
    Registry,
    filter::{Filtered, LevelFilter, Targets},
    layer::{Context, Filter, Layer, SubscriberExt},
    registry::LookupSpan,
};

use crate::support::{TOKEN, World, bounded};

/// Marks what is for the job's log.
const TARGET: &str = "a_program::output";

struct Forwarder<S, F: Filter<S>>(Filtered<GitlabLayer, F, S>);

/// Everything as it is, but for our own events.
impl<S, F> Layer<S> for Forwarder<S, F>
where
    S: Subscriber + Send + Sync + for<'span> LookupSpan<'span>,
    F: Filter<S> + 'static,
{
    fn on_register_dispatch(&self, subscriber: &tracing::Dispatch) {
        self.0.on_register_dispatch(subscriber);
    }

    fn on_layer(&mut self, subscriber: &mut S) {
        self.0.on_layer(subscriber);
    }

    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        // Both have to be asked each time.
        self.0.register_callsite(metadata)
    }

    fn enabled(&self, metadata: &Metadata<'_>, context: Context<'_, S>) -> bool {
        self.0.enabled(metadata, context)
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        self.0.on_new_span(attributes, id, context);
    }

    fn on_record(&self, span: &Id, values: &Record<'_>, context: Context<'_, S>) {
        self.0.on_record(span, values, context);
    }

    fn on_follows_from(&self, span: &Id, follows: &Id, context: Context<'_, S>) {
        self.0.on_follows_from(span, follows, context);
    }

    fn on_id_change(&self, old: &Id, new: &Id, context: Context<'_, S>) {
        self.0.on_id_change(old, new, context);
    }

    fn event_enabled(&self, event: &Event<'_>, context: Context<'_, S>) -> bool {
        self.0.event_enabled(event, context)
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        // Always: only this makes the filter forget that it refused the event, which it would
        // otherwise think of the next one.
        self.0.on_event(event, context.clone());
        let metadata = event.metadata();
        if metadata.target() != TARGET {
            return;
        }
        // It has no field that the filter lets pass.
        assert!(!self.0.filter().enabled(metadata, &context));
        let mut message = Message(String::new());
        event.record(&mut message);
        remade(&message.0, |event| self.0.inner().on_event(event, context));
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        self.0.on_enter(id, context);
    }

    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        self.0.on_exit(id, context);
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        self.0.on_close(id, context);
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        self.0.max_level_hint()
    }
}

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

/// An event with other fields than any callsite of this program: the message, and the mark.
fn remade(message: &str, hand_over: impl FnOnce(&Event<'_>)) {
    static CALLSITE: tracing::callsite::DefaultCallsite =
        tracing::callsite::DefaultCallsite::new(&METADATA);
    static METADATA: Metadata<'static> = tracing::metadata! {
        name: "remade",
        target: TARGET,
        level: Level::ERROR,
        fields: &["message", "gitlab.output"],
        callsite: &CALLSITE,
        kind: tracing::metadata::Kind::EVENT,
    };
    let fields = METADATA.fields();
    let (text, mark) = (
        fields.field("message").unwrap(),
        fields.field("gitlab.output").unwrap(),
    );
    let values: [(&Field, Option<&dyn Value>); 2] = [
        (&text, Some(&message as &dyn Value)),
        (&mark, Some(&true as &dyn Value)),
    ];
    let values = fields.value_set(&values);
    hand_over(&Event::new(&METADATA, &values));
}

macro_rules! tell {
    ($($format:tt)+) => { tracing::info!(target: TARGET, $($format)+) };
}

/// Wraps any handler, as tests of such programs do.
struct Wrapped<H>(H);

#[async_trait::async_trait]
impl<U, H> JobHandler<U> for Wrapped<H>
where
    U: UploadableFile + Send + Sync + 'static,
    H: JobHandler<U> + Send + Sync + 'static,
{
    async fn step(&mut self, script: &[String], phase: Phase) -> JobResult {
        self.0.step(script, phase).await
    }

    async fn get_uploadable_files(&mut self) -> Result<Box<dyn Iterator<Item = U> + Send>, ()> {
        self.0.get_uploadable_files().await
    }

    async fn cleanup(&mut self) {
        self.0.cleanup().await;
    }
}

struct Build(Job);

#[async_trait::async_trait]
impl JobHandler for Build {
    async fn step(&mut self, script: &[String], _: Phase) -> JobResult {
        for line in script {
            tell!("> {line}");
        }
        tracing::error!(gitlab.output = true, "\x1b[31mseveral\nlines\x1b[0m");
        self.0.trace("raw\n");
        Ok(())
    }
}

// 2.1 rows 1, 2, 7, 9 and 10
#[tokio::test]
async fn a_layer_around_the_layer() {
    let _second = tracing::Dispatch::new(Registry::default());
    let world = World::new();
    let (layer, jobs) = GitlabLayer::new();
    let job = world.enqueue(JobSpec::script(["one", "two"]));
    let mut runner = RunnerBuilder::new(world.url(), TOKEN, world.dir.path(), jobs)
        .build()
        .await;
    let passed = Targets::new()
        .with_target("gitlab_runner::gitlab::job", Level::ERROR)
        .with_target("a_program", Level::TRACE)
        .with_target("compat", Level::TRACE);
    let subscriber = Registry::default().with(Forwarder(layer).with_filter(passed));
    let run = async {
        let started = runner
            .request_job(move |job| std::future::ready(Ok(Wrapped(Build(job)))))
            .await;
        assert!(started.unwrap());
        runner.drain().await;
    };
    bounded(run.with_subscriber(subscriber)).await;
    assert_eq!(
        world.log(job),
        "> one\n> two\n\x1b[31mseveral\nlines\x1b[0m\nraw\n"
    );
}
