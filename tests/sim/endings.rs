//! A job that downloads, packs and uploads, and is ended in each moment of that.

use std::{borrow::Cow, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::io::Cursor;
use gitlab_runner::{
    JobHandler, JobId, JobResult, Phase, UploadableFile,
    job::Job,
    mock::{ArtifactSpec, Endpoint, JobSpec, JobStatus, Override, PipelineSpec},
};

use crate::world::{World, is_empty};

const STEP: Duration = Duration::from_millis(700);

/// Takes its time for everything.
struct Slow(Arc<Job>);

struct SlowFile(Arc<Job>, &'static str);

#[async_trait]
impl UploadableFile for SlowFile {
    type Data<'a> = Cursor<Vec<u8>>;

    fn get_path(&self) -> Cow<'_, str> {
        Cow::Borrowed(self.1)
    }

    async fn get_data(&self) -> Result<Self::Data<'_>, ()> {
        self.0.sleep(STEP).await;
        Ok(Cursor::new(vec![b'x'; 100]))
    }
}

#[async_trait]
impl JobHandler<SlowFile> for Slow {
    async fn step(&mut self, _: &[String], _: Phase) -> JobResult {
        for dependency in self.0.dependencies() {
            dependency.download().await.map_err(drop)?;
        }
        self.0.trace("worked\n");
        self.0.sleep(STEP).await;
        Ok(())
    }

    async fn get_uploadable_files(
        &mut self,
    ) -> Result<Box<dyn Iterator<Item = SlowFile> + Send>, ()> {
        self.0.sleep(STEP).await;
        let job = Arc::clone(&self.0);
        let files = ["a", "b"].map(|name| SlowFile(Arc::clone(&job), name));
        Ok(Box::new(files.into_iter()))
    }

    async fn cleanup(&mut self) {
        self.0.sleep(STEP).await;
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Never,
    Cancel,
    ForceCancel,
    Drop,
    Abort,
    Drain,
    /// The runner is dropped.
    Gone,
    Timeout,
}

/// Ends the job so long after its start. Gives whether it was over by then.
fn end(end: End, after: Duration) -> bool {
    let world = World::slow(300, Duration::from_millis(150));
    let spec = JobSpec::script(["take"])
        .stage("test")
        .artifact(ArtifactSpec::archive(["*"]).when("always"))
        .artifact(ArtifactSpec::report("codequality", ["a"]));
    let spec = match end {
        End::Timeout => spec.timeout(after.as_secs()),
        _ => spec,
    };
    let jobs = world.gitlab.with(|gitlab, now| {
        gitlab.advance(now);
        let make = JobSpec::script(["make"]).name("make").stage("build");
        let jobs = [make.artifact_paths(["*"]), spec];
        gitlab.enqueue_pipeline(PipelineSpec::new(jobs).stages(["build", "test"]))
    });
    let [make, job]: [JobId; 2] = jobs.unwrap().try_into().unwrap();
    let mut runner = world.runner();
    let handle = runner.handle();
    let was_over = world.sim.block_on(async {
        let slow = |job| async { Ok(Slow(Arc::new(job))) };
        assert!(runner.request_job(slow).await.unwrap());
        world.until_finished(make).await;
        world.gitlab.with(|gitlab, _| {
            gitlab.plan_for_job(make, Endpoint::ArtifactDownload, 1, Override::Status(503));
            gitlab.plan_for_job(job, Endpoint::ArtifactUpload, 1, Override::Status(500));
            gitlab.plan_for_job(job, Endpoint::ArtifactUpload, 2, Override::CloseAfter);
        });
        assert!(runner.request_job(slow).await.unwrap());
        world.sim.sleep(after).await;
        let was_over = world.report(job).is_finished();
        world.gitlab.with(|gitlab, now| {
            gitlab.advance(now);
            match end {
                End::Cancel => drop(gitlab.cancel(job)),
                End::ForceCancel => drop(gitlab.force_cancel(job)),
                End::Drop => drop(gitlab.drop_job(job, "stuck_or_timeout_failure")),
                _ => {}
            }
        });
        match end {
            End::Abort => handle.abort(),
            End::Drain => handle.drain(),
            End::Gone => drop(runner),
            _ => {}
        }
        world.until_finished(job).await;
        handle.drain();
        world.until(|| handle.running() == 0).await;
        world.until(|| is_empty(world.dir.path())).await;
        was_over
    });
    let report = world.report(job);
    let context = || format!("{end:?} after {after:?}: {report:#?}");
    assert_eq!(report.duplicate_finals(), 0, "{}", context());
    assert_ne!(report.checksum_matches(), Some(false), "{}", context());
    let is_over = |state: Option<&str>| matches!(state, Some("success" | "failed"));
    let first_final = report
        .requests
        .iter()
        .position(|request| is_over(request.state.as_deref()));
    let mut uploads = report.requests.iter().enumerate();
    assert!(
        uploads.all(|(at, request)| request.method != "POST" || first_final.is_none_or(|f| at < f)),
        "{}",
        context()
    );
    if report.status == JobStatus::Success {
        assert!(report.artifact("archive").is_some(), "{}", context());
        assert!(report.artifact("codequality").is_some(), "{}", context());
    } else {
        assert!(end != End::Never && end != End::Drain, "{}", context());
    }
    was_over
}

#[test]
fn a_job_is_ended_in_each_moment_of_its_transfers() {
    let moments = || (0..).map(|n| n * Duration::from_millis(500));
    let length = moments().find(|after| end(End::Never, *after)).unwrap();
    for kind in [
        End::Cancel,
        End::ForceCancel,
        End::Drop,
        End::Abort,
        End::Drain,
        End::Gone,
        End::Timeout,
    ] {
        for after in moments().take_while(|after| *after <= length) {
            end(kind, after);
        }
    }
}
