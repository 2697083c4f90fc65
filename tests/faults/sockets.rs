//! Over real sockets, on each adapter.

use std::sync::Arc;

use futures::future::{join, join_all};
use gitlab_runner::{
    Runner, Time,
    adapter::conformance::{self, Subject, support::*},
    mock::{Fault, FaultPlan, Faulty, MockGitlab, http::Loopback},
};
use url::Url;

use crate::{
    artifacts,
    campaign::{TOKEN, check, enqueue, print},
    endings,
    fast::{Fast, FastServer},
};

macro_rules! on {
    ($runtime:ident, $subject:expr, $jobs:expr) => {
        mod $runtime {
            use super::*;

            #[test]
            fn every_twentieth_request_fails_in_each_way() {
                conformance::run(&$subject, |it| Box::pin(trouble(it, $jobs)));
            }

            #[test]
            fn storms_of_half_a_minute() {
                conformance::run(&$subject, |it| Box::pin(storms(it, $jobs)));
            }

            #[test]
            fn several_runners_on_one_adapter() {
                conformance::run(&$subject, |it| Box::pin(several_runners(it, $jobs)));
            }

            #[test]
            fn cancels_timeouts_and_servers_that_want_it_again() {
                conformance::run(&$subject, |it| Box::pin(endings::run(it)));
            }

            #[test]
            fn artifacts_go_from_job_to_job() {
                conformance::run(&$subject, |it| Box::pin(artifacts::with_trouble(it)));
            }

            #[test]
            fn object_storage_sees_no_token() {
                conformance::run(&$subject, |it| Box::pin(artifacts::object_storage(it)));
            }
        }
    };
}

#[cfg(feature = "tokio")]
on!(tokio, crate::subjects::OnTokio, 500);
#[cfg(feature = "smol")]
on!(smol, crate::subjects::OnSmol, 200);
#[cfg(feature = "async-std")]
on!(async_std, crate::subjects::OnAsyncStd, 100);

async fn run(subject: &dyn Subject, jobs: u64, concurrency: usize, plan: FaultPlan) {
    let mut gitlab = MockGitlab::new(1);
    gitlab.add_runner(TOKEN);
    // Jobs whose hand-out was lost come back.
    gitlab.settings_mut().two_phase_commit = true;
    let queued = enqueue(&mut gitlab, jobs);
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
            let idle = gitlab.wait_until(LIMIT, |it| it.0.server().is_idle().then_some(()));
            (gitlab, idle)
        });
        let finished = finished.await;
        handle.drain();
        finished
    };
    let (result, (gitlab, idle)) = join(runner.run(print, concurrency), finished).await;
    result.unwrap();
    gitlab.with(|it, _| {
        let counts = it.0.counts();
        if idle.is_none() {
            for job in &queued {
                let report = it.0.server().report(job.id).unwrap();
                assert!(report.is_finished(), "stuck: {report:#?}");
            }
        }
        for job in queued {
            check(job, it.0.server().report(job.id).unwrap());
        }
        println!("{} requests, faults: {counts:?}", it.0.requests());
    });
}

async fn trouble(subject: &dyn Subject, jobs: u64) {
    let plan = FaultPlan::new(20).with_all(50).sparing_jobs();
    run(subject, jobs, 100, plan).await;
}

async fn storms(subject: &dyn Subject, jobs: u64) {
    let storm = std::time::Duration::from_secs(30);
    let plan = [5, 60, 120, 200]
        .iter()
        .fold(FaultPlan::new(21), |plan, at| {
            plan.with_storm(Time::from_secs(*at), storm)
        })
        .with(Fault::CutAfter, 20)
        .sparing_jobs();
    run(subject, jobs.min(200), 20, plan).await;
}

/// Five runners share one adapter, and have 500 live jobs together.
async fn several_runners(subject: &dyn Subject, jobs: u64) {
    let mut gitlab = MockGitlab::new(2);
    gitlab.add_runner(TOKEN);
    let queued = enqueue(&mut gitlab, jobs);
    let gitlab = Loopback::start(FastServer(gitlab)).unwrap();
    let adapter = Arc::new(Fast(subject.adapter(&[])));
    let url: Url = gitlab.url().parse().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut runners: Vec<Runner> = (0..5)
        .map(|number| {
            let dir = dir.path().join(number.to_string());
            Runner::with_adapter(url.clone(), TOKEN.to_owned(), dir, adapter.clone())
        })
        .collect();
    let handles: Vec<_> = runners.iter().map(Runner::handle).collect();
    let finished = async {
        let finished = elsewhere(move || {
            let idle = gitlab.wait_until(LIMIT, |it| it.0.is_idle().then_some(()));
            (gitlab, idle)
        });
        let finished = finished.await;
        handles.iter().for_each(|handle| handle.drain());
        finished
    };
    let runs = join_all(runners.iter_mut().map(|runner| runner.run(print, 100)));
    let (results, (gitlab, idle)) = join(runs, finished).await;
    assert!(idle.is_some() && results.iter().all(Result::is_ok));
    gitlab.with(|gitlab, _| {
        for job in queued {
            check(job, gitlab.0.report(job.id).unwrap());
        }
    });
}
