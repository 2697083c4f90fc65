//! One simulated GitLab, one clock, and requests written by hand.

use std::time::Duration;

use bytes::Bytes;
use gitlab_runner::{
    JobId, Time,
    mock::{Answer, HoldId, JobReport, JobSpec, JobStatus, MockGitlab, RunnerNumber, Server},
};
use http::{Method, Request, Response};
use serde_json::{Value, json};

/// The token of the runner that every [`World`] has.
pub(crate) const TOKEN: &str = "glrt-example";
pub(crate) const SYSTEM_ID: &str = "s_0123456789ab";

pub(crate) struct World {
    pub(crate) gitlab: MockGitlab,
    pub(crate) runner: RunnerNumber,
    pub(crate) now: Time,
}

/// A job on the runner, and its token.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) id: JobId,
    pub(crate) token: String,
}

impl World {
    /// A GitLab with one runner and neither jobs nor the wrapper that holds job requests.
    pub(crate) fn new() -> Self {
        let mut gitlab = MockGitlab::new(7);
        gitlab.set_long_poll(None);
        let runner = gitlab.add_runner(TOKEN);
        Self {
            gitlab,
            runner,
            now: Time::from_secs(1000),
        }
    }

    /// As [`Self::new`], with job requests held for 50 s.
    pub(crate) fn with_long_poll() -> Self {
        let mut world = Self::new();
        world.gitlab.set_long_poll(Some(Duration::from_secs(50)));
        world
    }

    pub(crate) fn wait(&mut self, seconds: u64) {
        self.wait_for(Duration::from_secs(seconds));
    }

    pub(crate) fn wait_for(&mut self, duration: Duration) {
        self.now = self.now + duration;
        self.gitlab.advance(self.now);
    }

    pub(crate) fn answer(&mut self, request: Request<Bytes>) -> Answer {
        self.gitlab.handle(self.now, request)
    }

    /// The reply to a request that is neither held nor cut off.
    pub(crate) fn send(&mut self, request: Request<Bytes>) -> Reply {
        match self.answer(request) {
            Answer::Reply(reply) => Reply(reply),
            answer => panic!("no reply but {answer:?}"),
        }
    }

    /// The reply to a JSON body.
    pub(crate) fn json(&mut self, method: Method, path: &str, body: &Value) -> Reply {
        self.send(json_request(method, path, body))
    }

    pub(crate) fn verify(&mut self, body: &Value) -> Reply {
        self.json(Method::POST, "runners/verify", body)
    }

    pub(crate) fn ask(&mut self, body: &Value) -> Reply {
        self.json(Method::POST, "jobs/request", body)
    }

    /// Asks for a job the plain way.
    pub(crate) fn ask_plainly(&mut self) -> Reply {
        self.ask(&json!({ "token": TOKEN, "system_id": SYSTEM_ID }))
    }

    /// Asks for a job as a runner with these features.
    pub(crate) fn ask_with(&mut self, features: &[&str]) -> Reply {
        self.ask(&asking_with(features))
    }

    /// Puts a request on hold.
    pub(crate) fn hold(&mut self, last_update: &str) -> HoldId {
        match self.answer(json_request(
            Method::POST,
            "jobs/request",
            &json!({ "token": TOKEN, "system_id": SYSTEM_ID, "last_update": last_update }),
        )) {
            Answer::Hold(hold) => hold,
            answer => panic!("not held: {answer:?}"),
        }
    }

    /// The answer that is due to a request on hold, if any.
    pub(crate) fn released(&mut self) -> Option<(HoldId, Reply)> {
        match self.gitlab.poll_answer(self.now)? {
            (hold, Answer::Reply(reply)) => Some((hold, Reply(reply))),
            (_, answer) => panic!("no reply but {answer:?}"),
        }
    }

    pub(crate) fn queue_value(&self) -> String {
        self.gitlab.last_update(self.runner).unwrap().to_owned()
    }

    /// Queues a job and hands it to the runner.
    pub(crate) fn start(&mut self, spec: JobSpec) -> Running {
        self.start_with(spec, &[])
    }

    /// Queues a job and hands it to the runner, which has these features.
    pub(crate) fn start_with(&mut self, spec: JobSpec, features: &[&str]) -> Running {
        let id = self.gitlab.enqueue(spec);
        let reply = self.ask_with(features);
        assert_eq!(reply.status(), 201, "{}", reply.text());
        let payload = reply.body();
        assert_eq!(payload["id"], id.0);
        Running {
            id,
            token: payload["token"].as_str().unwrap().to_owned(),
        }
    }

    pub(crate) fn running(&mut self) -> Running {
        self.start(job())
    }

    /// As [`Self::running`], for a runner that cancels gracefully.
    pub(crate) fn running_gracefully(&mut self) -> Running {
        self.start_with(job(), &["cancel_gracefully"])
    }

    pub(crate) fn put(&mut self, job: &Running, state: &str) -> Reply {
        self.put_with(job, json!({ "state": state }))
    }

    /// Updates a job; its token is added to the body.
    pub(crate) fn put_with(&mut self, job: &Running, mut body: Value) -> Reply {
        body["token"] = job.token.as_str().into();
        self.json(Method::PUT, &format!("jobs/{}", job.id), &body)
    }

    /// Appends to the log from `start` on.
    pub(crate) fn patch(&mut self, job: &Running, start: usize, log: &str) -> Reply {
        let end = (start + log.len()).saturating_sub(1);
        self.patch_range(job, &format!("{start}-{end}"), log)
    }

    pub(crate) fn patch_range(&mut self, job: &Running, range: &str, log: &str) -> Reply {
        let request = patch_request(job)
            .header("Content-Range", range)
            .body(Bytes::copy_from_slice(log.as_bytes()))
            .unwrap();
        self.send(request)
    }

    /// Uploads an artifact the way a runner should: what it is in the query, the file in the form.
    pub(crate) fn upload(
        &mut self,
        job: &Running,
        query: &str,
        filename: &str,
        file: &[u8],
    ) -> Reply {
        self.send(upload_request(job, query, &[file_part(filename, file)]))
    }

    /// Uploads an archive.
    pub(crate) fn upload_archive(&mut self, job: &Running, content: &[u8]) -> Reply {
        self.upload(
            job,
            "artifact_format=zip&artifact_type=archive",
            "artifacts.zip",
            content,
        )
    }

    /// Asks for the archive of `dependency` with the token of `job`.
    pub(crate) fn download(&mut self, job: &Running, dependency: JobId, query: &str) -> Reply {
        self.send(download_request(&job.token, dependency, query))
    }

    pub(crate) fn report(&self, job: JobId) -> &JobReport {
        self.gitlab.report(job).unwrap()
    }

    pub(crate) fn status(&self, job: JobId) -> JobStatus {
        self.report(job).status
    }
}

/// A reply, looked at from outside.
#[derive(Debug)]
pub(crate) struct Reply(pub(crate) Response<Bytes>);

impl Reply {
    pub(crate) fn status(&self) -> u16 {
        self.0.status().as_u16()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        Some(self.0.headers().get(name)?.to_str().unwrap())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(self.0.body()).unwrap()
    }

    pub(crate) fn body(&self) -> Value {
        serde_json::from_slice(self.0.body()).unwrap()
    }

    pub(crate) fn job_status(&self) -> Option<&str> {
        self.header("Job-Status")
    }

    pub(crate) fn last_update(&self) -> Option<&str> {
        self.header("X-GitLab-Last-Update")
    }

    pub(crate) fn range(&self) -> Option<&str> {
        self.header("Range")
    }

    pub(crate) fn interval(&self) -> Option<&str> {
        self.header("X-GitLab-Trace-Update-Interval")
    }

    /// Status, reason and `Job-Status` of a refusal.
    pub(crate) fn assert_forbidden(&self, reason: Option<&str>, job_status: Option<&str>) {
        let message = match reason {
            Some(reason) => format!("403 Forbidden - {reason}"),
            None => "403 Forbidden".to_owned(),
        };
        assert_eq!(self.status(), 403, "{}", self.text());
        assert_eq!(self.body(), json!({ "message": message }));
        assert_eq!(self.job_status(), job_status);
    }
}

/// A job of one line.
pub(crate) fn job() -> JobSpec {
    JobSpec::script(["make"])
}

pub(crate) fn asking_with(features: &[&str]) -> Value {
    let features: serde_json::Map<String, Value> = features
        .iter()
        .map(|&name| (name.to_owned(), true.into()))
        .collect();
    json!({
        "token": TOKEN,
        "system_id": SYSTEM_ID,
        "info": { "name": "example", "features": features },
    })
}

pub(crate) fn json_request(method: Method, path: &str, body: &Value) -> Request<Bytes> {
    Request::builder()
        .method(method)
        .uri(format!("/api/v4/{path}"))
        .header("Content-Type", "application/json")
        .body(body.to_string().into())
        .unwrap()
}

/// A patch with the job's token in the header, to be given a range and a body.
pub(crate) fn patch_request(job: &Running) -> http::request::Builder {
    Request::patch(format!("/api/v4/jobs/{}/trace", job.id))
        .header("JOB-TOKEN", &job.token)
        .header("Content-Type", "text/plain")
}

pub(crate) const BOUNDARY: &str = "0123456789abcdef";

/// A part with a file, as it is in a form.
pub(crate) fn file_part(filename: &str, content: &[u8]) -> Vec<u8> {
    let mut part = format!(
        "Content-Disposition: form-data; name=\"file\"; filename=\"{filename}\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n"
    )
    .into_bytes();
    part.extend_from_slice(content);
    part
}

/// A part with a field, as it is in a form.
pub(crate) fn field_part(name: &str, value: &str) -> Vec<u8> {
    format!("Content-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}").into_bytes()
}

/// A form of these parts.
pub(crate) fn form(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut body = Vec::new();
    for part in parts {
        body.extend_from_slice(format!("--{BOUNDARY}\r\n").as_bytes());
        body.extend_from_slice(part);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    body
}

/// An upload with the job's token in the header.
pub(crate) fn upload_request(job: &Running, query: &str, parts: &[Vec<u8>]) -> Request<Bytes> {
    Request::post(format!("/api/v4/jobs/{}/artifacts?{query}", job.id))
        .header("JOB-TOKEN", &job.token)
        .header("Content-Type", form_type())
        .body(form(parts).into())
        .unwrap()
}

pub(crate) fn form_type() -> String {
    format!("multipart/form-data; boundary={BOUNDARY}")
}

pub(crate) fn download_request(token: &str, dependency: JobId, query: &str) -> Request<Bytes> {
    Request::get(format!("/api/v4/jobs/{dependency}/artifacts?{query}"))
        .header("JOB-TOKEN", token)
        .body(Bytes::new())
        .unwrap()
}

pub(crate) fn crc32(log: &str) -> String {
    format!("crc32:{:08x}", crc32fast::hash(log.as_bytes()))
}
