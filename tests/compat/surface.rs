//! The names, bounds and types that programs rely on, as far as a compiler can tell.

use std::{
    borrow::Cow,
    error::Error,
    fmt,
    future::Future,
    io::Read as _,
    path::{Path, PathBuf},
    pin::Pin,
};

use gitlab_runner::{
    CancellableJobHandler, GitlabFilter, GitlabLayer, JobHandler, JobResult, JobRunList, NoFiles,
    Phase, RunError, Runner, RunnerBuilder, UploadableFile,
    artifact::{Artifact, ArtifactFile},
    job::{Dependency, Job, Variable},
};
use tokio_util::sync::CancellationToken;
use tracing::{Dispatch, Subscriber};
use tracing_subscriber::{
    Layer, Registry,
    filter::Filtered,
    layer::{Filter, SubscriberExt},
    registry::LookupSpan,
};
use url::Url;

fn url() -> Url {
    "https://gitlab.example.test".parse().unwrap()
}

// 2.1 rows 5 and 8, 2.3: what may move between threads, be held across awaits and be printed
#[test]
fn auto_traits() {
    fn job<T: fmt::Debug + Send + Sync + 'static>() {}
    fn runner<T: fmt::Debug + Send + 'static>() {}
    fn item<T: Send + Sync>() {}
    fn error<T: Error + Send + Sync + 'static>() {}
    job::<Job>();
    job::<JobRunList>();
    runner::<Runner>();
    item::<Variable<'_>>();
    item::<Dependency<'_>>();
    error::<RunError>();
}

// 2.1 row 1: a `Filtered` of any subscriber and of a filter that need not be named
#[test]
fn the_layer_is_filtered_and_the_list_has_a_name() {
    fn stored<S, F>(layer: (Filtered<GitlabLayer, F, S>, JobRunList)) -> JobRunList
    where
        S: Subscriber + Send + Sync + for<'span> LookupSpan<'span>,
        F: Filter<S> + 'static,
        GitlabLayer: Layer<S>,
    {
        layer.1
    }
    let _jobs: JobRunList = stored::<Registry, GitlabFilter>(GitlabLayer::new());
    let _jobs = stored(GitlabLayer::new::<Registry>());
    // On top of other layers as well, and wherever a layer of any subscriber is wanted.
    let (first, _) = GitlabLayer::new();
    let (second, _) = GitlabLayer::new();
    drop(Dispatch::new(Registry::default().with(first).with(second)));
}

// 2.2 row 5: what the builder takes, and what it cuts
#[tokio::test]
async fn the_builder_takes_what_it_took() {
    let (_, jobs) = GitlabLayer::new::<Registry>();
    let dir: &Path = Path::new("builds");
    let runner = RunnerBuilder::new(url(), "token", dir, jobs.clone())
        .system_id("s_0123456789ab")
        .version("1".to_owned())
        .revision("é".repeat(2000))
        .platform("linux")
        .architecture("amd64")
        .build()
        .await;
    assert_eq!(runner.running(), 0);
    let other = RunnerBuilder::new(url(), String::from("token"), dir.to_owned(), jobs);
    assert!(format!("{:?}", other.build().await).starts_with("Runner"));
}

// 2.3: the generation before that
#[test]
fn the_constructors_of_old() {
    let runner: Runner = Runner::new(url(), "token".to_owned(), "builds".into());
    let (other, layer) = Runner::new_with_layer(url(), "token".to_owned(), "builds".into());
    drop((runner, other, Registry::default().with(layer)));
}

struct Plain;

#[async_trait::async_trait]
impl JobHandler for Plain {
    async fn step(&mut self, _: &[String], phase: Phase) -> JobResult {
        // Exhaustive, and `Copy`.
        match phase {
            Phase::Script => Ok(()),
            Phase::AfterScript => Err(()),
        }
    }
}

// 2.1 rows 6 and 7, 2.2 row 1: each handler is a cancellable one; files are `NoFiles` by default
#[tokio::test]
async fn every_handler_can_be_cancelled() {
    fn takes<U, J>(handler: J) -> J
    where
        U: UploadableFile + Send + 'static,
        J: CancellableJobHandler<U> + Send + 'static,
    {
        handler
    }
    let mut plain = takes::<NoFiles, _>(Plain);
    let token = CancellationToken::new();
    let result: Result<(), ()> =
        CancellableJobHandler::step(&mut plain, &[], Phase::AfterScript, &token).await;
    assert_eq!(result, Err(()));
    let files = JobHandler::get_uploadable_files(&mut plain).await;
    assert_eq!(files.unwrap().count(), 0);
    JobHandler::cleanup(&mut plain).await;

    struct Hangs;
    #[async_trait::async_trait]
    impl JobHandler for Hangs {
        async fn step(&mut self, _: &[String], _: Phase) -> JobResult {
            std::future::pending().await
        }
    }
    token.cancel();
    let step = CancellableJobHandler::step(&mut Hangs, &[], Phase::Script, &token).await;
    assert_eq!(step, Ok(()));
}

// 2.1 row 6: what the macro of `async_trait` makes of an implementation, written out
struct ByHand(Vec<u8>);

impl UploadableFile for ByHand {
    type Data<'a> = &'a [u8];

    fn get_path(&self) -> Cow<'_, str> {
        "by-hand".into()
    }

    fn get_data<'a, 'b>(
        &'a self,
    ) -> Pin<Box<dyn Future<Output = Result<Self::Data<'a>, ()>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async { Ok(&self.0[..]) })
    }
}

impl CancellableJobHandler<Self> for ByHand {
    fn step<'a, 'b, 'c, 'd>(
        &'a mut self,
        _: &'b [String],
        _: Phase,
        _: &'c CancellationToken,
    ) -> Pin<Box<dyn Future<Output = JobResult> + Send + 'd>>
    where
        'a: 'd,
        'b: 'd,
        'c: 'd,
        Self: 'd,
    {
        Box::pin(async { Ok(()) })
    }
}

#[tokio::test]
async fn the_traits_are_those_of_async_trait() {
    let file = ByHand(vec![1, 2]);
    assert_eq!(file.get_data().await, Ok(&[1, 2][..]));
    let mut handler: Box<dyn CancellableJobHandler<ByHand>> = Box::new(file);
    assert_eq!(handler.get_uploadable_files().await.unwrap().count(), 0);
    handler.cleanup().await;
}

// 2.1 rows 3 and 4: what a job hands out lives as long as the job, and what a dependency does alone
#[allow(dead_code, reason = "it is enough that it compiles")]
async fn what_a_job_hands_out<'job>(
    job: &'job Job,
) -> Result<Vec<(&'job str, &'job str)>, Box<dyn Error + Send + Sync>> {
    let _: u64 = job.id();
    let _: &Path = job.build_dir();
    let _: Option<Variable<'job>> = job.variable("KEY");
    job.trace(b"bytes");
    job.trace(String::from("text"));
    for dependency in job.dependencies() {
        let _: (u64, &str) = (dependency.id(), dependency.name());
        let _: (Option<&str>, Option<usize>) =
            (dependency.artifact_filename(), dependency.artifact_size());
        let artifact: Option<Artifact> = dependency.download().await?;
        let Some(mut artifact) = artifact else {
            continue;
        };
        let _: (bool, usize) = (artifact.is_empty(), artifact.len());
        let _: Vec<&str> = artifact.file_names().collect();
        let _: Option<ArtifactFile<'_>> = artifact.by_index(0);
        let mut file = artifact.file("name").ok_or("no such file")?;
        let _: (&str, Option<PathBuf>) = (file.name(), file.path());
        file.read_to_end(&mut Vec::new())?;
    }
    let shown = |variable: &Variable<'_>| {
        let _: (bool, bool, String) = (variable.masked(), variable.public(), variable.to_string());
    };
    job.variables().for_each(|variable| shown(&variable));
    Ok(job.variables().map(|it| (it.key(), it.value())).collect())
}

// 2.2 row 2: `run` takes a function by name, of an opaque handler
#[test]
fn an_async_function_makes_handlers() {
    async fn new_job(_: Job) -> Result<impl CancellableJobHandler<NoFiles>, ()> {
        Ok(Plain)
    }
    fn is_send<F: Future + Send>(future: F) -> F {
        future
    }
    let mut runner = Runner::new(url(), "token".to_owned(), "builds".into());
    drop(is_send(runner.run(new_job, 64)));
    drop(is_send(runner.request_job(new_job)));
    drop(is_send(runner.wait_for_space(1)));
    drop(is_send(runner.drain()));
}

// What else the types could do.
#[test]
fn small_things_that_are_derived() {
    for name in ["\"after_script\"", "\"AfterScript\""] {
        let phase: Phase = serde_json::from_str(name).unwrap();
        assert_eq!(phase, Phase::AfterScript);
    }
    assert_eq!(format!("{:?}", Phase::Script), "Script");
    assert_eq!(NoFiles {}.clone(), NoFiles {});
}
