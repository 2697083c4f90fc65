//! Makes the sessions.

use std::{collections::BTreeSet, fs, time::Duration};

use futures::future::{BoxFuture, FutureExt};
use gitlab_runner::{
    har::{Har, Secrets},
    mock::{ArtifactSpec, Endpoint, JobSpec, Override, PipelineSpec},
};

use crate::{
    mitmproxy,
    sessions::SESSIONS,
    world::{Ran, SECOND, Stage, path, recording, run},
};

/// In whose words an archive is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Ours,
    Mitmproxy,
}

/// What happens at GitLab; it ends when the session does.
pub(crate) type Scene = fn(&Stage) -> BoxFuture<'_, ()>;

#[test]
#[ignore = "writes the files that the other tests read"]
fn make_the_sessions() {
    for (name, dialect, token, scene) in SESSIONS {
        let text = match dialect {
            Dialect::Ours => record(token, *scene, Secrets::Redacted).har.to_json(),
            // That does not know what is secret.
            Dialect::Mitmproxy => mitmproxy::written(&record(token, *scene, Secrets::Kept).har),
        };
        fs::write(path(name), text + "\n").unwrap();
    }
}

#[test]
fn each_session_is_made_and_each_made_one_is_replayed() {
    let files = fs::read_dir(path("x").parent().unwrap()).unwrap();
    let files: BTreeSet<String> = files
        .map(|file| {
            file.unwrap()
                .path()
                .file_stem()
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned()
        })
        .filter(|name| !name.starts_with("official"))
        .collect();
    let made = SESSIONS.iter().map(|(name, ..)| (*name).to_owned());
    assert_eq!(files, made.collect());
    assert!(files.len() >= 12);
}

/// The simulated GitLab is deterministic, and so is what is recorded of it.
#[test]
fn a_recording_is_made_alike_each_time() {
    for (name, _, token, scene) in SESSIONS {
        let archives: [Har; 2] = [0, 1].map(|_| record(token, *scene, Secrets::Redacted).har);
        assert_eq!(archives[0].to_json(), archives[1].to_json(), "{name}");
    }
}

pub(crate) fn record(token: &str, scene: Scene, secrets: Secrets) -> Ran {
    let stage = Stage::new();
    let recording = recording(&stage.sim)
        .keep_artifacts(64 << 10)
        .secrets(secrets);
    run(&stage.sim, &recording, token, scene(&stage))
}

fn plan(stage: &Stage, plans: &[(Endpoint, u64, Override)]) {
    stage.gitlab.with(|gitlab, _| {
        for (endpoint, nth, fault) in plans {
            gitlab.plan(*endpoint, *nth, fault.clone());
        }
    });
}

pub(crate) fn idle(stage: &Stage) -> BoxFuture<'_, ()> {
    async {
        let held = Some(Duration::from_secs(50));
        stage.gitlab.with(|gitlab, _| gitlab.set_long_poll(held));
        stage.sleep(170).await;
    }
    .boxed()
}

pub(crate) fn success(stage: &Stage) -> BoxFuture<'_, ()> {
    async {
        let script = [
            "echo hello",
            "show SECRET",
            "sleep 65",
            "echo grüße \u{1f600}",
        ];
        let job = JobSpec::script(script)
            .after_script(["echo bye"])
            .masked_variable("SECRET", "a-masked-value");
        stage.finished(stage.enqueue(job)).await;
    }
    .boxed()
}

pub(crate) fn failure(stage: &Stage) -> BoxFuture<'_, ()> {
    async {
        let job = JobSpec::script(["echo one", "exit 3", "echo never"]);
        stage.finished(stage.enqueue(job)).await;
    }
    .boxed()
}

pub(crate) fn graceful_cancel(stage: &Stage) -> BoxFuture<'_, ()> {
    async {
        let job = JobSpec::script(["echo working", "sleep 3600"]).after_script(["echo tidy"]);
        let job = stage.enqueue(job);
        stage.sleep(40).await;
        stage.gitlab.with(|gitlab, _| gitlab.cancel(job));
        stage.finished(job).await;
    }
    .boxed()
}

pub(crate) fn forced_cancel(stage: &Stage) -> BoxFuture<'_, ()> {
    async {
        let job = stage.enqueue(JobSpec::script(["echo working", "hang 3600"]));
        stage.sleep(40).await;
        stage.gitlab.with(|gitlab, _| gitlab.force_cancel(job));
        stage.sleep(60).await;
    }
    .boxed()
}

pub(crate) fn rewind(stage: &Stage) -> BoxFuture<'_, ()> {
    async {
        let job = JobSpec::script(["echo one", "sleep 5", "echo two", "sleep 5", "echo three"]);
        let job = stage.enqueue(job);
        stage.gitlab.with(|gitlab, _| gitlab.watch(job, true));
        stage.sleep(8).await;
        stage.gitlab.with(|gitlab, _| gitlab.shrink_trace(job, 2));
        stage.finished(job).await;
    }
    .boxed()
}

pub(crate) fn accepted_loop(stage: &Stage) -> BoxFuture<'_, ()> {
    async {
        stage.gitlab.with(|gitlab, _| {
            gitlab.settings_mut().incremental_logging = true;
            gitlab.settings_mut().chunk_persist_delay = 10 * SECOND;
        });
        stage
            .finished(stage.enqueue(JobSpec::script(["echo hello"])))
            .await;
    }
    .boxed()
}

pub(crate) fn rate_limits(stage: &Stage) -> BoxFuture<'_, ()> {
    async {
        plan(
            stage,
            &[
                (Endpoint::JobRequest, 1, Override::RetryAfter(20)),
                (Endpoint::Trace, 1, Override::RetryAfter(7)),
                (Endpoint::FinalUpdate, 1, Override::Status(429)),
            ],
        );
        stage
            .finished(stage.enqueue(JobSpec::script(["echo hello"])))
            .await;
    }
    .boxed()
}

pub(crate) fn refused_token(stage: &Stage) -> BoxFuture<'_, ()> {
    async { stage.sleep(5).await }.boxed()
}

pub(crate) fn artifact_retry(stage: &Stage) -> BoxFuture<'_, ()> {
    async {
        plan(stage, &[(Endpoint::ArtifactUpload, 1, Override::Html(503))]);
        let job = JobSpec::script(["file out/a.txt some content"])
            .artifact(ArtifactSpec::archive(["out/"]).expire_in("1 week"));
        stage.finished(stage.enqueue(job)).await;
    }
    .boxed()
}

pub(crate) fn dependency(stage: &Stage) -> BoxFuture<'_, ()> {
    async {
        let store = stage.gitlab.with(|gitlab, _| {
            let storage = "https://storage.example.test".to_owned();
            gitlab.settings_mut().object_storage = Some(storage);
            gitlab.object_store()
        });
        let _storage = stage.sim.serve("storage.example.test", store);
        let make = JobSpec::script(["file out/a.txt some content"])
            .name("make")
            .artifact(ArtifactSpec::archive(["out/"]));
        let take = JobSpec::script(["take"]).name("take").needs(["make"]);
        let jobs = stage.gitlab.with(|gitlab, now| {
            gitlab.advance(now);
            gitlab
                .enqueue_pipeline(PipelineSpec::new([make, take]))
                .unwrap()
        });
        stage.finished(jobs[1]).await;
    }
    .boxed()
}

pub(crate) fn bad_payload(stage: &Stage) -> BoxFuture<'_, ()> {
    async {
        let job = JobSpec::script(["echo never"])
            .payload_override(|payload| payload["steps"] = "one, two".into());
        stage.finished(stage.enqueue(job)).await;
    }
    .boxed()
}

pub(crate) fn lost_replies(stage: &Stage) -> BoxFuture<'_, ()> {
    async {
        plan(
            stage,
            &[
                (Endpoint::Trace, 1, Override::CloseAfter),
                (Endpoint::KeepAlive, 2, Override::CloseBefore),
                (Endpoint::FinalUpdate, 1, Override::CutBody(0)),
                (Endpoint::FinalUpdate, 2, Override::Html(502)),
            ],
        );
        let job = JobSpec::script(["echo hello", "sleep 70", "echo bye"]);
        stage.finished(stage.enqueue(job)).await;
    }
    .boxed()
}
