//! The floor: the requests of a runner on a bare hyper client, with nothing decided, masked, checked
//! or repeated.

use std::{
    convert::Infallible,
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress, Status};
use futures::stream::{self, BoxStream, StreamExt};
use http::{HeaderMap, Method, Request, StatusCode, Uri, request::Builder};
use http_body_util::{BodyExt, Either, Full, StreamBody};
use hyper::body::Frame;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use serde::Deserialize;
use tokio::{
    sync::{Notify, Semaphore},
    time::{MissedTickBehavior, interval, sleep},
};

use crate::{
    BoxError,
    content::{Made, MadeData},
    server::TOKEN,
    usage::Outcome,
    work::{Content, LINE, Line, Work, texts},
};

/// Lines go out in bodies of this size at the most.
const PATCH: usize = 1 << 20;
/// Lines of a job that logs slowly go out together, each three seconds.
const TICKS: usize = 3;
/// Artifacts are sent in pieces of this size.
const PIECE: usize = 256 << 10;
/// That of the runner, unless the job says otherwise.
const LEVEL: u32 = 5;

type Frames = BoxStream<'static, Result<Frame<Bytes>, Infallible>>;
type Body = Either<Full<Bytes>, StreamBody<Frames>>;

#[derive(Clone)]
struct Floor {
    http: Client<HttpConnector, Body>,
    server: String,
    texts: Arc<Vec<String>>,
    work: Work,
}

#[derive(Deserialize)]
struct Job {
    id: u64,
    token: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    id: u64,
    token: String,
}

pub async fn run(server: &str, work: Work, outcome: &Arc<Outcome>) -> Result<(), BoxError> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let http = Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_max_idle_per_host(128)
        .build(connector);
    let floor = Floor {
        http,
        server: server.to_owned(),
        texts: Arc::new(texts()),
        work,
    };
    let verify = format!(r#"{{"token":"{TOKEN}","system_id":"s_0123456789ab"}}"#);
    floor
        .call(Method::POST, "runners/verify", None, None, verify.into())
        .await?;
    let mut last_update = String::new();
    match work.idle() {
        Some(time) => tokio::select! {
            asked = floor.ask_until_job(&mut last_update) => asked.map(drop),
            () = sleep(time) => Ok(()),
        },
        None => floor.run_jobs(outcome).await,
    }
}

impl Floor {
    async fn run_jobs(&self, outcome: &Arc<Outcome>) -> Result<(), BoxError> {
        let space = Arc::new(Semaphore::new(self.work.capacity()));
        let (done, all_done) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let mut last_update = String::new();
        for _ in 0..self.work.jobs() {
            let permit = Arc::clone(&space).acquire_owned().await?;
            let body = self.ask_until_job(&mut last_update).await?;
            let job: Job = serde_json::from_slice(&body)?;
            let (floor, done, all_done) = (self.clone(), Arc::clone(&done), Arc::clone(&all_done));
            let outcome = Arc::clone(outcome);
            tokio::spawn(async move {
                if let Err(error) = floor.run_job(&job, &outcome).await {
                    eprintln!("job {}: {error}", job.id);
                }
                drop(permit);
                if done.fetch_add(1, Ordering::Relaxed) + 1 == floor.work.jobs() {
                    all_done.notify_one();
                }
            });
        }
        all_done.notified().await;
        Ok(())
    }

    async fn run_job(&self, job: &Job, outcome: &Outcome) -> Result<(), BoxError> {
        self.update(job, "running").await?;
        outcome.started();
        for dependency in &job.dependencies {
            if self.download(dependency).await.is_err() {
                outcome.failed();
            }
        }
        let mut sent = 0;
        let mut body = Vec::new();
        let (texts, lines) = (&self.texts, self.work.lines());
        let mut ticks = self.work.pause().map(interval);
        if let Some(ticks) = &mut ticks {
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks.tick().await;
        }
        for number in 0..lines {
            if let Some(ticks) = &mut ticks {
                ticks.tick().await;
            }
            writeln!(body, "{}", Line { texts, number })?;
            let full = match ticks {
                Some(_) => body.len() == TICKS * LINE,
                None => body.len() + LINE > PATCH,
            };
            if full || number + 1 == lines {
                let len = body.len();
                self.patch(job, sent, std::mem::take(&mut body).into())
                    .await?;
                sent += len;
            }
        }
        if let Some(made) = Made::of(self.work) {
            self.upload(job, &made).await?;
        }
        self.update(job, "success").await
    }

    async fn download(&self, dependency: &Dependency) -> Result<(), BoxError> {
        let path = format!("jobs/{}/artifacts?direct_download=true", dependency.id);
        let request = self
            .request(Method::GET, &path, Some(&dependency.token))?
            .body(Either::Left(Full::default()))?;
        let reply = self.http.request(request).await?;
        let status = reply.status();
        let mut body = reply.into_body();
        let mut len = 0;
        while let Some(frame) = body.frame().await {
            len += frame?.data_ref().map_or(0, Bytes::len);
        }
        if !status.is_success() || len == 0 {
            return Err(format!("{path}: {status}").into());
        }
        Ok(())
    }

    async fn upload(&self, job: &Job, made: &Made) -> Result<(), BoxError> {
        let path = format!("jobs/{}/artifacts?artifact_format=zip", job.id);
        let head = Bytes::from_static(
            b"--bare\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.zip\"\r\n\r\n",
        );
        let tail = Bytes::from_static(b"\r\n--bare--\r\n");
        let mut request = self
            .request(Method::POST, &path, Some(&job.token))?
            .header("content-type", "multipart/form-data; boundary=bare");
        let content = match self.work {
            Work::Upload {
                content: Content::Text,
                ..
            } => deflated(made.data()).boxed(),
            _ => {
                request = request.header("content-length", head.len() + made.len + tail.len());
                let mut data = made.data();
                stream::iter(std::iter::from_fn(move || {
                    Some(data.next(PIECE)).filter(|piece| !piece.is_empty())
                }))
                .boxed()
            }
        };
        let body = stream::iter([head])
            .chain(content)
            .chain(stream::iter([tail]))
            .map(|bytes| Ok(Frame::data(bytes)))
            .boxed();
        let request = request.body(Either::Right(StreamBody::new(body)))?;
        let reply = self.http.request(request).await?;
        if !reply.status().is_success() {
            return Err(format!("{path}: {}", reply.status()).into());
        }
        Ok(())
    }

    async fn patch(&self, job: &Job, start: usize, body: Bytes) -> Result<(), BoxError> {
        let range = format!("{start}-{}", start + body.len() - 1);
        let path = format!("jobs/{}/trace?debug_trace=false", job.id);
        self.call(Method::PATCH, &path, Some(&job.token), Some(range), body)
            .await?;
        Ok(())
    }

    async fn update(&self, job: &Job, state: &str) -> Result<(), BoxError> {
        let body = format!(r#"{{"token":"{}","state":"{state}"}}"#, job.token);
        let path = format!("jobs/{}", job.id);
        self.call(Method::PUT, &path, Some(&job.token), None, body.into())
            .await?;
        Ok(())
    }

    async fn ask(&self, last_update: &str) -> Result<(StatusCode, HeaderMap, Bytes), BoxError> {
        let body = format!(
            r#"{{"token":"{TOKEN}","system_id":"s_0123456789ab","last_update":"{last_update}","info":{{"name":"bare","executor":"custom","features":{{"variables":true,"raw_variables":true,"refspecs":true,"masking":true,"trace_reset":true,"trace_checksum":true,"trace_size":true,"cancelable":true,"cancel_gracefully":true,"return_exit_code":true,"multi_build_steps":true,"two_phase_job_commit":true}}}}}}"#
        );
        self.call(Method::POST, "jobs/request", None, None, body.into())
            .await
    }

    /// The body of the first reply that has a job.
    async fn ask_until_job(&self, last_update: &mut String) -> Result<Bytes, BoxError> {
        loop {
            let (status, headers, body) = self.ask(last_update).await?;
            if status == StatusCode::CREATED {
                return Ok(body);
            }
            if let Some(value) = headers.get("x-gitlab-last-update") {
                value.to_str()?.clone_into(last_update);
            }
            if !headers.contains_key("gitlab-ci-builds-polling") {
                sleep(Duration::from_secs(3)).await;
            }
        }
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
    ) -> Result<Builder, BoxError> {
        let uri: Uri = format!("{}/api/v4/{path}", self.server).parse()?;
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header("user-agent", "bare");
        Ok(match token {
            Some(token) => request.header("job-token", token),
            None => request,
        })
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        range: Option<String>,
        body: Bytes,
    ) -> Result<(StatusCode, HeaderMap, Bytes), BoxError> {
        let content_type = match range {
            Some(_) => "text/plain",
            None => "application/json",
        };
        let mut request = self
            .request(method, path, token)?
            .header("content-type", content_type);
        if let Some(range) = range {
            request = request.header("content-range", range);
        }
        let request = request.body(Either::Left(Full::new(body)))?;
        let reply = self.http.request(request).await?;
        let (head, body) = reply.into_parts();
        let body = body.collect().await?.to_bytes();
        if !head.status.is_success() {
            return Err(format!("{path}: {}", head.status).into());
        }
        Ok((head.status, head.headers, body))
    }
}

/// The data, compressed piece by piece as they are sent.
fn deflated(data: MadeData) -> impl futures::Stream<Item = Bytes> {
    let compress = Compress::new(Compression::new(LEVEL), false);
    stream::unfold(
        (data, compress, false),
        async |(mut data, mut compress, over)| {
            if over {
                return None;
            }
            let mut out = Vec::with_capacity(PIECE);
            let mut over = false;
            // Until there is something to send.
            while out.is_empty() && !over {
                let mut piece = data.next(PIECE);
                let flush = match piece.is_empty() {
                    true => FlushCompress::Finish,
                    false => FlushCompress::None,
                };
                while !over {
                    out.reserve(PIECE);
                    let before = compress.total_in();
                    let status = compress.compress_vec(&piece, &mut out, flush).ok()?;
                    over = status == Status::StreamEnd;
                    piece = piece.slice((compress.total_in() - before) as usize..);
                    if piece.is_empty() && out.len() < out.capacity() {
                        break;
                    }
                }
            }
            Some((Bytes::from(out), (data, compress, over)))
        },
    )
}
