//! A runner on a recorded adapter, before a simulated GitLab or a recording.

use std::{fs, future::Future, path::PathBuf, sync::Arc, time::Duration};

use futures::FutureExt;
use gitlab_runner::{
    JobId, RunErrorKind, Runner, Time, WallTime,
    adapter::Recording,
    har::{Har, HarServer, Mismatch, Mode},
    mock::{JobSpec, MockGitlab},
    sim::{ServerHandle, Sim},
};
use tempfile::TempDir;
use url::Url;

use crate::handler::Actor;

pub(crate) const TOKEN: &str = "glrt-t1_recordedrunner00";
pub(crate) const SECOND: Duration = Duration::from_secs(1);
const HOST: &str = "gitlab.example.test";
/// 2026-03-01, 10:00.
const ORIGIN: WallTime = WallTime(Duration::from_secs(1_772_359_200));

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) har: Har,
    pub(crate) end: Result<(), RunErrorKind>,
}

pub(crate) fn recording(sim: &Sim) -> Recording {
    Recording::new(sim.adapter()).wall_origin(ORIGIN)
}

/// Runs a runner with the [`Actor`] until `over`, and then stops it.
pub(crate) fn run(
    sim: &Sim,
    recording: &Recording,
    token: &str,
    over: impl Future<Output = ()>,
) -> Ran {
    run_many(sim, recording, token, 1, over)
}

/// The same with so many jobs at a time.
pub(crate) fn run_many(
    sim: &Sim,
    recording: &Recording,
    token: &str,
    capacity: usize,
    over: impl Future<Output = ()>,
) -> Ran {
    let dir = tempfile::tempdir().unwrap();
    let mut runner = runner(recording, token, &dir);
    let handle = runner.handle();
    let end = sim.block_on(async {
        let over = async {
            over.await;
            handle.abort();
        };
        let run = runner.run(|job| async { Ok(Actor::new(job)) }, capacity);
        futures::join!(run, over).0
    });
    Ran {
        har: recording.har(),
        end: end.map_err(|error| error.kind()),
    }
}

fn runner(recording: &Recording, token: &str, dir: &TempDir) -> Runner {
    let url: Url = format!("https://{HOST}").parse().unwrap();
    Runner::builder(url, token, dir.path())
        .adapter(Arc::new(recording.clone()))
        .system_id("s_0123456789ab")
        .seed(7)
        // Times are in artifacts.
        .tune(|config| config.wall_origin = ORIGIN)
        .build()
        .now_or_never()
        .unwrap()
}

/// A GitLab to be recorded.
pub(crate) struct Stage {
    pub(crate) sim: Sim,
    pub(crate) gitlab: ServerHandle<MockGitlab>,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let sim = Sim::builder(7)
            .latency(5 * SECOND / 1000..=40 * SECOND / 1000)
            .build();
        let mut gitlab = MockGitlab::new(7);
        gitlab.add_runner(TOKEN);
        gitlab.settings_mut().external_url = format!("https://{HOST}");
        let gitlab = sim.serve(HOST, gitlab);
        Self { sim, gitlab }
    }

    pub(crate) fn enqueue(&self, spec: JobSpec) -> JobId {
        self.gitlab.with(|gitlab, now| {
            gitlab.advance(now);
            gitlab.enqueue(spec)
        })
    }

    pub(crate) async fn sleep(&self, seconds: u32) {
        self.sim.sleep(seconds * SECOND).await;
    }

    pub(crate) async fn finished(&self, job: JobId) {
        let finished = || {
            self.gitlab
                .with(|it, _| it.report(job).unwrap().is_finished())
        };
        for _ in 0..3600 {
            if finished() {
                // For the reply to arrive.
                return self.sleep(1).await;
            }
            self.sleep(1).await;
        }
        panic!("job {job} did not end in an hour");
    }
}

/// What came of a replay.
#[derive(Debug)]
pub(crate) struct Replayed {
    pub(crate) ran: Ran,
    pub(crate) verdict: Result<(), Mismatch>,
    pub(crate) differences: Vec<String>,
    pub(crate) left: Vec<usize>,
    pub(crate) took: Duration,
}

pub(crate) fn replay(har: &Har, mode: Mode) -> Replayed {
    replay_as(har, mode, TOKEN)
}

pub(crate) fn replay_as(har: &Har, mode: Mode, token: &str) -> Replayed {
    replay_many(har, mode, token, 1)
}

pub(crate) fn replay_many(har: &Har, mode: Mode, token: &str, capacity: usize) -> Replayed {
    let sim = Sim::builder(99)
        .latency(Duration::ZERO..=Duration::ZERO)
        .build();
    let gitlab = sim.serve("*", HarServer::new(har, mode).unwrap());
    let recording = recording(&sim);
    let over = async {
        for _ in 0..86_400 {
            if gitlab.with(|gitlab, _| gitlab.is_over()) {
                return;
            }
            sim.sleep(SECOND).await;
        }
    };
    let ran = run_many(&sim, &recording, token, capacity, over);
    let took = sim.now().since(Time::ZERO);
    gitlab.with(|gitlab, _| Replayed {
        ran,
        verdict: gitlab.verdict(),
        differences: gitlab.differences().to_vec(),
        left: gitlab.left(),
        took,
    })
}

pub(crate) fn path(name: &str) -> PathBuf {
    let sessions = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/replay/sessions");
    PathBuf::from(sessions).join(format!("{name}.har"))
}

pub(crate) fn session(name: &str) -> Har {
    Har::parse(&fs::read(path(name)).unwrap()).unwrap()
}
