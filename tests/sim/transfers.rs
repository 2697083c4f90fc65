//! Artifacts on lines that are slow, cut, or without an end.

use std::{
    fmt,
    io::Read,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{
    FutureExt, StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use gitlab_runner::{
    JobHandler, JobResult, Phase, RunnerBuilder, Time,
    adapter::{Adapter, Body, TransportError},
    artifact::{Artifact, ExtractLimits},
    job::Job,
    mock::{Endpoint, JobSpec, JobStatus, Override},
};
use http::{Method, Request, Response};

use crate::{
    artifacts::{maker, memory},
    dependencies::{TAKEN, make_and_take_with, pipeline},
    world::World,
};

type Reply = Result<Response<Body>, TransportError>;

/// What a line does to the artifacts that go over it.
#[derive(Clone, Copy)]
enum Fault {
    /// So many bytes a second are taken of an upload.
    Slow(u64),
    /// The body of the reply goes on for ever without saying more.
    Stalled,
    /// The reply says that it ends with the connection, and the first time it does after so many
    /// bytes.
    Cut(usize),
    /// The reply says that it is so much longer than it is, and the first time nothing follows.
    Short(u64),
    /// There is no reply to a download.
    Silent,
    /// The body of the reply does not say how long it is, and has so many mebibytes.
    Endless(u64),
}

struct Line {
    inner: Arc<dyn Adapter>,
    fault: Fault,
    cut: Arc<std::sync::atomic::AtomicBool>,
    /// Held by each request for artifacts that is on its way.
    under_way: Arc<()>,
}

impl Line {
    fn new(world: &World, fault: Fault) -> Arc<Self> {
        Arc::new(Self {
            inner: world.sim.adapter(),
            fault,
            cut: Arc::default(),
            under_way: Arc::default(),
        })
    }

    fn builder(world: &World, fault: Fault) -> RunnerBuilder {
        world.builder().adapter(Self::new(world, fault))
    }

    fn requests(&self) -> usize {
        Arc::strong_count(&self.under_way) - 1
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Line")
    }
}

impl Adapter for Line {
    fn now(&self) -> Time {
        self.inner.now()
    }

    fn sleep_until(&self, deadline: Time) -> BoxFuture<'static, ()> {
        self.inner.sleep_until(deadline)
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.inner.spawn(task);
    }

    fn unblock(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        self.inner.unblock(work)
    }

    fn send(&self, request: Request<Body>) -> BoxFuture<'static, Reply> {
        if !request.uri().path().ends_with("/artifacts") {
            return self.inner.send(request);
        }
        let (fault, inner, cut) = (self.fault, Arc::clone(&self.inner), Arc::clone(&self.cut));
        let under_way = Arc::clone(&self.under_way);
        async move {
            let _under_way = under_way;
            let is_upload = *request.method() == Method::POST;
            match fault {
                Fault::Slow(rate) if is_upload => {
                    let (parts, body) = request.into_parts();
                    let body = Body::Full(slowly(body, rate, &*inner).await);
                    inner.send(Request::from_parts(parts, body)).await
                }
                Fault::Stalled => {
                    let reply = inner.send(request).await?;
                    Ok(reply.map(|body| streamed(body, true)))
                }
                Fault::Cut(len) if !is_upload => {
                    let is_first = !cut.swap(true, std::sync::atomic::Ordering::Relaxed);
                    let reply = inner.send(request).await?;
                    Ok(reply.map(|body| match body {
                        Body::Full(bytes) if is_first => {
                            streamed(Body::Full(bytes.slice(..len)), false)
                        }
                        body => streamed(body, false),
                    }))
                }
                Fault::Short(by) if !is_upload => {
                    let is_first = !cut.swap(true, std::sync::atomic::Ordering::Relaxed);
                    let reply = inner.send(request).await?;
                    Ok(reply.map(|body| match body {
                        Body::Full(bytes) if is_first => Body::Stream {
                            len: Some(bytes.len() as u64 + by),
                            chunks: stream::iter([Ok(bytes)]).boxed(),
                        },
                        body => body,
                    }))
                }
                Fault::Silent if !is_upload => std::future::pending().await,
                Fault::Endless(mib) if !is_upload => {
                    let reply = inner.send(request).await?;
                    let mebibyte = Bytes::from(vec![0; 1 << 20]);
                    let chunks = stream::iter((0..mib).map(move |_| Ok(mebibyte.clone())));
                    let chunks = chunks.boxed();
                    Ok(reply.map(|_| Body::Stream { len: None, chunks }))
                }
                _ => inner.send(request).await,
            }
        }
        .boxed()
    }
}

/// The body, at a pace.
async fn slowly(body: Body, rate: u64, adapter: &dyn Adapter) -> Bytes {
    let Body::Stream { mut chunks, .. } = body else {
        panic!("no stream");
    };
    let mut all = Vec::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.unwrap();
        let took = Duration::from_secs_f64(chunk.len() as f64 / rate as f64);
        adapter.sleep_until(adapter.now() + took).await;
        all.extend_from_slice(&chunk);
    }
    all.into()
}

/// The body without its length, and with or without an end.
fn streamed(body: Body, for_ever: bool) -> Body {
    let bytes = match body {
        Body::Full(bytes) => bytes,
        _ => Bytes::new(),
    };
    let chunks: BoxStream<'static, _> = match for_ever {
        true => stream::iter([Ok(bytes)]).chain(stream::pending()).boxed(),
        false => stream::iter([Ok(bytes)]).boxed(),
    };
    Body::Stream { len: None, chunks }
}

#[test]
fn a_slow_upload_is_not_a_dead_one() {
    let world = World::new(1);
    let job = world.enqueue(JobSpec::script(["make"]).artifact_paths(["*"]));
    let mut runner = world.build(Line::builder(&world, Fault::Slow(400)));
    // Nothing that compresses.
    let mut state = 1_u64;
    let noise = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        char::from(b' ' + (state >> 33) as u8 % 94)
    });
    let noise: String = Iterator::take(noise, 600_000).collect();
    let maker = maker(&[memory("a", &noise)]);
    world.sim.block_on(async {
        assert!(runner.request_job(|_| async { Ok(maker) }).await.unwrap());
        runner.drain().await;
    });
    let report = world.report(job);
    assert_eq!(report.status, JobStatus::Success, "{}", report.log_text());
    let content = &report.artifact("archive").unwrap().content;
    assert!(content.len() > 400_000, "{}", content.len());
}

#[test]
fn a_refusal_counts_although_its_body_never_ends() {
    let world = World::new(2);
    let job = world.enqueue(JobSpec::script(["make"]).artifact_paths(["*"]));
    world.gitlab.with(|gitlab, _| {
        gitlab.plan(Endpoint::ArtifactUpload, 1, Override::Status(403));
    });
    let mut runner = world.build(Line::builder(&world, Fault::Stalled));
    let maker = maker(&[memory("a", "one")]);
    world.sim.block_on(async {
        assert!(runner.request_job(|_| async { Ok(maker) }).await.unwrap());
        runner.drain().await;
    });
    let report = world.report(job);
    assert_eq!(report.status, JobStatus::Failed);
    let log = report.log_text();
    assert!(log.contains("answered 403"), "{log}");
    assert!(world.sim.now() < Time(Duration::from_secs(200)));
}

#[test]
fn a_download_that_ends_with_its_connection_is_cut_if_it_is_too_short() {
    let world = World::new(3);
    let runner = world.build(Line::builder(&world, Fault::Cut(100)));
    let (report, downloads) = make_and_take_with(&world, runner, |_| ());
    assert_eq!(report.log_text(), TAKEN);
    assert_eq!(downloads, 2);
}

/// Also where the adapter does not see to it, and both in memory and on disk.
#[test]
fn a_download_that_is_shorter_than_it_said_is_cut() {
    for by in [1, 64 << 20] {
        let world = World::new(8);
        let runner = world.build(Line::builder(&world, Fault::Short(by)));
        let (report, downloads) = make_and_take_with(&world, runner, |_| ());
        assert_eq!(report.log_text(), TAKEN);
        assert_eq!(downloads, 2);
    }
}

/// Waits a little for a download, and counts the requests before and after it gave up.
struct GivesUp {
    job: Job,
    line: Arc<Line>,
}

#[async_trait]
impl JobHandler for GivesUp {
    async fn step(&mut self, _: &[String], _: Phase) -> JobResult {
        let second = Duration::from_secs(1);
        let dependency = self.job.dependencies().next().unwrap();
        let download = Box::pin(dependency.download());
        let given_up = futures::future::select(download, self.job.sleep(second)).await;
        assert_eq!(self.line.requests(), 1);
        drop(given_up);
        self.job.sleep(second).await;
        assert_eq!(self.line.requests(), 0);
        Ok(())
    }
}

#[test]
fn the_request_for_a_download_that_nobody_awaits_ends() {
    let world = World::new(9);
    let jobs = pipeline(&world);
    let line = Line::new(&world, Fault::Silent);
    let mut runner = world.build(
        world
            .builder()
            .adapter(Arc::clone(&line) as Arc<dyn Adapter>),
    );
    world.sim.block_on(async {
        let maker = maker(&[memory("a", "one")]);
        assert!(runner.request_job(|_| async { Ok(maker) }).await.unwrap());
        runner.drain().await;
        let take = |job| async { Ok(GivesUp { job, line }) };
        assert!(runner.request_job(take).await.unwrap());
        runner.drain().await;
    });
    let report = world.report(jobs[1]);
    assert_eq!(report.status, JobStatus::Success, "{}", report.log_text());
}

#[test]
fn a_download_without_an_end_is_stopped() {
    let world = World::new(4);
    let builder = Line::builder(&world, Fault::Endless(20)).max_download_size(10 << 20);
    let (report, downloads) = make_and_take_with(&world, world.build(builder), |_| ());
    let log = report.log_text();
    assert!(
        log.contains("this runner's limit of 10485760 bytes"),
        "{log}"
    );
    assert_eq!(downloads, 1);
}

#[test]
fn a_download_that_says_that_it_is_too_long_is_not_begun() {
    let world = World::new(5);
    let runner = world.build(world.builder().max_download_size(10));
    let (report, downloads) = make_and_take_with(&world, runner, |_| ());
    let log = report.log_text();
    assert!(log.contains("this runner's limit of 10 bytes"), "{log}");
    assert_eq!(downloads, 1);
}

/// Lets go of an artifact.
struct Leak {
    job: Job,
    leaked: Arc<Mutex<Option<Artifact>>>,
}

#[async_trait]
impl JobHandler for Leak {
    async fn step(&mut self, _: &[String], _: Phase) -> JobResult {
        let dependency = self.job.dependencies().next().unwrap();
        let mut artifact = dependency.download().await.unwrap().unwrap();
        assert_eq!(read(&mut artifact).unwrap(), "one");
        *self.leaked.lock().unwrap() = Some(artifact);
        Ok(())
    }
}

fn read(artifact: &mut Artifact) -> std::io::Result<String> {
    let mut text = String::new();
    let file = artifact.by_index(0).ok_or(std::io::ErrorKind::Other);
    file?.read_to_string(&mut text)?;
    Ok(text)
}

/// What is read on some other thread must not go on for ever, nor go to a directory that is gone.
#[test]
fn what_was_downloaded_cannot_be_read_when_its_job_is_over() {
    let world = World::new(7);
    let jobs = pipeline(&world);
    let mut runner = world.runner();
    let leaked = Arc::default();
    world.sim.block_on(async {
        let maker = maker(&[memory("a", "one")]);
        assert!(runner.request_job(|_| async { Ok(maker) }).await.unwrap());
        runner.drain().await;
        let leaked = Arc::clone(&leaked);
        let take = |job| async { Ok(Leak { job, leaked }) };
        assert!(runner.request_job(take).await.unwrap());
        runner.drain().await;
    });
    let report = world.report(jobs[1]);
    assert_eq!(report.status, JobStatus::Success, "{}", report.log_text());
    let mut artifact = leaked.lock().unwrap().take().unwrap();
    assert!(read(&mut artifact).is_err());
    let dir = world.dir.path().join("late");
    let late = artifact.extract(&dir, ExtractLimits::default());
    assert!(late.unwrap_err().to_string().contains("come to its end"));
}

#[test]
fn an_artifact_that_becomes_too_long_fails_before_it_is_sent() {
    let world = World::new(6);
    let job = world.enqueue(JobSpec::script(["make"]).artifact_paths(["*"]));
    let mut runner = world.build(world.builder().max_artifact_size(10));
    let maker = maker(&[memory("a", "one")]);
    world.sim.block_on(async {
        assert!(runner.request_job(|_| async { Ok(maker) }).await.unwrap());
        runner.drain().await;
    });
    let report = world.report(job);
    assert_eq!(report.status, JobStatus::Failed);
    let log = report.log_text();
    assert!(log.contains("max_artifact_size"), "{log}");
    assert_eq!(report.artifacts.len(), 0);
}
