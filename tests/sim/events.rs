//! Events and spans of `tracing`.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use gitlab_runner::{
    Failure,
    mock::{JobSpec, JobStatus},
    outputln,
};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id},
};
use tracing_subscriber::{
    Layer, Registry,
    filter::LevelFilter,
    layer::{Context, SubscriberExt},
    registry::LookupSpan,
};

use crate::world::{Steps, URL, World, run_until};

/// Remembers what it saw, as text.
#[derive(Clone, Default)]
struct Witness(Arc<Mutex<Vec<String>>>);

impl Witness {
    fn saw(&self, text: &str) -> bool {
        self.0.lock().unwrap().iter().any(|it| it.contains(text))
    }
}

#[derive(Default)]
struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0 += &format!(" {}={value:?}", field.name());
    }
}

impl<S: Subscriber + for<'s> LookupSpan<'s>> Layer<S> for Witness {
    fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        let metadata = attributes.metadata();
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let text = format!(
            "span {} {}{}",
            metadata.target(),
            metadata.level(),
            fields.0
        );
        self.0.lock().unwrap().push(text);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let spans: Vec<_> = context
            .event_scope(event)
            .into_iter()
            .flatten()
            .map(|span| span.name())
            .collect();
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        let (level, target) = (metadata.level(), metadata.target());
        let text = format!("{level} {target} {spans:?}{}", fields.0);
        self.0.lock().unwrap().push(text);
    }
}

#[test]
fn a_scoped_subscriber_sees_the_job() {
    let world = World::new(90);
    let witness = Witness::default();
    // While there is only one subscriber in the process, tracing asks that of the thread which comes
    // to a callsite first: here another test's, which has none.
    let _second = tracing::Dispatch::new(Registry::default());
    let subscriber = Registry::default().with(witness.clone());
    let report = tracing::subscriber::with_default(subscriber, || {
        let _outer = tracing::info_span!("outer").entered();
        outputln!("outside of {}", "any job");
        world.run_job(
            JobSpec::script(["true"]).name("line\nend"),
            |job, _| async move {
                tracing::info!("in the step");
                outputln!("in the log");
                job.spawn(async { tracing::info!("in a task") });
                Ok(())
            },
        )
    });
    assert_eq!(report.log_text(), "in the log\n");
    for wanted in [
        format!(
            "span gitlab_runner::gitlab::job {} gitlab.job={}",
            Level::ERROR,
            report.id
        ),
        "INFO sim::events [\"job\", \"outer\"] message=in the step".to_owned(),
        "INFO sim::events [\"job\", \"outer\"] message=in a task".to_owned(),
        "TRACE sim::events [\"outer\"] message=outside of any job gitlab.output=true".to_owned(),
        format!("INFO gitlab_runner [\"outer\"] message=token verified; asking {URL} for a job"),
        format!(
            "INFO gitlab_runner [\"outer\"] message=job {} (line\\nend) started",
            report.id
        ),
        format!("message=job {} succeeded", report.id),
    ] {
        assert!(
            witness.saw(&wanted),
            "{wanted} not in {:#?}",
            witness.0.lock().unwrap()
        );
    }
    // One way per line.
    assert!(!witness.saw("in the log"));
}

#[test]
fn a_job_that_failed_is_told_of_with_its_reason_and_louder_if_the_runner_is_to_blame() {
    let world = World::new(92);
    let witness = Witness::default();
    let _second = tracing::Dispatch::new(Registry::default());
    let subscriber = Registry::default().with(witness.clone());
    tracing::subscriber::with_default(subscriber, || {
        let spec = || JobSpec::script(["true"]);
        let id = world
            .run_job(
                spec(),
                |job, _| async move { job.fail(Failure::exit_code(3)) },
            )
            .id;
        let wanted = format!("message=job {id} failed: script_failure (exit code 3)");
        assert!(witness.saw(&format!("INFO gitlab_runner [] {wanted}")));
        let id = world
            .run_process(spec(), |_| async { Err::<Steps, ()>(()) })
            .id;
        let wanted = format!("message=job {id} failed: runner_system_failure");
        assert!(witness.saw(&format!("WARN gitlab_runner [] {wanted}")));
    });
}

#[test]
fn a_runner_that_may_run_no_job_says_so() {
    let world = World::new(91);
    let job = world.enqueue(JobSpec::script(["true"]));
    let witness = Witness::default();
    let _second = tracing::Dispatch::new(Registry::default());
    let subscriber = Registry::default().with(witness.clone());
    tracing::subscriber::with_default(subscriber, || {
        let mut runner = world.runner();
        let handle = runner.handle();
        let process = |job| async { Ok(Steps::new(job, |_, _| async { Ok(()) })) };
        let end = async {
            world.sim.sleep(Duration::from_secs(60)).await;
            assert!(witness.saw("WARN gitlab_runner [] message=the runner may run no job"));
            assert_eq!(world.report(job).status, JobStatus::Pending);
            handle.set_capacity(1);
            world.until_finished(job).await;
        };
        let ended = world.sim.block_on(run_until(runner.run(process, 0), end));
        assert!(ended.is_none());
    });
    assert_eq!(world.report(job).status, JobStatus::Success);
}

#[test]
fn no_arguments_are_evaluated_for_nobody() {
    let mut calls = 0;
    // A subscriber that wants nothing: without any, tracing may ask that of another test.
    let subscriber = Registry::default().with(LevelFilter::OFF);
    tracing::subscriber::with_default(subscriber, || {
        outputln!("{}", {
            calls += 1;
            calls
        });
    });
    assert_eq!(calls, 0);
}
