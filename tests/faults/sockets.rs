//! Over real sockets.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use gitlab_runner::{
    Runner, Time,
    adapter::{Adapter, TokioHyper},
    mock::{Fault, FaultPlan, Faulty, MockGitlab, http::Loopback},
};
use url::Url;

use crate::{
    campaign::{TOKEN, check, enqueue, print},
    fast::{Fast, FastServer},
};

/// A hang ends here.
const LIMIT: Duration = Duration::from_secs(60);

async fn run(jobs: u64, concurrency: usize, plan: FaultPlan) {
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
        Arc::new(Fast(TokioHyper::new().unwrap())),
    );
    let handle = runner.handle();
    let finished = async {
        let gitlab = tokio::task::spawn_blocking(move || {
            let idle = gitlab.wait_until(LIMIT, |it| it.0.server().is_idle().then_some(()));
            (gitlab, idle)
        });
        let (gitlab, idle) = gitlab.await.unwrap();
        handle.drain();
        (gitlab, idle)
    };
    let (result, (gitlab, idle)) = tokio::time::timeout(LIMIT, async {
        tokio::join!(runner.run(print, concurrency), finished)
    })
    .await
    .expect("the runner hangs");
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

#[tokio::test(flavor = "multi_thread")]
async fn every_twentieth_request_fails_in_each_way() {
    run(500, 100, FaultPlan::new(20).with_all(50).sparing_jobs()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn storms_of_half_a_minute() {
    let storm = Duration::from_secs(30);
    let plan = [5, 60, 120, 200]
        .iter()
        .fold(FaultPlan::new(21), |plan, at| {
            plan.with_storm(Time::from_secs(*at), storm)
        })
        .with(Fault::CutAfter, 20)
        .sparing_jobs();
    run(200, 20, plan).await;
}

/// Five runners share one adapter, and have 500 live jobs together.
#[tokio::test(flavor = "multi_thread")]
async fn several_runners_on_one_adapter() {
    let mut gitlab = MockGitlab::new(2);
    gitlab.add_runner(TOKEN);
    let queued = enqueue(&mut gitlab, 500);
    let gitlab = Loopback::start(FastServer(gitlab)).unwrap();
    let adapter: Arc<dyn Adapter> = Arc::new(Fast(TokioHyper::new().unwrap()));
    let url: Url = gitlab.url().parse().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut runners: Vec<Runner> = (0..5)
        .map(|number| {
            let dir = dir.path().join(number.to_string());
            let adapter = Arc::clone(&adapter);
            Runner::with_adapter(url.clone(), TOKEN.to_owned(), dir, adapter)
        })
        .collect();
    let handles: Vec<_> = runners.iter().map(Runner::handle).collect();
    let finished = async {
        let waiting = tokio::task::spawn_blocking(move || {
            let idle = gitlab.wait_until(LIMIT, |it| it.0.is_idle().then_some(()));
            (gitlab, idle)
        });
        let outcome = waiting.await.unwrap();
        handles.iter().for_each(|handle| handle.drain());
        outcome
    };
    let runs = join_all(runners.iter_mut().map(|runner| runner.run(print, 100)));
    let (results, (gitlab, idle)) =
        tokio::time::timeout(LIMIT, async { tokio::join!(runs, finished) })
            .await
            .expect("a runner hangs");
    assert!(idle.is_some() && results.iter().all(Result::is_ok));
    gitlab.with(|gitlab, _| {
        for job in queued {
            check(job, gitlab.0.report(job.id).unwrap());
        }
    });
}
