//! The server that all clients face: the simulated GitLab of the crate, in a process of its own.

use std::io::{self, Read, Write};
use std::time::Duration;

use gitlab_runner::mock::{JobSpec, JobStatus, MockGitlab, http::Loopback};
use serde::{Deserialize, Serialize};

use crate::{
    BoxError,
    usage::cpu_time,
    work::{Line, Work, texts},
};

pub const TOKEN: &str = "glrt-benchmark";
/// Values to be masked; none of them is in a log.
const MASKED: usize = 5;

/// What the server has seen.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Seen {
    /// Requests for jobs, and about them.
    pub requests: usize,
    /// Jobs that succeeded with their whole log.
    pub intact: usize,
    /// In seconds.
    pub cpu: f64,
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
    if let Work::Idle { .. } = work {
        gitlab.set_long_poll(Some(Duration::from_secs(50)));
    }
    for _ in 0..work.jobs() {
        let mut job = JobSpec::script(["make"]);
        for number in 0..MASKED {
            job = job.masked_variable(
                format!("SECRET_{number}"),
                format!("correct-horse-{number}-battery-staple"),
            );
        }
        let job = gitlab.enqueue(job);
        // Somebody looks at each log, so it is sent each three seconds.
        gitlab.watch(job, true);
    }
    let loopback = Loopback::start(gitlab)?;
    let mut out = io::stdout();
    writeln!(out, "{}", loopback.url())?;
    out.flush()?;
    io::stdin().read_to_end(&mut Vec::new())?;

    let cpu = cpu_time();
    let texts = texts();
    let mut log = Vec::new();
    for number in 0..work.lines() {
        let texts = &texts;
        writeln!(log, "{}", Line { texts, number })?;
    }
    let seen = loopback.with(|gitlab, _| {
        let about_jobs: usize = gitlab.reports().map(|job| job.requests.len()).sum();
        let others = gitlab.requests().filter(|request| request.job.is_none());
        Seen {
            requests: about_jobs + others.count(),
            intact: gitlab
                .reports()
                .filter(|job| job.status == JobStatus::Success && job.log == log)
                .count(),
            cpu,
        }
    });
    writeln!(out, "{}", serde_json::to_string(&seen)?)?;
    Ok(())
}
