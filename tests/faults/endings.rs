//! Over real sockets, a server that fails, and jobs that do not come to their own end: users cancel
//! them, by force or not, their time is over, and the server wants parts of their logs again or takes
//! its time with their last word.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::join;
use gitlab_runner::{
    JobId, Runner, Time,
    adapter::conformance::{Subject, support::*},
    mock::{
        Endpoint, FaultPlan, Faulty, JobReport, JobStatus, MockGitlab, Override, RequestRecord,
        http::Loopback,
    },
};
use http::Response;

use crate::{
    campaign::{Queued, TOKEN, check, context, duration_of, log_of, print, spec},
    fast::{Fast, FastServer},
};

const JOBS: u64 = 160;
/// Far more than any of them needs, and far fewer than a runner that spins would send.
const MOST_REQUESTS: usize = 120;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    ByItself,
    TimedOut,
    Canceled,
    ForceCanceled,
}

/// How this job is to end.
fn end_of(number: u64) -> End {
    match number % 4 {
        // Only those that would go on for longer than they may.
        1 if duration_of(number) > Duration::from_secs(8) => End::TimedOut,
        2 => End::Canceled,
        3 => End::ForceCanceled,
        _ => End::ByItself,
    }
}

fn enqueue(gitlab: &mut MockGitlab) -> Vec<Queued> {
    let jobs = (0..JOBS).map(|number| {
        let spec = match end_of(number) {
            End::TimedOut => spec(number).timeout(4),
            _ => spec(number),
        };
        let id = gitlab.enqueue(spec);
        storms(gitlab, id, number);
        Queued { number, id }
    });
    jobs.collect()
}

/// What the server wants of this job beside the usual.
fn storms(gitlab: &mut MockGitlab, job: JobId, number: u64) {
    let mut plan = |endpoint, nth, fault| gitlab.plan_for_job(job, endpoint, nth, fault);
    // From the very beginning, although most of it is there.
    let again = || Response::builder().status(416).header("Range", "0-0");
    let again = || Override::Reply(again().body(Bytes::new()).unwrap());
    match number % 5 {
        0 => (1..=3).for_each(|nth| plan(Endpoint::Trace, nth, again())),
        1 => (1..=3).for_each(|_| plan(Endpoint::FinalUpdate, 1, Override::Status(412))),
        2 => (1..=4).for_each(|_| plan(Endpoint::FinalUpdate, 1, Override::Status(202))),
        3 => {
            plan(Endpoint::FinalUpdate, 1, Override::Status(412));
            plan(Endpoint::FinalUpdate, 1, Override::CloseAfter);
            plan(Endpoint::Trace, 2, again());
        }
        _ => {}
    }
}

/// Does to the jobs what users do. True when all is over.
fn users(gitlab: &mut MockGitlab, jobs: &[Queued]) -> bool {
    for job in jobs {
        let running = gitlab
            .report(job.id)
            .is_some_and(|report| report.status == JobStatus::Running && !report.log.is_empty());
        match end_of(job.number) {
            End::Canceled if running => drop(gitlab.cancel(job.id)),
            End::ForceCanceled if running => drop(gitlab.force_cancel(job.id)),
            _ => {}
        }
    }
    gitlab.is_idle()
}

fn check_end(job: Queued, report: &JobReport) {
    let context = || context(job, report);
    assert!(report.requests.len() < MOST_REQUESTS, "{}", context());
    let wanted = log_of(job.number);
    let log = report.log_text();
    match (end_of(job.number), report.status) {
        (End::TimedOut, JobStatus::Failed) => {
            let reason = report.failure_reason.as_deref();
            assert_eq!(reason, Some("job_execution_timeout"), "{}", context());
            let (printed, said) = log.split_once("\u{1b}[31;1mERROR: ").unwrap_or_default();
            // A line of its own.
            assert!(wanted.starts_with(printed.trim_end()), "{}", context());
            assert!(said.starts_with("Job failed: execution took longer than 4"));
        }
        (End::Canceled, JobStatus::Canceled) => {
            assert!(wanted.starts_with(&*log), "{}", context());
            assert_ne!(report.checksum_matches(), Some(false), "{}", context());
            assert_ne!(report.bytesize_matches(), Some(false), "{}", context());
        }
        (End::ForceCanceled, JobStatus::Canceled) => {
            assert!(wanted.starts_with(&*log), "{}", context());
            // Once it has heard of it, it says nothing more; an answer may be lost on its way.
            let refused = |it: &&RequestRecord| it.status == Some(403);
            let refusals = report.requests.iter().filter(refused).count();
            assert!(refusals <= 5, "{}", context());
        }
        // Whoever came to the end before.
        _ => return check(job, report),
    }
    let over = |status: &&JobStatus| !matches!(status, JobStatus::Running | JobStatus::Canceling);
    let ends = report.statuses();
    let ends = ends.iter().rev().take_while(|status| over(status)).count();
    assert_eq!(ends, 1, "{}", context());
}

pub(crate) async fn run(subject: &dyn Subject) {
    let mut gitlab = MockGitlab::new(4);
    gitlab.add_runner(TOKEN);
    gitlab.settings_mut().two_phase_commit = true;
    gitlab.settings_mut().incremental_logging = true;
    gitlab.settings_mut().chunk_persist_delay = Duration::from_secs(5);
    let jobs = enqueue(&mut gitlab);
    let plan = FaultPlan::new(22)
        .with_all(15)
        .with_storm(Time::from_secs(40), Duration::from_secs(20))
        .sparing_jobs();
    let gitlab = Loopback::start(FastServer(Faulty::new(gitlab, plan))).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut runner = Runner::with_adapter(
        gitlab.url().parse().unwrap(),
        TOKEN.to_owned(),
        dir.path().to_owned(),
        Arc::new(Fast(subject.adapter(&[]))),
    );
    let handle = runner.handle();
    let finished = async {
        let finished = elsewhere(move || {
            let over = gitlab.wait_until(LIMIT, |it| users(it.0.server_mut(), &jobs).then_some(()));
            (gitlab, jobs, over)
        });
        let finished = finished.await;
        handle.drain();
        finished
    };
    let (result, (gitlab, jobs, over)) = join(runner.run(print, 80), finished).await;
    result.unwrap();
    assert!(over.is_some(), "not all jobs came to an end");
    gitlab.with(|it, _| {
        let mut ends = [0; 4];
        for job in jobs {
            let report = it.0.server().report(job.id).unwrap();
            check_end(job, report);
            let (canceled, timed_out) = (
                report.status == JobStatus::Canceled,
                report.failure_reason.as_deref() == Some("job_execution_timeout"),
            );
            let end = match end_of(job.number) {
                End::Canceled if canceled => 0,
                End::ForceCanceled if canceled => 1,
                End::TimedOut if timed_out => 2,
                _ => 3,
            };
            ends[end] += 1;
        }
        // Each kind was there, or this shows nothing.
        assert!(ends.iter().all(|count| *count > 10), "{ends:?}");
        println!(
            "{} requests, {:?}, {ends:?}",
            it.0.requests(),
            it.0.counts()
        );
    });
}
