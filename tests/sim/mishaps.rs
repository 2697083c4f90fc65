//! One mishap each, as `docs/compatibility.md` numbers them: what goes wrong with a request, and
//! that neither a byte of the log nor the end of the job is lost by it.

use std::time::Duration;

use bytes::Bytes;
use gitlab_runner::{
    JobId, Time,
    job::Job,
    mock::{
        Answer, Endpoint, HoldId, JobReport, JobSpec, JobStatus, MockGitlab, Override, Server,
        VerifyMode,
    },
    sim::ServerHandle,
};
use http::{Request, Response};
use serde_json::json;

use crate::world::{Steps, World};

const SECOND: Duration = Duration::from_secs(1);

/// Three chunks, four seconds apart.
async fn chunks(job: Job) -> Result<Steps, ()> {
    Ok(Steps::new(job, |job, _| async move {
        for chunk in ["A", "B", "C"] {
            job.trace(chunk);
            job.sleep(4 * SECOND).await;
        }
        Ok(())
    }))
}

/// Runs that job while this goes wrong, and sees to it that all of it happened.
fn run(plans: impl IntoIterator<Item = (Endpoint, u64, Override)>) -> JobReport {
    let world = World::new(200);
    world.gitlab.with(|gitlab, _| {
        for (endpoint, nth, fault) in plans {
            gitlab.plan(endpoint, nth, fault);
        }
    });
    let spec = JobSpec::script(["true"]);
    let job = world.enqueue(spec);
    // Somebody looks at the log, so it is sent every 3 seconds.
    world.gitlab.with(|gitlab, _| gitlab.watch(job, true));
    let mut runner = world.runner();
    world.sim.block_on(async {
        assert!(runner.request_job(chunks).await.unwrap());
        runner.drain().await;
    });
    world
        .gitlab
        .with(|gitlab, _| assert_eq!(gitlab.pending_plans(), 0));
    world.report(job)
}

fn answer(status: u16, headers: &[(&'static str, &'static str)]) -> Response<Bytes> {
    let mut answer = Response::builder().status(status);
    for (name, value) in headers {
        answer = answer.header(*name, *value);
    }
    answer.body(Bytes::new()).unwrap()
}

fn arrived(report: &JobReport) {
    assert_eq!(report.status, JobStatus::Success);
    assert_eq!(report.log_text(), "ABC");
    assert_eq!(report.checksum_matches(), Some(true));
    assert_eq!(report.bytesize_matches(), Some(true));
}

#[test]
fn no_answer_to_a_patch_costs_a_byte() {
    let faults = [
        Override::Status(500),
        Override::CloseBefore,
        Override::CloseAfter,
        Override::RetryAfter(20),
        Override::Html(502),
        Override::ReplyAfter(answer(502, &[])),
        Override::Status(412),
        Override::Reply(answer(416, &[("Range", "0-0")])),
        Override::Reply(answer(416, &[])),
    ];
    for fault in faults {
        for nth in 1..=3 {
            arrived(&run([(Endpoint::Trace, nth, fault.clone())]));
        }
    }
}

#[test]
fn a_rate_limit_of_patches_is_kept() {
    let report = run([(Endpoint::Trace, 1, Override::RetryAfter(20))]);
    arrived(&report);
    let patches = report.requests.iter().filter(|it| it.method == "PATCH");
    let at: Vec<Time> = patches.map(|it| it.at).collect();
    assert!(at[1].since(at[0]) >= 20 * SECOND, "{at:?}");
}

#[test]
fn a_server_that_lost_a_part_of_the_log_gets_it_once_more() {
    let world = World::new(201);
    let job = world.enqueue(JobSpec::script(["true"]));
    world.gitlab.with(|gitlab, _| gitlab.watch(job, true));
    let mut runner = world.runner();
    world.sim.block_on(async {
        assert!(runner.request_job(chunks).await.unwrap());
        world.sim.sleep(5 * SECOND).await;
        world.gitlab.with(|gitlab, _| gitlab.shrink_trace(job, 0));
        runner.drain().await;
    });
    let report = world.report(job);
    let refused = report.requests.iter().filter(|it| it.status == Some(416));
    assert_eq!(refused.count(), 1);
    arrived(&report);
}

#[test]
fn no_answer_to_the_final_update_leaves_the_job_running() {
    let faults = [
        Override::Status(500),
        Override::Html(503),
        Override::CloseBefore,
        Override::CloseAfter,
        Override::Reply(answer(202, &[])),
        Override::Status(412),
        Override::RetryAfter(30),
    ];
    for fault in faults {
        let again = [1, 2].map(|nth| (Endpoint::FinalUpdate, nth, fault.clone()));
        let report = run(again);
        arrived(&report);
        assert_eq!(report.statuses().last(), Some(&JobStatus::Success));
    }
}

/// A GitLab that does not answer some of the requests.
struct Silent {
    gitlab: MockGitlab,
    /// Of the requests with this method, and this in their path, so many are answered, and so many
    /// of the following are not.
    method: &'static str,
    path: &'static str,
    answers: u32,
    silences: u32,
    dropped: u32,
}

const SILENCE: HoldId = HoldId::new(u64::MAX);

impl Server for Silent {
    fn handle(&mut self, now: Time, request: Request<Bytes>) -> Answer {
        let path = request.uri().path();
        let hit = request.method().as_str() == self.method && path.contains(self.path);
        if hit && self.answers > 0 {
            self.answers -= 1;
        } else if hit && self.silences > 0 {
            self.silences -= 1;
            return Answer::Hold(SILENCE);
        }
        self.gitlab.handle(now, request)
    }

    fn poll_answer(&mut self, now: Time) -> Option<(HoldId, Answer)> {
        self.gitlab.poll_answer(now)
    }

    fn poll_timeout(&self) -> Option<Time> {
        self.gitlab.poll_timeout()
    }

    fn drop_hold(&mut self, hold: HoldId) {
        if hold == SILENCE {
            self.dropped += 1;
        } else {
            self.gitlab.drop_hold(hold);
        }
    }
}

/// Runs the job at a server that is silent for a while.
fn run_silent(method: &'static str, path: &'static str, answers: u32) -> JobReport {
    let world = World::new(202);
    let mut gitlab = MockGitlab::new(202);
    gitlab.add_runner(crate::world::TOKEN);
    let job = gitlab.enqueue(JobSpec::script(["true"]));
    let silent: ServerHandle<Silent> = world.sim.serve(
        "silent.example.test",
        Silent {
            gitlab,
            method,
            path,
            answers,
            silences: 2,
            dropped: 0,
        },
    );
    let builder = gitlab_runner::Runner::builder(
        "https://silent.example.test".parse().unwrap(),
        crate::world::TOKEN,
        world.dir.path(),
    );
    let mut runner = world.build(builder.adapter(world.sim.adapter()));
    let handle = runner.handle();
    world.sim.block_on(async {
        let finished = async {
            world
                .until(|| silent.with(|it, _| it.gitlab.report(job).unwrap().is_finished()))
                .await;
            handle.drain();
        };
        let (result, ()) = futures::join!(runner.run(chunks, 1), finished);
        result.unwrap();
        assert_eq!(runner.running(), 0);
    });
    silent.with(|it, _| {
        assert_eq!((it.silences, it.dropped), (0, 2));
        it.gitlab.report(job).unwrap().clone()
    })
}

#[test]
fn a_server_that_does_not_answer_is_asked_again() {
    // The first is the commit.
    arrived(&run_silent("PUT", "jobs/", 1));
    arrived(&run_silent("PATCH", "/trace", 0));
    arrived(&run_silent("POST", "jobs/request", 0));
}

/// When a job was asked for.
fn polls(world: &World) -> Vec<Time> {
    world.gitlab.with(|gitlab, _| {
        let polls = gitlab
            .requests()
            .filter(|it| it.path.ends_with("/jobs/request"));
        polls.map(|it| it.at).collect()
    })
}

#[test]
fn who_is_turned_away_asks_less_often() {
    let refusals = [
        (Override::RetryAfter(60), 10, 11),
        (Override::Status(403), 1, 8),
        (Override::Html(503), 5, 20),
    ];
    for (refusal, least, most) in refusals {
        let world = World::new(203);
        world.gitlab.with(|gitlab, _| {
            for _ in 0..1000 {
                gitlab.plan(Endpoint::JobRequest, 1, refusal.clone());
            }
        });
        let mut runner = world.runner();
        let over = world.sim.sleep(600 * SECOND);
        world.sim.block_on(async {
            let run = runner.run(chunks, 4);
            assert!(crate::world::run_until(run, over).await.is_none());
        });
        let asked = polls(&world);
        assert!(
            (least..=most).contains(&asked.len()),
            "{refusal:?}: {asked:?}"
        );
    }
}

#[test]
fn a_long_log_goes_in_small_pieces_when_the_server_is_slow() {
    let world = World::slow(204, 20 * SECOND);
    let report = world.run_job(JobSpec::script(["true"]), |job, _| async move {
        let line = [b'x'; 1024];
        for _ in 0..(24 << 10) {
            job.trace(line);
        }
        Ok(())
    });
    assert_eq!(report.log.len(), 24 << 20);
    let largest = report.requests.iter().map(|it| it.body_len).max();
    assert_eq!(largest, Some(1 << 20));
}

/// A job of which GitLab wants to hear no more.
fn ended(meddle: impl FnOnce(&mut MockGitlab, JobId)) -> (Duration, String) {
    let world = World::new(205);
    let job = world.enqueue(JobSpec::script(["true"]).after_script(["true"]));
    let mut runner = world.runner();
    world.sim.block_on(async {
        let process = |job| async {
            Ok(Steps::new(job, |job, _| async move {
                job.trace("begun\n");
                job.sleep(7200 * SECOND).await;
                job.trace("never\n");
                Ok(())
            }))
        };
        assert!(runner.request_job(process).await.unwrap());
        world.sim.sleep(SECOND).await;
        let start = world.sim.now();
        world.gitlab.with(|gitlab, _| meddle(gitlab, job));
        runner.drain().await;
        let took = world.sim.now().since(start);
        assert!(world.is_empty());
        (took, world.report(job).log_text().into_owned())
    })
}

#[test]
fn a_job_that_gitlab_has_ended_is_not_worked_on() {
    for status in [403, 404] {
        let (took, log) = ended(|gitlab, job| {
            for _ in 0..100 {
                let gone = Override::Status(status);
                gitlab.plan_for_job(job, Endpoint::Any, 1, gone);
            }
        });
        assert!(took <= 180 * SECOND, "{status}: {took:?}");
        assert!(!log.contains("never"), "{log}");
    }
    let (took, _) = ended(|gitlab, job| {
        gitlab.drop_job(job, "stuck_or_timeout_failure");
    });
    assert!(took <= 60 * SECOND, "{took:?}");
    let (took, _) = ended(MockGitlab::erase);
    assert!(took <= 180 * SECOND, "{took:?}");
}

#[test]
fn a_cancel_is_noticed_while_the_job_says_nothing() {
    let world = World::new(206);
    let job = world.enqueue(JobSpec::script(["true"]));
    let mut runner = world.runner();
    world.sim.block_on(async {
        let process = |job| async {
            Ok(Steps::new(job, |job, _| async move {
                job.sleep(7200 * SECOND).await;
                Ok(())
            }))
        };
        assert!(runner.request_job(process).await.unwrap());
        let start = world.sim.now();
        world.gitlab.with(|gitlab, _| gitlab.cancel(job));
        runner.drain().await;
        assert!(world.sim.now().since(start) <= 31 * SECOND);
    });
    assert_eq!(world.report(job).status, JobStatus::Canceled);
}

#[test]
fn a_keep_alive_counts_from_when_it_was_sent() {
    let latency = 4 * SECOND;
    let world = World::slow(207, latency);
    let report = world.run_job(JobSpec::script(["true"]), |job, _| async move {
        job.sleep(100 * SECOND).await;
        Ok(())
    });
    let puts: Vec<_> = report.requests.iter().map(|it| it.at).collect();
    let pauses: Vec<_> = puts
        .windows(2)
        .map(|pair| pair[1].since(pair[0]).as_secs())
        .collect();
    assert_eq!(pauses[..3], [30, 30, 30], "{puts:?}");
}

#[test]
fn a_redirect_takes_no_token_along() {
    for (endpoint, status) in [
        (Endpoint::JobRequest, 302),
        (Endpoint::JobRequest, 307),
        (Endpoint::Trace, 307),
        (Endpoint::FinalUpdate, 307),
    ] {
        let world = World::new(208);
        let elsewhere = world.sim.serve("elsewhere.test", MockGitlab::new(1));
        let location = "https://elsewhere.test/api/v4/jobs/request";
        let redirect = answer(status, &[("Location", location)]);
        world
            .gitlab
            .with(|gitlab, _| gitlab.plan(endpoint, 1, Override::Reply(redirect)));
        let job = world.enqueue(JobSpec::script(["true"]));
        let mut runner = world.runner();
        let handle = runner.handle();
        world.sim.block_on(async {
            let finished = async {
                world.until_finished(job).await;
                handle.drain();
            };
            let (result, ()) = futures::join!(runner.run(chunks, 1), finished);
            result.unwrap();
        });
        arrived(&world.report(job));
        elsewhere.with(|gitlab, _| assert_eq!(gitlab.requests().count(), 0));
    }
}

#[test]
fn no_update_interval_stops_the_log() {
    for interval in ["0", "-1", "18446744073709551615", "3600", "soon"] {
        let world = World::new(209);
        let job = world.enqueue(JobSpec::script(["true"]));
        let odd = answer(202, &[("X-GitLab-Trace-Update-Interval", interval)]);
        world.gitlab.with(|gitlab, _| {
            gitlab.plan_for_job(job, Endpoint::KeepAlive, 1, Override::ReplyAfter(odd));
        });
        let mut runner = world.runner();
        world.sim.block_on(async {
            let process = |job| async {
                Ok(Steps::new(job, |job, _| async move {
                    job.trace("a line\n");
                    job.sleep(7200 * SECOND).await;
                    Ok(())
                }))
            };
            assert!(runner.request_job(process).await.unwrap());
            // The longest interval there is: a quarter of an hour.
            world.sim.sleep(910 * SECOND).await;
            assert_eq!(world.log(job), "a line\n", "{interval}");
            let start = world.sim.now();
            world.gitlab.with(|gitlab, _| gitlab.cancel(job));
            runner.drain().await;
            let took = world.sim.now().since(start);
            assert!(took <= 31 * SECOND, "{interval}: {took:?}");
        });
        let report = world.report(job);
        assert_eq!(report.status, JobStatus::Canceled, "{interval}");
        assert_eq!(report.log_text(), "a line\n", "{interval}");
    }
}

/// What a GitLab may send that a strict reader does not expect.
#[test]
fn no_surprise_in_a_payload_costs_the_job() {
    type Surprise = fn(&mut serde_json::Value);
    let surprises: [(&str, Surprise); 13] = [
        ("D4", |it| {
            let release = json!({ "name": "release", "script": ["true"], "timeout": 3600,
                "when": "on_success", "allow_failure": false });
            it["steps"].as_array_mut().unwrap().push(release);
        }),
        ("D5", |it| {
            it["artifacts"] = json!([{ "untracked": true, "paths": null,
                "artifact_type": "archive", "artifact_format": "zip" }]);
        }),
        ("D6", |it| {
            it["artifacts"] = json!([{ "paths": ["no-such-file"], "artifact_type": "archive",
                "artifact_format": "parquet" }]);
        }),
        ("D7", |it| {
            it["artifacts"] = json!([{ "paths": ["no-such-file"], "when": "at_night",
                "artifact_type": "archive", "artifact_format": "zip" }]);
        }),
        ("D8", |it| {
            drop(it.as_object_mut().unwrap().remove("dependencies"))
        }),
        ("D9", |it| {
            drop(it.as_object_mut().unwrap().remove("artifacts"))
        }),
        ("D8, D9", |it| {
            it["dependencies"] = json!(null);
            it["artifacts"] = json!(null);
        }),
        ("D10", |it| {
            let bare = json!({ "key": "BARE", "value": "x" });
            it["variables"].as_array_mut().unwrap().push(bare);
        }),
        ("D11", |it| it["steps"][0]["timeout"] = json!(null)),
        ("D12", |it| {
            let odd = json!({ "name": "odd", "script": ["true"], "when": "at_night" });
            it["steps"].as_array_mut().unwrap().push(odd);
        }),
        ("D14", |it| {
            it["dependencies"] = json!([{ "id": 1, "name": "build", "token": "t",
                "artifacts_file": { "filename": "artifacts.zip" } }]);
        }),
        ("no untracked", |it| {
            it["artifacts"] = json!([]);
        }),
        ("more of everything", |it| {
            it["new_in_gitlab_99"] = json!({ "a": [1, "b", null] });
            it["variables"][0]["new"] = json!(1.5);
        }),
    ];
    for (row, surprise) in surprises {
        let world = World::new(210);
        let spec = JobSpec::script(["true"]).payload_override(surprise);
        let report = world.run_job(spec, |job, _| async move {
            if job.current_step().as_deref() == Some("script") {
                job.trace("ABC");
            }
            Ok(())
        });
        assert!(report.log_text().starts_with("ABC"), "{row}");
        assert_eq!(report.status, JobStatus::Success, "{row}");
    }
}

#[test]
fn a_server_without_verification_is_not_committed_to() {
    let world = World::new(211);
    world.gitlab.with(|gitlab, _| {
        let settings = gitlab.settings_mut();
        settings.verify = VerifyMode::Missing;
        // It would take the job back if the runner had claimed to commit to it.
        settings.two_phase_commit = true;
    });
    let job = world.enqueue(JobSpec::script(["true"]));
    let mut runner = world.runner();
    world.sim.block_on(async {
        assert!(runner.request_job(chunks).await.unwrap());
        runner.drain().await;
    });
    let report = world.report(job);
    arrived(&report);
    let running = report
        .requests
        .iter()
        .filter(|it| it.state.as_deref() == Some("running"));
    assert_eq!(running.count(), 0);
}
