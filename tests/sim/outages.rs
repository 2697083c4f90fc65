//! A server that is gone for a quarter of an hour: what it costs, and how soon all is well again.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use gitlab_runner::{
    JobHandler, JobId, JobResult, Phase, Runner, Time,
    job::Job,
    mock::{Answer, HoldId, JobSpec, MockGitlab, Server},
    outputln,
    sim::Sim,
};
use http::{Request, Response};

use crate::world::TOKEN;

const JOBS: usize = 5;
const FROM: Time = Time::from_secs(100);
const TO: Time = Time::from_secs(1000);
const MINUTE: u64 = 60;
/// Beyond those of the mock.
const NEVER: HoldId = HoldId::new(u64::MAX);

/// What becomes of requests while the server is gone.
#[derive(Clone, Copy, Debug)]
enum Gone {
    Closed,
    Silent,
    Unavailable,
    RateLimited,
}

struct Outage {
    gitlab: MockGitlab,
    gone: Gone,
    /// Requests in each minute of the outage, by what comes behind `jobs/`.
    seen: BTreeMap<(String, u64), usize>,
}

impl Server for Outage {
    fn handle(&mut self, now: Time, request: Request<Bytes>) -> Answer {
        if now < FROM || now >= TO {
            return self.gitlab.handle(now, request);
        }
        let path = request.uri().path();
        let of = path.split("/jobs/").nth(1).unwrap_or("the runner");
        let of = of.split('/').next().unwrap_or_default().to_owned();
        let minute = now.since(FROM).as_secs() / MINUTE;
        *self.seen.entry((of, minute)).or_default() += 1;
        let status = match self.gone {
            Gone::Closed => return Answer::Close,
            Gone::Silent => return Answer::Hold(NEVER),
            Gone::Unavailable => 503,
            Gone::RateLimited => 429,
        };
        let reply = Response::builder().status(status);
        Answer::Reply(reply.body(Bytes::from_static(b"<html>")).unwrap())
    }

    fn poll_answer(&mut self, now: Time) -> Option<(HoldId, Answer)> {
        self.gitlab.poll_answer(now)
    }

    fn poll_timeout(&self) -> Option<Time> {
        self.gitlab.poll_timeout()
    }

    fn drop_hold(&mut self, hold: HoldId) {
        if hold != NEVER {
            self.gitlab.drop_hold(hold);
        }
    }
}

/// Writes a line each second, with the time.
struct Ticks(Job);

#[async_trait::async_trait]
impl JobHandler for Ticks {
    async fn step(&mut self, _: &[String], _: Phase) -> JobResult {
        while self.0.now() < TO + Duration::from_secs(200) {
            outputln!("{}", self.0.now().since_origin().as_secs());
            self.0.sleep(Duration::from_secs(1)).await;
        }
        Ok(())
    }
}

fn last_line(gitlab: &MockGitlab, job: JobId) -> u64 {
    let log = gitlab.report(job).unwrap().log_text();
    let last = log.lines().next_back().and_then(|line| line.parse().ok());
    last.unwrap_or(0)
}

fn run(gone: Gone) {
    let sim = Sim::new(900);
    let mut gitlab = MockGitlab::new(900);
    gitlab.add_runner(TOKEN);
    let jobs: Vec<JobId> = (0..JOBS)
        .map(|_| {
            let job = gitlab.enqueue(JobSpec::script(["tick"]).timeout(7200));
            // Somebody looks, so the log comes every 3 s.
            gitlab.watch(job, true);
            job
        })
        .collect();
    let server = Outage {
        gitlab,
        gone,
        seen: BTreeMap::new(),
    };
    let server = sim.serve("gitlab.example.test", server);
    let dir = tempfile::tempdir().unwrap();
    let mut runner = Runner::with_adapter(
        "https://gitlab.example.test".parse().unwrap(),
        TOKEN.to_owned(),
        dir.path().to_owned(),
        sim.adapter(),
    );
    let handle = runner.handle();
    sim.block_on(async {
        let watch = async {
            sim.sleep(TO.since_origin()).await;
            let late = match gone {
                // A request that was sent just before nobody hears any more, which takes a minute.
                Gone::Silent => 5,
                // A minute, with jitter.
                Gone::RateLimited => 15,
                _ => 0,
            };
            sim.sleep(Duration::from_secs(60 + late)).await;
            server.with(|it, _| {
                for job in &jobs {
                    let last = last_line(&it.gitlab, *job);
                    let written = TO.since_origin().as_secs();
                    assert!(last >= written, "{gone:?}: {job} is at {last} of {written}");
                }
            });
            handle.drain();
        };
        let (result, ()) = futures::join!(runner.run(|job| async { Ok(Ticks(job)) }, 50), watch);
        result.unwrap();
    });
    server.with(|it, _| {
        for ((of, minute), count) in &it.seen {
            let most = if of == "request" { 10 } else { 6 };
            assert!(
                *count <= most,
                "{gone:?}: {count} for {of} in minute {minute}"
            );
        }
        for job in jobs {
            let report = it.gitlab.report(job).unwrap();
            assert_eq!(report.checksum_matches(), Some(true), "{gone:?}");
            assert_eq!(report.status.as_str(), "success", "{gone:?}");
        }
    });
}

#[test]
fn a_server_that_is_gone_costs_little_and_is_served_at_once_when_it_is_back() {
    for gone in [Gone::Closed, Gone::Silent, Gone::Unavailable] {
        run(gone);
    }
}

#[test]
fn a_server_that_limits_everything_is_left_alone() {
    run(Gone::RateLimited);
}
