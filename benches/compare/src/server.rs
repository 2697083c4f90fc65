//! The server that all clients face: the simulated GitLab of the crate, in a process of its own.

use std::{
    io::{self, Read, Write},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use bytes::Bytes;
use gitlab_runner::{
    Time,
    mock::{
        Answer, ArtifactSpec, BodyLimit, HoldId, JobSpec, JobStatus, MockGitlab, Server,
        http::Loopback,
    },
};
use http::{Method, Request, Response, StatusCode, header::CONTENT_LENGTH, request::Parts};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    BoxError,
    content::{NAME, archive},
    usage::{cpu_time, since_1970},
    work::{Line, Work, texts},
};

pub const TOKEN: &str = "glrt-benchmark";
/// Values to be masked; none of them is in a log.
const MASKED: usize = 5;

/// What the server has seen.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Seen {
    /// Requests for jobs, and about them.
    pub requests: usize,
    pub connections: u64,
    /// Jobs that succeeded with their whole log, and all bytes to be transferred were.
    pub intact: usize,
    /// In seconds.
    pub cpu: f64,
    /// When each job was there to be picked up, in seconds since 1970; of work that measures this.
    pub offered: Vec<f64>,
}

/// Prints the address, serves until the end of the input, and prints what was seen.
pub fn serve(work: Work) -> Result<(), BoxError> {
    let mut gitlab = MockGitlab::new(1);
    gitlab.add_runner(TOKEN);
    let settings = gitlab.settings_mut();
    (
        settings.job_request_limit,
        settings.update_limit,
        settings.trace_limit,
    ) = (0, 0, 0);
    gitlab.set_long_poll(work.long_poll());
    let mut front = Front {
        gitlab,
        archive: Bytes::new(),
        transferred: 0,
    };
    if let Work::Downloads { mib, .. } = work {
        front.archive = archive(mib << 20)?;
    }
    let picked_up = matches!(work, Work::PickUp { .. });
    if !picked_up {
        for _ in 0..work.jobs() {
            front.enqueue(work);
        }
    }
    let loopback = Arc::new(Loopback::start(front)?);
    let mut out = io::stdout();
    writeln!(out, "{}", loopback.url())?;
    out.flush()?;
    let offered = Arc::new(Mutex::new(Vec::new()));
    if picked_up {
        let (loopback, offered) = (Arc::clone(&loopback), Arc::clone(&offered));
        // Ends with the process.
        thread::spawn(move || offer(&loopback, work, &offered));
    }
    io::stdin().read_to_end(&mut Vec::new())?;

    let cpu = cpu_time();
    let texts = texts();
    let mut log = Vec::new();
    for number in 0..work.lines() {
        let texts = &texts;
        writeln!(log, "{}", Line { texts, number })?;
    }
    let offered = offered
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let connections = loopback.connections();
    let seen = loopback.with(|front, _| {
        let gitlab = &front.gitlab;
        let about_jobs: usize = gitlab.reports().map(|job| job.requests.len()).sum();
        let others = gitlab.requests().filter(|request| request.job.is_none());
        let transferred = match work {
            Work::Upload { .. } => front.transferred > 0,
            _ => front.transferred >= work.bytes(),
        };
        Seen {
            connections,
            requests: about_jobs + others.count(),
            intact: gitlab
                .reports()
                .filter(|job| {
                    let whole = job.log == log || work.lines() == 0;
                    job.status == JobStatus::Success && whole && transferred
                })
                .count(),
            cpu,
            offered,
        }
    });
    writeln!(out, "{}", serde_json::to_string(&seen)?)?;
    Ok(())
}

/// Enqueues a job some time after the one before has ended, again and again.
fn offer(loopback: &Loopback<Front>, work: Work, offered: &Mutex<Vec<f64>>) {
    for number in 0..work.jobs() {
        let idle = |front: &mut Front| {
            let mut reports = front.gitlab.reports();
            reports.all(|job| job.status.is_finished()).then_some(())
        };
        if loopback.wait_until(Duration::from_secs(60), idle).is_none() {
            return;
        }
        thread::sleep(Duration::from_millis(300 + (number as u64 * 137) % 400));
        let mut offered = offered.lock().unwrap_or_else(PoisonError::into_inner);
        loopback.with(|front, _| {
            offered.push(since_1970());
            front.enqueue(work);
        });
    }
}

/// The simulated GitLab behind a door at which artifacts are taken in and given out: it would keep
/// them in memory.
struct Front {
    gitlab: MockGitlab,
    archive: Bytes,
    /// In bytes, of all artifacts.
    transferred: usize,
}

impl Front {
    fn enqueue(&mut self, work: Work) {
        let mut job = JobSpec::script(["make"]);
        for number in 0..MASKED {
            job = job.masked_variable(
                format!("SECRET_{number}"),
                format!("correct-horse-{number}-battery-staple"),
            );
        }
        match work {
            Work::Upload { .. } => job = job.artifact(ArtifactSpec::archive([NAME])),
            Work::Downloads { count, .. } => {
                let size = self.archive.len();
                job = job.payload_override(move |payload| {
                    let dependency = |number: usize| {
                        json!({
                            "id": 1_000_000 + number,
                            "name": format!("build {number}"),
                            "token": "glcbt-benchmark",
                            "artifacts_file": { "filename": "artifacts.zip", "size": size },
                        })
                    };
                    payload["dependencies"] = (0..count).map(dependency).collect();
                });
            }
            _ => {}
        }
        let job = self.gitlab.enqueue(job);
        // Somebody looks at each log, so it is sent each three seconds.
        self.gitlab.watch(job, true);
    }
}

impl Server for Front {
    fn handle(&mut self, now: Time, request: Request<Bytes>) -> Answer {
        let mut response = Response::new(Bytes::new());
        if is_artifact(request.method(), request.uri().path(), &Method::POST) {
            let len = request.headers().get(CONTENT_LENGTH);
            let len = len.and_then(|len| len.to_str().ok()?.parse().ok());
            self.transferred += len.unwrap_or(request.body().len());
            *response.status_mut() = StatusCode::CREATED;
        } else if is_artifact(request.method(), request.uri().path(), &Method::GET) {
            self.transferred += self.archive.len();
            *response.body_mut() = self.archive.clone();
        } else {
            return self.gitlab.handle(now, request);
        }
        Answer::Reply(response)
    }

    fn body_limit(&self, head: &Parts) -> Option<BodyLimit> {
        if is_artifact(&head.method, head.uri.path(), &Method::POST) {
            // The rest is read and forgotten.
            return Some(BodyLimit::new(1 << 10, false));
        }
        self.gitlab.body_limit(head)
    }

    fn poll_answer(&mut self, now: Time) -> Option<(HoldId, Answer)> {
        self.gitlab.poll_answer(now)
    }

    fn poll_timeout(&self) -> Option<Time> {
        self.gitlab.poll_timeout()
    }

    fn drop_hold(&mut self, hold: HoldId) {
        self.gitlab.drop_hold(hold);
    }
}

fn is_artifact(method: &Method, path: &str, wanted: &Method) -> bool {
    method == wanted && path.ends_with("/artifacts")
}
