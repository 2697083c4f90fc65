//! Files that came out of one job and go into the next.

use std::{io::Read, sync::Arc, time::Duration};

use async_trait::async_trait;
use gitlab_runner::{
    JobHandler, JobId, JobResult, Phase, Runner,
    artifact::Artifact,
    job::{DownloadError, Job},
    mock::{Endpoint, JobReport, JobSpec, JobStatus, ObjectStore, Override, PipelineSpec},
    outputln,
};

use crate::{
    artifacts::{maker, memory},
    world::{World, is_empty},
};

/// Downloads what its dependencies made.
struct Taker {
    job: Arc<Job>,
}

#[async_trait]
impl JobHandler for Taker {
    async fn step(&mut self, _: &[String], _: Phase) -> JobResult {
        for dependency in self.job.dependencies() {
            let name = dependency.name().to_owned();
            match dependency.download().await {
                Ok(Some(mut artifact)) => {
                    assert!(!artifact.is_empty());
                    // A second time it comes from disk.
                    let again = dependency.download().await.unwrap().unwrap();
                    assert_eq!(again.len(), artifact.len());
                    print(&name, &mut artifact);
                }
                Ok(None) => outputln!("{name}: nothing"),
                Err(error @ DownloadError::NotFound(_)) => outputln!("{name}: gone ({error})"),
                Err(error) => outputln!("{name}: {error}"),
            }
        }
        Ok(())
    }
}

fn print(name: &str, artifact: &mut Artifact) {
    for at in 0..artifact.len() {
        let mut file = artifact.by_index(at).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        outputln!("{name}: {} is {text}", file.name());
    }
}

/// Queues a job that makes files, and one that takes them.
pub(crate) fn pipeline(world: &World) -> Vec<JobId> {
    let jobs = world.gitlab.with(|gitlab, now| {
        gitlab.advance(now);
        let make = JobSpec::script(["make"]).name("make").stage("build");
        let take = JobSpec::script(["take"]).name("take").stage("test");
        let jobs = [make.artifact_paths(["*"]), take];
        gitlab.enqueue_pipeline(PipelineSpec::new(jobs).stages(["build", "test"]))
    });
    jobs.unwrap()
}

/// Runs a job that makes files and one that takes them, with `between` between them.
/// Gives the report of the second, and how often it asked for the files of the first.
fn make_and_take(world: &World, between: impl FnOnce(JobId)) -> (JobReport, usize) {
    make_and_take_with(world, world.runner(), between)
}

pub(crate) fn make_and_take_with(
    world: &World,
    mut runner: Runner,
    between: impl FnOnce(JobId),
) -> (JobReport, usize) {
    let jobs = pipeline(world);
    world.sim.block_on(async {
        let maker = maker(&[memory("a", "one"), memory("b", "two")]);
        assert!(runner.request_job(|_| async { Ok(maker) }).await.unwrap());
        runner.drain().await;
        between(jobs[0]);
        let take = |job: Job| async move {
            job.sleep(Duration::from_secs(10)).await;
            Ok(Taker { job: Arc::new(job) })
        };
        assert!(runner.request_job(take).await.unwrap());
        runner.drain().await;
    });
    assert!(is_empty(world.dir.path()));
    let made = world.report(jobs[0]);
    assert_eq!(made.status, JobStatus::Success);
    let taken = world.report(jobs[1]);
    assert_eq!(taken.status, JobStatus::Success);
    (taken, made.downloads().count())
}

pub(crate) const TAKEN: &str = "make: a is one\nmake: b is two\n";

#[test]
fn the_next_job_reads_what_the_last_one_made() {
    let world = World::new(9);
    let (report, downloads) = make_and_take(&world, |_| ());
    assert_eq!(report.log_text(), TAKEN);
    assert_eq!(downloads, 1);
}

#[test]
fn object_storage_never_sees_a_token() {
    let world = World::new(10);
    let store: ObjectStore = world.gitlab.with(|gitlab, _| {
        gitlab.settings_mut().object_storage = Some("https://storage.example.test".to_owned());
        gitlab.object_store()
    });
    let _server = world.sim.serve("storage.example.test", store.clone());
    store.plan(1, Override::Status(503));
    let (report, _) = make_and_take(&world, |_| ());
    assert_eq!(report.log_text(), TAKEN);
    let requests = store.requests();
    assert_eq!(requests.len(), 2);
    assert!(requests.iter().all(|request| request.credential.is_none()));
}

#[test]
fn trouble_with_a_download_is_outlasted() {
    let world = World::new(11);
    let (report, downloads) = make_and_take(&world, |_| {
        world.gitlab.with(|gitlab, _| {
            gitlab.plan(Endpoint::ArtifactDownload, 1, Override::Status(502));
            gitlab.plan(Endpoint::ArtifactDownload, 2, Override::CloseBefore);
            gitlab.plan(Endpoint::ArtifactDownload, 3, Override::Status(429));
        });
    });
    assert_eq!(report.log_text(), TAKEN);
    assert_eq!(downloads, 4);
}

#[test]
fn a_download_that_is_cut_begins_anew() {
    let world = World::new(16);
    let (report, downloads) = make_and_take(&world, |_| {
        let cut = Override::CutBody(100);
        world
            .gitlab
            .with(|gitlab, _| gitlab.plan(Endpoint::ArtifactDownload, 1, cut));
    });
    assert_eq!(report.log_text(), TAKEN);
    assert_eq!(downloads, 2);
}

/// A reader of archives may forgive what is in front of one, so here it is a file as it is.
#[test]
fn nothing_is_left_of_a_download_that_was_cut() {
    let world = World::new(18);
    let job = world.enqueue(JobSpec::script(["take"]).payload_override(|payload| {
        payload["dependencies"] = serde_json::json!([{ "id": 1, "name": "make", "token": "of-the-other-job",
            "artifacts_file": { "filename": "report.txt", "size": 11 } }]);
    }));
    let whole = || http::Response::new(bytes::Bytes::from("hello world"));
    let mut cut = whole();
    *cut.body_mut() = "hello".into();
    cut.headers_mut().insert("content-length", 11.into());
    world.gitlab.with(|gitlab, _| {
        gitlab.plan(Endpoint::ArtifactDownload, 1, Override::Reply(cut));
        gitlab.plan(Endpoint::ArtifactDownload, 2, Override::Reply(whole()));
    });
    let mut runner = world.runner();
    world.sim.block_on(async {
        let take = |job| async { Ok(Taker { job: Arc::new(job) }) };
        assert!(runner.request_job(take).await.unwrap());
        runner.drain().await;
    });
    assert_eq!(world.log(job), "make: report.txt is hello world\n");
    world
        .gitlab
        .with(|gitlab, _| assert_eq!(gitlab.pending_plans(), 0));
}

#[test]
fn what_expired_meanwhile_is_told_apart() {
    let world = World::new(12);
    let (report, _) = make_and_take(&world, |_| {
        let not_found = Override::Status(404);
        world
            .gitlab
            .with(|gitlab, _| gitlab.plan(Endpoint::ArtifactDownload, 1, not_found));
    });
    let log = report.log_text();
    assert!(log.starts_with("make: gone (the artifacts"), "{log}");
}

#[test]
fn what_was_gone_before_is_no_error() {
    let world = World::new(13);
    let (report, downloads) = make_and_take(&world, |made| {
        world.gitlab.with(|gitlab, _| gitlab.expire_artifacts(made));
    });
    assert_eq!(report.log_text(), "make: nothing\n");
    assert_eq!(downloads, 0);
}

#[test]
fn an_archive_that_is_none_is_an_error_of_the_download_alone() {
    let world = World::new(14);
    let (report, _) = make_and_take(&world, |_| {
        let broken = Override::Reply(http::Response::new("PK no zip at all".into()));
        world
            .gitlab
            .with(|gitlab, _| gitlab.plan(Endpoint::ArtifactDownload, 1, broken));
    });
    let log = report.log_text();
    assert!(log.contains("could not be downloaded: "), "{log}");
}

/// Downloads once more when that failed.
struct Persistent(Job);

#[async_trait]
impl JobHandler for Persistent {
    async fn step(&mut self, _: &[String], _: Phase) -> JobResult {
        let dependency = self.0.dependencies().next().unwrap();
        let first = dependency.download().await;
        assert!(matches!(first, Err(DownloadError::Unreadable(_))));
        print("make", &mut dependency.download().await.unwrap().unwrap());
        Ok(())
    }
}

#[test]
fn what_could_not_be_read_is_downloaded_again_when_it_is_asked_for_again() {
    let world = World::new(17);
    let jobs = pipeline(&world);
    let mut runner = world.runner();
    world.sim.block_on(async {
        let maker = maker(&[memory("a", "one"), memory("b", "two")]);
        assert!(runner.request_job(|_| async { Ok(maker) }).await.unwrap());
        runner.drain().await;
        let page = Override::Reply(http::Response::new("<html>Please log in</html>".into()));
        world
            .gitlab
            .with(|gitlab, _| gitlab.plan(Endpoint::ArtifactDownload, 1, page));
        let take = |job| async { Ok(Persistent(job)) };
        assert!(runner.request_job(take).await.unwrap());
        runner.drain().await;
    });
    assert_eq!(world.report(jobs[1]).log_text(), TAKEN);
    assert_eq!(world.report(jobs[0]).downloads().count(), 2);
}

#[test]
fn a_download_that_is_dropped_leaves_nothing_behind() {
    let world = World::new(15);
    let jobs = pipeline(&world);
    let mut runner = world.runner();
    world.sim.block_on(async {
        let maker = maker(&[memory("a", "one")]);
        assert!(runner.request_job(|_| async { Ok(maker) }).await.unwrap());
        runner.drain().await;
        world.gitlab.with(|gitlab, _| {
            for nth in 1..=3 {
                gitlab.plan(Endpoint::ArtifactDownload, nth, Override::Status(503));
            }
        });
        let take = |job| async { Ok(Impatient(job)) };
        assert!(runner.request_job(take).await.unwrap());
        runner.drain().await;
    });
    assert_eq!(world.report(jobs[1]).status, JobStatus::Success);
    assert_eq!(world.report(jobs[0]).downloads().count(), 1);
}

/// Waits for its download for less than the pause after a failure.
struct Impatient(Job);

#[async_trait]
impl JobHandler for Impatient {
    async fn step(&mut self, _: &[String], _: Phase) -> JobResult {
        let dependency = self.0.dependencies().next().unwrap();
        let download = Box::pin(dependency.download());
        let patience = self.0.sleep(Duration::from_millis(500));
        assert!(matches!(
            futures::future::select(download, patience).await,
            futures::future::Either::Right(_)
        ));
        self.0.sleep(Duration::from_secs(60)).await;
        Ok(())
    }
}
