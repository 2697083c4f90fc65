//! The floor: the requests of a runner on a bare hyper client, with nothing decided, masked, checked
//! or repeated.

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
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
    server::TOKEN,
    work::{LINE, Line, Work, texts},
};

/// Lines go out in bodies of this size at the most.
const PATCH: usize = 1 << 20;
/// Lines of a job that logs slowly go out together, each three seconds.
const TICKS: usize = 3;

#[derive(Clone)]
struct Floor {
    http: Client<HttpConnector, Full<Bytes>>,
    server: String,
    texts: Arc<Vec<String>>,
    work: Work,
}

#[derive(Deserialize)]
struct Job {
    id: u64,
    token: String,
}

pub async fn run(server: &str, work: Work) -> Result<(), BoxError> {
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
    match work.idle() {
        Some(time) => tokio::select! {
            failed = floor.ask_for_ever() => failed,
            () = sleep(time) => Ok(()),
        },
        None => floor.run_jobs().await,
    }
}

impl Floor {
    async fn run_jobs(&self) -> Result<(), BoxError> {
        let space = Arc::new(Semaphore::new(self.work.capacity()));
        let (done, all_done) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        for _ in 0..self.work.jobs() {
            let permit = Arc::clone(&space).acquire_owned().await?;
            let (_, _, body) = self.ask("").await?;
            let job: Job = serde_json::from_slice(&body)?;
            let (floor, done, all_done) = (self.clone(), Arc::clone(&done), Arc::clone(&all_done));
            tokio::spawn(async move {
                if let Err(error) = floor.run_job(&job).await {
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

    async fn run_job(&self, job: &Job) -> Result<(), BoxError> {
        self.update(job, "running").await?;
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
        self.update(job, "success").await
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

    async fn ask_for_ever(&self) -> Result<(), BoxError> {
        let mut last_update = String::new();
        loop {
            let (_, headers, _) = self.ask(&last_update).await?;
            match headers.get("x-gitlab-last-update") {
                Some(value) => last_update = value.to_str()?.to_owned(),
                None => sleep(Duration::from_secs(3)).await,
            }
        }
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        range: Option<String>,
        body: Bytes,
    ) -> Result<(StatusCode, HeaderMap, Bytes), BoxError> {
        let uri: Uri = format!("{}/api/v4/{path}", self.server).parse()?;
        let content_type = match range {
            Some(_) => "text/plain",
            None => "application/json",
        };
        let mut request = Request::builder()
            .method(method)
            .uri(uri)
            .header("user-agent", "bare")
            .header("content-type", content_type);
        if let Some(token) = token {
            request = request.header("job-token", token);
        }
        if let Some(range) = range {
            request = request.header("content-range", range);
        }
        let reply = self.http.request(request.body(Full::new(body))?).await?;
        let (head, body) = reply.into_parts();
        let body = body.collect().await?.to_bytes();
        if !head.status.is_success() {
            return Err(format!("{path}: {}", head.status).into());
        }
        Ok((head.status, head.headers, body))
    }
}
