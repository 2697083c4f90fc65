//! Answers whose bodies come slowly.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use gitlab_runner::{
    Time,
    adapter::Body,
    mock::{
        Answer, Endpoint, JobReport, JobSpec, JobStatus, MockGitlab, Override, Server, Trickle,
    },
    sim::Sim,
};
use http::{Request, Response};

use crate::{
    dependencies::{TAKEN, make_and_take_with},
    world::World,
};

const SECOND: Duration = Duration::from_secs(1);

/// Says `abcde` slowly, and that it is as long as the path tells.
struct Slow;

impl Server for Slow {
    fn handle(&mut self, _: Time, request: Request<Bytes>) -> Answer {
        let length = request.uri().path().trim_start_matches('/').to_owned();
        let reply = Response::builder().header("Content-Length", length);
        let reply = reply.extension(Trickle::new(2, 3 * SECOND));
        Answer::Reply(reply.body(Bytes::from_static(b"abcde")).unwrap())
    }
}

#[test]
fn pieces_come_on_time() {
    for (length, is_cut) in [("5", false), ("9", true)] {
        let sim = Sim::new(1);
        sim.serve("slow.test", Slow);
        sim.block_on(async {
            let request = Request::get(format!("http://slow.test/{length}"));
            let request = request.body(Body::Empty).unwrap();
            let reply = sim.adapter().send(request).await.unwrap();
            let Body::Stream { len, mut chunks } = reply.into_body() else {
                panic!("not a stream");
            };
            assert_eq!(len.map(|len| len.to_string()), Some(length.to_owned()));
            let head = sim.now();
            for (seconds, piece) in [(3, "ab"), (6, "cd"), (9, "e")] {
                assert_eq!(chunks.next().await.unwrap().unwrap(), piece);
                assert_eq!(sim.now().since(head), seconds * SECOND);
            }
            assert_eq!(chunks.next().await.is_some_and(|end| end.is_err()), is_cut);
            assert!(chunks.next().await.is_none());
        });
    }
}

/// Runs a job while this goes wrong.
fn run(plans: impl IntoIterator<Item = (Endpoint, Trickle)>) -> (World, JobReport) {
    let world = World::new(2);
    world.gitlab.with(|gitlab, _| {
        for (endpoint, trickle) in plans {
            gitlab.plan(endpoint, 1, Override::Trickle(trickle));
        }
    });
    let report = world.run_job(JobSpec::script(["make"]), |job, _| async move {
        job.trace("made\n");
        job.sleep(100 * SECOND).await;
        Ok(())
    });
    let pending = world.gitlab.with(|gitlab, _| gitlab.pending_plans());
    assert_eq!(pending, 0);
    (world, report)
}

#[test]
fn answers_that_trickle_are_answers() {
    let slow = [
        Endpoint::Verify,
        Endpoint::KeepAlive,
        Endpoint::Trace,
        Endpoint::FinalUpdate,
    ];
    for endpoint in slow {
        let (_, report) = run([(endpoint, Trickle::new(10, 4 * SECOND))]);
        assert_eq!(report.status, JobStatus::Success, "{endpoint:?}");
        assert_eq!(report.log_text(), "made\n");
        assert!(report.requests.iter().all(|request| request.delivered));
    }
}

#[test]
fn a_job_that_trickles_is_run_when_all_of_it_is_there() {
    // About 5 KB.
    let (_, report) = run([(Endpoint::JobRequest, Trickle::new(64, SECOND))]);
    assert_eq!(report.status, JobStatus::Success);
    assert_eq!(report.log_text(), "made\n");
    let asked = report.started_at.unwrap();
    let first = report.requests.iter().find(|it| it.method == "PUT");
    let waited = first.unwrap().at.since(asked);
    assert!(waited > 40 * SECOND && waited < 120 * SECOND, "{waited:?}");
}

/// Nobody can tell when the rest would come, so the request is given up and the next one made.
#[test]
fn a_job_that_trickles_for_ever_does_not_keep_the_runner() {
    let world = World::new(3);
    world.gitlab.with(|gitlab, _| {
        let trickle = Trickle::new(1, 10 * SECOND);
        gitlab.plan(Endpoint::JobRequest, 1, Override::Trickle(trickle));
    });
    let lost = world.enqueue(JobSpec::script(["lost"]));
    let next = world.enqueue(JobSpec::script(["next"]));
    let mut runner = world.runner();
    world.sim.block_on(async {
        let handler = |job| async { Ok(crate::world::Steps::new(job, |_, _| async { Ok(()) })) };
        while !world.report(next).is_finished() {
            let _ = runner.request_job(handler).await;
            runner.drain().await;
        }
    });
    let requests = world.gitlab.with(|gitlab: &mut MockGitlab, _| {
        let requests = gitlab.requests();
        let polls = requests.filter(|request| request.path.ends_with("/jobs/request"));
        polls.map(|request| request.at).collect::<Vec<_>>()
    });
    let apart = requests[1].since(requests[0]);
    assert!(apart >= 120 * SECOND && apart < 130 * SECOND, "{apart:?}");
    assert_eq!(world.report(next).status, JobStatus::Success);
    assert_eq!(world.report(lost).status, JobStatus::Running);
}

/// A download may take as long as it likes while something comes of it.
#[test]
fn downloads_may_trickle_but_not_stall() {
    for (every, downloads) in [(50, 1), (70, 2)] {
        let world = World::new(4);
        world.gitlab.with(|gitlab, _| {
            let trickle = Trickle::new(20, every * SECOND);
            gitlab.plan(Endpoint::ArtifactDownload, 1, Override::Trickle(trickle));
        });
        let (report, found) = make_and_take_with(&world, world.runner(), |_| ());
        assert_eq!(report.log_text(), TAKEN);
        assert_eq!(found, downloads);
    }
}
