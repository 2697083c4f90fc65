//! Jobs of several kinds, what must come of each, and the handler that runs them.

use std::time::Duration;

use async_trait::async_trait;
use gitlab_runner::{
    Failure, JobHandler, JobId, JobResult, Phase,
    job::Job,
    mock::{JobReport, JobSpec, JobStatus, MockGitlab},
};

pub(crate) const TOKEN: &str = "glrt-campaign";
const SECRET: &str = "a-secret-of-the-campaign";

/// A job that was queued, and its number in the campaign.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Queued {
    pub(crate) number: u64,
    pub(crate) id: JobId,
}

/// Queues so many jobs.
pub(crate) fn enqueue(gitlab: &mut MockGitlab, count: u64) -> Vec<Queued> {
    (0..count)
        .map(|number| Queued {
            number,
            id: gitlab.enqueue(spec(number)),
        })
        .collect()
}

pub(crate) fn spec(number: u64) -> JobSpec {
    JobSpec::script([number.to_string()])
        .name(format!("job-{number}"))
        .masked_variable("SECRET", SECRET)
}

/// What must be in the log of a job that comes to its end.
pub(crate) fn log_of(number: u64) -> String {
    let log: String = output(number).map(|(text, _)| text).collect();
    log.replace(SECRET, "[MASKED]")
}

/// How long it takes.
pub(crate) fn duration_of(number: u64) -> Duration {
    output(number).map(|(_, pause)| pause).sum()
}

/// What the job prints, and how long it waits after each piece.
fn output(number: u64) -> impl Iterator<Item = (String, Duration)> {
    let pieces = 1 + number % 7;
    (0..pieces).map(move |piece| {
        let lines = (number * 31 + piece * 17) % 40;
        let mut text = format!("job {number} piece {piece} with {SECRET}\n");
        for line in 0..lines {
            text += &format!("{number} {piece} {line}: ünïcödé and \x1b[32mcolours\x1b[0m\n");
        }
        (text, Duration::from_secs((number + piece) % 13))
    })
}

fn exit_code(number: u64) -> i32 {
    match number % 5 {
        3 => i32::try_from(number % 100 + 1).unwrap(),
        _ => 0,
    }
}

/// Panics for a job with anything but the right log and final state.
pub(crate) fn check(job: Queued, report: &JobReport) {
    let Queued { number, .. } = job;
    let context = || context(job, report);
    let wanted = log_of(number);
    assert!(
        report.log == wanted.as_bytes(),
        "wrong log of {} bytes, should be {}: {}",
        report.log.len(),
        wanted.len(),
        context()
    );
    let (status, reason, code) = match exit_code(number) {
        0 => (JobStatus::Success, None, None),
        code => (JobStatus::Failed, Some("script_failure"), Some(code.into())),
    };
    assert_eq!(report.status, status, "{}", context());
    assert_eq!(report.failure_reason.as_deref(), reason, "{}", context());
    assert_eq!(report.exit_code, code, "{}", context());
    assert_ne!(report.checksum_matches(), Some(false), "{}", context());
    assert_ne!(report.bytesize_matches(), Some(false), "{}", context());
    let ends = report
        .statuses()
        .iter()
        .filter(|status| matches!(status, JobStatus::Success | JobStatus::Failed))
        .count();
    assert_eq!(ends, 1, "{}", context());
}

/// What is known of a job, for people.
pub(crate) fn context(job: Queued, report: &JobReport) -> String {
    let requests: Vec<_> = report
        .requests
        .iter()
        .map(|it| {
            let (range, len) = (it.content_range.as_deref().unwrap_or("-"), it.body_len);
            let (state, status) = (it.state.as_deref().unwrap_or("-"), it.status);
            format!(
                "{} {} {state} {range} {len} bytes: {status:?}\n",
                it.at, it.method
            )
        })
        .collect();
    format!(
        "job {} is {:?} {:?} {:?}\n{:?}\n{}",
        job.number,
        report.status,
        report.failure_reason,
        report.exit_code,
        report.changes,
        requests.concat()
    )
}

/// Panics for a job that is not right, unless GitLab could not be told in time that it was taken: then
/// it must be known there as failed by the runner.
pub(crate) fn check_or_failed(job: Queued, report: &JobReport) {
    match report.failure_reason.as_deref() {
        Some("runner_system_failure" | "runner_provisioning_timeout") => {
            assert!(report.log.is_empty(), "{report:#?}");
            assert_eq!(report.status, JobStatus::Failed, "{report:#?}");
        }
        _ => check(job, report),
    }
}

/// Prints what the job's script, its number, stands for.
pub(crate) struct Print(Job);

pub(crate) async fn print(job: Job) -> Result<Print, ()> {
    Ok(Print(job))
}

#[async_trait]
impl JobHandler for Print {
    async fn step(&mut self, script: &[String], _: Phase) -> JobResult {
        let number = script[0].parse().map_err(|_| ())?;
        for (text, pause) in output(number) {
            // In two halves, so that the secret is cut.
            let middle = text.find(SECRET).unwrap() + 5;
            self.0.trace(&text[..middle]);
            self.0.trace(&text[middle..]);
            self.0.sleep(pause).await;
        }
        match exit_code(number) {
            0 => Ok(()),
            code => self.0.fail(Failure::exit_code(code)),
        }
    }
}
