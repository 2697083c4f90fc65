//! Replays a recorded session with a handler of your own, in virtual time.
//!
//! Without an argument it first records one: a job of a simulated GitLab, as HTTP archive.
//!
//! ```sh
//! cargo run --example replay_har                      # record, then replay
//! cargo run --example replay_har -- session.har       # one of yours, or of mitmproxy
//! cargo run --example replay_har -- session.har strict
//! ```

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use gitlab_runner::{
    JobHandler, JobResult, Phase, Runner, WallTime,
    adapter::{Adapter, Recording},
    har::{Har, HarServer, Mode},
    job::Job,
    mock::{JobSpec, MockGitlab},
    outputln,
    sim::Sim,
};

/// The handler: it takes ten seconds for each line of a script.
struct Lab(Job);

#[async_trait::async_trait]
impl JobHandler for Lab {
    async fn step(&mut self, script: &[String], phase: Phase) -> JobResult {
        println!(
            "  job {}: {phase:?} with {} lines",
            self.0.id(),
            script.len()
        );
        for line in script {
            outputln!("$ {line}");
            self.0.sleep(Duration::from_secs(10)).await;
        }
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let (path, is_ours) = match arguments.next() {
        Some(path) => (PathBuf::from(path), false),
        None => (record(&env::temp_dir().join("session.har"))?, true),
    };
    let is_strict = is_ours || arguments.next().is_some_and(|mode| mode == "strict");
    let mode = if is_strict {
        Mode::Strict
    } else {
        Mode::Lenient
    };
    replay(&path, mode)
}

/// Runs one job on an adapter that is recorded. A live adapter is wrapped in the same way.
fn record(path: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let sim = Sim::new(1);
    let mut gitlab = MockGitlab::new(1);
    gitlab.add_runner("glrt-to-be-recorded");
    let job = JobSpec::script(["make", "make test"]).masked_variable("PASSWORD", "hunter2!");
    gitlab.enqueue(job);
    sim.serve("gitlab.example.com", gitlab);

    // The same archive each time.
    let clock = WallTime::default();
    let recording = Recording::new(sim.adapter()).wall_origin(clock);
    let mut runner = runner(Arc::new(recording.clone()), "glrt-to-be-recorded", clock)?;
    sim.block_on(async {
        runner.request_job(|job| async { Ok(Lab(job)) }).await?;
        runner.drain().await;
        Ok::<_, Box<dyn Error>>(())
    })?;
    let archive = recording.har().to_json();
    if archive.contains("hunter2!") || archive.contains("to-be-recorded") {
        return Err("a secret was recorded".into());
    }
    fs::write(path, archive)?;
    println!("recorded {}", path.display());
    Ok(path.to_owned())
}

fn replay(path: &Path, mode: Mode) -> Result<(), Box<dyn Error>> {
    let har = Har::parse(&fs::read(path)?)?;
    println!(
        "replaying {} entries of {} ({mode:?})",
        har.log.entries.len(),
        path.display()
    );
    let sim = Sim::builder(1)
        .latency(Duration::ZERO..=Duration::ZERO)
        .build();
    let gitlab = sim.serve("*", HarServer::new(&har, mode)?);
    // The clock of then: dates in answers mean what they meant.
    let mut runner = runner(
        sim.adapter(),
        "glrt-any-token",
        har.began().unwrap_or_default(),
    )?;
    let handle = runner.handle();
    sim.block_on(async {
        let over = async {
            while !gitlab.with(|gitlab, _| gitlab.is_over()) {
                sim.sleep(Duration::from_secs(1)).await;
            }
            handle.abort();
        };
        let run = runner.run(|job| async { Ok(Lab(job)) }, 1);
        futures::join!(run, over).0
    })?;
    println!("it took {} of virtual time", sim.now());
    gitlab.with(|gitlab, _| {
        for difference in gitlab.differences() {
            println!("difference: {difference}");
        }
        println!(
            "{} requests; entries not asked for: {:?}",
            gitlab.requests(),
            gitlab.left()
        );
        // Says which request was another one than the recorded, and shows both side by side.
        gitlab.verdict().map_err(|mismatch| {
            println!("{mismatch}");
            "the runner asked something else than was recorded".into()
        })
    })
}

fn runner(
    adapter: Arc<dyn Adapter>,
    token: &str,
    clock: WallTime,
) -> Result<Runner, Box<dyn Error>> {
    let url = "https://gitlab.example.com".parse()?;
    let builds = env::temp_dir().join("replay-har-builds");
    let builder = Runner::builder(url, token, builds).adapter(adapter);
    let builder = builder.tune(move |config| config.wall_origin = clock);
    Ok(futures::executor::block_on(builder.build()))
}
