//! `request_job`, and what goes over the wire at the start.

use std::time::Duration;

use bytes::Bytes;
use futures::future::{Either, select};
use gitlab_runner::{
    RunErrorKind, Runner, Time,
    job::Job,
    mock::{Answer, Endpoint, JobSpec, JobStatus, Override, Server},
    outputln,
};
use http::{Request, Response};
use serde_json::json;

use crate::world::{Steps, TOKEN, World};

async fn process(job: Job) -> Result<Steps, ()> {
    Ok(Steps::new(job, |job, _| async move {
        outputln!("begun");
        job.sleep(Duration::from_secs(30)).await;
        Ok(())
    }))
}

#[test]
fn a_request_tells_whether_there_was_a_job() {
    let world = World::new(50);
    let mut runner = world.runner();
    world.sim.block_on(async {
        assert!(!runner.request_job(process).await.unwrap());
        assert_eq!(runner.running(), 0);
        let job = world.enqueue(JobSpec::script(["true"]));
        assert!(runner.request_job(process).await.unwrap());
        assert_eq!(runner.running(), 1);
        runner.drain().await;
        assert_eq!(world.report(job).status, JobStatus::Success);
    });
}

#[test]
fn a_request_that_failed_says_why() {
    let world = World::new(51);
    let mut runner = world.runner();
    let plan = |fault| {
        world
            .gitlab
            .with(|it, _| it.plan(Endpoint::JobRequest, 1, fault))
    };
    world.sim.block_on(async {
        for (fault, kind, text) in [
            (Override::Status(503), RunErrorKind::Server, "503"),
            (Override::Html(502), RunErrorKind::Server, "502"),
            (
                Override::CloseBefore,
                RunErrorKind::Network,
                "without a reply",
            ),
            (Override::Status(403), RunErrorKind::TokenRefused, "glrt-"),
        ] {
            plan(fault);
            let error = runner.request_job(process).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(text), "{error}");
        }
        // And it goes on.
        assert!(!runner.request_job(process).await.unwrap());
    });
}

#[test]
fn a_request_that_nobody_awaits_is_not_sent() {
    let world = World::new(58);
    let mut runner = world.runner();
    world.sim.block_on(async {
        world
            .gitlab
            .with(|it, _| it.plan(Endpoint::JobRequest, 1, Override::RetryAfter(300)));
        runner.request_job(process).await.unwrap_err();
        // This one has to wait for five minutes, and is given up before.
        let given_up = select(
            Box::pin(runner.request_job(process)),
            world.sim.adapter().sleep_until(Time::from_secs(100)),
        );
        assert!(matches!(given_up.await, Either::Right(_)));
        let job = world.enqueue(JobSpec::script(["true"]));
        world.sim.sleep(Duration::from_secs(1000)).await;
        assert_eq!(world.report(job).status, JobStatus::Pending);
        // The next one gets its own answer.
        assert!(runner.request_job(process).await.unwrap());
        runner.drain().await;
        assert_eq!(world.report(job).status, JobStatus::Success);
    });
}

#[test]
fn a_job_that_comes_when_nobody_awaits_it_is_run() {
    let world = World::slow(59, Duration::from_secs(2));
    let mut runner = world.runner();
    let job = world.enqueue(JobSpec::script(["true"]));
    world.sim.block_on(async {
        let given_up = select(
            Box::pin(runner.request_job(process)),
            // The token is verified by then, and the request on its way.
            world.sim.adapter().sleep_until(Time::from_secs(5)),
        );
        assert!(matches!(given_up.await, Either::Right(_)));
        runner.drain().await;
    });
    let report = world.report(job);
    assert_eq!(report.status, JobStatus::Success);
    assert_eq!(report.log_text(), "begun\n");
}

#[test]
fn a_payload_that_is_no_json_is_an_error() {
    let world = World::new(52);
    world.enqueue(JobSpec::script(["true"]).raw_payload("<html>surprise</html>"));
    let mut runner = world.runner();
    world.sim.block_on(async {
        let error = runner.request_job(process).await.unwrap_err();
        assert_eq!(error.kind(), RunErrorKind::Server, "{error}");
        assert!(!error.to_string().contains("surprise"), "{error}");
        assert_eq!(runner.running(), 0);
    });
}

#[test]
fn a_payload_that_cannot_be_understood_is_reported() {
    let world = World::new(53);
    let spec = JobSpec::script(["true"]).payload_override(|it| it["steps"] = json!("surprise"));
    let job = world.enqueue(spec);
    let other = world.enqueue(JobSpec::script(["true"]).payload_override(|payload| {
        payload["steps"] = json!([]);
    }));
    let mut runner = world.runner();
    world.sim.block_on(async {
        assert!(runner.request_job(process).await.unwrap());
        assert!(runner.request_job(process).await.unwrap());
        runner.drain().await;
    });
    let report = world.report(job);
    assert_eq!(report.status, JobStatus::Failed);
    assert_eq!(
        report.failure_reason.as_deref(),
        Some("runner_system_failure")
    );
    assert!(
        report.log_text().contains("cannot be understood"),
        "{}",
        report.log_text()
    );
    let report = world.report(other);
    assert_eq!(report.status, JobStatus::Failed);
    assert!(
        report.log_text().contains("no script"),
        "{}",
        report.log_text()
    );
    assert!(world.is_empty());
}

#[test]
fn there_is_space_when_gitlab_knows_that_a_job_has_ended() {
    let world = World::new(54);
    let jobs: Vec<_> = (0..3)
        .map(|_| world.enqueue(JobSpec::script(["true"])))
        .collect();
    let mut runner = world.runner();
    world.sim.block_on(async {
        runner.wait_for_space(1).await;
        for _ in &jobs {
            assert!(runner.request_job(process).await.unwrap());
        }
        assert_eq!(runner.running(), 3);
        runner.wait_for_space(4).await;
        assert_eq!(runner.running(), 3);
        runner.wait_for_space(3).await;
        assert!(runner.running() < 3);
        let finished = |job: &&_| world.report(**job).is_finished();
        assert!(jobs.iter().filter(finished).count() > 0);
        // Nobody would ever see less than no job.
        runner.wait_for_space(0).await;
        assert_eq!(jobs.iter().filter(finished).count(), 3);
        assert_eq!(runner.running(), 0);
    });
}

#[test]
fn a_job_is_committed_to_unless_switched_off() {
    for commit in [true, false] {
        let world = World::new(55);
        let job = world.enqueue(JobSpec::script(["true"]));
        let mut runner = world.build(world.builder().two_phase_commit(commit).verify(commit));
        world.sim.block_on(async {
            assert!(runner.request_job(process).await.unwrap());
            runner.drain().await;
        });
        let report = world.report(job);
        assert_eq!(report.status, JobStatus::Success);
        let first = &report.requests[0];
        assert_eq!(first.method == "PUT", commit, "{first:?}");
        let requests: Vec<_> = world.gitlab.with(|it, _| it.requests().cloned().collect());
        assert_eq!(
            requests[0].path.ends_with("/runners/verify"),
            commit,
            "{requests:?}"
        );
    }
}

#[test]
fn the_runner_shows_who_it_is() {
    let world = World::new(56);
    let builder = world
        .builder()
        .version(format!("1{}", "é".repeat(4000)))
        .revision("abc")
        .platform("linux")
        .architecture("amd64")
        .system_id(format!("a{}", "é".repeat(40)));
    let mut runner = world.build(builder);
    world
        .sim
        .block_on(async { assert!(!runner.request_job(process).await.unwrap()) });
    world.gitlab.with(|gitlab, _| {
        let manager = gitlab.managers(world.number).next().unwrap();
        assert_eq!(manager.system_id, format!("a{}", "é".repeat(31)));
        let info = &manager.info;
        assert_eq!(info["version"].as_str().unwrap().len(), 2047);
        assert_eq!(info["platform"], "linux");
        assert_eq!(info["name"], "gitlab-runner-rs");
    });
}

/// Turns everybody away, and remembers who it was.
#[derive(Default)]
struct Doorman(Vec<String>);

impl Server for Doorman {
    fn handle(&mut self, _: Time, request: Request<Bytes>) -> Answer {
        let agent = request.headers().get("User-Agent");
        let agent = agent.map_or("", |it| it.to_str().unwrap());
        self.0.push(agent.to_owned());
        let refusal = Response::builder().status(403);
        Answer::Reply(refusal.body(Bytes::new()).unwrap())
    }
}

#[test]
fn one_may_put_a_name_before_that_of_the_crate() {
    let own = concat!("gitlab-runner-rs ", env!("CARGO_PKG_VERSION"));
    for (prefix, wanted) in [
        (None, own.to_owned()),
        (Some("lab/1.2"), format!("lab/1.2 {own}")),
        // No header can hold that.
        (Some("lab\n1.2"), String::new()),
    ] {
        let world = World::new(57);
        let door = world.sim.serve("door.example.test", Doorman::default());
        let url = "https://door.example.test".parse().unwrap();
        let builder = Runner::builder(url, TOKEN, world.dir.path()).adapter(world.sim.adapter());
        let builder = match prefix {
            Some(prefix) => builder.user_agent(prefix),
            None => builder,
        };
        let mut runner = world.build(builder);
        world.sim.block_on(async {
            assert!(runner.request_job(process).await.is_err());
        });
        door.with(|door, _| assert_eq!(door.0, [wanted]));
    }
}
