//! A program that hands jobs to a lab: cancellable, its handler an opaque type, its files a trait
//! object, everything else by inference.

use std::{borrow::Cow, collections::BTreeMap, path::Path, time::Duration};

use futures::io::{AsyncRead, Cursor};
use gitlab_runner::{
    CancellableJobHandler, GitlabLayer, JobResult, Phase, RunnerBuilder, UploadableFile,
    job::Job,
    mock::{JobSpec, JobStatus},
    outputln,
};
use tokio_util::sync::CancellationToken;
use tracing::instrument::WithSubscriber;
use tracing_subscriber::{
    Layer, Registry,
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
};

use crate::support::{TOKEN, World, bounded};

#[derive(Clone, Debug)]
enum LabFile {
    Log { id: u64 },
}

#[async_trait::async_trait]
impl UploadableFile for LabFile {
    type Data<'a> = Box<dyn AsyncRead + Send + Unpin + 'a>;

    fn get_path(&self) -> Cow<'_, str> {
        let Self::Log { id } = self;
        Cow::Owned(format!("{id}_log.yaml"))
    }

    async fn get_data(&self) -> Result<Self::Data<'_>, ()> {
        outputln!("fetching the log of {:?}", self);
        Ok(Box::new(Cursor::new(b"- a log")))
    }
}

struct LabJob {
    job: Job,
    variables: BTreeMap<String, String>,
    ids: Vec<u64>,
}

impl LabJob {
    fn find(&self, key: &str) -> Result<&str, ()> {
        match self.job.variable(key) {
            Some(variable) => Ok(variable.value()),
            None => {
                outputln!("Missing variable {}", key);
                Err(())
            }
        }
    }

    async fn command(&mut self, line: &str, cancel_token: &CancellationToken) -> JobResult {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("submit") => {
                let definition = words.next().ok_or(())?;
                let device = self.find("DEVICE")?;
                outputln!("\x1b[1msubmitting {definition} to {device}\x1b[0m");
                self.ids.push(7);
                Ok(())
            }
            Some("wait") => {
                while !cancel_token.is_cancelled() {
                    outputln!("waiting");
                    tokio::select! {
                        () = cancel_token.cancelled() => {}
                        () = tokio::time::sleep(Duration::from_secs(10)) => {}
                    }
                }
                // Still running, to tell the lab.
                tokio::task::yield_now().await;
                outputln!("cancelled {:?} in the lab", self.ids);
                Ok(())
            }
            other => {
                outputln!(
                    "no such command: {other:?} ({} variables)",
                    self.variables.len()
                );
                Err(())
            }
        }
    }
}

#[async_trait::async_trait]
impl CancellableJobHandler<LabFile> for LabJob {
    async fn step(
        &mut self,
        script: &[String],
        _phase: Phase,
        cancel_token: &CancellationToken,
    ) -> JobResult {
        for line in script {
            self.command(line, cancel_token).await?;
            outputln!("");
        }
        Ok(())
    }

    async fn get_uploadable_files(
        &mut self,
    ) -> Result<Box<dyn Iterator<Item = LabFile> + Send>, ()> {
        Ok(Box::new(
            self.ids.clone().into_iter().map(|id| LabFile::Log { id }),
        ))
    }
}

async fn new_job(job: Job) -> Result<impl CancellableJobHandler<LabFile>, ()> {
    tracing::info!("Creating new job: {:?}", job);
    let names: Vec<&str> = job.variables().map(|variable| variable.value()).collect();
    let variables = job
        .variables()
        .map(|variable| (variable.key().to_owned(), variable.value().to_owned()))
        .collect();
    assert!(!names.is_empty());
    Ok(LabJob {
        job,
        variables,
        ids: Vec::new(),
    })
}

// 2.2 rows 1 to 6 and 8
#[tokio::test(start_paused = true)]
async fn a_lab_that_is_told_of_the_cancel() {
    let world = World::new();
    let (layer, jobs) = GitlabLayer::new();
    let dir: &Path = world.dir.path();
    let mut runner = RunnerBuilder::new(world.url(), TOKEN.to_owned(), dir, jobs)
        .version("1.2.3")
        .revision("0123abc")
        .architecture("amd64")
        .platform("linux")
        .build()
        .await;
    let targets = Targets::new().with_default(LevelFilter::OFF);
    let subscriber = Registry::default()
        .with(layer)
        .with(tracing_subscriber::fmt::layer().with_filter(targets));

    let good = world.enqueue(JobSpec::script(["submit a.yaml"]).variable("DEVICE", "board-1"));
    let bad = world.enqueue(JobSpec::script(["submit b.yaml", "reboot"]));
    let endless =
        world.enqueue(JobSpec::script(["submit c.yaml", "wait"]).variable("DEVICE", "board-2"));
    let run = async {
        tokio::select! {
            result = runner.run(new_job, 64) => result.expect("it runs for ever"),
            () = async {
                world.until(good, |report| report.is_finished()).await;
                world.until(bad, |report| report.is_finished()).await;
                world.until(endless, |report| report.log_text().contains("waiting")).await;
                world.cancel(endless);
                world.until(endless, |report| report.is_finished()).await;
                assert_eq!(world.report(good).status, JobStatus::Success);
                assert_eq!(
                    world.log(good),
                    "\x1b[1msubmitting a.yaml to board-1\x1b[0m\n\n"
                );
                assert_eq!(world.report(bad).status, JobStatus::Failed);
                assert_eq!(world.log(bad), "Missing variable DEVICE\n");
                assert_eq!(world.report(endless).status, JobStatus::Canceled);
                let log = world.log(endless);
                assert!(log.ends_with("cancelled [7] in the lab\n\n"), "{log}");
            } => {}
        }
    };
    bounded(run.with_subscriber(subscriber)).await;
}
