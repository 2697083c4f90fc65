//! Artifacts go out of one job and into others, over real sockets on each adapter.

use std::{borrow::Cow, io::Read, sync::Arc};

use async_trait::async_trait;
use futures::{
    future::join,
    io::{AsyncRead, Cursor},
};
use gitlab_runner::{
    JobHandler, JobResult, Phase, Runner, UploadableFile,
    adapter::conformance::{Subject, support::*},
    job::Job,
    mock::{
        FaultPlan, Faulty, JobSpec, JobStatus, MockGitlab, ObjectStore, PipelineSpec,
        http::Loopback,
    },
};
use url::Url;

use crate::{
    campaign::TOKEN,
    fast::{Fast, FastServer},
};

/// The files that a job makes: a few MiB that cannot be compressed.
#[derive(Clone, Copy)]
struct Noise(u32);

impl Noise {
    const LEN: usize = 512 * 1024;

    fn bytes(self) -> Vec<u8> {
        let mut state = self.0.wrapping_mul(2_654_435_761) | 1;
        let next = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state.to_le_bytes()[3]
        };
        std::iter::repeat_with(next).take(Self::LEN).collect()
    }
}

#[async_trait]
impl UploadableFile for Noise {
    type Data<'a> = Box<dyn AsyncRead + Send + Unpin + 'a>;

    fn get_path(&self) -> Cow<'_, str> {
        format!("noise/{}", self.0).into()
    }

    async fn get_data(&self) -> Result<Self::Data<'_>, ()> {
        Ok(Box::new(Cursor::new(self.bytes())))
    }
}

const FILES: u32 = 4;

/// Makes the files, or looks whether they came as they were made.
struct MakeOrTake(Job);

#[async_trait]
impl JobHandler<Noise> for MakeOrTake {
    async fn step(&mut self, _: &[String], _: Phase) -> JobResult {
        for dependency in self.0.dependencies() {
            let artifact = dependency.download().await.map_err(|error| {
                self.0.trace(format!("{error}\n"));
            })?;
            let mut artifact = artifact.ok_or(())?;
            for at in 0..artifact.len() {
                let mut file = artifact.by_index(at).ok_or(())?;
                let mut content = Vec::new();
                file.read_to_end(&mut content).map_err(drop)?;
                let number = file.name().trim_start_matches("noise/").parse().unwrap();
                let whole = content == Noise(number).bytes();
                self.0.trace(format!("{number}: {whole}\n"));
            }
        }
        Ok(())
    }

    async fn get_uploadable_files(&mut self) -> Result<Box<dyn Iterator<Item = Noise> + Send>, ()> {
        Ok(Box::new((0..FILES).map(Noise)))
    }
}

/// One job that makes and three that take.
fn pipeline(gitlab: &mut MockGitlab) -> Vec<gitlab_runner::JobId> {
    gitlab.add_runner(TOKEN);
    gitlab.settings_mut().two_phase_commit = true;
    let make = JobSpec::script(["make"]).name("make").stage("build");
    let take = (0..3).map(|number| {
        JobSpec::script(["take"])
            .name(format!("take-{number}"))
            .stage("test")
    });
    let jobs = std::iter::once(make.artifact_paths(["noise/"])).chain(take);
    let pipeline = PipelineSpec::new(jobs).stages(["build", "test"]);
    gitlab.enqueue_pipeline(pipeline).unwrap()
}

async fn make_and_take(
    runner: &mut Runner,
    gitlab: Loopback<FastServer<Faulty<MockGitlab>>>,
    jobs: Vec<gitlab_runner::JobId>,
) {
    let handle = runner.handle();
    let finished = async {
        let gitlab = elsewhere(move || {
            let idle = gitlab.wait_until(LIMIT, |it| it.0.server().is_idle().then_some(()));
            idle.expect("they do not end");
            gitlab
        });
        let gitlab = gitlab.await;
        handle.drain();
        gitlab
    };
    let process = |job| async { Ok(MakeOrTake(job)) };
    let (result, gitlab) = join(runner.run(process, 4), finished).await;
    result.unwrap();
    gitlab.with(|it, _| {
        for (number, job) in jobs.into_iter().enumerate() {
            let report = it.0.server().report(job).unwrap();
            assert_eq!(report.status, JobStatus::Success, "{report:#?}");
            let log: String = (0..FILES).map(|file| format!("{file}: true\n")).collect();
            let expected = if number == 0 { "" } else { &*log };
            assert_eq!(report.log_text(), expected);
        }
    });
}

/// Requests fail in every way meanwhile.
pub(crate) async fn with_trouble(subject: &dyn Subject) {
    let mut gitlab = MockGitlab::new(4);
    let jobs = pipeline(&mut gitlab);
    let plan = FaultPlan::new(4).with_all(30).sparing_jobs();
    let gitlab = Loopback::start(FastServer(Faulty::new(gitlab, plan))).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let adapter = Arc::new(Fast(subject.adapter(&[])));
    let url: Url = gitlab.url().parse().unwrap();
    let mut runner = Runner::with_adapter(url, TOKEN.to_owned(), dir.path().to_owned(), adapter);
    make_and_take(&mut runner, gitlab, jobs).await;
}

/// GitLab is behind TLS and sends downloads elsewhere: behind TLS, too, or in clear, where they are
/// not fetched at all.
pub(crate) async fn object_storage(subject: &dyn Subject) {
    for secure in [true, false] {
        let authority = Authority::new("ours");
        let tls = || authority.server(&["127.0.0.1"]);
        let mut gitlab = MockGitlab::new(5);
        let store: ObjectStore = gitlab.object_store();
        let storage = match secure {
            true => Loopback::start_tls(store.clone(), tls()).unwrap(),
            false => Loopback::start(store.clone()).unwrap(),
        };
        gitlab.settings_mut().object_storage = Some(storage.url());
        let jobs = pipeline(&mut gitlab);
        let gitlab = FastServer(Faulty::new(gitlab, FaultPlan::new(5)));
        let gitlab = Loopback::start_tls(gitlab, tls()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let adapter = Arc::new(Fast(subject.adapter(&[authority.pem()])));
        let url: Url = gitlab.url().parse().unwrap();
        let builds = dir.path().to_owned();
        let mut runner = Runner::with_adapter(url, TOKEN.to_owned(), builds, adapter);
        make_and_take(&mut runner, gitlab, jobs).await;
        let requests = store.requests();
        assert_eq!(requests.len(), if secure { 3 } else { 0 });
        assert!(requests.iter().all(|request| request.credential.is_none()));
    }
}
