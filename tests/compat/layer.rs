//! The layer: which events become lines of which log.

use std::convert::Infallible;

use gitlab_runner::{
    GitlabLayer, JobHandler, JobResult, JobRunList, Phase, Runner, RunnerBuilder, job::Job,
    mock::JobSpec, outputln,
};
use tracing::{Instrument, Span, instrument::WithSubscriber};
use tracing_subscriber::{
    Layer, Registry, filter::LevelFilter, layer::SubscriberExt, util::SubscriberInitExt,
};

use crate::support::{TOKEN, World, bounded, second_subscriber};

struct Talk(Job);

#[async_trait::async_trait]
impl JobHandler for Talk {
    async fn step(&mut self, _: &[String], _: Phase) -> JobResult {
        outputln!("a line");
        outputln!("");
        tracing::error!(
            gitlab.output = true,
            code = 7,
            "an {} of any level",
            "event"
        );
        tracing::error!(gitlab.output = false, "not for the log");
        tracing::error!("nor this");
        let line = async { outputln!("a task in the job's span") };
        tokio::spawn(line.instrument(Span::current()).with_current_subscriber())
            .await
            .unwrap();
        // A span of somebody else's, inside of the job's: the outermost one counts.
        let inner = tracing::info_span!("inner", gitlab.job = 4711_u64);
        let line = async { outputln!("in a span of another job") };
        tokio::spawn(line.instrument(inner).with_current_subscriber())
            .await
            .unwrap();
        self.0.trace("no line end");
        Ok(())
    }
}

const LOG: &str = "a line\n\nan event of any level\na task in the job's span\nin a span of another job\nno line end";

async fn talk(job: Job) -> Result<Talk, ()> {
    Ok(Talk(job))
}

// 2.1 rows 2, 9 and 10; 2.3: the scoped subscriber and the span go with every task of ours
#[tokio::test]
async fn events_in_the_span_of_a_job_go_to_its_log() {
    let _second = second_subscriber();
    let world = World::new();
    let (layer, jobs) = GitlabLayer::new();
    let job = world.enqueue(JobSpec::script(["true"]));
    let mut runner = RunnerBuilder::new(world.url(), TOKEN, world.dir.path(), jobs)
        .build()
        .await;
    let run = async {
        assert!(runner.request_job(talk).await.unwrap());
        runner.drain().await;
    };
    bounded(run.with_subscriber(Registry::default().with(layer))).await;
    assert_eq!(world.log(job), LOG);
}

#[tokio::test]
async fn outputln_needs_neither_layer_nor_level() {
    let world = World::new();
    let job = world.enqueue(JobSpec::script(["true"]));
    let (_layer, jobs) = GitlabLayer::new::<Registry>();
    let mut runner = RunnerBuilder::new(world.url(), TOKEN, world.dir.path(), jobs)
        .build()
        .await;
    let run = async {
        assert!(runner.request_job(talk).await.unwrap());
        runner.drain().await;
    };
    let subscriber = Registry::default().with(LevelFilter::OFF);
    bounded(run.with_subscriber(subscriber)).await;
    assert_eq!(world.log(job), "a line\n\nno line end");
}

// 2.3: the generation before that
#[tokio::test]
async fn the_runner_of_old_comes_with_its_layer() {
    let _second = second_subscriber();
    let world = World::new();
    let job = world.enqueue(JobSpec::script(["true"]));
    let (mut runner, layer) =
        Runner::new_with_layer(world.url(), TOKEN.to_owned(), world.dir.path().to_owned());
    let run = async {
        assert!(runner.request_job(talk).await.unwrap());
        runner.drain().await;
    };
    bounded(run.with_subscriber(Registry::default().with(layer))).await;
    assert_eq!(world.log(job), LOG);
}

/// Both jobs have the same number, at two instances of GitLab.
#[tokio::test]
async fn two_runners_in_one_subscriber_keep_their_logs_apart() {
    let _second = second_subscriber();
    let worlds = [World::new(), World::new()];
    let (first, first_jobs) = GitlabLayer::new();
    let (second, second_jobs) = GitlabLayer::new();
    let subscriber = Registry::default().with(first).with(second);
    let run = async {
        let [a, b] = &worlds;
        tokio::join!(run_one(a, first_jobs), run_one(b, second_jobs))
    };
    let (a, b) = bounded(run.with_subscriber(subscriber)).await;
    assert_eq!((&*a, &*b), (LOG, LOG));
}

/// One layer, one list, two runners.
#[tokio::test]
async fn one_layer_serves_two_runners() {
    let _second = second_subscriber();
    let worlds = [World::new(), World::new()];
    let (layer, jobs) = GitlabLayer::new();
    let run = async {
        let [a, b] = &worlds;
        tokio::join!(run_one(a, jobs.clone()), run_one(b, jobs))
    };
    let (a, b) = bounded(run.with_subscriber(Registry::default().with(layer))).await;
    assert_eq!((&*a, &*b), (LOG, LOG));
}

async fn run_one(world: &World, jobs: JobRunList) -> String {
    let job = world.enqueue(JobSpec::script(["true"]));
    let mut runner = RunnerBuilder::new(world.url(), TOKEN, world.dir.path(), jobs)
        .build()
        .await;
    assert!(runner.request_job(talk).await.unwrap());
    runner.drain().await;
    world.log(job)
}

/// All that is left of a job that has ended are lines that nobody hears.
#[tokio::test]
async fn a_line_after_the_end_is_no_trouble() {
    let _second = second_subscriber();
    let world = World::new();
    let job = world.enqueue(JobSpec::script(["true"]));
    let (layer, jobs) = GitlabLayer::new();
    let mut runner = RunnerBuilder::new(world.url(), TOKEN, world.dir.path(), jobs.clone())
        .build()
        .await;
    let (span, spans) = tokio::sync::oneshot::channel();
    let run = async {
        let process = move |job| {
            let _ = span.send(Span::current());
            talk(job)
        };
        assert!(runner.request_job(process).await.unwrap());
        runner.drain().await;
        async { outputln!("too late") }
            .instrument(spans.await.unwrap())
            .await;
    };
    bounded(run.with_subscriber(Registry::default().with(layer))).await;
    assert_eq!(world.log(job), LOG);
    assert_eq!(format!("{jobs:?}"), "{}");
}

/// What cannot be delivered leaves a sign.
#[test]
fn a_line_of_nobody_is_told_of() {
    let _second = second_subscriber();
    let (events, witness) = std::sync::mpsc::channel();
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(move || Sent(events.clone()))
        .with_filter(LevelFilter::WARN);
    let _default = Registry::default().with(layer).set_default();
    outputln!("for nobody");
    let said: Vec<u8> = witness.try_iter().flatten().collect();
    let said = String::from_utf8(said).unwrap();
    assert!(
        said.contains("outputln! was called where no job is known"),
        "{said}"
    );
}

#[derive(Clone)]
struct Sent(std::sync::mpsc::Sender<Vec<u8>>);

impl std::io::Write for Sent {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = self.0.send(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The types can be named and stored.
#[test]
fn everything_has_a_name() {
    struct Program {
        _layer: tracing_subscriber::filter::Filtered<
            GitlabLayer,
            gitlab_runner::GitlabFilter,
            Registry,
        >,
        _jobs: JobRunList,
        _error: Option<gitlab_runner::RunError>,
    }
    let (layer, jobs) = GitlabLayer::new();
    let program = Program {
        _layer: layer,
        _jobs: jobs,
        _error: None::<Infallible>.map(|never| match never {}),
    };
    drop(program);
}
