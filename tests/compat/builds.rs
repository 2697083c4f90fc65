//! A program that hands jobs to a build service: its user-facing lines are events of its own, its
//! files are read by tokio, its errors are reports, and its tests wrap every handler.

use std::{
    borrow::Cow,
    error::Error,
    fmt,
    io::Read as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use gitlab_runner::{
    GitlabLayer, JobHandler, JobResult, Phase, Runner, RunnerBuilder, UploadableFile,
    artifact::Artifact,
    job::{Dependency, Job, Variable},
    mock::{JobSpec, JobStatus},
    outputln,
};
use tokio::fs::File;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};
use tracing::{Instrument, instrument::WithSubscriber};
use tracing_subscriber::{Registry, layer::SubscriberExt};

use crate::support::{TOKEN, World, bounded, second_subscriber};

/// What `eyre::Report` asks of an error.
struct Report(Box<dyn Error + Send + Sync + 'static>);

impl<E: Error + Send + Sync + 'static> From<E> for Report {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\x1b[31mError:\n  {}\x1b[0m", self.0)
    }
}

// 2.1 row 3: variables outlive the iterator and the function, not only the `Variable`.
fn variable_or_empty<'job>(job: &'job Job, key: &str) -> &'job str {
    job.variable(key).map_or("", |variable| variable.value())
}

fn find<'job>(job: &'job Job, prefix: &str) -> Option<Variable<'job>> {
    job.variables()
        .find(|variable| variable.key().starts_with(prefix))
}

// 2.1 row 6: async_trait, a GAT, and the compatibility layer of tokio-util.
struct BuildFile {
    name: String,
    path: PathBuf,
}

#[async_trait::async_trait]
impl UploadableFile for BuildFile {
    type Data<'a> = Compat<File>;

    fn get_path(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.name)
    }

    async fn get_data(&self) -> Result<Self::Data<'_>, ()> {
        let file = File::open(&self.path).await.map_err(|_| ())?;
        Ok(file.compat())
    }
}

fn read(mut artifact: Artifact) -> std::io::Result<String> {
    let names: Vec<String> = artifact.file_names().map(str::to_owned).collect();
    let mut text = names.join(", ");
    for at in 0..artifact.len() {
        if let Some(mut file) = artifact.by_index(at) {
            assert_eq!(file.path(), Some(file.name().into()));
            text += " ";
            file.read_to_string(&mut text)?;
        }
    }
    assert!(!artifact.is_empty() && artifact.file("no such file").is_none());
    Ok(text)
}

struct Builder {
    job: Job,
    cleaned: Arc<AtomicUsize>,
}

impl Builder {
    // 2.1 row 4: dependencies are held across awaits and recorded in spans.
    async fn look_at(&self, dependency: Dependency<'_>) -> String {
        tokio::task::yield_now().await;
        format!("{} {}", dependency.id(), dependency.name())
    }

    // 2.1 row 5: `&Job` is held across awaits.
    async fn command(&self, line: &str) -> Result<(), Report> {
        let job = &self.job;
        match line.split_once(' ').unwrap_or((line, "")) {
            ("show", key) => outputln!("{key} is {}", variable_or_empty(job, key)),
            ("find", prefix) => match find(job, prefix) {
                Some(variable) => outputln!("{}={variable}", variable.key()),
                None => outputln!("nothing"),
            },
            ("needs", _) => {
                for dependency in job.dependencies() {
                    let span = tracing::info_span!(
                        "needs",
                        id = dependency.id(),
                        name = dependency.name()
                    );
                    outputln!("{}", self.look_at(dependency).instrument(span).await);
                }
            }
            ("fetch", _) => {
                for dependency in job.dependencies() {
                    let Some(artifact) = dependency.download().await? else {
                        continue;
                    };
                    // It moves to where blocking is allowed, and its files are read as any others.
                    let text = tokio::task::spawn_blocking(move || read(artifact)).await??;
                    outputln!("{}: {text}", self.look_at(dependency).await);
                }
            }
            ("write", name) => {
                tokio::fs::write(job.build_dir().join(name), "built").await?;
            }
            (_, number) => drop(number.parse::<u32>()?),
        }
        Ok(())
    }
}

#[async_trait::async_trait]
impl JobHandler<BuildFile> for Builder {
    async fn step(&mut self, script: &[String], _: Phase) -> JobResult {
        for line in script {
            if let Err(report) = self.command(line).await {
                // 2.1 row 9: not by `outputln!`, of another level, several lines, colours.
                tracing::error!(gitlab.output = true, "{report:?}");
                return Err(());
            }
        }
        Ok(())
    }

    async fn get_uploadable_files(
        &mut self,
    ) -> Result<Box<dyn Iterator<Item = BuildFile> + Send>, ()> {
        let dir = self.job.build_dir().to_owned();
        let files = std::fs::read_dir(dir).map_err(|_| ())?;
        Ok(Box::new(files.flatten().map(|file| BuildFile {
            name: file.file_name().to_string_lossy().into_owned(),
            path: file.path(),
        })))
    }

    async fn cleanup(&mut self) {
        self.cleaned.fetch_add(1, Ordering::Relaxed);
    }
}

// 2.1 row 7: wrappers of any handler; the error is inferred to be `()`.
struct Counting<H> {
    handler: H,
    steps: Arc<AtomicUsize>,
}

#[async_trait::async_trait]
impl<U, H> JobHandler<U> for Counting<H>
where
    U: UploadableFile + Send + Sync + 'static,
    H: JobHandler<U> + Send + Sync + 'static,
{
    async fn step(&mut self, script: &[String], phase: Phase) -> JobResult {
        self.steps.fetch_add(1, Ordering::Relaxed);
        self.handler.step(script, phase).await
    }

    async fn get_uploadable_files(&mut self) -> Result<Box<dyn Iterator<Item = U> + Send>, ()> {
        self.handler.get_uploadable_files().await
    }

    async fn cleanup(&mut self) {
        self.handler.cleanup().await;
    }
}

async fn run_one<U, H>(
    runner: &mut Runner,
    handler: impl FnOnce(Job) -> H + Send + Sync + 'static,
) -> bool
where
    U: UploadableFile + Send + Sync + 'static,
    H: JobHandler<U> + Send + Sync + 'static,
{
    let started = runner
        .request_job(move |job| std::future::ready(Ok(handler(job))))
        .await
        .unwrap();
    runner.wait_for_space(1).await;
    started
}

// 2.1 rows 3 to 7, 9 and 10
#[tokio::test]
async fn a_builder_under_test() {
    let _second = second_subscriber();
    let world = World::new();
    let (layer, jobs) = GitlabLayer::new();
    let mut runner = RunnerBuilder::new(world.url(), TOKEN, world.dir.path(), jobs)
        .build()
        .await;
    let good = world.enqueue(
        JobSpec::script(["show NAME", "find WHO", "show NONE", "write out", "needs"])
            .variable("NAME", "value")
            .variable("WHOM", "them"),
    );
    let bad = world.enqueue(JobSpec::script(["parse words"]));
    let (steps, cleaned) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let run = async {
        for _ in 0..2 {
            let (steps, cleaned) = (Arc::clone(&steps), Arc::clone(&cleaned));
            let handler = |job| Counting {
                handler: Builder { job, cleaned },
                steps,
            };
            assert!(run_one(&mut runner, handler).await);
        }
    };
    bounded(run.with_subscriber(Registry::default().with(layer))).await;
    // As soon as there is space, GitLab knows.
    assert_eq!(world.report(good).status, JobStatus::Success);
    assert_eq!(world.log(good), "NAME is value\nWHOM=them\nNONE is \n");
    assert_eq!(world.report(bad).status, JobStatus::Failed);
    assert_eq!(
        world.log(bad).lines().last(),
        Some("  invalid digit found in string\x1b[0m")
    );
    assert_eq!(
        world.log(bad),
        "\x1b[31mError:\n  invalid digit found in string\x1b[0m\n"
    );
    assert_eq!(steps.load(Ordering::Relaxed), 2);
    assert_eq!(cleaned.load(Ordering::Relaxed), 2);
}

// 2.1 rows 4 and 6: files go out of one job and into the next
#[tokio::test]
async fn what_one_job_builds_the_next_one_fetches() {
    let world = World::new();
    let (_layer, jobs) = GitlabLayer::new::<Registry>();
    let [_, fetch] = world.enqueue_two(
        JobSpec::script(["write out"])
            .name("make")
            .artifact_paths(["o*"]),
        JobSpec::script(["fetch"]),
    );
    let mut runner = RunnerBuilder::new(world.url(), TOKEN, world.dir.path(), jobs)
        .build()
        .await;
    bounded(async {
        for _ in 0..2 {
            let cleaned = Arc::default();
            assert!(run_one(&mut runner, |job| Builder { job, cleaned }).await);
        }
    })
    .await;
    let log = world.log(fetch);
    assert!(log.ends_with(" make: out built\n"), "{log}");
    assert_eq!(world.report(fetch).status, JobStatus::Success);
}

// 2.1 row 8
#[tokio::test]
async fn a_builder_that_runs() {
    let world = World::new();
    let (_layer, jobs) = GitlabLayer::new::<Registry>();
    let job = world.enqueue(JobSpec::script(["show NAME"]).variable("NAME", "value"));
    let url = world.url();
    let dir = world.dir.path().to_owned();
    let cleaned = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&cleaned);
    // The runner moves to another thread.
    let running = tokio::spawn(async move {
        let mut runner = RunnerBuilder::new(url, TOKEN, dir, jobs).build().await;
        runner
            .run(
                move |job| {
                    let cleaned = Arc::clone(&count);
                    async move { Ok(Builder { job, cleaned }) }
                },
                8,
            )
            .await
            .expect("the runner gave up");
    });
    let world = bounded(async {
        tokio::task::spawn_blocking(move || {
            world.wait_until(job, |report| report.is_finished());
            world
        })
        .await
        .unwrap()
    })
    .await;
    assert_eq!(world.log(job), "NAME is value\n");
    assert_eq!(cleaned.load(Ordering::Relaxed), 1);
    running.abort();
}

// 2.1 row 11, 2.2 row 7
#[tokio::test]
async fn masked_values_are_masked_and_what_is_masked_already_stays() {
    let world = World::new();
    let (_layer, jobs) = GitlabLayer::new::<Registry>();
    let job = world.enqueue(
        JobSpec::script(["show USER", "show MASKED"])
            .masked_variable("USER", "user")
            .masked_variable("URL", "https://obs.example.test")
            .variable("MASKED", "[MASKED] and *** of a users' url"),
    );
    let mut runner = RunnerBuilder::new(world.url(), TOKEN, world.dir.path(), jobs)
        .build()
        .await;
    let cleaned = Arc::new(AtomicUsize::new(0));
    bounded(async {
        assert!(run_one(&mut runner, |job| Builder { job, cleaned }).await);
    })
    .await;
    assert_eq!(
        world.log(job),
        "USER is [MASKED]\nMASKED is [MASKED] and *** of a [MASKED]s' url\n"
    );
}

// 2.3: a panic fails the job, and the runner lives on
#[tokio::test]
async fn a_panic_is_the_end_of_one_job_only() {
    let world = World::new();
    let (_layer, jobs) = GitlabLayer::new::<Registry>();
    let bad = world.enqueue(JobSpec::script(["write out"]));
    let good = world.enqueue(JobSpec::script(["write out"]));
    let mut runner = RunnerBuilder::new(world.url(), TOKEN, world.dir.path(), jobs)
        .build()
        .await;
    bounded(async {
        let cleaned = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&cleaned);
        let panics = move |job: Job| {
            assert!(job.id() == 0, "on purpose");
            Builder { job, cleaned }
        };
        assert!(run_one(&mut runner, panics).await);
        let cleaned = count;
        assert!(run_one(&mut runner, |job| Builder { job, cleaned }).await);
    })
    .await;
    assert_eq!(world.report(bad).status, JobStatus::Failed);
    assert_eq!(world.report(good).status, JobStatus::Success);
}

// 2.1 row 4: whatever fails becomes a report
#[tokio::test]
async fn errors_become_reports() {
    async fn ask() -> Result<bool, Report> {
        let (_layer, jobs) = GitlabLayer::new::<Registry>();
        let dir = tempfile::tempdir()?;
        let nowhere = "http://127.0.0.1:9".parse()?;
        let mut runner = RunnerBuilder::new(nowhere, TOKEN, dir.path(), jobs)
            .build()
            .await;
        let cleaned = Arc::default();
        let process = |job| async { Ok(Builder { job, cleaned }) };
        Ok(runner.request_job(process).await?)
    }
    let report = tokio::time::timeout(Duration::from_secs(60), ask())
        .await
        .unwrap()
        .unwrap_err();
    assert!(report.0.is::<gitlab_runner::RunError>(), "{report:?}");
}
